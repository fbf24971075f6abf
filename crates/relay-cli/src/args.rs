//! Flags and their environment variables.

mod brief;
mod bus;
mod connect;
mod examples;
#[cfg(test)]
mod flags_page;
mod follow;
mod habits;
mod peer;
mod query;
mod serve;
mod shared;
mod shell;
mod sse;
mod together;
mod transport;
mod value;

use clap::builder::Resettable;
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand, ValueHint};

pub(crate) use bus::{
    BusArgs, BusCommand, BusCrdsArgs, BusMonitorArgs, BusReceiveArgs, BusSendArgs, BusServeArgs,
    ComponentArg, EngineArg, HandlerArg, WhichBus,
};
pub(crate) use connect::Connect;
pub(crate) use follow::{DEFAULT_WAIT, ReplayArgs, StateArgs, StreamArgs, WaitArgs};
pub(crate) use peer::{KubeFlags, Peer, System, TakesKubeFlags, in_environment};
pub(crate) use query::{EventsArgs, HealthArgs, OrderArg, PodArgs, PodsArgs, SessionArgs};
pub(crate) use serve::{ClockArg, DemoArgs, FsyncArg, ServeArgs, Show, SourceArg, StoreArg};
pub(crate) use shared::{Format, Print, PrintLines, Reconnect, Since, Until, Which};
pub(crate) use shell::{CompletionsArgs, ManArgs};
pub(crate) use sse::SseArgs;
pub(crate) use transport::Transport;
pub(crate) use value::{duration, label_key, positive_duration, size, whole, written};

use crate::autoconfig::AutoconfigArgs;
use crate::durable::DurableArgs;
use crate::exit::Usage;
use crate::output::Color;
use crate::parsec::ParsecArgs;
use crate::store::StoreArgs;

/// Follow the pods of a Kubernetes cluster through a relay, or be the relay.
///
/// Flags that say [env: ..] can also be set in the environment; an empty variable counts as none.
/// RELAY_LOG chooses what is logged to stderr: error, warn (default), info (servers), debug, trace, TARGET=LEVEL,...
/// Durations are written 500ms, 10s, 5m, 24h; sizes 64KiB, 256MiB. JSON comes as one object per line.
///
/// Exit codes: 0 done, 1 failed, 2 wrong usage, 3 not found, 4 not authorised, 5 timed out, 6 conflict, 7 outcome of an
/// append unknown, 130 after Ctrl-C, 143 when a client is ended by SIGTERM (a server ends with 0).
#[derive(Debug, Parser)]
#[command(name = "relay", version, max_term_width = 100)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) kube: KubeFlags,
    /// Colour by meaning, in tables and logs; NO_COLOR counts as never
    #[arg(
        long,
        global = true,
        env = "RELAY_COLOR",
        default_value = "auto",
        value_name = "WHEN",
        help_heading = "Output",
        hide_short_help = true
    )]
    pub(crate) color: Color,
    #[command(subcommand)]
    pub(crate) command: Command,
}

impl Args {
    /// Reads the command line and the environment. Ends the program if they are wrong, or ask for help.
    ///
    /// # Errors
    /// When flags contradict each other.
    pub(crate) fn read() -> Result<Self, Usage> {
        let command = with_rules(without_empty_variables(Self::with_examples()));
        let is_brief = brief::is_asked(std::env::args_os().skip(1));
        let command = if is_brief { brief::brief(command) } else { command };
        let mut matches = command.try_get_matches().unwrap_or_else(|error| habits::with_hint(error).exit());
        together::check(&matches)?;
        Ok(Self::from_arg_matches_mut(&mut matches).unwrap_or_else(|error| error.exit()))
    }

    /// The command line as clap represents it, with the examples of each command.
    pub(crate) fn with_examples() -> clap::Command {
        examples::with_examples(Self::command())
    }

    /// The command line as shells complete it.
    pub(crate) fn for_shells() -> clap::Command {
        with_rules(Self::command())
    }

    /// The command, with the flags that were given before its name.
    pub(crate) fn into_command(self) -> Result<Command, Usage> {
        let Self { kube, color: _, mut command } = self;
        match (command.peer(), kube.given()) {
            (Some(peer), _) => peer.fall_back_to(kube),
            (None, None) => {}
            (None, Some(flag)) => {
                return Err(Usage(format!(
                    "{flag} before the command is for commands that talk to a server"
                )));
            }
        }
        Ok(command)
    }
}

