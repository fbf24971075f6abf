//! A store that fails, or is slow.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use relay_log::{DiskOptions, DiskStore, Fsync, Intercept, MemoryStore};
use relay_pods_server::{Config, Scope, Server};

use crate::raw::{Rig, pod};

#[tokio::test]
async fn what_the_store_does_not_take_is_neither_sent_nor_listed() {
    let broken = Arc::new(AtomicBool::new(false));
    let breaks = broken.clone();
    let store = Intercept::new(Arc::new(MemoryStore::new()), move |_| {
        let full =
            || relay_log::Error::io("writing a segment failed", std::io::ErrorKind::StorageFull.into());
        let result = if breaks.load(Ordering::Relaxed) { Err(full()) } else { Ok(()) };
        Box::pin(std::future::ready(result))
    });
    let rig = Rig::around(Server::builder(Config::default()).store(store)).await;
    rig.publisher.relist(Scope::All, vec![pod("prod", "a", 1, &[])]).await.unwrap();
    let mut stream = rig.stream("/events/stream").await;
    stream.until("catchup_complete").await;

    broken.store(true, Ordering::Relaxed);
    let error = rig.publisher.upsert(pod("prod", "lost", 1, &[])).await.unwrap_err();
    assert_eq!(error.to_string(), "writing a segment failed");
    assert!(rig.publisher.relist(Scope::All, vec![]).await.is_err());
    let health = rig.get("/health").await;
    assert_eq!((health.status(), &health.json()["status"]), (503, &"degraded".into()));
    assert_eq!(health.json()["store"]["kind"], "memory");
    let ready = rig.get("/readyz").await;
    assert_eq!((ready.status(), rig.get("/livez").await.status()), (503, 200));
    assert!(ready.json()["detail"].as_str().unwrap().contains("writing a segment failed"));
    let list = rig.get("/pods").await.json();
    assert_eq!((list["pods"].as_array().unwrap().len(), &list["sequence"]), (1, &1.into()));

    broken.store(false, Ordering::Relaxed);
    rig.publisher.upsert(pod("prod", "kept", 1, &[])).await.unwrap();
    let event = stream.expect("pod").await;
    assert_eq!((&event["pod"]["name"], &event["sequence"]), (&"kept".into(), &2.into()));
    assert_eq!((rig.get("/health").await.status(), rig.get("/readyz").await.status()), (200, 200));
}

/// Damage that is met while serving: who begins at it is refused, and who begins before it is cut behind `connected`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_over_damage_is_refused_or_cut_and_never_without_an_answer() {
    const PODS: usize = 3000;
    const DAMAGED: usize = 2000;
    let dir = tempfile::tempdir().unwrap();
    let options = DiskOptions::default().fsync(Fsync::Never).cache_bytes(0);
    let store = DiskStore::open(dir.path(), options).unwrap();
    let rig = Rig::around(Server::builder(Config::default()).store(store)).await;
    let pods = (0..PODS).map(|at| pod("prod", &format!("p{at:04}"), 1, &[])).collect();
    rig.publisher.relist(Scope::All, pods).await.unwrap();
    let (mut hashes, mut names, mut target) = (Vec::new(), Vec::new(), "/events?limit=1000".to_owned());
    while hashes.len() < PODS {
        for event in rig.get(&target).await.json()["events"].as_array().unwrap() {
            hashes.push(event["hash"].as_str().unwrap().to_owned());
            names.push(event["pod"]["name"].as_str().unwrap().to_owned());
        }
        target = format!("/events?limit=1000&since_hash={}", hashes.last().unwrap());
    }
    // One byte of event DAMAGED + 1 is changed.
    let segment = dir.path().join("logs/pods/00000000000000000001.segment");
    let (bytes, name) = (std::fs::read(&segment).unwrap(), names[DAMAGED].as_bytes());
    let at = bytes.windows(name.len()).position(|window| window == name).unwrap();
    let file = std::fs::File::options().write(true).open(&segment).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, b"q", at as u64).unwrap();

    let (mut refused, mut cut) = (0, 0);
    for since in (1..=DAMAGED).rev().step_by(97).chain([DAMAGED; 5]).chain([DAMAGED - 1; 5]) {
        for filter in ["", "&namespace=prod"] {
            let mut peer = rig.connect().await;
            let cursor = &hashes[since - 1];
            let request = format!(
                "GET /events/stream?since_hash={cursor}{filter} HTTP/1.1\r\nhost: relay\r\nconnection: close\r\n\r\n"
            );
            peer.send(request.as_bytes()).await;
            let answer = String::from_utf8(peer.rest().await).unwrap();
            if answer.starts_with("HTTP/1.1 503") {
                assert!(answer.contains("\"not-ready\""), "{since}{filter}: {answer}");
                refused += 1;
            } else {
                assert!(answer.starts_with("HTTP/1.1 200"), "{since}{filter}: {answer:?}");
                assert!(answer.contains("\r\nevent: connected\n"), "{since}{filter}: {answer}");
                assert!(since < DAMAGED && !answer.contains("catchup_complete"), "{since}{filter}: {answer}");
                assert!(!answer.ends_with("\r\n0\r\n\r\n"), "{since}{filter}: it is no proper end");
                cut += 1;
            }
        }
    }
    assert!(refused >= 12 && cut > 0, "{refused} {cut}");
    let ready = rig.get("/readyz").await;
    assert!(ready.status() == 503 && ready.body.contains("00000000000000000001.segment"), "{}", ready.body);
}

