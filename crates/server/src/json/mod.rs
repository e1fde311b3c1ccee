//! The JSON contract: how events, alerts, hosts and books look to scripts. Described for people in `docs/api.md`.
//!
//! `Event`/`Alert` → borrowed views (`event`, `alert`, `process`) → one line (`line`), in which no character can
//! move a terminal's cursor or reorder what a reader sees.

mod alert;
mod books;
mod event;
mod line;
mod process;

pub(crate) use alert::AlertView;
pub(crate) use books::{LedgerRowView, VerdictView};
pub(crate) use event::EventView;
pub(crate) use line::line;
