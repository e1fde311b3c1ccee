//! The lake's promises, one test each, crashes at named points included.

use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arrow_array::RecordBatch;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::file::properties::WriterProperties;
use watchfire_event::{
    Body, BootId, BootNanos, DropReason, Event, HostId, Kind, Process, ProcessKey, Report, Stage,
};
use watchfire_wire::BatchBuilder;

use super::*;
use crate::archive::pull_the_plug_at;

const BOOTED: i64 = 1_795_222_530_000_000_000;
const HOUR: u64 = 3_600_000_000_000;

fn meta(host: u8) -> StreamMeta {
    let stream = StreamId { host: HostId([host; 16]), boot: BootId([2; 16]), incarnation: BootNanos(3) };
    StreamMeta { stream, booted: UnixNanos(BOOTED), hostname: format!("host-{host}") }
}

fn event(at: u64, tgid: u32, body: Body) -> Event {
    let key = ProcessKey { tgid, started: BootNanos(at) };
    let process =
        Arc::new(Process { key, exe: b"/bin/x".to_vec(), argv: b"x\0".to_vec(), ..Process::default() });
    Event { at: BootNanos(at), decoded: BootNanos(at + 5), process, parent: None, body }
}

/// A batch of one exec and one exit per time.
fn batch(sequence: u64, times: &[u64]) -> Vec<u8> {
    let mut builder = BatchBuilder::new();
    for at in times {
        builder.push(&event(*at, 10, Body::Exec));
        builder.push(&event(*at + 1, 10, Body::Exit { code: 0, signal: 0 }));
    }
    builder.finish(sequence)
}

fn small() -> LakeSettings {
    LakeSettings {
        segment_bytes: 4096,
        log_max_bytes: 1 << 20,
        sync_interval: Duration::ZERO,
        flush_age: Duration::ZERO,
        row_group_rows: 64,
        ..LakeSettings::default()
    }
}

fn all(lake: &Lake) -> Vec<(u64, u32)> {
    let query = EventQuery { limit: crate::MAX_LIMIT, ..EventQuery::default() };
    let mut rows: Vec<(u64, u32)> = lake
        .query(&query)
        .unwrap()
        .map(|row| row.unwrap())
        .map(|row| (row.log_offset, row.log_row))
        .collect();
    rows.sort_unstable();
    rows
}

fn expected(batches: u64, rows: u32) -> Vec<(u64, u32)> {
    (0..batches).flat_map(|offset| (0..rows).map(move |row| (offset, row))).collect()
}

fn parquet_files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut dirs = vec![dir.join("lake/events")];
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { dirs.push(path) } else { found.push(path) }
        }
    }
    found.sort();
    found
}

fn balanced(lake: &Lake, stream: StreamId) {
    let books = lake.books(stream);
    assert!(books.faults().is_empty(), "{:?}", books.faults());
}

#[test]
fn a_batch_sent_again_is_stored_once_also_after_restarts() {
    let dir = tempfile::tempdir().unwrap();
    let one = meta(1);
    {
        let lake = Lake::open(dir.path(), small()).unwrap();
        assert_eq!(lake.append(&one, 1, &batch(1, &[1])).unwrap(), Append::Stored { offset: 0, skipped: 0 });
        assert_eq!(lake.append(&one, 1, &batch(1, &[1])).unwrap(), Append::Duplicate);
        assert_eq!(lake.durable_sequence(one.stream), 0);
        lake.sync().unwrap();
        assert_eq!(lake.durable_sequence(one.stream), 1);
    }
    for archived in [false, true] {
        let lake = Lake::open(dir.path(), small()).unwrap();
        assert_eq!((lake.last_sequence(one.stream), lake.durable_sequence(one.stream)), (1, 1));
        assert_eq!(lake.append(&one, 1, &batch(1, &[1])).unwrap(), Append::Duplicate);
        if !archived {
            lake.flush().unwrap();
        }
        assert_eq!(all(&lake), expected(1, 2));
        balanced(&lake, one.stream);
    }
    let lake = Lake::open(dir.path(), small()).unwrap();
    assert_eq!(lake.append(&one, 5, &batch(5, &[9])).unwrap(), Append::Stored { offset: 1, skipped: 3 });
    // Another stream has numbers of its own.
    assert_eq!(lake.append(&meta(2), 1, &batch(1, &[9])).unwrap(), Append::Stored { offset: 2, skipped: 0 });
}

