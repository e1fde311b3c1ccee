//! Apps that behave: each tells a number, one higher each time, so that a lost one shows.

use std::time::Duration;

use watchfire_app::{App, AppError, Next, NoSettings, Sandbox, Turn};
use watchfire_event::Report;

const EVERY: Duration = Duration::from_millis(100);

/// Numbers of one life of a witness.
struct Ticks(u64);

impl Ticks {
    fn turn(&mut self, name: &str, turn: &mut Turn<'_, Report>) -> Result<Next, AppError> {
        self.0 += 1;
        let life = std::process::id().to_string();
        turn.emit(Report::new(name, "tick", [("number", self.0.to_string()), ("life", life)])?);
        Ok(Next::After(EVERY))
    }
}

/// In the worker of the faults.
pub(crate) struct Beside(Ticks);

impl App for Beside {
    const NAME: &'static str = "ticks_beside";
    type Settings = NoSettings;
    type Fact = Report;

    fn start(_: NoSettings, _: &Sandbox) -> Result<Self, AppError> {
        Ok(Beside(Ticks(0)))
    }

    fn turn(&mut self, turn: &mut Turn<'_, Report>) -> Result<Next, AppError> {
        self.0.turn(Self::NAME, turn)
    }
}

/// In another worker.
pub(crate) struct Elsewhere(Ticks);

impl App for Elsewhere {
    const NAME: &'static str = "ticks_elsewhere";
    type Settings = NoSettings;
    type Fact = Report;

    fn start(_: NoSettings, _: &Sandbox) -> Result<Self, AppError> {
        Ok(Elsewhere(Ticks(0)))
    }

    fn turn(&mut self, turn: &mut Turn<'_, Report>) -> Result<Next, AppError> {
        self.0.turn(Self::NAME, turn)
    }
}
