//! What a worker says, on its way to the outbox: a thread of the master for each life of a worker.

use std::os::unix::net::UnixStream;
use std::time::Instant;

use anyhow::{Context, Result};
use watchfire_wire::v1::{self, agent_frame::Body};
use watchfire_wire::{ConversionError, read_raw_frame};

use crate::outbox::{Outbox, WorkerLife};
use crate::workers::Slot;

/// Moves a worker's frames to the outbox until it closes its link. `announce` is called for a status that lies in the slot.
///
/// # Errors
/// The worker broke the protocol: it is to be ended.
pub(crate) fn run(
    mut incoming: UnixStream,
    life: WorkerLife,
    outbox: &Outbox,
    slot: &Slot,
    announce: impl Fn(),
) -> Result<()> {
    while let Some(frame) = read_raw_frame(&mut incoming).context("its link broke")? {
        slot.hear(Instant::now());
        let status = accept(&frame, life, outbox).context("it sent a frame that is none")?;
        // One that waits to be fetched was announced.
        if let Some(status) = status
            && slot.put(status)
        {
            announce();
        }
    }
    Ok(())
}

/// A status is the master's; everything else goes into the outbox.
fn accept(frame: &[u8], life: WorkerLife, outbox: &Outbox) -> Result<Option<v1::Status>, ConversionError> {
    if watchfire_wire::batch_in_frame(frame).is_none()
        && let Some(Body::Status(status)) = watchfire_wire::decode_agent_frame(frame)?.body
    {
        return Ok(Some(status));
    }
    outbox.take(life, frame)?;
    Ok(None)
}
