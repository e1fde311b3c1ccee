//! The agent's settings: partial JSON over defaults, unknown keys refused, every number with its range.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

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
        Ok(AgentSettings(raw))
    }
}

impl std::ops::Deref for AgentSettings {
    type Target = RawSettings;

    fn deref(&self) -> &RawSettings {
        &self.0
    }
}

fn within(
    key: &'static str,
    value: u32,
    range: std::ops::RangeInclusive<u32>,
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
    fn an_unknown_key_is_refused_by_its_name() {
        assert!(parse(r#"{"rings": {"proces_kib": 8192}}"#).unwrap_err().contains("proces_kib"));
    }

    #[test]
    fn a_value_out_of_range_is_refused_with_key_value_and_range() {
        let error = parse(r#"{"rings": {"process_kib": 5000}}"#).unwrap_err();
        assert_eq!(error, "setting rings.process_kib = 5000: allowed is a power of two from 256 to 65536");
    }
}
