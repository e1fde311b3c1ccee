//! Refuses to build the agent with eBPF objects that are older than their C sources.
//!
//! The objects are built ahead by `cargo xtask bpf`, which needs clang; this needs nothing. It compares every file that
//! `bpf/objects/SOURCES.sha256` names with its hash, and the list with what is there.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use sha2::{Digest, Sha256};

fn main() {
    // Asked for when it runs: one build folder may serve several clones, and this program with it.
    let package =
        std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo tells a build script where its package is");
    let bpf = Path::new(&package).join("../../bpf");
    println!("cargo::rerun-if-changed=build.rs");
    for folder in ["", "include", "objects"] {
        println!("cargo::rerun-if-changed={}", bpf.join(folder).display());
    }
    if let Err(reason) = check(&bpf) {
        println!(
            "cargo::error=eBPF objects: {reason}. Run `cargo xtask bpf` (needs clang 19) and commit bpf/objects/."
        );
    }
}

fn check(bpf: &Path) -> Result<(), String> {
    let list = bpf.join("objects/SOURCES.sha256");
    let text = fs::read_to_string(&list).map_err(|error| format!("bpf/objects/SOURCES.sha256: {error}"))?;
    let mut named = BTreeSet::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (hash, name) = line.split_once("  ").ok_or_else(|| format!("SOURCES.sha256 holds {line:?}"))?;
        let bytes = fs::read(bpf.join(name)).map_err(|error| format!("bpf/{name}: {error}"))?;
        if hash != hex(&Sha256::digest(bytes)) {
            return Err(format!("bpf/{name} has changed since the objects were built"));
        }
        named.insert(name.to_owned());
    }
    for (folder, ending) in [("", ".bpf.c"), ("include/", ".h"), ("objects/", ".o")] {
        for entry in fs::read_dir(bpf.join(folder)).map_err(|error| format!("bpf/{folder}: {error}"))? {
            let name = entry.map_err(|error| error.to_string())?.file_name().to_string_lossy().into_owned();
            if name.ends_with(ending) && !named.contains(&format!("{folder}{name}")) {
                return Err(format!("bpf/{folder}{name} is new"));
            }
        }
    }
    Ok(())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
