//! Events in batches: each process once, events pointing to it, and counts in front so that a relay can account for a
//! batch without opening its events.

use std::collections::HashMap;
use std::sync::Arc;

use prost::Message;
use watchfire_event::{
    Body, BootNanos, Event, FileAction, FileActivity, Flow, Kind, LoginAttempt, MountActivity,
    NamespaceActivity, Outcome, Process, ProcessKey, PtraceActivity, Report, ReportError, Transport,
};

use crate::process::{
    ConversionError, append_process, decode_address, decode_credentials, decode_process, encode_address,
    encode_credentials,
};
use crate::v1::{self, event::Body as Sent};

/// Rough cost of one process and of one event in an encoded batch, beyond their names and arguments.
const PROCESS_WEIGHT: usize = 160;
const EVENT_WEIGHT: usize = 48;
/// What frames one field of a report.
const REPORT_FIELD_WEIGHT: usize = 8;

/// Words that events carry as `&'static str`; what is not here reads back as `other`.
const WORDS: &[&str] = &[
    "attach",
    "seize",
    "poketext",
    "pokedata",
    "setregs",
    "traceme",
    "process_vm_writev",
    "init_module",
    "finit_module",
    "mount",
    "move_mount",
    "fsmount",
    "umount",
    "pivot_root",
    "unshare",
    "setns",
    "clone",
];

/// Fields of `EventBatch`, which the builder writes one after another.
const SEQUENCE: u32 = 1;
const COUNTS: u32 = 2;
const PROCESSES: u32 = 3;
const EVENTS: u32 = 4;

/// Gathers events into one batch. They are encoded as they come, straight from the event model: a batch holds thousands, and
/// a message object for each, with copies of its names, was a third of what an event cost.
#[derive(Debug, Default)]
pub struct BatchBuilder {
    // The encoded fields `processes` and `events`.
    processes: Vec<u8>,
    events: Vec<u8>,
    scratch: Vec<u8>,
    len: usize,
    // By address.
    indexes: HashMap<usize, u32>,
    // Keeps the allocations behind `indexes` alive, so that no address is used twice within a batch.
    interned: Vec<Arc<Process>>,
    counts: HashMap<Kind, u64>,
    weight: usize,
}

impl BatchBuilder {
    /// An empty batch.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds one event.
    pub fn push(&mut self, event: &Event) {
        let process = self.intern(&event.process);
        let parent = event.parent.as_ref().map(|parent| self.intern(parent));
        let body = self.encode_body(&event.body);
        self.weight += EVENT_WEIGHT + body_weight(&event.body);
        *self.counts.entry(event.kind()).or_default() += 1;
        let sent = v1::Event { at: event.at.0, decoded: event.decoded.0, process, parent, body: Some(body) };
        prost::encoding::message::encode(EVENTS, &sent, &mut self.events);
        self.len += 1;
    }

    /// How many events are in.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether none is in.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// About how many bytes the batch will take, to close it in time.
    pub fn weight(&self) -> usize {
        self.weight
    }

