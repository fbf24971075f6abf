//! Refuses requests that give their length twice, by `Content-Length` and by `Transfer-Encoding`. Two servers in a
//! row may then disagree on where the request ends, and one of them takes a part of its body for another request
//! that was not checked (RFC 9112, 6.1 and 11.2). hyper drops one of the two without an error, so the bytes are
//! checked before hyper gets them.
//!
//! Tells, too, when a head has more fields than hyper has room for at first: hyper allocates for all fields that may
//! come, for each head.

/// Parses the requests of one connection as their bytes come in. It removes the colon of the second of the two
/// fields: hyper then refuses the request as malformed and ends the connection.
///
/// ```text
///                     (blank line)
///   Head ------------------------------------> Body, Chunked, or the next Head
///     \--(both fields)--> NoMore                  \--(its end)--> Head
///      \--(hyper refuses the request, or hands the connection over)--> NoMore
/// ```
#[derive(Debug, Default)]
pub(crate) struct Framing {
    state: State,
    head: Head,
    /// Bytes that were checked, and how many of them are of requests that have ended.
    checked: u64,
    ended: u64,
    /// There is room for all fields.
    roomy: bool,
}

/// Fields of a head that hyper has room for without an allocation.
const FEW: usize = 100;

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Before a request, where blank lines are ignored.
    #[default]
    Before,
    /// In the first line.
    Target,
    /// In the name of a field. Number of its bytes that are kept.
    Name(usize),
    /// In the value of a field.
    Value(Field),
    /// Bytes of a body that are still to come.
    Body(u64),
    /// In the first line of a chunk: its size so far.
    Size(u64),
    /// The rest of that line, which is ignored.
    Extension(u64),
    /// Bytes of a chunk, with its line end, that are still to come.
    Chunk(u64),
    /// In the trailer fields. Bytes of the line so far.
    Trailer(usize),
    NoMore,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Field {
    Length,
    Encoding,
    Upgrade,
    Other,
}

/// The longest of the names below.
const LONGEST: usize = "transfer-encoding".len();

/// The length fields of a head so far, and the number of its fields.
#[derive(Debug, Default)]
struct Head {
    fields: usize,
    name: [u8; LONGEST],
    length: Option<u64>,
    chunked: bool,
    upgrade: bool,
}

impl Framing {
    /// For a connection with room for all fields.
    pub(crate) fn roomy() -> Self {
        Self { roomy: true, ..Self::default() }
    }

    /// Bytes that were checked, of the request that has not ended.
    pub(crate) fn begun(&self) -> u64 {
        self.checked - self.ended
    }

    /// Checks received bytes, and changes one of them in a request that must be refused. Returns how many were
    /// checked: fewer than there are when a head needs more room, or may be followed by another protocol, where fields
    /// cannot be counted.
    pub(crate) fn look_at(&mut self, bytes: &mut [u8]) -> usize {
        let mut at = 0;
        while let Some(byte) = bytes.get_mut(at) {
            let before = self.state;
            self.state = match before {
                State::NoMore => {
                    at = bytes.len();
                    break;
                }
                State::Body(left) => {
                    let taken = left.min((bytes.len() - at) as u64);
                    at += taken as usize;
                    if left == taken { State::Before } else { State::Body(left - taken) }
                }
                State::Chunk(left) => {
                    let taken = left.min((bytes.len() - at) as u64);
                    at += taken as usize;
                    if left == taken { State::Size(0) } else { State::Chunk(left - taken) }
                }
                state => {
                    if !self.roomy && self.needs_room(*byte) {
                        break;
                    }
                    at += 1;
                    self.next(state, byte)
                }
            };
            if self.state == State::Before && before != State::Before {
                self.ended = self.checked + at as u64;
            }
        }
        self.checked += at as u64;
        at
    }

    /// Whether the field that this byte belongs to is one too many.
    fn needs_room(&self, byte: u8) -> bool {
        match self.state {
            State::Name(0) => self.head.fields == FEW && !matches!(byte, b'\r' | b'\n'),
            State::Name(length) => byte == b':' && self.head.field(length) == Field::Upgrade,
            _ => false,
        }
    }

