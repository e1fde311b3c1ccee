//! What a rule cannot say: things that need a memory of other processes.
//!
//! Each detector is a file of its own with bounded state. Before they are asked, `scene.rs` has taken the event in: who has
//! a network connection, which pipe leads from whom to whom.

mod decode_and_execute;
mod download_and_execute;
mod exec_dropped_file;
mod port_scan;
mod programs;
mod reverse_shell_pipe;
mod scene;
mod ssh_brute_force;

use std::sync::Arc;

use watchfire_event::{Event, Level, MatchedField, Process, ProcessKey, printable_argv};
use watchfire_rule::{KindSet, bounded_value};

use crate::lineage::Lineage;
pub(crate) use scene::Scene;

/// What is known of a detector: the same that a rule's YAML tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DetectorInfo {
    /// Its name in the pack, and its id: a stable word.
    pub slug: &'static str,
    /// Title for people.
    pub title: &'static str,
    /// What it watches, and how.
    pub description: &'static str,
    /// ATT&CK technique ids.
    pub attack: &'static [&'static str],
    /// How bad.
    pub level: Level,
    /// What else may look like it.
    pub falsepositives: &'static str,
}

/// Every detector there is.
pub fn detectors() -> impl Iterator<Item = &'static DetectorInfo> {
    [
        &reverse_shell_pipe::INFO,
        &download_and_execute::INFO,
        &decode_and_execute::INFO,
        &exec_dropped_file::INFO,
        &port_scan::INFO,
        &ssh_brute_force::INFO,
    ]
    .into_iter()
}

/// What one event adds to a detector's memory, and what it completes.
pub(crate) trait Detector: Send {
    fn info(&self) -> &'static DetectorInfo;
    /// The kinds of event it needs to see.
    fn wants(&self) -> KindSet;
    fn judge(&mut self, sight: &Sight<'_>, out: &mut Vec<Finding>);
    /// Entries that had to be forgotten because a table was full.
    fn forgotten(&self) -> u64;
}

/// An event with what is known around it.
pub(crate) struct Sight<'s> {
    pub(crate) event: &'s Event,
    pub(crate) scene: &'s Scene,
    pub(crate) lineage: &'s dyn Lineage,
}

/// What a detector found; the engine makes an alert of it.
pub(crate) struct Finding {
    /// The process the alert is about.
    pub(crate) process: Arc<Process>,
    /// Whose doing it is, where that is another than `process`: a scan by many short children.
    pub(crate) on_account_of: Option<ProcessKey>,
    /// Lower than the detector's own level, for its milder forms.
    pub(crate) level: Option<Level>,
    pub(crate) matched: Vec<MatchedField>,
    /// What sets this finding apart from the detector's others about the same process.
    pub(crate) object: String,
}

impl Finding {
    pub(crate) fn about(process: &Arc<Process>) -> Self {
        Finding {
            process: Arc::clone(process),
            on_account_of: None,
            level: None,
            matched: Vec::new(),
            object: String::new(),
        }
    }

    pub(crate) fn with(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.matched.push(MatchedField { name: name.to_owned(), value: bounded_value(value.as_ref()) });
        self
    }

    /// Adds a process' arguments, already made printable.
    pub(crate) fn with_argv(mut self, name: &str, argv: &[u8]) -> Self {
        // Cut before escaping; the escapes of a cut line may grow it, so it is cut again after.
        let mut line = printable_argv(argv.get(..1024).unwrap_or(argv));
        if line.len() > watchfire_rule::MATCHED_VALUE_BYTES {
            let end = (0..=watchfire_rule::MATCHED_VALUE_BYTES).rev().find(|end| line.is_char_boundary(*end));
            line.truncate(end.unwrap_or(0));
        }
        self.matched.push(MatchedField { name: name.to_owned(), value: line });
        self
    }

    pub(crate) fn object(mut self, object: impl Into<String>) -> Self {
        self.object = object.into();
        self
    }
}

