//! From behaviour to stored alert: a program is run from memory, again and again, and its alerts say how long they took.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::fs::{MemfdFlags, memfd_create};

use super::tiny;
use super::tower::Tower;

/// Between two behaviours, so that each is judged on its own.
const PAUSE: Duration = Duration::from_millis(60);
const SETTLE: Duration = Duration::from_secs(5);

/// The section of the page.
pub(super) fn measure(folder: &Path, behaviors: u32) -> Result<String> {
    let tower = Tower::start(folder, "{}")?;
    tower.settled_usage()?;
    let mark = format!("latency{}x", std::process::id());
    for number in 0..behaviors {
        exec_from_memory(&mark, number)?;
        thread::sleep(PAUSE);
    }
    thread::sleep(SETTLE);
    let mut behaviors_seen = BTreeSet::new();
    let mut latencies = Vec::new();
    tower.each_row(&["alerts", "--json", "--since", "1h", "--limit", "100000"], |alert| {
        let word = alert["process"]["argv"][1]
            .as_str()
            .and_then(|word| word.strip_prefix(&mark)?.parse::<u32>().ok());
        if let (Some(number), Some(latency)) = (word, alert["latency_ms"].as_f64()) {
            behaviors_seen.insert(number);
            latencies.push(latency);
        }
    })?;
    tower.stop()?;
    if latencies.is_empty() {
        bail!("none of {behaviors} executions from memory raised an alert");
    }
    latencies.sort_by(f64::total_cmp);
    Ok(format!(
        "## Behaviour to stored alert\n\n\
         {behaviors} executions of a program from memory (memfd), {} ms apart; {} of them raised {} alerts. From the kernel's sight of\n\
         the exec to the alert's durable row, `latency_ms` of `watchfire alerts --json`:\n\n\
         | p50 | p90 | p99 | longest |\n|---|---|---|---|\n| {:.1} ms | {:.1} ms | {:.1} ms | {:.1} ms |\n",
        PAUSE.as_millis(),
        behaviors_seen.len(),
        latencies.len(),
        percentile(&latencies, 50),
        percentile(&latencies, 90),
        percentile(&latencies, 99),
        percentile(&latencies, 100),
    ))
}

/// A file of a name of its own: alerts on the same thing may be folded together.
fn exec_from_memory(mark: &str, number: u32) -> Result<()> {
    let memory = memfd_create(format!("{mark}{number}"), MemfdFlags::CLOEXEC).context("memfd_create")?;
    let mut written = File::from(memory);
    written.write_all(&tiny::image()).context("write to a memfd")?;
    // A file that is open for writing cannot be run on most kernels.
    let file = File::open(format!("/proc/self/fd/{}", written.as_raw_fd())).context("open a memfd again")?;
    drop(written);
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    let status =
        Command::new(&path).arg(format!("{mark}{number}")).status().with_context(|| format!("run {path}"))?;
    if !status.success() {
        bail!("{path}: {status}");
    }
    Ok(())
}

/// The smallest value that `percent` of the sorted values do not exceed.
fn percentile(sorted: &[f64], percent: usize) -> f64 {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_runs_from_memory() {
        let _alone = tiny::tests::alone();
        exec_from_memory("test", 1).unwrap();
    }

    #[test]
    fn percentiles_are_values_that_occurred() {
        let values: Vec<f64> = (1..=200).map(f64::from).collect();
        assert!((percentile(&values, 50) - 100.0).abs() < 1e-9);
        assert!((percentile(&values, 99) - 198.0).abs() < 1e-9);
        assert!((percentile(&values, 100) - 200.0).abs() < 1e-9);
        assert!((percentile(&[7.0], 99) - 7.0).abs() < 1e-9);
    }
}
