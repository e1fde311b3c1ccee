//! What loading says when it cannot be done.

use std::path::Path;

use watchfire_sensor::ebpf::{self, EbpfError, EbpfSettings, Object};

use crate::child::{fork, wait};
use crate::watch::{Report, same};

pub(crate) fn run(report: &mut Report) {
    report.check("refused without root", without_root());
    if !Path::new("/proc/modules").exists() {
        report.check("no modules, nothing to see", without_modules());
    }
}

/// A child that has given up root is told what it may not do.
fn without_root() -> Result<String, String> {
    let pid = fork(|| {
        // SAFETY: integers only; changes the child alone.
        let dropped = unsafe { libc::setresuid(65534, 65534, 65534) };
        match ebpf::load(&EbpfSettings::default(), Object::Process) {
            Err(EbpfError::Refused { .. }) => dropped,
            Err(error) => {
                println!("check refused without root: {error:?}");
                1
            }
            Ok(_) => 2,
        }
    });
    same("the child", wait(pid), 0).map(|()| "told as not permitted".to_owned())
}

fn without_modules() -> Result<String, String> {
    match ebpf::load(&EbpfSettings::default(), Object::Module) {
        Err(error @ EbpfError::NothingToSee { .. }) => Ok(error.to_string()),
        Err(error) => Err(error.to_string()),
        Ok(_) => Err("loaded".to_owned()),
    }
}
