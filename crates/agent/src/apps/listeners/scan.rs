//! One scan: list the sockets, look for the holders of those that are new, tell what changed.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use watchfire_app::{App, AppError, Turn};
use watchfire_event::Report;
use watchfire_host::{HolderWalk, Listener, ListenerKey, Listing, ProcReader};

use super::telling::{CLOSED, Holder, LISTENING, Summary, change};
use super::{Known, KnownListeners, Listeners};

/// Whether there is more to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    More,
    Done,
}

/// What a scan works on.
pub(super) struct Around<'a> {
    pub(super) proc: &'static str,
    pub(super) processes: &'a ProcReader,
    pub(super) listing: &'a mut Listing,
    pub(super) known: &'a mut KnownListeners,
    pub(super) most: usize,
}

/// One scan.
pub(super) struct Scan {
    first: bool,
    begun: Instant,
    /// The thread's CPU time at the beginning.
    cpu_before: Duration,
    phase: Phase,
    /// Those known that are there still.
    present: BTreeSet<ListenerKey>,
    /// Those that are new, as many as may be known at all.
    fresh: BTreeMap<ListenerKey, Listener>,
    left_out: u64,
    problems: Vec<String>,
    /// Every table was read to its end.
    listed: bool,
    /// By inode.
    holders: BTreeMap<u64, Arc<Holder>>,
    descriptors: u64,
    opened: u64,
    closed: u64,
    unheld: u64,
}

enum Phase {
    /// `again`: something known was missing, and it is looked for once more before it is told as closed. A listing is no snapshot: while
    /// other sockets come and go it may pass one over.
    Listing {
        again: bool,
    },
    Holders {
        walk: HolderWalk,
        by_tgid: BTreeMap<u32, Arc<Holder>>,
        to_read: VecDeque<(u64, u32)>,
    },
    Telling {
        closed: VecDeque<ListenerKey>,
    },
}

impl Scan {
    pub(super) fn begin(listing: &mut Listing, first: bool, now: Instant, cpu_before: Duration) -> Self {
        listing.begin();
        Scan {
            first,
            begun: now,
            cpu_before,
            phase: Phase::Listing { again: false },
            present: BTreeSet::new(),
            fresh: BTreeMap::new(),
            left_out: 0,
            problems: Vec::new(),
            listed: false,
            holders: BTreeMap::new(),
            descriptors: 0,
            opened: 0,
            closed: 0,
            unheld: 0,
        }
    }

    pub(super) fn begun(&self) -> Instant {
        self.begun
    }

    /// Does a little of what is left to do.
    pub(super) fn step(
        &mut self,
        around: &mut Around<'_>,
        turn: &mut Turn<'_, Report>,
    ) -> Result<Step, AppError> {
        match &mut self.phase {
            Phase::Listing { .. } => self.list(around),
            Phase::Holders { .. } => self.look(around),
            Phase::Telling { .. } => return self.tell(around, turn),
        }
        Ok(Step::More)
    }

    /// The deadline has passed: what is known by now is told.
    pub(super) fn give_up(&mut self, around: &mut Around<'_>) {
        match &self.phase {
            Phase::Listing { .. } => {
                self.problems.push("the deadline passed while sockets were listed".to_owned());
                self.listed = false;
                self.choose(around);
                self.begin_telling(around);
            }
            Phase::Holders { walk, .. } => {
                self.descriptors = walk.looked_at();
                self.problems.push("the deadline passed while holders were looked for".to_owned());
                self.begin_telling(around);
            }
            Phase::Telling { .. } => {}
        }
    }

    pub(super) fn summary(&self, listing: &Listing, known: usize, now: Instant, cpu: Duration) -> Summary {
        let problems = self.problems.iter().chain(listing.problems()).cloned().collect();
        let from_files = listing.refusals().map(|(table, why)| format!("{table}: {why}")).collect();
        Summary {
            first: self.first,
            from_files,
            listed: self.listed,
            problems,
            left_out: self.left_out,
            known,
            opened: self.opened,
            closed: self.closed,
            unheld: self.unheld,
            descriptors: self.descriptors,
            took: now.saturating_duration_since(self.begun),
            cpu: cpu.saturating_sub(self.cpu_before),
        }
    }

