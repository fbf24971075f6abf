//! Deleted streams and consumers whose files NATS still removes.
//!
//! NATS 2.9 removes the files of a stream or consumer after it is gone for clients. What is created under the same
//! name in the meantime loses its files: a stream loses its messages, and takes no more of them; a consumer loses its
//! position when the server ends. So nothing is created again before the server has reported the end of the deletion:
//! the advisory of a request to its API is sent after the request was carried out.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use serde_json::Value;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::engine::lock;

/// Where the server reports requests to its API.
pub(super) const REPORTS: &str = "$JS.EVENT.ADVISORY.API";
/// How long to wait for a report. It may have been missed, or the bus may not be allowed to read reports.
const LIMIT: Duration = Duration::from_secs(10);
/// The code of the answer to a request about a stream that does not exist.
const NOT_FOUND: u16 = 404;

/// What is known of the streams of this process, by `STREAM`, and of its consumers, by `STREAM.CONSUMER`.
#[derive(Default)]
pub(super) struct Removals {
    known: Mutex<BTreeMap<String, Known>>,
    changed: Notify,
}

enum Known {
    There,
    /// Its deletion was noticed at this time. Its files may not be removed yet.
    Gone(Instant),
    /// The end of its deletion was reported, but the deletion was not noticed yet.
    Removed,
}

impl Removals {
    /// Notes that a stream or consumer exists.
    pub(super) fn made(&self, name: String) {
        lock(&self.known).insert(name, Known::There);
        self.changed.notify_waiters();
    }

    /// Notes that a stream or consumer is being deleted, or was.
    pub(super) fn gone(&self, name: String) {
        let mut all = lock(&self.known);
        all.retain(|_, known| !matches!(known, Known::Gone(since) if since.elapsed() >= LIMIT));
        let known = all.entry(name).or_insert(Known::There);
        if matches!(known, Known::There) {
            *known = Known::Gone(Instant::now());
        }
    }

    /// Notes that a stream or consumer was deleted and is not wanted any more. `answered`: the server has carried the
    /// deletion out.
    pub(super) fn forget(&self, name: &str, answered: bool) {
        let mut all = lock(&self.known);
        if answered || !matches!(all.get(name), Some(Known::Gone(_))) {
            all.remove(name);
        }
        self.changed.notify_waiters();
    }

    /// Takes a report of the server.
    pub(super) fn report(&self, advisory: &[u8]) {
        let Some(name) = deleted(advisory) else { return };
        let mut all = lock(&self.known);
        let prefix = format!("{name}.");
        let consumers = all.range(prefix.clone()..).take_while(|(name, _)| name.starts_with(&prefix));
        let mut ended: Vec<_> = consumers.map(|(name, _)| name.clone()).collect();
        ended.push(name);
        for name in ended {
            match all.get_mut(&name) {
                Some(known @ Known::There) => *known = Known::Removed,
                Some(Known::Gone(_)) => drop(all.remove(&name)),
                Some(Known::Removed) | None => {}
            }
        }
        self.changed.notify_waiters();
    }

    /// Whether a deletion was noticed whose end is not known.
    pub(super) fn is_gone(&self, name: &str) -> bool {
        self.limit(name).is_some()
    }

    fn limit(&self, name: &str) -> Option<Instant> {
        match lock(&self.known).get(name) {
            Some(Known::Gone(since)) => Some(*since + LIMIT),
            _ => None,
        }
    }

    /// Waits until a stream or consumer can be created without losing its files.
    pub(super) async fn wait(&self, name: &str) {
        loop {
            let changed = self.changed.notified();
            let Some(limit) = self.limit(name) else { return };
            if tokio::time::timeout_at(limit, changed).await.is_err() {
                return;
            }
        }
    }
}

