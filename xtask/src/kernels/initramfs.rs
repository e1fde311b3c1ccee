//! The guest's whole file system: busybox, the test program, a few modules, and an init that runs the program and powers off.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::debian::Kernel;
use crate::command::output;

/// What init prints before and after the program, so that its lines can be told from the kernel's.
pub(super) const BEGIN: &str = "=== payload begins ===";
pub(super) const END: &str = "=== payload ended with status";

/// A file system with file handles and change events as on a real host, made in memory.
const MODULES: &[&str] = &["crc16", "libcrc32c", "crc32c_generic", "mbcache", "jbd2", "ext4", "loop"];

const INIT: &str = r#"#!/bin/sh
export PATH=/bin:/sbin:/usr/bin:/usr/sbin HOME=/root LANG=C
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs tmpfs /tmp
mount -t tmpfs tmpfs /run
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t tracefs tracefs /sys/kernel/tracing
mount -t securityfs securityfs /sys/kernel/security
mount -t bpf bpf /sys/fs/bpf
for module in /modules/*.ko; do [ -e "$module" ] && insmod "$module"; done
ip link set lo up
echo 'root:x:0:0:root:/root:/bin/sh' > /etc/passwd
echo 'nobody:x:65534:65534:nobody:/:/bin/false' >> /etc/passwd
# The root of an initramfs has no file handles; what the sensors watch lies on a real file system.
if dd if=/dev/zero of=/run/disk bs=1M count=64 2>/dev/null && mke2fs -F /run/disk >/dev/null 2>&1; then
    mount -t ext4 -o loop /run/disk /disk && export TMPDIR=/disk
fi
# An emulated CPU takes its time.
export WATCHFIRE_STORM=5000
uname -r
echo '=== payload begins ==='
/payload
echo "=== payload ended with status $?"
sync
poweroff -f
"#;

/// Writes the archive for this kernel.
pub(super) fn write(path: &Path, payload: &Path, busybox: &Path, kernel: &Kernel) -> Result<()> {
    let file = File::create(path).with_context(|| format!("create {}", path.display()))?;
    let mut archive = Cpio { out: BufWriter::new(file), inode: 0 };
    let fill = |archive: &mut Cpio<BufWriter<File>>| -> Result<()> {
        for folder in FOLDERS {
            archive.folder(folder)?;
        }
        archive.file("init", INIT.as_bytes(), 0o755)?;
        archive.file("bin/busybox", &read(busybox)?, 0o755)?;
        let list = output(Command::new(busybox).arg("--list-full"))?;
        for applet in list.lines().filter(|applet| *applet != "bin/busybox" && *applet != "init") {
            archive.symlink(applet, "/bin/busybox")?;
        }
        archive.file("payload", &read(payload)?, 0o755)?;
        for (number, module) in MODULES.iter().enumerate() {
            if let Some(bytes) = module_bytes(&kernel.modules, module)? {
                // insmod follows no dependencies: the names keep the order.
                archive.file(&format!("modules/{number}-{module}.ko"), &bytes, 0o644)?;
            }
        }
        archive.end()
    };
    fill(&mut archive).with_context(|| format!("write {}", path.display()))
}

const FOLDERS: &[&str] = &[
    "bin", "sbin", "usr", "usr/bin", "usr/sbin", "proc", "sys", "dev", "tmp", "run", "etc", "root", "disk",
    "modules", "var", "var/log", "var/tmp",
];

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("read {}", path.display()))
}

/// A module of the kernel package, unpacked; `None` when this kernel has it built in or not at all.
fn module_bytes(modules: &Path, name: &str) -> Result<Option<Vec<u8>>> {
    let Some(path) = find_module(modules, name) else { return Ok(None) };
    if path.extension().is_some_and(|extension| extension == "xz") {
        let unpacked =
            Command::new("xz").arg("-dc").arg(&path).output().context("xz unpacks a kernel module")?;
        return Ok(Some(unpacked.stdout));
    }
    read(&path).map(Some)
}

fn find_module(folder: &Path, name: &str) -> Option<PathBuf> {
    for entry in fs::read_dir(folder).ok()?.filter_map(Result::ok) {
        let path = entry.path();
        if path.is_dir() {
            if let Some(found) = find_module(&path, name) {
                return Some(found);
            }
        } else if entry.file_name().to_string_lossy().split('.').next() == Some(name) {
            return Some(path);
        }
    }
    None
}

/// The kernel's archive format ("newc"), Documentation/driver-api/early-userspace/buffer-format.rst.
struct Cpio<W: Write> {
    out: W,
    inode: u32,
}

impl<W: Write> Cpio<W> {
    fn folder(&mut self, name: &str) -> Result<()> {
        self.entry(name, 0o040_755, &[])
    }

    fn file(&mut self, name: &str, bytes: &[u8], mode: u32) -> Result<()> {
        self.entry(name, 0o100_000 | mode, bytes)
    }

    fn symlink(&mut self, name: &str, target: &str) -> Result<()> {
        self.entry(name, 0o120_777, target.as_bytes())
    }

    fn end(&mut self) -> Result<()> {
        self.entry("TRAILER!!!", 0, &[])?;
        self.out.flush().context("flush")
    }

    fn entry(&mut self, name: &str, mode: u32, bytes: &[u8]) -> Result<()> {
        self.inode += 1;
        let size = u32::try_from(bytes.len()).context("a file of 4 GiB does not fit")?;
        let name_size = u32::try_from(name.len() + 1).context("a long name")?;
        let links = if mode & 0o170_000 == 0o040_000 { 2 } else { 1 };
        // inode, mode, uid, gid, links, mtime, size, device and special device (major, minor), length of the name, checksum
        let fields = [self.inode, mode, 0, 0, links, 0, size, 0, 0, 0, 0, name_size, 0];
        let header: String = fields.iter().map(|field| format!("{field:08x}")).collect();
        let mut head = format!("070701{header}{name}\0").into_bytes();
        pad(&mut head);
        self.out.write_all(&head).context("write a header")?;
        self.out.write_all(bytes).context("write a file")?;
        let rest = bytes.len().next_multiple_of(4) - bytes.len();
        self.out.write_all(&[0; 3][..rest]).context("write padding")
    }
}

fn pad(bytes: &mut Vec<u8>) {
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_have_110_bytes_and_everything_is_aligned() {
        let mut archive = Cpio { out: Vec::new(), inode: 0 };
        archive.file("init", b"hello", 0o755).unwrap();
        archive.end().unwrap();
        assert_eq!(&archive.out[..6], b"070701");
        assert_eq!(&archive.out[110..115], b"init\0");
        assert_eq!(&archive.out[116..121], b"hello");
        assert_eq!(&archive.out[124..130], b"070701");
        assert_eq!(archive.out.len() % 4, 0);
    }

    #[test]
    fn init_says_what_the_reader_waits_for() {
        assert!(INIT.contains(BEGIN) && INIT.contains(END));
    }
}
