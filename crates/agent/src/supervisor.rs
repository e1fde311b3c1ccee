//! A supervisor for hosts that have no service manager: it starts this executable again as the master, hears from it
//! that it is alive, replaces it when it dies or falls silent, and ends with it when it stops in order.
//!
//! The master's words are those that systemd would hear (`notify.rs`), over a socket of the supervisor's own
//! (`supervisor/senses.rs`). The other way there is a pipe as the master's stdin. Its end means that the supervisor is
//! gone, by whatever cause: the master then stops in order, or by force when that takes longer than [`ORPHAN_GRACE`].

mod senses;

use std::ffi::OsString;
use std::io;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, Signal, WaitOptions, kill_process, set_child_subreaper, wait};
use tracing::{error, info, warn};
use watchfire_pace::{Backoff, BackoffSettings, Random};

use crate::lock::{AgentLock, LockError};
use crate::notify::Word;
use senses::Senses;

/// The option that asks for a supervisor, and the one under which it starts the master.
const ASKED: &str = "--supervise";
const STARTED: &str = "--supervised";
/// Between the end of a master and the start of the next.
const RESPAWN: BackoffSettings = BackoffSettings {
    first: Duration::from_secs(1),
    cap: Duration::from_secs(60),
    floor: Duration::from_millis(500),
};
/// A master that lived this long starts the next wait from the beginning.
const STEADY: Duration = Duration::from_secs(60);
/// A master that ended so many times in a row, none of its lives steady, is parked: started once in [`PARKED`].
const PARK_AFTER: u32 = 12;
const PARKED: Duration = Duration::from_secs(900);
/// The first word may take this long: a host that is just booting is slow.
const FIRST_WORD_WITHIN: Duration = Duration::from_secs(90);
/// The master looks at its worker once in a sample, and stopping one may hold it up for some seconds.
const SAMPLES_OF_SILENCE: u32 = 3;
const SILENCE: Duration = Duration::from_secs(10);
/// A silent master has this long to die of SIGABRT.
const ABORT_GRACE: Duration = Duration::from_secs(2);
/// A master told to stop ends its worker and hands over what it holds; it takes 8 s at most.
const STOP_GRACE: Duration = Duration::from_secs(12);
/// Between two looks at a process that SIGKILL does not end (it hangs in the kernel).
const KILL_AGAIN: Duration = Duration::from_secs(10);
/// A supervisor that slept so much too long did not run itself, and judges nobody by that time.
const OVERSLEPT: Duration = Duration::from_secs(5);
/// A master whose supervisor is gone ends in order within this, else by force.
const ORPHAN_GRACE: Duration = Duration::from_secs(1);
/// By force its workers are killed at once; the kernel has this long to take their programs down, so that no cgroup
/// stays.
const ORPHAN_CLEARED_WITHIN: Duration = Duration::from_secs(3);
/// So long a supervisor that starts waits for such a master.
const LEFTOVER_ENDS_WITHIN: Duration = Duration::from_secs(5);
const LOOK: Duration = Duration::from_millis(100);

/// What the supervisor needs to know.
pub(crate) struct SupervisorOrders {
    /// The agent's lock. The supervisor's own lock and socket lie beside it.
    pub(crate) lock: PathBuf,
    /// The longest time between two words of a master that is well.
    pub(crate) silence: Duration,
}

impl SupervisorOrders {
    /// For a master that looks around once in `sample`.
    pub(crate) fn new(lock: PathBuf, sample: Duration) -> Self {
        SupervisorOrders { lock, silence: sample.saturating_mul(SAMPLES_OF_SILENCE).saturating_add(SILENCE) }
    }
}

