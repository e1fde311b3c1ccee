//! Which cgroups this process is in, and where their directories are.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::mounts::{self, CgroupMount};
use crate::{processes, reading};

const MAX_CGROUP: usize = 64 * 1024;
const MAX_MOUNTINFO: usize = 4 * 1024 * 1024;

/// One hierarchy as this process sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnCgroup {
    /// The highest directory that can be seen: the root of the hierarchy, or of the part a container was given.
    pub top: PathBuf,
    /// The directory of the cgroup this process is in; `top` when it lies outside what is mounted.
    pub own: PathBuf,
}

/// The cgroups of this process. A hybrid host has both kinds.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct OwnCgroups {
    /// In the unified hierarchy.
    pub v2: Option<OwnCgroup>,
    /// In the v1 hierarchies, by controller (`memory`) or name (`name=systemd`). Controllers that are mounted together
    /// have the same directories.
    pub v1: BTreeMap<String, OwnCgroup>,
}

impl OwnCgroups {
    /// Reads them from the procfs at `proc_root`; a hierarchy that is not mounted is left out.
    pub fn read(proc_root: impl AsRef<Path>) -> Self {
        let own = proc_root.as_ref().join("self");
        let read = |name: &str, limit| reading::file(&own.join(name), limit).unwrap_or_default();
        Self::parse(&read("cgroup", MAX_CGROUP), &read("mountinfo", MAX_MOUNTINFO))
    }

    fn parse(cgroup: &[u8], mountinfo: &[u8]) -> Self {
        let mut found = OwnCgroups::default();
        for (id, controllers, path) in processes::cgroup_lines(cgroup) {
            if id == b"0" && controllers.is_empty() {
                found.v2 = mounts::cgroup_mounts(mountinfo).v2.map(|mount| place(&mount, path));
                continue;
            }
            for controller in controllers.split(|byte| *byte == b',').take(32) {
                let Ok(name) = std::str::from_utf8(controller) else { continue };
                if let Some(mount) = mounts::cgroup_v1_mount(mountinfo, controller) {
                    found.v1.insert(name.to_owned(), place(&mount, path));
                }
            }
        }
        found
    }
}

fn place(mount: &CgroupMount, path: &[u8]) -> OwnCgroup {
    OwnCgroup { top: mount.at.clone(), own: mount.directory(path).unwrap_or_else(|| mount.at.clone()) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MOUNTS: &[u8] = b"35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
        36 31 0:33 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
        41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
    const OWN: &[u8] =
        b"5:memory:/system.slice/a.service\n4:cpu,cpuacct:/\n3:pids:/x\n0::/system.slice/a.service\n";

    #[test]
    fn a_hybrid_host_has_both_kinds_and_an_unmounted_hierarchy_is_left_out() {
        let own = OwnCgroups::parse(OWN, MOUNTS);
        let v2 = own.v2.unwrap();
        assert_eq!(v2.own, Path::new("/sys/fs/cgroup/unified/system.slice/a.service"));
        assert_eq!(v2.top, Path::new("/sys/fs/cgroup/unified"));
        assert_eq!(own.v1["memory"].own, Path::new("/sys/fs/cgroup/memory/system.slice/a.service"));
        assert_eq!(own.v1["cpuacct"].own, Path::new("/sys/fs/cgroup/cpu,cpuacct"));
        assert_eq!(own.v1.keys().collect::<Vec<_>>(), ["cpu", "cpuacct", "memory"]);
    }

    #[test]
    fn this_process_is_where_the_kernel_lists_it() {
        let own = OwnCgroups::read("/proc");
        let places = own.v1.values().chain(own.v2.as_ref());
        let tgid = std::process::id().to_string();
        for place in places {
            let members = std::fs::read_to_string(place.own.join("cgroup.procs")).unwrap();
            assert!(members.lines().any(|line| line == tgid), "{place:?}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic(
            cgroup in proptest::collection::vec(any::<u8>(), 0..200),
            mountinfo in proptest::collection::vec(any::<u8>(), 0..200),
        ) {
            let _seen = OwnCgroups::parse(&cgroup, MOUNTS);
            let _seen = OwnCgroups::parse(OWN, &mountinfo);
        }
    }
}
