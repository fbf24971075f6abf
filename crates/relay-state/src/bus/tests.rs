//! The rules of the monitor, with one test for each of their numbers.

use std::collections::BTreeMap;
use std::time::Duration;

use relay_proto::bus::{BusReference, ChannelReference, Kind, Object, SubscriptionReference};
use serde_json::{Value, json};

use super::*;

mod model;
mod rules;
mod writing;

/// A monitor with a cluster bus `b`, and an environment that answers its calls.
struct Play {
    monitor: Monitor,
    now: Now,
    /// Calls that fail, such as `subscribe ns/s`, and how often.
    failing: BTreeMap<String, u32>,
    /// Calls that are held back until they are released.
    held: Vec<Job>,
    hold: bool,
    /// The calls since the log was last taken.
    log: Vec<String>,
    writes: Vec<Write>,
    /// The spec of the last provision or subscribe of each object, and whether it succeeded.
    last: BTreeMap<String, (Value, bool)>,
}

fn object(kind: Kind, name: &str, uid: &str, spec: Value) -> Value {
    json!({
        "metadata": {"name": name, "namespace": "ns", "uid": uid, "resourceVersion": "1"},
        "kind": kind.as_str(),
        "spec": spec,
    })
}

fn channel(name: &str, uid: &str, arguments: Value) -> Value {
    object(Kind::Channel, name, uid, json!({"clusterBus": "b", "arguments": arguments}))
}

fn subscription(name: &str, uid: &str, channel: &str) -> Value {
    object(Kind::Subscription, name, uid, json!({"channel": channel, "subscriber": "x"}))
}

fn read(object: &Value) -> Object {
    Object::from_value(Kind::parse(object["kind"].as_str().unwrap()).unwrap(), object).unwrap()
}

fn target(call: &Call) -> String {
    let what = match call {
        Call::Bus { bus, .. } => bus.to_string(),
        Call::Provision { channel, .. } | Call::Unprovision { channel } => channel.to_string(),
        Call::Subscribe { subscription, .. } | Call::Unsubscribe { subscription, .. } => {
            subscription.to_string()
        }
    };
    format!("{} {what}", call.name())
}

impl Play {
    fn with(settings: Settings) -> Self {
        Self {
            monitor: Monitor::new(settings),
            now: Now { since_start: Duration::ZERO, unix_seconds: 1_000 },
            failing: BTreeMap::new(),
            held: Vec::new(),
            hold: false,
            log: Vec::new(),
            writes: Vec::new(),
            last: BTreeMap::new(),
        }
    }

    fn settings() -> Settings {
        Settings::new(Some(BusReference::cluster("b")))
    }

    /// A monitor whose lists have these objects, and a bus with these parameters.
    fn of(settings: Settings, parameters: Value, objects: &[Value]) -> Self {
        let mut play = Self::with(settings);
        play.list(&parameters, objects);
        play
    }

    fn new(objects: &[Value]) -> Self {
        Self::of(Self::settings(), Value::Null, objects)
    }

    fn list(&mut self, parameters: &Value, objects: &[Value]) {
        let bus = object(Kind::ClusterBus, "b", "b", json!({"parameters": parameters}));
        self.monitor.handle_list(Kind::ClusterBus, vec![read(&bus)], &[], self.now);
        for kind in [Kind::Channel, Kind::Subscription] {
            let objects = objects.iter().filter(|object| object["kind"] == kind.as_str()).map(read);
            self.monitor.handle_list(kind, objects.collect(), &[], self.now);
        }
        self.run();
    }

    fn apply(&mut self, object: &Value) -> &mut Self {
        self.monitor.handle_applied(read(object), self.now);
        self.run();
        self
    }

    fn delete(&mut self, kind: Kind, name: &str) -> &mut Self {
        self.monitor.handle_deleted(kind, name, "ns", self.now);
        self.run();
        self
    }

    fn fail(&mut self, call: &str, times: u32) -> &mut Self {
        self.failing.insert(call.into(), times);
        self
    }

    fn call(&mut self, job: &Job) {
        let name = target(&job.call);
        let fails = self.failing.get_mut(&name).filter(|left| **left > 0);
        let result = match fails {
            Some(left) => {
                *left -= 1;
                Err("no".to_owned())
            }
            None => Ok(()),
        };
        let mark = if result.is_err() { format!(" #{} failed", job.attempt) } else { String::new() };
        self.log.push(format!("{name}{mark}"));
        let spec = match &job.call {
            Call::Provision { spec, .. } => Some(spec.as_value()),
            Call::Subscribe { spec, .. } => Some(spec.as_value()),
            _ => None,
        };
        if let Some(spec) = spec {
            self.last.insert(job.key.to_string(), (spec, result.is_ok()));
        }
        self.monitor.handle_called(&job.key, result, self.now);
    }

    fn run(&mut self) {
        while let Some(action) = self.monitor.poll(self.now) {
            match action {
                Action::Call(job) if self.hold => self.held.push(job),
                Action::Call(job) => self.call(&job),
                Action::Synced { channels, subscriptions } => {
                    self.log.push(format!("synced {channels} {subscriptions}"));
                }
                Action::Settled { channels, subscriptions } => {
                    self.log.push(format!("settled {channels} {subscriptions}"));
                }
                Action::NoBus => self.log.push("no bus".into()),
                Action::MissingArguments { key, missing } => {
                    self.log.push(format!("missing {key} {missing:?}"));
                }
                Action::Note(note) => self.log.push(format!("{} {}", note.reason, note.message)),
                Action::NotesDropped(count) => self.log.push(format!("{count} notes dropped")),
                Action::Write(write) => self.writes.push(write),
            }
        }
    }

    /// Releases the calls that were held back.
    fn release(&mut self) {
        for job in std::mem::take(&mut self.held) {
            self.call(&job);
        }
        self.run();
    }

    /// Lets this time pass, and handles everything that is due in it.
    fn pass(&mut self, time: Duration) {
        let end = self.now.since_start + time;
        while let Some(due) = self.monitor.poll_timeout().filter(|due| *due <= end) {
            self.now.since_start = due.max(self.now.since_start);
            self.run();
        }
        self.now.since_start = end;
        self.now.unix_seconds += time.as_secs() as i64;
        self.run();
    }

    fn took(&mut self) -> Vec<String> {
        std::mem::take(&mut self.log)
    }

    fn subscribed(&self, channel: &str) -> Option<Vec<String>> {
        let list = self.monitor.subscriptions(&ChannelReference::new(channel, "ns"))?;
        Some(list.iter().map(|(subscription, _)| subscription.to_string()).collect())
    }
}