/// Runs until told to stop by SIGTERM or SIGINT, or until the master has stopped in order.
///
/// # Errors
/// When another agent runs, when signals or the socket are not to be had, and when the master did not stop as it
/// should.
pub(crate) fn run(orders: &SupervisorOrders) -> Result<()> {
    let _lock = AgentLock::take(&beside(&orders.lock, ".supervisor"))?;
    nobody_else(&orders.lock)?;
    let socket = beside(&orders.lock, ".notify");
    let senses = Senses::open(&socket).context("get ready to hear the master")?;
    // What a killed master leaves is then reaped here, also where process 1 reaps nothing (containers).
    if let Err(error) = set_child_subreaper(Some(rustix::process::getpid())) {
        warn!(%error, "orphans of the master go to process 1");
    }
    let outcome = Supervisor::new(orders, senses, &socket).supervise();
    if let Err(error) = std::fs::remove_file(&socket) {
        warn!(%error, socket = %socket.display(), "socket not removed");
    }
    outcome
}

/// An agent that runs already is better told of now than in a log, again and again. That of a supervisor which was just
/// killed is about to end.
fn nobody_else(lock: &Path) -> Result<(), LockError> {
    let deadline = Instant::now() + LEFTOVER_ENDS_WITHIN;
    loop {
        match AgentLock::take(lock) {
            // Given back at once: it is the master's.
            Ok(_) => return Ok(()),
            Err(LockError::Held { .. }) if Instant::now() < deadline => std::thread::sleep(LOOK),
            Err(error) => return Err(error),
        }
    }
}

/// For a master that a supervisor has started: sees to it that neither it nor its workers outlive the supervisor for
/// long, whatever else it is doing then.
///
/// # Errors
/// When there is no thread for it.
pub(crate) fn end_with_supervisor(state_dir: PathBuf) -> io::Result<()> {
    std::thread::Builder::new().name("tether".into()).spawn(move || {
        let (stdin, gone) = (io::stdin(), PollFlags::HUP | PollFlags::ERR | PollFlags::NVAL);
        loop {
            // Asked for nothing, it tells of the end alone: what stands in the pipe is another thread's.
            let mut fds = [PollFd::new(&stdin, PollFlags::empty())];
            if poll(&mut fds, None).is_ok() && fds[0].revents().intersects(gone) {
                break;
            }
        }
        std::thread::sleep(ORPHAN_GRACE);
        error!("the supervisor is gone, and the stop in order takes too long");
        if let Ok(home) = crate::confinement::home(&state_dir) {
            home.remove_leftovers(ORPHAN_CLEARED_WITHIN);
        }
        std::process::exit(1);
    })?;
    Ok(())
}

/// The lock's path with more behind it.
fn beside(lock: &Path, ending: &str) -> PathBuf {
    let mut path = lock.as_os_str().to_owned();
    path.push(ending);
    PathBuf::from(path)
}

struct Supervisor {
    senses: Senses,
    /// Where the master shall speak to.
    socket: PathBuf,
    silence: Duration,
    respawn: Backoff,
    random: Random,
    master: Option<Master>,
    /// Before this no master is started again.
    not_before: Instant,
    stopping: bool,
}

/// One life of the master.
struct Master {
    tgid: Pid,
    started: Instant,
    phase: Phase,
    /// When its time in this phase is over.
    due: Instant,
    /// Its stdin. It ends with this process.
    _tether: Option<ChildStdin>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Must speak.
    Watched,
    /// Fell silent; got SIGABRT.
    Aborted,
    /// Was told to stop, or said that it does.
    Stopping,
    /// Got SIGKILL.
    Killed,
}

impl Supervisor {
    fn new(orders: &SupervisorOrders, senses: Senses, socket: &Path) -> Self {
        let seed = watchfire_host::boot_now().0 ^ u64::from(std::process::id());
        Supervisor {
            senses,
            socket: socket.to_owned(),
            silence: orders.silence,
            respawn: Backoff::new(RESPAWN),
            random: Random::seeded(seed),
            master: None,
            not_before: Instant::now(),
            stopping: false,
        }
    }

