//! The list of all flags in `docs/command-line.md`: made from the flags themselves, and checked against the page.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use clap::{Arg, Command, CommandFactory as _};

use super::Args;

/// The heading of the list, which extends to the end of the page.
const HEADING: &str = "## All flags\n";
/// How many commands are listed for a shared flag; the others are only counted.
const NAMED: usize = 6;

/// A flag as the page shows it: its names, with the name of its value, and its description.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Flag {
    names: String,
    what: String,
}

impl Flag {
    /// `None` for an argument that is not a flag of the command itself.
    fn of(arg: &Arg) -> Option<Self> {
        let long = arg.get_long().filter(|long| !["help", "version"].contains(long) && !arg.is_hide_set())?;
        let takes_value = arg.get_action().takes_values();
        let value = arg.get_value_names().and_then(|names| names.first()).filter(|_| takes_value);
        let short = arg.get_short().map_or(String::new(), |short| format!("-{short}, "));
        let names = format!("`{short}--{long}{}`", value.map_or(String::new(), |value| format!(" {value}")));
        let mut what = arg.get_help().map(ToString::to_string).unwrap_or_default().replace('\n', " ");
        let defaults: Vec<_> = arg.get_default_values().iter().map(|value| value.to_string_lossy()).collect();
        if takes_value && !defaults.iter().all(|value| value.is_empty()) && !what.contains("Default: ") {
            let _ = write!(what, ". Default: `{}`", defaults.join(" "));
        }
        for alias in arg.get_visible_aliases().unwrap_or_default() {
            let _ = write!(what, "; also `--{alias}`");
        }
        if let Some(variable) = arg.get_env() {
            let _ = write!(what, " (`{}`)", variable.to_string_lossy());
        }
        Some(Self { names, what: what.replace('|', "\\|").replace('<', "&lt;") })
    }
}

/// Collects every command that has flags of its own, with its path, and each of its flags with the heading in the help.
fn commands(command: &Command, path: &str, found: &mut Vec<(String, Vec<(String, Flag)>)>) {
    let flags: Vec<_> = command
        .get_arguments()
        .filter(|arg| path.is_empty() || !arg.is_global_set())
        .filter_map(|arg| Some((arg.get_help_heading().unwrap_or("Options").to_owned(), Flag::of(arg)?)))
        .collect();
    found.push((path.to_owned(), flags));
    for sub in command.get_subcommands().filter(|sub| sub.get_name() != "help") {
        commands(sub, format!("{path} {}", sub.get_name()).trim_start(), found);
    }
}

/// The text of the list, including its heading.
fn page() -> String {
    let mut all = Vec::new();
    commands(&Args::command(), "", &mut all);
    let mut users: BTreeMap<&Flag, Vec<&str>> = BTreeMap::new();
    let mut headings: Vec<&str> = Vec::new();
    for (path, flags) in &all {
        for (heading, flag) in flags {
            users.entry(flag).or_default().push(path);
            if !headings.contains(&heading.as_str()) {
                headings.push(heading);
            }
        }
    }
    let is_shared = |flag: &Flag| users[flag].len() > 1;
    let mut page = String::from(HEADING);
    page += "\nFirst come the flags that several commands have, under their headings in the help, and then those of one command\n\
             alone. In parentheses stands the variable of the environment that gives the value as well. Every command has\n\
             `-h` and `--help`, and `relay` itself `-V` and `--version`.\n";
    for heading in headings {
        let mut shared: Vec<&Flag> = Vec::new();
        for (_, flags) in &all {
            for (_, flag) in flags.iter().filter(|(of, flag)| of == heading && is_shared(flag)) {
                if !shared.contains(&flag) {
                    shared.push(flag);
                }
            }
        }
        if shared.is_empty() {
            continue;
        }
        let _ = write!(page, "\n### {heading}\n\n| flag | what it does | commands |\n|---|---|---|\n");
        for flag in shared {
            let _ = writeln!(page, "| {} | {} | {} |", flag.names, flag.what, named(&users[flag]));
        }
    }
    for (path, flags) in &all {
        let own: Vec<_> = flags.iter().map(|(_, flag)| flag).filter(|flag| !is_shared(flag)).collect();
        if own.is_empty() {
            continue;
        }
        let title =
            if path.is_empty() { "Before or behind every command".into() } else { format!("`relay {path}`") };
        let _ = write!(page, "\n### {title}\n\n| flag | what it does |\n|---|---|\n");
        for flag in own {
            let _ = writeln!(page, "| {} | {} |", flag.names, flag.what);
        }
    }
    page
}

fn named(commands: &[&str]) -> String {
    let names: Vec<_> = commands
        .iter()
        .take(NAMED)
        .map(|name| format!("`{}`", if name.is_empty() { "relay" } else { name }))
        .collect();
    match commands.len().saturating_sub(NAMED) {
        0 => names.join(", "),
        more => format!("{}, and {more} more", names.join(", ")),
    }
}

/// With `RELAY_BLESS` set, this test writes the page instead.
#[test]
fn the_page_lists_every_flag() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/command-line.md");
    let text = std::fs::read_to_string(path).unwrap();
    let at = text.find(HEADING).unwrap_or(text.len());
    let (before, list) = text.split_at(at);
    let wanted = page();
    if std::env::var_os("RELAY_BLESS").is_some() {
        std::fs::write(path, format!("{}\n\n{wanted}", before.trim_end())).unwrap();
        return;
    }
    let advice = "to write the list: RELAY_BLESS=1 cargo test -p relay-cli the_page";
    let missing = wanted.lines().find(|line| !list.lines().any(|there| there == *line));
    assert_eq!(missing, None, "docs/command-line.md lacks this line; {advice}");
    assert_eq!(list, wanted, "{advice}");
}

/// Independent of how the list is made: each flag of a help text is on the page.
#[test]
fn no_flag_of_a_help_is_missing_in_the_page() {
    let page = include_str!("../../../../docs/command-line.md");
    fn look(command: &mut Command, page: &str, seen: &mut usize) {
        let help = command.render_long_help().to_string();
        for word in help.split_whitespace().filter(|word| word.starts_with("--") && word.len() > 2) {
            let end = word[2..].find(|c: char| !(c.is_ascii_alphanumeric() || c == '-'));
            let flag = &word[..end.map_or(word.len(), |end| end + 2)];
            assert!(page.contains(flag), "{flag} of\n{help}");
            *seen += 1;
        }
        for sub in command.get_subcommands_mut() {
            look(sub, page, seen);
        }
    }
    let (mut command, mut seen) = (Args::command(), 0);
    command.build();
    look(&mut command, page, &mut seen);
    assert!(seen > 400, "{seen}");
}
