use super::*;
use proptest::prelude::*;
use relay_proto::parsec::{Connected, Producer, Registry, StreamFrame, StreamGap, ValidatorMode};
use relay_proto::sse;
use relay_proto::time::Timestamp;

fn at(text: &str) -> Option<Position> {
    Some(text.parse().unwrap())
}

fn text(producer: &str, sequence: i64, aspect: &str) -> Bytes {
    format!(r#"{{"aspect":"{aspect}","producer":{{"id":"{producer}"}},"sequence":{sequence},"payload":{sequence}}}"#).into()
}

fn envelope(position: &str, producer: &str, sequence: i64) -> Frame {
    Frame::Envelope { position: position.parse().ok(), envelope: text(producer, sequence, "a") }
}

fn brief(item: &Item) -> String {
    let place = |position: &Option<Position>| position.as_ref().map_or("-".into(), ToString::to_string);
    match item {
        Item::Subscribed { position, resumed } => {
            format!("{} {}", if *resumed { "resumed" } else { "subscribed" }, place(position))
        }
        Item::Envelope(delivered) => {
            let envelope = &delivered.envelope;
            let warning = if delivered.warning.is_some() { " warned" } else { "" };
            format!(
                "{}{}@{}{warning}",
                envelope.producer().id(),
                envelope.sequence(),
                place(&delivered.position)
            )
        }
        Item::Gap(gap) => {
            let missing = gap.missing.map_or("?".into(), |n| n.to_string());
            let of = gap
                .producer
                .as_ref()
                .map_or(String::new(), |id| format!(" of {id} {}-{}", gap.from.unwrap(), gap.to.unwrap()));
            format!("gap {} {missing}{of} {}", gap.cause, place(&gap.position))
        }
        Item::Duplicate { producer, sequence, high_water, position } => {
            format!("duplicate {producer}{sequence}<={high_water}@{}", place(position))
        }
        Item::Undecodable { position, error, .. } => format!("undecodable@{} {error}", place(position)),
        Item::Rejected { position, rejection, .. } => {
            format!("rejected {}@{}", rejection.code(), place(position))
        }
        Item::Lag { dropped, position } => format!("lag {dropped} {}", place(position)),
    }
}

fn items(follow: &mut Follow) -> Vec<String> {
    std::iter::from_fn(|| follow.next_item()).map(|item| brief(&item)).collect()
}

/// All pairs of a state and an input; `table.txt` has the result of each.
#[test]
fn every_state_and_input() {
    let fresh = |after: Option<&str>| {
        let options =
            FollowOptions { after: after.map(|text| text.parse().unwrap()), ..FollowOptions::default() };
        let mut follow = Follow::new("public:a.b", options);
        follow.handle_open();
        follow
    };
    let connected = |after: Option<&str>, to: Option<&str>| {
        let mut follow = fresh(after);
        let resumes_after = to.map(|text| text.parse().unwrap());
        follow.handle_frame(Frame::Connected { resumes_after }).unwrap();
        items(&mut follow);
        follow
    };
    let holed = |mut follow: Follow, frame: Frame| {
        follow.handle_frame(frame).unwrap_err();
        follow.handle_open();
        let resumes_after = follow.position().cloned();
        follow.handle_frame(Frame::Connected { resumes_after }).unwrap();
        items(&mut follow);
        follow
    };
    type Make<'a> = Box<dyn Fn() -> Follow + 'a>;
    let states: Vec<(&str, Make<'_>)> = vec![
        ("closed", Box::new(|| Follow::new("public:a.b", FollowOptions::default()))),
        ("fresh", Box::new(|| fresh(None))),
        ("fresh, after e.5", Box::new(|| fresh(Some("e.5")))),
        (
            "fresh, after e.5, once before without connected",
            Box::new(|| {
                let mut follow = fresh(Some("e.5"));
                follow.handle_frame(envelope("e.6", "p", 1)).unwrap_err();
                follow.handle_open();
                follow
            }),
        ),
        ("owed, from e.5 to e.8", Box::new(|| connected(Some("e.5"), Some("e.8")))),
        ("owed, from e.5 back to e.3", Box::new(|| connected(Some("e.5"), Some("e.3")))),
        ("owed, from e.5 to f.2", Box::new(|| connected(Some("e.5"), Some("f.2")))),
        ("live at e.5", Box::new(|| connected(Some("e.5"), Some("e.5")))),
        ("live at e.5, begun there", Box::new(|| connected(None, Some("e.5")))),
        ("live without positions", Box::new(|| connected(None, None))),
        (
            "live at e.5, hole before",
            Box::new(|| holed(connected(Some("e.5"), Some("e.5")), envelope("e.9", "p", 1))),
        ),
        (
            "live at e.5, just after a gap",
            Box::new(|| {
                let mut follow = connected(Some("e.1"), Some("e.5"));
                let cause = GapCause::Server(GapReason::Trimmed);
                let resumes_after = "e.5".parse().unwrap();
                follow.handle_frame(Frame::Gap { cause, missed: Some(4), resumes_after }).unwrap();
                items(&mut follow);
                follow
            }),
        ),
    ];
    let gap = |reason, missed, to: &str| Frame::Gap {
        cause: GapCause::Server(reason),
        missed,
        resumes_after: to.parse().unwrap(),
    };
    let inputs = [
        ("connected e.5", Frame::Connected { resumes_after: at("e.5") }),
        ("connected e.8", Frame::Connected { resumes_after: at("e.8") }),
        ("connected f.2", Frame::Connected { resumes_after: at("f.2") }),
        ("connected -", Frame::Connected { resumes_after: None }),
        ("envelope e.6", envelope("e.6", "p", 1)),
        ("envelope e.5", envelope("e.5", "p", 1)),
        ("envelope e.9", envelope("e.9", "p", 1)),
        ("envelope f.1", envelope("f.1", "p", 1)),
        ("envelope -", envelope("", "p", 1)),
        ("nonsense e.6", Frame::Envelope { position: at("e.6"), envelope: "[]".into() }),
        ("oversized e.6", Frame::Oversized { position: at("e.6"), size: 9, limit: 8 }),
        ("gap trimmed e.5", gap(GapReason::Trimmed, Some(4), "e.5")),
        ("gap trimmed e.8", gap(GapReason::Trimmed, Some(3), "e.8")),
        ("gap epoch-changed f.0", gap(GapReason::EpochChanged, None, "f.0")),
        ("heartbeat e.5", Frame::Heartbeat { position: "e.5".parse().unwrap() }),
        ("heartbeat e.7", Frame::Heartbeat { position: "e.7".parse().unwrap() }),
        ("heartbeat f.1", Frame::Heartbeat { position: "f.1".parse().unwrap() }),
        ("lag e.7", Frame::Lag { dropped: 2, resumes_after: at("e.7") }),
    ];
    let mut table = String::new();
    for (state, make) in &states {
        table += &format!("{state}\n");
        for (input, frame) in &inputs {
            let mut follow = make();
            let result = follow.handle_frame(frame.clone());
            let mut said = items(&mut follow);
            if let Frame::Envelope { position, envelope } = frame {
                // A part of a text is no different, whichever way it is handed over.
                let part = 4..4 + envelope.len();
                let text = ByteString::from(format!("id:\n{}\n", std::str::from_utf8(envelope).unwrap()));
                let (mut other, mut another) = (make(), make());
                let framed =
                    Frame::Text { position: position.clone(), text: text.clone(), part: part.clone() };
                let again = match position {
                    Some(position) => another.handle_next(&position.at(77), position.offset(), &text, part),
                    None => another.handle_frame(framed.clone()),
                };
                assert_eq!((other.handle_frame(framed), again), (result.clone(), result.clone()));
                for mut other in [other, another] {
                    assert_eq!((items(&mut other), other.position()), (said.clone(), follow.position()));
                }
            }
            said.extend(result.err().map(|restart| format!("RESTART {}", restart.reason)));
            let place = follow.position().map_or("-".into(), ToString::to_string);
            table += &format!("  {input:<22} -> {place:<4} {}\n", said.join(", "));
        }
    }
    if std::env::var_os("RELAY_WRITE_TABLE").is_some() {
        std::fs::write(concat!(env!("CARGO_MANIFEST_DIR"), "/src/sequences/follow/table.txt"), &table)
            .unwrap();
    }
    let known = include_str!("table.txt");
    for (line, (now, then)) in table.lines().zip(known.lines()).enumerate() {
        assert_eq!(now, then, "line {}", line + 1);
    }
    assert_eq!(table.lines().count(), known.lines().count());
}

#[test]
fn filters_validators_and_from_sequence_never_make_a_gap() {
    let schemas =
        br#"[{"pattern":"public:**","aspects":{"a":{"payload_schema":{"enum":[1,3,5,6]}},"b":{}}}]"#;
    let validator = Validator::new(Registry::from_json(schemas).unwrap(), ValidatorMode::Strict);
    let mut options = FollowOptions { validator, from_sequence: 2, ..FollowOptions::default() };
    options.aspects.insert("a".into());
    let mut follow = Follow::new("public:a.b", options);
    follow.handle_open();
    follow.handle_frame(Frame::Connected { resumes_after: at("e.0") }).unwrap();
    for (offset, (sequence, aspect)) in
        [(1, "a"), (2, "a"), (3, "a"), (4, "a"), (5, "b"), (6, "a"), (7, "c"), (9, "b")]
            .into_iter()
            .enumerate()
    {
        let position = at(&format!("e.{}", offset + 1));
        follow.handle_frame(Frame::Envelope { position, envelope: text("p", sequence, aspect) }).unwrap();
    }
    assert_eq!(
        items(&mut follow),
        [
            "subscribed e.0",
            "p3@e.3",
            "rejected payload-invalid@e.4",
            "p6@e.6",
            "rejected unsupported-aspect@e.7",
            "gap sequence 1 of p 8-8 e.7",
        ]
    );
    assert_eq!(follow.high_water("p"), 9);
}

/// A gap is repeated only when nothing came in between.
#[test]
fn a_gap_after_an_envelope_is_another_one() {
    let mut follow = Follow::new("public:a.b", FollowOptions::default());
    follow.handle_open();
    follow.handle_frame(Frame::Connected { resumes_after: at("e.1") }).unwrap();
    let cause = GapCause::Server(GapReason::SlowConsumer);
    let gap = Frame::Gap { cause, missed: None, resumes_after: "e.5".parse().unwrap() };
    follow.handle_frame(gap.clone()).unwrap();
    follow.handle_frame(gap.clone()).unwrap();
    let text = ByteString::try_from(text("p", 1, "a")).unwrap();
    follow.handle_next(&"e.0".parse().unwrap(), 6, &text, 0..text.len()).unwrap();
    follow.handle_frame(gap).unwrap();
    let gap = "gap slow-consumer ? e.5";
    assert_eq!(items(&mut follow), ["subscribed e.1", gap, "p1@e.6", gap]);
}

#[test]
fn what_cannot_be_read_is_named_and_counts() {
    let mut follow = Follow::new("public:a.b", FollowOptions::default());
    follow.handle_open();
    follow.handle_frame(Frame::Connected { resumes_after: at("e.0") }).unwrap();
    for (offset, envelope) in [
        "nonsense",
        "[]",
        r#""text""#,
        r#"{"aspect":"a","producer":{"id":"p"},"sequence":0}"#,
        r#"{"aspect":"a","producer":{"id":"p"},"sequence":1.5}"#,
        r#"{"aspect":"a","producer":{"id":"p"},"sequence":"2"}"#,
        r#"{"aspect":"a","producer":{"id":"p"},"sequence":9223372036854775808}"#,
        r#"{"aspect":"a","producer":{},"sequence":1}"#,
        r#"{"aspect":"a","producer":{"id":"p"},"sequence":1,"produced_at":"noon"}"#,
        r#"{"aspect":"a","producer":{"id":"p","kind":"robot"},"sequence":1,"x":{}}"#,
    ]
    .into_iter()
    .enumerate()
    {
        let position = at(&format!("e.{}", offset + 1));
        follow.handle_frame(Frame::Envelope { position, envelope: envelope.into() }).unwrap();
    }
    let said = items(&mut follow);
    assert_eq!(said.len(), 11);
    assert!(said[1..10].iter().all(|line| line.starts_with("undecodable@e.")), "{said:?}");
    assert_eq!(said[10], "p1@e.10");
}

/// One step between a server and a subscriber.
#[derive(Debug, Clone)]
enum Step {
    /// A producer publishes after losing this many of its numbers.
    Publish(u8, u8),
    /// A producer publishes a number that it has used before.
    Again(u8),
    /// The log drops its oldest entries.
    Trim(u8),
    /// The log is lost.
    NewEpoch,
    /// The connection breaks.
    Cut,
    /// A frame is lost in transit.
    Lose,
    /// Frames are repeated.
    Repeat(u8),
    /// The server sends its position.
    Heartbeat,
    /// This many frames arrive.
    Deliver(u8),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0_u8..3, prop_oneof![5 => Just(0_u8), 1 => 1_u8..4]).prop_map(|(p, lost)| Step::Publish(p, lost)),
        1 => (0_u8..3).prop_map(Step::Again),
        1 => (0_u8..4).prop_map(Step::Trim),
        1 => Just(Step::NewEpoch),
        2 => Just(Step::Cut),
        1 => Just(Step::Lose),
        1 => (0_u8..4).prop_map(Step::Repeat),
        2 => Just(Step::Heartbeat),
        6 => (0_u8..5).prop_map(Step::Deliver),
    ]
}

