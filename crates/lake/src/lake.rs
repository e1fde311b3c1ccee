//! The lake as others see it: one log, one set of files, usable from several threads.

use std::collections::HashMap;
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use watchfire_event::{Books, StreamId, UnixNanos};

use crate::archive::{Archived, Commit, CommitRun, FileEntry, Manifest, claimed_counts, reconcile};
use crate::disk;
use crate::error::{LakeError, LakeFault};
use crate::log::{EventLog, Place, SyncWork, Tail};
use crate::query::{EventQuery, EventRows, Snapshot};
use crate::settings::LakeSettings;
use crate::streams::{KindCounts, StreamMeta, Streams};

/// What became of a batch that was to be appended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Append {
    /// It is in the log; durable after the next [`Lake::sync`].
    Stored {
        /// Its number in the log.
        offset: u64,
        /// How many sequence numbers of its stream were passed over just before it: batches that never came.
        skipped: u64,
    },
    /// It, or a later one of its stream, is there already. Nothing was written.
    Duplicate,
}

/// How full the lake is and what it has done since it was opened.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LakeStats {
    /// Events in the log that are not archived.
    pub waiting_rows: u64,
    /// Bytes of the log's segments that hold such events.
    pub log_bytes: u64,
    /// Parquet files.
    pub files: usize,
    /// Rows in them.
    pub rows: u64,
    /// Their size.
    pub bytes: u64,
    /// Batches recognised as sent twice.
    pub duplicates: u64,
    /// Batches whose counts could not be read; their events are in no stage's books until they are archived.
    pub uncounted: u64,
    /// Sequence numbers that were passed over.
    pub skipped: u64,
}

/// The event log and the Parquet files behind it. Share it in an `Arc`; every method may be called from any thread.
#[derive(Debug)]
pub struct Lake {
    dir: PathBuf,
    lake: PathBuf,
    settings: LakeSettings,
    inner: Mutex<Inner>,
    /// Held while syncing, so that those who come meanwhile are served by the next one together; holds the last one's start.
    syncing: Mutex<Option<Instant>>,
    /// Held while archiving.
    manifest: Mutex<Manifest>,
    faults: Vec<LakeFault>,
    // Locked as long as it is open.
    _lock: File,
}

/// Everything that must agree at any moment, under one lock that is held for no longer than one write takes.
#[derive(Debug)]
struct Inner {
    log: EventLog,
    streams: Streams,
    files: Arc<Vec<Arc<FileEntry>>>,
    /// Highest sequence per stream that no sync has covered.
    unsynced: HashMap<StreamId, u64>,
    waiting_rows: u64,
    /// Since when the oldest of them waits.
    waiting_since: Option<Instant>,
    stats: LakeStats,
}

