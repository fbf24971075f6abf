//! A store that fails.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use relay_log::{Intercept, MemoryStore};
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
