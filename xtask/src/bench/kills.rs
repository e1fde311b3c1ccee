//! Killed again and again during traffic: the scenario tests/tests/kills.rs, many times over, against the release build.

use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::time::Instant;

use anyhow::{Context, Result, bail};

use super::tower;
use crate::command::{cargo, shown};

/// What the scenario puts before each line of its result.
const RESULT: &str = "kills: ";

/// The section of the page: what the scenario says when it passes.
pub(super) fn measure(count: u64, seed: Option<u64>) -> Result<String> {
    // Not by its package: cargo then keeps the features of the whole workspace, and builds nothing twice.
    let mut test = cargo(&["test", "--locked", "--workspace", "--test", "kills"]);
    test.args(["--", "--nocapture"]).env("WATCHFIRE_BIN", tower::program());
    test.env("WATCHFIRE_KILLS", count.to_string());
    if let Some(seed) = seed {
        test.env("WATCHFIRE_SEED", seed.to_string());
    }
    let begun = Instant::now();
    let mut child = test.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().with_context(|| shown(&test))?;
    let output = child.stdout.take().context("its output is a pipe")?;
    let mut said = Vec::new();
    for line in BufReader::new(output).lines() {
        let line = line.context("read what the scenario says")?;
        println!("{line}");
        said.extend(line.strip_prefix(RESULT).map(str::to_owned));
    }
    let status = child.wait().context("wait for the scenario")?;
    if !status.success() || said.is_empty() {
        bail!("{status}: {}", shown(&test));
    }
    Ok(format!("{}\n\nIt took {} minutes.\n", said.join("\n"), begun.elapsed().as_secs().div_ceil(60)))
}
