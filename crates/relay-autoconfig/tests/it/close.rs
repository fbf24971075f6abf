//! Closing, in every state and many times over.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use relay_autoconfig::{End, State, StreamManager};
use relay_testkit::{Peer, Reply, Script, within};
use tokio::net::{TcpSocket, TcpStream};

use crate::{PATH, handler, put};

/// A loopback address that neither accepts nor refuses connections, for as long as the value lives.
async fn full_queue() -> (SocketAddr, (tokio::net::TcpListener, Vec<TcpStream>)) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let listener = socket.listen(1).unwrap();
    let address = listener.local_addr().unwrap();
    let mut waiting = Vec::new();
    // The kernel queues one or two connections more than the limit.
    while let Ok(Ok(stream)) =
        tokio::time::timeout(Duration::from_millis(300), TcpStream::connect(address)).await
    {
        waiting.push(stream);
        assert!(waiting.len() < 64, "the queue is never full");
    }
    (address, (listener, waiting))
}

fn manager(url: &str, handler: crate::Slow) -> StreamManager {
    let hour = Duration::from_secs(3600);
    let builder = StreamManager::builder(url).key("any").reconnect(hour, hour).long_reconnect(hour, hour);
    builder.build(handler).unwrap()
}

/// Closes a manager once `reached` is done, and returns how long the close took.
async fn close(url: &str, reached: impl AsyncFnOnce(&mut tokio::sync::mpsc::Receiver<String>)) -> Duration {
    let (handler, mut calls) = handler();
    let manager = Arc::new(manager(url, handler));
    let starting = tokio::spawn({
        let manager = manager.clone();
        async move { manager.start().await }
    });
    reached(&mut calls).await;
    let begin = Instant::now();
    within("the close", manager.close()).await;
    let took = begin.elapsed();
    let _ = within("the start", starting).await;
    assert_eq!((manager.status().state, manager.end()), (State::Off, Some(End::Closed)));
    took
}

/// Nearly all of a thousand closes take far less than 100 ms; a busy machine may delay some.
#[tokio::test]
async fn n92_n93_a_thousand_closes_are_quick_and_nothing_is_sent_after_them() {
    const ROUNDS: usize = 167;
    let (connecting, _queue) = full_queue().await;
    let flood = put("e", 1).repeat(400);
    let states: [(&str, Option<Reply>); 6] = [
        ("resolving", None),
        ("connecting", None),
        ("waiting for an answer", Some(Reply::raw().silence())),
        ("in a body", Some(Reply::sse().send("event: put\ndata: {").silence())),
        ("in a flood", Some(Reply::sse().send(flood).silence())),
        ("in a long wait", Some(Reply::empty(404))),
    ];
    for (state, reply) in states {
        let mut took = Vec::new();
        if let Some(reply) = reply {
            let peer = Peer::start(Script::new().always(PATH, reply)).await;
            for round in 0..ROUNDS {
                took.push(
                    close(&peer.url(), async |calls| {
                        peer.request(round).await;
                        if state == "in a flood" {
                            calls.recv().await;
                        }
                    })
                    .await,
                );
            }
            assert_eq!(peer.requests().len(), ROUNDS, "{state}: one request each, and none after the close");
        } else {
            let url = match state {
                "resolving" => "http://host.invalid".to_owned(),
                _ => format!("http://{connecting}"),
            };
            for round in 0..ROUNDS {
                // The close comes at different moments, from before the first step to the middle of the attempt.
                took.push(
                    close(&url, async |_| {
                        for _ in 0..round % 20 {
                            tokio::task::yield_now().await;
                        }
                    })
                    .await,
                );
            }
        }
        took.sort();
        let (most, nearly_all) = (took[ROUNDS - 1], took[ROUNDS * 95 / 100]);
        println!("{state}: at most {most:?}, nearly all {nearly_all:?}");
        assert!(nearly_all < Duration::from_millis(100), "{state}: {nearly_all:?}");
        assert!(most < Duration::from_secs(5), "{state}: {most:?}");
    }
}

/// Runs in a separate network with its own resolver: see the next test.
#[test]
#[ignore = "run by another test, in a process of its own"]
fn in_a_process_whose_resolver_hangs() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let deaf = tokio::net::UdpSocket::bind("127.0.0.1:53").await.unwrap();
        for round in 0..20 {
            let host = format!("round-{round}-of-a-close");
            let took = close(&format!("http://{host}.test"), async |_| {
                let mut question = [0; 512];
                while !String::from_utf8_lossy(&question).contains(&host) {
                    within("the question", deaf.recv(&mut question)).await.unwrap();
                }
            })
            .await;
            println!("closed in {} us", took.as_micros());
        }
    });
    // A call of the system's resolver cannot be cancelled.
    runtime.shutdown_background();
}

