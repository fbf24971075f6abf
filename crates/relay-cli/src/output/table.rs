//! Tables: columns as wide as their content, and cut to the width of the terminal.

use super::text::{Text, Tone};

/// One column of a table.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Column {
    heading: &'static str,
    cut: Cut,
    shown: Shown,
    /// Columns that it takes at least, unless the terminal is too narrow: for tables that are printed before all of
    /// their rows are known.
    least: usize,
    right: bool,
}

/// Which tables have a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shown {
    Always,
    Wide,
    Timed,
    Untimed,
}

/// How a cell gets narrower when the terminal is too narrow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cut {
    Never,
    Middle,
    End,
}

impl Column {
    /// A column of short words or numbers, which are not cut.
    pub(crate) const fn new(heading: &'static str) -> Self {
        Self { heading, cut: Cut::Never, shown: Shown::Always, least: 0, right: false }
    }

    /// A column of names: what tells them apart is often their end, so they are cut in the middle.
    pub(crate) const fn name(heading: &'static str) -> Self {
        Self { cut: Cut::Middle, ..Self::new(heading) }
    }

    /// A column of sentences, cut at the end.
    pub(crate) const fn sentence(heading: &'static str) -> Self {
        Self { cut: Cut::End, ..Self::new(heading) }
    }

    /// Only with `-o wide`.
    pub(crate) const fn wide(self) -> Self {
        Self { shown: Shown::Wide, ..self }
    }

    /// Only with `--timestamps`.
    pub(crate) const fn timed(self) -> Self {
        Self { shown: Shown::Timed, ..self }
    }

    /// Only without `--timestamps`.
    pub(crate) const fn untimed(self) -> Self {
        Self { shown: Shown::Untimed, ..self }
    }

    /// At least so wide: for tables that are printed before all of their rows are known.
    pub(crate) const fn least(self, least: usize) -> Self {
        Self { least, ..self }
    }

    /// Numbers stand at the right.
    pub(crate) const fn right(self) -> Self {
        Self { right: true, ..self }
    }
}

/// Spaces between two columns; one when it is narrow.
const GAP: usize = 3;
/// Columns that a name or a sentence keeps while there is another one to be cut.
const ENOUGH: usize = 12;

/// The columns of a table and how wide their cells have been so far.
#[derive(Debug)]
pub(crate) struct Table {
    columns: Vec<Column>,
    /// Which of the cells that a row has are shown.
    shown: Vec<usize>,
    widths: Vec<usize>,
}

impl Table {
    pub(crate) fn new(columns: &[Column], wide: bool, timed: bool) -> Self {
        let is_shown = |at: &usize| match columns[*at].shown {
            Shown::Always => true,
            Shown::Wide => wide,
            Shown::Timed => timed,
            Shown::Untimed => !timed,
        };
        let shown: Vec<_> = (0..columns.len()).filter(is_shown).collect();
        let columns: Vec<_> = shown.iter().map(|at| columns[*at]).collect();
        let widths = columns.iter().map(|column| column.least.max(column.heading.len())).collect();
        Self { columns, shown, widths }
    }

    /// Takes note of how wide the cells of a row are, which has a cell for each column, shown or not.
    pub(crate) fn measure(&mut self, row: &[Text]) {
        for (width, at) in self.widths.iter_mut().zip(&self.shown) {
            *width = (*width).max(row[*at].width());
        }
    }

    /// The cells of a row, once it was measured.
    pub(crate) fn measured(&mut self, row: Vec<Text>) -> Vec<Text> {
        self.measure(&row);
        row
    }

    /// The headings.
    pub(crate) fn headings(&self, room: Option<usize>, color: bool, out: &mut String) {
        let cells: Vec<_> = self.columns.iter().map(|column| Tone::Strong.text(column.heading)).collect();
        self.write(&cells.iter().collect::<Vec<_>>(), room, color, out);
    }

    /// A row: one line, as wide as the room at most.
    pub(crate) fn row(&self, row: &[Text], room: Option<usize>, color: bool, out: &mut String) {
        self.write(&self.shown.iter().map(|at| &row[*at]).collect::<Vec<_>>(), room, color, out);
    }

    fn write(&self, cells: &[&Text], room: Option<usize>, color: bool, out: &mut String) {
        let (widths, gap) = self.fit(room);
        let last = cells.iter().rposition(|cell| !cell.is_empty()).unwrap_or(0);
        let mut line = Text::default();
        for (at, cell) in cells.iter().enumerate().take(last + 1) {
            let (column, width) = (self.columns[at], widths[at]);
            let whole = cell.width();
            let cut;
            let (cell, taken) = if whole > width {
                cut = match column.cut {
                    Cut::Middle => cell.cut_middle(width),
                    Cut::Never | Cut::End => cell.cut_end(width),
                };
                let taken = cut.width();
                (&cut, taken)
            } else {
                (*cell, whole)
            };
            if column.right {
                line.push(Tone::Plain, &" ".repeat(width - taken));
            }
            line.extend(cell);
            if at < last {
                let pad = if column.right { 0 } else { width - taken };
                line.push(Tone::Plain, &" ".repeat(pad + gap));
            }
        }
        match room {
            Some(room) => line.cut_end(room).render(color, out),
            None => line.render(color, out),
        }
        out.push('\n');
    }

