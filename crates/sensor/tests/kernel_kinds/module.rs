//! Attempts to load kernel modules. The images are garbage: nothing is ever loaded.

use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;

use watchfire_event::{Body, What};

use crate::child::{last_errno, mark};
use crate::watch::{Report, Watch, same};

pub(crate) fn run(watch: &mut Watch, report: &mut Report) {
    report.case("module_load (init_module)", init_module(watch));
    report.case("module_load (finit_module)", finit_module(watch));
}

fn told(watch: &mut Watch, wanted: &str) -> Result<(Vec<u8>, i32), String> {
    let found = watch.wait(|sighting| match &sighting.what {
        What::Done(Body::ModuleLoad { name, call, result })
            if sighting.actor.tgid == std::process::id()
                && sighting.actor.started.is_some()
                && *call == wanted =>
        {
            Some((name.clone(), *result))
        }
        _ => None,
    });
    found.ok_or_else(|| "not told".to_owned())
}

fn init_module(watch: &mut Watch) -> Result<(), String> {
    let garbage = b"no module";
    // SAFETY: the image's length and the parameters' NUL are told; the kernel refuses the image.
    let result = unsafe {
        libc::syscall(libc::SYS_init_module, garbage.as_ptr(), garbage.len(), c"".as_ptr());
        last_errno()
    };
    same("name, result", told(watch, "init_module")?, (Vec::new(), result))?;
    same("refused", result < 0, true)
}

fn finit_module(watch: &mut Watch) -> Result<(), String> {
    let path = std::env::temp_dir().join(mark("garbage.ko"));
    std::fs::write(&path, b"no module").expect("write the garbage");
    let file = std::fs::File::open(&path).expect("open the garbage");
    // SAFETY: an open descriptor and a string that outlives the call; the kernel refuses the image.
    let result = unsafe {
        libc::syscall(libc::SYS_finit_module, file.as_raw_fd(), c"".as_ptr(), 0);
        last_errno()
    };
    let whole = std::fs::canonicalize(&path).expect("its own path");
    std::fs::remove_file(&path).expect("remove the garbage");
    same("name, result", told(watch, "finit_module")?, (whole.as_os_str().as_bytes().to_vec(), result))?;
    same("refused", result < 0, true)
}
