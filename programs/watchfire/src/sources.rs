//! `watchfire sources`.

use serde_json::Value;

use crate::alerts::show;
use crate::cli::{OutputOptions, Target};
use crate::client::Client;
use crate::field;
use crate::screen::Screen;
use crate::table::{Cell, Colour, Table};

const PATH: &str = "/api/v1/sources";

pub(crate) fn run(target: &Target, options: &OutputOptions) -> anyhow::Result<()> {
    let client = Client::new(target)?;
    let mut screen = Screen::new();
    if options.json {
        return client.copy_lines(PATH, &mut screen);
    }
    let mut table = Table::new(&["HOST", "SOURCE", "STATE", "DETAIL"]);
    client.for_each(PATH, |line| table.push(row(&line)))?;
    show(&table, &mut screen, "no agent is connected")
}

/// A source, or a rule file that could not be used.
fn row(line: &Value) -> Vec<Cell> {
    let host = Cell::new(field::text(line, "/host"));
    if line.get("rule_file").is_some() {
        let (file, error) = (field::text(line, "/rule_file"), field::text(line, "/error"));
        return vec![
            host,
            Cell::new(file),
            Cell::new("rule fault").coloured(Some(Colour::Red)),
            Cell::new(error),
        ];
    }
    let state = field::text(line, "/state");
    let colour = match state.as_str() {
        "active" => Some(Colour::Green),
        "unavailable" => Some(Colour::Yellow),
        _ => None,
    };
    let (name, detail) = (field::text(line, "/name"), field::text(line, "/detail"));
    vec![host, Cell::new(name), Cell::new(state).coloured(colour), Cell::new(detail)]
}
