//! `cargo xtask tidy`: rules of this repository that neither compiler nor clippy checks.
//!
//! [`layers`] checks dependencies between crates, [`map`] the map of the source, [`pages`] links and READMEs,
//! [`sources`] files, [`errors`] texts of errors, [`imports`] imports between files, [`locks`] lock files. Each rule
//! reports [`Finding`]s; the command prints them all and fails when there is one.

use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::{no_arguments, workspace};

mod errors;
mod imports;
mod layers;
mod locks;
mod map;
mod pages;
mod sources;

/// Checks the workspace this program belongs to.
pub(crate) fn run(arguments: &[String]) -> Result<()> {
    no_arguments(arguments)?;
    let root = workspace::root();
    let metadata = workspace::metadata(root)?;
    let mut findings = layers::check(&metadata);
    findings.extend(layers::check_pure_crates(root, &metadata)?);
    findings.extend(sources::check(root)?);
    findings.extend(errors::check(root)?);
    findings.extend(imports::check(root)?);
    findings.extend(locks::check(root, &metadata)?);
    findings.extend(map::check(root, &metadata)?);
    findings.extend(pages::check(root)?);
    findings.sort();
    for finding in &findings {
        println!("{finding}");
    }
    if !findings.is_empty() {
        bail!("{} finding(s)", findings.len());
    }
    println!("tidy: no findings");
    Ok(())
}

/// A broken rule and the place where it is broken.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Finding {
    /// Relative to the root of the workspace.
    path: PathBuf,
    /// Counted from one; zero when the whole file is meant.
    line: usize,
    what: String,
}

impl Finding {
    fn new(path: impl Into<PathBuf>, line: usize, what: impl Into<String>) -> Self {
        Self { path: path.into(), line, what: what.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}: {}", self.path.display(), self.what),
            line => write!(f, "{}:{line}: {}", self.path.display(), self.what),
        }
    }
}

/// All files below `root` with this extension or name, relative to it, without build output and version control.
fn files(root: &Path, ending: &str) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut pending = vec![PathBuf::new()];
    while let Some(directory) = pending.pop() {
        let full = root.join(&directory);
        for entry in std::fs::read_dir(&full).with_context(|| format!("cannot read {}", full.display()))? {
            let entry = entry?;
            let name = entry.file_name();
            let path = directory.join(&name);
            if entry.file_type()?.is_dir() {
                if name != "target" && name != ".git" {
                    pending.push(path);
                }
            } else if path.extension().is_some_and(|extension| extension == ending) || name == ending {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}
