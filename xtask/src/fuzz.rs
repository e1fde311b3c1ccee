//! `cargo xtask fuzz`: coverage-guided fuzzing of every parser of outside bytes, with the stable compiler.
//!
//! What cargo-fuzz asks of a nightly compiler is the address sanitizer. The coverage instrumentation that libFuzzer lives on is
//! an LLVM pass that stable rustc runs when told to; safe Rust needs no more, since its faults are panics.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::command::{self, cargo, find, output};
use crate::step::Steps;
use crate::workspace;

/// Instruments edges and comparisons for libFuzzer.
const COVERAGE: &str = "--cfg fuzzing -Ccodegen-units=1 -Cpasses=sancov-module \
    -Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
    -Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares";
/// Megabytes a target may take: an allocation that follows a length in the input would pass it.
const MEMORY_MB: u32 = 1024;
/// Seconds one input may take.
const SLOWEST: u32 = 10;
/// How much of libFuzzer's words is shown when a target breaks.
const LAST_LINES: usize = 60;

/// Options of `cargo xtask fuzz`.
#[derive(Args)]
pub(crate) struct Options {
    /// Only this target
    target: Option<String>,
    /// How long each target runs
    #[arg(long, default_value_t = 60)]
    seconds: u32,
}

/// Runs what the options name, or every target.
pub(crate) fn run(options: &Options) -> Result<()> {
    if find("c++").is_none() {
        bail!("libFuzzer is C++, and there is no `c++` here: install g++");
    }
    let known = targets()?;
    match &options.target {
        None => run_targets(options, &known),
        Some(name) if known.contains(name) => run_targets(options, std::slice::from_ref(name)),
        Some(name) => bail!("no target {name:?}; there are: {}", known.join(", ")),
    }
}

/// Runs each target for its time; an input that breaks one is kept and named.
fn run_targets(options: &Options, targets: &[String]) -> Result<()> {
    let mut steps = Steps::new();
    for target in targets {
        // The table keeps the names as long as it lives, and this is the last thing the task does.
        let name: &'static str = Box::leak(target.clone().into_boxed_str());
        steps.run(name, || fuzz(name, options.seconds));
    }
    steps.finish()
}

fn targets() -> Result<Vec<String>> {
    let args = ["metadata", "--no-deps", "--format-version", "1", "--manifest-path", "fuzz/Cargo.toml"];
    let metadata: serde_json::Value =
        serde_json::from_str(&output(&mut cargo(&args))?).context("read cargo metadata")?;
    let targets = metadata["packages"][0]["targets"].as_array().context("fuzz/Cargo.toml has targets")?;
    Ok(targets.iter().filter_map(|target| target["name"].as_str().map(str::to_owned)).collect())
}

fn fuzz(target: &str, seconds: u32) -> Result<String> {
    let program = build(target)?;
    // What has been learnt is kept beside the build, and joins the seeds at the next run.
    let learnt = folder("corpus", target)?;
    let broken = folder("broken", target)?;
    let mut command = Command::new(program);
    command.current_dir(workspace::root()).arg(&learnt);
    let seeds = workspace::root().join("fuzz/seeds").join(target);
    if seeds.is_dir() {
        command.arg(seeds);
    }
    command.arg(format!("-max_total_time={seconds}")).arg(format!("-rss_limit_mb={MEMORY_MB}"));
    command.arg(format!("-timeout={SLOWEST}")).arg(format!("-artifact_prefix={}/", broken.display()));
    command.arg("-print_final_stats=1");
    let log = broken.join("log");
    let file = File::create(&log).with_context(|| format!("create {}", log.display()))?;
    let outcome = command::run(command.stdout(file.try_clone().context("clone a file")?).stderr(file));
    let said = fs::read(&log).with_context(|| format!("read {}", log.display()))?;
    let said = String::from_utf8_lossy(&said);
    if outcome.is_err() {
        let lines: Vec<&str> = said.lines().collect();
        eprintln!("{}", lines[lines.len().saturating_sub(LAST_LINES)..].join("\n"));
    }
    outcome.with_context(|| format!("the input that did it lies in {}", broken.display()))?;
    let inputs = fs::read_dir(&learnt).map(Iterator::count).unwrap_or(0);
    Ok(format!("{} runs, {inputs} inputs in the corpus", figure(&said, "stat::number_of_executed_units:")))
}

/// A figure of libFuzzer's final statistics.
fn figure<'a>(said: &'a str, name: &str) -> &'a str {
    said.lines().find_map(|line| line.strip_prefix(name)).map_or("?", str::trim)
}

fn build(target: &str) -> Result<PathBuf> {
    let triple = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let folder = workspace::target().join("fuzz");
    // With an explicit target, build scripts and macros stay uninstrumented.
    let args = [
        "build",
        "--release",
        "--locked",
        "--manifest-path",
        "fuzz/Cargo.toml",
        "--target",
        &triple,
        "--bin",
        target,
    ];
    command::run(cargo(&args).env("RUSTFLAGS", COVERAGE).env("CARGO_TARGET_DIR", &folder))?;
    Ok(folder.join(triple).join("release").join(target))
}

fn folder(what: &str, target: &str) -> Result<PathBuf> {
    let path = workspace::target().join("fuzz").join(what).join(target);
    fs::create_dir_all(&path).with_context(|| format!("create {}", path.display()))?;
    Ok(path)
}