    fn next(&mut self, state: State, byte: &mut u8) -> State {
        match (state, *byte) {
            (State::Before, b'\r' | b'\n') => State::Before,
            (State::Before, _) => {
                self.head = Head::default();
                State::Target
            }
            (State::Target, b'\n') => State::Name(0),
            (State::Name(0), b'\r') => State::Name(0),
            (State::Name(0), b'\n') => self.head.body(),
            (State::Name(length), b':') => match self.head.field(length) {
                Field::Length if self.head.chunked => State::refused(byte),
                Field::Encoding if self.head.length.is_some() => State::refused(byte),
                Field::Length if self.head.length.is_some() => State::Value(Field::Other),
                field => {
                    self.head.say(field);
                    State::Value(field)
                }
            },
            // Not a field: hyper refuses it.
            (State::Name(_), b'\n') => State::NoMore,
            (State::Name(length), letter) => {
                if let Some(place) = self.head.name.get_mut(length) {
                    *place = letter.to_ascii_lowercase();
                }
                State::Name(length.saturating_add(1))
            }
            (State::Value(_), b'\n') => {
                self.head.fields += 1;
                State::Name(0)
            }
            (State::Value(Field::Length), digit @ b'0'..=b'9') => {
                let length = self.head.length.unwrap_or_default();
                match length.checked_mul(10).and_then(|ten| ten.checked_add(u64::from(digit - b'0'))) {
                    Some(length) => {
                        self.head.length = Some(length);
                        state
                    }
                    None => State::NoMore,
                }
            }
            (State::Size(size), digit) if digit.is_ascii_hexdigit() => {
                let digit = u64::from(char::from(digit).to_digit(16).unwrap_or_default());
                match size.checked_mul(16) {
                    Some(size) => State::Size(size + digit),
                    None => State::NoMore,
                }
            }
            (State::Size(0) | State::Extension(0), b'\n') => State::Trailer(0),
            // The data of a chunk is followed by a line end.
            (State::Size(size) | State::Extension(size), b'\n') => State::Chunk(size.saturating_add(2)),
            (State::Size(size), _) => State::Extension(size),
            (State::Trailer(0), b'\n') => State::Before,
            (State::Trailer(_), b'\n') => State::Trailer(0),
            (State::Trailer(length), b'\r') => State::Trailer(length),
            (State::Trailer(length), _) => State::Trailer(length.saturating_add(1)),
            (state, _) => state,
        }
    }
}

impl State {
    /// Replaces the colon of a field by NUL, which no field name may have.
    fn refused(colon: &mut u8) -> Self {
        *colon = 0;
        Self::NoMore
    }
}

impl Head {
    fn field(&self, length: usize) -> Field {
        match self.name.get(..length) {
            Some(b"content-length") => Field::Length,
            Some(b"transfer-encoding") => Field::Encoding,
            Some(b"upgrade") => Field::Upgrade,
            _ => Field::Other,
        }
    }

    fn say(&mut self, field: Field) {
        match field {
            Field::Length => self.length = Some(0),
            Field::Encoding => self.chunked = true,
            Field::Upgrade => self.upgrade = true,
            Field::Other => {}
        }
    }

