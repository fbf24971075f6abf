//! One connection, from the request to the last byte of the response.

use std::fmt;
use std::io::Write;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use bytes::{Buf, Bytes};
use flate2::write::GzDecoder;
use futures_util::future::BoxFuture;
use http::{HeaderValue, Request, Response, header};
use http_body_util::Full;
use relay_proto::error::chain;
use relay_proto::eventsource::{Attempt, End, Refused};
use relay_proto::http::ResponseHead;
use tracing::{Instrument, Span, field};

use super::body::Body;
use crate::client::error::shown;
use crate::{Error, HttpClient};

/// A connection, and the tracing span of its log lines.
pub(super) struct Connection {
    state: State,
    span: Span,
}

enum State {
    None,
    Opening(BoxFuture<'static, Result<Head, Input>>),
    Open(Body, Option<Box<Gunzip>>),
}

/// An input for the machine.
pub(super) enum Input {
    Head(Head),
    Bytes(Bytes),
    End(End),
    Refused(Refused),
}

/// A response head and the requested URL. The body is here only until the connection takes it.
pub(super) struct Head {
    url: String,
    gunzip: bool,
    response: Response<()>,
    body: Option<Body>,
}

impl Connection {
    pub(super) fn none() -> Self {
        Self { state: State::None, span: Span::none() }
    }

    pub(super) fn open(
        http: HttpClient,
        request: BoxFuture<'static, Result<Request<Full<Bytes>>, Refused>>,
        attempt: Attempt,
    ) -> Self {
        let span = tracing::debug_span!("connection", url = field::Empty, attempt = attempt.number());
        let opening = async move {
            let mut request = request.await.map_err(Input::Refused)?;
            complete(&mut request, &attempt).map_err(Input::Refused)?;
            let url = request.uri().to_string();
            if http.gzip {
                request
                    .headers_mut()
                    .entry(header::ACCEPT_ENCODING)
                    .or_insert(HeaderValue::from_static("gzip"));
            }
            let (path, origin) = (shown(request.uri()), origin(request.uri()));
            let redirected = attempt.redirect().is_some();
            Span::current().record("url", if redirected { &origin } else { &path });
            let told = |error: Error| {
                let text = chain(&error).to_string();
                if redirected { text.replace(&path, &origin) } else { text }
            };
            match http.open_stream(request).await {
                Ok(response) => {
                    let (response, body) = Body::of(response);
                    Ok(Head { url, gunzip: http.gzip && is_gzip(&response), response, body: Some(body) })
                }
                Err(error @ Error::Url { .. }) => Err(Input::Refused(Refused::permanent(told(error)))),
                Err(error) => Err(Input::End(End::Io(told(error)))),
            }
        };
        Self { state: State::Opening(Box::pin(opening.instrument(span.clone()))), span }
    }

    /// Ends the connection, if there is one.
    pub(super) fn close(&mut self) {
        self.state = State::None;
    }

    pub(super) fn poll_input(&mut self, cx: &mut Context<'_>) -> Poll<Input> {
        match &mut self.state {
            State::None => Poll::Pending,
            State::Opening(opening) => opening.as_mut().poll(cx).map(|result| match result {
                Ok(mut head) => {
                    tracing::debug!(parent: &self.span, status = head.response.status().as_u16(), "answered");
                    let gunzip = head.gunzip.then(Box::<Gunzip>::default);
                    let body = head.body.take();
                    self.state = body.map_or(State::None, |body| State::Open(body, gunzip));
                    Input::Head(head)
                }
                Err(input) => {
                    self.close();
                    input
                }
            }),
            State::Open(body, gunzip) => {
                loop {
                    if let Some(gunzip) = gunzip
                        && let Some(text) = gunzip.next().transpose()
                    {
                        return Poll::Ready(text.map_or_else(
                            |error| Input::End(End::Io(chain(&error).to_string())),
                            Input::Bytes,
                        ));
                    }
                    match (std::task::ready!(body.poll_bytes(cx)), &mut *gunzip) {
                        (Some(Ok(bytes)), Some(gunzip)) => gunzip.packed = bytes,
                        (Some(Ok(bytes)), None) => return Poll::Ready(Input::Bytes(bytes)),
                        (Some(Err(error)), _) => return Poll::Ready(Input::End(End::Io(error))),
                        (None, _) => return Poll::Ready(Input::End(End::Eof)),
                    }
                }
            }
        }
    }

