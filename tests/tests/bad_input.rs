//! Bad input: each time a clear message that names the thing, nothing stored is lost, no sensor stops, and nothing is printed raw.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use watchfire_behavior::{BEHAVIORS, Stage, mentions};
use watchfire_smalldisk::SmallDisk;
use watchfire_tests::{
    Begun, Ground, Installation, alive, argument, await_numbered, eventually, free_port, obstacle, program,
    run_numbered, run_with, runs_in,
};

/// One installation at a time: two agents on a host see each other's work.
static ALONE: Mutex<()> = Mutex::new(());

const REFUSED_WITHIN: Duration = Duration::from_secs(15);
const SHOWN_WITHIN: Duration = Duration::from_secs(10);
/// The server's longest pause between two tries of a store that refused is 5 s.
const STORED_AGAIN_WITHIN: Duration = Duration::from_secs(20);
/// Room for some minutes of a busy machine's events, and filled in an instant.
const DISK: u64 = 32 << 20;
/// Clears the screen, sets the title, rings, turns the reading direction round, breaks the line, is no UTF-8.
const HOSTILE: &[u8] = b"\x1b[2J\x1b]0;owned\x07\xe2\x80\xaegnp.exe\nforged line\xff";

fn scenario(run: impl FnOnce() -> Result<()>) -> Result<()> {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    match obstacle() {
        Some(reason) => {
            eprintln!("skipped: bad input: {reason}");
            Ok(())
        }
        None => run(),
    }
}

#[test]
fn a_port_in_use_is_named() -> Result<()> {
    scenario(|| {
        let ground = Ground::new()?;
        let occupied = std::net::TcpListener::bind("127.0.0.1:0").context("occupy a port")?;
        let address = occupied.local_addr().context("read its address")?;
        let output = refused(&mut ground.begin(address)?)?;
        ensure!(output.contains(&address.to_string()) && output.contains("in use"), "{output}");
        Ok(())
    })
}

#[test]
fn a_data_directory_that_is_a_file_is_named() -> Result<()> {
    scenario(|| {
        let ground = Ground::new()?;
        fs::remove_dir(ground.data()).context("remove the folder")?;
        fs::write(ground.data(), "precious").context("put a file there")?;
        let output = refused(&mut ground.begin(free_port()?)?)?;
        ensure!(output.contains(&ground.data().display().to_string()), "{output}");
        ensure!(fs::read(ground.data()).context("read the file")? == b"precious", "the file was changed");
        Ok(())
    })
}

#[test]
fn a_second_start_on_the_same_directory_is_refused_and_harms_nothing() -> Result<()> {
    scenario(|| {
        let ground = Ground::new()?;
        let up = ground.start()?;
        let output = refused(&mut second_on(&ground)?)?;
        ensure!(output.contains(&ground.data().display().to_string()), "{output}");
        up.raises_an_alert()
    })
}

#[test]
fn a_corrupt_alert_store_is_named_and_not_thrown_away() -> Result<()> {
    scenario(|| {
        let ground = Ground::new()?;
        ground.start()?.terminate()?;
        let stores = files_that(&ground.data(), &|path| starts_with(path, b"SQLite format 3"))?;
        ensure!(!stores.is_empty(), "no SQLite file in the data directory");
        let garbage = b"this is no database, but it was someone's only copy ".repeat(200);
        for store in &stores {
            fs::write(store, &garbage).context("spoil the store")?;
        }
        let mut begun = ground.begin(free_port()?)?;
        let named = eventually(REFUSED_WITHIN, || {
            let ended = begun.ended()?.is_some() || begun.is_healthy();
            let name = |store: &PathBuf| store.file_name().map(|name| name.to_string_lossy().into_owned());
            let output = begun.output();
            Ok((ended && stores.iter().filter_map(name).any(|name| output.contains(&name))).then_some(()))
        })?;
        ensure!(named.is_some(), "the spoiled file is not named:\n{}", begun.output());
        drop(begun);
        let kept = files_that(&ground.data(), &|path| fs::read(path).is_ok_and(|bytes| bytes == garbage))?;
        ensure!(kept.len() >= stores.len(), "the spoiled bytes are gone");
        Ok(())
    })
}

