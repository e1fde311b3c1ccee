//! The outbox against a model of the server, with the disk's turns taken one by one: whatever happens in whatever order, the books close
//! at every step, and what is not counted as lost arrives exactly once and in order.

mod bench;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use proptest::collection::vec;
use proptest::prelude::*;
use watchfire_event::{Books, Counts, DropReason, Event, Kind, Stage};
use watchfire_spool::WhenFull;
use watchfire_wire::v1::{self, agent_frame::Body};
use watchfire_wire::{encode_alert, encode_books};

use self::bench::{Bench, Server, Worker, alert, event, stream};
use super::{SPOOL, WorkerLife, encode};

#[test]
fn many_workers_share_one_stream_and_their_numbers_grow_without_gaps() {
    let folder = tempfile::tempdir().unwrap();
    let mut server = Server::default();
    let mut bench = Bench::new(folder.path(), 1, 1 << 20, WhenFull::DropOldest, 1 << 20);
    bench.connect(&server);
    for life in 0..3 {
        bench.worker = Worker { life: WorkerLife(life), batch: 0, sent: BTreeMap::new() };
        bench.send_events(&[event(Kind::Exec, life, 5), event(Kind::Fork, life, 5)]);
        bench.send_alerts(&[alert(life * 2, 5), alert(life * 2 + 1, 5)]);
        bench.send_books();
        bench.send(&mut server, 100);
    }
    let known = &server.streams[&stream(1)];
    assert_eq!((known.last_batch, known.last_alert), (3, 6));
    let exec = known.ledger.as_ref().unwrap().get(Stage::Kernel, Kind::Exec).unwrap().clone();
    assert_eq!((exec.seen, exec.passed), (3, 3));
}

#[test]
fn a_workers_books_are_closed_by_what_came_when_it_crashed_without_them() {
    let folder = tempfile::tempdir().unwrap();
    let mut server = Server::default();
    let mut bench = Bench::new(folder.path(), 1, 1 << 20, WhenFull::DropOldest, 1 << 20);
    bench.connect(&server);
    // Of ten in the ring and three in the process table, two come out before the crash.
    let mut books = Books::default();
    *books.entry(Stage::Kernel, Kind::Exec) = Counts { seen: 14, passed: 4, held: 10, ..Counts::default() };
    *books.entry(Stage::Sensor, Kind::Exec) = Counts { seen: 4, passed: 1, held: 3, ..Counts::default() };
    for stage in [Stage::Detect, Stage::Uplink] {
        *books.entry(stage, Kind::Exec) = Counts { seen: 1, passed: 1, ..Counts::default() };
    }
    bench.send_events(&[event(Kind::Exec, 1, 5)]);
    bench.outbox.take(bench.worker.life, &encode(Body::Ledger(encode_books(&books, 1)))).unwrap();
    bench.send_events(&[event(Kind::Exec, 2, 5), event(Kind::Exec, 3, 5)]);
    bench.crash_worker();
    bench.send(&mut server, 100);
    let ledger = server.streams[&stream(1)].ledger.as_ref().unwrap();
    let counts = |stage| ledger.get(stage, Kind::Exec).unwrap().clone();
    assert_eq!(counts(Stage::Uplink).passed, 3);
    let lost =
        |counts: Counts| (counts.seen, counts.passed, counts.held, counts.dropped[&DropReason::ProcessEnded]);
    assert_eq!(lost(counts(Stage::Sensor)), (4, 3, 0, 1));
    assert_eq!(lost(counts(Stage::Kernel)), (14, 4, 0, 10));
}

#[test]
fn while_the_server_is_quick_only_alerts_touch_the_disk() {
    let folder = tempfile::tempdir().unwrap();
    let mut server = Server::default();
    let mut bench = Bench::new(folder.path(), 1, 1 << 20, WhenFull::DropOldest, 1 << 20);
    bench.connect(&server);
    for mark in 0..50 {
        bench.send_events(&[event(Kind::Exec, mark, 100)]);
        bench.send(&mut server, 10);
        bench.acknowledge(&server);
    }
    assert_eq!(bench.shelf.appended(), 0);
    bench.send_alerts(&[alert(1, 10)]);
    bench.turns();
    assert_eq!(bench.shelf.appended(), 1);
}

