//! Alerts: recorded once, read newest first.

use rusqlite::{Connection, OptionalExtension, Row, params};
use watchfire_event::{Alert, AlertId, HostId, Level, StreamId, UnixNanos};
use watchfire_wire::{decode_alert_bytes, encode_alert_bytes};

use crate::open::{AlertDb, AlertDbError};

/// An alert with the host it came from; `alert.times.stored` is set.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredAlert {
    /// The host's id.
    pub host: HostId,
    /// The host's name when it last connected; empty when it never said.
    pub hostname: String,
    /// The alert.
    pub alert: Alert,
}

/// Which alerts are wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AlertQuery {
    /// Only those that happened at or after this.
    pub since: Option<UnixNanos>,
    /// This level and above.
    pub level: Option<Level>,
    /// Only of the rule with this id.
    pub rule: Option<String>,
    /// At most so many, the newest; 0 means none.
    pub limit: usize,
}

const COLUMNS: &str = "SELECT a.number, a.host, COALESCE(h.hostname, ''), a.stored, a.alert \
                       FROM alerts a LEFT JOIN hosts h ON h.host = a.host ";

impl AlertDb {
    /// Stores alerts in one transaction, durable when this returns, and gives back those that were not there before, with
    /// the time they were stored.
    ///
    /// # Errors
    /// A full disk or a failing one; none of them is stored then.
    pub fn record_alerts(&self, stream: StreamId, alerts: &[Alert]) -> Result<Vec<Alert>, AlertDbError> {
        let failed = self.failed("store alerts");
        let mut connection = self.lock();
        let transaction = connection.transaction().map_err(&failed)?;
        let mut recorded = Vec::new();
        {
            let insert = "INSERT OR IGNORE INTO alerts (id, host, boot, incarnation, sequence, happened, stored, rule, \
                          level, tgid, uid, exe, alert) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";
            let mut insert = transaction.prepare(insert).map_err(&failed)?;
            for alert in alerts {
                let stored = UnixNanos::now();
                if insert.execute(columns(stream, alert, stored)).map_err(&failed)? == 1 {
                    recorded.push(alert.clone());
                }
            }
        }
        transaction.commit().map_err(&failed)?;
        // The moment that counts is the one after the commit: only now is it durable.
        let stored = UnixNanos::now();
        for alert in &mut recorded {
            alert.times.stored = Some(stored);
        }
        note_stored(&mut connection, &recorded).map_err(&failed)?;
        Ok(recorded)
    }

    /// The highest sequence of a stream up to which none is missing, counted from its first stored one (what came before that
    /// was acknowledged by another database); 0 when there is none.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn last_alert(&self, stream: StreamId) -> Result<u64, AlertDbError> {
        let connection = self.lock();
        // The lowest that has no successor. Alerts come in order, so that is nearly always the last one.
        let last: Option<i64> = connection
            .query_row(
                "SELECT MIN(sequence) FROM alerts a WHERE host = ?1 AND boot = ?2 AND incarnation = ?3 AND NOT EXISTS \
                 (SELECT 1 FROM alerts b WHERE b.host = ?1 AND b.boot = ?2 AND b.incarnation = ?3 \
                 AND b.sequence = a.sequence + 1)",
                params![stream.host.0, stream.boot.0, stream.incarnation.0.cast_signed()],
                |row| row.get(0),
            )
            .map_err(self.failed("find the last alert of a stream"))?;
        Ok(last.map_or(0, i64::cast_unsigned))
    }

    /// The newest alerts that match, newest first.
    ///
    /// # Errors
    /// When the file cannot be read, or a stored alert is damaged.
    pub fn alerts(&self, query: &AlertQuery) -> Result<Vec<StoredAlert>, AlertDbError> {
        let filter = "WHERE a.happened >= ?1 AND a.level >= ?2 AND (?3 IS NULL OR a.rule = ?3) \
                      ORDER BY a.number DESC LIMIT ?4";
        let failed = self.failed("list alerts");
        let connection = self.lock();
        let mut select = connection.prepare(&format!("{COLUMNS} {filter}")).map_err(&failed)?;
        let parameters = params![
            query.since.map_or(i64::MIN, |since| since.0),
            query.level.map_or(0, |level| level as u8),
            query.rule,
            i64::try_from(query.limit).unwrap_or(i64::MAX),
        ];
        let rows = select.query_map(parameters, StoredRow::read).map_err(&failed)?;
        rows.map(|row| row.map_err(&failed).and_then(|row| self.decode(row))).collect()
    }

    /// One alert.
    ///
    /// # Errors
    /// When the file cannot be read, or the alert is damaged.
    pub fn alert(&self, id: AlertId) -> Result<Option<StoredAlert>, AlertDbError> {
        let row = self
            .lock()
            .query_row(&format!("{COLUMNS} WHERE a.id = ?"), [id.0], StoredRow::read)
            .optional()
            .map_err(self.failed("find an alert"))?;
        row.map(|row| self.decode(row)).transpose()
    }

    fn decode(&self, row: StoredRow) -> Result<StoredAlert, AlertDbError> {
        let damaged =
            |source| AlertDbError::DamagedAlert { path: self.path().into(), number: row.number, source };
        let mut alert = decode_alert_bytes(&row.alert).map_err(damaged)?;
        alert.times.stored = Some(UnixNanos(row.stored));
        Ok(StoredAlert { host: HostId(row.host), hostname: row.hostname, alert })
    }
}

