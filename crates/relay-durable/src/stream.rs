//! Streams, and single requests.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{Method, header};
use relay_proto::durable::{Answer, Offset, Refusal, is_json};
use relay_proto::http::{same_origin, without_userinfo};
use relay_proto::setters;
use relay_transport::BaseUrl;

use crate::error::one_line;
use crate::exchange::{Call, Resend};
use crate::{Client, Error, ErrorKind};

/// A handle to a stream. Cheap to clone; making one does no I/O.
#[derive(Clone)]
pub struct DurableStream {
    pub(crate) client: Client,
    pub(crate) url: Arc<str>,
    /// It does not change once it is known.
    content_type: Arc<Mutex<Option<String>>>,
}

/// When a stream is deleted.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Expiry {
    /// This long after its last use. Whole seconds.
    Ttl(Duration),
    /// At that time, RFC 3339.
    At(String),
}

/// Options of a new stream.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct CreateOptions {
    /// Its content type, which cannot be changed. Default `application/octet-stream`.
    pub content_type: Option<String>,
    /// When it is deleted. Default: never.
    pub expiry: Option<Expiry>,
    /// Closed from the beginning. Default false.
    pub closed: bool,
    /// Its first message: for a JSON stream one JSON value, which stays one message whatever it is. Default none.
    pub data: Bytes,
    /// Send [`data`](Self::data) unchanged: for a JSON stream, an array of messages instead of one message.
    pub raw: bool,
}

/// Options of a fork.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct ForkOptions {
    /// The offset of the fork in its source. Default: the source's end.
    pub at: Option<Offset>,
    /// Messages (JSON) or bytes after [`at`](Self::at).
    pub sub_offset: Option<u64>,
    /// When it is deleted. Default: as its source.
    pub expiry: Option<Expiry>,
}

/// Options of an append.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct AppendOptions {
    /// The stream's type. Default: asked of the server, once per handle.
    pub content_type: Option<String>,
    /// The writer's sequence, which must grow bytewise.
    pub seq: Option<String>,
    /// Close the stream with it.
    pub close: bool,
    /// Send the bytes unchanged: on a JSON stream, an array of messages instead of one message.
    pub raw: bool,
    /// Send it again although an earlier attempt may have been accepted. **It may then be stored twice.**
    pub resend: bool,
}

setters! { CreateOptions {
    content_type: impl Into<Option<String>>,
    expiry: impl Into<Option<Expiry>>,
    closed: bool,
    data: impl Into<Bytes>,
    raw: bool,
} }

setters! { ForkOptions {
    at: impl Into<Option<Offset>>,
    sub_offset: impl Into<Option<u64>>,
    expiry: impl Into<Option<Expiry>>,
} }

setters! { AppendOptions {
    content_type: impl Into<Option<String>>,
    seq: impl Into<Option<String>>,
    close: bool,
    raw: bool,
    resend: bool,
} }

/// Defines `new` for options: it returns the defaults.
macro_rules! news {
    ($($options:ident)*) => {
        $(impl $options {
            /// The defaults.
            pub fn new() -> Self {
                Self::default()
            }
        })*
    };
}

news! { CreateOptions ForkOptions AppendOptions }

/// A stream that was created, or existed.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Created {
    /// 201 for a new one, 200 for one that was there.
    pub status: u16,
    /// Where it ends.
    pub offset: Option<Offset>,
    /// Its type, when the server says it.
    pub content_type: Option<String>,
    /// Whether it is closed.
    pub closed: bool,
}

/// The outcome of an append or a close.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct AppendOutcome {
    /// The status.
    pub status: u16,
    /// The offset after the appended data.
    pub offset: Option<Offset>,
    /// Whether the stream is closed.
    pub closed: bool,
}

/// The metadata of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Head {
    /// The status.
    pub status: u16,
    /// Its type.
    pub content_type: Option<String>,
    /// Where it ends.
    pub offset: Option<Offset>,
    /// Whether it is closed.
    pub closed: bool,
    /// Seconds until it is deleted without use.
    pub ttl_seconds: Option<u64>,
    /// When the stream expires, as the server writes it.
    pub expires_at: Option<String>,
    /// For `If-None-Match`.
    pub etag: Option<String>,
}

/// The result of a single read.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fetched {
    /// The same as before.
    NotModified,
    /// Something else.
    Snapshot(Snapshot),
}

