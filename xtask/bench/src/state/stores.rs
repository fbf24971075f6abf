//! The stores: each reads the bytes on the wire and keeps the pods.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use k8s_openapi::api::core::v1;
use kube::core::WatchEvent;
use kube::runtime::{reflector, watcher};
use relay_proto::pods::{Epoch, ListDecoder, ListFormat, ListLimits, Message, PodList};
use relay_proto::sse;
use relay_state::pods::{PodCache, Pods};
use serde::Deserialize;

use super::corpus::{Cluster, EPOCH, Wire};

/// A store of pods under test.
pub trait Store {
    /// The next events, in this store's own format.
    fn events(&self, cluster: &mut Cluster, events: u64) -> Wire;

    /// Decodes and applies a chunk of the stream. With `snapshots`, takes a snapshot after each event and keeps it
    /// until the next one. Returns the number of events.
    fn feed(&mut self, chunk: &Bytes, snapshots: bool) -> Result<u64>;

    /// The number of pods with this value of the label `run`.
    fn group(&self, value: &str) -> usize;

    /// The number of pods and the sum of their restarts, in which all stores must agree.
    fn digest(&self) -> (usize, u64);
}

/// The names of the stores.
pub const NAMES: [&str; 3] = ["relay", "kube-runtime", "hashmap"];

/// A store that holds the cluster's pods.
pub fn seeded(name: &str, cluster: &Cluster) -> Result<Box<dyn Store>> {
    Ok(match name {
        "relay" => Box::new(Relay::seeded(cluster)?),
        "kube-runtime" => Box::new(Kube::seeded(cluster)?),
        "hashmap" => Box::new(Plain::seeded(cluster)?),
        _ => anyhow::bail!("no store is called {name}"),
    })
}

struct Relay {
    decoder: sse::Decoder,
    cache: PodCache,
    epoch: Epoch,
    snapshot: Pods,
}

impl Relay {
    fn seeded(cluster: &Cluster) -> Result<Self> {
        let mut cache = PodCache::new();
        cache.seed(&relay_list(cluster)?);
        Ok(Self {
            decoder: sse::Decoder::default(),
            cache,
            epoch: Epoch::new(EPOCH),
            snapshot: Pods::default(),
        })
    }
}

/// The list, decoded from NDJSON as a client does.
fn relay_list(cluster: &Cluster) -> Result<PodList> {
    let mut decoder = ListDecoder::new(ListFormat::Ndjson, ListLimits::default());
    decoder.feed(format!("{{\"hash\":\"h\",\"sequence\":0,\"epoch\":\"{EPOCH}\"}}\n").as_bytes())?;
    let mut count = 0;
    for mut pod in cluster.relay_list() {
        pod.push('\n');
        decoder.feed(pod.as_bytes())?;
        count += 1;
    }
    decoder.feed(format!("{{\"end\":true,\"count\":{count}}}\n").as_bytes())?;
    Ok(decoder.finish()?)
}

impl Store for Relay {
    fn events(&self, cluster: &mut Cluster, events: u64) -> Wire {
        cluster.relay_events(events)
    }

    fn feed(&mut self, chunk: &Bytes, snapshots: bool) -> Result<u64> {
        let mut events = 0;
        self.decoder.feed(chunk.clone());
        while let Some(frame) = self.decoder.next_frame() {
            let sse::Frame::Event(event) = frame else { continue };
            let Message::Pod(event) = Message::decode(event.kind(), event.last_event_id(), event.data())
            else {
                anyhow::bail!("a message is not a pod event");
            };
            self.cache.apply(&event, Some(&self.epoch));
            if snapshots {
                self.snapshot = self.cache.pods();
            }
            events += 1;
        }
        Ok(events)
    }

    fn group(&self, value: &str) -> usize {
        self.cache.pods().group("run", value).len()
    }

    fn digest(&self) -> (usize, u64) {
        let pods = self.cache.pods();
        let restarts = pods.iter().flat_map(|pod| pod.containers()).map(|c| u64::from(c.restart_count)).sum();
        (pods.len(), restarts)
    }
}

/// Splits the stream into whole lines, which the other two need before decoding.
#[derive(Default)]
struct Lines(Vec<u8>);

impl Lines {
    fn feed(&mut self, chunk: &[u8], mut line: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let mut rest = chunk;
        while let Some(end) = memchr::memchr(b'\n', rest) {
            if self.0.is_empty() {
                line(&rest[..end])?;
            } else {
                self.0.extend_from_slice(&rest[..end]);
                line(&self.0)?;
                self.0.clear();
            }
            rest = &rest[end + 1..];
        }
        self.0.extend_from_slice(rest);
        Ok(())
    }
}

struct Kube {
    lines: Lines,
    writer: reflector::store::Writer<v1::Pod>,
    reader: reflector::Store<v1::Pod>,
    snapshot: Vec<Arc<v1::Pod>>,
}

impl Kube {
    fn seeded(cluster: &Cluster) -> Result<Self> {
        let (reader, mut writer) = reflector::store();
        writer.apply_watcher_event(&watcher::Event::Init);
        for pod in cluster.kube_list() {
            writer.apply_watcher_event(&watcher::Event::InitApply(serde_json::from_str(&pod)?));
        }
        writer.apply_watcher_event(&watcher::Event::InitDone);
        Ok(Self { lines: Lines::default(), writer, reader, snapshot: Vec::new() })
    }
}

impl Store for Kube {
    fn events(&self, cluster: &mut Cluster, events: u64) -> Wire {
        cluster.kube_events(events)
    }

