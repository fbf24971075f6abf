//! The delay that a server asks for.

use std::time::{Duration, SystemTime};

use http::HeaderMap;
use http::header::{DATE, RETRY_AFTER};
use relay_proto::http::ResponseHead;

/// The `Retry-After` of a response, from seconds or from a date; `None` when it is missing, malformed or in the past. A
/// date is compared with the `Date` of the response, or with this machine's clock if there is none.
pub fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let mut head = ResponseHead::new(0, "").unix_time(since_1970);
    for name in [RETRY_AFTER, DATE] {
        if let Some(value) = headers.get(&name) {
            head = head.header(name.as_str(), value.as_bytes());
        }
    }
    head.retry_after()
}
