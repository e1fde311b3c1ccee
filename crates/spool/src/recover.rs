//! Opening a spool: what a kill, a power cut or a bad disk has left.
//!
//! Every segment is read from end to end. Good records stay, damaged stretches between them are skipped and counted. What a
//! cut-short write leaves behind the last good record of the newest segment was never acknowledged, and is truncated.

use std::collections::VecDeque;
use std::fs::File;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::ops::Range;
use std::path::PathBuf;

use crate::cursor::{self, Stored};
use crate::directory::{self, Directory};
use crate::error::SpoolError;
use crate::gaps::Gaps;
use crate::record::LEAST_RECORD;
use crate::segment::{self, MAGIC, SEGMENT_HEADER, Segment};
use crate::window::Window;

/// How many files that are no segments are named.
const MOST_NAMED: usize = 64;

/// What `Spool::open` found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Recovery {
    /// Records that wait to be delivered.
    pub records: u64,
    /// Bytes of the segments they are in.
    pub bytes: u64,
    /// Bytes of writes that were cut short, and were never acknowledged; they are gone.
    pub torn_bytes: u64,
    /// Bytes that are no record and no torn write: skipped, or gone with a segment that held nothing else. Those skipped are
    /// counted by each opening until their segment goes.
    pub damaged_bytes: u64,
    /// Numbers between the oldest record and the newest that no good record has and that were not released. The records lost to
    /// damage, or more where damage hides how many there were.
    pub missing_records: u64,
    /// What was released is not known: all that is there is delivered again.
    pub cursor_damaged: bool,
    /// Files in the directory that are not the spool's, or are segments of another version or without a readable record.
    /// Left alone, and outside every limit. The first 64 of them.
    pub foreign: Vec<PathBuf>,
    /// How many there are.
    pub foreign_files: u64,
}

impl Recovery {
    fn name_foreign(&mut self, path: PathBuf) {
        self.foreign_files += 1;
        if self.foreign.len() < MOST_NAMED {
            self.foreign.push(path);
        }
    }
}

/// What the spool goes on from.
#[derive(Debug)]
pub(crate) struct Recovered {
    pub(crate) segments: VecDeque<Segment>,
    /// The newest segment, when more may be appended to it.
    pub(crate) writer: Option<File>,
    pub(crate) next: u64,
    pub(crate) released: u64,
    pub(crate) salt: u32,
    /// The cursor file says what `released` says.
    pub(crate) cursor_stored: bool,
}

/// Reads everything in the directory. Only a directory that cannot be worked with is an error.
pub(crate) fn recover(directory: &Directory) -> Result<(Recovered, Recovery), SpoolError> {
    let contents = directory.tidy()?;
    let mut recovery = Recovery::default();
    contents.foreign.into_iter().for_each(|path| recovery.name_foreign(path));
    let stored = cursor::read(&directory.path);
    recovery.cursor_damaged = stored == Stored::Damaged;
    let (released, salt) = match stored {
        Stored::Good(cursor) => (cursor.released, cursor.salt),
        Stored::Missing | Stored::Damaged => {
            let salts = contents.segments.iter().filter_map(|first| salt_of(directory, *first));
            (0, salts.into_iter().next().unwrap_or_else(new_salt))
        }
    };
    let found = Recovered {
        segments: VecDeque::new(),
        writer: None,
        next: 1,
        released,
        salt,
        cursor_stored: matches!(stored, Stored::Good(_)),
    };
    let mut opening = Opening { directory, found, recovery };
    let newest = contents.segments.last().copied();
    for first in contents.segments {
        opening.segment(first, Some(first) == newest)?;
    }
    let Opening { mut found, recovery, .. } = opening;
    if found.next <= found.released {
        // A power cut took segments whose records were delivered. Numbers go on behind those, in a segment of their own.
        found.next = found.released + 1;
        found.writer = None;
    }
    Ok((found, recovery))
}

/// A number that nobody who writes records can know. `RandomState` is seeded by the kernel, and unlike a read of the kernel's
/// random bytes it neither fails nor waits early at boot.
fn new_salt() -> u32 {
    let random = RandomState::new().hash_one(std::process::id());
    u32::try_from(random >> 32).expect("half of 64 bits")
}

fn salt_of(directory: &Directory, first: u64) -> Option<u32> {
    let mut window = Window::new(directory::open(&segment::path(&directory.path, first)).ok()?);
    let header = window.bytes(0, SEGMENT_HEADER, SEGMENT_HEADER as u64).ok()?;
    segment::salt_in_header(header.first_chunk()?, first)
}

struct Opening<'a> {
    directory: &'a Directory,
    found: Recovered,
    recovery: Recovery,
}

