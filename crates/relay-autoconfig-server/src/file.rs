//! The file of environments.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::path::{Path, PathBuf};

use relay_proto::autoconfig::{EnvironmentRep, FilterRep, KeyEntry, KeyText, Refusal};
use relay_proto::time::Timestamp;

use crate::node::Node;

/// Size limit of the file.
const LARGEST: u64 = 256 << 20;

/// The configured environments and filters. Versions in it are lower bounds, 0 for none.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Configuration {
    pub(crate) environments: BTreeMap<String, EnvironmentRep<'static>>,
    pub(crate) filters: BTreeMap<String, FilterRep<'static>>,
}

/// The format of a file, by its extension.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    Json,
    Yaml,
}

impl Format {
    pub(crate) fn of(path: &Path) -> Option<Self> {
        match path.extension()?.to_str()? {
            "json" => Some(Self::Json),
            "yaml" | "yml" => Some(Self::Yaml),
            _ => None,
        }
    }
}

/// The file cannot be used. Displays its name, the place and the rule, and no content but ids.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FileError {
    /// The operating system refused.
    #[error("{} cannot be read", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It breaks a rule.
    #[error("{}: {place}: {rule}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// The line, or the id and the field.
        place: String,
        /// The rule.
        rule: String,
    },
}

/// A broken rule, and its place.
#[derive(Debug)]
pub(crate) struct Broken {
    place: String,
    rule: String,
}

impl Broken {
    fn new(place: impl fmt::Display, rule: impl Into<String>) -> Self {
        let place = place
            .to_string()
            .chars()
            .map(|c| if c.is_control() { '\u{fffd}' } else { c })
            .take(200)
            .collect();
        Self { place, rule: rule.into() }
    }

    pub(crate) fn of(self, path: &Path) -> FileError {
        FileError::Content { path: path.to_owned(), place: self.place, rule: self.rule }
    }
}

/// The bytes of the file.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>, FileError> {
    let io = |source| FileError::Io { path: path.to_owned(), source };
    let metadata = std::fs::metadata(path).map_err(io)?;
    // Reading a pipe could take for ever.
    if !metadata.is_file() {
        return Err(io(std::io::Error::other("not a regular file")));
    }
    let length = metadata.len();
    if length > LARGEST {
        return Err(
            Broken::new("the file", format!("it has {length} bytes, at most {LARGEST} are read")).of(path)
        );
    }
    std::fs::read(path).map_err(io)
}

/// Parses the file.
pub(crate) fn parse(bytes: &[u8], format: Format) -> Result<Configuration, Broken> {
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let line = bytes[..error.valid_up_to()].iter().filter(|&&byte| byte == b'\n').count() + 1;
        Broken::new(format_args!("line {line}"), "it is not UTF-8")
    })?;
    if text.trim().is_empty() {
        return Err(Broken::new("the file", "it is empty; write `environments: {}` to have none"));
    }
    let root = match format {
        Format::Json => serde_json::from_str(text).map_err(|error| {
            // Its words may quote what is in the file.
            Broken::new(format_args!("line {}, column {}", error.line(), error.column()), "it is not JSON")
        })?,
        Format::Yaml => yaml(text)?,
    };
    configuration(root)
}

fn yaml(text: &str) -> Result<Node, Broken> {
    let budget = serde_saphyr::budget! {
        max_events: 20_000_000,
        max_nodes: 10_000_000,
        max_total_scalar_bytes: 512 << 20,
    };
    let options = serde_saphyr::options! { with_snippet: false, strict_booleans: true, budget: budget };
    serde_saphyr::from_str_with_options(text, options).map_err(|error| {
        let place = error.location().map_or_else(
            || "the file".to_owned(),
            |at| format!("line {}, column {}", at.line(), at.column()),
        );
        // Its words may quote what is in the file.
        let rule = match error {
            serde_saphyr::Error::DuplicateMappingKey { .. } => "a key is given twice",
            _ => "it is not YAML",
        };
        Broken::new(place, rule)
    })
}

fn configuration(root: Node) -> Result<Configuration, Broken> {
    let mut fields = Fields::new(root, String::new())?;
    let environments = fields
        .take("environments")
        .ok_or_else(|| Broken::new("environments", "it is missing; write `environments: {}` to have none"))?;
    let filters = fields.take("filters");
    fields.end()?;
    let mut configuration = Configuration::default();
    for (id, node) in entries(environments, "environments")? {
        let place = format!("environments.{id}");
        check_id(&id, &place)?;
        let environment = environment(&id, node, &place)?;
        configuration.environments.insert(id, environment);
    }
    if let Some(filters) = filters {
        for (id, node) in entries(filters, "filters")? {
            let place = format!("filters.{id}");
            check_id(&id, &place)?;
            let mut fields = Fields::new(node, place)?;
            let mut filter = FilterRep::default();
            filter.proj_key = Cow::Owned(fields.text("projKey")?);
            filter.key = Cow::Owned(fields.text("key")?);
            filter.version = fields.number("version")?;
            fields.end()?;
            configuration.filters.insert(id, filter);
        }
    }
    one_key_one_environment(&configuration)?;
    Ok(configuration)
}

