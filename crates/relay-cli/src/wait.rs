//! `relay wait`: follows the pods until conditions hold.

mod condition;

use std::collections::HashSet;
use std::future::poll_fn;
use std::hash::{BuildHasher, RandomState};
use std::io::IsTerminal as _;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use futures_util::Stream;
use relay_pods::{
    Client, Error, Freshness, Pod, PodKey, Pods, ProblemCode, SnapshotStream, StreamHandle, StreamOptions,
};
use relay_proto::error::chain;
use relay_proto::retry::{Backoff, Jitter};
use tokio::time::{Instant, sleep, sleep_until};

use crate::args::{DEFAULT_WAIT, WaitArgs, written};
use crate::exit::{Exit, NoPodRelay, Usage, signalled};
use crate::output::{Output, note};
use crate::pod_name::{Namespace, pod_key};
use crate::query::until;
use crate::tally::Tally;

pub(crate) use condition::Condition;

/// The time without output, for people in front of a terminal.
const PATIENCE: Duration = Duration::from_secs(3);
/// The highest number of pods that are named one by one after the timeout.
const MOST_TOLD: usize = 20;
/// The longest time for a health document, and the time between two requests while the source is unavailable.
const HEALTH_TIMEOUT: Duration = Duration::from_secs(5);
const HEALTH_AGAIN: Duration = Duration::from_secs(1);
/// The ceilings of the first and of every delay while another server answers instead of the relay.
const ABSENT_BASE: Duration = Duration::from_millis(500);
const ABSENT_CAP: Duration = Duration::from_secs(5);

pub(crate) async fn wait(args: WaitArgs) -> anyhow::Result<Exit> {
    // A single check also takes time: an unavailable relay gets the default time limit.
    let once = args.timeout.is_zero();
    let limit = if once { DEFAULT_WAIT } else { args.timeout };
    // A time beyond the range of the clock means no limit.
    let deadline = Instant::now().checked_add(limit);
    let names = names(&args)?;
    let mut filter = args.which.filter()?;
    for name in &names {
        filter = filter.namespace(name.namespace()).map_err(|error| Usage(error.to_string()))?;
    }
    let options = args.reconnect.options(filter);
    // A credential plugin may be slow.
    let client = tokio::select! {
        client = args.connect.client() => client?,
        () = until(deadline) => {
            let what = format!("timed out after {}: no credentials for the relay yet", written(args.timeout));
            return Ok(Exit::TimedOut(what));
        }
    };
    let signalled = signalled();
    let mut view = LiveView::new(client, options, Wanted { conditions: args.conditions, names });
    let ended = {
        let mut work = pin!(view.wait_for(once));
        tokio::select! {
            // A condition that is met at the last moment counts.
            biased;
            ended = &mut work => Some(ended?),
            exit = signalled => return Ok(exit),
            () = until(deadline) => None,
        }
    };
    let Some((true, tally)) = ended else {
        view.tell_what_is_missing();
        let seen = view.last_words();
        return Ok(Exit::TimedOut(format!("timed out after {}: {seen}", written(args.timeout))));
    };
    Output::new(args.print).answer(
        || {
            let mut line = tally.json();
            line.insert("condition".into(), view.wanted.text().into());
            line.into()
        },
        || {
            let pods = if tally.pods == 1 { "pod" } else { "pods" };
            format!("{}: met, {} {pods}, {} ready", view.wanted.text(), tally.pods, tally.ready)
        },
    )?;
    if let Some(never) = view.never_seen() {
        note(&never);
    }
    Ok(Exit::Done)
}

/// The pods that were named: `NAMESPACE/NAME`, or `NAME` in the only namespace.
fn names(args: &WaitArgs) -> Result<Vec<PodKey>, Usage> {
    if !args.pods.is_empty() && args.which.has_labels() {
        return Err(Usage("wait takes names of pods or --label, not both".into()));
    }
    let namespace = args.which.only_namespace().map(Namespace::new);
    args.pods.iter().map(|name| pod_key(name, namespace)).collect()
}

/// The conditions, and the pods that they are about: the named ones, or all that match.
struct Wanted {
    conditions: Vec<Condition>,
    names: Vec<PodKey>,
}

impl Wanted {
    fn text(&self) -> String {
        self.conditions.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
    }

