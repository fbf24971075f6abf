//! The HTTP service: routes, parameters, responses.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::request::Parts;
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use relay_proto::parsec::{
    ChannelList, ChannelName, Envelope, Health, MAX_ENVELOPE_BYTES, PresenceEntry, PresenceList, Validation,
    problems,
};
use relay_proto::problem::{Problem, ProblemCode};
use relay_proto::time::Timestamp;
use relay_transport::server::{
    self, Body, Cut, HttpServer, Query, Refusal, Service, Settings, TokensError, Unread, allows, check_head,
    credential, read_body, refuse,
};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::access::{ChannelRights, Principal, TokenWatch};
use crate::config::ServerConfig;
use crate::history::{self, Asked};
use crate::hub::Hub;
use crate::stream::{Seat, Start, Subscriber};

/// Bytes of a request body that are read. It exceeds the limit of an envelope, so that the refusal can name the size.
const MAX_BODY: usize = 1 << 20;
/// Bytes of `conn_info`.
const MAX_CONN_INFO: usize = 1 << 10;

/// A listening server. It serves once [`run`](Self::run) is called.
pub struct ParsecServer {
    http: HttpServer,
    hub: Arc<Hub>,
}

/// Why a server cannot begin.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServerError {
    /// The port cannot be opened.
    #[error("cannot listen on {address}")]
    Bind {
        /// Where.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The tokens file cannot be used.
    #[error(transparent)]
    Tokens(#[from] TokensError),
    /// The logs cannot be opened.
    #[error("the channels cannot be opened")]
    Logs(#[source] relay_log::Error),
    /// A setting is out of its range.
    #[error("{0}")]
    Config(String),
}

impl ParsecServer {
    /// Opens the logs and the port; port 0 lets the system choose one.
    ///
    /// # Errors
    /// [`ServerError`].
    pub async fn bind(address: SocketAddr, config: ServerConfig) -> Result<Self, ServerError> {
        if config.heartbeat.is_zero() || config.retain_events == 0 || config.max_channels == 0 {
            let rule = "heartbeat, retain_events and max_channels are above 0";
            return Err(ServerError::Config(rule.into()));
        }
        let tokens = match &config.tokens_file {
            Some(path) => Some(Arc::new(TokenWatch::open(path)?)),
            None => None,
        };
        // Connections for every stream, in addition to those that a server usually has.
        let settings = Settings::default();
        let most = config.max_streams.saturating_add(settings.max_connections);
        let settings = settings.max_connections(most);
        let hub = Hub::new(config, tokens).await.map_err(ServerError::Logs)?;
        let http = HttpServer::bind(address, settings)
            .await
            .map_err(|source| ServerError::Bind { address, source })?;
        Ok(Self { http, hub })
    }

    /// Where it listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.http.local_addr()
    }

    /// Serves until `stop` is cancelled; then sends `closing` on every stream, lets responses in progress end, and
    /// closes the logs.
    pub async fn run(self, stop: CancellationToken) {
        let mut upkeep = JoinSet::new();
        let hub = self.hub.clone();
        upkeep.spawn(async move {
            let mut tick = tokio::time::interval(Duration::from_secs(1));
            tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            loop {
                tick.tick().await;
                hub.clean().await;
            }
        });
        if let Some(tokens) = &self.hub.tokens {
            upkeep.spawn(tokens.clone().keep_fresh(|| {}));
        }
        let told = async {
            stop.cancelled().await;
            self.hub.stopping.cancel();
        };
        self.http.run(self.hub.clone(), told).await;
        upkeep.shutdown().await;
        self.hub.close().await;
    }
}

impl std::fmt::Debug for ParsecServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ParsecServer").field("address", &self.local_addr()).finish_non_exhaustive()
    }
}

/// A path that is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Route {
    Health,
    Stream,
    Publish,
    History,
    Presence,
    Channels,
    Schemas,
}

