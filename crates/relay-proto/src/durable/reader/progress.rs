//! How long a reader is without progress, and the pauses between its attempts.

use alloc::string::{String, ToString};
use core::time::Duration;

use super::{ReaderConfig, SHORT_ONES};
use crate::retry::Backoff;

/// The last attempt has at least this time, although the time for attempts ends earlier.
const GRACE: Duration = Duration::from_millis(500);

/// The time since the last progress: data that was not received before, another offset, or the tail.
#[derive(Debug)]
pub(super) struct Progress {
    backoff: Backoff,
    limit: Option<Duration>,
    /// The last progress; `None` at the tail, where a reader may wait for as long as it likes.
    since: Option<Duration>,
    begun: bool,
    /// The last failure since then.
    cause: Option<String>,
    /// Quick responses without progress in a row.
    pub(super) stuck: u32,
    /// Short event connections without progress in a row.
    pub(super) short: u32,
}

impl Progress {
    pub(super) fn new(config: &ReaderConfig, seed: u64) -> Self {
        Self {
            backoff: Backoff::new(config.retry_base, config.retry_cap, seed),
            limit: config.retry_for,
            since: None,
            begun: false,
            cause: None,
            stuck: 0,
            short: 0,
        }
    }

    /// The first request.
    pub(super) fn begin(&mut self, now: Duration) {
        if !self.begun {
            self.begun = true;
            self.since = Some(now);
        }
    }

    pub(super) fn made(&mut self, now: Duration) {
        self.since = Some(now);
        self.cause = None;
        self.stuck = 0;
        self.short = if self.short >= SHORT_ONES { self.short } else { 0 };
        self.backoff.reset();
    }

    /// All that exists was received.
    pub(super) fn at_tail(&mut self) {
        self.since = None;
        self.cause = None;
    }

    pub(super) fn is_at_tail(&self) -> bool {
        self.since.is_none()
    }

    /// The server kept its connection for a time: this is no failure.
    pub(super) fn rested(&mut self) {
        self.stuck = 0;
        self.backoff.reset();
    }

    /// The caller comes back for more: what it did meanwhile does not count.
    pub(super) fn resume(&mut self, now: Duration) {
        self.since = self.since.map(|_| now);
    }

    /// Without progress since then, if it was at the tail.
    pub(super) fn lacks(&mut self, since: Duration) {
        self.since.get_or_insert(since);
    }

    /// Does not count a time of waiting that is as it should be.
    pub(super) fn waited(&mut self, time: Duration, now: Duration) {
        self.since = self.since.map(|since| since.saturating_add(time).min(now));
    }

    /// The end of an attempt that began at `asked` and may wait for `wait`.
    pub(super) fn deadline(&self, asked: Duration, wait: Duration) -> Option<Duration> {
        let end = self.since.unwrap_or(asked).saturating_add(self.limit?);
        Some(end.max(asked.saturating_add(GRACE)).saturating_add(wait))
    }

    /// The delay before the next attempt, when nothing failed.
    pub(super) fn delay(&mut self) -> Duration {
        self.backoff.next_delay()
    }

    /// The delay after a failure; `None` when the time is over.
    pub(super) fn pause(&mut self, cause: &str, floor: Option<Duration>, now: Duration) -> Option<Duration> {
        self.cause = Some(cause.to_string());
        let since = *self.since.get_or_insert(now);
        let mut delay = self.backoff.next_delay();
        if let Some(floor) = floor {
            delay = delay.max(self.backoff.spread(floor));
        }
        let Some(limit) = self.limit else { return Some(delay) };
        let left = since.saturating_add(limit).saturating_sub(now);
        if left.is_zero() || floor.is_some_and(|floor| floor > left) {
            return None;
        }
        Some(delay.min(left.max(floor.unwrap_or_default())))
    }

    /// What failed before, for an attempt that was cut short.
    pub(super) fn cause(&self) -> Option<String> {
        self.cause.clone()
    }
}
