//! `relay parsec` where something else answers: a portal's page, a document of another kind, nobody.

use relay_testkit::{Peer, Reply, Script};

use super::parsec_rows::{CHANNEL, at, fed};
use super::process::{Done, relay, run_command};

const PLACES: [&str; 5] =
    ["/parsec/stream", "/parsec/publish", "/parsec/history", "/parsec/presence", "/parsec/schemas"];

/// What a command says in the end, of a server that answers everything in this way.
async fn said(reply: Reply, verb: &'static str, arguments: &'static [&'static str]) -> Done {
    let script = PLACES.iter().fold(Script::new(), |script, path| script.always(path, reply.clone()));
    let peer = Peer::start(script).await;
    let url = peer.url();
    tokio::task::spawn_blocking(move || match verb {
        "publish" => fed(at(&url, verb, arguments), b"{\"text\":\"s3cret\"}\n"),
        "schema" => run_command(relay(&["parsec", "schema", "list", "--url", &url])),
        _ => run_command(at(&url, verb, arguments)),
    })
    .await
    .unwrap()
}

const PUBLISH: &[&str] = &[CHANNEL, "--aspect", "a", "--producer", "me", "--publish-timeout", "500ms"];
const SUBSCRIBE: &[&str] = &[CHANNEL, "--for", "1s"];

/// A page says nothing of the envelope, so that the outcome is not known; nothing of the page is shown, and it is said
/// what to look at.
#[tokio::test]
async fn a_web_page_is_named_with_what_to_look_at() {
    let page = Reply::new(200, "Text/HTML; charset=utf-8", "<!doctype html><p>log in, s3cret</p>");
    for (verb, arguments) in [
        ("publish", PUBLISH),
        ("subscribe", SUBSCRIBE),
        ("history", &[CHANNEL]),
        ("presence", &[CHANNEL]),
        ("schema", &[]),
    ] {
        let done = said(page.clone(), verb, arguments).await;
        assert_eq!(done.code, Some(1), "{verb}: {done:?}");
        let told = &done.stderr;
        let page =
            if verb == "subscribe" { "content type \"text/html\"" } else { "the answer is an HTML page" };
        assert!(told.contains(page), "{verb}: {told}");
        assert!(told.contains("check host, port and path of --url"), "{verb}: {told}");
        assert!(!told.contains("line 1") || verb == "publish", "{verb}: {told}");
        assert!(!told.contains("s3cret"), "{verb}: {told}");
        let last = told.lines().last().unwrap();
        assert!(last.starts_with("relay: "), "{verb}: {told}");
    }
}

/// Each attempt is one line, in the words of the other commands.
#[tokio::test]
async fn what_is_tried_again_is_told_at_each_attempt() {
    let page = Reply::new(200, "text/html", "<p>");
    for (verb, arguments) in [("publish", PUBLISH), ("subscribe", SUBSCRIBE)] {
        let done = said(page.clone(), verb, arguments).await;
        let attempts: Vec<_> = done.stderr.lines().filter(|line| line.contains("; next try ")).collect();
        assert!(attempts.len() > 1, "{verb}: {}", done.stderr);
        for line in attempts {
            assert!(line.starts_with("relay: ") && line.contains(CHANNEL), "{verb}: {line}");
        }
    }
}

/// What is no JSON at all is no server of channels; what ends early may be one.
#[tokio::test]
async fn what_is_no_document_is_told_from_one_that_is_broken() {
    for (body, words, advised) in [
        ("plainly not", "it is no history, and no JSON", true),
        ("", "it is no history, and no JSON", true),
        (r#"{"channel":"c","envelopes":[{"#, "it is no history: reading ended at line 1 column 29", false),
    ] {
        let done = said(Reply::new(200, "application/json", body), "history", &[CHANNEL]).await;
        assert_eq!(done.code, Some(1));
        assert!(done.stderr.contains(words), "{}", done.stderr);
        assert_eq!(done.stderr.contains("check host, port and path of --url"), advised, "{}", done.stderr);
    }
}
