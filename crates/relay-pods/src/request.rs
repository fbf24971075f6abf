//! Options of calls and streams, and their requests.

use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, HeaderName, HeaderValue};
use http::{Method, Request};
use http_body_util::Full;
use relay_proto::error::chain;
use relay_proto::pods::{Endpoints, EventHash, EventType, Filter};
use relay_proto::setters;
use relay_proto::time::Timestamp;
use relay_transport::{BaseUrl, Secret};

use crate::error::Error;

/// Header of the relay's own token, for when `Authorization` belongs to a proxy in front of it.
pub(crate) const RELAY_TOKEN: HeaderName = HeaderName::from_static("x-relay-token");

/// The order of a history page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Order {
    /// Oldest events first.
    #[default]
    Oldest,
    /// Newest events first.
    Newest,
}

/// The requested part of the history.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct EventsQuery {
    /// Events after this position. Default: from the oldest retained one.
    pub since: Option<EventHash>,
    /// Events that the relay took at this time or later; [`Self::since`] takes precedence. Default: none. When
    /// events of that time may be gone, the relay refuses (`cursor-expired`).
    pub since_time: Option<Timestamp>,
    /// Events before this position. Default: up to the newest one.
    pub before: Option<EventHash>,
    /// Default: oldest first.
    pub order: Order,
    /// Events of a page, 1 to 1000. Default: the relay's, 100.
    pub limit: Option<u32>,
    /// Types to see. Default: all.
    pub types: Vec<EventType>,
    /// Pods to see. Default: all.
    pub filter: Filter,
}

/// Options of a stream.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct StreamOptions {
    /// Pods to see. Default: all.
    pub filter: Filter,
    /// Events after this position: the last persisted acknowledgement. Default: none, everything retained is replayed.
    pub since: Option<EventHash>,
    /// Without a cursor: begin with the first event that the relay stored at this time or later. When events of that
    /// time may be gone, a gap comes first. Takes precedence over `start_latest`. Default: none.
    pub since_time: Option<Timestamp>,
    /// Without a cursor: begin with events from now on, instead of replaying what is retained. Default: false.
    pub start_latest: bool,
    /// Backfill events are applied to the snapshot's pods, which then show history. Default: false.
    pub apply_backfill_to_current_state_cache: bool,
    /// Bookmarks that move the acknowledgement are yielded as Live snapshots without an event. Default: false.
    pub yield_bookmarks: bool,
    /// Events that are available when the consumer polls are handed over as one snapshot, which lists them all
    /// ([`Snapshot::events`](crate::Snapshot::events)) and shows the net change: for consumers that want the pods
    /// rather than each event. Never across a list, a gap, a drop or the end of the replay. Snapshot streams only.
    /// Default: false.
    pub conflate: bool,
    /// The maximum number of events in one conflated snapshot. It holds them all: the pod of each as it was sent,
    /// usually 1 to 4 KiB. `read_ahead_bytes` is a second limit. At least 1. Default 1,024.
    pub conflate_most: usize,
    /// Ceiling of the first delay before a reconnect. Default 0.8 s.
    pub reconnect_base: Duration,
    /// Ceiling of every delay. Default 30 s.
    pub reconnect_cap: Duration,
    /// Bytes of one event; a larger one is reported and skipped. Default 1 MiB.
    pub max_event_bytes: usize,
    /// Bytes that are read ahead of the consumer while a list is fetched, and that are conflated at once. Default 8
    /// MiB.
    pub read_ahead_bytes: usize,
}

impl Default for StreamOptions {
    fn default() -> Self {
        Self {
            filter: Filter::default(),
            since: None,
            since_time: None,
            start_latest: false,
            apply_backfill_to_current_state_cache: false,
            yield_bookmarks: false,
            conflate: false,
            conflate_most: 1024,
            reconnect_base: Duration::from_millis(800),
            reconnect_cap: Duration::from_secs(30),
            max_event_bytes: 1 << 20,
            read_ahead_bytes: 8 << 20,
        }
    }
}

