//! Settings of a connection.

use alloc::string::String;
use core::time::Duration;

use crate::retry::{Backoff, Jitter};
use crate::setters;
use crate::sse::Limits;

/// Settings of a [`Machine`](super::Machine): `Config::default()` and setters named like the fields.
///
/// ```
/// use core::time::Duration;
/// use relay_proto::eventsource::Config;
/// let config = Config::default().base(Duration::from_secs(1)).idle(Some(Duration::from_secs(90)));
/// # let _ = config;
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Config {
    /// Ceiling of the first delay before a reconnect. Default 0.8 s.
    pub base: Duration,
    /// Ceiling of every delay that the backoff chooses. Default 30 s.
    pub cap: Duration,
    /// Ceiling of the first delay after a [`Verdict::RetryLater`]: the long profile, which has a failure count of
    /// its own. A server's `retry` does not change it, and only [`Machine::progress`](super::Machine::progress)
    /// resets it: a response that is a stream does not. Default `None`: `cap`.
    pub later_base: Option<Duration>,
    /// Ceiling of every delay after a [`Verdict::RetryLater`]. Default `None`: `cap`, or `later_base` if that is more.
    pub later_cap: Option<Duration>,
    /// Factor from one ceiling to the next. Default 2.
    pub factor: u32,
    /// Smallest delay. Default 10 ms, minimum 1 ms.
    pub floor: Duration,
    /// The random part of a delay. Default [`Jitter::Full`].
    pub jitter: Jitter,
    /// What a `retry` line of the server does. Default: it becomes the new `base`.
    pub server_retry: ServerRetry,
    /// Lower bound for a server's `retry`. Default 0.1 s.
    pub retry_min: Duration,
    /// Upper bound for a server's `retry`. Default 30 s.
    pub retry_max: Duration,
    /// Upper bound for a `Retry-After`, before up to a quarter is added. Default 1 h.
    pub retry_after_max: Duration,
    /// A connection that was open for so long resets the backoff when it ends. Default 60 s; `None`: only
    /// [`Machine::progress`](super::Machine::progress) does.
    pub healthy_after: Option<Duration>,
    /// Longest time without bytes on an open connection while the driver waits for some. Default 45 s; `None`: for
    /// ever.
    pub idle: Option<Duration>,
    /// Longest wait from the start of an attempt to its response head, credentials and connection set-up included.
    /// Default 30 s; `None`: for ever.
    pub response_timeout: Option<Duration>,
    /// Accept any content type, or none, with a status of 200. Default false.
    pub lenient_mime: bool,
    /// After a 401, try once immediately with fresh credentials, and then with backoff. Default false: a 401 is
    /// final.
    pub credentials_can_refresh: bool,
    /// Send the last event id with a reconnect. Default true.
    pub use_last_event_id: bool,
    /// The id to resume from at the first attempt. Default empty: the server chooses.
    pub last_event_id: String,
    /// Redirects followed in a row before the attempt counts as failed. Default 5.
    pub max_redirects: u32,
    /// Bytes of one event, skipped ones included, after which the connection is closed. Default 64 MiB. Costs no
    /// memory: what is held is bounded by `limits`.
    pub max_block_bytes: u64,
    /// Bytes kept of the body of a response that is not a stream. Default 16 KiB.
    pub max_problem_bytes: usize,
    /// Longest time spent on reading such a body. Default 5 s.
    pub problem_timeout: Duration,
    /// Bounds of one event. Defaults and memory cost: see [`Limits`].
    pub limits: Limits,
    /// The caller's own verdicts on statuses other than 200 and redirects. Default: none, see
    /// [`Verdict::of_status`].
    pub policy: Option<StatusPolicy>,
}

/// Overrides the verdict on some statuses; `None` leaves a status to [`Verdict::of_status`].
///
/// Not called for 200, redirects, and a 401 that is retried with fresh credentials.
pub type StatusPolicy = fn(status: u16) -> Option<Verdict>;

/// What a status other than 200 means for the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Verdict {
    /// Final: another attempt would fail as well.
    Stop,
    /// Try again after the usual backoff, or when `Retry-After` says.
    Retry,
    /// Try again, but not soon: after half to all of the ceiling of the long profile ([`Config::later_base`]), and not
    /// before `Retry-After` says.
    RetryLater,
}

impl Verdict {
    /// The default verdict: 408, 425, 429 and every 5xx are retried, everything else is final.
    pub fn of_status(status: u16) -> Self {
        match status {
            408 | 425 | 429 | 500..=599 => Self::Retry,
            _ => Self::Stop,
        }
    }
}

/// What a `retry` line of the server does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum ServerRetry {
    /// It becomes the base of the backoff, for the rest of the machine's life.
    #[default]
    Base,
    /// It is the delay before the next reconnect only, without jitter.
    Once,
    /// Nothing; the caller still sees the frame.
    Ignore,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            base: Duration::from_millis(800),
            cap: Duration::from_secs(30),
            later_base: None,
            later_cap: None,
            factor: 2,
            floor: Duration::from_millis(10),
            jitter: Jitter::Full,
            server_retry: ServerRetry::Base,
            retry_min: Duration::from_millis(100),
            retry_max: Duration::from_secs(30),
            retry_after_max: Duration::from_secs(3600),
            healthy_after: Some(Duration::from_secs(60)),
            idle: Some(Duration::from_secs(45)),
            response_timeout: Some(Duration::from_secs(30)),
            lenient_mime: false,
            credentials_can_refresh: false,
            use_last_event_id: true,
            last_event_id: String::new(),
            max_redirects: 5,
            max_block_bytes: 64 << 20,
            max_problem_bytes: 16 << 10,
            problem_timeout: Duration::from_secs(5),
            limits: Limits::default(),
            policy: None,
        }
    }
}

setters! { Config {
    base: Duration,
    cap: Duration,
    later_base: impl Into<Option<Duration>>,
    later_cap: impl Into<Option<Duration>>,
    factor: u32,
    floor: Duration,
    jitter: Jitter,
    server_retry: ServerRetry,
    retry_min: Duration,
    retry_max: Duration,
    retry_after_max: Duration,
    healthy_after: impl Into<Option<Duration>>,
    idle: impl Into<Option<Duration>>,
    response_timeout: impl Into<Option<Duration>>,
    lenient_mime: bool,
    credentials_can_refresh: bool,
    use_last_event_id: bool,
    last_event_id: impl Into<String>,
    max_redirects: u32,
    max_block_bytes: u64,
    max_problem_bytes: usize,
    problem_timeout: Duration,
    limits: Limits,
    policy: impl Into<Option<StatusPolicy>>,
} }

impl Config {
    /// A backoff with these settings, for other requests that should be retried in the same way.
    pub fn backoff(&self, seed: u64) -> Backoff {
        Backoff::new(self.base, self.cap, seed).factor(self.factor).floor(self.floor).jitter(self.jitter)
    }

    /// The long profile. At least half of each delay is fixed, so that a client told to stay away for long does so.
    pub(super) fn later(&self, seed: u64) -> Backoff {
        let base = self.later_base.unwrap_or(self.cap);
        let cap = self.later_cap.unwrap_or(self.cap.max(base));
        let jitter = if self.jitter == Jitter::Full { Jitter::Half } else { self.jitter };
        Backoff::new(base, cap, seed).factor(self.factor).floor(self.floor).jitter(jitter)
    }

    /// The delay that a server asked for, within bounds.
    pub(super) fn clamp_retry(&self, retry: Duration) -> Duration {
        retry.min(self.retry_max).max(self.retry_min)
    }
}
