//! A segment of the event log after a crash or a bad disk: whatever it holds, the lake opens, and what it gives back was there.

#![no_main]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use tempfile::TempDir;
use watchfire_event::{BootId, BootNanos, HostId, StreamId, UnixNanos};
use watchfire_lake::{EventQuery, Lake, LakeSettings, StreamMeta};

const BATCHES: u64 = 4;

/// A good segment: its name and its bytes.
static GOOD: LazyLock<(PathBuf, Vec<u8>)> = LazyLock::new(|| {
    let folder = room();
    let lake = Lake::open(folder.path(), LakeSettings::default()).expect("a new lake opens");
    for sequence in 1..=BATCHES {
        lake.append(&stream(), sequence, &[]).expect("a batch is taken");
    }
    lake.sync().expect("and kept");
    drop(lake);
    let log = fs::read_dir(folder.path().join("log")).expect("a log");
    let segment = log
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.extension() == Some("seg".as_ref()));
    let segment = segment.expect("with a segment");
    (segment.file_name().expect("a name").into(), fs::read(&segment).expect("is readable"))
});

fn stream() -> StreamMeta {
    let stream = StreamId { host: HostId([7; 16]), boot: BootId([9; 16]), incarnation: BootNanos(1) };
    StreamMeta { stream, booted: UnixNanos(1), hostname: "fuzzed".to_owned() }
}

/// In memory where there is such a place: a sync of a real disk would take most of the time.
fn room() -> TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.expect("a folder")
}

fuzz_target!(|bytes: &[u8]| {
    let (name, good) = &*GOOD;
    let segment = match bytes.split_first() {
        // The checksum keeps most random bytes out at once: the other half of the runs damages a good segment.
        Some((choice, damage)) if choice % 2 == 0 => damaged(good, damage),
        Some((_, raw)) => raw.to_vec(),
        None => return,
    };
    let folder = room();
    let log = folder.path().join("log");
    fs::create_dir(&log).expect("make the log's folder");
    fs::write(log.join(name), &segment).expect("write the segment");
    let lake = Lake::open(folder.path(), LakeSettings::default()).expect("damage does not stop a lake");
    let last = lake.last_sequence(stream().stream);
    assert!(last <= BATCHES, "a sequence that was never sent: {last}");
    for event in lake.query(&EventQuery::default()).expect("a damaged log can be asked") {
        drop(event);
    }
    // What was acknowledged goes on from where it is, without a gap or a double.
    lake.append(&stream(), BATCHES + 1, &[]).expect("the log goes on");
    lake.sync().expect("and keeps");
    assert_eq!(lake.last_sequence(stream().stream), BATCHES + 1);
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
