//! `watchfire`: the server, the operator's commands, and all of it on one machine.

mod alerts;
mod cli;
mod client;
mod demo;
mod events;
mod field;
mod hosts;
mod ledger;
mod login;
mod logs;
mod screen;
mod sources;
mod table;
mod up;

use std::process::ExitCode;

use clap::Parser;

use cli::{Cli, Command};

fn main() -> ExitCode {
    // A behaviour of the demo may be this program, started again to make one odd system call.
    watchfire_behavior::child_main_if_asked();
    match run(Cli::parse()) {
        Ok(code) => code,
        Err(error) if screen::reader_left(&error) => ExitCode::SUCCESS,
        Err(error) => {
            screen::complain(&error);
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    logs::start(cli.log_level.as_deref())?;
    let target = &cli.target;
    match cli.command {
        Command::Up(options) => up::run(target, &options),
        Command::Alerts(options) => alerts::run(target, &options),
        Command::Events(options) => events::run(target, &options),
        Command::Hosts(options) => hosts::run(target, &options),
        Command::Ledger(options) => ledger::run(target, &options),
        Command::Sources(options) => sources::run(target, &options),
        Command::Login => login::run(target),
        Command::Demo(options) => {
            let good = demo::run(target, &options)?;
            return Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
        Command::Agent(command) => command.execute(cli::AGENT, None, watchfire_agent::Catalog::standard()),
    }?;
    Ok(ExitCode::SUCCESS)
}
