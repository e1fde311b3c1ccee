//! `watchfire up` from the release build, on a port and in a data directory of its own.

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::usage::{Family, MemoryWatch, family};
use crate::command::shown;
use crate::workspace;

/// From the start to the first good answer of `/healthz`.
const READY: Duration = Duration::from_secs(30);
/// For what a start leaves to be done: rules compiled, memory given back.
const REST: Duration = Duration::from_secs(3);
/// Between two looks at the ledger.
const LOOK: Duration = Duration::from_millis(250);
const STOP: Duration = Duration::from_secs(10);

/// A running `watchfire up`.
pub(super) struct Tower {
    child: Child,
    program: PathBuf,
    data: PathBuf,
}

impl Tower {
    /// Starts it with these settings of the agent, and waits until its sensors are attached.
    pub(super) fn start(folder: &Path, settings: &str) -> Result<Self> {
        let data = folder.join("data");
        if data.exists() {
            fs::remove_dir_all(&data).with_context(|| format!("remove {}", data.display()))?;
        }
        fs::DirBuilder::new()
            .mode(0o700)
            .create(&data)
            .with_context(|| format!("create {}", data.display()))?;
        let config = data.join("agent.json");
        fs::write(&config, settings).with_context(|| format!("write {}", config.display()))?;
        let log = fs::File::create(folder.join("up.log")).context("create up.log")?;
        let program = program();
        let address = free_address()?;
        let mut command = Command::new(&program);
        command.arg("up").arg("--data-dir").arg(&data).arg("--listen").arg(address.to_string());
        command.stdin(Stdio::null()).stdout(log.try_clone().context("clone a file")?).stderr(log);
        let child = command.spawn().with_context(|| format!("start {}", shown(&command)))?;
        let mut tower = Tower { child, program, data };
        let deadline = Instant::now() + READY;
        while !healthy(address) {
            if let Some(status) = tower.child.try_wait().context("wait for watchfire")? {
                bail!("{status}: {}; see {}", shown(&command), folder.join("up.log").display());
            }
            if Instant::now() > deadline {
                bail!(
                    "not healthy after {READY:?}: {}; see {}",
                    shown(&command),
                    folder.join("up.log").display()
                );
            }
            thread::sleep(Duration::from_millis(50));
        }
        Ok(tower)
    }

    /// What its processes take, once the start is over.
    pub(super) fn settled_usage(&self) -> Result<Family> {
        thread::sleep(REST);
        self.usage()
    }

    /// What its processes take now.
    pub(super) fn usage(&self) -> Result<Family> {
        let family = family(self.child.id());
        if family.is_empty() {
            bail!("watchfire is gone");
        }
        Ok(family)
    }

    /// Begins to look at the memory of its processes.
    pub(super) fn watch_memory(&self) -> MemoryWatch {
        MemoryWatch::start(family(self.child.id()).into_keys().collect())
    }

    /// Waits until every exec that the kernel has seen by now is in the log or in the books as dropped, and the books close;
    /// whether that came in time.
    pub(super) fn wait_until_stored(&self, patience: Duration) -> Result<bool> {
        let deadline = Instant::now() + patience;
        let seen = self
            .fresh_books(deadline)?
            .iter()
            .filter(|row| is_exec(row))
            .filter_map(|row| row["seen"].as_u64())
            .max();
        let seen = seen.context("the ledger has no line for exec")?;
        loop {
            let ledger = self.ledger()?;
            let balanced = ledger.iter().any(|row| row["balanced"] == true);
            let ended: u64 = ledger.iter().filter(|row| is_exec(row)).map(ended_at).sum();
            if balanced && ended >= seen {
                return Ok(true);
            }
            if Instant::now() > deadline {
                return Ok(false);
            }
            thread::sleep(LOOK);
        }
    }

    /// Books of which every part was written after this call: the second that are newer than those which are there now.
    fn fresh_books(&self, deadline: Instant) -> Result<Vec<Value>> {
        let mut newer = 0;
        let mut last = written(&self.ledger()?);
        loop {
            let ledger = self.ledger()?;
            let time = written(&ledger);
            if time != last {
                newer += 1;
                last = time;
            }
            if newer == 2 {
                return Ok(ledger);
            }
            if Instant::now() > deadline {
                bail!("no new books came from the agent");
            }
            thread::sleep(LOOK);
        }
    }

    /// What was dropped, by stage, kind and reason.
    pub(super) fn dropped(&self) -> Result<BTreeMap<String, u64>> {
        let mut dropped = BTreeMap::new();
        for row in self.ledger()? {
            let place =
                format!("{} {}", row["stage"].as_str().unwrap_or("?"), row["kind"].as_str().unwrap_or("?"));
            for (reason, count) in row["dropped"].as_object().into_iter().flatten() {
                *dropped.entry(format!("{place} {reason}")).or_default() += count.as_u64().unwrap_or(0);
            }
        }
        dropped.retain(|_, count| *count > 0);
        Ok(dropped)
    }

