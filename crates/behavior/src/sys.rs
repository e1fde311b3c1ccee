//! The system calls that have no safe wrapper elsewhere: each function here is safe to call.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::atomic::{AtomicI32, Ordering};

use libc::{c_int, c_long, c_void};

/// Write end of the pipe that the signal handler writes to; -1 before it is set.
static SIGNAL_PIPE: AtomicI32 = AtomicI32::new(-1);
const SIGNALS: [c_int; 3] = [libc::SIGINT, libc::SIGTERM, libc::SIGHUP];

/// `BPF_MAP_CREATE`, `BPF_PROG_LOAD`, `BPF_MAP_TYPE_ARRAY`, `BPF_PROG_TYPE_SOCKET_FILTER` of `linux/bpf.h`.
const BPF_MAP_CREATE: c_long = 0;
const BPF_PROG_LOAD: c_long = 5;
const BPF_MAP_TYPE_ARRAY: u32 = 2;
const BPF_PROG_TYPE_SOCKET_FILTER: u32 = 1;

/// The read end of the signal pipe.
pub(crate) struct Signals {
    pipe: OwnedFd,
}

impl Signals {
    /// Waits for the first signal; `None` when the pipe failed.
    pub(crate) fn wait(&self) -> Option<c_int> {
        let mut number = [0u8; 1];
        loop {
            match rustix::io::read(&self.pipe, &mut number) {
                Ok(1) => return Some(c_int::from(number[0])),
                Err(rustix::io::Errno::INTR) => {}
                _ => return None,
            }
        }
    }
}

