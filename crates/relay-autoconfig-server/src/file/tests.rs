use super::*;

fn yaml(text: &str) -> Result<Configuration, String> {
    parse(text.as_bytes(), Format::Yaml).map_err(|broken| format!("{}: {}", broken.place, broken.rule))
}

fn json(text: &str) -> Result<Configuration, String> {
    parse(text.as_bytes(), Format::Json).map_err(|broken| format!("{}: {}", broken.place, broken.rule))
}

#[test]
fn yaml_and_json_say_the_same_and_what_is_usual_may_be_left_out() {
    let long = json(
        r#"{"environments":{"e1":{"envID":"e1","envKey":"prod","envName":"Production","projKey":"p","projName":"P",
            "sdkKey":{"value":"sdk-2","expiring":{"value":"sdk-1","timestamp":1796083200000}},"mobKey":"mob-1","defaultTtl":5,
            "secureMode":false},"e2":{"sdkKey":{"value":"sdk-3"},"version":7,
            "sdkKeys":[{"key":"default","value":"sdk-3"},{"key":"svc","value":"sdk-4","expiry":1796083200000,"hasViews":true}]}},
            "filters":{"p.small":{"projKey":"p","key":"small"}}}"#,
    )
    .unwrap();
    let short = yaml(
        "environments:
  e2:
    sdkKey: sdk-3
    version: 7
    sdkKeys: [{key: default, value: sdk-3}, {key: svc, value: sdk-4, expiry: 2026-12-01T00:00:00Z, hasViews: true}]
  e1:
    envKey: prod
    envName: Production
    projKey: p
    projName: P
    sdkKey: {value: sdk-2, expiring: {value: sdk-1, timestamp: 2026-12-01T01:00:00+01:00}}     # a comment
    mobKey: mob-1
    defaultTtl: 5
filters:
  p.small: {projKey: p, key: small}
",
    )
    .unwrap();
    assert_eq!(long, short);
    assert_eq!(long.environments["e1"].sdk_key.expiring.timestamp, 1_796_083_200_000);
    assert_eq!(json(r#"{"environments":{}}"#).unwrap(), Configuration::default());
}

#[test]
fn what_breaks_a_rule_is_told_by_place_and_rule_and_never_by_a_key() {
    for (text, error) in [
        ("", "the file: it is empty"),
        (" \n", "the file: it is empty"),
        ("# only a comment\n", "the file: it must be a map"),
        ("[]", "the file: it must be a map"),
        ("filters: {}", "environments: it is missing"),
        ("environments:\n", "environments: it must be a map"),
        ("environments: {}\nother: secret", "other: there is no such field"),
        ("environments: {e: secret}", "environments.e: it must be a map"),
        (
            "environments: {e: {sdkKey: secret, color: secret}}",
            "environments.e.color: there is no such field",
        ),
        (
            "environments: {e: {sdkKey: {value: secret, other: 1}}}",
            "environments.e.sdkKey.other: there is no such field",
        ),
        (
            "environments: {e: {sdkKey: {sdk-secret-123}}}",
            "environments.e.sdkKey: it has a field that does not exist",
        ),
        (
            "environments: {e: {sdkKey: k, mobileKeys: [{secret-1}]}}",
            "environments.e.mobileKeys[0]: it has a field that does not exist",
        ),
        ("environments: {e: {sdkKey: 12345}}", "environments.e.sdkKey: it must be a key"),
        ("environments: {e: {sdkKey: secret, envID: other}}", "environments.e.envID: it is not the id"),
        ("environments: {e: {sdkKey: secret, envName: 5}}", "environments.e.envName: it must be a text"),
        ("environments: {e: {sdkKey: secret, mobKey: null}}", "environments.e.mobKey: it must be a text"),
        (
            "environments: {e: {sdkKey: secret, secureMode: 'yes'}}",
            "environments.e.secureMode: it must be true or false",
        ),
        (
            "environments: {e: {sdkKey: secret, defaultTtl: 1.5}}",
            "environments.e.defaultTtl: it must be a whole number",
        ),
        (
            "environments: {e: {sdkKey: secret, version: 99999999999999999999}}",
            "environments.e.version: it must be a whole number",
        ),
        (
            "environments: {e: {sdkKey: {value: secret, expiring: {value: secret2}}}}",
            "environments.e.sdkKey.expiring.timestamp: it is missing",
        ),
        (
            "environments: {e: {sdkKey: {value: secret, expiring: {value: secret2, timestamp: soon}}}}",
            "environments.e.sdkKey.expiring.timestamp: it must be a time",
        ),
        (
            "environments: {e: {sdkKey: {value: secret, expiring: {timestamp: 5}}}}",
            "environments.e.sdkKey.expiring.value: it is missing",
        ),
        ("environments: {e: {sdkKey: secret, sdkKeys: {}}}", "environments.e.sdkKeys: it must be a list"),
        (
            "environments: {e: {sdkKey: secret, sdkKeys: [{value: secret, expiry: -1}]}}",
            "environments.e.sdkKeys[0].expiry: it must be a time",
        ),
        ("environments: {e: {}}", "environments.e.sdkKey: it has no SDK key (no-sdk-key)"),
        (
            "environments: {e: {sdkKey: secret, sdkKeys: [{value: secret2}]}}",
            "environments.e.sdkKeys: its SDK key is not among",
        ),
        (
            "environments: {e: {sdkKey: secret, mobileKeys: [{value: secret2}]}}",
            "environments.e.mobKey: it has mobile keys",
        ),
        ("environments: {'': {sdkKey: secret}}", "environments.: an id is not empty"),
        ("environments: {a/b: {sdkKey: secret}}", "environments.a/b: an id has no slash"),
        (
            "environments: {e: {sdkKey: secret}, f: {sdkKey: secret}}",
            "environments.f: one of its SDK keys is a key of environments.e too",
        ),
        (
            "environments: {e: {sdkKey: secret, mobKey: m}, f: {sdkKey: secret2, mobKey: m}}",
            "environments.f: one of its mobile keys",
        ),
        (
            "environments: {e: {sdkKey: secret}, f: {sdkKey: {value: s, expiring: {value: secret, timestamp: 5}}}}",
            "environments.f: one of its SDK keys",
        ),
        (
            "environments: {e: {sdkKey: secret}, e: {sdkKey: secret2}}",
            "line 1, column 37: a key is given twice",
        ),
        ("environments: {e: {sdkKey: secret", "line 1, column "),
        ("environments: {}\nfilters: {f: {key: 1}}", "filters.f.key: it must be a text"),
        ("environments: {}\nfilters: {f: {kay: secret}}", "filters.f.kay: there is no such field"),
    ] {
        let told = yaml(text).unwrap_err();
        assert!(told.starts_with(error), "{text}\n{told}");
        assert!(!told.contains("secret"), "{told}");
    }
    for (text, error) in [
        ("{", "line 1, column 1: it is not JSON"),
        ("{\"environments\":\n{\"e\":\"secret", "line 2, column "),
        (r#"{"environments":{"e":{"sdkKey":"k"},"e":{"sdkKey":"l"}}}"#, "environments.e: it is given twice"),
        (r#"{"environments":{},"environments":{}}"#, "the file.environments: it is given twice"),
        (
            r#"{"environments":{"e":{"sdkKey":{"secret-1":1,"secret-1":2}}}}"#,
            "environments.e.sdkKey: a field is given twice",
        ),
    ] {
        let told = json(text).unwrap_err();
        assert!(told.starts_with(error), "{text}\n{told}");
        assert!(!told.contains("secret"), "{told}");
    }
    assert!(parse(b"environments:\n  \xff: {}", Format::Yaml).unwrap_err().place == "line 2");
}

#[test]
fn the_name_says_the_format() {
    for (name, format) in [
        ("a.json", Some(Format::Json)),
        ("a.yaml", Some(Format::Yaml)),
        ("b/a.yml", Some(Format::Yaml)),
        ("a", None),
        ("json", None),
        ("a.toml", None),
        ("a.JSON", None),
    ] {
        assert_eq!(Format::of(Path::new(name)), format, "{name}");
    }
}

#[test]
fn a_large_file_of_environments_is_read() {
    let mut text = "environments:\n".to_owned();
    for id in 0..10_000 {
        text += &format!(
            "  e{id}: {{envKey: k{id}, envName: N, projKey: p, projName: P, sdkKey: sdk-{id}, mobKey: mob-{id}}}\n"
        );
    }
    assert_eq!(yaml(&text).unwrap().environments.len(), 10_000);
}

/// Reading a pipe or a device could take for ever.
#[cfg(unix)]
#[test]
fn what_is_no_regular_file_is_not_read() {
    let told = super::read(std::path::Path::new("/dev/null")).unwrap_err();
    assert!(relay_proto::error::chain(&told).to_string().contains("not a regular file"), "{told:?}");
}
