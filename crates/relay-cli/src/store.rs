//! `relay store`: checking, exporting and importing a data directory, without a server.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::{Args as ClapArgs, Subcommand};
use relay_pods_server::{TransferError, export_store, export_until_damage, import_store, verify_store};
use serde_json::json;

use crate::args::Format;
use crate::exit::Exit;
use crate::output::{Output, Progress, counted};

#[derive(Debug, ClapArgs)]
pub(crate) struct StoreArgs {
    #[command(subcommand)]
    command: StoreCommand,
}

#[derive(Debug, Subcommand)]
enum StoreCommand {
    /// Check every byte of a data directory that no server uses; exit code 1 when something is wrong. Changes nothing
    Verify {
        /// The directory of `relay serve --store disk`
        #[arg(long, env = "RELAY_DATA_DIR", value_name = "DIR")]
        data_dir: PathBuf,
    },
    /// Write the log as JSON lines: all that `import` needs but the key. The directory must be writable: the log is
    /// opened, and locked
    Export {
        /// The directory of `relay serve --store disk`
        #[arg(long, env = "RELAY_DATA_DIR", value_name = "DIR")]
        data_dir: PathBuf,
        /// Add the key, which lets `import` keep epoch and hashes. Whoever has it can make cursors that the relay takes
        /// for its own
        #[arg(long)]
        with_key: bool,
        /// Of a damaged log, write what is before the damage, say where it is, and exit with 1
        #[arg(long, conflicts_with = "with_key")]
        until_damage: bool,
        /// File to write, for its owner only; a file of that name is replaced when the export is complete, and kept
        /// when it fails. Default: stdout
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// Put an export into a new data directory: with its key the same epoch and hashes, else a new epoch
    Import {
        /// The directory to make; one that is not empty is refused
        #[arg(long, env = "RELAY_DATA_DIR", value_name = "DIR")]
        data_dir: PathBuf,
        /// File to read; default: stdin
        #[arg(long, value_name = "FILE")]
        from: Option<PathBuf>,
    },
}

pub(crate) async fn run(args: StoreArgs) -> anyhow::Result<Exit> {
    let mut bar = Progress::new("events");
    let mut progress = |done, all| bar.show(done, Some(all));
    match args.command {
        StoreCommand::Verify { data_dir } => {
            let report = verify_store(&data_dir, &mut progress)
                .with_context(|| format!("{} cannot be verified", data_dir.display()))?;
            bar.clear();
            let well = report.problems.is_empty();
            Output::in_format(Format::Json).line(|| json!(report), String::new)?;
            if well {
                return Ok(Exit::Done);
            }
            let problems = report.problems.len();
            let are = if problems == 1 { "is" } else { "are" };
            let problems = counted(problems as u64, "problem");
            anyhow::bail!("there {are} {problems} in {}", data_dir.display());
        }
        StoreCommand::Export { data_dir, with_key, until_damage, out } => {
            let mut destination = match &out {
                Some(path) => Destination::file(path)?,
                None => Destination::Open(Box::new(BufWriter::new(io::stdout()))),
            };
            let writer = destination.writer();
            let exported = match until_damage {
                true => export_until_damage(&data_dir, writer, &mut progress)
                    .map(|part| part.damage.map(|damage| (part.events, part.head, damage))),
                false => export_store(&data_dir, with_key, writer, &mut progress).await.map(|_| None),
            };
            bar.clear();
            // As with other commands, it is not an error if the reader of stdout closes the pipe.
            let gone = |error| has_cause(error, &[io::ErrorKind::BrokenPipe]);
            if out.is_none() && exported.as_ref().is_err_and(gone) {
                return Ok(Exit::Done);
            }
            let unwritable = exported.as_ref().is_err_and(|error| {
                has_cause(error, &[io::ErrorKind::PermissionDenied, io::ErrorKind::ReadOnlyFilesystem])
            });
            let part = exported.with_context(|| match unwritable {
                false => format!("{} cannot be exported", data_dir.display()),
                true => format!(
                    "{} cannot be exported: the log must be opened for that, and takes its lock. Copy the directory to \
                     where it can be written",
                    data_dir.display()
                ),
            })?;
            destination.finish()?;
            if let Some((events, head, damage)) = part {
                let events = counted(events, "event");
                return Err(anyhow::Error::new(damage)
                    .context(format!("{events} up to #{head} exported, and not what follows")));
            }
        }
        StoreCommand::Import { data_dir, from } => {
            let mut lines: Box<dyn BufRead> = match &from {
                Some(path) => {
                    let file =
                        File::open(path).with_context(|| format!("{} cannot be read", path.display()))?;
                    Box::new(BufReader::new(file))
                }
                None => Box::new(BufReader::new(io::stdin())),
            };
            let imported = import_store(&data_dir, &mut *lines, &mut progress).await;
            bar.clear();
            let events = imported.with_context(|| {
                let from = from.map_or("stdin".into(), |from| from.display().to_string());
                format!("{} cannot be filled from {from}", data_dir.display())
            })?;
            Output::in_format(Format::Json).line(|| json!({"done": true, "events": events}), String::new)?;
        }
    }
    Ok(Exit::Done)
}

/// Whether one of these is among the causes of an error.
fn has_cause(error: &TransferError, kinds: &[io::ErrorKind]) -> bool {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        let system = error.downcast_ref::<io::Error>();
        // Of a log's error many callers may have one.
        let system =
            system.or_else(|| error.downcast_ref::<std::sync::Arc<io::Error>>().map(|shared| &**shared));
        if system.is_some_and(|system| kinds.contains(&system.kind())) {
            return true;
        }
        cause = error.source();
    }
    false
}

