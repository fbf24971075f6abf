//! Tables: columns as wide as their content, and cut to the width of the terminal.

use super::text::{Text, Tone};

/// One column of a table.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Column {
    heading: &'static str,
    cut: Cut,
    shown: Shown,
    /// The least width, unless the terminal is too narrow. It is for tables that are printed before all of their rows
    /// are known.
    least: usize,
    right: bool,
    /// Columns with the highest number are left out first if there is no room; 0 means never.
    dispensable: u8,
    /// Left out if it would take room from another column.
    spare: bool,
}

/// The tables that have a column.
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
        Self {
            heading,
            cut: Cut::Never,
            shown: Shown::Always,
            least: 0,
            right: false,
            dispensable: 0,
            spare: false,
        }
    }

    /// A column of names. They often differ at their end only, so they are cut in the middle.
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

    /// With at least this width, for tables that are printed before all of their rows are known.
    pub(crate) const fn least(self, least: usize) -> Self {
        Self { least, ..self }
    }

    /// Left out if there is no room for all columns, those with higher numbers first.
    pub(crate) const fn dispensable(self, order: u8) -> Self {
        Self { dispensable: order, ..self }
    }

    /// Left out if it would take room from another column: for what is of use only as a whole.
    pub(crate) const fn spare(self) -> Self {
        Self { spare: true, ..self }
    }

    /// Right-aligned, for numbers.
    pub(crate) const fn right(self) -> Self {
        Self { right: true, ..self }
    }
}

/// The spaces between two columns; one if the terminal is narrow.
const GAP: usize = 3;
/// The width that a name or a sentence keeps while another column can be cut or left out.
const ENOUGH: usize = 12;
/// The width that a sentence should have before wide spaces are used.
const SENTENCE: usize = 36;
/// The highest width of a word or number in a table whose rows come one by one, so that later columns keep some room.
const MOST: usize = 40;
/// The least width of a sentence next to cells, and its indentation if it goes below them.
const BESIDE: usize = 24;
const BELOW: usize = 2;

/// The columns of a table, and the greatest width of their cells so far.
#[derive(Debug)]
pub(crate) struct Table {
    columns: Vec<Column>,
    /// The indexes of the cells that are shown.
    shown: Vec<usize>,
    widths: Vec<usize>,
    /// The positions and the total width of the columns, for a table whose rows come one by one.
    standing: Option<(Option<usize>, Layout)>,
}

