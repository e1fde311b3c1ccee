//! The spool against a list: any order of calls, restarts, torn ends and flipped bits, under both policies.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "all of this file is a test")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use watchfire_spool::{Appended, RELEASES_AT_RISK, Spool, SpoolError, SpoolSettings, WhenFull};

const LIMIT: u64 = 1 << 20;

#[derive(Debug, Clone)]
enum Step {
    Append(usize),
    Next(u8),
    /// Through a number that was read, this many back.
    Release(u64),
    /// Through any number.
    ReleaseFar(u16),
    Rewind,
    Sync,
    Reopen,
    /// The process is killed, here without a write under way.
    Kill,
    /// … with one under way, of which so many thousandths arrived.
    KillTorn(usize, u16),
    /// A bit of a segment flips while the spool is closed: of which segment, where.
    Flip(prop::sample::Index, prop::sample::Index),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let size = prop_oneof![6 => 1usize..300, 3 => 1usize..20_000, 2 => 20_000usize..200_000, 1 => 200_000usize..1_100_000];
    let step = prop_oneof![
        20 => size.clone().prop_map(Step::Append),
        8 => (1u8..20).prop_map(Step::Next),
        4 => (0u64..5).prop_map(Step::Release),
        1 => any::<u16>().prop_map(Step::ReleaseFar),
        2 => Just(Step::Rewind),
        1 => Just(Step::Sync),
        1 => Just(Step::Reopen),
        1 => Just(Step::Kill),
        1 => (size, 0u16..1000).prop_map(|(size, arrived)| Step::KillTorn(size, arrived)),
        1 => any::<(prop::sample::Index, prop::sample::Index)>().prop_map(|(file, bit)| Step::Flip(file, bit)),
    ];
    prop::collection::vec(step, 1..120)
}

/// The list, and the spool beside it.
struct Pair {
    dir: tempfile::TempDir,
    settings: SpoolSettings,
    spool: Option<Spool>,
    /// Held records by number.
    held: BTreeMap<u64, Vec<u8>>,
    /// The last number that was stored.
    last: u64,
    released: u64,
    /// The last number that was read.
    read: u64,
    /// Records at opening, for the sums.
    opened_with: u64,
    /// There was damage, behind which numbers may go on higher.
    flipped: bool,
}

fn payload(number: u64, size: usize) -> Vec<u8> {
    let mut bytes = vec![number.to_le_bytes()[0] | 1; size];
    let stamp = number.to_le_bytes();
    let stamped = size.min(8);
    bytes[..stamped].copy_from_slice(&stamp[..stamped]);
    bytes
}

fn segments(dir: &Path) -> Vec<PathBuf> {
    let paths = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let mut paths: Vec<_> = paths.filter(|path| path.extension() == Some("spool".as_ref())).collect();
    paths.sort();
    paths
}

impl Pair {
    fn new(when_full: WhenFull, segment_bytes: u64) -> Self {
        let memory = Path::new("/dev/shm");
        let dir = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.unwrap();
        let settings =
            SpoolSettings { segment_bytes, max_bytes: LIMIT, ..SpoolSettings::new(dir.path(), when_full) };
        let spool = Some(Spool::open(settings.clone()).unwrap().0);
        Pair {
            dir,
            settings,
            spool,
            held: BTreeMap::new(),
            last: 0,
            released: 0,
            read: 0,
            opened_with: 0,
            flipped: false,
        }
    }

    fn spool(&mut self) -> &mut Spool {
        self.spool.as_mut().unwrap()
    }

    fn take(&mut self, step: &Step) {
        match step {
            Step::Append(size) => self.append(*size),
            Step::Next(times) => (0..*times).for_each(|_| self.next()),
            Step::Release(back) => self.release(self.read.saturating_sub(*back)),
            Step::ReleaseFar(through) => {
                // Above the last number too; after damage only the spool knows which one that is.
                let numbers = self.last + if self.flipped { 1 } else { 3 };
                self.release(u64::from(*through) % numbers);
            }
            Step::Rewind => {
                self.spool().rewind();
                self.read = self.released;
            }
            Step::Sync => self.spool().sync().unwrap(),
            Step::Reopen => {
                self.spool = None;
                self.reopen(0, 0);
            }
            Step::Kill => {
                self.kill();
                self.reopen(RELEASES_AT_RISK, 0);
            }
            Step::KillTorn(size, arrived) => self.kill_torn(*size, *arrived),
            Step::Flip(file, bit) => self.flip(file, bit),
        }
        self.check();
    }

