//! The conditions of `relay wait`.

use std::fmt;

use relay_pods::{Pod, PodKey};

use crate::tally::Tally;

/// An awaited condition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Condition {
    /// At least this many pods are ready.
    Ready(usize),
    /// There are pods, and all of them are ready.
    AllReady(Spelling),
    /// There are pods, and none of them is ready.
    NoneReady,
    /// Exactly this many pods match.
    Count(usize),
    /// No pod matches.
    Deleted(Spelling),
    /// There are pods, and all of them are in this phase.
    Phase(&'static str),
}

/// The spelling of a condition that has several; it is printed in the same way.
type Spelling = &'static str;

/// The phases of a pod.
const PHASES: [&str; 5] = ["Pending", "Running", "Succeeded", "Failed", "Unknown"];

impl Condition {
    /// Reads `ready`, `ready=3`, `count=0`, `delete`, `deleted`, `condition=Ready`, `condition=Ready=false` or
    /// `phase=Succeeded`.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let number = |value: &str, least: usize, rule: &str| match value.parse() {
            Ok(number) if value.bytes().all(|b| b.is_ascii_digit()) && number >= least => Ok(number),
            _ => Err(rule.to_owned()),
        };
        let same = |a: &str, b: &str| a.eq_ignore_ascii_case(b);
        match text.split_once('=') {
            None => match text {
                "ready" => Ok(Self::AllReady("ready")),
                "delete" => Ok(Self::Deleted("delete")),
                "deleted" => Ok(Self::Deleted("deleted")),
                _ => Err(RULE.into()),
            },
            Some(("ready", value)) => {
                number(value, 1, "ready=N takes a number from 1; for no pods at all, count=0")
                    .map(Self::Ready)
            }
            Some(("count", value)) => number(value, 0, "count=N takes a number from 0").map(Self::Count),
            Some(("phase", value)) => {
                let known = PHASES.into_iter().find(|phase| phase.eq_ignore_ascii_case(value));
                known
                    .map(Self::Phase)
                    .ok_or_else(|| format!("phase=PHASE takes one of {}", PHASES.join(", ")))
            }
            Some(("condition", value)) => match value.split_once('=').unwrap_or((value, "")) {
                (name, "") if same(name, "Ready") && !value.ends_with('=') => {
                    Ok(Self::AllReady("condition=Ready"))
                }
                (name, wanted) if same(name, "Ready") && same(wanted, "true") => {
                    Ok(Self::AllReady("condition=Ready=true"))
                }
                (name, wanted) if same(name, "Ready") && same(wanted, "false") => Ok(Self::NoneReady),
                (name, _) if same(name, "Ready") => Err("condition=Ready takes true or false".into()),
                _ => {
                    Err("a relay knows one condition of pods: condition=Ready, condition=Ready=false".into())
                }
            },
            _ => Err(RULE.into()),
        }
    }

    /// Whether it holds. `missing` is the number of named pods that do not exist.
    pub(crate) fn holds(&self, tally: &Tally, missing: usize) -> bool {
        let all = tally.pods > 0 && missing == 0;
        match *self {
            Self::Ready(wanted) => tally.ready >= wanted,
            Self::AllReady(_) => all && tally.ready == tally.pods,
            Self::NoneReady => all && tally.ready == 0,
            Self::Count(wanted) => tally.pods == wanted,
            Self::Deleted(_) => tally.pods == 0,
            Self::Phase(phase) => all && tally.in_phase(phase) == tally.pods,
        }
    }

    /// Whether it needs pods that exist.
    pub(crate) fn needs_pods(&self) -> bool {
        !matches!(self, Self::Deleted(_) | Self::Count(0))
    }

    /// Its progress, as a text.
    pub(crate) fn progress(&self, tally: &Tally) -> String {
        let pods = tally.pods;
        match *self {
            Self::Ready(wanted) => format!("{} ready, {wanted} wanted, {pods} match", tally.ready),
            Self::AllReady(_) if pods == 0 => "no pod matches, so none is ready".into(),
            Self::AllReady(_) => format!("{} of {pods} pods ready", tally.ready),
            Self::NoneReady if pods == 0 => "no pod matches".into(),
            Self::NoneReady => format!("{} of {pods} pods still ready", tally.ready),
            Self::Count(wanted) if pods == 1 => format!("1 pod matches, not {wanted}"),
            Self::Count(wanted) => format!("{pods} pods match, not {wanted}"),
            Self::Deleted(_) if pods == 1 => "1 pod still matches".into(),
            Self::Deleted(_) => format!("{pods} pods still match"),
            Self::Phase(phase) if pods == 0 => format!("no pod matches, so none is {phase}"),
            Self::Phase(phase) => {
                format!("{} of {pods} pods {phase} ({})", tally.in_phase(phase), tally.phases_text())
            }
        }
    }

    /// What this pod lacks, if it does not meet the condition.
    pub(crate) fn lacks(&self, pod: &Pod) -> Option<String> {
        let (printed, phase) = (pod.printed(), pod.phase().unwrap_or("Unknown"));
        let state = format!("{} {}/{}", printed.status, printed.ready, printed.containers);
        match *self {
            Self::Ready(_) | Self::AllReady(_) if !pod.ready() => Some(format!("not ready: {state}")),
            Self::NoneReady if pod.ready() => Some(format!("ready: {state}")),
            Self::Deleted(_) => Some(format!("still there: {state}")),
            Self::Phase(wanted) if phase != wanted => Some(format!("{phase}, not {wanted}: {state}")),
            _ => None,
        }
    }

    /// The text for a named pod that does not exist, if that contradicts the condition.
    pub(crate) fn lacks_missing(&self, _: &PodKey) -> Option<String> {
        self.needs_pods().then(|| "there is no such pod".into())
    }
}

