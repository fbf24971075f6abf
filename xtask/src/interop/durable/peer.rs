//! The server of the protocol's authors.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, ChildStdin, Stdio};
use std::sync::mpsc::channel;
use std::time::Duration;

use anyhow::{Context, Result};

use super::World;

/// A running server. Dropping it ends it.
pub(super) struct Peer {
    child: Child,
    _stdin: ChildStdin,
    pub(super) url: String,
}

impl Peer {
    /// Starts a server in memory, or in a directory of the run.
    pub(super) fn start(world: &World, directory: Option<&str>) -> Result<Self> {
        let mut node = world.packages.node("peer.mjs");
        if let Some(directory) = directory {
            node.arg(world.directory.join(directory));
        }
        let mut child = node.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
        let stdin = child.stdin.take().context("piped above")?;
        let stdout = child.stdout.take().context("piped above")?;
        let (sender, url) = channel();
        // With a directory it prints more than its URL, also later, so all of it is read.
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if let Some(url) = line.strip_prefix("URL ") {
                    let _ = sender.send(url.trim_end_matches('/').to_owned());
                }
            }
        });
        match url.recv_timeout(Duration::from_secs(60)) {
            Ok(url) => Ok(Self { child, _stdin: stdin, url }),
            Err(_) => {
                let _ = child.kill();
                let _ = child.wait();
                anyhow::bail!("the authors' server does not say its URL")
            }
        }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
