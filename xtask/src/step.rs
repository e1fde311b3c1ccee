//! The steps of a long task: each is announced, timed and judged, and a table at the end says it all again.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// Steps done so far.
pub(crate) struct Steps {
    rows: Vec<Row>,
    began: Instant,
}

struct Row {
    name: &'static str,
    took: Duration,
    verdict: Verdict,
}

enum Verdict {
    Passed(String),
    Failed(String),
    NotRun(&'static str),
}

impl Steps {
    /// No step yet.
    pub(crate) fn new() -> Self {
        Steps { rows: Vec::new(), began: Instant::now() }
    }

    /// Runs one step and says whether it passed. What it returns stands beside it in the table.
    pub(crate) fn run(&mut self, name: &'static str, body: impl FnOnce() -> Result<String>) -> bool {
        eprintln!("\n==> {name}");
        let began = Instant::now();
        let result = body();
        let took = began.elapsed();
        let verdict = match result {
            Ok(note) => {
                eprintln!("<== {name}: passed in {}", seconds(took));
                Verdict::Passed(note)
            }
            Err(error) => {
                eprintln!("<== {name}: FAILED after {}: {error:#}", seconds(took));
                Verdict::Failed(format!("{error:#}"))
            }
        };
        let passed = matches!(verdict, Verdict::Passed(_));
        self.rows.push(Row { name, took, verdict });
        passed
    }

    /// Records a step that makes no sense any more.
    pub(crate) fn leave_out(&mut self, name: &'static str, why: &'static str) {
        self.rows.push(Row { name, took: Duration::ZERO, verdict: Verdict::NotRun(why) });
    }

    /// Prints the table; an error when a step failed or could not run.
    pub(crate) fn finish(self) -> Result<()> {
        eprint!("\n{}", self.table());
        let bad = self.rows.iter().filter(|row| !matches!(row.verdict, Verdict::Passed(_))).count();
        if bad > 0 {
            bail!("{bad} of {} steps did not pass", self.rows.len());
        }
        Ok(())
    }

    fn table(&self) -> String {
        let mut table = String::new();
        for row in &self.rows {
            let (word, note) = match &row.verdict {
                Verdict::Passed(note) => ("passed", note.as_str()),
                Verdict::Failed(error) => ("FAILED", error.lines().next().unwrap_or_default()),
                Verdict::NotRun(why) => ("not run", *why),
            };
            let line = format!("{word:<8} {:>9}  {:<14} {note}", seconds(row.took), row.name);
            writeln!(table, "{}", line.trim_end()).expect("writing to a String cannot fail");
        }
        writeln!(table, "{:<8} {:>9}", "total", seconds(self.began.elapsed()))
            .expect("writing to a String cannot fail");
        table
    }
}

/// A duration for people: `7.3 s`, `12 min 05 s`.
pub(crate) fn seconds(duration: Duration) -> String {
    let whole = duration.as_secs();
    if whole < 100 {
        format!("{:.1} s", duration.as_secs_f64())
    } else {
        format!("{} min {:02} s", whole / 60, whole % 60)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_or_missing_step_fails_the_whole_and_shows_why() {
        let mut steps = Steps::new();
        assert!(steps.run("good", || Ok("3 of 3".to_owned())));
        assert!(!steps.run("bad", || bail!("exit status: 1: false")));
        steps.leave_out("late", "needs bad");
        let table = steps.table();
        assert!(table.contains("FAILED") && table.contains("exit status: 1: false"), "{table}");
        assert_eq!(steps.finish().unwrap_err().to_string(), "2 of 3 steps did not pass");
    }

    #[test]
    fn durations_read_well() {
        assert_eq!(seconds(Duration::from_millis(7300)), "7.3 s");
        assert_eq!(seconds(Duration::from_secs(725)), "12 min 05 s");
    }
}
