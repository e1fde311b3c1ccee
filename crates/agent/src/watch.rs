//! The master's watch over its workers and its host: samples in, breaker changes out.
//!
//! The breaker of a worker answers for what that worker costs; while it is open the worker does not run, and so no sensor is in
//! the kernel. The host's answers for how the host fares, whoever is to blame; while it is open no worker runs.

use std::path::Path;
use std::time::{Duration, Instant};

use tracing::warn;
use watchfire_host::{Pressure, ProcessSampler, Usage};
use watchfire_pace::{Breaker, BreakerSettings, Change, Reading};
use watchfire_wire::v1;

use crate::settings::{RawHostLimits, RawLimits, RawWorkerLimits};

/// Descriptors and threads of a worker are told up to these many.
const FDS_TOLD: u32 = 10_000;
const THREADS_TOLD: u32 = 64;

/// A breaker over one worker: what it costs.
pub(crate) struct WorkerWatch {
    /// `worker sensor`, say.
    name: String,
    limits: RawWorkerLimits,
    sample: Duration,
    settings: BreakerSettings,
    breaker: Breaker,
    watched: Option<Watched>,
    due: Instant,
    /// Samples of CPU over the limit in a row.
    over: u32,
    /// The last change, in words.
    told: Option<String>,
}

/// A worker under watch.
struct Watched {
    sampler: ProcessSampler,
    before: Option<(Instant, Duration)>,
}

impl WorkerWatch {
    /// `seed` spreads the cool-downs of a fleet.
    pub(crate) fn new(
        name: &str,
        limits: &RawLimits,
        of_worker: &RawWorkerLimits,
        seed: u64,
        now: Instant,
    ) -> Self {
        let settings = limits.worker_breaker(of_worker);
        WorkerWatch {
            name: format!("worker {name}"),
            limits: of_worker.clone(),
            sample: limits.sample(),
            settings,
            breaker: Breaker::new(settings, seed).expect("the settings were checked"),
            watched: None,
            due: now + limits.sample(),
            over: 0,
            told: None,
        }
    }

    /// The worker has started.
    pub(crate) fn begin(&mut self, tgid: u32, now: Instant) {
        self.over = 0;
        self.due = now + self.sample;
        self.watched = match ProcessSampler::open("/proc", tgid, FDS_TOLD, THREADS_TOLD) {
            Ok(sampler) => Some(Watched { sampler, before: None }),
            Err(error) => {
                warn!(tgid, %error, "the worker cannot be watched; its cgroup alone holds it");
                None
            }
        };
    }

    /// The worker has ended.
    pub(crate) fn end(&mut self) {
        self.watched = None;
        self.over = 0;
    }

    /// Whether the breaker lets the worker run.
    pub(crate) fn lets_work(&self) -> bool {
        self.breaker.state().works()
    }

    /// Other limits are in force. The breaker begins anew where its own settings changed.
    pub(crate) fn limit(&mut self, limits: &RawLimits, of_worker: &RawWorkerLimits, seed: u64, now: Instant) {
        let settings = limits.worker_breaker(of_worker);
        if settings != self.settings {
            self.settings = settings;
            self.breaker = Breaker::new(settings, seed).expect("the settings were checked");
            self.told = None;
        }
        (self.limits, self.sample) = (of_worker.clone(), limits.sample());
        self.due = self.due.min(now + self.sample);
    }

    /// When to look again.
    pub(crate) fn due(&self, now: Instant) -> Instant {
        let due = if self.watched.is_some() { self.due } else { now + self.sample };
        self.breaker.cool_down_left(now).map_or(due, |left| due.min(now + left))
    }

    /// How near the worker is to its limit: bad samples in a row, and how many are one less than trip the breaker.
    pub(crate) fn strain(&self) -> (usize, usize) {
        let most = self.limits.cpu_samples.max(2) - 1;
        (self.over as usize, most as usize)
    }

    /// Takes the samples that are due, and tells what that changed.
    pub(crate) fn look(&mut self, now: Instant) -> Vec<Change> {
        let mut changes: Vec<Change> = self.breaker.tick(now).into_iter().collect();
        if now >= self.due {
            self.due = now + self.sample;
            changes.extend(self.sample(now));
        }
        if let Some(change) = changes.last() {
            self.told = Some(change.to_string());
        }
        changes
    }

