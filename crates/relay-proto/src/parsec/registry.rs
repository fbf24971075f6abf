//! The patterns of a system, with their schemas and versions.

mod document;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Bindings, InvalidPattern, Pattern, Schema};
use crate::time::Timestamp;

/// The declaration of channels that match a pattern.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ChannelPattern {
    /// The pattern's text; see [`Pattern`].
    pub pattern: String,
    /// A description.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// The version, from 1; 0 requests the next one.
    #[serde(default)]
    pub version: u64,
    /// The aspects, by name. In strict mode a channel with a pattern accepts no others.
    #[serde(default)]
    pub aspects: BTreeMap<String, AspectSchema>,
    /// Roles, for documentation only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acl: Option<Access>,
}

/// The declaration of an aspect.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub struct AspectSchema {
    /// Its name again, if it is present.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// A description.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// The schema of payloads; none for any payload.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payload_schema: Option<Schema>,
    /// Whether every such channel should have it: documentation only.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub required: bool,
}

/// Roles, for documentation only.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Access {
    /// The roles that publish.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub publish_roles: Vec<String>,
    /// The roles that subscribe.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub subscribe_roles: Vec<String>,
    /// Notes.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub notes: String,
}

/// All patterns at one moment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct RegistrySnapshot {
    /// Sorted by their texts.
    pub patterns: Vec<ChannelPattern>,
    /// The time of the snapshot.
    pub at: Timestamp,
}

/// A change of a registry.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Change {
    /// The kind of change.
    pub kind: ChangeKind,
    /// The pattern.
    pub pattern: String,
    /// The new declaration; `None` when it was removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schema: Option<ChannelPattern>,
    /// The time.
    pub at: Timestamp,
}

/// What happened to a pattern.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ChangeKind {
    /// It was added.
    Registered,
    /// Its version changed.
    Updated,
    /// It was removed.
    Deregistered,
}

/// An error of a registry. Names the pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RegistryError {
    /// The text is not a pattern.
    #[error(transparent)]
    Invalid(#[from] InvalidPattern),
    /// The pattern exists already.
    #[error("pattern {0:?} is registered already")]
    Conflict(String),
    /// The pattern does not exist.
    #[error("pattern {0:?} is not registered")]
    NotFound(String),
    /// No pattern matches the channel.
    #[error("no pattern matches channel {0:?}")]
    NoMatch(String),
    /// The matching pattern does not declare the aspect.
    #[error("pattern {pattern:?} declares no aspect {aspect:?}")]
    AspectNotFound {
        /// The pattern that matches.
        pattern: String,
        /// The requested aspect.
        aspect: String,
    },
    /// A document is neither `{"patterns":[..]}` nor a list of patterns.
    #[error("not a list of patterns: {0}")]
    Document(String),
    /// Part of a document is not what may stand there.
    #[error("{place}: {problem}")]
    Part {
        /// The part, such as `patterns[0].aspects.said`.
        place: String,
        /// What is wrong with it: names an unknown member and those that are known.
        problem: String,
    },
}

/// Patterns by their text, with their former versions. A plain value: each change is returned, and nobody is notified.
#[derive(Debug, Clone, Default)]
pub struct Registry {
    entries: BTreeMap<String, Registered>,
}

#[derive(Debug, Clone)]
struct Registered {
    pattern: Pattern,
    /// The newest is the last; never empty.
    versions: Vec<ChannelPattern>,
}