impl Lake {
    /// Opens the log in `dir/log` and the lake in `dir/lake`, making what is not there. Damage does not stop it: see
    /// [`Lake::faults`].
    pub fn open(dir: &Path, settings: LakeSettings) -> Result<Lake, LakeError> {
        settings.check()?;
        let (log_dir, lake) = (dir.join("log"), dir.join("lake"));
        disk::make_dir(&log_dir)?;
        disk::make_dir(&lake.join("events"))?;
        let lock = lock(&lake.join("lock"))?;
        let mut faults = Vec::new();
        let oldest = EventLog::oldest_on_disk(&log_dir)?;
        let (manifest, mut state) = reconcile(&lake, oldest, &mut faults)?;
        let mut streams = Streams::new(&state.tallies(settings.max_streams), settings.max_streams);
        let mut waiting_rows = 0;
        let mut replay = |record: &crate::log::Record<'_>| {
            let counts = claimed_counts(record.batch);
            waiting_rows += counts.total();
            streams.appended(record.stream, record.sequence, &counts, record.offset);
            streams.synced(record.stream, record.sequence);
        };
        let log = EventLog::open(&log_dir, state.archived, &settings, &mut replay, &mut faults)?;
        let waiting_since = (log.next() > state.archived).then(Instant::now);
        let files = Arc::new(state.files.into_iter().map(Arc::new).collect());
        let inner = Inner {
            log,
            streams,
            files,
            unsynced: HashMap::new(),
            waiting_rows,
            waiting_since,
            stats: LakeStats::default(),
        };
        Ok(Lake {
            dir: dir.to_owned(),
            lake,
            settings,
            inner: Mutex::new(inner),
            syncing: Mutex::new(None),
            manifest: Mutex::new(manifest),
            faults,
            _lock: lock,
        })
    }

    /// Appends an encoded `EventBatch`. It may be acknowledged to its sender after the next [`Lake::sync`], and not before.
    /// On an error nothing has changed; [`LakeError::is_temporary`] says whether to try again.
    pub fn append(&self, meta: &StreamMeta, sequence: u64, batch: &[u8]) -> Result<Append, LakeError> {
        let counts = claimed_counts(batch);
        let received = UnixNanos::now();
        let mut inner = self.inner();
        let inner = &mut *inner;
        let last = inner.streams.last(meta.stream);
        if sequence <= last {
            inner.stats.duplicates += 1;
            return Ok(Append::Duplicate);
        }
        let offset = inner.log.append(meta, received, sequence, batch)?;
        // A stream that is new here may begin anywhere: what came before was acknowledged by another lake.
        let skipped = if inner.streams.knows(meta.stream) { sequence - last - 1 } else { 0 };
        inner.took(meta.stream, sequence, &counts, (offset, skipped));
        Ok(Append::Stored { offset, skipped })
    }

    /// Makes everything durable that was appended before the call, and returns when it is. Calls that come while one runs are
    /// served together by the next; two never start closer than [`LakeSettings::sync_interval`]. Appends go on meanwhile.
    pub fn sync(&self) -> Result<(), LakeError> {
        self.sync_spaced(true)
    }

    /// Highest batch of a stream that was appended: what a returning agent need not send again once it is durable.
    pub fn last_sequence(&self, stream: StreamId) -> u64 {
        self.inner().streams.last(stream)
    }

    /// Highest batch of a stream that was appended, and its books at exactly that point.
    pub fn position(&self, stream: StreamId) -> (u64, Books) {
        let inner = self.inner();
        (inner.streams.last(stream), inner.streams.books(stream))
    }

    /// Highest batch of a stream that is durable: what may be acknowledged.
    pub fn durable_sequence(&self, stream: StreamId) -> u64 {
        self.inner().streams.durable(stream)
    }

    /// Archives what waits, if it is much or has waited long ([`LakeSettings::flush_rows`], [`LakeSettings::flush_age`]). Meant to be
    /// called by a thread of its own, some times a second. After an error everything is still in the log.
    pub fn archive_due(&self, now: Instant) -> Result<Option<Archived>, LakeError> {
        let due = {
            let inner = self.inner();
            let old = inner
                .waiting_since
                .is_some_and(|since| now.saturating_duration_since(since) >= self.settings.flush_age);
            old || inner.waiting_rows >= self.settings.flush_rows
        };
        if due { self.flush().map(Some) } else { Ok(None) }
    }

    /// Archives everything that was appended before the call.
    pub fn flush(&self) -> Result<Archived, LakeError> {
        let mut manifest = self.manifest.lock().unwrap_or_else(PoisonError::into_inner);
        let tail = self.inner().log.tail();
        // A row must not be durable in a file before its batch is in the log: after a power cut its sender would be asked for it
        // again, and it would be stored twice.
        self.sync_spaced(false)?;
        let mut reader = tail.reader();
        let mut first = tail.from;
        let mut sum = Archived::default();
        while first < tail.to {
            let commit =
                CommitRun::new(&self.lake, first, &self.settings).run(&tail, &mut reader, &mut manifest)?;
            if commit.next == first {
                break;
            }
            first = commit.next;
            sum.rows += commit.done.rows;
            sum.malformed += commit.done.malformed;
            sum.files += commit.done.files;
            sum.bytes += commit.done.bytes;
            self.inner().committed(commit, &tail)?;
        }
        Ok(sum)
    }

    /// The newest events that match, oldest first, as they are at this moment.
    pub fn query(&self, query: &EventQuery) -> Result<EventRows, LakeError> {
        let snapshot = {
            let inner = self.inner();
            Snapshot { lake: self.lake.clone(), files: inner.files.clone(), tail: inner.log.tail() }
        };
        EventRows::new(snapshot, query)
    }

    /// The books of one stream: [`watchfire_event::Stage::Log`] (seen = appended, passed = archived, held = waiting, dropped =
    /// claimed by a batch and unreadable) and [`watchfire_event::Stage::Lake`] (rows in files). Taken at one moment, and kept over
    /// restarts. A duplicate is no event of either stage: whoever calls [`Lake::append`] counts it as filtered.
    pub fn books(&self, stream: StreamId) -> Books {
        self.inner().streams.books(stream)
    }

    /// The streams that are remembered.
    pub fn streams(&self) -> Vec<StreamId> {
        self.inner().streams.ids()
    }

    /// Damage that was found when the lake was opened, and files that were lost earlier.
    pub fn faults(&self) -> &[LakeFault] {
        &self.faults
    }

    /// How full it is.
    pub fn stats(&self) -> LakeStats {
        let inner = self.inner();
        let mut stats = inner.stats.clone();
        stats.waiting_rows = inner.waiting_rows;
        stats.log_bytes = inner.log.bytes();
        stats.files = inner.files.len();
        stats.rows = inner.files.iter().map(|file| file.rows).sum();
        stats.bytes = inner.files.iter().map(|file| file.bytes).sum();
        stats
    }

    /// The data directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The state is consistent between any two statements that can panic, so a poisoned lock is used on.
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn sync_spaced(&self, spaced: bool) -> Result<(), LakeError> {
        let target = self.inner().log.next();
        let mut last = self.syncing.lock().unwrap_or_else(PoisonError::into_inner);
        if self.inner().log.durable() >= target {
            return Ok(());
        }
        let wait =
            last.filter(|_| spaced).map(|last| self.settings.sync_interval.saturating_sub(last.elapsed()));
        std::thread::sleep(wait.unwrap_or_default());
        let (work, streams) = self.inner().take_unsynced()?;
        *last = Some(Instant::now());
        let outcome = work.run();
        self.inner().synced(&work, streams, outcome)
    }
}

