//! `relay durable`: append-only streams behind URLs.

mod ask;
mod checkpoint;
mod demo;
mod digest;
mod input;
mod notes;
mod out;
mod produce;
mod reach;
mod read;
mod serve;
mod state;

use clap::{Args as ClapArgs, Subcommand};

use crate::args::TakesKubeFlags;
use crate::exit::Exit;

/// Durable streams: append, read and follow, produce exactly once
///
/// STREAM is an absolute http or https URL, or a path below --url.
///
/// Write a log, exactly once, across restarts and lost answers:
///   tail -n +1 -F app.log | relay durable produce URL --state app.state
/// Follow it:
///   relay durable tail URL | jq .level
#[derive(Debug, ClapArgs)]
#[command(verbatim_doc_comment)]
pub(crate) struct DurableArgs {
    #[command(subcommand)]
    command: DurableCommand,
}

#[derive(Debug, Subcommand)]
enum DurableCommand {
    /// Make a stream; the same again is fine
    Create(ask::CreateArgs),
    /// Append one message: --data, --file, or stdin to its end
    Append(ask::AppendArgs),
    /// Close a stream, with a last message if one is given
    Close(ask::CloseArgs),
    /// Show what is known of a stream
    Head(ask::HeadArgs),
    /// Delete a stream
    Delete(ask::DeleteArgs),
    /// Make a stream that begins as another one
    Fork(ask::ForkArgs),
    /// Print everything there is, then end
    Read(read::ReadArgs),
    /// Print what comes, until the stream is closed
    Tail(read::TailArgs),
    /// Append the messages of the input, each once and in order
    Produce(produce::ProduceArgs),
    /// Run a server
    Serve(serve::ServeArgs),
    /// See it work: a server, a producer and a reader, through cuts and a lost acknowledgement
    Demo(demo::DemoArgs),
}

impl DurableArgs {
    /// The server of a command that uses one.
    pub(crate) fn peer(&mut self) -> Option<&mut dyn TakesKubeFlags> {
        Some(match &mut self.command {
            DurableCommand::Create(args) => &mut args.reach,
            DurableCommand::Append(args) => &mut args.reach,
            DurableCommand::Close(args) => &mut args.reach,
            DurableCommand::Head(args) => &mut args.reach,
            DurableCommand::Delete(args) => &mut args.reach,
            DurableCommand::Fork(args) => &mut args.reach,
            DurableCommand::Read(args) => &mut args.reading.reach,
            DurableCommand::Tail(args) => &mut args.reading.reach,
            DurableCommand::Produce(args) => &mut args.reach,
            DurableCommand::Serve(_) | DurableCommand::Demo(_) => return None,
        })
    }
}

pub(crate) async fn run(args: DurableArgs) -> anyhow::Result<Exit> {
    match args.command {
        DurableCommand::Create(args) => ask::create(args).await,
        DurableCommand::Append(args) => ask::append(args).await,
        DurableCommand::Close(args) => ask::close(args).await,
        DurableCommand::Head(args) => ask::head(args).await,
        DurableCommand::Delete(args) => ask::delete(args).await,
        DurableCommand::Fork(args) => ask::fork(args).await,
        DurableCommand::Read(args) => read::read(args).await,
        DurableCommand::Tail(args) => read::tail(args).await,
        DurableCommand::Produce(args) => produce::produce(args).await,
        DurableCommand::Serve(args) => serve::serve(args).await,
        DurableCommand::Demo(args) => demo::demo(args).await,
    }
}
