//! Delays after failures, for each key and for all keys together.

use std::time::Duration;

use relay_proto::retry::{Backoff, Jitter};

/// The first delay of a key, and the longest.
const FIRST: Duration = Duration::from_millis(5);
const LONGEST: Duration = Duration::from_secs(1000);
/// Retries without a common limit, and the number per second after that.
const BURST: f64 = 100.0;
const PER_SECOND: f64 = 10.0;

/// A key's delays: 5 ms doubling to 1000 s, a quarter more or less.
pub(super) fn backoff(seed: u64) -> Backoff {
    Backoff::new(FIRST, LONGEST, seed).jitter(Jitter::Quarter)
}

/// A token bucket of retries, shared by all failing keys. Each failure takes a token at once, perhaps a future one,
/// for which the key then waits.
#[derive(Debug)]
pub(super) struct Bucket {
    left: f64,
    filled: Duration,
}

impl Bucket {
    pub(super) fn new() -> Self {
        Self { left: BURST, filled: Duration::ZERO }
    }

    /// Takes a token; returns the delay until it is available.
    pub(super) fn take(&mut self, now: Duration) -> Duration {
        let more = now.saturating_sub(self.filled).as_secs_f64() * PER_SECOND;
        self.left = (self.left + more).min(BURST) - 1.0;
        self.filled = now;
        if self.left >= 0.0 { Duration::ZERO } else { Duration::from_secs_f64(-self.left / PER_SECOND) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rule_8_a_key_waits_twice_as_long_each_time_a_quarter_more_or_less() {
        let mut delays = backoff(7);
        let mut ceiling = FIRST;
        for _ in 0..25 {
            let delay = delays.next_delay();
            assert!(
                delay >= ceiling.mul_f64(0.749) && delay <= ceiling.mul_f64(1.251),
                "{delay:?} {ceiling:?}"
            );
            ceiling = (ceiling * 2).min(LONGEST);
        }
        assert_eq!(ceiling, LONGEST);
    }

    #[test]
    fn rule_8_all_keys_share_a_hundred_and_then_ten_a_second() {
        let mut bucket = Bucket::new();
        assert!((0..100).all(|_| bucket.take(Duration::ZERO) == Duration::ZERO));
        assert_eq!(bucket.take(Duration::ZERO), Duration::from_millis(100));
        assert_eq!(bucket.take(Duration::ZERO), Duration::from_millis(200));
        assert_eq!(bucket.take(Duration::from_millis(300)), Duration::ZERO);
        assert!((0..100).all(|_| bucket.take(Duration::from_secs(60)) == Duration::ZERO));
        assert!(bucket.take(Duration::from_secs(60)) > Duration::ZERO);
    }
}
