//! A digest of the acknowledged input, to recognise another input.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use sha2::{Digest as _, Sha256};

/// The input bytes that were read and are not acknowledged, and a digest of the acknowledged ones. Clones share it.
#[derive(Clone, Default)]
pub(super) struct InputDigest(Arc<Mutex<Inner>>);

#[derive(Default)]
struct Inner {
    hasher: Sha256,
    /// The number of bytes in the digest.
    at: u64,
    waiting: VecDeque<Bytes>,
}

impl InputDigest {
    /// Takes the next bytes of the input.
    pub(super) fn read(&self, bytes: Bytes) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).waiting.push_back(bytes);
    }

    /// The digest of the first bytes of the input, in hexadecimal. The position only goes forward.
    pub(super) fn up_to(&self, position: u64) -> String {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        while inner.at < position
            && let Some(mut bytes) = inner.waiting.pop_front()
        {
            let wanted = usize::try_from(position - inner.at).unwrap_or(usize::MAX);
            let taken = bytes.split_to(wanted.min(bytes.len()));
            inner.hasher.update(&taken);
            inner.at += taken.len() as u64;
            if !bytes.is_empty() {
                inner.waiting.push_front(bytes);
            }
        }
        let digest = inner.hasher.clone().finalize();
        digest.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn depends_on_the_bytes_and_not_on_how_they_came() {
        let whole = InputDigest::default();
        whole.read("hello world".into());
        let cut = InputDigest::default();
        for part in ["he", "", "llo wo", "rld"] {
            cut.read(part.into());
        }
        assert_eq!(cut.up_to(0), whole.up_to(0));
        for position in [3, 8, 11] {
            assert_eq!(cut.up_to(position), whole.up_to(position));
        }
        assert_eq!(whole.up_to(11), "b94d27b9934d3e08a52e52d7da7dabfac484efe37a5380ee9088f7ace2efcde9");
    }
}
