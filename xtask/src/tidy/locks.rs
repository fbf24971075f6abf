//! Lock files of benchmarks and fuzz targets name the dependencies that the crates of this repository have.
//!
//! They are workspaces of their own, which the other checks do not build: without this rule, nobody notices that a
//! crate has got another dependency until `--locked` refuses to run them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::Value;

use super::{Finding, files};

/// Judges every lock file below `root`, by the manifests as `cargo metadata --no-deps` describes them.
pub(super) fn check(root: &Path, metadata: &Value) -> Result<Vec<Finding>> {
    let needed = needed(metadata);
    let mut findings = Vec::new();
    for path in files(root, "Cargo.lock")? {
        let full = root.join(&path);
        let text =
            std::fs::read_to_string(&full).with_context(|| format!("cannot read {}", full.display()))?;
        for (name, locked) in locked(&text) {
            let missing: Vec<_> =
                needed.get(name).into_iter().flatten().filter(|due| !locked.contains(*due)).collect();
            if !missing.is_empty() {
                let what = format!("{name} now depends on {missing:?}: run `cargo update --workspace` there");
                findings.push(Finding::new(&path, 0, what));
            }
        }
    }
    Ok(findings)
}

/// What each crate always depends on, apart from its tests.
fn needed(metadata: &Value) -> BTreeMap<&str, BTreeSet<&str>> {
    let mut all = BTreeMap::new();
    for package in metadata["packages"].as_array().into_iter().flatten() {
        let dependencies = package["dependencies"].as_array().into_iter().flatten();
        let always = dependencies.filter(|one| one["kind"] != "dev" && one["optional"] != true);
        let names = always.filter_map(|one| one["name"].as_str()).collect();
        all.insert(package["name"].as_str().unwrap_or_default(), names);
    }
    all
}

/// The packages of a lock file that come from no registry, with the names of their dependencies.
fn locked(text: &str) -> Vec<(&str, BTreeSet<&str>)> {
    let packages = text.split("[[package]]\n").skip(1);
    let local = packages.filter(|package| !package.contains("\nsource = "));
    local
        .filter_map(|package| {
            let name = package.lines().find_map(|line| line.strip_prefix("name = \""))?.trim_end_matches('"');
            let (_, list) = package.split_once("\ndependencies = [").unwrap_or_default();
            // `"NAME VERSION",` where there are several versions.
            let words = list.lines().filter_map(|line| line.trim().strip_prefix('"'));
            Some((name, words.filter_map(|word| word.split([' ', '"']).next()).collect()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const LOCK: &str = r#"version = 4

[[package]]
name = "base"
version = "1.0.0"
source = "registry+x"

[[package]]
name = "own"
version = "0.1.0"
dependencies = [
 "base 1.0.0",
 "bytes",
]

[[package]]
name = "leaf"
version = "0.1.0"
"#;

    #[test]
    fn a_dependency_that_a_lock_file_does_not_have_is_found() {
        let one = |name: &str, kind: Value, optional: bool| json!({"name": name, "kind": kind, "optional": optional});
        let metadata = |more: &[Value]| {
            let always = [one("base", Value::Null, false), one("bytes", json!("build"), false)];
            let dependencies: Vec<_> = always.iter().chain(more).collect();
            json!({"packages": [
                {"name": "own", "dependencies": dependencies},
                {"name": "leaf", "dependencies": []},
                {"name": "elsewhere", "dependencies": [one("base", Value::Null, false)]},
            ]})
        };
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("bench")).unwrap();
        std::fs::write(root.path().join("bench/Cargo.lock"), LOCK).unwrap();
        let found = |more: &[Value]| check(root.path(), &metadata(more)).unwrap();
        assert_eq!(found(&[one("tests", json!("dev"), false), one("maybe", Value::Null, true)]), []);
        let [finding] = &found(&[one("new", Value::Null, false)])[..] else { panic!("one finding") };
        assert_eq!(finding.path, Path::new("bench/Cargo.lock"));
        assert!(finding.what.starts_with("own now depends on [\"new\"]"), "{}", finding.what);
    }
}
