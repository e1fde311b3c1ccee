//! The circuit breaker: when work hurts the host, leave off, look again later, and later each time.
//!
//! ```text
//!            half of the samples bad          all of them bad
//!   closed ───────────────────────► strained ────────────────► open ◄─────────────────────┐
//!     ▲  ▲◄──── as many good ───────────┘                       │ cool-down over          │ bad again
//!     │  └──────────────── probation samples good ─────────── half-open ──────────────────┘
//!     └── reset
//! ```
//!
//! One machine for three levels: an app over its own business measure, a worker over its CPU and memory, a host over its
//! pressure or load. It neither measures nor stops anything: readings go in, changes come out, each with its figures.

mod change;

use std::time::{Duration, Instant};

use crate::mix::{GOLDEN, finalise, scale};

pub use change::{Cause, Change, Reading, State};

/// A setting out of its range.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("breaker setting {key} = {value}: allowed is {allowed}")]
pub struct OutOfRange {
    /// The setting.
    pub key: &'static str,
    /// Its value.
    pub value: String,
    /// The range, in words.
    pub allowed: &'static str,
}

/// When a breaker trips, and how it comes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BreakerSettings {
    /// Bad samples in a row that trip it, 1 to 1000. At half of them, rounded up, it is strained.
    pub samples: u32,
    /// The first cool-down, 1 s to `cool_down_longest`; each further trip doubles it.
    pub cool_down: Duration,
    /// Where the doubling ends, up to 7 days. Jitter comes on top.
    pub cool_down_longest: Duration,
    /// At most this part of a cool-down is added to it by the seed and the trip's number, 0 to 100 %: hosts that were
    /// overloaded together shall not come back together.
    pub jitter_percent: u32,
    /// Good samples in a row that end the probation, 1 to 1000.
    pub probation: u32,
    /// Bad samples in a row that trip it again on probation, 1 to 1000.
    pub probation_bad: u32,
    /// So long after it closed, not tripped since, earlier trips are forgotten and the next cool-down is a first one.
    pub forget_after: Duration,
}

impl Default for BreakerSettings {
    /// Sampled once in ten seconds: tripped after a minute of overload, strained after half of it.
    fn default() -> Self {
        let longest = Duration::from_secs(3600);
        BreakerSettings {
            samples: 6,
            cool_down: Duration::from_secs(60),
            cool_down_longest: longest,
            jitter_percent: 25,
            probation: 6,
            probation_bad: 3,
            forget_after: longest,
        }
    }
}

impl BreakerSettings {
    const LONGEST: Duration = Duration::from_secs(7 * 86_400);

    fn check(&self) -> Result<(), OutOfRange> {
        for (key, count) in
            [("samples", self.samples), ("probation", self.probation), ("probation_bad", self.probation_bad)]
        {
            if !(1..=1000).contains(&count) {
                return Err(OutOfRange { key, value: count.to_string(), allowed: "1 to 1000" });
            }
        }
        if self.jitter_percent > 100 {
            let value = self.jitter_percent.to_string();
            return Err(OutOfRange { key: "jitter_percent", value, allowed: "0 to 100" });
        }
        if self.cool_down_longest > Self::LONGEST {
            let value = format!("{:?}", self.cool_down_longest);
            return Err(OutOfRange { key: "cool_down_longest", value, allowed: "7 days at most" });
        }
        if self.cool_down < Duration::from_secs(1) || self.cool_down > self.cool_down_longest {
            let value = format!("{:?}", self.cool_down);
            return Err(OutOfRange { key: "cool_down", value, allowed: "1 s to cool_down_longest" });
        }
        Ok(())
    }

    /// Half of the samples, rounded up.
    fn strain_at(&self) -> u32 {
        self.samples.div_ceil(2)
    }

    /// Of this trip, counted from 1, without jitter.
    fn cool_down_of(&self, trip: u32) -> Duration {
        // 31 doublings of a second are past the longest of 7 days.
        let doubled = self.cool_down.saturating_mul(1 << trip.saturating_sub(1).min(31));
        doubled.min(self.cool_down_longest)
    }
}

/// A circuit breaker as a state machine without a clock.
#[derive(Debug, Clone)]
pub struct Breaker {
    settings: BreakerSettings,
    seed: u64,
    phase: Phase,
    /// Samples in a row of the kind seen last; one of the two is zero.
    bad: u32,
    good: u32,
    trips: u32,
    /// When it last closed; what [`BreakerSettings::forget_after`] counts from.
    closed_at: Option<Instant>,
}

#[derive(Debug, Clone)]
enum Phase {
    Closed,
    Strained,
    Open {
        since: Instant,
        cool_down: Duration,
        cause: Cause,
    },
    /// An operator's, until [`Breaker::reset`].
    Held,
    HalfOpen,
}

impl Breaker {
    /// A closed breaker. `seed` decides its jitter; a hash of the host's id spreads a fleet.
    ///
    /// # Errors
    /// A setting out of its range.
    pub fn new(settings: BreakerSettings, seed: u64) -> Result<Self, OutOfRange> {
        settings.check()?;
        Ok(Breaker { settings, seed, phase: Phase::Closed, bad: 0, good: 0, trips: 0, closed_at: None })
    }

