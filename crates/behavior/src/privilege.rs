//! More rights: a shell with the set-uid bit, sudo led astray, code put into another process, into the kernel.

use std::os::unix::process::CommandExt;

use crate::{BehaviorError, Performed, Stage};

/// The uid and gid of nobody.
const NOBODY: u32 = 65534;

/// A copy of bash owned by root with the set-uid bit, run by nobody.
pub(crate) fn setuid_shell(stage: &Stage) -> Result<Performed, BehaviorError> {
    let shell = stage.copy_tool("bash", "bash")?;
    let performed = stage.begin();
    stage.sh("chmod u+s bash")?;
    let mut command = stage.own(&shell);
    command.args(["-p", "-c", "echo euid=$EUID; exit 0"]).uid(NOBODY).gid(NOBODY);
    let ended = stage.run(&mut command)?;
    if ended.output().contains(&format!("euid={NOBODY}")) {
        return Err(BehaviorError::Unavailable("/tmp is mounted nosuid".to_owned()));
    }
    ended.saying("run a set-uid shell", "euid=0")?;
    Ok(performed)
}

/// A copy of bash without that bit, and a program that has it by right, both run by nobody.
pub(crate) fn setuid_program(stage: &Stage) -> Result<(), BehaviorError> {
    let shell = stage.copy_tool("bash", "bash")?;
    let mut command = stage.own(&shell);
    stage.run(command.args(["-c", "exit 0"]).uid(NOBODY).gid(NOBODY))?;
    let mut command = stage.command("su");
    stage.run(command.arg("--version").uid(NOBODY).gid(NOBODY))?;
    Ok(())
}

/// A program that sudo allows, made to run a shell.
pub(crate) fn sudo_find_exec(stage: &Stage) -> Result<Performed, BehaviorError> {
    let performed = stage.begin();
    let folder = stage.text("root");
    // The shell reads /dev/null and ends at once.
    let breakout = ["-n", "-u", "root", "find", &folder, "-maxdepth", "0", "-exec", "/bin/sh", ";", "-quit"];
    stage.run(stage.command("sudo").args(breakout))?;
    Ok(performed)
}

/// sudo as it is meant.
pub(crate) fn sudo_true(stage: &Stage) -> Result<(), BehaviorError> {
    stage.run(stage.command("sudo").args(["-n", "true"]))?;
    stage.run(stage.command("sudo").args([
        "-n",
        "find",
        &stage.text("root"),
        "-maxdepth",
        "0",
        "-name",
        "x",
    ]))?;
    Ok(())
}

/// Attach to a process and write into its code (the word that is there already; the process is the helper's own child).
pub(crate) fn poke_process(stage: &Stage) -> Result<Performed, BehaviorError> {
    let mut helper = stage.helper("injector", "trace-poke")?;
    let performed = stage.begin();
    stage.run(&mut helper)?;
    Ok(performed)
}

/// Write into a process' memory without attaching.
pub(crate) fn write_process_memory(stage: &Stage) -> Result<Performed, BehaviorError> {
    let mut helper = stage.helper("injector", "trace-write")?;
    let performed = stage.begin();
    stage.run(&mut helper)?;
    Ok(performed)
}

/// Trace a child that asked for it.
pub(crate) fn trace_own_child(stage: &Stage) -> Result<(), BehaviorError> {
    stage.run(&mut stage.helper("debugger", "trace-own-child")?)?;
    Ok(())
}

/// Debug a child with strace.
pub(crate) fn strace_own_child(stage: &Stage) -> Result<(), BehaviorError> {
    stage.run(stage.command("strace").args(["-f", "-o", "/dev/null", "true"]))?;
    Ok(())
}

/// Offer the kernel a module that is none.
pub(crate) fn load_module(stage: &Stage) -> Result<Performed, BehaviorError> {
    let module = stage.file("rootkit.ko", "no module at all\n")?;
    let mut helper = stage.helper("loader", "load-module")?;
    let performed = stage.begin();
    stage.run(helper.arg(module))?.saying("offer a module", "refused")?;
    Ok(performed)
}

/// List what is loaded, copy a file that is named like a module.
pub(crate) fn list_modules(stage: &Stage) -> Result<(), BehaviorError> {
    stage.file("driver.ko", "no module at all\n")?;
    // A kernel without modules has no such list.
    stage.sh("cp driver.ko driver-2.ko; cat /proc/modules 2>&1 | wc -l")?;
    Ok(())
}

/// Load an eBPF program.
pub(crate) fn load_bpf_program(stage: &Stage) -> Result<Performed, BehaviorError> {
    let mut helper = stage.helper("bpfdoor", "bpf-program")?;
    let performed = stage.begin();
    stage.run(&mut helper)?;
    Ok(performed)
}

/// Make an eBPF map only.
pub(crate) fn make_bpf_map(stage: &Stage) -> Result<(), BehaviorError> {
    stage.run(&mut stage.helper("exporter", "bpf-map")?)?;
    Ok(())
}
