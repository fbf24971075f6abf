//! The server on the wire: the event stream, from its first bytes to its end.

use serde_json::{Value, json};

use super::process::{Server, fields, key};
use super::wire::{Message, Stream, encode, eventually, get, history, until_head};

fn sequences(messages: &[Message]) -> Vec<u64> {
    messages.iter().filter(|m| m.event == "pod").map(|m| m.data["sequence"].as_u64().unwrap()).collect()
}

fn connected(stream: &mut Stream) -> Value {
    let first = stream.message();
    assert_eq!(first.event, "connected", "always first");
    let expected = [
        "client_id",
        "epoch",
        "filtered",
        "head",
        "heartbeat_seconds",
        "namespaces",
        "protocol",
        "resumes_after",
    ];
    assert_eq!(fields(&first.data), expected);
    assert_eq!(first.data["protocol"], 1);
    assert_eq!(fields(&first.data["head"]), ["hash", "sequence"]);
    assert_eq!(fields(&first.data["resumes_after"]), ["hash", "sequence"]);
    first.data
}

#[test]
fn everything_retained_is_replayed_first() {
    let server = Server::start(&["--sim-rate", "0", "--sim-pods", "6", "--heartbeat", "10s"]);
    let log = history(server.addr);
    let mut stream = Stream::open(server.addr, "?client_id=me&since_hash=&unknown=1");
    assert_eq!(stream.head.header("content-type"), Some("text/event-stream"));
    assert_eq!(stream.head.header("cache-control"), Some("no-store"));
    assert_eq!(stream.head.header("x-accel-buffering"), Some("no"));
    let opened = connected(&mut stream);
    assert_eq!(opened["client_id"], "me");
    assert_eq!((&opened["filtered"], &opened["namespaces"]), (&json!(false), &json!([])));
    assert_eq!(opened["head"]["sequence"], 6);
    assert_eq!(opened["resumes_after"]["sequence"], 0);
    assert_eq!(opened["heartbeat_seconds"].as_f64(), Some(10.0));
    let messages = stream.until("catchup_complete");
    for (message, event) in messages.iter().zip(&log) {
        assert_eq!(message.event, "pod");
        assert_eq!(message.data, *event, "as in the history");
        assert_eq!(message.id.as_deref(), event["hash"].as_str());
        assert!(message.data.get("sent").is_none());
    }
    let done = &messages[6].data;
    assert_eq!(
        (&done["hash"], &done["sequence"], &done["replayed"]),
        (&log[5]["hash"], &json!(6), &json!(6))
    );
}

#[test]
fn a_stream_starts_where_it_is_told() {
    let server = Server::quiet(9);
    let log = history(server.addr);
    let hash = |n: usize| log[n - 1]["hash"].as_str().unwrap();
    let last_id = |n: usize| vec![("last-event-id", hash(n))];
    for (query, headers, expected) in [
        (format!("?since_hash={}", encode(hash(4))), vec![], vec![5, 6, 7, 8, 9]),
        (format!("?since_hash={}&start=latest", encode(hash(7))), vec![], vec![8, 9]),
        ("?start=latest".into(), vec![], vec![]),
        (String::new(), last_id(6), vec![7, 8, 9]),
        ("?since_hash=".into(), last_id(6), vec![7, 8, 9]),
        (format!("?since_hash={}", encode(hash(8))), last_id(2), vec![9]),
        (format!("?since_hash={}", encode(hash(9))), vec![], vec![]),
    ] {
        let mut stream = Stream::open_with(server.addr, &query, &headers).unwrap();
        let resumes = connected(&mut stream)["resumes_after"]["sequence"].as_u64().unwrap();
        assert_eq!(resumes, 9 - expected.len() as u64, "{query}");
        let messages = stream.until("catchup_complete");
        assert_eq!(sequences(&messages), expected, "{query} {headers:?}");
        assert_eq!(messages.last().unwrap().data["replayed"], expected.len(), "{query}");
    }
}

