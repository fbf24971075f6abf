//! Rules about files: names, sizes, documentation, forbidden content.

use std::path::Path;

use anyhow::{Context, Result};

use super::{Finding, files};

/// The highest number of lines in a Rust file, including tests.
const LONGEST: usize = 700;

/// The highest number of columns in a line of comments.
const WIDEST_COMMENT: usize = 120;

/// File names that say nothing about their content, and therefore collect everything.
const JUNK_DRAWERS: &[&str] =
    &["utils.rs", "util.rs", "types.rs", "common.rs", "helpers.rs", "helper.rs", "misc.rs"];

/// Texts that must not be in a file, and why. They are written in pieces, so that this file passes its own check.
const LEFTOVERS: &[(&str, &str)] = &[
    (concat!("to", "do!"), "unfinished code"),
    (concat!("unimple", "mented!"), "unfinished code"),
    (concat!("db", "g!"), "a debugging aid"),
    (concat!("allow(missing", "_docs"), "every public item has documentation"),
];

/// Judges every Rust file and every manifest below `root`.
pub(super) fn check(root: &Path) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    for path in files(root, "rs")? {
        let text = read(root, &path)?;
        check_rust_file(&path, &text, &mut findings);
    }
    for path in files(root, "Cargo.toml")? {
        let text = read(root, &path)?;
        check_manifest(root, &path, &text, &mut findings)?;
    }
    Ok(findings)
}

fn check_rust_file(path: &Path, text: &str, findings: &mut Vec<Finding>) {
    let name = path.file_name().unwrap_or_default();
    if JUNK_DRAWERS.iter().any(|junk| name == *junk) && path.iter().any(|part| part == "src") {
        findings.push(Finding::new(path, 0, "a junk drawer; name the file after what is in it"));
    }
    let lines = text.lines().count();
    if lines > LONGEST {
        findings.push(Finding::new(
            path,
            0,
            format!("{lines} lines, at most {LONGEST}; split it by meaning"),
        ));
    }
    for (line, number) in text.lines().zip(1..) {
        for (leftover, why) in LEFTOVERS {
            if line.contains(leftover) {
                findings.push(Finding::new(path, number, format!("`{leftover}`: {why}")));
            }
        }
        let code = line.trim_start();
        let columns = line.chars().count();
        // The rows of a table cannot be wrapped.
        let row = code.trim_start_matches(['/', '!', ' ']).starts_with('|');
        if code.starts_with("//") && columns > WIDEST_COMMENT && !row {
            let what = format!("a comment of {columns} columns, at most {WIDEST_COMMENT}");
            findings.push(Finding::new(path, number, what));
        }
        if code.starts_with("pub use relay_") && code.contains("::*") {
            findings.push(Finding::new(path, number, "a crate does not re-export everything of another"));
        }
    }
}

fn check_manifest(root: &Path, path: &Path, text: &str, findings: &mut Vec<Finding>) -> Result<()> {
    let is_crate = text.lines().any(|line| line.trim() == "[package]");
    // Benchmarks and fuzz targets are separate workspaces.
    let own = ["xtask/bench", "xtask/fuzz"].iter().any(|own| path.starts_with(own));
    let is_member = (path.starts_with("crates") || path.starts_with("xtask")) && !own;
    if !(is_crate && is_member) {
        return Ok(());
    }
    let after = text.lines().map(str::trim).skip_while(|line| *line != "[lints]").skip(1);
    if !after.take_while(|line| !line.starts_with('[')).any(|line| line.replace(' ', "") == "workspace=true")
    {
        findings.push(Finding::new(
            path,
            0,
            "needs `[lints] workspace = true`: one set of lints for all crates",
        ));
    }
    let library = path.with_file_name("src").join("lib.rs");
    if root.join(&library).is_file() {
        check_crate_docs(&library, &read(root, &library)?, findings);
    }
    Ok(())
}

/// The first page that a user reads: what the crate does, and an example that compiles.
fn check_crate_docs(path: &Path, text: &str, findings: &mut Vec<Finding>) {
    if !text.starts_with("//! ") {
        findings.push(Finding::new(path, 1, "begins with the crate's documentation"));
    }
    let docs = text.lines().take_while(|line| line.starts_with("//") || line.trim().is_empty());
    let fences: Vec<&str> = docs.filter_map(|line| line.strip_prefix("//! ```")).collect();
    // Opening and closing fences alternate; the text after an opening one says how the block is treated.
    let compiles = |info: &str| {
        let mut words = info.split([',', ' ']).filter(|word| !word.is_empty());
        words.all(|word| matches!(word, "rust" | "no_run" | "should_panic") || word.starts_with("edition"))
    };
    if !fences.iter().step_by(2).any(|info| compiles(info)) {
        findings.push(Finding::new(path, 1, "the crate's documentation has no example that is compiled"));
    }
}

