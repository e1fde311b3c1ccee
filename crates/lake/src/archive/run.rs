//! One run of the archiver: records of the tail → rows → files → one line of the manifest.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use watchfire_event::{Event, StreamId};
use watchfire_wire::{batch_counts, decode_batch};

use super::manifest::{FileEntry, Line, Manifest, StreamEntry};
use super::partition::{Partitions, Written};
use super::rows::{Origin, Row, weight};
use crate::disk;
use crate::error::LakeError;
use crate::log::{Place, Record, Tail, TailReader};
use crate::settings::LakeSettings;
use crate::streams::{KindCounts, StreamTally};

/// Rows of one commit, as a multiple of `flush_rows`; a longer tail makes several.
const MAX_COMMIT: u64 = 4;
/// What the events of one batch may weigh when they stand alone. A batch is at most 4 MiB; only one made to hurt is above.
const MAX_UNFOLDED: usize = 512 << 20;

/// What a run of the archiver did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Archived {
    /// Rows written.
    pub rows: u64,
    /// Events that a batch claimed to hold and that could not be read.
    pub malformed: u64,
    /// Files made.
    pub files: usize,
    /// Bytes of these files.
    pub bytes: u64,
}

/// What one commit did, for the state in memory.
#[derive(Debug)]
pub(crate) struct Commit {
    pub(crate) next: u64,
    pub(crate) place: Place,
    pub(crate) streams: BTreeMap<StreamId, Share>,
    pub(crate) files: Vec<FileEntry>,
    pub(crate) done: Archived,
}

/// A stream's share of a commit.
#[derive(Debug, Default)]
pub(crate) struct Share {
    pub(crate) tally: StreamTally,
    /// Events beyond what their batches claimed.
    pub(crate) surplus: KindCounts,
}

/// A commit in the making.
pub(crate) struct CommitRun<'a> {
    lake: &'a Path,
    first: u64,
    next: u64,
    most_rows: u64,
    partitions: Partitions,
    streams: BTreeMap<StreamId, Share>,
    done: Archived,
}

impl<'a> CommitRun<'a> {
    pub(crate) fn new(lake: &'a Path, first: u64, settings: &LakeSettings) -> Self {
        Self {
            lake,
            first,
            next: first,
            most_rows: settings.flush_rows.saturating_mul(MAX_COMMIT),
            partitions: Partitions::new(lake, first, settings),
            streams: BTreeMap::new(),
            done: Archived::default(),
        }
    }

    /// Takes records of `tail` from `reader` until it ends or the commit is large enough, and commits them.
    pub(crate) fn run(
        mut self,
        tail: &Tail,
        reader: &mut TailReader<'_>,
        manifest: &mut Manifest,
    ) -> Result<Commit, LakeError> {
        while self.done.rows < self.most_rows {
            match reader.next_record()? {
                Some((_, record)) => self.take(&record)?,
                None => break,
            }
        }
        // Damaged stretches at the end hold no record and are passed over with the rest.
        if reader.at_end() {
            self.next = self.next.max(tail.to);
        }
        self.commit(reader.place(), manifest)
    }

    fn take(&mut self, record: &Record<'_>) -> Result<(), LakeError> {
        self.next = record.offset + 1;
        let claimed = claimed_counts(record.batch);
        let events = match decode_batch(record.batch) {
            Ok(events) if events.iter().map(weight).sum::<usize>() <= MAX_UNFOLDED => events,
            Ok(_) => self.refuse(record, "its events unfold to too much"),
            Err(error) => self.refuse(record, &error.to_string()),
        };
        let found: KindCounts = events.iter().map(|event| (event.kind(), 1)).collect();
        let share = self.streams.entry(record.stream).or_default();
        share.tally.last = share.tally.last.max(record.sequence);
        for (kind, count) in claimed.iter() {
            let missing = count.saturating_sub(found.get(kind));
            share.tally.malformed.add(kind, missing);
            self.done.malformed += missing;
        }
        for (kind, count) in found.iter() {
            share.surplus.add(kind, count.saturating_sub(claimed.get(kind)));
        }
        share.tally.archived.add_all(&found);
        self.done.rows += found.total();
        self.push(record, events)
    }

    fn push(&mut self, record: &Record<'_>, events: Vec<Event>) -> Result<(), LakeError> {
        let origin = Arc::new(Origin::of(record));
        for (index, event) in (0u32..).zip(events) {
            self.partitions.push(Row { origin: origin.clone(), index, event })?;
        }
        Ok(())
    }

