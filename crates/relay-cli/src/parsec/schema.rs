//! `relay parsec schema`.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::{Args as ClapArgs, Subcommand};
use relay_proto::parsec::{Payload, Registry, Validation, Validator, ValidatorMode};
use serde_json::json;
use tokio::io::{AsyncBufReadExt, BufReader};

use super::reach::{Reach, Who, read_registry};
use crate::args::{PrintLines, TakesKubeFlags};
use crate::exit::Exit;
use crate::output::Output;

#[derive(Debug, ClapArgs)]
pub(super) struct SchemaArgs {
    #[command(subcommand)]
    command: SchemaCommand,
}

#[derive(Debug, Subcommand)]
enum SchemaCommand {
    /// Print all patterns
    List(ListArgs),
    /// Print the pattern of a channel; exit code 3 when none matches
    Resolve(ResolveArgs),
    /// Check payloads, one per line of stdin; exit code 1 when any does not fit
    Check(CheckArgs),
}

/// Where the patterns come from
#[derive(Debug, ClapArgs)]
struct Source {
    /// File with patterns: {"patterns":[..]} or a list. Default: the server's
    #[arg(long, value_name = "FILE")]
    schemas: Option<PathBuf>,
    #[command(flatten)]
    reach: Reach,
    #[command(flatten)]
    print: PrintLines,
}

#[derive(Debug, ClapArgs)]
struct ListArgs {
    #[command(flatten)]
    source: Source,
}

#[derive(Debug, ClapArgs)]
struct ResolveArgs {
    /// The channel
    channel: String,
    #[command(flatten)]
    source: Source,
}

#[derive(Debug, ClapArgs)]
struct CheckArgs {
    /// The channel
    channel: String,
    /// The aspect
    aspect: String,
    #[command(flatten)]
    source: Source,
}

impl SchemaArgs {
    pub(super) fn peer(&mut self) -> &mut dyn TakesKubeFlags {
        let source = match &mut self.command {
            SchemaCommand::List(args) => &mut args.source,
            SchemaCommand::Resolve(args) => &mut args.source,
            SchemaCommand::Check(args) => &mut args.source,
        };
        &mut source.reach
    }
}

impl Source {
    async fn registry(&self) -> anyhow::Result<Registry> {
        match &self.schemas {
            Some(path) => read_registry(path),
            None => {
                let body = self.reach.endpoint(&Who::default()).await?.schemas().await?;
                Registry::from_json(&body).context("the server's schemas")
            }
        }
    }
}

pub(super) async fn schema(args: SchemaArgs) -> anyhow::Result<Exit> {
    match args.command {
        SchemaCommand::List(args) => list(args).await,
        SchemaCommand::Resolve(args) => resolve(args).await,
        SchemaCommand::Check(args) => check(args).await,
    }
}

async fn list(args: ListArgs) -> anyhow::Result<Exit> {
    let registry = args.source.registry().await?;
    let mut output = Output::new(args.source.print);
    for pattern in registry.list() {
        let aspects: Vec<_> = pattern.aspects.keys().map(String::as_str).collect();
        output.line(
            || json!(pattern),
            || format!("{:<40} v{:<4} {}", pattern.pattern, pattern.version, aspects.join(", ")),
        )?;
    }
    Ok(Exit::Done)
}

async fn resolve(args: ResolveArgs) -> anyhow::Result<Exit> {
    let registry = args.source.registry().await?;
    let mut output = Output::new(args.source.print);
    let Ok((pattern, bindings)) = registry.resolve(&args.channel) else {
        return Ok(Exit::NotFound(format!("no pattern matches channel {}", args.channel)));
    };
    output.line(
        || json!({"pattern": pattern.pattern, "version": pattern.version, "bindings": bindings}),
        || {
            let bound: Vec<_> = bindings.iter().map(|(name, value)| format!("{name}={value}")).collect();
            format!("{} v{} {}", pattern.pattern, pattern.version, bound.join(" "))
        },
    )?;
    Ok(Exit::Done)
}

async fn check(args: CheckArgs) -> anyhow::Result<Exit> {
    let validator = Validator::new(args.source.registry().await?, ValidatorMode::Strict);
    let mut output = Output::new(args.source.print);
    let (mut number, mut bad) = (0_u64, false);
    let mut lines = BufReader::new(tokio::io::stdin()).split(b'\n');
    while let Some(line) = lines.next_segment().await.context("stdin")? {
        number += 1;
        if line.trim_ascii().is_empty() {
            continue;
        }
        let checked = match std::str::from_utf8(&line) {
            Err(_) => Err(("not-json", "not JSON: not UTF-8".to_owned())),
            Ok(text) => match Payload::parse(text) {
                Err(error) => Err(("not-json", error.to_string())),
                Ok(payload) => match validator.check(&args.channel, &args.aspect, Some((&payload).into())) {
                    Validation::Rejected(rejection) => Err((rejection.code(), rejection.reason())),
                    _ => Ok(()),
                },
            },
        };
        bad |= checked.is_err();
        let (code, reason) =
            checked.as_ref().err().map_or((None, None), |(code, reason)| (Some(code), Some(reason)));
        output.line(
            || json!({"line": number, "ok": checked.is_ok(), "code": code, "reason": reason}),
            || match &checked {
                Ok(()) => format!("line {number}: ok"),
                Err((code, reason)) => format!("line {number}: {code}: {reason}"),
            },
        )?;
    }
    if bad { Err(anyhow::anyhow!("not every payload fits")) } else { Ok(Exit::Done) }
}
