//! The simulated cluster behind a network that fails: a client that resumes loses nothing, or gets a gap.

use std::net::SocketAddr;
use std::time::Duration;

use relay_pods_server::{Config, DEFAULT_RETENTION, Retention, Server, SimSource};
use relay_testkit::{FaultLink, Faults, audit, within};
use tokio::task::JoinHandle;

use super::sim_follower::{Follower, history, pods};

/// A running relay of a simulated cluster.
struct Simulated {
    addr: SocketAddr,
    served: JoinHandle<()>,
}

impl Simulated {
    async fn start(source: SimSource, retention: Retention) -> Self {
        // A filtered stream learns only from a heartbeat that the log has ended.
        let config = Config::default().heartbeat(Duration::from_millis(100));
        let builder = Server::builder(config).retention(retention).source(source);
        let server = builder.bind("127.0.0.1:0").await.unwrap();
        let addr = server.local_addr();
        let served = tokio::spawn(async move { server.run(std::future::pending()).await.unwrap() });
        Self { addr, served }
    }
}

impl Drop for Simulated {
    fn drop(&mut self) {
        self.served.abort();
    }
}

/// The number of pods at the start. The number of events after it is limited, so that followers need not be fast.
const PODS: u64 = 60;

fn busy(events: u64, rate: f64) -> SimSource {
    SimSource::default().seed(7).pods(60).events(events).rate(rate)
}

/// Follows to the end of the log. There the pods must be the same as in the server's list.
async fn follows(server: SocketAddr, link: &FaultLink, mut follower: Follower, end: u64) -> Follower {
    within("the follower to reach the end", follower.follow(link.addr(), server, end)).await;
    let list = pods(server, &follower.filter).await;
    assert_eq!(list.sequence, Some(end));
    assert!(!list.pods.is_empty());
    follower.pods.assert_same(&list.pods);
    follower
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_events_with_a_cut_every_hundred() {
    let server = Simulated::start(busy(10_000, 5000.0), DEFAULT_RETENTION).await;
    let link = FaultLink::start(server.addr, 1, Faults::none().cut_every(100)).await;
    let follower = follows(server.addr, &link, Follower::new(""), PODS + 10_000).await;

    let done = link.counters();
    assert!(done.cuts >= 100 && done.cuts_inside > 0, "{done:?}");
    assert!(follower.connections as u64 > 100 && follower.unfinished > 0);
    assert_eq!(follower.gaps, Vec::<String>::new());
    let log = history(server.addr).await;
    assert_eq!(log.len() as u64, PODS + 10_000);
    let audit = audit(&log, &follower.seen);
    assert!(audit.is_exact(), "{audit}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_fault_and_filter_at_once() {
    let server = Simulated::start(busy(1_000, 1000.0), DEFAULT_RETENTION).await;
    let calm = Duration::from_millis(20);
    let mut running = Vec::new();
    let faults = [
        Faults::none().cut_every(57).reset().split(900),
        Faults::none().cut_bytes(70_000).reset(),
        Faults::none().stall(50, calm).cut_every(301),
        Faults::none().slow(600_000).split(20_000),
        Faults::none().refuse_one_in(2).cut_every(101).split(5_000),
    ];
    let filters = [
        "",
        "namespace=prod",
        "label=app%3Dworker",
        "namespace=prod&namespace=staging&label=track%3Dcanary",
        "label=traffic",
    ];
    for (seed, faults) in faults.into_iter().enumerate() {
        for filter in [filters[seed], ""] {
            let link = FaultLink::start(server.addr, seed as u64, faults.clone()).await;
            let addr = server.addr;
            running.push(tokio::spawn(async move {
                let follower = follows(addr, &link, Follower::new(filter), PODS + 1_000).await;
                (link.counters(), follower)
            }));
        }
    }
    let (mut did, mut left_filter) = ([0; 5], 0);
    for (at, task) in running.into_iter().enumerate() {
        let (done, follower) = task.await.unwrap();
        did[at / 2] += match at / 2 {
            0 => done.cuts.min(done.pieces),
            1 => done.resets,
            2 => done.cuts.min(done.stalls),
            3 => done.waits,
            _ => done.refused,
        };
        assert_eq!(follower.gaps, Vec::<String>::new(), "{}", follower.filter);
        left_filter += follower.left_filter;
    }
    assert!(did.iter().all(|count| *count > 0), "a fault that never came: {did:?}");
    assert!(left_filter > 10, "pods leave filters, {left_filter} did");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_stays_away_too_long_is_told_and_recovers() {
    let server = Simulated::start(busy(4_000, 5000.0), DEFAULT_RETENTION.entries(800)).await;
    let link = FaultLink::start(server.addr, 1, Faults::none().cut_every(500)).await;
    let mut follower = Follower::new("label=tier%3Dbackend");
    within("a start", follower.follow(link.addr(), server.addr, 200)).await;
    // Another follower sees the end before this one comes back.
    let direct = FaultLink::start(server.addr, 1, Faults::none()).await;
    follows(server.addr, &direct, Follower::new(""), PODS + 4_000).await;
    let follower = follows(server.addr, &link, follower, PODS + 4_000).await;
    assert_eq!(follower.gaps, ["cursor-expired"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_lost_its_log_says_so() {
    let quiet = SimSource::default().seed(7).pods(30).rate(0.0);
    let first = Simulated::start(quiet.clone(), DEFAULT_RETENTION).await;
    let mut follower = Follower::new("");
    within("a start", follower.follow(first.addr, first.addr, 30)).await;
    let before = pods(first.addr, "").await;
    drop(first);

    let second = Simulated::start(quiet, DEFAULT_RETENTION).await;
    follower.sequence = 0;
    within("the new log", follower.follow(second.addr, second.addr, 30)).await;
    assert_eq!(follower.gaps, ["cursor-unknown"]);
    let after = pods(second.addr, "").await;
    follower.pods.assert_same(&after.pods);
    assert_eq!(before.pods, after.pods, "the same seed is the same cluster");
    assert_ne!((before.epoch, before.hash), (after.epoch, after.hash));
}
