//! The current pods.

use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream;
use http::header::{ACCEPT, VARY};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use relay_proto::pods::{Epoch, EventHash, Filter, PodKey};
use relay_proto::time::Timestamp;
use serde::Serialize;

use super::params::Query;
use super::{Relay, not_found, not_ready};
use crate::auth::Principal;
use crate::log::{Entry, View};
use crate::store::Resolved;
use relay_transport::server::{self, Body, Refusal};

/// Size of a piece of a list, in bytes.
const PIECE: usize = 64 << 10;
/// Pods written before other tasks get a turn.
const SCAN: usize = 2048;

/// The fields of a list before its pods.
#[derive(Serialize)]
struct Head<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    count: Option<usize>,
    hash: &'a EventHash,
    sequence: u64,
    epoch: &'a Epoch,
    as_of: Timestamp,
}

/// `GET /pods`: written while it is sent, so that the text of a large list is never in memory as a whole.
pub(crate) async fn pods(
    relay: &Relay,
    principal: &Principal,
    query: &Query,
    headers: &HeaderMap,
) -> Result<Response<Body>, Refusal> {
    let filter = query.filter()?;
    let at_least = query.optional("at_least")?;
    let filter = principal.rights.narrow(filter)?;
    await_sync(relay).await?;
    if let Some(cursor) = at_least {
        match relay.log.resolve_within(cursor, relay.config.wait).await {
            Ok(Resolved::Ahead(_)) => {
                return Err(not_ready("at_least: the relay has not reached that position yet"));
            }
            Ok(_) => {}
            Err(error) => return Err(relay.unreadable(&error)),
        }
    }
    let view = relay.log.view();
    let lines = prefers_ndjson(headers);
    let count = if lines { Some(count(&view, &filter).await) } else { None };
    let head = Head {
        count,
        hash: &view.hash,
        sequence: view.sequence,
        epoch: relay.log.events.identity().epoch(),
        as_of: relay.log.clock.timestamp(),
    };
    let head = serde_json::to_string(&head).expect("a position is plain text and numbers");
    let (opening, closing) = match count {
        Some(count) => (format!("{head}\n"), format!("{{\"end\":true,\"count\":{count}}}\n")),
        None => (format!("{},\"pods\":[", &head[..head.len() - 1]), "]}".to_owned()),
    };
    let writer = ListWriter {
        view,
        filter,
        lines,
        after: None,
        opening: Some(opening),
        closing: Some(closing),
        any: false,
    };
    let pieces = stream::unfold(writer, |mut writer| async {
        let piece = writer.next().await?;
        Some((Ok(Frame::data(piece)), writer))
    });
    let kind = if lines { "application/x-ndjson" } else { "application/json" };
    let mut response = server::with_body(StatusCode::OK, kind, StreamBody::new(pieces).boxed_unsync());
    response.headers_mut().insert(VARY, HeaderValue::from_static("accept"));
    Ok(response)
}

/// `GET /pods/{namespace}/{name}`.
pub(crate) async fn pod(
    relay: &Relay,
    principal: &Principal,
    namespace: &str,
    name: &str,
) -> Result<Response<Body>, Refusal> {
    principal.rights.check(namespace)?;
    await_sync(relay).await?;
    match relay.log.view().pods.get(&PodKey::new(namespace, name)) {
        Some(entry) => Ok(server::full(StatusCode::OK, "application/json", entry.json.clone())),
        None => Err(not_found("there is no such pod")),
    }
}

/// Waits for the first sync: before it an empty list would be wrong.
async fn await_sync(relay: &Relay) -> Result<(), Refusal> {
    if relay.log.source().synced || relay.log.synced_within(relay.config.wait).await {
        return Ok(());
    }
    Err(not_ready("the source has not synced yet"))
}

/// Writes a list piece by piece from an immutable view.
struct ListWriter {
    view: Arc<View>,
    filter: Filter,
    lines: bool,
    after: Option<PodKey>,
    opening: Option<String>,
    closing: Option<String>,
    any: bool,
}

impl ListWriter {
    async fn next(&mut self) -> Option<Bytes> {
        self.closing.as_ref()?;
        let mut out = self.opening.take().unwrap_or_default().into_bytes();
        loop {
            let mut scanned = 0;
            let last = rest(&self.view, self.after.as_ref()).find_map(|(key, entry)| {
                scanned += 1;
                if passes(&self.filter, key, entry) {
                    if self.any && !self.lines {
                        out.push(b',');
                    }
                    self.any = true;
                    out.extend_from_slice(&entry.json);
                    if self.lines {
                        out.push(b'\n');
                    }
                }
                (out.len() >= PIECE || scanned == SCAN).then(|| key.clone())
            });
            match last {
                Some(key) => self.after = Some(key),
                None => out.extend_from_slice(self.closing.take()?.as_bytes()),
            }
            if out.len() >= PIECE || self.closing.is_none() {
                return Some(out.into());
            }
            tokio::task::yield_now().await;
        }
    }
}

async fn count(view: &View, filter: &Filter) -> usize {
    if filter.is_empty() {
        return view.pods.len();
    }
    let (mut count, mut after) = (0, None);
    loop {
        let mut scanned = 0;
        let last = rest(view, after.as_ref()).find_map(|(key, entry)| {
            scanned += 1;
            count += usize::from(passes(filter, key, entry));
            (scanned == SCAN).then(|| key.clone())
        });
        let Some(last) = last else { return count };
        after = Some(last);
        tokio::task::yield_now().await;
    }
}

fn rest<'a>(view: &'a View, after: Option<&PodKey>) -> impl Iterator<Item = (&'a PodKey, &'a Entry)> {
    let start = after.cloned().map_or(Bound::Unbounded, Bound::Excluded);
    view.pods.range((start, Bound::Unbounded))
}

fn passes(filter: &Filter, key: &PodKey, entry: &Entry) -> bool {
    filter.matches_namespace(key.namespace()) && filter.matches_labels(|label| entry.labels.get(label))
}

/// Whether NDJSON is named in `Accept`, with no lower weight than JSON.
fn prefers_ndjson(headers: &HeaderMap) -> bool {
    let (mut lines, mut json) = (0.0, 0.0);
    for value in headers.get_all(ACCEPT) {
        for range in value.to_str().unwrap_or_default().split(',') {
            let mut parts = range.split(';').map(str::trim);
            let kind = parts.next().unwrap_or_default();
            let weight = parts
                .find_map(|part| part.strip_prefix("q=").or_else(|| part.strip_prefix("Q=")))
                .map_or(1.0, |q| q.parse().unwrap_or(0.0));
            if kind.eq_ignore_ascii_case("application/x-ndjson") {
                lines = weight;
            } else if kind.eq_ignore_ascii_case("application/json") {
                json = weight;
            }
        }
    }
    lines > 0.0 && lines >= json
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_sent_to_who_asks_for_them() {
        for (accept, lines) in [
            ("", false),
            ("*/*", false),
            ("application/json", false),
            ("application/x-ndjson", true),
            ("Application/X-NDJSON; charset=utf-8", true),
            ("application/json, application/x-ndjson", true),
            ("application/json;q=0.5, application/x-ndjson;q=0.9, */*", true),
            ("application/json;q=0.9, application/x-ndjson;q=0.5", false),
            ("application/x-ndjson;q=0", false),
        ] {
            let headers = [(ACCEPT, accept.parse().unwrap())].into_iter().collect();
            assert_eq!(prefers_ndjson(&headers), lines, "{accept}");
        }
    }
}
