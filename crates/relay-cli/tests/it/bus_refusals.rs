//! Errors that an API server can make, seen through the whole `relay bus`: each is reported on stderr once per state,
//! is retried within the limits, and causes no repeated call.

use std::time::Duration;

use relay_testkit::{ApiServer, Ask, Reply};
use serde_json::{Value, json};

use super::process::{Running, relay, run};
use super::wire::eventually;

const CHANNELS: &str = "channels.knative.dev/v1alpha1/channels";
const SUBSCRIPTIONS: &str = "channels.knative.dev/v1alpha1/subscriptions";

fn named(name: &str, spec: Value) -> Value {
    json!({"metadata": {"namespace": "ns", "name": name}, "spec": spec})
}

async fn cluster(channels: usize) -> ApiServer {
    let cluster = ApiServer::start().await;
    cluster.put("channels.knative.dev/v1alpha1/buses", named("b", json!({})));
    for number in 0..channels {
        cluster.put(CHANNELS, named(&format!("c{number}"), json!({"bus": "b"})));
    }
    cluster
}

fn monitor(cluster: &ApiServer, words: &[&str]) -> Running {
    let url = cluster.url();
    let first = ["bus", "monitor", "--bus", "ns/b", "--master", &url, "-o", "json"];
    Running::start(relay(&[&first[..], words].concat()))
}

fn status(code: u16, reason: &str) -> Reply {
    Reply::json(code, &json!({"kind": "Status", "code": code, "reason": reason, "message": reason}))
}

/// The number of lines on stderr that contain this text.
fn told(running: &Running, what: &str) -> usize {
    running.stderr().lines().filter(|line| line.contains(what)).count()
}

fn provisioned(cluster: &ApiServer, name: &str) -> Option<()> {
    let object = cluster.get(CHANNELS, "ns", name)?;
    let conditions = object["status"]["conditions"].as_array()?;
    conditions.iter().any(|one| one["type"] == "Provisioned" && one["status"] == "True").then_some(())
}