fn check_id(id: &str, place: &str) -> Result<(), Broken> {
    let rule = if id.is_empty() {
        "an id is not empty"
    } else if id.contains('/') {
        "an id has no slash: nothing could be said about it alone"
    } else if id.chars().any(char::is_control) {
        "an id has no control characters"
    } else {
        return Ok(());
    };
    Err(Broken::new(place, rule))
}

fn environment(id: &str, node: Node, place: &str) -> Result<EnvironmentRep<'static>, Broken> {
    let mut fields = Fields::new(node, place.to_owned())?;
    let mut environment = EnvironmentRep::default();
    environment.env_id = Cow::Owned(id.to_owned());
    if let Some(given) = fields.optional_text("envID")?
        && given != id
    {
        return Err(Broken::new(
            format_args!("{place}.envID"),
            "it is not the id it stands under; leave it out",
        ));
    }
    environment.env_key = Cow::Owned(fields.text("envKey")?);
    environment.env_name = Cow::Owned(fields.text("envName")?);
    environment.proj_key = Cow::Owned(fields.text("projKey")?);
    environment.proj_name = Cow::Owned(fields.text("projName")?);
    environment.mob_key = KeyText::new(fields.text("mobKey")?);
    match fields.take("sdkKey") {
        None => {}
        Some(Node::Text(key)) => environment.sdk_key.value = KeyText::new(key),
        Some(node @ Node::Map(_)) => {
            let mut key = Fields::new(node, format!("{place}.sdkKey"))?;
            environment.sdk_key.value = KeyText::new(key.text("value")?);
            if let Some(expiring) = key.take("expiring") {
                let mut expiring = Fields::new(expiring, format!("{place}.sdkKey.expiring"))?;
                environment.sdk_key.expiring.value = KeyText::new(expiring.text("value")?);
                environment.sdk_key.expiring.timestamp = expiring
                    .time("timestamp")?
                    .ok_or_else(|| expiring.broken("timestamp", "it is missing"))?;
                if environment.sdk_key.expiring.value.is_empty() {
                    return Err(expiring.broken("value", "it is missing or empty"));
                }
                expiring.end()?;
            }
            key.end()?;
        }
        Some(_) => return Err(fields.broken("sdkKey", "it must be a key, or a map with `value`")),
    }
    environment.default_ttl = fields.number("defaultTtl")?;
    environment.secure_mode = match fields.take("secureMode") {
        None => false,
        Some(Node::Bool(secure)) => secure,
        Some(_) => return Err(fields.broken("secureMode", "it must be true or false")),
    };
    environment.version = fields.number("version")?;
    environment.sdk_keys = keys(&mut fields, "sdkKeys")?;
    environment.mobile_keys = keys(&mut fields, "mobileKeys")?;
    fields.end()?;
    environment.judge(id).map_err(|refusal| {
        let rule = format!("{refusal} ({})", refusal.as_str());
        Broken::new(format_args!("{place}.{}", field(refusal, &environment)), rule)
    })?;
    Ok(environment)
}

/// The field that a refusal is about.
fn field(refusal: Refusal, environment: &EnvironmentRep<'_>) -> String {
    let empty = |entries: &[KeyEntry<'_>]| entries.iter().position(|entry| entry.value.is_empty());
    match refusal {
        Refusal::EmptyKey => match (empty(&environment.sdk_keys), empty(&environment.mobile_keys)) {
            (Some(index), _) => format!("sdkKeys[{index}].value"),
            (None, index) => format!("mobileKeys[{}].value", index.unwrap_or_default()),
        },
        Refusal::NoSdkKey => "sdkKey".into(),
        Refusal::PrimaryNotListed => "sdkKeys".into(),
        Refusal::MobileNotListed => "mobileKeys".into(),
        Refusal::NoPrimaryMobile => "mobKey".into(),
        _ => "envID".into(),
    }
}

fn keys(fields: &mut Fields, name: &str) -> Result<Vec<KeyEntry<'static>>, Broken> {
    let items = match fields.take(name) {
        None => return Ok(Vec::new()),
        Some(Node::List(items)) => items,
        Some(_) => return Err(fields.broken(name, "it must be a list")),
    };
    let read = |(index, item)| {
        let mut fields = Fields::new(item, format!("{}.{name}[{index}]", fields.place))?;
        let mut entry = KeyEntry::default();
        entry.name = Cow::Owned(fields.text("key")?);
        entry.value = KeyText::new(fields.text("value")?);
        entry.expiry = fields.time("expiry")?;
        entry.has_views = match fields.take("hasViews") {
            None => false,
            Some(Node::Bool(views)) => views,
            Some(_) => return Err(fields.broken("hasViews", "it must be true or false")),
        };
        fields.end()?;
        Ok(entry)
    };
    items.into_iter().enumerate().map(read).collect()
}

