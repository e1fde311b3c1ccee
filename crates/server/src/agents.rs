//! What the server knows of its agents right now: who is connected, what they last said of themselves, and their
//! books. In memory only: an agent says all of it again when it connects.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use watchfire_event::{Books, HostId, StreamId, UnixNanos};
use watchfire_wire::v1;

/// Hosts remembered on one machine: its own, and a few of test agents.
const MAX_HOSTS: usize = 64;

/// Earlier lives of one host's agent whose books are remembered.
const MAX_EARLIER: usize = 8;

/// One host's agent, or an earlier life of it.
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

/// The agents of one host: the one that runs, and earlier lives of it whose books are remembered, newest last.
#[derive(Debug, Default)]
struct HostAgents {
    present: Option<AgentState>,
    earlier: Vec<AgentState>,
}

impl HostAgents {
    fn all(&self) -> impl Iterator<Item = &AgentState> {
        self.earlier.iter().chain(&self.present)
    }

    fn find(&mut self, stream: StreamId) -> Option<&mut AgentState> {
        self.earlier.iter_mut().chain(&mut self.present).find(|agent| agent.stream == stream)
    }

    /// Takes an agent out, wherever it is kept.
    fn take(&mut self, stream: StreamId) -> Option<AgentState> {
        if let Some(present) = self.present.take_if(|present| present.stream == stream) {
            return Some(present);
        }
        let index = self.earlier.iter().position(|agent| agent.stream == stream)?;
        Some(self.earlier.remove(index))
    }

    fn online(&self) -> bool {
        self.all().any(AgentState::online)
    }

    fn last_frame(&self) -> Option<UnixNanos> {
        self.all().map(|agent| agent.last_frame).max()
    }

    /// Sets the present agent aside: another one speaks for the host now, or it said itself that it is over.
    fn set_aside(&mut self) {
        let Some(over) = self.present.take() else { return };
        if over.ledger.is_some() || over.online() {
            self.remember(over);
        }
    }

    fn remember(&mut self, agent: AgentState) {
        if self.earlier.len() >= MAX_EARLIER {
            // One that hands over what it left is kept before one that is done.
            let done = self.earlier.iter().position(|agent| !agent.online()).unwrap_or(0);
            self.earlier.remove(done);
        }
        self.earlier.push(agent);
    }
}

/// The table of agents.
#[derive(Debug, Default)]
pub(crate) struct Agents {
    by_host: Mutex<BTreeMap<HostId, HostAgents>>,
}

impl Agents {
    /// An agent said hello; false when the table is full of others that are online. One that hands over what an earlier life left
    /// is kept beside the one that runs; else the newest speaks for the host.
    pub(crate) fn connected(&self, stream: StreamId, hello: v1::Hello) -> bool {
        let now = UnixNanos::now();
        let mut by_host = self.lock();
        if by_host.len() >= MAX_HOSTS && !by_host.contains_key(&stream.host) {
            let gone = by_host.iter().filter(|(_, agents)| !agents.online());
            let gone = gone.min_by_key(|(_, agents)| agents.last_frame()).map(|(host, _)| *host);
            let Some(gone) = gone else { return false };
            by_host.remove(&gone);
        }
        let agents = by_host.entry(stream.host).or_default();
        let is_present = agents.present.as_ref().is_some_and(|present| present.stream == stream);
        if is_present == hello.earlier {
            // The present one gives way: to another one, or to its own past.
            agents.set_aside();
        }
        let known = agents.take(stream);
        let connections = known.as_ref().map_or(0, |known| known.connections) + 1;
        let earlier = hello.earlier;
        let state = match known {
            Some(known) => AgentState { hello, connections, ..known },
            None => AgentState { stream, hello, connections, last_frame: now, status: None, ledger: None },
        };
        if earlier {
            agents.remember(state)
        } else {
            agents.present = Some(state)
        }
        true
    }

    /// A connection of this stream ended.
    pub(crate) fn disconnected(&self, stream: StreamId) {
        self.update(stream, |agent| agent.connections = agent.connections.saturating_sub(1));
    }

    /// How many connections of this stream are open.
    pub(crate) fn connections(&self, stream: StreamId) -> u32 {
        let by_host = self.lock();
        let known =
            by_host.get(&stream.host).and_then(|agents| agents.all().find(|agent| agent.stream == stream));
        known.map_or(0, |agent| agent.connections)
    }

