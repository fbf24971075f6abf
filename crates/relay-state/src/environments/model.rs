//! The fold against a slow and obvious model, and against itself cut into pieces.

use std::collections::BTreeMap;

use proptest::collection::vec;
use proptest::prelude::*;
use relay_proto::autoconfig::Message;
use serde_json::{Map, Value, json};

use super::*;

/// One thing that happens, over few ids, keys and versions so that they meet.
#[derive(Debug, Clone)]
enum Step {
    Put(Vec<Rep>),
    Patch(Rep),
    Delete(u8, i64),
    Time(u64),
    Cut,
}

#[derive(Debug, Clone)]
struct Rep {
    id: u8,
    version: i64,
    primary: u8,
    /// Other keys with their ends; `None` for ever.
    others: Vec<(u8, Option<u64>)>,
}

fn rep() -> impl Strategy<Value = Rep> {
    let other = (0_u8..5, proptest::option::of(0_u64..60));
    (0_u8..4, 0_i64..8, 0_u8..5, vec(other, 0..3)).prop_map(|(id, version, primary, others)| Rep {
        id,
        version,
        primary,
        others,
    })
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => vec(rep(), 0..4).prop_map(Step::Put),
        5 => rep().prop_map(Step::Patch),
        2 => (0_u8..4, 0_i64..8).prop_map(|(id, version)| Step::Delete(id, version)),
        4 => (0_u64..15).prop_map(Step::Time),
        1 => Just(Step::Cut),
    ]
}

impl Rep {
    /// As the last of several of one value counts, so does the model: a map.
    fn keys(&self, now: u64) -> BTreeMap<u8, Option<u64>> {
        let mut keys: BTreeMap<_, _> = self.others.iter().copied().collect();
        keys.retain(|_, end| end.is_none_or(|end| end > now));
        keys.insert(self.primary, None);
        keys
    }

    fn json(&self) -> Value {
        let entry = |key: &u8, end: &Option<u64>| {
            let mut entry = Map::new();
            entry.insert("value".into(), format!("k{key}").into());
            if let Some(end) = end {
                entry.insert("expiry".into(), (*end).into());
            }
            Value::Object(entry)
        };
        let mut list: Vec<_> = self.others.iter().map(|(key, end)| entry(key, end)).collect();
        list.push(entry(&self.primary, &Some(0)));
        json!({"envID": format!("e{}", self.id), "version": self.version, "sdkKey": {"value": format!("k{}", self.primary)}, "sdkKeys": list})
    }
}

/// Everything in maps, looked through from end to end each time.
#[derive(Default)]
struct Model {
    versions: BTreeMap<u8, i64>,
    live: BTreeMap<u8, BTreeMap<u8, Option<u64>>>,
    log: Vec<String>,
}

impl Model {
    fn time(&mut self, now: u64) {
        loop {
            let ends = self
                .live
                .iter()
                .flat_map(|(id, keys)| keys.iter().filter_map(|(key, end)| Some(((*end)?, *id, *key))));
            let Some((end, id, key)) = ends.filter(|(end, ..)| now > *end).min() else { return };
            self.live.get_mut(&id).unwrap().remove(&key);
            self.log.push(format!("end e{id} k{key} {end}"));
        }
    }

    fn upsert(&mut self, rep: &Rep, now: u64) {
        if self.versions.get(&rep.id).is_some_and(|&known| rep.version <= known) {
            return;
        }
        self.versions.insert(rep.id, rep.version);
        let was = self.live.insert(rep.id, rep.keys(now));
        self.log.push(format!("{} e{}", if was.is_some() { "update" } else { "add" }, rep.id));
    }