    /// Ends the connection or the attempt, and logs why.
    pub(super) fn end(&mut self, why: &dyn fmt::Display) {
        tracing::debug!(parent: &self.span, %why, "ended");
        self.close();
    }
}

impl Head {
    pub(super) fn for_machine(&self) -> ResponseHead<'_> {
        let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
        let mut head = ResponseHead::new(self.response.status().as_u16(), &self.url).unix_time(since_1970);
        let taken_off = |name| self.gunzip && name == header::CONTENT_ENCODING;
        for (name, value) in self.response.headers().iter().filter(|(name, _)| !taken_off(*name)) {
            head = head.header(name.as_str(), value.as_bytes());
        }
        head
    }
}

fn is_gzip<B>(response: &Response<B>) -> bool {
    let coding = response.headers().get(header::CONTENT_ENCODING);
    coding.is_some_and(|coding| coding.as_bytes().trim_ascii().eq_ignore_ascii_case(b"gzip"))
}

/// Decodes gzip in steps: no more is unpacked than the caller takes.
struct Gunzip {
    decoder: GzDecoder<Vec<u8>>,
    packed: Bytes,
}

/// Packed bytes per step. Deflate makes at most 1032 bytes of one.
const STEP: usize = 256;

impl Default for Gunzip {
    fn default() -> Self {
        Self { decoder: GzDecoder::new(Vec::new()), packed: Bytes::new() }
    }
}

impl Gunzip {
    /// The next piece of text; `None` when more packed bytes are needed.
    fn next(&mut self) -> std::io::Result<Option<Bytes>> {
        while !self.packed.is_empty() {
            let taken = self.decoder.write(&self.packed[..self.packed.len().min(STEP)])?;
            self.decoder.flush()?;
            // Bytes after the end of the packed text are ignored.
            self.packed.advance(if taken == 0 { self.packed.len() } else { taken });
            let text = std::mem::take(self.decoder.get_mut());
            if !text.is_empty() {
                return Ok(Some(text.into()));
            }
        }
        Ok(None)
    }
}

/// The origin of a URL that a server chose: its path may contain a secret from the request.
fn origin(uri: &http::Uri) -> String {
    let shown = shown(uri);
    shown.strip_suffix(uri.path()).unwrap_or(&shown).to_owned()
}

/// Adds the headers of an event stream, and applies a redirect, to the caller's request.
fn complete(request: &mut Request<Full<Bytes>>, attempt: &Attempt) -> Result<(), Refused> {
    use http_body::Body as _;

    for (name, value) in attempt.headers() {
        if let Ok(value) = http::HeaderValue::from_bytes(value) {
            request.headers_mut().insert(name, value);
        }
    }
    let Some(redirect) = attempt.redirect() else { return Ok(()) };
    *request.uri_mut() =
        redirect.url().parse().map_err(|_| Refused::retry("redirected to something that is not a URL"))?;
    let method = redirect.method(request.method().as_str());
    if method != request.method().as_str() {
        *request.method_mut() = http::Method::GET;
        *request.body_mut() = Full::default();
        for name in [header::CONTENT_TYPE, header::CONTENT_LENGTH, header::CONTENT_ENCODING] {
            request.headers_mut().remove(name);
        }
    }
    if !redirect.may_carry_secrets() {
        crate::client::http_client::drop_secrets(request.headers_mut());
        if !request.body().is_end_stream() {
            return Err(Refused::retry("redirected to another origin, which may not see the request's body"));
        }
    }
    Ok(())
}
