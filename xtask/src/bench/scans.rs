//! Scans on a crowded host: many sockets, a process with many descriptors, and what the agent takes to look at them.
//!
//! All of it runs in a network namespace of its own: neither the machine's ports nor its firewall's tables see the sockets.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use serde_json::{Value, json};

use super::crowd::Crowd;
use super::page;
use super::storm_report::spread;
use super::tower::Tower;
use super::usage::{Family, Memory};
use crate::command;

/// What is written in the settings, and what the figures stand beside.
const CPU_PERCENT: u32 = 2;
/// The first scan begins within so many seconds.
const EVERY_S: u32 = 5;
/// A scan has a deadline of its own, shorter than this.
const SCAN_WITHIN: Duration = Duration::from_secs(300);
/// For the scans that find nothing new.
const QUIET: Duration = Duration::from_secs(30);
const LOOK: Duration = Duration::from_millis(500);
const SENSOR: &str = "worker sensor";
const COLLECTOR: &str = "worker collector";

/// The benchmark inside its network namespace: `cargo xtask scans`.
#[derive(Args)]
pub(crate) struct Scans {
    #[arg(long)]
    folder: PathBuf,
    #[arg(long)]
    rounds: u32,
    #[arg(long)]
    sockets: u64,
    #[arg(long)]
    files: u64,
}

impl Scans {
    pub(super) fn new(folder: &Path, rounds: u32, sockets: u64, files: u64) -> Self {
        Scans { folder: folder.to_owned(), rounds, sockets, files }
    }

    /// Runs this in a network namespace of its own.
    pub(super) fn start(&self) -> Result<()> {
        let own = std::env::current_exe().context("find this program")?;
        let mut inside = Command::new("unshare");
        inside.arg("--net").arg(own).arg("scans").arg("--folder").arg(&self.folder);
        inside.args(["--rounds", &self.rounds.to_string(), "--sockets", &self.sockets.to_string()]);
        inside.args(["--files", &self.files.to_string()]).stdin(Stdio::null());
        command::run(&mut inside)
    }

    /// The rounds, and the section of the page.
    pub(crate) fn run(&self) -> Result<()> {
        command::run(Command::new("ip").args(["link", "set", "lo", "up"]))?;
        let mut empty = Vec::new();
        for _ in 0..self.rounds {
            empty.push(self.round(None)?);
        }
        let crowd = Crowd::gather(self.sockets, self.files)?;
        let mut crowded = Vec::new();
        for _ in 0..self.rounds {
            crowded.push(self.round(Some(&crowd))?);
        }
        let mut section = section(&crowd, &empty, &crowded);
        if crowd.files() < self.files {
            section.push_str(&format!(
                "\nThis machine allows a process no more descriptors; asked for were {}.\n",
                self.files
            ));
        }
        page::write("scans", &section)
    }

    fn round(&self, crowd: Option<&Crowd>) -> Result<Round> {
        let settings = json!({ "listeners": { "every_s": EVERY_S, "cpu_percent": CPU_PERCENT } }).to_string();
        let begun = Instant::now();
        let tower = Tower::start(&self.folder, &settings)?;
        let started = begun.elapsed();
        let at_start = tower.usage()?;
        let watch = tower.watch_memory();
        let scan = first_scan(&tower)?;
        let after_scan = tower.usage()?;
        if let Some(crowd) = crowd {
            check(&tower, crowd)?;
        }
        let before = tower.usage()?;
        thread::sleep(QUIET);
        let after = tower.usage()?;
        let peak = watch.stop()?;
        let charged = charged(&after, COLLECTOR);
        tower.stop()?;
        let field =
            |name: &str| scan[name].as_str().and_then(|text| text.parse::<f64>().ok()).unwrap_or(f64::NAN);
        let round = Round {
            whole: scan["whole"] == "true",
            listeners: field("listeners"),
            descriptors: field("descriptors"),
            took_s: field("took_ms") / 1000.0,
            cpu_s: field("cpu_ms") / 1000.0,
            start_s: started.as_secs_f64(),
            start_cpu_s: cpu(&at_start, SENSOR),
            sensor_mb: mb(largest(&at_start, &peak, SENSOR).rss),
            collector_mb: mb(largest(&after_scan, &peak, COLLECTOR).rss),
            charged_mb: charged.map_or(f64::NAN, |bytes| bytes as f64 / 1e6),
            quiet_percent: (cpu(&after, COLLECTOR) - cpu(&before, COLLECTOR)) / QUIET.as_secs_f64() * 100.0,
        };
        eprintln!("{round:?}");
        Ok(round)
    }
}

/// Figures of one start of the agent.
#[derive(Debug)]
struct Round {
    whole: bool,
    listeners: f64,
    descriptors: f64,
    took_s: f64,
    cpu_s: f64,
    start_s: f64,
    start_cpu_s: f64,
    sensor_mb: f64,
    collector_mb: f64,
    charged_mb: f64,
    quiet_percent: f64,
}

