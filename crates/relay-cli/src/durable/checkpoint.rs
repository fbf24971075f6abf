//! The checkpoint file of a reader.

use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use relay_durable::{Checkpoint, Offset};
use relay_state::files::LockedFile;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::exit::Usage;

/// Time between two writes.
const COALESCE: Duration = Duration::from_millis(100);

/// The content of the file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Content {
    version: u32,
    stream: String,
    offset: Offset,
    cursor: Option<String>,
    /// Messages or bytes after the offset that were given out, too.
    skip: u64,
    /// The length of the output file at that position.
    out_bytes: Option<u64>,
    closed: bool,
}

/// A checkpoint that is saved to a file.
pub(super) struct CheckpointFile {
    file: LockedFile,
    stream: String,
    loaded: Option<Content>,
    waiting: Option<Content>,
    /// Whether the file has the length of the output file.
    covers_out: bool,
    next_write: Instant,
}

impl CheckpointFile {
    pub(super) fn open(path: &Path, stream: &str) -> anyhow::Result<Self> {
        let file = LockedFile::open("checkpoint file", path)?;
        let loaded = match file.read()? {
            None => None,
            Some(bytes) => {
                let content: Content = serde_json::from_slice(&bytes)
                    .map_err(|error| file.corrupt(format!("it is damaged ({error})")))?;
                if content.version != 1 {
                    return Err(file.corrupt(format!("its version is {}, not 1", content.version)).into());
                }
                if content.stream != stream {
                    let what = format!(
                        "checkpoint file {} is of the stream {}, not of {stream}",
                        path.display(),
                        content.stream
                    );
                    return Err(Usage(what).into());
                }
                Some(content)
            }
        };
        let covers_out = loaded.as_ref().is_some_and(|content: &Content| content.out_bytes.is_some());
        Ok(Self {
            file,
            stream: stream.to_owned(),
            loaded,
            waiting: None,
            covers_out,
            next_write: Instant::now(),
        })
    }

    /// The position in the file at the start.
    pub(super) fn position(&self) -> Option<Checkpoint> {
        self.loaded.as_ref().map(|content| Checkpoint {
            offset: content.offset.clone(),
            cursor: content.cursor.clone(),
            skip: content.skip,
        })
    }

    /// The length of the output file at that time.
    pub(super) fn out_bytes(&self) -> Option<u64> {
        self.loaded.as_ref().and_then(|content| content.out_bytes)
    }

    /// Whether the stream had been read to its end.
    pub(super) fn is_closed(&self) -> bool {
        self.loaded.as_ref().is_some_and(|content| content.closed)
    }

    /// Whether the file has the length to which an output file must be cut back.
    pub(super) fn covers_out(&self) -> bool {
        self.covers_out
    }

    /// Records a position up to which everything was written and flushed. [`write`](Self::write) stores it.
    pub(super) fn reached(&mut self, position: &Checkpoint, out_bytes: Option<u64>, closed: bool) {
        self.waiting = Some(Content {
            version: 1,
            stream: self.stream.clone(),
            offset: position.offset.clone(),
            cursor: position.cursor.clone(),
            skip: position.skip,
            out_bytes,
            closed,
        });
    }

    /// The time at which a waiting position must be written.
    pub(super) fn due(&self) -> Option<Instant> {
        self.waiting.as_ref().map(|_| self.next_write)
    }

    /// Writes the waiting position.
    pub(super) fn write(&mut self) -> anyhow::Result<()> {
        if let Some(content) = self.waiting.take() {
            let mut line = serde_json::to_vec(&content).context("the checkpoint")?;
            line.push(b'\n');
            self.file.replace(&line)?;
            self.covers_out |= content.out_bytes.is_some();
            self.next_write = Instant::now() + COALESCE;
        }
        Ok(())
    }
}
