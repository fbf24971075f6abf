//! The state machine of a list-and-watch, without a clock, a socket or objects.

use std::time::Duration;

use relay_proto::retry::{Backoff, Jitter};

/// The first delay after a failure, and the longest.
const BASE: Duration = Duration::from_millis(800);
const CAP: Duration = Duration::from_secs(30);

/// A watch that lasts less than this is short: the next request is delayed.
pub(super) const SHORT: Duration = Duration::from_secs(1);

/// Time in which a watch may be refused by an event: an expired version is not an error status.
const REFUSAL: Duration = Duration::from_millis(500);

/// Upper bound for a delay that an API server asks for.
const LONGEST_WAIT: Duration = Duration::from_secs(300);

/// After this many failures in a row a version is given up.
const ENOUGH: u32 = 3;

/// The step to take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// Read all objects, in pages or at once.
    List { pages: bool },
    /// Watch the changes after the version.
    Watch,
    /// Ask whether the cluster knows the version.
    Check,
}

/// The cause of a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FailureCause {
    /// Perhaps the version: the same response could come each time.
    Version,
    /// The network, our credentials, or the server's load: another version would not help.
    Other,
}

/// Decides between list, watch and check.
///
/// ```text
///               expired, ahead, or failed three times at this version
///         +------------------------<------------------------+
///         v                                                 |
///   --> List --- listed ---> Watch --- ended, failed ---> Check
///       ^  |                  ^  |                         |  |
///       +--+ failed,          |  +-- expired --> List      |  |
///            next page gone   +------------- known --------+  +-- failed --> Check
/// ```
/// Times are on any clock that only goes forward. **No step is taken before [`due`](Self::due).** After a failed
/// request or a short watch there is a delay: it grows each time, is jittered, and is at least as long as the API
/// server asked for. A watch that lasts longer than the last delay resets the delays.
#[derive(Debug)]
pub(super) struct Machine {
    step: Step,
    due: Duration,
    backoff: Backoff,
    /// The last delay since the last success.
    delay: Duration,
    /// Whether that delay came directly before this step.
    waited: bool,
    /// Everything up to this version of the cluster was handed over.
    version: Option<String>,
    /// Failures in a row at this version.
    here: u32,
    /// Watches in a row that ended at once without an event, or with a refusal of their version. Lists in between
    /// do not reset it.
    stumbles: u32,
    /// When the watch was opened.
    opened: Duration,
    /// Whether the watch has had an event.
    brought: bool,
}

impl Machine {
    /// Starts with a list, without a delay. The seed makes the delays of several relays differ.
    pub(super) fn new(seed: u64) -> Self {
        Self {
            step: Step::List { pages: true },
            due: Duration::ZERO,
            backoff: Backoff::new(BASE, CAP, seed).jitter(Jitter::Half),
            delay: Duration::ZERO,
            waited: false,
            version: None,
            here: 0,
            stumbles: 0,
            opened: Duration::ZERO,
            brought: false,
        }
    }

    /// The next step, to be taken at [`due`](Self::due).
    pub(super) fn step(&self) -> Step {
        self.step
    }

    /// When to take the next step.
    pub(super) fn due(&self) -> Duration {
        self.due
    }

    /// The version to watch from or to check; empty before the first list.
    pub(super) fn version(&self) -> &str {
        self.version.as_deref().unwrap_or_default()
    }

    /// Whether watches repeatedly end or expire as soon as they are opened: no changes are received, although lists
    /// can be read.
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
        self.waited = false;
        self.step = Step::Watch;
    }

    /// The response head of a watch has come.
    pub(super) fn opened(&mut self, now: Duration) {
        self.opened = now;
        self.brought = false;
        self.waited = false;
    }

    /// The watch had an event of this version (empty: unknown), which was handed over. Returns whether the watch
    /// now counts as accepted.
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

    /// The cluster still knows the version.
    pub(super) fn known(&mut self) {
        self.step = Step::Watch;
    }

    /// The watch ended in the usual way, or was silent for too long.
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

    /// The version is older than the API server keeps, or newer than it has.
    pub(super) fn expired(&mut self, now: Duration) {
        let lived = now.saturating_sub(self.opened);
        if self.step == Step::Watch {
            self.stumbles = if lived < SHORT { self.stumbles.saturating_add(1) } else { 0 };
            // A full list is expensive: only a long watch resets the delays.
            if lived >= CAP {
                self.backoff.reset();
            }
        }
        self.begin_again();
        if std::mem::take(&mut self.waited) {
            // A check after a delay: the list needs no second one.
            self.due = now;
        } else {
            self.wait(None, now);
        }
    }

    /// The token for the next page of a list has expired: the next list is read without pages.
    pub(super) fn page_is_gone(&mut self, retry_after: Option<Duration>, now: Duration) {
        self.step = Step::List { pages: false };
        self.wait(retry_after, now);
    }

    /// A request failed, or an open watch did.
    pub(super) fn failed(&mut self, cause: FailureCause, retry_after: Option<Duration>, now: Duration) {
        match self.step {
            // The next list has pages again: they cost the server less.
            Step::List { .. } => self.begin_again(),
            Step::Watch | Step::Check => {
                let lived = now.saturating_sub(self.opened);
                if self.step == Step::Watch && lived >= SHORT {
                    self.lived(lived, now);
                }
                self.step = Step::Check;
                if cause == FailureCause::Version {
                    self.count_here();
                }
            }
        }
        self.wait(retry_after, now);
    }

    /// Counts a failure at this version, and gives the version up after a few.
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

    /// Resets the delays after a watch that lasted longer than the delay before it.
    fn lived(&mut self, lived: Duration, now: Duration) {
        self.due = now;
        self.waited = false;
        self.stumbles = 0;
        if lived >= self.delay {
            self.backoff.reset();
            self.delay = Duration::ZERO;
        }
    }

    fn wait(&mut self, retry_after: Option<Duration>, now: Duration) {
        let floor = retry_after.map_or(Duration::ZERO, |floor| self.backoff.spread(floor.min(LONGEST_WAIT)));
        self.delay = self.backoff.next_delay();
        self.waited = true;
        self.due = now + self.delay.max(floor);
    }
}

#[cfg(test)]
mod tests;
