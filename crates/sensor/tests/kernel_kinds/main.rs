//! Loads every eBPF object into the running kernel, makes each kind of event happen, and says which arrived.
//!
//! A program of its own (`harness = false`), so that the same file runs under `cargo test` and, linked statically, as
//! part of an initramfs under other kernels. Needs root. All behaviour is made by the program itself: it re-executes
//! itself in a role (`roles.rs`) and calls the kernel directly. Prints one line a case and ends with a count; exits with
//! 1 when something is missing. `WATCHFIRE_STORM=50000` sets the size of the storm.

mod books;
mod child;
mod module;
mod network;
mod privilege;
mod process;
mod refusals;
mod roles;
mod udp;
mod watch;

use std::process::ExitCode;

use watch::{Report, Watch};
use watchfire_sensor::ebpf::{EbpfSettings, ModuleHooks, OBJECTS, Object};

fn main() -> ExitCode {
    let args: Vec<_> = std::env::args_os().collect();
    if let Some(code) = roles::play(&args) {
        return code;
    }
    // `cargo test` asks every test program for its list.
    if args.iter().any(|arg| arg == "--list") {
        println!("kernel_kinds: test");
        return ExitCode::SUCCESS;
    }
    let mut report = Report::default();
    if !rustix::process::geteuid().is_root() {
        eprintln!("kernel_kinds: skipped: needs root to load eBPF");
        report.skipped("everything", "needs root to load eBPF");
        return report.end();
    }
    refusals::run(&mut report);
    // As with other test programs, a word picks the objects whose names hold it.
    let picked = |object: &&Object| {
        args.get(1).and_then(|arg| arg.to_str()).is_none_or(|word| object.name().contains(word))
    };
    for object in OBJECTS.iter().filter(picked) {
        match object {
            Object::Module => modules(&mut report),
            other => run(*other, ModuleHooks::Auto, &mut report),
        }
    }
    report.end()
}

/// Both ways to see modules. On a kernel without them only attempts exist, and only every system call shows those.
fn modules(report: &mut Report) {
    if std::path::Path::new("/proc/modules").exists() {
        run(Object::Module, ModuleHooks::Auto, report);
    }
    run(Object::Module, ModuleHooks::EverySyscall, report);
}

/// Loads one object and runs its cases.
fn run(object: Object, module_hooks: ModuleHooks, report: &mut Report) {
    let settings = EbpfSettings { module_hooks, ..EbpfSettings::default() };
    let Some(mut watch) = Watch::load(&settings, object, report) else { return };
    match object {
        Object::Process => {
            process::run(&mut watch, report);
            books::latency(&mut watch, report);
        }
        Object::Network => network::run(&mut watch, report),
        Object::Udp => udp::run(&mut watch, report),
        Object::Privilege => privilege::run(&mut watch, report),
        Object::Module => module::run(&mut watch, report),
    }
    books::balance(&mut watch, report);
    watch.unload(report);
    if object == Object::Process {
        books::storm(report);
        books::stalled_reader(report);
    }
}
