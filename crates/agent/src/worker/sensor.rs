//! The sensor worker: its apps take turns on one thread, and what they saw goes through the pipeline.
//!
//! The kernel's rings are the queue in front of it; the outbound queue behind it never makes it wait.

use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tracing::{error, info, warn};
use watchfire_app::{
    AppChange, AppKind, Clock, Document, Host, Intake, Lane, LaneSettings, Life, Overrun, Part, PartState,
    Ready, Watchdog,
};
use watchfire_event::{HostId, Sighting};
use watchfire_pace::{RetryBudget, Stop};
use watchfire_wire::v1;

use super::WorkerOrders;
use super::inbox::{Configured, Inbox, Order};
use super::outbound::{LastWords, Outbound};
use super::pipeline::Pipeline;
use crate::apps::PROCESSES;
use crate::catalog::Catalog;
use crate::own_use::own_use;
use crate::settings::AgentSettings;
use crate::workers::{STUCK, WorkerName};

const BOOKS_EVERY: Duration = Duration::from_secs(1);
const STATUS_EVERY: Duration = Duration::from_secs(5);
/// A turn that was told so often has run for eight deadlines: nothing more will come of this worker.
const HOPELESS: u32 = 3;
/// The last words of such a worker have this long to be heard.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// The worker's exit status when it gives itself up over a turn that does not end.
const GIVEN_UP: i32 = 70;
/// All apps together may try again so often in a minute.
const RETRIES: u32 = 60;

/// What the apps of a worker share.
pub(super) fn host(id: HostId) -> Host {
    let now = Instant::now();
    Host {
        id,
        clock: Clock::new(now),
        stop: Stop::new(),
        retries: Arc::new(RetryBudget::per_minute(RETRIES, now)),
    }
}

/// The document of an app; one that rests for now counts as switched off.
pub(super) fn document(settings: &AgentSettings, app: &str, resting: &[String]) -> Document {
    let Some(mut document) = settings.document(app).cloned() else {
        let none = serde_json::Value::Object(serde_json::Map::new());
        return Document { enabled: false, ..Document::switched_on(none) };
    };
    document.enabled &= !resting.iter().any(|resting| resting == app);
    document
}

/// Runs until the master closes its end of `link`.
pub(super) fn run(orders: WorkerOrders, inbox: Inbox, first: Configured, link: UnixStream) -> Result<()> {
    let settings =
        AgentSettings::check(&first.documents, &orders.catalog).context("the master's settings")?;
    warn_unless_root();
    let host = host(orders.stream.host);
    let outbound = Outbound::start(link, &settings.limits, &settings.limits.sensor)
        .context("start the outbound thread")?;
    let lane = lane(&orders.catalog.sensor, &settings, &first.resting, &host);
    let deadline = LaneSettings::default().turn_deadline;
    let (pulses, last_words) = (vec![lane.pulse()], outbound.last_words());
    let watchdog = Watchdog::start(host.clock.clone(), pulses, deadline, host.stop.clone(), move |late| {
        overrun(late, &last_words);
    })
    .context("start the watchdog")?;
    let pipeline = Pipeline::new(&settings, orders.stream, host.clock.clone(), outbound);
    let worker = SensorWorker { catalog: orders.catalog, revision: first.revision, lane, pipeline, inbox };
    worker.run()?;
    host.stop.stop();
    watchdog.join();
    Ok(())
}

/// What the sources of this host are: each is started, asked, and given back.
pub(crate) fn try_sources(catalog: &Catalog, settings: &AgentSettings) -> Vec<Part> {
    warn_unless_root();
    // Which host it is matters to waits alone, and there are none.
    let host = host(HostId([0; 16]));
    let mut lane = lane(&catalog.sensor, settings, &[], &host);
    lane.round(&Ready::default(), &mut Ignored);
    let parts = lane.status().into_iter().flat_map(|app| app.parts).collect();
    lane.stop(&mut Ignored);
    parts
}

/// Whether some source of processes is in use.
pub(crate) fn sees_processes(parts: &[Part]) -> bool {
    parts.iter().any(|part| part.state == PartState::Active && part.gives == PROCESSES)
}

fn warn_unless_root() {
    if !rustix::process::geteuid().is_root() {
        warn!("not running as root: eBPF, audit and secrets need it; `watchfire sources` tells what is left");
    }
}

fn lane(
    kinds: &[AppKind<Sighting>],
    settings: &AgentSettings,
    resting: &[String],
    host: &Host,
) -> Lane<Sighting> {
    let apps = kinds.iter().map(|kind| (kind.clone(), document(settings, kind.name(), resting)));
    // What one source saw is resolved with what the source of processes saw before.
    let together = LaneSettings { together: true, ..LaneSettings::default() };
    Lane::new(host.clone(), together, apps.collect())
}

