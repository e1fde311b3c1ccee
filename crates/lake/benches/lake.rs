//! Rows per second of append, archive and query, and bytes per row. `cargo bench -p watchfire-lake`.
//!
//! Method: one million events of a synthetic storm (per process fork, exec, exit; every 50th also a connect and a file event;
//! argv of some 60 bytes out of 500 different ones, distinct keys and times) in batches of 1,000 events (some 200 KiB) built and
//! encoded beforehand. Append: one thread appends, another calls `sync` without a break, as the server does. Archive: one
//! `flush` of all of it, decoding included. Query: the default query (newest 1,000 of one kind), then all rows of one kind, over
//! files only. Wall time and the calling thread's CPU time (`schedstat`) of one run each, since a shared machine lies about the first; the directory lies in the system's temporary directory.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use watchfire_event::{
    Body, BootId, BootNanos, Credentials, Event, FileAction, FileActivity, Flow, HostId, Image, Kind,
    Namespaces, Outcome, Process, ProcessKey, StreamId, Transport, UnixNanos,
};
use watchfire_lake::{EventQuery, Lake, LakeSettings, MAX_LIMIT, StreamMeta};
use watchfire_wire::BatchBuilder;

const BATCHES: u64 = 1000;
const EVENTS_PER_BATCH: u64 = 1000;

fn main() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let lake = Arc::new(Lake::open(dir.path(), LakeSettings::default()).expect("a lake"));
    let batches: Vec<Vec<u8>> = (1..=BATCHES).map(batch).collect();
    let encoded: usize = batches.iter().map(Vec::len).sum();
    let rows = BATCHES * EVENTS_PER_BATCH;
    println!("{rows} events in {BATCHES} batches, {} bytes per event on the wire", encoded as u64 / rows);
    append(&lake, &batches);
    drop(batches);
    let begun = Begun::now();
    let archived = lake.flush().expect("archived");
    report("archive", archived.rows, begun);
    println!(
        "         {:.1} bytes per row in {} files",
        archived.bytes as f64 / archived.rows as f64,
        archived.files
    );
    query("query newest 1000 exec", &lake, EventQuery { kinds: vec![Kind::Exec], ..EventQuery::default() });
    query(
        "query all exit",
        &lake,
        EventQuery { kinds: vec![Kind::Exit], limit: MAX_LIMIT, ..EventQuery::default() },
    );
}

fn append(lake: &Arc<Lake>, batches: &[Vec<u8>]) {
    let done = Arc::new(AtomicBool::new(false));
    let syncer = {
        let (lake, done) = (lake.clone(), done.clone());
        std::thread::spawn(move || {
            let mut syncs = 0;
            while !done.load(Ordering::Relaxed) {
                lake.sync().expect("synced");
                syncs += 1;
            }
            syncs
        })
    };
    let begun = Begun::now();
    let mut slowest = 0.0f64;
    for (sequence, batch) in (1..).zip(batches) {
        let one = Instant::now();
        lake.append(&meta(), sequence, batch).expect("appended");
        slowest = slowest.max(one.elapsed().as_secs_f64());
    }
    lake.sync().expect("synced");
    report("append + sync", BATCHES * EVENTS_PER_BATCH, begun);
    done.store(true, Ordering::Relaxed);
    println!(
        "         slowest append {:.2} ms, {} calls of sync",
        slowest * 1e3,
        syncer.join().expect("the syncer")
    );
}

fn query(what: &str, lake: &Lake, query: EventQuery) {
    let begun = Begun::now();
    let mut rows = 0;
    lake.query(&query).expect("a query").for_each(|row| rows += u64::from(row.is_ok()));
    report(what, rows, begun);
}

struct Begun {
    wall: Instant,
    cpu: u64,
}

impl Begun {
    fn now() -> Self {
        Self { wall: Instant::now(), cpu: cpu_nanos() }
    }
}

