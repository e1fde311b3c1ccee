//! One app's life in a lane: started, given turns, caught when it panics, started again after a wait.

use std::any::Any;
use std::os::fd::BorrowedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use watchfire_event::Books;
use watchfire_pace::{Backoff, Breaker, Random, Reading, State, TokenBucket};

use crate::app::{AppError, Next, Part, Taken};
use crate::catalog::{AppKind, Hosted};
use crate::document::Document;
use crate::lane::{Intake, LaneSettings};
use crate::sandbox::{Host, Sandbox, Turn};
use crate::watchdog::Pulse;

/// An app that ran for so long is well: its next failure is its first.
const STEADY: Duration = Duration::from_secs(60);

/// Where an app is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Life {
    /// Its document says not to run.
    Off,
    /// It runs.
    Running,
    /// It failed, and is started again after a wait.
    Waiting,
    /// It failed so often in a row that it is left alone for long.
    Parked,
    /// It yielded too much for too long, and is left alone until its breaker has cooled down.
    Tripped,
    /// This host does not offer what it needs.
    Unavailable,
}

impl Life {
    /// The word used in output.
    pub fn as_str(self) -> &'static str {
        match self {
            Life::Off => "off",
            Life::Running => "running",
            Life::Waiting => "waiting",
            Life::Parked => "parked",
            Life::Tripped => "tripped",
            Life::Unavailable => "unavailable",
        }
    }
}

/// A step in an app's life.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppChange {
    /// The app.
    pub app: &'static str,
    /// Where it is now.
    pub to: Life,
    /// Why.
    pub why: String,
}

/// What is to be said of an app.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppStatus {
    /// The app.
    pub app: &'static str,
    /// Where it is in its life.
    pub life: Life,
    /// Why it does not run; empty when it does.
    pub why: String,
    /// How often it was started, failed, and of these panicked.
    pub starts: u64,
    /// See `starts`.
    pub failures: u64,
    /// See `starts`.
    pub panics: u64,
    /// Facts it yielded.
    pub facts: u64,
    /// Facts dropped for its limit.
    pub limited: u64,
    /// Turns that took longer than they may.
    pub overruns: u64,
    /// Its parts; when it does not run, as they last were.
    pub parts: Vec<Part>,
}

/// What a visit came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Visit {
    pub(crate) facts: u64,
    pub(crate) unfinished: bool,
}

/// One app of a lane.
pub(crate) struct Resident<F> {
    kind: AppKind<F>,
    body: Box<dyn Hosted<F>>,
    document: Document,
    sandbox: Option<Sandbox>,
    limit: Option<TokenBucket>,
    backoff: Backoff,
    breaker: Breaker,
    /// When it was last measured, and how much it had yielded by then.
    sampled: (Instant, u64),
    /// When it is to be started, or wants its next turn; `None`: not by time.
    due: Option<Instant>,
    running_since: Instant,
    /// The books of its earlier lives.
    before: Books,
    status: AppStatus,
}

/// What a resident needs of its lane for a visit.
pub(crate) struct Surroundings<'a, F> {
    pub(crate) host: &'a Host,
    pub(crate) settings: &'a LaneSettings,
    pub(crate) pulse: &'a Pulse,
    pub(crate) random: &'a mut Random,
    pub(crate) intake: &'a mut dyn Intake<F>,
    /// The resident's place in the lane.
    pub(crate) place: usize,
}

