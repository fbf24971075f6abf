//! Errors as a relay reports them: RFC 9457 problem documents.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::fmt;

/// A problem document: the body of a relay's error response.
///
/// `Deserialize` takes any JSON object; everything but the status may be missing on a foreign relay.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Problem {
    /// `urn:relay:problem:<code>`.
    #[serde(default)]
    pub r#type: Option<String>,
    /// A short summary of the kind of problem.
    #[serde(default)]
    pub title: Option<String>,
    /// The HTTP status.
    #[serde(default)]
    pub status: u16,
    /// What was wrong with this request: names the parameter and the rule.
    #[serde(default)]
    pub detail: Option<String>,
    /// The machine-readable code; see [`ProblemCode`].
    #[serde(default)]
    pub code: Option<String>,
    /// Members beyond those of the standard, such as the oldest retained event when a cursor has expired.
    #[serde(flatten)]
    pub members: Map<String, Value>,
    /// Sent by the Kubernetes API server whose service proxy was used, not by the relay: the body was a `Status`
    /// object.
    #[serde(skip)]
    pub from_kubernetes: bool,
}

/// The body of a Kubernetes API server's error response.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct KubernetesStatus {
    kind: String,
    api_version: String,
    #[serde(default)]
    message: String,
}

impl Problem {
    /// A problem of a known code.
    pub fn new(code: ProblemCode, detail: impl Into<String>) -> Self {
        Self {
            r#type: Some(format!("urn:relay:problem:{}", code.name)),
            title: Some(code.title.into()),
            status: code.status,
            detail: Some(detail.into()),
            code: Some(code.name.into()),
            members: Map::new(),
            from_kubernetes: false,
        }
    }

    /// Reads the body of an error response. Of a Kubernetes `Status` the first 400 characters of its message become
    /// the detail. Of any other body only the size is given, because its content is unknown.
    pub fn from_body(status: u16, body: &[u8]) -> Self {
        if let Ok(said) = serde_json::from_slice::<KubernetesStatus>(body)
            && (said.kind.as_str(), said.api_version.as_str()) == ("Status", "v1")
        {
            return Self { from_kubernetes: true, ..Self::in_words(status, &said.message, 400) };
        }
        match serde_json::from_slice::<Self>(body) {
            Ok(problem) => Self { status, ..problem },
            Err(_) if body.is_empty() => Self { status, ..Self::default() },
            Err(_) => {
                let words = format!("{} bytes that are no problem document", body.len());
                Self::in_words(status, &words, 200)
            }
        }
    }

    /// A problem with the start of a foreign text as its detail.
    fn in_words(status: u16, words: &str, limit: usize) -> Self {
        let text: String = OneLine(words).to_string().chars().take(limit).collect();
        let detail = text.trim();
        Self { status, detail: (!detail.is_empty()).then(|| detail.into()), ..Self::default() }
    }

    /// Adds a member beyond those of the standard.
    #[must_use]
    pub fn member(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.members.insert(name.to_owned(), value.into());
        self
    }

    /// Whether the document carries this code.
    pub fn is(&self, code: ProblemCode) -> bool {
        self.code.as_deref() == Some(code.name)
    }
}

/// Foreign text on one line: control characters become spaces.
struct OneLine<'a>(&'a str);

impl fmt::Display for OneLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.chars().try_for_each(|c| fmt::Write::write_char(f, if c.is_control() { ' ' } else { c }))
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.status)?;
        if self.from_kubernetes {
            f.write_str(" of the Kubernetes API server")?;
        }
        if let Some(code) = &self.code {
            write!(f, " {}", OneLine(code))?;
        }
        let text = self.detail.as_ref().or(self.title.as_ref());
        text.map_or(Ok(()), |text| write!(f, ": {}", OneLine(text)))
    }
}

/// A kind of problem: its `code`, `status` and `title`. Each system has constants for its own kinds; the constants
/// here are shared by all servers of this workspace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ProblemCode {
    name: &'static str,
    status: u16,
    title: &'static str,
}

impl ProblemCode {
    /// A code as on the wire, such as `not-found`, the HTTP status that goes with it, and a title of a few words.
    pub const fn new(name: &'static str, status: u16, title: &'static str) -> Self {
        Self { name, status, title }
    }

