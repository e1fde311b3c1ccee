//! The app `logins`: who logged in, or failed to, by the logs of sshd, su, sudo and login.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use watchfire_app::{App, AppError, OutOfRange, Sandbox, Settings};
use watchfire_event::Sighting;
use watchfire_sensor::AuthLog;

use super::tap::{Tap, through_the_tap};

/// Where logins are read.
#[derive(Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct LoginSettings {
    /// Log files; those that do not exist are waited for.
    logs: Vec<PathBuf>,
}

impl Default for LoginSettings {
    fn default() -> Self {
        LoginSettings { logs: vec!["/var/log/auth.log".into(), "/var/log/secure".into()] }
    }
}

impl Settings for LoginSettings {
    fn check(&self) -> Result<(), OutOfRange> {
        if self.logs.len() <= 16 {
            return Ok(());
        }
        Err(OutOfRange { key: "logs", value: format!("{} files", self.logs.len()), allowed: "16 files" })
    }
}

/// See the module's documentation.
pub(crate) struct Logins {
    tap: Tap,
}

impl App for Logins {
    const NAME: &'static str = "logins";
    type Settings = LoginSettings;
    type Fact = Sighting;

    fn start(settings: LoginSettings, _: &Sandbox) -> Result<Self, AppError> {
        let source = AuthLog::new(settings.logs);
        let blind = source.blind_spots();
        Ok(Logins { tap: Tap::new(source, "logins, accepted and failed", blind) })
    }

    through_the_tap!();
}
