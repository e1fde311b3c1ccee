//! Children under each measure that needs no cgroup, as /proc shows them. Needs root.

#![allow(clippy::unwrap_used, missing_docs, reason = "all of this file is a test")]

mod child;

use std::process::{Command, Stdio};

use child::{Running, as_role, has_ended, sh, sleeper, status_line, told, until};
use watchfire_confine::{
    Applied, CapabilitySet, CgroupHome, CgroupLimits, Confinement, IoPriority, Measure, Outcome,
    SchedulingPolicy, User,
};

const ROLE: &str = "WATCHFIRE_TEST_PROCESS_ROLE";
const NOBODY: User = User { uid: 65534, gid: 65534 };
const CAPABILITY_SETS: [&str; 5] = ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"];

/// All off.
fn nothing() -> Confinement {
    Confinement {
        own_group: false,
        die_with_parent: false,
        no_new_privileges: false,
        no_core_dumps: false,
        oom_score_adj: None,
        ..Confinement::default()
    }
}

fn assert_all_hold(applied: &Applied) {
    assert_eq!(applied.shortfalls().collect::<Vec<_>>(), []);
}

fn capabilities(status: &str) -> [u64; 5] {
    CAPABILITY_SETS.map(|set| u64::from_str_radix(&status_line(status, set), 16).unwrap())
}

#[test]
fn without_a_measure_nothing_is_changed() {
    let (child, applied) = sleeper(&nothing());
    assert_eq!(applied, Applied::default());
    let own = std::fs::read_to_string("/proc/self/status").unwrap();
    assert_eq!(capabilities(&child.proc("status")), capabilities(&own));
    assert_eq!(child.status("NoNewPrivs"), status_line(&own, "NoNewPrivs"));
    assert_eq!(child.proc("oom_score_adj"), child::proc_file(std::process::id(), "oom_score_adj"));
    assert_eq!(child.stat(5), own_group(), "group");
}

fn own_group() -> i64 {
    let stat = child::proc_file(std::process::id(), "stat");
    stat.rsplit_once(')').unwrap().1.split_whitespace().nth(2).unwrap().parse().unwrap()
}

#[test]
fn the_default_holds_whole() {
    let (child, applied) = sleeper(&Confinement::default());
    assert_all_hold(&applied);
    assert_eq!(applied.iter().count(), 5);
    assert_eq!(child.stat(5), i64::from(child.tgid()), "its own group");
    assert_eq!(child.proc("oom_score_adj").trim(), "1000");
    assert_eq!(child.status("NoNewPrivs"), "1");
    let limits = child.proc("limits");
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    let bytes: Vec<u64> = core.split_whitespace().filter_map(|field| field.parse().ok()).collect();
    assert!(bytes == [1, 1] || bytes == [0, 0], "{core}");
}

#[test]
fn scheduling_and_io_are_as_asked() {
    let cases = [
        (SchedulingPolicy::Batch, 3, IoPriority::Idle, 3 << 13),
        (SchedulingPolicy::Idle, 5, IoPriority::Lowest, (2 << 13) | 7),
    ];
    for (policy, number, io_priority, value) in cases {
        let confinement = Confinement {
            nice: Some(7),
            policy: Some(policy),
            io_priority: Some(io_priority),
            ..Confinement::default()
        };
        let (child, applied) = sleeper(&confinement);
        assert_all_hold(&applied);
        assert_eq!((child.stat(19), child.stat(41)), (7, number));
        // SAFETY: integers only.
        let found = unsafe { libc::syscall(libc::SYS_ioprio_get, 1, child.tgid()) };
        assert_eq!(found, value);
    }
}

#[test]
fn limits_are_hard_and_never_raise_one() {
    let confinement =
        Confinement { open_files: Some(64), address_space: Some(1 << 30), ..Confinement::default() };
    let (child, applied) = sleeper(&confinement);
    assert_all_hold(&applied);
    let limits = child.proc("limits");
    let of = |name: &str| {
        let line = limits.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().filter_map(|field| field.parse().ok()).collect::<Vec<u64>>()
    };
    assert_eq!((of("Max open files"), of("Max address space")), (vec![64, 64], vec![1 << 30, 1 << 30]));
    let more = Confinement { open_files: Some(u64::MAX - 1), ..Confinement::default() };
    let (child, applied) = sleeper(&more);
    assert_all_hold(&applied);
    let own = child::proc_file(std::process::id(), "limits");
    let hard = |text: &str| {
        let line = text.lines().find(|line| line.starts_with("Max open files")).unwrap();
        line.split_whitespace().nth(4).unwrap().to_owned()
    };
    assert_eq!(hard(&child.proc("limits")), hard(&own));
}

/// The status of a program that a shell executes under this confinement: what survives exec twice.
fn status_after_exec(confinement: &Confinement) -> String {
    let mut command = sh("cat /proc/self/status; exit 0");
    command.stdout(Stdio::piped());
    let confined = confinement.spawn(&mut command, None, "status").unwrap();
    assert_all_hold(&confined.applied);
    String::from_utf8(confined.child.wait_with_output().unwrap().stdout).unwrap()
}

#[test]
fn root_without_capabilities_gets_none_back_by_exec() {
    let confinement = Confinement { capabilities: Some(CapabilitySet::empty()), ..nothing() };
    let status = status_after_exec(&confinement);
    assert_eq!(capabilities(&status), [0; 5]);
    assert_eq!(status_line(&status, "Uid"), "0\t0\t0\t0");
}

