//! Logs on disk.

mod checksum;
mod files;
mod folder;
mod fork;
mod framed;
mod log;
mod manifest;
mod medium;
mod open;
mod options;
mod read;
mod record;
mod retain;
mod salvage;
mod store;
mod take;
mod verify;
mod write;

pub use files::{Disk, DiskFile, SystemDisk};
pub use options::{DiskOptions, Fsync};
pub use salvage::{Salvaged, salvage};
pub use store::{DiskStore, look};
pub use verify::{Problem, Verified, verify};
