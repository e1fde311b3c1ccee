//! The server is away: alerts and what is worth it wait on the host's disk within its cap, survive the agent's death, and arrive once.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use watchfire_behavior::{BEHAVIORS, Stage, mentions};
use watchfire_tests::{Begun, Ground, Installation, eventually, free_port, obstacle, program};

/// One installation at a time: two agents on a host see each other's work.
static ALONE: Mutex<()> = Mutex::new(());

const SHOWN_WITHIN: Duration = Duration::from_secs(20);
/// The agent's longest pause between two tries to connect is 10 s, its patience with a server that does not answer too.
const BACK_WITHIN: Duration = Duration::from_secs(60);
const ON_DISK_WITHIN: Duration = Duration::from_secs(60);
const READY_WITHIN: Duration = Duration::from_secs(60);
/// The argument that makes each exec weigh some 4 KB.
const PADDING: usize = 4000;
/// Execs for each look at the disk.
const BURST: u32 = 100;
/// The cap of the spool in this scenario, in bytes.
const CAP: u64 = 1 << 20;

fn scenario(run: impl FnOnce() -> Result<()>) -> Result<()> {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    match obstacle() {
        Some(reason) => {
            eprintln!("skipped: uplink away: {reason}");
            Ok(())
        }
        None => run(),
    }
}

#[test]
fn a_server_that_does_not_answer_costs_what_the_books_say_and_no_alert() -> Result<()> {
    scenario(|| {
        let ground = Ground::new()?;
        ground.configure_agent(&json!({
            "uplink": { "backlog_kib": 256, "backlog_alerts": 16 },
            "spool": { "max_mib": CAP >> 20, "segment_kib": 64 },
            // The storm of this scenario is not the host's trouble.
            "limits": { "host": { "cpu_pressure": 101, "memory_pressure": 101, "io_pressure": 101, "load_per_cpu": 1000 },
                        "sensor": { "cpu_percent": 6400 } },
        }))?;
        let up = ground.start()?;
        let stages = [Stage::new()?, Stage::new()?, Stage::new()?];
        let storm = Stage::new()?;
        add_key(&stages[0])?;
        await_alerts(&up, &stages[..1])?;

        up.freeze()?;
        let spool = ground.data().join("agent/spool");
        let mut marked = 0;
        add_key(&stages[1])?;
        // Until it is as full as it may be, and as much again.
        let full = eventually(ON_DISK_WITHIN, || {
            run_marked(&storm, &mut marked, BURST)?;
            let size = size_of(&spool)?;
            ensure!(size <= CAP, "the spool takes {size} bytes");
            Ok((size > CAP * 3 / 4).then_some(()))
        })?;
        full.with_context(|| format!("the spool never fills: {} bytes", size_of(&spool).unwrap_or(0)))?;
        for _ in 0..8 {
            run_marked(&storm, &mut marked, BURST)?;
        }
        add_key(&stages[2])?;
        ensure!(size_of(&spool)? <= CAP, "the spool is over its cap");
        up.thaw()?;

        await_alerts(&up, &stages)?;
        let books = settled(&up)?;
        let uplink = row(&books, "uplink", "exec")?;
        let dropped: u64 =
            uplink["dropped"].as_object().into_iter().flatten().filter_map(|(_, count)| count.as_u64()).sum();
        ensure!(uplink["dropped"]["spool_full"].as_u64() > Some(0), "the cap was not reached: {uplink}");
        // What is in the lake is what the books say was passed on, each once: between what they said before and what they say after.
        let before = number(&row(&books, "log", "exec")?, "seen");
        let execs = execs(&up)?;
        let after = number(&row(&settled(&up)?, "log", "exec")?, "seen");
        let rows = execs.len() as u64;
        ensure!(before <= rows && rows <= after, "{rows} rows, the books say {before} and then {after}");
        let came = marked_among(&execs, storm.mark());
        ensure!(came.values().all(|count| *count == 1), "doubled: {came:?}");
        let missing = u64::from(marked) - came.len() as u64;
        let kernel = row(&books, "kernel", "exec")?;
        let not_read: u64 =
            kernel["dropped"].as_object().into_iter().flatten().filter_map(|(_, count)| count.as_u64()).sum();
        ensure!(
            missing > 0 && missing <= dropped + not_read,
            "{missing} missing, the books say {dropped} + {not_read}"
        );
        let host = host(&up)?;
        // Other programs on this machine may make alerts of their own, more than so small a spool holds: ours have arrived.
        ensure!(host["spool"]["state"] == "open", "{host}");
        // Delivered is released.
        let empty =
            eventually(SHOWN_WITHIN, || Ok((self::host(&up)?["spool"]["records"] == 0).then_some(())))?;
        ensure!(empty.is_some(), "records stay in the spool: {}", self::host(&up)?);
        ensure!(!up.output().contains("panicked"), "{}", up.output());
        Ok(())
    })
}