#[test]
fn live_events_follow_the_replay_without_a_hole() {
    let server = Server::start(&["--sim-rate", "400", "--sim-pods", "10"]);
    let mut stream = Stream::open(server.addr, "");
    connected(&mut stream);
    let mut messages = stream.until("catchup_complete");
    let replayed = messages.len() as u64 - 1;
    assert_eq!(messages.last().unwrap().data["replayed"], replayed);
    assert_eq!(messages.last().unwrap().data["sequence"], replayed);
    while messages.len() < 300 {
        messages.push(stream.message());
    }
    let pods: Vec<_> = messages.iter().filter(|message| message.event == "pod").collect();
    for pair in pods.windows(2) {
        assert_eq!(pair[1].data["previous_hash"], pair[0].data["hash"]);
        assert_eq!(pair[1].data["sequence"], pair[0].data["sequence"].as_u64().unwrap() + 1);
    }
    assert!(pods.iter().filter(|message| message.data["synthetic"] == true).count() == 10);
    let once = messages.iter().filter(|message| message.event == "catchup_complete").count();
    assert_eq!(once, 1);
}

#[test]
fn a_filtered_stream_counts_and_follows_the_watch_rule() {
    let server = Server::start(&["--sim-rate", "500", "--sim-pods", "40", "--heartbeat", "100ms"]);
    until_head(server.addr, 600);
    let log = history(server.addr);
    // Finds a label value that running pods get and lose.
    let mut labels = std::collections::BTreeMap::new();
    let (name, value) = log
        .iter()
        .find_map(|event| {
            let now = event["pod"]["labels"].clone();
            let before: Value = labels.insert(key(&event["pod"]), now.clone())?;
            if event["type"] != "MODIFIED" {
                return None;
            }
            let lost = |(name, value): (&String, &Value)| {
                (now.get(name) != Some(value)).then(|| (name.clone(), value.clone()))
            };
            before.as_object().unwrap().iter().find_map(lost)
        })
        .expect("labels of running pods change");
    let value = value.as_str().unwrap();
    let fits = |labels: &Value| labels[&name] == value;

    // The events that the watch rule makes of the log.
    let mut inside = std::collections::BTreeSet::new();
    let (mut expected, mut entered) = (Vec::new(), Vec::new());
    for event in &log {
        let pod = key(&event["pod"]);
        let was = inside.contains(&pod);
        let is = fits(&event["pod"]["labels"]);
        let kind = event["type"].as_str().unwrap();
        let seen = match (kind, was, is) {
            ("DELETED", true, _) => Some(("DELETED", !is)),
            ("DELETED", false, is) => is.then_some(("DELETED", false)),
            (_, true, true) => Some((kind, false)),
            (_, false, true) => {
                entered.extend((kind == "MODIFIED").then(|| event["sequence"].as_u64().unwrap()));
                Some(("ADDED", false))
            }
            (_, true, false) => Some(("DELETED", true)),
            (_, false, false) => None,
        };
        if kind != "DELETED" && is {
            inside.insert(pod)
        } else {
            inside.remove(&pod)
        };
        if let Some((kind, left)) = seen {
            expected.push((event["sequence"].as_u64().unwrap(), kind, left));
        }
    }
    assert!(expected.iter().any(|(_, _, left)| *left), "some leave: {name}={value}");

    let mut stream = Stream::open(server.addr, &format!("?label={}", encode(&format!("{name}={value}"))));
    assert_eq!(connected(&mut stream)["filtered"], true);
    let mut sent = 0;
    let mut seen = Vec::new();
    while seen.len() < expected.len() {
        let message = stream.message();
        if message.event == "pod" {
            sent += 1;
            assert!(message.data.get("previous_hash").is_none(), "unfiltered streams only");
            let kind = message.data["type"].as_str().unwrap().to_owned();
            let left = message.data["left_filter"].as_bool().unwrap_or(false);
            let sequence = message.data["sequence"].as_u64().unwrap();
            assert_eq!(message.data["entered_filter"] == true, entered.contains(&sequence), "{sequence}");
            seen.push((message.data["sequence"].as_u64().unwrap(), kind, left));
        }
        assert_eq!(message.data["sent"], sent, "{}", message.event);
    }
    for (seen, expected) in seen.iter().zip(&expected) {
        assert_eq!((seen.0, seen.1.as_str()), (expected.0, expected.1));
        // A pod that is deleted while it leaves the filter may be reported in either way.
        if log[seen.0 as usize - 1]["type"] != "DELETED" {
            assert_eq!(seen.2, expected.2, "left_filter at {}", seen.0);
        }
    }

    // The history with the same filter has the same events.
    let page =
        get(server.addr, &format!("/events?limit=1000&label={}", encode(&format!("{name}={value}")))).ok();
    let paged: Vec<_> = page["events"]
        .as_array()
        .unwrap()
        .iter()
        .map(|event| (event["sequence"].as_u64().unwrap(), event["type"].as_str().unwrap()))
        .collect();
    assert_eq!(
        paged[..expected.len()],
        expected.iter().map(|(sequence, kind, _)| (*sequence, *kind)).collect::<Vec<_>>()
    );
}