setters! { EventsQuery {
    /// Sets the position after which events are wanted.
    since: Option<EventHash>,
    /// Sets the time from which on events are wanted.
    since_time: Option<Timestamp>,
    /// Sets the position before which events are wanted.
    before: Option<EventHash>,
    /// Sets the order.
    order: Order,
    /// Sets the size of a page.
    limit: Option<u32>,
    /// Sets the types.
    types: Vec<EventType>,
    /// Sets the filter.
    filter: Filter,
} }

impl EventsQuery {
    /// The defaults.
    pub fn new() -> Self {
        Self::default()
    }
}

setters! { StreamOptions {
    /// Sets the filter.
    filter: Filter,
    /// Sets the position to resume from.
    since: Option<EventHash>,
    /// Sets the time to begin with.
    since_time: Option<Timestamp>,
    /// Sets whether a stream without a cursor begins with new events.
    start_latest: bool,
    /// Sets whether Backfill events are applied to the pods.
    apply_backfill_to_current_state_cache: bool,
    /// Sets whether bookmarks are yielded.
    yield_bookmarks: bool,
    /// Sets whether available events are handed over together.
    conflate: bool,
    /// Sets the maximum number of conflated events.
    conflate_most: usize,
    /// Sets the first delay's ceiling.
    reconnect_base: Duration,
    /// Sets every delay's ceiling.
    reconnect_cap: Duration,
    /// Sets the largest event.
    max_event_bytes: usize,
    /// Sets the read-ahead buffer.
    read_ahead_bytes: usize,
} }

impl StreamOptions {
    /// The defaults.
    pub fn new() -> Self {
        Self::default()
    }
}

/// Builds requests: URLs from the base URL and the endpoints, and credential headers.
#[derive(Debug, Clone)]
pub(crate) struct Requests {
    pub(crate) base: BaseUrl,
    pub(crate) endpoints: Endpoints,
    pub(crate) client_id: Option<String>,
}

/// A proxy in front of the relay, and its credential, sent in `Authorization`. If there is one, the relay's own
/// token is sent in `X-Relay-Token`.
#[derive(Debug, Clone)]
pub(crate) enum Outer<S> {
    /// No proxy: `Authorization` is for the relay.
    None,
    /// A proxy that needs no credential, for example because of our certificate.
    Known,
    /// A proxy that takes a bearer token.
    Bearer(S),
    /// A proxy that takes another scheme: this is the whole header.
    Header(S),
}

/// The credentials of one request.
#[derive(Debug, Clone)]
pub(crate) struct Credentials {
    /// The relay's own token.
    pub(crate) token: Option<Secret>,
    /// The credential for a proxy in front of the relay.
    pub(crate) outer: Outer<Secret>,
}

type Query<'a> = Vec<(&'a str, &'a str)>;

impl Requests {
    pub(crate) fn pods(&self, filter: &Filter, at_least: Option<&EventHash>) -> Request<Full<Bytes>> {
        let labels = labels(filter);
        let mut query = self.filter(filter, &labels);
        query.extend(at_least.map(|hash| (self.endpoints.at_least.as_str(), hash.as_str())));
        let mut request = self.get(&self.endpoints.pods, &query);
        let accept = HeaderValue::from_static("application/x-ndjson, application/json;q=0.9");
        request.headers_mut().insert(ACCEPT, accept);
        request
    }

    pub(crate) fn pod(&self, namespace: &str, name: &str, suffix: &str) -> String {
        format!("{}/{}/{}{suffix}", self.endpoints.pods, BaseUrl::segment(namespace), BaseUrl::segment(name))
    }

