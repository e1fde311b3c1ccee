//! From a fanotify record to sightings: one for each bit of a merged mask, in the order in which they can have happened.

use std::collections::{HashMap, HashSet, VecDeque};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::{AtFlags, CWD, FileType, StatxFlags};
use watchfire_event::{Actor, Body, Books, BootNanos, FileAction, FileActivity, Kind, Sighting, Stage, What};

use super::patterns::Coverage;
use super::records::{Entry, Handle, Record};
use super::tree::join;
use super::watch::{Found, Visit, Watcher};

/// Creations remembered to tell a new name of an old file from a new file.
const MAX_RECENT: usize = 1024;
/// A file younger than this that was not seen before is new, however many names it has by now.
const YOUNG: Duration = Duration::from_secs(2);
/// Entries remembered that a look into a new directory has already reported.
const MAX_REPORTED: usize = 65_536;
/// Halves of renames that wait for the other one (kernels before 5.17).
const MAX_HALVES: usize = 64;
/// How long they wait; the kernel queues both within microseconds.
pub(super) const HALF_WAITS: Duration = Duration::from_millis(20);
/// Objects that ended and are kept until the queue is empty, for what may still be queued of them.
const MAX_LEAVING: usize = 1024;

/// Which file it was, told apart from one that takes over its inode number.
type FileKey = (u32, u32, u64, i64, u32);

/// What a file is after the fact.
#[derive(Debug, Clone, Copy)]
struct Look {
    mode: u32,
    uid: u32,
    links: u32,
    size: u64,
    key: FileKey,
    young: bool,
}

/// A rename of which only the old place is known so far.
#[derive(Debug)]
struct Half {
    entry: Entry,
    actor: Actor,
    at: BootNanos,
    directory: bool,
}

/// The state between records.
#[derive(Debug, Default)]
pub(super) struct Translator {
    /// Sightings made and not handed on yet.
    pub(super) pending: VecDeque<Sighting>,
    pub(super) books: Books,
    recent: HashMap<FileKey, Vec<u8>>,
    recent_order: VecDeque<FileKey>,
    reported: HashSet<Entry>,
    halves: VecDeque<Half>,
    leaving: Vec<Handle>,
}

impl Translator {
    /// Turns a record into sightings; `own` leaves them out, and the marks follow nevertheless.
    pub(super) fn take(
        &mut self,
        watcher: &mut Watcher,
        record: &Record,
        actor: Actor,
        own: bool,
        at: BootNanos,
    ) {
        let scene = Scene { actor, own, at, directory: record.mask & libc::FAN_ONDIR != 0 };
        if record.mask & libc::FAN_RENAME != 0 {
            self.renamed(watcher, scene, record.from.as_ref(), record.to.as_ref(), record.object.as_ref());
        }
        if record.mask & libc::FAN_DELETE_SELF != 0 {
            let ended = record
                .object
                .iter()
                .chain(record.entry.as_ref().filter(|entry| entry.name == b".").map(|entry| &entry.dir));
            self.leaving.extend(ended.cloned());
        }
        if let Some(entry) = &record.entry {
            self.entry(watcher, scene, record, entry);
        } else if record.mask & libc::FAN_OPEN != 0
            && let Some(path) =
                record.object.as_ref().and_then(|object| watcher.secret(object)).map(<[u8]>::to_vec)
        {
            self.put(scene, FileAction::Open, path, None, true);
        }
        if self.leaving.len() > MAX_LEAVING {
            self.settle(watcher);
        }
    }

    /// Reports what was in a new directory before its mark.
    pub(super) fn found(&mut self, watcher: &mut Watcher, found: Found, at: BootNanos) {
        let scene = Scene { actor: found.maker, own: false, at, directory: found.directory };
        let coverage = watcher.resolve(&found.entry.dir).map(|(_, coverage)| coverage).unwrap_or_default();
        let wanted = watcher.patterns.wants(&found.path, coverage);
        if self.reported.len() < MAX_REPORTED {
            self.reported.insert(found.entry);
        }
        if !wanted {
            return;
        }
        let look = look(&found.path);
        self.remember(look, &found.path);
        if look.is_some_and(|look| look.size > 0 && !found.directory) {
            self.put(scene, FileAction::Create, found.path.clone(), None, true);
            self.put(scene, FileAction::Write, found.path, None, true);
        } else {
            self.put(scene, FileAction::Create, found.path, None, true);
        }
    }

    /// The kernel's queue is empty: nothing of what ended can come any more, and whoever was reported by a look into a new
    /// directory was told of by the kernel too by now.
    pub(super) fn settle(&mut self, watcher: &mut Watcher) {
        for handle in self.leaving.drain(..) {
            watcher.forget(&handle);
        }
        self.reported.clear();
    }

    /// Halves of renames that have waited long enough: the other half lies in a directory nobody watches.
    pub(super) fn flush_halves(&mut self, watcher: &mut Watcher, now: BootNanos) {
        while let Some(half) = self.halves.pop_front_if(|half| now.since(half.at) >= HALF_WAITS) {
            self.rename_out(watcher, half);
        }
    }

