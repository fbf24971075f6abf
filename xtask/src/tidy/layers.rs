//! Crates depend only on crates below them, and the two lowest crates stay pure.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Result;
use serde_json::Value;

use super::Finding;
use crate::workspace;

/// The layers from the bottom up. A crate may depend on crates of lower layers, never on its own layer.
const LAYERS: &[&[&str]] = &[
    &["relay-proto"],
    &["relay-state"],
    &["relay-transport", "relay-log"],
    &["relay-kube"],
    &[
        "relay-pods",
        "relay-pods-server",
        "relay-autoconfig",
        "relay-autoconfig-server",
        "relay-bus",
        "relay-durable",
        "relay-durable-server",
        "relay-parsec",
        "relay-parsec-server",
    ],
    &["relay-cli"],
];

/// Crates that can be used alone, with any runtime or none: the crates below must not be in their dependencies.
const PURE: &[&str] = &["relay-proto", "relay-state"];
const RUNTIMES: &[&str] = &[
    "async-io",
    "async-std",
    "chrono",
    "futures-io",
    "h2",
    "hyper",
    "hyper-util",
    "kube",
    "mio",
    "polling",
    "reqwest",
    "rustls",
    "smol",
    "socket2",
    "time",
    "tokio",
    "tokio-stream",
    "tokio-util",
    "tracing-subscriber",
    "ureq",
    "web-time",
];

/// Judges the manifests as `cargo metadata --no-deps` describes them.
pub(super) fn check(metadata: &Value) -> Vec<Finding> {
    let root = metadata["workspace_root"].as_str().unwrap_or_default();
    let packages = metadata["packages"].as_array().map(Vec::as_slice).unwrap_or_default();
    let members: BTreeMap<&str, &Value> = packages.iter().map(|p| (text(&p["name"]), p)).collect();
    let mut findings = Vec::new();
    for (name, package) in &members {
        let manifest = Path::new(text(&package["manifest_path"]));
        let manifest = manifest.strip_prefix(root).unwrap_or(manifest);
        let mut report = |what: String| findings.push(Finding::new(manifest, 0, what));
        let level = layer(name);
        if level.is_none() && is_product(package) {
            report(format!(
                "{name} has no layer: add it to the table in xtask/src/tidy/layers.rs, or move it to xtask/ when it is \
                 not part of the product"
            ));
        }
        if package["publish"].as_array().is_none_or(|registries| !registries.is_empty()) {
            report(format!("{name} could be published by accident: write `publish = false`"));
        }
        let dependencies = package["dependencies"].as_array().map(Vec::as_slice).unwrap_or_default();
        for dependency in dependencies.iter().filter(|dependency| dependency["kind"] != "dev") {
            let target = text(&dependency["name"]);
            if target == "anyhow" && level.is_some_and(|level| level + 1 < LAYERS.len()) {
                report(format!("{name} is a library: its errors are types of its own, not anyhow"));
            }
            let Some(member) = members.get(target) else { continue };
            if level.is_some() && !is_product(member) {
                report(format!("{name} -> {target}: allowed among the dev-dependencies only"));
            } else if let (Some(from), Some(to)) = (level, layer(target))
                && to >= from
            {
                report(format!("{name} -> {target}: arrows point down only"));
            }
        }
    }
    findings
}

/// Asks cargo for all dependencies of the pure crates, with all their features on.
pub(super) fn check_pure_crates(root: &Path, metadata: &Value) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    for package in metadata["packages"].as_array().into_iter().flatten() {
        let name = text(&package["name"]);
        if !PURE.contains(&name) {
            continue;
        }
        let mut command = workspace::cargo();
        command.current_dir(root).args([
            "tree",
            "--package",
            name,
            "--all-features",
            "--edges=normal,no-proc-macro",
        ]);
        let tree = workspace::output(command.args(["--prefix=none", "--format={p} [{f}]"]))?;
        findings.extend(impure(name, &tree));
    }
    Ok(findings)
}

/// The lines of a dependency tree (`name version .. [features]`) that a pure crate must not have.
fn impure(name: &str, tree: &str) -> Vec<Finding> {
    let mut found: Vec<String> = Vec::new();
    for line in tree.lines() {
        let dependency = line.split_whitespace().next().unwrap_or_default();
        let features = line.rsplit_once('[').map_or("", |(_, features)| features.trim_end_matches(']'));
        if RUNTIMES.contains(&dependency) {
            found.push(format!("{name} brings {dependency} along: no runtime, HTTP or clock belongs here"));
        }
        // jiff reads the clock and the zone database only with its `std` feature.
        if dependency == "jiff" && features.split(',').any(|feature| feature == "std") {
            found.push(format!("{name} brings jiff with its clock along: leave its `std` feature off"));
        }
    }
    found.sort();
    found.dedup();
    found.into_iter().map(|what| Finding::new(format!("crates/{name}/Cargo.toml"), 0, what)).collect()
}

/// The crates in crates/ are the product. Tools and test beds are in xtask/: they may use any layer, and no part of the
/// product may need them for its build.
fn is_product(package: &Value) -> bool {
    text(&package["manifest_path"]).contains("/crates/")
}

