//! The real kernel on directories of our own. Acts are done by child processes, since this process' own are left out.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use watchfire_event::{Body, FileAction, FileActivity, What};

use super::*;

/// A temporary directory, watched.
struct Watched {
    dir: tempfile::TempDir,
    source: FanotifySource,
    seen: Vec<Sighting>,
}

/// What one process did to one path.
type Act = (FileAction, String, Option<String>, u32);

fn settings(dir: &Path) -> FileSettings {
    FileSettings {
        prefixes: vec![dir.join("w")],
        exact: Vec::new(),
        secrets: Vec::new(),
        ..FileSettings::default()
    }
}

/// Watches `w` in a new directory below `base`. Needs root: without it the test is skipped, and says so.
fn watched_below(base: &Path, change: impl FnOnce(&mut FileSettings)) -> Option<Watched> {
    let dir = tempfile::tempdir_in(base).unwrap();
    fs::create_dir(dir.path().join("w")).unwrap();
    fs::create_dir(dir.path().join("o")).unwrap();
    let mut settings = settings(dir.path());
    change(&mut settings);
    match FanotifySource::open(settings) {
        Ok(source) => Some(Watched { dir, source, seen: Vec::new() }),
        Err(FanotifyError::Refused(error)) if !rustix::process::geteuid().is_root() => {
            eprintln!("skipped: fanotify needs root: {error}");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

fn watched(change: impl FnOnce(&mut FileSettings)) -> Option<Watched> {
    watched_below(&std::env::temp_dir(), change)
}

/// The same with a kernel that offers less.
fn watched_by(features: Features) -> Option<Watched> {
    let mut watched = watched(|_| {})?;
    let settings = settings(watched.dir.path());
    watched.source = FanotifySource::start(&settings, group(features).unwrap(), features).unwrap();
    Some(watched)
}

impl Watched {
    /// Runs a shell script in the directory and gives the shell's tgid. `exec` in it keeps that tgid.
    fn act(&self, script: &str) -> u32 {
        let mut child =
            Command::new("sh").arg("-c").arg(script).current_dir(self.dir.path()).spawn().unwrap();
        let tgid = child.id();
        assert!(child.wait().unwrap().success(), "{script}");
        tgid
    }

    /// Drains until `count` sightings have come, or nothing came for a second.
    fn wait(&mut self, count: usize) -> Vec<Act> {
        let mut quiet = Instant::now();
        while self.seen.len() < count && quiet.elapsed() < Duration::from_secs(1) {
            if self.turn() > 0 {
                quiet = Instant::now();
            }
        }
        // What is too much would show here.
        self.turn();
        let taken: Vec<Sighting> = self.seen.drain(..).collect();
        taken.iter().map(|sighting| self.plain(sighting)).collect()
    }

    fn turn(&mut self) -> usize {
        let descriptors = self.source.descriptors();
        let mut polls: Vec<_> = descriptors.iter().map(|fd| PollFd::new(fd, PollFlags::IN)).collect();
        rustix::event::poll(&mut polls, Some(&Timespec { tv_sec: 0, tv_nsec: 50_000_000 })).unwrap();
        drop(polls);
        let seen = &mut self.seen;
        self.source.drain(10_000, &mut |sighting| seen.push(sighting)).unwrap()
    }

    fn plain(&self, sighting: &Sighting) -> Act {
        let What::Done(Body::File(FileActivity { action, path, new_path, .. })) = &sighting.what else {
            panic!("{sighting:?}");
        };
        let root = self.dir.path().canonicalize().unwrap();
        let relative = |path: &[u8]| {
            let whole = Path::new(std::ffi::OsStr::from_bytes(path));
            let below = whole.strip_prefix(&root).unwrap_or(whole);
            printable(below.as_os_str().as_bytes()).into_owned()
        };
        (*action, relative(path), new_path.as_deref().map(relative), sighting.actor.tgid)
    }

    fn assert_books_balance(&mut self) {
        let books = self.source.books();
        assert!(books.rows().all(|row| row.counts.balanced()), "{books:?}");
    }
}

fn one(action: FileAction, path: &str, tgid: u32) -> Act {
    (action, path.to_owned(), None, tgid)
}

fn two(action: FileAction, path: &str, new_path: &str, tgid: u32) -> Act {
    (action, path.to_owned(), Some(new_path.to_owned()), tgid)
}

fn every_kind(watched: &mut Watched) {
    let tgid = watched.act(": > w/a");
    assert_eq!(watched.wait(2), [one(FileAction::Create, "w/a", tgid), one(FileAction::Write, "w/a", tgid)]);
    let tgid = watched.act("echo more >> w/a");
    assert_eq!(watched.wait(1), [one(FileAction::Write, "w/a", tgid)]);
    let tgid = watched.act("exec chmod 4751 w/a");
    watched.turn();
    let What::Done(Body::File(file)) = &watched.seen[0].what else { panic!() };
    let mode = file.mode;
    assert_eq!((mode, watched.wait(1)), (Some(0o104_751), vec![one(FileAction::Attrib, "w/a", tgid)]));
    let tgid = watched.act("exec chown 4321 w/a");
    watched.turn();
    let What::Done(Body::File(file)) = &watched.seen[0].what else { panic!() };
    assert_eq!(file.uid, Some(4321));
    assert_eq!(watched.wait(1), [one(FileAction::Attrib, "w/a", tgid)]);
    let tgid = watched.act("exec ln w/a w/b");
    assert_eq!(watched.wait(1), [two(FileAction::Link, "w/a", "w/b", tgid)]);
    let tgid = watched.act("exec mv w/b w/c");
    assert_eq!(watched.wait(1), [two(FileAction::Rename, "w/b", "w/c", tgid)]);
    let tgid = watched.act("exec rm w/c");
    assert_eq!(watched.wait(1), [one(FileAction::Unlink, "w/c", tgid)]);
    // `o` is watched by no one, so the place there is not known.
    let tgid = watched.act(": > o/out; exec mv o/out w/in");
    assert_eq!(watched.wait(1), [two(FileAction::Rename, "", "w/in", tgid)]);
    let tgid = watched.act("exec mv w/in o/in");
    assert_eq!(watched.wait(1), [one(FileAction::Rename, "w/in", tgid)]);
    watched.assert_books_balance();
}

#[test]
fn every_kind_is_told_with_its_path_and_process() {
    for base in [std::env::temp_dir(), PathBuf::from("/dev/shm")] {
        let Some(mut watched) = watched_below(&base, |_| {}) else { return };
        every_kind(&mut watched);
    }
}

#[test]
fn every_kind_is_told_by_a_kernel_without_fan_rename_and_pidfd() {
    let Some(mut watched) = watched_by(Features { rename: false, pidfd: false }) else { return };
    every_kind(&mut watched);
    let tgid = watched.act("mkdir w/d; exec mv w/d w/e");
    assert_eq!(watched.wait(2)[1], two(FileAction::Rename, "w/d", "w/e", tgid));
    let tgid = watched.act(": > w/e/f");
    assert_eq!(watched.wait(2)[0], one(FileAction::Create, "w/e/f", tgid));
    assert!(watched.source.blind_spots().iter().any(|text| text.contains("FAN_RENAME")));
}

#[test]
fn a_file_in_nested_new_directories_is_told_once() {
    let Some(mut watched) = watched(|_| {}) else { return };
    for round in 0..20 {
        let tgid = watched.act(&format!("mkdir -p w/{round}/b/c; echo x > w/{round}/b/c/f"));
        let acts = watched.wait(5);
        for path in ["", "/b", "/b/c", "/b/c/f"] {
            let path = format!("w/{round}{path}");
            let creates = acts.iter().filter(|act| act.0 == FileAction::Create && act.1 == path).count();
            assert_eq!(creates, 1, "{path} in {acts:?}");
        }
        let written =
            acts.iter().any(|act| act.0 == FileAction::Write && act.1 == format!("w/{round}/b/c/f"));
        assert!(written, "{acts:?}");
        // Once marked, the acts below are told with their own process.
        let later = watched.act(&format!("echo y > w/{round}/b/c/g"));
        assert_eq!(watched.wait(2)[0], one(FileAction::Create, &format!("w/{round}/b/c/g"), later));
        assert_ne!(tgid, later);
    }
    watched.assert_books_balance();
}

#[test]
fn a_renamed_directory_keeps_its_marks_and_one_that_left_loses_them() {
    let Some(mut watched) = watched(|_| {}) else { return };
    watched.act("mkdir -p w/d/e");
    watched.wait(2);
    let marks = watched.source.marks();
    let tgid = watched.act("exec mv w/d w/moved");
    assert_eq!(watched.wait(1), [two(FileAction::Rename, "w/d", "w/moved", tgid)]);
    let tgid = watched.act(": > w/moved/e/f");
    assert_eq!(watched.wait(2)[0], one(FileAction::Create, "w/moved/e/f", tgid));
    assert_eq!(watched.source.marks(), marks);
    watched.act("exec mv w/moved o/away");
    assert_eq!(watched.wait(1).len(), 1);
    assert_eq!(watched.source.marks(), marks - 2);
    watched.act(": > o/away/e/g");
    assert_eq!(watched.wait(1), []);
    let tgid = watched.act("exec mv o/away w/back");
    assert_eq!(watched.wait(1), [two(FileAction::Rename, "", "w/back", tgid)]);
    let tgid = watched.act(": > w/back/e/h");
    assert_eq!(watched.wait(2)[0], one(FileAction::Create, "w/back/e/h", tgid));
    watched.act("exec rm -r w/back");
    watched.wait(10);
    watched.wait(10);
    assert_eq!(watched.source.marks(), marks - 2, "the kernel drops the marks of what is gone");
}

#[test]
fn a_name_may_hold_a_newline_and_bytes_that_are_no_utf8() {
    let Some(mut watched) = watched(|_| {}) else { return };
    let tgid = watched.act("cd w; : > \"$(printf 'a\\nb\\377')\"");
    assert_eq!(watched.wait(2)[0], one(FileAction::Create, "w/a\\x0ab\\xff", tgid));
}

#[test]
fn a_process_that_still_runs_is_told_with_its_start() {
    let Some(mut watched) = watched(|_| {}) else { return };
    let mut child = Command::new("sh");
    child.arg("-c").arg(": > w/a; read wait").stdin(Stdio::piped()).current_dir(watched.dir.path());
    let mut child = child.spawn().unwrap();
    while watched.seen.len() < 2 {
        watched.turn();
    }
    let key = ProcReader::new("/proc").key(child.id()).unwrap();
    assert_eq!(watched.seen[0].actor, Actor { tgid: key.tgid, started: Some(key.started) });
    drop(child.stdin.take());
    child.wait().unwrap();
    let open = fs::read_dir("/proc/self/fd").unwrap().flatten();
    let pidfds =
        open.filter(|fd| fs::read_link(fd.path()).is_ok_and(|link| link.ends_with("anon_inode:[pidfd]")));
    assert!(pidfds.count() < 64, "the records' descriptors are closed");
}

#[test]
fn this_process_and_what_is_excluded_or_not_listed_are_left_out() {
    let Some(mut watched) = watched(|settings| {
        let root = settings.prefixes[0].parent().unwrap().canonicalize().unwrap();
        settings.excludes = vec![root.join("w/skip"), root.join("w/*.tmp")];
        settings.exact = vec![root.join("h/*/.rc")];
    }) else {
        return;
    };
    watched.act("mkdir h h/eve w/skip");
    while watched.turn() > 0 {}
    let tgid = watched.act(": > w/skip/x; : > w/y.tmp; : > h/eve/other; : > h/eve/.rc");
    let acts = watched.wait(2);
    assert_eq!(acts[0], one(FileAction::Create, "h/eve/.rc", tgid));
    assert!(acts.iter().all(|act| act.1 == "h/eve/.rc"), "{acts:?}");
    fs::write(watched.dir.path().join("w/own"), "x").unwrap();
    assert_eq!(watched.wait(1), []);
    let books = watched.source.books();
    assert!(books.get(Stage::Kernel, Kind::FileWrite).unwrap().filtered > 0);
    watched.assert_books_balance();
}

#[test]
fn the_opening_of_a_secret_is_told_also_after_it_was_replaced() {
    let Some(mut watched) = watched(|settings| {
        let root = settings.prefixes.remove(0).parent().unwrap().canonicalize().unwrap();
        fs::write(root.join("w/shadow"), "old").unwrap();
        settings.secrets =
            vec![format!("{}/w/shadow", root.display()), format!("{}/h/*/id_*", root.display())];
    }) else {
        return;
    };
    let tgid = watched.act("exec cat w/shadow >/dev/null");
    assert_eq!(watched.wait(1), [one(FileAction::Open, "w/shadow", tgid)]);
    watched.act("echo new > w/shadow+; exec mv w/shadow+ w/shadow");
    assert_eq!(watched.wait(1).len(), 1, "the rename");
    let tgid = watched.act("exec cat w/shadow >/dev/null");
    assert_eq!(watched.wait(1), [one(FileAction::Open, "w/shadow", tgid)]);
    watched.act("mkdir -p h/eve; echo key > h/eve/id_rsa; echo key > h/eve/id_rsa.pub");
    watched.wait(4);
    let tgid = watched.act("cat h/eve/id_rsa.pub >/dev/null; exec cat h/eve/id_rsa >/dev/null");
    assert_eq!(watched.wait(1), [one(FileAction::Open, "h/eve/id_rsa", tgid)]);
}

#[test]
fn twenty_thousand_files_come_and_go_and_the_sums_close() {
    let Some(mut watched) = watched(|_| {}) else { return };
    let script =
        "i=0; while [ $i -lt 20000 ]; do : > w/f$i; i=$((i+1)); done; exec find w -name 'f*' -delete";
    let mut child = Command::new("sh").arg("-c").arg(script).current_dir(watched.dir.path()).spawn().unwrap();
    let started = Instant::now();
    while child.try_wait().unwrap().is_none() {
        watched.turn();
    }
    let took = started.elapsed();
    while watched.turn() > 0 {}
    let mut counts = HashMap::new();
    let taken: Vec<Sighting> = watched.seen.drain(..).collect();
    for act in taken.iter().map(|sighting| watched.plain(sighting)) {
        *counts.entry(act.0.kind()).or_insert(0) += 1;
        assert_eq!(act.3, child.id());
    }
    eprintln!("{took:?} {counts:?}");
    assert_eq!((counts[&Kind::FileCreate], counts[&Kind::FileUnlink]), (20_000, 20_000));
    let books = watched.source.books();
    assert_eq!(books.get(Stage::Kernel, Kind::FileCreate).unwrap().passed, 20_000);
    assert_eq!(books.get(Stage::Kernel, Kind::Loss), None);
    watched.assert_books_balance();
}

#[test]
fn an_overflow_is_counted_told_and_walked_after() {
    let Some(mut watched) = watched(|_| {}) else { return };
    watched.act("i=0; while [ $i -lt 17000 ]; do : > w/f$i; i=$((i+1)); done; mkdir w/late");
    watched.source.walked = Instant::now() - WALK_REST;
    while watched.turn() > 0 {}
    let losses = watched.seen.iter().filter(|sighting| sighting.kind() == Kind::Loss).count();
    assert_eq!(losses, 1);
    let dropped = watched.source.books().get(Stage::Kernel, Kind::Loss).unwrap().dropped.clone();
    assert_eq!(dropped[&DropReason::SourceOverflow], 1);
    assert!(watched.source.blind_spots().iter().any(|text| text.contains("overflowed 1 times")));
    watched.assert_books_balance();
    watched.seen.clear();
    let tgid = watched.act(": > w/late/x");
    assert_eq!(watched.wait(2)[0], one(FileAction::Create, "w/late/x", tgid));
}

#[test]
fn too_many_and_too_deep_directories_are_told_as_blind_spots() {
    let Some(mut watched) = watched(|settings| {
        settings.max_marks = 8;
        settings.max_depth = 1;
    }) else {
        return;
    };
    watched.act("mkdir -p w/a/b w/c w/d w/e w/f w/g w/h w/i");
    watched.wait(9);
    assert!(watched.source.marks() <= 8);
    let texts = watched.source.blind_spots().join("\n");
    assert!(texts.contains("max_marks is 8") && texts.contains("max_depth (1)"), "{texts}");
}

#[test]
fn a_file_system_mark_sees_new_directories_without_a_mark_of_their_own() {
    let Some(mut watched) =
        watched_below(Path::new("/dev/shm"), |settings| settings.mode = MarkMode::FileSystems)
    else {
        return;
    };
    let marks = watched.source.marks();
    let tgid = watched.act("mkdir w/a; mkdir w/a/b; : > w/a/b/f; exec mv w/a/b/f w/g");
    let acts = watched.wait(6);
    for expected in [one(FileAction::Create, "w/a", tgid), one(FileAction::Create, "w/a/b/f", tgid)] {
        assert_eq!(
            acts.iter().filter(|act| act.0 == expected.0 && act.1 == expected.1).count(),
            1,
            "{acts:?}"
        );
    }
    assert!(acts.contains(&two(FileAction::Rename, "w/a/b/f", "w/g", tgid)), "{acts:?}");
    assert_eq!(watched.source.marks(), marks);
    watched.act(": > outside");
    assert_eq!(watched.wait(1), []);
    watched.assert_books_balance();
}

#[test]
fn the_default_settings_are_watched_on_this_machine() {
    match FanotifySource::open(FileSettings::default()) {
        Ok(source) => {
            assert!(source.marks() > 20);
            eprintln!("{} marks\n{}", source.marks(), source.blind_spots().join("\n"));
        }
        Err(error) if !rustix::process::geteuid().is_root() => {
            eprintln!("skipped: fanotify needs root: {error}")
        }
        Err(error) => panic!("{error}"),
    }
}