    /// How wide each column is in so much room, and the space between them.
    fn fit(&self, room: Option<usize>) -> (Vec<usize>, usize) {
        let mut widths = self.widths.clone();
        let Some(room) = room else { return (widths, GAP) };
        let gaps = widths.len().saturating_sub(1);
        let whole: usize = widths.iter().sum();
        let gap = if whole + gaps * GAP <= room { GAP } else { 1 };
        let mut over = (whole + gaps * gap).saturating_sub(room);
        // The widest ones give first, down to what is enough; then to what their heading takes.
        for floor in [|_: &Column| ENOUGH, |column: &Column| column.heading.len().min(ENOUGH)] {
            while over > 0 {
                let cuttable = |at: &usize| {
                    let column = &self.columns[*at];
                    column.cut != Cut::Never && widths[*at] > floor(column)
                };
                let Some(at) = (0..widths.len()).filter(cuttable).max_by_key(|at| widths[*at]) else { break };
                // Down to the next widest, or in one step when it is the only one.
                let next = (0..widths.len())
                    .filter(|other| *other != at)
                    .filter(cuttable)
                    .map(|other| widths[other])
                    .max()
                    .unwrap_or(0)
                    .max(floor(&self.columns[at]));
                let step = over.min((widths[at] - next).max(1));
                widths[at] -= step;
                over -= step;
            }
        }
        (widths, gap)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::text::width;
    use super::*;

    const COLUMNS: &[Column] = &[
        Column::name("NAMESPACE"),
        Column::name("NAME"),
        Column::new("N").right(),
        Column::sentence("WHAT"),
        Column::new("NODE").wide(),
    ];

    fn table(rows: &[[&str; 5]], wide: bool, room: Option<usize>) -> String {
        let mut table = Table::new(COLUMNS, wide, false);
        let rows: Vec<Vec<Text>> =
            rows.iter().map(|row| row.iter().map(|cell| (*cell).into()).collect()).collect();
        rows.iter().for_each(|row| table.measure(row));
        let mut out = String::new();
        table.headings(room, false, &mut out);
        rows.iter().for_each(|row| table.row(row, room, false, &mut out));
        out
    }

    #[test]
    fn columns_are_as_wide_as_what_stands_in_them() {
        let rows = [["prod", "web-7d9f-abcde", "7", "is ready", "n1"], ["d", "x", "1000", "", "n2"]];
        assert_eq!(
            table(&rows, true, None),
            "NAMESPACE   NAME                N   WHAT       NODE\n\
             prod        web-7d9f-abcde      7   is ready   n1\n\
             d           x                1000              n2\n"
        );
        assert_eq!(
            table(&rows, false, Some(34)),
            "NAMESPACE NAME          N WHAT\n\
             prod      web-7…bcde    7 is ready\n\
             d         x          1000\n"
        );
    }

    #[test]
    fn a_narrow_terminal_cuts_names_in_the_middle_and_never_wraps() {
        let rows = [["production", "checkout-service-7d9f8b6c5d-abcde", "7", "is ready now", "n1"]];
        assert_eq!(
            table(&rows, false, Some(45)),
            "NAMESPACE  NAME                N WHAT\n\
             production checkout-…c5d-abcde 7 is ready now\n"
        );
        let narrow = table(&rows, true, Some(20));
        assert!(narrow.lines().all(|line| width(line) <= 20), "{narrow}");
    }

    proptest! {
        #[test]
        fn no_line_is_wider_than_the_terminal(
            rows in prop::collection::vec(prop::array::uniform5("\\PC{0,30}"), 0..6),
            room in 0usize..120,
            wide: bool,
        ) {
            let rows: Vec<[&str; 5]> = rows.iter().map(|row| row.each_ref().map(String::as_str)).collect();
            let fitted = table(&rows, wide, Some(room));
            prop_assert_eq!(fitted.lines().count(), rows.len() + 1);
            for line in fitted.lines() {
                prop_assert!(width(line) <= room);
            }
            // Where there is room for everything, nothing is lost.
            let whole = table(&rows, wide, None);
            let widest = whole.lines().map(width).max().unwrap();
            prop_assert_eq!(table(&rows, wide, Some(widest + 40)), &*whole);
            for (row, line) in rows.iter().zip(whole.lines().skip(1)) {
                for cell in &row[..if wide { 5 } else { 4 }] {
                    prop_assert!(line.contains(Text::from(*cell).as_str().trim_end()));
                }
            }
        }
    }
}
