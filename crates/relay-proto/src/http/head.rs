//! The parts of a response head that a client needs.

use core::time::Duration;

/// The parts of a response head that decide about a connection.
///
/// ```
/// use relay_proto::http::ResponseHead;
/// let head = ResponseHead::new(503, "https://relay.example/events").header("Retry-After", b"120");
/// # let _ = head;
/// ```
#[derive(Debug, Clone)]
pub struct ResponseHead<'h> {
    pub(crate) status: u16,
    pub(crate) url: &'h str,
    content_type: Option<&'h [u8]>,
    content_encoding: Option<&'h [u8]>,
    retry_after: Option<&'h [u8]>,
    date: Option<&'h [u8]>,
    location: Option<&'h [u8]>,
    unix_time: Option<Duration>,
}

impl<'h> ResponseHead<'h> {
    /// The response to a request for `url`, which is absolute: a relative `Location` is resolved against it.
    pub fn new(status: u16, url: &'h str) -> Self {
        Self {
            status,
            url,
            content_type: None,
            content_encoding: None,
            retry_after: None,
            date: None,
            location: None,
            unix_time: None,
        }
    }

    /// Takes a header of the response, if it is a relevant one. Of repeated headers the first counts, except for
    /// `Content-Type`, where [`media_type`] decides. Names are compared without case.
    ///
    /// Leave out a `Content-Encoding` that the driver decodes itself.
    #[must_use]
    pub fn header(mut self, name: &str, value: &'h [u8]) -> Self {
        if name.eq_ignore_ascii_case("content-type") {
            // A value that is no media type is kept, for the error message, until another comes.
            self.content_type = media_type([value]).or(self.content_type).or(Some(value));
        }
        let slots = [
            ("content-encoding", &mut self.content_encoding),
            ("retry-after", &mut self.retry_after),
            ("date", &mut self.date),
            ("location", &mut self.location),
        ];
        for (known, slot) in slots {
            if name.eq_ignore_ascii_case(known) && slot.is_none() {
                *slot = Some(value);
            }
        }
        self
    }

    /// The driver's wall clock, as time since 1970. Needed only for a `Retry-After` that is a date in a response that
    /// has no `Date`; a `Date` is preferred, because then both times are the server's.
    #[must_use]
    pub fn unix_time(mut self, now: Duration) -> Self {
        self.unix_time = Some(now);
        self
    }

    /// `text/event-stream`, whatever its parameters.
    pub(crate) fn is_event_stream(&self) -> bool {
        let essence = self.content_type.and_then(|value| value.split(|&byte| byte == b';').next());
        essence.is_some_and(|essence| essence.trim_ascii().eq_ignore_ascii_case(b"text/event-stream"))
    }

    pub(crate) fn content_type(&self) -> &[u8] {
        self.content_type.unwrap_or_default()
    }

    /// The coding that the driver has not decoded: the body is not text then.
    pub(crate) fn coding(&self) -> Option<&[u8]> {
        let coding = self.content_encoding?.trim_ascii();
        (!coding.is_empty() && !coding.eq_ignore_ascii_case(b"identity")).then_some(coding)
    }

    pub(crate) fn location(&self) -> Option<&str> {
        let location = core::str::from_utf8(self.location?).ok()?.trim_matches([' ', '\t']);
        (!location.is_empty()).then_some(location)
    }

    /// The time to wait, from seconds or from a date; `None` when it is missing, malformed or in the past.
    pub fn retry_after(&self) -> Option<Duration> {
        let value = core::str::from_utf8(self.retry_after?).ok()?.trim_matches([' ', '\t']);
        let delay = if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) {
            // A number too large to fit still means "very long".
            Duration::from_secs(value.parse().unwrap_or(u64::MAX))
        } else {
            let then = parse_date(value)?;
            let date = self.date.and_then(|date| parse_date(core::str::from_utf8(date).ok()?));
            Duration::from_secs(then.checked_sub(date.or(self.unix_time.map(|now| now.as_secs()))?)?)
        };
        (!delay.is_zero()).then_some(delay)
    }
}

