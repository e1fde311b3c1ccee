//! What a program is by its name and arguments: a shell that waits for commands, a downloader, a decoder, a relay.
//!
//! Names can be changed by whoever runs the program; a name is only ever one half of a verdict here.

use watchfire_event::Process;

const SHELLS: &[&[u8]] =
    &[b"sh", b"bash", b"dash", b"zsh", b"ksh", b"mksh", b"ash", b"hush", b"csh", b"tcsh", b"fish", b"rbash"];
const INTERPRETERS: &[&[u8]] =
    &[b"python", b"perl", b"ruby", b"php", b"node", b"nodejs", b"lua", b"tclsh", b"pypy"];
const DOWNLOADERS: &[&[u8]] = &[
    b"curl",
    b"wget",
    b"wget2",
    b"aria2c",
    b"axel",
    b"lynx",
    b"GET",
    b"lwp-request",
    b"lwp-download",
    b"http",
    b"https",
    b"tftp",
];
const RELAYS: &[&[u8]] = &[
    b"nc",
    b"ncat",
    b"netcat",
    b"nc.openbsd",
    b"nc.traditional",
    b"socat",
    b"telnet",
    b"cryptcat",
    b"pwncat",
];
const SUDO: &[&[u8]] = &[b"sudo", b"doas", b"su", b"run0"];
/// Programs whose business it is to run other people's commands over a connection.
const REMOTE_ADMINISTRATION: &[&[u8]] = &[
    b"sshd",
    b"sshd-session",
    b"sshd-auth",
    b"dropbear",
    b"in.rshd",
    b"xinetd",
    b"gitlab-runner",
    b"cockpit-bridge",
    b"containerd-shim",
    b"containerd-shim-runc-v2",
    b"conmon",
    b"conmonrs",
    b"dockerd",
    b"containerd",
    b"kubelet",
    b"crio",
    b"runc",
    b"crun",
    b"lxd",
    b"incusd",
    b"qemu-ga",
    b"amazon-ssm-agent",
    b"ssm-session-worker",
    b"waagent",
    b"teleport",
    b"buildkitd",
];

fn base(path: &[u8]) -> &[u8] {
    path.rsplit(|byte| *byte == b'/').next().unwrap_or_default()
}

fn one_of(name: &[u8], names: &[&[u8]]) -> bool {
    names.contains(&name)
}

/// `python3.11` → `python`, `lua5.4` → `lua`: versions are part of many names.
fn unversioned(name: &[u8]) -> &[u8] {
    let end =
        name.iter().rposition(|byte| !byte.is_ascii_digit() && *byte != b'.').map_or(0, |last| last + 1);
    &name[..end]
}

/// The program's name; for a multi-call binary the applet's, with the arguments that are the applet's own.
fn called(process: &Process) -> (&[u8], Vec<&[u8]>) {
    let mut args: Vec<&[u8]> = process.args().take(64).collect();
    let first = args.first().copied().map(base).unwrap_or_default();
    if !one_of(process.exe_name(), &[b"busybox", b"toybox"]) {
        return (process.exe_name(), args);
    }
    if one_of(first, &[b"busybox", b"toybox"]) && args.len() > 1 {
        args.remove(0);
        return (base(args[0]), args);
    }
    // A login shell's name begins with a dash.
    (first.strip_prefix(b"-").unwrap_or(first), args)
}

pub(crate) fn is_shell(process: &Process) -> bool {
    one_of(called(process).0, SHELLS)
}

pub(crate) fn is_interpreter(process: &Process) -> bool {
    one_of(unversioned(called(process).0), INTERPRETERS)
}

pub(crate) fn is_downloader(process: &Process) -> bool {
    one_of(called(process).0, DOWNLOADERS)
}

/// Programs that carry bytes between a connection and something else.
pub(crate) fn is_relay(process: &Process) -> bool {
    one_of(called(process).0, RELAYS)
}

pub(crate) fn administers_remotely(process: &Process) -> bool {
    one_of(process.exe_name(), REMOTE_ADMINISTRATION)
}

/// A program that turns text into what it hides.
pub(crate) fn is_decoder(process: &Process) -> bool {
    let (name, args) = called(process);
    let has = |wanted: &[&[u8]]| args.iter().skip(1).any(|arg| one_of(arg, wanted));
    match name {
        b"base64" | b"base32" | b"basenc" => {
            let short = |arg: &&&[u8]| {
                arg.starts_with(b"-")
                    && !arg.starts_with(b"--")
                    && arg.iter().any(|c| matches!(c, b'd' | b'D'))
            };
            has(&[b"--decode"]) || args.iter().skip(1).any(|arg| short(&arg))
        }
        b"openssl" => {
            has(&[b"-d"]) && (has(&[b"enc", b"base64"]) || args.iter().any(|arg| arg.starts_with(b"-base64")))
        }
        b"xxd" => args.iter().skip(1).any(|arg| arg.starts_with(b"-") && arg.contains(&b'r')),
        b"uudecode" => true,
        _ => false,
    }
}

/// A shell or interpreter that was given no code by argument, so that it takes what comes in at stdin. Sees through
/// `sudo bash` and its like.
pub(crate) fn takes_commands_from_stdin(process: &Process) -> bool {
    let (name, args) = called(process);
    takes_commands(name, &args)
}

