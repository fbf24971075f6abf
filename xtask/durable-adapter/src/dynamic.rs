//! Headers and parameters that are computed for every request, and a record of the sent ones.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value, json};

/// Values by name, and those that were sent last. Clones share them.
#[derive(Clone, Default)]
pub(crate) struct Dynamic(Arc<Mutex<Inner>>);

#[derive(Default)]
struct Inner {
    values: BTreeMap<String, Made>,
    sent: Map<String, Value>,
}

enum Made {
    Counter(u64),
    Timestamp,
    Token(String),
}

impl Dynamic {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a value of this type; `false` if there is no such type.
    pub(crate) fn set(&self, name: &str, kind: &str, initial: &Value) -> bool {
        let made = match kind {
            "counter" => Made::Counter(0),
            "timestamp" => Made::Timestamp,
            "token" => Made::Token(initial.as_str().unwrap_or("token").to_owned()),
            _ => return false,
        };
        self.lock().values.insert(name.to_owned(), made);
        true
    }

    pub(crate) fn clear(&self) {
        *self.lock() = Inner::default();
    }

    /// The values for one request.
    pub(crate) fn make(&self) -> Vec<(String, String)> {
        let mut inner = self.lock();
        let mut all = Vec::new();
        for (name, made) in &mut inner.values {
            let value = match made {
                Made::Counter(count) => {
                    *count += 1;
                    count.to_string()
                }
                Made::Timestamp => {
                    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis().to_string()
                }
                Made::Token(token) => token.clone(),
            };
            all.push((name.clone(), value));
        }
        inner.sent = all.iter().map(|(name, value)| (name.clone(), json!(value))).collect();
        all
    }

    /// The values that were sent last; `None` if there are no dynamic values.
    pub(crate) fn sent(&self) -> Option<Value> {
        let inner = self.lock();
        (!inner.values.is_empty()).then(|| Value::Object(inner.sent.clone()))
    }
}