    fn list(&mut self, around: &mut Around<'_>) {
        let (known, most) = (&*around.known, around.most);
        let (present, fresh, left_out) = (&mut self.present, &mut self.fresh, &mut self.left_out);
        let more = around.listing.step(|listener| {
            if known.contains_key(&listener.key) {
                present.insert(listener.key);
            } else if fresh.len() < most || fresh.contains_key(&listener.key) {
                fresh.insert(listener.key, listener);
            } else {
                *left_out += 1;
            }
        });
        if more {
            return;
        }
        self.listed = around.listing.problems().is_empty();
        if self.listed
            && self.present.len() < around.known.len()
            && matches!(self.phase, Phase::Listing { again: false })
        {
            self.phase = Phase::Listing { again: true };
            self.left_out = 0;
            around.listing.begin();
            return;
        }
        self.choose(around);
        if self.fresh.is_empty() {
            self.begin_telling(around);
            return;
        }
        let wanted = self.fresh.keys().map(|key| key.inode).filter(|inode| *inode != 0).collect();
        let walk = HolderWalk::new(around.proc, wanted);
        self.phase = Phase::Holders { walk, by_tgid: BTreeMap::new(), to_read: VecDeque::new() };
    }

    /// Of the new ones those for which there is room.
    fn choose(&mut self, around: &Around<'_>) {
        let stay = if self.listed { self.present.len() } else { around.known.len() };
        let room = around.most.saturating_sub(stay);
        while self.fresh.len() > room {
            self.fresh.pop_last();
            self.left_out += 1;
        }
    }

    fn look(&mut self, around: &mut Around<'_>) {
        let Phase::Holders { walk, by_tgid, to_read } = &mut self.phase else { return };
        if let Some((inode, tgid)) = to_read.pop_front() {
            let holder = match by_tgid.get(&tgid) {
                Some(holder) => Some(holder.clone()),
                None => around.processes.read_process(tgid).ok().map(|process| Arc::new(process.into())),
            };
            if let Some(holder) = holder {
                by_tgid.insert(tgid, holder.clone());
                self.holders.insert(inode, holder);
            }
            return;
        }
        if walk.step(|found| to_read.push_back((found.inode, found.tgid))) {
            return;
        }
        if to_read.is_empty() {
            self.descriptors = walk.looked_at();
            if walk.left_out() > 0 {
                self.problems.push(format!("{} processes have too many descriptors", walk.left_out()));
            }
            self.begin_telling(around);
        }
    }

    fn begin_telling(&mut self, around: &Around<'_>) {
        let gone = |key: &&ListenerKey| self.listed && !self.present.contains(*key);
        self.phase = Phase::Telling { closed: around.known.keys().filter(gone).copied().collect() };
    }

    /// Tells one change.
    fn tell(&mut self, around: &mut Around<'_>, turn: &mut Turn<'_, Report>) -> Result<Step, AppError> {
        let Phase::Telling { closed } = &mut self.phase else { return Ok(Step::More) };
        if let Some(key) = closed.pop_front() {
            if let Some(known) = around.known.remove(&key) {
                self.closed += 1;
                turn.emit(change(Listeners::NAME, CLOSED, &known, self.first)?);
            }
            return Ok(Step::More);
        }
        let Some((key, listener)) = self.fresh.pop_first() else { return Ok(Step::Done) };
        let known = Known { listener, holder: self.holders.get(&key.inode).cloned() };
        self.opened += 1;
        self.unheld += u64::from(known.holder.is_none());
        turn.emit(change(Listeners::NAME, LISTENING, &known, self.first)?);
        around.known.insert(key, known);
        Ok(Step::More)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

    const TITLE: &str =
        "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n";
    const ROW: &str =
        "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 11 1 0\n";

    /// A made-up /proc whose only listener can come and go.
    struct Made {
        root: tempfile::TempDir,
        listing: Listing,
        known: KnownListeners,
        processes: ProcReader,
    }

    impl Made {
        fn new() -> Self {
            let root = tempfile::tempdir().unwrap();
            fs::create_dir(root.path().join("net")).unwrap();
            for table in ["tcp", "udp"] {
                fs::write(root.path().join("net").join(table), TITLE).unwrap();
            }
            let listing = Listing::new(root.path()).without_netlink();
            let processes = ProcReader::new(root.path());
            Made { root, listing, known: KnownListeners::new(), processes }
        }

        fn listens(&self, listens: bool) {
            let rows = if listens { [TITLE, ROW].concat() } else { TITLE.to_owned() };
            fs::write(self.root.path().join("net/tcp"), rows).unwrap();
        }

        fn around(&mut self) -> Around<'_> {
            let Made { listing, known, processes, .. } = self;
            // No process holds the made-up socket.
            Around { proc: "/nowhere", processes, listing, known, most: 16 }
        }

        fn begin(&mut self) -> Scan {
            Scan::begin(&mut self.listing, false, Instant::now(), Duration::ZERO)
        }

        /// Lists to the end of a listing.
        fn list(&mut self, scan: &mut Scan) {
            let again = matches!(scan.phase, Phase::Listing { again: true });
            while matches!(scan.phase, Phase::Listing { again: now } if now == again) {
                scan.list(&mut self.around());
            }
        }

        /// Makes what a scan found known, without telling it.
        fn keep(&mut self, scan: Scan) {
            let known = scan.fresh.into_iter().map(|(key, listener)| (key, Known { listener, holder: None }));
            self.known.extend(known);
        }

        fn summary(&self, scan: &Scan) -> Summary {
            scan.summary(&self.listing, self.known.len(), Instant::now(), Duration::ZERO)
        }
    }

