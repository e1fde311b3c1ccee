//! The workers whose apps yield reports (collector, scanner, extension): each app has a thread to itself, so that one that blocks or
//! spins holds up no other.

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::time::Timespec;
use tracing::{error, info, warn};
use watchfire_app::{
    AppChange, AppKind, AppStatus, Document, Host, Intake, Lane, LaneSettings, Overrun, Watchdog,
};
use watchfire_event::{Books, Counts, DropReason, Kind, Process, Report, ReportError, Stage};
use watchfire_host::ProcReader;
use watchfire_wire::v1;

use super::WorkerOrders;
use super::inbox::{Configured, Inbox, Order};
use super::outbound::Outbound;
use super::sensor::{document, host};
use crate::own_use::own_use;
use crate::reports::told_by;
use crate::settings::AgentSettings;
use crate::workers::{STUCK, WorkerName};

const BOOKS_EVERY: Duration = Duration::from_secs(1);
const STATUS_EVERY: Duration = Duration::from_secs(5);
/// A lane looks for the word to stop this often, when nothing else wakes it.
const LOOK: Duration = Duration::from_secs(1);
/// At the end each app has this long to come back from its turn.
const LAST_TURN: Duration = Duration::from_secs(1);
/// A turn told so often has run for four deadlines; where it burned the CPU all the while, the worker is replaced.
const GIVEN_UP: u32 = 2;
/// A turn that took this share of a core since it was told before spins; one that waits takes nothing. Far below what the worker's
/// cgroup lets all its apps take together.
const SPINNING: f64 = 0.1;

/// Runs until the master closes its end of `link`.
pub(super) fn run(orders: WorkerOrders, inbox: Inbox, first: Configured, link: UnixStream) -> Result<()> {
    let name = orders.name;
    let settings =
        AgentSettings::check(&first.documents, &orders.catalog).context("the master's settings")?;
    let host = host(orders.stream.host);
    let limits = &settings.limits;
    let outbound = Outbound::start(link, limits, limits.worker(name)).context("start the outbound thread")?;
    let teller = ProcReader::new("/proc").read_process(std::process::id()).unwrap_or_default();
    let post = Arc::new(Mutex::new(Post {
        worker: name,
        outbound,
        teller: Arc::new(teller),
        host: host.clone(),
        told: 0,
        limited: 0,
    }));
    let mut desks = Vec::new();
    for kind in orders.catalog.reporting(name) {
        desks.push(Desk::start(kind, document(&settings, kind.name(), &first.resting), &host, &post)?);
    }
    let stuck = AllStuck::default();
    let pulses = desks.iter().map(|desk| desk.pulse.clone()).collect();
    let deadline = LaneSettings::default().turn_deadline;
    let for_watchdog = stuck.clone();
    let watchdog = Watchdog::start(host.clock.clone(), pulses, deadline, host.stop.clone(), move |overrun| {
        noticed(&for_watchdog, overrun);
    })
    .context("start the watchdog")?;
    let worker = ReportingWorker {
        name,
        orders,
        revision: first.revision,
        post,
        desks,
        stuck,
        host: host.clone(),
        inbox,
    };
    worker.run()?;
    watchdog.join();
    Ok(())
}

/// A change of an app, as a report of the agent.
pub(super) fn told(worker: &str, change: &AppChange) -> Result<Report, ReportError> {
    report(worker, change.app, change.to.as_str(), &change.why)
}

fn report(worker: &str, app: &str, state: &str, why: &str) -> Result<Report, ReportError> {
    let fields = [("worker", worker), ("app", app), ("state", state), ("why", Report::fitting(why))];
    Report::new("agent", "app", fields)
}

/// Turns that do not end, by app.
type AllStuck = Arc<Mutex<BTreeMap<&'static str, Stuck>>>;

/// A turn that does not end.
#[derive(Debug, Clone, Copy)]
struct Stuck {
    overrun: Overrun,
    /// What the thread had taken of the CPU by then.
    cpu: Duration,
    /// Whether it burns the CPU, as opposed to waiting for something.
    spins: bool,
    /// Whether the server was told.
    told: bool,
}

impl Stuck {
    fn text(&self) -> String {
        let how = match (self.overrun.told, self.spins) {
            (0, _) => "does not end",
            (_, true) => "spins",
            (_, false) => "is blocked",
        };
        format!("a turn {how} since {} s", self.overrun.running.as_secs())
    }
}

