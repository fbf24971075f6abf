//! Commands that follow a stream: `stream`, `state`, `replay`.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use futures_util::StreamExt;
use relay_pods::{Phase, Pod, Snapshot, SnapshotStream, StreamHandle, StreamOptions};
use serde_json::{Value, json};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use crate::args::{ReplayArgs, StateArgs, StreamArgs, Until};
use crate::cursor::Cursor;
use crate::exit::{Exit, NeverConnected, advice_on, signalled};
use crate::output::{Output, Tone, note, to_value};
use crate::query::until;
use crate::rows::{self, Changes, group_cells, group_json, snapshot_cells, snapshot_json};
use crate::tally::Tally;

/// How often a bookmark's acknowledgement is looked for.
const BOOKMARKS: Duration = Duration::from_millis(100);

pub(crate) async fn stream(args: StreamArgs) -> anyhow::Result<Exit> {
    let client = args.connect.client().await?;
    let options =
        args.reconnect.options(args.which.filter()?).since(args.since_hash).start_latest(args.latest);
    let mut messages = client.stream(options);
    let mut out = Output::new(args.print);
    let mut ending = Ending::new(args.until);
    let mut connected = false;
    while !ending.reached(&out) {
        let message = tokio::select! {
            message = messages.next() => message,
            exit = ending.wait() => {
                return match exit {
                    Exit::Done if !connected => Err(NeverConnected("no answer yet".into()).into()),
                    exit => Ok(exit),
                };
            }
        };
        connected = true;
        let Some(message) = message.transpose()? else { break };
        let error = match message.message() {
            relay_proto::pods::Message::Undecodable(message) => Some(message.to_string()),
            _ => None,
        };
        let data: Value = serde_json::from_str(message.data()).unwrap_or(Value::Null);
        out.line(
            || json!({"event": message.event(), "id": message.id(), "data": data, "error": error}),
            || match &error {
                Some(error) => format!("{:<18} {}   {error}", message.event(), message.id()),
                None => format!("{:<18} {}   {data}", message.event(), message.id()),
            },
        )?;
    }
    Ok(Exit::Done)
}

pub(crate) async fn state(args: StateArgs) -> anyhow::Result<Exit> {
    let client = args.connect.client().await?;
    let mut snapshots = client.stream_pod_state(args.reconnect.options(args.which.filter()?));
    let handle = snapshots.handle();
    let mut watch = OutageWatch::new(handle.clone());
    let mut first = true;
    let mut out = Output::new(args.print);
    let mut changes = Changes::default();
    out.table(if args.group_by.is_some() { rows::GROUPS } else { rows::STATE });
    let mut ending = Ending::new(args.until);
    while !ending.reached(&out) {
        let snapshot = tokio::select! {
            snapshot = snapshots.next() => snapshot,
            exit = ending.wait() => return Ok(ever_connected(exit, &handle)),
            () = watch.look() => {
                watch.tell(&mut out)?;
                continue;
            }
        };
        let Some(snapshot) = snapshot.transpose()? else { break };
        watch.tell(&mut out)?;
        let Some(label) = &args.group_by else {
            let before = changes.before_snapshot(&snapshot);
            out.row(
                String::new,
                || snapshot_json(&snapshot, args.pods, false),
                || snapshot_cells(&snapshot, before.as_ref(), false),
            )?;
            continue;
        };
        if std::mem::take(&mut first)
            && !snapshot.pods.is_empty()
            && snapshot.pods.group_by_label(label).is_empty()
        {
            note(&format!("no pod has the label {label} yet: all of them are in the group (none)"));
        }
        for group in touched_groups(&snapshot, label) {
            if ending.reached(&out) {
                break;
            }
            let mut of_group: Vec<&Pod> = match group {
                Some(value) => snapshot.pods.group(label, value).iter().collect(),
                None => snapshot.pods.iter().filter(|pod| pod.label(label).is_none()).collect(),
            };
            let tally: Tally = of_group.iter().copied().collect();
            of_group.sort_by(|a, b| a.key().cmp(b.key()));
            let pods = || args.pods.then(|| of_group.iter().map(to_value).collect());
            out.row(
                String::new,
                || group_json(label, group, &tally, pods()),
                || group_cells(rows::time(&snapshot), label, group, &tally),
            )?;
        }
    }
    Ok(Exit::Done)
}

