//! Single requests over one pool of connections.

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::uri::InvalidUri;
use http::{Extensions, HeaderMap, HeaderValue, Method, Request, Response, header};
use http_body::Body as _;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::capture_connection;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use relay_proto::http::Redirect;
use rustls::pki_types::ServerName;

use crate::Error;
use crate::client::base_url::BaseUrl;
use crate::client::connect::{Connector, Used};
use crate::client::dial::Dialer;
use crate::client::error::{BoxError, Pooled, shown};
use crate::client::limits::{Aging, Limits};
use crate::client::proxies::Proxies;
use crate::client::tls::{ClientIdentity, Identity, Tls, TlsSettings, certificates_in};

/// Sends requests. One pool of connections and one TLS set-up, shared by all clones; connections of event streams are
/// kept apart from those of single requests.
#[derive(Clone)]
pub struct HttpClient {
    client: Client<Connector, Full<Bytes>>,
    /// A pool for streams, which take their connections over.
    streams: Client<Connector, Full<Bytes>>,
    connector: Connector,
    request_timeout: Duration,
    /// Whether connections have a maximum age.
    ages: bool,
    pub(crate) gzip: bool,
    own_headers: Option<Arc<(BaseUrl, HeaderMap)>>,
    /// Connections for one use, to repeat a request whose pooled connection was closed.
    fresh: Option<Client<Connector, Full<Bytes>>>,
}

/// Settings of an [`HttpClient`].
#[derive(Debug, Clone)]
pub struct HttpClientBuilder {
    connect_timeout: Duration,
    request_timeout: Duration,
    addresses: HashMap<String, Vec<IpAddr>>,
    tls: TlsSettings,
    tls_server_name: Option<String>,
    proxy: Proxy,
    h2_only: bool,
    ping_interval: Duration,
    idle_timeout: Duration,
    idle_connections: usize,
    limits: Limits,
    gzip: bool,
    own_headers: Option<(BaseUrl, HeaderMap)>,
    resend: bool,
}

/// Which proxies to use. The URL may hold credentials.
#[derive(Clone)]
enum Proxy {
    Environment,
    Fixed { url: String, except: String },
    None,
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Environment => "from the environment",
            Self::Fixed { .. } => "fixed",
            Self::None => "none",
        })
    }
}

/// Size limit of a response head, and of hyper's read buffer, which it holds for as long as it has the connection.
const READ_BUFFER: usize = 8 << 10;

/// Limit of redirects in [`HttpClient::send_following`].
const MAX_REDIRECTS: u32 = 5;

impl HttpClient {
    /// A client with settings other than the defaults.
    pub fn builder() -> HttpClientBuilder {
        HttpClientBuilder {
            connect_timeout: Duration::from_secs(10),
            request_timeout: Duration::from_secs(30),
            addresses: HashMap::new(),
            tls: TlsSettings::default(),
            tls_server_name: None,
            proxy: Proxy::Environment,
            h2_only: false,
            ping_interval: Duration::from_secs(20),
            idle_timeout: Duration::from_secs(60),
            idle_connections: 4,
            limits: Limits::default(),
            gzip: false,
            own_headers: None,
            resend: false,
        }
    }

    /// The same client and pool, with another time limit from [`send`](Self::send) to the response head.
    #[must_use]
    pub fn with_request_timeout(mut self, timeout: Duration) -> Self {
        self.request_timeout = timeout;
        self
    }