#[test]
fn what_an_agent_saw_without_a_server_outlives_its_kill_and_arrives_once() -> Result<()> {
    scenario(|| {
        let ground = Ground::new()?;
        let state = ground.data().join("agent");
        fs::create_dir(&state).context("make a state directory")?;
        let mut command = Command::new(program()?);
        command.args(["agent", "run", "--server-socket"]).arg(ground.data().join("agent.sock"));
        command.arg("--state-dir").arg(&state).arg("--lock").arg(state.join("agent.lock"));
        let alone = Begun::start(&mut command, free_port()?, ground.data(), &ground.path("alone"))?;
        let ready =
            eventually(READY_WITHIN, || Ok(alone.output().contains("processes known").then_some(())))?;
        ready.with_context(|| format!("not ready:\n{}", alone.output()))?;

        let stage = Stage::new()?;
        let mut marked = 0;
        add_key(&stage)?;
        run_marked(&stage, &mut marked, 20)?;
        let last = format!("{}-19-", stage.mark());
        let kept = eventually(ON_DISK_WITHIN, || {
            let spool = contents(&state.join("spool"))?;
            let holds = |words: &[u8]| spool.windows(words.len()).any(|window| window == words);
            Ok((holds(last.as_bytes()) && holds(b"authorized_keys")).then_some(()))
        })?;
        kept.with_context(|| format!("not on the disk:\n{}", alone.output()))?;
        alone.kill()?;

        let up = ground.start()?;
        await_alerts(&up, std::slice::from_ref(&stage))?;
        let came = eventually(SHOWN_WITHIN, || {
            let came = marked_among(&execs(&up)?, stage.mark());
            Ok((came.len() == 20).then_some(came))
        })?;
        let came = came.context("not all execs of the earlier life are shown")?;
        ensure!(came.values().all(|count| *count == 1), "doubled: {came:?}");
        let done = eventually(BACK_WITHIN, || {
            let host = host(&up)?;
            Ok((host["spool"]["earlier_streams"] == 0 && host["spool"]["records"] == 0).then_some(()))
        })?;
        ensure!(done.is_some(), "something is left: {}:\n{}", host(&up)?, up.output());
        let closed = eventually(SHOWN_WITHIN, || {
            let books = up.lines(&["ledger", "--earlier", "--json"])?;
            let ready = books.last().is_some_and(|verdict| verdict["balanced"] == true);
            Ok((ready && row(&books, "uplink", "exec").is_ok_and(|row| row["held"] == 0)).then_some(books))
        })?;
        let books = closed.context("the books of the earlier life do not close")?;
        ensure!(number(&row(&books, "uplink", "exec")?, "passed") >= 20, "{books:?}");
        // The host is what its present agent says.
        ensure!(host(&up)?["online"] == true && host(&up)?["sensors_attached"] == true, "{}", host(&up)?);
        settled(&up)?;
        up.raises_an_alert()
    })
}

