//! Output of all commands: lines on standard output, as tables for people or as JSON, YAML or names for programs.
//!
//! Commands that print lists use [`Output::list`], commands that follow a stream [`Output::table`] and then
//! [`Output::row`], and commands with a single result [`Output::line`]. All text for people is a [`Text`], which
//! has no control characters; its colours follow from meanings ([`Tone`]). Longer work has a [`Progress`].

mod progress;
mod screen;
mod table;
mod text;

use std::io::{self, IsTerminal, Write};

use relay_proto::time::Timestamp;
use serde::Serialize;
use serde_json::Value;

use crate::args::{Format, Print};
use crate::clock::now;

pub(crate) use progress::Progress;
pub(crate) use screen::{Color, note, stderr_in_color};
pub(crate) use table::Column;
use table::Table;
pub(crate) use text::{Text, Tone, counted, escaped};

/// The number of bytes of a list that are written at once.
const BLOCK: usize = 64 * 1024;

/// A row of a table.
#[derive(Debug)]
pub(crate) enum Row {
    /// A cell for each column, including hidden ones.
    Cells(Vec<Text>),
    /// Cells for the first columns, and a sentence instead of all others.
    Sentence {
        /// The cells.
        first: Vec<Text>,
        /// The sentence.
        text: Text,
    },
}

impl From<Vec<Text>> for Row {
    fn from(cells: Vec<Text>) -> Self {
        Self::Cells(cells)
    }
}

/// For lines without a time: the time of printing, by the clock of this machine.
pub(crate) fn time_now() -> Text {
    Timestamp::from_unix_millis(now()).as_str().into()
}

/// Standard output, one line at a time, flushed after each.
#[derive(Debug)]
pub(crate) struct Output {
    format: Format,
    headings: bool,
    timestamps: bool,
    color: bool,
    table: Option<Table>,
    /// The number of lines, without headings.
    pub(crate) lines: u64,
}

impl Output {
    /// The output with the format of the flags. By default it is a table on a terminal and JSON elsewhere.
    pub(crate) fn new(print: impl Into<Print>) -> Self {
        let print = print.into();
        let default = if io::stdout().is_terminal() { Format::Table } else { Format::Json };
        Self {
            headings: !print.no_headers,
            timestamps: print.timestamps,
            ..Self::in_format(print.output.unwrap_or(default))
        }
    }

    pub(crate) fn in_format(format: Format) -> Self {
        let color = screen::stdout_in_color();
        Self { format, headings: true, timestamps: false, color, table: None, lines: 0 }
    }

    /// Whether the output is a table with all columns.
    pub(crate) fn is_wide(&self) -> bool {
        self.format == Format::Wide
    }

    pub(crate) fn is_json(&self) -> bool {
        self.format == Format::Json
    }

    /// Whether the output is a table, wide or not.
    pub(crate) fn is_table(&self) -> bool {
        matches!(self.format, Format::Table | Format::Wide)
    }

    /// Prints one line: the JSON, or the text. In YAML it is a document; if only names are wanted, nothing.
    ///
    /// # Errors
    /// When nobody reads the output.
    pub(crate) fn line<T: Into<Text>>(
        &mut self,
        json: impl FnOnce() -> Value,
        text: impl FnOnce() -> T,
    ) -> anyhow::Result<()> {
        let mut out = String::new();
        if self.is_table() {
            self.text(&self.timed(text().into()), &mut out);
        } else {
            self.record(String::new, json, &mut out);
        }
        self.lines += 1;
        write(&out)
    }

    /// Like [`line`](Self::line), for text that must be complete: it is not cut at the width of the terminal.
    ///
    /// # Errors
    /// When nobody reads the output.
    pub(crate) fn answer<T: Into<Text>>(
        &mut self,
        json: impl FnOnce() -> Value,
        text: impl FnOnce() -> T,
    ) -> anyhow::Result<()> {
        if !self.is_table() {
            return self.line(json, text);
        }
        self.lines += 1;
        self.whole(&self.timed(text().into()))
    }

