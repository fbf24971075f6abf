//! Changes, failures, lists and restarts in any order, compared with a slow model that only knows the desired state.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone)]
enum Step {
    /// A channel: its number, its identity, an argument, and whether it is of this bus.
    Channel(u8, u8, u8, bool),
    NoChannel(u8),
    Subscription(u8, u8, u8),
    NoSubscription(u8),
    /// The default of a parameter, or none, which makes the argument required.
    Parameter(Option<u8>),
    /// All objects at once, unchanged.
    Relist,
    Restart,
    Requeue(u8),
    /// This call of this object fails this many times.
    Fail(u8, u8),
    /// Another argument of this channel, for which the call fails, and at once the earlier one again.
    PutBack(u8),
    Pass(u16),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (0..3u8, 0..2u8, 0..3u8, prop::bool::weighted(0.8)).prop_map(|(a, b, c, d)| Step::Channel(a, b, c, d)),
        1 => (0..3u8).prop_map(Step::NoChannel),
        4 => (0..4u8, 0..2u8, 0..3u8).prop_map(|(a, b, c)| Step::Subscription(a, b, c)),
        1 => (0..4u8).prop_map(Step::NoSubscription),
        1 => prop::option::of(0..2u8).prop_map(Step::Parameter),
        1 => Just(Step::Relist),
        1 => Just(Step::Restart),
        1 => (0..4u8).prop_map(Step::Requeue),
        3 => (0..14u8, 1..3u8).prop_map(|(a, b)| Step::Fail(a, b)),
        1 => (0..3u8).prop_map(Step::PutBack),
        2 => (0..2000u16).prop_map(Step::Pass),
    ];
    prop::collection::vec(step, 1..40)
}

/// The objects, the calls, and whether each call was right when it was made.
struct World {
    play: Play,
    channels: BTreeMap<String, Value>,
    subscriptions: BTreeMap<String, Value>,
    parameter: Option<u8>,
    /// What the handlers have provisioned, according to the calls.
    provisioned: BTreeSet<String>,
    subscribed: BTreeMap<String, String>,
    restarted: bool,
}

fn parameters(default: Option<u8>) -> Value {
    json!({"channel": [match default {
        Some(default) => json!({"name": "p", "default": default.to_string()}),
        None => json!({"name": "p"}),
    }]})
}

impl World {
    fn new() -> Self {
        let mut world = Self {
            play: Play::with(Play::settings()),
            channels: BTreeMap::new(),
            subscriptions: BTreeMap::new(),
            parameter: Some(0),
            provisioned: BTreeSet::new(),
            subscribed: BTreeMap::new(),
            restarted: false,
        };
        world.relist();
        world
    }

    fn relist(&mut self) {
        let objects: Vec<_> = self.channels.values().chain(self.subscriptions.values()).cloned().collect();
        self.play.list(&parameters(self.parameter), &objects);
        self.watch();
    }

    /// Checks the calls since the last time, in order.
    fn watch(&mut self) {
        for line in self.play.took() {
            let mut words = line.split(' ');
            let (call, name) = (words.next().unwrap(), words.next().unwrap_or_default().to_owned());
            let failed = line.ends_with("failed");
            match call {
                "subscribe" => {
                    let channel = self.channel_of(&name);
                    assert!(self.provisioned.contains(&channel), "{line}: {channel} is not provisioned");
                    let elsewhere = self.subscribed.get(&name).is_some_and(|held| *held != channel);
                    assert!(!elsewhere, "{line}: still subscribed elsewhere");
                    if !failed {
                        self.subscribed.insert(name, channel);
                    }
                }
                "provision" if !failed => drop(self.provisioned.insert(name)),
                "unprovision" => {
                    assert!(self.provisioned.contains(&name), "{line}: not provisioned");
                    assert!(!self.subscribed.values().any(|held| *held == name), "{line}: subscribed to");
                    if !failed {
                        self.provisioned.remove(&name);
                    }
                }
                "unsubscribe" => {
                    assert!(self.subscribed.contains_key(&name), "{line}: not subscribed");
                    if !failed {
                        self.subscribed.remove(&name);
                    }
                }
                _ => {}
            }
        }
    }

    fn channel_of(&self, subscription: &str) -> String {
        let spec = &self.subscriptions[subscription]["spec"];
        format!("ns/{}", spec["channel"].as_str().unwrap())
    }

    fn is_ours(&self, channel: &str) -> bool {
        self.channels.get(channel).is_some_and(|channel| channel["spec"]["clusterBus"] == "b")
    }

