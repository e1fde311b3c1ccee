//! Apps that misbehave: what the agent does about each, after how many seconds, and that nobody else loses anything. The agent is
//! src/bin/misbehaving_agent; the figures that a run prints are those of docs/misbehaviour.md.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, prlimit};
use serde_json::{Value, json};
use watchfire_behavior::Stage;
use watchfire_tests::{Ground, Installation, await_numbered, eventually, obstacle, run_numbered, with_words};

/// One installation at a time: two agents on a host see each other's work.
static ALONE: Mutex<()> = Mutex::new(());

/// On a machine that does other things besides.
const TOLD_WITHIN: Duration = Duration::from_secs(180);
const SHOWN_WITHIN: Duration = Duration::from_secs(30);
/// Programs run before the fault, while it lasts, and afterwards.
const PROGRAMS: usize = 50;
/// What a witness must have told before anything is asked of it.
const SOME_TICKS: usize = 10;
/// How long an idle master is looked at.
const LOOKED_AT_FOR: Duration = Duration::from_secs(3);
/// The fault's worker, and the witness in it.
const WORKER: &str = "extension";
const BESIDE: &str = "ticks_beside";
/// The witness in another worker.
const ELSEWHERE: &str = "ticks_elsewhere";

fn scenario(run: impl FnOnce() -> Result<()>) -> Result<()> {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    match obstacle() {
        Some(reason) => {
            eprintln!("skipped: faults: {reason}");
            Ok(())
        }
        None => run(),
    }
}

#[test]
fn an_app_that_spins_costs_its_worker_one_life_and_rests() -> Result<()> {
    scenario(|| {
        let scene = Scene::start(&json!({}))?;
        let begun = scene.bring_about("spins")?;
        let ended = scene.told("worker", &[("state", "ended")])?;
        println!("spins: its worker ended after {:.1} s", since(begun));
        ensure!(ended["why"].as_str().is_some_and(|why| why.contains("spins rests for")), "{ended}");
        scene.beside_ticks_again(begun)?;
        scene.app("spins", "off")?;
        scene.conclude(Beside::Replaced)
    })
}

#[test]
fn an_app_that_spins_rests_too_where_the_breaker_is_quicker() -> Result<()> {
    scenario(|| {
        // Longer than a turn may take, shorter than the worker's own patience with it.
        let scene = Scene::start(&json!({
            "sample_ms": 500, "cool_down_s": 1, "longest_cool_down_s": 1, "extension": { "cpu_percent": 1, "cpu_samples": 16 },
        }))?;
        let begun = scene.bring_about("spins")?;
        let stopped = scene.told("worker", &[("state", "stopped")])?;
        println!("spins, with 16 samples of 0.5 s: its worker was stopped after {:.1} s", since(begun));
        ensure!(stopped["why"].as_str().is_some_and(|why| why.contains("spins rests for")), "{stopped}");
        scene.beside_ticks_again(begun)?;
        scene.app("spins", "off")?;
        scene.conclude(Beside::Stopped)
    })
}

#[test]
fn turns_that_burn_the_cpu_trip_the_breaker_of_their_worker() -> Result<()> {
    scenario(|| {
        let scene = Scene::start(&json!({
            "sample_ms": 500, "cool_down_s": 2, "longest_cool_down_s": 4, "extension": { "cpu_samples": 4 },
        }))?;
        let begun = scene.bring_about("burns")?;
        let open = scene.told("breaker", &[("state", "open"), ("breaker", "worker extension")])?;
        println!("burns: the breaker opened after {:.1} s (samples of 0.5 s, 4 of them)", since(begun));
        ensure!(open["why"].as_str().is_some_and(|why| why.contains("cpu")), "{open}");
        scene.put_right("burns")?;
        scene.beside_ticks_again(begun)?;
        scene.breaker_tripped()?;
        scene.conclude(Beside::Stopped)
    })
}

