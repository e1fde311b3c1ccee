//! exec, fork, exit.

use std::ffi::CString;
use std::fs;
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::Path;

use watchfire_event::{Process, Stdio, What};

use crate::child::{Image, fork, mark, own_cpath, own_path, role, spawn, wait};
use crate::watch::{Report, Watch, same};

const ARGV_MAX: usize = 32768;

pub(crate) fn run(watch: &mut Watch, report: &mut Report) {
    report.case("exec", plain(watch));
    report.case("exec (argv of 32 KiB)", long_argv(watch, "argv32k", ARGV_MAX));
    report.case("exec (argv of 300 KB, cut)", long_argv(watch, "argv300k", 300_000));
    report.case("exec (argv not UTF-8)", foreign_argv(watch));
    report.case("exec (script)", script(watch));
    report.case("exec (memfd)", memfd(watch));
    report.case("exec (unlinked)", unlinked(watch));
    report.case("exec (deep path, cwd)", deep_path(watch));
    report.case("exec (stdio: closed, null, file)", stdio_plain(watch));
    report.case("exec (stdio: pipe, unix socket)", stdio_pipe(watch));
    report.case("exec (stdio: TCP over IPv4)", stdio_tcp(watch, "127.0.0.1:0"));
    match TcpListener::bind("[::1]:0") {
        Ok(_) => report.case("exec (stdio: TCP over IPv6)", stdio_tcp(watch, "[::1]:0")),
        Err(error) => report.skipped("exec (stdio: TCP over IPv6)", &error.to_string()),
    }
    match open_pty() {
        Ok(pty) => report.case("exec (terminal)", terminal(watch, &pty)),
        Err(error) => report.skipped("exec (terminal)", &error.to_string()),
    }
    report.case("exec (credentials)", credentials(watch));
    report.case("fork", forked(watch));
    report.case("exit (code)", exit_code(watch));
    report.case("exit (signal)", exit_signal(watch));
    report.case("exit (threads: once)", exit_threads(watch));
}

/// The exec whose argv holds `mark`.
fn exec_of(watch: &mut Watch, mark: &str) -> Result<Process, String> {
    let holds = |argv: &[u8]| argv.windows(mark.len()).any(|part| part == mark.as_bytes());
    let found = watch.wait(|sighting| match &sighting.what {
        What::Exec(process) if holds(&process.argv) => Some(process.as_ref().clone()),
        _ => None,
    });
    found.ok_or_else(|| "no exec with this mark".to_owned())
}

fn run_role(watch: &mut Watch, case: &str, setup: impl FnOnce()) -> Result<Process, String> {
    let mark = mark(case);
    let pid = spawn(&Image::Path(&own_cpath()), &role("exit7", &mark), setup);
    wait(pid);
    exec_of(watch, &mark)
}

fn inode_of(path: impl AsRef<Path>) -> u32 {
    let meta = fs::metadata(path).expect("a namespace file");
    u32::try_from(meta.ino()).expect("namespace inodes are small")
}

