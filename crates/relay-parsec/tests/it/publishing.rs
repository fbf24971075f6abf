//! What happens to a number when a publish fails.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use relay_parsec::{Client, Error, Feed, Outgoing, PublishFailure, Receipt, Start, Transport};
use relay_proto::parsec::{Envelope, Producer};
use relay_proto::problem::Problem;

/// In the place of a status: no connection was made.
const NO_CONNECTION: u16 = 0;

/// Gives prepared answers, and keeps the envelopes that it gets.
#[derive(Clone, Default)]
struct Scripted {
    answers: Arc<Mutex<VecDeque<u16>>>,
    given: Arc<Mutex<Vec<Bytes>>>,
}

impl Transport for Scripted {
    fn name(&self) -> &'static str {
        "scripted"
    }

    fn publish<'a>(
        &'a self,
        channel: &'a str,
        envelope: Bytes,
    ) -> BoxFuture<'a, Result<Receipt, PublishFailure>> {
        self.given.lock().unwrap().push(envelope);
        let status = self.answers.lock().unwrap().pop_front().unwrap_or(200);
        let body = match status {
            409 => br#"{"code":"sequence-conflict","last_sequence":7}"#.to_vec(),
            _ => Vec::new(),
        };
        let problem = Box::new(Problem::from_body(status, &body));
        let error = Error::Refused { what: channel.to_owned(), problem };
        Box::pin(std::future::ready(match status {
            NO_CONNECTION => {
                let url = "http://127.0.0.1:1/".to_owned();
                let error = relay_transport::Error::Connect { url, source: "refused".into() };
                Err(PublishFailure::Unavailable { error: error.into(), retry_after: None })
            }
            200 => Ok(Receipt::default()),
            201..429 => Err(PublishFailure::Refused(error)),
            _ => Err(PublishFailure::Unavailable { error, retry_after: None }),
        }))
    }

    fn subscribe<'a>(&'a self, _: &'a str, _: Start) -> BoxFuture<'a, Result<Box<dyn Feed>, Error>> {
        Box::pin(std::future::ready(Err(self.not_implemented("subscribe"))))
    }
}

async fn publish(answers: &[u16]) -> (Result<i64, String>, Vec<i64>, i64) {
    let transport = Scripted::default();
    transport.answers.lock().unwrap().extend(answers);
    let client = Client::builder(transport.clone())
        .producer(Producer::service("s"))
        .publish_timeout(Duration::from_secs(60))
        .build()
        .unwrap();
    let sent = client.publish("public:a.b", Outgoing::new("data")).await;
    let given = transport.given.lock().unwrap().clone();
    assert!(given.windows(2).all(|pair| pair[0] == pair[1]), "a retry sends the same bytes");
    let given = given.into_iter().map(|bytes| Envelope::decode(bytes).unwrap().sequence()).collect();
    transport.answers.lock().unwrap().clear();
    let next = client.publish("public:a.b", Outgoing::new("data")).await.unwrap().envelope.sequence();
    (sent.map(|sent| sent.envelope.sequence()).map_err(|error| error.to_string()), given, next)
}

#[tokio::test(start_paused = true)]
async fn a_number_is_given_back_only_when_it_was_certainly_not_taken() {
    assert_eq!(publish(&[200]).await, (Ok(1), vec![1], 2));
    assert_eq!(publish(&[503, 429, 200]).await, (Ok(1), vec![1, 1, 1], 2));
    let (error, given, next) = publish(&[403]).await;
    assert!(error.is_err());
    assert_eq!((given, next), (vec![1], 1), "refused at the first try");
    for status in [201, 202, 204, 302, 307] {
        let (error, given, next) = publish(&[status]).await;
        assert!(error.unwrap_err().contains("not known"), "{status}");
        assert_eq!((given, next), (vec![1], 2), "{status}: a gateway may have passed it on");
    }
    let (error, given, next) = publish(&[409]).await;
    let error = error.unwrap_err();
    assert!(error.contains("another producer id") && error.contains(", 7"), "{error}");
    assert_eq!((given, next), (vec![1], 1));
    let (error, given, next) = publish(&[500, 409]).await;
    assert!(error.is_err());
    assert_eq!((given, next), (vec![1, 1], 2), "refused after a try of which nothing is known");
    let (error, _, next) = publish(&[503; 1000]).await;
    assert!(error.unwrap_err().contains("not known"));
    assert_eq!(next, 2, "out of time");
    let (error, _, next) = publish(&[NO_CONNECTION; 1000]).await;
    assert!(error.unwrap_err().starts_with("not published: no connection"));
    assert_eq!(next, 1, "it never left");
    let (error, given, next) = publish(&[NO_CONNECTION, NO_CONNECTION, 403]).await;
    assert!(error.is_err());
    assert_eq!((given, next), (vec![1, 1, 1], 1), "refused at the first try that arrived");
    let mut answers = [NO_CONNECTION; 1000];
    answers[1] = 503;
    let (error, _, next) = publish(&answers).await;
    assert!(error.unwrap_err().contains("not known"));
    assert_eq!(next, 2, "one try arrived");
    assert_eq!(publish(&[NO_CONNECTION, 200]).await, (Ok(1), vec![1, 1], 2));
}
