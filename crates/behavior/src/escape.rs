//! Out of a container: the host's disk, the host's namespaces, the cgroup's release agent. Every mount is made in a
//! namespace that ends with its process.

use crate::container::Container;
use crate::{BehaviorError, Performed, Stage};

/// From a mount namespace of its own, mount the host's disk.
pub(crate) fn mount_host_disk(stage: &Stage) -> Result<Performed, BehaviorError> {
    let (device, kind) = root_disk().unwrap_or_else(|| ("/dev/sda1".to_owned(), "ext4".to_owned()));
    let target = stage.folder("mnt")?;
    let mut helper = stage.helper("breakout", "mount-device")?;
    let performed = stage.begin();
    stage.run(helper.args([device, kind]).arg(target))?;
    Ok(performed)
}

/// The same from inside a container.
pub(crate) fn mount_host_disk_from_container(stage: &Stage) -> Result<Performed, BehaviorError> {
    let (device, kind) = root_disk().unwrap_or_else(|| ("/dev/sda1".to_owned(), "ext4".to_owned()));
    let target = stage.folder("mnt")?;
    let container = Container::make(stage)?;
    let mut helper = stage.helper("breakout", "mount-device")?;
    let mut inside = container.inside(stage, helper.args([device, kind]).arg(target));
    let performed = stage.begin();
    stage.run(&mut inside)?;
    Ok(performed)
}

/// From a mount namespace of its own, mount a private /tmp.
pub(crate) fn mount_private_tmp(stage: &Stage) -> Result<(), BehaviorError> {
    let target = stage.folder("private-tmp")?;
    stage.run(stage.helper("manager", "mount-tmpfs")?.arg(target))?;
    Ok(())
}

/// A command for the kernel to run on the host when the last process leaves a cgroup (a folder shaped like one).
pub(crate) fn write_release_agent(stage: &Stage) -> Result<Performed, BehaviorError> {
    stage.folder("cgroup/x")?;
    let command = stage.file("cmd", "#!/bin/sh\n")?;
    let agent = stage.text("cgroup/release_agent");
    let performed = stage.begin();
    stage.sh(&format!("echo 1 > cgroup/x/notify_on_release; echo {} > {agent}", command.display()))?;
    Ok(performed)
}

/// The settings read, a process put into a cgroup (a folder shaped like one).
pub(crate) fn use_cgroup(stage: &Stage) -> Result<(), BehaviorError> {
    stage.folder("cgroup/x")?;
    stage.sh("cat /sys/fs/cgroup/*/release_agent >/dev/null 2>&1; echo $$ > cgroup/x/cgroup.procs")?;
    Ok(())
}

/// `nsenter -t 1`: into the namespaces of process 1. It is performed in a pid namespace of its own, where process 1 is the
/// stage's own shell: the host's init is not touched.
pub(crate) fn nsenter_init(stage: &Stage) -> Result<Performed, BehaviorError> {
    let performed = stage.begin();
    let script = "nsenter -t 1 -m -u -i -n -p -- true; exit $?";
    stage.run(stage.command("unshare").args(["--pid", "--fork", "--mount-proc", "sh", "-c", script]))?;
    Ok(performed)
}

/// From inside a container, and a mount namespace of its own, into the host's mount namespace.
pub(crate) fn join_host_mounts(stage: &Stage) -> Result<Performed, BehaviorError> {
    let container = Container::make(stage)?;
    let mut inside = container.inside(stage, &stage.helper("breakout", "join-mount-namespace")?);
    let performed = stage.begin();
    stage.run(&mut inside)?;
    Ok(performed)
}

/// A user namespace, made by a program that is no sandbox.
pub(crate) fn make_user_namespace(stage: &Stage) -> Result<Performed, BehaviorError> {
    let mut helper = stage.helper("exploit", "make-user-namespace")?;
    let performed = stage.begin();
    stage.run(&mut helper)?;
    Ok(performed)
}

/// An ordinary program inside a container.
pub(crate) fn work_in_container(stage: &Stage) -> Result<(), BehaviorError> {
    let container = Container::make(stage)?;
    stage.run(&mut container.inside(stage, &stage.command("uname")))?;
    stage.run(&mut container.inside(stage, &stage.helper("manager", "make-mount-namespace")?))?;
    Ok(())
}

/// Into a sandbox, as service managers do.
pub(crate) fn enter_sandbox(stage: &Stage) -> Result<(), BehaviorError> {
    stage.run(stage.command("unshare").args(["-m", "--propagation", "private", "true"]))?;
    Ok(())
}

/// Into a sandbox, by the system call.
pub(crate) fn make_sandbox(stage: &Stage) -> Result<(), BehaviorError> {
    stage.run(&mut stage.helper("manager", "make-mount-namespace")?)?;
    Ok(())
}

/// Device and type of the file system at `/`, if a device is behind it.
fn root_disk() -> Option<(String, String)> {
    let mounts = std::fs::read_to_string("/proc/mounts").ok()?;
    let rows = mounts.lines().filter_map(|line| {
        let mut fields = line.split(' ');
        Some((fields.next()?, fields.next()?, fields.next()?))
    });
    let mut roots = rows.filter(|(device, target, _)| *target == "/" && device.starts_with("/dev/"));
    roots.next().map(|(device, _, kind)| (device.to_owned(), kind.to_owned()))
}
