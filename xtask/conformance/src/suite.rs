//! Plays all conversations, with the machines alone and through HTTP.

use std::fmt;
use std::path::Path;

use crate::{Conversation, Mistake, play_http, play_pure};

/// The results of a run of all conversations of a directory. `Display` writes the failures with their differences, then
/// one line per way with the number of conversations that passed.
#[derive(Debug)]
pub struct Report {
    ways: Vec<(&'static str, Vec<Outcome>)>,
    about: Vec<(String, String)>,
}

/// The name of a conversation, and its result.
type Outcome = (String, Result<(), String>);

impl Report {
    /// Plays every `*.jsonl` file of a directory, in the order of their names.
    ///
    /// # Errors
    /// When a file cannot be read, or is not what the format says.
    pub fn of(directory: &Path) -> Result<Self, Mistake> {
        let conversations = Conversation::read_all(directory)?;
        type Play = fn(&Conversation) -> Result<(), String>;
        let ways: [(&'static str, Play); 2] = [("the pure machines", play_pure), ("real HTTP", play_http)];
        let ways = ways.map(|(way, play)| {
            let played = conversations.iter().map(|c| (c.name().to_owned(), play(c)));
            (way, played.collect())
        });
        let about = conversations.iter().map(|c| (c.name().to_owned(), c.about().to_owned())).collect();
        Ok(Self { ways: ways.into(), about })
    }

    /// Number of conversations.
    pub fn conversations(&self) -> usize {
        self.about.len()
    }

    /// Names of the conversations that failed, once for each way in which they failed.
    pub fn failures(&self) -> impl Iterator<Item = &str> {
        let all = self.ways.iter().flat_map(|(_, played)| played);
        all.filter(|(_, result)| result.is_err()).map(|(name, _)| name.as_str())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (way, played) in &self.ways {
            for (name, result) in played {
                let Err(difference) = result else { continue };
                let about = self.about.iter().find(|(known, _)| known == name).map_or("", |(_, about)| about);
                writeln!(f, "FAILED {name} ({way}): {about}")?;
                writeln!(f, "  line   (- expected, + observed)\n{difference}")?;
            }
        }
        for (way, played) in &self.ways {
            let hold = played.iter().filter(|(_, result)| result.is_ok()).count();
            writeln!(f, "{hold} of {} conversations hold against {way}", played.len())?;
        }
        Ok(())
    }
}
