//! `relay wait`: follows the pods until a condition holds.

use std::fmt;
use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use futures_util::Stream;
use relay_pods::{Client, Error, Freshness, Pods, SnapshotStream, StreamHandle};
use tokio::time::{Instant, sleep};

use crate::args::{DEFAULT_WAIT, WaitArgs, written};
use crate::exit::{Exit, signalled};
use crate::output::Output;
use crate::query::until;
use crate::tally::Tally;

/// Longest time for a health document, and the time between two of a relay whose source is away.
const HEALTH_TIMEOUT: Duration = Duration::from_secs(5);
const HEALTH_AGAIN: Duration = Duration::from_secs(1);

pub(crate) async fn wait(args: WaitArgs) -> anyhow::Result<Exit> {
    // Looking once takes a moment too: a relay that is away is given the default time.
    let once = args.timeout.is_zero();
    let limit = if once { DEFAULT_WAIT } else { args.timeout };
    // A time beyond the clock is for ever.
    let deadline = Instant::now().checked_add(limit);
    let options = args.reconnect.options(args.which.filter()?);
    // A credential plugin may take its time.
    let client = tokio::select! {
        client = args.connect.client() => client?,
        () = until(deadline) => {
            let what = format!("timed out after {}: no credentials for the relay yet", written(args.timeout));
            return Ok(Exit::TimedOut(what));
        }
    };
    let signalled = signalled();
    let snapshots = client.stream_pod_state(options);
    let mut view = LiveView::new(client, snapshots);
    let ended = {
        let mut work = pin!(view.wait_for(&args.condition, once));
        tokio::select! {
            // A condition that is met at the last moment is met.
            biased;
            ended = &mut work => Some(ended?),
            exit = signalled => return Ok(exit),
            () = until(deadline) => None,
        }
    };
    let Some((true, tally)) = ended else {
        let seen = view.last_words(&args.condition);
        return Ok(Exit::TimedOut(format!("timed out after {}: {seen}", written(args.timeout))));
    };
    Output::new(args.print).line(
        || {
            let mut line = tally.json();
            line.insert("condition".into(), args.condition.to_string().into());
            line.into()
        },
        || format!("{}: met, {} pods, {} ready", args.condition, tally.pods, tally.ready),
    )?;
    Ok(Exit::Done)
}

/// What is waited for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Condition {
    /// At least so many pods are ready.
    Ready(usize),
    /// Exactly so many pods match.
    Count(usize),
    /// No pod matches.
    Deleted,
    /// There are pods, and all of them are in this phase.
    Phase(&'static str),
}

/// The phases of a pod.
const PHASES: [&str; 5] = ["Pending", "Running", "Succeeded", "Failed", "Unknown"];

impl Condition {
    /// Reads `ready=3`, `count=0`, `deleted` or `phase=Succeeded`.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let number = |value: &str, least: usize, rule: &str| match value.parse() {
            Ok(number) if value.bytes().all(|b| b.is_ascii_digit()) && number >= least => Ok(number),
            _ => Err(rule.to_owned()),
        };
        match text.split_once('=') {
            None if text == "deleted" => Ok(Self::Deleted),
            Some(("ready", value)) => {
                number(value, 1, "ready=N takes a number from 1; for no pods at all, count=0")
                    .map(Self::Ready)
            }
            Some(("count", value)) => number(value, 0, "count=N takes a number from 0").map(Self::Count),
            Some(("phase", value)) => {
                let known = PHASES.into_iter().find(|phase| phase.eq_ignore_ascii_case(value));
                known
                    .map(Self::Phase)
                    .ok_or_else(|| format!("phase=PHASE takes one of {}", PHASES.join(", ")))
            }
            _ => Err("one of ready=N, count=N, phase=PHASE, deleted".into()),
        }
    }

    fn holds(&self, tally: &Tally) -> bool {
        match *self {
            Self::Ready(wanted) => tally.ready >= wanted,
            Self::Count(wanted) => tally.pods == wanted,
            Self::Deleted => tally.pods == 0,
            Self::Phase(phase) => tally.pods > 0 && tally.in_phase(phase) == tally.pods,
        }
    }

    /// How far it is from being met.
    fn progress(&self, tally: &Tally) -> String {
        let pods = tally.pods;
        match *self {
            Self::Ready(wanted) => format!("{} of {wanted} pods ready, {pods} match", tally.ready),
            Self::Count(wanted) => format!("{pods} pods match, not {wanted}"),
            Self::Deleted => format!("{pods} pods still match"),
            Self::Phase(phase) if pods == 0 => format!("no pod matches, so none is {phase}"),
            Self::Phase(phase) => {
                format!("{} of {pods} pods {phase} ({})", tally.in_phase(phase), tally.phases_text())
            }
        }
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ready(wanted) => write!(f, "ready={wanted}"),
            Self::Count(wanted) => write!(f, "count={wanted}"),
            Self::Deleted => f.write_str("deleted"),
            Self::Phase(phase) => write!(f, "phase={phase}"),
        }
    }
}