/// Every field of a plain exec against what /proc and libc say of this process, the child's twin.
fn plain(watch: &mut Watch) -> Result<(), String> {
    let mark = mark("plain");
    let argv = role("exit7", &mark);
    let pid = spawn(&Image::Path(&own_cpath()), &argv, || {});
    wait(pid);
    let process = exec_of(watch, &mark)?;
    let image = fs::metadata(own_path()).expect("own file");
    let number = |pid: i32| u32::try_from(pid).expect("a pid");
    // SAFETY: these calls take no pointers and cannot fail.
    let (session, group) = unsafe { (libc::getsid(0), libc::getpgrp()) };
    let status = fs::read_to_string("/proc/self/status").expect("own status");
    let capabilities = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("a line of status");
        u64::from_str_radix(line.trim(), 16).expect("hexadecimal")
    };
    let unset = |path: &str| {
        fs::read_to_string(path).ok().and_then(|text| text.trim().parse().ok()).filter(|id| *id != u32::MAX)
    };

    same("tgid", process.key.tgid, number(pid))?;
    same("parent", process.parent.map(|parent| parent.tgid), Some(std::process::id()))?;
    same(
        "parent's start, ticks",
        process.parent.map_or(0, |parent| parent.started.0 / 10_000_000),
        own_start_ticks(),
    )?;
    let mut expected = Vec::new();
    argv.iter().for_each(|arg| expected.extend_from_slice(arg.as_bytes_with_nul()));
    same("argv", process.argv.clone(), expected)?;
    same("argv_len", process.argv_len as usize, process.argv.len())?;
    same("exe", process.exe.as_slice(), own_path().as_os_str().as_bytes())?;
    same("filename", process.filename.as_slice(), own_path().as_os_str().as_bytes())?;
    same("cwd", process.cwd.as_slice(), std::env::current_dir().expect("cwd").as_os_str().as_bytes())?;
    same("inode", process.image.inode, image.ino())?;
    same("device", process.image.device, image.dev())?;
    same("mode", process.image.mode, image.mode())?;
    same("owner", process.image.uid, image.uid())?;
    same("links", u64::from(process.image.links), image.nlink())?;
    same("memfd", process.image.memfd, false)?;
    same(
        "comm",
        process.comm.as_slice(),
        &own_path().file_name().expect("a name").as_bytes()
            [..15.min(own_path().file_name().expect("a name").len())],
    )?;
    same("uid", process.credentials.uid, rustix::process::getuid().as_raw())?;
    same("egid", process.credentials.egid, rustix::process::getegid().as_raw())?;
    same("effective", process.credentials.cap_effective, capabilities("CapEff:"))?;
    same("permitted", process.credentials.cap_permitted, capabilities("CapPrm:"))?;
    same("login uid", process.login_uid, unset("/proc/self/loginuid"))?;
    same("audit session", process.audit_session, unset("/proc/self/sessionid"))?;
    same("session", process.session, number(session))?;
    same("group", process.group, number(group))?;
    same("mnt", process.namespaces.mnt, inode_of("/proc/self/ns/mnt"))?;
    same("pid", process.namespaces.pid, inode_of("/proc/self/ns/pid_for_children"))?;
    same("net", process.namespaces.net, inode_of("/proc/self/ns/net"))?;
    same("user", process.namespaces.user, inode_of("/proc/self/ns/user"))?;
    same("id in its namespace", process.ns_tgid, number(pid))?;
    match own_cgroup() {
        Some(cgroup) => same("cgroup", process.cgroup, cgroup),
        None => same("cgroup is told", process.cgroup != 0, true),
    }
}

/// Field 22 of /proc/self/stat.
fn own_start_ticks() -> u64 {
    let stat = fs::read_to_string("/proc/self/stat").expect("own stat");
    let after_name = stat.rsplit_once(')').expect("a name").1;
    after_name.split_whitespace().nth(19).and_then(|field| field.parse().ok()).expect("field 22")
}

/// Inode of the directory of this process' cgroup: of the v1 memory hierarchy if there is one, else of v2.
fn own_cgroup() -> Option<u64> {
    let own = fs::read_to_string("/proc/self/cgroup").ok()?;
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    let path_of = |controllers: &str| {
        own.lines().find_map(|line| {
            let mut parts = line.splitn(3, ':').skip(1);
            (parts.next()?.split(',').any(|name| name == controllers)).then(|| parts.next())?
        })
    };
    let mount_of = |kind: &str, option: &str| {
        mounts.lines().find_map(|line| {
            let (mount, filesystem) = line.split_once(" - ")?;
            let fits = filesystem.starts_with(kind)
                && filesystem.split(',').any(|part| part.trim().ends_with(option));
            if fits { mount.split(' ').nth(4) } else { None }
        })
    };
    let (path, mount) = match path_of("memory") {
        Some(path) => (path, mount_of("cgroup ", "memory")?),
        None => (path_of("")?, mount_of("cgroup2 ", "")?),
    };
    Some(fs::metadata(format!("{mount}{path}")).ok()?.ino())
}

/// An argv whose area has exactly `size` bytes.
fn long_argv(watch: &mut Watch, case: &str, size: usize) -> Result<(), String> {
    let mark = mark(case);
    let mut argv = role("exit7", &mark);
    let used: usize = argv.iter().map(|arg| arg.as_bytes_with_nul().len()).sum();
    let mut left = size - used;
    while left > 0 {
        // One argument may not pass 128 KiB.
        let part = left.min(100_000);
        argv.push(CString::new(vec![b'x'; part - 1]).expect("no NUL"));
        left -= part;
    }
    wait(spawn(&Image::Path(&own_cpath()), &argv, || {}));
    let process = exec_of(watch, &mark)?;
    same("true length", process.argv_len as usize, size)?;
    same("bytes taken", process.argv.len(), size.min(ARGV_MAX))?;
    same("cut", process.argv_truncated(), size > ARGV_MAX)?;
    let mut whole = Vec::new();
    argv.iter().for_each(|arg| whole.extend_from_slice(arg.as_bytes_with_nul()));
    same("content is the same", process.argv == whole[..size.min(ARGV_MAX)], true)
}

