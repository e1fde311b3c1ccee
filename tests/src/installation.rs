//! A running `watchfire up`: started, asked, stopped in order or killed, and always gone at the end.

use std::fs::{self, File};
use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;
use watchfire_behavior::{BEHAVIORS, Stage, mentions};

use crate::patience::eventually;
use crate::processes::{alive, descendants};

/// From start to the first 200 of /healthz: a debug build loads eBPF objects and 30 rules on a busy machine.
const HEALTHY_WITHIN: Duration = Duration::from_secs(60);
/// What the contract allows between SIGTERM and the end; the scenario that measures it does so itself.
const STOP_WITHIN: Duration = Duration::from_secs(15);
/// From a behaviour to its alert, on a machine that may be busy.
const ALERT_WITHIN: Duration = Duration::from_secs(20);
/// An answer of the API is read to these many bytes.
const ANSWER_LIMIT: u64 = 256 * 1024 * 1024;

/// The program under test: `WATCHFIRE_BIN`, or the debug build beside this test's own folder.
///
/// # Errors
/// When there is none, with the command that makes it.
pub fn program() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("WATCHFIRE_BIN") {
        return Ok(PathBuf::from(path));
    }
    let own = std::env::current_exe().context("find the test's own program")?;
    let program = own.parent().and_then(Path::parent).map(|folder| folder.join("watchfire"));
    let program = program.filter(|path| path.is_file());
    program.context("no program `watchfire` beside the tests: cargo build --package watchfire-program")
}

/// A port of 127.0.0.1 that nothing listened on a moment ago.
///
/// # Errors
/// When there is none.
pub fn free_port() -> Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("listen on loopback")?;
    listener.local_addr().context("read the listener's address")
}

/// Where one scenario keeps its files: a data directory and room beside it. Removed at the end. It lies beside the tests' programs,
/// because the agent watches the folders where everybody may write.
pub struct Ground {
    dir: TempDir,
}

impl Ground {
    /// A new one.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn new() -> Result<Self> {
        let own = std::env::current_exe().context("find the test's own program")?;
        let parent = own.parent().context("the test's program lies in no folder")?;
        let dir = tempfile::Builder::new().prefix("ground-").tempdir_in(parent).context("make a folder")?;
        fs::create_dir(dir.path().join("data")).context("make the data directory")?;
        let private = std::os::unix::fs::PermissionsExt::from_mode(0o700);
        fs::set_permissions(dir.path().join("data"), private)
            .context("close the data directory to others")?;
        Ok(Self { dir })
    }

    /// The data directory.
    pub fn data(&self) -> PathBuf {
        self.path("data")
    }

    /// A file or folder beside it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Settings for the local agent.
    ///
    /// # Errors
    /// When they cannot be written.
    pub fn configure_agent(&self, settings: &Value) -> Result<()> {
        fs::write(self.data().join("agent.json"), settings.to_string()).context("write agent.json")
    }

    /// Starts `watchfire up` here and waits until it is healthy.
    ///
    /// # Errors
    /// When it is not in time, with what it wrote.
    pub fn start(&self) -> Result<Installation> {
        self.begin(free_port()?)?.healthy()
    }

    /// The same with another program as the agent.
    ///
    /// # Errors
    /// As before.
    pub fn start_with_agent(&self, agent: &Path) -> Result<Installation> {
        self.begin_with_agent(agent)?.healthy()
    }

    /// Starts `watchfire up` here with another program as the agent, and waits for nothing.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn begin_with_agent(&self, agent: &Path) -> Result<Begun> {
        let address = free_port()?;
        let mut command = self.up(address)?;
        command.arg("--agent-program").arg(agent);
        Begun::start(&mut command, address, self.data(), &self.path("output"))
    }

    fn up(&self, address: SocketAddr) -> Result<Command> {
        let mut command = Command::new(program()?);
        command.arg("up").arg("--data-dir").arg(self.data()).args(["--listen", &address.to_string()]);
        Ok(command)
    }

    /// Starts `watchfire up` here, and waits for nothing.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn begin(&self, address: SocketAddr) -> Result<Begun> {
        let mut command = self.up(address)?;
        Begun::start(&mut command, address, self.data(), &self.path("output"))
    }
}

