//! Damaged data directories: opened all the same, the damage named, nothing thrown away.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use watchfire_event::{Body, BootNanos, Event, Process, ProcessKey, StreamId, UnixNanos};
use watchfire_wire::BatchBuilder;

use crate::{Append, EventQuery, Lake, LakeSettings, StreamMeta};

fn settings() -> LakeSettings {
    LakeSettings {
        segment_bytes: 4096,
        log_max_bytes: 1 << 20,
        sync_interval: Duration::ZERO,
        ..LakeSettings::default()
    }
}

fn meta() -> StreamMeta {
    StreamMeta { stream: StreamId::default(), booted: UnixNanos(0), hostname: "host".to_owned() }
}

fn append(lake: &Lake, sequences: std::ops::RangeInclusive<u64>) {
    for sequence in sequences {
        let mut builder = BatchBuilder::new();
        let key = ProcessKey { tgid: 1, started: BootNanos(sequence) };
        let process = std::sync::Arc::new(Process { key, argv: vec![b'x'; 400], ..Process::default() });
        let at = BootNanos(sequence);
        builder.push(&Event { at, decoded: at, process, parent: None, body: Body::Exec });
        let appended = lake.append(&meta(), sequence, &builder.finish(sequence)).unwrap();
        assert!(matches!(appended, Append::Stored { .. }));
    }
}

/// The sequences that are stored, read from the events themselves.
fn stored(lake: &Lake) -> Vec<u64> {
    lake.query(&EventQuery::default()).unwrap().map(|row| row.unwrap().event.at.0).collect()
}

fn files(dir: &Path, suffix: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { dirs.push(path) } else { found.push(path) }
        }
    }
    found.retain(|path| path.to_string_lossy().ends_with(suffix));
    // By offset, not by text.
    found.sort_by_key(|path| (path.to_string_lossy().len(), path.clone()));
    found
}

/// Three commits of three batches each, and three batches in the log.
fn filled() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let lake = Lake::open(dir.path(), settings()).unwrap();
    for first in [1, 4, 7] {
        append(&lake, first..=first + 2);
        lake.flush().unwrap();
    }
    append(&lake, 10..=12);
    lake.sync().unwrap();
    dir
}

fn names(lake: &Lake, path: &Path) -> bool {
    lake.faults().iter().any(|fault| fault.path == path)
}

#[test]
fn a_garbage_manifest_is_set_aside_and_rebuilt_from_the_files() {
    for garbage in [&b"garbage"[..], b"", b"watchfire-lake-manifest 1\n", &[0; 5000]] {
        let dir = filled();
        let manifest = dir.path().join("lake/manifest");
        fs::write(&manifest, garbage).unwrap();
        let lake = Lake::open(dir.path(), settings()).unwrap();
        assert_eq!(stored(&lake), (1..=12).collect::<Vec<_>>());
        assert!(names(&lake, &manifest) || garbage == b"watchfire-lake-manifest 1\n", "{:?}", lake.faults());
        assert_eq!(lake.last_sequence(StreamId::default()), 12);
        assert!(lake.books(StreamId::default()).faults().is_empty());
        append(&lake, 13..=13);
        lake.flush().unwrap();
        drop(lake);
        let lake = Lake::open(dir.path(), settings()).unwrap();
        assert_eq!(stored(&lake), (1..=13).collect::<Vec<_>>());
        assert_eq!(lake.faults(), []);
        assert_eq!(
            fs::read(dir.path().join("lake/manifest.damaged")).is_ok(),
            garbage != b"watchfire-lake-manifest 1\n"
        );
    }
}

#[test]
fn a_missing_manifest_is_rebuilt() {
    let dir = filled();
    fs::remove_file(dir.path().join("lake/manifest")).unwrap();
    let lake = Lake::open(dir.path(), settings()).unwrap();
    assert_eq!(stored(&lake), (1..=12).collect::<Vec<_>>());
}

#[test]
fn a_truncated_file_is_named_and_kept_and_the_rest_is_shown() {
    let dir = filled();
    let file = files(dir.path(), ".parquet").remove(1);
    let bytes = fs::read(&file).unwrap();
    fs::write(&file, &bytes[..bytes.len() / 2]).unwrap();
    for _ in 0..2 {
        let lake = Lake::open(dir.path(), settings()).unwrap();
        assert_eq!(stored(&lake), [1, 2, 3, 7, 8, 9, 10, 11, 12]);
        assert!(names(&lake, &file), "{:?}", lake.faults());
    }
    assert_eq!(files(dir.path(), ".parquet.damaged").len(), 1);
}

