//! What the apps of the sensor worker have in common: a source that is drained in turns.

use std::os::fd::BorrowedFd;
use std::time::Duration;

use watchfire_app::{AppError, Next, Part, PartState, Turn};
use watchfire_event::{Books, Sighting};
use watchfire_sensor::Source;

/// After a turn that took something the next comes this soon: the kernel side wakes a reader at most every 20 ms, and what it
/// wrote since is not announced.
const SOON: Duration = Duration::from_millis(20);
/// A source without a descriptor is asked this often.
const ASKED: Duration = Duration::from_millis(250);

/// A source that is attached, and what there is to say of it.
pub(crate) struct Tap {
    source: Box<dyn Source + Send>,
    pub(crate) parts: Vec<Part>,
}

impl Tap {
    pub(crate) fn new(
        source: impl Source + Send + 'static,
        gives: &'static str,
        details: Vec<String>,
    ) -> Self {
        let part = Part { name: source.name(), state: PartState::Active, gives, details };
        tracing::info!(source = part.name, "source attached");
        Tap { source: Box::new(source), parts: vec![part] }
    }

    pub(crate) fn turn(&mut self, turn: &mut Turn<'_, Sighting>) -> Result<Next, AppError> {
        let room = turn.room();
        let taken = self.source.drain(room, &mut |sighting| {
            turn.emit(sighting);
        })?;
        Ok(match taken {
            0 if self.source.descriptors().is_empty() => Next::After(ASKED),
            0 => Next::WhenReadable,
            _ if taken >= room => Next::Again,
            _ => Next::After(SOON),
        })
    }

    /// Takes what is there still, before the source is given up.
    pub(crate) fn stop(&mut self, turn: &mut Turn<'_, Sighting>) -> Result<(), AppError> {
        // As much again as a turn takes, and no more: a storm does not hold up a stop.
        let room = turn.room();
        self.source.drain(room, &mut |sighting| {
            turn.emit(sighting);
        })?;
        Ok(())
    }

    pub(crate) fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        self.source.descriptors()
    }

    pub(crate) fn books(&mut self) -> Books {
        self.source.books()
    }
}

/// The calls of an app that go to its field `tap`.
macro_rules! through_the_tap {
    () => {
        fn turn(
            &mut self,
            turn: &mut watchfire_app::Turn<'_, watchfire_event::Sighting>,
        ) -> Result<watchfire_app::Next, watchfire_app::AppError> {
            self.tap.turn(turn)
        }

        fn stop(
            &mut self,
            turn: &mut watchfire_app::Turn<'_, watchfire_event::Sighting>,
        ) -> Result<(), watchfire_app::AppError> {
            self.tap.stop(turn)
        }

        fn descriptors(&self) -> Vec<std::os::fd::BorrowedFd<'_>> {
            self.tap.descriptors()
        }

        fn parts(&self) -> Vec<watchfire_app::Part> {
            self.tap.parts.clone()
        }

        fn books(&mut self) -> watchfire_event::Books {
            self.tap.books()
        }
    };
}

pub(crate) use through_the_tap;
