//! The commands of the public client suite.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use base64::Engine as _;
use bytes::Bytes;
use futures_util::StreamExt as _;
use relay_durable::{
    AppendOptions, Checkpoint, Client, CreateOptions, DurableStream, Expiry, IdempotentProducer, LiveMode,
    Offset, ProducerConfig, ProducerOptions, ReaderConfig, is_json,
};
use serde_json::{Value, json};

use crate::dynamic::Dynamic;
use crate::failure::Failure;
use crate::reading;

/// What is kept between commands.
#[derive(Default)]
pub(crate) struct Adapter {
    url: String,
    timeout: Duration,
    headers: Dynamic,
    params: Dynamic,
    /// Content types by path.
    types: HashMap<String, String>,
    producers: HashMap<(String, String, u64), IdempotentProducer>,
}

/// The largest number that the suite's language can represent.
const MAX_NUMBER: u64 = (1 << 53) - 1;

fn text<'c>(command: &'c Value, field: &str) -> Result<&'c str, Failure> {
    command[field].as_str().ok_or_else(|| Failure::invalid(format!("{field} is missing")))
}

fn data(command: &Value) -> Result<Bytes, Failure> {
    let data = command["data"].as_str().unwrap_or_default();
    if command["binary"].as_bool().unwrap_or(false) {
        let bytes = base64::engine::general_purpose::STANDARD.decode(data);
        return bytes.map(Into::into).map_err(|error| Failure::invalid(format!("data: {error}")));
    }
    Ok(Bytes::copy_from_slice(data.as_bytes()))
}

impl Adapter {
    pub(crate) async fn run(&mut self, kind: &str, command: &Value) -> Result<Value, Failure> {
        let mut answer = match kind {
            "init" => self.init(command)?,
            "create" => self.create(command).await?,
            "connect" => self.connect(command).await?,
            "append" => self.append(command).await?,
            "read" => reading::read(&self.stream(command)?, command).await?,
            "head" => self.head(command).await?,
            "delete" => {
                self.stream(command)?.delete().await?;
                self.types.remove(text(command, "path")?);
                json!({"status": 200})
            }
            "close" => self.close(command).await?,
            "idempotent-append" => self.produce(command).await?,
            "idempotent-append-batch" => self.produce_batch(command).await?,
            "idempotent-close" => self.produce_close(command).await?,
            "idempotent-detach" => {
                if let Some(producer) = self.producers.remove(&key(command)?) {
                    producer.detach().await?;
                }
                json!({"status": 200})
            }
            "set-dynamic-header" => set(&self.headers, command)?,
            "set-dynamic-param" => set(&self.params, command)?,
            "clear-dynamic" => {
                self.headers.clear();
                self.params.clear();
                json!({})
            }
            "validate" => validate(&command["target"])?,
            "benchmark" => self.benchmark(command).await?,
            "shutdown" => json!({}),
            other => return Err(Failure::unsupported(other)),
        };
        if matches!(kind, "append" | "read") {
            for (field, dynamic) in [("headersSent", &self.headers), ("paramsSent", &self.params)] {
                if let Some(sent) = dynamic.sent() {
                    answer[field] = sent;
                }
            }
        }
        Ok(answer)
    }

    fn init(&mut self, command: &Value) -> Result<Value, Failure> {
        self.url = text(command, "serverUrl")?.to_owned();
        self.timeout = Duration::from_millis(command["timeoutMs"].as_u64().unwrap_or(30_000));
        self.types.clear();
        self.producers.clear();
        Ok(json!({
            "clientName": "relay-durable", "clientVersion": env!("CARGO_PKG_VERSION"),
            "features": {
                "batching": true, "sse": true, "longPoll": true, "auto": true, "streaming": true, "dynamicHeaders": true,
                "retryOptions": true, "batchItems": true, "strictZeroValidation": true,
            },
        }))
    }

    fn client(&self, command: &Value) -> Result<Client, Failure> {
        let (headers, params) = (self.headers.clone(), self.params.clone());
        let mut builder = Client::builder(&self.url)
            .timeout(self.timeout)
            .retry_for(Some(Duration::from_secs(8)))
            .retry_cap(Duration::from_secs(1))
            .dynamic_headers(move || {
                let made = headers.make();
                Box::pin(async move {
                    let mut map = http::HeaderMap::new();
                    for (name, value) in made {
                        if let (Ok(name), Ok(value)) = (
                            http::HeaderName::from_bytes(name.as_bytes()),
                            http::HeaderValue::from_str(&value),
                        ) {
                            map.insert(name, value);
                        }
                    }
                    Ok(map)
                })
            })
            .dynamic_params(move || {
                let made = params.make();
                Box::pin(async move { Ok(made) })
            });
        for (name, value) in command["headers"].as_object().into_iter().flatten() {
            builder = builder.header(name, value.as_str().unwrap_or_default());
        }
        Ok(builder.build()?)
    }

    fn stream(&self, command: &Value) -> Result<DurableStream, Failure> {
        let stream = self.client(command)?.stream(text(command, "path")?)?;
        Ok(match self.known_type(command) {
            Some(kind) => stream.with_content_type(&kind),
            None => stream,
        })
    }

