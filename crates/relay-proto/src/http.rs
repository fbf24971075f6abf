//! Rules of HTTP that every client here follows, without I/O: reading a response head, following redirects, and
//! which credentials to send with them.
//!
//! ```
//! use core::time::Duration;
//! use relay_proto::http::{Redirect, ResponseHead};
//!
//! let head = ResponseHead::new(503, "https://relay.example/pods").header("Retry-After", b"7");
//! assert_eq!(head.retry_after(), Some(Duration::from_secs(7)));
//!
//! let redirect = Redirect::new("https://relay.example/pods", 307, "https://elsewhere.example/pods").unwrap();
//! assert!(!redirect.may_carry_secrets());
//! ```

mod head;
mod redirect;
mod url;

pub use head::{ResponseHead, is_html, media_type};
pub use redirect::Redirect;
pub use url::{resolve, same_origin, without_userinfo};
