//! Processes by the kernel's process connector: the last resort, where eBPF is refused and audit is taken.
//!
//! The kernel says little more than the number of a process; all else is read from /proc at once, and often too late: of
//! processes that end within a millisecond some 85 % are gone or empty by then. What could not be read is told as such.

mod messages;

use std::collections::{HashMap, HashSet, VecDeque};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use watchfire_event::{
    Actor, Body, Books, BootNanos, Credentials, DropReason, Kind, Process, ProcessKey, ProcessOrigin,
    PtraceActivity, Sighting, Stage, What,
};
use watchfire_host::{ProcReader, boot_now};

use crate::netlink::{DONE, Netlink, Received};
use crate::source::{Source, SourceError};
use messages::{Happening, Message};

/// Multicast group of the process connector.
const GROUP: u32 = 1;
const LISTEN: u32 = 1;
const IGNORE: u32 = 2;
/// Some 20,000 messages: a second of a usual storm.
const RECEIVE_BUFFER: usize = 16 << 20;
/// Processes whose start and ids are remembered.
const MAX_KNOWN: usize = 16_384;
/// A change of ids waits this long for an exec: then it was a set-uid program, which is no gain "without exec".
const EXEC_FOLLOWS: Duration = Duration::from_millis(20);
const MAX_HELD: usize = 256;

/// Why the process connector cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ProcConnectorError {
    /// The socket could not be opened and bound: a kernel without CONFIG_PROC_EVENTS, or no CAP_NET_ADMIN.
    #[error("process connector: {0} (needs CONFIG_PROC_EVENTS, CAP_NET_ADMIN, the initial pid namespace)")]
    Refused(#[source] io::Error),
}

/// What is remembered of a process.
#[derive(Debug, Clone, Copy)]
struct Known {
    started: BootNanos,
    credentials: Credentials,
}

/// The source of exec, fork, exit, changes of user ids, and ptrace.
#[derive(Debug)]
pub struct ProcConnector {
    socket: Netlink,
    processes: ProcReader,
    known: HashMap<u32, Known>,
    /// Number of the next message of each CPU.
    expected: HashMap<u32, u32>,
    /// CPUs of which messages may be missing after an overflow, until the queue has been empty; then for one more message.
    suspected: HashSet<u32>,
    settling: HashSet<u32>,
    pending: VecDeque<Sighting>,
    /// Changes of ids that may turn out to be the beginning of an exec.
    held: VecDeque<Sighting>,
    books: Books,
    enriched: u64,
    empty: u64,
    buffer: Vec<u8>,
}

impl ProcConnector {
    /// Whether the kernel has a process connector for this process, without subscribing.
    ///
    /// # Errors
    /// As [`ProcConnector::open`].
    pub fn probe() -> Result<(), ProcConnectorError> {
        Netlink::open(rustix::net::netlink::CONNECTOR, GROUP).map(|_| ()).map_err(ProcConnectorError::Refused)
    }

    /// Subscribes.
    ///
    /// # Errors
    /// When the kernel has no process connector, or refuses it to this process.
    pub fn open() -> Result<Self, ProcConnectorError> {
        let socket =
            Netlink::open(rustix::net::netlink::CONNECTOR, GROUP).map_err(ProcConnectorError::Refused)?;
        socket.widen(RECEIVE_BUFFER);
        let subscribed = socket.send(DONE, 0, 0, &messages::subscription(LISTEN));
        subscribed.map_err(ProcConnectorError::Refused)?;
        let processes = ProcReader::new("/proc");
        let known = processes.snapshot(MAX_KNOWN).into_iter().map(|process| {
            (process.key.tgid, Known { started: process.key.started, credentials: process.credentials })
        });
        Ok(ProcConnector {
            known: known.collect(),
            socket,
            processes,
            expected: HashMap::new(),
            suspected: HashSet::new(),
            settling: HashSet::new(),
            pending: VecDeque::new(),
            held: VecDeque::new(),
            books: Books::default(),
            enriched: 0,
            empty: 0,
            buffer: vec![0; 4096],
        })
    }

