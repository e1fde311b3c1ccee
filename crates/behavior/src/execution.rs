//! Running code: from memory, from writable folders, from a web server, from a download, from an encoded text.

use std::path::PathBuf;
use std::process::Command;

use crate::stage::harmless_program;
use crate::web::Web;
use crate::{BehaviorError, Performed, Stage};

/// `echo decoded` as a script, in base64.
const ENCODED_SCRIPT: &str = "ZWNobyBkZWNvZGVkCg==";

/// A program that exists in memory only, named like a kernel thread.
pub(crate) fn from_memory(stage: &Stage) -> Result<Performed, BehaviorError> {
    let mut helper = stage.helper("loader", "memfd-exec")?;
    helper.arg(program_to_hide(stage)?).args(["[kworker/0:1]", "ran"]);
    let performed = stage.begin();
    stage.run(&mut helper)?.saying("run a program from memory", "ran")?;
    Ok(performed)
}

/// The same from an interpreter, through /proc/self/fd.
pub(crate) fn from_memory_by_python(stage: &Stage) -> Result<Performed, BehaviorError> {
    let script = "import os, sys\n\
                  memory = os.memfd_create('stage2')\n\
                  os.write(memory, open(sys.argv[1], 'rb').read())\n\
                  os.execv('/proc/self/fd/%d' % memory, ['[kworker/1:2]', 'ran'])";
    let performed = stage.begin();
    let hidden = program_to_hide(stage)?;
    stage
        .run(stage.command("python3").args(["-c", script]).arg(hidden))?
        .saying("run a program from memory", "ran")?;
    Ok(performed)
}

/// A program whose file was removed before it ran.
pub(crate) fn from_unlinked_file(stage: &Stage) -> Result<Performed, BehaviorError> {
    let image = stage.copy_harmless("update")?;
    let mut helper = stage.helper("loader", "unlinked-exec")?;
    let performed = stage.begin();
    stage.run(helper.arg(image).args(["update", "ran"]))?.saying("run an unlinked program", "ran")?;
    Ok(performed)
}

/// Memory files that hold data; a program replaced on disk while it runs, as upgrades do.
pub(crate) fn memory_for_data(stage: &Stage) -> Result<(), BehaviorError> {
    stage.run(&mut stage.helper("worker", "memfd-data")?)?;
    let daemon = stage.start(&mut stage.helper("daemon", "rest")?)?;
    stage.sh("rm daemon")?;
    daemon.wait()?.success()?;
    Ok(())
}

/// A program dropped into a folder where anyone may write.
pub(crate) fn from_world_writable(stage: &Stage) -> Result<Performed, BehaviorError> {
    let dropped = stage.copy_harmless("dropped")?;
    let performed = stage.begin();
    stage.run(stage.own(&dropped).arg("ran"))?;
    Ok(performed)
}

/// A script dropped there and run by its own name.
pub(crate) fn script_from_world_writable(stage: &Stage) -> Result<Performed, BehaviorError> {
    let script = stage.file("install.sh", "#!/bin/sh\nuname -r\n")?;
    stage.sh("chmod +x install.sh")?;
    let performed = stage.begin();
    stage.run(&mut stage.own(&script))?;
    Ok(performed)
}

/// A program put there, made executable and run within a moment, by one shell.
pub(crate) fn drop_and_run(stage: &Stage) -> Result<Performed, BehaviorError> {
    stage.copy_harmless("image.bin")?;
    let performed = stage.begin();
    stage
        .sh("cat image.bin > update; chmod +x update; ./update ran")?
        .saying("run what was dropped", "ran")?;
    Ok(performed)
}

/// A program put there and made executable, but not run; a script there that an interpreter reads.
pub(crate) fn drop_only(stage: &Stage) -> Result<(), BehaviorError> {
    stage.copy_harmless("image.bin")?;
    stage.sh("cat image.bin > update; chmod +x update; echo 'uname -r' > script; sh script")?;
    Ok(())
}

/// A system program that works in such a folder, and a program copied there but not run.
pub(crate) fn work_in_world_writable(stage: &Stage) -> Result<(), BehaviorError> {
    stage.copy_harmless("copied")?;
    stage.run(stage.command("ls").arg("-l"))?;
    Ok(())
}

/// A web server that starts a shell: the vulnerable application behind it was given a command.
pub(crate) fn web_server_runs_shell(stage: &Stage) -> Result<Performed, BehaviorError> {
    let server = stage.copy_tool("bash", "usr/sbin/nginx")?;
    let performed = stage.begin();
    stage.run(stage.own(&server).args(["-c", "sh -c 'id -u'; exit 0"]))?;
    Ok(performed)
}

/// A web server that starts its worker.
pub(crate) fn web_server_runs_worker(stage: &Stage) -> Result<(), BehaviorError> {
    let server = stage.copy_tool("bash", "usr/sbin/nginx")?;
    stage.copy_harmless("usr/sbin/nginx-worker")?;
    stage.run(stage.own(&server).args(["-c", "./usr/sbin/nginx-worker started; exit 0"]))?;
    Ok(())
}

/// Fetch a program, make it executable, run it.
fn download_and_run(stage: &Stage, fetch: impl FnOnce(&str) -> String) -> Result<Performed, BehaviorError> {
    let path = harmless_program();
    let image = std::fs::read(&path);
    let web = Web::serve(image.map_err(|source| BehaviorError::File { attempt: "read", path, source })?)?;
    let script = format!("{} && chmod +x ./echo && ./echo ran", fetch(&web.url("echo")));
    let performed = stage.begin();
    stage.sh(&script)?.saying("run what was downloaded", "ran")?;
    Ok(performed)
}

