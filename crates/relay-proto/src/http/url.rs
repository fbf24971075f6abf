//! References to absolute URLs: as much of RFC 3986 as redirects need.

use alloc::string::String;
use alloc::vec::Vec;

/// The absolute `http` or `https` URL that `reference` (for example a `Location`) means in a response from `base`.
///
/// Nothing is decoded or encoded; the fragment is dropped. `None` when the result would not be such a URL, has
/// characters that no URL has, or has a user name, because that would be a credential chosen by the server.
///
/// ```
/// use relay_proto::http::resolve;
/// assert_eq!(resolve("http://a/b/c?d", "../e%2F?f#g").as_deref(), Some("http://a/e%2F?f"));
/// assert_eq!(resolve("https://a/b", "//c:8443").as_deref(), Some("https://c:8443/"));
/// assert_eq!(resolve("http://a/", "ftp://b/"), None);
/// ```
pub fn resolve(base: &str, reference: &str) -> Option<String> {
    let reference = reference.split('#').next().unwrap_or_default();
    if reference.bytes().any(|byte| byte <= b' ' || byte == 0x7f || byte == b'\\') {
        return None;
    }
    let mut url = String::new();
    if let Some((scheme, rest)) = split_scheme(reference) {
        url.push_str(http_scheme(scheme)?);
        let rest = rest.strip_prefix("//")?;
        push_hierarchy(&mut url, rest)?;
        return Some(url);
    }
    let base = Parts::of(base)?;
    url.push_str(base.scheme);
    if let Some(rest) = reference.strip_prefix("//") {
        push_hierarchy(&mut url, rest)?;
        return Some(url);
    }
    url.push_str("://");
    url.push_str(base.host);
    let (path, query) = split_query(reference);
    if path.is_empty() {
        url.push_str(if base.path.is_empty() { "/" } else { base.path });
        url.push_str(if query.is_empty() { base.query } else { query });
    } else if path.starts_with('/') {
        push_path(&mut url, "", path);
        url.push_str(query);
    } else {
        let parent = base.path.rfind('/').map_or("/", |slash| &base.path[..=slash]);
        push_path(&mut url, parent, path);
        url.push_str(query);
    }
    Some(url)
}

/// A URL for messages: without user name and password, which are credentials. A text without a scheme is kept.
///
/// ```
/// use relay_proto::http::without_userinfo;
/// assert_eq!(without_userinfo("https://me:pw@host:8443/a@b"), "https://host:8443/a@b");
/// assert_eq!(without_userinfo("/a@b"), "/a@b");
/// ```
pub fn without_userinfo(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.into() };
    let (authority, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
    let host = authority.rsplit('@').next().unwrap_or_default();
    [scheme, "://", host, path].concat()
}

/// Whether two absolute URLs have the same scheme, host and port, so that a secret of one may be shown to the other.
///
/// A URL of another scheme has the same origin as no URL.
pub fn same_origin(one: &str, other: &str) -> bool {
    match (Parts::of(one), Parts::of(other)) {
        (Some(one), Some(other)) => {
            let ((host, port), (other_host, other_port)) = (one.host_and_port(), other.host_and_port());
            one.scheme == other.scheme && port == other_port && host.eq_ignore_ascii_case(other_host)
        }
        _ => false,
    }
}

struct Parts<'u> {
    scheme: &'static str,
    /// With port, without user information.
    host: &'u str,
    path: &'u str,
    /// With its question mark, or empty.
    query: &'u str,
}

impl<'u> Parts<'u> {
    fn of(url: &'u str) -> Option<Self> {
        let (scheme, rest) = split_scheme(url)?;
        let scheme = http_scheme(scheme)?;
        let rest = rest.strip_prefix("//")?.split('#').next().unwrap_or_default();
        let (authority, after) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        let host = authority.rsplit('@').next().unwrap_or_default();
        let (path, query) = split_query(after);
        (!host.is_empty()).then_some(Self { scheme, host, path, query })
    }

    /// The port as a number when it is one; anything else equals only itself.
    fn host_and_port(&self) -> (&'u str, Result<u16, &'u str>) {
        let default = if self.scheme == "https" { 443 } else { 80 };
        // The colons of an IPv6 address are in brackets.
        match self.host.rsplit_once(':') {
            Some((host, port)) if !port.contains(']') => match port {
                "" => (host, Ok(default)),
                _ => (host, port.parse().map_err(|_| port)),
            },
            _ => (self.host, Ok(default)),
        }
    }
}

fn http_scheme(scheme: &str) -> Option<&'static str> {
    ["http", "https"].into_iter().find(|known| scheme.eq_ignore_ascii_case(known))
}

/// The scheme and the text after its colon. A colon after a slash, after a question mark or at the start does not end a
/// scheme.
fn split_scheme(reference: &str) -> Option<(&str, &str)> {
    let (scheme, rest) = reference.split_once(':')?;
    let mut bytes = scheme.bytes();
    let valid = bytes.next().is_some_and(|first| first.is_ascii_alphabetic())
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.'));
    valid.then_some((scheme, rest))
}

/// Path, and query with its question mark.
fn split_query(rest: &str) -> (&str, &str) {
    rest.split_at(rest.find('?').unwrap_or(rest.len()))
}

/// `://`, authority, path and query of a reference that has its own authority.
fn push_hierarchy(url: &mut String, rest: &str) -> Option<()> {
    let (authority, after) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    if !is_host_and_port(authority) {
        return None;
    }
    let (path, query) = split_query(after);
    url.push_str("://");
    url.push_str(authority);
    push_path(url, "", if path.is_empty() { "/" } else { path });
    url.push_str(query);
    Some(())
}

