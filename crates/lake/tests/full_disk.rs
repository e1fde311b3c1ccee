//! A disk that is really full: a tmpfs of one megabyte in a mount namespace of its own.

#![allow(clippy::unwrap_used, reason = "all of this file is a test")]

use std::fs::{self, File};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use watchfire_event::{Body, BootNanos, Event, Process, ProcessKey, StreamId, UnixNanos};
use watchfire_lake::{EventQuery, Lake, LakeError, LakeSettings, MAX_LIMIT, StreamMeta};
use watchfire_wire::BatchBuilder;

const DIR: &str = "WATCHFIRE_TEST_FULL_DISK";

#[test]
fn a_full_disk_refuses_clearly_loses_nothing_and_goes_on_when_there_is_space() {
    let dir = tempfile::tempdir().unwrap();
    let script = "mount -t tmpfs -o size=1m tmpfs \"$WATCHFIRE_TEST_FULL_DISK\" || exit 77; \
                  exec \"$0\" --exact on_a_small_disk --ignored --nocapture";
    let status = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "sh", "-c", script])
        .arg(std::env::current_exe().unwrap())
        .env(DIR, dir.path())
        .status();
    match status {
        // 77 from the script, 1 from unshare(1); a failed test would end with 101.
        Ok(status) if matches!(status.code(), Some(1 | 77)) => {
            eprintln!("SKIPPED: a tmpfs cannot be mounted here (root is needed)");
        }
        Ok(status) => assert!(status.success(), "{status}"),
        Err(error) => eprintln!("SKIPPED: unshare(1) cannot be run: {error}"),
    }
}

fn batch(sequence: u64) -> Vec<u8> {
    let mut builder = BatchBuilder::new();
    for index in 0..8u32 {
        let key = ProcessKey { tgid: index, started: BootNanos(sequence) };
        // Not compressible, so that files take space too.
        let noise = |n: u64| ((n * sequence * 2_654_435_761 + u64::from(index)) >> 7).to_le_bytes()[0];
        let argv = (0..500).map(noise).collect();
        let process = Arc::new(Process { key, argv, ..Process::default() });
        let at = BootNanos(sequence);
        builder.push(&Event { at, decoded: at, process, parent: None, body: Body::Exec });
    }
    builder.finish(sequence)
}

fn rows(lake: &Lake) -> Vec<(u64, u32)> {
    let query = EventQuery { limit: MAX_LIMIT, ..EventQuery::default() };
    let keys = lake.query(&query).unwrap().map(|row| row.unwrap().event.process.key);
    let mut rows: Vec<(u64, u32)> = keys.map(|key| (key.started.0, key.tgid)).collect();
    rows.sort_unstable();
    rows
}

fn expected(last: u64) -> Vec<(u64, u32)> {
    (1..=last).flat_map(|sequence| (0..8).map(move |index| (sequence, index))).collect()
}

#[test]
#[ignore = "run by the other test on a small disk"]
fn on_a_small_disk() {
    let dir = std::env::var_os(DIR).expect("started by the other test");
    let dir = Path::new(&dir);
    let settings = LakeSettings {
        segment_bytes: 64 << 10,
        log_max_bytes: 64 << 20,
        sync_interval: Duration::ZERO,
        ..LakeSettings::default()
    };
    let meta = StreamMeta { stream: StreamId::default(), booted: UnixNanos(0), hostname: "h".to_owned() };
    let ballast = File::create(dir.join("ballast")).unwrap();
    fs::write(dir.join("ballast"), vec![1u8; 700 << 10]).unwrap();
    let mut lake = Lake::open(dir, settings.clone()).unwrap();
    let mut last = 0;
    let error = loop {
        match lake.append(&meta, last + 1, &batch(last + 1)) {
            Ok(_) => last += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(error, LakeError::NoSpace { .. }) && error.is_temporary(), "{error}");
    assert!(error.to_string().contains("no space left"), "{error}");
    lake.sync().unwrap();
    assert!(last > 10 && rows(&lake) == expected(last));
    // Space comes back page by page, so that archiving fails at every stage it has before it succeeds.
    let mut failures = 0;
    let mut left = 700u64 << 10;
    while let Err(error) = lake.flush() {
        assert!(matches!(error, LakeError::NoSpace { .. }), "{error:?}");
        assert_eq!(rows(&lake), expected(last), "after {failures} failures");
        failures += 1;
        if failures % 7 == 0 {
            // It opens on a full disk, too.
            drop(lake);
            lake = Lake::open(dir, settings.clone()).unwrap();
            assert_eq!((lake.faults(), lake.last_sequence(meta.stream)), (&[][..], last));
        }
        left = left.checked_sub(4096).expect("archiving never succeeded");
        ballast.set_len(left).unwrap();
    }
    assert!(failures > 3, "{failures}");
    println!("{last} batches filled the disk; archiving failed {failures} times before it succeeded");
    for _ in 0..3 {
        last += 1;
        lake.append(&meta, last, &batch(last)).unwrap();
        lake.flush().unwrap();
    }
    assert_eq!(rows(&lake), expected(last));
    drop(lake);
    let lake = Lake::open(dir, settings).unwrap();
    assert_eq!(rows(&lake), expected(last));
    assert!(lake.faults().is_empty() && lake.books(meta.stream).faults().is_empty());
}
