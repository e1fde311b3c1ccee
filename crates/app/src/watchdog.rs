//! Turns that do not end: the lane's thread says when it enters an app, another thread looks whether it came back.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicU64, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use watchfire_pace::Stop;

use crate::clock::{Clock, TICK};

/// Not in a turn.
const NONE: u64 = u64::MAX;

/// Says in which app a lane's thread is, and since when.
#[derive(Debug)]
pub struct Pulse {
    origin: Instant,
    apps: Vec<&'static str>,
    place: AtomicUsize,
    /// Nanoseconds since `origin`.
    since: AtomicU64,
    tid: AtomicI32,
}

impl Pulse {
    pub(crate) fn new(now: Instant, apps: Vec<&'static str>) -> Self {
        Pulse {
            origin: now,
            apps,
            place: AtomicUsize::new(0),
            since: AtomicU64::new(NONE),
            tid: AtomicI32::new(0),
        }
    }

    pub(crate) fn begin(&self, place: usize, now: Instant) {
        if self.tid.load(Ordering::Relaxed) == 0 {
            self.tid.store(rustix::thread::gettid().as_raw_nonzero().get(), Ordering::Relaxed);
        }
        self.place.store(place, Ordering::Relaxed);
        let since = u64::try_from(now.saturating_duration_since(self.origin).as_nanos()).unwrap_or(NONE - 1);
        self.since.store(since, Ordering::Release);
    }

    pub(crate) fn end(&self) {
        self.since.store(NONE, Ordering::Release);
    }

    /// How long the turn that runs now has been running; `None` between turns.
    pub fn running_for(&self, now: Instant) -> Option<Duration> {
        self.running(now).map(|(_, _, running)| running)
    }

    /// The turn that runs, its app, and how long it has been running.
    fn running(&self, now: Instant) -> Option<(u64, &'static str, Duration)> {
        let since = self.since.load(Ordering::Acquire);
        if since == NONE {
            return None;
        }
        let app = self.apps.get(self.place.load(Ordering::Relaxed)).copied()?;
        let begun = self.origin + Duration::from_nanos(since);
        Some((since, app, now.saturating_duration_since(begun)))
    }
}

/// A turn that has taken too long, and runs still.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Overrun {
    /// The app.
    pub app: &'static str,
    /// The place of the lane among those that are watched.
    pub lane: usize,
    /// The lane's thread.
    pub tid: i32,
    /// How long the turn has been running.
    pub running: Duration,
    /// How often this turn was told before: it is told at its deadline, at twice that, at four times…
    pub told: u32,
}

/// The thread that watches lanes, and moves the coarse clock on.
#[derive(Debug)]
pub struct Watchdog {
    thread: JoinHandle<()>,
}

impl Watchdog {
    /// Watches until `stop` is stopped. `tell` is called on the watchdog's thread.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn start(
        clock: Clock,
        lanes: Vec<Arc<Pulse>>,
        deadline: Duration,
        stop: Stop,
        mut tell: impl FnMut(Overrun) + Send + 'static,
    ) -> io::Result<Self> {
        let thread = thread::Builder::new().name("watchdog".into()).spawn(move || {
            // By lane: the turn that was told of, and how often.
            let mut told = vec![(NONE, 0u32); lanes.len()];
            while !stop.wait(TICK) {
                clock.set(Instant::now());
                for (lane, pulse) in lanes.iter().enumerate() {
                    if let Some(overrun) = look(pulse, lane, clock.now(), deadline, &mut told[lane]) {
                        tell(overrun);
                    }
                }
            }
        })?;
        Ok(Watchdog { thread })
    }

    /// Waits for the thread's end, after its `stop` was stopped.
    pub fn join(self) {
        if self.thread.join().is_err() {
            tracing::error!("the watchdog panicked");
        }
    }
}

fn look(
    pulse: &Pulse,
    lane: usize,
    now: Instant,
    deadline: Duration,
    told: &mut (u64, u32),
) -> Option<Overrun> {
    let (turn, app, running) = pulse.running(now)?;
    if told.0 != turn {
        *told = (turn, 0);
    }
    if running < deadline.saturating_mul(1 << told.1.min(16)) {
        return None;
    }
    let overrun = Overrun { app, lane, tid: pulse.tid.load(Ordering::Relaxed), running, told: told.1 };
    told.1 += 1;
    Some(overrun)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turn_is_told_at_its_deadline_and_each_time_it_has_doubled() {
        let begun = Instant::now();
        let pulse = Pulse::new(begun, vec!["one", "two"]);
        let deadline = Duration::from_secs(5);
        let mut told = (NONE, 0);
        let mut at = |seconds| {
            look(&pulse, 0, begun + Duration::from_secs(seconds), deadline, &mut told)
                .map(|overrun| (overrun.app, overrun.running.as_secs(), overrun.told))
        };
        assert_eq!(at(100), None, "no turn runs");
        pulse.begin(1, begun + Duration::from_secs(100));
        assert_eq!(at(104), None);
        assert_eq!(at(106), Some(("two", 6, 0)));
        assert_eq!(at(109), None);
        assert_eq!(at(111), Some(("two", 11, 1)));
        pulse.end();
        assert_eq!(at(130), None);
        pulse.begin(0, begun + Duration::from_secs(130));
        assert_eq!(at(136), Some(("one", 6, 0)), "another turn");
    }

    #[test]
    fn it_moves_the_clock_tells_of_a_turn_that_hangs_and_ends_when_told() {
        let clock = Clock::new(Instant::now());
        let pulse = Arc::new(Pulse::new(clock.now(), vec!["hangs"]));
        pulse.begin(0, clock.now());
        let stop = Stop::new();
        let (tell, told) = std::sync::mpsc::channel();
        let lanes = vec![pulse.clone()];
        let watchdog = Watchdog::start(clock.clone(), lanes, TICK, stop.clone(), move |overrun| {
            tell.send(overrun).unwrap();
        })
        .unwrap();
        let overrun = told.recv_timeout(Duration::from_secs(60)).unwrap();
        assert_eq!((overrun.app, overrun.lane), ("hangs", 0));
        assert_eq!(overrun.tid, rustix::thread::gettid().as_raw_nonzero().get());
        stop.stop();
        watchdog.join();
    }
}