#[test]
fn an_app_that_leaks_trips_the_breaker_of_its_worker() -> Result<()> {
    scenario(|| {
        let scene = Scene::start(&json!({ "sample_ms": 500, "cool_down_s": 2, "longest_cool_down_s": 4 }))?;
        let begun = scene.bring_about("leaks")?;
        let open = scene.told("breaker", &[("state", "open"), ("breaker", "worker extension")])?;
        println!("leaks: the breaker opened after {:.1} s (samples of 0.5 s)", since(begun));
        ensure!(open["why"].as_str().is_some_and(|why| why.contains("rss")), "{open}");
        scene.put_right("leaks")?;
        scene.beside_ticks_again(begun)?;
        scene.breaker_tripped()?;
        scene.conclude(Beside::Stopped)
    })
}

#[test]
fn an_app_that_panics_each_turn_is_started_again_ever_later_and_costs_nobody_anything() -> Result<()> {
    scenario(|| {
        let scene = Scene::start(&json!({}))?;
        let begun = scene.bring_about("panics")?;
        let panicked = scene.told("app", &[("app", "panics"), ("state", "waiting")])?;
        println!("panics: told after {:.1} s", since(begun));
        ensure!(panicked["why"] == "panicked: as it always does", "{panicked}");
        let again = eventually(TOLD_WITHIN, || {
            let panics = |app: &Value| app["app"] == "panics" && app["panics"].as_u64() >= Some(3);
            Ok(scene.up.host()?["apps"].as_array().is_some_and(|apps| apps.iter().any(panics)).then_some(()))
        })?;
        ensure!(again.is_some(), "not tried again: {}", scene.up.host()?);
        println!("panics: three starts after {:.1} s", since(begun));
        scene.conclude(Beside::Untouched)
    })
}

#[test]
fn an_app_that_blocks_is_told_and_holds_up_nobody_until_it_is_switched_off() -> Result<()> {
    scenario(|| {
        let scene = Scene::start(&json!({}))?;
        let begun = scene.bring_about("blocks")?;
        let stuck = scene.told("app", &[("app", "blocks"), ("state", "stuck")])?;
        println!("blocks: told after {:.1} s", since(begun));
        ensure!(stuck["why"].as_str().is_some_and(|why| why.contains("a turn")), "{stuck}");
        scene.app("blocks", "stuck")?;
        scene.untouched(BESIDE)?;
        // Only the end of its process ends it.
        let begun = scene.put_right("blocks")?;
        scene.told("worker", &[("state", "ended")])?;
        println!("blocks: switched off, its worker ended after {:.1} s", since(begun));
        scene.beside_ticks_again(begun)?;
        scene.conclude(Beside::Replaced)
    })
}

#[test]
fn an_app_that_segfaults_costs_its_worker_a_life_each_time() -> Result<()> {
    scenario(|| {
        let scene = Scene::start(&json!({}))?;
        let begun = scene.bring_about("segfaults")?;
        let ended = scene.told("worker", &[("state", "ended")])?;
        println!("segfaults: its worker's end was told after {:.1} s", since(begun));
        ensure!(ended["why"].as_str().is_some_and(|why| why.contains("SIGSEGV")), "{ended}");
        scene.put_right("segfaults")?;
        scene.beside_ticks_again(begun)?;
        scene.conclude(Beside::Replaced)
    })
}

#[test]
fn garbage_on_the_link_ends_the_worker_that_sent_it() -> Result<()> {
    scenario(|| {
        let scene = Scene::start(&json!({}))?;
        let begun = scene.bring_about("floods")?;
        let ended = scene.told("worker", &[("state", "ended")])?;
        println!("floods: its worker ended after {:.1} s", since(begun));
        ensure!(ended["why"].as_str().is_some_and(|why| why.contains("frame")), "{ended}");
        scene.put_right("floods")?;
        scene.beside_ticks_again(begun)?;
        scene.conclude(Beside::Replaced)
    })
}

