//! Puts the marks: walks what the settings name, marks each directory before it looks inside, and knows afterwards which
//! directory a handle is.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::ffi::{CStr, CString, OsStr};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use rustix::fs::{CWD, Dir, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use watchfire_event::{Actor, printable};

use super::patterns::{Coverage, Patterns};
use super::records::{Entry, Handle};
use super::settings::MarkMode;
use super::sys::{self, Target};
use super::tree::{Node, Tree, join};

/// Most entries looked at in one directory.
const MAX_ENTRIES: usize = 65_536;
/// Most files reported that were already in a new directory when it was marked.
const MAX_FOUND: usize = 4096;
/// Paths of unmarked directories kept (file system mode).
const MAX_CACHED: usize = 4096;
/// Directories still to be visited.
const MAX_WORK: usize = 65_536;
/// Reasons kept for marks the kernel refused.
const MAX_REASONS: usize = 16;
/// File systems whose directories are not opened: kernel interfaces, and servers that may not answer.
const BARRED: &[&[u8]] = &[
    b"proc",
    b"sysfs",
    b"cgroup",
    b"cgroup2",
    b"debugfs",
    b"tracefs",
    b"securityfs",
    b"bpf",
    b"configfs",
    b"pstore",
    b"devpts",
    b"autofs",
    b"nfs",
    b"nfs4",
    b"cifs",
    b"smb3",
    b"smbfs",
    b"9p",
    b"afs",
    b"ceph",
    b"glusterfs",
    b"lustre",
    b"ocfs2",
    b"gfs2",
];

/// What the kernel can tell, as found at start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Features {
    /// `FAN_RENAME` and the handle of the object (5.17).
    pub(super) rename: bool,
    /// A descriptor of the process (5.15).
    pub(super) pidfd: bool,
}

impl Features {
    fn full_mask(self) -> u64 {
        self.lead_mask() | libc::FAN_CLOSE_WRITE | libc::FAN_ATTRIB | libc::FAN_EVENT_ON_CHILD
    }

    fn lead_mask(self) -> u64 {
        let moves = if self.rename { libc::FAN_RENAME } else { libc::FAN_MOVE };
        libc::FAN_CREATE | libc::FAN_DELETE | libc::FAN_DELETE_SELF | libc::FAN_ONDIR | moves
    }

    fn mask(self, coverage: Coverage) -> u64 {
        if coverage.full || coverage.listed { self.full_mask() } else { self.lead_mask() }
    }

    fn file_system_mask(self) -> u64 {
        self.full_mask() & !(libc::FAN_DELETE_SELF | libc::FAN_EVENT_ON_CHILD)
    }
}

/// What was not watched, and why.
#[derive(Debug, Default)]
pub(super) struct Gaps {
    /// Directories and secrets beyond `max_marks`.
    pub(super) over_cap: u64,
    /// Directories deeper than `max_depth`.
    pub(super) too_deep: u64,
    /// Entries of large directories that were not looked at.
    pub(super) unread: u64,
    /// Directories the kernel would not let be marked, by its words.
    pub(super) refused: BTreeMap<String, u64>,
    /// Mount points left out for their file system.
    pub(super) barred: HashSet<Vec<u8>>,
}

/// A directory to be marked and looked into.
#[derive(Debug)]
pub(super) struct Visit {
    pub(super) path: Vec<u8>,
    pub(super) parent: Option<Handle>,
    /// Whose doing a new directory is; what is found in it is reported as theirs. `None` when nothing is to be reported.
    pub(super) maker: Option<Actor>,
}

/// Something that was in a new directory before the mark.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) entry: Entry,
    pub(super) path: Vec<u8>,
    pub(super) directory: bool,
    pub(super) maker: Actor,
}

/// The group and its marks.
#[derive(Debug)]
pub(super) struct Watcher {
    group: OwnedFd,
    features: Features,
    mode: MarkMode,
    max_marks: usize,
    pub(super) patterns: Patterns,
    tree: Tree,
    secrets: HashMap<Handle, Vec<u8>>,
    /// A directory on each file system seen, to open others by handle. Only its path: an open descriptor would keep the file
    /// system from being unmounted.
    sites: HashMap<[u8; 8], Vec<u8>>,
    cached: HashMap<Handle, Vec<u8>>,
    barred: HashSet<Vec<u8>>,
    work: VecDeque<Visit>,
    pub(super) gaps: Gaps,
}