    /// What this source cannot see, in sentences.
    pub fn blind_spots(&self) -> Vec<String> {
        let total = self.enriched + self.empty;
        vec![
            format!(
                "arguments, path and ids of an exec are read from /proc afterwards: {} of {total} were still there, {} were gone \
                 or empty",
                self.enriched, self.empty
            ),
            "the name a process was started by (a script's path) is not told".to_owned(),
            "gains of capabilities without a change of user id are not told".to_owned(),
            "ptrace is told as an attach of any kind, without what was written".to_owned(),
        ]
    }

    fn take(&mut self, message: Message, since_boot: u64) {
        let at = BootNanos(message.monotonic.saturating_add(since_boot));
        self.count_lost(message, at);
        match message.what {
            Happening::Fork { parent, child_pid, child } if child_pid == child => {
                self.fork(parent, child, at)
            }
            Happening::Fork { .. } => self.filter(Kind::Fork),
            Happening::Exec { tgid } => self.exec(tgid, at),
            Happening::Uid { pid, tgid, real, effective } if pid == tgid => {
                self.ids(tgid, real, effective, at)
            }
            Happening::Uid { .. } => self.filter(Kind::Credentials),
            Happening::Ptrace { target, tracer } if tracer != 0 => {
                let body = PtraceActivity { request: "attach", target, target_process: None, result: 0 };
                self.put(tracer, at, What::Done(Body::Ptrace(body)));
            }
            Happening::Ptrace { .. } => self.filter(Kind::Ptrace),
            Happening::Exit { pid, tgid, status } if pid == tgid => self.exit(tgid, status, at),
            Happening::Exit { .. } => self.filter(Kind::Exit),
            Happening::Answer { .. } | Happening::Other => {}
        }
    }

    /// The kernel numbers the messages of each CPU, so what an overflow cost can be counted. A gap without an overflow is no
    /// loss: answers to other listeners take numbers too.
    fn count_lost(&mut self, message: Message, at: BootNanos) {
        let expected = self.expected.insert(message.cpu, message.sequence.wrapping_add(1));
        let suspected = self.suspected.contains(&message.cpu) || self.settling.remove(&message.cpu);
        let missing = expected.map_or(0, |expected| message.sequence.wrapping_sub(expected));
        // A number that goes backwards is a restart of the count, not a loss of four billion.
        if !suspected || missing == 0 || missing > u32::MAX / 2 {
            return;
        }
        let count = u64::from(missing);
        let counts = self.books.entry(Stage::Kernel, Kind::Loss);
        counts.seen += count + 1;
        *counts.dropped.entry(DropReason::SourceOverflow).or_default() += count;
        let body = Body::Loss { source: "proc connector".to_owned(), count };
        self.pending.push_back(Sighting { at, actor: Actor::default(), what: What::Done(body) });
    }

    /// Messages were thrown away: each CPU may show a gap, until its first message after the queue has been empty.
    fn overflowed(&mut self) {
        self.suspected.extend(self.expected.keys());
    }

    fn queue_is_empty(&mut self) {
        self.settling.extend(self.suspected.drain());
    }

    fn fork(&mut self, parent: u32, child: u32, at: BootNanos) {
        // The start that /proc shows, unless that is another process by now; the child began just before this message.
        let near = ProcessKey { tgid: child, started: at }.on_tick();
        let read = self.processes.key(child).ok();
        let key = read
            .filter(|key| key.started <= near.started && at.since(key.started) < Duration::from_secs(1))
            .unwrap_or(near);
        let credentials = self.known.get(&parent).map(|known| known.credentials).unwrap_or_default();
        self.remember(child, Known { started: key.started, credentials });
        self.put(parent, at, What::Fork { child: key, child_ns_tgid: child });
    }

    fn exec(&mut self, tgid: u32, at: BootNanos) {
        if let Some(index) = self.held.iter().position(|held| held.actor.tgid == tgid) {
            self.held.remove(index);
            self.books.entry(Stage::Kernel, Kind::Credentials).filtered += 1;
        }
        let process = match self.processes.read_process(tgid) {
            Ok(process) if !process.exe.is_empty() => {
                self.enriched += 1;
                self.remember(tgid, Known { started: process.key.started, credentials: process.credentials });
                Process { origin: ProcessOrigin::Exec, since: at, ..process }
            }
            _ => {
                self.empty += 1;
                let started = self.known.get(&tgid).map(|known| known.started);
                let key = ProcessKey { tgid, started: started.unwrap_or(at) }.on_tick();
                Process { key, origin: ProcessOrigin::Unknown, since: at, ..Process::default() }
            }
        };
        self.put(tgid, at, What::Exec(Box::new(process)));
    }

