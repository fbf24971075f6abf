//! The publisher's side: the next sequence of each channel.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The last number handed out per channel. Clones share the counts, also between threads.
#[derive(Debug, Clone, Default)]
pub struct SequenceTracker {
    last: Arc<Mutex<BTreeMap<String, i64>>>,
}

impl SequenceTracker {
    /// One that begins at 1 in every channel.
    pub fn new() -> Self {
        Self::default()
    }

    /// The next number of a channel, from 1. No two calls return the same number, unless it was given back in
    /// between. `None` after [`i64::MAX`].
    pub fn next(&self, channel: &str) -> Option<i64> {
        let mut last = self.lock();
        match last.get_mut(channel) {
            Some(last) => {
                *last = last.checked_add(1)?;
                Some(*last)
            }
            None => {
                last.insert(channel.to_owned(), 1);
                Some(1)
            }
        }
    }

    /// The last number handed out; 0 for none.
    pub fn peek(&self, channel: &str) -> i64 {
        self.lock().get(channel).copied().unwrap_or(0)
    }

    /// Takes back a number that was certainly not used, if it is the last one: the next call returns it again.
    /// Returns whether it was the last one.
    pub fn give_back(&self, channel: &str, sequence: i64) -> bool {
        let mut counts = self.lock();
        match counts.get_mut(channel) {
            Some(last) if *last == sequence && sequence > 0 => {
                *last -= 1;
                if *last == 0 {
                    counts.remove(channel);
                }
                true
            }
            _ => false,
        }
    }

    /// A copy of all counts.
    pub fn snapshot(&self) -> BTreeMap<String, i64> {
        self.lock().clone()
    }

    /// Replaces all counts.
    pub fn restore(&self, snapshot: BTreeMap<String, i64>) {
        *self.lock() = snapshot;
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, i64>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Behaviour 11, and returning a number.
    #[test]
    fn behaviour_11_counts_per_channel() {
        let tracker = SequenceTracker::new();
        assert_eq!(["a", "a", "b"].map(|channel| tracker.next(channel)), [Some(1), Some(2), Some(1)]);
        assert_eq!((tracker.peek("a"), tracker.peek("c")), (2, 0));
        let snapshot = tracker.snapshot();
        let other = SequenceTracker::new();
        other.next("z");
        other.restore(snapshot);
        assert_eq!((other.next("a"), other.peek("z")), (Some(3), 0));

        assert!(!other.give_back("a", 2), "a later one was handed out");
        assert!(other.give_back("a", 3));
        assert!(!other.give_back("a", 3));
        assert_eq!(other.next("a"), Some(3));
        assert!(other.give_back("b", 1));
        assert_eq!(other.snapshot(), [("a".to_owned(), 3)].into());
        assert!(!other.give_back("none", 0));
    }

    #[test]
    fn after_the_last_number_there_is_none() {
        let tracker = SequenceTracker::new();
        tracker.restore([("a".to_owned(), i64::MAX - 1)].into());
        assert_eq!(["a", "a", "a"].map(|channel| tracker.next(channel)), [Some(i64::MAX), None, None]);
        assert_eq!(tracker.peek("a"), i64::MAX);
    }

    /// Behaviour 12.
    #[test]
    fn behaviour_12_a_thousand_callers_get_a_thousand_numbers() {
        let tracker = SequenceTracker::new();
        let threads: Vec<_> = (0..10)
            .map(|_| {
                let tracker = tracker.clone();
                std::thread::spawn(move || (0..100).filter_map(|_| tracker.next("a")).collect::<Vec<_>>())
            })
            .collect();
        let mut all: Vec<_> = threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
        all.sort_unstable();
        assert_eq!(all, (1..=1000).collect::<Vec<_>>());
        assert_eq!(tracker.peek("a"), 1000);
    }
}
