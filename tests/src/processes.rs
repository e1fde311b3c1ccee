//! Which processes a program has started, read from /proc.

use std::collections::HashMap;
use std::fs;

/// The process behind each tgid at this moment: its parent and its start, in clock ticks since boot.
fn snapshot() -> HashMap<u32, (u32, u64)> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let tgids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    tgids.filter_map(|tgid| Some((tgid, parent_and_start(tgid)?))).collect()
}

/// Nothing for a process that is gone, or is only waiting to be reaped.
fn parent_and_start(tgid: u32) -> Option<(u32, u64)> {
    let stat = fs::read_to_string(format!("/proc/{tgid}/stat")).ok()?;
    // The command's name stands in parentheses and may hold anything, so fields are counted from the last one.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?;
    let parent = fields.next()?.parse().ok()?;
    let start = fields.nth(17)?.parse().ok()?;
    (state != "Z").then_some((parent, start))
}

/// All children of `ancestor`, their children, and so on, each with its start.
pub fn descendants(ancestor: u32) -> Vec<(u32, u64)> {
    let all = snapshot();
    let descends = |mut tgid: u32| {
        // A chain cannot be longer than there are processes.
        for _ in 0..all.len() {
            match all.get(&tgid) {
                Some((parent, _)) if *parent == ancestor => return true,
                Some((parent, _)) => tgid = *parent,
                None => return false,
            }
        }
        false
    };
    let found = all.iter().filter(|(tgid, _)| descends(**tgid));
    found.map(|(tgid, (_, start))| (*tgid, *start)).collect()
}

/// Those that still run: the same tgid with the same start.
pub fn alive(processes: &[(u32, u64)]) -> Vec<(u32, u64)> {
    let runs = |(tgid, start): &(u32, u64)| parent_and_start(*tgid).is_some_and(|(_, now)| now == *start);
    processes.iter().copied().filter(runs).collect()
}

/// Those of `processes` that have these words, one after the other, in their command line.
pub fn with_words(processes: &[(u32, u64)], words: &[&str]) -> Vec<(u32, u64)> {
    let words: Vec<&[u8]> = words.iter().map(|word| word.as_bytes()).collect();
    let holds = |(tgid, _): &(u32, u64)| {
        let line = fs::read(format!("/proc/{tgid}/cmdline")).unwrap_or_default();
        let arguments: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
        arguments.windows(words.len()).any(|window| window == words)
    };
    processes.iter().copied().filter(holds).collect()
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_child_is_a_descendant_while_it_lives() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let mine = descendants(std::process::id());
        let found: Vec<_> = mine.into_iter().filter(|(tgid, _)| *tgid == child.id()).collect();
        assert_eq!(found.len(), 1);
        assert_eq!(alive(&found), found);
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(alive(&found).is_empty());
    }
}