const TORN: &[u8] = b"PAR1 and then the power failed";

#[test]
fn a_torn_file_in_the_lake_costs_no_other_row() -> Result<()> {
    scenario(|| {
        let ground = Ground::new()?;
        let up = ground.start()?;
        let stage = Stage::new()?;
        run_with(&stage, OsStr::new("before"))?;
        ensure!(shown(&up, stage.mark())?.is_some(), "the exec is not shown");
        up.terminate()?;
        let lake = files_that(&ground.data(), &|path| path.extension().is_some_and(|end| end == "parquet"))?;
        let partition =
            lake.first().and_then(|file| file.parent()).context("no Parquet file after an orderly stop")?;
        let torn = partition.join("torn.parquet");
        fs::write(&torn, TORN).context("put a torn file there")?;

        let up = ground.start()?;
        ensure!(shown(&up, stage.mark())?.is_some(), "the exec is not shown any more:\n{}", up.output());
        run_with(&stage, OsStr::new("after"))?;
        let after = eventually(SHOWN_WITHIN, || {
            let lines = execs(&up)?;
            Ok(lines
                .iter()
                .any(|event| argument(event, 1) == Some("after") && runs_in(event, &stage))
                .then_some(()))
        })?;
        ensure!(after.is_some(), "a new exec is not shown:\n{}", up.output());
        // Set aside under a name that says so, and kept.
        let aside = files_that(&ground.data(), &|path| path.to_string_lossy().contains("torn.parquet"))?;
        let kept = aside.iter().any(|path| fs::read(path).is_ok_and(|bytes| bytes == TORN));
        ensure!(kept, "the torn file was removed");
        Ok(())
    })
}

#[test]
fn a_broken_rule_file_is_named_and_the_others_stay() -> Result<()> {
    scenario(|| {
        let ground = Ground::new()?;
        let rules = ground.path("rules");
        fs::create_dir(&rules).context("make a folder for rules")?;
        fs::write(rules.join("broken.yml"), "title: [unclosed\n\tdetection: *")
            .context("write a broken rule")?;
        fs::write(rules.join("binary.yml"), HOSTILE).context("write a rule that is no text")?;
        fs::write(rules.join("own.yml"), OWN_RULE).context("write a rule")?;
        ground.configure_agent(&json!({ "rules": { "dirs": [rules] } }))?;
        let up = ground.start()?;
        for name in ["broken.yml", "binary.yml"] {
            let hosts = String::from_utf8_lossy(&up.said(&["hosts", "--json"])?).into_owned();
            ensure!(hosts.contains(name), "hosts --json does not name {name}: {hosts}");
            ensure!(up.output().contains(name), "the log does not name {name}:\n{}", up.output());
        }
        ensure!(
            !up.output().contains('\x1b') || !up.output().contains("\x1b[2J"),
            "a rule's bytes reached the log"
        );
        let stage = Stage::new()?;
        run_with(&stage, OsStr::new("own-rule-please"))?;
        let own = eventually(SHOWN_WITHIN, || {
            let title = json!("Own rule of the scenario");
            let alerts = up.alerts()?;
            let mine = |(text, alert): &(String, Value)| {
                mentions(stage.mark(), text) && alert["rule"]["title"] == title
            };
            Ok(alerts.iter().any(mine).then_some(()))
        })?;
        ensure!(own.is_some(), "the good rule beside the broken ones does not speak:\n{}", up.output());
        up.raises_an_alert()
    })
}

#[test]
fn a_setting_out_of_range_is_named_with_its_range() -> Result<()> {
    scenario(|| {
        let ground = Ground::new()?;
        ground.configure_agent(&json!({ "processes": { "ring_kib": 5000 } }))?;
        let mut begun = ground.begin(free_port()?)?;
        let named = eventually(REFUSED_WITHIN, || {
            begun.ended()?;
            let output = begun.output();
            Ok((output.contains("processes.ring_kib") && output.contains("power of two")).then_some(()))
        })?;
        ensure!(named.is_some(), "the setting is not named:\n{}", begun.output());
        ensure!(!begun.is_healthy(), "healthy with an agent that refused its settings");
        Ok(())
    })
}

