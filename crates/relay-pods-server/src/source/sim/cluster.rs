//! The simulated cluster: a state and a step, without clock or I/O; its randomness comes from the plan.

use std::collections::{BTreeMap, BTreeSet};

use relay_proto::pods::{Container, Owner, Pod, PodBuilder, PodKey};
use relay_proto::time::Timestamp;

use super::plan::{Draw, Plan, Weather, mix};

/// The pods, which change by one event at a time.
///
/// The next step depends only on the pods, the seed and the revision, because controllers of a real cluster, too, keep
/// nothing but what the API server has. So a cluster that is [adopted](Self::adopt) from the fold of its own events
/// continues exactly like the original.
///
/// ```text
///  (reconcile: create)              (advance)                                  (reconcile, drain: delete)
///   -> Unscheduled -> Scheduled -> Starting -> Ready ------------------------> Terminating -> Terminated -> gone
///                                     ^  ^      |  | (readiness lost)                             from any stage
///                                     |  +------+--+
///                                 BackingOff <- Crashed  (crash)
/// ```
#[derive(Debug)]
pub(super) struct Cluster {
    plan: Plan,
    /// Events so far, those of the first list included.
    revision: u64,
    weather: Weather,
    pods: BTreeMap<PodKey, Held>,
    /// Pods that are neither being deleted nor foreign.
    live: Pool,
    /// Pods in the middle of a change.
    due: Pool,
    /// Pods that no deployment of the plan owns; they are deleted.
    strays: Pool,
    /// Live pods of each node, by its name.
    by_node: BTreeMap<String, Pool>,
    /// Pods of each deployment.
    members: Vec<BTreeSet<PodKey>>,
    /// Deployments that have pods to create or to delete.
    unsettled: BTreeSet<usize>,
}

/// One event.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Change {
    pub(super) kind: ChangeKind,
    /// The pod after the event, or its last state.
    pub(super) pod: Pod,
    pub(super) at: Timestamp,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ChangeKind {
    Upsert,
    Delete,
}

/// A pod with frequently used fields.
#[derive(Debug)]
struct Held {
    pod: Pod,
    stage: Stage,
    deployment: Option<usize>,
    created: i64,
    spot: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Unscheduled,
    Scheduled,
    Starting,
    Ready,
    Crashed,
    BackingOff,
    Terminating,
    Terminated,
}

/// The next need of a deployment.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Need {
    Create,
    Delete(PodKey),
}

/// One event in this many changes labels. A window of 50 events has at least two of them.
const LABEL_EVERY: u64 = 20;
/// `resource_version` of revision 0.
const VERSION_BASE: u64 = 800_000;
/// A version above this is not ours.
const VERSION_MAX: u64 = 1 << 48;

impl Cluster {
    /// A new cluster: exactly `target` running pods, numbered on from `head`, the sequence of a log's newest event.
    /// `clock`: as of [`tell_time`](Self::tell_time).
    pub(super) fn new(seed: u64, target: usize, head: u64, clock: Option<i64>) -> Self {
        let mut plan = Plan::new(seed, target);
        plan.clock = clock;
        let mut cluster = Self::empty(plan, head.min(VERSION_MAX));
        let mut names: BTreeMap<PodKey, (usize, String)> = BTreeMap::new();
        for at in 0..cluster.plan.deployments.len() {
            let template = cluster.plan.template(at, 0);
            for replica in 0..cluster.plan.deployments[at].replicas as u64 {
                let key = cluster
                    .free_name(at, &template, (at as u64) << 32 | replica, |key| names.contains_key(key));
                names.insert(key, (at, template.clone()));
            }
        }
        // Numbered in the order in which a list is logged.
        for (key, (at, template)) in names {
            cluster.revision += 1;
            let pod = cluster.settled_pod(&key, at, &template);
            cluster.put(pod);
        }
        cluster.look_around();
        cluster
    }