/// A connection: the subscriber gets the server's bytes in chunks of any size.
struct Wire {
    written: Vec<u8>,
    chunks: std::iter::Cycle<std::vec::IntoIter<usize>>,
    /// The size of the next chunk.
    chunk: usize,
    decoder: sse::Decoder,
}

impl Wire {
    fn new(chunks: Vec<usize>) -> Self {
        let mut chunks = chunks.into_iter().cycle();
        let chunk = chunks.next().unwrap();
        Self { written: Vec::new(), chunks, chunk, decoder: sse::Decoder::default() }
    }

    /// Opens another connection: bytes in transit on the last one are lost, wherever it was cut.
    fn open(&mut self) {
        self.written.clear();
        self.decoder = sse::Decoder::default();
    }

    /// Reads whole chunks, and the rest as well if nothing more will be written. Returns whether the subscriber stays
    /// connected.
    fn read(&mut self, follow: &mut Follow, rest: bool) -> bool {
        while !self.written.is_empty() && (rest || self.written.len() >= self.chunk) {
            let size = self.chunk.min(self.written.len());
            self.decoder.feed(self.written.drain(..size).collect::<Vec<u8>>());
            self.chunk = self.chunks.next().unwrap();
            while let Some(result) = self.next(follow) {
                if result.is_err() {
                    return false;
                }
            }
        }
        true
    }

