//! The agent on each host.

mod logs;

use std::process::ExitCode;

use clap::Parser;
use watchfire_agent::{AgentCommand, Catalog};

use crate::logs::LogOptions;

/// Watchfire's agent: sees what matters on this host, judges it here, and would rather die than hurt the host.
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    #[command(flatten)]
    log: LogOptions,
    #[command(subcommand)]
    command: AgentCommand,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let log = match logs::start(&cli.log) {
        Ok(log) => log,
        Err(error) => {
            eprintln!("watchfire-agent: {error:#}");
            return ExitCode::FAILURE;
        }
    };
    // A person at a terminal wants one line, and no time before it.
    let (goes_on, into_a_file) = (cli.command.goes_on(), log.is_some());
    let Err(error) = cli.command.execute(&[], log, Catalog::standard()) else { return ExitCode::SUCCESS };
    if goes_on {
        tracing::error!(error = format!("{error:#}"), "the agent ends");
    }
    if into_a_file || !goes_on {
        eprintln!("watchfire-agent: {error:#}");
    }
    ExitCode::FAILURE
}
