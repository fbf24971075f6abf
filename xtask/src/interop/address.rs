//! A second address of this machine's loopback device.
//!
//! The Kubernetes API server refuses to proxy to 127.0.0.0/8. An address for documentation (RFC 5737) on the loopback
//! device is no such address to it, and packets to it do not leave the machine either.

use std::net::Ipv4Addr;
use std::process::Command;

use anyhow::{Result, bail};

use crate::workspace::output;

/// An address that belongs to this run until it is dropped. If it is not dropped, the kernel removes it after half an
/// hour.
pub(super) struct Address(Ipv4Addr);

impl Address {
    /// Gives the loopback device an address that it does not have yet. This needs the rights of root.
    pub(super) fn take() -> Result<Self> {
        for last in 1..=9 {
            let address = Ipv4Addr::new(192, 0, 2, last);
            let lifetime = ["valid_lft", "1800", "preferred_lft", "1800"];
            match ip("add", address, &lifetime) {
                Ok(()) => return Ok(Self(address)),
                // Another run has added it.
                Err(error) if error.to_string().contains("File exists") => {}
                Err(error) => return Err(error),
            }
        }
        bail!("192.0.2.1 to 192.0.2.9 are all on the loopback device already")
    }

    pub(super) fn ip(&self) -> Ipv4Addr {
        self.0
    }
}

impl Drop for Address {
    fn drop(&mut self) {
        if let Err(error) = ip("del", self.0, &[]) {
            eprintln!("{} stays on the loopback device for half an hour: {error:#}", self.0);
        }
    }
}

fn ip(what: &str, address: Ipv4Addr, more: &[&str]) -> Result<()> {
    let mut command = Command::new("ip");
    command.args(["address", what, &format!("{address}/32"), "dev", "lo"]).args(more);
    output(&mut command).map(drop)
}
