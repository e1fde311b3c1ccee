//! A program run from a world-writable folder moments after it was put there or made executable.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use watchfire_event::{Body, BootNanos, FileAction, Kind, Level, Process};
use watchfire_rule::KindSet;

use crate::detectors::{Detector, DetectorInfo, Finding, Sight, programs};
use crate::memory::Expiring;

pub(crate) const INFO: DetectorInfo = DetectorInfo {
    slug: "exec_dropped_file",
    title: "Program executed right after it was dropped in a world-writable folder",
    description: "A file below /tmp, /var/tmp or /dev/shm was written or made executable, and executed within five \
                  minutes.",
    attack: &["T1059", "T1222.002"],
    level: Level::Low,
    falsepositives: "Compilers, test runners and installers that work in /tmp.",
};

const DROPPED: usize = 4096;
const DROPPED_FOR: Duration = Duration::from_secs(300);
const STARTED: usize = 512;
/// How much later than the exec the drop may be seen.
const LATE: Duration = Duration::from_secs(2);

/// See the module.
pub(crate) struct ExecDroppedFile {
    dropped: Expiring<u64, Dropped>,
    started: Expiring<u64, Arc<Process>>,
    hasher: RandomState,
}

struct Dropped {
    exe: Vec<u8>,
    how: &'static str,
}

impl ExecDroppedFile {
    pub(crate) fn new() -> Self {
        ExecDroppedFile {
            dropped: Expiring::new(DROPPED, DROPPED_FOR),
            started: Expiring::new(STARTED, LATE),
            hasher: RandomState::new(),
        }
    }

    fn drop_seen(&mut self, path: &[u8], dropped: Dropped, now: BootNanos, out: &mut Vec<Finding>) {
        let key = self.hasher.hash_one(path);
        if let Some(process) = self.started.take(&key, now) {
            out.push(finding(&process, path, &dropped));
        }
        self.dropped.insert(key, dropped, now);
    }
}

impl Detector for ExecDroppedFile {
    fn info(&self) -> &'static DetectorInfo {
        &INFO
    }

    fn wants(&self) -> KindSet {
        KindSet::of(&[Kind::Exec, Kind::FileWrite, Kind::FileAttrib, Kind::FileRename])
    }

    fn judge(&mut self, sight: &Sight<'_>, out: &mut Vec<Finding>) {
        let (process, now) = (&sight.event.process, sight.event.at);
        match &sight.event.body {
            Body::Exec => {
                let scripts = [process.exe.as_slice(), process.filename.as_slice()];
                for path in scripts.into_iter().filter(|path| programs::in_world_writable_folder(path)) {
                    let key = self.hasher.hash_one(path);
                    if let Some(dropped) = self.dropped.get(&key, now) {
                        out.push(finding(process, path, dropped));
                        return;
                    }
                    self.started.insert(key, Arc::clone(process), now);
                }
            }
            Body::File(file) => {
                let path = file.new_path.as_deref().unwrap_or(&file.path);
                let how = match file.action {
                    FileAction::Attrib if file.mode.is_some_and(|mode| mode & 0o111 != 0) => {
                        "made executable"
                    }
                    FileAction::Write => "written",
                    FileAction::Rename => "renamed",
                    _ => return,
                };
                // A file that is not executable yet matters once it is made so.
                let cannot_run = file.mode.is_some_and(|mode| mode & 0o111 == 0);
                if !programs::in_world_writable_folder(path) || cannot_run {
                    return;
                }
                let exe = process.exe.iter().copied().take(256).collect();
                self.drop_seen(path, Dropped { exe, how }, now, out);
            }
            _ => {}
        }
    }

    fn forgotten(&self) -> u64 {
        self.dropped.forgotten()
    }
}

fn finding(process: &Arc<Process>, path: &[u8], dropped: &Dropped) -> Finding {
    Finding::about(process)
        .with("process.exe", &process.exe)
        .with("file.path", path)
        .with("file.how", dropped.how)
        .with("dropped_by.exe", &dropped.exe)
        .object(String::from_utf8_lossy(path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::detectors::testing::{Stage, event, file, process};

    fn program() -> Process {
        process(3, 1, "/dev/shm/.x", &[".x"])
    }

    #[test]
    fn a_file_made_executable_is_told_when_it_runs_soon() {
        let chmod = || process(2, 1, "/usr/bin/chmod", &["chmod", "+x", ".x"]);
        for (ran_at, told) in [(2, 1), (301, 1), (302, 0)] {
            let mut stage = Stage::new(ExecDroppedFile::new());
            stage.see(&event(1, chmod(), file(FileAction::Attrib, "/dev/shm/.x", 0o100755)));
            assert_eq!(stage.see(&event(ran_at, program(), Body::Exec)).len(), told, "{ran_at}");
        }
        let mut stage = Stage::new(ExecDroppedFile::new());
        stage.see(&event(2, program(), Body::Exec));
        assert_eq!(stage.see(&event(3, chmod(), file(FileAction::Attrib, "/dev/shm/.x", 0o100755))).len(), 1);
    }

    #[test]
    fn other_folders_files_that_cannot_run_and_old_files_stay_quiet() {
        let mut stage = Stage::new(ExecDroppedFile::new());
        let writer = || process(2, 1, "/usr/bin/cp", &["cp"]);
        stage.see(&event(1, writer(), file(FileAction::Write, "/home/u/x", 0o100755)));
        stage.see(&event(1, writer(), file(FileAction::Write, "/tmp/data", 0o100644)));
        assert!(stage.see(&event(2, process(3, 1, "/home/u/x", &["x"]), Body::Exec)).is_empty());
        assert!(
            stage.see(&event(2, process(4, 1, "/usr/bin/cat", &["cat", "/tmp/data"]), Body::Exec)).is_empty()
        );
        assert!(stage.see(&event(2, process(5, 1, "/tmp/old", &["old"]), Body::Exec)).is_empty());
    }
}
