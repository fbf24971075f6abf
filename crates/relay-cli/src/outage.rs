//! Reports of an outage for people: one line at each attempt.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use relay_pods::{Outage, RETRY_TARGET, StreamHandle};
use tokio::time::sleep;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::Context;

use crate::exit::{NOT_ONE, advice_on};
use crate::output::{Output, Text, Tone, note};

/// A shorter outage is not reported; only the lines after it show it.
const SHORT: Duration = Duration::from_millis(400);
/// How often a stream is checked.
const EVERY: Duration = Duration::from_millis(100);
/// The time between two lines about one outage.
const PAUSE: Duration = Duration::from_secs(1);

/// Checks a stream for outages. Reports an outage, each attempt, and its end.
pub(crate) struct OutageWatch {
    handle: StreamHandle,
    told: Option<Told>,
}

/// The last report.
struct Told {
    /// The time since which there was no connection.
    since: SystemTime,
    /// The attempt that was reported.
    next_try: SystemTime,
    at: SystemTime,
}

impl OutageWatch {
    pub(crate) fn new(handle: StreamHandle) -> Self {
        Self { handle, told: None }
    }

    /// Ready when there is something to report.
    pub(crate) async fn look(&self) {
        while !self.has_news() {
            sleep(EVERY).await;
        }
    }

    fn has_news(&self) -> bool {
        match (self.handle.outage(), &self.told) {
            (Some(outage), None) => age(outage.since) >= SHORT,
            (Some(outage), Some(told)) => outage.next_try != told.next_try && age(told.at) >= PAUSE,
            (None, Some(_)) => true,
            (None, None) => false,
        }
    }

    /// Prints a line of a table, if there is something to report. Without a table, the [`Voice`] reports it.
    ///
    /// # Errors
    /// When nobody reads the output.
    pub(crate) fn tell(&mut self, out: &mut Output) -> anyhow::Result<()> {
        if !self.has_news() {
            return Ok(());
        }
        let now = SystemTime::now();
        let text = match self.handle.outage() {
            Some(outage) => {
                let never = self.handle.statistics().connections == 0;
                let text = during(&outage, self.told.is_some(), never, now);
                self.told = Some(Told { since: outage.since, next_try: outage.next_try, at: now });
                text
            }
            None => {
                let lasted = self.told.take().map_or(Duration::ZERO, |told| age(told.since));
                Tone::Good.text("connected again").plain(format!(" after {}", rounded(lasted)))
            }
        };
        out.heading(text)
    }
}

/// Reports on standard error what a command waits for, at each attempt, if there is no table for it; the first time
/// also what the user can do.
#[derive(Debug, Default)]
pub(crate) struct Voice(AtomicBool);

/// The events that the [`Voice`] reports: warnings about attempts, but not a proper end of a connection.
pub(crate) fn retries() -> Targets {
    Targets::new().with_target(RETRY_TARGET, Level::WARN).with_target(relay_parsec::RETRY_TARGET, Level::WARN)
}

impl<S: Subscriber> Layer<S> for Voice {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut failed = Failed::default();
        event.record(&mut failed);
        let delay = Duration::try_from_secs_f64(failed.delay).unwrap_or_default();
        // A server of another kind will hardly become a relay. Everything else is said once.
        let is_said = |advice: &&str| *advice == NOT_ONE || !self.0.swap(true, Ordering::Relaxed);
        let advice = advice_on(&failed.cause).filter(is_said);
        let advice = advice.map_or(String::new(), |advice| format!(" ({advice})"));
        note(&format!("{}{advice}; next try {}", failed.cause, in_time(delay)));
    }
}

/// The fields of such a log event: see [`RETRY_TARGET`].
#[derive(Default)]
struct Failed {
    cause: String,
    delay: f64,
}

impl Visit for Failed {
    fn record_debug(&mut self, _: &Field, _: &dyn std::fmt::Debug) {}

    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "cause" {
            value.clone_into(&mut self.cause);
        }
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        if field.name() == "delay" {
            self.delay = value;
        }
    }
}

/// The next attempt comes before the cause, which may be long. If there never was a connection, advice follows.
fn during(outage: &Outage, again: bool, never: bool, now: SystemTime) -> Text {
    let next = in_time(outage.next_try.duration_since(now).unwrap_or_default());
    let what = if again {
        Tone::Bad.text("still no connection").plain(format!(" after {}", rounded(age(outage.since))))
    } else {
        Tone::Bad.text("no connection").plain(format!(" since {}", clock(outage.since)))
    };
    let advice = Some(()).filter(|()| never).and_then(|()| advice_on(&outage.why));
    let advice = advice.map_or(String::new(), |advice| format!(" ({advice})"));
    what.plain(format!("; next try {next}{advice}: {}", outage.why))
}

fn age(since: SystemTime) -> Duration {
    since.elapsed().unwrap_or_default()
}

/// `in 1.6s`, `in 17s`, `now`.
pub(crate) fn in_time(wait: Duration) -> String {
    if wait < Duration::from_millis(50) { "now".into() } else { format!("in {}", rounded(wait)) }
}

/// `0.3s`, `17s`, `3m20s`.
fn rounded(time: Duration) -> String {
    let seconds = time.as_secs_f64();
    match seconds.round() as u64 {
        0..10 => format!("{seconds:.1}s"),
        whole @ 10..120 => format!("{whole}s"),
        whole => format!("{}m{}s", whole / 60, whole % 60),
    }
}

/// The time of day in UTC.
fn clock(time: SystemTime) -> String {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let seconds = since.as_secs() % 86_400;
    format!("{:02}:{:02}:{:02}Z", seconds / 3600, seconds / 60 % 60, seconds % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_rounded_as_people_say_them() {
        for (millis, text) in [
            (0, "now"),
            (49, "now"),
            (50, "in 0.1s"),
            (671, "in 0.7s"),
            (1600, "in 1.6s"),
            (16_817, "in 17s"),
            (119_400, "in 119s"),
            (200_000, "in 3m20s"),
        ] {
            assert_eq!(in_time(Duration::from_millis(millis)), text);
        }
        assert_eq!(clock(SystemTime::UNIX_EPOCH + Duration::from_secs(86_400 + 3_661)), "01:01:01Z");
    }
}
