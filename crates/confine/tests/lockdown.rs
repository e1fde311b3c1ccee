//! Landlock, and seccomp before exec, seen from inside. Needs root; Landlock from Linux 6.12 for all of it.

#![allow(clippy::unwrap_used, missing_docs, reason = "all of this file is a test")]

mod child;

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use child::{Running, as_role, sh, status_line};
use watchfire_confine::{Confinement, FileAccess, Lockdown, Measure, Need, Outcome, Syscalls, lock_down};

const ROLE: &str = "WATCHFIRE_TEST_LOCKDOWN_ROLE";
const DIR: &str = "WATCHFIRE_TEST_LOCKDOWN_DIR";

fn two_directories() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    ["in", "out"].iter().for_each(|name| fs::create_dir(dir.path().join(name)).unwrap());
    fs::write(dir.path().join("out/old"), "old").unwrap();
    dir
}

fn execs() -> Syscalls {
    Syscalls { needs: [Need::Exec].into(), ..Syscalls::default() }
}

#[test]
#[ignore = "started by the other tests"]
fn role() {
    assert_eq!(std::env::var(ROLE).as_deref(), Ok("files"), "started by the other tests");
    let dir = PathBuf::from(std::env::var_os(DIR).unwrap());
    let parent = rustix::process::getppid().unwrap();
    let exe_of_parent = || fs::read_link(format!("/proc/{parent}/exe"));
    assert!(exe_of_parent().is_ok());
    let files = FileAccess { write: vec![dir.join("in"), "/nonexistent".into()], ..FileAccess::default() };
    let applied = lock_down(&Lockdown { syscalls: None, files: Some(files) });
    println!("\n{applied:?}");
    if let Some(Outcome::NotHeld(why)) = applied.get(Measure::Files) {
        println!("\nskipped: {why}");
        return;
    }
    let refused = |result: std::io::Result<()>| {
        let error = result.expect_err("it is refused");
        assert!(matches!(error.kind(), ErrorKind::PermissionDenied | ErrorKind::CrossesDevices), "{error}");
    };
    fs::write(dir.join("in/new"), "new").unwrap();
    fs::rename(dir.join("in/new"), dir.join("in/newer")).unwrap();
    assert_eq!(fs::read(dir.join("out/old")).unwrap(), b"old");
    refused(fs::write(dir.join("out/new"), "new"));
    refused(fs::write(dir.join("out/old"), "new"));
    refused(fs::remove_file(dir.join("out/old")));
    refused(fs::create_dir(dir.join("out/below")));
    refused(fs::rename(dir.join("in/newer"), dir.join("out/newer")));
    refused(std::os::unix::fs::symlink("x", dir.join("out/link")));
    refused(Command::new("true").status().map(drop));
    // Threads that are started later are under it as well.
    let later = dir.join("out/later");
    std::thread::spawn(move || refused(fs::write(later, "new"))).join().unwrap();
    if applied.get(Measure::Files) == Some(&Outcome::Held) {
        assert_eq!(rustix::process::test_kill_process(parent), Err(rustix::io::Errno::PERM));
    }
    // What FileAccess warns of: other processes cannot be looked into.
    refused(exe_of_parent().map(drop));
}

#[test]
fn under_landlock_a_worker_writes_where_it_may_and_executes_nothing() {
    let dir = two_directories();
    let output = as_role(ROLE, "files").env(DIR, dir.path()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("skipped: ") || dir.path().join("in/newer").exists(), "{text}");
}

/// As the kernel tells it itself: the version of `landlock_create_ruleset(NULL, 0, LANDLOCK_CREATE_RULESET_VERSION)`.
fn has_landlock() -> bool {
    // SAFETY: with this flag the kernel reads no memory.
    unsafe { libc::syscall(444, std::ptr::null::<u8>(), 0, 1) >= 1 }
}

/// Runs a script as an external plug-in under this lockdown; says whether it succeeded, and what it printed.
fn plug_in(script: &str, lockdown: Lockdown) -> (bool, String) {
    let confinement = Confinement { lockdown: Some(lockdown), ..Confinement::default() };
    let mut command = sh(script);
    let confined =
        confinement.spawn(command.stdout(Stdio::piped()).stderr(Stdio::piped()), None, "plug-in").unwrap();
    let short = confined.applied.shortfalls();
    // Files in part: an older kernel's Landlock has fewer rights.
    let short: Vec<_> = short.filter(|(_, outcome)| !matches!(outcome, Outcome::InPart(_))).collect();
    assert_eq!(short, []);
    let output = confined.child.wait_with_output().unwrap();
    let told = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&told).into_owned())
}

#[test]
fn a_plug_in_is_under_its_filter_before_its_first_instruction() {
    let lockdown = Lockdown { syscalls: Some(execs()), files: None };
    let (done, status) = plug_in("cat /proc/self/status", lockdown.clone());
    assert!(done);
    assert_eq!(
        (status_line(&status, "Seccomp"), status_line(&status, "NoNewPrivs")),
        ("2".into(), "1".into())
    );
    // A namespace of its own hurts no one where this is not refused.
    assert!(sh("unshare --uts true").status().unwrap().success());
    let (done, told) = plug_in("unshare --uts true", lockdown);
    assert!(!done && told.contains("not permitted"), "{told}");
}

#[test]
fn a_plug_in_is_under_its_ruleset_before_its_first_instruction() {
    let dir = two_directories();
    if !has_landlock() {
        eprintln!("skipped: this kernel has no Landlock");
        return;
    }
    let (inside, outside) = (dir.path().join("in/file"), dir.path().join("out/file"));
    let files = FileAccess {
        write: vec![dir.path().join("in"), "/dev/null".into()],
        execute: vec!["/bin".into(), "/usr".into(), "/lib".into(), "/lib64".into()],
        ..FileAccess::default()
    };
    let lockdown = Lockdown { syscalls: Some(execs()), files: Some(files) };
    let script = format!("cat /dev/null > {}; echo x > {}", inside.display(), outside.display());
    let (done, told) = plug_in(&script, lockdown);
    assert!(!done && told.contains("ermission denied"), "{told}");
    assert!(inside.exists() && !outside.exists());
}

#[test]
fn a_program_that_its_own_ruleset_forbids_is_an_error_and_not_a_worker() {
    let lockdown = Lockdown { syscalls: None, files: Some(FileAccess::default()) };
    let confinement = Confinement { lockdown: Some(lockdown), ..Confinement::default() };
    match confinement.spawn(&mut Command::new("true"), None, "plug-in") {
        Err(error) => assert_eq!(error.kind(), ErrorKind::PermissionDenied),
        // A kernel without Landlock runs it, and says so.
        Ok(confined) => {
            let _running = Running(confined.child);
            assert!(matches!(confined.applied.get(Measure::Files), Some(Outcome::NotHeld(_))));
        }
    }
    assert!(Path::new("/bin/true").exists() || Path::new("/usr/bin/true").exists());
}
