//! The workers, as the master sees them: what each is called, and one's life after another.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tracing::{error, warn};
use watchfire_confine::Confinement;
use watchfire_pace::{Backoff, BackoffSettings, Random};
use watchfire_wire::v1;
use watchfire_wire::worker::MasterFrame;

use crate::outbox::WorkerLife;
use crate::watch::WorkerWatch;
use crate::worker_process::WorkerProcess;

/// A worker that lived this long starts the next wait from the beginning.
const STEADY: Duration = Duration::from_secs(60);
/// Between the end of a worker and the start of the next.
const RESPAWN: BackoffSettings = BackoffSettings {
    first: Duration::from_millis(400),
    cap: Duration::from_secs(30),
    floor: Duration::from_millis(200),
};
/// A worker that ended so many times in a row, none of its lives steady, is parked: started once in [`PARKED`].
const PARK_AFTER: u32 = 12;
const PARKED: Duration = Duration::from_secs(900);
/// A plug-in that was refused is looked at again this often at most.
const REFUSED: Duration = Duration::from_secs(30);
/// How long an app rests that brought its worker down.
const REST: BackoffSettings = BackoffSettings {
    first: Duration::from_secs(60),
    cap: Duration::from_secs(3600),
    floor: Duration::from_secs(30),
};

/// A worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum WorkerName {
    /// Sensors and detection.
    Sensor,
    /// Checks and inventory.
    Collector,
    /// Files.
    Scanner,
    /// Guests and probes.
    Extension,
}

impl WorkerName {
    /// All of them.
    pub const ALL: [WorkerName; 4] =
        [WorkerName::Sensor, WorkerName::Collector, WorkerName::Scanner, WorkerName::Extension];

    /// The word used in output, settings and arguments.
    pub fn as_str(self) -> &'static str {
        match self {
            WorkerName::Sensor => "sensor",
            WorkerName::Collector => "collector",
            WorkerName::Scanner => "scanner",
            WorkerName::Extension => "extension",
        }
    }
}

/// What a supervised process is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Role {
    /// A worker: this executable again.
    Worker(WorkerName),
    /// An external plug-in, by its manifest.
    Plugin(PathBuf),
}

/// One worker or plug-in over all its lives.
pub(crate) struct Supervised {
    /// A worker's word, or a plug-in's name behind `plugin-`: in the log, the reports, the name of its cgroup.
    pub(crate) name: Arc<str>,
    pub(crate) role: Role,
    pub(crate) watch: WorkerWatch,
    pub(crate) process: Option<(WorkerLife, WorkerProcess)>,
    /// What it last said of itself in this life.
    status: Option<v1::Status>,
    slot: Slot,
    /// The kinds it was told to give up.
    shed: Vec<u32>,
    /// What this life was started under.
    caps: Option<Confinement>,
    respawn: Backoff,
    /// Before this it is not started again.
    not_before: Instant,
    /// Why it ended, where it was not the master's wish.
    pub(crate) ended: Option<String>,
    resting: BTreeMap<String, Rest>,
}

/// An app that is left out for a while.
struct Rest {
    until: Instant,
    waits: Backoff,
}

/// The last word of a worker that the master has not fetched.
#[derive(Debug, Clone, Default)]
pub(crate) struct Slot(Arc<Mutex<Option<v1::Status>>>);