    /// The type with which a stream was created; if it is not known, the server is asked.
    fn known_type(&self, command: &Value) -> Option<String> {
        let given = command["contentType"].as_str().map(ToOwned::to_owned);
        given.or_else(|| self.types.get(command["path"].as_str().unwrap_or_default()).cloned())
    }

    async fn create(&mut self, command: &Value) -> Result<Value, Failure> {
        let stream = self.stream(command)?;
        let kind = command["contentType"].as_str().unwrap_or("application/octet-stream").to_owned();
        let ttl = command["ttlSeconds"].as_u64().map(|ttl| Expiry::Ttl(Duration::from_secs(ttl)));
        let expiry = ttl.or_else(|| command["expiresAt"].as_str().map(|at| Expiry::At(at.to_owned())));
        let options = CreateOptions::new()
            .content_type(kind.clone())
            .expiry(expiry)
            .closed(command["closed"].as_bool().unwrap_or(false))
            .data(data(command)?)
            .raw(true);
        let created = stream.create(options).await?;
        self.types.insert(text(command, "path")?.to_owned(), kind);
        Ok(json!({"status": created.status, "offset": created.offset}))
    }

    async fn connect(&mut self, command: &Value) -> Result<Value, Failure> {
        let head = self.stream(command)?.head().await?;
        if let Some(kind) = head.content_type {
            self.types.insert(text(command, "path")?.to_owned(), kind);
        }
        Ok(json!({"status": 200, "offset": head.offset}))
    }

    async fn append(&mut self, command: &Value) -> Result<Value, Failure> {
        let seq = match &command["seq"] {
            Value::Null => None,
            // Sequences are compared bytewise, so numbers are padded to one width.
            Value::Number(number) => match number.as_u64().filter(|number| *number <= MAX_NUMBER) {
                Some(number) => Some(format!("{number:016}")),
                None => return Err(Failure::invalid("seq: 0 to 2^53-1")),
            },
            other => Some(other.as_str().unwrap_or_default().to_owned()),
        };
        let data = data(command)?;
        if data.is_empty() {
            // The library refuses this without a request, and the suite wants the status that a server would give.
            return Err(Failure::invalid("the message is empty").with_status(400));
        }
        let options = AppendOptions::new().content_type(self.known_type(command)).seq(seq).resend(true);
        let done = self.stream(command)?.append(data, options).await?;
        Ok(json!({"status": 200, "offset": done.offset}))
    }

    async fn head(&self, command: &Value) -> Result<Value, Failure> {
        let head = self.stream(command)?.head().await?;
        let mut answer = json!({
            "status": 200, "offset": head.offset, "contentType": head.content_type, "streamClosed": head.closed,
        });
        if let Some(ttl) = head.ttl_seconds {
            answer["ttlSeconds"] = json!(ttl);
        }
        if let Some(at) = head.expires_at {
            answer["expiresAt"] = json!(at);
        }
        Ok(answer)
    }

    async fn close(&self, command: &Value) -> Result<Value, Failure> {
        let options = AppendOptions::new().content_type(self.known_type(command)).close(true).resend(true);
        let done = self.stream(command)?.append(data(command)?, options).await?;
        Ok(json!({"status": 200, "finalOffset": done.offset}))
    }

    async fn start(&self, command: &Value, config: ProducerConfig) -> Result<IdempotentProducer, Failure> {
        let (_, id, epoch) = key(command)?;
        let config = config
            .epoch(epoch)
            // Here, another message with this number is a valid result.
            .accept_duplicates(true)
            .auto_claim(command["autoClaim"].as_bool().unwrap_or(false))
            .retry_for(Some(Duration::from_secs(8)))
            .retry_cap(Duration::from_secs(1));
        let mut options = ProducerOptions::new(id).config(config);
        if let Some(kind) = self.known_type(command) {
            options = options.content_type(kind);
        }
        Ok(IdempotentProducer::start(&self.stream(command)?, options).await?)
    }

    /// The producer with this name, which is made on its first use.
    async fn producer(&mut self, command: &Value) -> Result<&IdempotentProducer, Failure> {
        let key = key(command)?;
        if !self.producers.contains_key(&key) {
            let config = ProducerConfig::default().linger(Duration::ZERO);
            let producer = self.start(command, config).await?;
            self.producers.insert(key.clone(), producer);
        }
        self.producers.get(&key).ok_or_else(|| Failure::invalid("no producer"))
    }

    async fn produce(&mut self, command: &Value) -> Result<Value, Failure> {
        let data = data(command)?;
        match self.producer(command).await?.append(&data).await {
            Ok(done) => Ok(json!({
                "status": 200, "offset": done.offset, "duplicate": done.duplicate, "producerSeq": done.seq,
            })),
            Err(error) => {
                self.producers.remove(&key(command)?);
                Err(error.into())
            }
        }
    }