    /// Where it stands. Time alone changes nothing here: that takes a [`Breaker::tick`].
    pub fn state(&self) -> State {
        match self.phase {
            Phase::Closed => State::Closed,
            Phase::Strained => State::Strained,
            Phase::Open { .. } | Phase::Held => State::Open,
            Phase::HalfOpen => State::HalfOpen,
        }
    }

    /// Trips since the doubling was last forgotten.
    pub fn trips(&self) -> u32 {
        self.trips
    }

    /// How long until the cool-down ends; `None` when there is none: not open, or held by an operator.
    pub fn cool_down_left(&self, now: Instant) -> Option<Duration> {
        match self.phase {
            Phase::Open { since, cool_down, .. } => {
                Some(cool_down.saturating_sub(now.saturating_duration_since(since)))
            }
            _ => None,
        }
    }

    /// Takes a sample. While open it counts for nothing (there is no work to measure), but may be the tick that ends
    /// the cool-down.
    pub fn observe(&mut self, now: Instant, reading: Reading) -> Option<Change> {
        if self.state() == State::Open {
            return self.tick(now);
        }
        let bad = reading.is_bad()?;
        self.forget(now);
        (self.bad, self.good) =
            if bad { (self.bad.saturating_add(1), 0) } else { (0, self.good.saturating_add(1)) };
        let settings = self.settings;
        match self.phase {
            Phase::HalfOpen if self.bad >= settings.probation_bad => {
                Some(self.open(now, reading.cause(self.bad)))
            }
            Phase::HalfOpen if self.good >= settings.probation => {
                let cause = reading.cause(self.good);
                Some(self.close(now, cause))
            }
            Phase::Closed | Phase::Strained if self.bad >= settings.samples => {
                Some(self.open(now, reading.cause(self.bad)))
            }
            Phase::Closed if self.bad >= settings.strain_at() => {
                Some(self.step(now, Phase::Strained, reading.cause(self.bad)))
            }
            Phase::Strained if self.good >= settings.strain_at() => {
                Some(self.step(now, Phase::Closed, reading.cause(self.good)))
            }
            _ => None,
        }
    }

    /// Lets time pass: ends a cool-down that is over.
    pub fn tick(&mut self, now: Instant) -> Option<Change> {
        self.forget(now);
        let Phase::Open { since, cool_down, cause } = &self.phase else { return None };
        if now.saturating_duration_since(*since) < *cool_down {
            return None;
        }
        let cause = cause.clone();
        Some(self.step(now, Phase::HalfOpen, cause))
    }

    /// Trips at once, with a cool-down, over a reading that leaves no time for samples in a row: memory over its hard
    /// cap. `None` if it is open already.
    pub fn trip(&mut self, now: Instant, reading: Reading) -> Option<Change> {
        if self.state() == State::Open {
            return None;
        }
        self.forget(now);
        Some(self.open(now, reading.cause(1)))
    }

    /// An operator opens it, whatever the readings say, until [`Breaker::reset`]: no cool-down ends this, and it is no
    /// trip. `None` if it is held open already.
    pub fn force_open(&mut self, now: Instant, reason: &str) -> Option<Change> {
        if matches!(self.phase, Phase::Held) {
            return None;
        }
        self.start_counting_anew();
        Some(self.step(now, Phase::Held, Cause::Operator(reason.to_owned())))
    }

    /// An operator closes it, without probation, and earlier trips are forgotten. `None` if it was closed.
    pub fn reset(&mut self, now: Instant, reason: &str) -> Option<Change> {
        self.trips = 0;
        if matches!(self.phase, Phase::Closed) {
            self.start_counting_anew();
            return None;
        }
        Some(self.close(now, Cause::Operator(reason.to_owned())))
    }

    fn open(&mut self, now: Instant, cause: Cause) -> Change {
        self.trips = self.trips.saturating_add(1);
        let base = self.settings.cool_down_of(self.trips);
        let cool_down = base + self.jitter(base);
        self.start_counting_anew();
        let mut change = self.step(now, Phase::Open { since: now, cool_down, cause: cause.clone() }, cause);
        change.cool_down = Some(cool_down);
        change
    }

    fn close(&mut self, now: Instant, cause: Cause) -> Change {
        self.closed_at = Some(now);
        self.start_counting_anew();
        self.step(now, Phase::Closed, cause)
    }

    fn step(&mut self, now: Instant, to: Phase, cause: Cause) -> Change {
        let from = self.state();
        self.phase = to;
        Change { from, to: self.state(), at: now, cause, cool_down: None, trips: self.trips }
    }

    fn start_counting_anew(&mut self) {
        (self.bad, self.good) = (0, 0);
    }

    fn forget(&mut self, now: Instant) {
        let closed = matches!(self.phase, Phase::Closed | Phase::Strained);
        let quiet = self.closed_at.map(|at| now.saturating_duration_since(at));
        if closed && quiet.is_some_and(|quiet| quiet >= self.settings.forget_after) {
            self.trips = 0;
        }
    }

    /// Between nothing and `jitter_percent` of `base`: the trip's number of the sequence [`crate::Random`] has for this seed.
    fn jitter(&self, base: Duration) -> Duration {
        let word = finalise(self.seed.wrapping_add(GOLDEN.wrapping_mul(u64::from(self.trips))));
        let most = base * self.settings.jitter_percent / 100;
        let nanos = u64::try_from(most.as_nanos()).expect("a cool-down is at most 7 days");
        Duration::from_nanos(scale(word, nanos + 1))
    }
}

#[cfg(test)]
mod tests;
