//! Compares the session with a slow and simple model: the same inputs must give the same events. With any single rule
//! switched off, at least one run must differ.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestError, TestRng, TestRunner};
use serde_json::{Map, Value, json};

use super::rules::{Rule, without};
use super::*;

/// One step of a run. There are only a few ids, keys and versions, so that steps often concern the same ones.
#[derive(Debug, Clone)]
enum Step {
    Put(Vec<Rep>, Vec<(u8, i64)>),
    Patch(Rep),
    PatchFilter(u8, i64),
    Delete(u8, i64),
    DeleteFilter(u8, i64),
    /// Both clocks advance.
    Time(u64),
    /// Both clocks advance without a call, as when a machine sleeps.
    Sleep(u64),
    /// The wall clock is set back.
    Back(u64),
    /// The connection ends, and a new one opens.
    Cut,
    Reconnect,
    /// An event with an unknown name.
    Other,
    /// An event that cannot be read.
    Bad,
}

#[derive(Debug, Clone)]
struct Rep {
    id: u8,
    /// Whether it has its own id (`envID`).
    own: bool,
    version: i64,
    /// The primary key; 0 for none.
    primary: u8,
    expiring: Option<(u8, u64)>,
    /// Whether there is a list of keys, with the primary key as its last entry.
    listed: bool,
    others: Vec<Entry>,
    /// Whether the list's entry for the primary key is for a part of the environment only.
    primary_views: bool,
    /// An old mobile key, listed together with the primary one.
    mobile: Option<(u8, u64)>,
}

#[derive(Debug, Clone)]
struct Entry {
    key: u8,
    end: Option<u64>,
    views: bool,
}

fn rep() -> impl Strategy<Value = Rep> {
    let entry = (0_u8..40, option::of(0_u64..60), prop::bool::weighted(0.2)).prop_map(|(key, end, views)| {
        // Only few keys are empty.
        Entry { key: if key == 0 { 0 } else { 1 + key % 4 }, end, views }
    });
    let names = (0_u8..4, prop::bool::weighted(0.9), 0_i64..8, 0_u8..20);
    let keys = (option::of((1_u8..5, 0_u64..60)), any::<bool>(), vec(entry, 0..3), any::<bool>());
    (names, keys, option::of((1_u8..4, 0_u64..60))).prop_map(|(names, keys, mobile)| {
        let ((id, own, version, primary), (expiring, listed, others, primary_views)) = (names, keys);
        let primary = if primary == 0 { 0 } else { 1 + primary % 4 };
        Rep { id, own, version, primary, expiring, listed, others, primary_views, mobile }
    })
}

fn step() -> impl Strategy<Value = Step> {
    let version = || 0_i64..8;
    prop_oneof![
        3 => (vec(rep(), 0..4), vec((0_u8..3, version()), 0..3)).prop_map(|(reps, filters)| Step::Put(reps, filters)),
        6 => rep().prop_map(Step::Patch),
        1 => (0_u8..3, version()).prop_map(|(id, version)| Step::PatchFilter(id, version)),
        2 => (0_u8..4, version()).prop_map(|(id, version)| Step::Delete(id, version)),
        1 => (0_u8..3, version()).prop_map(|(id, version)| Step::DeleteFilter(id, version)),
        4 => (0_u64..15).prop_map(Step::Time),
        2 => (0_u64..15).prop_map(Step::Sleep),
        1 => (0_u64..30).prop_map(Step::Back),
        1 => Just(Step::Cut),
        1 => Just(Step::Reconnect),
        1 => Just(Step::Other),
        1 => Just(Step::Bad),
    ]
}

/// A run: how long an empty put is held back (0 for not at all), and its steps.
fn life() -> impl Strategy<Value = (u64, Vec<Step>)> {
    (prop_oneof![Just(0_u64), Just(12)], vec(step(), 1..40))
}

impl Rep {
    fn entries(&self) -> Vec<Entry> {
        if !self.listed {
            return Vec::new();
        }
        let mut entries = self.others.clone();
        if self.primary > 0 {
            entries.push(Entry { key: self.primary, end: Some(0), views: self.primary_views });
        }
        entries
    }

