//! What a storm showed, as a section of the page.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use super::usage::{Family, Memory};

/// All rounds.
pub(super) struct StormReport {
    pub(super) execs: u32,
    /// Wall time of each storm without the agent.
    pub(super) bare: Vec<Duration>,
    pub(super) rounds: Vec<Round>,
}

/// One storm with the agent.
pub(super) struct Round {
    pub(super) took: Duration,
    /// Distinct execs stored with every argument.
    pub(super) recorded: usize,
    /// Rows with the storm's mark that are doubled or differ.
    pub(super) strange: usize,
    /// Losses by stage, kind and reason.
    pub(super) dropped: BTreeMap<String, u64>,
    /// Whether every exec was stored or booked as dropped, and the ledger closed.
    pub(super) balanced: bool,
    pub(super) before: Family,
    pub(super) after: Family,
    pub(super) peak: BTreeMap<u32, Memory>,
}

impl StormReport {
    /// The section.
    pub(super) fn section(&self, title: &str) -> String {
        let mut text = format!("## {title}\n\n");
        let bare: Vec<f64> = self.bare.iter().map(Duration::as_secs_f64).collect();
        let with: Vec<f64> = self.rounds.iter().map(|round| round.took.as_secs_f64()).collect();
        // Each pair ran back to back: what else the machine did weighs on both.
        let ratios: Vec<f64> = with.iter().zip(&bare).map(|(with, bare)| with / bare).collect();
        line(
            &mut text,
            &format!(
                "{} execs a storm, {} rounds; medians (smallest to largest).\n",
                self.execs,
                self.rounds.len()
            ),
        );
        line(&mut text, "| what | figure |\n|---|---|");
        line(&mut text, &format!("| storm without the agent | {} |", spread(&bare, "s", 2)));
        line(&mut text, &format!("| storm with the agent | {} |", spread(&with, "s", 2)));
        line(&mut text, &format!("| ratio of each pair | {} |", spread(&ratios, "", 2)));
        let recorded: Vec<String> = self.rounds.iter().map(|round| round.recorded.to_string()).collect();
        line(
            &mut text,
            &format!(
                "| execs stored with every argument, by round | {} of {} |",
                recorded.join(", "),
                self.execs
            ),
        );
        let strange: usize = self.rounds.iter().map(|round| round.strange).sum();
        line(&mut text, &format!("| rows doubled or different, all rounds | {strange} |"));
        let balanced = self.rounds.iter().filter(|round| round.balanced).count();
        line(
            &mut text,
            &format!("| rounds after which the ledger closed | {balanced} of {} |", self.rounds.len()),
        );
        line(&mut text, &format!("| dropped by stage, kind and reason, all rounds | {} |", self.dropped()));
        text.push('\n');
        self.processes(&mut text);
        text
    }

    fn dropped(&self) -> String {
        let mut sums: BTreeMap<&str, u64> = BTreeMap::new();
        for (place, count) in self.rounds.iter().flat_map(|round| &round.dropped) {
            *sums.entry(place).or_default() += count;
        }
        if sums.is_empty() {
            return "nothing".to_owned();
        }
        sums.iter().map(|(place, count)| format!("{place}: {count}")).collect::<Vec<_>>().join("; ")
    }

    /// One row a process: its CPU for 100,000 execs, and its memory before, at the peak and after.
    fn processes(&self, text: &mut String) {
        line(
            text,
            "| process | CPU s per 100,000 execs | RSS MB before | at peak | after | of the peak: anonymous | file | shared |",
        );
        line(text, "|---|---|---|---|---|---|---|---|");
        let mut roles: Vec<&str> = self
            .rounds
            .iter()
            .flat_map(|round| round.after.values())
            .map(|usage| usage.role.as_str())
            .collect();
        roles.sort_unstable();
        roles.dedup();
        for role in roles {
            let rows: Vec<ProcessRow> =
                self.rounds.iter().filter_map(|round| round.row(role, self.execs)).collect();
            let middle =
                |figure: fn(&ProcessRow) -> f64| median(&rows.iter().map(figure).collect::<Vec<_>>());
            line(
                text,
                &format!(
                    "| `{role}` | {:.2} | {:.1} | {:.1} | {:.1} | {:.1} | {:.1} | {:.1} |",
                    middle(|row| row.cpu),
                    middle(|row| row.before),
                    middle(|row| row.peak),
                    middle(|row| row.after),
                    middle(|row| row.anon),
                    middle(|row| row.file),
                    middle(|row| row.shared),
                ),
            );
        }
    }
}

