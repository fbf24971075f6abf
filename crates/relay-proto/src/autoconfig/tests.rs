use super::*;

fn environment(data: &str) -> Result<EnvironmentRep<'static>, DecodeError> {
    let text = format!(r#"{{"path":"/environments/e","data":{data}}}"#);
    match Message::decode("patch", &text)? {
        Message::Patch(patch) => Ok(patch.environment.expect("its path is one").into_owned()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn fields_are_found_in_any_case_and_order_and_the_last_counts() {
    let full = environment(
        r#"{"version":7,"SECUREMODE":true,"defaultttl":5,"sdkKey":{"expiring":{"timestamp":9,"value":"old"},"Value":"sdk"},
            "projname":"P","projKey":"p","envname":"E","env\u004bey":"k","envId":"e","MOBKEY":"mob","unknown":[[{"version":1.5}]],
            "sdkKeys":[{"key":"a","value":"sdk","hasViews":false},{"Expiry":5,"VALUE":"b","hasviews":true},null],
            "mobileKeys":null}"#,
    )
    .unwrap();
    assert_eq!((full.version, full.secure_mode, full.default_ttl), (7, true, 5));
    let names = [&full.env_id, &full.env_key, &full.env_name, &full.proj_key, &full.proj_name];
    assert_eq!(names.map(|name| name.as_ref()), ["e", "k", "E", "p", "P"]);
    assert_eq!((full.sdk_key.value.reveal(), full.mob_key.reveal()), ("sdk", "mob"));
    assert_eq!((full.sdk_key.expiring.value.reveal(), full.sdk_key.expiring.timestamp), ("old", 9));
    assert_eq!(full.sdk_keys.len(), 3);
    let second = &full.sdk_keys[1];
    assert_eq!(
        (second.name.as_ref(), second.value.reveal(), second.expiry, second.has_views),
        ("", "b", Some(5), true)
    );

    let twice = environment(r#"{"envID":"a","version":1,"ENVID":"b","version":2,"sdkKey":{"value":"x","expiring":{"value":"y"}},"sdkkey":{"value":"z"}}"#).unwrap();
    assert_eq!((twice.env_id.as_ref(), twice.version), ("b", 2));
    assert_eq!((twice.sdk_key.value.reveal(), twice.sdk_key.expiring.value.is_empty()), ("z", true));
    assert_eq!(environment(r#"{"version":3,"version":null}"#).unwrap().version, 0);
}

#[test]
fn null_and_missing_are_nothing() {
    let nulls = r#"{"envID":null,"envKey":null,"envName":null,"projKey":null,"projName":null,"mobKey":null,"sdkKey":null,
        "defaultTtl":null,"secureMode":null,"version":null,"sdkKeys":null,"mobileKeys":null}"#;
    for data in [
        "null",
        "{}",
        nulls,
        r#"{"sdkKey":{"value":null,"expiring":null}}"#,
        r#"{"sdkKey":{"expiring":{"value":null,"timestamp":null}}}"#,
    ] {
        assert_eq!(environment(data), Ok(EnvironmentRep::default()), "{data}");
    }
    for (event, data) in [
        ("put", "null"),
        ("patch", "null"),
        ("delete", "null"),
        ("put", "{}"),
        ("patch", "{}"),
        ("delete", "{}"),
    ] {
        let message = Message::decode(event, data).unwrap();
        let path = match message {
            Message::Put(put) => put.path,
            Message::Patch(patch) => patch.path,
            Message::Delete(delete) => delete.path,
            other => panic!("{other:?}"),
        };
        assert_eq!(path, Path::Other, "{event} {data}");
    }
    let Ok(Message::Put(put)) = Message::decode("put", r#"{"path":"/"}"#) else { panic!() };
    assert_eq!((put.path, put.content), (Path::All, PutContent::default()));
}

#[test]
fn a_wrong_type_is_an_error_that_names_field_place_and_rule_and_never_the_value() {
    let number = "it must be a whole number of 64 bits, written without fraction and exponent";
    for (event, data, place, rule) in [
        ("put", r#"{"path":999,"data":{}}"#, "path", "it must be a string"),
        ("put", r#"{"path":"/","data":999}"#, "data", "it must be an object"),
        ("put", r#"{"path":"/","data":{"environments":[]}}"#, "data.environments", "it must be an object"),
        (
            "put",
            r#"{"path":"/","data":{"environments":{"e":999}}}"#,
            "data.environments.e",
            "it must be an object",
        ),
        ("put", r#"{"path":"/","data":{"filters":{"f":999}}}"#, "data.filters.f", "it must be an object"),
        (
            "put",
            r#"{"data":{"filters":{"f":{"version":"10"}}},"path":"/"}"#,
            "data.filters.f.version",
            number,
        ),
        ("patch", r#"{"path":"/environments/e","data":999}"#, "data", "it must be an object"),
        ("patch", r#"{"path":"/filters/f","data":999}"#, "data", "it must be an object"),
        ("patch", r#"{"path":"/environments/e","data":{"version":1.5}}"#, "data.version", number),
        ("patch", r#"{"path":"/environments/e","data":{"version":1e3}}"#, "data.version", number),
        (
            "patch",
            r#"{"path":"/environments/e","data":{"version":9223372036854775808}}"#,
            "data.version",
            number,
        ),
        (
            "patch",
            r#"{"path":"/environments/e","data":{"mobKey":{"secret":1}}}"#,
            "data.mobKey",
            "it must be a string",
        ),
        (
            "patch",
            r#"{"path":"/environments/e","data":{"sdkKey":"secret"}}"#,
            "data.sdkKey",
            "it must be an object",
        ),
        (
            "patch",
            r#"{"path":"/environments/e","data":{"secureMode":"secret"}}"#,
            "data.secureMode",
            "it must be true or false",
        ),
        (
            "patch",
            r#"{"path":"/environments/e","data":{"sdkKeys":{}}}"#,
            "data.sdkKeys",
            "it must be an array",
        ),
        (
            "patch",
            r#"{"path":"/environments/e","data":{"sdkKeys":[{},{"value":7}]}}"#,
            "data.sdkKeys.[1].value",
            "it must be a string",
        ),
        ("delete", r#"{"path":999,"version":1}"#, "path", "it must be a string"),
        ("delete", r#"{"path":"/environments/e","version":true}"#, "version", number),
        ("delete", "[]", "", "it must be an object"),
        ("delete", "{} {}", "", "something follows the value"),
        ("put", "secret", "", "it is not JSON"),
        ("put", "", "", "it is not JSON"),
        (
            "put",
            r#"{"path":"/","data":{"environments":{"e":{"sdkKey":{"value":"secr"#,
            "data.environments.e.sdkKey.value",
            "it is not JSON",
        ),
    ] {
        let error = Message::decode(event, data).unwrap_err();
        assert_eq!((error.place(), error.rule()), (place, rule), "{data}");
        assert!(!error.to_string().contains("secr") && !format!("{error:?}").contains("secr"), "{error}");
        assert!(error.to_string().contains(&format!("a {event}")), "{error}");
        assert!(error.offset() <= data.len());
    }
    for time in ["-1", "1.5", "\"10\"", "18446744073709551616", "true"] {
        for data in [
            format!(r#"{{"sdkKey":{{"expiring":{{"timestamp":{time}}}}}}}"#),
            format!(r#"{{"mobileKeys":[{{"expiry":{time}}}]}}"#),
        ] {
            assert!(environment(&data).unwrap_err().rule().starts_with("it must be milliseconds"), "{data}");
        }
    }
    let far = environment(r#"{"sdkKey":{"expiring":{"timestamp":18446744073709551615}}}"#).unwrap();
    assert_eq!(far.sdk_key.expiring.timestamp, u64::MAX);
}

#[test]
fn data_cut_anywhere_is_an_error() {
    let text = r#"{"path":"/","data":{"environments":{"e1":{"envID":"e1","sdkKey":{"value":"k"},"version":12}},"filters":{}}}"#;
    assert!(Message::decode("put", text).is_ok());
    for end in 0..text.len() {
        assert!(Message::decode("put", &text[..end]).is_err(), "{end}");
    }
}

#[test]
fn an_id_twice_in_a_put_counts_once_and_ids_come_in_order() {
    let text = r#"{"path":"/","data":{"environments":{"b":{"version":1},"a":{"version":2},"b":{"version":3},"B":{}},"ENVIRONMENTS":{"b":{"version":4},"a":{"version":5},"b":{"version":6},"B":{}}}}"#;
    let Ok(Message::Put(put)) = Message::decode("put", text) else { panic!() };
    let versions: Vec<_> = put.content.environments.iter().map(|(id, e)| (id.as_ref(), e.version)).collect();
    assert_eq!(versions, [("B", 0), ("a", 5), ("b", 6)]);
    // The last path and the last data are used, in whatever order they come.
    let text =
        r#"{"path":"/x","data":{"environments":{"a":{}}},"Path":"/","DATA":{"environments":{"c":{}}}}"#;
    let Ok(Message::Put(put)) = Message::decode("put", text) else { panic!() };
    assert_eq!((put.path, put.content.environments.len()), (Path::All, 1));
    assert_eq!(put.content.environments[0].0, "c");
    let Ok(Message::Put(put)) =
        Message::decode("put", r#"{"path":"/","data":{"environments":{"a":{}}},"path":"/x"}"#)
    else {
        panic!()
    };
    assert_eq!((put.path, put.content.environments.len()), (Path::Other, 0));
}

#[test]
fn paths() {
    for (text, path) in [
        ("/", Path::All),
        ("", Path::Other),
        ("//", Path::Other),
        ("/elsewhere", Path::Other),
        ("/environments", Path::Other),
        ("/environments/", Path::Environment("".into())),
        ("/environments/e1", Path::Environment("e1".into())),
        ("/environments/a%2Fb", Path::Environment("a%2Fb".into())),
        ("/environments/a/b", Path::Other),
        ("environments/e1", Path::Other),
        ("/Environments/e1", Path::Other),
        ("/filters/p.small", Path::Filter("p.small".into())),
        ("/filters/p/small", Path::Other),
    ] {
        assert_eq!(Path::parse(text), path, "{text}");
        assert_eq!(Path::parse(text.to_owned()), path, "{text}");
    }
    // The data at a path of another kind may be anything.
    for event in ["put", "patch"] {
        assert!(Message::decode(event, r#"{"path":"/later","data":[999]}"#).is_ok());
    }
    assert_eq!(Message::decode("reconnect", " "), Ok(Message::Reconnect));
    assert_eq!(Message::decode("magic", "x"), Ok(Message::Unknown("magic".into())));
}

#[test]
fn the_first_rule_that_is_broken_is_told() {
    for (data, id, refusal) in [
        (r#"{"envID":"e","sdkKey":{"value":"k"}}"#, "e", None),
        (r#"{"envID":"e","sdkKey":{"value":"k"},"mobKey":"m"}"#, "e", None),
        (
            r#"{"envID":"e","sdkKey":{"value":"k"},"sdkKeys":[{"value":"j"},{"value":"k"}],"mobKey":"m","mobileKeys":[{"value":"m"}]}"#,
            "e",
            None,
        ),
        (
            r#"{"envID":"e","sdkKey":{"value":"k"},"sdkKeys":[{"value":"k","hasViews":true,"expiry":1}]}"#,
            "e",
            None,
        ),
        ("{}", "", Some(Refusal::NoId)),
        (r#"{"envID":"e"}"#, "", Some(Refusal::NoId)),
        ("{}", "e", Some(Refusal::IdMismatch)),
        (r#"{"envID":"E","sdkKey":{"value":"k"}}"#, "e", Some(Refusal::IdMismatch)),
        (r#"{"envID":"e","sdkKeys":[{"value":""}]}"#, "e", Some(Refusal::NoSdkKey)),
        (
            r#"{"envID":"e","sdkKey":{"value":"k"},"sdkKeys":[{"value":"j"},null]}"#,
            "e",
            Some(Refusal::EmptyKey),
        ),
        (r#"{"envID":"e","sdkKey":{"value":"k"},"mobileKeys":[{}]}"#, "e", Some(Refusal::EmptyKey)),
        (
            r#"{"envID":"e","sdkKey":{"value":"k"},"sdkKeys":[{"value":"j"}],"mobileKeys":[{"value":"m"}]}"#,
            "e",
            Some(Refusal::PrimaryNotListed),
        ),
        (
            r#"{"envID":"e","sdkKey":{"value":"k"},"mobKey":"m","mobileKeys":[{"value":"n"}]}"#,
            "e",
            Some(Refusal::MobileNotListed),
        ),
        (
            r#"{"envID":"e","sdkKey":{"value":"k"},"mobileKeys":[{"value":"n"}]}"#,
            "e",
            Some(Refusal::NoPrimaryMobile),
        ),
    ] {
        let judged = environment(data).unwrap().judge(id);
        assert_eq!(judged.err(), refusal, "{data}");
    }
}

#[test]
fn unknown_fields_may_be_a_thousand_levels_deep() {
    let deep = format!("{}1{}", "[{\"a\":".repeat(1000), "}]".repeat(1000));
    let text = format!(r#"{{"x":{deep},"path":"/environments/e","data":{{"y":{deep},"version":3}}}}"#);
    let Ok(Message::Patch(patch)) = Message::decode("patch", &text) else { panic!() };
    assert_eq!(patch.environment.map(|e| e.version), Some(3));
}

#[test]
fn what_is_written_is_read_back() {
    let mut env = environment(
        r#"{"envID":"e","envKey":"k\"\\\n\u0001é","mobKey":"m","sdkKey":{"value":"s","expiring":{"value":"o","timestamp":18446744073709551615}},
            "defaultTtl":-3,"secureMode":true,"version":-9,"sdkKeys":[{"key":"a","value":"s","expiry":0,"hasViews":true}]}"#,
    )
    .unwrap();
    for _ in 0..2 {
        let mut text = String::new();
        let path = Path::Environment("e".into());
        write_patch(&mut text, &path, |out| write_environment(out, &env));
        let Ok(Message::Patch(patch)) = Message::decode("patch", &text) else { panic!("{text}") };
        assert_eq!((patch.path, patch.environment.as_ref()), (path, Some(&env)));
        let filter = FilterRep { proj_key: "p".into(), key: "s".into(), version: 3 };
        let mut text = String::new();
        write_put(&mut text, [("e", &env)], Some(&mut [("f", &filter)].into_iter()));
        let Ok(Message::Put(put)) = Message::decode("put", &text) else { panic!("{text}") };
        assert_eq!(put.content.environments, [("e".into(), env.clone())]);
        assert_eq!(put.content.filters, [("f".into(), filter)]);
        assert!(!text.contains('\n'));
        env = EnvironmentRep::default();
    }
    let mut text = String::new();
    write_delete(&mut text, &Path::Filter("f".into()), 14);
    assert_eq!(text, r#"{"path":"/filters/f","version":14}"#);
    let mut text = String::new();
    write_put(&mut text, [], None);
    assert_eq!(text, r#"{"path":"/","data":{"environments":{}}}"#);
}
