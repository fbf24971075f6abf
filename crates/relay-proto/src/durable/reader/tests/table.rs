//! Every state with every input: the reader's next action.

use super::*;

/// A reader in a state, and the time.
fn in_state(state: &str) -> (Reader, Duration) {
    let mode = match state {
        "events" => LiveMode::Sse,
        "polled" => LiveMode::LongPoll,
        _ => LiveMode::Off,
    };
    let mut reader = reader(mode, "-1").known(true);
    if state == "ask" {
        return (reader, ZERO);
    }
    assert!(matches!(reader.poll(ZERO), ReaderWant::Ask(_)));
    match state {
        "answer" | "polled" => {}
        "body" => reader.handle_answer(&json("5", true), ZERO),
        "events" => reader.handle_answer(&events(), ZERO),
        "pause" => reader.handle_failure("lost", ZERO),
        "done" => reader.handle_answer(&Answer::new(404), ZERO),
        other => panic!("{other}"),
    }
    (reader, ZERO)
}

fn apply(reader: &mut Reader, input: &str, now: Duration) {
    match input {
        "200 json" => reader.handle_answer(&json("5", true), now),
        "200 no offset" => reader.handle_answer(&Answer::new(200), now),
        "200 events" => reader.handle_answer(&events(), now),
        "204" => {
            reader.handle_answer(&answer(204, &[("Stream-Next-Offset", "5"), ("Stream-Closed", "true")]), now)
        }
        "304" => reader.handle_answer(&answer(304, &[("Stream-Next-Offset", "5")]), now),
        "404" => reader.handle_answer(&Answer::new(404), now),
        "503" => reader.handle_answer(&Answer::new(503), now),
        "bytes" => reader.handle_bytes("[1".into(), now),
        "no json" => reader.handle_bytes("no\n\n".into(), now),
        "control" => {
            let event = "event: control\ndata:{\"streamNextOffset\":\"5\",\"streamClosed\":true}\n\n";
            reader.handle_bytes(event.into(), now);
        }
        "end" => reader.handle_end(None, now),
        "cut" => reader.handle_end(Some("cut"), now),
        "failure" => reader.handle_failure("refused", now),
        "early" => reader.handle_timeout(now),
        "late" => reader.handle_timeout(now + ms(1_000_000)),
        other => panic!("{other}"),
    }
}

/// The reports and the next action as a short text.
fn outcome(reader: &mut Reader, now: Duration) -> String {
    let (given, want) = drain(reader, now);
    let want = match want {
        ReaderWant::Ask(_) => "ask",
        ReaderWant::Answer(_) => "answer",
        ReaderWant::Bytes(_) => "bytes",
        ReaderWant::Wait(until) => {
            assert!(until > now, "never a busy loop");
            "wait"
        }
        ReaderWant::Stop(ReaderStop::End(_)) => "end",
        ReaderWant::Stop(ReaderStop::Refused { .. }) => "refused",
        ReaderWant::Stop(ReaderStop::Over) => "over",
        other => panic!("{other:?}"),
    };
    match given.iter().any(|piece| piece.starts_with("retry")) {
        true => format!("retry, {want}"),
        false => want.into(),
    }
}

#[test]
fn every_state_with_every_input() {
    const STATES: [&str; 7] = ["ask", "answer", "polled", "body", "events", "pause", "done"];
    let table = "
        200 json      | ask | bytes       | bytes       | bytes       | bytes       | wait        | over
        200 no offset | ask | retry, wait | retry, wait | bytes       | bytes       | wait        | over
        200 events    | ask | retry, wait | retry, wait | bytes       | bytes       | wait        | over
        204           | ask | retry, wait | end         | bytes       | bytes       | wait        | over
        304           | ask | retry, wait | retry, wait | bytes       | bytes       | wait        | over
        404           | ask | refused     | refused     | bytes       | bytes       | wait        | over
        503           | ask | retry, wait | retry, wait | bytes       | bytes       | wait        | over
        bytes         | ask | answer      | answer      | bytes       | bytes       | wait        | over
        no json       | ask | answer      | answer      | retry, wait | bytes       | wait        | over
        control       | ask | answer      | answer      | retry, wait | end         | wait        | over
        end           | ask | retry, wait | retry, wait | end         | wait        | wait        | over
        cut           | ask | retry, wait | retry, wait | retry, wait | retry, wait | wait        | over
        failure       | ask | retry, wait | retry, wait | retry, wait | retry, wait | wait        | over
        early         | ask | answer      | answer      | bytes       | bytes       | wait        | over
        late          | ask | retry, wait | retry, wait | retry, wait | retry, wait | wait        | over
    ";
    let mut wrong = vec![];
    for row in table.lines().map(str::trim).filter(|row| !row.is_empty()) {
        let mut cells = row.split('|').map(str::trim);
        let input = cells.next().unwrap();
        let wanted: Vec<&str> = cells.collect();
        assert_eq!(wanted.len(), STATES.len(), "{input}");
        for (state, wanted) in STATES.iter().zip(wanted) {
            let (mut reader, now) = in_state(state);
            if *state == "done" {
                // The end is reported once.
                drain(&mut reader, now);
            } else if *state == "pause" {
                assert_eq!(outcome(&mut reader, now), "retry, wait");
            }
            apply(&mut reader, input, now);
            let later = if input == "late" && *state != "pause" { ms(1_000_000) } else { now };
            let found = outcome(&mut reader, later);
            if found != wanted {
                wrong.push(format!("{state} + {input}: {found}, not {wanted}"));
            }
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
}
