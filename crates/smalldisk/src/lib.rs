//! For tests only: a disk that can be filled to the last byte and hurts nobody else. A tmpfs; mounting it needs root.

use std::ffi::CString;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_change, unmount};
use rustix::thread::{UnshareFlags, unshare_unsafe};

const FILLER: &str = "filler";

/// A tmpfs on a directory, unmounted when this is dropped.
#[derive(Debug)]
pub struct SmallDisk {
    mounted_on: PathBuf,
}

impl SmallDisk {
    /// Mounts a new, empty one of `bytes` (whole pages) on `directory`, for all processes. What works there must end
    /// before this is dropped.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn mount_on(directory: &Path, bytes: u64) -> io::Result<Self> {
        let options = CString::new(format!("size={bytes},mode=0700")).map_err(io::Error::other)?;
        mount("watchfire-test", directory, "tmpfs", MountFlags::empty(), options.as_c_str())?;
        Ok(SmallDisk { mounted_on: directory.to_owned() })
    }

    /// The same, seen by this thread and those that it starts from now on, and gone with them however they end.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn mount_privately(directory: &Path, bytes: u64) -> io::Result<Self> {
        // SAFETY: the flag parts this thread's mounts, root and working directory from the others'; no table of
        // descriptors is parted, so that every descriptor means the same in all threads as before.
        unsafe { unshare_unsafe(UnshareFlags::NEWNS) }?;
        // Else the mount would show in the namespace that this one was copied from.
        mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
        SmallDisk::mount_on(directory, bytes)
    }

    /// Fills it until not one byte more is taken.
    ///
    /// # Errors
    /// When it cannot be filled.
    pub fn fill(&self) -> io::Result<()> {
        let mut filler = File::create(self.filler())?;
        let piece = [0x5a; 64 << 10];
        loop {
            match filler.write_all(&piece) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::StorageFull => break,
                Err(error) => return Err(error),
            }
        }
        match self.free_blocks()? {
            0 => Ok(()),
            left => Err(io::Error::other(format!("{left} blocks are free on the full disk"))),
        }
    }

    /// Gives back what [`SmallDisk::fill`] took.
    ///
    /// # Errors
    /// When the filler cannot be removed.
    pub fn free(&self) -> io::Result<()> {
        fs::remove_file(self.filler())
    }

    /// Blocks nothing is stored in.
    ///
    /// # Errors
    /// When the kernel does not say.
    pub fn free_blocks(&self) -> io::Result<u64> {
        Ok(rustix::fs::statvfs(&self.mounted_on)?.f_bfree)
    }

    fn filler(&self) -> PathBuf {
        self.mounted_on.join(FILLER)
    }
}

impl Drop for SmallDisk {
    /// Detached even if a process that failed to end still has a file open there, or the folder below could not be
    /// removed.
    fn drop(&mut self) {
        if let Err(error) = unmount(&self.mounted_on, UnmountFlags::DETACH) {
            eprintln!("{} stays mounted: {error}", self.mounted_on.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn needs_root() -> bool {
        let plain = !rustix::process::geteuid().is_root();
        if plain {
            eprintln!("skipped: a small disk: needs root");
        }
        plain
    }

    #[test]
    fn full_means_full_and_afterwards_nothing_is_mounted() {
        if needs_root() {
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("below"), "x").unwrap();
        let disk = SmallDisk::mount_on(directory.path(), 1 << 20).unwrap();
        assert!(!directory.path().join("below").exists());
        disk.fill().unwrap();
        let error = fs::write(directory.path().join("more"), "x").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        disk.free().unwrap();
        fs::write(directory.path().join("more"), "x").unwrap();
        drop(disk);
        assert!(directory.path().join("below").exists());
    }

    #[test]
    fn a_private_one_is_seen_by_its_thread_and_its_children_alone() {
        if needs_root() {
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        let below = directory.path().join("below");
        fs::write(&below, "x").unwrap();
        std::thread::scope(|scope| {
            let inside = scope.spawn(|| {
                let disk = SmallDisk::mount_privately(directory.path(), 1 << 20).unwrap();
                let childs = std::thread::scope(|scope| scope.spawn(|| below.exists()).join().unwrap());
                (below.exists(), childs, disk)
            });
            let (own, childs, disk) = inside.join().unwrap();
            assert!(!own && !childs);
            assert!(below.exists());
            // Its thread took it along: nothing is mounted here that a drop could unmount.
            std::mem::forget(disk);
        });
    }
}
