//! The master: keeps the workers alive within their limits, relays what they send, and opens the uplink. It does no business
//! itself, and none is done while the host's breaker is open.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tracing::{error, info, warn};
use watchfire_confine::{CgroupHome, Confinement};
use watchfire_event::{BootNanos, StreamId};
use watchfire_host::Identity;
use watchfire_logfile::LogFile;
use watchfire_pace::{Change, Random};
use watchfire_wire::v1;
use watchfire_wire::worker::{Configure, MasterFrame, Shed, master_frame};

use crate::catalog::Catalog;
use crate::configuration::Configuration;
use crate::control::{self, Control};
use crate::lock::AgentLock;
use crate::notify::{ServiceManager, Word};
use crate::outbox::{Outbox, WorkerLife};
use crate::own_use::own_use;
use crate::plugins::PluginRelay;
use crate::reports::Teller;
use crate::settings::{RawLimits, RawWorkerLimits, SettingsError};
use crate::signals;
use crate::uplink::Uplink;
use crate::watch::{HostWatch, WorkerWatch};
use crate::worker_process::WorkerProcess;
use crate::workers::{Role, Supervised, WorkerName};

/// What is on its way to the server when the master stops has this long to be acknowledged.
const UPLINK_GRACE: Duration = Duration::from_secs(2);
/// What is not acknowledged then has this long to be put on the disk. Both together are less than whoever stops an agent waits.
const SHELVE_GRACE: Duration = Duration::from_millis(1500);
/// Processes and cgroups of an earlier life have this long to be gone.
const LEFTOVERS_GRACE: Duration = Duration::from_secs(2);
/// How often the master speaks of the agent as a whole, besides when something changes.
pub(crate) const STATUS_EVERY: Duration = Duration::from_secs(5);
/// A master that looked around that much later than it meant to was stopped itself, or starved: it cannot tell who was silent.
const AWAY: Duration = Duration::from_secs(5);

/// What the master needs to know to run.
pub(crate) struct MasterOrders {
    /// The server's socket.
    pub(crate) server: PathBuf,
    /// Where the host id, the settings in force and the spool are kept.
    pub(crate) state_dir: PathBuf,
    /// Held while the agent runs.
    pub(crate) lock: PathBuf,
    /// The settings' file.
    pub(crate) config: Option<PathBuf>,
    /// Where what the workers print goes.
    pub(crate) log: Option<LogFile>,
    /// All apps there are.
    pub(crate) catalog: Catalog,
    /// Arguments that make this executable an agent: empty for `watchfire-agent`.
    pub(crate) reexec: &'static [&'static str],
    /// End when stdin ends: the parent holds the other end and does not outlive it.
    pub(crate) stop_at_stdin_end: bool,
}

