//! The demo's output for people.

use std::net::SocketAddr;

use futures_util::StreamExt;
use relay_pods::{Client, Phase, Snapshot, SnapshotStream, StreamHandle, StreamOptions};
use tokio::time::Instant;

use super::PODS;
use super::pace::Pace;
use super::verdict::{Seen, Verdict};
use crate::exit::Exit;
use crate::follow::Ending;
use crate::output::{Output, Text, Tone, counted};
use crate::rows::{self, Changes, snapshot_row};

/// Follows the relay and explains each phase. At the end, however it comes, prints what was lost.
pub(super) async fn teach(
    client: &Client,
    options: StreamOptions,
    address: SocketAddr,
    mut out: Output,
    mut ending: Ending,
) -> anyhow::Result<Exit> {
    for line in [
        format!("A relay with a simulated cluster of {PODS} pods is at http://{address}"),
        format!("(in another terminal: relay pods --url http://{address})"),
        "A client follows it. The server will cut its connection and lose an event.".into(),
        "Ctrl-C ends the demo; then comes the verdict.".into(),
    ] {
        out.heading(line)?;
    }
    out.table(rows::STATE);
    let mut snapshots = client.stream_pod_state_with_replay(options);
    let handle = snapshots.handle();
    let mut lesson = Lesson {
        out,
        changes: Changes::default(),
        pace: Pace::default(),
        verdict: Verdict::new(),
        start: Instant::now(),
        heading: None,
    };
    let exit = tokio::select! {
        exit = ending.wait() => Ok(exit),
        exit = lesson.follow(&mut snapshots, &handle) => exit,
    };
    lesson.conclude()?;
    exit
}

struct Lesson {
    out: Output,
    changes: Changes,
    pace: Pace,
    verdict: Verdict,
    start: Instant,
    /// The phase that the last heading was about.
    heading: Option<Phase>,
}

impl Lesson {
    async fn follow(
        &mut self,
        snapshots: &mut SnapshotStream,
        handle: &StreamHandle,
    ) -> anyhow::Result<Exit> {
        while let Some(snapshot) = snapshots.next().await.transpose()? {
            self.show(&snapshot)?;
            handle.finish();
        }
        Ok(Exit::Done)
    }

    fn show(&mut self, snapshot: &Snapshot) -> anyhow::Result<()> {
        let before = self.changes.before_snapshot(snapshot);
        let is_event = snapshot.event.is_some();
        if !is_event || self.heading != Some(snapshot.phase) {
            self.tell_skipped()?;
            self.explain(snapshot)?;
        }
        self.verdict.saw(Seen::of(snapshot));
        let is_shown = if is_event {
            self.pace.admits(self.start.elapsed())
        } else {
            // If nothing is new, the heading is enough.
            !snapshot.changed.is_empty() || snapshot.gap.is_some() || snapshot.cause.is_some()
        };
        if is_shown {
            if is_event {
                self.tell_skipped()?;
            }
            self.out.row(
                String::new,
                || rows::snapshot_json(snapshot, false, false),
                || snapshot_row(snapshot, before.as_ref(), false, false),
            )?;
        }
        Ok(())
    }

    /// Prints a heading for a phase that begins. Those of a cut and of a gap are set off.
    fn explain(&mut self, snapshot: &Snapshot) -> anyhow::Result<()> {
        let phase = snapshot.phase;
        let last = self.verdict.last().map_or("the start".into(), |number| format!("#{number}"));
        let is_first = self.heading.replace(phase).is_none();
        let first: String = match phase {
            Phase::CurrentSeed if is_first => "the list of all pods, to begin with".into(),
            Phase::CurrentSeed => "the list again, as it is after the replay".into(),
            Phase::Backfill if self.verdict.was_cut() => "what happened while the connection was gone".into(),
            Phase::Backfill => "the events that the relay has kept, replayed".into(),
            Phase::CatchupComplete => format!("the replay is over, up to {last}"),
            Phase::Live => "events as they happen".into(),
            Phase::ReconnectReseed => format!("the connection broke after {last}; the relay did not say why"),
            Phase::GapReseed => format!("the relay says that it lost events after {last}"),
        };
        let (title, tone, more) = match phase {
            Phase::ReconnectReseed => (
                "The cut",
                Tone::Warn,
                vec![
                    "The client connects again by itself, reads the list,".into(),
                    format!("and asks for every event after {last}, so that none is lost or comes twice."),
                ],
            ),
            Phase::GapReseed => (
                "The gap",
                Tone::Bad,
                vec![
                    "Nobody can bring those events back. The client is told how many they are,".into(),
                    "and reads the list again, so that the pods are right.".into(),
                ],
            ),
            _ => ("", Tone::Strong, vec![]),
        };
        self.out.heading("")?;
        if !title.is_empty() {
            self.out.heading(tone.text(format!("---- {title} {}", "-".repeat(60))))?;
        }
        self.out.heading(tone.text(phase.as_str()).plain(format!(": {first}")))?;
        more.into_iter().try_for_each(|line: String| self.out.heading(line))
    }

    /// Prints the number of lines that were left out.
    fn tell_skipped(&mut self) -> anyhow::Result<()> {
        match self.pace.take_skipped() {
            0 => Ok(()),
            skipped => {
                let more = counted(skipped, "more event");
                self.out.heading(Tone::Faint.text(format!("... {more}, too fast to be read")))
            }
        }
    }

    fn conclude(&mut self) -> anyhow::Result<()> {
        self.tell_skipped()?;
        let tone = if self.verdict.is_good() { Tone::Good } else { Tone::Bad };
        self.out.heading("")?;
        let terms = ", by the events' numbers (lost: never came; twice: came again):";
        self.out.heading(Tone::Strong.text("Verdict").plain(terms))?;
        let verdict: Text = tone.text(self.verdict.text());
        self.out.whole(&verdict)
    }
}
