//! One process as /proc shows it.
//!
//! A process can end, and its number be taken by another, between two reads. So `/proc/TGID` is opened first and all else
//! is read below that descriptor, which keeps naming the same process: a read after its end fails instead of mixing two.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType};
use rustix::io::Errno;
use watchfire_event::{ContainerId, Image, Namespaces, Process, ProcessKey, ProcessOrigin, Stdio};

use crate::container::container_of_path;
use crate::mounts::{self, CgroupMounts};
use crate::stat::{self, Stat};
use crate::status::{self, Status};
use crate::{reading, sockets};

/// The part of an argument area that is kept.
const MAX_ARGV: usize = 32 * 1024;
/// How far a longer one is measured where the kernel does not tell its length.
const MAX_ARGV_MEASURED: usize = 4 * 1024 * 1024;
const MAX_STAT: usize = 4 * 1024;
const MAX_STATUS: usize = 16 * 1024;
const MAX_CGROUP: usize = 64 * 1024;
const MAX_MOUNTINFO: usize = 4 * 1024 * 1024;
/// How far a table of sockets is searched for the peer of a process' stdin: a host with more connections than this
/// (some 800 in each family) gets the socket without its address.
const MAX_SOCKETS: usize = 128 * 1024;
/// "No one": `loginuid` and `sessionid` of a process that no login stands behind.
const UNSET: u32 = u32::MAX;
const SUFFIX_DELETED: &[u8] = b" (deleted)";

/// Why a process could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ProcError {
    /// No process has this number, or it ended while it was read.
    #[error("process {tgid} is gone")]
    Gone {
        /// The number asked for.
        tgid: u32,
    },
    /// The number names a thread that leads no process.
    #[error("{tid} is a thread of process {tgid}")]
    Thread {
        /// The number asked for.
        tid: u32,
        /// The process it belongs to.
        tgid: u32,
    },
    /// A file that every process has does not look as it should.
    #[error("{}: not understood", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
    },
    /// A file could not be read.
    #[error("{}: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

/// Reads processes from a mounted procfs.
#[derive(Debug, Clone)]
pub struct ProcReader {
    root: PathBuf,
    cgroups: CgroupMounts,
}