#[test]
fn a_missing_file_is_named_and_the_rest_is_shown() {
    let dir = filled();
    let file = files(dir.path(), ".parquet").remove(0);
    fs::remove_file(&file).unwrap();
    let lake = Lake::open(dir.path(), settings()).unwrap();
    assert_eq!(stored(&lake), (4..=12).collect::<Vec<_>>());
    assert!(names(&lake, &file));
}

#[test]
fn a_file_that_goes_bad_while_in_use_fails_the_query_by_name() {
    let dir = filled();
    let lake = Lake::open(dir.path(), settings()).unwrap();
    let file = files(dir.path(), ".parquet").remove(2);
    fs::write(&file, b"PAR1 nothing else").unwrap();
    let error = lake.query(&EventQuery::default()).unwrap_err();
    assert!(error.to_string().contains(file.to_str().unwrap()), "{error}");
}

#[test]
fn garbage_manifest_and_a_truncated_file_lose_only_that_file() {
    let dir = filled();
    fs::write(dir.path().join("lake/manifest"), b"garbage").unwrap();
    let file = files(dir.path(), ".parquet").remove(1);
    fs::write(&file, b"garbage").unwrap();
    let lake = Lake::open(dir.path(), settings()).unwrap();
    assert_eq!(stored(&lake), [1, 2, 3, 7, 8, 9, 10, 11, 12]);
    assert!(names(&lake, &file), "{:?}", lake.faults());
    // A number that was used is not used again.
    append(&lake, 13..=13);
    lake.flush().unwrap();
    assert_eq!(stored(&lake).len(), 10);
}

#[test]
fn a_torn_end_of_the_log_is_truncated_and_what_comes_next_is_kept() {
    let dir = filled();
    let segment = files(dir.path(), ".seg").pop().unwrap();
    let whole = fs::read(&segment).unwrap();
    for cut in [1, 100, 450] {
        fs::write(&segment, &whole[..whole.len() - cut]).unwrap();
        let lake = Lake::open(dir.path(), settings()).unwrap();
        assert_eq!(stored(&lake), (1..=11).collect::<Vec<_>>(), "cut by {cut}");
        assert_eq!(lake.faults(), []);
        assert_eq!(lake.last_sequence(StreamId::default()), 11);
        append(&lake, 12..=12);
        assert_eq!(stored(&lake), (1..=12).collect::<Vec<_>>());
        drop(lake);
        assert_eq!(fs::read(&segment).unwrap().len(), whole.len());
    }
}

#[test]
fn damage_inside_the_log_is_skipped_named_and_kept_when_the_segment_is_archived() {
    let dir = filled();
    let segment = files(dir.path(), ".seg").pop().unwrap();
    let mut bytes = fs::read(&segment).unwrap();
    let at = bytes.len() - 700;
    bytes[at] ^= 0x40;
    fs::write(&segment, &bytes).unwrap();
    let lake = Lake::open(dir.path(), settings()).unwrap();
    assert_eq!(stored(&lake), [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12]);
    assert!(names(&lake, &segment), "{:?}", lake.faults());
    append(&lake, 13..=30);
    lake.flush().unwrap();
    assert_eq!(stored(&lake).len(), 29);
    assert_eq!(files(dir.path(), ".seg.damaged").len(), 1);
    drop(lake);
    assert_eq!(stored(&Lake::open(dir.path(), settings()).unwrap()).len(), 29);
}

#[test]
fn a_record_that_goes_bad_while_in_use_does_not_stop_the_archiver() {
    let dir = filled();
    let lake = Lake::open(dir.path(), settings()).unwrap();
    let segment = files(dir.path(), ".seg").pop().unwrap();
    let mut bytes = fs::read(&segment).unwrap();
    let at = bytes.len() - 700;
    bytes[at] ^= 0x40;
    fs::write(&segment, &bytes).unwrap();
    lake.flush().unwrap();
    assert_eq!(stored(&lake), [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12]);
}

#[test]
fn garbage_in_place_of_the_last_segment_is_kept_and_the_log_goes_on() {
    let dir = filled();
    let segment = files(dir.path(), ".seg").pop().unwrap();
    fs::write(&segment, [0x5a; 3000]).unwrap();
    let lake = Lake::open(dir.path(), settings()).unwrap();
    assert_eq!(stored(&lake), (1..=9).collect::<Vec<_>>());
    assert!(names(&lake, &segment));
    assert_eq!(files(dir.path(), ".seg.damaged").len(), 1);
    append(&lake, 13..=14);
    lake.flush().unwrap();
    assert_eq!(stored(&lake).len(), 11);
}