/// The pods of one stream, judged only while they show the present.
struct LiveView {
    client: Client,
    snapshots: SnapshotStream,
    handle: StreamHandle,
    freshness: Freshness,
    /// The latest pods, unless they are history.
    pods: Option<Pods>,
    /// What was judged last.
    judged: Option<Tally>,
    /// The relay says that what it tells is of the past.
    source_is_away: bool,
}

impl LiveView {
    fn new(client: Client, snapshots: SnapshotStream) -> Self {
        let (handle, freshness) = (snapshots.handle(), Freshness::Cold);
        Self { client, snapshots, handle, freshness, pods: None, judged: None, source_is_away: false }
    }

    /// Waits until the condition holds, or for the first judgement. Gives it, and what was judged.
    async fn wait_for(&mut self, condition: &Condition, once: bool) -> anyhow::Result<(bool, Tally)> {
        loop {
            if let Some(tally) = self.live() {
                let holds = condition.holds(&tally);
                self.judged = Some(tally.clone());
                if holds || once {
                    // A stream knows by its next heartbeat only, so who is about to say yes asks.
                    self.source_is_away = self.source_is_away().await;
                    if !self.source_is_away {
                        return Ok((holds, tally));
                    }
                }
            }
            let ask_again = self.source_is_away;
            tokio::select! {
                news = self.news() => news?,
                () = sleep(HEALTH_AGAIN), if ask_again => {}
            }
        }
    }

    fn live(&self) -> Option<Tally> {
        let live = self.freshness == Freshness::Live;
        self.pods.as_ref().filter(|_| live).map(|pods| pods.iter().collect())
    }

    /// Waits for pods, or for another freshness.
    async fn news(&mut self) -> anyhow::Result<()> {
        let snapshot = poll_fn(|cx| {
            let polled = std::pin::Pin::new(&mut self.snapshots).poll_next(cx);
            // It changes only while the stream is polled, and not every change comes with a snapshot.
            let freshness = self.handle.freshness();
            match polled {
                Poll::Ready(item) => {
                    self.freshness = freshness;
                    Poll::Ready(Some(item))
                }
                Poll::Pending if freshness != self.freshness => {
                    self.freshness = freshness;
                    Poll::Ready(None)
                }
                Poll::Pending => Poll::Pending,
            }
        })
        .await;
        match snapshot {
            None => Ok(()),
            Some(Some(Ok(snapshot))) => {
                self.pods = Some(snapshot.pods).filter(|_| !snapshot.historic);
                Ok(())
            }
            // An end, and not the one that was waited for.
            Some(Some(Err(error @ Error::Finished { .. }))) => {
                Err(anyhow::anyhow!("the condition was not met before the end: {error}"))
            }
            Some(Some(Err(error))) => Err(error.into()),
            Some(None) => Err(anyhow::anyhow!("the stream ended before the condition was met")),
        }
    }

