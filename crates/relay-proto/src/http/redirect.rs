//! Targets of redirects, and what may be sent to them.

use alloc::borrow::ToOwned;
use alloc::string::String;

/// The target of one redirect or of several in a row.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Redirect {
    pub(super) url: String,
    pub(super) secrets: bool,
    pub(super) see_other: bool,
    pub(super) moved: bool,
}

impl Redirect {
    /// The first redirect of a request to `from`; `None` when `location` is not a usable URL.
    pub fn new(from: &str, status: u16, location: &str) -> Option<Self> {
        Self { url: from.to_owned(), secrets: true, see_other: false, moved: false }.then(status, location)
    }

    /// The next redirect in a row.
    pub fn then(&self, status: u16, location: &str) -> Option<Self> {
        let url = super::resolve(&self.url, location)?;
        Some(Self {
            secrets: self.secrets && super::same_origin(&self.url, &url),
            see_other: self.see_other || status == 303,
            moved: self.moved || matches!(status, 301 | 302),
            url,
        })
    }

    /// The absolute URL to request, without a fragment.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Whether credentials may be sent: false once a redirect has led to another scheme, host or port.
    pub fn may_carry_secrets(&self) -> bool {
        self.secrets
    }

    /// The method to use when the caller's was `method`: 303 turns everything but HEAD to GET, 301 and 302 turn POST
    /// to GET. When it changes, the body is dropped with it.
    pub fn method<'m>(&self, method: &'m str) -> &'m str {
        match method {
            "HEAD" => method,
            _ if self.see_other => "GET",
            "POST" if self.moved => "GET",
            _ => method,
        }
    }
}
