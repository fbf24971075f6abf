//! List and watch, with an API server that works, and with one that does not.

use std::time::Duration;

use relay_kube::{Event, ObjectMeta, Watcher};
use relay_testkit::{ApiServer, Ask, Clock, Reply, within};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{PODS, client, pod, pods};

/// The fields that are read of a pod. An object whose node is not a text cannot be read.
#[derive(Debug, Clone, PartialEq, Deserialize)]
struct Pod {
    spec: Spec,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Spec {
    node_name: String,
}

async fn watcher(server: &ApiServer) -> Watcher<Pod> {
    Watcher::new(client(server).await, pods())
}

/// An event as a short text.
fn words(event: &Event<Pod>) -> String {
    let names = |metas: Vec<&ObjectMeta>| -> String {
        metas.iter().map(|meta| format!(" {}@{}", meta.name, meta.resource_version)).collect()
    };
    match event {
        Event::Listed { objects, kept, .. } => {
            let listed = names(objects.iter().map(|object| &object.meta).collect());
            let kept = names(kept.iter().collect());
            if kept.is_empty() { format!("listed{listed}") } else { format!("listed{listed} kept{kept}") }
        }
        Event::Applied(object) => format!("applied{}", names(vec![&object.meta])),
        Event::Deleted(object) => format!("deleted{}", names(vec![&object.meta])),
        Event::Unreadable { count, .. } => format!("{count} unreadable"),
        Event::Live => "live".to_owned(),
        Event::Interrupted(interruption) => format!("away {}", interruption.reason),
        _ => "?".to_owned(),
    }
}

async fn next(watcher: &mut Watcher<Pod>) -> String {
    words(&within("the next event", watcher.next()).await)
}

/// The next events, without `live`, which is repeated after each start of a watch.
async fn some(watcher: &mut Watcher<Pod>, count: usize) -> Vec<String> {
    let mut seen = Vec::new();
    while seen.len() < count {
        let event = next(watcher).await;
        if event != "live" {
            seen.push(event);
        }
    }
    seen
}

/// The same on frozen time, which advances when nothing else happens.
async fn some_on(clock: &Clock, watcher: &mut Watcher<Pod>, count: usize) -> Vec<String> {
    clock.run(Duration::from_millis(100), some(watcher, count)).await
}

fn status(code: u16, reason: &str, message: &str) -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason, "message": message})
}

/// A watch that sends these events and ends.
fn watch(events: &[(&str, Value)]) -> Reply {
    events.iter().fold(Reply::sse().chunked(), |reply, (kind, object)| {
        reply.send(format!("{}\n", json!({"type": kind, "object": object})))
    })
}

fn list(version: &str, items: Value) -> Reply {
    Reply::json(200, &json!({"kind": "PodList", "metadata": {"resourceVersion": version}, "items": items}))
}

fn versioned(name: &str, version: &str) -> Value {
    json!({"metadata": {"namespace": "prod", "name": name, "uid": format!("uid-{name}"), "resourceVersion": version},
        "spec": {"nodeName": "n1"}})
}

#[tokio::test]
async fn pages_make_one_list_and_changes_follow() {
    let server = ApiServer::start().await;
    for n in 0..501 {
        server.put(PODS, pod(&format!("p{n:03}")));
    }
    let mut watcher = watcher(&server).await;
    let Event::Listed { objects, .. } = watcher.next().await else { panic!("a list comes first") };
    assert_eq!((objects.len(), &*objects[500].meta.name), (501, "p500"));
    assert_eq!(next(&mut watcher).await, "live");
    assert_eq!((server.count(Ask::List), server.count(Ask::Page)), (1, 1));
    server.request_after(&mut watcher).await;
    server.put(PODS, pod("new"));
    server.put(PODS, pod("p000"));
    server.delete(PODS, "prod", "p001");
    assert_eq!(some(&mut watcher, 3).await, ["applied new@503", "applied p000@504", "deleted p001@505"]);
}

/// Polls the watcher until its watch is open.
trait RequestAfter {
    async fn request_after(&self, watcher: &mut Watcher<Pod>);
}

impl RequestAfter for ApiServer {
    async fn request_after(&self, watcher: &mut Watcher<Pod>) {
        tokio::select! {
            _ = self.request(Ask::Watch, 0) => {}
            event = watcher.next() => assert_eq!(words(&event), "live"),
        }
    }
}

