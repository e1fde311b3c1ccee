//! How long an alert takes to be durable, and how fast alerts are read. `cargo bench -p watchfire-alertdb`.
//!
//! Method: 2,000 calls of `record_alerts` with one alert each (a tree of 8 processes with arguments of 200 bytes), each timed on its
//! own; then 2,000 alerts in calls of 100; then the newest 1,000 read back ten times. One thread, a database in the system's
//! temporary directory, `synchronous = FULL`, so the figures are mostly the disk's time for one sync.

use std::sync::Arc;
use std::time::Instant;

use watchfire_alertdb::{AlertDb, AlertQuery};
use watchfire_event::{
    Alert, AlertId, AlertTimes, BootNanos, Kind, Level, MatchedField, Process, ProcessKey, ProcessNode,
    RuleId, StreamId, UnixNanos,
};

const ALERTS: u64 = 2000;

fn main() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let db = AlertDb::open(&dir.path().join("alerts.sqlite")).expect("a database");
    let mut times: Vec<f64> = (1..=ALERTS)
        .map(|sequence| {
            let alert = alert(sequence);
            let begun = Instant::now();
            db.record_alerts(StreamId::default(), &[alert]).expect("recorded");
            begun.elapsed().as_secs_f64() * 1e3
        })
        .collect();
    times.sort_by(f64::total_cmp);
    let at = |share: usize| times[(times.len() - 1) * share / 1000];
    println!("one alert: p50 {:.2} ms, p99 {:.2} ms, max {:.2} ms", at(500), at(990), at(1000));
    let begun = Instant::now();
    for first in (ALERTS + 1..=2 * ALERTS).step_by(100) {
        let alerts: Vec<Alert> = (first..first + 100).map(alert).collect();
        db.record_alerts(StreamId::default(), &alerts).expect("recorded");
    }
    println!("in calls of 100: {:.0} alerts/s", ALERTS as f64 / begun.elapsed().as_secs_f64());
    let begun = Instant::now();
    let read: usize = (0..10)
        .map(|_| db.alerts(&AlertQuery { limit: 1000, ..AlertQuery::default() }).expect("read").len())
        .sum();
    println!("read: {:.0} alerts/s", read as f64 / begun.elapsed().as_secs_f64());
}

fn alert(sequence: u64) -> Alert {
    let process = |depth: u32| {
        let key = ProcessKey { tgid: depth + 1, started: BootNanos(sequence) };
        Arc::new(Process { key, exe: b"/usr/bin/bash".to_vec(), argv: vec![b'a'; 200], ..Process::default() })
    };
    Alert {
        id: AlertId::derive(StreamId::default(), sequence),
        sequence,
        rule: RuleId {
            id: "6f3b3a1e-0000-4000-8000-000000000001".to_owned(),
            title: "A reverse shell".to_owned(),
        },
        attack: vec!["T1059.004".to_owned()],
        level: Level::High,
        kind: Kind::Exec,
        matched: vec![MatchedField { name: "Image".to_owned(), value: "/usr/bin/bash".to_owned() }],
        tree: (0..8).map(|depth| ProcessNode { process: process(depth) }).collect(),
        times: AlertTimes { booted: UnixNanos(1_795_222_530_000_000_000), ..AlertTimes::default() },
    }
}
