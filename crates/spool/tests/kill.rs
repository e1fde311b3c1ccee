//! A writer that is killed at any moment, over and over: what was acknowledged is there once and in order, and the spool stays
//! below its limit.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "all of this file is a test")]

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use watchfire_spool::{Appended, RELEASES_AT_RISK, Spool, SpoolSettings, WhenFull};

const ROUNDS: u32 = 30;
const DIR: &str = "WATCHFIRE_TEST_SPOOL_DIR";
const LIMIT: u64 = 2 << 20;

fn settings(dir: &Path) -> SpoolSettings {
    let settings = SpoolSettings::new(dir, WhenFull::DropNewest);
    SpoolSettings { segment_bytes: 512 << 10, max_bytes: LIMIT, ..settings }
}

fn record(number: u64) -> Vec<u8> {
    // Large ones so often that many a kill meets one half written, small ones between them.
    let length = match number % 4 {
        0 => 300_000 - (number % 1000) as usize,
        rest => 1 + (rest * number % 2000) as usize,
    };
    let mut bytes = vec![number as u8; length];
    bytes.iter_mut().zip(number.to_be_bytes()).for_each(|(byte, stamp)| *byte = stamp);
    bytes
}

fn bytes_on_disk(dir: &Path) -> u64 {
    std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len()).sum()
}

/// What a writer said before it was killed.
#[derive(Default)]
struct Said {
    appended: u64,
    /// Said before the release: it may have happened.
    releasing: u64,
    /// Said after it.
    released: u64,
}

#[test]
fn a_writer_killed_at_random_loses_nothing_acknowledged_and_keeps_its_limit() {
    let dir = tempfile::tempdir().unwrap();
    let seed = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64;
    println!("seed {seed}");
    let mut random = seed | 1;
    let (mut appended, mut released, mut may_be_gone, mut torn, mut again) = (0, 0, 0, 0, 0);
    for _ in 0..ROUNDS {
        // xorshift64, Marsaglia 2003.
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let said = one_life(dir.path(), Duration::from_micros(random % 120_000));
        appended = said.appended.max(appended);
        may_be_gone = said.releasing.max(may_be_gone);
        assert!(bytes_on_disk(dir.path()) <= LIMIT, "{} bytes", bytes_on_disk(dir.path()));
        let (mut spool, recovery) = Spool::open(settings(dir.path())).unwrap();
        assert_eq!((recovery.damaged_bytes, recovery.missing_records, recovery.foreign_files), (0, 0, 0));
        assert!(!recovery.cursor_damaged);
        torn += u32::from(recovery.torn_bytes > 0);
        let mut found = Vec::new();
        while let Some((number, bytes)) = spool.next().unwrap() {
            assert!(bytes == record(number), "record {number}");
            found.push(number);
        }
        assert_eq!((found.len() as u64, found.len() as u64), (recovery.records, spool.held().records));
        assert!(found.windows(2).all(|pair| pair[0] + 1 == pair[1]), "each number once, in order");
        if let (Some(first), Some(last)) = (found.first(), found.last()) {
            assert!(*first <= may_be_gone + 1, "{first} is the first, only {may_be_gone} was released");
            released = said.released.max(released);
            let repeated = (released + 1).saturating_sub(*first);
            assert!(repeated <= RELEASES_AT_RISK, "{repeated} released records again");
            again += repeated;
            assert!(*last >= appended, "{appended} was acknowledged, {last} is the last");
            appended = *last;
        } else {
            assert_eq!(appended, 0, "nothing is there, and {appended} was acknowledged");
        }
    }
    println!("{ROUNDS} kills, {appended} records, {torn} torn, {again} released ones again");
    assert!(appended > u64::from(ROUNDS), "the writers hardly lived: {appended} records");
}

/// Lets a writer live for a while and kills it.
fn one_life(dir: &Path, life: Duration) -> Said {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "writer", "--ignored", "--nocapture"])
        .env(DIR, dir)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let output = BufReader::new(child.stdout.take().unwrap());
    let reader = std::thread::spawn(move || {
        let mut said = Said::default();
        for line in output.split(b'\n') {
            // Only whole lines count: what was cut off was not said.
            let line = String::from_utf8_lossy(&line.unwrap()).into_owned();
            let Some((what, number)) = line.strip_suffix('.').and_then(|line| line.split_once(' ')) else {
                continue;
            };
            let Ok(number) = number.parse() else { continue };
            match what {
                "appended" => said.appended = number,
                "releasing" => said.releasing = number,
                "released" => said.released = number,
                _ => {}
            }
        }
        said
    });
    std::thread::sleep(life);
    child.kill().unwrap();
    let status = child.wait().unwrap();
    assert_eq!(status.code(), None, "the writer ended by itself");
    reader.join().unwrap()
}

/// Not a test by itself: what `one_life` starts. Appends as fast as it can; when the spool is full, and now and then, it delivers some.
#[test]
#[ignore = "the writer that the other test kills"]
fn writer() {
    let dir = std::env::var_os(DIR).expect("started by the other test");
    let (mut spool, _) = Spool::open(settings(Path::new(&dir))).unwrap();
    let mut out = std::io::stdout();
    // What a record holds follows from its number, which must be known before: so the newest record is never delivered.
    let mut next = None;
    while let Some((number, _)) = spool.next().unwrap() {
        next = Some(number + 1);
    }
    spool.rewind();
    let mut next = next.unwrap_or(1);
    loop {
        match spool.append(&record(next), &mut |_, _| panic!("nothing is dropped")).unwrap() {
            Appended::Stored { number } => {
                assert_eq!(number, next);
                next += 1;
                writeln!(out, "appended {number}.").unwrap();
                if number % 3 == 0 {
                    deliver(&mut spool, 2, &mut out);
                }
            }
            Appended::Refused => deliver(&mut spool, 200, &mut out),
        }
    }
}

fn deliver(spool: &mut Spool, records: u32, out: &mut std::io::Stdout) {
    for _ in 0..records {
        if spool.held().records == 1 {
            return;
        }
        let Some((number, _)) = spool.next().unwrap() else { return };
        writeln!(out, "releasing {number}.").unwrap();
        spool.release(number).unwrap();
        writeln!(out, "released {number}.").unwrap();
    }
}
