//! Errors as a relay reports them: RFC 9457 problem documents.

use serde::{Deserialize, Serialize};
use std::fmt;

/// A problem document: what a relay answers instead of what was asked for.
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
    /// With `cursor-expired` and `cursor-unknown`: the oldest retained event.
    #[serde(default, alias = "oldestHash", skip_serializing_if = "Option::is_none")]
    pub oldest_hash: Option<String>,
    /// Said by a Kubernetes API server, through whose service proxy the relay was asked, and not by the relay: the body was
    /// one of its `Status` objects.
    #[serde(skip)]
    pub from_kubernetes: bool,
}

/// What a Kubernetes API server answers instead of what was asked for.
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
            r#type: Some(format!("urn:relay:problem:{}", code.as_str())),
            title: Some(code.title().into()),
            status: code.status(),
            detail: Some(detail.into()),
            code: Some(code.as_str().into()),
            oldest_hash: None,
            from_kubernetes: false,
        }
    }

    /// Reads the body of an error answer. Of a Kubernetes `Status` the first 400 characters of its message are the detail,
    /// and of a body that is no document of either kind its first 200, so that a proxy's own words are not lost.
    pub fn from_body(status: u16, body: &[u8]) -> Self {
        if let Ok(said) = serde_json::from_slice::<KubernetesStatus>(body)
            && (said.kind.as_str(), said.api_version.as_str()) == ("Status", "v1")
        {
            return Self { from_kubernetes: true, ..Self::in_words(status, &said.message, 400) };
        }
        match serde_json::from_slice::<Self>(body) {
            Ok(problem) => Self { status, ..problem },
            Err(_) => Self::in_words(status, &String::from_utf8_lossy(&body[..body.len().min(800)]), 200),
        }
    }

    /// A problem of which nothing but the start of somebody's words is known.
    fn in_words(status: u16, words: &str, limit: usize) -> Self {
        let text: String = OneLine(words).to_string().chars().take(limit).collect();
        let detail = text.trim();
        Self { status, detail: (!detail.is_empty()).then(|| detail.into()), ..Self::default() }
    }

    /// The code, when it is one of ours.
    pub fn known_code(&self) -> Option<ProblemCode> {
        self.code.as_deref().and_then(ProblemCode::parse)
    }
}

/// Somebody else's words on one line: what a terminal could take for an order becomes a space.
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

macro_rules! codes {
    ($($(#[$doc:meta])* $variant:ident $name:literal $status:literal $title:literal;)*) => {
        /// The codes of `docs/protocol.md`.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum ProblemCode { $($(#[$doc])* $variant,)* }

        impl ProblemCode {
            /// Every code.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// The code as on the wire.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// The HTTP status that goes with it.
            pub fn status(self) -> u16 {
                match self { $(Self::$variant => $status,)* }
            }

            fn title(self) -> &'static str {
                match self { $(Self::$variant => $title,)* }
            }
        }
    };
}

codes! {
    /// A parameter breaks its rule.
    BadParameter "bad-parameter" 400 "A parameter is not valid";
    /// No credential, or one that is not known.
    Unauthenticated "unauthenticated" 401 "A credential is needed";
    /// The session ticket was used before.
    SessionUsed "session-used" 401 "The session was used before";
    /// The session ticket is too old.
    SessionExpired "session-expired" 401 "The session has expired";
    /// The session ticket is not known, or belongs to another client.
    SessionUnknown "session-unknown" 401 "The session is not known";
    /// The credential does not reach this namespace.
    ForbiddenNamespace "forbidden-namespace" 403 "The namespace is not allowed";
    /// There is no such thing.
    NotFound "not-found" 404 "Not found";
    /// The path does not take this method.
    MethodNotAllowed "method-not-allowed" 405 "The method is not allowed";
    /// The cursor's next event is no longer retained.
    CursorExpired "cursor-expired" 410 "The cursor has expired";
    /// The cursor is not of this log.
    CursorUnknown "cursor-unknown" 410 "The cursor is not known";
    /// The request body is over the limit.
    BodyTooLarge "body-too-large" 413 "The body is too large";
    /// Too many streams are open.
    TooManyStreams "too-many-streams" 429 "Too many streams";
    /// The request head is over the limit.
    HeadTooLarge "head-too-large" 431 "The request head is too large";
    /// The relay keeps no history.
    StorageDisabled "storage-disabled" 501 "No storage is configured";
    /// The relay cannot answer yet.
    NotReady "not-ready" 503 "Not ready";
}

impl ProblemCode {
    /// Reads a code.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|code| code.as_str() == text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_survives_the_wire_and_a_foreign_body_gives_its_words() {
        let problem = Problem::new(ProblemCode::BadParameter, "limit \"0\": 1 to 1000");
        let read = Problem::from_body(400, &serde_json::to_vec(&problem).unwrap());
        assert_eq!(read, problem);
        assert_eq!(read.known_code(), Some(ProblemCode::BadParameter));
        assert_eq!(read.to_string(), "400 bad-parameter: limit \"0\": 1 to 1000");
        let orders = Problem::from_body(400, br#"{"code":"a\u001b[2J","detail":"x\r\ny\u001b]0;z\u0007"}"#);
        assert_eq!(orders.to_string(), "400 a [2J: x  y ]0;z ");
        let html = Problem::from_body(502, b"<html>\r\nBad Gateway</html>");
        assert_eq!(html.to_string(), "502: <html>  Bad Gateway</html>");
        assert_eq!(Problem::from_body(503, b"").to_string(), "503");
        assert_eq!(Problem::from_body(500, &[0xff; 5000]).detail.unwrap().chars().count(), 200);
    }

    #[test]
    fn an_api_server_is_not_taken_for_the_relay_behind_it() {
        let status = br#"{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure",
            "message":"Unauthorized","reason":"Unauthorized","code":401}"#;
        let problem = Problem::from_body(401, status);
        assert!(problem.from_kubernetes);
        assert_eq!(problem.to_string(), "401 of the Kubernetes API server: Unauthorized");
        assert_eq!(problem.known_code(), None);
        let long = format!(r#"{{"kind":"Status","apiVersion":"v1","message":"\n{}"}}"#, "x".repeat(5000));
        assert_eq!(Problem::from_body(403, long.as_bytes()).detail.unwrap().len(), 399);
        let silent = Problem::from_body(503, br#"{"kind":"Status","apiVersion":"v1","code":503}"#);
        assert_eq!(silent.to_string(), "503 of the Kubernetes API server");
        let others = br#"{"kind":"Status","apiVersion":"v2","code":"x","status":400}"#;
        assert!(!Problem::from_body(400, others).from_kubernetes);
    }
}
