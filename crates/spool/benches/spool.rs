//! Records and bytes per second of append, read, and opening. `cargo bench -p watchfire-spool`.
//!
//! Method: 512 MiB of records of 64 KiB, then 64 MiB of records of 300 bytes (what a batch and a single alert weigh), appended to
//! a fresh spool with the default segment size, synced once at the end; then opened again, which checks every checksum; then
//! read and released one by one. Wall time and the thread's CPU time (`schedstat`) of one run each, since a shared machine
//! lies about the first; the directory lies in the system's temporary directory. What is read comes from the page cache.

use std::time::Instant;

use watchfire_spool::{Appended, Spool, SpoolSettings, WhenFull};

fn main() {
    run(64 << 10, 8192);
    run(300, 220_000);
}

fn run(size: usize, records: u64) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let settings =
        SpoolSettings { max_bytes: 1 << 30, ..SpoolSettings::new(dir.path(), WhenFull::DropNewest) };
    let (mut spool, _) = Spool::open(settings.clone()).expect("a spool");
    let mut record: Vec<u8> = (0..size).map(|n| ((n * 2_654_435_761) >> 7).to_le_bytes()[0]).collect();
    let begun = Begun::now();
    for number in 0..records {
        record[..8].copy_from_slice(&number.to_le_bytes());
        let appended = spool.append(&record, &mut |_, _| ()).expect("appended");
        assert!(matches!(appended, Appended::Stored { .. }));
    }
    report("append", size, records, begun);
    let begun = Begun::now();
    spool.sync().expect("synced");
    report("sync of it", size, records, begun);
    drop(spool);
    let begun = Begun::now();
    let (mut spool, recovery) = Spool::open(settings).expect("a spool");
    report("open", size, records, begun);
    assert_eq!(recovery.records, records);
    let begun = Begun::now();
    while let Some((number, _)) = spool.next().expect("read") {
        spool.release(number).expect("released");
    }
    report("read and release", size, records, begun);
    assert_eq!(spool.counters().released, records);
}

struct Begun {
    wall: Instant,
    cpu: u64,
}

impl Begun {
    fn now() -> Self {
        Self { wall: Instant::now(), cpu: cpu_nanos() }
    }
}

/// Nanoseconds this thread has run.
fn cpu_nanos() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").expect("schedstat");
    text.split(' ').next().and_then(|nanos| nanos.parse().ok()).expect("a number")
}

fn report(what: &str, size: usize, records: u64, begun: Begun) {
    let cpu = (cpu_nanos() - begun.cpu) as f64 / 1e3 / records as f64;
    let seconds = begun.wall.elapsed().as_secs_f64();
    let rate = records as f64 / seconds;
    let mib = rate * size as f64 / f64::from(1 << 20);
    println!("{size} B, {what}: {rate:.0} records/s, {mib:.0} MiB/s wall; {cpu:.2} us CPU a record");
}