fn foreign_argv(watch: &mut Watch) -> Result<(), String> {
    let mark = mark("foreign");
    let mut argv = role("exit7", &mark);
    let odd = [b"\xff\xfe\x1b[31m".as_slice(), b"", b"line\nline", b"\xc3"];
    argv.extend(odd.map(|arg| CString::new(arg).expect("no NUL")));
    wait(spawn(&Image::Path(&own_cpath()), &argv, || {}));
    let process = exec_of(watch, &mark)?;
    let args: Vec<_> = process.args().skip(4).collect();
    same("arguments", args, odd.to_vec())
}

/// A folder of this run's own, removed when dropped.
struct Folder(std::path::PathBuf);

impl Folder {
    fn make(case: &str) -> Self {
        let path = std::env::temp_dir().join(mark(case));
        fs::create_dir_all(&path).expect("make a folder");
        Folder(fs::canonicalize(path).expect("its own path"))
    }

    /// A copy of this program in the folder.
    fn copy_of_self(&self, name: &str) -> CString {
        let path = self.0.join(name);
        fs::copy(own_path(), &path).expect("copy own file");
        CString::new(path.as_os_str().as_bytes()).expect("no NUL")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).expect("remove own folder");
    }
}

fn script(watch: &mut Watch) -> Result<(), String> {
    let folder = Folder::make("script");
    // A short name for the interpreter: a #! line is cut at 255 bytes.
    let interpreter = folder.copy_of_self("it");
    let path = folder.0.join("script");
    fs::write(&path, [b"#!", interpreter.as_bytes(), b" role exit7\n"].concat()).expect("write the script");
    fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .expect("make it executable");
    let script = CString::new(path.as_os_str().as_bytes()).expect("no NUL");
    let mark = mark("script-argument");
    wait(spawn(
        &Image::Path(&script),
        &[c"ignored".to_owned(), CString::new(mark.as_bytes()).expect("no NUL")],
        || {},
    ));
    let process = exec_of(watch, &mark)?;
    same("filename", process.filename.as_slice(), script.as_bytes())?;
    same("exe", process.exe.as_slice(), interpreter.as_bytes())?;
    same("first argument", process.args().next(), Some(interpreter.as_bytes()))
}

fn memfd(watch: &mut Watch) -> Result<(), String> {
    let mark = mark("memfd");
    // SAFETY: the name outlives the call.
    let fd = unsafe { libc::memfd_create(c"kinds \x1b".as_ptr(), 0) };
    same("memfd_create works", fd >= 0, true)?;
    // SAFETY: just made, owned by nobody else.
    let file = unsafe { OwnedFd::from_raw_fd(fd) };
    let bytes = fs::read(own_path()).expect("own file");
    rustix::io::write(&file, &bytes).map_err(|error| error.to_string())?;
    wait(spawn(&Image::Descriptor(fd), &role("exit7", &mark), || {}));
    let process = exec_of(watch, &mark)?;
    same("exe", process.exe.as_slice(), b"/memfd:kinds \x1b".as_slice())?;
    same("memfd", process.image.memfd, true)?;
    same("unlinked", process.image.unlinked(), true)
}

fn unlinked(watch: &mut Watch) -> Result<(), String> {
    let folder = Folder::make("unlinked");
    let path = folder.copy_of_self("gone");
    let name = Path::new(std::ffi::OsStr::from_bytes(path.as_bytes()));
    let file = fs::File::open(name).expect("open the copy");
    fs::remove_file(name).expect("unlink the copy");
    let mark = mark("unlinked-argument");
    wait(spawn(&Image::Descriptor(file.as_raw_fd()), &role("exit7", &mark), || {}));
    let process = exec_of(watch, &mark)?;
    same("exe", process.exe.as_slice(), path.as_bytes())?;
    same("unlinked", process.image.unlinked(), true)?;
    same("memfd", process.image.memfd, false)
}