#[test]
fn an_app_that_tells_without_end_is_limited_and_counted() -> Result<()> {
    scenario(|| {
        // Enough CPU that its breaker is not what ends it, and few enough events to look through.
        let scene = Scene::start(&json!({ "extension": { "cpu_percent": 6400, "events_per_s": 50 } }))?;
        let begun = scene.bring_about("chatters")?;
        let dropped = eventually(TOLD_WITHIN, || {
            let rows = scene.up.lines(&["ledger", "--json"])?;
            let row = |row: &&Value| row["stage"] == "uplink" && row["kind"] == "report";
            Ok(rows
                .iter()
                .find(row)
                .and_then(|row| row["dropped"]["rate_limited"].as_u64())
                .filter(|n| *n > 0))
        })?;
        let dropped = dropped.with_context(|| format!("nothing was limited:\n{}", scene.up.output()))?;
        println!("chatters: {dropped} reports over the limit and counted after {:.1} s", since(begun));
        scene.put_right("chatters")?;
        // What its own worker may send is shared: the witness beside it is not asked.
        scene.conclude(Beside::Shares)
    })
}

#[test]
fn a_worker_that_neither_reads_nor_speaks_is_ended() -> Result<()> {
    scenario(|| {
        let scene = Scene::start(&json!({ "silence_s": 10 }))?;
        let begun = scene.bring_about("deaf")?;
        let ended = scene.told("worker", &[("state", "ended")])?;
        println!("deaf: its worker ended after {:.1} s (silence_s 10)", since(begun));
        ensure!(ended["why"].as_str().is_some_and(|why| why.contains("said nothing")), "{ended}");
        scene.put_right("deaf")?;
        scene.beside_ticks_again(begun)?;
        scene.conclude(Beside::Replaced)
    })
}

#[test]
fn a_source_that_hangs_is_left_out_and_the_others_see_again() -> Result<()> {
    scenario(|| {
        let scene = Scene::start(&json!({}))?;
        await_numbered(&scene.up, &scene.stage, 0..PROGRAMS, SHOWN_WITHIN)?;
        let begun = scene.switch("start", "hangs")?;
        let ended = scene.told("worker", &[("state", "ended"), ("worker", "sensor")])?;
        println!("hangs: the sensor worker ended after {:.1} s", since(begun));
        ensure!(ended["why"].as_str().is_some_and(|why| why.contains("hangs rests for")), "{ended}");
        let back = eventually(TOLD_WITHIN, || {
            let host = scene.up.host()?;
            let watches = host["idle"] == "" && host["sensors_attached"] == true;
            Ok((watches && rests("hangs", &host)).then_some(()))
        })?;
        ensure!(back.is_some(), "the sensors are not back: {}", scene.up.host()?);
        println!("… the sensors are back after {:.1} s", since(begun));
        scene.put_right("hangs")?;
        run_numbered(&scene.stage, PROGRAMS..2 * PROGRAMS)?;
        scene.conclude(Beside::Untouched)
    })
}

#[test]
fn a_worker_that_cannot_be_started_is_tried_again_and_nobody_else_is_touched() -> Result<()> {
    scenario(|| {
        let scene = Scene::start(&json!({}))?;
        let (master, worker) = (scene.process(&["run"])?, scene.process(&["worker", WORKER])?);
        // No descriptor more for the master: what it has open stays open.
        let limit = getrlimit(Resource::Nofile);
        let set = |limit| prlimit(Some(master), Resource::Nofile, limit).context("set the master's limit");
        let before = set(Rlimit { current: Some(3), maximum: limit.maximum })?;
        kill_process(worker, Signal::KILL).context("kill the worker")?;
        let begun = Instant::now();
        let not_started = scene.told("worker", &[("state", "not started")])?;
        println!("no descriptors: told after {:.1} s", since(begun));
        ensure!(not_started["why"].as_str().is_some_and(|why| why.contains("socket pair")), "{not_started}");
        run_numbered(&scene.stage, PROGRAMS..2 * PROGRAMS)?;
        set(before)?;
        scene.beside_ticks_again(begun)?;
        ensure!(scene.process(&["run"])? == master, "the master ended:\n{}", scene.up.output());
        scene.conclude(Beside::Replaced)
    })
}