    /// The code as on the wire.
    pub fn as_str(self) -> &'static str {
        self.name
    }

    /// The HTTP status that goes with it.
    pub fn status(self) -> u16 {
        self.status
    }

    /// A parameter breaks its rule.
    pub const BAD_PARAMETER: Self = Self::new("bad-parameter", 400, "A parameter is not valid");
    /// No credential, or one that is not known.
    pub const UNAUTHENTICATED: Self = Self::new("unauthenticated", 401, "A credential is needed");
    /// There is no such thing.
    pub const NOT_FOUND: Self = Self::new("not-found", 404, "Not found");
    /// The path does not take this method.
    pub const METHOD_NOT_ALLOWED: Self = Self::new("method-not-allowed", 405, "The method is not allowed");
    /// The request body is over the limit.
    pub const BODY_TOO_LARGE: Self = Self::new("body-too-large", 413, "The body is too large");
    /// Too many streams are open.
    pub const TOO_MANY_STREAMS: Self = Self::new("too-many-streams", 429, "Too many streams");
    /// The request head is over the limit.
    pub const HEAD_TOO_LARGE: Self = Self::new("head-too-large", 431, "The request head is too large");
    /// The relay keeps no history.
    pub const STORAGE_DISABLED: Self = Self::new("storage-disabled", 501, "No storage is configured");
    /// The relay cannot answer yet.
    pub const NOT_READY: Self = Self::new("not-ready", 503, "Not ready");

    /// All of the constants above.
    pub const ALL: &'static [Self] = &[
        Self::BAD_PARAMETER,
        Self::UNAUTHENTICATED,
        Self::NOT_FOUND,
        Self::METHOD_NOT_ALLOWED,
        Self::BODY_TOO_LARGE,
        Self::TOO_MANY_STREAMS,
        Self::HEAD_TOO_LARGE,
        Self::STORAGE_DISABLED,
        Self::NOT_READY,
    ];
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_survives_the_wire_and_a_foreign_body_gives_its_size() {
        let problem = Problem::new(ProblemCode::BAD_PARAMETER, "limit \"0\": 1 to 1000");
        let read = Problem::from_body(400, &serde_json::to_vec(&problem).unwrap());
        assert_eq!(read, problem);
        assert!(read.is(ProblemCode::BAD_PARAMETER));
        assert_eq!(read.to_string(), "400 bad-parameter: limit \"0\": 1 to 1000");
        let orders = Problem::from_body(400, br#"{"code":"a\u001b[2J","detail":"x\r\ny\u001b]0;z\u0007"}"#);
        assert_eq!(orders.to_string(), "400 a [2J: x  y ]0;z ");
        let html = Problem::from_body(502, b"<html>\r\nBad Gateway</html>");
        assert_eq!(html.to_string(), "502: 26 bytes that are no problem document");
        assert_eq!(Problem::from_body(503, b"").to_string(), "503");
        let bytes = Problem::from_body(500, &[0xff; 5000]).detail.unwrap();
        assert_eq!(bytes, "5000 bytes that are no problem document");
    }

    #[test]
    fn an_api_server_is_not_taken_for_the_relay_behind_it() {
        let status = br#"{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure",
            "message":"Unauthorized","reason":"Unauthorized","code":401}"#;
        let problem = Problem::from_body(401, status);
        assert!(problem.from_kubernetes);
        assert_eq!(problem.to_string(), "401 of the Kubernetes API server: Unauthorized");
        assert_eq!(problem.code, None);
        let long = format!(r#"{{"kind":"Status","apiVersion":"v1","message":"\n{}"}}"#, "x".repeat(5000));
        assert_eq!(Problem::from_body(403, long.as_bytes()).detail.unwrap().len(), 399);
        let silent = Problem::from_body(503, br#"{"kind":"Status","apiVersion":"v1","code":503}"#);
        assert_eq!(silent.to_string(), "503 of the Kubernetes API server");
        let others = br#"{"kind":"Status","apiVersion":"v2","code":"x","status":400}"#;
        assert!(!Problem::from_body(400, others).from_kubernetes);
    }
}
