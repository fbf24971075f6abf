//! Minting and recognising cursors.

use std::fmt;

use relay_log::{Identity, Key};
use relay_proto::pods::{Epoch, EventHash};
use relay_proto::secret::same_in_constant_time;

/// Bytes of an event's digest within its hash.
const DIGEST_LEN: usize = 16;
/// Bytes of the seal that shows, without the event at hand, that this log made a hash.
const SEAL_LEN: usize = 12;

/// The identity of a log: its epoch and the key of its hashes. A store keeps it with its events.
///
/// A hash reads `TAG.SEQUENCE.DIGEST.SEAL`: the first characters of the epoch, the decimal sequence, a keyed digest
/// of the previous hash and the event's bytes, and a keyed seal over all of that. Clients must not parse it. The
/// seal makes a look-up O(1) and shows whether a cursor was ever valid; the key keeps a reader of one namespace
/// from testing guesses about another's events.
#[derive(Clone)]
pub struct LogIdentity {
    kept: Identity,
    epoch: Epoch,
    digest_key: [u8; 32],
    seal_key: [u8; 32],
}

impl LogIdentity {
    /// The number of characters of the epoch that are part of every hash.
    const TAG_LEN: usize = 8;

    /// A new epoch with a new key, from the operating system's randomness.
    pub fn random() -> Self {
        Self::of(&Identity::random())
    }

    /// An epoch with a given id and key: for tests that need exact bytes. The id's first eight characters tag the
    /// hashes.
    ///
    /// # Panics
    /// When the id is not 1 to 64 URL-safe characters.
    pub fn new(epoch: &str, key: [u8; 32]) -> Self {
        Self::of(&Identity::new(epoch, Key::new(key)).expect("an epoch is 1 to 64 URL-safe characters"))
    }

    /// From the identity stored by a log.
    pub(crate) fn of(kept: &Identity) -> Self {
        Self {
            kept: kept.clone(),
            epoch: Epoch::new(kept.epoch()),
            digest_key: blake3::derive_key("relay event digest v1", kept.key().expose()),
            seal_key: blake3::derive_key("relay cursor seal v1", kept.key().expose()),
        }
    }

    /// The identity as stored by a log.
    pub(crate) fn kept(&self) -> Identity {
        self.kept.clone()
    }

    /// The hash of the position at which this epoch began.
    pub(crate) fn base(&self, sequence: u64) -> EventHash {
        self.mint("", sequence, b"")
    }

    /// The epoch's id.
    pub fn epoch(&self) -> &Epoch {
        &self.epoch
    }

    /// The hash of sequence 0: the position before the first event.
    pub fn genesis(&self) -> EventHash {
        self.base(0)
    }

    /// The hash of an event, chained to the one before it.
    pub(crate) fn mint(&self, previous: &str, sequence: u64, event: &[u8]) -> EventHash {
        let mut digest = blake3::Hasher::new_keyed(&self.digest_key);
        digest.update(&(previous.len() as u64).to_le_bytes());
        digest.update(previous.as_bytes());
        digest.update(event);
        let digest = base64url(&digest.finalize().as_bytes()[..DIGEST_LEN]);
        let mut text = format!("{}.{sequence}.{digest}", self.tag());
        let seal = self.seal(&text);
        text.push('.');
        text.push_str(&seal);
        EventHash::new(&text).expect("at most 75 visible characters")
    }

    /// The sequence of a hash that this log minted at some time; `None` for any other text.
    pub(crate) fn recognise(&self, hash: &str) -> Option<u64> {
        let (body, seal) = hash.rsplit_once('.')?;
        if !same_in_constant_time(self.seal(body).as_bytes(), seal.as_bytes()) {
            return None;
        }
        let (tag, rest) = body.split_once('.')?;
        // The key outlives an epoch.
        if tag != self.tag() {
            return None;
        }
        rest.split('.').next()?.parse().ok()
    }

    fn tag(&self) -> &str {
        let epoch = self.epoch.as_str();
        epoch.get(..Self::TAG_LEN).unwrap_or(epoch)
    }

    fn seal(&self, body: &str) -> String {
        base64url(&blake3::keyed_hash(&self.seal_key, body.as_bytes()).as_bytes()[..SEAL_LEN])
    }
}

impl fmt::Debug for LogIdentity {
    /// The key is a secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogIdentity").field("epoch", &self.epoch).finish_non_exhaustive()
    }
}

/// Text of `N` random bytes, for ids and tickets.
pub(crate) fn random_text<const N: usize>() -> String {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("the operating system gives random bytes");
    base64url(&bytes)
}

/// RFC 4648 section 5, without padding.
fn base64url(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let word = chunk.iter().fold(0_u32, |word, &b| word << 8 | u32::from(b)) << (8 * (3 - chunk.len()));
        for at in 0..=chunk.len() {
            text.push(char::from(ALPHABET[(word >> (18 - 6 * at)) as usize & 63]));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64url_follows_the_rfc() {
        for (bytes, text) in [("", ""), ("f", "Zg"), ("fo", "Zm8"), ("foo", "Zm9v"), ("fooba", "Zm9vYmE")] {
            assert_eq!(base64url(bytes.as_bytes()), text);
        }
        assert_eq!(base64url(&[0xfb, 0xff]), "-_8");
    }

    #[test]
    fn a_log_knows_its_own_hashes_and_no_other() {
        let log = LogIdentity::new("epoch-number-one", [7; 32]);
        let genesis = log.genesis();
        let first = log.mint(genesis.as_str(), 1, b"event");
        assert_eq!(log.recognise(genesis.as_str()), Some(0));
        assert_eq!(log.recognise(first.as_str()), Some(1));
        assert!(first.as_str().starts_with("epoch-nu.1."), "{first}");
        let next = LogIdentity::of(&log.kept().next_epoch());
        assert_eq!(next.recognise(first.as_str()), None, "the key is the same, the epoch is not");
        // A log with the same epoch name and another key is another log.
        let other = LogIdentity::new("epoch-number-one", [8; 32]);
        assert_eq!(other.recognise(first.as_str()), None);
        for at in 0..first.as_str().len() {
            let mut forged = first.as_str().as_bytes().to_vec();
            forged[at] ^= 1;
            assert_eq!(log.recognise(&String::from_utf8(forged).unwrap()), None, "byte {at}");
        }
        for text in ["", ".", "...", "epoch-nu.1", "ünï.code.x.y", "epoch-nu.99999999999999999999.a.b"] {
            assert_eq!(log.recognise(text), None, "{text}");
        }
    }

    #[test]
    fn a_hash_depends_on_its_predecessor_its_event_and_the_key() {
        let log = LogIdentity::new("e", [1; 32]);
        let base = log.mint("previous", 5, b"event");
        for other in [
            log.mint("previouS", 5, b"event"),
            log.mint("previous", 5, b"Event"),
            log.mint("previou", 5, b"sevent"),
            LogIdentity::new("e", [2; 32]).mint("previous", 5, b"event"),
        ] {
            assert_ne!(digest(&base), digest(&other));
        }
        fn digest(hash: &EventHash) -> &str {
            hash.as_str().split('.').nth(2).unwrap()
        }
    }

    #[test]
    fn the_key_is_not_printed() {
        assert_eq!(
            format!("{:?}", LogIdentity::new("e", [1; 32])),
            "LogIdentity { epoch: Epoch(\"e\"), .. }"
        );
    }
}
