//! The servers, each in a separate process.

use std::cell::Cell;
use std::io::{BufRead as _, BufReader};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use relay_durable::Client;
use relay_durable_server::{Config, Server};

/// `relay` is the server of this project, in memory. `crate` is the program of the crate `durable-streams`, in memory,
/// if `RELAY_BENCH_DURABLE_SERVER` names it.
pub(crate) const KINDS: [&str; 2] = ["relay", "crate"];

/// A running server. Dropping it ends it.
pub(crate) struct Running {
    child: Child,
    pub(crate) url: String,
    streams: Cell<u32>,
}

impl Running {
    /// `None` if there is no such program.
    pub(crate) fn start(kind: &str) -> Result<Option<Self>> {
        let (child, url) = if kind == "relay" {
            let mut command = Command::new(std::env::current_exe()?);
            command.arg("child-server").stdout(Stdio::piped());
            let mut child = command.spawn().context("cannot start the server")?;
            let mut line = String::new();
            BufReader::new(child.stdout.take().context("no output")?).read_line(&mut line)?;
            (child, line.trim().to_owned())
        } else {
            let Some(program) = std::env::var_os("RELAY_BENCH_DURABLE_SERVER") else { return Ok(None) };
            // The program does not print its port, so it gets a port that was free.
            let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
            let port_text = port.to_string();
            let mut command = Command::new(program);
            command.args(["--host", "127.0.0.1", "--port", &port_text, "--durability", "memory"]);
            let data = std::env::temp_dir().join(format!("relay-bench-durable-{port}"));
            command.arg("--data-dir").arg(data).stdout(Stdio::null()).stderr(Stdio::null());
            let child = command.spawn().context("cannot start the other server")?;
            let began = Instant::now();
            while TcpStream::connect(("127.0.0.1", port)).is_err() {
                ensure!(began.elapsed() < Duration::from_secs(10), "the other server does not listen");
                std::thread::sleep(Duration::from_millis(20));
            }
            (child, format!("http://127.0.0.1:{port}"))
        };
        Ok(Some(Self { child, url, streams: Cell::new(0) }))
    }

    pub(crate) fn client(&self) -> Result<Client> {
        Ok(Client::builder(&self.url).build()?)
    }

    /// A stream path that was not used before.
    pub(crate) fn fresh(&self, name: &str) -> String {
        self.streams.set(self.streams.get() + 1);
        format!("/{name}-{}", self.streams.get())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The server of this project, which runs until it is killed.
pub(crate) fn serve() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let server = Server::bind("127.0.0.1:0", Config::default()).await?;
        println!("http://{}", server.local_addr());
        server.run().await;
        Ok(())
    })
}
