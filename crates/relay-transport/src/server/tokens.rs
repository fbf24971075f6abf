//! The tokens file.

use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use sha2::{Digest, Sha256};
use tokio_util::sync::CancellationToken;

use relay_proto::error::chain;
use relay_proto::mark::without_mark;
use relay_proto::secret::same_in_constant_time;

/// The rights of a token: the fields of its line after the subject. Each system has its own type.
pub trait Rights: Clone + PartialEq + fmt::Debug + Send + Sync + 'static {
    /// The format of a line, for errors: `a line is TOKEN SUBJECT NAMESPACES`.
    const LINE: &'static str;

    /// Reads the fields; none of them begins with `#`.
    ///
    /// # Errors
    /// The rule that a field breaks, or [`Self::LINE`] when there are too many or too few.
    fn parse(fields: &[&str]) -> Result<Self, &'static str>;
}

/// A credential's owner and rights. Cheap to clone where the rights are.
#[derive(Clone)]
pub struct Principal<R> {
    /// The owner, for logs; `None` while no tokens are configured.
    pub subject: Option<Arc<str>>,
    /// The rights.
    pub rights: R,
    /// Cancelled when the credential is withdrawn, or its rights change.
    pub revoked: CancellationToken,
    /// Digest of its token.
    digest: Option<[u8; 32]>,
}

impl<R> Principal<R> {
    /// Everyone, while no tokens are configured.
    pub fn anyone(rights: R) -> Self {
        Self { subject: None, rights, revoked: CancellationToken::new(), digest: None }
    }
}

impl<R: fmt::Debug> fmt::Debug for Principal<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Principal")
            .field("subject", &self.subject)
            .field("rights", &self.rights)
            .finish_non_exhaustive()
    }
}

/// The tokens of one version of the file.
#[derive(Debug)]
pub struct Tokens<R>(Vec<Token<R>>);

struct Token<R> {
    digest: [u8; 32],
    principal: Principal<R>,
}

/// The tokens file as it is now: read again when it changes.
///
/// A line is `TOKEN SUBJECT RIGHTS..`; a token may be given as `sha256:` and the 64 hex digits of its digest; `#`
/// begins a comment. The file must not be readable by others, holds at most 10,000 tokens and 4 MiB, and nothing of
/// it is ever quoted. When a new version of the file is not valid, the tokens stay as they were.
#[derive(Debug)]
pub struct TokenWatch<R> {
    path: PathBuf,
    state: RwLock<(Vec<u8>, Arc<Tokens<R>>)>,
}

impl<R: Rights> Tokens<R> {
    /// The maximum number of lines with a token.
    const MAX: usize = 10_000;

    /// Parses a file: `TOKEN SUBJECT RIGHTS..` per line.
    fn parse(text: &str) -> Result<Self, TokensError> {
        let mut tokens: Vec<Token<R>> = Vec::new();
        for (at, line) in text.lines().enumerate() {
            let invalid = |rule| TokensError::Line { line: at + 1, rule };
            let mut fields = line.split_whitespace();
            let Some(token) = fields.next().filter(|field| !field.starts_with('#')) else { continue };
            let fields: Vec<&str> = fields.take_while(|field| !field.starts_with('#')).collect();
            let Some((subject, rights)) = fields.split_first() else { return Err(invalid(R::LINE)) };
            let digest = match token.strip_prefix("sha256:") {
                Some(hex) => parse_hex(hex).ok_or_else(|| invalid("sha256: is followed by 64 hex digits"))?,
                None => Sha256::digest(token.as_bytes()).into(),
            };
            let rights = R::parse(rights).map_err(invalid)?;
            if tokens.iter().any(|known| known.digest == digest) {
                return Err(invalid("the token stands in an earlier line"));
            }
            if tokens.len() == Self::MAX {
                return Err(invalid("a file holds at most 10,000 tokens"));
            }
            let principal = Principal {
                subject: Some((*subject).into()),
                rights,
                revoked: CancellationToken::new(),
                digest: Some(digest),
            };
            tokens.push(Token { digest, principal });
        }
        Ok(Self(tokens))
    }