#[test]
fn without_root_the_message_says_so() -> Result<()> {
    scenario(|| {
        const NOBODY: u32 = 65534;
        let ground = Ground::new()?;
        // Outside the tests' own folder, into which nobody may not look.
        let room =
            tempfile::Builder::new().prefix("nobody-").tempdir_in("/var/tmp").context("make a folder")?;
        fs::set_permissions(room.path(), fs::Permissions::from_mode(0o755)).context("open the folder")?;
        let copy = room.path().join("watchfire");
        fs::copy(program()?, &copy).context("copy the program")?;
        let data = room.path().join("data");
        fs::create_dir(&data).context("make the data directory")?;
        std::os::unix::fs::chown(&data, Some(NOBODY), Some(NOBODY)).context("give it to nobody")?;
        let address = free_port()?;
        let mut command = Command::new(&copy);
        command.arg("up").arg("--data-dir").arg(&data).args(["--listen", &address.to_string()]);
        command.uid(NOBODY).gid(NOBODY).current_dir(room.path()).env("HOME", &data);
        let mut begun = Begun::start(&mut command, address, data, &ground.path("output"))?;
        let named = eventually(REFUSED_WITHIN, || {
            begun.ended()?;
            Ok(begun.output().to_lowercase().contains("root").then_some(()))
        })?;
        ensure!(named.is_some(), "nothing is said of root:\n{}", begun.output());
        Ok(())
    })
}

#[test]
fn hostile_arguments_are_shown_escaped_and_kept_exactly() -> Result<()> {
    scenario(|| {
        let ground = Ground::new()?;
        let up = ground.start()?;
        let stage = Stage::new()?;
        // From a world-writable folder, so that an alert shows them too.
        let program = stage.dir().join("dropped");
        fs::copy("/bin/true", &program).context("copy a program")?;
        let mut command = Command::new(&program);
        command.arg(OsStr::from_bytes(HOSTILE)).current_dir(stage.dir()).stdin(Stdio::null());
        ensure!(command.status().context("run it")?.success(), "it failed");

        let event = eventually(SHOWN_WITHIN, || {
            let exe = program.display().to_string();
            Ok(execs(&up)?.into_iter().find(|event| event["process"]["exe"] == exe.as_str()))
        })?;
        let event = event.context("the exec is not shown")?;
        let exact = event["process"]["argv_hex"][1].as_str().context("no exact bytes of the argument")?;
        let expected: String = HOSTILE.iter().map(|byte| format!("{byte:02x}")).collect();
        ensure!(exact == expected, "{exact} is not {expected}");
        let alert = eventually(SHOWN_WITHIN, || {
            Ok(up.alerts()?.iter().any(|(text, _)| mentions(stage.mark(), text)).then_some(()))
        })?;
        ensure!(alert.is_some(), "no alert mentions it:\n{}", up.output());
        for arguments in
            [&["events", "--kind", "exec", "--since", "5m", "--limit", "100000"][..], &["alerts"], &["hosts"]]
        {
            harmless(&up, arguments)?;
            harmless(&up, &[arguments, &["--json"]].concat())?;
        }
        let table =
            String::from_utf8(up.said(&["events", "--kind", "exec", "--since", "5m", "--limit", "100000"])?)?;
        ensure!(table.contains("\\x1b[2J"), "the table does not show the argument escaped");
        ensure!(!table.lines().any(|line| line.starts_with("forged line")), "a newline broke the table");
        Ok(())
    })
}

#[test]
fn a_file_name_with_a_newline_stays_one_row() -> Result<()> {
    scenario(|| {
        let ground = Ground::new()?;
        let up = ground.start()?;
        let stage = Stage::new()?;
        let mut name = OsString::from_vec(b"first\nsecond\x1b[31m-".to_vec());
        name.push(stage.mark());
        let path = stage.dir().join(&name);
        let mut touch = Command::new("touch");
        touch.arg(&path).current_dir(stage.dir()).stdin(Stdio::null());
        ensure!(touch.status().context("run touch")?.success(), "touch failed");
        let listing = ["events", "--json", "--kind", "file_create", "--since", "5m", "--limit", "100000"];
        let expected = path.to_string_lossy().into_owned();
        let rows = eventually(SHOWN_WITHIN, || {
            let events = up.lines(&listing)?;
            let rows = events.iter().filter(|event| event["file"]["path"] == expected.as_str()).count();
            Ok((rows > 0).then_some(rows))
        })?;
        ensure!(rows == Some(1), "rows: {rows:?}:\n{}", up.output());
        let human = ["events", "--kind", "file_create", "--since", "5m", "--limit", "100000"];
        harmless(&up, &human)?;
        let table = String::from_utf8(up.said(&human)?)?;
        ensure!(
            table.contains("first\\x0asecond\\x1b[31m"),
            "the table does not show the name escaped:\n{table}"
        );
        Ok(())
    })
}

