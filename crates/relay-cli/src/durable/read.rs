//! `relay durable read` and `tail`.

use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args as ClapArgs, ValueEnum};
use futures_util::StreamExt as _;
use relay_durable::{Checkpoint, Content, LiveMode, Offset, Piece, ReadEvent, ReaderConfig, Reads};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

use super::checkpoint::CheckpointFile;
use super::notes::{Notes, note};
use super::out::{ReadFormat, Sink, shown, size};
use super::reach::Reach;
use crate::args::{duration, size as parse_size, whole};
use crate::exit::{Exit, signalled};

/// What to read, and where to
#[derive(Debug, ClapArgs)]
pub(super) struct Reading {
    /// The stream: a URL, or a path below --url
    stream: String,
    /// Where to begin: start, now, or an offset. Default: start for read, now for tail
    #[arg(long, value_name = "OFFSET", value_parser = offset, allow_hyphen_values = true)]
    offset: Option<Offset>,
    /// Output: raw (JSON streams one message per line, others as they are) or json (one object per piece)
    #[arg(short = 'o', long = "output", default_value = "raw", value_name = "FORMAT")]
    output: ReadFormat,
    /// End after so many messages of a JSON stream, pieces of others
    #[arg(long, value_name = "N", value_parser = whole::<u64>(0..))]
    max: Option<u64>,
    /// End after this time
    #[arg(long = "for", value_name = "DURATION", value_parser = duration)]
    time: Option<Duration>,
    /// Longest piece; an answer that is longer comes in several
    #[arg(long, default_value = "1MiB", value_name = "SIZE", value_parser = parse_size)]
    batch_bytes: u64,
    /// Longest message
    #[arg(long, default_value = "64MiB", value_name = "SIZE", value_parser = parse_size)]
    max_message: u64,
    /// File that keeps the position: read at the start, replaced after what it covers was written
    #[arg(long, value_name = "FILE")]
    checkpoint: Option<PathBuf>,
    /// Append to this file instead of stdout; with --checkpoint it holds every byte once, even after a kill
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Show progress on stderr, a line per second
    #[arg(long)]
    progress: bool,
    #[command(flatten)]
    pub(super) reach: Reach,
}

#[derive(Debug, ClapArgs)]
pub(super) struct ReadArgs {
    #[command(flatten)]
    pub(super) reading: Reading,
}

#[derive(Debug, ClapArgs)]
pub(super) struct TailArgs {
    /// How to wait for new data
    #[arg(long, default_value = "auto", value_name = "MODE")]
    live: LiveArg,
    #[command(flatten)]
    pub(super) reading: Reading,
}

/// How to wait for new data
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum LiveArg {
    /// Plain reads until up to date, then events for JSON, long-polls for others
    Auto,
    /// Events; in text, CR and CRLF may become LF on the way
    Sse,
    /// Long-polls
    LongPoll,
}

fn offset(text: &str) -> Result<Offset, String> {
    match text {
        "start" => Ok(Offset::START),
        _ => Offset::new(text).map_err(|error| error.to_string()),
    }
}

pub(super) async fn read(args: ReadArgs) -> anyhow::Result<Exit> {
    let patience = args.reading.reach.patience();
    run(args.reading, LiveMode::Off, Offset::START, patience).await
}

pub(super) async fn tail(args: TailArgs) -> anyhow::Result<Exit> {
    let mode = match args.live {
        LiveArg::Auto => LiveMode::Auto,
        LiveArg::Sse => LiveMode::Sse,
        LiveArg::LongPoll => LiveMode::LongPoll,
    };
    let patience = args.reading.reach.endless();
    run(args.reading, mode, Offset::NOW, patience).await
}

async fn run(
    reading: Reading,
    mode: LiveMode,
    from: Offset,
    patience: Option<Duration>,
) -> anyhow::Result<Exit> {
    let notes = Notes::new(patience);
    let stream = reading.reach.stream(&reading.stream, patience, &notes).await?;
    let (base, cap) = reading.reach.retry();
    let config = ReaderConfig::default()
        .mode(mode)
        .batch_bytes(size("--batch-bytes", reading.batch_bytes)?)
        .max_message(size("--max-message", reading.max_message)?)
        .timeout(reading.reach.timeout())
        .retry_base(base)
        .retry_cap(cap)
        .retry_for(patience);
    let file =
        reading.checkpoint.as_deref().map(|path| CheckpointFile::open(path, stream.url())).transpose()?;
    let known = file.as_ref().and_then(CheckpointFile::position);
    if known.is_some() && reading.offset.is_some() {
        note("--offset is not used: the checkpoint file says where to go on");
    }
    let length = file.as_ref().and_then(CheckpointFile::out_bytes);
    let sink = match &reading.out {
        Some(path) => Sink::file(path, length)?,
        None => Sink::stdout(),
    };
    if file.as_ref().is_some_and(CheckpointFile::is_closed) {
        return Ok(Exit::Done);
    }
    let position = known.unwrap_or_else(|| Checkpoint::at(reading.offset.unwrap_or(from)));
    let mut reader = Reader {
        reads: stream.read(config, position.clone()),
        sink: Some(sink),
        file,
        position,
        format: reading.output,
        left: reading.max,
        notes,
        seen: Seen { since: Instant::now(), bytes: 0, messages: 0, last: (Instant::now(), 0), failing: None },
    };
    let progress = reading.progress || (reading.out.is_some() && std::io::stderr().is_terminal());
    let exit = reader.run(reading.time, progress).await;
    // Whatever ended the command, the position of the written data is kept.
    let kept = reader.keep();
    let exit = exit?;
    kept?;
    Ok(exit)
}

