//! A plug-in on the disk: `NAME.manifest.json`, `NAME.manifest.sig`, and the executable beside them.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::keys::TrustedKey;
use crate::manifest::{Manifest, ManifestError};

/// How a manifest's file ends.
pub const MANIFEST_SUFFIX: &str = ".manifest.json";
/// How its signature's does.
pub const SIGNATURE_SUFFIX: &str = ".manifest.sig";
const MAX_MANIFEST: u64 = 64 << 10;
const MAX_EXECUTABLE: u64 = 256 << 20;
/// Plug-ins that one folder may hold.
const MOST: usize = 32;

/// A plug-in whose signature and file were checked.
#[derive(Debug)]
pub struct Package {
    /// What it is.
    pub manifest: Manifest,
    /// Its folder.
    pub folder: PathBuf,
    /// The file whose bytes match the manifest, open: what is executed is this, whatever takes its name's place.
    pub executable: File,
}

/// Why a plug-in is not run.
#[derive(Debug, thiserror::Error)]
pub enum PackageError {
    /// A file could not be worked with.
    #[error("{}: {attempt}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What was attempted.
        attempt: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// The file is too long to be one.
    #[error("{}: longer than {limit} bytes", path.display())]
    TooLong {
        /// The file.
        path: PathBuf,
        /// The limit in bytes.
        limit: u64,
    },
    /// The manifest is none.
    #[error("{}: {source}", path.display())]
    Manifest {
        /// The manifest.
        path: PathBuf,
        /// What is wrong.
        source: ManifestError,
    },
    /// No trusted key signed the manifest.
    #[error("{}: not signed by any of the {keys} trusted keys", path.display())]
    NotSigned {
        /// The manifest.
        path: PathBuf,
        /// How many keys are trusted.
        keys: usize,
    },
    /// Someone else could change the file.
    #[error("{}: {problem}", path.display())]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Who could, and how.
        problem: &'static str,
    },
    /// The file is not the one that was signed.
    #[error("{}: not the file that the manifest names (its SHA-256 is another)", path.display())]
    OtherFile {
        /// The file.
        path: PathBuf,
    },
    /// The folder holds more than are run.
    #[error("{}: more than {MOST} plug-ins", path.display())]
    TooMany {
        /// The folder.
        path: PathBuf,
    },
}

impl Package {
    /// The manifests in a folder, by name; none where there is no such folder.
    ///
    /// # Errors
    /// The folder cannot be read, or holds too many.
    pub fn list(folder: &Path) -> Result<Vec<PathBuf>, PackageError> {
        let failed = |source| PackageError::Io { path: folder.into(), attempt: "list", source };
        let entries = match fs::read_dir(folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(failed(error)),
        };
        let mut manifests = Vec::new();
        for entry in entries {
            let path = entry.map_err(failed)?.path();
            if path.to_str().is_some_and(|path| path.ends_with(MANIFEST_SUFFIX)) {
                manifests.push(path);
            }
            if manifests.len() > MOST {
                return Err(PackageError::TooMany { path: folder.into() });
            }
        }
        manifests.sort();
        Ok(manifests)
    }

    /// Opens the plug-in of a manifest: its signature, its owner and its bytes are checked before anything of it is believed.
    ///
    /// # Errors
    /// What does not hold.
    pub fn open(manifest: &Path, trusted: &[TrustedKey]) -> Result<Self, PackageError> {
        let path = manifest.to_owned();
        let bytes = read(manifest, MAX_MANIFEST)?;
        let signature = manifest.to_string_lossy().replace(MANIFEST_SUFFIX, SIGNATURE_SUFFIX);
        let signature = read(Path::new(&signature), 1024)?;
        let signature = String::from_utf8_lossy(&signature);
        if !trusted.iter().any(|key| key.verify(&bytes, &signature).is_ok()) {
            return Err(PackageError::NotSigned { path, keys: trusted.len() });
        }
        let parsed = Manifest::parse(&bytes).map_err(|source| PackageError::Manifest { path, source })?;
        let folder = manifest.parent().unwrap_or(Path::new(".")).to_owned();
        let path = folder.join(&parsed.executable);
        let executable = File::open(&path).map_err(io_failed(&path, "open"))?;
        guarded(&executable, &path)?;
        if !parsed.matches(&digest(&executable, &path)?) {
            return Err(PackageError::OtherFile { path });
        }
        Ok(Package { manifest: parsed, folder, executable })
    }
}

/// SHA-256 of an open file.
///
/// # Errors
/// It cannot be read, or is longer than 256 MiB.
pub fn digest(file: &File, path: &Path) -> Result<[u8; 32], PackageError> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 64 << 10];
    let mut reader = file.take(MAX_EXECUTABLE + 1);
    let mut length = 0u64;
    loop {
        let count = reader.read(&mut buffer).map_err(io_failed(path, "read"))?;
        if count == 0 {
            return Ok(hasher.finalize().into());
        }
        length += count as u64;
        if length > MAX_EXECUTABLE {
            return Err(PackageError::TooLong { path: path.into(), limit: MAX_EXECUTABLE });
        }
        hasher.update(&buffer[..count]);
    }
}