/// What wakes the master.
pub(crate) enum Notice {
    Stop(&'static str),
    /// The file of settings is to be read again.
    Reload,
    /// Someone at the control socket.
    Control(Control),
    /// A worker has said how it is: it is in the worker's slot.
    Status(WorkerLife),
    /// A worker has closed its link.
    WorkerEnded(WorkerLife),
}

/// Runs until told to stop by SIGTERM, SIGINT, or the end of stdin where the orders say so.
pub(crate) fn run(orders: MasterOrders) -> Result<()> {
    let _lock = AgentLock::take(&orders.lock)?;
    let identity = Identity::load(&orders.state_dir, Path::new("/")).context("find out who this host is")?;
    let configuration =
        Configuration::open(&orders.state_dir, orders.config.clone(), orders.catalog.clone())?;
    // Bounded by those who send: a relay announces one status at a time and one end, the control socket serves one at a time.
    let (notices, inbox) = mpsc::channel();
    signals::watch_signals(notices.clone()).context("watch for signals")?;
    if orders.stop_at_stdin_end {
        signals::watch_stdin(notices.clone()).context("watch stdin")?;
    }
    let control = control::listen(&orders.state_dir, notices.clone());
    if let Err(error) = &control {
        warn!(
            error = format!("{error:#}"),
            "no control socket: `watchfire-agent config` cannot reach this agent"
        );
    }
    let outbox =
        Outbox::open(&identity, watchfire_host::boot_now(), configuration.settings(), &orders.state_dir)?;
    let stop = Arc::new(AtomicBool::new(false));
    let uplink = Uplink { socket: orders.server.clone(), stop: stop.clone() };
    let (earlier, cargo) = (uplink.clone(), outbox.clone());
    let earlier = thread::Builder::new().name("replay".into()).spawn(move || earlier.run_earlier(&cargo))?;
    let cargo = outbox.clone();
    let uplink = thread::Builder::new().name("uplink".into()).spawn(move || uplink.run(&cargo))?;
    let mut master = Master::new(orders, identity, configuration, outbox.clone(), notices);
    let outcome = master.supervise(&inbox);
    outbox.close();
    outbox.stop_earlier();
    stop.store(true, Ordering::Release);
    wait_for(uplink, UPLINK_GRACE);
    outbox.shelve(SHELVE_GRACE);
    drop((earlier, control));
    outcome
}

struct Master {
    orders: MasterOrders,
    identity: Identity,
    configuration: Configuration,
    outbox: Arc<Outbox>,
    teller: Teller,
    notices: mpsc::Sender<Notice>,
    home: Option<CgroupHome>,
    host: HostWatch,
    workers: Vec<Supervised>,
    random: Random,
    /// The last life given to a worker: each is later than the one before.
    last_life: BootNanos,
    looked: Instant,
    status_due: Instant,
    service: ServiceManager,
    ready: bool,
}

impl Master {
    fn new(
        orders: MasterOrders,
        identity: Identity,
        configuration: Configuration,
        outbox: Arc<Outbox>,
        notices: mpsc::Sender<Notice>,
    ) -> Self {
        let now = Instant::now();
        let home = match crate::confinement::home(&orders.state_dir) {
            Ok(home) => Some(home),
            Err(error) => {
                warn!(%error, "no cgroups for the workers");
                None
            }
        };
        if let Some(home) = &home {
            clear_leftovers(home);
        }
        let seed = identity.host.seed();
        let limits = &configuration.settings().limits;
        let host = HostWatch::new(limits, seed, now);
        let own = WorkerName::ALL.iter().filter(|name| !orders.catalog.names(**name).is_empty());
        let workers = own
            .map(|name| {
                let watch = WorkerWatch::new(name.as_str(), limits, limits.worker(*name), seed, now);
                Supervised::new(name.as_str(), Role::Worker(*name), watch, now)
            })
            .collect();
        let mut master = Master {
            teller: Teller::new(outbox.clone(), now),
            orders,
            identity,
            configuration,
            outbox,
            notices,
            home,
            host,
            workers,
            // From the clock: two masters that died together shall not come back together.
            random: Random::seeded(seed ^ watchfire_host::boot_now().0),
            last_life: BootNanos(0),
            looked: now,
            status_due: now,
            service: ServiceManager::find(),
            ready: false,
        };
        master.find_plugins(now);
        master
    }

    /// Takes in the plug-ins whose manifests are there, and lets go of those whose are not.
    fn find_plugins(&mut self, now: Instant) {
        let settings = self.configuration.settings();
        let found: Vec<(String, Role)> =
            settings.plugins.find().into_iter().map(|(name, path)| (name, Role::Plugin(path))).collect();
        let known = |worker: &Supervised| found.iter().any(|(_, role)| *role == worker.role);
        for gone in self.workers.iter_mut().filter(|worker| matches!(worker.role, Role::Plugin(_))) {
            if !known(gone) {
                gone.stop();
            }
        }
        self.workers.retain(|worker| matches!(worker.role, Role::Worker(_)) || known(worker));
        let limits = &settings.limits;
        for (name, role) in found {
            match self.workers.iter_mut().find(|worker| worker.role == role) {
                Some(worker) => worker.try_again(now),
                None => {
                    let name = format!("plugin-{name}");
                    let watch =
                        WorkerWatch::new(&name, limits, &limits.plugin, self.identity.host.seed(), now);
                    self.workers.push(Supervised::new(&name, role, watch, now));
                }
            }
        }
    }

