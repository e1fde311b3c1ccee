//! Where the cgroups of one agent's workers are made.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use watchfire_host::{OwnCgroup, OwnCgroups};

use super::limits::{CgroupLimits, write};
use super::live::Cgroup;
use super::{Controller, Place, Version, tree};
use crate::measure::{Applied, Measure, Outcome};

/// The directory above those of all agents of a host.
pub(super) const ROOT: &str = "watchfire";
/// Where an agent moves itself when it stands in the cgroup whose controllers it wants to hand on: v2 lets no cgroup have
/// both members and children under a controller.
const MASTER: &str = "master";
/// Longest name of a directory made here.
const MAX_NAME: usize = 128;
/// Another agent may remove the empty `watchfire` between the making of it and of what is below it.
const MAKE_TRIES: u32 = 5;

/// Where the cgroups of one agent's workers are made, in each hierarchy there is.
#[derive(Debug, Clone)]
pub struct CgroupHome {
    agent: String,
    bases: Vec<Base>,
}

#[derive(Debug, Clone)]
struct Base {
    place: Place,
    /// The top of the hierarchy: an earlier life of this agent may have worked there.
    top: PathBuf,
}

/// What was left of earlier lives.
#[derive(Debug, Default)]
pub struct Leftovers {
    /// Directories that were removed.
    pub removed: usize,
    /// Those that could not be, and why.
    pub left: Vec<(PathBuf, io::Error)>,
}

/// Which of the directories above the agent its workers' cgroups go below.
#[derive(Debug, Clone, Copy)]
enum Stand {
    Own,
    Parent,
    Top,
}

impl CgroupHome {
    /// Finds out, from the procfs at `proc_root`, which hierarchies there are and whether the agent's own cgroup was
    /// delegated to it. Nothing is made yet. In names, all but ASCII letters, digits, `-` and `_` becomes `_`.
    pub fn find(proc_root: impl AsRef<Path>, agent: &str) -> Self {
        let own = OwnCgroups::read(proc_root);
        let stand = stand(&own);
        let mut bases = Vec::new();
        let mut rest = Controller::ALL.to_vec();
        if let Some(v2) = &own.v2 {
            let path = base_path(v2, stand);
            let listed = std::fs::read_to_string(path.join("cgroup.controllers")).unwrap_or_default();
            let here =
                |controller: &Controller| listed.split_whitespace().any(|name| name == controller.name());
            let controllers: Vec<_> = rest.iter().copied().filter(here).collect();
            // The unified hierarchy counts CPU time and freezes without a controller.
            rest.retain(|one| {
                !controllers.contains(one) && !matches!(one, Controller::Cpuacct | Controller::Freezer)
            });
            bases
                .push(Base { place: Place { version: Version::V2, controllers, path }, top: v2.top.clone() });
        }
        for controller in rest {
            let Some(v1) = own.v1.get(controller.name()) else { continue };
            let path = base_path(v1, stand);
            match bases.iter_mut().find(|base| base.place.path == path) {
                // Mounted together.
                Some(base) => base.place.controllers.push(controller),
                None => {
                    let place = Place { version: Version::V1, controllers: vec![controller], path };
                    bases.push(Base { place, top: v1.top.clone() });
                }
            }
        }
        CgroupHome { agent: safe_name(agent), bases }
    }

    /// Makes the cgroup of `worker` and writes its limits; what could not be had is noted. A directory of this name that
    /// no one is in is made anew, so that its counters begin at zero; one with members is used as it is.
    pub(crate) fn create(&self, worker: &str, limits: &CgroupLimits, applied: &mut Applied) -> Cgroup {
        let wanted = limits.controllers();
        let mut places = Vec::new();
        let mut failed = Vec::new();
        for base in &self.bases {
            let leaf = base.place.path.join(ROOT).join(&self.agent).join(safe_name(worker));
            match self.make(base, &leaf, &wanted) {
                Ok(place) => places.push(place),
                Err(error) => failed.push(format!("{}: {error}", leaf.display())),
            }
        }
        applied.note(
            Measure::Cgroup,
            match (places.is_empty(), failed.is_empty()) {
                (false, true) => Outcome::Held,
                (false, false) => Outcome::InPart(failed.join("; ")),
                (true, false) => Outcome::NotHeld(failed.join("; ")),
                (true, true) => Outcome::NotHeld("no cgroup hierarchy is mounted".to_owned()),
            },
        );
        limits.write(&places, applied);
        Cgroup { places, limits: *limits }
    }

    /// Ends every process that is still in a cgroup of this agent and removes the cgroups. For the agent's start, before
    /// it has workers; takes no longer than `within`, for all of it.
    pub fn remove_leftovers(&self, within: Duration) -> Leftovers {
        let deadline = Instant::now() + within;
        let mut leftovers = Leftovers::default();
        let mut roots: Vec<PathBuf> = Vec::new();
        for base in &self.bases {
            for above in [&base.place.path, &base.top] {
                let root = above.join(ROOT).join(&self.agent);
                if root.is_dir() && !roots.contains(&root) {
                    roots.push(root);
                }
            }
        }
        // All at once: a freezer in one hierarchy holds the members of the others.
        if let Err(error) = tree::kill(&roots, deadline) {
            leftovers.left.push((PathBuf::from(ROOT).join(&self.agent), error));
        }
        for root in roots {
            match tree::remove(&root, deadline) {
                Ok(removed) => leftovers.removed += removed,
                Err(error) => leftovers.left.push((root, error)),
            }
        }
        leftovers
    }

