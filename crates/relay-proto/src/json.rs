//! A strict scanner of JSON: finds the places of values in a text without building them.
//!
//! It accepts what `serde_json` accepts as a `Value`, and nothing else: RFC 8259 with complete surrogate pairs, finite
//! numbers and at most 127 levels.

#[cfg(feature = "autoconfig")]
pub(crate) mod lenient;

/// The text is not JSON, or not of the shape that was asked for. It has no reason: the caller then reads the text
/// with serde, which decides and explains.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Unusual;

pub(crate) type Scan<T> = Result<T, Unusual>;

/// The place of a string's content, without its quotes.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Text {
    /// Its first byte. Never 0, as there is a quote before it.
    pub(crate) start: u32,
    pub(crate) end: u32,
    /// Whether the content has escapes, so that it differs from the value.
    pub(crate) escaped: bool,
}

impl Text {
    /// The content as it is written.
    pub(crate) fn of<'a>(&self, text: &'a str) -> &'a str {
        &text[self.start as usize..self.end as usize]
    }

    /// The content of a string without escapes.
    pub(crate) fn plain<'a>(&self, text: &'a str) -> Scan<&'a str> {
        if self.escaped { Err(Unusual) } else { Ok(self.of(text)) }
    }
}

/// A position in a text. Each method reads one value or a part of one, and moves the position to its end. After an
/// error the position is undefined.
#[derive(Debug, Clone)]
pub(crate) struct Scanner<'a> {
    text: &'a str,
    at: usize,
    depth: u8,
}

impl<'a> Scanner<'a> {
    /// The deepest level that is accepted.
    const DEPTH: u8 = 127;

    /// At the start of a text, which may have up to 4 GiB.
    pub(crate) fn new(text: &'a str) -> Scan<Self> {
        if u32::try_from(text.len()).is_ok() { Ok(Self { text, at: 0, depth: 0 }) } else { Err(Unusual) }
    }

