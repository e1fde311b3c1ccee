//! `cargo xtask test`: everything that must hold before a change is taken. `.ci/run` calls exactly this.
//!
//! cheap checks of the text → objects and generated code → lints → build → tests → scenarios → docs

use anyhow::Result;
use clap::Args;

use crate::command::{self, cargo};
use crate::step::Steps;
use crate::{boundaries, bpf, deny, dist, proto, setup, style};

mod cargo_test;

use cargo_test::{scenario_targets, test};

/// One step: its name, what must have passed before it, and what it does.
struct Step {
    name: &'static str,
    after: Option<&'static str>,
    body: fn() -> Result<String>,
}

const fn step(name: &'static str, after: Option<&'static str>, body: fn() -> Result<String>) -> Step {
    Step { name, after, body }
}

/// In this order: what is quick to fail comes first.
const STEPS: &[Step] = &[
    step("setup", None, || {
        setup::install_missing().map(|installed| format!("{installed} packages installed"))
    }),
    step("fmt", Some("setup"), || cargo_run(&["fmt", "--all", "--check"])),
    step("style", Some("setup"), style::check),
    step("boundaries", Some("setup"), boundaries::check),
    step("deny", Some("setup"), deny::check),
    step("proto", Some("setup"), || quiet(proto::run(true))),
    step("bpf", Some("setup"), || quiet(bpf::run(true))),
    step("clippy", Some("setup"), || {
        cargo_run(&["clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"])
    }),
    step("build", Some("setup"), || cargo_run(&["build", "--workspace", "--locked"])),
    step("build-tests", Some("build"), || cargo_run(&["test", "--workspace", "--no-run", "--locked"])),
    step("test", Some("build-tests"), || test(&["--workspace", "--exclude", "watchfire-tests"])),
    step("scenarios", Some("build-tests"), scenarios),
    step("dist", Some("build"), dist::run),
    step("doc", Some("setup"), doc),
];

/// Options of `cargo xtask test`.
#[derive(Args)]
pub(crate) struct Options {
    /// Only these steps
    #[arg(value_parser = STEPS.iter().map(|step| step.name).collect::<Vec<_>>())]
    steps: Vec<String>,
}

/// Runs the steps; goes on after a failure where the next ones still tell something.
pub(crate) fn run(options: &Options) -> Result<()> {
    let mut steps = Steps::new();
    let mut bad: Vec<&str> = Vec::new();
    for Step { name, after, body } in STEPS {
        if !options.steps.is_empty() && !options.steps.iter().any(|wanted| wanted == name) {
            continue;
        }
        let passed = match after.filter(|after| bad.contains(after)) {
            Some(_) => {
                steps.leave_out(name, "what it needs did not pass");
                false
            }
            None => steps.run(name, body),
        };
        if !passed {
            bad.push(name);
        }
    }
    steps.finish()
}

fn scenarios() -> Result<String> {
    let targets = scenario_targets()?;
    test(&targets.iter().map(String::as_str).collect::<Vec<_>>())
}

fn doc() -> Result<String> {
    let mut doc = cargo(&["doc", "--workspace", "--no-deps", "--locked"]);
    quiet(command::run(doc.env("RUSTDOCFLAGS", "-D warnings")))
}

fn cargo_run(args: &[&str]) -> Result<String> {
    quiet(command::run(&mut cargo(args)))
}

fn quiet(result: Result<()>) -> Result<String> {
    result.map(|()| String::new())
}

/// Asks for root once, at the start of what needs it, when this is not root.
pub(crate) fn root_prefix() -> Vec<String> {
    if command::is_root() { Vec::new() } else { vec!["sudo".to_owned(), "-E".to_owned()] }
}
