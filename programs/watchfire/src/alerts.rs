//! `watchfire alerts`.

use std::io::{BufReader, Write};

use serde_json::Value;

use crate::cli::{AlertOptions, Target};
use crate::client::{Client, list_path, read_line};
use crate::field;
use crate::screen::{OutputError, Screen};
use crate::table::{Cell, Table};

const HEAD: &[&str] = &["TIME (UTC)", "LEVEL", "HOST", "RULE", "ATT&CK", "USER", "COMMAND"];

pub(crate) fn run(target: &Target, options: &AlertOptions) -> anyhow::Result<()> {
    let client = Client::new(target)?;
    let mut screen = Screen::new();
    if options.follow {
        return follow(&client, options, &mut screen);
    }
    let list = &options.list;
    let path = list_path(
        "/api/v1/alerts",
        &[
            ("since", list.since.clone()),
            ("limit", list.limit.map(|limit| limit.to_string())),
            ("level", options.level.clone()),
            ("rule", options.rule.clone()),
        ],
    );
    if list.output.json {
        return client.copy_lines(&path, &mut screen);
    }
    let mut table = Table::new(HEAD);
    client.for_each(&path, |alert| table.push(row(&alert)))?;
    show(&table, &mut screen, "no alerts")
}

/// Writes a table, or says that it would be empty.
pub(crate) fn show(table: &Table, screen: &mut Screen, empty: &str) -> anyhow::Result<()> {
    let (width, colour) = (screen.width, screen.colour);
    if table.is_empty() {
        writeln!(screen, "{empty}").map_err(OutputError)?;
    } else {
        table.write(screen, width, colour).map_err(OutputError)?;
    }
    screen.flush().map_err(OutputError)?;
    Ok(())
}

fn row(alert: &Value) -> Vec<Cell> {
    let level = field::text(alert, "/rule/level");
    let colour = field::level_colour(&level);
    let ids = alert.get("attack").and_then(Value::as_array);
    let ids: Vec<String> = ids.into_iter().flatten().map(|id| field::text(id, "")).collect();
    vec![
        Cell::new(field::time(alert, "/time")),
        Cell::new(level).coloured(colour),
        Cell::new(field::text(alert, "/host")),
        Cell::new(field::text(alert, "/rule/title")),
        Cell::new(ids.join(" ")),
        Cell::number(field::text(alert, "/process/uid")),
        Cell::new(alert.get("process").map(field::command).unwrap_or_default()),
    ]
}

/// New alerts as they are stored; ends when the server does.
fn follow(client: &Client, options: &AlertOptions, screen: &mut Screen) -> anyhow::Result<()> {
    let least = options.level.as_deref().map(str::parse::<watchfire_event::Level>).transpose()?;
    let mut body = BufReader::new(client.get("/api/v1/alerts/stream")?);
    let mut kind = String::new();
    while let Some(line) = read_line(&mut body)? {
        if let Some(name) = line.strip_prefix("event:") {
            name.trim().clone_into(&mut kind);
        }
        let Some(data) = line.strip_prefix("data:").map(str::trim_start) else { continue };
        if kind == "missed" {
            tracing::warn!(
                data,
                "alerts came faster than they could be shown; `watchfire alerts` has them all"
            );
            continue;
        }
        let alert: Value = serde_json::from_str(data)?;
        if wanted(&alert, least, options.rule.as_deref()) {
            write_one(&alert, data, options.list.output.json, screen)?;
        }
    }
    anyhow::bail!("the server ended the feed")
}

fn wanted(alert: &Value, least: Option<watchfire_event::Level>, rule: Option<&str>) -> bool {
    let level = field::text(alert, "/rule/level").parse::<watchfire_event::Level>().ok();
    least.is_none_or(|least| level.is_some_and(|level| level >= least))
        && rule.is_none_or(|rule| alert.pointer("/rule/id").and_then(Value::as_str) == Some(rule))
}

fn write_one(alert: &Value, line: &str, json: bool, screen: &mut Screen) -> anyhow::Result<()> {
    if json {
        writeln!(screen, "{line}").map_err(OutputError)?;
    } else {
        let mut table = Table::new(&[]);
        table.push(row(alert));
        let (width, colour) = (screen.width, screen.colour);
        table.write_rows(screen, width, colour).map_err(OutputError)?;
    }
    screen.flush().map_err(OutputError)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_feed_is_narrowed_by_level_and_rule() {
        let alert = json!({"rule": {"id": "r1", "level": "high"}});
        let level = |word: &str| Some(word.parse().unwrap());
        assert!(wanted(&alert, level("medium"), None) && wanted(&alert, None, Some("r1")));
        assert!(!wanted(&alert, level("critical"), None) && !wanted(&alert, None, Some("r2")));
    }
}
