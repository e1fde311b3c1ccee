//! The parts that need a process of their own: one odd system call each, made by a copy of the running program.

use std::ffi::{CString, OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStringExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
use rustix::process::{Pid, WaitOptions, waitpid};
use rustix::thread::move_into_link_name_space;

use crate::sys::{self, Trace};

/// Names the part in the environment of a program that is to do one and nothing else. Not an argument: those are judged by
/// rules, and must look as the behaviour wants them to.
pub(crate) const PART_VARIABLE: &str = "WATCHFIRE_BEHAVIOR_PART";
/// The part of a program that need only exist.
pub(crate) const SAY: &str = "say";
/// A scan waits this long for a port that does not answer; on loopback they all do.
const PORT_PATIENCE: Duration = Duration::from_millis(200);

type Part = fn(&[OsString]) -> io::Result<()>;

/// Every part by its name.
const PARTS: &[(&str, Part)] = &[
    (SAY, say),
    ("rest", rest),
    ("append", append),
    ("make-user-namespace", make_user_namespace),
    ("memfd-exec", memfd_exec),
    ("memfd-data", memfd_data),
    ("unlinked-exec", unlinked_exec),
    ("load-module", load_module),
    ("trace-poke", trace_poke),
    ("trace-write", trace_write),
    ("trace-own-child", trace_own_child),
    ("mount-device", mount_device),
    ("mount-tmpfs", mount_tmpfs),
    ("join-mount-namespace", join_mount_namespace),
    ("make-mount-namespace", make_mount_namespace),
    ("bpf-program", bpf_program),
    ("bpf-map", bpf_map),
    ("pipe-shell", pipe_shell),
    ("popen", popen),
    ("scan", scan),
    ("retry", retry),
];

/// Does a behaviour's part and exits, if this process was started for that; otherwise returns at once. Must be the first thing
/// in `main` of every program that performs behaviours.
pub fn child_main_if_asked() {
    let Some(name) = std::env::var_os(PART_VARIABLE) else {
        return;
    };
    let rest: Vec<OsString> = std::env::args_os().skip(1).collect();
    let Some((_, part)) = PARTS.iter().find(|(known, _)| name == *known) else {
        eprintln!("no such part: {name:?}");
        std::process::exit(64);
    };
    match part(&rest) {
        Ok(()) => std::process::exit(0),
        Err(error) => {
            eprintln!("{name:?}: {error}");
            std::process::exit(1);
        }
    }
}

/// `WORD…`: prints the words.
fn say(arguments: &[OsString]) -> io::Result<()> {
    let line = arguments.join(OsStr::new(" "));
    writeln!(io::stdout(), "{}", line.display())
}

/// Runs for a moment.
fn rest(_: &[OsString]) -> io::Result<()> {
    std::thread::sleep(Duration::from_millis(200));
    Ok(())
}

/// `FILE ARG…`: runs a copy of FILE that exists in memory only.
fn memfd_exec(arguments: &[OsString]) -> io::Result<()> {
    let (file, argv) = program_and_argv(arguments)?;
    let memory = rustix::fs::memfd_create(c"loader", rustix::fs::MemfdFlags::CLOEXEC)?;
    io::copy(&mut File::open(file)?, &mut File::from(memory.try_clone()?))?;
    Err(sys::fexecve(memory.as_fd(), &argv, &environment_to_say()?))
}

/// `FILE ARG…`: runs FILE after its last name is gone.
fn unlinked_exec(arguments: &[OsString]) -> io::Result<()> {
    let (file, argv) = program_and_argv(arguments)?;
    let image = rustix::fs::open(
        file,
        rustix::fs::OFlags::PATH | rustix::fs::OFlags::CLOEXEC,
        rustix::fs::Mode::empty(),
    )?;
    fs::remove_file(file)?;
    Err(sys::fexecve(image.as_fd(), &argv, &environment_to_say()?))
}

/// `FILE`: adds a line, as a log daemon does.
fn append(arguments: &[OsString]) -> io::Result<()> {
    let mut log = File::options().append(true).create(true).open(argument(arguments, 0)?)?;
    log.write_all(b"a line\n")
}

/// Keeps data in a memory file, as programs do that share buffers.
fn memfd_data(_: &[OsString]) -> io::Result<()> {
    let memory = rustix::fs::memfd_create(c"buffer", rustix::fs::MemfdFlags::CLOEXEC)?;
    File::from(memory).write_all(b"nothing to run here")
}

/// `FILE`: offers FILE, which is no module, to the kernel in both ways. The try is what is watched; it must fail.
fn load_module(arguments: &[OsString]) -> io::Result<()> {
    let file = File::open(argument(arguments, 0)?)?;
    let by_image = rustix::system::init_module(b"no module at all", c"");
    let by_file = rustix::system::finit_module(&file, c"", 0);
    match (by_image, by_file) {
        (Err(image), Err(file)) => {
            println!("refused: {image}; {file}");
            Ok(())
        }
        _ => Err(io::Error::other("the kernel took garbage for a module")),
    }
}

/// Attaches to a child of its own, writes one word of its code back as it is, lets it go.
fn trace_poke(_: &[OsString]) -> io::Result<()> {
    let victim = Victim::start()?;
    sys::trace(Trace::Attach, victim.tgid()?)?;
    waitpid(Pid::from_raw(victim.tgid()?), WaitOptions::empty())?;
    sys::rewrite_current_instruction(victim.tgid()?)?;
    sys::trace(Trace::Detach, victim.tgid()?)
}

/// Writes into the stack of a child of its own, over what is there with the same bytes.
fn trace_write(_: &[OsString]) -> io::Result<()> {
    let victim = Victim::start()?;
    let tgid = victim.tgid()?;
    let maps = fs::read_to_string(format!("/proc/{tgid}/maps"))?;
    let stack = maps.lines().find(|line| line.ends_with("[stack]")).and_then(|line| line.split_once('-'));
    let bottom = stack.and_then(|(from, _)| u64::from_str_radix(from, 16).ok());
    // The lowest page of a stack is below everything in use.
    sys::write_other_memory(tgid, bottom.ok_or_else(|| io::Error::other("no stack in maps"))?, &[0; 8])
}

/// Traces a child that asked for it, as debuggers do.
fn trace_own_child(_: &[OsString]) -> io::Result<()> {
    let mut command = Command::new("/bin/true");
    sys::offer_to_be_traced(&mut command);
    let mut child = command.spawn()?;
    let tgid = i32::try_from(child.id()).map_err(io::Error::other)?;
    waitpid(Pid::from_raw(tgid), WaitOptions::UNTRACED)?;
    sys::trace(Trace::Detach, tgid)?;
    child.wait().map(drop)
}

/// `DEVICE TYPE TARGET`: in a mount namespace of its own, tries to mount the host's disk read-only. The kernel may refuse (the
/// disk is mounted writable already); nothing is read from it either way.
fn mount_device(arguments: &[OsString]) -> io::Result<()> {
    private_mounts()?;
    let (device, kind, target) = (argument(arguments, 0)?, argument(arguments, 1)?, argument(arguments, 2)?);
    let flags = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    match mount(device, target, kind, flags, None::<&std::ffi::CStr>) {
        Ok(()) => println!("mounted"),
        Err(error) => println!("refused: {error}"),
    }
    Ok(())
}

/// `TARGET`: in a mount namespace of its own, a private /tmp, as service managers make it.
fn mount_tmpfs(arguments: &[OsString]) -> io::Result<()> {
    private_mounts()?;
    mount("tmpfs", argument(arguments, 0)?, "tmpfs", MountFlags::NOSUID, None::<&std::ffi::CStr>)?;
    Ok(())
}

/// From a mount namespace of its own, goes into that of its parent: out of the sandbox.
fn join_mount_namespace(_: &[OsString]) -> io::Result<()> {
    let parent = rustix::process::getppid().ok_or_else(|| io::Error::other("no parent"))?;
    let outside = File::open(format!("/proc/{}/ns/mnt", parent.as_raw_nonzero()))?;
    private_mounts()?;
    move_into_link_name_space(outside.as_fd(), Some(rustix::thread::LinkNameSpaceType::Mount))?;
    Ok(())
}

/// Becomes root of a user namespace of its own, where the kernel shows it much that only root may reach.
fn make_user_namespace(_: &[OsString]) -> io::Result<()> {
    sys::unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWNET)
}

