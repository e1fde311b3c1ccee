//! What is on disk against what the manifest says, once at open. Leftovers of a crash go, damage is set aside and named, and a
//! manifest that is lost or damaged is rebuilt from the footers of the files.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use parquet::file::reader::FileReader;
use parquet::file::serialized_reader::SerializedFileReader;

use super::manifest::{FileEntry, Found, Line, Manifest, State};
use super::partition::{COMMIT_KEY, ENTRY_KEY};
use crate::disk;
use crate::error::{LakeError, LakeFault};

/// Commits after which the manifest is written anew.
const MAX_LINES: usize = 1000;
/// How many lost files are remembered by name.
const MAX_LOST: usize = 1000;

/// Files of one commit that the manifest does not name.
#[derive(Debug, Default)]
struct Group {
    files: Vec<FileEntry>,
    parts: usize,
    line: Line,
}

/// Reads the manifest of `lake`, brings it and the files in line, and opens it for commits. `oldest` is the first offset that the
/// log still holds.
pub(crate) fn reconcile(
    lake: &Path,
    oldest: Option<u64>,
    faults: &mut Vec<LakeFault>,
) -> Result<(Manifest, State), LakeError> {
    let path = Manifest::path_in(lake);
    disk::remove(&path.with_extension("tmp"))?;
    let mut good_end = None;
    let mut state = match Manifest::read(&path)? {
        Found::State { state, end, lines } => {
            // A long manifest is written anew as one line.
            good_end = Some(end).filter(|_| lines <= MAX_LINES);
            state
        }
        Found::Nothing => State::default(),
        Found::Damaged => {
            let aside = disk::set_aside(&path)?;
            let problem =
                format!("not a manifest; kept as {} and rebuilt from the Parquet files", aside.display());
            LakeFault::report(faults, &path, problem);
            State::default()
        }
    };
    let as_read = state.clone();
    let on_disk = files_below(lake)?;
    check_named(lake, &mut state, &on_disk, faults)?;
    // Listed again: some were set aside.
    let groups = unnamed_groups(lake, &state, &files_below(lake)?, faults)?;
    for (first, group) in groups {
        settle(lake, &mut state, first, group, oldest, faults)?;
    }
    for (path, problem) in &state.lost {
        faults.push(LakeFault { path: lake.join(path), problem: problem.clone() });
    }
    // Where nothing changed nothing is written, so that a lake opens on a full disk too.
    let manifest = match good_end.filter(|_| state == as_read) {
        Some(end) => Manifest::resume(&path, end)?,
        None => Manifest::replace(&path, &state)?,
    };
    Ok((manifest, state))
}

/// Takes files that are gone or not what was written out of the state.
fn check_named(
    lake: &Path,
    state: &mut State,
    on_disk: &BTreeSet<String>,
    faults: &mut Vec<LakeFault>,
) -> Result<(), LakeError> {
    let mut kept = Vec::with_capacity(state.files.len());
    for file in std::mem::take(&mut state.files) {
        let path = lake.join(&file.path);
        let problem = if on_disk.contains(&file.path) {
            match look_at(&path, file.bytes)? {
                None => {
                    kept.push(file);
                    continue;
                }
                Some(problem) => format!("{problem}; kept as {}", disk::set_aside(&path)?.display()),
            }
        } else {
            "the file is missing".to_owned()
        };
        let problem = format!("{problem}; its {} events cannot be shown", file.rows);
        tracing::error!(file = %path.display(), %problem, "damage in the data directory");
        if state.lost.len() < MAX_LOST {
            state.lost.push((file.path, problem));
        } else {
            LakeFault::report(faults, &path, problem);
        }
    }
    state.files = kept;
    Ok(())
}

/// What is wrong with a file, at a glance: its size, and the magic at both ends.
fn look_at(path: &Path, bytes: u64) -> Result<Option<String>, LakeError> {
    let attempt = "look at a Parquet file";
    let file = File::open(path).map_err(LakeError::io(attempt, path))?;
    let length = file.metadata().map_err(LakeError::io(attempt, path))?.len();
    if length != bytes || length < 12 {
        return Ok(Some(format!("the file has {length} bytes instead of {bytes}")));
    }
    let mut ends = [[0u8; 4]; 2];
    for (end, at) in ends.iter_mut().zip([0, length - 4]) {
        file.read_exact_at(end, at).map_err(LakeError::io(attempt, path))?;
    }
    Ok((ends != [*b"PAR1"; 2]).then(|| "not a Parquet file".to_owned()))
}

