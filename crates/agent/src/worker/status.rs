//! What a worker tells of its apps.

use watchfire_app::{AppStatus, Life, Part};
use watchfire_wire::v1;

use crate::workers::WorkerName;

/// What the master is told of one app.
pub(super) fn app(worker: WorkerName, status: &AppStatus) -> v1::AppStatus {
    v1::AppStatus {
        worker: worker.as_str().to_owned(),
        app: status.app.to_owned(),
        state: status.life.as_str().to_owned(),
        why: if status.life == Life::Running { String::new() } else { status.why.clone() },
        starts: status.starts,
        failures: status.failures,
        panics: status.panics,
        facts: status.facts,
        limited: status.limited,
        overruns: status.overruns,
    }
}

/// What the master is told of one source.
pub(super) fn source(part: &Part) -> v1::SourceStatus {
    v1::SourceStatus {
        name: part.name.to_owned(),
        state: part.state.as_str().to_owned(),
        detail: part.details.join("; "),
    }
}