/// The sources share a thread, so that one which hangs holds up all: after a while the worker gives up, names the one, and the
/// master starts another worker without it.
fn overrun(overrun: Overrun, last_words: &LastWords) {
    let Overrun { app, running, told, .. } = overrun;
    error!(app, ?running, "a turn does not end; nothing else is seen meanwhile");
    if told < HOPELESS {
        return;
    }
    error!(app, "the sensor worker gives itself up");
    let stuck = v1::AppStatus {
        worker: WorkerName::Sensor.as_str().to_owned(),
        app: app.to_owned(),
        state: STUCK.to_owned(),
        why: format!("a turn does not end since {} s", running.as_secs()),
        ..v1::AppStatus::default()
    };
    last_words.say(v1::Status { apps: vec![stuck], ..v1::Status::default() }, LAST_WORDS);
    std::process::exit(GIVEN_UP);
}

struct SensorWorker {
    catalog: Catalog,
    revision: u64,
    lane: Lane<Sighting>,
    pipeline: Pipeline,
    inbox: Inbox,
}

impl SensorWorker {
    fn run(mut self) -> Result<()> {
        let mut books_due = Instant::now();
        let mut status_due = books_due;
        loop {
            let longest = books_due.min(status_due).saturating_duration_since(Instant::now());
            let ready = self.lane.wait(Some(self.inbox.as_fd()), longest).context("wait for the sources")?;
            let stop = (ready.also && self.obey()) || self.pipeline.outbound.broken();
            let now = Instant::now();
            if stop {
                self.finish();
                return Ok(());
            }
            // What a ring holds without having announced it is taken before the books are made.
            let books = now >= books_due;
            let round = if books {
                self.lane.round_of_all(&mut self.pipeline)
            } else {
                self.lane.round(&ready, &mut self.pipeline)
            };
            self.pipeline.settle(&round);
            if books {
                self.push_books();
                books_due = now + BOOKS_EVERY;
            }
            if now >= status_due {
                self.pipeline.outbound.push_status(self.status());
                status_due = now + STATUS_EVERY;
            }
        }
    }

    /// Takes a word of the master; whether it was to stop.
    fn obey(&mut self) -> bool {
        match self.inbox.next() {
            Order::Stop => return true,
            Order::Shed(kinds) => {
                let words: Vec<&str> = kinds.iter().map(|kind| kind.as_str()).collect();
                info!(?words, "kinds of events given up for now");
                self.pipeline.shed(kinds);
            }
            Order::Configure(Configured { revision, documents, resting }) => {
                match AgentSettings::check(&documents, &self.catalog) {
                    Ok(settings) => {
                        self.revision = revision;
                        self.configure(&settings, &resting);
                    }
                    Err(error) => warn!(%error, revision, "settings refused; those before stay in force"),
                }
            }
        }
        false
    }

    fn configure(&mut self, settings: &AgentSettings, resting: &[String]) {
        self.pipeline.configure(settings);
        let names: Vec<&str> = self.lane.names().collect();
        for name in names {
            self.lane.configure(name, document(settings, name, resting), &mut self.pipeline);
        }
        self.pipeline.outbound.push_status(self.status());
    }

    fn finish(mut self) {
        self.lane.stop(&mut self.pipeline);
        self.pipeline.settle(&watchfire_app::Round::default());
        self.push_books();
        self.pipeline.outbound.push_status(self.status());
        self.pipeline.outbound.finish();
    }

    fn push_books(&mut self) {
        let books = self.pipeline.books(self.lane.books());
        self.pipeline.outbound.push_books(books);
    }

    fn status(&self) -> v1::Status {
        let apps = self.lane.status();
        let parts: Vec<Part> = apps.iter().flat_map(|app| app.parts.clone()).collect();
        let running: Vec<Part> =
            apps.iter().filter(|app| app.life == Life::Running).flat_map(|app| app.parts.clone()).collect();
        let mut status = v1::Status {
            sensors_attached: sees_processes(&running),
            sources: parts.iter().map(super::status::source).collect(),
            r#use: own_use("worker sensor").into_iter().collect(),
            apps: apps.iter().map(|app| super::status::app(WorkerName::Sensor, app)).collect(),
            configuration_revision: self.revision,
            ..v1::Status::default()
        };
        self.pipeline.tell(&mut status);
        status
    }
}

/// Takes nothing.
struct Ignored;

impl Intake<Sighting> for Ignored {
    fn take(&mut self, _: usize, _: Sighting) {}

    fn refused(&mut self, _: usize, _: Sighting) {}

    fn changed(&mut self, _: usize, _: AppChange) {}
}