/// A path of 40 components, executed from a folder beside it.
fn deep_path(watch: &mut Watch) -> Result<(), String> {
    let folder = Folder::make("deep");
    let mut deep = folder.0.clone();
    (0..36).for_each(|level| deep.push(format!("level-{level}-\u{706b}")));
    fs::create_dir_all(&deep).expect("make the folders");
    fs::copy(own_path(), deep.join("leaf")).expect("copy own file");
    let path = CString::new(deep.join("leaf").as_os_str().as_bytes()).expect("no NUL");
    let mark = mark("deep-argument");
    wait(spawn(&Image::Path(&path), &role("exit7", &mark), || {
        std::env::set_current_dir(&deep).expect("enter the folder")
    }));
    let process = exec_of(watch, &mark)?;
    same("exe", process.exe.as_slice(), path.as_bytes())?;
    same("cwd", process.cwd.as_slice(), deep.as_os_str().as_bytes())
}

/// Puts descriptors in the place of stdin, stdout, stderr of the child; -1 closes.
fn place(fds: [RawFd; 3]) {
    for (place, fd) in (0..).zip(fds) {
        // SAFETY: integers only; in a child that is about to exec.
        unsafe {
            match fd {
                -1 => libc::close(place),
                other => libc::dup2(other, place),
            };
        }
    }
}

fn stdio_plain(watch: &mut Watch) -> Result<(), String> {
    let null = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/null")
        .map_err(|error| format!("/dev/null: {error}"))?;
    let file = fs::File::open(own_path()).expect("own file");
    let process = run_role(watch, "stdio-plain", || place([-1, null.as_raw_fd(), file.as_raw_fd()]))?;
    same("stdio", process.stdio, [Stdio::Closed, Stdio::Null, Stdio::File])
}

fn stdio_pipe(watch: &mut Watch) -> Result<(), String> {
    let (read, write) = rustix::pipe::pipe().expect("a pipe");
    let (ours, theirs) = UnixStream::pair().expect("a pair of sockets");
    let process =
        run_role(watch, "stdio-pipe", || place([read.as_raw_fd(), write.as_raw_fd(), theirs.as_raw_fd()]))?;
    drop(ours);
    let inode = |fd: &dyn std::os::fd::AsFd| rustix::fs::fstat(fd.as_fd()).expect("fstat").st_ino;
    let socket = Stdio::Socket { family: 1, inode: inode(&theirs) };
    same("stdio", process.stdio, [Stdio::Pipe(inode(&read)), Stdio::Pipe(inode(&write)), socket])
}

fn stdio_tcp(watch: &mut Watch, address: &str) -> Result<(), String> {
    let listener = TcpListener::bind(address).expect("bind");
    let remote = listener.local_addr().expect("address");
    let stream = TcpStream::connect(remote).expect("connect");
    let fd = stream.as_raw_fd();
    let process =
        run_role(watch, if remote.is_ipv4() { "stdio-tcp4" } else { "stdio-tcp6" }, || place([fd, fd, fd]))?;
    same("stdio", process.stdio, [Stdio::Inet(remote); 3])
}

struct Pty {
    _master: OwnedFd,
    name: String,
}

fn open_pty() -> std::io::Result<Pty> {
    // SAFETY: integers only; the descriptor is new and owned by nobody else.
    let master = unsafe { libc::posix_openpt(libc::O_RDWR | libc::O_NOCTTY) };
    if master < 0 {
        return Err(std::io::Error::last_os_error());
    }
    // SAFETY: as above.
    let owned = unsafe { OwnedFd::from_raw_fd(master) };
    let mut name = [0; 64];
    // SAFETY: the buffer's length is told with it.
    let ready =
        unsafe { libc::unlockpt(master) == 0 && libc::ptsname_r(master, name.as_mut_ptr(), name.len()) == 0 };
    if !ready {
        return Err(std::io::Error::last_os_error());
    }
    let name =
        name.iter().take_while(|byte| **byte != 0).map(|byte| char::from(byte.cast_unsigned())).collect();
    Ok(Pty { _master: owned, name })
}

