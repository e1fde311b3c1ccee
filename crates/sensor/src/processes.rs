//! The process table: who is behind a sighting, and who is above them.
//!
//! Every process has one key and one record per image. A fork stands for a copy of its parent's record, which is made only when
//! somebody asks for it (most children call exec first), an exec replaces it, an exit ends it, but a record stays while a child needs it as its parent, and for a short while after, because fanotify and
//! login sightings arrive a little later than the rings' ones. A process that was missed is healed from /proc at its next
//! sighting. Memory is bounded by construction: a budget in bytes, and a cap on the dead.

use std::cell::OnceCell;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use watchfire_event::{
    Actor, Body, BootNanos, ContainerId, Event, Process, ProcessKey, ProcessOrigin, Sighting, What,
};

/// The most ancestors a chain is followed: deeper trees are cut, and a loop (which /proc could show while pids are being
/// reused) ends.
const MAX_DEPTH: usize = 32;

/// Where the table reads what it missed: /proc on a host, a made-up tree in tests.
pub trait ProcessReader {
    /// The record of a live process, or `None` when it is gone.
    fn read(&mut self, tgid: u32) -> Option<Process>;

    /// The container a cgroup belongs to; `member` is a process that was in it a moment ago.
    fn container(&mut self, cgroup: u64, member: u32) -> Option<ContainerId>;
}

/// Bounds of the table.
#[derive(Debug, Clone, Copy)]
pub struct TableLimits {
    /// Budget for all records in bytes: names, arguments and a fixed cost each.
    pub bytes: usize,
    /// The most ended processes kept for late sightings.
    pub dead: usize,
}

impl Default for TableLimits {
    /// 8 MB holds some 10,000 usual processes; a process put out by the budget is healed from /proc when it acts again.
    /// 1,024 dead are 40 ms of the fastest fork storm measured, and minutes of a usual host.
    fn default() -> Self {
        TableLimits { bytes: 8 << 20, dead: 1024 }
    }
}

/// What the table did, for its books.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TableCounts {
    /// Missed processes read from /proc at their next sighting.
    pub healed: u64,
    /// Missed processes that were gone by then.
    pub unknown: u64,
    /// Records put out by the budget.
    pub evicted: u64,
}

struct Entry {
    key: ProcessKey,
    record: Record,
    parent: Option<Arc<Process>>,
    children: u32,
    ended: bool,
}

enum Record {
    Known(Arc<Process>),
    Forked(Forked),
}

/// A child that has not called exec: its parent's image under its own key, copied when first asked for.
struct Forked {
    parent: Arc<Process>,
    child: ProcessKey,
    ns_tgid: u32,
    at: BootNanos,
    copy: OnceCell<Arc<Process>>,
}

impl Entry {
    fn process(&self) -> &Arc<Process> {
        match &self.record {
            Record::Known(process) => process,
            Record::Forked(forked) => forked.copy.get_or_init(|| Arc::new(forked.process())),
        }
    }

    /// What it takes of the budget; a child that is not copied yet as if it were, so that the copy breaks no bound.
    fn cost(&self) -> usize {
        match &self.record {
            Record::Known(process) => cost(process),
            Record::Forked(forked) => cost(&forked.parent),
        }
    }
}

impl Forked {
    fn process(&self) -> Process {
        let origin = match self.parent.origin {
            ProcessOrigin::Unknown => ProcessOrigin::Unknown,
            _ => ProcessOrigin::Fork,
        };
        Process {
            key: self.child,
            parent: Some(self.parent.key),
            origin,
            since: self.at,
            ns_tgid: self.ns_tgid,
            ..Process::clone(&self.parent)
        }
    }
}

/// See the module's documentation.
pub struct ProcessTable<R> {
    reader: R,
    limits: TableLimits,
    entries: HashMap<u32, Entry>,
    // Live records in the order they came, for eviction; stale keys are skipped.
    arrivals: VecDeque<ProcessKey>,
    // Ended processes without children, oldest first.
    dead: VecDeque<ProcessKey>,
    bytes: usize,
    counts: TableCounts,
}