impl ProcReader {
    /// A reader of the procfs at `root` (`/proc`). Where the cgroup hierarchies are mounted is read once, now; without them
    /// processes have no cgroup number, and still a container.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        let root = root.into();
        let mountinfo = reading::file(&root.join("self/mountinfo"), MAX_MOUNTINFO).unwrap_or_default();
        ProcReader { cgroups: mounts::cgroup_mounts(&mountinfo), root }
    }

    /// All that /proc tells of a process, with origin [`ProcessOrigin::Healed`]. A kernel thread and a zombie have no
    /// `exe` and no arguments. `since` is the start of the process: /proc does not know when its image began.
    ///
    /// # Errors
    /// [`ProcError::Gone`] is the usual one. What belongs to a process but cannot be read (its namespaces without the
    /// right to trace it, say) stays at its default and is no error.
    pub fn read_process(&self, tgid: u32) -> Result<Process, ProcError> {
        let path = self.root.join(tgid.to_string());
        let open = reading::directory(&path).map_err(|source| failed(tgid, &path, source))?;
        let dir = open.as_fd();
        let stat = read_stat(tgid, &path, dir)?;
        let status = read_status(tgid, &path, dir)?;
        let (exe, image) = executable(dir);
        let (argv, argv_len) = arguments(dir, &stat);
        let (cgroup, container) = self.cgroup(dir);
        Ok(Process {
            key: ProcessKey { tgid, started: stat.started },
            parent: self.key(stat.parent).ok(),
            origin: ProcessOrigin::Healed,
            since: stat.started,
            filename: exe.clone(),
            exe,
            image,
            argv,
            argv_len,
            cwd: reading::link_at(dir, "cwd").unwrap_or_default(),
            credentials: status.credentials,
            login_uid: number(dir, "loginuid"),
            audit_session: number(dir, "sessionid"),
            session: stat.session,
            group: stat.group,
            namespaces: namespaces(dir),
            ns_tgid: status.ns_tgid,
            cgroup,
            container,
            stdio: if stat.is_zombie() { Default::default() } else { stdio(dir) },
            tty: stat.tty,
            comm: stat.comm,
        })
    }

    /// The key of a live process.
    ///
    /// # Errors
    /// As [`ProcReader::read_process`].
    pub fn key(&self, tgid: u32) -> Result<ProcessKey, ProcError> {
        Ok(ProcessKey { tgid, started: self.stat(tgid)?.started })
    }

    /// The key of a live process' parent; `None` for the first process and for what the kernel itself started.
    ///
    /// # Errors
    /// As [`ProcReader::read_process`], of the process or its parent.
    pub fn parent_key(&self, tgid: u32) -> Result<Option<ProcessKey>, ProcError> {
        match self.stat(tgid)?.parent {
            0 => Ok(None),
            parent => self.key(parent).map(Some),
        }
    }

    /// The tgids that /proc lists now, in its order; nothing when it cannot be listed.
    pub fn list(&self) -> impl Iterator<Item = u32> + use<> {
        let entries = std::fs::read_dir(&self.root).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
    }

    /// The processes that run now, `limit` at most, with origin [`ProcessOrigin::Snapshot`]. Those that end meanwhile are
    /// left out.
    pub fn snapshot(&self, limit: usize) -> Vec<Process> {
        let read = self.list().filter_map(|tgid| self.read_process(tgid).ok());
        read.take(limit).map(|process| Process { origin: ProcessOrigin::Snapshot, ..process }).collect()
    }

    fn stat(&self, tgid: u32) -> Result<Stat, ProcError> {
        let path = self.root.join(tgid.to_string());
        let dir = reading::directory(&path).map_err(|source| failed(tgid, &path, source))?;
        read_stat(tgid, &path, dir.as_fd())
    }

    /// The number of its cgroup (see [`Process::cgroup`]) and its container.
    fn cgroup(&self, dir: BorrowedFd<'_>) -> (u64, Option<ContainerId>) {
        let text = reading::file_at(dir, "cgroup", MAX_CGROUP).unwrap_or_default();
        let paths = CgroupPaths::parse(&text);
        let directory = match &self.cgroups.v1_memory {
            Some(mount) => paths.v1_memory.and_then(|path| mount.directory(path)),
            None => self.cgroups.v2.as_ref().and_then(|mount| mount.directory(paths.v2?)),
        };
        let inode = directory.and_then(|path| std::fs::metadata(path).ok()).map_or(0, |found| found.ino());
        (inode, paths.container())
    }
}

/// The fields of each `ID:CONTROLLERS:PATH` line of `/proc/PID/cgroup`; ID 0 is the unified hierarchy.
pub(crate) fn cgroup_lines(text: &[u8]) -> impl Iterator<Item = (&[u8], &[u8], &[u8])> {
    text.split(|byte| *byte == b'\n').take(64).filter_map(|line| {
        let mut fields = line.splitn(3, |byte| *byte == b':');
        Some((fields.next()?, fields.next()?, fields.next()?))
    })
}

/// The lines of `/proc/PID/cgroup` that matter.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct CgroupPaths<'a> {
    pub(crate) v2: Option<&'a [u8]>,
    pub(crate) v1_memory: Option<&'a [u8]>,
    /// The other v1 hierarchies.
    others: Vec<&'a [u8]>,
}

impl<'a> CgroupPaths<'a> {
    pub(crate) fn parse(text: &'a [u8]) -> Self {
        let mut paths = CgroupPaths::default();
        for (id, controllers, path) in cgroup_lines(text) {
            if id == b"0" && controllers.is_empty() {
                paths.v2 = Some(path);
            } else if controllers.split(|byte| *byte == b',').any(|controller| controller == b"memory") {
                paths.v1_memory = Some(path);
            } else {
                paths.others.push(path);
            }
        }
        paths
    }

    pub(crate) fn container(&self) -> Option<ContainerId> {
        let first = self.v2.into_iter().chain(self.v1_memory);
        first.chain(self.others.iter().copied()).find_map(container_of_path)
    }
}

