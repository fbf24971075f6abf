//! The fold over messages and time: versions, puts, and the expiry of keys.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use relay_proto::autoconfig::{
    Delete, EnvironmentId, EnvironmentRep, FilterId, FilterRep, Message, Patch, Path, PutContent, Refusal,
};

use super::environment::{AcceptedKey, Environment, Filter, masked_difference};
use super::event::{
    By, Event, Expired, ExpiredKey, Gone, Held, Origin, ReceivedAll, Refused, RefusedIn, Updated,
};
use super::records::{Records, Upsert};
use super::rules::{Rule, rule};

/// A point in time, on two clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Now {
    /// The wall clock, in milliseconds since 1970, for the expiry of keys. It may go back.
    pub unix_ms: u64,
    /// A clock that never goes back, from an origin of the caller, for puts that are held back.
    pub steady: Duration,
}

impl Now {
    /// A time on both clocks.
    pub fn new(unix_ms: u64, steady: Duration) -> Self {
        Self { unix_ms, steady }
    }

    /// A time on a wall clock that never goes back.
    pub fn at(unix_ms: u64) -> Self {
        Self { unix_ms, steady: Duration::from_millis(unix_ms) }
    }
}

/// The time of the next change without a message, on each clock of [`Now`]. `None` means never.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Deadline {
    /// On the wall clock, which may be set: check again by then, and after the clock was set.
    pub unix_ms: Option<u64>,
    /// On the steady clock.
    pub steady: Option<Duration>,
}

/// The effect of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Applied {
    /// Changes, in the order in which to act on them.
    pub events: Vec<Event>,
    /// The consequence for the connection.
    pub outcome: Outcome,
}

/// The consequence of a message for the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outcome {
    /// It was understood.
    Fine,
    /// It is valid but not for this version of the protocol: another path, or another event.
    Ignored,
    /// A put was applied, except for this number of refused environments.
    Partly(usize),
    /// It was refused: connect again after the usual delay. The reason is that of its first refused environment.
    Refused(Refusal),
    /// The service asks to connect again.
    Reconnect,
}

/// All known environments and filters, with their accepted keys.
///
/// Cost: a put takes one pass over its content and, if something is missing in it, over all known items; any other
/// message only depends on its environment; a deadline takes the logarithm of the number of environments with one.
/// Deleted ids are remembered, with their versions, until a put does not have them.
#[derive(Debug, Default)]
pub struct Environments {
    environments: Records<EnvironmentId, Arc<Environment>>,
    filters: Records<FilterId, Arc<Filter>>,
    /// The earliest expiry of each environment with expiring keys.
    ends: BTreeSet<(u64, EnvironmentId)>,
    /// The first of them.
    first_end: Option<u64>,
    /// Number of messages so far, to find changes since one of them.
    touch: u64,
    hold_empty: Duration,
    held: Option<HeldPut>,
}

#[derive(Debug)]
struct HeldPut {
    filters: Vec<(FilterId, FilterRep<'static>)>,
    until: Duration,
    touch: u64,
}

impl Environments {
    /// Holds back a put that would remove all environments, for this time. Default 0: not at all.
    #[must_use]
    pub fn hold_empty(mut self, hold: Duration) -> Self {
        self.hold_empty = hold;
        self
    }

    /// How many environments are known.
    pub fn len(&self) -> usize {
        self.environments.live()
    }

    /// Whether none is known.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many filters are known.
    pub fn filters_len(&self) -> usize {
        self.filters.live()
    }

    /// The environment with this id.
    pub fn get(&self, id: &str) -> Option<&Arc<Environment>> {
        self.environments.get(id)
    }

    /// The filter with this id.
    pub fn filter(&self, id: &str) -> Option<&Arc<Filter>> {
        self.filters.get(id)
    }

    /// All environments, in no order.
    pub fn environments(&self) -> impl Iterator<Item = &Arc<Environment>> {
        self.environments.iter().map(|(_, environment)| environment)
    }

