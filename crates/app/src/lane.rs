//! Apps that share a thread: they wait together, and take turns.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::time::Timespec;
use watchfire_event::Books;
use watchfire_pace::{BackoffSettings, BreakerSettings, Random};

use crate::catalog::AppKind;
use crate::document::Document;
use crate::resident::{AppChange, AppStatus, Resident, Surroundings};
use crate::sandbox::Host;
use crate::watchdog::Pulse;

/// After so many wakes in a row that came to nothing the lane sleeps before it looks again: a descriptor that is always
/// readable must not become a loop.
const VAIN_WAKES: u32 = 8;
const VAIN_SLEEP: Duration = Duration::from_millis(20);

/// Where the facts of a lane's apps go.
pub trait Intake<F> {
    /// The app at this place of the lane yields a fact.
    fn take(&mut self, place: usize, fact: F);

    /// It yielded one beyond its limit.
    fn refused(&mut self, place: usize, fact: F);

    /// It was started, stopped, or failed.
    fn changed(&mut self, place: usize, change: AppChange);
}

/// How a lane treats its apps.
#[derive(Debug, Clone, Copy)]
pub struct LaneSettings {
    /// Facts in one turn.
    pub room: usize,
    /// Whether all apps have a turn when one of them has: theirs depend on one another.
    pub together: bool,
    /// A turn that takes longer is told.
    pub turn_deadline: Duration,
    /// The waits before an app that failed is started again.
    pub restart: BackoffSettings,
    /// An app that failed so often in a row is parked.
    pub park_after: u32,
    /// For so long.
    pub parked: Duration,
    /// Between two samples of how much an app yields.
    pub sample: Duration,
    /// When an app that yields too much is stopped, and how it comes back.
    pub breaker: BreakerSettings,
}

impl Default for LaneSettings {
    /// Five seconds are an age for a turn. A restart may cost as much as a start, so waits soon grow to minutes.
    fn default() -> Self {
        LaneSettings {
            room: 1024,
            together: false,
            turn_deadline: Duration::from_secs(5),
            restart: BackoffSettings {
                first: Duration::from_secs(1),
                cap: Duration::from_secs(120),
                floor: Duration::from_millis(500),
            },
            park_after: 8,
            parked: Duration::from_secs(900),
            sample: Duration::from_secs(5),
            breaker: BreakerSettings::default(),
        }
    }
}

/// What woke a lane.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ready {
    /// Whether the descriptor that was waited for besides is readable.
    pub also: bool,
    /// The places of the apps with a readable descriptor.
    places: Vec<usize>,
}

/// What a round of turns came to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Round {
    /// Facts yielded by all.
    pub facts: u64,
    /// The places of the apps that have more.
    pub unfinished: Vec<usize>,
}

/// The apps of one thread. That thread calls [`Lane::wait`] and [`Lane::round`] in turn.
pub struct Lane<F> {
    host: Host,
    settings: LaneSettings,
    residents: Vec<Resident<F>>,
    random: Random,
    pulse: Arc<Pulse>,
    /// Whether a descriptor of an app ended the last wait.
    woken: bool,
    vain: u32,
}

