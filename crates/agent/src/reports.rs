//! Reports as events; and what the master tells of the agent itself: each change is one.

use std::sync::Arc;
use std::time::Instant;

use tracing::{error, warn};
use watchfire_event::{Body, Event, Process, Report};
use watchfire_host::{ProcReader, boot_now};
use watchfire_pace::{Rate, TokenBucket};

use crate::outbox::Outbox;

/// Changes are few. Should they be many (a worker that dies at once each time, say), the counters of the status tell the rest.
const RATE: Rate = Rate::per_minute(120);
const BURST: u64 = 240;

/// Makes events of the agent's own changes.
pub(crate) struct Teller {
    outbox: Arc<Outbox>,
    /// This process.
    process: Arc<Process>,
    bucket: TokenBucket,
}

impl Teller {
    pub(crate) fn new(outbox: Arc<Outbox>, now: Instant) -> Self {
        let process = ProcReader::new("/proc").read_process(std::process::id()).unwrap_or_default();
        Teller { outbox, process: Arc::new(process), bucket: TokenBucket::new(RATE, BURST, now) }
    }

    /// Tells that something about `topic` is so now.
    pub(crate) fn tell(&mut self, topic: &str, fields: &[(&str, &str)]) {
        let fields = fields.iter().map(|(name, value)| (*name, Report::fitting(value)));
        match Report::new("agent", topic, fields) {
            Ok(report) => self.push(report),
            Err(error) => error!(%error, topic, "the agent's own report is none"),
        }
    }

    fn push(&mut self, report: Report) {
        if !self.bucket.take(1, Instant::now()) {
            warn!(%report, "too many changes to tell each of them");
            return;
        }
        self.outbox.push_own_event(&told_by(&self.process, report));
    }
}

/// The event that `process` tells now.
pub(crate) fn told_by(process: &Arc<Process>, report: Report) -> Event {
    let now = boot_now();
    Event { at: now, decoded: now, process: process.clone(), parent: None, body: Body::Report(report) }
}