/// The media type that the values of `Content-Type` headers name, with its parameters: the last one that is a media
/// type and not `*/*`, wherever it stands. Proxies add a header or a value where there is one already, and this is how
/// browsers read that (the Fetch standard's "extract a MIME type").
///
/// ```
/// use relay_proto::http::media_type;
///
/// assert_eq!(media_type([&b"text/html, text/event-stream;a=\"b,c\""[..]]), Some(&b"text/event-stream;a=\"b,c\""[..]));
/// assert_eq!(media_type([&b"application/json"[..], b"*/*", b"odd"]), Some(&b"application/json"[..]));
/// ```
pub fn media_type<'v>(values: impl IntoIterator<Item = &'v [u8]>) -> Option<&'v [u8]> {
    let token = |text: &[u8]| {
        let sign = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
        !text.is_empty() && text.iter().all(sign)
    };
    let is_media_type = |value: &&[u8]| {
        let essence = value.split(|&byte| byte == b';').next().unwrap_or_default().trim_ascii();
        let slash = essence.iter().position(|&byte| byte == b'/');
        slash.is_some_and(|at| token(&essence[..at]) && token(&essence[at + 1..])) && essence != b"*/*"
    };
    values.into_iter().flat_map(members).filter(is_media_type).last()
}

/// Whether a media type is that of a web page, as portals and proxies send in the place of an answer.
pub fn is_html(media_type: &[u8]) -> bool {
    let essence = media_type.split(|&byte| byte == b';').next().unwrap_or_default().trim_ascii();
    [&b"text/html"[..], b"application/xhtml+xml"].iter().any(|html| essence.eq_ignore_ascii_case(html))
}

/// The members of a list with commas; those inside quotes belong to the text.
fn members(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    let (mut quoted, mut escaped) = (false, false);
    let comma = move |byte: &u8| {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            _ => {}
        }
        *byte == b',' && !quoted
    };
    value.split(comma).map(<[u8]>::trim_ascii)
}

/// Seconds since 1970 of an HTTP date in any of its three shapes.
///
/// `Sun, 06 Nov 1994 08:49:37 GMT`, `Sunday, 06-Nov-94 08:49:37 GMT` and `Sun Nov  6 08:49:37 1994`.
fn parse_date(text: &str) -> Option<u64> {
    let mut parts = text.split([' ', ',', '-']).filter(|part| !part.is_empty());
    let mut next = || parts.next();
    let (_weekday, second, third, fourth, fifth) = (next()?, next()?, next()?, next()?, next()?);
    let (day, month, year, time) = if second.as_bytes()[0].is_ascii_digit() {
        (second, third, fourth, fifth)
    } else {
        (third, second, fifth, fourth)
    };
    const MONTHS: [&str; 12] =
        ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
    let month = MONTHS.iter().position(|name| name.eq_ignore_ascii_case(month))? as u64 + 1;
    let day = number(day, 31)?;
    let year = match (number(year, 9999)?, year.len()) {
        (year @ 70.., 2) => 1900 + year,
        (year, 2) => 2000 + year,
        (year @ 1970.., _) => year,
        _ => return None,
    };
    let mut clock = time.split(':');
    let mut unit = |most| number(clock.next()?, most);
    let (hour, minute, second) = (unit(23)?, unit(59)?, unit(60)?);

    // Days since 1970: years counted from March, so that the leap day is the last of its year.
    let (y, m) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = 365 * y + y / 4 - y / 100 + y / 400 + (153 * m + 2) / 5 + day - 1;
    Some((days.checked_sub(719_468)?) * 86_400 + hour * 3_600 + minute * 60 + second)
}

