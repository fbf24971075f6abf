//! `relay bus monitor`: a line, or a command, for each call.

use std::pin::pin;
use std::process::Stdio;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use relay_bus::{CancellationToken, Component, HandlerError, Handlers, Job, MonitorHandler, Report};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::ChildStderr;

use super::lines::{Lines, call_line, missing_line};
use crate::args::{BusMonitorArgs, ComponentArg, HandlerArg, Until};
use crate::exit::{Exit, NeverConnected};
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
    let away = Arc::new(Mutex::new(Some("no answer yet".to_owned())));
    let monitor = super::builder(&args.which, component)
        .writes(writes)
        .finalizer(args.which.finalizer && writes)
        .handlers(handlers(&args.handlers))
        .report({
            let (lines, stop, printed, max) = (lines.clone(), stop.clone(), printed.clone(), args.until.max);
            let away = away.clone();
            move |report| {
                note_away(report, &mut away.lock().unwrap_or_else(PoisonError::into_inner));
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
    let concurrency = args.which.concurrency;
    let exit = super::follow(&monitor, bus.as_ref(), concurrency, None, &stop, &lines, ending).await.0?;
    let why = away.lock().unwrap_or_else(PoisonError::into_inner).take();
    match (exit, why) {
        // A file needs no connection.
        (Exit::Done, Some(why)) if args.which.file.is_none() => Err(NeverConnected(why).into()),
        (exit, _) => Ok(exit),
    }
}

/// Why the objects have not come; `None` once they have.
fn note_away(report: &Report, away: &mut Option<String>) {
    match (report, away) {
        (Report::Synced { .. }, away) => *away = None,
        (Report::Interrupted { reason, .. }, Some(why)) => why.clone_from(reason),
        _ => {}
    }
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

/// The longest time for the rest of stderr once the command has ended: what it left running in the background may keep
/// it open for as long as that runs.
const GRACE: Duration = Duration::from_millis(200);

/// The most of stderr that is kept. The rest is read and dropped, so that the command does not wait for a reader.
const MOST_SAID: usize = 16 << 10;

/// Runs the command until its shell ends.
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
    let (stdin, stderr) = (child.stdin.take(), child.stderr.take());
    let mut said = Vec::new();
    let status = {
        let mut pipes = pin!(async {
            tokio::join!(
                async {
                    if let Some(mut stdin) = stdin {
                        // A command that does not read its input does not need it.
                        let _ = stdin.write_all(line.as_bytes()).await;
                    }
                },
                listen(stderr, &mut said)
            )
        });
        let status = tokio::select! {
            status = child.wait() => Some(status),
            _ = &mut pipes => None,
        };
        match status {
            Some(status) => {
                let status = status.map_err(failed)?;
                if status.success() {
                    return Ok(());
                }
                let _ = tokio::time::timeout(GRACE, pipes).await;
                status
            }
            None => child.wait().await.map_err(failed)?,
        }
    };
    if status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&said);
    let first = said.lines().next().unwrap_or_default().trim();
    if !first.is_empty() {
        return Err(HandlerError::failed(first.chars().take(1024).collect::<String>()));
    }
    Err(HandlerError::failed(match status.code() {
        Some(code) => format!("exit status {code}"),
        None => "ended by a signal".to_owned(),
    }))
}

/// Reads to the end, and keeps the start.
async fn listen(stderr: Option<ChildStderr>, said: &mut Vec<u8>) {
    let Some(mut stderr) = stderr else { return };
    let mut buffer = [0; 4096];
    while let Ok(read @ 1..) = stderr.read(&mut buffer).await {
        said.extend_from_slice(&buffer[..read.min(MOST_SAID - said.len())]);
    }
}
