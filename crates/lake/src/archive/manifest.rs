//! The manifest: `DIR/lake/manifest`, one line per commit, each `crc32 JSON`. A line names the log offsets it covers, the
//! Parquet files that hold them and what it did per stream; the sum of all lines is the state. A line that was cut short by a
//! crash is no commit.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use watchfire_event::{BootId, BootNanos, HostId, Kind, StreamId};

use crate::disk;
use crate::error::LakeError;
use crate::streams::{KindCounts, StreamTally};

const FIRST_LINE: &str = "watchfire-lake-manifest 1";

/// A Parquet file of the lake.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FileEntry {
    /// Relative to `DIR/lake`.
    pub(crate) path: String,
    pub(crate) rows: u64,
    pub(crate) bytes: u64,
    /// Wall time of its earliest and latest event, unix nanoseconds.
    pub(crate) min_time: i64,
    pub(crate) max_time: i64,
    /// The kinds in it, by number.
    pub(crate) kinds: BTreeSet<u8>,
    /// The hosts in it; empty when there were too many to list.
    pub(crate) hosts: BTreeSet<String>,
}

/// What became of one stream in a commit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StreamEntry {
    host: String,
    boot: String,
    incarnation: u64,
    last: u64,
    archived: BTreeMap<u8, u64>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    malformed: BTreeMap<u8, u64>,
}

/// One line: the offsets `first..next` are archived.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Line {
    pub(crate) first: u64,
    pub(crate) next: u64,
    pub(crate) streams: Vec<StreamEntry>,
    pub(crate) files: Vec<FileEntry>,
    /// Files that were once committed and are damaged or gone, with what is wrong.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) lost: Vec<(String, String)>,
}

/// The sum of all lines.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct State {
    pub(crate) archived: u64,
    pub(crate) files: Vec<FileEntry>,
    pub(crate) lost: Vec<(String, String)>,
    tallies: BTreeMap<StreamId, (u64, StreamTally)>,
}

/// The open file.
#[derive(Debug)]
pub(crate) struct Manifest {
    path: PathBuf,
    file: File,
    end: u64,
    failed: Option<String>,
}

/// What reading the file gave.
#[derive(Debug)]
pub(crate) enum Found {
    /// There is none.
    Nothing,
    /// All lines, or all but a torn last one; they end at `end`.
    State { state: State, end: u64, lines: usize },
    /// It is not what this program writes.
    Damaged,
}

impl StreamEntry {
    pub(crate) fn new(stream: StreamId, tally: &StreamTally) -> Self {
        let numbers = |counts: &KindCounts| counts.iter().map(|(kind, count)| (kind as u8, count)).collect();
        Self {
            host: stream.host.to_string(),
            boot: stream.boot.to_string(),
            incarnation: stream.incarnation.0,
            last: tally.last,
            archived: numbers(&tally.archived),
            malformed: numbers(&tally.malformed),
        }
    }

    pub(crate) fn read(&self) -> Option<(StreamId, StreamTally)> {
        let host: HostId = self.host.parse().ok()?;
        let boot: BootId = self.boot.parse().ok()?;
        let counts = |numbers: &BTreeMap<u8, u64>| {
            let pairs = numbers.iter().map(|(kind, count)| Some((Kind::try_from(*kind).ok()?, *count)));
            pairs.collect::<Option<KindCounts>>()
        };
        let tally = StreamTally {
            last: self.last,
            archived: counts(&self.archived)?,
            malformed: counts(&self.malformed)?,
        };
        Some((StreamId { host, boot, incarnation: BootNanos(self.incarnation) }, tally))
    }
}

impl State {
    /// Adds a commit; `None` when its streams cannot be read.
    pub(crate) fn add(&mut self, line: Line) -> Option<()> {
        let streams: Vec<_> = line.streams.iter().map(StreamEntry::read).collect::<Option<_>>()?;
        for (stream, tally) in streams {
            let (touched, sum) = self.tallies.entry(stream).or_default();
            *touched = line.next;
            sum.add(&tally);
        }
        self.archived = self.archived.max(line.next);
        self.files.extend(line.files);
        self.lost.extend(line.lost);
        Some(())
    }

