use super::*;

const LONG: Duration = Duration::from_secs(3600);

#[test]
fn rule_8_fresh_changes_are_not_limited_and_failures_are() {
    let many: Vec<_> = (0..1000).map(|at| channel(&format!("c{at}"), "1", json!([]))).collect();
    let mut play = Play::new(&many);
    assert_eq!(play.took().iter().filter(|line| line.starts_with("provision")).count(), 1000);
    assert_eq!(play.now.since_start, Duration::ZERO);

    let mut play = Play::with(Play::settings());
    for at in 0..200 {
        play.fail(&format!("provision ns/c{at}"), 1);
    }
    play.list(&Value::Null, &many[..200]);
    play.took();
    play.pass(Duration::from_secs(1));
    let soon = play.took().len();
    assert!((105..=115).contains(&soon), "a hundred at once, then ten a second: {soon}");
    play.pass(LONG);
    assert_eq!(play.monitor.counts(), (200, 0));
}

#[test]
fn rule_8_there_is_no_last_try_and_success_forgets() {
    let mut play = Play::with(Play::settings());
    play.fail("provision ns/c", 30).list(&Value::Null, &[channel("c", "1", json!([]))]);
    play.took();
    play.pass(Duration::from_secs(20_000));
    assert_eq!(play.took().last().unwrap(), "provision ns/c");
    play.fail("provision ns/c", 1).apply(&channel("c", "1", json!([{"name": "a", "value": "x"}])));
    assert_eq!(play.took(), ["provision ns/c #1 failed"]);
    play.pass(Duration::from_millis(7));
    assert_eq!(play.took(), ["provision ns/c"]);
}

#[test]
fn rule_9_the_bus_is_called_first_and_when_its_spec_changes() {
    let mut play = Play::with(Play::settings());
    play.fail("bus b", 1).list(&Value::Null, &[channel("c", "1", json!([]))]);
    let first = ["synced 1 0", "bus b #1 failed", "provision ns/c", "settled 1 0"];
    assert_eq!(play.took(), first, "its failure blocks nothing");
    play.pass(LONG);
    assert_eq!(play.took(), ["bus b"]);
    let mut bus = object(Kind::ClusterBus, "b", "b", json!({"parameters": null}));
    bus["metadata"]["labels"] = json!({"a": "b"});
    bus["metadata"]["resourceVersion"] = "2".into();
    play.apply(&bus);
    assert_eq!(play.took(), [""; 0], "metadata");
    bus["spec"]["dispatcher"] = json!({"image": "x"});
    play.apply(&bus);
    assert_eq!(play.took(), ["bus b"]);
    play.delete(Kind::ClusterBus, "b");
    assert_eq!(play.took(), [""; 0], "deleted");
    bus["metadata"]["uid"] = "other".into();
    play.apply(&bus);
    assert_eq!(play.took(), ["bus b"], "another identity");
}

#[test]
fn rule_9_a_spec_of_the_bus_that_is_put_back_after_a_failed_call_is_called_again() {
    let mut play = Play::new(&[]);
    play.took();
    let bus = |image: &str| object(Kind::ClusterBus, "b", "b", json!({"dispatcher": {"image": image}}));
    play.apply(&bus("1")).fail("bus b", 1).apply(&bus("2")).apply(&bus("1"));
    assert_eq!(play.took(), ["bus b", "bus b #1 failed", "bus b"]);
    play.pass(LONG);
    assert_eq!(play.took(), [""; 0]);
}

#[test]
fn rule_9_without_its_bus_nothing_begins() {
    let mut play = Play::with(Play::settings());
    for kind in [Kind::ClusterBus, Kind::Channel, Kind::Subscription] {
        play.monitor.handle_list(kind, vec![], &[], play.now);
    }
    play.run();
    assert_eq!(play.took(), ["no bus"]);
}

