//! A disk of a scenario's own that can be filled to the last byte and hurts nobody else.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

/// Room for some minutes of a busy machine's events, and filled in an instant.
const OPTIONS: &std::ffi::CStr = c"size=32m,mode=0700";
const FILLER: &str = "filler";

/// A tmpfs on a directory, unmounted when this is dropped.
pub struct SmallDisk {
    mounted_on: PathBuf,
}

impl SmallDisk {
    /// Mounts a new, empty one on `directory`. Whatever works there must end before this is dropped.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn mount_on(directory: &Path) -> Result<Self> {
        mount("watchfire-test", directory, "tmpfs", MountFlags::empty(), OPTIONS)
            .with_context(|| format!("mount a tmpfs on {}", directory.display()))?;
        Ok(Self { mounted_on: directory.to_owned() })
    }

    /// Fills it until not one byte more is taken.
    ///
    /// # Errors
    /// When it cannot be filled.
    pub fn fill(&self) -> Result<()> {
        let mut filler = File::create(self.filler()).context("make the filler")?;
        let piece = [0x5a; 64 << 10];
        loop {
            match filler.write_all(&piece) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::StorageFull => break,
                Err(error) => bail!("fill the disk: {error}"),
            }
        }
        let left = self.free_blocks()?;
        ensure!(left == 0, "{left} blocks are free on the full disk");
        Ok(())
    }

    /// Gives back what [`SmallDisk::fill`] took.
    ///
    /// # Errors
    /// When the filler cannot be removed.
    pub fn free(&self) -> Result<()> {
        fs::remove_file(self.filler()).context("remove the filler")
    }

    /// Blocks nothing is stored in.
    ///
    /// # Errors
    /// When the kernel does not say.
    pub fn free_blocks(&self) -> Result<u64> {
        let disk = rustix::fs::statvfs(&self.mounted_on).context("ask for the disk's free space")?;
        Ok(disk.f_bfree)
    }

    fn filler(&self) -> PathBuf {
        self.mounted_on.join(FILLER)
    }
}

impl Drop for SmallDisk {
    /// Detached even if a process that failed to end still has a file open there, or the folder below could not be removed.
    fn drop(&mut self) {
        if let Err(error) = unmount(&self.mounted_on, UnmountFlags::DETACH) {
            eprintln!("{} stays mounted: {error}", self.mounted_on.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_means_full_and_afterwards_nothing_is_mounted() {
        if let Some(reason) = crate::obstacle() {
            eprintln!("skipped: small disk: {reason}");
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("below"), "x").unwrap();
        let disk = SmallDisk::mount_on(directory.path()).unwrap();
        assert!(!directory.path().join("below").exists());
        disk.fill().unwrap();
        let error = fs::write(directory.path().join("more"), "x").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        disk.free().unwrap();
        fs::write(directory.path().join("more"), "x").unwrap();
        drop(disk);
        assert!(directory.path().join("below").exists());
    }
}
