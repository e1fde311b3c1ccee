//! Workers: child processes of the master, the same executable started again.
//!
//! A worker finds its link to the master at descriptor 3. The end of its input means: drain, send what is left, end.

mod link;
mod outbound;
mod procfs;
mod rules;
mod sensor;
mod sources;

pub(crate) use link::{inherit_link, take_link};
pub(crate) use sensor::{SensorOrders, run};
pub(crate) use sources::{SourceReport, SourceState, attach};
