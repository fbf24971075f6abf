//! The lines of the bus commands, as JSON and for people.

use std::sync::{Arc, Mutex, PoisonError};

use relay_bus::{Call, CancellationToken, Event, Job, Report};
use relay_state::bus::Key;
use serde_json::{Map, Value, json};

use crate::args::Format;
use crate::output::{Output, counted, escaped, note};

/// Lines from several tasks. If the output cannot be written, `gone` is cancelled, and [`fault`](Self::fault) says why.
#[derive(Clone)]
pub(super) struct Lines {
    out: Arc<Mutex<Output>>,
    fault: Arc<Mutex<Option<anyhow::Error>>>,
    /// Whether, in a table, lines after the first go to stderr.
    aside: bool,
    pub(super) gone: CancellationToken,
}

impl Lines {
    pub(super) fn new(out: Output, aside: bool) -> Self {
        let fault = Arc::default();
        Self { out: Arc::new(Mutex::new(out)), fault, aside, gone: CancellationToken::new() }
    }

    /// The first error of writing, once. Its reader being gone is one too, which is no failure of the program.
    pub(super) fn fault(&self) -> Option<anyhow::Error> {
        self.fault.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn written(&self, result: anyhow::Result<()>) {
        if let Err(error) = result {
            self.fault.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
            self.gone.cancel();
        }
    }

    pub(super) fn in_format(format: Format, aside: bool) -> Self {
        Self::new(Output::in_format(format), aside)
    }

    /// Prints the line with the address; always on stdout.
    pub(super) fn listening(&self, what: &str, address: std::net::SocketAddr) -> anyhow::Result<()> {
        let address = format!("http://{address}");
        let text = format!("relay bus {what} on {address}");
        let mut out = self.out.lock().unwrap_or_else(PoisonError::into_inner);
        out.answer(|| json!({"event": "listening", "address": address}), || text)?;
        // This line is not a message.
        out.lines = 0;
        Ok(())
    }

    /// Prints a line that is not an event, for people only.
    pub(super) fn heading(&self, text: impl Into<String>) {
        let mut out = self.out.lock().unwrap_or_else(PoisonError::into_inner);
        self.written(out.heading(text.into()));
    }

    /// Prints a line, and returns the number of lines so far.
    pub(super) fn print(&self, json: impl FnOnce() -> Value, text: impl FnOnce() -> String) -> u64 {
        let mut out = self.out.lock().unwrap_or_else(PoisonError::into_inner);
        let printed = if self.aside && !out.is_json() {
            out.lines += 1;
            // As a log: names and errors are tame, and a server does not end because nobody reads it.
            crate::log::say(&escaped(&text()));
            Ok(())
        } else {
            // An error may be long, and its end says what happened.
            out.answer(json, text)
        };
        self.written(printed);
        out.lines
    }

    /// Prints an event about messages. With `all` false, events that only the demo shows are left out.
    pub(super) fn event(&self, event: &Event, all: bool) {
        let json = match event {
            Event::Received { channel } if all => json!({"event": "sent", "channel": channel.to_string()}),
            Event::Delivered { channel, subscription } if all => json!({
                "event": "delivered",
                "channel": channel.to_string(),
                "subscription": subscription.to_string(),
            }),
            Event::DispatchFailed { channel, subscription, destination, error, tries, last } => json!({
                "event": "dispatch-failed",
                "channel": channel.to_string(),
                "subscription": subscription.to_string(),
                "destination": destination,
                "error": error,
                "tries": tries,
                "final": last,
            }),
            Event::Dropped { channel, subscription, reason, count } => json!({
                "event": "dropped",
                "channel": channel.to_string(),
                "subscription": subscription.to_string(),
                "reason": reason.as_str(),
                "count": count,
            }),
            Event::Unsent { count } => {
                let (were, are) = if *count == 1 { ("was", "is") } else { ("were", "are") };
                return note(&format!("{} {were} not sent and {are} lost", counted(*count, "message")));
            }
            _ => return,
        };
        self.value(json);
    }

    /// Prints an object whose `event` says what it is.
    pub(super) fn value(&self, json: Value) -> u64 {
        let text = text_of(&json);
        self.print(|| json, || text)
    }

    /// Prints a report of the monitor of `serve`.
    pub(super) fn report(&self, report: &Report) {
        match report {
            Report::Ready { channels, subscriptions } => {
                self.value(json!({"event": "ready", "channels": channels, "subscriptions": subscriptions}));
            }
            Report::Reloaded { channels, subscriptions } => {
                self.value(
                    json!({"event": "reloaded", "channels": channels, "subscriptions": subscriptions}),
                );
            }
            Report::ReloadFailed { error } => {
                self.value(json!({"event": "reload-failed", "error": error}));
            }
            Report::Called { job, error: Some(error) } => {
                let (call, attempt) = (job.call.name(), job.attempt);
                // It is printed once, although it is retried for ever.
                if attempt == 1 {
                    tracing::warn!(about = %job.key, call, error, "a call failed, and is tried again");
                } else {
                    tracing::debug!(about = %job.key, call, attempt, error, "a call failed");
                }
            }
            Report::MissingArguments { key, missing } => {
                tracing::warn!(about = %key, missing = missing.join(" "), "arguments are missing");
            }
            _ => {}
        }
    }
}

/// `event  name=value ..`, for people.
fn text_of(json: &Value) -> String {
    let mut text = String::new();
    for (name, value) in json.as_object().into_iter().flatten() {
        let value = match value {
            Value::String(text) => text.clone(),
            Value::Null => continue,
            other => other.to_string(),
        };
        if name == "event" {
            text = format!("{value:<15}{text}");
        } else {
            text += &format!(" {name}={value}");
        }
    }
    text
}

/// The line of a call, without its result.
pub(super) fn call_line(job: &Job) -> Map<String, Value> {
    let json = match &job.call {
        Call::Bus { bus, spec } => json!({"bus": bus.to_string(), "spec": spec.as_value()}),
        Call::Provision { channel, bus, spec, parameters } => json!({
            "channel": channel.to_string(),
            "bus": bus.as_ref().map(ToString::to_string),
            "parameters": **parameters,
            "arguments": list(&spec.as_value()["arguments"]),
        }),
        Call::Unprovision { channel } => json!({"channel": channel.to_string()}),
        Call::Subscribe { subscription, channel, spec, parameters } => json!({
            "subscription": subscription.to_string(),
            "channel": channel.to_string(),
            "subscriber": spec.subscriber,
            "reply_to": spec.reply_to,
            "parameters": **parameters,
        }),
        Call::Unsubscribe { subscription, channel } => json!({
            "subscription": subscription.to_string(),
            "channel": channel.to_string(),
        }),
        _ => Value::Null,
    };
    let mut line = json.as_object().cloned().unwrap_or_default();
    line.insert("event".into(), job.call.name().into());
    line.insert("attempt".into(), job.attempt.into());
    line
}

fn list(arguments: &Value) -> Value {
    if arguments.is_array() { arguments.clone() } else { json!([]) }
}

/// The line of arguments that are missing.
pub(super) fn missing_line(key: &Key, missing: &[String]) -> Value {
    match key {
        Key::Subscription(subscription) => {
            json!({"event": "missing-arguments", "subscription": subscription.to_string(), "missing": missing})
        }
        Key::Channel(channel) => {
            json!({"event": "missing-arguments", "channel": channel.to_string(), "missing": missing})
        }
        Key::Bus => Value::Null,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_of_a_line_says_what_its_object_says() {
        for (object, text) in [
            (json!({"event": "sent", "channel": "shop/orders"}), "sent            channel=shop/orders"),
            (
                json!({"event": "dispatch-failed", "channel": "a/b", "subscription": "a/c", "tries": 2,
                    "destination": "http://h/", "error": "status 500", "final": true}),
                "dispatch-failed channel=a/b destination=http://h/ error=status 500 final=true subscription=a/c tries=2",
            ),
            (
                json!({"event": "dropped", "channel": "a/b", "subscription": "a/c", "reason": "queue-full",
                    "count": 3}),
                "dropped         channel=a/b count=3 reason=queue-full subscription=a/c",
            ),
            (
                json!({"event": "ready", "channels": 1, "subscriptions": 0}),
                "ready           channels=1 subscriptions=0",
            ),
            (
                json!({"event": "subscribe", "attempt": 1, "parameters": {"k": "v"}, "reply_to": null}),
                "subscribe       attempt=1 parameters={\"k\":\"v\"}",
            ),
        ] {
            assert_eq!(text_of(&object), text);
        }
    }
}