    fn supervise(&mut self, inbox: &mpsc::Receiver<Notice>) -> Result<()> {
        self.teller.tell("agent", &[("state", "started"), ("version", env!("CARGO_PKG_VERSION"))]);
        loop {
            let now = Instant::now();
            self.look(now);
            self.start_workers(now);
            self.speak(now);
            self.service.tell(if self.ready { Word::Alive } else { Word::Ready });
            self.ready = true;
            let patience = self.next_due(now).saturating_duration_since(now);
            match inbox.recv_timeout(patience) {
                Ok(Notice::Stop(why)) => {
                    info!(why, "stopping");
                    self.service.tell(Word::Stopping);
                    self.teller.tell("agent", &[("state", "stopping"), ("why", why)]);
                    self.stop_workers();
                    return Ok(());
                }
                Ok(Notice::Reload) => drop(self.reload()),
                Ok(Notice::Control(control)) => self.answer(control),
                Ok(Notice::Status(life)) => self.take_status(life),
                Ok(Notice::WorkerEnded(life)) => self.worker_ended(life),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
            }
        }
    }

    fn next_due(&self, now: Instant) -> Instant {
        let lets_work = self.host.lets_work();
        let due = |worker: &Supervised| worker.due(now, lets_work && self.wanted(&worker.role));
        let due = self.workers.iter().map(due).min().unwrap_or(self.status_due);
        due.min(self.status_due).min(self.host.due(now))
    }

    /// Samples what is due; a breaker that opens stops its worker in order, so that its books close.
    fn look(&mut self, now: Instant) {
        let host = self.host.look(now);
        self.tell_changes("host", &host);
        if !host.is_empty() {
            self.status_due = now;
        }
        let lets_work = self.host.lets_work();
        let before = std::mem::replace(&mut self.looked, now);
        let away = now.saturating_duration_since(before) >= STATUS_EVERY + AWAY;
        let patience = self.configuration.settings().limits.silence();
        for index in 0..self.workers.len() {
            let worker = &mut self.workers[index];
            let name = worker.name.clone();
            let changes = worker.watch.look(now);
            if !(lets_work && worker.watch.lets_work()) && worker.process.is_some() {
                warn!(worker = &*name, "the worker is stopped until the breaker lets it back");
                worker.stop();
                let rests = worker.rest_stuck(now, &mut self.random).join("; ");
                if !rests.is_empty() {
                    let fields = [("worker", &*name), ("state", "stopped"), ("why", &rests)];
                    self.teller.tell("worker", &fields);
                }
            }
            if !changes.is_empty() {
                self.status_due = now;
            }
            self.tell_changes(&format!("worker {name}"), &changes);
            let worker = &mut self.workers[index];
            if worker.rest_ended(before, now) {
                info!(worker = &*name, "an app's rest is over");
                send_settings(worker, &self.configuration, now);
            }
            shed(worker, &self.configuration);
            worker.hear(now, patience, away);
            worker.flush();
        }
    }

    fn tell_changes(&mut self, breaker: &str, changes: &[Change]) {
        for change in changes {
            let (words, trips) = (change.to_string(), change.trips.to_string());
            warn!(breaker, change = words, "breaker changed");
            let fields =
                [("breaker", breaker), ("state", change.to.as_str()), ("why", &words), ("trips", &trips)];
            self.teller.tell("breaker", &fields);
        }
    }

    /// One that cannot be started is tried again later; the others have no part in it.
    fn start_workers(&mut self, now: Instant) {
        for index in 0..self.workers.len() {
            let worker = &self.workers[index];
            if !(self.host.lets_work() && worker.may_start(now) && self.wanted(&worker.role)) {
                continue;
            }
            let name = worker.name.clone();
            let (state, why) = match worker.role.clone() {
                Role::Worker(role) => match self.start_worker(index, role) {
                    Ok(()) => ("started", String::new()),
                    Err(error) => {
                        ("not started", self.workers[index].not_started(now, &error, &mut self.random))
                    }
                },
                Role::Plugin(manifest) => match self.start_plugin(index, &manifest) {
                    Ok(()) => ("started", String::new()),
                    Err(error) => {
                        let why = format!("{error:#}");
                        error!(worker = &*name, why, "the plug-in is not started");
                        self.workers[index].refused(why.clone(), now, &mut self.random);
                        ("refused", why)
                    }
                },
            };
            self.status_due = now;
            self.teller.tell("worker", &[("worker", &name), ("state", state), ("why", &why)]);
        }
    }

