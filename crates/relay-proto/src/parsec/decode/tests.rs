use super::*;
use crate::parsec::{MAX_ENVELOPE_BYTES, Payload, PayloadRef};

fn decode(text: &str) -> Result<Envelope, DecodeError> {
    Envelope::decode(text.as_bytes().to_vec())
}

fn valid() -> Envelope {
    Envelope::new("public:a.b", "data", Producer::user("u-1"))
        .with_sequence(1)
        .with_produced_at_millis(1_779_891_729_331)
        .with_payload(Payload::parse(r#"{"hello":"world"}"#).unwrap())
}

/// Behaviour 8 of the published tests, and the order of keys on the wire.
#[test]
fn behaviour_08_a_round_trip_keeps_everything() {
    let whole = valid()
        .with_schema_ref("sessions:s_19:envelope/v1")
        .with_causation(Causation::new("public:a.b.c", 7));
    let text = whole.encode().unwrap();
    assert_eq!(
        text,
        concat!(
            r#"{"channel":"public:a.b","sequence":1,"producer":{"id":"u-1","kind":"user"},"aspect":"data","#,
            r#""schema_ref":"sessions:s_19:envelope/v1","causation":{"parent_channel":"public:a.b.c","#,
            r#""parent_sequence":7},"payload":{"hello":"world"},"produced_at":"2026-05-27T14:22:09.331Z"}"#
        )
    );
    assert_eq!(decode(&text), Ok(whole));
    let half = valid().with_causation(Causation::new("", 7));
    assert!(half.to_json().contains(r#""causation":{"parent_sequence":7}"#));
}

/// Behaviour 9: each missing member has its own error, and the first one is reported.
#[test]
fn behaviour_09_the_order_of_the_rules() {
    let robot = || ProducerKind::from_name("robot");
    let of = |channel, aspect, producer| Envelope::new(channel, aspect, producer);
    let named = |kind| of("c", "a", Producer::new("p", kind));
    for (envelope, error, field) in [
        (of("", "", Producer::new("", robot())), EnvelopeError::ChannelRequired, "channel"),
        (of("c", "", Producer::new("", robot())), EnvelopeError::AspectRequired, "aspect"),
        (of("c", "a", Producer::new("", robot())), EnvelopeError::ProducerRequired, "producer.id"),
        (named(robot()), EnvelopeError::ProducerKindUnknown("robot".into()), "producer.kind"),
        (named(ProducerKind::Agent), EnvelopeError::SequenceNonPositive(0), "sequence"),
        (named(ProducerKind::User).with_sequence(1), EnvelopeError::ProducedAtZero, "produced_at"),
    ] {
        assert_eq!(envelope.validate(), Err(error.clone()));
        assert_eq!(error.field(), Some(field));
    }
    let valid = named(ProducerKind::Service).with_sequence(1).with_produced_at_millis(0);
    assert_eq!(valid.validate(), Ok(()));
}

/// Behaviour 10: an envelope of exactly the limit is accepted; with one byte more, the error names both sizes.
#[test]
fn behaviour_10_the_size_rule() {
    let of =
        |filler: usize| valid().with_payload(Payload::parse(&format!("\"{}\"", "x".repeat(filler))).unwrap());
    let frame = of(0).encode().unwrap().len();
    let full = of(MAX_ENVELOPE_BYTES - frame);
    assert_eq!(full.encode().unwrap().len(), MAX_ENVELOPE_BYTES);
    let error = of(MAX_ENVELOPE_BYTES - frame + 1).encode().unwrap_err().to_string();
    assert!(error.contains("exceeds MaxEnvelopeSize") && error.contains("65537") && error.contains("65536"));
    // Readers have no such limit.
    assert!(decode(&of(MAX_ENVELOPE_BYTES * 2).to_json()).is_ok());
}

#[test]
fn readers_are_tolerant() {
    let bare = decode("{}").unwrap();
    assert_eq!((bare.sequence(), bare.produced_at_millis(), bare.payload()), (0, None, None));
    for (text, payload) in [
        (r#"{"payload":null}"#, Some("null")),
        (
            r#"{"payload": {"a": 9007199254740993, "b": 1.50, "c":"<&>\u003c"} }"#,
            Some(r#"{"a": 9007199254740993, "b": 1.50, "c":"<&>\u003c"}"#),
        ),
        (r#"{"x":{"payload":1,"sequence":5},"payload":2}"#, Some("2")),
        (r#"{"payl\u006fad":1}"#, Some("1")),
        (r#"{"payload":[1],"payload": 2}"#, Some("2")),
        (
            r#"{"channel":null,"sequence":null,"producer":null,"aspect":null,"causation":null,"produced_at":null}"#,
            None,
        ),
    ] {
        let envelope = decode(text).unwrap();
        assert_eq!(envelope.payload().map(PayloadRef::as_str), payload, "{text}");
        assert_eq!(envelope.sequence(), 0);
    }
    let robot =
        decode(r#"{"producer":{"id":"\u00fc","kind":"robot","age":1},"aspect":"a","sequence":1}"#).unwrap();
    assert_eq!((robot.producer().id(), robot.producer().kind().as_str()), ("ü", "robot"));
    assert_eq!(robot.usable(), Ok(()));
    assert_eq!(
        robot.to_json(),
        r#"{"channel":"","sequence":1,"producer":{"id":"ü","kind":"robot"},"aspect":"a","produced_at":null}"#
    );
    let twice = decode(r#"{"causation":{"parent_channel":"c"},"causation":{"parent_sequence":4}}"#).unwrap();
    assert_eq!(*twice.causation(), Causation::new("", 4));
    let late = decode(r#"{"produced_at":"2026-05-27T16:22:09.3319+02:00"}"#).unwrap();
    assert_eq!(late.produced_at_text().unwrap(), "2026-05-27T14:22:09.331Z");
    assert_eq!(decode(r#"{"produced_at":""}"#).unwrap().produced_at_millis(), None);
}

#[test]
fn what_is_wrong_is_named_and_the_payload_is_not_shown() {
    let number = "is not a whole number below 2^63";
    for (text, error) in [
        (r#"{"sequence":1.5}"#, format!("sequence {number}")),
        (r#"{"sequence":"2"}"#, format!("sequence {number}")),
        (r#"{"sequence":9223372036854775808}"#, format!("sequence {number}")),
        (r#"{"sequence":1e3}"#, format!("sequence {number}")),
        (r#"{"channel":1}"#, "channel is not a text".into()),
        (r#"{"producer":"p"}"#, "producer is not an object".into()),
        (r#"{"producer":{"id":{}}}"#, "producer.id is not a text".into()),
        (r#"{"producer":{"kind":1}}"#, "producer.kind is not a text".into()),
        (r#"{"causation":{"parent_sequence":"7"}}"#, format!("causation.parent_sequence {number}")),
        (r#"{"produced_at":"yesterday"}"#, "produced_at \"yesterday\" is not an RFC 3339 time".into()),
        (r#"{"produced_at":1}"#, "produced_at is not a text".into()),
        ("[]", "not a JSON object".into()),
        ("\"secret\"", "not a JSON object".into()),
        ("", "not JSON: EOF while parsing a value at line 1 column 0".into()),
        ("{\"payload\":\"secret\"", "not JSON: EOF while parsing an object at line 1 column 19".into()),
        ("{} {}", "not JSON: trailing characters at line 1 column 4".into()),
    ] {
        let said = decode(text).unwrap_err().to_string();
        assert_eq!(said, error, "{text}");
        assert!(!said.contains("secret"));
    }
    assert_eq!(Envelope::decode(&b"\xff"[..]), Err(DecodeError::NotUtf8(0)));
    for (text, field) in [
        (r#"{"producer":{"id":"p"},"sequence":1}"#, "aspect"),
        (r#"{"aspect":"a","producer":{},"sequence":1}"#, "producer.id"),
        (r#"{"aspect":"a","producer":{"id":"p"}}"#, "sequence"),
        (r#"{"aspect":"a","producer":{"id":"p"},"sequence":0}"#, "sequence"),
        (r#"{"aspect":"a","producer":{"id":"p"},"sequence":-1}"#, "sequence"),
    ] {
        assert_eq!(decode(text).unwrap().usable().unwrap_err().field(), Some(field));
    }
}

/// Behaviour 14: by convention, a large payload is stored elsewhere.
#[test]
fn behaviour_14_a_reference_to_data_is_a_payload_like_any_other() {
    let payload = Payload::of(&serde_json::json!({"url": "https://h/x", "size_bytes": 1})).unwrap();
    let envelope = Envelope::new("public:a.b", "data_ref", Producer::service("s")).with_payload(payload);
    assert!(envelope.to_json().contains(r#""url":"https://h/x""#));
    assert!(!format!("{envelope:?}").contains("https"));
}

mod plainly {
    use super::super::read;
    use super::*;
    use proptest::prelude::*;

    /// The possible texts of each member, right or wrong, in the order of publishers; an empty text if it is missing.
    fn members() -> impl Strategy<Value = Vec<&'static str>> {
        let one = |ways: &[&'static str]| prop::sample::select(ways.to_vec());
        let channel = one(&[
            r#""channel":"public:a.b""#,
            r#""channel":"""#,
            r#""channel":null"#,
            r#""channel": "x""#,
            r#""chann\u0065l":"x""#,
            "",
        ]);
        let sequence = one(&[
            r#""sequence":12"#,
            r#""sequence":-1"#,
            r#""sequence":1.5"#,
            r#""sequence":1e3"#,
            r#""sequence":"2""#,
            r#""sequence":9223372036854775808"#,
        ]);
        let producer = one(&[
            r#""producer":{"id":"p","kind":"user"}"#,
            r#""producer":{"id":"p","kind":"agent"}"#,
            r#""producer":{"id":"p","kind":"service"}"#,
            r#""producer":{"id":"p","kind":"robot"}"#,
            r#""producer":{"id":"p"}"#,
            r#""producer":{"id":"p","kind":"user","id":"r"}"#,
            r#""producer":{"kind":"robot","age":[1],"id":"q"}"#,
            r#""producer":{}"#,
        ]);
        let aspect = one(&[r#""aspect":"said""#, r#""aspect":"\u0073aid""#, r#""aspect":5"#]);
        let schema = one(&[r#""schema_ref":"s:1""#, r#""schema_ref":null"#, r#""channel":"again""#, "", ""]);
        let causation = one(&[
            r#""causation":{"parent_channel":"c","parent_sequence":3}"#,
            r#""causation":{"parent_channel":"c"}"#,
            r#""causation":{"parent_channel":"c","parent_sequence":"3"}"#,
            "",
            "",
        ]);
        let payload = one(&[
            r#""payload":null"#,
            r#""payload":{"sequence":5,"t":"<&>\n","n":9007199254740993}"#,
            r#""payload": [1 , 2]"#,
            r#""payload":tru"#,
            "",
        ]);
        let time = one(&[
            r#""produced_at":"2026-05-27T14:22:09.331Z""#,
            r#""produced_at":"2026-05-31T16:22:09.3319+02:00""#,
            r#""produced_at":"2026-05-27T14:22:6x.331Z""#,
            r#""produced_at":"""#,
            r#""produced_at":"noon""#,
            r#""produced_at":"2026-05-27T14:22:09.331Z","more":[{"channel":"z"}]"#,
            r#""produced_at":"2026-05-27T14:22:09.331Z","sequence":7"#,
        ]);
        (channel, sequence, producer, aspect, schema, causation, payload, time)
            .prop_map(|(a, b, c, d, e, f, g, h)| vec![a, b, c, d, e, f, g, h])
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 4000, ..ProptestConfig::default() })]

        /// If the fast reader accepts a text, the slow reader reads the same.
        #[test]
        fn as_the_long_way(
            members in members(),
            before in prop::sample::select(vec!["", "", " "]),
            after in prop::sample::select(vec!["", "", " ", "x", "}"]),
        ) {
            let members: Vec<_> = members.into_iter().filter(|member| !member.is_empty()).collect();
            let text = ByteString::from(format!("{before}{{{}}}{after}", members.join(",")));
            // The data of an event is a part of its text.
            let whole = ByteString::from(format!("id: é\ndata: {text}\n"));
            let start = "id: é\ndata: ".len();
            if let Some(draft) = Draft::of_part(&whole, start..start + text.len()) {
                let mut wrong = None;
                let long = read(&text, &mut wrong).unwrap();
                prop_assert_eq!(wrong, None);
                prop_assert_eq!(draft.usable(), long.usable());
                prop_assert_eq!((draft.sequence(), draft.producer_id()), (long.sequence(), long.producer().id()));
                prop_assert_eq!((draft.aspect(), draft.payload()), (long.aspect(), long.payload()));
                prop_assert_eq!(draft.into_envelope(), long);
            }
        }
    }

    /// The fast reader accepts what publishers write.
    #[test]
    fn what_is_written_is_read_the_short_way() {
        let whole = || valid().with_schema_ref("s:1").with_causation(Causation::new("public:a.b", 7));
        let mut all = vec![valid(), whole()];
        for name in ["user", "agent", "service", "robot"] {
            let of = || Producer::new("p", ProducerKind::from_name(name));
            all.push(Envelope::new("public:a.b", "data", of()).with_sequence(7).with_produced_at_millis(1));
        }
        for envelope in all {
            let text = ByteString::from(envelope.to_json());
            let draft = Draft::of_part(&text, 0..text.len()).unwrap();
            assert!(!format!("{draft:?}").contains("world"), "{draft:?}");
            assert_eq!(draft.into_envelope(), envelope);
        }
    }
}
