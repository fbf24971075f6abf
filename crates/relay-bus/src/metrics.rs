//! Counters, and their text for Prometheus.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::events::DropReason;

/// Counts since the start. Labels come from fixed sets.
#[derive(Debug, Default)]
pub struct Metrics {
    received: Mutex<BTreeMap<u16, u64>>,
    pub(crate) dispatched: [AtomicU64; 3],
    pub(crate) replies: [AtomicU64; 3],
    pub(crate) dropped: [AtomicU64; 3],
    pub(crate) queued: AtomicU64,
    pub(crate) channels: AtomicU64,
    pub(crate) subscriptions: AtomicU64,
}

/// The result of an attempt, as an index of the counters.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Ended {
    Ok,
    Failed,
    GivenUp,
}

impl Metrics {
    pub(crate) fn received(&self, status: u16) {
        *self.received.lock().unwrap_or_else(PoisonError::into_inner).entry(status).or_default() += 1;
    }

    pub(crate) fn count(counters: &[AtomicU64; 3], ended: Ended) {
        counters[ended as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn dropped(&self, reason: DropReason) {
        self.dropped[reason as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// The text exposition format, version 0.0.4.
    pub fn render(&self) -> String {
        let mut out = String::new();
        let mut family = |name: &str, kind: &str, help: &str, lines: Vec<(String, u64)>| {
            let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
            for (labels, value) in lines {
                let _ = writeln!(out, "{name}{labels} {value}");
            }
        };
        let received = self.received.lock().unwrap_or_else(PoisonError::into_inner);
        let by_status = received.iter().map(|(status, count)| (format!("{{status=\"{status}\"}}"), *count));
        family("relay_bus_received_total", "counter", "Requests answered, by status.", by_status.collect());
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let results = |counters: &[AtomicU64; 3]| {
            let names = ["ok", "failed", "given_up"].into_iter().zip(counters);
            names.map(|(name, counter)| (format!("{{result=\"{name}\"}}"), load(counter))).collect()
        };
        family(
            "relay_bus_dispatched_total",
            "counter",
            "Tries of calls, by how they ended.",
            results(&self.dispatched),
        );
        family(
            "relay_bus_replies_total",
            "counter",
            "Tries of replies, by how they ended.",
            results(&self.replies),
        );
        let reasons = DropReason::ALL.into_iter().zip(&self.dropped);
        let dropped =
            reasons.map(|(reason, count)| (format!("{{reason=\"{}\"}}", reason.as_str()), load(count)));
        family("relay_bus_dropped_total", "counter", "Messages dropped, by reason.", dropped.collect());
        for (name, help, value) in [
            ("relay_bus_queued", "Messages that wait or are under way.", &self.queued),
            ("relay_bus_channels", "Provisioned channels.", &self.channels),
            ("relay_bus_subscriptions", "Subscriptions that are subscribed.", &self.subscriptions),
        ] {
            family(name, "gauge", help, vec![(String::new(), load(value))]);
        }
        out
    }
}
