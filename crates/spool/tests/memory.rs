//! Records wait on the disk, not in memory.

#![allow(clippy::unwrap_used, reason = "all of this file is a test")]

use watchfire_spool::{Appended, Spool, SpoolSettings, WhenFull};

const RECORDS: u64 = 1_000_000;
/// What the spool may take beside its data: the test harness, and a block or two. A million records with 3 bytes each would pass it.
const SPARE_KB: u64 = 2048;

fn resident_kb() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn a_million_records_in_64_mib_cost_next_to_no_memory() {
    let dir = tempfile::tempdir().unwrap();
    let settings = SpoolSettings::new(dir.path(), WhenFull::DropNewest);
    let before = resident_kb();
    let mut most = before;
    let (mut spool, _) = Spool::open(settings.clone()).unwrap();
    for number in 1..=RECORDS {
        let record = [number.to_le_bytes(); 5].concat();
        let appended = spool.append(&record, &mut |_, _| ()).unwrap();
        assert_eq!(appended, Appended::Stored { number });
    }
    most = most.max(resident_kb());
    drop(spool);
    let (mut spool, recovery) = Spool::open(settings).unwrap();
    assert_eq!(recovery.records, RECORDS);
    most = most.max(resident_kb());
    while let Some((number, _)) = spool.next().unwrap() {
        if number % 50_000 == 0 {
            most = most.max(resident_kb());
            spool.release(number).unwrap();
        }
    }
    assert_eq!(spool.held().records, 0);
    println!("{} kB more than at the beginning, for {} bytes of records", most - before, RECORDS * 40);
    assert!(most - before < SPARE_KB, "{} kB", most - before);
}