    /// Like [`line`](Self::line), for JSON that was written already: it may contain numbers and spellings that a
    /// `Value` would change.
    ///
    /// # Errors
    /// When nobody reads the output.
    pub(crate) fn written<T: Into<Text>>(
        &mut self,
        json: impl FnOnce() -> String,
        text: impl FnOnce() -> T,
    ) -> anyhow::Result<()> {
        if !self.is_json() {
            return self.line(|| serde_json::from_str(&json()).unwrap_or_default(), text);
        }
        self.lines += 1;
        write(&(text::tame_json(json()) + "\n"))
    }

    /// Prints a sentence for people only, in as many lines as it needs. It does not count as a line.
    ///
    /// # Errors
    /// When nobody reads the output.
    pub(crate) fn heading(&mut self, text: impl Into<Text>) -> anyhow::Result<()> {
        if !self.is_table() {
            return Ok(());
        }
        let (mut out, text) = (String::new(), text.into());
        for line in text.wrapped(screen::stdout_columns().unwrap_or(usize::MAX)) {
            line.render(self.color, &mut out);
            out.push('\n');
        }
        write(&out)
    }

    /// Prints a line for people only, without cutting it at the width of the terminal, for text that must be complete.
    ///
    /// # Errors
    /// When nobody reads the output.
    pub(crate) fn whole(&mut self, text: &Text) -> anyhow::Result<()> {
        if !self.is_table() {
            return Ok(());
        }
        let mut out = String::new();
        text.render(self.color, &mut out);
        out.push('\n');
        write(&out)
    }

    /// Begins a table whose rows come one by one: its headings are printed with the first row.
    pub(crate) fn table(&mut self, columns: &[Column]) {
        self.table = Some(Table::new(columns, self.format == Format::Wide, self.timestamps));
    }

    /// Prints a row of the table that was begun: a cell for each of its columns, shown or not, or a sentence.
    ///
    /// # Errors
    /// When nobody reads the output.
    pub(crate) fn row<R: Into<Row>>(
        &mut self,
        name: impl FnOnce() -> String,
        json: impl FnOnce() -> Value,
        cells: impl FnOnce() -> R,
    ) -> anyhow::Result<()> {
        let mut out = String::new();
        if self.is_table() {
            self.cells(&cells().into(), &mut out);
        } else {
            self.record(name, json, &mut out);
        }
        self.lines += 1;
        write(&out)
    }

    /// Like [`row`](Self::row), for JSON that was written already.
    ///
    /// # Errors
    /// When nobody reads the output any more.
    pub(crate) fn written_row<R: Into<Row>>(
        &mut self,
        json: impl FnOnce() -> String,
        cells: impl FnOnce() -> R,
    ) -> anyhow::Result<()> {
        if !self.is_json() {
            return self.row(String::new, || serde_json::from_str(&json()).unwrap_or_default(), cells);
        }
        self.lines += 1;
        write(&(text::tame_json(json()) + "\n"))
    }

    /// Prints a row for people only. It does not count as a line.
    ///
    /// # Errors
    /// When nobody reads the output.
    pub(crate) fn more(&mut self, row: impl Into<Row>) -> anyhow::Result<()> {
        if !self.is_table() {
            return Ok(());
        }
        let mut out = String::new();
        self.cells(&row.into(), &mut out);
        write(&out)
    }

    fn cells(&mut self, row: &Row, out: &mut String) {
        let (room, color) = (screen::stdout_columns(), self.color);
        let Some(table) = &mut self.table else { return };
        let known = match row {
            Row::Cells(cells) => cells,
            Row::Sentence { first, .. } => first,
        };
        let layout = table.standing(known, room);
        if std::mem::take(&mut self.headings) {
            table.headings(&layout, color, out);
        }
        match row {
            Row::Cells(cells) => table.row(cells, &layout, color, out),
            Row::Sentence { first, text } => table.sentence(first, text, &layout, color, out),
        }
    }

