//! A disk that is really full: one megabyte, in a mount namespace of this test's own.

#![allow(clippy::unwrap_used, reason = "all of this file is a test")]

use std::fs::{self, File};
use std::sync::Arc;

use watchfire_alertdb::{AlertDb, AlertDbError, AlertQuery};
use watchfire_event::{Alert, AlertId, AlertTimes, Kind, Level, Process, ProcessNode, RuleId, StreamId};
use watchfire_smalldisk::SmallDisk;

const DISK: u64 = 1 << 20;

fn alert(sequence: u64) -> Alert {
    let process = Process { argv: vec![b'x'; 2000], ..Process::default() };
    Alert {
        id: AlertId::derive(StreamId::default(), sequence),
        sequence,
        rule: RuleId { id: "r".to_owned(), title: "t".to_owned() },
        attack: Vec::new(),
        level: Level::High,
        kind: Kind::Exec,
        matched: Vec::new(),
        tree: vec![ProcessNode { process: Arc::new(process) }],
        times: AlertTimes::default(),
    }
}

fn stored(db: &AlertDb) -> Vec<u64> {
    let query = AlertQuery { limit: 1000, ..AlertQuery::default() };
    let mut stored: Vec<u64> =
        db.alerts(&query).unwrap().iter().map(|stored| stored.alert.sequence).collect();
    stored.reverse();
    stored
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
    let path = dir.join("alerts.sqlite");
    let ballast = dir.join("ballast");
    fs::write(&ballast, vec![1u8; 300 << 10]).unwrap();
    let db = AlertDb::open(&path).unwrap();
    let mut last = 0;
    let error = loop {
        match db.record_alerts(StreamId::default(), &[alert(last + 1)]) {
            Ok(recorded) => last += recorded.len() as u64,
            Err(error) => break error,
        }
    };
    assert!(matches!(error, AlertDbError::Full { .. }), "{error:?}");
    assert!(error.to_string().contains("no space left"), "{error}");
    assert!(last > 10, "{last}");
    assert_eq!(stored(&db), (1..=last).collect::<Vec<_>>());
    assert_eq!(db.last_alert(StreamId::default()).unwrap(), last);
    File::options().write(true).open(&ballast).unwrap().set_len(0).unwrap();
    let recorded = db.record_alerts(StreamId::default(), &[alert(last), alert(last + 1)]).unwrap();
    assert_eq!(recorded.iter().map(|alert| alert.sequence).collect::<Vec<_>>(), [last + 1]);
    drop(db);
    // Full again, a new database cannot be made: said clearly, nothing half made stays.
    let free = {
        let other = dir.join("other.sqlite");
        let mut size = 0u64;
        let filler = File::options().write(true).open(&ballast).unwrap();
        while std::os::unix::fs::FileExt::write_all_at(&filler, &[1; 4096], size).is_ok() {
            size += 4096;
        }
        let error = AlertDb::open(&other).unwrap_err();
        assert!(matches!(error, AlertDbError::Full { .. }), "{error:?}");
        assert!(!other.exists());
        filler.set_len(0).unwrap();
        size
    };
    assert!(free > 0);
    let db = AlertDb::open(&path).unwrap();
    assert_eq!(stored(&db), (1..=last + 1).collect::<Vec<_>>());
    println!("{last} alerts filled the disk");
}
