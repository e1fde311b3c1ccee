//! The workers, as the master sees them: what each is called, and one's life after another.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
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

/// What a worker says of an app whose turn does not end.
pub(crate) const STUCK: &str = "stuck";

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

/// What the relay of one life of a worker leaves for the master.
#[derive(Debug, Clone)]
pub(crate) struct Slot(Arc<Mutex<Left>>);

#[derive(Debug)]
struct Left {
    /// The worker's last word on itself that the master has not fetched.
    status: Option<v1::Status>,
    /// When it last said anything.
    heard: Instant,
    /// What it said that no worker says.
    fault: Option<String>,
}

impl Slot {
    fn new(now: Instant) -> Self {
        Slot(Arc::new(Mutex::new(Left { status: None, heard: now, fault: None })))
    }

    fn lock(&self) -> MutexGuard<'_, Left> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The worker said something.
    pub(crate) fn hear(&self, now: Instant) {
        self.lock().heard = now;
    }

    /// Puts a status there; whether there was none.
    pub(crate) fn put(&self, status: v1::Status) -> bool {
        self.lock().status.replace(status).is_none()
    }

    /// The worker broke the protocol: it is not listened to any longer.
    pub(crate) fn blame(&self, fault: String) {
        self.lock().fault.get_or_insert(fault);
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
            slot: Slot::new(now),
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

    /// Where the relay of its next life puts what it says.
    pub(crate) fn new_slot(&mut self, now: Instant) -> Slot {
        self.slot = Slot::new(now);
        self.slot.clone()
    }

    /// Takes what its relay put there.
    pub(crate) fn take_status(&mut self) {
        let status = self.slot.lock().status.take();
        if status.is_some() {
            self.status = status;
        }
    }

    /// Ends it when it has said nothing for `patience`; its end comes as a notice. `away` is a time that the master itself missed.
    pub(crate) fn hear(&mut self, now: Instant, patience: Duration, away: bool) {
        let Some((_, process)) = &mut self.process else { return };
        // A plug-in speaks when it has something to say.
        if matches!(self.role, Role::Plugin(_)) {
            return;
        }
        let mut left = self.slot.lock();
        if away {
            left.heard = now;
        }
        let silent = now.saturating_duration_since(left.heard);
        if silent < patience || left.fault.is_some() {
            return;
        }
        left.fault = Some(format!("it said nothing for {} s", silent.as_secs()));
        drop(left);
        error!(worker = &*self.name, ?silent, "the worker says nothing; ending it");
        process.end();
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

    /// When the master is to look at it again; `wanted` is whether it would be started.
    pub(crate) fn due(&self, now: Instant, wanted: bool) -> Instant {
        let mut due = self.watch.due(now);
        if wanted && self.process.is_none() && self.watch.lets_work() {
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

    /// It has ended by itself, or broke the protocol and is ended: when it may start again, and which of its apps are to rest. What
    /// came of it, in words.
    pub(crate) fn ended(&mut self, now: Instant, random: &mut Random) -> Option<String> {
        let (_, mut process) = self.process.take()?;
        self.watch.end();
        self.take_status();
        let fault = self.slot.lock().fault.take();
        if fault.is_some() {
            // Nothing that it would still say is listened to.
            process.end();
        }
        let (tgid, lived) = (process.tgid(), process.started.elapsed());
        let status = process.ended().map_or_else(|| "status unknown".to_owned(), |status| status.to_string());
        let status = fault.map_or(status.clone(), |fault| format!("{fault}; {status}"));
        error!(worker = &*self.name, status, tgid, ?lived, "a worker ended");
        if lived >= STEADY {
            self.respawn.reset();
        }
        let deaths = self.wait(now, random);
        let mut told = format!("{} ended ({status}), {deaths} times in a row", self.name);
        for rest in self.rest_stuck(now, random) {
            told = format!("{told}; {rest}");
        }
        self.ended = Some(told.clone());
        Some(told)
    }

    /// It could not be started: when that is tried again. What came of it, in words.
    pub(crate) fn not_started(&mut self, now: Instant, error: &anyhow::Error, random: &mut Random) -> String {
        error!(worker = &*self.name, error = format!("{error:#}"), "a worker was not started");
        let failures = self.wait(now, random);
        let told = format!("{} was not started ({error:#}), {failures} times in a row", self.name);
        self.ended = Some(told.clone());
        told
    }

    /// Has it wait before its next start; how often in a row it did.
    fn wait(&mut self, now: Instant, random: &mut Random) -> u32 {
        let wait = self.respawn.next_wait(random);
        let deaths = self.respawn.failures();
        let wait = if deaths >= PARK_AFTER { PARKED } else { wait };
        self.not_before = now + wait;
        warn!(worker = &*self.name, ?wait, deaths, "starting the worker again after a wait");
        deaths
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

    /// Leaves out, for a while, the apps that brought the worker down: what is to be told of each.
    pub(crate) fn rest_stuck(&mut self, now: Instant, random: &mut Random) -> Vec<String> {
        self.take_status();
        let mut told = Vec::new();
        for app in self.stuck() {
            let rest = self.resting.entry(app.clone());
            let rest = rest.or_insert_with(|| Rest { until: now, waits: Backoff::new(REST) });
            rest.until = now + rest.waits.next_wait(random);
            told.push(format!("{app} rests for {} s", rest.until.saturating_duration_since(now).as_secs()));
        }
        told
    }

    /// The apps whose turn did not end when the worker last spoke.
    fn stuck(&self) -> Vec<String> {
        let apps = self.status.iter().flat_map(|status| &status.apps);
        apps.filter(|app| app.state == STUCK).map(|app| app.app.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::RawLimits;

    fn supervised(now: Instant) -> Supervised {
        let limits = RawLimits::default();
        let watch = WorkerWatch::new("collector", &limits, &limits.collector, 7, now);
        Supervised::new("collector", Role::Worker(WorkerName::Collector), watch, now)
    }

    #[test]
    fn a_worker_that_is_not_wanted_is_no_reason_to_look_again_at_once() {
        let now = Instant::now();
        let worker = supervised(now);
        assert_eq!(worker.due(now, true), now);
        assert!(worker.due(now, false) > now + Duration::from_secs(1));
    }

    #[test]
    fn one_that_cannot_be_started_waits_ever_longer_and_says_why() {
        let mut now = Instant::now();
        let mut worker = supervised(now);
        let mut random = Random::seeded(7);
        for attempt in 1..=PARK_AFTER {
            assert!(worker.may_start(now));
            let told = worker.not_started(now, &anyhow::anyhow!("no room"), &mut random);
            assert!(told.contains(&format!("(no room), {attempt} times")), "{told}");
            assert!(!worker.may_start(now));
            now += if attempt < PARK_AFTER { RESPAWN.cap } else { Duration::ZERO };
        }
        assert!(!worker.may_start(now + RESPAWN.cap) && worker.may_start(now + PARKED));
    }
}