/// The fields of the report that the first scan ends with.
fn first_scan(tower: &Tower) -> Result<Value> {
    let deadline = Instant::now() + SCAN_WITHIN;
    loop {
        let mut scan = None;
        each_report(tower, |report| {
            if report["topic"] == "scan" && report["fields"]["first"] == "true" {
                scan = Some(report["fields"].clone());
            }
        })?;
        if let Some(scan) = scan {
            return Ok(scan);
        }
        if Instant::now() > deadline {
            bail!("no scan ended in {SCAN_WITHIN:?}");
        }
        thread::sleep(LOOK);
    }
}

/// Each helper's listener must be told with its process: what is fast and wrong is no figure.
fn check(tower: &Tower, crowd: &Crowd) -> Result<()> {
    let mut holders = BTreeMap::new();
    each_report(tower, |report| {
        if report["topic"] == "listening" {
            let word = |name: &str| report["fields"][name].as_str().unwrap_or_default().to_owned();
            holders.insert(word("port"), word("tgid"));
        }
    })?;
    for (port, tgid) in crowd.listeners() {
        let told = holders.get(&port.to_string());
        ensure!(told == Some(&tgid.to_string()), "port {port} of {tgid}: told is {told:?}");
    }
    Ok(())
}

fn each_report(tower: &Tower, mut visit: impl FnMut(&Value)) -> Result<()> {
    let args = ["events", "--json", "--kind", "report", "--since", "1h", "--limit", "100000"];
    tower.each_row(&args, |row| {
        if row["report"]["app"] == "listeners" {
            visit(&row["report"]);
        }
    })
}

fn cpu(family: &Family, role: &str) -> f64 {
    let of_it = family.values().filter(|usage| usage.role.ends_with(role));
    of_it.map(|usage| usage.ticks as f64 / 100.0).sum()
}

/// The most that was seen of a worker, or what it had.
fn largest(family: &Family, peaks: &BTreeMap<u32, Memory>, role: &str) -> Memory {
    let found = family.iter().find(|(_, usage)| usage.role.ends_with(role));
    found.map_or_else(Memory::default, |(pid, usage)| peaks.get(pid).copied().unwrap_or(usage.memory))
}

/// The most that a worker's memory cgroup was charged, in bytes: with what the kernel keeps for it, such as the names it looked up.
fn charged(family: &Family, role: &str) -> Option<u64> {
    let (pid, _) = family.iter().find(|(_, usage)| usage.role.ends_with(role))?;
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    text.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let (controllers, path) = (fields.next()?, fields.next()?);
        let file = if controllers.split(',').any(|name| name == "memory") {
            format!("/sys/fs/cgroup/memory{path}/memory.max_usage_in_bytes")
        } else if controllers.is_empty() {
            format!("/sys/fs/cgroup{path}/memory.peak")
        } else {
            return None;
        };
        fs::read_to_string(file).ok()?.trim().parse().ok()
    })
}

fn mb(kib: u64) -> f64 {
    kib as f64 * 1024.0 / 1e6
}

fn section(crowd: &Crowd, empty: &[Round], crowded: &[Round]) -> String {
    let mut text = format!(
        "## Scans\n\n{} connected TCP sockets in {} processes, and one process with {} descriptors; {} starts of the agent without and \
         with them; medians (smallest to largest).\n\n| what | without | with |\n|---|---|---|\n",
        crowd.sockets(),
        crowd.helpers() - 1,
        crowd.files(),
        crowded.len(),
    );
    let figures = |rounds: &[Round], figure: fn(&Round) -> f64, digits: usize| {
        spread(&rounds.iter().map(figure).collect::<Vec<_>>(), "", digits)
    };
    let mut row = |what: &str, digits: usize, figure: fn(&Round) -> f64| {
        let (without, with) = (figures(empty, figure, digits), figures(crowded, figure, digits));
        text.push_str(&format!("| {what} | {without} | {with} |\n"));
    };
    row("first scan: descriptors looked at", 0, |round| round.descriptors);
    row("listeners found, each with its process", 0, |round| round.listeners);
    row("time, s", 1, |round| round.took_s);
    row("CPU, s", 3, |round| round.cpu_s);
    row("share of one core while it scans, % (budget 2)", 2, |round| round.cpu_s / round.took_s * 100.0);
    row("collector: share of one core with a scan every 5 s that finds nothing new, %", 2, |round| {
        round.quiet_percent
    });
    row("collector: RSS at most, MB", 1, |round| round.collector_mb);
    row("collector: charged by its cgroup at most, MB (kernel's names and inodes included)", 1, |round| {
        round.charged_mb
    });
    row("start of `watchfire up` until its sensors are attached, s", 2, |round| round.start_s);
    row("sensor: CPU until then, s", 2, |round| round.start_cpu_s);
    row("sensor: RSS at most, MB", 1, |round| round.sensor_mb);
    let whole = crowded.iter().chain(empty).filter(|round| round.whole).count();
    text.push_str(&format!("\nScans that saw everything: {whole} of {}.\n", empty.len() + crowded.len()));
    text
}
