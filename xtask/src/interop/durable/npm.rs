//! The packages of the protocol's authors, installed as `xtask/interop/durable` locks them.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::workspace;

/// The files that go to where the packages are installed: what to install, and the programs that use it.
const FILES: &[&str] = &["package.json", "package-lock.json", "server.test.mjs", "peer.mjs"];

/// A folder with installed packages.
pub(super) struct Packages(PathBuf);

/// Installs the packages, unless exactly these are installed already. No script of theirs is run meanwhile.
pub(super) fn install() -> Result<Packages> {
    let needs = "this suite needs Node.js 20 or later with npm on the PATH, and for the first run a way to the \
                 packages of npm";
    for program in ["node", "npm"] {
        if let Err(error) = workspace::output(Command::new(program).arg("--version")) {
            bail!("{needs}: {error:#}");
        }
    }
    let source = workspace::root().join("xtask/interop/durable");
    let folder = workspace::target_directory()?.join("interop/durable-npm");
    std::fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let lock = std::fs::read(source.join("package-lock.json"))?;
    // Written last: an installation that was cut short has none.
    let done = folder.join("installed-lock.json");
    let installed = std::fs::read(&done).is_ok_and(|installed| installed == lock);
    for file in FILES {
        let from = source.join(file);
        std::fs::copy(&from, folder.join(file)).with_context(|| format!("cannot copy {}", from.display()))?;
    }
    if !installed {
        println!("installing the packages of xtask/interop/durable (npm)");
        let mut npm = Command::new("npm");
        npm.current_dir(&folder).args(["ci", "--ignore-scripts", "--no-audit", "--no-fund"]);
        workspace::check(&mut npm).context(needs)?;
        std::fs::write(&done, &lock)?;
    }
    Ok(Packages(folder))
}

impl Packages {
    /// Where they are: the working directory of every program that uses them.
    pub(super) fn folder(&self) -> &Path {
        &self.0
    }

    /// Node.js with a script of the folder.
    pub(super) fn node(&self, script: &str) -> Command {
        let mut node = Command::new("node");
        node.current_dir(self.folder()).arg(script);
        node
    }

    /// A program that a package brings along, such as `vitest`.
    pub(super) fn program(&self, name: &str) -> Command {
        let mut command = Command::new(self.0.join("node_modules/.bin").join(name));
        command.current_dir(self.folder());
        command
    }
}
