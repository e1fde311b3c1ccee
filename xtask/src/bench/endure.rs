//! A storm of many minutes, as on a host with fifty busy containers: does anything grow, and do the books still close? And a shorter one
//! under the default limits: does the breaker trip, and does the agent come back by itself?

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::tiny;
use super::tower::Tower;
use crate::command::shown;

/// Processes that each start programs one after the other.
const WORKERS: u32 = 50;
/// Between two looks at the memory.
const LOOK: Duration = Duration::from_secs(1);
/// How long the last events may take to be stored.
const SETTLE: Duration = Duration::from_secs(120);
/// The storm under the default limits: the breaker needs 30 s of it.
const TRIP: Duration = Duration::from_secs(75);
/// The first cool-down is a minute, with a quarter on top.
const BACK: Duration = Duration::from_secs(180);

/// Resident memory of one process over time, in KiB.
#[derive(Default)]
struct Curve {
    role: String,
    first_minute: u64,
    peak: u64,
    end: u64,
}

/// Runs both, and makes the section.
pub(super) fn measure(folder: &Path, minutes: u32) -> Result<String> {
    let program = folder.join("tiny");
    tiny::write(&program)?;
    let long = long(folder, &program, minutes)?;
    let trip = trip(folder, &program)?;
    Ok(format!("## Ten minutes of storm\n\n{long}\n{trip}"))
}

fn long(folder: &Path, program: &Path, minutes: u32) -> Result<String> {
    // As much as it wants: here it is the memory that is asked about.
    let settings = r#"{"limits": {"sensor": {"cpu_percent": 6400}, "host": {"cpu_pressure": 101}}}"#;
    let tower = Tower::start(folder, settings)?;
    let before = tower.settled_usage()?;
    let span = Duration::from_secs(u64::from(minutes) * 60);
    let storm = begin(program, span)?;
    let mut curves: BTreeMap<u32, Curve> = BTreeMap::new();
    let began = Instant::now();
    while began.elapsed() < span {
        thread::sleep(LOOK);
        for (pid, usage) in tower.usage()? {
            let curve = curves.entry(pid).or_default();
            curve.role = usage.role;
            curve.end = usage.memory.rss;
            curve.peak = curve.peak.max(usage.memory.rss);
            if began.elapsed() <= Duration::from_secs(60) {
                curve.first_minute = curve.first_minute.max(usage.memory.rss);
            }
        }
    }
    let started = end(storm)?;
    let balanced = tower.wait_until_stored(SETTLE)?;
    let after = tower.usage()?;
    let dropped = tower.dropped()?;
    let seen = tower.seen_execs()?;
    tower.stop()?;
    let mut text = format!(
        "{WORKERS} processes start a trivial program, one after the other, for {minutes} minutes: {started} programs, {:.0} a second. \
         The kernel's side counted {seen} execs. Books closed: {}. Dropped: {}.\n\n\
         | process | RSS, most in the first minute, MB | most of all | at the end | CPU seconds |\n|---|---|---|---|---|\n",
        started as f64 / span.as_secs_f64(),
        if balanced { "yes" } else { "NO" },
        if dropped.is_empty() { "nothing".to_owned() } else { format!("{dropped:?}") },
    );
    for (pid, curve) in &curves {
        let cpu = after.get(pid).map_or(0, |usage| usage.ticks)
            - before
                .get(pid)
                .map_or(0, |usage| usage.ticks)
                .min(after.get(pid).map_or(0, |usage| usage.ticks));
        let mb = |kib: u64| kib as f64 / 1024.0;
        text.push_str(&format!(
            "| {} | {:.1} | {:.1} | {:.1} | {:.1} |\n",
            curve.role,
            mb(curve.first_minute),
            mb(curve.peak),
            mb(curve.end),
            cpu as f64 / 100.0
        ));
    }
    Ok(text)
}

fn trip(folder: &Path, program: &Path) -> Result<String> {
    let tower = Tower::start(folder, r#"{"limits": {"host": {"cpu_pressure": 101}}}"#)?;
    tower.settled_usage()?;
    let storm = begin(program, TRIP)?;
    let began = Instant::now();
    let mut tripped = None;
    let mut back = None;
    while began.elapsed() < TRIP + BACK && back.is_none() {
        thread::sleep(Duration::from_millis(500));
        let attached = tower.attached()?;
        match tripped {
            None if !attached => tripped = Some(began.elapsed()),
            Some(_) if attached => back = Some(began.elapsed()),
            _ => {}
        }
    }
    let started = end(storm)?;
    let balanced = tower.wait_until_stored(SETTLE)?;
    let dropped = tower.dropped()?;
    tower.stop()?;
    let words =
        |at: Option<Duration>| at.map_or("never".to_owned(), |at| format!("after {:.1} s", at.as_secs_f64()));
    Ok(format!(
        "The same storm for {} s under the default limits (5 % of a core, six samples of 5 s): {started} programs; sensors out of the \
         kernel {}, back {}. Books closed: {}. Dropped, `shed` before the breaker trips: {}.\n",
        TRIP.as_secs(),
        words(tripped),
        words(back),
        if balanced { "yes" } else { "NO" },
        if dropped.is_empty() { "nothing".to_owned() } else { format!("{dropped:?}") },
    ))
}

/// Starts the workers of a storm of this length.
fn begin(program: &Path, span: Duration) -> Result<Vec<Child>> {
    let worker = |number: u32| -> Result<Child> {
        let mut command = Command::new("/proc/self/exe");
        command.arg("storm").arg("--program").arg(program).args(["--mark", "endure"]);
        command.args(["--first", &(number * 1_000_000).to_string(), "--count", "1000000"]);
        command.args(["--seconds", &span.as_secs().to_string()]);
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        command.spawn().with_context(|| format!("start {}", shown(&command)))
    };
    (0..WORKERS).map(worker).collect()
}

/// Waits for the workers; how many programs they have started.
fn end(workers: Vec<Child>) -> Result<u64> {
    let mut started = 0;
    for worker in workers {
        let output = worker.wait_with_output().context("wait for a storm worker")?;
        if !output.status.success() {
            bail!("a storm worker failed: {}", output.status);
        }
        let said = String::from_utf8_lossy(&output.stdout);
        started += said.trim().parse::<u64>().with_context(|| format!("a storm worker said {said:?}"))?;
    }
    Ok(started)
}
