//! User names by number, from `/etc/passwd`. Directory services are not asked: a lookup must never wait for a network.

use std::collections::HashMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::reading;

/// The part of the file that is read.
const MAX_FILE: usize = 4 * 1024 * 1024;
/// Users kept, and the longest name kept whole.
const MAX_USERS: usize = 65_536;
const MAX_NAME: usize = 256;

/// Which version of the file was read: mtime (seconds, nanoseconds), size, inode.
type Version = (i64, i64, u64, u64);

/// The users of a host. The file is read again when it changed.
#[derive(Debug)]
pub struct Users {
    path: PathBuf,
    version: Option<Version>,
    names: HashMap<u32, Vec<u8>>,
}

impl Users {
    /// The users of the host whose root is `root` (`/`).
    pub fn new(root: impl AsRef<Path>) -> Self {
        Users { path: root.as_ref().join("etc/passwd"), version: None, names: HashMap::new() }
    }

    /// The name of `uid`: the first one the file lists, as its bytes are. Costs one stat(2) when nothing changed.
    pub fn name(&mut self, uid: u32) -> Option<&[u8]> {
        self.refresh();
        self.names.get(&uid).map(Vec::as_slice)
    }

    fn refresh(&mut self) {
        let found = std::fs::metadata(&self.path).ok();
        let version = found.map(|found| (found.mtime(), found.mtime_nsec(), found.size(), found.ino()));
        if version == self.version {
            return;
        }
        self.version = version;
        let text = reading::file(&self.path, MAX_FILE).unwrap_or_default();
        self.names = parse(&text);
    }
}

/// `name:password:uid:…` lines.
fn parse(text: &[u8]) -> HashMap<u32, Vec<u8>> {
    let mut names = HashMap::new();
    for line in text.split(|byte| *byte == b'\n') {
        let mut fields = line.split(|byte| *byte == b':');
        let (Some(name), Some(uid)) = (fields.next(), fields.nth(1)) else { continue };
        let Some(uid) = std::str::from_utf8(uid).ok().and_then(|uid| uid.parse::<u32>().ok()) else {
            continue;
        };
        if names.len() >= MAX_USERS {
            break;
        }
        names.entry(uid).or_insert_with(|| name[..name.len().min(MAX_NAME)].to_vec());
    }
    names
}

#[cfg(test)]
mod tests {
    use std::fs;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_follow_the_file() {
        let root = tempfile::tempdir().unwrap();
        let mut users = Users::new(root.path());
        assert_eq!(users.name(0), None);
        fs::create_dir(root.path().join("etc")).unwrap();
        fs::write(root.path().join("etc/passwd"), "root:x:0:0::/root:/bin/sh\ntoor:x:0:0:::\nbad line\n")
            .unwrap();
        assert_eq!(users.name(0), Some(&b"root"[..]));
        assert_eq!(users.name(1000), None);
        fs::write(root.path().join("etc/passwd"), "admin:x:1000:0::/root:/bin/sh\n").unwrap();
        assert_eq!(
            (users.name(0).is_some(), users.name(1000).map(<[u8]>::to_vec)),
            (false, Some(b"admin".to_vec()))
        );
    }

    #[test]
    fn the_users_of_this_machine_include_root() {
        assert_eq!(Users::new("/").name(0), Some(&b"root"[..]));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _seen = parse(&bytes);
        }
    }
}
