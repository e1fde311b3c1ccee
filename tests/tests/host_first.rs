//! The host's business comes first: a worker is held to its limits, leaves the kernel when it costs too much, and comes back by itself.

use std::fs;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use watchfire_tests::{
    Ground, Installation, cgroup_name, cgroups_named, eventually, hooks, hooks_of, obstacle, orphaned_hooks,
    program, with_words,
};

/// One installation at a time: two agents on a host see each other's work.
static ALONE: Mutex<()> = Mutex::new(());

const SHOWN_WITHIN: Duration = Duration::from_secs(20);
const TRIPS_WITHIN: Duration = Duration::from_secs(60);
const BACK_WITHIN: Duration = Duration::from_secs(60);

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
        let ground = Ground::new()?;
        // Little, so that a storm of any size is over it, and no cool-down that a test must wait long for.
        ground.configure_agent(&json!({ "limits": {
            "sample_ms": 300, "cool_down_s": 2, "longest_cool_down_s": 4,
            "sensor": { "cpu_percent": 3, "cpu_samples": 3 },
            "host": { "cpu_pressure": 101, "memory_pressure": 101, "io_pressure": 101 },
        }}))?;
        let up = ground.start()?;
        let ours = hooks_of(&up.agent_processes());
        ensure!(!ours.is_empty(), "no hook of ours in the kernel");
        let idle = storm_until(|| Ok(up.host()?["idle"].as_str().is_some_and(|why| why.contains("cpu"))))?;
        ensure!(idle, "never tripped: {}:\n{}", up.host()?, up.output());
        let tripped = up.host()?;
        let mut breakers = tripped["breakers"].as_array().into_iter().flatten();
        let of_sensor =
            |breaker: &Value| breaker["name"] == "worker sensor" && breaker["trips"].as_u64() >= Some(1);
        ensure!(breakers.any(of_sensor), "{tripped}");
        ensure!(tripped["online"] == true && tripped["sensors_attached"] == false, "{tripped}");
        let gone = eventually(BACK_WITHIN, || Ok(hooks().is_disjoint(&ours).then_some(())))?;
        ensure!(gone.is_some(), "hooks of the stopped worker are still in the kernel");

        let back = eventually(BACK_WITHIN, || Ok(watches(&up)?.then_some(())))?;
        ensure!(back.is_some(), "not back: {}:\n{}", up.host()?, up.output());
        up.books_close(SHOWN_WITHIN)
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
fn the_doctor_tries_everything_for_real_and_leaves_nothing() -> Result<()> {
    scenario(|| {
        let ground = Ground::new()?;
        let state = ground.data().join("agent");
        fs::create_dir(&state).context("make a state directory")?;
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
        let gone = eventually(SHOWN_WITHIN, || Ok(orphaned_hooks().is_empty().then_some(())))?;
        ensure!(gone.is_some(), "the doctor left hooks in the kernel");
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

/// Whether a worker with sensors speaks; the last word of one that is gone stays known while the agent is offline.
fn watches(up: &Installation) -> Result<bool> {
    let host = up.host()?;
    Ok(host["online"] == true && host["sensors_attached"] == true)
}

fn worker_of(up: &Installation) -> Result<u32> {
    process_with(up, "sensor")
}

fn master_of(up: &Installation) -> Result<u32> {
    process_with(up, "run")
}

/// The agent's process with this word in its command line.
fn process_with(up: &Installation, word: &str) -> Result<u32> {
    let found = with_words(&up.agent_processes(), &[word]);
    found.first().map(|(tgid, _)| *tgid).with_context(|| format!("no agent process with {word:?}"))
}

fn cgroup_of(ground: &Ground) -> Result<String> {
    cgroup_name(&ground.data().join("agent"))
}
