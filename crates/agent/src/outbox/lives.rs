//! The file that remembers, for each life of the agent that has not handed over everything, who it was and what its books said last.
//!
//! ```text
//! "WFlife" and a version u16 | crc32 of the rest u32 | protobuf
//! ```
//! Replaced as a whole. A damaged one is set aside: what waits in the spool is replayed all the same, only its books stay as
//! the server knows them.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use prost::Message;
use tracing::warn;
use watchfire_wire::v1;

const MAGIC: [u8; 8] = *b"WFlife\x01\0";
const HEADER: usize = MAGIC.len() + 4;
/// The largest file that is read.
const MAX_BYTES: u64 = 4 << 20;
/// So many lives are remembered, the newest.
const MOST: usize = 64;

/// One life: how it introduced itself, and its books.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Life {
    #[prost(message, optional, tag = "1")]
    pub(super) hello: Option<v1::Hello>,
    #[prost(message, optional, tag = "2")]
    pub(super) ledger: Option<v1::Ledger>,
}

#[derive(Clone, PartialEq, Message)]
struct Lives {
    #[prost(message, repeated, tag = "1")]
    lives: Vec<Life>,
}

/// The file, and what was written to it last.
#[derive(Debug)]
pub(super) struct LivesFile {
    path: PathBuf,
    written: Option<Vec<u8>>,
}

impl LivesFile {
    pub(super) fn new(path: PathBuf) -> Self {
        LivesFile { path, written: None }
    }

    /// The lives it remembers, oldest first; none when there is no file, or a damaged one.
    pub(super) fn read(&self) -> Vec<Life> {
        let mut bytes = Vec::new();
        let opened = File::options().read(true).custom_flags(libc::O_NOFOLLOW).open(&self.path);
        match opened.and_then(|file| file.take(MAX_BYTES).read_to_end(&mut bytes)) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Vec::new(),
            Err(error) => {
                warn!(%error, path = %self.path.display(), "the books of earlier lives cannot be read");
                return Vec::new();
            }
        }
        let lives = decode(&bytes);
        if lives.is_none() {
            let aside = beside(&self.path, "damaged");
            let outcome = fs::rename(&self.path, &aside).err().map(|error| error.to_string());
            warn!(path = %self.path.display(), aside = %aside.display(), outcome, "the books of earlier lives are damaged");
        }
        lives.unwrap_or_default()
    }

    /// Replaces what it remembers; nothing is written when that changes nothing.
    pub(super) fn write(&mut self, mut lives: Vec<Life>) -> io::Result<()> {
        lives.drain(..lives.len().saturating_sub(MOST));
        let bytes = encode(lives);
        if self.written.as_ref() == Some(&bytes) {
            return Ok(());
        }
        let temporary = beside(&self.path, "new");
        let mut file =
            File::options().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        file.write_all(&bytes)?;
        fs::rename(&temporary, &self.path)?;
        self.written = Some(bytes);
        Ok(())
    }
}

fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(ending);
    name.into()
}

fn encode(lives: Vec<Life>) -> Vec<u8> {
    let body = Lives { lives }.encode_to_vec();
    let mut bytes = Vec::with_capacity(HEADER + body.len());
    bytes.extend_from_slice(&MAGIC);
    bytes.extend_from_slice(&crc32fast::hash(&body).to_le_bytes());
    bytes.extend_from_slice(&body);
    bytes
}

fn decode(bytes: &[u8]) -> Option<Vec<Life>> {
    let rest = bytes.strip_prefix(&MAGIC)?;
    let (sum, body) = rest.split_first_chunk::<4>()?;
    if crc32fast::hash(body).to_le_bytes() != *sum {
        return None;
    }
    Lives::decode(body).ok().map(|lives| lives.lives)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn life(incarnation: u64) -> Life {
        Life { hello: Some(v1::Hello { incarnation, ..v1::Hello::default() }), ledger: None }
    }

    #[test]
    fn lives_read_back_the_newest_of_too_many() {
        let folder = tempfile::tempdir().unwrap();
        let mut file = LivesFile::new(folder.path().join("lives"));
        assert_eq!(file.read(), []);
        file.write((0..70).map(life).collect()).unwrap();
        assert_eq!(file.read(), (6..70).map(life).collect::<Vec<_>>());
    }

    #[test]
    fn a_damaged_file_is_set_aside_and_never_believed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lives");
        LivesFile::new(path.clone()).write(vec![life(1)]).unwrap();
        let good = fs::read(&path).unwrap();
        for bit in 0..good.len() * 8 {
            let mut bytes = good.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(decode(&bytes), None);
        }
        fs::write(&path, &good[..good.len() - 1]).unwrap();
        assert_eq!(LivesFile::new(path).read(), []);
        assert!(folder.path().join("lives.damaged").exists());
    }
}