fn terminal(watch: &mut Watch, pty: &Pty) -> Result<(), String> {
    let path = CString::new(pty.name.as_str()).expect("no NUL");
    let process = run_role(watch, "terminal", || {
        // SAFETY: the path outlives the call; the first terminal opened by a session leader becomes its own.
        let fd = unsafe {
            libc::setsid();
            libc::open(path.as_ptr(), libc::O_RDWR)
        };
        place([fd, fd, fd]);
    })?;
    let number: u32 = pty.name.rsplit('/').next().and_then(|last| last.parse().ok()).expect("/dev/pts/N");
    let tty = process.tty.ok_or("no terminal")?;
    same("name", tty.name, format!("pts{number}").into_bytes())?;
    same("device", tty.device, (136, number))?;
    same("stdio", process.stdio, [Stdio::Tty; 3])?;
    same("session leader", process.session, process.key.tgid)
}

fn credentials(watch: &mut Watch) -> Result<(), String> {
    let process = run_role(watch, "credentials", || {
        // SAFETY: integers only.
        let set = unsafe { libc::setresgid(2001, 2002, 2003) | libc::setresuid(1001, 0, 1003) };
        assert_eq!(set, 0, "set the ids");
    })?;
    let found = process.credentials;
    // At exec the saved uid becomes the effective one.
    same("ids", (found.uid, found.euid, found.suid, found.gid, found.egid), (1001, 0, 0, 2001, 2002))
}

fn forked(watch: &mut Watch) -> Result<(), String> {
    let pid = fork(|| 0);
    wait(pid);
    let child = u32::try_from(pid).expect("a pid");
    let found = watch.wait(|sighting| match sighting.what {
        What::Fork { child: key, child_ns_tgid } if key.tgid == child => {
            Some((sighting.actor, key, child_ns_tgid))
        }
        _ => None,
    });
    let (actor, key, inside) = found.ok_or("no fork of this child")?;
    same("parent", actor.tgid, std::process::id())?;
    same(
        "parent's start, ticks",
        actor.started.map_or(0, |started| started.0 / 10_000_000),
        own_start_ticks(),
    )?;
    same("child's start is later", Some(key.started) > actor.started, true)?;
    same("id in its namespace", inside, child)
}

fn exit_of(watch: &mut Watch, pid: i32) -> Result<(u8, u8), String> {
    let tgid = u32::try_from(pid).expect("a pid");
    let found = watch.wait(|sighting| match sighting.what {
        What::Exit { code, signal } if sighting.actor.tgid == tgid => Some((code, signal)),
        _ => None,
    });
    found.ok_or_else(|| "no exit of this process".to_owned())
}

fn exit_code(watch: &mut Watch) -> Result<(), String> {
    let pid = spawn(&Image::Path(&own_cpath()), &role("exit7", &mark("exit7")), || {});
    wait(pid);
    same("code, signal", exit_of(watch, pid)?, (7, 0))
}

fn exit_signal(watch: &mut Watch) -> Result<(), String> {
    let pid = spawn(&Image::Path(&own_cpath()), &role("wait", &mark("signal")), || {});
    exec_of(watch, &mark("signal"))?;
    // SAFETY: integers only; our own child, not yet waited for.
    unsafe { libc::kill(pid, libc::SIGKILL) };
    wait(pid);
    same("code, signal", exit_of(watch, pid)?, (0, 9))
}

fn exit_threads(watch: &mut Watch) -> Result<(), String> {
    for round in 0..20 {
        let pid =
            spawn(&Image::Path(&own_cpath()), &role("threads", &mark(&format!("threads{round}"))), || {});
        wait(pid);
        same("code, signal", exit_of(watch, pid)?, (9, 0))?;
        let tgid = u32::try_from(pid).expect("a pid");
        let started = watch.wait(|sighting| match sighting.what {
            What::Exit { .. } if sighting.actor.tgid == tgid => Some(sighting.actor.started),
            _ => None,
        });
        let is_end = |what: &What| matches!(what, What::Exit { .. });
        let ends = watch.count(|sighting| {
            is_end(&sighting.what) && sighting.actor.tgid == tgid && Some(sighting.actor.started) == started
        });
        same("ends told", ends, 1)?;
        let is_thread = |what: &What| matches!(what, What::Fork { .. });
        same(
            "forks by it",
            watch.count(|sighting| is_thread(&sighting.what) && sighting.actor.tgid == tgid),
            0,
        )?;
    }
    Ok(())
}
