//! The source against a scripted API server: every request it makes and what it makes of each answer.

use std::sync::Arc;
use std::time::Duration;

use relay_testkit::{Peer, Reply, Script};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::object::PodObject;
use super::watch::{Change, Watch};
use super::*;
use crate::log::Log;
use crate::{Clock, MemoryStore, Retention};

const PODS: &str = "/api/v1/pods";

fn pod(name: &str, version: u32) -> Value {
    json!({"metadata": {"namespace": "prod", "name": name, "uid": format!("uid-{name}"), "resourceVersion": version.to_string()}})
}

fn list(version: u32, next: &str, items: &[Value]) -> Reply {
    let metadata = json!({"resourceVersion": version.to_string(), "continue": next});
    Reply::json(200, &json!({"kind": "PodList", "apiVersion": "v1", "metadata": metadata, "items": items}))
}

fn refusal(status: u16, reason: &str, message: &str) -> Reply {
    Reply::json(status, &failure(status, reason, message))
}

fn failure(code: u16, reason: &str, message: &str) -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason, "message": message})
}

/// A watch that sends these events and ends.
fn watch(events: &[(&str, Value)]) -> Reply {
    events.iter().fold(Reply::sse(), |reply, (kind, object)| {
        reply.send(format!("{}\n", json!({"type": kind, "object": object})))
    })
}

fn bookmark(version: u32) -> Value {
    json!({"kind": "Pod", "apiVersion": "v1", "metadata": {"resourceVersion": version.to_string()}})
}

async fn client(peer: &Peer) -> Client {
    let mut config = Config::new(peer.url().parse().unwrap());
    config.default_retry = false;
    Client::try_from(config).unwrap()
}

/// What a watch of all pods makes of the script, up to `count` changes, in short words; and what it asked for.
async fn changes(script: Script, count: usize) -> (Vec<String>, Vec<String>) {
    let peer = Peer::start(script).await;
    let (sender, mut receiver) = mpsc::channel(1);
    let watch = Watch::new(Api::all(client(&peer).await), 0, sender);
    let reading = async {
        let mut seen = Vec::new();
        while seen.len() < count {
            let (_, change) = receiver.recv().await.unwrap();
            seen.push(words(change));
        }
        receiver.close();
        seen
    };
    let seen = tokio::select! {
        seen = reading => seen,
        () = watch.run() => panic!("the watch ended by itself"),
    };
    (seen, peer.requests().iter().map(asked).collect())
}

fn words(change: Change) -> String {
    let named = |pod: &Pod| format!("{}@{}", pod.name(), pod.resource_version().unwrap_or("?"));
    match change {
        Change::Listed(pods) => format!("listed {}", pods.iter().map(named).collect::<Vec<_>>().join(" ")),
        Change::Applied(pod) => format!("applied {}", named(&pod)),
        Change::Deleted(pod) => format!("deleted {}", named(&pod)),
        Change::Up => "up".to_owned(),
        Change::Down(why) => format!("down {why}"),
    }
}

fn asked(request: &relay_testkit::Request) -> String {
    let query = |name: &str| request.query(name).unwrap_or_default();
    if request.query("watch").is_some() {
        assert_eq!(query("allowWatchBookmarks"), "true");
        format!("watch from {}", query("resourceVersion"))
    } else if request.query("resourceVersionMatch").is_some() {
        assert_eq!(
            (query("resourceVersionMatch"), query("limit")),
            ("NotOlderThan".to_owned(), "1".to_owned())
        );
        format!("check {}", query("resourceVersion"))
    } else {
        format!("list {}", query("continue")).trim_end().to_owned()
    }
}

#[tokio::test]
async fn pages_make_one_list_and_a_watch_goes_on_from_its_version() {
    let script = Script::new()
        .on(PODS, list(10, "more", &[pod("a", 3), pod("b", 4)]))
        .on(PODS, list(10, "", &[pod("c", 5)]))
        .on(
            PODS,
            watch(&[("ADDED", pod("d", 11)), ("MODIFIED", pod("a", 12)), ("DELETED", pod("b", 13))])
                .silence(),
        );
    let (seen, asked) = changes(script, 5).await;
    assert_eq!(seen, ["listed a@3 b@4 c@5", "up", "applied d@11", "applied a@12", "deleted b@13"]);
    assert_eq!(asked, ["list", "list more", "watch from 10"]);
}

#[tokio::test]
async fn a_quiet_watch_is_up_too() {
    let script = Script::new().on(PODS, list(10, "", &[])).on(PODS, watch(&[]).silence());
    assert_eq!(changes(script, 2).await.0, ["listed ", "up"]);
}

