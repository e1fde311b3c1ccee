//! Killed, stopped or crashed at any moment, during traffic: the agent comes back, what it keeps stays whole, and nothing of it is left.
//!
//! `WATCHFIRE_KILLS` says how often (default 12), `WATCHFIRE_SEED` in which way; `cargo xtask bench kills` runs many.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use watchfire_behavior::{BEHAVIORS, Stage};
use watchfire_pace::Random;
use watchfire_tests::{
    Ground, Installation, alive, cgroup_name, cgroups_named, descendants, eventually, numbered, obstacle,
    orphaned_hooks, program, run_numbered, with_words,
};

const KILLS: u64 = 12;
const BACK_WITHIN: Duration = Duration::from_secs(90);
const SHOWN_WITHIN: Duration = Duration::from_secs(60);
/// A worker dies with its master at once; this is for a machine that is busy.
const ORPHANS_END_WITHIN: Duration = Duration::from_secs(10);
const STOPS_WITHIN: Duration = Duration::from_secs(20);
/// What waits for a master that ended, as a service manager would.
const RESTART_AFTER: Duration = Duration::from_millis(100);
/// So many times in a row a worker alone is hit: each of its short lives doubles the wait before the next, and the twelfth parks it.
const WORKER_ALONE: u32 = 4;
/// The longest quiet before a kill, and the longest a stopped process stays so.
const QUIET: Duration = Duration::from_millis(1500);
const STOPPED: Duration = Duration::from_millis(2500);
/// Between two programs of the traffic.
const PACE: Duration = Duration::from_millis(50);
/// One in so many of them adds a key, which is an alert: alerts go through the spool.
const ALERT_EVERY: usize = 40;
/// So often it is looked at what the server has of the traffic, and for so long back, which is longer.
const LOOK_EVERY: u64 = 25;
const LOOK_BACK: &str = "10m";
/// Beyond the numbers of the traffic: programs that run when all is over.
const LAST: usize = 1_000_000;

#[test]
fn killed_at_any_moment_the_agent_comes_back_whole_and_leaves_nothing() -> Result<()> {
    if let Some(reason) = obstacle() {
        eprintln!("skipped: kills: {reason}");
        return Ok(());
    }
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let kills = number("WATCHFIRE_KILLS").unwrap_or(KILLS);
    let clock = SystemTime::now().duration_since(UNIX_EPOCH).context("a clock after 1970")?;
    let seed = number("WATCHFIRE_SEED").unwrap_or(u64::from(clock.subsec_nanos()));
    tell(&format!("{kills} blows, drawn from the seed {seed}:\n"));
    let ground = Ground::new()?;
    let mut scene = Scene::start(&ground)?;
    let traffic = Traffic::default();
    let outcome = thread::scope(|scope| {
        scope.spawn(|| traffic.run(&scene.stage));
        let outcome = Tormentor::new(seed, &ground).torment(&mut scene.agent, &scene.up, &scene.stage, kills);
        traffic.over.store(true, Ordering::Relaxed);
        outcome
    });
    let counted = outcome.with_context(|| format!("WATCHFIRE_SEED={seed}\n{}", tail(&ground)))?;
    let programs = traffic.programs.load(Ordering::Relaxed);
    let alerts =
        scene.conclude(&ground).with_context(|| format!("WATCHFIRE_SEED={seed}\n{}", tail(&ground)))?;
    let seen = counted.seen.len();
    tell(&counted.table());
    tell(&format!("{programs} programs ran meanwhile; {seen} were seen, none of them twice."));
    tell(&format!("{alerts} alerts were stored, none of them twice."));
    Ok(())
}

/// Prints a part of the result, which `cargo xtask bench kills` puts into docs/misbehaviour.md.
fn tell(text: &str) {
    // An empty line at the end of `text` is a line.
    text.split('\n').for_each(|line| println!("kills: {line}"));
}

/// The end of what the agent wrote.
fn tail(ground: &Ground) -> String {
    let said = fs::read(ground.path("agent-output")).unwrap_or_default();
    String::from_utf8_lossy(&said[said.len().saturating_sub(20_000)..]).into_owned()
}

/// A server, and an agent that this test itself starts again whenever it ends.
struct Scene {
    up: Installation,
    agent: Agent,
    stage: Stage,
}

