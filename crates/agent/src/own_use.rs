//! What this process costs, told to the server with every status.

use std::path::Path;

use tracing::warn;
use watchfire_wire::v1;

/// Memory and CPU of this process under the name of its role.
pub(crate) fn own_use(role: &str) -> Option<v1::ProcessUse> {
    match watchfire_host::usage(Path::new("/proc"), std::process::id()) {
        Ok(usage) => Some(v1::ProcessUse {
            role: role.to_owned(),
            rss_bytes: usage.rss,
            cpu_micros: u64::try_from(usage.cpu.as_micros()).unwrap_or(u64::MAX),
        }),
        Err(error) => {
            warn!(%error, "read this process' own use");
            None
        }
    }
}
