//! Problem codes of a Parsec server, in addition to those of [`ProblemCode`].

use crate::problem::ProblemCode;

/// The body is not an envelope that can be published.
pub const BAD_ENVELOPE: ProblemCode = ProblemCode::new("bad-envelope", 400, "The envelope is not valid");
/// The credential may not use this channel.
pub const FORBIDDEN_CHANNEL: ProblemCode =
    ProblemCode::new("forbidden-channel", 403, "The channel is not allowed");
/// The producer's sequence is not above the last accepted one.
pub const SEQUENCE_CONFLICT: ProblemCode =
    ProblemCode::new("sequence-conflict", 409, "The sequence was used before");
/// The envelope exceeds the size limit.
pub const ENVELOPE_TOO_LARGE: ProblemCode =
    ProblemCode::new("envelope-too-large", 413, "The envelope is too large");
/// The payload does not match the schema of its aspect.
pub const PAYLOAD_INVALID: ProblemCode =
    ProblemCode::new("payload-invalid", 422, "The payload does not fit its schema");
/// The channel's pattern does not declare the aspect.
pub const UNSUPPORTED_ASPECT: ProblemCode =
    ProblemCode::new("unsupported-aspect", 422, "The aspect is not declared");
/// The limit of channels is reached.
pub const TOO_MANY_CHANNELS: ProblemCode = ProblemCode::new("too-many-channels", 429, "Too many channels");

/// All of the constants above.
pub const ALL: &[ProblemCode] = &[
    BAD_ENVELOPE,
    FORBIDDEN_CHANNEL,
    SEQUENCE_CONFLICT,
    ENVELOPE_TOO_LARGE,
    PAYLOAD_INVALID,
    UNSUPPORTED_ASPECT,
    TOO_MANY_CHANNELS,
];
