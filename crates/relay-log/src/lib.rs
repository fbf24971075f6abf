//! Append-only logs of opaque entries: positions without holes, retention, checkpoints, epochs, group commit.
//!
//! A [`Store`] keeps logs by their names; applications open each [`Log`] through [`Logs`]. An entry is opaque bytes
//! at a position: 1 for the first entry of a log, one more for each that follows. A [`Batch`] is appended as a
//! whole or not at all, and can be read once it is as durable as the store guarantees. A log may drop its oldest
//! entries ([`Retention`], [`Log::trim`]); reading them gives [`Page::Gone`], never a hole.
//!
//! What it deliberately does not do: decode entries, compress or encrypt them, change or remove one in the middle,
//! keep consumers' positions, or copy a log to other machines. An idle log has no thread and no task: one process
//! may have 100,000 of them.
//!
//! ```
//! use relay_log::{Batch, Limit, LogName, LogOptions, Logs, MemoryStore, Page, Retention};
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), relay_log::Error> {
//! let logs = Logs::new(MemoryStore::new());
//! let options = LogOptions::default().retention(Retention::default().entries(1000));
//! let log = logs.create(&LogName::new("orders")?, options).await?;
//!
//! let positions = log.append(vec!["first", "second"]).await?;
//! assert_eq!((positions.first, positions.last), (1, 2));
//! // Only if nobody else appended in between.
//! log.append(Batch::new(["third"]).after(2)).await?;
//!
//! let Page::Entries(entries) = log.read(1, Limit::default()).await? else { panic!("trimmed") };
//! assert_eq!(entries.iter().map(|entry| &entry.body[..]).collect::<Vec<_>>(), [&b"second"[..], b"third"]);
//! assert_eq!(log.wait(2).await?, 3);
//!
//! log.trim(2).await?;
//! assert_eq!(log.read(1, Limit::default()).await?, Page::Gone);
//! assert_eq!(log.bounds().base, 2);
//! # Ok(()) }
//! ```
//!
//! # Epochs
//! Positions mean something within one epoch ([`Identity::epoch`]). A log that may have lost announced entries
//! begins a new epoch, and so does a log that is deleted and created again: a cursor is an epoch and a position.
//!
//! # Checkpoints
//! A program that folds a log into a state need not read all of it at each start: [`Log::save_checkpoint`] stores
//! the state at a position, and from then on all entries after it are kept for [`Log::recover`], trimmed or not.

mod buffers;
mod disk;
mod entry;
mod error;
mod head;
mod identity;
#[cfg(feature = "suite")]
mod intercept;
mod join;
mod log;
mod logs;
mod memory;
mod name;
#[cfg(feature = "suite")]
pub mod sim;
mod store;
#[cfg(feature = "suite")]
pub mod suite;

pub use disk::{
    Disk, DiskFile, DiskOptions, DiskStore, Fsync, Problem, Salvaged, SystemDisk, Verified, look, salvage,
    verify,
};
pub use entry::{Batch, Bounds, Checkpoint, Entry, Limit, Page, Positions, Retention};
pub use error::Error;
pub use identity::{Identity, Key};
#[cfg(feature = "suite")]
pub use intercept::Intercept;
pub use join::{Join, Joined, Next, Part, Parts};
pub use log::{Log, Recovery};
pub use logs::Logs;
pub use memory::MemoryStore;
pub use name::{BadName, LogName};
pub use store::{LogOptions, Store, StoredLog, Work};
