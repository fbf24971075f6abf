//! What a subscriber gets, and does not get, around the end of its subscription.

use std::sync::Arc;
use std::time::Duration;

use relay_bus::{
    ChannelReference, DispatcherOptions, Engine as _, EngineOptions, HandlerError, MemoryEngine, Message,
    MessageDispatcher, MonitorHandler as _, Receive as _, ReceiveError, ResolvedParameters,
    SubscriptionReference, SubscriptionSpec,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use crate::harness::{ACCEPTED, PATIENCE};

/// What a subscriber sees on its connections.
#[derive(Debug, PartialEq, Eq)]
enum Seen {
    Bytes,
    Closed,
}

/// A subscriber that answers requests, or never answers, and reports every read and every end of a connection.
async fn watched(answers: bool) -> (String, mpsc::UnboundedReceiver<Seen>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (tell, seen) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let tell = tell.clone();
            tokio::spawn(async move {
                let mut buffer = [0; 65_536];
                loop {
                    let read = stream.read(&mut buffer).await.unwrap_or(0);
                    let _ = tell.send(if read == 0 { Seen::Closed } else { Seen::Bytes });
                    if read == 0 || answers && stream.write_all(ACCEPTED.as_bytes()).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    (address, seen)
}

async fn next(seen: &mut mpsc::UnboundedReceiver<Seen>) -> Seen {
    tokio::time::timeout(PATIENCE, seen.recv()).await.expect("something is seen").unwrap()
}

fn engine(options: EngineOptions) -> MemoryEngine {
    let dispatcher = MessageDispatcher::new(DispatcherOptions::default()).unwrap();
    let engine = MemoryEngine::new(dispatcher, options, Arc::default(), |_| ());
    engine.set_ready();
    engine
}

async fn subscribe(engine: &MemoryEngine, name: &str, to: &str) -> Result<(), HandlerError> {
    let mut spec = SubscriptionSpec::default();
    spec.channel = "c".into();
    spec.subscriber = Some(to.to_owned());
    let subscription = SubscriptionReference::new(name, "ns");
    engine.subscribe(&subscription, &channel(), &spec, &ResolvedParameters::default()).await
}

fn channel() -> ChannelReference {
    ChannelReference::new("c", "ns")
}

#[tokio::test]
async fn nothing_is_sent_after_unsubscribe_ended_and_what_was_under_way_is_cut() {
    // The three cases: one call in progress without an answer and two messages that wait; three calls in progress; all
    // calls answered, with idle connections.
    for (answers, options) in [
        (false, EngineOptions::default().in_flight(1)),
        (false, EngineOptions::default().in_flight(64)),
        (true, EngineOptions::default()),
    ] {
        let engine = engine(options);
        let (gone, mut of_gone) = watched(answers).await;
        let (stays, mut of_stays) = watched(true).await;
        let spec = relay_bus::ChannelSpec::default();
        engine.provision(&channel(), &spec, &ResolvedParameters::default()).await.unwrap();
        subscribe(&engine, "gone", &format!("http://{gone}")).await.unwrap();
        subscribe(&engine, "stays", &format!("http://{stays}")).await.unwrap();
        let message = || Message::new(relay_bus::Headers::new(), "x");
        for _ in 0..3 {
            engine.receive(&channel(), message()).await.unwrap();
        }
        assert_eq!(next(&mut of_gone).await, Seen::Bytes);
        engine.unsubscribe(&SubscriptionReference::new("gone", "ns"), &channel()).await.unwrap();
        // From here on, the subscriber reads only what was sent before. Its connections end or are idle, and no new
        // connection is made.
        if !answers {
            while next(&mut of_gone).await != Seen::Closed {}
        }
        while of_gone.try_recv().is_ok() {}
        for _ in 0..20 {
            engine.receive(&channel(), message()).await.unwrap();
        }
        for _ in 0..23 {
            while next(&mut of_stays).await != Seen::Bytes {}
        }
        while let Ok(seen) = of_gone.try_recv() {
            assert_eq!(seen, Seen::Closed, "nothing after unsubscribe ended");
        }
        engine.unprovision(&channel()).await.unwrap();
        let refused = engine.receive(&channel(), message()).await;
        assert!(matches!(refused, Err(ReceiveError::UnknownChannel)), "{refused:?}");
    }
}

#[tokio::test]
async fn no_other_try_is_made_for_a_subscription_that_went() {
    let engine = engine(EngineOptions::default().max_deliver(0).retry_delay(Duration::from_millis(20)));
    let spec = relay_bus::ChannelSpec::default();
    engine.provision(&channel(), &spec, &ResolvedParameters::default()).await.unwrap();
    // Each connection is closed without an answer, which is a failed attempt.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    subscribe(&engine, "s", &format!("http://{address}")).await.unwrap();
    engine.receive(&channel(), Message::new(relay_bus::Headers::new(), "x")).await.unwrap();
    for _ in 0..3 {
        drop(tokio::time::timeout(PATIENCE, listener.accept()).await.expect("a try").unwrap());
    }
    engine.unsubscribe(&SubscriptionReference::new("s", "ns"), &channel()).await.unwrap();
    while tokio::time::timeout(Duration::ZERO, listener.accept()).await.is_ok() {}
    // This is ten times the delay: a further attempt would come within it.
    let late = tokio::time::timeout(Duration::from_millis(200), listener.accept()).await;
    assert!(late.is_err(), "a try after unsubscribe ended");
}