const RULE: &str = "one of ready, ready=N, count=N, phase=PHASE, deleted (or delete), condition=Ready, condition=Ready=false";

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ready(wanted) => write!(f, "ready={wanted}"),
            Self::AllReady(spelled) | Self::Deleted(spelled) => f.write_str(spelled),
            Self::NoneReady => f.write_str("condition=Ready=false"),
            Self::Count(wanted) => write!(f, "count={wanted}"),
            Self::Phase(phase) => write!(f, "phase={phase}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(ready: usize, phases: &[(&str, usize)]) -> Tally {
        let phases: std::collections::BTreeMap<_, _> =
            phases.iter().map(|(phase, count)| ((*phase).to_owned(), *count)).collect();
        Tally { pods: phases.values().sum(), ready, phases, restarts: 0 }
    }

    #[test]
    fn conditions_are_written_as_documented() {
        for (text, condition) in [
            ("ready=3", Condition::Ready(3)),
            ("count=0", Condition::Count(0)),
            ("deleted", Condition::Deleted("deleted")),
            ("delete", Condition::Deleted("delete")),
            ("ready", Condition::AllReady("ready")),
            ("condition=Ready", Condition::AllReady("condition=Ready")),
            ("condition=Ready=true", Condition::AllReady("condition=Ready=true")),
            ("condition=Ready=false", Condition::NoneReady),
            ("phase=Succeeded", Condition::Phase("Succeeded")),
        ] {
            assert_eq!(Condition::parse(text), Ok(condition.clone()), "{text}");
            assert_eq!(condition.to_string(), text);
        }
        assert_eq!(Condition::parse("phase=running"), Ok(Condition::Phase("Running")));
        for bad in [
            "",
            "ready=",
            "ready=0",
            "ready=-1",
            "ready=+1",
            "ready=x",
            "ready=99999999999999999999",
            "count",
            "count=-1",
            "deleted=1",
            "condition",
            "condition=",
            "condition=Ready=",
            "condition=Ready=maybe",
            "condition=Initialized",
            "phase=",
            "phase=Done",
            "Ready=1",
        ] {
            assert!(Condition::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn when_conditions_hold_and_how_far_they_are() {
        let none = tally(0, &[]);
        let some = tally(1, &[("Running", 2), ("Pending", 1)]);
        let done = tally(0, &[("Succeeded", 2)]);
        for (text, tally, holds, progress) in [
            ("ready=1", &none, false, "0 ready, 1 wanted, 0 match"),
            ("ready=1", &some, true, "1 ready, 1 wanted, 3 match"),
            ("ready=2", &some, false, "1 ready, 2 wanted, 3 match"),
            ("count=0", &none, true, "0 pods match, not 0"),
            ("count=3", &some, true, "3 pods match, not 3"),
            ("count=2", &some, false, "3 pods match, not 2"),
            ("count=4", &some, false, "3 pods match, not 4"),
            ("deleted", &none, true, "0 pods still match"),
            ("deleted", &some, false, "3 pods still match"),
            ("deleted", &tally(0, &[("Running", 1)]), false, "1 pod still matches"),
            ("count=2", &tally(0, &[("Running", 1)]), false, "1 pod matches, not 2"),
            ("ready", &tally(0, &[("Running", 1)]), false, "0 of 1 pods ready"),
            ("ready", &none, false, "no pod matches, so none is ready"),
            ("ready", &some, false, "1 of 3 pods ready"),
            ("condition=Ready=false", &some, false, "1 of 3 pods still ready"),
            ("condition=Ready=false", &done, true, "0 of 2 pods still ready"),
            ("delete", &some, false, "3 pods still match"),
            ("phase=Succeeded", &none, false, "no pod matches, so none is Succeeded"),
            ("phase=Running", &some, false, "2 of 3 pods Running (Pending 1, Running 2)"),
            ("phase=Succeeded", &done, true, "2 of 2 pods Succeeded (Succeeded 2)"),
        ] {
            let condition = Condition::parse(text).unwrap();
            assert_eq!(condition.holds(tally, 0), holds, "{text}: {tally:?}");
            assert_eq!(condition.progress(tally), progress, "{text}");
        }
    }
}
