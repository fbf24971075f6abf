//! Keys: secrets in messages.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use crate::secret::same_in_constant_time;

/// `***`, and the last four characters of a key that is long enough.
fn masked(key: &str) -> String {
    let last = key.char_indices().rev().nth(3).filter(|_| key.chars().nth(11).is_some());
    last.map_or_else(|| "***".to_owned(), |(at, _)| format!("***{}", &key[at..]))
}

/// A key in a message. It prints in its masked form and is compared in constant time.
#[derive(Clone, Default)]
pub struct KeyText<'a>(Cow<'a, str>);

impl<'a> KeyText<'a> {
    /// Wraps the text.
    pub fn new(text: impl Into<Cow<'a, str>>) -> Self {
        Self(text.into())
    }

    /// Whether there is no key.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The key itself: for comparing and for keeping, not for a log.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// `***`, and the last four characters when there are at least twelve.
    pub fn masked(&self) -> String {
        masked(&self.0)
    }

    /// The same, without the message that it was borrowed from.
    pub fn into_owned(self) -> KeyText<'static> {
        KeyText(Cow::Owned(self.0.into_owned()))
    }
}

impl PartialEq for KeyText<'_> {
    fn eq(&self, other: &Self) -> bool {
        same_in_constant_time(self.0.as_bytes(), other.0.as_bytes())
    }
}

impl Eq for KeyText<'_> {}

impl fmt::Debug for KeyText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.masked())
    }
}

macro_rules! key {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        ///
        /// It prints in its masked form, is compared in constant time, and cannot be serialised. Clones share the
        /// text.
        #[derive(Clone)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Wraps the text.
            pub fn new(text: impl Into<Arc<str>>) -> Self {
                Self(text.into())
            }

            /// The key itself: for a header or a look-up, not for a log.
            pub fn reveal(&self) -> &str {
                &self.0
            }

            /// `***`, and the last four characters when there are at least twelve.
            pub fn masked(&self) -> String {
                masked(&self.0)
            }

            /// Whether this is that key.
            pub fn is(&self, key: &str) -> bool {
                same_in_constant_time(self.0.as_bytes(), key.as_bytes())
            }
        }

        impl PartialEq for $name {
            fn eq(&self, other: &Self) -> bool {
                self.is(&other.0)
            }
        }

        impl Eq for $name {}

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.masked())
            }
        }

        impl From<&str> for $name {
            fn from(text: &str) -> Self {
                Self::new(text)
            }
        }

        impl From<String> for $name {
            fn from(text: String) -> Self {
                Self::new(text)
            }
        }
    };
}

key! {
    /// The credential of a server-side program for an environment.
    SdkKey
}
key! {
    /// The credential of a mobile program for an environment.
    MobileKey
}
key! {
    /// The credential of a proxy for its auto-configuration stream.
    AutoConfigKey
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_end_of_a_long_key_is_shown() {
        for (key, shown) in [
            ("", "***"),
            ("abcd", "***"),
            ("12345678901", "***"),
            ("123456789012", "***9012"),
            ("sdk-äöü-äöüß", "***äöüß"),
        ] {
            assert_eq!(SdkKey::new(key).masked(), shown, "{key}");
            assert_eq!(format!("{:?}", MobileKey::new(key)), shown);
            assert_eq!(format!("{:?}", KeyText::new(key)), shown);
        }
        assert_eq!(SdkKey::from("a"), SdkKey::from("a".to_owned()));
        assert_ne!(AutoConfigKey::new("a"), AutoConfigKey::new("b"));
    }
}
