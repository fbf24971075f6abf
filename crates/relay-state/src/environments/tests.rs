//! The rules, as tables. `nNN` in a name is the number of a behaviour in `docs/autoconfig.md`.

mod keys;

use std::time::Duration;

use relay_proto::autoconfig::Message;
use serde_json::{Value, json};

use super::*;

/// A client, with the events that were not read yet.
struct Client {
    session: Session,
    now: Now,
}

impl Client {
    fn new() -> Self {
        Self::holding(Duration::ZERO)
    }

    fn holding(hold: Duration) -> Self {
        let mut client =
            Self { session: Session::new(Environments::default().hold_empty(hold)), now: Now::at(1_000_000) };
        assert_eq!(client.lines(), ["status initializing"]);
        client
    }

    fn connected() -> Self {
        let mut client = Self::new();
        client.session.handle_opened();
        client.lines();
        client
    }

    /// Sets the time to this many milliseconds after the start.
    fn at(&mut self, ms: u64) -> &mut Self {
        self.now = Now::at(1_000_000 + ms);
        self
    }

    fn give(&mut self, event: &str, data: &Value) -> Vec<String> {
        self.give_text(event, &data.to_string())
    }

    fn give_text(&mut self, event: &str, data: &str) -> Vec<String> {
        if self.session.handle_event(event, data, self.now) == Next::Restart {
            self.session.handle_ended(StatusError::network("it was ended"), Duration::from_secs(1));
        }
        self.lines()
    }

    fn wait(&mut self) -> Vec<String> {
        self.session.handle_time(self.now);
        self.lines()
    }

    fn json(&mut self) -> Vec<Value> {
        std::iter::from_fn(|| self.session.poll()).map(|event| event.to_json()).collect()
    }

    fn lines(&mut self) -> Vec<String> {
        self.json().iter().map(line).collect()
    }
}

