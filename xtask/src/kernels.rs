//! `cargo xtask kernels`: the sensor's objects and event kinds on Debian's cloud kernels, each in a virtual machine.
//!
//! packages (private apt) → initramfs (busybox and the static test program) → guest (qemu, emulated CPU) → docs/kernels.md
//!
//! Nothing is installed on this machine: kernels, qemu and busybox are unpacked under the cache folder.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::command::{cargo, output, shown};
use crate::step::Steps;
use crate::workspace;

mod debian;
mod guest;
mod initramfs;
mod table;

use debian::{Archive, Kernel};
use guest::{Guest, Transcript};

/// The kernels that are tried, oldest first: series, and the Debian suites that carry it.
const KERNELS: &[(&str, &[&str])] = &[
    ("5.10", &["bullseye-security"]),
    ("6.1", &["bookworm", "bookworm-security"]),
    ("6.12", &["bookworm-backports"]),
];
const TABLE: &str = "docs/kernels.md";

/// Options of `cargo xtask kernels`.
#[derive(Args)]
pub(crate) struct Options {
    /// Only this series, such as 6.1; the table is then printed and not written
    series: Option<String>,
    /// Runs this static program in the guests in place of the sensor's test
    #[arg(long)]
    payload: Option<PathBuf>,
    /// Minutes a guest may take
    #[arg(long, default_value_t = 8)]
    minutes: u64,
}

/// Runs the payload on every kernel and writes the table.
pub(crate) fn run(options: &Options) -> Result<()> {
    let wanted: Vec<_> = KERNELS
        .iter()
        .filter(|(series, _)| options.series.as_deref().is_none_or(|only| only == *series))
        .collect();
    if wanted.is_empty() {
        let known: Vec<&str> = KERNELS.iter().map(|(series, _)| *series).collect();
        bail!("no such series; there are: {}", known.join(", "));
    }
    let mut steps = Steps::new();
    let mut payload = None;
    let mut archive = None;
    steps.run("payload", || {
        payload = Some(match &options.payload {
            Some(path) => path.clone(),
            None => build_payload()?,
        });
        Ok(String::new())
    });
    steps.run("packages", || {
        let opened = Archive::open(&workspace::cache()?.join("kernels"))?;
        opened.tools()?;
        archive = Some(opened);
        Ok(String::new())
    });
    let mut transcripts = Vec::new();
    if let (Some(payload), Some(archive)) = (payload, archive) {
        for (series, suite) in wanted {
            steps.run(series, || {
                let kernel = archive.kernel(series, suite)?;
                let transcript = boot(&archive, &kernel, &payload, options)?;
                let sums = transcript.sums();
                let failed = transcript.complaint();
                transcripts.push(transcript);
                failed.map_or(Ok(sums), |complaint| bail!("{complaint}"))
            });
        }
    }
    let page = table::page(&transcripts);
    println!("{page}");
    let whole = options.series.is_none() && options.payload.is_none() && transcripts.len() == KERNELS.len();
    if whole {
        let path = workspace::root().join(TABLE);
        fs::write(&path, page).with_context(|| format!("write {}", path.display()))?;
    }
    steps.finish()
}

fn boot(archive: &Archive, kernel: &Kernel, payload: &Path, options: &Options) -> Result<Transcript> {
    let initrd = archive.folder().join(format!("initramfs-{}", kernel.series));
    initramfs::write(&initrd, payload, &archive.busybox()?, kernel)?;
    Guest { archive, kernel, initrd: &initrd, minutes: options.minutes }.run()
}

/// The sensor's test, linked statically, since a guest has no libraries.
fn build_payload() -> Result<PathBuf> {
    let triple = format!("{}-unknown-linux-gnu", env::consts::ARCH);
    let mut build =
        cargo(&["test", "--locked", "--package", "watchfire-sensor", "--test", "kernel_kinds", "--no-run"]);
    // The explicit target keeps the flag away from build scripts and macros, which cannot be linked statically.
    build.args(["--target", &triple, "--message-format=json-render-diagnostics"]);
    build.env("RUSTFLAGS", "-C target-feature=+crt-static");
    build.env("CARGO_TARGET_DIR", workspace::target().join("static"));
    let messages = output(&mut build)?;
    let mut programs = messages.lines().filter_map(|line| {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        let ours = message["target"]["name"] == "kernel_kinds";
        message["executable"].as_str().filter(|_| ours).map(PathBuf::from)
    });
    programs.next_back().with_context(|| format!("no program came out of {}", shown(&build)))
}
