//! The state file of a producer.

use std::error::Error as StdError;
use std::path::Path;

use relay_durable::{Bounds, ProducerState, StateStore};
use relay_state::files::LockedFile;
use serde::{Deserialize, Serialize};

use super::digest::InputDigest;
use crate::exit::Usage;

/// The content of the file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Content {
    version: u32,
    stream: String,
    pub(super) producer_id: String,
    pub(super) epoch: u64,
    /// The number of the next batch, which was never sent.
    next_seq: u64,
    /// The number of acknowledged bytes of the input.
    pub(super) input_bytes: u64,
    /// The SHA-256 digest of these bytes.
    pub(super) input_sha256: String,
    /// Batches that were sent and may not be acknowledged.
    pub(super) in_flight: Vec<Bounds>,
}

impl Content {
    pub(super) fn producer_state(&self) -> ProducerState {
        ProducerState {
            epoch: self.epoch,
            next_seq: self.next_seq,
            acknowledged: self.input_bytes,
            in_flight: self.in_flight.clone(),
        }
    }
}

/// Stores the state of a producer with a digest of its input.
pub(super) struct StateFile {
    file: LockedFile,
    stream: String,
    producer_id: String,
    digest: InputDigest,
    stored: Option<Content>,
}

impl StateFile {
    /// Locks the file, and reads its content.
    pub(super) fn open(path: &Path, stream: &str) -> anyhow::Result<(LockedFile, Option<Content>)> {
        let file = LockedFile::open("state file", path)?;
        let Some(bytes) = file.read()? else { return Ok((file, None)) };
        let content: Content = serde_json::from_slice(&bytes)
            .map_err(|error| file.corrupt(format!("it is damaged ({error})")))?;
        if content.version != 1 {
            return Err(file.corrupt(format!("its version is {}, not 1", content.version)).into());
        }
        let mut mark = content.input_bytes;
        for bounds in &content.in_flight {
            if bounds.first != mark || bounds.last <= bounds.first {
                return Err(file.corrupt("its batches do not follow each other").into());
            }
            mark = bounds.last;
        }
        if content.stream != stream {
            let path = path.display();
            let what = format!("state file {path} is of the stream {}, not of {stream}", content.stream);
            return Err(Usage(what).into());
        }
        Ok((file, Some(content)))
    }

    pub(super) fn new(file: LockedFile, stream: &str, producer_id: &str, digest: InputDigest) -> Self {
        Self { file, stream: stream.to_owned(), producer_id: producer_id.to_owned(), digest, stored: None }
    }
}

impl StateStore for StateFile {
    fn save(&mut self, state: &ProducerState) -> Result<(), Box<dyn StdError + Send + Sync>> {
        let content = Content {
            version: 1,
            stream: self.stream.clone(),
            producer_id: self.producer_id.clone(),
            epoch: state.epoch,
            next_seq: state.next_seq,
            input_bytes: state.acknowledged,
            input_sha256: self.digest.up_to(state.acknowledged),
            in_flight: state.in_flight.clone(),
        };
        if self.stored.as_ref() == Some(&content) {
            return Ok(());
        }
        let mut line = serde_json::to_vec(&content)?;
        line.push(b'\n');
        self.file.replace(&line)?;
        self.stored = Some(content);
        Ok(())
    }
}