impl Opening<'_> {
    /// Takes in one file, oldest first.
    fn segment(&mut self, first: u64, newest: bool) -> Result<(), SpoolError> {
        let path = segment::path(&self.directory.path, first);
        let Ok((mut window, file_bytes)) = open(&path) else {
            self.recovery.name_foreign(path);
            return Ok(());
        };
        let header = window.bytes(0, SEGMENT_HEADER, file_bytes).ok().and_then(|bytes| bytes.first_chunk());
        let Some(header) = header.copied() else {
            return self.without_header(path, &mut window, file_bytes);
        };
        if segment::is_other_version(&header) {
            self.recovery.name_foreign(path);
            return Ok(());
        }
        let salt = segment::salt_in_header(&header, first);
        let begin = first.max(self.found.next);
        let mut segment = Segment {
            first,
            begin,
            next: begin,
            end: SEGMENT_HEADER as u64,
            file_bytes,
            salt: salt.unwrap_or(self.found.salt),
            gaps: Gaps::default(),
            synced: false,
        };
        let readable = self.records(&mut window, &mut segment).is_ok();
        let empty = segment.next == begin;
        let ours = readable && segment::is_like_header(&header, first);
        // The newest stays without a record, too: it knows the numbers.
        if empty && !(newest && ours) {
            return self.without_record(path, &mut window, file_bytes, ours);
        }
        if !self.found.segments.is_empty() {
            self.missing(self.found.next..begin);
        }
        self.found.next = segment.next;
        if newest && readable {
            self.tail(window, &mut segment, salt.is_some())?;
        } else {
            self.recovery.damaged_bytes += file_bytes - segment.end;
        }
        self.found.segments.push_back(segment);
        Ok(())
    }

    /// Walks over the good records; an error is a place that cannot be read.
    fn records(&mut self, window: &mut Window, segment: &mut Segment) -> io::Result<()> {
        while let Some(found) = window.find(segment.end, segment.file_bytes, segment.next, segment.salt)? {
            self.recovery.damaged_bytes += found.at - segment.end;
            self.missing(segment.next..found.number);
            segment.gaps.found(segment.next..found.number);
            segment.next = found.number + 1;
            segment.end = found.end();
        }
        Ok(())
    }

    /// Cuts off what a cut-short write left behind the last good record of the newest segment, and goes on in it if all is well.
    /// Other bytes there may have been records, which may have been delivered: they stay as the witness of their
    /// numbers, which are not given again.
    fn tail(&mut self, mut window: Window, segment: &mut Segment, sound: bool) -> Result<(), SpoolError> {
        let bytes = segment.file_bytes - segment.end;
        let lost = lost_in_tail(&mut window, segment.end, segment.file_bytes, segment.next).unwrap_or(1);
        if lost > 0 {
            self.found.next = segment.next.saturating_add(lost);
            self.missing(segment.next..self.found.next);
            self.recovery.damaged_bytes += bytes;
            return Ok(());
        }
        self.recovery.torn_bytes += bytes;
        let file = window.into_file();
        if bytes > 0 {
            let path = segment.path(&self.directory.path);
            file.set_len(segment.end).map_err(SpoolError::io("truncate the torn end of", &path))?;
            segment.file_bytes = segment.end;
        }
        self.found.writer = sound.then_some(file);
        Ok(())
    }

    /// A file too short for a header: what a power cut leaves of a new segment, or none of ours.
    fn without_header(&mut self, path: PathBuf, window: &mut Window, bytes: u64) -> Result<(), SpoolError> {
        let length = usize::try_from(bytes).unwrap_or(usize::MAX).min(SEGMENT_HEADER - 1);
        let begun = window.bytes(0, length, bytes).is_ok_and(|found| {
            found.iter().all(|byte| *byte == 0)
                || found.iter().zip(MAGIC).all(|(found, magic)| *found == magic)
        });
        if bytes < SEGMENT_HEADER as u64 && begun {
            self.recovery.torn_bytes += bytes;
            return directory::remove(&path);
        }
        self.recovery.name_foreign(path);
        Ok(())
    }

    /// A file without one good record: it goes if it is ours, or it would stay for ever, outside the limit.
    fn without_record(
        &mut self,
        path: PathBuf,
        window: &mut Window,
        bytes: u64,
        ours: bool,
    ) -> Result<(), SpoolError> {
        if ours || window.is_zero(0, bytes).is_ok_and(|zero| zero) {
            self.recovery.damaged_bytes += bytes - if ours { SEGMENT_HEADER as u64 } else { 0 };
            return directory::remove(&path);
        }
        self.recovery.name_foreign(path);
        Ok(())
    }

    fn missing(&mut self, numbers: Range<u64>) {
        let from = numbers.start.max(self.found.released + 1);
        self.recovery.missing_records += numbers.end.saturating_sub(from);
    }
}