#[test]
fn a_worker_with_nothing_to_do_is_gone_and_the_master_sleeps() -> Result<()> {
    scenario(|| {
        let mut scene = Scene::start(&json!({}))?;
        for app in scene.up.host()?["apps"].as_array().context("apps")? {
            if app["worker"] == "collector" {
                scene.put_right(app["app"].as_str().context("a name")?)?;
            }
        }
        let gone =
            eventually(SHOWN_WITHIN, || Ok(scene.process(&["worker", "collector"]).is_err().then_some(())))?;
        ensure!(gone.is_some(), "the collector lives on:\n{}", scene.up.output());
        let master = scene.process(&["run"])?;
        let before = cpu_ticks(master)?;
        thread::sleep(LOOKED_AT_FOR);
        let took = cpu_ticks(master)? - before;
        // A loop that never sleeps would take some hundred ticks of each second, or its share of a busy machine.
        ensure!(took < 30, "the idle master took {took} ticks of the CPU in {LOOKED_AT_FOR:?}");
        let begun = scene.switch("start", ELSEWHERE)?;
        scene.ticks_on(ELSEWHERE, &|lives| lives.len() > 1)?;
        scene.lives_elsewhere = 2;
        run_numbered(&scene.stage, PROGRAMS..2 * PROGRAMS)?;
        println!("switched on again: its worker ticks after {:.1} s", since(begun));
        scene.conclude(Beside::Untouched)
    })
}

/// Time that a process has taken of the CPU, in hundredths of a second.
fn cpu_ticks(process: Pid) -> Result<u64> {
    let stat =
        fs::read_to_string(format!("/proc/{}/stat", process.as_raw_nonzero())).context("read its stat")?;
    let fields: Vec<&str> = stat.rsplit_once(')').context("a stat")?.1.split_whitespace().collect();
    let field = |index: usize| fields.get(index).and_then(|text| text.parse::<u64>().ok()).context("a field");
    Ok(field(11)? + field(12)?)
}

fn since(begun: Instant) -> f64 {
    begun.elapsed().as_secs_f64()
}

/// What the witness in the fault's worker may have gone through.
enum Beside {
    /// Nothing.
    Untouched,
    /// Its worker was stopped in order: every number of every life is there.
    Stopped,
    /// Its worker ended: what it told in its last moment may be lost, and nothing else.
    Replaced,
    /// What it tells is limited together with the fault's facts.
    Shares,
}

/// The numbers that a witness told, sorted, by its life.
type Lives = BTreeMap<u64, Vec<u64>>;

/// A running agent with apps that can be made to misbehave.
struct Scene {
    up: Installation,
    stage: Stage,
    ground: Ground,
    /// Of the witness in the fault's worker.
    first_life: u64,
    /// How many lives the witness elsewhere may have had.
    lives_elsewhere: usize,
}

