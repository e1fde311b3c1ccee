//! Where the agent's own words go: to standard error, or into two files that rotate into each other.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use watchfire_agent::{LogFile, LogSettings, Severity};

/// Options of the log.
#[derive(Debug, Args)]
pub(crate) struct LogOptions {
    /// Log into this file instead of standard error; when full it becomes FILE.1, and a new one begins
    #[arg(long, value_name = "FILE")]
    log_file: Option<PathBuf>,
    /// The size from which the log file rotates, in MB
    #[arg(long, value_name = "MB", default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=1024))]
    log_file_mb: u64,
    /// The least severe lines that are logged: emerg, alert, crit, err, warning, notice, info, debug
    #[arg(long, value_name = "SEVERITY", default_value = "info")]
    log_level: Severity,
}

/// Starts the log; the file, where there is one, also takes what the workers print.
pub(crate) fn start(options: &LogOptions) -> Result<Option<LogFile>> {
    let Some(path) = &options.log_file else {
        to_stderr(options.log_level);
        return Ok(None);
    };
    let settings = LogSettings {
        max_bytes: options.log_file_mb * 1_000_000,
        level: options.log_level,
        ..LogSettings::new(path)
    };
    let log = LogFile::open(&settings).context("open the log")?;
    tracing_subscriber::registry().with(log.layer()).init();
    Ok(Some(log))
}

/// RUST_LOG, if set, says more than a severity.
fn to_stderr(level: Severity) {
    let words = match level {
        Severity::Emerg | Severity::Alert | Severity::Crit | Severity::Err => "error",
        Severity::Warning => "warn",
        Severity::Notice | Severity::Info => "info",
        Severity::Debug => "debug",
    };
    tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(words)))
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .init();
}
