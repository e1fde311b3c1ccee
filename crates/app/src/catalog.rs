//! The apps that a worker can run: each a name, a way to check its documents, and a way to make it.

use std::os::fd::BorrowedFd;

use serde_json::Value;
use watchfire_event::Books;
use watchfire_pace::Rate;

use crate::app::{App, AppError, Next, Part, Taken};
use crate::document::{Document, DocumentError, MOST_PER_S};
use crate::sandbox::{Sandbox, Turn};

/// How many facts an app may yield.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    /// On the average.
    pub rate: Rate,
    /// After a quiet spell.
    pub burst: u64,
}

/// An app that a worker can run.
pub struct AppKind<F> {
    pub(crate) name: &'static str,
    pub(crate) enabled: bool,
    pub(crate) limit: Option<Limit>,
    check: fn(&Document) -> Result<Value, DocumentError>,
    pub(crate) make: fn() -> Box<dyn Hosted<F>>,
}

impl<F> Clone for AppKind<F> {
    fn clone(&self) -> Self {
        AppKind { ..*self }
    }
}

impl<F: Send + 'static> AppKind<F> {
    /// An app that runs unless its document says otherwise.
    pub const fn of<A: App<Fact = F>>() -> Self {
        AppKind {
            name: A::NAME,
            enabled: true,
            limit: None,
            check: |document| {
                let settings: A::Settings = document.settings(A::NAME)?;
                serde_json::to_value(&settings)
                    .map_err(|source| DocumentError::Parse { app: A::NAME.to_owned(), source })
            },
            make: || Box::new(Slot::<A>(None)),
        }
    }

    /// It runs only where its document says so.
    pub const fn off_by_default(mut self) -> Self {
        self.enabled = false;
        self
    }

    /// It yields no more than this.
    pub const fn limited(mut self, limit: Limit) -> Self {
        self.limit = Some(limit);
        self
    }

    /// Its name.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Checks a document, and gives it with every default filled in.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check(&self, document: Option<&Value>) -> Result<Value, DocumentError> {
        let document = Document::read(self.name, document, self.enabled)?;
        let mut whole = (self.check)(&document)?;
        if let Value::Object(keys) = &mut whole {
            keys.insert("enabled".to_owned(), Value::Bool(document.enabled));
            keys.insert(MOST_PER_S.to_owned(), Value::from(document.most_per_s));
        }
        Ok(whole)
    }
}

/// An app whose type is forgotten; not started, or running.
pub(crate) trait Hosted<F>: Send {
    fn start(&mut self, document: &Document, sandbox: &Sandbox) -> Result<(), AppError>;
    fn reconfigure(&mut self, document: &Document) -> Result<Taken, AppError>;
    fn turn(&mut self, turn: &mut Turn<'_, F>) -> Result<Next, AppError>;
    fn stop(&mut self, turn: &mut Turn<'_, F>) -> Result<(), AppError>;
    fn discard(&mut self);
    fn descriptors(&self) -> Vec<BorrowedFd<'_>>;
    fn parts(&self) -> Vec<Part>;
    fn books(&mut self) -> Books;
}

struct Slot<A>(Option<A>);

impl<A: App> Slot<A> {
    fn settings(document: &Document) -> Result<A::Settings, AppError> {
        // The master has checked it; a worker of another version refuses it here, in the same words.
        document
            .settings(A::NAME)
            .map_err(|error| AppError::Unavailable { why: error.to_string(), parts: Vec::new() })
    }

    fn running(&mut self) -> Result<&mut A, AppError> {
        self.0.as_mut().ok_or_else(|| "the app is not started".into())
    }
}

impl<A: App> Hosted<A::Fact> for Slot<A> {
    fn start(&mut self, document: &Document, sandbox: &Sandbox) -> Result<(), AppError> {
        self.0 = Some(A::start(Self::settings(document)?, sandbox)?);
        Ok(())
    }

    fn reconfigure(&mut self, document: &Document) -> Result<Taken, AppError> {
        let settings = Self::settings(document)?;
        self.running()?.reconfigure(&settings)
    }

    fn turn(&mut self, turn: &mut Turn<'_, A::Fact>) -> Result<Next, AppError> {
        self.running()?.turn(turn)
    }

    fn stop(&mut self, turn: &mut Turn<'_, A::Fact>) -> Result<(), AppError> {
        self.running()?.stop(turn)
    }

    fn discard(&mut self) {
        self.0 = None;
    }

    fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        self.0.as_ref().map(App::descriptors).unwrap_or_default()
    }

    fn parts(&self) -> Vec<Part> {
        self.0.as_ref().map(App::parts).unwrap_or_default()
    }

    fn books(&mut self) -> Books {
        self.0.as_mut().map(App::books).unwrap_or_default()
    }
}
