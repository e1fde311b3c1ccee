//! Every behaviour and every twin runs here for real, does what it is for, and leaves nothing behind.
//!
//! A test program of its own (`harness = false`), because its first act must be to ask whether it is a behaviour's child. An
//! argument chooses behaviours by a part of their name.

use std::fs;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use watchfire_behavior::{BEHAVIORS, Behavior, BehaviorError, Stage, child_main_if_asked, missing};
use watchfire_event::with_causes;

/// Begins the reason of what could not run here.
const SKIPPED: &str = "skipped: ";

fn main() -> ExitCode {
    child_main_if_asked();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.first().is_some_and(|first| first == "interrupt-me") {
        return wait_to_be_interrupted();
    }
    let filter: Vec<&String> = arguments.iter().filter(|argument| !argument.starts_with('-')).collect();
    let chosen = |name: &str| filter.is_empty() || filter.iter().any(|part| name.contains(part.as_str()));
    if arguments.iter().any(|argument| argument == "--list") {
        BEHAVIORS.iter().for_each(|behavior| println!("{}: test", behavior.name));
        return ExitCode::SUCCESS;
    }
    let mut tally = Tally::default();
    let began = Instant::now();
    for behavior in BEHAVIORS.iter().filter(|behavior| chosen(behavior.name)) {
        let name = behavior.name;
        tally.take(&format!("{name} attack"), perform(behavior, |stage| attack(behavior, stage)));
        tally.take(&format!("{name} benign"), perform(behavior, |stage| (behavior.benign)(stage)));
    }
    if chosen("interrupted") {
        tally.take("interrupted program cleans up", an_interrupted_program_cleans_up());
    }
    tally.sum_up(began.elapsed())
}

/// Results, printed as libtest prints them, so that whoever reads its output reads this.
#[derive(Default)]
struct Tally {
    passed: u32,
    skipped: u32,
    failed: u32,
}

impl Tally {
    fn take(&mut self, name: &str, result: Result<Duration, String>) {
        match result {
            Ok(took) => {
                self.passed += 1;
                println!("test {name} ... ok ({} ms)", took.as_millis());
            }
            Err(reason) if reason.starts_with(SKIPPED) => {
                self.skipped += 1;
                println!("test {name} ... ignored");
                eprintln!("skipped: {name}: {}", reason.trim_start_matches(SKIPPED));
            }
            Err(reason) => {
                self.failed += 1;
                println!("test {name} ... FAILED\n{reason}");
            }
        }
    }

    fn sum_up(&self, took: Duration) -> ExitCode {
        let (verdict, code) =
            if self.failed == 0 { ("ok", ExitCode::SUCCESS) } else { ("FAILED", ExitCode::FAILURE) };
        println!(
            "\ntest result: {verdict}. {} passed; {} failed; {} ignored; 0 measured; 0 filtered out; finished in {:.2}s",
            self.passed,
            self.failed,
            self.skipped,
            took.as_secs_f64()
        );
        code
    }
}