    fn supervise(&mut self) -> Result<()> {
        loop {
            let now = Instant::now();
            if self.master.is_none() && now >= self.not_before {
                self.start(now);
            }
            let due = self.master.as_ref().map_or(self.not_before, |master| master.due);
            let patience = due.saturating_duration_since(now);
            self.senses.wait(patience);
            let woken = Instant::now();
            // What it said while nobody listened counts before its silence does.
            self.hear(woken);
            if woken.saturating_duration_since(now) > patience + OVERSLEPT {
                self.grant(woken);
            }
            if self.senses.told_to_stop() && !std::mem::replace(&mut self.stopping, true) {
                info!("stopping");
                self.stop(woken);
            }
            if let Some(status) = self.reap() {
                let Some(master) = self.master.take() else { continue };
                if self.stopping || status.success() {
                    return ended_in_order(status);
                }
                self.ended(&master, status, woken);
            }
            match &mut self.master {
                Some(master) if woken >= master.due => master.escalate(woken),
                None if self.stopping => return Ok(()),
                Some(_) | None => {}
            }
        }
    }

    fn start(&mut self, now: Instant) {
        let mut command = Command::new("/proc/self/exe");
        // In a group of its own: a Ctrl-C is for this process, which then stops the master in order.
        command.arg0("watchfire-agent").args(masters(std::env::args_os())).process_group(0);
        command.env("NOTIFY_SOCKET", &self.socket);
        command.env("WATCHDOG_USEC", self.silence.as_micros().to_string());
        match command.stdin(Stdio::piped()).spawn() {
            Ok(mut child) => {
                let tgid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
                self.master = Some(Master {
                    tgid: tgid.expect("the kernel's process ids are positive and fit"),
                    started: now,
                    phase: Phase::Watched,
                    due: now + FIRST_WORD_WITHIN,
                    _tether: child.stdin.take(),
                });
            }
            Err(error) => {
                let wait = self.next_wait();
                error!(%error, ?wait, "the master did not start; will retry");
                self.not_before = now + wait;
            }
        }
    }

    fn hear(&mut self, now: Instant) {
        let words = self.senses.words(self.master.as_ref().map(|master| master.tgid));
        let Some(master) = &mut self.master else { return };
        for word in words {
            match (word, master.phase) {
                (Word::Ready | Word::Alive, Phase::Watched) => master.due = now + self.silence,
                (Word::Stopping, Phase::Watched) => {
                    (master.phase, master.due) = (Phase::Stopping, now + STOP_GRACE)
                }
                (_, Phase::Aborted | Phase::Stopping | Phase::Killed) => {}
            }
        }
    }

    /// Nobody is silent by a time in which this process did not run either.
    fn grant(&mut self, now: Instant) {
        if let Some(master) = self.master.as_mut().filter(|master| master.phase == Phase::Watched) {
            master.due = master.due.max(now + self.silence);
        }
    }

    fn stop(&mut self, now: Instant) {
        let Some(master) = &mut self.master else { return };
        master.send(Signal::TERM);
        if matches!(master.phase, Phase::Watched | Phase::Stopping) {
            (master.phase, master.due) = (Phase::Stopping, now + STOP_GRACE);
        }
    }

    /// Takes in whoever has ended; how the master did, if it has.
    fn reap(&self) -> Option<ExitStatus> {
        let tgid = self.master.as_ref().map(|master| master.tgid);
        let mut ended = None;
        loop {
            match wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status))) if Some(pid) == tgid => {
                    ended = Some(ExitStatus::from_raw(status.as_raw()));
                }
                // An orphan of a master that was killed.
                Ok(Some(_)) | Err(rustix::io::Errno::INTR) => {}
                Ok(None) | Err(_) => return ended,
            }
        }
    }

    fn ended(&mut self, master: &Master, status: ExitStatus, now: Instant) {
        let (tgid, lived) =
            (master.tgid.as_raw_nonzero().get(), now.saturating_duration_since(master.started));
        if lived >= STEADY {
            self.respawn.reset();
        }
        let wait = self.next_wait();
        error!(%status, tgid, ?lived, deaths = self.respawn.failures(), ?wait, "the master ended; will start it again");
        self.not_before = now + wait;
    }

    fn next_wait(&mut self) -> Duration {
        let wait = self.respawn.next_wait(&mut self.random);
        if self.respawn.failures() >= PARK_AFTER { PARKED } else { wait }
    }
}

