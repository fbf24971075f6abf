//! Verifying, exporting and importing a log on disk, without a server.

mod salvage;

use std::io::{BufRead, Write};
use std::path::Path;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use relay_log::{
    Batch, Checkpoint, DiskOptions, DiskStore, Entry, Fsync, Identity, Key, Limit, Log, LogOptions, Logs,
    Page, Store, Verified,
};
use relay_proto::pods::PodKey;
use relay_proto::time::Timestamp;
use serde::{Deserialize, Serialize};

use crate::cursor::LogIdentity;
use crate::store::{Draft, Encoder, Fold, Record, StoreError, log_name};

pub use salvage::{ExportedPart, export_until_damage};

/// The result of [`verify_store`].
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct StoreReport {
    /// The log's epoch; `None` when it cannot be read.
    pub epoch: Option<String>,
    /// Sequence of the oldest event that can be read, 0 when there is none.
    pub oldest: u64,
    /// Sequence of the newest.
    pub head: u64,
    /// How many can be read.
    pub events: u64,
    /// Bytes of the log's files.
    pub bytes: u64,
    /// How many files there are.
    pub files: u64,
    /// The newest checkpoint.
    pub snapshot: Option<SnapshotReport>,
    /// Problems; empty when there are none.
    pub problems: Vec<ProblemReport>,
}

/// The checkpoint of a log: its pods at a sequence.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct SnapshotReport {
    /// The sequence.
    pub sequence: u64,
    /// How many pods there are.
    pub pods: usize,
}

/// A problem of a log.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct ProblemReport {
    /// The file.
    pub file: String,
    /// The offset in it, in bytes.
    pub offset: u64,
    /// Sequence of the last complete event before it; 0 when there is none, or it is not known.
    pub sequence: u64,
    /// The problem.
    pub problem: String,
}

/// Checks every byte of the log in a data directory, changing nothing. `progress` gets the number of bytes checked,
/// and of all bytes. Blocks.
///
/// # Errors
/// When there is no log, a server has it, or a file cannot be read. Damage is in the report.
pub fn verify_store(dir: &Path, progress: &mut dyn FnMut(u64, u64)) -> Result<StoreReport, StoreError> {
    let problem = |file: &Path, offset, sequence, problem: &str| ProblemReport {
        file: file.display().to_string(),
        offset,
        sequence,
        problem: problem.into(),
    };
    let found = match relay_log::verify(dir, &log_name(), progress) {
        Ok(found) => found,
        // A file of a newer format. What concerns the directory itself is no property of its files.
        Err(relay_log::Error::Refused { path, problem: what }) if path != dir => {
            return Ok(StoreReport::of(Verified::default(), None, vec![problem(&path, 0, 0, &what)]));
        }
        Err(relay_log::Error::Damaged { file, offset, last_good, problem: what, .. }) => {
            let problems = vec![problem(&file, offset, last_good.unwrap_or(0), &what)];
            return Ok(StoreReport::of(Verified::default(), None, problems));
        }
        Err(error) => return Err(error.into()),
    };
    let mut problems: Vec<_> =
        found.problems.iter().map(|p| problem(&p.file, p.offset, p.position, &p.problem)).collect();
    let fold = found.checkpoint.as_ref().map(|kept| (kept.position, Fold::decode(kept.body.clone())));
    let snapshot = match fold {
        Some((sequence, Some(fold))) => Some(SnapshotReport { sequence, pods: fold.pods.len() }),
        Some((sequence, None)) => {
            problems.push(problem(&dir.join("checkpoint"), 0, sequence, "the pods in it make no sense"));
            None
        }
        None => None,
    };
    Ok(StoreReport::of(found, snapshot, problems))
}

impl StoreReport {
    fn of(found: Verified, snapshot: Option<SnapshotReport>, problems: Vec<ProblemReport>) -> Self {
        let Verified { oldest, head, entries, bytes, files, .. } = found;
        let epoch = Some(found.epoch).filter(|epoch| !epoch.is_empty());
        Self { epoch, oldest, head, events: entries, bytes, files, snapshot, problems }
    }
}

/// A line of an export.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Line {
    /// The first.
    Log {
        format: u32,
        epoch: String,
        #[serde(skip_serializing_if = "Option::is_none", default)]
        key: Option<String>,
        /// The sequence before the first event that follows.
        after: u64,
        /// The sequence before the oldest event that can be read.
        base: u64,
        head: u64,
    },
    /// One of `after` to `head`.
    Event { sequence: u64, time: i64, record: String },
    /// The pods at a sequence; this line follows the event with that sequence.
    Pods { sequence: u64, fold: String },
    /// The last.
    End { events: u64 },
}

