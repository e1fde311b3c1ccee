//! The wanted rows, whole, in time order.

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;

use parquet::arrow::arrow_reader::{RowSelection, RowSelector};
use watchfire_wire::decode_batch;

use super::select::{Found, Newest, ParquetFile, Source, select_files, select_log};
use super::{EventQuery, MAX_LIMIT, StoredEvent};
use crate::archive::{Columns, FileEntry, event_at};
use crate::error::LakeError;
use crate::log::{Place, Tail};

/// Rows read at a time: bounds what a query holds in memory, argv of 32 KiB included.
const CHUNK: usize = 1024;

/// The lake at one moment: which files count, and what of the log is not in them.
#[derive(Debug, Clone)]
pub(crate) struct Snapshot {
    pub(crate) lake: PathBuf,
    pub(crate) files: Arc<Vec<Arc<FileEntry>>>,
    pub(crate) tail: Tail,
}

/// The events of a query, oldest first. They are those of the moment at which the query was made, whatever is appended or archived
/// while they are read.
#[derive(Debug)]
pub struct EventRows {
    snapshot: Snapshot,
    wanted: std::vec::IntoIter<Found>,
    ready: VecDeque<StoredEvent>,
    open: Option<(usize, ParquetFile)>,
    failed: bool,
}

impl EventRows {
    pub(crate) fn new(snapshot: Snapshot, query: &EventQuery) -> Result<Self, LakeError> {
        let mut newest = Newest::new(query.limit.min(MAX_LIMIT));
        select_log(&snapshot.tail, query, &mut newest)?;
        select_files(&snapshot.lake, &snapshot.files, query, &mut newest)?;
        let wanted = newest.into_sorted().into_iter();
        Ok(Self { snapshot, wanted, ready: VecDeque::new(), open: None, failed: false })
    }

    fn fill(&mut self) -> Result<(), LakeError> {
        let chunk: Vec<Found> = self.wanted.by_ref().take(CHUNK).collect();
        let mut in_files: BTreeMap<usize, Vec<u64>> = BTreeMap::new();
        let mut in_log: BTreeMap<Place, Vec<u32>> = BTreeMap::new();
        for found in chunk {
            match found.source {
                Source::File(file, row) => in_files.entry(file).or_default().push(row),
                Source::Log(place) => in_log.entry(place).or_default().push(found.log_row),
            }
        }
        let mut events = Vec::with_capacity(CHUNK);
        for (number, mut rows) in in_files {
            rows.sort_unstable();
            self.fetch_file(number, &rows, &mut events)?;
        }
        self.fetch_log(&in_log, &mut events)?;
        events.sort_unstable_by_key(|event| (event.time, event.log_offset, event.log_row));
        self.ready.extend(events);
        Ok(())
    }

    fn fetch_file(
        &mut self,
        number: usize,
        rows: &[u64],
        events: &mut Vec<StoredEvent>,
    ) -> Result<(), LakeError> {
        // Chunks follow each other through the same file.
        if self.open.as_ref().is_none_or(|(open, _)| *open != number) {
            let path = self.snapshot.lake.join(&self.snapshot.files[number].path);
            self.open = Some((number, ParquetFile::open(path)?));
        }
        let Some((_, file)) = &self.open else { return Ok(()) };
        let attempt = "read";
        let (groups, selection) = selection(file, rows);
        let reader = file
            .builder()?
            .with_row_groups(groups)
            .with_row_selection(selection)
            .with_batch_size(CHUNK)
            .build();
        for batch in reader.map_err(LakeError::parquet(attempt, &file.path))? {
            let batch = batch.map_err(|source| LakeError::parquet(attempt, &file.path)(source.into()))?;
            let columns = Columns::new(&batch);
            for row in 0..batch.num_rows() {
                let event = event_at(&columns, row);
                events.push(event.map_err(|column| LakeError::BadRow { path: file.path.clone(), column })?);
            }
        }
        Ok(())
    }

    fn fetch_log(
        &self,
        places: &BTreeMap<Place, Vec<u32>>,
        events: &mut Vec<StoredEvent>,
    ) -> Result<(), LakeError> {
        let mut reader = self.snapshot.tail.reader();
        for (place, rows) in places {
            reader.seek(*place);
            let Some((_, record)) = reader.next_record()? else { continue };
            let Ok(mut decoded) =
                decode_batch(record.batch).map(|events| events.into_iter().map(Some).collect::<Vec<_>>())
            else {
                continue;
            };
            let hostname: Arc<str> = String::from_utf8_lossy(record.hostname).into();
            for log_row in rows {
                let Some(event) = decoded.get_mut(*log_row as usize).and_then(Option::take) else { continue };
                events.push(StoredEvent {
                    host: record.stream.host,
                    hostname: hostname.clone(),
                    boot: record.stream.boot,
                    time: event.at.on_wall(record.booted),
                    log_offset: record.offset,
                    log_row: *log_row,
                    event,
                });
            }
        }
        Ok(())
    }
}

impl Iterator for EventRows {
    type Item = Result<StoredEvent, LakeError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ready.is_empty()
            && !self.failed
            && self.wanted.len() > 0
            && let Err(error) = self.fill()
        {
            self.failed = true;
            return Some(Err(error));
        }
        self.ready.pop_front().map(Ok)
    }
}

/// The row groups that hold `rows` (sorted, of the whole file), and which rows of them.
fn selection(file: &ParquetFile, rows: &[u64]) -> (Vec<usize>, RowSelection) {
    let mut groups = Vec::new();
    let mut selectors: Vec<RowSelector> = Vec::new();
    let mut first = 0u64;
    let mut rows = rows.iter().copied().peekable();
    for (index, group) in file.metadata.metadata().row_groups().iter().enumerate() {
        let end = first + u64::try_from(group.num_rows()).unwrap_or(0);
        if rows.peek().is_some_and(|row| *row < end) {
            groups.push(index);
            let mut at = first;
            while let Some(row) = rows.next_if(|row| *row < end) {
                selectors.push(RowSelector::skip(usize::try_from(row - at).unwrap_or(usize::MAX)));
                selectors.push(RowSelector::select(1));
                at = row + 1;
            }
            selectors.push(RowSelector::skip(usize::try_from(end - at).unwrap_or(usize::MAX)));
        }
        first = end;
    }
    (groups, selectors.into())
}