impl Slot {
    /// Puts a status there; whether the slot was empty.
    pub(crate) fn put(&self, status: v1::Status) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).replace(status).is_none()
    }

    fn take(&self) -> Option<v1::Status> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl Supervised {
    pub(crate) fn new(name: &str, role: Role, watch: WorkerWatch, now: Instant) -> Self {
        Supervised {
            name: name.into(),
            role,
            watch,
            process: None,
            status: None,
            slot: Slot::default(),
            shed: Vec::new(),
            caps: None,
            respawn: Backoff::new(RESPAWN),
            not_before: now,
            ended: None,
            resting: BTreeMap::new(),
        }
    }

    /// The present life.
    pub(crate) fn life(&self) -> Option<WorkerLife> {
        self.process.as_ref().map(|(life, _)| *life)
    }

    /// It was started, under these caps.
    pub(crate) fn began(&mut self, life: WorkerLife, process: WorkerProcess, caps: Confinement) {
        self.process = Some((life, process));
        (self.status, self.ended, self.caps) = (None, None, Some(caps));
        self.shed.clear();
    }

    /// Whether it runs under other caps than these.
    pub(crate) fn caps_differ(&self, caps: &Confinement) -> bool {
        self.process.is_some() && self.caps.as_ref() != Some(caps)
    }

    /// Where its relay puts what it says of itself.
    pub(crate) fn slot(&self) -> Slot {
        self.slot.clone()
    }

    /// Takes what its relay put there.
    pub(crate) fn take_status(&mut self) {
        if let Some(status) = self.slot.take() {
            self.status = Some(status);
        }
    }

    /// What it last said of itself in this life.
    pub(crate) fn status(&self) -> Option<&v1::Status> {
        self.status.as_ref()
    }

    /// Tells it something, as soon as it reads; nothing while it does not run.
    pub(crate) fn send(&mut self, frame: &MasterFrame) {
        if let Some((_, process)) = &mut self.process {
            process.send(frame);
        }
    }

    /// Writes on what it has not read yet. One that does not read for long is ended: its end comes as a notice.
    pub(crate) fn flush(&mut self) {
        if let Some((_, process)) = &mut self.process {
            process.flush();
        }
    }

    /// The kinds to give up from now on; `None` where that is known already.
    pub(crate) fn shed(&mut self, kinds: &[u32]) -> Option<Vec<u32>> {
        if self.process.is_none() || self.shed == kinds {
            return None;
        }
        self.shed = kinds.to_vec();
        Some(self.shed.clone())
    }

    /// Whether it may be started now.
    pub(crate) fn may_start(&self, now: Instant) -> bool {
        self.process.is_none() && now >= self.not_before && self.watch.lets_work()
    }

    /// When the master is to look at it again; `None` where nothing is due.
    pub(crate) fn due(&self, now: Instant) -> Instant {
        let mut due = self.watch.due(now);
        if self.process.is_none() && self.watch.lets_work() {
            due = due.min(self.not_before);
        }
        let rests = self.resting.values().map(|rest| rest.until).filter(|until| *until > now);
        rests.fold(due, Instant::min)
    }

    /// The apps that are to be left out now.
    pub(crate) fn resting(&self, now: Instant) -> Vec<String> {
        let resting = self.resting.iter().filter(|(_, rest)| rest.until > now);
        resting.map(|(app, _)| app.clone()).collect()
    }

    /// Whether an app's rest ended between two moments: the worker is to be told.
    pub(crate) fn rest_ended(&self, before: Instant, now: Instant) -> bool {
        self.resting.values().any(|rest| before < rest.until && rest.until <= now)
    }

    /// It has ended by itself: when it may start again, and which of its apps are to rest. What came of it, in words.
    pub(crate) fn ended(&mut self, now: Instant, random: &mut Random) -> Option<String> {
        let (_, process) = self.process.take()?;
        self.watch.end();
        let (tgid, lived) = (process.tgid(), process.started.elapsed());
        self.take_status();
        let status = process.ended().map_or_else(|| "status unknown".to_owned(), |status| status.to_string());
        error!(worker = &*self.name, status, tgid, ?lived, "a worker ended");
        if lived >= STEADY {
            self.respawn.reset();
        }
        let wait = self.respawn.next_wait(random);
        let deaths = self.respawn.failures();
        let wait = if deaths >= PARK_AFTER { PARKED } else { wait };
        self.not_before = now + wait;
        let mut told = format!("{} ended ({status}), {deaths} times in a row", self.name);
        for app in self.stuck() {
            let rest = self
                .resting
                .entry(app.clone())
                .or_insert_with(|| Rest { until: now, waits: Backoff::new(REST) });
            rest.until = now + rest.waits.next_wait(random);
            told =
                format!("{told}; {app} rests for {} s", rest.until.saturating_duration_since(now).as_secs());
        }
        warn!(worker = &*self.name, ?wait, deaths, "starting the worker again after a wait");
        self.ended = Some(told.clone());
        Some(told)
    }

    /// It could not be started: it is tried again after a wait.
    pub(crate) fn refused(&mut self, why: String, now: Instant, random: &mut Random) {
        self.not_before = now + self.respawn.next_wait(random).max(REFUSED);
        self.ended = Some(why);
    }

    /// Other settings or files are there: it may be started now.
    pub(crate) fn try_again(&mut self, now: Instant) {
        if self.process.is_none() {
            self.not_before = now;
            self.respawn.reset();
        }
    }

    /// Whether it is the worker of this name.
    pub(crate) fn is(&self, name: WorkerName) -> bool {
        self.role == Role::Worker(name)
    }

    /// Ends it in order.
    pub(crate) fn stop(&mut self) -> Option<WorkerLife> {
        self.watch.end();
        let (life, process) = self.process.take()?;
        process.stop();
        Some(life)
    }

    /// The apps whose turn did not end when the worker last spoke.
    fn stuck(&self) -> Vec<String> {
        let apps = self.status.iter().flat_map(|status| &status.apps);
        apps.filter(|app| app.state == "stuck").map(|app| app.app.clone()).collect()
    }
}
