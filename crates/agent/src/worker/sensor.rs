//! The sensor worker: one loop that polls its sources, resolves sightings to events, has them judged, and sends both on.
//!
//! One thread on purpose: events of one process are judged in order, and nothing is shared. The kernel's rings are the
//! queue in front of it; the outbound queue behind it never makes it wait.

use std::collections::BTreeMap;
use std::io::Read;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::time::Timespec;
use tracing::info;
use watchfire_detect::Engine;
use watchfire_event::{Books, Counts, Kind, Process, Sighting, Stage, StreamId};
use watchfire_host::boot_now;
use watchfire_sensor::{ProcessTable, TableLimits};
use watchfire_wire::v1;

use super::outbound::Outbound;
use super::procfs::HostProcesses;
use super::rules::{self, LoadedRules};
use super::sources::{Attached, attach};
use crate::own_use::own_use;
use crate::settings::AgentSettings;

/// The longest wait for a source. Rings without a wakeup, and files that are asked, are looked at this often.
const TICK: Duration = Duration::from_millis(50);
/// The most sightings taken from one source before the others have their turn.
const TURN: usize = 1024;
/// After a turn that took something the next wait is this short: the kernel side wakes a reader at most every 20 ms, and what
/// it wrote since is not announced.
const BUSY_TICK: Duration = Duration::from_millis(20);
const BOOKS_EVERY: Duration = Duration::from_secs(1);
const STATUS_EVERY: Duration = Duration::from_secs(5);

/// What a sensor worker is told.
pub(crate) struct SensorOrders {
    pub(crate) stream: StreamId,
    pub(crate) settings: AgentSettings,
}

/// Runs until the master closes its end of `link`.
pub(crate) fn run(orders: SensorOrders, link: UnixStream) -> Result<()> {
    // Before the first thread, so that it binds all of them.
    crate::confinement::report("sensor", &crate::confinement::lock_down_sensor());
    let incoming = link.try_clone().context("duplicate the link to the master")?;
    incoming.set_nonblocking(false).context("set up the link to the master")?;
    let outbound = Outbound::start(link).context("start the outbound thread")?;
    let booted = watchfire_host::booted();
    let rules = rules::load(&orders.settings, orders.stream, booted);
    // Sources first, snapshot second: what starts in between is in both, and known once.
    let attached = attach(&orders.settings);
    let processes = HostProcesses::new();
    let snapshot = processes.snapshot();
    let mut table = ProcessTable::new(processes, TableLimits::default());
    table.take_snapshot(snapshot);
    info!(processes = table.len(), rules = rules.count, "sensor worker ready");
    let LoadedRules { engine, count, faults } = rules;
    let worker = SensorWorker {
        attached,
        table,
        engine,
        rules_loaded: count,
        rule_faults: faults,
        outbound,
        pending: Vec::new(),
        taken: BTreeMap::new(),
        resolved: BTreeMap::new(),
    };
    worker.outbound.push_status(worker.status());
    worker.run(incoming)
}

struct SensorWorker {
    attached: Attached,
    table: ProcessTable<HostProcesses>,
    engine: Engine,
    rules_loaded: u32,
    rule_faults: Vec<v1::RuleFault>,
    outbound: Outbound,
    // Sightings not yet resolved, because the process ring has not been read as far.
    pending: Vec<Sighting>,
    taken: BTreeMap<Kind, u64>,
    resolved: BTreeMap<Kind, u64>,
}

/// What a turn brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Turn {
    Nothing,
    Something,
    /// A source has more than its turn.
    More,
}

impl Turn {
    fn of(count: usize) -> Turn {
        match count {
            0 => Turn::Nothing,
            TURN.. => Turn::More,
            _ => Turn::Something,
        }
    }
}

impl SensorWorker {
    fn run(mut self, mut incoming: UnixStream) -> Result<()> {
        let mut books_due = Instant::now() + BOOKS_EVERY;
        let mut status_due = Instant::now() + STATUS_EVERY;
        let mut idle = false;
        loop {
            let longest = if idle { TICK } else { BUSY_TICK };
            let stop = self.wait(&mut incoming, longest)? || self.outbound.broken();
            let mut turn = self.turn()?;
            idle = turn == Turn::Nothing;
            while turn == Turn::More && !stop {
                turn = self.turn()?;
            }
            self.outbound.tick();
            let now = Instant::now();
            if stop || now >= books_due {
                let books = self.books();
                self.outbound.push_books(books);
                books_due = now + BOOKS_EVERY;
            }
            if now >= status_due {
                self.outbound.push_status(self.status());
                status_due = now + STATUS_EVERY;
            }
            if stop {
                self.outbound.finish();
                return Ok(());
            }
        }
    }

