//! What goes into a breaker, and what comes out.

use std::fmt;
use std::time::{Duration, Instant};

/// Where a breaker stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum State {
    /// All is well, work goes on.
    Closed,
    /// Half way to a trip: work goes on, and what can be spared should be left out.
    Strained,
    /// Tripped, or held open by an operator: no work.
    Open,
    /// The cool-down is over: work goes on, on probation.
    HalfOpen,
}

impl State {
    /// Whether work may be done.
    pub fn works(self) -> bool {
        self != State::Open
    }

    /// The state's name in events: `closed`, `strained`, `open`, `half-open`.
    pub fn as_str(self) -> &'static str {
        match self {
            State::Closed => "closed",
            State::Strained => "strained",
            State::Open => "open",
            State::HalfOpen => "half-open",
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One sample of one measure. Bad at or over its limit; neither good nor bad if value or limit is not a number.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Reading {
    /// What was measured, as it will stand in the event: `cpu`, `rss`, `events`.
    pub measure: &'static str,
    /// How much it was.
    pub value: f64,
    /// From here on it is too much.
    pub limit: f64,
    /// Of both: `%`, `bytes`, `/s`.
    pub unit: &'static str,
}

impl Reading {
    /// The one of several readings of the same moment that is furthest over its limit, or nearest to it; `None` if there
    /// are none. A breaker counts samples in a row, so it must see one reading a sample, not first a good one and then
    /// a bad one.
    pub fn worst(readings: &[Reading]) -> Option<Reading> {
        let by_strain = |a: &&Reading, b: &&Reading| a.strain().total_cmp(&b.strain());
        readings.iter().max_by(by_strain).copied()
    }

    /// Whether it is too much; `None` if that cannot be said.
    pub(super) fn is_bad(&self) -> Option<bool> {
        self.value.partial_cmp(&self.limit).map(std::cmp::Ordering::is_ge)
    }

    pub(super) fn cause(&self, samples: u32) -> Cause {
        let Reading { measure, value, limit, unit } = *self;
        Cause::Readings { measure, value, limit, unit, samples }
    }

    /// Value in limits. What is no number sorts below all that is.
    fn strain(&self) -> f64 {
        match self.is_bad() {
            None => f64::NEG_INFINITY,
            // Also for limits of zero and below, where a quotient says nothing.
            Some(true) if self.limit <= 0.0 => f64::INFINITY,
            Some(false) if self.limit <= 0.0 => 0.0,
            Some(true) => (self.value / self.limit).max(1.0),
            Some(false) => self.value / self.limit,
        }
    }
}

/// Why a breaker changed.
#[derive(Debug, Clone, PartialEq)]
pub enum Cause {
    /// Readings on one side of their limit. Of several samples, the figures are those of the last.
    Readings {
        /// See [`Reading::measure`].
        measure: &'static str,
        /// See [`Reading::value`].
        value: f64,
        /// See [`Reading::limit`].
        limit: f64,
        /// See [`Reading::unit`].
        unit: &'static str,
        /// So many samples in a row said the same.
        samples: u32,
    },
    /// An operator's word, with the reason given. Not escaped.
    Operator(String),
}

/// `cpu 92.5 % (limit 80 %) in 6 samples in a row`
impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Cause::Operator(reason) => write!(f, "by the operator: {reason}"),
            Cause::Readings { measure, value, limit, unit, samples } => {
                let (value, limit) = (hundredths(*value), hundredths(*limit));
                write!(f, "{measure} {value} {unit} (limit {limit} {unit}) in {samples} ")?;
                f.write_str(if *samples == 1 { "sample" } else { "samples in a row" })
            }
        }
    }
}

/// A breaker's step from one state to another. Every one is worth an event.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    /// The state before.
    pub from: State,
    /// The state now. The same as before only when an operator holds open what was open already.
    pub to: State,
    /// When.
    pub at: Instant,
    /// Why. At the end of a cool-down: why it was tripped.
    pub cause: Cause,
    /// How long it stays open, jitter included; `None` in other states, and when an operator holds it open.
    pub cool_down: Option<Duration>,
    /// Trips since the doubling was last forgotten; it sets the cool-down.
    pub trips: u32,
}

impl Change {
    /// The change in a word: `strained`, `relieved`, `tripped`, `half-open`, `closed`, `forced open`, `reset`.
    pub fn word(&self) -> &'static str {
        match (self.from, self.to, &self.cause) {
            (_, State::Open, Cause::Operator(_)) => "forced open",
            (_, State::Open, Cause::Readings { .. }) => "tripped",
            (_, State::Closed, Cause::Operator(_)) => "reset",
            (State::Strained, State::Closed, _) => "relieved",
            (_, State::Closed, _) => "closed",
            (_, State::Strained, _) => "strained",
            (_, State::HalfOpen, _) => "half-open",
        }
    }
}

/// `tripped: cpu 92.5 % (limit 80 %) in 6 samples in a row; trip 2, cool-down 131.2s`
impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.word())?;
        if self.to == State::HalfOpen {
            return write!(f, "the cool-down is over; trip {} was {}", self.trips, self.cause);
        }
        write!(f, "{}", self.cause)?;
        match self.cool_down {
            Some(cool_down) => write!(f, "; trip {}, cool-down {cool_down:.1?}", self.trips),
            None => Ok(()),
        }
    }
}

fn hundredths(value: f64) -> f64 {
    let rounded = (value * 100.0).round() / 100.0;
    if rounded.is_finite() { rounded } else { value }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(measure: &'static str, value: f64, limit: f64) -> Reading {
        Reading { measure, value, limit, unit: "%" }
    }

    #[test]
    fn the_worst_reading_is_the_one_furthest_over_its_own_limit() {
        let worst = |readings: &[Reading]| Reading::worst(readings).unwrap().measure;
        assert_eq!(worst(&[reading("cpu", 50.0, 80.0), reading("rss", 11.0, 10.0)]), "rss");
        assert_eq!(worst(&[reading("cpu", 79.0, 80.0), reading("rss", 1.0, 10.0)]), "cpu");
        assert_eq!(worst(&[reading("none", f64::NAN, 80.0), reading("rss", 1.0, 10.0)]), "rss");
        assert_eq!(worst(&[reading("zero", 0.0, 0.0), reading("rss", 99.0, 10.0)]), "zero");
        assert_eq!(worst(&[reading("below", -2.0, -1.0), reading("rss", 1.0, 10.0)]), "rss");
        assert_eq!(Reading::worst(&[]), None);
    }

    #[test]
    fn a_change_reads_as_one_line() {
        let cause = reading("cpu", 92.5, 80.0).cause(6);
        let change = Change {
            from: State::HalfOpen,
            to: State::Open,
            at: Instant::now(),
            cause,
            cool_down: Some(Duration::from_millis(131_240)),
            trips: 2,
        };
        assert_eq!(
            change.to_string(),
            "tripped: cpu 92.5 % (limit 80 %) in 6 samples in a row; trip 2, cool-down 131.2s"
        );
        let over = Change { from: State::Open, to: State::HalfOpen, cool_down: None, ..change.clone() };
        assert_eq!(
            over.to_string(),
            "half-open: the cool-down is over; trip 2 was cpu 92.5 % (limit 80 %) in 6 samples in a row"
        );
        let held = Change { cause: Cause::Operator("backup night".to_owned()), cool_down: None, ..change };
        assert_eq!(held.to_string(), "forced open: by the operator: backup night");
    }
}