    /// Execs that the kernel's side has counted.
    pub(super) fn seen_execs(&self) -> Result<u64> {
        let of_kernel = |row: &&Value| is_exec(row) && row["stage"] == "kernel";
        Ok(self.ledger()?.iter().find(of_kernel).and_then(|row| row["seen"].as_u64()).unwrap_or(0))
    }

    /// Whether sensors are in the kernel.
    pub(super) fn attached(&self) -> Result<bool> {
        let mut attached = false;
        self.each_row(&["hosts", "--json"], |host| attached |= host["sensors_attached"] == true)?;
        Ok(attached)
    }

    fn ledger(&self) -> Result<Vec<Value>> {
        let mut rows = Vec::new();
        self.each_row(&["ledger", "--json"], |row| rows.push(row))?;
        Ok(rows)
    }

    /// Calls back with the arguments of every stored exec.
    pub(super) fn each_exec(&self, mut visit: impl FnMut(&[&str])) -> Result<()> {
        let args = ["events", "--json", "--kind", "exec", "--since", "1h", "--limit", "1000000"];
        self.each_row(&args, |row| {
            let argv = row["process"]["argv"].as_array().map(Vec::as_slice).unwrap_or_default();
            visit(&argv.iter().filter_map(Value::as_str).collect::<Vec<_>>());
        })
    }

    /// Calls back with every line that a command of `watchfire` prints.
    pub(super) fn each_row(&self, args: &[&str], mut visit: impl FnMut(Value)) -> Result<()> {
        let mut command = Command::new(&self.program);
        command.args(args).arg("--data-dir").arg(&self.data).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("start {}", shown(&command)))?;
        for line in BufReader::new(child.stdout.take().context("it has an output")?).lines() {
            let line = line.with_context(|| format!("read from {}", shown(&command)))?;
            visit(
                serde_json::from_str(&line)
                    .with_context(|| format!("{} printed {line:?}", shown(&command)))?,
            );
        }
        let status = child.wait().with_context(|| format!("wait for {}", shown(&command)))?;
        if !status.success() {
            bail!("{status}: {}", shown(&command));
        }
        Ok(())
    }

    /// Ends it in order.
    pub(super) fn stop(mut self) -> Result<()> {
        self.terminate()?;
        let deadline = Instant::now() + STOP;
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait().context("wait for watchfire")? {
                return if status.success() {
                    Ok(())
                } else {
                    Err(anyhow::anyhow!("watchfire up ended with {status}"))
                };
            }
            thread::sleep(Duration::from_millis(20));
        }
        bail!("watchfire up did not end in {STOP:?} after SIGTERM")
    }

    fn terminate(&self) -> Result<()> {
        let pid =
            i32::try_from(self.child.id()).ok().and_then(rustix::process::Pid::from_raw).context("a pid")?;
        rustix::process::kill_process(pid, rustix::process::Signal::TERM)
            .context("send SIGTERM to watchfire up")
    }
}

impl Drop for Tower {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) && self.terminate().is_ok() {
            thread::sleep(Duration::from_secs(2));
            if matches!(self.child.try_wait(), Ok(None)) && self.child.kill().is_ok() {
                drop(self.child.wait());
            }
        }
    }
}

/// The program under test: `WATCHFIRE_BIN`, or the release build.
pub(super) fn program() -> PathBuf {
    env::var_os("WATCHFIRE_BIN").map_or_else(|| workspace::target().join("release/watchfire"), PathBuf::from)
}

/// When the oldest part of the books was written.
fn written(ledger: &[Value]) -> Option<String> {
    ledger.iter().find_map(|row| row["time"].as_str().map(str::to_owned))
}

fn is_exec(row: &Value) -> bool {
    row["kind"] == "exec"
}

/// How many events went no further than this line's stage: what the log took is durable, and no other stage keeps.
fn ended_at(row: &Value) -> u64 {
    let count = |value: &Value| value.as_u64().unwrap_or(0);
    match row["stage"].as_str() {
        Some("log") => count(&row["seen"]),
        Some("lake") | None => 0,
        Some(_) => {
            let dropped = row["dropped"].as_object().into_iter().flatten().map(|(_, number)| count(number));
            count(&row["filtered"]) + dropped.sum::<u64>()
        }
    }
}

fn free_address() -> Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").context("find a free port")?;
    listener.local_addr().context("the address of a listener")
}

/// Whether `/healthz` answers 200.
fn healthy(address: SocketAddr) -> bool {
    let answer = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1))?;
        stream.set_read_timeout(Some(Duration::from_secs(2)))?;
        write!(stream, "GET /healthz HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
        let mut head = [0; 12];
        stream.read_exact(&mut head)?;
        Ok(String::from_utf8_lossy(&head).into_owned())
    };
    answer().is_ok_and(|head| head == "HTTP/1.1 200")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exec_ends_in_the_log_or_where_it_is_dropped() {
        let row = |stage: &str| serde_json::json!({ "stage": stage, "kind": "exec", "seen": 10, "filtered": 1, "held": 2, "dropped": { "queue_full": 3 } });
        assert!(is_exec(&row("log")));
        assert_eq!([ended_at(&row("kernel")), ended_at(&row("log")), ended_at(&row("lake"))], [4, 10, 0]);
    }
}