#[test]
fn rule_10_called_when_new_or_changed_and_a_failure_is_not_forgotten() {
    let mut play = Play::new(&[channel("c", "1", json!([]))]);
    play.took();
    let mut same = channel("c", "1", json!([]));
    same["metadata"]["resourceVersion"] = "2".into();
    same["status"] = json!({"conditions": [{"type": "Ready", "status": "True"}]});
    play.apply(&same);
    assert_eq!(play.took(), [""; 0], "status and metadata");
    play.fail("provision ns/c", 1).apply(&channel("c", "1", json!([{"name": "a", "value": "1"}])));
    play.apply(&same).apply(&channel("c", "1", json!([{"name": "a", "value": "2"}])));
    let calls = ["provision ns/c #1 failed", "provision ns/c", "provision ns/c"];
    assert_eq!(play.took(), calls, "back, as a failure may have changed anything, and on to the newest");
    play.pass(LONG);
    assert_eq!(play.took(), [""; 0]);
}

#[test]
fn rule_10_a_parameter_of_the_bus_calls_exactly_whom_it_changes() {
    let given = |name: &str| channel(name, "1", json!([{"name": "size", "value": "9"}]));
    let objects = [given("a"), channel("b", "1", json!([])), subscription("s", "1", "b")];
    let size = |default: &str| json!({"channel": [{"name": "size", "default": default}]});
    let mut play = Play::of(Play::settings(), size("1"), &objects);
    play.took();
    play.apply(&object(Kind::ClusterBus, "b", "b", json!({"parameters": size("2")})));
    assert_eq!(play.took(), ["bus b", "provision ns/b"]);
    let described = json!({"channel": [{"name": "size", "default": "2", "description": "d"}]});
    play.apply(&object(Kind::ClusterBus, "b", "b", json!({"parameters": described})));
    assert_eq!(play.took(), ["bus b"]);
}

#[test]
fn rule_11_provision_before_subscribe_and_the_other_way_round() {
    let mut play = Play::with(Play::settings());
    play.fail("provision ns/c", 1);
    play.list(&Value::Null, &[subscription("s", "1", "c"), channel("c", "1", json!([]))]);
    let first = ["synced 1 1", "bus b", "provision ns/c #1 failed", "settled 0 0"];
    assert_eq!(play.took(), first, "waits without error or retry");
    play.pass(LONG);
    assert_eq!(play.took(), ["provision ns/c", "subscribe ns/s"]);
    play.fail("unsubscribe ns/s", 1).delete(Kind::Channel, "c");
    assert_eq!(play.took(), ["unsubscribe ns/s #1 failed"]);
    play.pass(LONG);
    assert_eq!(play.took(), ["unsubscribe ns/s", "unprovision ns/c"]);
    play.apply(&channel("c", "2", json!([])));
    assert_eq!(play.took(), ["provision ns/c", "subscribe ns/s"]);
    play.apply(&channel("c", "3", json!([])));
    let again = ["unsubscribe ns/s", "unprovision ns/c", "provision ns/c", "subscribe ns/s"];
    assert_eq!(play.took(), again, "another identity");
    play.apply(&object(Kind::Channel, "c", "3", json!({"clusterBus": "other"})));
    assert_eq!(play.took(), ["unsubscribe ns/s", "unprovision ns/c"], "another bus");
}

#[test]
fn rule_11_a_subscription_that_moves_to_another_channel() {
    let objects = [channel("c", "1", json!([])), channel("d", "1", json!([])), subscription("s", "1", "c")];
    let mut play = Play::new(&objects);
    play.took();
    play.apply(&subscription("s", "1", "d"));
    assert_eq!(play.took(), ["unsubscribe ns/s", "subscribe ns/s"]);
    assert_eq!((play.subscribed("c"), play.subscribed("d")), (Some(vec![]), Some(vec!["ns/s".into()])));
    play.delete(Kind::Channel, "c");
    assert_eq!(play.took(), ["unprovision ns/c"]);
    assert_eq!(play.subscribed("c"), None);
}

