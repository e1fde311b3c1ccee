//! What several detectors need to know around an event: who has spoken to the network, and who sits at the ends of a pipe.
//!
//! Only pipes that matter here are remembered: those of a shell that waits for commands, of a downloader or decoder, and
//! of a process with a connection. A pipe is known by its inode, the same at both ends.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use watchfire_event::{Body, BootNanos, Event, Kind, Outcome, Process, ProcessKey, Stdio};

use crate::detectors::programs;
use crate::memory::Expiring;

const CONNECTED: usize = 4096;
const CONNECTED_FOR: Duration = Duration::from_secs(3600);
const PIPES: usize = 2048;
const PIPES_FOR: Duration = Duration::from_secs(3600);
/// Processes remembered at one end of a pipe; more than two or three are odd.
const HOLDERS: usize = 4;
/// A process with longer arguments is not kept: nothing here that waits for commands or downloads needs them.
const KEPT_ARGV: usize = 4096;

/// What is known around an event.
pub(crate) struct Scene {
    connected: Expiring<ProcessKey, SocketAddr>,
    pipes: Expiring<u64, PipeEnds>,
}

/// Who was seen at the two ends of a pipe.
#[derive(Default)]
struct PipeEnds {
    /// Has the pipe as stdout.
    writers: Vec<Arc<Process>>,
    /// Has the pipe as stdin.
    readers: Vec<Arc<Process>>,
}

impl Scene {
    pub(crate) fn new() -> Self {
        Scene { connected: Expiring::new(CONNECTED, CONNECTED_FOR), pipes: Expiring::new(PIPES, PIPES_FOR) }
    }

    /// Takes an event in.
    pub(crate) fn note(&mut self, event: &Event) {
        let process = &event.process;
        match &event.body {
            Body::Exec => {
                if let Some(remote) = process.stdio[..2].iter().find_map(|stdio| stdio.remote()) {
                    self.connected.insert(process.key, remote, event.at);
                }
                let matters = programs::takes_commands_from_stdin(process)
                    || programs::is_downloader(process)
                    || programs::is_decoder(process)
                    || programs::is_relay(process);
                if matters {
                    self.note_pipes(process, event.at);
                }
            }
            Body::Connect(flow) if flow.outcome != Outcome::Succeeded => {}
            Body::Connect(flow) | Body::Accept(flow) | Body::UdpSend(flow) => {
                self.connected.insert(process.key, flow.remote, event.at);
                self.note_pipes(process, event.at);
            }
            _ => {}
        }
    }

    /// The peer a process spoke to last, if it spoke to one.
    pub(crate) fn connected(&self, key: ProcessKey, now: BootNanos) -> Option<SocketAddr> {
        self.connected.get(&key, now).copied()
    }

    /// Who writes into what this process reads as stdin.
    pub(crate) fn feeders<'s>(&'s self, process: &Process, now: BootNanos) -> &'s [Arc<Process>] {
        self.ends(process.stdio[0], now).map_or(&[], |ends| &ends.writers)
    }

    /// Who reads what this process writes as stdout.
    pub(crate) fn readers<'s>(&'s self, process: &Process, now: BootNanos) -> &'s [Arc<Process>] {
        self.ends(process.stdio[1], now).map_or(&[], |ends| &ends.readers)
    }

    pub(crate) fn forgotten(&self) -> u64 {
        self.connected.forgotten() + self.pipes.forgotten()
    }

    /// Whether this kind of event changes what is known.
    pub(crate) fn wants(kind: Kind) -> bool {
        matches!(kind, Kind::Exec | Kind::Connect | Kind::Accept | Kind::UdpSend)
    }

    fn ends(&self, stdio: Stdio, now: BootNanos) -> Option<&PipeEnds> {
        match stdio {
            Stdio::Pipe(inode) => self.pipes.get(&inode, now),
            _ => None,
        }
    }

    fn note_pipes(&mut self, process: &Arc<Process>, at: BootNanos) {
        if process.argv.len() > KEPT_ARGV {
            return;
        }
        for (index, stdio) in process.stdio[..2].iter().enumerate() {
            let Stdio::Pipe(inode) = *stdio else { continue };
            let mut ends = self.pipes.take(&inode, at).unwrap_or_default();
            let side = if index == 0 { &mut ends.readers } else { &mut ends.writers };
            // The same process after another exec replaces what it was before.
            side.retain(|known| known.key != process.key);
            if side.len() >= HOLDERS {
                side.remove(0);
            }
            side.push(Arc::clone(process));
            self.pipes.insert(inode, ends, at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::detectors::testing::{connect, event, process, seconds, with_stdio};

    #[test]
    fn the_two_ends_of_a_pipe_find_each_other_in_either_order() {
        let curl = with_stdio(process(2, 1, "/usr/bin/curl", &["curl", "x"]), Stdio::Tty, Stdio::Pipe(7));
        let shell = with_stdio(process(3, 1, "/bin/sh", &["sh"]), Stdio::Pipe(7), Stdio::Tty);
        let mut scene = Scene::new();
        scene.note(&event(1, shell.clone(), Body::Exec));
        scene.note(&event(2, curl.clone(), Body::Exec));
        assert_eq!(scene.feeders(&shell, seconds(2))[0].key, curl.key);
        assert_eq!(scene.readers(&curl, seconds(2))[0].key, shell.key);
        assert!(scene.feeders(&shell, seconds(2 + 3601)).is_empty());
    }

    #[test]
    fn a_process_is_at_one_end_once_and_crowds_are_cut() {
        let mut scene = Scene::new();
        for tgid in [2, 2, 3, 4, 5, 6, 7] {
            let curl = with_stdio(process(tgid, 1, "/usr/bin/curl", &["curl"]), Stdio::Tty, Stdio::Pipe(7));
            scene.note(&event(1, curl, Body::Exec));
        }
        let reader = with_stdio(process(9, 1, "/bin/sh", &["sh"]), Stdio::Pipe(7), Stdio::Tty);
        let feeders: Vec<u32> = scene.feeders(&reader, seconds(1)).iter().map(|one| one.key.tgid).collect();
        assert_eq!(feeders, [4, 5, 6, 7]);
    }

    #[test]
    fn only_a_connection_that_stood_counts() {
        let mut scene = Scene::new();
        let caller = process(2, 1, "/usr/bin/app", &["app"]);
        let refused = crate::detectors::testing::flow("10.0.0.1:1", Outcome::Refused);
        scene.note(&event(1, caller.clone(), Body::Connect(refused)));
        assert_eq!(scene.connected(caller.key, seconds(1)), None);
        scene.note(&event(2, caller.clone(), connect("10.0.0.1:2")));
        assert!(scene.connected(caller.key, seconds(2)).is_some());
    }
}