/// All detectors, fresh.
pub(crate) fn all() -> Vec<Box<dyn Detector>> {
    vec![
        Box::new(reverse_shell_pipe::ReverseShellPipe::new()),
        Box::new(download_and_execute::DownloadAndExecute::new()),
        Box::new(decode_and_execute::DecodeAndExecute),
        Box::new(exec_dropped_file::ExecDroppedFile::new()),
        Box::new(port_scan::PortScan::new()),
        Box::new(ssh_brute_force::SshBruteForce::new()),
    ]
}

#[cfg(test)]
pub(crate) mod testing {
    //! Small events for the detectors' tests.

    use std::net::SocketAddr;

    use watchfire_event::{
        Body, BootNanos, FileAction, FileActivity, Flow, LoginAttempt, Outcome, Stdio, Transport,
    };

    use super::*;

    pub(crate) fn seconds(seconds: u64) -> BootNanos {
        BootNanos(seconds * 1_000_000_000)
    }

    pub(crate) fn process(tgid: u32, parent: u32, exe: &str, args: &[&str]) -> Process {
        let key = |tgid: u32| ProcessKey { tgid, started: BootNanos(u64::from(tgid)) };
        let argv: Vec<u8> = args.iter().flat_map(|arg| arg.bytes().chain([0])).collect();
        Process {
            key: key(tgid),
            parent: Some(key(parent)),
            exe: exe.as_bytes().to_vec(),
            filename: exe.as_bytes().to_vec(),
            argv_len: u32::try_from(argv.len()).unwrap(),
            argv,
            ..Process::default()
        }
    }

    pub(crate) fn with_stdio(mut process: Process, stdin: Stdio, stdout: Stdio) -> Process {
        process.stdio = [stdin, stdout, Stdio::Tty];
        process
    }

    pub(crate) fn event(at: u64, process: Process, body: Body) -> Event {
        Event { at: seconds(at), decoded: seconds(at), process: Arc::new(process), parent: None, body }
    }

    pub(crate) fn flow(remote: &str, outcome: Outcome) -> Flow {
        let local: SocketAddr = "127.0.0.1:50000".parse().unwrap();
        Flow { transport: Transport::Tcp, local, remote: remote.parse().unwrap(), outcome }
    }

    pub(crate) fn connect(remote: &str) -> Body {
        Body::Connect(flow(remote, Outcome::Succeeded))
    }

    pub(crate) fn file(action: FileAction, path: &str, mode: u32) -> Body {
        let path = path.as_bytes().to_vec();
        Body::File(FileActivity { action, path, new_path: None, mode: Some(mode), uid: Some(0) })
    }

    pub(crate) fn login(user: &str, remote: &str, method: &str, accepted: bool) -> Body {
        Body::Login(LoginAttempt {
            service: b"sshd".to_vec(),
            user: user.as_bytes().to_vec(),
            remote: Some(remote.parse().unwrap()),
            method: method.as_bytes().to_vec(),
            accepted,
        })
    }

    /// A scene with one detector in front of it.
    pub(crate) struct Stage<D> {
        pub(crate) scene: Scene,
        pub(crate) detector: D,
    }

    impl<D: Detector> Stage<D> {
        pub(crate) fn new(detector: D) -> Self {
            Stage { scene: Scene::new(), detector }
        }

        pub(crate) fn see(&mut self, event: &Event) -> Vec<Finding> {
            self.see_with(event, &|_: &Process| Vec::new())
        }

        pub(crate) fn see_with(&mut self, event: &Event, lineage: &dyn Lineage) -> Vec<Finding> {
            let mut out = Vec::new();
            self.scene.note(event);
            if self.detector.wants().holds(event.kind()) {
                self.detector.judge(&Sight { event, scene: &self.scene, lineage }, &mut out);
            }
            out
        }
    }
}
