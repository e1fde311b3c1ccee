//! What the server knows of its agents right now: who is connected, what they last said of themselves, and their
//! books. In memory only: an agent says all of it again when it connects.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use watchfire_event::{Books, HostId, StreamId, UnixNanos};
use watchfire_wire::v1;

/// Hosts remembered on one machine: its own, and a few of test agents.
const MAX_HOSTS: usize = 64;

/// One host's agent.
#[derive(Debug, Clone)]
pub(crate) struct AgentState {
    pub(crate) stream: StreamId,
    pub(crate) hello: v1::Hello,
    /// Connections of this stream that are open; more than one while a reconnect overlaps.
    pub(crate) connections: u32,
    pub(crate) last_frame: UnixNanos,
    pub(crate) status: Option<v1::Status>,
    pub(crate) ledger: Option<LedgerSnapshot>,
}

/// All stages' books at one point of the stream.
#[derive(Debug, Clone)]
pub(crate) struct LedgerSnapshot {
    pub(crate) time: UnixNanos,
    pub(crate) books: Books,
}

impl AgentState {
    pub(crate) fn online(&self) -> bool {
        self.connections > 0
    }

    /// The hostname, escaped, or the host's id when it gave none.
    pub(crate) fn host_name(&self) -> String {
        name_or_id(&self.hello.hostname, self.stream.host)
    }
}

/// What stands for a host in output.
pub(crate) fn name_or_id(hostname: &str, host: HostId) -> String {
    if hostname.is_empty() {
        host.to_string()
    } else {
        watchfire_event::printable(hostname.as_bytes()).into_owned()
    }
}

/// The table of agents.
#[derive(Debug, Default)]
pub(crate) struct Agents {
    by_host: Mutex<BTreeMap<HostId, AgentState>>,
}

impl Agents {
    /// An agent said hello; false when the table is full of others that are online.
    pub(crate) fn connected(&self, stream: StreamId, hello: v1::Hello) -> bool {
        let now = UnixNanos::now();
        let mut by_host = self.lock();
        if let Some(known) = by_host.get_mut(&stream.host).filter(|known| known.stream == stream) {
            known.connections += 1;
            known.hello = hello;
            return true;
        }
        if by_host.len() >= MAX_HOSTS && !by_host.contains_key(&stream.host) {
            let gone =
                by_host.iter().filter(|(_, agent)| !agent.online()).min_by_key(|(_, agent)| agent.last_frame);
            let Some(gone) = gone.map(|(host, _)| *host) else { return false };
            by_host.remove(&gone);
        }
        let state = AgentState { stream, hello, connections: 1, last_frame: now, status: None, ledger: None };
        by_host.insert(stream.host, state);
        true
    }

    /// A connection of this stream ended.
    pub(crate) fn disconnected(&self, stream: StreamId) {
        self.update(stream, |agent| agent.connections = agent.connections.saturating_sub(1));
    }

    /// Changes what is known of the agent behind `stream`; nothing happens when a newer one took its place.
    pub(crate) fn update(&self, stream: StreamId, change: impl FnOnce(&mut AgentState)) {
        let mut by_host = self.lock();
        if let Some(agent) = by_host.get_mut(&stream.host).filter(|agent| agent.stream == stream) {
            agent.last_frame = UnixNanos::now();
            change(agent);
        }
    }

    /// All agents, by host id.
    pub(crate) fn all(&self) -> Vec<AgentState> {
        self.lock().values().cloned().collect()
    }

    /// `Ok` once an agent is online with its sensors attached; else what is missing, in words.
    pub(crate) fn health(&self) -> Result<(), String> {
        let by_host = self.lock();
        let Some(agent) = by_host.values().find(|agent| agent.online()) else {
            return Err("the local agent is not online".to_owned());
        };
        let attached =
            |agent: &AgentState| agent.status.as_ref().is_some_and(|status| status.sensors_attached);
        if by_host.values().any(|agent| agent.online() && attached(agent)) {
            return Ok(());
        }
        match &agent.status {
            None => Err("the local agent is online and has not told its status yet".to_owned()),
            Some(status) if !status.idle.is_empty() => {
                let why = watchfire_event::printable(status.idle.as_bytes());
                Err(format!("no sensor is in the kernel: {why}"))
            }
            Some(status) => Err(format!("sensors are not attached{}", unavailable(status))),
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<HostId, AgentState>> {
        self.by_host.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn unavailable(status: &v1::Status) -> String {
    let missing = status.sources.iter().filter(|source| source.state == "unavailable");
    let mut words: Vec<String> =
        missing.map(|source| format!("{}: {}", source.name, source.detail)).collect();
    words.truncate(5);
    let words = words.join("; ");
    let safe = watchfire_event::printable(words.as_bytes());
    if safe.is_empty() { String::new() } else { format!(" ({safe})") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use watchfire_event::{BootId, BootNanos};

    fn stream(host: u8, incarnation: u64) -> StreamId {
        StreamId { host: HostId([host; 16]), boot: BootId([1; 16]), incarnation: BootNanos(incarnation) }
    }

    fn attached(sensors_attached: bool) -> v1::Status {
        v1::Status { sensors_attached, ..v1::Status::default() }
    }

    #[test]
    fn health_says_what_is_missing_until_sensors_are_attached() {
        let agents = Agents::default();
        assert!(agents.health().unwrap_err().contains("not online"));
        assert!(agents.connected(stream(1, 1), v1::Hello::default()));
        assert!(agents.health().unwrap_err().contains("status"));
        agents.update(stream(1, 1), |agent| agent.status = Some(attached(false)));
        assert!(agents.health().unwrap_err().contains("not attached"));
        agents.update(stream(1, 1), |agent| agent.status = Some(attached(true)));
        assert_eq!(agents.health(), Ok(()));
        agents.disconnected(stream(1, 1));
        assert!(agents.health().is_err());
    }

    #[test]
    fn a_late_goodbye_of_the_old_run_does_not_take_the_new_one_offline() {
        let agents = Agents::default();
        agents.connected(stream(1, 1), v1::Hello::default());
        agents.connected(stream(1, 2), v1::Hello::default());
        agents.disconnected(stream(1, 1));
        assert!(agents.all()[0].online());
    }

    #[test]
    fn the_table_is_bounded_and_gives_up_those_that_left_first() {
        let agents = Agents::default();
        for host in 0..64 {
            assert!(agents.connected(stream(host, 1), v1::Hello::default()));
        }
        assert!(!agents.connected(stream(200, 1), v1::Hello::default()));
        agents.disconnected(stream(5, 1));
        assert!(agents.connected(stream(200, 1), v1::Hello::default()));
        assert_eq!(agents.all().len(), 64);
    }
}