impl<R: ProcessReader> ProcessTable<R> {
    /// An empty table.
    pub fn new(reader: R, limits: TableLimits) -> Self {
        ProcessTable {
            reader,
            limits,
            entries: HashMap::new(),
            arrivals: VecDeque::new(),
            dead: VecDeque::new(),
            bytes: 0,
            counts: TableCounts::default(),
        }
    }

    /// Takes in processes that were there before the sensors, parents first or not.
    pub fn take_snapshot(&mut self, processes: impl IntoIterator<Item = Process>) {
        for process in processes {
            let already = self.entries.get(&process.key.tgid).is_some_and(|entry| !entry.ended);
            if !already {
                self.insert(process, None);
            }
        }
        let parents: Vec<(u32, ProcessKey)> = self
            .entries
            .values()
            .filter_map(|entry| Some((entry.key.tgid, entry.process().parent?)))
            .collect();
        for (tgid, parent) in parents {
            let parent = self.find(parent).map(|entry| entry.process().clone());
            if let (Some(parent), Some(entry)) = (parent, self.entries.get_mut(&tgid))
                && entry.parent.is_none()
            {
                entry.parent = Some(parent.clone());
                self.adopt(parent.key);
            }
        }
    }

    /// Turns a sighting into an event, and keeps what it teaches. `decoded` is the time now.
    pub fn resolve(&mut self, sighting: Sighting, decoded: BootNanos) -> Event {
        let Sighting { at, actor, what } = sighting;
        let (process, parent, body) = match what {
            What::Exec(image) => {
                let (process, parent) = self.exec(*image);
                (process, parent, Body::Exec)
            }
            What::Fork { child, child_ns_tgid } => {
                let (process, parent) = self.actor(actor);
                let child = child.on_tick();
                self.fork(&process, child, child_ns_tgid, at);
                (process, parent, Body::Fork { child })
            }
            What::Exit { code, signal } => {
                let (process, parent) = self.actor(actor);
                self.end(process.key);
                (process, parent, Body::Exit { code, signal })
            }
            What::Done(body) => {
                let (process, parent) = self.actor(actor);
                (process, parent, self.complete(body))
            }
        };
        Event { at, decoded, process, parent, body }
    }

    /// The parents of `process`, nearest first, up to init as far as known.
    pub fn ancestors(&self, process: &Process) -> Vec<Arc<Process>> {
        let mut chain: Vec<Arc<Process>> = Vec::new();
        let mut next = self.parent_of(process);
        while let Some(parent) = next {
            if chain.len() >= MAX_DEPTH || chain.iter().any(|seen| seen.key == parent.key) {
                break;
            }
            next = self.parent_of(&parent);
            chain.push(parent);
        }
        chain
    }

    /// The record of a live or recently ended process.
    pub fn get(&self, key: ProcessKey) -> Option<&Arc<Process>> {
        self.find(key).map(Entry::process)
    }

    /// How many records are held.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether no record is held.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// What the table did since its start.
    pub fn counts(&self) -> TableCounts {
        self.counts
    }

    fn find(&self, key: ProcessKey) -> Option<&Entry> {
        self.entries.get(&key.tgid).filter(|entry| entry.key == key.on_tick())
    }

    fn parent_of(&self, process: &Process) -> Option<Arc<Process>> {
        let kept = self.find(process.key).and_then(|entry| entry.parent.as_ref());
        // A parent may have called exec since; the newest image of the same process is the one to show.
        let parent = kept.map(|parent| parent.key).or(process.parent)?;
        self.get(parent).or(kept).cloned()
    }

    fn exec(&mut self, mut image: Process) -> (Arc<Process>, Option<Arc<Process>>) {
        image.key = image.key.on_tick();
        image.parent = image.parent.map(ProcessKey::on_tick);
        if image.container.is_none() {
            image.container = self.reader.container(image.cgroup, image.key.tgid);
        }
        let known_parent = self.find(image.key).and_then(|entry| entry.parent.clone());
        let parent = match known_parent {
            Some(parent) => Some(self.get(parent.key).cloned().unwrap_or(parent)),
            None => image.parent.map(|parent| self.actor_by_key(parent)),
        };
        if let Some(parent) = &parent {
            image.parent = Some(parent.key);
        }
        let process = self.insert(image, parent.clone());
        (process, parent)
    }

