//! One virtual machine: boots, runs the payload, powers off. The CPU is emulated, so that it runs wherever tests run.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::debian::{Archive, Kernel};
use super::initramfs::{BEGIN, END};
use crate::command::shown;

/// Linux security modules, `bpf` among them, as distributions order them.
const COMMAND_LINE: &str = "console=ttyS0 quiet panic=-1 rdinit=/init lsm=landlock,lockdown,yama,bpf audit=1";

/// A machine about to boot.
pub(super) struct Guest<'a> {
    pub(super) archive: &'a Archive,
    pub(super) kernel: &'a Kernel,
    pub(super) initrd: &'a Path,
    pub(super) minutes: u64,
}

/// What the payload printed on one kernel.
pub(super) struct Transcript {
    pub(super) series: String,
    pub(super) release: String,
    pub(super) lines: Vec<String>,
    /// `None` when the machine stopped before the payload ended.
    status: Option<i32>,
}

impl Guest<'_> {
    /// Runs to the end, or until the deadline.
    pub(super) fn run(&self) -> Result<Transcript> {
        let mut command = self.command();
        let mut child = command.spawn().with_context(|| format!("start {}", shown(&command)))?;
        let console = child.stdout.take().context("the guest has a console")?;
        let (sender, lines) = mpsc::sync_channel(1024);
        let reader = thread::spawn(move || {
            for line in BufReader::new(console).split(b'\n').map_while(Result::ok) {
                if sender.send(String::from_utf8_lossy(&line).trim_end().to_owned()).is_err() {
                    return;
                }
            }
        });
        let outcome = self.listen(&lines);
        // It has ended by itself, or it never will.
        stop(&mut child)?;
        drop(lines);
        if reader.join().is_err() {
            bail!("the reader of the guest's console panicked");
        }
        outcome
    }

    fn listen(&self, lines: &mpsc::Receiver<String>) -> Result<Transcript> {
        let deadline = Instant::now() + Duration::from_secs(self.minutes * 60);
        let mut transcript = Transcript {
            series: self.kernel.series.clone(),
            release: self.kernel.release.clone(),
            lines: Vec::new(),
            status: None,
        };
        let mut begun = false;
        loop {
            match lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) if line.contains(BEGIN) => begun = true,
                Ok(line) if line.contains(END) => {
                    transcript.status = line.rsplit(' ').next().and_then(|status| status.parse().ok());
                }
                Ok(line) => {
                    println!("  [{}] {line}", self.kernel.series);
                    if begun && transcript.status.is_none() {
                        transcript.lines.push(line);
                    }
                }
                Err(mpsc::RecvTimeoutError::Disconnected) => return Ok(transcript),
                Err(mpsc::RecvTimeoutError::Timeout) => {
                    bail!("{} did not end in {} min", self.kernel.release, self.minutes)
                }
            }
        }
    }

    fn command(&self) -> Command {
        let mut command = Command::new(self.archive.qemu());
        command.env("LD_LIBRARY_PATH", self.archive.library_path());
        // Never kvm: where it is offered inside another virtual machine it may hang.
        command.args(["-machine", "accel=tcg", "-cpu", "max", "-m", "1500", "-smp", "2"]);
        command.args(["-nodefaults", "-display", "none", "-serial", "stdio", "-no-reboot"]);
        for folder in self.archive.firmware() {
            command.arg("-L").arg(folder);
        }
        command.arg("-kernel").arg(&self.kernel.image).arg("-initrd").arg(self.initrd);
        command.args(["-append", COMMAND_LINE]);
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        command
    }
}

fn stop(child: &mut Child) -> Result<()> {
    // Powering off takes the emulator a moment after the console has closed.
    for _ in 0..50 {
        if child.try_wait().context("wait for qemu")?.is_some() {
            return Ok(());
        }
        thread::sleep(Duration::from_millis(100));
    }
    child.kill().context("end qemu")?;
    child.wait().context("wait for qemu").map(|_| ())
}

impl Transcript {
    /// The payload's last line: its sums.
    pub(super) fn sums(&self) -> String {
        let sums = self.lines.iter().rev().find(|line| line.contains(" passed") || line.contains(" failed"));
        sums.cloned().unwrap_or_default()
    }

    /// Why this run is no success, if so.
    pub(super) fn complaint(&self) -> Option<String> {
        match self.status {
            Some(0) => None,
            Some(status) => Some(format!("the payload ended with status {status}: {}", self.sums())),
            None => Some("the guest stopped before the payload ended".to_owned()),
        }
    }
}