    fn closed(scan: &Scan) -> usize {
        match &scan.phase {
            Phase::Telling { closed } => closed.len(),
            _ => panic!("it is not telling yet"),
        }
    }

    fn with_one_known() -> Made {
        let mut made = Made::new();
        made.listens(true);
        let mut scan = made.begin();
        made.list(&mut scan);
        assert_eq!(scan.fresh.len(), 1);
        made.keep(scan);
        made
    }

    #[test]
    fn what_one_listing_passed_over_is_looked_for_again_before_it_is_told_as_closed() {
        let mut made = with_one_known();
        let mut scan = made.begin();
        made.listens(false);
        made.list(&mut scan);
        assert!(matches!(scan.phase, Phase::Listing { again: true }));
        made.listens(true);
        made.list(&mut scan);
        assert_eq!(closed(&scan), 0);

        let mut scan = made.begin();
        made.listens(false);
        made.list(&mut scan);
        made.list(&mut scan);
        assert_eq!(closed(&scan), 1);
    }

    #[test]
    fn a_listing_that_was_given_up_or_lacks_a_table_closes_nothing() {
        let mut made = with_one_known();
        made.listens(false);
        let mut scan = made.begin();
        scan.give_up(&mut made.around());
        assert_eq!(closed(&scan), 0);
        assert!(made.summary(&scan).problems[0].contains("deadline"));
        assert!(!made.summary(&scan).listed);

        fs::remove_file(made.root.path().join("net/udp")).unwrap();
        let mut scan = made.begin();
        made.list(&mut scan);
        assert_eq!(closed(&scan), 0);
        let summary = made.summary(&scan);
        assert!(!summary.listed && summary.problems[0].starts_with("udp: "), "{summary}");
    }

    #[test]
    fn at_the_deadline_the_new_ones_are_told_without_their_holders() {
        let mut made = Made::new();
        made.listens(true);
        let mut scan = made.begin();
        made.list(&mut scan);
        assert!(matches!(scan.phase, Phase::Holders { .. }));
        scan.give_up(&mut made.around());
        assert_eq!((closed(&scan), scan.fresh.len()), (0, 1));
        assert!(made.summary(&scan).listed && !made.summary(&scan).is_whole());
    }

    #[test]
    fn known_ones_have_their_place_before_new_ones() {
        let mut made = with_one_known();
        let rows: String =
            (0..40).map(|number| format!("   0: 0100007F:{number:04X}{}", &ROW[18..])).collect();
        let path: &Path = &made.root.path().join("net/tcp");
        fs::write(path, [TITLE, &rows, ROW].concat()).unwrap();
        let mut scan = made.begin();
        made.list(&mut scan);
        // Port 0 is none.
        assert_eq!((scan.present.len(), scan.fresh.len(), scan.left_out), (1, 15, 24));
    }
}