/// Whether this is a host, perhaps with a port, and nothing else: no user information, no half of an IPv6 address.
fn is_host_and_port(authority: &str) -> bool {
    let (host_is_sound, port) = match authority.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((address, port)) => (address.parse::<core::net::Ipv6Addr>().is_ok(), port),
            None => return false,
        },
        None => {
            let (host, port) = authority.split_at(authority.find(':').unwrap_or(authority.len()));
            (!host.is_empty() && !host.contains(['[', ']', '@']), port)
        }
    };
    let port_is_sound = match port.strip_prefix(':') {
        Some(digits) => {
            digits.is_empty() || digits.bytes().all(|b| b.is_ascii_digit()) && digits.parse::<u16>().is_ok()
        }
        None => port.is_empty(),
    };
    host_is_sound && port_is_sound
}

/// The path of `parent` followed by `path`, without `.` and `..`.
fn push_path(url: &mut String, parent: &str, path: &str) {
    let mut kept: Vec<&str> = Vec::new();
    let mut open_end = false;
    // What is before the first slash is no segment, and the parent's last, empty one is replaced by the path.
    let above = parent.strip_suffix('/').unwrap_or_default().split('/').skip(1);
    for segment in above.chain(path.split('/').skip(usize::from(path.starts_with('/')))) {
        open_end = matches!(segment, "." | "..");
        match segment {
            "." => {}
            ".." => {
                kept.pop();
            }
            _ => kept.push(segment),
        }
    }
    for segment in &kept {
        url.push('/');
        url.push_str(segment);
    }
    if open_end || kept.is_empty() {
        url.push('/');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_resolve_as_the_standard_says() {
        // The examples of RFC 3986, section 5.4, with an http base.
        let base = "http://a/b/c/d;p?q";
        for (reference, expected) in [
            ("g", "http://a/b/c/g"),
            ("./g", "http://a/b/c/g"),
            ("g/", "http://a/b/c/g/"),
            ("/g", "http://a/g"),
            ("//g", "http://g/"),
            ("?y", "http://a/b/c/d;p?y"),
            ("g?y", "http://a/b/c/g?y"),
            ("#s", "http://a/b/c/d;p?q"),
            ("g#s", "http://a/b/c/g"),
            (";x", "http://a/b/c/;x"),
            ("", "http://a/b/c/d;p?q"),
            (".", "http://a/b/c/"),
            ("./", "http://a/b/c/"),
            ("..", "http://a/b/"),
            ("../g", "http://a/b/g"),
            ("../..", "http://a/"),
            ("../../g", "http://a/g"),
            ("../../../g", "http://a/g"),
            ("/./g", "http://a/g"),
            ("/../g", "http://a/g"),
            ("g.", "http://a/b/c/g."),
            ("..g", "http://a/b/c/..g"),
            ("./g/.", "http://a/b/c/g/"),
            ("g/../h", "http://a/b/c/h"),
            ("g?y/../x", "http://a/b/c/g?y/../x"),
            ("a:80/x", ""),
            ("HTTPS://H/p", "https://H/p"),
            ("https://h?x", "https://h/?x"),
            ("https://[::1]:8443/x", "https://[::1]:8443/x"),
            ("%2e%2e/g", "http://a/b/c/%2e%2e/g"),
            ("//", ""),
            ("http:g", ""),
            ("http://", ""),
            ("http://:80/", ""),
            ("http://[", ""),
            ("http://[::1", ""),
            ("http://[]/", ""),
            ("http://[::1]x/", ""),
            ("http://h]/", ""),
            ("http://h:x/", ""),
            ("http://h:+1/", ""),
            ("http://h:65536/", ""),
            ("http://h:1:2/", ""),
            ("http://h:/", "http://h:/"),
            ("//h:65535", "http://h:65535/"),
            ("http://user:secret@h/", ""),
            ("ftp://h/", ""),
            ("javascript:alert(1)", ""),
            ("/a b", ""),
            ("/a\r\nX: y", ""),
            ("/\\evil", ""),
        ] {
            assert_eq!(resolve(base, reference).unwrap_or_default(), expected, "{reference}");
        }
        assert_eq!(resolve("http://a", "g").as_deref(), Some("http://a/g"));
        assert_eq!(resolve("http://u:p@a:81/x", "/g").as_deref(), Some("http://a:81/g"));
        assert_eq!(resolve("", "/g"), None);
        assert_eq!(resolve("", "http://h/g").as_deref(), Some("http://h/g"));
    }

    #[test]
    fn origins() {
        for (one, other, same) in [
            ("http://h/a", "http://h/b", true),
            ("http://h/a", "http://H:80/", true),
            ("https://h:443", "https://h/x?y", true),
            ("http://u:p@h/a", "http://h/b", true),
            ("http://[::1]/", "http://[::1]:80/", true),
            ("http://h/", "https://h/", false),
            ("http://h/", "http://h:81/", false),
            ("http://h/", "http://h.evil/", false),
            ("http://h/", "http://h@evil/", false),
            ("http://[::1]:1/", "http://[::1]:2/", false),
            ("", "", false),
            ("ftp://h/", "ftp://h/", false),
        ] {
            assert_eq!(same_origin(one, other), same, "{one} {other}");
            assert_eq!(same_origin(other, one), same, "{other} {one}");
        }
    }
}