/// The groups that a snapshot touched: by value, and the pods without the label.
fn touched_groups<'a>(snapshot: &'a Snapshot, label: &'a str) -> Vec<Option<&'a str>> {
    let changes = &snapshot.changed;
    let values: BTreeSet<_> = changes.iter().flat_map(|change| change.touched_groups(label)).collect();
    let mut pods = changes.iter().flat_map(|change| change.before.iter().chain(&change.after));
    let none = pods.any(|pod| pod.label(label).is_none());
    values.into_iter().map(Some).chain(none.then_some(None)).collect()
}

/// Done, unless the time is over and no connection was ever made.
fn ever_connected(exit: Exit, handle: &StreamHandle) -> Exit {
    if !matches!(exit, Exit::Done) || handle.statistics().connections > 0 {
        return exit;
    }
    let why = handle.outage().map_or("no answer yet".into(), |outage| outage.why);
    Exit::Failed(NeverConnected(why).into())
}

/// An outage that lasts for less is told by what follows it alone.
const SHORT: Duration = Duration::from_millis(400);

/// Looks at a stream for outages, to say when one goes on and when it is over.
struct OutageWatch {
    handle: StreamHandle,
    /// Since when the outage has lasted that was told of.
    told: Option<SystemTime>,
}

impl OutageWatch {
    fn new(handle: StreamHandle) -> Self {
        Self { handle, told: None }
    }

    /// Ready when there is something to tell.
    async fn look(&self) {
        loop {
            sleep(BOOKMARKS).await;
            match (self.handle.outage(), self.told) {
                (Some(outage), None) if outage.since.elapsed().is_ok_and(|time| time >= SHORT) => return,
                (None, Some(_)) => return,
                _ => {}
            }
        }
    }

    /// A line for people, when an outage has begun or is over since the last one.
    fn tell(&mut self, out: &mut Output) -> anyhow::Result<()> {
        match (self.handle.outage(), self.told) {
            (Some(outage), None) if outage.since.elapsed().is_ok_and(|time| time >= SHORT) => {
                self.told = Some(outage.since);
                let wait = outage.next_try.duration_since(SystemTime::now()).unwrap_or_default();
                let since = clock(outage.since);
                let next = match self.handle.statistics().connections {
                    0 => advice_on(&outage.why).map_or(String::new(), |advice| format!(" ({advice})")),
                    _ => String::new(),
                };
                // What a narrow terminal cuts off is the end.
                out.heading(Tone::Bad.text("no connection").plain(format!(
                    " since {since}, next try in {:.1}s{next}: {}",
                    wait.as_secs_f64(),
                    outage.why
                )))
            }
            (None, Some(since)) => {
                self.told = None;
                let lasted = since.elapsed().unwrap_or_default();
                out.heading(
                    Tone::Good.text("connected again").plain(format!(" after {:.1}s", lasted.as_secs_f64())),
                )
            }
            _ => Ok(()),
        }
    }
}

/// The time of day in UTC.
fn clock(time: SystemTime) -> String {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let seconds = since.as_secs() % 86_400;
    format!("{:02}:{:02}:{:02}Z", seconds / 3600, seconds / 60 % 60, seconds % 60)
}

pub(crate) async fn replay(args: ReplayArgs) -> anyhow::Result<Exit> {
    let client = args.connect.client().await?;
    let filter = args.which.filter()?;
    let cursor = Cursor::open(args.cursor_file.as_deref(), &filter)?;
    if args.since_hash.is_some() && cursor.is_open() {
        tracing::warn!("--since-hash is given: the position in the cursor file is not used");
    }
    let since_time = args.since.time();
    if since_time.is_some() && cursor.is_open() {
        tracing::warn!("--since or --since-time is given: the position in the cursor file is not used");
    }
    let loaded = cursor.loaded().filter(|_| since_time.is_none());
    let since = args.since_hash.or_else(|| loaded.cloned());
    let options = args
        .reconnect
        .options(filter)
        .since(since)
        .since_time(since_time)
        .apply_backfill_to_current_state_cache(args.apply_backfill);
    let printing = Printing {
        out: Output::new(args.print),
        changes: Changes::default(),
        pods: args.pods,
        exit_after: args.exit_after_phase,
        until: args.until,
    };
    follow_replay(&client, options, cursor, printing).await
}

