//! The decoders that are compared, each driven the way its documentation shows.

use std::convert::Infallible;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::hint::black_box;
use std::num::NonZeroUsize;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_executor::block_on;
use futures_util::{StreamExt as _, stream};

/// Receives the decoded events.
#[derive(Default)]
pub struct Sink {
    pub events: u64,
    /// The hash of all events, when they are checked; a timed run only touches them.
    hash: Option<DefaultHasher>,
    /// The last id, for decoders that do not keep it.
    last_id: String,
}

impl Sink {
    pub fn checking() -> Self {
        Self { hash: Some(DefaultHasher::new()), ..Self::default() }
    }

    pub fn digest(&self) -> u64 {
        self.hash.as_ref().map_or(0, DefaultHasher::finish)
    }

    #[inline]
    fn event(&mut self, kind: &str, data: &str, id: &str) {
        self.events += 1;
        match &mut self.hash {
            Some(hash) => (if kind.is_empty() { "message" } else { kind }, data, id).hash(hash),
            None => {
                black_box((kind.len(), data.len(), id.len()));
            }
        }
    }

    #[inline]
    fn raw_event(&mut self, kind: &str, data: &str, id: Option<&str>) {
        if self.hash.is_some() {
            if let Some(id) = id {
                self.last_id = id.to_owned();
            }
            let id = std::mem::take(&mut self.last_id);
            self.event(kind, data, &id);
            self.last_id = id;
        } else {
            self.event(kind, data, id.unwrap_or_default());
        }
    }
}

/// A decoder, named after its crate.
pub struct Decoder {
    pub name: &'static str,
    pub decode: fn(&[Bytes], &mut Sink),
}

pub const ALL: &[Decoder] = &[
    Decoder { name: "relay", decode: relay },
    Decoder { name: "sse-core", decode: sse_core },
    Decoder { name: "sse-stream", decode: sse_stream },
    Decoder { name: "sseer", decode: sseer },
    Decoder { name: "sse-parse", decode: sse_parse },
    Decoder { name: "sse-codec", decode: sse_codec },
    Decoder { name: "eventsource-stream", decode: eventsource_stream },
    Decoder { name: "eventsource-client", decode: eventsource_client },
];

fn relay(chunks: &[Bytes], sink: &mut Sink) {
    let mut decoder = relay_proto::sse::Decoder::default();
    for chunk in chunks {
        // Like a reader: large chunks are handed over, and small ones are borrowed from a read buffer.
        if chunk.len() < 64 {
            decoder.feed_slice(chunk)
        } else {
            decoder.feed(chunk.clone())
        }
        while let Some(frame) = decoder.next_frame() {
            if let relay_proto::sse::Frame::Event(event) = frame {
                sink.event(event.kind(), event.data(), event.last_event_id());
            }
        }
    }
}

fn sse_core(chunks: &[Bytes], sink: &mut Sink) {
    // With its default limit of 512 KiB it would refuse the long lines.
    let limit = NonZeroUsize::new(16 << 20).expect("not zero");
    let mut decoder = sse_core::SseDecoder::with_limit(limit);
    for chunk in chunks {
        let mut chunk = &chunk[..];
        while let Some(event) = decoder.next(&mut chunk) {
            if let Ok(sse_core::SseEvent::Message(event)) = event {
                sink.event(&event.event, &event.data, event.last_event_id.as_deref().unwrap_or_default());
            }
        }
    }
}

fn bytes_stream(chunks: &[Bytes]) -> impl futures_util::Stream<Item = Result<Bytes, Infallible>> + Unpin {
    stream::iter(chunks.iter().cloned().map(Ok))
}

fn sse_stream(chunks: &[Bytes], sink: &mut Sink) {
    let mut events = sse_stream::SseByteStream::new(bytes_stream(chunks));
    block_on(async {
        while let Some(Ok(event)) = events.next().await {
            if let Some(data) = &event.data {
                sink.raw_event(event.event.as_deref().unwrap_or_default(), data, event.id.as_deref());
            }
        }
    });
}

fn sseer(chunks: &[Bytes], sink: &mut Sink) {
    let mut events = sseer::EventStream::new(bytes_stream(chunks));
    block_on(async {
        while let Some(Ok(event)) = events.next().await {
            sink.event(&event.event, &event.data, &event.id);
        }
    });
}

fn sse_parse(chunks: &[Bytes], sink: &mut Sink) {
    let mut parser = sse_parse::SseParser::new();
    for chunk in chunks {
        parser.feed(chunk);
        while let Some(event) = parser.next_event() {
            sink.event(&event.event, &event.data, &event.id);
        }
    }
}

/// Gives one chunk per read.
struct Reads<'a>(&'a [Bytes], usize);

impl futures_io::AsyncRead for Reads<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        into: &mut [u8],
    ) -> Poll<std::io::Result<usize>> {
        let Some((chunk, rest)) = self.0.split_first() else { return Poll::Ready(Ok(0)) };
        let left = &chunk[self.1..];
        let length = left.len().min(into.len());
        into[..length].copy_from_slice(&left[..length]);
        if length == left.len() {
            (self.0, self.1) = (rest, 0);
        } else {
            self.1 += length;
        }
        Poll::Ready(Ok(length))
    }
}

fn sse_codec(chunks: &[Bytes], sink: &mut Sink) {
    let mut events = sse_codec::decode_stream(Reads(chunks, 0));
    block_on(async {
        while let Some(Ok(event)) = events.next().await {
            if let sse_codec::Event::Message { id, event, data } = event {
                sink.raw_event(&event, &data, id.as_deref());
            }
        }
    });
}

fn eventsource_stream(chunks: &[Bytes], sink: &mut Sink) {
    let mut events = eventsource_stream::EventStream::new(bytes_stream(chunks));
    block_on(async {
        while let Some(Ok(event)) = events.next().await {
            sink.event(&event.event, &event.data, &event.id);
        }
    });
}

/// The parser of this crate is private; a transport that answers from memory is the closest way to measure it.
#[derive(Clone)]
struct Answer(Vec<Bytes>);

impl launchdarkly_sdk_transport::HttpTransport for Answer {
    fn request(&self, _: http::Request<Option<Bytes>>) -> launchdarkly_sdk_transport::ResponseFuture {
        let body: launchdarkly_sdk_transport::ByteStream =
            Box::pin(stream::iter(self.0.clone().into_iter().map(Ok)));
        let response = http::Response::builder().header("content-type", "text/event-stream").body(body);
        Box::pin(async { response.map_err(launchdarkly_sdk_transport::TransportError::new) })
    }
}

fn eventsource_client(chunks: &[Bytes], sink: &mut Sink) {
    use eventsource_client::{Client as _, SSE};
    let options = eventsource_client::ReconnectOptions::reconnect(false).build();
    let client = eventsource_client::ClientBuilder::for_url("http://localhost/")
        .expect("a valid URL")
        .reconnect(options)
        .build_with_transport(Answer(chunks.to_vec()));
    let mut events = client.stream();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    runtime.block_on(async {
        while let Some(Ok(event)) = events.next().await {
            if let SSE::Event(event) = event {
                sink.raw_event(&event.event_type, &event.data, event.id.as_deref());
            }
        }
    });
}

/// The speed of only finding line ends.
pub fn line_ends(chunks: &[Bytes]) {
    let count: usize = chunks.iter().map(|chunk| memchr::memchr2_iter(b'\n', b'\r', chunk).count()).sum();
    black_box(count);
}