/// So many refusals in the log are some three seconds of a full disk: the pauses between the tries double from 0.1 s.
const REFUSALS: usize = 6;

#[test]
fn a_full_disk_is_named_and_waited_out_and_nothing_is_lost() -> Result<()> {
    scenario(|| {
        let ground = Ground::new()?;
        let disk = SmallDisk::mount_on(&ground.data(), DISK)?;
        let up = ground.start()?;
        let agent = up.agent_processes();
        let (early, late) = (Stage::new()?, Stage::new()?);
        run_numbered(&early, NUMBERED)?;
        add_key(&early)?;
        await_alert(&up, &early, SHOWN_WITHIN)?;
        await_numbered(&up, &early, NUMBERED, SHOWN_WITHIN)?;
        let stored = alert_ids(&up)?;

        disk.fill()?;
        run_numbered(&late, NUMBERED)?;
        add_key(&late)?;
        let full = eventually(SHOWN_WITHIN, || {
            Ok((up.output().matches("no space left").count() >= REFUSALS).then_some(()))
        })?;
        ensure!(full.is_some(), "the full disk is not named:\n{}", up.output());
        let line = up.output().lines().find(|line| line.contains("no space left")).map(str::to_owned);
        let line = line.context("the line is still there")?;
        ensure!(line.contains("ERROR") && line.contains(&ground.data().display().to_string()), "{line}");
        // It watches on and answers; what it cannot store is neither shown nor counted as stored.
        ensure!(up.is_healthy(), "not healthy on a full disk:\n{}", up.output());
        await_numbered(&up, &early, NUMBERED, Duration::ZERO)?;
        let alerts = up.alerts()?;
        ensure!(!alerts.iter().any(|(text, _)| mentions(late.mark(), text)), "stored on a full disk");
        let then = verdict(&up)?;

        disk.free()?;
        await_alert(&up, &late, STORED_AGAIN_WITHIN)?;
        await_numbered(&up, &late, NUMBERED, SHOWN_WITHIN)?;
        await_numbered(&up, &early, NUMBERED, Duration::ZERO)?;
        let now = alert_ids(&up)?;
        ensure!(stored.is_subset(&now), "alerts lost: {:?}", stored.difference(&now));
        up.raises_an_alert()?;
        let balanced = eventually(SHOWN_WITHIN, || {
            let verdict = verdict(&up)?;
            // Not the books of before: they close too.
            let fresh = verdict["time"].as_str() > then["time"].as_str();
            Ok((fresh && verdict["balanced"] == true).then_some(()))
        })?;
        ensure!(balanced.is_some(), "the books do not close: {}", verdict(&up)?);
        ensure!(alive(&agent) == agent, "a process of the agent ended:\n{}", up.output());
        ensure!(!up.output().contains("panicked"), "{}", up.output());
        Ok(())
    })
}

