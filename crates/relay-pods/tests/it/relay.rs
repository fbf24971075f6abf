//! The client with the real server, and with faults between them.

use std::collections::BTreeSet;

use futures_util::StreamExt;
use relay_pods::{Client, Filter, Phase};
use relay_pods_server::{Config, Handle, Scope, Server};
use relay_testkit::{Conversation, FaultLink, Faults, Oracle, within};

use super::{next, options};

async fn serve(config: Config) -> Handle {
    let server = Server::builder(config).bind("127.0.0.1:0").await.unwrap();
    let handle = server.handle();
    tokio::spawn(server.run(std::future::pending()));
    handle
}

async fn publish(server: &Handle, from: u64, events: u64) {
    let publisher = server.publisher();
    if from == 0 {
        publisher.relist(Scope::All, vec![]).await.unwrap();
    }
    for n in from..from + events {
        let pod = Conversation::sample_pod(&format!("pod-{}", n % 7));
        if n % 5 == 4 {
            publisher.delete(pod).await.unwrap();
        } else {
            publisher.upsert(pod.to_builder().resource_version(Some(&n.to_string())).build()).await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_the_link_does_nothing_is_lost() {
    for (name, faults) in [
        ("cuts", Faults::none().cut_every(40)),
        ("resets in the middle of bytes", Faults::none().cut_bytes(20_000).reset()),
        ("splits", Faults::none().split(7)),
        ("refusals and cuts", Faults::none().cut_every(60).refuse_one_in(3)),
    ] {
        let server = serve(Config::default()).await;
        publish(&server, 0, 500).await;
        let link = FaultLink::start(server.local_addr(), 11, faults).await;
        let client = Client::builder(link.url()).build().unwrap();
        let mut stream = client.stream_pod_state_with_replay(options());
        let mut seen = BTreeSet::new();
        let mut oracle = Oracle::fold([]);
        let mut published = 500;
        loop {
            let snapshot = next(&mut stream).await;
            assert!(snapshot.gap.is_none(), "{name}: no gap");
            if let Some(event) = &snapshot.event {
                assert!(seen.insert(event.sequence.unwrap()), "{name}: {} came twice", event.hash);
                oracle.apply(event);
            }
            let head = server.publisher().head();
            if seen.len() as u64 == head && snapshot.is_live() {
                if published == 1000 {
                    oracle.assert_same(snapshot.pods.iter());
                    break;
                }
                publish(&server, published, 100).await;
                published += 100;
            }
        }
        assert_eq!(
            seen.iter().copied().collect::<Vec<_>>(),
            (1..=server.publisher().head()).collect::<Vec<_>>(),
            "{name}"
        );
        let now = client.pods(&Filter::new()).await;
        if let Ok(list) = now {
            oracle.assert_same(&list.pods);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_that_comes_back_empty_is_a_gap_and_the_stream_goes_on() {
    let first = serve(Config::default()).await;
    publish(&first, 0, 20).await;
    let link = FaultLink::start(first.local_addr(), 1, Faults::none()).await;
    let client = Client::builder(link.url()).build().unwrap();
    let mut stream = client.stream_pod_state_with_replay(options());
    while !next(&mut stream).await.is_live() {}
    let address = first.local_addr();
    first.shutdown();
    link.cut_all();
    let second = within("the port", async {
        loop {
            if let Ok(server) = Server::builder(Config::default()).bind(address).await {
                break server;
            }
            tokio::task::yield_now().await;
        }
    })
    .await;
    let handle = second.handle();
    tokio::spawn(second.run(std::future::pending()));
    publish(&handle, 0, 9).await;
    let mut phases = Vec::new();
    loop {
        let snapshot = next(&mut stream).await;
        phases.push(snapshot.phase);
        if let Some(gap) = &snapshot.gap {
            assert_eq!(gap.reason.as_str(), "cursor-unknown");
        }
        if snapshot.is_live() {
            break;
        }
    }
    assert_eq!(phases[..2], [Phase::ReconnectReseed, Phase::GapReseed]);
    publish(&handle, 9, 1).await;
    let live = loop {
        let snapshot = next(&mut stream).await;
        if snapshot.phase == Phase::Live {
            break snapshot;
        }
    };
    assert_eq!(live.event.unwrap().sequence, Some(handle.publisher().head()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn filtered_streams_lose_nothing_either() {
    let server = serve(Config::default()).await;
    publish(&server, 0, 300).await;
    let link = FaultLink::start(server.local_addr(), 5, Faults::none().cut_every(15)).await;
    let client = Client::builder(link.url()).build().unwrap();
    let filter =
        Filter::new().namespace(Conversation::sample_pod("x").namespace()).unwrap().label("app").unwrap();
    let mut whole = client.stream_pod_state_with_replay(options());
    let mut narrowed = client.stream_pod_state_with_replay(options().filter(filter.clone()));
    let mut collected = [Vec::new(), Vec::new()];
    for (stream, into) in [&mut whole, &mut narrowed].into_iter().zip(&mut collected) {
        while let Some(snapshot) = stream.next().await {
            let snapshot = snapshot.unwrap();
            assert!(snapshot.gap.is_none());
            into.extend(snapshot.event.as_ref().filter(|e| filter.matches(&e.pod)).and_then(|e| e.sequence));
            if snapshot.is_live() {
                break;
            }
        }
    }
    assert!(!collected[0].is_empty());
    assert_eq!(collected[0], collected[1]);
}
