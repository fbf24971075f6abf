//! From a URL to a connection: name look-up, TCP, proxy, TLS.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::BoxFuture;
use http::{HeaderValue, Uri};
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tower_service::Service;

use crate::client::dial::Dialer;
use crate::client::error::{BoxError, shown};
use crate::client::handover::{Io, Loan};
use crate::client::limits::{Limits, Place};
use crate::client::proxies::Proxies;
use crate::client::tls::Tls;
use crate::client::tls_io::TlsIo;

/// Makes connections for the pool: directly or through a proxy, plain or encrypted, with a time limit.
#[derive(Clone)]
pub(crate) struct Connector {
    dialer: Dialer,
    tls: Tls,
    /// The name expected in server certificates instead of the name in the URL.
    server_name: Option<ServerName<'static>>,
    proxies: Arc<Proxies>,
    timeout: Duration,
    limits: Limits,
    h2: bool,
    lend: bool,
}

impl Connector {
    pub(crate) fn new(
        dialer: Dialer,
        tls: Tls,
        server_name: Option<ServerName<'static>>,
        proxies: Proxies,
        timeout: Duration,
        limits: Limits,
    ) -> Self {
        Self { dialer, tls, server_name, proxies: Arc::new(proxies), timeout, limits, h2: true, lend: false }
    }

    /// Connections that are not HTTP/2 are only lent to hyper: see [`Loan`].
    pub(crate) fn lending(mut self) -> Self {
        self.lend = true;
        self
    }

    /// The `Proxy-Authorization` of a request through a plain proxy. Requests in a tunnel have none.
    pub(crate) fn proxy_authorization(&self, uri: &Uri) -> Option<HeaderValue> {
        let plain = uri.scheme_str() == Some("http");
        let mut value = self.proxies.intercept(uri).ok()?.filter(|_| plain)?.basic_auth()?.clone();
        value.set_sensitive(true);
        Some(value)
    }

    async fn connect(self, uri: Uri) -> Result<Conn, BoxError> {
        let Some(proxy) = self.proxies.intercept(&uri)? else { return self.direct(uri).await };
        let to = proxy.uri().clone();
        if !matches!(to.scheme_str(), Some("http" | "https")) {
            return Err(format!("proxy {} is not an HTTP proxy", shown(&to)).into());
        }
        let via = |source| Box::new(ProxyError { proxy: shown(&to), source });
        // The proxy's certificate has the proxy's own name, and the proxy is used with HTTP/1.1.
        let mut hop = Self { server_name: None, h2: false, ..self.clone() };
        if uri.scheme_str() != Some("https") {
            let conn = hop.direct(to.clone()).await.map_err(via)?;
            return Ok(Conn { proxied: true, ..conn });
        }
        hop.lend = false;
        let hop = ProxyConnector(hop);
        let mut tunnel = Tunnel::new(to.clone(), hop);
        if let Some(authorization) = proxy.basic_auth() {
            tunnel = tunnel.with_auth(authorization.clone());
        }
        let conn = tunnel.call(uri.clone()).await.map_err(|error| via(error.into()))?;
        self.encrypt(conn.into_io()?, &uri).await
    }

    async fn direct(&self, uri: Uri) -> Result<Conn, BoxError> {
        let tcp = Box::new(self.dialer.dial(&uri).await?);
        match uri.scheme_str() {
            Some("https") => self.encrypt(tcp, &uri).await,
            _ => Ok(self.conn(tcp, false)),
        }
    }

    async fn encrypt(&self, io: Box<dyn Io>, uri: &Uri) -> Result<Conn, BoxError> {
        let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
        let name = match &self.server_name {
            Some(name) => name.clone(),
            None => ServerName::try_from(host.to_owned())?,
        };
        let tls = self.tls.clone();
        // Files may have changed, and checking them blocks.
        let mut config = tokio::task::spawn_blocking(move || tls.config()).await??;
        if !self.h2 {
            Arc::make_mut(&mut config).alpn_protocols = vec![b"http/1.1".to_vec()];
        }
        let connecting = tokio_rustls::TlsConnector::from(config).connect(name, io);
        let stream = connecting.await.map_err(handshake_failed)?;
        let h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        Ok(self.conn(Box::new(TlsIo(stream)), h2))
    }

