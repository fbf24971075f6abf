//! The source with a fake API server: the content of the log, and the reported status.

use std::time::Duration;

use relay_testkit::{ApiServer, Ask, Reply, within};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use super::*;
use crate::log::{Log, SourceStatus};
use crate::{Clock, DEFAULT_RETENTION};

const PODS: &str = "v1/pods";

fn log() -> Arc<Log> {
    Log::in_memory(DEFAULT_RETENTION, Clock::system())
}

fn pod(namespace: &str, name: &str) -> Value {
    json!({"metadata": {"namespace": namespace, "name": name}, "status": {"phase": "Running"}})
}

fn forbidden(namespace: &str) -> String {
    format!("namespace {namespace}: list: 403 Forbidden")
}

/// A running source, until it is dropped.
struct Run {
    log: Arc<Log>,
    run: JoinHandle<Result<(), SourceError>>,
    stop: CancellationToken,
    _directory: tempfile::TempDir,
}

impl Run {
    fn start(server: &ApiServer, namespaces: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let kubeconfig = directory.path().join("config");
        std::fs::write(&kubeconfig, server.kubeconfig(&json!({"token": "t0ken"}))).unwrap();
        let (log, stop) = (log(), CancellationToken::new());
        let source =
            Box::new(KubeSource::new().kubeconfig(kubeconfig).namespaces(namespaces.iter().copied()));
        assert_eq!(source.kind(), "kube");
        let run = tokio::spawn(source.run(Publisher::new(log.clone(), []), stop.clone()));
        Self { log, run, stop, _directory: directory }
    }

    fn keys(&self) -> Vec<String> {
        let publisher = Publisher::new(self.log.clone(), []);
        publisher.current().iter().map(|pod| format!("{}/{}", pod.namespace(), pod.name())).collect()
    }

    async fn pods(&self, expected: &[&str]) {
        let mut head = self.log.watch_head();
        let waiting = async {
            while self.keys() != expected {
                head.changed().await.unwrap();
            }
        };
        within(&format!("the pods {expected:?}"), waiting).await;
    }

