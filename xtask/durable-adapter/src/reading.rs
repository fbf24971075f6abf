//! The command `read`.

use std::time::Duration;

use base64::Engine as _;
use futures_util::StreamExt as _;
use relay_durable::{Checkpoint, Content, DurableStream, LiveMode, Offset, ReadEvent, ReaderConfig};
use serde_json::{Value, json};

use crate::failure::Failure;

/// The longest time without success.
const PATIENCE: Duration = Duration::from_secs(8);

/// Reads as the command says: until the end, until there are enough chunks, until it is up to date, or until the time
/// is over.
pub(crate) async fn read(stream: &DurableStream, command: &Value) -> Result<Value, Failure> {
    let mode = match &command["live"] {
        Value::Null | Value::Bool(false) => LiveMode::Off,
        Value::Bool(true) => LiveMode::Auto,
        Value::String(mode) if mode == "auto" => LiveMode::Auto,
        Value::String(mode) if mode == "long-poll" => LiveMode::LongPoll,
        Value::String(mode) if mode == "sse" => LiveMode::Sse,
        other => return Err(Failure::invalid(format!("live: {other}"))),
    };
    let offset = match command["offset"].as_str().filter(|offset| !offset.is_empty()) {
        Some(text) => Offset::new(text).map_err(|error| Failure::invalid(format!("offset: {error}")))?,
        None => Offset::START,
    };
    let most = command["maxChunks"].as_u64().unwrap_or(u64::MAX);
    let wait_up_to_date = command["waitForUpToDate"].as_bool().unwrap_or(false);
    let time = Duration::from_millis(command["timeoutMs"].as_u64().unwrap_or(5000));
    let config =
        ReaderConfig::default().mode(mode).retry_for(Some(PATIENCE)).retry_cap(Duration::from_secs(1));
    let mut reads = stream.read(config, Checkpoint::at(offset));
    let mut chunks = Vec::new();
    let (mut up_to_date, mut closed) = (false, false);
    let deadline = tokio::time::Instant::now() + time;
    let mut out_of_time = false;
    // The reason why the last attempt failed.
    let mut failing: Option<String> = None;
    loop {
        let event = match tokio::time::timeout_at(deadline, reads.next()).await {
            Ok(Some(event)) => event?,
            Ok(None) => break,
            Err(_) => {
                if let Some(cause) = failing {
                    return Err(Failure::lost(stream.url(), &cause));
                }
                // No more data came, which means up to date here.
                (up_to_date, out_of_time) = (true, true);
                break;
            }
        };
        match event {
            ReadEvent::Piece(piece) => {
                failing = None;
                if !piece.content.is_empty() {
                    chunks.push(chunk(&piece.content, &piece.checkpoint.offset));
                }
                up_to_date = piece.up_to_date;
                closed |= piece.closed;
            }
            ReadEvent::End(_) => break,
            ReadEvent::Retry(retry) if !retry.cause.starts_with("malformed") => {
                failing = Some(retry.cause);
                continue;
            }
            // The library tries once more, but the suite wants to know the first error.
            ReadEvent::Retry(retry) => {
                return Err(Failure::parse(stream.url(), &retry.cause));
            }
            _ => continue,
        }
        let enough = chunks.len() as u64 >= most
            || (up_to_date && wait_up_to_date)
            || (up_to_date
                && mode == LiveMode::LongPoll
                && !chunks.is_empty()
                && command["maxChunks"].is_null());
        if enough {
            break;
        }
    }
    let position = reads.position();
    let nothing = chunks.is_empty() && mode == LiveMode::LongPoll && (out_of_time || closed);
    let mut answer = json!({
        "status": if nothing { 204 } else { 200 }, "chunks": chunks, "offset": position.offset, "upToDate": up_to_date,
        "streamClosed": closed,
    });
    if let Some(cursor) = &position.cursor {
        answer["cursor"] = json!(cursor);
    }
    Ok(answer)
}

/// Text as text, other bytes in base64; JSON messages as an array.
fn chunk(content: &Content, offset: &Offset) -> Value {
    let bytes = match content {
        Content::Messages(messages) => [&b"["[..], &messages.join(&b","[..]), b"]"].concat(),
        Content::Bytes(bytes) => bytes.to_vec(),
    };
    match String::from_utf8(bytes) {
        Ok(text) => json!({"data": text, "offset": offset}),
        Err(error) => {
            let packed = base64::engine::general_purpose::STANDARD.encode(error.as_bytes());
            json!({"data": packed, "binary": true, "offset": offset})
        }
    }
}
