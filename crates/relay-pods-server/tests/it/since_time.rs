//! `since_time` of the history and the stream.

use std::time::Duration;

use relay_pods_server::{Config, DEFAULT_RETENTION, Retention};
use relay_proto::time::Timestamp;
use serde_json::{Value, json};

use crate::raw::{NOW, Rig, pod};

/// Events 1 to 6, taken 0, 10, 10, 10, 20 and 30 ms after [`NOW`]. The clock shows 100 ms.
async fn timed(retention: Retention) -> Rig {
    let rig = Rig::with_retention(Config::default(), retention).await;
    let mut at = 0;
    for (number, millis) in (1..).zip([0, 10, 10, 10, 20, 30]) {
        rig.clock.advance(Duration::from_millis(millis - at));
        at = millis;
        let namespace = if number % 2 == 0 { "prod" } else { "dev" };
        rig.publisher.upsert(pod(namespace, &format!("p{number}"), number, &["app=web"])).await.unwrap();
    }
    rig.clock.advance(Duration::from_millis(100 - at));
    rig
}

fn time(millis: i64) -> String {
    Timestamp::from_unix_millis(NOW + millis).to_string()
}

fn sequences<'a>(events: impl IntoIterator<Item = &'a Value>) -> Vec<u64> {
    events.into_iter().map(|event| event["sequence"].as_u64().unwrap()).collect()
}

async fn history(rig: &Rig, query: &str) -> Vec<u64> {
    let page = rig.get(&format!("/events?{query}")).await.json();
    sequences(page["events"].as_array().unwrap())
}

/// The position after which a stream begins, its gap if there is one, and the events up to the end of the catch-up.
async fn stream(rig: &Rig, query: &str, fields: &str) -> (u64, Option<Value>, Vec<u64>) {
    let mut stream = rig.stream_with(&format!("/events/stream?{query}"), fields).await;
    let messages = stream.until("catchup_complete").await;
    let of = |kind: &str| -> Vec<&Value> {
        messages.iter().filter(|(event, _)| event == kind).map(|(_, data)| data).collect()
    };
    let begin = of("connected")[0]["resumes_after"]["sequence"].as_u64().unwrap();
    (begin, of("gap").first().map(|gap| (*gap).clone()), sequences(of("pod")))
}

#[tokio::test]
async fn since_time_begins_with_the_first_event_taken_then_or_later() {
    let rig = timed(DEFAULT_RETENTION).await;
    for (since, first) in [
        // The log still has its first event, so nothing before that time was lost.
        (time(-86_400_000), 1),
        ("1970-01-01T00:00:00Z".to_owned(), 1),
        (time(0), 1),
        (time(1), 2),
        (time(9), 2),
        (time(10), 2),
        ("2026-11-21T09:00:00.009000001Z".to_owned(), 2),
        ("2026-11-21T09:00:00.010000001Z".to_owned(), 5),
        (time(11), 5),
        ("2026-11-21T10:00:00.02%2B01:00".to_owned(), 5),
        (time(21), 6),
        (time(30), 6),
        (time(31), 7),
        (time(100), 7),
        // A time in the future.
        (time(86_400_000), 7),
        ("9999-12-30T00:00:00Z".to_owned(), 7),
    ] {
        let expected: Vec<u64> = (first..=6).collect();
        assert_eq!(history(&rig, &format!("since_time={since}")).await, expected, "{since}");
        let newest = history(&rig, &format!("since_time={since}&order=newest")).await;
        assert_eq!(newest, expected.iter().rev().copied().collect::<Vec<_>>(), "{since}");
        let streamed = stream(&rig, &format!("since_time={since}&start=latest"), "").await;
        assert_eq!(streamed, (first - 1, None, expected), "{since}");
    }
    assert_eq!(history(&rig, &format!("since_time={}&namespace=prod", time(10))).await, [2, 4, 6]);
    assert_eq!(history(&rig, "since_time=").await.len(), 6, "an empty one counts as absent");
    let of_a_pod = rig.get(&format!("/pods/dev/p5/events?since_time={}", time(21))).await.json();
    assert_eq!(of_a_pod["events"], json!([]));
}

#[tokio::test]
async fn since_time_of_the_future_begins_with_what_comes_next() {
    let rig = timed(DEFAULT_RETENTION).await;
    let mut stream = rig.stream(&format!("/events/stream?since_time={}", time(86_400_000))).await;
    stream.until("catchup_complete").await;
    rig.publisher.upsert(pod("prod", "p7", 7, &[])).await.unwrap();
    assert_eq!(stream.expect("pod").await["sequence"], 7);

    let rig = Rig::start(Config::default()).await;
    let mut stream = rig.stream(&format!("/events/stream?since_time={}", time(-5))).await;
    let messages = stream.until("catchup_complete").await;
    assert_eq!(messages.len(), 2, "nothing is lost of a log without events: {messages:?}");
}

