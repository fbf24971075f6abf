//! Which service a URL names.

/// One service, one text: the URL as it was given, without what makes no difference.
pub(crate) fn service(url: &str) -> &str {
    let url = url.trim();
    if url.contains('?') { url } else { url.trim_end_matches('/') }
}

/// A URL without its query, which may hold a secret.
pub(crate) fn shown(url: &str) -> &str {
    url.split('?').next().unwrap_or_default()
}
