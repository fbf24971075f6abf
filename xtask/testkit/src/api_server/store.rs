//! The objects of a fake cluster, and their history.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use crate::peer::{Request, percent_decode};

/// The place of an object. The namespace is empty for types without one, and for all namespaces; an empty name means
/// all objects.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    /// `v1/pods`, or with a group.
    pub(super) kind: String,
    pub(super) namespace: String,
    pub(super) name: String,
}

impl Place {
    pub(super) fn new(kind: &str, namespace: &str, name: &str) -> Self {
        Self { kind: kind.to_owned(), namespace: namespace.to_owned(), name: name.to_owned() }
    }

    /// The place that a path of the API names, and whether the path is for its status.
    pub(super) fn of_path(path: &str) -> Option<(Self, bool)> {
        let parts: Vec<String> = path.strip_prefix('/')?.split('/').map(percent_decode).collect();
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        let (prefix, rest) = match parts[..] {
            ["api", version, ref rest @ ..] => (version.to_owned(), rest),
            ["apis", group, version, ref rest @ ..] => (format!("{group}/{version}"), rest),
            _ => return None,
        };
        // A namespace is also an object.
        let (namespace, rest) = match rest {
            ["namespaces", namespace, rest @ ..] if !rest.is_empty() => (*namespace, rest),
            rest => ("", rest),
        };
        let (plural, name, status) = match rest {
            [plural] => (*plural, "", false),
            [plural, name] => (*plural, *name, false),
            [plural, name, "status"] => (*plural, *name, true),
            _ => return None,
        };
        Some((Self::new(&format!("{prefix}/{plural}"), namespace, name), status))
    }

    /// Whether a list of `scope` contains an object at this place.
    fn is_in(&self, scope: &Self) -> bool {
        self.kind == scope.kind && (scope.namespace.is_empty() || self.namespace == scope.namespace)
    }
}

/// A refusal.
pub(super) struct Failure {
    pub(super) code: u16,
    reason: &'static str,
    message: String,
}

impl Failure {
    pub(super) fn new(code: u16, reason: &'static str, message: &str) -> Self {
        Self { code, reason, message: message.to_owned() }
    }

    pub(super) fn status(&self) -> Value {
        json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "code": self.code,
            "reason": self.reason, "message": self.message})
    }
}

