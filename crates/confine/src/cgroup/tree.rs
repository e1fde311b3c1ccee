//! A directory of cgroups as a whole: ending all members, removing all directories.
//!
//! A worker may have made cgroups below its own, so both go to the bottom; both are bounded in directories, depth and
//! time.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open, pidfd_send_signal};

use super::home::ROOT;
use super::limits::write;

const MAX_DIRECTORIES: usize = 4096;
const MAX_DEPTH: usize = 16;
/// Between two looks. A killed process needs about as long to leave its cgroup.
const PAUSE: Duration = Duration::from_millis(5);

/// `root` and all directories below it, the deepest first.
fn directories(root: &Path) -> Vec<PathBuf> {
    let mut found = vec![(root.to_owned(), 0)];
    let mut next = 0;
    while let Some((path, depth)) = found.get(next).cloned() {
        next += 1;
        if depth == MAX_DEPTH {
            continue;
        }
        let entries = fs::read_dir(path).into_iter().flatten().flatten();
        let below = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        let room = MAX_DIRECTORIES - found.len();
        found.extend(below.take(room).map(|entry| (entry.path(), depth + 1)));
    }
    found.into_iter().rev().map(|(path, _)| path).collect()
}

/// The members of one cgroup; none when it is gone. A member outside this pid namespace shows as 0 and is left out.
pub(super) fn members(dir: &Path) -> Vec<Pid> {
    let text = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
    text.lines().filter_map(|line| Pid::from_raw(line.parse().ok()?)).collect()
}

/// Ends every process in the cgroups `roots` and below, which may be one worker's in different hierarchies.
///
/// # Errors
/// `TimedOut` when some were still there at the deadline.
pub(super) fn kill(roots: &[PathBuf], deadline: Instant) -> io::Result<()> {
    loop {
        let all: Vec<PathBuf> = roots.iter().flat_map(|root| directories(root)).collect();
        if all.iter().all(|dir| members(dir).is_empty()) {
            return Ok(());
        }
        // cgroup.kill is Linux 5.14, and takes forks along that happen at the same time.
        let by_kernel = roots.iter().filter(|root| write(&root.join("cgroup.kill"), "1").is_ok()).count();
        if by_kernel < roots.len() {
            kill_frozen(&all);
        }
        if Instant::now() >= deadline {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "some processes are still there"));
        }
        thread::sleep(PAUSE);
    }
}

/// Freezes, so that none can fork while they are killed one by one; then thaws, because v1 lets nobody die frozen.
fn kill_frozen(dirs: &[PathBuf]) {
    set_frozen(dirs, true);
    for dir in dirs {
        members(dir)
            .into_iter()
            .filter(|member| member.as_raw_pid().unsigned_abs() != std::process::id())
            .for_each(|member| kill_member(dir, member));
    }
    set_frozen(dirs, false);
}

/// Best effort: where neither file is, killing goes on without.
fn set_frozen(dirs: &[PathBuf], frozen: bool) {
    let (v1, v2) = if frozen { ("FROZEN", "1") } else { ("THAWED", "0") };
    for dir in dirs {
        drop(write(&dir.join("freezer.state"), v1).or_else(|_| write(&dir.join("cgroup.freeze"), v2)));
    }
}

/// The number may belong to another process by now. The descriptor names one process for good, and whoever is a member
/// after it was opened is the one it names, or one that came to this cgroup since.
fn kill_member(dir: &Path, member: Pid) {
    // Gone meanwhile, or not ours to kill: whether all ended is what the caller looks at.
    let _sent = match pidfd_open(member, PidfdFlags::empty()) {
        Ok(process) if members(dir).contains(&member) => pidfd_send_signal(process, Signal::KILL),
        // Linux before 5.3.
        Err(Errno::NOSYS) => kill_process(member, Signal::KILL),
        _ => Ok(()),
    };
}

