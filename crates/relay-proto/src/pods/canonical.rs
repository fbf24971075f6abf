//! Reads pods and events whose text is byte for byte in the form of our own server: without spaces, every field in
//! its place. Most messages have this form, and comparing is twice as fast as reading each key. Other texts are
//! read by the scan, which takes fields in any order.

use super::container::for_each_container_field;
use super::event::Parts;
use super::fields::{Field, for_each_field};
use super::layout::{Labels, Layout, exit_code};
use super::pod::Pod;
use crate::json::{Scan, Scanner, Text, Unusual};

/// The bytes of a literal text, as an array.
macro_rules! bytes {
    ($($part:expr),*) => {
        const {
            const TEXT: &str = concat!($($part),*);
            TEXT.as_bytes().first_chunk::<{ TEXT.len() }>().unwrap()
        }
    };
}

impl Layout {
    /// Reads a pod.
    pub(super) fn canonical(scanner: &mut Scanner<'_>) -> Scan<Self> {
        let mut layout = Self { start: scanner.at() as u32, ..Self::default() };

        macro_rules! value {
            (key Namespace $key:expr) => {
                scanner.need(bytes!("{", $key, "\""))?;
                layout.namespace = scanner.rest_of_string()?;
            };
            (key Name $key:expr) => {
                scanner.need(bytes!(",", $key, "\""))?;
                layout.name = scanner.rest_of_string()?;
            };
            (printed Printed $key:expr) => {
                if scanner.literal(bytes!(",", $key)) {
                    layout.printed = printed(scanner)?;
                }
            };
            ($kind:ident $variant:ident $key:expr) => {
                scanner.need(bytes!(",", $key))?;
                value!($kind $variant);
            };
            (text $variant:ident) => {
                layout.texts[Field::$variant.place()] = text(scanner)?;
            };
            (time $variant:ident) => {
                value!(text $variant)
            };
            (labels Labels) => {
                layout.labels = map(scanner)?;
            };
            (annotations Annotations) => {
                let found = map(scanner)?;
                layout.annotations = if found.count == 0 { 0 } else { found.start };
            };
            (ready Ready) => {
                layout.ready = boolean(scanner)?;
            };
            (owner Owner) => {
                layout.owner = owner(scanner)?;
            };
            (containers Containers) => {
                layout.containers = containers(scanner)?;
            };
        }
        macro_rules! values {
            ($($(#[$doc:meta])* $kind:ident $name:ident $variant:ident $other:tt;)*) => {
                $(value!($kind $variant concat!("\"", stringify!($name), "\":"));)*
            };
        }
        for_each_field! { values }

        scanner.need(b"}")?;
        layout.end = scanner.at() as u32;
        Ok(layout)
    }
}

impl<'a> Parts<'a> {
    /// Reads an event.
    pub(super) fn canonical(scanner: &mut Scanner<'a>) -> Scan<Self> {
        let text = scanner.text();
        let mut parts = Self::default();
        if scanner.literal(b"{\"sent\":") {
            parts.sent = Some(scanner.count()?);
            scanner.need(b",\"type\":\"")?;
        } else {
            scanner.need(b"{\"type\":\"")?;
        }
        parts.kind = Some(scanner.rest_of_string()?.plain(text)?);
        parts.left_filter = scanner.literal(b",\"left_filter\":true");
        parts.entered_filter = scanner.literal(b",\"entered_filter\":true");
        if scanner.literal(b",\"previous_hash\":\"") {
            parts.previous_hash = Some(scanner.rest_of_string()?.plain(text)?);
        }
        // The fields of one subscriber are on a line of their own.
        if !scanner.literal(b",\n\"hash\":\"") {
            scanner.need(b",\"hash\":\"")?;
        }
        parts.hash = Some(scanner.rest_of_string()?.plain(text)?);
        scanner.need(b",\"sequence\":")?;
        parts.sequence = Some(scanner.count()?);
        scanner.need(b",\"timestamp\":\"")?;
        parts.timestamp = Some(scanner.rest_of_string()?.plain(text)?);
        parts.synthetic = scanner.literal(b",\"synthetic\":true");
        scanner.need(b",\"pod\":")?;
        parts.pod = Some(Pod::scan_any(scanner)?);
        scanner.need(b"}")?;
        Ok(parts)
    }
}

/// A text or null.
#[inline]
fn text(scanner: &mut Scanner<'_>) -> Scan<Text> {
    if scanner.literal(b"\"") {
        return scanner.rest_of_string();
    }
    scanner.need(b"null").map(|()| Text::default())
}

#[inline]
fn boolean(scanner: &mut Scanner<'_>) -> Scan<bool> {
    if scanner.literal(b"true") { Ok(true) } else { scanner.need(b"false").map(|()| false) }
}

fn map(scanner: &mut Scanner<'_>) -> Scan<Labels> {
    let text = scanner.text();
    let mut found = Labels { start: scanner.at() as u32, ..Labels::default() };
    if !scanner.literal(b"{}") {
        scanner.need(b"{\"")?;
        let mut last = "";
        loop {
            let key = scanner.rest_of_string()?;
            scanner.need(b":\"")?;
            let value = scanner.rest_of_string()?;
            last = found.member(text, last, key, value);
            if !scanner.literal(b",\"") {
                break;
            }
        }
        scanner.need(b"}")?;
    }
    found.end = scanner.at() as u32;
    Ok(found)
}

/// Where the owner begins; 0 for null.
fn owner(scanner: &mut Scanner<'_>) -> Scan<u32> {
    let start = scanner.at() as u32;
    if !scanner.literal(b"{\"kind\":\"") {
        return scanner.need(b"null").map(|()| 0);
    }
    scanner.rest_of_string()?;
    scanner.need(b",\"name\":\"")?;
    scanner.rest_of_string()?;
    scanner.need(b"}").map(|()| start)
}

/// Where the containers begin; 0 for none.
fn containers(scanner: &mut Scanner<'_>) -> Scan<u32> {
    let start = scanner.at() as u32;
    scanner.need(b"[")?;
    if scanner.literal(b"]") {
        return Ok(0);
    }
    loop {
        container(scanner)?;
        if !scanner.literal(b",") {
            return scanner.need(b"]").map(|()| start);
        }
    }
}

#[inline(always)]
fn container(scanner: &mut Scanner<'_>) -> Scan<()> {
    macro_rules! value {
        (always String $key:expr) => {
            scanner.need(bytes!("{", $key, "\""))?;
            scanner.rest_of_string()?;
        };
        (always $holds:ident $key:expr) => {
            scanner.need(bytes!(",", $key))?;
            value!($holds);
        };
        (sometimes $holds:ident $key:expr) => {
            if scanner.literal(bytes!(",", $key)) {
                value!($holds);
            }
        };
        (String) => {
            scanner.need(b"\"")?;
            scanner.rest_of_string()?;
        };
        (Text) => {
            text(scanner)?;
        };
        (Flag) => {
            boolean(scanner)?;
        };
        (Count) => {
            u32::try_from(scanner.count()?).map_err(|_| Unusual)?;
        };
        (Number) => {
            if !scanner.literal(b"null") {
                exit_code(scanner.number()?)?;
            }
        };
    }
    macro_rules! values {
        ($($when:ident $holds:ident $name:ident $other:tt;)*) => {
            $(value!($when $holds concat!("\"", stringify!($name), "\":"));)*
        };
    }
    for_each_container_field! { values }
    scanner.need(b"}")
}

/// Where it begins.
fn printed(scanner: &mut Scanner<'_>) -> Scan<u32> {
    let start = scanner.at() as u32;
    scanner.need(b"{\"status\":\"")?;
    scanner.rest_of_string()?;
    scanner.need(b",\"ready\":")?;
    u32::try_from(scanner.count()?).map_err(|_| Unusual)?;
    scanner.need(b",\"containers\":")?;
    u32::try_from(scanner.count()?).map_err(|_| Unusual)?;
    scanner.need(b",\"restarts\":")?;
    u32::try_from(scanner.count()?).map_err(|_| Unusual)?;
    if scanner.literal(b",\"last_restart\":\"") {
        scanner.rest_of_string()?;
    }
    scanner.need(b"}").map(|()| start)
}
