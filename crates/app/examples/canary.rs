//! The app of docs/writing-an-app.md, run by itself: `cargo run -p watchfire-app --example canary -- FILE` tells when FILE grows.
//! A test holds the page to this file.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use watchfire_app::{
    App, AppChange, AppError, AppKind, Clock, Document, Host, Intake, Lane, LaneSettings, Next, OutOfRange,
    Sandbox, Settings, Turn, within,
};
use watchfire_event::{HostId, Report};
use watchfire_pace::{RetryBudget, Stop};

#[derive(Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct CanarySettings {
    file: PathBuf,
    every_s: u32,
}

impl Default for CanarySettings {
    fn default() -> Self {
        CanarySettings { file: "/var/lib/watchfire-canary".into(), every_s: 60 }
    }
}

impl Settings for CanarySettings {
    fn check(&self) -> Result<(), OutOfRange> {
        within("every_s", self.every_s, 1..=3600, "1 to 3600")
    }
}

struct Canary {
    settings: CanarySettings,
    told: u64,
}

impl App for Canary {
    const NAME: &'static str = "canary";
    type Settings = CanarySettings;
    type Fact = Report;

    fn start(settings: CanarySettings, _: &Sandbox) -> Result<Self, AppError> {
        Ok(Canary { settings, told: 0 })
    }

    fn turn(&mut self, turn: &mut Turn<'_, Report>) -> Result<Next, AppError> {
        let length = std::fs::metadata(&self.settings.file)?.len();
        if length != self.told {
            let path = self.settings.file.display().to_string();
            turn.emit(Report::new(Self::NAME, "grew", [("file", path), ("bytes", length.to_string())])?);
            self.told = length;
        }
        Ok(Next::After(Duration::from_secs(self.settings.every_s.into())))
    }
}

/// Prints what the app tells.
struct Printed;

impl Intake<Report> for Printed {
    fn take(&mut self, _: usize, report: Report) {
        println!("{report}");
    }

    fn refused(&mut self, _: usize, report: Report) {
        println!("over its limit: {report}");
    }

    fn changed(&mut self, _: usize, change: AppChange) {
        println!("{}: {} {}", change.app, change.to.as_str(), change.why);
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let file = std::env::args().nth(1).ok_or("usage: canary FILE")?;
    let kind = AppKind::of::<Canary>();
    let document = kind.check(Some(&serde_json::json!({ "file": file, "every_s": 1 })))?;
    let document = Document::read(kind.name(), Some(&document), true)?;
    let now = Instant::now();
    let host = Host {
        id: HostId([0; 16]),
        clock: Clock::new(now),
        stop: Stop::new(),
        retries: Arc::new(RetryBudget::per_minute(10, now)),
    };
    let mut lane = Lane::new(host, LaneSettings::default(), vec![(kind, document)]);
    loop {
        let ready = lane.wait(None, Duration::from_secs(1))?;
        lane.round(&ready, &mut Printed);
    }
}
