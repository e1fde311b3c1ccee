//! A real ssh server on a loopback port, with host key, configuration, log and one user of the stage.
//!
//! It runs in a mount namespace of its own with an empty /run and /var/log, so that neither its privilege-separation folder
//! nor its records of failed logins (btmp) touch the host, and with lists of users of its own in the place of /etc/passwd and
//! /etc/shadow, so that a password can be guessed that opens nothing else. What it says on stderr gets the header that syslog
//! would write, and goes to the stage's auth log.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::Stdio;
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::operator::Operator;
use crate::started::{Ended, Started};
use crate::{BehaviorError, Stage};

/// How long the server may take to listen.
const START_DEADLINE: Duration = Duration::from_secs(10);
/// The password of the stage's user, and its hash (`openssl passwd -6`).
const PASSWORD: &str = "right-guess";
const HASH: &str =
    "$6$watchfire$xJy.CmzfvoaG1GEV8EjJF8.D74nKCcTZvE9ZZZxt87BEeO1AtZI5VnSjp4.xGDLt3SgwH6Ltv3OsYhVg8b9wo1";
const MONTHS: [&str; 12] =
    ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// The server; stopped when dropped.
pub(crate) struct Sshd {
    server: Option<Started>,
    logging: Option<JoinHandle<()>>,
    port: u16,
    user: String,
    log: PathBuf,
}

impl Sshd {
    /// Makes keys, starts the server, waits until it listens.
    pub(crate) fn start(stage: &Stage) -> Result<Self, BehaviorError> {
        let host_key = make_key(stage)?;
        let user = format!("user-{}", stage.mark());
        write_users(stage, &user)?;
        let port = Operator::listen()?.port();
        let config = stage.file("ssh/config", &configuration(stage, port, &host_key.to_string_lossy())?)?;
        let log = stage.auth_log();
        if let Some(folder) = log.parent().and_then(|folder| folder.strip_prefix(stage.dir()).ok()) {
            stage.folder(&folder.to_string_lossy())?;
        }
        let script = format!(
            "mount -t tmpfs tmpfs /run && mkdir -m 755 /run/sshd && mount -t tmpfs tmpfs /var/log && \
             mount --bind ssh/users /etc/passwd && mount --bind ssh/hashes /etc/shadow && exec {} -D -e -f {}",
            stage.command("sshd").get_program().to_string_lossy(),
            config.display()
        );
        let mut command = stage.command("unshare");
        command.args(["-m", "--propagation", "private", "sh", "-c", &script]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut server = stage.start_with_stdio(&mut command)?;
        let logging = write_log(&mut server, &log)?;
        let sshd = Self { server: Some(server), logging: Some(logging), port, user, log };
        sshd.await_listening()?;
        Ok(sshd)
    }

    /// Wrong passwords, one to three in one connection.
    pub(crate) fn try_wrong_passwords(&self, stage: &Stage, times: u32) -> Result<(), BehaviorError> {
        let ended = self.call(stage, "wrong-guess", times)?;
        if ended.output().contains("Permission denied") && !ended.status().success() {
            return Ok(());
        }
        Err(BehaviorError::Unexpected {
            attempt: "be denied by the ssh server",
            got: ended.output().to_owned(),
        })
    }

    /// A login with the right password, which runs one command.
    pub(crate) fn log_in(&self, stage: &Stage) -> Result<(), BehaviorError> {
        self.call(stage, PASSWORD, 1)?.success().map(drop)
    }

    /// Ends the server, so that its log is complete.
    pub(crate) fn stop(mut self, stage: &Stage) -> Result<(), BehaviorError> {
        self.end();
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let address = stage.loopback().to_string();
        let logged =
            log.lines().any(|line| line.contains("Accepted password for user-") && line.contains(&address));
        if logged {
            Ok(())
        } else {
            Err(BehaviorError::Unexpected { attempt: "find the login in the log", got: log })
        }
    }

    /// A client that calls from the stage's own loopback address and answers each question for a password in the same way.
    fn call(&self, stage: &Stage, password: &str, times: u32) -> Result<Ended, BehaviorError> {
        let askpass = stage.file("askpass", &format!("#!/bin/sh\necho {password}\n"))?;
        stage.sh("chmod 700 askpass")?;
        let (from, port) = (stage.loopback().to_string(), self.port.to_string());
        let prompts = format!("NumberOfPasswordPrompts={times}");
        let options = [
            "StrictHostKeyChecking=no",
            "UserKnownHostsFile=/dev/null",
            "ConnectTimeout=10",
            "PreferredAuthentications=password",
            "PubkeyAuthentication=no",
            &prompts,
        ];
        let mut client = stage.command("ssh");
        client.env("SSH_ASKPASS", askpass).env("SSH_ASKPASS_REQUIRE", "force").env("DISPLAY", ":0");
        client.args(["-F", "none", "-b", &from, "-p", &port]);
        client.args(options.iter().flat_map(|option| ["-o", option]));
        stage.start(client.arg(format!("{}@127.0.0.1", self.user)).arg("true"))?.wait()
    }

    fn await_listening(&self) -> Result<(), BehaviorError> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, self.port));
        let deadline = Instant::now() + START_DEADLINE;
        while Instant::now() < deadline {
            if TcpStream::connect(address).is_ok() {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let got = std::fs::read_to_string(&self.log).unwrap_or_default();
        Err(BehaviorError::Unexpected { attempt: "start an ssh server", got })
    }

    fn end(&mut self) {
        self.server = None;
        if let Some(logging) = self.logging.take() {
            logging.join().ok();
        }
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        self.end();
    }
}