impl Inner {
    fn took(&mut self, stream: StreamId, sequence: u64, counts: &KindCounts, (offset, skipped): (u64, u64)) {
        if skipped > 0 {
            tracing::warn!(host = %stream.host, sequence, skipped, "batches of a stream never came");
        }
        self.stats.skipped += skipped;
        self.stats.uncounted += u64::from(counts.total() == 0);
        self.streams.appended(stream, sequence, counts, offset);
        self.unsynced.insert(stream, sequence);
        self.waiting_rows += counts.total();
        self.waiting_since.get_or_insert_with(Instant::now);
    }

    fn take_unsynced(&mut self) -> Result<(SyncWork, HashMap<StreamId, u64>), LakeError> {
        match self.log.failed() {
            Some(failed) => Err(failed),
            None => Ok((self.log.take_unsynced(), std::mem::take(&mut self.unsynced))),
        }
    }

    fn synced(
        &mut self,
        work: &SyncWork,
        streams: HashMap<StreamId, u64>,
        outcome: Result<(), LakeError>,
    ) -> Result<(), LakeError> {
        if let Err(error) = outcome {
            self.log.sync_failed(&error);
            return Err(error);
        }
        self.log.synced(work);
        streams.into_iter().for_each(|(stream, sequence)| self.streams.synced(stream, sequence));
        Ok(())
    }

    fn committed(&mut self, commit: Commit, tail: &Tail) -> Result<(), LakeError> {
        for (stream, share) in &commit.streams {
            self.streams.archived(*stream, &share.tally, &share.surplus);
            let surplus = share.surplus.total();
            self.waiting_rows = self.waiting_rows.saturating_add(surplus);
        }
        self.waiting_rows = self.waiting_rows.saturating_sub(commit.done.rows + commit.done.malformed);
        self.waiting_since = (self.log.next() > commit.next).then(Instant::now);
        Arc::make_mut(&mut self.files).extend(commit.files.into_iter().map(Arc::new));
        let place: Place = commit.place;
        self.log.archived(commit.next, tail, place)
    }
}

fn lock(path: &Path) -> Result<File, LakeError> {
    let file = File::create(path).map_err(LakeError::io("open the lock", path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(LakeError::InUse { path: path.to_owned() }),
        Err(TryLockError::Error(error)) => Err(LakeError::io("lock", path)(error)),
    }
}

#[cfg(test)]
#[path = "lake_tests.rs"]
mod tests;
