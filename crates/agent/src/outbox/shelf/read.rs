//! Back from the disk: what earlier lives left is found, and what is next in a lane is brought into memory.

use std::collections::HashMap;
use std::sync::MutexGuard;
use std::time::Instant;

use tracing::{error, info, warn};
use watchfire_event::{DropReason, StreamId, UnixNanos};
use watchfire_wire::v1;
use watchfire_wire::{SpooledContent, SpooledFrame};

use super::Shelf;
use crate::outbox::books::LastBooks;
use crate::outbox::earlier::{Earlier, Found};
use crate::outbox::lane::{Lane, Wish};
use crate::outbox::tally::Tally;
use crate::outbox::{Shared, State};

/// Of what comes back from the disk at most so much waits in memory, for each lane.
const READ_AHEAD: usize = 512 << 10;
/// The most earlier streams replayed after one pass over the spool.
const MOST_EARLIER: usize = 256;

impl Shelf {
    /// Reads through the spool for streams of earlier lives. Records of the present one were put there by this thread.
    pub(super) fn list_earlier(&mut self, shared: &Shared) {
        let Some(spool) = &mut self.spool else { return };
        spool.rewind();
        let mut order: Vec<(StreamId, UnixNanos)> = Vec::new();
        let mut found: HashMap<StreamId, Found> = HashMap::new();
        self.unlisted_from = None;
        let mut unreadable = 0u64;
        loop {
            let (number, record) = match spool.next() {
                Ok(Some(next)) => next,
                Ok(None) => break,
                Err(error) => {
                    warn!(error = &error as &dyn std::error::Error, "a segment of the spool cannot be read");
                    continue;
                }
            };
            self.newest = self.newest.max(number);
            let spooled = match SpooledFrame::decode(&record) {
                Ok(spooled) => spooled,
                Err(_) => {
                    unreadable += 1;
                    continue;
                }
            };
            if spooled.stream == self.stream || self.given_up.contains(&spooled.stream) {
                continue;
            }
            if !found.contains_key(&spooled.stream) {
                if order.len() >= MOST_EARLIER {
                    self.unlisted_from.get_or_insert(number);
                    continue;
                }
                order.push((spooled.stream, spooled.booted));
            }
            found.entry(spooled.stream).or_default().add(number, &spooled);
        }
        spool.rewind();
        self.in_hand = None;
        if unreadable > 0 {
            error!(unreadable, "records of the spool are no frames; they are left out");
        }
        let mut state = shared.lock();
        self.pass = Some(demotions(&state));
        let mut listed = Vec::new();
        for (stream, booted) in order {
            let found = found.remove(&stream).unwrap_or_default();
            let known = state.earlier.iter().position(|earlier| earlier.stream == stream);
            let known = known.and_then(|index| state.earlier.remove(index));
            listed.push(match known {
                Some(known) => Earlier::new(stream, known.hello, found, known.books),
                None => Earlier::new(stream, self.hello_of(stream, booted), found, LastBooks::default()),
            });
        }
        // Those that left nothing but books come first: they take no time.
        state.earlier.extend(listed);
        state.listed = true;
        let streams = state.earlier.len();
        if streams > 0 {
            info!(streams, "earlier lives of the agent have something left to hand over");
        }
        shared.changed.notify_all();
    }

    fn hello_of(&self, stream: StreamId, booted: UnixNanos) -> v1::Hello {
        v1::Hello {
            host: stream.host.0.to_vec(),
            boot: stream.boot.0.to_vec(),
            incarnation: stream.incarnation.0,
            booted: booted.0,
            ..self.like.clone()
        }
    }

    /// Whether reading on would bring a lane forward.
    pub(super) fn may_read(&self, state: &State) -> bool {
        let front = state.earlier.front();
        match &self.in_hand {
            Some((_, spooled)) => self.wish(state, spooled) != Wish::Later,
            None if state.earlier.is_empty() && self.unlisted_from.is_some() => true,
            None => {
                hungry(state.live.connected, &state.live.batches, &state.live.alerts)
                    || front
                        .is_some_and(|earlier| hungry(earlier.connected, &earlier.batches, &earlier.alerts))
            }
        }
    }

