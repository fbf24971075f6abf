//! Parameters of buses, and arguments of channels and subscriptions.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};

/// A parameter that a bus declares.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Parameter {
    /// Its name.
    pub name: String,
    /// What it is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// The value when no argument is given; without one an argument is required. An empty text is a default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default: Option<String>,
}

/// An argument of a channel or subscription.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Argument {
    /// The parameter's name.
    pub name: String,
    /// The value; an empty one counts as given.
    #[serde(default)]
    pub value: String,
}

/// Parameters with their values, sorted by name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize)]
pub struct ResolvedParameters(BTreeMap<String, String>);

impl ResolvedParameters {
    /// Computes the values: an argument overrides the default, of two equal names the last counts, undeclared
    /// arguments are ignored.
    ///
    /// # Errors
    /// The names without a default and without an argument.
    pub fn resolve(declared: &[Parameter], arguments: &[Argument]) -> Result<Self, MissingArguments> {
        let mut values = BTreeMap::new();
        let mut missing = BTreeSet::new();
        for parameter in declared {
            let given = arguments.iter().rev().find(|argument| argument.name == parameter.name);
            match given.map(|argument| &argument.value).or(parameter.default.as_ref()) {
                Some(value) => drop(values.insert(parameter.name.clone(), value.clone())),
                None => drop(missing.insert(parameter.name.clone())),
            }
        }
        if missing.is_empty() {
            Ok(Self(values))
        } else {
            Err(MissingArguments { names: missing.into_iter().collect() })
        }
    }

    /// The value of a parameter.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// Names and values, sorted by name.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }
}

/// Missing required arguments.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct MissingArguments {
    /// Their names, sorted.
    pub names: Vec<String>,
}

/// `missing required arguments: [a b]`.
impl fmt::Display for MissingArguments {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "missing required arguments: [{}]", self.names.join(" "))
    }
}

impl std::error::Error for MissingArguments {}

#[cfg(test)]
mod tests {
    use super::*;

    fn declared(list: &[(&str, Option<&str>)]) -> Vec<Parameter> {
        let parameter = |&(name, default): &(&str, Option<&str>)| Parameter {
            name: name.into(),
            description: None,
            default: default.map(Into::into),
        };
        list.iter().map(parameter).collect()
    }

    fn arguments(list: &[(&str, &str)]) -> Vec<Argument> {
        list.iter().map(|&(name, value)| Argument { name: name.into(), value: value.into() }).collect()
    }

    #[test]
    fn arguments_beat_defaults_and_the_last_wins() {
        let declared = declared(&[("a", Some("1")), ("b", None), ("c", Some(""))]);
        let given = arguments(&[("b", "x"), ("unknown", "y"), ("b", "")]);
        let resolved = ResolvedParameters::resolve(&declared, &given).unwrap();
        assert_eq!(resolved.iter().collect::<Vec<_>>(), [("a", "1"), ("b", ""), ("c", "")]);
        assert_eq!(serde_json::to_string(&resolved).unwrap(), r#"{"a":"1","b":"","c":""}"#);
        let none = ResolvedParameters::resolve(&[], &given).unwrap();
        assert_eq!(none.iter().count(), 0);
    }

    #[test]
    fn rule_13_what_is_missing_is_sorted() {
        let declared = declared(&[("b", None), ("a", None), ("c", None)]);
        let error = ResolvedParameters::resolve(&declared, &arguments(&[("c", "")])).unwrap_err();
        assert_eq!(error.to_string(), "missing required arguments: [a b]");
    }
}