/// Nanoseconds this thread has run.
fn cpu_nanos() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").expect("schedstat");
    text.split(' ').next().and_then(|nanos| nanos.parse().ok()).expect("a number")
}

fn report(what: &str, rows: u64, begun: Begun) {
    let cpu = (cpu_nanos() - begun.cpu) as f64 / 1e3 / rows as f64;
    let seconds = begun.wall.elapsed().as_secs_f64();
    let rate = rows as f64 / seconds;
    println!(
        "{what}: {rows} rows in {seconds:.3} s, {rate:.0} rows/s, {:.2} us/row wall, {cpu:.2} us/row CPU",
        1e6 / rate
    );
}

fn meta() -> StreamMeta {
    let stream = StreamId { host: HostId([1; 16]), boot: BootId([2; 16]), incarnation: BootNanos(3) };
    StreamMeta { stream, booted: UnixNanos(1_795_222_530_000_000_000), hostname: "bench".to_owned() }
}

fn batch(sequence: u64) -> Vec<u8> {
    let mut builder = BatchBuilder::new();
    let parent = Arc::new(process(7, 1));
    let mut number = sequence * EVENTS_PER_BATCH;
    let end = number + EVENTS_PER_BATCH;
    while number < end {
        let child = Arc::new(process(u32::try_from(number % 4_000_000).expect("small"), number));
        let fork = Body::Fork { child: child.key };
        let mut bodies = vec![(parent.clone(), fork), (child.clone(), Body::Exec)];
        if number % 50 < 3 {
            bodies.push((child.clone(), Body::Connect(flow())));
            bodies.push((child.clone(), Body::File(written(number))));
        }
        bodies.push((child, Body::Exit { code: 0, signal: 0 }));
        for (process, body) in bodies.into_iter().take(usize::try_from(end - number).expect("small")) {
            let at = BootNanos(number * 12_345);
            builder.push(&Event {
                at,
                decoded: BootNanos(at.0 + 4_000 + number % 977),
                process,
                parent: Some(parent.clone()),
                body,
            });
            number += 1;
        }
    }
    builder.finish(sequence)
}

fn process(tgid: u32, number: u64) -> Process {
    Process {
        key: ProcessKey { tgid, started: BootNanos(number * 12_345) },
        parent: Some(ProcessKey { tgid: 7, started: BootNanos(1) }),
        since: BootNanos(number * 12_345),
        exe: b"/usr/bin/gcc-12".to_vec(),
        filename: b"/usr/bin/gcc-12".to_vec(),
        image: Image {
            device: 65025,
            inode: 131_072 + number % 300,
            mode: 0o100_755,
            links: 1,
            ..Image::default()
        },
        argv: format!(
            "gcc\0-O2\0-Iinclude\0-c\0src/module_{}.c\0-o\0build/{}.o\0",
            number % 500,
            number % 500
        )
        .into_bytes(),
        argv_len: 60,
        comm: b"gcc".to_vec(),
        cwd: b"/home/builder/project".to_vec(),
        credentials: Credentials {
            uid: 1000,
            euid: 1000,
            suid: 1000,
            gid: 1000,
            egid: 1000,
            ..Credentials::default()
        },
        session: 4242,
        group: tgid,
        namespaces: Namespaces {
            mnt: 4_026_531_841,
            pid: 4_026_531_836,
            net: 4_026_531_840,
            user: 4_026_531_837,
        },
        ns_tgid: tgid,
        cgroup: 5120,
        ..Process::default()
    }
}

fn flow() -> Flow {
    Flow {
        transport: Transport::Tcp,
        local: ([10, 0, 0, 5], 41_000).into(),
        remote: ([10, 0, 0, 9], 443).into(),
        outcome: Outcome::Succeeded,
    }
}

fn written(number: u64) -> FileActivity {
    let path = format!("/home/builder/project/build/{}.o", number % 500).into_bytes();
    FileActivity { action: FileAction::Write, path, new_path: None, mode: Some(0o100_644), uid: Some(1000) }
}
