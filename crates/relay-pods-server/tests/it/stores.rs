//! A store that fails.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use relay_pods_server::{
    Bounds, Config, LogIdentity, MemoryStore, Page, Record, Retention, Scope, Server, Store, StoreError,
};

use crate::raw::{Rig, identity, pod};

/// Memory that can be made to fail.
struct Fragile {
    memory: MemoryStore,
    broken: Arc<AtomicBool>,
}

impl Store for Fragile {
    fn kind(&self) -> &'static str {
        "fragile"
    }

    fn identity(&self) -> &LogIdentity {
        self.memory.identity()
    }

    fn append(&self, records: Vec<Arc<Record>>) -> Result<(), StoreError> {
        if self.broken.load(Ordering::Relaxed) {
            return Err(std::io::Error::other("the disk is full").into());
        }
        self.memory.append(records)
    }

    fn read(&self, after: u64, max: usize) -> Result<Page, StoreError> {
        self.memory.read(after, max)
    }

    fn bounds(&self) -> Bounds {
        self.memory.bounds()
    }

    fn expire(&self, now_millis: i64) {
        self.memory.expire(now_millis);
    }

    fn clear(&self) {
        self.memory.clear();
    }
}

#[tokio::test]
async fn what_the_store_does_not_take_is_neither_sent_nor_listed() {
    let broken = Arc::new(AtomicBool::new(false));
    let memory = MemoryStore::with_identity(Retention::default(), identity());
    let store = Fragile { memory, broken: broken.clone() };
    let rig = Rig::around(Server::builder(Config::default()).store(store)).await;
    rig.publisher.relist(Scope::All, vec![pod("prod", "a", 1, &[])]).unwrap();
    let mut stream = rig.stream("/events/stream").await;
    stream.until("catchup_complete").await;

    broken.store(true, Ordering::Relaxed);
    let error = rig.publisher.upsert(pod("prod", "lost", 1, &[])).unwrap_err();
    assert_eq!(error.to_string(), "the store failed: the disk is full");
    assert!(rig.publisher.relist(Scope::All, vec![]).is_err());
    let health = rig.get("/health").await;
    assert_eq!((health.status(), &health.json()["status"]), (503, &"degraded".into()));
    assert_eq!(health.json()["store"]["kind"], "fragile");
    assert_eq!((rig.get("/readyz").await.status(), rig.get("/livez").await.status()), (503, 200));
    let list = rig.get("/pods").await.json();
    assert_eq!((list["pods"].as_array().unwrap().len(), &list["sequence"]), (1, &1.into()));

    broken.store(false, Ordering::Relaxed);
    rig.publisher.upsert(pod("prod", "kept", 1, &[])).unwrap();
    let event = stream.expect("pod").await;
    assert_eq!((&event["pod"]["name"], &event["sequence"]), (&"kept".into(), &2.into()));
    assert_eq!((rig.get("/health").await.status(), rig.get("/readyz").await.status()), (200, 200));
}