/// A line as a short text.
fn line(json: &Value) -> String {
    let text = |name: &str| match &json[name] {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let kind = text("event");
    match kind.as_str() {
        "status" => {
            let mut line = format!("status {}", text("state"));
            for flag in ["connected", "configured"] {
                if json[flag] == true {
                    line = line + " " + flag;
                }
            }
            if let Some(error) = json["error"]["kind"].as_str() {
                line = line + " " + error;
            }
            line
        }
        "add" => format!("add {} v{} {}", text("id"), text("version"), keys(&json["env"])),
        "update" => format!(
            "update {} v{} {} changed={} +{} -{}",
            text("id"),
            text("version"),
            keys(&json["env"]),
            text("changed"),
            text("accepted"),
            text("revoked")
        ),
        "delete" | "filter_delete" => format!("{kind} {} v{} by {}", text("id"), text("version"), text("by")),
        "key_expired" => {
            format!("key_expired {} {} {} {}", text("id"), text("kind"), text("key"), text("expires_ms"))
        }
        "filter_add" | "filter_update" => {
            format!("{kind} {} v{} {}", text("id"), text("version"), text("key"))
        }
        "refused" => {
            format!("refused {} v{} {} in {}", text("id"), text("version"), text("reason"), text("in"))
        }
        "received_all" => format!(
            "received_all {}+{} {}{}",
            text("environments"),
            text("filters"),
            text("source"),
            if json["refused"] == json!([]) {
                String::new()
            } else {
                format!(" refused={}", text("refused"))
            }
        ),
        "held" => format!("held {} {}", text("environments"), text("hold_ms")),
        other => panic!("{other}"),
    }
}

fn keys(env: &Value) -> String {
    let list = |name: &str| {
        let keys = env[name].as_array().unwrap();
        keys.iter()
            .map(|key| {
                let end = key["expires_ms"]
                    .as_u64()
                    .map_or(String::new(), |end| format!("@{}", end as i64 - 1_000_000));
                let key = key["key"].as_str().unwrap();
                format!("{}{end}", key.trim_start_matches("***"))
            })
            .collect::<Vec<_>>()
            .join(",")
    };
    format!("{}/{}", list("sdk_keys"), list("mobile_keys"))
}

/// A key that ends with these four characters.
fn key(name: &str) -> String {
    format!("a-long-secret-{name:_>4}")
}

fn env(id: &str, version: i64, sdk: &str) -> Value {
    json!({"envID": id, "version": version, "envName": "E", "sdkKey": {"value": key(sdk)}})
}

fn grace(id: &str, version: i64, sdk: &str, old: &str, end: i64) -> Value {
    json!({"envID": id, "version": version, "envName": "E",
        "sdkKey": {"value": key(sdk), "expiring": {"value": key(old), "timestamp": 1_000_000 + end}}})
}

fn filter(version: i64, key: &str) -> Value {
    json!({"projKey": "p", "key": key, "version": version})
}

fn put(environments: Value, filters: Value) -> Value {
    json!({"path": "/", "data": {"environments": environments, "filters": filters}})
}

fn patch(id: &str, data: Value) -> Value {
    json!({"path": format!("/environments/{id}"), "data": data})
}

fn patch_filter(id: &str, data: Value) -> Value {
    json!({"path": format!("/filters/{id}"), "data": data})
}

fn delete(id: &str, version: i64) -> Value {
    json!({"path": format!("/environments/{id}"), "version": version})
}

fn delete_filter(id: &str, version: i64) -> Value {
    json!({"path": format!("/filters/{id}"), "version": version})
}

#[test]
fn n01_n02_n03_n04_n05_n20_a_put_adds_updates_and_deletes() {
    let mut client = Client::connected();
    let one = put(
        json!({"b": env("b", 1, "b1"), "a": env("a", 1, "a1")}),
        json!({"g": filter(1, "x"), "f": filter(1, "y")}),
    );
    assert_eq!(
        client.give("put", &one),
        [
            "add a v1 __a1/",
            "add b v1 __b1/",
            "filter_add f v1 y",
            "filter_add g v1 x",
            "received_all 2+2 stream",
            "status valid connected configured"
        ]
    );
    // The same put again, as after every reconnect: it is complete and changes nothing.
    assert_eq!(client.give("put", &one), ["received_all 2+2 stream"]);
    let more = put(
        json!({"a": env("a", 1, "changed"), "b": env("b", 2, "b2"), "c": env("c", 0, "c1")}),
        json!({"f": filter(2, "z")}),
    );
    assert_eq!(
        client.give("put", &more),
        [
            "update b v2 __b2/ changed=[\"sdk_keys\"] +[\"***__b2\"] -[\"***__b1\"]",
            "add c v0 __c1/",
            "filter_update f v2 z",
            "filter_delete g vnull by put",
            "received_all 3+1 stream"
        ]
    );
    assert_eq!(
        client.give("put", &put(json!({"b": env("b", 2, "b2")}), json!({"f": filter(2, "z")}))),
        ["delete a vnull by put", "delete c vnull by put", "received_all 1+1 stream"]
    );
    // Items that a put does not name are forgotten: any version is then new. Versions of items that it names never go
    // back.
    assert_eq!(
        client.give("put", &put(json!({"a": env("a", -7, "a0"), "b": env("b", 1, "b1")}), Value::Null)),
        ["add a v-7 __a0/", "filter_delete f vnull by put", "received_all 2+0 stream"]
    );
    assert_eq!(
        client.give("put", &json!({"path": "/"})),
        ["delete a vnull by put", "delete b vnull by put", "received_all 0+0 stream"]
    );
}

#[test]
fn n06_n13_n19_n30_other_paths_and_events_are_proof_of_life_and_nothing_else() {
    for (event, data) in [
        ("put", r#"{"path":"/elsewhere","data":{"environments":{"a":{}}}}"#),
        ("put", "null"),
        ("patch", r#"{"path":"/flags/a","data":{}}"#),
        ("patch", r#"{"path":"/environments/a/b","data":{"envID":"b"}}"#),
        ("delete", r#"{"path":"/flags/a","version":9}"#),
        ("magic", "whatever"),
    ] {
        let mut client = Client::connected();
        assert_eq!(client.give_text(event, data), ["status valid connected"], "{event} {data}");
        assert_eq!(client.give_text(event, data), [""; 0], "{event} {data}");
    }
}

#[test]
fn n07_n82_n83_n84_refused_environments_keep_their_last_good_self() {
    let mut client = Client::connected();
    client.give("put", &put(json!({"a": env("a", 1, "a1"), "b": env("b", 1, "b1")}), json!({})));
    let partly =
        put(json!({"a": env("x", 2, "a2"), "b": env("b", 2, "b2"), "c": env("c", 1, "c1")}), json!({}));
    assert_eq!(
        client.give("put", &partly),
        [
            "update b v2 __b2/ changed=[\"sdk_keys\"] +[\"***__b2\"] -[\"***__b1\"]",
            "add c v1 __c1/",
            "refused a v2 id-mismatch in put",
            "received_all 3+0 stream refused=[\"a\"]",
            "status valid connected configured data"
        ]
    );
    // If all environments are refused, nothing is applied, and the connection is given up.
    assert_eq!(
        client.give(
            "put",
            &put(json!({"b": {"envID": "b", "version": 9}, "z": {}}), json!({"f": filter(1, "f")}))
        ),
        [
            "refused b v9 no-sdk-key in put",
            "refused z v0 id-mismatch in put",
            "status interrupted configured data"
        ]
    );
    client.session.handle_opened();
    assert_eq!(client.lines(), ["status interrupted connected configured data"]);
    // A refused environment does not use up its version.
    assert_eq!(
        client.give(
            "patch",
            &patch(
                "b",
                json!({"envID": "b", "version": 9, "sdkKey": {"value": "k"}, "mobileKeys": [{"value": "m"}]})
            )
        ),
        ["refused b v9 no-primary-mobile in patch", "status interrupted configured data"]
    );
    client.session.handle_opened();
    client.lines();
    assert_eq!(
        client.give("patch", &patch("b", env("b", 9, "b2"))),
        ["update b v9 __b2/ changed=[] +[] -[]", "status valid connected configured data"]
    );
    // A patch that is refused because of its id is ignored.
    assert_eq!(client.give("patch", &patch("a", env("b", 10, "x"))), ["refused a v10 id-mismatch in patch"]);
    assert_eq!(client.give("patch", &patch("", env("", 10, "x"))), ["refused  v10 no-id in patch"]);
    assert_eq!(client.give("patch", &patch("a", Value::Null)), ["refused a v0 id-mismatch in patch"]);
}

#[test]
fn n08_to_n18_n46_to_n57_versions_decide() {
    // Upserts and deletes of one id, as `+version` and `-version`, and the result of each.
    for (steps, outcome) in [
        ("+5", "add"),
        ("+0", "add"),
        ("+-9", "add"),
        ("+1 +2 +3", "add update update"),
        ("+2 +2", "add ."),
        ("+2 +1", "add ."),
        ("-5", "."),
        ("-5 +5", ". ."),
        ("-5 +6", ". add"),
        ("-5 -9 +9 +10", ". . . add"),
        ("-5 -4 +5", ". . ."),
        ("+1 -2", "add delete"),
        ("+1 -1", "add ."),
        ("+1 -0 +2", "add . update"),
        ("+1 -2 -3 +3 +4", "add delete . . add"),
        ("+1 -2 +1", "add delete ."),
        ("+1 -2 +2", "add delete ."),
        ("+1 -2 +3", "add delete add"),
        ("+1 -2 +3 -3 -4", "add delete add . delete"),
        ("+9223372036854775807 -9223372036854775807 +-9223372036854775808", "add . ."),
    ] {
        for filters in [false, true] {
            let mut client = Client::connected();
            client.give("magic", &Value::Null);
            let came: Vec<_> = steps
                .split(' ')
                .map(|step| {
                    let (what, version) = step.split_at(1);
                    let version: i64 = version.parse().unwrap();
                    let lines = match (what, filters) {
                        ("+", false) => client.give("patch", &patch("e", env("e", version, "k"))),
                        ("+", true) => client.give("patch", &patch_filter("e", filter(version, "k"))),
                        (_, false) => client.give("delete", &delete("e", version)),
                        (_, true) => client.give("delete", &delete_filter("e", version)),
                    };
                    assert!(lines.len() < 2, "{lines:?}");
                    let word = lines.first().map_or(".", |line| line.split(' ').next().unwrap());
                    word.trim_start_matches("filter_").to_owned()
                })
                .collect();
            assert_eq!(came.join(" "), outcome, "{steps} filters={filters}");
        }
    }
}

#[test]
fn n53_n58_a_put_forgets_versions_and_tombstones() {
    let mut client = Client::connected();
    client.give("patch", &patch("a", env("a", 5, "a")));
    client.give("delete", &delete("b", 7));
    assert_eq!(
        client.give("put", &put(json!({"c": env("c", 1, "c")}), json!({}))),
        [
            "add c v1 ___c/",
            "delete a vnull by put",
            "received_all 1+0 stream",
            "status valid connected configured"
        ]
    );
    assert_eq!(client.give("patch", &patch("a", env("a", 5, "a"))), ["add a v5 ___a/"]);
    assert_eq!(client.give("patch", &patch("b", env("b", 1, "b"))), ["add b v1 ___b/"]);
    // The tombstone of an item that the put names is kept.
    client.give("delete", &delete("a", 9));
    client.give("put", &put(json!({"a": env("a", 9, "a"), "b": env("b", 1, "b")}), json!({})));
    assert_eq!(client.give("patch", &patch("a", env("a", 9, "a"))), [""; 0]);
    assert_eq!(client.give("patch", &patch("a", env("a", 10, "a"))), ["add a v10 ___a/"]);
}

#[test]
fn n29_reconnect_is_followed_whatever_its_data_and_is_no_failure() {
    for data in ["", " ", "null", "{", "whatever"] {
        let mut client = Client::connected();
        assert_eq!(client.give_text("reconnect", data), ["status initializing"]);
        client.session.handle_opened();
        client.lines();
        client.give("put", &put(json!({}), json!({})));
        assert_eq!(client.give_text("reconnect", data), ["status valid configured"], "{data}");
    }
}

#[test]
fn n31_to_n39_undecodable_events_change_nothing_and_restart() {
    for (event, data) in [
        ("put", r#"{"path":"/","data":{"environments":{"a":{"envID":"a","version":2}"#),
        ("put", r#"{"path":"/","data":{"environments":{"a":999}}}"#),
        ("put", r#"{"path":"/","data":{"environments":{},"filters":{"f":999}}}"#),
        ("patch", r#"{"path":"/environments/a","data":999}"#),
        ("patch", r#"{"path":"/filters/f","data":999}"#),
        ("patch", r#"{"path":"/environments/a""#),
        ("delete", r#"{"path":999,"version":9}"#),
        ("delete", r#"{"path":"/environments/a","#),
    ] {
        let mut client = Client::connected();
        assert_eq!(client.give_text(event, data), ["status initializing data"], "{data}");
        client.session.handle_opened();
        client.give("put", &put(json!({"a": env("a", 1, "a")}), json!({})));
        assert_eq!(client.give_text(event, data), ["status interrupted configured data"], "{data}");
        client.session.handle_opened();
        client.lines();
        assert_eq!(
            client.give("put", &put(json!({"a": env("a", 1, "a")}), json!({}))),
            ["received_all 1+0 stream", "status valid connected configured data"],
            "{data}"
        );
    }
}

#[test]
fn n88_an_empty_put_may_be_held_back() {
    let full = put(json!({"a": env("a", 1, "a"), "b": env("b", 1, "b")}), json!({"f": filter(1, "f")}));
    let empty = put(json!({}), json!({}));
    let start = || {
        let mut client = Client::holding(Duration::from_millis(100));
        client.session.handle_opened();
        client.give("put", &full);
        client
    };
    // The put is held back and then applied, except for items that were patched meanwhile.
    let mut client = start();
    assert_eq!(client.give("put", &empty), ["held 2 100"]);
    assert_eq!(client.session.next_deadline().steady, Some(Duration::from_millis(1_000_100)));
    client.at(50);
    assert_eq!(client.give("patch", &patch("a", env("a", 2, "a"))), ["update a v2 ___a/ changed=[] +[] -[]"]);
    assert_eq!(client.give("patch", &patch("c", env("c", 1, "c"))), ["add c v1 ___c/"]);
    assert_eq!(client.at(99).wait(), [""; 0]);
    assert_eq!(
        client.at(100).wait(),
        ["delete b vnull by put", "filter_delete f vnull by put", "received_all 2+0 stream"]
    );
    assert_eq!(client.at(500).wait(), [""; 0]);
    // Another put replaces it; the end of the connection drops it.
    let mut client = start();
    client.give("put", &empty);
    assert_eq!(client.at(50).give("put", &empty), ["held 2 100"]);
    assert_eq!(client.at(120).wait(), [""; 0]);
    assert_eq!(client.give("put", &full), ["received_all 2+1 stream"]);
    assert_eq!(client.at(500).wait(), [""; 0]);
    client.give("put", &empty);
    client.session.handle_ended(StatusError::network("cut"), Duration::from_secs(1));
    assert_eq!(client.lines(), ["status interrupted configured network"]);
    assert_eq!(client.at(5000).wait(), [""; 0]);
    // A clock that is set forward does not release it.
    let mut client = start();
    client.give("put", &empty);
    client.now.unix_ms += 3_600_000;
    assert_eq!(client.wait(), [""; 0]);
    // If nothing is known, there is nothing to hold back.
    let mut client = Client::holding(Duration::from_millis(100));
    client.session.handle_opened();
    client.lines();
    assert_eq!(client.give("put", &empty), ["received_all 0+0 stream", "status valid connected configured"]);
    // By default no put is held back.
    let mut client = Client::connected();
    client.give("put", &full);
    assert_eq!(client.give("put", &empty).len(), 4);
}

#[test]
fn n94_status_follows_the_connection() {
    let mut client = Client::new();
    let refused = || StatusError::network("refused");
    for _ in 0..2 {
        client.session.handle_ended(refused(), Duration::from_secs(1));
        assert_eq!(client.lines(), ["status initializing network"]);
    }
    client.session.handle_opened();
    assert_eq!(client.lines(), ["status initializing connected network"]);
    assert_eq!(client.give("magic", &Value::Null), ["status valid connected network"]);
    client.session.handle_ended(StatusError::response(401, "no"), Duration::from_secs(300));
    let line = client.json().remove(0);
    assert_eq!(line["error"], json!({"kind": "response", "status": 401, "message": "no"}));
    assert_eq!((&line["state"], &line["retry_ms"]), (&json!("interrupted"), &json!(300_000)));
    client.session.handle_opened();
    let line = client.json().remove(0);
    assert_eq!(
        (&line["state"], &line["retry_ms"], &line["connected"]),
        (&json!("interrupted"), &Value::Null, &json!(true))
    );
    client.session.handle_stopped(Some(StatusError::response(403, "no")));
    assert_eq!(client.lines(), ["status off response"]);
}

#[test]
fn n85_what_is_saved_comes_back_without_keys_that_have_ended() {
    let mut client = Client::connected();
    let listed = json!({"envID": "l", "version": 4, "envKey": "k\"ey", "projName": "P", "defaultTtl": 5, "secureMode": true,
        "sdkKey": {"value": key("main")}, "mobKey": key("mob"),
        "sdkKeys": [{"key": "old", "value": key("old"), "expiry": 1_000_100}, {"key": "m", "value": key("main")}, {"value": key("view"), "hasViews": true}]});
    client.give("put", &put(json!({"g": grace("g", 2, "new", "old", 100), "h": grace("h", 2, "new", "old", 900), "l": listed}), json!({"f": filter(3, "f")})));
    let known = client.session.environments().environments().cloned().collect::<Vec<_>>();
    let text = encode_saved(client.session.environments(), "http://here/");
    let (source, content) = decode_saved(&text).unwrap();
    assert_eq!(source, "http://here/");

    let mut again = Client::new();
    again.session.restore(content.clone(), client.now);
    assert_eq!(
        again.lines(),
        [
            "add g v2 _new,_old@100/",
            "add h v2 _new,_old@900/",
            "add l v4 main,_old@100/_mob",
            "filter_add f v3 f",
            "received_all 3+1 cache",
            "status initializing configured"
        ]
    );
    for environment in known {
        assert_eq!(again.session.environments().get(environment.id.as_str()), Some(&environment));
    }
    let mut later = Client::new();
    later.at(500).session.restore(content, Now::at(1_000_500));
    assert_eq!(later.lines()[..2], ["add g v2 _new/", "add h v2 _new,_old@900/"]);
    // Items from a cache count as known.
    later.session.handle_opened();
    later.lines();
    assert_eq!(
        later.give(
            "put",
            &put(json!({"g": env("g", 2, "x"), "h": env("h", 3, "new")}), json!({"f": filter(3, "f")}))
        ),
        [
            "update h v3 _new/ changed=[\"sdk_keys\"] +[] -[\"***_old\"]",
            "delete l vnull by put",
            "received_all 2+1 stream",
            "status valid connected configured"
        ]
    );
    for end in 0..text.trim_end().len() {
        assert!(decode_saved(&text[..end]).is_err());
    }
    for bad in [
        "{}",
        "[]",
        r#"{"format":"other","source":"s","environments":{},"filters":{}}"#,
        r#"{"format":"relay auto-configuration 1","source":"s"}"#,
    ] {
        assert!(decode_saved(bad).is_err(), "{bad}");
    }
    let mut client = Client::new();
    let damaged = text.replace(&key("new"), "");
    client.session.restore(decode_saved(&damaged).unwrap().1, Now::at(1_000_000));
    assert_eq!(client.lines()[..2], ["add l v4 main,_old@100/_mob", "filter_add f v3 f"]);
}

#[test]
fn no_key_is_in_what_prints() {
    let mut client = Client::connected();
    let rep = json!({"envID": "e", "version": 1, "mobKey": "short-mob", "sdkKey": {"value": "short-sdk", "expiring": {"value": "short-old", "timestamp": 2_000_000}}});
    let text = patch("e", rep).to_string();
    let message = Message::decode("patch", &text).unwrap();
    let printed = format!("{message:?}");
    client.session.handle_event("patch", &text, client.now);
    let printed = printed + &format!("{:?}", client.session);
    let lines = format!("{:?}", client.json());
    for text in [&printed, &lines] {
        assert!(!text.contains("short") && text.contains("***"), "{text}");
    }
}
