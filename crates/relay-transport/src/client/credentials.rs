//! Secrets and their sources: values, files, functions, commands.

use std::ffi::OsString;
use std::fmt;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use futures_util::future::BoxFuture;
use http::header::{AUTHORIZATION, HeaderName};
use http::{HeaderMap, HeaderValue};
use tokio::io::AsyncReadExt;
use tokio::time::Instant;

use crate::Error;
use crate::client::error::BoxError;
use relay_proto::error::chain;
use relay_proto::mark::without_mark;

/// Text that is never printed. Clones share it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Arc<str>);

impl Secret {
    /// Wraps the text.
    pub fn new(text: impl Into<Arc<str>>) -> Self {
        Self(text.into())
    }

    /// The text itself: for a header or a body, not for a log.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// The value of an `Authorization` header with this as a bearer token, marked as sensitive.
    ///
    /// # Errors
    /// [`Error::Credentials`] when the text is not valid in a header.
    pub fn bearer(&self) -> Result<HeaderValue, Error> {
        header(&format!("Bearer {}", self.0))
    }

    /// The value of a header with just this, marked as sensitive.
    ///
    /// # Errors
    /// [`Error::Credentials`] when the text is not valid in a header.
    pub fn header(&self) -> Result<HeaderValue, Error> {
        header(&self.0)
    }
}

fn header(text: &str) -> Result<HeaderValue, Error> {
    let mut value = HeaderValue::from_str(text).map_err(|_| Error::Credentials {
        what: "the token has characters that no header can hold".to_owned(),
        source: None,
    })?;
    value.set_sensitive(true);
    Ok(value)
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self::new(text)
    }
}

impl From<&str> for Secret {
    fn from(text: &str) -> Self {
        Self::new(text)
    }
}

/// Header for a server's own token, when `Authorization` belongs to a proxy in front of it.
const RELAY_TOKEN: HeaderName = HeaderName::from_static("x-relay-token");

/// A proxy in front of a server, and its credentials, sent in `Authorization`. If there is one, the server's own
/// token travels in `X-Relay-Token`.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub enum Outer {
    /// No proxy: `Authorization` is for the server.
    #[default]
    None,
    /// A proxy that needs no credential, for example because it knows our certificate.
    Known,
    /// A proxy that takes a bearer token.
    Bearer(TokenSource),
    /// A proxy that takes another scheme: this is the whole header.
    Header(TokenSource),
}

impl Outer {
    /// Puts the credentials of one request into its headers: those for the proxy, and the server's own token.
    ///
    /// # Errors
    /// When the source for the proxy fails, or a text is not valid in a header.
    pub async fn authorize(&self, token: Option<&Secret>, headers: &mut HeaderMap) -> Result<(), Error> {
        let outer = match self {
            Self::None => {
                if let Some(token) = token {
                    headers.insert(AUTHORIZATION, token.bearer()?);
                }
                return Ok(());
            }
            Self::Known => None,
            Self::Bearer(source) => Some(source.token().await?.bearer()?),
            Self::Header(source) => Some(source.token().await?.header()?),
        };
        if let Some(outer) = outer {
            headers.insert(AUTHORIZATION, outer);
        }
        if let Some(token) = token {
            headers.insert(RELAY_TOKEN, token.header()?);
        }
        Ok(())
    }
}

/// The source of a token, called before each request that needs one. Clones share the cached token.
#[derive(Clone)]
pub struct TokenSource(Source);

/// Returns a token. The argument says whether the last one was refused.
type Function = dyn Fn(bool) -> BoxFuture<'static, Result<Secret, BoxError>> + Send + Sync;

#[derive(Clone)]
enum Source {
    Fixed(Secret),
    File(Arc<File>),
    Function { ask: Arc<Function>, refreshes: bool },
    Command(Arc<Command>),
}

impl TokenSource {
    /// Always this one.
    pub fn fixed(token: impl Into<Secret>) -> Self {
        Self(Source::Fixed(token.into()))
    }