/// `watchfire up`, started; it may come up, or end with an error.
pub struct Begun {
    child: Child,
    address: SocketAddr,
    data: PathBuf,
    output: PathBuf,
    /// Length of the output of earlier starts on the same ground.
    output_before: usize,
    started: Vec<(u32, u64)>,
}

impl Begun {
    /// Starts `command`, whose output is added to the file `output`.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(command: &mut Command, address: SocketAddr, data: PathBuf, output: &Path) -> Result<Self> {
        let log =
            File::options().create(true).append(true).open(output).context("open the file for its output")?;
        let output_before = usize::try_from(log.metadata().context("measure that file")?.len())?;
        let errors = log.try_clone().context("duplicate a descriptor")?;
        command.stdin(Stdio::null()).stdout(log).stderr(errors);
        let child = command.spawn().with_context(|| format!("start {}", command.get_program().display()))?;
        Ok(Self { child, address, data, output: output.to_owned(), output_before, started: Vec::new() })
    }

    /// What it has written to stdout and stderr so far.
    pub fn output(&self) -> String {
        let mut bytes = Vec::new();
        let read = File::open(&self.output).and_then(|mut file| file.read_to_end(&mut bytes));
        let own = if read.is_ok() { bytes.get(self.output_before..).unwrap_or_default() } else { &[] };
        String::from_utf8_lossy(own).into_owned()
    }

    /// The exit status, if it has ended.
    ///
    /// # Errors
    /// When it cannot be asked for.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        self.started = alive_or_new(&self.started, self.child.id());
        self.child.try_wait().context("ask for the exit status")
    }

    /// Waits for the end.
    ///
    /// # Errors
    /// When it does not come in time.
    pub fn wait(&mut self, allowed: Duration) -> Result<ExitStatus> {
        let ended = eventually(allowed, || self.ended())?;
        ended.with_context(|| format!("still running after {allowed:?}:\n{}", self.output()))
    }

    /// Whether /healthz answers 200.
    pub fn is_healthy(&self) -> bool {
        let answer = http().get(format!("http://{}/healthz", self.address)).call();
        answer.is_ok_and(|answer| answer.status().as_u16() == 200)
    }

    /// Waits until /healthz answers 200.
    ///
    /// # Errors
    /// When it does not in time, or the program ended; with what it wrote.
    pub fn healthy(self) -> Result<Installation> {
        self.until(Self::is_healthy)
    }

    /// Waits until the server answers, whatever the agent does.
    ///
    /// # Errors
    /// As [`Begun::healthy`].
    pub fn answering(self) -> Result<Installation> {
        self.until(|begun| http().get(format!("http://{}/healthz", begun.address)).call().is_ok())
    }

    fn until(mut self, ready: fn(&Self) -> bool) -> Result<Installation> {
        let reached = eventually(HEALTHY_WITHIN, || {
            if let Some(status) = self.ended()? {
                bail!("`watchfire up` ended by {status}:\n{}", self.output());
            }
            Ok(ready(&self).then_some(()))
        })?;
        ensure!(reached.is_some(), "not healthy after {HEALTHY_WITHIN:?}:\n{}", self.output());
        let token = fs::read_to_string(self.data.join("admin.token")).context("read admin.token")?;
        self.started = descendants(self.child.id());
        Ok(Installation { begun: self, token: token.trim().to_owned() })
    }

    /// SIGKILL, to the program alone; what it had started is left to itself.
    ///
    /// # Errors
    /// When the signal cannot be sent.
    pub fn kill(mut self) -> Result<()> {
        self.started = descendants(self.child.id());
        self.signal(Signal::KILL)?;
        self.child.wait().context("wait for the killed program")?;
        Ok(())
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let pid =
            i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).context("a child has a tgid")?;
        kill_process(pid, signal).context("send a signal")
    }
}

