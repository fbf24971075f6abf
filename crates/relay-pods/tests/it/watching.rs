//! One stream, many readers.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Wake, Waker};

use futures_util::FutureExt;
use relay_pods::{Client, Error, Freshness, Pod, PodWatch};
use relay_pods_server::{Config, Server, SimSource};
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
        assert_eq!(pods.group("run", "y").len(), 2);
    }
    assert_eq!(readers[0].freshness(), Freshness::Live);
    assert_eq!(readers[0].latest().unwrap().pods.len(), 3);
}

#[tokio::test]
async fn a_condition_is_met_by_what_is_live_and_not_by_what_was() {
    let (cut, back) = (Gate::new(), Gate::new());
    let talk = || Conversation::new("e");
    let script = RelayScript::new("e")
        .seed(1, [&pod("a", "x", 1)])
        .stream(talk().connected(1).catchup_complete().hold(&cut).cut())
        .stream(talk().hold(&back).connected(1).catchup_complete().silence());
    let (peer, mut reader) = watch(script).await;
    assert_eq!(within("a pod", reader.wait_for(|pods| pods.len() == 1)).await.unwrap().len(), 1);
    cut.open();
    peer.request_to("/events/stream", 1).await;
    // The reader has pods, but old ones. It also learns that they are still the same, although there is no new
    // snapshot.
    let mut waiting = Box::pin(reader.wait_for(|pods| pods.len() == 1));
    assert!(waiting.as_mut().now_or_never().is_none());
    back.open();
    assert_eq!(within("the same pod", waiting).await.unwrap().len(), 1);
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
        // The second event moves a pod from one group to the other, so both groups change.
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

/// Counts how often a watcher is woken.
#[derive(Default)]
struct Woken(AtomicUsize);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[tokio::test]
async fn of_a_thousand_watchers_those_are_woken_whose_group_changed() {
    const GROUPS: usize = 1000;
    type Changed = Pin<Box<dyn Future<Output = Result<(), Arc<Error>>>>>;
    let run = |n: usize| format!("d-{n}");
    let (move_one, change_one) = (Gate::new(), Gate::new());
    let pods: Vec<Pod> = (0..GROUPS).map(|n| pod(&format!("pod-{n}"), &run(n), 1)).collect();
    let talk = Conversation::new("e").connected(1).catchup_complete().hold(&move_one);
    // One pod moves from one group to another, and then a group with many watchers changes.
    let talk = talk.pod("MODIFIED", &pod("pod-3", &run(7), 2)).hold(&change_one);
    let talk = talk.pod("DELETED", &pod("pod-500", &run(500), 3)).silence();
    let (_peer, mut all) = watch(RelayScript::new("e").seed(1, &pods).stream(talk)).await;
    within("the list", all.changed()).await.unwrap();
    // There is one watcher per group, and a hundred more for one of the groups.
    let groups: Vec<usize> = (0..GROUPS).chain([500; 100]).collect();
    let mut watchers: Vec<(usize, Arc<Woken>, Changed)> = Vec::new();
    for &n in &groups {
        let mut group = all.group("run", &run(n));
        watchers.push((n, Arc::default(), Box::pin(async move { group.changed().await })));
    }
    for (_, woken, changed) in &mut watchers {
        let waker = Waker::from(woken.clone());
        assert!(changed.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    }
    let woken = |watchers: &[(usize, Arc<Woken>, Changed)]| -> Vec<(usize, usize)> {
        let counted = watchers.iter().map(|(n, woken, _)| (*n, woken.0.load(Ordering::Relaxed)));
        counted.filter(|(_, times)| *times > 0).collect()
    };
    move_one.open();
    within("the first event", all.changed()).await.unwrap();
    assert_eq!(woken(&watchers), [(3, 1), (7, 1)]);
    change_one.open();
    within("the second event", all.changed()).await.unwrap();
    let again: Vec<_> = [(3, 1), (7, 1), (500, 1)].into_iter().chain([(500, 1); 100]).collect();
    assert_eq!(woken(&watchers), again);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_tasks_need_one_stream() {
    let cluster = SimSource::default().seed(3).pods(40).rate(500.0);
    let server = Server::builder(Config::default()).source(cluster).bind("127.0.0.1:0").await.unwrap();
    let relay = server.handle();
    tokio::spawn(server.run(std::future::pending()));
    let client = Client::builder(format!("http://{}", relay.local_addr())).build().unwrap();
    let mut pods = client.stream_pod_state_with_replay(options()).watch();
    while !within("a snapshot", pods.changed()).await.unwrap().is_live() {}
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..20 {
        let mut pods = pods.clone();
        tasks.spawn(async move {
            pods.wait_for(|pods| pods.len() >= 30).await.unwrap();
            let runs: Vec<String> =
                pods.pods().group_by_label("run").iter().map(|(run, _)| run.into()).collect();
            // Half of them watch a group, the others watch all pods.
            let mut group = pods.group("run", &runs[n % runs.len()]);
            for _ in 0..20 {
                if n % 2 == 0 {
                    pods.changed().await.unwrap();
                } else {
                    futures_util::future::select(Box::pin(group.changed()), Box::pin(pods.changed())).await;
                }
            }
            pods.acknowledgement().is_some()
        });
    }
    let done = within("twenty tasks", tasks.join_all()).await;
    assert_eq!(done, [true; 20]);
    assert_eq!(relay.subscribers(), 1);
    let counted = pods.statistics();
    assert_eq!((counted.connections, counted.gaps, counted.holes), (1, 0, 0));
    assert_eq!(pods.freshness(), Freshness::Live);
    assert!(counted.head.is_some() && counted.lag.is_some());
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