/// On the watchdog's thread: a turn is late.
fn noticed(stuck: &Mutex<BTreeMap<&'static str, Stuck>>, overrun: Overrun) {
    let Overrun { app, running, tid, told, .. } = overrun;
    let cpu = thread_cpu(tid);
    let mut stuck = stuck.lock().unwrap_or_else(PoisonError::into_inner);
    // What the thread took in its earlier turns says nothing of this one.
    let before = stuck.get(app).filter(|_| told > 0).copied();
    let spins = before.is_some_and(|before| {
        let wall = running.saturating_sub(before.overrun.running).as_secs_f64();
        cpu.saturating_sub(before.cpu).as_secs_f64() >= SPINNING * wall
    });
    warn!(app, ?running, ?cpu, spins, "a turn does not end");
    if told == 0
        && let Some(tid) = rustix::thread::Pid::from_raw(tid)
    {
        // The others of this worker go first from now on.
        if let Err(error) = rustix::process::setpriority_process(Some(tid), 19) {
            warn!(app, %error, "the app's thread keeps its priority");
        }
    }
    // Once while it is not known what it does, and once when it is.
    let told = told > 1 && before.is_some_and(|before| before.told && before.spins == spins);
    stuck.insert(app, Stuck { overrun, cpu, spins, told });
}

/// CPU time of one thread of this process so far.
fn thread_cpu(tid: i32) -> Duration {
    let text = std::fs::read_to_string(format!("/proc/self/task/{tid}/schedstat")).unwrap_or_default();
    let nanos = text.split_whitespace().next().and_then(|word| word.parse().ok());
    Duration::from_nanos(nanos.unwrap_or(0))
}

struct ReportingWorker {
    name: WorkerName,
    orders: WorkerOrders,
    revision: u64,
    post: Arc<Mutex<Post>>,
    desks: Vec<Desk>,
    stuck: AllStuck,
    host: Host,
    inbox: Inbox,
}

impl ReportingWorker {
    fn run(mut self) -> Result<()> {
        let mut books_due = Instant::now() + BOOKS_EVERY;
        let mut status_due = Instant::now();
        loop {
            let longest = books_due.min(status_due).saturating_duration_since(Instant::now());
            let stop = (self.wait(longest)? && self.obey()) || self.post().outbound.broken();
            self.look_at_the_stuck();
            let hopeless = self.hopeless();
            if let Some((app, why)) = &hopeless {
                error!(
                    app,
                    why,
                    worker = self.name.as_str(),
                    "the worker ends, to be started without the app"
                );
            }
            if stop || hopeless.is_some() {
                self.finish();
                return Ok(());
            }
            let now = Instant::now();
            self.post().outbound.tick();
            if now >= books_due {
                self.post().push_books();
                books_due = now + BOOKS_EVERY;
            }
            if now >= status_due {
                let status = self.status();
                self.post().outbound.push_status(status);
                status_due = now + STATUS_EVERY;
            }
        }
    }