#[test]
fn offsets_go_on_when_all_segments_are_archived_and_gone() {
    let dir = tempfile::tempdir().unwrap();
    for round in 0..5u64 {
        let lake = Lake::open(dir.path(), small()).unwrap();
        for step in 0..30 {
            let sequence = round * 30 + step + 1;
            let appended = lake.append(&meta(1), sequence, &batch(sequence, &[sequence; 5])).unwrap();
            assert_eq!(appended, Append::Stored { offset: sequence - 1, skipped: 0 });
        }
        assert!(std::fs::read_dir(dir.path().join("log")).unwrap().count() > 2);
        lake.flush().unwrap();
        assert_eq!(std::fs::read_dir(dir.path().join("log")).unwrap().count(), 1);
        assert_eq!(all(&lake), expected((round + 1) * 30, 10));
        balanced(&lake, meta(1).stream);
    }
    std::fs::remove_dir_all(dir.path().join("log")).unwrap();
    let lake = Lake::open(dir.path(), small()).unwrap();
    assert_eq!(
        lake.append(&meta(1), 151, &batch(151, &[9])).unwrap(),
        Append::Stored { offset: 150, skipped: 0 }
    );
}

#[test]
fn files_lie_in_the_hour_of_their_events_and_wild_clocks_make_no_flood_of_them() {
    let dir = tempfile::tempdir().unwrap();
    let lake = Lake::open(dir.path(), small()).unwrap();
    lake.append(&meta(1), 1, &batch(1, &[1, HOUR])).unwrap();
    lake.flush().unwrap();
    let lake_dir = dir.path().join("lake");
    let names: Vec<String> = parquet_files(dir.path())
        .iter()
        .map(|path| path.strip_prefix(&lake_dir).unwrap().to_string_lossy().into_owned())
        .collect();
    assert_eq!(
        names,
        [
            "events/dt=2026-11-21/hour=00/part-0-0-0.parquet",
            "events/dt=2026-11-21/hour=01/part-0-0-1.parquet"
        ]
    );
    let wild: Vec<u64> = (0..200).map(|n| n * 31 * HOUR).collect();
    lake.append(&meta(1), 2, &batch(2, &wild)).unwrap();
    let archived = lake.flush().unwrap();
    assert!(archived.rows == 400 && archived.files <= 25, "{archived:?}");
    assert_eq!(all(&lake).len(), 404);
}

#[test]
fn a_query_merges_files_and_log_in_time_order_and_keeps_the_newest() {
    let dir = tempfile::tempdir().unwrap();
    let lake = Lake::open(dir.path(), small()).unwrap();
    // Times interleave: files hold even ones, the log odd ones.
    for (sequence, first) in [(1, 0u64), (2, 2000), (3, 1000)] {
        let times: Vec<u64> = (0..100).map(|n| first + n * 20).collect();
        lake.append(&meta(1), sequence, &batch(sequence, &times)).unwrap();
        lake.flush().unwrap();
    }
    lake.append(&meta(2), 1, &batch(1, &[15, 1505, 3995])).unwrap();
    let read = |query: &EventQuery| -> Vec<StoredTime> {
        lake.query(query)
            .unwrap()
            .map(|row| row.unwrap())
            .map(|row| (row.time.0 - BOOTED, row.event.kind()))
            .collect()
    };
    type StoredTime = (i64, Kind);
    let whole = read(&EventQuery { limit: 10_000, ..EventQuery::default() });
    assert_eq!(whole.len(), 606);
    assert!(whole.is_sorted_by_key(|row| row.0));
    let newest = read(&EventQuery { limit: 5, ..EventQuery::default() });
    assert_eq!(newest, whole[601..]);
    assert_eq!(newest.last(), Some(&(3996, Kind::Exit)));
    let execs = read(&EventQuery { kinds: vec![Kind::Exec], limit: 100, ..EventQuery::default() });
    let expected: Vec<_> = whole.iter().filter(|row| row.1 == Kind::Exec).copied().collect();
    assert_eq!(execs, expected[expected.len() - 100..]);
    let since = UnixNanos(BOOTED + 1000);
    let until = UnixNanos(BOOTED + 2001);
    let span =
        read(&EventQuery { since: Some(since), until: Some(until), limit: 10_000, ..EventQuery::default() });
    assert_eq!(span, whole.iter().filter(|row| (1000..2001).contains(&row.0)).copied().collect::<Vec<_>>());
    let host = Some(meta(2).stream.host);
    assert_eq!(read(&EventQuery { host, ..EventQuery::default() }).len(), 6);
    assert_eq!(read(&EventQuery { tgid: Some(11), ..EventQuery::default() }).len(), 0);
    assert_eq!(read(&EventQuery { tgid: Some(10), ..EventQuery::default() }).len(), 606);
    assert_eq!(read(&EventQuery { kinds: vec![Kind::Mount], ..EventQuery::default() }).len(), 0);
    assert_eq!(read(&EventQuery { limit: 0, ..EventQuery::default() }).len(), 0);
}