fn takes_commands(name: &[u8], args: &[&[u8]]) -> bool {
    if one_of(name, SHELLS) {
        return shell_reads_stdin(args);
    }
    if one_of(unversioned(name), INTERPRETERS) {
        return interpreter_reads_stdin(args);
    }
    if one_of(name, SUDO) {
        let inner = args
            .iter()
            .skip(1)
            .position(|arg| one_of(base(arg), SHELLS) || one_of(unversioned(base(arg)), INTERPRETERS));
        return inner.is_some_and(|index| takes_commands(base(args[index + 1]), &args[index + 1..]));
    }
    false
}

fn shell_reads_stdin(args: &[&[u8]]) -> bool {
    let mut rest = args.iter().skip(1);
    while let Some(arg) = rest.next() {
        match *arg {
            b"-s" | b"-" => return true,
            b"-o" | b"+o" | b"-O" | b"+O" | b"--rcfile" | b"--init-file" => {
                rest.next();
            }
            b"--" => return rest.next().is_none(),
            long if long.starts_with(b"--") => {}
            short if short.starts_with(b"-") || short.starts_with(b"+") => {
                if short.contains(&b'c') {
                    return false;
                }
                if short.contains(&b's') {
                    return true;
                }
            }
            b"/dev/stdin" | b"/proc/self/fd/0" | b"/dev/fd/0" => return true,
            _ => return false,
        }
    }
    true
}

fn interpreter_reads_stdin(args: &[&[u8]]) -> bool {
    for arg in args.iter().skip(1) {
        match *arg {
            b"-" | b"/dev/stdin" => return true,
            long if long.starts_with(b"--") => {
                if long.starts_with(b"--eval") || long.starts_with(b"--run") || long.starts_with(b"--print") {
                    return false;
                }
            }
            // -c, -m (python), -e, -E (perl, ruby, lua, node), -p (node), -r (php): the code is an argument.
            short if short.starts_with(b"-") => {
                if short
                    .iter()
                    .skip(1)
                    .any(|flag| matches!(flag, b'c' | b'm' | b'e' | b'E' | b'p' | b'r' | b'n'))
                {
                    return false;
                }
            }
            _ => return false,
        }
    }
    true
}

/// Folders in which everyone may put files.
pub(crate) fn in_world_writable_folder(path: &[u8]) -> bool {
    const FOLDERS: &[&[u8]] =
        &[b"/tmp/", b"/var/tmp/", b"/dev/shm/", b"/run/shm/", b"/run/lock/", b"/dev/mqueue/"];
    FOLDERS.iter().any(|folder| path.starts_with(folder))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::detectors::testing::process;

    fn of(exe: &str, args: &[&str]) -> Process {
        process(10, 1, exe, args)
    }

    #[test]
    fn a_shell_waits_for_commands_only_without_code_or_script() {
        for args in [
            &["sh"][..],
            &["bash", "-i"],
            &["bash", "-s", "--", "x"],
            &["-bash"],
            &["sh", "-ex"],
            &["sh", "-"],
            &["bash", "--norc", "-o", "pipefail"],
        ] {
            assert!(takes_commands_from_stdin(&of("/bin/bash", args)), "{args:?}");
        }
        for args in [
            &["sh", "-c", "id"][..],
            &["bash", "-lc", "id"],
            &["sh", "-xe", "/tmp/job.sh"],
            &["sh", "script"],
        ] {
            assert!(!takes_commands_from_stdin(&of("/bin/bash", args)), "{args:?}");
        }
        assert!(takes_commands_from_stdin(&of("/usr/bin/busybox", &["busybox", "sh"])));
        assert!(takes_commands_from_stdin(&of("/usr/bin/busybox", &["ash"])));
        assert!(!takes_commands_from_stdin(&of("/usr/bin/busybox", &["busybox", "wget", "x"])));
        assert!(takes_commands_from_stdin(&of("/usr/bin/sudo", &["sudo", "-E", "bash", "-"])));
        assert!(!takes_commands_from_stdin(&of("/usr/bin/sudo", &["sudo", "bash", "x.sh"])));
    }

    #[test]
    fn an_interpreter_waits_for_code_only_without_code_or_script() {
        assert!(takes_commands_from_stdin(&of("/usr/bin/python3.11", &["python3", "-"])));
        assert!(takes_commands_from_stdin(&of("/usr/bin/perl", &["perl"])));
        assert!(!takes_commands_from_stdin(&of("/usr/bin/python3", &["python3", "-c", "1"])));
        assert!(!takes_commands_from_stdin(&of("/usr/bin/python3", &["python3", "-m", "json.tool"])));
        assert!(!takes_commands_from_stdin(&of("/usr/bin/perl", &["perl", "-pe", "s/a/b/"])));
        assert!(!takes_commands_from_stdin(&of("/usr/bin/node", &["node", "app.js"])));
    }

    #[test]
    fn decoders_are_told_from_encoders() {
        assert!(is_decoder(&of("/usr/bin/base64", &["base64", "-d"])));
        assert!(is_decoder(&of("/usr/bin/base64", &["base64", "-di"])));
        assert!(is_decoder(&of("/bin/busybox", &["base64", "--decode"])));
        assert!(is_decoder(&of("/usr/bin/openssl", &["openssl", "enc", "-base64", "-d"])));
        assert!(is_decoder(&of("/usr/bin/xxd", &["xxd", "-r", "-p"])));
        assert!(!is_decoder(&of("/usr/bin/base64", &["base64", "-w0"])));
        assert!(!is_decoder(&of("/usr/bin/openssl", &["openssl", "x509", "-in", "c"])));
    }
}