    fn post(&self) -> MutexGuard<'_, Post> {
        lock(&self.post)
    }

    /// Waits for a word of the master; whether there is one.
    fn wait(&self, longest: Duration) -> Result<bool> {
        // An open batch is closed in time.
        let longest =
            longest.min(Duration::from_millis(if self.post().outbound.is_gathering() { 100 } else { 1000 }));
        let mut fds = [PollFd::new(&self.inbox, PollFlags::IN)];
        let longest = Timespec { tv_sec: 0, tv_nsec: i64::from(longest.subsec_nanos()) };
        match poll(&mut fds, Some(&longest)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(!fds[0].revents().is_empty()),
            Err(error) => Err(error).context("wait for the master"),
        }
    }

    /// Takes a word of the master; whether it was to stop.
    fn obey(&mut self) -> bool {
        match self.inbox.next() {
            Order::Stop => return true,
            // What is yielded here is little.
            Order::Shed(_) => {}
            Order::Configure(Configured { revision, documents, resting }) => {
                match AgentSettings::check(&documents, &self.orders.catalog) {
                    Ok(settings) => {
                        self.revision = revision;
                        self.post().outbound.limit(&settings.limits, settings.limits.worker(self.name));
                        for desk in &mut self.desks {
                            desk.configure(document(&settings, desk.app, &resting));
                        }
                    }
                    Err(error) => warn!(%error, revision, "settings refused; those before stay in force"),
                }
            }
        }
        false
    }

    /// Forgets the turns that ended after all, and tells of those that do not.
    fn look_at_the_stuck(&self) {
        let now = self.host.clock.now();
        let mut news = Vec::new();
        let mut stuck = self.stuck.lock().unwrap_or_else(PoisonError::into_inner);
        stuck.retain(|app, stuck| {
            let desk = self.desks.iter().find(|desk| desk.app == *app);
            let running = desk.and_then(|desk| desk.pulse.running_for(now));
            let same_turn = running.is_some_and(|running| running >= stuck.overrun.running);
            if !same_turn {
                news.push((*app, "running", "its turn ended after all".to_owned()));
            } else if !std::mem::replace(&mut stuck.told, true) {
                news.push((*app, STUCK, stuck.text()));
            }
            same_turn
        });
        drop(stuck);
        for (app, state, why) in news {
            self.post().tell(app, state, &why);
        }
    }

    /// An app whose turn only the end of this process ends, and why that must be now.
    fn hopeless(&self) -> Option<(&'static str, &'static str)> {
        let stuck = self.stuck.lock().unwrap_or_else(PoisonError::into_inner);
        stuck.values().find_map(|stuck| {
            let app = stuck.overrun.app;
            let off = self.desks.iter().any(|desk| desk.app == app && !desk.wanted);
            let spins = stuck.spins && stuck.overrun.told >= GIVEN_UP;
            match (off, spins) {
                (true, _) => Some((app, "it is switched off, and its turn does not end")),
                (_, true) => Some((app, "it spins")),
                _ => None,
            }
        })
    }

    fn finish(mut self) {
        self.host.stop.stop();
        let status = self.status();
        for desk in &mut self.desks {
            desk.join(LAST_TURN);
        }
        let mut post = lock(&self.post);
        post.push_books();
        post.outbound.push_status(status);
        post.outbound.drain();
    }

    fn status(&self) -> v1::Status {
        let stuck = self.stuck.lock().unwrap_or_else(PoisonError::into_inner);
        let apps: Vec<v1::AppStatus> = self
            .desks
            .iter()
            .map(|desk| {
                let mut status = super::status::app(self.name, &desk.status());
                if let Some(stuck) = stuck.get(desk.app) {
                    (status.state, status.why) = (STUCK.to_owned(), stuck.text());
                }
                status
            })
            .collect();
        v1::Status {
            r#use: own_use(&format!("worker {}", self.name.as_str())).into_iter().collect(),
            apps,
            configuration_revision: self.revision,
            ..v1::Status::default()
        }
    }
}

fn lock(post: &Mutex<Post>) -> MutexGuard<'_, Post> {
    // An app that panics holds no lock: it is caught before. Whoever panicked, the counts are sound at every step.
    post.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Where the apps' reports become events.
struct Post {
    worker: WorkerName,
    outbound: Outbound,
    /// This process: it tells the reports.
    teller: Arc<Process>,
    host: Host,
    told: u64,
    limited: u64,
}

impl Post {
    fn take(&mut self, report: Report) {
        self.told += 1;
        let event = told_by(&self.teller, report);
        self.outbound.push_event(&event, self.host.clock.now());
    }

    /// Tells a change of an app.
    fn tell(&mut self, app: &str, state: &str, why: &str) {
        info!(app, state, why, "app");
        match report(self.worker.as_str(), app, state, why) {
            Ok(report) => self.take(report),
            Err(error) => error!(%error, "a change of an app cannot be told"),
        }
    }

    fn push_books(&mut self) {
        let mut books = Books::default();
        let (seen, passed) = (self.told + self.limited, self.told);
        if seen > 0 {
            let told = |seen, passed| Counts { seen, passed, ..Counts::default() };
            *books.entry(Stage::Kernel, Kind::Report) = told(seen, seen);
            let sensor = books.entry(Stage::Sensor, Kind::Report);
            *sensor = told(seen, passed);
            if self.limited > 0 {
                sensor.dropped.insert(DropReason::RateLimited, self.limited);
            }
            *books.entry(Stage::Detect, Kind::Report) = told(passed, passed);
        }
        self.outbound.push_books(books);
    }
}

/// What an app's lane hands on.
struct Counter(Arc<Mutex<Post>>);

impl Intake<Report> for Counter {
    fn take(&mut self, _: usize, report: Report) {
        lock(&self.0).take(report);
    }

    fn refused(&mut self, _: usize, _: Report) {
        lock(&self.0).limited += 1;
    }

    fn changed(&mut self, _: usize, change: AppChange) {
        lock(&self.0).tell(change.app, change.to.as_str(), &change.why);
    }
}

/// An app's thread.
struct Desk {
    app: &'static str,
    pulse: Arc<watchfire_app::Pulse>,
    status: Arc<Mutex<AppStatus>>,
    /// What is in force from now on, until the lane takes it: only the newest counts.
    document: Arc<Mutex<Option<Document>>>,
    /// Whether the app is to run.
    wanted: bool,
    /// A byte here wakes the lane.
    bell: UnixStream,
    thread: Option<JoinHandle<()>>,
}

