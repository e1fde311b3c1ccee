//! Secrets: password hashes, private keys, guessed passwords. What is read goes to /dev/null.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::sshd::Sshd;
use crate::{BehaviorError, Performed, Stage, tools};

/// Connections with wrong passwords, three tries each, before the right one.
const WRONG_CONNECTIONS: usize = 5;

/// The password hashes read.
pub(crate) fn shadow_read(stage: &Stage) -> Result<Performed, BehaviorError> {
    let performed = stage.begin();
    read_away(stage, "/etc/shadow")?;
    Ok(performed)
}

/// The list of accounts read, and the hashes by the program whose task that is.
pub(crate) fn passwd_read(stage: &Stage) -> Result<(), BehaviorError> {
    stage.run(stage.command("cat").arg("/etc/passwd"))?;
    if tools::find("passwd").is_some() {
        stage.run(stage.command("passwd").args(["-S", "root"]))?;
    }
    Ok(())
}

/// The host's private key read.
pub(crate) fn host_key_read(stage: &Stage) -> Result<Performed, BehaviorError> {
    let key = host_key("")?;
    let performed = stage.begin();
    read_away(stage, &key.to_string_lossy())?;
    Ok(performed)
}

/// The host's public key read.
pub(crate) fn public_key_read(stage: &Stage) -> Result<(), BehaviorError> {
    stage.run(stage.command("cat").arg(host_key(".pub")?))?;
    Ok(())
}

/// Passwords guessed at an ssh server until one opens it.
pub(crate) fn ssh_guessed(stage: &Stage) -> Result<Performed, BehaviorError> {
    let server = Sshd::start(stage)?;
    let performed = stage.begin();
    for _ in 0..WRONG_CONNECTIONS {
        server.try_wrong_passwords(stage, 3)?;
    }
    server.log_in(stage)?;
    server.stop(stage)?;
    Ok(performed)
}

/// One mistyped password, then a login, in which a command runs.
pub(crate) fn ssh_mistyped_once(stage: &Stage) -> Result<(), BehaviorError> {
    let server = Sshd::start(stage)?;
    server.try_wrong_passwords(stage, 1)?;
    server.log_in(stage)?;
    server.stop(stage)
}

/// A command over ssh: the server's shell has sockets or pipes for streams, and is no reverse shell.
pub(crate) fn ssh_command(stage: &Stage) -> Result<(), BehaviorError> {
    let absent =
        ["sshd", "ssh", "ssh-keygen", "unshare"].into_iter().find(|tool| tools::find(tool).is_none());
    if let Some(tool) = absent {
        return Err(BehaviorError::Unavailable(format!("{tool} is not on PATH")));
    }
    let server = Sshd::start(stage)?;
    server.log_in(stage)?;
    server.stop(stage)
}

fn read_away(stage: &Stage, path: &str) -> Result<(), BehaviorError> {
    let mut cat: Command = stage.command("cat");
    cat.arg(path).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    stage.start_with_stdio(&mut cat)?.wait()?.success()?;
    Ok(())
}

fn host_key(suffix: &str) -> Result<PathBuf, BehaviorError> {
    let kinds = ["ed25519", "ecdsa", "rsa"].into_iter();
    let mut keys = kinds.map(|kind| PathBuf::from(format!("/etc/ssh/ssh_host_{kind}_key{suffix}")));
    let found = keys.find(|key| key.is_file());
    found.ok_or_else(|| BehaviorError::Unavailable("this host has no ssh host key in /etc/ssh".to_owned()))
}