    /// Sends a request and waits for the response head. The body is read by the caller, at the caller's pace;
    /// dropping it ends the exchange. Redirects are not followed, and every status is a success.
    ///
    /// # Errors
    /// [`Error::Url`] without an absolute URL, [`Error::Connect`], [`Error::Timeout`] and [`Error::Exchange`].
    pub async fn send(&self, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, Error> {
        self.send_within(request, self.request_timeout).await
    }

    /// Like [`send`](Self::send), with a time limit of its own; [`Duration::MAX`] is none, and costs no timer.
    ///
    /// # Errors
    /// Those of [`send`](Self::send).
    pub async fn send_within(
        &self,
        request: Request<Full<Bytes>>,
        limit: Duration,
    ) -> Result<Response<Incoming>, Error> {
        let uri = request.uri().clone();
        // Pinned here, as a future is copied each time that it is moved.
        let exchange = pin!(self.exchange(request));
        if limit == Duration::MAX {
            return exchange.await;
        }
        let answered = tokio::time::timeout(limit, exchange).await;
        answered.unwrap_or_else(|_| Err(Error::Timeout { url: shown(&uri), after: limit }))
    }

    /// Like [`send`](Self::send), but follows redirects (301, 302, 303, 307, 308) of GET and HEAD requests, at most
    /// five. Only headers that cannot hold a secret are sent to another origin.
    ///
    /// # Errors
    /// Those of [`send`](Self::send), and [`Error::Redirect`].
    pub async fn send_following(&self, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, Error> {
        let follow = matches!(*request.method(), Method::GET | Method::HEAD);
        let (mut parts, body) = request.into_parts();
        let mut redirect: Option<Redirect> = None;
        for _ in 0..=MAX_REDIRECTS {
            let response = self.send(Request::from_parts(parts.clone(), body.clone())).await?;
            let status = response.status().as_u16();
            if !follow || !matches!(status, 301 | 302 | 303 | 307 | 308) {
                return Ok(response);
            }
            let location = response.headers().get(header::LOCATION).and_then(|value| value.to_str().ok());
            let next =
                location.filter(|location| !location.is_empty()).and_then(|location| match &redirect {
                    None => Redirect::new(&parts.uri.to_string(), status, location),
                    Some(redirect) => redirect.then(status, location),
                });
            let nowhere = || Error::Redirect {
                url: shown(&parts.uri),
                reason: format!("{status} without a usable Location"),
            };
            let next = next.ok_or_else(nowhere)?;
            parts.uri = next.url().parse().map_err(|_| nowhere())?;
            if !next.may_carry_secrets() {
                drop_secrets(&mut parts.headers);
            }
            redirect = Some(next);
        }
        Err(Error::Redirect { url: shown(&parts.uri), reason: "too many in a row".to_owned() })
    }

    /// A request without a time limit of its own.
    async fn exchange(&self, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, Error> {
        self.exchange_by(&self.client, request).await
    }

    /// A request without a time limit of its own, whose answer may come with a
    /// [`Loan`](crate::client::handover::Loan) of the connection.
    pub(crate) async fn open_stream(
        &self,
        request: Request<Full<Bytes>>,
    ) -> Result<Response<Incoming>, Error> {
        // A connection cannot be taken over while hyper may be writing to it.
        let client = if request.body().is_end_stream() { &self.streams } else { &self.client };
        self.exchange_by(client, request).await
    }

    async fn exchange_by(
        &self,
        client: &Client<Connector, Full<Bytes>>,
        mut request: Request<Full<Bytes>>,
    ) -> Result<Response<Incoming>, Error> {
        if request.uri().host().is_none_or(str::is_empty) || request.uri().scheme().is_none() {
            return Err(Error::Url { reason: "it is not absolute" });
        }
        let uri = request.uri().clone();
        // Without this header any coding would be acceptable (RFC 9110, 12.5.3), and none is decoded here.
        let identity = HeaderValue::from_static("identity");
        request.headers_mut().entry(header::ACCEPT_ENCODING).or_insert(identity);
        if let Some((server, headers)) = self.own_headers.as_deref()
            && server.is_origin_of(request.uri())
        {
            for (name, value) in headers {
                request.headers_mut().append(name, value.clone());
            }
        }
        if let Some(authorization) = self.connector.proxy_authorization(request.uri()) {
            request.headers_mut().insert(header::PROXY_AUTHORIZATION, authorization);
        }
        let Some(fresh) = &self.fresh else {
            let used = self.ages.then(|| capture_connection(&mut request));
            let answered = client.request(request).await;
            if let Some(used) = used {
                Aging::watch(used);
            }
            return answered.map_err(|error| failed(&uri, error));
        };
        let again = request.clone();
        let connection = self.ages.then(|| capture_connection(&mut request));
        let answered = client.request(request).await;
        if let Some(connection) = connection {
            Aging::watch(connection);
        }
        match answered {
            Ok(response) => {
                // From now on it may be closed before a request.
                response.extensions().get::<Used>().inspect(|used| used.mark());
                Ok(response)
            }
            Err(error) if was_used(&error) && closed_meanwhile(&error) => {
                fresh.request(again).await.map_err(|error| failed(&uri, error))
            }
            Err(error) => Err(failed(&uri, error)),
        }
    }
}

fn failed(uri: &http::Uri, error: hyper_util::client::legacy::Error) -> Error {
    let url = shown(uri);
    if error.is_connect() {
        Error::Connect { url, source: Pooled(error).into() }
    } else {
        Error::Exchange { url, source: Pooled(error).into() }
    }
}

/// Whether the connection of this error has brought a response before.
fn was_used(error: &hyper_util::client::legacy::Error) -> bool {
    error.connect_info().is_some_and(|connected| {
        let mut extras = Extensions::new();
        connected.get_extras(&mut extras);
        extras.get::<Used>().is_some_and(Used::get)
    })
}

/// Whether the connection ended before a response.
fn closed_meanwhile(error: &hyper_util::client::legacy::Error) -> bool {
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        if let Some(hyper) = cause.downcast_ref::<hyper::Error>()
            && (hyper.is_incomplete_message() || hyper.is_closed() || hyper.is_canceled())
        {
            return true;
        }
        if let Some(io) = cause.downcast_ref::<std::io::Error>() {
            use std::io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset};
            return matches!(io.kind(), BrokenPipe | ConnectionAborted | ConnectionReset);
        }
        source = cause.source();
    }
    false
}

/// Keeps only headers that say nothing about the client. Any other header may hold a secret.
pub(crate) fn drop_secrets(headers: &mut HeaderMap) {
    let harmless = [
        header::ACCEPT,
        header::ACCEPT_ENCODING,
        header::ACCEPT_LANGUAGE,
        header::CACHE_CONTROL,
        header::CONTENT_TYPE,
        header::USER_AGENT,
        header::HeaderName::from_static("last-event-id"),
    ];
    let kept = std::mem::take(headers);
    for (name, value) in &kept {
        if harmless.contains(name) && !value.is_sensitive() {
            headers.append(name, value.clone());
        }
    }
}

impl HttpClientBuilder {
    /// Longest time to connect: name look-up, TCP, proxy and TLS together. Default 10 s.
    #[must_use]
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// Longest time from [`HttpClient::send`] to the response head. Default 30 s; [`Duration::MAX`] is none. Event
    /// streams have their own, in their configuration.
    #[must_use]
    pub fn request_timeout(mut self, timeout: Duration) -> Self {
        self.request_timeout = timeout;
        self
    }

