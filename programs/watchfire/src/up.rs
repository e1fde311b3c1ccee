//! `watchfire up`: the server and a local agent on one machine. The one place that joins both.

use std::fs;
use std::io::Write;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context;
use rustix::process::{Pid, Signal};
use tokio::signal::unix::{SignalKind, signal};
use watchfire_agent::{AgentSettings, Catalog};
use watchfire_event::UnixNanos;
use watchfire_pace::{Backoff, BackoffSettings, Random};
use watchfire_server::{Server, ServerHandle, ServerSettings, default_data_dir};

use crate::cli::{AGENT, Target, UpOptions};

/// The agent has this long to hand over what it holds, the server then this long to store it: 10 s together, with
/// something to spare.
const AGENT_STOPS_WITHIN: Duration = Duration::from_secs(4);
const SERVER_STOPS_WITHIN: Duration = Duration::from_secs(5);
/// How often the agent is looked at.
const TICK: Duration = Duration::from_millis(100);
/// Between the end of an agent and the start of the next.
const RESPAWN: BackoffSettings = BackoffSettings {
    first: Duration::from_secs(1),
    cap: Duration::from_secs(30),
    floor: Duration::from_millis(500),
};
/// An agent that ran this long had started well.
const STEADY: Duration = Duration::from_secs(60);

pub(crate) fn run(target: &Target, options: &UpOptions) -> anyhow::Result<()> {
    // All that is written from here on is for this user alone.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    let data_dir = target.data_dir.clone().unwrap_or_else(default_data_dir);
    let signals = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start waiting for signals")?;
    // Asked for before anything is started, so that an early signal stops it in order too.
    let mut told = signals.block_on(async { Told::new() }).context("wait for signals")?;
    let config = agent_config(options, &data_dir)?;
    let server = Server::start(ServerSettings::new(&data_dir, options.listen))?;
    let mut agent = LocalAgent::start(&server, &data_dir, config, options.agent_program.clone());
    let waited = announce(&server, &data_dir).map(|()| signals.block_on(told.wait(&mut agent)));
    let agent_stopped = agent.stop(AGENT_STOPS_WITHIN);
    let server_stopped = server.stop(SERVER_STOPS_WITHIN);
    waited?;
    anyhow::ensure!(
        agent_stopped && server_stopped,
        "not all parts stopped in time; what was acknowledged is stored"
    );
    Ok(())
}

/// The settings' file, which must be good before anything is started: an agent that refuses it would end at once, and be
/// started again for ever.
fn agent_config(options: &UpOptions, data_dir: &Path) -> anyhow::Result<Option<PathBuf>> {
    let usual = data_dir.join("agent.json");
    let config = options.agent_config.clone().or_else(|| usual.exists().then_some(usual));
    AgentSettings::load(config.as_deref(), &Catalog::standard())?;
    Ok(config)
}

fn announce(server: &ServerHandle, data_dir: &Path) -> anyhow::Result<()> {
    let link = server.login_link()?;
    let mut out = std::io::stdout().lock();
    writeln!(out, "console    http://{}/", server.address())
        .and_then(|()| writeln!(out, "log in     {link}"))
        .and_then(|()| {
            writeln!(out, "           (works once, for ten minutes; `watchfire login` makes another)")
        })
        .and_then(|()| writeln!(out, "data       {}", data_dir.display()))
        .and_then(|()| out.flush())
        .context("write to standard output")
}