    /// Hands over the next frame: in the short way where that is possible, and it is its turn.
    fn next(&mut self, follow: &mut Follow) -> Option<Result<bool, Restart>> {
        let near = follow.position().cloned().filter(|_| !self.chunk.is_multiple_of(3));
        if let Some(near) = near
            && let Some(series) = sse::Series::new("envelope", &format!("{}.", near.epoch()))
            && let Some(event) = self.decoder.next_in_series(&series)
        {
            let (text, part) = event.part();
            return Some(follow.handle_next(&near, event.number(), text, part));
        }
        let sse::Frame::Event(event) = self.decoder.next_frame()? else { panic!("only events are written") };
        Some(follow.handle_frame(meant(&event)))
    }
}

/// An event of the stream as the fold sees it.
fn meant(event: &sse::Event) -> Frame {
    match StreamFrame::decode(event, None).unwrap() {
        StreamFrame::Connected(connected) => {
            Frame::Connected { resumes_after: Some(connected.resumes_after) }
        }
        StreamFrame::Envelope { position, envelope } => Frame::Envelope { position, envelope },
        StreamFrame::Gap(gap) => Frame::Gap {
            cause: GapCause::Server(gap.reason),
            missed: gap.missed,
            resumes_after: gap.resumes_after,
        },
        StreamFrame::Heartbeat { position } => Frame::Heartbeat { position },
        other => panic!("{other:?} is not written"),
    }
}

