//! Long runs of a connection on virtual time.

use super::*;

/// Opens a stream at `now`: the machine must be waiting for a response.
fn open(machine: &mut Machine, now: Duration) -> Attempt {
    let (mut passed, waits) = drain(machine, now);
    assert!(matches!(waits, Action::Response(_)), "{waits:?}");
    machine.handle_response(stream(), now);
    let Some(Action::Connect(attempt)) = passed.pop() else { panic!("{passed:?}") };
    attempt
}

/// Drains the machine, which must then wait. Returns the time until which it waits.
fn wait(machine: &mut Machine, now: Duration) -> Duration {
    match drain(machine, now).1 {
        Action::Wait(until) => until,
        other => panic!("{other:?}"),
    }
}

fn plain() -> Config {
    Config::default().jitter(Jitter::None)
}

#[test]
fn a_server_that_is_gone_for_an_hour_is_asked_ever_less() {
    for seed in 0..50 {
        let mut machine = Machine::new(Config::default(), seed);
        let (mut now, mut attempts, mut in_first_minute) = (Duration::ZERO, 0, 0);
        while now < seconds(3600) {
            drain(&mut machine, now);
            machine.handle_end(End::Io("connection refused".into()), now);
            attempts += 1;
            in_first_minute += u32::from(now < seconds(60));
            let until = wait(&mut machine, now);
            assert!(until - now <= seconds(30));
            now = until;
        }
        // With full jitter, the delay is 15 s on average once the cap is reached.
        assert!((180..=330).contains(&attempts), "{attempts} attempts with seed {seed}");
        assert!((5..=30).contains(&in_first_minute), "{in_first_minute} at first with seed {seed}");
        assert_eq!(open(&mut machine, now).number(), attempts + 1);
        machine.progress();
        machine.handle_end(End::Eof, now);
        assert!(wait(&mut machine, now) - now <= Duration::from_millis(800));
    }
}

#[test]
fn clients_that_were_cut_together_come_back_apart() {
    let mut delays: Vec<Duration> = (0..10_000)
        .map(|seed| {
            let mut machine = Machine::new(Config::default(), seed);
            open(&mut machine, Duration::ZERO);
            machine.handle_end(End::Eof, seconds(5));
            wait(&mut machine, seconds(5)) - seconds(5)
        })
        .collect();
    delays.sort();
    // The delays are uniform over 0.8 s: no 10 ms have more than three times their share of 125 clients.
    for bucket in 0..80 {
        let range = Duration::from_millis(bucket * 10)..Duration::from_millis(bucket * 10 + 10);
        let share = delays.iter().filter(|delay| range.contains(delay)).count();
        // Delays below the floor are raised to it, so its bucket has more.
        let most = if bucket == 1 { 500 } else { 375 };
        assert!(share <= most, "{share} clients within {range:?}");
    }
}

#[test]
fn retry_after_is_kept_and_spread() {
    let mut delays: Vec<Duration> = (0..1_000)
        .map(|seed| {
            let mut machine = Machine::new(Config::default(), seed);
            drain(&mut machine, Duration::ZERO);
            machine.handle_response(status(503).header("retry-after", b"100"), Duration::ZERO);
            machine.handle_end(End::Eof, Duration::ZERO);
            wait(&mut machine, Duration::ZERO)
        })
        .collect();
    delays.sort();
    assert!(delays[0] >= seconds(100) && delays[999] <= seconds(125), "{:?}", (delays[0], delays[999]));
    assert!(delays[999] - delays[0] > seconds(20), "no lockstep");

    let after = |code, value: &'static [u8]| {
        let mut machine = Machine::new(plain(), 1);
        drain(&mut machine, Duration::ZERO);
        machine.handle_response(status(code).header("retry-after", value), Duration::ZERO);
        machine.handle_end(End::Eof, Duration::ZERO);
        wait(&mut machine, Duration::ZERO)
    };
    assert!((seconds(7)..=seconds(9)).contains(&after(429, b"7")));
    assert!((seconds(3600)..=seconds(4500)).contains(&after(503, b"99999999999")), "an hour at most");
    assert_eq!(after(503, b"0"), Duration::from_millis(800), "nothing is not a time");
    assert_eq!(after(503, b"soon"), Duration::from_millis(800));
    // Whatever the answer is, if it is tried again.
    for code in [500, 502, 504, 408, 425, 200] {
        let delay = after(code, b"7");
        assert!((seconds(7)..=seconds(9)).contains(&delay), "{code}: {delay:?}");
    }
    // The longer of the two delays is used.
    for (once, least) in [(20, 20), (1, 10)] {
        let mut machine = Machine::new(plain(), 1);
        drain(&mut machine, Duration::ZERO);
        machine.delay_once(seconds(once));
        machine.handle_response(status(503).header("retry-after", b"10"), Duration::ZERO);
        machine.handle_end(End::Eof, Duration::ZERO);
        let delay = wait(&mut machine, Duration::ZERO);
        assert!((seconds(least)..=seconds(least + least / 4)).contains(&delay), "{delay:?}");
    }
}

