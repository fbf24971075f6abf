//! Query parameters and their rules.

use std::collections::BTreeSet;

use relay_proto::pods::{Filter, InvalidParameter};
use relay_proto::time::Timestamp;
use relay_transport::server::{self, Refusal, refuse};

use crate::store::Change;

/// A decoded query.
#[derive(Debug)]
pub(crate) struct Query(server::Query);

impl Query {
    pub(crate) fn parse(query: Option<&str>) -> Self {
        Self(server::Query::parse(query))
    }

    /// Every value of a name, in order.
    pub(crate) fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        self.0.all(name)
    }

    /// The value of a name that may occur only once.
    ///
    /// # Errors
    /// 400 when it occurs twice.
    pub(crate) fn single(&self, name: &'static str) -> Result<Option<&str>, Refusal> {
        match self.0.all(name).nth(1) {
            // A ticket is a secret.
            Some(again) if name != "session_id" => {
                Err(invalid(InvalidParameter::new(name, again, "stands once at most")))
            }
            _ => self.0.single(name),
        }
    }

    /// Like [`Self::single`], for a name whose empty value means that it is absent.
    ///
    /// # Errors
    /// 400 when it occurs twice.
    pub(crate) fn optional(&self, name: &'static str) -> Result<Option<&str>, Refusal> {
        Ok(self.single(name)?.filter(|value| !value.is_empty()))
    }

    /// `namespace` and `label`.
    ///
    /// # Errors
    /// 400 when one breaks Kubernetes' syntax.
    pub(crate) fn filter(&self) -> Result<Filter, Refusal> {
        let mut filter = Filter::new();
        for namespace in self.0.all("namespace").filter(|value| !value.is_empty()) {
            filter = filter.namespace(namespace).map_err(invalid)?;
        }
        for label in self.0.all("label").filter(|value| !value.is_empty()) {
            filter = filter.label(label).map_err(invalid)?;
        }
        Ok(filter)
    }

    /// `since_time`: the first millisecond since 1970-01-01T00:00:00Z that is not before it.
    ///
    /// # Errors
    /// 400 when it is not RFC 3339, or occurs twice.
    pub(crate) fn since_time(&self) -> Result<Option<i64>, Refusal> {
        let Some(text) = self.optional("since_time")? else { return Ok(None) };
        let time = Timestamp::parse_rfc3339(text).and_then(|time| time.unix_millis_at_or_after());
        time.map(Some).ok_or_else(|| {
            let rule = "a point in time as RFC 3339 has it, such as 2026-11-21T09:00:00Z";
            invalid(InvalidParameter::new("since_time", text, rule))
        })
    }

    /// `client_id`.
    ///
    /// # Errors
    /// 400 when it is not 1 to 128 visible ASCII characters, or occurs twice.
    pub(crate) fn client_id(&self) -> Result<Option<&str>, Refusal> {
        self.single("client_id")?.map(check_client_id).transpose()
    }

    /// `start`: true for `latest`.
    ///
    /// # Errors
    /// 400 for anything else.
    pub(crate) fn start_latest(&self) -> Result<bool, Refusal> {
        match self.single("start")? {
            None => Ok(false),
            Some("latest") => Ok(true),
            Some(other) => Err(invalid(InvalidParameter::new("start", other, "the only value is latest"))),
        }
    }

    /// `limit`, by default 100.
    ///
    /// # Errors
    /// 400 when it is not a number from 1 to 1000.
    pub(crate) fn limit(&self) -> Result<usize, Refusal> {
        let Some(text) = self.single("limit")? else { return Ok(100) };
        let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        match text.parse() {
            Ok(limit @ 1..=1000) if digits => Ok(limit),
            _ => Err(invalid(InvalidParameter::new("limit", text, "a number from 1 to 1000"))),
        }
    }

    /// `order`: true for `newest`.
    ///
    /// # Errors
    /// 400 for anything but `oldest` and `newest`.
    pub(crate) fn newest_first(&self) -> Result<bool, Refusal> {
        match self.single("order")? {
            None | Some("oldest") => Ok(false),
            Some("newest") => Ok(true),
            Some(other) => Err(invalid(InvalidParameter::new("order", other, "oldest or newest"))),
        }
    }

    /// `type`: the requested types of changes; empty means all.
    ///
    /// # Errors
    /// 400 for anything but the three names.
    pub(crate) fn changes(&self) -> Result<BTreeSet<&'static str>, Refusal> {
        self.0
            .all("type")
            .map(|text| {
                let known = [Change::Added, Change::Modified, Change::Deleted].map(Change::as_str);
                known
                    .into_iter()
                    .find(|name| *name == text)
                    .ok_or_else(|| invalid(InvalidParameter::new("type", text, "ADDED, MODIFIED or DELETED")))
            })
            .collect()
    }
}

/// Checks the name of a consumer.
///
/// # Errors
/// 400 when it is not 1 to 128 visible ASCII characters.
pub(crate) fn check_client_id(text: &str) -> Result<&str, Refusal> {
    if (1..=128).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic()) {
        return Ok(text);
    }
    Err(invalid(InvalidParameter::new("client_id", text, "1 to 128 visible ASCII characters")))
}

