//! The segments together: append, roll, cap, and forget what is archived.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use watchfire_event::UnixNanos;

use super::record::{self, MAX_BATCH, Record};
use super::recover::{Recovered, is_empty_segment, recover};
use super::segment::{SEGMENT_HEADER, Segment, offset_in_name};
use super::tail::{Piece, Place, Tail};
use crate::disk;
use crate::error::{LakeError, LakeFault};
use crate::settings::LakeSettings;
use crate::streams::StreamMeta;

/// The log. Whoever owns it serialises the calls.
#[derive(Debug)]
pub(crate) struct EventLog {
    dir: PathBuf,
    segment_bytes: u64,
    max_bytes: u64,
    /// Oldest first; the last one takes the appends, if `appendable`.
    segments: VecDeque<Segment>,
    appendable: bool,
    next: u64,
    /// Everything below is in Parquet files.
    archived: u64,
    /// Where `archived` begins in the first segment that holds it.
    tail_begin: Begin,
    durable: u64,
    unsynced: Vec<(PathBuf, Arc<File>)>,
    unsynced_names: bool,
    failed: Option<(PathBuf, String)>,
    buffer: Vec<u8>,
}

/// A byte in a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Begin {
    segment: u64,
    byte: u64,
}

/// What has to reach the disk before everything below `to` is durable.
#[derive(Debug)]
pub(crate) struct SyncWork {
    files: Vec<(PathBuf, Arc<File>)>,
    dir: Option<PathBuf>,
    pub(crate) to: u64,
}

impl SyncWork {
    /// Runs it. Needs no lock: appends go on meanwhile.
    pub(crate) fn run(&self) -> Result<(), LakeError> {
        for (path, file) in &self.files {
            file.sync_data().map_err(LakeError::io("sync", path))?;
        }
        self.dir.as_deref().map_or(Ok(()), disk::sync_dir)
    }
}

