//! Reads pods and events whose text is to the byte what a relay writes: no space anywhere, every field of a pod in its
//! place. Most messages there ever are look like this, and reading them by comparing is twice as fast as looking at
//! each key. Whatever differs is read again by the scan that takes fields as they come.

use super::event::Parts;
use super::layout::{Labels, Layout, exit_code};
use super::pod::Pod;
use crate::json::{Scan, Scanner, Text, Unusual};

impl Layout {
    /// Reads a pod.
    pub(super) fn canonical(scanner: &mut Scanner<'_>) -> Scan<Self> {
        let start = scanner.at() as u32;
        scanner.need(b"{\"namespace\":\"")?;
        let namespace = scanner.rest_of_string()?;
        scanner.need(b",\"name\":\"")?;
        let name = scanner.rest_of_string()?;
        scanner.need(b",\"uid\":")?;
        let uid = text(scanner)?;
        scanner.need(b",\"resource_version\":")?;
        let resource_version = text(scanner)?;
        scanner.need(b",\"labels\":")?;
        let labels = map(scanner)?;
        scanner.need(b",\"annotations\":")?;
        let annotations = map(scanner)?;
        scanner.need(b",\"phase\":")?;
        let phase = text(scanner)?;
        scanner.need(b",\"ready\":")?;
        let ready = boolean(scanner)?;
        scanner.need(b",\"node_name\":")?;
        let node_name = text(scanner)?;
        scanner.need(b",\"pod_ip\":")?;
        let pod_ip = text(scanner)?;
        scanner.need(b",\"host_ip\":")?;
        let host_ip = text(scanner)?;
        scanner.need(b",\"created_at\":")?;
        let created_at = text(scanner)?;
        scanner.need(b",\"started_at\":")?;
        let started_at = text(scanner)?;
        scanner.need(b",\"deleted_at\":")?;
        let deleted_at = text(scanner)?;
        scanner.need(b",\"reason\":")?;
        let reason = text(scanner)?;
        scanner.need(b",\"message\":")?;
        let message = text(scanner)?;
        scanner.need(b",\"owner\":")?;
        let owner = owner(scanner)?;
        scanner.need(b",\"containers\":[")?;
        let containers = containers(scanner)?;
        let printed = if scanner.literal(b",\"printed\":") { printed(scanner)? } else { 0 };
        scanner.need(b"}")?;
        Ok(Self {
            start,
            end: scanner.at() as u32,
            namespace,
            name,
            texts: [
                uid,
                resource_version,
                phase,
                node_name,
                pod_ip,
                host_ip,
                created_at,
                started_at,
                deleted_at,
                reason,
                message,
            ],
            ready,
            labels,
            annotations: if annotations.count == 0 { 0 } else { annotations.start },
            owner,
            containers,
            printed,
        })
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
        if scanner.literal(b",\"previous_hash\":\"") {
            parts.previous_hash = Some(scanner.rest_of_string()?.plain(text)?);
        }
        // What is a subscriber's own stands on a line of its own.
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

/// Where the containers begin, whose bracket was read; 0 for none.
fn containers(scanner: &mut Scanner<'_>) -> Scan<u32> {
    let start = scanner.at() as u32 - 1;
    if scanner.literal(b"]") {
        return Ok(0);
    }
    loop {
        scanner.need(b"{\"name\":\"")?;
        scanner.rest_of_string()?;
        scanner.need(b",\"image\":")?;
        text(scanner)?;
        scanner.need(b",\"ready\":")?;
        boolean(scanner)?;
        scanner.need(b",\"restart_count\":")?;
        u32::try_from(scanner.count()?).map_err(|_| Unusual)?;
        scanner.need(b",\"state\":")?;
        text(scanner)?;
        scanner.need(b",\"reason\":")?;
        text(scanner)?;
        scanner.need(b",\"exit_code\":")?;
        if !scanner.literal(b"null") {
            exit_code(scanner.number()?)?;
        }
        if scanner.literal(b",\"kind\":\"") {
            scanner.rest_of_string()?;
        }
        if scanner.literal(b",\"signal\":") {
            exit_code(scanner.number()?)?;
        }
        if scanner.literal(b",\"last_reason\":\"") {
            scanner.rest_of_string()?;
        }
        if scanner.literal(b",\"last_exit_code\":") {
            exit_code(scanner.number()?)?;
        }
        scanner.need(b"}")?;
        if !scanner.literal(b",") {
            return scanner.need(b"]").map(|()| start);
        }
    }
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
    scanner.need(b"}").map(|()| start)
}