    /// Addresses of this host, to be used instead of a name look-up. The port is that of the URL, and the server's
    /// certificate must still have the host's name. Default: none; the addresses of a host are tried in the
    /// system's order with alternating families, each with a head start of 250 ms over the next.
    #[must_use]
    pub fn resolve(mut self, host: &str, addresses: impl IntoIterator<Item = IpAddr>) -> Self {
        self.addresses.insert(host.to_ascii_lowercase(), addresses.into_iter().collect());
        self
    }

    /// Trusts the authorities in this PEM file, in addition to the system's. It is read again when it has changed;
    /// when the new version cannot be used, the last good one is kept.
    #[must_use]
    pub fn ca_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.tls.ca_file = Some(path.into());
        self
    }

    /// Whether to trust the authorities that the operating system trusts. Default true.
    #[must_use]
    pub fn system_roots(mut self, trust: bool) -> Self {
        self.tls.system_roots = trust;
        self
    }

    /// The client certificate for servers that ask for one (PEM, the chain after it), with its private key (PEM).
    /// Both are read again when they have changed, as in [`ca_file`](Self::ca_file).
    #[must_use]
    pub fn client_certificate(mut self, certificate: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        self.tls.identity = Some(Identity::Files { certificate: certificate.into(), key: key.into() });
        self
    }

