//! Ids, units and the event model: the ground floor that every other crate may use.
//!
//! `event` = a fact from a host, `alert` = a rule's verdict on events, `ledger` = what each stage did with them.
//! Nothing here reads a file, opens a socket or knows of an async runtime.

mod alert;
#[cfg(feature = "arbitrary")]
pub mod arbitrary;
mod causes;
mod clock;
mod event;
mod ids;
mod ledger;
mod printable;
mod process;
mod report;
mod sighting;

pub use alert::{Alert, AlertTimes, Level, MatchedField, ProcessNode, RuleId};
pub use causes::with_causes;
pub use clock::{BootNanos, UnixNanos};
pub use event::{
    Body, Event, FileAction, FileActivity, Flow, Kind, LoginAttempt, MountActivity, NamespaceActivity,
    Outcome, PtraceActivity, Transport, UnknownKind,
};
pub use ids::{AlertId, BootId, ContainerId, HostId, ParseIdError, ProcessKey, StreamId};
pub use ledger::{Books, Counts, DropReason, LedgerRow, Stage};
pub use printable::{printable, printable_argv, printable_field};
pub use process::{Credentials, Image, Namespaces, Process, ProcessOrigin, Stdio, Tty};
pub use report::{REPORT_FIELDS, REPORT_LABEL_BYTES, REPORT_VALUE_BYTES, Report, ReportError};
pub use sighting::{Actor, Sighting, What};