    /// The whole text.
    pub(crate) fn text(&self) -> &'a str {
        self.text
    }

    /// Bytes before the position.
    pub(crate) fn at(&self) -> usize {
        self.at
    }

    /// The first byte of the next value or sign, without consuming it.
    #[inline(always)]
    pub(crate) fn peek(&mut self) -> Scan<u8> {
        loop {
            match self.text.as_bytes().get(self.at) {
                Some(b' ' | b'\n' | b'\t' | b'\r') => self.at += 1,
                Some(&byte) => return Ok(byte),
                None => return Err(Unusual),
            }
        }
    }

    /// Whether there is nothing left but white space.
    pub(crate) fn end(mut self) -> Scan<()> {
        if self.peek().is_err() { Ok(()) } else { Err(Unusual) }
    }

    /// Reads an object. `member` is called with each key and reads its value.
    #[inline]
    pub(crate) fn object(&mut self, mut member: impl FnMut(&mut Self, Text) -> Scan<()>) -> Scan<()> {
        self.open(b'{')?;
        if self.peek()? == b'}' {
            return self.close();
        }
        loop {
            let key = self.string()?;
            self.sign(b':')?;
            member(self, key)?;
            match self.peek()? {
                b',' => self.at += 1,
                b'}' => return self.close(),
                _ => return Err(Unusual),
            }
        }
    }

    /// Reads an object whose fields have the `names`, each written with its quotes and a colon. `field` is given the
    /// number of a name and reads the value; `other` is given any other key and does the same. A name that comes twice,
    /// and any key with escapes, is [`Unusual`]. Returns which names came, one bit each.
    ///
    /// Fields are expected in the order of `names`: the next one is found by comparing its text.
    #[inline]
    pub(crate) fn fields(
        &mut self,
        names: &[&str],
        mut field: impl FnMut(&mut Self, usize) -> Scan<()>,
        mut other: impl FnMut(&mut Self, &'a str) -> Scan<()>,
    ) -> Scan<u32> {
        self.open(b'{')?;
        if self.peek()? == b'}' {
            return self.close().map(|()| 0);
        }
        let (mut next, mut seen) = (0, 0_u32);
        loop {
            self.peek()?;
            let rest = &self.text.as_bytes()[self.at..];
            let at = match names.get(next) {
                Some(name) if rest.starts_with(name.as_bytes()) => {
                    self.at += name.len();
                    Ok(next)
                }
                _ => {
                    let key = self.string()?.plain(self.text)?;
                    self.sign(b':')?;
                    names.iter().position(|name| name[1..name.len() - 2] == *key).ok_or(key)
                }
            };
            match at {
                Ok(at) => {
                    if seen & (1 << at) != 0 {
                        return Err(Unusual);
                    }
                    seen |= 1 << at;
                    next = at + 1;
                    field(self, at)?;
                }
                Err(key) => other(self, key)?,
            }
            match self.peek()? {
                b',' => self.at += 1,
                b'}' => return self.close().map(|()| seen),
                _ => return Err(Unusual),
            }
        }
    }

    /// Reads an array. `item` reads one value each time.
    #[inline]
    pub(crate) fn array(&mut self, mut item: impl FnMut(&mut Self) -> Scan<()>) -> Scan<()> {
        self.open(b'[')?;
        if self.peek()? == b']' {
            return self.close();
        }
        loop {
            item(self)?;
            match self.peek()? {
                b',' => self.at += 1,
                b']' => return self.close(),
                _ => return Err(Unusual),
            }
        }
    }

    /// Reads a string.
    #[inline]
    pub(crate) fn string(&mut self) -> Scan<Text> {
        self.sign(b'"')?;
        self.rest_of_string()
    }

    /// Reads what follows a string's first quote.
    #[inline]
    pub(crate) fn rest_of_string(&mut self) -> Scan<Text> {
        let end = far_plain_end(self.text.as_bytes(), self.at);
        match self.quote_at(end) {
            Some(text) => Ok(text),
            None => self.escaped_string(end),
        }
    }

    /// Reads what follows the first quote of a string without escapes.
    #[cfg(feature = "parsec")]
    #[inline(always)]
    pub(crate) fn plain_rest_of_string(&mut self) -> Scan<Text> {
        let end = plain_end(self.text.as_bytes(), self.at);
        self.quote_at(end).ok_or(Unusual)
    }

    /// Like [`rest_of_string`](Self::rest_of_string), as a part of its caller.
    #[cfg(feature = "parsec")]
    #[inline(always)]
    pub(crate) fn near_rest_of_string(&mut self) -> Scan<Text> {
        let end = far_plain_end(self.text.as_bytes(), self.at);
        match self.quote_at(end) {
            Some(text) => Ok(text),
            None => self.aside(|scanner| scanner.escaped_string(end)),
        }
    }

    /// The text up to `end` if a quote is there, which is then read.
    #[inline(always)]
    fn quote_at(&mut self, end: usize) -> Option<Text> {
        let text = Text { start: self.at as u32, end: end as u32, escaped: false };
        (self.text.as_bytes().get(end) == Some(&b'"')).then(|| {
            self.at = end + 1;
            text
        })
    }

    /// Reads with a copy of the scanner, which is then taken over. A caller whose scanner is lent to no function can
    /// keep the position in a register; otherwise it is stored and loaded again for every few bytes.
    #[cfg(feature = "parsec")]
    #[inline(always)]
    pub(crate) fn aside<T>(&mut self, read: impl FnOnce(&mut Self) -> Scan<T>) -> Scan<T> {
        let mut copy = self.clone();
        let value = read(&mut copy)?;
        *self = copy;
        Ok(value)
    }

    #[cold]
    fn escaped_string(&mut self, mut end: usize) -> Scan<Text> {
        let (bytes, start) = (self.text.as_bytes(), self.at as u32);
        loop {
            self.at = end;
            match bytes.get(end) {
                Some(b'"') => break,
                Some(b'\\') => self.escape()?,
                _ => return Err(Unusual),
            }
            end = plain_end(bytes, self.at);
        }
        self.at += 1;
        Ok(Text { start, end: end as u32, escaped: true })
    }

    /// Reads exactly these bytes if they are next, and says whether they were.
    #[inline(always)]
    pub(crate) fn literal<const N: usize>(&mut self, literal: &[u8; N]) -> bool {
        let found = self.text.as_bytes().get(self.at..).and_then(<[u8]>::first_chunk) == Some(literal);
        if found {
            self.at += N;
        }
        found
    }

    /// Reads so many bytes if `read` makes something of them.
    #[cfg(feature = "parsec")]
    #[inline(always)]
    pub(crate) fn take<const N: usize, T>(&mut self, read: impl FnOnce(&[u8; N]) -> Option<T>) -> Option<T> {
        let taken = read(self.text.as_bytes().get(self.at..)?.first_chunk()?)?;
        self.at += N;
        Some(taken)
    }

    /// Reads exactly these bytes.
    #[inline(always)]
    pub(crate) fn need<const N: usize>(&mut self, literal: &[u8; N]) -> Scan<()> {
        if self.literal(literal) { Ok(()) } else { Err(Unusual) }
    }

    /// Reads a number that is a plain count: no sign, fraction or exponent, below 10^19. The rest of any other
    /// number is not read, and fails there.
    #[inline(always)]
    pub(crate) fn count(&mut self) -> Scan<u64> {
        if self.peek()? == b'0' {
            self.at += 1;
            return Ok(0);
        }
        let start = self.at;
        if let Some((count, digits)) = short_count(&self.text.as_bytes()[start..]) {
            self.at += digits;
            return Ok(count);
        }
        let mut count = 0;
        while let Some(digit @ b'0'..=b'9') = self.text.as_bytes().get(self.at) {
            if self.at - start == 19 {
                return Err(Unusual);
            }
            count = count * 10 + u64::from(digit - b'0');
            self.at += 1;
        }
        if self.at == start { Err(Unusual) } else { Ok(count) }
    }

    /// Reads a number, checks it, and gives its text.
    pub(crate) fn number(&mut self) -> Scan<&'a str> {
        self.peek()?;
        let (bytes, start) = (self.text.as_bytes(), self.at);
        if bytes.get(self.at) == Some(&b'-') {
            self.at += 1;
        }
        let leading = self.at;
        self.digits()?;
        if bytes[leading] == b'0' && self.at > leading + 1 {
            return Err(Unusual);
        }
        if bytes.get(self.at) == Some(&b'.') {
            self.at += 1;
            self.digits()?;
        }
        let exponent = matches!(bytes.get(self.at), Some(b'e' | b'E'));
        if exponent {
            self.at += 1;
            if matches!(bytes.get(self.at), Some(b'+' | b'-')) {
                self.at += 1;
            }
            self.digits()?;
        }
        let number = &self.text[start..self.at];
        // Only such a number can be too large for an f64.
        if (exponent || number.len() > 300) && serde_json::from_str::<f64>(number).is_err() {
            return Err(Unusual);
        }
        Ok(number)
    }

    /// Reads `true` or `false`.
    pub(crate) fn boolean(&mut self) -> Scan<bool> {
        let value = self.peek()? == b't';
        self.word(if value { "true" } else { "false" })?;
        Ok(value)
    }

    /// Reads `null` if it is next, and says whether it was.
    #[inline]
    pub(crate) fn null(&mut self) -> Scan<bool> {
        if self.peek()? != b'n' {
            return Ok(false);
        }
        self.word("null").map(|()| true)
    }

    /// Reads any value.
    pub(crate) fn skip(&mut self) -> Scan<()> {
        match self.peek()? {
            b'"' => self.string().map(drop),
            b'{' => self.object(|scanner, _| scanner.skip()),
            b'[' => self.array(Self::skip),
            b'n' => self.word("null"),
            b't' | b'f' => self.boolean().map(drop),
            _ => self.number().map(drop),
        }
    }

    fn open(&mut self, bracket: u8) -> Scan<()> {
        self.sign(bracket)?;
        self.depth += 1;
        if self.depth > Self::DEPTH { Err(Unusual) } else { Ok(()) }
    }

    fn close(&mut self) -> Scan<()> {
        self.at += 1;
        self.depth -= 1;
        Ok(())
    }

    #[inline]
    fn sign(&mut self, sign: u8) -> Scan<()> {
        if self.peek()? != sign {
            return Err(Unusual);
        }
        self.at += 1;
        Ok(())
    }

    #[inline]
    fn word(&mut self, word: &str) -> Scan<()> {
        if !self.text.as_bytes()[self.at..].starts_with(word.as_bytes()) {
            return Err(Unusual);
        }
        self.at += word.len();
        Ok(())
    }

    /// Reads at least one digit.
    fn digits(&mut self) -> Scan<()> {
        let rest = &self.text.as_bytes()[self.at..];
        let count = rest.iter().take_while(|b| b.is_ascii_digit()).count();
        self.at += count;
        if count == 0 { Err(Unusual) } else { Ok(()) }
    }

    /// Reads an escape, standing at its backslash.
    fn escape(&mut self) -> Scan<()> {
        let kind = self.text.as_bytes().get(self.at + 1);
        self.at += 2;
        match kind {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => Ok(()),
            Some(b'u') => match self.hex()? {
                // The first half of a surrogate pair must be followed by the second; a second half alone is invalid.
                0xd800..=0xdbff => {
                    if !self.text.as_bytes()[self.at..].starts_with(b"\\u") {
                        return Err(Unusual);
                    }
                    self.at += 2;
                    if matches!(self.hex()?, 0xdc00..=0xdfff) { Ok(()) } else { Err(Unusual) }
                }
                0xdc00..=0xdfff => Err(Unusual),
                _ => Ok(()),
            },
            _ => Err(Unusual),
        }
    }

    fn hex(&mut self) -> Scan<u16> {
        let digits = self.text.get(self.at..self.at + 4).ok_or(Unusual)?;
        self.at += 4;
        // The number reader of the standard library would take a plus sign.
        if digits.starts_with('+') {
            Err(Unusual)
        } else {
            u16::from_str_radix(digits, 16).map_err(|_| Unusual)
        }
    }
}