    /// Prints a complete list: headings, unless there are no rows, and a row per item.
    ///
    /// # Errors
    /// When nobody reads the output.
    pub(crate) fn list<T>(
        &mut self,
        columns: &[Column],
        items: &[T],
        name: impl Fn(&T) -> String,
        json: impl Fn(&T) -> Value,
        cells: impl Fn(&T) -> Vec<Text>,
    ) -> anyhow::Result<()> {
        let mut out = String::new();
        if self.is_table() && !items.is_empty() {
            let mut table = Table::new(columns, self.format == Format::Wide, self.timestamps);
            let rows: Vec<_> = items.iter().map(|item| table.measured(cells(item))).collect();
            let layout = table.layout(screen::stdout_columns());
            if self.headings {
                table.headings(&layout, self.color, &mut out);
            }
            for row in rows {
                table.row(&row, &layout, self.color, &mut out);
                write_block(&mut out)?;
            }
        } else if !self.is_table() {
            for item in items {
                self.record(|| name(item), || json(item), &mut out);
                write_block(&mut out)?;
            }
        }
        self.lines += items.len() as u64;
        write(&out)
    }

    /// With `--timestamps`, a line that is not part of a table begins with the present time.
    fn timed(&self, text: Text) -> Text {
        if !self.timestamps || self.table.is_some() {
            return text;
        }
        time_now().plain("  ").joined(&text)
    }

    /// Writes a line of text, cut at the width of the terminal.
    fn text(&self, text: &Text, out: &mut String) {
        match screen::stdout_columns() {
            Some(columns) => text.cut_end(columns).render(self.color, out),
            None => text.render(self.color, out),
        }
        out.push('\n');
    }

    fn record(&self, name: impl FnOnce() -> String, json: impl FnOnce() -> Value, out: &mut String) {
        match self.format {
            Format::Name => {
                let name = name();
                if !name.is_empty() {
                    out.push_str(&escaped(&name));
                    out.push('\n');
                }
            }
            Format::Yaml => out.push_str(&yaml(&json())),
            _ => {
                out.push_str(&text::tame_json(json().to_string()));
                out.push('\n');
            }
        }
    }
}

/// A separate YAML document.
fn yaml(value: &Value) -> String {
    match serde_saphyr::to_string(value) {
        Ok(document) if document.lines().all(text::harmless) => {
            format!("---\n{}\n", document.trim_end_matches('\n'))
        }
        // JSON is also YAML, and can escape everything.
        _ => format!("---\n{}\n", text::tame_json(value.to_string())),
    }
}

fn write(text: &str) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush())?;
    Ok(())
}

/// Writes the collected text once it is as long as a block.
fn write_block(out: &mut String) -> anyhow::Result<()> {
    if out.len() >= BLOCK {
        write(out)?;
        out.clear();
    }
    Ok(())
}

/// All values that are printed have string keys and cannot fail.
pub(crate) fn to_value(thing: impl Serialize) -> Value {
    serde_json::to_value(thing).unwrap_or(Value::Null)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn yaml_says_what_json_says_and_nothing_to_the_terminal() {
        for value in [
            json!({"a": 1, "b": [1, "two", null, true, {"c": {}}], "d": {}, "e": []}),
            json!({"control": "\u{1b}[2J", "c1": "\u{9b}31m", "del": "\u{7f}", "line": "a\nb\n", "tab": "\t"}),
            json!({"no": "no", "number": "1e3", "null": "null", "empty": "", "space": " a ", "colon": "a: b"}),
            json!({"dash": "- a", "hash": "a #b", "quote": "it's \"it\"", "tilde": "~", "bidi": "\u{202e}x"}),
            json!({"\u{1b}key": "日本", "date": "2026-11-21T09:00:00Z", "octal": "0o7", "hex": "0x1F"}),
            json!([]),
            json!("text"),
            json!(1.5),
        ] {
            let text = yaml(&value);
            assert!(text.lines().all(text::harmless), "{text:?}");
            let read: Value = serde_saphyr::from_str(&text).unwrap();
            assert_eq!(read, value, "{text}");
        }
    }
}
