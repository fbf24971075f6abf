//! Environments and filters on the wire.

use std::borrow::Cow;
use std::fmt;

use super::key::KeyText;
use crate::json::lenient::{Read, Reader};

/// An environment in a put or a patch. Missing fields are empty, 0 or false.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct EnvironmentRep<'a> {
    /// `envID`: the id, again.
    pub env_id: Cow<'a, str>,
    /// `envKey`: its name for programs.
    pub env_key: Cow<'a, str>,
    /// `envName`: its name for people.
    pub env_name: Cow<'a, str>,
    /// `projKey`: the project's name for programs.
    pub proj_key: Cow<'a, str>,
    /// `projName`: the project's name for people.
    pub proj_name: Cow<'a, str>,
    /// `mobKey`: the primary mobile key; empty for none.
    pub mob_key: KeyText<'a>,
    /// `sdkKey`: the primary SDK key, and perhaps one that is accepted for a while.
    pub sdk_key: SdkKeyRep<'a>,
    /// `defaultTtl`, in minutes; 0 for unset.
    pub default_ttl: i64,
    /// `secureMode`.
    pub secure_mode: bool,
    /// `version`, compared with others of the same id only.
    pub version: i64,
    /// `sdkKeys`: all accepted SDK keys. Empty: those of `sdk_key`.
    pub sdk_keys: Vec<KeyEntry<'a>>,
    /// `mobileKeys`: all accepted mobile keys. Empty: `mob_key`.
    pub mobile_keys: Vec<KeyEntry<'a>>,
}

/// The field `sdkKey`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct SdkKeyRep<'a> {
    /// The primary key.
    pub value: KeyText<'a>,
    /// Another one that is accepted for a while; with an empty value there is none.
    pub expiring: Expiring<'a>,
}

/// A key that is accepted for a while.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Expiring<'a> {
    /// The key; empty for none.
    pub value: KeyText<'a>,
    /// Until when, in milliseconds since 1970; 0 is long over.
    pub timestamp: u64,
}

/// One entry of `sdkKeys` or `mobileKeys`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct KeyEntry<'a> {
    /// `key`: its name, which is no secret.
    pub name: Cow<'a, str>,
    /// `value`: the secret.
    pub value: KeyText<'a>,
    /// Until when it is accepted, in milliseconds since 1970; `None` for ever.
    pub expiry: Option<u64>,
    /// `hasViews`: it is valid for a part of the environment only, which is not supported.
    pub has_views: bool,
}

/// A filter in a put or a patch.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct FilterRep<'a> {
    /// `projKey`: the project it belongs to.
    pub proj_key: Cow<'a, str>,
    /// `key`: its name.
    pub key: Cow<'a, str>,
    /// `version`, compared with others of the same id only.
    pub version: i64,
}

/// Why a decoded environment is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Refusal {
    /// Its id is empty.
    NoId,
    /// Its `envID` is not the key of the map, or the end of the path.
    IdMismatch,
    /// It has no primary SDK key.
    NoSdkKey,
    /// An entry of its key lists has no value.
    EmptyKey,
    /// It lists SDK keys, and the primary one is not among them.
    PrimaryNotListed,
    /// It lists mobile keys, and the primary one is not among them.
    MobileNotListed,
    /// It lists mobile keys and has no primary one.
    NoPrimaryMobile,
}

impl Refusal {
    /// Its name in output: `no-id`, `id-mismatch`, `no-sdk-key`, `empty-key`, `primary-not-listed`,
    /// `mobile-not-listed` or `no-primary-mobile`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NoId => "no-id",
            Self::IdMismatch => "id-mismatch",
            Self::NoSdkKey => "no-sdk-key",
            Self::EmptyKey => "empty-key",
            Self::PrimaryNotListed => "primary-not-listed",
            Self::MobileNotListed => "mobile-not-listed",
            Self::NoPrimaryMobile => "no-primary-mobile",
        }
    }

    /// Whether the id is wrong, so that it is unknown which environment is meant.
    pub fn is_about_id(self) -> bool {
        matches!(self, Self::NoId | Self::IdMismatch)
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoId => "its id is empty",
            Self::IdMismatch => "its envID is not the id it came under",
            Self::NoSdkKey => "it has no SDK key",
            Self::EmptyKey => "a key in its lists has no value",
            Self::PrimaryNotListed => "its SDK key is not among its SDK keys",
            Self::MobileNotListed => "its mobile key is not among its mobile keys",
            Self::NoPrimaryMobile => "it has mobile keys, and none of them is the primary one",
        })
    }
}