    fn fork(&mut self, parent: &Arc<Process>, child: ProcessKey, child_ns_tgid: u32, at: BootNanos) {
        let forked =
            Forked { parent: parent.clone(), child, ns_tgid: child_ns_tgid, at, copy: OnceCell::new() };
        self.put(child, Record::Forked(forked), Some(parent.clone()));
    }

    fn actor(&mut self, actor: Actor) -> (Arc<Process>, Option<Arc<Process>>) {
        let known = self.entries.get(&actor.tgid).filter(|entry| match actor.started {
            Some(started) => entry.key == ProcessKey { tgid: actor.tgid, started }.on_tick(),
            None => true,
        });
        let process = match known {
            Some(entry) => entry.process().clone(),
            None => self.heal(actor),
        };
        let parent = self.parent_of(&process);
        (process, parent)
    }

    fn actor_by_key(&mut self, key: ProcessKey) -> Arc<Process> {
        self.actor(Actor { tgid: key.tgid, started: Some(key.started) }).0
    }

    fn heal(&mut self, actor: Actor) -> Arc<Process> {
        let wanted = actor.started.map(|started| ProcessKey { tgid: actor.tgid, started }.on_tick());
        let read = if actor.tgid == 0 { None } else { self.reader.read(actor.tgid) };
        let matching = read.filter(|process| wanted.is_none_or(|wanted| process.key.on_tick() == wanted));
        let Some(mut process) = matching else {
            self.counts.unknown += 1;
            let key = wanted.unwrap_or(ProcessKey { tgid: actor.tgid, started: BootNanos(0) });
            return Arc::new(Process { key, origin: ProcessOrigin::Unknown, ..Process::default() });
        };
        self.counts.healed += 1;
        process.key = process.key.on_tick();
        process.origin = ProcessOrigin::Healed;
        let parent = process.parent.and_then(|parent| self.get(parent).cloned());
        self.insert(process, parent)
    }

    fn complete(&mut self, body: Body) -> Body {
        match body {
            Body::Ptrace(mut ptrace) if ptrace.target != 0 && ptrace.target_process.is_none() => {
                let target = Actor { tgid: ptrace.target, started: None };
                ptrace.target_process = Some(self.actor(target).0);
                Body::Ptrace(ptrace)
            }
            other => other,
        }
    }

    fn insert(&mut self, process: Process, parent: Option<Arc<Process>>) -> Arc<Process> {
        let process = Arc::new(process);
        self.put(process.key, Record::Known(process.clone()), parent);
        process
    }

    fn put(&mut self, key: ProcessKey, record: Record, parent: Option<Arc<Process>>) {
        let mut children = 0;
        let mut had_parent = None;
        if let Some(earlier) = self.entries.remove(&key.tgid) {
            self.bytes -= earlier.cost();
            if earlier.key == key {
                children = earlier.children;
                had_parent = earlier.parent.map(|parent| parent.key);
            } else if let Some(parent) = earlier.parent {
                self.release(parent.key);
            }
        }
        if had_parent.is_none() {
            self.arrivals.push_back(key);
        }
        match (&parent, had_parent) {
            (Some(parent), Some(had)) if parent.key == had => {}
            (parent, had) => {
                if let Some(had) = had {
                    self.release(had);
                }
                if let Some(parent) = parent {
                    self.adopt(parent.key);
                }
            }
        }
        let entry = Entry { key, record, parent, children, ended: false };
        self.bytes += entry.cost();
        self.entries.insert(key.tgid, entry);
        self.shrink();
    }

    fn end(&mut self, key: ProcessKey) {
        if let Some(entry) = self.entries.get_mut(&key.tgid).filter(|entry| entry.key == key) {
            entry.ended = true;
            if entry.children == 0 {
                self.dead.push_back(key);
            }
        }
        while self.dead.len() > self.limits.dead {
            self.bury_oldest();
        }
    }