#[test]
fn rule_11_what_was_torn_half_way_is_made_again() {
    let mut play = Play::new(&[channel("c", "1", json!([])), subscription("s", "1", "c")]);
    play.took();
    play.fail("unsubscribe ns/s", 99).apply(&subscription("s", "1", "elsewhere"));
    assert_eq!(
        (play.took(), play.subscribed("c")),
        (vec!["unsubscribe ns/s #1 failed".into()], Some(vec![]))
    );
    play.apply(&subscription("s", "1", "c"));
    assert_eq!(play.took(), ["subscribe ns/s"]);
    assert_eq!(play.subscribed("c"), Some(vec!["ns/s".into()]));
}

#[test]
fn rule_12_others_objects_cause_nothing() {
    let objects = [
        object(Kind::Channel, "other", "1", json!({"clusterBus": "other"})),
        object(Kind::Channel, "namespaced", "1", json!({"bus": "b"})),
        object(Kind::Channel, "both", "1", json!({"bus": "b", "clusterBus": "b"})),
        object(Kind::Channel, "none", "1", json!({})),
        subscription("s", "1", "other"),
        subscription("t", "1", "absent"),
    ];
    let mut play = Play::of(Play::settings().writes(true), Value::Null, &objects);
    play.took();
    play.pass(LONG);
    play.delete(Kind::Channel, "other").delete(Kind::Subscription, "s");
    assert_eq!((play.took(), play.writes.len()), (vec![], 0));
    assert_eq!(play.monitor.poll_timeout(), None);
}