#[tokio::test]
async fn a_watch_that_ends_is_resumed_at_its_last_version() {
    let script = Script::new()
        .on(PODS, list(10, "", &[pod("a", 3)]))
        .on(PODS, watch(&[("MODIFIED", pod("a", 11)), ("BOOKMARK", bookmark(20))]))
        .on(PODS, list(20, "", &[]))
        .on(PODS, watch(&[("MODIFIED", pod("a", 21))]).silence());
    let (seen, asked) = changes(script, 5).await;
    assert_eq!(seen, ["listed a@3", "up", "applied a@11", "up", "applied a@21"]);
    assert_eq!(asked, ["list", "watch from 10", "check 20", "watch from 20"]);
}

#[tokio::test]
async fn an_expired_version_is_listed_again_and_never_called_up_to_date() {
    for expired in [
        watch(&[("ERROR", failure(410, "Expired", "too old resource version: 10 (12)"))]),
        refusal(410, "Expired", "too old resource version: 10 (12)"),
    ] {
        let script = Script::new()
            .on(PODS, list(10, "", &[pod("a", 3)]))
            .on(PODS, expired)
            .on(PODS, list(12, "", &[pod("b", 11)]))
            .on(PODS, watch(&[("BOOKMARK", bookmark(13))]).silence());
        let (seen, asked) = changes(script, 3).await;
        assert_eq!(seen, ["listed a@3", "listed b@11", "up"]);
        assert_eq!(asked, ["list", "watch from 10", "list", "watch from 12"]);
    }
}

#[tokio::test]
async fn versions_that_went_back_are_listed_again() {
    let script = Script::new()
        .on(PODS, list(500, "", &[pod("a", 3)]))
        .on(PODS, watch(&[("BOOKMARK", bookmark(501))]))
        .on(PODS, refusal(504, "Timeout", "Too large resource version: 501, current: 7"))
        .on(PODS, list(7, "", &[pod("z", 5)]));
    let (seen, asked) = changes(script, 3).await;
    assert_eq!(seen, ["listed a@3", "up", "listed z@5"]);
    assert_eq!(asked[2..4], ["check 501", "list"]);
}

#[tokio::test]
async fn a_failure_is_named_and_tried_again() {
    let script = Script::new()
        .on(PODS, refusal(403, "Forbidden", "pods is forbidden"))
        .on(PODS, list(10, "", &[]))
        .on(PODS, refusal(429, "TooManyRequests", "later"))
        .on(PODS, refusal(500, "InternalError", "no"))
        .on(PODS, list(10, "", &[]))
        .on(PODS, watch(&[("ERROR", failure(500, "InternalError", "broken"))]));
    let (seen, asked) = changes(script, 5).await;
    assert_eq!(
        seen,
        [
            "down list: 403 Forbidden: pods is forbidden",
            "listed ",
            "down watch: 429 TooManyRequests: later",
            "down check: 500 InternalError: no",
            "down watch: 500 InternalError: broken",
        ]
    );
    assert_eq!(asked, ["list", "list", "watch from 10", "check 10", "check 10", "watch from 10"]);
}

#[tokio::test]
async fn a_list_that_ends_early_is_no_list() {
    let whole =
        json!({"metadata": {"resourceVersion": "10"}, "items": [pod("a", 3), pod("b", 4)]}).to_string();
    let script = Script::new()
        .on(PODS, Reply::sse().send(whole[..whole.len() / 2].to_owned()))
        .on(PODS, list(10, "", &[pod("a", 3), pod("b", 4)]));
    let (seen, _) = changes(script, 2).await;
    assert!(seen[0].starts_with("down list: "), "{seen:?}");
    assert_eq!(seen[1], "listed a@3 b@4");
}

#[test]
fn an_object_that_is_no_pod_keeps_its_version() {
    let object: PodObject =
        serde_json::from_value(json!({"metadata": {"name": "x", "resourceVersion": "7"}})).unwrap();
    assert_eq!(object.resource_version().as_deref(), Some("7"));
    assert!(object.into_pod().is_none());
    let object: PodObject = serde_json::from_value(pod("a", 3)).unwrap();
    assert_eq!(object.into_pod().unwrap().uid(), Some("uid-a"));
}

fn log() -> Arc<Log> {
    let store = MemoryStore::new(Retention::default());
    Arc::new(Log::open(Arc::new(store), Clock::system()).unwrap())
}

fn pods_of(namespace: &str, names: &[&str]) -> Vec<Pod> {
    names.iter().map(|name| relay_proto::pods::PodBuilder::new(namespace, name).build()).collect()
}

fn keys(log: &Arc<Log>) -> Vec<String> {
    let publisher = Publisher::new(log.clone(), []);
    publisher.current().iter().map(|pod| format!("{}/{}", pod.namespace(), pod.name())).collect()
}

