use proptest::prelude::*;

use super::*;

#[test]
fn each_form_is_read_and_written_in_one_way() {
    for (text, written) in [
        ("", ""),
        ("  \t", ""),
        ("a", "a"),
        ("!a", "!a"),
        ("! a ", "!a"),
        ("a=b", "a=b"),
        ("a==b", "a=b"),
        (" a = b ", "a=b"),
        ("a==", "a="),
        ("a=", "a="),
        ("a= , b", "a=,b"),
        ("a!=b", "a!=b"),
        ("a!=", "a!="),
        ("a in (b)", "a=b"),
        ("a in(b)", "a=b"),
        ("a in ( c , b,b )", "a in (b,c)"),
        ("a in (,)", "a="),
        ("a in (b,)", "a in (,b)"),
        ("a in (,b)", "a in (,b)"),
        ("a notin (b)", "a!=b"),
        ("a notin (c,b)", "a notin (b,c)"),
        ("a notin (c,b),a", "a,a notin (b,c)"),
        ("in", "in"),
        ("notin notin (notin,in)", "notin notin (in,notin)"),
        ("in in (in)", "in=in"),
        ("a=in", "a=in"),
        ("!in", "!in"),
        ("b,a", "a,b"),
        ("a,a,a", "a"),
        ("example.com/app_1=V.2-x,a.b/c!=d", "a.b/c!=d,example.com/app_1=V.2-x"),
        // Equivalent selectors are equal.
        ("a in (b,c),a!=c", "a=b"),
        ("a in (b,c),a in (c,d)", "a=c"),
        ("a=b,a", "a=b"),
        ("a,a=b", "a=b"),
        ("a!=b,a!=c", "a notin (b,c)"),
        ("!a,a!=b", "!a"),
        ("a notin (b),!a", "!a"),
        ("a=b,a=c", "a,!a"),
        ("a=b,!a", "a,!a"),
        ("!a,a", "a,!a"),
        ("a=b,a!=b", "a,!a"),
        ("a,!a,a=b", "a,!a"),
    ] {
        let selector = Selector::parse(text).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(selector.to_string(), written, "{text}");
        assert_eq!(Selector::parse(written).unwrap(), selector, "{text}");
        assert_eq!(selector.is_empty(), written.is_empty());
    }
}

#[test]
fn what_is_malformed_is_refused_with_its_place() {
    let long = format!("a={}", "x".repeat(64));
    let far = format!("{},b=-", "a,".repeat(100).trim_end_matches(','));
    for (text, place, why) in [
        ("=b", 1, "\"=\": expected the key"),
        (",a", 1, "expected the key"),
        ("a,", 3, "the end: expected the key"),
        ("a,,b", 3, "\",\": expected the key"),
        ("!", 2, "expected the key"),
        ("!!a", 2, "expected the key"),
        ("!a=b", 3, "expected a comma or the end"),
        ("a b", 3, "\"b\": expected =,"),
        ("a=b c", 5, "\"c\": expected a comma or the end"),
        ("a===b", 4, "\"=\": expected the value"),
        ("a=!b", 3, "expected the value"),
        ("a!b", 2, "\"!\": expected =,"),
        ("a in", 5, "the end: expected \"(\""),
        ("a in b", 6, "\"b\": expected \"(\""),
        ("a in (", 7, "the end: expected a comma or \")\""),
        ("a in ()", 7, "at least one value"),
        ("a in (b", 8, "the end: expected a comma or \")\""),
        ("a in (b c)", 9, "\"c\": expected a comma or \")\""),
        ("a in (b=c)", 8, "\"=\": expected a comma or \")\""),
        ("a in (b) c", 10, "\"c\": expected a comma or the end"),
        ("a IN (b)", 3, "\"IN\": expected =,"),
        ("a notin b", 9, "expected \"(\""),
        ("a>1", 2, "numbers are not compared"),
        ("a<1", 2, "numbers are not compared"),
        ("(a)", 1, "expected the key"),
        ("-a=b", 1, "\"-a\": a label key is"),
        ("/a=b", 1, "the prefix of a label key"),
        ("a/b/c=d", 1, "a label key is"),
        ("A.com/x=y", 1, "the prefix of a label key"),
        ("a=-b", 3, "\"-b\": a label value is"),
        ("ä=1", 1, "a label key is"),
        ("a=b,c=ä ,d", 7, "\"ä\": a label value is"),
        ("a in (ü,b)", 7, "a label value is"),
        ("ok=1,ö", 6, "a label key is"),
        (&long, 3, "a label value is"),
        (&far, 203, "\"-\": a label value is"),
    ] {
        let error = Selector::parse(text).unwrap_err();
        let told = error.to_string();
        assert_eq!((error.parameter(), error.place()), ("label", Some(place)), "{told}");
        assert!(told.contains(why) && told.contains(&format!("at character {place}, ")), "{told}");
        assert!(told.len() < 320, "{told}");
    }
}

