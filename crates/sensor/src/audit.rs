//! Processes by audit netlink, where eBPF is refused and no audit daemon runs: this source then is the daemon.
//!
//! It adds two rules (exec in native and in 32-bit programs), puts the records of each exec together, and takes from /proc what
//! audit does not tell (start, namespaces, container, the three standard descriptors), if the process still is there. It never
//! takes the place of a daemon, gives its place up to one that asks for it, and leaves the audit system as it found it.

mod control;
mod records;

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use watchfire_event::{
    Actor, Body, Books, BootNanos, Credentials, DropReason, Image, Kind, Process, ProcessKey, ProcessOrigin,
    Sighting, Stage, Tty, UnixNanos, What,
};
use watchfire_host::{ProcReader, boot_now, booted};

use crate::source::{Source, SourceError};
use control::{Control, Status};
use records::{Call, Exec};

/// Execs whose records are still coming. They come within microseconds of each other.
const MAX_OPEN: usize = 512;
/// How often the kernel is asked how many records it has lost.
const ASK_EVERY: Duration = Duration::from_secs(5);
const SUFFIX_DELETED: &[u8] = b" (deleted)";

/// Why audit cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// Another process is the audit daemon. It is left alone.
    #[error("audit: process {daemon} is the audit daemon")]
    Taken {
        /// Its tgid.
        daemon: u32,
    },
    /// The rules are locked until the next boot.
    #[error("audit: the configuration is locked until the next boot")]
    Locked,
    /// The kernel refused.
    #[error("audit: {attempt}: {source}")]
    Refused {
        /// What was attempted.
        attempt: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

/// The source of exec by audit.
#[derive(Debug)]
pub struct AuditSource {
    control: Control,
    before: Status,
    registered: bool,
    /// An administrator's `never,task` rule keeps processes from being audited.
    never: bool,
    processes: ProcReader,
    open: BTreeMap<u64, Exec>,
    pending: VecDeque<Sighting>,
    books: Books,
    lost: u32,
    asked: Instant,
    enriched: u64,
    gone: u64,
}

impl AuditSource {
    /// Whether audit is free, without changing anything.
    ///
    /// # Errors
    /// As [`AuditSource::open`].
    pub fn probe() -> Result<(), AuditError> {
        free(&mut Control::open().map_err(refused("open the socket"))?).map(|_| ())
    }

    /// Becomes the audit daemon and adds the rules.
    ///
    /// # Errors
    /// [`AuditError::Taken`] when there is a daemon already; else what the kernel refused.
    pub fn open() -> Result<Self, AuditError> {
        let mut control = Control::open().map_err(refused("open the socket"))?;
        let before = free(&mut control)?;
        control.register().map_err(refused("register"))?;
        let mut source = AuditSource {
            control,
            lost: before.lost,
            before,
            registered: true,
            never: false,
            processes: ProcReader::new("/proc"),
            open: BTreeMap::new(),
            pending: VecDeque::new(),
            books: Books::default(),
            asked: Instant::now(),
            enriched: 0,
            gone: 0,
        };
        // From here on, dropping `source` undoes what was done.
        source.control.add_rules().map_err(refused("add the rules"))?;
        source.never = source.control.rules().map_err(refused("list the rules"))?.1;
        Ok(source)
    }

    /// What this source cannot see, in sentences.
    pub fn blind_spots(&self) -> Vec<String> {
        let mut all = vec![
            "forks and ends of processes are not told".to_owned(),
            "a process that has run since before audit was first enabled in this boot is not audited itself; its children are"
                .to_owned(),
            format!(
                "start, namespaces, container and standard descriptors are read from /proc afterwards: {} of {} were still there",
                self.enriched,
                self.enriched + self.gone
            ),
            "when its backlog is full the kernel loses records instead of letting processes wait; it counts them".to_owned(),
        ];
        if self.never {
            all.push("a rule `never,task` of this host keeps processes from being audited: nothing may come at all".to_owned());
        }
        all
    }

    /// Takes one message; `false` when none is there.
    fn receive(&mut self) -> Result<bool, SourceError> {
        let failed = |source| SourceError::Lost { name: "audit", attempt: "receive", source };
        let Some((kind, payload)) = self.control.receive().map_err(failed)? else { return Ok(false) };
        match kind {
            0 => self.count_lost(1, boot_now()),
            control::GET => {
                if let Some(status) = Status::parse(&payload) {
                    self.count_lost(u64::from(status.lost.wrapping_sub(self.lost)), boot_now());
                    self.lost = status.lost;
                }
            }
            control::REPLACE => {
                self.leave();
                let source = io::Error::other("another audit daemon asked for its place");
                return Err(SourceError::Lost { name: "audit", attempt: "stay registered", source });
            }
            records::SYSCALL | records::EXECVE | records::CWD | records::PATH | records::END => {
                self.record(kind, &payload)
            }
            _ => {}
        }
        Ok(true)
    }

    fn record(&mut self, kind: u16, payload: &[u8]) {
        let Some((stamp, fields)) = records::stamp(payload) else { return self.count_malformed() };
        if kind == records::END {
            if let Some(exec) = self.open.remove(&stamp.serial) {
                self.finish(exec);
            }
            return;
        }
        if self.open.len() >= MAX_OPEN
            && !self.open.contains_key(&stamp.serial)
            && let Some((_, oldest)) = self.open.pop_first()
        {
            self.finish(oldest);
        }
        let exec =
            self.open.entry(stamp.serial).or_insert_with(|| Exec { millis: stamp.millis, ..Exec::default() });
        exec.add(kind, fields);
    }

    /// All records of an event have come. Events of the administrator's own rules are none of ours.
    fn finish(&mut self, mut exec: Exec) {
        let Some(mut arguments) = exec.arguments.take() else { return };
        arguments.close();
        let counts = self.books.entry(Stage::Kernel, Kind::Exec);
        counts.seen += 1;
        let Some(call) = exec.call.take() else {
            *counts.dropped.entry(DropReason::Malformed).or_default() += 1;
            return;
        };
        if !call.succeeded {
            counts.filtered += 1;
            return;
        }
        let at = boot_time(exec.millis);
        let read = self.processes.read_process(call.tgid).ok();
        if read.is_some() {
            self.enriched += 1;
        } else {
            self.gone += 1;
        }
        let mut process = process(&call, exec, read, at);
        process.argv = arguments.bytes;
        process.argv_len = u32::try_from(arguments.length).unwrap_or(u32::MAX);
        if process.parent.is_none() {
            process.parent = self.processes.key(call.parent).ok();
        }
        let actor = Actor { tgid: call.tgid, started: Some(process.key.started) };
        self.pending.push_back(Sighting { at, actor, what: What::Exec(Box::new(process)) });
    }

    fn count_lost(&mut self, count: u64, at: BootNanos) {
        // A count that went backwards was reset by someone.
        if count == 0 || count > u64::from(u32::MAX / 2) {
            return;
        }
        let counts = self.books.entry(Stage::Kernel, Kind::Loss);
        counts.seen += count + 1;
        *counts.dropped.entry(DropReason::SourceOverflow).or_default() += count;
        let body = Body::Loss { source: "audit".to_owned(), count };
        self.pending.push_back(Sighting { at, actor: Actor::default(), what: What::Done(body) });
    }

    fn count_malformed(&mut self) {
        let counts = self.books.entry(Stage::Kernel, Kind::Exec);
        counts.seen += 1;
        *counts.dropped.entry(DropReason::Malformed).or_default() += 1;
    }

    fn ask_for_losses(&mut self) {
        if self.asked.elapsed() >= ASK_EVERY {
            self.asked = Instant::now();
            if let Err(error) = self.control.ask_status() {
                tracing::debug!(%error, "audit: ask for the status");
            }
        }
    }

    /// Takes the rules away and gives the place of the daemon back.
    fn leave(&mut self) {
        if !std::mem::take(&mut self.registered) {
            return;
        }
        if let Err(error) = self.control.delete_rules() {
            tracing::warn!(%error, "audit: take the rules away");
        }
        if let Err(error) = self.control.unregister(self.before) {
            tracing::warn!(%error, "audit: give the place of the daemon back");
        }
    }
}

impl Source for AuditSource {
    fn name(&self) -> &'static str {
        "audit"
    }

    fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        vec![self.control.fd()]
    }

    fn drain(&mut self, limit: usize, sink: &mut dyn FnMut(Sighting)) -> Result<usize, SourceError> {
        self.ask_for_losses();
        let mut taken = 0;
        while taken < limit {
            if let Some(sighting) = self.pending.pop_front() {
                self.books.entry(Stage::Kernel, sighting.kind()).passed += 1;
                sink(sighting);
                taken += 1;
            } else if !self.receive()? {
                break;
            }
        }
        Ok(taken)
    }

    fn books(&mut self) -> Books {
        let mut books = self.books.clone();
        for sighting in &self.pending {
            books.entry(Stage::Kernel, sighting.kind()).held += 1;
        }
        books
    }
}

