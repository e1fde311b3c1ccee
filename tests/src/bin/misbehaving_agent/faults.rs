//! The faults, one app each.

use std::hint::black_box;
use std::io::Write;
use std::mem::ManuallyDrop;
use std::os::fd::{FromRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::mpsc;
use std::time::Duration;

use rustix::process::{Signal, getpid, kill_process};
use watchfire_app::{App, AppError, Next, NoSettings, Sandbox, Turn};
use watchfire_event::{Report, Sighting};

/// Where a worker holds its link to the master.
const LINK: RawFd = 3;
/// A signal's fault comes a moment after the start, so that the start itself is told.
const SOON: Duration = Duration::from_millis(500);

/// Makes an app of the type `$app`, called `$name`; `$turn` is its turn.
macro_rules! fault {
    ($(#[$doc:meta])* $app:ident, $name:literal, $state:ty, $turn:expr) => {
        $(#[$doc])*
        pub(crate) struct $app($state);

        impl App for $app {
            const NAME: &'static str = $name;
            type Settings = NoSettings;
            type Fact = Report;

            fn start(_: NoSettings, _: &Sandbox) -> Result<Self, AppError> {
                Ok($app(<$state>::default()))
            }

            fn turn(&mut self, turn: &mut Turn<'_, Report>) -> Result<Next, AppError> {
                let body: fn(&mut $state, &mut Turn<'_, Report>) -> Result<Next, AppError> = $turn;
                body(&mut self.0, turn)
            }
        }
    };
}

fault!(
    /// A turn that never ends, and burns the CPU.
    Spins,
    "spins",
    u64,
    |count, _| loop {
        *count = black_box(count.wrapping_add(1));
    }
);

fault!(
    /// Turns that end, one at the heels of the other.
    Burns,
    "burns",
    u64,
    |count, _| {
        for _ in 0..100_000 {
            *count = black_box(count.wrapping_add(1));
        }
        Ok(Next::Again)
    }
);

fault!(
    /// Memory that is taken, touched and never given back: some 40 MiB a second.
    Leaks,
    "leaks",
    Vec<Vec<u8>>,
    |leaked, _| {
        leaked.push(vec![1; 2 << 20]);
        Ok(Next::After(Duration::from_millis(50)))
    }
);

fault!(
    /// A panic at each turn.
    Panics,
    "panics",
    (),
    |(), _| panic!("as it always does")
);

fault!(
    /// Waits for something that never comes.
    Blocks,
    "blocks",
    (),
    |(), _| {
        let (never, word) = mpsc::channel::<()>();
        let outcome = word.recv();
        drop(never);
        outcome?;
        Ok(Next::Again)
    }
);

fault!(
    /// The signal of a bad pointer, on the second turn.
    Segfaults,
    "segfaults",
    bool,
    |warned, _| {
        if std::mem::replace(warned, true) {
            kill_process(getpid(), Signal::SEGV)?;
        }
        Ok(Next::After(SOON))
    }
);

fault!(
    /// Garbage into the worker's link, as fast as it is taken.
    Floods,
    "floods",
    (),
    |(), _| {
        // SAFETY: descriptor 3 of a worker is its link, open as long as the process lives; it is not closed here.
        let mut link = ManuallyDrop::new(unsafe { UnixStream::from_raw_fd(LINK) });
        link.write_all(&[0xA5; 64 << 10])?;
        Ok(Next::Again)
    }
);

fault!(
    /// Facts without end.
    Chatters,
    "chatters",
    u64,
    |count, turn| {
        while turn.room() > 0 {
            *count += 1;
            turn.emit(Report::new("chatters", "chat", [("number", count.to_string())])?);
        }
        Ok(Next::Again)
    }
);

fault!(
    /// The whole worker stops, on the second turn: it reads nothing any more, and says nothing.
    Deaf,
    "deaf",
    bool,
    |warned, _| {
        if std::mem::replace(warned, true) {
            kill_process(getpid(), Signal::STOP)?;
        }
        Ok(Next::After(SOON))
    }
);

/// A source that waits for something that never comes, on the thread that it shares with all others.
pub(crate) struct Hangs;

impl App for Hangs {
    const NAME: &'static str = "hangs";
    type Settings = NoSettings;
    type Fact = Sighting;

    fn start(_: NoSettings, _: &Sandbox) -> Result<Self, AppError> {
        Ok(Hangs)
    }

    fn turn(&mut self, _: &mut Turn<'_, Sighting>) -> Result<Next, AppError> {
        let (never, word) = mpsc::channel::<()>();
        let outcome = word.recv();
        drop(never);
        outcome?;
        Ok(Next::Again)
    }
}
