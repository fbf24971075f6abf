//! Checks of envelopes against their channel's pattern.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use super::{Mismatch, PayloadRef, Registry, RegistryError};

/// How strict a validator is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum ValidatorMode {
    /// Everything passes without a check.
    #[default]
    Off,
    /// Everything passes, with a warning for mismatches.
    Warn,
    /// Mismatches are rejected.
    Strict,
}

/// Checks envelopes against a [`Registry`]. Cheap to clone.
///
/// A channel without a matching pattern passes in every mode, and so does an aspect without a schema.
#[derive(Debug, Clone, Default)]
pub struct Validator {
    registry: Option<Arc<Registry>>,
    mode: ValidatorMode,
}

/// The result of a check.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Validation {
    /// The envelope matches, or there is no declaration for it.
    Passed,
    /// The envelope does not match for this reason, but passes: warn mode.
    Warned(Rejection),
    /// The envelope does not match: strict mode.
    Rejected(Rejection),
}

/// Why an envelope does not match.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Rejection {
    /// The pattern does not declare the aspect.
    #[error("pattern {pattern:?} declares no aspect {aspect:?}")]
    UnsupportedAspect {
        /// The pattern that matches the channel.
        pattern: String,
        /// The aspect.
        aspect: String,
    },
    /// The payload does not match the aspect's schema.
    #[error("payload does not fit the schema of aspect {aspect:?}")]
    PayloadInvalid {
        /// The aspect.
        aspect: String,
        /// Where and why.
        #[source]
        mismatch: Mismatch,
    },
}

impl Rejection {
    /// `unsupported-aspect` or `payload-invalid`.
    pub fn code(&self) -> &'static str {
        match self {
            Self::UnsupportedAspect { .. } => "unsupported-aspect",
            Self::PayloadInvalid { .. } => "payload-invalid",
        }
    }

    /// The reason, with its details, on one line.
    pub fn reason(&self) -> String {
        match self {
            Self::UnsupportedAspect { .. } => self.to_string(),
            Self::PayloadInvalid { mismatch, .. } => format!("{self}: {mismatch}"),
        }
    }
}

impl Validator {
    /// A validator with a registry.
    pub fn new(registry: impl Into<Arc<Registry>>, mode: ValidatorMode) -> Self {
        Self { registry: Some(registry.into()), mode }
    }

    /// The mode.
    pub fn mode(&self) -> ValidatorMode {
        self.mode
    }

    /// Checks an envelope's aspect and payload.
    pub fn check(&self, channel: &str, aspect: &str, payload: Option<PayloadRef<'_>>) -> Validation {
        let Some(registry) = self.registry.as_ref().filter(|_| self.mode != ValidatorMode::Off) else {
            return Validation::Passed;
        };
        let rejection = match registry.resolve_aspect(channel, aspect) {
            Ok(declared) => {
                let payload = payload.map_or("", PayloadRef::as_str);
                let checked = declared.payload_schema.as_ref().map_or(Ok(()), |schema| schema.check(payload));
                let Err(mismatch) = checked else { return Validation::Passed };
                Rejection::PayloadInvalid { aspect: aspect.to_owned(), mismatch }
            }
            Err(RegistryError::AspectNotFound { pattern, aspect }) => {
                Rejection::UnsupportedAspect { pattern, aspect }
            }
            Err(_) => return Validation::Passed,
        };
        if self.mode == ValidatorMode::Strict {
            Validation::Rejected(rejection)
        } else {
            Validation::Warned(rejection)
        }
    }
}

impl FromStr for ValidatorMode {
    type Err = String;

    /// `off`, `warn` or `strict`; empty counts as `off`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "" | "off" => Ok(Self::Off),
            "warn" => Ok(Self::Warn),
            "strict" => Ok(Self::Strict),
            _ => Err("one of off, warn, strict".into()),
        }
    }
}

impl fmt::Display for ValidatorMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Off => "off",
            Self::Warn => "warn",
            Self::Strict => "strict",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::Payload;
    use super::*;

    /// Behaviours 22 and 23.
    #[test]
    fn behaviours_22_and_23_modes() {
        let schema = r#"[{"pattern":"public:**","aspects":{"free":{},"said":{"payload_schema":
            {"type":"object","required":["text"],"properties":{"text":{"type":"string"}}}}}}]"#;
        let registry = Arc::new(Registry::from_json(schema.as_bytes()).unwrap());
        let check = |mode: ValidatorMode, channel: &str, aspect: &str, payload: &str| {
            let payload = (!payload.is_empty()).then(|| Payload::parse(payload).unwrap());
            match Validator::new(registry.clone(), mode).check(
                channel,
                aspect,
                payload.as_ref().map(PayloadRef::from),
            ) {
                Validation::Passed => "passed".to_owned(),
                Validation::Warned(why) => format!("warned {}", why.code()),
                Validation::Rejected(why) => format!("rejected {}", why.reason()),
            }
        };
        use ValidatorMode::{Off, Strict, Warn};
        let bad = "rejected payload does not fit the schema of aspect \"said\": ";
        for (mode, channel, aspect, payload, said) in [
            (Strict, "public:a", "said", r#"{"text":"ok"}"#, "passed".to_owned()),
            (Strict, "public:a", "said", r#"{"text":42}"#, format!("{bad}.text: not a string")),
            (Strict, "public:a", "said", "", format!("{bad}<root>: required member \"text\" is missing")),
            (Strict, "public:a", "free", "17", "passed".into()),
            (Strict, "public:a", "x", "1", "rejected pattern \"public:**\" declares no aspect \"x\"".into()),
            (Strict, "other:a", "x", "1", "passed".into()),
            (Warn, "public:a", "said", "1", "warned payload-invalid".into()),
            (Warn, "public:a", "x", "1", "warned unsupported-aspect".into()),
            (Off, "public:a", "said", "1", "passed".into()),
        ] {
            assert_eq!(check(mode, channel, aspect, payload), said, "{mode} {channel} {aspect}");
        }
        assert_eq!(Validator::default().check("public:a", "x", None), Validation::Passed);
        assert_eq!("".parse(), Ok(Off));
        assert!("hard".parse::<ValidatorMode>().is_err());
    }
}
