//! `watchfire ledger`.

use std::io::Write;

use serde_json::Value;
use watchfire_event::printable;

use crate::alerts::show;
use crate::cli::{LedgerOptions, Target};
use crate::client::Client;
use crate::field;
use crate::screen::{OutputError, Screen};
use crate::table::{Cell, Colour, Table};

const PRESENT: &str = "/api/v1/ledger";
const EARLIER: &str = "/api/v1/ledger?earlier=true";

pub(crate) fn run(target: &Target, options: &LedgerOptions) -> anyhow::Result<()> {
    let client = Client::new(target)?;
    let mut screen = Screen::new();
    let path = if options.earlier { EARLIER } else { PRESENT };
    if options.output.json {
        return client.copy_lines(path, &mut screen);
    }
    let mut table = Table::new(&["HOST", "STAGE", "KIND", "SEEN", "PASSED", "FILTERED", "HELD", "DROPPED"]);
    let mut verdict = Value::Null;
    client.for_each(path, |line| {
        if line.get("balanced").is_some() {
            verdict = line;
        } else if field::number(&line, "/seen") > 0
            || field::number(&line, "/passed") > 0
            || drops(&line) != "0"
        {
            table.push(row(&line));
        }
    })?;
    show(&table, &mut screen, "no books yet")?;
    say(&verdict, &mut screen)
}

fn row(line: &Value) -> Vec<Cell> {
    let drops = drops(line);
    let colour = (drops != "0").then_some(Colour::Red);
    vec![
        Cell::new(field::text(line, "/host")),
        Cell::new(field::text(line, "/stage")),
        Cell::new(field::text(line, "/kind")),
        Cell::number(field::number(line, "/seen")),
        Cell::number(field::number(line, "/passed")),
        Cell::number(field::number(line, "/filtered")),
        Cell::number(field::number(line, "/held")),
        Cell::new(drops).coloured(colour),
    ]
}

/// `12 ring_full, 3 malformed`, or `0`.
fn drops(line: &Value) -> String {
    let reasons = line.get("dropped").and_then(Value::as_object).into_iter().flatten();
    let words: Vec<String> =
        reasons.map(|(reason, count)| format!("{count} {}", printable(reason.as_bytes()))).collect();
    if words.is_empty() { "0".to_owned() } else { words.join(", ") }
}

fn say(verdict: &Value, screen: &mut Screen) -> anyhow::Result<()> {
    let balanced = verdict.pointer("/balanced") == Some(&Value::Bool(true));
    let words = if balanced { "balanced" } else { "NOT balanced" };
    writeln!(screen, "\n{words}, as of {}", field::time(verdict, "/time")).map_err(OutputError)?;
    let faults = verdict.get("faults").and_then(Value::as_array).into_iter().flatten();
    for fault in faults {
        writeln!(screen, "  {}", field::text(fault, "")).map_err(OutputError)?;
    }
    screen.flush().map_err(OutputError)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn drops_are_told_by_reason() {
        assert_eq!(drops(&json!({"dropped": {"ring_full": 12}})), "12 ring_full");
        assert_eq!(drops(&json!({"dropped": {}})), "0");
    }
}
