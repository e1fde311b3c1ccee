//! docs/benchmarks.md: a head on method and machine, and one section a benchmark, each replaced on its own.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::workspace;

/// Sections in the order of the page.
const SECTIONS: [&str; 7] = ["storm", "fallback", "latency", "rules", "scans", "idle", "endure"];

const METHOD: &str = "# Benchmarks\n\n\
    Written by `cargo xtask bench`; `cargo xtask bench storm` (or `fallback`, `latency`, `rules`, `scans`, `idle`, `endure`) measures one part again. The build is\n\
    that of `cargo run --release`. Nothing here passes or fails by time.\n\n\
    **Storm.** Two worker processes start a static program that only exits (129 bytes, written by the benchmark) with posix_spawn, wait\n\
    for it, and start the next. Each start has a number of its own and four more arguments. Rounds without and with `watchfire up`\n\
    take turns on the same machine; every round starts `watchfire up` afresh with an empty data directory. After the storm the benchmark\n\
    waits until every exec is in the durable log or in the books as dropped and the ledger closes, then reads `watchfire events --json --kind exec` and counts the\n\
    distinct numbers whose arguments are all as given. CPU is user and system time of each process from before the storm until then,\n\
    so storing is part of it (writing the Parquet files, which happens later in larger pieces, is not). RSS is read every 50 ms; the pages of an eBPF ring are mapped twice and count twice\n\
    (4 MiB of ring: 8 MiB, as file or shared pages), anonymous memory is what the process itself holds.\n\n\
    **Fallback.** The same with eBPF switched off: the agent hears of processes from the kernel's process connector (netlink) and reads\n\
    the rest from /proc, which a short-lived process has left by then.\n\n\
    **Scans.** In a network namespace of their own, helper processes hold TCP connections to themselves, and one, the last, holds many\n\
    descriptors and a listener that is the last of them. `watchfire up` is started without and with them, with the app `listeners` at its\n\
    default share of the CPU; the first scan must find every helper's listener and its process, for which it goes through all\n\
    descriptors. Time and CPU of the scan are what its report says (`watchfire events --kind report`), the thread's own clock; the\n\
    share of the scans after it is the worker's CPU over 30 s. A scan of two or three turns shows a larger share: the pause for its\n\
    last turn comes after its end. `--sockets` and `--files` name other numbers; where the machine allows\n\
    fewer (descriptors of one process: `ulimit -Hn`), the section says how many there were.\n";

/// Where the page lies.
pub(super) fn path() -> PathBuf {
    workspace::root().join("docs/benchmarks.md")
}

/// Puts one section in place; the others stay as they are.
pub(super) fn write(name: &str, section: &str) -> Result<()> {
    println!("{section}");
    let old = fs::read_to_string(path()).unwrap_or_default();
    let page = with_section(&old, name, &format!("{section}\n{}\n", machine()));
    fs::write(path(), page).with_context(|| format!("write {}", path().display()))
}

/// Puts a section of docs/misbehaviour.md in place of the one that is there.
pub(super) fn write_misbehaviour(name: &str, section: &str) -> Result<()> {
    let path = workspace::root().join("docs/misbehaviour.md");
    let old = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    let body = between(&old, &opening(name), &closing(name))
        .with_context(|| format!("{} has no section {name}", path.display()))?;
    let page = old.replacen(body, &format!("\n{}\n\n{}\n", section.trim(), machine()), 1);
    fs::write(&path, page).with_context(|| format!("write {}", path.display()))
}

fn with_section(old: &str, name: &str, section: &str) -> String {
    let mut page = METHOD.to_owned();
    for known in SECTIONS {
        let body = if known == name { Some(section) } else { between(old, &opening(known), &closing(known)) };
        if let Some(body) = body {
            page.push_str(&format!("\n{}\n{}\n{}\n", opening(known), body.trim(), closing(known)));
        }
    }
    page
}

fn opening(name: &str) -> String {
    format!("<!-- {name} -->")
}

fn closing(name: &str) -> String {
    format!("<!-- end of {name} -->")
}

fn between<'a>(text: &'a str, opening: &str, closing: &str) -> Option<&'a str> {
    text.split_once(opening)?.1.split_once(closing).map(|(body, _)| body)
}

/// What it was measured on.
fn machine() -> String {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let field = |text: &str, name: &str| {
        let line = text.lines().find(|line| line.starts_with(name))?.split_once(':')?.1.trim().to_owned();
        Some(line)
    };
    let model =
        field(&read("/proc/cpuinfo"), "model name").unwrap_or_else(|| std::env::consts::ARCH.to_owned());
    let memory = field(&read("/proc/meminfo"), "MemTotal")
        .and_then(|size| size.split(' ').next()?.parse::<u64>().ok());
    let release = read("/proc/sys/kernel/osrelease");
    format!(
        "Machine: {cores} cores ({model}), {} GB, Linux {}.",
        memory.unwrap_or(0) / 1_000_000,
        release.trim()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_section_is_replaced_and_the_others_stay_in_order() {
        let first = with_section("", "rules", "R1");
        let second = with_section(&first, "storm", "S1");
        let third = with_section(&second, "storm", "S2");
        assert!(third.contains("S2") && third.contains("R1") && !third.contains("S1"));
        assert!(third.find("S2") < third.find("R1"));
        assert_eq!(third.matches("# Benchmarks\n").count(), 1);
        assert_eq!(with_section(&third, "storm", "S2"), third);
    }
}