fn invalid(error: InvalidParameter) -> Refusal {
    refuse(&error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_parameter_takes_what_is_written_and_names_itself_otherwise() {
        type Check = fn(&Query) -> Result<String, Refusal>;
        let limit: Check = |q| q.limit().map(|l| l.to_string());
        let order: Check = |q| q.newest_first().map(|n| n.to_string());
        let start: Check = |q| q.start_latest().map(|l| l.to_string());
        let kind: Check = |q| q.changes().map(|c| c.into_iter().collect::<Vec<_>>().join("+"));
        let client: Check = |q| q.client_id().map(|c| c.unwrap_or("none").to_owned());
        let filter: Check = |q| q.filter().map(|f| f.to_string());
        let since: Check = |q| q.optional("since_hash").map(|h| h.unwrap_or("none").to_owned());
        let time: Check = |q| q.since_time().map(|t| t.map_or("none".into(), |t| t.to_string()));
        let long = format!("client_id={}", "x".repeat(129));
        let cases: &[(&str, Check, Result<&str, &str>)] = &[
            ("", limit, Ok("100")),
            ("limit=1", limit, Ok("1")),
            ("limit=1000", limit, Ok("1000")),
            ("limit=0", limit, Err("limit \"0\"")),
            ("limit=1001", limit, Err("limit \"1001\"")),
            ("limit=", limit, Err("limit \"\"")),
            ("limit", limit, Err("limit \"\"")),
            ("limit=%2B5", limit, Err("limit \"+5\"")),
            ("limit=5.0", limit, Err("limit")),
            ("limit=99999999999999999999", limit, Err("limit")),
            ("limit=5&limit=5", limit, Err("limit \"5\": stands once")),
            ("", order, Ok("false")),
            ("order=newest", order, Ok("true")),
            ("order=oldest", order, Ok("false")),
            ("order=", order, Err("order \"\"")),
            ("order=Newest", order, Err("order \"Newest\"")),
            ("", start, Ok("false")),
            ("start=latest", start, Ok("true")),
            ("start=", start, Err("start \"\"")),
            ("start=oldest", start, Err("start \"oldest\"")),
            ("", kind, Ok("")),
            ("type=DELETED&type=ADDED&type=ADDED", kind, Ok("ADDED+DELETED")),
            ("type=", kind, Err("type \"\"")),
            ("type=added", kind, Err("type \"added\"")),
            ("", client, Ok("none")),
            ("client_id=a%20b", client, Err("client_id \"a b\"")),
            ("client_id=a%0d%0ab", client, Err("client_id \"a\\r\\nb\"")),
            ("client_id=", client, Err("client_id \"\"")),
            ("client_id=%C3%BC", client, Err("client_id")),
            (&long, client, Err("client_id")),
            ("client_id=a&client_id=a", client, Err("client_id \"a\": stands once")),
            ("namespace=&label=", filter, Ok("")),
            (
                "namespace=b&namespace=a&label=k%3Dv&label=x",
                filter,
                Ok("namespace=a&namespace=b&label=k=v&label=x"),
            ),
            (
                "label=b%20notin%20(z,y),a%3D%3D1&label=!c&label=a",
                filter,
                Ok("label=a=1&label=b notin (y,z)&label=!c"),
            ),
            ("label=a+in+(b)+c", filter, Err("label \"a in (b) c\": at character 10, \"c\"")),
            ("label=a&label=b%3D!", filter, Err("label \"b=!\": at character 3")),
            ("namespace=A", filter, Err("namespace \"A\"")),
            ("label=-x", filter, Err("label \"-x\"")),
            ("label=a%3Db%20c", filter, Err("label \"a=b c\"")),
            ("since_hash=", since, Ok("none")),
            ("since_hash=&since_hash=", since, Err("since_hash \"\": stands once")),
            ("since_hash=x&unknown=1&unknown=2", since, Ok("x")),
            ("", time, Ok("none")),
            ("since_time=", time, Ok("none")),
            ("since_time=1970-01-01T01:00:01.0005%2B01:00", time, Ok("1001")),
            (
                "since_time=1970-01-01T01:00:01+01:00",
                time,
                Err("since_time \"1970-01-01T01:00:01 01:00\": a point"),
            ),
            ("since_time=5m", time, Err("since_time \"5m\": a point in time as RFC 3339 has it")),
            ("since_time=1970-01-01", time, Err("since_time")),
            ("since_time=&since_time=", time, Err("since_time \"\": stands once")),
        ];
        for (query, check, expected) in cases {
            match (check(&Query::parse(Some(query))), expected) {
                (Ok(value), Ok(wanted)) => assert_eq!(value, *wanted, "{query}"),
                (Err(problem), Err(wanted)) => {
                    assert_eq!(problem.status, 400, "{query}");
                    let detail = problem.detail.unwrap();
                    assert!(detail.contains(wanted), "{query}: {detail}");
                }
                (got, _) => panic!("{query}: {got:?}"),
            }
        }
        let cut =
            Query::parse(Some(&format!("limit={}", "9".repeat(500)))).limit().unwrap_err().detail.unwrap();
        assert!(cut.len() < 150, "{cut}");
    }
}
