//! The files of one commit: a Parquet writer per UTC hour, written under a temporary name.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::{Path, PathBuf};

use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_writer::ArrowWriterOptions;
use parquet::basic::{Compression, Encoding};
use parquet::file::metadata::KeyValue;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::schema::types::ColumnPath;
use watchfire_event::UnixNanos;

use super::cells::Layout;
use super::columns::{COLUMNS, batch, schema};
use super::manifest::FileEntry;
use super::rows::Row;
use crate::disk;
use crate::error::LakeError;
use crate::settings::LakeSettings;

/// Rows are turned into arrays this many at a time, or …
const CHUNK_ROWS: usize = 4096;
/// … when their names and arguments weigh this much.
const CHUNK_BYTES: usize = 8 << 20;
/// Files open at a time. Hosts whose clocks are right need one or two; when clocks are wild, the rest goes to the hour in which
/// the server received it.
const MAX_PARTITIONS: usize = 24;
/// What all writers together may hold in memory, encoded, before their row groups are closed.
const MAX_IN_PROGRESS: usize = 64 << 20;
/// Hosts listed per file; above it the list is left out.
const MAX_HOSTS: usize = 64;

/// Key of the footer's metadata that holds the commit's line of the manifest without its files, so that a lost manifest can be
/// rebuilt.
pub(crate) const COMMIT_KEY: &str = "watchfire.commit";

/// `(year, month, day, hour)`, UTC.
type Hour = (i64, u8, u8, u8);

/// All writers of a commit. Dropped before [`Partitions::finish`] has handed the files over, it removes them.
#[derive(Debug)]
pub(crate) struct Partitions {
    lake: PathBuf,
    first: u64,
    row_group_rows: usize,
    open: BTreeMap<Hour, Partition>,
}

#[derive(Debug)]
struct Partition {
    temporary: PathBuf,
    writer: Option<ArrowWriter<File>>,
    pending: Vec<Row>,
    weight: usize,
    entry: FileEntry,
    many_hosts: bool,
}

/// A complete, durable file that still has its temporary name.
#[derive(Debug)]
pub(crate) struct Written {
    pub(crate) temporary: PathBuf,
    pub(crate) dir: PathBuf,
    /// Its entry; the path is set when the name is known.
    pub(crate) entry: FileEntry,
}

impl Partitions {
    pub(crate) fn new(lake: &Path, first: u64, settings: &LakeSettings) -> Self {
        Self { lake: lake.to_owned(), first, row_group_rows: settings.row_group_rows, open: BTreeMap::new() }
    }

    pub(crate) fn push(&mut self, row: Row) -> Result<(), LakeError> {
        let mut hour = row.wall().utc_hour();
        if !self.open.contains_key(&hour) && self.open.len() >= MAX_PARTITIONS {
            hour = row.origin.received.utc_hour();
        }
        if !self.open.contains_key(&hour) {
            let partition = Partition::create(&self.lake, self.first, hour, self.row_group_rows)?;
            self.open.insert(hour, partition);
        }
        let partition = self.open.get_mut(&hour).expect("just made");
        if partition.push(row)? {
            self.relieve()?;
        }
        Ok(())
    }

    /// Closes all files and makes them durable. `commit` goes into each footer, with the number of files in it.
    pub(crate) fn finish(&mut self, commit: &dyn Fn(usize) -> String) -> Result<Vec<Written>, LakeError> {
        let text = commit(self.open.len());
        let mut written = Vec::with_capacity(self.open.len());
        for (hour, partition) in &mut self.open {
            partition.close(&text)?;
            let dir = self.lake.join(partition_dir(*hour));
            written.push(Written {
                temporary: partition.temporary.clone(),
                dir,
                entry: partition.entry.clone(),
            });
        }
        Ok(written)
    }

    /// The files belong to someone else now.
    pub(crate) fn release(&mut self) {
        self.open.clear();
    }

    /// Closes all row groups when together they hold too much.
    fn relieve(&mut self) -> Result<(), LakeError> {
        let writers = self.open.values().filter_map(|partition| partition.writer.as_ref());
        let held: usize = writers.map(ArrowWriter::in_progress_size).sum();
        if held < MAX_IN_PROGRESS {
            return Ok(());
        }
        self.open.values_mut().try_for_each(Partition::flush)
    }
}

impl Drop for Partitions {
    fn drop(&mut self) {
        // A panic is treated like a kill: the next start cleans up.
        if std::thread::panicking() {
            return;
        }
        for partition in self.open.values() {
            if let Err(error) = disk::remove(&partition.temporary) {
                tracing::warn!(%error, "a temporary file stays until the next start");
            }
        }
    }
}

