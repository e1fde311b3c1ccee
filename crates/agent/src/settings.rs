//! The agent's settings: one JSON object, a document for each app and for each part of the agent, partial over defaults. Unknown keys
//! are refused, every number has its range.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use watchfire_app::{Document, DocumentError, OutOfRange, Settings, within};
use watchfire_event::{Kind, printable};
use watchfire_pace::BreakerSettings;
use watchfire_spool::{SpoolSettings, WhenFull};

use crate::catalog::Catalog;
use crate::plugins::RawPlugins;
use crate::workers::WorkerName;

/// Why settings were refused. Those before stay in force; at the start the agent does not start, and says so.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// The file could not be read.
    #[error("read settings {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The text is no JSON.
    #[error("settings: {0}")]
    Json(#[source] serde_json::Error),
    /// The text is no JSON object.
    #[error("settings: not a JSON object of documents")]
    NoObject,
    /// There is no such app, and no such part of the agent.
    #[error("settings: no app or part of the agent is called {name:?}; there are {known}")]
    Unknown {
        /// The key.
        name: String,
        /// All that there are.
        known: String,
    },
    /// A document is not good.
    #[error("setting {0}")]
    Document(#[from] DocumentError),
    /// What a file said.
    #[error("{}", path.display())]
    InFile {
        /// The file.
        path: PathBuf,
        /// What is wrong in it.
        source: Box<SettingsError>,
    },
}

/// Where rules come from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RawRules {
    /// Whether the built-in pack is used.
    pub pack: bool,
    /// Directories of Sigma rules, searched with their subdirectories.
    pub dirs: Vec<PathBuf>,
}

impl Default for RawRules {
    fn default() -> Self {
        RawRules { pack: true, dirs: Vec::new() }
    }
}

impl Settings for RawRules {
    fn check(&self) -> Result<(), OutOfRange> {
        Ok(())
    }
}

/// The way to the server.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RawUplink {
    /// Events that wait in memory for the server or its acknowledgement, in KiB, 256 to 1048576. Beyond it the newest go to the spool
    /// as far as they are worth it; the others are dropped, and counted.
    pub backlog_kib: u32,
    /// Frames of up to 16 alerts that wait likewise, 16 to 1000000.
    pub backlog_alerts: u32,
}

impl Default for RawUplink {
    /// 6 MiB keep the master near 12 MB; alerts are few, and a thousand of them is a bad day.
    fn default() -> Self {
        RawUplink { backlog_kib: 6144, backlog_alerts: 1024 }
    }
}

impl Settings for RawUplink {
    fn check(&self) -> Result<(), OutOfRange> {
        within("backlog_kib", self.backlog_kib, 256..=1_048_576, "256 to 1048576")?;
        within("backlog_alerts", self.backlog_alerts, 16..=1_000_000, "16 to 1000000")
    }
}

/// What a full spool does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SpoolWhenFull {
    /// The oldest records go, a segment at a time.
    #[default]
    DropOldest,
    /// New records are refused.
    DropNewest,
}

/// What waits for the server on the disk, in `spool` below the state directory: alerts always, events when the server is away or slow.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RawSpool {
    /// What all its files may take, in MiB, 1 to 65536.
    pub max_mib: u32,
    /// So much goes at once when the oldest must, in KiB, 4 to 1048576; at most half and at least a 65536th of `max_mib`. One
    /// record larger than `max_mib` less two segments may not fit.
    pub segment_kib: u32,
    /// See [`SpoolWhenFull`].
    pub when_full: SpoolWhenFull,
    /// Kinds of events that are worth a place on the disk, by the words that output uses.
    pub kinds: Vec<String>,
}

