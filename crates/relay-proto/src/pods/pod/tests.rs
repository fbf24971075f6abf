use proptest::prelude::*;

use super::*;
use crate::error::chain;
use crate::json::tests::{character, mutate};
use crate::pods::event::Parts;
use crate::pods::{EventPage, ListDecoder, ListFormat, ListLimits, PodBuilder, PodEvent};

const WHOLE: &str = r#"{"namespace":"prod","name":"web-1","uid":"u-1","resource_version":"8","labels":{"app":"web","run":"d-1"},"annotations":{"note":"a \"b\""},"phase":"Running","ready":true,"node_name":"n1","pod_ip":"10.1.0.1","host_ip":"10.0.0.1","created_at":"2026-11-21T09:00:00Z","started_at":"2026-11-21T09:00:01Z","deleted_at":"2026-11-21T09:00:02Z","reason":"Evicted","message":"line\nü","owner":{"kind":"ReplicaSet","name":"web"},"containers":[{"name":"app","image":"i:1","ready":true,"restart_count":2,"state":"running","reason":"x","exit_code":-1},{"name":"side","image":null,"ready":false,"restart_count":0,"state":null,"reason":null,"exit_code":null,"kind":"init","signal":9,"last_reason":"OOMKilled","last_exit_code":7,"last_finished_at":"2026-11-21T08:00:00Z"}],"printed":{"status":"Odd","ready":1,"containers":2,"restarts":3,"last_restart":"2026-11-21T08:30:00Z"}}"#;

/// The slow reader, which decides what is right.
fn serde_pod(text: &str) -> Result<Pod, serde_json::Error> {
    serde_json::from_str(text)
}

/// Everything that can be read of a pod.
fn told(pod: &Pod) -> String {
    let labels: Vec<_> = pod.labels().map(|(key, value)| (key, value, pod.label(key))).collect();
    let annotations: Vec<_> =
        pod.annotations().map(|(key, value)| (key, value, pod.annotation(key))).collect();
    assert_eq!(labels.len(), pod.labels().len());
    format!(
        "{:?}",
        (
            (pod.key(), pod.uid(), pod.resource_version(), labels, annotations, pod.phase(), pod.ready()),
            (
                pod.node_name(),
                pod.pod_ip(),
                pod.host_ip(),
                pod.created_at(),
                pod.started_at(),
                pod.deleted_at()
            ),
            (pod.reason(), pod.message(), pod.owner(), pod.containers(), pod.printed()),
        )
    )
}

/// Reads a text with both readers and compares the results. Returns whether the fast one accepted the text.
#[track_caller]
fn agree(text: &str) -> bool {
    let (fast, slow) = (Pod::scan_whole(text), serde_pod(text));
    match (&fast, slow) {
        (Ok(fast), Ok(slow)) => {
            assert_eq!(*fast, slow, "{text}");
            assert_eq!(serde_json::to_string(fast).unwrap(), serde_json::to_string(&slow).unwrap());
            assert_eq!(told(fast), told(&slow), "{text}");
            assert_eq!(fast.to_json(), slow.to_json());
        }
        (Ok(fast), Err(error)) => panic!("{fast:?} is none: {error}: {text}"),
        (Err(Unusual), _) => {}
    }
    let error = |result: Result<Pod, String>| result.err();
    assert_eq!(
        error(Pod::from_json(text).map_err(|e| chain(&e).to_string())),
        error(serde_pod(text).map_err(|e| format!("not a pod: {}", JsonError::from(e)))),
    );
    fast.is_ok()
}

#[test]
fn what_a_relay_writes_is_read_without_serde() {
    for text in [
        WHOLE,
        r#"{"namespace":"a","name":"b"}"#,
        " { \"name\" : \"b\" ,\n \"namespace\" : \"a\" } ",
        r#"{"namespace":"a","name":"b","labels":{"z":"1","a":"2","z":"3"}}"#,
        r#"{"namespace":"a","name":"b","labels":{"a\"":"\u00fc","a":""}}"#,
        r#"{"namespace":"a","name":"b","labels":{ "a" : "b" , "b":"c"}}"#,
        r#"{"namespace":"\u0061","name":"b\u0000","uid":"\ud83d\ude00","phase":"","message":"\\\"7:x"}"#,
        r#"{"namespace":"a","name":"b","labels":null,"annotations":null,"owner":null,"containers":null,"ready":null,"uid":null}"#,
        r#"{"namespace":"a","name":"b","annotations":{"y":"1","x":"\n","y":"2"},"containers":[{},{"name":"c","more":[1]}]}"#,
        r#"{"namespace":"a","name":"b","new":{"labels":{"x":[1e5,true,null]}},"owner":{"name":"x","uid":1,"kind":"y"}}"#,
    ] {
        assert!(agree(text), "{text}");
        assert!(agree(&text.replace(':', ": ").replace(',', " ,\n")), "{text}");
    }
}