/// A slow and simple server that follows the protocol.
struct Server {
    epoch: u32,
    head: u64,
    /// Offset, producer, sequence.
    retained: Vec<(u64, u8, i64)>,
    counts: [i64; 3],
    /// The last offset that was sent on the connection.
    sent: Option<u64>,
    wire: Wire,
}

impl Server {
    fn place(&self, offset: u64) -> Position {
        Position::new(format!("epoch{}", self.epoch), offset)
    }

    fn base(&self) -> u64 {
        self.retained.first().map_or(self.head, |(offset, ..)| offset - 1)
    }

    /// Delivers the written bytes. A subscriber that finds an error disconnects.
    fn read(&mut self, follow: &mut Follow, rest: bool) {
        if !self.wire.read(follow, rest) {
            self.sent = None;
        }
    }

    fn say_gap(&mut self, reason: GapReason, missed: Option<u64>, to: u64) {
        let gap = StreamGap::new(reason, self.place(to)).missed(missed);
        StreamFrame::write_gap(&mut self.wire.written, &gap);
    }

    fn say_envelope(&mut self, offset: u64, producer: u8, sequence: i64) {
        // Two of three in the form that publishers write.
        let (place, producer) = (self.place(offset), producer.to_string());
        let envelope = if sequence % 3 == 0 {
            text(&producer, sequence, "a")
        } else {
            let envelope = Envelope::new("public:a.b", "a", Producer::service(producer));
            envelope.with_sequence(sequence).with_produced_at_millis(0).encode().unwrap().into()
        };
        let envelope = std::str::from_utf8(&envelope).unwrap();
        StreamFrame::write_envelope(&mut self.wire.written, &place, envelope);
    }

