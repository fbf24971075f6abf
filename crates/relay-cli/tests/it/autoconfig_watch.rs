//! `relay autoconfig watch` against scripted services: the lines that it prints, and the reading rules.

use std::time::SystemTime;

use relay_testkit::{Peer, Reply, Script};
use serde_json::{Value, json};

use super::process::{Done, Running, relay};

pub(super) const PATH: &str = "/relay_auto_config";
/// This key must never appear in any output.
pub(super) const KEY: &str = "auto-config-s3cret-key";
pub(super) const SDK: &str = "sdk-s3cret-0123-89ab";
pub(super) const OLD: &str = "sdk-s3cret-0000-old1";
const MOBILE: &str = "mob-s3cret-0000-mob1";

pub(super) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    u64::try_from(since.as_millis()).unwrap()
}

pub(super) fn event(name: &str, data: &str) -> String {
    format!("event: {name}\ndata: {data}\n\n")
}

pub(super) fn env(id: &str, version: i64) -> Value {
    json!({"envID": id, "envKey": "prod", "envName": "Production", "mobKey": MOBILE, "projKey": "p", "projName": "P",
        "sdkKey": {"value": SDK}, "defaultTtl": 5, "secureMode": false, "version": version})
}

/// The environment with some fields replaced.
pub(super) fn with(mut env: Value, fields: Value) -> Value {
    for (name, value) in fields.as_object().unwrap() {
        env[name] = value.clone();
    }
    env
}

pub(super) fn put(environments: Value, filters: Value) -> String {
    let data = json!({"path": "/", "data": {"environments": environments, "filters": filters}});
    event("put", &data.to_string())
}

pub(super) fn patch(id: &str, data: &Value) -> String {
    event("patch", &json!({"path": format!("/environments/{id}"), "data": data}).to_string())
}

/// A watch with long delays, so that it prints one line after a failure.
pub(super) fn watch(url: &str, args: &[&str]) -> std::process::Command {
    let mut all = vec!["autoconfig", "watch", "--url", url, "-o", "json"];
    for (flag, value) in [
        ("--reconnect-base", "10s"),
        ("--reconnect-cap", "30s"),
        ("--long-base", "100s"),
        ("--long-cap", "400s"),
    ] {
        if !args.contains(&flag) {
            all.extend([flag, value]);
        }
    }
    if !args.contains(&"--key-file") {
        all.extend(["--key", KEY]);
    }
    all.extend(args);
    relay(&all)
}

pub(super) async fn peer(replies: impl IntoIterator<Item = Reply>) -> Peer {
    Peer::start(replies.into_iter().fold(Script::new(), |script, reply| script.on(PATH, reply))).await
}