/// Removes `root` with all below it, and the directories above it that are empty then, up to `watchfire`; says how many
/// there were, without those above.
///
/// # Errors
/// What the kernel said at the deadline; `ResourceBusy` when a cgroup has members.
pub(super) fn remove(root: &Path, deadline: Instant) -> io::Result<usize> {
    let mut removed = 0;
    for dir in directories(root) {
        loop {
            match fs::remove_dir(&dir) {
                Ok(()) => removed += 1,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) if error.kind() == io::ErrorKind::ResourceBusy && Instant::now() < deadline => {
                    thread::sleep(PAUSE);
                    continue;
                }
                Err(error) => return Err(error),
            }
            break;
        }
    }
    for above in root.ancestors().skip(1).take(2) {
        // Busy when others are below it, other agents' among them.
        if fs::remove_dir(above).is_err() || above.ends_with(ROOT) {
            break;
        }
    }
    Ok(removed)
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command, Stdio};

    use watchfire_host::OwnCgroups;

    use super::super::Controller;
    use super::super::home::hand_down;
    use super::*;

    /// A shell that forks without end; what it starts lives for a moment.
    const FORKS: &str = "while :; do sleep 0.05 & done";

    struct Herd {
        dirs: Vec<PathBuf>,
        shell: Child,
    }

    /// Lets `FORKS` run in cgroups of its own in these hierarchies, and in one of pids that lets it have 40 processes.
    fn herd(name: &str, tops: &[&Path]) -> Herd {
        let own = OwnCgroups::read("/proc");
        let pids = own.v1.get("pids").or(own.v2.as_ref()).expect("this host counts processes").top.clone();
        let mut tops: Vec<PathBuf> = tops.iter().map(|top| (*top).to_owned()).chain([pids.clone()]).collect();
        // On a v2 host it is the same one.
        tops.dedup();
        let name = format!("{ROOT}/test-{name}-{}/w", std::process::id());
        let dirs: Vec<PathBuf> = tops.iter().map(|top| top.join(&name)).collect();
        dirs.iter().for_each(|dir| fs::create_dir_all(dir).unwrap());
        if !own.v1.contains_key("pids") {
            let above = [pids.clone(), pids.join(ROOT), dirs[0].parent().unwrap().to_owned()];
            above.iter().for_each(|dir| hand_down(dir, Controller::Pids).unwrap());
        }
        write(&pids.join(&name).join("pids.max"), "40").unwrap();
        // It waits for a line until it is where it must not leave from.
        let mut shell = Command::new("sh")
            .args(["-c", &format!("read go; {FORKS}")])
            .stdin(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let tgid = shell.id().to_string();
        dirs.iter().for_each(|dir| write(&dir.join("cgroup.procs"), &tgid).unwrap());
        drop(shell.stdin.take());
        while members(&dirs[0]).len() < 10 {
            assert!(shell.try_wait().unwrap().is_none(), "the shell ended");
            thread::sleep(PAUSE);
        }
        Herd { dirs, shell }
    }

    fn within(seconds: u64) -> Instant {
        Instant::now() + Duration::from_secs(seconds)
    }

    fn end(mut herd: Herd) {
        assert!(!herd.shell.wait().unwrap().success());
        for dir in &herd.dirs {
            assert_eq!(members(dir), []);
            remove(dir, within(10)).unwrap();
            assert!(!dir.exists() && !dir.parent().unwrap().exists());
        }
    }

    #[test]
    fn a_herd_that_forks_all_the_time_is_ended_under_the_freezer_of_v1() {
        let own = OwnCgroups::read("/proc");
        let Some(freezer) = own.v1.get("freezer") else {
            eprintln!("skipped: no v1 freezer is mounted");
            return;
        };
        let herd = herd("freezer", &[&freezer.top]);
        kill(&herd.dirs, within(30)).unwrap();
        end(herd);
    }

    #[test]
    fn a_herd_is_ended_under_the_freezer_of_v2_without_its_kill_file() {
        let own = OwnCgroups::read("/proc");
        let Some(v2) = own.v2 else {
            eprintln!("skipped: no unified hierarchy is mounted");
            return;
        };
        let herd = herd("freeze", &[&v2.top]);
        let deadline = within(30);
        while !members(&herd.dirs[0]).is_empty() {
            kill_frozen(&herd.dirs[..1]);
            assert!(Instant::now() < deadline, "still there: {:?}", members(&herd.dirs[0]));
        }
        end(herd);
    }

    #[test]
    fn directories_come_deepest_first_and_a_name_that_is_gone_is_no_error() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("a/b/c")).unwrap();
        let found = directories(dir.path());
        assert_eq!(found.first(), Some(&dir.path().join("a/b/c")));
        assert_eq!((found.len(), found.last()), (4, Some(&dir.path().to_owned())));
        assert_eq!(members(Path::new("/nonexistent")), []);
        assert_eq!(remove(&dir.path().join("none/such"), Instant::now()).unwrap(), 0);
    }

    #[test]
    fn a_cgroup_with_members_is_busy_until_the_deadline() {
        let own = OwnCgroups::read("/proc");
        let place = own.v2.as_ref().or(own.v1.get("pids")).expect("this host has cgroups");
        let herd = herd("busy", &[&place.top]);
        let error = remove(&herd.dirs[0], Instant::now() + Duration::from_millis(50)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ResourceBusy);
        kill(&herd.dirs, within(30)).unwrap();
        end(herd);
    }
}