#[test]
fn a_stop_and_a_refused_start_on_a_full_disk_lose_nothing_stored() -> Result<()> {
    scenario(|| {
        let ground = Ground::new()?;
        let disk = SmallDisk::mount_on(&ground.data(), DISK)?;
        let up = ground.start()?;
        let (early, late) = (Stage::new()?, Stage::new()?);
        run_numbered(&early, NUMBERED)?;
        add_key(&early)?;
        await_alert(&up, &early, SHOWN_WITHIN)?;
        await_numbered(&up, &early, NUMBERED, SHOWN_WITHIN)?;
        let stored = alert_ids(&up)?;
        disk.fill()?;
        run_numbered(&late, NUMBERED)?;
        let full = eventually(SHOWN_WITHIN, || Ok(up.output().contains("no space left").then_some(())))?;
        full.with_context(|| format!("the full disk is not named:\n{}", up.output()))?;
        let (_, took) = up.terminate()?;
        ensure!(took <= Duration::from_secs(10), "took {took:?}");
        let said = fs::read_to_string(ground.path("output")).context("read what it wrote")?;
        ensure!(said.contains("archived=false"), "said to be archived on a full disk:\n{said}");

        // The stop has given some pages back.
        disk.fill()?;
        let said = refused(&mut ground.begin(free_port()?)?)?;
        ensure!(said.contains(&ground.data().display().to_string()), "{said}");
        ensure!(said.to_lowercase().contains("no space left"), "{said}");

        disk.free()?;
        let up = ground.start()?;
        await_numbered(&up, &early, NUMBERED, SHOWN_WITHIN)?;
        let now = alert_ids(&up)?;
        ensure!(stored.is_subset(&now), "alerts lost: {:?}", stored.difference(&now));
        up.raises_an_alert()
    })
}

/// Hides the kernel's types from `watchfire up` alone: a mount namespace of its own, an empty folder over the file.
const WITHOUT_BTF: &str =
    r#"if [ -d /sys/kernel/btf ]; then mount -t tmpfs none /sys/kernel/btf; fi && exec "$0" "$@""#;

#[test]
fn without_the_kernels_types_another_source_sees_execs_and_the_gaps_are_named() -> Result<()> {
    scenario(|| {
        let ground = Ground::new()?;
        let address = free_port()?;
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", WITHOUT_BTF]).arg(program()?);
        command.arg("up").arg("--data-dir").arg(ground.data()).args(["--listen", &address.to_string()]);
        let up = Begun::start(&mut command, address, ground.data(), &ground.path("output"))?.healthy()?;
        let agent = up.agent_processes();

        let sources = eventually(SHOWN_WITHIN, || {
            let sources = up.lines(&["sources", "--json"])?;
            Ok((!sources.is_empty()).then_some(sources))
        })?;
        let sources = sources.context("no sources are listed")?;
        let field = |source: &Value, name| source[name].as_str().unwrap_or_default().to_owned();
        for name in ["ebpf process", "ebpf network", "ebpf udp", "ebpf privilege"] {
            let source = sources.iter().find(|source| source["name"] == name);
            let source = source.with_context(|| format!("{name} is not listed"))?;
            ensure!(source["state"] == "unavailable", "{source}");
            ensure!(field(source, "detail").contains("no BTF (/sys/kernel/btf/vmlinux)"), "{source}");
        }
        let table = String::from_utf8(up.said(&["sources"])?)?;
        ensure!(
            table.contains("unavailable") && table.contains("BTF"),
            "the table does not say so:\n{table}"
        );
        let stands_in = |source: &&Value| {
            ["audit", "proc connector"].contains(&source["name"].as_str().unwrap_or_default())
                && source["state"] == "active"
        };
        let standing_in = sources.iter().find(stands_in).context("no other source sees processes")?;
        // Neither tells everything, and each says what.
        ensure!(
            field(standing_in, "detail").contains("not "),
            "its blind spots are not named: {standing_in}"
        );

        // Alive while the agent looks at it: these sources leave part of a process to be read from /proc.
        let stage = Stage::new()?;
        let mut command = Command::new("/bin/sleep");
        command.arg("2").current_dir(stage.dir()).stdin(Stdio::null());
        let mut sleeper = command.spawn().context("start sleep")?;
        let event =
            eventually(SHOWN_WITHIN, || Ok(execs(&up)?.into_iter().find(|event| runs_in(event, &stage))))?;
        ensure!(sleeper.wait().context("wait for sleep")?.success(), "sleep failed");
        let event = event.with_context(|| format!("the exec is not shown:\n{}", up.output()))?;
        ensure!(event["process"]["tgid"] == sleeper.id(), "{event}");
        ensure!(event["process"]["argv"] == json!(["/bin/sleep", "2"]), "{event}");
        ensure!(event["parent"]["tgid"] == std::process::id(), "{event}");
        up.raises_an_alert()?;
        ensure!(alive(&agent) == agent, "a process of the agent ended:\n{}", up.output());
        ensure!(!up.output().contains("panicked"), "{}", up.output());
        Ok(())
    })
}