impl Drop for AuditSource {
    fn drop(&mut self) {
        self.leave();
    }
}

/// The status, if no daemon is registered and the configuration may be changed.
fn free(control: &mut Control) -> Result<Status, AuditError> {
    let status = control.status().map_err(refused("ask for the status"))?;
    match status {
        Status { daemon, .. } if daemon != 0 => Err(AuditError::Taken { daemon }),
        Status { enabled: 2, .. } => Err(AuditError::Locked),
        _ => Ok(status),
    }
}

fn refused(attempt: &'static str) -> impl Fn(io::Error) -> AuditError {
    move |source| AuditError::Refused { attempt, source }
}

/// Wall milliseconds as audit stamps them, in boot time; never later than now.
fn boot_time(millis: u64) -> BootNanos {
    let UnixNanos(boot) = booted();
    let wall = i64::try_from(millis).unwrap_or(0).saturating_mul(1_000_000);
    BootNanos(u64::try_from(wall.saturating_sub(boot)).unwrap_or(0)).min(boot_now())
}

/// What audit says, completed by what /proc still shows. Audit wins: it spoke of this exec, /proc may show the next.
fn process(call: &Call, exec: Exec, read: Option<Process>, at: BootNanos) -> Process {
    let deleted = call.exe.ends_with(SUFFIX_DELETED);
    let exe =
        if deleted { call.exe[..call.exe.len() - SUFFIX_DELETED.len()].to_vec() } else { call.exe.clone() };
    let file = exec.file.unwrap_or_default();
    let same = read.as_ref().is_some_and(|read| read.exe == exe || read.exe == call.exe);
    let base = read.unwrap_or_else(|| {
        let key = ProcessKey { tgid: call.tgid, started: at }.on_tick();
        Process { key, ns_tgid: call.tgid, ..Process::default() }
    });
    let image = if same {
        base.image
    } else {
        // Item 0 is what was asked for: the image itself, unless that was a script.
        let asked = file.name == exe;
        Image {
            device: if asked { rustix::fs::makedev(file.device.0, file.device.1) } else { 0 },
            inode: if asked { file.inode } else { 0 },
            mode: if asked { file.mode } else { 0 },
            uid: if asked { file.owner } else { 0 },
            links: u32::from(!deleted),
            memfd: deleted && exe.starts_with(b"/memfd:"),
        }
    };
    let Credentials { cap_effective, cap_permitted, .. } = base.credentials;
    let Call { uid, euid, suid, gid, egid, .. } = *call;
    Process {
        origin: ProcessOrigin::Exec,
        since: at,
        exe: if same { base.exe } else { exe },
        filename: file.name,
        image,
        comm: call.comm.clone(),
        cwd: exec.cwd,
        credentials: Credentials { uid, euid, suid, gid, egid, cap_effective, cap_permitted },
        login_uid: call.login_uid,
        audit_session: call.session,
        tty: base
            .tty
            .or_else(|| (!call.tty.is_empty()).then(|| Tty { name: call.tty.clone(), device: (0, 0) })),
        ..base
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    use std::process::Command;
    use std::sync::{Mutex, MutexGuard};

    use super::*;

    /// There is one audit system: one test at a time. The guard comes first in a pair, so that it is dropped last.
    static ONE: Mutex<()> = Mutex::new(());

    fn open() -> Option<(MutexGuard<'static, ()>, AuditSource)> {
        let guard = ONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        match AuditSource::open() {
            Ok(source) => Some((guard, source)),
            Err(AuditError::Taken { daemon }) => {
                eprintln!("skipped: process {daemon} is the audit daemon");
                None
            }
            Err(error) if !rustix::process::geteuid().is_root() => {
                eprintln!("skipped: audit needs root: {error}");
                None
            }
            Err(error) => panic!("{error}"),
        }
    }

    fn wait_for(source: &mut AuditSource, tgid: u32) -> Process {
        let deadline = Instant::now() + Duration::from_secs(5);
        let mut found = None;
        while found.is_none() {
            assert!(Instant::now() < deadline, "no exec of {tgid}");
            let mut sink = |sighting: Sighting| match sighting.what {
                What::Exec(process) if process.key.tgid == tgid => found = Some(*process),
                _ => {}
            };
            source.drain(1000, &mut sink).unwrap();
            std::thread::sleep(Duration::from_millis(5));
        }
        assert!(source.books().rows().all(|row| row.counts.balanced()));
        found.unwrap()
    }

    #[test]
    fn an_exec_is_told_with_all_its_arguments() {
        let Some((_guard, mut source)) = open() else { return };
        let dir = tempfile::tempdir().unwrap();
        let long = "x".repeat(9000);
        let odd = OsStr::from_bytes(b"a b\n\xff\"");
        let mut command = Command::new("sleep");
        command.arg("0.3").arg("0").current_dir(&dir);
        let mut child = command.spawn().unwrap();
        let process = wait_for(&mut source, child.id());
        assert_eq!(process.argv, b"sleep\x000.3\x000\0");
        assert_eq!(process.argv_len, 12);
        assert!(process.exe.ends_with(b"sleep"), "{process:?}");
        assert_eq!(process.cwd, dir.path().canonicalize().unwrap().as_os_str().as_bytes());
        assert_eq!(process.parent.unwrap().tgid, std::process::id());
        assert_eq!(process.key, ProcReader::new("/proc").key(child.id()).unwrap());
        assert!(boot_now().since(process.since) < Duration::from_secs(5));
        child.wait().unwrap();
        let mut child = Command::new("true").arg(&long).arg(odd).arg("").spawn().unwrap();
        let process = wait_for(&mut source, child.id());
        let args: Vec<_> = process.args().collect();
        assert_eq!(args, [b"true".as_slice(), long.as_bytes(), odd.as_bytes(), b""]);
        assert_eq!(process.argv_len as usize, process.argv.len());
        child.wait().unwrap();
        let mut child = Command::new("true").arg("y".repeat(100_000)).spawn().unwrap();
        let process = wait_for(&mut source, child.id());
        assert_eq!((process.argv.len(), process.argv_len), (32 * 1024, 100_006));
        child.wait().unwrap();
    }

    #[test]
    fn what_was_found_is_restored() {
        let Some((_guard, source)) = open() else { return };
        let before = source.before;
        let mut control = Control::open().unwrap();
        let during = control.status().unwrap();
        assert_eq!((during.daemon, during.enabled, during.backlog_wait), (std::process::id(), 1, 0));
        assert!(control.rules().unwrap().0 >= 1);
        assert!(
            matches!(AuditSource::open(), Err(AuditError::Taken { daemon }) if daemon == std::process::id())
        );
        drop(source);
        let after = control.status().unwrap();
        assert_eq!((after.daemon, after.enabled), (0, before.enabled));
        assert_eq!((after.backlog_limit, after.backlog_wait), (before.backlog_limit, before.backlog_wait));
        assert_eq!(control.rules().unwrap().0, 0);
    }

    #[test]
    fn the_place_is_given_up_to_a_daemon_that_asks_for_it() {
        let Some((_guard, mut source)) = open() else { return };
        let mut other = Control::open().unwrap();
        assert!(other.register().is_err(), "the kernel asks us first");
        let deadline = Instant::now() + Duration::from_secs(5);
        let error = loop {
            assert!(Instant::now() < deadline, "not told of the other daemon");
            if let Err(error) = source.drain(1000, &mut |_| {}) {
                break error;
            }
        };
        assert!(
            std::error::Error::source(&error).unwrap().to_string().contains("another audit daemon"),
            "{error}"
        );
        assert_eq!((other.status().unwrap().daemon, other.rules().unwrap().0), (0, 0));
    }

    #[test]
    fn a_storm_is_told_whole() {
        let Some((_guard, mut source)) = open() else { return };
        let script = "i=0; while [ $i -lt 1000 ]; do /bin/true watchfire-$i; i=$((i+1)); done";
        let mut child = Command::new("sh").args(["-c", script]).spawn().unwrap();
        let mut seen = std::collections::BTreeSet::new();
        let mut ended = None;
        while ended.is_none_or(|ended: Instant| ended.elapsed() < Duration::from_millis(500)) {
            if ended.is_none() && child.try_wait().unwrap().is_some() {
                ended = Some(Instant::now());
            }
            let mut sink = |sighting: Sighting| {
                if let What::Exec(process) = sighting.what
                    && let Some(mark) = process.args().nth(1).and_then(|arg| arg.strip_prefix(b"watchfire-"))
                {
                    seen.insert(mark.to_vec());
                }
            };
            while source.drain(1000, &mut sink).unwrap() > 0 {}
            std::thread::sleep(Duration::from_millis(1));
        }
        child.wait().unwrap();
        assert_eq!(seen.len(), 1000);
        assert!(source.books().rows().all(|row| row.counts.balanced()));
        eprintln!("{}", source.blind_spots()[2]);
    }

    #[test]
    fn the_table_of_open_events_is_bounded() {
        let Some((_guard, mut source)) = open() else { return };
        for serial in 0..5000 {
            let text = format!("audit(1.000:{serial}): argc=1 a0=\"x\"");
            source.record(records::EXECVE, text.as_bytes());
        }
        assert!(source.open.len() <= MAX_OPEN);
        let books = source.books();
        let counts = books.get(Stage::Kernel, Kind::Exec).unwrap();
        assert!(counts.balanced() && counts.dropped[&DropReason::Malformed] == 5000 - MAX_OPEN as u64);
    }
}
