//! Trying again: backoff between attempts, a budget above them, an end to them, and an ear for shutdown.

use std::fmt;
use std::num::NonZeroU32;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::{Backoff, BackoffSettings, Random, Rate, TokenBucket, Waiting};

/// How often one operation is tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryPolicy {
    /// The waits between attempts.
    pub backoff: BackoffSettings,
    /// Attempts at most, the first one included; `None`: no such limit.
    pub attempts: Option<NonZeroU32>,
    /// No attempt begins later than this after the first; `None`: no such limit. An attempt that runs is not cut
    /// short: the operation needs a deadline of its own.
    pub deadline: Option<Duration>,
}

impl Default for RetryPolicy {
    /// Five attempts with the default backoff, within a minute.
    fn default() -> Self {
        RetryPolicy {
            backoff: BackoffSettings::default(),
            attempts: NonZeroU32::new(5),
            deadline: Some(Duration::from_secs(60)),
        }
    }
}

/// How many retries all operations together may make: when everything fails, retries must not multiply the load.
/// First attempts are free. (Google, "Site Reliability Engineering", 2016, chapter 21, "Handling Overload".)
///
/// Shared by reference between threads.
#[derive(Debug)]
pub struct RetryBudget {
    /// `None`: no limit.
    bucket: Option<Mutex<TokenBucket>>,
}

impl RetryBudget {
    /// `retries` in any minute on the average, and as many in one burst.
    pub fn per_minute(retries: u32, now: Instant) -> Self {
        let retries = u64::from(retries);
        let bucket = TokenBucket::new(Rate::per_minute(retries), retries, now);
        RetryBudget { bucket: Some(Mutex::new(bucket)) }
    }

    /// As many as the policy allows: for what no one else calls, such as the own disk.
    pub const fn unlimited() -> Self {
        RetryBudget { bucket: None }
    }

    fn take(&self, now: Instant) -> bool {
        let Some(bucket) = &self.bucket else { return true };
        // A bucket is sound at every step, whoever panicked.
        bucket.lock().unwrap_or_else(PoisonError::into_inner).take(1, now)
    }
}

/// Why it was not tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GaveUp {
    /// [`RetryPolicy::attempts`] were made.
    Attempts,
    /// The next attempt would have begun after [`RetryPolicy::deadline`].
    Deadline,
    /// The [`RetryBudget`] is spent.
    Budget,
    /// Someone said stop.
    Stopped,
}

impl fmt::Display for GaveUp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            GaveUp::Attempts => "no attempts left",
            GaveUp::Deadline => "deadline reached",
            GaveUp::Budget => "retry budget spent",
            GaveUp::Stopped => "stopped",
        })
    }
}

/// An operation that did not succeed, and will not be tried again.
#[derive(Debug, thiserror::Error)]
#[error("gave up after {attempts} attempts: {gave_up}")]
pub struct RetryError<E: std::error::Error + 'static> {
    /// What ended it.
    pub gave_up: GaveUp,
    /// How often it was tried.
    pub attempts: u32,
    /// How the last attempt failed; `None` if it was stopped before the first.
    #[source]
    pub last: Option<E>,
}