impl Scene {
    fn start(ground: &Ground) -> Result<Self> {
        // `up` pauses ever longer before it starts an agent that ends soon. What it starts here only waits for its own end.
        let stand_in = ground.path("stand-in");
        fs::write(&stand_in, "#!/bin/sh\nexec cat >/dev/null\n").context("write a script")?;
        fs::set_permissions(&stand_in, std::os::unix::fs::PermissionsExt::from_mode(0o700))
            .context("make it a program")?;
        let up = ground.begin_with_agent(&stand_in)?.answering()?;
        ground.configure_agent(&json!({ "limits": { "host": {
            "cpu_pressure": 101, "memory_pressure": 101, "io_pressure": 101,
        }, "sensor": { "cpu_percent": 6400 }}}))?;
        let agent = Agent::start(ground)?;
        let scene = Scene { up, agent, stage: Stage::new()? };
        let watches = eventually(BACK_WITHIN, || Ok(watches(&scene.up).then_some(())))?;
        watches.with_context(|| format!("it does not even start:\n{}", tail(ground)))?;
        Ok(scene)
    }

    /// All is quiet again: nothing is doubled or damaged, it sees and tells as ever, and leaves nothing behind. How many alerts there
    /// are.
    fn conclude(mut self, ground: &Ground) -> Result<usize> {
        run_numbered(&self.stage, LAST..LAST + 50)?;
        let shown = eventually(SHOWN_WITHIN, || {
            let shown = seen_once(&self.up, &self.stage)?;
            Ok((shown.range(LAST..).count() == 50).then_some(()))
        })?;
        ensure!(shown.is_some(), "programs that ran when all was over are not shown");
        let mut ids = BTreeSet::new();
        for (text, alert) in self.up.alerts()? {
            ensure!(ids.insert(alert["id"].to_string()), "stored twice: {text}");
        }
        self.up.books_close(SHOWN_WITHIN)?;
        self.up.raises_an_alert()?;

        let cgroup = cgroup_name(&state_dir(ground))?;
        ensure!(!cgroups_named(&cgroup).is_empty(), "no cgroup of ours while it runs");
        let processes = self.agent.processes()?;
        self.agent.signal(Signal::TERM)?;
        let ended = eventually(STOPS_WITHIN, || self.agent.child.try_wait().context("ask for its end"))?;
        let status = ended.context("it does not end")?;
        ensure!(status.success(), "ended by {status}");
        ensure!(alive(&processes).is_empty(), "processes live on: {:?}", alive(&processes));
        ensure!(cgroups_named(&cgroup).is_empty(), "left behind: {:?}", cgroups_named(&cgroup));
        no_orphaned_hooks()?;
        undamaged(ground, 0)?;
        Ok(ids.len())
    }
}

/// Programs that run all the while.
#[derive(Default)]
struct Traffic {
    over: AtomicBool,
    programs: AtomicUsize,
}

impl Traffic {
    fn run(&self, stage: &Stage) {
        let alert = BEHAVIORS.iter().find(|behavior| behavior.name == "ssh_authorized_keys/append");
        while !self.over.load(Ordering::Relaxed) {
            let number = self.programs.fetch_add(1, Ordering::Relaxed);
            let mut outcome = run_numbered(stage, number..number + 1);
            if number.is_multiple_of(ALERT_EVERY)
                && let Some(behavior) = alert
            {
                outcome = outcome.and_then(|()| (behavior.attack)(stage).map(drop).map_err(Into::into));
            }
            if let Err(error) = outcome {
                eprintln!("traffic: {error:#}");
            }
            thread::sleep(PACE);
        }
    }
}

/// The agent, as its service manager sees it.
struct Agent {
    child: Child,
    ground: PathBuf,
    output: PathBuf,
}

impl Agent {
    fn start(ground: &Ground) -> Result<Self> {
        let (data, output) = (ground.data(), ground.path("agent-output"));
        let child = Self::spawn(&data, &output)?;
        Ok(Agent { child, ground: data, output })
    }