/// Goes into a mount namespace of its own and stays there: into the sandbox.
fn make_mount_namespace(_: &[OsString]) -> io::Result<()> {
    private_mounts()
}

/// Loads an eBPF program of two instructions, attached to nothing.
fn bpf_program(_: &[OsString]) -> io::Result<()> {
    sys::load_socket_filter(c"quiet").map(drop)
}

/// Makes an eBPF map, but no program.
fn bpf_map(_: &[OsString]) -> io::Result<()> {
    sys::create_map().map(drop)
}

/// `PORT`: a connection to the operator, and a shell on two pipes: no descriptor of the shell is a socket.
fn pipe_shell(arguments: &[OsString]) -> io::Result<()> {
    let connection = TcpStream::connect(loopback(arguments, 0)?)?;
    let mut shell = Command::new("/bin/sh");
    shell.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut shell = shell.spawn()?;
    let (Some(mut orders), Some(mut answers)) = (shell.stdin.take(), shell.stdout.take()) else {
        return Err(io::Error::other("the shell has no pipes"));
    };
    let mut from_operator = connection.try_clone()?;
    let feeding = std::thread::spawn(move || pump(&mut from_operator, &mut orders));
    pump(&mut answers, &mut &connection)?;
    connection.shutdown(std::net::Shutdown::Both).ok();
    shell.wait()?;
    feeding.join().map_err(|_| io::Error::other("the feeding thread panicked"))?.ok();
    Ok(())
}