impl Registry {
    /// Reads `{"patterns":[..]}` or a bare list of [`ChannelPattern`]s.
    ///
    /// # Errors
    /// [`RegistryError`], naming the pattern and the rule.
    pub fn from_json(text: &[u8]) -> Result<Self, RegistryError> {
        #[derive(Deserialize)]
        struct Document {
            patterns: Vec<ChannelPattern>,
        }
        let list = text.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'[');
        let patterns = if list {
            serde_json::from_slice(text)
        } else {
            serde_json::from_slice::<Document>(text).map(|document| document.patterns)
        };
        let patterns: Vec<ChannelPattern> = patterns.map_err(|e| RegistryError::Document(e.to_string()))?;
        let mut registry = Self::default();
        registry.load(patterns)?;
        Ok(registry)
    }

    /// Reads a document that somebody wrote: as [`Registry::from_json`], but unknown members of the document, of its
    /// patterns and of their aspects are mistakes. Where `schema` stands for `payload_schema`, any payload would pass.
    ///
    /// # Errors
    /// [`RegistryError`], naming the pattern or the place, and the rule.
    pub fn from_written_json(text: &[u8]) -> Result<Self, RegistryError> {
        if let Ok(document) = serde_json::from_slice(text) {
            document::check(&document).map_err(|(place, problem)| RegistryError::Part { place, problem })?;
        }
        Self::from_json(text)
    }

    /// Adds a pattern; a version of 0 becomes 1.
    ///
    /// # Errors
    /// [`RegistryError::Conflict`] when it exists, [`RegistryError::Invalid`] when the text is not a pattern.
    pub fn register(&mut self, mut entry: ChannelPattern, at: Timestamp) -> Result<Change, RegistryError> {
        let pattern = Pattern::parse(&entry.pattern)?;
        if self.entries.contains_key(&entry.pattern) {
            return Err(RegistryError::Conflict(entry.pattern));
        }
        entry.version = entry.version.max(1);
        let name = entry.pattern.clone();
        self.entries.insert(name.clone(), Registered { pattern, versions: vec![entry.clone()] });
        Ok(Change { kind: ChangeKind::Registered, pattern: name, schema: Some(entry), at })
    }

    /// Sets another version of a pattern; 0 becomes the next one. The former version is kept in its history.
    ///
    /// # Errors
    /// [`RegistryError::NotFound`].
    pub fn update(&mut self, mut entry: ChannelPattern, at: Timestamp) -> Result<Change, RegistryError> {
        let Some(known) = self.entries.get_mut(&entry.pattern) else {
            return Err(RegistryError::NotFound(entry.pattern));
        };
        if entry.version == 0 {
            entry.version = known.versions.last().map_or(1, |last| last.version + 1);
        }
        known.versions.push(entry.clone());
        Ok(Change { kind: ChangeKind::Updated, pattern: entry.pattern.clone(), schema: Some(entry), at })
    }

    /// Removes a pattern, with its history.
    ///
    /// # Errors
    /// [`RegistryError::NotFound`].
    pub fn deregister(&mut self, pattern: &str, at: Timestamp) -> Result<Change, RegistryError> {
        match self.entries.remove(pattern) {
            Some(_) => {
                Ok(Change { kind: ChangeKind::Deregistered, pattern: pattern.to_owned(), schema: None, at })
            }
            None => Err(RegistryError::NotFound(pattern.to_owned())),
        }
    }

    /// The most specific pattern that matches a channel, and the values of its variables.
    ///
    /// # Errors
    /// [`RegistryError::NoMatch`].
    pub fn resolve(&self, channel: &str) -> Result<(&ChannelPattern, Bindings), RegistryError> {
        let matching =
            self.entries.values().filter_map(|entry| Some((entry, entry.pattern.matches(channel)?)));
        let best = matching.max_by(|(a, _), (b, _)| a.pattern.precedence(&b.pattern));
        best.and_then(|(entry, bindings)| Some((entry.versions.last()?, bindings)))
            .ok_or_else(|| RegistryError::NoMatch(channel.to_owned()))
    }

    /// The declaration of an aspect by the pattern that matches a channel.
    ///
    /// # Errors
    /// [`RegistryError::NoMatch`], [`RegistryError::AspectNotFound`].
    pub fn resolve_aspect(&self, channel: &str, aspect: &str) -> Result<&AspectSchema, RegistryError> {
        let (entry, _) = self.resolve(channel)?;
        entry.aspects.get(aspect).ok_or_else(|| RegistryError::AspectNotFound {
            pattern: entry.pattern.clone(),
            aspect: aspect.to_owned(),
        })
    }

    /// The newest version of a pattern.
    pub fn get(&self, pattern: &str) -> Option<&ChannelPattern> {
        self.history(pattern).last()
    }

    /// All versions of a pattern, oldest first; empty when it does not exist.
    pub fn history(&self, pattern: &str) -> &[ChannelPattern] {
        self.entries.get(pattern).map_or(&[], |entry| &entry.versions)
    }

    /// The newest versions, sorted by pattern.
    pub fn list(&self) -> impl Iterator<Item = &ChannelPattern> {
        self.entries.values().filter_map(|entry| entry.versions.last())
    }

    /// A snapshot of everything, which can be sent.
    pub fn snapshot(&self, at: Timestamp) -> RegistrySnapshot {
        RegistrySnapshot { patterns: self.list().cloned().collect(), at }
    }

    /// Replaces everything by a snapshot. Histories are dropped.
    ///
    /// # Errors
    /// As [`register`](Self::register). After an error nothing has changed.
    pub fn load_snapshot(&mut self, snapshot: RegistrySnapshot) -> Result<(), RegistryError> {
        self.load(snapshot.patterns)
    }

    fn load(&mut self, patterns: Vec<ChannelPattern>) -> Result<(), RegistryError> {
        let mut loaded = Self::default();
        for entry in patterns {
            loaded.register(entry, Timestamp::new(""))?;
        }
        *self = loaded;
        Ok(())
    }

    /// Whether there is no pattern.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(pattern: &str) -> ChannelPattern {
        ChannelPattern { pattern: pattern.into(), ..ChannelPattern::default() }
    }

    fn now() -> Timestamp {
        Timestamp::new("2026-05-27T14:22:09Z")
    }

    /// Behaviours 18 to 21 and 24.
    #[test]
    fn behaviours_18_20_and_21_versions_and_changes() {
        let mut registry = Registry::default();
        let change = registry.register(entry("sessions:{id}.events"), now()).unwrap();
        assert_eq!((change.kind, change.schema.unwrap().version), (ChangeKind::Registered, 1));
        let again = registry.register(entry("sessions:{id}.events"), now());
        assert_eq!(again, Err(RegistryError::Conflict("sessions:{id}.events".into())));
        let (found, bindings) = registry.resolve("sessions:s.events").unwrap();
        assert_eq!((found.version, bindings["id"].as_str()), (1, "s"));

        let change = registry.update(entry("sessions:{id}.events"), now()).unwrap();
        assert_eq!((change.kind, change.schema.unwrap().version), (ChangeKind::Updated, 2));
        let versions: Vec<_> = registry.history("sessions:{id}.events").iter().map(|e| e.version).collect();
        assert_eq!(versions, [1, 2]);
        assert_eq!(registry.update(entry("x"), now()), Err(RegistryError::NotFound("x".into())));

        registry.register(entry("sessions:**"), now()).unwrap();
        assert_eq!(registry.resolve("sessions:s.events").unwrap().0.pattern, "sessions:{id}.events");
        assert_eq!(registry.resolve("sessions:s.more").unwrap().0.pattern, "sessions:**");
        assert_eq!(registry.resolve("x"), Err(RegistryError::NoMatch("x".into())));
        let missing = registry.resolve_aspect("sessions:s.more", "a").unwrap_err();
        assert_eq!(missing.to_string(), "pattern \"sessions:**\" declares no aspect \"a\"");

        let mut copy = Registry::default();
        copy.load_snapshot(registry.snapshot(now())).unwrap();
        assert_eq!(copy.list().collect::<Vec<_>>(), registry.list().collect::<Vec<_>>());
        assert_eq!(copy.history("sessions:{id}.events").len(), 1);

        let change = registry.deregister("sessions:{id}.events", now()).unwrap();
        assert_eq!((change.kind, change.schema), (ChangeKind::Deregistered, None));
        assert!(registry.get("sessions:{id}.events").is_none());
        let written = serde_json::to_string(&Change { schema: None, ..change }).unwrap();
        assert_eq!(
            written,
            r#"{"kind":"deregistered","pattern":"sessions:{id}.events","at":"2026-05-27T14:22:09Z"}"#
        );
    }

    #[test]
    fn documents_are_read_in_both_forms_and_mistakes_name_the_pattern() {
        for text in [r#"{"patterns":[{"pattern":"a.b"}]}"#, r#" [{"pattern":"a.b","unknown":1}]"#] {
            assert_eq!(Registry::from_json(text.as_bytes()).unwrap().get("a.b").unwrap().version, 1);
        }
        for (text, word) in [
            (r#"[{"pattern":"a..b"}]"#, "\"a..b\""),
            (r#"[{"pattern":"a"},{"pattern":"a"}]"#, "\"a\" is registered already"),
            ("{}", "patterns"),
            ("nonsense", "not a list of patterns"),
        ] {
            let error = Registry::from_json(text.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
    }
}
