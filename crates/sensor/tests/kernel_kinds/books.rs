//! The books: they close at rest, in a storm, and when nobody reads.

use std::collections::HashSet;
use std::ffi::CString;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use watchfire_event::{Body, Books, Kind, What};
use watchfire_sensor::ebpf::{EbpfSettings, Object};

use crate::child::{Image, fork, mark, spawn, wait};
use crate::watch::{Report, Watch, same};

/// No fault in the books of a source that is still attached.
pub(crate) fn balance(watch: &mut Watch, report: &mut Report) {
    let name = format!("books of {}", watch.source.object());
    let mut faults = Vec::new();
    for _ in 0..5 {
        faults.extend(own_faults(&watch.books()));
        watch.drain();
        std::thread::sleep(Duration::from_millis(60));
    }
    let books = watch.books();
    faults.extend(own_faults(&books));
    report.check(&name, if faults.is_empty() { Ok(totals(&books)) } else { Err(faults.join("; ")) });
}

/// Faults of the kernel's stage: the books of a source hold no other.
fn own_faults(books: &Books) -> Vec<String> {
    books.faults()
}

/// Each kind's seen = passed + dropped + held.
pub(crate) fn totals(books: &Books) -> String {
    let rows = books.rows().map(|row| {
        let counts = &row.counts;
        format!(
            "{} {}={}+{}+{}",
            row.kind.as_str(),
            counts.seen,
            counts.passed,
            counts.dropped_total(),
            counts.held
        )
    });
    rows.collect::<Vec<_>>().join(", ")
}

/// The smallest program that runs: one call, exit(0).
#[cfg(target_arch = "x86_64")]
fn tiny_program() -> Vec<u8> {
    // xor edi, edi; mov eax, 60; syscall
    let code = [0x31, 0xff, 0xb8, 60, 0, 0, 0, 0x0f, 0x05];
    const BASE: u64 = 0x40_0000;
    const HEADERS: u64 = 64 + 56;
    let size = HEADERS + code.len() as u64;
    let mut elf = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    for half in [2u16, 62] {
        elf.extend(half.to_le_bytes());
    }
    elf.extend(1u32.to_le_bytes());
    for word in [BASE + HEADERS, 64, 0] {
        elf.extend(word.to_le_bytes());
    }
    elf.extend(0u32.to_le_bytes());
    for half in [64u16, 56, 1, 64, 0, 0] {
        elf.extend(half.to_le_bytes());
    }
    for half in [1u32, 5] {
        elf.extend(half.to_le_bytes());
    }
    for word in [0, BASE, BASE, size, size, 0x1000] {
        elf.extend(word.to_le_bytes());
    }
    elf.extend(code);
    elf
}

/// `count` times fork and exec of a trivial program by two workers, each exec with its own number in argv.
#[cfg(target_arch = "x86_64")]
fn workers(count: u32, program: &CString, name: &str) -> [i32; 2] {
    [0, 1].map(|worker| {
        fork(|| {
            for number in (0..count).filter(|number| number % 2 == worker) {
                let marked = CString::new(format!("{name}:{number}:")).expect("no NUL");
                let argv =
                    [c"tiny".as_ptr(), marked.as_ptr(), c"some".as_ptr(), c"more".as_ptr(), std::ptr::null()];
                let environment = [std::ptr::null::<libc::c_char>()];
                // SAFETY: the child shares this memory until it has executed, and does nothing else in between; both
                // lists end with a null pointer and outlive the call.
                let pid = unsafe {
                    let mut pid = 0;
                    let failed = libc::posix_spawn(
                        &raw mut pid,
                        program.as_ptr(),
                        std::ptr::null(),
                        std::ptr::null(),
                        argv.as_ptr().cast(),
                        environment.as_ptr().cast(),
                    );
                    if failed == 0 { pid } else { -1 }
                };
                if pid < 0 {
                    return 1;
                }
                wait(pid);
            }
            0
        })
    })
}

#[cfg(target_arch = "x86_64")]
fn install_tiny() -> (std::path::PathBuf, CString) {
    let path = std::env::temp_dir().join(mark("tiny"));
    fs::write(&path, tiny_program()).expect("write the program");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("make it executable");
    let name = CString::new(path.as_os_str().as_bytes()).expect("no NUL");
    (path, name)
}

#[cfg(not(target_arch = "x86_64"))]
pub(crate) fn latency(_: &mut Watch, report: &mut Report) {
    report.skipped("latency", "its program is written for x86-64");
}

#[cfg(not(target_arch = "x86_64"))]
pub(crate) fn storm(report: &mut Report) {
    report.skipped("storm", "its program is written for x86-64");
}

#[cfg(not(target_arch = "x86_64"))]
pub(crate) fn stalled_reader(report: &mut Report) {
    report.skipped("stalled reader", "its program is written for x86-64");
}

