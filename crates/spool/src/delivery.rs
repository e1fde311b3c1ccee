//! Reading on, and releasing what is delivered.

use std::io;
use std::ops::Range;

use crate::directory;
use crate::error::SpoolError;
use crate::segment::{SEGMENT_HEADER, Segment};
use crate::spool::Spool;
use crate::window::{Found, Window};

/// After a kill at most this many released records are read again: the cursor file is written when this many are not in it.
/// It is also written when a segment is deleted, at `sync`, and when the spool is dropped.
pub const RELEASES_AT_RISK: u64 = 256;

/// How far the spool is read.
#[derive(Debug, Default)]
pub(crate) struct Reader {
    place: Option<Place>,
}

/// Where in a segment.
#[derive(Debug)]
struct Place {
    /// First number of the segment, by which it is found.
    segment: u64,
    at: u64,
    /// The number of the record that should be there.
    expected: u64,
    /// Its file, once something was read from it.
    window: Option<Window>,
}

impl Spool {
    /// The next record that was neither read since the last [`Spool::rewind`] (or opening) nor released, with its number; `None` when
    /// there is none at present. Records that cannot be read any more are skipped and counted.
    ///
    /// An error is a file that cannot be read: what is left in it is counted as damaged, and the next call goes on behind it.
    #[expect(clippy::should_implement_trait, reason = "there is more after `None`, and after an error")]
    pub fn next(&mut self) -> Result<Option<(u64, Vec<u8>)>, SpoolError> {
        while let Some(index) = self.reading() {
            let Some(place) = &mut self.reader.place else { return Ok(None) };
            let segment = &mut self.segments[index];
            if place.at >= segment.end {
                place.window = None;
                let Some(after) = self.segments.get(index + 1) else { return Ok(None) };
                self.reader.place = Some(Place::begin(after));
                continue;
            }
            let path = segment.path(&self.directory.path);
            let open = || directory::open(&path);
            match read_on(place, segment, self.released, open) {
                Ok((record, missing)) => {
                    self.counters.damaged += segment.gaps.met(missing);
                    if record.is_some() {
                        return Ok(record);
                    }
                }
                Err(error) => {
                    let missing = unreleased(place.expected..segment.next, self.released);
                    self.counters.damaged += segment.gaps.met(missing);
                    (place.at, place.expected) = (segment.end, segment.next);
                    return Err(SpoolError::io("read", &path)(error));
                }
            }
        }
        Ok(None)
    }

    /// Reads again from the oldest record that is not released: for a connection that was lost with records under way.
    pub fn rewind(&mut self) {
        self.reader = Reader::default();
    }

    /// Everything through this number is delivered; no more of it is read, and segments with nothing else in them are deleted. A number
    /// above the newest record's means the newest.
    ///
    /// An error is a file that could not be deleted or a cursor that could not be written; the release itself holds, and
    /// either is tried again by later calls.
    pub fn release(&mut self, through: u64) -> Result<(), SpoolError> {
        let through = through.min(self.next.saturating_sub(1));
        if through > self.released {
            let touched = self.segments.iter().take_while(|segment| segment.begin <= through);
            let delivered: u64 =
                touched.map(|segment| segment.held(self.released) - segment.held(through)).sum();
            self.counters.released += delivered;
            self.released = through;
        }
        let removed = self.remove_released()?;
        let at_risk = self.released - self.released_on_disk.unwrap_or(0);
        if (removed && at_risk > 0) || at_risk >= RELEASES_AT_RISK {
            self.write_cursor(false)?;
        }
        Ok(())
    }

    /// Which segment is read. Where that one is gone the next one is, from its beginning.
    fn reading(&mut self) -> Option<usize> {
        let wanted = self.reader.place.as_ref().map_or(0, |place| place.segment);
        let index = self.segments.partition_point(|segment| segment.first < wanted);
        let segment = self.segments.get(index)?;
        if self.reader.place.as_ref().is_none_or(|place| place.segment != segment.first) {
            self.reader.place = Some(Place::begin(segment));
        }
        Some(index)
    }
}

impl Place {
    fn begin(segment: &Segment) -> Self {
        Place { segment: segment.first, at: SEGMENT_HEADER as u64, expected: segment.begin, window: None }
    }
}

/// What one step of reading gives: a record, if it waits, and the numbers that were missing before it.
type Step = (Option<(u64, Vec<u8>)>, Range<u64>);

/// Moves past the next record of the segment, or to its end.
fn read_on(
    place: &mut Place,
    segment: &Segment,
    released: u64,
    open: impl FnOnce() -> io::Result<std::fs::File>,
) -> io::Result<Step> {
    let window = match &mut place.window {
        Some(window) => window,
        closed => closed.insert(Window::new(open()?)),
    };
    let Some(found) = window.find(place.at, segment.end, place.expected, segment.salt)? else {
        let missing = unreleased(place.expected..segment.next, released);
        (place.at, place.expected) = (segment.end, segment.next);
        return Ok((None, missing));
    };
    let record = waiting(window, &found, released)?;
    let missing = unreleased(place.expected..found.number, released);
    (place.at, place.expected) = (found.end(), found.number + 1);
    Ok((record, missing))
}

fn waiting(window: &mut Window, found: &Found, released: u64) -> io::Result<Option<(u64, Vec<u8>)>> {
    if found.number <= released {
        return Ok(None);
    }
    Ok(Some((found.number, window.payload(found)?.to_vec())))
}

/// What is released cannot be lost any more.
fn unreleased(numbers: Range<u64>, released: u64) -> Range<u64> {
    numbers.start.max(released.saturating_add(1))..numbers.end
}
