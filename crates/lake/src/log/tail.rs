//! Reading the log: a snapshot of what lies from one offset to another, and a reader over it that needs no lock.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::record::{self, NoRecord, Record};
use crate::error::LakeError;

/// Read at once: some batches of the usual size.
const WINDOW: usize = 1 << 20;

/// Where a record lies: which piece of a [`Tail`], and at which byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Place {
    pub(crate) piece: usize,
    pub(crate) byte: u64,
}

/// One segment's share. The open file keeps its bytes readable after the segment was deleted.
#[derive(Debug, Clone)]
pub(crate) struct Piece {
    pub(crate) path: PathBuf,
    pub(crate) file: Arc<File>,
    pub(crate) first: u64,
    pub(crate) begin: u64,
    pub(crate) end: u64,
    pub(crate) holes: Arc<Vec<Range<u64>>>,
    pub(crate) damaged: Arc<AtomicBool>,
}

/// The log from one offset on, as it was at one moment.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tail {
    pub(crate) pieces: Vec<Piece>,
    /// Offset of the first record.
    pub(crate) from: u64,
    /// Offset after the last.
    pub(crate) to: u64,
}

/// Reads a tail from front to back.
#[derive(Debug)]
pub(crate) struct TailReader<'a> {
    tail: &'a Tail,
    place: Place,
    window: Window,
}

#[derive(Debug, Default)]
struct Window {
    piece: usize,
    begin: u64,
    bytes: Vec<u8>,
}

impl Tail {
    pub(crate) fn reader(&self) -> TailReader<'_> {
        let byte = self.pieces.first().map_or(0, |piece| piece.begin);
        TailReader { tail: self, place: Place { piece: 0, byte }, window: Window::default() }
    }
}

impl TailReader<'_> {
    /// Where the next record begins, or the end: where a later snapshot has to go on.
    pub(crate) fn place(&self) -> Place {
        self.place
    }

    /// Goes to a record found earlier in the same tail.
    pub(crate) fn seek(&mut self, place: Place) {
        self.place = place;
    }

    /// Whether everything was read.
    pub(crate) fn at_end(&self) -> bool {
        self.place.piece >= self.tail.pieces.len()
    }

    /// The next record, and where it lies. Bytes that went bad since the log was opened are reported and passed over; the
    /// segment is then kept when it is archived.
    pub(crate) fn next_record(&mut self) -> Result<Option<(Place, Record<'_>)>, LakeError> {
        let (place, length) = loop {
            let Some(place) = self.skip_to_record() else { return Ok(None) };
            match self.whole_record(place)? {
                Ok(length) => break (place, length),
                Err(no) => self.pass_over(place, no)?,
            }
        };
        self.place.byte += length as u64;
        let (record, _) = record::parse(self.window.at(place.byte))
            .map_err(|no| damaged(&self.tail.pieces[place.piece], place, no))?;
        Ok(Some((place, record)))
    }

    /// Reads the record at `place` into the window, and says how long it is.
    fn whole_record(&mut self, place: Place) -> Result<Result<usize, NoRecord>, LakeError> {
        let piece = &self.tail.pieces[place.piece];
        self.window.load(place, piece, record::HEADER)?;
        let length = match record::length(self.window.at(place.byte)) {
            Ok(length) => length,
            Err(no) => return Ok(Err(no)),
        };
        self.window.load(place, piece, length)?;
        Ok(record::parse(self.window.at(place.byte)).map(|(_, length)| length))
    }

    fn pass_over(&mut self, place: Place, no: NoRecord) -> Result<(), LakeError> {
        let piece = &self.tail.pieces[place.piece];
        let error = damaged(piece, place, no);
        tracing::error!(%error, "a record of the event log went bad; passed over");
        piece.damaged.store(true, Ordering::Relaxed);
        self.window.load(place, piece, usize::try_from(piece.end - place.byte).unwrap_or(usize::MAX))?;
        let rest = self.window.at(place.byte);
        let good = (1..rest.len())
            .find(|at| rest[*at..].starts_with(&record::MAGIC) && record::parse(&rest[*at..]).is_ok());
        self.place.byte = good.map_or(piece.end, |at| place.byte + at as u64);
        Ok(())
    }

    fn skip_to_record(&mut self) -> Option<Place> {
        loop {
            let piece = self.tail.pieces.get(self.place.piece)?;
            let hole = piece.holes.iter().find(|hole| hole.contains(&self.place.byte));
            if let Some(hole) = hole {
                self.place.byte = hole.end;
            } else if self.place.byte >= piece.end {
                let piece = self.place.piece + 1;
                let byte = self.tail.pieces.get(piece).map_or(0, |next| next.begin);
                self.place = Place { piece, byte };
            } else {
                return Some(self.place);
            }
        }
    }
}

impl Window {
    /// Makes `needed` bytes from `place` on be there, as far as the piece has them.
    fn load(&mut self, place: Place, piece: &Piece, needed: usize) -> Result<(), LakeError> {
        let wanted = (needed as u64).min(piece.end.saturating_sub(place.byte));
        let held = self.begin + self.bytes.len() as u64;
        if self.piece == place.piece && self.begin <= place.byte && place.byte + wanted <= held {
            return Ok(());
        }
        let length = wanted.max(WINDOW as u64).min(piece.end.saturating_sub(place.byte));
        self.bytes.resize(usize::try_from(length).expect("a record fits in memory"), 0);
        (self.piece, self.begin) = (place.piece, place.byte);
        let read = piece.file.read_exact_at(&mut self.bytes, place.byte);
        if read.is_err() {
            self.bytes.clear();
        }
        read.map_err(LakeError::io("read the event log", &piece.path))
    }

    fn at(&self, byte: u64) -> &[u8] {
        let skipped = usize::try_from(byte.saturating_sub(self.begin)).unwrap_or(usize::MAX);
        self.bytes.get(skipped..).unwrap_or_default()
    }
}

fn damaged(piece: &Piece, place: Place, no: NoRecord) -> LakeError {
    let what = match no {
        NoRecord::Short(_) => "a record that goes past the end",
        NoRecord::Damaged(what) => what,
    };
    LakeError::Damaged { path: piece.path.clone(), position: place.byte, what }
}