    fn spawn(data: &Path, output: &Path) -> Result<Child> {
        let state = data.join("agent");
        fs::create_dir_all(&state).context("make the state directory")?;
        let log = File::options().create(true).append(true).open(output).context("open its output")?;
        let mut command = Command::new(program()?);
        command.args(["agent", "run", "--server-socket"]).arg(data.join("agent.sock"));
        command.arg("--state-dir").arg(&state).arg("--lock").arg(state.join("agent.lock"));
        command.arg("--config").arg(data.join("agent.json"));
        command.stdin(Stdio::null()).stdout(log.try_clone().context("duplicate")?).stderr(log);
        command.spawn().context("start the agent")
    }

    fn tgid(&self) -> u32 {
        self.child.id()
    }

    /// Master and workers, each with its start.
    fn processes(&mut self) -> Result<Vec<(u32, u64)>> {
        let all = descendants(std::process::id());
        let master = all.iter().copied().find(|(tgid, _)| *tgid == self.tgid());
        let Some(master) = master else {
            let ended = self.child.try_wait().context("ask for its end")?;
            let stat = fs::read_to_string(format!("/proc/{}/stat", self.tgid()));
            bail!(
                "the master {} is not among {} processes; ended: {ended:?}; {stat:?}",
                self.tgid(),
                all.len()
            );
        };
        let mut own = vec![master];
        own.extend(descendants(self.tgid()));
        Ok(own)
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        send(self.tgid(), signal)
    }

    /// Starts it again if it has ended; whether it had.
    fn look_after(&mut self) -> Result<bool> {
        if self.child.try_wait().context("ask for its end")?.is_none() {
            return Ok(false);
        }
        thread::sleep(RESTART_AFTER);
        self.child = Self::spawn(&self.ground, &self.output)?;
        Ok(true)
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Who is hit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Victim {
    Worker,
    Master,
    Both,
}

/// What hits it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Blow {
    Kill,
    Crash,
    /// For a while.
    Stop,
}

/// How often each was done, and how long it took until the sensors were back.
#[derive(Default)]
struct Counted {
    blows: Vec<(Victim, Blow, Option<Duration>)>,
    /// The programs of the traffic that the server knows of.
    seen: BTreeSet<usize>,
}

impl Counted {
    /// One row for each kind; those that were not waited for have no time.
    fn table(&self) -> String {
        let mut text = String::from(
            "| who | what | times | waited for | back after: median | longest |\n|---|---|---|---|---|---|\n",
        );
        let kinds: BTreeSet<(Victim, Blow)> =
            self.blows.iter().map(|(victim, blow, _)| (*victim, *blow)).collect();
        for (victim, blow) in kinds {
            let of_kind = self.blows.iter().filter(|(who, what, _)| (*who, *what) == (victim, blow));
            let mut back: Vec<Duration> = of_kind.clone().filter_map(|(_, _, back)| *back).collect();
            back.sort_unstable();
            let shown = |time: Option<&Duration>| {
                time.map_or("-".to_owned(), |time| format!("{:.1} s", time.as_secs_f64()))
            };
            let (median, longest) = (shown(back.get(back.len() / 2)), shown(back.last()));
            let row = format!(
                "| {} | {} | {} | {} | {median} | {longest} |\n",
                match victim {
                    Victim::Worker => "a worker",
                    Victim::Master => "the master",
                    Victim::Both => "master and workers",
                },
                match blow {
                    Blow::Kill => "SIGKILL",
                    Blow::Crash => "SIGSEGV",
                    Blow::Stop => "SIGSTOP, up to 2.5 s later SIGCONT",
                },
                of_kind.count(),
                back.len(),
            );
            text.push_str(&row);
        }
        text
    }
}

/// Chooses, strikes, and looks at what is left.
struct Tormentor<'a> {
    random: Random,
    ground: &'a Ground,
    host_id: Vec<u8>,
    /// How often in a row a worker alone was ended.
    alone: u32,
    /// What was last put in force at the control socket, and acknowledged.
    backlog: u64,
    /// So much of what the agent wrote was read.
    read: u64,
}

impl<'a> Tormentor<'a> {
    fn new(seed: u64, ground: &'a Ground) -> Self {
        let host_id = fs::read(state_dir(ground).join("host.id")).unwrap_or_default();
        Tormentor { random: Random::seeded(seed), ground, host_id, alone: 0, backlog: 0, read: 0 }
    }

