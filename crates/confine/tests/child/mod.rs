//! Children that end with their test, and how /proc shows them.

#![allow(dead_code, reason = "each test file uses a part")]

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use watchfire_confine::{CgroupHome, Confined, Confinement};

/// Long enough for any machine that is merely slow.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Ends a child, whatever the test does.
pub(crate) struct Running(pub(crate) Child);

impl Drop for Running {
    fn drop(&mut self) {
        if self.0.try_wait().unwrap().is_none() {
            self.0.kill().unwrap();
            self.0.wait().unwrap();
        }
    }
}

impl Running {
    pub(crate) fn tgid(&self) -> u32 {
        self.0.id()
    }

    pub(crate) fn proc(&self, file: &str) -> String {
        proc_file(self.tgid(), file)
    }

    /// The value of a `Name:` line of its status.
    pub(crate) fn status(&self, name: &str) -> String {
        status_line(&self.proc("status"), name)
    }

    /// A field of its stat, numbered as in proc(5).
    pub(crate) fn stat(&self, number: usize) -> i64 {
        let stat = self.proc("stat");
        let behind_name = stat.rsplit_once(')').unwrap().1;
        behind_name.split_whitespace().nth(number - 3).unwrap().parse().unwrap()
    }
}

pub(crate) fn proc_file(tgid: u32, file: &str) -> String {
    fs::read_to_string(format!("/proc/{tgid}/{file}")).unwrap()
}

pub(crate) fn status_line(status: &str, name: &str) -> String {
    let value = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    value.unwrap_or_else(|| panic!("no {name} in {status}")).trim().to_owned()
}

/// A name for an agent that no other test has.
pub(crate) fn agent() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("test-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

pub(crate) fn home() -> CgroupHome {
    CgroupHome::find("/proc", &agent())
}

pub(crate) fn sh(script: &str) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", script]);
    command
}

/// Starts `sleep` without a cgroup of its own.
pub(crate) fn sleeper(confinement: &Confinement) -> (Running, watchfire_confine::Applied) {
    let mut command = Command::new("sleep");
    command.arg("1000");
    let Confined { child, applied, .. } = confinement.spawn(&mut command, None, "sleeper").unwrap();
    (Running(child), applied)
}

pub(crate) fn until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// This test binary again, as its ignored test `role`.
pub(crate) fn as_role(variable: &str, name: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "role", "--ignored", "--nocapture"]).env(variable, name);
    command
}

/// What a role printed behind `key`.
pub(crate) fn told(output: &str, key: &str) -> String {
    let line = output.lines().find_map(|line| line.split_once(&format!("{key} ")));
    line.unwrap_or_else(|| panic!("no {key} in {output}")).1.to_owned()
}

/// The process has ended, though nobody may have reaped it yet.
pub(crate) fn has_ended(tgid: u32) -> bool {
    match fs::read_to_string(format!("/proc/{tgid}/stat")) {
        Ok(stat) => matches!(stat.rsplit_once(") ").unwrap().1.as_bytes()[0], b'Z' | b'X'),
        Err(_) => true,
    }
}

/// The cgroup directories of this agent, in every hierarchy.
pub(crate) fn directories(agent: &str) -> Vec<PathBuf> {
    let own = watchfire_host::OwnCgroups::read("/proc");
    let places = own.v1.values().chain(own.v2.as_ref());
    let tops: std::collections::BTreeSet<_> = places.map(|place| place.top.clone()).collect();
    tops.into_iter().map(|top| top.join("watchfire").join(agent)).filter(|path| path.exists()).collect()
}
