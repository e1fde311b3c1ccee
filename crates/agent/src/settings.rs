//! The agent's settings: partial JSON over defaults, unknown keys refused, every number with its range.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use watchfire_event::{Kind, printable};
use watchfire_pace::BreakerSettings;
use watchfire_spool::{SpoolSettings, WhenFull};

/// Why settings were refused. The agent then does not start, and says so.
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
    /// The file is no JSON of the right shape.
    #[error("settings {}: {source}", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// What is wrong, with line and column.
        source: serde_json::Error,
    },
    /// A value is out of its range.
    #[error("setting {key} = {value}: allowed is {allowed}")]
    OutOfRange {
        /// The setting.
        key: &'static str,
        /// Its value.
        value: String,
        /// The range, in words.
        allowed: &'static str,
    },
}

/// Where process events come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProcessSource {
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

/// How attempts to load kernel modules are seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ModuleWatch {
    /// The cheapest hook that this kernel has; nothing on a kernel that cannot load modules.
    #[default]
    Auto,
    /// The tracepoints of the two system calls or nothing.
    Tracepoints,
    /// Every system call is looked at, which costs each some 50 ns; sees attempts on a kernel without modules too.
    EverySyscall,
}

/// The settings as written by people.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RawSettings {
    /// See [`ProcessSource`].
    pub process_source: ProcessSource,
    /// See [`ModuleWatch`].
    pub modules: ModuleWatch,
    /// Sizes of the kernel's rings.
    pub rings: RawRings,
    /// Which files are watched.
    pub files: RawFiles,
    /// Where rules come from.
    pub rules: RawRules,
    /// Where logins are read.
    pub logins: RawLogins,
    /// The way to the server.
    pub uplink: RawUplink,
    /// What waits for the server on the disk.
    pub spool: RawSpool,
    /// What the agent may cost its host.
    pub limits: RawLimits,
}

/// Sizes of the kernel's rings.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RawRings {
    /// The ring for exec, fork and exit, in KiB; a power of two, 256 to 65536.
    pub process_kib: u32,
    /// The other rings, each, in KiB; a power of two, 64 to 16384.
    pub other_kib: u32,
}

impl Default for RawRings {
    /// 4 MiB hold 0.28 s of the fastest fork storm measured (14.5 MB/s), five times the worker's tick.
    fn default() -> Self {
        RawRings { process_kib: 4096, other_kib: 256 }
    }
}

/// Which files are watched.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RawFiles {
    /// Directories watched with everything below them, instead of the built-in list.
    pub prefixes: Option<Vec<PathBuf>>,
    /// Directories watched besides that list.
    pub more_prefixes: Vec<PathBuf>,
    /// Files whose opening is an event, besides the built-in list; `*` stands for one component or a part of it.
    pub more_secrets: Vec<String>,
    /// Directories left out, with everything below them.
    pub excludes: Vec<PathBuf>,
}

/// Where rules come from.
#[derive(Debug, Clone, Serialize, Deserialize)]
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

/// Where logins are read.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RawLogins {
    /// Log files of sshd, su, sudo and login; those that do not exist are waited for.
    pub logs: Vec<PathBuf>,
}

impl Default for RawLogins {
    fn default() -> Self {
        RawLogins { logs: vec!["/var/log/auth.log".into(), "/var/log/secure".into()] }
    }
}

/// The way to the server.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RawUplink {
    /// Events that wait for the server or its acknowledgement, in KiB, 256 to 1048576. Beyond it the newest are dropped,
    /// and counted.
    pub backlog_kib: u32,
    /// Frames of up to 16 alerts that wait likewise, 16 to 1000000.
    pub backlog_alerts: u32,
}

impl Default for RawUplink {
    /// 6 MiB keep the master below 12 MB; alerts are few, and a thousand of them is a bad day.
    fn default() -> Self {
        RawUplink { backlog_kib: 6144, backlog_alerts: 1024 }
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
    /// The sensor worker.
    pub sensor: RawWorkerLimits,
    /// The host.
    pub host: RawHostLimits,
}

impl Default for RawLimits {
    fn default() -> Self {
        RawLimits {
            sample_ms: 5000,
            cool_down_s: 60,
            longest_cool_down_s: 3600,
            sensor: RawWorkerLimits::default(),
            host: RawHostLimits::default(),
        }
    }
}

impl RawLimits {
    pub(crate) fn sample(&self) -> Duration {
        Duration::from_millis(self.sample_ms.into())
    }