#[test]
fn what_a_batch_claims_and_does_not_hold_is_dropped_as_malformed_and_the_offset_moves_on() {
    let dir = tempfile::tempdir().unwrap();
    let lake = Lake::open(dir.path(), small()).unwrap();
    let stream = meta(1).stream;
    let mut broken = batch(1, &[1, 2, 3]);
    broken.truncate(broken.len() - 3);
    lake.append(&meta(1), 1, &batch(1, &[1])).unwrap();
    // The counts stand in front of what was cut off, but protobuf refuses the whole; so one with readable counts is needed.
    let mut claims = batch(2, &[1, 2, 3]);
    // An event whose process is outside the table: field 4, length 4, at = 1, process = 99.
    claims.extend_from_slice(&[0x22, 4, 0x08, 1, 0x18, 99]);
    lake.append(&meta(1), 2, &claims).unwrap();
    lake.append(&meta(1), 3, &broken).unwrap();
    lake.append(&meta(1), 4, b"\xff\xff\xff not protobuf").unwrap();
    lake.append(&meta(1), 5, &batch(5, &[7])).unwrap();
    balanced(&lake, stream);
    let archived = lake.flush().unwrap();
    assert_eq!((archived.rows, archived.malformed), (4, 6));
    for _ in 0..2 {
        balanced(&lake, stream);
        let books = lake.books(stream);
        let log = books.get(Stage::Log, Kind::Exec).unwrap();
        assert_eq!((log.seen, log.passed, log.held), (5, 2, 0));
        assert_eq!(log.dropped[&DropReason::Malformed], 3);
        assert_eq!(lake.stats().uncounted, 2);
    }
    drop(lake);
    let lake = Lake::open(dir.path(), small()).unwrap();
    assert_eq!(lake.last_sequence(stream), 5);
    assert_eq!(lake.books(stream).get(Stage::Log, Kind::Exec).unwrap().dropped_total(), 3);
    balanced(&lake, stream);
}

#[test]
fn a_full_log_refuses_and_takes_again_once_it_is_archived() {
    let dir = tempfile::tempdir().unwrap();
    let lake = Lake::open(dir.path(), LakeSettings { log_max_bytes: 8192, ..small() }).unwrap();
    let mut sequence = 1;
    let error = loop {
        match lake.append(&meta(1), sequence, &batch(sequence, &[sequence; 5])) {
            Ok(_) => sequence += 1,
            Err(error) => break error,
        }
    };
    assert!(error.is_temporary() && error.to_string().contains("log"), "{error}");
    lake.flush().unwrap();
    lake.append(&meta(1), sequence, &batch(sequence, &[sequence; 5])).unwrap();
    assert_eq!(all(&lake), expected(sequence, 10));
    balanced(&lake, meta(1).stream);
}