    /// Why it is refused; the first rule that is broken.
    fn refusal(&self) -> Option<&'static str> {
        if !self.own {
            Some("id-mismatch")
        } else if self.primary == 0 {
            Some("no-sdk-key")
        } else if self.entries().iter().any(|entry| entry.key == 0) {
            Some("empty-key")
        } else {
            None
        }
    }

    fn keys(&self, now: u64) -> Keys {
        let entries = self.entries();
        let mut keys = Keys::default();
        if entries.is_empty() {
            if let Some((key, end)) = self.expiring.filter(|(_, end)| *end > now) {
                keys.sdk.insert(key, Some(end));
            }
        } else {
            // Of several entries with the same value the last one counts, as in a map.
            let last: BTreeMap<u8, &Entry> = entries.iter().map(|entry| (entry.key, entry)).collect();
            for (key, entry) in last.into_iter().filter(|(key, _)| *key != self.primary) {
                if entry.views {
                    keys.dropped += 1;
                } else if entry.end.is_none_or(|end| end > now) {
                    keys.sdk.insert(key, entry.end);
                }
            }
        }
        keys.sdk.insert(self.primary, None);
        if let Some((key, end)) = self.mobile {
            if end > now {
                keys.mobile.insert(key, Some(end));
            }
            keys.mobile.insert(9, None);
        }
        keys
    }

    fn json(&self) -> Value {
        let text = |key: u8| if key == 0 { String::new() } else { format!("k{key}") };
        let entry = |entry: &Entry| {
            let mut fields = Map::new();
            fields.insert("value".into(), text(entry.key).into());
            fields.insert("hasViews".into(), entry.views.into());
            if let Some(end) = entry.end {
                fields.insert("expiry".into(), end.into());
            }
            Value::Object(fields)
        };
        let mut sdk = json!({"value": text(self.primary)});
        if let Some((key, end)) = self.expiring {
            sdk["expiring"] = json!({"value": text(key), "timestamp": end});
        }
        let entries: Vec<_> = self.entries().iter().map(entry).collect();
        let id = if self.own { format!("e{}", self.id) } else { "x".into() };
        let mut rep = json!({"envID": id, "version": self.version, "sdkKey": sdk, "sdkKeys": entries});
        if let Some((key, end)) = self.mobile {
            rep["mobKey"] = text(9).into();
            rep["mobileKeys"] = json!([{"value": text(key), "expiry": end}, {"value": text(9)}]);
        }
        rep
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Keys {
    sdk: BTreeMap<u8, Option<u64>>,
    mobile: BTreeMap<u8, Option<u64>>,
    dropped: usize,
}

/// An empty put that is held back until its deadline.
struct HeldPut {
    due: u64,
    filters: Vec<(u8, i64)>,
    /// Environments that changed after the put arrived.
    touched: BTreeSet<u8>,
    touched_filters: BTreeSet<u8>,
}

/// The model: plain maps, which are searched completely each time.
#[derive(Default)]
struct Model {
    hold: u64,
    wall: u64,
    steady: u64,
    versions: BTreeMap<u8, i64>,
    live: BTreeMap<u8, Keys>,
    filters: BTreeMap<u8, (i64, bool)>,
    held: Option<HeldPut>,
    state: &'static str,
    connected: bool,
    configured: bool,
    complete: bool,
    log: Vec<String>,
}

impl Model {
    fn say(&mut self, word: impl Into<String>) {
        self.log.push(word.into());
    }

    fn status(&mut self, state: &'static str, connected: bool, error: bool) {
        let configured = self.configured || std::mem::take(&mut self.complete);
        let seen = (self.state, self.connected, self.configured) != (state, connected, configured);
        (self.state, self.connected, self.configured) = (state, connected, configured);
        if seen || error {
            self.say(format!("{state} {connected} {configured}"));
        }
    }

    fn time(&mut self) {
        loop {
            let keys = self.live.iter().flat_map(|(id, keys)| {
                let sdk = keys.sdk.iter().map(|(key, end)| (end, "sdk", key));
                let mobile = keys.mobile.iter().map(|(key, end)| (end, "mobile", key));
                sdk.chain(mobile).filter_map(|(end, kind, key)| Some(((*end)?, *id, kind, *key)))
            });
            let Some((end, id, kind, key)) = keys.filter(|(end, ..)| self.wall > *end).min() else { break };
            let keys = self.live.get_mut(&id).unwrap();
            if kind == "sdk" {
                keys.sdk.remove(&key)
            } else {
                keys.mobile.remove(&key)
            };
            self.say(format!("end e{id} {kind} k{key} {end}"));
        }
        if self.held.as_ref().is_some_and(|put| self.steady >= put.due) {
            let HeldPut { filters, touched, touched_filters, .. } = self.held.take().unwrap();
            self.forget(&touched);
            self.put_filters(&filters, &touched_filters);
        }
    }

    fn forget(&mut self, keep: &BTreeSet<u8>) {
        self.versions.retain(|id, _| keep.contains(id));
        let gone: Vec<_> = self.live.keys().copied().filter(|id| !keep.contains(id)).collect();
        for id in gone {
            self.live.remove(&id);
            self.say(format!("delete e{id}"));
        }
    }

    fn put_filters(&mut self, filters: &[(u8, i64)], spared: &BTreeSet<u8>) {
        let named: BTreeMap<_, _> = filters.iter().copied().collect();
        for (id, version) in &named {
            self.filter(*id, *version);
        }
        let keep = |id: &u8| named.contains_key(id) || spared.contains(id);
        let gone: Vec<_> =
            self.filters.iter().filter(|(id, filter)| !keep(id) && filter.1).map(|(id, _)| *id).collect();
        self.filters.retain(|id, _| keep(id));
        for id in gone {
            self.say(format!("filter_delete f{id}"));
        }
        self.complete = true;
        self.say(format!(
            "all {} {}",
            self.live.len(),
            self.filters.values().filter(|filter| filter.1).count()
        ));
    }

    fn filter(&mut self, id: u8, version: i64) {
        let known = self.filters.get(&id).copied();
        if known.is_some_and(|(known, _)| version <= known) {
            return;
        }
        if let Some(put) = &mut self.held {
            put.touched_filters.insert(id);
        }
        self.filters.insert(id, (version, true));
        let word = if known.is_some_and(|(_, live)| live) { "filter_update" } else { "filter_add" };
        self.say(format!("{word} f{id}"));
    }

    fn upsert(&mut self, rep: &Rep) {
        if self.versions.get(&rep.id).is_some_and(|&known| rep.version <= known) {
            return;
        }
        if let Some(put) = &mut self.held {
            put.touched.insert(rep.id);
        }
        self.versions.insert(rep.id, rep.version);
        let was = self.live.insert(rep.id, rep.keys(self.wall));
        self.say(format!("{} e{}", if was.is_some() { "update" } else { "add" }, rep.id));
    }

    fn ended(&mut self, error: bool) {
        self.held = None;
        let state = if error && self.state == "valid" { "interrupted" } else { self.state };
        self.status(state, false, error);
        self.status(state, true, false);
    }

    /// Applies a put. Returns whether the connection has to restart, and whether a part of the put was refused.
    fn put(&mut self, reps: &[Rep], filters: &[(u8, i64)]) -> (bool, bool) {
        let named: BTreeMap<_, _> = reps.iter().map(|rep| (rep.id, rep)).collect();
        let refused: Vec<String> = named
            .values()
            .filter_map(|rep| Some(format!("refused e{} {}", rep.id, rep.refusal()?)))
            .collect();
        let partly = !refused.is_empty();
        if partly && refused.len() == named.len() {
            self.log.extend(refused);
            return (true, false);
        }
        self.held = None;
        if self.hold > 0 && named.is_empty() && !self.live.is_empty() {
            self.say(format!("held {}", self.live.len()));
            let (due, filters) = (self.steady + self.hold, filters.to_vec());
            self.held =
                Some(HeldPut { due, filters, touched: BTreeSet::new(), touched_filters: BTreeSet::new() });
            return (false, false);
        }
        for rep in named.values().filter(|rep| rep.refusal().is_none()) {
            self.upsert(rep);
        }
        self.forget(&named.keys().copied().collect());
        self.put_filters(filters, &BTreeSet::new());
        let all = self.log.split_off(self.log.len() - 1);
        self.log.extend(refused);
        self.log.extend(all);
        (false, partly)
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Time(pass) | Step::Sleep(pass) => {
                self.wall += pass;
                self.steady += pass;
            }
            Step::Back(back) => self.wall = self.wall.saturating_sub(*back),
            _ => {}
        }
        if !matches!(step, Step::Cut | Step::Sleep(_)) {
            self.time();
        }
        let (restarts, error) = match step {
            Step::Put(reps, filters) => self.put(reps, filters),
            Step::Patch(rep) => match rep.refusal() {
                None => {
                    self.upsert(rep);
                    (false, false)
                }
                Some(reason) => {
                    self.say(format!("refused e{} {reason}", rep.id));
                    (reason != "id-mismatch", false)
                }
            },
            Step::PatchFilter(id, version) => {
                self.filter(*id, *version);
                (false, false)
            }
            Step::Delete(id, version) => {
                if self.versions.get(id).is_none_or(|known| version > known) {
                    self.versions.insert(*id, *version);
                    if let Some(put) = &mut self.held {
                        put.touched.insert(*id);
                    }
                    if self.live.remove(id).is_some() {
                        self.say(format!("delete e{id}"));
                    }
                }
                (false, false)
            }
            Step::DeleteFilter(id, version) => {
                let known = self.filters.get(id).copied();
                if known.is_none_or(|(known, _)| *version > known) {
                    self.filters.insert(*id, (*version, false));
                    if let Some(put) = &mut self.held {
                        put.touched_filters.insert(*id);
                    }
                    if known.is_some_and(|(_, live)| live) {
                        self.say(format!("filter_delete f{id}"));
                    }
                }
                (false, false)
            }
            Step::Other => (false, false),
            Step::Bad => (true, false),
            Step::Sleep(_) => return,
            Step::Cut => return self.ended(true),
            Step::Reconnect => return self.ended(false),
            Step::Time(_) | Step::Back(_) => return self.status(self.state, true, false),
        };
        if restarts {
            self.ended(true);
        } else {
            self.status("valid", true, error);
        }
    }
}

