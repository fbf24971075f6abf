//! Every input in every state, as a table.

use super::*;

/// Delays without jitter: 60 s, then 120 s, so that the machine still waits when the input comes.
fn machine() -> Machine {
    let config = Config::default()
        .base(seconds(60))
        .cap(seconds(600))
        .jitter(Jitter::None)
        .response_timeout(seconds(30))
        .problem_timeout(seconds(20))
        .idle(seconds(45))
        .healthy_after(None)
        .credentials_can_refresh(true);
    Machine::new(config, 1)
}

const STATES: [State; 6] =
    [State::Connect, State::Response, State::Problem, State::Bytes, State::Wait, State::Stopped];

/// A machine that entered the state at time zero and has reported everything.
fn in_state(state: State) -> Machine {
    let mut machine = machine();
    let zero = Duration::ZERO;
    match state {
        State::Connect => {}
        State::Response => drop(drain(&mut machine, zero)),
        State::Problem => {
            drain(&mut machine, zero);
            machine.handle_response(status(500), zero);
        }
        State::Bytes => {
            drain(&mut machine, zero);
            machine.handle_response(stream(), zero);
            drain(&mut machine, zero);
        }
        State::Wait => {
            drain(&mut machine, zero);
            machine.handle_end(End::Eof, zero);
            drain(&mut machine, zero);
        }
        State::Stopped => {
            drain(&mut machine, zero);
            machine.handle_response(status(204), zero);
        }
    }
    assert_eq!(machine.state(), state);
    machine
}

/// Gives the input at 10 s, unless its name has another time.
fn give(machine: &mut Machine, input: &str) -> Duration {
    let now = match input {
        "timeout in time" | "nothing for 50 s" => seconds(50),
        "timeout far too late" => seconds(500),
        _ => seconds(10),
    };
    match input {
        "nothing" | "nothing for 50 s" => {}
        "stream" => machine.handle_response(stream(), now),
        "html" => machine.handle_response(status(200).header("content-type", b"text/html"), now),
        "204" => machine.handle_response(status(204), now),
        "302" => machine.handle_response(status(302).header("location", b"/other"), now),
        "302 elsewhere" => machine.handle_response(status(302).header("location", b"//else.test/x"), now),
        "302 to nowhere" => machine.handle_response(status(302).header("location", b"mailto:x"), now),
        "302 without location" => machine.handle_response(status(302), now),
        "401" => machine.handle_response(status(401), now),
        "403" => machine.handle_response(status(403), now),
        "503" => machine.handle_response(status(503), now),
        "bytes" => machine.handle_bytes(&b"data: x\n\n"[..], now),
        "eof" => machine.handle_end(End::Eof, now),
        "reset" => machine.handle_end(End::Io("reset".into()), now),
        "no connection" => machine.handle_end(End::ConnectTimeout, now),
        "refused for good" => machine.handle_refused(Refused::permanent("no token"), now),
        "refused" => machine.handle_refused(Refused::retry("no token"), now),
        "refused for 100 s" => machine.handle_refused(Refused::retry_after("busy", seconds(100)), now),
        "timeout too early" | "timeout in time" | "timeout far too late" => machine.handle_timeout(now),
        "progress" => machine.progress(),
        "restart" => machine.restart("stuck", now),
        "delay once" => machine.delay_once(seconds(3)),
        "close" => machine.close(),
        other => panic!("{other}"),
    }
    now
}

