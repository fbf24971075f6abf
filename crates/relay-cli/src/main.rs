//! `relay`: follow the pods of a Kubernetes cluster through a relay, or run one.

mod args;
mod autoconfig;
mod bus;
mod clock;
mod cursor;
mod demo;
mod durable;
mod exit;
mod follow;
mod log;
mod outage;
mod output;
mod parsec;
mod pod_name;
mod query;
mod rows;
mod serve;
mod service_proxy;
mod shell;
mod sse;
mod store;
mod tally;
mod wait;

use std::process::ExitCode;

use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _};

use crate::args::{Args, Command};
use crate::exit::{Exit, Usage};
use crate::output::Output;

fn main() -> ExitCode {
    log::start();
    let args = match Args::read() {
        Ok(args) => args,
        Err(usage) => return Exit::Failed(usage.into()).report(),
    };
    args.color.apply();
    let command = match args.into_command() {
        Ok(command) => command,
        Err(usage) => return Exit::Failed(usage.into()).report(),
    };
    if let Err(usage) = start_logging(&command) {
        return Exit::Failed(usage.into()).report();
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return Exit::Failed(error.into()).report(),
    };
    let exit = runtime.block_on(run(command));
    // Tasks that are still running have no more output.
    runtime.shutdown_background();
    exit.report()
}

async fn run(command: Command) -> Exit {
    let work = async {
        match command {
            Command::Demo(args) => demo::run(args).await,
            Command::Serve(args) => return serve::run(*args).await,
            Command::Pods(args) => query::pods(args).await,
            Command::Pod(args) => query::pod(args).await,
            Command::Events(args) => Box::pin(query::events(args)).await,
            Command::Session(args) => query::session(args).await,
            Command::Health(args) => query::health(args).await,
            Command::Stream(args) => follow::stream(args).await,
            Command::State(args) => follow::state(args).await,
            Command::Replay(args) => follow::replay(args).await,
            Command::Wait(args) => wait::wait(args).await,
            Command::Autoconfig(args) => Box::pin(autoconfig::run(args)).await,
            Command::Sse(args) => Box::pin(sse::sse(*args)).await,
            Command::Completions(args) => shell::completions(&args),
            Command::Man(args) => shell::man(&args),
            Command::Store(args) => Box::pin(store::run(args)).await,
            Command::Bus(args) => Box::pin(bus::run(args)).await,
            Command::Durable(args) => Box::pin(durable::run(*args)).await,
            Command::Parsec(args) => Box::pin(parsec::run(*args)).await,
        }
        .unwrap_or_else(Exit::from)
    };
    work.await
}

/// Warnings go to stderr, including every error that is retried. `RELAY_LOG` changes what is logged, in the syntax of
/// `tracing_subscriber::EnvFilter`.
fn start_logging(command: &Command) -> Result<(), Usage> {
    let server = match command {
        Command::Serve(_) => true,
        Command::Parsec(args) => args.is_server(),
        Command::Autoconfig(args) => args.is_server(),
        _ => false,
    };
    let default = match command {
        _ if server => "info",
        // The demo breaks its own client's connection on purpose, and its lines say so.
        Command::Demo(_) => "warn,relay_pods=error",
        Command::Autoconfig(args) if args.is_demo() => "warn,relay_autoconfig=error",
        // The stalled subscriber of the demo is cut off at the end, as the introduction says.
        Command::Bus(args) if args.is_demo() => "warn,relay_transport=error",
        _ => "warn",
    };
    let asked = std::env::var("RELAY_LOG").ok().filter(|asked| !asked.is_empty());
    let asked = asked.unwrap_or_else(|| default.into());
    let rule = "write error, warn, info, debug or trace, or TARGET=LEVEL, several with commas between them";
    // A single word that is not a level would be taken for a target, and would silence everything else.
    let is_word = asked.chars().all(|c| c.is_ascii_alphanumeric());
    if is_word && asked.parse::<tracing_subscriber::filter::LevelFilter>().is_err() {
        return Err(Usage(format!("RELAY_LOG={asked:?}: {rule}")));
    }
    // Some commands report their retries in a table, others on stderr, and none reports them twice.
    let in_table = match command {
        Command::State(args) => Some(Output::new(args.print).is_table()),
        Command::Replay(args) => Some(Output::new(args.print).is_table()),
        Command::Wait(_) => Some(false),
        Command::Parsec(args) if !args.is_server() => Some(false),
        _ => None,
    };
    let directives = match in_table {
        Some(_) => format!("{asked},{}=off,{}=off", relay_pods::RETRY_TARGET, relay_parsec::RETRY_TARGET),
        None => asked.clone(),
    };
    let filter = EnvFilter::builder()
        .parse(&directives)
        .map_err(|error| Usage(format!("RELAY_LOG={asked:?}: {error}; {rule}")))?;
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(log::Lines)
        .log_internal_errors(false)
        .with_ansi(output::stderr_in_color())
        .with_target(false)
        .with_filter(filter);
    let voice = (in_table == Some(false)).then_some(outage::Voice::default().with_filter(outage::retries()));
    tracing_subscriber::registry().with(lines).with(voice).init();
    Ok(())
}