    fn ids(&mut self, tgid: u32, real: u32, effective: u32, at: BootNanos) {
        let before = self.known.get(&tgid).map(|known| known.credentials);
        let read = self.processes.read_process(tgid).ok().map(|process| process.credentials);
        let after = read.unwrap_or(Credentials { uid: real, euid: effective, ..before.unwrap_or_default() });
        if let Some(known) = self.known.get_mut(&tgid) {
            known.credentials = after;
        }
        let gained =
            before.filter(|before| before.euid != 0 && before.uid != 0 && (effective == 0 || real == 0));
        let Some(before) = gained else { return self.filter(Kind::Credentials) };
        self.books.entry(Stage::Kernel, Kind::Credentials).seen += 1;
        if self.held.len() >= MAX_HELD
            && let Some(oldest) = self.held.pop_front()
        {
            self.pending.push_back(oldest);
        }
        let actor = self.actor(tgid);
        self.held.push_back(Sighting { at, actor, what: What::Done(Body::Credentials { before, after }) });
    }

    fn exit(&mut self, tgid: u32, status: u32, at: BootNanos) {
        let [signal, code, ..] = status.to_le_bytes();
        // Bit 7 says that a core was dumped.
        self.put(tgid, at, What::Exit { code, signal: signal & 0x7f });
        self.known.remove(&tgid);
    }

    fn actor(&self, tgid: u32) -> Actor {
        Actor { tgid, started: self.known.get(&tgid).map(|known| known.started) }
    }

    fn remember(&mut self, tgid: u32, known: Known) {
        if self.known.len() < MAX_KNOWN || self.known.contains_key(&tgid) {
            self.known.insert(tgid, known);
        }
    }

    fn put(&mut self, tgid: u32, at: BootNanos, what: What) {
        let sighting = Sighting { at, actor: self.actor(tgid), what };
        self.books.entry(Stage::Kernel, sighting.kind()).seen += 1;
        self.pending.push_back(sighting);
    }

    fn filter(&mut self, kind: Kind) {
        let counts = self.books.entry(Stage::Kernel, kind);
        counts.seen += 1;
        counts.filtered += 1;
    }

    /// Receives one datagram; `false` when none is there.
    fn receive(&mut self, since_boot: u64) -> Result<bool, SourceError> {
        let lost = |source| SourceError::Lost { name: "proc connector", attempt: "receive", source };
        match self.socket.receive(&mut self.buffer).map_err(lost)? {
            Received::Nothing => {
                self.queue_is_empty();
                return Ok(false);
            }
            Received::Overflow => self.overflowed(),
            Received::Datagram(length) => match messages::parse(&self.buffer[..length]) {
                Some(message) => self.take(message, since_boot),
                None => {
                    let counts = self.books.entry(Stage::Kernel, Kind::Loss);
                    counts.seen += 1;
                    *counts.dropped.entry(DropReason::Malformed).or_default() += 1;
                }
            },
        }
        Ok(true)
    }

    fn release_held(&mut self) {
        let now = boot_now();
        while let Some(ready) = self.held.pop_front_if(|held| now.since(held.at) >= EXEC_FOLLOWS) {
            self.pending.push_back(ready);
        }
    }
}