/// Reads lines until a channel that is added now is provisioned. All other pending calls come before that.
fn calls_until_now(cluster: &ApiServer, running: &Running) -> Vec<String> {
    cluster.put(CHANNELS, named("last", json!({"bus": "b"})));
    let lines = running.until(|line| line["channel"] == "ns/last");
    lines.iter().map(|line| format!("{} {}", line["event"], line["channel"])).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_that_are_refused_are_told_once_per_kind_and_asked_for_again() {
    let replies = [
        status(401, "Unauthorized"),
        status(403, "Forbidden"),
        status(404, "NotFound"),
        status(410, "Expired"),
        Reply::empty(429).header("retry-after", "0"),
        status(500, "InternalError"),
        Reply::new(200, "application/json", "{\"kind\": \"ChannelList\", \"items\": [{\"meta"),
        Reply::new(200, "application/json", "{\"items\": [").declare_length(900).cut(),
    ];
    let mut all = tokio::task::JoinSet::new();
    for reply in replies {
        all.spawn(async move {
            let cluster = cluster(1).await;
            cluster.always(Ask::List, reply.clone());
            let running = monitor(&cluster, &[]);
            // There are three kinds of lists, and each is requested at least twice.
            cluster.request(Ask::List, 6).await;
            running.until_stderr(|text| text.matches("objects are not followed").count() >= 3);
            assert_eq!(told(&running, "objects are not followed"), 3, "{reply:?}: {}", running.stderr());
            cluster.restore(Ask::List);
            tokio::task::block_in_place(|| {
                let synced = json!({"event": "synced", "channels": 1, "subscriptions": 0});
                assert_eq!(running.json(), synced);
                running.until_stderr(|text| text.matches("objects are followed again").count() == 3);
            });
        });
    }
    while let Some(ended) = all.join_next().await {
        ended.unwrap();
    }
}

/// Takes a minute: an answer may take as long before the API server counts as silent.
#[tokio::test(flavor = "multi_thread")]
async fn an_api_server_that_takes_requests_and_answers_nothing_is_told_once_per_kind() {
    let cluster = cluster(1).await;
    cluster.always(Ask::List, Reply::raw().silence());
    let url = cluster.url();
    let monitor = monitor(&cluster, &[]);
    let words = ["bus", "serve", "--bus", "ns/b", "--master", &url, "--listen", "127.0.0.1:0", "-o", "json"];
    let serve = Running::start(relay(&words));
    let at = tokio::task::block_in_place(|| serve.json())["address"].as_str().unwrap().to_owned();
    // Three kinds of both.
    cluster.request(Ask::List, 5).await;
    let send = ["bus", "send", "--url", &at, "--channel", "ns/c0", "--data", "x", "-o", "json"];
    let refused = tokio::task::block_in_place(|| run(&send)).expect(1).json();
    assert_eq!(refused[0]["status"], 503, "{refused:?}");
    // All of them are asked for again, so that the first requests have ended.
    let asked_again = async {
        let mut look = tokio::time::interval(Duration::from_millis(200));
        while cluster.count(Ask::List) < 12 {
            look.tick().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(150), asked_again).await.expect("all lists are asked for again");
    for running in [&monitor, &serve] {
        running.until_stderr(|text| text.matches("objects are not followed").count() >= 3);
        assert_eq!(told(running, "objects are not followed"), 3, "{}", running.stderr());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn watches_that_are_refused_or_break_call_nothing_again() {
    let half = "{\"type\": \"MODIFIED\", \"object\": {\"meta";
    let expired =
        "{\"type\":\"ERROR\",\"object\":{\"kind\":\"Status\",\"reason\":\"Expired\",\"code\":410}}\n";
    for reply in [
        status(401, "Unauthorized"),
        status(403, "Forbidden"),
        status(410, "Expired"),
        Reply::new(200, "application/json", expired),
        Reply::empty(429).header("retry-after", "0"),
        status(500, "InternalError"),
        Reply::new(200, "application/json", half),
        Reply::new(200, "application/json", half).declare_length(900).cut(),
        Reply::raw().reset(),
    ] {
        let cluster = cluster(2).await;
        let running = monitor(&cluster, &[]);
        running.until(|line| line["channel"].is_string());
        running.until(|line| line["channel"].is_string());
        for _ in 0..6 {
            cluster.reply(Ask::Watch, reply.clone());
        }
        let before = cluster.count(Ask::Watch);
        cluster.end_watches();
        cluster.request(Ask::Watch, before + 6).await;
        assert_eq!(
            calls_until_now(&cluster, &running),
            ["\"provision\" \"ns/last\""],
            "{reply:?}: {}",
            running.stderr()
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn versions_that_go_back_and_expire_call_differences_only() {
    let cluster = cluster(2).await;
    let running = monitor(&cluster, &[]);
    running.until(|line| line["channel"].is_string());
    running.until(|line| line["channel"].is_string());
    for round in 0..2 {
        // A watch that is opened after the versions went back stays silent.
        cluster.watched(CHANNELS).await;
        cluster.delete(CHANNELS, "ns", &format!("c{round}"));
        if round == 0 {
            cluster.expire();
        } else {
            cluster.go_back(1);
        }
        cluster.end_watches();
        let line = running.until(|line| line["channel"].is_string()).pop().unwrap();
        assert_eq!(
            (&line["event"], &line["channel"]),
            (&json!("unprovision"), &json!(format!("ns/c{round}"))),
            "{}",
            running.stderr()
        );
    }
    assert_eq!(calls_until_now(&cluster, &running), ["\"provision\" \"ns/last\""]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_status_write_that_fails_for_long_is_told_once_per_state_and_calls_nothing() {
    let cluster = cluster(1).await;
    cluster.put(SUBSCRIPTIONS, named("s", json!({"channel": "c0", "subscriber": "x"})));
    cluster.always(Ask::PatchStatus, status(403, "Forbidden"));
    let running = monitor(&cluster, &["--exec", "true"]);
    running.until(|line| line["event"] == "subscribe");
    // The attempts for each object have doubling delays: five attempts of each object take 150 ms. In a loop without
    // delays there would be far more of them in a second.
    cluster.request(Ask::PatchStatus, 9).await;
    running.until_stderr(|text| text.matches("cannot be written").count() >= 1);
    assert_eq!(told(&running, "cannot be written"), 1, "{}", running.stderr());
    cluster.always(Ask::PatchStatus, Reply::new(200, "application/json", "{\"half\":"));
    let before = cluster.count(Ask::PatchStatus);
    cluster.request(Ask::PatchStatus, before + 2).await;
    running.until_stderr(|text| text.matches("cannot be written").count() == 2);
    cluster.always(Ask::PatchStatus, status(500, "InternalError"));
    let before = cluster.count(Ask::PatchStatus);
    cluster.request(Ask::PatchStatus, before + 2).await;
    running.until_stderr(|text| text.matches("cannot be written").count() == 3);
    assert!(told(&running, "can be written again") == 0, "{}", running.stderr());
    cluster.restore(Ask::PatchStatus);
    eventually("the condition", || provisioned(&cluster, "c0"));
    running.until_stderr(|text| text.contains("can be written again"));
    assert_eq!(calls_until_now(&cluster, &running), ["\"provision\" \"ns/last\""]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_is_always_a_conflict_waits_longer_and_longer() {
    let cluster = cluster(1).await;
    cluster.always(Ask::PatchStatus, status(409, "Conflict"));
    let running = monitor(&cluster, &["--exec", "true"]);
    running.until(|line| line["event"] == "provision");
    let begin = std::time::Instant::now();
    cluster.request(Ask::PatchStatus, 7).await;
    assert!(begin.elapsed() > Duration::from_millis(200), "{:?}", begin.elapsed());
    cluster.restore(Ask::PatchStatus);
    eventually("the condition", || provisioned(&cluster, "c0"));
    assert_eq!(calls_until_now(&cluster, &running), ["\"provision\" \"ns/last\""]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_is_answered_429_waits_as_long_as_it_is_told() {
    let cluster = cluster(1).await;
    cluster.reply(Ask::PatchStatus, Reply::empty(429).header("retry-after", "1"));
    let running = monitor(&cluster, &["--exec", "true"]);
    cluster.request(Ask::PatchStatus, 0).await;
    let begin = std::time::Instant::now();
    cluster.request(Ask::PatchStatus, 1).await;
    assert!(begin.elapsed() > Duration::from_millis(700), "{:?}", begin.elapsed());
    eventually("the condition", || provisioned(&cluster, "c0"));
    assert_eq!(
        running.until(|line| line["channel"].is_string()).len(),
        3,
        "synced, bus and one call: {}",
        running.stderr()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn events_that_are_refused_are_told_once_and_nothing_else_happens() {
    let cluster = cluster(3).await;
    cluster.always(Ask::Create, status(403, "Forbidden"));
    let running = monitor(&cluster, &["--exec", "true"]);
    cluster.request(Ask::Create, 3).await;
    eventually("the conditions", || {
        ["c0", "c1", "c2"].iter().all(|name| provisioned(&cluster, name).is_some()).then_some(())
    });
    running.until_stderr(|text| text.contains("an event cannot be sent"));
    assert_eq!(told(&running, "an event cannot be sent"), 1);
    assert_eq!(cluster.count(Ask::Create), 4, "the bus, three channels, none of them again");
}
