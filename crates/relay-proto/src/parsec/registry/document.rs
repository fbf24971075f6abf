//! The shape of a document of patterns, for documents that people write: a mistake is named with its place.

use serde_json::Value;

use Shape::{Any, List, Names, Object, Optional, Text, Truth, Whole};

/// What may stand at a place.
enum Shape {
    Text,
    /// A number from 0, without a fraction.
    Whole,
    Truth,
    Any,
    /// As that, or null.
    Optional(&'static Shape),
    List(&'static Shape),
    /// An object whose member names are the writer's own.
    Names(&'static Shape),
    Object(Members),
}

/// The members of an object.
struct Members {
    known: &'static [(&'static str, &'static Shape)],
    needed: Option<&'static str>,
    /// Other members are ignored.
    open: bool,
}

static DOCUMENT: Shape = Object(Members {
    known: &[("patterns", &PATTERNS), ("at", &Text)],
    needed: Some("patterns"),
    open: false,
});
static PATTERNS: Shape = List(&PATTERN);
static PATTERN: Shape = Object(Members {
    known: &[
        ("pattern", &Text),
        ("description", &Text),
        ("version", &Whole),
        ("aspects", &ASPECTS),
        ("acl", &Optional(&ACCESS)),
    ],
    needed: Some("pattern"),
    open: false,
});
static ASPECTS: Shape = Names(&ASPECT);
static ASPECT: Shape = Object(Members {
    known: &[
        ("name", &Text),
        ("description", &Text),
        ("payload_schema", &Optional(&SCHEMA)),
        ("required", &Truth),
    ],
    needed: None,
    open: false,
});
static ACCESS: Shape = Object(Members {
    known: &[("publish_roles", &TEXTS), ("subscribe_roles", &TEXTS), ("notes", &Text)],
    needed: None,
    open: false,
});
static TEXTS: Shape = List(&Text);
/// A schema may have keywords that are not looked at.
static SCHEMA: Shape = Object(Members {
    known: &[
        ("type", &Text),
        ("required", &TEXTS),
        ("properties", &PROPERTIES),
        ("items", &Optional(&SCHEMA)),
        ("additionalProperties", &Optional(&Truth)),
        ("enum", &CHOICES),
        ("description", &Text),
    ],
    needed: None,
    open: true,
});
static PROPERTIES: Shape = Names(&SCHEMA);
static CHOICES: Shape = List(&Any);

/// Checks `{"patterns":[..]}` or a bare list; gives the first mistake and its place, such as
/// `patterns[0].aspects.said`.
pub(super) fn check(document: &Value) -> Result<(), (String, String)> {
    let shape = if document.is_array() { &PATTERNS } else { &DOCUMENT };
    let mut place = String::new();
    shape
        .check(document, &mut place)
        .map_err(|problem| (if place.is_empty() { "the document".into() } else { place }, problem))
}

impl Shape {
    /// On an error, `place` is where it is.
    fn check(&'static self, value: &Value, place: &mut String) -> Result<(), String> {
        let fits = match self {
            Any => true,
            Text => value.is_string(),
            Whole => value.is_u64(),
            Truth => value.is_boolean(),
            Optional(shape) => return if value.is_null() { Ok(()) } else { shape.check(value, place) },
            List(_) => value.is_array(),
            Names(_) | Object(_) => value.is_object(),
        };
        if !fits {
            return Err(format!("not {}", self.name()));
        }
        let before = place.len();
        match (self, value) {
            (List(shape), Value::Array(items)) => {
                for (index, item) in items.iter().enumerate() {
                    place.push_str(&format!("[{index}]"));
                    shape.check(item, place)?;
                    place.truncate(before);
                }
            }
            (Names(shape), Value::Object(members)) => {
                for (name, member) in members {
                    step(place, name);
                    shape.check(member, place)?;
                    place.truncate(before);
                }
            }
            (Object(rule), Value::Object(members)) => {
                for (name, member) in members {
                    let Some((_, shape)) = rule.known.iter().find(|(known, _)| known == name) else {
                        if rule.open {
                            continue;
                        }
                        let known: Vec<_> = rule.known.iter().map(|(name, _)| *name).collect();
                        let name: String = name.chars().take(100).collect();
                        return Err(format!("unknown member {name:?} (known: {})", known.join(", ")));
                    };
                    step(place, name);
                    shape.check(member, place)?;
                    place.truncate(before);
                }
                if let Some(needed) = rule.needed.filter(|needed| !members.contains_key(*needed)) {
                    return Err(format!("no member {needed:?}"));
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn name(&self) -> &'static str {
        match self {
            Text => "a text",
            Whole => "a whole number from 0",
            Truth => "true or false",
            List(_) => "a list",
            Any | Optional(_) | Names(_) | Object(_) => "an object",
        }
    }
}

/// Adds a member's name to a place; one that is no simple word is quoted.
fn step(place: &mut String, name: &str) {
    let is_word = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || "_-".contains(c));
    if is_word {
        if !place.is_empty() {
            place.push('.');
        }
        place.push_str(name);
    } else {
        let name: String = name.chars().take(100).collect();
        place.push_str(&format!("[{name:?}]"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_mistake_is_named_with_its_place() {
        let said =
            |aspect: &str| format!(r#"{{"patterns":[{{"pattern":"a.b","aspects":{{"said":{aspect}}}}}]}}"#);
        let aspect = "patterns[0].aspects.said: ";
        let known = "(known: name, description, payload_schema, required)";
        for (text, problem) in [
            (said(r#"{"type":"object"}"#), format!("{aspect}unknown member \"type\" {known}")),
            (said(r#"{"schema":{}}"#), format!("{aspect}unknown member \"schema\" {known}")),
            (said("[]"), format!("{aspect}not an object")),
            (said(r#"{"required":["text"]}"#), "patterns[0].aspects.said.required: not true or false".into()),
            (
                said(r#"{"payload_schema":{"properties":{"a b":{"required":[1]}}}}"#),
                "patterns[0].aspects.said.payload_schema.properties[\"a b\"].required[0]: not a text".into(),
            ),
            (
                said(r#"{"payload_schema":{"items":{"items":{"additionalProperties":1}}}}"#),
                "patterns[0].aspects.said.payload_schema.items.items.additionalProperties: not true or false"
                    .into(),
            ),
            (r#"[{"pattern":"a","version":-1}]"#.into(), "[0].version: not a whole number from 0".into()),
            (
                r#"[{"pattern":"a"},{"pattern":"b","acl":{"roles":[]}}]"#.into(),
                "[1].acl: unknown member \"roles\" (known: publish_roles, subscribe_roles, notes)".into(),
            ),
            (r#"[{"aspects":{}}]"#.into(), "[0]: no member \"pattern\"".into()),
            ("{}".into(), "the document: no member \"patterns\"".into()),
            (
                r#"{"pattern":"a"}"#.into(),
                "the document: unknown member \"pattern\" (known: patterns, at)".into(),
            ),
            ("5".into(), "the document: not an object".into()),
        ] {
            let (place, found) = check(&serde_json::from_str(&text).unwrap()).unwrap_err();
            assert_eq!(format!("{place}: {found}"), problem, "{text}");
        }
        for text in [
            "[]",
            r#"{"patterns":[],"at":"2026-05-27T14:22:09Z"}"#,
            // Keywords of schemas that are not looked at, and what may be null.
            &said(r#"{"payload_schema":{"type":"text","oneOf":[],"items":null,"enum":[null,1]}}"#),
            r#"[{"pattern":"a","description":"d","version":2,"aspects":{"x":{"payload_schema":null}},"acl":null}]"#,
            r#"[{"pattern":"a","acl":{"publish_roles":["r"],"subscribe_roles":[],"notes":"n"}}]"#,
        ] {
            assert_eq!(check(&serde_json::from_str(text).unwrap()), Ok(()), "{text}");
            assert!(crate::parsec::Registry::from_written_json(text.as_bytes()).is_ok(), "{text}");
        }
    }
}
