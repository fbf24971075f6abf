//! Counters, and their text for Prometheus.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// Counts since the start. Labels come from fixed sets, except the names of consumers, whose number is limited.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    pub(crate) streams_opened: AtomicU64,
    pub(crate) stream_messages: AtomicU64,
    pub(crate) stream_bytes: AtomicU64,
    pub(crate) sessions_minted: AtomicU64,
    pub(crate) token_file_errors: AtomicU64,
    requests: Mutex<BTreeMap<(&'static str, u16), u64>>,
    gaps: Mutex<BTreeMap<String, u64>>,
    closings: Mutex<BTreeMap<String, u64>>,
    consumers: Mutex<BTreeMap<String, u64>>,
}

/// A value that is read when the text is made.
pub(crate) struct Gauge {
    pub(crate) name: &'static str,
    pub(crate) help: &'static str,
    pub(crate) value: u64,
}

impl Metrics {
    /// Limit of consumers with their own label; the rest count as `other`.
    const MAX_CONSUMERS: usize = 100;

    pub(crate) fn request(&self, route: &'static str, status: u16) {
        *lock(&self.requests).entry((route, status)).or_default() += 1;
    }

    pub(crate) fn gap(&self, reason: &str) {
        *lock(&self.gaps).entry(reason.to_owned()).or_default() += 1;
    }

    pub(crate) fn closing(&self, reason: &str) {
        *lock(&self.closings).entry(reason.to_owned()).or_default() += 1;
    }

    /// Counts an open stream of a consumer; returns the label to close it with.
    pub(crate) fn consumer_opened(&self, client_id: Option<&str>) -> String {
        let mut consumers = lock(&self.consumers);
        let name = client_id.unwrap_or("none");
        let known = consumers.contains_key(name) || consumers.len() < Self::MAX_CONSUMERS;
        let name = if known { name } else { "other" }.to_owned();
        *consumers.entry(name.clone()).or_default() += 1;
        name
    }

    pub(crate) fn consumer_closed(&self, name: &str) {
        let mut consumers = lock(&self.consumers);
        if let Some(open) = consumers.get_mut(name) {
            *open -= 1;
            if *open == 0 {
                consumers.remove(name);
            }
        }
    }

    /// The text exposition format, version 0.0.4.
    pub(crate) fn render(&self, gauges: &[Gauge]) -> String {
        let mut out = String::new();
        for Gauge { name, help, value } in gauges {
            family(&mut out, name, "gauge", help);
            line(&mut out, name, &[], *value);
        }
        let counters = [
            ("relay_streams_opened_total", "Streams opened.", &self.streams_opened),
            ("relay_stream_messages_total", "Pod events sent on streams.", &self.stream_messages),
            ("relay_stream_bytes_total", "Bytes handed to streams.", &self.stream_bytes),
            ("relay_sessions_minted_total", "Session tickets made.", &self.sessions_minted),
            (
                "relay_tokens_file_errors_total",
                "Failed readings of the tokens file.",
                &self.token_file_errors,
            ),
        ];
        for (name, help, value) in counters {
            family(&mut out, name, "counter", help);
            line(&mut out, name, &[], value.load(Ordering::Relaxed));
        }
        family(&mut out, "relay_http_requests_total", "counter", "Requests answered, by route and status.");
        for ((route, status), count) in &*lock(&self.requests) {
            let labels = [("route", *route), ("status", &status.to_string())];
            line(&mut out, "relay_http_requests_total", &labels, *count);
        }
        let by_name = [
            ("relay_gaps_total", "counter", "Gaps sent, by reason.", "reason", &self.gaps),
            (
                "relay_closings_total",
                "counter",
                "Streams closed by the relay, by reason.",
                "reason",
                &self.closings,
            ),
            ("relay_consumer_streams", "gauge", "Open streams, by client_id.", "client_id", &self.consumers),
        ];
        for (name, kind, help, label, values) in by_name {
            family(&mut out, name, kind, help);
            for (value, count) in &*lock(values) {
                line(&mut out, name, &[(label, value)], *count);
            }
        }
        out
    }
}

fn family(out: &mut String, name: &str, kind: &str, help: &str) {
    let _ = write!(out, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
}

fn line(out: &mut String, name: &str, labels: &[(&str, &str)], value: u64) {
    out.push_str(name);
    for (at, (label, text)) in labels.iter().enumerate() {
        let text = text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
        let _ = write!(out, "{}{label}=\"{text}\"", if at == 0 { '{' } else { ',' });
    }
    let _ = writeln!(out, "{} {value}", if labels.is_empty() { "" } else { "}" });
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn consumers_are_bounded_and_escaped() {
        let metrics = Metrics::default();
        let first = metrics.consumer_opened(Some("a\"b\\c"));
        assert_eq!(metrics.consumer_opened(Some("a\"b\\c")), first);
        for at in 1..Metrics::MAX_CONSUMERS {
            metrics.consumer_opened(Some(&format!("c{at}")));
        }
        assert_eq!(metrics.consumer_opened(Some("one too many")), "other");
        let text = metrics.render(&[]);
        assert!(text.contains("relay_consumer_streams{client_id=\"a\\\"b\\\\c\"} 2\n"), "{text}");
        assert!(text.contains("relay_consumer_streams{client_id=\"other\"} 1\n"), "{text}");
        metrics.consumer_closed(&first);
        metrics.consumer_closed(&first);
        assert!(!metrics.render(&[]).contains("a\\\"b"));
    }
}
