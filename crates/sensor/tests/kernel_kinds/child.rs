//! Making child processes with full control over what exec sees: fork, a setup in the child, execve or fexecve.

use std::ffi::{CStr, CString};
use std::os::fd::RawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

/// What the child executes.
pub(crate) enum Image<'a> {
    Path(&'a CStr),
    Descriptor(RawFd),
}

/// This program's own file.
pub(crate) fn own_path() -> PathBuf {
    std::fs::read_link("/proc/self/exe").expect("own path")
}

pub(crate) fn own_cpath() -> CString {
    CString::new(own_path().as_os_str().as_bytes()).expect("a path has no NUL")
}

/// Forks; the child runs `setup` and executes. Returns the child's pid.
///
/// The test program has one thread, so that the child may call anything.
pub(crate) fn spawn(image: &Image<'_>, argv: &[CString], setup: impl FnOnce()) -> i32 {
    let mut pointers: Vec<_> = argv.iter().map(|arg| arg.as_ptr()).collect();
    pointers.push(std::ptr::null());
    let environment = [std::ptr::null()];
    fork(|| {
        setup();
        // SAFETY: both lists end with a null pointer and, like the strings, outlive the call.
        unsafe {
            match image {
                Image::Path(path) => libc::execve(path.as_ptr(), pointers.as_ptr(), environment.as_ptr()),
                Image::Descriptor(fd) => libc::fexecve(*fd, pointers.as_ptr(), environment.as_ptr()),
            };
        }
        126
    })
}

/// Forks; the child runs `body` and exits with what it returns.
pub(crate) fn fork(body: impl FnOnce() -> i32) -> i32 {
    // SAFETY: single-threaded, so that the child finds all locks free.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0, "fork: {}", std::io::Error::last_os_error());
    if pid == 0 {
        let code = body();
        // SAFETY: ends the child without running the parent's exit handlers.
        unsafe { libc::_exit(code) }
    }
    pid
}

/// Waits for a child; its raw status.
pub(crate) fn wait(pid: i32) -> i32 {
    let mut status = 0;
    // SAFETY: `status` outlives the call.
    let waited = unsafe { libc::waitpid(pid, &raw mut status, 0) };
    assert_eq!(waited, pid, "waitpid: {}", std::io::Error::last_os_error());
    status
}

/// An argument list that starts one of this program's roles, with a mark that is in no other argv.
pub(crate) fn role(name: &str, mark: &str) -> Vec<CString> {
    [b"kernel_kinds".as_slice(), b"role", name.as_bytes(), mark.as_bytes()]
        .map(|arg| CString::new(arg).expect("no NUL"))
        .to_vec()
}

/// A mark of this run and case.
pub(crate) fn mark(case: &str) -> String {
    format!("watchfire-{}-{case}", std::process::id())
}

/// `errno` of the last call of libc, negated.
pub(crate) fn last_errno() -> i32 {
    -std::io::Error::last_os_error().raw_os_error().unwrap_or_default()
}
