//! The collector takes inventory: what a host has is told, and what changes of it.

use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use watchfire_tests::{Ground, Installation, eventually, obstacle};

const TOLD_WITHIN: Duration = Duration::from_secs(90);

#[test]
fn a_listener_from_before_the_agent_a_new_one_and_its_end_are_told_with_their_process() -> Result<()> {
    if let Some(reason) = obstacle() {
        eprintln!("skipped: collector: {reason}");
        return Ok(());
    }
    let before = TcpListener::bind("127.0.0.1:0").context("listen")?;
    let ground = Ground::new()?;
    // As often as can be; the share of the CPU is the default's.
    ground.configure_agent(&json!({ "listeners": { "every_s": 1 } }))?;
    let up = ground.start()?;
    let old = told(&up, "listening", "tcp", before.local_addr()?)?;
    ensure!(old["first"] == "true", "{old}");
    is_held_by_this_process(&old)?;
    let scan = eventually(TOLD_WITHIN, || Ok(reports(&up, "scan")?.pop()))?.context("the first scan ends")?;
    ensure!(scan["first"] == "true" && scan["whole"] == "true", "{scan}");

    let (tcp, udp) = (TcpListener::bind("127.0.0.1:0")?, UdpSocket::bind("127.0.0.1:0")?);
    let new = [("tcp", tcp.local_addr()?), ("udp", udp.local_addr()?)];
    for (protocol, address) in new {
        let report = told(&up, "listening", protocol, address)?;
        ensure!(report["first"] == "false", "{report}");
        is_held_by_this_process(&report)?;
    }
    drop((tcp, udp));
    for (protocol, address) in new {
        is_held_by_this_process(&told(&up, "closed", protocol, address)?)?;
    }
    let closed = at(&up, "closed", "tcp", before.local_addr()?)?;
    ensure!(closed.is_empty(), "told as closed, and listens: {closed:?}");
    Ok(())
}

/// Waits for the report on a socket, and gives its fields; there is one.
fn told(up: &Installation, topic: &str, protocol: &str, address: SocketAddr) -> Result<Value> {
    let found = eventually(TOLD_WITHIN, || {
        let mut found = at(up, topic, protocol, address)?;
        ensure!(found.len() < 2, "told twice: {found:?}");
        Ok(found.pop())
    })?;
    found.with_context(|| format!("{topic} {protocol} {address} is not told:\n{}", up.output()))
}

/// The fields of all reports about `topic` on this socket.
fn at(up: &Installation, topic: &str, protocol: &str, address: SocketAddr) -> Result<Vec<Value>> {
    let (ip, port) = (address.ip().to_string(), address.port().to_string());
    let is = |fields: &Value| {
        fields["protocol"] == protocol && fields["address"] == *ip && fields["port"] == *port
    };
    Ok(reports(up, topic)?.into_iter().filter(is).collect())
}

/// The fields of all reports about `topic`.
fn reports(up: &Installation, topic: &str) -> Result<Vec<Value>> {
    let events = up.lines(&["events", "--kind", "report", "--json", "--since", "1h", "--limit", "100000"])?;
    let reports = events.into_iter().map(|event| event["report"].clone());
    let of_it = reports.filter(|report| report["app"] == "listeners" && report["topic"] == topic);
    Ok(of_it.map(|report| report["fields"].clone()).collect())
}

fn is_held_by_this_process(fields: &Value) -> Result<()> {
    let tgid = std::process::id().to_string();
    ensure!(fields["tgid"] == *tgid, "{fields}");
    let exe = fields["exe"].as_str().map(PathBuf::from);
    ensure!(exe == Some(std::env::current_exe()?), "{fields}");
    ensure!(fields["inode"].as_str().is_some_and(|inode| inode != "0"), "{fields}");
    Ok(())
}
