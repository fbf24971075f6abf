//! Installs packages of npm, as a lock file of this project says, into an ignored folder.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::workspace;

/// The error for users who lack the programs.
const NEEDS: &str = "this needs Node.js 20 or later with npm on the PATH, and for the first run a way to the packages \
                     of npm";

/// Fails if Node.js or npm is missing.
pub(crate) fn check_programs() -> Result<()> {
    for program in ["node", "npm"] {
        if let Err(error) = workspace::output(Command::new(program).arg("--version")) {
            bail!("{NEEDS}: {error:#}");
        }
    }
    Ok(())
}

/// Copies these files of `source`, among them `package-lock.json`, to `folder`, and installs the packages there
/// unless exactly these are installed already. Their scripts are not run.
pub(crate) fn install(source: &Path, folder: &Path, files: &[&str]) -> Result<()> {
    check_programs()?;
    std::fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let lock = std::fs::read(source.join("package-lock.json"))?;
    // This file is written last, so an installation that was interrupted has none.
    let done = folder.join("installed-lock.json");
    let installed = std::fs::read(&done).is_ok_and(|installed| installed == lock);
    for file in files {
        let from = source.join(file);
        std::fs::copy(&from, folder.join(file)).with_context(|| format!("cannot copy {}", from.display()))?;
    }
    if !installed {
        println!("installing the packages of {} (npm)", source.display());
        let mut npm = Command::new("npm");
        npm.current_dir(folder).args(["ci", "--ignore-scripts", "--no-audit", "--no-fund"]);
        workspace::check(&mut npm).context(NEEDS)?;
        std::fs::write(&done, &lock)?;
    }
    Ok(())
}