    /// A cluster that continues from the pods of a log whose newest event has the sequence `head`.
    pub(super) fn adopt(seed: u64, target: usize, pods: Vec<Pod>, head: u64) -> Self {
        let numbers = pods.iter().filter_map(|pod| pod.resource_version()?.parse::<u64>().ok());
        let newest = numbers.filter(|number| *number <= VERSION_MAX).max().unwrap_or(0);
        let revision = newest.saturating_sub(VERSION_BASE).max(head.min(VERSION_MAX));
        let mut cluster = Self::empty(Plan::new(seed, target), revision);
        pods.into_iter().for_each(|pod| cluster.put(pod));
        cluster.look_around();
        cluster
    }

    fn empty(plan: Plan, revision: u64) -> Self {
        Self {
            members: vec![BTreeSet::new(); plan.deployments.len()],
            plan,
            revision,
            weather: Weather::default(),
            pods: BTreeMap::new(),
            live: Pool::default(),
            due: Pool::default(),
            strays: Pool::default(),
            by_node: BTreeMap::new(),
            unsettled: BTreeSet::new(),
        }
    }

    /// The pods, in the order of their keys.
    pub(super) fn pods(&self) -> impl ExactSizeIterator<Item = &Pod> {
        self.pods.values().map(|held| &held.pod)
    }

    /// Sets the present time, in milliseconds since 1970; with `None`, times come from the numbers of the events.
    /// Nothing but times depends on it.
    pub(super) fn tell_time(&mut self, clock: Option<i64>) {
        self.plan.clock = clock;
    }

    /// The time of the newest event.
    pub(super) fn now(&self) -> Timestamp {
        self.plan.time(self.revision)
    }

    /// The next event; `None` in a cluster that is empty by its settings.
    pub(super) fn step(&mut self) -> Option<Change> {
        self.turn();
        let change = self.next_change();
        if change.is_none() {
            self.revision -= 1;
        }
        change
    }

    fn next_change(&mut self) -> Option<Change> {
        if self.revision.is_multiple_of(LABEL_EVERY)
            && let Some(change) = self.relabel()
        {
            return Some(change);
        }
        let dice = self.dice(0, 100);
        // The number of changes in progress is bounded, and with it the distance of the number of pods from the
        // target.
        let most = (self.plan.target / 8).clamp(3, 64);
        if self.due.len() + self.unsettled.len() >= most || dice < 55 {
            return self
                .proceed()
                .or_else(|| self.disturb(dice))
                .or_else(|| self.relabel())
                .or_else(|| self.evict());
        }
        self.disturb(dice).or_else(|| self.proceed()).or_else(|| self.relabel()).or_else(|| self.evict())
    }

    /// Begins the next revision: deployments whose weather changes are checked again.
    fn turn(&mut self) {
        self.revision += 1;
        let weather = self.plan.weather(self.revision);
        if weather == self.weather {
            return;
        }
        let concerned =
            |weather: &Weather| [weather.scaling.map(|(at, _)| at), weather.rolling.map(|(at, _)| at)];
        let before = concerned(&self.weather);
        self.weather = weather;
        for at in before.into_iter().chain(concerned(&self.weather)).flatten() {
            self.look_at(at);
        }
    }

    fn look_around(&mut self) {
        self.weather = self.plan.weather(self.revision);
        (0..self.members.len()).for_each(|at| self.look_at(at));
    }

    fn look_at(&mut self, deployment: usize) {
        if self.need(deployment).is_some() {
            self.unsettled.insert(deployment);
        } else {
            self.unsettled.remove(&deployment);
        }
    }

    /// Continues a change in progress.
    fn proceed(&mut self) -> Option<Change> {
        let reconcile = !self.unsettled.is_empty() && (self.due.is_empty() || self.dice(1, 4) == 0);
        if reconcile {
            let nth = self.dice(2, self.unsettled.len() as u64) as usize;
            let deployment = *self.unsettled.iter().nth(nth)?;
            return match self.need(deployment)? {
                Need::Create => Some(self.create(deployment)),
                Need::Delete(key) => Some(self.mark_deleted(&key)),
            };
        }
        let key = self.due.pick(self.plan.draw(Draw::Victim, self.revision, 0))?;
        Some(self.advance(&key))
    }

