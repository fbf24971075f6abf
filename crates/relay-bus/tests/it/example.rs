use relay_bus::CancellationToken;
use relay_transport::server::{HttpServer, Settings};

use crate::harness::{Asking as _, object};

#[tokio::test]
async fn the_example_counts_what_its_channels_get() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("objects.yaml");
    std::fs::write(&file, object("Channel", "c", "") + &object("Channel", "d", "")).unwrap();
    let server = HttpServer::bind("127.0.0.1:0", Settings::default()).await.unwrap();
    let (address, stop) = (server.local_addr(), CancellationToken::new());
    let running = tokio::spawn(crate::bus_own::count(Some(file), server, stop.clone()));
    // The example has no `ready` signal: a channel is unknown until it is provisioned.
    while address.post("c.ns", "", "12345").await.0 == 404 {
        tokio::task::yield_now().await;
    }
    assert_eq!(address.post("c.ns", "", "678").await.0, 202);
    assert_eq!(address.post("e.ns", "", "678").await.0, 404);
    stop.cancel();
    let counted = running.await.unwrap().unwrap();
    let counts = counted.replace(|c: char| !c.is_ascii_digit() && c != ',', "");
    assert_eq!(
        counts.split(',').filter(|count| !count.is_empty()).collect::<Vec<_>>(),
        ["8", "0"],
        "{counted}"
    );
}
