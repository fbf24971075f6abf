//! The table of a pod's fields: names, order on the wire, other accepted names, and types. A new text field needs
//! only a row here.

use serde::ser::{Serialize, SerializeStruct, Serializer};

use super::PodKey;
use super::container::{Container, Owner};
use super::status::Printed;

/// Passes the table to a macro. A row is: the documentation of the field, its type, its name in Rust and on the
/// wire, its variant of [`Field`], and other names accepted by the tolerant reader.
///
/// The type is `text` or `time`, both null when unknown, or a type of its own.
macro_rules! for_each_field {
    ($then:ident) => {
        $then! {
            /// The namespace.
            key namespace Namespace [];
            /// The name, unique within the namespace at one time.
            key name Name [];
            /// Kubernetes' unique id: distinguishes a pod from a later one of the same name.
            text uid Uid [];
            /// Kubernetes' opaque version.
            text resource_version ResourceVersion ["resourceVersion"];
            /// All labels.
            labels labels Labels [];
            /// All published annotations.
            annotations annotations Annotations [];
            /// `Pending`, `Running`, `Succeeded`, `Failed` or `Unknown`.
            text phase Phase [];
            /// Whether the `Ready` condition holds.
            ready ready Ready [];
            /// The node it was scheduled to.
            text node_name NodeName ["nodeName"];
            /// The pod's address.
            text pod_ip PodIp ["podIp" "podIP"];
            /// The node's address.
            text host_ip HostIp ["hostIp" "hostIP"];
            /// When the object was created.
            time created_at CreatedAt ["createdAt"];
            /// When the kubelet accepted the pod.
            time started_at StartedAt ["startedAt"];
            /// When deletion was requested; a pod with this set still exists.
            time deleted_at DeletedAt ["deletedAt"];
            /// A short machine-readable reason of the phase, such as `Evicted`.
            text reason Reason [];
            /// A human-readable message of the phase.
            text message Message [];
            /// The controlling owner.
            owner owner Owner [];
            /// The containers.
            containers containers Containers [];
            /// The printed form, where it does not follow from the other fields.
            printed printed Printed [];
        }
    };
}
pub(super) use for_each_field;

macro_rules! is_text {
    (text) => {
        true
    };
    (time) => {
        true
    };
    ($other:ident) => {
        false
    };
}

macro_rules! define {
    ($($(#[$doc:meta])* $kind:ident $name:ident $variant:ident [$($other:literal)*];)*) => {
        /// A field of a pod, in the order in which a relay writes them.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(super) enum Field {
            $($(#[$doc])* $variant,)*
        }

        impl Field {
            pub(super) const ALL: [Self; [$(stringify!($name),)*].len()] = [$(Self::$variant,)*];

            /// The start of each in JSON: its name in quotes, and a colon.
            pub(super) const KEYS: [&str; Self::ALL.len()] = [$(concat!("\"", stringify!($name), "\":"),)*];

            /// The other names of all fields.
            pub(super) const OTHER_NAMES: &[&str] = &[$($($other,)*)*];

            const NAMES: [&str; Self::ALL.len()] = [$(stringify!($name),)*];
            const IS_TEXT: [bool; Self::ALL.len()] = [$(is_text!($kind),)*];
        }
    };
}

for_each_field! { define }

impl Field {
    /// How many of them are text or null.
    pub(super) const TEXTS: usize = Self::texts_before(Self::ALL.len());

    /// For each field, how many before it are text or null.
    const PLACES: [usize; Self::ALL.len()] = {
        let mut places = [0; Self::ALL.len()];
        let mut at = 0;
        while at < places.len() {
            places[at] = Self::texts_before(at);
            at += 1;
        }
        places
    };

    const fn texts_before(end: usize) -> usize {
        let (mut at, mut count) = (0, 0);
        while at < end {
            count += Self::IS_TEXT[at] as usize;
            at += 1;
        }
        count
    }

    /// Those that are text or null.
    pub(super) fn texts() -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().filter(|field| Self::IS_TEXT[*field as usize])
    }

    /// The place of a field that is text or null in an array of all of these.
    #[inline]
    pub(super) const fn place(self) -> usize {
        Self::PLACES[self as usize]
    }

    /// Its name on the wire.
    const fn name(self) -> &'static str {
        Self::NAMES[self as usize]
    }
}

/// The flat shape of a written pod, with every field but the last always present.
pub(super) struct Flat<'a, T, L, A> {
    pub(super) key: &'a PodKey,
    /// A function that returns the fields that are text or null.
    pub(super) text: T,
    pub(super) labels: L,
    pub(super) annotations: A,
    pub(super) ready: bool,
    pub(super) owner: Option<&'a Owner>,
    pub(super) containers: &'a [Container],
    pub(super) printed: Option<&'a Printed>,
}

impl<'a, T, L, A> Serialize for Flat<'a, T, L, A>
where
    T: Fn(Field) -> Option<&'a str>,
    L: Iterator<Item = (&'a str, &'a str)> + Clone,
    A: Iterator<Item = (&'a str, &'a str)> + Clone,
{
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut pod = serializer.serialize_struct("Pod", Field::ALL.len())?;
        for field in Field::ALL {
            let name = field.name();
            match field {
                Field::Namespace => pod.serialize_field(name, self.key.namespace()),
                Field::Name => pod.serialize_field(name, self.key.name()),
                Field::Labels => pod.serialize_field(name, &Pairs(self.labels.clone())),
                Field::Annotations => pod.serialize_field(name, &Pairs(self.annotations.clone())),
                Field::Ready => pod.serialize_field(name, &self.ready),
                Field::Owner => pod.serialize_field(name, &self.owner),
                Field::Containers => pod.serialize_field(name, self.containers),
                Field::Printed => match self.printed {
                    Some(printed) => pod.serialize_field(name, printed),
                    None => pod.skip_field(name),
                },
                text => pod.serialize_field(name, &(self.text)(text)),
            }?;
        }
        pod.end()
    }
}

/// An object of texts.
struct Pairs<I>(I);

impl<'a, I: Iterator<Item = (&'a str, &'a str)> + Clone> Serialize for Pairs<I> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.clone())
    }
}