/// The stream or consumer whose deletion has ended according to this advisory.
fn deleted(advisory: &[u8]) -> Option<String> {
    let advisory: Value = serde_json::from_slice(advisory).ok()?;
    // `$JS.API.STREAM.DELETE.NAME`, or with a domain before `API`.
    let (_, request) = advisory["subject"].as_str()?.split_once(".API.")?;
    let name = request.strip_prefix("STREAM.DELETE.").or(request.strip_prefix("CONSUMER.DELETE."))?;
    let answer: Value = serde_json::from_str(advisory["response"].as_str()?).ok()?;
    // Another request may be carrying out the deletion at that moment.
    let nothing_to_delete = answer["error"]["code"] == NOT_FOUND;
    (!nothing_to_delete).then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt as _;

    fn advisory(subject: &str, response: &str) -> Vec<u8> {
        let advisory = serde_json::json!({
            "type": "io.nats.jetstream.advisory.v1.api_audit",
            "client": {"acc": "$G"},
            "subject": subject,
            "response": response,
        });
        advisory.to_string().into_bytes()
    }

    const DELETED: &str = r#"{"type":"io.nats.jetstream.api.v1.stream_delete_response","success":true}"#;

    #[test]
    fn the_end_of_a_deletion_is_known_by_its_advisory() {
        let missing = r#"{"error":{"code":404,"err_code":10059,"description":"stream not found"}}"#;
        let failed = r#"{"error":{"code":500,"err_code":10067,"description":"directory not empty"}}"#;
        for (subject, response, expected) in [
            ("$JS.API.STREAM.DELETE.relay_ns_c", DELETED, Some("relay_ns_c")),
            ("$JS.hub.API.STREAM.DELETE.relay_ns_c", DELETED, Some("relay_ns_c")),
            ("$JS.API.STREAM.DELETE.relay_ns_c", failed, Some("relay_ns_c")),
            ("$JS.API.STREAM.DELETE.relay_ns_c", missing, None),
            ("$JS.API.STREAM.DELETE.relay_ns_c", "", None),
            ("$JS.API.CONSUMER.DELETE.relay_ns_c.relay_ns_s", DELETED, Some("relay_ns_c.relay_ns_s")),
            ("$JS.API.CONSUMER.MSG.NEXT.relay_ns_c.relay_ns_s", DELETED, None),
            ("$JS.API.STREAM.CREATE.relay_ns_c", DELETED, None),
        ] {
            let stream = deleted(&advisory(subject, response));
            assert_eq!(stream.as_deref(), expected, "{subject} {response}");
        }
        assert_eq!(deleted(b"{"), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_is_made_again_when_its_files_are_removed_or_nothing_was_reported_for_long() {
        let report = advisory("$JS.API.STREAM.DELETE.s", DELETED);
        let removals = Removals::default();
        let is_waiting = || removals.wait("s").now_or_never().is_none();
        let waited = async || {
            let begin = Instant::now();
            removals.wait("s").await;
            begin.elapsed()
        };
        assert!(!is_waiting(), "a stream of an earlier process");
        removals.made("s".into());

        removals.gone("s".into());
        assert!(is_waiting());
        removals.report(&advisory("$JS.API.STREAM.DELETE.other", DELETED));
        assert!(is_waiting());
        let mut wait = Box::pin(removals.wait("s"));
        assert!(wait.as_mut().now_or_never().is_none());
        removals.report(&report);
        assert!(wait.now_or_never().is_some(), "the report ends a wait");
        removals.made("s".into());

        removals.report(&report);
        removals.gone("s".into());
        assert!(!is_waiting(), "the report came before the deletion was noticed");
        removals.made("s".into());

        removals.gone("s".into());
        tokio::time::advance(LIMIT / 4).await;
        removals.gone("s".into());
        assert_eq!(waited().await, LIMIT * 3 / 4, "without a report, from when it was first noticed");
        removals.made("s".into());

        removals.gone("s".into());
        removals.forget("s", false);
        assert!(is_waiting(), "a deletion without an answer may still run");
        removals.forget("s", true);
        assert!(!is_waiting());
        removals.made("s.one".into());
        for name in ["s.one", "s.two", "st.one"] {
            removals.gone(name.into());
        }
        removals.report(&advisory("$JS.API.CONSUMER.DELETE.s.two", DELETED));
        assert_eq!(["s.one", "s.two"].map(|name| removals.is_gone(name)), [true, false]);
        removals.report(&report);
        assert_eq!(
            ["s.one", "st.one"].map(|name| removals.is_gone(name)),
            [false, true],
            "consumers of a stream end with it"
        );
        removals.forget("st.one", true);
        removals.report(&report);
        assert!(lock(&removals.known).is_empty());

        removals.gone("s".into());
        tokio::time::advance(LIMIT).await;
        removals.gone("t".into());
        assert_eq!(lock(&removals.known).len(), 1, "what nobody waits for any more is forgotten");
    }
}
