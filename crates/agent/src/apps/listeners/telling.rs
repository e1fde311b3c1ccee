//! What is told: fields of reports.

use std::fmt;
use std::time::Duration;

use watchfire_event::{ContainerId, Process, ProcessKey, Report, ReportError, printable};
use watchfire_host::Listener;

use super::Known;

/// As much of an executable's path is kept for each holder.
const MAX_EXE: usize = 1024;

/// The process that holds a socket, as it was when it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Holder {
    pub(super) key: ProcessKey,
    exe: Vec<u8>,
    comm: Vec<u8>,
    container: Option<ContainerId>,
}

impl From<Process> for Holder {
    fn from(process: Process) -> Self {
        let Process { key, mut exe, comm, container, .. } = process;
        exe.truncate(MAX_EXE);
        exe.shrink_to_fit();
        Holder { key, exe, comm, container }
    }
}

/// A listener that came (`listening`) or went (`closed`).
pub(super) fn change(app: &str, topic: &str, known: &Known, first: bool) -> Result<Report, ReportError> {
    let Known { listener: Listener { key, uid, v6_only }, holder } = known;
    let mut fields = vec![
        ("protocol", key.transport.as_str().to_owned()),
        ("address", key.address.ip().to_string()),
        ("port", key.address.port().to_string()),
        ("inode", key.inode.to_string()),
        ("uid", uid.to_string()),
    ];
    // At one address it says nothing.
    let everywhere = key.address.ip().is_unspecified();
    fields.extend(v6_only.filter(|_| everywhere).map(|only| ("v6_only", only.to_string())));
    if let Some(holder) = holder {
        fields.push(("tgid", holder.key.tgid.to_string()));
        fields.push(("started_ns", holder.key.started.0.to_string()));
        fields.push(("exe", Report::fitting(&printable(&holder.exe)).to_owned()));
        fields.push(("comm", Report::fitting(&printable(&holder.comm)).to_owned()));
        fields.extend(holder.container.iter().map(|id| ("container", Report::fitting(&id.0).to_owned())));
    }
    if topic == LISTENING {
        fields.push(("first", first.to_string()));
    }
    Report::new(app, topic, fields)
}

pub(super) const LISTENING: &str = "listening";
pub(super) const CLOSED: &str = "closed";

/// How a scan went.
#[derive(Debug, Clone, Default)]
pub(super) struct Summary {
    pub(super) first: bool,
    /// Every table was read to its end.
    pub(super) listed: bool,
    /// Why it did not see everything.
    pub(super) problems: Vec<String>,
    /// Listeners beyond those that are told.
    pub(super) left_out: u64,
    /// The tables that netlink did not give, each with the reason.
    pub(super) from_files: Vec<String>,
    pub(super) known: usize,
    pub(super) opened: u64,
    pub(super) closed: u64,
    /// Of those that were opened: no process was found that holds them.
    pub(super) unheld: u64,
    pub(super) descriptors: u64,
    pub(super) took: Duration,
    pub(super) cpu: Duration,
}

impl Summary {
    pub(super) fn is_whole(&self) -> bool {
        self.problems.is_empty() && self.left_out == 0
    }

    pub(super) fn report(&self, app: &str) -> Result<Report, ReportError> {
        let mut fields = vec![
            ("first", self.first.to_string()),
            ("whole", self.is_whole().to_string()),
            ("listeners", self.known.to_string()),
            ("left_out", self.left_out.to_string()),
            ("opened", self.opened.to_string()),
            ("closed", self.closed.to_string()),
            ("without_process", self.unheld.to_string()),
            ("descriptors", self.descriptors.to_string()),
            ("took_ms", self.took.as_millis().to_string()),
            ("cpu_ms", self.cpu.as_millis().to_string()),
        ];
        for (name, texts) in [("why", &self.problems), ("from_files", &self.from_files)] {
            if !texts.is_empty() {
                fields.push((name, Report::fitting(&texts.join("; ")).to_owned()));
            }
        }
        Report::new(app, "scan", fields)
    }
}

/// One line for the status and the log.
impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} listeners, {} opened, {} closed", self.known, self.opened, self.closed)?;
        write!(f, ", {} descriptors looked at", self.descriptors)?;
        write!(f, ", {:.1} s, CPU {:.3} s", self.took.as_secs_f64(), self.cpu.as_secs_f64())?;
        if self.left_out > 0 {
            write!(f, ", {} listeners left out", self.left_out)?;
        }
        match self.problems.is_empty() {
            true => Ok(()),
            false => write!(f, "; {}", self.problems.join("; ")),
        }
    }
}
