//! The end of a stage, also when the program is told to stop in the middle.
//!
//! A process belongs to a stage when its environment carries the mark or it works in the folder. Groups and sessions do not
//! tell: behaviours leave them on purpose.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::stage::ENVIRONMENT_MARK;
use crate::{BehaviorError, container, sys};

/// How long killed processes may take to be gone.
const SWEEP_DEADLINE: Duration = Duration::from_secs(3);

static STAGES: Mutex<Vec<(PathBuf, String)>> = Mutex::new(Vec::new());
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// A stage's entry in the list of what must be cleaned up; dropped, it is off the list.
pub(crate) struct Registration {
    mark: String,
}

impl Drop for Registration {
    fn drop(&mut self) {
        stages().retain(|(_, mark)| *mark != self.mark);
    }
}

/// Puts a stage on the list.
pub(crate) fn register(dir: &Path, mark: &str) -> Result<Registration, BehaviorError> {
    let mut stages = stages();
    if interrupted() {
        return Err(BehaviorError::Interrupted);
    }
    stages.push((dir.to_owned(), mark.to_owned()));
    Ok(Registration { mark: mark.to_owned() })
}

/// Whether the program was told to stop; then nothing more is started.
pub(crate) fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::SeqCst)
}

/// Ends every stage of this program at once and lets none begin after it: for a program that handles its signals itself.
pub fn clean_up_all() {
    INTERRUPTED.store(true, Ordering::SeqCst);
    let all = stages().clone();
    for (dir, mark) in &all {
        sweep(dir, mark).ok();
    }
}

/// From now on SIGINT, SIGTERM and SIGHUP first end every stage, and then the program as the signal would have.
///
/// # Errors
/// When the handler or its thread cannot be set up.
pub fn clean_up_when_interrupted() -> Result<(), BehaviorError> {
    let signals = sys::watch_signals().map_err(BehaviorError::call("watch for signals"))?;
    let waiting = std::thread::Builder::new().name("behavior-signals".to_owned()).spawn(move || {
        if let Some(signal) = signals.wait() {
            clean_up_all();
            sys::die_of(signal);
        }
    });
    waiting.map(drop).map_err(BehaviorError::call("start a thread"))
}

/// Kills what belongs to the stage, waits until it is gone, removes the folder.
pub(crate) fn sweep(dir: &Path, mark: &str) -> Result<(), BehaviorError> {
    let deadline = Instant::now() + SWEEP_DEADLINE;
    loop {
        let alive = processes_of(dir, mark);
        if alive.is_empty() {
            break;
        }
        if Instant::now() >= deadline {
            return Err(BehaviorError::LeftBehind(format!("processes {alive:?} of {}", dir.display())));
        }
        alive.iter().for_each(|tgid| kill(*tgid, dir, mark));
        std::thread::sleep(Duration::from_millis(5));
    }
    container::remove_of(mark);
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(BehaviorError::LeftBehind(format!("{}: {error}", dir.display())))
        }
        _ => Ok(()),
    }
}

/// The running processes that belong to a stage, this one aside.
pub(crate) fn processes_of(dir: &Path, mark: &str) -> Vec<u32> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    let tgids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    tgids.filter(|tgid| *tgid != std::process::id() && belongs(*tgid, dir, mark)).collect()
}

fn belongs(tgid: u32, dir: &Path, mark: &str) -> bool {
    let works_there = fs::read_link(format!("/proc/{tgid}/cwd")).is_ok_and(|cwd| cwd.starts_with(dir));
    let entry = format!("{ENVIRONMENT_MARK}={mark}");
    let carries =
        |environ: Vec<u8>| environ.split(|byte| *byte == 0).any(|variable| variable == entry.as_bytes());
    works_there || fs::read(format!("/proc/{tgid}/environ")).is_ok_and(carries)
}

/// Kills through a descriptor that was taken before the last look, so that a reused number is never hit.
fn kill(tgid: u32, dir: &Path, mark: &str) {
    let pid = i32::try_from(tgid).ok().and_then(Pid::from_raw);
    let Some(pidfd) = pid.and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok()) else {
        return;
    };
    if belongs(tgid, dir, mark) {
        pidfd_send_signal(&pidfd, Signal::KILL).ok();
    }
}

fn stages() -> MutexGuard<'static, Vec<(PathBuf, String)>> {
    STAGES.lock().unwrap_or_else(PoisonError::into_inner)
}
