//! The tokens file.

use std::collections::BTreeSet;
use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use relay_proto::pods::Filter;
use sha2::{Digest, Sha256};
use tokio_util::sync::CancellationToken;

use super::Principal;
use crate::cursor::same_in_constant_time;

/// The tokens of one reading of the file.
#[derive(Debug, Default)]
pub(crate) struct Tokens(Vec<Token>);

struct Token {
    digest: [u8; 32],
    principal: Principal,
}

/// The tokens file as it is now: read again when it changes.
#[derive(Debug)]
pub(crate) struct TokenWatch {
    path: PathBuf,
    state: RwLock<(Vec<u8>, Arc<Tokens>)>,
}

impl Tokens {
    /// Most lines with a token.
    const MAX: usize = 10_000;

    /// Parses a file: `TOKEN SUBJECT NAMESPACES` per line.
    fn parse(text: &str) -> Result<Self, TokensError> {
        let mut tokens: Vec<Token> = Vec::new();
        for (at, line) in text.lines().enumerate() {
            let invalid = |rule| TokensError::Line { line: at + 1, rule };
            let mut fields = line.split_whitespace();
            let Some(token) = fields.next().filter(|field| !field.starts_with('#')) else { continue };
            let (Some(subject), Some(namespaces)) = (fields.next(), fields.next()) else {
                return Err(invalid("a line is TOKEN SUBJECT NAMESPACES"));
            };
            if [subject, namespaces].iter().any(|field| field.starts_with('#'))
                || fields.next().is_some_and(|field| !field.starts_with('#'))
            {
                return Err(invalid("a line is TOKEN SUBJECT NAMESPACES"));
            }
            let digest = match token.strip_prefix("sha256:") {
                Some(hex) => parse_hex(hex).ok_or_else(|| invalid("sha256: is followed by 64 hex digits"))?,
                None => Sha256::digest(token.as_bytes()).into(),
            };
            let namespaces = parse_namespaces(namespaces)
                .ok_or_else(|| invalid("NAMESPACES is * or a comma list of DNS-1123 labels"))?;
            if tokens.iter().any(|known| known.digest == digest) {
                return Err(invalid("the token stands in an earlier line"));
            }
            if tokens.len() == Self::MAX {
                return Err(invalid("a file holds at most 10,000 tokens"));
            }
            let principal = Principal {
                subject: Some(subject.into()),
                namespaces: namespaces.map(Arc::new),
                revoked: CancellationToken::new(),
            };
            tokens.push(Token { digest, principal });
        }
        Ok(Self(tokens))
    }

    /// Whose token it is. Takes equally long whatever the token is like.
    pub(crate) fn find(&self, token: &[u8]) -> Option<Principal> {
        let digest: [u8; 32] = Sha256::digest(token).into();
        let mut found = None;
        for known in &self.0 {
            if same_in_constant_time(&known.digest, &digest) {
                found = Some(&known.principal);
            }
        }
        found.cloned()
    }

    /// Takes over the principals whose rights are the same, and revokes the others.
    fn succeed(&mut self, former: &Self) {
        for old in &former.0 {
            let same = self.0.iter_mut().find(|new| {
                new.digest == old.digest
                    && new.principal.subject == old.principal.subject
                    && new.principal.namespaces == old.principal.namespaces
            });
            match same {
                Some(new) => new.principal = old.principal.clone(),
                None => old.principal.revoked.cancel(),
            }
        }
    }
}

impl TokenWatch {
    /// Reads the file for the first time.
    ///
    /// # Errors
    /// When it cannot be read, others may read it, or a line is malformed.
    pub(crate) fn open(path: &Path) -> Result<Self, TokensError> {
        let text = read(path)?;
        let tokens = Tokens::parse(as_text(&text)?)?;
        Ok(Self { path: path.into(), state: RwLock::new((text, Arc::new(tokens))) })
    }

    /// The tokens as of the last good reading.
    pub(crate) fn current(&self) -> Arc<Tokens> {
        self.state.read().unwrap_or_else(PoisonError::into_inner).1.clone()
    }

    /// Reads the file again; true when it had changed. Blocks for as long as reading a small file takes, and for
    /// [`SETTLE`] when it differs: a file that is being written in place is not taken half-written, which would close the
    /// streams of tokens that are about to come back.
    ///
    /// # Errors
    /// When the file is no longer good: the tokens stay as they were.
    pub(crate) fn refresh(&self) -> Result<bool, TokensError> {
        let text = read(&self.path)?;
        if self.state.read().unwrap_or_else(PoisonError::into_inner).0 == text {
            return Ok(false);
        }
        std::thread::sleep(SETTLE);
        if read(&self.path)? != text {
            return Ok(false);
        }
        let mut tokens = Tokens::parse(as_text(&text)?)?;
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        tokens.succeed(&state.1);
        *state = (text, Arc::new(tokens));
        Ok(true)
    }
}

/// How long a changed file has to stay as it is before it is taken.
const SETTLE: Duration = Duration::from_millis(100);
/// Largest tokens file in bytes.
const MAX_BYTES: u64 = 4 << 20;

fn read(path: &Path) -> Result<Vec<u8>, TokensError> {
    let io = |source| TokensError::Read { path: path.into(), source };
    let file = std::fs::File::open(path).map_err(io)?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = file.metadata().map_err(io)?.permissions().mode() & 0o7777;
        if mode & 0o004 != 0 {
            return Err(TokensError::Readable { path: path.into(), mode });
        }
    }
    let mut text = Vec::new();
    file.take(MAX_BYTES + 1).read_to_end(&mut text).map_err(io)?;
    if text.len() as u64 > MAX_BYTES {
        return Err(io(std::io::Error::new(std::io::ErrorKind::FileTooLarge, "it is over 4 MiB")));
    }
    Ok(text)
}

