//! External plug-ins, as the master sees them: found by their manifests, started under the tightest confinement, listened to within limits.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tracing::{error, info, warn};
use watchfire_app::{OutOfRange, Settings};
use watchfire_confine::{AddressFamily, Confinement, FileAccess, Lockdown, Need, Syscalls, User};
use watchfire_event::{Kind, Process, Report, ReportError};
use watchfire_host::ProcReader;
use watchfire_pace::{Rate, TokenBucket};
use watchfire_plugin::{MANIFEST_SUFFIX, Manifest, Package, PackageError, TrustedKey};
use watchfire_wire::worker::{Hello, Reports, WorkerFrame, worker_frame};
use watchfire_wire::{FrameError, read_frame_within, v1};

use crate::outbox::Outbox;
use crate::reports::told_by;
use crate::settings::RawWorkerLimits;
use crate::workers::Slot;

/// The version of the protocol that a plug-in's hello names.
const PROTOCOL: u32 = 1;
/// Longest frame of a plug-in, in bytes: three of the largest reports.
const MAX_PLUGIN_FRAME: usize = 1 << 20;
/// A plug-in says hello within this time.
const HELLO_WITHIN: Duration = Duration::from_secs(10);
/// What all plug-ins' reports may weigh must not crowd out what the sensors see: 64 KiB/s on the average, each.
const BYTES_PER_S: u64 = 64 << 10;
const BURST_BYTES: u64 = 2 << 20;
const BURST_SECONDS: u64 = 10;
/// How often a plug-in's counts are told.
const STATUS_EVERY: Duration = Duration::from_secs(5);
/// `nobody`, of every distribution.
const NOBODY: u32 = 65_534;
/// What programs and interpreters need: executables, libraries, their caches and their data.
const PROGRAMS: &[&str] = &["/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/opt"];
const FILES: &[&str] = &[
    "/etc/ld.so.cache",
    "/etc/ld.so.conf",
    "/etc/ld.so.conf.d",
    "/etc/alternatives",
    "/etc/localtime",
    "/etc/ssl",
    "/etc/pki",
    "/etc/resolv.conf",
    "/etc/hosts",
    "/etc/nsswitch.conf",
    "/etc/passwd",
    "/etc/group",
    "/dev/null",
    "/dev/zero",
    "/dev/urandom",
    "/dev/random",
    "/proc",
];

/// Where plug-ins are, whose signatures are believed, and what each is told.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RawPlugins {
    /// The folder of their manifests.
    pub dir: PathBuf,
    /// Public keys (64 hexadecimal digits) whose signatures are believed, 16 at most. With none, no plug-in runs.
    pub keys: Vec<String>,
    /// Documents by a plug-in's name; `enabled` in one switches it, the rest is the plug-in's own.
    pub documents: BTreeMap<String, Value>,
}

impl Default for RawPlugins {
    fn default() -> Self {
        RawPlugins {
            dir: "/etc/watchfire-agent/plugins".into(),
            keys: Vec::new(),
            documents: BTreeMap::new(),
        }
    }
}

impl Settings for RawPlugins {
    fn check(&self) -> Result<(), OutOfRange> {
        let refuse = |key, value: String, allowed| Err(OutOfRange { key, value, allowed });
        if self.keys.len() > 16 {
            return refuse("keys", format!("{} keys", self.keys.len()), "16 keys");
        }
        if let Some(key) = self.keys.iter().find(|key| key.parse::<TrustedKey>().is_err()) {
            let shown = watchfire_event::printable(key.as_bytes()).into_owned();
            return refuse("keys", shown, "Ed25519 public keys of 64 hexadecimal digits");
        }
        let wrong = self.documents.iter().find(|(name, document)| {
            let enabled = document.get("enabled").is_none_or(Value::is_boolean);
            !Report::is_label(name) || !document.is_object() || !enabled
        });
        match wrong {
            Some((name, _)) => {
                refuse("documents", format!("{name:?}"), "JSON objects by plug-in, enabled true or false")
            }
            None => Ok(()),
        }
    }
}

impl RawPlugins {
    fn trusted(&self) -> Vec<TrustedKey> {
        self.keys.iter().filter_map(|key| key.parse().ok()).collect()
    }

    /// Whether its document lets a plug-in run.
    pub(crate) fn enabled(&self, name: &str) -> bool {
        let document = self.documents.get(name);
        document.and_then(|document| document.get("enabled")).and_then(Value::as_bool).unwrap_or(true)
    }

