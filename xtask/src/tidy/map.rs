//! Checks `docs/ARCHITECTURE.md`: its table of dependencies equals the manifests, and the paths that it names
//! exist.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::Value;

use super::Finding;

const MAP: &str = "docs/ARCHITECTURE.md";

/// Compares the page with the manifests as `cargo metadata --no-deps` describes them, and with the files.
pub(super) fn check(root: &Path, metadata: &Value) -> Result<Vec<Finding>> {
    let page = std::fs::read_to_string(root.join(MAP)).with_context(|| format!("cannot read {MAP}"))?;
    let mut findings = compare(&page, &dependencies(metadata));
    for (line, number) in page.lines().zip(1..) {
        for path in named_paths(line).filter(|path| !root.join(path).exists()) {
            findings.push(Finding::new(MAP, number, format!("{path} does not exist")));
        }
    }
    Ok(findings)
}

type Table<'a> = BTreeMap<&'a str, BTreeSet<&'a str>>;

/// The crates of `crates/` that each of them needs, without tests.
fn dependencies(metadata: &Value) -> Table<'_> {
    let packages = metadata["packages"].as_array().map(Vec::as_slice).unwrap_or_default();
    let text = |value: &'_ Value| value.as_str().unwrap_or_default().to_owned();
    let ours = |package: &&Value| text(&package["manifest_path"]).contains("/crates/");
    let names: BTreeSet<&str> = packages.iter().filter(ours).filter_map(|p| p["name"].as_str()).collect();
    let needs = |package: &'_ Value| -> BTreeSet<String> {
        let all = package["dependencies"].as_array().into_iter().flatten();
        all.filter(|dependency| dependency["kind"] != "dev")
            .map(|dependency| text(&dependency["name"]))
            .collect()
    };
    let of = |package| {
        let needed = needs(package);
        names.iter().copied().filter(|name| needed.contains(*name)).collect()
    };
    packages.iter().filter(ours).filter_map(|p| Some((p["name"].as_str()?, of(p)))).collect()
}

/// Compares the rows `| crate | crate, crate |` below the heading `## Dependencies` with the manifests.
fn compare(page: &str, real: &Table<'_>) -> Vec<Finding> {
    let mut told = BTreeMap::new();
    let mut inside = false;
    for (line, number) in page.lines().zip(1..) {
        if line.starts_with("## ") {
            inside = line == "## Dependencies";
        }
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        if let [_, name, needs, _] = cells[..]
            && inside
            && name.starts_with("relay-")
        {
            let needs = needs.split(',').map(str::trim).filter(|need| !need.is_empty());
            told.insert(name, (number, needs.collect::<BTreeSet<_>>()));
        }
    }
    let words = |needs: &BTreeSet<&str>| needs.iter().copied().collect::<Vec<_>>().join(", ");
    let mut findings = Vec::new();
    for (name, needs) in real {
        match told.remove(name) {
            None => findings.push(Finding::new(
                MAP,
                0,
                format!("the table of dependencies has no row | {name} | {} |", words(needs)),
            )),
            Some((line, said)) if said != *needs => {
                findings.push(Finding::new(MAP, line, format!("{name} needs: {}", words(needs))));
            }
            Some(_) => {}
        }
    }
    findings
        .extend(told.into_iter().map(|(name, (line, _))| {
            Finding::new(MAP, line, format!("there is no crate {name} in crates/"))
        }));
    findings
}

/// The paths at the beginning of a row of the map, in backticks: `crates/..`, `xtask/..`, `fixtures..`, `docs/..`. A
/// name after such a path is in the same folder.
fn named_paths(line: &str) -> impl Iterator<Item = String> {
    let first = line.strip_prefix("| ").and_then(|rest| rest.split(" |").next()).unwrap_or_default();
    let mut folder = None;
    first.split('`').skip(1).step_by(2).filter_map(move |name| {
        if ["crates/", "xtask/", "fixtures", "docs/"].iter().any(|start| name.starts_with(start)) {
            folder = Path::new(name).parent().and_then(Path::to_str).map(str::to_owned);
            return Some(name.to_owned());
        }
        folder.as_ref().map(|folder| format!("{folder}/{name}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_page(rows: &str) -> Vec<String> {
        let page = format!(
            "# A\n\n| relay-x | nothing |\n\n## Dependencies\n\n{rows}\n\n## Next\n\n| relay-y | z |\n"
        );
        let real = [("relay-a", &[][..]), ("relay-b", &["relay-a"])]
            .map(|(name, needs)| (name, needs.iter().copied().collect()))
            .into();
        compare(&page, &real).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_table_is_that_of_the_manifests() {
        assert_eq!(check_page("| relay-a | |\n| relay-b | relay-a |"), [""; 0]);
        assert_eq!(
            check_page("| relay-a | |\n| relay-b | |\n| relay-c | |"),
            [
                "docs/ARCHITECTURE.md:8: relay-b needs: relay-a",
                "docs/ARCHITECTURE.md:9: there is no crate relay-c in crates/"
            ]
        );
        assert_eq!(
            check_page("| relay-b | relay-a |"),
            ["docs/ARCHITECTURE.md: the table of dependencies has no row | relay-a |  |"]
        );
    }

    #[test]
    fn places_are_named_in_the_first_column() {
        let names: Vec<String> =
            named_paths("| `crates/a/src/x.rs`, `y.rs` | as `crates/none` does |").collect();
        assert_eq!(names, ["crates/a/src/x.rs", "crates/a/src/y.rs"]);
        assert_eq!(named_paths("| `y.rs` | elsewhere |").count(), 0);
    }

    #[test]
    fn the_page_of_this_workspace_is_true() {
        let root = crate::workspace::root();
        let metadata = crate::workspace::metadata(root).unwrap();
        let findings: Vec<String> = check(root, &metadata).unwrap().iter().map(ToString::to_string).collect();
        assert_eq!(findings, [""; 0]);
    }
}