    /// How many of each kind are in.
    pub fn counts(&self) -> impl Iterator<Item = (Kind, u64)> + '_ {
        self.counts.iter().map(|(kind, count)| (*kind, *count))
    }

    /// The encoded `EventBatch`; the builder is empty again.
    pub fn finish(&mut self, sequence: u64) -> Vec<u8> {
        let mut counts: Vec<_> =
            self.counts.drain().map(|(kind, count)| v1::KindCount { kind: kind as u32, count }).collect();
        counts.sort_by_key(|count| count.kind);
        let mut batch =
            Vec::with_capacity(self.processes.len() + self.events.len() + 16 * (counts.len() + 1));
        prost::encoding::uint64::encode(SEQUENCE, &sequence, &mut batch);
        prost::encoding::message::encode_repeated(COUNTS, &counts, &mut batch);
        batch.extend_from_slice(&self.processes);
        batch.extend_from_slice(&self.events);
        self.processes.clear();
        self.events.clear();
        self.indexes.clear();
        self.interned.clear();
        (self.len, self.weight) = (0, 0);
        batch
    }

    fn intern(&mut self, process: &Arc<Process>) -> u32 {
        let address = Arc::as_ptr(process).addr();
        if let Some(index) = self.indexes.get(&address) {
            return *index;
        }
        let index = u32::try_from(self.interned.len()).expect("a batch closes long before 2^32 processes");
        self.weight += PROCESS_WEIGHT
            + process.argv.len()
            + process.exe.len()
            + process.filename.len()
            + process.cwd.len();
        self.scratch.clear();
        append_process(process, &mut self.scratch);
        prost::encoding::bytes::encode(PROCESSES, &self.scratch, &mut self.processes);
        self.interned.push(process.clone());
        self.indexes.insert(address, index);
        index
    }

    fn encode_body(&mut self, body: &Body) -> Sent {
        match body {
            Body::Exec => Sent::Exec(v1::Empty {}),
            Body::Fork { child } => {
                Sent::Fork(v1::Fork { child_tgid: child.tgid, child_started: child.started.0 })
            }
            Body::Exit { code, signal } => {
                Sent::Exit(v1::Exit { code: (*code).into(), signal: (*signal).into() })
            }
            Body::Connect(flow) => Sent::Connect(encode_flow(flow)),
            Body::Accept(flow) => Sent::Accept(encode_flow(flow)),
            Body::Listen(flow) => Sent::Listen(encode_flow(flow)),
            Body::UdpSend(flow) => Sent::UdpSend(encode_flow(flow)),
            Body::File(file) => Sent::File(v1::File {
                action: file.action.kind() as u32,
                path: file.path.clone(),
                new_path: file.new_path.clone(),
                mode: file.mode,
                uid: file.uid,
            }),
            Body::Credentials { before, after } => Sent::Credentials(v1::CredentialChange {
                before: Some(encode_credentials(before)),
                after: Some(encode_credentials(after)),
            }),
            Body::Ptrace(ptrace) => Sent::Ptrace(v1::Ptrace {
                request: ptrace.request.to_owned(),
                target: ptrace.target,
                target_process: ptrace.target_process.as_ref().map(|target| self.intern(target)),
                result: ptrace.result,
            }),
            Body::Memfd { name } => Sent::Memfd(v1::Memfd { name: name.clone() }),
            Body::ModuleLoad { name, call, result } => Sent::ModuleLoad(v1::ModuleLoad {
                name: name.clone(),
                call: (*call).to_owned(),
                result: *result,
            }),
            Body::BpfLoad { program_type, name, result } => Sent::BpfLoad(v1::BpfLoad {
                program_type: *program_type,
                name: name.clone(),
                result: *result,
            }),
            Body::Mount(mount) => Sent::Mount(v1::Mount {
                call: mount.call.to_owned(),
                source: mount.source.clone(),
                target: mount.target.clone(),
                fstype: mount.fstype.clone(),
                flags: mount.flags,
                result: mount.result,
            }),
            Body::Namespace(namespace) => Sent::Namespace(v1::Namespace {
                call: namespace.call.to_owned(),
                flags: namespace.flags,
                result: namespace.result,
            }),
            Body::Login(login) => Sent::Login(v1::Login {
                service: login.service.clone(),
                user: login.user.clone(),
                remote: login.remote.map(encode_address),
                method: login.method.clone(),
                accepted: login.accepted,
            }),
            Body::Loss { source, count } => Sent::Loss(v1::Loss { source: source.clone(), count: *count }),
            Body::Report(report) => Sent::Report(encode_report(report)),
        }
    }
}

/// The sequence and the counts of an encoded `EventBatch`, its events left unopened.
pub fn batch_counts(batch: &[u8]) -> Result<(u64, Vec<(Kind, u64)>), ConversionError> {
    /// The first two fields of `EventBatch`; protobuf skips the others.
    #[derive(Clone, PartialEq, prost::Message)]
    struct Front {
        #[prost(uint64, tag = "1")]
        sequence: u64,
        #[prost(message, repeated, tag = "2")]
        counts: Vec<v1::KindCount>,
    }
    let front =
        Front::decode(batch).map_err(|source| ConversionError::Malformed { what: "EventBatch", source })?;
    let counts = front.counts.iter().map(|count| Ok((kind_from(count.kind)?, count.count)));
    Ok((front.sequence, counts.collect::<Result<_, ConversionError>>()?))
}

/// The events of an encoded `EventBatch`, processes shared as they were.
pub fn decode_batch(batch: &[u8]) -> Result<Vec<Event>, ConversionError> {
    let batch = v1::EventBatch::decode(batch)
        .map_err(|source| ConversionError::Malformed { what: "EventBatch", source })?;
    let processes: Vec<Arc<Process>> = batch
        .processes
        .into_iter()
        .map(|process| decode_process(process).map(Arc::new))
        .collect::<Result<_, _>>()?;
    batch.events.into_iter().map(|event| decode_event(event, &processes)).collect()
}

fn decode_event(event: v1::Event, processes: &[Arc<Process>]) -> Result<Event, ConversionError> {
    let body = event.body.ok_or(ConversionError::Missing("the body of an event"))?;
    Ok(Event {
        at: BootNanos(event.at),
        decoded: BootNanos(event.decoded),
        process: from_table(processes, event.process)?,
        parent: event.parent.map(|index| from_table(processes, index)).transpose()?,
        body: decode_body(body, processes)?,
    })
}