/// … with curl.
pub(crate) fn download_by_curl(stage: &Stage) -> Result<Performed, BehaviorError> {
    download_and_run(stage, |url| format!("curl -s -o echo {url}"))
}

/// … with wget.
pub(crate) fn download_by_wget(stage: &Stage) -> Result<Performed, BehaviorError> {
    download_and_run(stage, |url| format!("wget -q -O echo {url}"))
}

/// … with python.
pub(crate) fn download_by_python(stage: &Stage) -> Result<Performed, BehaviorError> {
    let code = "import sys, urllib.request; urllib.request.urlretrieve(sys.argv[1], 'echo')";
    download_and_run(stage, |url| format!("python3 -c \"{code}\" {url}"))
}

/// A script that never touches the disk: `curl … | sh`.
pub(crate) fn download_into_shell(stage: &Stage) -> Result<Performed, BehaviorError> {
    let web = Web::serve(b"echo ran\n".to_vec())?;
    let performed = stage.begin();
    let ended = stage.sh(&format!("curl -s {} | sh", web.url("install.sh")))?;
    ended.saying("run what was downloaded", "ran")?;
    Ok(performed)
}

/// A download with curl that is looked at, not run.
pub(crate) fn download_and_check(stage: &Stage) -> Result<(), BehaviorError> {
    let web = Web::serve(b"release notes\n".to_vec())?;
    stage.sh(&format!("curl -s -o notes {0} && sha256sum notes && curl -s {0} | wc -c", web.url("notes")))?;
    Ok(())
}

/// A download with wget that is looked at, not run.
pub(crate) fn download_by_wget_and_check(stage: &Stage) -> Result<(), BehaviorError> {
    let web = Web::serve(b"release notes\n".to_vec())?;
    stage.sh(&format!("wget -q -O notes {} && sha256sum notes", web.url("notes")))?;
    Ok(())
}

/// A download with python that is looked at, not run.
pub(crate) fn download_by_python_and_check(stage: &Stage) -> Result<(), BehaviorError> {
    let web = Web::serve(b"release notes\n".to_vec())?;
    let code = "import sys, urllib.request; print(urllib.request.urlopen(sys.argv[1]).read())";
    stage.run(stage.command("python3").args(["-c", code, &web.url("notes")]))?;
    Ok(())
}

/// `base64 -d | sh`.
pub(crate) fn decode_into_shell(stage: &Stage) -> Result<Performed, BehaviorError> {
    let performed = stage.begin();
    let ended = stage.sh(&format!("echo {ENCODED_SCRIPT} | base64 -d | sh"))?;
    ended.saying("run what was decoded", "decoded")?;
    Ok(performed)
}

/// `base64 -d | python3`.
pub(crate) fn decode_into_python(stage: &Stage) -> Result<Performed, BehaviorError> {
    // print('decoded')
    let performed = stage.begin();
    let ended = stage.sh("echo cHJpbnQoJ2RlY29kZWQnKQ== | base64 -d | python3")?;
    ended.saying("run what was decoded", "decoded")?;
    Ok(performed)
}

/// A text decoded into a file, as certificates and attachments are.
pub(crate) fn decode_to_file(stage: &Stage) -> Result<(), BehaviorError> {
    stage.sh(&format!("echo {ENCODED_SCRIPT} | base64 -d > attachment && wc -c attachment"))?;
    Ok(())
}

/// A text decoded and printed by python.
pub(crate) fn decode_and_print_by_python(stage: &Stage) -> Result<(), BehaviorError> {
    let code = "import base64; print(base64.b64decode('cHJpbnQoJ2RlY29kZWQnKQ=='))";
    stage.run(stage.command("python3").args(["-c", code]))?;
    Ok(())
}

/// What a miner's command line looks like; the program only prints it.
pub(crate) fn miner(stage: &Stage) -> Result<Performed, BehaviorError> {
    let program = stage.copy_harmless("xmrig")?;
    let performed = stage.begin();
    stage.run(&mut mining(stage.own(&program)))?;
    Ok(performed)
}

/// The same under an innocent name.
pub(crate) fn renamed_miner(stage: &Stage) -> Result<Performed, BehaviorError> {
    let program = stage.copy_harmless("kdevtmpfsi")?;
    let performed = stage.begin();
    stage.run(&mut mining(stage.own(&program)))?;
    Ok(performed)
}

/// A client with a server's address and a user's name.
pub(crate) fn client_with_address(stage: &Stage) -> Result<(), BehaviorError> {
    let program = stage.copy_harmless("backup-client")?;
    stage.run(stage.own(&program).args(["-o", "https://backup.invalid:443", "-u", "host-17"]))?;
    Ok(())
}

fn mining(mut command: Command) -> Command {
    command.args([
        "-o",
        "stratum+tcp://pool.invalid:3333",
        "-u",
        "nobody.worker1",
        "-p",
        "x",
        "--donate-level=1",
    ]);
    command
}

/// A program for a loader to read; by a path that means the same to another process.
fn program_to_hide(stage: &Stage) -> Result<PathBuf, BehaviorError> {
    stage.copy_harmless("image.bin")
}