#[tokio::test]
async fn a_watch_that_ends_is_resumed_at_its_last_version() {
    let server = ApiServer::start().await;
    server.put(PODS, pod("a"));
    let mut watcher = watcher(&server).await;
    assert_eq!(some(&mut watcher, 1).await, ["listed a@2"]);
    server.put(PODS, pod("b"));
    assert_eq!(some(&mut watcher, 1).await, ["applied b@3"]);
    server.end_watches();
    server.put(PODS, pod("c"));
    assert_eq!(some(&mut watcher, 1).await, ["applied c@4"]);
    server.end_watches();
    server.put(PODS, pod("d"));
    assert_eq!(some(&mut watcher, 1).await, ["applied d@5"]);
    assert_eq!(server.count(Ask::List), 1, "nothing is listed again");
    let versions: Vec<_> =
        server.requests().iter().filter_map(|(_, request)| request.query("resourceVersion")).collect();
    assert!(versions.ends_with(&["4".into(), "4".into()]), "a check and a watch: {versions:?}");
}

#[tokio::test]
async fn an_expired_version_is_listed_again_and_never_called_up_to_date() {
    for expired in [
        watch(&[("ERROR", status(410, "Expired", "too old resource version: 10 (12)"))]),
        Reply::json(410, &status(410, "Expired", "too old resource version: 10 (12)")),
    ] {
        let server = ApiServer::start().await;
        server.put(PODS, pod("a"));
        server.reply(Ask::Watch, expired);
        let mut watcher = watcher(&server).await;
        assert_eq!(next(&mut watcher).await, "listed a@2");
        assert_eq!(next(&mut watcher).await, "live");
        server.put(PODS, pod("b"));
        assert_eq!(next(&mut watcher).await, "listed a@2 b@3", "without a word about being away");
        assert_eq!(server.count(Ask::Check), 0);
    }
}

/// Every watch is answered with 410 at once, as by API servers behind a load balancer, or by a watch cache that lags.
#[tokio::test]
async fn lists_are_spaced_while_versions_expire_at_once_and_the_source_is_said_to_be_away() {
    let clock = Clock::freeze();
    let server = ApiServer::start().await;
    server.always(Ask::Watch, watch(&[("ERROR", status(410, "Expired", "too old"))]));
    let mut watcher = watcher(&server).await;
    let mut seen = Vec::new();
    let minute = async {
        tokio::select! {
            () = tokio::time::sleep(Duration::from_secs(60)) => {}
            () = async { loop { seen.push(words(&watcher.next().await)) } } => {}
        }
    };
    clock.run(Duration::from_millis(100), minute).await;
    // The delays are at least 0.4 s, then double, up to 15 s; this limits the number of lists in a minute.
    let lists = server.count(Ask::List);
    assert!((3..=10).contains(&lists), "{lists} full lists in a minute");
    let away = seen.iter().position(|event| event.starts_with("away watch: ")).expect("it is said");
    assert!(!seen[away..].contains(&"live".to_owned()), "a list alone is not live: {seen:?}");
    assert!(seen[away].contains("410 Expired"), "{seen:?}");
    // The source is live again once a watch is accepted.
    server.restore(Ask::Watch);
    let live = async { while words(&watcher.next().await) != "live" {} };
    clock.run(Duration::from_millis(100), live).await;
}

#[tokio::test]
async fn watches_that_live_for_less_than_a_second_are_spaced_whatever_they_bring() {
    let clock = Clock::freeze();
    let server = ApiServer::start().await;
    server.always(Ask::Watch, watch(&[("MODIFIED", versioned("a", "11"))]));
    let mut watcher = watcher(&server).await;
    let minute = async {
        tokio::select! {
            () = tokio::time::sleep(Duration::from_secs(60)) => {}
            () = async { loop { watcher.next().await; } } => {}
        }
    };
    clock.run(Duration::from_millis(20), minute).await;
    let watches = server.count(Ask::Watch);
    assert!((3..=10).contains(&watches), "{watches} watches in a minute");
}