/// A line as a short text.
pub(super) fn word(line: &Value) -> String {
    let text = |name: &str| match &line[name] {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    match text("event").as_str() {
        "status" => {
            let mut word = text("state");
            word += if line["connected"] == true { "+" } else { "" };
            word += if line["configured"] == true { "!" } else { "" };
            if let Some(kind) = line["error"]["kind"].as_str() {
                word = format!("{word} {kind}");
                if let Some(status) = line["error"]["status"].as_u64() {
                    word = format!("{word}={status}");
                }
            }
            word
        }
        kind @ ("add" | "update" | "delete" | "filter_add" | "filter_update" | "filter_delete") => {
            format!("{kind} {} v{}", text("id"), text("version"))
        }
        "refused" => format!("refused {} v{} {} {}", text("id"), text("version"), text("reason"), text("in")),
        "received_all" => format!("all {}+{} {}", text("environments"), text("filters"), text("source")),
        "held" => format!("held {} {}", text("environments"), text("hold_ms")),
        "key_expired" => format!("expired {} {}", text("id"), text("key")),
        other => panic!("an unknown line: {other}"),
    }
}

/// Reads lines and checks that they are exactly these, in this order.
#[track_caller]
pub(super) fn expect(running: &Running, words: &[&str]) -> Vec<Value> {
    let mut lines = Vec::new();
    for (index, expected) in words.iter().enumerate() {
        let line = running.json();
        assert_eq!(word(&line), *expected, "line {index} of {words:?}: {line}; stderr: {}", running.stderr());
        assert!(!line.to_string().contains("s3cret"), "{line}");
        lines.push(line);
    }
    lines
}

/// Ends the command by a signal, and checks that its log has no secret.
#[track_caller]
pub(super) fn end(running: Running) -> Done {
    running.signal("TERM");
    let done = running.wait().expect(143);
    assert!(!done.stderr.contains("s3cret"), "{}", done.stderr);
    done
}

/// Sends these bytes to a watch, which must print these lines and nothing more. If the connection continues, a last
/// event marks the end, and no other line may come before its line.
pub(super) async fn plays(bytes: impl Into<Vec<u8>>, words: &[&str]) {
    let mut bytes: Vec<u8> = bytes.into();
    let mut all: Vec<&str> =
        ["initializing", "initializing+"].into_iter().chain(words.iter().copied()).collect();
    let last = all[all.len() - 1];
    let is_status = ["initializing", "valid", "interrupted"].iter().any(|state| last.starts_with(state));
    if !is_status || last.contains('+') {
        bytes.extend(event("patch", r#"{"path":"/filters/the-end","data":{"version":1}}"#).bytes());
        all.push("filter_add the-end v1");
    }
    let peer = peer([Reply::sse().send(bytes).silence()]).await;
    let running = Running::start(watch(&peer.url(), &[]));
    expect(&running, &all);
    assert_eq!(end(running).stdout, "");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn lines_have_the_fields_that_the_contract_names() {
    let soon = now_ms() + 1500;
    let first = put(
        json!({"b": env("b", 1), "a": with(env("a", 12), json!({"sdkKey": {"value": SDK, "expiring": {"value": OLD, "timestamp": soon}}}))}),
        json!({"f": {"projKey": "p", "key": "small", "version": 3}}),
    );
    let change =
        patch("b", &with(env("b", 2), json!({"envName": "New", "mobKey": "", "sdkKey": {"value": OLD}})));
    let delete = event("delete", r#"{"path":"/environments/b","version":9}"#);
    let filter = event("patch", r#"{"path":"/filters/f","data":{"projKey":"p","key":"tiny","version":4}}"#);
    let gone = event("delete", r#"{"path":"/filters/f","version":5}"#);
    let peer = peer([Reply::sse().send_in(11, first + &change + &delete + &filter + &gone).silence()]).await;
    let running = Running::start(watch(&peer.url(), &[]));
    let words = [
        "initializing",
        "initializing+",
        "add a v12",
        "add b v1",
        "filter_add f v3",
        "all 2+1 stream",
        "valid+!",
        "update b v2",
        "delete b v9",
        "filter_update f v4",
        "filter_delete f v5",
        "expired a ***old1",
    ];
    let lines = expect(&running, &words);
    let late = now_ms().saturating_sub(soon);
    assert!((1..3000).contains(&late), "{late} ms after the end of the key");
    let permanent = |key: &str| json!({"name": null, "key": key, "primary": true, "expires_ms": null});
    let env_of = |name: &str, sdk: Value, mobile: Value| {
        json!({"env_key": "prod", "env_name": name, "proj_key": "p", "proj_name": "P", "sdk_keys": sdk,
            "mobile_keys": mobile, "default_ttl_minutes": 5, "secure_mode": false, "dropped_keys": 0})
    };
    let old = json!({"name": null, "key": "***old1", "primary": false, "expires_ms": soon});
    let status = |state: &str, connected: bool, configured: bool| {
        json!({"event": "status", "state": state, "connected": connected, "configured": configured, "error": null,
            "retry_ms": null})
    };
    let expected = [
        status("initializing", false, false),
        status("initializing", true, false),
        json!({"event": "add", "id": "a", "version": 12,
            "env": env_of("Production", json!([permanent("***89ab"), old]), json!([permanent("***mob1")]))}),
        json!({"event": "add", "id": "b", "version": 1,
            "env": env_of("Production", json!([permanent("***89ab")]), json!([permanent("***mob1")]))}),
        json!({"event": "filter_add", "id": "f", "version": 3, "proj_key": "p", "key": "small"}),
        json!({"event": "received_all", "environments": 2, "filters": 1, "refused": [], "source": "stream"}),
        status("valid", true, true),
        json!({"event": "update", "id": "b", "version": 2, "env": env_of("New", json!([permanent("***old1")]), json!([])),
            "changed": ["env_name", "sdk_keys", "mobile_keys"], "accepted": ["***old1"], "revoked": ["***89ab", "***mob1"]}),
        json!({"event": "delete", "id": "b", "version": 9, "by": "delete"}),
        json!({"event": "filter_update", "id": "f", "version": 4, "proj_key": "p", "key": "tiny"}),
        json!({"event": "filter_delete", "id": "f", "version": 5, "by": "delete"}),
        json!({"event": "key_expired", "id": "a", "kind": "sdk", "name": null, "key": "***old1", "expires_ms": soon}),
    ];
    for (line, expected) in lines.iter().zip(&expected) {
        assert_eq!(line, expected);
    }
    end(running);
    let request = &peer.requests()[0];
    assert_eq!((request.method(), request.target()), ("GET", "/relay_auto_config?rpacProtocolVersion=2"));
    for (name, value) in [
        ("authorization", Some(KEY)),
        ("accept", Some("text/event-stream")),
        ("cache-control", Some("no-cache")),
        ("accept-encoding", Some("gzip")),
        ("last-event-id", None),
    ] {
        assert_eq!(request.header(name), value, "{name}");
    }
    assert!(request.header("user-agent").unwrap().starts_with("relay/"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn rule_1_text_is_read_leniently() {
    let deep = |n: usize| format!("{}1{}", "{\"a\":[".repeat(n), "]}".repeat(n));
    let key = format!("\"sdkKey\":{{\"value\":\"{SDK}\"}}");
    let added = ["add a v1", "valid+"];
    for data in [
        format!(r#"{{"path":"/environments/a","data":{{"envID":"a","version":1,{key}}}}}  	 "#),
        format!(r#"{{"data":{{"envid":"a","VERSION":1,{key}}},"PATH":"/environments/a"}}"#),
        format!(r#"{{"path":5,"path":"/environments/x","Path":"/environments/a","data":{{"envId":"x","envID":"a","version":9,"Version":1,{key}}}}}"#)
            .replace("\"path\":5,", ""),
        format!(r#"{{"path":"/environments/a","x":{},"data":{{"envID":"a","version":1,"y":{},{key}}}}}"#, deep(500), deep(500)),
        format!(r#"{{"path":"/environments/a","data":{{"envID":"a","version":1,{key},"mobKey":null,"secureMode":null,"sdkKeys":null,"mobileKeys":[],"defaultTtl":null,"envName":null}}}}"#),
    ] {
        plays(event("patch", &data), &added).await;
    }
    // Ids are compared exactly, and nothing in them is decoded.
    let exact = put(json!({"A": env("a", 1), "a%2Fb": env("a%2Fb", 2)}), json!({}));
    plays(exact, &["add a%2Fb v2", "refused A v1 id-mismatch put", "all 1+0 stream", "valid+! data"]).await;
    // Lone surrogates, and bytes that are not UTF-8.
    let lone = format!(
        r#"{{"path":"/environments/a","data":{{"envID":"a","version":1,"envName":"\ud800x\udc00",{key}}}}}"#
    );
    let mut raw = event("patch", &lone).into_bytes();
    raw.extend(b"event: patch\ndata: {\"path\":\"/environments/a\",\"data\":{\"envID\":\"a\",\"version\":2,\"envName\":\"\xff\xfe\",");
    raw.extend(format!("{key}}}}}\n\n").bytes());
    let peer = peer([Reply::sse().send(raw).silence()]).await;
    let running = Running::start(watch(&peer.url(), &[]));
    let lines = expect(&running, &["initializing", "initializing+", "add a v1", "valid+", "update a v2"]);
    assert_eq!(lines[2]["env"]["env_name"], "\u{fffd}x\u{fffd}");
    assert_eq!(lines[4]["env"]["env_name"], "\u{fffd}\u{fffd}");
    end(running);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn rule_2_a_wrong_type_anywhere_restarts_and_changes_nothing() {
    let good = put(json!({"a": env("a", 1)}), json!({"f": {"version": 1}}));
    let path = r#""path":"/environments/a""#;
    let mut bad: Vec<(&str, String)> = Vec::new();
    for number in [
        "1.5",
        "1e3",
        "\"10\"",
        "true",
        "9223372036854775808",
        "-9223372036854775809",
        "[]",
        "{}",
        "01",
        "+1",
        "1.0",
    ] {
        bad.push((
            "patch",
            format!(r#"{{{path},"data":{{"envID":"a","version":{number},"sdkKey":{{"value":"s3cret"}}}}}}"#),
        ));
        bad.push(("delete", format!(r#"{{{path},"version":{number}}}"#)));
    }
    for time in ["-1", "1.5", "\"5\"", "18446744073709551616", "true", "{}"] {
        bad.push((
            "patch",
            format!(
                r#"{{{path},"data":{{"sdkKey":{{"expiring":{{"value":"s3cret","timestamp":{time}}}}}}}}}"#
            ),
        ));
        bad.push((
            "patch",
            format!(r#"{{{path},"data":{{"sdkKeys":[{{"value":"s3cret","expiry":{time}}}]}}}}"#),
        ));
    }
    for field in ["envID", "envKey", "envName", "projKey", "projName", "mobKey"] {
        for value in ["1", "true", "[\"s3cret\"]", "{\"s3cret\":1}"] {
            bad.push(("patch", format!(r#"{{{path},"data":{{"{field}":{value}}}}}"#)));
        }
    }
    for (field, value) in [
        ("sdkKey", "\"s3cret\""),
        ("sdkKey", "[]"),
        ("sdkKeys", "{}"),
        ("sdkKeys", "[5]"),
        ("sdkKeys", r#"[{"value":5}]"#),
        ("sdkKeys", r#"[{"key":5}]"#),
        ("sdkKeys", r#"[{"hasViews":"s3cret"}]"#),
        ("mobileKeys", "\"s3cret\""),
        ("secureMode", "0"),
        ("secureMode", "\"s3cret\""),
        ("defaultTtl", "1.5"),
    ] {
        bad.push(("patch", format!(r#"{{{path},"data":{{"{field}":{value}}}}}"#)));
        bad.push(("put", format!(r#"{{"path":"/","data":{{"environments":{{"b":{{"envID":"b","sdkKey":{{"value":"k"}}}},"z":{{"{field}":{value}}}}}}}}}"#)));
    }
    for (event, data) in [
        ("put", "s3cret"),
        ("put", "5"),
        ("put", "[]"),
        ("put", "\"s3cret\""),
        ("put", r#"{"path":"/","data":{"environments":[]}}"#),
        ("put", r#"{"path":"/","data":{"environments":{},"filters":{"f":999}}}"#),
        ("put", r#"{"path":"/","data":5}"#),
        ("put", r#"{"path":5,"data":{}}"#),
        ("put", r#"{"path":"/","data":{}} s3cret"#),
        ("put", r#"{"path":"/","data":{}}{}"#),
        ("patch", r#"{"path":"/environments/a","data":999}"#),
        ("patch", r#"{"path":"/filters/f","data":999}"#),
        ("patch", r#"{"path":"/filters/f","data":{"projKey":5}}"#),
        ("patch", "{"),
        ("patch", ""),
        ("delete", r#"{"path":999,"version":9}"#),
        ("delete", r#"{"path":"/environments/a","version":9"#),
        ("delete", r#"{'path':'s3cret'}"#),
    ] {
        bad.push((event, data.to_owned()));
    }
    // Each bad event gets its own connection to the same program, and is reported as its own error.
    let mut script = Script::new();
    for (name, data) in &bad {
        script = script.on(PATH, Reply::sse().send(good.clone() + &event(name, data)).silence());
    }
    let peer = Peer::start(script).await;
    let command = watch(&peer.url(), &["--reconnect-base", "1ms", "--reconnect-cap", "2ms"]);
    let running = Running::start(command);
    expect(&running, &["initializing"]);
    for (index, (name, data)) in bad.iter().enumerate() {
        let what = format!("{name} {data}");
        let words = running.until(|line| line["state"] == "interrupted" && line["connected"] == false);
        let seen: Vec<String> = words.iter().map(word).collect();
        let expected: &[&str] = match index {
            0 => &[
                "initializing+",
                "add a v1",
                "filter_add f v1",
                "all 1+1 stream",
                "valid+!",
                "interrupted! data",
            ],
            _ => &["interrupted+! data", "all 1+1 stream", "valid+! data", "interrupted! data"],
        };
        assert_eq!(seen, expected, "{what}");
        let error = &words[words.len() - 1]["error"];
        assert!(error["message"].as_str().unwrap().contains(name), "{what}: {error}");
        assert!(!error.to_string().contains("s3cret"), "{what}: {error}");
    }
    running.signal("KILL");
    assert!(!running.wait().stderr.contains("s3cret"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn rule_2_numbers_at_their_bounds() {
    for version in ["9223372036854775807", "-9223372036854775808", "0"] {
        let data = format!(
            r#"{{"path":"/environments/a","data":{{"envID":"a","version":{version},"sdkKey":{{"value":"{SDK}"}}}}}}"#
        );
        plays(event("patch", &data), &[&format!("add a v{version}"), "valid+"]).await;
    }
    let far = with(
        env("a", 1),
        json!({"sdkKey": {"value": SDK, "expiring": {"value": OLD, "timestamp": u64::MAX}}}),
    );
    plays(patch("a", &far), &["add a v1", "valid+"]).await;
    for nothing in ["put", "patch", "delete"] {
        plays(event(nothing, "null"), &["valid+"]).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn rule_3_refusals_and_their_order() {
    let no_key = json!({"envID": "a", "version": 7});
    let cases = [
        ("", env("", 7), "no-id", false),
        ("a", env("b", 7), "id-mismatch", false),
        ("a", Value::Null, "id-mismatch", false),
        ("a", with(no_key.clone(), json!({"sdkKeys": [{"value": ""}]})), "no-sdk-key", true),
        ("a", with(env("a", 7), json!({"sdkKeys": [{"value": "x"}, {}]})), "empty-key", true),
        (
            "a",
            with(env("a", 7), json!({"mobileKeys": [{"key": "m"}], "sdkKeys": [{"value": "x"}]})),
            "empty-key",
            true,
        ),
        (
            "a",
            with(env("a", 7), json!({"sdkKeys": [{"value": "x"}], "mobileKeys": [{"value": "x"}]})),
            "primary-not-listed",
            true,
        ),
        ("a", with(env("a", 7), json!({"mobileKeys": [{"value": "x"}]})), "mobile-not-listed", true),
        (
            "a",
            with(env("a", 7), json!({"mobileKeys": [{"value": "x"}], "mobKey": ""})),
            "no-primary-mobile",
            true,
        ),
    ];
    for (id, data, reason, restarts) in cases {
        let version = data["version"].as_i64().unwrap_or(0);
        let refused = format!("refused {id} v{version} {reason} patch");
        // The corrected environment is accepted with the same version.
        let mended = patch("a", &env("a", 7));
        match restarts {
            false => plays(patch(id, &data) + &mended, &[&refused, "valid+", "add a v7"]).await,
            true => plays(patch(id, &data) + &mended, &[&refused, "initializing data"]).await,
        }
    }
    let good = put(json!({"a": env("a", 1), "b": env("b", 1)}), json!({}));
    let start = ["add a v1", "add b v1", "all 2+0 stream", "valid+!"];
    // If some environments are refused, the others are applied, the connection is kept, and known ones stay.
    let partly = put(
        json!({"a": with(env("a", 2), json!({"sdkKey": {}})), "c": env("c", 1)}),
        json!({"f": {"version": 1}}),
    );
    let words = [
        &start[..],
        &[
            "add c v1",
            "delete b vnull",
            "filter_add f v1",
            "refused a v2 no-sdk-key put",
            "all 2+1 stream",
            "valid+! data",
            "update a v2",
        ],
    ]
    .concat();
    plays(good.clone() + &partly + &patch("a", &env("a", 2)), &words).await;
    // If all of them are refused, nothing is applied.
    let all = put(json!({"a": env("x", 2), "c": {"envID": "c"}}), json!({"f": {"version": 1}}));
    let words =
        [&start[..], &["refused a v2 id-mismatch put", "refused c v0 no-sdk-key put", "interrupted! data"]]
            .concat();
    plays(good + &all, &words).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn rules_4_and_5_keys_end_once_at_their_time_also_while_the_stream_is_down() {
    let soon = now_ms() + 1200;
    let listed = with(
        env("a", 1),
        json!({"sdkKeys": [
            {"key": "old", "value": OLD, "expiry": soon}, {"key": "past", "value": "s3cret-past-1234", "expiry": 0},
            {"key": "main", "value": SDK, "expiry": 1, "hasViews": true}, {"key": "view", "value": "s3cret-view-1234", "hasViews": true}],
            "mobileKeys": [{"key": "m", "value": MOBILE}, {"key": "n", "value": "s3cret-mobile-mob2", "expiry": soon}]}),
    );
    // A newer version removes the old key of `b`, moves its expiry in `c` far away, and makes it primary in `e`; `d` is
    // deleted.
    let grace = |id: &str| {
        with(env(id, 1), json!({"sdkKey": {"value": SDK, "expiring": {"value": OLD, "timestamp": soon}}}))
    };
    // The key of `z` expires last, so all others have expired before it.
    let later = json!({"sdkKey": {"value": SDK, "expiring": {"value": OLD, "timestamp": soon + 300}}});
    let last = with(env("z", 1), later);
    let mut text = put(
        json!({"a": listed, "b": grace("b"), "c": grace("c"), "d": grace("d"), "e": grace("e"), "z": last}),
        json!({}),
    );
    text += &patch("b", &env("b", 2));
    text += &patch(
        "c",
        &with(
            env("c", 2),
            json!({"sdkKey": {"value": SDK, "expiring": {"value": OLD, "timestamp": soon + 3_600_000}}}),
        ),
    );
    text += &event("delete", r#"{"path":"/environments/d","version":2}"#);
    text += &patch("e", &with(env("e", 2), json!({"sdkKey": {"value": OLD}})));
    let peer = peer([Reply::sse().send(text).cut(), Reply::empty(503)]).await;
    let running = Running::start(watch(&peer.url(), &[]));
    let words = [
        "initializing",
        "initializing+",
        "add a v1",
        "add b v1",
        "add c v1",
        "add d v1",
        "add e v1",
        "add z v1",
        "all 6+0 stream",
        "valid+!",
        "update b v2",
        "update c v2",
        "delete d v2",
        "update e v2",
        "interrupted! network",
        "expired a ***old1",
        "expired a ***mob2",
        "expired z ***old1",
    ];
    let lines = expect(&running, &words);
    assert!(now_ms() > soon + 300, "never before its time");
    let keys = &lines[2]["env"];
    let names: Vec<_> =
        keys["sdk_keys"].as_array().unwrap().iter().map(|key| key["name"].as_str().unwrap()).collect();
    assert_eq!((names, &keys["dropped_keys"]), (vec!["main", "old"], &json!(1)));
    assert_eq!(
        keys["sdk_keys"][0],
        json!({"name": "main", "key": "***89ab", "primary": true, "expires_ms": null})
    );
    assert_eq!(lines[10]["revoked"], json!(["***old1"]), "a key that is left out is gone at once");
    assert_eq!((&lines[15]["kind"], &lines[15]["name"]), (&json!("sdk"), &json!("old")));
    assert_eq!((&lines[16]["kind"], &lines[16]["name"]), (&json!("mobile"), &json!("n")));
    assert_eq!(end(running).stdout, "", "nobody else's key has ended");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn rule_7_every_event_is_proof_of_life_and_reconnect_is_followed() {
    for (name, data) in [
        ("magic", "s3cret"),
        ("patch", r#"{"path":"/flags/x","data":"s3cret"}"#),
        ("put", r#"{"path":"/elsewhere","data":{"environments":{}}}"#),
        ("delete", r#"{"path":"/environments/a/b","version":5}"#),
        ("delete", r#"{"path":"/environments/a","version":5}"#),
    ] {
        plays(event(name, data), &["valid+"]).await;
    }
    for data in ["", " ", "{", "null"] {
        let text = put(json!({}), json!({})) + &event("reconnect", data);
        plays(text, &["all 0+0 stream", "valid+!", "valid!"]).await;
    }
    // The client waits as after a failure, and then continues with what it had.
    let peer = peer([
        Reply::sse().send(put(json!({"a": env("a", 1)}), json!({})) + &event("reconnect", " ")).silence(),
        Reply::sse().send(put(json!({"a": env("a", 1)}), json!({}))).silence(),
    ])
    .await;
    let running = Running::start(watch(&peer.url(), &["--reconnect-base", "200ms"]));
    let words = [
        "initializing",
        "initializing+",
        "add a v1",
        "all 1+0 stream",
        "valid+!",
        "valid!",
        "valid+!",
        "all 1+0 stream",
    ];
    let lines = expect(&running, &words);
    assert!((100..=200).contains(&lines[5]["retry_ms"].as_u64().unwrap()), "{}", lines[5]);
    end(running);
}
