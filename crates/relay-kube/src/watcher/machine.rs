//! What a list-and-watch does next, and when: without a clock, a socket or an object.

use std::time::Duration;

use relay_proto::retry::{Backoff, Jitter};

/// The first delay after a failure, and the longest.
const BASE: Duration = Duration::from_millis(800);
const CAP: Duration = Duration::from_secs(30);

/// A watch that lives for less than this is short, whatever it brought: the next request waits.
pub(super) const SHORT: Duration = Duration::from_secs(1);

/// How long a watch has to bring its refusal: an expired version is an event, not an error status.
const REFUSAL: Duration = Duration::from_millis(500);

/// The longest time that an API server can make us wait.
const LONGEST_WAIT: Duration = Duration::from_secs(300);

/// After so many failures in a row the same state is not tried again.
const ENOUGH: u32 = 3;

/// The step to take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// Read all objects, in pages or at once.
    List { pages: bool },
    /// Follow the changes after the version.
    Watch,
    /// Ask whether the cluster knows the version.
    Check,
}

/// What failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Blame {
    /// The version, perhaps: something was said about it that may be said again each time.
    Version,
    /// The way to the API server, our credentials, or its load: no version is better than another.
    Other,
}

/// Decides between list, watch and check.
///
/// ```text
///                expired, ahead, or failed three times at this version
///          +------------------------<------------------------+
///          v                                                 |
///   --> List --- listed ---> Watch --- ended, failed ---> Check
///       ^  |                  ^  |                         |  |
///       +--+ failed,          |  +-- expired --> List      |  |
///            next page gone   +------------- known --------+  +-- failed --> Check
/// ```
/// Times are on any clock that only goes forward. **No step is taken before [`due`](Self::due).** After a request that
/// failed, and after a watch that was short, that is a while away: longer each time, left to chance in part, and at
/// least as long as the API server asked for. A watch that lives for longer than the last delay makes the next a
/// first one.
#[derive(Debug)]
pub(super) struct Machine {
    step: Step,
    due: Duration,
    backoff: Backoff,
    /// The last delay that was given since the last success.
    delay: Duration,
    /// Everything up to this version of the cluster was handed over.
    version: Option<String>,
    /// Failures in a row at this version.
    here: u32,
    /// Watches in a row that ended at once and brought nothing, or a refusal of their version. Lists between do not
    /// count.
    stumbles: u32,
    /// Since when the watch is open.
    opened: Duration,
    /// Whether the watch brought anything.
    brought: bool,
}

impl Machine {
    /// Begins with a list, at once. The seed makes the delays of several relays differ.
    pub(super) fn new(seed: u64) -> Self {
        Self {
            step: Step::List { pages: true },
            due: Duration::ZERO,
            backoff: Backoff::new(BASE, CAP, seed).jitter(Jitter::Half),
            delay: Duration::ZERO,
            version: None,
            here: 0,
            stumbles: 0,
            opened: Duration::ZERO,
            brought: false,
        }
    }

    /// The step to take at [`due`](Self::due).
    pub(super) fn step(&self) -> Step {
        self.step
    }

    /// When to take it.
    pub(super) fn due(&self) -> Duration {
        self.due
    }

    /// The version to watch from or to check; empty before the first list.
    pub(super) fn version(&self) -> &str {
        self.version.as_deref().unwrap_or_default()
    }

    /// Versions expire, or watches end, as soon as they are opened, again and again: nothing is being followed,
    /// although lists can be read.
    pub(super) fn is_stumbling(&self) -> bool {
        self.stumbles >= ENOUGH
    }

    /// How long an open watch has to be silent until it counts as accepted.
    pub(super) fn refusal_time(&self) -> Duration {
        if self.is_stumbling() { SHORT } else { REFUSAL }
    }

    /// A whole list was read and handed over.
    pub(super) fn listed(&mut self, version: &str) {
        self.version = Some(version.to_owned());
        self.here = 0;
        self.step = Step::Watch;
    }

