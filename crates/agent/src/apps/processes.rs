//! The app `processes`: exec, fork and exit, from the best source the host offers.

use serde::{Deserialize, Serialize};
use watchfire_app::{App, AppError, OutOfRange, Part, PartState, Sandbox, Settings};
use watchfire_event::Sighting;
use watchfire_sensor::ebpf::{self, EbpfSettings, Object};
use watchfire_sensor::{AuditSource, ProcConnector};

use super::kernel::{ring, unavailable};
use super::tap::{Tap, through_the_tap};

/// What its parts give.
pub(crate) const PROCESSES: &str = "exec, fork, exit";
const AUDIT: &str = "audit";
const PROC_CONNECTOR: &str = "proc connector";
const NOT_CHOSEN: &str = "would work; another source is in use, or the settings choose another";

/// Where process events come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum ProcessSource {
    /// eBPF where it loads, else audit where it is free, else the proc connector.
    #[default]
    Auto,
    /// eBPF or nothing.
    Ebpf,
    /// The audit netlink socket or nothing.
    Audit,
    /// The process connector (cn_proc) and /proc or nothing.
    ProcConnector,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct ProcessSettings {
    source: ProcessSource,
    /// The ring for exec, fork and exit, in KiB; a power of two, 256 to 65536.
    ring_kib: u32,
}

impl Default for ProcessSettings {
    /// 4 MiB hold 0.28 s of the fastest fork storm measured (14.5 MB/s).
    fn default() -> Self {
        ProcessSettings { source: ProcessSource::Auto, ring_kib: 4096 }
    }
}

impl Settings for ProcessSettings {
    fn check(&self) -> Result<(), OutOfRange> {
        ring(self.ring_kib, 256, 65_536, "a power of two from 256 to 65536")
    }
}

/// See the module's documentation.
pub(crate) struct Processes {
    tap: Tap,
}

impl App for Processes {
    const NAME: &'static str = "processes";
    type Settings = ProcessSettings;
    type Fact = Sighting;

    fn start(settings: ProcessSettings, _: &Sandbox) -> Result<Self, AppError> {
        let mut search = Search { found: None, parts: Vec::new() };
        search.ebpf(&settings);
        search.audit(settings.source);
        search.proc_connector(settings.source);
        let Search { found, parts } = search;
        match found {
            Some(mut tap) => {
                tap.parts = parts;
                Ok(Processes { tap })
            }
            None => Err(AppError::Unavailable { why: "no source of processes works here".to_owned(), parts }),
        }
    }

    through_the_tap!();
}

/// Tries one source after another; what is not needed is only probed, so that the parts tell what the host offers.
struct Search {
    found: Option<Tap>,
    parts: Vec<Part>,
}

impl Search {
    fn ebpf(&mut self, settings: &ProcessSettings) {
        let name = Object::Process.name();
        if !matches!(settings.source, ProcessSource::Auto | ProcessSource::Ebpf) {
            self.tell(name, PartState::Standby, NOT_CHOSEN.to_owned());
            return;
        }
        let ebpf = EbpfSettings { process_ring: settings.ring_kib * 1024, ..EbpfSettings::default() };
        match ebpf::load(&ebpf, Object::Process) {
            Ok(source) => {
                let blind = source.blind_spots().to_vec();
                self.take(Tap::new(source, PROCESSES, blind));
            }
            Err(error) => self.refuse(name, &error),
        }
    }

    fn audit(&mut self, wanted: ProcessSource) {
        if self.found.is_some() || !matches!(wanted, ProcessSource::Auto | ProcessSource::Audit) {
            self.stand_by(AUDIT, AuditSource::probe());
            return;
        }
        match AuditSource::open() {
            Ok(source) => {
                let blind = source.blind_spots();
                self.take(Tap::new(source, PROCESSES, blind));
            }
            Err(error) => self.refuse(AUDIT, &error),
        }
    }

    fn proc_connector(&mut self, wanted: ProcessSource) {
        if self.found.is_some() || !matches!(wanted, ProcessSource::Auto | ProcessSource::ProcConnector) {
            self.stand_by(PROC_CONNECTOR, ProcConnector::probe());
            return;
        }
        match ProcConnector::open() {
            Ok(source) => {
                let blind = source.blind_spots();
                self.take(Tap::new(source, PROCESSES, blind));
            }
            Err(error) => self.refuse(PROC_CONNECTOR, &error),
        }
    }

    fn take(&mut self, mut tap: Tap) {
        self.parts.append(&mut tap.parts);
        self.found = Some(tap);
    }

    fn refuse(&mut self, name: &'static str, error: &dyn std::error::Error) {
        self.parts.push(unavailable(name, PROCESSES, error));
    }

    fn stand_by<E: std::error::Error>(&mut self, name: &'static str, probed: Result<(), E>) {
        match probed {
            Ok(()) => self.tell(name, PartState::Standby, NOT_CHOSEN.to_owned()),
            Err(error) => self.parts.push(unavailable(name, PROCESSES, &error)),
        }
    }

    fn tell(&mut self, name: &'static str, state: PartState, detail: String) {
        self.parts.push(Part { name, state, gives: PROCESSES, details: vec![detail] });
    }
}
