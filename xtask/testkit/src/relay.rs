//! Scripts of a pod relay.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use relay_proto::pods::{Endpoints, Pod, PodBuilder};
use relay_proto::sse::Encoder;
use relay_proto::time::Timestamp;
use serde_json::{Map, Value, json};

use super::gate::Gate;
use super::peer::{Request, Script};
use super::reply::Reply;

/// A scripted pod relay: answers for `/pods`, `/auth/session`, `/health` and one [`Conversation`] per stream
/// connection.
///
/// ```no_run
/// use relay_testkit::{Conversation, Peer, RelayScript};
/// # async fn script() {
/// let web = Conversation::sample_pod("web-1");
/// let peer = Peer::start(
///     RelayScript::new("e1")
///         .sessions()
///         .seed(3, [&web])
///         .stream(Conversation::new("e1").connected(3).catchup_complete().pod("MODIFIED", &web).cut())
///         .stream(Conversation::new("e1").connected(4).catchup_complete().silence()),
/// )
/// .await;
/// # }
/// ```
#[derive(Debug)]
pub struct RelayScript {
    epoch: String,
    prefix: String,
    paths: Endpoints,
    script: Script,
}

impl RelayScript {
    /// A relay whose log has this epoch. At first it only answers `/health`.
    pub fn new(epoch: &str) -> Self {
        Self {
            epoch: epoch.into(),
            prefix: String::new(),
            paths: Endpoints::default(),
            script: Script::new(),
        }
        .with(|paths| paths.health.clone(), |_| Reply::json(200, &json!({"status": "ok"})))
    }

    /// Puts a path prefix, such as `/relay`, before the paths of everything added after it.
    #[must_use]
    pub fn prefix(mut self, prefix: &str) -> Self {
        self.prefix = prefix.into();
        self
    }

    /// The next answer to `/pods`: these pods at this sequence. The last answer is not repeated.
    #[must_use]
    pub fn seed<'a>(self, sequence: u64, pods: impl IntoIterator<Item = &'a Pod>) -> Self {
        let (path, reply) = (self.paths.pods.clone(), pods_reply(&self.epoch, sequence, pods));
        self.on(&path, reply)
    }

    /// The next stream connection.
    #[must_use]
    pub fn stream(self, conversation: impl Into<Reply>) -> Self {
        let path = self.paths.stream.clone();
        self.on(&path, conversation.into())
    }

    /// Answers requests for tickets with `s-1`, `s-2` and so on. A test checks in the recorded requests whether a
    /// stream was opened with the right one.
    #[must_use]
    pub fn sessions(self) -> Self {
        let minted = AtomicU64::new(0);
        self.with(
            |paths| paths.session.clone(),
            move |_| session_reply(&format!("s-{}", minted.fetch_add(1, Ordering::Relaxed) + 1)),
        )
    }

    /// Any other reply, or a fault instead of one: 401 for a stream, 503 for a list.
    #[must_use]
    pub fn on(mut self, path: &str, reply: Reply) -> Self {
        self.script = self.script.on(&format!("{}{path}", self.prefix), reply);
        self
    }

    /// The reply of a path when no other reply is left for it.
    #[must_use]
    pub fn always(mut self, path: &str, reply: Reply) -> Self {
        self.script = self.script.always(&format!("{}{path}", self.prefix), reply);
        self
    }

    fn with(
        mut self,
        path: impl Fn(&Endpoints) -> String,
        reply: impl Fn(&Request) -> Reply + Send + Sync + 'static,
    ) -> Self {
        self.script = self.script.answer(&format!("{}{}", self.prefix, path(&self.paths)), reply);
        self
    }
}

impl From<RelayScript> for Script {
    fn from(relay: RelayScript) -> Self {
        relay.script
    }
}

/// The messages of a relay on one stream connection. They are counted as a relay does: sequences grow by one,
/// `previous_hash` is the hash before, and `sent` is the number of sent messages. The hash of sequence `n` in epoch `e`
/// is `e.n` ([`hash_of`]).
#[derive(Debug, Clone)]
pub struct Conversation {
    epoch: String,
    filtered: bool,
    sequence: u64,
    sent: u64,
    replayed: u64,
    reply: Reply,
}

impl Conversation {
    /// A 200 answer of a relay whose log has this epoch, without messages at first.
    pub fn new(epoch: &str) -> Self {
        Self { epoch: epoch.into(), filtered: false, sequence: 0, sent: 0, replayed: 0, reply: Reply::sse() }
    }