/// Files below `events/` that the manifest does not name, by the commit they belong to. Temporary files go, unreadable ones are set
/// aside.
fn unnamed_groups(
    lake: &Path,
    state: &State,
    on_disk: &BTreeSet<String>,
    faults: &mut Vec<LakeFault>,
) -> Result<BTreeMap<u64, Group>, LakeError> {
    let named: BTreeSet<&str> = state.files.iter().map(|file| &file.path[..]).collect();
    let mut groups: BTreeMap<u64, Group> = BTreeMap::new();
    for relative in on_disk {
        let path = lake.join(relative);
        if relative.ends_with(".tmp") {
            disk::remove(&path)?;
        } else if relative.ends_with(".parquet") && !named.contains(&relative[..]) {
            match read_footer(&path, relative) {
                Some((parts, line, entry)) => {
                    let group = groups.entry(line.first).or_default();
                    group.parts = parts;
                    group.line = line;
                    group.files.push(entry);
                }
                None => {
                    let aside = disk::set_aside(&path)?;
                    LakeFault::report(
                        faults,
                        &path,
                        format!("its footer cannot be read; kept as {}", aside.display()),
                    );
                }
            }
        }
    }
    Ok(groups)
}

/// Decides on the files of one commit that the manifest does not name.
fn settle(
    lake: &Path,
    state: &mut State,
    first: u64,
    group: Group,
    oldest: Option<u64>,
    faults: &mut Vec<LakeFault>,
) -> Result<(), LakeError> {
    let in_log = oldest.is_some_and(|oldest| oldest <= first);
    let complete = group.files.len() == group.parts;
    if first < state.archived {
        for file in &group.files {
            let path = lake.join(&file.path);
            let aside = disk::set_aside(&path)?;
            LakeFault::report(
                faults,
                &path,
                format!("its offsets are in other files; kept as {}", aside.display()),
            );
        }
    } else if in_log && !(complete && first == state.archived) {
        // The crash came before the commit was whole; the log still has all of it.
        for file in &group.files {
            disk::remove(&lake.join(&file.path))?;
        }
    } else {
        if first > state.archived {
            let problem = format!("offsets {}..{first} are in no file", state.archived);
            LakeFault::report(faults, lake, problem);
        }
        if !complete {
            let problem =
                format!("{} of {} files of the commit at offset {first}", group.files.len(), group.parts);
            LakeFault::report(faults, lake, problem);
        }
        let line = Line { files: group.files, ..group.line };
        if state.add(line).is_none() {
            LakeFault::report(
                faults,
                lake,
                format!("the counts of the commit at offset {first} cannot be read"),
            );
        }
    }
    Ok(())
}

fn read_footer(path: &Path, relative: &str) -> Option<(usize, Line, FileEntry)> {
    let file = File::open(path).ok()?;
    let bytes = file.metadata().ok()?.len();
    let reader = SerializedFileReader::new(file).ok()?;
    let pairs = reader.metadata().file_metadata().key_value_metadata()?;
    let value = |key| pairs.iter().find(|pair| pair.key == key).and_then(|pair| pair.value.as_deref());
    let (parts, line): (usize, Line) = serde_json::from_str(value(COMMIT_KEY)?).ok()?;
    let entry: FileEntry = serde_json::from_str(value(ENTRY_KEY)?).ok()?;
    Some((parts, line, FileEntry { path: relative.to_owned(), bytes, ..entry }))
}

/// All files below `lake/events`, relative to `lake`.
fn files_below(lake: &Path) -> Result<BTreeSet<String>, LakeError> {
    let attempt = "list the lake";
    let mut found = BTreeSet::new();
    let mut dirs: Vec<PathBuf> = vec![lake.join("events")];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir).map_err(LakeError::io(attempt, &dir))? {
            let entry = entry.map_err(LakeError::io(attempt, &dir))?;
            let kind = entry.file_type().map_err(LakeError::io(attempt, &dir))?;
            let path = entry.path();
            if kind.is_dir() {
                dirs.push(path);
            } else if let Some(relative) = path.strip_prefix(lake).ok().and_then(Path::to_str) {
                found.insert(relative.to_owned());
            }
        }
    }
    Ok(found)
}