impl<F: Send + 'static> Resident<F> {
    pub(crate) fn new(
        kind: AppKind<F>,
        document: Document,
        settings: &LaneSettings,
        seed: u64,
        now: Instant,
    ) -> Self {
        let life = if document.enabled { Life::Waiting } else { Life::Off };
        Resident {
            body: (kind.make)(),
            due: document.enabled.then_some(now),
            document,
            sandbox: None,
            limit: kind.limit.map(|limit| TokenBucket::new(limit.rate, limit.burst, now)),
            backoff: Backoff::new(settings.restart),
            breaker: Breaker::new(settings.breaker, seed).expect("a lane's settings are in their range"),
            sampled: (now, 0),
            running_since: now,
            before: Books::default(),
            status: AppStatus {
                app: kind.name,
                life,
                why: String::new(),
                starts: 0,
                failures: 0,
                panics: 0,
                facts: 0,
                limited: 0,
                overruns: 0,
                parts: Vec::new(),
            },
            kind,
        }
    }

    pub(crate) fn name(&self) -> &'static str {
        self.kind.name
    }

    pub(crate) fn runs(&self) -> bool {
        self.status.life == Life::Running
    }

    /// When it wants to be visited; `None`: not by time.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.due
    }

    pub(crate) fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        if self.runs() { self.body.descriptors() } else { Vec::new() }
    }

    pub(crate) fn status(&self) -> AppStatus {
        self.status.clone()
    }

    /// Its books, earlier lives included.
    pub(crate) fn books(&mut self) -> Books {
        let mut books = self.before.clone();
        if self.runs() {
            books.add(&self.own_books());
        }
        books
    }

    /// Starts it, or gives it a turn.
    pub(crate) fn visit(&mut self, around: &mut Surroundings<'_, F>) -> Visit {
        if self.runs() { self.turn(around) } else { self.start(around) }
    }

    /// Puts another document in force.
    pub(crate) fn configure(&mut self, document: Document, around: &mut Surroundings<'_, F>) {
        if document == self.document {
            return;
        }
        let same_settings = document.settings == self.document.settings;
        self.document = document;
        if !self.document.enabled {
            self.stop(around);
            self.due = None;
            self.change(Life::Off, "its document says not to run".to_owned(), around);
            return;
        }
        if self.runs() && same_settings {
            return;
        }
        if self.runs() {
            let document = &self.document;
            let body = &mut self.body;
            let taken = guarded(around.pulse, around.place, around.host, || body.reconfigure(document));
            match taken.outcome {
                Ok(Taken::InPlace) => return,
                Ok(Taken::ByRestart) => self.stop(around),
                Err(failure) => {
                    self.fail(failure, around);
                    return;
                }
            }
        }
        self.backoff.reset();
        // Someone has just looked at it.
        let now = around.host.clock.now();
        if let Some(change) = self.breaker.reset(now, "other settings") {
            tracing::info!(app = self.kind.name, %change, "breaker");
        }
        self.start(around);
    }

    /// Ends it in order, whatever its document says.
    pub(crate) fn stop(&mut self, around: &mut Surroundings<'_, F>) {
        if !self.runs() {
            return;
        }
        let told = self.call(around, |body, turn| body.stop(turn));
        if let Err(failure) = told.outcome {
            tracing::warn!(app = self.kind.name, error = failure.text(), "the app did not stop well");
        }
        self.put_away();
        self.status.life = Life::Waiting;
    }

    fn start(&mut self, around: &mut Surroundings<'_, F>) -> Visit {
        if !self.document.enabled {
            self.due = None;
            return Visit::default();
        }
        let now = around.host.clock.now();
        let ticked = self.breaker.tick(now);
        if let Some(left) = self.breaker.cool_down_left(now) {
            self.due = Some(now + left);
            return Visit::default();
        }
        let why = ticked.map(|change| change.to_string()).unwrap_or_default();
        let sandbox = Sandbox::new(self.kind.name, around.host);
        let (body, document) = (&mut self.body, &self.document);
        let started = guarded(around.pulse, around.place, around.host, || body.start(document, &sandbox));
        self.status.starts += 1;
        match started.outcome {
            Ok(()) => {
                self.sandbox = Some(sandbox);
                self.running_since = around.host.clock.now();
                self.due = Some(self.running_since);
                self.sampled = (self.running_since, self.yielded());
                self.status.parts = self.body.parts();
                self.change(Life::Running, why, around);
            }
            Err(failure) => self.fail(failure, around),
        }
        Visit::default()
    }

    fn turn(&mut self, around: &mut Surroundings<'_, F>) -> Visit {
        let told = self.call(around, |body, turn| body.turn(turn));
        let mut visit = Visit { facts: told.emitted, unfinished: false };
        match told.outcome {
            Ok(Next::Again) => visit.unfinished = true,
            Ok(Next::After(wait)) => self.due = Some(around.host.clock.now() + wait),
            Ok(Next::WhenReadable) => self.due = None,
            Err(failure) => self.fail(failure, around),
        }
        if visit.unfinished {
            self.due = Some(around.host.clock.now());
        }
        if told.took >= around.settings.turn_deadline {
            self.status.overruns += 1;
            tracing::warn!(app = self.kind.name, took = ?told.took, "a turn took too long");
        }
        if self.runs() {
            self.measure(around);
        }
        visit
    }

    /// Facts so far, those beyond its limit too.
    fn yielded(&self) -> u64 {
        self.status.facts + self.status.limited
    }

    /// Has its breaker judge how much it yields; one that trips ends it in order.
    fn measure(&mut self, around: &mut Surroundings<'_, F>) {
        let now = around.host.clock.now();
        let (since, before) = self.sampled;
        let passed = now.saturating_duration_since(since);
        if passed < around.settings.sample {
            return;
        }
        self.sampled = (now, self.yielded());
        let reading = Reading {
            measure: "facts",
            value: (self.yielded() - before) as f64 / passed.as_secs_f64(),
            limit: f64::from(self.document.most_per_s),
            unit: "/s",
        };
        let Some(change) = self.breaker.observe(now, reading) else { return };
        if change.to != State::Open {
            self.change(Life::Running, change.to_string(), around);
            return;
        }
        self.stop(around);
        self.due = Some(now + change.cool_down.unwrap_or_default());
        self.change(Life::Tripped, change.to_string(), around);
    }

    fn call<R>(
        &mut self,
        around: &mut Surroundings<'_, F>,
        step: impl FnOnce(&mut dyn Hosted<F>, &mut Turn<'_, F>) -> Result<R, AppError>,
    ) -> Told<R> {
        let Some(sandbox) = &self.sandbox else {
            return Told::failed("the app is not started".into());
        };
        let mut turn = Turn {
            sandbox,
            limit: self.limit.as_mut(),
            intake: around.intake,
            app: around.place,
            room: around.settings.room,
            emitted: 0,
            refused: 0,
        };
        let body = self.body.as_mut();
        let mut told = guarded(around.pulse, around.place, around.host, || step(body, &mut turn));
        told.emitted = turn.emitted;
        self.status.facts += turn.emitted;
        self.status.limited += turn.refused;
        told
    }

    fn fail(&mut self, failure: Failure, around: &mut Surroundings<'_, F>) {
        let now = around.host.clock.now();
        if self.runs() {
            if now.saturating_duration_since(self.running_since) >= STEADY {
                self.backoff.reset();
            }
            self.put_away();
        }
        self.status.failures += 1;
        self.status.panics += u64::from(matches!(failure, Failure::Panic(_)));
        let why = failure.text();
        if let Failure::Error(AppError::Unavailable { parts, .. }) = failure {
            self.status.parts = parts;
            self.due = None;
            self.change(Life::Unavailable, why, around);
            return;
        }
        let wait = self.backoff.next_wait(around.random);
        let parked = self.backoff.failures() >= around.settings.park_after;
        let (life, wait) =
            if parked { (Life::Parked, around.settings.parked) } else { (Life::Waiting, wait) };
        self.due = Some(now + wait);
        self.change(life, why, around);
    }

    /// Keeps its books, and drops it.
    fn put_away(&mut self) {
        let books = self.own_books();
        self.before.add(&books);
        let body = &mut self.body;
        // What panicked in its turn may panic again in its drop.
        if catch_unwind(AssertUnwindSafe(|| body.discard())).is_err() {
            tracing::error!(app = self.kind.name, "the app panicked as it was dropped");
            self.body = (self.kind.make)();
        }
        self.sandbox = None;
    }

    fn own_books(&mut self) -> Books {
        let body = &mut self.body;
        catch_unwind(AssertUnwindSafe(|| body.books())).unwrap_or_else(|_| {
            tracing::error!(
                app = self.kind.name,
                "the app panicked over its books; its last counts are missing"
            );
            Books::default()
        })
    }

    fn change(&mut self, to: Life, why: String, around: &mut Surroundings<'_, F>) {
        self.status.life = to;
        self.status.why.clone_from(&why);
        around.intake.changed(around.place, AppChange { app: self.kind.name, to, why });
    }
}

