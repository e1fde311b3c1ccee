//! The spool: what is where, appending, and making room.

use std::collections::VecDeque;
use std::fs::File;
use std::os::unix::fs::FileExt;

use crate::cursor::{self, CURSOR_BYTES, Cursor};
use crate::delivery::Reader;
use crate::directory::{self, Directory};
use crate::error::SpoolError;
use crate::record::{self, MAX_RECORD, RECORD_HEADER};
use crate::recover::{self, Recovery};
use crate::segment::{self, SEGMENT_HEADER, Segment};
use crate::settings::{SpoolSettings, WhenFull};
use crate::window::Window;

/// Kept free below the limit: the cursor file, its successor while both exist, and the header of a new segment, which is made
/// before older ones go so that there is always a file that knows the numbers.
const RESERVED: u64 = (2 * CURSOR_BYTES + SEGMENT_HEADER) as u64;
/// The buffer for appending is given back down to this size.
const KEPT_BUFFER: usize = 64 << 10;
/// Foreign files in the way of new segments are passed over up to this many at once.
const MOST_IN_THE_WAY: u64 = 1024;

/// A bounded queue of records on disk; see the crate's documentation.
#[derive(Debug)]
pub struct Spool {
    pub(crate) directory: Directory,
    pub(crate) settings: SpoolSettings,
    /// Oldest first.
    pub(crate) segments: VecDeque<Segment>,
    /// Appends to the last of them; without it the next record begins a new one.
    pub(crate) writer: Option<Writer>,
    /// The number that the next record gets.
    pub(crate) next: u64,
    /// Everything through this number is delivered.
    pub(crate) released: u64,
    /// What of that the cursor file says.
    pub(crate) released_on_disk: Option<u64>,
    pub(crate) reader: Reader,
    pub(crate) counters: Counters,
    salt: u32,
    /// Bytes of all segments.
    pub(crate) bytes: u64,
    encoded: Vec<u8>,
}

/// The file that is written.
#[derive(Debug)]
pub(crate) struct Writer {
    pub(crate) file: File,
    /// A failed write left something behind the segment's end that could not be cut off yet.
    uncut: bool,
}

/// What became of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "a refused record is not stored"]
pub enum Appended {
    /// It is in the spool, under this number.
    Stored {
        /// The first is 1.
        number: u64,
    },
    /// The spool is full and keeps what it has.
    Refused,
}

/// Counts since the spool was opened. The sums close: records at opening + appended = released + evicted + damaged + held.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Records stored.
    pub appended: u64,
    /// Records refused because the spool was full.
    pub refused: u64,
    /// Records dropped to make room, and shown to the caller.
    pub evicted: u64,
    /// Records that could no longer be read after opening; what recovery missed is not among them.
    pub damaged: u64,
    /// Records released.
    pub released: u64,
}

/// What waits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Held {
    /// Records that were not released.
    pub records: u64,
    /// Bytes of the segments on disk. The newest stays when all of it is released, so this is not 0 then.
    pub bytes: u64,
}

impl Spool {
    /// Opens the spool in the settings' directory, which it makes if it is missing, and reads all of it once.
    ///
    /// Damage never ends the opening; it is counted in [`Recovery`]. Errors: a setting out of range, the directory in use by
    /// another spool, a directory that cannot be made, listed or written.
    pub fn open(settings: SpoolSettings) -> Result<(Spool, Recovery), SpoolError> {
        settings.check()?;
        let directory = Directory::take(&settings.directory)?;
        let (found, mut recovery) = recover::recover(&directory)?;
        let mut spool = Spool {
            directory,
            settings,
            bytes: found.segments.iter().map(|segment| segment.file_bytes).sum(),
            segments: found.segments,
            writer: found.writer.map(|file| Writer { file, uncut: false }),
            next: found.next,
            released: found.released,
            released_on_disk: found.cursor_stored.then_some(found.released),
            reader: Reader::default(),
            counters: Counters::default(),
            salt: found.salt,
            encoded: Vec::new(),
        };
        spool.remove_released()?;
        if spool.released_on_disk.is_none() {
            // On a full disk it is written later; until then the segments' headers know the salt.
            spool.write_cursor(false).ok();
        }
        let held = spool.held();
        (recovery.records, recovery.bytes) = (held.records, held.bytes);
        Ok((spool, recovery))
    }

