//! A row: an event with where it comes from.

use std::sync::Arc;

use watchfire_event::{Body, Event, Process, UnixNanos};

use crate::log::Record;

/// What all rows of one record share, spelled out once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Origin {
    pub(crate) host: String,
    pub(crate) hostname: String,
    pub(crate) boot: String,
    pub(crate) incarnation: u64,
    pub(crate) booted: UnixNanos,
    pub(crate) received: UnixNanos,
    pub(crate) offset: u64,
}

/// One event on its way into a file.
#[derive(Debug, Clone)]
pub(crate) struct Row {
    pub(crate) origin: Arc<Origin>,
    /// Its place in its batch.
    pub(crate) index: u32,
    pub(crate) event: Event,
}

impl Origin {
    pub(crate) fn of(record: &Record<'_>) -> Self {
        Self {
            host: record.stream.host.to_string(),
            hostname: String::from_utf8_lossy(record.hostname).into_owned(),
            boot: record.stream.boot.to_string(),
            incarnation: record.stream.incarnation.0,
            booted: record.booted,
            received: record.received,
            offset: record.offset,
        }
    }
}

impl Row {
    /// When it happened, on the wall clock.
    pub(crate) fn wall(&self) -> UnixNanos {
        self.event.at.on_wall(self.origin.booted)
    }

    /// About how many bytes of names and arguments it will copy into its columns.
    pub(crate) fn weight(&self) -> usize {
        weight(&self.event)
    }
}

/// About how many bytes of names and arguments an event takes when it stands alone. In a batch a process is sent once and
/// pointed to, so a small batch can unfold to much more than its size.
pub(crate) fn weight(event: &Event) -> usize {
    let parent = event.parent.as_ref().map_or(0, |parent| parent.exe.len() + parent.argv.len());
    600 + process_weight(&event.process) + parent + body_weight(&event.body)
}

/// The unit of the `TIMESTAMP` columns.
pub(crate) fn wall_micros(time: UnixNanos) -> i64 {
    time.0.div_euclid(1000)
}

fn process_weight(process: &Process) -> usize {
    process.exe.len() + process.filename.len() + process.argv.len() + process.cwd.len() + process.comm.len()
}

fn body_weight(body: &Body) -> usize {
    match body {
        Body::File(file) => file.path.len() + file.new_path.as_ref().map_or(0, Vec::len),
        Body::Ptrace(ptrace) => ptrace.target_process.as_deref().map_or(0, process_weight),
        Body::Memfd { name } | Body::ModuleLoad { name, .. } | Body::BpfLoad { name, .. } => name.len(),
        Body::Mount(mount) => mount.source.len() + mount.target.len() + mount.fstype.len(),
        Body::Login(login) => login.service.len() + login.user.len() + login.method.len(),
        Body::Loss { source, .. } => source.len(),
        Body::Report(report) => report.text_bytes(),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn micros_round_towards_the_past() {
        assert_eq!([wall_micros(UnixNanos(1999)), wall_micros(UnixNanos(-1))], [1, -1]);
    }
}
