//! The identity of a log: epoch and key.

use std::fmt;

/// A log's epoch and key.
///
/// Within an epoch no position is ever used for two entries. A log that may have lost announced entries begins a
/// new one. The key is 32 secret bytes for making cursors or seals; it is stored with the entries, and never
/// printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Identity {
    epoch: Box<str>,
    key: Key,
}

impl Identity {
    /// Characters that an epoch may have.
    pub const MAX_EPOCH_LEN: usize = 64;

    /// A new epoch of 22 URL-safe characters, and a new key, from the operating system's randomness.
    ///
    /// # Panics
    /// When the operating system has no randomness to give.
    pub fn random() -> Self {
        let mut key = [0; 32];
        getrandom::fill(&mut key).expect("the operating system gives random bytes");
        Self { epoch: random_epoch(), key: Key::new(key) }
    }

    /// A given epoch and key; `None` unless the epoch is 1 to 64 letters, digits, `-` or `_` of ASCII.
    pub fn new(epoch: &str, key: Key) -> Option<Self> {
        let fits = (1..=Self::MAX_EPOCH_LEN).contains(&epoch.len())
            && epoch.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'));
        fits.then(|| Self { epoch: epoch.into(), key })
    }

    /// The same key in a new, random epoch.
    ///
    /// # Panics
    /// When the operating system has no randomness to give.
    #[must_use]
    pub fn next_epoch(&self) -> Self {
        Self { epoch: random_epoch(), key: self.key.clone() }
    }

    /// The epoch.
    pub fn epoch(&self) -> &str {
        &self.epoch
    }

    /// The key.
    pub fn key(&self) -> &Key {
        &self.key
    }
}

impl fmt::Debug for Identity {
    /// The key is a secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").field("epoch", &self.epoch).finish_non_exhaustive()
    }
}

/// Thirty-two secret bytes. They do not print.
#[derive(Clone, PartialEq, Eq)]
pub struct Key([u8; 32]);

impl Key {
    /// Takes the bytes.
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The secret itself.
    pub fn expose(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(..)")
    }
}

/// 128 random bits as RFC 4648's base64url without padding.
fn random_epoch() -> Box<str> {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).expect("the operating system gives random bytes");
    let bits = u128::from_be_bytes(bytes);
    (0..22).map(|at| char::from(ALPHABET[(bits.rotate_left(6 * (at + 1)) & 63) as usize])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn epochs_differ_and_keys_stay() {
        let first = Identity::random();
        let next = first.next_epoch();
        assert_eq!(first.epoch().len(), 22);
        assert_ne!(first.epoch(), next.epoch());
        assert_eq!(first.key(), next.key());
        assert_ne!(first.key(), Identity::random().key());
        assert!(Identity::new(first.epoch(), first.key().clone()).is_some_and(|same| same == first));
        for epoch in ["", "a.b", "ü", &"x".repeat(65)] {
            assert_eq!(Identity::new(epoch, first.key().clone()), None, "{epoch}");
        }
    }

    #[test]
    fn the_key_is_not_printed() {
        let identity = Identity::new("e", Key::new([77; 32])).unwrap();
        assert!(!format!("{identity:?} {:?}", identity.key()).contains("77"));
    }
}