/// How long after the kernel's own time an exec is decoded, for single execs some milliseconds apart.
#[cfg(target_arch = "x86_64")]
pub(crate) fn latency(watch: &mut Watch, report: &mut Report) {
    const ROUNDS: usize = 200;
    let (path, program) = install_tiny();
    let mut delays = Vec::new();
    for round in 0..ROUNDS {
        let name = mark(&format!("latency-{round}:"));
        let argv = [c"tiny".to_owned(), CString::new(name.as_str()).expect("no NUL")];
        watch.seen.clear();
        let pid = spawn(&Image::Path(&program), &argv, || {});
        let at = watch.wait(|sighting| match &sighting.what {
            What::Exec(process) if process.args().nth(1) == Some(name.as_bytes()) => Some(sighting.at),
            _ => None,
        });
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        let now =
            Duration::new(now.tv_sec.cast_unsigned(), u32::try_from(now.tv_nsec).expect("below a second"));
        delays.extend(at.map(|at| now.saturating_sub(Duration::from_nanos(at.0))));
        wait(pid);
        std::thread::sleep(Duration::from_millis((round as u64 * 7) % 40));
    }
    fs::remove_file(path).expect("remove the program");
    delays.sort();
    let all = same("execs", delays.len(), ROUNDS);
    let result = all.and_then(|()| {
        let (median, late) = (delays[ROUNDS / 2], delays[ROUNDS * 99 / 100]);
        same("p99 is below 300 ms", late < Duration::from_millis(300), true)?;
        Ok(format!("p50 {median:.1?}, p99 {late:.1?}"))
    });
    report.check("latency", result);
}

/// All execs of a storm arrive with their argv.
#[cfg(target_arch = "x86_64")]
pub(crate) fn storm(report: &mut Report) {
    let count: u32 = std::env::var("WATCHFIRE_STORM").ok().and_then(|text| text.parse().ok()).unwrap_or(5000);
    let Some(mut watch) = Watch::load(&EbpfSettings::default(), Object::Process, report) else { return };
    let (path, program) = install_tiny();
    let name = mark("storm");
    let start = Instant::now();
    let pids = workers(count, &program, &name);
    let mut numbers = HashSet::new();
    let (mut ended, mut wakes) = (0, 0);
    let mut statuses = Vec::new();
    while ended < 2 {
        wakes += 1;
        watch.wait_tick();
        take_numbers(&mut watch, &name, &mut numbers);
        for pid in pids {
            let mut status = 0;
            // SAFETY: `status` outlives the call.
            if unsafe { libc::waitpid(pid, &raw mut status, libc::WNOHANG) } == pid {
                ended += 1;
                statuses.push(status);
            }
        }
    }
    let took = start.elapsed();
    watch.drain();
    take_numbers(&mut watch, &name, &mut numbers);
    fs::remove_file(path).expect("remove the program");
    let books = watch.books();
    let faults = books.faults();
    let result = same("workers' ends", statuses, vec![0, 0])
        .and_then(|()| same("distinct execs", numbers.len(), count as usize))
        .and_then(|()| same("faults", faults, Vec::new()))
        .map(|()| {
            format!(
                "{count} of {count} in {} ms, {wakes} rounds of reading; {}",
                took.as_millis(),
                totals(&books)
            )
        });
    report.check("storm", result);
}

#[cfg(target_arch = "x86_64")]
fn take_numbers(watch: &mut Watch, name: &str, numbers: &mut HashSet<u32>) {
    for sighting in watch.seen.drain(..) {
        let What::Exec(process) = sighting.what else { continue };
        let Some(arg) = process.args().nth(1).and_then(|arg| arg.strip_prefix(name.as_bytes())) else {
            continue;
        };
        let number: Option<u32> =
            std::str::from_utf8(arg).ok().and_then(|text| text.trim_matches(':').parse().ok());
        numbers.extend(number);
    }
}

/// With a small ring and nobody reading, what was lost is counted to the last record, held records are counted where
/// they lie, and the loss is told as an event.
#[cfg(target_arch = "x86_64")]
pub(crate) fn stalled_reader(report: &mut Report) {
    const COUNT: u32 = 3000;
    let settings = EbpfSettings { process_ring: 64 << 10, ..EbpfSettings::default() };
    let Some(mut watch) = Watch::load(&settings, Object::Process, report) else { return };
    let (path, program) = install_tiny();
    let pids = workers(COUNT, &program, &mark("stalled"));
    pids.into_iter().for_each(|pid| assert_eq!(wait(pid), 0, "a worker"));
    fs::remove_file(path).expect("remove the program");
    std::thread::sleep(Duration::from_millis(1100));
    let stalled = watch.books();
    watch.drain();
    let drained = watch.books();
    let result = check_stalled(u64::from(COUNT), &stalled, &drained, &watch);
    report.check("stalled reader", result.map(|()| totals(&stalled)));
}

#[cfg(target_arch = "x86_64")]
fn check_stalled(count: u64, stalled: &Books, drained: &Books, watch: &Watch) -> Result<(), String> {
    let stage = watchfire_event::Stage::Kernel;
    same("faults while stalled", stalled.faults(), Vec::new())?;
    same("faults after", drained.faults(), Vec::new())?;
    let mut dropped = 0;
    for kind in [Kind::Exec, Kind::Fork, Kind::Exit] {
        let counts = stalled.get(stage, kind).ok_or("no row")?;
        same("at least our own were seen", counts.seen >= count, true)?;
        same("nothing was taken", counts.passed, 0)?;
        same("something is held", counts.held > 0, true)?;
        let after = drained.get(stage, kind).ok_or("no row")?;
        same("what was held is passed now", after.passed >= counts.held, true)?;
        dropped += counts.dropped_total();
    }
    same("some were dropped", dropped > 0, true)?;
    let told = watch.seen.iter().find_map(|sighting| match &sighting.what {
        What::Done(Body::Loss { source, count }) if source == "ring process" => Some(*count),
        _ => None,
    });
    same("the loss is told", told, Some(dropped))
}
