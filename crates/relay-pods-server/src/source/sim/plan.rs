//! The plan of a simulation, determined by the seed: deployments, nodes, and what happens to them and when.

use std::collections::BTreeMap;

use relay_proto::pods::Container;
use relay_proto::time::Timestamp;

/// The fixed part of a simulated cluster. Everything here is a function of the seed, the number of pods and, for
/// events, the revision: a number that grows by one with each event and takes the place of time.
#[derive(Debug)]
pub(super) struct Plan {
    seed: u64,
    /// Pods there should be.
    pub(super) target: usize,
    pub(super) deployments: Vec<Deployment>,
    by_id: BTreeMap<String, usize>,
    pub(super) nodes: Vec<Node>,
    /// The time in milliseconds since 1970, if it comes from outside.
    pub(super) clock: Option<i64>,
}

/// A deployment: one template at a time, and a number of replicas.
#[derive(Debug)]
pub(super) struct Deployment {
    /// The `run` label of its pods, such as `d-17`.
    pub(super) id: String,
    pub(super) app: &'static str,
    pub(super) tier: &'static str,
    pub(super) name: String,
    pub(super) namespace: &'static str,
    /// Replicas while nothing scales it.
    pub(super) replicas: usize,
}

#[derive(Debug)]
pub(super) struct Node {
    pub(super) name: String,
    pub(super) address: String,
}

/// Unusual events. Each kind affects one deployment or node for a number of revisions, so that events come in
/// bursts, as in real clusters.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Weather {
    /// A deployment has more or fewer replicas than usual.
    pub(super) scaling: Option<(usize, isize)>,
    /// A deployment has a new template, of this generation.
    pub(super) rolling: Option<(usize, u64)>,
    /// Containers of a deployment crash.
    pub(super) crashing: Option<usize>,
    /// A node is drained: it accepts no pods and deletes its own.
    pub(super) draining: Option<usize>,
}

/// The purpose of a random number: each purpose has its own numbers.
#[derive(Debug, Clone, Copy)]
pub(super) enum Draw {
    Share,
    Name,
    Uid,
    Moment,
    Template,
    Birth,
    Scale,
    Roll,
    Crash,
    Drain,
    Step,
    Label,
    Victim,
}

const NAMESPACES: [&str; 4] = ["prod", "staging", "batch", "default"];
/// App, tier, and which of the namespaces the first deployment of that app is in.
const APPS: [(&str, &str, usize); 12] = [
    ("worker", "backend", 0),
    ("web", "frontend", 0),
    ("api", "backend", 1),
    ("checkout", "frontend", 0),
    ("indexer", "batch", 2),
    ("search", "backend", 0),
    ("worker", "backend", 1),
    ("mailer", "batch", 2),
    ("cart", "backend", 0),
    ("web", "frontend", 1),
    ("gateway", "frontend", 3),
    ("reports", "batch", 2),
];
/// Characters of generated names: those that Kubernetes uses.
const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
/// 2026-01-05T06:00:00Z, the time of revision 0.
const START: i64 = 1_767_592_800_000;
/// Virtual milliseconds per revision.
const PACE: u64 = 200;

impl Plan {
    pub(super) fn new(seed: u64, target: usize) -> Self {
        // Small, so that most applications have several deployments, and finding the pods of one is cheap.
        let count = if target == 0 { 0 } else { (target / 3).clamp(1, 2000) };
        let mut plan = Self {
            seed,
            target,
            deployments: Vec::new(),
            by_id: BTreeMap::new(),
            nodes: Vec::new(),
            clock: None,
        };
        for number in 0..count {
            let (app, tier, home) = APPS[number % APPS.len()];
            let round = number / APPS.len();
            let id = format!("d-{}", number + 1);
            plan.by_id.insert(id.clone(), number);
            plan.deployments.push(Deployment {
                id,
                app,
                tier,
                name: if round == 0 { app.into() } else { format!("{app}-{}", round + 1) },
                namespace: NAMESPACES[(home + round) % NAMESPACES.len()],
                replicas: 1,
            });
        }
        for extra in 0..target.saturating_sub(count) as u64 {
            let lucky = plan.below(Draw::Share, extra, 0, count as u64) as usize;
            plan.deployments[lucky].replicas += 1;
        }
        for number in 0..(target / 15).clamp(3, 500) {
            let address = format!("10.0.{}.{}", number / 250, number % 250 + 1);
            plan.nodes.push(Node { name: format!("node-{}", number + 1), address });
        }
        plan
    }

    /// 64 bits that depend on the seed, the purpose and two numbers alone.
    pub(super) fn draw(&self, purpose: Draw, a: u64, b: u64) -> u64 {
        let purpose = (purpose as u64).wrapping_mul(0x2545_f491_4f6c_dd1d);
        mix(mix(mix(self.seed ^ purpose).wrapping_add(a)).wrapping_add(b))
    }

