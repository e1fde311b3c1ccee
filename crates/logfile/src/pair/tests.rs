use watchfire_smalldisk::SmallDisk;

use super::*;

const CAP: u64 = 64 << 10;

fn pair(path: &Path) -> Pair {
    Pair::open(path, CAP, Instant::now()).unwrap()
}

fn line(number: usize) -> Vec<u8> {
    format!("{number:08} {}\n", "x".repeat(number % 500)).into_bytes()
}

fn text(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

fn size(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |metadata| metadata.len())
}

/// Numbers of the lines in both files, oldest first.
fn numbers(pair: &Pair) -> Vec<usize> {
    let both = text(&pair.older) + &text(&pair.path);
    both.lines().filter_map(|line| line.get(..8)?.parse().ok()).collect()
}

/// They follow each other without a gap, and the last is there.
fn assert_newest(numbers: &[usize], last: usize) {
    assert!(numbers.is_sorted_by(|a, b| a + 1 == *b), "{numbers:?}");
    assert_eq!(numbers.last(), Some(&last));
}

#[test]
fn both_files_together_never_pass_twice_the_cap_and_hold_the_newest_lines() {
    let dir = tempfile::tempdir().unwrap();
    let mut pair = pair(&dir.path().join("agent.log"));
    for number in 0..5000 {
        pair.append(&line(number), Instant::now()).unwrap();
        assert!(size(&pair.path) <= CAP && size(&pair.older) <= CAP);
    }
    let numbers = numbers(&pair);
    assert_newest(&numbers, 4999);
    assert!(size(&pair.older) > CAP - 600, "a file is full before it is put aside");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
}

#[test]
fn files_are_for_the_owner_alone_also_when_they_were_not_before() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("agent.log");
    let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o7777;
    drop(pair(&path));
    assert_eq!(mode(&path), 0o600);
    let older = dir.path().join("agent.log.1");
    for file in [&path, &older] {
        fs::write(file, "old\n").unwrap();
        fs::set_permissions(file, fs::Permissions::from_mode(0o644)).unwrap();
    }
    drop(pair(&path));
    assert_eq!((mode(&path), mode(&older)), (0o600, 0o600));
}

#[test]
fn a_file_that_was_there_is_continued_after_the_torn_line_it_ends_with() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("agent.log");
    fs::write(&path, "whole\ntor").unwrap();
    pair(&path).append(b"new\n", Instant::now()).unwrap();
    pair(&path).append(b"newer\n", Instant::now()).unwrap();
    assert_eq!(text(&path), "whole\ntor\nnew\nnewer\n");
}

#[test]
fn a_torn_line_at_the_very_cap_does_not_pass_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("agent.log");
    let cap = usize::try_from(CAP).unwrap();
    fs::write(&path, "x".repeat(cap - 4)).unwrap();
    pair(&path).append(b"new\n", Instant::now()).unwrap();
    assert_eq!(text(&path), "new\n");
    assert_eq!(size(&dir.path().join("agent.log.1")), CAP - 4);
}

#[test]
fn files_from_a_time_with_a_larger_cap_are_cut_to_their_newest_lines() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("agent.log");
    let older = dir.path().join("agent.log.1");
    let whole: Vec<u8> = (0..5000).flat_map(line).collect();
    let half = whole.len() / 2;
    let middle = half + whole[half..].iter().position(|byte| *byte == b'\n').unwrap() + 1;
    fs::write(&older, &whole[..middle]).unwrap();
    fs::write(&path, &whole[middle..]).unwrap();
    let mut pair = pair(&path);
    for file in [&path, &older] {
        assert!((CAP - 600..=CAP).contains(&size(file)), "{}", size(file));
        assert!(text(file).starts_with("0000"), "the first line is whole");
    }
    assert!(whole.ends_with(text(&path).as_bytes()) && whole[..middle].ends_with(text(&older).as_bytes()));
    pair.append(&line(5000), Instant::now()).unwrap();
    assert_newest(&numbers(&pair), 5000);
}

#[test]
fn a_directory_that_vanishes_is_made_again_with_the_next_line() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log/agent.log");
    let mut pair = pair(&path);
    pair.append(b"one\n", Instant::now()).unwrap();
    fs::remove_dir_all(dir.path().join("log")).unwrap();
    pair.append(b"two\n", Instant::now()).unwrap();
    assert_eq!(text(&path), "two\n");
}

#[test]
fn lines_that_cannot_be_kept_are_counted_and_told_when_the_place_is_back() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log");
    let path = log.join("agent.log");
    let mut pair = pair(&path);
    // A file where the directory was: not even root can write below it.
    fs::remove_dir_all(&log).unwrap();
    fs::write(&log, "in the way").unwrap();
    let now = Instant::now();
    for _ in 0..7 {
        pair.append(b"lost\n", now).unwrap_err();
    }
    fs::remove_file(&log).unwrap();
    pair.append(b"lost: tried again only once a second\n", now).unwrap_err();
    pair.append(b"kept\n", now + LOOK).unwrap();
    let text = text(&path);
    assert!(text.contains(" err watchfire_logfile::pair: log lines were lost failed=8\nkept\n"), "{text}");
    assert_eq!(text.lines().count(), 2);
}