    /// Begins a change.
    fn disturb(&mut self, dice: u64) -> Option<Change> {
        let chance = self.plan.draw(Draw::Victim, self.revision, 1);
        if let Some(change) = dice.is_multiple_of(8).then(|| self.evict()).flatten() {
            return Some(change);
        }
        // The last one stays, so that there is always a pod whose labels can change.
        let spare = self.live.len() > 1;
        if let Some(node) = self.weather.draining.filter(|_| dice < 80 && spare) {
            let pool = self.by_node.get(&self.plan.nodes[node].name);
            if let Some(key) = pool.and_then(|pool| pool.pick(chance)) {
                return Some(self.mark_deleted(&key));
            }
        }
        if let Some(deployment) = self.weather.crashing.filter(|_| dice < 72) {
            let members = self.members[deployment].iter();
            let running: Vec<&PodKey> = members
                .filter(|key| matches!(self.pods[*key].stage, Stage::Ready | Stage::Starting))
                .collect();
            if !running.is_empty() {
                let key = running[(chance % running.len() as u64) as usize].clone();
                return Some(self.crash(&key));
            }
        }
        let key = self.live.pick(chance).filter(|key| self.pods[key].stage == Stage::Ready)?;
        if dice.is_multiple_of(2) && spare {
            return Some(self.mark_deleted(&key));
        }
        Some(self.edit(&key, |builder, mut containers| {
            containers[0].ready = false;
            builder.ready(false).containers(containers)
        }))
    }

    /// Begins to delete a pod without a deployment.
    fn evict(&mut self) -> Option<Change> {
        let key = self.strays.pick(self.plan.draw(Draw::Victim, self.revision, 3))?;
        Some(self.mark_deleted(&key))
    }

    /// Moves a changing pod to its next stage.
    fn advance(&mut self, key: &PodKey) -> Change {
        let now = self.now();
        match self.pods[key].stage {
            Stage::Unscheduled => {
                let (name, address) = self.free_node();
                self.edit(key, |builder, mut containers| {
                    containers.iter_mut().for_each(|c| c.reason = Some("ContainerCreating".into()));
                    builder.node_name(Some(&name)).host_ip(Some(&address)).containers(containers)
                })
            }
            Stage::Scheduled => {
                let address = address(self.revision);
                self.edit(key, |builder, mut containers| {
                    containers.iter_mut().for_each(|c| set_state(c, "running", None));
                    let builder = builder.phase(Some("Running")).started_at(Some(now)).containers(containers);
                    builder.pod_ip(Some(&address))
                })
            }
            Stage::Starting | Stage::Ready => self.edit(key, |builder, mut containers| {
                containers.iter_mut().for_each(|c| c.ready = true);
                builder.ready(true).containers(containers)
            }),
            Stage::Crashed => self.edit(key, |builder, mut containers| {
                set_state(&mut containers[0], "waiting", Some("CrashLoopBackOff"));
                builder.containers(containers)
            }),
            Stage::BackingOff => self.edit(key, |builder, mut containers| {
                set_state(&mut containers[0], "running", None);
                containers[0].restart_count = containers[0].restart_count.saturating_add(1);
                builder.containers(containers)
            }),
            Stage::Terminating => self.edit(key, |builder, mut containers| {
                for container in &mut containers {
                    set_state(container, "terminated", Some("Completed"));
                    container.exit_code = Some(0);
                    container.ready = false;
                }
                builder.ready(false).containers(containers)
            }),
            Stage::Terminated => {
                let pod = self.versioned(self.pods[key].pod.to_builder());
                self.take(key);
                Change { kind: ChangeKind::Delete, pod, at: now }
            }
        }
    }

    fn crash(&mut self, key: &PodKey) -> Change {
        self.edit(key, |builder, mut containers| {
            set_state(&mut containers[0], "terminated", Some("Error"));
            containers[0].exit_code = Some(1);
            containers[0].ready = false;
            builder.ready(false).containers(containers)
        })
    }

