//! Workers in cgroups of their own, on whatever hierarchies this host has. Needs root and a host that lets cgroups be made.

#![allow(clippy::unwrap_used, missing_docs, reason = "all of this file is a test")]

mod child;

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use child::{PATIENCE, Running, agent, as_role, directories, home, sh, told, until};
use watchfire_confine::{CgroupHome, CgroupLimits, Confined, Confinement, Measure, Outcome};

const ROLE: &str = "WATCHFIRE_TEST_CGROUP_ROLE";
const SERVICE: &str = "WATCHFIRE_TEST_CGROUP_SERVICE";
const MIB: u64 = 1 << 20;

fn limited(cgroup: CgroupLimits) -> Confinement {
    Confinement { cgroup, ..Confinement::default() }
}

fn start(
    home: &CgroupHome,
    limits: CgroupLimits,
    command: &mut Command,
) -> (Running, watchfire_confine::Cgroup) {
    let Confined { child, cgroup, applied } = limited(limits).spawn(command, Some(home), "worker").unwrap();
    let child = Running(child);
    // A host may lack swap accounting; every other limit is asked for by a test that proves it.
    let short: Vec<_> = applied.shortfalls().filter(|(measure, _)| *measure != Measure::SwapLimit).collect();
    assert_eq!(short, []);
    assert_eq!(applied.get(Measure::Cgroup), Some(&Outcome::Held));
    (child, cgroup.unwrap())
}

#[test]
fn the_child_is_in_its_cgroup_from_its_first_instruction() {
    let agent = agent();
    let home = CgroupHome::find("/proc", &agent);
    let limits =
        CgroupLimits { cpu_percent: Some(50), cpu_weight: Some(20), memory: Some(64 * MIB), tasks: Some(10) };
    let mut command = sh("cat /proc/self/cgroup");
    let (child, cgroup) = start(&home, limits, command.stdout(Stdio::piped()));
    let mut child = child;
    let mut own = String::new();
    std::io::Read::read_to_string(child.0.stdout.as_mut().unwrap(), &mut own).unwrap();
    let inside = own.lines().filter(|line| line.ends_with(&format!("/watchfire/{agent}/worker"))).count();
    assert_eq!(inside, cgroup.paths().count(), "{own}");
    let text = |names: &[&str]| {
        let files = cgroup.paths().flat_map(|path| names.iter().map(move |name| path.join(name)));
        files.filter_map(|file| fs::read_to_string(file).ok()).collect::<String>()
    };
    assert!(["50000\n", "50000 100000\n"].contains(&text(&["cpu.max", "cpu.cfs_quota_us"]).as_str()));
    assert!(["20\n", "204\n"].contains(&text(&["cpu.weight", "cpu.shares"]).as_str()));
    assert_eq!(text(&["memory.max", "memory.limit_in_bytes"]), format!("{}\n", 64 * MIB));
    assert_eq!(text(&["pids.max"]), "10\n");
    child.0.wait().unwrap();
    cgroup.remove(PATIENCE).unwrap();
    assert_eq!(directories(&agent), [] as [std::path::PathBuf; 0]);
}

#[test]
fn a_spinner_gets_its_quota_and_no_more() {
    let limits = CgroupLimits { cpu_percent: Some(20), ..CgroupLimits::default() };
    let (mut child, cgroup) = start(&home(), limits, &mut sh("while :; do :; done"));
    let begun = Instant::now();
    let before = cgroup.usage();
    until("the quota bites for a while", || {
        begun.elapsed() > Duration::from_secs(2)
            && cgroup.usage().throttled.unwrap() > before.throttled.unwrap() + Duration::from_millis(100)
    });
    let used = cgroup.usage().cpu.unwrap() - before.cpu.unwrap();
    let share = used.as_secs_f64() / begun.elapsed().as_secs_f64();
    assert!(share < 0.6, "{share} of a core");
    assert!(!used.is_zero());
    cgroup.kill_all(PATIENCE).unwrap();
    assert_eq!(child.0.wait().unwrap().signal(), Some(9));
    cgroup.remove(PATIENCE).unwrap();
}

