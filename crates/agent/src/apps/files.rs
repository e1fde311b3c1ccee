//! The app `files`: what happens to watched files, by fanotify.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use watchfire_app::{App, AppError, OutOfRange, Sandbox, Settings};
use watchfire_event::Sighting;
use watchfire_sensor::{FanotifySource, FileSettings as Watched};

use super::kernel::unavailable;
use super::tap::{Tap, through_the_tap};

const GIVES: &str = "file create, write, rename, unlink, attributes, link; secrets opened";
/// More of them than anyone writes by hand.
const MOST: usize = 4096;

/// Which files are watched.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct FileSettings {
    /// Directories watched with everything below them, instead of the built-in list.
    prefixes: Option<Vec<PathBuf>>,
    /// Directories watched besides that list.
    more_prefixes: Vec<PathBuf>,
    /// Files whose opening is an event, besides the built-in list; `*` stands for one component or a part of it.
    more_secrets: Vec<String>,
    /// Directories left out, with everything below them.
    excludes: Vec<PathBuf>,
}

impl Settings for FileSettings {
    fn check(&self) -> Result<(), OutOfRange> {
        let lists = [
            ("prefixes", self.prefixes.as_ref().map_or(0, Vec::len)),
            ("more_prefixes", self.more_prefixes.len()),
            ("more_secrets", self.more_secrets.len()),
            ("excludes", self.excludes.len()),
        ];
        match lists.into_iter().find(|(_, count)| *count > MOST) {
            Some((key, count)) => {
                Err(OutOfRange { key, value: format!("{count} entries"), allowed: "4096 entries" })
            }
            None => Ok(()),
        }
    }
}

impl From<FileSettings> for Watched {
    fn from(settings: FileSettings) -> Self {
        let mut watched = Watched::default();
        if let Some(prefixes) = settings.prefixes {
            watched.prefixes = prefixes;
        }
        watched.prefixes.extend(settings.more_prefixes);
        watched.secrets.extend(settings.more_secrets);
        watched.excludes.extend(settings.excludes);
        watched
    }
}

/// See the module's documentation.
pub(crate) struct Files {
    tap: Tap,
}

impl App for Files {
    const NAME: &'static str = "files";
    type Settings = FileSettings;
    type Fact = Sighting;

    fn start(settings: FileSettings, _: &Sandbox) -> Result<Self, AppError> {
        let source = FanotifySource::open(settings.into()).map_err(|error| {
            let part = unavailable("fanotify", GIVES, &error);
            AppError::Unavailable { why: part.details.join("; "), parts: vec![part] }
        })?;
        let blind = source.blind_spots();
        Ok(Files { tap: Tap::new(source, GIVES, blind) })
    }

    through_the_tap!();
}
