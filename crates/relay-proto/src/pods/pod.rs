//! Pods: opaque, cheap to clone, read tolerantly and written in one shape.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, OnceLock};

use serde::de::DeserializeOwned;
use serde::{Serialize, Serializer};

use super::PodKey;
use super::container::{Container, Owner};
use super::fields::{Field, Flat, for_each_field};
use super::layout::Layout;
use super::status::{self, Printed};
use super::text::{PodText, unescape};
use crate::error::JsonError;
use crate::json::{Scan, Scanner, Unusual};
use crate::time::Timestamp;

/// A pod as a relay describes it. Cheap to clone (one reference count); accessors only, so that its representation
/// may change.
///
/// It is kept as its JSON, and fields are read from it. Annotations, owner and containers are parsed on first use
/// and then kept; comparing and writing pods keeps nothing.
///
/// `Serialize` writes the flat shape of `docs/protocol.md` with every field present; `Deserialize` also takes
/// `camelCase` names and whole Kubernetes objects (`metadata` / `spec` / `status`). [`Self::from_json`] does the same
/// and is far faster.
#[derive(Clone)]
pub struct Pod(Arc<Inner>);

struct Inner {
    key: PodKey,
    text: PodText,
    /// Whether the text is the form that `Serialize` writes.
    canonical: bool,
    ready: bool,
    details: OnceLock<Box<Details>>,
}

/// Rarely used fields, parsed on first use.
#[derive(Clone, Default, PartialEq)]
pub(super) struct Details {
    pub(super) annotations: Vec<(Box<str>, Box<str>)>,
    pub(super) owner: Option<Owner>,
    pub(super) containers: Vec<Container>,
    /// What is printed, where the other fields do not tell.
    pub(super) printed: Option<Printed>,
}