impl std::error::Error for Refusal {}

impl EnvironmentRep<'_> {
    /// Checks that it is valid as the environment `id`.
    ///
    /// # Errors
    /// The [`Refusal`].
    pub fn judge(&self, id: &str) -> Result<(), Refusal> {
        if id.is_empty() {
            return Err(Refusal::NoId);
        }
        if self.env_id != id {
            return Err(Refusal::IdMismatch);
        }
        self.judge_keys()
    }

    /// As [`judge`](Self::judge), without the id.
    ///
    /// # Errors
    /// The [`Refusal`].
    pub fn judge_keys(&self) -> Result<(), Refusal> {
        let primary = &self.sdk_key.value;
        if primary.is_empty() {
            return Err(Refusal::NoSdkKey);
        }
        if self.sdk_keys.iter().chain(&self.mobile_keys).any(|entry| entry.value.is_empty()) {
            return Err(Refusal::EmptyKey);
        }
        let listed = |entries: &[KeyEntry<'_>], key: &KeyText<'_>| entries.iter().any(|e| e.value == *key);
        if !self.sdk_keys.is_empty() && !listed(&self.sdk_keys, primary) {
            return Err(Refusal::PrimaryNotListed);
        }
        if !self.mobile_keys.is_empty() {
            if self.mob_key.is_empty() {
                return Err(Refusal::NoPrimaryMobile);
            }
            if !listed(&self.mobile_keys, &self.mob_key) {
                return Err(Refusal::MobileNotListed);
            }
        }
        Ok(())
    }

    /// The same, without the message that it was borrowed from.
    pub fn into_owned(self) -> EnvironmentRep<'static> {
        let owned = |text: Cow<'_, str>| Cow::Owned(text.into_owned());
        let entries = |entries: Vec<KeyEntry<'_>>| entries.into_iter().map(KeyEntry::into_owned).collect();
        EnvironmentRep {
            env_id: owned(self.env_id),
            env_key: owned(self.env_key),
            env_name: owned(self.env_name),
            proj_key: owned(self.proj_key),
            proj_name: owned(self.proj_name),
            mob_key: self.mob_key.into_owned(),
            sdk_key: SdkKeyRep {
                value: self.sdk_key.value.into_owned(),
                expiring: Expiring {
                    value: self.sdk_key.expiring.value.into_owned(),
                    timestamp: self.sdk_key.expiring.timestamp,
                },
            },
            default_ttl: self.default_ttl,
            secure_mode: self.secure_mode,
            version: self.version,
            sdk_keys: entries(self.sdk_keys),
            mobile_keys: entries(self.mobile_keys),
        }
    }
}

impl KeyEntry<'_> {
    fn into_owned(self) -> KeyEntry<'static> {
        KeyEntry {
            name: Cow::Owned(self.name.into_owned()),
            value: self.value.into_owned(),
            expiry: self.expiry,
            has_views: self.has_views,
        }
    }
}

impl FilterRep<'_> {
    /// The same, without the message that it was borrowed from.
    pub fn into_owned(self) -> FilterRep<'static> {
        FilterRep {
            proj_key: Cow::Owned(self.proj_key.into_owned()),
            key: Cow::Owned(self.key.into_owned()),
            version: self.version,
        }
    }
}

const OBJECT: &str = "it must be an object";
const ARRAY: &str = "it must be an array";

