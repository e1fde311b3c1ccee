//! The master: keeps one sensor worker alive within its limits, relays what it sends, and opens the uplink. It does no
//! business itself, and none is done while a breaker is open.

use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tracing::{error, info, warn};
use watchfire_confine::CgroupHome;
use watchfire_event::StreamId;
use watchfire_host::Identity;
use watchfire_logfile::LogFile;
use watchfire_pace::{Backoff, BackoffSettings, Random};
use watchfire_wire::v1::{self, agent_frame::Body};
use watchfire_wire::{ConversionError, read_raw_frame};

use crate::lock::AgentLock;
use crate::notify::{ServiceManager, Word};
use crate::outbox::{Outbox, WorkerLife};
use crate::own_use::own_use;
use crate::settings::AgentSettings;
use crate::uplink::Uplink;
use crate::watch::Watch;
use crate::worker_process::WorkerProcess;

/// What is on its way to the server when the master stops has this long to be acknowledged.
const UPLINK_GRACE: Duration = Duration::from_secs(4);
/// What is not acknowledged then has this long to be put on the disk.
const SHELVE_GRACE: Duration = Duration::from_secs(2);
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
/// Processes and cgroups of an earlier life have this long to be gone.
const LEFTOVERS_GRACE: Duration = Duration::from_secs(2);
/// How often the master speaks while no worker does.
const STATUS_EVERY: Duration = Duration::from_secs(5);

/// The breakers as they stand, for every status that passes by.
type Breakers = Arc<Mutex<Vec<v1::BreakerStatus>>>;

/// What the master needs to know to run.
pub(crate) struct MasterOrders {
    /// The server's socket.
    pub(crate) server: PathBuf,
    /// Where the host id is kept.
    pub(crate) state_dir: PathBuf,
    /// Held while the agent runs.
    pub(crate) lock: PathBuf,
    /// The settings' file, handed on to the workers.
    pub(crate) config: Option<PathBuf>,
    pub(crate) settings: AgentSettings,
    /// Where what the workers print goes.
    pub(crate) log: Option<LogFile>,
    /// Arguments that make this executable an agent: empty for `watchfire-agent`.
    pub(crate) reexec: &'static [&'static str],
    /// End when stdin ends: the parent holds the other end and does not outlive it.
    pub(crate) stop_at_stdin_end: bool,
}

enum Notice {
    Stop(&'static str),
    /// The worker of this life has closed its link.
    WorkerEnded(WorkerLife),
}

/// Runs until told to stop by SIGTERM, SIGINT, or the end of stdin where the orders say so.
pub(crate) fn run(orders: MasterOrders) -> Result<()> {
    let _lock = AgentLock::take(&orders.lock)?;
    let identity = Identity::load(&orders.state_dir, Path::new("/")).context("find out who this host is")?;
    let (notices, inbox) = mpsc::channel();
    watch_signals(notices.clone()).context("watch for SIGTERM and SIGINT")?;
    if orders.stop_at_stdin_end {
        watch_stdin(notices.clone()).context("watch stdin")?;
    }
    let outbox = Outbox::open(&identity, watchfire_host::boot_now(), &orders.settings, &orders.state_dir)?;
    let stop = Arc::new(AtomicBool::new(false));
    let uplink = Uplink { socket: orders.server.clone(), stop: stop.clone() };
    let (earlier, cargo) = (uplink.clone(), outbox.clone());
    let earlier = thread::Builder::new().name("replay".into()).spawn(move || earlier.run_earlier(&cargo))?;
    let cargo = outbox.clone();
    let uplink = thread::Builder::new().name("uplink".into()).spawn(move || uplink.run(&cargo))?;
    let mut master = Master::new(orders, identity, outbox.clone(), notices);
    let outcome = master.supervise(&inbox);
    outbox.close();
    outbox.stop_earlier();
    stop.store(true, Ordering::Release);
    wait_for(uplink, UPLINK_GRACE);
    outbox.shelve(SHELVE_GRACE);
    drop(earlier);
    outcome
}

struct Master {
    orders: MasterOrders,
    identity: Identity,
    outbox: Arc<Outbox>,
    notices: mpsc::Sender<Notice>,
    home: Option<CgroupHome>,
    watch: Watch,
    breakers: Breakers,
    respawn: Backoff,
    random: Random,
    worker: Option<WorkerProcess>,
    /// The worker's life, while one runs.
    life: Option<WorkerLife>,
    /// Before this no worker is started again.
    not_before: Instant,
    /// Why the last worker ended, where it was not the master's wish.
    ended: Option<String>,
    status_due: Instant,
    service: ServiceManager,
    ready: bool,
}

impl Master {
    fn new(
        orders: MasterOrders,
        identity: Identity,
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
        let watch = Watch::new(orders.settings.limits.clone(), &identity.host.0, now);
        // From the wall clock: two masters that died together shall not come back together.
        let seed = u64::from_le_bytes(identity.host.0[..8].try_into().expect("eight of sixteen bytes"))
            ^ watchfire_host::boot_now().0;
        Master {
            orders,
            identity,
            outbox,
            notices,
            home,
            watch,
            breakers: Arc::default(),
            respawn: Backoff::new(RESPAWN),
            random: Random::seeded(seed),
            worker: None,
            life: None,
            not_before: now,
            ended: None,
            status_due: now,
            service: ServiceManager::find(),
            ready: false,
        }
    }

