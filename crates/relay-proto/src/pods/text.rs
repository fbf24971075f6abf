//! A pod's text and the places of its fields in it.

use std::collections::BTreeMap;
use std::iter::FusedIterator;

use super::fields::Field;
use super::layout::Layout;
use crate::json::{Scan, Text, Unusual, plain_end};

/// The JSON of a pod in one allocation of its own, read in place: a field costs four bytes besides the text.
///
/// After the JSON come the values that the JSON does not contain literally: texts with escapes, and the labels when
/// they are untidy. Each is written as its length in decimal digits, a colon, and the text.
#[derive(Debug)]
pub(super) struct PodText {
    text: Box<str>,
    /// Bytes of the JSON.
    json: u32,
    /// By [`Field::place`], the start of a value; 0 for none.
    texts: [u32; Field::TEXTS],
    /// Where the labels begin and end.
    labels: u32,
    labels_end: u32,
    label_count: u32,
    /// Where these begin in the JSON; 0 when empty.
    pub(super) annotations: u32,
    pub(super) owner: u32,
    pub(super) containers: u32,
    pub(super) printed: u32,
}

impl PodText {
    /// Copies the pod that was found in `source`.
    pub(super) fn new(source: &str, layout: &Layout) -> Scan<Self> {
        let (start, end) = (layout.start, layout.end);
        let json = &source[start as usize..end as usize];
        // Only a value that is in the source has a start, which is after the opening brace.
        let moved = |at: u32| at.saturating_sub(start);
        let mut this = Self {
            text: Box::default(),
            json: end - start,
            texts: layout.texts.map(|text| moved(text.start)),
            labels: moved(layout.labels.start),
            labels_end: moved(layout.labels.end),
            label_count: layout.labels.count,
            annotations: moved(layout.annotations),
            owner: moved(layout.owner),
            containers: moved(layout.containers),
            printed: moved(layout.printed),
        };
        let escaped = layout.texts.iter().any(|text| text.escaped);
        this.text = if escaped || layout.labels.untidy {
            this.with_tail(source, json, layout)?.into()
        } else {
            json.into()
        };
        Ok(this)
    }

    #[cold]
    fn with_tail(&mut self, source: &str, json: &str, layout: &Layout) -> Scan<String> {
        let mut text = json.to_owned();
        for (at, found) in self.texts.iter_mut().zip(layout.texts) {
            if found.escaped {
                *at = append(&mut text, &unescape(source, found)?)?;
            }
        }
        if layout.labels.untidy {
            let labels = &source[layout.labels.start as usize..layout.labels.end as usize];
            // Sorts them, and lets the last of equal keys win.
            let labels: BTreeMap<String, String> = serde_json::from_str(labels).map_err(|_| Unusual)?;
            self.labels = u32::try_from(text.len()).map_err(|_| Unusual)?;
            self.label_count = labels.len() as u32;
            for (key, value) in &labels {
                append(&mut text, key)?;
                append(&mut text, value)?;
            }
            self.labels_end = u32::try_from(text.len()).map_err(|_| Unusual)?;
        }
        Ok(text)
    }

    /// The JSON as it came.
    pub(super) fn json(&self) -> &str {
        &self.text[..self.json as usize]
    }

    /// The value of a field that is text; `None` when null or absent.
    pub(super) fn get(&self, field: Field) -> Option<&str> {
        match self.texts[field.place()] {
            0 => None,
            at if at < self.json => Some(self.quoted(at as usize)),
            at => Some(self.counted(at as usize)),
        }
    }

    /// The labels, sorted by key.
    pub(super) fn labels(&self) -> Labels<'_> {
        Labels { text: self, at: self.labels as usize, left: self.label_count }
    }

    /// Whether both have the same labels. Labels that are written alike need not be parsed.
    pub(super) fn same_labels(&self, other: &Self) -> bool {
        let in_json = |text: &Self| text.labels < text.json;
        (in_json(self) == in_json(other) && self.written_labels() == other.written_labels())
            || self.labels().eq(other.labels())
    }

    fn written_labels(&self) -> &[u8] {
        &self.text.as_bytes()[self.labels as usize..self.labels_end as usize]
    }

    /// The rest of a string that begins at `at`, in the JSON and without escapes.
    fn quoted(&self, at: usize) -> &str {
        &self.text[at..plain_end(self.text.as_bytes(), at)]
    }

    /// The text after the JSON whose length is at `at`.
    fn counted(&self, at: usize) -> &str {
        let (len, rest) = self.text[at..].split_once(':').unwrap_or_default();
        len.parse().ok().and_then(|len| rest.get(..len)).unwrap_or_default()
    }
}

/// Appends a text with its length, and returns its start.
fn append(text: &mut String, value: &str) -> Scan<u32> {
    use std::fmt::Write;
    let at = u32::try_from(text.len()).map_err(|_| Unusual)?;
    write!(text, "{}:{value}", value.len()).map_err(|_| Unusual)?;
    Ok(at)
}

/// The value of a string.
pub(super) fn unescape(source: &str, text: Text) -> Scan<String> {
    let quoted = &source[text.start as usize - 1..=text.end as usize];
    serde_json::from_str(quoted).map_err(|_| Unusual)
}

/// Labels, sorted by key.
#[derive(Debug, Clone)]
pub(super) struct Labels<'a> {
    text: &'a PodText,
    /// In the JSON, a position before the next key's quote; after the JSON, the next length.
    at: usize,
    left: u32,
}

impl<'a> Labels<'a> {
    fn text(&mut self) -> &'a str {
        let (text, bytes) = (self.text, self.text.text.as_bytes());
        if self.at < text.json as usize {
            // Between two strings there are only signs and white space.
            while bytes[self.at] != b'"' {
                self.at += 1;
            }
            let found = text.quoted(self.at + 1);
            self.at += found.len() + 2;
            return found;
        }
        let found = text.counted(self.at);
        let digits = bytes[self.at..].iter().take_while(|b| **b != b':').count();
        self.at += digits + 1 + found.len();
        found
    }
}

impl<'a> Iterator for Labels<'a> {
    type Item = (&'a str, &'a str);

    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        Some((self.text(), self.text()))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left as usize, Some(self.left as usize))
    }
}

impl ExactSizeIterator for Labels<'_> {}
impl FusedIterator for Labels<'_> {}
