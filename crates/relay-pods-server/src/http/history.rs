//! Pages of the retained events.

use http::{Response, StatusCode};
use relay_proto::pods::EventHash;
use relay_proto::pods::problem_codes;
use relay_proto::problem::{Problem, ProblemCode};
use std::collections::BTreeSet;

use relay_proto::pods::Filter;

use super::params::Query;
use super::{Relay, not_ready};
use crate::auth::Principal;
use crate::store::{Bounds, Moment, Page, Record, Resolved, Seen, StoreError, moment};
use relay_transport::server::{self, Body, Refusal};

/// Events per read of the store.
const READ: u64 = 256;
/// Bytes after which a page ends early; the next page continues there.
const MAX_BYTES: usize = 8 << 20;

/// `GET /events` and `GET /pods/{namespace}/{name}/events`.
pub(crate) async fn page(
    relay: &Relay,
    principal: &Principal,
    query: &Query,
    pod: Option<(&str, &str)>,
) -> Result<Response<Body>, Refusal> {
    let since = query.optional("since_hash")?;
    // The position of the paging takes precedence over its start.
    let time = query.since_time()?.filter(|_| since.is_none());
    let begins_with = if time.is_some() { "since_time" } else { "since_hash" };
    let before = query.optional("before_hash")?;
    let newest_first = query.newest_first()?;
    let limit = query.limit()?;
    let changes = query.changes()?;
    let asked = query.filter()?;
    if let Some((namespace, _)) = pod {
        principal.rights.check(namespace)?;
    }
    let filter = principal.rights.narrow(asked)?;
    let with_previous =
        filter.is_empty() && !principal.rights.limited() && changes.is_empty() && pod.is_none();
    let select = Select { filter, changes, pod };

    let events = &relay.log.events;
    let unreadable = |error: StoreError| relay.unreadable(&error);
    let since = match place(relay, "since_hash", since).await? {
        Ok(since) => since,
        Err(gone) => return Ok(gone),
    };
    let since = match time {
        None => since,
        Some(time) => match moment(events, time, relay.log.clock.unix_millis()).await.map_err(unreadable)? {
            Moment::After(sequence, _) => Some(sequence),
            Moment::Expired => {
                let bounds = events.bounds().await.map_err(unreadable)?;
                return Ok(gone(problem_codes::CURSOR_EXPIRED, begins_with, &bounds));
            }
        },
    };
    let before = match place(relay, "before_hash", before).await? {
        Ok(before) => before,
        Err(gone) => return Ok(gone),
    };
    let bounds = events.bounds().await.map_err(unreadable)?;
    if before.is_some_and(|before| before <= bounds.base + 1 && bounds.base > 0) {
        // The event before it was dropped: the log does not begin there.
        return Ok(gone(problem_codes::CURSOR_EXPIRED, "before_hash", &bounds));
    }
    let after = since.unwrap_or(bounds.base);
    let until = before.map_or(bounds.head, |before| before.saturating_sub(1));
    let mut page =
        Writer { out: b"{\"events\":[".to_vec(), last: None, count: 0, limit, more: false, with_previous };
    let scanned = if newest_first {
        scan_back(relay, &select, after, until, since.is_some(), &mut page).await
    } else {
        scan(relay, &select, after, until, since.is_some(), &mut page).await
    };
    match scanned {
        Ok(Scan::Whole) => {}
        Ok(Scan::StartGone) => {
            let bounds = events.bounds().await.map_err(unreadable)?;
            return Ok(gone(problem_codes::CURSOR_EXPIRED, begins_with, &bounds));
        }
        Err(error) => return Err(unreadable(error)),
    }
    Ok(server::full(StatusCode::OK, "application/json", page.finish()))
}

/// The sequence of a cursor; otherwise the response, because the cursor is invalid or its position is gone.
async fn place(
    relay: &Relay,
    parameter: &'static str,
    cursor: Option<&str>,
) -> Result<Result<Option<u64>, Response<Body>>, Refusal> {
    let Some(cursor) = cursor else { return Ok(Ok(None)) };
    let code = match relay.log.resolve_within(cursor, relay.config.wait).await {
        Ok(Resolved::At(sequence)) => return Ok(Ok(Some(sequence))),
        Ok(Resolved::Ahead(_)) => {
            return Err(not_ready(&format!("{parameter}: the relay has not reached that position yet")));
        }
        Ok(Resolved::Expired(_)) => problem_codes::CURSOR_EXPIRED,
        Ok(Resolved::Unknown) => problem_codes::CURSOR_UNKNOWN,
        Err(error) => return Err(relay.unreadable(&error)),
    };
    let bounds = relay.log.events.bounds().await.map_err(|error| relay.unreadable(&error))?;
    Ok(Err(gone(code, parameter, &bounds)))
}

