//! The HTTP service: routes, credentials, responses.

mod history;
mod lists;
mod params;
mod sessions;
mod status;
mod stream;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use http::request::Parts;
use http::{HeaderMap, Request, Response};
use hyper::body::Incoming;
use relay_proto::problem::{Problem, ProblemCode};
use relay_transport::server::{
    self, Body, Connections, Cut, Refusal, Service, Unread, allows, check_head, credential, percent_decode,
    read_body,
};
use tokio::sync::watch;

use crate::auth::{Namespaces, Principal, Sessions, TokenWatch};
use crate::config::Config;
use crate::log::Log;
use crate::metrics::Metrics;
use crate::store::StoreError;
use params::Query;

use stream::Control;

/// Size limit of a request body, in bytes.
const MAX_BODY: usize = 64 << 10;

/// State shared by all requests.
pub(crate) struct Relay {
    pub(crate) config: Config,
    pub(crate) log: Arc<Log>,
    pub(crate) source_kind: &'static str,
    /// `None`: no credentials are needed.
    pub(crate) tokens: Option<Arc<TokenWatch>>,
    pub(crate) sessions: Sessions,
    pub(crate) metrics: Metrics,
    pub(crate) connections: Connections,
    pub(crate) subscribers: AtomicU64,
    pub(crate) control: watch::Sender<Control>,
}

/// A path that is served.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Route {
    Health,
    Livez,
    Readyz,
    Metrics,
    Pods,
    Pod { namespace: String, name: String },
    Events,
    PodEvents { namespace: String, name: String },
    Session,
    Stream,
}

impl Relay {
    async fn answer_and_count(self: Arc<Self>, request: Request<Incoming>) -> Result<Response<Body>, Cut> {
        let (head, body) = request.into_parts();
        let route = Route::parse(head.uri.path());
        let name = route.as_ref().map_or("unknown", Route::name);
        let response = match self.answer_route(route, &head, body).await {
            Ok(response) => response?,
            Err(refusal) => server::problem(&refusal),
        };
        let status = response.status().as_u16();
        self.metrics.request(name, status);
        // The query may hold a ticket and is never logged.
        tracing::debug!(method = %head.method, route = name, status, "answered");
        Ok(response)
    }

    async fn answer_route(
        self: &Arc<Self>,
        route: Option<Route>,
        head: &Parts,
        body: Incoming,
    ) -> Result<Result<Response<Body>, Cut>, Refusal> {
        check_head(head)?;
        // A caller without credentials must not learn which paths and methods exist.
        let open = matches!(route, Some(Route::Health | Route::Livez | Route::Readyz | Route::Metrics));
        let known_to_be_wrong = match &route {
            None => true,
            Some(route) => !allows(route.methods(), &head.method),
        };
        if known_to_be_wrong && !open && head.uri.path() != "/" {
            self.authenticate(&head.headers)?;
        }
        let Some(route) = route else {
            return Err(not_found("the relay serves no such path"));
        };
        let allow = route.methods();
        if !allows(allow, &head.method) {
            return Ok(Ok(server::method_not_allowed(allow)));
        }
        if route == Route::Session {
            return match read_body(body, MAX_BODY).await {
                Ok(body) => sessions::create(self, head, &body).map(Ok),
                Err(Unread::Refused(refusal)) => Err(refusal),
                Err(Unread::Gone(cut)) => Ok(Err(cut)),
            };
        }
        let query = Query::parse(head.uri.query());
        let response = match route {
            Route::Health => status::health(self).await?,
            Route::Livez => status::livez(),
            Route::Readyz => status::readyz(self)?,
            Route::Metrics => status::metrics(self),
            Route::Stream => sessions::open_stream(self, head, &query).await?,
            Route::Pods => {
                lists::pods(self, &self.authenticate(&head.headers)?, &query, &head.headers).await?
            }
            Route::Pod { namespace, name } => {
                lists::pod(self, &self.authenticate(&head.headers)?, &namespace, &name).await?
            }
            Route::Events => history::page(self, &self.authenticate(&head.headers)?, &query, None).await?,
            Route::PodEvents { namespace, name } => {
                let pod = Some((&*namespace, &*name));
                history::page(self, &self.authenticate(&head.headers)?, &query, pod).await?
            }
            Route::Session => unreachable!("answered above"),
        };
        Ok(Ok(response))
    }

