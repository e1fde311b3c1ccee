//! Covering tracks: shell histories, logs, times of files, switched-off guards.

use crate::{BehaviorError, Performed, Stage};

/// The history removed.
pub(crate) fn history_removed(stage: &Stage) -> Result<Performed, BehaviorError> {
    stage.file("root/.bash_history", "ls\n")?;
    let performed = stage.begin();
    stage.run(stage.command("rm").args(["-f", &stage.text("root/.bash_history")]))?;
    Ok(performed)
}

/// The history emptied.
pub(crate) fn history_emptied(stage: &Stage) -> Result<Performed, BehaviorError> {
    stage.file("root/.bash_history", "ls\n")?;
    let performed = stage.begin();
    stage.sh("cat /dev/null > ~/.bash_history")?;
    Ok(performed)
}

/// The history led into /dev/null for good.
pub(crate) fn history_linked_to_null(stage: &Stage) -> Result<Performed, BehaviorError> {
    stage.file("root/.bash_history", "ls\n")?;
    let performed = stage.begin();
    stage.run(stage.command("ln").args(["-sf", "/dev/null", &stage.text("root/.bash_history")]))?;
    Ok(performed)
}

/// An interactive shell that keeps its history as always.
pub(crate) fn history_kept(stage: &Stage) -> Result<(), BehaviorError> {
    let commands = stage.file("commands", "uname -r\nhistory -a\nexit 0\n")?;
    let input = std::fs::File::open(&commands);
    let input = input.map_err(|source| BehaviorError::File { attempt: "open", path: commands, source })?;
    let mut shell = stage.command("bash");
    shell.arg("-i").stdin(input).stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
    stage.start_with_stdio(&mut shell)?.wait()?.success()?;
    Ok(())
}

/// The history looked for, a pager's removed.
pub(crate) fn history_read(stage: &Stage) -> Result<(), BehaviorError> {
    stage.file("root/.lesshst", "")?;
    stage.sh("tail -n 5 ~/.bash_history; rm -f ~/.lesshst")?;
    Ok(())
}

/// A log removed.
pub(crate) fn log_removed(stage: &Stage) -> Result<Performed, BehaviorError> {
    stage.file("var/log/auth.log", "a line\n")?;
    let performed = stage.begin();
    stage.run(stage.command("rm").args(["-f", &stage.text("var/log/auth.log")]))?;
    Ok(performed)
}

/// A log cut to nothing.
pub(crate) fn log_truncated(stage: &Stage) -> Result<Performed, BehaviorError> {
    stage.file("var/log/wtmp", "a record\n")?;
    let performed = stage.begin();
    stage.run(stage.command("truncate").args(["-s", "0", &stage.text("var/log/wtmp")]))?;
    Ok(performed)
}

/// A log grown by its daemon and read, a temporary file removed.
pub(crate) fn log_appended(stage: &Stage) -> Result<(), BehaviorError> {
    stage.folder("var/log")?;
    stage.file("var/cache/app/x.tmp", "")?;
    stage.run(stage.helper("syslogd", "append")?.arg(stage.path("var/log/auth.log")))?;
    stage.sh("rm var/cache/app/x.tmp; tail var/log/auth.log")?;
    Ok(())
}

/// A file made to look old.
pub(crate) fn time_set(stage: &Stage) -> Result<Performed, BehaviorError> {
    stage.file("usr/bin/helper", "")?;
    let performed = stage.begin();
    stage.run(stage.command("touch").args(["-d", "2020-02-02 02:02:02", &stage.text("usr/bin/helper")]))?;
    Ok(performed)
}

/// A file made to look as old as another.
pub(crate) fn time_copied(stage: &Stage) -> Result<Performed, BehaviorError> {
    stage.file("usr/bin/helper", "")?;
    let performed = stage.begin();
    stage.run(stage.command("touch").args(["-r", "/bin/sh", &stage.text("usr/bin/helper")]))?;
    Ok(performed)
}

/// A file touched, another copied with its times.
pub(crate) fn time_kept(stage: &Stage) -> Result<(), BehaviorError> {
    stage.file("usr/bin/helper", "")?;
    stage.sh("touch usr/bin/helper; cp -p /bin/sh usr/bin/copy")?;
    Ok(())
}

/// SELinux told to stop enforcing; the program by that name only prints its arguments.
pub(crate) fn selinux_off(stage: &Stage) -> Result<Performed, BehaviorError> {
    pretend(stage, "setenforce", &["0"])
}

/// The kernel's audit switched off, likewise.
pub(crate) fn audit_off(stage: &Stage) -> Result<Performed, BehaviorError> {
    pretend(stage, "auditctl", &["-e", "0"])
}

/// The audit service stopped, likewise.
pub(crate) fn audit_service_stopped(stage: &Stage) -> Result<Performed, BehaviorError> {
    pretend(stage, "systemctl", &["stop", "auditd.service"])
}

/// The guards asked how they are, likewise.
pub(crate) fn guards_asked(stage: &Stage) -> Result<(), BehaviorError> {
    pretend(stage, "getenforce", &[])?;
    pretend(stage, "auditctl", &["-s"])?;
    pretend(stage, "systemctl", &["status", "auditd.service"])?;
    Ok(())
}

/// Runs a harmless program under that name from the stage.
fn pretend(stage: &Stage, name: &str, arguments: &[&str]) -> Result<Performed, BehaviorError> {
    let program = stage.copy_harmless(&format!("usr/sbin/{name}"))?;
    let performed = stage.begin();
    stage.run(stage.own(&program).args(arguments))?;
    Ok(performed)
}
