//! Logs in memory.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use relay_log::suite::{self, Subject};
use relay_log::{LogName, LogOptions, Logs, MemoryStore, Store};

struct Memory;

impl Subject for Memory {
    fn fresh(&self) -> BoxFuture<'_, Arc<dyn Store>> {
        Box::pin(async { Arc::new(MemoryStore::new()) as Arc<dyn Store> })
    }

    fn reopened<'a>(&'a self, _store: &'a Arc<dyn Store>) -> BoxFuture<'a, Option<Arc<dyn Store>>> {
        Box::pin(async { None })
    }

    fn refuse_writes(&self, _store: &Arc<dyn Store>, _refuse: bool) -> bool {
        false
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_memory_store_passes_the_suite() {
    suite::run(&Memory).await;
}

#[tokio::test]
async fn the_memory_store_passes_the_suite_on_one_thread() {
    suite::run(&Memory).await;
}

#[tokio::test]
async fn a_hundred_thousand_quiet_logs_are_little_work() {
    let logs = Logs::new(MemoryStore::new());
    let mut held = Vec::new();
    for at in 0..100_000 {
        let name = LogName::new(&format!("log/{at}")).unwrap();
        held.push(logs.create(&name, LogOptions::default()).await.unwrap());
    }
    held[99_999].append(vec!["x"]).await.unwrap();
    let again = logs.open(&LogName::new("log/99999").unwrap()).await.unwrap();
    assert_eq!((again.bounds().head, held[0].bounds().head), (1, 0));
}
