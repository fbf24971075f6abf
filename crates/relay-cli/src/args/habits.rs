//! Hints for those who know other tools: what takes the place of a command or flag that relay does not have.

use clap::Error;
use clap::error::{ContextKind, ContextValue, ErrorKind};

/// Commands of other tools.
const COMMANDS: &[(&[&str], &str)] = &[
    (&["get", "list", "ls", "ps"], "relay pods lists pods, and relay pod NAMESPACE/NAME shows one"),
    (
        &["logs", "log"],
        "relay has no logs of containers; what happened to a pod: relay events --pod NAMESPACE/NAME",
    ),
    (&["describe", "show"], "relay pod NAMESPACE/NAME -o yaml, and relay events --pod NAMESPACE/NAME"),
    (&["top"], "relay knows no use of CPU and memory; relay pods --group-by node counts the pods of nodes"),
    (&["version"], "relay --version"),
    (&["follow", "tail"], FOLLOW),
    (&["rollout"], "relay wait --label app=NAME --for ready=N waits for pods"),
    (
        &["apply", "create", "delete", "edit", "exec", "patch", "run", "scale"],
        "relay changes nothing in a cluster; kubectl does",
    ),
];

const FOLLOW: &str = "relay state follows the pods, and relay replay their history, too";
const ONE_POD: &str = "relay pod NAMESPACE/NAME shows one pod";
const ITS_EVENTS: &str = "relay events --pod NAMESPACE/NAME shows what happened to one pod";
const BODY: &str = "the body is --request-data TEXT, or -d TEXT";

/// Flags and arguments of other tools, by the command that they were given to. An empty name stands for an argument
/// that is not a flag.
const ARGUMENTS: &[(&str, &[&str], &str)] = &[
    ("pods", &["-w", "--watch", "--watch-only", "-f", "--follow"], FOLLOW),
    ("pod", &["-w", "--watch", "--watch-only", "-f", "--follow"], FOLLOW),
    ("events", &["-w", "--watch", "--watch-only", "-f", "--follow"], FOLLOW),
    ("pods", &[""], ONE_POD),
    ("events", &[""], ITS_EVENTS),
    ("state", &[""], ITS_EVENTS),
    ("sse", &["--data-raw", "--data-binary", "--data-urlencode", "--json"], BODY),
];

/// The error, with a hint if there is one, which takes the place of words that only look similar.
pub(super) fn with_hint(mut error: Error) -> Error {
    if let Some(hint) = hint(&error) {
        error.remove(ContextKind::SuggestedSubcommand);
        error.remove(ContextKind::SuggestedArg);
        error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![hint.into()]));
    }
    error
}

fn hint(error: &Error) -> Option<&'static str> {
    let text = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.as_str()),
        _ => None,
    };
    let usage = error.get(ContextKind::Usage)?.to_string();
    let mut words = usage.split_whitespace().skip_while(|word| *word != "relay").skip(1);
    // The names of commands stand before everything that is to be filled in.
    let command = words.next().filter(|word| word.starts_with(|c: char| c.is_ascii_lowercase()));
    match error.kind() {
        ErrorKind::InvalidSubcommand if command.is_none() => {
            let word = text(ContextKind::InvalidSubcommand)?;
            COMMANDS.iter().find_map(|(words, hint)| words.contains(&word).then_some(*hint))
        }
        ErrorKind::UnknownArgument => {
            let word = text(ContextKind::InvalidArg)?;
            let word = if word.starts_with('-') { word.split('=').next().unwrap_or(word) } else { "" };
            let is_it = |of: &&str, words: &[&str]| command == Some(*of) && words.contains(&word);
            ARGUMENTS.iter().find_map(|(of, words, hint)| is_it(of, words).then_some(*hint))
        }
        _ => None,
    }
}
