//! Logins by the authentication log: sshd, su, sudo and login write down whom they let in and whom not.
//!
//! Each file is followed from its end, by name: when it is rotated away, the rest of the old one is read before the new one is
//! begun. It is looked at in every tick; there is nothing to wait on.

mod lines;

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::BorrowedFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::PathBuf;

use watchfire_event::{Actor, Body, Books, BootNanos, Kind, Sighting, Stage, What, printable};
use watchfire_host::boot_now;

use crate::source::{Source, SourceError};

/// Files followed.
const MAX_FILES: usize = 16;
/// Read from one file at once.
const CHUNK: usize = 64 * 1024;
/// Part of a line that is kept; sshd cuts names at 100 bytes, so no line of interest is nearly as long.
const MAX_LINE: usize = 8 * 1024;

/// The source of [`Kind::Login`].
#[derive(Debug)]
pub struct AuthLog {
    tails: Vec<Tail>,
    pending: VecDeque<Sighting>,
    books: Books,
}

impl AuthLog {
    /// Follows `files` from where they end now. One that does not exist yet is read from its beginning once it does.
    pub fn new(files: impl IntoIterator<Item = PathBuf>) -> Self {
        let tails = files.into_iter().take(MAX_FILES).map(Tail::at_end).collect();
        AuthLog { tails, pending: VecDeque::new(), books: Books::default() }
    }

    /// What this source cannot see, in sentences.
    pub fn blind_spots(&self) -> Vec<String> {
        let mut all = vec![
            "a login is known by what its service wrote down; anyone who may write to syslog can write such a line".to_owned(),
            "what is written between a look and a truncation of the file (copytruncate) is not seen".to_owned(),
        ];
        let absent = self.tails.iter().filter(|tail| tail.file.is_none());
        let absent: Vec<_> =
            absent.map(|tail| printable(tail.path.as_os_str().as_encoded_bytes()).into_owned()).collect();
        if absent.len() == self.tails.len() {
            all.push(format!(
                "no log file exists ({}): logins that go to the journal only are not seen",
                absent.join(", ")
            ));
        } else if !absent.is_empty() {
            all.push(format!("not there, and waited for: {}", absent.join(", ")));
        }
        let cut: u64 = self.tails.iter().map(|tail| tail.cut).sum();
        if cut > 0 {
            all.push(format!("{cut} lines were longer than {MAX_LINE} bytes and read in part"));
        }
        all
    }

    /// Reads a chunk of every file; whether there was anything.
    fn read(&mut self) -> bool {
        let at = boot_now();
        let mut any = false;
        for tail in &mut self.tails {
            let (pending, books) = (&mut self.pending, &mut self.books);
            any |= tail.read(&mut |line| take_line(line, at, pending, books));
        }
        any
    }
}

fn take_line(line: &[u8], at: BootNanos, pending: &mut VecDeque<Sighting>, books: &mut Books) {
    let Some(told) = lines::parse(line) else { return };
    let actor = Actor { tgid: told.tgid, started: None };
    for _ in 0..told.times {
        books.entry(Stage::Kernel, Kind::Login).seen += 1;
        pending.push_back(Sighting { at, actor, what: What::Done(Body::Login(told.attempt.clone())) });
    }
}

impl Source for AuthLog {
    fn name(&self) -> &'static str {
        "auth log"
    }

    fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        Vec::new()
    }

    fn drain(&mut self, limit: usize, sink: &mut dyn FnMut(Sighting)) -> Result<usize, SourceError> {
        let mut taken = 0;
        while taken < limit {
            if let Some(sighting) = self.pending.pop_front() {
                self.books.entry(Stage::Kernel, Kind::Login).passed += 1;
                sink(sighting);
                taken += 1;
            } else if !self.read() {
                break;
            }
        }
        Ok(taken)
    }

    fn books(&mut self) -> Books {
        let mut books = self.books.clone();
        if !self.pending.is_empty() {
            books.entry(Stage::Kernel, Kind::Login).held += self.pending.len() as u64;
        }
        books
    }
}