    fn of<'a>(&self, pods: &'a Pods) -> Vec<&'a Pod> {
        if self.names.is_empty() {
            return pods.iter().collect();
        }
        self.names.iter().filter_map(|name| pods.get(name)).collect()
    }

    fn missing<'a>(&'a self, pods: &'a Pods) -> impl Iterator<Item = &'a PodKey> {
        self.names.iter().filter(|name| pods.get(name).is_none())
    }

    fn hold(&self, pods: &Pods, tally: &Tally) -> bool {
        let missing = self.missing(pods).count();
        self.conditions.iter().all(|condition| condition.holds(tally, missing))
    }

    /// The progress of the conditions that do not hold; of all of them if all hold.
    fn progress(&self, tally: &Tally) -> String {
        let open = |condition: &&Condition| !condition.holds(tally, 0);
        let mut words: Vec<_> = self.conditions.iter().filter(open).map(|c| c.progress(tally)).collect();
        if words.is_empty() {
            words = self.conditions.iter().map(|condition| condition.progress(tally)).collect();
        }
        words.join("; ")
    }

    /// The pods that do not meet a condition, and why.
    fn lacks(&self, pods: &Pods) -> Vec<String> {
        let mut lines = Vec::new();
        for condition in &self.conditions {
            if condition.holds(&self.of(pods).into_iter().collect(), self.missing(pods).count()) {
                continue;
            }
            let absent = self.missing(pods).filter_map(|key| Some((key, condition.lacks_missing(key)?)));
            lines.extend(absent.map(|(key, why)| format!("{}/{}: {why}", key.namespace(), key.name())));
            let mut present = self.of(pods);
            present.sort_by(|a, b| a.key().cmp(b.key()));
            let lacking = present.into_iter().filter_map(|pod| Some((pod, condition.lacks(pod)?)));
            lines.extend(lacking.map(|(pod, why)| format!("{}/{}: {why}", pod.namespace(), pod.name())));
        }
        lines.dedup();
        lines
    }
}

/// The pods of one stream, used only while they show the present.
struct LiveView {
    wanted: Wanted,
    /// The named pods that have existed; if none was named, any pod that matched.
    seen: HashSet<PodKey>,
    /// Whether a message said that no pod matches.
    told_of_none: bool,
    client: Client,
    options: StreamOptions,
    snapshots: SnapshotStream,
    handle: StreamHandle,
    freshness: Freshness,
    /// Whether anything was read from the relay, which shows that it is there.
    met: bool,
    /// The delays while another server answers instead of the relay.
    backoff: Backoff,
    /// The latest pods, unless they are history.
    pods: Option<Pods>,
    /// The state that was checked last.
    judged: Option<Tally>,
    /// Whether the relay says that its pods may be out of date.
    source_is_away: bool,
    /// The answer of another server instead of the relay.
    refused: Option<String>,
}

impl LiveView {
    fn new(client: Client, options: StreamOptions, wanted: Wanted) -> Self {
        let snapshots = client.stream_pod_state(options.clone());
        let (handle, freshness) = (snapshots.handle(), Freshness::Cold);
        let backoff = Backoff::new(ABSENT_BASE, ABSENT_CAP, RandomState::new().hash_one(std::process::id()))
            .jitter(Jitter::Half);
        Self {
            options,
            met: false,
            backoff,
            wanted,
            seen: HashSet::new(),
            told_of_none: false,
            client,
            snapshots,
            handle,
            freshness,
            pods: None,
            judged: None,
            source_is_away: false,
            refused: None,
        }
    }

    /// Waits until the conditions hold, or for the first check. Returns the result, and the state that was checked.
    async fn wait_for(&mut self, once: bool) -> anyhow::Result<(bool, Tally)> {
        let on_terminal = std::io::stderr().is_terminal();
        let (mut patient_until, mut said) = (Instant::now() + PATIENCE, String::new());
        loop {
            if let Some((holds, tally)) = self.live() {
                if tally.pods == 0 && !holds && !once && !std::mem::replace(&mut self.told_of_none, true) {
                    note(&format!("no pod matches yet; waiting for {}", self.wanted.text()));
                }
                self.judged = Some(tally.clone());
                if holds || once {
                    // A stream learns this only with its next heartbeat, so `/health` is requested before success is
                    // reported.
                    self.source_is_away = self.source_is_away().await;
                    if !self.source_is_away {
                        return Ok((holds, tally));
                    }
                }
            }
            let ask_again = self.source_is_away;
            tokio::select! {
                () = sleep_until(patient_until), if on_terminal => {
                    patient_until = Instant::now() + PATIENCE;
                    let text = format!("waiting for {}: {}", self.wanted.text(), self.so_far());
                    if text != said {
                        note(&text);
                        said = text;
                    }
                }
                news = self.news() => news?,
                () = sleep(HEALTH_AGAIN), if ask_again => {}
            }
        }
    }

    fn live(&self) -> Option<(bool, Tally)> {
        let live = self.freshness == Freshness::Live;
        let pods = self.pods.as_ref().filter(|_| live)?;
        let tally = self.wanted.of(pods).into_iter().collect();
        Some((self.wanted.hold(pods, &tally), tally))
    }

