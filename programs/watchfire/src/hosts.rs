//! `watchfire hosts`.

use serde_json::Value;

use crate::alerts::show;
use crate::cli::{OutputOptions, Target};
use crate::client::Client;
use crate::field;
use crate::screen::Screen;
use crate::table::{Cell, Colour, Table};

pub(crate) fn run(target: &Target, options: &OutputOptions) -> anyhow::Result<()> {
    let client = Client::new(target)?;
    let mut screen = Screen::new();
    if options.json {
        return client.copy_lines("/api/v1/hosts", &mut screen);
    }
    let mut table =
        Table::new(&["HOST", "STATE", "SENSORS", "RULES", "AGENT", "LAST SEEN (UTC)", "KERNEL", "SYSTEM"]);
    client.for_each("/api/v1/hosts", |host| table.push(row(&host)))?;
    show(&table, &mut screen, "no host has connected yet")
}

fn row(host: &Value) -> Vec<Cell> {
    let is = |pointer| host.pointer(pointer) == Some(&Value::Bool(true));
    let state = if is("/online") { ("online", Colour::Green) } else { ("offline", Colour::Red) };
    let sensors = if is("/sensors_attached") { ("attached", Colour::Green) } else { ("no", Colour::Yellow) };
    vec![
        Cell::new(field::text(host, "/host")),
        Cell::new(state.0).coloured(Some(state.1)),
        Cell::new(sensors.0).coloured(Some(sensors.1)),
        Cell::number(field::number(host, "/rules_loaded")),
        Cell::new(field::text(host, "/agent_version")),
        Cell::new(field::time(host, "/last_seen")),
        Cell::new(field::text(host, "/kernel")),
        Cell::new(field::text(host, "/os")),
    ]
}