/// A key must be in one environment only: otherwise its programs would get the first one.
fn one_key_one_environment(configuration: &Configuration) -> Result<(), Broken> {
    let (mut sdk, mut mobile) = (HashMap::new(), HashMap::new());
    for (id, environment) in &configuration.environments {
        let EnvironmentRep { sdk_key, mob_key, sdk_keys, mobile_keys, .. } = environment;
        let sdk_keys =
            sdk_keys.iter().map(|entry| &entry.value).chain([&sdk_key.value, &sdk_key.expiring.value]);
        let mobile_keys = mobile_keys.iter().map(|entry| &entry.value).chain([mob_key]);
        let owners = sdk_keys
            .map(|key| ("SDK", *sdk.entry(key.reveal()).or_insert(id), key))
            .chain(mobile_keys.map(|key| ("mobile", *mobile.entry(key.reveal()).or_insert(id), key)));
        for (kind, owner, key) in owners {
            if owner != id && !key.is_empty() {
                let rule = format!("one of its {kind} keys is a key of environments.{owner} too");
                return Err(Broken::new(format_args!("environments.{id}"), rule));
            }
        }
    }
    Ok(())
}

/// The fields of a map, taken one by one, so that the rest is unknown.
struct Fields {
    place: String,
    fields: Vec<(String, Node)>,
}

impl Fields {
    fn new(node: Node, place: String) -> Result<Self, Broken> {
        let shown = if place.is_empty() { "the file" } else { &place };
        let fields = entries(node, shown)?;
        Ok(Self { place, fields })
    }

    fn broken(&self, name: &str, rule: impl Into<String>) -> Broken {
        let dot = if self.place.is_empty() { "" } else { "." };
        Broken::new(format_args!("{}{dot}{name}", self.place), rule)
    }

    fn take(&mut self, name: &str) -> Option<Node> {
        let at = self.fields.iter().position(|(known, _)| known == name)?;
        Some(self.fields.swap_remove(at).1)
    }

    fn optional_text(&mut self, name: &str) -> Result<Option<String>, Broken> {
        match self.take(name) {
            None => Ok(None),
            Some(Node::Text(text)) => Ok(Some(text)),
            Some(_) => Err(self.broken(name, "it must be a text; quote it")),
        }
    }

    fn text(&mut self, name: &str) -> Result<String, Broken> {
        Ok(self.optional_text(name)?.unwrap_or_default())
    }

    fn number(&mut self, name: &str) -> Result<i64, Broken> {
        match self.take(name) {
            None => Ok(0),
            Some(Node::Number(number)) if i64::try_from(number).is_ok() => Ok(number as i64),
            Some(_) => Err(self.broken(name, "it must be a whole number of 64 bits")),
        }
    }

    fn time(&mut self, name: &str) -> Result<Option<u64>, Broken> {
        let millis = match self.take(name) {
            None => return Ok(None),
            Some(Node::Number(millis)) => u64::try_from(millis).ok(),
            Some(Node::Text(text)) => {
                Timestamp::new(&text).unix_millis().and_then(|millis| millis.try_into().ok())
            }
            Some(_) => None,
        };
        let rule = "it must be a time: RFC 3339, such as 2026-12-01T00:00:00Z, or milliseconds since 1970";
        millis.map(Some).ok_or_else(|| self.broken(name, rule))
    }

    /// Fails when a field is left.
    fn end(self) -> Result<(), Broken> {
        match self.fields.first() {
            Some((name, _)) if shows(&self.place, name) => Err(self.broken(name, "there is no such field")),
            Some(_) => Err(Broken::new(&self.place, "it has a field that does not exist")),
            None => Ok(()),
        }
    }
}

/// The members of a map, each once.
fn entries(node: Node, place: &str) -> Result<Vec<(String, Node)>, Broken> {
    let Node::Map(entries) = node else { return Err(Broken::new(place, "it must be a map")) };
    let mut names: Vec<_> = entries.iter().map(|(name, _)| name).collect();
    names.sort_unstable();
    match names.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) if shows(place, pair[0]) => {
            Err(Broken::new(format_args!("{place}.{}", pair[0]), "it is given twice"))
        }
        Some(_) => Err(Broken::new(place, "a field is given twice")),
        None => Ok(entries),
    }
}

/// Whether the name of a field may be shown. `sdkKey: {sdk-123}` in YAML is a map whose field is a key: where a key may
/// stand, only what looks like the name of a field is shown.
fn shows(place: &str, name: &str) -> bool {
    let of_a_key = ["sdkKey", "mobKey", "mobileKeys"].iter().any(|field| place.contains(field));
    !of_a_key || (name.len() <= 20 && name.bytes().all(|byte| byte.is_ascii_alphabetic()))
}

#[cfg(test)]
mod tests;