    /// Stores a record of 1 to [`MAX_RECORD`] bytes. Once this returns `Stored`, a kill of the process does not lose it.
    ///
    /// When the spool is full, `WhenFull` decides. Each record that is dropped for this one and was not released is shown to
    /// `evicted` with its number, oldest first, after its file is gone: so it is neither shown twice nor delivered as well.
    ///
    /// Errors: a size that no spool of these settings holds; the disk. The spool is as before then, except for what was
    /// shown to `evicted`, and the same call may succeed later.
    pub fn append(
        &mut self,
        record: &[u8],
        evicted: &mut dyn FnMut(u64, &[u8]),
    ) -> Result<Appended, SpoolError> {
        self.check_size(record)?;
        if self.next == u64::MAX {
            return Err(SpoolError::NumbersExhausted);
        }
        self.cut_leftover()?;
        let whole = (RECORD_HEADER + record.len()) as u64;
        let fits = self.begin_segment_for(whole)? && self.make_room(whole, evicted)?;
        if !fits {
            self.counters.refused += 1;
            return Ok(Appended::Refused);
        }
        let number = self.next;
        record::encode(&mut self.encoded, self.salt, number, record);
        let written = self.write_encoded();
        // Gives back what one large record took.
        self.encoded.clear();
        self.encoded.shrink_to(KEPT_BUFFER);
        written?;
        self.counters.appended += 1;
        Ok(Appended::Stored { number })
    }

    /// Makes everything durable that was appended and released so far: from here on a power cut does not undo it.
    pub fn sync(&mut self) -> Result<(), SpoolError> {
        let newest = self.segments.len().saturating_sub(1);
        for (index, segment) in self.segments.iter_mut().enumerate().filter(|(_, segment)| !segment.synced) {
            let path = segment.path(&self.directory.path);
            let synced = match &self.writer {
                Some(writer) if index == newest => rustix::fs::fdatasync(&writer.file).map_err(Into::into),
                _ => directory::open(&path).and_then(|file| file.sync_data()),
            };
            synced.map_err(SpoolError::io("sync", &path))?;
            segment.synced = true;
        }
        self.write_cursor(true)?;
        self.directory.sync()
    }

    /// What waits. Costs a walk over the segments, not over the records.
    pub fn held(&self) -> Held {
        let records = self.segments.iter().map(|segment| segment.held(self.released)).sum();
        Held { records, bytes: self.bytes }
    }

    /// Counts since the spool was opened.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Writes the cursor file.
    pub(crate) fn write_cursor(&mut self, durable: bool) -> Result<(), SpoolError> {
        cursor::write(&self.directory.path, Cursor { released: self.released, salt: self.salt }, durable)?;
        self.released_on_disk = Some(self.released);
        Ok(())
    }

    /// Deletes the oldest segments as long as nothing in them waits. The newest stays, since it knows the numbers.
    pub(crate) fn remove_released(&mut self) -> Result<bool, SpoolError> {
        let mut removed = false;
        while self.segments.len() > 1
            && self.segments.front().is_some_and(|oldest| oldest.held(self.released) == 0)
        {
            self.remove_oldest()?;
            removed = true;
        }
        Ok(removed)
    }

    fn check_size(&self, record: &[u8]) -> Result<(), SpoolError> {
        let overhead = (SEGMENT_HEADER + RECORD_HEADER) as u64;
        let limit = (self.limit() - overhead).min(MAX_RECORD as u64);
        let bytes = record.len();
        let fits = (1..=limit).contains(&(bytes as u64));
        if fits { Ok(()) } else { Err(SpoolError::RecordSize { bytes, limit }) }
    }

    /// Whether the segment being written has room for so many bytes; an empty one takes any record.
    fn newest_takes(&self, whole: u64) -> bool {
        let newest = self.segments.back().filter(|_| self.writer.is_some());
        newest.is_some_and(|segment| {
            segment.end + whole <= self.settings.segment_bytes || segment.end == SEGMENT_HEADER as u64
        })
    }

    /// Begins a new segment if the newest does not take so many bytes. False when the spool is full and keeps what it has: then no
    /// segment is begun, or large records that are refused would leave many small segments.
    fn begin_segment_for(&mut self, whole: u64) -> Result<bool, SpoolError> {
        if self.newest_takes(whole) {
            return Ok(true);
        }
        let all_released = self.segments.iter().all(|segment| segment.held(self.released) == 0);
        let kept = if all_released { 0 } else { self.bytes };
        if self.settings.when_full == WhenFull::DropNewest
            && kept + SEGMENT_HEADER as u64 + whole > self.limit()
        {
            return Ok(false);
        }
        self.begin_segment()?;
        self.remove_released()?;
        Ok(true)
    }

