//! Which rows a query wants, and where they are.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder,
};
use parquet::file::metadata::RowGroupMetaData;
use parquet::file::statistics::Statistics;
use watchfire_event::{BootNanos, Event, HostId, Kind, UnixNanos};
use watchfire_wire::{batch_counts, decode_batch};

use super::EventQuery;
use crate::archive::{Columns, FileEntry};
use crate::error::LakeError;
use crate::log::{Place, Record, Tail};

/// What selection reads of a file.
const NEEDED: [&str; 7] = ["boot_ns", "booted_ns", "kind", "host", "tgid", "log_offset", "log_row"];

/// A row that is wanted. Ordered by time, then by its place in the log, which no other row has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Found {
    pub(super) time: UnixNanos,
    pub(super) log_offset: u64,
    pub(super) log_row: u32,
    pub(super) source: Source,
}

/// Where it can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Source {
    /// In a file, by its number in the snapshot; then the number of the row in the file.
    File(usize, u64),
    /// In the log's tail.
    Log(Place),
}

/// The newest rows so far, bounded.
#[derive(Debug)]
pub(super) struct Newest {
    heap: BinaryHeap<Reverse<Found>>,
    limit: usize,
}

impl Newest {
    pub(super) fn new(limit: usize) -> Self {
        Self { heap: BinaryHeap::new(), limit }
    }

    fn add(&mut self, found: Found) {
        if self.heap.len() < self.limit {
            self.heap.push(Reverse(found));
        } else if self.heap.peek().is_some_and(|oldest| found > oldest.0) {
            self.heap.pop();
            self.heap.push(Reverse(found));
        }
    }

    /// Whether nothing at or before `time` could still come in. Of two rows of one time the later in the log wins, so equal
    /// times must be looked at.
    fn excludes(&self, time: i64) -> bool {
        self.limit == 0
            || self.heap.len() >= self.limit && self.heap.peek().is_some_and(|oldest| time < oldest.0.time.0)
    }

    /// Oldest first.
    pub(super) fn into_sorted(self) -> Vec<Found> {
        let mut found: Vec<Found> = self.heap.into_iter().map(|Reverse(found)| found).collect();
        found.sort_unstable();
        found
    }
}

/// Looks through the log's tail.
pub(super) fn select_log(tail: &Tail, query: &EventQuery, newest: &mut Newest) -> Result<(), LakeError> {
    let mut reader = tail.reader();
    while let Some((place, record)) = reader.next_record()? {
        if query.host.is_some_and(|host| host != record.stream.host) || !may_hold(&record, query) {
            continue;
        }
        // What cannot be read is counted when it is archived; a query passes it over.
        let Ok(events) = decode_batch(record.batch) else { continue };
        for (log_row, event) in (0u32..).zip(&events) {
            let time = event.at.on_wall(record.booted);
            if wants_event(query, time, event) {
                newest.add(Found { time, log_offset: record.offset, log_row, source: Source::Log(place) });
            }
        }
    }
    Ok(())
}

/// Looks through the files, those with the newest events first.
pub(super) fn select_files(
    lake: &Path,
    files: &[Arc<FileEntry>],
    query: &EventQuery,
    newest: &mut Newest,
) -> Result<(), LakeError> {
    let mut candidates: Vec<(usize, &FileEntry)> =
        files.iter().map(|file| &**file).enumerate().filter(|(_, file)| may_match(file, query)).collect();
    candidates.sort_by_key(|(_, file)| Reverse(file.max_time));
    for (number, file) in candidates {
        if newest.excludes(file.max_time) {
            break;
        }
        let path = lake.join(&file.path);
        ParquetFile::open(path)?.select(number, query, newest)?;
    }
    Ok(())
}

fn may_hold(record: &Record<'_>, query: &EventQuery) -> bool {
    let counts = batch_counts(record.batch).map(|(_, counts)| counts).unwrap_or_default();
    query.kinds.is_empty() || counts.is_empty() || counts.iter().any(|(kind, _)| query.wants_kind(*kind))
}

fn wants_event(query: &EventQuery, time: UnixNanos, event: &Event) -> bool {
    query.wants_kind(event.kind())
        && query.wants_time(time)
        && query.tgid.is_none_or(|tgid| event.process.key.tgid == tgid)
}

fn may_match(file: &FileEntry, query: &EventQuery) -> bool {
    let kind = query.kinds.is_empty() || query.kinds.iter().any(|kind| file.kinds.contains(&(*kind as u8)));
    let host = query.host.is_none_or(|host| file.hosts.is_empty() || file.hosts.contains(&host.to_string()));
    kind && host && query.wants_span(file.min_time, file.max_time)
}

/// An open file of the lake.
#[derive(Debug)]
pub(super) struct ParquetFile {
    pub(super) path: PathBuf,
    pub(super) file: File,
    pub(super) metadata: ArrowReaderMetadata,
}

impl ParquetFile {
    pub(super) fn open(path: PathBuf) -> Result<Self, LakeError> {
        let file = File::open(&path).map_err(LakeError::io("open", &path))?;
        let metadata = ArrowReaderMetadata::load(&file, ArrowReaderOptions::new())
            .map_err(LakeError::parquet("read the footer", &path))?;
        Ok(Self { path, file, metadata })
    }

