//! The operator's commands as people and scripts run them: the real program against a real server.

#![allow(clippy::unwrap_used, reason = "a test may")]

#[path = "../../../crates/server/tests/support/mod.rs"]
mod support;

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use support::{HOSTNAME, Running, TestAgent, alert, attached, eventually, exec};
use watchfire_event::Level;
use watchfire_server::token_file;

/// Arguments that would clear a terminal, or show a name backwards.
const HOSTILE: &[u8] = "sh\0\x1b[2J\x07\0\u{202e}fdp.exe\0\u{9b}31m\0".as_bytes();

fn watchfire(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_watchfire"));
    command.args(arguments).env_remove("WATCHFIRE_URL").env_remove("WATCHFIRE_TOKEN").env_remove("RUST_LOG");
    command.stdin(Stdio::null());
    command
}

fn output(arguments: &[&str], dir: &Path) -> Output {
    watchfire(arguments).arg("--data-dir").arg(dir).output().unwrap()
}

/// Standard output of a command that must succeed.
fn shown(arguments: &[&str], dir: &Path) -> String {
    let output = output(arguments, dir);
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn filled() -> (Running, TestAgent) {
    let running = Running::start();
    let mut agent = running.connect();
    agent.send_status(attached());
    let batch = agent.send_events(&[exec(10, b"true\0"), exec(11, HOSTILE), exec(12, b"\xff\xfe\0")]);
    agent.send_alerts(&[alert(1, Level::Low, b"sh\0"), alert(2, Level::Critical, HOSTILE)]);
    agent.acknowledged(batch, 2);
    (running, agent)
}

#[test]
fn json_is_what_the_api_gives_line_by_line() {
    let (running, _agent) = filled();
    let cases: [(&[&str], &str); 4] = [
        (&["events", "--json", "--kind", "exec", "--since", "10m"], "/api/v1/events?kind=exec&since=10m"),
        (&["alerts", "--json", "--level", "high"], "/api/v1/alerts?level=high"),
        (&["sources", "--json"], "/api/v1/sources"),
        (&["ledger", "--json"], "/api/v1/ledger"),
    ];
    for (arguments, path) in cases {
        assert_eq!(shown(arguments, running.dir.path()), running.get(path).body, "{arguments:?}");
    }
    let events = shown(&["events", "--json", "--limit", "2"], running.dir.path());
    let first: Value = serde_json::from_str(events.lines().next().unwrap()).unwrap();
    assert_eq!((events.lines().count(), &first["process"]["tgid"]), (2, &11.into()));
    let ledger = shown(&["ledger", "--json"], running.dir.path());
    let verdict: Value = serde_json::from_str(ledger.lines().last().unwrap()).unwrap();
    assert!(verdict["balanced"].is_boolean() && verdict["faults"].is_array(), "{verdict}");
    running.stop();
}

#[test]
fn no_command_prints_a_control_character_that_a_host_sent() {
    let (running, _agent) = filled();
    eventually("status", || shown(&["hosts"], running.dir.path()).contains("attached"));
    for arguments in [
        &["events"][..],
        &["events", "--json"],
        &["alerts"],
        &["alerts", "--json"],
        &["hosts"],
        &["hosts", "--json"],
        &["sources"],
        &["ledger"],
    ] {
        let text = shown(arguments, running.dir.path());
        let raw = text.chars().find(|character| {
            character.is_control() && *character != '\n' || ('\u{202a}'..='\u{202e}').contains(character)
        });
        assert_eq!(raw, None, "{arguments:?}: {text:?}");
    }
    let events = shown(&["events"], running.dir.path());
    assert!(events.contains("sh \\x1b[2J\\x07 \\u{202e}fdp.exe"), "{events}");
    assert!(events.contains("\\xff\\xfe"), "{events}");
    let alerts = shown(&["alerts"], running.dir.path());
    assert!(
        alerts.contains("critical") && alerts.contains("T1059.004") && alerts.contains(HOSTNAME),
        "{alerts}"
    );
    running.stop();
}

#[test]
fn a_server_is_found_by_url_and_token_file_and_by_the_environment() {
    let (running, _agent) = filled();
    let token = token_file(running.dir.path());
    let url = running.url("");
    let options = ["hosts", "--json", "--server", &url, "--token-file", token.to_str().unwrap()];
    assert!(watchfire(&options).output().unwrap().status.success());
    let mut by_environment = watchfire(&["hosts", "--json"]);
    by_environment.env("WATCHFIRE_URL", &url).env("WATCHFIRE_TOKEN", &running.token);
    assert!(by_environment.output().unwrap().status.success());
    let wrong =
        watchfire(&["hosts"]).env("WATCHFIRE_URL", &url).env("WATCHFIRE_TOKEN", "wrong").output().unwrap();
    let message = String::from_utf8(wrong.stderr).unwrap();
    assert_eq!(wrong.status.code(), Some(1));
    assert!(message.contains("wrong or no longer valid"), "{message}");
    running.stop();
}

#[test]
fn what_cannot_work_is_said_in_one_line_with_a_status() {
    let dir = tempfile::tempdir().unwrap();
    let cases: [(&[&str], i32, &str); 5] = [
        (&["hosts"], 1, "watchfire up"),
        (&["alerts", "--server", "http://127.0.0.1:1", "--token-file", "/dev/null"], 1, "http://127.0.0.1:1"),
        (&["alerts", "--server", "ftp://x"], 1, "http://ADDR:PORT"),
        (&["alerts", "--nonsense"], 2, "--nonsense"),
        (&["hosts", "--log-level", "=,="], 1, "--log-level"),
    ];
    for (arguments, code, word) in cases {
        let output = output(arguments, dir.path());
        let message = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {message}");
        assert!(message.contains(word), "{arguments:?}: {message}");
        assert!(code == 2 || message.lines().count() == 1, "{arguments:?}: {message}");
        assert!(output.stdout.is_empty());
    }
    let (running, _agent) = filled();
    let output = output(&["events", "--kind", "nope"], running.dir.path());
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8(output.stderr).unwrap().contains("parameter kind"));
    running.stop();
}