    /// A worker none of whose apps is switched on is not started.
    fn wanted(&self, role: &Role) -> bool {
        let settings = self.configuration.settings();
        match role {
            Role::Worker(name) => {
                let mut apps = self.orders.catalog.names(*name).into_iter();
                apps.any(|app| settings.document(app).is_some_and(|document| document.enabled))
            }
            Role::Plugin(_) => plugin_name(role).is_some_and(|name| settings.plugins.enabled(&name)),
        }
    }

    fn next_life(&mut self) -> WorkerLife {
        self.last_life = BootNanos(watchfire_host::boot_now().0.max(self.last_life.0 + 1));
        WorkerLife(self.last_life.0)
    }

    fn start_worker(&mut self, index: usize, role: WorkerName) -> Result<()> {
        // A worker numbers its alerts in a stream of its own: their ids come from there. To the server all workers' frames go
        // in the one stream of this master.
        let life = self.next_life();
        let stream =
            StreamId { host: self.identity.host, boot: self.identity.boot, incarnation: BootNanos(life.0) };
        let (ours, theirs) = UnixStream::pair().context("make a socket pair")?;
        let (notices, outbox) = (self.notices.clone(), self.outbox.clone());
        let slot = self.workers[index].new_slot(Instant::now());
        let relay = move |_tgid: u32, incoming: UnixStream| {
            if let Err(error) = crate::relay::run(incoming, life, &outbox, &slot, || announce(&notices, life))
            {
                let error = format!("{error:#}");
                error!(worker = role.as_str(), error, "a worker is not listened to any longer");
                slot.blame(error);
            }
            outbox.worker_ended(life);
            ended(&notices, life);
        };
        let limits = &self.configuration.settings().limits;
        let confinement = crate::confinement::of(role, limits.worker(role));
        let command = self.command(role, stream, theirs.into());
        self.begin(index, life, command, confinement, ours, relay)
    }

    fn start_plugin(&mut self, index: usize, manifest: &Path) -> Result<()> {
        let settings = self.configuration.settings();
        let name = plugin_name(&self.workers[index].role).context("a manifest's file has a name")?;
        let package = settings.plugins.open(&name, manifest)?;
        let limits = settings.limits.plugin.clone();
        let confinement = crate::plugins::confinement(&package.manifest, &package.folder, &limits);
        let life = self.next_life();
        let (ours, theirs) = UnixStream::pair().context("make a socket pair")?;
        let command = crate::plugins::command(package, theirs.into(), self.orders.log.is_some());
        let notices = self.notices.clone();
        let slot = self.workers[index].new_slot(Instant::now());
        let plugin = PluginRelay { name: name.into(), outbox: self.outbox.clone(), slot, limits };
        let relay = move |tgid: u32, incoming: UnixStream| {
            plugin.run(tgid, incoming, || announce(&notices, life));
            ended(&notices, life);
        };
        self.begin(index, life, command, confinement, ours, relay)
    }

    fn begin(
        &mut self,
        index: usize,
        life: WorkerLife,
        mut command: Command,
        confinement: Confinement,
        link: UnixStream,
        relay: impl FnOnce(u32, UnixStream) + Send + 'static,
    ) -> Result<()> {
        let now = Instant::now();
        let name = self.workers[index].name.clone();
        let home = self.home.as_ref();
        let mut process = WorkerProcess::start(name.clone(), &mut command, &confinement, home, link, relay)?;
        if let (Some(output), Some(log)) = (process.output(), &self.orders.log) {
            let read = crate::worker_log::relay(name, output, log.clone());
            if let Err(error) = read {
                process.stop();
                return Err(error).context("read what the worker prints");
            }
        }
        let worker = &mut self.workers[index];
        worker.watch.begin(process.tgid(), now);
        worker.began(life, process, confinement);
        send_settings(worker, &self.configuration, now);
        Ok(())
    }

    fn stop_workers(&mut self) {
        // The sensor last: what it sees of the others' ends is seen still.
        for worker in self.workers.iter_mut().rev() {
            worker.stop();
        }
    }

    fn worker_ended(&mut self, life: WorkerLife) {
        let now = Instant::now();
        // One that was stopped is gone from here already, and its notice comes late.
        let Some(worker) = self.workers.iter_mut().find(|worker| worker.life() == Some(life)) else { return };
        let name = worker.name.clone();
        let Some(why) = worker.ended(now, &mut self.random) else { return };
        self.status_due = now;
        self.teller.tell("worker", &[("worker", &name), ("state", "ended"), ("why", &why)]);
    }