/// Calls `op` with the attempt's number, from 1, until it succeeds or something of [`GaveUp`] ends it.
///
/// An error that no retry can mend is no failure here: let `op` return it inside `Ok`.
///
/// `waiting` is [`crate::Stop`] outside of tests.
///
/// # Errors
/// [`RetryError`] with the last error of `op` as its source.
pub fn retry<T, E: std::error::Error + 'static>(
    policy: &RetryPolicy,
    budget: &RetryBudget,
    random: &mut Random,
    waiting: &impl Waiting,
    mut op: impl FnMut(u32) -> Result<T, E>,
) -> Result<T, RetryError<E>> {
    let begun = waiting.now();
    let mut backoff = Backoff::new(policy.backoff);
    let mut attempts = 0;
    let mut last = None;
    let gave_up = loop {
        if waiting.stopped() {
            break GaveUp::Stopped;
        }
        attempts += 1;
        match op(attempts) {
            Ok(value) => return Ok(value),
            Err(error) => last = Some(error),
        }
        if policy.attempts.is_some_and(|most| attempts >= most.get()) {
            break GaveUp::Attempts;
        }
        let wait = backoff.next_wait(random);
        let now = waiting.now();
        let next = now.saturating_duration_since(begun).saturating_add(wait);
        if policy.deadline.is_some_and(|deadline| next > deadline) {
            break GaveUp::Deadline;
        }
        if !budget.take(now) {
            break GaveUp::Budget;
        }
        if waiting.wait(wait) {
            break GaveUp::Stopped;
        }
    };
    Err(RetryError { gave_up, attempts, last })
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};
    use std::error::Error;

    use super::*;
    use crate::Stop;

    #[derive(Debug, thiserror::Error, PartialEq)]
    #[error("attempt {0} failed")]
    struct Failed(u32);

    /// A clock that moves only when someone waits.
    struct Standing {
        now: Cell<Instant>,
        waits: RefCell<Vec<Duration>>,
        stop_at_wait: Option<usize>,
    }

    impl Standing {
        fn new() -> Self {
            Standing { now: Cell::new(Instant::now()), waits: RefCell::default(), stop_at_wait: None }
        }
    }

    impl Waiting for Standing {
        fn now(&self) -> Instant {
            self.now.get()
        }

        fn wait(&self, time: Duration) -> bool {
            self.now.set(self.now.get() + time);
            self.waits.borrow_mut().push(time);
            self.stopped()
        }

        fn stopped(&self) -> bool {
            self.stop_at_wait == Some(self.waits.borrow().len())
        }
    }

    fn endless() -> RetryPolicy {
        RetryPolicy { attempts: None, deadline: None, ..RetryPolicy::default() }
    }

    fn run(
        policy: &RetryPolicy,
        budget: u32,
        clock: &Standing,
        good_at: u32,
    ) -> Result<u32, RetryError<Failed>> {
        let budget = RetryBudget::per_minute(budget, clock.now());
        let op = |attempt| if attempt >= good_at { Ok(attempt) } else { Err(Failed(attempt)) };
        retry(policy, &budget, &mut Random::seeded(5), clock, op)
    }

    #[test]
    fn it_is_tried_until_it_works_with_waits_that_grow() {
        let clock = Standing::new();
        assert_eq!(run(&endless(), 100, &clock, 50).unwrap(), 50);
        let waits = clock.waits.borrow();
        assert_eq!(waits.len(), 49);
        assert!(waits[0] <= Duration::from_millis(500));
        assert!(waits[10..].iter().any(|wait| *wait > Duration::from_secs(30)));
        assert!(waits.iter().all(|wait| *wait <= Duration::from_secs(60)));
    }

    #[test]
    fn attempts_end_it_and_the_last_error_is_the_source() {
        let policy = RetryPolicy { attempts: NonZeroU32::new(3), ..endless() };
        let error = run(&policy, 100, &Standing::new(), 9).unwrap_err();
        assert_eq!((error.gave_up, error.attempts, &error.last), (GaveUp::Attempts, 3, &Some(Failed(3))));
        assert_eq!(error.to_string(), "gave up after 3 attempts: no attempts left");
        assert_eq!(error.source().unwrap().to_string(), "attempt 3 failed");
    }

    #[test]
    fn no_attempt_begins_after_the_deadline_and_no_wait_is_in_vain() {
        let clock = Standing::new();
        let begun = clock.now();
        let deadline = Duration::from_secs(20);
        let policy = RetryPolicy { deadline: Some(deadline), ..endless() };
        let error = run(&policy, 100, &clock, 1000).unwrap_err();
        assert_eq!(error.gave_up, GaveUp::Deadline);
        assert!(error.attempts > 3);
        assert!(clock.now() - begun <= deadline);
    }

    #[test]
    fn a_spent_budget_ends_it_and_a_first_attempt_is_free() {
        let quick = BackoffSettings { cap: Duration::from_millis(1), ..BackoffSettings::default() };
        let policy = RetryPolicy { backoff: quick, ..endless() };
        let error = run(&policy, 4, &Standing::new(), 1000).unwrap_err();
        assert_eq!((error.gave_up, error.attempts), (GaveUp::Budget, 5));
        assert_eq!(run(&policy, 0, &Standing::new(), 1).unwrap(), 1);
    }

    #[test]
    fn without_a_budget_and_an_end_only_success_or_a_stop_ends_it() {
        let clock = Standing { stop_at_wait: Some(5000), ..Standing::new() };
        let op = |attempt| Err::<(), _>(Failed(attempt));
        let error =
            retry(&endless(), &RetryBudget::unlimited(), &mut Random::seeded(5), &clock, op).unwrap_err();
        assert_eq!((error.gave_up, error.attempts), (GaveUp::Stopped, 5000));
    }

    #[test]
    fn a_stop_ends_a_wait_and_forbids_a_first_attempt() {
        let clock = Standing { stop_at_wait: Some(2), ..Standing::new() };
        let error = run(&endless(), 100, &clock, 1000).unwrap_err();
        assert_eq!((error.gave_up, error.attempts, error.last), (GaveUp::Stopped, 2, Some(Failed(2))));
        let clock = Standing { stop_at_wait: Some(0), ..Standing::new() };
        let error = run(&endless(), 100, &clock, 1).unwrap_err();
        assert_eq!((error.gave_up, error.attempts, error.last), (GaveUp::Stopped, 0, None));
    }

    #[test]
    fn another_threads_stop_ends_a_real_wait() {
        let stop = Stop::new();
        let hour = Duration::from_secs(3600);
        let backoff = BackoffSettings { first: hour, cap: hour, floor: hour };
        let policy = RetryPolicy { backoff, ..endless() };
        let budget = RetryBudget::per_minute(10, Instant::now());
        let error = std::thread::scope(|threads| {
            retry(&policy, &budget, &mut Random::seeded(1), &stop, |attempt| {
                threads.spawn(|| stop.stop());
                Err::<(), _>(Failed(attempt))
            })
            .unwrap_err()
        });
        assert_eq!((error.gave_up, error.attempts), (GaveUp::Stopped, 1));
    }
}
