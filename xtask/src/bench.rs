//! `cargo xtask bench`: the numbers that are promised, measured on this machine; nothing here passes or fails by time.
//!
//! release build → rounds with and without `watchfire up` → what was stored, what it cost → docs/benchmarks.md

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};

use crate::command::{self, cargo};
use crate::workspace;

mod crowd;
mod endure;
mod idle;
mod kills;
mod latency;
mod page;
mod rules;
mod scans;
mod storm;
mod storm_report;
mod tiny;
mod tower;
mod usage;

pub(crate) use crowd::Holder;
pub(crate) use scans::Scans;
pub(crate) use storm::StormWorker;
#[cfg(test)]
pub(crate) use tiny::tests::alone;

use storm::Storm;

/// Options of `cargo xtask bench`.
#[derive(Args)]
pub(crate) struct Options {
    /// Only this one
    name: Option<Name>,
    /// Rounds of a storm, each one without and one with the agent
    #[arg(long, default_value_t = 5)]
    rounds: u32,
    /// Programs started in each storm
    #[arg(long, default_value_t = 50_000)]
    execs: u32,
    /// Behaviours timed for the latency
    #[arg(long, default_value_t = 200)]
    behaviors: u32,
    /// Connected sockets on the crowded host of the scans
    #[arg(long, default_value_t = 300_000)]
    sockets: u64,
    /// Descriptors of one process there
    #[arg(long, default_value_t = 100_000)]
    files: u64,
    /// How long the idle agent is watched, and the long storm lasts
    #[arg(long, default_value_t = 10)]
    minutes: u32,
    /// How often the agent is killed
    #[arg(long, default_value_t = 1000)]
    count: u64,
    /// What the kills are drawn from [default: the clock]
    #[arg(long)]
    seed: Option<u64>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Name {
    /// The storm with the best source of process events
    Storm,
    /// The storm with the process connector, the last fallback
    Fallback,
    /// From behaviour to stored alert
    Latency,
    /// Events judged a second
    Rules,
    /// Scans of a host with many sockets and descriptors
    Scans,
    /// What it costs when nothing happens, beside auditd
    Idle,
    /// A storm of many minutes, and one that trips the breaker
    Endure,
    /// The agent killed again and again during traffic; takes an hour, and runs only when it is named
    Kills,
}

/// Runs what was asked for and writes its part of the page.
pub(crate) fn run(options: &Options) -> Result<()> {
    let wanted = |name| options.name.is_none_or(|only| only == name);
    let killed = options.name == Some(Name::Kills);
    let started = killed || wanted(Name::Storm) || wanted(Name::Fallback) || wanted(Name::Latency);
    let started = started || wanted(Name::Scans) || wanted(Name::Idle) || wanted(Name::Endure);
    if started && std::env::var_os("WATCHFIRE_BIN").is_none() {
        command::run(&mut cargo(&["build", "--release", "--locked", "--package", "watchfire-program"]))?;
    }
    if killed {
        return page::write_misbehaviour("kills", &kills::measure(options.count, options.seed)?);
    }
    let folder = folder()?;
    let storm = Storm::prepare(&folder, options.execs, options.rounds)?;
    if wanted(Name::Storm) {
        page::write("storm", &storm.measure(r#"{}"#)?.section("Storm"))?;
    }
    if wanted(Name::Fallback) {
        let settings = r#"{"processes": {"source": "proc_connector"}}"#;
        page::write("fallback", &storm.measure(settings)?.section("Storm, process connector only"))?;
    }
    if wanted(Name::Latency) {
        page::write("latency", &latency::measure(&folder, options.behaviors)?)?;
    }
    if wanted(Name::Rules) {
        page::write("rules", &rules::measure()?)?;
    }
    if wanted(Name::Scans) {
        Scans::new(&folder, options.rounds, options.sockets, options.files).start()?;
    }
    if wanted(Name::Idle) {
        page::write("idle", &idle::measure(&folder, options.minutes)?)?;
    }
    if wanted(Name::Endure) {
        page::write("endure", &endure::measure(&folder, options.minutes)?)?;
    }
    println!("{}", page::path().display());
    Ok(())
}

/// Where programs and data of the benchmark lie: beside the build, and not in a world-writable folder, which a rule watches.
fn folder() -> Result<PathBuf> {
    let folder = workspace::target().join("bench");
    fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
    Ok(folder)
}
