//! Which apps there are, and which worker runs each.

use serde_json::{Map, Value};
use watchfire_app::{AppKind, DocumentError};
use watchfire_event::{Report, Sighting};

use crate::apps::{ClockSteps, Files, Listeners, Logins, Modules, Network, Privilege, Processes, Udp};
use crate::workers::WorkerName;

/// All apps, by worker.
#[derive(Clone)]
pub struct Catalog {
    /// In the order in which they are told; the worker gives turns from the last to the first, and whatever another source
    /// saw, its process must be known: processes stand first.
    pub(crate) sensor: Vec<AppKind<Sighting>>,
    reporting: Vec<(WorkerName, AppKind<Report>)>,
}

impl Catalog {
    /// Those that are part of Watchfire.
    pub fn standard() -> Self {
        Catalog {
            sensor: vec![
                AppKind::of::<Processes>(),
                AppKind::of::<Network>(),
                AppKind::of::<Udp>(),
                AppKind::of::<Privilege>(),
                AppKind::of::<Modules>(),
                AppKind::of::<Files>(),
                AppKind::of::<Logins>(),
            ],
            reporting: vec![
                (WorkerName::Collector, AppKind::of::<ClockSteps>()),
                (WorkerName::Collector, AppKind::of::<Listeners>()),
            ],
        }
    }

    /// And another one, in `worker`.
    ///
    /// # Panics
    /// In the sensor worker there is room for sources alone.
    #[must_use]
    pub fn with(mut self, worker: WorkerName, app: AppKind<Report>) -> Self {
        assert!(worker != WorkerName::Sensor, "the sensor worker runs sources");
        self.reporting.push((worker, app));
        self
    }

    /// And another source, in the sensor worker: it shares its thread with all others.
    #[must_use]
    pub fn with_source(mut self, app: AppKind<Sighting>) -> Self {
        self.sensor.push(app);
        self
    }

    /// The apps of a worker that yield reports.
    pub(crate) fn reporting(&self, worker: WorkerName) -> impl Iterator<Item = &AppKind<Report>> {
        self.reporting.iter().filter(move |(of, _)| *of == worker).map(|(_, kind)| kind)
    }

    /// The names of a worker's apps.
    pub(crate) fn names(&self, worker: WorkerName) -> Vec<&'static str> {
        if worker == WorkerName::Sensor {
            return self.sensor.iter().map(AppKind::name).collect();
        }
        self.reporting(worker).map(AppKind::name).collect()
    }

    /// Checks each app's document, and gives it with every default filled in.
    pub(crate) fn check(
        &self,
        documents: &Map<String, Value>,
    ) -> Vec<(&'static str, Result<Value, DocumentError>)> {
        let sensor = self.sensor.iter().map(|kind| (kind.name(), kind.check(documents.get(kind.name()))));
        let reporting =
            self.reporting.iter().map(|(_, kind)| (kind.name(), kind.check(documents.get(kind.name()))));
        sensor.chain(reporting).collect()
    }
}
