//! Something fetched from the network that runs a moment later: `curl … | sh`, or a file that a downloader wrote.
//!
//! Files come to us a little after the fact (fanotify is read, not waited for), so the write may be seen after the exec.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use watchfire_event::{Body, BootNanos, FileAction, FileActivity, Kind, Level, Process};
use watchfire_rule::KindSet;

use crate::detectors::{Detector, DetectorInfo, Finding, Sight, programs};
use crate::memory::Expiring;

pub(crate) const INFO: DetectorInfo = DetectorInfo {
    slug: "download_and_execute",
    title: "Download executed",
    description: "A downloader, or another process with a network connection, wrote a file that was executed within ten \
                  minutes, or writes into a shell's stdin.",
    attack: &["T1105", "T1059.004"],
    level: Level::High,
    falsepositives: "Installers that are fetched and run by hand or by CI jobs; `curl | sh` and files outside of \
                     world-writable folders are told at level medium.",
};

const WRITTEN: usize = 4096;
const WRITTEN_FOR: Duration = Duration::from_secs(600);
const STARTED: usize = 1024;
/// How much later than the exec a write that came before it may be seen.
const LATE: Duration = Duration::from_secs(2);
/// Longest path of a writer that is kept.
const KEPT_BYTES: usize = 256;

/// See the module.
pub(crate) struct DownloadAndExecute {
    /// What wrote a file, for files written by downloaders, by the hash of their path.
    written: Expiring<u64, Vec<u8>>,
    /// Programs outside of the system's folders that started a moment ago.
    started: Expiring<u64, (BootNanos, Arc<Process>)>,
    hasher: RandomState,
}

impl DownloadAndExecute {
    pub(crate) fn new() -> Self {
        DownloadAndExecute {
            written: Expiring::new(WRITTEN, WRITTEN_FOR),
            started: Expiring::new(STARTED, LATE),
            hasher: RandomState::new(),
        }
    }

    fn path_key(&self, path: &[u8]) -> u64 {
        self.hasher.hash_one(path)
    }

    fn executed(&mut self, sight: &Sight<'_>, out: &mut Vec<Finding>) {
        let (process, now) = (&sight.event.process, sight.event.at);
        piped(sight, out);
        for path in code_paths(process) {
            let key = self.path_key(path);
            if let Some(writer) = self.written.get(&key, now) {
                out.push(finding(process, writer, path));
                return;
            }
            if !in_system_folder(path) {
                self.started.insert(key, (now, Arc::clone(process)), now);
            }
        }
    }

    fn file(&mut self, sight: &Sight<'_>, file: &FileActivity, out: &mut Vec<Finding>) {
        let (process, now) = (&sight.event.process, sight.event.at);
        match file.action {
            FileAction::Create | FileAction::Write if self.downloads(sight, &file.path) => {
                self.note_written(process, &file.path, now, out);
            }
            FileAction::Rename | FileAction::Link => {
                // A downloader that writes beside and renames, or someone who gives the download another name.
                let Some(new_path) = &file.new_path else { return };
                let known = self.written.get(&self.path_key(&file.path), now).cloned();
                if let Some(exe) = known {
                    self.note_file(exe, new_path, now, out);
                } else if self.downloads(sight, new_path) {
                    self.note_written(process, new_path, now, out);
                }
            }
            _ => {}
        }
    }

    /// Whether a file written by this process counts as downloaded.
    fn downloads(&self, sight: &Sight<'_>, path: &[u8]) -> bool {
        let process = &sight.event.process;
        if programs::is_downloader(process) || programs::is_relay(process) {
            return true;
        }
        // Any other process needs a connection, and a folder that no package manager installs into.
        programs::in_world_writable_folder(path)
            && sight.scene.connected(process.key, sight.event.at).is_some()
            && !installs_packages(process)
    }

    fn note_written(&mut self, process: &Process, path: &[u8], now: BootNanos, out: &mut Vec<Finding>) {
        self.note_file(process.exe.iter().copied().take(KEPT_BYTES).collect(), path, now, out);
    }

    fn note_file(&mut self, exe: Vec<u8>, path: &[u8], now: BootNanos, out: &mut Vec<Finding>) {
        let key = self.path_key(path);
        if let Some((_, process)) = self.started.take(&key, now) {
            out.push(finding(&process, &exe, path));
        }
        self.written.insert(key, exe, now);
    }
}

impl Detector for DownloadAndExecute {
    fn info(&self) -> &'static DetectorInfo {
        &INFO
    }

    fn wants(&self) -> KindSet {
        KindSet::of(&[Kind::Exec, Kind::FileCreate, Kind::FileWrite, Kind::FileRename, Kind::FileLink])
    }

    fn judge(&mut self, sight: &Sight<'_>, out: &mut Vec<Finding>) {
        match &sight.event.body {
            Body::Exec => self.executed(sight, out),
            Body::File(file) => self.file(sight, file, out),
            _ => {}
        }
    }

    fn forgotten(&self) -> u64 {
        self.written.forgotten()
    }
}

