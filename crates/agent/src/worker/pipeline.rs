//! From sightings to events and alerts: what the sources saw is put in order, resolved, judged, and sent on.
//!
//! One thread on purpose: events of one process are judged in order, and nothing is shared.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use tracing::error;
use watchfire_app::{AppChange, Clock, Intake, Life, Round};
use watchfire_detect::Engine;
use watchfire_event::{
    Books, BootNanos, Counts, DropReason, Event, Kind, Process, Report, Sighting, Stage, StreamId, UnixNanos,
};
use watchfire_host::boot_now;
use watchfire_sensor::{ProcessTable, TableCounts, TableLimits};
use watchfire_wire::v1;

use super::outbound::Outbound;
use super::procfs::HostProcesses;
use super::rules::{self, LoadedRules};
use crate::reports::told_by;
use crate::settings::{AgentSettings, RawRules};

/// The place of the source of processes in the lane.
const PROCESSES: usize = 0;
/// After so many panics the rules are given up until other settings come.
const MOST_PANICS: u64 = 8;

/// See the module's documentation.
pub(super) struct Pipeline {
    table: ProcessTable<HostProcesses>,
    judge: Judge,
    pub(super) outbound: Outbound,
    clock: Clock,
    /// This process, which tells what the apps do.
    teller: Arc<Process>,
    pending: Vec<Sighting>,
    /// The last sighting of a process in this round.
    last_of_processes: Option<BootNanos>,
    shed: BTreeSet<Kind>,
    taken: BTreeMap<Kind, u64>,
    resolved: BTreeMap<Kind, u64>,
    dropped: BTreeMap<(Kind, DropReason), u64>,
    told: u64,
}

impl Pipeline {
    pub(super) fn new(settings: &AgentSettings, stream: StreamId, clock: Clock, outbound: Outbound) -> Self {
        let processes = HostProcesses::new();
        let teller = Arc::new(processes.own());
        Pipeline {
            table: ProcessTable::new(processes, TableLimits::default()),
            judge: Judge::new(&settings.rules, stream, watchfire_host::booted()),
            outbound,
            clock,
            teller,
            pending: Vec::new(),
            last_of_processes: None,
            shed: BTreeSet::new(),
            taken: BTreeMap::new(),
            resolved: BTreeMap::new(),
            dropped: BTreeMap::new(),
            told: 0,
        }
    }

    /// Other kinds are to be given up.
    pub(super) fn shed(&mut self, kinds: Vec<Kind>) {
        self.shed = kinds.into_iter().collect();
    }

    /// Other settings are in force.
    pub(super) fn configure(&mut self, settings: &AgentSettings) {
        self.judge.configure(&settings.rules);
        self.outbound.limit(&settings.limits, &settings.limits.sensor);
    }

    /// Resolves and judges what the round brought. When the source of processes was not drained to its end, what came later than
    /// its last sighting waits: its process may not be known yet.
    pub(super) fn settle(&mut self, round: &Round) {
        let horizon = self.last_of_processes.take().filter(|_| round.unfinished.contains(&PROCESSES));
        self.pending.sort_by_key(|sighting| sighting.at);
        let ready = match horizon {
            Some(horizon) => self.pending.partition_point(|sighting| sighting.at <= horizon),
            None => self.pending.len(),
        };
        let ready: Vec<Sighting> = self.pending.drain(..ready).collect();
        // One look at the clock for all of them.
        let decoded = boot_now();
        for sighting in ready {
            let event = self.table.resolve(sighting, decoded);
            let kind = event.kind();
            if self.shed.contains(&kind) {
                *self.dropped.entry((kind, DropReason::Shed)).or_default() += 1;
                continue;
            }
            *self.resolved.entry(kind).or_default() += 1;
            self.judge.judge(&event, &self.table, &mut self.outbound);
            self.outbound.push_event(&event, self.clock.now());
        }
        self.outbound.send_alerts();
        self.outbound.tick();
    }

    /// The books of this worker; `kernel` are those of the sources.
    pub(super) fn books(&self, kernel: Books) -> Books {
        let mut books = kernel;
        // These are told by their source itself; no kernel counter stands behind them.
        let lost = self.taken.get(&Kind::Loss).copied().unwrap_or(0);
        for (kind, told) in [(Kind::Loss, lost), (Kind::Report, self.told)] {
            if told > 0 {
                *books.entry(Stage::Kernel, kind) = Counts { seen: told, passed: told, ..Counts::default() };
            }
        }
        for (kind, taken) in &self.taken {
            let resolved = self.resolved.get(kind).copied().unwrap_or(0);
            let sensor = books.entry(Stage::Sensor, *kind);
            sensor.seen = *taken;
            sensor.passed = resolved;
            sensor.held = taken - resolved;
            let detect = books.entry(Stage::Detect, *kind);
            detect.seen = resolved;
            detect.passed = resolved;
        }
        for ((kind, reason), dropped) in &self.dropped {
            let sensor = books.entry(Stage::Sensor, *kind);
            sensor.held -= dropped;
            sensor.dropped.insert(*reason, *dropped);
        }
        books
    }

