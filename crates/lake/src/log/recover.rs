//! What is in a segment after a crash: its good records, the damaged stretches between them, and the torn end.

use std::fs::{File, OpenOptions};
use std::io::Read;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use super::record::{self, MAGIC, NoRecord, Record};
use super::segment::{SEGMENT_HEADER, Segment, header};
use crate::error::{LakeError, LakeFault};

/// A segment as recovery found it.
#[derive(Debug)]
pub(crate) struct Recovered {
    pub(crate) segment: Segment,
    /// Nothing in it is out of order; more may be appended.
    pub(crate) sound: bool,
    /// Byte of the first record that is not archived.
    pub(crate) tail_begin: u64,
}

/// Reads a segment from end to end, hands every record from `archived` on to `visit`, and says what is in it. Bytes behind the
/// last good record of the newest segment are what a crash leaves: they were never acknowledged, and are truncated. Damage
/// anywhere else is reported and kept. `None` when it holds no record at all.
pub(crate) fn recover(
    path: &Path,
    first: u64,
    newest: bool,
    archived: u64,
    visit: &mut dyn FnMut(&Record<'_>),
    faults: &mut Vec<LakeFault>,
) -> Result<Option<Recovered>, LakeError> {
    let attempt = "read a segment of the event log";
    let mut file =
        OpenOptions::new().read(true).write(true).open(path).map_err(LakeError::io(attempt, path))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).map_err(LakeError::io(attempt, path))?;
    let scan = scan(&bytes, first, archived, visit);
    let torn = (bytes.len() as u64).saturating_sub(scan.end);
    if scan.next == first && !(scan.header_sound && newest) {
        return Ok(None);
    }
    let mut sound = scan.holes.is_empty() && scan.header_sound;
    for hole in &scan.holes {
        let problem =
            format!("{} bytes at {} are no record; kept and skipped", hole.end - hole.start, hole.start);
        LakeFault::report(faults, path, problem);
    }
    if !scan.header_sound && scan.next > first {
        LakeFault::report(faults, path, "the segment's header is damaged; its records are read".to_owned());
    }
    if torn > 0 && newest {
        keep_if_unlike_torn(path, &bytes, scan.end, faults)?;
        tracing::warn!(
            file = %path.display(), offset = scan.end, bytes = torn,
            "torn end of the event log truncated; it was never acknowledged"
        );
        file.set_len(scan.end).map_err(LakeError::io("truncate the torn end of", path))?;
    } else if torn > 0 {
        sound = false;
        LakeFault::report(
            faults,
            path,
            format!("{torn} bytes at {} are no record; kept and skipped", scan.end),
        );
    }
    let segment = Segment {
        path: path.to_owned(),
        file: Arc::new(file),
        first,
        next: scan.next,
        end: scan.end,
        damaged: Arc::new(AtomicBool::new(!sound)),
        holes: Arc::new(scan.holes),
    };
    Ok(Some(Recovered { segment, sound, tail_begin: scan.tail_begin.unwrap_or(scan.end) }))
}

/// A write that was cut short leaves the beginning of a record, or zeros. Anything else behind the last good record is damage,
/// perhaps of a record that was acknowledged: a copy is kept.
fn keep_if_unlike_torn(
    path: &Path,
    bytes: &[u8],
    end: u64,
    faults: &mut Vec<LakeFault>,
) -> Result<(), LakeError> {
    let rest = usize::try_from(end).ok().and_then(|end| bytes.get(end..)).unwrap_or_default();
    let torn = matches!(record::parse(rest), Err(NoRecord::Short(_))) || rest.iter().all(|byte| *byte == 0);
    if torn {
        return Ok(());
    }
    let copy = path.with_extension(format!("seg.{end}.damaged"));
    std::fs::write(&copy, rest).map_err(LakeError::io("keep a copy of damaged bytes in", &copy))?;
    LakeFault::report(
        faults,
        path,
        format!("{} bytes at {end} are no record; kept in {}", rest.len(), copy.display()),
    );
    Ok(())
}

/// Whether nothing but a header, or less, was ever written.
pub(crate) fn is_empty_segment(path: &Path) -> bool {
    File::open(path).and_then(|file| file.metadata()).is_ok_and(|metadata| metadata.len() <= SEGMENT_HEADER)
}

struct Scan {
    header_sound: bool,
    next: u64,
    end: u64,
    holes: Vec<Range<u64>>,
    tail_begin: Option<u64>,
}

fn scan(bytes: &[u8], first: u64, archived: u64, visit: &mut dyn FnMut(&Record<'_>)) -> Scan {
    let skip = usize::try_from(SEGMENT_HEADER).expect("16");
    let header_sound = bytes.get(..skip) == Some(&header(first)[..]);
    let mut found =
        Scan { header_sound, next: first, end: SEGMENT_HEADER, holes: Vec::new(), tail_begin: None };
    let mut at = skip;
    while at < bytes.len() {
        let good = match record::parse(&bytes[at..]) {
            // Offsets grow; one that does not is a stale record behind a crash, or a forgery.
            Ok((record, length)) if record.offset >= found.next => Some((record, length)),
            Ok(_) | Err(NoRecord::Short(_) | NoRecord::Damaged(_)) => None,
        };
        let Some((record, length)) = good else {
            at = next_magic(bytes, at + 1);
            continue;
        };
        if at as u64 > found.end {
            found.holes.push(found.end..at as u64);
        }
        if record.offset >= archived {
            found.tail_begin.get_or_insert(at as u64);
            visit(&record);
        }
        at += length;
        found.next = record.offset + 1;
        found.end = at as u64;
    }
    found
}

fn next_magic(bytes: &[u8], from: usize) -> usize {
    let rest = bytes.get(from..).unwrap_or_default();
    rest.windows(MAGIC.len()).position(|window| window == MAGIC).map_or(bytes.len(), |found| from + found)
}