fn word(event: &Event) -> String {
    match event {
        Event::Status(status) => {
            format!("{} {} {}", status.state.as_str(), status.connected, status.configured)
        }
        Event::Added(environment) => format!("add {}", environment.id),
        Event::Updated(update) => format!("update {}", update.environment.id),
        Event::Deleted(gone) => format!("delete {}", gone.id),
        Event::KeyExpired(expired) => {
            let key = match &expired.key {
                ExpiredKey::Sdk(key) => key.reveal(),
                ExpiredKey::Mobile(key) => key.reveal(),
            };
            format!("end {} {} {key} {}", expired.id, expired.key.kind().as_str(), expired.expires_ms)
        }
        Event::FilterAdded(filter) => format!("filter_add {}", filter.id),
        Event::FilterUpdated(filter) => format!("filter_update {}", filter.id),
        Event::FilterDeleted(gone) => format!("filter_delete {}", gone.id),
        Event::Refused(refused) => format!("refused {} {}", refused.id, refused.reason.as_str()),
        Event::ReceivedAll(all) => format!("all {} {}", all.environments, all.filters),
        Event::Held(held) => format!("held {}", held.environments),
    }
}

/// Sorts expiries at the same time: keys of one environment then expire in the order of its list, which the model does
/// not keep.
fn sorted_ends(log: &mut [String]) {
    for run in log.chunk_by_mut(|a, b| a.starts_with("end ") && b.starts_with("end ")) {
        run.sort();
    }
}

