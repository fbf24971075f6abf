//! Where tokens come from.

use std::fs;
use std::io;

use relay_testkit::within;
use relay_transport::{Error, Secret, TokenSource};

#[tokio::test]
async fn a_file_is_read_again_when_it_changes() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("token");
    let source = TokenSource::file(&path);
    let token = async |source: &TokenSource| Ok::<_, Error>(source.token().await?.expose().to_owned());

    let error = token(&source).await.unwrap_err();
    assert!(error.is_retryable() && error.to_string().contains("token"), "{error}");
    assert!(std::error::Error::source(&error).is_some(), "why it cannot be read is kept");

    fs::write(&path, "  one\n").unwrap();
    assert_eq!(token(&source).await.unwrap(), "one");
    fs::write(&path, "two-longer\n").unwrap();
    assert_eq!(token(&source.clone()).await.unwrap(), "two-longer");

    // As kubelet does it: a new file takes the name, of the same size and perhaps at the same time.
    let next = dir.path().join("next");
    fs::write(&next, "two-LONGER\n").unwrap();
    fs::rename(&next, &path).unwrap();
    assert_eq!(token(&source).await.unwrap(), "two-LONGER");

    // A rotation half done: the one we have is better than none.
    for content in ["", "\n", "\u{fffd}\n"] {
        fs::write(&path, if content.contains('\u{fffd}') { &b"\xff\xfe"[..] } else { content.as_bytes() })
            .unwrap();
        assert_eq!(token(&source).await.unwrap(), "two-LONGER", "{content:?}");
    }
    fs::write(&path, "x".repeat(100_000)).unwrap();
    assert_eq!(token(&source).await.unwrap(), "two-LONGER", "too long for a token");
    fs::remove_file(&path).unwrap();
    assert_eq!(token(&source).await.unwrap(), "two-LONGER");
    fs::write(&path, "three").unwrap();
    assert_eq!(token(&source).await.unwrap(), "three");
}

#[tokio::test]
async fn other_sources() {
    assert_eq!(TokenSource::fixed("t").token().await.unwrap().expose(), "t");
    let source = TokenSource::function(|| async { Err::<Secret, _>(io::Error::other("vault is sealed")) });
    let error = source.token().await.unwrap_err();
    assert_eq!(error.line(), "no credentials: the token source failed: vault is sealed");
}

#[tokio::test]
async fn nothing_prints_a_secret() {
    let secret = Secret::from("hunter2");
    let sources = [
        TokenSource::fixed(secret.clone()),
        TokenSource::function(|| async { Ok::<_, io::Error>(Secret::from("hunter2")) }),
    ];
    let bearer = secret.bearer().unwrap();
    let shown = format!("{secret} {secret:?} {sources:?} {bearer:?} {:?}", secret.header().unwrap());
    assert!(!shown.contains("hunter2"), "{shown}");
    let error = Secret::from("hunter2\n").bearer().unwrap_err();
    assert!(!format!("{error} {error:?}").contains("hunter2"));
    within("a token", sources[1].token()).await.unwrap();
}