/// SIGTERM and SIGINT.
struct Told {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

impl Told {
    fn new() -> std::io::Result<Told> {
        Ok(Told { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// Until one of them comes; looks after the agent meanwhile.
    async fn wait(&mut self, agent: &mut LocalAgent) {
        let mut ticks = tokio::time::interval(TICK);
        loop {
            tokio::select! {
                _ = self.terminate.recv() => break,
                _ = self.interrupt.recv() => break,
                _ = ticks.tick() => agent.look_after(),
            }
        }
        tracing::info!("stopping");
    }
}

/// The agent's process, started again whenever it ends.
struct LocalAgent {
    socket: PathBuf,
    data_dir: PathBuf,
    config: Option<PathBuf>,
    /// In place of this executable.
    program: Option<PathBuf>,
    child: Option<Child>,
    started: Instant,
    respawn: Backoff,
    random: Random,
    /// Before this none is started again.
    not_before: Instant,
}

impl LocalAgent {
    fn start(
        server: &ServerHandle,
        data_dir: &Path,
        config: Option<PathBuf>,
        program: Option<PathBuf>,
    ) -> Self {
        let mut agent = LocalAgent {
            socket: server.agent_socket(),
            data_dir: data_dir.to_owned(),
            config,
            program,
            child: None,
            started: Instant::now(),
            respawn: Backoff::new(RESPAWN),
            random: Random::seeded(UnixNanos::now().0.cast_unsigned()),
            not_before: Instant::now(),
        };
        agent.spawn();
        agent
    }

    fn spawn(&mut self) {
        self.started = Instant::now();
        match self.spawn_agent() {
            Ok(child) => self.child = Some(child),
            Err(error) => {
                tracing::error!(error = format!("{error:#}"), "the agent did not start; will retry");
                self.ended();
            }
        }
    }

    /// Starts this executable again as the agent, or the program that stands in for it. It holds the read end of a pipe as its
    /// stdin, whose other end is this process': when this process dies, by whatever cause, the agent sees the end of its input and
    /// ends too.
    fn spawn_agent(&self) -> anyhow::Result<Child> {
        let state_dir = self.data_dir.join("agent");
        fs::create_dir_all(&state_dir).with_context(|| format!("make {}", state_dir.display()))?;
        let mut command = match &self.program {
            Some(program) => Command::new(program),
            None => {
                let mut command = Command::new("/proc/self/exe");
                command.arg0("watchfire-agent").args(AGENT);
                command
            }
        };
        command.args(["run", "--stop-at-stdin-end", "--server-socket"]).arg(&self.socket);
        command.arg("--state-dir").arg(&state_dir);
        // The data directory is this installation's alone already; another one beside it on a developer's host may be meant.
        command.arg("--lock").arg(state_dir.join("agent.lock"));
        if let Some(config) = &self.config {
            command.arg("--config").arg(config);
        }
        // A group of its own: a Ctrl-C at the terminal is for this process, which then stops the agent in order.
        command.process_group(0).stdin(Stdio::piped());
        command.spawn().with_context(|| format!("start {} as the agent", command.get_program().display()))
    }

    /// Notices its end and starts it again, later each time that it ends soon.
    fn look_after(&mut self) {
        if let Some(child) = &mut self.child {
            match child.try_wait() {
                Ok(None) => return,
                Ok(Some(status)) => {
                    let (code, signal) = (status.code(), status.signal());
                    tracing::error!(code, signal, "the agent ended; will start it again");
                }
                Err(error) => tracing::error!(%error, "the agent is lost; will start it again"),
            }
            self.ended();
        } else if Instant::now() >= self.not_before {
            self.spawn();
        }
    }

    fn ended(&mut self) {
        self.child = None;
        if self.started.elapsed() >= STEADY {
            self.respawn.reset();
        }
        self.not_before = Instant::now() + self.respawn.next_wait(&mut self.random);
    }

    /// Asks it to stop, waits, and kills it when it does not; false when it had to be killed.
    fn stop(mut self, within: Duration) -> bool {
        let Some(child) = &mut self.child else { return true };
        if let Some(pid) = i32::try_from(child.id()).ok().and_then(Pid::from_raw)
            && let Err(error) = rustix::process::kill_process(pid, Signal::TERM)
        {
            tracing::warn!(%error, "the agent was not told to stop");
        }
        let until = Instant::now() + within;
        while Instant::now() < until {
            match child.try_wait() {
                Ok(None) => std::thread::sleep(Duration::from_millis(10)),
                Ok(Some(_)) => return true,
                Err(error) => {
                    tracing::warn!(%error, "the agent cannot be waited for");
                    break;
                }
            }
        }
        tracing::warn!("the agent did not stop in time; killing it");
        let killed = child.kill().and_then(|()| child.wait());
        if let Err(error) = killed {
            tracing::error!(%error, "the agent could not be killed");
        }
        false
    }
}