    fn torment(
        &mut self,
        agent: &mut Agent,
        up: &Installation,
        stage: &Stage,
        kills: u64,
    ) -> Result<Counted> {
        let (started, mut counted) = (Instant::now(), Counted::default());
        for round in 1..=kills {
            thread::sleep(self.random.up_to(QUIET));
            agent.look_after()?;
            let (victim, blow) = self.choose();
            let begun = Instant::now();
            self.strike(agent, victim, blow)
                .with_context(|| format!("round {round}: {victim:?} {blow:?}"))?;
            // Some are hit again while they are on their way back.
            let patient = self.random.below(3) > 0 || round == kills;
            let back = if patient {
                self.comes_back(agent, up).with_context(|| format!("round {round}: {victim:?} {blow:?}"))?;
                Some(begun.elapsed())
            } else {
                None
            };
            counted.blows.push((victim, blow, back));
            if round.is_multiple_of(LOOK_EVERY) || round == kills {
                counted.seen.extend(seen_once(up, stage)?);
                println!("{round} of {kills} after {:.0} s", started.elapsed().as_secs_f64());
            }
        }
        Ok(counted)
    }

    fn choose(&mut self) -> (Victim, Blow) {
        let mut victim = [Victim::Worker, Victim::Master, Victim::Both]
            [usize::try_from(self.random.below(3)).unwrap_or(0)];
        let blow = match self.random.below(10) {
            0..6 => Blow::Kill,
            6..8 => Blow::Crash,
            _ => Blow::Stop,
        };
        if victim == Victim::Worker && self.alone >= WORKER_ALONE {
            victim = Victim::Master;
        }
        match (victim, blow) {
            (_, Blow::Stop) => {}
            (Victim::Worker, _) => self.alone += 1,
            _ => self.alone = 0,
        }
        (victim, blow)
    }

    fn strike(&mut self, agent: &mut Agent, victim: Victim, blow: Blow) -> Result<()> {
        let before = agent.processes()?;
        let workers = with_words(&before, &["worker"]);
        let chosen = usize::try_from(self.random.below(workers.len().max(1) as u64)).unwrap_or(0);
        let master = |(tgid, _): &&(u32, u64)| *tgid == agent.tgid();
        let victims: Vec<(u32, u64)> = match victim {
            // None, where the master is just starting.
            Victim::Worker => workers.get(chosen).copied().into_iter().collect(),
            Victim::Master => before.iter().find(master).copied().into_iter().collect(),
            Victim::Both => before.clone(),
        };
        let signal = match blow {
            Blow::Kill => Signal::KILL,
            Blow::Crash => Signal::SEGV,
            Blow::Stop => Signal::STOP,
        };
        for (tgid, _) in &victims {
            hit(*tgid, signal)?;
        }
        if blow == Blow::Stop {
            thread::sleep(self.random.up_to(STOPPED));
            for (tgid, _) in &victims {
                hit(*tgid, Signal::CONT)?;
            }
            return Ok(());
        }
        // The first SIGSEGV that no bad pointer caused only takes the runtime's own handler away.
        let dead = eventually(ORPHANS_END_WITHIN, || {
            let alive = alive(&victims);
            alive.iter().try_for_each(|(tgid, _)| hit(*tgid, signal))?;
            Ok(alive.is_empty().then_some(()))
        })?;
        ensure!(dead.is_some(), "signals do not end {:?}", alive(&victims));
        if victim != Victim::Worker {
            let orphans = eventually(ORPHANS_END_WITHIN, || Ok(alive(&before).is_empty().then_some(())))?;
            ensure!(orphans.is_some(), "processes of the dead agent live on: {:?}", alive(&before));
            // Its first thread may be gone before the others.
            agent.child.wait().context("wait for its end")?;
            agent.look_after()?;
        }
        Ok(())
    }