/// Makes the steps of a run with the session and with the model.
fn live(hold: u64, steps: &[Step]) -> Result<(), TestCaseError> {
    let mut model = Model { hold, state: "initializing", connected: true, ..Model::default() };
    let mut session = Session::new(Environments::default().hold_empty(Duration::from_millis(hold)));
    session.handle_opened();
    while session.poll().is_some() {}
    let mut log = Vec::new();
    for step in steps {
        let from = model.log.len();
        model.step(step);
        let now = Now::new(model.wall, Duration::from_millis(model.steady));
        let (event, data) = match step {
            Step::Put(reps, filters) => {
                let reps: Map<_, _> = reps.iter().map(|rep| (format!("e{}", rep.id), rep.json())).collect();
                let filters: Map<_, _> = filters
                    .iter()
                    .map(|(id, version)| (format!("f{id}"), json!({"version": version})))
                    .collect();
                ("put", json!({"path": "/", "data": {"environments": reps, "filters": filters}}))
            }
            Step::Patch(rep) => {
                ("patch", json!({"path": format!("/environments/e{}", rep.id), "data": rep.json()}))
            }
            Step::PatchFilter(id, version) => {
                ("patch", json!({"path": format!("/filters/f{id}"), "data": {"version": version}}))
            }
            Step::Delete(id, version) => {
                ("delete", json!({"path": format!("/environments/e{id}"), "version": version}))
            }
            Step::DeleteFilter(id, version) => {
                ("delete", json!({"path": format!("/filters/f{id}"), "version": version}))
            }
            Step::Reconnect => ("reconnect", Value::Null),
            Step::Other => ("magic", Value::Null),
            Step::Bad => ("put", json!(999)),
            Step::Time(_) | Step::Sleep(_) | Step::Back(_) | Step::Cut => ("", Value::Null),
        };
        let ended = |session: &mut Session| {
            session.handle_ended(StatusError::network("it ended"), Duration::ZERO);
            session.handle_opened();
        };
        match step {
            Step::Sleep(_) => {}
            Step::Time(_) | Step::Back(_) => session.handle_time(now),
            Step::Cut => ended(&mut session),
            _ => {
                if session.handle_event(event, &data.to_string(), now) == Next::Restart {
                    ended(&mut session);
                }
            }
        }
        let mut told: Vec<String> = std::iter::from_fn(|| session.poll()).map(|event| word(&event)).collect();
        let mut meant = model.log[from..].to_vec();
        sorted_ends(&mut told);
        sorted_ends(&mut meant);
        prop_assert_eq!(&told, &meant, "{:?}", step);
        log.extend(told);

        // After each step, the keys are those of the last accepted version.
        let held: BTreeMap<String, Keys> = session.environments().environments().map(keys_of).collect();
        let meant: BTreeMap<_, _> =
            model.live.iter().map(|(id, keys)| (format!("e{id}"), keys.clone())).collect();
        prop_assert_eq!(held, meant);
        let ends =
            model.live.values().flat_map(|keys| keys.sdk.values().chain(keys.mobile.values()).flatten());
        let due = session.next_deadline();
        prop_assert_eq!(due.unix_ms, ends.min().map(|end| end + 1));
        prop_assert_eq!(due.steady, model.held.as_ref().map(|put| Duration::from_millis(put.due)));
    }
    consistent(&log)
}