/// Speaks of any program whose arguments hold one odd word.
const OWN_RULE: &str = "\
title: Own rule of the scenario
id: 6a1c2a52-5d0c-4b7e-9a52-0d1b7f2b1c11
status: experimental
logsource:
  product: linux
  category: process_creation
detection:
  selection:
    CommandLine|contains: own-rule-please
  condition: selection
level: low
";

/// It ends by itself with a status other than 0; what it wrote.
fn refused(begun: &mut Begun) -> Result<String> {
    let status = begun.wait(REFUSED_WITHIN)?;
    ensure!(!status.success(), "ended with success:\n{}", begun.output());
    Ok(begun.output())
}

/// Another `watchfire up` on the same data directory, with output of its own.
fn second_on(ground: &Ground) -> Result<Begun> {
    let address = free_port()?;
    let mut command = Command::new(program()?);
    command.arg("up").arg("--data-dir").arg(ground.data()).args(["--listen", &address.to_string()]);
    Begun::start(&mut command, address, ground.data(), &ground.path("second-output"))
}

/// Adds an ssh key in the stage, which makes an alert.
fn add_key(stage: &Stage) -> Result<()> {
    let behavior = BEHAVIORS.iter().find(|behavior| behavior.name == "ssh_authorized_keys/append");
    (behavior.context("the behaviour exists")?.attack)(stage)?;
    Ok(())
}

fn await_alert(up: &Installation, stage: &Stage, allowed: Duration) -> Result<()> {
    let seen = eventually(allowed, || {
        Ok(up.alerts()?.iter().any(|(text, _)| mentions(stage.mark(), text)).then_some(()))
    })?;
    seen.with_context(|| format!("no alert comes any more:\n{}", up.output()))
}

/// The ids of all stored alerts; an error when one is stored twice.
fn alert_ids(up: &Installation) -> Result<BTreeSet<String>> {
    let mut ids = BTreeSet::new();
    for (text, alert) in up.alerts()? {
        let id = alert["id"].as_str().with_context(|| format!("no id: {text}"))?;
        ensure!(ids.insert(id.to_owned()), "stored twice: {text}");
    }
    Ok(ids)
}

/// Whether the books close, and as of when.
fn verdict(up: &Installation) -> Result<Value> {
    up.lines(&["ledger", "--json"])?.pop().context("the ledger has a last line")
}

/// Every line a command prints is UTF-8 without control characters.
fn harmless(up: &Installation, arguments: &[&str]) -> Result<()> {
    let text =
        String::from_utf8(up.said(arguments)?).with_context(|| format!("{arguments:?} printed no UTF-8"))?;
    let raw = text.chars().find(|character| {
        (character.is_control() && !matches!(character, '\n' | '\t'))
            || ('\u{202a}'..='\u{202e}').contains(character)
    });
    ensure!(raw.is_none(), "{arguments:?} printed {raw:?} raw");
    Ok(())
}

/// Enough execs to need more than one page of a disk.
const NUMBERED: std::ops::Range<usize> = 0..20;

fn execs(up: &Installation) -> Result<Vec<Value>> {
    up.events("exec", "1h")
}

/// Waits until an exec with this mark in its working directory is shown.
fn shown(up: &Installation, mark: &str) -> Result<Option<()>> {
    eventually(SHOWN_WITHIN, || {
        let of_mark = |event: &Value| event["process"]["cwd"].as_str().is_some_and(|cwd| mentions(mark, cwd));
        Ok(execs(up)?.iter().any(of_mark).then_some(()))
    })
}

fn starts_with(path: &Path, head: &[u8]) -> bool {
    fs::read(path).is_ok_and(|bytes| bytes.starts_with(head))
}

/// All files below `folder` for which `wanted` holds.
fn files_that(folder: &Path, wanted: &dyn Fn(&Path) -> bool) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| format!("list {}", folder.display()))? {
        let entry = entry.context("list a folder")?;
        let kind = entry.file_type().context("read a file's type")?;
        if kind.is_dir() {
            found.extend(files_that(&entry.path(), wanted)?);
        } else if kind.is_file() && wanted(&entry.path()) {
            found.push(entry.path());
        }
    }
    Ok(found)
}