impl<F: Send + 'static> Lane<F> {
    /// A lane of these apps, none of which is started before the first round.
    pub fn new(host: Host, settings: LaneSettings, apps: Vec<(AppKind<F>, Document)>) -> Self {
        let now = host.clock.now();
        let pulse = Arc::new(Pulse::new(now, apps.iter().map(|(kind, _)| kind.name()).collect()));
        let residents = apps
            .into_iter()
            .map(|(kind, document)| Resident::new(kind, document, &settings, host.id.seed(), now))
            .collect();
        // Two workers of one host need not wait alike; two lives of one should not either.
        let random = Random::seeded(host.id.seed() ^ u64::from(std::process::id()));
        Lane { host, settings, residents, random, pulse, woken: false, vain: 0 }
    }

    /// What a watchdog looks at.
    pub fn pulse(&self) -> Arc<Pulse> {
        self.pulse.clone()
    }

    /// The apps, by place.
    pub fn names(&self) -> impl Iterator<Item = &'static str> + '_ {
        self.residents.iter().map(Resident::name)
    }

    /// Waits until an app's time has come, a descriptor of an app or `also` is readable, or `longest` has passed.
    ///
    /// # Errors
    /// When the kernel refuses to wait.
    pub fn wait(&mut self, also: Option<BorrowedFd<'_>>, longest: Duration) -> io::Result<Ready> {
        if self.vain >= VAIN_WAKES {
            std::thread::sleep(VAIN_SLEEP.min(longest));
        }
        let now = Instant::now();
        let due = self.residents.iter().filter_map(Resident::due).min();
        let longest = due.map_or(longest, |due| longest.min(due.saturating_duration_since(now)));
        let mut fds = Vec::new();
        let mut owners = Vec::new();
        if let Some(fd) = also {
            fds.push(PollFd::from_borrowed_fd(fd, PollFlags::IN));
        }
        let first = fds.len();
        for (place, resident) in self.residents.iter().enumerate() {
            for fd in resident.descriptors() {
                fds.push(PollFd::from_borrowed_fd(fd, PollFlags::IN));
                owners.push(place);
            }
        }
        match poll(&mut fds, Some(&timespec(longest))) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let readable: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        let mut places: Vec<usize> = owners
            .iter()
            .zip(&readable[first..])
            .filter(|(_, readable)| **readable)
            .map(|(place, _)| *place)
            .collect();
        places.dedup();
        self.woken = !places.is_empty();
        self.host.clock.set(Instant::now());
        Ok(Ready { also: first > 0 && readable[0], places })
    }

    /// Gives a turn to each app whose time has come or whose descriptor is readable, the last place first.
    pub fn round(&mut self, ready: &Ready, intake: &mut dyn Intake<F>) -> Round {
        let now = self.host.clock.now();
        let wanted = |place: usize, resident: &Resident<F>| {
            ready.places.contains(&place) || resident.due().is_some_and(|due| due <= now)
        };
        let all = self.settings.together
            && self
                .residents
                .iter()
                .enumerate()
                .any(|(place, resident)| resident.runs() && wanted(place, resident));
        let mut round = Round::default();
        let places: Vec<usize> = (0..self.residents.len())
            .rev()
            .filter(|place| {
                let resident = &self.residents[*place];
                wanted(*place, resident) || (all && resident.runs())
            })
            .collect();
        for place in places {
            let visit = self.at(place, intake, |resident, around| resident.visit(around));
            round.facts += visit.facts;
            if visit.unfinished {
                round.unfinished.push(place);
            }
        }
        if self.woken {
            let in_vain = round.facts == 0 && round.unfinished.is_empty();
            self.vain = if in_vain { self.vain + 1 } else { 0 };
        }
        round
    }

    /// Gives a turn to every app that runs, and to those whose time has come.
    pub fn round_of_all(&mut self, intake: &mut dyn Intake<F>) -> Round {
        let running = self.residents.iter().enumerate().filter(|(_, resident)| resident.runs());
        let ready = Ready { also: false, places: running.map(|(place, _)| place).collect() };
        self.round(&ready, intake)
    }

    /// Puts another document of an app in force; false when the lane has no such app.
    pub fn configure(&mut self, app: &str, document: Document, intake: &mut dyn Intake<F>) -> bool {
        let Some(place) = self.residents.iter().position(|resident| resident.name() == app) else {
            return false;
        };
        self.at(place, intake, |resident, around| resident.configure(document, around));
        true
    }

    /// The apps' books, earlier lives included.
    pub fn books(&mut self) -> Books {
        let mut books = Books::default();
        for resident in &mut self.residents {
            books.add(&resident.books());
        }
        books
    }

    /// How each app fares, by place.
    pub fn status(&self) -> Vec<AppStatus> {
        self.residents.iter().map(Resident::status).collect()
    }

    /// Ends all apps in order, the last place first.
    pub fn stop(&mut self, intake: &mut dyn Intake<F>) {
        for place in (0..self.residents.len()).rev() {
            self.at(place, intake, |resident, around| resident.stop(around));
        }
    }

    fn at<R>(
        &mut self,
        place: usize,
        intake: &mut dyn Intake<F>,
        step: impl FnOnce(&mut Resident<F>, &mut Surroundings<'_, F>) -> R,
    ) -> R {
        let mut around = Surroundings {
            host: &self.host,
            settings: &self.settings,
            pulse: &self.pulse,
            random: &mut self.random,
            intake,
            place,
        };
        let resident = &mut self.residents[place];
        let span = tracing::info_span!("app", name = resident.name());
        span.in_scope(|| step(resident, &mut around))
    }
}

fn timespec(time: Duration) -> Timespec {
    // A poll may come back up to a millisecond early by rounding; an app that is due is then just polled again.
    Timespec {
        tv_sec: i64::try_from(time.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(time.subsec_nanos()),
    }
}