/// Root's, or the agent's own user's, and writable by no one else: its bytes stay what they are while it runs.
fn guarded(file: &File, path: &Path) -> Result<(), PackageError> {
    let metadata = file.metadata().map_err(io_failed(path, "look at"))?;
    let own = rustix::process::geteuid().as_raw();
    let problem = if !metadata.is_file() {
        "not a regular file"
    } else if metadata.uid() != 0 && metadata.uid() != own {
        "owned by another user"
    } else if metadata.mode() & 0o022 != 0 {
        "writable by its group or by others"
    } else if metadata.mode() & 0o111 == 0 {
        "not executable"
    } else {
        return Ok(());
    };
    Err(PackageError::Exposed { path: path.into(), problem })
}

fn read(path: &Path, limit: u64) -> Result<Vec<u8>, PackageError> {
    let file = File::open(path).map_err(io_failed(path, "open"))?;
    let mut bytes = Vec::new();
    file.take(limit + 1).read_to_end(&mut bytes).map_err(io_failed(path, "read"))?;
    if bytes.len() as u64 > limit {
        return Err(PackageError::TooLong { path: path.into(), limit });
    }
    Ok(bytes)
}

fn io_failed(path: &Path, attempt: &'static str) -> impl Fn(io::Error) -> PackageError {
    let path = path.to_owned();
    move |source| PackageError::Io { path: path.clone(), attempt, source }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use serde_json::json;

    use super::*;
    use crate::keys::{SecretKey, to_hex};

    struct Ground {
        dir: tempfile::TempDir,
        key: SecretKey,
    }

    impl Ground {
        fn new() -> Self {
            let ground = Ground { dir: tempfile::tempdir().unwrap(), key: SecretKey::generate().unwrap() };
            ground.write("hello", b"#!/bin/sh\n");
            ground.mode("hello", 0o755);
            ground.sign(b"#!/bin/sh\n");
            ground
        }

        fn path(&self, name: &str) -> PathBuf {
            self.dir.path().join(name)
        }

        fn write(&self, name: &str, bytes: &[u8]) {
            fs::write(self.path(name), bytes).unwrap();
        }

        fn mode(&self, name: &str, mode: u32) {
            fs::set_permissions(self.path(name), fs::Permissions::from_mode(mode)).unwrap();
        }

        fn sign(&self, executable: &[u8]) {
            let digest: [u8; 32] = Sha256::digest(executable).into();
            let manifest =
                json!({"name": "hello", "version": "1", "executable": "hello", "sha256": to_hex(&digest)});
            let bytes = manifest.to_string().into_bytes();
            self.write("hello.manifest.sig", format!("{}\n", self.key.sign(&bytes)).as_bytes());
            self.write("hello.manifest.json", &bytes);
        }

        fn open(&self) -> Result<Package, String> {
            let manifests = Package::list(self.dir.path()).unwrap();
            assert_eq!(manifests.len(), 1);
            let other = SecretKey::generate().unwrap().public();
            Package::open(&manifests[0], &[other, self.key.public()]).map_err(|error| error.to_string())
        }
    }

    #[test]
    fn what_is_signed_guarded_and_whole_opens() {
        assert_eq!(Ground::new().open().unwrap().manifest.name, "hello");
        assert!(Package::list(Path::new("/no/such/folder")).unwrap().is_empty());
    }

    #[test]
    fn a_changed_executable_is_another_file() {
        let ground = Ground::new();
        ground.write("hello", b"#!/bin/sh\n#");
        assert!(ground.open().unwrap_err().contains("SHA-256"));
    }

    #[test]
    fn a_changed_manifest_or_another_key_is_not_signed() {
        let ground = Ground::new();
        let bytes = fs::read(ground.path("hello.manifest.json")).unwrap();
        let changed = String::from_utf8(bytes).unwrap().replace("\"1\"", "\"2\"");
        ground.write("hello.manifest.json", changed.as_bytes());
        assert!(ground.open().unwrap_err().contains("not signed"));
        let mut ground = Ground::new();
        ground.key = SecretKey::generate().unwrap();
        assert!(ground.open().unwrap_err().contains("not signed"));
        ground.write("hello.manifest.sig", b"garbage");
        assert!(ground.open().unwrap_err().contains("not signed"));
        fs::remove_file(ground.path("hello.manifest.sig")).unwrap();
        assert!(ground.open().unwrap_err().contains("hello.manifest.sig: open"));
    }

    #[test]
    fn what_others_can_write_is_not_run() {
        let ground = Ground::new();
        for (mode, problem) in [(0o775, "writable"), (0o757, "writable"), (0o644, "not executable")] {
            ground.mode("hello", mode);
            assert!(ground.open().unwrap_err().contains(problem), "{mode:o}");
        }
        fs::remove_file(ground.path("hello")).unwrap();
        fs::create_dir(ground.path("hello")).unwrap();
        assert!(ground.open().unwrap_err().contains("regular"));
    }
}
