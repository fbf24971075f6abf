//! Pages of the retained events.

use std::time::Duration;

use relay_pods_server::{Config, DEFAULT_RETENTION, Retention, Scope};
use serde_json::{Value, json};

use crate::raw::{Answer, Rig, pod};

/// `n` events, each of another pod: `p1` to `pn`, in `prod` if the number is even, otherwise in `dev`.
async fn numbered(n: u64, retention: Retention) -> Rig {
    let rig = Rig::with_retention(Config::default().wait(Duration::from_millis(20)), retention).await;
    for at in 1..=n {
        let namespace = if at % 2 == 0 { "prod" } else { "dev" };
        rig.publisher.upsert(pod(namespace, &format!("p{at}"), at, &["app=web"])).await.unwrap();
    }
    rig
}

fn sequences(page: &Value) -> Vec<u64> {
    page["events"].as_array().unwrap().iter().map(|event| event["sequence"].as_u64().unwrap()).collect()
}

async fn hash_of(rig: &Rig, sequence: u64) -> String {
    let page = rig.get("/events?limit=1000").await.json();
    let event = page["events"].as_array().unwrap().iter().find(|event| event["sequence"] == sequence);
    event.unwrap()["hash"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn pages_follow_each_other_without_a_hole_in_both_orders() {
    let rig = numbered(10, DEFAULT_RETENTION).await;
    for (order, cursor, filter, expected) in [
        ("oldest", "since_hash", "", vec![vec![1, 2, 3], vec![4, 5, 6], vec![7, 8, 9], vec![10]]),
        ("newest", "before_hash", "", vec![vec![10, 9, 8], vec![7, 6, 5], vec![4, 3, 2], vec![1]]),
        ("oldest", "since_hash", "&namespace=prod", vec![vec![2, 4, 6], vec![8, 10]]),
        ("newest", "before_hash", "&namespace=dev&label=app", vec![vec![9, 7, 5], vec![3, 1]]),
        ("oldest", "since_hash", "&type=DELETED", vec![vec![]]),
    ] {
        let mut at = String::new();
        let last = expected.len() - 1;
        for (number, expected) in expected.into_iter().enumerate() {
            let page = rig.get(&format!("/events?limit=3&order={order}{filter}{at}")).await.json();
            assert_eq!(sequences(&page), expected, "{order} {filter} page {number}");
            let next = page["next_hash"].as_str().map(str::to_owned);
            assert_eq!(next.is_none(), number == last, "{order} {filter} page {number}");
            if let Some(next) = next {
                assert_eq!(page["events"][2]["hash"], next.as_str(), "the last event's");
                at = format!("&{cursor}={next}");
            }
        }
    }
    // The last page may be full: if nothing more matches, it has no next hash.
    let page = rig.get("/events?limit=5&namespace=prod").await.json();
    assert_eq!((sequences(&page).len(), &page["next_hash"]), (5, &json!(null)));
}

#[tokio::test]
async fn an_event_has_the_fields_of_the_stream_and_its_predecessor_when_nothing_narrows() {
    let rig = numbered(3, DEFAULT_RETENTION).await;
    let mut stream = rig.stream("/events/stream").await;
    stream.expect("connected").await;
    let page = rig.get("/events").await.json();
    for at in 0..3 {
        assert_eq!(stream.expect("pod").await, page["events"][at]);
    }
    for narrowed in
        ["/events?namespace=prod", "/events?label=app", "/events?type=ADDED", "/pods/prod/p2/events"]
    {
        let page = rig.get(narrowed).await.json();
        let event = page["events"].as_array().unwrap().iter().find(|event| event["sequence"] == 2).unwrap();
        assert!(event.get("previous_hash").is_none(), "{narrowed}");
        let mut whole = stream_event(&rig, 2).await;
        whole.as_object_mut().unwrap().remove("previous_hash");
        assert_eq!(*event, whole, "{narrowed}");
    }
}

async fn stream_event(rig: &Rig, sequence: u64) -> Value {
    let mut stream = rig.stream("/events/stream").await;
    let messages = stream.until("catchup_complete").await;
    messages.into_iter().find(|(event, data)| event == "pod" && data["sequence"] == sequence).unwrap().1
}

#[tokio::test]
async fn a_pod_keeps_its_history_after_its_end() {
    let rig = numbered(4, DEFAULT_RETENTION).await;
    rig.publisher.upsert(pod("prod", "p2", 20, &["app=db"])).await.unwrap();
    rig.publisher.delete(pod("prod", "p2", 21, &["app=db"])).await.unwrap();
    rig.publisher.upsert(pod("dev", "p2", 22, &["app=web"])).await.unwrap();
    for (query, expected) in [
        ("", "ADDED 2, MODIFIED 5, DELETED 6"),
        ("?order=newest", "DELETED 6, MODIFIED 5, ADDED 2"),
        ("?type=MODIFIED&type=ADDED", "ADDED 2, MODIFIED 5"),
        ("?label=app=web", "ADDED 2, DELETED 5"),
        ("?namespace=prod&namespace=other", "ADDED 2, MODIFIED 5, DELETED 6"),
        ("?namespace=dev", ""),
    ] {
        let page = rig.get(&format!("/pods/prod/p2/events{query}")).await.json();
        let events = page["events"].as_array().unwrap().iter();
        let shown: Vec<_> =
            events.map(|e| format!("{} {}", e["type"].as_str().unwrap(), e["sequence"])).collect();
        assert_eq!(shown.join(", "), expected, "{query}");
    }
    let never = rig.get("/pods/prod/never/events").await;
    assert_eq!((never.status(), never.json()), (200, json!({ "events": [], "next_hash": null })));
}

fn gone(answer: &Answer, code: &str, oldest: &Value) {
    assert_eq!(answer.status(), 410, "{answer:?}");
    let detail = answer.problem(code);
    assert!(detail.starts_with("since_hash: ") || detail.starts_with("before_hash: "), "{detail}");
    assert_eq!(&answer.json()["oldest_hash"], oldest);
}

#[tokio::test]
async fn a_page_whose_start_is_gone_is_refused_rather_than_short() {
    let whole = numbered(9, DEFAULT_RETENTION).await;
    let rig = numbered(9, DEFAULT_RETENTION.entries(4)).await;
    // Both logs have the same identity, so their hashes are the same.
    let oldest = json!(hash_of(&rig, 6).await);
    for (target, expected) in [
        ("since_hash={4}", None),
        ("since_hash={5}", Some(vec![6, 7, 8, 9])),
        ("since_hash={8}", Some(vec![9])),
        ("since_hash={9}", Some(vec![])),
        ("since_hash={4}&order=newest", None),
        ("before_hash={9}&order=newest", Some(vec![8, 7, 6])),
        ("before_hash={7}&order=newest", Some(vec![6])),
        ("before_hash={6}&order=newest", None),
        ("before_hash={3}&order=newest", None),
        ("before_hash={8}&order=oldest", Some(vec![6, 7])),
        ("before_hash={6}", None),
    ] {
        let at: u64 = target.split(['{', '}']).nth(1).unwrap().parse().unwrap();
        let query = target.replace(&format!("{{{at}}}"), &hash_of(&whole, at).await);
        let answer = rig.get(&format!("/events?{query}")).await;
        match expected {
            Some(expected) => assert_eq!(sequences(&answer.json()), expected, "{target}"),
            None => gone(&answer, "cursor-expired", &oldest),
        }
    }
    for cursor in ["since_hash", "before_hash"] {
        gone(&rig.get(&format!("/events?{cursor}=nonsense")).await, "cursor-unknown", &oldest);
        gone(&rig.get(&format!("/pods/prod/p2/events?{cursor}=a%20b")).await, "cursor-unknown", &oldest);
    }
    rig.handle.trim_to_head().await.unwrap();
    gone(&rig.get("/events?since_hash=nonsense").await, "cursor-unknown", &json!(null));
    assert_eq!(rig.get("/events").await.json(), json!({ "events": [], "next_hash": null }));
    // There is nothing before the first event, and nothing is missing.
    let first = hash_of(&whole, 1).await;
    let page = whole.get(&format!("/events?before_hash={first}&order=newest")).await;
    assert_eq!(page.json(), json!({ "events": [], "next_hash": null }));
}

#[tokio::test]
async fn both_cursors_bound_a_window_and_are_outside_of_it() {
    let rig = numbered(9, DEFAULT_RETENTION).await;
    for (since, before, order, expected) in [
        (3, 7, "oldest", vec![4, 5, 6]),
        (3, 7, "newest", vec![6, 5, 4]),
        (3, 4, "oldest", vec![]),
        (7, 3, "oldest", vec![]),
        (7, 3, "newest", vec![]),
    ] {
        let (since_hash, before_hash) = (hash_of(&rig, since).await, hash_of(&rig, before).await);
        let target = format!("/events?since_hash={since_hash}&before_hash={before_hash}&order={order}");
        assert_eq!(sequences(&rig.get(&target).await.json()), expected, "{since} {before} {order}");
    }
}

#[tokio::test]
async fn parameters_are_checked_by_name() {
    let rig = numbered(1, DEFAULT_RETENTION).await;
    for (target, name) in [
        ("/events?limit=0", "limit"),
        ("/events?limit=", "limit"),
        ("/events?limit=1001", "limit"),
        ("/events?limit=1&limit=1", "limit"),
        ("/events?order=", "order"),
        ("/events?order=up", "order"),
        ("/events?type=", "type"),
        ("/events?type=CREATED", "type"),
        ("/events?namespace=A", "namespace"),
        ("/events?label=-", "label"),
        ("/events?since_hash=a&since_hash=a", "since_hash"),
        ("/pods/prod/p2/events?limit=x", "limit"),
        ("/pods?namespace=a_b", "namespace"),
        ("/pods?label=a%20b", "label"),
        ("/events/stream?start=", "start"),
        ("/events/stream?start=oldest", "start"),
        ("/events/stream?start=latest&start=latest", "start"),
        ("/events/stream?client_id=", "client_id"),
        ("/events/stream?client_id=a%0D%0Ab", "client_id"),
        ("/events/stream?session_id=a&session_id=b", "session_id"),
        ("/events/stream?namespace=%2A", "namespace"),
    ] {
        let answer = rig.get(target).await;
        assert_eq!(answer.status(), 400, "{target}");
        let detail = answer.problem("bad-parameter");
        assert!(detail.starts_with(name), "{target}: {detail}");
    }
    for fine in ["/events?limit=1000&since_hash=&before_hash=&x=1&x=2", "/events?start=oldest&client_id="] {
        assert_eq!(rig.get(fine).await.status(), 200, "{fine}");
    }
}

#[tokio::test]
async fn lists_are_taken_in_as_differences() {
    let rig = Rig::start(Config::default()).await;
    let relist = async |scope, pods: Vec<_>| rig.publisher.relist(scope, pods).await.unwrap();
    let (a, b, c) = (pod("prod", "a", 1, &[]), pod("prod", "b", 1, &[]), pod("dev", "c", 1, &[]));
    let first = relist(Scope::All, vec![c.clone(), b.clone(), a.clone()]).await;
    assert_eq!((first.added, first.modified, first.deleted), (3, 0, 0));
    assert_eq!(relist(Scope::All, vec![a.clone(), b.clone(), c.clone()]).await, Default::default());
    let newer = pod("prod", "b", 2, &[]);
    let second = relist(Scope::Namespaces(["prod".to_owned()].into()), vec![newer.clone()]).await;
    assert_eq!((second.added, second.modified, second.deleted), (0, 1, 1));
    let reborn = newer.to_builder().uid(Some("another")).build();
    let third = relist(Scope::All, vec![reborn.clone(), c.clone()]).await;
    assert_eq!((third.added, third.modified, third.deleted), (1, 0, 1));
    rig.publisher.upsert(reborn.to_builder().uid(Some("third")).build()).await.unwrap();
    rig.publisher.upsert(c).await.unwrap();
    rig.publisher.delete(newer).await.unwrap();
    rig.publisher.delete(pod("prod", "absent", 1, &[])).await.unwrap();
    let page = rig.get("/events").await.json();
    let shown: Vec<_> = page["events"]
        .as_array()
        .unwrap()
        .iter()
        .map(|event| {
            let mark = if event["synthetic"] == true { "*" } else { "" };
            let name = event["pod"]["name"].as_str().unwrap();
            format!(
                "{}{mark} {name} {}",
                event["type"].as_str().unwrap(),
                event["pod"]["uid"].as_str().unwrap()
            )
        })
        .collect();
    let expected = [
        "ADDED* c uid-of-c",
        "ADDED* a uid-of-a",
        "ADDED* b uid-of-b",
        "DELETED* a uid-of-a",
        "MODIFIED* b uid-of-b",
        "DELETED* b uid-of-b",
        "ADDED* b another",
        "DELETED b another",
        "ADDED b third",
    ];
    assert_eq!(shown, expected);
    assert_eq!(rig.publisher.current().len(), 2);
}

#[tokio::test]
async fn annotations_are_published_by_name_only() {
    let config = Config::default().annotations(["team".to_owned()].into());
    let rig = Rig::start(config).await;
    let secret = "kubectl.kubernetes.io/last-applied-configuration";
    let annotated =
        pod("prod", "a", 1, &[]).to_builder().annotations([("team", "x"), (secret, "s3cret")]).build();
    rig.publisher.upsert(annotated.clone()).await.unwrap();
    rig.publisher
        .upsert(annotated.to_builder().annotations([("team", "x"), (secret, "other")]).build())
        .await
        .unwrap();
    let page = rig.get("/events").await;
    assert_eq!(page.json()["events"].as_array().unwrap().len(), 1, "what is not published changes nothing");
    assert_eq!(page.json()["events"][0]["pod"]["annotations"], json!({ "team": "x" }));
    assert!(!page.body.contains("s3cret"));
}