/// Reads the fields of an object by their names, in any case. Other fields are skipped.
macro_rules! read_fields {
    ($reader:expr, { $($name:literal => $read:expr),* $(,)? }) => {
        $reader.object(OBJECT, |reader, key| {
            $(if key == $name || key.eq_ignore_ascii_case($name) {
                let read: &mut dyn FnMut(&mut Reader<'a>) -> Read<()> = &mut $read;
                return read(reader).map_err(|fault| fault.within($name));
            })*
            reader.skip().map(drop)
        })
    };
}
pub(super) use read_fields;

impl<'a> EnvironmentRep<'a> {
    pub(super) fn read(reader: &mut Reader<'a>) -> Read<Self> {
        let mut env = Self::default();
        read_fields!(reader, {
            "envID" => |r| { env.env_id = r.string()?; Ok(()) },
            "envKey" => |r| { env.env_key = r.string()?; Ok(()) },
            "envName" => |r| { env.env_name = r.string()?; Ok(()) },
            "mobKey" => |r| { env.mob_key = KeyText::new(r.string()?); Ok(()) },
            "projKey" => |r| { env.proj_key = r.string()?; Ok(()) },
            "projName" => |r| { env.proj_name = r.string()?; Ok(()) },
            "sdkKey" => |r| { env.sdk_key = SdkKeyRep::read(r)?; Ok(()) },
            "defaultTtl" => |r| { env.default_ttl = r.integer()?; Ok(()) },
            "secureMode" => |r| { env.secure_mode = r.boolean()?; Ok(()) },
            "version" => |r| { env.version = r.integer()?; Ok(()) },
            "sdkKeys" => |r| { env.sdk_keys = KeyEntry::read_all(r)?; Ok(()) },
            "mobileKeys" => |r| { env.mobile_keys = KeyEntry::read_all(r)?; Ok(()) },
        })?;
        Ok(env)
    }
}

impl<'a> SdkKeyRep<'a> {
    fn read(reader: &mut Reader<'a>) -> Read<Self> {
        let mut key = Self::default();
        read_fields!(reader, {
            "value" => |r| { key.value = KeyText::new(r.string()?); Ok(()) },
            "expiring" => |r| { key.expiring = Expiring::read(r)?; Ok(()) },
        })?;
        Ok(key)
    }
}

impl<'a> Expiring<'a> {
    fn read(reader: &mut Reader<'a>) -> Read<Self> {
        let mut expiring = Self::default();
        read_fields!(reader, {
            "value" => |r| { expiring.value = KeyText::new(r.string()?); Ok(()) },
            "timestamp" => |r| { expiring.timestamp = r.millis()?.unwrap_or_default(); Ok(()) },
        })?;
        Ok(expiring)
    }
}

impl<'a> KeyEntry<'a> {
    fn read_all(reader: &mut Reader<'a>) -> Read<Vec<Self>> {
        let mut entries = Vec::new();
        reader.array(ARRAY, |reader| {
            let entry = Self::read(reader).map_err(|fault| fault.within(&format!("[{}]", entries.len())))?;
            entries.push(entry);
            Ok(())
        })?;
        Ok(entries)
    }

    fn read(reader: &mut Reader<'a>) -> Read<Self> {
        let mut entry = Self::default();
        read_fields!(reader, {
            "key" => |r| { entry.name = r.string()?; Ok(()) },
            "value" => |r| { entry.value = KeyText::new(r.string()?); Ok(()) },
            "expiry" => |r| { entry.expiry = r.millis()?; Ok(()) },
            "hasViews" => |r| { entry.has_views = r.boolean()?; Ok(()) },
        })?;
        Ok(entry)
    }
}

impl<'a> FilterRep<'a> {
    pub(super) fn read(reader: &mut Reader<'a>) -> Read<Self> {
        let mut filter = Self::default();
        read_fields!(reader, {
            "projKey" => |r| { filter.proj_key = r.string()?; Ok(()) },
            "key" => |r| { filter.key = r.string()?; Ok(()) },
            "version" => |r| { filter.version = r.integer()?; Ok(()) },
        })?;
        Ok(filter)
    }
}

/// Reads a map of ids. Of an id that comes twice, the last counts. In the order of the ids.
pub(super) fn read_map<'a, T>(
    reader: &mut Reader<'a>,
    mut read: impl FnMut(&mut Reader<'a>) -> Read<T>,
) -> Read<Vec<(Cow<'a, str>, T)>> {
    let mut entries: Vec<(Cow<'a, str>, T)> = Vec::new();
    let mut sorted = true;
    reader.object(OBJECT, |reader, id| {
        let value = read(reader).map_err(|fault| fault.within(&id))?;
        sorted = sorted && entries.last().is_none_or(|(last, _)| *last < id);
        entries.push((id, value));
        Ok(())
    })?;
    if !sorted {
        // The sort is stable, so that from the end the last of several comes first.
        entries.sort_by(|(a, _), (b, _)| a.cmp(b));
        entries.reverse();
        entries.dedup_by(|(a, _), (b, _)| a == b);
        entries.reverse();
    }
    Ok(entries)
}