fn open(path: &std::path::Path) -> io::Result<(Window, u64)> {
    let file = directory::open(path)?;
    let bytes = file.metadata()?.len();
    Ok((Window::new(file), bytes))
}

/// How many records may have been in `from..end`, which holds no good one: none when it looks like the beginning of the record
/// `number`, or like zeros, since a write that was cut short leaves those.
fn lost_in_tail(window: &mut Window, from: u64, end: u64, number: u64) -> io::Result<u64> {
    let (mut at, mut lost) = (from, 0);
    while let Some(head) = window.head(at, end)? {
        if !head.possible() || Some(head.number) != number.checked_add(lost) {
            let hidden = if window.is_zero(at, end)? { 0 } else { (end - at) / LEAST_RECORD + 1 };
            return Ok(lost + hidden);
        }
        let whole = head.whole() as u64;
        if whole > end - at {
            break;
        }
        // Whole, and still not good: its header says that it was one record.
        at += whole;
        lost += 1;
    }
    Ok(lost)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;
    use crate::record::RECORD_HEADER;
    use crate::{Spool, SpoolSettings, WhenFull};

    const PAYLOAD: usize = 100;
    const WHOLE: usize = RECORD_HEADER + PAYLOAD;

    fn settings(dir: &Path) -> SpoolSettings {
        SpoolSettings { segment_bytes: 4096, ..SpoolSettings::new(dir, WhenFull::DropNewest) }
    }

    fn payload(number: u64) -> Vec<u8> {
        vec![u8::try_from(number).unwrap(); PAYLOAD]
    }

    fn open(dir: &Path) -> (Spool, Recovery) {
        Spool::open(settings(dir)).unwrap()
    }

    /// A spool with the records 1 to `last`.
    fn filled(last: u64) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let (mut spool, _) = open(dir.path());
        (1..=last).for_each(|number| assert_eq!(appended(&mut spool, number), number));
        dir
    }

    fn segments(dir: &Path) -> Vec<PathBuf> {
        let names = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
        let mut segments: Vec<_> = names.filter(|path| path.extension() == Some("spool".as_ref())).collect();
        segments.sort();
        segments
    }

    fn numbers(spool: &mut Spool) -> Vec<u64> {
        let mut numbers = Vec::new();
        while let Some((number, record)) = spool.next().unwrap() {
            assert_eq!(record, payload(number));
            numbers.push(number);
        }
        numbers
    }

    fn change(path: &Path, at: usize, byte: u8) {
        let mut bytes = fs::read(path).unwrap();
        bytes[at] ^= byte;
        fs::write(path, bytes).unwrap();
    }

    fn appended(spool: &mut Spool, number: u64) -> u64 {
        match spool.append(&payload(number), &mut |_, _| ()).unwrap() {
            crate::Appended::Stored { number } => number,
            crate::Appended::Refused => panic!("refused"),
        }
    }

    #[test]
    fn a_torn_end_is_cut_off_wherever_it_was_torn_and_its_number_is_given_again() {
        for left in 1..WHOLE {
            let dir = filled(5);
            let newest = &segments(dir.path())[0];
            let bytes = fs::read(newest).unwrap();
            fs::write(newest, &bytes[..bytes.len() - WHOLE + left]).unwrap();
            let (mut spool, recovery) = open(dir.path());
            let expected = Recovery {
                records: 4,
                bytes: (SEGMENT_HEADER + 4 * WHOLE) as u64,
                torn_bytes: left as u64,
                ..Recovery::default()
            };
            assert_eq!(recovery, expected, "{left}");
            assert_eq!(appended(&mut spool, 5), 5);
            assert_eq!(numbers(&mut spool), [1, 2, 3, 4, 5]);
        }
    }

    #[test]
    fn one_damaged_byte_costs_one_record_wherever_it_is() {
        let dir = filled(40);
        let good = fs::read(&segments(dir.path())[0]).unwrap();
        let held = (good.len() - SEGMENT_HEADER) / WHOLE;
        assert!(segments(dir.path()).len() == 2 && held > 30);
        for at in (0..SEGMENT_HEADER + 2 * WHOLE).step_by(3) {
            fs::write(&segments(dir.path())[0], &good).unwrap();
            change(&segments(dir.path())[0], at, 0x10);
            let (mut spool, recovery) = open(dir.path());
            // The salt is in the cursor too, so that a damaged header costs nothing.
            let lost = at.checked_sub(SEGMENT_HEADER).map(|at| 1 + (at / WHOLE) as u64);
            let expected: Vec<u64> = (1..=40).filter(|number| Some(*number) != lost).collect();
            assert_eq!(numbers(&mut spool), expected, "byte {at}");
            assert_eq!(recovery.missing_records, u64::from(lost.is_some()));
            assert_eq!(recovery.damaged_bytes, lost.map_or(0, |_| WHOLE as u64));
            assert_eq!((recovery.records, spool.held().records), (expected.len() as u64, recovery.records));
            assert_eq!(spool.counters().damaged, 0, "what recovery counts is not counted again");
        }
    }

    #[test]
    fn the_number_of_a_damaged_last_record_is_not_given_again() {
        let dir = filled(3);
        change(&segments(dir.path())[0], SEGMENT_HEADER + 3 * WHOLE - 1, 1);
        let (mut spool, recovery) = open(dir.path());
        assert_eq!((recovery.missing_records, recovery.damaged_bytes), (1, WHOLE as u64));
        spool.release(2).unwrap();
        // Not by a later opening either, with nothing appended and nothing left that waits.
        drop(spool);
        let (mut spool, recovery) = open(dir.path());
        assert_eq!((recovery.records, recovery.missing_records), (0, 1));
        assert_eq!(appended(&mut spool, 4), 4);
        drop(spool);
        let (mut spool, recovery) = open(dir.path());
        assert_eq!((recovery.missing_records, recovery.damaged_bytes), (0, 0));
        assert_eq!(numbers(&mut spool), [4]);
    }

    #[test]
    fn without_cursor_and_salt_the_other_segments_give_the_salt_and_all_is_read_again() {
        let dir = filled(40);
        change(&segments(dir.path())[0], 20, 1);
        fs::write(dir.path().join(cursor::CURSOR), b"no cursor").unwrap();
        let (mut spool, recovery) = open(dir.path());
        assert!(recovery.cursor_damaged && recovery.records == 40);
        assert_eq!(numbers(&mut spool), (1..=40).collect::<Vec<_>>());
    }

    #[test]
    fn files_that_are_no_segments_stay_and_are_named() {
        let dir = filled(40);
        let place = |name: &str| dir.path().join(name);
        let mut later = segment::header(0x50, 3);
        later[7] = 2;
        let sum = crate::record::checksum(0, &later[..20], &[]);
        later[20..].copy_from_slice(&sum.to_le_bytes());
        let foreign = [
            ("0000000000000001.spool.bak", b"x".to_vec()),
            ("0000000000000002.spool", vec![b'#'; 5000]),
            ("0000000000000029.spool", b"short".to_vec()),
            ("0000000000000050.spool", later.to_vec()),
            ("notes.tmp", b"mine".to_vec()),
        ];
        foreign.iter().for_each(|(name, bytes)| fs::write(place(name), bytes).unwrap());
        fs::create_dir(place("0000000000000030.spool")).unwrap();
        std::os::unix::fs::symlink("/dev/zero", place("0000000000000031.spool")).unwrap();
        (0..100).for_each(|n| fs::write(place(&format!("other-{n}")), b"x").unwrap());
        for leftover in ["cursor.tmp", "0000000000000007.spool.tmp", "ffffffffffffffff.spool"] {
            fs::write(place(leftover), b"WF").unwrap();
        }
        let (mut spool, recovery) = open(dir.path());
        assert_eq!((recovery.foreign_files, recovery.foreign.len()), (107, MOST_NAMED));
        assert_eq!((recovery.records, recovery.missing_records), (40, 0));
        // 0x29 is taken, by a file that is not ours.
        (42..82).for_each(|number| assert_eq!(appended(&mut spool, number), number));
        spool.release(40).unwrap();
        drop(spool);
        assert!(foreign.iter().all(|(name, bytes)| fs::read(place(name)).unwrap() == *bytes));
        assert!(place("0000000000000030.spool").is_dir() && !place("cursor.tmp").exists());
        assert!(!place("0000000000000007.spool.tmp").exists() && !place("ffffffffffffffff.spool").exists());
        assert_eq!(open(dir.path()).1.records, 40);
    }

    #[test]
    fn a_power_cut_that_leaves_zeros_or_only_the_cursor_is_no_damage_to_what_is_there() {
        let dir = filled(3);
        let path = segments(dir.path())[0].clone();
        let bytes = fs::read(&path).unwrap();
        fs::write(&path, [&bytes[..], &[0; 5000]].concat()).unwrap();
        let (mut spool, recovery) = open(dir.path());
        assert_eq!((recovery.records, recovery.torn_bytes, recovery.damaged_bytes), (3, 5000, 0));
        spool.release(3).unwrap();
        drop(spool);
        fs::remove_file(&path).unwrap();
        fs::write(segment::path(dir.path(), 9), [0; 10]).unwrap();
        let (mut spool, recovery) = open(dir.path());
        assert_eq!(recovery, Recovery { torn_bytes: 10, ..Recovery::default() });
        assert_eq!(appended(&mut spool, 4), 4, "numbers go on behind what was released");
    }
}
