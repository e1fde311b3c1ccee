//! `watchfire-agent doctor`: what works on this host, what does not, why, and what to do about it. Each thing is tried for real:
//! sources are attached, a child is started under a worker's confinement.

use std::io::{self, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use serde::Serialize;
use watchfire_app::{Part, PartState};
use watchfire_confine::{Applied, Measure, Outcome};
use watchfire_event::printable;

use crate::catalog::Catalog;
use crate::lock::{AgentLock, LockError};
use crate::settings::AgentSettings;
use crate::worker;
use crate::workers::WorkerName;

/// How well something works.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Verdict {
    Works,
    InPart,
    Missing,
}

impl Verdict {
    fn as_str(self) -> &'static str {
        match self {
            Verdict::Works => "works",
            Verdict::InPart => "in part",
            Verdict::Missing => "missing",
        }
    }
}

/// One thing the doctor looked at.
#[derive(Debug, Serialize)]
struct Finding {
    area: &'static str,
    what: String,
    verdict: Verdict,
    /// Why it is not whole, or what was found.
    why: String,
    /// What an operator can do; empty where nothing need or can be done.
    advice: &'static str,
}

/// What the doctor looks at.
pub(crate) struct Patient<'a> {
    pub(crate) settings: &'a AgentSettings,
    pub(crate) catalog: &'a Catalog,
    pub(crate) state_dir: &'a Path,
    pub(crate) lock: &'a Path,
    /// See [`crate::AgentCommand::execute`].
    pub(crate) reexec: &'static [&'static str],
}

/// Looks, prints, and says whether the agent can watch this host at all.
pub(crate) fn run(patient: &Patient<'_>, json: bool) -> Result<bool> {
    let mut findings = vec![user(), kernel_types(), pressure(), lock(patient.lock)];
    // The sensors have left the kernel again before a child is started.
    let parts = worker::try_sources(patient.catalog, patient.settings);
    let sees_processes = worker::sees_processes(&parts);
    findings.extend(parts.iter().map(source));
    findings.extend(confinement(patient)?);
    print(&findings, json).context("print the findings")?;
    Ok(sees_processes)
}

fn user() -> Finding {
    let root = rustix::process::geteuid().is_root();
    Finding {
        area: "host",
        what: "privileges".to_owned(),
        verdict: if root { Verdict::Works } else { Verdict::Missing },
        why: format!("runs as user {}", rustix::process::geteuid().as_raw()),
        advice: if root { "" } else { "start the agent as root: it gives up what it does not need" },
    }
}

fn kernel_types() -> Finding {
    let path = Path::new("/sys/kernel/btf/vmlinux");
    let found = path.exists();
    Finding {
        area: "host",
        what: "kernel types (BTF)".to_owned(),
        verdict: if found { Verdict::Works } else { Verdict::Missing },
        why: path.display().to_string(),
        advice: if found {
            ""
        } else {
            "use a kernel built with CONFIG_DEBUG_INFO_BTF; without it eBPF is not used"
        },
    }
}

fn pressure() -> Finding {
    let pressure = watchfire_host::pressure("/proc");
    let told = [pressure.cpu.is_some(), pressure.memory.is_some(), pressure.io.is_some()];
    let all = told.iter().all(|told| *told);
    Finding {
        area: "host",
        what: "pressure".to_owned(),
        verdict: if all { Verdict::Works } else { Verdict::InPart },
        why: if all { "/proc/pressure" } else { "the host's breaker goes by the load" }.to_owned(),
        advice: if all { "" } else { "boot with psi=1" },
    }
}

fn lock(path: &Path) -> Finding {
    let (verdict, why, advice) = match AgentLock::take(path) {
        Ok(_free) => (Verdict::Works, format!("{} is free", path.display()), ""),
        Err(held @ LockError::Held { .. }) => {
            (Verdict::InPart, held.to_string(), "that agent watches this host")
        }
        Err(error @ LockError::Io { .. }) => {
            let why = format!("{:#}", anyhow::Error::from(error));
            (Verdict::Missing, why, "name a file that the agent may write with --lock")
        }
    };
    Finding { area: "host", what: "the agent's lock".to_owned(), verdict, why, advice }
}