/// One file, followed by its name.
#[derive(Debug)]
struct Tail {
    path: PathBuf,
    file: Option<File>,
    /// Device and inode of the open file.
    identity: (u64, u64),
    offset: u64,
    /// A line whose end has not been written yet.
    partial: Vec<u8>,
    /// The rest of a line that was too long is being passed over.
    skipping: bool,
    cut: u64,
}

impl Tail {
    fn at_end(path: PathBuf) -> Self {
        let mut tail = Tail {
            path,
            file: None,
            identity: (0, 0),
            offset: 0,
            partial: Vec::new(),
            skipping: false,
            cut: 0,
        };
        if tail.open() {
            let end = tail.file.as_mut().and_then(|file| file.seek(SeekFrom::End(0)).ok());
            tail.offset = end.unwrap_or(0);
        }
        tail
    }

    /// Opens what has the name now, from its beginning.
    fn open(&mut self) -> bool {
        // Never wait for the writer of a FIFO someone put in place of the log.
        let flags = (rustix::fs::OFlags::NONBLOCK | rustix::fs::OFlags::NOCTTY).bits().cast_signed();
        let Ok(file) = OpenOptions::new().read(true).custom_flags(flags).open(&self.path) else {
            return false;
        };
        let Some(found) = file.metadata().ok().filter(std::fs::Metadata::is_file) else { return false };
        self.identity = (found.dev(), found.ino());
        (self.offset, self.skipping) = (0, false);
        self.partial.clear();
        self.file = Some(file);
        true
    }

    /// Reads one chunk and hands on the whole lines in it; whether there was anything.
    fn read(&mut self, sink: &mut dyn FnMut(&[u8])) -> bool {
        if self.file.is_none() && !self.open() {
            return false;
        }
        self.rewind_if_truncated();
        match self.chunk() {
            Ok(chunk) if !chunk.is_empty() => {
                self.offset += chunk.len() as u64;
                self.lines(&chunk, sink);
                true
            }
            Ok(_) => self.rotated() && self.open(),
            Err(error) => {
                tracing::warn!(%error, path = %self.path.display(), "auth log: read; it will be opened again");
                self.file = None;
                false
            }
        }
    }

    fn chunk(&mut self) -> io::Result<Vec<u8>> {
        let mut chunk = Vec::new();
        if let Some(file) = &mut self.file {
            file.take(CHUNK as u64).read_to_end(&mut chunk)?;
        }
        Ok(chunk)
    }

    fn rewind_if_truncated(&mut self) {
        let Some(file) = &mut self.file else { return };
        if file.metadata().is_ok_and(|found| found.len() < self.offset)
            && file.seek(SeekFrom::Start(0)).is_ok()
        {
            (self.offset, self.skipping) = (0, false);
            self.partial.clear();
        }
    }

    /// Whether the name belongs to another file by now. While no file has it, the old one stays open.
    fn rotated(&self) -> bool {
        std::fs::metadata(&self.path)
            .is_ok_and(|found| (found.dev(), found.ino()) != self.identity && found.is_file())
    }

