//! `relay-soak [autoconfig|bus RELAY] [--for 10m] [--seed N]`: see the library.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command line tool talks to its terminal")]

use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use relay_soak::{Soak, autoconfig, bus, disks};

const USAGE: &str = "relay-soak [autoconfig|bus RELAY] [--for 10m] [--seed N]";

fn main() -> anyhow::Result<ExitCode> {
    let mut arguments: Vec<String> = std::env::args().skip(1).collect();
    // The tests with processes of the real binary, instead of followers in this process.
    let of = arguments.first().cloned().filter(|first| matches!(first.as_str(), "autoconfig" | "bus"));
    let relay =
        of.filter(|_| arguments.len() > 1).map(|of| (of, arguments.drain(..2).nth(1).unwrap_or_default()));
    let Some((text, time, seed)) = parse(&arguments) else {
        eprintln!("{USAGE}");
        return Ok(ExitCode::from(2));
    };
    println!("seed {seed}, for {text}");
    if let Some((of, relay)) = relay {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let report = runtime.block_on(async {
            Ok::<_, anyhow::Error>(match of.as_str() {
                "bus" => bus(relay.as_ref(), seed, time).await?.to_string(),
                _ => autoconfig(relay.as_ref(), seed, time).await?.to_string(),
            })
        });
        return Ok(match report {
            Ok(report) => {
                println!("passed: {report}");
                ExitCode::SUCCESS
            }
            Err(why) => {
                eprintln!("FAILED with seed {seed}: {why:#}");
                ExitCode::FAILURE
            }
        });
    }
    // A tenth of the time is for logs on simulated disks, and the rest for relays.
    match disks(seed, time / 10) {
        Ok(report) => println!("passed: {report}"),
        Err(why) => {
            eprintln!("FAILED: {why}\nthe same again: cargo xtask soak --for {text} --seed {seed}");
            return Ok(ExitCode::FAILURE);
        }
    }
    let mut soak = Soak::default();
    (soak.seed, soak.time) = (seed, time.saturating_sub(time / 10));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    match runtime.block_on(soak.run(|minute| println!("{minute}"))) {
        Ok(report) => {
            println!("passed: {report}");
            Ok(ExitCode::SUCCESS)
        }
        Err(why) => {
            eprintln!(
                "FAILED with seed {seed}: {why}\nthe same faults again: cargo xtask soak --for {text} --seed {seed}"
            );
            Ok(ExitCode::FAILURE)
        }
    }
}

/// The duration as text and as time, and the seed, which comes from the clock if none is given.
fn parse(arguments: &[String]) -> Option<(String, Duration, u64)> {
    let clock = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let (mut text, mut seed) = ("10m".to_owned(), clock.as_secs());
    for pair in arguments.chunks(2) {
        match pair {
            [name, value] if name == "--for" => text.clone_from(value),
            [name, value] if name == "--seed" => seed = value.parse().ok()?,
            _ => return None,
        }
    }
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match &text[digits.len()..] {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        _ => return None,
    };
    let seconds = digits.parse::<u64>().ok()?.checked_mul(unit)?;
    Some((text.clone(), Duration::from_secs(seconds), seed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments() {
        let parsed = |words: &str| parse(&words.split_whitespace().map(String::from).collect::<Vec<_>>());
        let (text, time, seed) = parsed("--seed 7 --for 2h").expect("valid");
        assert_eq!((text.as_str(), time.as_secs(), seed), ("2h", 7200, 7));
        assert_eq!(parsed("").expect("defaults").1.as_secs(), 600);
        for wrong in
            ["--for", "--for 5", "--for m", "--for 5d", "--seed x", "7", "--for 99999999999999999999h"]
        {
            assert!(parsed(wrong).is_none(), "{wrong}");
        }
    }
}
