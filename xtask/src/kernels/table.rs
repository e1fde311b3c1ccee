//! The payload's lines as a page: what loads and what arrives, on which kernel.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::guest::Transcript;

const NO_FAULT: &str = "writing to a String cannot fail";
const HEAD: &str = "# Kernels\n\n\
    Written by `cargo xtask kernels`: the sensor's test program `crates/sensor/tests/kernel_kinds.rs`, linked statically, run as\n\
    the only program of a virtual machine with each of these Debian cloud kernels (an emulated x86-64 CPU, no disk).\n\
    A dash: the program said nothing of it on this kernel.\n";

/// A sort of line: the word it begins with, the title of its table, what the table says, and the verdicts that end a name.
struct Sort {
    word: &'static str,
    title: &'static str,
    intro: &'static str,
    verdicts: &'static [&'static str],
}

const SORTS: [Sort; 3] = [
    Sort {
        word: "object",
        title: "Objects",
        intro: "Whether the kernel accepts the eBPF object and what it is attached to.",
        verdicts: &["loaded", "failed", "does not see"],
    },
    Sort {
        word: "kind",
        title: "Event kinds",
        intro: "Whether an action done in the guest arrived as an event of this kind, with what it should say.",
        verdicts: &["arrived", "missing", "skipped"],
    },
    Sort {
        word: "check",
        title: "Books",
        intro: "Whether what the kernel counted and what arrived agree, in a storm and with a reader that stalls.",
        verdicts: &["ok", "failed"],
    },
];

/// The page for these runs.
pub(super) fn page(transcripts: &[Transcript]) -> String {
    let mut page = HEAD.to_owned();
    let mut notes = Vec::new();
    for sort in &SORTS {
        let rows = rows(sort, transcripts, &mut notes);
        if rows.is_empty() {
            continue;
        }
        write!(page, "\n## {}\n\n{}\n\n| {} |", sort.title, sort.intro, sort.word).expect(NO_FAULT);
        for transcript in transcripts {
            write!(page, " {} |", transcript.series).expect(NO_FAULT);
        }
        page.push_str("\n|---|");
        page.push_str(&"---|".repeat(transcripts.len()));
        page.push('\n');
        for (name, cells) in rows {
            writeln!(page, "| {name} | {} |", cells.join(" | ")).expect(NO_FAULT);
        }
    }
    if !notes.is_empty() {
        page.push_str("\n## Notes\n\n");
        for (number, note) in notes.iter().enumerate() {
            writeln!(page, "{}. {note}", number + 1).expect(NO_FAULT);
        }
    }
    page.push_str("\n## Sums\n\n");
    for transcript in transcripts {
        let what = transcript.complaint().unwrap_or_else(|| transcript.sums());
        writeln!(page, "- {}: {what}", transcript.release).expect(NO_FAULT);
    }
    page
}

/// One row a name, in the order they were first said, one cell a kernel.
fn rows(sort: &Sort, transcripts: &[Transcript], notes: &mut Vec<String>) -> Vec<(String, Vec<String>)> {
    let mut names = Vec::new();
    let mut cells: BTreeMap<(String, usize), Vec<String>> = BTreeMap::new();
    for (column, transcript) in transcripts.iter().enumerate() {
        for (name, verdict) in transcript.lines.iter().filter_map(|line| said(sort, line)) {
            if !names.contains(&name) {
                names.push(name.clone());
            }
            let words = cells.entry((name, column)).or_default();
            let word = cell(&verdict, notes);
            if !words.contains(&word) {
                words.push(word);
            }
        }
    }
    let row = |name: String| {
        let cell = |column| {
            cells.get(&(name.clone(), column)).map_or_else(|| "–".to_owned(), |words| words.join(", "))
        };
        let row = (0..transcripts.len()).map(cell).collect();
        (name, row)
    };
    names.into_iter().map(row).collect()
}

/// `WORD NAME VERDICT…`; a name may hold blanks, so the first verdict after it ends it.
fn said(sort: &Sort, line: &str) -> Option<(String, String)> {
    let rest = line.strip_prefix(sort.word)?.strip_prefix(' ')?;
    let ends = sort.verdicts.iter().filter_map(|verdict| rest.find(&format!(" {verdict}")));
    let (name, verdict) = rest.split_at(ends.min()?);
    Some((name.to_owned(), verdict.trim().to_owned()))
}

/// The verdict's word; what it says more becomes a note, but for the figures of what went well, which differ every time.
fn cell(verdict: &str, notes: &mut Vec<String>) -> String {
    let (word, reason) = match verdict.split_once('(') {
        Some(("ok ", _)) => return "ok".to_owned(),
        Some((word, reason)) => (word.trim(), reason.strip_suffix(')').unwrap_or(reason)),
        None if verdict.starts_with("loaded") => return "loaded".to_owned(),
        None => return verdict.to_owned(),
    };
    let known = notes.iter().position(|note| note == reason);
    let number = known.unwrap_or_else(|| {
        notes.push(reason.to_owned());
        notes.len() - 1
    });
    format!("{word} [{}]", number + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verdict_with_a_reason_points_to_a_note() {
        let mut notes = Vec::new();
        assert_eq!(cell("arrived", &mut notes), "arrived");
        assert_eq!(cell("skipped (no LSM (bpf))", &mut notes), "skipped [1]");
        assert_eq!(cell("skipped (no LSM (bpf))", &mut notes), "skipped [1]");
        assert_eq!(cell("failed (EPERM)", &mut notes), "failed [2]");
        assert_eq!(cell("loaded in 900 ms", &mut notes), "loaded");
        assert_eq!(notes, ["no LSM (bpf)", "EPERM"]);
    }

    #[test]
    fn names_may_hold_blanks_and_brackets() {
        let kind = |line| said(&SORTS[1], line);
        let pair = |name: &str, verdict: &str| Some((name.to_owned(), verdict.to_owned()));
        assert_eq!(kind("kind exec arrived"), pair("exec", "arrived"));
        assert_eq!(
            kind("kind exec (stdio: TCP) missing (it arrived late)"),
            pair("exec (stdio: TCP)", "missing (it arrived late)")
        );
        assert_eq!(kind("kinds exec arrived"), None);
        assert_eq!(kind("object exec loaded in 3 ms"), None);
    }
}