#[test]
fn a_reader_that_leaves_early_is_no_failure() {
    let running = Running::start();
    let mut agent = running.connect();
    let long = [b"x".repeat(2000).as_slice(), b"\0"].concat();
    for _ in 0..20 {
        agent.send_events(&(0..100).map(|tgid| exec(tgid, &long)).collect::<Vec<_>>());
    }
    agent.acknowledged(20, 0);
    let mut command = watchfire(&["events", "--json", "--limit", "2000"]);
    command.arg("--data-dir").arg(running.dir.path());
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert!(line.ends_with("}\n"));
    let mut message = String::new();
    child.stderr.take().unwrap().read_to_string(&mut message).unwrap();
    assert_eq!((child.wait().unwrap().code(), message.as_str()), (Some(0), ""));
    // The whole of it is far more than one piece of the answer.
    let all = shown(&["events", "--json", "--limit", "2000"], running.dir.path());
    assert_eq!(all.lines().count(), 2000);
    running.stop();
}

#[test]
fn following_shows_new_alerts_and_only_those_asked_for() {
    let (running, mut agent) = filled();
    let mut command = watchfire(&["alerts", "--follow", "--json", "--level", "high"]);
    command.arg("--data-dir").arg(running.dir.path());
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    // Sent again and again until the feed is open: alerts from before it are not shown.
    let sender = std::thread::spawn(move || {
        for number in 0..50 {
            let first = 3 + number * 2;
            agent.send_alerts(&[alert(first, Level::Low, b"sh\0"), alert(first + 1, Level::High, b"sh\0")]);
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
        agent
    });
    let shown: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
    assert_eq!(shown["rule"]["level"], "high");
    child.kill().unwrap();
    child.wait().unwrap();
    drop(sender.join().unwrap());
    running.stop();
}

#[test]
fn a_login_link_is_printed_alone_and_works() {
    let running = Running::start();
    let link = shown(&["login"], running.dir.path());
    assert_eq!(link.lines().count(), 1);
    let path = link.trim().strip_prefix(&running.url("")).unwrap().to_owned();
    assert_eq!(running.request("GET", &path, &[]).status, 200);
    assert_eq!(running.request("GET", &path, &[]).status, 401);
    running.stop();
}
