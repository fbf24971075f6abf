//! Common parts of the servers: accepting connections, and letting tests wait for requests.

use std::future::Future;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::clock::within;

/// Accepts connections until it is dropped, which ends all of them.
pub(crate) async fn accept<F>(listener: TcpListener, mut serve: impl FnMut(TcpStream) -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    // Dropped with this future, which ends all connections.
    let mut connections = JoinSet::new();
    loop {
        let Ok((socket, _)) = listener.accept().await else { continue };
        let _ = socket.set_nodelay(true);
        connections.spawn(serve(socket));
        while connections.try_join_next().is_some() {}
    }
}

/// Waits until `look` finds something in the journal.
///
/// # Panics
/// When that takes longer than [`within`] allows.
pub(crate) async fn found<J, T>(
    journal: &watch::Sender<J>,
    what: &str,
    mut look: impl FnMut(&J) -> Option<T>,
) -> T {
    let mut journal = journal.subscribe();
    let found = within(what, async {
        let mut found = None;
        let _ = journal
            .wait_for(|journal| {
                found = look(journal);
                found.is_some()
            })
            .await;
        found
    });
    found.await.expect("the journal lives as long as the server")
}