/// `PORT`: a connection, and a command whose output is read through a pipe, as any daemon does that calls popen(3).
fn popen(arguments: &[OsString]) -> io::Result<()> {
    let _connection = TcpStream::connect(loopback(arguments, 0)?)?;
    let output = Command::new("/bin/sh").args(["-c", "uname -r"]).stdin(Stdio::null()).output()?;
    if output.status.success() { Ok(()) } else { Err(io::Error::other("uname failed")) }
}

/// `FIRST COUNT`: tries COUNT ports of loopback, once each.
fn scan(arguments: &[OsString]) -> io::Result<()> {
    let (first, count) = (number(arguments, 0)?, number(arguments, 1)?);
    for port in first..first.saturating_add(count) {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        drop(TcpStream::connect_timeout(&address, PORT_PATIENCE));
    }
    Ok(())
}

/// `PORT COUNT`: tries one port again and again, as a client does whose server is still starting.
fn retry(arguments: &[OsString]) -> io::Result<()> {
    let address = loopback(arguments, 0)?;
    for _ in 0..number(arguments, 1)? {
        drop(TcpStream::connect_timeout(&address, PORT_PATIENCE));
    }
    Ok(())
}

/// Hands on each piece as it comes. `io::copy` would splice, and may hold back what is less than its buffer.
fn pump(from: &mut impl Read, to: &mut impl Write) -> io::Result<()> {
    let mut buffer = [0u8; 4096];
    loop {
        match from.read(&mut buffer)? {
            0 => return Ok(()),
            count => to.write_all(&buffer[..count])?,
        }
    }
}

/// A child to be traced; killed when dropped.
struct Victim {
    child: Child,
}

impl Victim {
    fn start() -> io::Result<Self> {
        Ok(Self { child: Command::new("/bin/sleep").arg("20").spawn()? })
    }

    fn tgid(&self) -> io::Result<i32> {
        i32::try_from(self.child.id()).map_err(io::Error::other)
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn private_mounts() -> io::Result<()> {
    sys::unshare(libc::CLONE_NEWNS)?;
    mount_change("/", MountPropagationFlags::REC | MountPropagationFlags::PRIVATE)?;
    Ok(())
}

fn argument(arguments: &[OsString], index: usize) -> io::Result<&Path> {
    arguments
        .get(index)
        .map(Path::new)
        .ok_or_else(|| io::Error::other(format!("argument {index} is missing")))
}

fn number(arguments: &[OsString], index: usize) -> io::Result<u16> {
    let parsed = argument(arguments, index)?.to_str().and_then(|text| text.parse().ok());
    parsed.ok_or_else(|| io::Error::other(format!("argument {index} is no number up to 65535")))
}

fn loopback(arguments: &[OsString], index: usize) -> io::Result<SocketAddr> {
    Ok(SocketAddr::from((Ipv4Addr::LOCALHOST, number(arguments, index)?)))
}

/// The own environment, but with the part that only prints: the program may be a copy of this one.
fn environment_to_say() -> io::Result<Vec<CString>> {
    let others = std::env::vars_os().filter(|(name, _)| name != PART_VARIABLE);
    let variables = others.chain([(PART_VARIABLE.into(), SAY.into())]);
    let entry = |(name, value): (OsString, OsString)| {
        CString::new([name.as_encoded_bytes(), b"=", value.as_encoded_bytes()].concat())
    };
    Ok(variables.map(entry).collect::<Result<_, _>>()?)
}

fn program_and_argv(arguments: &[OsString]) -> io::Result<(&Path, Vec<CString>)> {
    let file = argument(arguments, 0)?;
    let argv = arguments[1..].iter().map(|argument| CString::new(argument.clone().into_vec()));
    Ok((file, argv.collect::<Result<_, _>>()?))
}