/// One response with data. A server may return less than there is.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Snapshot {
    /// The data: for a JSON stream an array of messages.
    pub body: Bytes,
    /// The offset after the data.
    pub offset: Offset,
    /// For the next [`DurableStream::get`] from the same offset.
    pub etag: Option<String>,
    /// It is everything that existed.
    pub up_to_date: bool,
    /// The stream ends here.
    pub closed: bool,
}

impl Client {
    /// A handle to a stream, without any I/O: an absolute URL, or a path below the base URL.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] when it has a query or a fragment, or is no URL.
    pub fn stream(&self, stream: &str) -> Result<DurableStream, Error> {
        let shown = without_userinfo(stream);
        let wrong = |why: &str| Error::usage(format!("stream {shown:?}: {why}"));
        if stream.contains(['?', '#']) {
            return Err(wrong("a stream has no query and no fragment"));
        }
        if stream.is_empty() {
            return Err(wrong("it is empty"));
        }
        let lower = stream.to_ascii_lowercase();
        let url = if lower.starts_with("http://") || lower.starts_with("https://") {
            let parsed = BaseUrl::parse(stream).map_err(|error| wrong(&error.to_string()))?;
            // A trailing slash is kept.
            if stream.ends_with('/') { format!("{parsed}/") } else { parsed.to_string() }
        } else if stream.contains("://") {
            return Err(wrong("it does not begin with http:// or https://"));
        } else {
            self.shared.base.join(stream, &[])
        };
        Ok(DurableStream::new(self.clone(), url))
    }

    /// Checks that a stream exists, and returns its handle.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] with the URL, and those of [`DurableStream::head`].
    pub async fn connect(&self, stream: &str) -> Result<DurableStream, Error> {
        let stream = self.stream(stream)?;
        stream.head().await?;
        Ok(stream)
    }

    /// Creates a stream and returns its handle; succeeds if it exists with the same configuration.
    ///
    /// # Errors
    /// Those of [`DurableStream::create`].
    pub async fn create(&self, stream: &str, options: CreateOptions) -> Result<DurableStream, Error> {
        let stream = self.stream(stream)?;
        stream.create(options).await?;
        Ok(stream)
    }
}

impl DurableStream {
    pub(crate) fn new(client: Client, url: String) -> Self {
        Self { client, url: url.into(), content_type: Arc::default() }
    }

    /// The same stream with a known type, so that the server is not asked for it.
    #[must_use]
    pub fn with_content_type(self, kind: &str) -> Self {
        self.learn(Some(kind));
        self
    }

    /// The absolute URL.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The client that it was made by.
    pub fn client(&self) -> &Client {
        &self.client
    }

    fn call(&self, method: Method) -> Call {
        Call::new(method, &self.url, self.client.shared.timeout)
    }

    fn error(&self, kind: ErrorKind, what: impl Into<String>) -> Error {
        Error::new(kind, &self.url, what)
    }

    /// Creates the stream (PUT). Succeeds if it exists with the same configuration.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] for a first message that is not JSON though the stream is; [`ErrorKind::Exists`] when it
    /// is there with another configuration, and others by kind.
    pub async fn create(&self, options: CreateOptions) -> Result<Created, Error> {
        let mut call = self.call(Method::PUT);
        let kind = options.content_type.as_deref().unwrap_or("application/octet-stream");
        call.header("content-type", kind)?;
        expiry(&mut call, options.expiry.as_ref())?;
        if options.closed {
            call.header("stream-closed", "true")?;
        }
        let wraps = is_json(kind) && !options.raw && !options.data.is_empty();
        call.body = if wraps { wrapped(&options.data)? } else { options.data };
        self.put(&call, kind).await
    }

    /// Makes `target` a fork of this stream, on the same server.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] when it has another origin, [`ErrorKind::Exists`] when it is there already, and others by
    /// kind.
    pub async fn fork(&self, target: &DurableStream, options: ForkOptions) -> Result<Created, Error> {
        if !same_origin(&self.url, &target.url) {
            return Err(Error::usage(format!(
                "a fork has the origin of its source: {} and {}",
                self.url, target.url
            )));
        }
        let mut call = target.call(Method::PUT);
        let path =
            self.url.find("://").and_then(|at| self.url[at + 3..].find('/').map(|slash| at + 3 + slash));
        call.header("stream-forked-from", path.map_or("/", |at| &self.url[at..]))?;
        if let Some(at) = &options.at {
            call.header("stream-fork-offset", at.as_str())?;
        }
        if let Some(sub) = options.sub_offset {
            call.header("stream-fork-sub-offset", &sub.to_string())?;
        }
        expiry(&mut call, options.expiry.as_ref())?;
        target.put(&call, "").await
    }

