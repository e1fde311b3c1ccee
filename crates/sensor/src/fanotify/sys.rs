//! The system calls of fanotify and of file handles, safe to call.

use std::ffi::CStr;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use super::records::Handle;

/// `MAX_HANDLE_SZ` of the kernel.
const MAX_HANDLE: usize = 128;
const MAX_HANDLE_U32: u32 = 128;
const _: () = assert!(MAX_HANDLE_U32 as usize == MAX_HANDLE);

/// `struct file_handle` with room for the largest.
#[repr(C)]
struct RawHandle {
    bytes: u32,
    kind: i32,
    handle: [u8; MAX_HANDLE],
}

/// What a mark is put on.
#[derive(Debug, Clone, Copy)]
pub(super) enum Target<'a> {
    /// The open directory itself.
    Directory(BorrowedFd<'a>),
    /// A name in an open directory; a symbolic link there is not followed.
    Name(BorrowedFd<'a>, &'a CStr),
    /// The whole file system that holds the open directory.
    FileSystem(BorrowedFd<'a>),
}

/// A new notification group.
pub(super) fn init(flags: u32) -> io::Result<OwnedFd> {
    // SAFETY: both arguments are integers; no pointer crosses the call.
    let fd = unsafe { libc::fanotify_init(flags, (libc::O_RDONLY | libc::O_CLOEXEC).cast_unsigned()) };
    owned(fd)
}

/// Adds `mask` to the mark of `group` on `target`, or takes it away.
pub(super) fn mark(group: BorrowedFd<'_>, target: Target<'_>, add: bool, mask: u64) -> io::Result<()> {
    let change = if add { libc::FAN_MARK_ADD } else { libc::FAN_MARK_REMOVE };
    let (flags, dir, name) = match target {
        Target::Directory(dir) => (libc::FAN_MARK_ONLYDIR, dir, None),
        Target::Name(dir, name) => (libc::FAN_MARK_DONT_FOLLOW, dir, Some(name)),
        Target::FileSystem(dir) => (libc::FAN_MARK_FILESYSTEM, dir, None),
    };
    let name = name.map_or(std::ptr::null(), CStr::as_ptr);
    // SAFETY: `name` is null (the descriptor itself is meant) or a C string that outlives the call, which only reads it;
    // both descriptors are borrowed, hence open.
    let result =
        unsafe { libc::fanotify_mark(group.as_raw_fd(), change | flags, mask, dir.as_raw_fd(), name) };
    done(result)
}

/// The handle of the directory `dir`, or of `name` in it (not followed).
pub(super) fn handle_of(dir: BorrowedFd<'_>, name: Option<&CStr>) -> io::Result<Handle> {
    let flags = if name.is_none() { libc::AT_EMPTY_PATH } else { 0 };
    let path = name.unwrap_or(c"");
    // Handles that can be opened first; else (overlayfs without nfs_export) those that only identify, which is what fanotify
    // reports there.
    let raw = raw_handle(dir, path, flags).or_else(|_| raw_handle(dir, path, flags | libc::AT_HANDLE_FID))?;
    let used = usize::try_from(raw.bytes).unwrap_or(MAX_HANDLE).min(MAX_HANDLE);
    Ok(Handle { fsid: fsid(dir)?, kind: raw.kind, bytes: raw.handle[..used].into() })
}

fn raw_handle(dir: BorrowedFd<'_>, path: &CStr, flags: i32) -> io::Result<RawHandle> {
    let mut raw = RawHandle { bytes: MAX_HANDLE_U32, kind: 0, handle: [0; MAX_HANDLE] };
    let mut mount = 0;
    // SAFETY: `raw` is laid out as `struct file_handle` and says it has room for MAX_HANDLE bytes, which it has; `mount` is a
    // live integer; `path` is a C string that the call only reads.
    let result = unsafe {
        libc::name_to_handle_at(dir.as_raw_fd(), path.as_ptr(), (&raw mut raw).cast(), &raw mut mount, flags)
    };
    done(result).map(|()| raw)
}

/// Opens the directory that `handle` names, through any descriptor of its file system.
pub(super) fn open_by_handle(mount: BorrowedFd<'_>, handle: &Handle) -> io::Result<OwnedFd> {
    let length = u32::try_from(handle.bytes.len()).ok().filter(|length| *length <= MAX_HANDLE_U32);
    let length = length.ok_or(io::ErrorKind::InvalidInput)?;
    let mut raw = RawHandle { bytes: length, kind: handle.kind, handle: [0; MAX_HANDLE] };
    raw.handle[..handle.bytes.len()].copy_from_slice(&handle.bytes);
    let flags = libc::O_RDONLY | libc::O_DIRECTORY | libc::O_NOATIME | libc::O_CLOEXEC;
    // SAFETY: `raw` is laid out as `struct file_handle` and holds the number of bytes it says; the call only reads it.
    let fd = unsafe { libc::open_by_handle_at(mount.as_raw_fd(), (&raw mut raw).cast(), flags) };
    owned(fd)
}

/// The file system id that fanotify reports for objects of the file system behind `dir`.
fn fsid(dir: BorrowedFd<'_>) -> io::Result<[u8; 8]> {
    let mut stat = MaybeUninit::<libc::statfs>::zeroed();
    // SAFETY: the call fills the structure it is given, and `stat` is one.
    done(unsafe { libc::fstatfs(dir.as_raw_fd(), stat.as_mut_ptr()) })?;
    // SAFETY: all-zero bytes are a valid `statfs`, and the call succeeded.
    let stat = unsafe { stat.assume_init() };
    // SAFETY: `fsid_t` is two 32-bit integers without padding; its fields are private to libc.
    Ok(unsafe { std::mem::transmute::<libc::fsid_t, [u8; 8]>(stat.f_fsid) })
}

/// Takes over a descriptor that the kernel put into a record, so that it is closed in every case.
pub(super) fn adopt(fd: RawFd) -> Option<OwnedFd> {
    // SAFETY: the caller passes the number that the kernel installed for the record it just read; nothing else in this process
    // knows that number, and each record is adopted once.
    (fd >= 0).then(|| unsafe { OwnedFd::from_raw_fd(fd) })
}

fn owned(fd: RawFd) -> io::Result<OwnedFd> {
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call that returned `fd` opened it for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn done(result: i32) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