const FORMAT: u32 = 1;

/// Why an export or import failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TransferError {
    /// The store failed, or refused.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The lines could not be read or written.
    #[error("the lines of the export failed")]
    Io {
        /// What happened.
        #[from]
        source: std::io::Error,
    },
    /// A line is malformed.
    #[error("line {line}: {problem}")]
    Line {
        /// Its number, from 1.
        line: u64,
        /// What is wrong with it.
        problem: String,
    },
    /// The events before the damage follow on pods that are not known any more.
    #[error("nothing can be exported: the events that are left follow on pods that are damaged")]
    NoPods {
        /// The damage.
        source: StoreError,
    },
    /// The directory for the import is not empty.
    #[error("{directory} is not empty: an import begins a new directory")]
    NotEmpty {
        /// The directory.
        directory: String,
    },
}

impl From<relay_log::Error> for TransferError {
    fn from(error: relay_log::Error) -> Self {
        Self::Store(error.into())
    }
}

/// Writes the log of a data directory as JSON lines: everything that [`import_store`] needs, except the key, which is
/// added with `with_key`. Returns how many events were written. Blocks between awaits while it writes.
///
/// # Errors
/// When there is no log, a server has it, it is damaged, or the lines cannot be written.
pub async fn export_store(
    dir: &Path,
    with_key: bool,
    out: &mut dyn Write,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<u64, TransferError> {
    // A log that does not exist must not be created here.
    relay_log::look(dir)?;
    let logs = Logs::new(DiskStore::open(dir, DiskOptions::default())?);
    let log = logs.open(&log_name()).await?;
    let identity = log.identity();
    let mut recovery = log.recover().await?;
    let checkpoint = recovery.checkpoint().cloned();
    let bounds = log.bounds();
    let after = checkpoint.as_ref().map_or(bounds.base, |kept| kept.position.min(bounds.base));
    let held = after < bounds.base;
    let key = with_key.then(|| BASE64.encode(identity.key().expose()));
    let export = Export { out, progress, checkpoint: checkpoint.as_ref(), after, head: bounds.head };
    let mut export = export.begin(identity.epoch(), key, bounds.base)?;
    let mut at = after;
    while at < bounds.head {
        let entries = if held {
            recovery.next(Limit::default()).await?
        } else {
            match log.read(at, Limit::default()).await? {
                Page::Entries(entries) => entries,
                _ => Vec::new(),
            }
        };
        let Some(last) = entries.last() else { break };
        at = last.position;
        for entry in &entries {
            export.entry(entry)?;
        }
    }
    let events = export.end()?;
    logs.close().await?;
    Ok(events)
}

/// Writes the lines of an export.
struct Export<'a> {
    out: &'a mut dyn Write,
    progress: &'a mut dyn FnMut(u64, u64),
    checkpoint: Option<&'a Checkpoint>,
    /// The sequence before the first event, and that of the last.
    after: u64,
    head: u64,
}

impl Export<'_> {
    fn begin(mut self, epoch: &str, key: Option<String>, base: u64) -> Result<Self, TransferError> {
        let (after, head) = (self.after, self.head);
        self.write(&Line::Log { format: FORMAT, epoch: epoch.to_owned(), key, after, base, head })?;
        self.pods_at(after)?;
        Ok(self)
    }

    fn entry(&mut self, entry: &Entry) -> Result<(), TransferError> {
        let record = BASE64.encode(&entry.body);
        self.write(&Line::Event { sequence: entry.position, time: entry.time, record })?;
        self.pods_at(entry.position)?;
        (self.progress)(entry.position - self.after, self.head - self.after);
        Ok(())
    }

    /// Ends the export. Returns how many events it has.
    fn end(mut self) -> Result<u64, TransferError> {
        let events = self.head - self.after;
        self.write(&Line::End { events })?;
        self.out.flush()?;
        Ok(events)
    }

    fn pods_at(&mut self, sequence: u64) -> Result<(), TransferError> {
        match self.checkpoint.filter(|kept| kept.position == sequence) {
            Some(kept) => self.write(&Line::Pods { sequence, fold: BASE64.encode(&kept.body) }),
            None => Ok(()),
        }
    }

    fn write(&mut self, line: &Line) -> Result<(), TransferError> {
        let text = serde_json::to_string(line).map_err(std::io::Error::from)?;
        Ok(writeln!(self.out, "{text}")?)
    }
}

