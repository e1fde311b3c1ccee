//! The app `clock_steps`: tells when the wall clock is set, which makes logs lie and certificates valid.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use watchfire_app::{App, AppError, Next, OutOfRange, Sandbox, Settings, Turn, within};
use watchfire_event::{BootNanos, Report, UnixNanos};
use watchfire_host::boot_now;

/// What counts as a step.
#[derive(Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct ClockStepSettings {
    /// Between two looks, in seconds, 1 to 3600.
    every_s: u32,
    /// The least step that is told, in milliseconds, 100 to 86400000. NTP slews by less than a millisecond in a second.
    least_ms: u32,
}

impl Default for ClockStepSettings {
    fn default() -> Self {
        ClockStepSettings { every_s: 10, least_ms: 2000 }
    }
}

impl Settings for ClockStepSettings {
    fn check(&self) -> Result<(), OutOfRange> {
        within("every_s", self.every_s, 1..=3600, "1 to 3600")?;
        within("least_ms", self.least_ms, 100..=86_400_000, "100 to 86400000")
    }
}

/// See the module's documentation.
pub(crate) struct ClockSteps {
    settings: ClockStepSettings,
    last: (BootNanos, UnixNanos),
}

impl App for ClockSteps {
    const NAME: &'static str = "clock_steps";
    type Settings = ClockStepSettings;
    type Fact = Report;

    fn start(settings: ClockStepSettings, _: &Sandbox) -> Result<Self, AppError> {
        Ok(ClockSteps { settings, last: (boot_now(), UnixNanos::now()) })
    }

    fn turn(&mut self, turn: &mut Turn<'_, Report>) -> Result<Next, AppError> {
        let now = (boot_now(), UnixNanos::now());
        if let Some((millis, was)) = step(self.last, now, self.settings.least_ms) {
            let fields =
                [("step_ms", millis.to_string()), ("was", was.to_string()), ("is", now.1.to_string())];
            let fields = fields.map(|(name, value)| (name.to_owned(), value)).to_vec();
            turn.emit(Report::new(Self::NAME, "step", fields)?);
        }
        self.last = now;
        Ok(Next::After(Duration::from_secs(self.settings.every_s.into())))
    }
}

/// By how many milliseconds the wall clock was set between two looks, and what it would show otherwise.
fn step(
    before: (BootNanos, UnixNanos),
    now: (BootNanos, UnixNanos),
    least_ms: u32,
) -> Option<(i64, UnixNanos)> {
    let passed = i64::try_from(now.0.since(before.0).as_nanos()).ok()?;
    let expected = UnixNanos(before.1.0.checked_add(passed)?);
    let millis = now.1.0.checked_sub(expected.0)? / 1_000_000;
    (millis.unsigned_abs() >= least_ms.into()).then_some((millis, expected))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_is_set_is_told_with_its_step_and_one_that_runs_is_not() {
        let (start, wall) = (BootNanos(5), UnixNanos(1_000_000_000_000));
        let later = BootNanos(10_000_000_005);
        let after = |nanos: i64| (later, UnixNanos(wall.0 + nanos));
        let told = |now| step((start, wall), now, 2000).map(|(millis, _)| millis);
        assert_eq!(told(after(10_000_000_000)), None);
        assert_eq!(told(after(11_900_000_000)), None);
        assert_eq!(told(after(-50_000_000_000)), Some(-60_000));
        assert_eq!(told(after(13_000_000_000)), Some(3000));
        let (_, expected) = step((start, wall), after(13_000_000_000), 2000).unwrap();
        assert_eq!(expected, UnixNanos(wall.0 + 10_000_000_000));
    }
}