/// Probes are open to everyone: they name the file, and not where the operator keeps it.
#[tokio::test]
async fn a_probe_does_not_say_where_the_files_are() {
    let place = tempfile::tempdir().unwrap();
    let dir = place.path().join("kept here");
    let store = DiskStore::open(&dir, DiskOptions::default()).unwrap();
    let (broken, path) = (Arc::new(AtomicBool::new(false)), dir.display().to_string());
    let breaks = broken.clone();
    let store = Intercept::new(Arc::new(store), move |_| {
        let cause = std::io::Error::other(format!("{path} is on fire"));
        let error = || relay_log::Error::io(format!("writing {path}/logs/1.seg"), cause);
        let result = if breaks.load(Ordering::Relaxed) { Err(error()) } else { Ok(()) };
        Box::pin(std::future::ready(result))
    });
    let rig = Rig::around(Server::builder(Config::default()).store(store)).await;
    rig.publisher.relist(Scope::All, vec![pod("prod", "a", 1, &[])]).await.unwrap();
    broken.store(true, Ordering::Relaxed);
    rig.publisher.upsert(pod("prod", "lost", 1, &[])).await.unwrap_err();
    let ready = rig.get("/readyz").await;
    assert_eq!(ready.status(), 503);
    assert_eq!(
        ready.json()["detail"],
        "the store does not work: writing logs/1.seg: the data directory is on fire"
    );
}

/// A slow disk delays only callers that wait until an event is stored.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_takes_its_time_holds_nobody_up() {
    const APPEND: Duration = Duration::from_millis(200);
    let store = Intercept::new(Arc::new(MemoryStore::new()), |_| {
        Box::pin(async {
            tokio::time::sleep(APPEND).await;
            Ok(())
        })
    });
    let config = Config::default().heartbeat(Duration::from_millis(50));
    let rig = Rig::around(Server::builder(config).store(store)).await;
    rig.publisher.relist(Scope::All, vec![pod("prod", "a", 1, &[])]).await.unwrap();
    let publisher = rig.publisher.ahead();
    let began = Instant::now();
    for version in 2..200 {
        publisher.upsert(pod("prod", "a", version, &[])).await.unwrap();
    }
    assert!(began.elapsed() < 50 * APPEND, "one append for many events, not one each");
    // While the store is busy, probes are answered, stored events are replayed, and heartbeats are sent.
    let mut quickest = Duration::MAX;
    for version in 200..220 {
        publisher.upsert(pod("prod", "a", version, &[])).await.unwrap();
        let asked = Instant::now();
        assert_eq!(rig.get("/livez").await.status(), 200);
        let took = asked.elapsed();
        // The measurement counts only if the store was busy with this event all the time.
        if publisher.head() < version {
            quickest = quickest.min(took);
        }
        let mut stream = rig.stream("/events/stream").await;
        stream.until("catchup_complete").await;
    }
    // The fastest answer is checked, because any single answer may be late on a busy machine.
    assert!(quickest < Duration::from_millis(50), "{quickest:?}");
    let mut stream = rig.stream("/events/stream?start=latest").await;
    stream.until("heartbeat").await;
    // Everything is stored in the end.
    let kept = async {
        while publisher.head() < 219 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), kept).await.expect("everything was taken");
}

/// On a full disk, a source that writes ahead waits and everything else continues. With room again, nothing is missing.
#[tokio::test]
async fn a_full_disk_is_waited_for_by_a_source_that_is_ahead() {
    let full = Arc::new(AtomicBool::new(false));
    let fills = full.clone();
    let store = Intercept::new(Arc::new(MemoryStore::new()), move |_| {
        let error = || relay_log::Error::io("writing failed", std::io::ErrorKind::StorageFull.into());
        let result = if fills.load(Ordering::Relaxed) { Err(error()) } else { Ok(()) };
        Box::pin(std::future::ready(result))
    });
    let rig = Rig::around(Server::builder(Config::default()).store(store)).await;
    rig.publisher.relist(Scope::All, vec![pod("prod", "a", 1, &[])]).await.unwrap();
    full.store(true, Ordering::Relaxed);
    let publisher = rig.publisher.ahead();
    for version in 2..10 {
        publisher.upsert(pod("prod", "a", version, &[])).await.unwrap();
    }
    let not_ready = async {
        while rig.get("/readyz").await.status() != 503 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), not_ready).await.expect("it is told");
    assert_eq!((rig.get("/pods").await.json()["sequence"].as_u64(), publisher.head()), (Some(1), 1));
    let mut stream = rig.stream("/events/stream").await;
    stream.until("catchup_complete").await;
    full.store(false, Ordering::Relaxed);
    for sequence in 2..10 {
        assert_eq!(stream.expect("pod").await["sequence"], sequence);
    }
    assert_eq!(rig.get("/readyz").await.status(), 200);
}