#[test]
fn the_log_is_synced_once_every_namespace_was_listed() {
    let log = log();
    let mut fold = Fold::new(Publisher::new(log.clone(), []), vec!["prod".to_owned(), "test".to_owned()]);
    fold.take(0, Change::Listed(pods_of("prod", &["a", "b"]))).unwrap();
    fold.take(0, Change::Up).unwrap();
    fold.take(0, Change::Deleted(pods_of("prod", &["a"]).remove(0))).unwrap();
    fold.take(0, Change::Applied(pods_of("prod", &["c"]).remove(0))).unwrap();
    assert!(!log.source().synced && keys(&log).is_empty());
    fold.take(1, Change::Listed(pods_of("test", &["t"]))).unwrap();
    assert!(log.source().ready());
    assert_eq!(keys(&log), ["prod/b", "prod/c", "test/t"]);
}

#[test]
fn a_list_of_one_namespace_leaves_the_others_alone() {
    let log = log();
    let mut fold = Fold::new(Publisher::new(log.clone(), []), vec!["prod".to_owned(), "test".to_owned()]);
    fold.take(0, Change::Listed(pods_of("prod", &["a"]))).unwrap();
    fold.take(1, Change::Listed(pods_of("test", &["t"]))).unwrap();
    fold.take(1, Change::Listed(pods_of("test", &["u"]))).unwrap();
    assert_eq!(keys(&log), ["prod/a", "test/u"]);
    fold.take(1, Change::Deleted(pods_of("test", &["u"]).remove(0))).unwrap();
    fold.take(0, Change::Applied(pods_of("prod", &["b"]).remove(0))).unwrap();
    assert_eq!(keys(&log), ["prod/a", "prod/b"]);
}

#[test]
fn the_log_is_live_only_while_every_namespace_is() {
    let log = log();
    let mut fold = Fold::new(Publisher::new(log.clone(), []), vec!["prod".to_owned(), "test".to_owned()]);
    fold.take(0, Change::Listed(vec![])).unwrap();
    fold.take(1, Change::Listed(vec![])).unwrap();
    assert!(log.source().ready());
    fold.take(0, Change::Down("gone".to_owned())).unwrap();
    assert!(!log.source().ready());
    fold.take(1, Change::Down("gone".to_owned())).unwrap();
    fold.take(1, Change::Listed(vec![])).unwrap();
    assert!(!log.source().ready(), "the other one is still away");
    fold.take(0, Change::Up).unwrap();
    assert!(log.source().ready());
}

#[tokio::test]
async fn a_wrong_set_up_ends_the_source() {
    let run = |source: KubeSource| source.follow(Publisher::new(log(), []), CancellationToken::new());
    let error = run(KubeSource::new().kubeconfig("/no/such/file")).await.unwrap_err().to_string();
    assert!(error.contains("/no/such/file"), "{error}");
    let error = run(KubeSource::new().namespaces(["Not A Namespace"])).await.unwrap_err().to_string();
    assert!(error.contains("Not A Namespace"), "{error}");
}

#[tokio::test]
async fn a_cluster_is_followed_until_the_source_is_told_to_stop() {
    let script = Script::new()
        .on("/api/v1/namespaces/prod/pods", list(10, "", &[pod("a", 3)]))
        .on("/api/v1/namespaces/prod/pods", watch(&[("ADDED", pod("b", 11))]).silence());
    let peer = Peer::start(script).await;
    let directory = tempfile::tempdir().unwrap();
    let kubeconfig = directory.path().join("config");
    let text = json!({"current-context": "c", "clusters": [{"name": "c", "cluster": {"server": peer.url()}}],
        "users": [{"name": "u", "user": {"token": "t0ken"}}], "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}]});
    std::fs::write(&kubeconfig, text.to_string()).unwrap();

    let log = log();
    let stop = CancellationToken::new();
    let source = Box::new(KubeSource::new().kubeconfig(kubeconfig).namespaces(["prod"]));
    assert_eq!(source.kind(), "kube");
    let run = tokio::spawn(source.run(Publisher::new(log.clone(), []), stop.clone()));
    let mut head = log.watch_head();
    let limit = Duration::from_secs(30);
    tokio::time::timeout(limit, head.wait_for(|head| *head == 2)).await.unwrap().unwrap();
    assert_eq!(keys(&log), ["prod/a", "prod/b"]);
    assert_eq!(peer.request(0).await.header("authorization"), Some("Bearer t0ken"));
    stop.cancel();
    tokio::time::timeout(limit, run).await.unwrap().unwrap().unwrap();
}
