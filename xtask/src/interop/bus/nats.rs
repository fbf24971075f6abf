//! A real NATS server with JetStream.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::interop::process::Process;
use crate::interop::relay::SOON;
use crate::interop::wait_for;

/// The server, on a port that it keeps over restarts.
pub(super) struct Nats {
    directory: PathBuf,
    port: u16,
    process: Option<Process>,
}

impl Nats {
    pub(super) fn start(directory: &Path) -> Result<Self> {
        let found = Command::new("nats-server").arg("--version").output();
        found.context(
            "this suite needs the program nats-server 2.9 or later on the PATH (Debian package nats-server)",
        )?;
        let directory = directory.join("nats");
        std::fs::create_dir_all(&directory)?;
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let mut nats = Self { directory, port, process: None };
        nats.run()?;
        Ok(nats)
    }

    /// Starts it with the data of its last run.
    pub(super) fn run(&mut self) -> Result<()> {
        let mut command = Command::new("nats-server");
        command.args(["-a", "127.0.0.1", "-p", &self.port.to_string(), "-js", "-sd"]);
        command.arg(self.directory.join("data"));
        let mut process = Process::start(&mut command, &self.directory.join("log"))?;
        wait_for("NATS to answer", SOON, || {
            process.check_running()?;
            self.ask("$JS.API.INFO", "").map(Some)
        })?;
        self.process = Some(process);
        Ok(())
    }

    /// Kills it without a warning.
    pub(super) fn kill(&mut self) -> Result<()> {
        match self.process.take() {
            Some(mut process) => process.kill(),
            None => bail!("NATS does not run"),
        }
    }

    /// Removes what says the last sequence of an empty stream, while the server does not run. NATS 2.9 does the same if
    /// it is killed while it writes this file. (Later versions write it in another way.)
    pub(super) fn lose_position(&self, stream: &str) -> Result<()> {
        let messages = self.directory.join("data/jetstream/$G/streams").join(stream).join("msgs");
        for file in std::fs::read_dir(&messages)? {
            let file = file?.path();
            match file.extension().and_then(OsStr::to_str) {
                Some("blk") => ensure!(file.metadata()?.len() == 0, "{} holds messages", file.display()),
                Some("idx") => std::fs::remove_file(&file)?,
                _ => {}
            }
        }
        Ok(())
    }

    pub(super) fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// Makes one request with NATS' own protocol, and returns its JSON answer.
    pub(super) fn ask(&self, subject: &str, payload: &str) -> Result<Value> {
        let stream = TcpStream::connect(("127.0.0.1", self.port))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        let (mut writing, mut reading) = (stream.try_clone()?, BufReader::new(stream));
        let length = payload.len();
        write!(
            writing,
            "CONNECT {{\"verbose\":false}}\r\nSUB answer 1\r\nPUB {subject} answer {length}\r\n{payload}\r\n"
        )?;
        let mut line = String::new();
        loop {
            line.clear();
            if reading.read_line(&mut line)? == 0 {
                bail!("NATS closed the connection");
            }
            if line.starts_with("MSG ") {
                line.clear();
                reading.read_line(&mut line)?;
                return Ok(serde_json::from_str(&line)?);
            }
            if line.starts_with("PING") {
                writing.write_all(b"PONG\r\n")?;
            }
        }
    }
}
