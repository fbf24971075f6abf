//! Reads a pod in either shape: flat, or a Kubernetes object.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer};

use super::builder::PodBuilder;
use super::container::{Container, ContainerKind, Owner};
use super::fields::for_each_field;
use super::pod::Pod;
use super::status::{Fact, Facts, Printed, State};
use crate::time::Timestamp;

const TOO_LARGE: &str = "a pod is smaller than 4 GiB";

type Map = BTreeMap<String, String>;

/// The Rust type of a field.
macro_rules! held {
    (key) => { String };
    (text) => { String };
    (time) => { Timestamp };
    (labels) => { Map };
    (annotations) => { Map };
    (ready) => { bool };
    (owner) => { Owner };
    (containers) => { Vec<Container> };
    (printed) => { Printed };
}

macro_rules! define_wire_pod {
    ($($(#[$doc:meta])* $kind:ident $name:ident $variant:ident [$($other:literal)*];)*) => {
        /// Every field of both shapes, all optional. `metadata` distinguishes the shapes.
        #[derive(Deserialize)]
        struct WirePod {
            $($(#[serde(alias = $other)])* $name: Option<held!($kind)>,)*
            metadata: Option<Metadata>,
            spec: Option<Spec>,
            status: Option<Status>,
        }

        impl WirePod {
            fn into_flat(self) -> Result<Pod, &'static str> {
                let builder = named(self.namespace.as_deref(), self.name.as_deref())?;
                $(let builder = set!($kind $name builder self.$name);)*
                builder.try_build().ok_or(TOO_LARGE)
            }
        }
    };
}

/// Sets a field of a builder.
macro_rules! set {
    (key $name:ident $builder:ident $value:expr) => {
        $builder
    };
    (text $name:ident $builder:ident $value:expr) => {
        $builder.$name($value.as_deref())
    };
    (ready $name:ident $builder:ident $value:expr) => {
        $builder.ready($value.unwrap_or(false))
    };
    (labels $name:ident $builder:ident $value:expr) => {
        $builder.$name($value.unwrap_or_default())
    };
    (annotations $name:ident $builder:ident $value:expr) => {
        $builder.$name($value.unwrap_or_default())
    };
    (containers $name:ident $builder:ident $value:expr) => {
        $builder.$name($value.unwrap_or_default())
    };
    // A time, the owner, the printed form.
    ($other:ident $name:ident $builder:ident $value:expr) => {
        $builder.$name($value)
    };
}

for_each_field! { define_wire_pod }

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    namespace: Option<String>,
    name: Option<String>,
    uid: Option<String>,
    resource_version: Option<String>,
    labels: Option<Map>,
    annotations: Option<Map>,
    creation_timestamp: Option<Timestamp>,
    deletion_timestamp: Option<Timestamp>,
    owner_references: Option<Vec<OwnerReference>>,
}

#[derive(Deserialize)]
struct OwnerReference {
    kind: String,
    name: String,
    #[serde(default)]
    controller: Option<bool>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Spec {
    node_name: Option<String>,
    containers: Option<Vec<SpecContainer>>,
    init_containers: Option<Vec<SpecContainer>>,
    ephemeral_containers: Option<Vec<SpecContainer>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct SpecContainer {
    name: String,
    image: Option<String>,
    restart_policy: Option<String>,
}

impl SpecContainer {
    /// Whether it keeps running beside the others. For init containers only.
    fn is_sidecar(&self) -> bool {
        self.restart_policy.as_deref() == Some("Always")
    }
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Status {
    phase: Option<String>,
    conditions: Option<Vec<Condition>>,
    #[serde(alias = "podIp", rename = "podIP")]
    pod_ip: Option<String>,
    #[serde(alias = "hostIp", rename = "hostIP")]
    host_ip: Option<String>,
    start_time: Option<Timestamp>,
    reason: Option<String>,
    message: Option<String>,
    container_statuses: Option<Vec<ContainerStatus>>,
    init_container_statuses: Option<Vec<ContainerStatus>>,
    ephemeral_container_statuses: Option<Vec<ContainerStatus>>,
}

impl Status {
    fn condition(&self, holds: impl Fn(&Condition) -> bool) -> bool {
        self.conditions.iter().flatten().any(holds)
    }
}

#[derive(Deserialize)]
struct Condition {
    r#type: String,
    status: Option<String>,
    reason: Option<String>,
}

impl Condition {
    fn holds(&self, kind: &str) -> bool {
        self.r#type == kind && self.status.as_deref() == Some("True")
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ContainerStatus {
    name: String,
    image: Option<String>,
    ready: Option<bool>,
    started: Option<bool>,
    restart_count: Option<u32>,
    state: Option<ContainerState>,
    last_state: Option<ContainerState>,
}

#[derive(Deserialize)]
struct ContainerState {
    waiting: Option<StateDetail>,
    running: Option<serde::de::IgnoredAny>,
    terminated: Option<StateDetail>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct StateDetail {
    reason: Option<String>,
    exit_code: Option<i32>,
    signal: Option<i32>,
    finished_at: Option<Timestamp>,
}

impl<'de> Deserialize<'de> for Pod {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let wire = WirePod::deserialize(deserializer)?;
        let pod = match wire.metadata {
            Some(metadata) => {
                from_object(metadata, wire.spec.unwrap_or_default(), wire.status.unwrap_or_default())
            }
            None => wire.into_flat(),
        };
        pod.map_err(serde::de::Error::custom)
    }
}

fn named(namespace: Option<&str>, name: Option<&str>) -> Result<PodBuilder, &'static str> {
    match (namespace, name) {
        (Some(namespace), Some(name)) if !namespace.is_empty() && !name.is_empty() => {
            Ok(PodBuilder::new(namespace, name))
        }
        (None | Some(""), _) => Err("a pod needs a namespace"),
        _ => Err("a pod needs a name"),
    }
}

fn from_object(metadata: Metadata, spec: Spec, mut status: Status) -> Result<Pod, &'static str> {
    let ready = status.condition(|c| c.holds("Ready"));
    let printed = facts(&metadata, &spec, &status, ready).print();
    let mut owners = metadata.owner_references.unwrap_or_default();
    let controller = owners.iter().position(|o| o.controller == Some(true)).unwrap_or(0);
    let owner = (controller < owners.len()).then(|| owners.swap_remove(controller));
    let init = containers(spec.init_containers, status.init_container_statuses.take(), |spec| match spec {
        Some(spec) if spec.is_sidecar() => ContainerKind::Sidecar,
        _ => ContainerKind::Init,
    });
    let app = containers(spec.containers, status.container_statuses.take(), |_| ContainerKind::App);
    let ephemeral = status.ephemeral_container_statuses.take();
    let ephemeral = containers(spec.ephemeral_containers, ephemeral, |_| ContainerKind::Ephemeral);
    let pod = named(metadata.namespace.as_deref(), metadata.name.as_deref())?
        .uid(metadata.uid.as_deref())
        .resource_version(metadata.resource_version.as_deref())
        .labels(metadata.labels.unwrap_or_default())
        .annotations(metadata.annotations.unwrap_or_default())
        .phase(status.phase.as_deref())
        .ready(ready)
        .node_name(spec.node_name.as_deref())
        .pod_ip(status.pod_ip.as_deref())
        .host_ip(status.host_ip.as_deref())
        .created_at(metadata.creation_timestamp)
        .started_at(status.start_time)
        .deleted_at(metadata.deletion_timestamp)
        .reason(status.reason.as_deref())
        .message(status.message.as_deref())
        .owner(owner.map(|o| Owner { kind: o.kind, name: o.name }))
        .containers(init.chain(app).chain(ephemeral).collect());
    let told = pod.flat_status().print();
    pod.printed((told != printed).then_some(printed)).try_build().ok_or(TOO_LARGE)
}

/// The facts that determine the printed form.
fn facts<'a>(metadata: &Metadata, spec: &'a Spec, status: &'a Status, ready: bool) -> Facts<'a> {
    let init = || spec.init_containers.iter().flatten();
    let sidecar = |name: &str| init().any(|spec| spec.name == name && spec.is_sidecar());
    let of = |statuses: &'a Option<Vec<ContainerStatus>>| {
        statuses.iter().flatten().map(|status| status.fact(sidecar(&status.name))).collect()
    };
    Facts {
        phase: status.phase.as_deref(),
        reason: status.reason.as_deref(),
        gated: status
            .condition(|c| c.r#type == "PodScheduled" && c.reason.as_deref() == Some("SchedulingGated")),
        ready,
        initialized: status.condition(|c| c.holds("Initialized")),
        deleting: metadata.deletion_timestamp.is_some(),
        init_containers: init().count(),
        containers: spec.containers.iter().flatten().count()
            + init().filter(|spec| spec.is_sidecar()).count(),
        init: of(&status.init_container_statuses),
        app: of(&status.container_statuses),
    }
}

impl ContainerStatus {
    fn fact(&self, sidecar: bool) -> Fact<'_> {
        let state = match &self.state {
            Some(ContainerState { terminated: Some(t), .. }) => State::Terminated {
                code: t.exit_code.unwrap_or_default(),
                signal: t.signal.unwrap_or_default(),
                reason: t.reason.as_deref().unwrap_or_default(),
            },
            Some(ContainerState { waiting: Some(w), .. }) => {
                State::Waiting(w.reason.as_deref().unwrap_or_default())
            }
            Some(ContainerState { running: Some(_), .. }) => State::Running,
            _ => State::None,
        };
        let last = self.last_state.as_ref().and_then(|last| last.terminated.as_ref());
        Fact {
            sidecar,
            started: self.started == Some(true),
            ready: self.ready == Some(true),
            restarts: self.restart_count.unwrap_or_default(),
            last_end: last.and_then(|last| last.finished_at.as_ref()),
            state,
        }
    }
}

/// In the order of the specification; a container may have no status yet.
fn containers(
    specs: Option<Vec<SpecContainer>>,
    statuses: Option<Vec<ContainerStatus>>,
    kind: impl Fn(Option<&SpecContainer>) -> ContainerKind,
) -> impl Iterator<Item = Container> {
    let mut statuses = statuses.unwrap_or_default();
    let mut all: Vec<Container> = specs
        .unwrap_or_default()
        .into_iter()
        .map(|spec| {
            let kind = kind(Some(&spec));
            match statuses.iter().position(|s| s.name == spec.name) {
                Some(at) => container(statuses.swap_remove(at), spec.image, kind),
                None => Container { name: spec.name, image: spec.image, kind, ..Container::default() },
            }
        })
        .collect();
    statuses.sort_by(|a, b| a.name.cmp(&b.name));
    all.extend(statuses.into_iter().map(|status| container(status, None, kind(None))));
    all.into_iter()
}

fn container(status: ContainerStatus, spec_image: Option<String>, kind: ContainerKind) -> Container {
    let last = status.last_state.and_then(|last| last.terminated);
    let (last_reason, last_exit_code, last_finished_at) =
        last.map_or((None, None, None), |last| (last.reason, last.exit_code, last.finished_at));
    let mut signal = None;
    let (state, reason, exit_code) = match status.state {
        Some(ContainerState { terminated: Some(t), .. }) => {
            signal = t.signal.filter(|signal| *signal != 0);
            (Some("terminated"), t.reason, t.exit_code.or(Some(0)))
        }
        Some(ContainerState { waiting: Some(w), .. }) => (Some("waiting"), w.reason, last_exit_code),
        Some(ContainerState { running: Some(_), .. }) => (Some("running"), None, last_exit_code),
        _ => (None, None, last_exit_code),
    };
    Container {
        name: status.name,
        image: spec_image.or(status.image),
        ready: status.ready == Some(true),
        restart_count: status.restart_count.unwrap_or_default(),
        state: state.map(Into::into),
        reason,
        exit_code,
        kind,
        signal,
        last_reason,
        last_exit_code,
        last_finished_at,
    }
}

#[cfg(test)]
mod tests {
    use crate::pods::Pod;

    #[test]
    fn a_kubernetes_object_and_the_flat_shape_give_the_same_pod() {
        let object = r#"{"apiVersion":"v1","kind":"Pod","metadata":{"namespace":"prod","name":"web-1","uid":"u","resourceVersion":"8",
            "labels":{"app":"web"},"creationTimestamp":"2026-11-21T09:00:00Z","ownerReferences":[{"kind":"X","name":"no"},{"kind":"ReplicaSet","name":"web","controller":true}]},
            "spec":{"nodeName":"n1","containers":[{"name":"app","image":"i:1"},{"name":"side"}]},
            "status":{"phase":"Running","conditions":[{"type":"Ready","status":"True"}],"podIP":"10.1.0.1","hostIP":"10.0.0.1","startTime":"2026-11-21T09:00:01Z",
            "containerStatuses":[{"name":"app","ready":true,"restartCount":2,"state":{"running":{}},"lastState":{"terminated":{"exitCode":137}}}]}}"#;
        let flat = r#"{"namespace":"prod","name":"web-1","uid":"u","resourceVersion":"8","labels":{"app":"web"},"phase":"Running","ready":true,
            "nodeName":"n1","podIp":"10.1.0.1","hostIp":"10.0.0.1","createdAt":"2026-11-21T09:00:00Z","startedAt":"2026-11-21T09:00:01Z",
            "owner":{"kind":"ReplicaSet","name":"web"},
            "containers":[{"name":"app","image":"i:1","ready":true,"restartCount":2,"state":"running","exitCode":137,"lastExitCode":137},{"name":"side"}]}"#;
        let (object, flat) = (Pod::from_json(object).unwrap(), Pod::from_json(flat).unwrap());
        assert_eq!(object, flat);
        let written = serde_json::to_string(&object).unwrap();
        assert_eq!(Pod::from_json(&written).unwrap(), object, "what is written is read back");
        assert!(written.contains(r#""resource_version":"8""#), "{written}");
    }

    #[test]
    fn only_namespace_and_name_are_required() {
        let pod = Pod::from_json(r#"{"namespace":"a","name":"b","labels":null,"new_field":[1]}"#).unwrap();
        assert_eq!((pod.namespace(), pod.name(), pod.uid(), pod.ready()), ("a", "b", None, false));
        for (bad, why) in [
            (r#"{"name":"b"}"#, "namespace"),
            (r#"{"namespace":"a"}"#, "name"),
            (r#"{"namespace":"","name":"b"}"#, "namespace"),
            (r#"{"metadata":{"namespace":"a"}}"#, "name"),
            ("[]", "struct"),
            ("{", "EOF"),
        ] {
            let error = crate::error::chain(&Pod::from_json(bad).unwrap_err()).to_string();
            assert!(error.contains(why), "{bad}: {error}");
        }
    }
}
