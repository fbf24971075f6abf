//! The client: base URL, credentials, headers, time limits.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use http::{HeaderMap, HeaderName, HeaderValue};
use relay_transport::{BaseUrl, HttpClient, Outer, TokenSource};

use crate::{Error, Retry};

type Headers = Arc<dyn Fn() -> BoxFuture<'static, Result<HeaderMap, Error>> + Send + Sync>;
type Params = Arc<dyn Fn() -> BoxFuture<'static, Result<Vec<(String, String)>, Error>> + Send + Sync>;
pub(crate) type OnRetry = Arc<dyn Fn(&Retry) + Send + Sync>;

/// A client of streams. Cheap to clone; all clones share one pool of connections.
#[derive(Clone)]
pub struct Client {
    pub(crate) shared: Arc<Shared>,
}

pub(crate) struct Shared {
    pub(crate) base: BaseUrl,
    pub(crate) http: HttpClient,
    pub(crate) token: Option<TokenSource>,
    pub(crate) outer: Outer,
    pub(crate) headers: HeaderMap,
    pub(crate) dynamic_headers: Option<Headers>,
    pub(crate) dynamic_params: Option<Params>,
    pub(crate) timeout: Duration,
    pub(crate) retry_base: Duration,
    pub(crate) retry_cap: Duration,
    pub(crate) retry_for: Option<Duration>,
    pub(crate) on_retry: Option<OnRetry>,
}

/// Settings of a [`Client`].
#[derive(Clone)]
pub struct ClientBuilder {
    base: String,
    http: Option<HttpClient>,
    connection_age: Duration,
    idle_timeout: Duration,
    connections_per_host: Option<usize>,
    token: Option<TokenSource>,
    outer: Outer,
    headers: HeaderMap,
    dynamic_headers: Option<Headers>,
    dynamic_params: Option<Params>,
    timeout: Duration,
    retry_base: Duration,
    retry_cap: Duration,
    retry_for: Option<Duration>,
    on_retry: Option<OnRetry>,
    refused: Option<String>,
}

impl Client {
    /// A client of the streams below a base URL, `http` or `https`.
    pub fn builder(base: impl Into<String>) -> ClientBuilder {
        ClientBuilder {
            base: base.into(),
            http: None,
            connection_age: Duration::from_secs(15 * 60),
            idle_timeout: Duration::from_secs(4),
            connections_per_host: None,
            token: None,
            outer: Outer::None,
            headers: HeaderMap::new(),
            dynamic_headers: None,
            dynamic_params: None,
            timeout: Duration::from_secs(30),
            retry_base: Duration::from_millis(100),
            retry_cap: Duration::from_secs(10),
            retry_for: Some(Duration::from_secs(30)),
            on_retry: None,
            refused: None,
        }
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("base", &self.shared.base).finish_non_exhaustive()
    }
}

impl ClientBuilder {
    /// Sets the HTTP client; the next three settings are then ignored. It should close idle connections before the
    /// server does: after 4 s at most.
    #[must_use]
    pub fn http(mut self, http: HttpClient) -> Self {
        self.http = Some(http);
        self
    }

    /// The age at which a connection takes no new requests. Default 15 min.
    #[must_use]
    pub fn connection_age(mut self, most: Duration) -> Self {
        self.connection_age = most;
        self
    }

    /// How long an idle connection is kept. Default 4 s: usual servers close it after 5 s.
    #[must_use]
    pub fn idle_timeout(mut self, timeout: Duration) -> Self {
        self.idle_timeout = timeout;
        self
    }

    /// Limit of connections per host; each live read has one. Default: no limit.
    #[must_use]
    pub fn connections_per_host(mut self, most: usize) -> Self {
        self.connections_per_host = Some(most);
        self
    }

    /// Sends a bearer token with every request. The source is called each time, and once more after a 401.
    #[must_use]
    pub fn token(mut self, token: TokenSource) -> Self {
        self.token = Some(token);
        self
    }

    /// Sets a proxy in front of the server, and its credential: the server's own token is then sent in
    /// `X-Relay-Token`. Default: none.
    #[must_use]
    pub fn outer(mut self, outer: Outer) -> Self {
        self.outer = outer;
        self
    }

