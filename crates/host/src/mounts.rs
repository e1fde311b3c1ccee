//! `/proc/self/mountinfo`: what is mounted where, the cgroup hierarchies above all.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use crate::reading;

const MAX_FILE: usize = 4 * 1024 * 1024;
/// Most lines looked at; hosts with many containers have thousands of mounts.
const MAX_LINES: usize = 20_000;

/// A mounted file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Where it is mounted, as this process sees it.
    pub at: PathBuf,
    /// Its type: `ext4`, `tmpfs`, `fuse.sshfs`.
    pub fstype: Vec<u8>,
}

/// What is mounted in the mount namespace of this process, in the kernel's order (a later one may hide an earlier one);
/// nothing when the procfs at `proc_root` cannot be read, and no more than the first 20,000.
pub fn mounts(proc_root: impl AsRef<Path>) -> Vec<Mount> {
    let mountinfo = reading::file(&proc_root.as_ref().join("self/mountinfo"), MAX_FILE).unwrap_or_default();
    let lines = mountinfo.split(|byte| *byte == b'\n').take(MAX_LINES);
    lines
        .filter_map(parse_line)
        .map(|(fstype, _, mount)| Mount { at: mount.at, fstype: fstype.to_vec() })
        .collect()
}

/// A cgroup hierarchy in the file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CgroupMount {
    /// Where it is mounted.
    pub(crate) at: PathBuf,
    /// The part of the hierarchy that is mounted there: `/`, unless this is seen from inside a container.
    pub(crate) root: Vec<u8>,
}

impl CgroupMount {
    /// The directory of the cgroup `path`, as `/proc/PID/cgroup` spells it; `None` when it lies outside this mount.
    pub(crate) fn directory(&self, path: &[u8]) -> Option<PathBuf> {
        let root = self.root.strip_suffix(b"/").unwrap_or(&self.root);
        let below = path.strip_prefix(root)?;
        let below = below.strip_prefix(b"/").unwrap_or(below);
        let climbs = below.split(|byte| *byte == b'/').any(|part| part == b"..");
        (!climbs).then(|| self.at.join(OsString::from_vec(below.to_vec())))
    }
}

/// The two hierarchies that name containers.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct CgroupMounts {
    /// The unified hierarchy.
    pub(crate) v2: Option<CgroupMount>,
    /// The v1 hierarchy of the memory controller.
    pub(crate) v1_memory: Option<CgroupMount>,
}

/// Finds the cgroup mounts; the first of each kind counts, and one of the whole hierarchy goes before a part of it.
pub(crate) fn cgroup_mounts(mountinfo: &[u8]) -> CgroupMounts {
    let mut mounts = CgroupMounts::default();
    for line in mountinfo.split(|byte| *byte == b'\n').take(MAX_LINES) {
        let Some((fstype, options, mount)) = parse_line(line) else { continue };
        let slot = match fstype {
            b"cgroup2" => &mut mounts.v2,
            b"cgroup" if options.split(|byte| *byte == b',').any(|option| option == b"memory") => {
                &mut mounts.v1_memory
            }
            _ => continue,
        };
        if slot.as_ref().is_none_or(|known| known.root != b"/" && mount.root == b"/") {
            *slot = Some(mount);
        }
    }
    mounts
}

/// The first mount of the v1 hierarchy that has this controller, or this name (`name=systemd`).
pub(crate) fn cgroup_v1_mount(mountinfo: &[u8], controller: &[u8]) -> Option<CgroupMount> {
    let lines = mountinfo.split(|byte| *byte == b'\n').take(MAX_LINES);
    lines.filter_map(parse_line).find_map(|(fstype, options, mount)| {
        let has_it = options.split(|byte| *byte == b',').any(|option| option == controller);
        (fstype == b"cgroup" && has_it).then_some(mount)
    })
}

/// `ID PARENT MAJOR:MINOR ROOT MOUNTPOINT OPTIONS [TAG…] - FSTYPE SOURCE SUPEROPTIONS`
fn parse_line(line: &[u8]) -> Option<(&[u8], &[u8], CgroupMount)> {
    let mut fields = line.split(|byte| *byte == b' ');
    let root = unescape(fields.nth(3)?);
    let at = PathBuf::from(OsString::from_vec(unescape(fields.next()?)));
    fields.by_ref().find(|field| *field == b"-")?;
    let fstype = fields.next()?;
    let options = fields.nth(1)?;
    Some((fstype, options, CgroupMount { at, root }))
}

/// Undoes the kernel's `\ooo` for blank, tab, newline and backslash.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(field.len());
    let mut at = 0;
    while at < field.len() {
        let octal = field.get(at + 1..at + 4).filter(|_| field[at] == b'\\');
        let value = octal.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        plain.push(value.unwrap_or(field[at]));
        at += if value.is_some() { 4 } else { 1 };
    }
    plain
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_mounts_of_this_machine_hold_the_root_and_proc() {
        let found = mounts("/proc");
        let at = |path: &str| found.iter().any(|mount| mount.at == Path::new(path));
        assert!(at("/") && at("/proc"), "{found:?}");
        assert!(mounts("/nonexistent").is_empty());
    }

    const HYBRID: &[u8] = b"22 27 0:21 / /proc rw,relatime - proc proc rw\n\
        35 31 0:32 / /sys/fs/cgroup/memory rw,relatime shared:9 - cgroup cgroup rw,memory\n\
        40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,name=systemd\n\
        41 31 0:38 / /sys/fs/cgroup/uni\\040fied rw,relatime - cgroup2 cgroup2 rw\n";

    #[test]
    fn both_hierarchies_are_found_and_names_unescaped() {
        let mounts = cgroup_mounts(HYBRID);
        assert_eq!(mounts.v2.unwrap().at, PathBuf::from("/sys/fs/cgroup/uni fied"));
        assert_eq!(mounts.v1_memory.unwrap().at, PathBuf::from("/sys/fs/cgroup/memory"));
    }

    #[test]
    fn a_path_never_leaves_its_mount() {
        let whole = CgroupMount { at: "/sys/fs/cgroup".into(), root: b"/".to_vec() };
        assert_eq!(whole.directory(b"/a/b"), Some("/sys/fs/cgroup/a/b".into()));
        assert_eq!(whole.directory(b"/../../etc"), None);
        let part = CgroupMount { at: "/sys/fs/cgroup".into(), root: b"/docker/x".to_vec() };
        assert_eq!(part.directory(b"/docker/x/y"), Some("/sys/fs/cgroup/y".into()));
        assert_eq!(part.directory(b"/other"), None);
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _seen = cgroup_mounts(&bytes);
        }

        #[test]
        fn no_mutation_of_a_real_file_panics(at in 0usize..400, byte in any::<u8>()) {
            let mut bytes = HYBRID.to_vec();
            let len = bytes.len();
            bytes[at % len] = byte;
            let _seen = cgroup_mounts(&bytes);
        }
    }
}