    /// What a plug-in is told: its document without what is the agent's.
    pub(crate) fn document(&self, name: &str) -> Value {
        let mut own = self.documents.get(name).cloned().unwrap_or(Value::Object(Map::new()));
        if let Value::Object(keys) = &mut own {
            keys.remove("enabled");
        }
        own
    }

    /// The manifests that are there, by the names their files give them. Nothing of them is believed yet.
    pub(crate) fn find(&self) -> Vec<(String, PathBuf)> {
        if self.keys.is_empty() {
            return Vec::new();
        }
        match Package::list(&self.dir) {
            Ok(manifests) => manifests.into_iter().filter_map(|path| Some((name_of(&path)?, path))).collect(),
            Err(error) => {
                error!(error = format!("{:#}", anyhow::Error::from(error)), "plug-ins cannot be listed");
                Vec::new()
            }
        }
    }

    /// Checks a plug-in anew: its signature, its owner, its bytes.
    pub(crate) fn open(&self, name: &str, manifest: &Path) -> Result<Package, RefusedPlugin> {
        let package = Package::open(manifest, &self.trusted())?;
        if package.manifest.name != name {
            return Err(RefusedPlugin::Name { name: package.manifest.name, path: manifest.into() });
        }
        Ok(package)
    }
}

/// Why a plug-in is not started.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RefusedPlugin {
    #[error(transparent)]
    Package(#[from] PackageError),
    #[error("{}: the manifest names {name:?}; its file must have that name", path.display())]
    Name { name: String, path: PathBuf },
}

pub(crate) fn name_of(manifest: &Path) -> Option<String> {
    let file = manifest.file_name()?.to_str()?.strip_suffix(MANIFEST_SUFFIX)?;
    Report::is_label(file).then(|| file.to_owned())
}

/// The command that starts a plug-in: the very file that was checked, by its descriptor.
pub(crate) fn command(package: Package, link: OwnedFd, log: bool) -> Command {
    // An interpreter opens the path it is given: the descriptor has to stay open over the exec.
    let mut command = Command::new(format!("/proc/self/fd/{}", crate::worker::EXECUTABLE_DESCRIPTOR));
    command.args(&package.manifest.arguments);
    command.env_clear().env("PATH", "/usr/local/bin:/usr/bin:/bin").env("LANG", "C.UTF-8");
    command.env("PYTHONDONTWRITEBYTECODE", "1");
    command.current_dir("/").stdin(Stdio::null()).stdout(Stdio::null());
    command.stderr(if log { Stdio::piped() } else { Stdio::inherit() });
    crate::worker::inherit_link_and_executable(&mut command, link, package.executable.into());
    command
}

/// What a plug-in is held to: nobody's rights, no capability, its own files and the host's programs, the sockets it declared.
pub(crate) fn confinement(manifest: &Manifest, folder: &Path, limits: &RawWorkerLimits) -> Confinement {
    let mut caps = crate::confinement::in_the_background(limits);
    let paths = |list: &[&str]| list.iter().map(PathBuf::from).collect::<Vec<_>>();
    let mut execute = paths(PROGRAMS);
    execute.push(folder.join(&manifest.executable));
    let mut read = paths(PROGRAMS);
    read.extend(paths(FILES));
    read.push(folder.join(&manifest.executable));
    read.extend(manifest.read.iter().cloned());
    let mut families = vec![AddressFamily::UNIX];
    if manifest.network {
        families.extend([AddressFamily::INET, AddressFamily::INET6, AddressFamily::NETLINK]);
    }
    if rustix::process::geteuid().is_root() {
        caps.user = Some(User { uid: NOBODY, gid: NOBODY });
        caps.capabilities = None;
    }
    caps.lockdown = Some(Lockdown {
        syscalls: Some(Syscalls { needs: [Need::Exec].into_iter().collect(), families }),
        files: Some(FileAccess { read, write: vec!["/dev/null".into()], execute, signal_others: false }),
    });
    caps
}

/// What the master's thread for one plug-in's life works with.
pub(crate) struct PluginRelay {
    pub(crate) name: Arc<str>,
    pub(crate) outbox: Arc<Outbox>,
    pub(crate) slot: Slot,
    pub(crate) limits: RawWorkerLimits,
}

