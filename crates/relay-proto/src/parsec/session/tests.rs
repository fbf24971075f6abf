use super::*;

const CHANNEL: &str = "public:a.b";

/// A session with its own clock, and the frames that it has sent.
struct Run {
    session: Session,
    now: Duration,
    sent: Vec<String>,
    items: Vec<Item>,
}

impl Run {
    fn new() -> Self {
        let session = Session::new(Config::default(), 7);
        Self { session, now: Duration::ZERO, sent: Vec::new(), items: Vec::new() }
    }

    /// Does what the session asks for, until it waits.
    fn drain(&mut self) -> Action {
        loop {
            match self.session.poll(self.now) {
                Action::Send(line) => self.sent.push(line),
                Action::Item(item) => self.items.push(item),
                other => return other,
            }
        }
    }

    fn subscribe(&mut self, from: From) {
        self.session.subscribe(CHANNEL, from);
    }

    /// Waits as long as the session asks for, and connects.
    fn connect(&mut self) {
        loop {
            match self.drain() {
                Action::Wait(until) => self.now = until,
                Action::Connect => break,
                other => panic!("{other:?}"),
            }
        }
        assert!(matches!(self.drain(), Action::Receive(Some(_))));
        self.session.handle_open("T", self.now);
        self.drain();
        assert_eq!(self.sent.pop().unwrap(), r#"{"id":1,"connect":{"name":"relay"}}"#);
        self.say(r#"{"id":1,"connect":{"client":"c","ping":25,"pong":true}}"#);
    }

    fn say(&mut self, text: &str) -> Action {
        self.session.handle_text(text, self.now);
        self.drain()
    }

    fn items(&mut self) -> Vec<String> {
        self.items.drain(..).map(|item| brief(&item)).collect()
    }
}

fn brief(item: &Item) -> String {
    let at = |position: &Option<Position>| position.as_ref().map_or("-".into(), ToString::to_string);
    match item {
        Item::Subscribed { resumes_after, .. } => format!("subscribed {}", at(resumes_after)),
        Item::Gap { reason, missed, resumes_after, .. } => {
            let reason = match reason {
                LossReason::Server(reason) => reason.as_str(),
                LossReason::Hole => "hole",
            };
            format!("gap {reason} {} {resumes_after}", missed.map_or("?".into(), |n| n.to_string()))
        }
        Item::Publication { position, data, .. } => {
            format!("{} {}", at(position), String::from_utf8_lossy(data))
        }
        Item::Refused { .. } => "refused".into(),
        Item::Ended { end, .. } => format!("ended {:?} {:?}", end.kind, end.code),
        Item::Lost { .. } => "lost".into(),
    }
}

fn publications(offsets: std::ops::RangeInclusive<u64>) -> String {
    let all: Vec<_> = offsets.map(|offset| format!(r#"{{"data":{offset},"offset":{offset}}}"#)).collect();
    all.join(",")
}

fn push(offset: u64) -> String {
    format!(r#"{{"push":{{"channel":"{CHANNEL}","pub":{{"data":{offset},"offset":{offset}}}}}}}"#)
}

#[test]
fn a_drop_resumes_at_the_greater_of_the_answer_and_its_publications() {
    let mut run = Run::new();
    assert_eq!(run.drain(), Action::Idle);
    run.subscribe(From::Latest);
    run.connect();
    assert_eq!(run.sent.pop().unwrap(), r#"{"id":2,"subscribe":{"channel":"public:a.b"}}"#);
    run.say(r#"{"id":2,"subscribe":{"recoverable":true,"positioned":true,"epoch":"Xy","offset":2}}"#);
    // Several lines in one frame are events, in their order.
    run.say(&format!("{}\n{{}}\n{}", push(3), push(4)));
    assert_eq!(run.sent, ["{}"], "a ping is answered");
    run.sent.clear();
    assert_eq!(run.items(), ["subscribed Xy.2", "Xy.3 3", "Xy.4 4"]);
    for _ in 0..2 {
        run.session.handle_close(Some(3000), "shutdown", run.now);
        run.connect();
        assert_eq!(run.items(), ["lost"]);
        let asked = run.sent.pop().unwrap();
        let offset = run.session.position(CHANNEL).unwrap().offset();
        let expected = format!(
            r#"{{"id":2,"subscribe":{{"channel":"public:a.b","recover":true,"epoch":"Xy","offset":{offset}}}}}"#
        );
        assert_eq!(asked, expected);
        run.say(&format!(
            r#"{{"id":2,"subscribe":{{"epoch":"Xy","offset":{offset},"recovered":true,"was_recovering":true,"publications":[{}]}}}}"#,
            publications(offset + 1..=offset + 2)
        ));
        let items = run.items();
        assert_eq!(items.len(), 3, "{items:?}");
        assert_eq!(items[0], format!("subscribed Xy.{offset}"));
    }
    assert_eq!(run.session.position(CHANNEL).unwrap().offset(), 8);
}

#[test]
fn what_cannot_be_recovered_is_one_gap_with_its_cause() {
    let at = |offset| From::After(Position::new("Xy", offset));
    for (from, answer, items) in [
        (
            at(5),
            r#""epoch":"Xy","offset":16,"was_recovering":true"#,
            vec!["subscribed Xy.16", "gap trimmed 11 Xy.16"],
        ),
        (
            at(5),
            r#""epoch":"Zz","offset":3,"was_recovering":true"#,
            vec!["subscribed Zz.3", "gap epoch-changed ? Zz.3"],
        ),
        (at(5), r#""epoch":"Xy","offset":3"#, vec!["subscribed Xy.3", "gap unknown-position ? Xy.3"]),
        (at(5), r#""epoch":"Xy""#, vec!["subscribed Xy.0", "gap unknown-position ? Xy.0"]),
        (at(5), r#""epoch":"Xy","offset":5,"recovered":true"#, vec!["subscribed Xy.5"]),
        (at(5), "", vec!["subscribed -"]),
        (From::Oldest, r#""epoch":"Xy","offset":16"#, vec!["subscribed Xy.16", "gap trimmed 16 Xy.16"]),
        (From::Oldest, r#""epoch":"Xy""#, vec!["subscribed Xy.0"]),
        (
            From::Oldest,
            r#""epoch":"Xy","recovered":true,"publications":[{"data":1,"offset":1},{"data":2,"offset":2}]"#,
            vec!["subscribed Xy.0", "Xy.1 1", "Xy.2 2"],
        ),
        (From::Latest, r#""epoch":"Xy","offset":16"#, vec!["subscribed Xy.16"]),
    ] {
        let mut run = Run::new();
        run.subscribe(from.clone());
        run.connect();
        run.say(&format!(r#"{{"id":2,"subscribe":{{{answer}}}}}"#));
        assert_eq!(run.items(), items, "{from:?} {answer}");
    }
}

#[test]
fn a_hole_reconnects_once_and_is_then_a_gap() {
    let mut run = Run::new();
    run.subscribe(From::Latest);
    run.connect();
    run.say(r#"{"id":2,"subscribe":{"epoch":"Xy","offset":2}}"#);
    run.say(&push(5));
    assert_eq!(run.items(), ["subscribed Xy.2", "lost"]);
    run.connect();
    run.say(&format!(
        r#"{{"id":2,"subscribe":{{"epoch":"Xy","offset":2,"recovered":true,"publications":[{}]}}}}"#,
        publications(5..=6)
    ));
    assert_eq!(run.items(), ["subscribed Xy.2", "gap hole 2 Xy.4", "Xy.5 5", "Xy.6 6"]);
    run.say(&push(6));
    run.say(&push(1));
    assert_eq!(run.items(), [""; 0], "redeliveries are dropped");
}

#[test]
fn every_error_of_a_subscribe_has_its_end() {
    for (code, temporary, said) in [
        (101, false, "ended Denied Some(101)"),
        (102, false, "ended NotFound Some(102)"),
        (103, false, "ended Denied Some(103)"),
        (105, false, "ended Failed Some(105)"),
        (106, false, "ended Failed Some(106)"),
        (106, true, "refused"),
        (108, false, "ended Failed Some(108)"),
        (100, true, "refused"),
        (112, false, "refused"),
    ] {
        let mut run = Run::new();
        run.subscribe(From::Latest);
        run.connect();
        run.say(&format!(
            r#"{{"id":2,"error":{{"code":{code},"message":"m\r\n","temporary":{temporary}}}}}"#
        ));
        assert_eq!(run.items(), [said], "{code}");
    }
}

#[test]
fn error_100_is_tried_five_times_with_growing_waits() {
    let mut run = Run::new();
    run.subscribe(From::Latest);
    run.connect();
    for id in 2..7 {
        assert_eq!(
            run.sent.pop().unwrap(),
            format!(r#"{{"id":{id},"subscribe":{{"channel":"public:a.b"}}}}"#)
        );
        let want = run.say(&format!(
            r#"{{"id":{id},"error":{{"code":100,"message":"internal server error","temporary":true}}}}"#
        ));
        if let Action::Receive(Some(until)) = want {
            assert!(until > run.now, "there is a wait");
            run.now = until;
            // Pings arrive meanwhile.
            run.say("{}");
            run.sent.retain(|line| line != "{}");
        }
    }
    assert_eq!(run.items(), ["refused", "refused", "refused", "refused", "ended Failed Some(100)"]);
    assert_eq!(run.drain(), Action::Idle);
}

#[test]
fn an_expired_token_is_looked_up_once_more() {
    let mut run = Run::new();
    run.session.subscribe("private:a.b.c", From::Latest);
    run.connect();
    assert!(run.sent.pop().unwrap().contains(r#""token":"T""#));
    assert_eq!(run.say(r#"{"id":2,"error":{"code":109,"message":"token expired"}}"#), Action::Token);
    run.session.handle_token("U");
    run.drain();
    assert!(run.sent.pop().unwrap().contains(r#""token":"U""#));
    run.say(r#"{"id":3,"error":{"code":109,"message":"token expired"}}"#);
    assert_eq!(run.items(), ["ended Denied Some(109)"]);
}

#[test]
fn an_unrecoverable_position_is_said_and_left() {
    let mut run = Run::new();
    run.subscribe(From::After(Position::new("Xy", 5)));
    run.connect();
    run.sent.clear();
    let Action::Receive(Some(until)) = run.say(r#"{"id":2,"error":{"code":112,"message":"unrecoverable"}}"#)
    else {
        panic!()
    };
    run.now = until;
    run.drain();
    assert_eq!(run.sent.pop().unwrap(), r#"{"id":3,"subscribe":{"channel":"public:a.b"}}"#);
    run.say(r#"{"id":3,"subscribe":{"epoch":"Xy","offset":9}}"#);
    assert_eq!(run.items(), ["refused", "subscribed Xy.9", "gap trimmed 4 Xy.9"]);
}

#[test]
fn close_codes_end_it_or_do_not() {
    for (code, end) in [
        (None, None),
        (Some(1000), None),
        (Some(1006), None),
        (Some(1009), Some(EndKind::Failed)),
        (Some(1011), None),
        (Some(3000), None),
        (Some(3012), None),
        (Some(3499), None),
        (Some(3500), Some(EndKind::Denied)),
        (Some(3501), Some(EndKind::Failed)),
        (Some(3506), Some(EndKind::Failed)),
        (Some(3507), Some(EndKind::Denied)),
        (Some(4000), None),
        (Some(4499), None),
        (Some(4500), Some(EndKind::Failed)),
        (Some(5000), Some(EndKind::Failed)),
    ] {
        let mut run = Run::new();
        run.subscribe(From::Latest);
        run.connect();
        run.session.handle_close(code, "why", run.now);
        match (run.drain(), end) {
            (Action::Wait(_), None) => assert_eq!(run.items(), ["lost"]),
            (Action::Stop(said), Some(kind)) => {
                assert_eq!(said.kind, kind);
                assert!(said.reason.contains("why") && said.reason.contains(&code.unwrap().to_string()));
                assert_eq!(run.items().len(), 1, "the channel ends, too");
            }
            (other, _) => panic!("{code:?}: {other:?}"),
        }
    }
}

#[test]
fn handshakes_that_are_refused_end_it_or_do_not() {
    for (status, end) in [
        (401, Some(EndKind::Denied)),
        (403, Some(EndKind::Denied)),
        (404, Some(EndKind::NotFound)),
        (400, Some(EndKind::Failed)),
        (408, None),
        (429, None),
        (503, None),
        (200, None),
    ] {
        let mut run = Run::new();
        run.subscribe(From::Latest);
        assert_eq!(run.drain(), Action::Connect);
        run.drain();
        run.session.handle_refused(status, Some(Duration::from_secs(60)), run.now);
        match (run.drain(), end) {
            (Action::Wait(until), None) => {
                assert!(until >= Duration::from_secs(60), "Retry-After is a minimum")
            }
            (Action::Stop(said), Some(kind)) => assert_eq!(said.kind, kind),
            (other, _) => panic!("{status}: {other:?}"),
        }
    }
}

#[test]
fn deadlines() {
    let mut run = Run::new();
    run.subscribe(From::Latest);
    assert_eq!(run.drain(), Action::Connect);
    let Action::Receive(Some(until)) = run.drain() else { panic!() };
    run.session.handle_timeout(until - Duration::from_millis(1));
    assert!(matches!(run.drain(), Action::Receive(_)));
    run.session.handle_timeout(until);
    assert!(matches!(run.drain(), Action::Wait(_)));
    run.now = until;
    run.connect();
    let connected = run.now;
    let Action::Receive(Some(until)) = run.drain() else { panic!() };
    assert_eq!(until - connected, Duration::from_secs(5), "of the reply to the subscribe");
    run.say(r#"{"id":2,"subscribe":{"epoch":"Xy","offset":2}}"#);
    // Pings come every 25 s, and at most 10 s late.
    let Action::Receive(Some(until)) = run.drain() else { panic!() };
    assert_eq!(until - connected, Duration::from_secs(35));
    run.now += Duration::from_secs(30);
    let Action::Receive(Some(later)) = run.say("{}") else { panic!() };
    assert_eq!(later - run.now, Duration::from_secs(35));
    run.now = later;
    run.session.handle_timeout(run.now);
    assert!(matches!(run.drain(), Action::Wait(_)));
}

/// Pings do not replace the reply to a subscribe; replies to other subscribes do for a while.
#[test]
fn a_subscribe_that_is_never_answered_costs_the_connection() {
    let mut run = Run::new();
    run.subscribe(From::Latest);
    run.session.subscribe("public:a.c", From::Latest);
    run.connect();
    let begin = run.now;
    let until = |run: &mut Run, after: u64, text: &str| {
        run.now = begin + Duration::from_secs(after);
        match run.say(text) {
            Action::Receive(Some(until)) => (until - begin).as_secs(),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(until(&mut run, 1, "{}"), 5);
    assert_eq!(until(&mut run, 3, r#"{"id":3,"subscribe":{}}"#), 8);
    assert_eq!(until(&mut run, 4, "{}"), 8);
    run.items();
    run.now = begin + Duration::from_secs(8);
    run.session.handle_timeout(run.now - Duration::from_millis(1));
    assert!(matches!(run.drain(), Action::Receive(_)));
    run.session.handle_timeout(run.now);
    assert!(matches!(run.drain(), Action::Wait(_)));
    assert_eq!(run.items(), ["lost"]);
}

#[test]
fn a_disconnect_push_without_a_code_is_a_close_without_one() {
    for (code, end) in [("", false), (r#""code":3012"#, false), (r#""code":3500"#, true)] {
        let mut run = Run::new();
        run.subscribe(From::Latest);
        run.connect();
        let said = run.say(&format!(r#"{{"push":{{"disconnect":{{{code}}}}}}}"#));
        assert_eq!(matches!(said, Action::Stop(_)), end, "{code}: {said:?}");
        assert_eq!(matches!(said, Action::Wait(_)), !end, "{code}: {said:?}");
    }
}

/// Every input in every state: nothing panics, and only the inputs in the table have an effect.
#[test]
fn every_state_takes_every_input() {
    type Make = fn() -> Run;
    let states: [(&str, Make); 7] = [
        ("idle", Run::new),
        ("connect", || {
            let mut run = Run::new();
            run.subscribe(From::Latest);
            run
        }),
        ("opening", || {
            let mut run = Run::new();
            run.subscribe(From::Latest);
            run.drain();
            run.drain();
            run
        }),
        ("greeting", || {
            let mut run = Run::new();
            run.subscribe(From::Latest);
            run.drain();
            run.drain();
            run.session.handle_open("", run.now);
            run.drain();
            run
        }),
        ("live", || {
            let mut run = Run::new();
            run.subscribe(From::Latest);
            run.connect();
            run.say(r#"{"id":2,"subscribe":{"epoch":"Xy","offset":2}}"#);
            run
        }),
        ("wait", || {
            let mut run = Run::new();
            run.subscribe(From::Latest);
            run.connect();
            run.session.handle_close(None, "", run.now);
            run.drain();
            run
        }),
        ("stopped", || {
            let mut run = Run::new();
            run.subscribe(From::Latest);
            run.connect();
            run.session.handle_close(Some(3500), "", run.now);
            run.drain();
            run
        }),
    ];
    let later = Duration::from_secs(3600);
    type Input = Box<dyn Fn(&mut Session, Duration)>;
    let inputs: Vec<(&str, Input)> = vec![
        ("open", Box::new(|s, now| s.handle_open("", now))),
        ("garbage", Box::new(|s, now| s.handle_text("nonsense", now))),
        ("list", Box::new(|s, now| s.handle_text("[]", now))),
        ("ping", Box::new(|s, now| s.handle_text("{}", now))),
        ("unknown push", Box::new(|s, now| s.handle_text(r#"{"push":{"channel":"x","join":{}}}"#, now))),
        ("foreign reply", Box::new(|s, now| s.handle_text(r#"{"id":99,"subscribe":{}}"#, now))),
        ("publication", Box::new(|s, now| s.handle_text(&push(3), now))),
        (
            "kick",
            Box::new(|s, now| {
                s.handle_text(r#"{"push":{"channel":"public:a.b","unsubscribe":{"code":2000}}}"#, now)
            }),
        ),
        (
            "resubscribe",
            Box::new(|s, now| {
                s.handle_text(r#"{"push":{"channel":"public:a.b","unsubscribe":{"code":2500}}}"#, now)
            }),
        ),
        ("disconnect", Box::new(|s, now| s.handle_text(r#"{"push":{"disconnect":{"code":3005}}}"#, now))),
        ("binary", Box::new(|s, now| s.handle_binary(now))),
        ("lost", Box::new(|s, now| s.handle_lost("x", now))),
        ("close", Box::new(|s, now| s.handle_close(Some(3000), "", now))),
        ("final close", Box::new(|s, now| s.handle_close(Some(4500), "", now))),
        ("refused", Box::new(|s, now| s.handle_refused(403, None, now))),
        ("timeout", Box::new(move |s, _| s.handle_timeout(later))),
        ("token", Box::new(|s, _| s.handle_token("t"))),
        ("unsubscribe", Box::new(|s, _| s.unsubscribe(CHANNEL))),
        ("close by caller", Box::new(|s, _| s.close())),
    ];
    // What the machine wants after each input: I(dle) C(onnect) R(eceive) W(ait) S(top).
    let table = [
        ("idle", "IIIIIIIIIIIIIIIIIIS"),
        ("connect", "CCCCCCCCCCWWCCCCCIS"),
        ("opening", "RRRRRRRRRRWWWSSWRIS"),
        ("greeting", "RWWRRRRRRWWWWSRWRIS"),
        ("live", "RWWRRRRIRWWWWSRWRIS"),
        ("wait", "WWWWWWWWWWWWWWWWWIS"),
        ("stopped", "SSSSSSSSSSSSSSSSSSS"),
    ];
    for ((name, make), (row, expected)) in states.iter().zip(table) {
        assert_eq!(*name, row);
        let mut letters = String::new();
        for (_, input) in &inputs {
            let mut run = make();
            input(&mut run.session, run.now);
            letters.push(match run.drain() {
                Action::Idle => 'I',
                Action::Connect => 'C',
                Action::Receive(_) => 'R',
                Action::Wait(_) => 'W',
                Action::Stop(_) => 'S',
                other => panic!("{other:?}"),
            });
        }
        let names: Vec<_> = inputs.iter().map(|(input, _)| *input).collect();
        assert_eq!(letters, expected, "{name}: {names:?}");
    }
}
