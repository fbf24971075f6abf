//! The clock of a server, which tests can set.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use relay_proto::time::Timestamp;

/// The clock of a server. Cheap to clone.
///
/// It has two clocks: one for ages and deadlines, which only runs forward ([`Self::unix_millis`]), and the time of
/// day, which is shown to people and may jump. Delays between messages use the runtime's timers.
#[derive(Clone)]
pub struct Clock(Kind);

#[derive(Clone)]
enum Kind {
    System { start: Instant, wall_at_start: i64 },
    Manual(Arc<Manual>),
}

struct Manual {
    steady: AtomicI64,
    /// How far the time of day is ahead of it.
    ahead: AtomicI64,
}

impl Clock {
    /// The system's clocks. The default.
    pub fn system() -> Self {
        Self(Kind::System { start: Instant::now(), wall_at_start: wall() })
    }

    /// A manual clock: it shows this number of milliseconds since 1970-01-01T00:00:00Z until it is moved with
    /// [`Self::advance`].
    pub fn manual(unix_millis: i64) -> Self {
        let (steady, ahead) = (AtomicI64::new(unix_millis), AtomicI64::new(0));
        Self(Kind::Manual(Arc::new(Manual { steady, ahead })))
    }

    /// Moves a manual clock and all its clones forward. Does nothing to the system's clock.
    pub fn advance(&self, by: Duration) {
        if let Kind::Manual(manual) = &self.0 {
            manual.steady.fetch_add(millis(by), Ordering::Relaxed);
        }
    }

    /// Moves the time of day of a manual clock forward or back, as an administrator or a time server does. Ages and
    /// deadlines do not change.
    pub fn set_time_of_day(&self, by_millis: i64) {
        if let Kind::Manual(manual) = &self.0 {
            manual.ahead.fetch_add(by_millis, Ordering::Relaxed);
        }
    }

    /// For ages and deadlines, in milliseconds. It starts with the time of day at which the clock was created, and then
    /// only runs forward: a jump of the time of day does not change it.
    pub fn unix_millis(&self) -> i64 {
        match &self.0 {
            Kind::System { start, wall_at_start } => wall_at_start.saturating_add(millis(start.elapsed())),
            Kind::Manual(manual) => manual.steady.load(Ordering::Relaxed),
        }
    }

    /// The time of day, in milliseconds since 1970-01-01T00:00:00Z: for display, not for comparison.
    pub fn time_of_day(&self) -> i64 {
        match &self.0 {
            Kind::System { .. } => wall(),
            Kind::Manual(manual) => self.unix_millis().saturating_add(manual.ahead.load(Ordering::Relaxed)),
        }
    }

    pub(crate) fn timestamp(&self) -> Timestamp {
        Timestamp::from_unix_millis(self.time_of_day())
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if matches!(self.0, Kind::Manual(_)) { "Clock(manual)" } else { "Clock(system)" })
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::system()
    }
}

fn wall() -> i64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, millis)
}

/// Whole milliseconds, at most `i64::MAX`.
pub(crate) fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_jump_of_the_time_of_day_is_told_and_counts_for_nothing() {
        let clock = Clock::manual(1_000_000);
        let other = clock.clone();
        for jump in [86_400_000, -3 * 86_400_000] {
            let before = (clock.unix_millis(), clock.time_of_day());
            other.set_time_of_day(jump);
            assert_eq!((clock.unix_millis(), clock.time_of_day()), (before.0, before.1 + jump));
            assert_eq!(clock.timestamp().unix_millis(), Some(before.1 + jump));
            other.advance(Duration::from_millis(7));
            assert_eq!((clock.unix_millis(), clock.time_of_day()), (before.0 + 7, before.1 + jump + 7));
        }
    }

    #[test]
    fn the_systems_clocks_agree_until_one_of_them_jumps() {
        let clock = Clock::system();
        let (steady, day) = (clock.unix_millis(), clock.time_of_day());
        assert!(steady > 1_700_000_000_000 && (steady - day).abs() < 60_000, "{steady} and {day}");
        assert!(clock.unix_millis() >= steady);
    }
}
