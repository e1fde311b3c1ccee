//! What clippy cannot see: names that say nothing, files that grew too long, paths of one machine.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::command::output;
use crate::workspace;

/// Module and crate names that hide the real noun.
const NAMELESS: [&str; 7] = ["common", "core", "util", "utils", "helpers", "helper", "types"];
/// Lines before the tests. A long flat list may be longer: list it here with its reason.
const LONGEST: usize = 700;
const LONG_LISTS: [&str; 0] = [];

/// Checks every file that git knows, or would.
pub(crate) fn check() -> Result<String> {
    let files = tracked()?;
    let mut faults = Vec::new();
    for file in &files {
        faults.extend(nameless(file));
        let Ok(text) = fs::read_to_string(workspace::root().join(file)) else { continue };
        faults.extend(too_long(file, &text));
        faults.extend(local_paths(file, &text, &places_of_this_machine()));
    }
    if !faults.is_empty() {
        bail!("{} faults of style:\n  {}", faults.len(), faults.join("\n  "));
    }
    Ok(format!("{} files", files.len()))
}

/// Tracked files, and new ones that are not ignored.
fn tracked() -> Result<Vec<PathBuf>> {
    let mut git = std::process::Command::new("git");
    git.current_dir(workspace::root()).args(["ls-files", "--cached", "--others", "--exclude-standard", "-z"]);
    let list = output(&mut git).context("style needs the git checkout")?;
    let files: BTreeSet<PathBuf> =
        list.split('\0').filter(|name| !name.is_empty()).map(PathBuf::from).collect();
    Ok(files.into_iter().collect())
}

fn nameless(file: &Path) -> Option<String> {
    let is_rust = file.extension().is_some_and(|extension| extension == "rs");
    let names = file.iter().filter_map(|part| Path::new(part).file_stem()?.to_str());
    let bad = names.filter(|_| is_rust).find(|name| NAMELESS.contains(name))?;
    Some(format!("{}: {bad:?} says nothing; the thing has a name, find it", file.display()))
}

fn too_long(file: &Path, text: &str) -> Option<String> {
    let spelled = file.to_str().unwrap_or_default();
    let exempt = spelled.contains("/generated/") || LONG_LISTS.contains(&spelled);
    if file.extension().is_none_or(|extension| extension != "rs") || exempt {
        return None;
    }
    let lines = text.lines().take_while(|line| *line != "#[cfg(test)]").count();
    (lines > LONGEST)
        .then(|| format!("{spelled}: {lines} lines before its tests, more than {LONGEST}: two subjects?"))
}

/// Folders that no committed file may name: this clone, its target folder, a home folder with a user's name in it.
fn places_of_this_machine() -> Vec<String> {
    let home = std::env::var("HOME").unwrap_or_default();
    let places = [workspace::root().display().to_string(), workspace::target().display().to_string(), home];
    places.into_iter().filter(|place| place.matches('/').count() > 1).collect()
}

fn local_paths(file: &Path, text: &str, places: &[String]) -> Option<String> {
    let place = places.iter().find(|place| text.contains(place.as_str()))?;
    Some(format!("{}: names {place}, which exists on this machine only", file.display()))
}

/// All `.rs` files under these folders, sorted.
pub(crate) fn rust_files(folders: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let mut open = folders.to_vec();
    let mut files = Vec::new();
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(&folder).with_context(|| format!("read {}", folder.display()))? {
            let path = entry.with_context(|| format!("read {}", folder.display()))?.path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_that_says_nothing_is_found_as_a_file_and_as_a_folder() {
        assert!(nameless(Path::new("crates/x/src/utils.rs")).is_some());
        assert!(nameless(Path::new("crates/common/src/lib.rs")).is_some());
        assert!(nameless(Path::new("crates/event/src/lib.rs")).is_none());
        assert!(nameless(Path::new("rules/core/a.yml")).is_none());
    }

    #[test]
    fn tests_do_not_make_a_file_too_long() {
        let body = "let x = 1;\n".repeat(LONGEST);
        let file = Path::new("crates/x/src/lib.rs");
        assert!(too_long(file, &format!("{body}#[cfg(test)]\n{body}")).is_none());
        assert!(too_long(file, &format!("{body}\nmore")).is_some());
        assert!(too_long(Path::new("crates/x/src/generated/a.rs"), &body.repeat(2)).is_none());
    }

    #[test]
    fn paths_of_one_machine_are_found() {
        let places = ["/home/someone".to_owned()];
        assert!(local_paths(Path::new("README.md"), "cd /home/someone/clone", &places).is_some());
        assert!(local_paths(Path::new("README.md"), "cd watchfire", &places).is_none());
    }
}