/// A number of one to seven digits at the start of a text, and the number of its digits. Eight characters are read at a
/// time.
#[inline]
fn short_count(text: &[u8]) -> Option<(u64, usize)> {
    // A digit differs from '0' by at most 9. A byte with its top bit set can carry only into the bytes behind it.
    let digits = u64::from_le_bytes(*text.first_chunk()?) ^ 0x3030_3030_3030_3030;
    let others = (digits | digits.wrapping_add(0x7676_7676_7676_7676)) & 0x8080_8080_8080_8080;
    let count = others.trailing_zeros() / 8;
    if !(1..8).contains(&count) {
        return None;
    }
    // Zeros come before the digits. Then pairs, fours and all eight are added up.
    let eight = digits << (64 - 8 * count);
    let pairs = (eight * 10 + (eight >> 8)) & 0x00ff_00ff_00ff_00ff;
    let fours = (pairs * 100 + (pairs >> 16)) & 0x0000_ffff_0000_ffff;
    Some(((fours * 10_000 + (fours >> 32)) & 0xffff_ffff, count as usize))
}

/// The end of the run of plain characters that begins at `at`: at a quote, a backslash, a control character or the end.
#[inline]
pub(crate) fn plain_end(bytes: &[u8], mut at: usize) -> usize {
    let (words, rest) = bytes.get(at..).unwrap_or_default().as_chunks();
    for word in words {
        let found = special(word);
        if found != 0 {
            return at + found.trailing_zeros() as usize / 8;
        }
        at += 8;
    }
    let plain = rest.iter().position(|b| matches!(b, b'"' | b'\\' | ..0x20));
    plain.map_or(bytes.len(), |plain| at + plain)
}

