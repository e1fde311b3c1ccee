//! The stage of one behaviour: a folder with a mark in its name, children with a deadline, nothing left behind.

use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use crate::BehaviorError;
use crate::child::{PART_VARIABLE, SAY};
use crate::interrupt::{self, Registration};
use crate::started::{Ended, Started};
use crate::tools;

/// How long one child may run.
const DEADLINE: Duration = Duration::from_secs(15);
/// Between the preparations and the deed. The folders that a stage has just made have been there for years on a real host: this is
/// the agent's time to take note of them, and ours to tell the deed from its preparations.
const SETTLE: Duration = Duration::from_millis(100);
/// A busy file is tried again this often, 5 ms apart: between fork and exec another thread's child holds a copy of the
/// descriptor through which the file was just written (ETXTBSY).
const BUSY_TRIES: u32 = 40;
/// Named in the environment of every child, so that none is overlooked at the end.
pub(crate) const ENVIRONMENT_MARK: &str = "WATCHFIRE_STAGE";

/// Where one behaviour is performed. Dropped, it kills what still runs and removes its folder.
pub struct Stage {
    dir: PathBuf,
    mark: String,
    auth_log: Option<PathBuf>,
    _registration: Registration,
}

/// A behaviour that was performed.
#[derive(Debug, Clone)]
pub struct Performed {
    /// After all preparations, just before the first step; the deciding one comes some milliseconds later.
    pub began: SystemTime,
    /// What [`Stage::marks`] says: an alert that mentions one of these was caused by it.
    pub marks: Vec<String>,
}

impl Performed {
    /// Whether an alert (its JSON text) mentions one of the marks.
    pub fn mentioned_in(&self, alert_json: &str) -> bool {
        self.marks.iter().any(|mark| mentions(mark, alert_json))
    }
}

/// Whether an alert (its JSON text) mentions `mark` anywhere: in a path, an argument, a working directory. Marks are plain
/// letters and digits, so no escaping can hide one, and long enough not to occur by chance.
pub fn mentions(mark: &str, alert_json: &str) -> bool {
    !mark.is_empty() && alert_json.contains(mark)
}

impl Stage {
    /// A stage under /tmp, which the agent watches unless told otherwise.
    ///
    /// # Errors
    /// When the folder cannot be made, or the program was interrupted.
    pub fn new() -> Result<Self, BehaviorError> {
        Self::new_in(Path::new("/tmp"))
    }

    /// A stage under `parent`: `<parent>/watchfire-<mark>`.
    ///
    /// # Errors
    /// As [`Stage::new`].
    pub fn new_in(parent: &Path) -> Result<Self, BehaviorError> {
        let failed =
            |source| BehaviorError::File { attempt: "make a stage in", path: parent.to_owned(), source };
        let folder = tempfile::Builder::new().prefix("watchfire-").rand_bytes(12).tempdir_in(parent);
        let dir = folder.map_err(failed)?.keep();
        let name = dir.file_name().map(OsStr::to_string_lossy).unwrap_or_default();
        let mark = name.trim_start_matches("watchfire-").to_owned();
        let registration = match interrupt::register(&dir, &mark) {
            Ok(registration) => registration,
            Err(error) => {
                fs::remove_dir(&dir).ok();
                return Err(error);
            }
        };
        let stage = Self { dir, mark, auth_log: None, _registration: registration };
        // A child that is no longer root must be able to reach the files it is shown.
        fs::set_permissions(&stage.dir, Permissions::from_mode(0o755)).map_err(failed)?;
        stage.folder("root")?;
        Ok(stage)
    }