impl Default for RawSpool {
    /// 64 MiB no host misses; they hold days of a quiet host's alerts and chosen events. The kinds are those that tell of a
    /// compromise by themselves; forks, exits and flows, which are most of what happens, are left to the memory.
    fn default() -> Self {
        const KINDS: &[Kind] = &[
            Kind::Exec,
            Kind::FileCreate,
            Kind::FileWrite,
            Kind::FileRename,
            Kind::FileAttrib,
            Kind::FileLink,
            Kind::Credentials,
            Kind::Ptrace,
            Kind::Memfd,
            Kind::ModuleLoad,
            Kind::BpfLoad,
            Kind::Mount,
            Kind::Login,
            Kind::Loss,
            Kind::Report,
        ];
        RawSpool {
            max_mib: 64,
            segment_kib: 1024,
            when_full: SpoolWhenFull::default(),
            kinds: KINDS.iter().map(|kind| kind.as_str().to_owned()).collect(),
        }
    }
}

impl RawSpool {
    pub(crate) fn spool_settings(&self, directory: PathBuf) -> SpoolSettings {
        SpoolSettings {
            directory,
            segment_bytes: u64::from(self.segment_kib) << 10,
            max_bytes: u64::from(self.max_mib) << 20,
            when_full: match self.when_full {
                SpoolWhenFull::DropOldest => WhenFull::DropOldest,
                SpoolWhenFull::DropNewest => WhenFull::DropNewest,
            },
        }
    }

    /// The kinds; a word that names none was refused when the settings were checked.
    pub(crate) fn kept_kinds(&self) -> Vec<Kind> {
        self.kinds.iter().filter_map(|word| word.parse().ok()).collect()
    }
}

impl Settings for RawSpool {
    fn check(&self) -> Result<(), OutOfRange> {
        within("max_mib", self.max_mib, 1..=65_536, "1 to 65536")?;
        let (least, most) = (4.max(self.max_mib / 64), (self.max_mib * 512).min(1 << 20));
        let allowed = "4 to 1048576, at most half and at least a 65536th of spool.max_mib";
        within("segment_kib", self.segment_kib, least..=most, allowed)?;
        match self.kinds.iter().find(|word| word.parse::<Kind>().is_err()) {
            Some(word) => Err(OutOfRange {
                key: "kinds",
                value: printable(word.as_bytes()).into_owned(),
                allowed: "names of event kinds, as in `watchfire events --kind`",
            }),
            None => Ok(()),
        }
    }
}

/// What the agent may cost its host, and what happens when it costs more: `watch.rs` and docs/operating.md.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RawLimits {
    /// Between two samples, in ms, 100 to 60000.
    pub sample_ms: u32,
    /// The first cool-down of a tripped breaker, in seconds, 1 to 3600; each further trip doubles it.
    pub cool_down_s: u32,
    /// The longest cool-down, in seconds, `cool_down_s` to 86400.
    pub longest_cool_down_s: u32,
    /// A worker that says nothing for so long, in seconds, 10 to 3600, is ended. One that is well speaks each second.
    pub silence_s: u32,
    /// The worker of the sensors and the detection.
    pub sensor: RawWorkerLimits,
    /// The worker that takes inventory.
    pub collector: RawWorkerLimits,
    /// The worker that looks through files.
    pub scanner: RawWorkerLimits,
    /// The worker of guests and probes.
    pub extension: RawWorkerLimits,
    /// Each external plug-in.
    pub plugin: RawWorkerLimits,
    /// The host.
    pub host: RawHostLimits,
    /// Kinds of events that are given up while a worker is near its limit, the first one first. Those not named stay.
    pub shed: Vec<String>,
    /// Events of one kind that are sent to the server in a second; those not named have no limit of their own. All are judged.
    pub kinds_per_s: BTreeMap<String, u32>,
}

impl Default for RawLimits {
    fn default() -> Self {
        RawLimits {
            sample_ms: 5000,
            cool_down_s: 60,
            longest_cool_down_s: 3600,
            // A sensor whose turn does not end gives its worker up before.
            silence_s: 60,
            sensor: RawWorkerLimits::default(),
            collector: RawWorkerLimits::in_the_background(),
            scanner: RawWorkerLimits::in_the_background(),
            extension: RawWorkerLimits::in_the_background(),
            plugin: RawWorkerLimits::in_the_background(),
            host: RawHostLimits::default(),
            // What is most for the least: a file read, a flow, an exit of which the exec is known. Execs are never given up.
            shed: ["file_open", "udp_send", "file_attrib", "file_write", "exit", "fork", "accept", "connect"]
                .map(str::to_owned)
                .to_vec(),
            kinds_per_s: BTreeMap::new(),
        }
    }
}