fn attack(behavior: &Behavior, stage: &Stage) -> Result<(), BehaviorError> {
    let performed = (behavior.attack)(stage)?;
    let alert = format!(r#"{{"cwd":"{}"}}"#, stage.dir().display());
    assert!(performed.mentioned_in(&alert) && !performed.mentioned_in(r#"{"cwd":"/tmp"}"#));
    Ok(())
}

fn perform(
    behavior: &Behavior,
    deed: impl FnOnce(&Stage) -> Result<(), BehaviorError>,
) -> Result<Duration, String> {
    if let Some(reason) = missing(behavior.needs) {
        return Err(format!("{SKIPPED}{reason}"));
    }
    let before = Traces::now()?;
    let stage = Stage::new().map_err(|error| with_causes(&error))?;
    let (dir, mark) = (stage.dir().to_owned(), stage.mark().to_owned());
    let began = Instant::now();
    let result = deed(&stage);
    let took = began.elapsed();
    stage.close().map_err(|error| with_causes(&error))?;
    match result {
        Err(BehaviorError::Unavailable(reason)) => return Err(format!("{SKIPPED}{reason}")),
        Err(error) => return Err(with_causes(&error)),
        Ok(()) => {}
    }
    if dir.exists() {
        return Err(format!("{} is still there", dir.display()));
    }
    nothing_bears(&mark)?;
    Traces::now()?.compare(&before)?;
    Ok(took)
}

/// What a behaviour must leave as it found it.
#[derive(Debug, PartialEq, Eq)]
struct Traces {
    descriptors: usize,
    threads: usize,
    mounts: String,
    untouched: Vec<(&'static str, Option<std::time::SystemTime>)>,
}

impl Traces {
    fn now() -> Result<Self, String> {
        let count =
            |path: &str| fs::read_dir(path).map(Iterator::count).map_err(|error| format!("{path}: {error}"));
        let files = [
            "/etc/passwd",
            "/etc/shadow",
            "/etc/group",
            "/etc/sudoers",
            "/etc/ld.so.preload",
            "/root/.bashrc",
        ];
        let more = [
            "/root/.bash_history",
            "/root/.ssh",
            "/root/.ssh/authorized_keys",
            "/etc/cron.d",
            "/etc/systemd/system",
        ];
        let modified = |path| (path, fs::metadata(path).and_then(|file| file.modified()).ok());
        Ok(Self {
            descriptors: count("/proc/self/fd")?,
            threads: count("/proc/self/task")?,
            mounts: fs::read_to_string("/proc/self/mounts").map_err(|error| error.to_string())?,
            untouched: files.into_iter().chain(more).map(modified).collect(),
        })
    }

    fn compare(&self, before: &Self) -> Result<(), String> {
        if self == before { Ok(()) } else { Err(format!("left traces: before {before:?}, after {self:?}")) }
    }
}

/// No process mentions the mark in its arguments, environment or working directory, and no folder is named by it.
fn nothing_bears(mark: &str) -> Result<(), String> {
    for entry in fs::read_dir("/proc").map_err(|error| error.to_string())?.flatten() {
        let dir = entry.path();
        let file = |name: &str| fs::read(dir.join(name)).unwrap_or_default();
        let cwd = fs::read_link(dir.join("cwd")).unwrap_or_default().into_os_string().into_encoded_bytes();
        for text in [file("cmdline"), file("environ"), cwd] {
            if text.windows(mark.len()).any(|window| window == mark.as_bytes()) {
                return Err(format!("{} still bears the mark", dir.display()));
            }
        }
    }
    Ok(())
}

/// Makes a stage with a child that never ends, says where, and waits for a signal.
fn wait_to_be_interrupted() -> ExitCode {
    watchfire_behavior::clean_up_when_interrupted().expect("the handler can be set");
    let stage = Stage::new().expect("a stage can be made");
    let mut child = Command::new("sleep");
    child.arg("300").current_dir(stage.dir()).stdout(Stdio::null());
    let mut child = child.spawn().expect("sleep can be started");
    println!("{}", stage.dir().display());
    // The signal ends this program first.
    child.wait().ok();
    std::thread::sleep(Duration::from_secs(60));
    ExitCode::FAILURE
}

fn an_interrupted_program_cleans_up() -> Result<Duration, String> {
    let began = Instant::now();
    let own = std::env::current_exe().map_err(|error| error.to_string())?;
    let mut program = Command::new(own);
    let mut child =
        program.arg("interrupt-me").stdout(Stdio::piped()).spawn().map_err(|error| error.to_string())?;
    let mut line = String::new();
    let mut output = std::io::BufReader::new(child.stdout.take().ok_or("no stdout")?);
    std::io::BufRead::read_line(&mut output, &mut line).map_err(|error| error.to_string())?;
    let dir = std::path::PathBuf::from(line.trim_end());
    let mark = dir
        .file_name()
        .and_then(|name| name.to_str()?.strip_prefix("watchfire-"))
        .ok_or("no stage")?
        .to_owned();
    let killed = Command::new("kill").args(["-TERM", &child.id().to_string()]).status();
    killed.map_err(|error| error.to_string())?;
    let status = child.wait().map_err(|error| error.to_string())?;
    if std::os::unix::process::ExitStatusExt::signal(&status) != Some(15) {
        return Err(format!("ended by {status}, not by the signal"));
    }
    if dir.exists() {
        return Err(format!("{} is still there", dir.display()));
    }
    nothing_bears(&mark)?;
    Ok(began.elapsed())
}