#[test]
fn silence_ends_a_connection_and_any_byte_prevents_it() {
    let mut machine = Machine::new(plain(), 1);
    open(&mut machine, Duration::ZERO);
    assert_eq!(told(&mut machine, Duration::ZERO), "opened bytes@45");
    // Bytes come slowly, just within the limit: a comment, half a line, its end.
    let mut now = Duration::ZERO;
    for bytes in [&b":\n"[..], b"da", b"ta: x\n", b"\n"] {
        now += seconds(44);
        machine.handle_timeout(now);
        machine.handle_bytes(bytes, now);
        let told = told(&mut machine, now);
        assert!(told.ends_with(&format!("bytes@{}", (now + seconds(45)).as_secs())), "{told}");
    }
    now += seconds(45);
    machine.handle_timeout(now);
    assert_eq!(
        told(&mut machine, now),
        format!("ended(nothing received for 45s) wait@{}", (now + Duration::from_millis(800)).as_secs_f64())
    );
}

#[test]
fn a_caller_that_is_busy_does_not_make_the_server_silent() {
    let mut machine = Machine::new(plain(), 1);
    open(&mut machine, Duration::ZERO);
    drain(&mut machine, Duration::ZERO);
    machine.handle_bytes(&b"data: 1\n\ndata: 2\n\n"[..], seconds(1));
    assert!(matches!(machine.poll(seconds(1)), Action::Item(_)));
    // The caller takes ten minutes for each of the two events.
    assert!(matches!(machine.poll(seconds(601)), Action::Item(_)));
    assert_eq!(told(&mut machine, seconds(1201)), "bytes@1246");
    // The caller was away while a read was pending, and came back long after the deadline. This does not count as
    // silence.
    assert_eq!(told(&mut machine, seconds(2000)), "bytes@1246");
    machine.handle_timeout(seconds(2000));
    assert_eq!(told(&mut machine, seconds(2000)), "bytes@2045");
    machine.handle_timeout(seconds(2046));
    assert_eq!(machine.state(), State::Wait);
}

#[test]
fn the_last_id_survives_what_has_no_id() {
    let mut machine = Machine::new(plain().last_event_id("start"), 1);
    let mut now = Duration::ZERO;
    let mut connect = |body: &'static str| {
        let attempt = open(&mut machine, now);
        machine.handle_bytes(body, now);
        drain(&mut machine, now);
        machine.handle_end(End::Eof, now);
        now = wait(&mut machine, now);
        attempt.last_event_id().to_owned()
    };
    assert_eq!(connect(""), "start");
    assert_eq!(connect("id: 1\ndata: x\n\n"), "start");
    assert_eq!(connect("data: y\n\n"), "1");
    assert_eq!(connect("id: 2\n\n"), "1", "the third request, after a connection without ids");
    assert_eq!(connect("id: cut\ndata: off"), "2", "a block without data counts");
    assert_eq!(connect("id: \u{2026}\ndata: z\n\n"), "2", "a block that was cut does not");
    assert_eq!(connect("id: nul\0\n\n"), "\u{2026}");
    assert_eq!(connect("id\ndata: z\n\n"), "\u{2026}");
    assert_eq!(connect("id: 7\ndata: z\n\n"), "");
    assert_eq!(machine.last_event_id(), "7");

    let mut machine = Machine::new(plain().last_event_id("mine").use_last_event_id(false), 1);
    assert_eq!(open(&mut machine, Duration::ZERO).last_event_id(), "");
}