    /// The owner of a token. The time of the look-up does not depend on the token.
    pub fn find(&self, token: &[u8]) -> Option<Principal<R>> {
        let digest: [u8; 32] = Sha256::digest(token).into();
        let mut found = None;
        for known in &self.0 {
            if same_in_constant_time(&known.digest, &digest) {
                found = Some(&known.principal);
            }
        }
        found.cloned()
    }

    /// The same token in this reading, for a caller whose principal from an earlier reading was revoked.
    pub fn again(&self, principal: &Principal<R>) -> Option<Principal<R>> {
        let known = self.0.iter().find(|known| Some(known.digest) == principal.digest);
        known.map(|known| known.principal.clone())
    }

    /// Keeps the principals whose rights are unchanged, and revokes the others.
    fn succeed(&mut self, former: &Self) {
        for old in &former.0 {
            let same = self.0.iter_mut().find(|new| {
                new.digest == old.digest
                    && new.principal.subject == old.principal.subject
                    && new.principal.rights == old.principal.rights
            });
            match same {
                Some(new) => new.principal = old.principal.clone(),
                None => old.principal.revoked.cancel(),
            }
        }
    }
}

impl<R: Rights> TokenWatch<R> {
    /// Reads the file for the first time.
    ///
    /// # Errors
    /// When it cannot be read, others may read it, or a line is malformed.
    pub fn open(path: &Path) -> Result<Self, TokensError> {
        let text = read(path)?;
        let tokens = Tokens::parse(as_text(&text)?)?;
        Ok(Self { path: path.into(), state: RwLock::new((text, Arc::new(tokens))) })
    }

    /// The tokens as of the last good reading.
    pub fn current(&self) -> Arc<Tokens<R>> {
        self.state.read().unwrap_or_else(PoisonError::into_inner).1.clone()
    }

    /// Reads the file again; true when it had changed. Blocks for as long as reading a small file takes, and for
    /// 100 ms when it differs: a file that is being written in place must not be read half-written, because that
    /// would close streams of tokens that are still valid.
    ///
    /// # Errors
    /// When the new version is not valid: the tokens stay as they were.
    pub fn refresh(&self) -> Result<bool, TokensError> {
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

    /// Reads the file again every second, for ever. Logs changes and, once for each reason, why a version is not
    /// valid; calls `failed` for every reading that failed.
    pub async fn keep_fresh(self: Arc<Self>, failed: impl Fn()) {
        let mut tick = tokio::time::interval(Duration::from_secs(1));
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut complaint = String::new();
        loop {
            tick.tick().await;
            let reader = self.clone();
            match tokio::task::spawn_blocking(move || reader.refresh()).await {
                Ok(Ok(changed)) => {
                    complaint.clear();
                    if changed {
                        tracing::info!("the tokens file was read again");
                    }
                }
                Ok(Err(error)) => {
                    failed();
                    let text = chain(&error).to_string();
                    if text != complaint {
                        tracing::error!(error = text, "the tokens stay as they were");
                        complaint = text;
                    }
                }
                Err(_) => {}
            }
        }
    }
}

/// How long a changed file must stay the same before it is used.
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
    // A byte order mark would become part of the first token.
    std::str::from_utf8(without_mark(bytes)).map_err(broken)
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
    #[error("the tokens file {path} cannot be read", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// Its mode lets every user of the machine read it.
    #[error("the tokens file {path} may be read by others (mode {mode:04o}): run chmod o-r on it, or mount its Secret with defaultMode: 0440", path = path.display())]
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

impl<R: fmt::Debug> fmt::Debug for Token<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token({:?})", self.principal)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `*`, or a list of words in lower case with commas.
    #[derive(Debug, Clone, PartialEq)]
    struct Words(Vec<String>);