/// The version, the kind of event, the place, and the object in its state at that time.
type Change = (u64, &'static str, Place, Value);

pub(super) struct Store {
    version: u64,
    objects: BTreeMap<Place, Value>,
    history: Vec<Change>,
    /// Changes up to this version were forgotten.
    forgotten: u64,
    uids: u64,
    without_status: BTreeSet<String>,
    /// Tokens of older generations are refused.
    pages: u64,
}

impl Default for Store {
    fn default() -> Self {
        Self {
            version: 1,
            objects: BTreeMap::new(),
            history: Vec::new(),
            forgotten: 0,
            uids: 0,
            without_status: BTreeSet::new(),
            pages: 0,
        }
    }
}

impl Store {
    pub(super) fn version(&self) -> u64 {
        self.version
    }

    pub(super) fn without_status(&mut self, kind: &str) {
        self.without_status.insert(kind.to_owned());
    }

    pub(super) fn expire(&mut self) {
        self.forgotten = self.version;
        self.history.clear();
    }

    pub(super) fn expire_pages(&mut self) {
        self.pages += 1;
    }

    pub(super) fn go_back(&mut self, version: u64) {
        self.version = version;
        self.history.clear();
        self.forgotten = 0;
        for object in self.objects.values_mut() {
            let later = object["metadata"]["resourceVersion"].as_str().and_then(|v| v.parse::<u64>().ok());
            if later.is_some_and(|later| later > version) {
                object["metadata"]["resourceVersion"] = version.to_string().into();
            }
        }
    }

    pub(super) fn get(&self, place: &Place) -> Option<&Value> {
        self.objects.get(place)
    }

    pub(super) fn find(&self, place: &Place) -> Result<&Value, Failure> {
        let Place { kind, name, .. } = place;
        self.get(place).ok_or_else(|| Failure::new(404, "NotFound", &format!("{kind} \"{name}\" not found")))
    }

    pub(super) fn put(&mut self, kind: &str, mut object: Value) -> u64 {
        let text =
            |object: &Value, field: &str| object["metadata"][field].as_str().unwrap_or_default().to_owned();
        let place = Place::new(kind, &text(&object, "namespace"), &text(&object, "name"));
        assert!(!place.name.is_empty(), "an object needs a name: {object}");
        let before = self.objects.get(&place);
        if object["metadata"]["uid"].is_null() {
            object["metadata"]["uid"] = match before {
                Some(before) => before["metadata"]["uid"].clone(),
                None => {
                    self.uids += 1;
                    format!("uid-{}", self.uids).into()
                }
            };
        }
        let change = if before.is_some() { "MODIFIED" } else { "ADDED" };
        self.version += 1;
        object["metadata"]["resourceVersion"] = self.version.to_string().into();
        self.history.push((self.version, change, place.clone(), object.clone()));
        self.objects.insert(place, object);
        self.version
    }

    pub(super) fn delete(&mut self, place: &Place) -> Result<Value, Failure> {
        self.find(place)?;
        let mut object = self.objects.remove(place).unwrap_or_default();
        self.version += 1;
        object["metadata"]["resourceVersion"] = self.version.to_string().into();
        self.history.push((self.version, "DELETED", place.clone(), object.clone()));
        Ok(object)
    }

    pub(super) fn create(&mut self, scope: &Place, mut object: Value) -> Result<Value, Failure> {
        if object["metadata"]["name"].is_null()
            && let Some(prefix) = object["metadata"]["generateName"].as_str()
        {
            object["metadata"]["name"] = format!("{prefix}{}", self.version).into();
        }
        let Some(name) = object["metadata"]["name"].as_str().map(str::to_owned) else {
            return Err(Failure::new(422, "Invalid", "name or generateName is required"));
        };
        if !scope.namespace.is_empty() {
            object["metadata"]["namespace"] = scope.namespace.as_str().into();
        }
        let place = Place { name, ..scope.clone() };
        if self.objects.contains_key(&place) {
            let message = format!("{} \"{}\" already exists", place.kind, place.name);
            return Err(Failure::new(409, "AlreadyExists", &message));
        }
        self.put(&scope.kind, object);
        self.find(&place).cloned()
    }

    pub(super) fn patch(&mut self, place: &Place, status: bool, patch: &Value) -> Result<Value, Failure> {
        let has_status = !self.without_status.contains(&place.kind);
        if status && !has_status {
            return Err(Failure::new(404, "NotFound", "the server could not find the requested resource"));
        }
        let before = self.find(place)?.clone();
        let wanted = &patch["metadata"]["resourceVersion"];
        if !wanted.is_null() && *wanted != before["metadata"]["resourceVersion"] {
            let message = format!(
                "Operation cannot be fulfilled on {} \"{}\": the object has been modified; please apply your changes to \
                 the latest version and try again",
                place.kind, place.name
            );
            return Err(Failure::new(409, "Conflict", &message));
        }
        let mut after = before.clone();
        merge(&mut after, patch);
        // A patch of the status keeps everything else, and a patch of the object keeps the status.
        if status {
            let new = after["status"].take();
            after = before.clone();
            after["status"] = new;
        } else if has_status {
            match before.get("status") {
                Some(old) => after["status"] = old.clone(),
                None => drop(after.as_object_mut().and_then(|after| after.remove("status"))),
            }
        }
        for field in ["uid", "resourceVersion", "name", "namespace"] {
            if !before["metadata"][field].is_null() {
                after["metadata"][field] = before["metadata"][field].clone();
            }
        }
        if after != before {
            self.put(&place.kind, after);
        }
        self.find(place).cloned()
    }

    /// The changes in scope after a version.
    pub(super) fn since(&self, scope: &Place, from: u64) -> Result<Vec<(u64, &'static str, Value)>, Failure> {
        if from < self.forgotten {
            let message = format!("too old resource version: {from} ({})", self.forgotten);
            return Err(Failure::new(410, "Expired", &message));
        }
        let news = self.history.iter().filter(|(version, _, place, _)| *version > from && place.is_in(scope));
        Ok(news.map(|(version, change, _, object)| (*version, *change, object.clone())).collect())
    }

    pub(super) fn list(&self, scope: &Place, request: &Request) -> Result<Value, Failure> {
        let wanted = request.query("resourceVersion").and_then(|version| version.parse().ok()).unwrap_or(0);
        if request.query("resourceVersionMatch").is_some() && wanted > self.version {
            let message = format!("Too large resource version: {wanted}, current: {}", self.version);
            return Err(Failure::new(504, "Timeout", &message));
        }
        let (mut version, mut start) = (self.version, String::new());
        if let Some(token) = request.query("continue").filter(|token| !token.is_empty()) {
            let parts: Vec<&str> = token.splitn(3, '.').collect();
            match parts[..] {
                [pages, first, key] if pages == self.pages.to_string() => {
                    (version, start) = (first.parse().unwrap_or(version), key.to_owned());
                }
                _ => {
                    let message =
                        "The provided continue parameter is too old to display a consistent list result.";
                    return Err(Failure::new(410, "Expired", message));
                }
            }
        }
        let limit = request.query("limit").and_then(|limit| limit.parse().ok()).filter(|&limit| limit > 0);
        let key = |place: &Place| format!("{}/{}", place.namespace, place.name);
        let in_scope = self.objects.iter().filter(|(place, _)| place.is_in(scope) && key(place) > start);
        let (mut items, mut last, mut more) = (Vec::new(), String::new(), false);
        for (place, object) in in_scope {
            if limit.is_some_and(|limit: usize| items.len() >= limit) {
                more = true;
                break;
            }
            items.push(object);
            last = key(place);
        }
        let next = if more { format!("{}.{version}.{last}", self.pages) } else { String::new() };
        let metadata = json!({"resourceVersion": version.to_string(), "continue": next});
        Ok(json!({"kind": "List", "apiVersion": "v1", "metadata": metadata, "items": items}))
    }
}

/// RFC 7396.
fn merge(target: &mut Value, patch: &Value) {
    let Some(fields) = patch.as_object() else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    for (name, value) in fields {
        match value {
            Value::Null => drop(target.as_object_mut().and_then(|target| target.remove(name))),
            value => merge(&mut target[name.as_str()], value),
        }
    }
}
