//! From a cgroup's number, as the kernel's hooks give it, to the container behind it.
//!
//! The number is the inode of a directory in the cgroup file system, so a miss is answered by walking that tree and keeping
//! what was seen. The walk is bounded in directories and depth, and no two walks start within [`REST`] of each other: a
//! host that makes cgroups faster than that costs the agent one walk a second and gets `None` for some.

use std::collections::HashMap;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirEntryExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use watchfire_event::ContainerId;

use crate::container::container_of_path;
use crate::mounts::{self, CgroupMount};
use crate::reading;

/// Cgroups kept; at about 150 bytes each, 1.2 MB at most.
const MAX_KNOWN: usize = 8192;
/// Directories looked at in one walk.
const MAX_VISITED: usize = 16_384;
/// How deep a walk goes; the kernel's own scopes seldom pass 10.
const MAX_DEPTH: usize = 24;
/// Least time between two walks.
const REST: Duration = Duration::from_secs(1);
/// How long a number that was not found is not looked for again.
const ABSENT_FOR: Duration = Duration::from_secs(10);
const MAX_MOUNTINFO: usize = 4 * 1024 * 1024;

/// Which hierarchy a cgroup number belongs to: each counts its inodes from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CgroupId {
    /// Of the unified hierarchy (`bpf_get_current_cgroup_id`).
    V2(u64),
    /// Of the v1 hierarchy of the memory controller.
    V1Memory(u64),
}

/// Resolves cgroup numbers.
#[derive(Debug)]
pub struct Cgroups {
    v2: Hierarchy,
    v1_memory: Hierarchy,
}

impl Cgroups {
    /// A resolver for the hierarchies that the procfs at `proc_root` lists as mounted in `self/mountinfo`.
    pub fn new(proc_root: impl AsRef<Path>) -> Self {
        let mountinfo =
            reading::file(&proc_root.as_ref().join("self/mountinfo"), MAX_MOUNTINFO).unwrap_or_default();
        let mounts = mounts::cgroup_mounts(&mountinfo);
        Cgroups { v2: Hierarchy::new(mounts.v2), v1_memory: Hierarchy::new(mounts.v1_memory) }
    }

    /// Whether numbers in [`watchfire_event::Process::cgroup`] are those of the v1 memory hierarchy: so it is where one is
    /// mounted, because container runtimes then put their cgroups there.
    pub fn prefers_v1(&self) -> bool {
        self.v1_memory.mount.is_some()
    }

    /// The container of a process by its [`watchfire_event::Process::cgroup`].
    pub fn container(&mut self, cgroup: u64) -> Option<ContainerId> {
        self.container_of(if self.prefers_v1() { CgroupId::V1Memory(cgroup) } else { CgroupId::V2(cgroup) })
    }

    /// The container of a cgroup; `None` on the host itself, and for a cgroup that is gone or was not found in bounds.
    pub fn container_of(&mut self, id: CgroupId) -> Option<ContainerId> {
        let (hierarchy, inode) = match id {
            CgroupId::V2(inode) => (&mut self.v2, inode),
            CgroupId::V1Memory(inode) => (&mut self.v1_memory, inode),
        };
        hierarchy.find(inode).and_then(|known| known.container.clone())
    }

    /// The path of a cgroup below its hierarchy's mount, without the leading slash.
    pub fn path_of(&mut self, id: CgroupId) -> Option<PathBuf> {
        let (hierarchy, inode) = match id {
            CgroupId::V2(inode) => (&mut self.v2, inode),
            CgroupId::V1Memory(inode) => (&mut self.v1_memory, inode),
        };
        hierarchy.find(inode).map(|known| known.path.clone())
    }
}

#[derive(Debug)]
struct Known {
    path: PathBuf,
    container: Option<ContainerId>,
}

#[derive(Debug)]
struct Hierarchy {
    mount: Option<CgroupMount>,
    known: HashMap<u64, Known>,
    absent: HashMap<u64, Instant>,
    walked: Option<Instant>,
}

impl Hierarchy {
    fn new(mount: Option<CgroupMount>) -> Self {
        Hierarchy { mount, known: HashMap::new(), absent: HashMap::new(), walked: None }
    }

    fn find(&mut self, inode: u64) -> Option<&Known> {
        if inode == 0 || self.mount.is_none() {
            return None;
        }
        if !self.known.contains_key(&inode) && self.may_walk(inode) {
            self.walk();
            if !self.known.contains_key(&inode) {
                self.remember_absent(inode);
            }
        }
        self.known.get(&inode)
    }

    fn may_walk(&self, inode: u64) -> bool {
        let rested = self.walked.is_none_or(|at| at.elapsed() >= REST);
        rested && self.absent.get(&inode).is_none_or(|since| since.elapsed() >= ABSENT_FOR)
    }