    /// The principal of a request, from its headers.
    ///
    /// # Errors
    /// 401 when a credential is needed and there is none, or one that is not known.
    fn authenticate(&self, headers: &HeaderMap) -> Result<Principal, Refusal> {
        self.principal_of(credential(headers))
    }

    /// Records that the store cannot be read, which `/readyz` says from then on. Returns the answer.
    fn unreadable(&self, error: &StoreError) -> Refusal {
        self.log.cannot_read(error);
        not_ready("the store cannot be read")
    }

    fn principal_of(&self, credential: Option<&[u8]>) -> Result<Principal, Refusal> {
        let Some(tokens) = &self.tokens else { return Ok(Principal::anyone(Namespaces::all())) };
        let refuse = |detail| Box::new(Problem::new(ProblemCode::UNAUTHENTICATED, detail));
        let credential = credential.ok_or_else(|| {
            refuse("a token is needed, as X-Relay-Token: TOKEN or Authorization: Bearer TOKEN")
        })?;
        tokens.current().find(credential).ok_or_else(|| refuse("the token is not known"))
    }
}

impl Service for Relay {
    async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Result<Response<Body>, Cut> {
        self.answer_and_count(request).await
    }
}

impl fmt::Debug for Relay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Relay").field("log", &self.log).field("config", &self.config).finish_non_exhaustive()
    }
}

impl Route {
    fn parse(path: &str) -> Option<Self> {
        let segments: Vec<&str> = path.strip_prefix('/')?.split('/').collect();
        let pod = |namespace: &str, name: &str| {
            let both = (percent_decode(namespace, false), percent_decode(name, false));
            (!both.0.is_empty() && !both.1.is_empty()).then_some(both)
        };
        Some(match segments[..] {
            ["health"] => Self::Health,
            ["livez"] => Self::Livez,
            ["readyz"] => Self::Readyz,
            ["metrics"] => Self::Metrics,
            ["pods"] => Self::Pods,
            ["pods", namespace, name] => {
                pod(namespace, name).map(|(namespace, name)| Self::Pod { namespace, name })?
            }
            ["pods", namespace, name, "events"] => {
                pod(namespace, name).map(|(namespace, name)| Self::PodEvents { namespace, name })?
            }
            ["events"] => Self::Events,
            ["events", "stream"] => Self::Stream,
            ["auth", "session"] => Self::Session,
            _ => return None,
        })
    }

    fn methods(&self) -> &'static str {
        match self {
            Self::Session => "POST",
            // A HEAD would need a place among the streams to give the response of GET.
            Self::Stream => "GET",
            _ => "GET, HEAD",
        }
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Health => "health",
            Self::Livez => "livez",
            Self::Readyz => "readyz",
            Self::Metrics => "metrics",
            Self::Pods => "pods",
            Self::Pod { .. } => "pod",
            Self::Events => "events",
            Self::PodEvents { .. } => "pod_events",
            Self::Session => "session",
            Self::Stream => "stream",
        }
    }
}

fn not_found(detail: &str) -> Refusal {
    Box::new(Problem::new(ProblemCode::NOT_FOUND, detail))
}

fn not_ready(detail: &str) -> Refusal {
    Box::new(Problem::new(ProblemCode::NOT_READY, detail))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_taken_exactly() {
        let pod = |namespace: &str, name: &str| Route::Pod { namespace: namespace.into(), name: name.into() };
        for (path, route) in [
            ("/health", Some(Route::Health)),
            ("/pods", Some(Route::Pods)),
            ("/pods/", None),
            ("/pods/a", None),
            ("/pods/a/", None),
            ("/pods//b", None),
            ("/pods/a/b", Some(pod("a", "b"))),
            ("/pods/a/b%2Fc", Some(pod("a", "b/c"))),
            ("/pods/a/b/", None),
            ("/pods/a/b/events", Some(Route::PodEvents { namespace: "a".into(), name: "b".into() })),
            ("/events/stream", Some(Route::Stream)),
            ("/events/stream/", None),
            ("/auth/session", Some(Route::Session)),
            ("/", None),
            ("", None),
            ("*", None),
            ("/HEALTH", None),
        ] {
            assert_eq!(Route::parse(path), route, "{path}");
        }
    }
}