impl Route {
    fn parse(path: &str) -> Option<Self> {
        Some(match path {
            "/health" => Self::Health,
            "/parsec/stream" => Self::Stream,
            "/parsec/publish" => Self::Publish,
            "/parsec/history" => Self::History,
            "/parsec/presence" => Self::Presence,
            "/parsec/channels" => Self::Channels,
            "/parsec/schemas" => Self::Schemas,
            _ => return None,
        })
    }

    fn methods(self) -> &'static str {
        match self {
            Self::Stream => "GET",
            Self::Publish => "POST",
            _ => "GET, HEAD",
        }
    }
}

impl Service for Hub {
    async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Result<Response<Body>, Cut> {
        let (head, body) = request.into_parts();
        let route = Route::parse(head.uri.path());
        let answer = self.route(route, &head, body).await;
        let response = match answer {
            Ok(response) => response,
            Err(Unread::Refused(refusal)) => server::problem(&refusal),
            Err(Unread::Gone(cut)) => return Err(cut),
        };
        // The query may contain secrets and is never logged.
        tracing::debug!(method = %head.method, route = ?route, status = response.status().as_u16(), "answered");
        Ok(response)
    }
}

impl Hub {
    async fn route(
        self: &Arc<Self>,
        route: Option<Route>,
        head: &Parts,
        body: Incoming,
    ) -> Result<Response<Body>, Unread> {
        let refused = Unread::Refused;
        check_head(head).map_err(refused)?;
        // A client without credentials must not learn which paths and methods exist.
        let principal = match route {
            Some(Route::Health) => Principal::anyone(ChannelRights::all()),
            _ => self.authenticate(head).map_err(refused)?,
        };
        let Some(route) = route else { return Err(refused(not_found("the server serves no such path"))) };
        if !allows(route.methods(), &head.method) {
            return Ok(server::method_not_allowed(route.methods()));
        }
        let query = Query::parse(head.uri.query());
        match route {
            Route::Health => Ok(self.health()),
            Route::Publish => self.publish(&principal, &query, body).await,
            Route::Stream => self.stream(principal, head, &query).await.map_err(refused),
            Route::History => self.history(&principal, &query).await.map_err(refused),
            Route::Presence => self.presence(&principal, &query).map_err(refused),
            Route::Channels => {
                let channels = self.infos(|channel| principal.rights.may_read(channel));
                Ok(server::json(StatusCode::OK, &ChannelList::new(channels)))
            }
            Route::Schemas => self.schemas(&query).map_err(refused),
        }
    }

    fn authenticate(&self, head: &Parts) -> Result<Principal, Refusal> {
        let Some(tokens) = &self.tokens else { return Ok(Principal::anyone(ChannelRights::all())) };
        let refuse = |detail: &str| Box::new(Problem::new(ProblemCode::UNAUTHENTICATED, detail));
        let token = credential(&head.headers).ok_or_else(|| refuse("the request has no credential"))?;
        tokens.current().find(token).ok_or_else(|| refuse("the credential is not known"))
    }

    fn health(&self) -> Response<Body> {
        let health = Health {
            status: "ok".into(),
            channels: self.channel_count(),
            subscribers: self.streams.load(Ordering::Acquire),
            retained_bytes: self.retained_bytes(),
        };
        server::json(StatusCode::OK, &health)
    }

    async fn publish(
        self: &Arc<Self>,
        principal: &Principal,
        query: &Query,
        body: Incoming,
    ) -> Result<Response<Body>, Unread> {
        let refused = Unread::Refused;
        let name = channel_name(query).map_err(refused)?;
        principal.rights.check_write(name.as_str()).map_err(refused)?;
        let body = read_body(body, MAX_BODY).await?;
        let (envelope, text) = self.check_envelope(&name, body).map_err(refused)?;
        loop {
            let channel = self.get_or_create(name.as_str()).await.map_err(refused)?;
            let mut writer = channel.writer().await;
            if writer.gone {
                continue;
            }
            let published = channel.publish(&mut writer, &envelope, text).await.map_err(refused)?;
            drop(writer);
            self.account(&channel).await;
            return Ok(server::json(StatusCode::OK, &published));
        }
    }

