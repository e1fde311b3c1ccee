//! A writer that is killed at any moment, over and over: what was acknowledged is stored, everything stored is stored once.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "all of this file is a test")]

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use watchfire_event::{Body, BootNanos, Event, Kind, Process, ProcessKey, Stage, StreamId, UnixNanos};
use watchfire_lake::{EventQuery, Lake, LakeSettings, MAX_LIMIT, StreamMeta};
use watchfire_wire::BatchBuilder;

const ROUNDS: u32 = 120;
const DIR: &str = "WATCHFIRE_TEST_CRASH_DIR";
const ACKED: &str = "WATCHFIRE_TEST_CRASH_ACKED";

fn settings() -> LakeSettings {
    LakeSettings {
        segment_bytes: 16 << 10,
        log_max_bytes: 64 << 20,
        sync_interval: Duration::from_millis(1),
        flush_rows: 100,
        flush_age: Duration::from_secs(1),
        row_group_rows: 128,
        ..LakeSettings::default()
    }
}

fn meta() -> StreamMeta {
    StreamMeta {
        stream: StreamId::default(),
        booted: UnixNanos(1_795_222_530_000_000_000),
        hostname: "host".to_owned(),
    }
}

/// How many events batch `sequence` has: the same whenever it is sent.
fn events_in(sequence: u64) -> u64 {
    1 + sequence * 7919 % 40
}

fn batch(sequence: u64) -> Vec<u8> {
    let mut builder = BatchBuilder::new();
    for index in 0..events_in(sequence) {
        // Some events fall into another hour, so that most commits have two files.
        let at = BootNanos(sequence * 1000 + index + if index % 5 == 0 { 7_200_000_000_000 } else { 0 });
        let key = ProcessKey { tgid: u32::try_from(index).unwrap(), started: BootNanos(sequence) };
        let process = Arc::new(Process { key, argv: vec![b'a'; 50], ..Process::default() });
        builder.push(&Event { at, decoded: at, process, parent: None, body: Body::Exec });
    }
    builder.finish(sequence)
}

#[test]
fn a_writer_killed_at_random_loses_nothing_acknowledged_and_stores_nothing_twice() {
    let dir = tempfile::tempdir().unwrap();
    let mut acked = 0u64;
    let mut with_files = 0;
    let seed = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64;
    println!("seed {seed}");
    let mut random = seed | 1;
    for round in 1..=ROUNDS {
        // xorshift64, Marsaglia 2003.
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let life = Duration::from_micros(random % 80_000);
        acked = acked.max(one_life(dir.path(), acked, life, round % 3 == 0));
        if round.is_multiple_of(20) {
            with_files += usize::from(check(dir.path(), acked) > 0);
        }
    }
    println!("{ROUNDS} kills, {acked} batches acknowledged");
    assert!(acked > u64::from(ROUNDS), "the writers hardly lived: {acked} batches");
    assert!(with_files > 0, "the archiver never ran");
}

/// Lets a writer live for a while and kills it; says what it had acknowledged. The time counts from its start, so that it may die while
/// it opens the lake, or from its first acknowledgement.
fn one_life(dir: &Path, acked: u64, life: Duration, from_start: bool) -> u64 {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "writer", "--ignored", "--nocapture"])
        .env(DIR, dir)
        .env(ACKED, acked.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let output = BufReader::new(child.stdout.take().unwrap());
    let (sender, acks) = mpsc::channel();
    let reader = std::thread::spawn(move || {
        // Only whole lines count: what was cut off was not acknowledged.
        for line in output.split(b'\n') {
            let line = String::from_utf8_lossy(&line.unwrap()).into_owned();
            let ack = line.strip_prefix("acked ").and_then(|rest| rest.strip_suffix('.'));
            ack.into_iter().for_each(|ack| sender.send(ack.parse::<u64>().unwrap()).unwrap());
        }
    });
    let mut highest = 0;
    if !from_start {
        highest = acks.recv_timeout(Duration::from_secs(60)).expect("the writer never came so far");
    }
    std::thread::sleep(life);
    child.kill().unwrap();
    let status = child.wait().unwrap();
    assert_eq!(status.code(), None, "the writer ended by itself");
    reader.join().unwrap();
    acks.into_iter().fold(highest, u64::max)
}

/// Opens the lake and compares it with what must be in it; says how many rows are in files.
fn check(dir: &Path, acked: u64) -> u64 {
    let lake = Lake::open(dir, settings()).unwrap();
    assert_eq!(lake.faults(), []);
    let last = lake.last_sequence(meta().stream);
    assert!(last >= acked, "batch {acked} was acknowledged, {last} is the last");
    let mut found: HashMap<(u64, u32), u32> = HashMap::new();
    for row in lake.query(&EventQuery { limit: MAX_LIMIT, ..EventQuery::default() }).unwrap() {
        let key = row.unwrap().event.process.key;
        *found.entry((key.started.0, key.tgid)).or_default() += 1;
    }
    let expected: u64 = (1..=last).map(events_in).sum();
    assert_eq!(found.len() as u64, expected);
    assert!(found.values().all(|times| *times == 1));
    assert!(
        (1..=last)
            .all(|sequence| (0..events_in(sequence))
                .all(|index| found.contains_key(&(sequence, index as u32))))
    );
    let books = lake.books(meta().stream);
    assert!(books.faults().is_empty(), "{:?}", books.faults());
    assert_eq!(books.get(Stage::Log, Kind::Exec).map_or(0, |counts| counts.seen), expected);
    lake.stats().rows
}

/// Not a test by itself: what `one_life` starts.
#[test]
#[ignore = "the writer that the other test kills"]
fn writer() {
    let dir = std::env::var_os(DIR).expect("started by the other test");
    let acked: u64 = std::env::var(ACKED).unwrap().parse().unwrap();
    let lake = Arc::new(Lake::open(Path::new(&dir), settings()).unwrap());
    let archiver = lake.clone();
    std::thread::spawn(move || {
        loop {
            archiver.archive_due(Instant::now()).unwrap();
            std::thread::sleep(Duration::from_micros(200));
        }
    });
    let mut out = std::io::stdout();
    // From what was acknowledged on, as an agent does: some of it may be there already.
    for sequence in acked + 1.. {
        lake.append(&meta(), sequence, &batch(sequence)).unwrap();
        if sequence.is_multiple_of(3) {
            lake.sync().unwrap();
            writeln!(out, "acked {}.", lake.durable_sequence(meta().stream)).unwrap();
        }
    }
}
