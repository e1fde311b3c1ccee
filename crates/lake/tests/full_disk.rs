//! A disk that is really full: one megabyte, in a mount namespace of this test's own.

#![allow(clippy::unwrap_used, reason = "all of this file is a test")]

use std::fs::{self, File};
use std::sync::Arc;
use std::time::Duration;

use watchfire_event::{Body, BootNanos, Event, Process, ProcessKey, StreamId, UnixNanos};
use watchfire_lake::{EventQuery, Lake, LakeError, LakeSettings, MAX_LIMIT, StreamMeta};
use watchfire_smalldisk::SmallDisk;
use watchfire_wire::BatchBuilder;

const DISK: u64 = 1 << 20;

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
fn a_full_disk_refuses_clearly_loses_nothing_and_goes_on_when_there_is_space() {
    let dir = tempfile::tempdir().unwrap();
    let _disk = match SmallDisk::mount_privately(dir.path(), DISK) {
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            eprintln!("skipped: a disk of its own needs root: {error}");
            return;
        }
        other => other.unwrap(),
    };
    let dir = dir.path();
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