/// Routes SIGINT, SIGTERM and SIGHUP into a pipe.
pub(crate) fn watch_signals() -> io::Result<Signals> {
    let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    // The handler may run until the process ends, so its end of the pipe is never closed.
    SIGNAL_PIPE.store(std::os::fd::IntoRawFd::into_raw_fd(write), Ordering::SeqCst);
    let handler: extern "C" fn(c_int) = on_signal;
    for signal in SIGNALS {
        // SAFETY: `on_signal` only loads an atomic and calls write(2), both allowed in a signal handler.
        if unsafe { libc::signal(signal, handler as libc::sighandler_t) } == libc::SIG_ERR {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(Signals { pipe: read })
}

extern "C" fn on_signal(signal: c_int) {
    let number = [u8::try_from(signal).unwrap_or(0)];
    // SAFETY: the buffer is a live local of one byte; a closed or full pipe only makes the call fail.
    unsafe { libc::write(SIGNAL_PIPE.load(Ordering::SeqCst), number.as_ptr().cast(), 1) };
}

/// Ends this process as an unhandled `signal` does.
pub(crate) fn die_of(signal: c_int) -> ! {
    // SAFETY: restoring the default action and raising a signal take integers only.
    unsafe {
        libc::signal(signal, libc::SIG_DFL);
        libc::raise(signal);
    }
    std::process::exit(128 + signal)
}

/// Replaces this process by the program behind `image`; returns only the error.
pub(crate) fn fexecve(image: BorrowedFd<'_>, argv: &[CString], environment: &[CString]) -> io::Error {
    let pointers = |strings: &[CString]| {
        let ends = strings.iter().map(|text| text.as_ptr()).chain([std::ptr::null()]);
        ends.collect::<Vec<_>>()
    };
    let (arguments, variables) = (pointers(argv), pointers(environment));
    // SAFETY: both arrays end in a null pointer and point to C strings that outlive the call.
    unsafe { libc::fexecve(image.as_raw_fd(), arguments.as_ptr(), variables.as_ptr()) };
    io::Error::last_os_error()
}

/// Leaves the given namespaces (`CLONE_NEW*`). The process must have one thread only.
pub(crate) fn unshare(flags: c_int) -> io::Result<()> {
    // SAFETY: takes an integer; no flag used here (namespaces) changes memory or descriptors of this process.
    check(unsafe { libc::unshare(flags) }.into())
}

/// What is asked of a traced process.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Trace {
    /// Stop it and become its tracer.
    Attach,
    /// Let it go on untraced.
    Detach,
}

/// ptrace(2) without data.
pub(crate) fn trace(request: Trace, tgid: i32) -> io::Result<()> {
    let request = match request {
        Trace::Attach => libc::PTRACE_ATTACH,
        Trace::Detach => libc::PTRACE_DETACH,
    };
    let none = std::ptr::null_mut::<c_void>();
    // SAFETY: these requests take neither address nor data.
    check(unsafe { libc::ptrace(request, tgid, none, none) })
}

/// Reads the word at the traced process' instruction pointer and writes the same word back: the calls of an injection,
/// with nothing changed.
pub(crate) fn rewrite_current_instruction(tgid: i32) -> io::Result<()> {
    let address = instruction_pointer(tgid)? as *mut c_void;
    // SAFETY: `address` lies in the other process; the kernel checks it there. errno tells an error from the word -1.
    let word = unsafe {
        *libc::__errno_location() = 0;
        libc::ptrace(libc::PTRACE_PEEKTEXT, tgid, address, std::ptr::null_mut::<c_void>())
    };
    if word == -1 && io::Error::last_os_error().raw_os_error() != Some(0) {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: as above; the data argument is the word itself, not a pointer.
    check(unsafe { libc::ptrace(libc::PTRACE_POKETEXT, tgid, address, word as *mut c_void) })
}

#[cfg(target_arch = "x86_64")]
fn instruction_pointer(tgid: i32) -> io::Result<u64> {
    let mut registers = std::mem::MaybeUninit::<libc::user_regs_struct>::zeroed();
    let none = std::ptr::null_mut::<c_void>();
    // SAFETY: the kernel fills the struct that GETREGS is documented to fill; zeroed integers are a valid value anyway.
    let registers = unsafe {
        check(libc::ptrace(libc::PTRACE_GETREGS, tgid, none, registers.as_mut_ptr()))?;
        registers.assume_init()
    };
    // SAFETY: hands the same registers back; the kernel reads one such struct.
    check(unsafe { libc::ptrace(libc::PTRACE_SETREGS, tgid, none, &raw const registers) })?;
    Ok(registers.rip)
}

#[cfg(not(target_arch = "x86_64"))]
fn instruction_pointer(tgid: i32) -> io::Result<u64> {
    // Field 30 of /proc/TGID/stat, counted after the command name, which may hold blanks.
    let stat = std::fs::read_to_string(format!("/proc/{tgid}/stat"))?;
    let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let pointer = fields.split_whitespace().nth(27).and_then(|field| field.parse().ok());
    pointer.ok_or_else(|| io::Error::other("no instruction pointer in stat"))
}

/// Writes `bytes` at `address` of another process.
pub(crate) fn write_other_memory(tgid: i32, address: u64, bytes: &[u8]) -> io::Result<()> {
    let local = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    let remote = libc::iovec { iov_base: address as *mut c_void, iov_len: bytes.len() };
    // SAFETY: the kernel only reads the local part, which is a live slice; the remote part is checked in the other process.
    let written = unsafe { libc::process_vm_writev(tgid, &raw const local, 1, &raw const remote, 1, 0) };
    check(c_long::try_from(written).unwrap_or(-1))
}

/// Makes `command`'s child offer itself to be traced by this process.
pub(crate) fn offer_to_be_traced(command: &mut Command) {
    let offer = || {
        let none = std::ptr::null_mut::<c_void>();
        // SAFETY: TRACEME takes no arguments, and is a plain system call, allowed between fork and exec.
        check(unsafe { libc::ptrace(libc::PTRACE_TRACEME, 0, none, none) })
    };
    // SAFETY: the closure allocates nothing and takes no lock.
    unsafe { command.pre_exec(offer) };
}

/// Loads a socket filter of two instructions (return 0) and lets go of it.
pub(crate) fn load_socket_filter(name: &CStr) -> io::Result<OwnedFd> {
    /// The head of `union bpf_attr` for BPF_PROG_LOAD, up to the program's name.
    #[repr(C)]
    #[derive(Default)]
    struct Load {
        program_type: u32,
        instruction_count: u32,
        instructions: u64,
        license: u64,
        log_level: u32,
        log_size: u32,
        log_buffer: u64,
        kernel_version: u32,
        flags: u32,
        name: [u8; 16],
    }
    // r0 = 0 (BPF_ALU64 | BPF_MOV | BPF_K), then exit.
    let instructions: [u64; 2] =
        [u64::from_le_bytes([0xb7, 0, 0, 0, 0, 0, 0, 0]), u64::from_le_bytes([0x95, 0, 0, 0, 0, 0, 0, 0])];
    let mut load = Load {
        program_type: BPF_PROG_TYPE_SOCKET_FILTER,
        instruction_count: 2,
        instructions: instructions.as_ptr() as u64,
        license: c"GPL".as_ptr() as u64,
        ..Load::default()
    };
    let bytes = name.to_bytes();
    let kept = bytes.len().min(load.name.len() - 1);
    load.name[..kept].copy_from_slice(&bytes[..kept]);
    // SAFETY: the struct has the layout of bpf_attr for this command, and its pointers outlive the call.
    unsafe { bpf(BPF_PROG_LOAD, (&raw const load).cast(), size_of::<Load>()) }
}

/// Makes a map of one entry and lets go of it.
pub(crate) fn create_map() -> io::Result<OwnedFd> {
    let attributes: [u32; 4] = [BPF_MAP_TYPE_ARRAY, 4, 8, 1];
    // SAFETY: type, key size, value size, entries: the head of bpf_attr for this command; the kernel takes the rest as 0.
    unsafe { bpf(BPF_MAP_CREATE, attributes.as_ptr().cast(), size_of_val(&attributes)) }
}

/// # Safety
/// `attributes` points to `size` bytes that are a valid `bpf_attr` for `command`.
unsafe fn bpf(command: c_long, attributes: *const c_void, size: usize) -> io::Result<OwnedFd> {
    // SAFETY: by this function's contract.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, attributes, size) };
    match c_int::try_from(result) {
        // SAFETY: the kernel has just made this descriptor for us alone.
        Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(io::Error::last_os_error()),
    }
}

fn check(result: c_long) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