/// An empty variable counts as absent, for places where a variable cannot be unset.
fn without_empty_variables(command: clap::Command) -> clap::Command {
    let empty = |name: &std::ffi::OsStr| std::env::var_os(name).is_some_and(|value| value.is_empty());
    command
        .mut_args(|arg| if arg.get_env().is_some_and(empty) { arg.env(Resettable::Reset) } else { arg })
        .mut_subcommands(without_empty_variables)
}

/// Rules that all values of a kind have in common. Numbers and durations may begin with a hyphen, so that the error is
/// about the negative value and not about an unknown flag `-5`.
fn with_rules(command: clap::Command) -> clap::Command {
    let allow = |arg: clap::Arg| {
        let names = arg.get_value_names().unwrap_or_default();
        match names.first().map(|name| name.as_str()) {
            _ if matches!(arg.get_id().as_str(), "listen" | "admin_listen") => {
                arg.value_parser(value::address)
            }
            Some("DIR") => arg.value_parser(value::directory),
            Some("DURATION") => arg.allow_hyphen_values(true),
            Some("N" | "RATE" | "SIZE") => arg.allow_negative_numbers(true),
            _ => arg,
        }
    };
    let command = command.mut_args(|arg| hinted(allow(arg))).mut_subcommands(with_rules);
    // This command counts events and not lines: the data of an event may have several lines.
    if command.get_name() == "sse" {
        return command.mut_arg("max", |max| max.help("End after so many events"));
    }
    if command.get_name() == "state" {
        let help = "End after so many lines; the pods that are LISTED at first are not counted";
        return command.mut_arg("max", |max| max.help(help));
    }
    command
}

/// Shells offer names of files only where a file or a directory is meant.
fn hinted(arg: clap::Arg) -> clap::Arg {
    let names = arg.get_value_names().unwrap_or_default();
    let hint = match names.first().map(|name| name.as_str()) {
        _ if !arg.get_action().takes_values() || arg.get_value_hint() != ValueHint::Unknown => return arg,
        Some("URL") => ValueHint::Url,
        Some("COMMAND") => ValueHint::CommandString,
        Some("FILE" | "DIR") => return arg,
        _ => ValueHint::Other,
    };
    arg.value_hint(hint)
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// See it work: a relay with a simulated cluster, and a client that follows it through a cut and a gap
    Demo(DemoArgs),
    /// Run a relay
    Serve(Box<ServeArgs>),
    /// List the current pods
    Pods(PodsArgs),
    /// Show one pod; exit code 3 when there is none
    Pod(PodArgs),
    /// Page through the history
    Events(EventsArgs),
    /// Print the raw messages of one connection
    Stream(StreamArgs),
    /// Follow the pods: a line per list and per change
    #[command(alias = "watch")]
    State(StateArgs),
    /// Follow the pods through the six phases; resumable with --cursor-file
    Replay(ReplayArgs),
    /// Wait until the pods fulfil a condition; exit code 5 when they do not in time
    ///
    /// Follows one live stream. Only pods that are seen live count: neither what was read before the stream caught up,
    /// nor what was last seen before it dropped, nor what a relay tells whose source is away. A relay that is down is
    /// waited for. When the condition is met, one line says what the pods are then.
    Wait(WaitArgs),
    /// Verify, export or import a relay's data directory
    Store(StoreArgs),
    /// Ask for a session ticket and print it
    Session(SessionArgs),
    /// Print the health document; exit code 1 when the relay is not well
    Health(HealthArgs),
    /// Follow any event stream: curl that reconnects and resumes
    Sse(Box<SseArgs>),
    /// Durable streams: append, read and follow, produce exactly once
    Durable(Box<DurableArgs>),
    /// Auto-configuration streams: follow one, or serve a file as one
    Autoconfig(AutoconfigArgs),
    /// Enveloped channels: publish and subscribe with sequences, gaps and schemas
    Parsec(Box<ParsecArgs>),
    /// Channel buses: take messages for channels, and send each to everyone who is subscribed
    Bus(BusArgs),
    /// Print a script that completes commands and flags: bash, zsh, fish, elvish or powershell
    #[command(alias = "completion")]
    Completions(CompletionsArgs),
    /// Write a manual page per command
    Man(ManArgs),
}

