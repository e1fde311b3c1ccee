//! Files by fanotify: what is created, written, renamed, linked, unlinked, or changes its mode or owner below a list of paths,
//! and who opens one of a few secrets.
//!
//! kernel queue → `records.rs` (bytes to records) → `translate.rs` (records to sightings), with `watch.rs` (marks, by
//! `patterns.rs` and `settings.rs`) and `tree.rs` (handles to paths) beside.
//!
//! The group runs in handle mode: the kernel names a directory by its handle and gives the entry's name, so that no path is
//! read from a process' memory and none can be changed between the act and this reader. Marks go on single directories: in one
//! that nobody watches, file operations cost what they cost without an agent.
//!
//! What follows from that design and cannot be had otherwise:
//! - a directory made below a watched one is marked as soon as its creation is read; what was put into it before is found by
//!   looking inside, and reported as done by whoever made the directory;
//! - the kernel merges what one process does to one file while it waits in the queue, so sightings are not operations;
//! - fanotify stamps no time: `at` is when the record was read;
//! - mode and owner are read after the fact.

mod patterns;
mod records;
mod settings;
mod sys;
mod translate;
mod tree;
mod watch;

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags};
use watchfire_event::{Actor, Books, BootNanos, DropReason, Kind, Sighting, Stage, printable};
use watchfire_host::{ProcReader, boot_now};

use crate::source::{Source, SourceError};
use patterns::Patterns;
use records::Record;
use translate::Translator;
use watch::{Features, Watcher};

pub use settings::{FileSettings, MarkMode};

/// Read at once. With a descriptor in each record, 16 KiB (some 110 records) stays far below the usual limit of 1024.
const BUFFER: usize = 16 * 1024;
/// Directories visited in one turn of the worker: some 5 ms.
const VISITS: usize = 256;
/// Least time between two walks over everything after overflows.
const WALK_REST: Duration = Duration::from_secs(5);

/// Why files cannot be watched.
#[derive(Debug, thiserror::Error)]
pub enum FanotifyError {
    /// The kernel gave no group: it is older than 5.9, or this process lacks CAP_SYS_ADMIN.
    #[error("fanotify_init with directory handles and names: {0} (needs Linux 5.9 and CAP_SYS_ADMIN)")]
    Refused(io::Error),
    /// A path in the settings is not absolute.
    #[error("file settings: {path:?} is not an absolute path")]
    NotAbsolute {
        /// The path, escaped.
        path: String,
    },
    /// The wake-up timer could not be made.
    #[error("timerfd_create: {0}")]
    Timer(io::Error),
}

/// The source of the file kinds.
#[derive(Debug)]
pub struct FanotifySource {
    watcher: Watcher,
    translator: Translator,
    processes: ProcReader,
    own: u32,
    max_marks: usize,
    max_depth: usize,
    asked_for_pidfd: bool,
    /// Becomes readable when there is something to do without a new record.
    timer: OwnedFd,
    buffer: Vec<u8>,
    overflows: u64,
    walked: Instant,
    walk_due: bool,
}

impl FanotifySource {
    /// Makes a group with the most that this kernel offers, and marks everything the settings name.
    ///
    /// # Errors
    /// When the kernel refuses a group, or a path is not absolute. A directory that cannot be marked is no error: see
    /// [`FanotifySource::blind_spots`].
    pub fn open(settings: FileSettings) -> Result<Self, FanotifyError> {
        let best = Features { rename: true, pidfd: settings.pidfd };
        let steps = [best, Features { pidfd: false, ..best }, Features { rename: false, ..best }];
        let last = Features { rename: false, pidfd: false };
        let mut refusal = io::Error::from(io::ErrorKind::Unsupported);
        for features in steps.into_iter().chain([last]) {
            match group(features) {
                Ok(group) => return Self::start(&settings, group, features),
                Err(error) => refusal = error,
            }
        }
        Err(FanotifyError::Refused(refusal))
    }

