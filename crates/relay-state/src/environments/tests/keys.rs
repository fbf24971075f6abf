//! When keys expire, and the errors of an older proxy's key rotation.

use super::*;

#[test]
fn n60_to_n65_n69_n71_a_key_ends_after_its_time_and_once() {
    let mut client = Client::connected();
    client.give("magic", &Value::Null);
    for past in [-1000, -1, 0] {
        let id = format!("past{past}");
        assert_eq!(
            client.give("patch", &patch(&id, grace(&id, 1, "new", "old", past))),
            [format!("add {id} v1 _new/")]
        );
    }
    assert_eq!(
        client.give("patch", &patch("e", grace("e", 1, "new", "old", 300))),
        ["add e v1 _new,_old@300/"]
    );
    assert_eq!(client.session.next_deadline().unix_ms, Some(1_000_301));
    assert_eq!(client.at(300).wait(), [""; 0]);
    assert_eq!(client.at(301).wait(), ["key_expired e sdk ***_old 1000300"]);
    assert_eq!(client.session.next_deadline(), Deadline::default());
    assert_eq!(client.at(9000).wait(), [""; 0]);
    // Neither the same version again nor a clock that is set back makes the key valid again.
    assert_eq!(client.at(100).give("patch", &patch("e", grace("e", 1, "new", "old", 300))), [""; 0]);
    assert_eq!(
        client.at(400).give("patch", &patch("e", grace("e", 2, "new", "old", 300))),
        ["update e v2 _new/ changed=[] +[] -[]"]
    );
    // A newer version may accept it again.
    assert_eq!(
        client.give("patch", &patch("e", grace("e", 3, "new", "old", 500))),
        ["update e v3 _new,_old@500/ changed=[\"sdk_keys\"] +[\"***_old\"] -[]"]
    );
    // The expiry comes before an event of a later time.
    assert_eq!(
        client.at(600).give("patch", &patch("e", grace("e", 4, "next", "new", 700))),
        [
            "key_expired e sdk ***_old 1000500",
            "update e v4 next,_new@700/ changed=[\"sdk_keys\"] +[\"***next\"] -[]"
        ]
    );
    let end = json!({"envID": "f", "version": 1, "sdkKey": {"value": "k", "expiring": {"value": "o", "timestamp": u64::MAX}}});
    client.give("patch", &patch("f", end));
    client.at(701).wait();
    assert_eq!(client.session.next_deadline(), Deadline::default(), "a time beyond every clock never comes");
}

/// The errors of an older proxy's key rotation. Each one accepts a key for ever, or removes one too early.
#[test]
fn leak_1_a_grace_that_is_over_revokes_the_old_primary() {
    let mut client = Client::connected();
    client.give("patch", &patch("e", env("e", 1, "A")));
    assert_eq!(
        client.give("patch", &patch("e", grace("e", 2, "B", "A", -1))),
        ["update e v2 ___B/ changed=[\"sdk_keys\"] +[\"***___B\"] -[\"***___A\"]"]
    );
}

#[test]
fn leak_2_a_grace_for_another_key_revokes_the_old_primary() {
    let mut client = Client::connected();
    client.give("patch", &patch("e", env("e", 1, "A")));
    assert_eq!(
        client.give("patch", &patch("e", grace("e", 2, "C", "B", 100))),
        ["update e v2 ___C,___B@100/ changed=[\"sdk_keys\"] +[\"***___C\",\"***___B\"] -[\"***___A\"]"]
    );
}

#[test]
fn leak_3_a_key_that_is_primary_again_does_not_end() {
    let mut client = Client::connected();
    client.give("patch", &patch("e", env("e", 1, "A")));
    client.give("patch", &patch("e", grace("e", 2, "B", "A", 100)));
    assert_eq!(
        client.give("patch", &patch("e", env("e", 3, "A"))),
        ["update e v3 ___A/ changed=[\"sdk_keys\"] +[] -[\"***___B\"]"]
    );
    assert_eq!(client.at(500).wait(), [""; 0]);
    let same = grace("e", 4, "A", "A", 600);
    assert_eq!(client.give("patch", &patch("e", same)), ["update e v4 ___A/ changed=[] +[] -[]"]);
    assert_eq!(client.at(900).wait(), [""; 0]);
}

