//! What the master tells a worker.

use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;
use tracing::{debug, warn};
use watchfire_event::Kind;
use watchfire_wire::read_frame;
use watchfire_wire::worker::{Configure, MasterFrame, master_frame::Body};

/// The first frame is on its way when the worker starts; of any other, the rest is when its beginning is.
const PATIENCE: Duration = Duration::from_secs(10);

/// Settings that are in force from now on.
pub(super) struct Configured {
    pub(super) revision: u64,
    /// By app, still partial.
    pub(super) documents: Value,
    /// Apps that are not to run for now.
    pub(super) resting: Vec<String>,
}

/// A word of the master.
pub(super) enum Order {
    Configure(Configured),
    /// Kinds to give up for now.
    Shed(Vec<Kind>),
    /// Drain, send, end.
    Stop,
}

/// The worker's end of the link, for reading.
pub(super) struct Inbox {
    link: UnixStream,
}

impl Inbox {
    /// Takes the first frame, which says what settings are in force.
    pub(super) fn open(link: &UnixStream) -> Result<(Self, Configured)> {
        let link = link.try_clone().context("duplicate the link to the master")?;
        link.set_nonblocking(false).context("set up the link to the master")?;
        link.set_read_timeout(Some(PATIENCE)).context("set a deadline on the link to the master")?;
        let mut inbox = Inbox { link };
        match inbox.next() {
            Order::Configure(configured) => Ok((inbox, configured)),
            Order::Shed(_) | Order::Stop => bail!("the master left, or said something else first"),
        }
    }

    /// The next word; to be called when the link is readable. A link that broke, or says what no master says, means to stop.
    pub(super) fn next(&mut self) -> Order {
        match read_frame::<MasterFrame>(&mut self.link) {
            Ok(Some(MasterFrame { body: Some(Body::Configure(configure)) })) => match configured(configure) {
                Ok(configured) => Order::Configure(configured),
                Err(error) => {
                    warn!(error = format!("{error:#}"), "settings of the master are not readable");
                    Order::Stop
                }
            },
            Ok(Some(MasterFrame { body: Some(Body::Shed(shed)) })) => {
                let known = shed.kinds.iter().filter_map(|number| u8::try_from(*number).ok());
                Order::Shed(known.filter_map(|number| Kind::try_from(number).ok()).collect())
            }
            Ok(Some(MasterFrame { body: None })) => {
                warn!("a word of the master that this worker does not know");
                Order::Stop
            }
            Ok(None) => Order::Stop,
            Err(error) => {
                debug!(error = &error as &dyn std::error::Error, "the master is gone");
                Order::Stop
            }
        }
    }
}

impl AsFd for Inbox {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.link.as_fd()
    }
}

fn configured(configure: Configure) -> Result<Configured> {
    let documents = crate::settings::parse(&configure.document)?;
    Ok(Configured { revision: configure.revision, documents, resting: configure.resting })
}
