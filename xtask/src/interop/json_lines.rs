//! A program that writes JSON lines to a file, from which they can be read again.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use super::process::Process;
use super::wait_for;

/// The program, with the file of its standard output; its errors are in the log.
pub(super) struct JsonLines {
    pub(super) process: Process,
    pub(super) file: PathBuf,
}

impl JsonLines {
    /// Starts the program; its file and log are named after `name`.
    pub(super) fn start(command: &mut Command, directory: &Path, name: &str) -> Result<Self> {
        let file = directory.join(format!("{name}.lines"));
        command.stdout(File::create(&file)?);
        let process = Process::start_to(command, &directory.join(format!("{name}.log")))?;
        Ok(Self { process, file })
    }

    fn read(&self) -> Result<Vec<Value>> {
        let text = fs::read_to_string(&self.file)?;
        // The last line may be incomplete.
        Ok(text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect())
    }

    /// Waits until `look` finds something in the lines.
    pub(super) fn wait<T>(
        &self,
        what: &str,
        limit: Duration,
        look: impl Fn(Vec<Value>) -> Option<T>,
    ) -> Result<T> {
        wait_for(what, limit, || Ok(look(self.read()?))).with_context(|| self.process.log_end())
    }
}