#[test]
fn rule_13_missing_arguments_are_told_once_and_change_nothing() {
    let needs = json!({"channel": [{"name": "b"}, {"name": "a"}]});
    let mut play =
        Play::of(Play::settings(), needs, &[channel("c", "1", json!([])), subscription("s", "1", "c")]);
    let missing = r#"missing channel ns/c ["a", "b"]"#;
    assert_eq!(play.took(), ["synced 1 1", "bus b", missing, "settled 0 0"]);
    play.pass(LONG);
    assert_eq!(play.took(), [""; 0]);
    let both = json!([{"name": "a", "value": ""}, {"name": "b", "value": "1"}]);
    play.apply(&channel("c", "1", both));
    assert_eq!(play.took(), ["provision ns/c", "subscribe ns/s"]);
    play.apply(&channel("c", "1", json!([{"name": "a", "value": "1"}])));
    assert_eq!(play.took(), [r#"missing channel ns/c ["b"]"#]);
    assert_eq!(play.subscribed("c"), Some(vec!["ns/s".into()]), "what was provisioned stays so");
}

#[test]
fn rule_14_what_is_listed_is_what_is_subscribed() {
    let mut play = Play::with(Play::settings());
    play.fail("subscribe ns/t", 99);
    let objects = [channel("c", "1", json!([])), subscription("s", "1", "c"), subscription("t", "1", "c")];
    play.list(&Value::Null, &objects);
    assert_eq!(play.subscribed("c"), Some(vec!["ns/s".into()]));
    assert_eq!((play.subscribed("d"), play.monitor.counts()), (None, (1, 1)));
    let subscription = SubscriptionReference::new("s", "ns");
    assert_eq!(play.monitor.subscription(&subscription).unwrap().subscriber.as_deref(), Some("x"));
    play.delete(Kind::Subscription, "s");
    assert_eq!(play.subscribed("c"), Some(vec![]));
}

#[test]
fn requeued_subscriptions_are_called_although_nothing_changed() {
    let mut play = Play::new(&[channel("c", "1", json!([])), subscription("s", "1", "c")]);
    play.took();
    play.monitor.requeue_subscription(&SubscriptionReference::new("s", "ns"));
    play.run();
    assert_eq!(play.took(), ["subscribe ns/s"]);
    play.fail("subscribe ns/s", 2).monitor.requeue_subscription(&SubscriptionReference::new("s", "ns"));
    play.run();
    play.pass(LONG);
    let tries = ["subscribe ns/s #1 failed", "subscribe ns/s #2 failed", "subscribe ns/s"];
    assert_eq!(play.took(), tries, "until it succeeds");
}

#[test]
fn what_failed_can_be_tried_at_once() {
    let mut play = Play::with(Play::settings());
    play.fail("provision ns/c", 20).list(&Value::Null, &[channel("c", "1", json!([]))]);
    play.pass(Duration::from_secs(100));
    play.failing.clear();
    play.took();
    play.monitor.retry_now();
    play.run();
    assert_eq!(play.took(), ["provision ns/c"]);
}

#[test]
fn rule_18_a_list_that_misses_an_object_is_its_deletion_and_only_differences_are_called() {
    let objects = [channel("c", "1", json!([])), channel("d", "1", json!([])), subscription("s", "1", "c")];
    let mut play = Play::new(&objects);
    assert_eq!(play.took().last().unwrap(), "settled 2 1");
    play.list(&Value::Null, &objects);
    assert_eq!(play.took(), [""; 0]);
    play.list(&Value::Null, &[objects[0].clone(), objects[2].clone()]);
    assert_eq!(play.took(), ["unprovision ns/d"]);
    play.monitor.handle_list(Kind::Channel, vec![], &[("c", "ns")], play.now);
    play.run();
    assert_eq!(play.took(), [""; 0], "what could not be read is there");
}

#[test]
fn rule_18_nothing_before_all_lists_and_settled_after_each_was_called() {
    let mut play = Play::with(Play::settings());
    play.apply(&channel("early", "1", json!([])));
    play.monitor.handle_list(Kind::Channel, vec![read(&channel("c", "1", json!([])))], &[], play.now);
    play.run();
    assert_eq!(play.took(), [""; 0]);
    play.hold = true;
    play.list(&Value::Null, &[channel("c", "1", json!([])), subscription("s", "1", "c")]);
    assert_eq!(play.took(), ["synced 1 1"]);
    for calls in [vec!["bus b"], vec!["provision ns/c"], vec!["subscribe ns/s", "settled 1 1"]] {
        play.release();
        assert_eq!(play.took(), calls);
    }
    play.monitor.settle();
    play.run();
    assert_eq!(play.took(), ["settled 1 1"]);
}

#[test]
fn rule_19_after_stop_no_call_begins() {
    let mut play = Play::new(&[channel("c", "1", json!([]))]);
    play.hold = true;
    play.apply(&channel("d", "1", json!([])));
    play.monitor.stop();
    play.took();
    play.release();
    play.apply(&channel("e", "1", json!([])));
    assert_eq!((play.took(), play.held.len()), (vec!["provision ns/d".into()], 0));
    assert_eq!(play.monitor.calls_under_way(), 0);
}

#[test]
fn calls_of_one_object_never_overlap_and_all_are_bounded() {
    let mut play = Play::of(Play::settings().concurrency(2), Value::Null, &[]);
    play.hold = true;
    for at in 0..3 {
        play.apply(&channel(&format!("c{at}"), "1", json!([])));
    }
    play.apply(&channel("c0", "1", json!([{"name": "x", "value": "y"}])));
    assert_eq!(play.held.len(), 2);
    play.took();
    play.release();
    play.release();
    assert_eq!(play.took(), ["provision ns/c0", "provision ns/c1", "provision ns/c2", "provision ns/c0"]);
}

#[test]
fn handlers_that_are_not_set_count_as_done() {
    let handlers =
        Handlers { bus: false, provision: false, unprovision: true, subscribe: true, unsubscribe: false };
    let objects = [channel("c", "1", json!([])), subscription("s", "1", "c")];
    let mut play = Play::of(Play::settings().handlers(handlers).writes(true), Value::Null, &objects);
    assert_eq!(
        play.took(),
        ["synced 1 1", "subscribe ns/s", "Synced Subscribed successfully", "settled 1 1"]
    );
    play.delete(Kind::Channel, "c");
    assert_eq!(play.took(), ["unprovision ns/c", "Synced Channel unprovisioned successfully"]);
}