fn keys_of(environment: &std::sync::Arc<Environment>) -> (String, Keys) {
    let number = |key: &str| key.trim_start_matches('k').parse().unwrap_or(0);
    let sdk = environment.sdk_keys.iter().map(|key| (number(key.key.reveal()), key.expires_ms)).collect();
    let mobile =
        environment.mobile_keys.iter().map(|key| (number(key.key.reveal()), key.expires_ms)).collect();
    (environment.id.to_string(), Keys { sdk, mobile, dropped: environment.dropped_keys })
}

/// Checks that only existing items are updated or deleted, and only new ones added.
fn consistent(log: &[String]) -> Result<(), TestCaseError> {
    let mut there = BTreeSet::new();
    for line in log {
        let mut words = line.split(' ');
        match (words.next().unwrap_or_default(), words.next().unwrap_or_default()) {
            ("add" | "filter_add", id) => prop_assert!(there.insert(id.to_owned())),
            ("delete" | "filter_delete", id) => prop_assert!(there.remove(id)),
            ("update" | "filter_update" | "end", id) => prop_assert!(there.contains(id)),
            _ => {}
        }
    }
    Ok(())
}

fn run(cases: u32) -> Result<(), TestError<(u64, Vec<Step>)>> {
    let config = Config { cases, failure_persistence: None, max_shrink_iters: 0, ..Config::default() };
    let rng = TestRng::deterministic_rng(config.rng_algorithm);
    TestRunner::new_with_rng(config, rng).run(&life(), |(hold, steps)| live(hold, &steps))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_session_agrees_with_the_model((hold, steps) in life()) {
        live(hold, &steps)?;
    }
}

/// Makes the same runs for each rule: with all rules they succeed; without the rule, one of them fails.
#[test]
fn every_rule_is_missed() {
    const LIVES: u32 = 4000;
    without(None, || run(500)).unwrap();
    let idle: Vec<String> = Rule::ALL
        .iter()
        .filter(|rule| without(Some(**rule), || run(LIVES)).is_ok())
        .map(|rule| format!("{rule:?}: {}", rule.says()))
        .collect();
    assert!(idle.is_empty(), "nobody misses {idle:#?}");
}
