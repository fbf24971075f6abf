//! `cargo xtask conformance sse`: streams and the frames that a decoder must find, however they are cut.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use relay_proto::sse::Limits;
use serde_json::Value;

use crate::workspace::root;

#[path = "../../crates/relay-proto/tests/it/sse_cases.rs"]
mod sse_cases;

use sse_cases::Case;

/// Runs the vectors of the named files, or those of `fixtures/sse`.
pub(crate) fn run(arguments: &[String]) -> Result<()> {
    let mut files = Vec::new();
    let mut arguments = arguments.iter();
    while let Some(argument) = arguments.next() {
        match argument.strip_prefix("--vectors") {
            Some("") => files.push(arguments.next().context("--vectors needs a file")?.into()),
            Some(file) if file.starts_with('=') => files.push(file[1..].into()),
            _ => bail!("unknown argument {argument}"),
        }
    }
    if files.is_empty() {
        for entry in fs::read_dir(root().join("fixtures/sse"))? {
            files.push(entry?.path());
        }
        files.sort();
    }
    let (mut held, mut decoded, mut total) = (0, 0, 0);
    for file in &files {
        for case in read(file).with_context(|| format!("cannot read vectors from {}", file.display()))? {
            total += 1;
            match case.check() {
                Ok(ways) => {
                    held += 1;
                    decoded += ways;
                }
                Err(difference) => println!("FAILED {difference}"),
            }
        }
    }
    println!("{decoded} decodings: whole, in chunks of 1, 2 and 3 bytes, and cut in two at every place");
    println!("{held} of {total} vectors hold");
    ensure!(total > 0, "there are no vectors");
    ensure!(held == total, "{} vectors do not hold", total - held);
    Ok(())
}

fn read(file: &Path) -> Result<Vec<Case>> {
    let text = fs::read_to_string(file)?;
    // A case file begins with a word or a comment, and a file of vectors with a list.
    if !text.trim_start().starts_with('[') {
        return sse_cases::parse(&text).map_err(anyhow::Error::msg);
    }
    let vectors: Vec<Value> = serde_json::from_str(&text)?;
    vectors
        .iter()
        .enumerate()
        .map(|(index, vector)| {
            let name = vector["id"].as_str().map_or_else(|| format!("vector {index}"), str::to_owned);
            case(&name, vector).with_context(|| name)
        })
        .collect()
}

fn case(name: &str, vector: &Value) -> Result<Case> {
    let mut frames = Vec::new();
    for event in vector["events"].as_array().context("`events` is not a list")? {
        let [Some(kind), Some(data), Some(id)] = [0, 1, 2].map(|index| event[index].as_str()) else {
            bail!("an event is not [type, data, last event id]");
        };
        frames.push(format!("event {kind:?} {data:?} {id:?}"));
    }
    // Their place among the events is not given, so they are compared separately.
    let retries = match &vector["retry"] {
        Value::Null => None,
        Value::Array(list) => Some(list.iter().map(|millis| format!("retry {millis}")).collect()),
        other => Some(vec![format!("retry {other}")]),
    };
    Ok(Case {
        name: name.to_owned(),
        input: unhex(vector["hex"].as_str().context("`hex` is not a string")?)?,
        limits: Limits::default(),
        frames,
        by_kind: true,
        retries,
        last_event_id: vector["final_id"].as_str().map(str::to_owned),
    })
}

fn unhex(text: &str) -> Result<Vec<u8>> {
    ensure!(text.len().is_multiple_of(2) && text.is_ascii(), "`hex` is not pairs of digits");
    (0..text.len())
        .step_by(2)
        .map(|at| {
            u8::from_str_radix(&text[at..at + 2], 16).context("`hex` has other than hexadecimal digits")
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const VECTORS: &str = r#"[
        {"id": "good", "hex": "72657472793a350a646174613a610a0a", "events": [["message", "a", ""]], "retry": [5], "final_id": ""},
        {"id": "unsaid", "hex": "72657472793a350a646174613a610a0a", "events": [["message", "a", ""]]},
        {"id": "event", "hex": "646174613a610a0a", "events": [["message", "b", ""]]},
        {"id": "retry", "hex": "72657472793a350a", "events": [], "retry": [6]},
        {"id": "no retry", "hex": "72657472793a350a", "events": [], "retry": []},
        {"id": "last id", "hex": "69643a310a0a", "events": [], "final_id": "2"}
    ]"#;

    fn write(text: &str) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), text).unwrap();
        file
    }

    #[test]
    fn each_part_of_a_vector_counts() {
        let cases = read(write(VECTORS).path()).unwrap();
        let held: Vec<&str> =
            cases.iter().filter(|case| case.check().is_ok()).map(|case| case.name.as_str()).collect();
        assert_eq!(held, ["good", "unsaid"]);
    }

    #[test]
    fn a_vector_that_does_not_hold_is_an_error() {
        let file = write(VECTORS);
        let error = run(&["--vectors".into(), file.path().display().to_string()]).unwrap_err();
        assert_eq!(error.to_string(), "4 vectors do not hold");
        assert!(run(&[format!("--vectors={}", write("[]").path().display())]).is_err());
    }

    #[test]
    fn our_own_vectors_hold() {
        run(&[]).unwrap();
    }

    #[test]
    fn nonsense_is_refused() {
        for text in [
            "[1]",
            r#"[{"hex": "0", "events": []}]"#,
            r#"[{"hex": "zz", "events": []}]"#,
            r#"[{"hex": ""}]"#,
            "what",
        ] {
            assert!(read(write(text).path()).is_err(), "{text}");
        }
    }
}