    pub(crate) fn worker_breaker(&self) -> BreakerSettings {
        self.breaker(self.sensor.cpu_samples)
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

/// Settings that have been checked.
#[derive(Debug, Clone)]
pub struct AgentSettings(RawSettings);

impl AgentSettings {
    /// Reads and checks the file; with none, the defaults.
    pub fn load(path: Option<&Path>) -> Result<AgentSettings, SettingsError> {
        let Some(path) = path else { return AgentSettings::check(RawSettings::default()) };
        let text =
            fs::read_to_string(path).map_err(|source| SettingsError::Read { path: path.into(), source })?;
        let raw = serde_json::from_str(&text)
            .map_err(|source| SettingsError::Parse { path: path.into(), source })?;
        AgentSettings::check(raw)
    }

    /// Checks every range.
    pub fn check(raw: RawSettings) -> Result<AgentSettings, SettingsError> {
        let ring = |key, kib: u32, least, most, allowed| {
            if kib.is_power_of_two() && (least..=most).contains(&kib) {
                return Ok(());
            }
            Err(SettingsError::OutOfRange { key, value: kib.to_string(), allowed })
        };
        ring("rings.process_kib", raw.rings.process_kib, 256, 65_536, "a power of two from 256 to 65536")?;
        ring("rings.other_kib", raw.rings.other_kib, 64, 16_384, "a power of two from 64 to 16384")?;
        within("uplink.backlog_kib", raw.uplink.backlog_kib, 256..=1_048_576, "256 to 1048576")?;
        within("uplink.backlog_alerts", raw.uplink.backlog_alerts, 16..=1_000_000, "16 to 1000000")?;
        check_spool(&raw.spool)?;
        check_limits(&raw.limits)?;
        Ok(AgentSettings(raw))
    }
}

fn check_spool(spool: &RawSpool) -> Result<(), SettingsError> {
    within("spool.max_mib", spool.max_mib, 1..=65_536, "1 to 65536")?;
    let (least, most) = (4.max(spool.max_mib / 64), (spool.max_mib * 512).min(1 << 20));
    let allowed = "4 to 1048576, at most half and at least a 65536th of spool.max_mib";
    within("spool.segment_kib", spool.segment_kib, least..=most, allowed)?;
    match spool.kinds.iter().find(|word| word.parse::<Kind>().is_err()) {
        Some(word) => Err(SettingsError::OutOfRange {
            key: "spool.kinds",
            value: printable(word.as_bytes()).into_owned(),
            allowed: "names of event kinds, as in `watchfire events --kind`",
        }),
        None => Ok(()),
    }
}

fn check_limits(limits: &RawLimits) -> Result<(), SettingsError> {
    within("limits.sample_ms", limits.sample_ms, 100..=60_000, "100 to 60000")?;
    within("limits.cool_down_s", limits.cool_down_s, 1..=3600, "1 to 3600")?;
    let longest = limits.cool_down_s..=86_400;
    within("limits.longest_cool_down_s", limits.longest_cool_down_s, longest, "limits.cool_down_s to 86400")?;
    let sensor = &limits.sensor;
    within("limits.sensor.cpu_percent", sensor.cpu_percent, 1..=6400, "1 to 6400")?;
    within("limits.sensor.cpu_samples", sensor.cpu_samples, 1..=1000, "1 to 1000")?;
    within("limits.sensor.rss_mib", sensor.rss_mib, 16..=65_536, "16 to 65536")?;
    within("limits.sensor.cpu_cap_percent", sensor.cpu_cap_percent, 5..=6400, "5 to 6400")?;
    within("limits.sensor.memory_cap_mib", sensor.memory_cap_mib, 32..=65_536, "32 to 65536")?;
    within("limits.sensor.nice", sensor.nice, 0..=19, "0 to 19")?;
    let host = &limits.host;
    within("limits.host.cpu_pressure", host.cpu_pressure, 1..=101, "1 to 101")?;
    within("limits.host.memory_pressure", host.memory_pressure, 1..=101, "1 to 101")?;
    within("limits.host.io_pressure", host.io_pressure, 1..=101, "1 to 101")?;
    within("limits.host.load_per_cpu", host.load_per_cpu, 1..=1000, "1 to 1000")?;
    within("limits.host.samples", host.samples, 1..=1000, "1 to 1000")
}

impl std::ops::Deref for AgentSettings {
    type Target = RawSettings;

    fn deref(&self) -> &RawSettings {
        &self.0
    }
}

fn within<N: PartialOrd + ToString>(
    key: &'static str,
    value: N,
    range: std::ops::RangeInclusive<N>,
    allowed: &'static str,
) -> Result<(), SettingsError> {
    if range.contains(&value) {
        return Ok(());
    }
    Err(SettingsError::OutOfRange { key, value: value.to_string(), allowed })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<AgentSettings, String> {
        let raw = serde_json::from_str(text).map_err(|error| error.to_string())?;
        AgentSettings::check(raw).map_err(|error| error.to_string())
    }

    #[test]
    fn a_partial_document_keeps_the_other_defaults() {
        let settings = parse(r#"{"rings": {"process_kib": 8192}}"#).unwrap();
        assert_eq!((settings.rings.process_kib, settings.rings.other_kib), (8192, 256));
    }

    #[test]
    fn what_the_checks_let_through_the_breakers_take() {
        let edges = [(100, 1, 1, 1), (60_000, 3600, 86_400, 1000), (5000, 3600, 3600, 6)];
        for (sample, first, longest, samples) in edges {
            let settings = parse(&format!(
                r#"{{"limits": {{"sample_ms": {sample}, "cool_down_s": {first}, "longest_cool_down_s": {longest},
                     "sensor": {{"cpu_samples": {samples}}}, "host": {{"samples": {samples}}}}}}}"#
            ))
            .unwrap();
            for breaker in [settings.limits.worker_breaker(), settings.limits.host_breaker()] {
                assert!(watchfire_pace::Breaker::new(breaker, 1).is_ok());
            }
        }
        let error = parse(r#"{"limits": {"cool_down_s": 90, "longest_cool_down_s": 60}}"#).unwrap_err();
        assert!(error.contains("limits.longest_cool_down_s = 60"), "{error}");
    }

