//! Standard output and error: width, colour, and readers that leave early.

use std::io::{self, BufWriter, IsTerminal, StdoutLock, Write};

use watchfire_event::printable;

/// Standard output, buffered, with what is known of the terminal behind it.
pub(crate) struct Screen {
    out: BufWriter<StdoutLock<'static>>,
    /// Columns of the terminal; `None` when it is none, and nothing need be cut.
    pub(crate) width: Option<usize>,
    /// Whether colours may be used.
    pub(crate) colour: bool,
}

impl Screen {
    pub(crate) fn new() -> Self {
        let stdout = io::stdout();
        let terminal = stdout.is_terminal();
        let width = terminal.then(|| {
            let columns = rustix::termios::tcgetwinsize(&stdout).map_or(0, |size| size.ws_col);
            if columns == 0 { 80 } else { usize::from(columns) }
        });
        let colour = terminal && std::env::var_os("NO_COLOR").is_none();
        Screen { out: BufWriter::new(stdout.lock()), width, colour }
    }
}

impl Write for Screen {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.out.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// Whether `error` means that whoever read our output has gone (`watchfire events | head`): not a failure.
pub(crate) fn reader_left(error: &anyhow::Error) -> bool {
    let pipe = |cause: &(dyn std::error::Error + 'static)| {
        cause.downcast_ref::<OutputError>().is_some_and(|error| error.0.kind() == io::ErrorKind::BrokenPipe)
    };
    error.chain().any(pipe)
}

/// Standard output failed; told apart from a broken connection to the server.
#[derive(Debug, thiserror::Error)]
#[error("write to standard output")]
pub(crate) struct OutputError(#[from] pub(crate) io::Error);

/// One line on standard error; what it quotes cannot reach the terminal raw.
pub(crate) fn complain(error: &anyhow::Error) {
    let line = format!("{error:#}");
    // Nothing is left to do when even that fails.
    drop(writeln!(io::stderr(), "watchfire: {}", printable(line.as_bytes())));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_broken_output_pipe_is_no_failure() {
        let broken = || io::Error::from(io::ErrorKind::BrokenPipe);
        assert!(reader_left(&anyhow::Error::from(OutputError(broken())).context("list events")));
        assert!(!reader_left(&anyhow::Error::from(broken()).context("read from the server")));
        assert!(!reader_left(&anyhow::anyhow!("other")));
    }
}