impl Scene {
    /// Starts it under `limits`, runs programs, and waits until both witnesses tell.
    fn start(limits: &Value) -> Result<Self> {
        let ground = Ground::new()?;
        let mut limits = limits.clone();
        // The machine's other business is no matter of this test, nor what the sensors have to do because of it.
        limits["host"] = json!({ "cpu_pressure": 101, "memory_pressure": 101, "io_pressure": 101 });
        for worker in ["sensor", "collector"] {
            limits[worker] = json!({ "cpu_percent": 6400 });
        }
        ground.configure_agent(&json!({ "limits": limits }))?;
        let up = ground.start_with_agent(Path::new(env!("CARGO_BIN_EXE_misbehaving_agent")))?;
        let mut scene = Scene { up, stage: Stage::new()?, ground, first_life: 0, lives_elsewhere: 1 };
        let attached =
            eventually(SHOWN_WITHIN, || Ok((scene.up.host()?["sensors_attached"] == true).then_some(())))?;
        ensure!(attached.is_some(), "no sensors:\n{}", scene.up.output());
        run_numbered(&scene.stage, 0..PROGRAMS)?;
        for witness in [BESIDE, ELSEWHERE] {
            scene.ticks_on(witness, &|lives| lives.values().any(|numbers| numbers.len() >= SOME_TICKS))?;
        }
        let mut lives = scene.lives(BESIDE)?.into_keys();
        scene.first_life = lives.next().context("the witness lives")?;
        ensure!(lives.next().is_none(), "the witness died before anything was done");
        Ok(scene)
    }

    /// The agent's process with these words in its command line.
    fn process(&self, words: &[&str]) -> Result<Pid> {
        let found = with_words(&self.up.agent_processes(), words).first().copied();
        let found = found.and_then(|(tgid, _)| Pid::from_raw(i32::try_from(tgid).ok()?));
        found.with_context(|| format!("no agent process with {words:?}"))
    }

    /// Switches a fault on, and runs programs meanwhile; since when it is on.
    fn bring_about(&self, fault: &str) -> Result<Instant> {
        let begun = self.switch("start", fault)?;
        run_numbered(&self.stage, PROGRAMS..2 * PROGRAMS)?;
        Ok(begun)
    }

    /// Switches it off again.
    fn put_right(&self, fault: &str) -> Result<Instant> {
        self.switch("stop", fault)
    }

