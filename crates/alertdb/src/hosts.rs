//! Hosts: who has connected, and as what.

use rusqlite::{Row, params};
use watchfire_event::{BootId, BootNanos, HostId, StreamId, UnixNanos};

use crate::open::{AlertDb, AlertDbError};

/// A host as it last presented itself. The texts are the host's own words: escape them before showing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostRecord {
    /// The host, its boot, and the run of its agent.
    pub stream: StreamId,
    /// Its name.
    pub hostname: String,
    /// Its operating system.
    pub os: String,
    /// Its kernel's release.
    pub kernel: String,
    /// Its agent's version.
    pub agent_version: String,
    /// When it first connected; kept from the first record.
    pub first_seen: UnixNanos,
    /// When it last did.
    pub last_seen: UnixNanos,
}

impl AlertDb {
    /// Takes in a host that connected, or was heard of again.
    ///
    /// # Errors
    /// A full disk or a failing one.
    pub fn host_seen(&self, host: &HostRecord) -> Result<(), AlertDbError> {
        let upsert = "INSERT INTO hosts (host, hostname, os, kernel, agent_version, boot, incarnation, first_seen, last_seen) \
                      VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9) ON CONFLICT (host) DO UPDATE SET hostname = ?2, os = ?3, \
                      kernel = ?4, agent_version = ?5, boot = ?6, incarnation = ?7, last_seen = ?9";
        let parameters = params![
            host.stream.host.0,
            host.hostname,
            host.os,
            host.kernel,
            host.agent_version,
            host.stream.boot.0,
            host.stream.incarnation.0.cast_signed(),
            host.first_seen.0,
            host.last_seen.0,
        ];
        self.lock().execute(upsert, parameters).map_err(self.failed("record a host"))?;
        Ok(())
    }

    /// Every host that ever connected, by name.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn hosts(&self) -> Result<Vec<HostRecord>, AlertDbError> {
        let failed = self.failed("list hosts");
        let connection = self.lock();
        let select = "SELECT host, boot, incarnation, hostname, os, kernel, agent_version, first_seen, last_seen \
                      FROM hosts ORDER BY hostname, host";
        let mut select = connection.prepare(select).map_err(&failed)?;
        let rows = select.query_map([], read).map_err(&failed)?;
        rows.collect::<Result<_, _>>().map_err(&failed)
    }
}

fn read(row: &Row<'_>) -> rusqlite::Result<HostRecord> {
    let incarnation: i64 = row.get(2)?;
    Ok(HostRecord {
        stream: StreamId {
            host: HostId(row.get(0)?),
            boot: BootId(row.get(1)?),
            incarnation: BootNanos(incarnation.cast_unsigned()),
        },
        hostname: row.get(3)?,
        os: row.get(4)?,
        kernel: row.get(5)?,
        agent_version: row.get(6)?,
        first_seen: UnixNanos(row.get(7)?),
        last_seen: UnixNanos(row.get(8)?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_that_returns_keeps_its_first_sight_and_takes_its_new_name() {
        let dir = tempfile::tempdir().unwrap();
        let db = AlertDb::open(&dir.path().join("alerts.sqlite")).unwrap();
        let first = HostRecord {
            stream: StreamId { host: HostId([7; 16]), ..StreamId::default() },
            hostname: "old".into(),
            os: "Debian".into(),
            kernel: "6.1".into(),
            agent_version: "0.1.0".into(),
            first_seen: UnixNanos(10),
            last_seen: UnixNanos(10),
        };
        db.host_seen(&first).unwrap();
        let later = HostRecord {
            hostname: "new".into(),
            first_seen: UnixNanos(20),
            last_seen: UnixNanos(20),
            ..first.clone()
        };
        db.host_seen(&later).unwrap();
        assert_eq!(db.hosts().unwrap(), [HostRecord { first_seen: UnixNanos(10), ..later }]);
    }
}
