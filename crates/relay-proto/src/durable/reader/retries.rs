//! Deadlines of a reader, and what follows a failure.

use alloc::string::ToString;
use core::time::Duration;

use super::{Live, LiveMode, Phase, Reader, ReaderStop, ReaderWant, Retry, SHORT, SHORT_ONES, STUCK, State};

impl Reader {
    /// When the attempt is given up; and whether that is only because the time for attempts ends.
    pub(super) fn deadline(&self) -> (Duration, bool) {
        let (patience, end) = match &self.state {
            State::Answer { asked } => {
                let wait = match self.phase {
                    Phase::Live(Live::LongPoll) => self.config.poll_wait,
                    _ => Duration::ZERO,
                };
                (*asked + self.patience(), self.progress.deadline(*asked, wait))
            }
            State::Body { asked, read, .. } => {
                (*read + self.config.timeout, self.progress.deadline(*asked, Duration::ZERO))
            }
            State::Events { read, .. } => (*read + self.config.timeout + self.config.events_wait, None),
            _ => (Duration::MAX, None),
        };
        end.filter(|end| *end < patience).map_or((patience, false), |end| (end, true))
    }

    /// Counts the time of an attempt that failed, without the time that the server may take.
    pub(super) fn count(&mut self, now: Duration) {
        match &self.state {
            State::Answer { asked } => {
                self.progress.lacks(*asked);
                if self.phase == Phase::Live(Live::LongPoll) {
                    let waited = now.saturating_sub(*asked).min(self.config.poll_wait);
                    self.progress.waited(waited, now);
                }
            }
            State::Body { asked, .. } => self.progress.lacks(*asked),
            State::Events { asked, .. } => {
                let age = now.saturating_sub(*asked);
                if age >= SHORT {
                    self.progress.waited(age, now);
                }
            }
            _ => {}
        }
    }

    /// A pause after which the next request follows, without a failure.
    pub(super) fn rest(&mut self, now: Duration) {
        self.state = State::Pause { until: now + self.progress.delay() };
    }

    pub(super) fn nothing_moved(&mut self, now: Duration) {
        self.progress.stuck += 1;
        if self.progress.stuck >= STUCK {
            return self.stop(ReaderStop::NoProgress { offset: self.position.offset.clone() });
        }
        let cause = "the answer moved neither the offset nor the cursor";
        match self.progress.pause(cause, None, now) {
            Some(delay) => self.state = State::Pause { until: now + delay },
            None => self.stop(ReaderStop::OutOfTime { cause: cause.to_string() }),
        }
    }

    /// A deadline that [`poll`](Self::poll) returned may have been reached.
    pub fn handle_timeout(&mut self, now: Duration) {
        let (deadline, out_of_time) = self.deadline();
        if now >= deadline {
            let before = self.progress.cause().filter(|_| out_of_time);
            self.count(now);
            self.failed(&before.unwrap_or_else(|| "nothing came in time".to_string()), None, now);
        }
    }

    /// Retries later, unless the time is over.
    pub(super) fn failed(&mut self, cause: &str, floor: Option<Duration>, now: Duration) {
        let Some(delay) = self.progress.pause(cause, floor, now) else {
            return self.stop(ReaderStop::OutOfTime { cause: cause.to_string() });
        };
        self.out.push_back(ReaderWant::Retry(Retry { cause: cause.to_string(), delay }));
        self.state = State::Pause { until: now.saturating_add(delay) };
    }

    /// Counts an event connection that ended early, without progress; `true` when there were too many: the reader
    /// continues with long-polls.
    pub(super) fn short_one(&mut self, now: Duration) -> bool {
        self.progress.short += 1;
        if self.progress.short != SHORT_ONES || self.config.mode != LiveMode::Auto {
            return false;
        }
        self.give_up_events();
        self.rest(now);
        true
    }
}