impl RawLimits {
    pub(crate) fn sample(&self) -> Duration {
        Duration::from_millis(self.sample_ms.into())
    }

    pub(crate) fn silence(&self) -> Duration {
        Duration::from_secs(self.silence_s.into())
    }

    /// Those of one worker.
    pub(crate) fn worker(&self, name: WorkerName) -> &RawWorkerLimits {
        match name {
            WorkerName::Sensor => &self.sensor,
            WorkerName::Collector => &self.collector,
            WorkerName::Scanner => &self.scanner,
            WorkerName::Extension => &self.extension,
        }
    }

    pub(crate) fn worker_breaker(&self, worker: &RawWorkerLimits) -> BreakerSettings {
        self.breaker(worker.cpu_samples)
    }

    /// The kinds to give up, in their order.
    pub(crate) fn shed_kinds(&self) -> impl Iterator<Item = Kind> + '_ {
        self.shed.iter().filter_map(|word| word.parse().ok())
    }

    pub(crate) fn host_breaker(&self) -> BreakerSettings {
        self.breaker(self.host.samples)
    }

    fn breaker(&self, samples: u32) -> BreakerSettings {
        BreakerSettings {
            samples,
            cool_down: Duration::from_secs(self.cool_down_s.into()),
            cool_down_longest: Duration::from_secs(self.longest_cool_down_s.into()),
            ..BreakerSettings::default()
        }
    }
}

/// What one worker may take.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RawWorkerLimits {
    /// From this share of one core on a sample is bad, in percent, 1 to 6400.
    pub cpu_percent: u32,
    /// So many bad samples in a row trip the breaker, 1 to 1000.
    pub cpu_samples: u32,
    /// From this resident memory on the worker is stopped at once, in MiB, 16 to 65536.
    pub rss_mib: u32,
    /// The kernel gives it no more CPU than this share of one core, in percent, 5 to 6400.
    pub cpu_cap_percent: u32,
    /// The kernel ends it when it takes more memory than this, eBPF maps and cached files included, in MiB, 32 to 65536.
    pub memory_cap_mib: u32,
    /// Its niceness, 0 to 19.
    pub nice: i8,
    /// Events it may send to the server in a second, on the average, 1 to 1000000; after a quiet spell ten times as many.
    /// Those beyond are judged, and dropped with a count.
    pub events_per_s: u32,
}

impl RawWorkerLimits {
    /// What is done there can wait.
    fn in_the_background() -> Self {
        RawWorkerLimits {
            rss_mib: 64,
            cpu_cap_percent: 50,
            memory_cap_mib: 128,
            nice: 19,
            events_per_s: 1000,
            ..RawWorkerLimits::default()
        }
    }

    fn check(&self, keys: &WorkerKeys) -> Result<(), OutOfRange> {
        within(keys.cpu_percent, self.cpu_percent, 1..=6400, "1 to 6400")?;
        within(keys.cpu_samples, self.cpu_samples, 1..=1000, "1 to 1000")?;
        within(keys.rss_mib, self.rss_mib, 16..=65_536, "16 to 65536")?;
        within(keys.cpu_cap_percent, self.cpu_cap_percent, 5..=6400, "5 to 6400")?;
        within(keys.memory_cap_mib, self.memory_cap_mib, 32..=65_536, "32 to 65536")?;
        within(keys.nice, self.nice, 0..=19, "0 to 19")?;
        within(keys.events_per_s, self.events_per_s, 1..=1_000_000, "1 to 1000000")
    }
}

/// The names of one worker's limits, for the errors.
struct WorkerKeys {
    cpu_percent: &'static str,
    cpu_samples: &'static str,
    rss_mib: &'static str,
    cpu_cap_percent: &'static str,
    memory_cap_mib: &'static str,
    nice: &'static str,
    events_per_s: &'static str,
}