    fn feed(&mut self, chunk: &Bytes, snapshots: bool) -> Result<u64> {
        let mut events = 0;
        self.lines.feed(chunk, |line| {
            let event = match serde_json::from_slice(line)? {
                WatchEvent::Added(pod) | WatchEvent::Modified(pod) => watcher::Event::Apply(pod),
                WatchEvent::Deleted(pod) => watcher::Event::Delete(pod),
                _ => anyhow::bail!("an event that is not about a pod"),
            };
            self.writer.apply_watcher_event(&event);
            if snapshots {
                self.snapshot = self.reader.state();
            }
            events += 1;
            Ok(())
        })?;
        Ok(events)
    }

    fn group(&self, value: &str) -> usize {
        let of_group = |pod: &v1::Pod| {
            pod.metadata.labels.as_ref().and_then(|labels| labels.get("run")).is_some_and(|run| run == value)
        };
        self.reader.state_filter(of_group).len()
    }

    fn digest(&self) -> (usize, u64) {
        let pods = self.reader.state();
        let of_pod = |pod: &Arc<v1::Pod>| -> u64 {
            let statuses = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
            statuses.map(|status| status.restart_count as u64).sum()
        };
        (pods.len(), pods.iter().map(of_pod).sum())
    }
}

/// A simple program by hand: a derived struct with every field, in a hash map of `Arc`s, read from the relay's stream.
struct Plain {
    lines: Lines,
    pods: HashMap<(String, String), Arc<PlainPod>>,
    snapshot: HashMap<(String, String), Arc<PlainPod>>,
}

#[derive(Deserialize)]
struct PlainEvent {
    #[serde(rename = "type")]
    kind: String,
    #[serde(rename = "hash")]
    _hash: String,
    #[serde(rename = "sequence")]
    _sequence: u64,
    pod: PlainPod,
}

#[derive(Deserialize)]
#[allow(dead_code, reason = "held as a program that needs them would")]
struct PlainPod {
    namespace: String,
    name: String,
    uid: Option<String>,
    resource_version: Option<String>,
    labels: BTreeMap<String, String>,
    annotations: BTreeMap<String, String>,
    phase: Option<String>,
    ready: bool,
    node_name: Option<String>,
    pod_ip: Option<String>,
    host_ip: Option<String>,
    created_at: Option<String>,
    started_at: Option<String>,
    deleted_at: Option<String>,
    reason: Option<String>,
    message: Option<String>,
    owner: Option<PlainOwner>,
    containers: Vec<PlainContainer>,
}

#[derive(Deserialize)]
#[allow(dead_code, reason = "held as a program that needs them would")]
struct PlainOwner {
    kind: String,
    name: String,
}

#[derive(Deserialize)]
#[allow(dead_code, reason = "held as a program that needs them would")]
struct PlainContainer {
    name: String,
    image: Option<String>,
    ready: bool,
    restart_count: u32,
    state: Option<String>,
    reason: Option<String>,
    exit_code: Option<i32>,
}

impl Plain {
    fn seeded(cluster: &Cluster) -> Result<Self> {
        let mut pods = HashMap::new();
        for pod in cluster.relay_list() {
            let pod: PlainPod = serde_json::from_str(&pod)?;
            pods.insert((pod.namespace.clone(), pod.name.clone()), Arc::new(pod));
        }
        Ok(Self { lines: Lines::default(), pods, snapshot: HashMap::new() })
    }
}

impl Store for Plain {
    fn events(&self, cluster: &mut Cluster, events: u64) -> Wire {
        cluster.relay_events(events)
    }

    fn feed(&mut self, chunk: &Bytes, snapshots: bool) -> Result<u64> {
        let mut events = 0;
        self.lines.feed(chunk, |line| {
            let Some(data) = line.strip_prefix(b"data: ") else { return Ok(()) };
            let event: PlainEvent = serde_json::from_slice(data)?;
            let key = (event.pod.namespace.clone(), event.pod.name.clone());
            if event.kind == "DELETED" {
                self.pods.remove(&key);
            } else {
                self.pods.insert(key, Arc::new(event.pod));
            }
            if snapshots {
                self.snapshot = self.pods.clone();
            }
            events += 1;
            Ok(())
        })?;
        Ok(events)
    }

    fn group(&self, value: &str) -> usize {
        self.pods.values().filter(|pod| pod.labels.get("run").is_some_and(|run| run == value)).count()
    }

    fn digest(&self) -> (usize, u64) {
        let restarts =
            self.pods.values().flat_map(|pod| &pod.containers).map(|c| u64::from(c.restart_count)).sum();
        (self.pods.len(), restarts)
    }
}

/// Checks that all stores have the same content after the same events.
pub fn agree() -> Result<()> {
    let mut agreed = None;
    for name in NAMES {
        let mut cluster = Cluster::new(500, 50);
        let mut store = seeded(name, &cluster)?;
        let wire = store.events(&mut cluster, 5_000);
        let mut events = 0;
        for (nth, chunk) in wire.chunks.iter().enumerate() {
            events += store.feed(chunk, nth % 2 == 0)?;
        }
        ensure!(events == wire.events, "{name} sees {events} events of {}", wire.events);
        let seen = (store.digest(), store.group("d-7"));
        let expected = *agreed.get_or_insert(seen);
        ensure!(seen == expected, "{name} holds {seen:?}, {} holds {expected:?}", NAMES[0]);
    }
    agreed.map(drop).context("nobody took part")
}