#[test]
fn a_file_that_someone_else_put_aside_is_begun_anew() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("agent.log");
    let now = Instant::now();
    let mut pair = Pair::open(&path, CAP, now).unwrap();
    pair.append(b"one\n", now).unwrap();
    fs::rename(&path, dir.path().join("agent.log-20261126")).unwrap();
    pair.append(b"two\n", now + LOOK).unwrap();
    assert_eq!(text(&path), "two\n");
    pair.append(b"three\n", now + LOOK).unwrap();
    File::options().write(true).open(&path).unwrap().set_len(0).unwrap();
    pair.append(b"four\n", now + LOOK).unwrap();
    assert_eq!(text(&path), "four\n");
}

#[test]
fn a_rotation_that_fails_costs_lines_and_never_the_bound() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("agent.log");
    let mut pair = pair(&path);
    fs::create_dir_all(dir.path().join("agent.log.1/in the way")).unwrap();
    let kept = (0..5000).filter(|number| pair.append(&line(*number), Instant::now()).is_ok()).count();
    assert!(kept < 5000 && size(&path) <= CAP);
    fs::remove_dir_all(dir.path().join("agent.log.1")).unwrap();
    pair.append(&line(5000), Instant::now()).unwrap();
    // Short lines still fit where a long one did not, so there may be several tellings.
    let both = text(&pair.older) + &text(&path);
    let told = both.split("log lines were lost failed=").skip(1);
    let told = told.map(|rest| rest.lines().next().unwrap().parse::<usize>().unwrap());
    assert_eq!(told.sum::<usize>(), 5000 - kept);
    assert!(both.contains("\n00005000 "));
}

#[test]
fn what_is_no_regular_file_is_refused_and_nobody_waits_for_a_reader() {
    let dir = tempfile::tempdir().unwrap();
    let refused = |name: &str| {
        let error = Pair::open(&dir.path().join(name), CAP, Instant::now()).unwrap_err();
        assert!(matches!(&error, LogError::Open { path, .. } if path.ends_with(name)), "{error:?}");
    };
    let fifo = dir.path().join("fifo");
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, Mode::RWXU, 0).unwrap();
    refused("fifo");
    fs::write(dir.path().join("target"), "").unwrap();
    std::os::unix::fs::symlink("target", dir.path().join("link")).unwrap();
    refused("link");
    fs::create_dir(dir.path().join("directory")).unwrap();
    refused("directory");
    let below = Pair::open(&dir.path().join("target/agent.log"), CAP, Instant::now()).unwrap_err();
    assert!(below.to_string().contains("target"), "{below}");
    let missing = Pair::open(&dir.path().join("no/such/agent.log"), CAP, Instant::now()).unwrap_err();
    assert!(matches!(missing, LogError::Open { path, .. } if path.ends_with("no/such")));
}

#[test]
fn a_full_disk_costs_lines_tears_none_into_another_and_is_told_when_there_is_room() {
    let root = tempfile::tempdir().unwrap();
    let _disk = match SmallDisk::mount_privately(root.path(), 48 << 10) {
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            eprintln!("skipped: a disk of its own needs root: {error}");
            return;
        }
        other => other.unwrap(),
    };
    let root = root.path();
    let ballast = root.join("ballast");
    fs::write(&ballast, [0; 16 << 10]).unwrap();
    let mut pair = pair(&root.join("agent.log"));
    let results: Vec<bool> =
        (0..1000).map(|number| pair.append(&line(number), Instant::now()).is_ok()).collect();
    let kept = results.iter().filter(|kept| **kept).count();
    assert!((10..900).contains(&kept), "{kept} kept");
    fs::remove_file(ballast).unwrap();
    pair.append(&line(1000), Instant::now()).unwrap();
    let text = text(&pair.path);
    assert!(size(&pair.older) == 0, "the cap was not reached");
    for (number, _) in results.iter().enumerate().filter(|(_, kept)| **kept) {
        assert!(text.contains(std::str::from_utf8(&line(number)).unwrap()), "line {number}");
    }
    let told = format!("log lines were lost failed={}\n00001000 ", 1000 - kept);
    assert!(text.contains(&told), "{told} in {text}");
    // Each line begins a line: what was written in part stands alone.
    assert!(text.lines().all(|line| line.starts_with('0') || line.starts_with("20")), "{text}");
    assert!(text.lines().any(|line| line.starts_with("20") && line.contains(" err ")), "{text}");
}
