//! Stopped in order, or killed: what was stored stays, and nothing is stored twice.

use std::collections::{BTreeMap, BTreeSet};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use watchfire_behavior::{BEHAVIORS, Stage, mentions};
use watchfire_tests::{Ground, Installation, alive, eventually, obstacle};

/// One installation at a time: two agents on a host see each other's work.
static ALONE: Mutex<()> = Mutex::new(());

const SHOWN_WITHIN: Duration = Duration::from_secs(10);
const AGENT_ENDS_WITHIN: Duration = Duration::from_secs(10);

fn scenario(run: impl FnOnce() -> Result<()>) -> Result<()> {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    match obstacle() {
        Some(reason) => {
            eprintln!("skipped: restart: {reason}");
            Ok(())
        }
        None => run(),
    }
}

#[test]
fn sigterm_ends_everything_in_order_within_ten_seconds() -> Result<()> {
    scenario(|| {
        let ground = Ground::new()?;
        let up = ground.start()?;
        let stage = Stage::new()?;
        run_marked(&stage, 0..20)?;
        add_keys(&stage, 1)?;
        let before = await_alerts(&up, &[stage.mark()], 1)?;
        let agent = up.agent_processes();
        ensure!(!agent.is_empty(), "an agent runs");
        let (status, took) = up.terminate()?;
        ensure!(status.success(), "ended by {status}");
        ensure!(took <= Duration::from_secs(10), "took {took:?}");
        ensure!(alive(&agent).is_empty(), "agent processes outlived it: {:?}", alive(&agent));

        let up = ground.start()?;
        let after = ids(&up.alerts()?)?;
        ensure!(before.is_subset(&after), "alerts lost: {:?}", before.difference(&after));
        let counts = marked_execs(&up, stage.mark())?;
        ensure!(
            counts.len() == 20 && counts.values().all(|count| *count == 1),
            "execs after the restart: {counts:?}"
        );
        Ok(())
    })
}

#[test]
fn after_sigkill_no_stored_alert_is_lost_and_no_row_doubled() -> Result<()> {
    scenario(|| {
        let ground = Ground::new()?;
        let up = ground.start()?;
        let (early, late) = (Stage::new()?, Stage::new()?);
        run_marked(&early, 0..100)?;
        add_keys(&early, 5)?;
        let alerts_before = await_alerts(&up, &[early.mark()], 1)?;
        let execs_before = eventually(SHOWN_WITHIN, || {
            let counts = marked_execs(&up, early.mark())?;
            Ok((counts.len() == 100).then_some(counts))
        })?;
        let execs_before = execs_before.context("not all 100 execs were shown in time")?;

        // In the middle of its work.
        add_keys(&late, 5)?;
        run_marked(&late, 0..100)?;
        let agent = up.kill()?;
        let gone = eventually(AGENT_ENDS_WITHIN, || Ok(alive(&agent).is_empty().then_some(())))?;
        ensure!(gone.is_some(), "agent processes outlived the server: {:?}", alive(&agent));

        let up = ground.start()?;
        add_keys(&late, 1)?;
        await_alerts(&up, &[late.mark()], 1)?;
        let after = ids(&up.alerts()?)?;
        ensure!(alerts_before.is_subset(&after), "alerts lost: {:?}", alerts_before.difference(&after));
        let counts = marked_execs(&up, early.mark())?;
        ensure!(counts == execs_before, "stored events changed: {execs_before:?} became {counts:?}");
        let late_counts = marked_execs(&up, late.mark())?;
        ensure!(late_counts.values().all(|count| *count == 1), "rows doubled: {late_counts:?}");
        Ok(())
    })
}

#[test]
fn a_worker_that_is_killed_is_started_again() -> Result<()> {
    scenario(|| {
        let ground = Ground::new()?;
        let up = ground.start()?;
        let agent = up.agent_processes();
        // The youngest is the worker: its master started it.
        let worker = agent.iter().max_by_key(|(tgid, start)| (*start, *tgid)).context("an agent runs")?;
        let pid = rustix::process::Pid::from_raw(i32::try_from(worker.0)?).context("a tgid is not 0")?;
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).context("kill the worker")?;
        let stage = Stage::new()?;
        let seen = eventually(Duration::from_secs(30), || {
            add_keys(&stage, 1)?;
            std::thread::sleep(Duration::from_millis(500));
            Ok(up.alerts()?.iter().any(|(text, _)| mentions(stage.mark(), text)).then_some(()))
        })?;
        seen.with_context(|| format!("no alert after the worker was killed:\n{}", up.output()))
    })
}

/// Runs `/bin/true MARK-N` for each N, in the stage.
fn run_marked(stage: &Stage, numbers: std::ops::Range<u32>) -> Result<()> {
    for number in numbers {
        let mut command = Command::new("/bin/true");
        command.arg(format!("{}-{number}", stage.mark())).current_dir(stage.dir()).stdin(Stdio::null());
        ensure!(command.status().context("run /bin/true")?.success(), "/bin/true failed");
    }
    Ok(())
}

/// Adds an ssh key, `times` times; each makes an alert, unless the rule is still quiet about the one before.
fn add_keys(stage: &Stage, times: u32) -> Result<()> {
    let behavior = BEHAVIORS.iter().find(|behavior| behavior.name == "ssh_authorized_keys/append");
    let behavior = behavior.context("the behaviour exists")?;
    for _ in 0..times {
        (behavior.attack)(stage)?;
    }
    Ok(())
}

/// How often each marked exec is shown, by its argument.
fn marked_execs(up: &Installation, mark: &str) -> Result<BTreeMap<String, u32>> {
    let events = up.lines(&["events", "--json", "--kind", "exec", "--since", "1h", "--limit", "1000000"])?;
    let prefix = format!("{mark}-");
    let mut counts = BTreeMap::new();
    for event in &events {
        let argument = event["process"]["argv"][1].as_str().unwrap_or_default();
        if argument.starts_with(&prefix) {
            *counts.entry(argument.to_owned()).or_default() += 1;
        }
    }
    Ok(counts)
}

/// Waits for alerts that mention one of the marks; then the ids of all that are stored.
fn await_alerts(up: &Installation, marks: &[&str], at_least: usize) -> Result<BTreeSet<String>> {
    let found = eventually(SHOWN_WITHIN, || {
        let alerts = up.alerts()?;
        let mentioned =
            alerts.iter().filter(|(text, _)| marks.iter().any(|mark| mentions(mark, text))).count();
        Ok((mentioned >= at_least).then_some(alerts))
    })?;
    let alerts =
        found.with_context(|| format!("no {at_least} alerts mention {marks:?}:\n{}", up.output()))?;
    ids(&alerts)
}

/// The ids; an error when one occurs twice.
fn ids(alerts: &[(String, Value)]) -> Result<BTreeSet<String>> {
    let mut ids = BTreeSet::new();
    for (text, alert) in alerts {
        let id = alert["id"].as_str().with_context(|| format!("no id: {text}"))?;
        ensure!(ids.insert(id.to_owned()), "stored twice: {text}");
    }
    Ok(ids)
}