    fn mark_deleted(&mut self, key: &PodKey) -> Change {
        let now = self.now();
        self.edit(key, |builder, containers| builder.deleted_at(Some(now)).containers(containers))
    }

    fn create(&mut self, deployment: usize) -> Change {
        let template = self.target_template(deployment);
        let key = self.free_name(deployment, &template, self.revision, |key| self.pods.contains_key(key));
        let builder = self.new_pod(&key, deployment, &template).created_at(Some(self.now()));
        let pod = self.versioned(builder);
        self.put(pod.clone());
        self.look_at(deployment);
        Change { kind: ChangeKind::Upsert, pod, at: self.now() }
    }

    /// Changes labels of a running pod, so that it enters or leaves filters.
    fn relabel(&mut self) -> Option<Change> {
        let key = self.live.pick(self.plan.draw(Draw::Victim, self.revision, 2))?;
        let pod = &self.pods[&key].pod;
        let app = self.pods[&key].deployment.map_or("", |at| self.plan.deployments[at].app);
        let mut labels: BTreeMap<String, String> =
            pod.labels().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        let away = labels.get("app").is_some_and(|value| value != app);
        let mut flip = |name: &str, usual: Option<&str>, other: Option<&str>| {
            let now = labels.remove(name);
            let next = if now.as_deref() == other { usual } else { other };
            next.map(|value| labels.insert(name.into(), value.into()));
        };
        // Taken out of its service for debugging, and always put back later.
        let aside = format!("{app}-debug");
        match self.plan.below(Draw::Label, self.revision, 0, 4) {
            _ if away => flip("app", Some(app), Some(&aside)),
            0 => flip("app", Some(app), Some(&aside)),
            1 => flip("traffic", Some("on"), None),
            _ => flip("track", Some("stable"), Some("canary")),
        }
        if away {
            labels.insert("app".into(), app.into());
        }
        Some(self.edit(&key, |builder, containers| builder.labels(labels).containers(containers)))
    }

    /// The next need of a deployment; `None` also while it waits for pods to become ready.
    fn need(&self, deployment: usize) -> Option<Need> {
        let template = self.target_template(deployment);
        let scaled = self.weather.scaling.filter(|(at, _)| *at == deployment).map_or(0, |(_, by)| by);
        let desired = self.plan.deployments[deployment].replicas.saturating_add_signed(scaled);
        let (mut live, mut waiting) = (0, false);
        let mut oldest_old: Option<(i64, &PodKey)> = None;
        let mut youngest: Option<(i64, &PodKey)> = None;
        for key in &self.members[deployment] {
            let held = &self.pods[key];
            if held.pod.deleted_at().is_some() {
                continue;
            }
            live += 1;
            let age = Some((held.created, key));
            if template_of(&held.pod) == Some(template.as_str()) {
                waiting |= held.stage != Stage::Ready;
                youngest = youngest.max(age);
            } else if oldest_old.is_none() || age < oldest_old {
                oldest_old = age;
            }
        }
        let delete = |victim: (i64, &PodKey)| Some(Need::Delete(victim.1.clone()));
        match oldest_old {
            _ if live < desired => Some(Need::Create),
            // A roll-out: one more than desired, then one of the old less, as soon as the new one is ready.
            Some(old) if live > desired && (!waiting || live > desired + 1) => delete(old),
            Some(_) if live == desired && !waiting => Some(Need::Create),
            None if live > desired => youngest.and_then(delete),
            _ => None,
        }
    }

    /// The template of new pods of a deployment: that of a roll-out, else that of its youngest pod.
    fn target_template(&self, deployment: usize) -> String {
        if let Some((_, generation)) = self.weather.rolling.filter(|(at, _)| *at == deployment) {
            return self.plan.template(deployment, generation);
        }
        let members = self.members[deployment].iter().map(|key| &self.pods[key]);
        let alive = members.filter(|held| held.pod.deleted_at().is_none());
        let youngest = alive.max_by(|a, b| (a.created, a.pod.key()).cmp(&(b.created, b.pod.key())));
        match youngest.and_then(|held| template_of(&held.pod)) {
            Some(template) => template.to_owned(),
            None => self.plan.template(deployment, 0),
        }
    }

