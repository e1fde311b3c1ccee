//! The master's watch over its worker and its host: samples in, breaker changes out.
//!
//! The breaker of the worker answers for what the worker costs, the host's for how the host fares, whoever is to blame. Where
//! either is open there is no worker, and so no sensor in the kernel.

use std::path::Path;
use std::time::{Duration, Instant};

use tracing::warn;
use watchfire_host::{Pressure, ProcessSampler, Usage};
use watchfire_pace::{Breaker, Change, Reading, State};
use watchfire_wire::v1;

use crate::settings::RawLimits;

/// Descriptors and threads of a worker are told up to these many.
const FDS_TOLD: u32 = 10_000;
const THREADS_TOLD: u32 = 64;

/// Which breaker changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Level {
    Worker,
    Host,
}

impl Level {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Level::Worker => "worker sensor",
            Level::Host => "host",
        }
    }
}

/// See the module's documentation.
pub(crate) struct Watch {
    limits: RawLimits,
    worker: Breaker,
    host: Breaker,
    watched: Option<Watched>,
    due: Instant,
    /// The last change of each breaker, in words.
    told: [Option<String>; 2],
}

/// A worker under watch.
struct Watched {
    sampler: ProcessSampler,
    before: Option<(Instant, Duration)>,
}

impl Watch {
    /// `host` spreads the cool-downs of a fleet.
    pub(crate) fn new(limits: RawLimits, host: &[u8; 16], now: Instant) -> Self {
        let seed = u64::from_le_bytes(host[..8].try_into().expect("eight of sixteen bytes"));
        let breaker = |settings| Breaker::new(settings, seed).expect("the settings were checked");
        let (worker, of_host) = (breaker(limits.worker_breaker()), breaker(limits.host_breaker()));
        let due = now + limits.sample();
        Watch { limits, worker, host: of_host, watched: None, due, told: [None, None] }
    }

    /// A worker has started.
    pub(crate) fn begin(&mut self, tgid: u32) {
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
    }

    /// Whether both breakers let a worker run.
    pub(crate) fn lets_work(&self) -> bool {
        self.worker.state().works() && self.host.state().works()
    }

    /// When to look again.
    pub(crate) fn due(&self, now: Instant) -> Instant {
        let cool_down =
            [&self.worker, &self.host].into_iter().filter_map(|one| one.cool_down_left(now)).min();
        cool_down.map_or(self.due, |left| self.due.min(now + left))
    }

    /// Takes the samples that are due, and tells what that changed.
    pub(crate) fn look(&mut self, now: Instant) -> Vec<(Level, Change)> {
        let mut changes = Vec::new();
        changes.extend(self.worker.tick(now).map(|change| (Level::Worker, change)));
        changes.extend(self.host.tick(now).map(|change| (Level::Host, change)));
        if now >= self.due {
            self.due = now + self.limits.sample();
            changes.extend(self.look_at_worker(now).map(|change| (Level::Worker, change)));
            let readings = self.host_readings();
            let worst = Reading::worst(&readings);
            changes.extend(worst.and_then(|worst| self.host.observe(now, worst)).map(|it| (Level::Host, it)));
        }
        for (level, change) in &changes {
            self.told[*level as usize] = Some(change.to_string());
        }
        changes
    }

    fn look_at_worker(&mut self, now: Instant) -> Option<Change> {
        let watched = self.watched.as_mut()?;
        // A worker that is just ending: its end comes as a notice.
        let usage = watched.sampler.sample().ok()?.usage;
        let rss = Reading {
            measure: "rss",
            value: (usage.rss >> 20) as f64,
            limit: f64::from(self.limits.sensor.rss_mib),
            unit: "MiB",
        };
        if rss.value >= rss.limit {
            return self.worker.trip(now, rss);
        }
        let cpu = watched.cpu(now, usage, f64::from(self.limits.sensor.cpu_percent))?;
        self.worker.observe(now, cpu)
    }