fn from_table(processes: &[Arc<Process>], index: u32) -> Result<Arc<Process>, ConversionError> {
    let outside = ConversionError::OutOfTable { what: "process", index, length: processes.len() };
    processes.get(index as usize).cloned().ok_or(outside)
}

fn decode_body(body: Sent, processes: &[Arc<Process>]) -> Result<Body, ConversionError> {
    Ok(match body {
        Sent::Exec(v1::Empty {}) => Body::Exec,
        Sent::Fork(fork) => {
            Body::Fork { child: ProcessKey { tgid: fork.child_tgid, started: BootNanos(fork.child_started) } }
        }
        Sent::Exit(exit) => {
            Body::Exit { code: byte("exit code", exit.code)?, signal: byte("exit signal", exit.signal)? }
        }
        Sent::Connect(flow) => Body::Connect(decode_flow(&flow)?),
        Sent::Accept(flow) => Body::Accept(decode_flow(&flow)?),
        Sent::Listen(flow) => Body::Listen(decode_flow(&flow)?),
        Sent::UdpSend(flow) => Body::UdpSend(decode_flow(&flow)?),
        Sent::File(file) => Body::File(decode_file(file)?),
        Sent::Credentials(change) => Body::Credentials {
            before: decode_credentials(change.before.ok_or(ConversionError::Missing("credentials before"))?),
            after: decode_credentials(change.after.ok_or(ConversionError::Missing("credentials after"))?),
        },
        Sent::Ptrace(ptrace) => Body::Ptrace(PtraceActivity {
            request: known_word(&ptrace.request),
            target: ptrace.target,
            target_process: ptrace.target_process.map(|index| from_table(processes, index)).transpose()?,
            result: ptrace.result,
        }),
        Sent::Memfd(memfd) => Body::Memfd { name: memfd.name },
        Sent::ModuleLoad(load) => {
            Body::ModuleLoad { name: load.name, call: known_word(&load.call), result: load.result }
        }
        Sent::BpfLoad(load) => {
            Body::BpfLoad { program_type: load.program_type, name: load.name, result: load.result }
        }
        Sent::Mount(mount) => Body::Mount(MountActivity {
            call: known_word(&mount.call),
            source: mount.source,
            target: mount.target,
            fstype: mount.fstype,
            flags: mount.flags,
            result: mount.result,
        }),
        Sent::Namespace(namespace) => Body::Namespace(NamespaceActivity {
            call: known_word(&namespace.call),
            flags: namespace.flags,
            result: namespace.result,
        }),
        Sent::Login(login) => Body::Login(LoginAttempt {
            service: login.service,
            user: login.user,
            remote: login.remote.as_ref().map(|remote| decode_address(Some(remote))).transpose()?,
            method: login.method,
            accepted: login.accepted,
        }),
        Sent::Loss(loss) => Body::Loss { source: loss.source, count: loss.count },
        Sent::Report(report) => Body::Report(decode_report(report)?),
    })
}

fn decode_file(file: v1::File) -> Result<FileActivity, ConversionError> {
    let kind = kind_from(file.action)?;
    let action = FileAction::of_kind(kind)
        .ok_or(ConversionError::BadValue { what: "file action", value: file.action.into() })?;
    Ok(FileActivity { action, path: file.path, new_path: file.new_path, mode: file.mode, uid: file.uid })
}

fn encode_flow(flow: &Flow) -> v1::Flow {
    let (outcome, error) = match flow.outcome {
        Outcome::Succeeded => (0, 0),
        Outcome::Refused => (1, 0),
        Outcome::TimedOut => (2, 0),
        Outcome::Failed(error) => (3, error),
    };
    v1::Flow {
        transport: match flow.transport {
            Transport::Tcp => 6,
            Transport::Udp => 17,
        },
        local: Some(encode_address(flow.local)),
        remote: Some(encode_address(flow.remote)),
        outcome,
        error,
    }
}

fn decode_flow(flow: &v1::Flow) -> Result<Flow, ConversionError> {
    Ok(Flow {
        transport: match flow.transport {
            6 => Transport::Tcp,
            17 => Transport::Udp,
            other => return Err(ConversionError::BadValue { what: "transport", value: other.into() }),
        },
        local: decode_address(flow.local.as_ref())?,
        remote: decode_address(flow.remote.as_ref())?,
        outcome: match flow.outcome {
            0 => Outcome::Succeeded,
            1 => Outcome::Refused,
            2 => Outcome::TimedOut,
            3 => Outcome::Failed(flow.error),
            other => return Err(ConversionError::BadValue { what: "outcome", value: other.into() }),
        },
    })
}