#[tokio::test]
async fn versions_that_went_back_are_listed_again() {
    let clock = Clock::freeze();
    let server = ApiServer::start().await;
    for name in ["a", "b", "c"] {
        server.put(PODS, pod(name));
    }
    let mut watcher = watcher(&server).await;
    assert_eq!(some_on(&clock, &mut watcher, 1).await, ["listed a@2 b@3 c@4"]);
    server.go_back(2);
    server.put(PODS, pod("z"));
    // The watch stays silent; the check after it finds the older versions. Now an older version of the same pod is
    // used.
    assert_eq!(some_on(&clock, &mut watcher, 1).await, ["listed a@2 b@2 c@2 z@3"]);
    assert_eq!(server.count(Ask::Check), 1);
    server.put(PODS, pod("y"));
    assert_eq!(some_on(&clock, &mut watcher, 1).await, ["applied y@4"]);
}

#[tokio::test]
async fn a_failure_is_named_and_tried_again() {
    let clock = Clock::freeze();
    let server = ApiServer::start().await;
    server.reply(Ask::List, Reply::json(403, &status(403, "Forbidden", "pods is forbidden")));
    server.reply(Ask::Watch, Reply::json(429, &status(429, "TooManyRequests", "later")));
    server.reply(Ask::Check, Reply::json(500, &status(500, "InternalError", "s3cret")));
    server.reply(Ask::Watch, watch(&[("ERROR", status(500, "InternalError", "s3cret"))]));
    server.reply(Ask::Watch, Reply::new(502, "text/html", "<html>s3cret</html>"));
    let mut watcher = watcher(&server).await;
    assert_eq!(
        some_on(&clock, &mut watcher, 7).await,
        [
            "away list: 403 Forbidden: pods is forbidden",
            "listed",
            "away watch: 429 TooManyRequests: later",
            "away check: 500 InternalError",
            "away watch: 500 InternalError",
            "away watch: 502 BadGateway",
            "listed",
        ]
    );
}

/// An API server asks clients to wait: in a header, in a `Status`, in an event.
#[tokio::test]
async fn no_request_comes_before_the_time_the_api_server_asked_for() {
    let told = |code: u16| {
        let mut status = status(code, "TooManyRequests", "later");
        status["details"] = json!({"retryAfterSeconds": 20});
        status
    };
    let by_header = || Reply::json(503, &status(503, "ServiceUnavailable", "no")).header("retry-after", "20");
    let plain = || Reply::new(429, "text/plain", "Too many requests").header("Retry-After", "20");
    let short = watch(&[]);
    for (name, ask, reply, before) in [
        ("a list, by a header", Ask::List, plain(), None),
        ("a list, in the answer", Ask::List, Reply::json(429, &told(429)), None),
        ("a page", Ask::Page, by_header(), None),
        ("a watch", Ask::Watch, by_header(), None),
        ("a watch, in an event", Ask::Watch, watch(&[("ERROR", told(429))]), None),
        ("a check", Ask::Check, by_header(), Some(short)),
    ] {
        let clock = Clock::freeze();
        let server = ApiServer::start().await;
        for n in 0..501 {
            server.put(PODS, pod(&format!("p{n}")));
        }
        if let Some(before) = before {
            server.reply(Ask::Watch, before);
        }
        server.reply(ask, reply);
        let mut watcher = watcher(&server).await;
        let away = async { while !words(&watcher.next().await).starts_with("away") {} };
        clock.run(Duration::from_millis(100), away).await;
        let (asked, told) = (server.requests().len(), clock.elapsed());
        let mut following = tokio::spawn(async move {
            loop {
                watcher.next().await;
            }
        });
        clock.advance(Duration::from_millis(19_900)).await;
        assert_eq!(server.requests().len(), asked, "{name}: {:?} later", clock.elapsed() - told);
        let next = async {
            while server.requests().len() == asked {
                tokio::task::yield_now().await
            }
        };
        tokio::select! {
            () = clock.run(Duration::from_millis(100), next) => {}
            _ = &mut following => {}
        }
        following.abort();
        // The wait is at most a quarter longer, so that clients with the same wait do not come back together.
        assert!(clock.elapsed() - told < Duration::from_secs(30), "{name}: {:?}", clock.elapsed() - told);
    }
}