    fn supervise(&mut self, inbox: &mpsc::Receiver<Notice>) -> Result<()> {
        loop {
            let now = Instant::now();
            self.look(now);
            if self.worker.is_none() && now >= self.not_before && self.watch.lets_work() {
                self.start_worker().context("start the sensor worker")?;
            }
            self.tell_idle(now);
            self.service.tell(if self.ready { Word::Alive } else { Word::Ready });
            self.ready = true;
            let patience = self.next_due(now).saturating_duration_since(now);
            match inbox.recv_timeout(patience) {
                Ok(Notice::Stop(why)) => {
                    info!(why, "stopping");
                    self.service.tell(Word::Stopping);
                    self.stop_worker();
                    return Ok(());
                }
                Ok(Notice::WorkerEnded(life)) => self.worker_ended(life),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
            }
        }
    }

    fn next_due(&self, now: Instant) -> Instant {
        let mut due = self.watch.due(now);
        if self.worker.is_none() {
            due = due.min(self.status_due);
            if self.watch.lets_work() {
                due = due.min(self.not_before);
            }
        }
        due
    }

    /// Samples what is due; a breaker that opens stops the worker in order, so that its books close.
    fn look(&mut self, now: Instant) {
        let changes = self.watch.look(now);
        for (level, change) in &changes {
            let (breaker, change) = (level.as_str(), change.to_string());
            warn!(breaker, change, "breaker changed");
        }
        if !self.watch.lets_work() && self.worker.is_some() {
            warn!("the sensors leave the kernel until the breaker lets them back");
            self.stop_worker();
            self.status_due = now;
        }
        *self.breakers.lock().expect("no thread panics while it holds the breakers") = self.watch.status(now);
    }

    fn start_worker(&mut self) -> Result<()> {
        // A worker numbers its alerts in a stream of its own: their ids come from there. To the server all workers' frames go
        // in the one stream of this master.
        let stream = StreamId {
            host: self.identity.host,
            boot: self.identity.boot,
            incarnation: watchfire_host::boot_now(),
        };
        let life = WorkerLife(stream.incarnation.0);
        let (ours, theirs) = UnixStream::pair().context("make a socket pair")?;
        let (notices, outbox, breakers) = (self.notices.clone(), self.outbox.clone(), self.breakers.clone());
        let relay = move |incoming| {
            relay(incoming, life, &outbox, &breakers);
            outbox.worker_ended(life);
            if notices.send(Notice::WorkerEnded(life)).is_err() {
                warn!("the master is ending already");
            }
        };
        let confinement = crate::confinement::sensor(&self.orders.settings.limits.sensor);
        let mut command = self.command(stream, theirs.into());
        let home = self.home.as_ref();
        let mut worker = WorkerProcess::start("sensor", &mut command, &confinement, home, ours, relay)?;
        if let (Some(output), Some(log)) = (worker.output(), &self.orders.log) {
            crate::worker_log::relay("sensor", output, log.clone()).context("read what the worker prints")?;
        }
        self.watch.begin(worker.tgid());
        self.worker = Some(worker);
        self.ended = None;
        self.life = Some(life);
        Ok(())
    }

    fn stop_worker(&mut self) {
        self.watch.end();
        if let Some(worker) = self.worker.take() {
            worker.stop();
        }
    }

