//! What a consumer wants to see: namespaces (any of) and labels (all of).

use std::collections::BTreeSet;
use std::fmt;

use super::Pod;

/// Namespaces and label matches that narrow a list, a history or a stream.
///
/// Namespaces are alternatives; label matches must all hold. The default filter lets everything through.
/// Its `Display` is canonical: equal filters print alike, whatever the order they were built in.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Filter {
    namespaces: BTreeSet<String>,
    labels: BTreeSet<LabelMatch>,
}

/// One label condition: the key is present, or present with this value.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LabelMatch {
    key: String,
    value: Option<String>,
}

impl Filter {
    /// A filter that lets everything through.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a namespace to the alternatives.
    ///
    /// # Errors
    /// When it is not a DNS-1123 label.
    pub fn namespace(mut self, namespace: &str) -> Result<Self, InvalidParameter> {
        check_namespace(namespace)?;
        self.namespaces.insert(namespace.into());
        Ok(self)
    }

    /// Adds a label condition, written `key=value`, or `key` for "present".
    ///
    /// # Errors
    /// When key or value break Kubernetes' label syntax.
    pub fn label(mut self, condition: &str) -> Result<Self, InvalidParameter> {
        self.labels.insert(LabelMatch::parse(condition)?);
        Ok(self)
    }

    /// The namespaces, sorted; empty means all.
    pub fn namespaces(&self) -> impl ExactSizeIterator<Item = &str> {
        self.namespaces.iter().map(String::as_str)
    }

    /// The label conditions, sorted.
    pub fn labels(&self) -> impl ExactSizeIterator<Item = &LabelMatch> {
        self.labels.iter()
    }

    /// Whether nothing is filtered out.
    pub fn is_empty(&self) -> bool {
        self.namespaces.is_empty() && self.labels.is_empty()
    }

    /// Whether a pod passes.
    pub fn matches(&self, pod: &Pod) -> bool {
        self.matches_namespace(pod.namespace()) && self.matches_labels(|key| pod.label(key))
    }

    /// Whether a namespace passes the namespace part alone.
    pub fn matches_namespace(&self, namespace: &str) -> bool {
        self.namespaces.is_empty() || self.namespaces.contains(namespace)
    }

    /// Whether labels, given as a look-up, pass the label part alone.
    pub fn matches_labels<'a>(&self, label: impl Fn(&str) -> Option<&'a str>) -> bool {
        self.labels.iter().all(|want| match (label(&want.key), &want.value) {
            (Some(_), None) => true,
            (Some(have), Some(value)) => have == value,
            (None, _) => false,
        })
    }
}

impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let namespaces = self.namespaces.iter().map(|n| format!("namespace={n}"));
        let labels = self.labels.iter().map(|l| format!("label={l}"));
        f.write_str(&namespaces.chain(labels).collect::<Vec<_>>().join("&"))
    }
}

impl LabelMatch {
    /// Parses `key=value` or `key`.
    ///
    /// # Errors
    /// When key or value break Kubernetes' label syntax.
    pub fn parse(condition: &str) -> Result<Self, InvalidParameter> {
        let invalid = |rule| InvalidParameter::new("label", condition, rule);
        let (key, value) = match condition.split_once('=') {
            Some((key, value)) => (key, Some(value)),
            None => (condition, None),
        };
        let name = match key.split_once('/') {
            Some((prefix, name)) => {
                if !is_dns_subdomain(prefix) {
                    return Err(invalid(
                        "the prefix of a label key is a DNS-1123 subdomain of at most 253 characters",
                    ));
                }
                name
            }
            None => key,
        };
        if !is_qualified_name(name) {
            return Err(invalid(
                "a label key is 1 to 63 letters, digits, '-', '_' or '.', and begins and ends with a letter or digit",
            ));
        }
        if let Some(value) = value
            && !value.is_empty()
            && !is_qualified_name(value)
        {
            return Err(invalid(
                "a label value is at most 63 letters, digits, '-', '_' or '.', and begins and ends with a letter or digit",
            ));
        }
        Ok(Self { key: key.into(), value: value.map(Into::into) })
    }

    /// The label's key.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// The value asked for; `None` when the key's presence is enough.
    pub fn value(&self) -> Option<&str> {
        self.value.as_deref()
    }
}

impl fmt::Display for LabelMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.key)?;
        self.value.as_ref().map_or(Ok(()), |value| write!(f, "={value}"))
    }
}

/// A parameter that breaks a rule: names the parameter, the value (cut to 80 characters) and the rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{parameter} {value:?}: {rule}")]
pub struct InvalidParameter {
    parameter: &'static str,
    value: String,
    rule: &'static str,
}

impl InvalidParameter {
    /// An error about `parameter`; the value is cut to 80 characters.
    pub fn new(parameter: &'static str, value: &str, rule: &'static str) -> Self {
        Self { parameter, value: value.chars().take(80).collect(), rule }
    }

    /// The parameter's name.
    pub fn parameter(&self) -> &'static str {
        self.parameter
    }

    /// The rule it broke.
    pub fn rule(&self) -> &'static str {
        self.rule
    }
}

fn check_namespace(namespace: &str) -> Result<(), InvalidParameter> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn label_syntax_is_that_of_kubernetes() {
        for good in ["app", "app=web", "app=", "a.b/c=d", "example.com/app_1=V.2-x", "a=1"] {
            assert!(LabelMatch::parse(good).is_ok(), "{good}");
        }
        let long = format!("a={}", "x".repeat(64));
        for bad in
            ["", "=x", "-a=b", "a b=c", "a=b c", "a==b", "/a=b", "a/b/c=d", "A.com/x=y", "a=-b", "ä=1", &long]
        {
            assert_eq!(LabelMatch::parse(bad).unwrap_err().parameter(), "label", "{bad}");
        }
    }

    #[test]
    fn namespaces_are_dns_labels() {
        for good in ["a", "kube-system", "0a", &"x".repeat(63)] {
            assert!(Filter::new().namespace(good).is_ok(), "{good}");
        }
        for bad in ["", "-a", "a-", "A", "a.b", "a/b", &"x".repeat(64)] {
            assert_eq!(Filter::new().namespace(bad).unwrap_err().parameter(), "namespace", "{bad}");
        }
    }

    #[test]
    fn namespaces_are_alternatives_and_labels_all_hold() {
        let pod =
            Pod::from_json(r#"{"namespace":"prod","name":"a","labels":{"app":"web","run":"d"}}"#).unwrap();
        let cases: &[(&[&str], &[&str], bool)] = &[
            (&[], &[], true),
            (&["prod"], &[], true),
            (&["dev", "prod"], &[], true),
            (&["dev"], &[], false),
            (&[], &["app"], true),
            (&[], &["app=web", "run=d"], true),
            (&[], &["app=web", "run=e"], false),
            (&[], &["tier"], false),
            (&["dev"], &["app=web"], false),
        ];
        for (namespaces, labels, expected) in cases {
            let mut filter = Filter::new();
            for namespace in *namespaces {
                filter = filter.namespace(namespace).unwrap();
            }
            for label in *labels {
                filter = filter.label(label).unwrap();
            }
            assert_eq!(filter.matches(&pod), *expected, "{filter}");
        }
    }

    #[test]
    fn display_is_canonical() {
        let one = Filter::new()
            .label("b=1")
            .unwrap()
            .namespace("z")
            .unwrap()
            .label("a")
            .unwrap()
            .namespace("y")
            .unwrap();
        assert_eq!(one.to_string(), "namespace=y&namespace=z&label=a&label=b=1");
        assert_eq!(Filter::new().to_string(), "");
    }
}