impl EventLog {
    /// Opens the log in `dir`. Everything below `archived` is in Parquet files; every record from there on is handed to
    /// `visit`, in order.
    pub(crate) fn open(
        dir: &Path,
        archived: u64,
        settings: &LakeSettings,
        visit: &mut dyn FnMut(&Record<'_>),
        faults: &mut Vec<LakeFault>,
    ) -> Result<EventLog, LakeError> {
        let mut log = EventLog {
            dir: dir.to_owned(),
            segment_bytes: settings.segment_bytes,
            max_bytes: settings.log_max_bytes,
            segments: VecDeque::new(),
            appendable: false,
            next: archived,
            archived,
            tail_begin: Begin { segment: 0, byte: SEGMENT_HEADER },
            durable: archived,
            unsynced: Vec::new(),
            unsynced_names: true,
            failed: None,
            buffer: Vec::new(),
        };
        log.recover_segments(visit, faults)?;
        // A process that was killed may have left bytes in the page cache only; they count as stored from here on.
        let work = log.take_unsynced();
        work.run()?;
        log.durable = work.to;
        Ok(log)
    }

    /// Offset of the oldest record on disk, before the log is opened.
    pub(crate) fn oldest_on_disk(dir: &Path) -> Result<Option<u64>, LakeError> {
        Ok(list(dir)?.first().map(|(first, _)| *first))
    }

    /// Appends one batch and says at which offset. Nothing has changed when it fails.
    pub(crate) fn append(
        &mut self,
        meta: &StreamMeta,
        received: UnixNanos,
        sequence: u64,
        batch: &[u8],
    ) -> Result<u64, LakeError> {
        if let Some((path, problem)) = &self.failed {
            return Err(LakeError::Failed { path: path.clone(), problem: problem.clone() });
        }
        if batch.len() > MAX_BATCH {
            return Err(LakeError::TooLarge { bytes: batch.len(), limit: MAX_BATCH });
        }
        let offset = self.next;
        let mut buffer = std::mem::take(&mut self.buffer);
        record::encode(&mut buffer, offset, meta, received, (sequence, batch));
        let written = self.write(&buffer);
        self.buffer = buffer;
        written?;
        self.next += 1;
        Ok(offset)
    }

    pub(crate) fn next(&self) -> u64 {
        self.next
    }

    pub(crate) fn durable(&self) -> u64 {
        self.durable
    }

    /// Bytes of the segments that hold something not archived.
    pub(crate) fn bytes(&self) -> u64 {
        self.segments.iter().filter(|segment| !segment.below(self.archived)).map(|segment| segment.end).sum()
    }

    /// Takes the list of what must be synced; give the outcome back by [`EventLog::synced`] or [`EventLog::sync_failed`].
    pub(crate) fn take_unsynced(&mut self) -> SyncWork {
        let dir = std::mem::take(&mut self.unsynced_names).then(|| self.dir.clone());
        SyncWork { files: std::mem::take(&mut self.unsynced), dir, to: self.next }
    }

    pub(crate) fn synced(&mut self, work: &SyncWork) {
        self.durable = self.durable.max(work.to);
    }

    /// After a failed sync the kernel may have dropped the dirty pages and report success the next time
    /// (<https://wiki.postgresql.org/wiki/Fsync_Errors>): nothing may be acknowledged any more.
    pub(crate) fn sync_failed(&mut self, error: &LakeError) {
        let path = self.segments.back().map_or_else(|| self.dir.clone(), |segment| segment.path.clone());
        self.failed = Some((path, error.to_string()));
    }

    pub(crate) fn failed(&self) -> Option<LakeError> {
        let failed = self.failed.as_ref();
        failed.map(|(path, problem)| LakeError::Failed { path: path.clone(), problem: problem.clone() })
    }

    /// A snapshot of what is not archived, up to `to`.
    pub(crate) fn tail(&self) -> Tail {
        let piece = |segment: &Segment| Piece {
            path: segment.path.clone(),
            file: segment.file.clone(),
            first: segment.first,
            begin: if segment.first == self.tail_begin.segment {
                self.tail_begin.byte
            } else {
                SEGMENT_HEADER
            },
            end: segment.end,
            holes: segment.holes.clone(),
            damaged: segment.damaged.clone(),
        };
        let pieces =
            self.segments.iter().filter(|segment| !segment.below(self.archived)).map(piece).collect();
        Tail { pieces, from: self.archived, to: self.next }
    }

    /// Everything below `offset` is archived; it lies before `place` of `tail`. Whole segments below it are deleted, but for the
    /// one that takes the appends.
    pub(crate) fn archived(&mut self, offset: u64, tail: &Tail, place: Place) -> Result<(), LakeError> {
        self.archived = offset;
        if let Some(piece) = tail.pieces.get(place.piece) {
            self.tail_begin = Begin { segment: piece.first, byte: place.byte };
        } else if let Some(piece) = tail.pieces.last() {
            self.tail_begin = Begin { segment: piece.first, byte: piece.end };
        }
        while self.segments.len() > 1 && self.segments[0].below(offset) {
            let Some(segment) = self.segments.pop_front() else { break };
            discard(&segment)?;
        }
        Ok(())
    }

    fn write(&mut self, record: &[u8]) -> Result<(), LakeError> {
        let length = record.len() as u64;
        let held = self.bytes();
        if length + SEGMENT_HEADER > self.max_bytes {
            let limit = usize::try_from(self.max_bytes).unwrap_or(usize::MAX);
            return Err(LakeError::TooLarge { bytes: record.len(), limit });
        }
        if held + length > self.max_bytes {
            return Err(LakeError::LogFull { path: self.dir.clone(), held, limit: self.max_bytes });
        }
        let active = self.segments.back().filter(|_| self.appendable);
        let full = active
            .is_none_or(|segment| segment.end > SEGMENT_HEADER && segment.end + length > self.segment_bytes);
        if full {
            self.roll()?;
        }
        let active = self.segments.back_mut().expect("roll made one if there was none");
        active.append(record)?;
        let (path, file) = (&active.path, &active.file);
        if self.unsynced.last().is_none_or(|(last, _)| last != path) {
            self.unsynced.push((path.clone(), file.clone()));
        }
        Ok(())
    }

    fn roll(&mut self) -> Result<(), LakeError> {
        let segment = Segment::create(&self.dir, self.next)?;
        self.unsynced.push((segment.path.clone(), segment.file.clone()));
        self.unsynced_names = true;
        // What is wholly archived was kept only because it took the appends.
        let archived = self.archived;
        let kept = std::mem::take(&mut self.segments);
        let (done, kept): (VecDeque<_>, _) = kept.into_iter().partition(|segment| segment.below(archived));
        self.segments = kept;
        self.segments.push_back(segment);
        self.appendable = true;
        done.iter().try_for_each(discard)
    }

    fn recover_segments(
        &mut self,
        visit: &mut dyn FnMut(&Record<'_>),
        faults: &mut Vec<LakeFault>,
    ) -> Result<(), LakeError> {
        let found = list(&self.dir)?;
        for (index, (first, path)) in found.iter().enumerate() {
            let newest = index + 1 == found.len();
            let after = found.get(index + 1).map(|(next, _)| *next);
            if after.is_some_and(|after| after <= self.archived) {
                disk::remove(path)?;
                continue;
            }
            let recovered = recover(path, *first, newest, self.archived, visit, faults)?;
            match recovered {
                Some(recovered) => self.take_recovered(recovered, faults),
                None if is_empty_segment(path) => disk::remove(path)?,
                None => {
                    let aside = disk::set_aside(path)?;
                    LakeFault::report(faults, path, format!("holds no record; kept as {}", aside.display()));
                }
            }
        }
        Ok(())
    }

    fn take_recovered(&mut self, recovered: Recovered, faults: &mut Vec<LakeFault>) {
        let Recovered { segment, sound, tail_begin } = recovered;
        // A gap between `next` and the first record here: those were in a segment that is gone.
        if segment.first > self.next {
            let problem = format!("the log goes on at offset {}; {} was expected", segment.first, self.next);
            LakeFault::report(faults, &segment.path, problem);
        }
        let first_of_tail = self.segments.iter().all(|earlier| earlier.below(self.archived));
        if first_of_tail {
            self.tail_begin = Begin { segment: segment.first, byte: tail_begin };
        }
        // Numbers that are archived are never used again, even when the log ends before them.
        self.appendable = sound && segment.next >= self.archived;
        self.next = self.next.max(segment.next);
        self.unsynced.push((segment.path.clone(), segment.file.clone()));
        self.segments.push_back(segment);
    }
}

/// The segments of `dir`, oldest first.
fn list(dir: &Path) -> Result<Vec<(u64, PathBuf)>, LakeError> {
    let attempt = "list the event log";
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).map_err(LakeError::io(attempt, dir))? {
        let entry = entry.map_err(LakeError::io(attempt, dir))?;
        if let Some(first) = entry.file_name().to_str().and_then(offset_in_name) {
            found.push((first, entry.path()));
        }
    }
    found.sort();
    Ok(found)
}

/// Deletes an archived segment; one with damage in it is kept under another name, for whoever wants to look.
fn discard(segment: &Segment) -> Result<(), LakeError> {
    let damaged = segment.damaged.load(Ordering::Relaxed);
    if damaged { disk::set_aside(&segment.path).map(drop) } else { disk::remove(&segment.path) }
}