    /// The content of a file without white space around it or a UTF-8 mark before it, read again when the file's
    /// time, size or identity changes.
    ///
    /// When a later read fails, the last token is kept, because a rotation may be half done.
    pub fn file(path: impl Into<PathBuf>) -> Self {
        Self(Source::File(Arc::new(File { path: path.into(), read: Mutex::new(None) })))
    }

    /// The result of a function, which is called each time and may cache.
    pub fn function<F, Fut, E>(function: F) -> Self
    where
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Secret, E>> + Send + 'static,
        E: Into<BoxError>,
    {
        Self::asked(move |_| function(), false)
    }

    /// The result of a function, which may cache unless it is called with `true`: then its last token was refused,
    /// and a new one is needed.
    pub fn refreshing<F, Fut, E>(function: F) -> Self
    where
        F: Fn(bool) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Secret, E>> + Send + 'static,
        E: Into<BoxError>,
    {
        Self::asked(function, true)
    }

    fn asked<F, Fut, E>(function: F, refreshes: bool) -> Self
    where
        F: Fn(bool) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Secret, E>> + Send + 'static,
        E: Into<BoxError>,
    {
        let ask = move |fresh| -> BoxFuture<'static, Result<Secret, BoxError>> {
            let token = function(fresh);
            Box::pin(async move { token.await.map_err(Into::into) })
        };
        Self(Source::Function { ask: Arc::new(ask), refreshes })
    }

    /// The standard output of a program, without white space around it. It runs at most once per `keep`, and again
    /// when [`fresh_token`](Self::fresh_token) is asked for.
    ///
    /// Its time limit is 30 s; a failing exit status is an error, whatever it wrote. Its standard error is
    /// discarded.
    pub fn command<A: Into<OsString>>(
        program: impl Into<OsString>,
        arguments: impl IntoIterator<Item = A>,
        keep: Duration,
    ) -> Self {
        Self(Source::Command(Arc::new(Command {
            program: program.into(),
            arguments: arguments.into_iter().map(Into::into).collect(),
            keep,
            last: tokio::sync::Mutex::new(None),
        })))
    }

    /// Whether [`fresh_token`](Self::fresh_token) may give another token than the one that was refused, although
    /// [`token`](Self::token) would give the same: true of [`command`](Self::command) and
    /// [`refreshing`](Self::refreshing).
    pub fn can_refresh(&self) -> bool {
        matches!(&self.0, Source::Command(_) | Source::Function { refreshes: true, .. })
    }

    /// A new token after one was refused, if the source can give one: a command runs again. For sources that are
    /// read each time this is [`token`](Self::token).
    ///
    /// # Errors
    /// As [`token`](Self::token).
    pub async fn fresh_token(&self) -> Result<Secret, Error> {
        match &self.0 {
            Source::Command(command) => command.token(Duration::ZERO).await,
            Source::Function { ask, .. } => called(ask(true).await),
            _ => self.token().await,
        }
    }

    /// The token to use now.
    ///
    /// # Errors
    /// [`Error::Credentials`] when there is none: the message names the source, never the content.
    pub async fn token(&self) -> Result<Secret, Error> {
        match &self.0 {
            Source::Fixed(token) => Ok(token.clone()),
            Source::File(file) => {
                let file = file.clone();
                let path = file.path.clone();
                tokio::task::spawn_blocking(move || file.token())
                    .await
                    .map_err(|error| credentials(&path, "cannot be read", Some(error.into())))?
            }
            Source::Function { ask, .. } => called(ask(false).await),
            Source::Command(command) => command.token(command.keep).await,
        }
    }
}

impl fmt::Debug for TokenSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Source::Fixed(_) => f.write_str("TokenSource::fixed(***)"),
            Source::File(file) => write!(f, "TokenSource::file({:?})", file.path),
            Source::Function { .. } => f.write_str("TokenSource::function(..)"),
            // Its arguments may be secrets.
            Source::Command(command) => write!(f, "TokenSource::command({:?})", command.program),
        }
    }
}

fn called(token: Result<Secret, BoxError>) -> Result<Secret, Error> {
    token.map_err(|source| Error::Credentials {
        what: "the token source failed".to_owned(),
        source: Some(source),
    })
}

struct File {
    path: PathBuf,
    read: Mutex<Option<(Stamp, Secret)>>,
}

