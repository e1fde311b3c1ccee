//! The agent's command line, shared by the program `watchfire-agent` and by `watchfire up`, which starts itself as one.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::{Args, Subcommand};
use serde_json::{Value, json};
use watchfire_app::Part;
use watchfire_event::{BootId, BootNanos, HostId, StreamId, printable};
use watchfire_logfile::LogFile;

use crate::catalog::Catalog;
use crate::control;
use crate::doctor::{self, Patient};
use crate::master::{self, MasterOrders};
use crate::plugin_command::PluginCommand;
use crate::settings::{self, AgentSettings};
use crate::supervisor::{self, SupervisorOrders};
use crate::worker::{self, WorkerOrders};
use crate::workers::WorkerName;

const STATE_DIR: &str = "/var/lib/watchfire-agent";
const LOCK: &str = "/run/watchfire-agent.lock";
/// Longest documents on standard input, in bytes: what a frame holds.
const MAX_INPUT: u64 = 4 << 20;

/// What the agent can be told to do.
#[derive(Debug, Subcommand)]
pub enum AgentCommand {
    /// Watch this host and report to a server.
    Run(RunArgs),
    /// Say which sources this host offers, which one is used, and what it cannot see.
    Sources(SourcesArgs),
    /// Show or change the settings in force, of the agent that runs on this host.
    Config(ConfigArgs),
    /// Say what works on this host, what does not, why, and what to do; exit status 1 when processes cannot be seen.
    Doctor(DoctorArgs),
    /// Sign and check external plug-ins.
    #[command(subcommand)]
    Plugin(PluginCommand),
    /// Be a worker; started by the master only.
    #[command(hide = true, subcommand)]
    Worker(WorkerCommand),
}

/// Where the settings come from.
#[derive(Debug, Args)]
pub(crate) struct SettingsArgs {
    /// Settings, as partial JSON over the defaults.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// How a report is printed.
#[derive(Debug, Args)]
pub(crate) struct ReportArgs {
    /// JSON Lines instead of a table.
    #[arg(long)]
    json: bool,
}

/// What is an agent's own on this host.
#[derive(Debug, Args)]
pub(crate) struct PlaceArgs {
    /// Where the agent keeps its host id.
    #[arg(long, value_name = "DIR", default_value = STATE_DIR)]
    state_dir: PathBuf,
    /// Held while the agent runs: a second agent that finds it held does not start.
    #[arg(long, value_name = "FILE", default_value = LOCK)]
    lock: PathBuf,
}

/// Arguments of `run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// The server's socket.
    #[arg(long, value_name = "PATH")]
    server_socket: PathBuf,
    #[command(flatten)]
    place: PlaceArgs,
    #[command(flatten)]
    settings: SettingsArgs,
    /// Start the agent as a child, and again when it dies or hangs; for hosts without systemd.
    #[arg(long, conflicts_with_all = ["supervised", "stop_at_stdin_end"])]
    supervise: bool,
    /// Started by that.
    #[arg(long, hide = true)]
    supervised: bool,
    /// End when stdin ends.
    #[arg(long, hide = true)]
    stop_at_stdin_end: bool,
}

/// Arguments of `sources`.
#[derive(Debug, Args)]
pub struct SourcesArgs {
    #[command(flatten)]
    settings: SettingsArgs,
    #[command(flatten)]
    report: ReportArgs,
}

/// Arguments of `doctor`.
#[derive(Debug, Args)]
pub struct DoctorArgs {
    #[command(flatten)]
    place: PlaceArgs,
    #[command(flatten)]
    settings: SettingsArgs,
    #[command(flatten)]
    report: ReportArgs,
}

/// Arguments of `config`.
#[derive(Debug, Args)]
pub struct ConfigArgs {
    /// Where the agent keeps its state.
    #[arg(long, value_name = "DIR", default_value = STATE_DIR)]
    state_dir: PathBuf,
    #[command(subcommand)]
    action: Option<ConfigAction>,
}

/// What can be done with the settings.
#[derive(Debug, Subcommand)]
pub(crate) enum ConfigAction {
    /// Print what is in force, every default filled in (this is what `config` alone does).
    Show {
        /// Only this app or part.
        name: Option<String>,
        /// Where each part comes from as well.
        #[arg(long)]
        origin: bool,
    },
    /// Put documents in force: partial JSON by app, over what is in force; null takes back what was applied before.
    Apply {
        /// A file, or - for standard input.
        file: PathBuf,
    },
    /// Start an app that is switched off.
    Start {
        /// The app.
        app: String,
    },
    /// Stop an app, until it is started.
    Stop {
        /// The app.
        app: String,
    },
    /// Have the agent read its file again.
    Reload,
}

/// The workers.
#[derive(Debug, Subcommand)]
pub enum WorkerCommand {
    /// Sensors and detection.
    Sensor(WorkerArgs),
    /// Checks and inventory.
    Collector(WorkerArgs),
    /// Files.
    Scanner(WorkerArgs),
    /// Guests and probes.
    Extension(WorkerArgs),
    /// Only closes itself as the sensor worker does; started by the doctor.
    Probe,
}

/// Arguments of a worker.
#[derive(Debug, Args)]
pub struct WorkerArgs {
    #[arg(long)]
    host: HostId,
    #[arg(long)]
    boot: BootId,
    #[arg(long)]
    incarnation: u64,
}

impl SettingsArgs {
    fn load(&self, catalog: &Catalog) -> Result<AgentSettings> {
        Ok(AgentSettings::load(self.config.as_deref(), catalog)?)
    }
}