    impl Rights for Words {
        const LINE: &'static str = "a line is TOKEN SUBJECT WORDS";

        fn parse(fields: &[&str]) -> Result<Self, &'static str> {
            let [words] = fields else { return Err(Self::LINE) };
            let word = |word: &str| !word.is_empty() && word.bytes().all(|b| b.is_ascii_lowercase());
            match *words == "*" || words.split(',').all(word) {
                true => Ok(Self(words.split(',').map(Into::into).collect())),
                false => Err("WORDS is * or a comma list"),
            }
        }
    }

    type Tokens = super::Tokens<Words>;
    type TokenWatch = super::TokenWatch<Words>;

    const TEXT: &str = "\
# who may see what
alpha ops *

  beta\tci prod,dev   # the build machine
sha256:2CF24DBA5FB0A30E26E83B2AC5B9E29E1B161E5C1FA7425E73043362938B9824 hashed default
";

    #[test]
    fn a_mark_is_no_part_of_the_first_token() {
        let text =
            format!("\u{feff}{}", TEXT.trim_start_matches("# who may see what\n").replace('\n', "\r\n"));
        let tokens = Tokens::parse(as_text(text.as_bytes()).unwrap()).unwrap();
        assert!(tokens.find(b"alpha").is_some() && tokens.find("\u{feff}alpha".as_bytes()).is_none());
        assert!(as_text(b"\xff\xfea\0").is_err());
    }

    #[test]
    fn lines_are_token_subject_and_rights() {
        let tokens = Tokens::parse(TEXT).unwrap();
        let rights = |token: &str| {
            let principal = tokens.find(token.as_bytes())?;
            Some((principal.subject.unwrap().to_string(), principal.rights.0.join("+")))
        };
        assert_eq!(rights("alpha"), Some(("ops".into(), "*".into())));
        assert_eq!(rights("beta"), Some(("ci".into(), "prod+dev".into())));
        assert_eq!(rights("hello"), Some(("hashed".into(), "default".into())));
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
        assert_eq!(new.again(&principals[1]).map(|p| p.rights), new.find(b"b").map(|p| p.rights));
        assert!(new.again(&principals[2]).is_none());
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
        // An invalid version of the file changes nothing.
        std::fs::write(&path, "delta\n").unwrap();
        assert!(watch.refresh().is_err());
        mode(0o644);
        assert!(watch.refresh().is_err());
        assert!(watch.current().find(b"gamma").is_some());
    }

    /// A link to a file in a folder, whose name is a link too and is changed as a whole.
    #[cfg(unix)]
    #[test]
    fn a_mounted_secret_is_judged_by_the_file_behind_its_links() {
        use std::os::unix::fs::{PermissionsExt, symlink};
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tokens");
        let version = |name: &str, text: &str, mode| {
            let folder = dir.path().join(name);
            std::fs::create_dir(&folder).unwrap();
            std::fs::write(folder.join("tokens"), text).unwrap();
            std::fs::set_permissions(folder.join("tokens"), std::fs::Permissions::from_mode(mode)).unwrap();
            symlink(name, dir.path().join("..data_tmp")).unwrap();
            std::fs::rename(dir.path().join("..data_tmp"), dir.path().join("..data")).unwrap();
        };
        symlink("..data/tokens", &path).unwrap();
        version("..1", TEXT, 0o644);
        let error = TokenWatch::open(&path).unwrap_err().to_string();
        assert!(error.contains("mode 0644") && error.contains("defaultMode: 0440"), "{error}");
        version("..2", TEXT, 0o440);
        let watch = TokenWatch::open(&path).unwrap();
        assert!(watch.current().find(b"alpha").is_some());
        version("..3", "gamma new *\n", 0o440);
        assert!(watch.refresh().unwrap());
        assert!(watch.current().find(b"gamma").is_some() && watch.current().find(b"alpha").is_none());
    }
}
