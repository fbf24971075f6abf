//! The cases of `fixtures/durable/cases`, played through the adapter against a server with a hook for faults.
//!
//! Strict: unexpected errors fail, and expected errors and statuses must come.

use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Map, Value, json};

use super::adapter::Adapter;
use crate::workspace;

/// Reads all cases, in the order of their files' names.
pub(super) fn load() -> Result<Vec<Value>> {
    let folder = workspace::root().join("fixtures/durable/cases");
    let mut files: Vec<_> = std::fs::read_dir(&folder)
        .with_context(|| format!("cannot read {}", folder.display()))?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<_>>()?;
    files.sort();
    let mut cases = Vec::new();
    for file in files.iter().filter(|file| file.extension().is_some_and(|end| end == "jsonl")) {
        for line in std::fs::read_to_string(file)?.lines() {
            cases.push(serde_json::from_str(line).with_context(|| format!("{}: {line}", file.display()))?);
        }
    }
    Ok(cases)
}

/// Plays all cases, prints those that fail, and fails if one did.
pub(super) fn play_all(cases: &[Value], program: &Path, url: &str) -> Result<()> {
    let mut failed = Vec::new();
    let mut adapter = Adapter::start(program, url)?;
    for case in cases {
        let name = case["case"].as_str().context("a case without a name")?;
        let mut player = Player::new(adapter, url, name);
        let played = player.play(case);
        adapter = player.adapter;
        if let Err(error) = played {
            println!("   {name}: {error:#}");
            failed.push(name);
            // The adapter may be busy with something.
            adapter = Adapter::start(program, url)?;
        }
        adapter.ask(&json!({"type": "clear-dynamic"}))?;
    }
    adapter.shut_down()?;
    println!("   {} cases passed, {} failed", cases.len() - failed.len(), failed.len());
    ensure!(failed.is_empty(), "failed: {}", failed.join(", "));
    Ok(())
}

struct Player<'c> {
    adapter: Adapter,
    agent: ureq::Agent,
    url: &'c str,
    name: &'c str,
    /// Streams, offsets and texts by their names in the case.
    names: HashMap<String, String>,
}

impl<'c> Player<'c> {
    fn new(adapter: Adapter, url: &'c str, name: &'c str) -> Self {
        let config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .proxy(None)
            .timeout_global(Some(Duration::from_secs(30)));
        Self { adapter, agent: config.build().into(), url, name, names: HashMap::new() }
    }

    fn play(&mut self, case: &Value) -> Result<()> {
        for (at, step) in case["do"].as_array().context("a case without steps")?.iter().enumerate() {
            let op = step["op"].as_str().context("a step without an op")?;
            self.step(op, step).with_context(|| format!("step {}, {op}", at + 1))?;
        }
        Ok(())
    }

    /// Replaces names by their values.
    fn value(&self, value: &Value) -> Result<Value> {
        Ok(match value {
            Value::String(text) => Value::String(self.text(text)?),
            Value::Array(all) => all.iter().map(|value| self.value(value)).collect::<Result<_>>()?,
            other => other.clone(),
        })
    }

    fn text(&self, text: &str) -> Result<String> {
        match text.strip_prefix('$') {
            Some(name) => {
                self.names.get(name).cloned().with_context(|| format!("nobody said what ${name} is"))
            }
            None => Ok(text.to_owned()),
        }
    }

    fn step(&mut self, op: &str, step: &Value) -> Result<()> {
        match op {
            "create" => self.create(step),
            "connect" => self.command("connect", step, &[]),
            "head" => self.command("head", step, &[]),
            "delete" => self.command("delete", step, &[]),
            "append" => self.command("append", step, &[("text", "data"), ("base64", "data"), ("seq", "seq")]),
            "close" => self.command("close", step, &[("text", "data"), ("type", "contentType")]),
            "produce-close" => self.command("idempotent-close", step, PRODUCING),
            "detach" => self.command("idempotent-detach", step, PRODUCING),
            "read" => self.read(step),
            "join" => {
                let answer = self.adapter.answer()?;
                self.judge(&answer, &step["want"])
            }
            "produce" => self.command("idempotent-append", step, PRODUCING),
            "produce-all" => self.command("idempotent-append-batch", step, PRODUCING),
            "header" => self.command("set-dynamic-header", step, DYNAMIC),
            "parameter" => self.command("set-dynamic-param", step, DYNAMIC),
            "check" => self.command("validate", step, &[("target", "target")]),
            "post" => self.post(step),
            "fault" => self.fault(step),
            "no-faults" => {
                let answer = self.agent.delete(format!("{}/_test/inject-error", self.url)).call()?;
                ensure!(answer.status().is_success(), "the hook answers {}", answer.status());
                Ok(())
            }
            "wait" => {
                std::thread::sleep(Duration::from_millis(step["ms"].as_u64().context("how long?")?));
                Ok(())
            }
            "equal" => {
                let (left, right) = (self.value(&step["left"])?, self.value(&step["right"])?);
                ensure!(left == right, "{left} is not {right}");
                Ok(())
            }
            other => bail!("there is no op {other}"),
        }
    }

