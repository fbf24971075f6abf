use proptest::prelude::*;

use super::*;

fn accepts(text: &str) -> bool {
    let scan = |mut scanner: Scanner<'_>| scanner.skip().and_then(|()| scanner.end());
    Scanner::new(text).and_then(scan).is_ok()
}

fn serde_accepts(text: &str) -> bool {
    serde_json::from_str::<serde_json::Value>(text).is_ok()
}

#[track_caller]
fn agree(text: &str) -> bool {
    let accepted = accepts(text);
    assert_eq!(accepted, serde_accepts(text), "{text:?}");
    accepted
}

#[test]
fn what_is_json() {
    for text in [
        "{}",
        " [ ] ",
        "\"\"",
        "0",
        "-0",
        "-0.0e-0",
        "12.5E+3",
        "1e308",
        "true",
        "false",
        "null",
        "\t\r\n 1 \n",
        r#""\"\\\/\b\f\n\r\t""#,
        r#""\u0000\uFFFF\ud83d\ude00""#,
        "\"ü\u{7f}\u{2028}\u{10ffff}\"",
        r#"{"a":1,"a":[{}, [] ,"x"]}"#,
        "123456789012345678901234567890",
        "1e-999",
    ] {
        assert!(agree(text), "{text}");
    }
}

#[test]
fn what_is_not_json() {
    for text in [
        "",
        " ",
        "{",
        "[",
        "]",
        "{]",
        "[}",
        "[1,]",
        "[,1]",
        "{\"a\":1,}",
        "{\"a\"}",
        "{\"a\":}",
        "{a:1}",
        "{1:1}",
        "[1 2]",
        "1 2",
        "nul",
        "nulll",
        "True",
        "tru",
        "01",
        "-",
        "+1",
        "1.",
        ".5",
        "1e",
        "1e+",
        "0x1",
        "1e999",
        "-1e999",
        "\"",
        "\"\\\"",
        "\"\\x\"",
        "\"\\",
        "\"\\u12\"",
        "\"\\u+123\"",
        "\"\\u123ü\"",
        "\"\\ü\"",
        "\"\n\"",
        "\"\u{1f}\"",
        "\"12345678\u{0}\"",
        r#""\ud83d""#,
        r#""\ude00""#,
        r#""\ud83d\ud83d""#,
        r#""\ud83dxx""#,
        r#""\ud83d\n""#,
        "\u{feff}1",
        "\u{a0}1",
        "/**/1",
        "'a'",
        "NaN",
        "Infinity",
        "{}x",
        "\"\\ud83d\\u\"",
    ] {
        assert!(!agree(text), "{text}");
    }
    assert!(!agree(&format!("1{}", "0".repeat(400))), "too large for an f64");
    assert!(agree(&format!("1{}", "0".repeat(300))));
}

/// Counts of every length, in front of anything, and at the end of the text.
#[test]
fn counts_are_read_to_their_end() {
    for (digits, count) in [
        ("0", Some(0)),
        ("7", Some(7)),
        ("42", Some(42)),
        ("1234567", Some(1_234_567)),
        ("9999999", Some(9_999_999)),
        ("12345678", Some(12_345_678)),
        ("9223372036854775807", Some(i64::MAX as u64)),
        ("9999999999999999999", Some(9_999_999_999_999_999_999)),
        ("10000000000000000000", None),
        ("", None),
        ("-1", None),
        ("x1", None),
    ] {
        for rest in ["", ",", "}", ":", "/", ",\"producer\"", "\u{ff}\u{ff}\u{ff}\u{ff}", "x90000000"] {
            let text = format!("{digits}{rest}");
            let mut scanner = Scanner::new(&text).unwrap();
            assert_eq!(scanner.count().ok(), count, "{text}");
            assert!(count.is_none() || scanner.at() == digits.len(), "{text}");
        }
    }
}

#[test]
fn depth_is_bounded_as_in_serde() {
    for (open, close) in [("[", "]"), ("{\"a\":", "}"), ("[{\"a\":", "}]")] {
        for levels in [1, 60, 63, 64, 126, 127, 128, 129, 20_000] {
            agree(&format!("{}1{}", open.repeat(levels), close.repeat(levels)));
            agree(&format!("{}{}", open.repeat(levels), close.repeat(levels)));
        }
    }
    assert!(agree(&format!("{}{}", "[".repeat(127), "]".repeat(127))));
    assert!(!agree(&format!("{}{}", "[".repeat(128), "]".repeat(128))));
    let wide = "[[],".repeat(100) + "[]" + &"]".repeat(100);
    assert!(agree(&wide), "siblings are not levels");
}