struct Reader {
    reads: Reads,
    /// Empty while a piece is being written.
    sink: Option<Sink>,
    file: Option<CheckpointFile>,
    position: Checkpoint,
    format: ReadFormat,
    left: Option<u64>,
    notes: Notes,
    seen: Seen,
}

/// The counts that are shown as progress.
struct Seen {
    since: Instant,
    bytes: u64,
    messages: u64,
    last: (Instant, u64),
    failing: Option<Instant>,
}

impl Reader {
    async fn run(&mut self, time: Option<Duration>, progress: bool) -> anyhow::Result<Exit> {
        let mut signalled = Box::pin(signalled());
        let end = time.map(|time| Instant::now() + time);
        let mut tick = interval(Duration::from_secs(1));
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        tick.tick().await;
        if self.left == Some(0) {
            return Ok(Exit::Done);
        }
        loop {
            let due = self.file.as_ref().and_then(CheckpointFile::due);
            let event = tokio::select! {
                biased;
                exit = &mut signalled => return Ok(exit),
                () = until(end) => return Ok(Exit::Done),
                () = until(due) => {
                    self.keep()?;
                    continue;
                }
                _ = tick.tick(), if progress => {
                    self.tell();
                    continue;
                }
                event = self.reads.next() => event,
            };
            match event.transpose()? {
                Some(ReadEvent::Piece(piece)) => {
                    self.notes.well();
                    self.seen.failing = None;
                    let (piece, last) = self.cut(piece);
                    let closed = piece.closed;
                    let data = shown(&piece, self.format);
                    self.seen.bytes += data.len() as u64;
                    if let Content::Messages(messages) = &piece.content {
                        self.seen.messages += messages.len() as u64;
                    }
                    if !data.is_empty() {
                        self.begin()?;
                    }
                    tokio::select! {
                        written = self.write(data) => written?,
                        // The write may wait for ever, if nobody reads the output.
                        exit = &mut signalled => return Ok(exit),
                    }
                    self.position = piece.checkpoint;
                    let out_bytes = self.sink.as_ref().and_then(Sink::file_bytes);
                    if let Some(file) = &mut self.file {
                        file.reached(&self.position, out_bytes, closed);
                    }
                    if last {
                        return Ok(Exit::Done);
                    }
                }
                Some(ReadEvent::Retry(retry)) => {
                    self.seen.failing.get_or_insert_with(Instant::now);
                    self.notes.retry(&retry);
                }
                Some(_) | None => return Ok(Exit::Done),
            }
        }
    }

    /// Keeps the part of a piece that may still be given out. Returns whether it is the last one.
    fn cut(&mut self, mut piece: Piece) -> (Piece, bool) {
        let Some(left) = &mut self.left else { return (piece, false) };
        match &mut piece.content {
            Content::Messages(messages) => {
                let count = messages.len() as u64;
                if count <= *left {
                    *left -= count;
                    let last = *left == 0;
                    return (piece, last);
                }
                let kept = *left;
                messages.truncate(usize::try_from(kept).unwrap_or(usize::MAX));
                *left = 0;
                // The offset covers more than the part that is given out.
                let before = self.position.clone();
                piece.checkpoint = Checkpoint { skip: before.skip + kept, ..before };
                (piece.whole, piece.up_to_date, piece.closed) = (false, false, false);
                (piece, true)
            }
            Content::Bytes(bytes) => {
                if !bytes.is_empty() {
                    *left -= 1;
                }
                let last = *left == 0;
                (piece, last)
            }
        }
    }

    /// Writes without blocking signals.
    async fn write(&mut self, data: Vec<u8>) -> anyhow::Result<()> {
        let Some(mut sink) = self.sink.take() else { return Ok(()) };
        let writing = tokio::task::spawn_blocking(move || {
            let written = sink.write(&data);
            (sink, written)
        });
        let (sink, written) = writing.await?;
        self.sink = Some(sink);
        Ok(written?)
    }

    /// Before anything is written to a file, stores its length, so that it can be cut back to it.
    fn begin(&mut self) -> anyhow::Result<()> {
        let (Some(file), Some(sink)) = (&mut self.file, &self.sink) else { return Ok(()) };
        let Some(length) = sink.file_bytes().filter(|_| !file.covers_out()) else { return Ok(()) };
        let position = if self.position.offset.is_now() { self.reads.began() } else { &self.position };
        file.reached(position, Some(length), false);
        file.write()
    }

    /// Stores the position, once the data before it is safe.
    fn keep(&mut self) -> anyhow::Result<()> {
        let (Some(file), Some(sink)) = (&mut self.file, &self.sink) else { return Ok(()) };
        if file.due().is_some() {
            sink.sync()?;
            file.write()?;
        }
        Ok(())
    }

    fn tell(&mut self) {
        let now = Instant::now();
        let (then, bytes) = std::mem::replace(&mut self.seen.last, (now, self.seen.bytes));
        let seconds = (now - then).as_secs_f64().max(0.001);
        let rate = (self.seen.bytes - bytes) as f64 / seconds / 1024.0;
        let failing = self.seen.failing.map_or_else(String::new, |since| {
            format!(", connecting again for {} s", since.elapsed().as_secs())
        });
        note(&format!(
            "{} bytes, {} messages in {} s, {rate:.0} KiB/s, offset {}{failing}",
            self.seen.bytes,
            self.seen.messages,
            self.seen.since.elapsed().as_secs(),
            self.position.offset,
        ));
    }
}

async fn until(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}