    fn start(settings: &FileSettings, group: OwnedFd, features: Features) -> Result<Self, FanotifyError> {
        let mut patterns = Patterns::new(settings)
            .map_err(|path| FanotifyError::NotAbsolute { path: printable(&path).into_owned() })?;
        patterns.resolve_links();
        let timer = rustix::time::timerfd_create(
            TimerfdClockId::Monotonic,
            TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC,
        )
        .map_err(|error| FanotifyError::Timer(error.into()))?;
        let mut source = FanotifySource {
            watcher: Watcher::new(group, features, patterns, settings.mode, settings.max_marks),
            translator: Translator::default(),
            processes: ProcReader::new("/proc"),
            own: std::process::id(),
            max_marks: settings.max_marks,
            max_depth: settings.max_depth,
            asked_for_pidfd: settings.pidfd,
            timer,
            buffer: vec![0; BUFFER],
            overflows: 0,
            walked: Instant::now(),
            walk_due: false,
        };
        source.watcher.walk_all();
        while source.watcher.has_work() {
            source.visit(usize::MAX);
        }
        Ok(source)
    }

    /// Directories, secrets and file systems marked now.
    pub fn marks(&self) -> usize {
        self.watcher.marks()
    }

    /// What this source cannot see, in sentences.
    pub fn blind_spots(&self) -> Vec<String> {
        let mut all = vec![
            "files outside the configured paths are not watched".to_owned(),
            "what is put into a new directory before its mark is reported as done by the directory's maker"
                .to_owned(),
            "what one process does to one file in a short time may arrive merged into one record".to_owned(),
        ];
        let Features { rename, pidfd } = self.watcher.features();
        if !rename {
            all.push("this kernel has no FAN_RENAME (5.17): the two halves of a rename are paired by process and order".to_owned());
        }
        if !pidfd && self.asked_for_pidfd {
            all.push(
                "this kernel reports no pidfd: a process that ended is known by its number alone".to_owned(),
            );
        }
        if self.overflows > 0 {
            all.push(format!(
                "the kernel's queue overflowed {} times; how many records that cost is not known",
                self.overflows
            ));
        }
        if self.watcher.mode() == MarkMode::FileSystems {
            all.push("what happens in a directory that is gone before the record is read has no path, and is left out".to_owned());
        }
        all.extend(self.watcher.gaps.sentences(self.max_marks, self.max_depth));
        all
    }

    /// Reads once; `false` when nothing was there.
    fn read(&mut self) -> Result<bool, SourceError> {
        let count = match rustix::io::read(self.watcher.group(), &mut self.buffer) {
            Ok(count) => count,
            Err(Errno::AGAIN | Errno::INTR) => 0,
            Err(error) => {
                return Err(SourceError::Lost { name: "fanotify", attempt: "read", source: error.into() });
            }
        };
        if count == 0 {
            return Ok(false);
        }
        let at = boot_now();
        let parsed = records::parse(&self.buffer[..count]);
        self.count_malformed(parsed.malformed);
        let mut starts = HashMap::new();
        for record in parsed.records {
            let actor = self.actor(&record, &mut starts);
            if record.mask & libc::FAN_Q_OVERFLOW != 0 {
                self.overflowed(at);
                continue;
            }
            self.translator.take(&mut self.watcher, &record, actor, record.tgid == self.own, at);
            // A new directory is marked before anything else is done: what is put into it meanwhile has to be looked for.
            self.visit(VISITS);
        }
        Ok(true)
    }