    fn has_arguments(&self, channel: &str) -> bool {
        self.parameter.is_some() || self.channels[channel]["spec"]["arguments"][0].is_object()
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Channel(name, uid, argument, ours) => {
                let given = (*argument > 0).then(|| json!({"name": "p", "value": argument.to_string()}));
                let mut made = channel(&format!("c{name}"), &uid.to_string(), json!(given.as_slice()));
                if !ours {
                    made["spec"]["clusterBus"] = "other".into();
                }
                self.channels.insert(format!("ns/c{name}"), made.clone());
                self.play.apply(&made);
            }
            Step::NoChannel(name) => {
                self.channels.remove(&format!("ns/c{name}"));
                self.play.delete(Kind::Channel, &format!("c{name}"));
            }
            Step::Subscription(name, uid, channel) => {
                let made = subscription(&format!("s{name}"), &uid.to_string(), &format!("c{channel}"));
                self.subscriptions.insert(format!("ns/s{name}"), made.clone());
                self.play.apply(&made);
            }
            Step::NoSubscription(name) => {
                self.subscriptions.remove(&format!("ns/s{name}"));
                self.play.delete(Kind::Subscription, &format!("s{name}"));
            }
            Step::Parameter(default) => {
                self.parameter = *default;
                let spec = json!({"parameters": parameters(*default)});
                self.play.apply(&object(Kind::ClusterBus, "b", "b", spec));
            }
            Step::Relist => self.relist(),
            Step::Restart => {
                // The state of the handlers is lost with the process, as with an engine in memory.
                self.play = Play::with(Play::settings());
                self.provisioned.clear();
                self.subscribed.clear();
                self.restarted = true;
                self.relist();
            }
            Step::Requeue(name) => {
                self.play.monitor.requeue_subscription(&SubscriptionReference::new(format!("s{name}"), "ns"));
                self.play.run();
            }
            Step::Fail(which, times) => {
                let calls = ["provision", "unprovision", "subscribe", "unsubscribe"];
                let call = match which {
                    0..=5 => format!("{} ns/c{}", calls[usize::from(which % 2)], which / 2),
                    _ => format!("{} ns/s{}", calls[usize::from(2 + which % 2)], (which - 6) / 2),
                };
                self.play.fail(&call, (*times).into());
            }
            Step::PutBack(name) => {
                let Some(held) = self.channels.get(&format!("ns/c{name}")).cloned() else { return };
                let mut other = held.clone();
                other["spec"]["arguments"] = json!([{"name": "p", "value": "another"}]);
                self.play.fail(&format!("provision ns/c{name}"), 1).apply(&other).apply(&held);
            }
            Step::Pass(millis) => self.play.pass(Duration::from_millis((*millis).into())),
        }
        self.watch();
    }

    /// Once nothing fails any more, the state must be exactly what the objects require.
    fn judge(&mut self) {
        self.play.failing.clear();
        self.play.pass(Duration::from_secs(100_000));
        self.watch();
        let demanded: BTreeSet<_> =
            self.channels.keys().filter(|channel| self.is_ours(channel)).cloned().collect();
        // A channel with a missing argument may be provisioned with earlier arguments, or not at all.
        for channel in demanded.iter().filter(|channel| self.has_arguments(channel)) {
            assert!(self.provisioned.contains(channel), "{channel} is not provisioned");
            // Whatever failed in between, the handler was last called for what is wanted.
            let wanted = (self.channels[channel]["spec"].clone(), true);
            assert_eq!(self.play.last.get(&format!("channel {channel}")), Some(&wanted), "{channel}");
        }
        assert!(self.provisioned.is_subset(&demanded), "{:?} of {demanded:?}", self.provisioned);
        let subscribed: BTreeMap<_, _> = self
            .subscriptions
            .keys()
            .map(|name| (name.clone(), self.channel_of(name)))
            .filter(|(_, channel)| self.provisioned.contains(channel))
            .collect();
        assert_eq!(self.subscribed, subscribed);
        assert_eq!(self.play.monitor.counts(), (self.provisioned.len(), subscribed.len()));
        for channel in &self.provisioned {
            let name = channel.trim_start_matches("ns/");
            let held = subscribed.iter().filter(|(_, held)| *held == channel).map(|(name, _)| name.clone());
            assert_eq!(self.play.subscribed(name), Some(held.collect()));
        }
        self.relist();
        assert_eq!(
            (self.play.took(), self.play.monitor.poll_timeout()),
            (vec![], None),
            "no call without a reason"
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn any_history_ends_with_what_the_objects_demand(steps in steps()) {
        let mut world = World::new();
        for step in &steps {
            world.step(step);
        }
        world.judge();
    }
}