    fn worker_ended(&mut self, life: WorkerLife) {
        // One that was stopped is gone from here already, and its notice comes late.
        if self.life != Some(life) {
            return;
        }
        let Some(worker) = self.worker.take() else { return };
        self.watch.end();
        let (tgid, lived) = (worker.tgid(), worker.started.elapsed());
        let status = worker.ended().map_or_else(|| "status unknown".to_owned(), |status| status.to_string());
        error!(status, tgid, ?lived, "the sensor worker ended");
        if lived >= STEADY {
            self.respawn.reset();
        }
        let wait = self.respawn.next_wait(&mut self.random);
        let deaths = self.respawn.failures();
        let wait = if deaths >= PARK_AFTER { PARKED } else { wait };
        warn!(?wait, deaths, "starting the sensor worker again after a wait");
        self.ended = Some(format!("the sensor worker ended ({status}), {deaths} times in a row"));
        let now = Instant::now();
        (self.not_before, self.status_due) = (now + wait, now);
    }

    /// While no worker speaks, the master says why.
    fn tell_idle(&mut self, now: Instant) {
        if self.worker.is_some() || now < self.status_due {
            return;
        }
        self.status_due = now + STATUS_EVERY;
        let idle = self.watch.idle_because().or_else(|| self.ended.clone()).unwrap_or_default();
        let status = v1::Status { idle, ..v1::Status::default() };
        self.outbox.push_status(with_masters_part(status, &self.breakers));
    }

    fn command(&self, stream: StreamId, link: OwnedFd) -> Command {
        let mut command = Command::new("/proc/self/exe");
        command.arg0("watchfire-agent");
        command.args(self.orders.reexec).args(["worker", "sensor"]);
        command.arg("--host").arg(stream.host.to_string());
        command.arg("--boot").arg(stream.boot.to_string());
        command.arg("--incarnation").arg(stream.incarnation.0.to_string());
        if let Some(config) = &self.orders.config {
            command.arg("--config").arg(config);
        }
        command.stdin(Stdio::null());
        if self.orders.log.is_some() {
            command.stderr(Stdio::piped());
        }
        crate::worker::inherit_link(&mut command, link);
        command
    }
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

/// Moves the worker's frames to the outbox.
fn relay(mut incoming: UnixStream, life: WorkerLife, outbox: &Outbox, breakers: &Breakers) {
    loop {
        match read_raw_frame(&mut incoming) {
            Ok(Some(frame)) => {
                if let Err(error) = accept(&frame, life, outbox, breakers) {
                    error!(
                        error = &error as &dyn std::error::Error,
                        "a frame of the sensor worker is malformed; it is left out"
                    );
                }
            }
            Ok(None) => return,
            Err(error) => {
                error!(error = &error as &dyn std::error::Error, "the sensor worker's link broke");
                return;
            }
        }
    }
}

fn accept(
    frame: &[u8],
    life: WorkerLife,
    outbox: &Outbox,
    breakers: &Breakers,
) -> Result<(), ConversionError> {
    // To a status the master adds its part; everything else is the outbox's.
    if watchfire_wire::batch_in_frame(frame).is_none()
        && let Some(Body::Status(status)) = watchfire_wire::decode_agent_frame(frame)?.body
    {
        outbox.push_status(with_masters_part(status, breakers));
        return Ok(());
    }
    outbox.take(life, frame)
}

fn with_masters_part(mut status: v1::Status, breakers: &Breakers) -> v1::Status {
    status.breakers = breakers.lock().expect("no thread panics while it holds the breakers").clone();
    status.r#use.extend(own_use("master"));
    status
}

fn watch_signals(notices: mpsc::Sender<Notice>) -> Result<()> {
    use signal_hook::consts::{SIGINT, SIGTERM};
    let mut signals = signal_hook::iterator::Signals::new([SIGTERM, SIGINT])?;
    thread::Builder::new().name("signals".into()).spawn(move || {
        for signal in &mut signals {
            let why = if signal == SIGTERM { "SIGTERM" } else { "SIGINT" };
            if notices.send(Notice::Stop(why)).is_err() {
                return;
            }
        }
    })?;
    Ok(())
}

fn watch_stdin(notices: mpsc::Sender<Notice>) -> Result<()> {
    thread::Builder::new().name("parent".into()).spawn(move || {
        let mut byte = [0u8; 64];
        while matches!(std::io::stdin().read(&mut byte), Ok(count) if count > 0) {}
        if notices.send(Notice::Stop("the parent is gone")).is_err() {
            warn!("the master is ending already");
        }
    })?;
    Ok(())
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