impl Master {
    /// Its time in this phase is over.
    fn escalate(&mut self, now: Instant) {
        let tgid = self.tgid.as_raw_nonzero().get();
        let (signal, phase, grace) = match self.phase {
            Phase::Watched => {
                error!(tgid, "the master says nothing any more; ending it");
                (Signal::ABORT, Phase::Aborted, ABORT_GRACE)
            }
            Phase::Aborted | Phase::Stopping | Phase::Killed => {
                warn!(tgid, phase = ?self.phase, "the master did not end in time; killing it");
                (Signal::KILL, Phase::Killed, KILL_AGAIN)
            }
        };
        self.send(signal);
        (self.phase, self.due) = (phase, now + grace);
    }

    /// Until it is reaped the number is its own.
    fn send(&self, signal: Signal) {
        if let Err(error) = kill_process(self.tgid, signal) {
            warn!(%error, ?signal, "the master did not get a signal");
        }
    }
}

fn ended_in_order(status: ExitStatus) -> Result<()> {
    if !status.success() {
        bail!("the master did not stop in order: {status}");
    }
    info!("the master has stopped");
    Ok(())
}

/// This process' arguments as the master gets them.
fn masters(own: impl Iterator<Item = OsString>) -> impl Iterator<Item = OsString> {
    own.skip(1).map(|argument| if argument == ASKED { STARTED.into() } else { argument })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_master_gets_the_same_arguments_but_the_one() {
        let own =
            ["watchfire-agent", "--log-file", "l", "run", "--supervise", "--lock", "k"].map(OsString::from);
        let masters: Vec<_> = masters(own.into_iter()).collect();
        assert_eq!(masters, ["--log-file", "l", "run", "--supervised", "--lock", "k"]);
    }

    #[test]
    fn a_master_may_be_silent_for_longer_than_it_ever_is_between_two_looks() {
        for sample in [Duration::from_millis(100), Duration::from_secs(5), Duration::from_secs(60)] {
            assert!(
                SupervisorOrders::new("lock".into(), sample).silence >= sample * 3 + Duration::from_secs(8)
            );
        }
    }

    #[test]
    fn a_failed_stop_is_an_error_that_says_how_it_ended() {
        assert!(ended_in_order(ExitStatus::from_raw(0)).is_ok());
        let error = ended_in_order(ExitStatus::from_raw(9)).unwrap_err().to_string();
        assert!(error.contains("signal: 9"), "{error}");
    }

    /// A process to send signals to.
    fn sleeper(phase: Phase) -> (std::process::Child, Master) {
        let child = Command::new("sleep").arg("60").stdin(Stdio::null()).spawn().unwrap();
        let tgid = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
        let now = Instant::now();
        (child, Master { tgid, started: now, phase, due: now, _tether: None })
    }

    #[test]
    fn silence_earns_an_abort_and_then_a_kill() {
        let (mut child, mut master) = sleeper(Phase::Watched);
        // Stopped, it cannot die of the first.
        master.send(Signal::STOP);
        let now = Instant::now();
        master.escalate(now);
        assert_eq!((master.phase, master.due), (Phase::Aborted, now + ABORT_GRACE));
        master.escalate(now);
        assert_eq!((master.phase, master.due), (Phase::Killed, now + KILL_AGAIN));
        assert_eq!(child.wait().unwrap().signal(), Some(9));
    }

    #[test]
    fn one_that_hears_the_abort_dies_of_it() {
        let (mut child, mut master) = sleeper(Phase::Watched);
        master.escalate(Instant::now());
        assert_eq!(child.wait().unwrap().signal(), Some(6));
    }
}