fn read(root: &Path, path: &Path) -> Result<String> {
    std::fs::read_to_string(root.join(path)).with_context(|| format!("cannot read {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    const GOOD_LIB: &str = "//! Does one thing.\n//!\n//! ```\n//! assert!(true);\n//! ```\n";
    const GOOD_MANIFEST: &str = "[package]\nname = \"a\"\n\n[lints]\nworkspace = true\n";

    /// Writes a small tree and returns its findings.
    fn check_tree(tree: &[(&str, &str)]) -> Vec<String> {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in tree {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        check(root.path()).unwrap().iter().map(ToString::to_string).collect()
    }

    fn only(path: &str, text: &str) -> Vec<String> {
        check_tree(&[(path, text)])
    }

    #[test]
    fn a_good_tree_has_no_findings() {
        let tree = [("crates/a/Cargo.toml", GOOD_MANIFEST), ("crates/a/src/lib.rs", GOOD_LIB)];
        assert_eq!(check_tree(&tree), [""; 0]);
    }

    #[test]
    fn junk_drawers_are_found_in_src_only() {
        assert_eq!(
            only("crates/a/src/deep/utils.rs", ""),
            ["crates/a/src/deep/utils.rs: a junk drawer; name the file after what is in it"]
        );
        assert_eq!(only("crates/a/tests/it/common.rs", ""), [""; 0]);
    }

    #[test]
    fn a_file_of_701_lines_is_too_long() {
        assert_eq!(only("crates/a/src/x.rs", &"\n".repeat(700)), [""; 0]);
        assert_eq!(
            only("xtask/src/x.rs", &"\n".repeat(701)),
            ["xtask/src/x.rs: 701 lines, at most 700; split it by meaning"]
        );
    }

    #[test]
    fn wide_comments_are_found() {
        let line = |length: usize| format!("    /// {}\n", "x".repeat(length - 8));
        assert_eq!(only("crates/a/src/x.rs", &line(120)), [""; 0]);
        let found = "crates/a/src/x.rs:1: a comment of 121 columns, at most 120";
        assert_eq!(only("crates/a/src/x.rs", &line(121)), [found]);
        assert_eq!(
            only("crates/a/src/x.rs", &line(121).replace("/// x", "/// |")),
            [""; 0],
            "a row of a table"
        );
        assert_eq!(
            only("crates/a/src/x.rs", &line(121).replace("///", "let")),
            [""; 0],
            "rustfmt's business"
        );
    }

    #[test]
    fn leftovers_are_found_with_their_line() {
        for (leftover, why) in LEFTOVERS {
            let findings = only("crates/a/src/x.rs", &format!("\nlet a = {leftover}();\n"));
            assert_eq!(findings, [format!("crates/a/src/x.rs:2: `{leftover}`: {why}")]);
        }
    }

    #[test]
    fn re_exporting_everything_of_a_crate_is_found() {
        let findings = only("crates/a/src/x.rs", "pub use relay_proto::pods::*;\n");
        assert_eq!(findings, ["crates/a/src/x.rs:1: a crate does not re-export everything of another"]);
        assert_eq!(only("crates/a/src/x.rs", "pub use relay_proto::pods::Pod;\n"), [""; 0]);
    }

    #[test]
    fn a_crate_takes_the_lints_of_the_workspace() {
        let manifest = "[package]\nname = \"a\"\n\n[lints]\n[dependencies.b]\nworkspace = true\n";
        let findings = only("crates/a/Cargo.toml", manifest);
        assert_eq!(
            findings,
            ["crates/a/Cargo.toml: needs `[lints] workspace = true`: one set of lints for all crates"]
        );
        assert_eq!(only("xtask/fuzz/Cargo.toml", manifest), [""; 0], "a workspace of its own");
    }

    #[test]
    fn a_library_begins_with_docs() {
        let lib = "#![no_std]\n//! Does one thing.\n//!\n//! ```\n//! ```\n";
        let findings = check_tree(&[("crates/a/Cargo.toml", GOOD_MANIFEST), ("crates/a/src/lib.rs", lib)]);
        assert!(
            findings.contains(&"crates/a/src/lib.rs:1: begins with the crate's documentation".to_owned())
        );
    }

    #[test]
    fn a_library_has_an_example_that_compiles() {
        let without = "crates/a/src/lib.rs:1: the crate's documentation has no example that is compiled";
        for (info, ok) in [
            ("", true),
            ("rust", true),
            ("no_run", true),
            ("rust,no_run", true),
            ("ignore", false),
            ("rust,ignore", false),
            ("text", false),
        ] {
            let lib = format!("//! Does one thing.\n//!\n//! ```{info}\n//! f();\n//! ```\n");
            let findings =
                check_tree(&[("crates/a/Cargo.toml", GOOD_MANIFEST), ("crates/a/src/lib.rs", &lib)]);
            assert_eq!(findings, if ok { vec![] } else { vec![without.to_owned()] }, "{info}");
        }
        let text_first = "//! Does one thing.\n//!\n//! ```text\n//! ```\n//!\n//! ```\n//! f();\n//! ```\n";
        assert_eq!(
            check_tree(&[("crates/a/Cargo.toml", GOOD_MANIFEST), ("crates/a/src/lib.rs", text_first)]),
            [""; 0]
        );
        let later = "//! Does one thing.\n\npub struct A;\n\n//! ```\n//! ```\n";
        assert_eq!(
            check_tree(&[("crates/a/Cargo.toml", GOOD_MANIFEST), ("crates/a/src/lib.rs", later)]),
            [without]
        );
    }
}