#[test]
fn a_short_outage_loses_nothing_and_a_long_one_keeps_what_is_worth_it() {
    let folder = tempfile::tempdir().unwrap();
    let mut server = Server::default();
    let mut bench = Bench::new(folder.path(), 1, 8 << 20, WhenFull::DropOldest, 64 << 10);
    for mark in 0..200 {
        bench.send_events(&[event(Kind::Exec, mark, 1000), event(Kind::Fork, mark, 1000)]);
        bench.wait(Duration::from_millis(100));
        bench.books_close();
    }
    bench.deliver(&mut server);
    let marks = |kind| {
        server.all_events().iter().filter(|(of, _)| *of == kind).map(|(_, mark)| *mark).collect::<Vec<_>>()
    };
    assert_eq!(marks(Kind::Exec), (0..200).collect::<Vec<_>>());
    let forks = marks(Kind::Fork);
    assert!(forks.len() > 20 && forks.len() < 100, "{} forks", forks.len());
    assert_eq!(server.lost(), [(DropReason::QueueFull, 200 - forks.len() as u64)].into());
}

#[test]
fn books_that_were_told_while_something_waited_are_told_again_when_it_is_gone() {
    let folder = tempfile::tempdir().unwrap();
    let mut server = Server::default();
    let mut bench = Bench::new(folder.path(), 1, 1 << 20, WhenFull::DropOldest, 64 << 10);
    (0..5).for_each(|mark| bench.send_events(&[event(Kind::Exec, mark, 10)]));
    bench.send_books();
    // The worker is gone: nobody will ask for books any more.
    bench.crash_worker();
    bench.wait(Duration::from_secs(20));
    bench.connect(&server);
    bench.send(&mut server, 1);
    let uplink = |server: &Server| {
        let books = server.streams[&stream(1)].ledger.clone().unwrap();
        let counts = books.get(Stage::Uplink, Kind::Exec).unwrap().clone();
        (counts.passed, counts.held)
    };
    assert_eq!(uplink(&server), (0, 5));
    bench.send(&mut server, 100);
    assert_eq!(uplink(&server), (5, 0));
}

#[test]
fn what_a_full_spool_gave_up_is_counted_and_the_rest_arrives() {
    for when_full in [WhenFull::DropOldest, WhenFull::DropNewest] {
        let folder = tempfile::tempdir().unwrap();
        let mut server = Server::default();
        let mut bench = Bench::new(folder.path(), 1, 1 << 20, when_full, 64 << 10);
        for mark in 0..400 {
            bench.send_events(&[event(Kind::Exec, mark, 8000)]);
            bench.wait(Duration::from_millis(100));
            bench.books_close();
        }
        bench.deliver(&mut server);
        let came = server.all_events().len() as u64;
        assert_eq!(server.lost(), [(DropReason::SpoolFull, 400 - came)].into(), "{when_full:?}");
        let marks: Vec<u64> = server.all_events().iter().map(|(_, mark)| *mark).collect();
        assert!(marks.is_sorted() && came > 100 && came < 140, "{when_full:?}: {came}");
        assert_eq!(marks.contains(&399), when_full == WhenFull::DropOldest);
        assert!(marks.contains(&0));
    }
}

#[test]
fn alerts_outlive_a_kill_and_so_do_the_books() {
    let folder = tempfile::tempdir().unwrap();
    let mut server = Server::default();
    let mut bench = Bench::new(folder.path(), 1, 1 << 20, WhenFull::DropOldest, 64 << 10);
    bench.connect(&server);
    bench.send_events(&[event(Kind::Exec, 1, 10), event(Kind::Fork, 1, 10)]);
    bench.send(&mut server, 100);
    bench.acknowledge(&server);
    bench.disconnect();
    bench.send_alerts(&[alert(1, 10), alert(2, 10)]);
    bench.send_events(&[event(Kind::Exec, 2, 10), event(Kind::Fork, 2, 10)]);
    bench.send_books();
    bench.wait(Duration::from_secs(6));
    // These come after the last copy and the last books: nobody will know of them.
    bench.send_events(&[event(Kind::Exec, 3, 10)]);
    bench.kill();

    let mut bench = Bench::new(folder.path(), 2, 1 << 20, WhenFull::DropOldest, 64 << 10);
    bench.send_events(&[event(Kind::Exec, 4, 10)]);
    bench.deliver(&mut server);
    assert_eq!(server.all_alerts().len(), 2);
    let of = |life| server.streams[&stream(life)].events.clone();
    assert_eq!(of(1), [(Kind::Exec, 1), (Kind::Fork, 1), (Kind::Exec, 2)]);
    assert_eq!(of(2), [(Kind::Exec, 4)]);
    // The fork was in memory alone.
    assert_eq!(server.lost(), [(DropReason::ProcessEnded, 1)].into());
}

