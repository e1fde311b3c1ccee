//! A child of the stage: its own process group, a deadline, and an end in any case.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::process::{Child, ExitStatus};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};

use crate::BehaviorError;

/// How often a waiting parent looks.
const LOOK: Duration = Duration::from_millis(2);
/// How much of a child's output is kept for messages and checks.
const OUTPUT_LIMIT: u64 = 64 * 1024;

/// A running child. Dropped, its whole process group is killed and it is reaped.
pub(crate) struct Started {
    program: String,
    child: Child,
    output: File,
    deadline: Instant,
    group_killed: bool,
    allowed: Duration,
}

/// A child that has ended.
pub(crate) struct Ended {
    program: String,
    status: ExitStatus,
    output: String,
}

impl Started {
    /// Takes charge of `child`, which writes to `output` and leads its own process group.
    pub(crate) fn new(program: String, child: Child, output: File, allowed: Duration) -> Self {
        Self { program, child, output, deadline: Instant::now() + allowed, group_killed: false, allowed }
    }

    /// The child's tgid.
    pub(crate) fn tgid(&self) -> u32 {
        self.child.id()
    }

    /// The child's stderr, if it was asked for as a pipe.
    pub(crate) fn take_stderr(&mut self) -> Option<std::process::ChildStderr> {
        self.child.stderr.take()
    }

    /// Waits for the end, whatever the status.
    pub(crate) fn wait(mut self) -> Result<Ended, BehaviorError> {
        loop {
            if self.has_ended()? {
                self.kill_group();
                let status = self.child.wait().map_err(BehaviorError::call("wait for a child"))?;
                let output = self.read_output();
                return Ok(Ended { program: self.program.clone(), status, output });
            }
            if Instant::now() >= self.deadline {
                return Err(BehaviorError::Deadline { program: self.program.clone(), after: self.allowed });
            }
            std::thread::sleep(LOOK);
        }
    }

    /// Looks without reaping: as long as the leader is a zombie, the group's number cannot be given to anyone else.
    fn has_ended(&self) -> Result<bool, BehaviorError> {
        let Some(pid) = self.pid() else { return Ok(true) };
        let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        let status = waitid(WaitId::Pid(pid), look).map_err(BehaviorError::errno("wait for a child"))?;
        Ok(status.is_some())
    }

    /// The group may outlive its leader: a background job, a shell's last pipe.
    fn kill_group(&mut self) {
        if let Some(group) = self.pid().filter(|_| !self.group_killed) {
            kill_process_group(group, Signal::KILL).ok();
        }
        self.group_killed = true;
    }

    fn pid(&self) -> Option<Pid> {
        i32::try_from(self.child.id()).ok().and_then(Pid::from_raw)
    }

    fn read_output(&mut self) -> String {
        let mut bytes = Vec::new();
        let read = self.output.seek(SeekFrom::Start(0));
        if read.and_then(|_| (&mut self.output).take(OUTPUT_LIMIT).read_to_end(&mut bytes)).is_err() {
            return String::new();
        }
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        self.kill_group();
        self.child.wait().ok();
    }
}

impl Ended {
    /// What it wrote to stdout and stderr (the first 64 KiB).
    pub(crate) fn output(&self) -> &str {
        &self.output
    }

    /// How it ended.
    pub(crate) fn status(&self) -> ExitStatus {
        self.status
    }

    /// Refuses any end but exit status 0.
    pub(crate) fn success(self) -> Result<Self, BehaviorError> {
        if self.status.success() {
            return Ok(self);
        }
        let tail: String =
            self.output.chars().rev().take(400).collect::<Vec<_>>().into_iter().rev().collect();
        let output = tail.trim_end().escape_default().to_string();
        Err(BehaviorError::Failed { program: self.program, status: self.status, output })
    }

    /// Refuses an output that does not hold `word`.
    pub(crate) fn saying(self, attempt: &'static str, word: &str) -> Result<Self, BehaviorError> {
        if self.output.contains(word) {
            return Ok(self);
        }
        Err(BehaviorError::Unexpected { attempt, got: self.output })
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::CommandExt;
    use std::process::Command;

    use super::*;

    fn start(program: &str, argument: &str, allowed: Duration) -> Started {
        let child = Command::new(program).args(["-c", argument]).process_group(0).spawn().unwrap();
        Started::new(program.to_owned(), child, tempfile::tempfile().unwrap(), allowed)
    }

    #[test]
    fn a_child_past_its_deadline_is_killed_and_named() {
        let started = start("sh", "sleep 300; :", Duration::from_millis(50));
        let tgid = started.tgid();
        let error = started.wait().err().unwrap();
        assert_eq!(error.to_string(), "sh: still running after 50ms; killed");
        assert!(!std::path::Path::new(&format!("/proc/{tgid}")).exists());
    }

    #[test]
    fn what_a_child_leaves_in_its_group_ends_with_it() {
        let ended = start("sh", "sleep 299 & exit 3", Duration::from_secs(5)).wait().unwrap();
        assert_eq!(ended.status().code(), Some(3));
        assert!(ended.success().is_err());
    }
}
