//! Health, probes and metrics: open to everyone.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use http::{Response, StatusCode};
use relay_proto::pods::{Epoch, EventHash, Position};
use relay_proto::time::Timestamp;
use serde::Serialize;

use super::{Relay, not_ready};
use crate::metrics::Gauge;
use relay_transport::server::{self, Body, Refusal};

#[derive(Serialize)]
struct Health<'a> {
    status: &'static str,
    source: Source,
    store: Store,
    epoch: &'a Epoch,
    head: Position,
    subscribers: u64,
}

#[derive(Serialize)]
struct Source {
    kind: &'static str,
    synced: bool,
    state: &'static str,
    stale_since: Option<Timestamp>,
    /// Why the source is stale, or which part of it is missing.
    reason: Option<Arc<str>>,
    last_event_age_ms: Option<u64>,
}

#[derive(Serialize)]
struct Store {
    kind: &'static str,
    events: u64,
    bytes: u64,
    oldest_hash: Option<EventHash>,
}

/// 200 if the source has synced at least once and the store works.
pub(crate) async fn health(relay: &Relay) -> Result<Response<Body>, Refusal> {
    let log = &relay.log;
    let (status, view) = (log.source(), log.view());
    let bounds = log.events.bounds().await.map_err(|error| relay.unreadable(&error))?;
    let now = log.clock.unix_millis();
    let age = view.last_event.map(|at| u64::try_from(now.saturating_sub(at)).unwrap_or(0));
    let works = log.store_problem().is_none();
    let health = Health {
        status: if status.ready() && status.reason.is_none() && works { "ok" } else { "degraded" },
        source: Source {
            kind: relay.source_kind,
            synced: status.synced,
            state: if status.ready() { "live" } else { "stale" },
            stale_since: status.stale_since,
            reason: status.reason,
            last_event_age_ms: age,
        },
        store: Store {
            kind: log.events.kind(),
            events: bounds.events,
            bytes: bounds.bytes,
            oldest_hash: bounds.oldest_hash,
        },
        epoch: log.events.identity().epoch(),
        head: Position::new(bounds.head_hash, bounds.head),
        subscribers: relay.subscribers.load(Ordering::Acquire),
    };
    let code = if status.synced && works { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    Ok(server::json(code, &health))
}

/// 200: the process answers.
pub(crate) fn livez() -> Response<Body> {
    server::full(StatusCode::OK, "text/plain; charset=utf-8", "ok\n")
}

/// 200 while the log reflects the source. A quiet source is ready.
pub(crate) fn readyz(relay: &Relay) -> Result<Response<Body>, Refusal> {
    let status = relay.log.source();
    let because = |what: &str| {
        let reason = status.reason.as_ref();
        not_ready(&reason.map_or_else(|| what.to_owned(), |reason| format!("{what}: {reason}")))
    };
    if !status.synced {
        return Err(because("the source has not synced yet"));
    }
    if !status.ready() {
        return Err(because("the source is away"));
    }
    if let Some(problem) = relay.log.store_problem() {
        return Err(not_ready(&format!("the store does not work: {problem}")));
    }
    let text = match &status.reason {
        None => "ready\n".to_owned(),
        Some(missing) => format!("ready, but a part is missing: {missing}\n"),
    };
    Ok(server::full(StatusCode::OK, "text/plain; charset=utf-8", text))
}

/// Prometheus' text format.
pub(crate) fn metrics(relay: &Relay) -> Response<Body> {
    let log = &relay.log;
    let (status, bounds) = (log.source(), log.events.log().bounds());
    let gauge = |name, help, value| Gauge { name, help, value };
    let gauges = [
        gauge("relay_log_head_sequence", "Sequence of the newest event.", bounds.head),
        gauge("relay_log_base_sequence", "Sequence before the oldest retained event.", bounds.base),
        gauge("relay_store_events", "Events retained.", bounds.entries()),
        gauge("relay_store_bytes", "Bytes retained.", bounds.bytes),
        gauge(
            "relay_store_works",
            "Whether the store took what it was last given.",
            log.store_problem().is_none().into(),
        ),
        gauge("relay_pods", "Pods in the current list.", log.view().pods.len() as u64),
        gauge("relay_source_synced", "Whether the source has ever synced.", status.synced.into()),
        gauge("relay_source_live", "Whether the source is being followed.", status.ready().into()),
        gauge(
            "relay_source_unreadable",
            "Objects and events of the source that could not be read, since the start.",
            log.unreadable(),
        ),
        gauge("relay_streams", "Open streams.", relay.subscribers.load(Ordering::Acquire)),
        gauge("relay_connections", "Open connections.", relay.connections.open()),
        gauge("relay_sessions", "Session tickets remembered.", relay.sessions.len() as u64),
    ];
    let text = relay.metrics.render(&gauges);
    server::full(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", text)
}
