//! Names of logs.

use std::fmt;
use std::sync::Arc;

/// The name of a log within a store: 1 to 2048 bytes of text without control characters. Cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogName(Arc<str>);

impl LogName {
    /// Bytes that a name may have.
    pub const MAX_LEN: usize = 2048;

    /// Checks a name.
    ///
    /// # Errors
    /// [`BadName`] when it is empty, too long, or has a control character.
    pub fn new(name: &str) -> Result<Self, BadName> {
        let rule = if name.is_empty() {
            "a name is not empty"
        } else if name.len() > Self::MAX_LEN {
            "a name has at most 2048 bytes"
        } else if name.chars().any(char::is_control) {
            "a name has no control characters"
        } else {
            return Ok(Self(name.into()));
        };
        Err(BadName { given: name.chars().take(64).collect(), rule })
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for LogName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for LogName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LogName({:?})", &*self.0)
    }
}

impl TryFrom<&str> for LogName {
    type Error = BadName;

    fn try_from(name: &str) -> Result<Self, BadName> {
        Self::new(name)
    }
}

/// A name that no log can have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a log cannot be named {given:?}: {rule}")]
#[non_exhaustive]
pub struct BadName {
    /// The name, cut after 64 characters.
    pub given: String,
    /// The rule it breaks.
    pub rule: &'static str,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_any_text_that_can_be_printed() {
        for name in ["a", "/v1/stream/ünï code", "..", "~", &"x".repeat(2048)] {
            assert_eq!(LogName::new(name).unwrap().as_str(), name);
        }
        for name in ["", "a\0", "a\nb", &"x".repeat(2049)] {
            assert!(LogName::new(name).is_err(), "{name:?}");
        }
        let error = LogName::new(&"x".repeat(3000)).unwrap_err().to_string();
        assert!(error.len() < 200 && error.contains("2048 bytes"), "{error}");
    }
}