    fn connect(&mut self, follow: &mut Follow) {
        self.wire.open();
        follow.handle_open();
        let asked = follow.position().cloned();
        let base = self.base();
        let mut gap = None;
        let from = match asked {
            None => self.head,
            Some(asked) if asked.epoch() != self.place(0).epoch() => {
                gap = Some((GapReason::EpochChanged, None));
                base
            }
            Some(asked) if asked.offset() > self.head => {
                gap = Some((GapReason::UnknownPosition, None));
                base
            }
            Some(asked) if asked.offset() < base => {
                gap = Some((GapReason::Trimmed, Some(base - asked.offset())));
                base
            }
            Some(asked) => asked.offset(),
        };
        let beat = std::time::Duration::from_secs(15);
        let connected = Connected::new("public:a.b", self.head, self.place(from), "c", beat);
        StreamFrame::write_connected(&mut self.wire.written, &connected);
        if let Some((reason, missed)) = gap {
            self.say_gap(reason, missed, from);
        }
        self.sent = Some(from);
        self.read(follow, false);
    }

    /// Sends the last envelopes again.
    fn repeat(&mut self, follow: &mut Follow, back: u64) {
        let Some(sent) = self.sent else { return };
        for (offset, producer, sequence) in self.retained.clone() {
            if offset <= sent && offset + back > sent {
                self.say_envelope(offset, producer, sequence);
            }
        }
        self.read(follow, false);
    }

