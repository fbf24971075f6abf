//! The hash of the tries.

use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::LazyLock;

/// A hash with a random seed, because names and labels may be chosen by an attacker. The seed is the same for all
/// caches of a process, so that their versions can be compared.
pub(super) fn hash_of(value: &(impl Hash + ?Sized)) -> u64 {
    static HASHER: LazyLock<RandomState> = LazyLock::new(RandomState::new);
    let hash = HASHER.hash_one(value);
    #[cfg(test)]
    let hash = hash & HASH_MASK.get();
    hash
}

#[cfg(test)]
thread_local! {
    /// The bits of hashes that are used; fewer bits cause collisions.
    pub(super) static HASH_MASK: std::cell::Cell<u64> = const { std::cell::Cell::new(u64::MAX) };
}
