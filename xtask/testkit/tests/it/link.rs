//! The fault link in front of a scripted peer.

use std::time::Duration;

use relay_testkit::{Clock, Counters, FaultLink, Faults, Peer, Reply, Script, sse_event, within};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{ask, rest};

const EVENTS: u64 = 1000;

fn body() -> String {
    let events = (0..EVENTS).map(|n| sse_event("pod", Some(&n.to_string()), &"x".repeat(n as usize % 50)));
    events.map(|event| String::from_utf8(event.to_vec()).unwrap()).collect()
}

/// A peer that sends the same events to every client, some of them chunk by chunk.
async fn peer() -> Peer {
    let script = Script::new()
        .always("/s", Reply::sse().send(body()))
        .always("/chunked", Reply::sse().chunked().send_in(97, body()).cut())
        .always("/short", Reply::sse().send("data: 1\n\n"))
        .always("/list", Reply::new(200, "text/plain", "line\n\nline\n\n"));
    Peer::start(script).await
}

async fn link(peer: &Peer, seed: u64, faults: Faults) -> FaultLink {
    FaultLink::start(peer.addr(), seed, faults).await
}

/// What a client receives of one stream, without the head.
async fn stream(link: &FaultLink, path: &str) -> (String, bool) {
    let (text, clean) = within("the end of a stream", rest(&mut ask(link.addr(), path).await)).await;
    (text.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default(), clean)
}

#[tokio::test]
async fn without_faults_everything_passes() {
    let peer = peer().await;
    let link = link(&peer, 1, Faults::none()).await;
    assert_eq!(stream(&link, "/s").await, (body(), true));
    assert_eq!(peer.request(0).await.header("x-relay-token"), Some("secret"));
    stream(&link, "/chunked").await;
    let done = link.counters();
    assert_eq!((done.connections, done.events, done.cuts, done.pieces), (2, 2 * EVENTS, 0, 0));
    assert!(done.bytes_up > 0 && done.bytes_down > 2 * body().len() as u64);
}

#[tokio::test]
async fn cuts_come_after_the_given_number_of_events() {
    let peer = peer().await;
    let link = link(&peer, 7, Faults::none().cut_every(10)).await;
    let mut lengths = Vec::new();
    for _ in 0..40 {
        let (text, clean) = stream(&link, "/s").await;
        assert!(clean && body().starts_with(&text));
        assert_eq!(text.matches("\n\n").count(), 10, "whole events");
        lengths.push(text.len());
    }
    let done = link.counters();
    assert_eq!((done.cuts, done.events), (40, 400));
    assert!((5..35).contains(&done.cuts_inside), "{done:?}");
    let whole = *lengths.iter().min().unwrap();
    assert_eq!(lengths.iter().filter(|length| **length > whole).count() as u64, done.cuts_inside);

    let mut socket = ask(link.addr(), "/list").await;
    socket.write_all(b"GET /s HTTP/1.1\r\n\r\n").await.unwrap();
    let (text, _) = rest(&mut socket).await;
    assert!(text.contains("line\n\nline\n\n"), "only event streams count");

    let (text, _) = stream(&link, "/chunked").await;
    assert_eq!(text.matches("id: 9\r\n").count() + text.matches("id: 9\n").count(), 1);
    assert!(!text.contains("id: 11\n"), "chunks do not count");
}

#[tokio::test]
async fn the_same_seed_does_the_same() {
    let peer = peer().await;
    let mut runs: Vec<(Vec<String>, Counters)> = Vec::new();
    for seed in [5, 5, 6] {
        let link = link(&peer, seed, Faults::none().cut_every(7).split(20).refuse_one_in(4)).await;
        let mut texts = Vec::new();
        for _ in 0..20 {
            texts.push(stream(&link, "/s").await.0);
        }
        runs.push((texts, link.counters()));
    }
    assert!(runs[0] == runs[1], "the same seed");
    assert!(runs[0].0 != runs[2].0, "another seed");
    let done = runs[0].1;
    assert!(done.refused > 0 && done.cuts_inside > 0 && done.pieces > 0, "{done:?}");
}

