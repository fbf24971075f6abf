//! Makes pods and their JSON.

use std::array;
use std::fmt;

use super::PodKey;
use super::container::{Container, Owner};
use super::fields::{Field, Flat, for_each_field};
use super::pod::{Details, Pod};
use super::status::{self, Printed};
use crate::time::Timestamp;

/// Builds a [`Pod`] field by field: for servers and tests.
#[derive(Clone)]
pub struct PodBuilder {
    key: PodKey,
    /// The fields that are text or null, by [`Field::place`].
    texts: [Option<Box<str>>; Field::TEXTS],
    labels: Vec<(Box<str>, Box<str>)>,
    annotations: Vec<(Box<str>, Box<str>)>,
    ready: bool,
    owner: Option<Owner>,
    containers: Vec<Container>,
    /// The printed form, unless it follows from the fields above.
    printed: Option<Printed>,
}

/// A setter for each field that is text or null.
macro_rules! text_setters {
    ($($(#[$doc:meta])* $kind:ident $name:ident $variant:ident $other:tt;)*) => {
        $(text_setters!(@ $kind $name $variant);)*
    };
    (@ text $name:ident $variant:ident) => {
        #[doc = concat!("Sets [`Pod::", stringify!($name), "`].")]
        #[must_use]
        pub fn $name(self, value: Option<&str>) -> Self {
            self.text(Field::$variant, value)
        }
    };
    (@ time $name:ident $variant:ident) => {
        #[doc = concat!("Sets [`Pod::", stringify!($name), "`].")]
        #[must_use]
        pub fn $name(self, value: Option<Timestamp>) -> Self {
            self.text(Field::$variant, value.as_ref().map(Timestamp::as_str))
        }
    };
    (@ $other:ident $name:ident $variant:ident) => {};
}

impl PodBuilder {
    /// A pod with nothing but its name.
    pub fn new(namespace: &str, name: &str) -> Self {
        Self {
            key: PodKey::new(namespace, name),
            texts: array::from_fn(|_| None),
            labels: Vec::new(),
            annotations: Vec::new(),
            ready: false,
            owner: None,
            containers: Vec::new(),
            printed: None,
        }
    }

    /// The finished pod. Its JSON is written here, once.
    ///
    /// # Panics
    /// When its JSON is 4 GiB or more.
    pub fn build(self) -> Pod {
        self.try_build().expect("a pod of 4 GiB does not fit a message")
    }

    /// `None` when the JSON is 4 GiB or more.
    pub(super) fn try_build(self) -> Option<Pod> {
        let json = serde_json::to_string(&self.flat()).expect("a pod is always representable as JSON");
        Pod::built(self.key, &json)
    }

    for_each_field! { text_setters }

    fn text(mut self, field: Field, value: Option<&str>) -> Self {
        self.texts[field.place()] = value.map(Into::into);
        match field {
            Field::Phase | Field::Reason | Field::DeletedAt => self.told_by_fields(),
            _ => self,
        }
    }

    fn get(&self, field: Field) -> Option<&str> {
        self.texts[field.place()].as_deref()
    }

    /// Whether it is ready, if it is not being deleted.
    fn is_ready(&self) -> bool {
        self.ready && self.get(Field::DeletedAt).is_none()
    }

    /// Sets whether the pod is ready. A pod with a deletion time is never ready.
    #[must_use]
    pub fn ready(mut self, ready: bool) -> Self {
        self.ready = ready;
        self.told_by_fields()
    }

    /// Sets one label, replacing a former value.
    #[must_use]
    pub fn label(mut self, key: &str, value: &str) -> Self {
        insert(&mut self.labels, key, value);
        self
    }

    /// Replaces all labels.
    #[must_use]
    pub fn labels<K: AsRef<str>, V: AsRef<str>>(mut self, labels: impl IntoIterator<Item = (K, V)>) -> Self {
        self.labels.clear();
        for (key, value) in labels {
            insert(&mut self.labels, key.as_ref(), value.as_ref());
        }
        self
    }

    /// Replaces all annotations.
    #[must_use]
    pub fn annotations<K: AsRef<str>, V: AsRef<str>>(
        mut self,
        annotations: impl IntoIterator<Item = (K, V)>,
    ) -> Self {
        self.annotations.clear();
        for (key, value) in annotations {
            insert(&mut self.annotations, key.as_ref(), value.as_ref());
        }
        self
    }

    /// Keeps only the annotations whose key passes.
    #[must_use]
    pub fn retain_annotations(mut self, keep: impl Fn(&str) -> bool) -> Self {
        self.annotations.retain(|(key, _)| keep(key));
        self
    }

    /// Sets the owner.
    #[must_use]
    pub fn owner(mut self, owner: Option<Owner>) -> Self {
        self.owner = owner;
        self
    }

    /// Sets the containers.
    #[must_use]
    pub fn containers(mut self, containers: Vec<Container>) -> Self {
        self.containers = containers;
        self.told_by_fields()
    }

    /// The fields that determine the printed form.
    pub(super) fn flat_status(&self) -> status::Flat<'_> {
        status::Flat {
            phase: self.get(Field::Phase),
            reason: self.get(Field::Reason),
            ready: self.is_ready(),
            deleting: self.get(Field::DeletedAt).is_some(),
            containers: &self.containers,
        }
    }

    /// Sets the printed form, where it does not follow from the other fields.
    pub(super) fn printed(mut self, printed: Option<Printed>) -> Self {
        self.printed = printed;
        self
    }

    /// Removes the printed form, which then follows from the fields.
    fn told_by_fields(mut self) -> Self {
        self.printed = None;
        self
    }

    fn flat(&self) -> impl serde::Serialize {
        fn pairs(pairs: &[(Box<str>, Box<str>)]) -> impl Iterator<Item = (&str, &str)> + Clone {
            pairs.iter().map(|(key, value)| (&**key, &**value))
        }
        Flat {
            key: &self.key,
            text: |field| self.get(field),
            labels: pairs(&self.labels),
            annotations: pairs(&self.annotations),
            ready: self.is_ready(),
            owner: self.owner.as_ref(),
            containers: &self.containers,
            printed: self.printed.as_ref(),
        }
    }
}

impl Pod {
    /// A builder that begins with this pod's fields.
    pub fn to_builder(&self) -> PodBuilder {
        let own = |(key, value): (&str, &str)| (key.into(), value.into());
        let Details { annotations, owner, containers, printed } = self.peek_details().into_owned();
        let mut texts = array::from_fn(|_| None);
        for field in Field::texts() {
            texts[field.place()] = self.text(field).map(Into::into);
        }
        PodBuilder {
            key: self.key().clone(),
            texts,
            labels: self.labels().map(own).collect(),
            annotations,
            ready: self.ready(),
            owner,
            containers,
            printed,
        }
    }
}

fn insert(pairs: &mut Vec<(Box<str>, Box<str>)>, key: &str, value: &str) {
    match pairs.binary_search_by(|(k, _)| (**k).cmp(key)) {
        Ok(at) => pairs[at].1 = value.into(),
        Err(at) => pairs.insert(at, (key.into(), value.into())),
    }
}

impl fmt::Debug for PodBuilder {
    /// Shows only the pod's name, because other fields may be secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PodBuilder({})", self.key)
    }
}
