//! The files of `relay parsec`: schemas, as the page on Parsec shows them, and sequences.

use relay_testkit::{Peer, Reply, ReservedPort, Script};
use serde_json::json;

use super::parsec_rows::{CHANNEL, Server, at, is, parsec, publish, schemas};
use super::process::run_command;

/// The file of `docs/parsec.md`, as it stands there.
#[test]
fn the_schemas_file_of_the_page_does_what_the_page_says() {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/parsec.md");
    let page = std::fs::read_to_string(page).unwrap();
    let text = page.split("```json\n").find(|block| block.starts_with("{\"patterns\"")).expect("it is there");
    let directory = tempfile::tempdir().unwrap();
    let file = schemas(&directory, text.split("```").next().unwrap());
    let server = Server::start(&["--schemas", &file, "--validate", "strict"]);
    publish(&server, "me", "{\"text\":\"hi\"}\n", &["--aspect", "said"]).expect(0);
    publish(&server, "her", "[1]\n", &["--aspect", "noted"]).expect(0);
    for (aspect, payload, words) in [
        ("said", "{\"text\":5}", ".text: not a string"),
        ("said", "{\"text\":\"hi\",\"more\":1}", "a member that the schema does not name"),
        ("said", "{}", "text"),
        ("sung", "{}", "unsupported-aspect"),
    ] {
        let done = publish(&server, "you", payload, &["--aspect", aspect]).expect(1);
        assert!(done.stderr.contains(words), "{payload}: {}", done.stderr);
    }
    let resolved =
        run_command(parsec(&["schema", "resolve", "public:demo.chat", "--schemas", &file, "-o", "json"]));
    is(&resolved.expect(0).json()[0], json!({"pattern": "public:demo.{room}", "bindings": {"room": "chat"}}));
}

/// Where nobody listens nothing was sent: the number is used for the next envelope, and no subscriber sees a gap.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_number_that_never_left_is_used_again_and_one_that_may_have_is_not() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("sequence").display().to_string();
    let publish_at = |url: &str, limit: &str| {
        let flags = ["--aspect", "said", "--producer", "me", "--payload", "1", "--publish-timeout", limit];
        let mut command = at(url, "publish", &[&[CHANNEL][..], &flags].concat());
        command.args(["--sequence-file", &file]);
        run_command(command)
    };
    let closed = ReservedPort::reserve();
    let done = publish_at(&closed.url(), "2s").expect(1);
    let last = done.stderr.lines().last().unwrap();
    for words in ["not published: no connection", "Connection refused", "does the server run"] {
        assert!(last.contains(words), "{words}: {last}");
    }
    let server = Server::start(&[]);
    assert_eq!(publish_at(&server.url, "1m").expect(0).json()[0]["sequence"], 1);
    // Here the request went out, and no answer came.
    let cut = Peer::start(Script::new().always("/parsec/publish", Reply::raw().cut())).await;
    let done = publish_at(&cut.url(), "2s").expect(1);
    assert!(done.stderr.contains("whether sequence 2 in channel"), "{}", done.stderr);
    assert_eq!(publish_at(&server.url, "1m").expect(0).json()[0]["sequence"], 3);
}