/// Puts an export into a directory that is empty or missing. With the key in it the log is the same, epoch and hashes
/// included; without, it is the same events in a new epoch, with new hashes. Returns how many events it has. Blocks
/// between awaits while it reads.
///
/// # Errors
/// When the directory is not empty, a line is malformed, the export is incomplete or more than blank lines follow it,
/// or the store fails. Then its files are removed. After a kill, files are left that no server accepts as a log.
pub async fn import_store(
    dir: &Path,
    lines: &mut dyn BufRead,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<u64, TransferError> {
    if std::fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_some()) {
        return Err(TransferError::NotEmpty { directory: dir.display().to_string() });
    }
    // An incomplete log must never be used: its positions would be assigned again.
    let staging = dir.join(STAGING);
    let imported = import_to(&staging, lines, progress).await;
    let moved =
        imported.and_then(|events| unpack(dir, &staging).map(|()| events).map_err(TransferError::from));
    if moved.is_err() {
        // Files that cannot be removed are not a log either.
        let _ = std::fs::remove_dir_all(&staging);
    }
    moved
}

/// The directory of an incomplete import. A store refuses a directory that contains it.
const STAGING: &str = "importing";

async fn import_to(
    dir: &Path,
    lines: &mut dyn BufRead,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<u64, TransferError> {
    let mut import = Import::begin(dir, Lines { lines, number: 0 }).await?;
    let events = import.run(progress).await?;
    import.logs.close().await?;
    Ok(events)
}

/// Moves a store to its place. Its marker file comes last: without it the directory is no store.
fn unpack(dir: &Path, staging: &Path) -> std::io::Result<()> {
    let sync = |dir: &Path| std::fs::File::open(dir).and_then(|dir| dir.sync_all());
    for name in ["logs", "store"] {
        std::fs::rename(staging.join(name), dir.join(name))?;
        sync(dir)?;
    }
    std::fs::remove_dir_all(staging)?;
    sync(dir)
}

struct Lines<'a> {
    lines: &'a mut dyn BufRead,
    number: u64,
}

impl Lines<'_> {
    fn next(&mut self) -> Result<Line, TransferError> {
        let mut text = String::new();
        self.number += 1;
        if self.lines.read_line(&mut text)? == 0 {
            return Err(self.wrong("the export ends before its last line"));
        }
        serde_json::from_str(&text).map_err(|error| self.wrong(&error.to_string()))
    }

    /// Checks that nothing follows but blank lines.
    fn end(&mut self) -> Result<(), TransferError> {
        self.number += 1;
        loop {
            let read = match self.lines.fill_buf() {
                Ok([]) => return Ok(()),
                Ok(read) => read,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error.into()),
            };
            let blank = read.iter().take_while(|byte| byte.is_ascii_whitespace()).count();
            self.number += read[..blank].iter().filter(|byte| **byte == b'\n').count() as u64;
            if blank < read.len() {
                return Err(self.wrong("the export ended before this line, and nothing may follow it"));
            }
            self.lines.consume(blank);
        }
    }

    fn wrong(&self, problem: &str) -> TransferError {
        TransferError::Line { line: self.number, problem: problem.into() }
    }

    fn bytes(&self, text: &str) -> Result<Bytes, TransferError> {
        Ok(BASE64.decode(text).map_err(|error| self.wrong(&error.to_string()))?.into())
    }
}

struct Import<'a> {
    lines: Lines<'a>,
    logs: Logs,
    log: Log,
    identity: LogIdentity,
    /// Whether epoch and key are those of the export.
    same: bool,
    after: u64,
    base: u64,
    head: u64,
    /// The newest event that was read, as it is in the new log.
    last: Option<Record>,
    waiting: Vec<(i64, Bytes)>,
    at: u64,
}

impl<'a> Import<'a> {
    const BATCH: usize = 512;