    /// Sends the messages of a filtered stream: `sent` instead of `previous_hash`. Call it before
    /// [`connected`](Self::connected).
    #[must_use]
    pub fn filtered(mut self) -> Self {
        self.filtered = true;
        self
    }

    /// Uses chunked transfer encoding, as hyper's servers do.
    #[must_use]
    pub fn chunked(mut self) -> Self {
        self.reply = self.reply.chunked();
        self
    }

    /// `connected`: the events after this sequence follow, and the log's head is at this sequence.
    #[must_use]
    pub fn connected(self, after: u64) -> Self {
        self.connected_to(after, after)
    }

    /// `connected` with another head.
    #[must_use]
    pub fn connected_to(mut self, after: u64, head: u64) -> Self {
        let position = |sequence| json!({"hash": hash_of(&self.epoch, sequence), "sequence": sequence});
        let data = json!({
            "protocol": 1, "client_id": "test", "epoch": self.epoch, "head": position(head),
            "resumes_after": position(after), "filtered": self.filtered, "namespaces": [], "heartbeat_seconds": 15,
        });
        self.sequence = after;
        self.event("connected", None, &data)
    }

    /// The next event of the log.
    #[must_use]
    pub fn pod(self, kind: &str, pod: &Pod) -> Self {
        let next = self.sequence + 1;
        self.pod_at(next, kind, pod)
    }

    /// An event with any sequence: repeated, out of order, or after a hole. The next event follows it. Its
    /// `previous_hash` is that of the sequence before it; on a filtered stream it counts as sent.
    #[must_use]
    pub fn pod_at(mut self, sequence: u64, kind: &str, pod: &Pod) -> Self {
        let bytes = self.pod_bytes(sequence, kind, pod);
        self.sequence = sequence;
        self.sent += 1;
        self.replayed += 1;
        self.bytes(bytes)
    }

    /// The next event, cut after half of its bytes: the connection then ends with a FIN.
    #[must_use]
    pub fn cut_inside(self, kind: &str, pod: &Pod) -> Self {
        let mut bytes = self.pod_bytes(self.sequence + 1, kind, pod);
        bytes.truncate(bytes.len() / 2);
        self.bytes(bytes).cut()
    }

    /// Loses events: the log continues after them, and no message says so.
    #[must_use]
    pub fn lose(mut self, events: u64) -> Self {
        self.sequence += events;
        self.sent += events;
        self
    }

    /// `catchup_complete` at the last sequence.
    #[must_use]
    pub fn catchup_complete(self) -> Self {
        let data = self.positioned(json!({"replayed": self.replayed}));
        self.event("catchup_complete", None, &data)
    }

    /// `heartbeat` at the last sequence, with a live source.
    #[must_use]
    pub fn heartbeat(self) -> Self {
        self.heartbeat_with(json!({}))
    }

    /// `heartbeat` with other fields, such as `{"catching_up": true}` or `{"source": "stale"}`.
    #[must_use]
    pub fn heartbeat_with(self, fields: Value) -> Self {
        let mut beat = json!({"catching_up": false, "time": time_of(self.sequence), "source": "live", "stale_since": null});
        if let (Value::Object(beat), Value::Object(fields)) = (&mut beat, fields) {
            beat.extend(fields);
        }
        let data = self.positioned(beat);
        self.event("heartbeat", None, &data)
    }

    /// `gap`: the events after this sequence follow.
    #[must_use]
    pub fn gap(mut self, reason: &str, sequence: u64) -> Self {
        self.sequence = sequence;
        self.sent += 1;
        let data = self.positioned(json!({
            "reason": reason, "epoch": self.epoch, "requested_hash": null,
            "oldest_hash": hash_of(&self.epoch, sequence + 1), "missed": null,
        }));
        self.event("gap", None, &data)
    }

    /// `closing`, with a `retry:` line in its block.
    #[must_use]
    pub fn closing(self, reason: &str, retry: Duration) -> Self {
        let mut bytes = Vec::new();
        Encoder::new(&mut bytes).retry(retry);
        bytes.extend_from_slice(&sse_event("closing", None, &json!({"reason": reason}).to_string()));
        self.bytes(bytes)
    }

    /// Any SSE event.
    #[must_use]
    pub fn event(self, kind: &str, id: Option<&str>, data: &Value) -> Self {
        self.bytes(sse_event(kind, id, &data.to_string()))
    }

    /// Any bytes.
    #[must_use]
    pub fn bytes(mut self, bytes: impl Into<Bytes>) -> Self {
        self.reply = self.reply.send(bytes);
        self
    }

