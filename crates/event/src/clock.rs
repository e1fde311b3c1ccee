//! Two clocks that must not be compared by accident.

use std::fmt;
use std::time::Duration;

/// Nanoseconds since boot, suspend included (`CLOCK_BOOTTIME`, `bpf_ktime_get_boot_ns`). Never wall time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct BootNanos(pub u64);

impl BootNanos {
    /// Time passed since `earlier`; zero when `earlier` is later (clocks of two CPUs may differ by a little).
    pub fn since(self, earlier: BootNanos) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// This moment on the wall clock of a host that booted at `booted`.
    pub fn on_wall(self, booted: UnixNanos) -> UnixNanos {
        UnixNanos(booted.0.saturating_add(i64::try_from(self.0).unwrap_or(i64::MAX)))
    }
}

/// Nanoseconds since 1970-01-01T00:00:00Z: wall time, which may jump.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct UnixNanos(pub i64);

impl UnixNanos {
    /// The wall clock now.
    pub fn now() -> Self {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        UnixNanos(i64::try_from(since.as_nanos()).unwrap_or(i64::MAX))
    }

    /// Milliseconds from `earlier` to this moment; negative when the wall clock was set back in between.
    pub fn millis_since(self, earlier: UnixNanos) -> f64 {
        (self.0 - earlier.0) as f64 / 1e6
    }

    /// Year, month, day, hour in UTC: the partition an event belongs to.
    pub fn utc_hour(self) -> (i64, u8, u8, u8) {
        let seconds = self.0.div_euclid(1_000_000_000);
        let (year, month, day) = civil_from_days(seconds.div_euclid(86_400));
        let hour = u8::try_from(seconds.rem_euclid(86_400) / 3600).expect("an hour of the day is below 24");
        (year, month, day, hour)
    }
}

/// RFC 3339 with milliseconds, UTC: `2026-11-21T08:15:30.250Z`.
impl fmt::Display for UnixNanos {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.div_euclid(1_000_000_000);
        let millis = self.0.rem_euclid(1_000_000_000) / 1_000_000;
        let (year, month, day) = civil_from_days(seconds.div_euclid(86_400));
        let of_day = seconds.rem_euclid(86_400);
        write!(
            f,
            "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{millis:03}Z",
            of_day / 3600,
            of_day / 60 % 60,
            of_day % 60
        )
    }
}

/// Days since 1970-01-01 to a Gregorian date. Algorithm: Howard Hinnant, "chrono-Compatible Low-Level Date
/// Algorithms", `civil_from_days`.
fn civil_from_days(days: i64) -> (i64, u8, u8) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let narrow = |value: i64| u8::try_from(value).expect("a month and a day fit in a byte");
    (year, narrow(month), narrow(day))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wall_time_prints_as_rfc_3339() {
        assert_eq!(UnixNanos(0).to_string(), "1970-01-01T00:00:00.000Z");
        assert_eq!(UnixNanos(951_782_399_999_000_000).to_string(), "2000-02-28T23:59:59.999Z");
        assert_eq!(UnixNanos(951_782_400_000_000_000).to_string(), "2000-02-29T00:00:00.000Z");
        assert_eq!(UnixNanos(-1).to_string(), "1969-12-31T23:59:59.999Z");
    }

    #[test]
    fn the_hour_partition_is_in_utc() {
        assert_eq!(UnixNanos(1_795_222_530_000_000_000).utc_hour(), (2026, 11, 21, 0));
    }
}