    fn append(&mut self, size: usize) {
        let record = payload(self.last + 1, size);
        let mut shown = Vec::new();
        let appended =
            self.spool().append(&record, &mut |number, record| shown.push((number, record.to_vec())));
        for (number, record) in &shown {
            // Oldest first, and only what waits.
            assert_eq!(self.held.pop_first(), Some((*number, record.clone())));
        }
        match appended {
            Ok(Appended::Stored { number }) => {
                assert!(number > self.last);
                assert!(number == self.last + 1 || self.flipped);
                self.held.insert(number, record);
                self.last = number;
            }
            Ok(Appended::Refused) => {
                assert!(shown.is_empty() && self.settings.when_full == WhenFull::DropNewest);
                let room = LIMIT.saturating_sub(self.spool().held().bytes);
                // Headers of record and segment, and what is kept free for the cursor and the next segment's header.
                assert!(room < size as u64 + 16 + 24 + 72, "refused with {room} bytes of room");
            }
            Err(SpoolError::RecordSize { bytes, limit }) => {
                assert!(shown.is_empty() && bytes == size && bytes as u64 > limit && limit > LIMIT - 200);
            }
            Err(error) => panic!("{error}"),
        }
    }

    fn next(&mut self) {
        let after = self.read.max(self.released);
        let expected = self.held.range(after + 1..).next().map(|(number, record)| (*number, record.clone()));
        let found = self.spool().next().unwrap();
        assert!(found == expected, "{:?} is not {:?}", found.map(|f| f.0), expected.map(|e| e.0));
        if let Some((number, _)) = found {
            self.read = number;
        }
    }

    fn release(&mut self, through: u64) {
        self.spool().release(through).unwrap();
        self.released = self.released.max(through.min(self.last));
        self.held = self.held.split_off(&(self.released + 1));
    }

    /// What a killed process leaves: a copy of its files as they are before the spool is dropped.
    fn kill(&mut self) {
        let copy = tempfile::tempdir_in(self.dir.path().parent().unwrap()).unwrap();
        for entry in fs::read_dir(self.dir.path()).unwrap() {
            let path = entry.unwrap().path();
            fs::copy(&path, copy.path().join(path.file_name().unwrap())).unwrap();
        }
        self.spool = None;
        self.settings.directory = copy.path().to_owned();
        self.dir = copy;
    }

    fn kill_torn(&mut self, size: usize, arrived: u16) {
        self.kill();
        let mut torn = 0;
        // The next record as it would stand there; its checksum does not matter, since it is not whole.
        // Behind damage no spool writes: it begins a new segment there.
        if let Some(newest) = segments(self.dir.path()).last().filter(|_| !self.flipped) {
            let mut record = u32::try_from(size).unwrap().to_le_bytes().to_vec();
            record.extend_from_slice(&(self.last + 1).to_le_bytes());
            record.extend_from_slice(&[0x5a; 4]);
            record.extend_from_slice(&payload(self.last + 1, size));
            record.truncate((record.len() - 1) * usize::from(arrived) / 1000);
            torn = record.len() as u64;
            let bytes = fs::read(newest).unwrap();
            fs::write(newest, [bytes, record].concat()).unwrap();
        }
        self.reopen(RELEASES_AT_RISK, torn);
    }

    /// Opens again; at most so many released records may be there again.
    fn reopen(&mut self, repeated: u64, torn: u64) {
        let (mut spool, recovery) = Spool::open(self.settings.clone()).unwrap();
        assert!(recovery.foreign_files == 0 && !recovery.cursor_damaged);
        // Damage is seen again at each opening until its segment goes.
        let counted = (recovery.torn_bytes, recovery.damaged_bytes, recovery.missing_records);
        assert!(counted == (torn, 0, 0) || self.flipped, "{counted:?}, {torn} torn");
        let found = read_all(&mut spool);
        let again: Vec<u64> = found.range(..=self.released).map(|(number, _)| *number).collect();
        assert!(again.len() as u64 <= repeated, "{} released records again", again.len());
        self.opened_with = found.len() as u64;
        assert_eq!(recovery.records, self.opened_with);
        let waiting: Vec<&u64> = found.range(self.released + 1..).map(|(number, _)| number).collect();
        assert_eq!(waiting, self.held.keys().collect::<Vec<_>>());
        if let Some(first) = again.first() {
            self.released = first - 1;
        }
        self.held = found;
        self.read = self.released;
        spool.rewind();
        self.spool = Some(spool);
    }