fn layer(name: &str) -> Option<usize> {
    LAYERS.iter().position(|layer| layer.contains(&name))
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::fs;

    /// Writes a workspace of crates given as (name, rest of the manifest) and judges it.
    fn check_workspace(crates: &[(&str, &str)]) -> Vec<String> {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("Cargo.toml"), "[workspace]\nresolver = \"3\"\nmembers = [\"*/*\"]\n")
            .unwrap();
        for (name, rest) in crates {
            let folder =
                if name.ends_with("testkit") || name.ends_with("conformance") { "xtask" } else { "crates" };
            let directory = root.path().join(folder).join(name);
            fs::create_dir_all(directory.join("src")).unwrap();
            fs::write(directory.join("src/lib.rs"), "").unwrap();
            let manifest = format!(
                "[package]\nname = \"{name}\"\nversion = \"0.1.0\"\nedition = \"2024\"\npublish = false\n{rest}\n"
            );
            fs::write(directory.join("Cargo.toml"), manifest).unwrap();
        }
        let metadata = workspace::metadata(root.path()).unwrap();
        check(&metadata).iter().map(ToString::to_string).collect()
    }

    fn on(target: &str) -> String {
        format!("[dependencies]\n{target} = {{ path = \"../{target}\" }}")
    }

    #[test]
    fn arrows_down_are_fine() {
        let crates =
            [("relay-proto", ""), ("relay-state", &on("relay-proto")), ("relay-cli", &on("relay-state"))];
        assert_eq!(check_workspace(&crates), [""; 0]);
    }

    #[test]
    fn an_arrow_up_is_found() {
        assert_eq!(
            check_workspace(&[("relay-proto", &on("relay-transport")), ("relay-transport", "")]),
            ["crates/relay-proto/Cargo.toml: relay-proto -> relay-transport: arrows point down only"]
        );
    }

    #[test]
    fn an_optional_arrow_up_is_found_too() {
        let optional = "[dependencies]\nrelay-pods = { path = \"../relay-pods\", optional = true }";
        assert_eq!(check_workspace(&[("relay-state", optional), ("relay-pods", "")]).len(), 1);
    }

    #[test]
    fn client_and_server_must_not_know_each_other_except_in_tests() {
        assert_eq!(
            check_workspace(&[("relay-pods", &on("relay-pods-server")), ("relay-pods-server", "")]),
            ["crates/relay-pods/Cargo.toml: relay-pods -> relay-pods-server: arrows point down only"]
        );
        let dev = "[dev-dependencies]\nrelay-pods-server = { path = \"../relay-pods-server\" }";
        assert_eq!(check_workspace(&[("relay-pods", dev), ("relay-pods-server", "")]), [""; 0]);
    }

    #[test]
    fn the_testkit_is_for_tests() {
        let up = "[dependencies]\nrelay-testkit = { path = \"../../xtask/relay-testkit\" }";
        assert_eq!(
            check_workspace(&[("relay-pods", up), ("relay-testkit", "")]),
            [
                "crates/relay-pods/Cargo.toml: relay-pods -> relay-testkit: allowed among the dev-dependencies only"
            ]
        );
        assert_eq!(
            check_workspace(&[("relay-conformance", &on("relay-testkit")), ("relay-testkit", "")]),
            [""; 0]
        );
    }

    #[test]
    fn nothing_can_be_published_by_accident() {
        let published = json!({"packages": [{"name": "relay-pods", "manifest_path": "/x/crates/relay-pods/Cargo.toml",
            "publish": null, "dependencies": []}]});
        let findings = check(&published);
        assert!(findings.len() == 1 && findings[0].what.contains("publish = false"), "{findings:?}");
    }

    #[test]
    fn a_crate_needs_a_layer() {
        let findings = check_workspace(&[("relay-extra", "")]);
        assert!(findings.len() == 1 && findings[0].contains("relay-extra has no layer"), "{findings:?}");
    }

    #[test]
    fn libraries_do_not_use_anyhow() {
        let manifest = "[dependencies]\nanyhow = \"1\"";
        let findings = check_workspace(&[("relay-pods", manifest), ("relay-cli", manifest)]);
        assert!(findings.len() == 1 && findings[0].contains("relay-pods is a library"), "{findings:?}");
    }

    #[test]
    fn a_pure_crate_has_no_runtime_and_no_clock() {
        let tree = "relay-proto v0.1.0 (/x) []\nbytes v1.0.0 [std]\njiff v0.2.0 [alloc]\n";
        assert_eq!(impure("relay-proto", tree), []);
        let tree = "relay-proto v0.1.0 (/x) []\ntokio v1.0.0 [net,rt]\nmio v1.0.0 []\ntokio v1.0.0 [net,rt]\njiff v0.2.0 [alloc,std]\n";
        let findings: Vec<String> = impure("relay-proto", tree).iter().map(ToString::to_string).collect();
        assert_eq!(findings.len(), 3, "{findings:?}");
        assert!(findings[1].contains("brings mio along") && findings[2].contains("brings tokio along"));
    }

    #[test]
    fn the_pure_crates_of_this_workspace_are_asked_about() {
        let metadata = workspace::metadata(workspace::root()).unwrap();
        assert_eq!(check_pure_crates(workspace::root(), &metadata).unwrap(), []);
    }
}
