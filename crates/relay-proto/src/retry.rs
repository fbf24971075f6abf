//! Backoff: delays before the next attempt, for reconnects, single requests and sources.

use core::time::Duration;

/// Growing, jittered delays between attempts.
///
/// The ceiling of the n-th delay is `base * factor^n`, at most `cap`; with the default [`Jitter::Full`] the delay
/// is anywhere between zero and the ceiling, so that many clients that lost their connections together do not
/// reconnect together. No delay is below `floor`, which also replaces a base of zero: there is no way to
/// configure a busy loop.
///
/// ```
/// use core::time::Duration;
/// use relay_proto::retry::Backoff;
///
/// let mut backoff = Backoff::new(Duration::from_millis(800), Duration::from_secs(30), 7);
/// assert!(backoff.next_delay() <= Duration::from_millis(800));
/// assert!(backoff.next_delay() <= Duration::from_millis(1600));
/// backoff.reset();
/// assert_eq!(backoff.failures(), 0);
/// ```
#[derive(Debug, Clone)]
pub struct Backoff {
    base: Duration,
    cap: Duration,
    factor: u32,
    floor: Duration,
    jitter: Jitter,
    failures: u32,
    random: Random,
}

/// The random part of a delay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Jitter {
    /// Anywhere between zero and the ceiling.
    #[default]
    Full,
    /// Anywhere between half the ceiling and the ceiling.
    Half,
    /// Anywhere within a quarter above or below the ceiling.
    Quarter,
    /// The ceiling itself. Clients that lost their connections together reconnect together: for tests, and for a
    /// single client.
    None,
}

/// The hard lower bound of every delay.
const SHORTEST: Duration = Duration::from_millis(1);

impl Backoff {
    /// Delays that start below `base` and double up to `cap`, with full jitter and a floor of 1 ms.
    ///
    /// The same `seed` gives the same delays.
    pub fn new(base: Duration, cap: Duration, seed: u64) -> Self {
        Self {
            base,
            cap,
            factor: 2,
            floor: SHORTEST,
            jitter: Jitter::Full,
            failures: 0,
            random: Random(seed),
        }
    }

    /// Sets the factor from one ceiling to the next. Default 2; 0 counts as 1.
    #[must_use]
    pub fn factor(mut self, factor: u32) -> Self {
        self.factor = factor.max(1);
        self
    }

    /// Sets the smallest delay. Default and minimum 1 ms.
    #[must_use]
    pub fn floor(mut self, floor: Duration) -> Self {
        self.floor = floor.max(SHORTEST);
        self
    }

    /// Sets the jitter. Default [`Jitter::Full`].
    #[must_use]
    pub fn jitter(mut self, jitter: Jitter) -> Self {
        self.jitter = jitter;
        self
    }

    /// Changes the ceiling of the first delay, as a server's `retry` line does. The count of failures stays.
    pub fn set_base(&mut self, base: Duration) {
        self.base = base;
    }

    /// Counts a failure and returns the delay before the next attempt.
    pub fn next_delay(&mut self) -> Duration {
        let ceiling = self.ceiling();
        self.failures = self.failures.saturating_add(1);
        let delay = match self.jitter {
            Jitter::Full => self.random.below(ceiling),
            Jitter::Half => ceiling / 2 + self.random.below(ceiling / 2),
            Jitter::Quarter => ceiling - ceiling / 4 + self.random.below(ceiling / 2),
            Jitter::None => ceiling,
        };
        delay.max(self.floor)
    }

    /// Resets the count of failures: the next delay is a first delay again.
    pub fn reset(&mut self) {
        self.failures = 0;
    }

    /// Delays given since the last [`reset`](Self::reset).
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// The most that the next delay can be; the floor may be above it.
    pub fn ceiling(&self) -> Duration {
        let mut ceiling = self.base.max(self.floor);
        for _ in 0..self.failures {
            if ceiling >= self.cap || self.factor == 1 {
                break;
            }
            ceiling = ceiling.saturating_mul(self.factor);
        }
        ceiling.min(self.cap)
    }

    /// A delay of `least` plus up to a quarter of it, so that clients that were given the same time do not come
    /// back together.
    pub fn spread(&mut self, least: Duration) -> Duration {
        least.saturating_add(self.random.below(least / 4)).max(self.floor)
    }
}

/// splitmix64: small, fast and random enough for jitter. Not for secrets.
#[derive(Debug, Clone)]
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform between zero and `limit`.
    fn below(&mut self, limit: Duration) -> Duration {
        let fraction = u128::from(self.next() >> 32);
        let nanos =
            (limit.as_nanos() >> 32) * fraction + (((limit.as_nanos() & 0xffff_ffff) * fraction) >> 32);
        let seconds = u64::try_from(nanos / 1_000_000_000).unwrap_or(u64::MAX);
        Duration::new(seconds, (nanos % 1_000_000_000) as u32)
    }
}
