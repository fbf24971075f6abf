//! Basic parsing, byte order marks and comments.

use super::*;

/// An expected callback of a stream.
enum Told {
    Event(&'static str, &'static str, &'static str),
    Comment(&'static str),
}
use Told::{Comment, Event};

/// The data of a message with the default type and without an id.
const fn data(text: &'static str) -> Told {
    Event("message", text, "")
}

/// The name of the case in the documentation, the chunks that are sent, and the expected callbacks.
type Case = (&'static str, &'static [&'static [u8]], &'static [Told]);

const BASIC: &[Case] = &[
    ("one-line message in one chunk", &[b"data: Hello\n\n"], &[data("Hello")]),
    ("one-line message in two chunks", &[b"data: Hel", b"lo\n\n"], &[data("Hello")]),
    (
        "two messages over three chunks",
        &[b"data: Hel", b"lo\n\ndata: Wor", b"ld\n\n"],
        &[data("Hello"), data("World")],
    ),
    ("two messages in one chunk", &[b"data: Hello\n\ndata: World\n\n"], &[data("Hello"), data("World")]),
    ("two-line message", &[b"data: Hello\ndata: World\n\n"], &[data("Hello\nWorld")]),
    ("empty data", &[b"data:\n\n"], &[data("")]),
    ("event type", &[b"event: greeting\ndata: Hello\n\n"], &[Event("greeting", "Hello", "")]),
    (
        "default event type",
        &[b"event: greeting\ndata: Hello\n\ndata: World\n\n"],
        &[Event("greeting", "Hello", ""), data("World")],
    ),
    ("event id", &[b"id: abc\ndata: Hello\n\n"], &[Event("message", "Hello", "abc")]),
    (
        "event type and id",
        &[b"event: greeting\nid: abc\ndata: Hello\n\n"],
        &[Event("greeting", "Hello", "abc")],
    ),
    ("id with NUL is ignored", &[b"id: a\0bc\ndata: Hello\n\n"], &[data("Hello")]),
    (
        "id persists",
        &[b"id: abc\ndata: first\n\ndata: second\n\nid: def\ndata: third\n\n"],
        &[
            Event("message", "first", "abc"),
            Event("message", "second", "abc"),
            Event("message", "third", "def"),
        ],
    ),
    (
        "id is emptied",
        &[b"id: abc\ndata: first\n\nid: \ndata: second\n\ndata: third\n\n"],
        &[Event("message", "first", "abc"), data("second"), data("third")],
    ),
    (
        "fields in reverse order",
        &[b"data: Hello\nid: abc\nevent: greeting\n\n"],
        &[Event("greeting", "Hello", "abc")],
    ),
    ("unknown field", &[b"color: blue\ndata: Hello\nshape\n\n"], &[data("Hello")]),
    ("no space after the colon", &[b"event:greeting\ndata:Hello\n\n"], &[Event("greeting", "Hello", "")]),
    (
        "two spaces after the colon",
        &[b"event:  greeting\ndata:  Hello\n\n"],
        &[Event(" greeting", " Hello", "")],
    ),
    ("data without a colon", &[b"data\n\ndata\ndata\n\n"], &[data(""), data("\n")]),
    ("multi-byte characters", &["data: €豆腐\n\n".as_bytes()], &[data("€豆腐")]),
];

const BOM: &[Case] = &[
    ("BOM is stripped", &[b"\xef\xbb\xbfdata: Hello\n\n"], &[data("Hello")]),
    (
        "BOM before type and id",
        &[b"\xef\xbb\xbfevent: greeting\nid: abc\ndata: Hello\n\n"],
        &[Event("greeting", "Hello", "abc")],
    ),
    (
        "BOM before two messages",
        &[b"\xef\xbb\xbfdata: Hello\n\ndata: World\n\n"],
        &[data("Hello"), data("World")],
    ),
    (
        "BOM in a value in mid-stream is kept",
        &[b"data: Hello\n\ndata: \xef\xbb\xbfWorld\n\n"],
        &[data("Hello"), data("\u{feff}World")],
    ),
    ("BOM in two chunks", &[b"\xef\xbb", b"\xbfdata: Hello\n\n"], &[data("Hello")]),
    ("BOM in three chunks", &[b"\xef", b"\xbb", b"\xbfdata: Hello\n\n"], &[data("Hello")]),
    (
        "second BOM in a value is kept",
        &[b"\xef\xbb\xbfdata: \xef\xbb\xbfHello\n\n"],
        &[data("\u{feff}Hello")],
    ),
    ("no BOM", &[b"data: Hello\n\n"], &[data("Hello")]),
    (
        "BOM before a multi-line message",
        &[b"\xef\xbb\xbfdata: Hello\ndata: World\n\n"],
        &[data("Hello\nWorld")],
    ),
    ("BOM before a comment", &[b"\xef\xbb\xbf:Hello\ndata: World\n\n"], &[Comment("Hello"), data("World")]),
    ("BOM before empty data", &[b"\xef\xbb\xbfdata:\n\n"], &[data("")]),
];

const COMMENTS: &[Case] = &[
    // No blank line follows.
    ("one comment", &[b":Hello\n"], &[Comment("Hello")]),
    ("two comments", &[b":Hello\n:World\n"], &[Comment("Hello"), Comment("World")]),
    ("comment before an event", &[b":Hello\ndata: World\n\n"], &[Comment("Hello"), data("World")]),
    ("comment after an event", &[b"data: World\n\n:Hello\n"], &[data("World"), Comment("Hello")]),
];

async fn run(table: &[Case]) {
    let mut harness = Harness::start().await;
    for (case, sent, expected) in table {
        documented(case);
        let peer = Peer::start(Script::new().on("/", chunks(sent.iter().copied()))).await;
        let mut stream = harness.follow(&peer.url(), json!({})).await;
        for told in *expected {
            let message = stream.told().await;
            let expected = match told {
                Event(kind, data, id) => {
                    json!({"kind": "event", "event": {"type": kind, "data": data, "id": id}})
                }
                Comment(text) => json!({"kind": "comment", "comment": text}),
            };
            assert_eq!(message, expected, "{case}");
        }
        stream.end().await;
    }
}

#[tokio::test]
async fn basic() {
    assert_eq!(BASIC.len(), 19);
    run(BASIC).await;
}

#[tokio::test]
async fn byte_order_marks() {
    assert_eq!(BOM.len(), 11);
    run(BOM).await;
}

#[tokio::test]
async fn comments() {
    assert_eq!(COMMENTS.len(), 4);
    run(COMMENTS).await;
}

#[tokio::test]
async fn many_and_tiny() {
    let mut harness = Harness::start().await;
    documented("multi-byte characters, one byte at a time");
    let text = "data: €豆腐\n\n";
    let peer = Peer::start(Script::new().on("/", chunks(text.bytes().map(|byte| vec![byte])))).await;
    let mut stream = harness.follow(&peer.url(), json!({})).await;
    stream.expect_events(&[("message", "€豆腐", "")]).await;
    stream.end().await;

    documented("100 messages in order");
    let text: String = (1..=100).map(|n| format!("event: event{n}\ndata: Message {n}\n\n")).collect();
    let peer =
        Peer::start(Script::new().on("/", Reply::sse().chunked().send_split(7, 50, text).silence())).await;
    let mut stream = harness.follow(&peer.url(), json!({})).await;
    for n in 1..=100 {
        stream.expect_events(&[(&format!("event{n}"), &format!("Message {n}"), "")]).await;
    }
    stream.end().await;
}

#[tokio::test]
async fn large() {
    let mut harness = Harness::start().await;
    // The text is as long as 5 MiB in base64, and its characters are as random.
    let mut seed = relay_testkit::Rng::new(5);
    let mut text = |mebibytes: usize| -> String {
        let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        (0..mebibytes * 1024 * 1024 / 3 * 4).map(|_| char::from(alphabet[seed.below(64) as usize])).collect()
    };
    for (case, text, parts) in [
        ("one message of 6.7 MiB in one chunk", text(5), 1),
        ("one message of 13.3 MiB in two chunks", text(10), 2),
    ] {
        documented(case);
        let whole = Bytes::from(format!("data: {text}\n\n"));
        let size = whole.len().div_ceil(parts);
        let sent = (0..parts).map(|n| whole.slice(n * size..((n + 1) * size).min(whole.len())));
        let peer = Peer::start(Script::new().on("/", chunks(sent))).await;
        let mut stream = harness.follow(&peer.url(), json!({})).await;
        let (_, data, _) = stream.event().await;
        assert!(data == text, "{case}: {} bytes, not what was sent", data.len());
        stream.end().await;
    }
}