fn make_key(stage: &Stage) -> Result<PathBuf, BehaviorError> {
    stage.folder("ssh")?;
    let path = stage.path("ssh/host_key");
    stage.run(stage.command("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&path))?;
    Ok(path)
}

/// The host's users (the server needs its own) and one more, who alone has a password.
fn write_users(stage: &Stage, user: &str) -> Result<(), BehaviorError> {
    let path = PathBuf::from("/etc/passwd");
    let users = std::fs::read_to_string(&path);
    let users = users.map_err(|source| BehaviorError::File { attempt: "read", path, source })?;
    stage.file("ssh/users", &format!("{users}\n{user}:x:65534:65534::/:/bin/sh\n"))?;
    stage.file("ssh/hashes", &format!("{user}:{HASH}:20000:0:99999:7:::\n"))?;
    stage.sh("chmod 600 ssh/hashes")?;
    Ok(())
}

fn configuration(stage: &Stage, port: u16, host_key: &str) -> Result<String, BehaviorError> {
    let mut text = format!(
        "Port {port}\nListenAddress 127.0.0.1\nHostKey {host_key}\nAuthorizedKeysFile none\nPidFile none\nUsePAM no\n\
         StrictModes no\nPermitRootLogin no\nPasswordAuthentication yes\nKbdInteractiveAuthentication no\n\
         PermitUserRC no\nLogLevel VERBOSE\nUseDNS no\nPrintLastLog no\nLoginGraceTime 20\n"
    );
    if penalises_sources(stage)? {
        text.push_str("PerSourcePenalties no\n");
    }
    Ok(text)
}

/// From version 9.8 on the server turns away an address after a few failures, unless told otherwise; older ones refuse to know
/// that setting.
fn penalises_sources(stage: &Stage) -> Result<bool, BehaviorError> {
    let ended = stage.run(stage.command("ssh").arg("-V"))?;
    let version =
        ended.output().trim_start_matches("OpenSSH_").split(['p', ' ', ',']).next().unwrap_or_default();
    let mut numbers = version.split('.').map(|number| number.parse::<u32>().unwrap_or(0));
    let (major, minor) = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    Ok((major, minor) >= (9, 8))
}

fn write_log(server: &mut Started, path: &PathBuf) -> Result<JoinHandle<()>, BehaviorError> {
    let lines = server.take_stderr().map(BufReader::new);
    let lines = lines
        .ok_or(BehaviorError::Unexpected { attempt: "read the ssh server's log", got: String::new() })?;
    let opened = OpenOptions::new().create(true).append(true).open(path);
    let mut log =
        opened.map_err(|source| BehaviorError::File { attempt: "open", path: path.clone(), source })?;
    let tgid = server.tgid();
    let writing = std::thread::Builder::new().name("behavior-syslog".to_owned());
    let writing = writing.spawn(move || {
        for line in lines.lines().map_while(Result::ok) {
            if append(&mut log, tgid, line.trim_end()).is_err() {
                return;
            }
        }
    });
    writing.map_err(BehaviorError::call("start a thread"))
}

/// One line as syslog writes it, in one write, so that no reader sees half of it.
fn append(log: &mut File, tgid: u32, message: &str) -> std::io::Result<()> {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let line = format!("{} {host} sshd[{tgid}]: {message}\n", syslog_time(SystemTime::now()));
    log.write_all(line.as_bytes())
}

/// `Nov  1 02:03:04`, in UTC.
fn syslog_time(at: SystemTime) -> String {
    let seconds = at.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let (month, day) = month_and_day(seconds / 86_400);
    let of_day = seconds % 86_400;
    format!("{} {day:>2} {:02}:{:02}:{:02}", MONTHS[month], of_day / 3600, of_day / 60 % 60, of_day % 60)
}

/// Month (from 0) and day (from 1) of a day counted from 1 January 1970.
fn month_and_day(mut days: u64) -> (usize, u64) {
    let mut year = 1970;
    loop {
        let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
        let lengths = [31, if leap { 29 } else { 28 }, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
        for (month, length) in lengths.into_iter().enumerate() {
            if days < length {
                return (month, days + 1);
            }
            days -= length;
        }
        year += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_read_as_syslog_writes_them() {
        let at = |seconds| syslog_time(UNIX_EPOCH + Duration::from_secs(seconds));
        assert_eq!(at(0), "Jan  1 00:00:00");
        assert_eq!(at(1_709_210_096), "Feb 29 12:34:56");
        assert_eq!(at(1_763_683_199), "Nov 20 23:59:59");
    }
}