/// Corrects the time of storing, which the row could not know before it was stored. This alone need not be durable: after
/// a crash the row shows the moment before its commit.
fn note_stored(connection: &mut Connection, recorded: &[Alert]) -> rusqlite::Result<()> {
    connection.pragma_update(None, "synchronous", "NORMAL")?;
    let transaction = connection.transaction()?;
    {
        let mut mark = transaction.prepare("UPDATE alerts SET stored = ?1 WHERE id = ?2")?;
        for alert in recorded {
            mark.execute(params![alert.times.stored.map(|stored| stored.0), alert.id.0])?;
        }
    }
    transaction.commit()?;
    connection.pragma_update(None, "synchronous", "FULL")
}

fn columns(stream: StreamId, alert: &Alert, stored: UnixNanos) -> impl rusqlite::Params {
    let process = alert.tree.first().map(|node| node.process.clone()).unwrap_or_default();
    rusqlite::params_from_iter::<Vec<rusqlite::types::Value>>(vec![
        alert.id.0.to_vec().into(),
        stream.host.0.to_vec().into(),
        stream.boot.0.to_vec().into(),
        stream.incarnation.0.cast_signed().into(),
        alert.sequence.cast_signed().into(),
        alert.times.kernel.on_wall(alert.times.booted).0.into(),
        stored.0.into(),
        alert.rule.id.clone().into(),
        i64::from(alert.level as u8).into(),
        i64::from(process.key.tgid).into(),
        i64::from(process.credentials.uid).into(),
        process.exe.clone().into(),
        encode_alert_bytes(alert).into(),
    ])
}

struct StoredRow {
    number: i64,
    host: [u8; 16],
    hostname: String,
    stored: i64,
    alert: Vec<u8>,
}

