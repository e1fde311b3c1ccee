//! Onto the disk: frames are copied as far as they are worth it, and what had to make room for them is counted.

use std::sync::Arc;
use std::time::Instant;

use tracing::{error, info};
use watchfire_event::{DropReason, Kind};
use watchfire_spool::{Appended, SpoolError};
use watchfire_wire::{
    BatchBuilder, SpooledContent, SpooledFrame, batch_in_frame, decode_batch, frame_around_batch,
};

use super::{RETRY, Shelf};
use crate::outbox::Shared;
use crate::outbox::lane::Copy;
use crate::outbox::live::all_kept;
use crate::outbox::tally::{Amount, Tally};

/// A frame to be copied.
pub(super) struct Waiting {
    pub(super) first: u64,
    pub(super) last: u64,
    pub(super) frame: Arc<[u8]>,
    /// The events in it; none for alerts.
    pub(super) events: Tally,
    pub(super) alerts: u64,
}

/// What of a frame goes to the disk.
struct Kept {
    frame: Vec<u8>,
    events: Tally,
}

/// A record that made room.
struct Evicted {
    number: u64,
    spooled: SpooledFrame,
}

/// What `append` came to.
enum Outcome {
    Stored(u64),
    Full,
}

impl Outcome {
    fn copy<A>(self, kept: A) -> Copy<A> {
        match self {
            Outcome::Stored(number) => Copy::Stored { number, kept },
            Outcome::Full => Copy::Refused { kept, reason: DropReason::SpoolFull },
        }
    }
}

impl Shelf {
    pub(super) fn copy_alerts(&mut self, shared: &Shared, now: Instant, waiting: &Waiting) {
        let content = SpooledContent::Alerts(waiting.alerts);
        let outcome = self.append(shared, now, waiting, content, waiting.frame.to_vec());
        if let Some(outcome) = outcome {
            shared.lock().live.alerts.copied(waiting.first, outcome.copy(waiting.alerts));
        }
    }

    pub(super) fn copy_batch(&mut self, shared: &Shared, now: Instant, waiting: &Waiting) {
        let kept = keep(waiting, &self.kinds);
        let copy = match kept {
            Err(reason) => Copy::Refused { kept: waiting.events.clone(), reason },
            Ok(kept) if kept.events.is_nothing() => {
                Copy::Refused { kept: Tally::default(), reason: DropReason::QueueFull }
            }
            Ok(kept) => {
                let content = SpooledContent::Events(kept.events.iter().collect());
                match self.append(shared, now, waiting, content, kept.frame) {
                    Some(outcome) => outcome.copy(kept.events),
                    None => return,
                }
            }
        };
        shared.lock().live.batches.copied(waiting.first, copy);
    }

    /// Writes a record; `None` when the disk failed and it should be tried again.
    fn append(
        &mut self,
        shared: &Shared,
        now: Instant,
        waiting: &Waiting,
        content: SpooledContent,
        frame: Vec<u8>,
    ) -> Option<Outcome> {
        let (stream, booted) = (self.stream, self.booted);
        let record =
            SpooledFrame { stream, booted, first: waiting.first, last: waiting.last, content, frame }
                .encode();
        let spool = self.spool.as_mut()?;
        let mut evicted = Vec::new();
        let appended = spool.append(&record, &mut |number, record| {
            if let Ok(spooled) = SpooledFrame::decode(record) {
                evicted.push(Evicted { number, spooled: SpooledFrame { frame: Vec::new(), ..spooled } });
            }
        });
        self.account_evicted(shared, evicted, now);
        match appended {
            Ok(Appended::Stored { number }) => {
                self.newest = self.newest.max(number);
                self.unsynced = true;
                self.works();
                Some(Outcome::Stored(number))
            }
            Ok(Appended::Refused) | Err(SpoolError::RecordSize { .. }) => Some(Outcome::Full),
            Err(error) => {
                self.failed(now, &error);
                None
            }
        }
    }

    pub(super) fn failed(&mut self, now: Instant, error: &SpoolError) {
        if self.rest_until.is_none() {
            error!(error = error as &dyn std::error::Error, "the spool failed; will retry");
        }
        self.rest_until = Some(now + RETRY);
        self.trouble = error.to_string();
    }

    pub(super) fn works(&mut self) {
        if self.rest_until.take().is_some() {
            info!("the spool can be written again");
        }
        self.trouble.clear();
    }

    fn account_evicted(&mut self, shared: &Shared, evicted: Vec<Evicted>, now: Instant) {
        if evicted.is_empty() {
            return;
        }
        let mut state = shared.lock();
        let state = &mut *state;
        for Evicted { number, spooled } in evicted {
            if self.in_hand.as_ref().is_some_and(|(in_hand, _)| *in_hand == number) {
                // It was read before it went.
                continue;
            }
            let first = spooled.first;
            let earlier = state.earlier.iter_mut().find(|earlier| earlier.stream == spooled.stream);
            match (&spooled.content, earlier) {
                (SpooledContent::Events(counts), earlier) => {
                    let events: Tally = counts.iter().copied().collect();
                    if spooled.stream == self.stream {
                        let lost = state.live.batches.evicted(number, first, &events).unwrap_or_default();
                        state.live.lost_events(DropReason::SpoolFull, &lost, now);
                    } else if let Some(earlier) = earlier {
                        let lost = earlier.batches.evicted(number, first, &events).unwrap_or_default();
                        earlier.lost_events(DropReason::SpoolFull, &lost);
                    }
                }
                (SpooledContent::Alerts(count), earlier) => {
                    if spooled.stream == self.stream {
                        let lost = state.live.alerts.evicted(number, first, count).unwrap_or(0);
                        state.live.alerts_dropped += lost;
                    } else if let Some(earlier) = earlier {
                        let lost = earlier.alerts.evicted(number, first, count).unwrap_or(0);
                        state.live.alerts_dropped += lost;
                        earlier.alerts_lost += lost;
                    }
                }
            }
        }
    }
}

/// What of a batch goes to the disk.
fn keep(waiting: &Waiting, kinds: &[Kind]) -> Result<Kept, DropReason> {
    if all_kept(&waiting.events, kinds) {
        return Ok(Kept { frame: waiting.frame.to_vec(), events: waiting.events.clone() });
    }
    let batch = batch_in_frame(&waiting.frame).ok_or(DropReason::Malformed)?;
    let events = decode_batch(batch).map_err(|error| {
        error!(error = &error as &dyn std::error::Error, "a worker's batch cannot be opened");
        DropReason::Malformed
    })?;
    let mut builder = BatchBuilder::new();
    events.iter().filter(|event| kinds.contains(&event.kind())).for_each(|event| builder.push(event));
    let events: Tally = builder.counts().collect();
    if !events.beyond(&waiting.events).is_nothing() {
        error!("a worker's batch holds other events than it claims");
        return Err(DropReason::Malformed);
    }
    Ok(Kept { frame: frame_around_batch(&builder.finish(waiting.first)), events })
}