#[test]
fn a_memory_hog_is_ended_inside_its_cgroup_and_counted() {
    let limits = CgroupLimits { memory: Some(32 * MIB), ..CgroupLimits::default() };
    // Its buffer, filled from the source, is four times what it may have.
    let mut command = Command::new("dd");
    command.args(["if=/dev/zero", "of=/dev/null", "bs=128M", "count=1"]).stderr(Stdio::null());
    let (mut child, cgroup) = start(&home(), limits, &mut command);
    assert_eq!(child.0.wait().unwrap().signal(), Some(9));
    let usage = cgroup.usage();
    assert!(usage.oom_kills >= Some(1), "{usage:?}");
    assert!(usage.memory_peak.is_none_or(|peak| peak <= 32 * MIB), "{usage:?}");
    cgroup.remove(PATIENCE).unwrap();
}

#[test]
fn a_fork_bomb_stays_under_its_task_limit() {
    let limits = CgroupLimits { tasks: Some(6), ..CgroupLimits::default() };
    let mut command = sh("for i in 1 2 3 4 5 6 7 8 9 10; do sleep 1000 & done; wait");
    let (mut child, cgroup) = start(&home(), limits, command.stderr(Stdio::null()));
    let refused = || {
        cgroup.paths().any(|path| {
            fs::read_to_string(path.join("pids.events")).is_ok_and(|text| !text.contains("max 0"))
        })
    };
    until("a fork is refused", refused);
    assert!(cgroup.usage().tasks.is_some_and(|tasks| tasks <= 6), "{:?}", cgroup.usage());
    cgroup.kill_all(PATIENCE).unwrap();
    child.0.wait().unwrap();
    cgroup.remove(PATIENCE).unwrap();
}

#[test]
fn all_members_are_ended_also_those_that_left_the_group_and_made_cgroups_of_their_own() {
    let agent = agent();
    let home = CgroupHome::find("/proc", &agent);
    let limits = CgroupLimits { tasks: Some(50), ..CgroupLimits::default() };
    let (mut child, cgroup) = start(
        &home,
        limits,
        &mut sh("setsid sleep 1000 & (setsid sh -c 'sleep 1000 & wait' &); sleep 1000 & wait"),
    );
    let first = cgroup.paths().next().unwrap().to_owned();
    let members = |path: &Path| fs::read_to_string(path.join("cgroup.procs")).unwrap();
    until("all have begun", || members(&first).lines().count() >= 5);
    for path in cgroup.paths() {
        fs::create_dir(path.join("below")).unwrap();
    }
    let all = members(&first);
    // One that moves further down is still found.
    fs::write(first.join("below/cgroup.procs"), all.lines().last().unwrap()).unwrap();
    cgroup.kill_all(PATIENCE).unwrap();
    assert_eq!(child.0.wait().unwrap().signal(), Some(9));
    all.lines().for_each(|tgid| assert!(child::has_ended(tgid.parse().unwrap()), "{tgid}"));
    cgroup.remove(PATIENCE).unwrap();
    assert_eq!(directories(&agent), [] as [std::path::PathBuf; 0]);
}

#[test]
fn a_new_life_removes_what_the_last_one_left_and_nothing_of_others() {
    let agent = agent();
    let limits = CgroupLimits { tasks: Some(5), ..CgroupLimits::default() };
    let (mut left, _) = start(&CgroupHome::find("/proc", &agent), limits, Command::new("sleep").arg("1000"));
    let (mut others, other_cgroup) = start(&home(), limits, Command::new("sleep").arg("1000"));
    let there = directories(&agent).len();
    assert!(there > 0);
    let leftovers = CgroupHome::find("/proc", &agent).remove_leftovers(PATIENCE);
    assert!(leftovers.left.is_empty(), "{leftovers:?}");
    assert_eq!(leftovers.removed, 2 * there, "each worker's and the agent's above it");
    assert_eq!(left.0.wait().unwrap().signal(), Some(9));
    assert_eq!(directories(&agent), [] as [std::path::PathBuf; 0]);
    assert!(others.0.try_wait().unwrap().is_none());
    other_cgroup.kill_all(PATIENCE).unwrap();
    others.0.wait().unwrap();
    other_cgroup.remove(PATIENCE).unwrap();
    let again = CgroupHome::find("/proc", &agent).remove_leftovers(PATIENCE);
    assert_eq!((again.removed, again.left.len()), (0, 0));
}