    /// Changes what is known of the agent behind `stream`; nothing happens when that is forgotten.
    pub(crate) fn update(&self, stream: StreamId, change: impl FnOnce(&mut AgentState)) {
        let mut by_host = self.lock();
        if let Some(agent) = by_host.get_mut(&stream.host).and_then(|agents| agents.find(stream)) {
            agent.last_frame = UnixNanos::now();
            change(agent);
        }
    }

    /// The agents that run, or ran last, by host id.
    pub(crate) fn all(&self) -> Vec<AgentState> {
        self.lock().values().filter_map(|agents| agents.present.clone()).collect()
    }

    /// Earlier lives of agents whose books are remembered, by host id, oldest first.
    pub(crate) fn earlier(&self) -> Vec<AgentState> {
        let by_host = self.lock();
        by_host
            .values()
            .flat_map(|agents| &agents.earlier)
            .filter(|agent| agent.ledger.is_some())
            .cloned()
            .collect()
    }

    /// `Ok` once an agent is online with its sensors attached; else what is missing, in words.
    pub(crate) fn health(&self) -> Result<(), String> {
        let by_host = self.lock();
        let present = || by_host.values().filter_map(|agents| agents.present.as_ref());
        let Some(agent) = present().find(|agent| agent.online()) else {
            return Err("the local agent is not online".to_owned());
        };
        let attached =
            |agent: &AgentState| agent.status.as_ref().is_some_and(|status| status.sensors_attached);
        if present().any(|agent| agent.online() && attached(agent)) {
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

    fn lock(&self) -> MutexGuard<'_, BTreeMap<HostId, HostAgents>> {
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
    fn of_two_that_claim_one_host_the_last_to_connect_speaks() {
        let agents = Agents::default();
        for claims in [1, 2, 1] {
            agents.connected(stream(1, claims), v1::Hello::default());
            assert_eq!(agents.all()[0].stream, stream(1, claims));
        }
        assert_eq!(agents.all()[0].connections, 2);
    }

    fn earlier() -> v1::Hello {
        v1::Hello { earlier: true, ..v1::Hello::default() }
    }

    fn books() -> LedgerSnapshot {
        LedgerSnapshot { time: UnixNanos::now(), books: Books::default() }
    }

    #[test]
    fn what_an_earlier_life_hands_over_does_not_speak_for_the_host() {
        let agents = Agents::default();
        agents.connected(stream(1, 2), v1::Hello::default());
        agents.update(stream(1, 2), |agent| agent.status = Some(attached(true)));
        assert!(agents.connected(stream(1, 1), earlier()));
        agents.update(stream(1, 1), |agent| agent.ledger = Some(books()));
        assert_eq!((agents.health(), agents.all().len()), (Ok(()), 1));
        assert!(agents.all()[0].stream == stream(1, 2) && agents.all()[0].ledger.is_none());
        assert_eq!(agents.earlier()[0].stream, stream(1, 1));
        agents.disconnected(stream(1, 1));
        assert!(agents.all()[0].online() && !agents.earlier()[0].online());
    }

    #[test]
    fn a_life_that_is_over_keeps_its_books_whoever_connects_first() {
        let agents = Agents::default();
        agents.connected(stream(1, 1), v1::Hello::default());
        agents.update(stream(1, 1), |agent| agent.ledger = Some(books()));
        agents.disconnected(stream(1, 1));
        // It says that it is over before the next one has said hello.
        agents.connected(stream(1, 1), earlier());
        assert!(agents.all().is_empty() && agents.health().is_err());
        agents.connected(stream(1, 2), v1::Hello::default());
        assert_eq!((agents.all()[0].stream, agents.earlier()[0].stream), (stream(1, 2), stream(1, 1)));
        assert!(agents.earlier()[0].ledger.is_some() && agents.earlier()[0].online());
    }

    #[test]
    fn earlier_lives_are_bounded() {
        let agents = Agents::default();
        for life in 1..50 {
            agents.connected(stream(1, life), v1::Hello::default());
            agents.update(stream(1, life), |agent| agent.ledger = Some(books()));
            agents.disconnected(stream(1, life));
        }
        let kept: Vec<StreamId> = agents.earlier().iter().map(|agent| agent.stream).collect();
        assert_eq!(kept, (41..49).map(|life| stream(1, life)).collect::<Vec<_>>());
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
