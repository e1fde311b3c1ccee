//! One life of a worker: started under its confinement, told to stop, killed when it does not, and nothing left of it.

use std::collections::VecDeque;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::process::{Child, ChildStderr, Command, ExitStatus};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::io::Errno;
use rustix::net::SendFlags;
use tracing::{error, info, warn};
use watchfire_confine::{Cgroup, CgroupHome, Confined, Confinement};
use watchfire_wire::MAX_FRAME;

/// A worker told to stop drains its sources and sends what it holds; then it is killed.
const GRACE: Duration = Duration::from_secs(3);
/// A worker that takes nothing of what it is told for so long will not take it any more.
const READS_WITHIN: Duration = Duration::from_secs(10);
/// What it is told and has not read, in bytes: a few settings.
const MAX_UNREAD: usize = 8 << 20;
/// What is left in its cgroup has this long to be gone.
pub(crate) const CGROUP_GRACE: Duration = Duration::from_secs(1);

/// A running worker.
pub(crate) struct WorkerProcess {
    name: Arc<str>,
    child: Child,
    cgroup: Option<Cgroup>,
    link: UnixStream,
    outgoing: Outgoing,
    relay: Option<JoinHandle<()>>,
    pub(crate) started: Instant,
}

/// What the worker has not read yet, and since when.
#[derive(Default)]
struct Outgoing {
    bytes: VecDeque<u8>,
    since: Option<Instant>,
}

impl WorkerProcess {
    /// Starts `command` under `confinement`. `link` is the master's end; `relay` is told the worker's tgid, and runs until the
    /// worker closes the other.
    pub(crate) fn start(
        name: Arc<str>,
        command: &mut Command,
        confinement: &Confinement,
        home: Option<&CgroupHome>,
        link: UnixStream,
        relay: impl FnOnce(u32, UnixStream) + Send + 'static,
    ) -> Result<Self> {
        let incoming = link.try_clone().context("duplicate the worker's link")?;
        let Confined { child, cgroup, applied } =
            confinement.spawn(command, home, &name).context("start the executable")?;
        crate::confinement::report(&name, &applied);
        info!(worker = &*name, tgid = child.id(), "worker started");
        let tgid = child.id();
        let mut process = WorkerProcess {
            name,
            child,
            cgroup,
            link,
            outgoing: Outgoing::default(),
            relay: None,
            started: Instant::now(),
        };
        let spawned = thread::Builder::new().name("relay".into()).spawn(move || relay(tgid, incoming));
        match spawned {
            Ok(relay) => process.relay = Some(relay),
            Err(error) => {
                process.stop();
                return Err(error).context("start the relay's thread");
            }
        }
        Ok(process)
    }

    /// Its standard error, where that is a pipe; once.
    pub(crate) fn output(&mut self) -> Option<ChildStderr> {
        self.child.stderr.take()
    }

    pub(crate) fn tgid(&self) -> u32 {
        self.child.id()
    }

    /// Tells the worker something. Never waits for it: what it does not read now is written later.
    pub(crate) fn send(&mut self, frame: &impl prost::Message) {
        let bytes = frame.encode_to_vec();
        let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        if bytes.len() > MAX_FRAME || self.outgoing.bytes.len() + bytes.len() > MAX_UNREAD {
            error!(worker = &*self.name, bytes = bytes.len(), "the worker does not read; ending it");
            self.end();
            return;
        }
        self.outgoing.bytes.extend(length.to_be_bytes());
        self.outgoing.bytes.extend(bytes);
        self.flush();
    }

    /// Writes on. A worker that has not read anything for [`READS_WITHIN`] is ended: its relay then sees the end.
    pub(crate) fn flush(&mut self) {
        while !self.outgoing.bytes.is_empty() {
            let (head, _) = self.outgoing.bytes.as_slices();
            let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
            match rustix::net::send(&self.link, head, flags) {
                Ok(count) => {
                    self.outgoing.bytes.drain(..count);
                    self.outgoing.since = None;
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    let since = *self.outgoing.since.get_or_insert_with(Instant::now);
                    if since.elapsed() >= READS_WITHIN {
                        error!(worker = &*self.name, "the worker does not read; ending it");
                        self.end();
                    }
                    return;
                }
                // It is gone: its end comes by its link.
                Err(_) => {
                    self.outgoing.bytes.clear();
                    return;
                }
            }
        }
    }

    /// Kills it: its end comes by its link.
    pub(crate) fn end(&mut self) {
        self.outgoing.bytes.clear();
        self.outgoing.since = None;
        if let Err(error) = self.child.kill() {
            warn!(worker = &*self.name, %error, "kill the worker");
        }
    }

    /// It has closed its link, by its end or on the way to it: how it ended. One that lingers is killed.
    pub(crate) fn ended(mut self) -> Option<ExitStatus> {
        let status = self.reap(GRACE);
        self.clear();
        status
    }

    /// The end of its input tells the worker to stop.
    pub(crate) fn stop(mut self) {
        if let Err(error) = self.link.shutdown(Shutdown::Write) {
            warn!(worker = &*self.name, %error, "the worker was already gone");
        }
        if let Some(status) = self.reap(GRACE) {
            info!(worker = &*self.name, %status, "worker stopped");
        }
        self.clear();
    }

    /// Waits for its end, and brings it about when it does not come in time.
    fn reap(&mut self, grace: Duration) -> Option<ExitStatus> {
        let deadline = Instant::now() + grace;
        while Instant::now() < deadline {
            match self.child.try_wait() {
                Ok(None) => thread::sleep(Duration::from_millis(10)),
                Ok(Some(status)) => return Some(status),
                Err(error) => {
                    warn!(worker = &*self.name, %error, "wait for the worker");
                    break;
                }
            }
        }
        warn!(worker = &*self.name, ?grace, "the worker did not end in time; killing it");
        match self.child.kill().and_then(|()| self.child.wait()) {
            Ok(status) => Some(status),
            Err(error) => {
                warn!(worker = &*self.name, %error, "kill the worker");
                None
            }
        }
    }

    /// The process is gone: what it started, its cgroup and the relay's thread go too.
    fn clear(&mut self) {
        if let Some(cgroup) = self.cgroup.take() {
            let outcome = cgroup.kill_all(CGROUP_GRACE).and_then(|()| cgroup.remove(CGROUP_GRACE));
            if let Err(error) = outcome {
                warn!(worker = &*self.name, %error, "its cgroup stays; the agent's next start removes it");
            }
        }
        // The worker's end of the link is closed: the relay has seen the end, or sees it now.
        if let Err(error) = self.link.shutdown(Shutdown::Both) {
            tracing::debug!(worker = &*self.name, %error, "the link was closed already");
        }
        if let Some(relay) = self.relay.take()
            && relay.join().is_err()
        {
            error!(worker = &*self.name, "the relay's thread panicked");
        }
    }
}