impl Desk {
    fn start(
        kind: &AppKind<Report>,
        document: Document,
        host: &Host,
        post: &Arc<Mutex<Post>>,
    ) -> Result<Self> {
        let (app, wanted) = (kind.name(), document.enabled);
        let lane = Lane::new(host.clone(), LaneSettings::default(), vec![(kind.clone(), document)]);
        let pulse = lane.pulse();
        let first = lane.status().into_iter().next().context("a lane of one app")?;
        let status = Arc::new(Mutex::new(first));
        let document = Arc::default();
        let (bell, theirs) = UnixStream::pair().context("make a bell")?;
        for end in [&bell, &theirs] {
            end.set_nonblocking(true).context("set up a bell")?;
        }
        let (host, counter, shown) = (host.clone(), Counter(post.clone()), status.clone());
        let inbox = Arc::clone(&document);
        let thread = thread::Builder::new()
            .name(app.to_owned())
            .spawn(move || work(lane, &host, counter, &shown, &inbox, &theirs))
            .with_context(|| format!("start the thread of {app}"))?;
        Ok(Desk { app, pulse, status, document, wanted, bell, thread: Some(thread) })
    }

    fn configure(&mut self, document: Document) {
        self.wanted = document.enabled;
        *self.document.lock().unwrap_or_else(PoisonError::into_inner) = Some(document);
        self.ring();
    }

    fn ring(&self) {
        use std::io::Write;
        // Full means that it rings already.
        if let Err(error) = (&self.bell).write(&[1]) {
            tracing::debug!(app = self.app, %error, "bell");
        }
    }

    fn status(&self) -> AppStatus {
        self.status.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn join(&mut self, patience: Duration) {
        self.ring();
        let Some(thread) = self.thread.take() else { return };
        let deadline = Instant::now() + patience;
        while !thread.is_finished() {
            if Instant::now() >= deadline {
                warn!(app = self.app, "the app did not come back; it ends with this process");
                return;
            }
            thread::sleep(Duration::from_millis(5));
        }
        if thread.join().is_err() {
            error!(app = self.app, "the app's thread panicked");
        }
    }
}

/// The loop of an app's thread.
fn work(
    mut lane: Lane<Report>,
    host: &Host,
    mut counter: Counter,
    status: &Mutex<AppStatus>,
    document: &Mutex<Option<Document>>,
    bell: &UnixStream,
) {
    use std::io::Read;
    let app = lane.names().next().unwrap_or_default();
    while !host.stop.stopped() {
        let ready = match lane.wait(Some(bell.as_fd()), LOOK) {
            Ok(ready) => ready,
            Err(error) => {
                error!(app, %error, "the app's thread cannot wait, and ends");
                return;
            }
        };
        if ready.also {
            let (mut bell, mut bytes) = (bell, [0; 16]);
            if let Err(error) = bell.read(&mut bytes) {
                tracing::debug!(app, %error, "bell");
            }
        }
        let document = document.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(document) = document {
            lane.configure(app, document, &mut counter);
        }
        lane.round(&ready, &mut counter);
        if let Some(now) = lane.status().into_iter().next() {
            *status.lock().unwrap_or_else(PoisonError::into_inner) = now;
        }
    }
    lane.stop(&mut counter);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own_tid() -> i32 {
        rustix::thread::gettid().as_raw_nonzero().get()
    }

    fn burn(cpu: Duration) {
        let until = thread_cpu(own_tid()) + cpu;
        while thread_cpu(own_tid()) < until {}
    }

    /// What is told of a turn of this thread at its deadline and at twice that; in between it does `what`.
    fn judged(what: impl FnOnce()) -> bool {
        // Not the test's own thread: it gets the worst priority there is.
        let stuck = AllStuck::default();
        let at = |seconds, told| Overrun {
            app: "app",
            lane: 0,
            tid: own_tid(),
            running: Duration::from_secs(seconds),
            told,
        };
        noticed(&stuck, at(5, 0));
        what();
        noticed(&stuck, at(10, 1));
        let stuck = stuck.lock().unwrap();
        stuck["app"].spins
    }

    #[test]
    fn a_turn_that_waits_does_not_spin_whatever_its_thread_did_before() {
        thread::spawn(|| {
            burn(Duration::from_secs(3));
            assert!(!judged(|| ()));
        })
        .join()
        .unwrap();
    }

    #[test]
    fn a_turn_that_burns_what_its_worker_is_given_spins_even_if_that_is_little() {
        // A fifth of a core over the five seconds between the two.
        thread::spawn(|| assert!(judged(|| burn(Duration::from_secs(1))))).join().unwrap();
    }
}
