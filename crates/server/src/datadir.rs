//! The data directory: who may be in it, where each thing lies, and the files the operator's commands read.
//!
//! ```text
//! DIR/lock              flock of the running instance, its tgid inside
//! DIR/admin.token       64 hexadecimal digits, mode 0600, made once
//! DIR/server.json       {"address":"127.0.0.1:7070","tgid":123}, while it runs
//! DIR/agent.sock        the local agent's way in
//! DIR/alerts.db         alerts and hosts
//! DIR/log/, DIR/lake/   event log, Parquet files
//! ```

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};

use crate::error::ServerError;
use crate::secret::{Secret, random_hex};

/// A data directory that this process holds until the value is dropped.
#[derive(Debug)]
pub(crate) struct DataDir {
    path: PathBuf,
    /// Holds the flock.
    _lock: File,
}

/// What a running server tells the commands on its machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// Where it listens.
    pub address: SocketAddr,
    /// Its process.
    pub tgid: u32,
}

impl Endpoint {
    /// What the server on `data_dir` wrote when it started; `NotFound` when none runs there.
    pub fn read(data_dir: &Path) -> io::Result<Endpoint> {
        let text = fs::read(data_dir.join("server.json"))?;
        serde_json::from_slice(&text).map_err(io::Error::from)
    }
}

/// The admin token of `data_dir`: made at the first start there.
pub fn token_file(data_dir: &Path) -> PathBuf {
    data_dir.join("admin.token")
}

impl DataDir {
    /// Makes the directory (mode 0700) if there is none, and locks it.
    pub(crate) fn open(path: &Path) -> Result<DataDir, ServerError> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .map_err(ServerError::file("create data directory", path))?;
        let metadata = fs::metadata(path).map_err(ServerError::file("read data directory", path))?;
        let mode = metadata.permissions().mode() & 0o7777;
        if mode & 0o022 != 0 {
            return Err(ServerError::Exposed { path: path.to_owned(), mode });
        }
        Ok(DataDir { path: path.to_owned(), _lock: lock(path)? })
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.path.join("agent.sock")
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn alerts(&self) -> PathBuf {
        self.path.join("alerts.db")
    }

    /// Reads the admin token, or makes one at the first start.
    pub(crate) fn admin_token(&self) -> Result<Secret, ServerError> {
        let path = token_file(&self.path);
        match fs::read_to_string(&path) {
            Ok(text) => {
                keep_private(&path)?;
                Secret::from_hex(text.trim()).ok_or(ServerError::BadToken { path })
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let text = random_hex()?;
                // Written aside and linked into place, so that a crash leaves no empty token behind.
                replace_file(&path, format!("{text}\n").as_bytes())?;
                Secret::from_hex(&text).ok_or(ServerError::BadToken { path })
            }
            Err(source) => Err(ServerError::File { attempt: "read", path, source }),
        }
    }

    /// Tells the commands on this machine where the server is.
    pub(crate) fn announce(&self, address: SocketAddr) -> Result<(), ServerError> {
        let endpoint = Endpoint { address, tgid: std::process::id() };
        let text = serde_json::to_vec(&endpoint).expect("an address and a number become JSON");
        replace_file(&self.path.join("server.json"), &text)
    }

    /// The server is about to go.
    pub(crate) fn withdraw(&self) {
        let path = self.path.join("server.json");
        if let Err(error) = fs::remove_file(&path) {
            tracing::warn!(%error, path = %path.display(), "not removed");
        }
    }
}

fn lock(directory: &Path) -> Result<File, ServerError> {
    let path = directory.join("lock");
    let failed = |attempt| ServerError::file(attempt, &path);
    let mut options = OpenOptions::new();
    let file = options
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(failed("create"))?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => {
            let mut owner = String::new();
            let known = (&file).take(16).read_to_string(&mut owner).is_ok_and(|read| read > 0);
            let owner = if known { owner.trim().to_owned() } else { "?".to_owned() };
            return Err(ServerError::Locked { path: directory.to_owned(), owner });
        }
        Err(error) => return Err(failed("lock")(error.into())),
    }
    file.set_len(0).map_err(failed("write"))?;
    writeln!(&file, "{}", std::process::id()).map_err(failed("write"))?;
    Ok(file)
}

/// Writes `bytes` to `path`, mode 0600: complete and durable, or not at all.
fn replace_file(path: &Path, bytes: &[u8]) -> Result<(), ServerError> {
    let failed = |attempt| ServerError::file(attempt, path);
    let aside = path.with_extension("new");
    let mut options = OpenOptions::new();
    let mut file =
        options.write(true).create(true).truncate(true).mode(0o600).open(&aside).map_err(failed("create"))?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(failed("write"))?;
    fs::rename(&aside, path).map_err(failed("write"))?;
    let directory = path.parent().unwrap_or(Path::new("."));
    File::open(directory).and_then(|directory| directory.sync_all()).map_err(failed("write"))
}

/// A token that others could read is taken back from them, with a word about it.
fn keep_private(path: &Path) -> Result<(), ServerError> {
    let metadata = fs::metadata(path).map_err(ServerError::file("read", path))?;
    let mode = metadata.permissions().mode() & 0o7777;
    if mode & 0o077 != 0 {
        tracing::warn!(path = %path.display(), mode = format!("{mode:04o}"), "the token was readable by others; mode set to 0600");
        fs::set_permissions(path, Permissions::from_mode(0o600)).map_err(ServerError::file("chmod", path))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_instance_is_told_who_holds_the_directory() {
        let dir = tempfile::tempdir().unwrap();
        let held = DataDir::open(dir.path()).unwrap();
        let error = DataDir::open(dir.path()).unwrap_err().to_string();
        assert!(error.contains(&format!("tgid {}", std::process::id())), "{error}");
        drop(held);
        DataDir::open(dir.path()).unwrap();
    }

    #[test]
    fn the_admin_token_is_made_once_and_kept_private() {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::open(dir.path()).unwrap();
        let first = data.admin_token().unwrap();
        let path = token_file(dir.path());
        let text = fs::read_to_string(&path).unwrap();
        assert!(first.matches(text.trim()));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
        fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        assert!(data.admin_token().unwrap().matches(text.trim()));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
        fs::write(&path, "short").unwrap();
        assert!(data.admin_token().unwrap_err().to_string().contains("admin.token"));
    }

    #[test]
    fn a_directory_that_others_may_write_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), Permissions::from_mode(0o777)).unwrap();
        assert!(DataDir::open(dir.path()).unwrap_err().to_string().contains("0777"));
    }

    #[test]
    fn what_is_announced_reads_back_until_withdrawn() {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::open(dir.path()).unwrap();
        data.announce("127.0.0.1:7070".parse().unwrap()).unwrap();
        assert_eq!(Endpoint::read(dir.path()).unwrap().address.port(), 7070);
        data.withdraw();
        assert_eq!(Endpoint::read(dir.path()).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