/// One process in one round: seconds, and MB.
struct ProcessRow {
    cpu: f64,
    before: f64,
    peak: f64,
    after: f64,
    anon: f64,
    file: f64,
    shared: f64,
}

impl Round {
    fn row(&self, role: &str, execs: u32) -> Option<ProcessRow> {
        let (pid, after) = self.after.iter().find(|(_, usage)| usage.role == role)?;
        let before = self.before.get(pid).cloned().unwrap_or_default();
        let peak = self.peak.get(pid).copied().unwrap_or(after.memory);
        let mb = |kib: u64| kib as f64 * 1024.0 / 1e6;
        Some(ProcessRow {
            cpu: (after.ticks - before.ticks) as f64 / 100.0 * 100_000.0 / f64::from(execs),
            before: mb(before.memory.rss),
            peak: mb(peak.rss),
            after: mb(after.memory.rss),
            anon: mb(peak.anon),
            file: mb(peak.file),
            shared: mb(peak.shared),
        })
    }
}

fn line(text: &mut String, line: &str) {
    writeln!(text, "{line}").expect("writing to a String cannot fail");
}

/// `median (smallest–largest) unit`.
pub(super) fn spread(values: &[f64], unit: &str, digits: usize) -> String {
    let least = values.iter().copied().fold(f64::INFINITY, f64::min);
    let most = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let unit = if unit.is_empty() { String::new() } else { format!(" {unit}") };
    format!("{:.digits$}{unit} ({least:.digits$}–{most:.digits$})", median(values))
}

/// The middle value, or the mean of the two in the middle.
pub(super) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        length if length % 2 == 1 => sorted[length / 2],
        length => (sorted[length / 2 - 1] + sorted[length / 2]) / 2.0,
    }
}

#[cfg(test)]
mod tests {
    use super::super::usage::Usage;
    use super::*;

    fn family(ticks: u64, rss: u64) -> Family {
        let memory = Memory { rss, ..Memory::default() };
        Family::from([(7, Usage { role: "watchfire up".to_owned(), ticks, memory })])
    }

    #[test]
    fn the_section_says_ratio_losses_and_cost() {
        let round = |took, recorded| Round {
            took: Duration::from_millis(took),
            recorded,
            strange: 0,
            dropped: BTreeMap::from([("kernel exec ring_full".to_owned(), 3)]),
            balanced: true,
            before: family(100, 10_000),
            after: family(150, 12_000),
            peak: BTreeMap::from([(7, Memory { rss: 20_000, anon: 1_000, file: 2_000, shared: 3_000 })]),
        };
        let report = StormReport {
            execs: 50_000,
            bare: vec![Duration::from_secs(2); 3],
            rounds: vec![round(2100, 50_000), round(2200, 49_997), round(2300, 50_000)],
        };
        let text = report.section("Storm");
        assert!(text.contains("| ratio of each pair | 1.10 (1.05–1.15) |"), "{text}");
        assert!(
            text.contains("50000, 49997, 50000 of 50000") && text.contains("kernel exec ring_full: 9"),
            "{text}"
        );
        assert!(text.contains("| `watchfire up` | 1.00 | 10.2 | 20.5 | 12.3 | 1.0 | 2.0 | 3.1 |"), "{text}");
    }

    #[test]
    fn medians() {
        assert!((median(&[3.0, 1.0, 2.0]) - 2.0).abs() < 1e-9);
        assert!((median(&[4.0, 1.0]) - 2.5).abs() < 1e-9);
        assert!(median(&[]).is_nan());
    }
}
