//! Single requests: objects, creates, patches, and refusals.

use relay_kube::{KubeClient, ListQuery, Resource};
use relay_proto::error::chain;
use relay_testkit::{ApiServer, Ask, Reply};
use serde_json::{Value, json};

use super::{PODS, client, pod, pods};

const CHANNELS: &str = "channels.knative.dev/v1alpha1/channels";

fn channels() -> Resource {
    Resource::new("channels.knative.dev", "v1alpha1", "channels")
}

fn code(result: Result<Value, relay_kube::Error>) -> u16 {
    result.unwrap_err().status().expect("a refusal").code
}

#[tokio::test]
async fn objects_are_created_read_and_patched() {
    let server = ApiServer::start().await;
    let client = client(&server).await;
    let channel = json!({"metadata": {"name": "orders"}, "spec": {"bus": "one", "gone": 1}});
    let created: Value = client.create(&channels(), Some("prod"), &channel).await.unwrap();
    assert_eq!(created["metadata"]["namespace"], "prod");
    assert_eq!(code(client.create(&channels(), Some("prod"), &channel).await), 409);
    let read: Value = client.get(&channels(), Some("prod"), "orders").await.unwrap();
    assert_eq!(read, created);
    assert_eq!(code(client.get(&channels(), Some("prod"), "none").await), 404);

    let version = &created["metadata"]["resourceVersion"];
    let patch = json!({"metadata": {"resourceVersion": version}, "spec": {"bus": "two", "gone": null}});
    let patched: Value = client.merge_patch(&channels(), Some("prod"), "orders", &patch).await.unwrap();
    assert_eq!(patched["spec"], json!({"bus": "two"}));
    assert_eq!(
        code(client.merge_patch(&channels(), Some("prod"), "orders", &patch).await),
        409,
        "by its version"
    );
    let request = server.request(Ask::Patch, 0).await;
    assert_eq!(request.header("content-type"), Some("application/merge-patch+json"));
}

#[tokio::test]
async fn a_status_is_patched_where_there_is_one() {
    let server = ApiServer::start().await;
    server
        .put(CHANNELS, json!({"metadata": {"namespace": "prod", "name": "orders"}, "spec": {"bus": "one"}}));
    let client = client(&server).await;
    let patch = json!({"spec": {"bus": "two"}, "status": {"ready": true}});
    let whole = async |client: &KubeClient| -> Result<Value, relay_kube::Error> {
        client.merge_patch(&channels(), Some("prod"), "orders", &patch).await
    };
    let status =
        client.merge_patch_status::<Value>(&channels(), Some("prod"), "orders", &patch).await.unwrap();
    assert_eq!((&status["spec"]["bus"], &status["status"]["ready"]), (&json!("one"), &json!(true)));
    let patched = whole(&client).await.unwrap();
    assert_eq!((&patched["spec"]["bus"], &patched["status"]["ready"]), (&json!("two"), &json!(true)));
    server.without_status(CHANNELS);
    assert_eq!(code(client.merge_patch_status(&channels(), Some("prod"), "orders", &patch).await), 404);
}

#[tokio::test]
async fn selectors_go_along() {
    let server = ApiServer::start().await;
    server.put(PODS, pod("a"));
    let query = ListQuery::new().labels("app in (a,b),!c").fields("metadata.name=a").limit(7);
    client(&server).await.list::<Value>(&pods(), Some("prod"), &query).await.unwrap();
    let request = server.request(Ask::List, 0).await;
    for (name, value) in
        [("labelSelector", "app in (a,b),!c"), ("fieldSelector", "metadata.name=a"), ("limit", "7")]
    {
        assert_eq!(request.query(name).as_deref(), Some(value));
    }
}

/// Something between client and API server answers.
#[tokio::test]
async fn answers_of_others_are_described() {
    let server = ApiServer::start().await;
    let client = client(&server).await;
    for (reply, said) in [
        (Reply::redirect(302, "https://login.example/?s3cr3t"), "get: 302 Found"),
        (Reply::new(502, "text/html", "<html>s3cr3t"), "get: 502 BadGateway"),
        (
            Reply::new(200, "text/html", "<html>s3cr3t"),
            "get: 12 bytes of text/html are no JSON, at line 1, column 1",
        ),
        (
            Reply::new(200, "s3cr3t s3cr3t", "{"),
            "get: 1 bytes of no known type are no JSON, at line 1, column 1",
        ),
        (
            Reply::new(200, "application/json", "{\"s3cr3t").declare_length(99).cut(),
            "get: the answer broke off",
        ),
    ] {
        server.reply(Ask::Get, reply);
        let error = client.get::<Value>(&pods(), Some("prod"), "a").await.unwrap_err();
        assert!(chain(&error).to_string().starts_with(said), "{said}: {}", chain(&error));
        assert!(!format!("{error:?}{}", chain(&error)).contains("s3cr3t"), "{error:?}");
    }
}