    async fn status(&self, what: &str, mut test: impl FnMut(&SourceStatus) -> bool) -> SourceStatus {
        let waiting = async {
            // Only the log itself can wait for a change of the status, so this polls.
            while !test(&self.log.source()) {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            self.log.source()
        };
        within(what, waiting).await
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        self.run.abort();
    }
}

#[tokio::test]
async fn a_cluster_is_followed_until_the_source_is_told_to_stop() {
    let server = ApiServer::start().await;
    server.put(PODS, pod("prod", "a"));
    server.put(PODS, pod("test", "z"));
    let mut run = Run::start(&server, &["prod"]);
    run.pods(&["prod/a"]).await;
    server.put(PODS, pod("prod", "b"));
    server.put(PODS, pod("test", "y"));
    run.pods(&["prod/a", "prod/b"]).await;
    server.delete(PODS, "prod", "a");
    run.pods(&["prod/b"]).await;
    assert_eq!(server.request(Ask::List, 0).await.header("authorization"), Some("Bearer t0ken"));
    run.stop.cancel();
    within("the end", &mut run.run).await.unwrap().unwrap();
}

#[tokio::test]
async fn the_log_is_synced_once_every_namespace_was_listed() {
    let server = ApiServer::start().await;
    server.put(PODS, pod("prod", "a"));
    server.put(PODS, pod("test", "t"));
    let gate = relay_testkit::Gate::new();
    let late = Reply::new(500, "text/plain", "").hold(&gate).send("no");
    server.reply(Ask::List, late);
    let run = Run::start(&server, &["prod", "test"]);
    server.request(Ask::Watch, 0).await;
    let status = run.log.source();
    assert!(!status.synced && run.keys().is_empty(), "one of the two is there, which is nothing");
    gate.open();
    run.pods(&["prod/a", "test/t"]).await;
    run.status("it to be ready", SourceStatus::ready).await;
}

#[tokio::test]
async fn a_list_of_one_namespace_leaves_the_others_alone_and_the_log_is_live_only_while_all_are() {
    let server = ApiServer::start().await;
    server.put(PODS, pod("prod", "a"));
    server.put(PODS, pod("test", "t"));
    let run = Run::start(&server, &["prod", "test"]);
    run.pods(&["prod/a", "test/t"]).await;
    server.request(Ask::Watch, 1).await;
    run.status("it to be ready", SourceStatus::ready).await;
    // The watches are interrupted, objects change, and then both versions are too old.
    server.forbid("test");
    server.always(Ask::Check, Reply::empty(500));
    server.end_watches();
    run.status("it to be stale", |status| status.stale_since.is_some()).await;
    server.delete(PODS, "test", "t");
    server.put(PODS, pod("test", "u"));
    server.put(PODS, pod("prod", "b"));
    server.expire();
    server.restore(Ask::Check);
    run.pods(&["prod/a", "prod/b", "test/t"]).await;
    // The namespace was listed before, so its known pods may be out of date.
    let status =
        run.status("the other one", |s| s.reason.as_deref().is_some_and(|r| r.contains("403"))).await;
    assert!(!status.ready(), "{status:?}");
    server.allow("test");
    run.pods(&["prod/a", "prod/b", "test/u"]).await;
    let status = run.status("it to be ready", SourceStatus::ready).await;
    assert_eq!(status.reason, None);
}

#[tokio::test]
async fn one_forbidden_namespace_does_not_stop_the_others_and_is_named() {
    let server = ApiServer::start().await;
    server.put(PODS, pod("prod", "a"));
    server.put(PODS, pod("secret", "s"));
    server.forbid("secret");
    let run = Run::start(&server, &["prod", "secret", "test"]);
    run.pods(&["prod/a"]).await;
    let status = run.status("it to be ready", SourceStatus::ready).await;
    let reason = status.reason.unwrap();
    assert!(reason.starts_with(&forbidden("secret")), "{reason}");
    // The other namespaces are followed, and the forbidden one is added once it is allowed.
    server.put(PODS, pod("test", "t"));
    run.pods(&["prod/a", "test/t"]).await;
    server.allow("secret");
    run.pods(&["prod/a", "secret/s", "test/t"]).await;
    run.status("nothing to be missing", |status| status.ready() && status.reason.is_none()).await;
}

#[tokio::test]
async fn all_namespaces_forbidden_is_away() {
    let server = ApiServer::start().await;
    server.forbid("prod");
    server.forbid("test");
    let run = Run::start(&server, &["prod", "test"]);
    server.request(Ask::List, 1).await;
    let reason = run.status("a reason", |status| status.reason.is_some()).await;
    assert!(!reason.synced && !reason.ready() && reason.reason.unwrap().starts_with(&forbidden("prod")));
}

/// Each reason for being unavailable has its own text, which stays the same while nothing changes.
#[tokio::test]
async fn the_reason_is_told_and_cleared() {
    let status = |code: u16, reason: &str, message: &str| {
        Reply::json(code, &json!({"kind": "Status", "code": code, "reason": reason, "message": message}))
    };
    for (reply, said) in [
        (status(403, "Forbidden", "pods is forbidden"), "list: 403 Forbidden: pods is forbidden"),
        (status(401, "Unauthorized", "Unauthorized"), "list: 401 Unauthorized: Unauthorized"),
        (Reply::new(429, "text/plain", "s3cret"), "list: 429 TooManyRequests"),
        (
            Reply::new(200, "application/json", "{\"s3cret"),
            "list: 8 bytes of application/json are no JSON, at line 1, column 8",
        ),
        (Reply::json(200, &json!({"items": []})), "list: the answer has no version to watch from"),
    ] {
        let server = ApiServer::start().await;
        server.put(PODS, pod("prod", "a"));
        server.always(Ask::List, reply);
        let run = Run::start(&server, &[]);
        let away = run.status("a reason", |status| status.reason.is_some()).await;
        assert_eq!((away.reason.as_deref(), away.synced, away.ready()), (Some(said), false, false));
        server.request(Ask::List, 1).await;
        assert_eq!(run.log.source().reason, away.reason);
        server.restore(Ask::List);
        run.pods(&["prod/a"]).await;
        run.status("it to be ready", |status| status.ready() && status.reason.is_none()).await;
    }
}

#[tokio::test]
async fn a_pod_that_cannot_be_read_is_kept_or_deleted_and_counted() {
    let server = ApiServer::start().await;
    for name in ["a", "b", "c"] {
        server.put(PODS, pod("prod", name));
    }
    let run = Run::start(&server, &[]);
    run.pods(&["prod/a", "prod/b", "prod/c"]).await;
    server.request(Ask::Watch, 0).await;
    let odd = |name: &str| {
        let mut odd = pod("prod", name);
        odd["status"]["containerStatuses"] = json!([{"name": "x", "restartCount": -1}]);
        odd
    };
    server.put(PODS, odd("a"));
    server.put(PODS, odd("b"));
    server.delete(PODS, "prod", "b");
    run.pods(&["prod/a", "prod/c"]).await;
    assert_eq!(run.log.unreadable(), 3);
    // An unreadable pod in a list is kept, and pods that are missing from the list are removed.
    server.reply(Ask::Check, Reply::empty(410));
    server.delete(PODS, "prod", "c");
    run.pods(&["prod/a"]).await;
    server.expire();
    server.end_watches();
    server.request(Ask::List, 1).await;
    server.request(Ask::Watch, 1).await;
    assert_eq!((run.keys(), run.log.unreadable()), (vec!["prod/a".to_owned()], 4));
    // Readable objects are applied again.
    server.put(PODS, pod("prod", "a"));
    server.put(PODS, pod("prod", "d"));
    run.pods(&["prod/a", "prod/d"]).await;
}

#[tokio::test]
async fn a_wrong_set_up_ends_the_source() {
    let run = |source: KubeSource| source.follow(Publisher::new(log(), []), CancellationToken::new());
    let error = run(KubeSource::new().kubeconfig("/no/such/file")).await.unwrap_err();
    let error = relay_proto::error::chain(&error).to_string();
    assert!(error.contains("/no/such/file"), "{error}");
    let error = run(KubeSource::new().namespaces(["Not A Namespace"])).await.unwrap_err();
    let error = relay_proto::error::chain(&error).to_string();
    assert!(error.contains("Not A Namespace"), "{error}");
}
