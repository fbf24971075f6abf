//! `cargo xtask fuzz`: coverage-guided fuzzing of all parsers and machines with foreign input.
//!
//! The targets are ordinary programs with libFuzzer, built with coverage counters that the stable compiler also has.
//! This needs a C++ compiler for libFuzzer itself, but neither a nightly toolchain nor cargo-fuzz.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::workspace::{cargo, check, output, root, target_directory};

/// The text of `cargo xtask fuzz --help`.
pub(crate) const DETAILS: &str = "\
Runs the fuzz targets of xtask/fuzz one after another, starting from their checked-in corpora, and fails when one of them
finds an input that breaks a promise; the input is then in xtask/fuzz/artifacts. What is learned on the way stays in the
target directory.
  TARGET       only targets whose name contains TARGET
  --for 10m    how long in all; s, m and h are understood; 10m if not given
Needs a C++ compiler, for libFuzzer.";

/// Coverage counters for libFuzzer, and assertions in spite of optimisation.
const RUSTFLAGS: &str = "--cfg=fuzzing -Cpasses=sancov-module -Ccodegen-units=1 -Cdebug-assertions \
    -Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
    -Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares";

/// Runs the targets.
pub(crate) fn run(arguments: &[String]) -> Result<()> {
    let mut total = Duration::from_secs(600);
    let mut wanted = String::new();
    let mut arguments = arguments.iter();
    while let Some(argument) = arguments.next() {
        if argument == "--for" {
            total = duration(arguments.next().context("--for needs a time, such as 10m")?)?;
        } else if argument.starts_with('-') {
            bail!("unknown option {argument}");
        } else {
            wanted.clone_from(argument);
        }
    }
    let compiler = std::env::var_os("CXX").unwrap_or_else(|| "c++".into());
    if Command::new(&compiler).arg("--version").stdout(Stdio::null()).status().is_err() {
        bail!("{} is not there: fuzzing needs a C++ compiler, for libFuzzer", compiler.to_string_lossy());
    }

    let fuzz = root().join("xtask/fuzz");
    let mut targets = Vec::new();
    for entry in fs::read_dir(fuzz.join("fuzz_targets"))? {
        let path = entry?.path();
        let name = path.file_stem().context("a target has a name")?.to_string_lossy().into_owned();
        if name.contains(&wanted) {
            targets.push(name);
        }
    }
    targets.sort();
    if targets.is_empty() {
        bail!("no fuzz target is named like {wanted}");
    }

    let build = target_directory()?.join("fuzz");
    let host = output(Command::new("rustc").arg("-vV"))?;
    let host = host.lines().find_map(|line| line.strip_prefix("host: ")).context("rustc has no host")?;
    // With a target, the flags do not apply to build scripts.
    check(
        cargo()
            .args([
                "build",
                "--release",
                "--locked",
                "--features=libfuzzer",
                "--target",
                host,
                "--manifest-path",
            ])
            .arg(fuzz.join("Cargo.toml"))
            .arg("--target-dir")
            .arg(&build)
            .env("RUSTFLAGS", RUSTFLAGS),
    )?;
    let seconds = (total.as_secs() / targets.len() as u64).max(1);
    for name in &targets {
        println!("fuzzing {name} for {seconds} s");
        let learned = directory(build.join("corpus").join(name))?;
        let artifacts = directory(fuzz.join("artifacts").join(name))?;
        check(
            Command::new(build.join(host).join("release").join(name))
                .arg(learned)
                .arg(fuzz.join("corpus").join(name))
                .arg(format!("-artifact_prefix={}/", artifacts.display()))
                .arg(format!("-max_total_time={seconds}"))
                .args(["-max_len=4096", "-timeout=10", "-rss_limit_mb=1024", "-verbosity=0"])
                .arg("-print_final_stats=1"),
        )?;
    }
    println!("{} targets, nothing found", targets.len());
    Ok(())
}

fn directory(path: PathBuf) -> Result<PathBuf> {
    fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
    Ok(path)
}

fn duration(text: &str) -> Result<Duration> {
    let digits = text.trim_end_matches(|unit: char| unit.is_ascii_alphabetic());
    let unit = match &text[digits.len()..] {
        "" | "s" => 1,
        "m" => 60,
        "h" => 3600,
        _ => bail!("{text} is no time: give seconds, or a number with s, m or h"),
    };
    let number: u64 = digits.parse().with_context(|| format!("{text} is no time"))?;
    Ok(Duration::from_secs(number.saturating_mul(unit)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read() {
        for (text, seconds) in [("90", 90), ("90s", 90), ("10m", 600), ("2h", 7200)] {
            assert_eq!(duration(text).unwrap().as_secs(), seconds, "{text}");
        }
        for text in ["", "m", "10d", "-1", "1.5h"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }
}
