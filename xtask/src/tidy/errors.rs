//! The `Display` of an error never repeats its `source()`, because `relay_proto::error::chain` prints both.

use std::path::Path;

use anyhow::{Context, Result};

use super::{Finding, files};

/// Looks at every Rust file below `root`.
pub(super) fn check(root: &Path) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    for path in files(root, "rs")? {
        let text = std::fs::read_to_string(root.join(&path))
            .with_context(|| format!("cannot read {}", path.display()))?;
        check_derived(&path, &text, &mut findings);
        check_written(&path, &text, &mut findings);
    }
    Ok(findings)
}

const WHAT: &str = "an error that repeats its source; `chain` prints both";

/// `#[error("..")]` of thiserror: the text must not show the fields that are a source.
fn check_derived(path: &Path, text: &str, findings: &mut Vec<Finding>) {
    let lines: Vec<&str> = text.lines().collect();
    for (at, line) in lines.iter().enumerate() {
        if !line.trim_start().starts_with("#[error(") {
            continue;
        }
        let rest = &lines[at..];
        let length = rest.iter().position(|line| line.trim_end().ends_with(")]")).map_or(1, |end| end + 1);
        let message = rest[..length].join(" ");
        let sources = sources(&rest[length..]);
        if sources.iter().any(|source| shows(&message, source)) {
            findings.push(Finding::new(path, at + 1, WHAT));
        }
    }
}

/// The fields, by name or number, that are a source of the variant or struct at the beginning of these lines.
fn sources(lines: &[&str]) -> Vec<String> {
    // Up to the beginning of the next one, or to the end of this one.
    let ends = |line: &&&str| line.trim_start().starts_with("#[error(") || **line == "}";
    let body: Vec<&str> = lines.iter().take_while(|line| !ends(line)).map(|line| line.trim()).collect();
    let body = body.iter().filter(|line| !line.starts_with("//")).copied().collect::<Vec<_>>().join(" ");
    let mut found = Vec::new();
    for mark in ["#[source]", "#[from]"] {
        for (at, _) in body.match_indices(mark) {
            let field = body[at + mark.len()..].trim_start().trim_start_matches("pub ");
            let name: String = field.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            let is_named = field[name.len()..].starts_with(':') && !field[name.len()..].starts_with("::");
            let before = body[..at].rfind('(').map_or("", |open| &body[open..at]);
            found.push(if is_named { name } else { before.matches(',').count().to_string() });
        }
    }
    if body.contains(" source:") || body.starts_with("source:") || body.contains("{ source:") {
        found.push("source".to_owned());
    }
    found
}

/// Whether a message has a field as an argument, inside the text or after it.
fn shows(message: &str, field: &str) -> bool {
    let inside = [format!("{{{field}}}"), format!("{{{field}:")].iter().any(|shown| message.contains(shown));
    let behind = message.rsplit_once('"').map_or("", |(_, behind)| behind);
    let words = behind.split(|c: char| !(c.is_alphanumeric() || c == '_' || c == '.'));
    inside || words.into_iter().any(|word| word.trim_start_matches('.') == field)
}

/// A `Display` that is written by hand, of a type with a source: it must not print the source.
fn check_written(path: &Path, text: &str, findings: &mut Vec<Finding>) {
    let lines: Vec<&str> = text.lines().collect();
    for (at, line) in lines.iter().enumerate() {
        let Some((_, name)) = line.split_once("Display for ").filter(|_| line.starts_with("impl")) else {
            continue;
        };
        let name = name.trim_end_matches(['{', ' ']);
        if !text.contains(&format!("Error for {name}")) {
            continue;
        }
        for (line, number) in lines[at..].iter().zip(at + 1..) {
            if *line == "}" {
                break;
            }
            let code = line.split("//").next().unwrap_or_default();
            if ["{source}", "self.source", ".source()"].iter().any(|shown| code.contains(shown)) {
                findings.push(Finding::new(path, number, WHAT));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str) -> Vec<usize> {
        let mut findings = Vec::new();
        check_derived(Path::new("x.rs"), text, &mut findings);
        check_written(Path::new("x.rs"), text, &mut findings);
        findings.iter().map(|finding| finding.line).collect()
    }

    #[test]
    fn errors_that_repeat_their_source_are_found() {
        for text in [
            "#[error(\"{source}\")]\nA { source: io::Error },\n",
            "#[error(\"{path}: {source}\")]\nA {\n    /// Why.\n    source: io::Error,\n},\n",
            "#[error(\"a: {0}\")]\nA(#[from] io::Error),\n",
            "#[error(\"a: {why:?}\")]\nA { #[source] why: io::Error },\n",
            "#[error(\"a: {1}\")]\nA(u8, #[source] io::Error),\n",
            "#[error(\"a: {}\", source)]\nA { source: io::Error },\n",
            "#[error(\"a: {}\", .0)]\nA(#[from] io::Error),\n",
            "#[error(\n    \"a: {source}\",\n)]\nA { source: io::Error },\n",
        ] {
            assert_eq!(found(text), [1], "{text}");
        }
        let written =
            "impl fmt::Display for A {\n    fn fmt() {\n        write!(f, \"{}\", self.source)\n    }\n}\n";
        assert_eq!(found(&format!("{written}impl Error for A {{}}\n")), [3]);
        assert_eq!(found(written), [0; 0], "it is no error");
    }

    #[test]
    fn errors_that_say_their_own_part_are_fine() {
        for text in [
            "#[error(\"cannot read {}\", path.display())]\nA { path: PathBuf, source: io::Error },\n",
            "#[error(transparent)]\nA(#[from] io::Error),\n",
            "#[error(\"{0}\")]\nA(u8, #[source] io::Error),\n#[error(\"{source}\")]\nB { source_of_water: u8 },\n",
            "#[error(\"{0}\")]\nA(String),\n#[error(\"b\")]\nB(#[from] io::Error),\n",
            "#[error(\"a\")]\npub struct A {\n    source: JsonError,\n}\n\nimpl A {\n    fn x() { format!(\"{source}\") }\n}\n",
        ] {
            assert_eq!(found(text), [0; 0], "{text}");
        }
    }
}