    /// The same stage, with the log of its ssh server going to `path` (which an agent tails) instead of a file of its own.
    #[must_use]
    pub fn with_auth_log(mut self, path: &Path) -> Self {
        self.auth_log = Some(path.to_owned());
        self
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Twelve random letters and digits, part of the folder's name.
    pub fn mark(&self) -> &str {
        &self.mark
    }

    /// What ties an alert to this stage: the mark, and the loopback address from which its ssh client calls (a login names no
    /// process and no folder).
    pub fn marks(&self) -> Vec<String> {
        vec![self.mark.clone(), self.loopback().to_string()]
    }

    /// Ends the stage and says what could not be cleaned up; dropping it does the same in silence.
    ///
    /// # Errors
    /// [`BehaviorError::LeftBehind`] names what outlived it.
    pub fn close(self) -> Result<(), BehaviorError> {
        interrupt::sweep(&self.dir, &self.mark)
    }

    /// The log an ssh server of this stage writes.
    pub(crate) fn auth_log(&self) -> PathBuf {
        self.auth_log.clone().unwrap_or_else(|| self.path("var/log/auth.log"))
    }

    /// A loopback address that belongs to this stage alone, as far as chance allows: connections from it can be told from
    /// others' in a log that names no process. Always three digits a part, so that none is the beginning of another.
    pub(crate) fn loopback(&self) -> Ipv4Addr {
        let mut parts = [0u8; 3];
        for (index, byte) in self.mark.bytes().enumerate() {
            let part = &mut parts[index % 3];
            *part = part.wrapping_mul(31).wrapping_add(byte);
        }
        let [second, third, fourth] = parts.map(|part| 100 + part % 150);
        Ipv4Addr::new(127, second, third, fourth)
    }

    /// The beginning of a behaviour, when all preparations are made.
    pub(crate) fn begin(&self) -> Performed {
        std::thread::sleep(SETTLE);
        Performed { began: SystemTime::now(), marks: self.marks() }
    }

    /// `relative` below the stage's folder.
    pub(crate) fn path(&self, relative: &str) -> PathBuf {
        self.dir.join(relative)
    }

    /// The same as text for a script. The folder's name holds nothing that a shell would interpret.
    pub(crate) fn text(&self, relative: &str) -> String {
        self.path(relative).to_string_lossy().into_owned()
    }

    /// Makes a folder with its parents.
    pub(crate) fn folder(&self, relative: &str) -> Result<PathBuf, BehaviorError> {
        let path = self.path(relative);
        let made = fs::create_dir_all(&path);
        made.map_err(|source| BehaviorError::File { attempt: "make folder", path: path.clone(), source })?;
        Ok(path)
    }

    /// Writes a file, making its folder. For what must be there beforehand; the deed itself is left to a child.
    pub(crate) fn file(&self, relative: &str, content: &str) -> Result<PathBuf, BehaviorError> {
        let path = self.path(relative);
        if let Some((folder, _)) = relative.rsplit_once('/') {
            self.folder(folder)?;
        }
        let written = fs::write(&path, content);
        written.map_err(|source| BehaviorError::File { attempt: "write", path: path.clone(), source })?;
        Ok(path)
    }

    /// Copies a program of this host into the stage, executable.
    pub(crate) fn copy_tool(&self, tool: &str, relative: &str) -> Result<PathBuf, BehaviorError> {
        let found = tools::find(tool);
        let source = found.ok_or_else(|| BehaviorError::Unavailable(format!("{tool} is not on PATH")))?;
        self.copy(&source, relative)
    }

    fn copy(&self, source: &Path, relative: &str) -> Result<PathBuf, BehaviorError> {
        let target = self.path(relative);
        if let Some((folder, _)) = relative.rsplit_once('/') {
            self.folder(folder)?;
        }
        let copied = fs::copy(source, &target);
        let failed =
            |source| BehaviorError::File { attempt: "copy a program to", path: target.clone(), source };
        copied.map_err(failed)?;
        fs::set_permissions(&target, Permissions::from_mode(0o755)).map_err(failed)?;
        Ok(target)
    }

    /// Puts a harmless program into the stage that prints its arguments, whatever it is called: a copy of `echo`, or, where that
    /// is a program of many names which goes by its own, of the running program.
    pub(crate) fn copy_harmless(&self, relative: &str) -> Result<PathBuf, BehaviorError> {
        self.copy(&harmless_program(), relative)
    }

    /// A program by its name, as a person would type it: argv[0] is the name.
    pub(crate) fn command(&self, name: &str) -> Command {
        let mut command = self.own(&tools::find(name).unwrap_or_else(|| PathBuf::from(name)));
        command.arg0(name);
        command
    }

    /// A program by its path. It will work in the stage, with an environment of its own, in a process group of its own.
    pub(crate) fn own(&self, path: &Path) -> Command {
        let mut command = Command::new(path);
        command.current_dir(&self.dir).process_group(0);
        command.env_clear().env("PATH", tools::search_path()).env("HOME", self.path("root"));
        command
            .env("LANG", "C")
            .env("TERM", "dumb")
            .env(ENVIRONMENT_MARK, &self.mark)
            .env(PART_VARIABLE, SAY);
        command
    }

    /// A copy of the running program under another name, which will do one part (see `child.rs`). A copy, so that neither its
    /// name nor its place is one that an agent has reason to trust.
    pub(crate) fn helper(&self, name: &str, part: &str) -> Result<Command, BehaviorError> {
        let path = self.path(name);
        if !path.exists() {
            self.copy(Path::new("/proc/self/exe"), name)?;
        }
        let mut command = self.own(&path);
        command.env(PART_VARIABLE, part);
        Ok(command)
    }

    /// Runs `sh -c script` in the stage and insists on exit status 0.
    pub(crate) fn sh(&self, script: &str) -> Result<Ended, BehaviorError> {
        self.run(self.command("sh").args(["-c", script]))
    }

    /// Runs a command to its end and insists on exit status 0.
    pub(crate) fn run(&self, command: &mut Command) -> Result<Ended, BehaviorError> {
        self.start(command)?.wait()?.success()
    }

    /// Starts a command: stdin from /dev/null, output to a nameless file.
    pub(crate) fn start(&self, command: &mut Command) -> Result<Started, BehaviorError> {
        let output = self.nameless_file()?;
        let clone = |file: &File| file.try_clone().map_err(BehaviorError::call("duplicate a descriptor"));
        command.stdin(Stdio::null()).stdout(clone(&output)?).stderr(clone(&output)?);
        self.start_wired(command, output)
    }

    /// As [`Stage::start`], but the caller has said what stdin, stdout and stderr are.
    pub(crate) fn start_with_stdio(&self, command: &mut Command) -> Result<Started, BehaviorError> {
        let output = self.nameless_file()?;
        self.start_wired(command, output)
    }

    fn start_wired(&self, command: &mut Command, output: File) -> Result<Started, BehaviorError> {
        if interrupt::interrupted() {
            return Err(BehaviorError::Interrupted);
        }
        let program = command.get_program().to_string_lossy().into_owned();
        let child = spawn_even_if_busy(command);
        let child = child.map_err(|source| BehaviorError::Start { program: program.clone(), source })?;
        Ok(Started::new(program, child, output, DEADLINE))
    }

    fn nameless_file(&self) -> Result<File, BehaviorError> {
        let failed = |source| BehaviorError::File {
            attempt: "make a nameless file in",
            path: self.dir.clone(),
            source,
        };
        tempfile::tempfile_in(&self.dir).map_err(failed)
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        interrupt::sweep(&self.dir, &self.mark).ok();
    }
}

/// See [`Stage::copy_harmless`].
pub(crate) fn harmless_program() -> PathBuf {
    let echo = tools::find("echo").and_then(|found| found.canonicalize().ok());
    let single = echo.filter(|path| path.file_name().is_some_and(|name| name == "echo"));
    single.unwrap_or_else(|| PathBuf::from("/proc/self/exe"))
}

fn spawn_even_if_busy(command: &mut Command) -> std::io::Result<std::process::Child> {
    let mut tries = 0;
    loop {
        match command.spawn() {
            Err(error) if error.kind() == std::io::ErrorKind::ExecutableFileBusy && tries < BUSY_TRIES => {
                tries += 1;
                std::thread::sleep(Duration::from_millis(5));
            }
            other => return other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stage_is_named_by_its_mark_and_gone_when_dropped() {
        let stage = Stage::new().unwrap();
        let dir = stage.dir().to_owned();
        assert_eq!(dir, Path::new("/tmp").join(format!("watchfire-{}", stage.mark())));
        assert_eq!(stage.mark().len(), 12);
        stage.file("etc/cron.d/job", "x").unwrap();
        drop(stage);
        assert!(!dir.exists());
    }

    #[test]
    fn children_work_in_the_stage_and_those_that_left_their_group_are_ended_too() {
        let stage = Stage::new().unwrap();
        // The stage ends a child's group once the child has ended: the runaway must have left it by then.
        let script = "pwd; setsid sh -c ': >away; exec sleep 300' </dev/null >/dev/null 2>&1 & \
                      while [ ! -e away ]; do sleep 0.01; done";
        let ended = stage.sh(script).unwrap();
        assert!(ended.output().contains(&stage.text("")[..stage.text("").len() - 1]), "{}", ended.output());
        let mark = stage.mark().to_owned();
        assert_eq!(interrupt::processes_of(stage.dir(), &mark).len(), 1);
        let dir = stage.dir().to_owned();
        stage.close().unwrap();
        assert_eq!(interrupt::processes_of(&dir, &mark).len(), 0);
    }

    #[test]
    fn a_child_that_does_not_end_is_killed_when_dropped() {
        let stage = Stage::new().unwrap();
        let started = stage.start(stage.command("sleep").arg("300")).unwrap();
        let tgid = started.tgid();
        drop(started);
        assert!(!Path::new(&format!("/proc/{tgid}")).exists());
    }

    #[test]
    fn the_mark_is_found_in_an_alert_and_an_empty_one_never() {
        assert!(mentions("aB3dE5gH7jK9", r#"{"tree":[{"cwd":"/tmp/watchfire-aB3dE5gH7jK9"}]}"#));
        assert!(!mentions("aB3dE5gH7jK9", r#"{"tree":[{"cwd":"/tmp"}]}"#));
        assert!(!mentions("", "anything"));
    }

    #[test]
    fn the_loopback_address_has_three_digits_in_each_part() {
        for _ in 0..50 {
            let stage = Stage::new().unwrap();
            let octets = stage.loopback().octets();
            assert!(
                octets[0] == 127 && octets[1..].iter().all(|part| (100..250).contains(part)),
                "{octets:?}"
            );
        }
    }
}