    /// All filters, in no order.
    pub fn filters(&self) -> impl Iterator<Item = &Arc<Filter>> {
        self.filters.iter().map(|(_, filter)| filter)
    }

    /// When to call [`handle_time`](Self::handle_time) without a message.
    #[inline]
    pub fn next_deadline(&self) -> Deadline {
        Deadline {
            // A key is still accepted in its last millisecond.
            unix_ms: self.first_end.map(|end| end.saturating_add(1)).filter(|&due| due < u64::MAX),
            steady: self.held.as_ref().map(|held| held.until),
        }
    }

    /// Expires keys, and applies a put that was held back for long enough.
    pub fn handle_time(&mut self, now: Now) -> Vec<Event> {
        let mut events = Vec::new();
        self.expire(now, &mut events);
        if self.held.as_ref().is_some_and(|held| now.steady >= held.until)
            && let Some(held) = self.held.take()
        {
            self.touch += 1;
            self.environments.begin_put();
            self.forget_environments(0, held.touch, &mut events);
            let filters: Vec<_> = held.filters.iter().map(|(id, rep)| (id.as_str(), rep)).collect();
            self.put_filters(&filters, held.touch, &mut events);
            self.received_all(Vec::new(), Origin::Stream, &mut events);
        }
        events
    }

    /// Drops a put that is held back, because its connection has ended.
    pub fn handle_disconnect(&mut self) {
        if rule(Rule::EndDropsHeld) {
            self.held = None;
        }
    }

    /// Applies a message, after expiring keys.
    pub fn apply(&mut self, message: Message<'_>, now: Now) -> Applied {
        let mut events = if rule(Rule::EndsFirst) { self.handle_time(now) } else { Vec::new() };
        let outcome = match message {
            Message::Put(put) if put.path == Path::All => {
                self.put(put.content, Origin::Stream, now, &mut events)
            }
            Message::Patch(patch) => self.patch(*patch, now, &mut events),
            Message::Delete(delete) => self.delete(&delete, &mut events),
            Message::Reconnect => Outcome::Reconnect,
            _ => Outcome::Ignored,
        };
        Applied { events, outcome }
    }

    /// Restores a saved state, before any other input. Invalid environments are left out.
    pub fn restore(&mut self, mut content: PutContent<'_>, now: Now) -> Vec<Event> {
        let mut events = Vec::new();
        content.environments.retain(|(id, rep)| rep.judge(id).is_ok());
        self.put(content, Origin::Cache, now, &mut events);
        events
    }