impl Source for ProcConnector {
    fn name(&self) -> &'static str {
        "proc connector"
    }

    fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        vec![self.socket.as_fd()]
    }

    fn drain(&mut self, limit: usize, sink: &mut dyn FnMut(Sighting)) -> Result<usize, SourceError> {
        let since_boot = suspended();
        let mut taken = 0;
        while taken < limit {
            if let Some(sighting) = self.pending.pop_front() {
                self.books.entry(Stage::Kernel, sighting.kind()).passed += 1;
                sink(sighting);
                taken += 1;
            } else if !self.receive(since_boot)? {
                self.release_held();
                if self.pending.is_empty() {
                    break;
                }
            }
        }
        Ok(taken)
    }

    fn books(&mut self) -> Books {
        let mut books = self.books.clone();
        for sighting in self.pending.iter().chain(&self.held) {
            books.entry(Stage::Kernel, sighting.kind()).held += 1;
        }
        books
    }
}

impl Drop for ProcConnector {
    /// Kernels before 6.6 count listeners by their messages alone: without this one they would build events for no one.
    fn drop(&mut self) {
        if let Err(error) = self.socket.send(DONE, 0, 0, &messages::subscription(IGNORE)) {
            tracing::warn!(%error, "proc connector: end the subscription");
        }
    }
}