    /// Waits for a source or the tick; whether the master asked to stop.
    fn wait(&self, incoming: &mut UnixStream, longest: Duration) -> Result<bool> {
        let mut fds = vec![PollFd::new(&*incoming, PollFlags::IN)];
        for source in &self.attached.sources {
            fds.extend(
                source.descriptors().into_iter().map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)),
            );
        }
        let tick = Timespec {
            tv_sec: 0,
            tv_nsec: i64::try_from(longest.as_nanos()).expect("a tick is below a second"),
        };
        match poll(&mut fds, Some(&tick)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error).context("poll the sources"),
        }
        if fds[0].revents().is_empty() {
            return Ok(false);
        }
        // Nothing is sent to a worker yet but the end of its input.
        let mut byte = [0u8; 64];
        Ok(incoming.read(&mut byte).map_or(true, |count| count == 0))
    }

    /// Takes a turn at every source, and resolves what can be.
    fn turn(&mut self) -> Result<Turn> {
        let mut outcome = Turn::Nothing;
        // The source of processes is drained last, so that whatever another source saw, its process is known; and when
        // it could not be drained to its end, later sightings wait.
        let mut horizon = None;
        let taken = &mut self.taken;
        let pending = &mut self.pending;
        for source in self.attached.sources.iter_mut().rev() {
            let mut last = None;
            let drained = source.drain(TURN, &mut |sighting| {
                *taken.entry(sighting.kind()).or_default() += 1;
                last = Some(sighting.at);
                pending.push(sighting);
            });
            let count = drained.with_context(|| format!("drain {}", source.name()))?;
            outcome = outcome.max(Turn::of(count));
            horizon = if count >= TURN { last } else { None };
        }
        self.pending.sort_by_key(|sighting| sighting.at);
        let ready = match horizon {
            Some(horizon) => self.pending.partition_point(|sighting| sighting.at <= horizon),
            None => self.pending.len(),
        };
        let ready: Vec<Sighting> = self.pending.drain(..ready).collect();
        for sighting in ready {
            self.judge(sighting);
        }
        self.outbound.send_alerts();
        Ok(outcome)
    }

    fn judge(&mut self, sighting: Sighting) {
        let event = self.table.resolve(sighting, boot_now());
        *self.resolved.entry(event.kind()).or_default() += 1;
        let (table, outbound) = (&self.table, &mut self.outbound);
        let lineage = |process: &Process| table.ancestors(process);
        self.engine.judge(&event, &lineage, boot_now, &mut |alert| outbound.push_alert(&alert));
        self.outbound.push_event(&event);
    }

    fn books(&mut self) -> Books {
        let mut books = Books::default();
        for source in &mut self.attached.sources {
            books.add(&source.books());
        }
        // A loss is told by its source itself; no kernel counter stands behind it.
        let told = self.taken.get(&Kind::Loss).copied().unwrap_or(0);
        if told > 0 {
            *books.entry(Stage::Kernel, Kind::Loss) =
                Counts { seen: told, passed: told, ..Counts::default() };
        }
        for (kind, seen) in &self.taken {
            let resolved = self.resolved.get(kind).copied().unwrap_or(0);
            let sensor = books.entry(Stage::Sensor, *kind);
            sensor.seen = *seen;
            sensor.passed = resolved;
            sensor.held = seen - resolved;
            let detect = books.entry(Stage::Detect, *kind);
            detect.seen = resolved;
            detect.passed = resolved;
        }
        books
    }

    fn status(&self) -> v1::Status {
        let table = self.table.counts();
        v1::Status {
            sensors_attached: self.attached.sees_processes(),
            sources: self.attached.reports.iter().map(|report| report.to_wire()).collect(),
            r#use: own_use("worker sensor").into_iter().collect(),
            rule_faults: self.rule_faults.clone(),
            rules_loaded: self.rules_loaded,
            alerts_dropped: self.outbound.alerts_dropped(),
            processes_healed: table.healed,
            processes_unknown: table.unknown,
            // The master's to say.
            breakers: Vec::new(),
            idle: String::new(),
            spool: None,
        }
    }
}
