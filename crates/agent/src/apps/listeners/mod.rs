//! The app `listeners`: what listens on this host, and which process holds it.
//!
//! It sees what was there before the agent, and what no hook saw. `scan.rs` is one look at all sockets, in steps; `ration.rs` spaces the
//! steps, so that a scan of any size takes longer and never more of the CPU; `telling.rs` has the reports' fields.

mod ration;
mod scan;
mod telling;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use watchfire_app::{
    App, AppError, Next, OutOfRange, Part, PartState, Sandbox, Settings, Taken, Turn, within,
};
use watchfire_event::Report;
use watchfire_host::{Listener, ListenerKey, Listing, ProcReader};

use ration::Ration;
use scan::{Around, Scan, Step};
use telling::{Holder, Summary};

const PROC: &str = "/proc";
/// A turn works for so much CPU time, and the step that it has begun then, which is as long at most.
const SLICE: Duration = Duration::from_millis(2);
/// The first scan begins somewhere within so much time.
const FIRST_WITHIN: Duration = Duration::from_secs(30);
/// It looks so often whether its settings have changed.
const LONGEST_REST: Duration = Duration::from_secs(5);
const GIVES: &str =
    "listening TCP and bound UDP sockets, those from before the agent too, and the process that holds each";
const BLIND: [&str; 3] = [
    "sockets of other network namespaces (containers, unless they share the host's)",
    "a socket that is opened and closed between two scans",
    "raw and packet sockets, and protocols other than TCP and UDP",
];

/// How often it looks, and what that may cost.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct ListenerSettings {
    /// Between the beginnings of two scans, in seconds, 1 to 86400.
    every_s: u32,
    /// Of one core, while it scans, in percent, 1 to 100.
    cpu_percent: u32,
    /// Listeners that are known at one time, 16 to 16384. Of more it is told how many were left out.
    most: u32,
    /// A scan ends after so many seconds, 1 to 3600, and says what it could not find out.
    deadline_s: u32,
}

impl Default for ListenerSettings {
    /// Two percent go through half a million descriptors before the deadline. Listeners are dozens on most hosts.
    fn default() -> Self {
        ListenerSettings { every_s: 300, cpu_percent: 2, most: 4096, deadline_s: 240 }
    }
}

impl Settings for ListenerSettings {
    fn check(&self) -> Result<(), OutOfRange> {
        within("every_s", self.every_s, 1..=86_400, "1 to 86400")?;
        within("cpu_percent", self.cpu_percent, 1..=100, "1 to 100")?;
        within("most", self.most, 16..=16_384, "16 to 16384")?;
        within("deadline_s", self.deadline_s, 1..=3600, "1 to 3600")
    }
}

impl ListenerSettings {
    fn every(&self) -> Duration {
        Duration::from_secs(self.every_s.into())
    }
}

/// A listener that was told, and its holder as it was then.
struct Known {
    listener: Listener,
    holder: Option<Arc<Holder>>,
}

type KnownListeners = BTreeMap<ListenerKey, Known>;

/// See the module's documentation.
pub(crate) struct Listeners {
    settings: ListenerSettings,
    processes: ProcReader,
    listing: Listing,
    known: KnownListeners,
    ration: Ration,
    /// When the next scan begins.
    due: Instant,
    scan: Option<Scan>,
    /// No scan has seen everything yet: what is found was there before.
    first: bool,
}

impl App for Listeners {
    const NAME: &'static str = "listeners";
    type Settings = ListenerSettings;
    type Fact = Report;

    fn start(settings: ListenerSettings, sandbox: &Sandbox) -> Result<Self, AppError> {
        let first = sandbox.stagger(FIRST_WITHIN.min(settings.every()));
        Ok(Listeners {
            due: sandbox.now() + first,
            settings,
            processes: ProcReader::new(PROC),
            listing: Listing::new(PROC),
            known: BTreeMap::new(),
            ration: Ration::begin(),
            scan: None,
            first: true,
        })
    }

    fn turn(&mut self, turn: &mut Turn<'_, Report>) -> Result<Next, AppError> {
        let now = turn.now();
        if self.scan.is_none() && now < self.due {
            return Ok(Next::After((self.due - now).min(LONGEST_REST)));
        }
        let mut scan = match self.scan.take() {
            Some(scan) => scan,
            None => {
                self.ration.forget();
                self.due = now + self.settings.every();
                Scan::begin(&mut self.listing, self.first, now, self.ration.used())
            }
        };
        let mut around = Around {
            proc: PROC,
            processes: &self.processes,
            listing: &mut self.listing,
            known: &mut self.known,
            most: self.settings.most as usize,
        };
        let deadline = Duration::from_secs(self.settings.deadline_s.into());
        let mut more = true;
        while more && !turn.stopping() {
            if now.saturating_duration_since(scan.begun()) >= deadline {
                scan.give_up(&mut around);
            }
            more = scan.step(&mut around, turn)? == Step::More;
            if self.ration.spent() >= SLICE || turn.room() == 0 {
                break;
            }
        }
        if more {
            self.scan = Some(scan);
        } else {
            let summary = scan.summary(&self.listing, self.known.len(), now, self.ration.used());
            self.ended(&summary, turn)?;
        }
        let pause = self.ration.pause(self.settings.cpu_percent);
        let rest = if self.scan.is_some() { Duration::ZERO } else { self.due.saturating_duration_since(now) };
        Ok(Next::After(pause.max(rest.min(LONGEST_REST))))
    }

    /// What is known stays known: other settings are no reason to tell everything again.
    fn reconfigure(&mut self, settings: &ListenerSettings) -> Result<Taken, AppError> {
        // The next scan is brought forward, never put off.
        let earlier = self.settings.every().saturating_sub(settings.every());
        self.due = self.due.checked_sub(earlier).unwrap_or(self.due);
        self.settings = settings.clone();
        Ok(Taken::InPlace)
    }

    fn parts(&self) -> Vec<Part> {
        let details = BLIND.map(|blind| format!("does not see {blind}")).into();
        vec![Part { name: "listeners", state: PartState::Active, gives: GIVES, details }]
    }
}

impl Listeners {
    /// Tells of the first scan, and of each that did not see everything.
    fn ended(&mut self, summary: &Summary, turn: &mut Turn<'_, Report>) -> Result<(), AppError> {
        tracing::debug!(%summary, "scan");
        if summary.first || !summary.is_whole() {
            turn.emit(summary.report(Self::NAME)?);
        }
        self.first &= !summary.listed;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
