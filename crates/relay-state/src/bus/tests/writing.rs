use super::*;

impl Play {
    /// Answers the pending writes, and applies them to this object.
    fn written(&mut self, object: &mut Value) -> Vec<String> {
        let writes = std::mem::take(&mut self.writes);
        let mut said = Vec::new();
        for write in writes {
            let version = object["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
            let (written, text) = match &write.patch {
                Patch::Read => (Written::Object(Box::new(read(object))), "read".to_owned()),
                Patch::Conditions { resource_version, .. } | Patch::Finalizers { resource_version, .. }
                    if **resource_version != *version =>
                {
                    (Written::Conflict, "conflict".to_owned())
                }
                Patch::Conditions { conditions, .. } => {
                    object["status"]["conditions"] = conditions.clone();
                    let list = conditions.as_array().unwrap().iter();
                    let each = list.map(|c| format!("{}={}", text(&c["type"]), text(&c["status"])));
                    let words = each.collect::<Vec<_>>().join(" ");
                    bump(object);
                    (Written::Object(Box::new(read(object))), words)
                }
                Patch::Finalizers { finalizers, .. } => {
                    let list: Vec<_> = finalizers.iter().map(ToString::to_string).collect();
                    object["metadata"]["finalizers"] = json!(list);
                    bump(object);
                    (Written::Object(Box::new(read(object))), format!("finalizers {list:?}"))
                }
            };
            said.push(text);
            self.monitor.handle_written(&write.key, written, self.now);
            self.run();
        }
        said
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or("-")
}

fn bump(object: &mut Value) {
    let version: u64 = object["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap();
    object["metadata"]["resourceVersion"] = (version + 1).to_string().into();
}

#[test]
fn rule_15_a_condition_is_written_after_a_call_and_only_when_it_says_something_new() {
    let mut c = channel("c", "1", json!([]));
    c["status"] = json!({"conditions": [{"type": "Routeable", "status": "False", "by": "another"}]});
    let mut play = Play::of(Play::settings().writes(true), Value::Null, std::slice::from_ref(&c));
    assert_eq!(play.written(&mut c), ["Routeable=False Provisioned=True Ready=False"]);
    assert_eq!(c["status"]["conditions"][0]["by"], "another");
    assert_eq!(c["status"]["conditions"][1]["message"], "Channel provisioned successfully");
    play.apply(&c);
    let mut play = Play::of(Play::settings().writes(true), Value::Null, std::slice::from_ref(&c));
    assert_eq!(play.took().iter().filter(|line| *line == "provision ns/c").count(), 1);
    assert_eq!(play.written(&mut c), [""; 0], "a restart says nothing new");
}

#[test]
fn rule_15_the_true_after_a_false_is_written() {
    let mut s = subscription("s", "1", "c");
    let mut play = Play::of(Play::settings().writes(true), Value::Null, &[channel("c", "1", json!([]))]);
    play.writes.clear();
    play.fail("subscribe ns/s", 1).apply(&s);
    assert_eq!(play.written(&mut s), ["Dispatching=False"]);
    assert_eq!(s["status"]["conditions"][0]["reason"], "ErrResourceSync");
    play.pass(Duration::from_secs(5));
    assert_eq!(play.written(&mut s), ["Dispatching=True"]);
    let condition = &s["status"]["conditions"][0];
    assert_eq!(
        (text(&condition["reason"]), text(&condition["message"])),
        ("Synced", "Subscription dispatcher successfully created")
    );
}

/// Status and reason of each condition.
fn reasons(object: &Value) -> Vec<String> {
    let conditions = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
    conditions
        .iter()
        .map(|c| format!("{}={} {}", text(&c["type"]), text(&c["status"]), text(&c["reason"])))
        .collect()
}

#[test]
fn rule_15_arguments_that_are_put_back_are_written_once_and_call_nothing() {
    for subject in ["channel", "subscription"] {
        let (mut c, mut s) = (channel("c", "1", json!([])), subscription("s", "1", "c"));
        let needs = json!({subject: [{"name": "p"}]});
        let (object, good, bad) = match subject {
            "channel" => (&mut c, "Provisioned=True Synced", "Provisioned=False MissingArguments"),
            _ => (&mut s, "Dispatching=True Synced", "Dispatching=False MissingArguments"),
        };
        object["spec"]["arguments"] = json!([{"name": "p", "value": "1"}]);
        let mut play = Play::of(Play::settings().writes(true), needs, &[c.clone(), s.clone()]);
        let object = if subject == "channel" { &mut c } else { &mut s };
        play.writes.retain(|write| matches!(write.key, Key::Channel(_)) == (subject == "channel"));
        play.written(object);
        assert_eq!(reasons(object)[0], good);
        play.took();
        for _ in 0..2 {
            object["spec"]["arguments"] = json!([]);
            play.apply(object).written(object);
            assert_eq!(reasons(object)[0], bad);
            assert_eq!(play.took().len(), 2, "a line and an event, each time");
            object["spec"]["arguments"] = json!([{"name": "p", "value": "1"}]);
            assert_eq!(play.apply(object).written(object).len(), 1);
            assert_eq!(reasons(object)[0], good);
            assert_eq!(play.apply(object).written(object), [""; 0], "it is written once");
            assert_eq!(play.took(), [""; 0], "no call and no event");
        }
        // The same when it is the bus that changes.
        let bus =
            |parameters: Value| self::object(Kind::ClusterBus, "b", "b", json!({"parameters": parameters}));
        let more = json!({subject: [{"name": "p"}, {"name": "q"}]});
        play.apply(&bus(more)).written(object);
        assert_eq!(reasons(object)[0], bad);
        play.apply(&bus(json!({subject: [{"name": "p"}]}))).written(object);
        assert_eq!(reasons(object)[0], good);
        let calls =
            play.took().into_iter().filter(|line| line.contains("ns/") && !line.starts_with("missing"));
        assert_eq!(calls.collect::<Vec<_>>(), [""; 0]);
    }
}

#[test]
fn rule_15_a_condition_that_is_not_ours_to_write_stays_when_arguments_are_put_back() {
    let unset = Handlers { provision: false, ..Handlers::default() };
    for settings in [Play::settings(), Play::settings().writes(true).handlers(unset)] {
        let good = channel("c", "1", json!([{"name": "p", "value": "1"}]));
        let mut play = Play::of(settings, json!({"channel": [{"name": "p"}]}), std::slice::from_ref(&good));
        play.apply(&channel("c", "1", json!([]))).apply(&good);
        assert_eq!(play.writes, []);
    }
}

#[test]
fn rule_15_a_spec_that_is_put_back_after_a_failed_call_is_called_again() {
    for (name, call) in [("c", "provision ns/c"), ("s", "subscribe ns/s")] {
        let (mut c, mut s) = (channel("c", "1", json!([])), subscription("s", "1", "c"));
        let mut play = Play::of(Play::settings().writes(true), Value::Null, &[c.clone(), s.clone()]);
        let object = if name == "c" { &mut c } else { &mut s };
        play.writes.retain(|write| matches!(write.key, Key::Channel(_)) == (name == "c"));
        play.written(object);
        let before = reasons(object);
        play.took();
        object["spec"]["arguments"] = json!([{"name": "a", "value": "1"}]);
        play.fail(call, 1).apply(object).written(object);
        assert!(reasons(object)[0].ends_with("=False ErrResourceSync"), "{:?}", reasons(object));
        object["spec"]["arguments"] = json!([]);
        play.took();
        assert_eq!(play.apply(object).written(object).len(), 1);
        let calls: Vec<_> = play.took().into_iter().filter(|line| line.contains("ns/")).collect();
        assert_eq!(calls, [call], "what the handler has after a failure is not known");
        assert_eq!(reasons(object), before);
        play.pass(Duration::from_secs(5));
        assert_eq!((play.took(), play.writes.len()), (vec![], 0), "the failed spec is not tried again");
    }
}

#[test]
fn rule_15_a_conflict_is_read_computed_and_written_again_and_calls_nothing() {
    let mut c = channel("c", "1", json!([]));
    let mut play = Play::of(Play::settings().writes(true), Value::Null, std::slice::from_ref(&c));
    play.took();
    bump(&mut c);
    c["status"] = json!({"conditions": [{"type": "Other", "status": "True"}]});
    assert_eq!(play.written(&mut c), ["conflict"]);
    assert_eq!(play.written(&mut c), ["read"]);
    assert_eq!(play.written(&mut c), ["Other=True Provisioned=True Ready=True"]);
    assert_eq!(play.took(), [""; 0]);
}

#[test]
fn rule_15_a_write_that_fails_is_tried_again_and_calls_nothing() {
    let mut c = channel("c", "1", json!([]));
    let mut play = Play::of(Play::settings().writes(true), Value::Null, std::slice::from_ref(&c));
    play.took();
    for _ in 0..10 {
        let write = play.writes.remove(0);
        play.monitor.handle_written(&write.key, Written::Failed, play.now);
        play.run();
        assert!(play.writes.is_empty(), "not at once");
        play.pass(Duration::from_secs(60));
        assert_eq!(play.writes.len(), 1);
    }
    assert_eq!(play.written(&mut c), ["Provisioned=True Ready=True"]);
    assert_eq!(play.took(), [""; 0]);
}

#[test]
fn rule_15_conflicts_without_end_wait_longer_and_longer() {
    let c = channel("c", "1", json!([]));
    let mut play = Play::of(Play::settings().writes(true), Value::Null, std::slice::from_ref(&c));
    play.took();
    let mut delays = Vec::new();
    for _ in 0..8 {
        let write = play.writes.remove(0);
        play.monitor.handle_written(&write.key, Written::Conflict, play.now);
        let begin = play.now.since_start;
        play.run();
        while play.writes.is_empty() {
            play.pass(Duration::from_millis(1));
        }
        delays.push(play.now.since_start - begin);
        let read_now = play.writes.remove(0);
        assert_eq!(read_now.patch, Patch::Read);
        play.monitor.handle_written(&read_now.key, Written::Object(Box::new(read(&c))), play.now);
        play.run();
        while play.writes.is_empty() {
            play.pass(Duration::from_millis(1));
        }
    }
    assert_eq!(delays[0], Duration::ZERO, "the first is looked at at once");
    assert!(delays[7] > Duration::from_millis(200), "{delays:?}");
    assert_eq!(play.took(), [""; 0]);
}

#[test]
fn rule_15_a_write_waits_as_long_as_the_server_asks_for_up_to_a_minute() {
    for (wish, waits) in [(20, 20), (3600, 60)] {
        let c = channel("c", "1", json!([]));
        let mut play = Play::of(Play::settings().writes(true), Value::Null, &[c]);
        play.took();
        let write = play.writes.remove(0);
        play.monitor.handle_written(&write.key, Written::Later(Duration::from_secs(wish)), play.now);
        play.run();
        play.pass(Duration::from_secs(waits - 1));
        assert!(play.writes.is_empty());
        play.pass(Duration::from_secs(1));
        assert_eq!(play.writes.len(), 1);
        assert_eq!(play.took(), [""; 0]);
    }
}

#[test]
fn rule_13_missing_arguments_are_a_condition_and_a_warning() {
    let mut c = channel("c", "1", json!([]));
    let needs = json!({"channel": [{"name": "b"}, {"name": "a"}]});
    let mut play = Play::of(Play::settings().writes(true), needs, &[c.clone()]);
    assert_eq!(play.written(&mut c), ["Provisioned=False Ready=False"]);
    let condition = &c["status"]["conditions"][0];
    assert_eq!(text(&condition["reason"]), "MissingArguments");
    assert_eq!(text(&condition["message"]), "missing required arguments: [a b]");
    assert!(play.took().contains(&"MissingArguments missing required arguments: [a b]".to_owned()));
}

#[test]
fn a_spec_that_breaks_a_rule_gets_a_condition_and_no_call() {
    let mut c = channel("c", "1", json!([{"name": "a", "value": 5}]));
    let mut play = Play::of(Play::settings().writes(true), Value::Null, std::slice::from_ref(&c));
    assert!(!play.took().iter().any(|line| line.starts_with("provision")));
    assert_eq!(play.written(&mut c), ["Provisioned=False Ready=False"]);
    assert_eq!(text(&c["status"]["conditions"][0]["reason"]), "InvalidSpec");
}

#[test]
fn rule_16_each_call_is_an_event() {
    let mut play = Play::with(Play::settings().writes(true));
    play.fail("subscribe ns/s", 1);
    play.list(&Value::Null, &[channel("c", "1", json!([])), subscription("s", "1", "c")]);
    let log = play.took();
    for line in [
        "Synced Bus synched successfully",
        "Synced Channel provisioned successfully",
        "ErrResourceSync Error subscribing: no",
    ] {
        assert!(log.iter().any(|said| said == line), "{line} {log:?}");
    }
}

#[test]
fn rule_16_events_that_nobody_sends_are_dropped_and_told() {
    let many: Vec<_> = (0..1500).map(|at| channel(&format!("c{at}"), "1", json!([]))).collect();
    let mut monitor = Monitor::new(Play::settings().writes(true).concurrency(5000));
    let bus = object(Kind::ClusterBus, "b", "b", json!({}));
    monitor.handle_list(Kind::ClusterBus, vec![read(&bus)], &[], Now::default());
    monitor.handle_list(Kind::Channel, many.iter().map(read).collect(), &[], Now::default());
    monitor.handle_list(Kind::Subscription, vec![], &[], Now::default());
    let mut jobs = Vec::new();
    while let Some(action) = monitor.poll(Now::default()) {
        match action {
            Action::Call(job) if job.key == Key::Bus => {
                monitor.handle_called(&job.key, Ok(()), Now::default())
            }
            Action::Call(job) => jobs.push(job),
            _ => {}
        }
    }
    jobs.iter().for_each(|job| monitor.handle_called(&job.key, Ok(()), Now::default()));
    let mut told = 0;
    while let Some(action) = monitor.poll(Now::default()) {
        if let Action::NotesDropped(count) = action {
            told = count;
        }
    }
    assert_eq!(told, 1500 - 1024);
}

#[test]
fn rule_17_a_finalizer_is_there_before_the_first_call_and_goes_after_the_last() {
    let settings = || Play::settings().finalizer(Some("relay".into()));
    let (mut c, mut s) = (channel("c", "1", json!([])), subscription("s", "1", "c"));
    c["metadata"]["finalizers"] = json!(["others"]);
    let mut play = Play::of(settings(), Value::Null, &[c.clone(), s.clone()]);
    assert_eq!(play.took(), ["synced 1 1", "bus b"]);
    assert_eq!(play.written(&mut c), [r#"finalizers ["others", "relay"]"#]);
    assert_eq!(play.took(), ["provision ns/c"]);
    assert_eq!(play.written(&mut s), [r#"finalizers ["relay"]"#]);
    assert_eq!(play.took(), ["subscribe ns/s", "settled 1 1"]);

    c["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
    s["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
    play.fail("unsubscribe ns/s", 1).apply(&c);
    assert_eq!(play.took(), ["unsubscribe ns/s #1 failed"]);
    assert!(play.writes.is_empty(), "only success removes it");
    play.apply(&s);
    play.pass(Duration::from_secs(5));
    assert_eq!(play.took(), ["unsubscribe ns/s", "unprovision ns/c"]);
    let (of_c, of_s): (Vec<_>, Vec<_>) =
        play.writes.drain(..).partition(|write| matches!(write.key, Key::Channel(_)));
    play.writes = of_c;
    assert_eq!(play.written(&mut c), [r#"finalizers ["others"]"#]);
    play.writes = of_s;
    assert_eq!(play.written(&mut s), ["finalizers []"]);
    play.delete(Kind::Channel, "c").delete(Kind::Subscription, "s");
    assert_eq!(play.took(), [""; 0]);
}

#[test]
fn rule_17_a_delete_while_nobody_ran_is_made_up_for() {
    let (mut c, mut s) = (channel("c", "1", json!([])), subscription("s", "1", "c"));
    for object in [&mut c, &mut s] {
        object["metadata"]["finalizers"] = json!(["relay"]);
        object["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
    }
    let mut play = Play::of(Play::settings().finalizer(Some("relay".into())), Value::Null, &[c.clone(), s]);
    let calls: Vec<_> = play.took().into_iter().filter(|line| line.starts_with("un")).collect();
    assert_eq!(calls, ["unsubscribe ns/s", "unprovision ns/c"]);
    play.writes.retain(|write| matches!(write.key, Key::Channel(_)));
    assert_eq!(play.written(&mut c), ["finalizers []"]);
    let mut foreign = object(Kind::Channel, "d", "1", json!({"clusterBus": "other"}));
    foreign["metadata"]["finalizers"] = json!(["relay"]);
    foreign["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
    play.took();
    play.apply(&foreign);
    assert_eq!((play.took(), play.writes.len()), (vec![], 0), "rule 12 holds here too");
}

#[test]
fn rule_17_a_subscription_whose_channel_went_while_nobody_ran_is_released() {
    let mut s = subscription("s", "1", "gone");
    s["metadata"]["finalizers"] = json!(["others", "relay"]);
    s["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
    let settings = || Play::settings().finalizer(Some("relay".into()));
    let mut play = Play::with(settings());
    play.fail("unsubscribe ns/s", 1).list(&Value::Null, std::slice::from_ref(&s));
    assert_eq!(play.took(), ["synced 0 1", "bus b", "unsubscribe ns/s #1 failed", "settled 0 0"]);
    assert!(play.writes.is_empty(), "only success removes it");
    play.pass(Duration::from_secs(5));
    assert_eq!(play.took(), ["unsubscribe ns/s"]);
    assert_eq!(play.written(&mut s), [r#"finalizers ["others"]"#]);
    play.pass(Duration::from_secs(5));
    assert_eq!((play.took(), play.writes.len()), (vec![], 0));

    // After the start it can only be of another bus, which is not ready with it yet.
    s["metadata"]["finalizers"] = json!(["relay"]);
    let mut play = Play::of(settings(), Value::Null, &[]);
    play.took();
    play.apply(&s).list(&Value::Null, std::slice::from_ref(&s));
    assert_eq!((play.took(), play.writes.len()), (vec![], 0));

    // A channel that cannot be decoded is there, and so is one of another bus.
    let bus = object(Kind::ClusterBus, "b", "b", json!({}));
    let other = object(Kind::Channel, "gone", "1", json!({"clusterBus": "other"}));
    for (channels, kept) in [(vec![], &[("gone", "ns")][..]), (vec![read(&other)], &[])] {
        let mut play = Play::with(settings());
        play.monitor.handle_list(Kind::ClusterBus, vec![read(&bus)], &[], play.now);
        play.monitor.handle_list(Kind::Channel, channels, kept, play.now);
        play.monitor.handle_list(Kind::Subscription, vec![read(&s)], &[], play.now);
        play.run();
        assert!(!play.took().iter().any(|line| line.contains("unsubscribe")));
        assert!(play.writes.is_empty());
    }
}
