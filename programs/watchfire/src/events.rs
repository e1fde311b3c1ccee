//! `watchfire events`.

use serde_json::Value;
use watchfire_event::{printable, printable_field};

use crate::alerts::show;
use crate::cli::{EventOptions, Target};
use crate::client::{Client, list_path};
use crate::field;
use crate::screen::Screen;
use crate::table::{Cell, Table};

/// Rows of a table when no limit is given; scripts get the API's own default.
const SCREENFUL: usize = 100;

pub(crate) fn run(target: &Target, options: &EventOptions) -> anyhow::Result<()> {
    let client = Client::new(target)?;
    let mut screen = Screen::new();
    let list = &options.list;
    let default_limit = (!list.output.json).then_some(SCREENFUL);
    let path = list_path(
        "/api/v1/events",
        &[
            ("kind", options.kind.clone()),
            ("since", list.since.clone()),
            ("limit", list.limit.or(default_limit).map(|limit| limit.to_string())),
        ],
    );
    if list.output.json {
        return client.copy_lines(&path, &mut screen);
    }
    let mut table = Table::new(&["TIME (UTC)", "HOST", "KIND", "TGID", "USER", "PROCESS", "WHAT"]);
    client.for_each(&path, |event| table.push(row(&event)))?;
    show(&table, &mut screen, "no events")
}

fn row(event: &Value) -> Vec<Cell> {
    vec![
        Cell::new(field::time(event, "/time")),
        Cell::new(field::text(event, "/host")),
        Cell::new(field::text(event, "/kind")),
        Cell::number(field::text(event, "/process/tgid")),
        Cell::number(field::text(event, "/process/uid")),
        Cell::new(field::text(event, "/process/exe")),
        Cell::new(what(event)),
    ]
}

/// What happened in one line: the command line of an exec, the one object that is the event's own otherwise.
fn what(event: &Value) -> String {
    const COMMON: &[&str] = &["time", "host", "kind", "process", "parent"];
    if field::text(event, "/kind") == "exec" {
        return event.get("process").map(field::command).unwrap_or_default();
    }
    let own =
        event.as_object().and_then(|fields| fields.iter().find(|(name, _)| !COMMON.contains(&name.as_str())));
    let Some((name, body)) = own else { return String::new() };
    match name.as_str() {
        "net" => {
            let (local, remote) = (field::text(body, "/local"), field::text(body, "/remote"));
            format!(
                "{} {local} → {remote} {}",
                field::text(body, "/transport"),
                field::text(body, "/outcome")
            )
        }
        "file" => match field::text(body, "/new_path") {
            new if new.is_empty() => field::text(body, "/path"),
            new => format!("{} → {new}", field::text(body, "/path")),
        },
        "report" => {
            let (app, topic) = (field::text(body, "/app"), field::text(body, "/topic"));
            format!("{app} {topic} {}", told(body)).trim_end().to_owned()
        }
        _ => pairs(body),
    }
}

/// `name=value` of the plain fields.
fn pairs(body: &Value) -> String {
    let fields = body.as_object().into_iter().flatten();
    let plain = fields.filter(|(_, value)| !value.is_object() && !value.is_array() && !value.is_null());
    let words: Vec<String> = plain
        .map(|(name, value)| format!("{}={}", printable(name.as_bytes()), field::text(value, "")))
        .collect();
    words.join(" ")
}

/// `name=value` of what an app tells in fields of its own.
fn told(report: &Value) -> String {
    let fields = report.get("fields").and_then(Value::as_object).into_iter().flatten();
    let words: Vec<String> =
        fields.map(|(name, value)| printable_field(name, value.as_str().unwrap_or_default())).collect();
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn each_kind_is_told_in_one_line() {
        let exec = json!({"kind": "exec", "process": {"argv": ["ls", "-l"]}, "parent": null});
        assert_eq!(what(&exec), "ls -l");
        let rename =
            json!({"kind": "file_rename", "process": {}, "file": {"path": "/a\n", "new_path": "/b"}});
        assert_eq!(what(&rename), "/a\\x0a → /b");
        let exit = json!({"kind": "exit", "process": {}, "exit": {"code": 1, "signal": 0}});
        assert_eq!(what(&exit), "code=1 signal=0");
        let fields = json!({"state": "open", "cause": "cpu\u{1b} state=closed"});
        let report =
            json!({"kind": "report", "report": {"app": "agent", "topic": "breaker", "fields": fields}});
        assert_eq!(what(&report), "agent breaker cause='cpu\\x1b state=closed' state=open");
        let bare = json!({"kind": "report", "report": {"app": "agent", "topic": "start", "fields": {}}});
        assert_eq!(what(&bare), "agent start");
        assert_eq!(what(&json!({"kind": "other"})), "");
    }
}