#[test]
fn frames_not_handed_out_before_a_restart_come_again() {
    let mut machine = Machine::new(plain(), 1);
    open(&mut machine, Duration::ZERO);
    machine.handle_bytes("id: 1\ndata: a\n\nid: 2\ndata: b\n\n", Duration::ZERO);
    assert!(matches!(machine.poll(Duration::ZERO), Action::Item(Item::Opened)));
    assert!(matches!(machine.poll(Duration::ZERO), Action::Item(Item::Frame(_))));
    machine.restart("enough", Duration::ZERO);
    let until = wait(&mut machine, Duration::ZERO);
    assert_eq!(open(&mut machine, until).last_event_id(), "1");
}

#[test]
fn request_headers() {
    let headers = |id: &str| {
        let mut machine = Machine::new(Config::default().last_event_id(id), 1);
        let (passed, _) = drain(&mut machine, Duration::ZERO);
        let Action::Connect(attempt) = &passed[0] else { panic!("{passed:?}") };
        attempt.headers().map(|(name, value)| (name, value.to_vec())).collect::<Vec<_>>()
    };
    let plain = [("accept", b"text/event-stream".to_vec()), ("cache-control", b"no-cache".to_vec())];
    assert_eq!(headers(""), plain, "no id, no header");
    let ellipsis = ("last-event-id", b"\xe2\x80\xa6\t1".to_vec());
    assert_eq!(headers("\u{2026}\t1"), [plain.to_vec(), vec![ellipsis]].concat(), "UTF-8 as it is");
    assert_eq!(headers("a\u{1}b"), plain, "no header can hold it");
    assert_eq!(headers("a\u{7f}"), plain);
}

#[test]
fn the_server_chooses_the_base_within_bounds() {
    let delay = |config: Config, retry: &str| {
        let mut machine = Machine::new(config, 1);
        open(&mut machine, Duration::ZERO);
        machine.handle_bytes(format!("retry: {retry}\n\n"), Duration::ZERO);
        drain(&mut machine, Duration::ZERO);
        let mut cut = |now: Duration| {
            machine.handle_end(End::Eof, now);
            let until = wait(&mut machine, now);
            open(&mut machine, until);
            machine.progress();
            (until, until - now)
        };
        let (later, first) = cut(Duration::ZERO);
        (first.as_millis(), cut(later).1.as_millis())
    };
    for (retry, millis) in [
        ("3000", 3000),
        ("0", 100),
        ("1", 100),
        ("99999999", 30_000),
        ("18446744073709551615", 30_000),
        ("99999999999999999999", 800),
        ("-5", 800),
        ("1e3", 800),
    ] {
        assert_eq!(delay(plain(), retry), (millis, millis), "retry: {retry}");
        let expected = (millis, 800);
        assert_eq!(delay(plain().server_retry(ServerRetry::Once), retry), expected, "once: {retry}");
        assert_eq!(delay(plain().server_retry(ServerRetry::Ignore), retry), (800, 800), "ignored: {retry}");
    }
    assert_eq!(delay(plain().base(Duration::ZERO), "x").0, 10, "the floor stands in for zero");
    let impatient = plain().base(Duration::ZERO).floor(Duration::ZERO);
    assert_eq!(delay(impatient, "x").0, 1, "and is never zero itself");
}