    pub(crate) fn events(&self, path: &str, asked: &EventsQuery) -> Request<Full<Bytes>> {
        let labels = labels(&asked.filter);
        let mut query = self.filter(&asked.filter, &labels);
        query.extend(asked.since.as_ref().map(|hash| (self.endpoints.since_hash.as_str(), hash.as_str())));
        let time = asked.since_time.as_ref().filter(|_| asked.since.is_none());
        query.extend(time.map(|time| ("since_time", time.as_str())));
        query.extend(asked.before.as_ref().map(|hash| (self.endpoints.before_hash.as_str(), hash.as_str())));
        if asked.order == Order::Newest {
            query.push(("order", "newest"));
        }
        let limit = asked.limit.map(|limit| limit.to_string());
        query.extend(limit.as_deref().map(|limit| ("limit", limit)));
        query.extend(asked.types.iter().map(|kind| ("type", kind.as_str())));
        self.get(path, &query)
    }

    pub(crate) fn stream(
        &self,
        options: &StreamOptions,
        resume: Option<&EventHash>,
        ticket: Option<&Secret>,
    ) -> Request<Full<Bytes>> {
        let labels = labels(&options.filter);
        let mut query = self.filter(&options.filter, &labels);
        query.extend(self.client_id.as_deref().map(|id| (self.endpoints.client_id.as_str(), id)));
        match (resume, &options.since_time) {
            (Some(hash), _) => query.push((self.endpoints.since_hash.as_str(), hash.as_str())),
            (None, Some(time)) => query.push(("since_time", time.as_str())),
            (None, None) if options.start_latest => query.push(("start", "latest")),
            (None, None) => {}
        }
        query.extend(ticket.map(|ticket| (self.endpoints.session_id.as_str(), ticket.expose())));
        self.get(&self.endpoints.stream, &query)
    }

    pub(crate) fn session(&self) -> Request<Full<Bytes>> {
        let query: Query<'_> =
            self.client_id.as_deref().map(|id| (self.endpoints.client_id.as_str(), id)).into_iter().collect();
        let mut request = self.get(&self.endpoints.session, &query);
        *request.method_mut() = Method::POST;
        request
    }

    pub(crate) fn get(&self, path: &str, query: &[(&str, &str)]) -> Request<Full<Bytes>> {
        let mut request = Request::new(Full::default());
        // The base URL was checked and everything joined to it is percent-encoded.
        *request.uri_mut() = self.base.join(path, query).parse().expect("a joined URL is a URI");
        request
    }

    fn filter<'a>(&'a self, filter: &'a Filter, labels: &'a [String]) -> Query<'a> {
        let namespaces = filter.namespaces().map(|namespace| (self.endpoints.namespace.as_str(), namespace));
        namespaces.chain(labels.iter().map(|label| (self.endpoints.label.as_str(), label.as_str()))).collect()
    }
}

impl Credentials {
    /// Puts the credentials into a request. Behind a proxy, `Authorization` is for the proxy.
    pub(crate) fn apply(&self, request: &mut Request<Full<Bytes>>) -> Result<(), Error> {
        let headers = request.headers_mut();
        match (&self.token, &self.outer) {
            (Some(token), Outer::None) => {
                headers.insert(AUTHORIZATION, sendable(token.bearer())?);
            }
            (Some(token), _) => {
                headers.insert(RELAY_TOKEN, sendable(token.header())?);
            }
            (None, _) => {}
        }
        match &self.outer {
            Outer::None | Outer::Known => {}
            Outer::Bearer(token) => {
                headers.insert(AUTHORIZATION, sendable(token.bearer())?);
            }
            Outer::Header(header) => {
                headers.insert(AUTHORIZATION, sendable(header.header())?);
            }
        }
        Ok(())
    }
}

fn sendable(value: Result<HeaderValue, relay_transport::Error>) -> Result<HeaderValue, Error> {
    value.map_err(|error| Error::usage(chain(&error).to_string()))
}

fn labels(filter: &Filter) -> Vec<String> {
    filter.labels().requirements().map(|label| label.to_string()).collect()
}

/// The URL of a request without its query, which may hold a ticket.
pub(crate) fn display_url(request: &Request<Full<Bytes>>) -> String {
    let uri = request.uri();
    let host = uri.authority().map_or("", |a| a.as_str().rsplit('@').next().unwrap_or(""));
    format!("{}://{host}{}", uri.scheme_str().unwrap_or("http"), uri.path())
}