    fn conn(&self, io: Box<dyn Io>, h2: bool) -> Conn {
        let io = if self.lend && !h2 {
            Transport::Lent(Loan::new(io))
        } else {
            Transport::Owned(TokioIo::new(io))
        };
        Conn { io, h2, proxied: false, place: None }
    }
}

/// Says plainly when what answers a TLS handshake is not TLS: the usual cause is `https` written for `http`.
fn handshake_failed(error: io::Error) -> BoxError {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match inner {
        Some(rustls::Error::InvalidMessage(_)) => {
            "the server does not speak TLS; is http:// meant instead of https://?".into()
        }
        None if error.kind() == io::ErrorKind::UnexpectedEof => {
            "the server hung up during the TLS handshake; does it speak TLS, or is http:// meant?".into()
        }
        _ => error.into(),
    }
}

impl Service<Uri> for Connector {
    type Response = Conn;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Conn, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let connector = self.clone();
        Box::pin(async move {
            let after = connector.timeout;
            let place = connector.limits.enter(&uri).await;
            match tokio::time::timeout(after, connector.connect(uri)).await {
                Ok(Ok(mut conn)) => {
                    conn.place = Some(place);
                    Ok(conn)
                }
                Ok(Err(error)) => Err(error),
                Err(_) => {
                    Err(io::Error::new(io::ErrorKind::TimedOut, format!("no connection within {after:?}"))
                        .into())
                }
            }
        })
    }
}

/// Connects to a proxy, for a tunnel through it.
struct ProxyConnector(Connector);

impl Service<Uri> for ProxyConnector {
    type Response = Conn;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Conn, BoxError>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let connector = self.0.clone();
        Box::pin(async move { connector.direct(uri).await })
    }
}

#[derive(Debug, thiserror::Error)]
#[error("proxy {proxy}")]
struct ProxyError {
    proxy: String,
    source: BoxError,
}

/// Whether a connection has brought a response.
#[derive(Clone, Default)]
pub(crate) struct Used(Arc<AtomicBool>);

impl Used {
    /// Marks it as used.
    pub(crate) fn mark(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// Whether it is marked.
    pub(crate) fn get(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// A connection, as handed to hyper.
pub(crate) struct Conn {
    io: Transport,
    h2: bool,
    proxied: bool,
    place: Option<Place>,
}

enum Transport {
    Owned(TokioIo<Box<dyn Io>>),
    Lent(Loan),
}

impl Conn {
    /// The socket, when it is not lent.
    fn into_io(self) -> Result<Box<dyn Io>, BoxError> {
        match self.io {
            Transport::Owned(io) => Ok(io.into_inner()),
            Transport::Lent(_) => Err("the connection is lent".into()),
        }
    }
}

impl Connection for Conn {
    fn connected(&self) -> Connected {
        let connected = Connected::new().proxy(self.proxied).extra(Used::default());
        let connected = match self.place.as_ref().and_then(Place::aging) {
            Some(aging) => connected.extra(aging),
            None => connected,
        };
        match &self.io {
            Transport::Lent(loan) => connected.extra(loan.clone()),
            Transport::Owned(_) if self.h2 => connected.negotiated_h2(),
            Transport::Owned(_) => connected,
        }
    }
}

impl Read for Conn {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut self.io {
            Transport::Owned(io) => Pin::new(io).poll_read(cx, buf),
            Transport::Lent(loan) => Pin::new(loan).poll_read(cx, buf),
        }
    }
}

impl Write for Conn {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.io {
            Transport::Owned(io) => Pin::new(io).poll_write(cx, buf),
            Transport::Lent(loan) => Pin::new(loan).poll_write(cx, buf),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.io {
            Transport::Owned(io) => Pin::new(io).poll_flush(cx),
            Transport::Lent(loan) => Pin::new(loan).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.io {
            Transport::Owned(io) => Pin::new(io).poll_shutdown(cx),
            Transport::Lent(loan) => Pin::new(loan).poll_shutdown(cx),
        }
    }

    fn is_write_vectored(&self) -> bool {
        matches!(&self.io, Transport::Owned(io) if io.is_write_vectored())
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.io {
            Transport::Owned(io) => Pin::new(io).poll_write_vectored(cx, bufs),
            Transport::Lent(loan) => Pin::new(loan).poll_write_vectored(cx, bufs),
        }
    }
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connector")
            .field("tls", &self.tls)
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}
