//! The API and the console over real HTTP.

#![allow(clippy::unwrap_used, reason = "a test may")]

mod support;

use std::io::{BufRead, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::Value;
use support::{HOSTNAME, Running, alert, attached, event, eventually, exec, process};
use watchfire_event::{AlertId, Body, FileAction, FileActivity, Level};

/// Arguments as an attacker would choose them: markup, a terminal's escape, a bidirectional override, bytes that are no text.
const HOSTILE: &[u8] = "<script>alert(1)</script>\0\x1b[2J\0\u{202e}exe.pdf\0".as_bytes();

/// The value of a new session's cookie.
fn session(running: &Running) -> String {
    let link = running.server.login_link().unwrap();
    let path = link.split_once(&running.server.address().to_string()).unwrap().1;
    let answer = running.request("GET", path, &[]);
    assert_eq!(answer.status, 200);
    answer.header("set-cookie").split(';').next().unwrap().to_owned()
}

fn page(running: &Running, cookie: &str, path: &str) -> String {
    let answer = running.request("GET", path, &[("cookie", cookie)]);
    assert_eq!(answer.status, 200, "{path}: {}", answer.body);
    answer.body
}

#[test]
fn an_event_keeps_its_contract() {
    let running = Running::start();
    let mut agent = running.connect();
    let file = FileActivity {
        action: FileAction::Create,
        path: b"/etc/cron.d/a\nb".to_vec(),
        new_path: None,
        mode: Some(0o100_644),
        uid: Some(0),
    };
    let strange = b"sh\0\xff\xfe\0";
    let batch = agent.send_events(&[
        exec(10, HOSTILE),
        exec(11, strange),
        event(process(12, "/usr/bin/tee", b"tee\0"), Body::File(file)),
    ]);
    agent.acknowledged(batch, 0);
    let answer = running.get("/api/v1/events?since=1h");
    assert_eq!(answer.header("content-type"), "application/x-ndjson");
    assert!(!answer.body.contains(['\x1b', '\u{202e}']), "raw controls in {}", answer.body);
    let lines = answer.lines();
    let exec = &lines[0];
    assert_eq!((&exec["kind"], &exec["host"]), (&"exec".into(), &HOSTNAME.into()));
    let argv: Vec<&str> =
        exec["process"]["argv"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    assert_eq!(argv, ["<script>alert(1)</script>", "\x1b[2J", "\u{202e}exe.pdf"]);
    for field in ["tgid", "ppid", "exe", "cwd", "uid", "euid", "container"] {
        assert!(exec["process"].get(field).is_some(), "{field}");
    }
    assert_eq!(exec["process"]["ppid"], 1);
    assert!(exec["time"].as_str().unwrap().ends_with('Z'));
    assert_eq!(lines[1]["process"]["argv"][1], "\\xff\\xfe");
    assert_eq!(lines[1]["process"]["argv_hex"][1], "fffe");
    assert_eq!(lines[2]["file"]["path"], "/etc/cron.d/a\nb");
    assert_eq!(lines[2]["kind"], "file_create");
    running.stop();
}

#[test]
fn alerts_are_narrowed_by_level_rule_and_id() {
    let running = Running::start();
    let mut agent = running.connect();
    agent.send_alerts(&[
        alert(1, Level::Low, b"sh\0"),
        alert(2, Level::High, b"sh\0"),
        alert(3, Level::Critical, b"sh\0"),
    ]);
    agent.acknowledged(0, 3);
    let rules = |query: &str| -> Vec<String> {
        let lines = running.get(&format!("/api/v1/alerts?{query}")).lines();
        lines.iter().map(|line| line["rule"]["id"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(rules(""), ["rule-1", "rule-2", "rule-3"]);
    assert_eq!(rules("level=high"), ["rule-2", "rule-3"]);
    assert_eq!(rules("rule=rule-1"), ["rule-1"]);
    assert_eq!(rules("since=10m&limit=1"), ["rule-3"]);
    let id = AlertId::derive(support::stream(1), 2).to_string();
    let one: Value = serde_json::from_str(&running.get(&format!("/api/v1/alerts/{id}")).body).unwrap();
    assert_eq!(one["id"], id.as_str());
    assert_eq!(one["attack"][0], "T1059.004");
    assert_eq!(one["process"]["tgid"], 4242);
    assert_eq!(one["tree"].as_array().unwrap().len(), 2);
    for unknown in ["00000000000000000000000000000000", "nonsense"] {
        let answer = running.get(&format!("/api/v1/alerts/{unknown}"));
        assert_eq!((answer.status, &answer.lines()[0]["error"]["code"]), (404, &"not_found".into()));
    }
    running.stop();
}

#[test]
fn wrong_parameters_are_refused_by_name() {
    let running = Running::start();
    for (query, name) in
        [("since=1y", "since"), ("limit=0", "limit"), ("kind=nope", "kind"), ("what=x", "query")]
    {
        let answer = running.get(&format!("/api/v1/events?{query}"));
        assert_eq!(answer.status, 400, "{query}");
        let error = &answer.lines()[0]["error"];
        assert_eq!(error["code"], "bad_parameter");
        assert!(error["message"].as_str().unwrap().contains(name), "{error}");
    }
    running.stop();
}

#[test]
fn nothing_but_health_login_and_assets_is_open() {
    let running = Running::start();
    let paths = ["hosts", "alerts", "alerts/stream", "alerts/0", "events", "ledger", "sources", "counts"];
    for path in paths {
        let path = format!("/api/v1/{path}");
        let answer = running.request("GET", &path, &[]);
        assert_eq!(
            (answer.status, &answer.lines()[0]["error"]["code"]),
            (401, &"unauthenticated".into()),
            "{path}"
        );
        let wrong = running.request(
            "GET",
            &path,
            &[("authorization", "Bearer 00"), ("cookie", "watchfire_session=00")],
        );
        assert_eq!(wrong.status, 401, "{path}");
    }
    for path in ["/", "/alerts", "/events", "/hosts", "/ledger", "/live"] {
        let answer = running.request("GET", path, &[]);
        assert_eq!(answer.status, 401, "{path}");
        assert!(answer.body.contains("watchfire login"));
    }
    assert_eq!(running.request("GET", "/assets/style.css", &[]).status, 200);
    running.stop();
}

#[test]
fn many_wrong_tokens_are_slowed_down_and_the_right_one_still_works() {
    let running = Running::start();
    let wrong = || running.request("GET", "/api/v1/hosts", &[("authorization", "Bearer wrong")]).status;
    let answers: Vec<u16> = (0..40).map(|_| wrong()).collect();
    assert_eq!(answers[0], 401);
    assert_eq!(answers[39], 429);
    assert_eq!(running.get("/api/v1/hosts").status, 200);
    running.stop();
}

#[test]
fn a_login_link_works_once_and_its_cookie_cannot_be_read_or_sent_from_elsewhere() {
    let running = Running::start();
    let token = format!("Bearer {}", running.token);
    let made = running.request("POST", "/api/v1/login-links", &[("authorization", &token)]);
    assert_eq!(made.status, 201);
    let url = made.lines()[0]["url"].as_str().unwrap().to_owned();
    let path = url.strip_prefix(&running.url("")).unwrap();
    assert_eq!(running.request("HEAD", path, &[]).status, 401, "a preview must not use it up");
    let first = running.request("GET", path, &[]);
    assert_eq!(first.status, 200);
    let cookie = first.header("set-cookie").to_owned();
    for attribute in ["HttpOnly", "SameSite=Strict", "Path=/", "Max-Age=43200"] {
        assert!(cookie.contains(attribute), "{cookie}");
    }
    let second = running.request("GET", path, &[]);
    assert_eq!((second.status, second.header("set-cookie")), (401, ""));
    let cookie = cookie.split(';').next().unwrap();
    assert_eq!(running.request("GET", "/api/v1/hosts", &[("cookie", cookie)]).status, 200);
    // A session makes no other.
    let more = running.request("POST", "/api/v1/login-links", &[("cookie", cookie)]);
    assert_eq!(more.status, 401);
    // Logging out needs the console's own origin, and ends the session.
    let foreign = [("cookie", cookie), ("origin", "http://evil.example")];
    assert_eq!(running.request("POST", "/logout", &foreign).status, 401);
    assert_eq!(running.request("GET", "/", &[("cookie", cookie)]).status, 200);
    let origin = running.url("");
    assert_eq!(running.request("POST", "/logout", &[("cookie", cookie), ("origin", &origin)]).status, 303);
    assert_eq!(running.request("GET", "/", &[("cookie", cookie)]).status, 401);
    running.stop();
}

#[test]
fn a_rebound_name_gets_no_answer_and_every_answer_has_its_headers() {
    let running = Running::start();
    let token = format!("Bearer {}", running.token);
    let answer =
        running.request("GET", "/api/v1/hosts", &[("host", "evil.example"), ("authorization", &token)]);
    assert_eq!((answer.status, &answer.lines()[0]["error"]["code"]), (421, &"foreign_host".into()));
    for path in ["/", "/healthz", "/api/v1/hosts", "/nowhere", "/assets/live.js", "/api/v1/nowhere"] {
        let answer = running.get(path);
        assert!(answer.header("content-security-policy").starts_with("default-src 'none'"), "{path}");
        assert!(answer.header("content-security-policy").contains("frame-ancestors 'none'"), "{path}");
        assert_eq!(answer.header("x-content-type-options"), "nosniff", "{path}");
        assert_eq!(answer.header("referrer-policy"), "same-origin", "{path}");
    }
    assert_eq!(running.get("/api/v1/nowhere").lines()[0]["error"]["code"], "not_found");
    running.stop();
}

#[test]
fn heads_and_bodies_without_end_are_cut_off() {
    let running = Running::start();
    let mut stream = TcpStream::connect(running.server.address()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let head = format!("GET /?{} HTTP/1.1\r\nHost: localhost\r\n", "x".repeat(100_000));
    // The server may close before it has read all of it.
    drop(stream.write_all(head.as_bytes()));
    let mut answer = Vec::new();
    drop(stream.read_to_end(&mut answer));
    let answer = String::from_utf8_lossy(&answer);
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{answer}");
    assert_eq!(running.request("GET", "/healthz", &[]).status, 503);
    running.stop();
}

#[test]
fn new_alerts_reach_a_feed_and_a_returning_reader_gets_what_it_missed() {
    let running = Running::start();
    let token = format!("Bearer {}", running.token);
    let mut agent = running.connect();
    let mut feed = running.feed("/api/v1/alerts/stream", &[("authorization", &token)]);
    agent.send_alerts(&[alert(1, Level::High, HOSTILE)]);
    let (id, data) = next_event(&mut feed);
    assert_eq!(id, AlertId::derive(support::stream(1), 1).to_string());
    assert_eq!(data["rule"]["id"], "rule-1");
    drop(feed);
    agent.send_alerts(&[alert(2, Level::High, b"sh\0"), alert(3, Level::High, b"sh\0")]);
    agent.acknowledged(0, 3);
    let mut feed =
        running.feed("/api/v1/alerts/stream", &[("authorization", &token), ("last-event-id", &id)]);
    assert_eq!(next_event(&mut feed).1["rule"]["id"], "rule-2");
    assert_eq!(next_event(&mut feed).1["rule"]["id"], "rule-3");
    agent.send_alerts(&[alert(4, Level::High, b"sh\0")]);
    assert_eq!(next_event(&mut feed).1["rule"]["id"], "rule-4");
    // A feed that is open does not keep the server from stopping.
    drop(agent);
    running.stop();
    let mut rest = String::new();
    feed.read_to_string(&mut rest).unwrap();
    assert!(!rest.contains("data:"), "{rest}");
}

/// Id and data of the next alert of a feed.
fn next_event(feed: &mut impl BufRead) -> (String, Value) {
    let (mut id, mut data) = (String::new(), None);
    loop {
        let mut line = String::new();
        assert!(feed.read_line(&mut line).unwrap() > 0, "the feed ended");
        if let Some(text) = line.strip_prefix("id:") {
            text.trim().clone_into(&mut id);
        } else if let Some(text) = line.strip_prefix("data:") {
            data = Some(serde_json::from_str(text).unwrap());
        } else if line == "\n"
            && let Some(data) = data.take()
        {
            return (id, data);
        }
    }
}

#[test]
fn hosts_sources_and_counts_tell_what_the_agent_said() {
    let running = Running::start();
    let mut agent = running.connect();
    agent.send_status(attached());
    let batch = agent.send_events(&[exec(1, b"a\0"), exec(2, b"b\0")]);
    agent.acknowledged(batch, 0);
    eventually("status", || running.get("/api/v1/hosts").lines()[0]["sensors_attached"] == true);
    let host = &running.get("/api/v1/hosts").lines()[0];
    assert_eq!((&host["host"], &host["online"]), (&HOSTNAME.into(), &true.into()));
    assert_eq!(host["processes"][0]["role"], "master");
    let sources = running.get("/api/v1/sources").lines();
    assert_eq!((&sources[1]["name"], &sources[1]["state"]), (&"audit".into(), &"standby".into()));
    let counts = running.get("/api/v1/counts").lines();
    assert_eq!((&counts[0]["kind"], &counts[0]["total"]), (&"exec".into(), &2.into()));
    drop(agent);
    eventually("offline", || running.get("/api/v1/hosts").lines()[0]["online"] == false);
    running.stop();
}

#[test]
fn every_page_shows_hostile_text_as_text_in_both_languages() {
    let running = Running::start();
    let mut agent = running.connect();
    agent.send_status(attached());
    let batch = agent.send_events(&[exec(10, HOSTILE)]);
    agent.acknowledged(batch, 0);
    let mut bad = alert(1, Level::Critical, HOSTILE);
    bad.rule.title = "<img src=x onerror=alert(1)>".to_owned();
    bad.matched[0].value = "\x1b]0;x\x07<u>".to_owned();
    agent.send_alerts(&[bad]);
    agent.acknowledged(batch, 1);
    let cookie = session(&running);
    let id = AlertId::derive(support::stream(1), 1);
    for (lang, word) in [("en", "Overview"), ("zh", "概览")] {
        for path in ["/", "/alerts", "/events", "/hosts", "/ledger", &format!("/alerts/{id}")] {
            let html = page(&running, &cookie, &format!("{path}?lang={lang}"));
            assert!(html.contains(word), "{path}");
            assert!(html.contains(&format!("<html lang=\"{lang}\">")), "{path}");
            assert!(!html.contains(['\x1b', '\x07', '\u{202e}']), "{path}");
            assert!(
                !html.contains("<script>") && !html.contains("<img src=x") && !html.contains("<u>"),
                "{path}"
            );
        }
    }
    let html = page(&running, &cookie, &format!("/alerts/{id}"));
    assert!(html.contains("&lt;script&gt;alert(1)&lt;/script&gt; \\x1b[2J \\u{202e}exe.pdf"), "{html}");
    assert!(html.contains("Command and Scripting Interpreter: Unix Shell"));
    assert!(html.find("/sbin/init").unwrap() < html.find("/bin/sh").unwrap());
    running.stop();
}

#[test]
fn the_overview_is_kept_live_by_fragments_in_its_language() {
    let running = Running::start();
    let mut agent = running.connect();
    let cookie = session(&running);
    let mut feed = running.feed("/live?lang=zh", &[("cookie", &cookie)]);
    let mut event_named = |wanted: &str| loop {
        let mut line = String::new();
        assert!(feed.read_line(&mut line).unwrap() > 0, "the feed ended");
        if line.trim() == format!("event: {wanted}") || line.trim() == format!("event:{wanted}") {
            let mut rest = String::new();
            while !rest.contains("data:") {
                feed.read_line(&mut rest).unwrap();
            }
            return rest;
        }
    };
    assert!(event_named("alerts").contains("没有告警"));
    assert!(event_named("counts").contains("exec"));
    agent.send_alerts(&[alert(1, Level::Critical, HOSTILE)]);
    let fragment = event_named("alert");
    assert!(fragment.contains("严重") && fragment.contains("&lt;script&gt;"), "{fragment}");
    drop(agent);
    running.stop();
}

#[test]
fn a_chosen_language_is_remembered() {
    let running = Running::start();
    let chosen = running.request("GET", "/?lang=zh", &[]);
    assert!(chosen.header("set-cookie").starts_with("watchfire_lang=zh;"));
    assert!(running.request("GET", "/", &[("cookie", "watchfire_lang=zh")]).body.contains("登录"));
    assert!(running.request("GET", "/", &[("accept-language", "zh-CN,zh;q=0.9")]).body.contains("登录"));
    assert!(running.request("GET", "/", &[]).body.contains("Log in"));
    running.stop();
}
