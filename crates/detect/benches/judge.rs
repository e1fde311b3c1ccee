//! Events judged a second, on one core: by the project's pack, and by the rules in `WATCHFIRE_SIGMA_DIR`.
//!
//! Each figure is the median of five rounds over the same events, which are made before the clock starts; the clock is
//! the CPU time of the one thread. "mix" is what a
//! busy server sends (of 100 events 30 execs, 30 forks, 30 exits, 6 file events, 4 connections); the other lines take one
//! kind alone. Nothing here is an attack, as nearly nothing is on a real host. Run by `cargo bench -p watchfire-detect`.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use watchfire_detect::{DetectSettings, Engine, load_rules};
use watchfire_event::{
    Body, BootNanos, Event, FileAction, FileActivity, Flow, Outcome, Process, ProcessKey, Stdio, StreamId,
    Transport, UnixNanos,
};

const EVENTS: usize = 20_000;
const ROUNDS: usize = 5;
const ROUND: Duration = Duration::from_millis(300);

/// Commands as servers run them.
const COMMANDS: &[(&str, &str)] = &[
    ("/usr/bin/dash", "sh -c test -x /usr/sbin/anacron || { cd / && run-parts --report /etc/cron.hourly; }"),
    ("/usr/bin/run-parts", "run-parts --report /etc/cron.hourly"),
    ("/usr/bin/bash", "/bin/bash /usr/local/bin/backup.sh --full --target /srv/backup"),
    ("/usr/bin/find", "find /srv/data -type f -mtime +30 -print0"),
    ("/usr/bin/grep", "grep -rn --include=*.conf listen /etc/nginx"),
    ("/usr/bin/sed", "sed -e s/a/b/ -i /srv/app/config.ini"),
    (
        "/usr/bin/python3.11",
        "python3 /srv/app/manage.py runserver --noreload --settings=app.settings.production",
    ),
    ("/usr/bin/git", "git -C /srv/app fetch --quiet --depth 1 origin main"),
    ("/usr/bin/tar", "tar --create --zstd --file /srv/backup/data.tar.zst /srv/data"),
    ("/usr/bin/curl", "curl -fsS --max-time 5 http://127.0.0.1:9100/metrics"),
    (
        "/usr/lib/gcc/x86_64-linux-gnu/12/cc1",
        "cc1 -quiet -I include -O2 -Wall -o /srv/build/a.s /srv/src/a.c",
    ),
    ("/usr/bin/systemctl", "systemctl is-active nginx.service"),
    ("/usr/bin/date", "date +%s"),
    ("/usr/bin/cut", "cut -d: -f1"),
];

fn process(index: usize) -> Arc<Process> {
    let (exe, line) = COMMANDS[index % COMMANDS.len()];
    let argv: Vec<u8> = line.split(' ').flat_map(|arg| arg.bytes().chain([0])).collect();
    let tgid = u32::try_from(1000 + index % 30_000).unwrap_or(1000);
    let mut process = Process {
        key: ProcessKey { tgid, started: BootNanos(index as u64) },
        parent: Some(ProcessKey { tgid: 900, started: BootNanos(1) }),
        exe: exe.as_bytes().to_vec(),
        filename: exe.as_bytes().to_vec(),
        argv_len: u32::try_from(argv.len()).unwrap_or(u32::MAX),
        argv,
        comm: exe.rsplit('/').next().unwrap_or_default().bytes().take(15).collect(),
        cwd: b"/srv/app".to_vec(),
        stdio: [Stdio::Null, Stdio::Pipe(index as u64), Stdio::Pipe(index as u64)],
        ..Process::default()
    };
    process.image.inode = 7;
    process.image.links = 1;
    process.image.mode = 0o100_755;
    Arc::new(process)
}

