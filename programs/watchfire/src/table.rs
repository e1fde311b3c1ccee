//! Tables for people: columns line up, and the last one is cut at the terminal's edge.

use std::io::{self, Write};

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// No column but the last grows beyond this.
const WIDEST: usize = 48;
const GAP: &str = "  ";

/// Rows of text that is already safe to show.
#[derive(Debug, Default)]
pub(crate) struct Table {
    head: Vec<&'static str>,
    rows: Vec<Vec<Cell>>,
}

/// One cell.
#[derive(Debug, Clone)]
pub(crate) struct Cell {
    text: String,
    colour: Option<Colour>,
    right: bool,
}

/// A colour of the terminal's own palette.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Colour {
    Red,
    Yellow,
    Blue,
    Green,
    Grey,
}

impl Colour {
    /// Its SGR parameter (ECMA-48, 8.3.117).
    fn code(self) -> &'static str {
        match self {
            Colour::Red => "31",
            Colour::Yellow => "33",
            Colour::Blue => "34",
            Colour::Green => "32",
            Colour::Grey => "90",
        }
    }
}

impl Cell {
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Cell { text: text.into(), colour: None, right: false }
    }

    /// A number: right-aligned.
    pub(crate) fn number(number: impl ToString) -> Self {
        Cell { text: number.to_string(), colour: None, right: true }
    }

    pub(crate) fn coloured(mut self, colour: Option<Colour>) -> Self {
        self.colour = colour;
        self
    }
}

impl Table {
    pub(crate) fn new(head: &[&'static str]) -> Self {
        Table { head: head.to_vec(), rows: Vec::new() }
    }

    pub(crate) fn push(&mut self, row: Vec<Cell>) {
        self.rows.push(row);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Writes head and rows; `width` cuts lines, `colour` allows colours.
    pub(crate) fn write(&self, out: &mut impl Write, width: Option<usize>, colour: bool) -> io::Result<()> {
        let widths = self.widths();
        let head: Vec<Cell> =
            self.head.iter().map(|text| Cell::new(*text).coloured(Some(Colour::Grey))).collect();
        for row in std::iter::once(&head).chain(&self.rows) {
            write_row(out, row, &widths, width, colour)?;
        }
        Ok(())
    }

    /// Writes the rows alone, each as wide as it is.
    pub(crate) fn write_rows(
        &self,
        out: &mut impl Write,
        width: Option<usize>,
        colour: bool,
    ) -> io::Result<()> {
        for row in &self.rows {
            let widths: Vec<usize> = row.iter().map(|cell| cell.text.width().min(WIDEST)).collect();
            write_row(out, row, &widths, width, colour)?;
        }
        Ok(())
    }

    fn widths(&self) -> Vec<usize> {
        let column = |index: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(index)).map(|cell| cell.text.width());
            cells.chain([self.head[index].width()]).max().unwrap_or(0).min(WIDEST)
        };
        (0..self.head.len()).map(column).collect()
    }
}

fn write_row(
    out: &mut impl Write,
    row: &[Cell],
    widths: &[usize],
    edge: Option<usize>,
    colour: bool,
) -> io::Result<()> {
    let mut used = 0;
    for (index, cell) in row.iter().enumerate() {
        let last = index + 1 == row.len();
        let left = edge.map_or(usize::MAX, |edge| edge.saturating_sub(used));
        let room = if last { left } else { widths[index].min(left) };
        let text = cut(&cell.text, room);
        let padding = " ".repeat(if last { 0 } else { room.saturating_sub(text.width()) });
        let (before, after) = if cell.right { (padding.as_str(), "") } else { ("", padding.as_str()) };
        match cell.colour.filter(|_| colour) {
            Some(paint) => write!(out, "{before}\x1b[{}m{text}\x1b[0m{after}", paint.code())?,
            None => write!(out, "{before}{text}{after}")?,
        }
        used += room.min(text.width() + padding.len());
        if !last && edge.is_none_or(|edge| used + GAP.len() < edge) {
            out.write_all(GAP.as_bytes())?;
            used += GAP.len();
        }
    }
    writeln!(out)
}

/// `text` in at most `room` columns; an ellipsis stands for what does not fit.
fn cut(text: &str, room: usize) -> String {
    if text.width() <= room {
        return text.to_owned();
    }
    let mut kept = String::new();
    let mut used = 0;
    for character in text.chars() {
        let width = character.width().unwrap_or(0);
        if used + width + 1 > room {
            break;
        }
        used += width;
        kept.push(character);
    }
    if room > 0 {
        kept.push('…');
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(table: &Table, width: Option<usize>, colour: bool) -> String {
        let mut out = Vec::new();
        table.write(&mut out, width, colour).unwrap();
        String::from_utf8(out).unwrap()
    }

    fn sample() -> Table {
        let mut table = Table::new(&["HOST", "N", "WHAT"]);
        table.push(vec![Cell::new("烽火"), Cell::number(7), Cell::new("/usr/bin/one --long argument")]);
        table.push(vec![Cell::new("a"), Cell::number(12), Cell::new("x").coloured(Some(Colour::Red))]);
        table
    }

    #[test]
    fn columns_line_up_whatever_the_script() {
        let text = written(&sample(), None, false);
        assert_eq!(text, "HOST  N   WHAT\n烽火   7  /usr/bin/one --long argument\na     12  x\n");
    }

    #[test]
    fn lines_are_cut_at_the_edge_and_say_so() {
        for line in written(&sample(), Some(20), false).lines() {
            assert!(line.width() <= 20, "{line}");
        }
        assert!(written(&sample(), Some(20), false).contains('…'));
    }

    #[test]
    fn colours_only_where_they_are_wanted() {
        assert!(written(&sample(), None, true).contains("\x1b[31mx\x1b[0m"));
        assert!(!written(&sample(), None, false).contains('\x1b'));
    }
}