#[tokio::test]
async fn a_state_that_repeats_at_one_version_leads_to_a_list() {
    let undecodable = || Reply::sse().chunked().send("s3cret is no event\n");
    let cut = || Reply::sse().declare_length(100).send("{\"type\"").cut();
    for (name, ask, reply, said) in [
        (
            "an error",
            Ask::Watch,
            watch(&[("ERROR", status(500, "InternalError", "s3cret"))]),
            "500 InternalError",
        ),
        ("a line", Ask::Watch, undecodable(), "a line of 18 bytes is no event"),
        ("a cut", Ask::Watch, cut(), "broke off"),
        (
            "a check",
            Ask::Check,
            Reply::json(500, &status(500, "InternalError", "s3cret")),
            "500 InternalError",
        ),
        ("an end", Ask::Watch, watch(&[]), "ends as soon as it is opened"),
    ] {
        let clock = Clock::freeze();
        let server = ApiServer::start().await;
        server.put(PODS, pod("a"));
        if ask == Ask::Check {
            // The end of the watch before the check counts as a failure, too.
            server.reply(Ask::Watch, watch(&[]));
        }
        server.always(ask, reply);
        let mut watcher = watcher(&server).await;
        let mut seen = Vec::new();
        let again = async {
            while server.count(Ask::List) < 2 {
                seen.push(words(&watcher.next().await));
            }
        };
        clock.run(Duration::from_millis(100), again).await;
        let asked = server.count(ask);
        assert_eq!(
            asked,
            if ask == Ask::Check { 2 } else { 3 },
            "{name}: tried {asked} times at that version: {seen:?}"
        );
        let text = seen.join("\n");
        assert!(text.contains(said) && !text.contains("s3cret"), "{name}: {text}");
        server.restore(ask);
        let live = async { while words(&watcher.next().await) != "live" {} };
        clock.run(Duration::from_millis(100), live).await;
    }
}

#[tokio::test]
async fn a_list_whose_next_page_is_gone_is_read_without_pages() {
    let clock = Clock::freeze();
    let server = ApiServer::start().await;
    for n in 0..600 {
        server.put(PODS, pod(&format!("p{n}")));
    }
    server.always(Ask::Page, Reply::json(410, &status(410, "Expired", "the continue parameter is too old")));
    let mut watcher = watcher(&server).await;
    let Event::Listed { objects, .. } = clock.run(Duration::from_millis(100), watcher.next()).await else {
        panic!("nothing is said before the list")
    };
    assert_eq!(objects.len(), 600);
    let lists: Vec<_> =
        server.requests().iter().map(|(ask, request)| (*ask, request.query("limit"))).collect();
    assert_eq!(lists, [(Ask::List, Some("500".into())), (Ask::Page, Some("500".into())), (Ask::List, None)]);
}

/// A token that leads to the same page again would be followed for ever.
#[tokio::test]
async fn pages_that_never_end_are_given_up() {
    let clock = Clock::freeze();
    let server = ApiServer::start().await;
    server.put(PODS, pod("a"));
    let page =
        json!({"metadata": {"resourceVersion": "9", "continue": "same"}, "items": [versioned("a", "2")]});
    server.reply(Ask::List, Reply::json(200, &page));
    server.always(Ask::Page, Reply::json(200, &page));
    let mut watcher = watcher(&server).await;
    assert_eq!(some_on(&clock, &mut watcher, 1).await, ["listed a@2"]);
    assert_eq!(server.count(Ask::Page), 1);
}

fn odd(name: &str, version: &str) -> Value {
    let mut odd = versioned(name, version);
    odd["spec"]["nodeName"] = json!(-1);
    odd
}

#[tokio::test]
async fn what_cannot_be_read_deletes_keeps_and_is_counted() {
    let server = ApiServer::start().await;
    let items = json!([versioned("a", "3"), versioned("b", "4"), versioned("c", "5")]);
    server.reply(Ask::List, list("10", items));
    let events = [
        ("DELETED", odd("a", "11")),
        ("MODIFIED", odd("b", "12")),
        ("SOMETHING", versioned("c", "13")),
        ("MODIFIED", json!({"metadata": 7})),
        ("MODIFIED", versioned("c", "15")),
    ];
    server.reply(Ask::Watch, watch(&events).silence());
    let mut watcher = watcher(&server).await;
    let seen = some(&mut watcher, 7).await;
    let one = "1 unreadable";
    assert_eq!(seen, ["listed a@3 b@4 c@5", one, "deleted a@11", one, one, one, "applied c@15"]);

    // For an unreadable object in a list, the last known state is kept; a corrected object is there again.
    server.reply(Ask::List, list("20", json!([versioned("b", "16"), odd("c", "15"), {"metadata": {}}])));
    let mut watcher = self::watcher(&server).await;
    assert_eq!(some(&mut watcher, 2).await, ["2 unreadable", "listed b@16 kept c@15"]);
}

