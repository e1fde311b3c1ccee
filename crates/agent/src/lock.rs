//! One agent on a host: the lock that a second one finds taken, with the name of its holder in it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

/// The longest holder's note that is read.
const NOTE_LIMIT: u64 = 256;

/// Why the lock was not taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LockError {
    #[error("another agent runs on this host: {holder} holds {}", path.display())]
    Held { path: PathBuf, holder: String },
    #[error("{attempt} the agent's lock {}", path.display())]
    Io { attempt: &'static str, path: PathBuf, source: io::Error },
}

/// Held while it lives; the kernel gives it back however the process ends.
#[derive(Debug)]
pub(crate) struct AgentLock {
    _file: File,
}

impl AgentLock {
    /// Takes the lock, and writes this process' tgid into it.
    pub(crate) fn take(path: &Path) -> Result<Self, LockError> {
        let failed = |attempt| move |source| LockError::Io { attempt, path: path.into(), source };
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(failed("make the folder of"))?;
        }
        // Not truncated on opening: it may be another's.
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(path)
            .map_err(failed("open"))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                return Err(LockError::Held { path: path.into(), holder: holder(&mut file) });
            }
            Err(error) => return Err(failed("take")(error.into())),
        }
        file.set_len(0)
            .and_then(|()| writeln!(file, "{}", std::process::id()))
            .map_err(failed("write this process' number into"))?;
        Ok(AgentLock { _file: file })
    }
}

/// Who wrote the note, as far as it can be read: anyone with the right to the file may have.
fn holder(file: &mut File) -> String {
    let mut note = Vec::new();
    match file.take(NOTE_LIMIT).read_to_end(&mut note) {
        Ok(count) if count > 0 => format!("process {}", watchfire_event::printable(note.trim_ascii())),
        Ok(_) | Err(_) => "a process that has not said which".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_one_is_refused_and_told_who_holds_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run/agent.lock");
        let first = AgentLock::take(&path).unwrap();
        let refused = AgentLock::take(&path).unwrap_err().to_string();
        assert!(refused.contains(&format!("process {}", std::process::id())), "{refused}");
        drop(first);
        AgentLock::take(&path).unwrap();
    }

    #[test]
    fn a_note_of_hostile_bytes_is_shown_escaped() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.lock");
        fs::write(&path, b"\x1b[2J").unwrap();
        let other = File::open(&path).unwrap();
        flock(&other, FlockOperation::LockExclusive).unwrap();
        let refused = AgentLock::take(&path).unwrap_err().to_string();
        assert!(refused.contains("\\x1b[2J") && !refused.contains('\x1b'), "{refused}");
    }

    #[test]
    fn a_link_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let (target, path) = (dir.path().join("precious"), dir.path().join("agent.lock"));
        fs::write(&target, "precious").unwrap();
        std::os::unix::fs::symlink(&target, &path).unwrap();
        assert!(matches!(AgentLock::take(&path), Err(LockError::Io { attempt: "open", .. })));
        assert_eq!(fs::read(&target).unwrap(), b"precious");
    }
}
