//! External plug-ins: signed, confined, listened to within limits; those that are not signed, or misbehave, cost no one else anything.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use watchfire_tests::{Ground, Installation, eventually, obstacle};

const WITHIN: Duration = Duration::from_secs(30);
const EXAMPLE: &str = "examples/plugin-disk-space/disk_space.py";

/// A folder of plug-ins that other users may look into, and the key that signs them.
struct Plugins {
    dir: tempfile::TempDir,
    public: String,
}

impl Plugins {
    fn new() -> Result<Self> {
        // Below /var/tmp: a plug-in runs as nobody, who must reach its file.
        let dir = tempfile::tempdir_in("/var/tmp").context("make a folder")?;
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).context("open the folder")?;
        let public = agent(&["plugin", "keygen"], &[&dir.path().join("secret")])?;
        Ok(Plugins { dir, public: public.trim().to_owned() })
    }

    fn add(&self, name: &str, text: &str) -> Result<PathBuf> {
        let path = self.dir.path().join(name);
        fs::write(&path, text).context("write a plug-in")?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).context("make it executable")?;
        self.sign(name)?;
        Ok(path)
    }

    fn sign(&self, name: &str) -> Result<()> {
        let secret = self.dir.path().join("secret");
        let secret = secret.to_str().context("a folder whose name is text")?;
        let sign = ["plugin", "sign", "--plugin-version", "1", "--name", name, "--key", secret];
        agent(&sign, &[&self.dir.path().join(name)])?;
        Ok(())
    }

    fn settings(&self, documents: &Value) -> Value {
        json!({ "plugins": { "dir": self.dir.path(), "keys": [self.public], "documents": documents } })
    }
}

fn agent(words: &[&str], paths: &[&Path]) -> Result<String> {
    let mut command = Command::new(watchfire_tests::program()?);
    command.arg("agent").args(words).args(paths);
    let output = command.output().context("run the agent's command")?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.success(), "{words:?}: {said}");
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn reports(up: &Installation, app: &str) -> Result<Vec<Value>> {
    let events = up.lines(&["events", "--kind", "report", "--json"])?;
    Ok(events.into_iter().filter(|event| event["report"]["app"] == app).collect())
}

fn app(up: &Installation, name: &str) -> Result<Option<Value>> {
    let hosts = up.lines(&["hosts", "--json"])?;
    let apps = hosts.first().context("a host")?["apps"].as_array().cloned().unwrap_or_default();
    Ok(apps.into_iter().find(|app| app["app"] == name))
}

#[test]
fn a_signed_plug_in_in_python_reports_as_nobody_and_takes_other_settings_while_it_runs() -> Result<()> {
    if let Some(reason) = obstacle() {
        eprintln!("skipped: plug-ins: {reason}");
        return Ok(());
    }
    let plugins = Plugins::new()?;
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(EXAMPLE);
    plugins.add("disk-space", &fs::read_to_string(example).context("read the example")?)?;
    let ground = Ground::new()?;
    // Every file system is at least 0 % full.
    ground.configure_agent(&plugins.settings(&json!({ "disk-space": { "percent": 101, "every_s": 1 } })))?;
    let up = ground.start()?;
    let running = eventually(WITHIN, || Ok(app(&up, "disk-space")?.filter(|app| app["state"] == "running")))?;
    ensure!(running.is_some(), "not running:\n{}", up.output());
    ensure!(reports(&up, "disk-space")?.is_empty(), "nothing is 101 % full");
    let changed = plugins.settings(&json!({ "disk-space": { "percent": 0, "every_s": 1 } }));
    let file = ground.path("changed.json");
    fs::write(&file, changed.to_string()).context("write settings")?;
    let state = ground.data().join("agent");
    agent(&["config", "--state-dir", state.to_str().context("text")?, "apply"], &[&file])?;
    let told = eventually(WITHIN, || {
        let told = reports(&up, "disk-space")?;
        Ok((!told.is_empty()).then_some(told))
    })?;
    let told = told.with_context(|| format!("nothing told:\n{}", up.output()))?;
    let process = &told[0]["process"];
    ensure!(told[0]["report"]["topic"] == "nearly_full", "{}", told[0]);
    ensure!(process["credentials"]["euid"] == 65534 || process["euid"] == 65534, "not nobody: {process}");
    let tgid = process["tgid"].as_u64().context("its tgid")?;
    let status = fs::read_to_string(format!("/proc/{tgid}/status")).context("read its status")?;
    for line in ["CapEff:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2"] {
        ensure!(status.contains(line), "{line} does not hold:\n{status}");
    }
    Ok(())
}