impl StoredRow {
    fn read(row: &Row<'_>) -> rusqlite::Result<StoredRow> {
        Ok(StoredRow {
            number: row.get(0)?,
            host: row.get(1)?,
            hostname: row.get(2)?,
            stored: row.get(3)?,
            alert: row.get(4)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::collection::vec;
    use proptest::prelude::*;
    use watchfire_event::arbitrary::any_process;
    use watchfire_event::{AlertTimes, BootNanos, Kind, MatchedField, Process, ProcessNode, RuleId};

    use super::*;

    fn alert(stream: StreamId, sequence: u64, level: Level) -> Alert {
        let process =
            Process { exe: b"/bin/\xff\x1b[2J".to_vec(), argv: b"a\0b\0".to_vec(), ..Process::default() };
        Alert {
            id: AlertId::derive(stream, sequence),
            sequence,
            rule: RuleId { id: format!("rule-{}", level.as_str()), title: "A title".into() },
            attack: vec!["T1059.004".into()],
            level,
            kind: Kind::Exec,
            matched: vec![MatchedField { name: "process.exe".into(), value: "/bin/x".into() }],
            tree: vec![ProcessNode { process: Arc::new(process) }],
            times: AlertTimes {
                kernel: BootNanos(sequence * 1_000_000_000),
                booted: UnixNanos(1_000_000_000_000),
                ..AlertTimes::default()
            },
        }
    }

    fn database() -> (tempfile::TempDir, AlertDb) {
        let dir = tempfile::tempdir().unwrap();
        let db = AlertDb::open(&dir.path().join("alerts.sqlite")).unwrap();
        (dir, db)
    }

    fn all() -> AlertQuery {
        AlertQuery { limit: 100, ..AlertQuery::default() }
    }

    #[test]
    fn an_alert_reads_back_as_it_was_and_knows_when_it_was_stored() {
        let (_dir, db) = database();
        let stream = StreamId::default();
        let sent = alert(stream, 1, Level::High);
        let recorded = db.record_alerts(stream, std::slice::from_ref(&sent)).unwrap();
        let read = db.alert(sent.id).unwrap().unwrap();
        assert_eq!(read.alert, recorded[0]);
        assert_eq!(Alert { times: sent.times, ..read.alert }, sent);
    }

    #[test]
    fn an_alert_sent_twice_is_stored_once() {
        let (dir, db) = database();
        let stream = StreamId::default();
        let alerts: Vec<Alert> = (1..=3).map(|sequence| alert(stream, sequence, Level::Low)).collect();
        assert_eq!(db.record_alerts(stream, &alerts[..2]).unwrap().len(), 2);
        assert_eq!(db.record_alerts(stream, &alerts).unwrap().len(), 1);
        drop(db);
        let db = AlertDb::open(&dir.path().join("alerts.sqlite")).unwrap();
        assert_eq!(db.alerts(&all()).unwrap().len(), 3);
        assert_eq!(db.last_alert(stream).unwrap(), 3);
        assert_eq!(db.last_alert(StreamId { incarnation: BootNanos(9), ..stream }).unwrap(), 0);
    }

    #[test]
    fn the_last_alert_stands_before_a_gap_until_it_is_filled() {
        let (_dir, db) = database();
        let stream = StreamId::default();
        let record = |sequences: &[u64]| {
            let alerts: Vec<Alert> =
                sequences.iter().map(|sequence| alert(stream, *sequence, Level::Low)).collect();
            db.record_alerts(stream, &alerts).unwrap();
            db.last_alert(stream).unwrap()
        };
        assert_eq!(record(&[57, 58]), 58);
        assert_eq!(record(&[61]), 58);
        assert_eq!(record(&[59, 60]), 61);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn any_alert_reads_back_as_it_was(
            tree in vec(any_process(), 1..5),
            words in (".{0,20}", ".{0,40}", vec("T[0-9]{4}", 0..4)),
            matched in vec((".{0,12}", ".{0,40}"), 0..4),
            times: (u64, u64, u64, i64),
            numbers in (0..Level::ALL.len(), 0..Kind::ALL.len(), any::<u64>()),
        ) {
            let (_dir, db) = database();
            let stream = StreamId { incarnation: BootNanos(times.0), ..StreamId::default() };
            let sent = Alert {
                id: AlertId::derive(stream, numbers.2),
                sequence: numbers.2,
                rule: RuleId { id: words.0, title: words.1 },
                attack: words.2,
                level: Level::ALL[numbers.0],
                kind: Kind::ALL[numbers.1],
                matched: matched.into_iter().map(|(name, value)| MatchedField { name, value }).collect(),
                tree: tree.into_iter().map(|process| ProcessNode { process: Arc::new(process) }).collect(),
                times: AlertTimes {
                    kernel: BootNanos(times.0),
                    decoded: BootNanos(times.1),
                    judged: BootNanos(times.2),
                    stored: None,
                    booted: UnixNanos(times.3),
                },
            };
            db.record_alerts(stream, std::slice::from_ref(&sent)).unwrap();
            let mut read = db.alert(sent.id).unwrap().unwrap().alert;
            prop_assert!(read.times.stored.take().is_some());
            prop_assert_eq!(read, sent);
        }
    }

    #[test]
    fn a_list_is_narrowed_by_time_level_rule_and_limit() {
        let (_dir, db) = database();
        let stream = StreamId::default();
        let levels = [Level::Low, Level::High, Level::Critical, Level::Medium];
        let alerts: Vec<Alert> =
            (1..).zip(levels).map(|(sequence, level)| alert(stream, sequence, level)).collect();
        db.record_alerts(stream, &alerts).unwrap();
        let sequences = |query: AlertQuery| {
            db.alerts(&query).unwrap().iter().map(|stored| stored.alert.sequence).collect::<Vec<_>>()
        };
        assert_eq!(sequences(all()), [4, 3, 2, 1]);
        assert_eq!(sequences(AlertQuery { level: Some(Level::High), ..all() }), [3, 2]);
        assert_eq!(sequences(AlertQuery { rule: Some("rule-medium".into()), ..all() }), [4]);
        assert_eq!(sequences(AlertQuery { since: Some(UnixNanos(1_003_000_000_000)), ..all() }), [4, 3]);
        assert_eq!(sequences(AlertQuery { limit: 1, ..all() }), [4]);
        assert_eq!(sequences(AlertQuery { rule: Some("' OR 1=1 --".into()), ..all() }), [0u64; 0]);
    }
}
