//! Apps that behave and apps that do not, in one lane.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use serde_json::json;
use watchfire_app::{
    App, AppChange, AppError, AppKind, Clock, Document, Host, Intake, Lane, LaneSettings, Life, Limit, Next,
    NoSettings, OutOfRange, Sandbox, Settings, Taken, Turn, within,
};
use watchfire_event::{Books, HostId, Kind, Stage};
use watchfire_pace::{BackoffSettings, BreakerSettings, Rate, RetryBudget, Stop};

type Fact = (&'static str, u64);

/// Yields one fact in each turn, and counts it in its books.
struct Counter {
    step: u64,
    given: u64,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct CounterSettings {
    step: u64,
}

impl Default for CounterSettings {
    fn default() -> Self {
        CounterSettings { step: 1 }
    }
}

impl Settings for CounterSettings {
    fn check(&self) -> Result<(), OutOfRange> {
        within("step", self.step, 1..=9, "1 to 9")
    }
}

impl App for Counter {
    const NAME: &'static str = "counter";
    type Settings = CounterSettings;
    type Fact = Fact;

    fn start(settings: CounterSettings, _: &Sandbox) -> Result<Self, AppError> {
        Ok(Counter { step: settings.step, given: 0 })
    }

    fn turn(&mut self, turn: &mut Turn<'_, Fact>) -> Result<Next, AppError> {
        self.given += 1;
        turn.emit(("counter", self.step));
        Ok(Next::After(Duration::ZERO))
    }

    fn reconfigure(&mut self, settings: &CounterSettings) -> Result<Taken, AppError> {
        self.step = settings.step;
        Ok(Taken::InPlace)
    }

    fn stop(&mut self, turn: &mut Turn<'_, Fact>) -> Result<(), AppError> {
        self.given += 1;
        turn.emit(("last words", 0));
        Ok(())
    }

    fn books(&mut self) -> Books {
        let mut books = Books::default();
        books.entry(Stage::Kernel, Kind::Exec).seen = self.given;
        books
    }
}

/// Yields a fact in its first turn, and panics in its second.
struct Panics(Counter);

impl App for Panics {
    const NAME: &'static str = "panics";
    type Settings = NoSettings;
    type Fact = Fact;

    fn start(_: NoSettings, _: &Sandbox) -> Result<Self, AppError> {
        Ok(Panics(Counter { step: 1, given: 0 }))
    }

    fn turn(&mut self, turn: &mut Turn<'_, Fact>) -> Result<Next, AppError> {
        assert_eq!(self.0.given, 0, "second turn");
        self.0.turn(turn)
    }

    fn books(&mut self) -> Books {
        self.0.books()
    }
}

/// Its drop panics too.
impl Drop for Panics {
    fn drop(&mut self) {
        assert_eq!(self.0.given, 0, "dropped after a turn");
    }
}

struct Absent;

impl App for Absent {
    const NAME: &'static str = "absent";
    type Settings = NoSettings;
    type Fact = Fact;

    fn start(_: NoSettings, _: &Sandbox) -> Result<Self, AppError> {
        Err(AppError::Unavailable { why: "this kernel has no such thing".to_owned(), parts: Vec::new() })
    }

    fn turn(&mut self, _: &mut Turn<'_, Fact>) -> Result<Next, AppError> {
        unreachable!("never started")
    }
}

/// Reads bytes when there are some.
struct Reader(UnixStream);

static READER_END: Mutex<Option<UnixStream>> = Mutex::new(None);

impl App for Reader {
    const NAME: &'static str = "reader";
    type Settings = NoSettings;
    type Fact = Fact;

    fn start(_: NoSettings, _: &Sandbox) -> Result<Self, AppError> {
        let end =
            READER_END.lock().expect("no test panics with it").take().ok_or("no socket was left here")?;
        end.set_nonblocking(true)?;
        Ok(Reader(end))
    }

    fn turn(&mut self, turn: &mut Turn<'_, Fact>) -> Result<Next, AppError> {
        let mut bytes = [0; 16];
        if let Ok(count) = self.0.read(&mut bytes) {
            turn.emit(("reader", count as u64));
        }
        Ok(Next::WhenReadable)
    }

    fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        vec![self.0.as_fd()]
    }
}

#[derive(Default)]
struct Heard {
    facts: BTreeMap<&'static str, Vec<u64>>,
    refused: u64,
    changes: Vec<AppChange>,
}

impl Intake<Fact> for Heard {
    fn take(&mut self, _: usize, (app, value): Fact) {
        self.facts.entry(app).or_default().push(value);
    }

    fn refused(&mut self, _: usize, _: Fact) {
        self.refused += 1;
    }

    fn changed(&mut self, _: usize, change: AppChange) {
        self.changes.push(change);
    }
}

impl Heard {
    fn lives(&self, app: &str) -> Vec<Life> {
        self.changes.iter().filter(|change| change.app == app).map(|change| change.to).collect()
    }

    fn count(&self, app: &str) -> usize {
        self.facts.get(app).map_or(0, Vec::len)
    }
}

fn host() -> Host {
    let now = Instant::now();
    Host {
        id: HostId([7; 16]),
        clock: Clock::new(now),
        stop: Stop::new(),
        retries: Arc::new(RetryBudget::per_minute(10, now)),
    }
}

fn quick() -> LaneSettings {
    let millisecond = Duration::from_millis(1);
    LaneSettings {
        restart: BackoffSettings { first: millisecond, cap: millisecond, floor: millisecond },
        park_after: 4,
        ..LaneSettings::default()
    }
}

fn lane(kinds: Vec<AppKind<Fact>>) -> Lane<Fact> {
    let document =
        |kind: &AppKind<Fact>| Document::read(kind.name(), None, true).expect("no document is a good one");
    let apps = kinds.into_iter().map(|kind| (kind.clone(), document(&kind))).collect();
    Lane::new(host(), quick(), apps)
}

fn rounds(lane: &mut Lane<Fact>, taken: &mut Heard, until: impl Fn(&Heard) -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !until(taken) {
        assert!(Instant::now() < deadline, "{:?}", taken.changes);
        let ready = lane.wait(None, Duration::from_millis(5)).expect("the kernel lets it wait");
        lane.round(&ready, taken);
    }
}

#[test]
fn an_app_that_panics_is_restarted_alone_then_parked_and_the_others_lose_no_turn() {
    let mut lane = lane(vec![AppKind::of::<Counter>(), AppKind::of::<Panics>()]);
    let mut taken = Heard::default();
    rounds(&mut lane, &mut taken, |taken| taken.lives("panics").contains(&Life::Parked));
    let lives = taken.lives("panics");
    assert_eq!(lives[..2], [Life::Running, Life::Waiting]);
    assert_eq!(lives.iter().filter(|life| **life == Life::Running).count(), 4);
    assert_eq!(taken.lives("counter"), [Life::Running]);
    let status = &lane.status()[1];
    assert_eq!((status.starts, status.failures, status.panics, status.life), (4, 4, 4, Life::Parked));
    assert!(status.why.starts_with("panicked: ") && status.why.contains("second turn"), "{}", status.why);
    // What it counted in lives that ended is in its books still.
    let given = (taken.count("counter") + taken.count("panics")) as u64;
    assert_eq!(lane.books().get(Stage::Kernel, Kind::Exec).unwrap().seen, given);
}

#[test]
fn what_a_host_does_not_offer_is_not_asked_for_again_until_the_document_changes() {
    let mut lane = lane(vec![AppKind::of::<Counter>(), AppKind::of::<Absent>()]);
    let mut taken = Heard::default();
    rounds(&mut lane, &mut taken, |taken| taken.count("counter") > 100);
    assert_eq!(taken.lives("absent"), [Life::Unavailable]);
    assert_eq!(lane.status()[1].why, "this kernel has no such thing");
}

#[test]
fn documents_switch_apps_off_and_on_and_change_them_while_they_run() {
    let mut lane = lane(vec![AppKind::of::<Counter>()]);
    let mut taken = Heard::default();
    rounds(&mut lane, &mut taken, |taken| taken.count("counter") > 3);
    let document = |json| Document::read("counter", Some(&json), true).unwrap();
    assert!(lane.configure("counter", document(json!({"step": 5})), &mut taken));
    let before = taken.count("counter");
    rounds(&mut lane, &mut taken, |taken| taken.count("counter") > before);
    assert_eq!(taken.facts["counter"].last(), Some(&5));
    assert_eq!(taken.lives("counter"), [Life::Running], "changed in place");

    lane.configure("counter", document(json!({"enabled": false})), &mut taken);
    assert_eq!((taken.lives("counter").last(), taken.count("last words")), (Some(&Life::Off), 1));
    let before = taken.count("counter");
    let ready = lane.wait(None, Duration::from_millis(5)).unwrap();
    lane.round(&ready, &mut taken);
    assert_eq!(taken.count("counter"), before, "off is off");

    lane.configure("counter", document(json!({})), &mut taken);
    rounds(&mut lane, &mut taken, |taken| taken.count("counter") > before);
    assert_eq!(taken.facts["counter"].last(), Some(&1));
    assert!(!lane.configure("no such app", document(json!({})), &mut taken));
}

#[test]
fn a_readable_descriptor_gives_a_turn_and_a_start_that_failed_is_tried_again() {
    let mut lane = lane(vec![AppKind::of::<Reader>()]);
    let mut taken = Heard::default();
    rounds(&mut lane, &mut taken, |taken| taken.lives("reader").contains(&Life::Waiting));
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    *READER_END.lock().unwrap() = Some(theirs);
    rounds(&mut lane, &mut taken, |taken| taken.lives("reader").last() == Some(&Life::Running));
    ours.write_all(b"four").unwrap();
    rounds(&mut lane, &mut taken, |taken| taken.count("reader") > 0);
    assert_eq!(taken.facts["reader"], [4]);
}

#[test]
fn beyond_its_limit_facts_are_dropped_and_counted() {
    let limit = Limit { rate: Rate::per_minute(1), burst: 5 };
    let mut lane = lane(vec![AppKind::of::<Counter>().limited(limit)]);
    let mut taken = Heard::default();
    rounds(&mut lane, &mut taken, |taken| taken.refused > 20);
    let status = &lane.status()[0];
    assert_eq!(status.facts, taken.count("counter") as u64);
    assert_eq!(status.limited, taken.refused);
    assert!((5..=7).contains(&status.facts), "{}", status.facts);
}

#[test]
fn an_app_that_yields_too_much_for_too_long_is_stopped_in_order_and_comes_back_on_probation() {
    let kinds = [AppKind::of::<Counter>(), AppKind::of::<Absent>()];
    let modest = Document::read("counter", Some(&json!({"most_per_s": 10})), true).unwrap();
    let other = Document::read("absent", None, true).unwrap();
    let second = Duration::from_secs(1);
    let breaker = BreakerSettings {
        samples: 3,
        cool_down: second,
        cool_down_longest: second,
        ..BreakerSettings::default()
    };
    let settings = LaneSettings { sample: Duration::from_millis(20), breaker, ..quick() };
    let apps = kinds.into_iter().zip([modest, other]).collect();
    let mut lane = Lane::new(host(), settings, apps);
    let mut taken = Heard::default();
    rounds(&mut lane, &mut taken, |taken| taken.lives("counter").contains(&Life::Tripped));
    let tripped = taken.changes.iter().find(|change| change.to == Life::Tripped).unwrap().clone();
    assert!(tripped.why.contains("facts") && tripped.why.contains("limit 10 /s"), "{}", tripped.why);
    assert_eq!(taken.count("last words"), 1, "stopped in order");
    let before = taken.count("counter");
    let ready = lane.wait(None, Duration::from_millis(5)).unwrap();
    lane.round(&ready, &mut taken);
    assert_eq!(taken.count("counter"), before, "it rests");
    rounds(&mut lane, &mut taken, |taken| taken.lives("counter").last() == Some(&Life::Running));
    assert!(taken.changes.last().unwrap().why.contains("half-open"), "{:?}", taken.changes.last());
}

#[test]
fn a_stop_lets_each_app_say_its_last_words() {
    let mut lane = lane(vec![AppKind::of::<Counter>()]);
    let mut taken = Heard::default();
    rounds(&mut lane, &mut taken, |taken| taken.count("counter") > 0);
    lane.stop(&mut taken);
    assert_eq!(taken.count("last words"), 1);
    let given = (taken.count("counter") + 1) as u64;
    assert_eq!(lane.books().get(Stage::Kernel, Kind::Exec).unwrap().seen, given);
}

#[test]
fn an_unknown_key_or_a_value_out_of_range_never_reaches_the_app() {
    let kind = AppKind::of::<Counter>();
    assert_eq!(
        kind.check(Some(&json!({"step": 3}))).unwrap(),
        json!({"enabled": true, "most_per_s": 100_000, "step": 3})
    );
    assert_eq!(kind.check(None).unwrap(), json!({"enabled": true, "most_per_s": 100_000, "step": 1}));
    let error = kind.check(Some(&json!({"step": 10}))).unwrap_err();
    assert_eq!(error.to_string(), "counter.step = 10: allowed is 1 to 9");
}