    fn remember_absent(&mut self, inode: u64) {
        if self.absent.len() >= MAX_KNOWN {
            self.absent.retain(|_, since| since.elapsed() < ABSENT_FOR);
        }
        if self.absent.len() < MAX_KNOWN {
            self.absent.insert(inode, Instant::now());
        }
    }

    /// Reads the tree afresh, level by level, so that a bound cuts the deepest first.
    fn walk(&mut self) {
        let Some(mount) = &self.mount else { return };
        self.walked = Some(Instant::now());
        self.known.clear();
        let mut level = vec![PathBuf::new()];
        let mut visited = 0;
        if let Ok(root) = fs::metadata(&mount.at) {
            let container = container_of_path(&mount.root);
            self.known.insert(root.ino(), Known { path: PathBuf::new(), container });
        }
        for _ in 0..MAX_DEPTH {
            let mut next = Vec::new();
            for parent in level {
                for (inode, path) in children(&mount.at, &parent) {
                    visited += 1;
                    if visited > MAX_VISITED || self.known.len() >= MAX_KNOWN {
                        return;
                    }
                    let whole = [mount.root.as_slice(), b"/", path.as_os_str().as_bytes()].concat();
                    self.known
                        .insert(inode, Known { path: path.clone(), container: container_of_path(&whole) });
                    next.push(path);
                }
            }
            level = next;
        }
    }
}

fn children(mount: &Path, parent: &Path) -> impl Iterator<Item = (u64, PathBuf)> {
    let entries = fs::read_dir(mount.join(parent)).into_iter().flatten().flatten();
    let directories = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    directories.map(move |entry| (entry.ino(), parent.join(entry.file_name())))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    fn made_up() -> (tempfile::TempDir, Cgroups) {
        let root = tempfile::tempdir().unwrap();
        let mount = root.path().join("cg");
        fs::create_dir_all(mount.join(format!("system.slice/docker-{ID}.scope"))).unwrap();
        fs::create_dir_all(root.path().join("self")).unwrap();
        let line = format!("41 31 0:38 / {} rw - cgroup2 cgroup2 rw\n", mount.display());
        fs::write(root.path().join("self/mountinfo"), line).unwrap();
        let cgroups = Cgroups::new(root.path());
        (root, cgroups)
    }

    #[test]
    fn a_number_leads_to_its_container() {
        let (root, mut cgroups) = made_up();
        let slice = root.path().join("cg/system.slice");
        let scope = fs::metadata(slice.join(format!("docker-{ID}.scope"))).unwrap().ino();
        assert_eq!(cgroups.container(scope), Some(ContainerId(ID.to_owned())));
        let slice = fs::metadata(slice).unwrap().ino();
        assert_eq!(cgroups.container(slice), None);
        assert_eq!(cgroups.path_of(CgroupId::V2(slice)), Some("system.slice".into()));
        assert_eq!(cgroups.container_of(CgroupId::V1Memory(scope)), None, "the hierarchies are kept apart");
    }

    #[test]
    fn misses_do_not_make_it_walk_again_at_once() {
        let (root, mut cgroups) = made_up();
        assert_eq!(cgroups.container(u64::MAX), None);
        let first = cgroups.v2.walked;
        assert!(first.is_some());
        let late = root.path().join("cg/docker").join(ID);
        fs::create_dir_all(&late).unwrap();
        let inode = fs::metadata(&late).unwrap().ino();
        for number in 1_000_000..1_010_000 {
            assert_eq!(cgroups.container(number), None);
        }
        assert_eq!(cgroups.container(inode), None, "still resting");
        assert_eq!(cgroups.v2.walked, first);
        std::thread::sleep(REST);
        assert_eq!(cgroups.container(u64::MAX), None, "known to be absent");
        assert_eq!(cgroups.v2.walked, first);
        assert_eq!(cgroups.container(inode), Some(ContainerId(ID.to_owned())));
        assert!(cgroups.v2.absent.len() <= MAX_KNOWN);
    }

    #[test]
    fn a_walk_is_bounded_in_depth_and_ends() {
        let (root, mut cgroups) = made_up();
        let mut deep = root.path().join("cg");
        for level in 0..MAX_DEPTH + 3 {
            deep.push(level.to_string());
        }
        fs::create_dir_all(&deep).unwrap();
        assert_eq!(cgroups.path_of(CgroupId::V2(fs::metadata(&deep).unwrap().ino())), None);
    }

    #[test]
    fn the_cgroups_of_this_machine_are_found() {
        let mut cgroups = Cgroups::new("/proc");
        let own = crate::ProcReader::new("/proc").read_process(std::process::id()).unwrap();
        let id = if cgroups.prefers_v1() { CgroupId::V1Memory(own.cgroup) } else { CgroupId::V2(own.cgroup) };
        let path = cgroups.path_of(id).expect("the cgroup this test runs in");
        let listed = fs::read_to_string("/proc/self/cgroup").unwrap();
        assert!(
            listed.lines().any(|line| line.ends_with(&format!(":/{}", path.display()))),
            "{path:?} in {listed}"
        );
    }
}