fn body(kind: &str, index: usize) -> Body {
    match kind {
        "exec" => Body::Exec,
        "fork" => Body::Fork { child: ProcessKey::default() },
        "exit" => Body::Exit { code: 0, signal: 0 },
        "file" => Body::File(FileActivity {
            action: if index.is_multiple_of(2) { FileAction::Create } else { FileAction::Write },
            path: format!("/tmp/build/obj-{index}.o").into_bytes(),
            new_path: None,
            mode: Some(0o100_644),
            uid: Some(1000),
        }),
        "connect" => Body::Connect(Flow {
            transport: Transport::Tcp,
            local: "10.0.0.5:40000".parse().expect("a literal address"),
            remote: "10.0.0.9:5432".parse().expect("a literal address"),
            outcome: Outcome::Succeeded,
        }),
        other => panic!("{other} is no kind of this bench"),
    }
}

fn events(kind: &str) -> Vec<Event> {
    let parent = process(2);
    let made = (0..EVENTS).map(|index| {
        let of_mix = match index % 100 {
            0..30 => "exec",
            30..60 => "fork",
            60..90 => "exit",
            90..96 => "file",
            _ => "connect",
        };
        let at = BootNanos(1_000_000_000_000 + index as u64 * 40_000);
        let kind = if kind == "mix" { of_mix } else { kind };
        // Of the commands, the server is the one that connects.
        let process = if kind == "connect" { process(6) } else { process(index) };
        Event { at, decoded: at, process, parent: Some(Arc::clone(&parent)), body: body(kind, index) }
    });
    made.collect()
}

/// Time this thread has spent on a CPU: what others do on the machine does not count.
fn on_cpu() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat")
        .expect("the kernel keeps scheduler statistics");
    let nanos =
        text.split(' ').next().and_then(|word| word.parse().ok()).expect("the first word is nanoseconds");
    Duration::from_nanos(nanos)
}

/// Median time of one event, and alerts of one pass over the events.
fn measure(settings: &DetectSettings, events: &[Event]) -> (f64, usize) {
    let mut times = Vec::new();
    let mut alerts = 0;
    for _ in 0..ROUNDS {
        let mut engine = Engine::new(load_rules(settings).rules, settings, StreamId::default(), UnixNanos(0));
        let (started, mut passes, mut taken) = (on_cpu(), 0, Duration::ZERO);
        // The kernel's figure moves by the tick (up to 10 ms): a round is many of them.
        while taken < ROUND {
            let mut told = 0;
            for event in events {
                engine.judge(event, &|_: &Process| Vec::new(), || event.at, &mut |_| told += 1);
            }
            alerts = if passes == 0 { told } else { alerts };
            passes += 1;
            taken = on_cpu() - started;
        }
        times.push(taken.as_secs_f64() / f64::from(passes) / events.len() as f64);
    }
    times.sort_by(f64::total_cmp);
    (times[ROUNDS / 2], alerts)
}

fn main() {
    let pack = DetectSettings::default();
    let mut sets = vec![("pack", pack.clone())];
    match std::env::var_os("WATCHFIRE_SIGMA_DIR") {
        Some(dir) => {
            let dirs = vec![PathBuf::from(dir)];
            sets.push(("sigma dir", DetectSettings { pack: false, dirs: dirs.clone(), ..pack.clone() }));
            sets.push(("pack and sigma dir", DetectSettings { dirs, ..pack }));
        }
        None => eprintln!("WATCHFIRE_SIGMA_DIR names no directory: measuring the pack alone"),
    }
    println!(
        "{:<20} {:>6} {:<8} {:>12} {:>9} {:>7}",
        "rules", "loaded", "events", "events/s", "us/event", "alerts"
    );
    for (name, settings) in &sets {
        let started = Instant::now();
        let loaded = load_rules(settings);
        let took = started.elapsed();
        for kind in ["mix", "exec", "fork", "file", "connect"] {
            let events = events(kind);
            let (per_event, alerts) = measure(settings, &events);
            println!(
                "{name:<20} {:>6} {kind:<8} {:>12.0} {:>9.2} {alerts:>7}",
                loaded.accepted,
                1.0 / per_event,
                per_event * 1e6
            );
        }
        println!(
            "{name:<20} {:>6} loading took {took:.1?}; {} can match no event, {} faults",
            loaded.accepted,
            loaded.silent.len(),
            loaded.faults.len()
        );
    }
}
