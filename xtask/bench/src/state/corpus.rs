//! A cluster of pods and its changes, as a relay and as an API server write them.

use std::fmt::Write as _;

use bytes::Bytes;

/// The pods, and a source of changes to them. The same seed gives the same texts.
pub struct Cluster {
    pods: u64,
    groups: u64,
    random: u64,
    sequence: u64,
}

/// Bytes to decode, and the number of events in them.
pub struct Wire {
    pub chunks: Vec<Bytes>,
    pub events: u64,
}

/// The number of bytes of a read from a socket.
const CHUNK: usize = 16 << 10;
/// One in this many changes is a deletion, which is followed by an addition with the same name.
const CHURN: u64 = 20;

/// The state of one pod, from which its texts are made.
struct State {
    number: u64,
    version: u64,
    generation: u64,
    ready: bool,
    restarts: u64,
}

impl Cluster {
    /// This many pods, spread over this many values of the label `run`.
    pub fn new(pods: u64, groups: u64) -> Self {
        Self { pods, groups: groups.min(pods), random: 0x9e37_79b9_7f4a_7c15, sequence: pods }
    }

    /// The list of all pods, one text each.
    pub fn relay_list(&self) -> impl Iterator<Item = String> + '_ {
        (0..self.pods).map(|number| self.relay_pod(&State::first(number)))
    }

    /// The same list as objects of Kubernetes.
    pub fn kube_list(&self) -> impl Iterator<Item = String> + '_ {
        (0..self.pods).map(|number| self.kube_pod(&State::first(number)))
    }

    /// The next changes as an event stream.
    pub fn relay_events(&mut self, events: u64) -> Wire {
        self.wire(events, |cluster, kind, state, out| {
            let (hash, previous) = (hash(cluster.sequence), hash(cluster.sequence - 1));
            let _ = write!(
                out,
                "event: pod\nid: {hash}\ndata: {{\"type\":\"{kind}\",\"previous_hash\":\"{previous}\",\"hash\":\"{hash}\",\
                 \"sequence\":{},\"timestamp\":\"2026-11-21T09:00:01.5Z\",\"pod\":{}}}\n\n",
                cluster.sequence,
                cluster.relay_pod(state)
            );
        })
    }

    /// The same changes as a watch, with a line of JSON each.
    pub fn kube_events(&mut self, events: u64) -> Wire {
        self.wire(events, |cluster, kind, state, out| {
            let _ = writeln!(out, "{{\"type\":\"{kind}\",\"object\":{}}}", cluster.kube_pod(state));
        })
    }

    fn wire(&mut self, events: u64, mut write: impl FnMut(&Self, &str, &State, &mut String)) -> Wire {
        let (mut chunks, mut out) = (Vec::new(), String::new());
        let mut deleted: Option<State> = None;
        for nth in 0..events {
            self.sequence += 1;
            let (kind, state) = match deleted.take() {
                Some(old) => ("ADDED", State { generation: old.generation + self.sequence, ..old }),
                None if nth % CHURN == CHURN - 2 => ("DELETED", self.change()),
                None => ("MODIFIED", self.change()),
            };
            write(self, kind, &State { version: 812_345 + self.sequence, ..state }, &mut out);
            if kind == "DELETED" {
                deleted = Some(state);
            }
            while out.len() >= CHUNK {
                let rest = out.split_off(CHUNK);
                chunks.push(Bytes::from(std::mem::replace(&mut out, rest)));
            }
        }
        chunks.push(out.into());
        Wire { chunks, events }
    }

    fn change(&mut self) -> State {
        // xorshift64*
        self.random ^= self.random >> 12;
        self.random ^= self.random << 25;
        self.random ^= self.random >> 27;
        let random = self.random.wrapping_mul(0x2545_f491_4f6c_dd1d);
        State {
            number: (random >> 8) % self.pods,
            version: 0,
            generation: 0,
            ready: random & 1 == 0,
            restarts: (random >> 1) & 7,
        }
    }

    pub fn group_of(&self, number: u64) -> String {
        format!("d-{}", number % self.groups)
    }

    fn relay_pod(&self, state: &State) -> String {
        let Names { namespace, name, owner, uid, node, ip, host } = self.names(state);
        let State { number, version, ready, restarts, .. } = state;
        let run = self.group_of(*number);
        format!(
            "{{\"namespace\":\"{namespace}\",\"name\":\"{name}\",\"uid\":\"{uid}\",\"resource_version\":\"{version}\",\
             \"labels\":{{\"app\":\"web\",\"pod-template-hash\":\"7d9f{run}\",\"run\":\"{run}\",\"tier\":\"front\"}},\"annotations\":{{}},\
             \"phase\":\"Running\",\"ready\":{ready},\"node_name\":\"{node}\",\"pod_ip\":\"{ip}\",\"host_ip\":\"{host}\",\
             \"created_at\":\"2026-11-21T08:59:00Z\",\"started_at\":\"2026-11-21T08:59:01Z\",\"deleted_at\":null,\"reason\":null,\
             \"message\":null,\"owner\":{{\"kind\":\"ReplicaSet\",\"name\":\"{owner}\"}},\"containers\":[{{\"name\":\"app\",\
             \"image\":\"images.example/shop/web:1.4.2\",\"ready\":{ready},\"restart_count\":{restarts},\"state\":\"running\",\
             \"reason\":null,\"exit_code\":null}},{{\"name\":\"proxy\",\"image\":\"images.example/mesh/proxy:3.0.1\",\"ready\":true,\
             \"restart_count\":0,\"state\":\"running\",\"reason\":null,\"exit_code\":null}}]}}"
        )
    }

    fn kube_pod(&self, state: &State) -> String {
        let Names { namespace, name, owner, uid, node, ip, host } = self.names(state);
        let State { number, version, ready, restarts, .. } = state;
        let run = self.group_of(*number);
        let condition = if *ready { "True" } else { "False" };
        format!(
            "{{\"apiVersion\":\"v1\",\"kind\":\"Pod\",\"metadata\":{{\"namespace\":\"{namespace}\",\"name\":\"{name}\",\"uid\":\"{uid}\",\
             \"resourceVersion\":\"{version}\",\"creationTimestamp\":\"2026-11-21T08:59:00Z\",\"labels\":{{\"app\":\"web\",\
             \"pod-template-hash\":\"7d9f{run}\",\"run\":\"{run}\",\"tier\":\"front\"}},\"ownerReferences\":[{{\"apiVersion\":\"apps/v1\",\
             \"kind\":\"ReplicaSet\",\"name\":\"{owner}\",\"uid\":\"{uid}\",\"controller\":true}}]}},\"spec\":{{\"nodeName\":\"{node}\",\
             \"containers\":[{{\"name\":\"app\",\"image\":\"images.example/shop/web:1.4.2\"}},{{\"name\":\"proxy\",\
             \"image\":\"images.example/mesh/proxy:3.0.1\"}}]}},\"status\":{{\"phase\":\"Running\",\
             \"podIP\":\"{ip}\",\"hostIP\":\"{host}\",\"startTime\":\"2026-11-21T08:59:01Z\",\"conditions\":[{{\"type\":\"Ready\",\
             \"status\":\"{condition}\"}}],\"containerStatuses\":[{{\"name\":\"app\",\"image\":\"images.example/shop/web:1.4.2\",\
             \"imageID\":\"\",\"ready\":{ready},\"restartCount\":{restarts},\"state\":{{\"running\":{{}}}}}},\
             {{\"name\":\"proxy\",\"image\":\"images.example/mesh/proxy:3.0.1\",\"imageID\":\"\",\"ready\":true,\
             \"restartCount\":0,\"state\":{{\"running\":{{}}}}}}]}}}}"
        )
    }

    fn names(&self, state: &State) -> Names {
        let number = state.number;
        let owner = format!("web-{}-7d9f", self.group_of(number));
        Names {
            namespace: format!("team-{}", number % 40),
            name: format!("{owner}-{number:07}"),
            uid: format!("6f1c0c1e-{:04x}-4000-8000-{number:012x}", state.generation & 0xffff),
            node: format!("node-{}", number % 5000),
            ip: format!("10.{}.{}.{}", number >> 16 & 255, number >> 8 & 255, number & 255),
            host: format!("10.200.{}.{}", number % 20, number % 250),
            owner,
        }
    }
}

impl State {
    fn first(number: u64) -> Self {
        Self { number, version: 812_345, generation: 0, ready: true, restarts: 0 }
    }
}

struct Names {
    namespace: String,
    name: String,
    owner: String,
    uid: String,
    node: String,
    ip: String,
    host: String,
}

/// A hash of the same length as a relay's.
pub fn hash(sequence: u64) -> String {
    format!("bench-log.{sequence}.xZ8CvlTEJKSc9uA3tiW1uQ.aPoiUMH3wnh9xfSz")
}

/// The epoch of the log.
pub const EPOCH: &str = "bench-epoch-1";
