//! Who this host is: an id made once and kept, the boot it is in, and what it calls itself.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::time::{ClockId, clock_gettime};
use watchfire_event::{BootId, BootNanos, HostId, UnixNanos};

use crate::reading;

/// Name of the host id's file in the state directory.
const HOST_ID_FILE: &str = "host.id";
const MAX_SMALL: usize = 64 * 1024;

/// Why the host's identity is not known.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The file of the host id holds something else. It is never replaced: the host would become another one.
    #[error("{}: holds no host id (32 hexadecimal digits); restore it, or remove it to make this a new host", path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
    },
    /// A file could not be read or written.
    #[error("{attempt} {}: {source}", path.display())]
    File {
        /// `read`, `write`, …
        attempt: &'static str,
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The kernel gave no random bytes.
    #[error("make a host id: {0}")]
    Random(getrandom::Error),
}

/// This host and this boot of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The host: kept in the state directory.
    pub host: HostId,
    /// The boot.
    pub boot: BootId,
    /// Wall time of the boot, as the clocks stood when this was read; a stepped wall clock changes it.
    pub booted: UnixNanos,
    /// The host's name now.
    pub hostname: String,
    /// `PRETTY_NAME` of os-release; empty when there is none.
    pub os: String,
    /// Kernel release, as `uname -r` prints it.
    pub kernel: String,
}

impl Identity {
    /// Reads the identity, and makes the host id when `state_dir` holds none yet. `root` is `/` but for tests.
    ///
    /// # Errors
    /// When the host id cannot be kept, or /proc has no boot id.
    pub fn load(state_dir: &Path, root: &Path) -> Result<Self, IdentityError> {
        let uname = rustix::system::uname();
        Ok(Identity {
            host: host_id(state_dir)?,
            boot: boot_id(&root.join("proc/sys/kernel/random/boot_id"))?,
            booted: booted(),
            hostname: uname.nodename().to_string_lossy().into_owned(),
            os: os_name(root),
            kernel: uname.release().to_string_lossy().into_owned(),
        })
    }
}

/// The clock of [`BootNanos`] now.
pub fn boot_now() -> BootNanos {
    BootNanos(u64::try_from(nanos(ClockId::Boottime)).unwrap_or(0))
}

fn nanos(clock: ClockId) -> i64 {
    let time = clock_gettime(clock);
    time.tv_sec.saturating_mul(1_000_000_000).saturating_add(time.tv_nsec)
}

/// Wall time of the boot: the wall clock minus the boot clock, as they stand now. Of five tries the one whose two readings lay closest together counts, so that being
/// preempted between them does not shift the boot.
pub fn booted() -> UnixNanos {
    let sample = || {
        let before = nanos(ClockId::Boottime);
        let wall = nanos(ClockId::Realtime);
        let after = nanos(ClockId::Boottime);
        (after - before, wall - (before + (after - before) / 2))
    };
    let best = (0..5).map(|_| sample()).min().expect("five samples were taken");
    UnixNanos(best.1)
}

fn boot_id(path: &Path) -> Result<BootId, IdentityError> {
    let text = reading::file(path, 128).map_err(|source| failed("read", path, source))?;
    let text = String::from_utf8_lossy(&text);
    text.parse().map_err(|source| failed("read", path, io::Error::new(io::ErrorKind::InvalidData, source)))
}

/// Reads the kept host id, or makes one. Two agents that start at once agree: the first link to the name wins.
fn host_id(state_dir: &Path) -> Result<HostId, IdentityError> {
    let path = state_dir.join(HOST_ID_FILE);
    match reading::file(&path, MAX_SMALL) {
        Ok(bytes) => return parse_host_id(&path, &bytes),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(source) => return Err(failed("read", &path, source)),
    }
    let mut id = [0u8; 16];
    getrandom::fill(&mut id).map_err(IdentityError::Random)?;
    write_new(state_dir, &path, HostId(id))?;
    let bytes = reading::file(&path, MAX_SMALL).map_err(|source| failed("read", &path, source))?;
    parse_host_id(&path, &bytes)
}

fn parse_host_id(path: &Path, bytes: &[u8]) -> Result<HostId, IdentityError> {
    let text = std::str::from_utf8(bytes).ok();
    let id = text.and_then(|text| text.parse::<HostId>().ok()).filter(|id| *id != HostId::default());
    id.ok_or_else(|| IdentityError::Corrupt { path: path.to_owned() })
}

