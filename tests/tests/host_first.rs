//! The host's business comes first: a worker is held to its limits, leaves the kernel when it costs too much, and comes back by itself.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use watchfire_tests::{Ground, Installation, alive, eventually, obstacle, program};

/// One installation at a time: two agents on a host see each other's work.
static ALONE: Mutex<()> = Mutex::new(());

const SHOWN_WITHIN: Duration = Duration::from_secs(20);
const TRIPS_WITHIN: Duration = Duration::from_secs(60);
const BACK_WITHIN: Duration = Duration::from_secs(60);
/// What the design allows a worker to outlive its master.
const ORPHANS_END_WITHIN: Duration = Duration::from_secs(2);
/// Where cgroups are mounted, of either version.
const CGROUPS: &str = "/sys/fs/cgroup";
/// The hook without which no process is seen.
const HOOK: &str = "on_exec";

fn scenario(run: impl FnOnce() -> Result<()>) -> Result<()> {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    match obstacle() {
        Some(reason) => {
            eprintln!("skipped: host first: {reason}");
            Ok(())
        }
        None => run(),
    }
}

#[test]
fn an_expensive_worker_leaves_the_kernel_and_comes_back_when_it_is_quiet() -> Result<()> {
    scenario(|| {
        let others = hooks();
        let ground = Ground::new()?;
        // Little, so that a storm of any size is over it, and no cool-down that a test must wait long for.
        ground.configure_agent(&json!({ "limits": {
            "sample_ms": 300, "cool_down_s": 2, "longest_cool_down_s": 4,
            "sensor": { "cpu_percent": 3, "cpu_samples": 3 },
            "host": { "cpu_pressure": 101, "memory_pressure": 101, "io_pressure": 101 },
        }}))?;
        let up = ground.start()?;
        let ours: BTreeSet<u32> = hooks().difference(&others).copied().collect();
        ensure!(!ours.is_empty(), "no hook of ours in the kernel");
        let idle = storm_until(|| Ok(host(&up)?["idle"].as_str().is_some_and(|why| why.contains("cpu"))))?;
        ensure!(idle, "never tripped: {}:\n{}", host(&up)?, up.output());
        let tripped = host(&up)?;
        let breakers = tripped["breakers"].as_array().context("breakers")?;
        let breaker = breakers.iter().find(|breaker| breaker["name"] == "worker sensor");
        ensure!(breaker.is_some_and(|breaker| breaker["trips"].as_u64() >= Some(1)), "{tripped}");
        ensure!(tripped["online"] == true && tripped["sensors_attached"] == false, "{tripped}");
        let gone = eventually(BACK_WITHIN, || Ok(hooks().is_disjoint(&ours).then_some(())))?;
        ensure!(gone.is_some(), "hooks of the stopped worker are still in the kernel");

        let back = eventually(BACK_WITHIN, || Ok(watches(&up)?.then_some(())))?;
        ensure!(back.is_some(), "not back: {}:\n{}", host(&up)?, up.output());
        books_close(&up)
    })
}

#[test]
fn a_worker_holds_only_what_it_needs() -> Result<()> {
    scenario(|| {
        let ground = Ground::new()?;
        let up = ground.start()?;
        let worker = worker_of(&up)?;
        let status = fs::read_to_string(format!("/proc/{worker}/status")).context("read its status")?;
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).context("a field of status");
            line.map(|value| value.trim_start_matches(':').trim().to_owned())
        };
        ensure!(field("NoNewPrivs")? == "1" && field("Seccomp")? == "2", "{status}");
        let effective = u64::from_str_radix(&field("CapEff")?, 16).context("capabilities are hexadecimal")?;
        // CHOWN 0, DAC_OVERRIDE 1, KILL 5, SETUID 7, SYS_MODULE 16, SYS_BOOT 22, MKNOD 27.
        for barred in [0, 1, 5, 7, 16, 22, 27] {
            ensure!(effective & (1 << barred) == 0, "capability {barred} is kept: {effective:#x}");
        }
        let oom =
            fs::read_to_string(format!("/proc/{worker}/oom_score_adj")).context("read oom_score_adj")?;
        ensure!(oom.trim() == "1000", "oom_score_adj {oom}");
        let cgroup = fs::read_to_string(format!("/proc/{worker}/cgroup")).context("read its cgroup")?;
        ensure!(cgroup.contains(&format!("{}/sensor", cgroup_of(&ground)?)), "{cgroup}");
        // And sees what it should all the same.
        up.raises_an_alert()
    })
}