/// Runs `/bin/true MARK-N-PADDING`, `times` times, and counts them in `marked`.
fn run_marked(stage: &Stage, marked: &mut u32, times: u32) -> Result<()> {
    let padding = "x".repeat(PADDING);
    for _ in 0..times {
        let mut command = Command::new("/bin/true");
        command
            .arg(format!("{}-{marked}-{padding}", stage.mark()))
            .current_dir(stage.dir())
            .stdin(Stdio::null());
        ensure!(command.status().context("run /bin/true")?.success(), "/bin/true failed");
        *marked += 1;
    }
    Ok(())
}

/// Adds an ssh key in the stage, which makes an alert.
fn add_key(stage: &Stage) -> Result<()> {
    let behavior = BEHAVIORS.iter().find(|behavior| behavior.name == "ssh_authorized_keys/append");
    (behavior.context("the behaviour exists")?.attack)(stage)?;
    Ok(())
}

/// Waits until an alert mentions each of the stages, and insists that none is stored twice.
fn await_alerts(up: &Installation, stages: &[Stage]) -> Result<()> {
    let all = eventually(BACK_WITHIN, || {
        let alerts = up.alerts()?;
        let mut ids = BTreeSet::new();
        for (text, alert) in &alerts {
            ensure!(ids.insert(alert["id"].to_string()), "stored twice: {text}");
        }
        let told = |stage: &Stage| alerts.iter().any(|(text, _)| mentions(stage.mark(), text));
        Ok(stages.iter().all(told).then_some(()))
    })?;
    all.with_context(|| format!("an alert is missing:\n{}", up.output()))
}

/// The ledger once it closes with nothing held at the uplink, and is newer than this call.
fn settled(up: &Installation) -> Result<Vec<Value>> {
    let ledger = || up.lines(&["ledger", "--json"]);
    let time = |books: &[Value]| books.last().map(|verdict| verdict["time"].to_string());
    let then = time(&ledger()?);
    let settled = eventually(BACK_WITHIN, || {
        let books = ledger()?;
        let closed = books.last().is_some_and(|verdict| verdict["balanced"] == true);
        let held = books.iter().any(|row| row["stage"] == "uplink" && row["held"] != 0);
        Ok((closed && !held && time(&books) > then).then_some(books))
    })?;
    settled.with_context(|| format!("the books do not close: {:?}:\n{}", ledger().ok(), up.output()))
}

fn row(books: &[Value], stage: &str, kind: &str) -> Result<Value> {
    let found = books.iter().find(|row| row["stage"] == stage && row["kind"] == kind);
    found.cloned().with_context(|| format!("no line for {kind} at {stage}"))
}

fn number(row: &Value, field: &str) -> u64 {
    row[field].as_u64().unwrap_or_default()
}

fn host(up: &Installation) -> Result<Value> {
    up.lines(&["hosts", "--json"])?.into_iter().next().context("no host is known")
}

fn execs(up: &Installation) -> Result<Vec<Value>> {
    up.lines(&["events", "--json", "--kind", "exec", "--since", "1h", "--limit", "1000000"])
}

/// How often each marked exec is shown, by its number.
fn marked_among(execs: &[Value], mark: &str) -> BTreeMap<String, u32> {
    let prefix = format!("{mark}-");
    let mut counts = BTreeMap::new();
    for event in execs {
        let argument = event["process"]["argv"][1].as_str().unwrap_or_default();
        if let Some(number) = argument.strip_prefix(&prefix).and_then(|rest| rest.split('-').next()) {
            *counts.entry(number.to_owned()).or_default() += 1;
        }
    }
    counts
}

/// What the files of a spool take together.
fn size_of(spool: &Path) -> Result<u64> {
    let mut size = 0;
    for entry in fs::read_dir(spool).with_context(|| format!("list {}", spool.display()))? {
        // One that is deleted in this moment takes nothing.
        size += entry.context("list the spool")?.metadata().map_or(0, |metadata| metadata.len());
    }
    Ok(size)
}

/// All bytes of a spool.
fn contents(spool: &Path) -> Result<Vec<u8>> {
    let mut all = Vec::new();
    let Ok(entries) = fs::read_dir(spool) else { return Ok(all) };
    for entry in entries {
        all.extend(fs::read(entry.context("list the spool")?.path()).unwrap_or_default());
    }
    Ok(all)
}
