//! Which process holds a socket: the links of `/proc/PID/fd`, looked through piece by piece.
//!
//! A program makes its listening sockets early, so that they have low numbers: first the first descriptors of every process are looked at,
//! then, if any socket is still wanted, the others of those that have more.

use std::collections::{BTreeSet, VecDeque};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use rustix::fs::{Mode, OFlags, RawDir, SeekFrom};

/// Of directory entries, read at once: some 170 descriptors.
const PIECE: usize = 4096;
/// An entry has at most 32 bytes here: a piece with fewer was the last.
const FULL: u64 = 100;
/// Processes with more descriptors than a piece holds that are remembered, 16 bytes each.
const MOST_LONG: usize = 65_536;
/// `socket:[18446744073709551615]`.
const LONGEST_LINK: usize = 32;

/// A process that holds a wanted socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    /// The socket.
    pub inode: u64,
    /// The first process found that holds it: others may have inherited it.
    pub tgid: u32,
}

/// Looks for the holders of sockets, step by step.
#[derive(Debug)]
pub struct HolderWalk {
    root: PathBuf,
    wanted: BTreeSet<u64>,
    /// The listing of /proc; `None` at its end.
    processes: Option<OwnedFd>,
    /// The processes of the last piece of that listing.
    listed: VecDeque<u32>,
    /// Those that have more descriptors than were looked at, and where to go on.
    long: VecDeque<(u32, u64)>,
    /// The one that is looked through to its end.
    open: Option<(u32, OwnedFd)>,
    looked_at: u64,
    left_out: u64,
}

impl HolderWalk {
    /// A walk through the procfs at `root` for the sockets with these inodes.
    pub fn new(root: impl Into<PathBuf>, wanted: BTreeSet<u64>) -> Self {
        let root = root.into();
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let processes = rustix::fs::open(&root, flags, Mode::empty()).ok();
        HolderWalk {
            root,
            wanted,
            processes,
            listed: VecDeque::new(),
            long: VecDeque::new(),
            open: None,
            looked_at: 0,
            left_out: 0,
        }
    }

    /// Looks at up to 170 descriptors of one process; whether there is more to do. What cannot be read is passed over.
    pub fn step(&mut self, mut found: impl FnMut(Found)) -> bool {
        if self.wanted.is_empty() {
            return false;
        }
        if let Some((tgid, directory)) = self.open.take() {
            if let Some(piece) = self.look(tgid, &directory, &mut found)
                && piece.count > 0
            {
                self.open = Some((tgid, directory));
            }
            return true;
        }
        if let Some(tgid) = self.listed.pop_front() {
            self.begin(tgid, &mut found);
            return true;
        }
        if let Some(processes) = self.processes.take() {
            if self.list(&processes) {
                self.processes = Some(processes);
            }
            return true;
        }
        if let Some((tgid, position)) = self.long.pop_front() {
            if let Some(directory) = self.descriptors(tgid)
                && rustix::fs::seek(&directory, SeekFrom::Start(position)).is_ok()
            {
                self.open = Some((tgid, directory));
            }
            return true;
        }
        false
    }

    /// Descriptors looked at so far.
    pub fn looked_at(&self) -> u64 {
        self.looked_at
    }

    /// Processes with many descriptors of which only the first were looked at, because there are too many of them.
    pub fn left_out(&self) -> u64 {
        self.left_out
    }

    /// The first descriptors of a process.
    fn begin(&mut self, tgid: u32, found: &mut impl FnMut(Found)) {
        let Some(directory) = self.descriptors(tgid) else { return };
        match self.look(tgid, &directory, found) {
            Some(piece) if piece.count >= FULL && self.long.len() < MOST_LONG => {
                self.long.push_back((tgid, piece.next));
            }
            Some(piece) if piece.count >= FULL => self.left_out += 1,
            _ => {}
        }
    }

    fn descriptors(&self, tgid: u32) -> Option<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::open(self.root.join(format!("{tgid}/fd")), flags, Mode::empty()).ok()
    }

    /// The next piece of a process' descriptors; `None` when the process is gone.
    fn look(&mut self, tgid: u32, directory: &OwnedFd, found: &mut impl FnMut(Found)) -> Option<Piece> {
        let mut buffer = [MaybeUninit::uninit(); PIECE];
        let mut entries = RawDir::new(directory.as_fd(), &mut buffer);
        let mut piece = Piece { count: 0, next: 0 };
        while let Some(entry) = entries.next() {
            let entry = entry.ok()?;
            (piece.count, piece.next) = (piece.count + 1, entry.next_entry_cookie());
            let mut link = [0; LONGEST_LINK];
            // A descriptor that was closed meanwhile, `.` and `..` have none.
            if let Ok(length) = rustix::fs::readlinkat_raw(directory, entry.file_name(), &mut link)
                && let Some(inode) = socket(&link[..length])
                && self.wanted.remove(&inode)
            {
                found(Found { inode, tgid });
            }
            if entries.is_buffer_empty() {
                break;
            }
        }
        self.looked_at += piece.count;
        Some(piece)
    }

    /// The next piece of the listing of processes; whether there are more.
    fn list(&mut self, processes: &OwnedFd) -> bool {
        let mut buffer = [MaybeUninit::uninit(); PIECE];
        let mut entries = RawDir::new(processes.as_fd(), &mut buffer);
        while let Some(entry) = entries.next() {
            let Ok(entry) = entry else { return false };
            let tgid: Option<u32> = entry.file_name().to_str().ok().and_then(|name| name.parse().ok());
            self.listed.extend(tgid);
            if entries.is_buffer_empty() {
                return true;
            }
        }
        false
    }
}