    /// Sees to it that so many more bytes stay below the limit; says whether they do.
    fn make_room(&mut self, whole: u64, evicted: &mut dyn FnMut(u64, &[u8])) -> Result<bool, SpoolError> {
        while self.bytes + whole > self.limit() {
            if self.settings.when_full == WhenFull::DropNewest || self.segments.len() <= 1 {
                return Ok(false);
            }
            self.evict_oldest(evicted)?;
        }
        Ok(true)
    }

    /// What all segments together may take.
    fn limit(&self) -> u64 {
        self.settings.max_bytes - RESERVED
    }

    /// Drops the oldest segment, and shows what was lost with it.
    fn evict_oldest(&mut self, evicted: &mut dyn FnMut(u64, &[u8])) -> Result<(), SpoolError> {
        let Some(oldest) = self.segments.front() else { return Ok(()) };
        let file = directory::open(&oldest.path(&self.directory.path));
        let Some(gone) = self.remove_oldest()? else { return Ok(()) };
        let waiting = gone.held(self.released);
        let mut shown = 0;
        if let Ok(file) = file {
            let mut show = |number, record: &[u8]| {
                shown += 1;
                evicted(number, record);
            };
            // What cannot be read is lost too; it is counted below.
            show_waiting(file, &gone, self.released, &mut show).ok();
        }
        self.counters.evicted += shown;
        self.counters.damaged += waiting.saturating_sub(shown);
        Ok(())
    }

    /// Deletes the oldest segment.
    fn remove_oldest(&mut self) -> Result<Option<Segment>, SpoolError> {
        let Some(oldest) = self.segments.front() else { return Ok(None) };
        directory::remove(&oldest.path(&self.directory.path))?;
        self.bytes -= oldest.file_bytes;
        Ok(self.segments.pop_front())
    }

    fn begin_segment(&mut self) -> Result<(), SpoolError> {
        let dir = &self.directory.path;
        let mut free = self.next..self.next.saturating_add(MOST_IN_THE_WAY);
        // A file that is not ours may have the name; its number is passed over.
        let first = free.find(|first| std::fs::symlink_metadata(segment::path(dir, *first)).is_err());
        let first = first.ok_or(SpoolError::NumbersExhausted)?;
        let (segment, file) = Segment::create(dir, first, self.salt)?;
        self.next = first;
        self.bytes += segment.file_bytes;
        self.segments.push_back(segment);
        self.writer = Some(Writer { file, uncut: false });
        Ok(())
    }

    fn write_encoded(&mut self) -> Result<(), SpoolError> {
        let (Some(segment), Some(writer)) = (self.segments.back_mut(), &mut self.writer) else {
            unreachable!("a segment takes the record, or was begun for it");
        };
        if let Err(error) = writer.file.write_all_at(&self.encoded, segment.end) {
            writer.uncut = writer.file.set_len(segment.end).is_err();
            return Err(SpoolError::io("append to", &segment.path(&self.directory.path))(error));
        }
        let whole = self.encoded.len() as u64;
        segment.end += whole;
        segment.file_bytes = segment.end;
        segment.next += 1;
        segment.synced = false;
        self.bytes += whole;
        self.next = segment.next;
        Ok(())
    }

    /// Cuts off what an earlier failure left behind the newest segment's end.
    fn cut_leftover(&mut self) -> Result<(), SpoolError> {
        let (Some(segment), Some(writer)) = (self.segments.back(), &mut self.writer) else { return Ok(()) };
        if writer.uncut {
            let path = segment.path(&self.directory.path);
            writer.file.set_len(segment.end).map_err(SpoolError::io("cut off a failed write to", &path))?;
            writer.uncut = false;
        }
        Ok(())
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        if self.released_on_disk != Some(self.released) {
            // Without it some records are delivered again; there is nobody left to tell.
            self.write_cursor(false).ok();
        }
    }
}

/// Shows each record of a segment that was not released.
fn show_waiting(
    file: File,
    segment: &Segment,
    released: u64,
    show: &mut dyn FnMut(u64, &[u8]),
) -> std::io::Result<()> {
    let mut window = Window::new(file);
    let (mut at, mut floor) = (SEGMENT_HEADER as u64, segment.begin);
    while let Some(found) = window.find(at, segment.end, floor, segment.salt)? {
        if found.number > released {
            show(found.number, window.payload(&found)?);
        }
        (at, floor) = (found.end(), found.number + 1);
    }
    Ok(())
}
