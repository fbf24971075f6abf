//! The Go programs of the suites, each in a directory of `xtask/interop` with the versions that it needs.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::workspace;

/// Builds the program in that directory and returns its path; Go itself checks whether there is anything to do.
///
/// `needs` is the text of the error if there is no Go.
pub(super) fn build(directory: &str, name: &str, needs: &str) -> Result<PathBuf> {
    build_in(&workspace::root().join("xtask/interop").join(directory), name, needs)
}

/// The same for a directory that was made elsewhere.
pub(super) fn build_in(directory: &Path, name: &str, needs: &str) -> Result<PathBuf> {
    if let Err(error) = workspace::output(Command::new("go").arg("version")) {
        bail!("{needs}: {error:#}");
    }
    let target = workspace::target_directory()?.join("interop");
    std::fs::create_dir_all(&target).with_context(|| format!("cannot create {}", target.display()))?;
    let binary = target.join(name);
    println!("building {name} (Go)");
    let mut command = Command::new("go");
    command.current_dir(directory).env("CGO_ENABLED", "0");
    workspace::check(command.args(["build", "-mod=readonly", "-ldflags=-s -w", "-o"]).arg(&binary).arg("."))?;
    Ok(binary)
}
