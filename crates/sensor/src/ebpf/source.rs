//! A loaded object as a [`Source`]: drains its ring, keeps its books.
//!
//! The books close by measurement, not by subtraction. The kernel counts each record twice, when a hook sets out to
//! write it (`begun`) and when its fate is known (written, ring full, fault); what is still in the ring is counted by
//! walking it; what was taken is counted here. Between two readings the kernel goes on, so the truth is only known to
//! lie between what had *ended* before the walk and what had *begun* after it: `seen` is the sum of the rest where that
//! lies between the two, and the nearer of them where it does not, which then shows as a fault. At rest both are equal.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use aya::Ebpf;
use aya::maps::{MapData, PerCpuArray};
use watchfire_abi::{KernelCounts, decode, kind_of};
use watchfire_event::{Actor, Body, Books, BootNanos, DropReason, Kind, Sighting, Stage, What};

use super::attach::Link;
use super::object::Object;
use super::ring::Ring;
use super::sys;
use crate::source::{Source, SourceError};

/// Losses are told at most this often.
const LOSS_INTERVAL: Duration = Duration::from_secs(1);
/// A record that was begun this long ago has long been written or given up.
const SETTLED: Duration = Duration::from_millis(100);
/// `EVENT_KINDS`: no kind of the kernel side has a higher number.
const KINDS: usize = 32;
/// The bytes of a record that tell its kind.
const HEAD: usize = 24;

/// What the loader hands over.
pub(super) struct Attached {
    pub(super) ebpf: Ebpf,
    pub(super) links: Vec<Link>,
    pub(super) blind_spots: Vec<String>,
    pub(super) counters: PerCpuArray<MapData, [u64; 4]>,
    pub(super) events: MapData,
    pub(super) ring: Ring,
}

/// One loaded object. Dropped, its programs leave the kernel.
///
/// A lone record makes the ring's descriptor readable at once. After a wakeup the kernel side wakes the reader again only
/// when [`super::EbpfSettings::wake_interval`] has passed or a quarter of the ring is filled, so that a storm costs some
/// tens of wakeups a second. What was written in between stays until the reader asks: at its tick, or better, one
/// `wake_interval` after a drain that took something. Wait with `poll(2)`, which looks at the ring itself each time;
/// `epoll` would only see the wakeups.
pub struct EbpfSource {
    object: Object,
    ring: Ring,
    events: MapData,
    counters: PerCpuArray<MapData, [u64; 4]>,
    blind_spots: Vec<String>,
    taken: [Taken; KINDS],
    losses: Losses,
    settled: Settled,
    // Last: the programs stop after everything that reads from them is gone.
    _links: Vec<Link>,
    ebpf: Ebpf,
}

// The worker may drain in another thread than the one that loaded.
const _: () = {
    const fn can_move<T: Send>() {}
    can_move::<EbpfSource>();
};

/// What was read of one kind.
#[derive(Debug, Clone, Copy, Default)]
struct Taken {
    passed: u64,
    malformed: u64,
}

/// Losses told so far.
struct Losses {
    looked: Instant,
    ring_full: u64,
    fault: u64,
    told: u64,
}

/// Counts of begun records that must have ended by now.
struct Settled {
    since: Instant,
    latest: Vec<u64>,
    floor: Vec<u64>,
}

impl EbpfSource {
    pub(super) fn new(object: Object, attached: Attached) -> Self {
        let Attached { ebpf, links, blind_spots, counters, events, ring } = attached;
        let (now, kinds) = (Instant::now(), object.kinds().len());
        EbpfSource {
            object,
            ring,
            events,
            counters,
            blind_spots,
            taken: [Taken::default(); KINDS],
            losses: Losses { looked: now, ring_full: 0, fault: 0, told: 0 },
            settled: Settled { since: now, latest: vec![0; kinds], floor: vec![0; kinds] },
            _links: links,
            ebpf,
        }
    }

    /// Which object this is.
    pub fn object(&self) -> Object {
        self.object
    }

    /// What is not seen on this host because a hook is missing, with the reason; empty when all is seen.
    pub fn blind_spots(&self) -> &[String] {
        &self.blind_spots
    }

    /// The kernel's own counts of one kind, summed over all CPUs.
    fn kernel_counts(&self, kind: Kind) -> KernelCounts {
        let mut sum = KernelCounts::default();
        match self.counters.get(&u32::from(kind as u8), 0) {
            Ok(values) => values.iter().for_each(|value| sum += KernelCounts::from(*value)),
            // The key is in range and the map is ours: this cannot fail short of a kernel fault.
            Err(error) => {
                tracing::error!(%error, object = self.object.name(), "the kernel's counters cannot be read")
            }
        }
        if self.object.kinds().first() == Some(&kind) {
            let missed = self.missed_runs();
            sum += KernelCounts { begun: missed, fault: missed, ..KernelCounts::default() };
        }
        sum
    }

