//! Commands that follow a stream: `stream`, `state`, `replay`.

use std::collections::HashMap;
use std::time::Duration;

use futures_util::StreamExt;
use relay_pods::{Phase, Snapshot, SnapshotStream, StreamHandle, StreamOptions};
use serde_json::{Value, json};
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::args::{ReplayArgs, StateArgs, StreamArgs, Until};
use crate::cursor::Cursor;
use crate::exit::{Exit, NeverConnected, signalled};
use crate::outage::OutageWatch;
use crate::output::{Output, Tone, note, to_value};
use crate::query::until;
use crate::rows::{self, Changes, group_cells, group_json, snapshot_json, snapshot_row};
use crate::tally::{GroupBy, Tally};

/// How often the acknowledgement of bookmarks is checked.
const BOOKMARKS: Duration = Duration::from_millis(100);

pub(crate) async fn stream(args: StreamArgs) -> anyhow::Result<Exit> {
    let client = args.connect.client().await?;
    let options =
        args.reconnect.options(args.which.filter()?).since(args.since_hash).start_latest(args.latest);
    let mut messages = client.stream(options);
    let mut out = Output::new(args.print);
    out.table(rows::MESSAGES);
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
        // Events of other names are passed on, and their data need not be JSON.
        let data = match serde_json::from_str(message.data()) {
            Ok(data) => data,
            Err(_) if error.is_none() => Value::from(message.data()),
            Err(_) => Value::Null,
        };
        out.row(
            String::new,
            || json!({"event": message.event(), "id": message.id(), "data": data, "error": error}),
            || {
                let data = match (&error, &data) {
                    (Some(error), _) => Tone::Bad.text(error),
                    (None, Value::String(text)) => text.as_str().into(),
                    (None, data) => data.to_string().into(),
                };
                vec![Tone::Strong.text(message.event()), message.id().into(), data]
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
    let mut groups = HashMap::new();
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
        if first && snapshot.pods.is_empty() && out.is_table() {
            note(&format!("{} yet", args.which.nothing()));
        }
        let Some(by) = &args.group_by else {
            let (before, wide) = (changes.before_snapshot(&snapshot), out.is_wide());
            out.row(
                String::new,
                || snapshot_json(&snapshot, args.pods, false),
                || snapshot_row(&snapshot, before.as_ref(), false, wide),
            )?;
            if std::mem::take(&mut first) && !ending.reached(&out) {
                list_pods(&mut out, &snapshot)?;
            }
            continue;
        };
        if std::mem::take(&mut first)
            && let GroupBy::Label(label) = by
            && !snapshot.pods.is_empty()
            && snapshot.pods.group_by_label(label).is_empty()
        {
            note(&format!("no pod has the label {label} yet: all of them are in the group (none)"));
        }
        for (group, mut members) in by.touched(&snapshot.changed, &snapshot.pods) {
            if ending.reached(&out) {
                break;
            }
            let tally: Tally = members.iter().copied().collect();
            // A table leaves out a line that is the same as the last one.
            let told = groups.insert(group.clone(), tally.clone());
            if out.is_table() && told.as_ref() == Some(&tally) {
                continue;
            }
            members.sort_by(|a, b| a.key().cmp(b.key()));
            let pods = || args.pods.then(|| members.iter().map(to_value).collect());
            let (name, group) = (by.name(), group.as_deref());
            out.row(
                String::new,
                || group_json(name, group, &tally, pods()),
                || group_cells(rows::time(&snapshot), name, group, &tally),
            )?;
        }
    }
    Ok(Exit::Done)
}

/// The highest number of pods of a first list that are printed one by one.
const MOST_LISTED: usize = 50;

/// Prints the pods of the first list in a table.
fn list_pods(out: &mut Output, snapshot: &Snapshot) -> anyhow::Result<()> {
    if !out.is_table() {
        return Ok(());
    }
    let pods = snapshot.pods.sorted();
    for pod in pods.iter().take(MOST_LISTED) {
        out.more(rows::listed_cells(pod))?;
    }
    match pods.len().saturating_sub(MOST_LISTED) {
        0 => Ok(()),
        more => out.heading(Tone::Faint.text(format!("... and {more} more; relay pods lists all of them"))),
    }
}

/// Success, unless the time is over and there never was a connection.
fn ever_connected(exit: Exit, handle: &StreamHandle) -> Exit {
    if !matches!(exit, Exit::Done) || handle.statistics().connections > 0 {
        return exit;
    }
    let why = handle.outage().map_or("no answer yet".into(), |outage| outage.why);
    Exit::Failed(NeverConnected(why).into())
}

pub(crate) async fn replay(args: ReplayArgs) -> anyhow::Result<Exit> {
    let client = args.connect.client().await?;
    let filter = args.which.filter()?;
    let cursor = Cursor::open(args.cursor_file.as_deref(), &filter)?;
    if args.since_hash.is_some() && cursor.loaded().is_some() {
        tracing::warn!("--since-hash is given: the position in the cursor file is not used");
    }
    let since_time = args.since.time();
    if since_time.is_some() && cursor.loaded().is_some() {
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

/// The format of a replay, and when it ends.
pub(crate) struct Printing {
    pub(crate) out: Output,
    pub(crate) changes: Changes,
    pub(crate) pods: bool,
    pub(crate) exit_after: Option<Phase>,
    pub(crate) until: Until,
}

/// Prints a replay and saves its acknowledgements: a line is written and flushed before its ack may be saved.
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
    // Whatever ended the replay, processed events must not come again.
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
        let (before, wide) = (printing.changes.before_snapshot(&snapshot), printing.out.is_wide());
        printing.out.row(
            String::new,
            || snapshot_json(&snapshot, printing.pods, true),
            || snapshot_row(&snapshot, before.as_ref(), true, wide),
        )?;
        handle.finish();
        if let Some(ack) = handle.acknowledgement() {
            cursor.acknowledge(ack)?;
        }
        if printing.exit_after.is_some_and(|phase| reaches(&snapshot, phase)) {
            if snapshot.phase != Phase::Live && printing.exit_after == Some(Phase::Live) {
                printing
                    .out
                    .heading("Live is reached: everything that comes now is a change as it happens")?;
            }
            return Ok(Exit::Done);
        }
    }
}

/// The phase Live begins with the list after the catch-up, even if no event comes.
fn reaches(snapshot: &Snapshot, phase: Phase) -> bool {
    snapshot.phase == phase || (phase == Phase::Live && snapshot.is_live())
}

/// The conditions that end a command: a number of lines, a time, a signal.
pub(crate) struct Ending {
    max: Option<u64>,
    deadline: Option<Instant>,
    signal: std::pin::Pin<Box<dyn Future<Output = Exit> + Send>>,
}

impl Ending {
    pub(crate) fn new(until: Until) -> Self {
        // A time beyond the range of the clock means no limit.
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