    /// A number from 0 to `end`, without `end`; 0 when `end` is 0.
    pub(super) fn below(&self, purpose: Draw, a: u64, b: u64, end: u64) -> u64 {
        ((u128::from(self.draw(purpose, a, b)) * u128::from(end)) >> 64) as u64
    }

    /// The deployment that a `run` label names, if it is in this namespace.
    pub(super) fn deployment(&self, run: &str, namespace: &str) -> Option<usize> {
        let at = *self.by_id.get(run)?;
        (self.deployments[at].namespace == namespace).then_some(at)
    }

    /// The time of a revision. Later revisions have later times. By default it is computed from the number of the
    /// revision.
    pub(super) fn time(&self, revision: u64) -> Timestamp {
        if let Some(now) = self.clock {
            return Timestamp::from_unix_millis(now);
        }
        let moment =
            revision.saturating_mul(PACE).saturating_add(self.below(Draw::Moment, revision, 0, PACE));
        Timestamp::from_unix_millis(START.saturating_add_unsigned(moment))
    }

    /// The creation time of a pod that existed from the start: within a month before.
    pub(super) fn birth(&self, revision: u64) -> (Timestamp, Timestamp) {
        let age = 3_600_000 + self.below(Draw::Birth, revision, 0, 30 * 86_400_000);
        let created = self.clock.unwrap_or(START).saturating_sub_unsigned(age);
        let wait = 1_000 + self.below(Draw::Birth, revision, 1, 4_000);
        (
            Timestamp::from_unix_millis(created),
            Timestamp::from_unix_millis(created.saturating_add_unsigned(wait)),
        )
    }

    /// The unique id of the pod that a revision created.
    pub(super) fn uid(&self, revision: u64) -> String {
        let (a, b) = (self.draw(Draw::Uid, revision, 0), self.draw(Draw::Uid, revision, 1));
        let (low, mid, high) = (a >> 32, (a >> 16) & 0xffff, a & 0xfff);
        format!("{low:08x}-{mid:04x}-4{high:03x}-{:04x}-{:012x}", 0x8000 | (b >> 50), b & 0xffff_ffff_ffff)
    }

    /// A `pod-template-hash`; 0 is the template that a deployment starts with.
    pub(super) fn template(&self, deployment: usize, generation: u64) -> String {
        letters(self.draw(Draw::Template, deployment as u64, generation), 10)
    }

    /// The last part of a pod's name; `again` counts attempts.
    pub(super) fn suffix(&self, revision: u64, again: u64) -> String {
        letters(self.draw(Draw::Name, revision, again), 5)
    }

    /// The unusual events at a revision.
    pub(super) fn weather(&self, revision: u64) -> Weather {
        let count = self.deployments.len() as u64;
        // The windows' lengths are such that they rarely change at once.
        let of = |draw: Draw, window: u64, one_in: u64, end: u64| {
            let window = revision / window;
            let on = end > 0 && self.below(draw, window, 0, one_in) == 0;
            on.then(|| (self.below(draw, window, 1, end) as usize, window))
        };
        let scaling = of(Draw::Scale, 70, 1, count).map(|(deployment, window)| {
            let usual = self.deployments[deployment].replicas as u64;
            let most = usual.div_ceil(2).min(10);
            let by = 1 + self.below(Draw::Scale, window, 2, most) as isize;
            // One replica stays, so that a filter for a deployment always has events.
            let fewer = by.min(usual as isize - 1);
            let down = self.below(Draw::Scale, window, 3, 2) == 0 && fewer > 0;
            (deployment, if down { -fewer } else { by })
        });
        Weather {
            scaling,
            rolling: of(Draw::Roll, 130, 1, count).map(|(deployment, window)| (deployment, window + 1)),
            crashing: of(Draw::Crash, 110, 2, count).map(|(deployment, _)| deployment),
            draining: of(Draw::Drain, 170, 2, self.nodes.len() as u64).map(|(node, _)| node),
        }
    }
}

impl Deployment {
    /// Its containers at a template, waiting to be started.
    pub(super) fn containers(&self, template: &str) -> Vec<Container> {
        let container = |name: &str, image: String| Container {
            name: name.into(),
            image: Some(image),
            state: Some("waiting".into()),
            ..Container::default()
        };
        let mut all = vec![container("app", format!("registry.example/{}:{template}", self.app))];
        if self.tier == "frontend" {
            all.push(container("proxy", "registry.example/proxy:2.1".into()));
        }
        all
    }
}

/// The finalizer of splitmix64.
pub(super) fn mix(seed: u64) -> u64 {
    let z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn letters(mut number: u64, count: usize) -> String {
    (0..count)
        .map(|_| {
            let letter = LETTERS[(number % LETTERS.len() as u64) as usize];
            number /= LETTERS.len() as u64;
            char::from(letter)
        })
        .collect()
}
