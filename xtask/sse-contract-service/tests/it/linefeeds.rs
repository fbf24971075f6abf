//! The three line ends, whole and split.

use super::*;

const SHAPES: [(&str, &str, &[&str]); 6] = [
    ("one-line message", "data: Hello|event: e|id: 1||", &["Hello"]),
    ("one-line and two-line message", "data: Hello||data: World|data: again||", &["Hello", "World\nagain"]),
    ("three lines, the first empty", "data:|data: Hello|data: World||", &["\nHello\nWorld"]),
    ("three lines, the second empty", "data: Hello|data:|data: World||", &["Hello\n\nWorld"]),
    ("one extra blank line", "|data: Hello|||data: World|||", &["Hello", "World"]),
    ("two extra blank lines", "||data: Hello||||data: World||||", &["Hello", "World"]),
];

const ENDS: [(&str, &str); 3] = [("LF", "\n"), ("CRLF", "\r\n"), ("CR", "\r")];

#[tokio::test]
async fn every_line_end_in_every_cut() {
    let mut harness = Harness::start().await;
    let mut cases = 0;
    for (shape, text, expected) in SHAPES {
        for (end, bytes) in ENDS {
            for (cut, size) in [("whole", usize::MAX), ("1-byte chunks", 1), ("2-byte chunks", 2)] {
                cases += 1;
                documented(&format!("{shape}, {end}, {cut}"));
                let text = text.replace('|', bytes);
                let sent: Vec<Vec<u8>> = text.as_bytes().chunks(size).map(<[u8]>::to_vec).collect();
                let peer = Peer::start(Script::new().on("/", chunks(sent))).await;
                let mut stream = harness.follow(&peer.url(), json!({})).await;
                for data in expected {
                    let (_, told, _) = stream.event().await;
                    assert_eq!(told, *data, "{shape}, {end}, {cut}");
                }
                stream.end().await;
            }
        }
    }
    assert_eq!(cases, 54);
}

#[tokio::test]
async fn a_line_end_cut_apart() {
    documented("CR at the end of a chunk, LF in the next");
    let mut harness = Harness::start().await;
    let gate = Gate::new();
    let reply =
        Reply::sse().chunked().send("data: Hello\r\n\r").hold(&gate).send("\ndata: World\r\n\r\n").silence();
    let peer = Peer::start(Script::new().on("/", reply)).await;
    let mut stream = harness.follow(&peer.url(), json!({})).await;
    // The event comes at once: the client does not wait for the LF.
    stream.expect_events(&[("message", "Hello", "")]).await;
    gate.open();
    stream.expect_events(&[("message", "World", "")]).await;
    stream.end().await;
}
