//! The master: keeps one sensor worker alive, relays what it sends, and opens the uplink. It does no business itself.

use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tracing::{error, info, warn};
use watchfire_event::StreamId;
use watchfire_host::Identity;
use watchfire_wire::v1::{self, agent_frame::Body};
use watchfire_wire::{batch_counts, decode_books, read_raw_frame};

use crate::backlog::Backlog;
use crate::own_use::own_use;
use crate::settings::AgentSettings;
use crate::uplink::Uplink;

/// A worker told to stop drains its sources and sends what it holds; then it is killed.
const WORKER_GRACE: Duration = Duration::from_secs(3);
/// What is on its way to the server when the master stops has this long to be acknowledged.
const UPLINK_GRACE: Duration = Duration::from_secs(4);
/// A worker that lived this long starts the next wait from the beginning.
const STEADY: Duration = Duration::from_secs(60);
const FIRST_RESPAWN: Duration = Duration::from_millis(200);
const LONGEST_RESPAWN: Duration = Duration::from_secs(30);

/// What the master needs to know to run.
pub(crate) struct MasterOrders {
    /// The server's socket.
    pub(crate) server: PathBuf,
    /// Where the host id is kept.
    pub(crate) state_dir: PathBuf,
    /// The settings' file, handed on to the workers.
    pub(crate) config: Option<PathBuf>,
    pub(crate) settings: AgentSettings,
    /// Arguments that make this executable an agent: empty for `watchfire-agent`.
    pub(crate) reexec: &'static [&'static str],
    /// End when stdin ends: the parent holds the other end and does not outlive it.
    pub(crate) stop_at_stdin_end: bool,
}

enum Notice {
    Stop(&'static str),
    WorkerEnded,
}

/// Runs until told to stop by SIGTERM, SIGINT, or the end of stdin where the orders say so.
pub(crate) fn run(orders: MasterOrders) -> Result<()> {
    let identity = Identity::load(&orders.state_dir, Path::new("/")).context("find out who this host is")?;
    let (notices, inbox) = mpsc::channel();
    watch_signals(notices.clone()).context("watch for SIGTERM and SIGINT")?;
    if orders.stop_at_stdin_end {
        watch_stdin(notices.clone()).context("watch stdin")?;
    }
    let streams: Arc<Mutex<Vec<Arc<Backlog>>>> = Arc::default();
    let stop = Arc::new(AtomicBool::new(false));
    let uplink = Uplink {
        socket: orders.server.clone(),
        identity: identity.clone(),
        streams: streams.clone(),
        stop: stop.clone(),
        connected: Arc::default(),
    };
    let uplink = thread::Builder::new().name("uplink".into()).spawn(move || uplink.run())?;
    let mut master = Master { orders, identity, streams, notices, wait: FIRST_RESPAWN };
    let outcome = master.supervise(&inbox);
    stop.store(true, Ordering::Release);
    wait_for(uplink, UPLINK_GRACE);
    outcome
}

struct Master {
    orders: MasterOrders,
    identity: Identity,
    streams: Arc<Mutex<Vec<Arc<Backlog>>>>,
    notices: mpsc::Sender<Notice>,
    wait: Duration,
}

impl Master {
    fn supervise(&mut self, inbox: &mpsc::Receiver<Notice>) -> Result<()> {
        loop {
            let started = Instant::now();
            let mut worker = self.start_worker().context("start the sensor worker")?;
            match inbox.recv().context("wait for a notice")? {
                Notice::Stop(why) => {
                    info!(why, "stopping");
                    worker.stop();
                    return Ok(());
                }
                Notice::WorkerEnded => {
                    let status = worker.child.wait().context("reap the sensor worker")?;
                    worker.relay_done();
                    error!(%status, tgid = worker.child.id(), lived = ?started.elapsed(), "the sensor worker ended");
                }
            }
            if started.elapsed() >= STEADY {
                self.wait = FIRST_RESPAWN;
            }
            warn!(wait = ?self.wait, "starting the sensor worker again after a wait");
            match inbox.recv_timeout(self.wait) {
                Ok(Notice::Stop(why)) => {
                    info!(why, "stopping");
                    return Ok(());
                }
                Ok(Notice::WorkerEnded) | Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
            }
            self.wait = (self.wait * 2).min(LONGEST_RESPAWN);
        }
    }