    fn sample(&mut self, now: Instant) -> Option<Change> {
        let watched = self.watched.as_mut()?;
        // A worker that is just ending: its end comes as a notice.
        let usage = watched.sampler.sample().ok()?.usage;
        let rss = Reading {
            measure: "rss",
            value: (usage.rss >> 20) as f64,
            limit: f64::from(self.limits.rss_mib),
            unit: "MiB",
        };
        if rss.value >= rss.limit {
            return self.breaker.trip(now, rss);
        }
        let cpu = watched.cpu(now, usage, f64::from(self.limits.cpu_percent))?;
        self.over = if cpu.value >= cpu.limit { self.over + 1 } else { 0 };
        self.breaker.observe(now, cpu)
    }

    /// For the status.
    pub(crate) fn status(&self, now: Instant) -> v1::BreakerStatus {
        breaker_status(&self.name, &self.breaker, self.told.as_deref(), now)
    }

    /// Why the worker does not run, where the breaker is open.
    pub(crate) fn idle_because(&self) -> Option<String> {
        let told = self.told.as_deref().unwrap_or("held open");
        (!self.lets_work()).then(|| format!("breaker of the {}: {told}", self.name))
    }
}

/// The breaker over everything: how the host fares, whoever is to blame.
pub(crate) struct HostWatch {
    limits: RawHostLimits,
    sample: Duration,
    settings: BreakerSettings,
    breaker: Breaker,
    due: Instant,
    told: Option<String>,
}

impl HostWatch {
    /// `seed` spreads the cool-downs of a fleet.
    pub(crate) fn new(limits: &RawLimits, seed: u64, now: Instant) -> Self {
        let settings = limits.host_breaker();
        HostWatch {
            limits: limits.host.clone(),
            sample: limits.sample(),
            settings,
            breaker: Breaker::new(settings, seed).expect("the settings were checked"),
            due: now + limits.sample(),
            told: None,
        }
    }

    /// Whether the host lets anything run.
    pub(crate) fn lets_work(&self) -> bool {
        self.breaker.state().works()
    }

    /// Other limits are in force. The breaker begins anew where its own settings changed.
    pub(crate) fn limit(&mut self, limits: &RawLimits, seed: u64, now: Instant) {
        let settings = limits.host_breaker();
        if settings != self.settings {
            self.settings = settings;
            self.breaker = Breaker::new(settings, seed).expect("the settings were checked");
            self.told = None;
        }
        (self.limits, self.sample) = (limits.host.clone(), limits.sample());
        self.due = self.due.min(now + self.sample);
    }

    /// When to look again.
    pub(crate) fn due(&self, now: Instant) -> Instant {
        self.breaker.cool_down_left(now).map_or(self.due, |left| self.due.min(now + left))
    }

    /// Takes the samples that are due, and tells what that changed.
    pub(crate) fn look(&mut self, now: Instant) -> Vec<Change> {
        let mut changes: Vec<Change> = self.breaker.tick(now).into_iter().collect();
        if now >= self.due {
            self.due = now + self.sample;
            let readings = self.host_readings();
            changes.extend(Reading::worst(&readings).and_then(|worst| self.breaker.observe(now, worst)));
        }
        if let Some(change) = changes.last() {
            self.told = Some(change.to_string());
        }
        changes
    }

    /// For the status.
    pub(crate) fn status(&self, now: Instant) -> v1::BreakerStatus {
        breaker_status("host", &self.breaker, self.told.as_deref(), now)
    }

    /// Why nothing runs, where the breaker is open.
    pub(crate) fn idle_because(&self) -> Option<String> {
        let told = self.told.as_deref().unwrap_or("held open");
        (!self.lets_work()).then(|| format!("breaker of the host: {told}"))
    }

    fn host_readings(&self) -> Vec<Reading> {
        let limits = &self.limits;
        let Pressure { cpu, memory, io } = watchfire_host::pressure(Path::new("/proc"));
        let some = |measure, stall: Option<watchfire_host::Stall>, limit: u32| {
            stall.map(|stall| percent(measure, stall.some.avg10, limit))
        };
        let full = |measure, stall: Option<watchfire_host::Stall>, limit: u32| {
            stall.and_then(|stall| stall.full).map(|full| percent(measure, full.avg10, limit))
        };
        let mut readings: Vec<Reading> = [
            some("cpu pressure", cpu, limits.cpu_pressure),
            full("memory pressure", memory, limits.memory_pressure),
            full("io pressure", io, limits.io_pressure),
        ]
        .into_iter()
        .flatten()
        .collect();
        if readings.is_empty()
            && let Some(load) = watchfire_host::load(Path::new("/proc"))
        {
            readings.push(Reading {
                measure: "load",
                value: f64::from(load.one) / f64::from(load.cpus.max(1)),
                limit: f64::from(limits.load_per_cpu),
                unit: "per CPU",
            });
        }
        readings
    }
}