    async fn put(&self, call: &Call, kind: &str) -> Result<Created, Error> {
        let (answer, _) =
            self.client.shared.ask(call, Resend::Always).await.map_err(|(error, answer, _)| match answer
                .as_ref()
                .and_then(Answer::refusal)
            {
                Some(Refusal::Conflict | Refusal::Closed | Refusal::Gap { .. }) => {
                    self.error(ErrorKind::Exists, "exists with another configuration").with_status(409)
                }
                Some(Refusal::TooLarge) => self.too_large(call.body.len()),
                _ => error,
            })?;
        let kind =
            answer.content_type().or(Some(kind).filter(|kind| !kind.is_empty())).map(ToOwned::to_owned);
        self.learn(kind.as_deref());
        Ok(Created {
            status: answer.status(),
            offset: answer.next_offset().cloned(),
            content_type: kind,
            closed: answer.closed(),
        })
    }

    fn too_large(&self, bytes: usize) -> Error {
        self.error(ErrorKind::TooLarge, format!("too large: {bytes} bytes")).with_status(413)
    }

    fn learn(&self, kind: Option<&str>) {
        if let Some(kind) = kind {
            *self.content_type.lock().unwrap_or_else(PoisonError::into_inner) = Some(kind.to_owned());
        }
    }

    /// The stream's type, if it is known.
    pub(crate) fn known_type(&self) -> Option<String> {
        self.content_type.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The stream's type: the known one, else that from the server.
    ///
    /// # Errors
    /// Those of [`head`](Self::head).
    pub async fn content_type(&self) -> Result<String, Error> {
        if let Some(known) = self.known_type() {
            return Ok(known);
        }
        let mut call = self.call(Method::HEAD);
        // An append must not use a connection that is about to be closed: its outcome would be unknown.
        call.headers.insert(header::CONNECTION, http::HeaderValue::from_static("close"));
        let head = self.described(&call).await?;
        Ok(head.content_type.unwrap_or_else(|| "application/octet-stream".to_owned()))
    }

    /// Requests the stream's metadata (HEAD).
    ///
    /// # Errors
    /// By kind.
    pub async fn head(&self) -> Result<Head, Error> {
        self.described(&self.call(Method::HEAD)).await
    }

    async fn described(&self, call: &Call) -> Result<Head, Error> {
        let (answer, _) = self.client.shared.ask(call, Resend::Always).await.map_err(|(error, ..)| error)?;
        self.learn(answer.content_type());
        Ok(Head {
            status: answer.status(),
            content_type: answer.content_type().map(ToOwned::to_owned),
            offset: answer.next_offset().cloned(),
            closed: answer.closed(),
            ttl_seconds: answer.ttl(),
            expires_at: answer.expires_at().map(ToOwned::to_owned),
            etag: answer.etag().map(ToOwned::to_owned),
        })
    }

    /// Appends one message: on a JSON stream one JSON value, which stays one message whatever it is.
    ///
    /// Dropping the future leaves the outcome unknown.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] for an empty message and for what is not JSON; [`ErrorKind::OutcomeUnknown`] when it is
    /// unknown whether the server stored it; [`ErrorKind::Closed`], [`ErrorKind::SequenceConflict`],
    /// [`ErrorKind::ContentType`], [`ErrorKind::TooLarge`] and others by kind.
    pub async fn append(
        &self,
        data: impl Into<Bytes>,
        options: AppendOptions,
    ) -> Result<AppendOutcome, Error> {
        let data = data.into();
        if data.is_empty() {
            if options.close {
                return self.close().await;
            }
            return Err(Error::usage("the message is empty"));
        }
        let kind = match &options.content_type {
            Some(kind) => kind.clone(),
            None => self.content_type().await?,
        };
        let size = data.len();
        let mut call = self.call(Method::POST);
        call.body = if is_json(&kind) && !options.raw { wrapped(&data)? } else { data };
        call.header("content-type", &kind)?;
        if let Some(seq) = &options.seq {
            call.header("stream-seq", seq)?;
        }
        if options.close {
            call.header("stream-closed", "true")?;
        }
        let resend = if options.resend { Resend::Always } else { Resend::Untaken };
        let outcome = self.client.shared.ask(&call, resend).await;
        let (answer, _) =
            outcome.map_err(|(error, answer, _)| match answer.as_ref().and_then(Answer::refusal) {
                Some(Refusal::Conflict) if options.seq.is_some() => self
                    .error(ErrorKind::SequenceConflict, "sequence conflict: the sequence does not grow")
                    .with_status(409),
                Some(Refusal::Conflict) => self
                    .error(
                        ErrorKind::ContentType,
                        format!("conflict: another content type than ours, {kind}"),
                    )
                    .with_status(409),
                Some(Refusal::TooLarge) => self.too_large(size),
                _ => error,
            })?;
        Ok(AppendOutcome {
            status: answer.status(),
            offset: answer.next_offset().cloned(),
            closed: answer.closed() || options.close,
        })
    }

    /// Closes the stream, if it is not closed. Safe to repeat.
    ///
    /// # Errors
    /// By kind.
    pub async fn close(&self) -> Result<AppendOutcome, Error> {
        let mut call = self.call(Method::POST);
        call.header("stream-closed", "true")?;
        let (answer, _) = self.client.shared.ask(&call, Resend::Always).await.map_err(|(error, ..)| error)?;
        Ok(AppendOutcome { status: answer.status(), offset: answer.next_offset().cloned(), closed: true })
    }

    /// Deletes the stream, and returns the status. After an attempt whose response was lost, a missing stream
    /// counts as deleted.
    ///
    /// # Errors
    /// By kind.
    pub async fn delete(&self) -> Result<u16, Error> {
        match self.client.shared.ask(&self.call(Method::DELETE), Resend::Always).await {
            Ok((answer, _)) => Ok(answer.status()),
            Err((_, Some(answer), true)) if matches!(answer.status(), 404 | 410) => Ok(answer.status()),
            Err((error, ..)) => Err(error),
        }
    }

    /// Reads once from an offset on, unless the data has this `ETag` (`If-None-Match`).
    ///
    /// # Errors
    /// [`ErrorKind::TooLarge`] for more than `most` bytes, [`ErrorKind::Malformed`] for an answer without an offset,
    /// and others by kind.
    pub async fn get(&self, from: &Offset, etag: Option<&str>, most: usize) -> Result<Fetched, Error> {
        let mut call = self.call(Method::GET);
        call.query = format!("offset={}", from.encoded());
        if let Some(etag) = etag {
            call.header("if-none-match", etag)?;
        }
        let (answer, body, _) = self.client.shared.fetch(&call, most).await?;
        if let Some(refusal) = answer.refusal() {
            return Err(Error::refused(&self.url, refusal, &answer, &one_line(&body)));
        }
        if answer.status() == 304 && etag.is_some() {
            return Ok(Fetched::NotModified);
        }
        let malformed = |what: &str| {
            self.error(ErrorKind::Malformed, format!("malformed answer at offset {from}: {what}"))
        };
        if let Some(coding) = answer.content_encoding() {
            return Err(malformed(&format!("the body is coded ({coding})")));
        }
        if answer.is_page() {
            return Err(malformed(&format!("an HTML page with status {}", answer.status())));
        }
        let Some(offset) = answer.next_offset().filter(|_| answer.is_success()) else {
            return Err(malformed(&format!("{} without Stream-Next-Offset", answer.status())));
        };
        self.learn(answer.content_type());
        Ok(Fetched::Snapshot(Snapshot {
            body,
            offset: offset.clone(),
            etag: answer.etag().map(ToOwned::to_owned),
            up_to_date: answer.up_to_date() || answer.closed(),
            closed: answer.closed(),
        }))
    }
}

impl fmt::Debug for DurableStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("DurableStream").field(&self.url).finish()
    }
}

fn expiry(call: &mut Call, expiry: Option<&Expiry>) -> Result<(), Error> {
    match expiry {
        None => Ok(()),
        Some(Expiry::Ttl(ttl)) if ttl.subsec_nanos() != 0 => {
            Err(Error::usage(format!("the time to live is in whole seconds, not {ttl:?}")))
        }
        Some(Expiry::Ttl(ttl)) => call.header("stream-ttl", &ttl.as_secs().to_string()),
        Some(Expiry::At(time)) => call.header("stream-expires-at", time),
    }
}

/// One JSON value as an array of one, so that a server takes it as one message.
fn wrapped(data: &Bytes) -> Result<Bytes, Error> {
    let wrong = |why: String| Error::usage(format!("the message is not JSON: {why}"));
    let text = std::str::from_utf8(data).map_err(|error| wrong(error.to_string()))?;
    serde_json::from_str::<serde::de::IgnoredAny>(text).map_err(|error| wrong(error.to_string()))?;
    let mut body = BytesMut::with_capacity(data.len() + 2);
    body.extend_from_slice(b"[");
    body.extend_from_slice(data);
    body.extend_from_slice(b"]");
    Ok(body.freeze())
}