/// The same for text that may be long: with one branch for four words of plain characters.
#[inline]
fn far_plain_end(bytes: &[u8], mut at: usize) -> usize {
    let (blocks, _) = bytes.get(at..).unwrap_or_default().as_chunks::<32>();
    for block in blocks {
        let (words, _) = block.as_chunks();
        if words.iter().fold(0, |found, word| found | special(word)) != 0 {
            break;
        }
        at += block.len();
    }
    plain_end(bytes, at)
}

/// Looks for quotes, backslashes and control characters in eight bytes: the lowest high bit that is set marks the first
/// one; above it there may be false ones.
#[inline(always)]
fn special(word: &[u8; 8]) -> u64 {
    const ONES: u64 = u64::from_ne_bytes([0x01; 8]);
    const HIGH: u64 = u64::from_ne_bytes([0x80; 8]);
    let below = |word: u64, bound: u8| word.wrapping_sub(ONES * u64::from(bound)) & !word;
    let word = u64::from_le_bytes(*word);
    // Turning one bit puts the quote right above the control characters.
    let quote_or_control = below(word ^ (ONES * 0x02), 0x21);
    let backslash = below(word ^ (ONES * u64::from(b'\\')), 1);
    (quote_or_control | backslash) & HIGH
}

#[cfg(test)]
pub(crate) mod tests;
