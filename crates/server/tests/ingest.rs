//! What an agent sends over the socket is stored, acknowledged, booked, and survives.

#![allow(clippy::unwrap_used, reason = "a test may")]

mod support;

use std::io::Write;
use std::os::unix::net::UnixStream;

use support::{Running, TestAgent, alert, attached, eventually, exec, hello, receive, send, stream};
use watchfire_event::{Books, DropReason, Kind, Level, Stage};
use watchfire_wire::v1;

fn tgids(running: &Running, query: &str) -> Vec<u64> {
    let answer = running.get(&format!("/api/v1/events?{query}"));
    assert_eq!(answer.status, 200, "{}", answer.body);
    answer.lines().iter().map(|line| line["process"]["tgid"].as_u64().unwrap()).collect()
}

#[test]
fn an_acknowledged_batch_is_found_and_found_again_after_a_restart_once() {
    let running = Running::start();
    let mut agent = running.connect();
    assert_eq!(agent.welcome.last_batch, 0);
    agent.send_events(&[exec(10, b"true\0"), exec(11, b"true\0-x\0")]);
    let batch = agent.send_events(&[exec(12, b"true\0")]);
    agent.acknowledged(batch, 0);
    assert_eq!(tgids(&running, "kind=exec"), [10, 11, 12]);
    assert_eq!(tgids(&running, "kind=exec&limit=2"), [11, 12]);
    assert!(tgids(&running, "kind=connect").is_empty());
    drop(agent);
    let running = Running::start_in(running.stop());
    let mut agent = running.connect();
    assert_eq!(agent.welcome.last_batch, 2);
    // Sent again, as after a lost acknowledgement.
    agent.send_batch(2, &[exec(12, b"true\0")]);
    let batch = agent.send_events(&[exec(13, b"true\0")]);
    agent.acknowledged(batch, 0);
    assert_eq!(tgids(&running, "kind=exec"), [10, 11, 12, 13]);
    drop(agent);
    running.stop();
}

#[test]
fn an_alert_sent_twice_is_stored_once_with_its_latency() {
    let running = Running::start();
    let mut agent = running.connect();
    agent.send_alerts(&[alert(1, Level::High, b"sh\0-i\0")]);
    agent.acknowledged(0, 1);
    drop(agent);
    let mut agent = running.connect();
    assert_eq!(agent.welcome.last_alert, 1);
    agent.send_alerts(&[alert(1, Level::High, b"sh\0-i\0"), alert(2, Level::Low, b"sh\0")]);
    agent.acknowledged(0, 2);
    let alerts = running.get("/api/v1/alerts").lines();
    assert_eq!(alerts.len(), 2);
    assert_eq!(alerts[0]["rule"]["id"], "rule-1");
    assert!(alerts[0]["latency_ms"].as_f64().unwrap() > -1000.0);
    assert!(alerts[0]["times"]["stored"].is_string());
    drop(agent);
    running.stop();
}

#[test]
fn the_books_of_all_stages_meet_at_the_point_where_the_agent_took_its_own() {
    let running = Running::start();
    let verdict = |running: &Running| running.get("/api/v1/ledger").lines().pop().unwrap();
    assert_eq!(verdict(&running)["balanced"], false);
    let mut agent = running.connect();
    agent.send_events(&[exec(1, b"a\0"), exec(2, b"b\0")]);
    agent.send_events(&[exec(3, b"c\0")]);
    let mut books = Books::default();
    for stage in [Stage::Kernel, Stage::Sensor, Stage::Detect, Stage::Uplink] {
        let counts = books.entry(stage, Kind::Exec);
        (counts.seen, counts.passed) = (3, 3);
    }
    books.entry(Stage::Kernel, Kind::Exec).seen = 5;
    books.entry(Stage::Kernel, Kind::Exec).dropped.insert(DropReason::RingFull, 2);
    agent.send_books(&books, 2);
    eventually("books", || verdict(&running)["balanced"] == true);
    let lines = running.get("/api/v1/ledger").lines();
    let ingest = lines.iter().find(|line| line["stage"] == "ingest").unwrap();
    assert_eq!((&ingest["seen"], &ingest["passed"]), (&3.into(), &3.into()));
    let kernel = lines.iter().find(|line| line["stage"] == "kernel").unwrap();
    assert_eq!(kernel["dropped"]["ring_full"], 2);
    // One more was passed than ever came: a fault between two stages.
    books.entry(Stage::Uplink, Kind::Exec).seen = 4;
    books.entry(Stage::Uplink, Kind::Exec).passed = 4;
    agent.send_books(&books, 2);
    eventually("a fault", || verdict(&running)["balanced"] == false);
    let faults = verdict(&running)["faults"].to_string();
    assert!(faults.contains("uplink passed 4, ingest saw 3"), "{faults}");
    drop(agent);
    running.stop();
}

#[test]
fn the_books_still_close_after_a_reconnect_and_a_restart_in_the_middle_of_a_stream() {
    let running = Running::start();
    let mut agent = running.connect();
    let batch = agent.send_events(&[exec(1, b"a\0"), exec(2, b"b\0")]);
    agent.acknowledged(batch, 0);
    drop(agent);
    let running = Running::start_in(running.stop());
    let mut agent = running.connect();
    let batch = agent.send_events(&[exec(3, b"c\0")]);
    let mut books = Books::default();
    let counts = books.entry(Stage::Uplink, Kind::Exec);
    (counts.seen, counts.passed) = (3, 3);
    agent.send_books(&books, batch);
    eventually("books", || running.get("/api/v1/ledger").lines().pop().unwrap()["balanced"] == true);
    drop(agent);
    running.stop();
}

