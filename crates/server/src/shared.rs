//! What all parts of the server see.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use tokio::sync::{broadcast, watch};
use watchfire_event::Alert;

use crate::agents::Agents;
use crate::auth::Auth;
use crate::ingest::IngestFaults;
use crate::live::LiveCounts;
use crate::stores::Stores;

/// Alerts a slow reader of the live feed may be behind; beyond that it is told how many it missed.
const FEED: usize = 256;

/// An alert from the store, with the name its host is shown by.
#[derive(Debug, Clone)]
pub(crate) struct StoredAlert {
    pub(crate) host: String,
    pub(crate) alert: Alert,
}

/// The server's state. Each part has its own lock, none is held across another.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) stores: Stores,
    pub(crate) agents: Agents,
    pub(crate) live: LiveCounts,
    pub(crate) auth: Auth,
    pub(crate) ingest_faults: IngestFaults,
    /// Live feeds that are open.
    pub(crate) feeds: AtomicU64,
    alert_feed: broadcast::Sender<Arc<StoredAlert>>,
    stop: watch::Sender<bool>,
}

impl Shared {
    pub(crate) fn new(stores: Stores, auth: Auth) -> Self {
        Shared {
            stores,
            agents: Agents::default(),
            live: LiveCounts::default(),
            auth,
            ingest_faults: IngestFaults::default(),
            feeds: AtomicU64::new(0),
            alert_feed: broadcast::Sender::new(FEED),
            stop: watch::Sender::new(false),
        }
    }

    /// Tells everyone who watches.
    pub(crate) fn publish(&self, alert: StoredAlert) {
        // An error means that no one watches.
        drop(self.alert_feed.send(Arc::new(alert)));
    }

    /// Alerts stored from now on.
    pub(crate) fn alert_feed(&self) -> broadcast::Receiver<Arc<StoredAlert>> {
        self.alert_feed.subscribe()
    }

    pub(crate) fn stop(&self) {
        self.stop.send_replace(true);
    }

    pub(crate) fn stopping(&self) -> bool {
        *self.stop.borrow()
    }

    /// Becomes true when the server stops.
    pub(crate) fn stop_signal(&self) -> watch::Receiver<bool> {
        self.stop.subscribe()
    }
}