    fn take_status(&mut self, life: WorkerLife) {
        let Some(worker) = self.workers.iter_mut().find(|worker| worker.life() == Some(life)) else { return };
        worker.take_status();
        // What the server shows is mostly of the sensors.
        if worker.is(WorkerName::Sensor) {
            self.status_due = Instant::now();
        }
    }

    /// Tells the server of the agent as a whole.
    fn speak(&mut self, now: Instant) {
        if now < self.status_due {
            return;
        }
        self.status_due = now + STATUS_EVERY;
        self.outbox.push_status(self.status(now));
    }

    fn status(&self, now: Instant) -> v1::Status {
        let mut whole = v1::Status {
            idle: self.idle(),
            configuration_revision: self.configuration.revision(),
            ..v1::Status::default()
        };
        whole.breakers.push(self.host.status(now));
        for worker in &self.workers {
            whole.breakers.push(worker.watch.status(now));
            if worker.process.is_some()
                && let Some(status) = worker.status()
            {
                add(&mut whole, status);
            }
        }
        whole.r#use.extend(own_use("master"));
        whole
    }

    /// Why the sensor worker does not run; empty when it does.
    fn idle(&self) -> String {
        let sensor = self.workers.iter().find(|worker| worker.is(WorkerName::Sensor));
        let Some(sensor) = sensor.filter(|worker| worker.process.is_none()) else { return String::new() };
        let why =
            self.host.idle_because().or_else(|| sensor.watch.idle_because()).or_else(|| sensor.ended.clone());
        why.unwrap_or_else(|| "not started yet, or all its apps are switched off".to_owned())
    }

    fn reload(&mut self) -> Result<(), String> {
        let outcome = self.configuration.reload();
        self.settle(outcome, "file", "the file was read again")
    }

    /// Makes known what a change of the settings came to; the error in words.
    fn settle(&mut self, outcome: Result<bool, SettingsError>, from: &str, why: &str) -> Result<(), String> {
        match outcome {
            Ok(true) => self.configured(why),
            Ok(false) => info!(from, "the settings say what is in force already"),
            Err(error) => {
                let error = format!("{:#}", anyhow::Error::from(error));
                self.refused(from, &error);
                return Err(error);
            }
        }
        Ok(())
    }

    fn answer(&mut self, control: Control) {
        let Control { request, reply } = control;
        let settled = match request {
            control::Request::Show => Ok(()),
            control::Request::Apply(patch) => {
                let outcome = self.configuration.apply(&patch);
                self.settle(outcome, "control socket", "applied at the control socket")
            }
            control::Request::Reload => self.reload(),
        };
        // One that has left does not hear it.
        if reply.send(settled.map(|()| self.configuration.show())).is_err() {
            warn!("whoever asked at the control socket has left");
        }
    }

    /// Other settings are in force: everyone is told.
    fn configured(&mut self, why: &str) {
        let now = Instant::now();
        let revision = self.configuration.revision().to_string();
        info!(revision, why, "settings in force");
        self.teller.tell("configuration", &[("state", "in force"), ("revision", &revision), ("why", why)]);
        let seed = self.identity.host.seed();
        let limits = &self.configuration.settings().limits;
        self.host.limit(limits, seed, now);
        for worker in &mut self.workers {
            worker.watch.limit(limits, limits_of(limits, &worker.role), seed, now);
            send_settings(worker, &self.configuration, now);
        }
        // A worker that has nothing left to do ends; one whose cgroup has other caps now is started again under them.
        for index in 0..self.workers.len() {
            let worker = &self.workers[index];
            let other_caps = match worker.role {
                Role::Worker(name) => {
                    let limits = &self.configuration.settings().limits;
                    worker.caps_differ(&crate::confinement::of(name, limits.worker(name)))
                }
                Role::Plugin(_) => false,
            };
            if !self.wanted(&worker.role) || other_caps {
                self.workers[index].stop();
            }
        }
        self.find_plugins(now);
        self.status_due = now;
    }

