//! The agent's command line, shared by the program `watchfire-agent` and by `watchfire up`, which starts itself as one.

use std::io::Write;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::{Args, Subcommand};
use watchfire_event::{BootId, BootNanos, HostId, StreamId, printable};
use watchfire_logfile::LogFile;

use crate::doctor::{self, Patient};
use crate::master::{self, MasterOrders};
use crate::settings::AgentSettings;
use crate::worker::{self, SensorOrders, SourceReport};

const STATE_DIR: &str = "/var/lib/watchfire-agent";
const LOCK: &str = "/run/watchfire-agent.lock";

/// What the agent can be told to do.
#[derive(Debug, Subcommand)]
pub enum AgentCommand {
    /// Watch this host and report to a server.
    Run(RunArgs),
    /// Say which sources this host offers, which one is used, and what it cannot see.
    Sources(SourcesArgs),
    /// Say what works on this host, what does not, why, and what to do; exit status 1 when processes cannot be seen.
    Doctor(DoctorArgs),
    /// Be a worker; started by the master only.
    #[command(hide = true, subcommand)]
    Worker(WorkerCommand),
}

/// Arguments of `run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// The server's socket.
    #[arg(long, value_name = "PATH")]
    server_socket: PathBuf,
    /// Where the agent keeps its host id.
    #[arg(long, value_name = "DIR", default_value = STATE_DIR)]
    state_dir: PathBuf,
    /// Held while the agent runs: a second agent that finds it held does not start.
    #[arg(long, value_name = "FILE", default_value = LOCK)]
    lock: PathBuf,
    /// Settings, as partial JSON over the defaults.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// End when stdin ends.
    #[arg(long, hide = true)]
    stop_at_stdin_end: bool,
}

/// Arguments of `sources`.
#[derive(Debug, Args)]
pub struct SourcesArgs {
    /// Settings, as partial JSON over the defaults.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// JSON Lines instead of a table.
    #[arg(long)]
    json: bool,
}

/// Arguments of `doctor`.
#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// Where the agent keeps its host id.
    #[arg(long, value_name = "DIR", default_value = STATE_DIR)]
    state_dir: PathBuf,
    /// The lock that an agent on this host holds.
    #[arg(long, value_name = "FILE", default_value = LOCK)]
    lock: PathBuf,
    /// Settings, as partial JSON over the defaults.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// JSON Lines instead of a table.
    #[arg(long)]
    json: bool,
}

/// The workers.
#[derive(Debug, Subcommand)]
pub enum WorkerCommand {
    /// Sensors and detection.
    Sensor(SensorArgs),
    /// Only closes itself as the sensor worker does; started by the doctor.
    Probe,
}

/// Arguments of the sensor worker.
#[derive(Debug, Args)]
pub struct SensorArgs {
    #[arg(long)]
    host: HostId,
    #[arg(long)]
    boot: BootId,
    #[arg(long)]
    incarnation: u64,
    #[arg(long)]
    config: Option<PathBuf>,
}

impl AgentCommand {
    /// Does it. `reexec` are the arguments that make this executable an agent, before the agent's own. Into `log` goes what the
    /// workers print; without one they share this process' standard error.
    pub fn execute(self, reexec: &'static [&'static str], log: Option<LogFile>) -> Result<()> {
        match self {
            AgentCommand::Run(args) => {
                let settings = AgentSettings::load(args.config.as_deref())?;
                master::run(MasterOrders {
                    server: args.server_socket,
                    state_dir: args.state_dir,
                    lock: args.lock,
                    config: args.config,
                    settings,
                    log,
                    reexec,
                    stop_at_stdin_end: args.stop_at_stdin_end,
                })
            }
            AgentCommand::Sources(args) => {
                let settings = AgentSettings::load(args.config.as_deref())?;
                let reports = worker::attach(&settings).reports;
                print_sources(&reports, args.json).context("print the sources")
            }
            AgentCommand::Doctor(args) => {
                let settings = AgentSettings::load(args.config.as_deref())?;
                let (state_dir, lock) = (&args.state_dir, &args.lock);
                let patient = Patient { settings: &settings, state_dir, lock, reexec };
                anyhow::ensure!(
                    doctor::run(&patient, args.json)?,
                    "no source of processes works on this host"
                );
                Ok(())
            }
            AgentCommand::Worker(WorkerCommand::Probe) => doctor::probe(),
            AgentCommand::Worker(WorkerCommand::Sensor(args)) => {
                let link = worker::take_link().context("a worker is started by its master, not by hand")?;
                let incarnation = BootNanos(args.incarnation);
                let stream = StreamId { host: args.host, boot: args.boot, incarnation };
                worker::run(
                    SensorOrders { stream, settings: AgentSettings::load(args.config.as_deref())? },
                    link,
                )
            }
        }
    }
}

fn print_sources(reports: &[SourceReport], json: bool) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    for report in reports {
        if json {
            let line = serde_json::json!({
                "source": report.name, "state": report.state.as_str(), "gives": report.gives, "details": report.details,
            });
            writeln!(out, "{line}")?;
            continue;
        }
        writeln!(out, "{:<16} {:<12} {}", report.name, report.state.as_str(), report.gives)?;
        for detail in &report.details {
            writeln!(out, "{:<16} - {}", "", printable(detail.as_bytes()))?;
        }
    }
    Ok(())
}
