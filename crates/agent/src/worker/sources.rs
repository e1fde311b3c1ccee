//! Which sources this host offers: each is tried by really attaching it, and what came of it is reported.

use tracing::{info, warn};
use watchfire_sensor::ebpf::{self, EbpfSettings, ModuleHooks, OBJECTS, Object};
use watchfire_sensor::{AuditSource, AuthLog, FanotifySource, FileSettings, ProcConnector, Source};
use watchfire_wire::v1;

use crate::settings::{AgentSettings, ModuleWatch, ProcessSource};

/// Whether a source is in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SourceState {
    /// In use.
    Active,
    /// Would work, and a better one is in use.
    Standby,
    /// Does not work here; the details say why.
    Unavailable,
}

impl SourceState {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            SourceState::Active => "active",
            SourceState::Standby => "standby",
            SourceState::Unavailable => "unavailable",
        }
    }
}

/// What is known of one source on this host.
#[derive(Debug, Clone)]
pub(crate) struct SourceReport {
    pub(crate) name: &'static str,
    pub(crate) state: SourceState,
    /// What it gives.
    pub(crate) gives: &'static str,
    /// What it cannot see, or why it is not in use.
    pub(crate) details: Vec<String>,
}

impl SourceReport {
    pub(crate) fn to_wire(&self) -> v1::SourceStatus {
        v1::SourceStatus {
            name: self.name.to_owned(),
            state: self.state.as_str().to_owned(),
            detail: self.details.join("; "),
        }
    }
}

/// The sources in use, and what there is to say about all of them.
pub(crate) struct Attached {
    /// The source of processes comes first.
    pub(crate) sources: Vec<Box<dyn Source>>,
    pub(crate) reports: Vec<SourceReport>,
}

const AUDIT: &str = "audit";
const PROC_CONNECTOR: &str = "proc connector";
const PROCESSES: &str = "exec, fork, exit";
const NOT_CHOSEN: &str = "would work; another source is in use, or the settings choose another";

/// Attaches what the settings ask for and the host allows. A source that does not attach is a report, never an error.
pub(crate) fn attach(settings: &AgentSettings) -> Attached {
    if !rustix::process::geteuid().is_root() {
        warn!("not running as root: eBPF, audit and secrets need it; `watchfire sources` tells what is left");
    }
    let mut attached = Attached { sources: Vec::new(), reports: Vec::new() };
    attached.processes(settings);
    for object in OBJECTS.iter().copied().filter(|object| *object != Object::Process) {
        attached.ebpf(object, settings);
    }
    attached.files(settings);
    attached.logins(settings);
    attached
}

impl Attached {
    /// Whether some source of processes is in use.
    pub(crate) fn sees_processes(&self) -> bool {
        self.reports.iter().any(|report| report.state == SourceState::Active && report.gives == PROCESSES)
    }

    fn processes(&mut self, settings: &AgentSettings) {
        let choice = settings.process_source;
        let by_ebpf = matches!(choice, ProcessSource::Auto | ProcessSource::Ebpf)
            && self.ebpf(Object::Process, settings);
        if !matches!(choice, ProcessSource::Auto | ProcessSource::Ebpf) {
            self.report(Object::Process.name(), SourceState::Standby, PROCESSES, NOT_CHOSEN.to_owned());
        }
        let by_audit =
            !by_ebpf && matches!(choice, ProcessSource::Auto | ProcessSource::Audit) && self.audit();
        let wanted = matches!(choice, ProcessSource::Auto | ProcessSource::ProcConnector);
        let by_connector = !by_ebpf && !by_audit && wanted && self.proc_connector();
        if !by_audit && !self.reported(AUDIT) {
            self.stand_by(AUDIT, AuditSource::probe());
        }
        if !by_connector && !self.reported(PROC_CONNECTOR) {
            self.stand_by(PROC_CONNECTOR, ProcConnector::probe());
        }
    }

    fn reported(&self, name: &str) -> bool {
        self.reports.iter().any(|report| report.name == name)
    }

    fn ebpf(&mut self, object: Object, settings: &AgentSettings) -> bool {
        let gives = gives(object);
        match ebpf::load(&ebpf_settings(settings), object) {
            Ok(source) => {
                let blind = source.blind_spots().to_vec();
                self.activate(object.name(), gives, blind, Box::new(source))
            }
            Err(error) => self.refuse(object.name(), gives, &error),
        }
    }