impl Drop for Begun {
    /// In order if possible, else by force; the agent's processes too, by their tgid and start.
    fn drop(&mut self) {
        self.started = alive_or_new(&self.started, self.child.id());
        let running = matches!(self.child.try_wait(), Ok(None));
        // A frozen one could not end.
        if running && self.signal(Signal::CONT).is_ok() && self.signal(Signal::TERM).is_ok() {
            eventually(STOP_WITHIN, || self.child.try_wait().context("ask for the exit status")).ok();
        }
        self.child.kill().ok();
        self.child.wait().ok();
        for (tgid, _) in alive(&self.started) {
            if let Some(pid) = i32::try_from(tgid).ok().and_then(Pid::from_raw) {
                kill_process(pid, Signal::KILL).ok();
            }
        }
    }
}

/// `watchfire up`, healthy.
pub struct Installation {
    begun: Begun,
    token: String,
}

impl Installation {
    /// The newest alerts, as many as there are: each as its JSON text and parsed.
    ///
    /// # Errors
    /// When the API does not answer with one JSON object a line.
    pub fn alerts(&self) -> Result<Vec<(String, Value)>> {
        self.list("/api/v1/alerts?since=1h&limit=100000")
    }

    fn list(&self, path: &str) -> Result<Vec<(String, Value)>> {
        let url = format!("http://{}{path}", self.begun.address);
        let request = http().get(&url).header("Authorization", format!("Bearer {}", self.token));
        let mut answer = request.call().with_context(|| format!("GET {url}"))?;
        let body = answer.body_mut().with_config().limit(ANSWER_LIMIT).read_to_string();
        let body = body.with_context(|| format!("read {url}"))?;
        ensure!(answer.status().as_u16() == 200, "GET {url}: {}: {body}", answer.status());
        let parse =
            |line: &str| Ok((line.to_owned(), serde_json::from_str(line).with_context(|| line.to_owned())?));
        body.lines().map(parse).collect()
    }