    pub(super) fn waits_for_halves(&self) -> bool {
        !self.halves.is_empty()
    }

    fn entry(&mut self, watcher: &mut Watcher, scene: Scene, record: &Record, entry: &Entry) {
        let dir = watcher.resolve(&entry.dir);
        let mask = record.mask;
        let Some((dir_path, coverage)) = dir else {
            return self.unresolved(watcher, scene, record);
        };
        let itself = entry.name == b".";
        let path = if itself { dir_path } else { join(&dir_path, &entry.name) };
        let wanted = watcher.patterns.wants(&path, coverage);
        // Without the handle of the object, a delete and a create of the same name come as one record.
        let again =
            mask & libc::FAN_CREATE != 0 && mask & libc::FAN_DELETE != 0 && !watcher.features().rename;
        let still_there = again && look(&path).is_some();
        if still_there {
            self.put(scene, FileAction::Unlink, path.clone(), None, wanted);
        }
        if mask & libc::FAN_CREATE != 0 && !itself {
            self.created(watcher, scene, entry, &path, coverage, record.object.as_ref());
        }
        if mask & libc::FAN_OPEN != 0 && !scene.directory {
            let secret = record.object.as_ref().is_some_and(|object| watcher.secret(object).is_some());
            self.put(scene, FileAction::Open, path.clone(), None, secret || watcher.patterns.secret(&path));
        }
        if mask & libc::FAN_CLOSE_WRITE != 0 {
            self.put(scene, FileAction::Write, path.clone(), None, wanted);
        }
        if mask & libc::FAN_ATTRIB != 0 {
            self.put(scene, FileAction::Attrib, path.clone(), None, wanted);
        }
        if mask & libc::FAN_MOVED_TO != 0 {
            let half = self
                .halves
                .iter()
                .position(|half| half.actor.tgid == scene.actor.tgid && half.directory == scene.directory);
            let from = half.and_then(|index| self.halves.remove(index)).map(|half| half.entry);
            let object = from.as_ref().and_then(|from| watcher.child(from));
            self.renamed(watcher, scene, from.as_ref(), Some(entry), object.as_ref());
        }
        if mask & libc::FAN_MOVED_FROM != 0 {
            let half =
                Half { entry: entry.clone(), actor: scene.actor, at: scene.at, directory: scene.directory };
            if self.halves.len() >= MAX_HALVES
                && let Some(oldest) = self.halves.pop_front()
            {
                self.rename_out(watcher, oldest);
            }
            self.halves.push_back(half);
        }
        if mask & libc::FAN_DELETE != 0 && !still_there {
            self.put(scene, FileAction::Unlink, path, None, wanted);
        }
    }

    /// In a directory that cannot be named: gone, or moved away from what is watched. A secret still is one.
    fn unresolved(&mut self, watcher: &Watcher, scene: Scene, record: &Record) {
        for (bit, action) in BITS {
            if record.mask & bit == 0 {
                continue;
            }
            let secret = record.object.as_ref().and_then(|object| watcher.secret(object)).map(<[u8]>::to_vec);
            let opened = secret.filter(|_| *action == FileAction::Open);
            let wanted = opened.is_some();
            self.put(scene, *action, opened.unwrap_or_default(), None, wanted);
        }
    }

    fn created(
        &mut self,
        watcher: &mut Watcher,
        scene: Scene,
        entry: &Entry,
        path: &[u8],
        coverage: Coverage,
        object: Option<&Handle>,
    ) {
        if self.reported.remove(entry) {
            // A look into its directory was faster than this record.
            return self.put(scene, FileAction::Create, Vec::new(), None, false);
        }
        let wanted = watcher.patterns.wants(path, coverage);
        if scene.directory {
            self.put(scene, FileAction::Create, path.to_vec(), None, wanted);
            if !object.is_some_and(|object| watcher.knows(object))
                && !watcher.patterns.of_directory(path).is_none()
            {
                let maker = (!scene.own).then_some(scene.actor);
                watcher.enqueue(Visit { path: path.to_vec(), parent: Some(entry.dir.clone()), maker });
            }
            return;
        }
        if watcher.patterns.secret(path) {
            watcher.watch_secret(path);
        }
        let look = look(path);
        let earlier = look.filter(|look| look.links > 1).and_then(|look| self.recent.get(&look.key).cloned());
        let linked = earlier.is_some() || look.is_some_and(|look| look.links > 1 && !look.young);
        if linked {
            let from = earlier.filter(|from| from != path).unwrap_or_default();
            self.put(scene, FileAction::Link, from, Some(path.to_vec()), wanted);
        } else {
            self.remember(look, path);
            self.put(scene, FileAction::Create, path.to_vec(), None, wanted);
        }
    }

