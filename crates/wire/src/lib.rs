//! The agent protocol: generated messages (`v1`), framing, and conversions to and from the event model.
//!
//! `proto/agent/v1/agent.proto` → `cargo xtask proto` → `src/generated/` (checked in, so that no build needs protoc).

mod alerts;
mod batch;
mod books;
mod frame;
mod process;
mod relay;
mod spooled;

/// Generated from `proto/agent/v1/agent.proto`; `cargo xtask proto --check` fails when it is stale.
#[expect(missing_docs, reason = "generated; the comments are in the .proto")]
pub mod v1 {
    include!("generated/watchfire.agent.v1.rs");
}

/// Generated from `proto/worker/v1/worker.proto`, likewise.
#[expect(missing_docs, reason = "generated; the comments are in the .proto")]
pub mod worker {
    include!("generated/watchfire.worker.v1.rs");
}

pub use alerts::{decode_alert, decode_alert_bytes, encode_alert, encode_alert_bytes};
pub use batch::{BatchBuilder, batch_counts, decode_batch, known_word};
pub use books::{decode_books, encode_books};
pub use frame::{
    FrameError, MAX_FRAME, PROTOCOL, batch_in_frame, decode_agent_frame, frame_around_batch, read_frame,
    read_frame_within, read_raw_frame, write_frame, write_raw_frame,
};
pub use process::ConversionError;
pub use relay::{ClosedBatch, RENUMBERING_ADDS};
pub use spooled::{SpooledContent, SpooledFrame};