fn failed(tgid: u32, path: &Path, source: io::Error) -> ProcError {
    match Errno::from_io_error(&source) {
        Some(Errno::NOENT | Errno::SRCH) => ProcError::Gone { tgid },
        _ => ProcError::Unreadable { path: path.to_owned(), source },
    }
}

fn read_stat(tgid: u32, path: &Path, dir: BorrowedFd<'_>) -> Result<Stat, ProcError> {
    let line =
        reading::file_at(dir, "stat", MAX_STAT).map_err(|source| failed(tgid, &path.join("stat"), source))?;
    stat::parse(&line).ok_or_else(|| ProcError::Malformed { path: path.join("stat") })
}

fn read_status(tgid: u32, path: &Path, dir: BorrowedFd<'_>) -> Result<Status, ProcError> {
    let text = reading::file_at(dir, "status", MAX_STATUS)
        .map_err(|source| failed(tgid, &path.join("status"), source))?;
    match status::parse(&text) {
        status if status.tgid == tgid => Ok(status),
        status if status.tgid == 0 => Err(ProcError::Malformed { path: path.join("status") }),
        status => Err(ProcError::Thread { tid: tgid, tgid: status.tgid }),
    }
}

/// Path and file of the executable. The link's ` (deleted)` is taken off only when the file really has no name left:
/// a file may be called so.
fn executable(dir: BorrowedFd<'_>) -> (Vec<u8>, Image) {
    let Ok(mut path) = reading::link_at(dir, "exe") else { return Default::default() };
    let Ok(found) = rustix::fs::statat(dir, "exe", AtFlags::empty()) else { return (path, Image::default()) };
    let links = u32::try_from(found.st_nlink).unwrap_or(u32::MAX);
    if links == 0 && path.ends_with(SUFFIX_DELETED) {
        path.truncate(path.len() - SUFFIX_DELETED.len());
    }
    // The kernel's own mount for memfd has no device behind it (major 0) and is mounted nowhere.
    let memfd = links == 0 && path.starts_with(b"/memfd:") && rustix::fs::major(found.st_dev) == 0;
    let image = Image {
        device: found.st_dev,
        inode: found.st_ino,
        mode: found.st_mode,
        uid: found.st_uid,
        links,
        memfd,
    };
    (path, image)
}

/// The arguments, cut, and their true length.
fn arguments(dir: BorrowedFd<'_>, stat: &Stat) -> (Vec<u8>, u32) {
    let Ok(mut argv) = reading::file_at(dir, "cmdline", MAX_ARGV + 1) else { return Default::default() };
    let mut length = argv.len();
    if length > MAX_ARGV {
        length = usize::try_from(stat.arguments).unwrap_or(usize::MAX);
        if length <= MAX_ARGV {
            length = reading::length_at(dir, "cmdline", MAX_ARGV_MEASURED).unwrap_or(MAX_ARGV + 1);
        }
        argv.truncate(MAX_ARGV);
    }
    argv.shrink_to_fit();
    (argv, u32::try_from(length).unwrap_or(u32::MAX))
}

fn number(dir: BorrowedFd<'_>, name: &str) -> Option<u32> {
    let text = reading::file_at(dir, name, 32).ok()?;
    let value = std::str::from_utf8(&text).ok()?.trim().parse().ok()?;
    (value != UNSET).then_some(value)
}

fn namespaces(dir: BorrowedFd<'_>) -> Namespaces {
    let inode = |name: &str| {
        let link = reading::link_at(dir, &format!("ns/{name}")).ok()?;
        bracketed(&link).and_then(|inode| u32::try_from(inode).ok())
    };
    Namespaces {
        mnt: inode("mnt").unwrap_or(0),
        pid: inode("pid_for_children").or_else(|| inode("pid")).unwrap_or(0),
        net: inode("net").unwrap_or(0),
        user: inode("user").unwrap_or(0),
    }
}

/// The number in `mnt:[4026531840]`, `pipe:[17]`.
fn bracketed(link: &[u8]) -> Option<u64> {
    let open = link.iter().position(|byte| *byte == b'[')?;
    let digits = link.get(open + 1..)?.strip_suffix(b"]")?;
    std::str::from_utf8(digits).ok()?.parse().ok()
}