/// After a 403 the long delays are used, after everything else the short ones.
fn two_profiles() -> Config {
    fn late(status: u16) -> Option<Verdict> {
        (status == 403).then_some(Verdict::RetryLater)
    }
    let config = Config::default().base(seconds(1)).cap(seconds(30)).jitter(Jitter::None);
    config.later_base(seconds(300)).later_cap(seconds(3600)).policy(late as StatusPolicy)
}

#[test]
fn the_long_profile_counts_for_itself_and_only_progress_shortens_it() {
    let mut machine = Machine::new(two_profiles(), 1);
    let mut now = Duration::ZERO;
    let mut fail = |machine: &mut Machine, code: u16| {
        drain(machine, now);
        machine.handle_response(status(code), now);
        machine.handle_end(End::Eof, now);
        let delay = wait(machine, now) - now;
        now += delay;
        delay.as_secs()
    };
    // Each profile doubles separately, up to its own cap.
    assert_eq!([403, 503, 403, 503, 403].map(|code| fail(&mut machine, code)), [300, 1, 600, 2, 1200]);
    assert_eq!([403, 403, 403].map(|code| fail(&mut machine, code)), [2400, 3600, 3600]);
    // `retry:` and a connection without progress, however long, change the short profile only.
    let opened = now;
    open(&mut machine, opened);
    machine.handle_bytes("retry: 7000\n\n", opened);
    drain(&mut machine, opened);
    machine.handle_end(End::Eof, opened + seconds(100));
    let until = wait(&mut machine, opened + seconds(100));
    assert_eq!(until, opened + seconds(107));
    now = until;
    let mut fail = |machine: &mut Machine, code: u16| {
        drain(machine, now);
        machine.handle_response(status(code), now);
        machine.handle_end(End::Eof, now);
        let delay = wait(machine, now) - now;
        now += delay;
        delay.as_secs()
    };
    assert_eq!([403, 503].map(|code| fail(&mut machine, code)), [3600, 14]);
    machine.progress();
    assert_eq!([403, 503, 403].map(|code| fail(&mut machine, code)), [300, 7, 600]);
}

#[test]
fn the_long_profile_keeps_half_of_its_delays() {
    for seed in 0..200 {
        let mut machine = Machine::new(two_profiles().jitter(Jitter::Full), seed);
        drain(&mut machine, Duration::ZERO);
        machine.handle_response(status(403), Duration::ZERO);
        machine.handle_end(End::Eof, Duration::ZERO);
        let until = wait(&mut machine, Duration::ZERO);
        assert!((seconds(150)..=seconds(300)).contains(&until), "{until:?}");
        machine.retry_now();
        assert!(told(&mut machine, Duration::ZERO).starts_with("connect#2 "));
    }
}

#[test]
fn a_healthy_time_resets_the_backoff_and_a_short_one_does_not() {
    let config = plain().healthy_after(seconds(60)).idle(None);
    let mut machine = Machine::new(config.clone(), 1);
    let mut now = Duration::ZERO;
    let mut delays = Vec::new();
    for open_for in [1, 1, 1, 59, 60, 1] {
        open(&mut machine, now);
        now += seconds(open_for);
        machine.handle_end(End::Eof, now);
        let until = wait(&mut machine, now);
        delays.push((until - now).as_millis());
        now = until;
    }
    assert_eq!(delays, [800, 1600, 3200, 6400, 800, 1600]);
}

#[test]
fn a_year_behind_a_balancer_that_cuts_quiet_connections() {
    for cut_after in [30, 60, 100, 240] {
        let mut machine = Machine::new(Config::default(), cut_after);
        let (mut now, mut connections) = (Duration::ZERO, 0_u64);
        while now < seconds(365 * 86_400) {
            open(&mut machine, now);
            connections += 1;
            // A heartbeat after 15 s would keep the connection open; this server sends none.
            let (_, Action::Bytes(Some(until))) = drain(&mut machine, now) else { panic!("{machine:?}") };
            let cut = now + seconds(cut_after);
            now = until.min(cut);
            if until < cut {
                machine.handle_timeout(now);
            } else {
                machine.handle_end(End::Eof, now);
            }
            now = wait(&mut machine, now);
        }
        let life = if cut_after == 30 { 30 } else { 45 };
        // With full jitter and a cap of 30 s, the delay is half of the cap on average.
        let expected = 365 * 86_400 / (life + 15);
        assert!(connections.abs_diff(expected) < expected / 50, "{connections} of about {expected}");
    }
}

