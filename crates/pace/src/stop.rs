//! The word to end, and waits that hear it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

/// Waiting, as [`crate::retry`] needs it. Behind a trait so that a test's clock can stand still.
pub trait Waiting {
    /// The time now.
    fn now(&self) -> Instant;

    /// Waits this long, or until it is told to stop; whether it was.
    fn wait(&self, time: Duration) -> bool;

    /// Whether it was told to stop.
    fn stopped(&self) -> bool;
}

/// Says "end now" to everyone who holds a clone, once and for all.
///
/// [`Stop::child`] makes one that also ends alone: the agent holds the root, each worker's part a child, each app a
/// child of that.
#[derive(Debug, Clone, Default)]
pub struct Stop {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    stopped: AtomicBool,
    /// Also what [`Shared::told`] waits with. Locked parent before child, never the other way.
    children: Mutex<Vec<Weak<Shared>>>,
    told: Condvar,
}

impl Stop {
    /// Not stopped.
    pub fn new() -> Self {
        Stop::default()
    }

    /// One that is stopped with this one, and can be stopped without it.
    pub fn child(&self) -> Stop {
        let child = Stop::new();
        let mut children = self.shared.lock();
        if self.stopped() {
            child.shared.stopped.store(true, Ordering::Release);
        } else {
            // An app that restarts for months must not leave a trace each time.
            children.retain(|child| child.strong_count() > 0);
            children.push(Arc::downgrade(&child.shared));
        }
        child
    }

    /// Everyone stops: waits end at once, later ones do not begin. To stop twice changes nothing.
    pub fn stop(&self) {
        self.shared.stop();
    }

    /// Whether it was stopped. Cheap enough to ask for each event.
    pub fn stopped(&self) -> bool {
        self.shared.stopped.load(Ordering::Acquire)
    }

    /// Waits until it is stopped, `time` at most; whether it was.
    pub fn wait(&self, time: Duration) -> bool {
        let guard = self.shared.lock();
        let still_going = |_: &mut Vec<_>| !self.stopped();
        drop(
            self.shared
                .told
                .wait_timeout_while(guard, time, still_going)
                .unwrap_or_else(PoisonError::into_inner),
        );
        self.stopped()
    }
}

/// The real clock.
impl Waiting for Stop {
    fn now(&self) -> Instant {
        Instant::now()
    }

    fn wait(&self, time: Duration) -> bool {
        Stop::wait(self, time)
    }

    fn stopped(&self) -> bool {
        Stop::stopped(self)
    }
}

impl Shared {
    fn stop(&self) {
        let mut children = self.lock();
        // Under the lock, so that it cannot fall between a waiter's last look and its sleep, nor miss a new child.
        self.stopped.store(true, Ordering::Release);
        self.told.notify_all();
        for child in children.drain(..).filter_map(|child| child.upgrade()) {
            child.stop();
        }
    }

    /// A thread that panicked elsewhere must not keep the others from stopping: the list is sound at every step.
    fn lock(&self) -> MutexGuard<'_, Vec<Weak<Shared>>> {
        self.children.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    /// Far more than any of this takes, so that a wait which nobody ended is told from one that was.
    const LONG: Duration = Duration::from_secs(120);

    #[test]
    fn a_wait_ends_when_another_thread_says_stop() {
        let begun = Instant::now();
        let stop = Stop::new();
        let waiters: Vec<_> = (0..3)
            .map(|_| {
                let stop = stop.clone();
                thread::spawn(move || stop.wait(LONG))
            })
            .collect();
        stop.stop();
        assert!(waiters.into_iter().all(|waiter| waiter.join().unwrap()));
        assert!(stop.wait(LONG), "a later wait does not begin");
        assert!(begun.elapsed() < LONG);
    }

    #[test]
    fn a_wait_ends_by_itself_when_its_time_is_over() {
        let stop = Stop::new();
        let begun = Instant::now();
        assert!(!stop.wait(Duration::from_millis(20)));
        assert!(begun.elapsed() >= Duration::from_millis(20));
    }

    #[test]
    fn children_stop_with_their_parent_and_not_the_other_way() {
        let begun = Instant::now();
        let root = Stop::new();
        let worker = root.child();
        let (app, other) = (worker.child(), worker.child());
        app.stop();
        assert!(app.stopped() && !worker.stopped() && !other.stopped());
        let waiter = thread::spawn({
            let other = other.clone();
            move || other.wait(LONG)
        });
        root.stop();
        assert!(waiter.join().unwrap());
        assert!(begun.elapsed() < LONG);
        assert!(worker.stopped() && other.stopped());
        assert!(root.child().stopped(), "who comes too late is stopped from the start");
    }

    #[test]
    fn children_that_are_gone_leave_no_trace() {
        let root = Stop::new();
        (0..1000).for_each(|_| drop(root.child()));
        let kept = root.child();
        assert_eq!(root.shared.lock().len(), 1);
        drop(kept);
    }
}