    fn lines(&mut self, chunk: &[u8], sink: &mut dyn FnMut(&[u8])) {
        for piece in chunk.split_inclusive(|byte| *byte == b'\n') {
            let (text, ended) = piece.strip_suffix(b"\n").map_or((piece, false), |text| (text, true));
            let room = MAX_LINE.saturating_sub(self.partial.len());
            if !self.skipping {
                self.partial.extend_from_slice(&text[..text.len().min(room)]);
                if text.len() > room {
                    (self.skipping, self.cut) = (true, self.cut + 1);
                }
            }
            if ended {
                sink(&self.partial);
                self.partial.clear();
                self.skipping = false;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write;
    use std::path::Path;

    use proptest::prelude::*;

    use super::*;

    fn line(user: &str) -> String {
        format!(
            "2026-11-21T08:15:30+00:00 web sshd[71]: Failed password for {user} from 10.0.0.9 port 5022 ssh2\n"
        )
    }

    fn append(path: &Path, text: &str) {
        let mut file = OpenOptions::new().append(true).create(true).open(path).unwrap();
        file.write_all(text.as_bytes()).unwrap();
    }

    fn users(log: &mut AuthLog) -> Vec<String> {
        let mut users = Vec::new();
        let mut sink = |sighting: Sighting| {
            assert_eq!(sighting.actor.tgid, 71);
            let What::Done(Body::Login(attempt)) = sighting.what else { panic!("{sighting:?}") };
            users.push(String::from_utf8(attempt.user).unwrap());
        };
        log.drain(1000, &mut sink).unwrap();
        assert!(log.books().rows().all(|row| row.counts.balanced()));
        users
    }

    #[test]
    fn a_file_is_followed_from_its_end_over_rotation_and_truncation() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("auth.log");
        append(&path, &line("before"));
        let mut log = AuthLog::new([path.clone()]);
        assert!(users(&mut log).is_empty());
        append(&path, &(line("a") + &line("b")));
        assert_eq!(users(&mut log), ["a", "b"]);
        let whole = line("parts");
        append(&path, &whole[..40]);
        assert!(users(&mut log).is_empty());
        append(&path, &whole[40..]);
        assert_eq!(users(&mut log), ["parts"]);
        append(&path, &line("last"));
        fs::rename(&path, dir.path().join("auth.log.1")).unwrap();
        append(&dir.path().join("auth.log.1"), &line("late"));
        assert_eq!(users(&mut log), ["last", "late"]);
        append(&path, &line("first"));
        assert_eq!(users(&mut log), ["first"]);
        fs::write(&path, "").unwrap();
        assert!(users(&mut log).is_empty());
        append(&path, &line("again"));
        assert_eq!(users(&mut log), ["again"]);
    }

    #[test]
    fn a_file_that_comes_later_is_read_from_its_beginning() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secure");
        let mut log = AuthLog::new([path.clone()]);
        assert!(users(&mut log).is_empty());
        assert!(log.blind_spots().iter().any(|text| text.contains("no log file exists")));
        append(&path, &line("root"));
        assert_eq!(users(&mut log), ["root"]);
    }

    #[test]
    fn a_line_too_long_is_cut_and_the_next_is_read_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("auth.log");
        append(&path, "");
        let mut log = AuthLog::new([path.clone()]);
        append(&path, &"x".repeat(300_000));
        assert!(users(&mut log).is_empty());
        assert!(log.tails[0].partial.len() <= MAX_LINE);
        append(&path, &format!("\n{}", line("next")));
        assert_eq!(users(&mut log), ["next"]);
        assert!(log.blind_spots().iter().any(|text| text.starts_with("1 lines were longer")));
    }

    #[test]
    fn a_fifo_in_place_of_the_log_blocks_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("auth.log");
        let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
        rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, mode, 0).unwrap();
        assert!(users(&mut AuthLog::new([path])).is_empty());
    }

    #[test]
    fn no_more_is_handed_on_than_asked_for_and_the_rest_is_held() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("auth.log");
        append(&path, "");
        let mut log = AuthLog::new([path.clone()]);
        append(&path, &line("a").repeat(10));
        assert_eq!(log.drain(3, &mut |_| {}).unwrap(), 3);
        let books = log.books();
        let counts = books.get(Stage::Kernel, Kind::Login).unwrap();
        assert_eq!((counts.seen, counts.passed, counts.held), (10, 3, 7));
        assert_eq!(users(&mut log).len(), 7);
    }

    proptest! {
        #[test]
        fn lines_come_out_the_same_however_they_are_cut(
            texts in proptest::collection::vec("[a-z]{0,20}", 1..20),
            cuts in proptest::collection::vec(0usize..200, 0..10),
        ) {
            let whole: String = texts.iter().map(|text| format!("{text}\n")).collect();
            let mut tail = Tail::at_end(PathBuf::from("/nonexistent"));
            let mut seen = Vec::new();
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(whole.len())).chain([0, whole.len()]).collect();
            cuts.sort_unstable();
            for pair in cuts.windows(2) {
                tail.lines(&whole.as_bytes()[pair[0]..pair[1]], &mut |line| seen.push(String::from_utf8(line.to_vec()).unwrap()));
            }
            prop_assert_eq!(seen, texts);
        }
    }
}
