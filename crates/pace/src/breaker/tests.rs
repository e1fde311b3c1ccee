use proptest::prelude::*;

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn reading(value: f64) -> Reading {
    Reading { measure: "cpu", value, limit: 80.0, unit: "%" }
}

const BAD: f64 = 80.0;
const GOOD: f64 = 79.9;

/// A breaker with a clock that goes on by a second with each sample.
struct Bench {
    breaker: Breaker,
    now: Instant,
}

impl Bench {
    fn new(settings: BreakerSettings) -> Self {
        Bench { breaker: Breaker::new(settings, 42).unwrap(), now: Instant::now() }
    }

    fn sample(&mut self, value: f64) -> Option<Change> {
        self.now += SECOND;
        self.breaker.observe(self.now, reading(value))
    }

    fn samples(&mut self, value: f64, times: u32) -> Vec<Change> {
        (0..times).filter_map(|_| self.sample(value)).collect()
    }

    /// Trips it from closed or half-open; the change that opened it.
    fn trip(&mut self) -> Change {
        let bad = if self.breaker.state() == State::HalfOpen {
            self.breaker.settings.probation_bad
        } else {
            self.breaker.settings.samples
        };
        let change = self.samples(BAD, bad).pop().expect("so many bad samples change something");
        assert_eq!(change.to, State::Open);
        change
    }

    fn cool_down(&mut self) -> Change {
        self.now += self.breaker.cool_down_left(self.now).expect("it is open");
        self.breaker.tick(self.now).expect("the cool-down is over")
    }
}

#[test]
fn it_is_strained_half_way_to_the_trip_and_the_figures_stand_in_each_change() {
    let mut bench = Bench::new(BreakerSettings::default());
    let changes = bench.samples(92.5, 6);
    let told: Vec<_> = changes.iter().map(|change| (change.word(), change.from, change.to)).collect();
    let expected = [("strained", State::Closed, State::Strained), ("tripped", State::Strained, State::Open)];
    assert_eq!(told, expected);
    let cause = Cause::Readings { measure: "cpu", value: 92.5, limit: 80.0, unit: "%", samples: 6 };
    assert_eq!((&changes[1].cause, changes[1].at, changes[1].trips), (&cause, bench.now, 1));
}

#[test]
fn as_many_good_samples_as_it_took_to_strain_it_relieve_it() {
    let mut bench = Bench::new(BreakerSettings::default());
    assert_eq!(bench.samples(BAD, 5).len(), 1);
    assert!(bench.samples(GOOD, 2).is_empty());
    assert!(bench.samples(BAD, 5).is_empty(), "samples in a row begin anew after a good one");
    let relieved = bench.samples(GOOD, 3).pop().unwrap();
    assert_eq!((relieved.word(), relieved.to), ("relieved", State::Closed));
}

#[test]
fn a_spike_now_and_then_never_trips_it() {
    let mut bench = Bench::new(BreakerSettings::default());
    let changes: Vec<_> =
        (0..1000).filter_map(|n| bench.sample(if n % 3 == 0 { GOOD } else { BAD })).collect();
    assert!(changes.is_empty(), "{changes:?}");
}

#[test]
fn a_reading_that_is_no_number_is_neither_good_nor_bad() {
    let mut bench = Bench::new(BreakerSettings::default());
    bench.samples(BAD, 5);
    assert!(bench.samples(f64::NAN, 10).is_empty());
    assert_eq!(bench.sample(BAD).unwrap().to, State::Open);
    bench.cool_down();
    assert!(bench.samples(f64::NAN, 100).is_empty());
    assert_eq!(bench.breaker.state(), State::HalfOpen);
}

#[test]
fn good_samples_on_probation_close_it_and_bad_ones_trip_it_again_for_twice_as_long() {
    let settings = BreakerSettings { jitter_percent: 0, ..BreakerSettings::default() };
    let mut bench = Bench::new(settings);
    assert_eq!(bench.trip().cool_down, Some(60 * SECOND));
    let over = bench.cool_down();
    assert_eq!((over.from, over.to, over.trips), (State::Open, State::HalfOpen, 1));
    assert!(matches!(over.cause, Cause::Readings { samples: 6, .. }), "it still says why it was open");
    assert!(bench.samples(GOOD, 5).is_empty());
    assert!(bench.samples(BAD, 2).is_empty());
    let again = bench.sample(BAD).unwrap();
    assert_eq!((again.to, again.cool_down, again.trips), (State::Open, Some(120 * SECOND), 2));
    bench.cool_down();
    let closed = bench.samples(GOOD, 6).pop().unwrap();
    assert_eq!((closed.word(), closed.from, closed.to), ("closed", State::HalfOpen, State::Closed));
}