/// Where an export goes.
enum Destination {
    /// What cannot be replaced: stdout, a pipe, a device.
    Open(Box<dyn Write>),
    Replaced(Replacement),
}

impl Destination {
    fn file(path: &Path) -> anyhow::Result<Self> {
        match fs::metadata(path) {
            Ok(known) if !known.is_file() => {
                let opened = File::options().write(true).open(path);
                let file = opened.with_context(|| format!("{} cannot be written", path.display()))?;
                Ok(Self::Open(Box::new(BufWriter::new(file))))
            }
            _ => Ok(Self::Replaced(Replacement::new(path)?)),
        }
    }

    fn writer(&mut self) -> &mut dyn Write {
        match self {
            Self::Open(writer) => &mut **writer,
            Self::Replaced(replacement) => &mut replacement.writer,
        }
    }

    /// Puts what was written in its place.
    fn finish(self) -> anyhow::Result<()> {
        match self {
            Self::Open(mut writer) => Ok(writer.flush()?),
            Self::Replaced(replacement) => replacement.finish(),
        }
    }
}

/// A file that takes the place of another when it is complete. Dropped before that, it is removed, and the other is
/// as it was.
struct Replacement {
    writer: BufWriter<File>,
    temporary: PathBuf,
    target: PathBuf,
}

impl Replacement {
    fn new(path: &Path) -> anyhow::Result<Self> {
        // A link stays a link.
        let target = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let mut temporary = target.clone().into_os_string();
        temporary.push(format!(".{}.tmp", std::process::id()));
        let temporary = PathBuf::from(temporary);
        // Of a process that was killed and had the same number.
        let _ = fs::remove_file(&temporary);
        let file = private(&temporary).with_context(|| format!("{} cannot be written", path.display()))?;
        Ok(Self { writer: BufWriter::new(file), temporary, target })
    }

    fn finish(mut self) -> anyhow::Result<()> {
        let written = self.writer.flush().and_then(|()| self.writer.get_ref().sync_all());
        written
            .and_then(|()| fs::rename(&self.temporary, &self.target))
            .with_context(|| format!("{} cannot be replaced", self.target.display()))
    }
}

impl Drop for Replacement {
    fn drop(&mut self) {
        // After a rename it is not there.
        let _ = fs::remove_file(&self.temporary);
    }
}

/// A new file that only its owner may read: it may hold a key.
fn private(path: &Path) -> io::Result<File> {
    let mut options = File::options();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}