    /// Waits on tokio's time.
    #[must_use]
    pub fn delay(mut self, time: Duration) -> Self {
        self.reply = self.reply.delay(time);
        self
    }

    /// Waits until the gate is open.
    #[must_use]
    pub fn hold(mut self, gate: &Gate) -> Self {
        self.reply = self.reply.hold(gate);
        self
    }

    /// Ends the connection with a FIN. So does a conversation that just ends.
    #[must_use]
    pub fn cut(mut self) -> Self {
        self.reply = self.reply.cut();
        self
    }

    /// Ends the connection with an RST. Bytes that the client has not read by then may be lost.
    #[must_use]
    pub fn reset(mut self) -> Self {
        self.reply = self.reply.reset();
        self
    }

    /// Sends nothing more, and keeps the connection open.
    #[must_use]
    pub fn silence(mut self) -> Self {
        self.reply = self.reply.silence();
        self
    }

    /// A running pod `prod/NAME` with labels `app=web` and `run=d-1`, the same every time.
    pub fn sample_pod(name: &str) -> Pod {
        PodBuilder::new("prod", name)
            .uid(Some(&format!("uid-{name}")))
            .resource_version(Some("1"))
            .labels([("app", "web"), ("run", "d-1")])
            .phase(Some("Running"))
            .ready(true)
            .node_name(Some("node-1"))
            .build()
    }

    fn pod_bytes(&self, sequence: u64, kind: &str, pod: &Pod) -> Vec<u8> {
        let hash = hash_of(&self.epoch, sequence);
        let mut data = json!({
            "type": kind, "hash": hash, "sequence": sequence, "timestamp": time_of(sequence), "pod": pod,
        });
        if self.filtered {
            data["sent"] = (self.sent + 1).into();
        } else {
            data["previous_hash"] = hash_of(&self.epoch, sequence.saturating_sub(1)).into();
        }
        sse_event("pod", Some(&hash), &data.to_string()).into()
    }

    /// Adds the position, and the fields of a filtered stream.
    fn positioned(&self, data: Value) -> Value {
        let mut fields = match data {
            Value::Object(fields) => fields,
            _ => Map::new(),
        };
        fields.insert("hash".into(), hash_of(&self.epoch, self.sequence).into());
        fields.insert("sequence".into(), self.sequence.into());
        if self.filtered {
            fields.insert("sent".into(), self.sent.into());
        }
        Value::Object(fields)
    }
}

impl From<Conversation> for Reply {
    fn from(conversation: Conversation) -> Self {
        conversation.reply
    }
}

/// The hash that scripted relays give to a sequence.
pub fn hash_of(epoch: &str, sequence: u64) -> String {
    format!("{epoch}.{sequence}")
}

/// One SSE event with its blank line; lines of `data` become `data:` lines.
///
/// # Panics
/// When the kind or the id contains a line end or NUL.
pub fn sse_event(kind: &str, id: Option<&str>, data: &str) -> Bytes {
    let mut bytes = Vec::new();
    Encoder::new(&mut bytes).event(Some(kind), id, data).expect("a kind and an id of one line");
    bytes.into()
}

/// An answer to `/pods` as NDJSON.
///
/// # Panics
/// Never: pods are always JSON.
pub fn pods_reply<'a>(epoch: &str, sequence: u64, pods: impl IntoIterator<Item = &'a Pod>) -> Reply {
    let pods: Vec<&Pod> = pods.into_iter().collect();
    let head = json!({
        "count": pods.len(), "hash": hash_of(epoch, sequence), "sequence": sequence, "epoch": epoch,
        "as_of": time_of(sequence),
    });
    let mut body = format!("{head}\n");
    for pod in &pods {
        body.push_str(&serde_json::to_string(pod).expect("a pod is JSON"));
        body.push('\n');
    }
    body.push_str(&format!("{}\n", json!({"end": true, "count": pods.len()})));
    Reply::new(200, "application/x-ndjson", body)
}

/// An answer to `/auth/session` with this ticket, valid for 30 s.
pub fn session_reply(id: &str) -> Reply {
    Reply::json(201, &json!({"session_id": id, "expires_at": time_of(30), "expires_in_seconds": 30}))
}

/// A time that only depends on the sequence.
fn time_of(sequence: u64) -> Timestamp {
    const BASE: i64 = 1_795_252_800_000; // 2026-11-21T08:00:00Z
    Timestamp::from_unix_millis(BASE.saturating_add_unsigned(sequence.saturating_mul(1_000)))
}

#[cfg(test)]
mod tests;
