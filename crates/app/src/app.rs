//! The trait that an app implements.

use std::error::Error;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use watchfire_event::Books;

use crate::document::Settings;
use crate::sandbox::{Sandbox, Turn};

/// One piece of the agent's business.
///
/// It is started with its settings, is given turns, and is stopped. Whatever it returns or however it panics, it alone is
/// restarted, after a wait.
pub trait App: Sized + Send + 'static {
    /// Its name: in the settings, the log, the status. Lower case, `_` between words.
    const NAME: &'static str;
    /// Its settings.
    type Settings: Settings;
    /// What it yields.
    type Fact: Send + 'static;

    /// Takes what it needs from the host.
    ///
    /// # Errors
    /// [`AppError::Unavailable`] where this host does not offer that: it is not tried again until the settings change. Any other
    /// error is tried again, after a wait that grows.
    fn start(settings: Self::Settings, sandbox: &Sandbox) -> Result<Self, AppError>;

    /// Does what there is to do now, in milliseconds, and says when it wants its next turn.
    ///
    /// # Errors
    /// The app can go no further. It is dropped and started anew after a wait. Bad input is no such error: count it, and go on.
    fn turn(&mut self, turn: &mut Turn<'_, Self::Fact>) -> Result<Next, AppError>;

    /// Takes other settings while it runs. The default has it stopped and started anew.
    ///
    /// # Errors
    /// As for [`App::start`], after which it is tried to start it anew.
    fn reconfigure(&mut self, _settings: &Self::Settings) -> Result<Taken, AppError> {
        Ok(Taken::ByRestart)
    }

    /// Yields what is left. After it the app is dropped, and with that gives back what it took.
    ///
    /// # Errors
    /// Are told, and change nothing.
    fn stop(&mut self, _turn: &mut Turn<'_, Self::Fact>) -> Result<(), AppError> {
        Ok(())
    }

    /// Descriptors that become readable when there is something to do.
    fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        Vec::new()
    }

    /// What it is made of, and how each part fares.
    fn parts(&self) -> Vec<Part> {
        Vec::new()
    }

    /// Its books since its start, where what it yields is counted before it yields it (in the kernel, say).
    fn books(&mut self) -> Books {
        Books::default()
    }
}

/// When an app wants its next turn. A readable descriptor gives it one before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// There is more; after the others of its lane have had theirs.
    Again,
    /// After so long.
    After(Duration),
    /// When one of its descriptors is readable.
    WhenReadable,
}

/// How an app took other settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// They are in force.
    InPlace,
    /// It cannot change while it runs, and is to be stopped and started.
    ByRestart,
}

/// Why an app does not run.
#[derive(Debug)]
pub enum AppError {
    /// This host does not offer what it needs.
    Unavailable {
        /// Why.
        why: String,
        /// What [`App::parts`] would tell.
        parts: Vec<Part>,
    },
    /// Something went wrong that may go right another time.
    Failed(Box<dyn Error + Send + Sync>),
}

impl AppError {
    /// The error and its causes in one line.
    pub fn text(&self) -> String {
        match self {
            AppError::Unavailable { why, .. } => why.clone(),
            AppError::Failed(error) => watchfire_event::with_causes(error.as_ref()),
        }
    }
}

/// Not an [`Error`] itself, so that `?` takes any.
impl<E: Into<Box<dyn Error + Send + Sync>>> From<E> for AppError {
    fn from(error: E) -> Self {
        AppError::Failed(error.into())
    }
}

/// Whether a part of an app is in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PartState {
    /// In use.
    Active,
    /// Would work, and a better one is in use.
    Standby,
    /// Does not work here; the details say why.
    Unavailable,
}

impl PartState {
    /// The word used in output.
    pub fn as_str(self) -> &'static str {
        match self {
            PartState::Active => "active",
            PartState::Standby => "standby",
            PartState::Unavailable => "unavailable",
        }
    }
}

/// A part of an app: a source it reads, say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// One word or two.
    pub name: &'static str,
    /// Whether it is in use.
    pub state: PartState,
    /// What it gives.
    pub gives: &'static str,
    /// What it cannot see, or why it is not in use.
    pub details: Vec<String>,
}