impl Watcher {
    pub(super) fn new(
        group: OwnedFd,
        features: Features,
        patterns: Patterns,
        mode: MarkMode,
        max_marks: usize,
    ) -> Self {
        Watcher {
            group,
            features,
            mode,
            max_marks,
            patterns,
            tree: Tree::default(),
            secrets: HashMap::new(),
            sites: HashMap::new(),
            cached: HashMap::new(),
            barred: HashSet::new(),
            work: VecDeque::new(),
            gaps: Gaps::default(),
        }
    }

    pub(super) fn group(&self) -> BorrowedFd<'_> {
        self.group.as_fd()
    }

    pub(super) fn features(&self) -> Features {
        self.features
    }

    pub(super) fn mode(&self) -> MarkMode {
        self.mode
    }

    /// Marks held now.
    pub(super) fn marks(&self) -> usize {
        self.tree.len()
            + self.secrets.len()
            + if self.mode == MarkMode::FileSystems { self.sites.len() } else { 0 }
    }

    pub(super) fn has_work(&self) -> bool {
        !self.work.is_empty()
    }

    /// Asks for everything to be walked (again): what is marked already stays so, what is missing is added.
    pub(super) fn walk_all(&mut self) {
        self.gaps = Gaps::default();
        let mounts = watchfire_host::mounts("/proc");
        let barred = |fstype: &[u8]| BARRED.contains(&fstype) || fstype.starts_with(b"fuse");
        let points = |mount: &watchfire_host::Mount| mount.at.as_os_str().as_bytes().to_vec();
        self.barred = mounts.iter().filter(|mount| barred(&mount.fstype)).map(points).collect();
        self.enqueue(Visit { path: b"/".to_vec(), parent: None, maker: None });
        if self.mode == MarkMode::FileSystems {
            let mut roots: Vec<_> = mounts.iter().map(points).chain(self.patterns.literal_roots()).collect();
            roots.retain(|path| !self.patterns.of_directory(path).is_none());
            for path in roots {
                self.enqueue(Visit { path, parent: None, maker: None });
            }
        }
    }

    pub(super) fn enqueue(&mut self, visit: Visit) {
        if self.work.len() < MAX_WORK {
            self.work.push_back(visit);
        } else {
            self.gaps.over_cap += 1;
        }
    }

    /// Does at most `budget` visits and says how many it did.
    pub(super) fn run(&mut self, budget: usize, found: &mut Vec<Found>) -> usize {
        for done in 0..budget {
            let Some(visit) = self.work.pop_front() else { return done };
            self.visit(visit, found);
        }
        budget
    }

    /// Whether a directory carries a mark.
    pub(super) fn knows(&self, handle: &Handle) -> bool {
        self.tree.get(handle).is_some()
    }

    /// The directory's path and what is asked of it.
    pub(super) fn resolve(&mut self, handle: &Handle) -> Option<(Vec<u8>, Coverage)> {
        if let Some(node) = self.tree.get(handle) {
            let coverage = node.coverage;
            return self.tree.path(handle).map(|path| (path, coverage));
        }
        let path = match self.cached.get(handle) {
            Some(path) => path.clone(),
            None => {
                let path = path_of(&self.open_by_handle(handle)?)?;
                if self.cached.len() >= MAX_CACHED {
                    self.cached.clear();
                }
                self.cached.insert(handle.clone(), path.clone());
                path
            }
        };
        let coverage = self.patterns.of_directory(&path);
        Some((path, coverage))
    }

    /// The path under which a secret was marked.
    pub(super) fn secret(&self, object: &Handle) -> Option<&[u8]> {
        self.secrets.get(object).map(Vec::as_slice)
    }

    /// The object is gone, and the kernel has dropped its mark.
    pub(super) fn forget(&mut self, handle: &Handle) {
        self.tree.remove(handle);
        self.secrets.remove(handle);
        self.cached.remove(handle);
    }

    /// The marked directory that was called `entry`.
    pub(super) fn child(&self, entry: &Entry) -> Option<Handle> {
        self.tree.child(&entry.dir, &entry.name)
    }

    /// A directory has another name, inside what is watched: its marks stay, what is asked of it is looked up afresh.
    pub(super) fn moved(&mut self, directory: Option<&Handle>, to: &Entry, path: Vec<u8>) {
        self.cached.clear();
        if let Some(node) = directory.and_then(|handle| self.tree.get_mut(handle)) {
            (node.parent, node.name) = (Some(to.dir.clone()), to.name.clone());
        }
        self.enqueue(Visit { path, parent: Some(to.dir.clone()), maker: None });
    }

    /// A directory left for a place that is not watched: its marks go.
    pub(super) fn left(&mut self, directory: &Handle) {
        self.cached.clear();
        for handle in self.tree.below(directory) {
            self.unmark(&handle);
        }
    }

    /// Marks a secret that came to be, or took the place of another.
    pub(super) fn watch_secret(&mut self, path: &[u8]) {
        let cut = path.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
        let parent = if cut == 0 { &b"/"[..] } else { &path[..cut] };
        let Ok(dir) = open_directory(parent) else { return };
        let Ok(name) = CString::new(&path[cut + 1..]) else { return };
        self.mark_secret(dir.as_fd(), &name, path);
    }

    fn visit(&mut self, visit: Visit, found: &mut Vec<Found>) {
        let Visit { path, parent, maker } = visit;
        let coverage = self.patterns.of_directory(&path);
        if self.barred.contains(&path) {
            self.gaps.barred.insert(path);
            return;
        }
        let dir = match open_directory(&path) {
            Ok(dir) => dir,
            Err(error) => return self.refused(&error),
        };
        let handle = match sys::handle_of(dir.as_fd(), None) {
            Ok(handle) => handle,
            Err(error) => return self.refused(&error),
        };
        if coverage.is_none() {
            self.gaps.too_deep += u64::from(self.patterns.too_deep(&path));
            self.left(&handle);
            return;
        }
        // A file system mark has told of what is inside already.
        let maker = maker.filter(|_| self.mode == MarkMode::Directories && !self.knows(&handle));
        match self.mark_directory(&dir, &handle, coverage) {
            Ok(true) => {}
            Ok(false) => return,
            Err(error) => return self.refused(&error),
        }
        if self.mode == MarkMode::Directories {
            let parent = parent.filter(|parent| self.knows(parent));
            let name = if parent.is_some() { last_name(&path).to_vec() } else { path.clone() };
            self.tree.insert(handle.clone(), Node { parent, name, coverage });
        }
        self.look_inside(&dir, &handle, &path, maker, found);
    }

    /// Puts the mark; `false` when the cap stands against it.
    fn mark_directory(&mut self, dir: &OwnedFd, handle: &Handle, coverage: Coverage) -> io::Result<bool> {
        let (target, mask) = match self.mode {
            MarkMode::Directories => (Target::Directory(dir.as_fd()), self.features.mask(coverage)),
            MarkMode::FileSystems if self.sites.contains_key(&handle.fsid) => return Ok(true),
            MarkMode::FileSystems => (Target::FileSystem(dir.as_fd()), self.features.file_system_mask()),
        };
        let known = self.tree.get(handle).map(|node| self.features.mask(node.coverage));
        if known.is_none() && self.marks() >= self.max_marks {
            self.gaps.over_cap += 1;
            return Ok(false);
        }
        if known != Some(mask) {
            if let Some(surplus) = known.map(|known| known & !mask).filter(|surplus| *surplus != 0) {
                sys::mark(self.group.as_fd(), target, false, surplus)?;
            }
            sys::mark(self.group.as_fd(), target, true, mask)?;
        }
        self.sites.entry(handle.fsid).or_insert_with(|| path_of(dir).unwrap_or_default());
        Ok(true)
    }

    fn look_inside(
        &mut self,
        dir: &OwnedFd,
        handle: &Handle,
        path: &[u8],
        maker: Option<Actor>,
        found: &mut Vec<Found>,
    ) {
        let Ok(mut entries) = Dir::read_from(dir) else { return };
        let mut seen = 0;
        let mut reported = 0;
        while let Some(Ok(entry)) = entries.next() {
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            seen += 1;
            if seen > MAX_ENTRIES {
                self.gaps.unread += 1;
                return;
            }
            let child = join(path, name.to_bytes());
            let directory = is_directory(dir, name, entry.file_type());
            if let Some(maker) = maker {
                reported += 1;
                if reported <= MAX_FOUND {
                    let entry = Entry { dir: handle.clone(), name: name.to_bytes().to_vec() };
                    found.push(Found { entry, path: child.clone(), directory, maker });
                } else {
                    self.gaps.unread += 1;
                }
            }
            if directory {
                self.descend(child, handle, maker);
            } else if self.patterns.secret(&child) {
                self.mark_secret(dir.as_fd(), name, &child);
            }
        }
    }

    fn descend(&mut self, child: Vec<u8>, parent: &Handle, maker: Option<Actor>) {
        let coverage = self.patterns.of_directory(&child);
        if coverage.is_none() {
            self.gaps.too_deep += u64::from(self.patterns.too_deep(&child));
            return;
        }
        // A file system mark already sees what is below; only the way to secrets is walked.
        if self.mode == MarkMode::Directories || coverage.leads || coverage.listed {
            self.enqueue(Visit { path: child, parent: Some(parent.clone()), maker });
        }
    }

    fn mark_secret(&mut self, dir: BorrowedFd<'_>, name: &CStr, path: &[u8]) {
        let regular = rustix::fs::statat(dir, name, rustix::fs::AtFlags::SYMLINK_NOFOLLOW)
            .is_ok_and(|found| FileType::from_raw_mode(found.st_mode) == FileType::RegularFile);
        let Some(handle) = regular.then(|| sys::handle_of(dir, Some(name)).ok()).flatten() else { return };
        if !self.secrets.contains_key(&handle) {
            if self.marks() >= self.max_marks {
                self.gaps.over_cap += 1;
                return;
            }
            let mask = libc::FAN_OPEN | libc::FAN_DELETE_SELF;
            if let Err(error) = sys::mark(self.group.as_fd(), Target::Name(dir, name), true, mask) {
                return self.refused(&error);
            }
        }
        self.secrets.insert(handle, path.to_vec());
    }

    fn unmark(&mut self, handle: &Handle) {
        let Some(node) = self.tree.get(handle) else { return };
        let mask = self.features.mask(node.coverage);
        if let Some(dir) = self.open_by_handle(handle)
            && let Err(error) = sys::mark(self.group.as_fd(), Target::Directory(dir.as_fd()), false, mask)
        {
            // Its events will come with a handle nobody knows, and be left out.
            self.refused(&error);
        }
        self.tree.remove(handle);
    }

    fn open_by_handle(&self, handle: &Handle) -> Option<OwnedFd> {
        let site = open_directory(self.sites.get(&handle.fsid)?).ok()?;
        sys::open_by_handle(site.as_fd(), handle).ok()
    }

    fn refused(&mut self, error: &io::Error) {
        // Gone meanwhile, or never a directory: nothing to watch.
        if matches!(Errno::from_io_error(error), Some(Errno::NOENT | Errno::NOTDIR | Errno::LOOP)) {
            return;
        }
        let reason = error.to_string();
        if self.gaps.refused.len() < MAX_REASONS || self.gaps.refused.contains_key(&reason) {
            *self.gaps.refused.entry(reason).or_default() += 1;
        }
    }
}