    /// A bit costs the record it is in, or nothing if it is in a segment's header.
    fn flip(&mut self, file: &prop::sample::Index, bit: &prop::sample::Index) {
        self.spool = None;
        self.flipped = true;
        let files = segments(self.dir.path());
        if files.is_empty() {
            return self.reopen(0, 0);
        }
        let path = file.get(&files);
        let mut bytes = fs::read(path).unwrap();
        let bit = bit.index(bytes.len() * 8);
        bytes[bit / 8] ^= 1 << (bit % 8);
        fs::write(path, bytes).unwrap();
        let (mut spool, recovery) = Spool::open(self.settings.clone()).unwrap();
        let found = read_all(&mut spool);
        let lost: BTreeSet<u64> =
            self.held.keys().filter(|number| !found.contains_key(number)).copied().collect();
        assert!(lost.len() <= 1, "one bit cost {lost:?}");
        let told = recovery.missing_records + recovery.damaged_bytes + recovery.torn_bytes;
        assert!(lost.is_empty() || told > 0, "the loss of {lost:?} is not told");
        lost.iter().for_each(|number| drop(self.held.remove(number)));
        assert!(found == self.held);
        self.opened_with = found.len() as u64;
        self.read = self.released;
        // A flipped length may make the newest record look torn: then its number is given again.
        self.last = self
            .held
            .keys()
            .next_back()
            .copied()
            .unwrap_or(0)
            .max(self.released)
            .max(self.last.saturating_sub(1));
        spool.rewind();
        self.spool = Some(spool);
    }

    fn check(&mut self) {
        let on_disk: u64 =
            fs::read_dir(self.dir.path()).unwrap().map(|e| e.unwrap().metadata().unwrap().len()).sum();
        assert!(on_disk <= LIMIT, "{on_disk} bytes");
        let (records, opened) = (self.held.len() as u64, self.opened_with);
        let spool = self.spool();
        let counters = spool.counters();
        assert_eq!(spool.held().records, records);
        assert_eq!(
            opened + counters.appended,
            counters.released + counters.evicted + counters.damaged + records
        );
        assert_eq!(counters.damaged, 0);
    }
}

fn read_all(spool: &mut Spool) -> BTreeMap<u64, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut last = 0;
    while let Some((number, record)) = spool.next().unwrap() {
        assert!(number > last, "{number} after {last}");
        last = number;
        found.insert(number, record);
    }
    found
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]

    #[test]
    fn any_order_of_calls_and_mishaps_gives_what_a_list_gives(
        steps in steps(),
        drop_oldest: bool,
        segment_bytes in prop_oneof![Just(4096u64), 4096u64..100_000, Just(LIMIT / 2)],
    ) {
        let when_full = if drop_oldest { WhenFull::DropOldest } else { WhenFull::DropNewest };
        let mut pair = Pair::new(when_full, segment_bytes);
        steps.iter().for_each(|step| pair.take(step));
    }
}

#[test]
fn a_spool_has_one_owner() {
    let dir = tempfile::tempdir().unwrap();
    let settings = SpoolSettings::new(dir.path().join("new/spool"), WhenFull::DropOldest);
    let (spool, _) = Spool::open(settings.clone()).unwrap();
    let error = Spool::open(settings.clone()).unwrap_err();
    assert!(matches!(error, SpoolError::InUse { .. }) && error.to_string().contains("in use"), "{error}");
    drop(spool);
    Spool::open(settings).unwrap();
}

#[test]
fn others_can_read_nothing() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().join("spool");
    let (mut spool, _) = Spool::open(SpoolSettings::new(&place, WhenFull::DropOldest)).unwrap();
    spool.append(b"x", &mut |_, _| ()).map(drop).unwrap();
    spool.sync().unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&place), 0o700);
    let names: BTreeSet<_> = fs::read_dir(&place).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(names.len(), 3, "{names:?}");
    assert!(names.iter().all(|path| mode(path) == 0o600));
}