/// A relay's own output is read by comparison. Slower readers would also read it, so only a test notices if this path
/// is not used.
#[test]
fn what_a_relay_writes_is_canonical() {
    let pods = [Pod::from_json(WHOLE).unwrap(), PodBuilder::new("a", "b").build()];
    for pod in &pods {
        let json = serde_json::to_string(pod).unwrap();
        assert!(Layout::canonical(&mut Scanner::new(&json).unwrap()).is_ok(), "{json}");
        for head in [
            r#""type":"ADDED","previous_hash":"h0","hash":"h1","sequence":1,"timestamp":"t","synthetic":true"#,
            r#""type":"MODIFIED","previous_hash":"h0","hash":"h1","sequence":10,"timestamp":"t""#,
            "\"sent\":3,\"type\":\"DELETED\",\"left_filter\":true,\n\"hash\":\"h1\",\"sequence\":0,\"timestamp\":\"t\"",
            "\"sent\":3,\"type\":\"ADDED\",\"entered_filter\":true,\n\"hash\":\"h1\",\"sequence\":0,\"timestamp\":\"t\"",
        ] {
            let event = format!("{{{head},\"pod\":{json}}}");
            assert!(Parts::canonical(&mut Scanner::new(&event).unwrap()).is_ok(), "{event}");
            assert!(agree_on_event(&event));
            for cut in 0..event.len() {
                assert!(!agree_on_event(event.get(..cut).unwrap_or("")), "{cut}");
            }
        }
    }
}