impl Gaps {
    /// In sentences.
    pub(super) fn sentences(&self, max_marks: usize, max_depth: usize) -> Vec<String> {
        let mut all = Vec::new();
        let mut add = |count: u64, text: String| {
            if count > 0 {
                all.push(text);
            }
        };
        add(
            self.over_cap,
            format!("{} directories or secrets are not watched: max_marks is {max_marks}", self.over_cap),
        );
        add(
            self.too_deep,
            format!("{} directories lie deeper than max_depth ({max_depth}) below a prefix", self.too_deep),
        );
        add(self.unread, format!("{} directories hold more entries than are looked at", self.unread));
        for (reason, count) in &self.refused {
            add(*count, format!("{count} directories or secrets could not be marked: {reason}"));
        }
        for mount in &self.barred {
            add(
                1,
                format!(
                    "{} is not watched: a remote or kernel file system is mounted there",
                    printable(mount)
                ),
            );
        }
        all
    }
}

/// Opens a directory to mark and list it. No component may be a symbolic link: a user could swing one under a path that is
/// walked by root.
fn open_directory(path: &[u8]) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NOATIME;
    let path = Path::new(OsStr::from_bytes(path));
    Ok(rustix::fs::openat2(CWD, path, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS)?)
}

/// Where an open directory is now; `None` when it has no name any more.
fn path_of(dir: &OwnedFd) -> Option<Vec<u8>> {
    let link = std::fs::read_link(format!("/proc/self/fd/{}", dir.as_raw_fd())).ok()?;
    let path = link.into_os_string().into_vec();
    (!path.ends_with(b" (deleted)")).then_some(path)
}

fn last_name(path: &[u8]) -> &[u8] {
    path.rsplit(|byte| *byte == b'/').next().unwrap_or_default()
}

fn is_directory(dir: &OwnedFd, name: &CStr, kind: FileType) -> bool {
    if kind != FileType::Unknown {
        return kind == FileType::Directory;
    }
    let found = rustix::fs::statat(dir, name, rustix::fs::AtFlags::SYMLINK_NOFOLLOW);
    found.is_ok_and(|found| FileType::from_raw_mode(found.st_mode) == FileType::Directory)
}