    /// Per stream what is archived; at most `most`, those that were silent longest left out.
    pub(crate) fn tallies(&mut self, most: usize) -> BTreeMap<StreamId, StreamTally> {
        if self.tallies.len() > most {
            let mut touched: Vec<u64> = self.tallies.values().map(|(touched, _)| *touched).collect();
            touched.sort_unstable_by(|one, other| other.cmp(one));
            let least = touched[most - 1];
            self.tallies.retain(|_, (touched, _)| *touched >= least);
        }
        self.tallies.iter().map(|(stream, (_, tally))| (*stream, tally.clone())).collect()
    }

    fn as_line(&self) -> Line {
        let streams = self.tallies.iter().map(|(stream, (_, tally))| StreamEntry::new(*stream, tally));
        Line {
            first: 0,
            next: self.archived,
            streams: streams.collect(),
            files: self.files.clone(),
            lost: self.lost.clone(),
        }
    }
}

impl Manifest {
    pub(crate) fn path_in(lake: &Path) -> PathBuf {
        lake.join("manifest")
    }

    /// Reads all lines.
    pub(crate) fn read(path: &Path) -> Result<Found, LakeError> {
        let bytes = match fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Found::Nothing),
            Err(error) => return Err(LakeError::io("read the lake's manifest", path)(error)),
        };
        Ok(parse(&bytes, path))
    }

    /// Opens the file for more commits behind `end`, where the good lines stop.
    pub(crate) fn resume(path: &Path, end: u64) -> Result<Manifest, LakeError> {
        let attempt = "open the lake's manifest";
        let file =
            OpenOptions::new().read(true).write(true).open(path).map_err(LakeError::io(attempt, path))?;
        file.set_len(end).map_err(LakeError::io(attempt, path))?;
        Ok(Manifest { path: path.to_owned(), file, end, failed: None })
    }

    /// Writes `state` as the only line of a new file in place of the old one, and opens it for more.
    pub(crate) fn replace(path: &Path, state: &State) -> Result<Manifest, LakeError> {
        let attempt = "write the lake's manifest";
        let fresh = path.with_extension("tmp");
        let mut text = format!("{FIRST_LINE}\n").into_bytes();
        text.extend(encode(&state.as_line()));
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&fresh);
        let file = file.map_err(LakeError::io(attempt, &fresh))?;
        let written = file.write_all_at(&text, 0).and_then(|()| file.sync_all());
        if let Err(error) = written.and_then(|()| fs::rename(&fresh, path)) {
            disk::remove(&fresh)?;
            return Err(LakeError::io(attempt, &fresh)(error));
        }
        disk::sync_dir(path.parent().unwrap_or(Path::new(".")))?;
        Ok(Manifest { path: path.to_owned(), file, end: text.len() as u64, failed: None })
    }

    /// Makes a commit durable. After an error that leaves open whether it is, every further commit is refused.
    pub(crate) fn commit(&mut self, line: &Line) -> Result<(), LakeError> {
        if let Some(problem) = &self.failed {
            return Err(LakeError::Failed { path: self.path.clone(), problem: problem.clone() });
        }
        let text = encode(line);
        if let Err(error) = self.file.write_all_at(&text, self.end) {
            if let Err(left) = self.file.set_len(self.end) {
                self.failed = Some(format!("{error}; then {left}"));
            }
            return Err(LakeError::io("commit to the lake's manifest", &self.path)(error));
        }
        if let Err(error) = self.file.sync_data() {
            self.failed = Some(error.to_string());
            return Err(LakeError::io("sync the lake's manifest", &self.path)(error));
        }
        self.end += text.len() as u64;
        Ok(())
    }

    /// Whether the files of a commit that failed may be removed: not when the commit may be on disk all the same.
    pub(crate) fn is_sound(&self) -> bool {
        self.failed.is_none()
    }
}

fn encode(line: &Line) -> Vec<u8> {
    let json = serde_json::to_string(line).expect("maps with number keys and strings");
    format!("{:08x} {json}\n", crc32fast::hash(json.as_bytes())).into_bytes()
}

