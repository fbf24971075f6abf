//! Messages of auto-configuration streams: the corpus of the fuzz target, and damaged and cut ones.

use std::path::Path;

use proptest::prelude::*;

use crate::autoconfig::message;

const FULL: &str = r#"{"path":"/","data":{"environments":{"e1":{"envID":"e1","envKey":"prod","envName":"Ü","mobKey":"mob-1","projKey":"p","projName":"P","sdkKey":{"value":"sdk-2","expiring":{"value":"sdk-1","timestamp":1700000000000}},"defaultTtl":5,"secureMode":true,"version":12,"sdkKeys":[{"key":"d","value":"sdk-2","hasViews":false},{"key":"a","value":"sdk-3","expiry":5,"hasViews":true}],"mobileKeys":[{"value":"mob-1"}]}},"filters":{"f1":{"projKey":"p","key":"small","version":-3}}}}"#;

#[test]
fn the_fuzz_corpus_holds() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../xtask/fuzz/corpus/autoconfig_message");
    let mut inputs = 0;
    for entry in std::fs::read_dir(corpus).unwrap() {
        message(&std::fs::read(entry.unwrap().path()).unwrap());
        inputs += 1;
    }
    assert!(inputs >= 30, "{inputs} inputs");
}

#[test]
fn cut_anywhere_it_is_refused() {
    use relay_proto::autoconfig::Message;
    for end in 0..FULL.len() {
        let Some(cut) = FULL.get(..end) else { continue };
        assert!(Message::decode("put", cut).is_err(), "{cut}");
    }
    assert!(Message::decode("put", FULL).is_ok());
}

/// If a field comes twice, the last one is used, and an invalid one is an error in either place, in any order of
/// fields.
#[test]
fn fields_that_come_twice_are_read_twice() {
    use relay_proto::autoconfig::Message;
    for (event, path, good, bad) in [
        ("put", "/", r#"{"environments":{}}"#, "5"),
        ("patch", "/environments/a", r#"{"envID":"a"}"#, r#"{"envID":5}"#),
        ("patch", "/filters/a", r#"{"key":"k"}"#, "[]"),
    ] {
        for (data, read) in [([good, good], true), ([good, bad], false), ([bad, good], false)] {
            let path = format!(r#""path":"{path}""#);
            let [one, two] = data.map(|data| format!(r#""data":{data}"#));
            for text in [
                format!("{{{path},{one},{two}}}"),
                format!("{{{one},{path},{two}}}"),
                format!("{{{one},{two},{path}}}"),
            ] {
                assert_eq!(Message::decode(event, &text).is_ok(), read, "{text}");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    /// Some bytes of a message are changed.
    #[test]
    fn damaged_messages_are_read_or_refused(
        name in 0_u8..5,
        damages in proptest::collection::vec((0..FULL.len(), any::<u8>()), 0..4),
    ) {
        let mut input = vec![name];
        input.extend(FULL.bytes());
        for (at, byte) in damages {
            input[1 + at] = byte;
        }
        message(&input);
    }

    #[test]
    fn anything_is_read_or_refused(input in proptest::collection::vec(any::<u8>(), 0..200)) {
        message(&input);
    }
}
