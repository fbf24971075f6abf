//! The same channels over each transport.

use std::time::Duration;

use bytes::Bytes;
use relay_parsec::{
    Client, ClientBuilder, Endpoint, MemoryTransport, PublishFailure, Receipt, SseConfig, SseTransport,
    Transport, WebSocketConfig, WebSocketTransport,
};
use relay_parsec_server::{ParsecServer, ServerConfig};
use relay_proto::parsec::Producer;
use relay_testkit::{CentrifugeServer, FaultLink, Faults};
use tokio_util::sync::{CancellationToken, DropGuard};

pub(crate) const CHANNEL: &str = "public:a.b";
/// The number of envelopes that a channel retains.
pub(crate) const KEPT: usize = 20;

/// A place with channels, and clients for it.
pub(crate) struct World {
    kind: Kind,
}

enum Kind {
    Memory(MemoryTransport),
    Sse { link: FaultLink, _server: DropGuard },
    Socket(CentrifugeServer),
}

impl World {
    pub(crate) async fn memory() -> Self {
        Self { kind: Kind::Memory(MemoryTransport::new().retain(KEPT, 1 << 20).queue(KEPT)) }
    }

    pub(crate) async fn sse() -> Self {
        let config = ServerConfig::default().retain_events(KEPT as u64).heartbeat(Duration::from_secs(2));
        let server = ParsecServer::bind("127.0.0.1:0".parse().unwrap(), config).await.unwrap();
        let link = FaultLink::start(server.local_addr(), 1, Faults::none()).await;
        let stop = CancellationToken::new();
        tokio::spawn(server.run(stop.clone()));
        Self { kind: Kind::Sse { link, _server: stop.drop_guard() } }
    }

    pub(crate) async fn websocket() -> Self {
        let server = CentrifugeServer::start().await;
        server.retain(KEPT);
        server.open(CHANNEL);
        Self { kind: Kind::Socket(server) }
    }

    /// The server, if the transport is a WebSocket.
    pub(crate) fn socket(&self) -> Option<&CentrifugeServer> {
        match &self.kind {
            Kind::Socket(server) => Some(server),
            _ => None,
        }
    }

    /// Whether the channels accept any text, valid or not.
    pub(crate) fn takes_anything(&self) -> bool {
        !matches!(self.kind, Kind::Sse { .. })
    }

    /// Whether there are connections that can be cut.
    pub(crate) fn connects(&self) -> bool {
        !matches!(self.kind, Kind::Memory(_))
    }

    pub(crate) fn transport(&self) -> Box<dyn Transport> {
        let (base, cap) = (Duration::from_millis(5), Duration::from_millis(50));
        let endpoint = |url: String| Endpoint::builder(url).client_id("tester").build().unwrap();
        match &self.kind {
            Kind::Memory(transport) => Box::new(transport.clone()),
            Kind::Sse { link, .. } => {
                Box::new(SseTransport::new(endpoint(link.url()), SseConfig::default().backoff(base, cap)))
            }
            Kind::Socket(server) => {
                let config = WebSocketConfig::default().backoff(base, cap);
                Box::new(WebSocketTransport::new(endpoint(server.url()), config))
            }
        }
    }

    pub(crate) fn builder(&self, producer: &str) -> ClientBuilder {
        Client::builder_boxed(self.transport())
            .producer(Producer::service(producer.to_owned()))
            .backoff(Duration::from_millis(5), Duration::from_millis(50))
    }

    pub(crate) fn client(&self, producer: &str) -> Client {
        self.builder(producer).build().unwrap()
    }

    /// Publishes a text as it is.
    pub(crate) async fn publish(&self, text: impl Into<Bytes>) -> Result<Receipt, PublishFailure> {
        self.transport().publish(CHANNEL, text.into()).await
    }

    /// Publishes an envelope with that number.
    pub(crate) async fn say(&self, producer: &str, sequence: i64) {
        self.publish(envelope(producer, sequence)).await.unwrap();
    }

    /// Breaks every connection.
    pub(crate) fn cut(&self) {
        match &self.kind {
            Kind::Memory(_) => {}
            Kind::Sse { link, .. } => link.cut_all(),
            Kind::Socket(server) => server.cut(),
        }
    }
}

/// A valid envelope.
pub(crate) fn envelope(producer: &str, sequence: i64) -> String {
    format!(
        r#"{{"channel":"{CHANNEL}","sequence":{sequence},"producer":{{"id":"{producer}","kind":"service"}},"aspect":"data","payload":{sequence},"produced_at":"2026-05-27T14:22:09.331Z"}}"#
    )
}