/// For each input: the result in Connect, Response, Problem, Bytes, Wait and Stopped. A dash means that the input
/// changes nothing: the result is that of `nothing` at that time.
const TABLE: &[(&str, [&str; 6])] = &[
    (
        "nothing",
        [
            "connect#1 response@40",
            "response@30",
            "bytes@20",
            "bytes@45",
            "wait@60",
            "stop(the server has nothing more to say (204))",
        ],
    ),
    (
        "nothing for 50 s",
        [
            "connect#1 response@80",
            "response@30",
            "bytes@20",
            "bytes@45",
            "wait@60",
            "stop(the server has nothing more to say (204))",
        ],
    ),
    ("stream", ["-", "opened bytes@55", "-", "-", "-", "-"]),
    (
        "html",
        [
            "-",
            "failed(answered with content type \"text/html\", not text/event-stream) wait@70",
            "-",
            "-",
            "-",
            "-",
        ],
    ),
    ("204", ["-", "stop(the server has nothing more to say (204))", "-", "-", "-", "-"]),
    ("302", ["-", "connect#1->http://relay.test/other response@40", "-", "-", "-", "-"]),
    ("302 elsewhere", ["-", "connect#1->http://else.test/x! response@40", "-", "-", "-", "-"]),
    (
        "302 to nowhere",
        ["-", "failed(redirected (302) to something that is not an http URL) wait@70", "-", "-", "-", "-"],
    ),
    (
        "302 without location",
        ["-", "failed(redirected (302) without a Location) wait@70", "-", "-", "-", "-"],
    ),
    ("401", ["-", "bytes@30", "-", "-", "-", "-"]),
    ("403", ["-", "bytes@30", "-", "-", "-", "-"]),
    ("503", ["-", "bytes@30", "-", "-", "-", "-"]),
    ("bytes", ["-", "-", "bytes@20", "event(x) bytes@55", "-", "-"]),
    (
        "eof",
        [
            "-",
            "failed(the server ended the connection) wait@70",
            "failed(answered with status 500) wait@70",
            "ended(the server ended the connection) wait@70",
            "-",
            "-",
        ],
    ),
    (
        "reset",
        [
            "-",
            "failed(reset) wait@70",
            "failed(answered with status 500) wait@70",
            "ended(reset) wait@70",
            "-",
            "-",
        ],
    ),
    (
        "no connection",
        [
            "-",
            "failed(no connection in time) wait@70",
            "failed(answered with status 500) wait@70",
            "ended(no connection in time) wait@70",
            "-",
            "-",
        ],
    ),
    ("refused for good", ["-", "stop(no token)", "-", "-", "-", "-"]),
    ("refused", ["-", "failed(no token) wait@70", "-", "-", "-", "-"]),
    ("timeout too early", ["-", "-", "-", "-", "-", "-"]),
    (
        "timeout in time",
        [
            "connect#1 response@80",
            "failed(no response in time) wait@110",
            "failed(answered with status 500) wait@110",
            "ended(nothing received for 45s) wait@110",
            "wait@60",
            "stop(the server has nothing more to say (204))",
        ],
    ),
    (
        "timeout far too late",
        [
            "connect#1 response@530",
            "failed(no response in time) wait@560",
            "failed(answered with status 500) wait@560",
            "bytes@545",
            "connect#2 response@530",
            "stop(the server has nothing more to say (204))",
        ],
    ),
    ("progress", ["-", "-", "-", "-", "-", "-"]),
    (
        "restart",
        [
            "-",
            "failed(restarted: stuck) wait@70",
            "failed(restarted: stuck) wait@70",
            "ended(restarted: stuck) wait@70",
            "-",
            "-",
        ],
    ),
    ("delay once", ["-", "-", "-", "-", "-", "-"]),
    (
        "close",
        [
            "stop(closed by the caller)",
            "stop(closed by the caller)",
            "stop(closed by the caller)",
            "stop(closed by the caller)",
            "stop(closed by the caller)",
            "-",
        ],
    ),
];

#[test]
fn every_input_in_every_state() {
    for (input, row) in TABLE {
        for (state, expected) in STATES.into_iter().zip(row) {
            let mut machine = in_state(state);
            let now = give(&mut machine, input);
            let unchanged = if now == seconds(10) { TABLE[0] } else { TABLE[1] };
            let column = STATES.iter().position(|known| *known == state).unwrap();
            let expected = if *expected == "-" { unchanged.1[column] } else { expected };
            assert_eq!(told(&mut machine, now), expected, "{input} in {state:?}");
        }
    }
}

