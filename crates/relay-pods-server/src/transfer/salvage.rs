//! Exporting what stands before the damage of a log.

use std::io::Write;
use std::path::Path;

use super::{Export, TransferError};
use crate::store::{StoreError, log_name};

/// What [`export_until_damage`] wrote.
#[derive(Debug)]
#[non_exhaustive]
pub struct ExportedPart {
    /// How many events.
    pub events: u64,
    /// Sequence of the last one.
    pub head: u64,
    /// Where the log is damaged; `None` when all of it was exported.
    pub damage: Option<StoreError>,
}

/// Writes what stands before the damage of a log, as [`export_store`](super::export_store) writes a log that is whole.
/// The key is left out: the sequences after the damage were used, so that what is imported must be another epoch.
/// Changes nothing. `progress` gets the number of events written, and of all events. Blocks.
///
/// # Errors
/// When there is no log, a server has it, its manifest or the mark of the directory is damaged, the events that are
/// left follow on pods that are not known any more, or the lines cannot be written.
pub fn export_until_damage(
    dir: &Path,
    out: &mut dyn Write,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<ExportedPart, TransferError> {
    let found = relay_log::salvage(dir, &log_name())?;
    if found.checkpoint.is_none()
        && found.held > 0
        && let Some(damage) = found.damage
    {
        return Err(TransferError::NoPods { source: damage.into() });
    }
    let after = found.checkpoint.as_ref().map_or(found.held, |kept| kept.position.min(found.base));
    let export = Export { out, progress, checkpoint: found.checkpoint.as_ref(), after, head: found.head };
    let mut export = export.begin(&found.epoch, None, found.base)?;
    found.read(after, |entry| export.entry(&entry))?;
    let events = export.end()?;
    Ok(ExportedPart { events, head: found.head, damage: found.damage.map(Into::into) })
}