macro_rules! worker_keys {
    ($worker:literal) => {
        WorkerKeys {
            cpu_percent: concat!($worker, ".cpu_percent"),
            cpu_samples: concat!($worker, ".cpu_samples"),
            rss_mib: concat!($worker, ".rss_mib"),
            cpu_cap_percent: concat!($worker, ".cpu_cap_percent"),
            memory_cap_mib: concat!($worker, ".memory_cap_mib"),
            nice: concat!($worker, ".nice"),
            events_per_s: concat!($worker, ".events_per_s"),
        }
    };
}

impl Settings for RawLimits {
    fn check(&self) -> Result<(), OutOfRange> {
        within("sample_ms", self.sample_ms, 100..=60_000, "100 to 60000")?;
        within("cool_down_s", self.cool_down_s, 1..=3600, "1 to 3600")?;
        let longest = self.cool_down_s..=86_400;
        within("longest_cool_down_s", self.longest_cool_down_s, longest, "limits.cool_down_s to 86400")?;
        within("silence_s", self.silence_s, 10..=3600, "10 to 3600")?;
        self.sensor.check(&worker_keys!("sensor"))?;
        self.collector.check(&worker_keys!("collector"))?;
        self.scanner.check(&worker_keys!("scanner"))?;
        self.extension.check(&worker_keys!("extension"))?;
        self.plugin.check(&worker_keys!("plugin"))?;
        let host = &self.host;
        within("host.cpu_pressure", host.cpu_pressure, 1..=101, "1 to 101")?;
        within("host.memory_pressure", host.memory_pressure, 1..=101, "1 to 101")?;
        within("host.io_pressure", host.io_pressure, 1..=101, "1 to 101")?;
        within("host.load_per_cpu", host.load_per_cpu, 1..=1000, "1 to 1000")?;
        within("host.samples", host.samples, 1..=1000, "1 to 1000")?;
        let kinds =
            [("shed", self.shed.iter().collect()), ("kinds_per_s", self.kinds_per_s.keys().collect())];
        for (key, words) in kinds {
            let words: Vec<&String> = words;
            if let Some(word) = words.into_iter().find(|word| word.parse::<Kind>().is_err()) {
                return Err(OutOfRange {
                    key,
                    value: printable(word.as_bytes()).into_owned(),
                    allowed: "a kind of event, such as exec",
                });
            }
        }
        Ok(())
    }
}

impl Default for RawWorkerLimits {
    /// 5 % of a core for half a minute is what a host may notice. A burst may take a whole core: it ends sooner, and nothing is
    /// lost. Niceness 5 is a third of a usual process' weight: where both want the CPU the host's work goes first, and the
    /// rings are still read in time. The start takes some 50 MB for a moment (the kernel's types are read).
    fn default() -> Self {
        RawWorkerLimits {
            cpu_percent: 5,
            cpu_samples: 6,
            rss_mib: 96,
            cpu_cap_percent: 100,
            memory_cap_mib: 256,
            nice: 5,
            // A fork storm on two cores yields some 15,000 a second.
            events_per_s: 50_000,
        }
    }
}

/// From when on the host itself is in need. Pressure is the share of the last ten seconds in which tasks waited
/// (/proc/pressure), in percent, 1 to 101; 101 is never reached.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RawHostLimits {
    /// Some task waited for a CPU.
    pub cpu_pressure: u32,
    /// All tasks waited for memory.
    pub memory_pressure: u32,
    /// All tasks waited for I/O.
    pub io_pressure: u32,
    /// Where the kernel does not tell pressure: the load of one minute by the number of CPUs, 1 to 1000.
    pub load_per_cpu: u32,
    /// So many bad samples in a row trip the breaker, 1 to 1000.
    pub samples: u32,
}

impl Default for RawHostLimits {
    /// A host that computes all day shows 90 % of CPU pressure and is well; the agent's own part of it is bounded by the
    /// worker's limits. A fifth of the time without any progress for want of memory is a host about to stall.
    fn default() -> Self {
        RawHostLimits { cpu_pressure: 99, memory_pressure: 20, io_pressure: 80, load_per_cpu: 30, samples: 6 }
    }
}

