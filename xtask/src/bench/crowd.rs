//! A crowd of sockets and descriptors: helper processes that open what they are told, and hold it until they are let go.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::command::shown;

/// For the program itself, and what it opens besides.
const SPARE: u64 = 32;
/// One helper holds so many connections at most, whatever its limit: ephemeral ports to one address are some 28,000.
const MOST_CONNECTIONS: u64 = 9_900;
/// A helper that has not opened all by then holds what it has.
const OPEN_WITHIN: Duration = Duration::from_secs(120);

/// One helper, a process of its own: `cargo xtask holder`.
#[derive(Args)]
pub(crate) struct Holder {
    /// TCP connections to itself: two sockets each
    #[arg(long, default_value_t = 0)]
    connections: u64,
    /// Descriptors of a file
    #[arg(long, default_value_t = 0)]
    files: u64,
}

impl Holder {
    /// Opens as much of that as the machine allows, says how much, and holds it until standard input ends. The helper of files listens
    /// with the last of its descriptors, that of connections with the first.
    pub(crate) fn run(&self) -> Result<()> {
        let limit = raise_limit(self.files.max(2 * self.connections) + SPARE);
        let deadline = Instant::now() + OPEN_WITHIN;
        let mut files = Vec::new();
        let null = File::open("/dev/null").context("open /dev/null")?;
        while (files.len() as u64) < self.files.min(limit.saturating_sub(SPARE)) && Instant::now() < deadline
        {
            files.push(null.try_clone().context("duplicate a descriptor")?);
        }
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("listen")?;
        let address = listener.local_addr().context("the listener's address")?;
        let mut sockets = Vec::new();
        let connections = self.connections.min(limit.saturating_sub(SPARE) / 2);
        while (sockets.len() as u64) < 2 * connections && Instant::now() < deadline {
            sockets.push(TcpStream::connect(address).context("connect")?);
            sockets.push(listener.accept().context("accept")?.0);
        }
        println!("{} {} {}", sockets.len(), files.len(), address.port());
        let mut end = Vec::new();
        std::io::stdin().read_to_end(&mut end).context("wait to be let go")?;
        Ok(())
    }
}

/// As many descriptors as wanted, or as there may be.
fn raise_limit(wanted: u64) -> u64 {
    let now = getrlimit(Resource::Nofile);
    let most = Rlimit { current: Some(wanted), maximum: Some(now.maximum.unwrap_or(wanted).max(wanted)) };
    if setrlimit(Resource::Nofile, most).is_err() {
        let allowed = Rlimit { current: now.maximum, maximum: now.maximum };
        // Then the limit is what it was.
        if let Err(error) = setrlimit(Resource::Nofile, allowed) {
            eprintln!("limit of descriptors: {error}");
        }
    }
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// The helpers, and what they hold. They end when this is dropped, or its process dies.
pub(super) struct Crowd {
    holders: Vec<Held>,
}

/// One helper.
struct Held {
    child: Child,
    output: BufReader<ChildStdout>,
    sockets: u64,
    files: u64,
    port: u16,
}

impl Crowd {
    /// So many sockets over all helpers and so many descriptors in the last, or as many as the machine allows.
    pub(super) fn gather(sockets: u64, files: u64) -> Result<Self> {
        let limit = getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX);
        let each = (limit.saturating_sub(SPARE) / 2).clamp(1, MOST_CONNECTIONS);
        let mut crowd = Crowd { holders: Vec::new() };
        let mut connections = sockets / 2;
        while connections > 0 {
            let share = connections.min(each);
            connections -= share;
            // One after the other: the machine has other things to do.
            crowd.add(&["--connections", &share.to_string()])?;
        }
        crowd.add(&["--files", &files.to_string()])?;
        Ok(crowd)
    }

    fn add(&mut self, args: &[&str]) -> Result<()> {
        let mut command = Command::new("/proc/self/exe");
        command.arg("holder").args(args).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("start {}", shown(&command)))?;
        let output = BufReader::new(child.stdout.take().context("it has an output")?);
        self.holders.push(Held { child, output, sockets: 0, files: 0, port: 0 });
        let held = self.holders.last_mut().context("the one just started")?;
        let mut line = String::new();
        held.output.read_line(&mut line).context("hear of a helper")?;
        let mut words = line.split_whitespace().map(str::parse::<u64>);
        let (Some(Ok(sockets)), Some(Ok(files)), Some(Ok(port))) = (words.next(), words.next(), words.next())
        else {
            bail!("{} said {line:?}", shown(&command));
        };
        (held.sockets, held.files, held.port) = (sockets, files, u16::try_from(port)?);
        eprintln!("{}: {sockets} sockets, {files} files", shown(&command));
        Ok(())
    }

    /// Connected sockets, of all helpers.
    pub(super) fn sockets(&self) -> u64 {
        self.holders.iter().map(|held| held.sockets).sum()
    }

    /// The descriptors of the helper that has most files.
    pub(super) fn files(&self) -> u64 {
        self.holders.iter().map(|held| held.files).max().unwrap_or(0)
    }

    /// By port: the process that listens there.
    pub(super) fn listeners(&self) -> impl Iterator<Item = (u16, u32)> {
        self.holders.iter().map(|held| (held.port, held.child.id()))
    }

    pub(super) fn helpers(&self) -> usize {
        self.holders.len()
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        for held in &mut self.holders {
            if let Some(mut input) = held.child.stdin.take()
                && let Err(error) = input.flush()
            {
                eprintln!("a helper: {error}");
            }
        }
        for held in &mut self.holders {
            if let Err(error) = held.child.wait() {
                eprintln!("a helper: {error}");
            }
        }
    }
}