/// Writes the id beside its place, syncs it, and links it there unless another process was faster.
fn write_new(state_dir: &Path, path: &Path, id: HostId) -> Result<(), IdentityError> {
    let draft = state_dir.join(format!("{HOST_ID_FILE}.{id}"));
    let write = || -> io::Result<()> {
        let mut file =
            fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
        file.write_all(format!("{id}\n").as_bytes())?;
        file.sync_all()?;
        match fs::hard_link(&draft, path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        fs::File::open(state_dir)?.sync_all()
    };
    let written = write().map_err(|source| failed("write", path, source));
    let removed = fs::remove_file(&draft).map_err(|source| failed("remove", &draft, source));
    written.and(removed)
}

fn failed(attempt: &'static str, path: &Path, source: io::Error) -> IdentityError {
    IdentityError::File { attempt, path: path.to_owned(), source }
}

/// `PRETTY_NAME`, or `NAME`, of os-release(5).
fn os_name(root: &Path) -> String {
    let text = ["etc/os-release", "usr/lib/os-release"]
        .into_iter()
        .find_map(|name| reading::file(&root.join(name), MAX_SMALL).ok());
    let text = text.unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let value = |key: &str| text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    let quoted = value("PRETTY_NAME").or_else(|| value("NAME")).unwrap_or_default();
    quoted.trim().trim_matches(['"', '\'']).to_owned()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_host_id_is_made_once_and_kept_for_its_owner_only() {
        let state = tempfile::tempdir().unwrap();
        let first = Identity::load(state.path(), Path::new("/")).unwrap();
        let again = Identity::load(state.path(), Path::new("/")).unwrap();
        assert_eq!((first.host, first.boot), (again.host, again.boot));
        assert_ne!(first.host, HostId::default());
        let mode = fs::metadata(state.path().join(HOST_ID_FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o600);
        assert_eq!(fs::read_dir(state.path()).unwrap().count(), 1, "no draft is left");
        let other = tempfile::tempdir().unwrap();
        assert_ne!(Identity::load(other.path(), Path::new("/")).unwrap().host, first.host);
        assert!(!first.kernel.is_empty() && !first.hostname.is_empty());
    }

    #[test]
    fn a_corrupt_host_id_is_refused_by_name_and_left_alone() {
        let state = tempfile::tempdir().unwrap();
        let path = state.path().join(HOST_ID_FILE);
        for bytes in
            [&b""[..], b"not an id", b"0123456789abcdef", b"\xff\xfe", b"00000000000000000000000000000000\n"]
        {
            fs::write(&path, bytes).unwrap();
            let error = Identity::load(state.path(), Path::new("/")).unwrap_err();
            assert!(error.to_string().contains("host.id"), "{error}");
            assert_eq!(fs::read(&path).unwrap(), bytes);
        }
    }

    #[test]
    fn a_state_directory_that_is_absent_is_named() {
        let state = tempfile::tempdir().unwrap();
        let error = Identity::load(&state.path().join("absent"), Path::new("/")).unwrap_err();
        assert!(error.to_string().contains("absent/host.id"), "{error}");
    }

    #[test]
    fn agents_that_start_together_agree_on_the_host() {
        let state = tempfile::tempdir().unwrap();
        let made = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(|| host_id(state.path()).unwrap())).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
        });
        assert!(made.iter().all(|id| *id == made[0]), "{made:?}");
        // One that comes late does not replace the id, and leaves nothing behind.
        write_new(state.path(), &state.path().join(HOST_ID_FILE), HostId([7; 16])).unwrap();
        assert_eq!(host_id(state.path()).unwrap(), made[0]);
        assert_eq!(fs::read_dir(state.path()).unwrap().count(), 1);
    }

    #[test]
    fn the_boot_lies_in_the_past_and_repeats() {
        let (first, second) = (booted(), booted());
        assert!(first < UnixNanos::now());
        assert!((first.0 - second.0).abs() < 50_000_000, "{first:?} {second:?}");
        let uptime = fs::read_to_string("/proc/uptime").unwrap();
        let uptime: f64 = uptime.split(' ').next().unwrap().parse().unwrap();
        assert!((boot_now().0 as f64 / 1e9 - uptime).abs() < 1.0);
    }

    #[test]
    fn the_system_is_called_what_os_release_says() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(os_name(root.path()), "");
        fs::create_dir(root.path().join("etc")).unwrap();
        fs::write(root.path().join("etc/os-release"), "NAME=Debian\nPRETTY_NAME=\"Debian GNU/Linux 12\"\n")
            .unwrap();
        assert_eq!(os_name(root.path()), "Debian GNU/Linux 12");
    }
}
