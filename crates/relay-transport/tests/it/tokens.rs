//! Sources of tokens.

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

    // As kubelet does it: a new file with the same size, and perhaps the same time, takes the name.
    let next = dir.path().join("next");
    fs::write(&next, "two-LONGER\n").unwrap();
    fs::rename(&next, &path).unwrap();
    assert_eq!(token(&source).await.unwrap(), "two-LONGER");

    // The token is half-rotated: the known token is better than none.
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
async fn a_mark_and_line_ends_are_no_part_of_a_token() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("token");
    for content in ["one\n", "one\r\n", "\u{feff}one", "\u{feff}one\r\n", " one \n\n"] {
        fs::write(&path, content).unwrap();
        assert_eq!(TokenSource::file(&path).token().await.unwrap().expose(), "one", "{content:?}");
    }
    for content in [&b"\xff\xfeo\0n\0e\0"[..], b"\xef\xbb\xbf", b"\xef\xbb\xbf\n"] {
        fs::write(&path, content).unwrap();
        assert!(TokenSource::file(&path).token().await.is_err(), "{content:?}");
    }
}

#[tokio::test]
async fn other_sources() {
    assert_eq!(TokenSource::fixed("t").token().await.unwrap().expose(), "t");
    let source = TokenSource::function(|| async { Err::<Secret, _>(io::Error::other("vault is sealed")) });
    let error = source.token().await.unwrap_err();
    assert_eq!(error.line(), "no credentials: the token source failed: vault is sealed");
}

#[cfg(unix)]
#[tokio::test]
async fn a_command_runs_when_its_token_is_old_or_no_good() {
    use std::time::Duration;

    let dir = tempfile::tempdir().unwrap();
    let script = |text: String| ["-c".to_owned(), text];
    let count = dir.path().join("count");
    let counting =
        script(format!("echo x >> {0}; echo \" token-$(wc -l < {0} | tr -d ' ') \"", count.display()));
    let expose = async |source: &TokenSource| source.token().await.unwrap().expose().to_owned();

    let source = TokenSource::command("sh", counting.clone(), Duration::from_secs(3600));
    assert_eq!(expose(&source).await, "token-1");
    assert_eq!(expose(&source.clone()).await, "token-1", "kept");
    assert_eq!(source.fresh_token().await.unwrap().expose(), "token-2");
    let (a, b) = tokio::join!(source.fresh_token(), source.fresh_token());
    assert_eq!((a.unwrap().expose(), b.unwrap().expose()), ("token-3", "token-3"), "one run for both");
    assert_eq!(expose(&source).await, "token-3");
    let source = TokenSource::command("sh", counting, Duration::ZERO);
    assert_eq!((expose(&source).await, expose(&source).await), ("token-4".into(), "token-5".into()));

    for (text, reason) in
        [("echo hunter2; exit 3", "command sh failed: exit status: 3"), ("true", "command sh wrote nothing")]
    {
        let source = TokenSource::command("sh", script(text.to_owned()), Duration::ZERO);
        let line = source.token().await.unwrap_err().line();
        assert_eq!(line, format!("no credentials: {reason}"));
        assert!(!format!("{source:?}").contains("hunter2"));
    }
    let endless = TokenSource::command("sh", script("exec yes".to_owned()), Duration::ZERO);
    assert!(endless.token().await.unwrap_err().line().starts_with("no credentials: command sh failed: "));
    let source = TokenSource::command("/does/not/exist", ["hunter2"], Duration::ZERO);
    let error = source.token().await.unwrap_err();
    assert!(error.line().contains("/does/not/exist failed: ") && !format!("{error:?}").contains("hunter2"));

    let clock = relay_testkit::Clock::freeze();
    let source = TokenSource::command("sleep", ["1000"], Duration::ZERO);
    let error = clock.run(Duration::from_secs(1), source.token()).await.unwrap_err();
    assert_eq!(error.line(), "no credentials: command sleep did not end in time");
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
