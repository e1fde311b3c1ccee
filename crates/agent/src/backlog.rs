//! What waits for the server: batches and alerts of one stream, kept until they are acknowledged.
//!
//! Two lanes, so that an alert never waits behind events. Each is bounded; what does not fit is the newest, it is
//! counted, and the next ledger that passes by carries the count.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use watchfire_event::{Books, DropReason, Kind, Stage, StreamId};
use watchfire_wire::v1;
use watchfire_wire::v1::agent_frame::Body;

/// One frame, encoded, with what is needed to account for it unopened.
#[derive(Debug, Clone)]
enum Item {
    Batch {
        sequence: u64,
        frame: Arc<[u8]>,
    },
    /// The books after the batches before it.
    Ledger {
        books: Books,
        after_batch: u64,
    },
    Status(v1::Status),
}

#[derive(Debug, Default)]
struct Lanes {
    alerts: VecDeque<(u64, Arc<[u8]>)>,
    items: VecDeque<Item>,
    bytes: usize,
    // How far the current connection has sent; an acknowledgement removes, a lost connection rewinds.
    alerts_sent: usize,
    items_sent: usize,
    dropped: BTreeMap<Kind, u64>,
    alerts_dropped: u64,
    closed: bool,
}

/// Frames of one stream on their way to the server.
#[derive(Debug)]
pub(crate) struct Backlog {
    pub(crate) stream: StreamId,
    max_bytes: usize,
    max_alerts: usize,
    lanes: Mutex<Lanes>,
    changed: Condvar,
}

impl Backlog {
    pub(crate) fn new(stream: StreamId, max_bytes: usize, max_alerts: usize) -> Self {
        Backlog { stream, max_bytes, max_alerts, lanes: Mutex::default(), changed: Condvar::new() }
    }

    /// Takes an encoded event batch; `frame` is the whole `AgentFrame`.
    pub(crate) fn push_batch(&self, sequence: u64, counts: &[(Kind, u64)], frame: Vec<u8>) {
        let mut lanes = self.lock();
        if lanes.bytes + frame.len() > self.max_bytes {
            for (kind, count) in counts {
                *lanes.dropped.entry(*kind).or_default() += count;
            }
            return;
        }
        lanes.bytes += frame.len();
        lanes.items.push_back(Item::Batch { sequence, frame: frame.into() });
        self.changed.notify_all();
    }

    /// Takes `count` encoded alerts in one frame, the last of which has this sequence.
    pub(crate) fn push_alerts(&self, sequence: u64, count: u64, frame: Vec<u8>) {
        let mut lanes = self.lock();
        if lanes.alerts.len() >= self.max_alerts {
            lanes.alerts_dropped += count;
            return;
        }
        lanes.alerts.push_back((sequence, frame.into()));
        self.changed.notify_all();
    }

    /// Takes the worker's books, and adds what this queue has dropped so far. Books that still wait directly behind one
    /// another are replaced by the newest.
    pub(crate) fn push_ledger(&self, mut books: Books, after_batch: u64) {
        let mut lanes = self.lock();
        for (kind, count) in &lanes.dropped {
            let counts = books.entry(Stage::Uplink, *kind);
            counts.passed = counts.passed.saturating_sub(*count);
            *counts.dropped.entry(DropReason::QueueFull).or_default() += count;
        }
        self.push_newest(&mut lanes, Item::Ledger { books, after_batch });
    }

    /// Takes a status; like books, only the newest matters.
    pub(crate) fn push_status(&self, status: v1::Status) {
        let mut lanes = self.lock();
        self.push_newest(&mut lanes, Item::Status(status));
    }

    /// Alerts lost because the server was away for too long.
    pub(crate) fn alerts_dropped(&self) -> u64 {
        self.lock().alerts_dropped
    }

    /// No more will come: the worker has ended.
    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }

    /// Whether no more will come and all that came is acknowledged.
    pub(crate) fn finished(&self) -> bool {
        let lanes = self.lock();
        lanes.closed && lanes.alerts.is_empty() && lanes.items.is_empty()
    }

    /// The next frame to send on the current connection, waiting for one until `deadline`.
    pub(crate) fn next(&self, deadline: Instant) -> Option<Arc<[u8]>> {
        let mut lanes = self.lock();
        loop {
            if let Some(frame) = lanes.next() {
                return Some(frame);
            }
            let left = deadline.checked_duration_since(Instant::now()).unwrap_or(Duration::ZERO);
            if left.is_zero() || lanes.closed {
                return None;
            }
            (lanes, _) =
                self.changed.wait_timeout(lanes, left).expect("no thread panics while it holds the lanes");
        }
    }

    /// A new connection begins, and the server holds everything up to these numbers: the rest is sent again.
    pub(crate) fn rewind(&self, last_batch: u64, last_alert: u64) {
        let mut lanes = self.lock();
        lanes.alerts_sent = 0;
        lanes.items_sent = 0;
        lanes.acknowledge(last_batch, last_alert);
    }

    /// The server holds everything up to these numbers.
    pub(crate) fn acknowledge(&self, last_batch: u64, last_alert: u64) {
        self.lock().acknowledge(last_batch, last_alert);
        self.changed.notify_all();
    }

    fn push_newest(&self, lanes: &mut Lanes, item: Item) {
        let same = std::mem::discriminant(&item);
        // Only unsent items may be replaced, and only back to the last batch, so that books stay at their place.
        let unsent = lanes.items_sent;
        let tail = lanes.items.iter().enumerate().skip(unsent).rev();
        let older = tail
            .take_while(|(_, waiting)| !matches!(waiting, Item::Batch { .. }))
            .find(|(_, waiting)| std::mem::discriminant(*waiting) == same)
            .map(|(index, _)| index);
        if let Some(index) = older {
            lanes.items.remove(index);
        }
        lanes.items.push_back(item);
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, Lanes> {
        self.lanes.lock().expect("no thread panics while it holds the lanes")
    }
}

