//! The hash of the tries.

use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::LazyLock;

/// A hash that strangers, who choose names and labels, cannot predict. The same for the whole life of the process, so
/// that versions of different caches can be compared.
pub(super) fn hash_of(value: &(impl Hash + ?Sized)) -> u64 {
    static HASHER: LazyLock<RandomState> = LazyLock::new(RandomState::new);
    let hash = HASHER.hash_one(value);
    #[cfg(test)]
    let hash = hash & HASH_MASK.get();
    hash
}

#[cfg(test)]
thread_local! {
    /// The bits of hashes that are used: fewer make collisions.
    pub(super) static HASH_MASK: std::cell::Cell<u64> = const { std::cell::Cell::new(u64::MAX) };
}