    pub(super) fn builder(&self) -> Result<ParquetRecordBatchReaderBuilder<File>, LakeError> {
        let file = self.file.try_clone().map_err(LakeError::io("open", &self.path))?;
        Ok(ParquetRecordBatchReaderBuilder::new_with_metadata(file, self.metadata.clone()))
    }

    fn select(&self, number: usize, query: &EventQuery, newest: &mut Newest) -> Result<(), LakeError> {
        let groups = self.metadata.metadata().row_groups();
        let mut end: u64 = groups.iter().map(rows_of).sum();
        // Rows lie in the order of the log: the newest are mostly in the last group.
        for (index, group) in groups.iter().enumerate().rev() {
            let first_row = end - rows_of(group);
            if group_may_match(group, query, newest) {
                self.select_group(number, index, first_row, query, newest)?;
            }
            end = first_row;
        }
        Ok(())
    }

    fn select_group(
        &self,
        number: usize,
        group: usize,
        first_row: u64,
        query: &EventQuery,
        newest: &mut Newest,
    ) -> Result<(), LakeError> {
        let mask = ProjectionMask::columns(self.metadata.parquet_schema(), NEEDED);
        let reader =
            self.builder()?.with_projection(mask).with_row_groups(vec![group]).with_batch_size(8192).build();
        let attempt = "read";
        let reader = reader.map_err(LakeError::parquet(attempt, &self.path))?;
        let mut file_row = first_row;
        for batch in reader {
            let batch = batch.map_err(|source| LakeError::parquet(attempt, &self.path)(source.into()))?;
            let columns = Columns::new(&batch);
            for row in 0..batch.num_rows() {
                let found = found_at(&columns, row, Source::File(number, file_row), query);
                let found = found.map_err(|column| LakeError::BadRow { path: self.path.clone(), column })?;
                found.into_iter().for_each(|found| newest.add(found));
                file_row += 1;
            }
        }
        Ok(())
    }
}

fn rows_of(group: &RowGroupMetaData) -> u64 {
    u64::try_from(group.num_rows()).unwrap_or(0)
}

fn found_at(
    columns: &Columns,
    row: usize,
    source: Source,
    query: &EventQuery,
) -> Result<Option<Found>, &'static str> {
    let number = |name| columns.number(name, row).map(Option::unwrap_or_default);
    let booted = UnixNanos(number("booted_ns")?);
    let time = BootNanos(number("boot_ns")?.cast_unsigned()).on_wall(booted);
    let kind: Kind = columns.text("kind", row)?.unwrap_or_default().parse().map_err(|_| "kind")?;
    let host: Option<HostId> = columns.text("host", row)?.and_then(|host| host.parse().ok());
    let wanted = query.wants_kind(kind)
        && query.wants_time(time)
        && query.host.is_none_or(|wanted| host == Some(wanted))
        && match query.tgid {
            Some(tgid) => number("tgid")? == i64::from(tgid),
            None => true,
        };
    if !wanted {
        return Ok(None);
    }
    let log_row = u32::try_from(number("log_row")?).map_err(|_| "log_row")?;
    Ok(Some(Found { time, log_offset: number("log_offset")?.cast_unsigned(), log_row, source }))
}

/// What the statistics of a row group say. They cover `time`, cut to microseconds, and `kind`.
fn group_may_match(group: &RowGroupMetaData, query: &EventQuery, newest: &Newest) -> bool {
    for column in group.columns() {
        let Some(statistics) = column.statistics() else { continue };
        match (column.column_path().string().as_str(), statistics) {
            ("time", Statistics::Int64(span)) => {
                let (Some(min), Some(max)) = (span.min_opt(), span.max_opt()) else { continue };
                // A time cut to its microsecond may have been up to 999 ns later.
                let last = max.saturating_mul(1000).saturating_add(999);
                if newest.excludes(last) || !query.wants_span(min.saturating_mul(1000), last) {
                    return false;
                }
            }
            ("tgid", Statistics::Int64(span)) => {
                let (Some(min), Some(max)) = (span.min_opt(), span.max_opt()) else { continue };
                if query.tgid.is_some_and(|tgid| !(*min..=*max).contains(&i64::from(tgid))) {
                    return false;
                }
            }
            _ => {}
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_newest_are_kept_and_ties_go_by_the_log() {
        let found = |time, log_offset| Found {
            time: UnixNanos(time),
            log_offset,
            log_row: 0,
            source: Source::File(0, 0),
        };
        let mut newest = Newest::new(2);
        for each in [found(5, 0), found(7, 1), found(5, 2), found(1, 3)] {
            newest.add(each);
        }
        assert!(newest.excludes(4) && !newest.excludes(5));
        assert_eq!(newest.into_sorted(), [found(5, 2), found(7, 1)]);
        let mut none = Newest::new(0);
        none.add(found(1, 1));
        assert!(none.excludes(9) && none.into_sorted().is_empty());
    }
}