    /// A batch that cannot be read is counted and passed over: it must not stop the ones behind it.
    fn refuse(&self, record: &Record<'_>, error: &str) -> Vec<Event> {
        tracing::warn!(host = %record.stream.host, sequence = record.sequence, error, "a batch that cannot be read");
        Vec::new()
    }

    fn commit(mut self, place: Place, manifest: &mut Manifest) -> Result<Commit, LakeError> {
        let streams =
            self.streams.iter().map(|(stream, share)| StreamEntry::new(*stream, &share.tally)).collect();
        let mut line = Line { first: self.first, next: self.next, streams, ..Line::default() };
        let footer = |parts: usize| serde_json::to_string(&(parts, &line)).expect("plain fields");
        let written = self.partitions.finish(&footer)?;
        crash_point("written")?;
        let named = rename(self.lake, self.first, self.next, &written);
        let outcome = named.and_then(|files| {
            crash_point("renamed")?;
            line.files = files;
            if line.next == line.first { Ok(()) } else { manifest.commit(&line) }
        });
        if let Err(error) = outcome {
            self.give_up(&written, manifest.is_sound());
            return Err(error);
        }
        self.partitions.release();
        crash_point("committed")?;
        self.done.files = line.files.len();
        self.done.bytes = line.files.iter().map(|file| file.bytes).sum();
        let streams = std::mem::take(&mut self.streams);
        Ok(Commit { next: self.next, place, streams, files: line.files, done: self.done })
    }

    /// Removes the files of a commit that failed, so that a full disk is not made fuller. If the commit may be durable all the
    /// same, they stay: the next start decides.
    fn give_up(&mut self, written: &[Written], sound: bool) {
        if !sound {
            self.partitions.release();
            return;
        }
        for (part, file) in written.iter().enumerate() {
            let path = file.dir.join(part_name(self.first, self.next, part));
            if let Err(error) = disk::remove(&path) {
                tracing::warn!(%error, "a file of a failed commit stays until the next start");
            }
        }
    }
}

/// `part-<first offset>-<last offset>-<number>.parquet`.
fn part_name(first: u64, next: u64, part: usize) -> String {
    format!("part-{first}-{}-{part}.parquet", next.saturating_sub(1))
}

/// Gives the files their final names and makes the names durable.
fn rename(lake: &Path, first: u64, next: u64, written: &[Written]) -> Result<Vec<FileEntry>, LakeError> {
    let mut files = Vec::with_capacity(written.len());
    for (part, file) in written.iter().enumerate() {
        let path: PathBuf = file.dir.join(part_name(first, next, part));
        fs::rename(&file.temporary, &path)
            .map_err(LakeError::io("rename a Parquet file", &file.temporary))?;
        disk::sync_dir(&file.dir)?;
        let relative = path.strip_prefix(lake).unwrap_or(&path).to_string_lossy().into_owned();
        files.push(FileEntry { path: relative, ..file.entry.clone() });
    }
    Ok(files)
}

/// How many events of each kind a batch says it holds; none when that is unreadable or impossible (an event takes two bytes at
/// least).
pub(crate) fn claimed_counts(batch: &[u8]) -> KindCounts {
    let claimed: KindCounts =
        batch_counts(batch).map(|(_, counts)| counts.into_iter().collect()).unwrap_or_default();
    if claimed.total() > batch.len() as u64 / 2 { KindCounts::default() } else { claimed }
}

/// Where tests pull the plug.
#[cfg(not(test))]
#[expect(clippy::unnecessary_wraps, reason = "its twin for tests fails")]
fn crash_point(_name: &str) -> Result<(), LakeError> {
    Ok(())
}

#[cfg(test)]
use crash::crash_point;

#[cfg(test)]
pub(crate) mod crash {
    use std::cell::Cell;

    use super::LakeError;

    thread_local! {
        static AT: Cell<Option<&'static str>> = const { Cell::new(None) };
    }

    /// The next run of this thread panics at `name`; what a kill would leave behind stays, see the drop of `Partitions`.
    pub(crate) fn pull_the_plug_at(name: &'static str) {
        AT.set(Some(name));
    }

    pub(super) fn crash_point(name: &str) -> Result<(), LakeError> {
        if AT.get() == Some(name) {
            AT.set(None);
            std::panic::panic_any(name.to_owned());
        }
        Ok(())
    }
}