#[tokio::test]
async fn an_older_version_never_replaces_a_newer_one_of_the_same_uid() {
    let clock = Clock::freeze();
    let server = ApiServer::start().await;
    server.reply(Ask::List, list("10", json!([versioned("a", "8"), versioned("b", "8")])));
    let mut reborn = versioned("b", "7");
    reborn["metadata"]["uid"] = "another".into();
    let events = [
        ("MODIFIED", versioned("a", "7")),
        ("MODIFIED", versioned("a", "9")),
        ("MODIFIED", reborn),
        ("ADDED", versioned("c", "11")),
    ];
    server.reply(Ask::Watch, watch(&events));
    let mut watcher = watcher(&server).await;
    let seen = some_on(&clock, &mut watcher, 4).await;
    assert_eq!(seen, ["listed a@8 b@8", "applied a@9", "applied b@7", "applied c@11"]);
    // The same holds in a list after an expired version: a server that lags sent the list.
    server.reply(Ask::Check, Reply::json(410, &status(410, "Expired", "no")));
    server.reply(Ask::List, list("12", json!([versioned("a", "8"), versioned("c", "11")])));
    assert_eq!(some_on(&clock, &mut watcher, 1).await, ["listed c@11 kept a@8"]);
    let watches: Vec<_> = server.requests().into_iter().filter(|(ask, _)| *ask == Ask::Check).collect();
    assert_eq!(watches[0].1.query("resourceVersion").as_deref(), Some("11"), "positions do not go back");
}

#[tokio::test]
async fn lists_as_servers_write_them() {
    let clock = Clock::freeze();
    let server = ApiServer::start().await;
    // `null` means empty. A list without items, one without a version, and half a list are errors.
    let half = Reply::new(
        200,
        "application/json",
        "{\"metadata\":{\"resourceVersion\":\"5\"},\"items\":[{\"s3cret\"",
    );
    server.reply(Ask::List, half);
    server.reply(Ask::List, Reply::new(200, "text/html; charset=utf-8", "<html>s3cret</html>"));
    server.reply(Ask::List, Reply::json(200, &json!({"metadata": {"resourceVersion": "5"}, "s3cret": 1})));
    server.reply(Ask::List, list("", json!([])));
    server.reply(Ask::List, list("5", json!([])).header("content-encoding", "gzip"));
    server.reply(Ask::List, list("5", Value::Null));
    let mut watcher = watcher(&server).await;
    assert_eq!(
        some_on(&clock, &mut watcher, 6).await,
        [
            "away list: 54 bytes of application/json are no JSON, at line 1, column 54",
            "away list: 19 bytes of text/html are no JSON, at line 1, column 1",
            "away list: 47 bytes of application/json are not what was asked for, at line 1, column 47",
            "away list: the answer has no version to watch from",
            "away list: the answer is compressed, although nobody asked for that",
            "listed",
        ]
    );
    for (_, request) in server.requests() {
        assert_eq!(request.header("accept-encoding"), Some("identity"));
    }
}

#[tokio::test]
async fn a_silent_watch_is_checked_and_a_quiet_one_is_not() {
    let clock = Clock::freeze();
    let server = ApiServer::start().await;
    let mut watcher = watcher(&server).await;
    assert_eq!(some_on(&clock, &mut watcher, 1).await, ["listed"]);
    let bookmarks = async {
        for n in 1..=4 {
            tokio::time::sleep(Duration::from_secs(100)).await;
            server.bookmark();
            assert_eq!(server.count(Ask::Check), 0, "after {n} bookmarks");
        }
        tokio::time::sleep(Duration::from_secs(160)).await;
    };
    let quiet = async {
        tokio::select! {
            () = bookmarks => {}
            () = async { while words(&watcher.next().await) == "live" {} } => panic!("nothing happens"),
        }
    };
    clock.run(Duration::from_secs(1), quiet).await;
    assert_eq!(server.count(Ask::Check), 1);
}

#[tokio::test]
async fn the_events_are_a_stream_too() {
    use futures_util::StreamExt;
    let server = ApiServer::start().await;
    server.put(PODS, pod("a"));
    let other = json!({"metadata": {"namespace": "test", "name": "b"}, "spec": {"nodeName": "n"}});
    server.put(PODS, other);
    let mut stream = watcher(&server).await.namespace("test").into_stream();
    assert_eq!(words(&stream.next().await.unwrap()), "listed b@3");
}