    /// Makes the directory, with the controllers that the limits need handed down to it.
    fn make(&self, base: &Base, leaf: &Path, wanted: &[Controller]) -> io::Result<Place> {
        drop(std::fs::remove_dir(leaf));
        let above = [
            base.place.path.clone(),
            base.place.path.join(ROOT),
            base.place.path.join(ROOT).join(&self.agent),
        ];
        let mut tries = 0;
        loop {
            let made = std::fs::create_dir_all(leaf);
            tries += 1;
            match made {
                Ok(()) => break,
                Err(error) if error.kind() == io::ErrorKind::NotFound && tries < MAKE_TRIES => {}
                Err(error) => return Err(error),
            }
        }
        let mut controllers = base.place.controllers.clone();
        if base.place.version == Version::V2 {
            controllers.retain(|controller| {
                wanted.contains(controller) && above.iter().all(|dir| hand_down(dir, *controller).is_ok())
            });
        }
        Ok(Place { version: base.place.version, controllers, path: leaf.to_owned() })
    }
}

/// Switches a controller on for the children of `dir`.
///
/// A cgroup with members of its own is refused for that, unless it is the root. The kernel refuses `memory` there too, but
/// takes `cpu` and `pids`, and from then on lets no process into any of the children (cgroup-v2.rst, "Threads").
pub(super) fn hand_down(dir: &Path, controller: Controller) -> io::Result<()> {
    // Only the root has no type.
    if dir.join("cgroup.type").exists() {
        make_room(dir)?;
    }
    write(&dir.join("cgroup.subtree_control"), &format!("+{}", controller.name()))
}

/// Leaves `dir` without members: when this process is the only one there, it moves to a leaf below.
fn make_room(dir: &Path) -> io::Result<()> {
    let members = std::fs::read_to_string(dir.join("cgroup.procs"))?;
    if members.is_empty() {
        return Ok(());
    }
    if members.trim() != std::process::id().to_string() {
        let message = format!("{} has other members than the agent", dir.display());
        return Err(io::Error::new(io::ErrorKind::ResourceBusy, message));
    }
    let leaf = dir.join(MASTER);
    std::fs::create_dir_all(&leaf)?;
    write(&leaf.join("cgroup.procs"), "0")
}

/// Where to stand: what systemd delegates it marks by an attribute on the directory (its "Control Group APIs and
/// Delegation"), on the unit's own cgroup, or on the one above when the unit has a `DelegateSubgroup=`.
fn stand(own: &OwnCgroups) -> Stand {
    let marked = [own.v2.as_ref(), own.v1.get("name=systemd")];
    for place in marked.into_iter().flatten() {
        if place.own == place.top {
            continue;
        }
        if is_delegated(&place.own) {
            return Stand::Own;
        }
        if place.own.parent().is_some_and(|parent| parent != place.top && is_delegated(parent)) {
            return Stand::Parent;
        }
    }
    Stand::Top
}

fn is_delegated(dir: &Path) -> bool {
    ["user.delegate", "trusted.delegate"].iter().any(|name| {
        let mut value = [0u8; 8];
        matches!(rustix::fs::getxattr(dir, *name, &mut value), Ok(1)) && value[0] == b'1'
    })
}

fn base_path(place: &OwnCgroup, stand: Stand) -> PathBuf {
    let path = match stand {
        Stand::Own => Some(place.own.as_path()),
        Stand::Parent => place.own.parent(),
        Stand::Top => None,
    };
    path.filter(|path| path.starts_with(&place.top)).unwrap_or(&place.top).to_owned()
}

/// A name for a directory that can be none of the kernel's own files (which have dots) and leads nowhere else.
fn safe_name(name: &str) -> String {
    let safe = |c: char| if c.is_ascii_alphanumeric() || c == '-' || c == '_' { c } else { '_' };
    let name: String = name.chars().take(MAX_NAME).map(safe).collect();
    // "tasks" is the one file of v1 without a dot; systemd reserves leading underscores for escapes, harmlessly.
    if name.is_empty() || name == "tasks" { format!("_{name}") } else { name }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn place(own: &str) -> OwnCgroup {
        OwnCgroup { top: "/sys/fs/cgroup".into(), own: Path::new("/sys/fs/cgroup").join(own) }
    }

    #[test]
    fn a_base_never_lies_above_the_top() {
        assert_eq!(base_path(&place("a/b"), Stand::Own), Path::new("/sys/fs/cgroup/a/b"));
        assert_eq!(base_path(&place("a/b"), Stand::Parent), Path::new("/sys/fs/cgroup/a"));
        assert_eq!(base_path(&place("a/b"), Stand::Top), Path::new("/sys/fs/cgroup"));
        let at_the_top = OwnCgroup { own: "/sys/fs/cgroup".into(), ..place("") };
        assert_eq!(base_path(&at_the_top, Stand::Parent), Path::new("/sys/fs/cgroup"));
    }

    proptest! {
        #[test]
        fn any_name_is_one_component_below(name in ".*") {
            let safe = safe_name(&name);
            let mut parts = Path::new(&safe).components();
            prop_assert!(matches!(parts.next(), Some(std::path::Component::Normal(_))));
            prop_assert!(parts.next().is_none() && !safe.contains('.') && safe.len() <= MAX_NAME + 1);
        }
    }
}
