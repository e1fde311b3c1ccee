//! A start that cannot succeed says what is in the way.

#![allow(clippy::unwrap_used, reason = "a test may")]

mod support;

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;

use support::{Running, alert, exec};
use watchfire_event::Level;
use watchfire_server::{Endpoint, Server, ServerError, ServerSettings, token_file};

fn refused(settings: ServerSettings) -> String {
    let error = anyhow::Error::from(Server::start(settings).unwrap_err());
    format!("{error:#}")
}

fn any_port(dir: &std::path::Path) -> ServerSettings {
    ServerSettings::new(dir, "127.0.0.1:0".parse().unwrap())
}

#[test]
fn a_port_in_use_is_named_with_its_owner_and_the_way_out() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let dir = tempfile::tempdir().unwrap();
    let address = taken.local_addr().unwrap();
    let message = refused(ServerSettings::new(dir.path(), address));
    assert!(message.contains(&address.to_string()) && message.contains("--listen"), "{message}");
    assert!(message.contains(&format!("tgid {}", std::process::id())), "{message}");
}

#[test]
fn a_second_server_on_the_same_directory_is_refused_and_the_first_goes_on() {
    let running = Running::start();
    let error = Server::start(any_port(running.dir.path())).unwrap_err();
    assert!(matches!(error, ServerError::Locked { .. }), "{error}");
    assert!(error.to_string().contains(&format!("tgid {}", std::process::id())), "{error}");
    assert_eq!(running.get("/api/v1/hosts").status, 200);
    assert_eq!(Endpoint::read(running.dir.path()).unwrap().address, running.server.address());
    let dir = running.stop();
    assert!(Endpoint::read(dir.path()).is_err());
}

#[test]
fn a_directory_that_is_a_file_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("occupied");
    fs::write(&path, "x").unwrap();
    let message = refused(any_port(&path));
    assert!(message.contains(&path.display().to_string()), "{message}");
}

#[test]
fn a_damaged_alert_database_is_named_and_left_as_it_is() {
    let running = Running::start();
    let mut agent = running.connect();
    agent.send_alerts(&[alert(1, Level::High, b"sh\0")]);
    agent.acknowledged(0, 1);
    drop(agent);
    let dir = running.stop();
    let path = dir.path().join("alerts.db");
    fs::write(
        &path,
        b"this is no database, and long enough to be looked at as one............................",
    )
    .unwrap();
    let before = fs::read(&path).unwrap();
    let message = refused(any_port(dir.path()));
    assert!(message.contains("alerts.db"), "{message}");
    assert_eq!(fs::read(&path).unwrap(), before);
}

#[test]
fn the_token_is_private_and_stays_over_a_restart() {
    let running = Running::start();
    let first = running.token.clone();
    let mode = fs::metadata(token_file(running.dir.path())).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o600);
    let running = Running::start_in(running.stop());
    assert_eq!(running.token, first);
    running.stop();
}

#[test]
fn what_was_acknowledged_survives_a_server_that_never_stopped() {
    let dir = tempfile::tempdir().unwrap();
    let running = Running::start_in(dir);
    let mut agent = running.connect();
    let batch = agent.send_events(&[exec(1, b"a\0")]);
    agent.send_alerts(&[alert(1, Level::High, b"sh\0")]);
    agent.acknowledged(batch, 1);
    // A copy taken from under the running server is what a crash at this moment leaves behind.
    let copy = tempfile::tempdir().unwrap();
    copy_tree(running.dir.path(), copy.path());
    drop(agent);
    running.stop();
    let crashed = Running::start_in(copy);
    assert_eq!(crashed.get("/api/v1/events").lines().len(), 1);
    assert_eq!(crashed.get("/api/v1/alerts").lines().len(), 1);
    crashed.stop();
}

fn copy_tree(from: &std::path::Path, to: &std::path::Path) {
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            fs::create_dir_all(&target).unwrap();
            copy_tree(&entry.path(), &target);
        } else if kind.is_file() {
            fs::copy(entry.path(), &target).unwrap();
        }
    }
}