#[test]
fn heartbeats_are_bookmarks() {
    let server = Server::start(&["--sim-rate", "0", "--sim-pods", "5", "--heartbeat", "100ms"]);
    for query in ["", "?namespace=prod"] {
        let mut stream = Stream::open(server.addr, query);
        assert_eq!(connected(&mut stream)["heartbeat_seconds"].as_f64(), Some(0.1));
        let sent = sequences(&stream.until("catchup_complete")).len();
        for _ in 0..3 {
            let beat = stream.message();
            assert_eq!(beat.event, "heartbeat");
            assert_eq!(beat.data["sequence"], 5);
            assert_eq!(beat.data["hash"], get(server.addr, "/health").ok()["head"]["hash"]);
            assert_eq!(beat.data["source"], "live");
            assert_ne!(beat.data["catching_up"], true);
            assert!(beat.data["time"].as_str().is_some_and(|time| time.ends_with('Z')), "{}", beat.data);
            assert_eq!(beat.data.get("sent"), (!query.is_empty()).then(|| json!(sent)).as_ref());
        }
    }
}

#[test]
fn a_cursor_that_is_gone_is_a_gap_and_never_an_error() {
    // The rate is low enough that no reader falls off the log.
    let server = Server::start(&["--sim-rate", "50", "--sim-pods", "10", "--retain-events", "100"]);
    let page = get(server.addr, "/events?limit=1").ok();
    let first = page["next_hash"].as_str().unwrap().to_owned();
    let sequence = page["events"][0]["sequence"].as_u64().unwrap();
    eventually("the first event to expire", || {
        (get(server.addr, &format!("/events?since_hash={}", encode(&first))).status == 410).then_some(())
    });
    let foreign = Server::quiet(1);
    let theirs = get(foreign.addr, "/pods").ok()["hash"].as_str().unwrap().to_owned();
    for (since, reason) in
        [(first.as_str(), "cursor-expired"), (&theirs, "cursor-unknown"), ("junk", "cursor-unknown")]
    {
        let mut stream = Stream::open(server.addr, &format!("?since_hash={}", encode(since)));
        let opened = connected(&mut stream);
        let gap = stream.message();
        assert_eq!(gap.event, "gap", "{since}");
        assert_eq!(gap.data["reason"], reason);
        assert_eq!(gap.data["requested_hash"], since);
        assert_eq!(gap.data["epoch"], opened["epoch"]);
        assert_eq!(opened["resumes_after"]["hash"], gap.data["hash"]);
        assert_eq!(opened["resumes_after"]["sequence"], gap.data["sequence"]);
        if reason == "cursor-expired" {
            let missed = gap.data["sequence"].as_u64().unwrap() - sequence;
            assert_eq!(gap.data["missed"], missed, "those between the cursor and the oldest one");
        } else {
            assert_eq!(gap.data["missed"], Value::Null);
        }
        let next = stream.message();
        assert_eq!(next.event, "pod");
        assert_eq!(next.data["sequence"], gap.data["sequence"].as_u64().unwrap() + 1, "from the oldest on");
        assert_eq!(next.data["previous_hash"], gap.data["hash"]);
        assert_eq!(next.data["hash"], gap.data["oldest_hash"]);
        stream.until("catchup_complete");
    }

    // On a filtered stream, the gap counts as sent, and the number of missing events is not given.
    let mut stream = Stream::open(server.addr, &format!("?namespace=prod&since_hash={}", encode(&first)));
    connected(&mut stream);
    let gap = stream.message();
    assert_eq!(
        (gap.event.as_str(), &gap.data["sent"], &gap.data["missed"]),
        ("gap", &json!(1), &Value::Null)
    );
}