    /// Sends a header with every request. Values are secrets: they are not printed.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        match (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_str(value)) {
            _ if is_protocol_header(name) => {
                self.refused = Some(format!("header {name} is the protocol's own"));
            }
            (Ok(name), Ok(mut value)) => {
                value.set_sensitive(true);
                self.headers.append(name, value);
            }
            (Err(_), _) => self.refused = Some(format!("{name:?} is no name of a header")),
            (_, Err(_)) => {
                self.refused =
                    Some(format!("header {name}: its value has characters that no header can hold"))
            }
        }
        self
    }

    /// Headers that are computed again for every request of every kind, reconnects and retries included.
    #[must_use]
    pub fn dynamic_headers<F>(mut self, headers: F) -> Self
    where
        F: Fn() -> BoxFuture<'static, Result<HeaderMap, Error>> + Send + Sync + 'static,
    {
        self.dynamic_headers = Some(Arc::new(headers));
        self
    }

    /// Parameters of the query that are computed again for every request of every kind.
    #[must_use]
    pub fn dynamic_params<F>(mut self, params: F) -> Self
    where
        F: Fn() -> BoxFuture<'static, Result<Vec<(String, String)>, Error>> + Send + Sync + 'static,
    {
        self.dynamic_params = Some(Arc::new(params));
        self
    }

    /// Time limit of a response head, and between two reads of a body. Default 30 s.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Ceiling of the first delay before a retry; it doubles. Default 100 ms.
    #[must_use]
    pub fn retry_base(mut self, base: Duration) -> Self {
        self.retry_base = base;
        self
    }

    /// Ceiling of every delay. Default 10 s.
    #[must_use]
    pub fn retry_cap(mut self, cap: Duration) -> Self {
        self.retry_cap = cap;
        self
    }

    /// Time limit of the attempts at one request; it also cuts an attempt under way, except for an append that cannot
    /// be repeated. Default 30 s; `None` is for ever. Readers and producers have their own.
    #[must_use]
    pub fn retry_for(mut self, limit: Option<Duration>) -> Self {
        self.retry_for = limit;
        self
    }

    /// A function that is called for every failed attempt at a single request that will be retried.
    #[must_use]
    pub fn on_retry(mut self, told: impl Fn(&Retry) + Send + Sync + 'static) -> Self {
        self.on_retry = Some(Arc::new(told));
        self
    }

    /// The client.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`](crate::ErrorKind::Usage) with the invalid setting.
    pub fn build(self) -> Result<Client, Error> {
        if let Some(refused) = self.refused {
            return Err(Error::usage(refused));
        }
        check_retries(self.retry_base, self.retry_cap, self.retry_for)?;
        for (field, wrong) in [
            ("timeout", self.timeout.is_zero()),
            ("connection_age", self.connection_age.is_zero()),
            ("connections_per_host", self.connections_per_host == Some(0)),
        ] {
            if wrong {
                return Err(Error::usage(format!("{field}: above 0")));
            }
        }
        let base = BaseUrl::parse(&self.base).map_err(|error| Error::usage(format!("base URL: {error}")))?;
        let http = match self.http {
            Some(http) => http,
            None => {
                let mut http =
                    HttpClient::builder().idle_timeout(self.idle_timeout).connection_age(self.connection_age);
                if let Some(most) = self.connections_per_host {
                    http = http.connections_per_host(most);
                }
                http.build().map_err(|error| Error::usage(error.line()))?
            }
        };
        Ok(Client {
            shared: Arc::new(Shared {
                base,
                http: http.with_request_timeout(self.timeout),
                token: self.token,
                outer: self.outer,
                headers: self.headers,
                dynamic_headers: self.dynamic_headers,
                dynamic_params: self.dynamic_params,
                timeout: self.timeout,
                retry_base: self.retry_base,
                retry_cap: self.retry_cap,
                retry_for: self.retry_for,
                on_retry: self.on_retry,
            }),
        })
    }
}

impl fmt::Debug for ClientBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientBuilder").field("timeout", &self.timeout).finish_non_exhaustive()
    }
}

/// Checks options of retries.
pub(crate) fn check_retries(base: Duration, cap: Duration, limit: Option<Duration>) -> Result<(), Error> {
    let rule = if base.is_zero() {
        "retry_base: above 0"
    } else if cap < base {
        "retry_cap: not below retry_base"
    } else if limit.is_some_and(|limit| limit.is_zero()) {
        "retry_for: above 0"
    } else {
        return Ok(());
    };
    Err(Error::usage(rule))
}

/// Whether the protocol, or HTTP below it, uses this header.
pub(crate) fn is_protocol_header(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    name.starts_with("stream-")
        || name.starts_with("producer-")
        || [
            "accept",
            "accept-encoding",
            "connection",
            "content-encoding",
            "content-length",
            "content-type",
            "expect",
            "host",
            "if-match",
            "if-modified-since",
            "if-none-match",
            "if-range",
            "if-unmodified-since",
            "keep-alive",
            "proxy-connection",
            "range",
            "te",
            "trailer",
            "transfer-encoding",
            "upgrade",
        ]
        .contains(&name.as_str())
}