#[tokio::test]
async fn since_time_before_what_is_retained_is_a_gap() {
    let rig = timed(DEFAULT_RETENTION.entries(3)).await;
    let whole = rig.get("/events").await.json();
    let oldest = whole["events"][0].clone();
    assert_eq!(oldest["sequence"], 4);
    // Event 4 was received at 10 ms, as were events 2 and 3, which are gone.
    for since in [time(-1), time(0), time(9), time(10)] {
        let answer = rig.get(&format!("/events?since_time={since}")).await;
        assert_eq!(answer.status(), 410, "{since}");
        let detail = answer.problem("cursor-expired");
        assert_eq!(detail, "since_time: events of that time may no longer be retained");
        assert_eq!(answer.json()["oldest_hash"], oldest["hash"]);

        let (begin, gap, events) = stream(&rig, &format!("since_time={since}"), "").await;
        assert_eq!((begin, events), (3, vec![4, 5, 6]), "{since}");
        let expected = json!({
            "reason": "cursor-expired", "epoch": "fixture-epoch-1", "requested_hash": null,
            "oldest_hash": oldest["hash"], "missed": null, "hash": oldest["previous_hash"], "sequence": 3,
        });
        assert_eq!(gap, Some(expected), "{since}");
    }
    for (since, first) in [(time(11), 5), (time(20), 5), (time(21), 6), (time(31), 7)] {
        let expected: Vec<u64> = (first..=6).collect();
        assert_eq!(history(&rig, &format!("since_time={since}")).await, expected, "{since}");
        let streamed = stream(&rig, &format!("since_time={since}"), "").await;
        assert_eq!(streamed, (first - 1, None, expected), "{since}");
    }

    // No event is retained, so any event up to now may be gone.
    rig.handle.trim_to_head().await.unwrap();
    for since in [time(0), time(100)] {
        let answer = rig.get(&format!("/events?since_time={since}")).await;
        answer.problem("cursor-expired");
        assert_eq!((answer.status(), &answer.json()["oldest_hash"]), (410, &json!(null)), "{since}");
        let (begin, gap, events) = stream(&rig, &format!("since_time={since}"), "").await;
        assert_eq!((begin, events), (6, vec![]), "{since}");
        assert_eq!(gap.expect("a gap")["reason"], "cursor-expired", "{since}");
    }
    assert!(history(&rig, &format!("since_time={}", time(101))).await.is_empty());
    assert_eq!(stream(&rig, &format!("since_time={}", time(101)), "").await, (6, None, vec![]));
}

#[tokio::test]
async fn since_time_gives_way_to_a_cursor() {
    let rig = timed(DEFAULT_RETENTION).await;
    let page = rig.get("/events").await.json();
    let fourth = page["events"][3]["hash"].as_str().unwrap();
    for since in [time(-5), time(30), time(1000)] {
        assert_eq!(history(&rig, &format!("since_time={since}&since_hash={fourth}")).await, [5, 6]);
        let by_query = stream(&rig, &format!("since_time={since}&since_hash={fourth}"), "").await;
        let by_header =
            stream(&rig, &format!("since_time={since}"), &format!("last-event-id: {fourth}\r\n")).await;
        assert_eq!((by_query, by_header), ((4, None, vec![5, 6]), (4, None, vec![5, 6])), "{since}");
    }
    // With pages: the time in the query does not stop later pages, because the cursor takes precedence.
    let page = rig.get(&format!("/events?since_time={}&limit=2", time(10))).await.json();
    assert_eq!(sequences(page["events"].as_array().unwrap()), [2, 3]);
    let next = page["next_hash"].as_str().unwrap();
    assert_eq!(history(&rig, &format!("since_time={}&since_hash={next}", time(10))).await, [4, 5, 6]);
    assert_eq!(history(&rig, &format!("since_time={}&before_hash={next}", time(10))).await, [2]);
}

#[tokio::test]
async fn since_time_that_is_malformed_is_refused_by_name() {
    let rig = timed(DEFAULT_RETENTION).await;
    let fine = time(0);
    for path in ["/events", "/pods/prod/p2/events", "/events/stream"] {
        for bad in [
            "5m",
            "yesterday",
            "2026-11-21",
            "2026-11-21T09:00:00",
            "2026-11-21T09:00:00+01:00",
            "1795251600",
        ] {
            for cursor in ["", "&since_hash=x"] {
                let answer = rig.get(&format!("{path}?since_time={bad}{cursor}")).await;
                assert_eq!(answer.status(), 400, "{path} {bad}");
                let detail = answer.problem("bad-parameter");
                let shown = bad.replace('+', " ");
                assert!(
                    detail.starts_with(&format!("since_time \"{shown}\": a point in time as RFC 3339")),
                    "{detail}"
                );
            }
        }
        let twice = rig.get(&format!("{path}?since_time={fine}&since_time={fine}")).await;
        assert_eq!(twice.status(), 400, "{path}");
        assert!(twice.problem("bad-parameter").starts_with("since_time"), "{path}");
    }
}