/// `curl … | sh`, whichever of the two started first.
fn piped(sight: &Sight<'_>, out: &mut Vec<Finding>) {
    let (process, now) = (&sight.event.process, sight.event.at);
    let fetches = |one: &Process| {
        programs::is_downloader(one)
            || programs::is_relay(one)
            || (programs::is_interpreter(one) && sight.scene.connected(one.key, now).is_some())
    };
    let pair = if programs::takes_commands_from_stdin(process) {
        let mut feeders = sight.scene.feeders(process, now).iter();
        feeders.find(|one| one.key != process.key && fetches(one)).map(|feeder| (process, feeder))
    } else if fetches(process) {
        let mut readers = sight.scene.readers(process, now).iter();
        readers
            .find(|one| one.key != process.key && programs::takes_commands_from_stdin(one))
            .map(|shell| (shell, process))
    } else {
        None
    };
    let Some((shell, feeder)) = pair else { return };
    let mut finding = Finding::about(shell)
        .with("process.exe", &shell.exe)
        .with("process.stdin", shell.stdio[0].as_str())
        .with("downloader.exe", &feeder.exe)
        .with_argv("downloader.argv", &feeder.argv);
    finding.level = Some(Level::Medium);
    out.push(finding);
}

fn finding(process: &Arc<Process>, writer: &[u8], path: &[u8]) -> Finding {
    let mut finding = Finding::about(process)
        .with("process.exe", &process.exe)
        .with("file.path", path)
        .with("downloader.exe", writer)
        .object(String::from_utf8_lossy(path));
    if !programs::in_world_writable_folder(path) {
        finding.level = Some(Level::Medium);
    }
    finding
}

/// The files whose content this process runs: its image, a `#!` script, a script given to an interpreter.
fn code_paths(process: &Process) -> Vec<&[u8]> {
    let mut paths = vec![process.exe.as_slice()];
    if process.filename != process.exe && process.filename.starts_with(b"/") {
        paths.push(&process.filename);
    }
    if programs::is_shell(process) || programs::is_interpreter(process) {
        let script = process.args().skip(1).take(8).find(|arg| !arg.starts_with(b"-"));
        paths.extend(script.filter(|path| path.starts_with(b"/") && **path != process.filename));
    }
    paths.retain(|path| !path.is_empty());
    paths
}

fn in_system_folder(path: &[u8]) -> bool {
    const FOLDERS: &[&[u8]] =
        &[b"/usr/", b"/bin/", b"/sbin/", b"/lib/", b"/lib64/", b"/opt/", b"/snap/", b"/nix/"];
    FOLDERS.iter().any(|folder| path.starts_with(folder))
}

/// Programs whose business it is to fetch code and run it.
fn installs_packages(process: &Process) -> bool {
    const NAMES: &[&[u8]] = &[
        b"apt",
        b"apt-get",
        b"http",
        b"https",
        b"dnf",
        b"yum",
        b"zypper",
        b"apk",
        b"pacman",
        b"rpm",
        b"dpkg",
        b"snapd",
        b"flatpak",
        b"pip",
        b"pip3",
        b"uv",
        b"npm",
        b"yarn",
        b"pnpm",
        b"cargo",
        b"rustup",
        b"rustup-init",
        b"go",
        b"containerd",
        b"dockerd",
        b"podman",
        b"buildkitd",
        b"nix",
        b"nix-daemon",
        b"conda",
        b"git",
        b"git-remote-https",
        b"packer",
        b"terraform",
        b"bazel",
        b"gem",
        b"bundle",
        b"composer",
        b"sshd",
        b"sftp-server",
        b"scp",
        b"rsync",
    ];
    const WORDS: &[&[u8]] =
        &[b"pip", b"pip3", b"npm", b"npx", b"yarn", b"pnpm", b"conda", b"dnf", b"yum", b"ansible"];
    let base = |path: &[u8]| path.rsplit(|byte| *byte == b'/').next().unwrap_or_default().to_vec();
    NAMES.contains(&process.exe_name())
        || process
            .args()
            .take(4)
            .any(|arg| WORDS.contains(&base(arg).as_slice()) || arg.starts_with(b"/tmp/pip-"))
}

#[cfg(test)]
mod tests {
    use watchfire_event::Stdio;

    use super::*;
    use crate::detectors::testing::{Stage, connect, event, file, process, with_stdio};

    fn curl() -> Process {
        process(2, 1, "/usr/bin/curl", &["curl", "-o", "/tmp/x", "http://h/x"])
    }

    fn program() -> Process {
        process(3, 1, "/tmp/x", &["/tmp/x"])
    }