#[test]
fn the_archiver_runs_when_rows_are_many_or_old() {
    let dir = tempfile::tempdir().unwrap();
    let settings = LakeSettings { flush_rows: 10, flush_age: Duration::from_secs(60), ..small() };
    let lake = Lake::open(dir.path(), settings).unwrap();
    let now = Instant::now();
    lake.append(&meta(1), 1, &batch(1, &[1; 4])).unwrap();
    assert_eq!(lake.archive_due(now).unwrap(), None);
    lake.append(&meta(1), 2, &batch(2, &[1])).unwrap();
    assert_eq!(lake.archive_due(now).unwrap().unwrap().rows, 10);
    lake.append(&meta(1), 3, &batch(3, &[1])).unwrap();
    assert_eq!(lake.archive_due(now).unwrap(), None);
    assert_eq!(lake.archive_due(now + Duration::from_secs(62)).unwrap().unwrap().rows, 2);
    assert_eq!(lake.archive_due(now + Duration::from_secs(999)).unwrap(), None);
}

#[test]
fn a_crash_at_any_point_of_a_commit_neither_loses_nor_doubles_a_row() {
    for point in ["written", "renamed", "committed"] {
        let dir = tempfile::tempdir().unwrap();
        let mut batches = 0;
        for _ in 0..4 {
            let lake = Lake::open(dir.path(), small()).unwrap();
            assert_eq!(all(&lake), expected(batches, 20), "{point}");
            assert_eq!(lake.faults(), [], "{point}");
            for _ in 0..15 {
                batches += 1;
                // Two partitions, so that a commit has two files.
                let mut times = vec![batches; 5];
                times.resize(10, HOUR + batches);
                lake.append(&meta(1), batches, &batch(batches, &times)).unwrap();
            }
            pull_the_plug_at(point);
            assert!(catch_unwind(AssertUnwindSafe(|| lake.flush())).is_err());
        }
        let lake = Lake::open(dir.path(), small()).unwrap();
        lake.flush().unwrap();
        assert_eq!(all(&lake), expected(batches, 20), "{point}");
        assert_eq!(lake.stats().rows, batches * 20);
        balanced(&lake, meta(1).stream);
        assert_eq!(lake.books(meta(1).stream).get(Stage::Lake, Kind::Exec).unwrap().passed, batches * 10);
        let leftovers =
            parquet_files(dir.path()).into_iter().filter(|path| path.extension().unwrap() == "tmp");
        assert_eq!(leftovers.count(), 0);
    }
}

#[test]
fn a_commit_of_which_only_some_files_were_renamed_is_done_again() {
    let dir = tempfile::tempdir().unwrap();
    {
        let lake = Lake::open(dir.path(), small()).unwrap();
        lake.append(&meta(1), 1, &batch(1, &[1, HOUR])).unwrap();
        pull_the_plug_at("renamed");
        assert!(catch_unwind(AssertUnwindSafe(|| lake.flush())).is_err());
    }
    std::fs::remove_file(&parquet_files(dir.path())[1]).unwrap();
    let lake = Lake::open(dir.path(), small()).unwrap();
    assert_eq!(all(&lake), expected(1, 4));
    lake.flush().unwrap();
    assert_eq!(all(&lake), expected(1, 4));
    assert_eq!(lake.faults(), []);
}

#[test]
fn readers_see_every_row_once_while_it_is_appended_and_archived() {
    let dir = tempfile::tempdir().unwrap();
    let lake = Arc::new(Lake::open(dir.path(), small()).unwrap());
    let done = Arc::new(AtomicBool::new(false));
    let archiver = {
        let (lake, done) = (lake.clone(), done.clone());
        std::thread::spawn(move || {
            while !done.load(Ordering::Relaxed) {
                lake.flush().unwrap();
            }
        })
    };
    let reader = {
        let (lake, done) = (lake.clone(), done.clone());
        std::thread::spawn(move || {
            let mut reads = 0;
            while !done.load(Ordering::Relaxed) {
                let before = lake.last_sequence(meta(1).stream);
                let rows = all(&lake);
                assert!(rows.len() as u64 >= before * 10);
                assert_eq!(rows, expected(rows.len() as u64 / 10, 10));
                balanced(&lake, meta(1).stream);
                reads += 1;
            }
            reads
        })
    };
    for sequence in 1..=400 {
        lake.append(&meta(1), sequence, &batch(sequence, &[sequence; 5])).unwrap();
        if sequence % 8 == 0 {
            lake.sync().unwrap();
        }
    }
    done.store(true, Ordering::Relaxed);
    archiver.join().unwrap();
    assert!(reader.join().unwrap() > 2);
    assert_eq!(all(&lake), expected(400, 10));
}