    /// Trusts the authorities in this PEM text, in addition to the others.
    ///
    /// # Errors
    /// [`Error::Config`] when it holds no certificate.
    pub fn ca_pem(mut self, pem: &[u8]) -> Result<Self, Error> {
        self.tls.ca = certificates_in(pem)?;
        Ok(self)
    }

    /// The client certificate held in memory, instead of [`client_certificate`](Self::client_certificate).
    #[must_use]
    pub fn client_identity(mut self, identity: ClientIdentity) -> Self {
        self.tls.identity = Some(Identity::Held(identity));
        self
    }

    /// Expects this name in the certificates of all servers (not of proxies), instead of the name in their URL.
    /// Default: the name in the URL.
    #[must_use]
    pub fn tls_server_name(mut self, name: impl Into<String>) -> Self {
        self.tls_server_name = Some(name.into());
        self
    }

    /// Accepts every certificate for every name. **An attacker in the network can then read and change
    /// everything**, tokens included.
    #[must_use]
    pub fn dangerously_accept_any_certificate(mut self) -> Self {
        self.tls.accept_anything = true;
        self
    }

    /// Uses this proxy, `http://user:password@host:port`, for everything except the hosts in `except`, a list in the
    /// format of `NO_PROXY`. Default: `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY` and `NO_PROXY` of the environment, as in
    /// curl, but never for this machine itself (`localhost` and loopback addresses).
    ///
    /// Encrypted connections go through a tunnel (`CONNECT`), plain requests are sent to the proxy.
    #[must_use]
    pub fn proxy(mut self, url: impl Into<String>, except: impl Into<String>) -> Self {
        self.proxy = Proxy::Fixed { url: url.into(), except: except.into() };
        self
    }

    /// Uses no proxy, whatever the environment says.
    #[must_use]
    pub fn no_proxy(mut self) -> Self {
        self.proxy = Proxy::None;
        self
    }

    /// Speaks HTTP/2 without negotiation, also on plain connections. Default false: HTTP/1.1 unless a TLS handshake
    /// agrees on HTTP/2.
    #[must_use]
    pub fn http2_only(mut self, only: bool) -> Self {
        self.h2_only = only;
        self
    }

    /// Time between pings on an HTTP/2 connection that has a request or a stream open; a ping that is not answered
    /// within half of it ends the connection. Default 20 s.
    #[must_use]
    pub fn http2_ping_interval(mut self, interval: Duration) -> Self {
        self.ping_interval = interval;
        self
    }

    /// How long an idle connection is kept. Default 60 s. A time below that of the server keeps requests off
    /// connections that the server is about to close.
    #[must_use]
    pub fn idle_timeout(mut self, timeout: Duration) -> Self {
        self.idle_timeout = timeout;
        self
    }

    /// Limit of idle connections kept per host. Default 4.
    #[must_use]
    pub fn idle_connections(mut self, most: usize) -> Self {
        self.idle_connections = most;
        self
    }

    /// The age at which a connection takes no new requests, so that requests follow a name to new addresses.
    /// Requests in progress are not disturbed. Default: no limit.
    #[must_use]
    pub fn connection_age(mut self, most: Duration) -> Self {
        self.limits.age = Some(most);
        self
    }

    /// Limit of connections per host, idle ones included; a request that needs one more waits, within its time
    /// limit. Event streams no longer count once they have their response head. Default: no limit.
    #[must_use]
    pub fn connections_per_host(mut self, most: usize) -> Self {
        self.limits.per_host = Some(most);
        self
    }

