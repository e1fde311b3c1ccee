//! The few things done to files that must survive a power cut.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use crate::error::LakeError;

/// Makes `path` a directory, with those above it, each durable in its parent.
pub(crate) fn make_dir(path: &Path) -> Result<(), LakeError> {
    if path.is_dir() {
        return Ok(());
    }
    if let Some(parent) = path.parent() {
        make_dir(parent)?;
    }
    match fs::create_dir(path) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
            Err(LakeError::io("create the directory", path)(error))
        }
        _ => path.parent().map_or(Ok(()), sync_dir),
    }
}

/// Makes names made, changed or removed in `dir` durable.
pub(crate) fn sync_dir(dir: &Path) -> Result<(), LakeError> {
    // A relative path of one component has the empty path for its parent.
    let dir = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
    File::open(dir).and_then(|opened| opened.sync_all()).map_err(LakeError::io("sync the directory", dir))
}

/// Renames a damaged file to `NAME.damaged` (`NAME.2.damaged`, … when that is taken), and says to what.
pub(crate) fn set_aside(path: &Path) -> Result<PathBuf, LakeError> {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let free = (1u32..).map(|n| {
        let aside = if n == 1 { format!("{name}.damaged") } else { format!("{name}.{n}.damaged") };
        path.with_file_name(aside)
    });
    let aside =
        free.into_iter().find(|aside| !aside.exists()).unwrap_or_else(|| path.with_extension("damaged"));
    fs::rename(path, &aside).map_err(LakeError::io("set the damaged file aside", path))?;
    if let Some(parent) = path.parent() {
        sync_dir(parent)?;
    }
    Ok(aside)
}

/// Removes a file that may already be gone.
pub(crate) fn remove(path: &Path) -> Result<(), LakeError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(LakeError::io("remove", path)(error))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_set_aside_twice_is_kept_twice() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("part.parquet");
        for text in ["one", "two"] {
            fs::write(&path, text).unwrap();
            let aside = set_aside(&path).unwrap();
            assert_eq!(fs::read_to_string(aside).unwrap(), text);
        }
        assert!(!path.exists() && dir.path().join("part.parquet.damaged").exists());
    }
}
