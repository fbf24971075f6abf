//! Pages of the history.

use serde::{Deserialize, Serialize};

use super::{EventHash, PodEvent};
use crate::error::JsonError;
use crate::json::{Scan, Scanner, Unusual};

/// One page of `/events` or of one pod's history.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct EventPage {
    /// The events, in the requested order.
    pub events: Vec<PodEvent>,
    /// The cursor of the next request; `None` when there is no further event now.
    pub next_hash: Option<EventHash>,
}

impl EventPage {
    /// Reads a page: `{"events":[..],"next_hash":..}` or a bare array of events.
    ///
    /// # Errors
    /// When it is malformed.
    pub fn from_json(json: &[u8]) -> Result<Self, InvalidPage> {
        let text = std::str::from_utf8(json).map_err(|_| Unusual);
        text.and_then(Self::scan).or_else(|Unusual| Self::decode_tolerantly(json))
    }

    /// Reads a page in the usual form; other forms are left to serde.
    fn scan(json: &str) -> Scan<Self> {
        let mut page = Self::default();
        let mut scanner = Scanner::new(json)?;
        let events = |page: &mut Self, scanner: &mut Scanner<'_>| {
            scanner.array(|scanner| {
                page.events.push(PodEvent::scan(scanner, "")?);
                Ok(())
            })
        };
        if scanner.peek()? == b'[' {
            events(&mut page, &mut scanner)?;
        } else {
            let field = |scanner: &mut Scanner<'_>, at| match at {
                // A list that is null is an empty one.
                _ if scanner.null()? => Ok(()),
                0 => events(&mut page, scanner),
                _ => {
                    let hash = scanner.string()?.plain(json)?;
                    page.next_hash = Some(EventHash::new(hash).map_err(|_| Unusual)?);
                    Ok(())
                }
            };
            let other = |scanner: &mut Scanner<'_>, key: &str| match key {
                "nextHash" => Err(Unusual),
                _ => scanner.skip(),
            };
            let seen = scanner.fields(&["\"events\":", "\"next_hash\":"], field, other)?;
            if seen & 1 == 0 {
                return Err(Unusual);
            }
        }
        scanner.end().map(|()| page)
    }

    pub(super) fn decode_tolerantly(json: &[u8]) -> Result<Self, InvalidPage> {
        let wrap = |error: serde_json::Error| InvalidPage { source: error.into() };
        let first = json.iter().find(|b| !b.is_ascii_whitespace());
        let (events, next_hash) = if matches!(first, Some(b'[' | b'n')) {
            (serde_json::from_slice(json).map_err(wrap)?, None)
        } else {
            let page: Page<'_> = serde_json::from_slice(json).map_err(wrap)?;
            (page.events, page.next_hash)
        };
        let events: Vec<&serde_json::value::RawValue> = Option::unwrap_or_default(events);
        let events = events
            .iter()
            .map(|event| PodEvent::decode("", event.get()))
            .collect::<Result<_, _>>()
            .map_err(|source| InvalidPage { source })?;
        Ok(Self { events, next_hash })
    }
}

#[derive(Deserialize)]
struct Page<'a> {
    /// Null is an empty list, as written by relays in Go. The field is required.
    #[serde(borrow, deserialize_with = "Option::deserialize")]
    events: Option<Vec<&'a serde_json::value::RawValue>>,
    #[serde(default, alias = "nextHash")]
    next_hash: Option<EventHash>,
}

/// A history page that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("not a history page")]
pub struct InvalidPage {
    source: JsonError,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_that_is_null_is_empty_and_one_that_is_missing_is_an_error() {
        for body in [r#"{"events":null}"#, r#"{"events":null,"nextHash":null}"#, "null", "[]"] {
            assert_eq!(EventPage::from_json(body.as_bytes()).unwrap(), EventPage::default(), "{body}");
        }
        for body in [r#"{"next_hash":null}"#, r#"{"events":0}"#, "0"] {
            assert!(EventPage::from_json(body.as_bytes()).is_err(), "{body}");
        }
    }

    #[test]
    fn a_page_comes_bare_or_wrapped() {
        let event = r#"{"type":"ADDED","hash":"h","sequence":1,"pod":{"namespace":"a","name":"b"}}"#;
        let wrapped =
            EventPage::from_json(format!(r#"{{"events":[{event}],"nextHash":"h"}}"#).as_bytes()).unwrap();
        assert_eq!((wrapped.events.len(), wrapped.next_hash.unwrap().as_str()), (1, "h"));
        let bare = EventPage::from_json(format!(" [{event},{event}]").as_bytes()).unwrap();
        assert_eq!((bare.events.len(), bare.next_hash), (2, None));
        for bad in ["", "{}", "[1]", r#"[{"type":"ADDED","pod":{"namespace":"a","name":"b"}}]"#] {
            assert!(EventPage::from_json(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
