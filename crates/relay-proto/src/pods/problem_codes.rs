//! Problem codes of a Pod Event Relay, in addition to those of [`ProblemCode`].

use crate::problem::ProblemCode;

/// The session ticket was used before.
pub const SESSION_USED: ProblemCode = ProblemCode::new("session-used", 401, "The session was used before");
/// The session ticket is too old.
pub const SESSION_EXPIRED: ProblemCode = ProblemCode::new("session-expired", 401, "The session has expired");
/// The session ticket is not known, or belongs to another client.
pub const SESSION_UNKNOWN: ProblemCode = ProblemCode::new("session-unknown", 401, "The session is not known");
/// The credential may not see this namespace.
pub const FORBIDDEN_NAMESPACE: ProblemCode =
    ProblemCode::new("forbidden-namespace", 403, "The namespace is not allowed");
/// The next event after the cursor is no longer retained.
pub const CURSOR_EXPIRED: ProblemCode = ProblemCode::new("cursor-expired", 410, "The cursor has expired");
/// The cursor is not of this log.
pub const CURSOR_UNKNOWN: ProblemCode = ProblemCode::new("cursor-unknown", 410, "The cursor is not known");

/// Those above.
pub const ALL: &[ProblemCode] =
    &[SESSION_USED, SESSION_EXPIRED, SESSION_UNKNOWN, FORBIDDEN_NAMESPACE, CURSOR_EXPIRED, CURSOR_UNKNOWN];
