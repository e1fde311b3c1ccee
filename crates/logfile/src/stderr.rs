//! A word on standard error when the log file itself fails: best effort, and never a wait.

use std::io;
use std::os::fd::AsFd;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// Less than `PIPE_BUF`: a pipe that says it is writable takes so much without blocking.
const NOTE_MAX: usize = 1024;

pub(crate) fn note(text: &str) {
    note_to(io::stderr(), text);
}

/// Not through the standard library's lock: another thread may hold it and wait for a reader that is gone.
fn note_to(out: impl AsFd, text: &str) {
    let line = format!("{}\n", &text[..text.floor_char_boundary(NOTE_MAX - 1)]);
    let mut ready = [PollFd::new(&out, PollFlags::OUT)];
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    let polled = poll(&mut ready, Some(&at_once));
    if polled.is_ok() && ready[0].revents().contains(PollFlags::OUT) {
        // There is nowhere left to say that this failed too.
        rustix::io::write(&out, line.as_bytes()).ok();
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::fd::OwnedFd;

    use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};

    use super::*;

    #[test]
    fn a_note_is_cut_at_a_character() {
        let (mut reader, writer) = io::pipe().unwrap();
        note_to(&writer, &"烽".repeat(1000));
        drop(writer);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, format!("{}\n", "烽".repeat(341)));
    }

    #[test]
    fn a_full_pipe_that_nobody_reads_costs_the_note_and_no_wait() {
        let (mut reader, writer) = io::pipe().unwrap();
        let writer = OwnedFd::from(writer);
        let flags = fcntl_getfl(&writer).unwrap();
        fcntl_setfl(&writer, flags | OFlags::NONBLOCK).unwrap();
        let mut held = 0;
        while let Ok(wrote) = rustix::io::write(&writer, &[b'x'; 4096]) {
            held += wrote;
        }
        fcntl_setfl(&writer, flags).unwrap();
        note_to(&writer, "unheard");
        drop(writer);
        let mut bytes = Vec::new();
        reader.read_to_end(&mut bytes).unwrap();
        assert_eq!(bytes.len(), held);
    }
}