#[test]
fn a_server_that_ends_says_so() {
    let server = Server::quiet(2);
    let mut streams: Vec<_> = (0..3).map(|_| Stream::open(server.addr, "")).collect();
    for stream in &mut streams {
        stream.until("catchup_complete");
    }
    server.signal("TERM");
    for stream in &mut streams {
        let last = stream.message();
        assert_eq!((last.event.as_str(), &last.data["reason"]), ("closing", &json!("shutdown")));
        let delay: u64 = last.retry.expect("in the same block").parse().expect("milliseconds");
        assert!(delay > 0);
        assert!(stream.next().is_none());
    }
    assert_eq!(server.wait().code, Some(0));
}

#[test]
fn a_stream_has_a_lifetime() {
    let server = Server::start(&["--sim-rate", "0", "--sim-pods", "2", "--stream-lifetime", "200ms"]);
    let mut stream = Stream::open(server.addr, "");
    let last = stream.until("closing").pop().unwrap();
    assert_eq!(last.data["reason"], "lifetime");
    assert!(last.retry.is_some());
    assert!(stream.next().is_none());
}

/// Streams that are closed again and again lose nothing.
#[test]
fn a_follower_outlives_its_streams() {
    let server = Server::start(&["--sim-rate", "100", "--sim-pods", "5", "--stream-lifetime", "150ms"]);
    let client = server.follow(&["replay"]);
    let (mut next, mut reseeds) = (1, 0);
    while reseeds < 3 {
        let line = client.json();
        assert!(line["gap"].is_null(), "{line}");
        reseeds += u64::from(line["phase"] == "ReconnectReseed");
        if let Some(sequence) = line["event"]["sequence"].as_u64() {
            assert_eq!(sequence, next);
            next += 1;
        }
    }
    assert!(next > 1);
}

#[test]
fn streams_are_limited_in_all() {
    let server = Server::start(&["--sim-rate", "0", "--sim-pods", "2", "--max-streams", "2"]);
    let first = Stream::open(server.addr, "");
    let _second = Stream::open(server.addr, "");
    let refused = Stream::open_with(server.addr, "", &[]).err().expect("one too many");
    refused.problem(429, "too-many-streams");
    assert!(refused.header("retry-after").is_some_and(|after| after.parse::<u64>().is_ok()));
    assert_eq!(get(server.addr, "/health").ok()["subscribers"], 2);
    drop(first);
    eventually("room for another", || Stream::open_with(server.addr, "", &[]).ok());
}

#[test]
fn a_client_that_half_closes_is_gone() {
    let server = Server::quiet(2);
    let mut stream = Stream::open(server.addr, "");
    stream.until("catchup_complete");
    assert_eq!(get(server.addr, "/health").ok()["subscribers"], 1);
    stream.finish();
    eventually("the stream to end", || (get(server.addr, "/health").ok()["subscribers"] == 0).then_some(()));
    stream.until_end();
}
