//! The key of a pod: namespace and name.

use std::fmt;
use std::sync::Arc;

/// Namespace and name of a pod, ordered by namespace, then name. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PodKey {
    /// `namespace NUL name`: NUL sorts below every other byte, so the text's order is that of the pair.
    joined: Arc<str>,
    split: u32,
}

impl PodKey {
    /// The longest namespace and name in Kubernetes, and the NUL.
    const USUAL: usize = 63 + 1 + 253;

    /// Joins a namespace and a name. NUL characters, which Kubernetes names cannot have, become U+FFFD.
    pub fn new(namespace: &str, name: &str) -> Self {
        let nul = |part: &str| part.as_bytes().contains(&0);
        if nul(namespace) || nul(name) {
            let clean = |part: &str| part.replace('\0', "\u{fffd}");
            return Self::new(&clean(namespace), &clean(name));
        }
        Self::join(namespace, name)
    }

    /// Joins two texts without NUL.
    pub(super) fn join(namespace: &str, name: &str) -> Self {
        let split = u32::try_from(namespace.len()).expect("a name of 4 GiB does not fit a message");
        let (at, len) = (namespace.len(), namespace.len() + 1 + name.len());
        // Joined on the stack, so that there is one allocation.
        let mut usual = [0; Self::USUAL];
        let joined = match usual.get_mut(..len) {
            Some(joined) => {
                joined[..at].copy_from_slice(namespace.as_bytes());
                joined[at + 1..].copy_from_slice(name.as_bytes());
                std::str::from_utf8(joined).expect("two texts with a NUL between them").into()
            }
            None => format!("{namespace}\0{name}").into(),
        };
        Self { joined, split }
    }

    /// The namespace.
    pub fn namespace(&self) -> &str {
        &self.joined[..self.split as usize]
    }

    /// The name.
    pub fn name(&self) -> &str {
        &self.joined[self.split as usize + 1..]
    }
}

impl fmt::Debug for PodKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PodKey({self})")
    }
}

impl fmt::Display for PodKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace(), self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_its_parts_whatever_their_length() {
        let long = "ü".repeat(200);
        for (namespace, name) in [("a", "b"), ("", ""), (&*long, "b"), ("a", &*long), ("x", "ü")] {
            let key = PodKey::new(namespace, name);
            assert_eq!((key.namespace(), key.name()), (namespace, name));
            assert_eq!(key, PodKey::new(namespace, name));
        }
        let key = PodKey::new("a\0b", "\0");
        assert_eq!((key.namespace(), key.name()), ("a\u{fffd}b", "\u{fffd}"));
        assert!(PodKey::new("a", "z") < PodKey::new("a-b", "a"), "namespaces first");
    }
}
