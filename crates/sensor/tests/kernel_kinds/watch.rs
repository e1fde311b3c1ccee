//! A loaded source with what it has seen, and the report.

use std::fs;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use watchfire_event::{Books, Sighting, with_causes};
use watchfire_sensor::Source;
use watchfire_sensor::ebpf::{self, EbpfSettings, EbpfSource, Object};

/// How long an event may take before it counts as missing; an emulated guest is slow.
const PATIENCE: Duration = Duration::from_secs(15);
/// The worker's pace: soon again after something came, else at its tick.
const SOON: Timespec = Timespec { tv_sec: 0, tv_nsec: 20_000_000 };
const TICK: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };

/// Counts and prints.
#[derive(Default)]
pub(crate) struct Report {
    passed: u32,
    failed: u32,
    skipped: u32,
}

impl Report {
    pub(crate) fn case(&mut self, name: &str, arrived: Result<(), String>) {
        match arrived {
            Ok(()) => {
                self.passed += 1;
                println!("kind {name} arrived");
            }
            Err(reason) => {
                self.failed += 1;
                println!("kind {name} missing ({reason})");
            }
        }
    }

    pub(crate) fn check(&mut self, name: &str, result: Result<String, String>) {
        match result {
            Ok(note) => {
                self.passed += 1;
                println!("check {name} ok ({note})");
            }
            Err(reason) => {
                self.failed += 1;
                println!("check {name} failed ({reason})");
            }
        }
    }

    pub(crate) fn skipped(&mut self, name: &str, reason: &str) {
        self.skipped += 1;
        println!("kind {name} skipped ({reason})");
    }

    pub(crate) fn end(&self) -> ExitCode {
        println!("{} passed, {} failed, {} skipped", self.passed, self.failed, self.skipped);
        if self.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}

/// A loaded object and everything it has told so far.
pub(crate) struct Watch {
    pub(crate) source: EbpfSource,
    pub(crate) seen: Vec<Sighting>,
    busy: bool,
}

impl Watch {
    /// Loads `object` and prints whether it did.
    pub(crate) fn load(settings: &EbpfSettings, object: Object, report: &mut Report) -> Option<Self> {
        let before = Instant::now();
        match ebpf::load(settings, object) {
            Ok(source) => {
                report.passed += 1;
                println!("object {} loaded in {} ms", object.name(), before.elapsed().as_millis());
                source
                    .blind_spots()
                    .iter()
                    .for_each(|blind| println!("object {} does not see {blind}", object.name()));
                Some(Watch { source, seen: Vec::new(), busy: false })
            }
            Err(error) => {
                report.failed += 1;
                println!("object {} failed ({})", object.name(), with_causes(&error));
                None
            }
        }
    }

    /// Takes what is there; how much it was.
    pub(crate) fn drain(&mut self) -> usize {
        let Watch { source, seen, .. } = self;
        source.drain(usize::MAX, &mut |sighting| seen.push(sighting)).expect("drain")
    }

    /// Waits as the worker does: until the descriptor is readable, a tick at most.
    pub(crate) fn wait_tick(&mut self) {
        let descriptors = self.source.descriptors();
        let mut polled: Vec<_> = descriptors.iter().map(|fd| PollFd::new(fd, PollFlags::IN)).collect();
        // Interrupted by a child's end: as good as a tick.
        poll(&mut polled, Some(if self.busy { &SOON } else { &TICK })).ok();
        self.busy = self.drain() > 0;
    }

    /// Waits for a sighting that `pick` takes; what it makes of it.
    pub(crate) fn wait<T>(&mut self, mut pick: impl FnMut(&Sighting) -> Option<T>) -> Option<T> {
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(found) = self.seen.iter().find_map(&mut pick) {
                return Some(found);
            }
            if Instant::now() > end {
                return None;
            }
            self.wait_tick();
        }
    }

    /// Counts sightings once nothing more is under way.
    pub(crate) fn count(&mut self, matches: impl Fn(&Sighting) -> bool) -> usize {
        std::thread::sleep(Duration::from_millis(150));
        self.drain();
        self.seen.iter().filter(|sighting| matches(sighting)).count()
    }

    pub(crate) fn books(&mut self) -> Books {
        self.source.books()
    }

    /// Drops the source and looks whether its programs are gone with it: without a descriptor and without a pin a
    /// program cannot live.
    pub(crate) fn unload(self, report: &mut Report) {
        let object = self.source.object();
        drop(self);
        let left: Vec<_> = open_files()
            .into_iter()
            .filter(|file| file.contains("bpf") || file.contains("perf_event"))
            .collect();
        let name = format!("{object} unloaded");
        report.check(
            &name,
            if left.is_empty() { Ok("no descriptor left".into()) } else { Err(left.join(" ")) },
        );
    }
}

fn open_files() -> Vec<String> {
    let entries = fs::read_dir("/proc/self/fd").expect("own descriptors");
    let links = entries.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
    links.map(|link| link.to_string_lossy().into_owned()).collect()
}

/// `Ok` when equal, else both.
pub(crate) fn same<T: PartialEq + std::fmt::Debug>(what: &str, found: T, expected: T) -> Result<(), String> {
    if found == expected { Ok(()) } else { Err(format!("{what}: {found:?}, expected {expected:?}")) }
}
