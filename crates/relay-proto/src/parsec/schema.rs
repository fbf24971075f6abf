//! Schemas of payloads.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// A small part of JSON Schema (draft 2020-12): `type`, `required`, `properties`, `items`, `additionalProperties`
/// (true or false), `enum`, `description`. Other keywords are ignored.
///
/// There are two differences to JSON Schema, on which the authors of such schemas rely: `object` and `array` also
/// accept `null` (but an object's `required` then fails), and an unknown `type` checks nothing.
///
/// ```
/// use relay_proto::parsec::Schema;
/// let schema: Schema = serde_json::from_str(r#"{"type":"object","properties":{"text":{"type":"string"}}}"#)?;
/// assert!(schema.check(r#"{"text":"ok"}"#).is_ok());
/// assert_eq!(schema.check(r#"{"text":42}"#).unwrap_err().to_string(), ".text: not a string");
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Schema {
    /// `object`, `array`, `string`, `number`, `integer`, `boolean` or `null`; empty for any.
    #[serde(rename = "type", skip_serializing_if = "String::is_empty")]
    pub kind: String,
    /// Required members of an object.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub required: Vec<String>,
    /// The schemas of an object's members, if they are present.
    #[serde(skip_serializing_if = "std::collections::BTreeMap::is_empty")]
    pub properties: std::collections::BTreeMap<String, Schema>,
    /// The schema of each item of an array.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub items: Option<Box<Schema>>,
    /// Whether an object may have members that `properties` does not name. Default: yes.
    #[serde(rename = "additionalProperties", skip_serializing_if = "Option::is_none")]
    pub additional_properties: Option<bool>,
    /// The allowed values; empty for any.
    #[serde(rename = "enum", skip_serializing_if = "Vec::is_empty")]
    pub choices: Vec<Value>,
    /// A description.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub description: String,
}

/// Where and why a payload does not match. It contains keys of the schema, but nothing of the payload.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {reason}")]
#[non_exhaustive]
pub struct Mismatch {
    /// The path, such as `.a[0].b`, or `<root>`.
    pub path: String,
    /// The broken rule.
    pub reason: String,
}

impl Schema {
    /// Checks the text of a payload; an empty one counts as `null`.
    ///
    /// # Errors
    /// The first [`Mismatch`], with members in the order of their names.
    pub fn check(&self, payload: &str) -> Result<(), Mismatch> {
        let text = if payload.trim().is_empty() { "null" } else { payload };
        let value: Value = serde_json::from_str(text)
            .map_err(|error| Mismatch { path: "<root>".into(), reason: format!("not JSON: {error}") })?;
        self.check_value(&value, &mut String::new())
    }

    fn check_value(&self, value: &Value, path: &mut String) -> Result<(), Mismatch> {
        let wrong = |path: &str, reason: String| {
            Err(Mismatch { path: if path.is_empty() { "<root>".into() } else { path.into() }, reason })
        };
        let fits = match self.kind.as_str() {
            "object" => value.is_object() || value.is_null(),
            "array" => value.is_array() || value.is_null(),
            "string" => value.is_string(),
            "number" => value.is_number(),
            "integer" => value.as_f64().is_some_and(|number| number.fract() == 0.0),
            "boolean" => value.is_boolean(),
            "null" => value.is_null(),
            _ => true,
        };
        if !fits {
            let article = if self.kind.starts_with(['a', 'i', 'o']) { "an" } else { "a" };
            return wrong(path, format!("not {article} {}", self.kind));
        }
        if !self.choices.is_empty() && !self.choices.iter().any(|choice| equal(choice, value)) {
            return wrong(path, format!("not one of the {} values of enum", self.choices.len()));
        }
        if self.kind == "object" || value.is_object() {
            let none = Map::new();
            let members = value.as_object().unwrap_or(&none);
            if let Some(missing) = self.required.iter().find(|name| !members.contains_key(*name)) {
                return wrong(path, format!("required member {missing:?} is missing"));
            }
            for (name, member) in members {
                if let Some(schema) = self.properties.get(name) {
                    let length = path.len();
                    path.push('.');
                    path.push_str(name);
                    schema.check_value(member, path)?;
                    path.truncate(length);
                } else if self.additional_properties == Some(false) {
                    return wrong(path, "a member that the schema does not name".into());
                }
            }
        }
        if let (Some(schema), Value::Array(items)) = (&self.items, value) {
            for (at, item) in items.iter().enumerate() {
                let length = path.len();
                path.push_str(&format!("[{at}]"));
                schema.check_value(item, path)?;
                path.truncate(length);
            }
        }
        Ok(())
    }
}

/// Numbers are compared by value: 1 equals 1.0.
fn equal(left: &Value, right: &Value) -> bool {
    match (left, right) {
        (Value::Number(a), Value::Number(b)) => a == b || a.as_f64() == b.as_f64(),
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| equal(a, b)),
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(name, a)| b.get(name).is_some_and(|b| equal(a, b)))
        }
        _ => left == right,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_quirks_and_the_paths() {
        let item = r#"{"type":"object","properties":{"b":{"type":"integer"}},"required":["b"]}"#;
        let nested = format!(r#"{{"type":"object","properties":{{"a":{{"type":"array","items":{item}}}}}}}"#);
        for (schema, payload, verdict) in [
            (r#"{"type":"object"}"#, "null", None),
            (r#"{"type":"array"}"#, "null", None),
            (
                r#"{"type":"object","required":["a"]}"#,
                "null",
                Some(r#"<root>: required member "a" is missing"#),
            ),
            (r#"{"type":"object","required":["a"]}"#, "", Some(r#"<root>: required member "a" is missing"#)),
            (r#"{"type":"object"}"#, "[]", Some("<root>: not an object")),
            (r#"{"type":"string"}"#, "", Some("<root>: not a string")),
            (r#"{"type":"integer"}"#, "1.0", None),
            (r#"{"type":"integer"}"#, "1.5", Some("<root>: not an integer")),
            (r#"{"type":"number"}"#, "1.5", None),
            (r#"{"type":"boolean"}"#, "0", Some("<root>: not a boolean")),
            (r#"{"type":"null"}"#, "null", None),
            (r#"{"type":"whatever"}"#, "{}", None),
            (r#"{"enum":[1,"a",{"x":[1.0]}]}"#, r#"{"x":[1]}"#, None),
            (r#"{"enum":[1,"a"]}"#, "\"b\"", Some("<root>: not one of the 2 values of enum")),
            (r#"{"additionalProperties":false,"properties":{"a":{}}}"#, r#"{"a":1}"#, None),
            (
                r#"{"additionalProperties":false}"#,
                r#"{"a":1}"#,
                Some("<root>: a member that the schema does not name"),
            ),
            (r#"{"minimum":5}"#, "1", None),
            (nested.as_str(), r#"{"a":[{"b":1},{"b":"x"}]}"#, Some(".a[1].b: not an integer")),
            (nested.as_str(), r#"{"a":[{}]}"#, Some(r#".a[0]: required member "b" is missing"#)),
        ] {
            let schema: Schema = serde_json::from_str(schema).unwrap();
            let said = schema.check(payload).err().map(|error| error.to_string());
            assert_eq!(said.as_deref(), verdict, "{schema:?} {payload}");
        }
        assert!(Schema::default().check("{").unwrap_err().reason.starts_with("not JSON"));
    }
}