    /// What is to be said of the table and the rules.
    pub(super) fn tell(&self, status: &mut v1::Status) {
        let TableCounts { healed, unknown, .. } = self.table.counts();
        status.processes_healed = healed;
        status.processes_unknown = unknown;
        status.rules_loaded = self.judge.rules_loaded;
        status.rule_faults.clone_from(&self.judge.faults);
        status.alerts_dropped = self.outbound.alerts_dropped();
    }

    /// What the table knew may have changed unseen while no source of processes ran.
    fn fill_table(&mut self) {
        let processes = HostProcesses::new();
        let snapshot = processes.snapshot();
        self.table = ProcessTable::new(processes, TableLimits::default());
        self.table.take_snapshot(snapshot);
        tracing::info!(processes = self.table.len(), rules = self.judge.rules_loaded, "processes known");
    }

    /// An event that this worker itself has to tell.
    fn push_own(&mut self, report: Report) {
        let event = told_by(&self.teller, report);
        self.told += 1;
        *self.taken.entry(Kind::Report).or_default() += 1;
        *self.resolved.entry(Kind::Report).or_default() += 1;
        self.judge.judge(&event, &self.table, &mut self.outbound);
        self.outbound.push_event(&event, self.clock.now());
    }
}

impl Intake<Sighting> for Pipeline {
    fn take(&mut self, place: usize, sighting: Sighting) {
        let kind = sighting.kind();
        *self.taken.entry(kind).or_default() += 1;
        if place == PROCESSES {
            self.last_of_processes = Some(sighting.at);
        }
        // What is given up costs least here. Forks, execs and exits are shed after they were resolved, which keeps the table right.
        if self.shed.contains(&kind) && place != PROCESSES {
            *self.dropped.entry((kind, DropReason::Shed)).or_default() += 1;
            return;
        }
        self.pending.push(sighting);
    }

    fn refused(&mut self, _: usize, sighting: Sighting) {
        let kind = sighting.kind();
        *self.taken.entry(kind).or_default() += 1;
        *self.dropped.entry((kind, DropReason::RateLimited)).or_default() += 1;
    }

    fn changed(&mut self, place: usize, change: AppChange) {
        // Sources first, snapshot second: what starts in between is in both, and known once.
        if place == PROCESSES && matches!(change.to, Life::Running | Life::Unavailable) {
            self.fill_table();
        }
        match super::reporting::told("sensor", &change) {
            Ok(report) => self.push_own(report),
            Err(error) => error!(%error, "a change of an app cannot be told"),
        }
    }
}

/// The rules, and what a panic in one of them leaves.
struct Judge {
    engine: Option<Engine>,
    rules: RawRules,
    stream: StreamId,
    booted: UnixNanos,
    rules_loaded: u32,
    faults: Vec<v1::RuleFault>,
    panics: u64,
}

impl Judge {
    fn new(rules: &RawRules, stream: StreamId, booted: UnixNanos) -> Self {
        let mut judge = Judge {
            engine: None,
            rules: rules.clone(),
            stream,
            booted,
            rules_loaded: 0,
            faults: Vec::new(),
            panics: 0,
        };
        judge.load();
        judge
    }

    fn configure(&mut self, rules: &RawRules) {
        if self.rules != *rules {
            self.rules = rules.clone();
            self.panics = 0;
            self.load();
        }
    }

    fn load(&mut self) {
        let last = self.engine.as_ref().map_or(0, Engine::last_sequence);
        let LoadedRules { mut engine, count, faults } = rules::load(&self.rules, self.stream, self.booted);
        engine.continue_after(last);
        (self.engine, self.rules_loaded, self.faults) = (Some(engine), count, faults);
    }

    fn judge(&mut self, event: &Event, table: &ProcessTable<HostProcesses>, outbound: &mut Outbound) {
        let Some(engine) = &mut self.engine else { return };
        let lineage = |process: &Process| table.ancestors(process);
        let judged = catch_unwind(AssertUnwindSafe(|| {
            engine.judge(event, &lineage, boot_now, &mut |alert| outbound.push_alert(&alert));
        }));
        if judged.is_err() {
            self.panicked(event.kind());
        }
    }

    /// The engine may be half changed: a new one takes its place, and the event is passed on unjudged.
    fn panicked(&mut self, kind: Kind) {
        self.panics += 1;
        error!(
            kind = kind.as_str(),
            panics = self.panics,
            "the detection panicked; its rules are loaded anew"
        );
        if self.panics < MOST_PANICS {
            self.load();
        } else {
            self.engine = None;
            self.rules_loaded = 0;
        }
        self.faults.push(v1::RuleFault {
            file: String::new(),
            error: format!(
                "the detection panicked {} times, last over an event of kind {}",
                self.panics,
                kind.as_str()
            ),
        });
    }
}
