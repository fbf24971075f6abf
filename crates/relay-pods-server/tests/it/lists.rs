//! The current pods.

use std::time::Duration;

use relay_pods_server::{Config, DEFAULT_RETENTION, Scope};

use crate::raw::{Rig, pod};

fn names(list: &serde_json::Value) -> Vec<&str> {
    list["pods"].as_array().unwrap().iter().map(|pod| pod["name"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn an_empty_log_has_its_genesis_as_position() {
    let rig = Rig::start(Config::default()).await;
    let list = rig.get("/pods").await;
    assert_eq!((list.status(), list.field("content-type")), (200, Some("application/json")));
    let list = list.json();
    assert_eq!((&list["pods"], &list["sequence"]), (&serde_json::json!([]), &0.into()));
    assert_eq!(list["epoch"], "fixture-epoch-1");
    assert_eq!(list["as_of"], "2026-11-21T09:00:00Z");
    let genesis = list["hash"].as_str().unwrap();
    assert!(genesis.starts_with("fixture-.0.") && genesis.len() <= 256, "{genesis}");
}

#[tokio::test]
async fn a_list_is_narrowed_by_any_namespace_and_all_labels() {
    let rig = Rig::start(Config::default()).await;
    for (namespace, name, labels) in [
        ("dev", "a", ["app=web", "run=1"]),
        ("prod", "b", ["app=web", "run=1"]),
        ("prod", "c", ["app=db", "run=1"]),
        ("test", "d", ["app=web", "run=2"]),
    ] {
        rig.publisher.upsert(pod(namespace, name, 1, &labels)).await.unwrap();
    }
    for (query, expected) in [
        ("", "a b c d"),
        ("?namespace=prod", "b c"),
        ("?namespace=prod&namespace=dev", "a b c"),
        ("?label=app%3Dweb", "a b d"),
        ("?label=app=web&label=run=1", "a b"),
        ("?label=app=web&label=run=1&namespace=prod", "b"),
        ("?label=run", "a b c d"),
        ("?label=missing", ""),
        ("?label=app=", ""),
        ("?namespace=&label=", "a b c d"),
        ("?namespace=none", ""),
        ("?unknown=1&limit=x&start=y", "a b c d"),
    ] {
        let list = rig.get(&format!("/pods{query}")).await.json();
        assert_eq!(names(&list).join(" "), expected, "{query}");
        assert_eq!(list["sequence"], 4, "the position is the log's, whatever the filter");
    }
}

#[tokio::test]
async fn lines_have_a_header_and_an_end() {
    let rig = Rig::start(Config::default()).await;
    for at in 0..3 {
        rig.publisher.upsert(pod("prod", &format!("web-{at}"), 1, &["app=web"])).await.unwrap();
    }
    rig.publisher.upsert(pod("dev", "other", 1, &[])).await.unwrap();
    for (query, count) in [("", 4), ("?namespace=prod", 3), ("?label=app=none", 0)] {
        let list = rig
            .ask(&format!("GET /pods{query} HTTP/1.1\r\nhost: r\r\naccept: application/x-ndjson\r\n\r\n"))
            .await;
        assert_eq!(list.field("content-type"), Some("application/x-ndjson"));
        assert!(list.body.ends_with('\n'));
        let lines: Vec<serde_json::Value> =
            list.body.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), count + 2);
        assert_eq!((&lines[0]["count"], &lines[0]["sequence"]), (&count.into(), &4.into()));
        assert!(lines[0].get("pods").is_none() && lines[0]["hash"].is_string());
        assert_eq!(lines.last().unwrap(), &serde_json::json!({ "end": true, "count": count }));
    }
}

#[tokio::test]
async fn a_large_list_is_whole_and_of_one_position() {
    let rig = Rig::start(Config::default()).await;
    let pods = (0..5000).map(|at| pod("prod", &format!("web-{at:05}"), 1, &["app=web"])).collect();
    rig.publisher.relist(Scope::All, pods).await.unwrap();
    let mut peer = rig.connect().await;
    peer.send(b"GET /pods HTTP/1.1\r\nhost: r\r\n\r\n").await;
    let head = peer.head().await;
    assert!(head.to_lowercase().contains("transfer-encoding: chunked"), "written while it is read: {head}");
    // The log changes while the list is being sent.
    rig.publisher.relist(Scope::All, vec![]).await.unwrap();
    let mut peer2 = rig.connect().await;
    peer2.send(b"GET /pods HTTP/1.1\r\nhost: r\r\naccept: application/x-ndjson\r\n\r\n").await;
    assert_eq!(peer2.answer().await.body.lines().count(), 2);
    let rest = String::from_utf8(peer.rest_of_chunked().await).unwrap();
    let list: serde_json::Value = serde_json::from_str(&rest).unwrap();
    assert_eq!((names(&list).len(), &list["sequence"]), (5000, &5000.into()));
}

#[tokio::test]
async fn one_pod_is_bare_and_404_when_absent() {
    let rig = Rig::start(Config::default()).await;
    rig.publisher.upsert(pod("prod", "web", 5, &["app=web"])).await.unwrap();
    let found = rig.get("/pods/prod/web").await;
    assert_eq!((found.status(), found.field("content-type")), (200, Some("application/json")));
    let found = found.json();
    assert_eq!((&found["name"], &found["labels"]["app"]), (&"web".into(), &"web".into()));
    assert_eq!(found["resource_version"], "5");
    for absent in ["/pods/prod/none", "/pods/dev/web", "/pods/PROD/web", "/pods/prod/web%2Fx"] {
        let answer = rig.get(absent).await;
        assert_eq!(answer.status(), 404, "{absent}");
        answer.problem("not-found");
    }
    rig.publisher.delete(pod("prod", "web", 6, &[])).await.unwrap();
    assert_eq!(rig.get("/pods/prod/web").await.status(), 404);
}

#[tokio::test]
async fn at_least_waits_for_what_is_to_come_and_for_nothing_else() {
    let config = Config::default().wait(Duration::from_millis(50));
    let rig = Rig::start(config).await;
    rig.publisher.upsert(pod("prod", "web", 1, &[])).await.unwrap();
    let head = rig.get("/pods").await.json()["hash"].as_str().unwrap().to_owned();
    // The same log at a later position: its hashes belong to positions that this replica has not reached.
    let ahead = Rig::start(Config::default()).await;
    ahead.publisher.upsert(pod("prod", "web", 1, &[])).await.unwrap();
    ahead.publisher.upsert(pod("prod", "web", 2, &[])).await.unwrap();
    let next = ahead.get("/pods").await.json()["hash"].as_str().unwrap().to_owned();

    for hash in [head.as_str(), "", "nonsense", "not%20a%20hash%0d%0a", "fixture-.1.x.y"] {
        let list = rig.get(&format!("/pods?at_least={hash}")).await;
        assert_eq!((list.status(), &list.json()["sequence"]), (200, &1.into()), "{hash}");
    }
    let refused = rig.get(&format!("/pods?at_least={next}")).await;
    assert_eq!((refused.status(), refused.field("retry-after")), (503, Some("1")));
    assert!(refused.problem("not-ready").contains("at_least"));
    let twice = rig.get(&format!("/pods?at_least={next}&at_least={next}")).await;
    assert!(twice.problem("bad-parameter").contains("at_least"));
}

#[tokio::test]
async fn a_position_that_comes_in_time_is_waited_for() {
    let rig = Rig::start(Config::default().wait(Duration::from_secs(20))).await;
    let ahead = Rig::start(Config::default()).await;
    ahead.publisher.upsert(pod("prod", "web", 1, &[])).await.unwrap();
    let next = ahead.get("/pods").await.json()["hash"].as_str().unwrap().to_owned();
    let mut peer = rig.connect().await;
    peer.send(format!("GET /pods?at_least={next} HTTP/1.1\r\nhost: r\r\n\r\n").as_bytes()).await;
    // The answer to a second request shows that the first one is still waiting.
    assert_eq!(rig.get("/pods").await.json()["sequence"], 0);
    rig.publisher.upsert(pod("prod", "web", 1, &[])).await.unwrap();
    assert_eq!(peer.answer().await.json()["hash"], next);
}

#[tokio::test]
async fn before_the_first_sync_there_is_no_list() {
    let rig = Rig::unsynced(Config::default().wait(Duration::from_millis(20)), DEFAULT_RETENTION).await;
    for target in ["/pods", "/pods/prod/web", "/readyz"] {
        let answer = rig.get(target).await;
        assert_eq!((answer.status(), answer.field("retry-after")), (503, Some("1")), "{target}");
        assert!(answer.problem("not-ready").contains("synced"));
    }
    rig.publisher.relist(Scope::All, vec![pod("prod", "web", 1, &[])]).await.unwrap();
    assert_eq!(names(&rig.get("/pods").await.json()), ["web"]);
}
