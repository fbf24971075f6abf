//! Parameters that follow Kubernetes' syntax: names of namespaces, keys and values of labels.

use std::borrow::Cow;

/// A parameter that breaks a rule: names the parameter, the value (cut to 80 characters) and the rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{parameter} {value:?}: {rule}")]
pub struct InvalidParameter {
    parameter: &'static str,
    value: String,
    rule: Cow<'static, str>,
    place: Option<usize>,
}

impl InvalidParameter {
    /// An error about `parameter`; the value is cut to 80 characters.
    pub fn new(parameter: &'static str, value: &str, rule: &'static str) -> Self {
        Self { parameter, value: value.chars().take(80).collect(), rule: rule.into(), place: None }
    }

    /// An error whose rule was broken at one place of the value.
    pub(in crate::pods) fn at(parameter: &'static str, value: &str, place: usize, rule: String) -> Self {
        Self { rule: rule.into(), place: Some(place), ..Self::new(parameter, value, "") }
    }

    /// The parameter's name.
    pub fn parameter(&self) -> &'static str {
        self.parameter
    }

    /// The broken rule, with the place if it is known.
    pub fn rule(&self) -> &str {
        &self.rule
    }

    /// The character of the value, counted from 1; `None` for the whole value.
    pub fn place(&self) -> Option<usize> {
        self.place
    }
}

/// Checks the key of a label.
pub(super) fn check_key(key: &str) -> Result<(), &'static str> {
    let name = match key.split_once('/') {
        Some((prefix, _)) if !is_dns_subdomain(prefix) => {
            return Err("the prefix of a label key is a DNS-1123 subdomain of at most 253 characters");
        }
        Some((_, name)) => name,
        None => key,
    };
    if is_qualified_name(name) {
        return Ok(());
    }
    Err("a label key is 1 to 63 letters, digits, '-', '_' or '.', and begins and ends with a letter or digit")
}

/// Checks the value of a label.
pub(super) fn check_value(value: &str) -> Result<(), &'static str> {
    if value.is_empty() || is_qualified_name(value) {
        return Ok(());
    }
    Err(
        "a label value is at most 63 letters, digits, '-', '_' or '.', and begins and ends with a letter or digit",
    )
}

pub(super) fn check_namespace(namespace: &str) -> Result<(), InvalidParameter> {
    if is_dns_label(namespace) {
        return Ok(());
    }
    let rule = "a namespace is a DNS-1123 label: 1 to 63 lower-case letters, digits or '-', and begins and ends with a letter or digit";
    Err(InvalidParameter::new("namespace", namespace, rule))
}

fn bounded_by_alphanumerics(text: &str, inner: impl Fn(u8) -> bool, edge: impl Fn(u8) -> bool) -> bool {
    let bytes = text.as_bytes();
    match (bytes.first(), bytes.last()) {
        (Some(&first), Some(&last)) => edge(first) && edge(last) && bytes.iter().all(|&b| inner(b)),
        _ => false,
    }
}

fn is_dns_label(text: &str) -> bool {
    let edge = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    text.len() <= 63 && bounded_by_alphanumerics(text, |b| edge(b) || b == b'-', edge)
}

fn is_dns_subdomain(text: &str) -> bool {
    let edge = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    text.len() <= 253
        && text.split('.').all(|part| bounded_by_alphanumerics(part, |b| edge(b) || b == b'-', edge))
}

fn is_qualified_name(text: &str) -> bool {
    let edge = |b: u8| b.is_ascii_alphanumeric();
    text.len() <= 63 && bounded_by_alphanumerics(text, |b| edge(b) || matches!(b, b'-' | b'_' | b'.'), edge)
}
