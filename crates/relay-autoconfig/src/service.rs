//! The service that a URL names.

/// A name of a service: its URL without insignificant parts.
pub(crate) fn service(url: &str) -> &str {
    let url = url.trim();
    if url.contains('?') { url } else { url.trim_end_matches('/') }
}

/// A URL without its query, which may hold a secret.
pub(crate) fn shown(url: &str) -> &str {
    url.split('?').next().unwrap_or_default()
}