/// How a replay is printed and when it ends.
pub(crate) struct Printing {
    pub(crate) out: Output,
    pub(crate) changes: Changes,
    pub(crate) pods: bool,
    pub(crate) exit_after: Option<Phase>,
    pub(crate) until: Until,
}

/// Prints a replay, and keeps its acknowledgements: a line is written and flushed before its ack may be persisted.
pub(crate) async fn follow_replay(
    client: &relay_pods::Client,
    options: StreamOptions,
    mut cursor: Cursor,
    mut printing: Printing,
) -> anyhow::Result<Exit> {
    let mut snapshots = client.stream_pod_state_with_replay(options);
    printing.out.table(rows::REPLAY);
    let handle = snapshots.handle();
    let mut ending = Ending::new(printing.until);
    let exit = print_replay(&mut snapshots, &handle, &mut cursor, &mut printing, &mut ending).await;
    // However it ended: what was processed is not to come again.
    cursor.flush()?;
    exit
}

async fn print_replay(
    snapshots: &mut SnapshotStream,
    handle: &StreamHandle,
    cursor: &mut Cursor,
    printing: &mut Printing,
    ending: &mut Ending,
) -> anyhow::Result<Exit> {
    let mut watch = OutageWatch::new(handle.clone());
    let mut bookmarks = interval(BOOKMARKS);
    bookmarks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        if ending.reached(&printing.out) {
            return Ok(Exit::Done);
        }
        let snapshot = tokio::select! {
            biased;
            exit = ending.wait() => return Ok(ever_connected(exit, handle)),
            () = watch.look() => {
                watch.tell(&mut printing.out)?;
                continue;
            }
            () = cursor.due() => {
                cursor.flush()?;
                continue;
            }
            _ = bookmarks.tick(), if cursor.is_open() => {
                if let Some(ack) = handle.acknowledgement() {
                    cursor.acknowledge(ack)?;
                }
                continue;
            }
            snapshot = snapshots.next() => snapshot,
        };
        let Some(snapshot) = snapshot.transpose()? else { return Ok(Exit::Done) };
        watch.tell(&mut printing.out)?;
        let before = printing.changes.before_snapshot(&snapshot);
        printing.out.row(
            String::new,
            || snapshot_json(&snapshot, printing.pods, true),
            || snapshot_cells(&snapshot, before.as_ref(), true),
        )?;
        handle.finish();
        if let Some(ack) = handle.acknowledgement() {
            cursor.acknowledge(ack)?;
        }
        if printing.exit_after.is_some_and(|phase| reaches(&snapshot, phase)) {
            return Ok(Exit::Done);
        }
    }
}

/// Live is entered with the list after the catch-up, even when no event comes.
fn reaches(snapshot: &Snapshot, phase: Phase) -> bool {
    snapshot.phase == phase || (phase == Phase::Live && snapshot.is_live())
}

/// When a command ends by itself: a number of lines, a time, a signal.
pub(crate) struct Ending {
    max: Option<u64>,
    deadline: Option<Instant>,
    signal: std::pin::Pin<Box<dyn Future<Output = Exit> + Send>>,
}

impl Ending {
    pub(crate) fn new(until: Until) -> Self {
        // A time beyond the clock is for ever.
        let deadline = until.time.and_then(|time| Instant::now().checked_add(time));
        Self { max: until.max, deadline, signal: Box::pin(signalled()) }
    }

    pub(crate) fn reached(&self, out: &Output) -> bool {
        self.max.is_some_and(|max| out.lines >= max)
    }

    pub(crate) async fn wait(&mut self) -> Exit {
        tokio::select! {
            () = until(self.deadline) => Exit::Done,
            exit = &mut self.signal => exit,
        }
    }
}
