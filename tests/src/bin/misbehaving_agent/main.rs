//! The agent with apps that misbehave, each in its own way, and witnesses that tell whether anyone else suffers. All faults are
//! switched off; `misbehaving_agent config start NAME` brings one about while the agent runs.

mod faults;
mod witness;

use std::process::ExitCode;

use clap::Parser;
use watchfire_agent::{AgentCommand, Catalog, WorkerName};
use watchfire_app::AppKind;

use crate::faults::{Blocks, Burns, Chatters, Deaf, Floods, Hangs, Leaks, Panics, Segfaults, Spins};
use crate::witness::{Beside, Elsewhere};

/// The agent, with apps that misbehave when they are switched on.
#[derive(Debug, Parser)]
struct Cli {
    #[command(subcommand)]
    command: AgentCommand,
}

fn main() -> ExitCode {
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(false).init();
    match Cli::parse().command.execute(&[], None, catalog()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("misbehaving_agent: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The faults share the extension worker with one witness; the other one is in a worker that nothing happens to.
fn catalog() -> Catalog {
    let faults = [
        AppKind::of::<Spins>(),
        AppKind::of::<Burns>(),
        AppKind::of::<Leaks>(),
        AppKind::of::<Panics>(),
        AppKind::of::<Blocks>(),
        AppKind::of::<Segfaults>(),
        AppKind::of::<Floods>(),
        AppKind::of::<Chatters>(),
        AppKind::of::<Deaf>(),
    ];
    let catalog = Catalog::standard()
        .with(WorkerName::Extension, AppKind::of::<Beside>())
        .with(WorkerName::Collector, AppKind::of::<Elsewhere>())
        .with_source(AppKind::of::<Hangs>().off_by_default());
    faults
        .into_iter()
        .fold(catalog, |catalog, fault| catalog.with(WorkerName::Extension, fault.off_by_default()))
}