/// An accessor for each field that is text or null.
macro_rules! text_accessors {
    ($($(#[$doc:meta])* $kind:ident $name:ident $variant:ident $other:tt;)*) => {
        $(text_accessors!(@ $kind $(#[$doc])* $name $variant);)*
    };
    (@ text $(#[$doc:meta])* $name:ident $variant:ident) => {
        $(#[$doc])*
        pub fn $name(&self) -> Option<&str> {
            self.text(Field::$variant)
        }
    };
    (@ time $(#[$doc:meta])* $name:ident $variant:ident) => {
        $(#[$doc])*
        pub fn $name(&self) -> Option<Timestamp> {
            self.text(Field::$variant).map(Timestamp::new)
        }
    };
    (@ $other:ident $(#[$doc:meta])* $name:ident $variant:ident) => {};
}

impl Pod {
    /// Reads a pod from JSON, flat or as a Kubernetes object.
    ///
    /// # Errors
    /// When the text is not JSON, a known field has the wrong type, or namespace or name is missing.
    pub fn from_json(json: &str) -> Result<Self, InvalidPod> {
        Self::scan_whole(json)
            .or_else(|Unusual| serde_json::from_str(json))
            .map_err(|error: serde_json::Error| InvalidPod { source: error.into() })
    }

    /// Reads a text that is a flat pod and nothing else.
    pub(super) fn scan_whole(json: &str) -> Scan<Self> {
        let mut scanner = Scanner::new(json)?;
        let pod = Self::scan(&mut scanner)?;
        scanner.end().map(|()| pod)
    }

    /// Reads a pod in either shape.
    pub(super) fn scan_any(scanner: &mut Scanner<'_>) -> Scan<Self> {
        scanner.peek()?;
        let before = scanner.clone();
        Self::scan(scanner).or_else(|Unusual| {
            *scanner = before;
            let start = scanner.at();
            scanner.skip()?;
            serde_json::from_str(&scanner.text()[start..scanner.at()]).map_err(|_| Unusual)
        })
    }

    /// Reads a flat pod; whatever is unusual is left to serde.
    fn scan(scanner: &mut Scanner<'_>) -> Scan<Self> {
        let layout = Layout::scan(scanner)?.named()?;
        let source = scanner.text();
        let (namespace, name) = (layout.namespace, layout.name);
        let key = if namespace.escaped || name.escaped {
            PodKey::new(&unescape(source, namespace)?, &unescape(source, name)?)
        } else {
            // Without an escape there is no NUL.
            PodKey::join(namespace.of(source), name.of(source))
        };
        Ok(Self::of(key, PodText::new(source, &layout)?, layout.ready, false))
    }

    /// The pod that a builder made; `None` when its JSON is 4 GiB or more.
    pub(super) fn built(key: PodKey, json: &str) -> Option<Self> {
        let layout = Layout::scan(&mut Scanner::new(json).ok()?).ok()?;
        Some(Self::of(key, PodText::new(json, &layout).ok()?, layout.ready, true))
    }

    fn of(key: PodKey, text: PodText, ready: bool, canonical: bool) -> Self {
        // A pod that is being deleted takes no new work, whatever its probe says.
        let ready = ready && text.get(Field::DeletedAt).is_none();
        Self(Arc::new(Inner { key, text, canonical, ready, details: OnceLock::new() }))
    }

    /// The JSON that `Serialize` writes; borrowed where a builder has written it already.
    pub fn to_json(&self) -> Cow<'_, str> {
        if self.0.canonical {
            return Cow::Borrowed(self.0.text.json());
        }
        Cow::Owned(serde_json::to_string(self).expect("a pod is always representable as JSON"))
    }

    /// Namespace and name.
    pub fn key(&self) -> &PodKey {
        &self.0.key
    }

    /// The namespace.
    pub fn namespace(&self) -> &str {
        self.0.key.namespace()
    }

    /// The name, unique within the namespace at one time.
    pub fn name(&self) -> &str {
        self.0.key.name()
    }

    for_each_field! { text_accessors }

    /// A field that is text or null.
    #[inline]
    pub(super) fn text(&self, field: Field) -> Option<&str> {
        self.0.text.get(field)
    }

    /// The value of one label.
    pub fn label(&self, key: &str) -> Option<&str> {
        self.labels().take_while(|(k, _)| *k <= key).find(|(k, _)| *k == key).map(|(_, value)| value)
    }

    /// All labels, sorted by key.
    pub fn labels(&self) -> impl ExactSizeIterator<Item = (&str, &str)> {
        self.0.text.labels()
    }

    /// Whether both have the same labels; cheaper than comparing them one by one.
    pub fn same_labels(&self, other: &Self) -> bool {
        self.0.text.same_labels(&other.0.text)
    }

    /// The value of one annotation. A relay publishes only annotations on its allow-list.
    pub fn annotation(&self, key: &str) -> Option<&str> {
        let pairs = &self.details().annotations;
        pairs.binary_search_by(|(k, _)| (**k).cmp(key)).ok().map(|at| &*pairs[at].1)
    }

    /// All published annotations, sorted by key.
    pub fn annotations(&self) -> impl ExactSizeIterator<Item = (&str, &str)> {
        self.details().annotations.iter().map(|(k, v)| (&**k, &**v))
    }

    /// Whether the pod's `Ready` condition holds and it is not being deleted; false when unknown.
    pub fn ready(&self) -> bool {
        self.0.ready
    }

    /// The controlling owner.
    pub fn owner(&self) -> Option<&Owner> {
        self.details().owner.as_ref()
    }

    /// The containers: those that initialise the pod and its sidecars, then the others, then the ephemeral ones;
    /// each in the order of the pod's specification. [`Container::kind`] distinguishes them.
    pub fn containers(&self) -> &[Container] {
        &self.details().containers
    }

    /// The pod in one line: STATUS, READY and RESTARTS as `kubectl get pods` prints them.
    pub fn printed(&self) -> Printed {
        let details = self.peek_details();
        match &details.printed {
            Some(printed) => printed.clone(),
            None => self.flat_status(&details.containers).print(),
        }
    }

    /// STATUS as `kubectl get pods` prints it, such as `Running`, `Init:CrashLoopBackOff` or `Terminating`;
    /// [`Self::phase`] is the phase of the API.
    pub fn status(&self) -> String {
        self.printed().status
    }

    /// RESTARTS as `kubectl get pods` prints it.
    pub fn restarts(&self) -> u32 {
        self.printed().restarts
    }

    /// READY as `kubectl get pods` prints it: the number of ready containers, and of all. Sidecars count, init
    /// containers do not.
    pub fn ready_containers(&self) -> (u32, u32) {
        let printed = self.printed();
        (printed.ready, printed.containers)
    }

    fn flat_status<'a>(&'a self, containers: &'a [Container]) -> status::Flat<'a> {
        status::Flat {
            phase: self.phase(),
            reason: self.reason(),
            ready: self.ready(),
            deleting: self.deleted_at().is_some(),
            containers,
        }
    }

    /// Whether both are clones of each other. Cheap, while `==` may have to read both.
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Whether it has clones. A hint only: their number may change at any moment.
    pub fn is_shared(&self) -> bool {
        Arc::strong_count(&self.0) > 1
    }

    /// Parses the details once.
    fn details(&self) -> &Details {
        self.0.details.get_or_init(|| Box::new(Details::read(&self.0.text)))
    }

    /// The details without keeping them.
    pub(super) fn peek_details(&self) -> Cow<'_, Details> {
        match self.0.details.get() {
            Some(details) => Cow::Borrowed(details),
            None => Cow::Owned(Details::read(&self.0.text)),
        }
    }
}

impl Details {
    fn read(text: &PodText) -> Self {
        let annotations: BTreeMap<String, String> = read_at(text.json(), text.annotations);
        Self {
            annotations: annotations.into_iter().map(|(key, value)| (key.into(), value.into())).collect(),
            owner: read_at(text.json(), text.owner),
            containers: read_at(text.json(), text.containers),
            printed: read_at(text.json(), text.printed),
        }
    }
}

/// Reads the value that begins at `at`. The scanner has checked it when the pod was made, so this does not fail.
fn read_at<T: DeserializeOwned + Default>(json: &str, at: u32) -> T {
    let value =
        (at > 0).then(|| T::deserialize(&mut serde_json::Deserializer::from_str(&json[at as usize..])));
    value.transpose().unwrap_or_default().unwrap_or_default()
}

impl PartialEq for Pod {
    /// Compares all fields, not their JSON.
    fn eq(&self, other: &Self) -> bool {
        let (a, b) = (&*self.0, &*other.0);
        let same_text = self.is_same(other) || a.text.json() == b.text.json();
        same_text
            || (a.key == b.key
                && a.ready == b.ready
                && Field::texts().all(|field| a.text.get(field) == b.text.get(field))
                && a.text.same_labels(&b.text)
                && self.peek_details() == other.peek_details())
    }
}

impl Eq for Pod {}

impl fmt::Debug for Pod {
    /// Shows the pod's key and version only, because other fields may be secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pod({} {:?})", self.0.key, self.resource_version().unwrap_or(""))
    }
}

/// Text that is not a pod.
#[derive(Debug, thiserror::Error)]
#[error("not a pod")]
pub struct InvalidPod {
    source: JsonError,
}

impl Serialize for Pod {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let details = self.peek_details();
        let flat = Flat {
            key: self.key(),
            text: |field| self.text(field),
            labels: self.0.text.labels(),
            annotations: details.annotations.iter().map(|(key, value)| (&**key, &**value)),
            ready: self.ready(),
            owner: details.owner.as_ref(),
            containers: &details.containers,
            printed: details.printed.as_ref(),
        };
        flat.serialize(serializer)
    }
}

#[cfg(test)]
mod tests;