    async fn produce_batch(&mut self, command: &Value) -> Result<Value, Failure> {
        let in_flight = command["maxInFlight"].as_u64().unwrap_or(1).clamp(1, 32);
        let mut config = ProducerConfig::default().in_flight(usize::try_from(in_flight).unwrap_or(1));
        if in_flight > 1 {
            config = config.max_batch_items(1).linger(Duration::ZERO);
        }
        let producer = self.start(command, config).await?;
        for item in command["items"].as_array().into_iter().flatten() {
            let message = match item.get("data").unwrap_or(item) {
                Value::String(text) => text.clone(),
                other => other.to_string(),
            };
            let _receipt = producer.append_wait(message).await?;
        }
        producer.flush().await?;
        Ok(json!({"status": 200}))
    }

    async fn produce_close(&mut self, command: &Value) -> Result<Value, Failure> {
        let data = data(command)?;
        let producer = self.producer(command).await?;
        if !data.is_empty() {
            producer.append(&data).await?;
        }
        match producer.close().await {
            Ok(offset) => Ok(json!({"status": 200, "finalOffset": offset})),
            Err(error) => {
                self.producers.remove(&key(command)?);
                Err(error.into())
            }
        }
    }

    async fn benchmark(&mut self, command: &Value) -> Result<Value, Failure> {
        let operation = &command["operation"];
        let stream = self.stream(operation)?;
        let size = usize::try_from(operation["size"].as_u64().unwrap_or(100)).unwrap_or(100);
        let count = operation["count"].as_u64().unwrap_or(1);
        let kind = operation["contentType"].as_str().unwrap_or("application/octet-stream").to_owned();
        let message = if is_json(&kind) { format!("\"{}\"", "x".repeat(size)) } else { "x".repeat(size) };
        let began = Instant::now();
        let (mut bytes, mut messages) = (0_u64, 0_u64);
        match text(operation, "op")? {
            "create" => {
                stream.create(CreateOptions::new().content_type(kind)).await?;
            }
            "append" => {
                stream.append(message, AppendOptions::new().content_type(kind)).await?;
                (bytes, messages) = (size as u64, 1);
            }
            "throughput_append" => {
                let options = ProducerOptions::new(format!("bench-{began:?}")).content_type(kind);
                let producer = IdempotentProducer::start(&stream, options).await?;
                for _ in 0..count {
                    let _receipt = producer.append_wait(&message).await?;
                }
                producer.flush().await?;
                (bytes, messages) = (size as u64 * count, count);
            }
            "read" | "throughput_read" => {
                let config = ReaderConfig::default().mode(LiveMode::Off);
                let mut reads = stream.read(config, Checkpoint::at(Offset::START));
                while let Some(event) = reads.next().await {
                    if let relay_durable::ReadEvent::Piece(piece) = event? {
                        messages += piece.content.units();
                        bytes += match &piece.content {
                            relay_durable::Content::Messages(all) => {
                                all.iter().map(|message| message.len() as u64).sum()
                            }
                            relay_durable::Content::Bytes(bytes) => bytes.len() as u64,
                        };
                    }
                }
            }
            "roundtrip" => {
                stream.create(CreateOptions::new().content_type(kind.clone())).await?;
                stream.append(message, AppendOptions::new().content_type(kind)).await?;
                let config = ReaderConfig::default().mode(LiveMode::Off);
                let mut reads = stream.read(config, Checkpoint::at(Offset::START));
                while let Some(event) = reads.next().await {
                    event?;
                }
                (bytes, messages) = (size as u64, 1);
            }
            other => return Err(Failure::unsupported(other)),
        }
        Ok(json!({
            "iterationId": command["iterationId"], "durationNs": began.elapsed().as_nanos().to_string(),
            "metrics": {"bytesTransferred": bytes, "messagesProcessed": messages},
        }))
    }
}

fn key(command: &Value) -> Result<(String, String, u64), Failure> {
    let epoch = command["epoch"].as_u64().unwrap_or(0);
    Ok((text(command, "path")?.to_owned(), text(command, "producerId")?.to_owned(), epoch))
}

fn set(dynamic: &Dynamic, command: &Value) -> Result<Value, Failure> {
    let (name, kind) = (text(command, "name")?, text(command, "valueType")?);
    if dynamic.set(name, kind, &command["initialValue"]) {
        return Ok(json!({}));
    }
    Err(Failure::invalid(format!("valueType: {kind}")))
}

/// Checks options without using them.
fn validate(target: &Value) -> Result<Value, Failure> {
    let least = |field: &str, least: f64| match target[field].as_f64() {
        Some(value) if value < least => {
            Err(Failure::invalid(format!("{field}: at least {least}, not {value}")))
        }
        _ => Ok(()),
    };
    match text(target, "target")? {
        "retry-options" => {
            least("maxRetries", 0.0)?;
            least("initialDelayMs", 1.0)?;
            least("maxDelayMs", target["initialDelayMs"].as_f64().unwrap_or(1.0))?;
            least("multiplier", 1.0)?;
        }
        "idempotent-producer" => {
            least("epoch", 0.0)?;
            least("maxBatchBytes", 1.0)?;
            least("maxBatchItems", 1.0)?;
        }
        other => return Err(Failure::invalid(format!("target: {other}"))),
    }
    Ok(json!({}))
}