#[test]
fn records_that_an_old_cursor_brings_back_are_recognised() {
    let folder = tempfile::tempdir().unwrap();
    let mut server = Server::default();
    let mut bench = Bench::new(folder.path(), 1, 1 << 20, WhenFull::DropOldest, 64 << 10);
    bench.send_events(&[event(Kind::Exec, 1, 10)]);
    bench.send_alerts(&[alert(1, 10)]);
    bench.wait(Duration::from_secs(6));
    let cursor = folder.path().join(SPOOL).join("cursor");
    let before = std::fs::read(&cursor).unwrap();
    bench.deliver(&mut server);
    bench.kill();
    std::fs::write(&cursor, before).unwrap();
    let mut bench = Bench::new(folder.path(), 2, 1 << 20, WhenFull::DropOldest, 64 << 10);
    assert_eq!(bench.shelf.held_records(), 2);
    bench.deliver(&mut server);
    assert_eq!((server.all_events().len(), server.all_alerts().len()), (1, 1));
    assert!(server.lost().is_empty(), "{:?}", server.lost());
}

#[test]
fn what_was_stopped_in_order_arrives_in_the_next_life() {
    let folder = tempfile::tempdir().unwrap();
    let mut server = Server::default();
    let mut bench = Bench::new(folder.path(), 1, 1 << 20, WhenFull::DropOldest, 64 << 10);
    bench.connect(&server);
    (0..10).for_each(|mark| bench.send_events(&[event(Kind::Exec, mark, 10), event(Kind::Fork, mark, 10)]));
    // Three are on their way: the server has two of them, and its acknowledgement never came.
    let stream_id = bench.stream();
    for number in 0..3 {
        let frame = bench.outbox.shared.lock().next_live(bench.now).unwrap();
        if number < 2 {
            server.take(stream_id, &frame);
        }
    }
    bench.send_books();
    bench.stop();
    let mut bench = Bench::new(folder.path(), 2, 1 << 20, WhenFull::DropOldest, 64 << 10);
    bench.deliver(&mut server);
    let events = server.streams[&stream(1)].events.clone();
    let execs: Vec<u64> =
        events.iter().filter(|(kind, _)| *kind == Kind::Exec).map(|(_, mark)| *mark).collect();
    assert_eq!((execs, events.len()), ((0..10).collect(), 12));
    assert_eq!(server.lost(), [(DropReason::ProcessEnded, 8)].into());
}

#[test]
fn the_masters_own_events_stand_in_the_books() {
    let folder = tempfile::tempdir().unwrap();
    let mut server = Server::default();
    let mut bench = Bench::new(folder.path(), 1, 1 << 20, WhenFull::DropOldest, 64 << 10);
    bench.connect(&server);
    bench.outbox.push_own_event(&event(Kind::Exec, 9, 1));
    bench.now = Instant::now() + Duration::from_secs(1);
    bench.send(&mut server, 100);
    assert_eq!(server.all_events(), [(Kind::Exec, 9)]);
    let ledger = server.streams[&stream(1)].ledger.as_ref().unwrap();
    assert_eq!(ledger.get(Stage::Detect, Kind::Exec).unwrap().passed, 1);
    assert!(ledger.get(Stage::Kernel, Kind::Exec).is_none());
}

#[test]
fn a_spool_that_cannot_be_opened_is_told_and_tried_again() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join(SPOOL), "in the way").unwrap();
    let mut bench = Bench::new(folder.path(), 1, 1 << 20, WhenFull::DropOldest, 64 << 10);
    let status = |bench: &Bench| bench.outbox.shared.lock().spool.to_wire(0);
    assert_eq!(status(&bench).state, "unavailable");
    assert!(status(&bench).detail.contains("spool"), "{}", status(&bench).detail);
    bench.send_alerts(&[alert(1, 10)]);
    std::fs::remove_file(folder.path().join(SPOOL)).unwrap();
    bench.wait(Duration::from_secs(31));
    assert_eq!((status(&bench).state.as_str(), status(&bench).records), ("open", 1));
    let mut server = Server::default();
    bench.deliver(&mut server);
    assert_eq!(server.all_alerts().len(), 1);
}

#[test]
fn a_malformed_frame_is_refused_and_the_books_name_it() {
    let folder = tempfile::tempdir().unwrap();
    let mut server = Server::default();
    let mut bench = Bench::new(folder.path(), 1, 1 << 20, WhenFull::DropOldest, 64 << 10);
    bench.connect(&server);
    bench.send_events(&[event(Kind::Exec, 1, 10)]);
    assert!(bench.outbox.take(bench.worker.life, &[0x12, 0x02, 0xff, 0xff]).is_err());
    assert!(bench.outbox.take(bench.worker.life, b"").is_err());
    // It had counted two more in the frame that was refused.
    *bench.worker.sent.entry(Kind::Exec).or_default() += 2;
    bench.send_books();
    bench.send(&mut server, 100);
    assert_eq!(server.lost(), [(DropReason::Malformed, 2)].into());
    let mut bad = encode_alert(&alert(1, 1));
    bad.tree.clear();
    let alerts = vec![bad, encode_alert(&alert(2, 1))];
    bench.outbox.take(bench.worker.life, &encode(Body::Alerts(v1::AlertBatch { alerts }))).unwrap();
    bench.send(&mut server, 100);
    assert_eq!((server.all_alerts().len(), bench.outbox.shared.lock().live.alerts_dropped), (1, 1));
}

