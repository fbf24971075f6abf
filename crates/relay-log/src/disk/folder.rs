//! Names of logs' folders.

use std::path::{Path, PathBuf};

use crate::LogName;

/// Bytes of a folder's name; file systems take 255.
const MAX: usize = 200;

/// The folder of the logs within a store's directory.
pub(super) fn logs(dir: &Path) -> PathBuf {
    dir.join("logs")
}

/// The folder of one log: its name with all but small letters, digits, `-`, `_` and inner dots percent-encoded, for
/// file systems that ignore case; or `~` and a digest of it when that is too long.
pub(super) fn of(dir: &Path, name: &LogName) -> PathBuf {
    let mut text = String::new();
    for (at, byte) in name.as_str().bytes().enumerate() {
        if matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_') || byte == b'.' && at > 0 {
            text.push(byte.into());
        } else {
            text.push_str(&format!("%{byte:02x}"));
        }
    }
    if text.len() > MAX {
        text = format!("~{}", blake3::hash(name.as_str().as_bytes()).to_hex());
    }
    logs(dir).join(text)
}

/// A temporary folder, for a log that is being created or removed.
pub(super) fn passing(dir: &Path) -> PathBuf {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).expect("the operating system gives random bytes");
    logs(dir).join(format!(".{:016x}", u64::from_le_bytes(bytes)))
}

pub(super) fn is_passing(file_name: &str) -> bool {
    file_name.starts_with('.')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_are_as_different_as_names() {
        let folder = |name: &str| {
            let path = of(Path::new("d"), &LogName::new(name).unwrap());
            path.strip_prefix("d/logs").unwrap().to_str().unwrap().to_owned()
        };
        assert_eq!(folder("pods"), "pods");
        assert_eq!(folder("v1.2_a-b"), "v1.2_a-b");
        assert_eq!(folder("/v1/A b"), "%2fv1%2f%41%20b");
        assert_eq!(folder(".."), "%2e.");
        assert_eq!(folder("~a"), "%7ea");
        assert_eq!(folder("%41"), "%2541");
        let long = folder(&"x".repeat(201));
        assert!(long.starts_with('~') && long.len() == 65, "{long}");
        assert_ne!(long, folder(&"x".repeat(202)));
        assert!(is_passing(passing(Path::new("d")).file_name().unwrap().to_str().unwrap()));
    }
}