fn as_text(bytes: &[u8]) -> Result<&str, TokensError> {
    let broken = |error: std::str::Utf8Error| {
        let line = bytes[..error.valid_up_to()].iter().filter(|&&b| b == b'\n').count() + 1;
        TokensError::Line { line, rule: "the file is UTF-8 text" }
    };
    std::str::from_utf8(bytes).map_err(broken)
}

/// `Some(None)` is all namespaces.
#[allow(clippy::option_option, reason = "the outer option says whether the text is well-formed")]
fn parse_namespaces(text: &str) -> Option<Option<BTreeSet<String>>> {
    if text == "*" {
        return Some(None);
    }
    let mut namespaces = BTreeSet::new();
    for namespace in text.split(',') {
        Filter::new().namespace(namespace).ok()?;
        namespaces.insert(namespace.to_owned());
    }
    Some(Some(namespaces))
}

fn parse_hex(hex: &str) -> Option<[u8; 32]> {
    let digits: Vec<u32> = hex.chars().map(|c| c.to_digit(16)).collect::<Option<_>>()?;
    let bytes: Vec<u8> =
        digits.chunks(2).map(|pair| pair.iter().fold(0, |acc, d| acc << 4 | *d as u8)).collect();
    if digits.len() == 64 { bytes.try_into().ok() } else { None }
}

/// Why a tokens file is refused. Never quotes the file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokensError {
    /// It cannot be read.
    #[error("the tokens file {path} cannot be read: {source}", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What happened.
        source: std::io::Error,
    },
    /// Its mode lets every user of the machine read it.
    #[error("the tokens file {path} may be read by others (mode {mode:04o}): run chmod o-r on it", path = path.display())]
    Readable {
        /// The file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// A line is malformed.
    #[error("line {line} of the tokens file: {rule}")]
    Line {
        /// The line, from 1.
        line: usize,
        /// What it should be.
        rule: &'static str,
    },
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token({:?})", self.principal)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
# who may see what
alpha ops *

  beta\tci prod,dev   # the build machine
sha256:2CF24DBA5FB0A30E26E83B2AC5B9E29E1B161E5C1FA7425E73043362938B9824 hashed default
";

    #[test]
    fn lines_are_token_subject_namespaces() {
        let tokens = Tokens::parse(TEXT).unwrap();
        let rights = |token: &str| {
            let principal = tokens.find(token.as_bytes())?;
            let namespaces = principal.namespaces.map(|n| n.iter().cloned().collect::<Vec<_>>().join("+"));
            Some((principal.subject.unwrap().to_string(), namespaces))
        };
        assert_eq!(rights("alpha"), Some(("ops".into(), None)));
        assert_eq!(rights("beta"), Some(("ci".into(), Some("dev+prod".into()))));
        assert_eq!(rights("hello"), Some(("hashed".into(), Some("default".into()))));
        for unknown in [
            "",
            "alph",
            "alphaa",
            "#",
            "sha256:2CF24DBA5FB0A30E26E83B2AC5B9E29E1B161E5C1FA7425E73043362938B9824",
        ] {
            assert_eq!(rights(unknown), None, "{unknown}");
        }
    }

    #[test]
    fn a_malformed_line_is_named_and_not_quoted() {
        for (text, why) in [
            ("s3cret", "line 1"),
            ("# x\ns3cret subject", "line 2"),
            ("s3cret subject # all", "line 1"),
            ("s3cret subject a b", "line 1"),
            ("s3cret subject a,,b", "comma list"),
            ("s3cret subject PROD", "comma list"),
            ("s3cret subject *,a", "comma list"),
            ("sha256:abc subject *", "64 hex"),
            ("s3cret subject *\ns3cret other *", "line 2"),
        ] {
            let error = Tokens::parse(text).unwrap_err().to_string();
            assert!(error.contains(why) && !error.contains("s3cret"), "{text}: {error}");
        }
    }

    #[test]
    fn only_changed_rights_are_revoked() {
        let old = Tokens::parse("a one *\nb two prod\nc three dev\nd four x\n").unwrap();
        let principals: Vec<_> =
            ["a", "b", "c", "d"].iter().map(|t| old.find(t.as_bytes()).unwrap()).collect();
        let mut new = Tokens::parse("a one *\nb two prod,dev\nd renamed x\n").unwrap();
        new.succeed(&old);
        let revoked: Vec<_> = principals.iter().map(|p| p.revoked.is_cancelled()).collect();
        assert_eq!(revoked, [false, true, true, true]);
        assert!(!new.find(b"b").unwrap().revoked.is_cancelled());
        old.find(b"a").unwrap().revoked.cancel();
        assert!(new.find(b"a").unwrap().revoked.is_cancelled(), "the same credential goes on");
    }

    #[cfg(unix)]
    #[test]
    fn a_file_that_others_may_read_is_refused() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tokens");
        std::fs::write(&path, TEXT).unwrap();
        let mode = |mode| std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        mode(0o644);
        let error = TokenWatch::open(&path).unwrap_err().to_string();
        assert!(error.contains("0644") && error.contains("may be read by others"), "{error}");
        mode(0o640);
        let watch = TokenWatch::open(&path).unwrap();
        assert!(!watch.refresh().unwrap());
        std::fs::write(&path, "gamma new *\n").unwrap();
        assert!(watch.refresh().unwrap());
        assert!(watch.current().find(b"gamma").is_some() && watch.current().find(b"alpha").is_none());
        // What is no longer good changes nothing.
        std::fs::write(&path, "delta\n").unwrap();
        assert!(watch.refresh().is_err());
        mode(0o644);
        assert!(watch.refresh().is_err());
        assert!(watch.current().find(b"gamma").is_some());
    }
}