#[test]
fn cool_downs_double_up_to_the_longest_and_jitter_comes_on_top() {
    let mut bench = Bench::new(BreakerSettings::default());
    for trip in 0..40_u32 {
        let base = (60 * SECOND).saturating_mul(1 << trip.min(20)).min(3600 * SECOND);
        let cool_down = bench.trip().cool_down.unwrap();
        assert!(cool_down >= base && cool_down <= base * 5 / 4, "trip {trip}: {cool_down:?}");
        bench.cool_down();
    }
}

#[test]
fn hosts_that_tripped_together_come_back_apart() {
    let first = |seed| {
        let mut breaker = Breaker::new(BreakerSettings::default(), seed).unwrap();
        breaker.trip(Instant::now(), reading(BAD)).unwrap().cool_down.unwrap().as_secs_f64()
    };
    let mut buckets = [0_u32; 15];
    for seed in 0..15_000 {
        let over = first(seed) - 60.0;
        let bucket = (0..15_u32).rfind(|second| over >= f64::from(*second)).unwrap();
        buckets[usize::try_from(bucket).unwrap()] += 1;
    }
    assert!(buckets.iter().all(|count| (850..1150).contains(count)), "{buckets:?}");
    assert_eq!(first(7).to_bits(), first(7).to_bits(), "the same host waits as long each time");
}

#[test]
fn after_a_long_time_closed_the_next_cool_down_is_a_first_one() {
    let settings = BreakerSettings { jitter_percent: 0, ..BreakerSettings::default() };
    let mut bench = Bench::new(settings);
    for _ in 0..3 {
        bench.trip();
        bench.cool_down();
    }
    bench.samples(GOOD, 6);
    assert_eq!(bench.trip().cool_down, Some(480 * SECOND), "a moment is not long");
    bench.cool_down();
    bench.samples(GOOD, 6);
    bench.now += settings.forget_after;
    assert_eq!(bench.breaker.tick(bench.now), None);
    assert_eq!(bench.breaker.trips(), 0);
    assert_eq!(bench.trip().cool_down, Some(60 * SECOND));
}

#[test]
fn what_an_operator_opens_stays_open_until_the_operator_closes_it() {
    let mut bench = Bench::new(BreakerSettings::default());
    let forced = bench.breaker.force_open(bench.now, "backup night").unwrap();
    assert_eq!((forced.to, forced.cool_down, forced.trips), (State::Open, None, 0));
    bench.now += 30 * 86_400 * SECOND;
    assert_eq!(bench.breaker.tick(bench.now), None);
    assert!(bench.samples(GOOD, 100).is_empty());
    assert_eq!(bench.breaker.force_open(bench.now, "still"), None);
    assert_eq!(bench.breaker.trip(bench.now, reading(BAD)), None);
    assert_eq!(bench.breaker.cool_down_left(bench.now), None);
    let reset = bench.breaker.reset(bench.now, "done").unwrap();
    assert_eq!((reset.word(), reset.to), ("reset", State::Closed));
    assert_eq!(bench.breaker.reset(bench.now, "done"), None);
}

#[test]
fn a_trip_becomes_an_operators_hold_and_a_reset_forgets_the_trips() {
    let mut bench = Bench::new(BreakerSettings { jitter_percent: 0, ..BreakerSettings::default() });
    bench.trip();
    bench.cool_down();
    bench.trip();
    let forced = bench.breaker.force_open(bench.now, "look").unwrap();
    assert_eq!((forced.from, forced.to, forced.trips), (State::Open, State::Open, 2));
    bench.breaker.reset(bench.now, "fixed").unwrap();
    assert_eq!(bench.trip().cool_down, Some(60 * SECOND));
}

#[test]
fn a_clock_that_goes_backwards_ends_no_cool_down() {
    let start = Instant::now();
    let mut breaker = Breaker::new(BreakerSettings::default(), 1).unwrap();
    breaker.trip(start + 1000 * SECOND, reading(BAD)).unwrap();
    assert_eq!(breaker.tick(start), None);
    assert_eq!(breaker.observe(start, reading(GOOD)), None);
    assert_eq!(breaker.state(), State::Open);
}

#[test]
fn settings_out_of_range_are_refused_by_name() {
    let default = BreakerSettings::default();
    let key = |settings| Breaker::new(settings, 0).unwrap_err().key;
    assert_eq!(key(BreakerSettings { samples: 0, ..default }), "samples");
    assert_eq!(key(BreakerSettings { probation: 1001, ..default }), "probation");
    assert_eq!(key(BreakerSettings { probation_bad: 0, ..default }), "probation_bad");
    assert_eq!(key(BreakerSettings { jitter_percent: 101, ..default }), "jitter_percent");
    assert_eq!(key(BreakerSettings { cool_down: Duration::ZERO, ..default }), "cool_down");
    assert_eq!(key(BreakerSettings { cool_down: 3601 * SECOND, ..default }), "cool_down");
    assert_eq!(key(BreakerSettings { cool_down_longest: Duration::MAX, ..default }), "cool_down_longest");
}

