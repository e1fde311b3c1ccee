//! What processes take, from /proc: CPU time and resident memory, one line a process of a family.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Result, anyhow};

/// Between two looks at the memory.
const LOOK: Duration = Duration::from_millis(50);

/// What each process of a family takes, by its pid.
pub(super) type Family = BTreeMap<u32, Usage>;

/// One process at one moment.
#[derive(Clone, Default)]
pub(super) struct Usage {
    /// What it is, by its command line.
    pub(super) role: String,
    /// User and system time, in clock ticks of 10 ms.
    pub(super) ticks: u64,
    pub(super) memory: Memory,
}

/// Resident memory in KiB. Pages of an eBPF ring are mapped twice, and count twice, as file or shared pages.
#[derive(Clone, Copy, Default)]
pub(super) struct Memory {
    pub(super) rss: u64,
    pub(super) anon: u64,
    pub(super) file: u64,
    pub(super) shared: u64,
}

impl Memory {
    fn largest(self, other: Memory) -> Memory {
        Memory {
            rss: self.rss.max(other.rss),
            anon: self.anon.max(other.anon),
            file: self.file.max(other.file),
            shared: self.shared.max(other.shared),
        }
    }
}

/// A process and all its descendants, now.
pub(super) fn family(ancestor: u32) -> Family {
    let parents = parents();
    let mut members = BTreeSet::from([ancestor]);
    while let Some(child) = parents
        .iter()
        .find(|(child, parent)| members.contains(*parent) && !members.contains(*child))
        .map(|(child, _)| *child)
    {
        members.insert(child);
    }
    members.into_iter().filter_map(|pid| Some((pid, usage(pid)?))).collect()
}

fn parents() -> BTreeMap<u32, u32> {
    let Ok(entries) = fs::read_dir("/proc") else { return BTreeMap::new() };
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    pids.filter_map(|pid| Some((pid, *stat(pid)?.first()?)))
        .map(|(pid, parent)| (pid, u32::try_from(parent).unwrap_or(0)))
        .collect()
}

/// The numbers of `/proc/PID/stat` after the state; the name before it may hold anything.
fn stat(pid: u32) -> Option<Vec<u64>> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = text.rsplit_once(')')?;
    Some(rest.split_whitespace().skip(1).map(|field| field.parse().unwrap_or(0)).collect())
}

fn usage(pid: u32) -> Option<Usage> {
    let fields = stat(pid)?;
    // utime and stime are fields 14 and 15; the vector begins at field 4.
    let ticks = fields.get(10)? + fields.get(11)?;
    Some(Usage { role: role(pid)?, ticks, memory: memory(pid)? })
}

/// The words of the command line before its first option, without the program's folder.
fn role(pid: u32) -> Option<String> {
    let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let words = line.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned());
    let words: Vec<String> = words.take_while(|word| !word.is_empty() && !word.starts_with('-')).collect();
    let program = words.first()?.rsplit('/').next()?.to_owned();
    Some([vec![program], words[1..].to_vec()].concat().join(" "))
}

fn memory(pid: u32) -> Option<Memory> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim_start_matches(':').split_whitespace().next()?.parse().ok()
    };
    Some(Memory {
        rss: field("VmRSS")?,
        anon: field("RssAnon")?,
        file: field("RssFile")?,
        shared: field("RssShmem")?,
    })
}

/// Remembers the largest memory of each process of a family.
pub(super) struct MemoryWatch {
    stop: Arc<AtomicBool>,
    looking: JoinHandle<BTreeMap<u32, Memory>>,
}

impl MemoryWatch {
    /// Starts to look.
    pub(super) fn start(members: Vec<u32>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let looking = thread::spawn(move || {
            let mut peaks: BTreeMap<u32, Memory> = BTreeMap::new();
            while !stopped.load(Ordering::Relaxed) {
                for (pid, memory) in members.iter().filter_map(|pid| Some((*pid, memory(*pid)?))) {
                    let peak = peaks.entry(pid).or_default();
                    *peak = peak.largest(memory);
                }
                thread::sleep(LOOK);
            }
            peaks
        });
        MemoryWatch { stop, looking }
    }

    /// The largest that was seen.
    pub(super) fn stop(self) -> Result<BTreeMap<u32, Memory>> {
        self.stop.store(true, Ordering::Relaxed);
        self.looking.join().map_err(|_| anyhow!("the look at the memory panicked"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_family_holds_children_and_their_cost() {
        let _alone = crate::bench::alone();
        let mut child = std::process::Command::new("sh").args(["-c", "while :; do :; done"]).spawn().unwrap();
        thread::sleep(Duration::from_millis(300));
        let family = family(std::process::id());
        let watch = MemoryWatch::start(vec![child.id()]);
        thread::sleep(Duration::from_millis(120));
        let peaks = watch.stop().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        let busy = &family[&child.id()];
        assert_eq!(busy.role, "sh");
        assert!(busy.ticks > 5 && busy.memory.rss > 100 && busy.memory.anon > 0, "{} ticks", busy.ticks);
        assert!(peaks[&child.id()].rss > 100);
        assert!(family.contains_key(&std::process::id()));
    }
}