/// How far the boot clock is ahead of the monotonic one: the time spent suspended.
fn suspended() -> u64 {
    let nanos = |clock| {
        let time = clock_gettime(clock);
        time.tv_sec.saturating_mul(1_000_000_000).saturating_add(time.tv_nsec)
    };
    u64::try_from(nanos(ClockId::Boottime) - nanos(ClockId::Monotonic)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};
    use std::time::Instant;

    use super::*;

    fn open() -> Option<ProcConnector> {
        match ProcConnector::open() {
            Ok(source) => Some(source),
            Err(error) if !rustix::process::geteuid().is_root() => {
                eprintln!("skipped: the process connector needs root: {error}");
                None
            }
            Err(error) => panic!("{error}"),
        }
    }

    fn collect(source: &mut ProcConnector, until: impl Fn(&[Sighting]) -> bool) -> Vec<Sighting> {
        let mut seen = Vec::new();
        let deadline = Instant::now() + Duration::from_secs(5);
        while !until(&seen) && Instant::now() < deadline {
            source.drain(1000, &mut |sighting| seen.push(sighting)).unwrap();
            std::thread::sleep(Duration::from_millis(2));
        }
        seen
    }

    #[test]
    fn fork_exec_and_exit_of_a_child_are_told() {
        let Some(mut source) = open() else { return };
        let mark = format!("watchfire-{}", std::process::id());
        let mut child = Command::new("sh")
            .args(["-c", "read wait; exit 7", &mark])
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let tgid = child.id();
        let mut seen = collect(&mut source, |seen| {
            seen.iter().any(|one| one.actor.tgid == tgid && matches!(one.what, What::Exec(_)))
        });
        let key = ProcReader::new("/proc").key(tgid).unwrap();
        drop(child.stdin.take());
        child.wait().unwrap();
        seen.extend(collect(&mut source, |seen| {
            seen.iter().any(|one| one.actor.tgid == tgid && matches!(one.what, What::Exit { .. }))
        }));
        let forked = seen
            .iter()
            .find(|one| matches!(one.what, What::Fork { child, .. } if child == key))
            .expect("the fork");
        assert_eq!(forked.actor.tgid, std::process::id());
        let own: Vec<_> = seen.iter().filter(|one| one.actor.tgid == tgid).collect();
        let [exec, exit] = &own[..] else { panic!("{own:?}") };
        let What::Exec(process) = &exec.what else { panic!("{exec:?}") };
        assert_eq!((process.key, process.origin), (key, ProcessOrigin::Exec));
        assert!(process.args().any(|arg| arg == mark.as_bytes()), "{process:?}");
        assert_eq!(exit.what, What::Exit { code: 7, signal: 0 });
        assert_eq!(exit.actor.started, Some(key.started));
        let now = boot_now();
        assert!(forked.at <= exec.at && exec.at <= exit.at && now.since(exit.at) < Duration::from_secs(5));
        assert!(source.books().rows().all(|row| row.counts.balanced()), "{:?}", source.books());
    }

    #[test]
    fn a_storm_is_told_whole_though_not_all_of_it_could_be_read() {
        let Some(mut source) = open() else { return };
        let script = "i=0; while [ $i -lt 500 ]; do /bin/true; i=$((i+1)); done";
        let mut child = Command::new("sh").args(["-c", script]).spawn().unwrap();
        let mut forks = 0;
        let mut execs = 0;
        let tgid = child.id();
        let mut children = std::collections::HashSet::new();
        let mut ended = false;
        while !ended {
            ended = child.try_wait().unwrap().is_some();
            let mut sink = |one: Sighting| match one.what {
                What::Fork { child, .. } if one.actor.tgid == tgid => {
                    forks += 1;
                    children.insert(child.tgid);
                }
                What::Exec(_) if children.contains(&one.actor.tgid) => execs += 1,
                What::Done(Body::Loss { count, .. }) => panic!("{count} lost"),
                _ => {}
            };
            while source.drain(1000, &mut sink).unwrap() > 0 {}
        }
        child.wait().unwrap();
        assert_eq!((forks, execs), (500, 500));
        eprintln!("{}", source.blind_spots()[0]);
        assert!(source.books().rows().all(|row| row.counts.balanced()));
    }

    #[test]
    fn a_gap_in_the_numbers_after_an_overflow_is_a_counted_loss() {
        let Some(mut source) = open() else { return };
        // A CPU this machine does not have.
        let message = |sequence| Message { cpu: 1_000, sequence, monotonic: 5, what: Happening::Other };
        let mut take = |sequence| {
            source.take(message(sequence), 0);
            source.pending.len()
        };
        assert_eq!([take(7), take(8), take(10)], [0, 0, 0], "no overflow: another listener's answer");
        source.overflowed();
        source.take(message(11), 0);
        source.take(message(15), 0);
        source.queue_is_empty();
        source.take(message(17), 0);
        source.take(message(19), 0);
        source.take(message(3), 0);
        let lost = |count| What::Done(Body::Loss { source: "proc connector".to_owned(), count });
        let told: Vec<_> = source.pending.iter().map(|one| one.what.clone()).collect();
        assert_eq!(told, [lost(3), lost(1)]);
        let books = source.books();
        let counts = books.get(Stage::Kernel, Kind::Loss).unwrap();
        assert!(counts.balanced() && counts.dropped[&DropReason::SourceOverflow] == 4);
    }

    #[test]
    fn a_queue_that_overflows_is_counted_to_the_last_message() {
        let Some(mut source) = open() else { return };
        // The smallest buffer the kernel allows, and nobody reads.
        source.socket.widen(0);
        // Each CPU has to speak before, so that its numbers are known, and after, so that its gap shows.
        let cpus = std::thread::available_parallelism().unwrap().get();
        let every_cpu_speaks = |source: &mut ProcConnector| {
            for round in 0..20 * cpus {
                // Bound to one CPU each: on a busy machine one could stay silent otherwise.
                let cpu = (round % cpus).to_string();
                let bound = ["-c", &cpu, "sh", "-c", "/bin/true & /bin/true & wait"];
                assert!(Command::new("taskset").args(bound).status().unwrap().success());
                while source.drain(1000, &mut |_| {}).unwrap() > 0 {}
            }
        };
        every_cpu_speaks(&mut source);
        let told = |source: &mut ProcConnector| {
            let books = source.books();
            let count = |kind| books.get(Stage::Kernel, kind).map_or(0, |counts| counts.seen);
            let lost = books.get(Stage::Kernel, Kind::Loss).map_or(0, |counts| counts.dropped_total());
            (count(Kind::Fork) + count(Kind::Exec) + count(Kind::Exit), lost)
        };
        let before = told(&mut source);
        let script = "i=0; while [ $i -lt 300 ]; do /bin/true; i=$((i+1)); done";
        assert!(Command::new("sh").args(["-c", script]).status().unwrap().success());
        // With room again: a loss among these last words would show only with words that never come.
        source.socket.widen(4 << 20);
        every_cpu_speaks(&mut source);
        let after = told(&mut source);
        let (told, lost) = (after.0 - before.0, after.1 - before.1);
        // 300 forks, execs and exits, and what every CPU said after; others' messages add to both.
        assert!(lost > 0 && lost + told >= 900 + 20 * 6, "{lost} lost, {told} told");
        assert!(source.books().rows().all(|row| row.counts.balanced()));
    }
}
