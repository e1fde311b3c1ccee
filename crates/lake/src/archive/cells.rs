//! A column: its name, its type, and how its cells come out of a row. The table of all columns is in `columns`.

use std::borrow::Cow;
use std::sync::Arc;

use arrow_array::builder::{MapBuilder, MapFieldNames, StringBuilder};
use arrow_array::{
    ArrayRef, BinaryArray, BooleanArray, Int64Array, MapArray, StringArray, TimestampMicrosecondArray,
    new_null_array,
};
use arrow_schema::{DataType, Field, TimeUnit};
use watchfire_event::Kind;

use super::rows::Row;

/// One column of the table.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Column {
    pub(crate) name: &'static str,
    pub(crate) cells: Cells,
    /// What it means, for `docs/lake-schema.md`.
    #[cfg_attr(not(test), expect(dead_code, reason = "the test that keeps the document true reads it"))]
    pub(crate) meaning: &'static str,
    /// Which kinds have it; the others hold NULL.
    pub(crate) kinds: Kinds,
    /// How its values are laid out in the file.
    pub(crate) layout: Layout,
}

/// The cells of a column, by type. Every number is `INT64`: 32 bits widen into it without loss, 64 unsigned bits keep their
/// pattern, and no reader has to know unsigned types.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Cells {
    Number(fn(&Row) -> Option<i64>),
    Bytes(for<'a> fn(&'a Row) -> Option<&'a [u8]>),
    Text(for<'a> fn(&'a Row) -> Option<Cow<'a, str>>),
    Flag(fn(&Row) -> Option<bool>),
    /// Microseconds since 1970, UTC.
    Time(fn(&Row) -> Option<i64>),
    /// Names with their values. A `MAP`, not a text of JSON: `column['name']` means the same to Spark, Trino, Hive, DuckDB
    /// and DataFusion, also for a name with a dot, and none parses a text at each row; their JSON functions differ, and
    /// DataFusion has none.
    Pairs(for<'a> fn(&'a Row) -> Option<&'a [Pair]>),
}

/// A name and its value.
pub(crate) type Pair = (String, String);

/// Which rows have a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kinds {
    Every,
    Only(&'static [Kind]),
}

/// How a column is encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Layout {
    /// Few distinct values: dictionary.
    Dictionary,
    /// Numbers that mostly differ a little from their neighbour.
    Delta,
}

impl Column {
    pub(crate) fn data_type(&self) -> DataType {
        match self.cells {
            Cells::Number(_) => DataType::Int64,
            Cells::Bytes(_) => DataType::Binary,
            Cells::Text(_) => DataType::Utf8,
            Cells::Flag(_) => DataType::Boolean,
            Cells::Time(_) => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
            Cells::Pairs(_) => map_type(),
        }
    }

    /// Every column may be NULL, so that files written before a column was added read as if it were empty.
    pub(crate) fn field(&self) -> Field {
        Field::new(self.name, self.data_type(), true)
    }

    pub(crate) fn build(&self, rows: &[Row], present: &[Kind]) -> ArrayRef {
        if let Kinds::Only(kinds) = self.kinds
            && !kinds.iter().any(|kind| present.contains(kind))
        {
            return new_null_array(&self.data_type(), rows.len());
        }
        match self.cells {
            Cells::Number(cell) => Arc::new(rows.iter().map(cell).collect::<Int64Array>()),
            Cells::Bytes(cell) => Arc::new(rows.iter().map(cell).collect::<BinaryArray>()),
            Cells::Text(cell) => Arc::new(rows.iter().map(cell).collect::<StringArray>()),
            Cells::Flag(cell) => Arc::new(rows.iter().map(cell).collect::<BooleanArray>()),
            Cells::Time(cell) => {
                Arc::new(rows.iter().map(cell).collect::<TimestampMicrosecondArray>().with_timezone("UTC"))
            }
            Cells::Pairs(cell) => Arc::new(maps(rows.iter().map(cell))),
        }
    }

    /// The type's name in `docs/lake-schema.md`.
    #[cfg(test)]
    pub(crate) fn type_name(&self) -> &'static str {
        match self.cells {
            Cells::Number(_) => "INT64",
            Cells::Bytes(_) => "BINARY",
            Cells::Text(_) => "STRING",
            Cells::Flag(_) => "BOOLEAN",
            Cells::Time(_) => "TIMESTAMP(MICROS, UTC)",
            Cells::Pairs(_) => "MAP(STRING, STRING)",
        }
    }
}

const fn column(name: &'static str, cells: Cells, meaning: &'static str) -> Column {
    Column { name, cells, meaning, kinds: Kinds::Every, layout: Layout::Dictionary }
}

pub(crate) const fn number(
    name: &'static str,
    cell: fn(&Row) -> Option<i64>,
    meaning: &'static str,
) -> Column {
    column(name, Cells::Number(cell), meaning)
}

/// A number that mostly differs from row to row: a clock or a counter.
pub(crate) const fn clock(
    name: &'static str,
    cell: fn(&Row) -> Option<i64>,
    meaning: &'static str,
) -> Column {
    Column { layout: Layout::Delta, ..column(name, Cells::Number(cell), meaning) }
}

pub(crate) const fn time(name: &'static str, cell: fn(&Row) -> Option<i64>, meaning: &'static str) -> Column {
    Column { layout: Layout::Delta, ..column(name, Cells::Time(cell), meaning) }
}

pub(crate) const fn bytes(
    name: &'static str,
    cell: for<'a> fn(&'a Row) -> Option<&'a [u8]>,
    meaning: &'static str,
) -> Column {
    column(name, Cells::Bytes(cell), meaning)
}

pub(crate) const fn text(
    name: &'static str,
    cell: for<'a> fn(&'a Row) -> Option<Cow<'a, str>>,
    meaning: &'static str,
) -> Column {
    column(name, Cells::Text(cell), meaning)
}

pub(crate) const fn pairs(
    name: &'static str,
    cell: for<'a> fn(&'a Row) -> Option<&'a [Pair]>,
    meaning: &'static str,
) -> Column {
    column(name, Cells::Pairs(cell), meaning)
}

pub(crate) const fn flag(
    name: &'static str,
    cell: fn(&Row) -> Option<bool>,
    meaning: &'static str,
) -> Column {
    column(name, Cells::Flag(cell), meaning)
}

/// Parquet's own names for the parts of a map, which its older readers insist on.
const ENTRY: &str = "key_value";
const KEY: &str = "key";
const VALUE: &str = "value";

fn map_type() -> DataType {
    let entry = vec![Field::new(KEY, DataType::Utf8, false), Field::new(VALUE, DataType::Utf8, true)];
    DataType::Map(Arc::new(Field::new_struct(ENTRY, entry, false)), false)
}

fn maps<'a>(rows: impl Iterator<Item = Option<&'a [Pair]>>) -> MapArray {
    let names = MapFieldNames { entry: ENTRY.to_owned(), key: KEY.to_owned(), value: VALUE.to_owned() };
    let mut maps = MapBuilder::new(Some(names), StringBuilder::new(), StringBuilder::new());
    for pairs in rows {
        for (name, value) in pairs.unwrap_or_default() {
            maps.keys().append_value(name);
            maps.values().append_value(value);
        }
        maps.append(pairs.is_some()).expect("each name was given its value");
    }
    maps.finish()
}

impl Column {
    pub(crate) const fn of(self, kinds: &'static [Kind]) -> Column {
        Column { kinds: Kinds::Only(kinds), ..self }
    }
}