#[cfg(target_os = "linux")]
#[test]
fn n92_a_close_does_not_wait_for_a_resolver_that_hangs() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("resolv.conf");
    std::fs::write(&file, "nameserver 127.0.0.1\noptions timeout:30 attempts:1\n").unwrap();
    let run = |program: &str, args: &[&str]| {
        std::process::Command::new("unshare")
            .args(["-r", "-m", "-n", "sh", "-c"])
            .arg("ip link set lo up && mount --bind \"$0\" /etc/resolv.conf && exec \"$@\"")
            .arg(&file)
            .arg(program)
            .args(args)
            .output()
    };
    if !run("true", &[]).is_ok_and(|output| output.status.success()) {
        eprintln!("SKIPPED: a resolver of one's own needs `unshare` and `ip`, and the right to use them");
        return;
    }
    let program = std::env::current_exe().unwrap();
    let this = "close::in_a_process_whose_resolver_hangs";
    let output = run(program.to_str().unwrap(), &["--exact", this, "--ignored", "--nocapture"]).unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let took: Vec<u64> = said
        .lines()
        .filter_map(|line| line.rsplit_once("closed in ")?.1.strip_suffix(" us")?.parse().ok())
        .collect();
    assert_eq!(took.len(), 20, "{said}{}", String::from_utf8_lossy(&output.stderr));
    let quick = took.iter().filter(|took| **took < 100_000).count();
    println!("at most {:?} us", took.iter().max());
    assert!(quick >= 19, "{took:?}");
}

#[tokio::test]
async fn who_drops_it_closes_it_and_closing_before_the_start_is_the_end() {
    let peer = Peer::start(Script::new().always(PATH, Reply::sse().send(put("e", 1)).silence())).await;
    let (dropped, mut calls) = handler();
    let first = manager(&peer.url(), dropped);
    within("the start", first.start()).await.unwrap();
    let mut watch = first.watch();
    drop(first);
    within("the end", watch.wait_for(|status| status.state == State::Off)).await.unwrap();
    peer.closed(0).await;
    while calls.try_recv().is_ok() {}
    assert!(calls.recv().await.is_none(), "the handler is gone");

    let (unused, _calls) = handler();
    let second = manager(&peer.url(), unused);
    second.close().await;
    second.close().await;
    assert_eq!(second.start().await, Err(End::Closed));
    assert_eq!(peer.requests().len(), 1);
}

/// While a handler is busy, the client does not read, so the service has to wait.
#[tokio::test]
async fn a_slow_handler_stalls_the_socket() {
    const EACH: usize = 2000;
    let name = "x".repeat(20_000);
    let mut large = Reply::sse();
    for version in 1..=EACH {
        large = large
            .send(put("e", version as i64).replace("sdk-key-of-e", &format!("sdk-key-{name}-{version}")));
    }
    let peer = Peer::start(Script::new().on(PATH, large).always(PATH, Reply::empty(204))).await;
    let (slow, mut calls) = handler();
    let stalled = manager(&peer.url(), slow);
    within("the start", stalled.start()).await.unwrap();
    assert_eq!(calls.recv().await.as_deref(), Some("add e"));
    // No buffer holds 40 MB, so the service is still sending while the handler is busy.
    let played = tokio::time::timeout(Duration::from_millis(500), peer.played(0)).await;
    assert!(played.is_err(), "the service has said everything although nobody reads");
    let told = async {
        let mut told = 0;
        while told < EACH - 1 {
            told += usize::from(calls.recv().await.unwrap().starts_with("update"));
        }
    };
    within("everything", told).await;
    stalled.close().await;
}

struct Panics;

impl relay_autoconfig::MessageHandler for Panics {
    async fn add_environment(&mut self, _: Arc<relay_autoconfig::Environment>) {
        panic!("the handler of this test panics");
    }
    async fn update_environment(&mut self, _: relay_autoconfig::Updated) {}
    async fn received_all_environments(&mut self, _: relay_autoconfig::ReceivedAll) {}
    async fn delete_environment(&mut self, _: relay_autoconfig::Gone<relay_autoconfig::EnvironmentId>) {}
    async fn key_expired(&mut self, _: relay_autoconfig::Expired) {}
}

#[tokio::test]
async fn a_handler_that_panics_is_the_end_and_not_a_silence() {
    let peer = Peer::start(Script::new().always(PATH, Reply::sse().send(put("e", 1)).silence())).await;
    let manager = StreamManager::builder(peer.url()).key("any").build(Panics).unwrap();
    let mut watch = manager.watch();
    // The handler may have panicked before `start` looks.
    let _ = within("the start", manager.start()).await;
    within("the end", watch.wait_for(|status| status.state == State::Off)).await.unwrap();
    assert_eq!(manager.end(), Some(End::Closed));
    within("the close", manager.close()).await;
}