fn source(part: &Part) -> Finding {
    let (verdict, advice) = match part.state {
        PartState::Active if part.details.is_empty() => (Verdict::Works, ""),
        PartState::Active => (Verdict::InPart, ""),
        PartState::Standby => (Verdict::Works, ""),
        PartState::Unavailable => (Verdict::Missing, ""),
    };
    let what = format!("{} ({})", part.name, part.gives);
    let why = match part.state {
        PartState::Standby => format!("standby: {}", part.details.join("; ")),
        PartState::Active | PartState::Unavailable => part.details.join("; "),
    };
    Finding { area: "source", what, verdict, why, advice }
}

/// Starts a child under the sensor worker's confinement and lets it close itself as the worker does.
fn confinement(patient: &Patient<'_>) -> Result<Vec<Finding>> {
    let mut command = Command::new("/proc/self/exe");
    command.args(patient.reexec).args(["worker", "probe"]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let home = crate::confinement::home(patient.state_dir);
    let confinement = crate::confinement::of(WorkerName::Sensor, &patient.settings.limits.sensor);
    let confined =
        confinement.spawn(&mut command, home.as_ref().ok(), "doctor").context("start a confined child")?;
    let output = confined.child.wait_with_output().context("wait for the confined child")?;
    if let Some(cgroup) = confined.cgroup
        && let Err(error) = cgroup.remove(crate::worker_process::CGROUP_GRACE)
    {
        tracing::warn!(%error, "the cgroup of the doctor's child stays; the agent's next start removes it");
    }
    let mut findings: Vec<Finding> = confined.applied.iter().map(|(it, how)| measure(it, how)).collect();
    if let Err(error) = home {
        let why = format!("{}: {error}", patient.state_dir.display());
        let advice = "make the state directory, or name another with --state-dir";
        findings.push(Finding {
            area: "confinement",
            what: "cgroup".to_owned(),
            verdict: Verdict::Missing,
            why,
            advice,
        });
    }
    findings.push(Finding {
        area: "confinement",
        what: "system call filter".to_owned(),
        verdict: if output.status.success() { Verdict::Works } else { Verdict::Missing },
        why: printable(output.stdout.trim_ascii()).into_owned(),
        advice: if output.status.success() { "" } else { "use a kernel built with CONFIG_SECCOMP_FILTER" },
    });
    Ok(findings)
}

fn measure(measure: Measure, outcome: &Outcome) -> Finding {
    let (verdict, why) = match outcome {
        Outcome::Held => (Verdict::Works, String::new()),
        Outcome::InPart(why) => (Verdict::InPart, why.clone()),
        Outcome::NotHeld(why) => (Verdict::Missing, why.clone()),
    };
    Finding { area: "confinement", what: measure.to_string(), verdict, why, advice: "" }
}

/// The confined child's part: closes itself as the sensor worker does, and tells what did not hold.
pub(crate) fn probe() -> Result<()> {
    let applied: Applied = crate::confinement::lock_down(WorkerName::Sensor);
    let shortfalls: Vec<String> =
        applied.shortfalls().map(|(measure, outcome)| format!("{measure}: {outcome}")).collect();
    writeln!(io::stdout(), "{}", shortfalls.join("; ")).context("tell the doctor")?;
    anyhow::ensure!(shortfalls.is_empty(), "not closed");
    Ok(())
}

fn print(findings: &[Finding], json: bool) -> io::Result<()> {
    let mut out = io::stdout().lock();
    for finding in findings {
        if json {
            writeln!(out, "{}", serde_json::to_string(finding)?)?;
            continue;
        }
        let verdict = finding.verdict.as_str();
        writeln!(out, "{:<12} {verdict:<8} {}", finding.area, printable(finding.what.as_bytes()))?;
        for line in [finding.why.as_str(), finding.advice].into_iter().filter(|line| !line.is_empty()) {
            writeln!(out, "{:<12} {:<8} - {}", "", "", printable(line.as_bytes()))?;
        }
    }
    out.flush()
}
