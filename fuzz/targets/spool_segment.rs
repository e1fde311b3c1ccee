//! A segment of the spool after a crash or a bad disk: whatever it holds, the spool opens, and what is appended is read back.

#![no_main]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use tempfile::TempDir;
use watchfire_spool::{Appended, Spool, SpoolError, SpoolSettings, WhenFull};

const RECORDS: u8 = 5;

/// The files of a good spool with one segment: its name, its bytes, and the cursor, which knows the salt too.
struct Good {
    name: PathBuf,
    segment: Vec<u8>,
    cursor: Vec<u8>,
}

static GOOD: LazyLock<Good> = LazyLock::new(|| {
    let folder = room();
    let (mut spool, _) = Spool::open(settings(folder.path())).expect("a new spool opens");
    for number in 1..=RECORDS {
        assert_eq!(append(&mut spool, &record(number)), Some(u64::from(number)));
    }
    drop(spool);
    let files = fs::read_dir(folder.path()).expect("a folder");
    let segment = files
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.extension() == Some("spool".as_ref()));
    let segment = segment.expect("with a segment");
    Good {
        name: segment.file_name().expect("a name").into(),
        segment: fs::read(&segment).expect("is readable"),
        cursor: fs::read(folder.path().join("cursor")).expect("a cursor"),
    }
});

fn settings(folder: &Path) -> SpoolSettings {
    SpoolSettings { segment_bytes: 4096, ..SpoolSettings::new(folder, WhenFull::DropOldest) }
}

fn record(number: u8) -> Vec<u8> {
    vec![number; 20 + usize::from(number)]
}

/// In memory where there is such a place: a real disk would take most of the time.
fn room() -> TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.expect("a folder")
}

/// The record's number; `None` if a forged file has used the numbers up.
fn append(spool: &mut Spool, record: &[u8]) -> Option<u64> {
    match spool.append(record, &mut |_, _| panic!("nothing is dropped")) {
        Ok(Appended::Stored { number }) => Some(number),
        Err(SpoolError::NumbersExhausted) => None,
        other => panic!("{other:?}"),
    }
}

/// Everything that can be read; numbers grow.
fn read_all(spool: &mut Spool) -> Vec<(u64, Vec<u8>)> {
    let mut records: Vec<(u64, Vec<u8>)> = Vec::new();
    while let Some((number, record)) = spool.next().expect("readable") {
        assert!(records.last().is_none_or(|(last, _)| *last < number), "numbers grow");
        records.push((number, record));
    }
    records
}

fuzz_target!(|bytes: &[u8]| {
    let segment = match bytes.split_first() {
        // The checksum keeps most random bytes out at once: the other half of the runs damages a good segment.
        Some((choice, damage)) if choice % 2 == 0 => damaged(&GOOD.segment, damage),
        Some((_, raw)) => raw.to_vec(),
        None => return,
    };
    let folder = room();
    fs::write(folder.path().join(&GOOD.name), &segment).expect("write the segment");
    fs::write(folder.path().join("cursor"), &GOOD.cursor).expect("write the cursor");
    let (mut spool, recovery) = Spool::open(settings(folder.path())).expect("damage does not stop a spool");
    let mut records = read_all(&mut spool);
    assert_eq!((records.len() as u64, spool.held().records), (recovery.records, recovery.records));
    let Some(number) = append(&mut spool, b"after it") else { return };
    records.push((number, b"after it".to_vec()));
    spool.rewind();
    assert_eq!(read_all(&mut spool), records);
    drop(spool);
    let (mut spool, again) = Spool::open(settings(folder.path())).expect("it opens again");
    assert_eq!((read_all(&mut spool), again.torn_bytes), (records, 0));
    spool.release(number).expect("released");
    assert_eq!(spool.held().records, 0);
});

/// Each three bytes of `damage` are a place (two bytes) and what is laid over it; an odd rest cuts the segment there.
fn damaged(good: &[u8], damage: &[u8]) -> Vec<u8> {
    let mut segment = good.to_vec();
    let steps = damage.chunks_exact(3);
    if let [high, low] = *steps.remainder() {
        segment.truncate(usize::from(u16::from_be_bytes([high, low])) % (good.len() + 1));
    }
    for step in steps {
        let place = usize::from(u16::from_be_bytes([step[0], step[1]])) % good.len();
        if let Some(byte) = segment.get_mut(place) {
            *byte ^= step[2];
        }
    }
    segment
}
