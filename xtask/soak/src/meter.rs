//! Measures memory, sockets and tasks, and checks that they do not grow.

use std::fmt;

/// The resources of the process at one moment. `None` if the system does not report it (Linux does).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Sample {
    /// Resident memory in KiB.
    pub memory: Option<u64>,
    /// Open file descriptors; nearly all of them are sockets.
    pub descriptors: Option<u64>,
    /// Tasks of the runtime that have not ended.
    pub tasks: u64,
}

impl Sample {
    /// Measures this process and the present runtime.
    pub(crate) fn take() -> Self {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let memory = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:")?.split_whitespace().next()?.parse().ok());
        let descriptors = std::fs::read_dir("/proc/self/fd").ok().map(|open| open.count() as u64);
        let tasks = tokio::runtime::Handle::current().metrics().num_alive_tasks() as u64;
        Self { memory, descriptors, tasks }
    }
}

impl fmt::Display for Sample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.memory {
            Some(memory) => write!(f, "{:.1} MiB", memory as f64 / 1024.0)?,
            None => f.write_str("memory unknown")?,
        }
        match self.descriptors {
            Some(open) => write!(f, ", {open} descriptors")?,
            None => f.write_str(", descriptors unknown")?,
        }
        write!(f, ", {} tasks", self.tasks)
    }
}

/// The least number of samples for a comparison.
const ENOUGH: usize = 16;

/// Compares the medians of the second and the last quarter of a run; `None` if there are too few samples. The last one
/// may be higher by a tenth, plus 8 MiB, 16 descriptors or 16 tasks, which is the usual difference between two moments.
///
/// # Errors
/// The resource that grew, and its two medians.
pub(crate) fn flat(samples: &[Sample]) -> Result<Option<(Sample, Sample)>, String> {
    if samples.len() < ENOUGH {
        return Ok(None);
    }
    let quarter = samples.len() / 4;
    let (second, last) =
        (median(&samples[quarter..2 * quarter]), median(&samples[samples.len() - quarter..]));
    let grew = |before: u64, after: u64, slack: u64| after > before + before / 10 + slack;
    for (what, before, after, slack) in [
        ("memory in KiB", second.memory, last.memory, 8 << 10),
        ("descriptors", second.descriptors, last.descriptors, 16),
        ("tasks", Some(second.tasks), Some(last.tasks), 16),
    ] {
        if let Some((before, after)) = before.zip(after)
            && grew(before, after, slack)
        {
            return Err(format!("{what} grew from {before} in the second quarter to {after} in the last"));
        }
    }
    Ok(Some((second, last)))
}

fn median(samples: &[Sample]) -> Sample {
    let middle = |mut values: Vec<u64>| {
        values.sort_unstable();
        values.get(values.len() / 2).copied()
    };
    Sample {
        memory: middle(samples.iter().filter_map(|sample| sample.memory).collect()),
        descriptors: middle(samples.iter().filter_map(|sample| sample.descriptors).collect()),
        tasks: middle(samples.iter().map(|sample| sample.tasks).collect()).unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(grow: impl Fn(u64) -> Sample) -> Result<bool, String> {
        let samples: Vec<Sample> = (0..40).map(grow).collect();
        flat(&samples).map(|medians| medians.is_some())
    }

    #[test]
    fn growth_is_found_and_a_warm_up_is_not_growth() {
        let sample = |memory, descriptors, tasks| Sample {
            memory: Some(memory),
            descriptors: Some(descriptors),
            tasks,
        };
        assert_eq!(run(|n| sample(100_000 + n.min(5) * 20_000, 60 + n % 7, 50 + n % 3)), Ok(true));
        for (what, result) in [
            ("memory", run(|n| sample(100_000 + n * 2_000, 60, 50))),
            ("descriptors", run(|n| sample(100_000, 60 + n * 2, 50))),
            ("tasks", run(|n| sample(100_000, 60, 50 + n * 2))),
        ] {
            assert!(result.unwrap_err().starts_with(what));
        }
        assert_eq!(flat(&[sample(1, 1, 1); 3]), Ok(None));
        assert_eq!(
            run(|_| Sample { tasks: 5, ..Sample::default() }),
            Ok(true),
            "where the system does not tell"
        );
    }
}
