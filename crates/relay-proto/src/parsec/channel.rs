//! Names of channels.

use std::fmt;
use std::str::FromStr;

/// The name of a channel by the server's grammar: `<public|private>:<app>.<domain>[.<id>[.<topic>]]`.
///
/// Each part is of `a-z`, `0-9`, `_` and `-`, a private one has at least three, and the whole at most 256 bytes.
/// Clients do not enforce it: another server may have another grammar.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ChannelName(Box<str>);

/// Why a text is not the name of a channel; `Display` states the rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidChannel {
    /// Longer than [`ChannelName::MAX_BYTES`].
    #[error("a channel name has at most 256 bytes")]
    TooLong,
    /// It does not begin with `public:` or `private:`.
    #[error("a channel name begins with public: or private:")]
    Visibility,
    /// Fewer than two parts or more than four.
    #[error("a channel name has 2 to 4 parts, separated by dots, after its first colon")]
    Parts,
    /// A private channel of two parts.
    #[error("a private channel has at least 3 parts, separated by dots")]
    PrivateParts,
    /// A part is empty or has other characters.
    #[error("each part of a channel name is one or more of a-z, 0-9, _ and -")]
    Characters,
}

impl ChannelName {
    /// Bytes of the longest name.
    pub const MAX_BYTES: usize = 256;

    /// Checks that a text follows the grammar.
    ///
    /// # Errors
    /// [`InvalidChannel`], the first rule that is broken.
    pub fn new(name: &str) -> Result<Self, InvalidChannel> {
        if name.len() > Self::MAX_BYTES {
            return Err(InvalidChannel::TooLong);
        }
        let private = name.starts_with("private:");
        let rest = name.strip_prefix("public:").or_else(|| name.strip_prefix("private:"));
        let rest = rest.ok_or(InvalidChannel::Visibility)?;
        let parts = rest.split('.').count();
        let plain = |part: &str| {
            !part.is_empty() && part.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-'))
        };
        if !rest.split('.').all(plain) {
            return Err(InvalidChannel::Characters);
        }
        match parts {
            2..=4 if !private || parts > 2 => Ok(Self(name.into())),
            2 => Err(InvalidChannel::PrivateParts),
            _ => Err(InvalidChannel::Parts),
        }
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it begins with `private:`.
    pub fn is_private(&self) -> bool {
        self.0.starts_with("private:")
    }
}

impl fmt::Display for ChannelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for ChannelName {
    type Err = InvalidChannel;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::new(text)
    }
}

impl AsRef<str> for ChannelName {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_grammar() {
        use InvalidChannel::{Characters, Parts, PrivateParts, TooLong, Visibility};
        let long = format!("public:a.{}", "b".repeat(300));
        for (name, verdict) in [
            ("public:app.domain", Ok(())),
            ("public:app.domain.id.topic", Ok(())),
            ("public:a-1.b_2", Ok(())),
            ("private:a.b.42", Ok(())),
            ("private:a.b", Err(PrivateParts)),
            ("public:a", Err(Parts)),
            ("public:a.b.c.d.e", Err(Parts)),
            ("public:a..b", Err(Characters)),
            ("public:a.b:c", Err(Characters)),
            ("public:A.b", Err(Characters)),
            ("public:a.b/c", Err(Characters)),
            ("public:a.b%41", Err(Characters)),
            ("public:a.b\r\nx", Err(Characters)),
            ("public:", Err(Characters)),
            ("", Err(Visibility)),
            ("sessions:a.b", Err(Visibility)),
            (long.as_str(), Err(TooLong)),
        ] {
            assert_eq!(ChannelName::new(name).map(drop), verdict, "{name:?}");
        }
        assert!(ChannelName::new("private:a.b.c").unwrap().is_private());
    }
}