#[derive(Debug, Clone)]
enum Step {
    Events { kinds: Vec<bool>, weight: usize },
    Alerts(usize),
    Books,
    CrashWorker,
    Connect,
    Disconnect,
    Send(usize),
    SendEarlier(usize),
    Acknowledge,
    Wait(u64),
    Stop,
    Kill,
}

fn any_step() -> impl Strategy<Value = Step> {
    let events = (vec(any::<bool>(), 1..4), 1usize..9000);
    prop_oneof![
        8 => events.prop_map(|(kinds, weight)| Step::Events { kinds, weight }),
        3 => (1usize..20_000).prop_map(Step::Alerts),
        2 => Just(Step::Books),
        1 => Just(Step::CrashWorker),
        2 => Just(Step::Connect),
        2 => Just(Step::Disconnect),
        4 => (1usize..12).prop_map(Step::Send),
        3 => (1usize..12).prop_map(Step::SendEarlier),
        3 => Just(Step::Acknowledge),
        3 => (50u64..7000).prop_map(Step::Wait),
        1 => Just(Step::Stop),
        1 => Just(Step::Kill),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn whatever_happens_the_books_close_and_what_is_not_lost_arrives_once_in_order(
        steps in vec(any_step(), 1..150), drop_newest: bool,
    ) {
        let folder = tempfile::tempdir().unwrap();
        let when_full = if drop_newest { WhenFull::DropNewest } else { WhenFull::DropOldest };
        let open = |life| Bench::new(folder.path(), life, 1 << 20, when_full, 40 << 10);
        let mut server = Server::default();
        let (mut life, mut mark) = (1, 0);
        let mut bench = open(life);
        let (mut sent, mut alerts_sent, mut killed) = (0u64, 0u64, false);
        for step in steps {
            match step {
                Step::Events { kinds, weight } => {
                    let events: Vec<Event> = kinds
                        .iter()
                        .map(|exec| {
                            mark += 1;
                            event(if *exec { Kind::Exec } else { Kind::Fork }, mark, weight)
                        })
                        .collect();
                    sent += events.len() as u64;
                    bench.send_events(&events);
                    bench.turns();
                }
                Step::Alerts(weight) => {
                    alerts_sent += 1;
                    bench.send_alerts(&[alert(alerts_sent, weight)]);
                    bench.turns();
                }
                Step::Books => bench.send_books(),
                Step::CrashWorker => bench.crash_worker(),
                Step::Connect => {
                    bench.disconnect();
                    bench.connect(&server);
                }
                Step::Disconnect => bench.disconnect(),
                Step::Send(frames) if bench.server_is_there => bench.send(&mut server, frames),
                Step::SendEarlier(frames) if bench.server_is_there => bench.send_earlier(&mut server, frames),
                Step::Acknowledge if bench.server_is_there => bench.acknowledge(&server),
                Step::Send(_) | Step::SendEarlier(_) | Step::Acknowledge => {}
                Step::Wait(millis) => bench.wait(Duration::from_millis(millis)),
                Step::Stop => {
                    bench.send_books();
                    bench.stop();
                    life += 1;
                    bench = open(life);
                }
                Step::Kill => {
                    killed = true;
                    bench.kill();
                    life += 1;
                    bench = open(life);
                }
            }
            bench.books_close();
        }
        bench.deliver(&mut server);
        let events = server.all_events();
        let marks: Vec<u64> = events.iter().map(|(_, mark)| *mark).collect();
        prop_assert!(marks.windows(2).all(|pair| pair[0] < pair[1]), "{marks:?}");
        let lost: u64 = server.lost().values().sum();
        let came = events.len() as u64;
        if killed {
            // Of what came after the last books that were written, nobody knows.
            prop_assert!(came + lost <= sent);
        } else {
            prop_assert_eq!(came + lost, sent);
        }
        for known in server.streams.values() {
            let books = known.ledger.iter().flat_map(Books::rows);
            prop_assert!(books.into_iter().all(|row| row.counts.held == 0));
        }
        let alerts = server.all_alerts();
        let unique: std::collections::BTreeSet<_> = alerts.iter().collect();
        prop_assert_eq!(unique.len(), alerts.len());
        let dropped = bench.outbox.shared.lock().live.alerts_dropped;
        prop_assert!(alerts.len() as u64 + dropped <= alerts_sent);
        if life == 1 {
            prop_assert_eq!(alerts.len() as u64 + dropped, alerts_sent);
        }
    }
}
