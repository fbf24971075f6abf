//! Implements the line protocol of the public client suite of Durable Streams with `relay-durable`: a JSON command per
//! line on standard input, and a JSON line for each on standard output. Ends after `shutdown`, or at the end of its
//! input.

mod adapter;
mod dynamic;
mod failure;
mod reading;

use std::io::{BufRead as _, Write as _};

use serde_json::{Value, json};

use crate::adapter::Adapter;
use crate::failure::Failure;

fn main() -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let mut adapter = Adapter::default();
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        if line.trim().is_empty() {
            continue;
        }
        let (answer, last) = match serde_json::from_str::<Value>(&line) {
            Err(error) => (Failure::invalid(error.to_string()).line(&Value::Null), false),
            Ok(command) => {
                let kind = command["type"].as_str().unwrap_or_default().to_owned();
                let answer = runtime.block_on(adapter.run(&kind, &command)).map_or_else(
                    |failure| failure.line(&command["type"]),
                    |mut answer| {
                        answer["type"] = json!(kind);
                        answer["success"] = json!(true);
                        answer
                    },
                );
                (answer, kind == "shutdown")
            }
        };
        let mut out = std::io::stdout().lock();
        writeln!(out, "{answer}")?;
        out.flush()?;
        if last {
            break;
        }
    }
    Ok(())
}
