//! The storm: two workers start a program and wait for it, as fast as they can, each start with a number of its own.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use clap::Args;

use super::storm_report::{Round, StormReport};
use super::tiny;
use super::tower::Tower;
use crate::command::shown;

const WORKERS: u32 = 2;
/// What follows the number: every word must come back as it was.
const REST: [&str; 4] =
    ["--option=value", "two words", "0123456789abcdef0123456789abcdef", "/a/path/that/is/not/there"];
/// How long the last events of a storm may take to be stored.
const SETTLE: Duration = Duration::from_secs(60);

/// One worker, a process of its own: `cargo xtask storm`.
#[derive(Args)]
pub(crate) struct StormWorker {
    #[arg(long)]
    program: PathBuf,
    #[arg(long)]
    mark: String,
    #[arg(long)]
    first: u32,
    #[arg(long)]
    count: u32,
    /// End after this time, and print how many were started
    #[arg(long)]
    seconds: Option<u64>,
}

impl StormWorker {
    /// Starts the program `count` times, one after the other. The standard library uses posix_spawn here.
    pub(crate) fn run(&self) -> Result<()> {
        let end = self.seconds.map(|seconds| Instant::now() + Duration::from_secs(seconds));
        for number in self.first..self.first + self.count {
            if end.is_some_and(|end| Instant::now() >= end) {
                println!("{}", number - self.first);
                break;
            }
            let mut command = Command::new(&self.program);
            command.arg(numbered(&self.mark, number)).args(REST).env_clear().stdin(Stdio::null());
            let status = command.status().with_context(|| format!("start {}", shown(&command)))?;
            if !status.success() {
                bail!("{status}: {}", shown(&command));
            }
        }
        Ok(())
    }
}

fn numbered(mark: &str, number: u32) -> String {
    format!("{mark}-{number}")
}

/// A storm ready to be let loose, again and again.
pub(super) struct Storm {
    folder: PathBuf,
    program: PathBuf,
    execs: u32,
    rounds: u32,
}

impl Storm {
    /// Writes the trivial program.
    pub(super) fn prepare(folder: &Path, execs: u32, rounds: u32) -> Result<Self> {
        let program = folder.join("tiny");
        tiny::write(&program)?;
        Ok(Storm { folder: folder.to_owned(), program, execs: execs / WORKERS * WORKERS, rounds })
    }

    /// Rounds without and with the agent, in turns, so that both see the same machine.
    pub(super) fn measure(&self, settings: &str) -> Result<StormReport> {
        let mut report = StormReport { execs: self.execs, bare: Vec::new(), rounds: Vec::new() };
        self.blow("warm-up")?;
        for number in 0..self.rounds {
            report.bare.push(self.blow("without")?);
            let round = self.round(settings)?;
            eprintln!(
                "round {}: without {:.2} s, with {:.2} s, {} of {} recorded",
                number + 1,
                report.bare.last().copied().unwrap_or_default().as_secs_f64(),
                round.took.as_secs_f64(),
                round.recorded,
                self.execs
            );
            report.rounds.push(round);
        }
        Ok(report)
    }

    fn round(&self, settings: &str) -> Result<Round> {
        let tower = Tower::start(&self.folder, settings)?;
        let before = tower.settled_usage()?;
        let watch = tower.watch_memory();
        let mark = unique_mark();
        let took = self.blow(&mark)?;
        let balanced = tower.wait_until_stored(SETTLE)?;
        let after = tower.usage()?;
        let peak = watch.stop()?;
        let (recorded, strange) = self.count_recorded(&tower, &mark)?;
        let missed = tower.dropped()?;
        tower.stop()?;
        Ok(Round { took, recorded, strange, dropped: missed, balanced, before, after, peak })
    }

    /// Lets the storm loose; how long it took.
    fn blow(&self, mark: &str) -> Result<Duration> {
        let share = self.execs / WORKERS;
        let began = Instant::now();
        let workers: Vec<Child> =
            (0..WORKERS).map(|worker| self.worker(mark, worker * share, share)).collect::<Result<_>>()?;
        for mut worker in workers {
            let status = worker.wait().context("wait for a storm worker")?;
            if !status.success() {
                bail!("a storm worker failed: {status}");
            }
        }
        Ok(began.elapsed())
    }

    fn worker(&self, mark: &str, first: u32, count: u32) -> Result<Child> {
        // Also when a build has replaced this program meanwhile.
        let mut command = Command::new("/proc/self/exe");
        command.arg("storm").arg("--program").arg(&self.program).args(["--mark", mark]);
        command.arg("--first").arg(first.to_string()).arg("--count").arg(count.to_string());
        command.stdin(Stdio::null()).spawn().with_context(|| format!("start {}", shown(&command)))
    }

    /// Distinct numbers stored with all their arguments, and rows that bear the mark and differ.
    fn count_recorded(&self, tower: &Tower, mark: &str) -> Result<(usize, usize)> {
        let mut numbers = BTreeSet::new();
        let mut strange = 0;
        let prefix = format!("{mark}-");
        tower.each_exec(|argv| {
            let Some(number) = argv.get(1).and_then(|word| word.strip_prefix(&prefix)) else { return };
            let whole = argv.len() == 2 + REST.len()
                && argv[2..] == REST
                && *argv[0] == *self.program.to_string_lossy();
            match number.parse::<u32>() {
                Ok(number) if whole && number < self.execs && numbers.insert(number) => {}
                _ => strange += 1,
            }
        })?;
        Ok((numbers.len(), strange))
    }
}

/// A word that no other run of anything has as an argument.
fn unique_mark() -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
    format!("storm{}x{now}", std::process::id())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_starts_its_share_and_names_what_fails() {
        let _alone = tiny::tests::alone();
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("tiny");
        tiny::write(&program).unwrap();
        let worker =
            |program| StormWorker { program, mark: "m".to_owned(), first: 0, count: 20, seconds: None };
        worker(program).run().unwrap();
        assert!(worker("/bin/false".into()).run().unwrap_err().to_string().contains("m-0"));
    }
}