    /// The acting process; its start too, if its descriptor shows that it still runs. Closes the descriptor.
    fn actor(&self, record: &Record, starts: &mut HashMap<u32, Option<BootNanos>>) -> Actor {
        let tgid = record.tgid;
        let Some(pidfd) = record.pidfd.and_then(sys::adopt) else { return Actor { tgid, started: None } };
        let read = || self.processes.key(tgid).ok().map(|key| key.started);
        let started = if tgid == self.own { None } else { *starts.entry(tgid).or_insert_with(read) };
        let mut poll = [PollFd::new(&pidfd, PollFlags::IN)];
        // Readable once it has ended; then the number may already belong to another.
        let runs = rustix::event::poll(&mut poll, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))
            .is_ok_and(|ready| ready == 0);
        Actor { tgid, started: started.filter(|_| runs) }
    }

    fn overflowed(&mut self, at: BootNanos) {
        self.overflows += 1;
        let counts = self.translator.books.entry(Stage::Kernel, Kind::Loss);
        counts.seen += 1;
        *counts.dropped.entry(DropReason::SourceOverflow).or_default() += 1;
        self.translator.put_loss(1, at);
        self.walk_due = true;
    }

    fn count_malformed(&mut self, count: u64) {
        if count > 0 {
            let counts = self.translator.books.entry(Stage::Kernel, Kind::Loss);
            counts.seen += count;
            *counts.dropped.entry(DropReason::Malformed).or_default() += count;
        }
    }

    /// Visits waiting directories and says whether there were any.
    fn visit(&mut self, budget: usize) -> bool {
        let mut found = Vec::new();
        let visited = self.watcher.run(budget, &mut found);
        let at = if found.is_empty() { BootNanos::default() } else { boot_now() };
        for one in found {
            self.translator.found(&mut self.watcher, one, at);
        }
        visited > 0
    }

    /// Sets the timer for what has to be done though no record comes: at once, or when a half of a rename has waited enough.
    fn set_timer(&self) {
        let wait = if !self.translator.pending.is_empty() || self.watcher.has_work() {
            Duration::from_nanos(1)
        } else if self.translator.waits_for_halves() {
            translate::HALF_WAITS
        } else if self.walk_due {
            WALK_REST.saturating_sub(self.walked.elapsed()).max(Duration::from_nanos(1))
        } else {
            Duration::ZERO
        };
        let value = Timespec::try_from(wait).unwrap_or(Timespec { tv_sec: 1, tv_nsec: 0 });
        let spec = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value: value };
        if let Err(error) = rustix::time::timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &spec) {
            tracing::warn!(%error, "fanotify: timerfd_settime");
        }
    }
}

impl Source for FanotifySource {
    fn name(&self) -> &'static str {
        "fanotify"
    }

    fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        vec![self.watcher.group(), self.timer.as_fd()]
    }

    fn drain(&mut self, limit: usize, sink: &mut dyn FnMut(Sighting)) -> Result<usize, SourceError> {
        let mut taken = 0;
        let mut visited = false;
        while taken < limit {
            if let Some(sighting) = self.translator.pending.pop_front() {
                self.translator.books.entry(Stage::Kernel, sighting.kind()).passed += 1;
                sink(sighting);
                taken += 1;
                continue;
            }
            if self.read()? {
                continue;
            }
            self.translator.settle(&mut self.watcher);
            if self.walk_due && self.walked.elapsed() >= WALK_REST {
                (self.walk_due, self.walked) = (false, Instant::now());
                self.watcher.walk_all();
            }
            if !visited && self.watcher.has_work() {
                visited = self.visit(VISITS);
                continue;
            }
            self.translator.flush_halves(&mut self.watcher, boot_now());
            if self.translator.pending.is_empty() {
                break;
            }
        }
        self.set_timer();
        Ok(taken)
    }

    fn books(&mut self) -> Books {
        let mut books = self.translator.books.clone();
        for sighting in &self.translator.pending {
            books.entry(Stage::Kernel, sighting.kind()).held += 1;
        }
        books
    }
}

/// A group with these features, tried with the mask they need.
fn group(features: Features) -> io::Result<OwnedFd> {
    let mut flags = libc::FAN_CLASS_NOTIF | libc::FAN_CLOEXEC | libc::FAN_NONBLOCK;
    flags |= libc::FAN_REPORT_DFID_NAME | libc::FAN_REPORT_FID;
    if features.rename {
        flags |= libc::FAN_REPORT_TARGET_FID;
    }
    if features.pidfd {
        flags |= libc::FAN_REPORT_PIDFD;
    }
    sys::init(flags)
}