#[test]
fn fresh_credentials_once_at_once_then_with_backoff() {
    let config = plain().credentials_can_refresh(true).max_problem_bytes(0_usize).healthy_after(None);
    let mut machine = Machine::new(config, 1);
    let refuse = |machine: &mut Machine, now| {
        machine.handle_response(status(401), now);
        told(machine, now)
    };
    drain(&mut machine, Duration::ZERO);
    let again = "failed(answered with status 401) connect#1+fresh response@30";
    assert_eq!(refuse(&mut machine, Duration::ZERO), again);
    assert_eq!(refuse(&mut machine, Duration::ZERO), "failed(answered with status 401) wait@0.8");
    let now = Duration::from_millis(800);
    assert_eq!(told(&mut machine, now), "connect#2+fresh response@30.8");
    assert_eq!(refuse(&mut machine, now), "failed(answered with status 401) wait@2.4");
    // After a success, the next 401 gets an immediate attempt again, for example when the token has expired after an
    // hour.
    let now = Duration::from_millis(2400);
    open(&mut machine, now);
    machine.handle_end(End::Eof, seconds(3600));
    let until = wait(&mut machine, seconds(3600));
    assert_eq!(told(&mut machine, until), "connect#4 response@3633.2");
    let again = "failed(answered with status 401) connect#4+fresh response@3633.2";
    assert_eq!(refuse(&mut machine, until), again);
}

#[test]
fn redirects_end_somewhere() {
    let mut machine = Machine::new(plain(), 1);
    drain(&mut machine, Duration::ZERO);
    let mut urls = Vec::new();
    // Redirects in a loop between two paths.
    let mut from = URL.to_owned();
    let outcome = loop {
        let to = if from.ends_with("/a") { &b"/b"[..] } else { b"/a" };
        let head = ResponseHead::new(307, &from).header("location", to);
        machine.handle_response(head, Duration::ZERO);
        let (passed, waits) = drain(&mut machine, Duration::ZERO);
        match &passed[..] {
            [Action::Connect(attempt)] => from = attempt.redirect().unwrap().url().to_owned(),
            _ => break (passed, waits),
        }
        urls.push(from.clone());
    };
    assert_eq!(urls.len(), 5);
    assert_eq!(urls[4], "http://relay.test/a");
    let [Action::Item(Item::Ended(ended))] = &outcome.0[..] else { panic!("{outcome:?}") };
    assert_eq!((&ended.cause, ended.opened), (&Cause::TooManyRedirects(307), false));
    // The next attempt starts from the first URL, with all redirects allowed again.
    let Action::Wait(until) = outcome.1 else { panic!("{outcome:?}") };
    assert_eq!(told(&mut machine, until), "connect#2 response@30.8");
}

#[test]
fn secrets_stay_behind_for_good_once_the_origin_changed() {
    let mut redirect = Redirect::new("https://a.test/x", 302, "/y").unwrap();
    assert!(redirect.may_carry_secrets());
    redirect = redirect.then(307, "http://a.test/y").unwrap();
    assert!(!redirect.may_carry_secrets(), "from https to http");
    redirect = redirect.then(307, "https://a.test/x").unwrap();
    assert!(!redirect.may_carry_secrets(), "not even back home: the way was chosen by another");

    let after = |statuses: &[u16], method| {
        let mut redirect = Redirect::new(URL, statuses[0], "/y").unwrap();
        for status in &statuses[1..] {
            redirect = redirect.then(*status, "/z").unwrap();
        }
        String::from(redirect.method(method))
    };
    for (statuses, method, expected) in [
        (&[301][..], "POST", "GET"),
        (&[302], "POST", "GET"),
        (&[302], "REPORT", "REPORT"),
        (&[303], "REPORT", "GET"),
        (&[303], "HEAD", "HEAD"),
        (&[307], "POST", "POST"),
        (&[308], "POST", "POST"),
        (&[303, 307], "POST", "GET"),
        (&[307, 301], "POST", "GET"),
    ] {
        assert_eq!(after(statuses, method), expected, "{method} {statuses:?}");
    }
}

