//! A stream followed for the harness.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use http::{Method, Request, header};
use http_body_util::{BodyExt, Full};
use relay_proto::eventsource::{Cause, Config, Item, Refused, Stop};
use relay_proto::sse::Frame;
use relay_transport::{EventStream, Handle, HttpClient};
use serde::{Deserialize, Serialize};
use tokio::task::JoinHandle;

/// The harness's options for a stream.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Options {
    stream_url: String,
    callback_url: String,
    initial_delay_ms: Option<u64>,
    read_timeout_ms: Option<u64>,
    #[serde(default)]
    last_event_id: String,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    method: Option<String>,
    body: Option<String>,
}

/// An order for a stream.
#[derive(Deserialize)]
pub(crate) struct Order {
    command: String,
}

/// A message for the harness.
#[derive(Serialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
enum Message<'m> {
    Event { event: Event<'m> },
    Comment { comment: &'m str },
    Error { error: String },
}

#[derive(Serialize)]
struct Event<'m> {
    #[serde(rename = "type")]
    kind: &'m str,
    data: &'m str,
    id: &'m str,
}

/// A stream being followed. Dropping it ends the stream and its callbacks.
pub(crate) struct Subject {
    handle: Handle,
    following: JoinHandle<()>,
}

impl Subject {
    /// `None` if the options do not give a valid request.
    pub(crate) fn start(http: HttpClient, options: Options) -> Option<Self> {
        let template = options.request()?;
        let stream = EventStream::new(http.clone(), options.config(), move |_| {
            Box::pin(std::future::ready(Ok::<_, Refused>(template.clone())))
        });
        let handle = stream.handle();
        let following = tokio::spawn(follow(http, stream, options.callback_url));
        Some(Self { handle, following })
    }

    /// Carries out an order. Returns whether it was understood.
    pub(crate) fn obey(&self, order: &Order) -> bool {
        match order.command.as_str() {
            "restart" => self.handle.restart("ordered"),
            // Events of every type are reported anyway.
            "listen" => {}
            _ => return false,
        }
        true
    }
}

impl Drop for Subject {
    fn drop(&mut self) {
        self.following.abort();
    }
}

impl Options {
    fn request(&self) -> Option<Request<Full<Bytes>>> {
        let method = Method::from_bytes(self.method.as_deref().unwrap_or("GET").as_bytes()).ok()?;
        let mut request = Request::builder().method(method).uri(&self.stream_url);
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        request.body(self.body.clone().map(Full::from).unwrap_or_default()).ok()
    }

    fn config(&self) -> Config {
        let delay = self.initial_delay_ms.map_or(Duration::from_secs(1), Duration::from_millis);
        Config::default()
            .base(delay)
            .floor(Duration::from_millis(1))
            .idle(self.read_timeout_ms.map(Duration::from_millis))
            .last_event_id(self.last_event_id.as_str())
    }
}

/// Reports every item to the harness, one after the other, until the harness no longer listens.
async fn follow(http: HttpClient, mut stream: EventStream, callback_url: String) {
    let mut number = 0;
    while let Some(item) = stream.next().await {
        let message = match &item {
            Ok(Item::Frame(Frame::Event(event))) => {
                let event = Event { kind: event.kind(), data: event.data(), id: event.last_event_id() };
                Message::Event { event }
            }
            Ok(Item::Frame(Frame::Comment(comment))) => Message::Comment { comment: comment.text() },
            // A server may end an open stream, and the harness itself may have ordered a restart; neither is an error.
            Ok(Item::Ended(ended)) if ended.opened && !matches!(ended.cause, Cause::Idle(_)) => continue,
            Ok(Item::Ended(ended)) => Message::Error { error: ended.cause.to_string() },
            Err(Stop::NoContent) => continue,
            Err(stop) => Message::Error { error: stop.to_string() },
            Ok(_) => continue,
        };
        number += 1;
        if tell(&http, &format!("{callback_url}/{number}"), &message).await.is_none() {
            return;
        }
    }
}

async fn tell(http: &HttpClient, url: &str, message: &Message<'_>) -> Option<()> {
    let body = serde_json::to_vec(message).ok()?;
    let request =
        Request::post(url).header(header::CONTENT_TYPE, "application/json").body(Full::from(body)).ok()?;
    let response = http.send(request).await.ok()?;
    // The body is read to its end, so that the connection can be used again.
    response.into_body().collect().await.ok().map(drop)
}