    fn bury_oldest(&mut self) {
        let Some(key) = self.dead.pop_front() else { return };
        // Between its end and now the tgid may have been reused, or a late sighting may have given it a child.
        if self.find(key).is_some_and(|entry| entry.ended && entry.children == 0) {
            self.remove(key);
        }
    }

    fn remove(&mut self, key: ProcessKey) {
        let Some(entry) = self.entries.remove(&key.tgid) else { return };
        self.bytes -= entry.cost();
        if let Some(parent) = entry.parent {
            self.release(parent.key);
        }
    }

    fn adopt(&mut self, parent: ProcessKey) {
        if let Some(entry) = self.entries.get_mut(&parent.tgid).filter(|entry| entry.key == parent) {
            entry.children += 1;
        }
    }

    fn release(&mut self, parent: ProcessKey) {
        if let Some(entry) = self.entries.get_mut(&parent.tgid).filter(|entry| entry.key == parent) {
            entry.children = entry.children.saturating_sub(1);
            if entry.ended && entry.children == 0 {
                self.dead.push_back(parent);
            }
        }
    }

    fn shrink(&mut self) {
        while self.bytes > self.limits.bytes && !self.dead.is_empty() {
            self.bury_oldest();
        }
        while self.bytes > self.limits.bytes {
            let Some(key) = self.arrivals.pop_front() else { return };
            if self.find(key).is_some() {
                self.counts.evicted += 1;
                self.remove(key);
            }
        }
        // Every life leaves one entry in `arrivals`; without this a storm would grow it for ever.
        if self.arrivals.len() > 2 * self.entries.len() + 1024 {
            let arrivals = std::mem::take(&mut self.arrivals);
            self.arrivals = arrivals.into_iter().filter(|key| self.find(*key).is_some()).collect();
        }
    }
}

