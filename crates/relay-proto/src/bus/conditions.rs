//! The conditions in the status of a channel or subscription.

use serde_json::{Map, Value, json};

use crate::time::Timestamp;

/// The condition that summarises a channel's others.
pub const READY: &str = "Ready";

/// The new content of one condition.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Condition {
    /// Its type, such as `Provisioned`.
    pub r#type: &'static str,
    /// Whether it holds.
    pub holds: bool,
    /// One word.
    pub reason: String,
    /// A sentence.
    pub message: String,
}

impl Condition {
    /// A condition of these parts.
    pub fn new(
        r#type: &'static str,
        holds: bool,
        reason: impl Into<String>,
        message: impl Into<String>,
    ) -> Self {
        Self { r#type, holds, reason: reason.into(), message: message.into() }
    }
}

/// The list `status.conditions` of an object. Conditions of others, and unknown fields, are kept.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Conditions(Vec<Value>);

impl Conditions {
    /// The list of an object; an unusable one counts as empty.
    pub fn of(object: &Value) -> Self {
        Self(object["status"]["conditions"].as_array().cloned().unwrap_or_default())
    }

    /// The list for writing.
    pub fn as_value(&self) -> Value {
        Value::Array(self.0.clone())
    }

    /// The status of a condition: `True`, `False` or `Unknown`.
    pub fn status(&self, r#type: &str) -> Option<&str> {
        self.find(r#type).map(|at| self.0[at]["status"].as_str().unwrap_or("Unknown"))
    }

    /// Sets a condition; returns whether that changed anything. With the same status, reason and message nothing
    /// changes. Otherwise `lastUpdateTime` is `now`, and with another status `lastTransitionTime` too. `now` is in
    /// seconds since 1970.
    pub fn set(&mut self, condition: &Condition, now: i64) -> bool {
        let status = if condition.holds { "True" } else { "False" };
        let time = Value::from(Timestamp::from_unix_millis(now.saturating_mul(1000)).as_str());
        let held = match self.find(condition.r#type) {
            Some(at) => &mut self.0[at],
            None => {
                self.0.push(json!({ "type": condition.r#type }));
                self.0.last_mut().expect("one was pushed")
            }
        };
        let Some(fields) = held.as_object_mut() else { return false };
        let says = |fields: &Map<String, Value>, name: &str, text: &str| {
            fields.get(name).and_then(Value::as_str).unwrap_or_default() == text
        };
        let moved = !says(fields, "status", status);
        if !moved && says(fields, "reason", &condition.reason) && says(fields, "message", &condition.message)
        {
            return false;
        }
        fields.insert("status".into(), status.into());
        fields.insert("reason".into(), condition.reason.as_str().into());
        fields.insert("message".into(), condition.message.as_str().into());
        fields.insert("lastUpdateTime".into(), time.clone());
        if moved {
            fields.insert("lastTransitionTime".into(), time);
        }
        true
    }

    /// Sets [`READY`] from the others: `Provisioned`, and those of `Routeable` and `Serviceable` that exist.
    /// Returns whether that changed anything.
    pub fn set_ready(&mut self, now: i64) -> bool {
        let fails = |name: &&str| match self.status(name) {
            Some(status) => status != "True",
            None => *name == "Provisioned",
        };
        let failing = ["Provisioned", "Routeable", "Serviceable"].into_iter().find(fails);
        let condition = match failing {
            None => Condition::new(READY, true, "Ready", ""),
            Some(name) => Condition::new(READY, false, format!("Not{name}"), format!("{name} is not True")),
        };
        self.set(&condition, now)
    }

    fn find(&self, r#type: &str) -> Option<usize> {
        self.0.iter().position(|condition| condition["type"] == r#type && condition.is_object())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rule_15_times_move_only_with_what_they_tell_of() {
        let mut conditions = Conditions::default();
        let provisioned =
            |holds, reason: &str, message: &str| Condition::new("Provisioned", holds, reason, message);
        let times = |conditions: &Conditions| {
            let held = &conditions.0[0];
            let time = |name: &str| held[name].as_str().unwrap_or("-").to_owned();
            (time("lastUpdateTime"), time("lastTransitionTime"))
        };
        let at = |second| format!("1970-01-01T00:00:0{second}Z");
        assert!(conditions.set(&provisioned(false, "a", "m"), 1));
        assert_eq!(times(&conditions), (at(1), at(1)));
        assert!(!conditions.set(&provisioned(false, "a", "m"), 2));
        assert_eq!(times(&conditions), (at(1), at(1)));
        assert!(conditions.set(&provisioned(false, "b", "m"), 3));
        assert_eq!(times(&conditions), (at(3), at(1)));
        assert!(conditions.set(&provisioned(false, "b", "n"), 4));
        assert_eq!(times(&conditions), (at(4), at(1)));
        assert!(conditions.set(&provisioned(true, "b", "n"), 5));
        assert_eq!(times(&conditions), (at(5), at(5)));
    }

    #[test]
    fn rule_15_ready_counts_what_is_there_and_others_stay() {
        let object = json!({"status": {"conditions": [
            {"type": "Other", "status": "Unknown", "extra": [1]}, "odd",
            {"type": "Serviceable", "status": "False", "lastHeartbeat": 1},
        ]}});
        let mut conditions = Conditions::of(&object);
        assert!(conditions.set_ready(1));
        assert_eq!(conditions.status(READY), Some("False"));
        conditions.set(&Condition::new("Provisioned", true, "Synced", ""), 1);
        assert!(conditions.set_ready(2));
        assert_eq!(conditions.0[3]["reason"], "NotServiceable");
        conditions.0.remove(2);
        assert!(conditions.set_ready(3));
        assert_eq!(conditions.status(READY), Some("True"));
        assert!(!conditions.set_ready(4));
        assert_eq!(conditions.as_value()[0], object["status"]["conditions"][0]);
        assert_eq!(conditions.as_value()[1], "odd");
        assert_eq!(Conditions::of(&json!({"status": null})), Conditions::default());
    }
}
