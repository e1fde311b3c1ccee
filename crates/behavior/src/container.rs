//! A cgroup named as container runtimes name theirs, so that what runs in it is taken for a container's process: the cheapest
//! true container there is. It lies under this program's own cgroup and is removed with the stage.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{BehaviorError, Stage};

/// The cgroup's folders, one in each hierarchy that agents look at; removed when dropped.
pub(crate) struct Container {
    folders: Vec<PathBuf>,
}

impl Container {
    /// Makes the cgroup.
    pub(crate) fn make(stage: &Stage) -> Result<Self, BehaviorError> {
        let mut folders = Vec::new();
        for folder in folders_of(stage.mark()) {
            match fs::create_dir(&folder) {
                Ok(()) => folders.push(folder),
                // A read-only or foreign hierarchy; another may do.
                Err(_) => continue,
            }
        }
        if folders.is_empty() {
            return Err(BehaviorError::Unavailable("no cgroup can be made here".to_owned()));
        }
        Ok(Self { folders })
    }

    /// `program` with its arguments, but started inside.
    pub(crate) fn inside(&self, stage: &Stage, program: &Command) -> Command {
        let entries =
            self.folders.iter().map(|folder| format!("echo $$ > {}/cgroup.procs; ", folder.display()));
        let script = entries.chain(["exec \"$@\"".to_owned()]).collect::<String>();
        let mut command = stage.command("sh");
        command.args([OsStr::new("-c"), OsStr::new(&script), OsStr::new("sh"), program.get_program()]);
        command.args(program.get_args());
        command.envs(program.get_envs().filter_map(|(name, value)| Some((name, value?))));
        command
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        self.folders.iter().for_each(|folder| drop(fs::remove_dir(folder)));
    }
}

/// Removes what a stage with this mark may have made; its processes are gone.
pub(crate) fn remove_of(mark: &str) {
    folders_of(mark).iter().for_each(|folder| drop(fs::remove_dir(folder)));
}

/// Where the cgroup of a stage would lie: below the own one, in the unified hierarchy and in that of the memory controller.
fn folders_of(mark: &str) -> Vec<PathBuf> {
    let digits: String = mark.bytes().map(|byte| format!("{byte:02x}")).collect();
    let name = format!("docker-{digits:0<64}.scope");
    let text = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let (mounts, own) = (text("/proc/self/mounts"), text("/proc/self/cgroup"));
    let wanted = mounts.lines().filter_map(|line| hierarchy(line, &own));
    wanted.map(|(root, below)| Path::new(root).join(below.trim_start_matches('/')).join(&name)).collect()
}

/// Mount point of a wanted hierarchy, and the own path in it.
fn hierarchy<'t>(mount: &'t str, own: &'t str) -> Option<(&'t str, &'t str)> {
    let mut fields = mount.split(' ').skip(1);
    let (root, kind, options) = (fields.next()?, fields.next()?, fields.next()?);
    let controller = match kind {
        "cgroup2" => "",
        "cgroup" if options.split(',').any(|option| option == "memory") => "memory",
        _ => return None,
    };
    let paths = own.lines().filter_map(|line| {
        let (_, rest) = line.split_once(':')?;
        rest.split_once(':')
    });
    let mut matching = paths.filter(|(controllers, _)| controllers.split(',').any(|one| one == controller));
    matching.next().map(|(_, path)| (root, path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hierarchies_are_found_by_their_mounts_and_the_own_path_in_them() {
        let own = "12:memory:/user\n3:cpu,cpuacct:/\n0::/user.slice/session-1.scope\n";
        let unified = "cgroup2 /sys/fs/cgroup/unified cgroup2 rw,relatime 0 0";
        assert_eq!(hierarchy(unified, own), Some(("/sys/fs/cgroup/unified", "/user.slice/session-1.scope")));
        let memory = "cgroup /sys/fs/cgroup/memory cgroup rw,relatime,memory 0 0";
        assert_eq!(hierarchy(memory, own), Some(("/sys/fs/cgroup/memory", "/user")));
        assert_eq!(hierarchy("cgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0", own), None);
        assert_eq!(hierarchy("proc /proc proc rw 0 0", own), None);
    }
}