    fn put(&mut self, content: PutContent<'_>, origin: Origin, now: Now, events: &mut Vec<Event>) -> Outcome {
        let mut refused = Vec::new();
        for (id, rep) in &content.environments {
            if let Err(reason) = rep.judge(id)
                && rule(Rule::PutJudges)
            {
                let (id, version) = (EnvironmentId::from(&**id), rep.version);
                refused.push(Refused { id, version, reason, came_in: RefusedIn::Put });
            }
        }
        if let Some(first) = refused.first()
            && refused.len() == content.environments.len()
            && rule(Rule::AllRefused)
        {
            let reason = first.reason;
            events.extend(refused.into_iter().map(Event::Refused));
            return Outcome::Refused(reason);
        }
        if rule(Rule::PutReplacesHeld) {
            self.held = None;
        }
        let holds = !self.hold_empty.is_zero() && rule(Rule::HoldsEmpty);
        let nothing_to_lose = self.is_empty() && rule(Rule::HoldsSomething);
        if holds && content.environments.is_empty() && !nothing_to_lose {
            events.push(Event::Held(Held {
                environments: self.environments.untouched(self.touch),
                hold_ms: u64::try_from(self.hold_empty.as_millis()).unwrap_or(u64::MAX),
            }));
            self.held = Some(HeldPut {
                filters: content
                    .filters
                    .into_iter()
                    .map(|(id, rep)| (FilterId::from(&*id), rep.into_owned()))
                    .collect(),
                until: now.steady.saturating_add(self.hold_empty),
                touch: self.touch,
            });
            return Outcome::Fine;
        }
        self.touch += 1;
        self.environments.begin_put();
        let mut unlucky = refused.iter().peekable();
        let mut named = 0;
        for (id, rep) in &content.environments {
            if unlucky.next_if(|refused| refused.id.as_str() == id).is_some() {
                if rule(Rule::RefusedIsNamed) {
                    self.environments.name(id);
                }
                named += usize::from(self.environments.knows(id));
            } else {
                self.upsert(id, rep, now, events);
                named += 1;
            }
        }
        self.forget_environments(named, self.touch, events);
        let filters: Vec<_> = content.filters.iter().map(|(id, rep)| (&**id, rep)).collect();
        self.put_filters(&filters, self.touch, events);
        let ids = refused.iter().map(|refused| refused.id.clone()).collect();
        let partly = refused.len();
        events.extend(refused.into_iter().map(Event::Refused));
        self.received_all(ids, origin, events);
        if partly > 0 && rule(Rule::PartlyIsError) { Outcome::Partly(partly) } else { Outcome::Fine }
    }

    fn forget_environments(&mut self, named: usize, touched: u64, events: &mut Vec<Event>) {
        for (id, environment) in self.environments.forget_unnamed(named, touched) {
            if rule(Rule::PutCancels) {
                self.unschedule(&environment);
            }
            events.push(Event::Deleted(Gone { id, version: None, by: By::Put }));
        }
    }