/// Two inputs, of which the second shows what the first has changed.
#[test]
fn what_an_input_leaves_behind() {
    for (state, inputs, expected) in [
        // After an answer with an error body, the body or its end decides.
        (
            State::Response,
            &["401", "eof"][..],
            "failed(answered with status 401) connect#1+fresh response@40",
        ),
        (State::Response, &["401", "eof", "401", "eof"], "failed(answered with status 401) wait@70"),
        (State::Response, &["403", "bytes", "eof"], "stop(refused with status 403)"),
        (State::Response, &["503", "bytes", "reset"], "failed(answered with status 503) wait@70"),
        // The number of attempts grows, and progress resets it.
        (State::Wait, &["progress", "nothing"], "wait@60"),
        (State::Bytes, &["delay once", "eof"], "ended(the server ended the connection) wait@13"),
        (State::Response, &["delay once", "503", "eof"], "failed(answered with status 503) wait@13"),
        // Late input of a connection that was given up is ignored.
        (State::Bytes, &["eof", "bytes"], "ended(the server ended the connection) wait@70"),
        (State::Bytes, &["bytes", "restart", "bytes"], "ended(restarted: stuck) wait@70"),
        (State::Bytes, &["bytes", "eof"], "event(x) ended(the server ended the connection) wait@70"),
        (State::Bytes, &["bytes", "close"], "stop(closed by the caller)"),
        (State::Response, &["stream", "eof"], "opened ended(the server ended the connection) wait@70"),
        (State::Response, &["stream", "close"], "stop(closed by the caller)"),
        (State::Stopped, &["restart", "close"], "stop(the server has nothing more to say (204))"),
    ] {
        let mut machine = in_state(state);
        let mut now = Duration::ZERO;
        for (index, input) in inputs.iter().enumerate() {
            // If the next attempt begins at once, it is taken; all other reports stay for the end.
            if index > 0 && machine.state() == State::Connect {
                drain(&mut machine, now);
            }
            now = give(&mut machine, input);
        }
        assert_eq!(told(&mut machine, now), expected, "{inputs:?} in {state:?}");
    }
}

#[test]
fn a_refusal_that_names_a_time_is_kept_with_spread() {
    let mut machine = in_state(State::Response);
    let now = give(&mut machine, "refused for 100 s");
    let (_, Action::Wait(until)) = drain(&mut machine, now) else { panic!("{machine:?}") };
    assert!((seconds(110)..=seconds(135)).contains(&until), "{until:?}");
}

#[test]
fn statuses() {
    let machine = |config: Config| {
        let mut machine = Machine::new(config.jitter(Jitter::None).max_problem_bytes(0_usize), 1);
        drain(&mut machine, Duration::ZERO);
        machine
    };
    for (code, expected) in [
        (100, "stop(refused with status 100)"),
        (201, "stop(refused with status 201)"),
        (205, "stop(refused with status 205)"),
        (210, "stop(refused with status 210)"),
        (299, "stop(refused with status 299)"),
        (300, "stop(refused with status 300)"),
        (304, "stop(refused with status 304)"),
        (400, "stop(refused with status 400)"),
        (401, "stop(refused with status 401)"),
        (403, "stop(refused with status 403)"),
        (404, "stop(refused with status 404)"),
        (407, "stop(refused with status 407)"),
        (408, "failed(answered with status 408) wait@0.8"),
        (410, "stop(refused with status 410)"),
        (425, "failed(answered with status 425) wait@0.8"),
        (429, "failed(answered with status 429) wait@0.8"),
        (451, "stop(refused with status 451)"),
        (500, "failed(answered with status 500) wait@0.8"),
        (501, "failed(answered with status 501) wait@0.8"),
        (502, "failed(answered with status 502) wait@0.8"),
        (503, "failed(answered with status 503) wait@0.8"),
        (504, "failed(answered with status 504) wait@0.8"),
        (599, "failed(answered with status 599) wait@0.8"),
        (600, "stop(refused with status 600)"),
    ] {
        let mut machine = machine(Config::default());
        machine.handle_response(status(code), Duration::ZERO);
        assert_eq!(told(&mut machine, Duration::ZERO), expected);
    }

    // The caller's policy decides first, except for 200, 204, redirects, and a 401 with fresh credentials.
    fn policy(status: u16) -> Option<Verdict> {
        match status {
            404 => Some(Verdict::Retry),
            410 => Some(Verdict::RetryLater),
            503 | 200 | 204 | 302 | 401 => Some(Verdict::Stop),
            _ => None,
        }
    }
    let config = Config::default().policy(policy as StatusPolicy).credentials_can_refresh(true);
    for (code, expected) in [
        (404, "failed(answered with status 404) wait@0.8"),
        (503, "stop(refused with status 503)"),
        (500, "failed(answered with status 500) wait@0.8"),
        (401, "failed(answered with status 401) connect#1+fresh response@30"),
        (204, "stop(the server has nothing more to say (204))"),
        (302, "failed(redirected (302) without a Location) wait@0.8"),
    ] {
        let mut machine = machine(config.clone());
        machine.handle_response(status(code), Duration::ZERO);
        assert_eq!(told(&mut machine, Duration::ZERO), expected);
    }
    let mut machine = machine(config);
    machine.handle_response(status(410), Duration::ZERO);
    let (_, Action::Wait(until)) = drain(&mut machine, Duration::ZERO) else { panic!("{machine:?}") };
    assert!((seconds(15)..=seconds(30)).contains(&until), "{until:?}");
}
