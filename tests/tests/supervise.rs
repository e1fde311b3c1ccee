//! The agent without a service manager: its supervisor replaces a master that died or hangs, and ends with it.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use watchfire_tests::{
    Ground, alive, cgroup_name, cgroups_named, descendants, eventually, hooks, hooks_of, obstacle, program,
};

/// One agent at a time: two on a host see each other's work.
static ALONE: Mutex<()> = Mutex::new(());

/// A debug build loads its programs and rules on a busy machine; before that a wait of some seconds.
const WATCHES_WITHIN: Duration = Duration::from_secs(90);
/// A second in order, three by force, and room for a busy machine.
const GONE_WITHIN: Duration = Duration::from_secs(10);
const STOPS_WITHIN: Duration = Duration::from_secs(20);

fn scenario(run: impl FnOnce() -> Result<()>) -> Result<()> {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    match obstacle() {
        Some(reason) => {
            eprintln!("skipped: supervise: {reason}");
            Ok(())
        }
        None => run(),
    }
}

#[test]
fn a_master_that_dies_or_hangs_is_replaced_and_without_its_supervisor_nothing_stays() -> Result<()> {
    scenario(|| {
        let ground = Ground::new()?;
        let mut agent = Supervised::start(&ground)?;
        let first = agent.watching(&BTreeSet::new())?;

        send(first, Signal::KILL)?;
        let second = agent.watching(&BTreeSet::from([first]))?;

        // It lives and says nothing.
        send(second, Signal::STOP)?;
        let third = agent.watching(&BTreeSet::from([first, second]))?;
        let said = agent.output();
        ensure!(said.contains("says nothing any more") && said.contains("signal: 9"), "{said}");

        let cgroup = cgroup_name(&agent.state)?;
        ensure!(!cgroups_named(&cgroup).is_empty(), "no cgroup of ours while it runs");
        let family = descendants(agent.child.id());
        ensure!(family.iter().any(|(tgid, _)| *tgid == third) && family.len() > 1, "{family:?}");
        send(agent.child.id(), Signal::KILL)?;
        let gone = eventually(GONE_WITHIN, || {
            let traces = hooks().intersection(&agent.hooks).count() + cgroups_named(&cgroup).len();
            Ok((alive(&family).is_empty() && traces == 0).then_some(()))
        })?;
        let left = (alive(&family), hooks().intersection(&agent.hooks).count(), cgroups_named(&cgroup));
        ensure!(gone.is_some(), "processes, hooks, cgroups left: {left:?}:\n{}", agent.output());
        Ok(())
    })
}

#[test]
fn a_stop_in_order_of_either_ends_both_and_a_second_one_is_refused() -> Result<()> {
    scenario(|| {
        let ground = Ground::new()?;
        for victim_is_master in [false, true] {
            let mut agent = Supervised::start(&ground)?;
            let master = agent.watching(&BTreeSet::new())?;
            let cgroup = cgroup_name(&agent.state)?;
            let family = descendants(agent.child.id());
            if !victim_is_master {
                let second = command(&ground)?.stdin(Stdio::null()).output().context("run a second one")?;
                let said = String::from_utf8_lossy(&second.stderr).into_owned();
                let holder = format!("process {}", agent.child.id());
                ensure!(!second.status.success() && said.contains(&holder), "{said}");
            }
            send(if victim_is_master { master } else { agent.child.id() }, Signal::TERM)?;
            let status = agent.ended()?;
            ensure!(status.success(), "ended by {status}:\n{}", agent.output());
            let left = (alive(&family), hooks().intersection(&agent.hooks).count(), cgroups_named(&cgroup));
            ensure!(left.0.is_empty() && left.1 == 0 && left.2.is_empty(), "left: {left:?}");
            ensure!(!ground.path("lock.notify").exists(), "its socket stays");
        }
        Ok(())
    })
}

/// `watchfire agent run --supervise`, with no server to speak to.
struct Supervised {
    child: Child,
    state: PathBuf,
    output: PathBuf,
    /// Those of its workers, of all that were seen.
    hooks: BTreeSet<u32>,
}

impl Supervised {
    fn start(ground: &Ground) -> Result<Self> {
        let (state, output) = (ground.path("state"), ground.path("output"));
        fs::create_dir_all(&state).context("make a state directory")?;
        let settings = json!({ "limits": {
            // A master that looks around often may be silent for 10 s only.
            "sample_ms": 100, "sensor": { "cpu_percent": 100, "cpu_samples": 60 },
            "host": { "cpu_pressure": 101, "memory_pressure": 101, "io_pressure": 101 },
        }});
        fs::write(ground.path("agent.json"), settings.to_string()).context("write its settings")?;
        let log = File::options().create(true).append(true).open(&output).context("open its output")?;
        let mut command = command(ground)?;
        let child = command.stdin(Stdio::null()).stderr(log).spawn().context("start it")?;
        Ok(Supervised { child, state, output, hooks: BTreeSet::new() })
    }

    /// Waits until a master, none of `earlier`, has its sensors in the kernel; its tgid.
    fn watching(&mut self, earlier: &BTreeSet<u32>) -> Result<u32> {
        let watching = eventually(WATCHES_WITHIN, || {
            if let Some(status) = self.child.try_wait().context("ask for the exit status")? {
                bail!("the supervisor ended by {status}:\n{}", self.output());
            }
            let master = self.master().filter(|master| !earlier.contains(master));
            let workers = master.map(descendants).unwrap_or_default();
            let hooks = hooks_of(&workers);
            Ok(master.filter(|_| !hooks.is_empty()).map(|master| (master, hooks)))
        })?;
        let (master, hooks) = watching.with_context(|| format!("no master watches:\n{}", self.output()))?;
        self.hooks.extend(hooks);
        Ok(master)
    }

    fn master(&self) -> Option<u32> {
        let is_master = |tgid: &u32| {
            let line = fs::read(format!("/proc/{tgid}/cmdline")).unwrap_or_default();
            line.split(|byte| *byte == 0).any(|argument| argument == b"--supervised")
        };
        descendants(self.child.id()).into_iter().map(|(tgid, _)| tgid).find(is_master)
    }

    fn ended(&mut self) -> Result<ExitStatus> {
        let ended = eventually(STOPS_WITHIN, || self.child.try_wait().context("ask for the exit status"))?;
        ended.with_context(|| format!("still running:\n{}", self.output()))
    }

    fn output(&self) -> String {
        fs::read(&self.output).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }
}

impl Drop for Supervised {
    /// The supervisor first: it would start what is killed before it again.
    fn drop(&mut self) {
        let family = descendants(self.child.id());
        self.child.kill().ok();
        self.child.wait().ok();
        for (tgid, _) in alive(&family) {
            send(tgid, Signal::KILL).ok();
        }
    }
}

fn command(ground: &Ground) -> Result<Command> {
    let mut command = Command::new(program()?);
    command.args(["agent", "run", "--supervise", "--server-socket"]).arg(ground.path("no-server.sock"));
    command.arg("--state-dir").arg(ground.path("state")).arg("--lock").arg(ground.path("lock"));
    command.arg("--config").arg(ground.path("agent.json"));
    Ok(command)
}

fn send(tgid: u32, signal: Signal) -> Result<()> {
    let pid = i32::try_from(tgid).ok().and_then(Pid::from_raw).context("a tgid")?;
    kill_process(pid, signal).context("send a signal")
}
