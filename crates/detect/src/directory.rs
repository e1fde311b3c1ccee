//! Reads a user's directory tree of rule files, within bounds.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use watchfire_rule::{LoadLimits, RuleError, RuleFault, RuleText};

/// Directories below the one named.
const DEPTH: usize = 8;
/// Entries looked at in one tree, directories and other files included.
const ENTRIES: usize = 50_000;
/// Bytes of all rule files of one tree together.
const TOTAL_BYTES: usize = 64 * 1024 * 1024;

/// Reads every `*.yml` and `*.yaml` below `dir`, in the order of their paths. Symbolic links to directories are not
/// followed. What could not be read is told and costs that file alone.
pub fn read_rule_directory(dir: &Path, limits: LoadLimits) -> (Vec<RuleText>, Vec<RuleFault>) {
    let mut walk = Walk { limits, texts: Vec::new(), faults: Vec::new(), entries: 0, bytes: 0, over: false };
    if dir.is_file() {
        walk.file(dir);
    } else {
        walk.directory(dir, 0);
    }
    (walk.texts, walk.faults)
}

struct Walk {
    limits: LoadLimits,
    texts: Vec<RuleText>,
    faults: Vec<RuleFault>,
    entries: usize,
    bytes: usize,
    over: bool,
}

impl Walk {
    fn refuse(&mut self, path: &Path, error: RuleError) {
        self.faults.push(RuleFault { file: path.to_string_lossy().into_owned(), title: None, error });
    }

    /// Ends the walk: further files would only fill the list of faults.
    fn give_up(&mut self, path: &Path, reason: String) {
        self.over = true;
        self.refuse(path, RuleError::TreeTooLarge(reason));
    }

    fn directory(&mut self, dir: &Path, depth: usize) {
        if depth > DEPTH {
            let reason = format!("directories are nested deeper than {DEPTH}; this one is left out");
            return self.refuse(dir, RuleError::TreeTooLarge(reason));
        }
        let listed = fs::read_dir(dir).and_then(|entries| {
            entries
                .take(ENTRIES + 1)
                .map(|entry| entry.map(|entry| entry.path()))
                .collect::<io::Result<Vec<PathBuf>>>()
        });
        let mut paths = match listed {
            Ok(paths) => paths,
            Err(source) => {
                return self.refuse(dir, RuleError::Unreadable { attempt: "list directory", source });
            }
        };
        paths.sort();
        for path in paths {
            self.entries += 1;
            if self.over {
                return;
            }
            if self.entries > ENTRIES {
                return self.give_up(&path, format!("more than {ENTRIES} entries; the rest is left out"));
            }
            let Ok(kind) = fs::symlink_metadata(&path).map(|metadata| metadata.file_type()) else { continue };
            if kind.is_dir() {
                self.directory(&path, depth + 1);
            } else if path.extension().is_some_and(|end| end == "yml" || end == "yaml") && path.is_file() {
                self.file(&path);
            }
        }
    }

    fn file(&mut self, path: &Path) {
        let limit = self.limits.file_bytes;
        let mut bytes = Vec::new();
        let most = u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1);
        let read = fs::File::open(path).and_then(|file| file.take(most).read_to_end(&mut bytes));
        if let Err(source) = read {
            return self.refuse(path, RuleError::Unreadable { attempt: "read rule file", source });
        }
        if bytes.len() > limit {
            return self.refuse(path, RuleError::TooLarge { bytes: bytes.len(), limit });
        }
        self.bytes += bytes.len();
        if self.bytes > TOTAL_BYTES {
            return self
                .give_up(path, format!("more than {TOTAL_BYTES} bytes of rules; the rest is left out"));
        }
        match String::from_utf8(bytes) {
            Ok(text) => self.texts.push(RuleText { source: path.to_string_lossy().into_owned(), text }),
            Err(error) => self.refuse(path, RuleError::Parse(error.utf8_error().to_string())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_is_read_in_order_and_bad_files_cost_themselves_alone() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("b")).unwrap();
        fs::write(dir.path().join("b/two.yaml"), "title: two").unwrap();
        fs::write(dir.path().join("a.yml"), "title: one").unwrap();
        fs::write(dir.path().join("notes.txt"), "no rule").unwrap();
        fs::write(dir.path().join("bad.yml"), b"title: \xff").unwrap();
        fs::write(dir.path().join("big.yml"), vec![b'x'; 300 * 1024]).unwrap();
        std::os::unix::fs::symlink("/", dir.path().join("loop")).unwrap();
        let (texts, faults) = read_rule_directory(dir.path(), LoadLimits::default());
        assert_eq!(
            texts.iter().map(|text| text.text.as_str()).collect::<Vec<_>>(),
            ["title: one", "title: two"]
        );
        let told: Vec<String> = faults.iter().map(ToString::to_string).collect();
        assert!(told[0].contains("bad.yml") && told[0].contains("utf-8"), "{told:?}");
        assert!(told[1].contains("big.yml") && told[1].contains("262144"), "{told:?}");
    }

    #[test]
    fn a_tree_too_deep_and_a_directory_that_is_not_there_are_told() {
        let dir = tempfile::tempdir().unwrap();
        let deep = (0..12).fold(dir.path().to_owned(), |path, level| path.join(level.to_string()));
        fs::create_dir_all(&deep).unwrap();
        fs::write(deep.join("x.yml"), "title: deep").unwrap();
        let (texts, faults) = read_rule_directory(dir.path(), LoadLimits::default());
        assert!(texts.is_empty() && faults[0].to_string().contains("deeper than 8"), "{faults:?}");
        let (_, faults) = read_rule_directory(&dir.path().join("absent"), LoadLimits::default());
        assert!(faults[0].to_string().contains("absent") && faults[0].to_string().contains("list directory"));
    }
}
