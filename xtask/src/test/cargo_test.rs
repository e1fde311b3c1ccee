//! `cargo test` with its result lines shown, its passing tests' chatter hidden, and every skipped test counted.
//!
//! A test that cannot run here prints a line that begins with `skipped:` and the reason; libtest swallows it for a test that
//! passes, so the tests run with `--show-output` and this module takes the line out again.

use std::env;
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use super::root_prefix;
use crate::command::{cargo, output, shown};

/// A reason that no excuse is good enough for when this is root on a kernel with BTF.
const MUST_RUN_AS_ROOT: [&str; 5] = ["needs root", "must be root", "not root", "ebpf", "not permitted"];

/// Runs `cargo test` for these targets, as root, and returns the sums.
pub(super) fn test(targets: &[&str]) -> Result<String> {
    let mut command = cargo(&["test", "--locked", "--no-fail-fast"]);
    command.args(targets).args(runner()).args(["--", "--show-output"]);
    let mut report = Report::default();
    let success = stream(&mut command, &mut report)?;
    for skipped in &report.skipped {
        println!("{skipped}");
    }
    let sums = report.sums();
    if !success {
        bail!("{sums} ({}): {}", report.broken.join(", "), shown(&command));
    }
    if report.passed == 0 {
        bail!("no test ran: {}", shown(&command));
    }
    if let Some(excuse) = report.skipped.iter().find(|line| is_lame(line)) {
        bail!("{sums}; as root this test must run: {excuse}");
    }
    Ok(sums)
}

/// `--test NAME` for every test file of the package that holds the whole-system scenarios. Named this way, and not by
/// `--package`, cargo keeps the features of the whole workspace, so nothing is built twice.
pub(super) fn scenario_targets() -> Result<Vec<String>> {
    let text = output(&mut cargo(&["metadata", "--no-deps", "--format-version", "1", "--locked"]))?;
    let metadata: serde_json::Value = serde_json::from_str(&text).context("read cargo metadata")?;
    let packages = metadata["packages"].as_array().context("cargo metadata lists packages")?;
    let scenarios = packages
        .iter()
        .find(|package| package["name"] == "watchfire-tests")
        .context("no package watchfire-tests")?;
    let targets = scenarios["targets"].as_array().context("a package has targets")?;
    let names = targets
        .iter()
        .filter(|target| target["kind"][0] == "test")
        .filter_map(|target| target["name"].as_str());
    let mut args = vec!["--workspace".to_owned()];
    args.extend(names.flat_map(|name| ["--test".to_owned(), name.to_owned()]));
    if args.len() == 1 {
        bail!("the package watchfire-tests has no test file");
    }
    Ok(args)
}

/// Root's tests need root: for anyone else each test binary is started through sudo.
fn runner() -> Vec<String> {
    let mut words = root_prefix();
    if words.is_empty() {
        return Vec::new();
    }
    // sudo replaces PATH even with -E.
    words.extend(["env".to_owned(), format!("PATH={}", env::var("PATH").unwrap_or_default())]);
    let list = serde_json::Value::from(words).to_string();
    vec!["--config".to_owned(), format!("target.'cfg(unix)'.runner={list}")]
}

/// Starts the command, feeds both of its streams to the report in the order they come, and shows what the report lets through.
fn stream(command: &mut Command, report: &mut Report) -> Result<bool> {
    let (reader, writer) = std::io::pipe().context("make a pipe")?;
    command.stdin(Stdio::null()).stdout(writer.try_clone().context("clone a pipe")?).stderr(writer);
    let mut child = command.spawn().with_context(|| format!("start {}", shown(command)))?;
    // The command keeps the pipe's writing end; the reader would wait for it for ever.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut lines = BufReader::new(reader);
    let mut line = Vec::new();
    let mut out = std::io::stdout().lock();
    while lines.read_until(b'\n', &mut line).context("read from cargo test")? > 0 {
        if report.shows(&String::from_utf8_lossy(&line)) {
            out.write_all(&line).and_then(|()| out.flush()).context("write to standard output")?;
        }
        line.clear();
    }
    Ok(child.wait().context("wait for cargo test")?.success())
}

/// What has been read so far.
#[derive(Default)]
struct Report {
    passed: u64,
    failed: u64,
    ignored: u64,
    /// Inside the output of tests that passed.
    hidden: bool,
    skipped: Vec<String>,
    /// Names of tests that failed.
    broken: Vec<String>,
}

impl Report {
    /// Takes one line in and says whether people should see it.
    fn shows(&mut self, line: &str) -> bool {
        let text = line.trim();
        if text.starts_with("skipped:") && !self.skipped.iter().any(|known| known == text) {
            self.skipped.push(text.to_owned());
        }
        if let Some(name) = text.strip_prefix("test ").and_then(|rest| rest.strip_suffix(" ... FAILED")) {
            self.broken.push(name.to_owned());
        }
        if text == "successes:" {
            self.hidden = true;
        } else if let Some(rest) = text.strip_prefix("test result:") {
            self.hidden = false;
            self.add(rest);
        } else if text == "failures:" {
            self.hidden = false;
        }
        !self.hidden
    }

    fn add(&mut self, rest: &str) {
        let count = |word: &str| {
            let field = rest.split([';', '.']).map(str::trim).find(|field| field.ends_with(word));
            field.and_then(|field| field.split(' ').next()?.parse::<u64>().ok()).unwrap_or(0)
        };
        self.passed += count(" passed");
        self.failed += count(" failed");
        self.ignored += count(" ignored");
    }

    fn sums(&self) -> String {
        let Report { passed, failed, ignored, skipped, .. } = self;
        format!("{passed} passed, {failed} failed, {ignored} ignored, {} skipped", skipped.len())
    }
}

/// A skip that blames a missing right, although the tests run as root.
fn is_lame(line: &str) -> bool {
    let line = line.to_lowercase();
    MUST_RUN_AS_ROOT.iter().any(|word| line.contains(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> (Report, String) {
        let mut report = Report::default();
        let shown = text.lines().filter(|line| report.shows(line)).collect::<Vec<_>>().join("\n");
        (report, shown)
    }

    #[test]
    fn passing_tests_are_counted_and_their_chatter_is_hidden() {
        let (report, shown) = read(
            "running 2 tests\ntest a ... ok\n\nsuccesses:\n\n---- a stdout ----\nskipped: no socat\nchatter\n\nsuccesses:\n    a\n\n\
             test result: ok. 2 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.01s",
        );
        assert_eq!(report.sums(), "2 passed, 0 failed, 1 ignored, 1 skipped");
        assert!(!shown.contains("chatter") && shown.contains("test result: ok. 2 passed"), "{shown}");
    }

    #[test]
    fn what_failing_tests_said_is_shown() {
        let (report, shown) = read(
            "test b ... FAILED\nsuccesses:\n\nchatter\n\nfailures:\n\n---- b stdout ----\npanicked\n\ntest result: FAILED. 1 passed; 1 failed; 0 ignored;",
        );
        assert_eq!((report.passed, report.failed, report.broken), (1, 1, vec!["b".to_owned()]));
        assert!(shown.contains("panicked") && !shown.contains("chatter"), "{shown}");
    }

    #[test]
    fn a_skip_for_want_of_root_is_no_excuse_for_root() {
        assert!(is_lame("skipped: needs root") && is_lame("skipped: eBPF refused"));
        assert!(
            !is_lame("skipped: socat is not installed")
                && !is_lame("skipped: privilege_gained: no way to do it")
        );
    }
}