    fn renamed(
        &mut self,
        watcher: &mut Watcher,
        scene: Scene,
        from: Option<&Entry>,
        to: Option<&Entry>,
        object: Option<&Handle>,
    ) {
        let mut place = |entry: Option<&Entry>| {
            let entry = entry?;
            let (dir, coverage) = watcher.resolve(&entry.dir)?;
            let path = join(&dir, &entry.name);
            let wanted = watcher.patterns.wants(&path, coverage);
            Some((path, wanted))
        };
        let (old, new) = (place(from), place(to));
        let wanted = old.as_ref().is_some_and(|old| old.1) || new.as_ref().is_some_and(|new| new.1);
        let (old, new) = (old.map(|old| old.0), new.map(|new| new.0));
        if scene.directory {
            match (&new, to, object) {
                (Some(path), Some(to), object) => watcher.moved(object, to, path.clone()),
                (_, _, Some(object)) => watcher.left(object),
                _ => {}
            }
        } else if let Some(path) = new.as_ref().filter(|path| watcher.patterns.secret(path)) {
            watcher.watch_secret(path);
        }
        self.put(scene, FileAction::Rename, old.unwrap_or_default(), new, wanted);
    }

    fn rename_out(&mut self, watcher: &mut Watcher, half: Half) {
        let scene = Scene { actor: half.actor, own: false, at: half.at, directory: half.directory };
        let object = watcher.child(&half.entry);
        self.renamed(watcher, scene, Some(&half.entry), None, object.as_ref());
    }

    fn remember(&mut self, look: Option<Look>, path: &[u8]) {
        let Some(look) = look else { return };
        if self.recent.insert(look.key, path.to_vec()).is_none() {
            self.recent_order.push_back(look.key);
        }
        if self.recent_order.len() > MAX_RECENT
            && let Some(oldest) = self.recent_order.pop_front()
        {
            self.recent.remove(&oldest);
        }
    }

    /// Counts a sighting and, if it is wanted, keeps it for the reader.
    fn put(
        &mut self,
        scene: Scene,
        action: FileAction,
        path: Vec<u8>,
        new_path: Option<Vec<u8>>,
        wanted: bool,
    ) {
        let counts = self.books.entry(Stage::Kernel, action.kind());
        counts.seen += 1;
        if !wanted || scene.own {
            counts.filtered += 1;
            return;
        }
        let look = if action == FileAction::Unlink { None } else { look(new_path.as_ref().unwrap_or(&path)) };
        let (mode, uid) = (look.map(|look| look.mode), look.map(|look| look.uid));
        let body = Body::File(FileActivity { action, path, new_path, mode, uid });
        self.pending.push_back(Sighting { at: scene.at, actor: scene.actor, what: What::Done(body) });
    }

    /// Something other than a file to be told: a loss.
    pub(super) fn put_loss(&mut self, count: u64, at: BootNanos) {
        self.books.entry(Stage::Kernel, Kind::Loss).seen += 1;
        let body = Body::Loss { source: "fanotify".to_owned(), count };
        self.pending.push_back(Sighting { at, actor: Actor::default(), what: What::Done(body) });
    }
}

/// Who did it, when, and whether to a directory.
#[derive(Debug, Clone, Copy)]
struct Scene {
    actor: Actor,
    own: bool,
    at: BootNanos,
    directory: bool,
}

const BITS: &[(u64, FileAction)] = &[
    (libc::FAN_CREATE, FileAction::Create),
    (libc::FAN_OPEN, FileAction::Open),
    (libc::FAN_CLOSE_WRITE, FileAction::Write),
    (libc::FAN_ATTRIB, FileAction::Attrib),
    (libc::FAN_MOVED_FROM, FileAction::Rename),
    (libc::FAN_MOVED_TO, FileAction::Rename),
    (libc::FAN_DELETE, FileAction::Unlink),
];

fn look(path: &[u8]) -> Option<Look> {
    let wanted = StatxFlags::BASIC_STATS | StatxFlags::BTIME;
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
    let found = rustix::fs::statx(CWD, Path::new(OsStr::from_bytes(path)), flags, wanted).ok()?;
    let born = StatxFlags::from_bits_retain(found.stx_mask).contains(StatxFlags::BTIME);
    let regular = FileType::from_raw_mode(found.stx_mode.into()) == FileType::RegularFile;
    let (seconds, nanos) = (found.stx_btime.tv_sec, found.stx_btime.tv_nsec);
    let age = u64::try_from(seconds).ok().map(|seconds| UNIX_EPOCH + Duration::new(seconds, nanos));
    let age = age.and_then(|birth| SystemTime::now().duration_since(birth).ok()).unwrap_or_default();
    Some(Look {
        mode: found.stx_mode.into(),
        uid: found.stx_uid,
        links: if regular { found.stx_nlink } else { 1 },
        size: found.stx_size,
        key: (found.stx_dev_major, found.stx_dev_minor, found.stx_ino, seconds, nanos),
        young: born && age < YOUNG,
    })
}