#[tokio::test]
async fn cuts_by_bytes_and_by_resets() {
    let peer = peer().await;
    let link = link(&peer, 3, Faults::none().cut_bytes(500).reset()).await;
    let mut resets = 0;
    for _ in 0..20 {
        let (text, clean) = rest(&mut ask(link.addr(), "/s").await).await;
        assert!(text.len() <= 500);
        assert!(!clean || text.len() == 500);
        resets += u64::from(!clean);
    }
    let done = link.counters();
    assert!(resets > 0 && resets < 20 && done.resets == resets, "{resets} {done:?}");
    assert_eq!((done.cuts, done.bytes_down), (20, 20 * 500));
}

#[tokio::test]
async fn pieces_are_small_and_whole() {
    let peer = peer().await;
    let link = link(&peer, 2, Faults::none().split(3)).await;
    assert_eq!(stream(&link, "/s").await.0, body());
    let done = link.counters();
    assert!(done.pieces > done.bytes_down / 3 && done.pieces < done.bytes_down, "{done:?}");
}

#[tokio::test]
async fn stalls_and_slowness_take_virtual_time() {
    let peer = peer().await;
    let stalling = link(&peer, 2, Faults::none().stall(100, Duration::from_secs(60))).await;
    let slow = link(&peer, 2, Faults::none().slow(100)).await;
    let clock = Clock::freeze();
    let (text, _) = clock.run(Duration::from_secs(30), stream(&stalling, "/s")).await;
    assert_eq!(text, body());
    assert_eq!(stalling.counters().stalls, 10);
    assert!(clock.elapsed() >= Duration::from_secs(600), "{clock:?}");

    let before = clock.elapsed();
    let (text, _) = clock.run(Duration::from_millis(100), stream(&slow, "/short")).await;
    assert_eq!(text, "data: 1\n\n");
    let took = (clock.elapsed() - before).as_secs_f64();
    let least = slow.counters().bytes_down as f64 / 100.0;
    assert!(slow.counters().waits > 0 && (least - 0.1..least * 9.0).contains(&took), "{took} s for {least}");
}

#[tokio::test]
async fn a_hang_and_a_cut_of_all() {
    let peer = peer().await;
    let link = link(&peer, 2, Faults::none().hang_every(5)).await;
    let mut socket = ask(link.addr(), "/s").await;
    let mut seen = Vec::new();
    while seen.windows(2).filter(|pair| *pair == b"\n\n").count() < 5 {
        assert!(socket.read_buf(&mut seen).await.unwrap() > 0);
    }
    let clock = Clock::freeze();
    let read = tokio::time::timeout(Duration::from_secs(3600), socket.read_u8());
    assert!(clock.run(Duration::from_secs(600), read).await.is_err(), "silence for an hour");
    drop(clock);
    assert_eq!((link.counters().hangs, link.counters().cuts), (1, 0));

    link.cut_all();
    assert_eq!(within("the cut", rest(&mut socket)).await, (String::new(), true));
    assert_eq!(link.counters().cuts, 1);

    link.set(Faults::none());
    assert_eq!(stream(&link, "/s").await.0, body(), "healed");
}

#[tokio::test]
async fn a_server_that_is_down_and_a_client_that_leaves() {
    let peer = peer().await;
    let through = link(&peer, 1, Faults::none()).await;
    peer.on("/quiet", Reply::sse().silence());
    drop(ask(through.addr(), "/quiet").await);
    peer.closed(0).await;
    drop(peer);
    assert_eq!(rest(&mut ask(through.addr(), "/s").await).await.0, "");
}

/// If a client gives up on a silent connection, no sockets and no task may be left behind.
#[tokio::test]
async fn a_hung_connection_ends_with_its_client() {
    let peer = peer().await;
    let link = link(&peer, 2, Faults::none().hang_every(5)).await;
    let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let before = tasks();
    for hangs in 1..=3 {
        let mut socket = ask(link.addr(), "/s").await;
        let mut seen = Vec::new();
        while seen.windows(2).filter(|pair| *pair == b"\n\n").count() < 5 {
            assert!(within("five events", socket.read_buf(&mut seen)).await.unwrap() > 0);
        }
        assert!(tasks() > before);
        assert_eq!(link.counters().hangs, hangs);
        drop(socket);
        within("the end of the connection", async {
            while tasks() > before {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }
}