    /// An envelope that may be published, and its text.
    fn check_envelope(&self, name: &ChannelName, body: Bytes) -> Result<(Envelope, Bytes), Refusal> {
        if body.len() > MAX_ENVELOPE_BYTES {
            let detail = format!("the envelope has {} bytes; {MAX_ENVELOPE_BYTES} are allowed", body.len());
            return Err(Box::new(Problem::new(problems::ENVELOPE_TOO_LARGE, detail)));
        }
        let bad = |detail: String| Box::new(Problem::new(problems::BAD_ENVELOPE, detail));
        let text = body.slice_ref(body.trim_ascii());
        let envelope = Envelope::decode(text.clone()).map_err(|error| bad(error.to_string()))?;
        envelope.validate().map_err(|error| bad(error.to_string()))?;
        if envelope.channel() != name.as_str() {
            return Err(bad(format!("channel in the envelope is not {name}, as in the query")));
        }
        match self.validator.check(name.as_str(), envelope.aspect(), envelope.payload()) {
            Validation::Rejected(rejection) => {
                let code = match rejection.code() {
                    "unsupported-aspect" => problems::UNSUPPORTED_ASPECT,
                    _ => problems::PAYLOAD_INVALID,
                };
                Err(Box::new(Problem::new(code, rejection.reason())))
            }
            Validation::Warned(why) => {
                tracing::warn!(
                    channel = name.as_str(),
                    reason = why.reason(),
                    "taken although it does not fit"
                );
                Ok((envelope, text))
            }
            _ => Ok((envelope, text)),
        }
    }

    async fn stream(
        self: &Arc<Self>,
        principal: Principal,
        head: &Parts,
        query: &Query,
    ) -> Result<Response<Body>, Refusal> {
        let name = channel_name(query)?;
        principal.rights.check_read(name.as_str())?;
        let start = start(head, query)?;
        let conn_info = query.optional("conn_info")?;
        if let Some(info) = conn_info
            && (info.len() > MAX_CONN_INFO || serde_json::from_str::<serde_json::Value>(info).is_err())
        {
            return Err(refuse("conn_info: is JSON of at most 1024 bytes"));
        }
        let client_id = query.optional("client_id")?;
        if client_id.is_some_and(|id| id.len() > 128 || !id.bytes().all(|byte| byte.is_ascii_graphic())) {
            return Err(refuse("client_id: is 1 to 128 visible ASCII characters"));
        }
        let mut seat = Seat::take(self).ok_or_else(|| {
            let detail = format!("{} streams are open, as many as there may be", self.config.max_streams);
            Box::new(Problem::new(ProblemCode::TOO_MANY_STREAMS, detail))
        })?;
        let client_id = client_id.map_or_else(|| format!("stream-{}", seat.id()), ToOwned::to_owned);
        let user_id = principal.subject.as_deref().unwrap_or("anonymous").to_owned();
        let channel = loop {
            let channel = self.get_or_create(name.as_str()).await?;
            if seat.listen(&channel, PresenceEntry::new(&user_id, &client_id, conn_info)) {
                break channel;
            }
        };
        let subscriber = Subscriber::new(self.clone(), channel, principal, &client_id, start, seat);
        let pieces = stream::unfold(subscriber, |mut subscriber| async {
            let piece = Box::pin(subscriber.next()).await?;
            Some((piece, subscriber))
        });
        let body = StreamBody::new(pieces.map(|piece| piece.map(Frame::data))).boxed_unsync();
        let mut response = server::with_body(StatusCode::OK, "text/event-stream", body);
        response.headers_mut().insert("x-accel-buffering", HeaderValue::from_static("no"));
        Ok(response)
    }

