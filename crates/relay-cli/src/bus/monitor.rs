//! `relay bus monitor`: a line, or a command, for each call.

use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use relay_bus::{CancellationToken, Component, HandlerError, Handlers, Job, MonitorHandler, Report};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;

use super::lines::{Lines, call_line, missing_line};
use crate::args::{BusMonitorArgs, ComponentArg, HandlerArg, Until};
use crate::exit::Exit;
use crate::follow::Ending;
use crate::output::Output;

pub(super) async fn run(args: BusMonitorArgs) -> anyhow::Result<Exit> {
    let bus = super::choose(&args.which).await?;
    let ending = Ending::new(Until { max: None, ..args.until });
    let lines = Lines::new(Output::new(args.print), false);
    let stop = CancellationToken::new();
    let component = match args.component {
        ComponentArg::Dispatcher => Component::Dispatcher,
        ComponentArg::Provisioner => Component::Provisioner,
    };
    let writes = args.exec.is_some() && !args.no_status;
    let printed = Arc::new(AtomicU64::new(0));
    let monitor = super::builder(&args.which, component)
        .writes(writes)
        .finalizer(args.which.finalizer && writes)
        .handlers(handlers(&args.handlers))
        .report({
            let (lines, stop, printed, max) = (lines.clone(), stop.clone(), printed.clone(), args.until.max);
            move |report| {
                // Calls that end after the last wanted line are not printed.
                if max.is_some_and(|max| printed.load(Ordering::Acquire) >= max) {
                    return;
                }
                let Some(line) = line(report) else { return };
                let count = lines.value(line);
                printed.store(count, Ordering::Release);
                if max.is_some_and(|max| count >= max) {
                    stop.cancel();
                }
            }
        })
        .handler(Exec { command: args.exec });
    super::follow(&monitor, bus.as_ref(), args.which.concurrency, None, &stop, &lines, ending).await.0
}

fn line(report: &Report) -> Option<Value> {
    Some(match report {
        Report::Synced { channels, subscriptions } => {
            json!({"event": "synced", "channels": channels, "subscriptions": subscriptions})
        }
        Report::Called { job, error } => {
            let mut line = call_line(job);
            line.insert("error".into(), error.clone().into());
            Value::Object(line)
        }
        Report::MissingArguments { key, missing } => missing_line(key, missing),
        Report::ReloadFailed { error } => {
            tracing::warn!(error, "the changed file cannot be used");
            return None;
        }
        _ => return None,
    })
}

/// Runs a command for each call, or nothing.
struct Exec {
    command: Option<String>,
}

fn handlers(named: &[HandlerArg]) -> Handlers {
    let has = |handler| named.contains(&handler);
    Handlers {
        bus: has(HandlerArg::Bus),
        provision: has(HandlerArg::Provision),
        unprovision: has(HandlerArg::Unprovision),
        subscribe: has(HandlerArg::Subscribe),
        unsubscribe: has(HandlerArg::Unsubscribe),
    }
}

impl MonitorHandler for Exec {
    async fn call(&self, job: &Job) -> Result<(), HandlerError> {
        let Some(command) = &self.command else { return Ok(()) };
        execute(command, Value::Object(call_line(job)).to_string() + "\n").await
    }
}

async fn execute(command: &str, line: String) -> Result<(), HandlerError> {
    let failed = |error: std::io::Error| HandlerError::failed(format!("cannot run the command: {error}"));
    let mut child = tokio::process::Command::new("sh")
        .args(["-c", command])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        // Ctrl-C must reach only this program, so that calls in progress can end.
        .process_group(0)
        .spawn()
        .map_err(failed)?;
    if let Some(mut stdin) = child.stdin.take() {
        // A command that does not read its input does not need it.
        let _ = stdin.write_all(line.as_bytes()).await;
    }
    let output = child.wait_with_output().await.map_err(failed)?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let first = said.lines().next().unwrap_or_default().trim();
    if !first.is_empty() {
        return Err(HandlerError::failed(first.chars().take(1024).collect::<String>()));
    }
    Err(HandlerError::failed(match output.status.code() {
        Some(code) => format!("exit status {code}"),
        None => "ended by a signal".to_owned(),
    }))
}
