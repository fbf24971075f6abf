//! A child process that ends with its parent, with its output in a log.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use super::wait_for;
use crate::workspace;

/// A running program; killed when dropped.
pub(crate) struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts the program with both outputs in the log; an existing log is extended.
    pub(super) fn start(command: &mut Command, log: &Path) -> Result<Self> {
        let file = append(log)?;
        Self::spawn(command.stdout(file), log)
    }

    /// Starts the program with a pipe for its standard output, and the errors in the log.
    pub(crate) fn start_piped(command: &mut Command, log: &Path) -> Result<(Self, ChildStdout)> {
        let mut process = Self::spawn(command.stdout(Stdio::piped()), log)?;
        let stdout = process.child.stdout.take().context("the pipe was asked for above")?;
        Ok((process, stdout))
    }

    /// Starts the program with the standard output of the command, and the errors in the log.
    pub(super) fn start_to(command: &mut Command, log: &Path) -> Result<Self> {
        Self::spawn(command, log)
    }

    fn spawn(command: &mut Command, log: &Path) -> Result<Self> {
        let name = Path::new(command.get_program()).display().to_string();
        let child = command.stdin(Stdio::null()).stderr(append(log)?).spawn();
        let child = child.with_context(|| format!("cannot start {name}"))?;
        Ok(Self { child, log: log.to_owned() })
    }

    /// Fails if the program has ended, with the end of its log.
    pub(super) fn check_running(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => bail!("ended early ({status}): {}", self.log_end()),
        }
    }

    /// Kills the program (SIGKILL) and waits until it has ended.
    pub(super) fn kill(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Tells the program to end (SIGTERM) and returns its exit status.
    pub(super) fn terminate(mut self, limit: Duration) -> Result<ExitStatus> {
        workspace::check(Command::new("kill").args(["-TERM", &self.child.id().to_string()]))?;
        self.wait(limit)
    }

    /// Waits for the program to end by itself.
    pub(super) fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        let child = &mut self.child;
        let end = wait_for("the end of the process", limit, || Ok(child.try_wait()?));
        end.with_context(|| self.log_end())
    }

    /// The last lines of the log, for error messages.
    pub(super) fn log_end(&self) -> String {
        let text = std::fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        format!("{} ends with: {}", self.log.display(), lines[lines.len().saturating_sub(5)..].join(" / "))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only if the process has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The first line that a program prints, such as its address.
pub(crate) fn first_line(output: impl Read) -> Result<String> {
    let mut line = String::new();
    BufReader::new(output).read_line(&mut line)?;
    ensure!(!line.is_empty(), "no first line");
    Ok(line.trim().to_owned())
}

fn append(log: &Path) -> Result<File> {
    File::options()
        .create(true)
        .append(true)
        .open(log)
        .with_context(|| format!("cannot write {}", log.display()))
}