#[test]
fn leak_4_an_end_moves_both_ways() {
    for (moved, other) in [(50, 51), (900, 901)] {
        let mut client = Client::connected();
        client.give("patch", &patch("e", grace("e", 1, "B", "A", 100)));
        assert_eq!(
            client.give("patch", &patch("e", grace("e", 2, "B", "A", moved))),
            [format!("update e v2 ___B,___A@{moved}/ changed=[\"sdk_keys\"] +[] -[]")]
        );
        assert_eq!(client.at(moved as u64).wait(), [""; 0]);
        assert_eq!(client.at(other).wait(), [format!("key_expired e sdk ***___A {}", 1_000_000 + moved)]);
        assert_eq!(client.at(5000).wait(), [""; 0]);
    }
}

#[test]
fn leak_5_an_end_that_is_dropped_or_deleted_never_comes() {
    for gone in [
        patch("e", env("e", 2, "B")),
        put(json!({"x": env("x", 1, "x")}), json!({})),
        put(json!({}), json!({})),
    ] {
        let mut client = Client::connected();
        client.give("patch", &patch("e", grace("e", 1, "B", "A", 100)));
        client.give(if gone["path"] == "/" { "put" } else { "patch" }, &gone);
        assert_eq!(client.session.next_deadline(), Deadline::default());
        assert_eq!(client.at(500).wait(), [""; 0]);
    }
    let mut client = Client::connected();
    client.give("patch", &patch("e", grace("e", 1, "B", "A", 100)));
    client.give("delete", &delete("e", 2));
    assert_eq!(client.at(500).wait(), [""; 0]);
}

#[test]
fn n70_many_keys_end_in_the_order_of_their_times() {
    let mut client = Client::connected();
    let list: Vec<_> = (0..250)
        .map(|i| json!({"key": format!("n{i}"), "value": key(&format!("{i:04}")), "expiry": 1_001_000 - i}))
        .collect();
    let mut sdk = vec![json!({"key": "main", "value": key("main"), "hasViews": true, "expiry": 1})];
    sdk.extend(list.clone());
    let rep = json!({"envID": "e", "version": 1, "sdkKey": {"value": key("main"), "expiring": {"value": "ignored", "timestamp": 1_000_500}},
        "sdkKeys": sdk, "mobKey": key("mob"), "mobileKeys": [{"value": key("mob")}, {"value": key("view"), "hasViews": true}, {"key": "m", "value": key("mold"), "expiry": 1_000_900}]});
    client.session.handle_event("patch", &patch("e", rep).to_string(), client.now);
    let line = client.json().remove(0);
    assert_eq!(line["env"]["sdk_keys"].as_array().unwrap().len(), 251);
    assert_eq!(
        line["env"]["sdk_keys"][0],
        json!({"name": "main", "key": "***main", "primary": true, "expires_ms": null})
    );
    assert_eq!(
        line["env"]["mobile_keys"][1],
        json!({"name": "m", "key": "***mold", "primary": false, "expires_ms": 1_000_900})
    );
    assert_eq!(line["env"]["dropped_keys"], 1);
    let ends = client.at(2000).wait();
    assert_eq!(ends.len(), 251);
    assert_eq!(ends[0], "key_expired e sdk ***0249 1000751");
    let times: Vec<u64> = ends.iter().map(|line| line.rsplit(' ').next().unwrap().parse().unwrap()).collect();
    assert!(times.is_sorted());
    assert!(ends.contains(&"key_expired e mobile ***mold 1000900".to_owned()));
}