    fn free_name(
        &self,
        deployment: usize,
        template: &str,
        number: u64,
        taken: impl Fn(&PodKey) -> bool,
    ) -> PodKey {
        let spec = &self.plan.deployments[deployment];
        let mut again = 0;
        loop {
            let name = format!("{}-{template}-{}", spec.name, self.plan.suffix(number, again));
            let key = PodKey::new(spec.namespace, &name);
            if !taken(&key) {
                return key;
            }
            again += 1;
        }
    }

    /// A node that accepts pods.
    fn free_node(&self) -> (String, String) {
        let nodes = &self.plan.nodes;
        let mut at = self.dice(3, nodes.len() as u64) as usize;
        if self.weather.draining == Some(at) {
            at = (at + 1) % nodes.len();
        }
        (nodes[at].name.clone(), nodes[at].address.clone())
    }

    /// A pod as its ReplicaSet makes it.
    fn new_pod(&self, key: &PodKey, deployment: usize, template: &str) -> PodBuilder {
        let spec = &self.plan.deployments[deployment];
        let track = if self.dice(4, 8) == 0 { "canary" } else { "stable" };
        PodBuilder::new(key.namespace(), key.name())
            .uid(Some(&self.plan.uid(self.revision)))
            .labels([
                ("app", spec.app),
                ("pod-template-hash", template),
                ("run", spec.id.as_str()),
                ("tier", spec.tier),
                ("track", track),
                ("traffic", "on"),
            ])
            .phase(Some("Pending"))
            .owner(Some(Owner { kind: "ReplicaSet".into(), name: format!("{}-{template}", spec.name) }))
            .containers(spec.containers(template))
    }

    /// A pod that has been running for a while.
    fn settled_pod(&self, key: &PodKey, deployment: usize, template: &str) -> Pod {
        let (created, started) = self.plan.birth(self.revision);
        let (node, host) = self.free_node();
        let mut containers = self.plan.deployments[deployment].containers(template);
        for container in &mut containers {
            set_state(container, "running", None);
            container.ready = true;
        }
        let builder = self.new_pod(key, deployment, template).phase(Some("Running")).ready(true);
        let builder = builder.created_at(Some(created)).started_at(Some(started)).containers(containers);
        let builder =
            builder.node_name(Some(&node)).host_ip(Some(&host)).pod_ip(Some(&address(self.revision)));
        self.versioned(builder)
    }

    fn versioned(&self, builder: PodBuilder) -> Pod {
        builder.resource_version(Some(&(VERSION_BASE + self.revision).to_string())).build()
    }

    /// Changes a pod that is there.
    fn edit(&mut self, key: &PodKey, edit: impl FnOnce(PodBuilder, Vec<Container>) -> PodBuilder) -> Change {
        let held = &self.pods[key];
        let deployment = held.deployment;
        let mut containers = held.pod.containers().to_vec();
        if containers.is_empty() {
            // A foreign pod; its stage is read from the first container.
            containers.push(Container { name: "app".into(), ..Container::default() });
        }
        let pod = self.versioned(edit(held.pod.to_builder(), containers));
        self.put(pod.clone());
        if let Some(deployment) = deployment {
            self.look_at(deployment);
        }
        Change { kind: ChangeKind::Upsert, pod, at: self.now() }
    }

    /// Inserts or replaces a pod in every index.
    fn put(&mut self, pod: Pod) {
        let key = pod.key().clone();
        self.unlist(&key);
        let held = Held::new(pod, &self.plan);
        let (spot, living) = (held.spot, held.pod.deleted_at().is_none());
        if held.stage != Stage::Ready && (held.deployment.is_some() || !living) {
            self.due.insert(spot, &key);
        }
        match held.deployment {
            Some(at) => {
                self.members[at].insert(key.clone());
                if living {
                    self.live.insert(spot, &key);
                }
            }
            None if living => self.strays.insert(spot, &key),
            None => {}
        }
        if let Some(node) = held.pod.node_name().filter(|_| living) {
            self.by_node.entry(node.to_owned()).or_default().insert(spot, &key);
        }
        self.pods.insert(key, held);
    }