#[test]
fn an_event_without_end_ends_the_connection_and_holds_little() {
    for line in [
        "data: xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\n",
        "xxxxxxxxxxxxxxxxxxxxxxxxxx",
    ] {
        let limits = crate::sse::Limits::default().data(1000_usize).line(1000_usize);
        let mut machine = Machine::new(plain().limits(limits).max_block_bytes(100_000_u64), 1);
        open(&mut machine, Duration::ZERO);
        let mut sent = 0;
        while machine.state() == State::Bytes {
            machine.handle_bytes(line, Duration::ZERO);
            sent += line.len();
            drain(&mut machine, Duration::ZERO);
            assert!(machine.buffered() <= 3000, "{} bytes held", machine.buffered());
            assert!(sent <= 110_000);
        }
        assert!(sent > 100_000);
    }
}

#[test]
fn error_bodies_are_kept_in_part() {
    let mut machine = Machine::new(plain().max_problem_bytes(10_usize), 1);
    drain(&mut machine, Duration::ZERO);
    machine.handle_response(status(404), Duration::ZERO);
    machine.handle_bytes("not f", Duration::ZERO);
    assert_eq!(machine.state(), State::Problem);
    machine.handle_bytes("ound and much more", Duration::ZERO);
    let Action::Stop(Stop::Status { status: 404, body }) = machine.poll(Duration::ZERO) else { panic!() };
    assert_eq!(body, "not found ");

    let mut machine = Machine::new(plain(), 1);
    drain(&mut machine, Duration::ZERO);
    machine.handle_response(status(500), Duration::ZERO);
    machine.handle_bytes("broken", seconds(1));
    machine.handle_timeout(seconds(5));
    let Action::Item(Item::Ended(ended)) = machine.poll(seconds(5)) else { panic!() };
    assert_eq!((ended.status(), &ended.body[..]), (Some(500), &b"broken"[..]));
    assert_eq!(ended.retry_at, seconds(5) + Duration::from_millis(800));
}

#[test]
fn lenient_about_types_when_told_so() {
    let mut machine = Machine::new(plain().lenient_mime(true), 1);
    drain(&mut machine, Duration::ZERO);
    machine.handle_response(status(200), Duration::ZERO);
    assert_eq!(machine.state(), State::Bytes);
    let mut machine = Machine::new(plain(), 1);
    drain(&mut machine, Duration::ZERO);
    machine.handle_response(status(200).header("content-type", b"text/html\x1b[2J"), Duration::ZERO);
    let line = told(&mut machine, Duration::ZERO);
    // The text that a server wrote there may be a secret or a terminal escape, so only known types are shown.
    assert!(line.contains("another content type") && !line.contains("text/html"), "{line}");
}

#[test]
fn a_stream_in_a_coding_is_no_text() {
    for (coding, expected) in [
        ("gzip", "failed(answered in content coding \"gzip\") wait@0.8"),
        ("br\u{1b}", "failed(answered in a content coding that was not asked for) wait@0.8"),
        ("identity", "opened bytes@45"),
        (" Identity ", "opened bytes@45"),
        ("", "opened bytes@45"),
    ] {
        for lenient in [false, true] {
            let mut machine = Machine::new(plain().lenient_mime(lenient), 1);
            drain(&mut machine, Duration::ZERO);
            machine.handle_response(stream().header("Content-Encoding", coding.as_bytes()), Duration::ZERO);
            assert_eq!(told(&mut machine, Duration::ZERO), expected);
        }
    }
}
