//! What a server needs to be told.

use std::net::SocketAddr;
use std::path::PathBuf;

use watchfire_lake::LakeSettings;

/// Settings of one server.
#[derive(Debug, Clone)]
pub struct ServerSettings {
    /// Holds everything the server keeps; made with mode 0700 when it is not there.
    pub data_dir: PathBuf,
    /// Where API and console listen. Port 0 takes a free one: see [`crate::ServerHandle::address`].
    pub listen: SocketAddr,
    /// Sizes and ages of the event log and its Parquet files.
    pub lake: LakeSettings,
}

impl ServerSettings {
    /// With the lake's defaults.
    pub fn new(data_dir: impl Into<PathBuf>, listen: SocketAddr) -> Self {
        ServerSettings { data_dir: data_dir.into(), listen, lake: LakeSettings::default() }
    }
}
