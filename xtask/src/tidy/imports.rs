//! No two files of a crate import each other: code that both need belongs into a third file.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::{Finding, files};

/// Pairs that still import each other. A pair that is separated is removed from this list, and none is added.
const LEFT: &[(&str, &str)] = &[];

/// Looks at every crate below `root`: a folder with a `src/lib.rs` or a `src/main.rs`.
pub(super) fn check(root: &Path) -> Result<Vec<Finding>> {
    let mut crates: BTreeMap<PathBuf, BTreeMap<String, (PathBuf, String)>> = BTreeMap::new();
    for path in files(root, "rs")? {
        let Some((source, module)) = module_of(&path) else { continue };
        let text = std::fs::read_to_string(root.join(&path))
            .with_context(|| format!("cannot read {}", path.display()))?;
        crates.entry(source).or_default().insert(module, (path, text));
    }
    let mut findings: Vec<Finding> = crates.values().flat_map(mutual).collect();
    let named = |finding: &Finding| {
        LEFT.iter().position(|(one, other)| {
            finding.path == Path::new(one) && finding.what.contains(&format!("imports {other},"))
        })
    };
    let met: BTreeSet<usize> = findings.iter().filter_map(named).collect();
    findings.retain(|finding| named(finding).is_none());
    // The small trees of the tests have none of these files.
    let parted =
        LEFT.iter().enumerate().filter(|(at, (one, _))| !met.contains(at) && root.join(one).is_file());
    findings.extend(parted.map(|(_, (one, other))| {
        Finding::new(
            *one,
            0,
            format!("and {other} do not import each other any more: take them off the list"),
        )
    }));
    Ok(findings)
}

/// The folder of the crate's sources, and the path of the module, such as `client::dial`; the path of the root is
/// empty. `None` for tests, and for files that do not belong to a library or program.
fn module_of(path: &Path) -> Option<(PathBuf, String)> {
    let parts: Vec<&str> = path.iter().map(|part| part.to_str().unwrap_or_default()).collect();
    let at = parts.iter().position(|part| *part == "src")?;
    let module = parts[at + 1..].join("::");
    let module = module.strip_suffix(".rs")?;
    let module = if matches!(module, "lib" | "main") { "" } else { module };
    let test = module.split("::").any(|part| part == "tests");
    (!test).then(|| (parts[..=at].iter().collect(), module.to_owned()))
}

/// A module of a crate, with the parts that this rule needs.
struct Module<'m> {
    path: &'m Path,
    imports: Vec<Import>,
}

/// One name that a `use` imports.
struct Import {
    /// The path from the root of the crate.
    path: Vec<String>,
    /// The name that it has here.
    name: String,
    /// Whether other modules can import it from here.
    public: bool,
}

fn mutual(files: &BTreeMap<String, (PathBuf, String)>) -> Vec<Finding> {
    let modules: BTreeMap<&str, Module<'_>> = files
        .iter()
        .map(|(name, (path, text))| (name.as_str(), Module { path, imports: imports(name, text) }))
        .collect();
    let uses: BTreeMap<&str, BTreeSet<&str>> = modules
        .iter()
        .map(|(name, module)| {
            let found = module.imports.iter().filter_map(|import| home(&modules, &import.path, 0));
            (*name, found.filter(|other| !other.is_empty() && !are_one(name, other)).collect())
        })
        .collect();
    let mut findings = Vec::new();
    for (name, found) in &uses {
        for other in found.iter().filter(|other| *name < **other && uses[*other].contains(name)) {
            let what =
                format!("imports {}, which imports it: move what both need", modules[other].path.display());
            findings.push(Finding::new(modules[name].path, 0, what));
        }
    }
    findings
}

/// A module and its parts, which are files in its folder, count as one file.
fn are_one(one: &str, other: &str) -> bool {
    let part = |whole: &str, part: &str| {
        part.strip_prefix(whole).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
    };
    part(one, other) || part(other, one)
}

/// The module that defines the name of a path: if a module only re-exports the name, the module from which it comes.
fn home<'m>(modules: &BTreeMap<&'m str, Module<'_>>, path: &[String], depth: u8) -> Option<&'m str> {
    let (length, (name, module)) = (0..=path.len())
        .rev()
        .find_map(|length| Some((length, modules.get_key_value(path[..length].join("::").as_str())?)))?;
    if let Some(wanted) = path.get(length)
        && depth < 8
        && let Some(passed) = module.imports.iter().find(|import| import.public && import.name == *wanted)
        && let Some(home) = home(modules, &passed.path, depth + 1)
    {
        return Some(home);
    }
    Some(name)
}