    async fn history(&self, principal: &Principal, query: &Query) -> Result<Response<Body>, Refusal> {
        let name = channel_name(query)?;
        principal.rights.check_read(name.as_str())?;
        let number = |parameter| -> Result<i64, Refusal> {
            let Some(text) = query.optional(parameter)? else { return Ok(0) };
            let number = text.parse().ok().filter(|number: &i64| *number >= 0);
            number.ok_or_else(|| refuse(&format!("{parameter}: is a whole number from 0 to 2^63 - 1")))
        };
        let limit = match query.single("limit")? {
            None => 100,
            Some(text) => text
                .parse()
                .ok()
                .filter(|limit| (1..=1000).contains(limit))
                .ok_or_else(|| refuse("limit: is a whole number from 1 to 1000"))?,
        };
        let producer = query.optional("producer")?.map(ToOwned::to_owned);
        let asked = Asked { limit, since: number("since")?, until: number("until")?, producer };
        let channel = self.get(name.as_str()).ok_or_else(|| no_channel(&name))?;
        Ok(server::json(StatusCode::OK, &history::page(&channel, &asked).await?))
    }

    fn presence(&self, principal: &Principal, query: &Query) -> Result<Response<Body>, Refusal> {
        let name = channel_name(query)?;
        principal.rights.check_read(name.as_str())?;
        let channel = self.get(name.as_str()).ok_or_else(|| no_channel(&name))?;
        let entries = channel.listeners().values().map(|entry| (**entry).clone()).collect();
        Ok(server::json(StatusCode::OK, &PresenceList::new(name.as_str(), entries)))
    }

    fn schemas(&self, query: &Query) -> Result<Response<Body>, Refusal> {
        let Some(registry) = &self.registry else { return Err(not_found("the server has no schemas")) };
        let missing =
            |what: String| Box::new(Problem::new(ProblemCode::NOT_FOUND, what.clone()).member("error", what));
        let document = if let Some(channel) = query.optional("channel")? {
            let (pattern, bindings) =
                registry.resolve(channel).map_err(|error| missing(error.to_string()))?;
            let mut document = serde_json::json!({ "pattern": pattern });
            if !bindings.is_empty() {
                document["bindings"] = serde_json::json!(bindings);
            }
            document
        } else if let Some(pattern) = query.optional("pattern")? {
            let history = registry.history(pattern);
            let Some(newest) = history.last() else {
                return Err(missing(format!("pattern {pattern:?} is not registered")));
            };
            if query.optional("history")? == Some("true") {
                serde_json::json!({ "pattern": pattern, "history": history })
            } else {
                serde_json::json!(newest)
            }
        } else {
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
            let now = now.map_or(0, |since| i64::try_from(since.as_millis()).unwrap_or(i64::MAX));
            serde_json::json!(registry.snapshot(Timestamp::from_unix_millis(now)))
        };
        Ok(server::json(StatusCode::OK, &document))
    }
}

/// The channel that is asked for.
fn channel_name(query: &Query) -> Result<ChannelName, Refusal> {
    let name = query.single("channel")?.ok_or_else(|| refuse("channel: is required"))?;
    ChannelName::new(name).map_err(|rule| {
        let shown: String = name.chars().take(80).collect();
        refuse(&format!("channel {shown:?}: {rule}"))
    })
}

/// `Last-Event-ID` takes precedence over `after`, and `after` over `start`.
fn start(head: &Parts, query: &Query) -> Result<Start, Refusal> {
    let (after, start) = (query.optional("after")?, query.optional("start")?);
    let start = match start {
        None | Some("latest") => Start::Latest,
        Some("oldest") => Start::Oldest,
        Some(_) => return Err(refuse("start: is latest or oldest")),
    };
    let id = head.headers.get("last-event-id").map(|id| String::from_utf8_lossy(id.as_bytes()).into_owned());
    let after = id.filter(|id| !id.is_empty()).or_else(|| after.map(ToOwned::to_owned));
    Ok(after.map_or(start, Start::After))
}

fn not_found(detail: &str) -> Refusal {
    Box::new(Problem::new(ProblemCode::NOT_FOUND, detail))
}

fn no_channel(name: &ChannelName) -> Refusal {
    not_found(&format!("channel {name}: there is none; it exists from its first publish or stream on"))
}
