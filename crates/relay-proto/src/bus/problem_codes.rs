//! Problem codes of a bus, in addition to those of [`ProblemCode`].

use crate::problem::ProblemCode;

/// The Host names no channel.
pub const BAD_HOST: ProblemCode = ProblemCode::new("bad-host", 400, "The host names no channel");
/// The channel is not one that this bus has provisioned.
pub const UNKNOWN_CHANNEL: ProblemCode = ProblemCode::new("unknown-channel", 404, "The channel is not known");
/// The body is encoded.
pub const ENCODED_BODY: ProblemCode = ProblemCode::new("encoded-body", 415, "The body is encoded");
/// The body is incomplete, or its chunks are malformed.
pub const BAD_BODY: ProblemCode = ProblemCode::new("bad-body", 400, "The body cannot be read");
/// CloudEvents are required, and this message is not one.
pub const NOT_A_CLOUDEVENT: ProblemCode =
    ProblemCode::new("not-a-cloudevent", 400, "The message is not a CloudEvent");
/// The store of the bus is unreachable or full.
pub const STORE_UNAVAILABLE: ProblemCode =
    ProblemCode::new("store-unavailable", 503, "The store is not available");
/// The receiver function failed.
pub const BUS_FAILED: ProblemCode = ProblemCode::new("bus-failed", 500, "The bus failed");

/// Those above.
pub const ALL: &[ProblemCode] =
    &[BAD_HOST, UNKNOWN_CHANNEL, ENCODED_BODY, BAD_BODY, NOT_A_CLOUDEVENT, STORE_UNAVAILABLE, BUS_FAILED];