    fn start_worker(&self) -> Result<Worker> {
        let stream = StreamId {
            host: self.identity.host,
            boot: self.identity.boot,
            incarnation: watchfire_host::boot_now(),
        };
        let (ours, theirs) = UnixStream::pair().context("make a socket pair")?;
        let child = self.command(stream, theirs.into()).spawn().context("start this executable again")?;
        info!(tgid = child.id(), "sensor worker started");
        let limits = &self.orders.settings.uplink;
        let backlog = Arc::new(Backlog::new(
            stream,
            limits.backlog_kib as usize * 1024,
            limits.backlog_alerts as usize,
        ));
        self.streams.lock().expect("no thread panics while it holds the streams").push(backlog.clone());
        let incoming = ours.try_clone().context("duplicate the worker's link")?;
        let notices = self.notices.clone();
        let relay = thread::Builder::new().name("relay".into()).spawn(move || {
            relay(incoming, &backlog);
            backlog.close();
            if notices.send(Notice::WorkerEnded).is_err() {
                warn!("the master is ending already");
            }
        })?;
        Ok(Worker { child, link: ours, relay: Some(relay) })
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
        // A group of its own: a Ctrl-C at the terminal is for the master, which then stops its workers in order.
        command.process_group(0).stdin(Stdio::null());
        crate::worker::inherit_link(&mut command, link);
        command
    }
}

struct Worker {
    child: Child,
    link: UnixStream,
    relay: Option<JoinHandle<()>>,
}

impl Worker {
    /// The end of its input tells the worker to stop.
    fn stop(&mut self) {
        if let Err(error) = self.link.shutdown(std::net::Shutdown::Write) {
            warn!(%error, "the sensor worker was already gone");
        }
        let deadline = Instant::now() + WORKER_GRACE;
        while Instant::now() < deadline {
            match self.child.try_wait() {
                Ok(None) => thread::sleep(Duration::from_millis(10)),
                Ok(Some(status)) => {
                    info!(%status, "sensor worker stopped");
                    return self.relay_done();
                }
                Err(error) => {
                    warn!(%error, "wait for the sensor worker");
                    break;
                }
            }
        }
        warn!(grace = ?WORKER_GRACE, "the sensor worker did not stop in time; killing it");
        if let Err(error) = self.child.kill().and_then(|()| self.child.wait()) {
            warn!(%error, "kill the sensor worker");
        }
        self.relay_done();
    }

    fn relay_done(&mut self) {
        if let Some(relay) = self.relay.take()
            && relay.join().is_err()
        {
            error!("the relay thread panicked");
        }
    }
}

/// Moves the worker's frames to the backlog, opening only what it must account for.
fn relay(mut incoming: UnixStream, backlog: &Backlog) {
    loop {
        match read_raw_frame(&mut incoming) {
            Ok(Some(frame)) => {
                if let Err(error) = accept(frame, backlog) {
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

fn accept(frame: Vec<u8>, backlog: &Backlog) -> Result<(), watchfire_wire::ConversionError> {
    if let Some(batch) = watchfire_wire::batch_in_frame(&frame) {
        let (sequence, counts) = batch_counts(batch)?;
        backlog.push_batch(sequence, &counts, frame);
        return Ok(());
    }
    match watchfire_wire::decode_agent_frame(&frame)?.body {
        Some(Body::Alerts(alerts)) => {
            let last = alerts.alerts.last().map_or(0, |alert| alert.sequence);
            backlog.push_alerts(last, alerts.alerts.len() as u64, frame);
        }
        Some(Body::Ledger(ledger)) => backlog.push_ledger(decode_books(&ledger)?, ledger.after_batch),
        Some(Body::Status(status)) => backlog.push_status(with_masters_part(status, backlog)),
        Some(Body::Hello(_) | Body::Events(_)) | None => {}
    }
    Ok(())
}

fn with_masters_part(mut status: v1::Status, backlog: &Backlog) -> v1::Status {
    status.alerts_dropped += backlog.alerts_dropped();
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