    /// Removes a pod and checks its deployment again.
    fn take(&mut self, key: &PodKey) {
        self.unlist(key);
        if let Some(deployment) = self.pods.remove(key).and_then(|held| held.deployment) {
            self.look_at(deployment);
        }
    }

    fn unlist(&mut self, key: &PodKey) {
        let Some(held) = self.pods.get(key) else { return };
        for pool in [&mut self.live, &mut self.due, &mut self.strays] {
            pool.remove(held.spot, key);
        }
        if let Some(at) = held.deployment {
            self.members[at].remove(key);
        }
        if let Some(pool) = held.pod.node_name().and_then(|node| self.by_node.get_mut(node)) {
            pool.remove(held.spot, key);
        }
    }

    /// A number below `end`; `which` distinguishes the choices of one step.
    fn dice(&self, which: u64, end: u64) -> u64 {
        self.plan.below(Draw::Step, self.revision, which, end)
    }
}

impl Held {
    fn new(pod: Pod, plan: &Plan) -> Self {
        let owned = pod.owner().is_some_and(|owner| owner.kind == "ReplicaSet");
        let deployment =
            pod.label("run").filter(|_| owned).and_then(|run| plan.deployment(run, pod.namespace()));
        let text = pod.uid().unwrap_or(pod.name());
        let spot = text.bytes().fold(0, |sum, byte| mix(sum ^ u64::from(byte)));
        let created = pod.created_at().and_then(|at| at.unix_millis()).unwrap_or(0);
        Self { stage: Stage::of(&pod), deployment, created, spot, pod }
    }
}

impl Stage {
    fn of(pod: &Pod) -> Self {
        let state = pod.containers().first().and_then(|container| container.state.as_deref());
        let (assigned, phase) = (pod.node_name().is_some(), pod.phase());
        match (pod.deleted_at().is_some(), phase, state) {
            (true, _, Some("terminated")) => Self::Terminated,
            (true, _, _) if assigned => Self::Terminating,
            (true, _, _) => Self::Terminated,
            (false, Some("Pending"), _) if assigned => Self::Scheduled,
            (false, Some("Pending"), _) => Self::Unscheduled,
            (false, _, Some("terminated")) => Self::Crashed,
            (false, _, Some("waiting")) => Self::BackingOff,
            (false, _, _) if pod.ready() => Self::Ready,
            (false, _, _) => Self::Starting,
        }
    }
}

fn template_of(pod: &Pod) -> Option<&str> {
    pod.label("pod-template-hash")
}

fn set_state(container: &mut Container, state: &str, reason: Option<&str>) {
    container.state = Some(state.into());
    container.reason = reason.map(Into::into);
    if state == "running" {
        container.exit_code = None;
    }
}

/// An address that comes again only after eight million revisions.
fn address(revision: u64) -> String {
    format!("10.{}.{}.{}", 1 + (revision >> 16) % 127, (revision >> 8) & 255, revision & 255)
}

/// Pods in an order independent of their names, for an even choice. The choice depends on the members only, not on
/// the order of insertion.
#[derive(Debug, Default)]
struct Pool(BTreeSet<(u64, PodKey)>);

impl Pool {
    fn insert(&mut self, spot: u64, key: &PodKey) {
        self.0.insert((spot, key.clone()));
    }

    fn remove(&mut self, spot: u64, key: &PodKey) {
        self.0.remove(&(spot, key.clone()));
    }

    fn pick(&self, chance: u64) -> Option<PodKey> {
        let mut behind = self.0.range((chance, PodKey::new("", ""))..);
        let (_, key) = behind.next().or_else(|| self.0.iter().next())?;
        Some(key.clone())
    }

    fn len(&self) -> usize {
        self.0.len()
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
