//! A link to a server that fails on command.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Passes connections on, with faults on command. Dropping it stops new connections.
pub(super) struct Link {
    address: SocketAddr,
    cuts: watch::Sender<u64>,
    lose: Arc<AtomicBool>,
    accepting: JoinHandle<()>,
}

impl Link {
    pub(super) async fn start(server: SocketAddr) -> std::io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let cuts = watch::Sender::new(0);
        let lose = Arc::new(AtomicBool::new(false));
        let (orders, losing) = (cuts.clone(), lose.clone());
        let accepting = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let mut cut = orders.subscribe();
                let losing = losing.clone();
                tokio::spawn(async move {
                    tokio::select! {
                        _ = cut.changed() => {}
                        _ = pass(client, server, &losing) => {}
                    }
                });
            }
        });
        Ok(Self { address, cuts, lose, accepting })
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Cuts all connections.
    pub(super) fn cut(&self) {
        self.cuts.send_modify(|cuts| *cuts += 1);
    }

    /// Cuts a connection instead of passing on the next answer to a POST.
    pub(super) fn lose_an_answer(&self) {
        self.lose.store(true, Ordering::Release);
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn pass(mut client: TcpStream, server: SocketAddr, lose: &AtomicBool) -> std::io::Result<()> {
    let mut server = TcpStream::connect(server).await?;
    let (mut up, mut down) = (vec![0; 64 << 10], vec![0; 64 << 10]);
    let mut posted = false;
    loop {
        tokio::select! {
            read = client.read(&mut up) => {
                let read = read?;
                if read == 0 {
                    return Ok(());
                }
                let begins = |method: &[u8]| up[..read].starts_with(method);
                posted = begins(b"POST ") || (posted && !begins(b"GET ") && !begins(b"HEAD "));
                server.write_all(&up[..read]).await?;
            }
            read = server.read(&mut down) => {
                let read = read?;
                if read == 0 || (posted && lose.swap(false, Ordering::AcqRel)) {
                    return Ok(());
                }
                client.write_all(&down[..read]).await?;
            }
        }
    }
}