    fn host_readings(&self) -> Vec<Reading> {
        let limits = &self.limits.host;
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

    /// Both breakers, for the status.
    pub(crate) fn status(&self, now: Instant) -> Vec<v1::BreakerStatus> {
        [(Level::Worker, &self.worker), (Level::Host, &self.host)]
            .into_iter()
            .map(|(level, breaker)| v1::BreakerStatus {
                name: level.as_str().to_owned(),
                state: breaker.state().as_str().to_owned(),
                cause: self.told[level as usize].clone().unwrap_or_default(),
                trips: breaker.trips(),
                cool_down_millis: breaker
                    .cool_down_left(now)
                    .map_or(0, |left| u64::try_from(left.as_millis()).unwrap_or(u64::MAX)),
            })
            .collect()
    }

    /// Why there is no worker, in a few words; `None` where both breakers let one run.
    pub(crate) fn idle_because(&self) -> Option<String> {
        let open = [(Level::Worker, &self.worker), (Level::Host, &self.host)];
        let (level, _) = open.into_iter().find(|(_, breaker)| breaker.state() == State::Open)?;
        let told = self.told[level as usize].as_deref().unwrap_or("held open");
        Some(format!("breaker of the {}: {told}", level.as_str()))
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

    use super::*;
    use crate::settings::{AgentSettings, RawSettings};

    fn watch(json: &str, now: Instant) -> Watch {
        let raw: RawSettings = serde_json::from_str(json).unwrap();
        let settings = AgentSettings::check(raw).unwrap();
        Watch::new(settings.limits.clone(), &[7; 16], now)
    }

    const QUIET_HOST: &str = r#""host": {"cpu_pressure": 101, "memory_pressure": 101, "io_pressure": 101}"#;

    #[test]
    fn a_worker_that_spins_trips_its_breaker_and_comes_back_on_probation() {
        let mut spinner = Command::new("sh").args(["-c", "while :; do :; done"]).spawn().unwrap();
        let mut now = Instant::now();
        let json =
            format!(r#"{{"limits": {{"sample_ms": 100, "sensor": {{"cpu_samples": 3}}, {QUIET_HOST}}}}}"#);
        let mut watch = watch(&json, now);
        watch.begin(spinner.id());
        let mut changes = Vec::new();
        // Real time, as CPU time is; the loop ends with the trip, however slow the machine.
        while watch.lets_work() {
            std::thread::sleep(Duration::from_millis(120));
            now = Instant::now();
            changes.extend(watch.look(now));
        }
        spinner.kill().unwrap();
        spinner.wait().unwrap();
        watch.end();
        let (level, change) = changes.last().unwrap();
        assert_eq!((*level, change.to, change.trips), (Level::Worker, State::Open, 1));
        assert!(watch.idle_because().unwrap().contains("cpu"), "{:?}", watch.idle_because());
        let cool_down = change.cool_down.unwrap();
        assert!(watch.look(now + cool_down / 2).is_empty());
        let back = watch.look(now + cool_down);
        assert_eq!(back[0].1.to, State::HalfOpen);
        assert!(watch.lets_work() && watch.idle_because().is_none());
    }

    #[test]
    fn a_worker_over_its_memory_is_stopped_at_the_first_sample() {
        let mut now = Instant::now();
        let json =
            format!(r#"{{"limits": {{"sample_ms": 100, "sensor": {{"rss_mib": 16}}, {QUIET_HOST}}}}}"#);
        let mut watch = watch(&json, now);
        let hog = "x=$(head -c 40000000 /dev/zero | tr '\\0' x); sleep 60";
        let mut hog = Command::new("sh").args(["-c", hog]).spawn().unwrap();
        watch.begin(hog.id());
        let deadline = now + Duration::from_secs(30);
        let mut changes = Vec::new();
        while changes.is_empty() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(120));
            now = Instant::now();
            changes.extend(watch.look(now));
        }
        hog.kill().unwrap();
        hog.wait().unwrap();
        assert!(changes[0].1.to_string().contains("rss"), "{}", changes[0].1);
        assert!(!watch.lets_work());
    }

    #[test]
    fn the_host_is_read_where_it_tells_its_pressure_or_its_load() {
        let watch = watch("{}", Instant::now());
        let readings = watch.host_readings();
        assert!(!readings.is_empty());
        assert!(readings.iter().all(|reading| reading.value.is_finite()), "{readings:?}");
    }
}