/// Why a plug-in is not listened to any longer: it is ended, and started again after a wait.
#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error("it did not say hello first, or says protocol {said} instead of {PROTOCOL}")]
    NoHello { said: u32 },
    #[error("it sent what plug-ins do not send")]
    OutOfTurn,
    #[error(transparent)]
    Report(#[from] ReportError),
    #[error("set a deadline on its link")]
    Deadline(#[source] io::Error),
}

impl PluginRelay {
    /// Takes what the plug-in says, until it leaves or breaks the protocol. `announce` tells that a status is in the slot.
    pub(crate) fn run(self, tgid: u32, mut incoming: UnixStream, announce: impl Fn()) {
        let (name, slot) = (self.name.clone(), self.slot.clone());
        if let Err(error) = self.listen(tgid, &mut incoming, announce) {
            let error = format!("{:#}", anyhow::Error::from(error));
            error!(plugin = &*name, error, "the plug-in is not listened to any longer");
            slot.blame(error);
        }
    }

    fn listen(self, tgid: u32, incoming: &mut UnixStream, announce: impl Fn()) -> Result<(), Broken> {
        incoming.set_read_timeout(Some(HELLO_WITHIN)).map_err(Broken::Deadline)?;
        let Some(first) = read_frame_within::<WorkerFrame>(incoming, MAX_PLUGIN_FRAME)? else {
            return Ok(());
        };
        let Some(worker_frame::Body::Hello(Hello { protocol, version })) = first.body else {
            return Err(Broken::NoHello { said: 0 });
        };
        if protocol != PROTOCOL {
            return Err(Broken::NoHello { said: protocol });
        }
        info!(plugin = &*self.name, version = %watchfire_event::printable(version.as_bytes()), "plug-in ready");
        incoming.set_read_timeout(None).map_err(Broken::Deadline)?;
        let process = ProcReader::new("/proc").read_process(tgid).unwrap_or_default();
        let now = Instant::now();
        let rate = u64::from(self.limits.events_per_s);
        let mut gate = Gate {
            process: Arc::new(process),
            events: TokenBucket::new(Rate::per_second(rate), rate * BURST_SECONDS, now),
            bytes: TokenBucket::new(Rate::per_second(BYTES_PER_S), BURST_BYTES, now),
            passed: 0,
            limited: 0,
            relay: self,
        };
        gate.tell("running", &announce);
        let mut status_due = now + STATUS_EVERY;
        while let Some(frame) = read_frame_within::<WorkerFrame>(incoming, MAX_PLUGIN_FRAME)? {
            let Some(worker_frame::Body::Reports(reports)) = frame.body else {
                return Err(Broken::OutOfTurn);
            };
            let now = Instant::now();
            gate.take(reports, now)?;
            if now >= status_due {
                gate.tell("running", &announce);
                status_due = now + STATUS_EVERY;
            }
        }
        Ok(())
    }
}

/// One life's reports on their way, within its limits.
struct Gate {
    relay: PluginRelay,
    /// The plug-in's process: it tells the reports.
    process: Arc<Process>,
    events: TokenBucket,
    bytes: TokenBucket,
    passed: u64,
    limited: u64,
}

impl Gate {
    fn take(&mut self, reports: Reports, now: Instant) -> Result<(), ReportError> {
        for report in reports.reports {
            let fields = report.fields.into_iter().map(|field| (field.name, field.value));
            let report = Report::new(&*self.relay.name, report.topic, fields)?;
            let weight = report.text_bytes() as u64;
            if !self.events.take(1, now) || !self.bytes.take(weight, now) {
                if self.limited == 0 {
                    warn!(
                        plugin = &*self.relay.name,
                        "the plug-in says more than it may; the rest is dropped and counted"
                    );
                }
                self.limited += 1;
                self.relay.outbox.drop_own(Kind::Report);
                continue;
            }
            self.passed += 1;
            self.relay.outbox.push_own_event(&told_by(&self.process, report));
        }
        Ok(())
    }

    fn tell(&self, state: &str, announce: &impl Fn()) {
        let app = v1::AppStatus {
            worker: "plug-in".to_owned(),
            app: self.relay.name.to_string(),
            state: state.to_owned(),
            facts: self.passed,
            limited: self.limited,
            ..v1::AppStatus::default()
        };
        if self.relay.slot.put(v1::Status { apps: vec![app], ..v1::Status::default() }) {
            announce();
        }
    }
}