impl AgentCommand {
    /// Whether it goes on until it is told to stop, and has a log; the others answer a person.
    pub fn goes_on(&self) -> bool {
        matches!(self, AgentCommand::Run(_) | AgentCommand::Worker(_))
    }

    /// Does it. `reexec` are the arguments that make this executable an agent, before the agent's own; `catalog` holds the apps it
    /// has. Into `log` goes what the workers print; without one they share this process' standard error.
    ///
    /// # Errors
    /// What went wrong, for people.
    pub fn execute(
        self,
        reexec: &'static [&'static str],
        log: Option<LogFile>,
        catalog: Catalog,
    ) -> Result<()> {
        match self {
            AgentCommand::Run(args) => {
                if args.supervise {
                    return supervisor::run(&SupervisorOrders::new(args.place.lock, master::STATUS_EVERY));
                }
                if args.supervised {
                    let state_dir = args.place.state_dir.clone();
                    supervisor::end_with_supervisor(state_dir).context("watch for the supervisor's end")?;
                }
                master::run(MasterOrders {
                    server: args.server_socket,
                    state_dir: args.place.state_dir,
                    lock: args.place.lock,
                    config: args.settings.config,
                    log,
                    catalog,
                    reexec,
                    stop_at_stdin_end: args.stop_at_stdin_end || args.supervised,
                })
            }
            AgentCommand::Sources(args) => {
                let settings = args.settings.load(&catalog)?;
                let parts = worker::try_sources(&catalog, &settings);
                print_sources(&parts, args.report.json).context("print the sources")
            }
            AgentCommand::Config(args) => configure(&args),
            AgentCommand::Plugin(command) => command.execute(),
            AgentCommand::Doctor(args) => {
                let settings = args.settings.load(&catalog)?;
                let (state_dir, lock) = (&args.place.state_dir, &args.place.lock);
                let patient = Patient { settings: &settings, catalog: &catalog, state_dir, lock, reexec };
                anyhow::ensure!(
                    doctor::run(&patient, args.report.json)?,
                    "no source of processes works on this host"
                );
                Ok(())
            }
            AgentCommand::Worker(WorkerCommand::Probe) => doctor::probe(),
            AgentCommand::Worker(WorkerCommand::Sensor(args)) => work(WorkerName::Sensor, args, catalog),
            AgentCommand::Worker(WorkerCommand::Collector(args)) => {
                work(WorkerName::Collector, args, catalog)
            }
            AgentCommand::Worker(WorkerCommand::Scanner(args)) => work(WorkerName::Scanner, args, catalog),
            AgentCommand::Worker(WorkerCommand::Extension(args)) => {
                work(WorkerName::Extension, args, catalog)
            }
        }
    }
}

fn work(name: WorkerName, args: WorkerArgs, catalog: Catalog) -> Result<()> {
    let link = worker::take_link().context("a worker is started by its master, not by hand")?;
    let incarnation = BootNanos(args.incarnation);
    let stream = StreamId { host: args.host, boot: args.boot, incarnation };
    worker::run(WorkerOrders { name, stream, catalog }, link)
}

fn configure(args: &ConfigArgs) -> Result<()> {
    let ask = |question: &Value| control::ask(&args.state_dir, question);
    let switch = |app: &String, on: bool| {
        // An unknown name is refused by the agent, which knows them all.
        ask(&json!({ "apply": { app.clone(): { "enabled": on } } }))
    };
    let (answer, name, origin) = match &args.action {
        None => (ask(&json!("show"))?, None, false),
        Some(ConfigAction::Show { name, origin }) => (ask(&json!("show"))?, name.as_ref(), *origin),
        Some(ConfigAction::Apply { file }) => (ask(&json!({ "apply": documents(file)? }))?, None, true),
        Some(ConfigAction::Start { app }) => (switch(app, true)?, Some(app), false),
        Some(ConfigAction::Stop { app }) => (switch(app, false)?, Some(app), false),
        Some(ConfigAction::Reload) => (ask(&json!("reload"))?, None, true),
    };
    let shown = match name {
        Some(name) => answer["in_force"]
            .get(name)
            .with_context(|| format!("no app or part of the agent is called {name:?}"))?,
        None if origin => &answer,
        None => &answer["in_force"],
    };
    let text = serde_json::to_string_pretty(shown).context("write JSON")?;
    writeln!(std::io::stdout(), "{text}").context("write to standard output")
}

/// The documents in a file, or on standard input for `-`.
fn documents(file: &Path) -> Result<Value> {
    if file != Path::new("-") {
        return Ok(settings::read(Some(file))?);
    }
    let mut text = String::new();
    std::io::stdin().take(MAX_INPUT).read_to_string(&mut text).context("read standard input")?;
    Ok(settings::parse(&text)?)
}

fn print_sources(parts: &[Part], json: bool) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    for part in parts {
        if json {
            let line = serde_json::json!({
                "source": part.name, "state": part.state.as_str(), "gives": part.gives, "details": part.details,
            });
            writeln!(out, "{line}")?;
            continue;
        }
        writeln!(out, "{:<16} {:<12} {}", part.name, part.state.as_str(), part.gives)?;
        for detail in &part.details {
            writeln!(out, "{:<16} - {}", "", printable(detail.as_bytes()))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::*;

    #[derive(Parser)]
    #[command(version)]
    struct Cli {
        #[command(subcommand)]
        _command: AgentCommand,
    }

    #[test]
    fn no_two_arguments_have_one_name() {
        Cli::command().debug_assert();
    }
}
