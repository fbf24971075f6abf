//! Exporting what stands before the damage of a log.

use std::io::Write;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::{FORMAT, Line, TransferError};
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
    let mut found = relay_log::salvage(dir, &log_name())?;
    let head = found.head;
    let (after, base) = match (&found.checkpoint, found.damage.take()) {
        (Some(kept), damage) => {
            found.damage = damage;
            (kept.position.min(found.base), found.base)
        }
        (None, Some(damage)) if found.held > 0 => {
            return Err(TransferError::NoPods { source: damage.into() });
        }
        (None, damage) => {
            found.damage = damage;
            (found.held, found.base)
        }
    };
    let mut write = |line: &Line| -> Result<(), TransferError> {
        let text = serde_json::to_string(line).map_err(std::io::Error::from)?;
        writeln!(out, "{text}")?;
        Ok(())
    };
    write(&Line::Log { format: FORMAT, epoch: found.epoch.clone(), key: None, after, base, head })?;
    let pods_at = |position| {
        let kept = found.checkpoint.as_ref().filter(|kept| kept.position == position)?;
        Some(Line::Pods { sequence: position, fold: BASE64.encode(&kept.body) })
    };
    if let Some(pods) = pods_at(after) {
        write(&pods)?;
    }
    found.read(after, |entry| {
        let record = BASE64.encode(&entry.body);
        write(&Line::Event { sequence: entry.position, time: entry.time, record })?;
        if let Some(pods) = pods_at(entry.position) {
            write(&pods)?;
        }
        progress(entry.position - after, head - after);
        Ok::<_, TransferError>(())
    })?;
    let events = head - after;
    write(&Line::End { events })?;
    out.flush()?;
    Ok(ExportedPart { events, head, damage: found.damage.map(Into::into) })
}