fn stdio(dir: BorrowedFd<'_>) -> [Stdio; 3] {
    let mut all = [descriptor(dir, 0), descriptor(dir, 1), descriptor(dir, 2)];
    // Services often have a (Unix) socket as stdout and stderr, but on stdin a socket is rare enough to look for its peer.
    if let Stdio::Socket { inode: wanted, .. } = all[0]
        && let Some(remote) = peer(dir, wanted)
    {
        for one in &mut all {
            if matches!(one, Stdio::Socket { inode, .. } if *inode == wanted) {
                *one = Stdio::Inet(remote);
            }
        }
    }
    all
}

fn peer(dir: BorrowedFd<'_>, inode: u64) -> Option<std::net::SocketAddr> {
    ["net/tcp", "net/tcp6"].into_iter().find_map(|name| {
        let table = reading::file_at(dir, name, MAX_SOCKETS).ok()?;
        sockets::remote_of(&table, inode)
    })
}

fn descriptor(dir: BorrowedFd<'_>, number: u8) -> Stdio {
    let name = format!("fd/{number}");
    let link = match rustix::fs::readlinkat(dir, &name, Vec::new()) {
        Ok(link) => link.into_bytes(),
        Err(Errno::NOENT) => return Stdio::Closed,
        Err(_) => return Stdio::Unknown,
    };
    // A link to a file begins with a slash, so no file name can pass for one of these.
    if link.starts_with(b"pipe:[") {
        return bracketed(&link).map_or(Stdio::Unknown, Stdio::Pipe);
    }
    if link.starts_with(b"socket:[") {
        return bracketed(&link).map_or(Stdio::Unknown, |inode| Stdio::Socket { family: 0, inode });
    }
    let Ok(found) = rustix::fs::statat(dir, &name, AtFlags::empty()) else { return Stdio::Unknown };
    let (major, minor) = (rustix::fs::major(found.st_rdev), rustix::fs::minor(found.st_rdev));
    match FileType::from_raw_mode(found.st_mode) {
        FileType::RegularFile => Stdio::File,
        FileType::Fifo => Stdio::Pipe(found.st_ino),
        FileType::CharacterDevice if (major, minor) == (1, 3) => Stdio::Null,
        FileType::CharacterDevice if stat::is_tty_major(major) => Stdio::Tty,
        _ => Stdio::Other,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write;
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::OwnedFd;
    use std::os::unix::fs::symlink;
    use std::process::{Child, Command, Stdio as Std};

    use proptest::prelude::*;
    use watchfire_event::BootNanos;

    use super::*;

    const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    /// A made-up /proc with process 500, child of 1.
    fn made_up() -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        let mounts = root.path().join("cg");
        fs::create_dir_all(mounts.join("docker").join(ID)).unwrap();
        for (tgid, parent, start) in [(1, 0, 2), (500, 1, 77)] {
            let dir = root.path().join(tgid.to_string());
            fs::create_dir_all(dir.join("fd")).unwrap();
            fs::create_dir_all(dir.join("ns")).unwrap();
            let tail = "0 0 0 0 0 1 2 0 0 20 0 1 0";
            fs::write(
                dir.join("stat"),
                format!("{tgid} (x) y) S {parent} {tgid} {tgid} 0 -1 {tail} {start} 0 0\n"),
            )
            .unwrap();
            fs::write(
                dir.join("status"),
                format!("Name:\tx\nTgid:\t{tgid}\nUid:\t7\t8\t9\t8\nNStgid:\t{tgid}\t3\n"),
            )
            .unwrap();
            fs::write(dir.join("cmdline"), b"sh\0-c\0\xff\n\0").unwrap();
            fs::write(dir.join("cgroup"), format!("5:devices:/\n0::/docker/{ID}\n")).unwrap();
            fs::write(dir.join("loginuid"), "1000").unwrap();
            fs::write(dir.join("sessionid"), "4294967295").unwrap();
            symlink("mnt:[4026531840]", dir.join("ns/mnt")).unwrap();
            symlink("pipe:[17]", dir.join("fd/0")).unwrap();
            symlink("/dev/null", dir.join("fd/1")).unwrap();
        }
        fs::create_dir(root.path().join("self")).unwrap();
        let mountinfo = format!("41 31 0:38 / {} rw - cgroup2 cgroup2 rw\n", mounts.display());
        fs::write(root.path().join("self/mountinfo"), mountinfo).unwrap();
        root
    }

    #[test]
    fn a_process_is_read_from_a_made_up_tree() {
        let root = made_up();
        let reader = ProcReader::new(root.path());
        let process = reader.read_process(500).unwrap();
        assert_eq!(process.key, ProcessKey { tgid: 500, started: BootNanos(770_000_000) });
        assert_eq!(process.parent, Some(ProcessKey { tgid: 1, started: BootNanos(20_000_000) }));
        assert_eq!(process.comm, b"x) y");
        assert_eq!(process.args().collect::<Vec<_>>(), [&b"sh"[..], b"-c", b"\xff\n"]);
        assert_eq!((process.credentials.uid, process.credentials.euid, process.ns_tgid), (7, 8, 3));
        assert_eq!((process.login_uid, process.audit_session), (Some(1000), None));
        assert_eq!(process.namespaces.mnt, 4_026_531_840);
        assert_eq!(process.container, Some(ContainerId(ID.to_owned())));
        let inode = fs::metadata(root.path().join("cg/docker").join(ID)).unwrap().ino();
        assert_eq!(process.cgroup, inode);
        assert_eq!(process.stdio, [Stdio::Pipe(17), Stdio::Null, Stdio::Closed]);
        assert_eq!(process.origin, ProcessOrigin::Healed);
        assert_eq!(reader.parent_key(1).unwrap(), None);
        assert!(matches!(reader.read_process(501), Err(ProcError::Gone { tgid: 501 })));
        let snapshot = reader.snapshot(10);
        assert_eq!(snapshot.len(), 2);
        assert!(snapshot.iter().all(|process| process.origin == ProcessOrigin::Snapshot));
        assert_eq!(reader.snapshot(1).len(), 1);
    }

    #[test]
    fn an_argument_area_over_32_kib_is_cut_and_its_length_kept() {
        let root = made_up();
        fs::write(root.path().join("500/cmdline"), vec![b'a'; 100_000]).unwrap();
        let process = ProcReader::new(root.path()).read_process(500).unwrap();
        assert_eq!((process.argv.len(), process.argv_len), (MAX_ARGV, 100_000));
        assert!(process.argv_truncated());
    }

    struct Running(Child);

    impl Drop for Running {
        fn drop(&mut self) {
            self.0.kill().unwrap();
            self.0.wait().unwrap();
        }
    }

    #[test]
    fn a_live_process_is_read_with_the_peer_on_its_stdin() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let mut command = Command::new("sleep");
        command
            .arg("100")
            .stdin(OwnedFd::from(stream))
            .stdout(Std::null())
            .stderr(Std::piped())
            .current_dir(&dir);
        let child = Running(command.spawn().unwrap());
        let reader = ProcReader::new("/proc");
        // The parent goes on as soon as the child has its new memory, a moment before the arguments are in it.
        let process = std::iter::repeat_with(|| reader.read_process(child.0.id()).unwrap())
            .take(1_000_000)
            .find(|process| !process.argv.is_empty())
            .unwrap();
        assert_eq!(process.stdio[0], Stdio::Inet(listener.local_addr().unwrap()));
        assert!(matches!(process.stdio, [_, Stdio::Null, Stdio::Pipe(_)]), "{:?}", process.stdio);
        assert_eq!(process.argv, b"sleep\x00100\0");
        assert_eq!(process.cwd, dir.path().canonicalize().unwrap().as_os_str().as_encoded_bytes());
        assert_eq!(process.parent, Some(reader.key(std::process::id()).unwrap()));
        let (boot, tick) = (crate::boot_now(), ProcessKey::TICK);
        assert!(process.key.started.0.is_multiple_of(tick) && boot.since(process.key.started).as_secs() < 60);
        let own = reader.read_process(std::process::id()).unwrap();
        assert_eq!(process.namespaces, own.namespaces);
        assert!(
            own.namespaces.pid != 0 && own.namespaces.net != 0 && own.image.inode != 0 && own.image.links > 0
        );
        assert_ne!(process.cgroup, 0, "this machine has cgroups");
        assert!(reader.list().any(|tgid| tgid == child.0.id()));
    }

    #[test]
    fn an_unlinked_executable_loses_the_kernels_suffix_and_a_file_called_so_keeps_it() {
        let dir = tempfile::tempdir().unwrap();
        let sleep = fs::canonicalize(
            ["/bin/sleep", "/usr/bin/sleep"].into_iter().find(|path| Path::new(path).exists()).unwrap(),
        );
        let copy = dir.path().join("named (deleted)");
        fs::copy(sleep.unwrap(), &copy).unwrap();
        let child = Running(Command::new(&copy).arg("100").spawn().unwrap());
        let reader = ProcReader::new("/proc");
        let before = reader.read_process(child.0.id()).unwrap();
        assert_eq!((before.exe.as_slice(), before.image.links), (copy.as_os_str().as_encoded_bytes(), 1));
        fs::remove_file(&copy).unwrap();
        let after = reader.read_process(child.0.id()).unwrap();
        assert_eq!(after.exe, before.exe);
        assert!(after.image.unlinked() && !after.image.memfd);
    }

    #[test]
    fn a_memfd_image_is_known_as_such() {
        let memfd = rustix::fs::memfd_create("wf test", rustix::fs::MemfdFlags::empty()).unwrap();
        let mut file = fs::File::from(memfd);
        file.write_all(&fs::read("/bin/sleep").unwrap()).unwrap();
        let path = format!("/proc/{}/fd/{}", std::process::id(), std::os::fd::AsRawFd::as_raw_fd(&file));
        // Opened for writing it cannot be run (ETXTBSY): run it through a read-only descriptor.
        let readonly = fs::File::open(&path).unwrap();
        drop(file);
        let path = format!("/proc/{}/fd/{}", std::process::id(), std::os::fd::AsRawFd::as_raw_fd(&readonly));
        let child = Running(Command::new(path).arg("100").spawn().unwrap());
        let process = ProcReader::new("/proc").read_process(child.0.id()).unwrap();
        assert_eq!(process.exe, b"/memfd:wf test");
        assert!(process.image.memfd && process.image.unlinked());
    }

    #[test]
    fn a_thread_is_not_taken_for_a_process() {
        let reader = ProcReader::new("/proc");
        let tid = std::thread::spawn(rustix::thread::gettid);
        let tid = tid.join().unwrap().as_raw_nonzero().get().cast_unsigned();
        // The thread may be gone by now: then so is its number.
        assert!(matches!(reader.read_process(tid), Err(ProcError::Thread { .. } | ProcError::Gone { .. })));
        let (sender, waits) = std::sync::mpsc::channel::<()>();
        let (told, hears) = std::sync::mpsc::channel();
        let alive = std::thread::spawn(move || {
            told.send(rustix::thread::gettid()).unwrap();
            waits.recv().unwrap_err();
        });
        let tid = hears.recv().unwrap().as_raw_nonzero().get().cast_unsigned();
        let error = reader.read_process(tid).unwrap_err();
        assert!(matches!(error, ProcError::Thread { tgid, .. } if tgid == std::process::id()), "{error}");
        drop(sender);
        alive.join().unwrap();
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn files_of_any_bytes_stop_no_reader(
            files in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..300), 6),
            link in "[^\0]{1,40}",
        ) {
            let root = made_up();
            let names = ["stat", "status", "cmdline", "cgroup", "loginuid", "sessionid"];
            for (name, bytes) in names.iter().zip(&files).skip(usize::from(files[0].first().is_some_and(|byte| *byte > 9)) * 2) {
                fs::write(root.path().join("500").join(name), bytes).unwrap();
            }
            symlink(link, root.path().join("500/exe")).unwrap();
            let _seen = ProcReader::new(root.path()).read_process(500);
        }

        #[test]
        fn no_cgroup_file_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _seen = CgroupPaths::parse(&bytes).container();
        }
    }
}
