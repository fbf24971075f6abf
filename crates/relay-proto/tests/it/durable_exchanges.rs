//! The answers of `fixtures/durable/exchanges` without a client: how they are distinguished, and the machines' results,
//! for whole answers and byte by byte.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail like tests")]

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use relay_proto::durable::{
    Answer, Checkpoint, Content, End, Event, LiveMode, Offset, Producer, ProducerConfig, ProducerWant,
    Reader, ReaderConfig, ReaderStop, ReaderWant, Refusal, Refused,
};
use serde_json::{Value, json};

const ZERO: Duration = Duration::ZERO;

/// The result of an answer: facts, or the kind of a refusal and its details.
type Found = Result<Value, (&'static str, String)>;

/// The head of an answer and its body, without the framing of the transport.
fn parsed(said: &str) -> (Answer, Vec<u8>) {
    let mut headers = [httparse::EMPTY_HEADER; 16];
    let mut response = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(length) = response.parse(said.as_bytes()).unwrap() else {
        panic!("{said}")
    };
    let fields = response.headers.iter().map(|header| (header.name, header.value));
    let answer = Answer::from_headers(response.code.unwrap(), fields, Duration::from_secs(1_800_000_000));
    let chunked = response.headers.iter().any(|header| header.name == "Transfer-Encoding");
    let body = &said.as_bytes()[length..];
    (answer, if chunked { unchunked(body) } else { body.to_vec() })
}

fn unchunked(mut body: &[u8]) -> Vec<u8> {
    let mut all = Vec::new();
    while let Ok(httparse::Status::Complete((head, size))) = httparse::parse_chunk_size(body) {
        let size = usize::try_from(size).unwrap();
        all.extend_from_slice(&body[head..head + size]);
        body = &body[head + size + 2..];
    }
    all
}

fn kind_of(refusal: Refusal) -> (&'static str, String) {
    match refusal {
        Refusal::NotFound => ("NotFound", String::new()),
        Refusal::Gone => ("Gone", String::new()),
        Refusal::Unauthorised => ("NotAuthorised", String::new()),
        Refusal::Fenced { epoch } => ("Fenced", format!("epoch {epoch}")),
        Refusal::Closed => ("Closed", String::new()),
        Refusal::Gap { expected } => ("Gap", format!("expected {expected}")),
        Refusal::Conflict => ("Conflict", String::new()),
        Refusal::TooLarge => ("TooLarge", String::new()),
        other => ("Refused", format!("{other:?}")),
    }
}

/// The result of a single request.
fn asked(answer: &Answer, posted: bool) -> Found {
    if let Some(refusal) = answer.refusal() {
        return Err(kind_of(refusal));
    }
    assert!(answer.status() == 304 || if posted { answer.is_taken() } else { answer.is_success() });
    Ok(json!({"status": answer.status(), "offset": answer.next_offset(), "closed": answer.closed()}))
}

fn produced(answer: &Answer) -> Found {
    let mut producer = Producer::new(ProducerConfig::default(), 1);
    producer.push(b"x", 1, ZERO);
    producer.flush();
    let ProducerWant::Send(attempt) = producer.poll(ZERO) else { panic!("nothing is sent") };
    assert_eq!((attempt.epoch, attempt.seq, &attempt.body[..]), (0, 0, &b"x"[..]));
    producer.handle_answer(attempt.ticket, answer, ZERO);
    match producer.poll(ZERO) {
        ProducerWant::Event(Event::Acknowledged(batch)) => {
            assert!(producer.is_idle() && producer.poll(ZERO) == ProducerWant::Idle);
            Ok(json!({"offset": batch.offset, "duplicate": batch.duplicate}))
        }
        ProducerWant::Stop(stop) => Err(match stop.refused {
            Refused::Fenced { epoch } => ("Fenced", format!("epoch {epoch}")),
            Refused::Gap { expected, .. } => ("Gap", format!("expected {expected}")),
            Refused::UsedBefore { .. } => ("UsedBefore", String::new()),
            Refused::TooLarge { bytes, .. } => ("TooLarge", format!("{bytes} bytes")),
            Refused::Refusal { refusal, offset, .. } => {
                (kind_of(refusal).0, offset.map_or(String::new(), |offset| offset.to_string()))
            }
            other => panic!("{other:?}"),
        }),
        other => panic!("{other:?}"),
    }
}

fn read(answer: &Answer, body: &[u8], size: usize, mode: LiveMode, json: Option<bool>) -> Found {
    let mut reader = Reader::new(ReaderConfig::default().mode(mode), Checkpoint::at(Offset::START), 1);
    if let Some(json) = json {
        reader = reader.known(json);
    }
    assert!(matches!(reader.poll(ZERO), ReaderWant::Ask(_)));
    reader.handle_answer(answer, ZERO);
    let (mut data, mut offset) = (Vec::new(), None);
    let mut chunks = body.chunks(size.max(1));
    let mut ended = false;
    for _ in 0..10_000 {
        match reader.poll(ZERO) {
            ReaderWant::Piece(piece) => {
                match piece.content {
                    Content::Bytes(bytes) => data.extend_from_slice(&bytes),
                    Content::Messages(messages) => {
                        messages.iter().for_each(|message| data.extend([&message[..], b"|"].concat()));
                    }
                }
                offset = Some(piece.checkpoint.offset);
            }
            ReaderWant::Bytes(_) => match chunks.next() {
                Some(chunk) => reader.handle_bytes(Bytes::copy_from_slice(chunk), ZERO),
                None if !ended => {
                    ended = true;
                    reader.handle_end(None, ZERO);
                }
                None => panic!("more than there is"),
            },
            ReaderWant::Stop(ReaderStop::End(end)) => {
                let text = String::from_utf8(data.clone()).ok();
                let data = STANDARD.encode(data);
                return Ok(
                    json!({"data": text, "base64": data, "offset": offset, "closed": end == End::Closed}),
                );
            }
            ReaderWant::Stop(ReaderStop::Refused { refusal, offset, .. }) => {
                return Err((kind_of(refusal).0, format!("offset {offset}")));
            }
            other => panic!("{other:?}"),
        }
    }
    panic!("no end")
}

fn found(to: &str, answer: &Answer, body: &[u8], size: usize) -> Found {
    let text = match to {
        "append" | "append-seq" | "close" => return asked(answer, true),
        "create" | "head" | "delete" | "get" => return asked(answer, false),
        "produce" => return produced(answer),
        "read" => return read(answer, body, size, LiveMode::Off, None),
        "poll" => return read(answer, body, size, LiveMode::LongPoll, None),
        other => other.strip_prefix("events-").unwrap(),
    };
    read(answer, body, size, LiveMode::Sse, Some(text == "json"))
}

/// The kind of an error without the client's knowledge of its request.
fn without_client(kind: &str) -> &str {
    match kind {
        "Exists" | "ContentType" | "SequenceConflict" => "Conflict",
        other => other,
    }
}

#[test]
fn every_answer_means_the_same_to_the_machines() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/durable/exchanges/answers.jsonl");
    let mut count = 0;
    for line in std::fs::read_to_string(file).unwrap().lines() {
        let exchange: Value = serde_json::from_str(line).unwrap();
        let (name, to) = (exchange["name"].as_str().unwrap(), exchange["to"].as_str().unwrap());
        let (answer, body) = parsed(exchange["said"].as_str().unwrap());
        let means = exchange["means"].as_object().unwrap();
        for size in [body.len(), 1, 7] {
            match (found(to, &answer, &body, size), means.get("kind")) {
                (Ok(found), None) => {
                    for (wanted, value) in means {
                        assert_eq!(&found[wanted], value, "{name}: {wanted}");
                    }
                }
                (Err((kind, says)), Some(wanted)) => {
                    assert_eq!(kind, without_client(wanted.as_str().unwrap()), "{name}");
                    let words = means.get("says").map_or("", |says| says.as_str().unwrap());
                    assert!(says.is_empty() || kind == "Refused" || says.contains(words), "{name}: {says}");
                }
                (other, _) => panic!("{name}: {other:?}"),
            }
        }
        count += 1;
    }
    assert!(count > 45, "{count}");
}