    #[test]
    fn a_file_that_curl_wrote_is_told_when_it_runs_within_ten_minutes() {
        for (ran_at, told) in [(5, true), (601, true), (700, false)] {
            let mut stage = Stage::new(DownloadAndExecute::new());
            assert!(stage.see(&event(1, curl(), file(FileAction::Write, "/tmp/x", 0o100755))).is_empty());
            let found = stage.see(&event(ran_at, program(), Body::Exec));
            assert_eq!(found.len(), usize::from(told), "{ran_at}");
            assert!(found.iter().all(|one| one.level.is_none()));
        }
    }

    #[test]
    fn a_write_that_is_seen_a_moment_after_the_exec_still_counts() {
        let mut stage = Stage::new(DownloadAndExecute::new());
        assert!(stage.see(&event(10, program(), Body::Exec)).is_empty());
        assert_eq!(stage.see(&event(11, curl(), file(FileAction::Write, "/tmp/x", 0o100755))).len(), 1);
        let mut stage = Stage::new(DownloadAndExecute::new());
        assert!(stage.see(&event(10, program(), Body::Exec)).is_empty());
        assert!(stage.see(&event(14, curl(), file(FileAction::Write, "/tmp/x", 0o100755))).is_empty());
    }

    #[test]
    fn a_renamed_download_and_a_script_given_to_a_shell_are_followed() {
        let mut stage = Stage::new(DownloadAndExecute::new());
        stage.see(&event(1, curl(), file(FileAction::Write, "/tmp/x.part", 0o100644)));
        let moved = FileActivity {
            action: FileAction::Rename,
            path: b"/tmp/x.part".to_vec(),
            new_path: Some(b"/home/u/run.sh".to_vec()),
            mode: None,
            uid: None,
        };
        stage.see(&event(2, process(9, 1, "/usr/bin/mv", &["mv"]), Body::File(moved)));
        let found = stage.see(&event(
            3,
            process(4, 1, "/usr/bin/bash", &["bash", "-x", "/home/u/run.sh"]),
            Body::Exec,
        ));
        assert_eq!(found[0].level, Some(Level::Medium));
    }

    #[test]
    fn another_process_counts_only_with_a_connection_and_outside_of_installs() {
        let python = || process(5, 1, "/usr/bin/python3", &["python3", "get.py"]);
        let mut stage = Stage::new(DownloadAndExecute::new());
        stage.see(&event(1, python(), file(FileAction::Write, "/tmp/x", 0o100755)));
        assert!(stage.see(&event(2, program(), Body::Exec)).is_empty());
        let mut stage = Stage::new(DownloadAndExecute::new());
        stage.see(&event(1, python(), connect("10.0.0.1:80")));
        stage.see(&event(1, python(), file(FileAction::Write, "/tmp/x", 0o100755)));
        assert_eq!(stage.see(&event(2, program(), Body::Exec)).len(), 1);
        let pip = || process(5, 1, "/usr/bin/python3", &["python3", "/usr/bin/pip", "install", "x"]);
        let mut stage = Stage::new(DownloadAndExecute::new());
        stage.see(&event(1, pip(), connect("10.0.0.1:80")));
        stage.see(&event(1, pip(), file(FileAction::Write, "/tmp/x", 0o100755)));
        assert!(stage.see(&event(2, program(), Body::Exec)).is_empty());
    }

    #[test]
    fn a_download_piped_into_a_shell_is_told_and_one_piped_elsewhere_is_not() {
        let fetch =
            || with_stdio(process(2, 1, "/usr/bin/wget", &["wget", "-qO-", "h"]), Stdio::Tty, Stdio::Pipe(7));
        let reader =
            |exe: &str, args: &[&str]| with_stdio(process(3, 1, exe, args), Stdio::Pipe(7), Stdio::Tty);
        let cases: &[(&str, &[&str], usize)] = &[
            ("/usr/bin/bash", &["bash"], 1),
            ("/usr/bin/sudo", &["sudo", "bash"], 1),
            ("/usr/bin/python3", &["python3", "-"], 1),
            ("/usr/bin/tar", &["tar", "xz"], 0),
            ("/usr/bin/bash", &["bash", "-c", "cat"], 0),
        ];
        for (exe, args, told) in cases {
            let mut stage = Stage::new(DownloadAndExecute::new());
            stage.see(&event(1, fetch(), Body::Exec));
            assert_eq!(stage.see(&event(1, reader(exe, args), Body::Exec)).len(), *told, "{args:?}");
            let mut stage = Stage::new(DownloadAndExecute::new());
            stage.see(&event(1, reader(exe, args), Body::Exec));
            assert_eq!(stage.see(&event(1, fetch(), Body::Exec)).len(), *told, "{args:?}");
        }
    }
}
