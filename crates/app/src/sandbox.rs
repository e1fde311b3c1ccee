//! What an app is given: time, chance, an end, and a way to yield facts. Its log is `tracing`, inside a span that names it.

use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, Instant};

use watchfire_event::HostId;
use watchfire_pace::{Random, RetryBudget, RetryError, RetryPolicy, Stop, TokenBucket, retry, stagger};

use crate::clock::Clock;
use crate::lane::Intake;

/// What the apps of a worker share.
#[derive(Debug, Clone)]
pub struct Host {
    /// Who this host is.
    pub id: HostId,
    /// The coarse clock.
    pub clock: Clock,
    /// Ends the worker.
    pub stop: Stop,
    /// How often all apps together may try again.
    pub retries: Arc<RetryBudget>,
}

/// An app's window to the world around it.
#[derive(Debug)]
pub struct Sandbox {
    app: &'static str,
    host: Host,
    stop: Stop,
}

impl Sandbox {
    pub(crate) fn new(app: &'static str, host: &Host) -> Self {
        Sandbox { app, stop: host.stop.child(), host: host.clone() }
    }

    /// The coarse clock: see [`Clock::now`].
    pub fn now(&self) -> Instant {
        self.host.clock.now()
    }

    /// Whether the app is to end; a long piece of work asks now and then.
    pub fn stopping(&self) -> bool {
        self.stop.stopped()
    }

    /// The word to end, to be waited for.
    pub fn stop(&self) -> &Stop {
        &self.stop
    }

    /// When in `window` this host's turn is at what this app does: hosts are spread evenly over it.
    pub fn stagger(&self, window: Duration) -> Duration {
        stagger(&self.host.id.0, self.app, window)
    }

    /// Tries `op` until it works: waits grow, the worker's budget bounds all retries, and the app's end ends them.
    /// Blocks meanwhile: only for an app that has its thread to itself.
    ///
    /// # Errors
    /// See [`retry`].
    pub fn retry<T, E: Error + 'static>(
        &self,
        policy: &RetryPolicy,
        op: impl FnMut(u32) -> Result<T, E>,
    ) -> Result<T, RetryError<E>> {
        // Another host, another moment: another wait.
        let chance = self.stagger(Duration::from_secs(1 << 30));
        let seed = u64::try_from(chance.as_nanos()).unwrap_or(0);
        let mut random = Random::seeded(seed ^ u64::from(self.now().elapsed().subsec_nanos()));
        retry(policy, &self.host.retries, &mut random, &self.stop, op)
    }
}

/// One turn of an app.
pub struct Turn<'a, F> {
    pub(crate) sandbox: &'a Sandbox,
    pub(crate) limit: Option<&'a mut TokenBucket>,
    pub(crate) intake: &'a mut dyn Intake<F>,
    /// Its place in the lane.
    pub(crate) app: usize,
    pub(crate) room: usize,
    pub(crate) emitted: u64,
    pub(crate) refused: u64,
}

impl<F> Turn<'_, F> {
    /// Yields a fact. Whether it was taken: beyond the app's limit it is dropped, and counted.
    pub fn emit(&mut self, fact: F) -> bool {
        self.room = self.room.saturating_sub(1);
        let now = self.sandbox.now();
        let granted = self.limit.as_mut().is_none_or(|bucket| bucket.take(1, now));
        if granted {
            self.emitted += 1;
            self.intake.take(self.app, fact);
        } else {
            self.refused += 1;
            self.intake.refused(self.app, fact);
        }
        granted
    }

    /// How many facts this turn may still yield before the others should have theirs.
    pub fn room(&self) -> usize {
        self.room
    }
}

impl<F> std::ops::Deref for Turn<'_, F> {
    type Target = Sandbox;

    fn deref(&self) -> &Sandbox {
        self.sandbox
    }
}
