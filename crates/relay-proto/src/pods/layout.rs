//! Finds the places of a pod's fields in its flat JSON, and checks all of it.

use super::container::{Holds, for_each_container_field};
use super::fields::Field;
use crate::json::{Scan, Scanner, Text, Unusual};

/// Further names with a meaning for the tolerant reader: the parts of a Kubernetes object, and the end of a list.
const ELSEWHERE: [&str; 4] = ["metadata", "spec", "status", "end"];

/// The places of a pod and its fields in a text.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Layout {
    pub(super) start: u32,
    pub(super) end: u32,
    pub(super) namespace: Text,
    pub(super) name: Text,
    /// By [`Field::place`]; the start is 0 where the value is null.
    pub(super) texts: [Text; Field::TEXTS],
    pub(super) ready: bool,
    pub(super) labels: Labels,
    /// The starts of annotations, owner, containers and printed form; 0 when empty.
    pub(super) annotations: u32,
    pub(super) owner: u32,
    pub(super) containers: u32,
    pub(super) printed: u32,
}

/// The object that holds the labels.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Labels {
    pub(super) start: u32,
    pub(super) end: u32,
    pub(super) count: u32,
    /// Whether it has an escape or a repeated key, or the keys are not sorted.
    pub(super) untidy: bool,
}

impl Labels {
    /// Adds a label whose key should come after `last`, and returns the key.
    #[inline]
    pub(super) fn member<'a>(&mut self, text: &'a str, last: &str, key: Text, value: Text) -> &'a str {
        let name = key.of(text);
        self.untidy |= key.escaped || value.escaped || (self.count > 0 && last >= name);
        self.count += 1;
        name
    }
}

/// A pod keeps its text; with this many bytes of unknown fields or more, only its known fields.
const UNKNOWN_BYTES: usize = 512;

impl Layout {
    /// Reads a flat pod in `snake_case` from an object. Any other form, valid or not, is [`Unusual`]; serde gives
    /// the same result for pods accepted here.
    pub(super) fn scan(scanner: &mut Scanner<'_>) -> Scan<Self> {
        scanner.peek()?;
        let mut straight = scanner.clone();
        if let Ok(layout) = Self::canonical(&mut straight) {
            *scanner = straight;
            return Ok(layout);
        }
        let mut layout = Self { start: scanner.at() as u32, ..Self::default() };
        let mut unknown = 0;
        scanner.fields(
            &Field::KEYS,
            |scanner, at| layout.value(scanner, Field::ALL[at]),
            |scanner, key| {
                let start = scanner.at();
                scanner.skip()?;
                unknown += scanner.at() - start;
                let known = ELSEWHERE.contains(&key) || Field::OTHER_NAMES.contains(&key);
                if known || unknown > UNKNOWN_BYTES { Err(Unusual) } else { Ok(()) }
            },
        )?;
        layout.end = scanner.at() as u32;
        Ok(layout)
    }

    /// Checks that the pod has a namespace and a name.
    pub(super) fn named(self) -> Scan<Self> {
        let some = |text: Text| text.end > text.start;
        if some(self.namespace) && some(self.name) { Ok(self) } else { Err(Unusual) }
    }

    /// Reads the value of a field.
    fn value(&mut self, scanner: &mut Scanner<'_>, field: Field) -> Scan<()> {
        match field {
            Field::Namespace => self.namespace = scanner.string()?,
            Field::Name => self.name = scanner.string()?,
            _ if scanner.null()? => {}
            Field::Labels => self.labels = labels(scanner)?,
            Field::Annotations => {
                let found = labels(scanner)?;
                self.annotations = if found.count == 0 { 0 } else { found.start };
            }
            Field::Ready => self.ready = scanner.boolean()?,
            Field::Owner => {
                self.owner = scanner.at() as u32;
                owner(scanner)?;
            }
            Field::Containers => {
                let (start, mut count) = (scanner.at() as u32, 0);
                scanner.array(|scanner| {
                    count += 1;
                    container(scanner)
                })?;
                self.containers = if count == 0 { 0 } else { start };
            }
            Field::Printed => {
                self.printed = scanner.at() as u32;
                printed(scanner)?;
            }
            text => self.texts[text.place()] = scanner.string()?,
        }
        Ok(())
    }
}

/// Reads an object of texts.
fn labels(scanner: &mut Scanner<'_>) -> Scan<Labels> {
    let text = scanner.text();
    let mut found = Labels { start: scanner.at() as u32, ..Labels::default() };
    let mut last = "";
    scanner.object(|scanner, key| {
        let value = scanner.string()?;
        last = found.member(text, last, key, value);
        Ok(())
    })?;
    found.end = scanner.at() as u32;
    Ok(found)
}

fn owner(scanner: &mut Scanner<'_>) -> Scan<()> {
    let names = ["\"kind\":", "\"name\":"];
    let seen =
        scanner.fields(&names, |scanner, _| scanner.string().map(drop), |scanner, _| scanner.skip())?;
    if seen == 0b11 { Ok(()) } else { Err(Unusual) }
}

fn printed(scanner: &mut Scanner<'_>) -> Scan<()> {
    let names = ["\"status\":", "\"ready\":", "\"containers\":", "\"restarts\":", "\"last_restart\":"];
    let value = |scanner: &mut Scanner<'_>, at| match at {
        0 => scanner.string().map(drop),
        4 if scanner.null()? => Ok(()),
        4 => scanner.string().map(drop),
        _ => u32::try_from(scanner.count()?).map(drop).map_err(|_| Unusual),
    };
    scanner.fields(&names, value, |scanner, _| scanner.skip()).map(drop)
}

macro_rules! define_container_fields {
    ($($when:ident $holds:ident $name:ident [$($other:literal)*];)*) => {
        const CONTAINER_KEYS: &[&str] = &[$(concat!("\"", stringify!($name), "\":"),)*];
        const CONTAINER_HOLDS: &[Holds] = &[$(Holds::$holds,)*];
        const CONTAINER_OTHER_NAMES: &[&str] = &[$($($other,)*)*];
    };
}

for_each_container_field! { define_container_fields }

fn container(scanner: &mut Scanner<'_>) -> Scan<()> {
    let value = |scanner: &mut Scanner<'_>, at: usize| match CONTAINER_HOLDS[at] {
        Holds::String => scanner.string().map(drop),
        Holds::Flag => scanner.boolean().map(drop),
        Holds::Count => u32::try_from(scanner.count()?).map(drop).map_err(|_| Unusual),
        Holds::Text | Holds::Number if scanner.null()? => Ok(()),
        Holds::Text => scanner.string().map(drop),
        Holds::Number => exit_code(scanner.number()?),
    };
    let other = |scanner: &mut Scanner<'_>, key: &str| {
        if CONTAINER_OTHER_NAMES.contains(&key) { Err(Unusual) } else { scanner.skip() }
    };
    scanner.fields(CONTAINER_KEYS, value, other).map(drop)
}

/// Checks for an integer of 32 bits. Minus zero is a fraction to serde.
pub(super) fn exit_code(number: &str) -> Scan<()> {
    if number == "-0" || number.parse::<i32>().is_err() { Err(Unusual) } else { Ok(()) }
}