    async fn begin(dir: &Path, mut lines: Lines<'a>) -> Result<Self, TransferError> {
        let Line::Log { format, epoch, key, after, base, head } = lines.next()? else {
            return Err(lines.wrong("the first line says which log it is"));
        };
        if format != FORMAT {
            return Err(
                lines.wrong(&format!("the export has format {format}, and this program reads {FORMAT}"))
            );
        }
        if after > base || base > head {
            return Err(lines.wrong("the positions are in no order"));
        }
        let same = key.is_some();
        let identity = match key {
            Some(key) => {
                let key = lines.bytes(&key)?;
                let key = <[u8; 32]>::try_from(&key[..]).map_err(|_| lines.wrong("a key has 32 bytes"))?;
                Identity::new(&epoch, Key::new(key)).ok_or_else(|| lines.wrong("no epoch is called that"))?
            }
            None => Identity::random(),
        };
        let store: Arc<dyn Store> =
            Arc::new(DiskStore::open(dir, DiskOptions::default().fsync(Fsync::Never))?);
        let logs = Logs::shared(store);
        let options = LogOptions::default().identity(identity.clone()).begins_after(after);
        let log = logs.create(&log_name(), options).await?;
        let identity = LogIdentity::of(&identity);
        let (last, waiting) = (None, Vec::new());
        Ok(Self { lines, logs, log, identity, same, after, base, head, last, waiting, at: after })
    }

    async fn run(&mut self, progress: &mut dyn FnMut(u64, u64)) -> Result<u64, TransferError> {
        loop {
            match self.lines.next()? {
                Line::Event { sequence, time, record } => {
                    if sequence != self.at + 1 || sequence > self.head {
                        return Err(self.lines.wrong(&format!("event {sequence} follows {}", self.at)));
                    }
                    let body = self.lines.bytes(&record)?;
                    let entry = Entry { position: sequence, time, body };
                    let record =
                        Record::decode(&entry).map_err(|error| self.lines.wrong(&error.to_string()))?;
                    let record = if self.same { record } else { self.again(&record)? };
                    self.waiting.push((time, record.body().clone()));
                    (self.at, self.last) = (sequence, Some(record));
                    if self.waiting.len() >= Self::BATCH {
                        self.flush().await?;
                    }
                    progress(self.at - self.after, self.head - self.after);
                }
                Line::Pods { sequence, fold } => {
                    if sequence != self.at {
                        return Err(self
                            .lines
                            .wrong(&format!("the pods of {sequence} stand behind {}", self.at)));
                    }
                    self.flush().await?;
                    let body = self.lines.bytes(&fold)?;
                    let fold =
                        Fold::decode(body).ok_or_else(|| self.lines.wrong("the pods make no sense"))?;
                    let hash = if self.same { fold.hash.clone() } else { self.hash() };
                    let mut encoder = Encoder::new(&hash, fold.last_event, fold.pods.len());
                    for kept in &fold.pods {
                        encoder.pod(&kept.key, kept.uid.as_deref(), &kept.labels, &kept.json);
                    }
                    let checkpoint = Checkpoint { position: sequence, body: encoder.finish() };
                    self.log.save_checkpoint(checkpoint).await?;
                }
                Line::End { events } => {
                    self.flush().await?;
                    if self.at != self.head || events != self.head - self.after {
                        return Err(self
                            .lines
                            .wrong(&format!("the export ends at {}, not {}", self.at, self.head)));
                    }
                    self.lines.end()?;
                    self.log.trim(self.base).await?;
                    return Ok(events);
                }
                Line::Log { .. } => return Err(self.lines.wrong("the log is named once")),
            }
        }
    }

    /// The hash of the newest position.
    fn hash(&self) -> relay_proto::pods::EventHash {
        self.last.as_ref().map_or_else(|| self.identity.base(self.at), Record::hash)
    }

    /// The same event with a hash of this log.
    fn again(&self, record: &Record) -> Result<Record, TransferError> {
        #[derive(Deserialize)]
        struct Shared {
            timestamp: Timestamp,
        }
        let fields = [b"{", record.shared_fields()].concat();
        let Shared { timestamp } =
            serde_json::from_slice(&fields).map_err(|error| self.lines.wrong(&error.to_string()))?;
        let key: PodKey = record.key();
        let draft = Draft {
            change: record.change(),
            synthetic: record.synthetic(),
            key: &key,
            labels: record.labels(),
            previous_labels: record.previous_labels(),
            pod_json: &record.pod_json(),
            timestamp: &timestamp,
            appended_at: record.appended_at(),
        };
        Ok(Record::new(&self.identity, record.sequence(), &self.hash(), draft))
    }

    /// Entries with the same time are a batch.
    async fn flush(&mut self) -> Result<(), TransferError> {
        let mut waiting = std::mem::take(&mut self.waiting).into_iter().peekable();
        while let Some((time, body)) = waiting.next() {
            let mut batch = Batch::new([body]).at(time);
            while let Some((_, body)) = waiting.next_if(|(next, _)| *next == time) {
                batch.push(body);
            }
            self.log.append(batch).await?;
        }
        Ok(())
    }
}
