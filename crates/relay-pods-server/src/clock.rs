//! The time of day, as an argument.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime};

use relay_proto::time::Timestamp;

/// Where a server takes the time of day from: timestamps of events, the age of retained events and the validity of
/// sessions. Delays between messages are the runtime's business and not affected. Cheap to clone.
#[derive(Clone, Default)]
pub struct Clock(Option<Arc<AtomicI64>>);

impl Clock {
    /// The system's clock. The default.
    pub fn system() -> Self {
        Self(None)
    }

    /// A clock that stands at a number of milliseconds since 1970-01-01T00:00:00Z until it is moved with
    /// [`Self::advance`].
    pub fn manual(unix_millis: i64) -> Self {
        Self(Some(Arc::new(AtomicI64::new(unix_millis))))
    }

    /// Moves a manual clock, for every clone of it. The system's clock is left alone.
    pub fn advance(&self, by: Duration) {
        if let Some(now) = &self.0 {
            now.fetch_add(millis(by), Ordering::Relaxed);
        }
    }

    /// Milliseconds since 1970-01-01T00:00:00Z.
    pub fn unix_millis(&self) -> i64 {
        match &self.0 {
            Some(now) => now.load(Ordering::Relaxed),
            None => SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, millis),
        }
    }

    pub(crate) fn timestamp(&self) -> Timestamp {
        Timestamp::from_unix_millis(self.unix_millis())
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Clock(manual)" } else { "Clock(system)" })
    }
}

/// Whole milliseconds, at most `i64::MAX`.
pub(crate) fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}
