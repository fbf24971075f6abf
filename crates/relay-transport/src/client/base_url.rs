//! The base URL of a relay.

use std::fmt;

use crate::Error;

/// The URL under which all paths of a relay lie, kept as it was given.
///
/// It may have a path prefix, with or without a trailing slash, as behind a reverse proxy or the service proxy of a
/// Kubernetes API server. Its percent-encoding is not touched.
///
/// ```
/// use relay_transport::BaseUrl;
/// let base = BaseUrl::parse("https://api.example/services/http:relay:8080/proxy%2F/")?;
/// assert_eq!(
///     base.join("/pods", &[("label", "app=web")]),
///     "https://api.example/services/http:relay:8080/proxy%2F/pods?label=app%3Dweb"
/// );
/// # Ok::<(), relay_transport::Error>(())
/// ```
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct BaseUrl {
    /// Without the trailing slash.
    url: String,
    origin: usize,
}

impl BaseUrl {
    /// Takes an absolute `http` or `https` URL.
    ///
    /// # Errors
    /// [`Error::Url`] for another scheme, a missing host, a query, a fragment, characters that no URL has, and for user
    /// information: a token has a place of its own, where it is not printed.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let refuse = |reason| Err(Error::Url { reason });
        let text = text.trim();
        if text.contains(['?', '#']) {
            return refuse("a base URL has no query and no fragment");
        }
        let Ok(uri) = text.parse::<http::Uri>() else { return refuse("it is no URL") };
        if !matches!(uri.scheme_str(), Some("http" | "https")) {
            return refuse("it does not begin with http:// or https://");
        }
        let Some(authority) = uri.authority() else { return refuse("it has no host") };
        if authority.as_str().contains('@') {
            return refuse("it has a user name; give credentials as a token");
        }
        if authority.host().is_empty()
            || (authority.as_str().len() > authority.host().len() && uri.port_u16().is_none())
        {
            return refuse("its host or port is not valid");
        }
        let url = text.trim_end_matches('/').to_owned();
        let origin = text.find("://").map_or(0, |at| at + 3) + authority.as_str().len();
        Ok(Self { url, origin })
    }

    /// Scheme, host and port, as given.
    pub fn origin(&self) -> &str {
        &self.url[..self.origin]
    }

    /// Whether a URL has the same scheme, host and port.
    pub(crate) fn is_origin_of(&self, uri: &http::Uri) -> bool {
        let parts = |uri: &http::Uri| {
            let default = if uri.scheme_str() == Some("https") { 443 } else { 80 };
            let host = uri.host().unwrap_or_default().to_ascii_lowercase();
            (uri.scheme_str().map(str::to_owned), host, uri.port_u16().unwrap_or(default))
        };
        self.origin().parse().is_ok_and(|own| parts(&own) == parts(uri))
    }

    /// The path prefix as given, without its trailing slash: empty when there is none.
    pub fn prefix(&self) -> &str {
        &self.url[self.origin..]
    }

    /// The URL of a path below the base, with a query.
    ///
    /// `path` may begin with a slash or not. Percent signs in it are kept: encode a part that may hold anything
    /// with [`segment`](Self::segment). Other characters that a path cannot have are encoded. Names and values of
    /// the query are encoded.
    pub fn join(&self, path: &str, query: &[(&str, &str)]) -> String {
        let mut url = self.url.clone();
        url.push('/');
        encode(&mut url, path.strip_prefix('/').unwrap_or(path), |byte| {
            is_unreserved(byte) || b"!$&'()*+,;=:@/%".contains(&byte)
        });
        for (index, (name, value)) in query.iter().enumerate() {
            url.push(if index == 0 { '?' } else { '&' });
            encode(&mut url, name, is_unreserved);
            url.push('=');
            encode(&mut url, value, is_unreserved);
        }
        url
    }

    /// Text as one segment of a path: slashes, percent signs and dot segments are encoded.
    pub fn segment(text: &str) -> String {
        match text {
            "." => "%2E".to_owned(),
            ".." => "%2E%2E".to_owned(),
            _ => {
                let mut segment = String::new();
                encode(&mut segment, text, is_unreserved);
                segment
            }
        }
    }
}

impl fmt::Display for BaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.url)
    }
}

impl fmt::Debug for BaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.url, f)
    }
}

impl std::str::FromStr for BaseUrl {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        Self::parse(text)
    }
}

fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~".contains(&byte)
}

fn encode(out: &mut String, text: &str, keep: impl Fn(u8) -> bool) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    for byte in text.bytes() {
        if keep(byte) {
            out.push(char::from(byte));
        } else {
            out.push('%');
            out.push(char::from(HEX[usize::from(byte >> 4)]));
            out.push(char::from(HEX[usize::from(byte & 15)]));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn joined_never_replaced() {
        for (base, path, query, url) in [
            ("http://h", "/pods", &[][..], "http://h/pods"),
            ("http://h/", "pods", &[], "http://h/pods"),
            ("http://h:8080/a/b", "/pods", &[], "http://h:8080/a/b/pods"),
            ("http://h:8080/a/b/", "/pods", &[], "http://h:8080/a/b/pods"),
            ("https://h/a%2Fb%20c", "x%2Fy", &[], "https://h/a%2Fb%20c/x%2Fy"),
            ("https://[::1]:1/p", "", &[], "https://[::1]:1/p/"),
            ("http://h", "/a b?c#d", &[], "http://h/a%20b%3Fc%23d"),
            ("http://h/p", "/e", &[("a", "1&2=3 é+"), ("a", "")], "http://h/p/e?a=1%262%3D3%20%C3%A9%2B&a="),
        ] {
            assert_eq!(BaseUrl::parse(base).unwrap().join(path, query), url, "{base} {path}");
        }
        let base = BaseUrl::parse("https://h:1/a/b/").unwrap();
        assert_eq!(
            (base.origin(), base.prefix(), base.to_string()),
            ("https://h:1", "/a/b", "https://h:1/a/b".into())
        );
        assert_eq!(BaseUrl::segment("a/b%2e..é"), "a%2Fb%252e..%C3%A9");
        assert_eq!(BaseUrl::segment(".."), "%2E%2E");
    }

    #[test]
    fn origins_are_the_same_however_they_are_written() {
        let base = BaseUrl::parse("https://Api.example/prefix").unwrap();
        for (url, same) in [
            ("https://api.example:443/other?x", true),
            ("https://api.example", true),
            ("http://api.example", false),
            ("https://api.example:6443", false),
            ("https://x.api.example", false),
        ] {
            assert_eq!(base.is_origin_of(&url.parse().unwrap()), same, "{url}");
        }
    }

    #[test]
    fn refused_without_showing_it() {
        for bad in [
            "",
            "h",
            "ftp://h/",
            "http://",
            "http:///p",
            "http://h?x",
            "http://h#x",
            "http://u:hunter2@h/",
            "http://h:x/",
            "http://h:99999/",
            "http://h /",
            "/p",
        ] {
            let error = BaseUrl::parse(bad).unwrap_err();
            assert!(!error.is_retryable());
            assert!(!format!("{error} {error:?}").contains("hunter2"));
        }
    }
}