    fn create(&mut self, step: &Value) -> Result<()> {
        let stream = step["stream"].as_str().context("a create without a stream")?;
        let mut step = step.clone();
        if !stream.starts_with(['/', '$']) {
            let path = format!("/{}-{}-{stream}", self.name.replace(' ', "-"), std::process::id());
            self.names.insert(stream.to_owned(), path);
            step["stream"] = json!(format!("${stream}"));
        }
        let fields = [("type", "contentType"), ("ttl", "ttlSeconds"), ("text", "data"), ("closed", "closed")];
        self.command("create", &step, &fields)
    }

    fn read(&mut self, step: &Value) -> Result<()> {
        let fields = [
            ("from", "offset"),
            ("live", "live"),
            ("time_ms", "timeoutMs"),
            ("most_chunks", "maxChunks"),
            ("until_up_to_date", "waitForUpToDate"),
        ];
        if step["background"] == true {
            let command = self.to_command("read", step, &fields)?;
            return self.adapter.send(&command);
        }
        self.command("read", step, &fields)
    }

    fn to_command(&self, kind: &str, step: &Value, fields: &[(&str, &str)]) -> Result<Value> {
        let mut command = Map::from_iter([("type".to_owned(), json!(kind))]);
        for (ours, theirs) in [("stream", "path"), ("headers", "headers")].iter().chain(fields) {
            if let Some(value) = step.get(*ours) {
                command.insert((*theirs).to_owned(), self.value(value)?);
            }
        }
        if step.get("base64").is_some() {
            command.insert("binary".to_owned(), json!(true));
        }
        Ok(Value::Object(command))
    }

    fn command(&mut self, kind: &str, step: &Value, fields: &[(&str, &str)]) -> Result<()> {
        let command = self.to_command(kind, step, fields)?;
        let answer = self.adapter.ask(&command)?;
        self.judge(&answer, &step["want"])
    }

    /// Compares an answer of the adapter with the expectation of a case.
    fn judge(&mut self, answer: &Value, want: &Value) -> Result<()> {
        let failed = answer["type"] == "error";
        let may_fail = want.get("error").is_some()
            || want["valid"] == false
            || want["status"].as_u64().is_some_and(|status| status >= 400);
        ensure!(failed == may_fail, "the adapter answers {answer}");
        let chunks = answer["chunks"].as_array().map(Vec::as_slice).unwrap_or_default();
        let data = if failed { String::new() } else { joined(chunks)? };
        let said = answer["message"].as_str().unwrap_or_default();
        for (wanted, value) in want.as_object().into_iter().flatten() {
            let value = self.value(value)?;
            let all = || value.as_array().into_iter().flatten().filter_map(Value::as_str);
            let fine = match wanted.as_str() {
                "text" => value == data.as_str(),
                "has" => all().all(|part| data.contains(part)),
                "says" => all().all(|part| said.contains(part)),
                "up_to_date" => answer["upToDate"] == value,
                "closed" => answer["streamClosed"] == value,
                "duplicate" => answer["duplicate"] == value,
                "least_chunks" => value.as_u64().is_some_and(|least| chunks.len() as u64 >= least),
                "chunks" => value.as_u64() == Some(chunks.len() as u64),
                "status" => answer["status"] == value,
                "error" => answer["errorCode"] == value,
                "type" => answer["contentType"].as_str().is_some_and(|kind| value.as_str() == Some(kind)),
                "has_offset" => answer["offset"].as_str().is_some_and(|offset| !offset.is_empty()),
                "sent_headers" => holds(&answer["headersSent"], &value),
                "sent_parameters" => holds(&answer["paramsSent"], &value),
                "success" | "valid" => answer["success"] == value,
                "keep_offset" => self.keep(&value, answer["offset"].as_str()),
                "keep_text" => self.keep(&value, Some(&data)),
                other => bail!("nobody knows what it is to want {other}"),
            };
            ensure!(fine, "wanted {wanted} {value}, and the adapter answers {answer}");
        }
        Ok(())
    }