/// Writes a file again as a version would have that did not know `columns` yet.
fn without(path: &Path, columns: &[&str]) {
    let reader = ParquetRecordBatchReaderBuilder::try_new(File::open(path).unwrap()).unwrap();
    let entries = reader.metadata().file_metadata().key_value_metadata().cloned();
    let properties = WriterProperties::builder().set_key_value_metadata(entries).build();
    let batches: Vec<RecordBatch> = reader.build().unwrap().map(|batch| batch.unwrap()).collect();
    let schema = batches[0].schema();
    let kept: Vec<usize> =
        (0..schema.fields().len()).filter(|at| !columns.contains(&&schema.field(*at).name()[..])).collect();
    assert_eq!(kept.len() + columns.len(), schema.fields().len());
    let schema = Arc::new(schema.project(&kept).unwrap());
    let mut writer = ArrowWriter::try_new(File::create(path).unwrap(), schema, Some(properties)).unwrap();
    batches.iter().for_each(|batch| writer.write(&batch.project(&kept).unwrap()).unwrap());
    writer.close().unwrap();
}

#[test]
fn files_from_before_reports_are_read_beside_those_that_have_them() {
    let dir = tempfile::tempdir().unwrap();
    let report = Report::new("agent", "breaker", [("state", "open"), ("cause.of", "cpu \u{1f525}")]).unwrap();
    let bare = Report::new("agent", "start", [("", ""); 0]).unwrap();
    let told = [Body::Exec, Body::Report(report), Body::Report(bare)];
    let lake = Lake::open(dir.path(), small()).unwrap();
    lake.append(&meta(1), 1, &batch(1, &[1, 3])).unwrap();
    lake.flush().unwrap();
    without(&parquet_files(dir.path())[0], &["report_app", "report_topic", "report_fields"]);
    let mut builder = BatchBuilder::new();
    (10..).zip(&told).for_each(|(at, body)| builder.push(&event(at, 10, body.clone())));
    lake.append(&meta(1), 2, &builder.finish(2)).unwrap();
    lake.flush().unwrap();
    let check = |lake: &Lake| {
        assert_eq!(parquet_files(dir.path()).len(), 2);
        let rows = lake.query(&EventQuery::default()).unwrap();
        let bodies: Vec<Body> = rows.map(|row| row.unwrap().event.body).collect();
        assert_eq!((bodies.len(), &bodies[4..]), (7, &told[..]));
        let query = EventQuery { kinds: vec![Kind::Report], ..EventQuery::default() };
        assert_eq!(lake.query(&query).unwrap().count(), 2);
    };
    check(&lake);
    drop(lake);
    // The manifest knows the size that the first file had before; put together from the files it knows the new one.
    std::fs::remove_file(dir.path().join("lake/manifest")).unwrap();
    check(&Lake::open(dir.path(), small()).unwrap());
}

#[test]
fn a_lake_in_use_is_not_opened_twice() {
    let dir = tempfile::tempdir().unwrap();
    let _lake = Lake::open(dir.path(), small()).unwrap();
    let error = Lake::open(dir.path(), small()).unwrap_err();
    assert!(matches!(error, LakeError::InUse { .. }), "{error}");
}

#[test]
fn a_setting_out_of_range_is_refused_by_its_name() {
    let dir = tempfile::tempdir().unwrap();
    let error = Lake::open(dir.path(), LakeSettings { flush_rows: 0, ..small() }).unwrap_err();
    assert!(error.to_string().contains("flush_rows"), "{error}");
}
