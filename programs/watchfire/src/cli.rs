//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use watchfire_agent::AgentCommand;

/// Host intrusion detection: see what runs, hear of what should not.
#[derive(Debug, Parser)]
#[command(name = "watchfire", version, propagate_version = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) target: Target,
    /// What goes to standard error: error, warn, info, debug, trace, or a filter as in RUST_LOG
    #[arg(long, global = true, value_name = "LEVEL")]
    pub(crate) log_level: Option<String>,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Which server a command speaks to.
///
/// In this order: --server with --token-file, --data-dir, the environment (WATCHFIRE_URL, WATCHFIRE_TOKEN), the default
/// data directory.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct Target {
    /// The server's data directory on this machine [default: /var/lib/watchfire for root, else
    /// ~/.local/share/watchfire]
    #[arg(long, global = true, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    /// The server's address, such as http://127.0.0.1:7070 [env: WATCHFIRE_URL]
    #[arg(long, global = true, value_name = "URL")]
    pub(crate) server: Option<String>,
    /// File with the admin token [env: WATCHFIRE_TOKEN holds the token itself]
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Everything on this one machine: server, console, and an agent that watches this host
    Up(UpOptions),
    /// The newest alerts that match, oldest first
    Alerts(AlertOptions),
    /// The newest events that match, oldest first
    Events(EventOptions),
    /// Hosts and their agents
    Hosts(OutputOptions),
    /// What each stage did with the events it took in, and whether the sums close
    Ledger(LedgerOptions),
    /// Where events come from on each host, and what cannot be seen
    Sources(OutputOptions),
    /// A new one-time link to the console
    Login,
    /// Do a handful of attackers' moves on this host, harmlessly, and say which ones were caught
    Demo(DemoOptions),
    /// Be an agent; what `up` starts
    #[command(hide = true, subcommand)]
    Agent(AgentCommand),
}

/// The arguments that make this program an agent.
pub(crate) const AGENT: &[&str] = &["agent"];

#[derive(Debug, Args)]
pub(crate) struct DemoOptions {
    /// Every behaviour this program knows, not only the handful
    #[arg(long)]
    pub(crate) all: bool,
    /// JSON Lines instead of a table
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct UpOptions {
    /// Where console and API listen
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:7070")]
    pub(crate) listen: SocketAddr,
    /// Settings of the local agent [default: agent.json in the data directory, if it is there]
    #[arg(long, value_name = "FILE")]
    pub(crate) agent_config: Option<PathBuf>,
    /// Another program than this one to start as the agent
    #[arg(long, value_name = "FILE", hide = true)]
    pub(crate) agent_program: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct LedgerOptions {
    /// The books of earlier runs of the agents that are still remembered, instead of the present ones
    #[arg(long)]
    pub(crate) earlier: bool,
    #[command(flatten)]
    pub(crate) output: OutputOptions,
}

#[derive(Debug, Args)]
pub(crate) struct OutputOptions {
    /// JSON Lines as the API gives them
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ListOptions {
    /// How far back: 90s, 10m, 2h, 1d
    #[arg(long, value_name = "SPAN")]
    pub(crate) since: Option<String>,
    /// At most so many
    #[arg(long, value_name = "N")]
    pub(crate) limit: Option<usize>,
    #[command(flatten)]
    pub(crate) output: OutputOptions,
}

#[derive(Debug, Args)]
pub(crate) struct AlertOptions {
    #[command(flatten)]
    pub(crate) list: ListOptions,
    /// This level and above: informational, low, medium, high, critical
    #[arg(long)]
    pub(crate) level: Option<String>,
    /// Only of this rule (its id)
    #[arg(long, value_name = "ID")]
    pub(crate) rule: Option<String>,
    /// Go on with every new alert until interrupted
    #[arg(long, conflicts_with_all = ["since", "limit"])]
    pub(crate) follow: bool,
}

#[derive(Debug, Args)]
pub(crate) struct EventOptions {
    #[command(flatten)]
    pub(crate) list: ListOptions,
    /// Only of these kinds: exec, connect, file_create, …; several with commas
    #[arg(long, value_name = "KINDS")]
    pub(crate) kind: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn what_scripts_rely_on_parses() {
        for line in [
            "watchfire up --data-dir /tmp/w --listen 127.0.0.1:7171",
            "watchfire alerts --json --data-dir /tmp/w",
            "watchfire events --json --kind exec --since 10m --limit 5",
            "watchfire --server http://127.0.0.1:7070 --token-file /t hosts --json",
            "watchfire ledger --json",
            "watchfire alerts --follow --level high",
        ] {
            Cli::try_parse_from(line.split(' ')).unwrap_or_else(|error| panic!("{line}: {error}"));
        }
        assert!(Cli::try_parse_from(["watchfire", "up", "--listen", "nowhere"]).is_err());
    }
}