    /// Sends at most this many of the next envelopes; `lose` drops the first of them.
    fn deliver(&mut self, follow: &mut Follow, most: usize, lose: bool) {
        for n in 0..most {
            let Some(sent) = self.sent else { return };
            let Some(&(offset, producer, sequence)) =
                self.retained.iter().find(|(offset, ..)| *offset > sent)
            else {
                return;
            };
            if offset > sent + 1 {
                // The subscriber fell off the log, and the server sends a gap.
                self.say_gap(GapReason::SlowConsumer, Some(offset - 1 - sent), offset - 1);
            }
            self.sent = Some(offset);
            if lose && n == 0 {
                continue;
            }
            self.say_envelope(offset, producer, sequence);
            self.read(follow, false);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

    /// Nothing is lost or repeated without a report, however the bytes are cut into chunks, and wherever a connection
    /// ends among them.
    #[test]
    fn as_the_slow_server(
        steps in prop::collection::vec(step(), 1..60),
        chunks in prop::collection::vec(prop_oneof![1_usize..12, 1_usize..300], 1..8),
    ) {
        let wire = Wire::new(chunks);
        let mut server = Server { epoch: 0, head: 0, retained: Vec::new(), counts: [0; 3], sent: None, wire };
        let mut follow = Follow::new("public:a.b", FollowOptions::default());
        server.connect(&mut follow);
        for step in steps {
            match step {
                Step::Publish(producer, lost) => {
                    let count = &mut server.counts[usize::from(producer)];
                    *count += 1 + i64::from(lost);
                    server.head += 1;
                    server.retained.push((server.head, producer, *count));
                }
                Step::Again(producer) => {
                    server.head += 1;
                    let count = server.counts[usize::from(producer)].max(1);
                    server.counts[usize::from(producer)] = count;
                    server.retained.push((server.head, producer, count));
                }
                Step::Trim(count) => {
                    let count = usize::from(count).min(server.retained.len());
                    server.retained.drain(..count);
                }
                Step::NewEpoch => {
                    server.epoch += 1;
                    server.head = 0;
                    server.retained.clear();
                    server.sent = None;
                }
                Step::Cut => server.sent = None,
                Step::Lose => server.deliver(&mut follow, 1, true),
                Step::Repeat(back) => server.repeat(&mut follow, u64::from(back)),
                Step::Heartbeat => {
                    if let Some(sent) = server.sent {
                        let (place, time) = (server.place(sent), Timestamp::new("2026-05-27T14:22:09Z"));
                        StreamFrame::write_heartbeat(&mut server.wire.written, &place, &time);
                        server.read(&mut follow, false);
                    }
                }
                Step::Deliver(most) => {
                    if server.sent.is_none() {
                        server.connect(&mut follow);
                    }
                    server.deliver(&mut follow, usize::from(most), false);
                }
            }
        }
        // In the end everything arrives: over one whole connection, and another one if the first showed a hole.
        for _ in 0..3 {
            server.connect(&mut follow);
            server.deliver(&mut follow, 1000, false);
            server.read(&mut follow, true);
        }
        prop_assert_eq!(follow.position(), Some(&server.place(server.head)));

        let mut place: Option<Position> = None;
        let mut marks = std::collections::BTreeMap::<String, i64>::new();
        let mut said_gap: Option<(String, i64, i64)> = None;
        while let Some(item) = follow.next_item() {
            let mut step = |to: &Position| {
                if let Some(place) = &place {
                    assert!(place.same_epoch(to) && to.offset() == place.offset() + 1, "{place} to {to}");
                }
                place = Some(to.clone());
            };
            match item {
                Item::Subscribed { position, .. } => place = place.or(position),
                Item::Envelope(delivered) => {
                    step(&delivered.position.unwrap());
                    let producer = delivered.envelope.producer().id().to_owned();
                    let sequence = delivered.envelope.sequence();
                    let before = marks.insert(producer.clone(), sequence);
                    let jumped = before.filter(|before| sequence > before + 1);
                    let expected = jumped.map(|before| (producer, before + 1, sequence - 1));
                    prop_assert_eq!(said_gap.take(), expected);
                    prop_assert!(before.is_none_or(|before| sequence > before));
                }
                Item::Duplicate { producer, sequence, high_water, position } => {
                    step(&position.unwrap());
                    prop_assert_eq!(marks.get(&producer), Some(&high_water));
                    prop_assert!(sequence <= high_water);
                }
                Item::Gap(gap) if gap.producer.is_some() => {
                    let (from, to) = (gap.from.unwrap(), gap.to.unwrap());
                    prop_assert_eq!(gap.missing, Some((to - from + 1) as u64));
                    said_gap = Some((gap.producer.unwrap(), from, to));
                }
                Item::Gap(gap) => {
                    let (before, to) = (place.clone().unwrap(), gap.position.unwrap());
                    if let Some(missing) = gap.missing {
                        prop_assert!(before.same_epoch(&to));
                        prop_assert_eq!(before.offset() + missing, to.offset());
                    }
                    place = Some(to);
                }
                other => prop_assert!(false, "{:?}", other),
            }
        }
        prop_assert_eq!(place, Some(server.place(server.head)));
    }
}
