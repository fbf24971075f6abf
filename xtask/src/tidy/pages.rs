//! Checks pages: links exist, and the README of each library has the example that its documentation compiles.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context, Result};

use super::{Finding, files};

pub(super) fn check(root: &Path) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    for page in files(root, "md")? {
        let text = read(root, &page)?;
        for (line, link) in links(&text) {
            if let Some(what) = broken(root, &page, &link)? {
                findings.push(Finding::new(&page, line, what));
            }
        }
    }
    for directory in std::fs::read_dir(root.join("crates")).context("cannot read crates")? {
        let directory = directory?.path();
        let directory = directory.strip_prefix(root)?;
        findings.extend(readme(root, directory)?);
    }
    Ok(findings)
}

fn read(root: &Path, path: &Path) -> Result<String> {
    std::fs::read_to_string(root.join(path)).with_context(|| format!("cannot read {}", path.display()))
}

/// The targets of a page's links, with their lines. Text in code is not a link.
fn links(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let mut in_code = false;
    for (line, number) in text.lines().zip(1..) {
        if line.trim_start().starts_with("```") {
            in_code = !in_code;
        }
        if in_code {
            continue;
        }
        // Every second piece is inside of backticks.
        for piece in line.split('`').step_by(2) {
            for rest in piece.split("](").skip(1) {
                let target = rest.split(')').next().unwrap_or_default();
                found.push((number, target.to_owned()));
            }
        }
    }
    found
}

/// The error in a link of this page, if there is one.
fn broken(root: &Path, page: &Path, link: &str) -> Result<Option<String>> {
    if link.contains("://") || link.starts_with("mailto:") {
        return Ok(None);
    }
    let (file, anchor) = link.split_once('#').map_or((link, None), |(file, anchor)| (file, Some(anchor)));
    let target = match file {
        "" => page.to_owned(),
        file => page.parent().unwrap_or(Path::new("")).join(file),
    };
    if !root.join(&target).exists() {
        return Ok(Some(format!("{link}: there is no {}", target.display())));
    }
    let Some(anchor) = anchor else { return Ok(None) };
    if anchors(&read(root, &target)?).contains(anchor) {
        return Ok(None);
    }
    Ok(Some(format!("{link}: {} has no such heading", target.display())))
}

/// The headings of a page, in the form that links use.
fn anchors(text: &str) -> BTreeSet<String> {
    let mut in_code = false;
    let headings = text.lines().filter(|line| {
        if line.starts_with("```") {
            in_code = !in_code;
        }
        !in_code && line.starts_with('#')
    });
    let named = headings.map(|line| {
        let words = line.trim_start_matches('#').trim().to_lowercase();
        let kept = words.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
        kept.map(|c| if c == ' ' { '-' } else { c }).collect()
    });
    named.collect()
}

/// Judges the README of one crate.
fn readme(root: &Path, directory: &Path) -> Result<Vec<Finding>> {
    let path = directory.join("README.md");
    if !root.join(&path).exists() {
        return Ok(vec![Finding::new(&path, 0, "there is none")]);
    }
    let text = read(root, &path)?;
    let mut findings = Vec::new();
    let library = directory.join("src/lib.rs");
    if root.join(&library).exists() {
        let shown = example(text.lines());
        let compiled = read(root, &library)?;
        let compiled = example(compiled.lines().map_while(|line| line.strip_prefix("//!")).map(unindented));
        if shown.is_empty() || shown != compiled {
            findings.push(Finding::new(&path, 0, "its example is not that of src/lib.rs, which is compiled"));
        }
        if !text.contains("[dependencies]") || !text.contains("git = ") || !text.contains("tag = ") {
            findings.push(Finding::new(&path, 0, "it does not show how to depend on it, by git and tag"));
        }
    }
    Ok(findings)
}

fn unindented(line: &str) -> &str {
    line.strip_prefix(' ').unwrap_or(line)
}

/// The first example in Rust, without the lines that documentation hides.
fn example<'a>(lines: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let is_rust = |line: &str| matches!(line, "```" | "```no_run" | "```rust" | "```rust,no_run");
    let lines = lines.skip_while(|line| !is_rust(line)).skip(1);
    let shown =
        lines.take_while(|line| *line != "```").filter(|line| *line != "#" && !line.starts_with("# "));
    shown.collect()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn links_that_lead_nowhere_are_found() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        fs::create_dir_all(root.join("docs")).unwrap();
        fs::create_dir_all(root.join("crates")).unwrap();
        fs::write(root.join("docs/a.md"), "# A b, `c`\n## Second\n").unwrap();
        let page = "[a](docs/a.md) [b](docs/a.md#a-b-c) [c](docs/a.md#third)\n[d](b.md) `[e](x.md)` [f](https://x.y/z)\n\
                    ```text\n[g](y.md)\n```\n[h](#here)\n";
        fs::write(root.join("README.md"), page).unwrap();
        let found: Vec<String> = check(root).unwrap().iter().map(ToString::to_string).collect();
        assert_eq!(
            found,
            [
                "README.md:1: docs/a.md#third: docs/a.md has no such heading",
                "README.md:2: b.md: there is no b.md",
                "README.md:6: #here: README.md has no such heading",
            ]
        );
    }

    #[test]
    fn a_readme_shows_what_is_compiled() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        let (at, crates) = (Path::new("crates/a"), root.join("crates/a/src"));
        fs::create_dir_all(&crates).unwrap();
        fs::write(
            crates.join("lib.rs"),
            "//! A.\n//!\n//! ```\n//! # fn x() {\n//! one();\n//!\n//! two();\n//! # }\n//! ```\n",
        )
        .unwrap();
        let judge = |text: &str| {
            fs::write(root.join("crates/a/README.md"), text).unwrap();
            readme(root, at).unwrap().len()
        };
        assert_eq!(readme(root, at).unwrap().len(), 1, "there is none");
        let depend = "```toml\n[dependencies]\na = { git = \"u\", tag = \"v\" }\n```\n";
        assert_eq!(judge(&format!("```rust\none();\n\ntwo();\n```\n{depend}")), 0);
        assert_eq!(judge(&format!("```rust\none();\n\nthree();\n```\n{depend}")), 1);
        assert_eq!(judge(depend), 1);
        assert_eq!(judge("```rust\none();\n\ntwo();\n```\n"), 1);
    }
}