    /// Runs one of the operator's commands on this data directory.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn command(&self, arguments: &[&str]) -> Result<Output> {
        let mut command = Command::new(program()?);
        command.args(arguments).arg("--data-dir").arg(&self.begun.data).stdin(Stdio::null());
        command.output().with_context(|| format!("run watchfire {}", arguments.join(" ")))
    }

    /// The same, and insists on exit status 0.
    ///
    /// # Errors
    /// When it ended otherwise, with what it said.
    pub fn said(&self, arguments: &[&str]) -> Result<Vec<u8>> {
        let output = self.command(arguments)?;
        let errors = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "watchfire {}: {}: {errors}", arguments.join(" "), output.status);
        Ok(output.stdout)
    }

    /// The same, read as JSON Lines.
    ///
    /// # Errors
    /// As before, and when a line is not JSON.
    pub fn lines(&self, arguments: &[&str]) -> Result<Vec<Value>> {
        let text = String::from_utf8(self.said(arguments)?).context("JSON is UTF-8")?;
        text.lines().map(|line| serde_json::from_str(line).with_context(|| line.to_owned())).collect()
    }

    /// All events of one kind, `since` so long (`10m`, say).
    ///
    /// # Errors
    /// As [`Installation::lines`].
    pub fn events(&self, kind: &str, since: &str) -> Result<Vec<Value>> {
        self.lines(&["events", "--json", "--kind", kind, "--since", since, "--limit", "1000000"])
    }

    /// What `watchfire hosts --json` says of the one host there is.
    ///
    /// # Errors
    /// As [`Installation::lines`], and when no host is known.
    pub fn host(&self) -> Result<Value> {
        self.lines(&["hosts", "--json"])?.into_iter().next().context("no host is known")
    }

    /// Waits until the books that the agent sent after this call close.
    ///
    /// # Errors
    /// When they do not in time.
    pub fn books_close(&self, allowed: Duration) -> Result<()> {
        let verdict = || self.lines(&["ledger", "--json"])?.pop().context("the ledger has a last line");
        let then = verdict()?;
        let mut now = then.clone();
        let closed = eventually(allowed, || {
            now = verdict()?;
            // Not the books of before: they close too.
            let fresh = now["time"].as_str() > then["time"].as_str();
            Ok((fresh && now["balanced"] == true).then_some(()))
        })?;
        let rows = String::from_utf8(self.said(&["ledger"])?)?;
        closed.with_context(|| format!("the books do not close: {now}\n{rows}"))
    }

    /// Does one thing that is worth an alert, and waits for it.
    ///
    /// # Errors
    /// When none comes, with what the program wrote.
    pub fn raises_an_alert(&self) -> Result<()> {
        let stage = Stage::new()?;
        let behavior = BEHAVIORS.iter().find(|behavior| behavior.name == "ssh_authorized_keys/append");
        (behavior.context("the behaviour exists")?.attack)(&stage)?;
        let seen = eventually(ALERT_WITHIN, || {
            Ok(self.alerts()?.iter().any(|(text, _)| mentions(stage.mark(), text)).then_some(()))
        })?;
        seen.with_context(|| format!("no alert comes:\n{}", self.output()))
    }

    /// What `watchfire up` has written so far.
    pub fn output(&self) -> String {
        self.begun.output()
    }

    /// Whether /healthz answers 200.
    pub fn is_healthy(&self) -> bool {
        self.begun.is_healthy()
    }

    /// The agent's processes.
    pub fn agent_processes(&self) -> Vec<(u32, u64)> {
        descendants(self.begun.child.id())
    }

    /// SIGSTOP, to `watchfire up` alone: its agent runs on, and the server is there and does not answer.
    ///
    /// # Errors
    /// When the signal cannot be sent.
    pub fn freeze(&self) -> Result<()> {
        self.begun.signal(Signal::STOP)
    }

    /// SIGCONT.
    ///
    /// # Errors
    /// When the signal cannot be sent.
    pub fn thaw(&self) -> Result<()> {
        self.begun.signal(Signal::CONT)
    }

    /// SIGTERM; how it ended and how long that took.
    ///
    /// # Errors
    /// When it does not end at all.
    pub fn terminate(mut self) -> Result<(ExitStatus, Duration)> {
        self.begun.started = descendants(self.begun.child.id());
        let began = Instant::now();
        self.begun.signal(Signal::TERM)?;
        let status = self.begun.wait(Duration::from_secs(30))?;
        Ok((status, began.elapsed()))
    }

    /// SIGKILL, to `watchfire up` alone; what it had started is left to itself, and returned.
    ///
    /// # Errors
    /// When the signal cannot be sent.
    pub fn kill(mut self) -> Result<Vec<(u32, u64)>> {
        let agent = self.agent_processes();
        self.begun.signal(Signal::KILL)?;
        self.begun.child.wait().context("wait for the killed program")?;
        // Not for the drop to end: the scenario watches whether they end by themselves.
        self.begun.started.clear();
        Ok(agent)
    }
}

/// Those of `known` that still run, and what `ancestor` has started since.
fn alive_or_new(known: &[(u32, u64)], ancestor: u32) -> Vec<(u32, u64)> {
    let mut all = alive(known);
    all.extend(descendants(ancestor).into_iter().filter(|process| !known.contains(process)));
    all
}

/// A client that takes every status as an answer.
fn http() -> ureq::Agent {
    let config = ureq::Agent::config_builder().timeout_global(Some(Duration::from_secs(30)));
    config.http_status_as_error(false).build().new_agent()
}