    /// Whether event streams may come compressed (gzip). Default false: it costs both sides time and 40 KiB of
    /// memory per stream. The body is unpacked in steps of at most 256 KiB, so a small body cannot take much
    /// memory.
    ///
    /// Single requests do not accept compression, and their bodies are not decoded.
    #[must_use]
    pub fn compressed_streams(mut self, accept: bool) -> Self {
        self.gzip = accept;
        self
    }

    /// Adds these headers to each request to this server, including event streams and redirects, but to no request to
    /// another origin. Default: none.
    #[must_use]
    pub fn headers_to(mut self, server: BaseUrl, headers: HeaderMap) -> Self {
        self.own_headers = Some((server, headers));
        self
    }

    /// Repeats a request on a fresh connection when it was sent on a used connection that ended without a response:
    /// the server had most likely closed it. Default false, because the server may have processed the request.
    #[must_use]
    pub fn resend_when_closed(mut self, resend: bool) -> Self {
        self.resend = resend;
        self
    }

    /// The client.
    ///
    /// # Errors
    /// [`Error::Config`] when a file it needs or the proxy's URL cannot be used.
    pub fn build(self) -> Result<HttpClient, Error> {
        let proxies = match &self.proxy {
            Proxy::Environment => Proxies::from_environment(|name| std::env::var(name).ok()),
            Proxy::None => Proxies::default(),
            Proxy::Fixed { url, except } => {
                let unusable = |source: BoxError| Error::Config {
                    what: "the proxy's URL cannot be used".to_owned(),
                    source: Some(source),
                };
                let uri: http::Uri = url.parse().map_err(|error: InvalidUri| unusable(error.into()))?;
                if uri.host().is_none() || !matches!(uri.scheme_str(), None | Some("http" | "https")) {
                    return Err(unusable("only HTTP proxies are supported".into()));
                }
                Proxies::fixed(url, except).ok_or_else(|| unusable("it is not the URL of a proxy".into()))?
            }
        };
        let server_name = self.tls_server_name.map(|name| {
            ServerName::try_from(name).map_err(|error| Error::Config {
                what: "the name expected in certificates is neither a DNS name nor an address".to_owned(),
                source: Some(error.into()),
            })
        });
        let dialer = Dialer { known: Arc::new(self.addresses) };
        let tls = Tls::new(self.tls)?;
        let ages = self.limits.age.is_some();
        let connector =
            Connector::new(dialer, tls, server_name.transpose()?, proxies, self.connect_timeout, self.limits);
        let mut pool = Client::builder(TokioExecutor::new());
        pool.timer(TokioTimer::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(self.idle_timeout)
            .pool_max_idle_per_host(self.idle_connections)
            .http1_read_buf_exact_size(READ_BUFFER)
            // Old servers and proxies fold long lines; RFC 9112 (5.2) lets the reader put a space there.
            .http1_allow_obsolete_multiline_headers_in_responses(true)
            .http2_only(self.h2_only)
            .http2_keep_alive_interval(self.ping_interval)
            .http2_keep_alive_timeout(self.ping_interval / 2)
            .http2_initial_stream_window_size(256 << 10)
            .http2_max_header_list_size(16 << 10);
        let client = pool.build(connector.clone());
        let fresh = self.resend.then(|| pool.clone().pool_max_idle_per_host(0).build(connector.clone()));
        // HTTP/2 connections cannot be taken over.
        let lending = if self.h2_only { connector.clone() } else { connector.clone().lending() };
        let streams = pool.build(lending);
        let own_headers = self.own_headers.map(Arc::new);
        let request_timeout = self.request_timeout;
        Ok(HttpClient {
            client,
            streams,
            connector,
            request_timeout,
            ages,
            gzip: self.gzip,
            own_headers,
            fresh,
        })
    }
}

impl fmt::Debug for HttpClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpClient").field("request_timeout", &self.request_timeout).finish_non_exhaustive()
    }
}
