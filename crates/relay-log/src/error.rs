//! Errors of logs and stores.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use crate::{BadName, LogName};

/// An error of a log or store. Cheap to clone: all callers of a failed group get the same error.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There is no log of this name.
    #[error("there is no log {name}")]
    NotFound {
        /// The requested name.
        name: LogName,
    },
    /// There is a log of this name already.
    #[error("there is a log {name} already")]
    Exists {
        /// Which one was to be created.
        name: LogName,
    },
    /// A name that no log can have.
    #[error(transparent)]
    BadName(#[from] BadName),
    /// A batch that no log takes.
    #[error("{what} is refused: {rule}")]
    BadBatch {
        /// What was handed over.
        what: String,
        /// The rule it breaks.
        rule: String,
    },
    /// The batch was meant to follow a position that is not the head: another writer was here.
    #[error("the batch was to follow position {expected}, and the head of the log is {head}")]
    NotAtHead {
        /// The position the batch was to follow.
        expected: u64,
        /// The head of the log.
        head: u64,
    },
    /// A position that the log does not have, or no longer.
    #[error("position {position} is not between {from} and {to}")]
    OutOfBounds {
        /// The position that was given.
        position: u64,
        /// The lowest that is possible.
        from: u64,
        /// The highest that is possible.
        to: u64,
    },
    /// The log is closed: it was deleted, its store was closed, or its medium has failed.
    #[error("the log is closed: {why}")]
    Closed {
        /// What closed it.
        why: String,
    },
    /// The medium failed. Nothing of the batch was stored or announced; a later one may succeed.
    #[error("{what}")]
    Io {
        /// The action, and the file.
        what: String,
        /// The system's error.
        source: Arc<io::Error>,
    },
    /// The stored data is damaged. Nothing after the last good position is valid.
    #[error("{}, offset {offset}: {problem}{}", file.display(), where_known(*last_good))]
    Damaged {
        /// The file.
        file: PathBuf,
        /// Where in it, in bytes.
        offset: u64,
        /// Position of the last complete entry before the damage; 0 when there is none, `None` when it is not known.
        last_good: Option<u64>,
        /// The problem.
        problem: String,
    },
    /// The store cannot be opened: another process has it, or a file is of a newer format or foreign.
    #[error("{}: {problem}", path.display())]
    Refused {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        problem: String,
    },
}

fn where_known(last_good: Option<u64>) -> String {
    last_good.map_or(String::new(), |position| format!("; the last good position is {position}"))
}

impl Error {
    /// A failure of the medium: `what` names what was being done, and the file.
    pub fn io(what: impl Into<String>, source: io::Error) -> Self {
        Self::Io { what: what.into(), source: Arc::new(source) }
    }

    /// The error and what the system said, in one line.
    pub(crate) fn with_cause(&self) -> String {
        match self {
            Self::Io { what, source } => format!("{what}: {source}"),
            other => other.to_string(),
        }
    }

    /// Whether the medium is full.
    pub fn is_full(&self) -> bool {
        matches!(self, Self::Io { source, .. }
            if matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded))
    }
}