fn breaker_status(name: &str, breaker: &Breaker, told: Option<&str>, now: Instant) -> v1::BreakerStatus {
    let left = breaker.cool_down_left(now);
    v1::BreakerStatus {
        name: name.to_owned(),
        state: breaker.state().as_str().to_owned(),
        cause: told.unwrap_or_default().to_owned(),
        trips: breaker.trips(),
        cool_down_millis: left.map_or(0, |left| u64::try_from(left.as_millis()).unwrap_or(u64::MAX)),
    }
}

impl Watched {
    /// Its share of one core since the sample before; `None` at the first, which also holds the cost of starting.
    fn cpu(&mut self, now: Instant, usage: Usage, limit: f64) -> Option<Reading> {
        let (since, cpu) = self.before.replace((now, usage.cpu))?;
        let wall = now.checked_duration_since(since)?.as_secs_f64();
        let spent = usage.cpu.saturating_sub(cpu).as_secs_f64();
        let value = if wall > 0.0 { 100.0 * spent / wall } else { f64::NAN };
        Some(Reading { measure: "cpu", value, limit, unit: "% of a core" })
    }
}

fn percent(measure: &'static str, value: f32, limit: u32) -> Reading {
    Reading { measure, value: f64::from(value), limit: f64::from(limit), unit: "%" }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use serde_json::json;
    use watchfire_pace::State;

    use super::*;

    fn watch(limits: serde_json::Value, now: Instant) -> WorkerWatch {
        let limits: RawLimits = serde_json::from_value(limits).unwrap();
        WorkerWatch::new("sensor", &limits, &limits.sensor, 7, now)
    }

    #[test]
    fn a_worker_that_spins_is_under_strain_then_trips_its_breaker_and_comes_back_on_probation() {
        let mut spinner = Command::new("sh").args(["-c", "while :; do :; done"]).spawn().unwrap();
        let mut now = Instant::now();
        let mut watch = watch(json!({"sample_ms": 100, "sensor": {"cpu_samples": 3}}), now);
        watch.begin(spinner.id(), now);
        let (mut changes, mut strained) = (Vec::new(), false);
        // Real time, as CPU time is; the loop ends with the trip, however slow the machine.
        while watch.lets_work() {
            std::thread::sleep(Duration::from_millis(120));
            now = Instant::now();
            changes.extend(watch.look(now));
            strained |= watch.strain() == (1, 2);
        }
        spinner.kill().unwrap();
        spinner.wait().unwrap();
        watch.end();
        assert!(strained && watch.strain() == (0, 2));
        let change = changes.last().unwrap();
        assert_eq!((change.to, change.trips), (State::Open, 1));
        assert!(watch.idle_because().unwrap().contains("cpu"), "{:?}", watch.idle_because());
        let cool_down = change.cool_down.unwrap();
        assert!(watch.look(now + cool_down / 2).is_empty());
        let back = watch.look(now + cool_down);
        assert_eq!(back[0].to, State::HalfOpen);
        assert!(watch.lets_work() && watch.idle_because().is_none());
    }

    #[test]
    fn a_worker_over_its_memory_is_stopped_at_the_first_sample() {
        let mut now = Instant::now();
        let mut watch = watch(json!({"sample_ms": 100, "sensor": {"rss_mib": 16}}), now);
        let hog = "x=$(head -c 40000000 /dev/zero | tr '\\0' x); sleep 60";
        let mut hog = Command::new("sh").args(["-c", hog]).spawn().unwrap();
        watch.begin(hog.id(), now);
        let deadline = now + Duration::from_secs(30);
        let mut changes = Vec::new();
        while changes.is_empty() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(120));
            now = Instant::now();
            changes.extend(watch.look(now));
        }
        hog.kill().unwrap();
        hog.wait().unwrap();
        assert!(changes[0].to_string().contains("rss"), "{}", changes[0]);
        assert!(!watch.lets_work());
    }

    #[test]
    fn the_host_is_read_where_it_tells_its_pressure_or_its_load() {
        let watch = HostWatch::new(&RawLimits::default(), 7, Instant::now());
        let readings = watch.host_readings();
        assert!(!readings.is_empty());
        assert!(readings.iter().all(|reading| reading.value.is_finite()), "{readings:?}");
    }
}
