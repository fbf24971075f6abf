//! Parts that run in separate processes, so that their memory and CPU time can be measured alone.

use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result};
use relay_parsec_server::{ParsecServer, ServerConfig};
use tokio_util::sync::CancellationToken;

/// A process that is killed when it is no longer needed.
pub(crate) struct Part {
    child: Child,
    output: BufReader<ChildStdout>,
}

impl Part {
    pub(crate) fn start(mut command: Command) -> Result<Self> {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let output = BufReader::new(child.stdout.take().context("the pipe was asked for")?);
        Ok(Self { child, output })
    }

    /// Starts the part of this program with that name.
    pub(crate) fn own(arguments: &[&str]) -> Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(arguments);
        Self::start(command)
    }

    pub(crate) fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        anyhow::ensure!(!line.is_empty(), "a part of the benchmark has ended");
        Ok(line.trim().to_owned())
    }

    pub(crate) fn memory(&self) -> Result<u64> {
        memory(&format!("/proc/{}/status", self.child.id()), "VmRSS")
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        // The process may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A figure of a process, in bytes.
pub(crate) fn memory(path: &str, name: &str) -> Result<u64> {
    let status = std::fs::read_to_string(path)?;
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let number = line.and_then(|line| line.trim().strip_suffix(" kB")).context("no such figure")?;
    Ok(number.trim().parse::<u64>()? << 10)
}

/// `child-server RETAINED`: serves until its input ends. It prints its address as its first line.
pub(crate) fn serve(arguments: &[String]) -> Result<()> {
    let retained: u64 = arguments.first().context("how many envelopes are kept?")?.parse()?;
    tokio::runtime::Runtime::new()?.block_on(async {
        let config = ServerConfig::default()
            .retain_events(retained)
            .retain_bytes(4_u64 << 30)
            .max_channels(20_000_usize)
            .max_streams(20_000_usize)
            .heartbeat(Duration::from_secs(3600))
            .stream_lifetime(Duration::ZERO);
        let server = ParsecServer::bind("127.0.0.1:0".parse()?, config).await?;
        println!("http://{}", server.local_addr());
        let stop = CancellationToken::new();
        let told = stop.clone();
        std::thread::spawn(move || {
            // Waits for the end of the input, for any reason.
            let _ = std::io::stdin().read_to_end(&mut Vec::new());
            told.cancel();
        });
        server.run(stop).await;
        Ok(())
    })
}