/// Some descriptors of a process.
struct Piece {
    count: u64,
    /// Where the next piece begins.
    next: u64,
}

/// The number in `socket:[17]`. A link to a file begins with a slash.
fn socket(link: &[u8]) -> Option<u64> {
    let digits = link.strip_prefix(b"socket:[")?.strip_suffix(b"]")?;
    std::str::from_utf8(digits).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::{MetadataExt, symlink};
    use std::os::unix::net::UnixStream;

    use proptest::prelude::*;

    use super::*;

    fn walked(walk: &mut HolderWalk) -> Vec<(u64, u32)> {
        let mut found = Vec::new();
        while walk.step(|one| found.push((one.inode, one.tgid))) {}
        found.sort_unstable();
        found
    }

    #[test]
    fn a_socket_of_this_process_is_found_and_one_that_nobody_holds_is_looked_for_everywhere() {
        let (socket, _other) = UnixStream::pair().unwrap();
        let inode = fs::metadata(format!("/proc/self/fd/{}", socket.as_raw_fd())).unwrap().ino();
        let mut walk = HolderWalk::new("/proc", BTreeSet::from([inode, u64::MAX]));
        assert_eq!(walked(&mut walk), [(inode, std::process::id())]);
        assert!(walk.looked_at() > 2 && walk.left_out() == 0);
        let mut walk = HolderWalk::new("/proc", BTreeSet::new());
        assert!(walked(&mut walk).is_empty() && walk.looked_at() == 0, "nothing is wanted");
    }

    #[test]
    fn a_process_with_many_descriptors_is_looked_through_in_pieces() {
        let first = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let many: Vec<_> = (0..2500).map(|_| first.try_clone().unwrap()).collect();
        let last = UnixStream::pair().unwrap().0;
        let inode = fs::metadata(format!("/proc/self/fd/{}", last.as_raw_fd())).unwrap().ino();
        let mut walk = HolderWalk::new("/proc", BTreeSet::from([inode]));
        let (mut found, mut most) = (Vec::new(), 0);
        loop {
            let before = walk.looked_at();
            let more = walk.step(|one| found.push(one));
            most = most.max(walk.looked_at() - before);
            if !more {
                break;
            }
        }
        assert_eq!(found, [Found { inode, tgid: std::process::id() }]);
        assert!(walk.looked_at() > 2500 && most < 200, "{most} at once");
        drop(many);
    }

    #[test]
    fn links_that_are_no_sockets_and_what_cannot_be_read_are_passed_over() {
        let root = tempfile::tempdir().unwrap();
        let process = |tgid: &str, links: &[&str]| {
            let folder = root.path().join(tgid).join("fd");
            fs::create_dir_all(&folder).unwrap();
            for (number, link) in links.iter().enumerate() {
                symlink(link, folder.join(number.to_string())).unwrap();
            }
        };
        process("10", &["/socket:[5]", "pipe:[5]", "socket:[]", "socket:[99999999999999999999999999]"]);
        process("12", &["socket:[6]", "anon_inode:[eventpoll]", "socket:[7]"]);
        process("no process", &["socket:[5]"]);
        fs::create_dir_all(root.path().join("13")).unwrap();
        fs::write(root.path().join("14"), "").unwrap();
        let mut walk = HolderWalk::new(root.path(), BTreeSet::from([5, 6, 7]));
        assert_eq!(walked(&mut walk), [(6, 12), (7, 12)]);
        let mut walk = HolderWalk::new(root.path().join("nowhere"), BTreeSet::from([5]));
        assert!(walked(&mut walk).is_empty());
    }

    proptest! {
        #[test]
        fn no_link_panics(bytes in proptest::collection::vec(any::<u8>(), 0..40), inode in any::<u64>()) {
            let _seen = socket(&bytes);
            prop_assert_eq!(socket(format!("socket:[{inode}]").as_bytes()), Some(inode));
        }
    }
}