#[test]
fn damage_met_while_reading_is_skipped_and_counted_once() {
    let dir = tempfile::tempdir().unwrap();
    let (mut spool, _) = Spool::open(SpoolSettings::new(dir.path(), WhenFull::DropNewest)).unwrap();
    for number in 1u8..=5 {
        spool.append(&[number; 1000], &mut |_, _| ()).map(drop).unwrap();
    }
    let path = segments(dir.path()).remove(0);
    let mut bytes = fs::read(&path).unwrap();
    bytes[24 + 2 * 1016 + 500] ^= 1;
    fs::write(&path, bytes).unwrap();
    for _ in 0..2 {
        assert_eq!(read_all(&mut spool).into_keys().collect::<Vec<_>>(), [1, 2, 4, 5]);
        assert_eq!((spool.counters().damaged, spool.held().records), (1, 4));
        spool.rewind();
    }
    spool.release(3).unwrap();
    assert_eq!((spool.counters().released, spool.held().records), (2, 2));
    // A file that is gone costs an error once, and the spool goes on.
    fs::remove_file(&path).unwrap();
    spool.rewind();
    assert!(matches!(spool.next(), Err(SpoolError::Io { .. })));
    assert_eq!(spool.next().unwrap(), None);
    assert_eq!((spool.counters().damaged, spool.held().records), (3, 0));
}

#[test]
fn two_damaged_last_records_do_not_make_a_number_come_again() {
    let mut pair = Pair::new(WhenFull::DropNewest, 4096);
    (0..3).for_each(|_| pair.take(&Step::Append(100)));
    let path = segments(pair.dir.path()).remove(0);
    for record in [2, 1] {
        pair.spool = None;
        let mut bytes = fs::read(&path).unwrap();
        bytes[24 + record * 116 + 50] ^= 1;
        fs::write(&path, bytes).unwrap();
        pair.spool = Some(Spool::open(pair.settings.clone()).unwrap().0);
    }
    let stored = pair.spool().append(b"next", &mut |_, _| ()).unwrap();
    assert_eq!(stored, Appended::Stored { number: 4 });
}

#[test]
fn a_lowered_limit_holds_from_the_next_append_on() {
    let dir = tempfile::tempdir().unwrap();
    let large = SpoolSettings { max_bytes: 4 << 20, ..SpoolSettings::new(dir.path(), WhenFull::DropOldest) };
    let (mut spool, _) = Spool::open(large.clone()).unwrap();
    for _ in 0..30 {
        spool.append(&[7; 100_000], &mut |_, _| panic!("there is room")).map(drop).unwrap();
    }
    drop(spool);
    let small = SpoolSettings { max_bytes: 1 << 20, segment_bytes: 256 << 10, ..large };
    let (mut spool, recovery) = Spool::open(small.clone()).unwrap();
    assert_eq!(recovery.records, 30);
    let mut lost = Vec::new();
    let appended = spool.append(&[7; 100_000], &mut |number, _| lost.push(number)).unwrap();
    assert_eq!(appended, Appended::Stored { number: 31 });
    assert!(spool.held().bytes < 1 << 20 && spool.counters().evicted == lost.len() as u64);
    assert_eq!(lost, (1..31 - (spool.held().records - 1)).collect::<Vec<_>>());
}

#[test]
fn nothing_is_released_before_it_is_appended() {
    let dir = tempfile::tempdir().unwrap();
    let settings = SpoolSettings::new(dir.path(), WhenFull::DropNewest);
    let (mut spool, _) = Spool::open(settings.clone()).unwrap();
    spool.append(b"one", &mut |_, _| ()).map(drop).unwrap();
    spool.release(u64::MAX).unwrap();
    spool.append(b"two", &mut |_, _| ()).map(drop).unwrap();
    assert_eq!(spool.next().unwrap(), Some((2, b"two".to_vec())));
    drop(spool);
    let (mut spool, recovery) = Spool::open(settings).unwrap();
    assert_eq!((recovery.records, spool.next().unwrap()), (1, Some((2, b"two".to_vec()))));
}
