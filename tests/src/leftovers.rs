//! What an agent could leave behind: programs in the kernel, cgroups.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// Where cgroups are mounted, of either version.
const CGROUPS: &str = "/sys/fs/cgroup";
/// The hook without which no process is seen.
const HOOK: &str = "on_exec";

/// Ids of all programs in the kernel that have the name of our hook, whichever agent's they are.
pub fn hooks() -> BTreeSet<u32> {
    let loaded = aya::programs::loaded_programs().filter_map(Result::ok);
    loaded.filter(|info| info.name_as_str() == Some(HOOK)).map(|info| info.id()).collect()
}

/// Those of them that these processes hold.
pub fn hooks_of(processes: &[(u32, u64)]) -> BTreeSet<u32> {
    let held = processes.iter().flat_map(|(tgid, _)| programs_held(Path::new(&format!("/proc/{tgid}"))));
    held.collect::<BTreeSet<u32>>().intersection(&hooks()).copied().collect()
}

/// Those of them that no living process holds.
pub fn orphaned_hooks() -> BTreeSet<u32> {
    // In this order: one that is loaded meanwhile is held by someone who was not asked.
    let loaded = hooks();
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let held: BTreeSet<u32> = processes.flat_map(|process| programs_held(&process.path())).collect();
    // One whose agent ended meanwhile is no orphan.
    let still = hooks();
    loaded.into_iter().filter(|id| !held.contains(id) && still.contains(id)).collect()
}

/// The ids of the eBPF programs behind the descriptors of a process.
fn programs_held(process: &Path) -> Vec<u32> {
    let descriptors = fs::read_dir(process.join("fdinfo")).into_iter().flatten().flatten();
    let texts = descriptors.map(|descriptor| fs::read_to_string(descriptor.path()).unwrap_or_default());
    let ids = texts.flat_map(|text| {
        let ids = text.lines().filter_map(|line| line.strip_prefix("prog_id:")?.trim().parse().ok());
        ids.collect::<Vec<u32>>()
    });
    ids.collect()
}

/// The name of an agent's folder in each cgroup hierarchy: from its state directory.
///
/// # Errors
/// When there is no such directory.
pub fn cgroup_name(state_dir: &Path) -> Result<String> {
    let state = fs::metadata(state_dir).context("look at the state directory")?;
    Ok(format!("agent-{:x}-{:x}", state.dev(), state.ino()))
}

/// All cgroups of this name, wherever they lie.
pub fn cgroups_named(name: &str) -> Vec<PathBuf> {
    fn walk(folder: &Path, name: &str, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                continue;
            }
            if entry.file_name() == name {
                found.push(entry.path());
            }
            walk(&entry.path(), name, found);
        }
    }
    let mut found = Vec::new();
    walk(Path::new(CGROUPS), name, &mut found);
    found
}