    /// Names the pods whose deletion was awaited and that never existed, because a typing error would look the same.
    fn never_seen(&self) -> Option<String> {
        if !self.wanted.conditions.iter().any(|condition| matches!(condition, Condition::Deleted(_))) {
            return None;
        }
        let never: Vec<_> = self
            .wanted
            .names
            .iter()
            .filter(|name| !self.seen.contains(*name))
            .map(ToString::to_string)
            .collect();
        match never.as_slice() {
            [] if self.wanted.names.is_empty() && self.seen.is_empty() => {
                Some("no pod matched from the start".into())
            }
            [] => None,
            [one] => Some(format!("{one} was not there from the start")),
            many => Some(format!("{} were not there from the start", many.join(", "))),
        }
    }

    /// Prints the pods that do not meet a condition, one per line.
    fn tell_what_is_missing(&self) {
        let lines = self.pods.as_ref().map(|pods| self.wanted.lacks(pods)).unwrap_or_default();
        lines.iter().take(MOST_TOLD).for_each(|line| note(line));
        if lines.len() > MOST_TOLD {
            note(&format!("and {} more", lines.len() - MOST_TOLD));
        }
    }

    /// Waits for new pods, or for a change of the freshness.
    async fn news(&mut self) -> anyhow::Result<()> {
        let snapshot = poll_fn(|cx| {
            let polled = std::pin::Pin::new(&mut self.snapshots).poll_next(cx);
            // The freshness changes only while the stream is polled, and not every change comes with a snapshot.
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
                self.met = true;
                self.pods = Some(snapshot.pods).filter(|_| !snapshot.historic);
                if let Some(pods) = &self.pods {
                    // Without names, it only matters whether there were any pods.
                    let any = pods.iter().next().filter(|_| self.wanted.names.is_empty());
                    let named = self.wanted.names.iter().filter(|name| pods.get(name).is_some());
                    self.seen.extend(
                        named
                            .cloned()
                            .chain(any.map(|pod| pod.key().clone()))
                            .take(self.wanted.names.len().max(1)),
                    );
                }
                Ok(())
            }
            // The stream has ended without meeting the condition.
            Some(Some(Err(error @ Error::Finished { .. }))) => {
                Err(anyhow::anyhow!("the condition was not met before the end: {error}"))
            }
            Some(Some(Err(error))) if !self.met && self.is_of_somebody_else(&error).await => {
                tracing::warn!(error = %chain(&error), "it is not the relay that answers; asking again");
                let stranger = NoPodRelay::of(&error).map(|stranger| stranger.to_string());
                self.refused = Some(stranger.unwrap_or_else(|| chain(&error).to_string()));
                sleep(self.backoff.next_delay()).await;
                self.snapshots = self.client.stream_pod_state(self.options.clone());
                self.handle = self.snapshots.handle();
                Ok(())
            }
            Some(Some(Err(error))) => Err(error.into()),
            Some(None) => Err(anyhow::anyhow!("the stream ended before the condition was met")),
        }
    }

    /// Whether a 404 came from something in front of a relay that is not available yet, such as an ingress without a
    /// back end. A relay's own 404 has its code, for the requested path or for its health document.
    async fn is_of_somebody_else(&self, error: &Error) -> bool {
        let own = |error: &Error| match error {
            Error::Refused { problem, .. } => problem.is(ProblemCode::NOT_FOUND),
            _ => false,
        };
        if error.status() != Some(404) || own(error) {
            return false;
        }
        let health = tokio::time::timeout(HEALTH_TIMEOUT, self.client.health()).await;
        !matches!(health, Ok(Err(error)) if own(&error))
    }

    /// Whether the relay's health document says so. A missing document counts as no.
    async fn source_is_away(&self) -> bool {
        let health = tokio::time::timeout(HEALTH_TIMEOUT, self.client.health()).await;
        matches!(health, Ok(Ok((_, health))) if health.raw["source"]["state"] == "stale")
    }

    /// The progress, for people who watch the command.
    fn so_far(&self) -> String {
        match &self.judged {
            Some(tally) => self.wanted.progress(tally),
            None => "no pods seen yet".into(),
        }
    }

    /// The last state, and whether it can be trusted.
    fn last_words(&self) -> String {
        let doubt = match self.handle.freshness() {
            _ if self.source_is_away => Some("the relay's source is away".to_owned()),
            Freshness::Live => None,
            Freshness::Stale { why, .. } => Some(why),
            Freshness::Cold => {
                let why = self.handle.outage().map(|outage| outage.why).or_else(|| self.refused.clone());
                Some(format!("no list was read{}", why.map_or(String::new(), |why| format!(": {why}"))))
            }
            _ => Some("the stream did not catch up".to_owned()),
        };
        match (&self.judged, doubt) {
            (Some(tally), None) => self.wanted.progress(tally),
            (Some(tally), Some(doubt)) => {
                format!(
                    "{} when last seen live, which it is not any more: {doubt}",
                    self.wanted.progress(tally)
                )
            }
            (None, doubt) => {
                format!("the pods were never seen live: {}", doubt.unwrap_or_else(|| "nothing came".into()))
            }
        }
    }
}
