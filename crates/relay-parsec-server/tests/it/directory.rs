//! Channels that are kept in a directory.

use relay_parsec_server::ServerConfig;

use crate::raw::{CHANNEL, Rig, envelope};

async fn rig(directory: &std::path::Path) -> Rig {
    Rig::with(ServerConfig::default().retain_events(400_u64).data_dir(Some(directory.to_owned()))).await
}

#[tokio::test]
async fn history_epochs_and_taken_numbers_outlive_the_server() {
    let directory = tempfile::tempdir().unwrap();
    let first = rig(directory.path()).await;
    // Writes more than one checkpoint, and more envelopes than are retained.
    let mut last = String::new();
    for sequence in 1..=600 {
        last = first.say("p", sequence).await;
    }
    let early = first.say("early", 3).await;
    let before = first.get(&format!("/parsec/history?channel={CHANNEL}&limit=1000")).await.body;
    first.end().await;

    let second = rig(directory.path()).await;
    let after = second.get(&format!("/parsec/history?channel={CHANNEL}&limit=1000")).await.body;
    assert_eq!(before, after);
    let again = second.publish(&envelope("p", 600)).await.json();
    assert_eq!((again["duplicate"].as_bool(), again["position"].as_str()), (Some(true), Some(&*last)));
    let conflict = second.publish(&envelope("p", 17)).await;
    conflict.is_problem(409, "sequence-conflict", &["600"]);
    let mut stream = second.stream(&format!("{CHANNEL}&after={last}")).await;
    assert_eq!(stream.event("connected").await.1["resumes_after"], last);
    assert_eq!(stream.event("envelope").await.0, Some(early));
    assert_eq!(second.say("p", 601).await, format!("{}.602", last.rsplit_once('.').unwrap().0));
    drop(stream);
    second.end().await;
}

#[tokio::test]
async fn a_directory_has_one_server() {
    let directory = tempfile::tempdir().unwrap();
    let first = rig(directory.path()).await;
    let config = ServerConfig::default().data_dir(Some(directory.path().to_owned()));
    let second = relay_parsec_server::ParsecServer::bind("127.0.0.1:0".parse().unwrap(), config).await;
    let error = relay_proto::error::chain(&second.unwrap_err()).to_string();
    assert!(error.contains("another process has the store"), "{error}");
    first.end().await;
}
