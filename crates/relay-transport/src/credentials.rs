//! Secrets, and where they come from.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use futures_util::future::BoxFuture;
use http::HeaderValue;

use crate::Error;
use crate::error::BoxError;

/// Text that is never printed. Cloning shares it.
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
    /// [`Error::Credentials`] when the text cannot stand in a header.
    pub fn bearer(&self) -> Result<HeaderValue, Error> {
        header(&format!("Bearer {}", self.0))
    }

    /// The value of a header with just this, marked as sensitive.
    ///
    /// # Errors
    /// [`Error::Credentials`] when the text cannot stand in a header.
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

/// Where a token comes from, asked before each request that needs one. Cloning shares what is remembered.
#[derive(Clone)]
pub struct TokenSource(Source);

type Function = dyn Fn() -> BoxFuture<'static, Result<Secret, BoxError>> + Send + Sync;

#[derive(Clone)]
enum Source {
    Fixed(Secret),
    File(Arc<File>),
    Function(Arc<Function>),
}

impl TokenSource {
    /// Always this one.
    pub fn fixed(token: impl Into<Secret>) -> Self {
        Self(Source::Fixed(token.into()))
    }

    /// The content of a file without white space around it, read again when the file's time, size or identity changes.
    ///
    /// When a later read fails, the token that was read last is used on, as a rotation may be half done.
    pub fn file(path: impl Into<PathBuf>) -> Self {
        Self(Source::File(Arc::new(File { path: path.into(), read: Mutex::new(None) })))
    }

    /// Whatever the function gives; it is asked each time and may cache.
    pub fn function<F, Fut, E>(function: F) -> Self
    where
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Secret, E>> + Send + 'static,
        E: Into<BoxError>,
    {
        Self(Source::Function(Arc::new(move || {
            let token = function();
            Box::pin(async move { token.await.map_err(Into::into) })
        })))
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
            Source::Function(function) => function().await.map_err(|source| Error::Credentials {
                what: "the token source failed".to_owned(),
                source: Some(source),
            }),
        }
    }
}

impl fmt::Debug for TokenSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Source::Fixed(_) => f.write_str("TokenSource::fixed(***)"),
            Source::File(file) => write!(f, "TokenSource::file({:?})", file.path),
            Source::Function(_) => f.write_str("TokenSource::function(..)"),
        }
    }
}

struct File {
    path: PathBuf,
    read: Mutex<Option<(Stamp, Secret)>>,
}

/// Tells one version of a file from another without reading it.
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

/// Longest token read; a file that is longer is something else.
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
                tracing::warn!(error = %error.line(), "token kept");
                Ok(token.clone())
            }
            (Err(error), None) => Err(error),
        }
    }

    fn content(&self, stamp: &Stamp) -> Result<Secret, Error> {
        if stamp.size > LONGEST {
            return Err(credentials(&self.path, "is too long to hold a token", None));
        }
        let text = std::fs::read_to_string(&self.path)
            .map_err(|error| credentials(&self.path, "cannot be read", Some(error.into())))?;
        match text.trim() {
            "" => Err(credentials(&self.path, "is empty", None)),
            token => Ok(Secret::new(token)),
        }
    }
}

fn credentials(path: &Path, what: &str, source: Option<BoxError>) -> Error {
    Error::Credentials { what: format!("token file {} {what}", path.display()), source }
}