#[test]
fn a_plain_run_ends_at_the_first_byte_that_is_not_plain() {
    for length in (0..40).chain([64, 71, 100]) {
        for at in 0..=length {
            for byte in 0..=255 {
                let mut text = vec![b'!'; length];
                // Bytes that borrow from their neighbour in the arithmetic must not be mistaken for the end.
                text.iter_mut().step_by(3).for_each(|b| *b = 0x80);
                text.iter_mut().skip(1).step_by(3).for_each(|b| *b = b'#');
                let plain = !matches!(byte, b'"' | b'\\' | 0..=0x1f);
                if let Some(b) = text.get_mut(at) {
                    *b = byte;
                }
                let end = if plain || at == length { length } else { at };
                for start in [0, at.min(3)] {
                    let found = (plain_end(&text, start), far_plain_end(&text, start));
                    assert_eq!(found, (end, end), "{byte:#x} at {at} of {length} from {start}");
                }
            }
        }
    }
    assert_eq!((plain_end(b"abc", 7), far_plain_end(b"abc", 7)), (3, 3), "beyond the end");
}

/// Pieces that are valid JSON more often than random characters are.
fn pieces() -> impl Strategy<Value = String> {
    let piece = prop::sample::select(vec![
        "{", "}", "[", "]", ",", ":", "\"", "\"a\"", "\"a\":", "{\"k\":", "\\", "\\n", "\\u", "\\ud83d",
        "\\ude00", "00e9", "0", "1", "-", ".", "e", "E+", "12", "true", "false", "null", "nul", " ", "\n",
        "\u{1}", "ü", "😀", "12345678",
    ]);
    prop::collection::vec(piece, 0..14).prop_map(|pieces| pieces.concat())
}

fn value() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        "-?(0|[1-9][0-9]{0,20})(\\.[0-9]{1,3})?([eE][+-]?[0-9]{1,3})?",
        any::<String>().prop_map(|text| serde_json::to_string(&text).unwrap()),
        prop::sample::select(vec!["null", "true", "false", r#""\u00e9\ud83d\ude00""#, r#""\/""#])
            .prop_map(Into::into),
    ];
    leaf.prop_recursive(4, 40, 5, |inner| {
        let space = || prop::sample::select(vec!["", "", " ", "\n\t"]);
        let list = (prop::collection::vec(inner.clone(), 0..5), space());
        let object = (prop::collection::vec(("[a-z\"\\\\]{0,9}", inner), 0..5), space());
        prop_oneof![
            list.prop_map(|(items, space)| format!(
                "[{space}{}{space}]",
                items.join(&format!("{space},{space}"))
            )),
            object.prop_map(|(members, space)| {
                let members: Vec<String> = members
                    .iter()
                    .map(|(key, value)| {
                        format!("{}{space}:{space}{value}", serde_json::to_string(key).unwrap())
                    })
                    .collect();
                format!("{{{space}{}{space}}}", members.join(","))
            }),
        ]
    })
}

/// Replaces, removes or inserts one character.
pub(crate) fn mutate(text: &str, at: prop::sample::Index, how: u8, with: char) -> String {
    let mut chars: Vec<char> = text.chars().collect();
    let at = at.index(chars.len() + 1);
    match how % 3 {
        0 if at < chars.len() => chars[at] = with,
        1 if at < chars.len() => drop(chars.remove(at)),
        _ => chars.insert(at, with),
    }
    chars.into_iter().collect()
}

pub(crate) fn character() -> impl Strategy<Value = char> {
    prop_oneof![4 => prop::sample::select("{}[],:\"\\ \n0123456789-+.eEtnu\u{1}".chars().collect::<Vec<_>>()), 1 => any::<char>()]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_text_is_judged_as_by_serde(text in prop_oneof![pieces(), any::<String>()]) {
        agree(&text);
    }

    #[test]
    fn json_is_accepted_and_near_json_is_judged_as_by_serde(
        text in value(), at in any::<prop::sample::Index>(), how in any::<u8>(), with in character(),
    ) {
        agree(&text);
        agree(&mutate(&text, at, how, with));
        prop_assume!(text.len() < 200);
        for (end, _) in text.char_indices() {
            agree(&text[..end]);
        }
    }
}