    /// The state after the head.
    fn body(&self) -> State {
        match self.length {
            // The bytes after it may be another protocol.
            _ if self.upgrade => State::NoMore,
            _ if self.chunked => State::Size(0),
            Some(0) | None => State::Before,
            Some(length) => State::Body(length),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The bytes that hyper gets if they arrive in pieces that end at `cuts`.
    fn seen(bytes: &[u8], cuts: &[usize]) -> Vec<u8> {
        let (mut framing, mut seen, mut from) = (Framing::roomy(), bytes.to_vec(), 0);
        for cut in cuts.iter().copied().chain([bytes.len()]) {
            framing.look_at(&mut seen[from..cut]);
            from = cut;
        }
        seen
    }

    const GOOD: [&str; 10] = [
        "GET / HTTP/1.1\r\nhost: r\r\n\r\n",
        "GET / HTTP/1.1\nhost: r\n\n",
        "\r\n\r\nGET / HTTP/1.1\r\nhost: r\r\n\r\n",
        "POST / HTTP/1.1\r\nContent-Length: 0\r\n\r\n",
        "POST / HTTP/1.1\r\nContent-Length: 40\r\n\r\n\r\ncontent-length: 1\r\ntransfer-encoding: ",
        "POST / HTTP/1.1\r\nContent-Length: 3\r\nContent-Length: 3\r\nx: content-length: 4\r\n\r\nabc",
        "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n1B;x=\"y\"\r\na\ncontent-length: 5\r\n\r\nabcd\r\n00\r\nContent-Length: 1\r\n\r\n",
        "POST / HTTP/1.1\r\nx-transfer-encoding: 1\r\ntransfer-encodings: 2\r\ncontent-lengthy: 1\r\ncontent-length: 1\r\n\r\n.",
        "POST / HTTP/1.1\r\nx: a\r\nTransfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ];

    const BAD: [&str; 5] = [
        "POST / HTTP/1.1\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n",
        "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n",
        "POST / HTTP/1.1\r\nTRANSFER-ENCODING:chunked\nx: y\ncontent-length:0\n\n",
        "POST / HTTP/1.1\r\ncontent-length: 0\r\nhost: r\r\ntransfer-encoding: identity\r\n\r\n",
        "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: x\r\nContent-Length: 4\r\n\r\n",
    ];

    #[test]
    fn requests_that_say_one_length_are_left_alone_and_others_are_broken() {
        for before in GOOD {
            for good in GOOD {
                let both = [before, good].concat();
                assert_eq!(seen(both.as_bytes(), &[]), both.as_bytes(), "{both}");
            }
            for bad in BAD {
                let both = [before, bad].concat();
                let seen = seen(both.as_bytes(), &[]);
                let changed: Vec<_> =
                    (0..seen.len()).filter(|at| seen[*at] != both.as_bytes()[*at]).collect();
                let [colon] = changed[..] else { panic!("{both}: {changed:?}") };
                assert_eq!((both.as_bytes()[colon], seen[colon]), (b':', 0), "{both}");
                assert!(colon > before.len(), "{both}");
            }
        }
    }

    #[test]
    fn what_is_handed_to_somebody_else_is_not_looked_at() {
        let upgraded = ["GET / HTTP/1.1\r\nUpgrade: websocket\r\n\r\n", BAD[0]].concat();
        assert_eq!(seen(upgraded.as_bytes(), &[]), upgraded.as_bytes());
    }

    #[test]
    fn what_needs_room_is_held_back_from_its_first_byte() {
        let fields = |count: usize| "x: y\r\n".repeat(count);
        let good = "POST / HTTP/1.1\r\ncontent-length: 1\r\n\r\n.\r\n";
        for (head, at) in [
            (fields(FEW), None),
            (fields(FEW + 1), Some(fields(FEW).len())),
            ("x: y\r\nUpgrade: h2c\r\n".into(), Some("x: y\r\nUpgrade".len())),
        ] {
            let line = "GET / HTTP/1.1\r\n";
            let bytes = [good, good, line, &head, "\r\n"].concat();
            let expected = at.map_or(bytes.len(), |at| 2 * good.len() + line.len() + at);
            for cut in 0..=bytes.len() {
                let (mut framing, mut bytes) = (Framing::default(), bytes.clone().into_bytes());
                let (first, second) = bytes.split_at_mut(cut);
                let mut checked = framing.look_at(first);
                if checked == cut {
                    checked += framing.look_at(second);
                }
                assert_eq!(checked, expected, "{cut}");
                let blank = "\r\n".len();
                let begun = at.map_or(0, |at| blank + line.len() + at);
                assert_eq!(framing.begun(), begun as u64, "{cut}");
            }
        }
    }

    proptest! {
        #[test]
        fn the_pieces_do_not_matter(
            parts in prop::collection::vec(prop::sample::select([&GOOD[..], &BAD[..]].concat()), 1..5),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
        ) {
            let bytes = parts.concat();
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len())).collect();
            cuts.sort_unstable();
            prop_assert_eq!(seen(bytes.as_bytes(), &cuts), seen(bytes.as_bytes(), &[]));
        }

        #[test]
        fn anything_is_looked_at(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            seen(&bytes, &[]);
        }
    }
}