/// The positions of the columns of a table.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    room: Option<usize>,
    /// `None` for a column that is left out.
    widths: Vec<Option<usize>>,
    gap: usize,
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
        Self { columns, shown, widths, standing: None }
    }

    /// Records the widths of the cells of a row, which has a cell for each column, including hidden ones.
    pub(crate) fn measure(&mut self, row: &[Text]) {
        for (width, at) in self.widths.iter_mut().zip(&self.shown) {
            *width = (*width).max(row[*at].width());
        }
    }

    /// Records the widths of a row's cells, and returns the cells.
    pub(crate) fn measured(&mut self, row: Vec<Text>) -> Vec<Text> {
        self.measure(&row);
        row
    }

    /// The positions of the columns within this width, after all rows were measured.
    pub(crate) fn layout(&self, room: Option<usize>) -> Layout {
        self.fit(&self.widths, room)
    }

    /// The positions of the columns in a table whose rows come one by one. They do not change as long as the width of
    /// the terminal is the same, except that a number or word that is longer than all before it moves the columns after
    /// it.
    pub(crate) fn standing(&mut self, row: &[Text], room: Option<usize>) -> Layout {
        for (at, width) in self.widths.iter_mut().enumerate() {
            let cell = row.get(self.shown[at]).map_or(0, Text::width).min(MOST);
            if self.columns[at].cut == Cut::Never && cell > *width {
                *width = cell;
                self.standing = None;
            }
        }
        match &self.standing {
            Some((of, layout)) if *of == room => layout.clone(),
            _ => {
                let mut widths = self.widths.clone();
                // A sentence gets the room that the others leave.
                for (column, width) in self.columns.iter().zip(&mut widths) {
                    *width = if column.cut == Cut::End { (*width).max(room.unwrap_or(0)) } else { *width };
                }
                let layout = self.fit(&widths, room);
                self.standing = Some((room, layout.clone()));
                layout
            }
        }
    }

    /// The headings.
    pub(crate) fn headings(&self, layout: &Layout, color: bool, out: &mut String) {
        let cells: Vec<_> = self.columns.iter().map(|column| Tone::Strong.text(column.heading)).collect();
        self.write(&cells.iter().collect::<Vec<_>>(), layout, color, out);
    }

    /// A row as one line, at most as wide as the terminal.
    pub(crate) fn row(&self, row: &[Text], layout: &Layout, color: bool, out: &mut String) {
        self.write(&self.shown.iter().map(|at| &row[*at]).collect::<Vec<_>>(), layout, color, out);
    }

    /// A row that is a sentence after the first cells. It takes the place of all other columns, and more lines if it
    /// needs them.
    pub(crate) fn sentence(
        &self,
        first: &[Text],
        sentence: &Text,
        layout: &Layout,
        color: bool,
        out: &mut String,
    ) {
        let cells: Vec<_> = self.shown.iter().filter_map(|at| first.get(*at)).collect();
        let taken: usize =
            layout.widths[..cells.len()].iter().flatten().map(|width| width + layout.gap).sum();
        let mut head = self.cells(&cells, layout);
        let Some(room) = layout.room else {
            head.push(Tone::Plain, &" ".repeat(taken.saturating_sub(head.width())));
            head.extend(sentence);
            head.render(color, out);
            out.push('\n');
            return;
        };
        let beside = taken == 0 || room >= taken + BESIDE;
        let before = if beside { taken } else { BELOW.min(room.saturating_sub(1)) };
        let mut lines = sentence.wrapped(room.saturating_sub(before)).into_iter();
        if beside {
            head.push(Tone::Plain, &" ".repeat(taken.saturating_sub(head.width())));
            head.extend(&lines.next().unwrap_or_default());
        }
        head.cut_end(room).render(color, out);
        out.push('\n');
        for line in lines.filter(|line| !line.is_empty()) {
            Text::from(" ".repeat(before)).joined(&line).cut_end(room).render(color, out);
            out.push('\n');
        }
    }

    fn write(&self, cells: &[&Text], layout: &Layout, color: bool, out: &mut String) {
        let line = self.cells(cells, layout);
        match layout.room {
            Some(room) => line.cut_end(room).render(color, out),
            None => line.render(color, out),
        }
        out.push('\n');
    }

    /// The cells in their columns, up to the last cell that is not empty.
    fn cells(&self, cells: &[&Text], layout: &Layout) -> Text {
        let is_last = |at: &usize| layout.widths[*at].is_some() && !cells[*at].is_empty();
        let last = (0..cells.len()).rev().find(is_last).unwrap_or(0);
        let mut line = Text::default();
        for (at, cell) in cells.iter().enumerate().take(last + 1) {
            let (column, Some(width)) = (self.columns[at], layout.widths[at]) else { continue };
            let whole = cell.width();
            let cut = match column.cut {
                _ if whole <= width || layout.room.is_none() => None,
                Cut::Never => None,
                Cut::Middle => Some(cell.cut_middle(width)),
                Cut::End => Some(cell.cut_end(width)),
            };
            let taken = cut.as_ref().map_or(whole, Text::width);
            let pad = width.saturating_sub(taken);
            if column.right {
                line.push(Tone::Plain, &" ".repeat(pad));
            }
            line.extend(cut.as_ref().unwrap_or(cell));
            if at < last {
                line.push(Tone::Plain, &" ".repeat(if column.right { layout.gap } else { pad + layout.gap }));
            }
        }
        line
    }

    /// The width of each column within this total width, and the space between columns.
    fn fit(&self, widths: &[usize], room: Option<usize>) -> Layout {
        let all = || widths.iter().copied().map(Some).collect::<Vec<_>>();
        let Some(room) = room else { return Layout { room, widths: all(), gap: GAP } };
        let mut widths = all();
        let wanted = self.columns.iter().zip(&widths).map(|(column, width)| {
            width.map_or(0, |width| if column.cut == Cut::End { width.min(SENTENCE) } else { width })
        });
        if wanted.sum::<usize>() + widths.len().saturating_sub(1) * GAP > room {
            let spare = self.columns.iter().zip(&mut widths).filter(|(column, _)| column.spare);
            spare.for_each(|(_, width)| *width = None);
        }
        // The widest columns are made narrower first, down to [`ENOUGH`]. Then dispensable columns are left out.
        let gap = loop {
            let (gap, over) = self.shrink(&mut widths.clone(), room, ENOUGH);
            let dispensable = |at: &usize| self.columns[*at].dispensable > 0 && widths[*at].is_some();
            let next = (0..widths.len()).filter(dispensable).max_by_key(|at| self.columns[*at].dispensable);
            match next {
                Some(at) if over > 0 => widths[at] = None,
                _ => break gap,
            }
        };
        if self.shrink(&mut widths, room, ENOUGH).1 > 0 {
            let is_name =
                |(column, width): &(&Column, &Option<usize>)| column.cut == Cut::Middle && width.is_some();
            let names = self.columns.iter().zip(&widths).filter(is_name).count().max(1);
            self.shrink(&mut widths, room, ENOUGH.min(room * 3 / 5 / names));
        }
        Layout { room: Some(room), widths, gap }
    }

    /// Makes names and sentences narrower, down to this width. Returns the space between columns, and how much is still
    /// too wide.
    fn shrink(&self, widths: &mut [Option<usize>], room: usize, floor: usize) -> (usize, usize) {
        let gaps = widths.iter().flatten().count().saturating_sub(1);
        let sum = |most: usize| -> usize {
            let of = |(column, width): (&Column, &Option<usize>)| {
                width.map_or(0, |width| if column.cut == Cut::End { width.min(most) } else { width })
            };
            self.columns.iter().zip(&*widths).map(of).sum()
        };
        let gap = if sum(SENTENCE) + gaps * GAP <= room { GAP } else { 1 };
        let mut over = (sum(usize::MAX) + gaps * gap).saturating_sub(room);
        while over > 0 {
            let cuttable = |at: &usize| {
                self.columns[*at].cut != Cut::Never && widths[*at].is_some_and(|width| width > floor)
            };
            let width = |at: usize| widths[at].unwrap_or(0);
            let Some(at) = (0..widths.len()).filter(cuttable).max_by_key(|at| width(*at)) else { break };
            // Down to the next widest column, or in one step if there is only one.
            let others = (0..widths.len()).filter(|other| *other != at).filter(cuttable);
            let next = others.map(width).max().unwrap_or(0).max(floor);
            let step = over.min((width(at) - next).max(1));
            widths[at] = Some(width(at) - step);
            over -= step;
        }
        (gap, over)
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
        let layout = table.layout(room);
        table.headings(&layout, false, &mut out);
        rows.iter().for_each(|row| table.row(row, &layout, false, &mut out));
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
            // If there is room for everything, nothing is cut.
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