fn cost(process: &Process) -> usize {
    let names = process.exe.len() + process.filename.len() + process.comm.len() + process.cwd.len();
    std::mem::size_of::<Process>() + std::mem::size_of::<Entry>() + names + process.argv.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TICK: u64 = ProcessKey::TICK;

    #[derive(Default)]
    struct Proc(HashMap<u32, Process>);

    impl ProcessReader for Proc {
        fn read(&mut self, tgid: u32) -> Option<Process> {
            self.0.get(&tgid).cloned()
        }

        fn container(&mut self, _cgroup: u64, _member: u32) -> Option<ContainerId> {
            None
        }
    }

    fn key(tgid: u32, tick: u64) -> ProcessKey {
        ProcessKey { tgid, started: BootNanos(tick * TICK) }
    }

    fn record(key: ProcessKey, exe: &str) -> Process {
        Process { key, exe: exe.into(), ..Process::default() }
    }

    fn table(live: &[Process]) -> ProcessTable<Proc> {
        let live = live.iter().map(|process| (process.key.tgid, process.clone())).collect();
        ProcessTable::new(Proc(live), TableLimits::default())
    }

    fn sighting(actor: ProcessKey, what: What) -> Sighting {
        let actor = Actor { tgid: actor.tgid, started: Some(actor.started) };
        Sighting { at: BootNanos(1), actor, what }
    }

    fn fork(parent: ProcessKey, child: ProcessKey) -> Sighting {
        sighting(parent, What::Fork { child, child_ns_tgid: child.tgid })
    }

    fn exec(process: Process) -> Sighting {
        sighting(process.key, What::Exec(Box::new(process)))
    }

    fn exit(actor: ProcessKey) -> Sighting {
        sighting(actor, What::Exit { code: 0, signal: 0 })
    }

    fn see<R: ProcessReader>(table: &mut ProcessTable<R>, sighting: Sighting) -> Event {
        table.resolve(sighting, BootNanos(2))
    }

    #[test]
    fn a_grandchild_is_traced_to_init_though_its_parent_has_ended() {
        let mut table = table(&[]);
        table.take_snapshot([record(key(1, 0), "/sbin/init")]);
        see(&mut table, fork(key(1, 0), key(50, 5)));
        see(&mut table, exec(record(key(50, 5), "/bin/sh")));
        see(&mut table, fork(key(50, 5), key(51, 6)));
        see(&mut table, exit(key(50, 5)));
        let event = see(&mut table, exec(record(key(51, 6), "/bin/nc")));
        let exes: Vec<_> =
            table.ancestors(&event.process).iter().map(|process| process.exe.clone()).collect();
        assert_eq!(exes, [b"/bin/sh".to_vec(), b"/sbin/init".to_vec()]);
        assert_eq!(event.parent.unwrap().exe, b"/bin/sh");
    }

    #[test]
    fn a_forked_child_shows_its_parents_image_under_its_own_key() {
        let mut table = table(&[]);
        table.take_snapshot([record(key(7, 1), "/usr/sbin/nginx")]);
        see(&mut table, fork(key(7, 1), key(8, 2)));
        let event = see(&mut table, exit(key(8, 2)));
        assert_eq!((event.process.key, event.process.origin), (key(8, 2), ProcessOrigin::Fork));
        assert_eq!(event.process.exe, b"/usr/sbin/nginx");
    }

    #[test]
    fn a_missed_process_is_healed_and_a_vanished_one_keeps_its_key() {
        let mut table = table(&[record(key(9, 3), "/usr/bin/vi")]);
        let memfd = || What::Done(Body::Memfd { name: b"x".to_vec() });
        let healed = see(&mut table, sighting(key(9, 3), memfd()));
        assert_eq!(
            (healed.process.origin, &healed.process.exe[..]),
            (ProcessOrigin::Healed, &b"/usr/bin/vi"[..])
        );
        let gone = see(&mut table, sighting(key(10, 4), memfd()));
        assert_eq!((gone.process.origin, gone.process.key), (ProcessOrigin::Unknown, key(10, 4)));
        assert_eq!(table.counts(), TableCounts { healed: 1, unknown: 1, evicted: 0 });
    }

    #[test]
    fn a_reused_tgid_is_not_taken_for_its_earlier_owner() {
        let mut table = table(&[record(key(9, 300), "/usr/bin/new")]);
        table.take_snapshot([record(key(9, 3), "/usr/bin/old")]);
        let event = see(&mut table, sighting(key(9, 300), What::Done(Body::Memfd { name: Vec::new() })));
        assert_eq!(event.process.exe, b"/usr/bin/new");
    }

    #[test]
    fn nanoseconds_and_ticks_name_one_process() {
        let mut table = table(&[]);
        table.take_snapshot([record(key(9, 3), "/bin/a")]);
        let exact = ProcessKey { tgid: 9, started: BootNanos(3 * TICK + 1234) };
        let event = see(&mut table, sighting(exact, What::Done(Body::Memfd { name: Vec::new() })));
        assert_eq!((event.process.key, event.process.origin), (key(9, 3), ProcessOrigin::Exec));
    }

    #[test]
    fn a_storm_of_lives_leaves_a_bounded_table() {
        let mut table = table(&[]);
        table.take_snapshot([record(key(1, 0), "/sbin/init")]);
        for round in 0..50_000u32 {
            let child = key(2 + round % 30_000, u64::from(round) + 1);
            see(&mut table, fork(key(1, 0), child));
            see(&mut table, exec(record(child, "/bin/true")));
            see(&mut table, exit(child));
        }
        assert!(table.len() <= 1 + TableLimits::default().dead, "{} records", table.len());
        assert!(table.arrivals.len() <= 2 * table.len() + 1024 + 1, "{} arrivals", table.arrivals.len());
        assert_eq!(table.entries[&1].children as usize, table.len() - 1);
    }

    #[test]
    fn the_budget_puts_out_the_oldest_and_counts_it() {
        let limits = TableLimits { bytes: 200_000, dead: 10 };
        let mut table = ProcessTable::new(Proc::default(), limits);
        for tgid in 1..=1000 {
            let big = Process { argv: vec![b'a'; 1000], ..record(key(tgid, 1), "/bin/a") };
            see(&mut table, exec(big));
        }
        assert!(table.bytes <= limits.bytes);
        assert!(table.get(key(1000, 1)).is_some() && table.get(key(1, 1)).is_none());
        assert_eq!(table.counts().evicted, 1000 - table.len() as u64);
    }
}