    /// What a record is to the lane it belongs to.
    fn wish(&self, state: &State, spooled: &SpooledFrame) -> Wish {
        let (batches, alerts, ready) = if spooled.stream == self.stream {
            (&state.live.batches, &state.live.alerts, state.live.connected)
        } else {
            let Some(index) = state.earlier.iter().position(|earlier| earlier.stream == spooled.stream)
            else {
                return Wish::Pass;
            };
            let earlier = &state.earlier[index];
            (&earlier.batches, &earlier.alerts, index == 0 && earlier.connected)
        };
        let room = if ready { READ_AHEAD } else { 0 };
        match spooled.content {
            SpooledContent::Events(_) => batches.wish(spooled.first, spooled.last, room),
            SpooledContent::Alerts(_) => alerts.wish(spooled.first, spooled.last, room),
        }
    }

    pub(super) fn read(&mut self, shared: &Shared, now: Instant) {
        if self.in_hand.is_none() {
            let relist = {
                let state = shared.lock();
                state.earlier.is_empty() && self.unlisted_from.is_some()
            };
            if relist {
                return self.list_earlier(shared);
            }
            let Some(spool) = &mut self.spool else { return };
            match spool.next() {
                Ok(Some((number, record))) => match SpooledFrame::decode(&record) {
                    Ok(spooled) => self.in_hand = Some((number, spooled)),
                    // Told when the spool was opened.
                    Err(_) => return,
                },
                Ok(None) => return self.read_to_the_end(shared, now),
                Err(error) => {
                    warn!(error = &error as &dyn std::error::Error, "a segment of the spool cannot be read");
                    return;
                }
            }
        }
        let Some((number, spooled)) = self.in_hand.take() else { return };
        let mut state = shared.lock();
        match self.wish(&state, &spooled) {
            Wish::Later => self.in_hand = Some((number, spooled)),
            Wish::Pass => {}
            Wish::Load => {
                load(&mut state, self.stream, number, spooled);
                drop(state);
                shared.changed.notify_all();
            }
        }
    }

    /// A lane waits for records, and there are none any more: either they lie before the place where this pass began to read, or
    /// they are gone.
    fn read_to_the_end(&mut self, shared: &Shared, now: Instant) {
        let Some(spool) = &mut self.spool else { return };
        let mut state = shared.lock();
        let state = &mut *state;
        let demotions = demotions(state);
        if self.pass != Some(demotions) {
            self.pass = Some(demotions);
            spool.rewind();
            return;
        }
        // The next pass begins anew.
        self.pass = None;
        let lost = state.live.batches.give_up_span();
        let mut alerts = state.live.alerts.give_up_span();
        let mut events = lost.total();
        state.live.lost_events(DropReason::SpoolFailed, &lost, now);
        if let Some(earlier) = state.earlier.front_mut() {
            let lost = earlier.batches.give_up_span();
            events += lost.total();
            earlier.lost_events(DropReason::SpoolFailed, &lost);
            let lost = earlier.alerts.give_up_span();
            earlier.alerts_lost += lost;
            alerts += lost;
        }
        state.live.alerts_dropped += alerts;
        if events + alerts > 0 {
            error!(events, alerts, "records of the spool cannot be read any more; what they held is lost");
        }
        shared.changed.notify_all();
    }
}

fn load(state: &mut MutexGuard<'_, State>, live: StreamId, number: u64, spooled: SpooledFrame) {
    let SpooledFrame { stream, first, last, content, frame, .. } = spooled;
    let (batches, alerts) = if stream == live {
        let live = &mut state.live;
        (&mut live.batches, &mut live.alerts)
    } else {
        let Some(earlier) = state.earlier.iter_mut().find(|earlier| earlier.stream == stream) else { return };
        (&mut earlier.batches, &mut earlier.alerts)
    };
    match content {
        SpooledContent::Events(counts) => {
            batches.load(number, first, last, frame, counts.into_iter().collect());
        }
        SpooledContent::Alerts(count) => alerts.load(number, first, last, frame, count),
    }
}

fn hungry(connected: bool, batches: &Lane<Tally>, alerts: &Lane<u64>) -> bool {
    connected && (batches.is_hungry(READ_AHEAD) || alerts.is_hungry(READ_AHEAD))
}

fn demotions(state: &State) -> u64 {
    state.live.batches.demotions() + state.live.alerts.demotions()
}