/// What happens to a breaker.
#[derive(Debug, Clone)]
enum Act {
    Sample(bool),
    Pass(u64),
    Trip,
    Hold,
    Reset,
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let act = prop_oneof![
        30 => prop::bool::weighted(0.6).prop_map(Act::Sample),
        6 => (0u64..200).prop_map(Act::Pass),
        1 => (3000u64..9000).prop_map(Act::Pass),
        1 => Just(Act::Trip),
        1 => Just(Act::Hold),
        1 => Just(Act::Reset),
    ];
    prop::collection::vec(act, 1..300)
}

/// The rules once more, told by the whole history instead of by counters.
struct Model {
    settings: BreakerSettings,
    state: State,
    held: bool,
    /// The samples since the state last began anew.
    history: Vec<bool>,
    opened: Instant,
    cool_down: Duration,
    trips: u32,
    closed: Option<Instant>,
}

impl Model {
    fn row(&self, bad: bool, times: u32) -> bool {
        self.history.ends_with(&vec![bad; usize::try_from(times).unwrap()])
    }

    /// The state that must follow.
    fn after(&mut self, act: &Act, now: Instant) -> State {
        if let Act::Sample(bad) = act
            && self.state != State::Open
        {
            self.history.push(*bad);
        }
        let half = self.settings.samples.div_ceil(2);
        let over = !self.held && now - self.opened >= self.cool_down;
        match (self.state, act) {
            (_, Act::Hold) => State::Open,
            (_, Act::Reset) => State::Closed,
            (_, Act::Trip) => State::Open,
            (State::Open, _) if over => State::HalfOpen,
            (State::HalfOpen, _) if self.row(true, self.settings.probation_bad) => State::Open,
            (State::HalfOpen, _) if self.row(false, self.settings.probation) => State::Closed,
            (State::Closed | State::Strained, _) if self.row(true, self.settings.samples) => State::Open,
            (State::Closed, _) if self.row(true, half) => State::Strained,
            (State::Strained, _) if self.row(false, half) => State::Closed,
            (state, _) => state,
        }
    }

    /// Checks a change of state and moves on.
    fn check(
        &mut self,
        to: State,
        act: &Act,
        change: Option<&Change>,
        now: Instant,
    ) -> Result<(), TestCaseError> {
        let again = matches!(act, Act::Hold) && !self.held;
        prop_assert_eq!(change.is_some(), to != self.state || again);
        if matches!(act, Act::Reset) {
            (self.trips, self.held) = (0, false);
            self.history.clear();
        }
        let Some(change) = change else { return Ok(()) };
        prop_assert_eq!((change.from, change.to, change.at), (self.state, to, now));
        prop_assert!(!change.to_string().contains('\n'));
        if to == State::Open && !matches!(act, Act::Hold) {
            let kept = self.closed.is_none_or(|at| now - at < self.settings.forget_after);
            self.trips = if kept || self.state == State::HalfOpen { self.trips + 1 } else { 1 };
            let base = (0..self.trips - 1).fold(self.settings.cool_down, |wait, _| wait * 2);
            let base = base.min(self.settings.cool_down_longest);
            self.cool_down = change.cool_down.expect("a trip has a cool-down");
            prop_assert!(self.cool_down >= base && self.cool_down <= base * 5 / 4);
            self.opened = now;
        } else {
            prop_assert_eq!(change.cool_down, None);
        }
        self.held |= matches!(act, Act::Hold);
        if (self.state, to) != (State::Closed, State::Strained)
            && (self.state, to) != (State::Strained, State::Closed)
        {
            self.history.clear();
        }
        if to == State::Closed && (self.state != State::Strained || matches!(act, Act::Reset)) {
            self.closed = Some(now);
        }
        self.state = to;
        Ok(())
    }
}

proptest! {
    #[test]
    fn it_does_what_the_rules_say_whatever_happens(
        samples in 1u32..8, probation in 1u32..8, probation_bad in 1u32..4, seed: u64, acts in acts(),
    ) {
        let settings = BreakerSettings { samples, probation, probation_bad, ..BreakerSettings::default() };
        let mut breaker = Breaker::new(settings, seed).unwrap();
        let mut now = Instant::now();
        let mut model = Model {
            settings,
            state: State::Closed,
            held: false,
            history: Vec::new(),
            opened: now,
            cool_down: Duration::ZERO,
            trips: 0,
            closed: None,
        };
        for act in acts {
            now += match act { Act::Pass(seconds) => Duration::from_secs(seconds), _ => SECOND };
            let expected = model.after(&act, now);
            let change = match act {
                Act::Sample(bad) => breaker.observe(now, reading(if bad { BAD } else { GOOD })),
                Act::Pass(_) => breaker.tick(now),
                Act::Trip => breaker.trip(now, reading(BAD)),
                Act::Hold => breaker.force_open(now, "look"),
                Act::Reset => breaker.reset(now, "go"),
            };
            model.check(expected, &act, change.as_ref(), now)?;
            prop_assert_eq!(breaker.state(), model.state);
        }
    }
}
