//! What the agent costs a host on which nothing happens, beside auditd in the same minutes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::tower::Tower;
use super::usage::{Family, Memory, family};
use crate::command::{self, find};

/// Clock ticks in a second, as /proc counts them.
const TICKS: f64 = 100.0;
/// The rule that most hosts with auditd have, and that sees what the agent's first source sees.
const RULE: [&str; 8] = ["-a", "always,exit", "-F", "arch=b64", "-S", "execve", "-k", "watchfire-bench"];

/// Runs both for so long, and makes the section.
pub(super) fn measure(folder: &Path, minutes: u32) -> Result<String> {
    let auditd = Auditd::start(folder);
    let tower = Tower::start(folder, "{}")?;
    let before = tower.settled_usage()?;
    let audit_before = auditd.as_ref().ok().map(Auditd::usage);
    let watch = tower.watch_memory();
    thread::sleep(Duration::from_secs(u64::from(minutes) * 60));
    let after = tower.usage()?;
    let audit_after = auditd.as_ref().ok().map(Auditd::usage);
    let peaks = watch.stop()?;
    let mut table = String::from(
        "| process | CPU seconds | share of a core | RSS, MB | at most |\n|---|---|---|---|---|\n",
    );
    let peak = |pid: u32| peaks.get(&pid).copied().unwrap_or_default();
    rows(&mut table, &before, &after, minutes, peak);
    if let (Some(before), Some(after)) = (&audit_before, &audit_after) {
        rows(&mut table, before, after, minutes, |pid| {
            after.get(&pid).map(|usage| usage.memory).unwrap_or_default()
        });
    }
    tower.stop()?;
    let beside = match &auditd {
        Ok(_) => format!("auditd ran with the rule `{}` in the same minutes.", RULE[..6].join(" ")),
        Err(error) => format!("auditd could not run here: {error:#}."),
    };
    let section = format!("## Idle\n\n{minutes} minutes in which nothing else ran. {beside}\n\n{table}");
    Ok(section)
}

fn rows(table: &mut String, before: &Family, after: &Family, minutes: u32, peak: impl Fn(u32) -> Memory) {
    for (pid, now) in after {
        let Some(then) = before.get(pid) else { continue };
        let seconds = (now.ticks - then.ticks) as f64 / TICKS;
        let share = 100.0 * seconds / (f64::from(minutes) * 60.0);
        let (rss, most) = (now.memory.rss as f64 / 1024.0, peak(*pid).rss as f64 / 1024.0);
        table.push_str(&format!("| {} | {seconds:.2} | {share:.3} % | {rss:.1} | {most:.1} |\n", now.role));
    }
}

/// An auditd of the benchmark's own: its files below the benchmark's folder.
struct Auditd {
    child: Child,
}

impl Auditd {
    fn start(folder: &Path) -> Result<Self> {
        let (Some(auditd), Some(auditctl)) = (find("auditd"), find("auditctl")) else {
            bail!("the package auditd is not installed");
        };
        let folder = folder.join("auditd");
        fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
        let log = folder.join("audit.log");
        let config = format!(
            "local_events = yes\nwrite_logs = yes\nlog_file = {}\nlog_format = RAW\nflush = INCREMENTAL_ASYNC\nfreq = 50\n\
             max_log_file = 8\nnum_logs = 2\nmax_log_file_action = ROTATE\nspace_left = 75\nspace_left_action = IGNORE\n\
             admin_space_left = 50\nadmin_space_left_action = IGNORE\ndisk_full_action = IGNORE\ndisk_error_action = IGNORE\n",
            log.display()
        );
        fs::write(folder.join("auditd.conf"), config).context("write auditd.conf")?;
        let mut command = Command::new(auditd);
        command
            .arg("-n")
            .arg("-c")
            .arg(&folder)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let child = command.spawn().context("start auditd")?;
        let mut auditd = Auditd { child };
        thread::sleep(Duration::from_secs(2));
        if let Some(status) = auditd.child.try_wait().context("wait for auditd")? {
            bail!("auditd ended with {status}");
        }
        command::run(Command::new(PathBuf::from(&auditctl)).args(RULE))?;
        Ok(auditd)
    }

    fn usage(&self) -> Family {
        family(self.child.id())
    }
}

impl Drop for Auditd {
    fn drop(&mut self) {
        let remove = ["-d"].into_iter().chain(RULE[1..].iter().copied());
        if let Some(auditctl) = find("auditctl")
            && let Err(error) = command::run(Command::new(auditctl).args(remove))
        {
            eprintln!("the audit rule stays: {error:#}");
        }
        let pid = i32::try_from(self.child.id()).ok().and_then(rustix::process::Pid::from_raw);
        if let Some(pid) = pid
            && rustix::process::kill_process(pid, rustix::process::Signal::TERM).is_ok()
        {
            drop(self.child.wait());
        }
    }
}