impl Lanes {
    fn next(&mut self) -> Option<Arc<[u8]>> {
        if let Some((_, frame)) = self.alerts.get(self.alerts_sent) {
            self.alerts_sent += 1;
            return Some(frame.clone());
        }
        let item = self.items.get(self.items_sent)?.clone();
        let body = match item {
            Item::Batch { frame, .. } => {
                self.items_sent += 1;
                return Some(frame);
            }
            // These need no acknowledgement: they are stale a second later.
            Item::Ledger { books, after_batch } => {
                Body::Ledger(watchfire_wire::encode_books(&books, after_batch))
            }
            Item::Status(status) => Body::Status(status),
        };
        self.items.remove(self.items_sent);
        Some(encode(body).into())
    }

    fn acknowledge(&mut self, last_batch: u64, last_alert: u64) {
        while self.alerts.front().is_some_and(|(sequence, _)| *sequence <= last_alert) {
            self.alerts.pop_front();
            self.alerts_sent = self.alerts_sent.saturating_sub(1);
        }
        while let Some(Item::Batch { sequence, frame }) = self.items.front() {
            if *sequence > last_batch {
                break;
            }
            self.bytes -= frame.len();
            self.items.pop_front();
            self.items_sent = self.items_sent.saturating_sub(1);
        }
    }
}

/// The bytes of one `AgentFrame`.
pub(crate) fn encode(body: Body) -> Vec<u8> {
    use prost::Message;
    v1::AgentFrame { body: Some(body) }.encode_to_vec()
}

#[cfg(test)]
mod tests {
    use watchfire_event::Counts;

    use super::*;

    fn backlog() -> Backlog {
        Backlog::new(StreamId::default(), 100, 2)
    }

    fn next(backlog: &Backlog) -> Option<Vec<u8>> {
        backlog.next(Instant::now()).map(|frame| frame.to_vec())
    }

    #[test]
    fn alerts_overtake_events_and_both_keep_their_order() {
        let backlog = backlog();
        backlog.push_batch(1, &[(Kind::Exec, 1)], vec![1]);
        backlog.push_batch(2, &[(Kind::Exec, 1)], vec![2]);
        backlog.push_alerts(1, 1, vec![11]);
        backlog.push_alerts(2, 1, vec![12]);
        let order: Vec<_> = std::iter::from_fn(|| next(&backlog)).collect();
        assert_eq!(order, [vec![11], vec![12], vec![1], vec![2]]);
    }

    #[test]
    fn what_was_not_acknowledged_is_sent_again_after_a_reconnect() {
        let backlog = backlog();
        (1..=3).for_each(|sequence| backlog.push_batch(sequence, &[], vec![u8::try_from(sequence).unwrap()]));
        while next(&backlog).is_some() {}
        backlog.acknowledge(1, 0);
        backlog.rewind(2, 0);
        assert_eq!(next(&backlog), Some(vec![3]));
        backlog.close();
        assert!(!backlog.finished());
        backlog.acknowledge(3, 0);
        assert!(backlog.finished());
    }

    #[test]
    fn what_does_not_fit_is_counted_and_the_next_books_still_close() {
        let backlog = backlog();
        backlog.push_batch(1, &[(Kind::Exec, 5)], vec![0; 90]);
        backlog.push_batch(2, &[(Kind::Exec, 7)], vec![0; 90]);
        let mut books = Books::default();
        *books.entry(Stage::Uplink, Kind::Exec) = Counts { seen: 12, passed: 12, ..Counts::default() };
        backlog.push_ledger(books, 2);
        let lanes = backlog.lock();
        let Some(Item::Ledger { books, .. }) = lanes.items.back() else { panic!("the books are queued") };
        let counts = books.get(Stage::Uplink, Kind::Exec).unwrap();
        assert_eq!((counts.passed, counts.dropped_total()), (5, 7));
        assert!(books.faults().is_empty());
    }

    #[test]
    fn only_the_newest_books_wait_behind_a_batch() {
        let backlog = backlog();
        backlog.push_batch(1, &[], vec![1]);
        for after in 0..50 {
            backlog.push_ledger(Books::default(), after);
            backlog.push_status(v1::Status::default());
        }
        assert_eq!(backlog.lock().items.len(), 3);
    }
}