/// Why an app's call did not come to its end.
enum Failure {
    Error(AppError),
    Panic(String),
}

impl Failure {
    fn text(&self) -> String {
        match self {
            Failure::Error(error) => error.text(),
            Failure::Panic(said) => format!("panicked: {said}"),
        }
    }
}

/// How a call into an app went.
struct Told<R> {
    outcome: Result<R, Failure>,
    took: Duration,
    emitted: u64,
}

impl<R> Told<R> {
    fn failed(error: AppError) -> Self {
        Told { outcome: Err(Failure::Error(error)), took: Duration::ZERO, emitted: 0 }
    }
}

/// Calls into an app's code: under the watchdog's eye, and with its panics caught.
fn guarded<R>(
    pulse: &Pulse,
    place: usize,
    host: &Host,
    step: impl FnOnce() -> Result<R, AppError>,
) -> Told<R> {
    let begun = host.clock.now();
    pulse.begin(place, begun);
    // What a panic may leave half changed is the app's own, and that is dropped.
    let outcome = catch_unwind(AssertUnwindSafe(step));
    pulse.end();
    let outcome = match outcome {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(Failure::Error(error)),
        Err(payload) => Err(Failure::Panic(said(payload.as_ref()))),
    };
    Told { outcome, took: host.clock.now().saturating_duration_since(begun), emitted: 0 }
}

fn said(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().copied();
    let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("no message").chars().take(500).collect()
}
