//! One stream, many readers.

use futures_util::FutureExt;
use relay_client::{Client, Freshness, Pod, PodWatch};
use relay_testkit::{Conversation, Gate, Peer, RelayScript, Reply, within};

use super::options;

fn pod(name: &str, run: &str, version: u64) -> Pod {
    let builder = Conversation::sample_pod(name).to_builder();
    builder.labels([("run", run)]).resource_version(Some(&version.to_string())).build()
}

async fn watch(script: RelayScript) -> (Peer, PodWatch) {
    let peer = Peer::start(script).await;
    let watch = Client::builder(peer.url()).build().unwrap().stream_pod_state(options()).watch();
    (peer, watch)
}

#[tokio::test]
async fn readers_see_the_latest_and_wait_for_conditions() {
    let gate = Gate::new();
    let talk = Conversation::new("e").connected(1).catchup_complete().hold(&gate);
    let script = RelayScript::new("e")
        .seed(1, [&pod("a", "x", 1)])
        .stream(talk.pod("ADDED", &pod("b", "y", 2)).pod("ADDED", &pod("c", "y", 3)).silence());
    let (_peer, mut first) = watch(script).await;
    assert!(first.latest().is_none() && first.pods().is_empty());
    let mut readers: Vec<_> = (0..20).map(|_| first.clone()).collect();
    assert_eq!(within("a snapshot", first.changed()).await.unwrap().pods.len(), 1);
    gate.open();
    for reader in &mut readers {
        let pods = within("three pods", reader.wait_for(|pods| pods.len() == 3)).await.unwrap();
        assert_eq!(pods.group("run", "y").count(), 2);
    }
    assert_eq!(readers[0].freshness(), Freshness::Live);
    assert_eq!(readers[0].latest().unwrap().pods.len(), 3);
}

#[tokio::test]
async fn a_group_wakes_only_when_it_changed() {
    let (one, two) = (Gate::new(), Gate::new());
    let talk = Conversation::new("e")
        .connected(1)
        .catchup_complete()
        .hold(&one)
        .pod("MODIFIED", &pod("b", "y", 2))
        .hold(&two);
    let script = RelayScript::new("e")
        .seed(1, [&pod("a", "x", 1), &pod("b", "y", 1)])
        // The second moves from one group to the other: both changed.
        .stream(talk.pod("MODIFIED", &pod("a", "y", 3)).silence());
    let (_peer, mut all) = watch(script).await;
    within("the list", all.changed()).await.unwrap();
    let (mut x, mut y, mut z) = (all.group("run", "x"), all.group("run", "y"), all.group("run", "z"));
    one.open();
    within("a change of y", y.changed()).await.unwrap();
    assert!(x.changed().now_or_never().is_none(), "x did not change");
    two.open();
    within("a change of x", x.changed()).await.unwrap();
    within("a change of y", y.changed()).await.unwrap();
    assert!(z.changed().now_or_never().is_none());
    assert_eq!((x.pods().len(), y.pods().len()), (0, 2));
}

#[tokio::test]
async fn the_connection_closes_with_the_last_reader() {
    let script = RelayScript::new("e")
        .seed(1, [])
        .stream(Conversation::new("e").connected(1).catchup_complete().silence());
    let (peer, mut first) = watch(script).await;
    within("the list", first.changed()).await.unwrap();
    let second = first.clone();
    let group = second.group("run", "x");
    within("the stream", peer.connection(1)).await;
    drop((first, second));
    drop(group);
    within("the end of the connection", peer.closed(1)).await;
}

#[tokio::test]
async fn an_end_is_told_to_every_reader() {
    let script = RelayScript::new("e").seed(1, []).on("/events/stream", Reply::empty(404));
    let (_peer, mut reader) = watch(script).await;
    let mut early = reader.group("run", "x");
    let error = loop {
        if let Err(error) = within("the end", reader.changed()).await {
            break error;
        }
    };
    assert_eq!(error.status(), Some(404));
    for group in [&mut early, &mut reader.group("run", "x")] {
        assert_eq!(within("the end", group.changed()).await.unwrap_err().status(), Some(404));
    }
    assert!(within("the end", reader.wait_for(|pods| !pods.is_empty())).await.is_err());
    assert!(matches!(reader.freshness(), Freshness::Stale { .. }));
}
