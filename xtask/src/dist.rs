//! `cargo xtask dist`: the agent as it is shipped, in `target/static/`. One static executable, and checked to be one.
//!
//! build (static C library, whole-program optimisation) → read the ELF file → strip → size → start it

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use object::read::elf::{Dyn, ElfFile64, FileHeader, ProgramHeader};
use object::{Endianness, Object, ObjectSymbol, elf};

use crate::command::{self, cargo, output};
use crate::workspace;

const PACKAGE: &str = "watchfire-agent-program";
const BIN: &str = "watchfire-agent";
/// What the stripped agent may weigh. It weighs 7.7 MB; what would take it past this is worth a second look.
const MAX_BYTES: u64 = 10_000_000;
/// Functions of a static glibc that load the host's libraries when they are called: names of users and hosts, character
/// sets. `dlopen` itself is always there, as the neighbour of `dlsym`, with which Rust's library asks for newer
/// functions; in a static program that finds none and loads nothing.
const LOADS_LIBRARIES: [&str; 11] = [
    "getaddrinfo",
    "gethostbyname",
    "gethostbyname_r",
    "gethostbyaddr_r",
    "getservbyname_r",
    "getpwnam_r",
    "getpwuid_r",
    "getgrnam_r",
    "getgrgid_r",
    "getgrouplist",
    "iconv_open",
];

/// Builds it, checks it, and says where it lies and what it weighs.
pub(crate) fn run() -> Result<String> {
    let triple = format!("{}-unknown-linux-gnu", env::consts::ARCH);
    // With --target, build scripts and procedural macros stay dynamic, as they must.
    let args =
        ["rustc", "--locked", "--profile", "dist", "--package", PACKAGE, "--bin", BIN, "--target", &triple];
    command::run(cargo(&args).args(["--", "-C", "target-feature=+crt-static"]))?;
    let built = workspace::target().join(&triple).join("dist").join(BIN);
    let bytes = fs::read(&built).with_context(|| format!("read {}", built.display()))?;
    check(&bytes).with_context(|| format!("{} is not what is shipped", built.display()))?;
    let shipped = strip(&built)?;
    let size = fs::metadata(&shipped).with_context(|| format!("measure {}", shipped.display()))?.len();
    ensure!(size <= MAX_BYTES, "{} weighs {size} bytes, more than {MAX_BYTES}", shipped.display());
    start(&shipped)?;
    Ok(format!("{}: static, {:.1} MB", shipped.display(), size as f64 / 1e6))
}

/// That nothing of the host's libraries is needed, at the start or later.
fn check(bytes: &[u8]) -> Result<()> {
    let file = ElfFile64::<Endianness>::parse(bytes).context("read it as an ELF file")?;
    let (header, endian, data) = (file.elf_header(), file.endian(), file.data());
    let segments = header.program_headers(endian, data).context("read its segments")?;
    for segment in segments {
        ensure!(segment.p_type(endian) != elf::PT_INTERP, "it asks for an interpreter");
        let entries = segment.dynamic(endian, data).context("read its dynamic section")?.unwrap_or_default();
        let needed = entries.iter().filter(|entry| entry.d_tag(endian) == elf::DT_NEEDED).count();
        ensure!(needed == 0, "it needs {needed} libraries");
    }
    let mut names: Vec<&str> =
        file.symbols().filter(|it| it.is_definition()).filter_map(|it| it.name().ok()).collect();
    names.sort_unstable();
    ensure!(names.binary_search(&"main").is_ok(), "it has no symbols to look at");
    let traps: Vec<&str> =
        LOADS_LIBRARIES.into_iter().filter(|name| names.binary_search(name).is_ok()).collect();
    if !traps.is_empty() {
        bail!("it holds {}, which would load libraries of the host", traps.join(", "));
    }
    Ok(())
}

fn strip(built: &Path) -> Result<PathBuf> {
    let folder = workspace::target().join("static");
    fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
    let shipped = folder.join(BIN);
    command::run(Command::new("strip").arg("-o").arg(&shipped).arg(built))?;
    Ok(shipped)
}

/// It starts, and its worker does what it does first: the doctor starts one.
fn start(shipped: &Path) -> Result<()> {
    let version = output(Command::new(shipped).arg("--version"))?;
    ensure!(version.contains(env!("CARGO_PKG_VERSION")), "--version says {version:?}");
    let folder = tempfile::tempdir().context("make a state directory")?;
    let mut doctor = Command::new(shipped);
    doctor.args(["doctor", "--json", "--state-dir"]).arg(folder.path());
    let findings =
        doctor.arg("--lock").arg(folder.path().join("lock")).output().context("start the doctor")?;
    let said = String::from_utf8_lossy(&findings.stdout);
    // Whether processes can be seen is the machine's affair; that each line is a finding is the program's.
    let lines: Vec<serde_json::Value> = said
        .lines()
        .map(serde_json::from_str)
        .collect::<Result<_, _>>()
        .context("read the doctor's findings")?;
    let found = |what: &str| lines.iter().find(|line| line["what"] == what);
    let filter = found("system call filter").with_context(|| format!("the doctor says only {said}"))?;
    ensure!(filter["verdict"] == "works", "a static worker does not close itself: {filter}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_with_libraries_is_refused() {
        let own = fs::read("/proc/self/exe").unwrap();
        let refused = check(&own).unwrap_err().to_string();
        assert!(refused.contains("interpreter") || refused.contains("libraries"), "{refused}");
    }

    #[test]
    fn what_is_no_elf_file_is_refused() {
        assert!(check(b"#!/bin/sh\n").unwrap_err().to_string().contains("ELF"));
    }
}
