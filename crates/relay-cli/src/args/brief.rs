//! The text of `-h`: one screen. `--help` has every flag, its variable, its default and the examples.

use clap::{Arg, ArgAction, Command};

/// The lines and columns of a small terminal, whose last line is for the prompt.
pub(super) const LINES: usize = 23;
pub(super) const COLUMNS: usize = 80;

/// Headings whose flags are left out first when there is no room, the least important ones first. Flags without a
/// heading are left out last.
const LAST: [&str; 7] = [
    "Transport",
    "Through a Kubernetes API server",
    "Reconnecting",
    "Retrying",
    "Limits",
    "Simulated cluster",
    "Authentication",
];
/// Flags that are kept longest, whatever their heading is.
const FIRST: [&str; 10] = [
    "url",
    "namespaces",
    "labels",
    "output",
    "since",
    "types",
    "conditions",
    "timeout",
    "cursor_file",
    "state",
];
/// Commands that are rarely needed.
const RARE: [&str; 3] = ["session", "completions", "man"];

/// Whether `-h` was given.
pub(super) fn is_asked(args: impl Iterator<Item = std::ffi::OsString>) -> bool {
    args.take_while(|arg| arg != "--").any(|arg| arg == "-h")
}

/// The command, and all below it, with help that fits on a screen.
pub(super) fn brief(command: Command) -> Command {
    let is_root = command.get_name() == "relay";
    let command = command.mut_subcommands(brief).mut_args(shorten);
    let help = Arg::new("help").short('h').long("help").action(ArgAction::Help);
    let help = help.help("Print this; --help tells everything, with examples").help_heading(None::<&str>);
    let command = command.disable_help_subcommand(true).disable_help_flag(true);
    if is_root { root(command.disable_version_flag(true).arg(help)) } else { fit(command.arg(help)) }
}

/// The name of each command takes a line: there is room for little else.
fn root(command: Command) -> Command {
    let rare = |command: Command| {
        let is_rare = RARE.contains(&command.get_name());
        let about = command.get_about().map(ToString::to_string).unwrap_or_default();
        let clause = about.split([':', ';']).next().unwrap_or_default().to_owned();
        command.about(clause).hide(is_rare)
    };
    command
        .mut_subcommands(rare)
        .mut_args(|arg| arg.hide(true))
        .after_help(format!("Also: {}. relay COMMAND --help tells everything.", RARE.join(", ")))
}

/// Keeps one clause, without the value from the environment.
fn shorten(arg: Arg) -> Arg {
    let help = arg.get_help().map(|help| {
        let help = help.to_string();
        let help = help.split(" [env:").next().unwrap_or_default();
        let end = [". ", "; "].iter().filter_map(|end| help.find(end)).min().unwrap_or(help.len());
        help[..end].trim_end_matches('.').to_owned()
    });
    let takes_values = arg.get_action().takes_values();
    let arg = arg.hide_env(true).hide_default_value(takes_values).hide_possible_values(takes_values);
    match help {
        Some(help) => arg.help(help),
        None => arg,
    }
}

/// Leaves out flags until there is room for the others.
fn fit(mut command: Command) -> Command {
    while lines(&command) > LINES {
        let flags = command.get_arguments().enumerate();
        let least = flags.filter(|(_, arg)| can_go(arg)).max_by_key(|(at, arg)| (rank(arg), *at));
        let Some(id) = least.map(|(_, arg)| arg.get_id().clone()) else { break };
        command = command.mut_arg(id, |arg| arg.hide_short_help(true));
    }
    command
}

fn can_go(arg: &Arg) -> bool {
    arg.get_id() != "help"
        && !arg.is_positional()
        && !arg.is_required_set()
        && !arg.is_hide_short_help_set()
        && !arg.is_hide_set()
}

/// Flags with a higher rank are left out earlier.
fn rank(arg: &Arg) -> usize {
    if FIRST.contains(&arg.get_id().as_str()) {
        return 0;
    }
    let under = arg.get_help_heading().and_then(|heading| LAST.iter().position(|last| *last == heading));
    match (under, arg.get_help_heading()) {
        (Some(at), _) => 2 + LAST.len() - at,
        (None, Some(_)) => 2,
        (None, None) => 1,
    }
}

/// The number of lines of the help on a small terminal.
pub(super) fn lines(command: &Command) -> usize {
    command.clone().term_width(COLUMNS).render_help().to_string().trim_end().lines().count()
}