impl Partition {
    fn create(lake: &Path, first: u64, hour: Hour, row_group_rows: usize) -> Result<Partition, LakeError> {
        let dir = lake.join(partition_dir(hour));
        disk::make_dir(&dir)?;
        let temporary = dir.join(format!("{first}.tmp"));
        let file = File::create(&temporary).map_err(LakeError::io("create a Parquet file", &temporary))?;
        let options = ArrowWriterOptions::new()
            .with_properties(properties(row_group_rows))
            .with_skip_arrow_metadata(true);
        let writer = ArrowWriter::try_new_with_options(file, schema(), options)
            .map_err(LakeError::parquet("begin a Parquet file", &temporary))?;
        let entry = FileEntry {
            path: String::new(),
            rows: 0,
            bytes: 0,
            min_time: i64::MAX,
            max_time: i64::MIN,
            kinds: BTreeSet::new(),
            hosts: BTreeSet::new(),
        };
        let pending = Vec::with_capacity(CHUNK_ROWS);
        Ok(Partition { temporary, writer: Some(writer), pending, weight: 0, entry, many_hosts: false })
    }

    /// Takes a row; true when a chunk was handed to the writer.
    fn push(&mut self, row: Row) -> Result<bool, LakeError> {
        let UnixNanos(wall) = row.wall();
        self.entry.rows += 1;
        self.entry.min_time = self.entry.min_time.min(wall);
        self.entry.max_time = self.entry.max_time.max(wall);
        self.entry.kinds.insert(row.event.kind() as u8);
        if !self.many_hosts && !self.entry.hosts.contains(&row.origin.host) {
            self.entry.hosts.insert(row.origin.host.clone());
            self.many_hosts = self.entry.hosts.len() > MAX_HOSTS;
        }
        self.weight += row.weight();
        self.pending.push(row);
        let full = self.pending.len() >= CHUNK_ROWS || self.weight >= CHUNK_BYTES;
        if full {
            self.write_pending()?;
        }
        Ok(full)
    }

    fn write_pending(&mut self) -> Result<(), LakeError> {
        let Some(writer) = self.writer.as_mut().filter(|_| !self.pending.is_empty()) else { return Ok(()) };
        let attempt = "write to a Parquet file";
        let batch = batch(&self.pending)
            .map_err(|source| LakeError::parquet(attempt, &self.temporary)(source.into()))?;
        writer.write(&batch).map_err(LakeError::parquet(attempt, &self.temporary))?;
        self.pending.clear();
        self.weight = 0;
        Ok(())
    }

    fn flush(&mut self) -> Result<(), LakeError> {
        let attempt = "close a row group of a Parquet file";
        let writer = self.writer.as_mut();
        writer.map_or(Ok(()), ArrowWriter::flush).map_err(LakeError::parquet(attempt, &self.temporary))
    }

    fn close(&mut self, commit: &str) -> Result<(), LakeError> {
        self.write_pending()?;
        if self.many_hosts {
            self.entry.hosts.clear();
        }
        let Some(mut writer) = self.writer.take() else { return Ok(()) };
        writer.append_key_value_metadata(KeyValue::new(COMMIT_KEY.to_owned(), commit.to_owned()));
        let entry = serde_json::to_string(&self.entry).expect("plain fields");
        writer.append_key_value_metadata(KeyValue::new(ENTRY_KEY.to_owned(), entry));
        let file =
            writer.into_inner().map_err(LakeError::parquet("finish a Parquet file", &self.temporary))?;
        file.sync_all().map_err(LakeError::io("sync a Parquet file", &self.temporary))?;
        let metadata = file.metadata().map_err(LakeError::io("read the size of", &self.temporary))?;
        self.entry.bytes = metadata.len();
        Ok(())
    }
}

/// Key of the footer's metadata that holds the file's own entry of the manifest, but for its path and size.
pub(crate) const ENTRY_KEY: &str = "watchfire.file";

/// `events/dt=2026-11-21/hour=08`: what Hive, Spark and Trino read as two partition columns.
fn partition_dir((year, month, day, hour): Hour) -> PathBuf {
    PathBuf::from(format!("events/dt={year:04}-{month:02}-{day:02}/hour={hour:02}"))
}

fn properties(row_group_rows: usize) -> WriterProperties {
    let mut properties = WriterProperties::builder()
        .set_compression(Compression::SNAPPY)
        .set_max_row_group_row_count(Some(row_group_rows))
        .set_max_row_group_bytes(Some(MAX_IN_PROGRESS))
        // Smaller than the default of 1 MiB: a column whose values hardly repeat gives up its dictionary early.
        .set_dictionary_page_size_limit(256 << 10)
        .set_statistics_enabled(EnabledStatistics::None)
        .set_created_by(concat!("watchfire ", env!("CARGO_PKG_VERSION")).to_owned());
    for column in COLUMNS {
        let path = ColumnPath::from(column.name);
        if column.layout == Layout::Delta {
            properties = properties
                .set_column_dictionary_enabled(path.clone(), false)
                .set_column_encoding(path.clone(), Encoding::DELTA_BINARY_PACKED);
        }
        // What queries prune by; minima and maxima of the other columns would cost more than they save.
        if matches!(column.name, "host" | "time" | "kind" | "tgid" | "uid") {
            properties = properties.set_column_statistics_enabled(path, EnabledStatistics::Chunk);
        }
    }
    properties.build()
}