    fn keep(&mut self, name: &Value, value: Option<&str>) -> bool {
        let (Some(name), Some(value)) = (name.as_str(), value) else { return false };
        self.names.insert(name.to_owned(), value.to_owned());
        true
    }

    /// Appends without the adapter, which may be busy, or with the headers of a producer.
    fn post(&mut self, step: &Value) -> Result<()> {
        let stream = self.text(step["stream"].as_str().context("a post without a stream")?)?;
        let url = format!("{}{stream}", self.url);
        let head = self.agent.head(&url).call()?;
        let kind = head.headers().get("content-type").and_then(|kind| kind.to_str().ok());
        let mut request =
            self.agent.post(&url).header("content-type", kind.unwrap_or("application/octet-stream"));
        for (field, header) in
            [("producer", "producer-id"), ("epoch", "producer-epoch"), ("number", "producer-seq")]
        {
            match &step[field] {
                Value::Null => {}
                Value::String(text) => request = request.header(header, text),
                other => request = request.header(header, other.to_string()),
            }
        }
        let answer = request.send(step["text"].as_str().unwrap_or_default())?;
        let status = answer.status().as_u16();
        let Some(want) = step["want"].as_object() else {
            ensure!(answer.status().is_success(), "the server answers {status}");
            return Ok(());
        };
        let header = |name| answer.headers().get(name).and_then(|value| value.to_str().ok()?.parse().ok());
        for (wanted, value) in want {
            let found = match wanted.as_str() {
                "status" => Some(u64::from(status)),
                "epoch" => header("producer-epoch"),
                "expected" => header("producer-expected-seq"),
                "received" => header("producer-received-seq"),
                "duplicate" => Some(u64::from(status == 204)),
                other => bail!("nobody knows what it is to want {other}"),
            };
            let value = value.as_u64().or(value.as_bool().map(u64::from));
            ensure!(
                found == value,
                "wanted {wanted} {value:?}, and the server answers {status} with {found:?}"
            );
        }
        Ok(())
    }

    /// Sets up a fault at the server for the next requests for the stream.
    fn fault(&mut self, step: &Value) -> Result<()> {
        let mut order = Map::new();
        for (ours, theirs) in [
            ("stream", "path"),
            ("status", "status"),
            ("count", "count"),
            ("method", "method"),
            ("delay_ms", "delayMs"),
            ("jitter_ms", "jitterMs"),
            ("drop", "dropConnection"),
            ("keep_bytes", "truncateBodyBytes"),
            ("corrupt", "corruptBody"),
            ("event", "injectSseEvent"),
            ("retry_after", "retryAfter"),
        ] {
            if let Some(value) = step.get(ours) {
                order.insert(theirs.to_owned(), self.value(value)?);
            }
        }
        let request = self.agent.post(format!("{}/_test/inject-error", self.url));
        let answer =
            request.header("content-type", "application/json").send(Value::Object(order).to_string())?;
        ensure!(answer.status().is_success(), "the hook answers {}", answer.status());
        Ok(())
    }
}

const PRODUCING: &[(&str, &str)] = &[
    ("text", "data"),
    ("items", "items"),
    ("producer", "producerId"),
    ("epoch", "epoch"),
    ("claim", "autoClaim"),
    ("in_flight", "maxInFlight"),
];

const DYNAMIC: &[(&str, &str)] = &[("name", "name"), ("value", "valueType"), ("initial", "initialValue")];

/// The data of all chunks; those that are not text are in base64.
fn joined(chunks: &[Value]) -> Result<String> {
    chunks.iter().map(|chunk| chunk["data"].as_str().context("a chunk without data")).collect()
}

/// Whether an object contains everything of another one. A wanted value `null` matches any value.
fn holds(answer: &Value, wanted: &Value) -> bool {
    let fits = |(name, value): (&String, &Value)| match answer.get(name) {
        Some(found) => value.is_null() || found == value,
        None => false,
    };
    wanted.as_object().is_some_and(|wanted| wanted.iter().all(fits))
}