#[test]
fn a_second_agent_is_refused_and_told_who_holds_the_lock() -> Result<()> {
    scenario(|| {
        let ground = Ground::new()?;
        let up = ground.start()?;
        let other = ground.path("other-agent");
        fs::create_dir(&other).context("make a state directory")?;
        let mut command = Command::new(program()?);
        command.args(["agent", "run", "--server-socket"]).arg(ground.data().join("agent.sock"));
        command.arg("--state-dir").arg(&other).arg("--lock").arg(ground.data().join("agent/agent.lock"));
        let output = command.stdin(Stdio::null()).output().context("run a second agent")?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let master = master_of(&up)?;
        ensure!(!output.status.success() && said.contains("another agent"), "{said}");
        ensure!(said.contains(&format!("process {master}")), "the holder {master} is not named: {said}");
        up.raises_an_alert()
    })
}

#[test]
fn killed_at_any_moment_the_agent_comes_back_and_leaves_nothing() -> Result<()> {
    scenario(|| {
        let ground = Ground::new()?;
        let up = ground.start()?;
        for round in 0..4 {
            let before = up.agent_processes();
            let victim = if round % 2 == 0 { worker_of(&up)? } else { master_of(&up)? };
            kill(victim)?;
            let worker_may_live = round % 2 == 0;
            let orphans = || before.iter().copied().filter(|(tgid, _)| !worker_may_live || *tgid == victim);
            let ended = eventually(ORPHANS_END_WITHIN + Duration::from_secs(3), || {
                Ok(alive(&orphans().collect::<Vec<_>>()).is_empty().then_some(()))
            })?;
            ensure!(ended.is_some(), "processes of the killed agent live on");
            let back = eventually(BACK_WITHIN, || {
                let worker = worker_of(&up).ok().filter(|worker| *worker != victim);
                Ok((worker.is_some() && watches(&up)?).then_some(()))
            })?;
            ensure!(back.is_some(), "round {round}: not back:\n{}", up.output());
        }
        up.raises_an_alert()?;
        let cgroup = cgroup_of(&ground)?;
        ensure!(!cgroups_named(&cgroup).is_empty(), "no cgroup of ours while it runs");
        let (status, _) = up.terminate()?;
        ensure!(status.success(), "ended by {status}");
        ensure!(cgroups_named(&cgroup).is_empty(), "left behind: {:?}", cgroups_named(&cgroup));
        Ok(())
    })
}

#[test]
fn the_doctor_tries_everything_for_real_and_leaves_nothing() -> Result<()> {
    scenario(|| {
        let ground = Ground::new()?;
        let state = ground.data().join("agent");
        fs::create_dir(&state).context("make a state directory")?;
        let others = hooks();
        let mut command = Command::new(program()?);
        command.args(["agent", "doctor", "--json", "--state-dir"]).arg(&state);
        let output = command.arg("--lock").arg(state.join("lock")).stdin(Stdio::null()).output();
        let output = output.context("run the doctor")?;
        let said = String::from_utf8(output.stdout).context("JSON is UTF-8")?;
        ensure!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
        let findings = said.lines().map(serde_json::from_str).collect::<Result<Vec<Value>, _>>()?;
        let verdict = |what: &str| {
            let named = |finding: &&Value| finding["what"].as_str().is_some_and(|it| it.starts_with(what));
            findings.iter().find(named).map(|finding| finding["verdict"].as_str().unwrap_or_default())
        };
        for what in ["privileges", "the agent's lock", "ebpf process", "capabilities", "system call filter"] {
            ensure!(verdict(what) == Some("works"), "{what}: {:?}:\n{said}", verdict(what));
        }
        ensure!(hooks().is_subset(&others), "the doctor left hooks in the kernel");
        ensure!(cgroups_named(&cgroup_of(&ground)?).is_empty(), "the doctor left a cgroup");
        Ok(())
    })
}