    /// Whether the relay's health document says so; one that cannot be had says nothing.
    async fn source_is_away(&self) -> bool {
        let health = tokio::time::timeout(HEALTH_TIMEOUT, self.client.health()).await;
        matches!(health, Ok(Ok((_, health))) if health.raw["source"]["state"] == "stale")
    }

    /// What was seen last, and whether it can be trusted.
    fn last_words(&self, condition: &Condition) -> String {
        let doubt = match self.handle.freshness() {
            _ if self.source_is_away => Some("the relay's source is away".to_owned()),
            Freshness::Live => None,
            Freshness::Stale { why, .. } => Some(why),
            Freshness::Cold => Some("no list was read".to_owned()),
            _ => Some("the stream did not catch up".to_owned()),
        };
        match (&self.judged, doubt) {
            (Some(tally), None) => condition.progress(tally),
            (Some(tally), Some(doubt)) => {
                format!(
                    "{} when last seen live, which it is not any more: {doubt}",
                    condition.progress(tally)
                )
            }
            (None, doubt) => {
                format!("the pods were never seen live: {}", doubt.unwrap_or_else(|| "nothing came".into()))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(ready: usize, phases: &[(&str, usize)]) -> Tally {
        let phases: std::collections::BTreeMap<_, _> =
            phases.iter().map(|(phase, count)| ((*phase).to_owned(), *count)).collect();
        Tally { pods: phases.values().sum(), ready, phases, restarts: 0 }
    }

    #[test]
    fn conditions_are_written_as_documented() {
        for (text, condition) in [
            ("ready=3", Condition::Ready(3)),
            ("count=0", Condition::Count(0)),
            ("deleted", Condition::Deleted),
            ("phase=Succeeded", Condition::Phase("Succeeded")),
        ] {
            assert_eq!(Condition::parse(text), Ok(condition.clone()), "{text}");
            assert_eq!(condition.to_string(), text);
        }
        assert_eq!(Condition::parse("phase=running"), Ok(Condition::Phase("Running")));
        for bad in [
            "",
            "ready",
            "ready=",
            "ready=0",
            "ready=-1",
            "ready=+1",
            "ready=x",
            "ready=99999999999999999999",
            "count",
            "count=-1",
            "deleted=1",
            "delete",
            "phase=",
            "phase=Done",
            "Ready=1",
        ] {
            assert!(Condition::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn when_conditions_hold_and_how_far_they_are() {
        let none = tally(0, &[]);
        let some = tally(1, &[("Running", 2), ("Pending", 1)]);
        let done = tally(0, &[("Succeeded", 2)]);
        for (text, tally, holds, progress) in [
            ("ready=1", &none, false, "0 of 1 pods ready, 0 match"),
            ("ready=1", &some, true, "1 of 1 pods ready, 3 match"),
            ("ready=2", &some, false, "1 of 2 pods ready, 3 match"),
            ("count=0", &none, true, "0 pods match, not 0"),
            ("count=3", &some, true, "3 pods match, not 3"),
            ("count=2", &some, false, "3 pods match, not 2"),
            ("count=4", &some, false, "3 pods match, not 4"),
            ("deleted", &none, true, "0 pods still match"),
            ("deleted", &some, false, "3 pods still match"),
            ("phase=Succeeded", &none, false, "no pod matches, so none is Succeeded"),
            ("phase=Running", &some, false, "2 of 3 pods Running (Pending 1, Running 2)"),
            ("phase=Succeeded", &done, true, "2 of 2 pods Succeeded (Succeeded 2)"),
        ] {
            let condition = Condition::parse(text).unwrap();
            assert_eq!(condition.holds(tally), holds, "{text}: {tally:?}");
            assert_eq!(condition.progress(tally), progress, "{text}");
        }
    }
}