#[test]
fn the_capabilities_kept_survive_exec_and_no_others() {
    let keep = CapabilitySet::NET_ADMIN | CapabilitySet::DAC_READ_SEARCH;
    let confinement = Confinement { capabilities: Some(keep), ..nothing() };
    assert_eq!(capabilities(&status_after_exec(&confinement)), [keep.bits(); 5]);
}

#[test]
fn a_capability_the_agent_lacks_is_not_given() {
    let own = std::fs::read_to_string("/proc/self/status").unwrap();
    let [_, permitted, _, bounds, _] = capabilities(&own);
    let confinement = Confinement { capabilities: Some(CapabilitySet::all()), ..nothing() };
    let found = capabilities(&status_after_exec(&confinement));
    assert_eq!(found, [permitted, permitted, permitted, bounds, permitted]);
}

#[test]
fn another_user_keeps_what_it_is_given_and_has_no_groups() {
    let keep = CapabilitySet::SYS_PTRACE;
    let confinement = Confinement { capabilities: Some(keep), user: Some(NOBODY), ..Confinement::default() };
    let status = status_after_exec(&confinement);
    assert_eq!(capabilities(&status), [keep.bits(); 5]);
    for ids in ["Uid", "Gid"] {
        assert_eq!(status_line(&status, ids), "65534\t65534\t65534\t65534");
    }
    assert_eq!(status_line(&status, "Groups"), "");
    let without = Confinement { capabilities: None, ..confinement };
    let [_, permitted, effective, _, ambient] = capabilities(&status_after_exec(&without));
    assert_eq!([permitted, effective, ambient], [0; 3]);
}

#[test]
#[ignore = "started by the other tests"]
fn role() {
    match std::env::var(ROLE).expect("started by the other tests").as_str() {
        "parent" => parent(),
        "unprivileged" => unprivileged(),
        other => panic!("no role {other}"),
    }
}

/// Starts children and ends without a thought for them.
fn parent() {
    let bound = Confinement::default();
    let keep = Some(CapabilitySet::SYS_PTRACE);
    let other_user = Confinement { user: Some(NOBODY), capabilities: keep, ..Confinement::default() };
    for (name, confinement) in [("bound", bound), ("other-user", other_user), ("free", nothing())] {
        let mut command = Command::new("sleep");
        command.arg("1000").stdout(Stdio::null()).stderr(Stdio::null());
        let confined = confinement.spawn(&mut command, None, name).unwrap();
        assert_all_hold(&confined.applied);
        println!("\n{name} {}", confined.child.id());
    }
}

#[test]
fn children_end_with_their_parent_also_as_another_user() {
    let output = as_role(ROLE, "parent").output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let output = String::from_utf8_lossy(&output.stdout).into_owned();
    let tgid = |name: &str| told(&output, name).parse::<u32>().unwrap();
    let free = tgid("free");
    assert!(!has_ended(free), "without the measure it lives on");
    assert!(Command::new("kill").arg(free.to_string()).status().unwrap().success());
    until("the bound ones end", || has_ended(tgid("bound")) && has_ended(tgid("other-user")));
}

/// An agent that may do next to nothing.
fn unprivileged() {
    let confinement = Confinement {
        nice: Some(-5),
        capabilities: Some(CapabilitySet::empty()),
        user: Some(User { uid: 1, gid: 1 }),
        cgroup: CgroupLimits { cpu_percent: Some(50), memory: Some(64 << 20), ..CgroupLimits::default() },
        ..Confinement::default()
    };
    let home = CgroupHome::find("/proc", &child::agent());
    let mut command = Command::new("sleep");
    command.arg("1000").stdout(Stdio::null()).stderr(Stdio::null());
    let confined = confinement.spawn(&mut command, Some(&home), "worker").unwrap();
    let _running = Running(confined.child);
    for (measure, outcome) in confined.applied.iter() {
        println!("\n{measure:?} {outcome}");
    }
    assert!(confined.cgroup.is_none());
    assert!(matches!(confined.applied.get(Measure::Nice), Some(Outcome::NotHeld(_))));
    println!("\nheld {}", confined.applied.iter().filter(|(_, outcome)| **outcome == Outcome::Held).count());
}

#[test]
fn where_nothing_is_allowed_the_worker_runs_and_the_report_says_what_does_not_hold() {
    let powerless =
        Confinement { user: Some(NOBODY), capabilities: Some(CapabilitySet::empty()), ..nothing() };
    // The test's own directory may be closed to others.
    let dir = tempfile::tempdir().unwrap();
    let copy = dir.path().join("agent");
    // Not copied by this process: another test's fork might hold the copy open for writing, and then it cannot be executed.
    assert!(Command::new("cp").arg(std::env::current_exe().unwrap()).arg(&copy).status().unwrap().success());
    std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let mut command = Command::new(&copy);
    command.args(["--exact", "role", "--ignored", "--nocapture"]).env(ROLE, "unprivileged").current_dir("/");
    let confined =
        powerless.spawn(command.stdout(Stdio::piped()).stderr(Stdio::piped()), None, "agent").unwrap();
    let output = confined.child.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    for measure in
        ["Cgroup", "CpuQuota", "MemoryLimit", "Nice", "User", "CapabilityBounds", "RootWithoutPowers"]
    {
        assert!(told(&text, measure).starts_with("does not hold: "), "{text}");
    }
    for measure in ["ProcessGroup", "OomScore", "CoreDumps", "Capabilities", "ParentDeath", "NoNewPrivileges"]
    {
        assert_eq!(told(&text, measure), "holds", "{text}");
    }
}

#[test]
fn a_program_that_cannot_be_executed_is_an_error() {
    let error = Confinement::default().spawn(&mut Command::new("/nonexistent"), None, "none").unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::NotFound);
}