/// Starts programs as fast as two threads can until `reached`; whether it was, in time.
fn storm_until(reached: impl Fn() -> Result<bool>) -> Result<bool> {
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    let started = Command::new("/bin/true").stdin(Stdio::null()).status();
                    if started.is_err() {
                        return;
                    }
                }
            });
        }
        let outcome = eventually(TRIPS_WITHIN, || Ok(reached()?.then_some(())));
        over.store(true, Ordering::Relaxed);
        Ok(outcome?.is_some())
    })
}

/// Ids of all programs in the kernel that have the name of our hook.
fn hooks() -> BTreeSet<u32> {
    let loaded = aya::programs::loaded_programs().filter_map(Result::ok);
    loaded.filter(|info| info.name_as_str() == Some(HOOK)).map(|info| info.id()).collect()
}

/// What `watchfire hosts --json` says of this host.
fn host(up: &Installation) -> Result<Value> {
    up.lines(&["hosts", "--json"])?.into_iter().next().context("no host is known")
}

/// Whether a worker with sensors speaks; the last word of one that is gone stays known while the agent is offline.
fn watches(up: &Installation) -> Result<bool> {
    let host = host(up)?;
    Ok(host["online"] == true && host["sensors_attached"] == true)
}

fn books_close(up: &Installation) -> Result<()> {
    let closed = eventually(SHOWN_WITHIN, || {
        let rows = up.lines(&["ledger", "--json"])?;
        Ok(rows.last().is_some_and(|verdict| verdict["balanced"] == true).then_some(()))
    })?;
    closed.with_context(|| format!("the books do not close:\n{}", up.output()))
}

fn worker_of(up: &Installation) -> Result<u32> {
    process_with(up, b"sensor")
}

fn master_of(up: &Installation) -> Result<u32> {
    process_with(up, b"run")
}

/// The agent's process with this word in its command line.
fn process_with(up: &Installation, word: &[u8]) -> Result<u32> {
    let holds = |tgid: u32| {
        let line = fs::read(format!("/proc/{tgid}/cmdline")).unwrap_or_default();
        line.split(|byte| *byte == 0).any(|argument| argument == word)
    };
    let found = up.agent_processes().into_iter().map(|(tgid, _)| tgid).find(|tgid| holds(*tgid));
    found.with_context(|| format!("no agent process with {:?}", String::from_utf8_lossy(word)))
}

fn kill(tgid: u32) -> Result<()> {
    let pid = i32::try_from(tgid).ok().and_then(Pid::from_raw).context("a tgid")?;
    kill_process(pid, Signal::KILL).context("kill an agent process")
}

/// The name of the agent's folder in each cgroup hierarchy: from its state directory.
fn cgroup_of(ground: &Ground) -> Result<String> {
    let state = fs::metadata(ground.data().join("agent")).context("look at the state directory")?;
    Ok(format!("agent-{:x}-{:x}", state.dev(), state.ino()))
}

/// All cgroups of this name, wherever they lie.
fn cgroups_named(name: &str) -> Vec<PathBuf> {
    fn walk(folder: &Path, name: &str, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                continue;
            }
            if entry.file_name() == name {
                found.push(entry.path());
            }
            walk(&entry.path(), name, found);
        }
    }
    let mut found = Vec::new();
    walk(Path::new(CGROUPS), name, &mut found);
    found
}