#[test]
fn what_is_unusual_is_left_to_serde() {
    let pod = |more: &str| format!(r#"{{"namespace":"a","name":"b",{more}}}"#);
    for more in [
        r#""resourceVersion":"1""#,
        r#""podIP":"1""#,
        r#""metadata":null"#,
        r#""uid":"x","uid":"x""#,
        r#""uid":1"#,
        r#""ready":1"#,
        r#""labels":{"a":null}"#,
        r#""labels":["a"]"#,
        r#""labels":{"a":1}"#,
        r#""owner":{"kind":"x"}"#,
        r#""owner":["x","y"]"#,
        r#""owner":{"kind":"x","name":"y","kind":"z"}"#,
        r#""containers":{}"#,
        r#""containers":[["app"]]"#,
        r#""containers":[null]"#,
        r#""containers":[{"name":null}]"#,
        r#""containers":[{"ready":null}]"#,
        r#""containers":[{"restart_count":-1}]"#,
        r#""containers":[{"restart_count":4294967296}]"#,
        r#""containers":[{"restart_count":1.0}]"#,
        r#""containers":[{"exit_code":-0}]"#,
        r#""containers":[{"exit_code":1e1}]"#,
        r#""containers":[{"exit_code":2147483648}]"#,
        r#""containers":[{"restartCount":1}]"#,
        r#""containers":[{"lastReason":"x"}]"#,
        r#""containers":[{"lastFinishedAt":"x"}]"#,
        r#""containers":[{"last_finished_at":1}]"#,
        r#""printed":{"last_restart":1}"#,
        r#""containers":[{"kind":null}]"#,
        r#""containers":[{"signal":1.0}]"#,
        r#""printed":{"ready":-1}"#,
        r#""printed":{"status":null}"#,
        r#""printed":[]"#,
        r#""containers":[{"name":"a","name":"a"}]"#,
        r#""uid":"\ud83d""#,
        r#""na\u006de":"c""#,
        r#""end":true"#,
        r#""x":01"#,
    ] {
        assert!(!agree(&pod(more)), "{more}");
    }
    assert!(!agree(&pod(&format!(r#""unknown":"{}""#, "x".repeat(2000)))), "what is not needed is not kept");
    let kept = Pod::from_json(&pod(&format!(r#""unknown":"{}""#, "x".repeat(2000)))).unwrap();
    assert!(kept.0.text.json().len() < 400);
    for text in [
        "",
        "[]",
        "{}",
        "{\"namespace\":\"a\"}",
        r#"{"namespace":"","name":"b"}"#,
        "{\"namespace\":\"a\",\"name\":\"b\"}x",
    ] {
        assert!(!agree(text), "{text}");
    }
    agree(&pod(r#""containers":[{"exit_code":-2147483648,"restart_count":4294967295}]"#));
}

#[test]
fn pods_are_equal_by_what_they_say() {
    let pod = Pod::from_json(WHOLE).unwrap();
    let spaced = Pod::from_json(&WHOLE.replace("\":", "\" : ")).unwrap();
    let unsorted =
        Pod::from_json(&WHOLE.replace(r#""app":"web","run":"d-1""#, r#""run":"d-1","app":"web""#)).unwrap();
    let built = pod.to_builder().build();
    for other in [&spaced, &unsorted, &built] {
        assert_eq!(pod, *other);
        assert_ne!(pod.0.text.json(), WHOLE.replace(' ', ""), "written differently");
    }
    for changed in [
        ("\"prod\"", "\"dev\""),
        ("web-1", "web-2"),
        ("u-1", "u-2"),
        ("\"8\"", "null"),
        ("\"app\":", "\"apt\":"),
        ("d-1", "d-2"),
        ("note", "no"),
        ("a \\\"b\\\"", "c"),
        ("Running", "Failed"),
        ("n1", "n2"),
        ("10.1.0.1", ""),
        ("10.0.0.1", "x"),
        ("09:00:00Z", "09:00:09Z"),
        ("09:00:01Z", "09:00:09Z"),
        ("09:00:02Z", "09:00:09Z"),
        ("Evicted", "evicted"),
        ("line", "lime"),
        ("ReplicaSet", "Job"),
        ("i:1", "i:2"),
        ("side", "slide"),
        ("\"kind\":\"init\"", "\"kind\":\"sidecar\""),
        ("\"signal\":9", "\"signal\":15"),
        ("OOMKilled", "Error"),
        ("\"last_exit_code\":7", "\"last_exit_code\":8"),
        ("08:00:00Z", "08:00:09Z"),
        ("08:30:00Z", "08:30:09Z"),
        ("\"status\":\"Odd\"", "\"status\":\"Even\""),
        ("\"exit_code\":-1", "\"exit_code\":1"),
    ] {
        let text = WHOLE.replacen(changed.0, changed.1, 1);
        assert_ne!(text, WHOLE, "{changed:?}");
        assert_ne!(Pod::from_json(&text).unwrap(), pod, "{changed:?}");
    }
    let ready = |ready: bool| pod.to_builder().deleted_at(None).ready(ready).build();
    assert_ne!(ready(true), ready(false));
}

#[test]
fn labels_are_the_same_however_they_are_written() {
    let pod = |labels: &str| {
        Pod::from_json(&format!(r#"{{"namespace":"a","name":"b","labels":{labels}}}"#)).unwrap()
    };
    let same = [
        "{\"a\":\"1\",\"b\":\"2\"}",
        "{ \"a\":\"1\",\"b\" : \"2\"}",
        "{\"b\":\"2\",\"a\":\"1\"}",
        r#"{"\u0061":"1","b":"2"}"#,
    ];
    for (a, b) in same.iter().flat_map(|a| same.map(|b| (a, b))) {
        assert!(pod(a).same_labels(&pod(b)), "{a} {b}");
    }
    let none = ["{}", "null", "{ }"];
    for (a, b) in none.iter().flat_map(|a| none.map(|b| (a, b))) {
        assert!(pod(a).same_labels(&pod(b)), "{a} {b}");
    }
    for other in [
        r#"{"a":"1"}"#,
        r#"{"a":"1","b":"3"}"#,
        r#"{"b":"2","a":"3"}"#,
        r#"{"b":"2","a":"1","c":"4"}"#,
        "{}",
        "null",
        r#"{"a":"2","b":"1"}"#,
    ] {
        for labels in same {
            assert!(
                !pod(labels).same_labels(&pod(other)) && !pod(other).same_labels(&pod(labels)),
                "{other}"
            );
        }
    }
    assert!(!pod(r#"{"b":"1","a":"1"}"#).same_labels(&pod(r#"{"b":"1","a":"2"}"#)), "both behind the text");
}

#[test]
fn comparing_writing_and_building_keep_nothing() {
    let (pod, other) = (Pod::from_json(WHOLE).unwrap(), serde_pod(&WHOLE.replace("i:1", "i:2")).unwrap());
    assert!(pod != other && serde_json::to_string(&pod).unwrap().len() > 100);
    assert_eq!(pod.to_builder().build(), pod);
    assert!(pod.0.details.get().is_none() && other.0.details.get().is_none());
    assert_eq!(pod.containers()[0].exit_code, Some(-1));
    assert!(pod.0.details.get().is_some());
    assert_eq!(pod.to_builder().build(), pod, "the same when they are kept");
}

#[test]
fn a_builder_writes_what_is_read() {
    let odd = "q\"\\\n\0ü😀7:";
    let pod = PodBuilder::new("a\"", odd)
        .uid(Some(odd))
        .labels([(odd, odd), ("a", ""), ("", "b")])
        .annotations([(odd, odd)])
        .created_at(Some(Timestamp::new(odd)))
        .owner(Some(Owner { kind: odd.into(), name: String::new() }))
        .containers(vec![Container {
            name: odd.into(),
            restart_count: u32::MAX,
            exit_code: Some(i32::MIN),
            ..Container::default()
        }])
        .build();
    assert_eq!(
        (pod.label(odd), pod.label("a"), pod.label(""), pod.label("b")),
        (Some(odd), Some(""), Some("b"), None)
    );
    assert_eq!(pod.labels().collect::<Vec<_>>(), [("", "b"), ("a", ""), (odd, odd)]);
    assert_eq!(
        (pod.uid(), pod.annotation(odd), pod.containers()[0].name.as_str()),
        (Some(odd), Some(odd), odd)
    );
    assert_eq!(pod.created_at().unwrap().as_str(), odd);
    let Cow::Borrowed(json) = pod.to_json() else { panic!("written again") };
    assert_eq!(json, serde_json::to_string(&pod).unwrap());
    assert_eq!(Pod::from_json(json).unwrap(), pod);
    assert_eq!(serde_pod(json).unwrap(), pod);
    let empty = PodBuilder::new("", "").build();
    assert_eq!((empty.namespace(), empty.name(), empty.labels().len()), ("", "", 0));
}

#[test]
fn debug_shows_no_payload() {
    let pod = Pod::from_json(WHOLE).unwrap();
    assert_eq!(format!("{pod:?}"), "Pod(prod/web-1 \"8\")");
    assert_eq!(format!("{:?}", pod.to_builder()), "PodBuilder(prod/web-1)");
}

/// A JSON text, mostly one that is valid for a pod.
fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        6 => "[a-z0-9.:-]{0,12}".prop_map(|text| format!("\"{text}\"")),
        3 => any::<String>().prop_map(|text| serde_json::to_string(&text).unwrap()),
        2 => Just("null".to_owned()),
        1 => prop::sample::select(vec!["1", "-0", "1.5", "true", "[]", "{}", r#""\ud800""#, r#""\/\u0041""#, "1e999"]).prop_map(Into::into),
    ]
}

fn object(
    keys: Vec<&'static str>,
    value: impl Strategy<Value = String> + 'static,
) -> impl Strategy<Value = String> {
    let separator = prop::sample::select(vec![",", ",", " ,\n"]);
    (prop::collection::vec((prop::sample::select(keys), value), 0..5), separator).prop_map(
        |(members, separator)| {
            let members: Vec<String> =
                members.into_iter().map(|(key, value)| format!("\"{key}\":{value}")).collect();
            format!("{{{}}}", members.join(separator))
        },
    )
}

/// A pod in which most fields are valid, in any order.
fn pod() -> impl Strategy<Value = String> {
    let texts = vec![
        "uid",
        "resource_version",
        "phase",
        "node_name",
        "pod_ip",
        "host_ip",
        "created_at",
        "started_at",
        "deleted_at",
        "reason",
        "message",
        "new",
        "resourceVersion",
        "podIp",
    ];
    let map = || object(vec!["a", "b", "app", "run", "\\u0061", "ü"], text());
    let container = object(
        vec![
            "name",
            "image",
            "state",
            "reason",
            "ready",
            "restart_count",
            "exit_code",
            "more",
            "kind",
            "signal",
            "last_reason",
            "last_exit_code",
        ],
        prop_oneof![2 => text(), 1 => prop::sample::select(vec!["0", "7", "-1", "true", "false"]).prop_map(String::from)],
    );
    let field = prop_oneof![
        12 => (prop::sample::select(texts), text()).prop_map(|(key, value)| format!("\"{key}\":{value}")),
        3 => map().prop_map(|map| format!("\"labels\":{map}")),
        2 => map().prop_map(|map| format!("\"annotations\":{map}")),
        2 => any::<bool>().prop_map(|ready| format!("\"ready\":{ready}")),
        1 => object(vec!["kind", "name", "uid"], text()).prop_map(|owner| format!("\"owner\":{owner}")),
        2 => prop::collection::vec(container, 0..3).prop_map(|all| format!("\"containers\":[{}]", all.join(","))),
        1 => object(vec!["status", "ready", "containers", "restarts"], prop_oneof![1 => text(), 3 => Just("4".to_owned())])
            .prop_map(|printed| format!("\"printed\":{printed}")),
        1 => Just("\"metadata\":{\"namespace\":\"k\",\"name\":\"k\"}".to_owned()),
    ];
    (prop::collection::vec(field, 0..7), any::<prop::sample::Index>()).prop_map(|(mut fields, at)| {
        fields.insert(at.index(fields.len() + 1), "\"name\":\"n\"".into());
        fields.insert(at.index(fields.len() + 1), "\"namespace\":\"s\"".into());
        format!("{{{}}}", fields.join(","))
    })
}

fn event() -> impl Strategy<Value = String> {
    let number = || {
        prop::sample::select(vec![
            "0",
            "17",
            "18446744073709551615",
            "18446744073709551616",
            "1.0",
            "-1",
            "null",
            "\"1\"",
        ])
        .prop_map(String::from)
    };
    let word = |words: Vec<&'static str>| prop::sample::select(words).prop_map(String::from);
    let field = prop_oneof![
        4 => prop_oneof![3 => word(vec!["\"ADDED\"", "\"updated\"", "\"deleted\"", "\"NEW\"", "\"\\u0041\""]), 1 => text()].prop_map(|v| ("type", v)),
        3 => prop_oneof![2 => word(vec!["\"h1\"", "\"h 2\""]), 1 => text()].prop_map(|v| ("hash", v)),
        3 => prop_oneof![2 => word(vec!["\"h1\"", "\"h0\""]), 1 => text()].prop_map(|v| ("previous_hash", v)),
        1 => number().prop_map(|v| ("sent", v)),
        2 => number().prop_map(|v| ("sequence", v)),
        2 => text().prop_map(|v| ("timestamp", v)),
        1 => word(vec!["true", "false", "null", "1"]).prop_map(|v| ("synthetic", v)),
        1 => word(vec!["true", "false", "null", "1"]).prop_map(|v| ("left_filter", v)),
        1 => text().prop_map(|v| ("leftFilter", v)),
        1 => word(vec!["true", "false", "null", "1"]).prop_map(|v| ("entered_filter", v)),
        1 => text().prop_map(|v| ("enteredFilter", v)),
        1 => text().prop_map(|v| ("new", v)),
    ];
    (prop::collection::vec(field, 1..6), pod(), any::<prop::sample::Index>()).prop_map(
        |(mut fields, pod, at)| {
            fields.insert(at.index(fields.len() + 1), ("pod", pod));
            let fields: Vec<String> =
                fields.into_iter().map(|(key, value)| format!("\"{key}\":{value}")).collect();
            format!("{{{}}}", fields.join(","))
        },
    )
}

fn agree_on_event(text: &str) -> bool {
    let scan = |mut scanner: Scanner<'_>| {
        PodEvent::scan(&mut scanner, "id").and_then(|event| scanner.end().map(|()| event))
    };
    let (fast, slow) = (Scanner::new(text).and_then(scan), PodEvent::decode_tolerantly("id", text));
    match (&fast, &slow) {
        (Ok(fast), Ok(slow)) => {
            assert_eq!(fast, slow, "{text}");
            assert_eq!(told(&fast.pod), told(&slow.pod), "{text}");
        }
        (Ok(_), Err(error)) => panic!("{error}: {text}"),
        (Err(Unusual), _) => {}
    }
    let whole = PodEvent::decode("id", text);
    assert_eq!(
        whole.map_err(|e| chain(&e).to_string()),
        slow.map_err(|e| JsonError::from(e).to_string()),
        "{text}"
    );
    fast.is_ok()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_pod_is_read_as_by_serde(text in pod(), at in any::<prop::sample::Index>(), how in any::<u8>(), with in character()) {
        agree(&text);
        agree(&mutate(&text, at, how, with));
    }

    #[test]
    fn a_whole_pod_with_one_character_changed_is_read_as_by_serde(
        at in any::<prop::sample::Index>(), how in any::<u8>(), with in character(),
    ) {
        agree(&mutate(WHOLE, at, how, with));
    }

    #[test]
    fn a_whole_event_with_one_character_changed_is_read_as_by_serde(
        filtered in any::<bool>(),
        at in any::<prop::sample::Index>(),
        how in any::<u8>(),
        with in character(),
    ) {
        let head = if filtered { "\"sent\":3,\"type\":\"DELETED\",\"left_filter\":true,\n" } else { "\"type\":\"ADDED\",\"previous_hash\":\"h0\"," };
        let pod = r#"{"namespace":"a","name":"b","labels":{"app":"web"}}"#;
        let event = format!("{{{head}\"hash\":\"h1\",\"sequence\":17,\"timestamp\":\"t\",\"synthetic\":true,\"pod\":{pod}}}");
        agree_on_event(&mutate(&event, at, how, with));
    }

    #[test]
    fn any_event_is_read_as_by_serde(text in event(), at in any::<prop::sample::Index>(), how in any::<u8>(), with in character()) {
        agree_on_event(&text);
        agree_on_event(&mutate(&text, at, how, with));
    }

    #[test]
    fn any_list_or_page_is_read_as_by_serde(
        pods in prop::collection::vec(pod(), 0..3), events in prop::collection::vec(event(), 0..2), shape in 0_usize..6,
        at in any::<prop::sample::Index>(), how in any::<u8>(), with in character(),
    ) {
        let heads = ["", "\"hash\":\"h\",\"sequence\":7,", "\"epoch\":\"e\",\"as_of\":\"x\",\"new\":1,", "\"asOf\":null,\"hash\":null,", "\"sequence\":-1,", "\"hash\":\"a b\","];
        let list = format!("{{{}\"pods\":[{}]}}", heads[shape], pods.join(","));
        for text in [&list, &mutate(&list, at, how, with), &format!("[{}]", pods.join(" , "))] {
            let decoder = || {
                let mut decoder = ListDecoder::new(ListFormat::Json, ListLimits::default());
                decoder.feed(text.as_bytes()).unwrap();
                decoder
            };
            let slow = decoder().decode_tolerantly().map_err(|e| chain(&e).to_string());
            prop_assert_eq!(decoder().finish().map_err(|e| chain(&e).to_string()), slow);
        }
        let page = format!("{{\"events\":[{}],\"next_hash\":\"n\"}}", events.join(","));
        for text in [&page, &mutate(&page, at, how, with), &format!("[{}]", events.join(","))] {
            let slow = EventPage::decode_tolerantly(text.as_bytes()).map_err(|e| chain(&e).to_string());
            prop_assert_eq!(EventPage::from_json(text.as_bytes()).map_err(|e| chain(&e).to_string()), slow);
        }
    }
}

/// The properties above show nothing if the fast reader accepts nothing.
#[test]
fn what_is_random_is_often_read_without_serde() {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;
    let mut runner = TestRunner::deterministic();
    let mut fast = (0, 0);
    for _ in 0..1000 {
        fast.0 += u32::from(agree(&pod().new_tree(&mut runner).unwrap().current()));
        fast.1 += u32::from(agree_on_event(&event().new_tree(&mut runner).unwrap().current()));
    }
    assert!(fast.0 > 200 && fast.1 > 30, "{fast:?}");
}