    fn step(&mut self, step: &Step, now: u64) {
        self.time(now);
        match step {
            Step::Put(reps) => {
                let named: BTreeMap<_, _> = reps.iter().map(|rep| (rep.id, rep)).collect();
                for rep in named.values() {
                    self.upsert(rep, now);
                }
                self.versions.retain(|id, _| named.contains_key(id));
                let gone: Vec<_> = self.live.keys().copied().filter(|id| !named.contains_key(id)).collect();
                for id in gone {
                    self.live.remove(&id);
                    self.log.push(format!("delete e{id}"));
                }
                self.log.push(format!("all {}", self.live.len()));
            }
            Step::Patch(rep) => self.upsert(rep, now),
            Step::Delete(id, version) => {
                if self.versions.get(id).is_none_or(|known| version > known) {
                    self.versions.insert(*id, *version);
                    if self.live.remove(id).is_some() {
                        self.log.push(format!("delete e{id}"));
                    }
                }
            }
            Step::Time(_) | Step::Cut => {}
        }
    }
}

fn word(event: &Event) -> String {
    match event {
        Event::Added(environment) => format!("add {}", environment.id),
        Event::Updated(update) => format!("update {}", update.environment.id),
        Event::Deleted(gone) => format!("delete {}", gone.id),
        Event::KeyExpired(expired) => match &expired.key {
            ExpiredKey::Sdk(key) => format!("end {} {} {}", expired.id, key.reveal(), expired.expires_ms),
            ExpiredKey::Mobile(_) => panic!("there is none"),
        },
        Event::ReceivedAll(all) => format!("all {}", all.environments),
        other => panic!("{other:?}"),
    }
}

/// The order in which keys of one environment end at one time is that of its list, which the model does not keep.
fn sorted_ends(log: &mut [String]) {
    for run in log.chunk_by_mut(|a, b| a.starts_with("end ") && b.starts_with("end ")) {
        run.sort();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_fold_agrees_with_the_model(steps in vec(step(), 1..40)) {
        let (mut model, mut environments, mut log, mut now) = (Model::default(), Environments::default(), Vec::new(), 0);
        for step in &steps {
            if let Step::Time(pass) = step {
                now += pass;
            }
            let (event, data) = match step {
                Step::Put(reps) => {
                    let map: Map<_, _> = reps.iter().map(|rep| (format!("e{}", rep.id), rep.json())).collect();
                    ("put", json!({"path": "/", "data": {"environments": map}}))
                }
                Step::Patch(rep) => ("patch", json!({"path": format!("/environments/e{}", rep.id), "data": rep.json()})),
                Step::Delete(id, version) => ("delete", json!({"path": format!("/environments/e{id}"), "version": version})),
                Step::Time(_) => ("", Value::Null),
                Step::Cut => { environments.handle_disconnect(); ("", Value::Null) }
            };
            model.step(step, now);
            let text = data.to_string();
            let events = match event {
                "" => environments.handle_time(Now::at(now)),
                _ => environments.apply(Message::decode(event, &text).unwrap(), Now::at(now)).events,
            };
            log.extend(events.iter().map(word));

            // At every moment the set is what the last accepted version says.
            let held: BTreeMap<String, BTreeMap<String, Option<u64>>> = environments.environments().map(|environment| {
                let keys = environment.sdk_keys.iter().map(|key| (key.key.reveal().to_owned(), key.expires_ms));
                (environment.id.to_string(), keys.collect())
            }).collect();
            let meant: BTreeMap<_, _> = model.live.iter().map(|(id, keys)| {
                (format!("e{id}"), keys.iter().map(|(key, end)| (format!("k{key}"), *end)).collect())
            }).collect();
            prop_assert_eq!(held, meant);
            let first = model.live.values().flat_map(|keys| keys.values().flatten()).min();
            prop_assert_eq!(environments.next_deadline().unix_ms, first.map(|end| end + 1));
            prop_assert_eq!(environments.len(), model.live.len());
        }
        sorted_ends(&mut log);
        sorted_ends(&mut model.log);
        prop_assert_eq!(&log, &model.log);

        // Never an update or a delete of what is not there, never an add of what is.
        let mut there = std::collections::BTreeSet::new();
        for line in &log {
            let mut words = line.split(' ');
            match (words.next().unwrap(), words.next().unwrap()) {
                ("add", id) => prop_assert!(there.insert(id.to_owned())),
                ("delete", id) => prop_assert!(there.remove(id)),
                ("update" | "end", id) => prop_assert!(there.contains(id)),
                _ => {}
            }
        }
    }
}
