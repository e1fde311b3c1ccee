//! The system calls that need `unsafe`: mapping a ring, attaching to a tracepoint, giving memory back.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

/// `PERF_TYPE_TRACEPOINT`.
const PERF_TYPE_TRACEPOINT: u32 = 2;
/// `PERF_FLAG_FD_CLOEXEC`.
const PERF_FLAG_FD_CLOEXEC: libc::c_ulong = 8;
/// `PERF_EVENT_IOC_ENABLE` and `PERF_EVENT_IOC_SET_BPF`.
const PERF_EVENT_IOC_ENABLE: libc::c_ulong = 0x2400;
const PERF_EVENT_IOC_SET_BPF: libc::c_ulong = 0x4004_2408;

/// Pages shared with the kernel. The kernel writes to them at any time, so that single words are read atomically, and
/// slices are given out only of bytes that the kernel has promised to leave alone.
pub(super) struct SharedPages {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: the mapping belongs to this value alone and is not tied to the thread that made it.
unsafe impl Send for SharedPages {}

impl SharedPages {
    /// Maps `len` bytes of `fd` from `offset`.
    pub(super) fn map(fd: BorrowedFd<'_>, offset: u64, len: usize, writable: bool) -> io::Result<Self> {
        let protection = if writable { ProtFlags::READ | ProtFlags::WRITE } else { ProtFlags::READ };
        // SAFETY: the kernel picks a free range (null hint, no MAP_FIXED), so no memory of ours is replaced.
        let start = unsafe { mmap(std::ptr::null_mut(), len, protection, MapFlags::SHARED, fd, offset) }?;
        let start = NonNull::new(start.cast()).ok_or_else(|| io::Error::other("mapped at address zero"))?;
        Ok(SharedPages { start, len })
    }

    /// The word of 64 bits at `offset`, which must lie inside and be aligned.
    pub(super) fn word(&self, offset: usize) -> &AtomicU64 {
        assert!(offset.is_multiple_of(8) && offset + 8 <= self.len, "word at {offset} of {}", self.len);
        // SAFETY: inside the mapping and aligned (checked above; mappings start on a page); lives as long as `self`.
        unsafe { self.start.add(offset).cast::<AtomicU64>().as_ref() }
    }

    /// The word of 32 bits at `offset`, read with acquire ordering.
    pub(super) fn half(&self, offset: usize) -> u32 {
        assert!(offset.is_multiple_of(4) && offset + 4 <= self.len, "word at {offset} of {}", self.len);
        // SAFETY: inside the mapping and aligned, as above. Never written through: the pages may be read-only.
        unsafe { self.start.add(offset).cast::<AtomicU32>().as_ref() }.load(Ordering::Acquire)
    }

    /// Bytes of a committed record. The kernel leaves a record alone from its commit until the consumer position has
    /// passed it; the caller holds the ring and moves that position only after this borrow has ended.
    pub(super) fn committed(&self, offset: usize, len: usize) -> &[u8] {
        assert!(offset <= self.len && len <= self.len - offset, "{len} bytes at {offset} of {}", self.len);
        // SAFETY: inside the mapping (checked above), initialised by the kernel, and not written to meanwhile: see above.
        unsafe { std::slice::from_raw_parts(self.start.add(offset).as_ptr(), len) }
    }
}

impl Drop for SharedPages {
    fn drop(&mut self) {
        // SAFETY: exactly the range that `map` made; no borrow of it outlives `self`.
        let unmapped = unsafe { munmap(self.start.as_ptr().cast(), self.len) };
        debug_assert!(unmapped.is_ok(), "a mapping of ours can be unmapped");
    }
}

/// `struct perf_event_attr` as of its first version (64 bytes), which every kernel takes.
#[repr(C)]
#[derive(Default)]
struct PerfEventAttr {
    kind: u32,
    size: u32,
    config: u64,
    sample_period: u64,
    sample_type: u64,
    read_format: u64,
    flags: u64,
    wakeup_events: u32,
    bp_type: u32,
    config1: u64,
}

const _: () = assert!(size_of::<PerfEventAttr>() == 64);

/// Attaches a program to the tracepoint with this id, on all CPUs, until the returned descriptor is closed.
pub(super) fn attach_tracepoint(id: u64, program: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let attr = PerfEventAttr { kind: PERF_TYPE_TRACEPOINT, size: 64, config: id, ..PerfEventAttr::default() };
    // SAFETY: `attr` outlives the call and `size` tells its true length; the other arguments are integers: any process
    // (-1) on CPU 0, no group. A program on a tracepoint runs on every CPU, whichever the event was opened for.
    let opened =
        unsafe { libc::syscall(libc::SYS_perf_event_open, &raw const attr, -1, 0, -1, PERF_FLAG_FD_CLOEXEC) };
    let raw = i32::try_from(opened).map_err(io::Error::other)?;
    if raw < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor, and nobody else knows of it.
    let event = unsafe { OwnedFd::from_raw_fd(raw) };
    // SAFETY: these two requests take an integer and nothing; no pointer crosses the call.
    let set = unsafe { libc::ioctl(event.as_raw_fd(), PERF_EVENT_IOC_SET_BPF as _, program.as_raw_fd()) };
    if set < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: as above.
    let enabled = unsafe { libc::ioctl(event.as_raw_fd(), PERF_EVENT_IOC_ENABLE as _, 0) };
    if enabled < 0 { Err(io::Error::last_os_error()) } else { Ok(event) }
}

/// `BPF_OBJ_GET_INFO_BY_FD`.
const BPF_OBJ_GET_INFO_BY_FD: libc::c_int = 15;
/// Words of `struct bpf_prog_info` we ask for, and the one that holds `recursion_misses` (5.12).
const INFO_WORDS: usize = 27;
const INFO_RECURSION_MISSES: usize = 26;

/// The `info` part of `union bpf_attr`.
#[repr(C)]
struct InfoAttr {
    program: u32,
    len: u32,
    info: u64,
}

/// How often the kernel left a program out because it was already running on that CPU: a hook in an interrupt on top of
/// the same hook. 0 where the kernel does not count it.
pub(super) fn missed_runs(program: BorrowedFd<'_>) -> io::Result<u64> {
    let mut info = [0u64; INFO_WORDS];
    let len = u32::try_from(size_of_val(&info)).map_err(io::Error::other)?;
    let mut attr =
        InfoAttr { program: program.as_raw_fd().cast_unsigned(), len, info: info.as_mut_ptr().addr() as u64 };
    // SAFETY: `attr` and the words it points to outlive the call, and both their lengths are told; the kernel writes no
    // more than `len` bytes.
    let told =
        unsafe { libc::syscall(libc::SYS_bpf, BPF_OBJ_GET_INFO_BY_FD, &raw mut attr, size_of::<InfoAttr>()) };
    if told < 0 { Err(io::Error::last_os_error()) } else { Ok(info[INFO_RECURSION_MISSES]) }
}

/// Gives freed memory back to the kernel: parsing the kernel's types leaves 17 to 28 MB of it behind.
pub(super) fn trim_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: only releases free pages of the allocator; takes its own locks.
    unsafe {
        libc::malloc_trim(0);
    }
}
