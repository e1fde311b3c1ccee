//! A disk that is really full: one megabyte, in a mount namespace of this test's own.

#![allow(clippy::unwrap_used, reason = "all of this file is a test")]

use std::fs::{self, File};

use watchfire_smalldisk::SmallDisk;
use watchfire_spool::{Appended, Spool, SpoolError, SpoolSettings, WhenFull};

const DISK: u64 = 1 << 20;

fn record(number: u64) -> Vec<u8> {
    vec![number.to_le_bytes()[0]; 3000 + usize::try_from(number % 7).unwrap() * 1000]
}

/// Appends until the disk refuses, and says why; `last` is the last number that was stored.
fn fill(spool: &mut Spool, last: &mut u64) -> SpoolError {
    loop {
        match spool.append(&record(*last + 1), &mut |_, _| panic!("nothing is dropped")) {
            Ok(Appended::Stored { number }) => {
                assert_eq!(number, *last + 1);
                *last = number;
            }
            Ok(Appended::Refused) => panic!("the spool is not full, the disk is"),
            Err(error) => return error,
        }
    }
}

fn check(spool: &mut Spool, first: u64, last: u64) {
    spool.rewind();
    for expected in first..=last {
        assert_eq!(spool.next().unwrap(), Some((expected, record(expected))));
    }
    assert_eq!(spool.next().unwrap(), None);
    assert_eq!(spool.held().records, last + 1 - first);
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
    let settings =
        |when_full| SpoolSettings { segment_bytes: 64 << 10, ..SpoolSettings::new(dir, when_full) };
    fs::write(dir.join("ballast"), vec![1u8; 700 << 10]).unwrap();
    let ballast = File::options().write(true).open(dir.join("ballast")).unwrap();
    let mut left = 700u64 << 10;
    let (mut spool, _) = Spool::open(settings(WhenFull::DropOldest)).unwrap();
    let mut last = 0;
    let mut failures = 0;
    // Space comes back page by page, so that writing fails at every place it can: in a record, at its end, in a new segment's header.
    while left > 4096 {
        let error = fill(&mut spool, &mut last);
        assert!(matches!(error, SpoolError::NoSpace { .. }) && error.is_temporary(), "{error}");
        failures += 1;
        if failures % 5 == 0 {
            check(&mut spool, 1, last);
            drop(spool);
            // It opens on a full disk, too, and finds nothing half written.
            let (again, recovery) = Spool::open(settings(WhenFull::DropOldest)).unwrap();
            assert_eq!((recovery.torn_bytes, recovery.damaged_bytes, recovery.missing_records), (0, 0, 0));
            spool = again;
        }
        left -= 4096;
        ballast.set_len(left).unwrap();
    }
    check(&mut spool, 1, last);
    // On a full disk release itself makes the room that it needs for its cursor.
    fill(&mut spool, &mut last);
    spool.release(last / 2).unwrap();
    fill(&mut spool, &mut last);
    let first = last / 2 + 1;
    spool.release(first - 1).unwrap();
    check(&mut spool, first, last);
    drop(spool);
    let (mut spool, recovery) = Spool::open(settings(WhenFull::DropNewest)).unwrap();
    assert_eq!((recovery.damaged_bytes, recovery.missing_records), (0, 0));
    check(&mut spool, first, last);
    println!("{failures} failed appends among {last} records");
}