    fn switch(&self, action: &str, app: &str) -> Result<Instant> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_misbehaving_agent"));
        command.arg("config").arg("--state-dir").arg(self.ground.data().join("agent")).args([action, app]);
        let output = command.stdin(Stdio::null()).output().context("switch an app")?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(Instant::now())
    }

    /// Waits for a report of the agent about `topic` with these fields; of the fault's worker, where they name no other.
    fn told(&self, topic: &str, fields: &[(&str, &str)]) -> Result<Value> {
        let found = eventually(TOLD_WITHIN, || {
            let mut reports = self.reports("agent")?.into_iter();
            Ok(reports.find_map(|(of, told)| {
                let named = fields.iter().any(|(name, _)| *name == "worker");
                let here = of == topic && (named || told.get("worker").is_none_or(|worker| worker == WORKER));
                (here && fields.iter().all(|(name, value)| told[*name] == *value)).then_some(told)
            }))
        })?;
        found.with_context(|| format!("no report of {topic} with {fields:?}:\n{}", self.up.output()))
    }

    /// Topic and fields of all reports of an app.
    fn reports(&self, app: &str) -> Result<Vec<(String, Value)>> {
        let reports = self.up.events("report", "1h")?.into_iter().map(|mut event| event["report"].take());
        let of_app = reports.filter(|report| report["app"] == app);
        Ok(of_app
            .map(|mut report| {
                (report["topic"].as_str().unwrap_or_default().to_owned(), report["fields"].take())
            })
            .collect())
    }

    /// Waits until the hosts' list says so of an app.
    fn app(&self, app: &str, state: &str) -> Result<()> {
        let shown = eventually(SHOWN_WITHIN, || {
            let host = self.up.host()?;
            let mut apps = host["apps"].as_array().into_iter().flatten();
            Ok(apps.any(|known| known["app"] == app && known["state"] == state).then_some(()))
        })?;
        ensure!(shown.is_some(), "{app} is not shown as {state}: {}", self.up.host()?);
        Ok(())
    }

    /// Waits until the hosts' list knows of a trip of the worker's breaker that is over.
    fn breaker_tripped(&self) -> Result<()> {
        let shown = eventually(SHOWN_WITHIN, || {
            let host = self.up.host()?;
            let mut breakers = host["breakers"].as_array().into_iter().flatten();
            Ok(breakers
                .any(|breaker| {
                    breaker["name"] == "worker extension"
                        && breaker["trips"].as_u64() >= Some(1)
                        && breaker["state"] != "open"
                })
                .then_some(()))
        })?;
        ensure!(shown.is_some(), "no trip is shown: {}", self.up.host()?);
        Ok(())
    }

    /// The numbers of each life of a witness, sorted.
    fn lives(&self, witness: &str) -> Result<Lives> {
        let number = |told: &Value, name: &str| told[name].as_str().and_then(|text| text.parse::<u64>().ok());
        let mut lives = Lives::new();
        for (_, told) in self.reports(witness)? {
            let life = number(&told, "life").context("a life")?;
            lives.entry(life).or_default().push(number(&told, "number").context("a number")?);
        }
        lives.values_mut().for_each(|numbers| numbers.sort_unstable());
        Ok(lives)
    }

    fn ticks_on(&self, witness: &str, enough: &dyn Fn(&Lives) -> bool) -> Result<()> {
        let ticks = eventually(TOLD_WITHIN, || Ok(enough(&self.lives(witness)?).then_some(())))?;
        ensure!(ticks.is_some(), "{witness} does not tick:\n{}", self.up.output());
        Ok(())
    }

    /// Waits until the witness in the fault's worker ticks in another life of it.
    fn beside_ticks_again(&self, begun: Instant) -> Result<()> {
        self.ticks_on(BESIDE, &|lives| lives.keys().any(|life| *life != self.first_life))?;
        println!("… the witness beside it ticks again after {:.1} s", since(begun));
        Ok(())
    }

    /// A witness has had one life, and told every number of it once.
    fn untouched(&self, witness: &str) -> Result<()> {
        let lives = self.lives(witness)?;
        ensure!(lives.len() == 1, "{witness} had more lives than one: {:?}", lives.keys());
        whole(witness, &lives)
    }

    /// Nobody else has lost anything, and the books close.
    fn conclude(self, beside: Beside) -> Result<()> {
        run_numbered(&self.stage, 2 * PROGRAMS..3 * PROGRAMS)?;
        await_numbered(&self.up, &self.stage, 0..3 * PROGRAMS, SHOWN_WITHIN)?;
        let told = |lives: &Lives| lives.values().map(Vec::len).sum::<usize>();
        let before = told(&self.lives(ELSEWHERE)?);
        self.ticks_on(ELSEWHERE, &|lives| told(lives) > before + SOME_TICKS)?;
        let lives = self.lives(ELSEWHERE)?;
        ensure!(lives.len() == self.lives_elsewhere, "{ELSEWHERE} had other lives: {:?}", lives.keys());
        whole(ELSEWHERE, &lives)?;
        match beside {
            Beside::Untouched => self.untouched(BESIDE)?,
            Beside::Stopped | Beside::Replaced => whole(BESIDE, &self.lives(BESIDE)?)?,
            Beside::Shares => {}
        }
        self.up.books_close(SHOWN_WITHIN)?;
        self.up.raises_an_alert()?;
        let (status, _) = self.up.terminate()?;
        ensure!(status.success(), "ended by {status}");
        Ok(())
    }
}

/// Whether the hosts' list shows an app as switched off for now.
fn rests(app: &str, host: &Value) -> bool {
    let mut apps = host["apps"].as_array().into_iter().flatten();
    apps.any(|known| known["app"] == app && known["state"] == "off")
}

/// Every life tells its numbers from one on, each once.
fn whole(witness: &str, lives: &Lives) -> Result<()> {
    for numbers in lives.values() {
        let expected = 1..=numbers.len() as u64;
        ensure!(expected.eq(numbers.iter().copied()), "{witness} lost or doubled a number: {numbers:?}");
    }
    Ok(())
}