/// Distinguishes versions of a file without reading it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stamp {
    modified: Option<SystemTime>,
    size: u64,
    inode: u64,
}

impl Stamp {
    pub(crate) fn of(path: &Path) -> std::io::Result<Self> {
        let data = std::fs::metadata(path)?;
        #[cfg(unix)]
        let inode = std::os::unix::fs::MetadataExt::ino(&data);
        #[cfg(not(unix))]
        let inode = 0;
        Ok(Self { modified: data.modified().ok(), size: data.len(), inode })
    }
}

struct Command {
    program: OsString,
    arguments: Vec<OsString>,
    keep: Duration,
    last: tokio::sync::Mutex<Option<(Instant, Secret)>>,
}

/// Time limit of a command.
const PATIENCE: Duration = Duration::from_secs(30);

impl Command {
    /// Runs of one command do not overlap: callers during a run share its result.
    async fn token(&self, keep: Duration) -> Result<Secret, Error> {
        let asked = Instant::now();
        let mut last = self.last.lock().await;
        if let Some((at, token)) = &*last
            && (at.elapsed() < keep || *at > asked)
        {
            return Ok(token.clone());
        }
        let fail = |what: &str, source: Option<BoxError>| Error::Credentials {
            what: format!("command {} {what}", self.program.display()),
            source,
        };
        let output = tokio::time::timeout(PATIENCE, self.run())
            .await
            .map_err(|_| fail("did not end in time", None))?
            .map_err(|error| fail("failed", Some(error)))?;
        let token = Secret::new(output.trim());
        if token.expose().is_empty() {
            return Err(fail("wrote nothing", None));
        }
        *last = Some((Instant::now(), token.clone()));
        Ok(token)
    }

    async fn run(&self) -> Result<String, BoxError> {
        let mut child = tokio::process::Command::new(&self.program)
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()?;
        let mut output = Vec::new();
        if let Some(stdout) = child.stdout.take() {
            // Closing the pipe at the limit ends a program that writes more.
            stdout.take(LONGEST).read_to_end(&mut output).await?;
        }
        let status = child.wait().await?;
        if !status.success() {
            return Err(status.to_string().into());
        }
        Ok(String::from_utf8(output).map_err(|_| "it did not write text")?)
    }
}

/// Size limit of a token file, in bytes.
const LONGEST: u64 = 64 << 10;

impl File {
    fn token(&self) -> Result<Secret, Error> {
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = Stamp::of(&self.path)
            .map_err(|error| credentials(&self.path, "cannot be read", Some(error.into())))
            .and_then(|stamp| match &*read {
                Some((known, token)) if *known == stamp => Ok((stamp, token.clone())),
                _ => Ok((stamp.clone(), self.content(&stamp)?)),
            });
        match (fresh, &*read) {
            (Ok(fresh), _) => Ok(read.insert(fresh).1.clone()),
            (Err(error), Some((_, token))) => {
                tracing::warn!(error = %chain(&error), "token kept");
                Ok(token.clone())
            }
            (Err(error), None) => Err(error),
        }
    }

    fn content(&self, stamp: &Stamp) -> Result<Secret, Error> {
        if stamp.size > LONGEST {
            return Err(credentials(&self.path, "is too long to hold a token", None));
        }
        let mut bytes = Vec::new();
        std::fs::File::open(&self.path)
            // Files without a size, such as pipes, may have no end.
            .and_then(|file| file.take(LONGEST + 1).read_to_end(&mut bytes))
            .map_err(|error| credentials(&self.path, "cannot be read", Some(error.into())))?;
        if bytes.len() as u64 > LONGEST {
            return Err(credentials(&self.path, "is too long to hold a token", None));
        }
        let text = str::from_utf8(without_mark(&bytes))
            .map_err(|_| credentials(&self.path, "does not hold UTF-8 text", None))?;
        match text.trim() {
            "" => Err(credentials(&self.path, "is empty", None)),
            token => Ok(Secret::new(token)),
        }
    }
}

fn credentials(path: &Path, what: &str, source: Option<BoxError>) -> Error {
    Error::Credentials { what: format!("token file {} {what}", path.display()), source }
}