fn number(text: &str, most: u64) -> Option<u64> {
    let number = text.parse().ok()?;
    (number <= most).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_of_portals() {
        for (media_type, html) in [
            (&b"text/html"[..], true),
            (b" Text/HTML ; charset=utf-8", true),
            (b"application/xhtml+xml", true),
            (b"text/htmlx", false),
            (b"application/json", false),
            (b"", false),
        ] {
            assert_eq!(is_html(media_type), html, "{media_type:?}");
        }
    }

    #[test]
    fn the_last_media_type_of_several_counts() {
        for (values, found) in [
            (&["text/event-stream"][..], Some("text/event-stream")),
            (&["text/html", "text/event-stream"], Some("text/event-stream")),
            (&["text/event-stream", "text/html"], Some("text/html")),
            (&["text/html, text/event-stream;charset=x"], Some("text/event-stream;charset=x")),
            (&["text/event-stream, */*"], Some("text/event-stream")),
            (&["text/event-stream,"], Some("text/event-stream")),
            (&["text/event-stream", "odd", "/", "a b/c", "text/"], Some("text/event-stream")),
            (&["text/event-stream;a=\",text/html\""], Some("text/event-stream;a=\",text/html\"")),
            (&["text/event-stream;a=\"\\\",text/html\", text/plain"], Some("text/plain")),
            (&["*/*"], None),
            (&["", ","], None),
        ] {
            let bytes = values.iter().map(|value| value.as_bytes());
            assert_eq!(media_type(bytes), found.map(str::as_bytes), "{values:?}");
            let head = values.iter().fold(ResponseHead::new(200, "http://x/"), |head, value| {
                head.header("Content-Type", value.as_bytes())
            });
            let is_stream = found.is_some_and(|found| found.starts_with("text/event-stream"));
            assert_eq!(head.is_event_stream(), is_stream, "{values:?}");
        }
    }

    #[test]
    fn dates_in_three_shapes() {
        for (text, seconds) in [
            ("Sun, 06 Nov 1994 08:49:37 GMT", Some(784_111_777)),
            ("Sunday, 06-Nov-94 08:49:37 GMT", Some(784_111_777)),
            ("Sun Nov  6 08:49:37 1994", Some(784_111_777)),
            ("Thu, 01 Jan 1970 00:00:00 GMT", Some(0)),
            ("Tue, 29 Feb 2000 12:00:00 GMT", Some(951_825_600)),
            ("Sat, 21 Nov 2026 13:00:00 GMT", Some(1_795_266_000)),
            ("Sun, 06 Foo 1994 08:49:37 GMT", None),
            ("Sun, 06 Nov 1994 25:49:37 GMT", None),
            ("Sun, 32 Nov 1994 08:49:37 GMT", None),
            ("Sun, 06 Nov 1960 08:49:37 GMT", None),
            ("soon", None),
            ("", None),
            ("- - - - -", None),
        ] {
            assert_eq!(parse_date(text), seconds, "{text}");
        }
    }

    #[test]
    fn retry_after_in_both_forms() {
        let date = b"Sat, 21 Nov 2026 13:00:00 GMT";
        let later = b"Sat, 21 Nov 2026 13:02:00 GMT";
        let head = |value: &'static [u8]| ResponseHead::new(503, "http://h/").header("Retry-After", value);
        let seconds = |n| Some(Duration::from_secs(n));
        assert_eq!(head(b"120").retry_after(), seconds(120));
        assert_eq!(head(b" 7 ").retry_after(), seconds(7));
        assert_eq!(head(b"99999999999999999999999").retry_after(), seconds(u64::MAX));
        for none in [&b"0"[..], b"", b"-1", b"1.5", b"+3", b"soon", b"\xff"] {
            let head = ResponseHead::new(503, "http://h/").header("Retry-After", none);
            assert_eq!(head.retry_after(), None, "{none:?}");
        }
        assert_eq!(head(later).retry_after(), None, "no clock to compare with");
        assert_eq!(head(later).header("date", date).retry_after(), seconds(120));
        let by_clock = Duration::from_secs(1_795_266_060);
        assert_eq!(head(later).unix_time(by_clock).retry_after(), seconds(60));
        // The client's clock is wrong by an hour: the server's own date decides.
        let wrong = Duration::from_secs(1_795_266_000 - 3_600);
        assert_eq!(head(later).header("Date", date).unix_time(wrong).retry_after(), seconds(120));
        assert_eq!(head(date).header("date", later).retry_after(), None, "in the past");
    }

    #[test]
    fn event_stream_types() {
        for (value, accepted) in [
            (&b"text/event-stream"[..], true),
            (b"text/event-stream;", true),
            (b"Text/Event-Stream ; charset=windows-1252", true),
            (b"text/event-stream-x", false),
            (b"text/x-bogus", false),
            (b"x bogus", false),
            (b"", false),
        ] {
            let head = ResponseHead::new(200, "").header("CONTENT-TYPE", value);
            assert_eq!(head.is_event_stream(), accepted, "{value:?}");
        }
        assert!(!ResponseHead::new(200, "").is_event_stream());
    }
}