/// The filter of a page.
struct Select<'a> {
    filter: Filter,
    changes: BTreeSet<&'static str>,
    pod: Option<(&'a str, &'a str)>,
}

impl Select<'_> {
    fn sees(&self, record: &Record) -> Option<Seen> {
        if self.pod.is_some_and(|(ns, name)| record.name() != name || record.namespace() != ns) {
            return None;
        }
        let seen = record.seen_through(&self.filter)?;
        (self.changes.is_empty() || self.changes.contains(seen.change.as_str())).then_some(seen)
    }
}

enum Scan {
    Whole,
    /// The first event of the page was dropped while the page was being filled.
    StartGone,
}

/// Oldest first.
async fn scan(
    relay: &Relay,
    select: &Select<'_>,
    mut after: u64,
    until: u64,
    bound: bool,
    page: &mut Writer,
) -> Result<Scan, StoreError> {
    while after < until {
        match relay.log.events.read(after, READ.min(until - after) as usize).await? {
            // The page ends before the hole: the next request gets the 410.
            Page::Gone if page.count > 0 => {
                page.more = true;
                break;
            }
            Page::Gone if bound => return Ok(Scan::StartGone),
            Page::Gone => after = relay.log.events.bounds().await?.base,
            Page::Records(records) => {
                let Some(last) = records.last() else { break };
                after = last.sequence();
                if records.iter().any(|record| !page.take(select, record)) {
                    break;
                }
            }
        }
        tokio::task::yield_now().await;
    }
    Ok(Scan::Whole)
}

/// Newest first.
async fn scan_back(
    relay: &Relay,
    select: &Select<'_>,
    mut after: u64,
    mut until: u64,
    bound: bool,
    page: &mut Writer,
) -> Result<Scan, StoreError> {
    while after < until {
        let from = after.max(until.saturating_sub(READ));
        match read_whole(relay, from, until).await? {
            Page::Gone if bound => return Ok(Scan::StartGone),
            Page::Gone => after = relay.log.events.bounds().await?.base,
            Page::Records(records) => {
                until = from;
                if records.iter().rev().any(|record| !page.take(select, record)) {
                    break;
                }
            }
        }
        tokio::task::yield_now().await;
    }
    Ok(Scan::Whole)
}

/// Reads every event after `from` up to `until`: the store may return fewer in one read.
async fn read_whole(relay: &Relay, from: u64, until: u64) -> Result<Page, StoreError> {
    let mut all = Vec::new();
    let mut after = from;
    while after < until {
        match relay.log.events.read(after, (until - after) as usize).await? {
            Page::Gone => return Ok(Page::Gone),
            Page::Records(records) => {
                let Some(last) = records.last() else { break };
                after = last.sequence();
                all.extend(records);
            }
        }
    }
    Ok(Page::Records(all))
}

/// The text of a page as it grows.
struct Writer {
    out: Vec<u8>,
    last: Option<EventHash>,
    count: usize,
    limit: usize,
    /// Whether a further event matches.
    more: bool,
    with_previous: bool,
}

impl Writer {
    /// Takes an event if it belongs to the page; false when the page is full and this one belongs to the next.
    fn take(&mut self, select: &Select<'_>, record: &Record) -> bool {
        let Some(seen) = select.sees(record) else { return true };
        if self.count == self.limit || self.out.len() >= MAX_BYTES {
            self.more = true;
            return false;
        }
        if self.count > 0 {
            self.out.push(b',');
        }
        record.write_object(&mut self.out, seen, self.with_previous);
        self.count += 1;
        self.last = Some(record.hash());
        true
    }

    fn finish(mut self) -> Vec<u8> {
        let next = self.last.filter(|_| self.more);
        self.out.extend_from_slice(b"],\"next_hash\":");
        serde_json::to_writer(&mut self.out, &next).expect("writing to memory cannot fail");
        self.out.push(b'}');
        self.out
    }
}

/// 410 with the oldest retained event, null when there is none.
fn gone(code: ProblemCode, parameter: &str, bounds: &Bounds) -> Response<Body> {
    let detail = match code {
        problem_codes::CURSOR_EXPIRED if parameter == "since_time" => {
            "events of that time may no longer be retained"
        }
        problem_codes::CURSOR_EXPIRED => "the event next to it is no longer retained",
        _ => "it is not a hash of this log",
    };
    let oldest = bounds.oldest_hash.as_ref().map(EventHash::as_str);
    server::problem(&Problem::new(code, format!("{parameter}: {detail}")).member("oldest_hash", oldest))
}