/// The imports of a text from its own crate. Tests at the end of a file do not count.
fn imports(module: &str, text: &str) -> Vec<Import> {
    let text = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
    let own: Vec<&str> = module.split("::").filter(|part| !part.is_empty()).collect();
    let mut found = Vec::new();
    let mut lines = text.lines().map(str::trim);
    let children: BTreeSet<&str> = text.lines().filter_map(|line| declared(line.trim())).collect();
    while let Some(line) = lines.next() {
        let (public, rest) = match line.strip_prefix("pub") {
            Some(rest) => (true, rest.trim_start_matches(|c: char| c != ' ').trim_start()),
            None => (false, line),
        };
        let Some(tree) = rest.strip_prefix("use ") else { continue };
        let mut tree = tree.to_owned();
        while !tree.contains(';') {
            let Some(more) = lines.next() else { break };
            tree += more;
        }
        for path in leaves(tree.split(';').next().unwrap_or_default()) {
            let (path, name) = match path.split_once(" as ") {
                Some((path, name)) => (path.to_owned(), name.to_owned()),
                None => (path.clone(), path.rsplit("::").next().unwrap_or_default().to_owned()),
            };
            let parts: Vec<&str> = path.split("::").map(str::trim).collect();
            let supers = parts.iter().take_while(|part| **part == "super").count();
            let from_root: Vec<&str> = match parts[0] {
                "crate" => parts[1..].to_vec(),
                "self" => own.iter().chain(&parts[1..]).copied().collect(),
                "super" if supers <= own.len() => {
                    own[..own.len() - supers].iter().chain(&parts[supers..]).copied().collect()
                }
                first if children.contains(first) => own.iter().chain(&parts).copied().collect(),
                _ => continue,
            };
            let path = from_root.iter().filter(|part| **part != "self").map(|part| (*part).to_owned());
            found.push(Import { path: path.collect(), name, public });
        }
    }
    found
}

/// The name of a module that a line declares as a separate file.
fn declared(line: &str) -> Option<&str> {
    let line = line.strip_prefix("pub(crate) ").or(line.strip_prefix("pub(super) ")).unwrap_or(line);
    line.strip_prefix("pub ").unwrap_or(line).strip_prefix("mod ")?.strip_suffix(';')
}

/// The paths of a tree such as `a::{b, c::{d, e}}`.
fn leaves(tree: &str) -> Vec<String> {
    let Some((stem, rest)) = tree.split_once('{') else { return vec![tree.trim().to_owned()] };
    let inside = rest.rsplit_once('}').map_or(rest, |(inside, _)| inside);
    let (mut depth, mut parts, mut part) = (0, Vec::new(), String::new());
    for c in inside.chars() {
        match c {
            ',' if depth == 0 => parts.push(std::mem::take(&mut part)),
            c => {
                depth += i32::from(c == '{') - i32::from(c == '}');
                part.push(c);
            }
        }
    }
    parts.push(part);
    let parts = parts.iter().filter(|part| !part.trim().is_empty());
    parts.flat_map(|part| leaves(&format!("{}{}", stem.trim(), part.trim()))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_files(tree: &[(&str, &str)]) -> Vec<String> {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in tree {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        check(root.path()).unwrap().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn two_files_that_import_each_other_are_found() {
        let found =
            ["crates/a/src/one.rs: imports crates/a/src/two.rs, which imports it: move what both need"];
        for (one, two) in [
            ("use crate::two::B;", "use crate::one::A;"),
            ("use super::two::{B, C};", "pub(crate) use super::one::A;"),
            ("pub use crate::two;", "    use super::one;"),
        ] {
            let tree =
                [("crates/a/src/lib.rs", ""), ("crates/a/src/one.rs", one), ("crates/a/src/two.rs", two)];
            assert_eq!(check_files(&tree), found, "{one} {two}");
        }
    }

    #[test]
    fn a_file_and_the_parts_in_its_folder_are_one_thing() {
        let tree = |other| {
            [
                ("crates/a/src/one.rs", "use self::child::A;\nuse crate::ones::C;"),
                ("crates/a/src/one/child.rs", "use super::B;"),
                ("crates/a/src/ones.rs", other),
            ]
        };
        assert_eq!(check_files(&tree("")), [""; 0]);
        assert_eq!(check_files(&tree("use crate::one::B;")).len(), 1);
    }

    #[test]
    fn a_name_that_is_passed_on_is_taken_from_where_it_is_at_home() {
        let tree = |home: &str, again: &str| {
            [
                ("crates/a/src/lib.rs", "mod one;\nmod two;\npub use one::{A, B as C};".to_owned()),
                ("crates/a/src/one.rs", home.to_owned()),
                ("crates/a/src/two.rs", again.to_owned()),
            ]
        };
        let check = |home: &str, again: &str| {
            let tree = tree(home, again);
            check_files(&tree.each_ref().map(|(path, text)| (*path, text.as_str()))).len()
        };
        for again in [
            "use crate::A;",
            "use crate::{\n    C,\n    D,\n};",
            "use super::one::{self, A};",
            "use crate::{one::{x::Y}, D};",
        ] {
            assert_eq!(check("use crate::two::Z;", again), 1, "{again}");
        }
        assert_eq!(check("use crate::two::Z;", "use crate::D;"), 0);
        let parts = [
            ("crates/a/src/one.rs", "mod child;\npub(crate) use child::A;\nuse crate::two::Z;"),
            ("crates/a/src/one/child.rs", ""),
            ("crates/a/src/two.rs", "use crate::one::A;"),
        ];
        assert_eq!(check_files(&parts), [""; 0], "it is the child's");
    }

    #[test]
    fn one_way_the_root_and_tests_are_fine() {
        let tree = [
            ("crates/a/src/lib.rs", "mod one;\npub use one::A;"),
            (
                "crates/a/src/one.rs",
                "use crate::two::B;\nuse crate::A;\n#[cfg(test)]\nmod tests {\n use super::*; }",
            ),
            ("crates/a/src/two.rs", "#[cfg(test)]\nmod tests {\n use crate::one::A;\n}"),
            ("crates/a/src/one/tests.rs", "use super::*;"),
            ("crates/b/src/two.rs", "use crate::one::A;"),
        ];
        assert_eq!(check_files(&tree), [""; 0]);
    }
}