fn parse(bytes: &[u8], path: &Path) -> Found {
    let Some(rest) = bytes.strip_prefix(FIRST_LINE.as_bytes()).and_then(|rest| rest.strip_prefix(b"\n"))
    else {
        return Found::Damaged;
    };
    let mut state = State::default();
    let mut end = bytes.len() - rest.len();
    let mut count = 0;
    let mut lines = rest.split_inclusive(|byte| *byte == b'\n').peekable();
    while let Some(text) = lines.next() {
        if decode(text).and_then(|line| state.add(line)).is_some() {
            end += text.len();
            count += 1;
        } else if lines.peek().is_some() || count == 0 {
            return Found::Damaged;
        } else {
            let bytes = text.len();
            tracing::warn!(file = %path.display(), bytes, "the last line of the manifest was cut short; it was no commit");
        }
    }
    Found::State { state, end: end as u64, lines: count }
}

fn decode(text: &[u8]) -> Option<Line> {
    let text = std::str::from_utf8(text.strip_suffix(b"\n")?).ok()?;
    let (sum, json) = text.split_once(' ')?;
    let sound = u32::from_str_radix(sum, 16).ok()? == crc32fast::hash(json.as_bytes());
    if sound { serde_json::from_str(json).ok() } else { None }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn line(first: u64, next: u64) -> Line {
        let stream = StreamId { incarnation: BootNanos(7), ..StreamId::default() };
        let tally = StreamTally {
            last: next,
            archived: KindCounts::from_iter([(Kind::Exec, next - first)]),
            ..StreamTally::default()
        };
        let file = FileEntry {
            path: format!("events/part-{first}.parquet"),
            rows: next - first,
            bytes: 9,
            min_time: -1,
            max_time: 1,
            kinds: BTreeSet::from([1]),
            hosts: BTreeSet::new(),
        };
        Line {
            first,
            next,
            streams: vec![StreamEntry::new(stream, &tally)],
            files: vec![file],
            lost: Vec::new(),
        }
    }

    fn state(found: Found) -> State {
        match found {
            Found::State { state, .. } => state,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn commits_add_up_and_a_torn_one_does_not_count() {
        let dir = tempfile::tempdir().unwrap();
        let path = Manifest::path_in(dir.path());
        assert!(matches!(Manifest::read(&path).unwrap(), Found::Nothing));
        let mut manifest = Manifest::replace(&path, &State::default()).unwrap();
        manifest.commit(&line(0, 4)).unwrap();
        manifest.commit(&line(4, 9)).unwrap();
        let mut whole = state(Manifest::read(&path).unwrap());
        assert_eq!((whole.archived, whole.files.len()), (9, 2));
        assert_eq!(whole.tallies(10).values().next().unwrap().archived.get(Kind::Exec), 9);
        let bytes = fs::read(&path).unwrap();
        fs::write(&path, &bytes[..bytes.len() - 5]).unwrap();
        let torn = state(Manifest::read(&path).unwrap());
        assert_eq!((torn.archived, torn.files.len()), (4, 1));
        // What is torn is overwritten by the next commit.
        let Found::State { end, .. } = Manifest::read(&path).unwrap() else { panic!("state") };
        Manifest::resume(&path, end).unwrap().commit(&line(4, 9)).unwrap();
        assert_eq!(state(Manifest::read(&path).unwrap()), whole);
        // The state survives being written as one line.
        Manifest::replace(&path, &whole).unwrap();
        assert_eq!(state(Manifest::read(&path).unwrap()).files, whole.files);
    }

    #[test]
    fn a_damaged_line_before_others_is_told_from_a_torn_end() {
        let mut bytes = format!("{FIRST_LINE}\n").into_bytes();
        bytes.extend(encode(&line(0, 4)));
        let inside = bytes.len() - 9;
        bytes.extend(encode(&line(4, 9)));
        bytes[inside] ^= 1;
        assert!(matches!(parse(&bytes, Path::new("m")), Found::Damaged));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(bytes in vec(any::<u8>(), 0..300), at: prop::sample::Index, value: u8) {
            parse(&bytes, Path::new("m"));
            let mut mutated = format!("{FIRST_LINE}\n").into_bytes();
            mutated.extend(encode(&line(0, 4)));
            mutated.extend(encode(&line(4, 6)));
            let at = at.index(mutated.len());
            mutated[at] = value;
            parse(&mutated, Path::new("m"));
        }
    }
}
