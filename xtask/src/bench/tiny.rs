//! A program that does nothing but exit: the ELF file is written by hand, so that it has no libraries and no start-up.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context, Result};

/// Where the segment is mapped.
const BASE: u64 = 0x40_0000;
const HEADERS: u16 = 64 + 56;

/// exit(0).
#[cfg(target_arch = "x86_64")]
const CODE: &[u8] = &[0x31, 0xff, 0xb8, 0x3c, 0, 0, 0, 0x0f, 0x05]; // xor edi,edi; mov eax,60; syscall
#[cfg(target_arch = "x86_64")]
const MACHINE: u16 = 62;
#[cfg(target_arch = "aarch64")]
const CODE: &[u8] = &[0, 0, 0x80, 0xd2, 0xa8, 0x0b, 0x80, 0xd2, 1, 0, 0, 0xd4]; // mov x0,#0; mov x8,#93; svc #0
#[cfg(target_arch = "aarch64")]
const MACHINE: u16 = 183;

/// Writes the program.
pub(super) fn write(path: &Path) -> Result<()> {
    fs::write(path, image()).with_context(|| format!("write {}", path.display()))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))
        .with_context(|| format!("chmod {}", path.display()))
}

/// The bytes of the file: ELF header, one program header, the code.
pub(super) fn image() -> Vec<u8> {
    let size = u64::from(HEADERS) + CODE.len() as u64;
    let mut bytes = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let half = |bytes: &mut Vec<u8>, value: u16| bytes.extend(value.to_le_bytes());
    let word = |bytes: &mut Vec<u8>, value: u32| bytes.extend(value.to_le_bytes());
    let long = |bytes: &mut Vec<u8>, value: u64| bytes.extend(value.to_le_bytes());
    half(&mut bytes, 2); // an executable
    half(&mut bytes, MACHINE);
    word(&mut bytes, 1); // version
    long(&mut bytes, BASE + u64::from(HEADERS)); // entry
    long(&mut bytes, 64); // program headers
    long(&mut bytes, 0); // no sections
    word(&mut bytes, 0); // flags
    for value in [64, 56, 1, 64, 0, 0] {
        half(&mut bytes, value); // sizes and numbers of headers
    }
    word(&mut bytes, 1); // PT_LOAD
    word(&mut bytes, 5); // read, execute
    for value in [0, BASE, BASE, size, size, 0x1000] {
        long(&mut bytes, value); // offset, addresses, sizes, alignment
    }
    bytes.extend(CODE);
    bytes
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::{Mutex, MutexGuard, PoisonError};

    use super::*;

    /// A child that another thread starts meanwhile holds a copy of the descriptor that writes the program, which then
    /// cannot be run ("text file busy"): tests that write programs or start any take turns.
    pub(crate) fn alone() -> MutexGuard<'static, ()> {
        static TURN: Mutex<()> = Mutex::new(());
        TURN.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[test]
    fn the_program_runs_and_says_zero() {
        let _alone = alone();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tiny");
        write(&path).unwrap();
        assert!(std::process::Command::new(&path).arg("x").status().unwrap().success());
    }
}