    /// The head of a watch is there.
    pub(super) fn opened(&mut self, now: Duration) {
        self.opened = now;
        self.brought = false;
    }

    /// The watch brought an event of this version, which was handed over; an empty one says nothing. Says whether the
    /// watch now counts as accepted.
    pub(super) fn brought(&mut self, version: &str) -> bool {
        self.brought = true;
        let order = |version: &str| version.parse::<u64>().ok();
        let older = order(version).zip(order(self.version())).is_some_and(|(new, held)| new < held);
        if !version.is_empty() && !older && self.version() != version {
            self.version = Some(version.to_owned());
            self.here = 0;
        }
        !self.is_stumbling()
    }

    /// The watch was silent for [`refusal_time`](Self::refusal_time), and so was accepted.
    pub(super) fn accepted(&mut self) {
        if self.is_stumbling() {
            self.stumbles = 0;
        }
    }

    /// The cluster knows the version.
    pub(super) fn known(&mut self) {
        self.step = Step::Watch;
    }

    /// The watch ended as watches do, or was silent for too long.
    pub(super) fn ended(&mut self, now: Duration) {
        let lived = now.saturating_sub(self.opened);
        self.step = Step::Check;
        if lived >= SHORT {
            self.lived(lived, now);
            return;
        }
        if self.brought {
            self.stumbles = 0;
        } else {
            self.stumbles = self.stumbles.saturating_add(1);
            self.count_here();
        }
        self.wait(None, now);
    }

    /// The version is older than what the API server has, or newer.
    pub(super) fn expired(&mut self, now: Duration) {
        let lived = now.saturating_sub(self.opened);
        if self.step == Step::Watch {
            self.stumbles = if lived < SHORT { self.stumbles.saturating_add(1) } else { 0 };
            // A full list is dear: only a watch that was worth one starts anew.
            if lived >= CAP {
                self.backoff.reset();
            }
        }
        self.begin_again();
        self.wait(None, now);
    }

    /// The token for the next page of a list is too old, or leads nowhere: without pages there is none.
    pub(super) fn page_is_gone(&mut self, retry_after: Option<Duration>, now: Duration) {
        self.step = Step::List { pages: false };
        self.wait(retry_after, now);
    }

    /// A request failed, or an open watch did.
    pub(super) fn failed(&mut self, blame: Blame, retry_after: Option<Duration>, now: Duration) {
        match self.step {
            // The next one has pages again: they are easier to serve.
            Step::List { .. } => self.begin_again(),
            Step::Watch | Step::Check => {
                let lived = now.saturating_sub(self.opened);
                if self.step == Step::Watch && lived >= SHORT {
                    self.lived(lived, now);
                }
                self.step = Step::Check;
                if blame == Blame::Version {
                    self.count_here();
                }
            }
        }
        self.wait(retry_after, now);
    }

    /// A failure at this version; a few in a row, and it is given up.
    fn count_here(&mut self) {
        self.here = self.here.saturating_add(1);
        if self.here >= ENOUGH {
            self.begin_again();
        }
    }

    fn begin_again(&mut self) {
        self.step = Step::List { pages: true };
        self.version = None;
        self.here = 0;
    }

    /// A watch that lived for longer than we waited for it was worth it.
    fn lived(&mut self, lived: Duration, now: Duration) {
        self.due = now;
        self.stumbles = 0;
        if lived >= self.delay {
            self.backoff.reset();
            self.delay = Duration::ZERO;
        }
    }

    fn wait(&mut self, retry_after: Option<Duration>, now: Duration) {
        let floor = retry_after.map_or(Duration::ZERO, |floor| self.backoff.spread(floor.min(LONGEST_WAIT)));
        self.delay = self.backoff.next_delay();
        self.due = now + self.delay.max(floor);
    }
}

#[cfg(test)]
mod tests;
