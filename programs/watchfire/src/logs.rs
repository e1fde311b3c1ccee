//! What the program tells of itself, on standard error.

use std::io::{self, IsTerminal};

use anyhow::Context;
use tracing_subscriber::EnvFilter;

/// `level` if given, else RUST_LOG, else what an operator should see.
pub(crate) fn start(level: Option<&str>) -> anyhow::Result<()> {
    let from_environment = std::env::var("RUST_LOG").ok();
    let (name, words) = match (level, &from_environment) {
        (Some(level), _) => ("--log-level", level),
        (None, Some(words)) => ("RUST_LOG", words.as_str()),
        (None, None) => ("", "info"),
    };
    let filter = EnvFilter::try_new(words).with_context(|| format!("{name} {words:?} is no log filter"))?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none())
        .with_target(false)
        .init();
    Ok(())
}