/// Settings that have been checked, as a whole.
#[derive(Debug, Clone)]
pub struct AgentSettings {
    pub(crate) rules: RawRules,
    pub(crate) uplink: RawUplink,
    pub(crate) spool: RawSpool,
    pub(crate) limits: RawLimits,
    pub(crate) plugins: RawPlugins,
    apps: BTreeMap<&'static str, Document>,
    /// Every document with its defaults filled in.
    whole: Value,
}

impl AgentSettings {
    /// Reads and checks the file; with none, the defaults.
    ///
    /// # Errors
    /// What is wrong, and in which file.
    pub fn load(path: Option<&Path>, catalog: &Catalog) -> Result<AgentSettings, SettingsError> {
        AgentSettings::check(&read(path)?, catalog).map_err(|error| in_file(path, error))
    }

    /// Checks a JSON object of documents.
    ///
    /// # Errors
    /// What is wrong.
    pub fn check(documents: &Value, catalog: &Catalog) -> Result<AgentSettings, SettingsError> {
        let documents = documents.as_object().ok_or(SettingsError::NoObject)?;
        let mut whole = Map::new();
        let rules = part("rules", documents, &mut whole)?;
        let uplink = part("uplink", documents, &mut whole)?;
        let spool = part("spool", documents, &mut whole)?;
        let limits = part("limits", documents, &mut whole)?;
        let plugins = part("plugins", documents, &mut whole)?;
        let mut apps = BTreeMap::new();
        for (name, checked) in catalog.check(documents) {
            let checked = checked?;
            apps.insert(name, Document::read(name, Some(&checked), true)?);
            whole.insert(name.to_owned(), checked);
        }
        if let Some(name) = documents.keys().find(|name| !whole.contains_key(*name)) {
            let known: Vec<&str> = whole.keys().map(String::as_str).collect();
            return Err(SettingsError::Unknown { name: name.clone(), known: known.join(", ") });
        }
        Ok(AgentSettings { rules, uplink, spool, limits, plugins, apps, whole: Value::Object(whole) })
    }

    /// The document of an app; `None` where there is no such app.
    pub(crate) fn document(&self, app: &str) -> Option<&Document> {
        self.apps.get(app)
    }

    /// All documents, every default filled in.
    pub fn whole(&self) -> &Value {
        &self.whole
    }
}

/// The documents in a file, unchecked; an empty object without one.
pub(crate) fn read(path: Option<&Path>) -> Result<Value, SettingsError> {
    let Some(path) = path else { return Ok(Value::Object(Map::new())) };
    let text =
        fs::read_to_string(path).map_err(|source| SettingsError::Read { path: path.into(), source })?;
    parse(&text).map_err(|error| in_file(Some(path), error))
}

/// The documents in a text, unchecked.
pub(crate) fn parse(text: &str) -> Result<Value, SettingsError> {
    serde_json::from_str(text).map_err(SettingsError::Json)
}

pub(crate) fn in_file(path: Option<&Path>, error: SettingsError) -> SettingsError {
    match path {
        Some(path) => SettingsError::InFile { path: path.into(), source: Box::new(error) },
        None => error,
    }
}

