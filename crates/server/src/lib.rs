//! The server roles of one machine: ingest, API, console.
//!
//! ```text
//! agent ─ Unix socket ─► ingest ─► stores: event log + lake, alert database ─► api: JSON Lines ─► commands, scripts
//!                          └─► live counts, agents' state, alert feed ─────────► console: pages, server-sent events
//! ```
//!
//! [`Server::start`] starts all of it, [`ServerHandle::stop`] ends it in order. The server knows no eBPF and no agent
//! code: an agent is whoever speaks the protocol of `crates/wire` on `DIR/agent.sock`.

#![forbid(unsafe_code)]

mod agents;
mod api;
mod auth;
mod console;
mod datadir;
mod error;
mod http;
mod ingest;
mod json;
mod live;
mod port;
mod secret;
mod server;
mod settings;
mod shared;
mod stores;

pub use datadir::{Endpoint, token_file};
pub use error::ServerError;
pub use server::{Server, ServerHandle, default_data_dir};
pub use settings::ServerSettings;
