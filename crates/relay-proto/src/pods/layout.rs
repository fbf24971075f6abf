//! Finds where a pod's fields stand in its flat JSON, checking everything on the way.

use crate::json::{Scan, Scanner, Text, Unusual};

/// A field that is text or null.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Field {
    Uid,
    ResourceVersion,
    Phase,
    NodeName,
    PodIp,
    HostIp,
    CreatedAt,
    StartedAt,
    DeletedAt,
    Reason,
    Message,
}

impl Field {
    pub(super) const ALL: [Self; 11] = [
        Self::Uid,
        Self::ResourceVersion,
        Self::Phase,
        Self::NodeName,
        Self::PodIp,
        Self::HostIp,
        Self::CreatedAt,
        Self::StartedAt,
        Self::DeletedAt,
        Self::Reason,
        Self::Message,
    ];
    pub(super) const COUNT: usize = Self::ALL.len();
}

/// The fields, in the order in which a relay writes them.
const NAMES: [&str; 19] = [
    "\"namespace\":",
    "\"name\":",
    "\"uid\":",
    "\"resource_version\":",
    "\"labels\":",
    "\"annotations\":",
    "\"phase\":",
    "\"ready\":",
    "\"node_name\":",
    "\"pod_ip\":",
    "\"host_ip\":",
    "\"created_at\":",
    "\"started_at\":",
    "\"deleted_at\":",
    "\"reason\":",
    "\"message\":",
    "\"owner\":",
    "\"containers\":",
    "\"printed\":",
];

/// Names that mean something to the tolerant reader: other spellings, the parts of a Kubernetes object, and the end of
/// a list.
const ELSEWHERE: [&str; 13] = [
    "resourceVersion",
    "nodeName",
    "podIp",
    "podIP",
    "hostIp",
    "hostIP",
    "createdAt",
    "startedAt",
    "deletedAt",
    "metadata",
    "spec",
    "status",
    "end",
];

/// Where a pod and its fields stand in a text.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Layout {
    pub(super) start: u32,
    pub(super) end: u32,
    pub(super) namespace: Text,
    pub(super) name: Text,
    /// By [`Field`]; the start is 0 where the value is null.
    pub(super) texts: [Text; Field::COUNT],
    pub(super) ready: bool,
    pub(super) labels: Labels,
    /// Where annotations, owner, containers and what is printed begin; 0 where there is nothing in them.
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
    /// Whether an escape is in it, a key is there twice, or the keys are not sorted.
    pub(super) untidy: bool,
}

impl Labels {
    /// Takes in one more, whose key comes after `last`, and gives that key.
    #[inline]
    pub(super) fn member<'a>(&mut self, text: &'a str, last: &str, key: Text, value: Text) -> &'a str {
        let name = key.of(text);
        self.untidy |= key.escaped || value.escaped || (self.count > 0 && last >= name);
        self.count += 1;
        name
    }
}

/// A pod keeps its text; from this many bytes of unknown fields on it keeps what it needs instead.
const UNKNOWN_BYTES: usize = 512;

impl Layout {
    /// Reads a flat pod in `snake_case` from an object. Anything else that the tolerant reader may know, or refuse, is
    /// [`Unusual`]; what is found here, serde finds too.
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
            &NAMES,
            |scanner, at| layout.value(scanner, at),
            |scanner, key| {
                let start = scanner.at();
                scanner.skip()?;
                unknown += scanner.at() - start;
                if ELSEWHERE.contains(&key) || unknown > UNKNOWN_BYTES { Err(Unusual) } else { Ok(()) }
            },
        )?;
        layout.end = scanner.at() as u32;
        Ok(layout)
    }

    /// Passes on a pod that has a namespace and a name.
    pub(super) fn named(self) -> Scan<Self> {
        let some = |text: Text| text.end > text.start;
        if some(self.namespace) && some(self.name) { Ok(self) } else { Err(Unusual) }
    }

    /// Reads the value of the field that [`NAMES`] has at `at`.
    fn value(&mut self, scanner: &mut Scanner<'_>, at: usize) -> Scan<()> {
        let field = match at {
            0 => {
                self.namespace = scanner.string()?;
                return Ok(());
            }
            1 => {
                self.name = scanner.string()?;
                return Ok(());
            }
            _ if scanner.null()? => return Ok(()),
            2 => Field::Uid,
            3 => Field::ResourceVersion,
            4 => {
                self.labels = labels(scanner)?;
                return Ok(());
            }
            5 => {
                let found = labels(scanner)?;
                self.annotations = if found.count == 0 { 0 } else { found.start };
                return Ok(());
            }
            6 => Field::Phase,
            7 => {
                self.ready = scanner.boolean()?;
                return Ok(());
            }
            8 => Field::NodeName,
            9 => Field::PodIp,
            10 => Field::HostIp,
            11 => Field::CreatedAt,
            12 => Field::StartedAt,
            13 => Field::DeletedAt,
            14 => Field::Reason,
            15 => Field::Message,
            16 => {
                self.owner = scanner.at() as u32;
                return owner(scanner);
            }
            18 => {
                self.printed = scanner.at() as u32;
                return printed(scanner);
            }
            _ => {
                let (start, mut count) = (scanner.at() as u32, 0);
                scanner.array(|scanner| {
                    count += 1;
                    container(scanner)
                })?;
                self.containers = if count == 0 { 0 } else { start };
                return Ok(());
            }
        };
        self.texts[field as usize] = scanner.string()?;
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
    let names = ["\"status\":", "\"ready\":", "\"containers\":", "\"restarts\":"];
    let value = |scanner: &mut Scanner<'_>, at| match at {
        0 => scanner.string().map(drop),
        _ => u32::try_from(scanner.count()?).map(drop).map_err(|_| Unusual),
    };
    scanner.fields(&names, value, |scanner, _| scanner.skip()).map(drop)
}

fn container(scanner: &mut Scanner<'_>) -> Scan<()> {
    const NAMES: [&str; 11] = [
        "\"name\":",
        "\"image\":",
        "\"ready\":",
        "\"restart_count\":",
        "\"state\":",
        "\"reason\":",
        "\"exit_code\":",
        "\"kind\":",
        "\"signal\":",
        "\"last_reason\":",
        "\"last_exit_code\":",
    ];
    let value = |scanner: &mut Scanner<'_>, at| match at {
        0 | 7 => scanner.string().map(drop),
        2 => scanner.boolean().map(drop),
        3 => u32::try_from(scanner.count()?).map(drop).map_err(|_| Unusual),
        _ if scanner.null()? => Ok(()),
        6 | 8 | 10 => exit_code(scanner.number()?),
        _ => scanner.string().map(drop),
    };
    let other = |scanner: &mut Scanner<'_>, key: &str| match key {
        "restartCount" | "exitCode" | "lastReason" | "lastExitCode" => Err(Unusual),
        _ => scanner.skip(),
    };
    scanner.fields(&NAMES, value, other).map(drop)
}

/// Checks for a whole number of 32 bits. Minus zero is a fraction to serde.
pub(super) fn exit_code(number: &str) -> Scan<()> {
    if number == "-0" || number.parse::<i32>().is_err() { Err(Unusual) } else { Ok(()) }
}
