//! What lasts: the lake with its log, and the alert database. All calls may wait for the disk.

use std::path::Path;
use std::time::Instant;

use watchfire_alertdb::{AlertDb, AlertDbError, AlertQuery, HostRecord};
use watchfire_event::{Alert, AlertId, Books, HostId, StreamId, UnixNanos};
use watchfire_lake::{Append, EventQuery, EventRows, Lake, LakeError, LakeSettings, StreamMeta};
use watchfire_wire::v1;

use crate::agents::name_or_id;
use crate::api::List;
use crate::error::ServerError;
use crate::shared::StoredAlert;

/// The most alerts one list holds: each comes with its whole process tree.
const MOST_ALERTS: usize = 100_000;

/// Both stores, shared by all threads.
#[derive(Debug)]
pub(crate) struct Stores {
    lake: Lake,
    alerts: AlertDb,
}

/// A host that connected at some time.
#[derive(Debug, Clone)]
pub(crate) struct HostRow {
    pub(crate) id: HostId,
    /// Safe to show.
    pub(crate) name: String,
    pub(crate) os: String,
    pub(crate) kernel: String,
    pub(crate) agent_version: String,
    pub(crate) first_seen: UnixNanos,
    pub(crate) last_seen: UnixNanos,
}

impl Stores {
    pub(crate) fn open(dir: &Path, alerts: &Path, settings: LakeSettings) -> Result<Stores, ServerError> {
        let lake = Lake::open(dir, settings).map_err(|error| ServerError::Lake(Box::new(error)))?;
        let alerts = AlertDb::open(alerts).map_err(|error| ServerError::Alerts(Box::new(error)))?;
        Ok(Stores { lake, alerts })
    }

    pub(crate) fn append(&self, meta: &StreamMeta, sequence: u64, batch: &[u8]) -> Result<Append, LakeError> {
        self.lake.append(meta, sequence, batch)
    }

    pub(crate) fn sync(&self) -> Result<(), LakeError> {
        self.lake.sync()
    }

    pub(crate) fn archive_due(&self) -> Result<(), LakeError> {
        self.lake.archive_due(Instant::now()).map(drop)
    }

    pub(crate) fn flush(&self) -> Result<(), LakeError> {
        self.lake.flush().map(drop)
    }

    /// The last batch of a stream, and its books at exactly that point.
    pub(crate) fn position(&self, stream: StreamId) -> (u64, Books) {
        self.lake.position(stream)
    }

    pub(crate) fn books(&self, stream: StreamId) -> Books {
        self.lake.books(stream)
    }

    /// The newest events that match, oldest first.
    pub(crate) fn events(&self, list: &List) -> Result<EventRows, LakeError> {
        let query = EventQuery {
            kinds: list.kinds.clone(),
            since: list.since,
            limit: list.limit,
            ..EventQuery::default()
        };
        self.lake.query(&query)
    }

    /// Stores alerts durably; gives back those that were not there before.
    pub(crate) fn record_alerts(
        &self,
        stream: StreamId,
        alerts: &[Alert],
    ) -> Result<Vec<Alert>, AlertDbError> {
        self.alerts.record_alerts(stream, alerts)
    }

    pub(crate) fn last_alert(&self, stream: StreamId) -> Result<u64, AlertDbError> {
        self.alerts.last_alert(stream)
    }

    /// The newest that match, oldest first.
    pub(crate) fn alerts(&self, list: &List) -> Result<Vec<StoredAlert>, AlertDbError> {
        let (since, level, rule) = (list.since, list.level, list.rule.clone());
        let query = AlertQuery { since, level, rule, limit: list.limit.min(MOST_ALERTS) };
        Ok(self.alerts.alerts(&query)?.into_iter().rev().map(named).collect())
    }

    /// What was stored after an alert, oldest first; at most the newest `limit`, and nothing when that alert is not among
    /// them.
    pub(crate) fn alerts_after(&self, id: AlertId, limit: usize) -> Result<Vec<StoredAlert>, AlertDbError> {
        let newest = self.alerts.alerts(&AlertQuery { limit, ..AlertQuery::default() })?;
        let Some(known) = newest.iter().position(|stored| stored.alert.id == id) else {
            return Ok(Vec::new());
        };
        Ok(newest.into_iter().take(known).rev().map(named).collect())
    }

    pub(crate) fn alert(&self, id: AlertId) -> Result<Option<StoredAlert>, AlertDbError> {
        Ok(self.alerts.alert(id)?.map(named))
    }

    /// A host's agent said hello, or was heard of again.
    pub(crate) fn host_seen(&self, stream: StreamId, hello: &v1::Hello) -> Result<(), AlertDbError> {
        let now = UnixNanos::now();
        self.alerts.host_seen(&HostRecord {
            stream,
            hostname: hello.hostname.clone(),
            os: hello.os.clone(),
            kernel: hello.kernel.clone(),
            agent_version: hello.agent_version.clone(),
            first_seen: now,
            last_seen: now,
        })
    }

    pub(crate) fn hosts(&self) -> Result<Vec<HostRow>, AlertDbError> {
        Ok(self.alerts.hosts()?.into_iter().map(host_row).collect())
    }
}

fn named(stored: watchfire_alertdb::StoredAlert) -> StoredAlert {
    StoredAlert { host: name_or_id(&stored.hostname, stored.host), alert: stored.alert }
}

fn host_row(record: HostRecord) -> HostRow {
    HostRow {
        id: record.stream.host,
        name: name_or_id(&record.hostname, record.stream.host),
        os: record.os,
        kernel: record.kernel,
        agent_version: record.agent_version,
        first_seen: record.first_seen,
        last_seen: record.last_seen,
    }
}