#[test]
fn a_second_life_of_a_worker_begins_with_counters_at_zero() {
    let home = home();
    let limits = CgroupLimits { memory: Some(32 * MIB), ..CgroupLimits::default() };
    let mut hog = Command::new("dd");
    hog.args(["if=/dev/zero", "of=/dev/null", "bs=128M", "count=1"]).stderr(Stdio::null());
    let (mut first, _) = start(&home, limits, &mut hog);
    first.0.wait().unwrap();
    let (mut second, cgroup) = start(&home, limits, &mut Command::new("true"));
    second.0.wait().unwrap();
    assert_eq!(cgroup.usage().oom_kills, Some(0));
    cgroup.remove(PATIENCE).unwrap();
}

#[test]
fn a_program_that_cannot_be_executed_leaves_no_cgroup() {
    let agent = agent();
    let home = CgroupHome::find("/proc", &agent);
    Confinement::default().spawn(&mut Command::new("/nonexistent"), Some(&home), "none").unwrap_err();
    until("its cgroup goes", || {
        CgroupHome::find("/proc", &agent).remove_leftovers(PATIENCE).left.is_empty()
            && directories(&agent).is_empty()
    });
}

#[test]
#[ignore = "started by the other tests"]
fn role() {
    assert_eq!(std::env::var(ROLE).as_deref(), Ok("agent"), "started by the other tests");
    let service = std::env::var_os(SERVICE).unwrap();
    fs::write(Path::new(&service).join("cgroup.procs"), "0").unwrap();
    let home = CgroupHome::find("/proc", "delegated");
    // On a v2 host the role itself is in the way of this limit's controller, and has to move.
    let limits = CgroupLimits { tasks: Some(10), ..CgroupLimits::default() };
    let (mut child, cgroup) = start(&home, limits, sh("cat /proc/self/cgroup").stdout(Stdio::inherit()));
    child.0.wait().unwrap();
    println!("\npaths {:?}", cgroup.paths().collect::<Vec<_>>());
    cgroup.remove(PATIENCE).unwrap();
}

#[test]
fn where_a_cgroup_was_delegated_the_workers_are_below_it() {
    let Some(v2) = watchfire_host::OwnCgroups::read("/proc").v2 else {
        eprintln!("skipped: no unified hierarchy is mounted");
        return;
    };
    let agent = agent();
    let above = v2.top.join("watchfire").join(&agent);
    let service = above.join("service");
    fs::create_dir_all(&above).unwrap();
    // systemd hands its controllers down to a delegated cgroup; on a hybrid host there is none to hand down.
    for dir in [&v2.top, &v2.top.join("watchfire"), &above] {
        drop(fs::write(dir.join("cgroup.subtree_control"), "+pids"));
    }
    for (marked, stands_in) in [("service", "service"), ("service", "service/sub")] {
        let sub = above.join(stands_in);
        fs::create_dir_all(&sub).unwrap();
        // As systemd marks it.
        let flags = rustix::fs::XattrFlags::empty();
        rustix::fs::setxattr(above.join(marked), "trusted.delegate", b"1", flags).unwrap();
        let output = as_role(ROLE, "agent").env(SERVICE, &sub).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
        let expected = format!("0::/watchfire/{agent}/service/watchfire/delegated/worker");
        assert!(text.lines().any(|line| line == expected), "{text}");
        assert!(
            told(&text, "paths").contains(&service.join("watchfire/delegated/worker").display().to_string())
        );
        assert!(!service.join("watchfire").exists(), "removed with the worker");
        until("the role's cgroups empty", || {
            drop(fs::remove_dir(service.join("master")));
            drop(fs::remove_dir(&sub));
            !service.exists() || fs::remove_dir(&service).is_ok()
        });
    }
    fs::remove_dir(&above).unwrap();
    // Busy while other tests have theirs below it.
    drop(fs::remove_dir(v2.top.join("watchfire")));
}