    fn refused(&mut self, from: &str, error: &str) {
        error!(from, error, "settings refused; those before stay in force");
        self.teller.tell("configuration", &[("state", "refused"), ("from", from), ("why", error)]);
    }

    fn command(&self, name: WorkerName, stream: StreamId, link: OwnedFd) -> Command {
        let mut command = Command::new("/proc/self/exe");
        command.arg0("watchfire-agent");
        command.args(self.orders.reexec).args(["worker", name.as_str()]);
        command.arg("--host").arg(stream.host.to_string());
        command.arg("--boot").arg(stream.boot.to_string());
        command.arg("--incarnation").arg(stream.incarnation.0.to_string());
        command.stdin(Stdio::null());
        if self.orders.log.is_some() {
            command.stderr(Stdio::piped());
        }
        crate::worker::inherit_link(&mut command, link);
        command
    }
}

fn limits_of<'l>(limits: &'l RawLimits, role: &Role) -> &'l RawWorkerLimits {
    match role {
        Role::Worker(name) => limits.worker(*name),
        Role::Plugin(_) => &limits.plugin,
    }
}

/// A plug-in's name, as its manifest's file has it.
fn plugin_name(role: &Role) -> Option<String> {
    match role {
        Role::Worker(_) => None,
        Role::Plugin(manifest) => crate::plugins::name_of(manifest),
    }
}

fn announce(notices: &mpsc::Sender<Notice>, life: WorkerLife) {
    if notices.send(Notice::Status(life)).is_err() {
        warn!("the master is ending already");
    }
}

fn ended(notices: &mpsc::Sender<Notice>, life: WorkerLife) {
    if notices.send(Notice::WorkerEnded(life)).is_err() {
        warn!("the master is ending already");
    }
}

/// Tells a worker what is in force.
fn send_settings(worker: &mut Supervised, configuration: &Configuration, now: Instant) {
    let settings = configuration.settings();
    let document = match plugin_name(&worker.role) {
        None => settings.whole().to_string(),
        Some(plugin) => settings.plugins.document(&plugin).to_string(),
    };
    let configure = Configure { revision: configuration.revision(), document, resting: worker.resting(now) };
    worker.send(&MasterFrame { body: Some(master_frame::Body::Configure(configure)) });
}

/// Has the sensors give up what the worker's strain asks for, or take it back.
fn shed(worker: &mut Supervised, configuration: &Configuration) {
    if !worker.is(WorkerName::Sensor) {
        return;
    }
    let kinds: Vec<u32> =
        configuration.settings().limits.shed_kinds().map(|kind| u32::from(kind as u8)).collect();
    let (bad, most) = worker.watch.strain();
    // Some at the first bad sample, all of them before the last.
    let count = (kinds.len() * bad).div_ceil(most).min(kinds.len());
    if let Some(kinds) = worker.shed(&kinds[..count]) {
        worker.send(&MasterFrame { body: Some(master_frame::Body::Shed(Shed { kinds })) });
    }
}

/// Adds what one worker says to what the agent says.
fn add(whole: &mut v1::Status, part: &v1::Status) {
    whole.sensors_attached |= part.sensors_attached;
    whole.sources.extend(part.sources.iter().cloned());
    whole.r#use.extend(part.r#use.iter().cloned());
    whole.rule_faults.extend(part.rule_faults.iter().cloned());
    whole.rules_loaded += part.rules_loaded;
    whole.alerts_dropped += part.alerts_dropped;
    whole.processes_healed += part.processes_healed;
    whole.processes_unknown += part.processes_unknown;
    whole.apps.extend(part.apps.iter().cloned());
}

fn clear_leftovers(home: &CgroupHome) {
    let leftovers = home.remove_leftovers(LEFTOVERS_GRACE);
    if leftovers.removed > 0 {
        info!(cgroups = leftovers.removed, "removed what an earlier life left");
    }
    for (cgroup, error) in leftovers.left {
        warn!(cgroup = %cgroup.display(), %error, "a cgroup of an earlier life stays");
    }
}

fn wait_for(thread: JoinHandle<()>, grace: Duration) {
    let deadline = Instant::now() + grace;
    while !thread.is_finished() {
        if Instant::now() >= deadline {
            warn!(?grace, "the server did not acknowledge everything in time");
            return;
        }
        thread::sleep(Duration::from_millis(10));
    }
}
