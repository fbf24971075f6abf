//! `relay parsec`: enveloped channels.

mod ask;
mod publish;
mod reach;
mod schema;
mod serve;
mod subscribe;

use clap::{Args as ClapArgs, Subcommand};

use crate::args::TakesKubeFlags;
use crate::exit::Exit;

/// Enveloped channels: publish and subscribe with sequences, gaps and schemas
///
/// Three terminals, nothing else installed:
///   relay parsec serve
///   relay parsec subscribe public:demo.chat --aspect said
///   echo '{"text":"hi"}' | relay parsec publish public:demo.chat --aspect said --producer me
#[derive(Debug, ClapArgs)]
#[command(verbatim_doc_comment)]
pub(crate) struct ParsecArgs {
    #[command(subcommand)]
    command: ParsecCommand,
}

#[derive(Debug, Subcommand)]
enum ParsecCommand {
    /// Run a server
    Serve(serve::ServeArgs),
    /// Publish a payload per line of stdin, numbered without a hole
    Publish(publish::PublishArgs),
    /// Print what comes, with what is missing
    Subscribe(subscribe::SubscribeArgs),
    /// Print what a channel has kept
    History(ask::HistoryArgs),
    /// Print who listens to a channel
    Presence(ask::PresenceArgs),
    /// Look at the patterns of channels, and check payloads against them
    Schema(schema::SchemaArgs),
}

impl ParsecArgs {
    /// The server of a command that uses one.
    pub(crate) fn peer(&mut self) -> Option<&mut dyn TakesKubeFlags> {
        Some(match &mut self.command {
            ParsecCommand::Publish(args) => &mut args.reach,
            ParsecCommand::Subscribe(args) => &mut args.reach,
            ParsecCommand::History(args) => &mut args.reach,
            ParsecCommand::Presence(args) => &mut args.reach,
            ParsecCommand::Schema(args) => args.peer(),
            ParsecCommand::Serve(_) => return None,
        })
    }

    /// Whether it is a server, which logs more.
    pub(crate) fn is_server(&self) -> bool {
        matches!(self.command, ParsecCommand::Serve(_))
    }
}

pub(crate) async fn run(args: ParsecArgs) -> anyhow::Result<Exit> {
    match args.command {
        ParsecCommand::Serve(args) => serve::serve(args).await,
        ParsecCommand::Publish(args) => publish::publish(args).await,
        ParsecCommand::Subscribe(args) => subscribe::subscribe(args).await,
        ParsecCommand::History(args) => ask::history(args).await,
        ParsecCommand::Presence(args) => ask::presence(args).await,
        ParsecCommand::Schema(args) => schema::schema(args).await,
    }
}