    #[test]
    fn what_the_checks_let_through_the_spool_takes() {
        let folder = tempfile::tempdir().unwrap();
        for (index, (mib, kib)) in
            [(1, 4), (1, 512), (64, 1024), (65_536, 1024), (65_536, 1 << 20)].into_iter().enumerate()
        {
            let text = format!(r#"{{"spool": {{"max_mib": {mib}, "segment_kib": {kib}}}}}"#);
            let settings = parse(&text).unwrap().spool.spool_settings(folder.path().join(index.to_string()));
            assert!(watchfire_spool::Spool::open(settings).is_ok(), "{text}");
        }
        for (mib, kib, named) in
            [(0, 4, "max_mib"), (1, 3, "segment_kib"), (1, 513, "segment_kib"), (65_536, 1023, "segment_kib")]
        {
            let text = format!(r#"{{"spool": {{"max_mib": {mib}, "segment_kib": {kib}}}}}"#);
            assert!(parse(&text).unwrap_err().contains(named), "{text}");
        }
        let kinds = parse(r#"{"spool": {"kinds": ["exec", "login"]}}"#).unwrap().spool.kept_kinds();
        assert_eq!(kinds, [Kind::Exec, Kind::Login]);
        let error = parse(r#"{"spool": {"kinds": ["exec", "exce"]}}"#).unwrap_err();
        assert!(error.contains("spool.kinds = exce"), "{error}");
    }

    #[test]
    fn an_unknown_key_is_refused_by_its_name() {
        assert!(parse(r#"{"rings": {"proces_kib": 8192}}"#).unwrap_err().contains("proces_kib"));
    }

    #[test]
    fn a_value_out_of_range_is_refused_with_key_value_and_range() {
        let error = parse(r#"{"rings": {"process_kib": 5000}}"#).unwrap_err();
        assert_eq!(error, "setting rings.process_kib = 5000: allowed is a power of two from 256 to 65536");
    }
}