    /// The sensors watch again, and what is kept on the disk is what it was.
    fn comes_back(&mut self, agent: &mut Agent, up: &Installation) -> Result<()> {
        let back = eventually(BACK_WITHIN, || {
            if agent.look_after()? {
                bail!("it ended by itself");
            }
            let sensor = agent.processes()?;
            let runs = !with_words(&sensor, &["worker", "sensor"]).is_empty();
            Ok((runs && watches(up)).then_some(()))
        })?;
        ensure!(back.is_some(), "not back: {}", up.host()?);
        let host_id = fs::read(state_dir(self.ground).join("host.id")).context("read the host id")?;
        ensure!(host_id == self.host_id, "another host id");
        let shown = self.config(&["show", "uplink"], None)?;
        let backlog = shown["backlog_kib"].as_u64().context("a setting")?;
        ensure!(self.backlog == 0 || backlog == self.backlog, "{backlog} is in force, {} was", self.backlog);
        let wanted = 4096 + self.random.below(1024);
        let applied = json!({ "uplink": { "backlog_kib": wanted } }).to_string();
        self.config(&["apply", "-"], Some(&applied))?;
        self.backlog = wanted;
        self.read = undamaged(self.ground, self.read)?;
        Ok(())
    }

    /// Asks the agent at its control socket.
    fn config(&self, arguments: &[&str], input: Option<&str>) -> Result<Value> {
        let mut command = Command::new(program()?);
        command.args(["agent", "config", "--state-dir"]).arg(state_dir(self.ground)).args(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().context("ask the agent")?;
        let mut stdin = child.stdin.take().context("its input")?;
        stdin.write_all(input.unwrap_or_default().as_bytes()).context("write documents")?;
        drop(stdin);
        let output = child.wait_with_output().context("hear the agent")?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).context("settings are JSON")
    }
}

/// Whether the server sees an agent whose sensors watch.
fn watches(up: &Installation) -> bool {
    up.host().is_ok_and(|host| host["online"] == true && host["sensors_attached"] == true)
}

fn state_dir(ground: &Ground) -> PathBuf {
    ground.data().join("agent")
}

/// The numbers of the programs that the server knows of; an error when it knows one twice.
fn seen_once(up: &Installation, stage: &Stage) -> Result<BTreeSet<usize>> {
    let shown = numbered(up, stage, LOOK_BACK)?;
    let doubled: Vec<_> = shown.iter().filter(|(_, count)| **count != 1).collect();
    ensure!(doubled.is_empty(), "programs shown more than once: {doubled:?}");
    Ok(shown.into_keys().collect())
}

/// Nothing was found damaged, set aside, or said to be a defect in what the agent wrote from `read` on; where that ends.
fn undamaged(ground: &Ground, read: u64) -> Result<u64> {
    let mut log = File::open(ground.path("agent-output")).context("open what the agent wrote")?;
    log.seek(SeekFrom::Start(read)).context("go to where it was read")?;
    let mut said = Vec::new();
    let length = log.read_to_end(&mut said).context("read what the agent wrote")?;
    let said = String::from_utf8_lossy(&said);
    let bad = said.lines().find(|line| {
        // Said of every spool that is opened.
        let line = line.to_lowercase().replace("damaged_bytes=0 missing_records=0", "");
        ["damaged", "corrupt", "panicked", "bad checksum", "are not used"]
            .iter()
            .any(|word| line.contains(word))
    });
    ensure!(bad.is_none(), "{bad:?}");
    let set_aside = fs::read_dir(state_dir(ground)).context("list the state directory")?;
    let set_aside: Vec<_> = set_aside
        .flatten()
        .map(|entry| entry.file_name())
        .filter(|name| name.to_string_lossy().contains("damaged"))
        .collect();
    ensure!(set_aside.is_empty(), "set aside: {set_aside:?}");
    Ok(read + length as u64)
}

fn no_orphaned_hooks() -> Result<()> {
    let gone = eventually(ORPHANS_END_WITHIN, || Ok(orphaned_hooks().is_empty().then_some(())))?;
    gone.with_context(|| format!("programs in the kernel that nobody holds: {:?}", orphaned_hooks()))
}

/// Sends a signal; to one that is gone already is no error.
fn hit(tgid: u32, signal: Signal) -> Result<()> {
    match send(tgid, signal) {
        Err(error) if error.downcast_ref() == Some(&rustix::io::Errno::SRCH) => Ok(()),
        outcome => outcome,
    }
}

fn send(tgid: u32, signal: Signal) -> Result<()> {
    let pid = i32::try_from(tgid).ok().and_then(Pid::from_raw).context("a tgid")?;
    kill_process(pid, signal).context("send a signal")
}