    fn audit(&mut self) -> bool {
        match AuditSource::open() {
            Ok(source) => {
                let blind = source.blind_spots();
                self.activate(AUDIT, PROCESSES, blind, Box::new(source))
            }
            Err(error) => self.refuse(AUDIT, PROCESSES, &error),
        }
    }

    fn proc_connector(&mut self) -> bool {
        match ProcConnector::open() {
            Ok(source) => {
                let blind = source.blind_spots();
                self.activate(PROC_CONNECTOR, PROCESSES, blind, Box::new(source))
            }
            Err(error) => self.refuse(PROC_CONNECTOR, PROCESSES, &error),
        }
    }

    fn files(&mut self, settings: &AgentSettings) {
        const GIVES: &str = "file create, write, rename, unlink, attributes, link; secrets opened";
        match FanotifySource::open(file_settings(settings)) {
            Ok(source) => {
                let blind = source.blind_spots();
                self.activate("fanotify", GIVES, blind, Box::new(source));
            }
            Err(error) => {
                self.refuse("fanotify", GIVES, &error);
            }
        }
    }

    fn logins(&mut self, settings: &AgentSettings) {
        let source = AuthLog::new(settings.logins.logs.clone());
        let blind = source.blind_spots();
        self.activate("auth log", "logins, accepted and failed", blind, Box::new(source));
    }

    fn activate(
        &mut self,
        name: &'static str,
        gives: &'static str,
        details: Vec<String>,
        source: Box<dyn Source>,
    ) -> bool {
        info!(source = name, "source attached");
        self.sources.push(source);
        self.reports.push(SourceReport { name, state: SourceState::Active, gives, details });
        true
    }

    fn refuse(&mut self, name: &'static str, gives: &'static str, error: &dyn std::error::Error) -> bool {
        let why = with_causes(error);
        warn!(source = name, error = why, "source unavailable");
        self.report(name, SourceState::Unavailable, gives, why);
        false
    }

    /// A source that is not used: whether it would work here.
    fn stand_by<E: std::error::Error>(&mut self, name: &'static str, probed: Result<(), E>) {
        match probed {
            Ok(()) => self.report(name, SourceState::Standby, PROCESSES, NOT_CHOSEN.to_owned()),
            Err(error) => self.report(name, SourceState::Unavailable, PROCESSES, with_causes(&error)),
        }
    }

    fn report(&mut self, name: &'static str, state: SourceState, gives: &'static str, detail: String) {
        self.reports.push(SourceReport { name, state, gives, details: vec![detail] });
    }
}

fn gives(object: Object) -> &'static str {
    match object {
        Object::Process => PROCESSES,
        Object::Network => "TCP connect, accept, listen",
        Object::Udp => "first datagram of each UDP flow",
        Object::Privilege => "credentials, ptrace, memfd, eBPF programs, mounts, namespaces",
        Object::Module => "kernel modules",
    }
}

fn ebpf_settings(settings: &AgentSettings) -> EbpfSettings {
    let other = settings.rings.other_kib * 1024;
    EbpfSettings {
        process_ring: settings.rings.process_kib * 1024,
        network_ring: other,
        udp_ring: other,
        privilege_ring: other,
        module_ring: other.min(64 << 10),
        module_hooks: match settings.modules {
            ModuleWatch::Auto => ModuleHooks::Auto,
            ModuleWatch::Tracepoints => ModuleHooks::Tracepoints,
            ModuleWatch::EverySyscall => ModuleHooks::EverySyscall,
        },
        ..EbpfSettings::default()
    }
}

fn file_settings(settings: &AgentSettings) -> FileSettings {
    let mut files = FileSettings::default();
    if let Some(prefixes) = &settings.files.prefixes {
        files.prefixes.clone_from(prefixes);
    }
    files.prefixes.extend(settings.files.more_prefixes.iter().cloned());
    files.secrets.extend(settings.files.more_secrets.iter().cloned());
    files.excludes.extend(settings.files.excludes.iter().cloned());
    files
}

fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        // Some errors already show their source in their own text.
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        next = cause.source();
    }
    text
}