    /// Runs of a program that the kernel left out; what they would have told is not known, so that each counts as one
    /// record of the object's first kind. Only TCP states change in interrupts on top of each other.
    fn missed_runs(&self) -> u64 {
        let runs = self.ebpf.programs().filter_map(|(_, program)| program.fd().ok());
        runs.map(|fd| sys::missed_runs(fd.as_fd()).unwrap_or_default()).sum()
    }

    /// Takes one record: `None` when the ring is empty, `Some(None)` for a record that does not decode.
    fn take(&mut self) -> Option<Option<Sighting>> {
        let EbpfSource { ring, taken, object, .. } = self;
        ring.next(|record| {
            let taken = &mut taken[number_of(record)];
            match decode(record) {
                Ok(sighting) => {
                    taken.passed += 1;
                    Some(sighting)
                }
                Err(error) => {
                    taken.malformed += 1;
                    tracing::trace!(%error, object = object.name(), "a record that is none");
                    None
                }
            }
        })
    }

    /// Tells of records that found no room since the last time, once a second at most.
    fn tell_losses(&mut self, sink: &mut dyn FnMut(Sighting)) -> usize {
        if self.losses.looked.elapsed() < LOSS_INTERVAL {
            return 0;
        }
        self.losses.looked = Instant::now();
        let mut sum = KernelCounts::default();
        self.object.kinds().iter().for_each(|kind| sum += self.kernel_counts(*kind));
        let ring_full = sum.ring_full - self.losses.ring_full;
        let fault = sum.fault - self.losses.fault;
        (self.losses.ring_full, self.losses.fault) = (sum.ring_full, sum.fault);
        let mut told = 0;
        for (source, count) in [(self.object.ring_name(), ring_full), (self.object.name(), fault)] {
            if count > 0 {
                sink(loss(source, count));
                told += 1;
            }
        }
        self.losses.told += told;
        usize::try_from(told).unwrap_or_default()
    }
}

impl Source for EbpfSource {
    fn name(&self) -> &'static str {
        self.object.name()
    }

    fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        vec![self.events.fd().as_fd()]
    }

    fn drain(&mut self, limit: usize, sink: &mut dyn FnMut(Sighting)) -> Result<usize, SourceError> {
        let mut count = self.tell_losses(sink);
        while count < limit {
            match self.take() {
                Some(Some(sighting)) => sink(sighting),
                Some(None) => {}
                None => break,
            }
            count += 1;
        }
        self.ring.publish();
        Ok(count)
    }

    fn books(&mut self) -> Books {
        let kinds = self.object.kinds();
        let before: Vec<_> = kinds.iter().map(|kind| self.kernel_counts(*kind)).collect();
        let mut held = [0u64; KINDS];
        self.ring.each_held(HEAD, |record| held[number_of(record)] += 1);
        let begun: Vec<_> = kinds.iter().map(|kind| self.kernel_counts(*kind).begun).collect();
        let settled = self.settled.at_least(&begun);

        let mut books = Books::default();
        for (index, kind) in kinds.iter().enumerate() {
            let taken = self.taken[usize::from(*kind as u8)];
            let counts = books.entry(Stage::Kernel, *kind);
            counts.passed = taken.passed;
            counts.held = held[usize::from(*kind as u8)];
            let drops = [
                (DropReason::RingFull, before[index].ring_full),
                (DropReason::KernelFault, before[index].fault),
                (DropReason::Malformed, taken.malformed),
            ];
            counts.dropped = drops.into_iter().filter(|(_, count)| *count > 0).collect();
            let accounted = counts.passed + counts.held + counts.dropped_total();
            counts.seen = accounted.min(begun[index]).max(before[index].ended()).max(settled[index]);
        }
        let told = books.entry(Stage::Kernel, Kind::Loss);
        (told.seen, told.passed) = (self.losses.told, self.losses.told);
        books
    }
}

impl Settled {
    /// How many records of each kind had begun [`SETTLED`] or longer ago, and so have ended; remembers `begun` for later.
    fn at_least(&mut self, begun: &[u64]) -> Vec<u64> {
        if self.since.elapsed() >= SETTLED {
            self.since = Instant::now();
            self.floor = std::mem::replace(&mut self.latest, begun.to_vec());
        }
        self.floor.clone()
    }
}

/// The number of a record's kind; 0, which is no kind, for bytes that tell none.
fn number_of(record: &[u8]) -> usize {
    kind_of(record).map_or(0, |kind| usize::from(kind as u8))
}

fn loss(source: &str, count: u64) -> Sighting {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let nanos = u64::try_from(now.tv_sec).unwrap_or_default() * 1_000_000_000
        + u64::try_from(now.tv_nsec).unwrap_or_default();
    let what = What::Done(Body::Loss { source: source.to_owned(), count });
    Sighting { at: BootNanos(nanos), actor: Actor::default(), what }
}