#[test]
fn an_earlier_life_hands_over_beside_the_present_one_and_is_told_what_was_taken() {
    let running = Running::start();
    let mut first = running.connect();
    let batch = first.send_events(&[exec(1, b"a\0"), exec(2, b"b\0")]);
    first.acknowledged(batch, 0);
    drop(first);
    let socket = running.server.agent_socket();
    let mut present = TestAgent::connect(&socket, 2);
    present.send_status(attached());
    let mut earlier = TestAgent::connect_earlier(&socket, 1);
    let taken: Vec<_> = earlier.welcome.taken.iter().map(|taken| (taken.kind, taken.count)).collect();
    assert_eq!((earlier.welcome.last_batch, taken), (1, vec![(Kind::Exec as u32, 2)]));
    let batch = earlier.send_events(&[exec(3, b"c\0")]);
    let mut books = Books::default();
    let counts = books.entry(Stage::Uplink, Kind::Exec);
    (counts.seen, counts.passed) = (5, 3);
    counts.dropped.insert(DropReason::ProcessEnded, 2);
    earlier.send_books(&books, batch);
    let of_earlier = || running.get("/api/v1/ledger?earlier=true").lines();
    eventually("its books", || of_earlier().pop().unwrap()["balanced"] == true);
    let run = of_earlier()[0]["run"].as_str().unwrap().to_owned();
    assert!(run.ends_with("@1"), "{run}");
    // The host is what the present one says, before and after the other has left.
    let host = || running.get("/api/v1/hosts").lines().pop().unwrap();
    eventually("the present one speaks", || host()["sensors_attached"] == true);
    earlier.acknowledged(batch, 0);
    drop(earlier);
    assert_eq!((host()["online"].clone(), of_earlier().is_empty()), (true.into(), false));
    assert!(running.get("/api/v1/ledger").lines().iter().all(|line| line["run"] != run.as_str()));
    drop(present);
    running.stop();
}

#[test]
fn health_follows_the_agent() {
    let running = Running::start();
    let health = |running: &Running| running.request("GET", "/healthz", &[]);
    let answer = health(&running);
    assert_eq!((answer.status, answer.body.as_str()), (503, "the local agent is not online\n"));
    let mut agent = running.connect();
    assert_eq!(health(&running).status, 503);
    agent.send_status(attached());
    eventually("health", || health(&running).status == 200);
    assert_eq!(health(&running).body, "ok\n");
    drop(agent);
    eventually("no health", || health(&running).status == 503);
    running.stop();
}

#[test]
fn what_is_no_frame_closes_its_connection_and_no_other() {
    let running = Running::start();
    let mut good = running.connect();
    let socket = running.server.agent_socket();
    let garbage: [&[u8]; 4] = [
        &[0xff; 64],                     // a length over the limit
        &[0, 0, 0, 4, 0xde, 0xad, 1, 2], // no protobuf
        &[0, 0, 0, 0],                   // no message inside
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    ];
    for bytes in garbage {
        let mut bad = UnixStream::connect(&socket).unwrap();
        bad.set_read_timeout(Some(std::time::Duration::from_secs(15))).unwrap();
        bad.write_all(bytes).unwrap();
        bad.shutdown(std::net::Shutdown::Write).unwrap();
        assert!(!matches!(watchfire_wire::read_frame::<v1::ServerFrame>(&mut bad), Ok(Some(_))));
    }
    let batch = good.send_events(&[exec(77, b"x\0")]);
    good.acknowledged(batch, 0);
    // A frame that is one, at the wrong time.
    send(&mut good.socket, v1::agent_frame::Body::Hello(hello(stream(1))));
    assert!(good.closed());
    assert_eq!(tgids(&running, "kind=exec"), [77]);
    running.stop();
}

#[test]
fn a_hello_of_another_protocol_or_with_a_short_id_is_refused() {
    let running = Running::start();
    let wrong = [
        v1::Hello { protocol: 999, ..hello(stream(1)) },
        v1::Hello { host: vec![1; 15], ..hello(stream(1)) },
        v1::Hello { boot: Vec::new(), ..hello(stream(1)) },
    ];
    for hello in wrong {
        let mut socket = UnixStream::connect(running.server.agent_socket()).unwrap();
        send(&mut socket, v1::agent_frame::Body::Hello(hello));
        assert!(receive(&mut socket).is_none());
    }
    running.stop();
}

#[test]
fn frames_on_their_way_are_stored_before_the_server_stops() {
    let running = Running::start();
    let mut agent = running.connect();
    for number in 0..200 {
        agent.send_events(&[exec(1000 + number, b"late\0")]);
    }
    let running = Running::start_in(running.stop());
    assert_eq!(tgids(&running, "kind=exec").len(), 200);
    let again = TestAgent::connect(&running.server.agent_socket(), 1);
    assert_eq!(again.welcome.last_batch, 200);
    drop(again);
    running.stop();
}