fn encode_report(report: &Report) -> v1::Report {
    let field =
        |(name, value): &(String, String)| v1::ReportField { name: name.clone(), value: value.clone() };
    v1::Report {
        app: report.app().to_owned(),
        topic: report.topic().to_owned(),
        fields: report.fields().iter().map(field).collect(),
    }
}

fn decode_report(report: v1::Report) -> Result<Report, ReportError> {
    let fields = report.fields.into_iter().map(|field| (field.name, field.value));
    Report::new(report.app, report.topic, fields)
}

fn body_weight(body: &Body) -> usize {
    match body {
        Body::File(file) => file.path.len() + file.new_path.as_ref().map_or(0, Vec::len),
        Body::Mount(mount) => mount.source.len() + mount.target.len() + mount.fstype.len(),
        Body::Memfd { name } | Body::ModuleLoad { name, .. } | Body::BpfLoad { name, .. } => name.len(),
        Body::Report(report) => report.text_bytes() + REPORT_FIELD_WEIGHT * report.fields().len(),
        _ => 0,
    }
}

pub(crate) fn kind_from(number: u32) -> Result<Kind, ConversionError> {
    let number = u8::try_from(number)
        .map_err(|_| ConversionError::BadValue { what: "event kind", value: number.into() })?;
    Ok(Kind::try_from(number)?)
}

fn byte(what: &'static str, value: u32) -> Result<u8, ConversionError> {
    u8::try_from(value).map_err(|_| ConversionError::BadValue { what, value: value.into() })
}

/// The word that an event carries as `&'static str` (a system call, a ptrace request); `other` when it is not known.
pub fn known_word(text: &str) -> &'static str {
    WORDS.iter().find(|known| **known == text).copied().unwrap_or("other")
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;
    use watchfire_event::arbitrary::any_event;

    use super::*;

    proptest! {
        #[test]
        fn a_batch_reads_back_as_it_was(events in vec(any_event(), 0..12), sequence: u64) {
            let mut builder = BatchBuilder::new();
            events.iter().for_each(|event| builder.push(event));
            let bytes = builder.finish(sequence);
            prop_assert!(builder.is_empty());
            prop_assert_eq!(decode_batch(&bytes).unwrap(), &events[..]);
            let (read_sequence, counts) = batch_counts(&bytes).unwrap();
            prop_assert_eq!(read_sequence, sequence);
            prop_assert_eq!(counts.iter().map(|(_, count)| count).sum::<u64>(), events.len() as u64);
        }

        #[test]
        fn arbitrary_bytes_are_refused_or_read_but_never_panic(bytes in vec(any::<u8>(), 0..400)) {
            std::hint::black_box(decode_batch(&bytes).is_ok());
        }

        #[test]
        fn a_damaged_batch_never_panics(events in vec(any_event(), 1..4), at: prop::sample::Index, bits in 1u8..) {
            let mut builder = BatchBuilder::new();
            events.iter().for_each(|event| builder.push(event));
            let mut bytes = builder.finish(1);
            let at = at.index(bytes.len());
            bytes[at] ^= bits;
            std::hint::black_box(decode_batch(&bytes).is_ok());
        }
    }

    #[test]
    fn a_report_beyond_its_limits_is_refused_by_what_is_wrong_with_it() {
        let field = |name: &str| v1::ReportField { name: name.to_owned(), value: String::new() };
        let reports = [
            (v1::Report { app: "No".to_owned(), topic: "t".to_owned(), fields: vec![] }, "app"),
            (v1::Report { app: "a".to_owned(), topic: String::new(), fields: vec![] }, "topic"),
            (
                v1::Report {
                    app: "a".to_owned(),
                    topic: "t".to_owned(),
                    fields: vec![field("n"), field("n")],
                },
                "twice",
            ),
        ];
        for (report, wrong) in reports {
            let event = v1::Event { body: Some(Sent::Report(report)), ..v1::Event::default() };
            let processes = vec![crate::process::encode_process(&Process::default())];
            let batch = v1::EventBatch { processes, events: vec![event], ..v1::EventBatch::default() };
            let refused = decode_batch(&batch.encode_to_vec()).unwrap_err();
            assert!(
                matches!(refused, ConversionError::Report(_)) && refused.to_string().contains(wrong),
                "{refused}"
            );
        }
    }

    #[test]
    fn a_process_shared_by_events_is_sent_once() {
        let process = Arc::new(Process { argv: vec![b'a'; 1000], ..Process::default() });
        let event = Event {
            at: BootNanos(1),
            decoded: BootNanos(2),
            process: process.clone(),
            parent: Some(process),
            body: Body::Exec,
        };
        let mut builder = BatchBuilder::new();
        for _ in 0..10 {
            builder.push(&event);
        }
        assert!(builder.finish(1).len() < 1500);
    }
}
