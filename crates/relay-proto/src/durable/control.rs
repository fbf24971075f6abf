//! Control events, and base64 data.

use alloc::borrow::Cow;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use super::Offset;

/// A `control` event of an event stream, with the offset of the data before it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Control {
    /// The start of the next read.
    pub stream_next_offset: Offset,
    /// The cursor that the next live read must send back; may be missing when the stream is closed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stream_cursor: Option<String>,
    /// Whether all existing data was sent.
    #[serde(default, skip_serializing_if = "core::ops::Not::not")]
    pub up_to_date: bool,
    /// Whether the stream ends here.
    #[serde(default, skip_serializing_if = "core::ops::Not::not")]
    pub stream_closed: bool,
}

/// A control event, or its data, cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what}")]
pub struct BadControl {
    what: Cow<'static, str>,
}

impl Control {
    /// Reads the data of a control event.
    ///
    /// # Errors
    /// [`BadControl`] when it is empty, not JSON, or has no offset.
    pub fn parse(data: &str) -> Result<Self, BadControl> {
        if data.trim().is_empty() {
            return Err(BadControl { what: "an empty control event".into() });
        }
        serde_json::from_str(data).map_err(|error| BadControl {
            what: ("a control event: ".to_string() + &error.to_string()).into(),
        })
    }

    /// The data of the event.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }
}

/// Decodes the data of an event of a binary stream: standard base64 with padding, line breaks left out.
///
/// # Errors
/// [`BadControl`] when it is not that.
pub fn decode_base64(data: &str) -> Result<Vec<u8>, BadControl> {
    let packed: Cow<'_, [u8]> = if data.contains(['\r', '\n']) {
        data.bytes().filter(|byte| !matches!(byte, b'\r' | b'\n')).collect::<Vec<_>>().into()
    } else {
        data.as_bytes().into()
    };
    STANDARD.decode(packed).map_err(|_| BadControl { what: "an event's data is not base64".into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn controls_as_they_come() {
        let full = r#"{"streamNextOffset":"0_5","streamCursor":"9","upToDate":true}"#;
        let control = Control::parse(full).unwrap();
        assert_eq!((control.up_to_date, control.stream_closed), (true, false));
        assert_eq!(control.to_json(), full);
        let closed = Control::parse(r#"{"streamClosed":true,"streamNextOffset":"x","new":[1]}"#).unwrap();
        assert!(closed.stream_closed && closed.stream_cursor.is_none());
        for bad in ["", " ", "{", "{}", r#"{"streamNextOffset":""}"#, r#"{"streamNextOffset":7}"#, "[]"] {
            assert!(Control::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn base64_in_lines() {
        assert_eq!(decode_base64("aGVs\nbG8=").unwrap(), b"hello");
        assert_eq!(decode_base64("").unwrap(), b"");
        for bad in ["aGVsb", "aGVsbG8", "a-_=", "aGVs bG8="] {
            assert!(decode_base64(bad).is_err(), "{bad}");
        }
    }
}
