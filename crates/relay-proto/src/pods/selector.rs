//! Label selectors in Kubernetes' grammar.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::parameter::InvalidParameter;
use parser::{Condition, Parser};

mod parser;
#[cfg(test)]
mod tests;

/// A label selector: conditions that must all hold. The default one matches everything.
///
/// It reads the whole grammar of Kubernetes' selectors: `a=b`, `a==b`, `a!=b`, `a in (b,c)`, `a notin (b,c)`, `a`
/// (the label exists), `!a` (it does not), with commas that mean "and". As in Kubernetes, `!=` and `notin` also
/// match objects without the label. The comparison of numbers (`a>1`), which the API has for nodes, is not
/// supported.
///
/// It is kept in a canonical form: equivalent selectors are equal and print alike, so `a==b`, `a in (b)`, and `a in
/// (b,c),a!=c` are all `a=b`.
///
/// ```
/// use relay_proto::pods::Selector;
///
/// let selector = Selector::parse("tier in (web, api), !canary")?;
/// assert!(selector.matches(|key| (key == "tier").then_some("api")));
/// assert_eq!(selector.to_string(), "!canary,tier in (api,web)");
/// assert!(Selector::parse("tier in web").unwrap_err().to_string().contains("at character 9"));
/// # Ok::<(), relay_proto::pods::InvalidParameter>(())
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Selector {
    keys: BTreeMap<String, Condition>,
}

/// One condition of a [`Selector`] in its canonical form, from [`Selector::requirements`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Requirement<'a> {
    key: &'a str,
    ask: Ask<'a>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ask<'a> {
    In(&'a BTreeSet<String>),
    NotIn(&'a BTreeSet<String>),
    Present,
    Absent,
}

impl Selector {
    /// Parses a selector. An empty text matches everything.
    ///
    /// # Errors
    /// When the text breaks the grammar, or a key or value Kubernetes' syntax of labels. The error has the
    /// position.
    pub fn parse(text: &str) -> Result<Self, InvalidParameter> {
        let mut selector = Self::default();
        Parser::new(text).conditions(|key, condition| selector.add(key, condition))?;
        Ok(selector)
    }

    /// Adds the conditions of `other`.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        for (key, condition) in other.keys {
            self.add(key, condition);
        }
        self
    }

    /// Whether it matches everything.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Whether labels, given as a look-up, meet all conditions.
    pub fn matches<'a>(&self, label: impl Fn(&str) -> Option<&'a str>) -> bool {
        self.keys.iter().all(|(key, condition)| condition.holds(label(key)))
    }

    /// The conditions as they are written, sorted by key; together they are the selector.
    pub fn requirements(&self) -> impl Iterator<Item = Requirement<'_>> {
        self.keys.iter().flat_map(|(key, condition)| {
            let asks = match condition {
                Condition::In(values) => [Some(Ask::In(values)), None],
                Condition::NotIn { values, present } => {
                    [present.then_some(Ask::Present), Some(Ask::NotIn(values))]
                }
                Condition::Present => [Some(Ask::Present), None],
                Condition::Absent => [Some(Ask::Absent), None],
                Condition::Never => [Some(Ask::Present), Some(Ask::Absent)],
            };
            asks.into_iter().flatten().map(move |ask| Requirement { key, ask })
        })
    }

    fn add(&mut self, key: String, condition: Condition) {
        let both = match self.keys.remove(&key) {
            Some(held) => held.and(condition),
            None => condition,
        };
        self.keys.insert(key, both);
    }
}

impl Condition {
    fn holds(&self, label: Option<&str>) -> bool {
        match (self, label) {
            (Self::In(values), Some(value)) => values.contains(value),
            (Self::NotIn { values, .. }, Some(value)) => !values.contains(value),
            (Self::NotIn { present, .. }, None) => !present,
            (Self::Present, label) => label.is_some(),
            (Self::Absent, label) => label.is_none(),
            (Self::In(_), None) | (Self::Never, _) => false,
        }
    }

    /// The conjunction of both.
    fn and(self, other: Self) -> Self {
        let one_of =
            |values: BTreeSet<String>| if values.is_empty() { Self::Never } else { Self::In(values) };
        match (self, other) {
            (Self::Never, _) | (_, Self::Never) => Self::Never,
            (Self::Absent, Self::Absent | Self::NotIn { present: false, .. })
            | (Self::NotIn { present: false, .. }, Self::Absent) => Self::Absent,
            (Self::Absent, _) | (_, Self::Absent) => Self::Never,
            (Self::In(a), Self::In(b)) => one_of(a.intersection(&b).cloned().collect()),
            (Self::In(a), Self::NotIn { values: b, .. }) | (Self::NotIn { values: b, .. }, Self::In(a)) => {
                one_of(a.difference(&b).cloned().collect())
            }
            (Self::In(a), Self::Present) | (Self::Present, Self::In(a)) => Self::In(a),
            (Self::NotIn { values, .. }, Self::Present) | (Self::Present, Self::NotIn { values, .. }) => {
                Self::NotIn { values, present: true }
            }
            (Self::NotIn { mut values, present }, Self::NotIn { values: more, present: also }) => {
                values.extend(more);
                Self::NotIn { values, present: present || also }
            }
            (Self::Present, Self::Present) => Self::Present,
        }
    }
}

impl<'a> Requirement<'a> {
    /// The label's key.
    pub fn key(&self) -> &'a str {
        self.key
    }
}

impl fmt::Display for Requirement<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = self.key;
        let (one, many, values) = match self.ask {
            Ask::Present => return f.write_str(key),
            Ask::Absent => return write!(f, "!{key}"),
            Ask::In(values) => ("=", "in", values),
            Ask::NotIn(values) => ("!=", "notin", values),
        };
        if let (Some(value), 1) = (values.first(), values.len()) {
            return write!(f, "{key}{one}{value}");
        }
        write!(f, "{key} {many} (")?;
        for (at, value) in values.iter().enumerate() {
            write!(f, "{}{value}", if at == 0 { "" } else { "," })?;
        }
        f.write_str(")")
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, requirement) in self.requirements().enumerate() {
            write!(f, "{}{requirement}", if at == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

impl std::str::FromStr for Selector {
    type Err = InvalidParameter;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}
