//! `relay autoconfig`: environments of a proxy, and their keys.

mod demo;
mod line;
mod serve;
mod watch;

use clap::{Args as ClapArgs, Subcommand};

use crate::args::Show;
use crate::exit::Exit;

/// Auto-configuration streams: follow one, or serve a file as one
///
/// See it work:      relay autoconfig demo
/// Serve a file:     relay autoconfig serve environments.yaml
/// Follow it:        relay autoconfig watch --key any
#[derive(Debug, ClapArgs)]
#[command(verbatim_doc_comment)]
pub(crate) struct AutoconfigArgs {
    #[command(subcommand)]
    command: AutoconfigCommand,
}

#[derive(Debug, Subcommand)]
enum AutoconfigCommand {
    /// Print what changes: a line per environment, filter, key and put, and how the connection fares
    Watch(Box<watch::WatchArgs>),
    /// Serve a file of environments: every change of it becomes an event
    Serve(serve::ServeArgs),
    /// See it work: a service over a temporary file, and the client that follows its changes
    Demo(Show),
}

impl AutoconfigArgs {
    /// Whether it logs its state on stderr, as servers do.
    pub(crate) fn is_server(&self) -> bool {
        matches!(self.command, AutoconfigCommand::Serve(_))
    }

    /// Whether it cuts a connection of its own, and its lines say so.
    pub(crate) fn is_demo(&self) -> bool {
        matches!(self.command, AutoconfigCommand::Demo(_))
    }
}

pub(crate) async fn run(args: AutoconfigArgs) -> anyhow::Result<Exit> {
    match args.command {
        AutoconfigCommand::Watch(args) => watch::run(*args).await,
        AutoconfigCommand::Serve(args) => serve::run(args).await,
        AutoconfigCommand::Demo(args) => demo::run(args).await,
    }
}