/// A condition in the words of the grammar, and as a plain check.
#[derive(Debug, Clone)]
enum Plain {
    In(&'static str, Vec<&'static str>),
    NotIn(&'static str, Vec<&'static str>),
    Present(&'static str),
    Absent(&'static str),
}

impl Plain {
    fn text(&self, spelling: u8) -> String {
        match self {
            Self::In(key, values) if values.len() == 1 && spelling.is_multiple_of(3) => {
                format!("{key}={}", values[0])
            }
            Self::In(key, values) if values.len() == 1 && spelling % 3 == 1 => {
                format!("{key} == {}", values[0])
            }
            Self::In(key, values) => format!("{key} in ({})", values.join(", ")),
            Self::NotIn(key, values) if values.len() == 1 && spelling.is_multiple_of(2) => {
                format!("{key}!={}", values[0])
            }
            Self::NotIn(key, values) => format!("{key} notin({})", values.join(",")),
            Self::Present(key) => (*key).into(),
            Self::Absent(key) => format!("!{key}"),
        }
    }

    fn holds(&self, labels: &BTreeMap<&str, &str>) -> bool {
        match self {
            Self::In(key, values) => labels.get(key).is_some_and(|value| values.contains(value)),
            Self::NotIn(key, values) => labels.get(key).is_none_or(|value| !values.contains(value)),
            Self::Present(key) => labels.contains_key(key),
            Self::Absent(key) => !labels.contains_key(key),
        }
    }
}

fn plain() -> impl Strategy<Value = Plain> {
    let key = || prop::sample::select(vec!["a", "in"]);
    let values = || prop::collection::vec(prop::sample::select(vec!["x", "y", "notin"]), 1..4);
    prop_oneof![
        3 => (key(), values()).prop_map(|(key, values)| Plain::In(key, values)),
        3 => (key(), values()).prop_map(|(key, values)| Plain::NotIn(key, values)),
        1 => key().prop_map(Plain::Present),
        1 => key().prop_map(Plain::Absent),
    ]
}

/// All sets of labels that the conditions above can distinguish.
fn universe() -> Vec<BTreeMap<&'static str, &'static str>> {
    let values = [None, Some("x"), Some("y"), Some("notin"), Some("other")];
    let of = |key, value: Option<&'static str>| value.map(|value| (key, value));
    values.iter().flat_map(|a| values.map(|b| of("a", *a).into_iter().chain(of("in", b)).collect())).collect()
}

fn read(conditions: &[Plain], spelling: u8) -> Selector {
    let texts: Vec<_> =
        conditions.iter().enumerate().map(|(at, c)| c.text(spelling.wrapping_add(at as u8))).collect();
    let (first, second) = texts.split_at(usize::from(spelling) % (texts.len() + 1));
    let parse = |texts: &[String]| Selector::parse(&texts.join(" ,")).unwrap();
    parse(first).and(parse(second))
}

proptest! {
    #[test]
    fn it_holds_when_every_condition_holds(conditions in prop::collection::vec(plain(), 0..5), spelling: u8) {
        let selector = read(&conditions, spelling);
        for labels in universe() {
            let expected = conditions.iter().all(|condition| condition.holds(&labels));
            prop_assert_eq!(selector.matches(|key| labels.get(key).copied()), expected, "{} on {:?}", selector, labels);
        }
        prop_assert_eq!(Selector::parse(&selector.to_string()).unwrap(), selector);
    }

    #[test]
    fn what_asks_the_same_is_equal(
        a in prop::collection::vec(plain(), 0..4), b in prop::collection::vec(plain(), 0..4), spelling: u8,
    ) {
        let (a, b) = (read(&a, spelling), read(&b, spelling.wrapping_mul(31)));
        let seen = |selector: &Selector| -> Vec<bool> {
            universe().iter().map(|labels| selector.matches(|key| labels.get(key).copied())).collect()
        };
        let never = seen(&a).iter().all(|held| !held);
        prop_assert!((a == b) == (seen(&a) == seen(&b)) || never, "{} and {}", a, b);
    }

    #[test]
    fn nothing_panics(text in "[a-c!=(),<> \\tin\u{fc}./-]{0,24}") {
        if let Ok(selector) = Selector::parse(&text) {
            prop_assert_eq!(Selector::parse(&selector.to_string()).unwrap(), selector);
        }
    }
}
