//! The packages of the protocol's authors, installed as `xtask/interop/durable` locks them.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use crate::{npm, workspace};

/// The files that are copied to the installed packages: the list of packages, and the programs that use them.
const FILES: &[&str] = &["package.json", "package-lock.json", "server.test.mjs", "peer.mjs"];

/// A folder with installed packages.
pub(super) struct Packages(PathBuf);

/// Installs the packages, unless exactly these are installed already.
pub(super) fn install() -> Result<Packages> {
    let folder = workspace::target_directory()?.join("interop/durable-npm");
    npm::install(&workspace::root().join("xtask/interop/durable"), &folder, FILES)?;
    Ok(Packages(folder))
}

impl Packages {
    /// The folder: the working directory of every program that uses the packages.
    pub(super) fn folder(&self) -> &Path {
        &self.0
    }

    /// A command that runs a script of the folder with Node.js.
    pub(super) fn node(&self, script: &str) -> Command {
        let mut node = Command::new("node");
        node.current_dir(self.folder()).arg(script);
        node
    }

    /// A command that runs a program of a package, such as `vitest`.
    pub(super) fn program(&self, name: &str) -> Command {
        let mut command = Command::new(self.0.join("node_modules/.bin").join(name));
        command.current_dir(self.folder());
        command
    }
}
