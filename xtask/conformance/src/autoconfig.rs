//! Conversations of auto-configuration streams, and literal messages: `fixtures/autoconfig` and
//! `fixtures/autoconfig-wire`, whose READMEs describe both formats.

mod http;
mod pure;
mod script;
mod wire;

use std::fmt;
use std::path::Path;

use serde_json::Value;

pub use script::AutoconfigMistake;
pub use wire::AutoconfigMessage;

use http::play_http;
use pure::play_pure;
use script::Script;

/// The results of all conversations of a directory, in both ways. `Display` writes the failures, then one line per way.
#[derive(Debug, Default)]
pub struct AutoconfigReport {
    conversations: usize,
    failures: Vec<String>,
    held: [usize; 2],
}

impl AutoconfigReport {
    /// Plays every `*.jsonl` file of a directory, in the order of their names.
    ///
    /// # Errors
    /// When a file cannot be read, or is not what the format says.
    pub fn of(directory: &Path) -> Result<Self, AutoconfigMistake> {
        let mut report = Self::default();
        for script in Script::read_all(directory)? {
            report.conversations += 1;
            let ways = [("the pure session", play_pure(&script)), ("real HTTP", play_http(&script))];
            for (held, (way, played)) in report.held.iter_mut().zip(ways) {
                match played {
                    Ok(()) => *held += 1,
                    Err(why) => {
                        report.failures.push(format!(
                            "{} ({way}): {}\n  {why}",
                            script.name(),
                            script.about()
                        ));
                    }
                }
            }
        }
        Ok(report)
    }

    /// Number of conversations.
    pub fn conversations(&self) -> usize {
        self.conversations
    }

    /// The failures, each with the name of the conversation, the way and the difference.
    pub fn failures(&self) -> &[String] {
        &self.failures
    }
}

impl fmt::Display for AutoconfigReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for failure in &self.failures {
            writeln!(f, "FAILED {failure}")?;
        }
        for (way, held) in ["the pure session", "real HTTP"].into_iter().zip(self.held) {
            writeln!(f, "{held} of {} conversations hold against {way}", self.conversations)?;
        }
        Ok(())
    }
}

/// Whether a line has everything that is expected: of an object only the named fields are compared, anything else
/// exactly.
fn has(line: &Value, expected: &Value) -> bool {
    match (line, expected) {
        (Value::Object(line), Value::Object(expected)) => {
            expected.iter().all(|(name, value)| line.get(name).is_some_and(|line| has(line, value)))
        }
        (Value::Array(line), Value::Array(expected)) => {
            line.len() == expected.len()
                && line.iter().zip(expected).all(|(line, expected)| has(line, expected))
        }
        _ => line == expected,
    }
}
