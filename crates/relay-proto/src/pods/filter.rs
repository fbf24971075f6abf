//! Filters: namespaces (any of) and labels (a selector).

use std::collections::BTreeSet;
use std::fmt;

use super::parameter::{InvalidParameter, check_namespace};
use super::{Pod, Selector};

/// Namespaces and a label selector that narrow a list, a history or a stream.
///
/// Namespaces are alternatives; the conditions of the selector must all hold. The default filter matches
/// everything. Its `Display` is canonical: equal filters print alike, in whatever order they were built.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Filter {
    namespaces: BTreeSet<String>,
    labels: Selector,
}

impl Filter {
    /// A filter that matches everything.
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

    /// Adds label conditions, as [`Selector::parse`] reads them: `app=web`, `tier in (a,b),!canary`.
    ///
    /// # Errors
    /// When the text is malformed; it says where.
    pub fn label(self, selector: &str) -> Result<Self, InvalidParameter> {
        Ok(self.selector(Selector::parse(selector)?))
    }

    /// Adds the conditions of a selector.
    #[must_use]
    pub fn selector(mut self, selector: Selector) -> Self {
        self.labels = self.labels.and(selector);
        self
    }

    /// The namespaces, sorted; empty means all.
    pub fn namespaces(&self) -> impl ExactSizeIterator<Item = &str> {
        self.namespaces.iter().map(String::as_str)
    }

    /// The label conditions.
    pub fn labels(&self) -> &Selector {
        &self.labels
    }

    /// Whether it matches everything.
    pub fn is_empty(&self) -> bool {
        self.namespaces.is_empty() && self.labels.is_empty()
    }

    /// Whether a pod passes.
    pub fn matches(&self, pod: &Pod) -> bool {
        self.matches_namespace(pod.namespace()) && self.matches_labels(|key| pod.label(key))
    }

    /// Whether a namespace passes the namespace part.
    pub fn matches_namespace(&self, namespace: &str) -> bool {
        self.namespaces.is_empty() || self.namespaces.contains(namespace)
    }

    /// Whether labels, given as a look-up, pass the label part.
    pub fn matches_labels<'a>(&self, label: impl Fn(&str) -> Option<&'a str>) -> bool {
        self.labels.matches(label)
    }
}

impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let namespaces = self.namespaces.iter().map(|n| format!("namespace={n}"));
        let labels = self.labels.requirements().map(|l| format!("label={l}"));
        f.write_str(&namespaces.chain(labels).collect::<Vec<_>>().join("&"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
            (&["prod"], &["app in (api,web),!canary", "run!=e"], true),
            (&["prod"], &["app in (api,web),!run"], false),
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
        let other =
            Filter::new().label("b in (1),a, a").unwrap().namespace("z").unwrap().namespace("y").unwrap();
        assert_eq!(one, other);
    }
}