#[test]
fn a_plug_in_that_was_changed_after_it_was_signed_is_refused_by_name_and_nothing_else_is() -> Result<()> {
    if let Some(reason) = obstacle() {
        eprintln!("skipped: plug-ins: {reason}");
        return Ok(());
    }
    let plugins = Plugins::new()?;
    let path = plugins.add("changed", "#!/bin/sh\nsleep 60\n")?;
    fs::write(&path, "#!/bin/sh\nsleep 61\n").context("change it")?;
    let ground = Ground::new()?;
    ground.configure_agent(&plugins.settings(&json!({})))?;
    let up = ground.start()?;
    let refused = eventually(WITHIN, || {
        Ok(up.output().contains("not the file that the manifest names").then_some(()))
    })?;
    ensure!(refused.is_some(), "not refused:\n{}", up.output());
    let told = eventually(WITHIN, || {
        let events = reports(&up, "agent")?;
        Ok(events.into_iter().find(|event| event["report"]["fields"]["state"] == "refused"))
    })?;
    ensure!(told.is_some(), "the refusal is no event");
    up.raises_an_alert()
}

/// Garbage, silence, a flood, a frame too long, an early end: each plug-in is ended and started again after a wait; the sensors see on.
#[test]
fn plug_ins_that_break_the_protocol_or_flood_cost_no_one_else_anything() -> Result<()> {
    if let Some(reason) = obstacle() {
        eprintln!("skipped: plug-ins: {reason}");
        return Ok(());
    }
    let plugins = Plugins::new()?;
    plugins.add("garbage", "#!/bin/sh\nexec cat /dev/urandom >&3\n")?;
    plugins.add("too-long", "#!/bin/sh\nprintf '\\377\\377\\377\\377' >&3\nsleep 60\n")?;
    plugins.add("short-lived", "#!/bin/sh\nexit 3\n")?;
    let flood = "#!/usr/bin/env python3\nimport socket, struct\nlink = socket.socket(fileno=3)\n\
        def send(frame): link.sendall(struct.pack('>I', len(frame)) + frame)\n\
        send(b'\\x82\\x01\\x02\\x08\\x01')\n\
        report = b'\\x0a\\x05flood' + b'\\x12\\x06\\x0a\\x01n\\x12\\x01v'\n\
        frame = b''.join(b'\\x0a' + bytes([len(report)]) + report for _ in range(1000))\n\
        body = len(frame)\n\
        head = b'\\x8a\\x01' + bytes([body & 0x7f | 0x80, body >> 7 & 0x7f | 0x80, body >> 14])\n\
        while True: send(head + frame)\n";
    plugins.add("flood", flood)?;
    let ground = Ground::new()?;
    let mut settings = plugins.settings(&json!({}));
    settings["limits"] = json!({ "plugin": { "events_per_s": 10, "cpu_percent": 100 } });
    ground.configure_agent(&settings)?;
    let up = ground.start()?;
    let limited =
        eventually(WITHIN, || Ok(app(&up, "flood")?.filter(|app| app["limited"].as_u64() > Some(1000))))?;
    ensure!(limited.is_some(), "the flood is not limited: {:?}\n{}", app(&up, "flood")?, up.output());
    for name in ["garbage", "too-long", "short-lived"] {
        let worker = format!("plugin-{name}");
        let ended = eventually(WITHIN, || {
            let events = reports(&up, "agent")?;
            let of_it = |event: &Value| {
                let fields = &event["report"]["fields"];
                fields["worker"] == worker.as_str() && fields["state"] == "ended"
            };
            Ok(events.into_iter().find(of_it))
        })?;
        ensure!(ended.is_some(), "{name} is not told to have ended:\n{}", up.output());
    }
    up.raises_an_alert()?;
    let balanced = eventually(WITHIN, || {
        let books = up.lines(&["ledger", "--json"])?;
        Ok(books.last().is_some_and(|verdict| verdict["balanced"] == true).then_some(()))
    })?;
    ensure!(balanced.is_some(), "the books do not close: {:?}", up.lines(&["ledger", "--json"])?);
    ensure!(!up.output().contains("panicked"), "{}", up.output());
    Ok(())
}
