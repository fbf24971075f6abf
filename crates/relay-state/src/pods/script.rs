//! A small language for tests: a conversation written as words, and outputs as text.
//!
//! Positions are written `5` (hash `h5`, epoch `e`), `5f` (hash `f5`, epoch `f`) or `5x` (hash `x5`: the same sequence
//! of epoch `e` under another hash). `#3` gives `sent`.
//!
//! | word | input |
//! |---|---|
//! | `seed@5` `seed@5f` `seed` | a list at that position; without one |
//! | `conn@3` `conn@3f` | `connected`, unfiltered, resuming after that position |
//! | `narrow@3` `anon@3` `bare` | the same, filtered; without an epoch; without any field |
//! | `pod@6` `pod@6#2` `pod@6<4` | MODIFIED of pod `p`, following its predecessor, or that position |
//! | `catch@6` `hb@6` `hb!@6` `stale@6` | `catchup_complete`; heartbeats: caught up, `catching_up`, stale source |
//! | `gap@9` `bad@6` `big@6` `bad` | a relay's gap; a pod that cannot be read, is too large, or has no id |
//! | `closing` `new` `type@6` | `closing`; an unknown SSE event; an unknown event type |
//! | `drop` | the connection ends |

use relay_proto::pods::{ListDecoder, ListFormat, ListLimits, Message, PodList, Undecodable};
use serde_json::{Value, json};

/// An input of a fold.
pub(crate) enum Input {
    Seed(PodList),
    Message(Box<Message>),
    Drop,
}

struct Position<'a> {
    hash: String,
    previous: String,
    sequence: u64,
    epoch: &'a str,
}

fn position(text: &str) -> Position<'static> {
    let digits = text.trim_end_matches(|c: char| c.is_alphabetic());
    let sequence: u64 = digits.parse().unwrap_or_else(|_| panic!("position {text:?}"));
    let (letter, epoch) = match &text[digits.len()..] {
        "" => ('h', "e"),
        "f" => ('f', "f"),
        "x" => ('x', "e"),
        other => panic!("position suffix {other:?}"),
    };
    let before = if letter == 'f' { 'f' } else { 'h' };
    Position {
        hash: format!("{letter}{sequence}"),
        previous: format!("{before}{}", sequence.saturating_sub(1)),
        sequence,
        epoch,
    }
}

/// Reads one word.
pub(crate) fn input(word: &str) -> Input {
    let (word_and_position, sent) = match word.split_once('#') {
        Some((head, sent)) => (head, Some(sent.parse::<u64>().unwrap())),
        None => (word, None),
    };
    let (head, after) = match word_and_position.split_once('<') {
        Some((head, after)) => (head, Some(position(after).hash)),
        None => (word_and_position, None),
    };
    let (name, at) = match head.split_once('@') {
        Some((name, at)) => (name, Some(position(at))),
        None => (head, None),
    };
    let (hash, sequence) = (at.as_ref().map(|p| p.hash.clone()), at.as_ref().map(|p| p.sequence));
    let epoch = at.as_ref().map_or("e", |p| p.epoch);
    let message = |event: &str, data: Value| {
        Input::Message(Box::new(Message::decode(event, hash.as_deref().unwrap_or(""), &data.to_string())))
    };
    let start = json!({"hash": hash, "sequence": sequence});
    let pod = |kind: &str| {
        let previous = after.clone().or_else(|| at.as_ref().map(|p| p.previous.clone()));
        let filtered = sent.is_some();
        let pod =
            json!({"namespace": "ns", "name": "p", "resource_version": sequence.map(|s| s.to_string())});
        let mut event = json!({"type": kind, "hash": hash, "sequence": sequence, "sent": sent, "pod": pod});
        if !filtered {
            event["previous_hash"] = json!(previous);
        }
        event
    };
    match name {
        "drop" => Input::Drop,
        "seed" => Input::Seed(seed(at.as_ref())),
        "conn" => message("connected", json!({"epoch": epoch, "resumes_after": start, "filtered": false})),
        "narrow" => message("connected", json!({"epoch": epoch, "resumes_after": start, "filtered": true})),
        "anon" => message("connected", json!({"resumes_after": start, "filtered": false})),
        "bare" => message("connected", json!({})),
        "pod" => message("pod", pod("MODIFIED")),
        "type" => message("pod", pod("RENAMED")),
        "catch" => message("catchup_complete", json!({"hash": hash, "sequence": sequence, "sent": sent})),
        "hb" => {
            message("heartbeat", json!({"hash": hash, "sequence": sequence, "sent": sent, "source": "live"}))
        }
        "hb!" => message(
            "heartbeat",
            json!({"hash": hash, "sequence": sequence, "sent": sent, "catching_up": true}),
        ),
        "stale" => message("heartbeat", json!({"hash": hash, "sequence": sequence, "source": "stale"})),
        "gap" => message(
            "gap",
            json!({"reason": "cursor-expired", "epoch": epoch, "hash": hash, "sequence": sequence, "sent": sent}),
        ),
        "bad" => Input::Message(Box::new(Message::decode("pod", hash.as_deref().unwrap_or(""), "{"))),
        "big" => {
            let id = hash.as_deref().unwrap_or("");
            Input::Message(Box::new(Message::Undecodable(Undecodable::oversized("pod", id, 2 << 20, "data"))))
        }
        "closing" => message("closing", json!({"reason": "shutdown"})),
        "new" => message("something-new", json!({})),
        other => panic!("unknown word {other:?}"),
    }
}

/// One pod `p` whose version is the position's sequence.
fn seed(at: Option<&Position<'_>>) -> PodList {
    let version = at.map_or("1".into(), |p| p.sequence.to_string());
    let pod = json!({"namespace": "ns", "name": "p", "resource_version": version});
    let list = match at {
        Some(p) => json!({"pods": [pod], "hash": p.hash, "sequence": p.sequence, "epoch": p.epoch}),
        None => json!({"pods": [pod]}),
    };
    let mut decoder = ListDecoder::new(ListFormat::Json, ListLimits::default());
    decoder.feed(list.to_string().as_bytes()).unwrap();
    decoder.finish().unwrap()
}