impl Command {
    /// The server of a command that uses one which may be behind an API server.
    fn peer(&mut self) -> Option<&mut dyn TakesKubeFlags> {
        Some(match self {
            Self::Pods(args) => &mut args.connect,
            Self::Pod(args) => &mut args.connect,
            Self::Events(args) => &mut args.connect,
            Self::Stream(args) => &mut args.connect,
            Self::State(args) => &mut args.connect,
            Self::Replay(args) => &mut args.connect,
            Self::Wait(args) => &mut args.connect,
            Self::Session(args) => &mut args.connect,
            Self::Health(args) => &mut args.connect,
            Self::Durable(args) => return args.peer(),
            Self::Parsec(args) => return args.peer(),
            Self::Demo(_)
            | Self::Serve(_)
            | Self::Store(_)
            | Self::Autoconfig(_)
            | Self::Bus(_)
            | Self::Sse(_)
            | Self::Completions(_)
            | Self::Man(_) => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Calls `look` for every command, with its path.
    fn all(command: &clap::Command, path: &str, look: &mut impl FnMut(&str, &clap::Command)) {
        look(path, command);
        for sub in command.get_subcommands() {
            all(sub, format!("{path} {}", sub.get_name()).trim_start(), look);
        }
    }

    #[test]
    fn the_flags_are_consistent() {
        Args::command().debug_assert();
        brief::brief(Args::command()).debug_assert();
    }

    #[test]
    fn the_short_help_of_every_command_fits_on_a_screen() {
        let mut command = brief::brief(Args::command());
        command.build();
        let mut seen = 0;
        all(&command, "", &mut |path, command| {
            let lines = brief::lines(command);
            let help = command.clone().term_width(brief::COLUMNS).render_help();
            assert!(lines <= brief::LINES, "relay {path} -h: {lines} lines\n{help}");
            seen += 1;
        });
        assert!(seen > 40, "{seen}");
    }

    /// The flags under a heading are those that its name describes, in every command.
    #[test]
    fn every_flag_stands_under_the_right_heading() {
        let headings: &[(&str, &[&str])] = &[
            ("Which pods", &["namespaces", "all_namespaces", "labels", "not_ready"]),
            ("When to end", &["max", "time", "exit_after_phase"]),
            ("Reconnecting", &["reconnect_base", "reconnect_cap", "idle_timeout"]),
            (
                "Connection",
                &["url", "token_file", "token", "proxy_token", "client_id", "headers", "transport"],
            ),
            ("Through a Kubernetes API server", &["kube_service", "kube_context", "kubeconfig"]),
            (
                "Transport",
                &[
                    "ca_file",
                    "client_cert",
                    "client_key",
                    "connect_timeout",
                    "insecure_accept_any_certificate",
                ],
            ),
            (
                "Output",
                &[
                    "output",
                    "no_headers",
                    "timestamps",
                    "color",
                    "pods",
                    "group_by",
                    "apply_backfill",
                    "events",
                    "data",
                    "parse",
                    "verbose",
                ],
            ),
        ];
        all(&Args::command(), "", &mut |path, command| {
            for arg in command.get_arguments() {
                let (id, heading) = (arg.get_id().as_str(), arg.get_help_heading());
                let known = headings.iter().find(|(name, _)| Some(*name) == heading);
                assert!(
                    known.is_none_or(|(_, ids)| ids.contains(&id)),
                    "relay {path}: {id} under {heading:?}"
                );
            }
        });
    }

    #[test]
    fn every_command_has_examples() {
        let command = Args::command();
        let mut without = Vec::new();
        all(&command, "", &mut |path, command| {
            if command.get_subcommands().next().is_none() && examples::of(path).is_none() {
                without.push(path.to_owned());
            }
        });
        assert!(without.is_empty(), "{without:?}");
        for path in examples::paths() {
            let wide = examples::of(path).unwrap().lines().find(|line| line.chars().count() > 76);
            assert_eq!(wide, None, "{path}: it breaks on a terminal of 80 columns");
            let found = path.split(' ').try_fold(&command, |command, name| command.find_subcommand(name));
            assert!(found.is_some(), "there is no command {path}");
        }
    }
}
