//! Access control: rights to read and write channels.

use std::sync::Arc;

use relay_proto::parsec::{Pattern, problems};
use relay_proto::problem::Problem;
use relay_transport::server::{self, Refusal, Rights};

/// A credential of the tokens file.
pub(crate) type Principal = server::Principal<ChannelRights>;
/// The tokens file.
pub(crate) type TokenWatch = server::TokenWatch<ChannelRights>;

/// The channels that a credential may read, and those that it may publish to. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ChannelRights {
    read: Reach,
    write: Reach,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Reach {
    All,
    /// None of them: nothing.
    Patterns(Arc<[Pattern]>),
}

impl Reach {
    fn parse(field: &str) -> Result<Self, &'static str> {
        match field {
            "*" => Ok(Self::All),
            "-" => Ok(Self::Patterns(Arc::new([]))),
            list => {
                let patterns: Result<Vec<_>, _> = list.split(',').map(Pattern::parse).collect();
                let patterns =
                    patterns.map_err(|_| "READ and WRITE are *, - or a comma list of channel patterns")?;
                Ok(Self::Patterns(patterns.into()))
            }
        }
    }

    fn holds(&self, channel: &str) -> bool {
        match self {
            Self::All => true,
            Self::Patterns(patterns) => patterns.iter().any(|pattern| pattern.matches(channel).is_some()),
        }
    }
}

impl Rights for ChannelRights {
    const LINE: &'static str = "a line is TOKEN SUBJECT READ [WRITE]";

    fn parse(fields: &[&str]) -> Result<Self, &'static str> {
        let (read, write) = match fields {
            [read] => (read, read),
            [read, write] => (read, write),
            _ => return Err(Self::LINE),
        };
        Ok(Self { read: Reach::parse(read)?, write: Reach::parse(write)? })
    }
}

impl ChannelRights {
    /// Everything.
    pub(crate) fn all() -> Self {
        Self { read: Reach::All, write: Reach::All }
    }

    pub(crate) fn may_read(&self, channel: &str) -> bool {
        self.read.holds(channel)
    }

    /// # Errors
    /// 403 `forbidden-channel`.
    pub(crate) fn check_read(&self, channel: &str) -> Result<(), Refusal> {
        if self.may_read(channel) { Ok(()) } else { Err(forbidden(channel, "read")) }
    }

    /// # Errors
    /// 403 `forbidden-channel`.
    pub(crate) fn check_write(&self, channel: &str) -> Result<(), Refusal> {
        if self.write.holds(channel) { Ok(()) } else { Err(forbidden(channel, "publish to")) }
    }
}

fn forbidden(channel: &str, what: &str) -> Refusal {
    let detail = format!("channel {channel}: the credential may not {what} it");
    Box::new(Problem::new(problems::FORBIDDEN_CHANNEL, detail))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn read_and_write_are_told_apart() {
        for (fields, read, write) in [
            (&["*"][..], [true, true], [true, true]),
            (&["*", "-"], [true, true], [false, false]),
            (&["-", "*"], [false, false], [true, true]),
            (&["public:a.**"], [true, false], [true, false]),
            (&["public:a.**,public:b.*", "public:b.{x}"], [true, true], [false, true]),
        ] {
            let rights = ChannelRights::parse(fields).unwrap();
            let channels = ["public:a.b.c", "public:b.d"];
            assert_eq!(channels.map(|channel| rights.may_read(channel)), read, "{fields:?}");
            assert_eq!(channels.map(|channel| rights.check_write(channel).is_ok()), write, "{fields:?}");
        }
        for fields in [&[][..], &["*", "*", "*"], &["a..b"], &["a,"], &["a*"]] {
            assert!(ChannelRights::parse(fields).is_err(), "{fields:?}");
        }
    }
}