    fn put_filters(&mut self, filters: &[(&str, &FilterRep<'_>)], touched: u64, events: &mut Vec<Event>) {
        self.filters.begin_put();
        for (id, rep) in filters {
            self.upsert_filter(id, rep, events);
        }
        for (id, _) in self.filters.forget_unnamed(filters.len(), touched) {
            events.push(Event::FilterDeleted(Gone { id, version: None, by: By::Put }));
        }
    }

    fn received_all(&self, refused: Vec<EnvironmentId>, origin: Origin, events: &mut Vec<Event>) {
        if rule(Rule::PutCompletes) {
            events.push(Event::ReceivedAll(ReceivedAll {
                environments: self.len(),
                filters: self.filters_len(),
                refused,
                origin,
            }));
        }
    }

    fn patch(&mut self, patch: Patch<'_>, now: Now, events: &mut Vec<Event>) -> Outcome {
        self.touch += 1;
        match (patch.path, patch.environment, patch.filter) {
            (Path::Environment(id), Some(rep), _) => match rep.judge(&id) {
                Err(reason) if rule(Rule::PatchJudges) => {
                    events.push(Event::Refused(Refused {
                        id: EnvironmentId::from(&*id),
                        version: rep.version,
                        reason,
                        came_in: RefusedIn::Patch,
                    }));
                    if !reason.is_about_id() {
                        return Outcome::Refused(reason);
                    }
                }
                _ => self.upsert(&id, &rep, now, events),
            },
            (Path::Filter(id), _, Some(rep)) => self.upsert_filter(&id, &rep, events),
            _ => return Outcome::Ignored,
        }
        Outcome::Fine
    }

    fn delete(&mut self, delete: &Delete<'_>, events: &mut Vec<Event>) -> Outcome {
        self.touch += 1;
        let (version, by) = (Some(delete.version), By::Delete);
        match &delete.path {
            Path::Environment(id) => {
                if let Some(environment) = self.environments.delete(id, delete.version, self.touch) {
                    if rule(Rule::DeleteCancels) {
                        self.unschedule(&environment);
                    }
                    events.push(Event::Deleted(Gone { id: environment.id.clone(), version, by }));
                }
            }
            Path::Filter(id) => {
                if let Some(filter) = self.filters.delete(id, delete.version, self.touch) {
                    events.push(Event::FilterDeleted(Gone { id: filter.id.clone(), version, by }));
                }
            }
            _ => return Outcome::Ignored,
        }
        Outcome::Fine
    }

    fn upsert(&mut self, id: &str, rep: &EnvironmentRep<'_>, now: Now, events: &mut Vec<Event>) {
        let make = |id| Arc::new(Environment::new(id, rep, now.unix_ms));
        let was = match self.environments.upsert(id, rep.version, self.touch, make) {
            Upsert::Stale => return,
            Upsert::Insert => None,
            Upsert::Update(was) => Some(was),
        };
        if let Some(was) = &was
            && rule(Rule::UpdateCancels)
        {
            self.unschedule(was);
        }
        let Some(environment) = self.environments.get(id).cloned() else { return };
        self.schedule(&environment);
        events.push(match was {
            None => Event::Added(environment),
            Some(was) => Event::Updated(Updated {
                changed: environment.changed_since(&was),
                accepted: masked_difference(&environment, &was),
                revoked: masked_difference(&was, &environment),
                environment,
            }),
        });
    }

    fn upsert_filter(&mut self, id: &str, rep: &FilterRep<'_>, events: &mut Vec<Event>) {
        let make = |id| Arc::new(Filter::new(id, rep));
        let upsert = self.filters.upsert(id, rep.version, self.touch, make);
        let Some(filter) = self.filters.get(id) else { return };
        match upsert {
            Upsert::Stale => {}
            Upsert::Insert => events.push(Event::FilterAdded(filter.clone())),
            Upsert::Update(_) => {
                if rule(Rule::FilterUpdates) {
                    events.push(Event::FilterUpdated(filter.clone()));
                }
            }
        }
    }

    fn schedule(&mut self, environment: &Environment) {
        if let Some(end) = environment.first_end() {
            self.ends.insert((end, environment.id.clone()));
            self.first_end = self.ends.first().map(|(end, _)| *end);
        }
    }

    fn unschedule(&mut self, environment: &Environment) {
        if let Some(end) = environment.first_end() {
            self.ends.remove(&(end, environment.id.clone()));
            self.first_end = self.ends.first().map(|(end, _)| *end);
        }
    }

    /// Removes expired keys, in the order of their expiry.
    fn expire(&mut self, now: Now, events: &mut Vec<Event>) {
        while let Some((end, id)) = self.ends.first().filter(|(end, _)| over(*end, now)).cloned() {
            self.ends.pop_first();
            let Some(environment) = self.environments.get_mut(id.as_str()) else { continue };
            // Copied only if the caller still holds it.
            let environment = Arc::make_mut(environment);
            let expired =
                |name, key| Event::KeyExpired(Expired { id: id.clone(), key, name, expires_ms: end });
            for AcceptedKey { name, key, .. } in take_ended(&mut environment.sdk_keys, end) {
                events.push(expired(name, ExpiredKey::Sdk(key)));
            }
            for AcceptedKey { name, key, .. } in take_ended(&mut environment.mobile_keys, end) {
                if rule(Rule::MobileEnds) {
                    events.push(expired(name, ExpiredKey::Mobile(key)));
                }
            }
            if let Some(next) = environment.first_end() {
                self.ends.insert((next, id));
            }
        }
        self.first_end = self.ends.first().map(|(end, _)| *end);
    }
}

/// Whether a key with this expiry has expired.
fn over(end: u64, now: Now) -> bool {
    if rule(Rule::StrictlyAfter) { now.unix_ms > end } else { now.unix_ms >= end }
}

fn take_ended<K>(keys: &mut Vec<AcceptedKey<K>>, end: u64) -> Vec<AcceptedKey<K>> {
    keys.extract_if(.., |key| key.expires_ms == Some(end)).collect()
}
