//! What reaches the master from outside of the agent: signals, and the end of its parent.

use std::io::Read;
use std::sync::mpsc;
use std::thread;

use anyhow::Result;
use tracing::warn;

use crate::master::Notice;

/// Hands on SIGTERM, SIGINT and SIGHUP.
pub(crate) fn watch_signals(notices: mpsc::Sender<Notice>) -> Result<()> {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
    let mut signals = signal_hook::iterator::Signals::new([SIGTERM, SIGINT, SIGHUP])?;
    thread::Builder::new().name("signals".into()).spawn(move || {
        for signal in &mut signals {
            let notice = match signal {
                SIGHUP => Notice::Reload,
                SIGTERM => Notice::Stop("SIGTERM"),
                _ => Notice::Stop("SIGINT"),
            };
            if notices.send(notice).is_err() {
                return;
            }
        }
    })?;
    Ok(())
}

/// Stops the master when its standard input ends.
pub(crate) fn watch_stdin(notices: mpsc::Sender<Notice>) -> Result<()> {
    thread::Builder::new().name("parent".into()).spawn(move || {
        let mut byte = [0u8; 64];
        while matches!(std::io::stdin().read(&mut byte), Ok(count) if count > 0) {}
        if notices.send(Notice::Stop("the parent is gone")).is_err() {
            warn!("the master is ending already");
        }
    })?;
    Ok(())
}
