//! Programs that carry a number, so that one which is lost or doubled on its way into the lake shows.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::ops::Range;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use watchfire_behavior::{Stage, mentions};

use crate::installation::Installation;
use crate::patience::eventually;

/// Runs `/bin/true ARGUMENT` in the stage.
///
/// # Errors
/// When it cannot be run.
pub fn run_with(stage: &Stage, argument: &OsStr) -> Result<()> {
    let mut command = Command::new("/bin/true");
    command.arg(argument).current_dir(stage.dir()).stdin(Stdio::null());
    ensure!(command.status().context("run /bin/true")?.success(), "/bin/true failed");
    Ok(())
}

/// Runs `/bin/true N` in the stage for each of `numbers`.
///
/// # Errors
/// When one cannot be run.
pub fn run_numbered(stage: &Stage, mut numbers: Range<usize>) -> Result<()> {
    numbers.try_for_each(|number| run_with(stage, OsStr::new(&number.to_string())))
}

/// Waits until each of `numbers` is shown, and insists that none is shown twice.
///
/// # Errors
/// When one is not shown in time, or twice.
pub fn await_numbered(
    up: &Installation,
    stage: &Stage,
    numbers: Range<usize>,
    allowed: Duration,
) -> Result<()> {
    let mut counts = BTreeMap::new();
    let all = eventually(allowed, || {
        counts = numbered(up, stage, "1h")?;
        Ok(numbers.clone().all(|number| counts.contains_key(&number)).then_some(()))
    })?;
    let wrong: Vec<(usize, u64)> = numbers
        .map(|number| (number, counts.get(&number).copied().unwrap_or(0)))
        .filter(|(_, count)| *count != 1)
        .collect();
    ensure!(all.is_some() && wrong.is_empty(), "execs shown not once: {wrong:?}:\n{}", up.output());
    Ok(())
}

/// How often each numbered program of the stage is shown, `since` so long.
///
/// # Errors
/// When the events cannot be asked for.
pub fn numbered(up: &Installation, stage: &Stage, since: &str) -> Result<BTreeMap<usize, u64>> {
    let mut counts = BTreeMap::new();
    for event in up.events("exec", since)?.iter().filter(|event| runs_in(event, stage)) {
        let number = argument(event, 1).and_then(|argument| argument.parse::<usize>().ok());
        if let Some(number) = number {
            *counts.entry(number).or_insert(0) += 1;
        }
    }
    Ok(counts)
}

/// The argument at `index` of the process of an event.
pub fn argument(event: &Value, index: usize) -> Option<&str> {
    event["process"]["argv"][index].as_str()
}

/// Whether the process of an event has the stage as its working directory.
pub fn runs_in(event: &Value, stage: &Stage) -> bool {
    event["process"]["cwd"].as_str().is_some_and(|cwd| mentions(stage.mark(), cwd))
}