/// A part of the agent that is no app: it cannot be switched off.
fn part<S: Settings>(
    name: &'static str,
    documents: &Map<String, Value>,
    whole: &mut Map<String, Value>,
) -> Result<S, SettingsError> {
    let settings = match documents.get(name) {
        None => Value::Object(Map::new()),
        Some(document) => document.clone(),
    };
    let settings: S = Document::switched_on(settings).settings(name)?;
    let filled = serde_json::to_value(&settings)
        .map_err(|source| DocumentError::Parse { app: name.to_owned(), source })?;
    whole.insert(name.to_owned(), filled);
    Ok(settings)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(documents: Value) -> Result<AgentSettings, String> {
        AgentSettings::check(&documents, &Catalog::standard()).map_err(|error| error.to_string())
    }

    #[test]
    fn a_partial_document_keeps_the_other_defaults() {
        let settings = check(json!({"uplink": {"backlog_kib": 8192}, "files": {"enabled": false}})).unwrap();
        assert_eq!((settings.uplink.backlog_kib, settings.uplink.backlog_alerts), (8192, 1024));
        assert!(!settings.document("files").unwrap().enabled);
        assert!(settings.document("processes").unwrap().enabled);
    }

    #[test]
    fn what_is_in_force_is_itself_a_document_that_changes_nothing() {
        let settings = check(json!({"processes": {"ring_kib": 8192}})).unwrap();
        let again = check(settings.whole().clone()).unwrap();
        assert_eq!(again.whole(), settings.whole());
    }

    #[test]
    fn what_the_checks_let_through_the_breakers_take() {
        let edges = [(100, 1, 1, 1), (60_000, 3600, 86_400, 1000), (5000, 3600, 3600, 6)];
        for (sample, first, longest, samples) in edges {
            let settings = check(json!({"limits": {
                "sample_ms": sample, "cool_down_s": first, "longest_cool_down_s": longest,
                "sensor": {"cpu_samples": samples}, "host": {"samples": samples},
            }}))
            .unwrap();
            let limits = &settings.limits;
            for breaker in [limits.worker_breaker(&limits.sensor), limits.host_breaker()] {
                assert!(watchfire_pace::Breaker::new(breaker, 1).is_ok());
            }
        }
        let error = check(json!({"limits": {"cool_down_s": 90, "longest_cool_down_s": 60}})).unwrap_err();
        assert!(error.contains("limits.longest_cool_down_s = 60"), "{error}");
    }

    #[test]
    fn what_the_checks_let_through_the_spool_takes() {
        let folder = tempfile::tempdir().unwrap();
        for (index, (mib, kib)) in
            [(1, 4), (1, 512), (64, 1024), (65_536, 1024), (65_536, 1 << 20)].into_iter().enumerate()
        {
            let text = json!({"spool": {"max_mib": mib, "segment_kib": kib}});
            let settings =
                check(text.clone()).unwrap().spool.spool_settings(folder.path().join(index.to_string()));
            assert!(watchfire_spool::Spool::open(settings).is_ok(), "{text}");
        }
        for (mib, kib, named) in
            [(0, 4, "max_mib"), (1, 3, "segment_kib"), (1, 513, "segment_kib"), (65_536, 1023, "segment_kib")]
        {
            let text = json!({"spool": {"max_mib": mib, "segment_kib": kib}});
            assert!(check(text.clone()).unwrap_err().contains(named), "{text}");
        }
        let kinds = check(json!({"spool": {"kinds": ["exec", "login"]}})).unwrap().spool.kept_kinds();
        assert_eq!(kinds, [Kind::Exec, Kind::Login]);
        let error = check(json!({"spool": {"kinds": ["exec", "exce"]}})).unwrap_err();
        assert!(error.contains("spool.kinds = exce"), "{error}");
    }

    #[test]
    fn an_unknown_key_is_refused_by_its_name() {
        assert!(check(json!({"uplink": {"backlog_kb": 8192}})).unwrap_err().contains("backlog_kb"));
        let error = check(json!({"filez": {}})).unwrap_err();
        assert!(error.contains("\"filez\"") && error.contains("files"), "{error}");
        assert!(check(json!({"rules": {"enabled": false}})).unwrap_err().contains("enabled"));
    }

    #[test]
    fn a_value_out_of_range_is_refused_with_key_value_and_range() {
        let error = check(json!({"processes": {"ring_kib": 5000}})).unwrap_err();
        assert_eq!(error, "setting processes.ring_kib = 5000: allowed is a power of two from 256 to 65536");
        let error = check(json!({"limits": {"collector": {"nice": 20}}})).unwrap_err();
        assert_eq!(error, "setting limits.collector.nice = 20: allowed is 0 to 19");
        let error = check(json!({"limits": {"shed": ["file_opne"]}})).unwrap_err();
        assert!(error.contains("limits.shed = file_opne"), "{error}");
    }
}
