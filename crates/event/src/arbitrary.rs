//! Events made of arbitrary bytes, for the property tests of everything that encodes, stores or judges them.

use std::net::SocketAddr;
use std::sync::Arc;

use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;

use crate::clock::BootNanos;
use crate::event::{
    Body, Event, FileAction, FileActivity, Flow, LoginAttempt, MountActivity, NamespaceActivity, Outcome,
    PtraceActivity, Transport,
};
use crate::ids::{ContainerId, ProcessKey};
use crate::process::{Credentials, Image, Namespaces, Process, ProcessOrigin, Stdio, Tty};
use crate::report::{REPORT_FIELDS, Report};

/// Any event: every kind, names of arbitrary bytes.
pub fn any_event() -> impl Strategy<Value = Event> {
    let process = || any_process().prop_map(Arc::new);
    (any::<u64>(), any::<u64>(), process(), option::of(process()), any_body()).prop_map(
        |(at, decoded, process, parent, body)| Event {
            at: BootNanos(at),
            decoded: BootNanos(decoded),
            process,
            parent,
            body,
        },
    )
}

/// Any process.
pub fn any_process() -> impl Strategy<Value = Process> {
    let ids = (any_key(), option::of(any_key()), any_origin(), any::<u64>());
    let names = (any_name(), any_name(), any_name(), any_name(), vec(any::<u8>(), 0..80), any::<u32>());
    let owner = (any_credentials(), option::of(any::<u32>()), option::of(any::<u32>()), any::<[u32; 2]>());
    let place = (option::of((any_name(), any::<(u32, u32)>())), any::<[u32; 5]>(), any::<u64>());
    let rest =
        (any_image(), option::of("[0-9a-f]{12}"), any::<()>(), [any_stdio(), any_stdio(), any_stdio()]);
    (ids, names, owner, place, rest).prop_map(|(ids, names, owner, place, rest)| Process {
        key: ids.0,
        parent: ids.1,
        origin: ids.2,
        since: BootNanos(ids.3),
        exe: names.0,
        filename: names.1,
        comm: names.2,
        cwd: names.3,
        argv: names.4,
        argv_len: names.5,
        credentials: owner.0,
        login_uid: owner.1,
        audit_session: owner.2,
        session: owner.3[0],
        group: owner.3[1],
        tty: place.0.map(|(name, device)| Tty { name, device }),
        namespaces: Namespaces { mnt: place.1[0], pid: place.1[1], net: place.1[2], user: place.1[3] },
        ns_tgid: place.1[4],
        cgroup: place.2,
        image: rest.0,
        container: rest.1.map(ContainerId),
        stdio: rest.3,
    })
}

/// Any body, each kind as likely as the next.
pub fn any_body() -> impl Strategy<Value = Body> {
    let file =
        (0..7usize, any_name(), option::of(any_name()), option::of(any::<u32>()), option::of(any::<u32>()));
    prop_oneof![
        Just(Body::Exec),
        any_key().prop_map(|child| Body::Fork { child }),
        any::<(u8, u8)>().prop_map(|(code, signal)| Body::Exit { code, signal }),
        any_flow().prop_map(Body::Connect),
        any_flow().prop_map(Body::Accept),
        any_flow().prop_map(Body::Listen),
        any_flow().prop_map(Body::UdpSend),
        file.prop_map(|(action, path, new_path, mode, uid)| Body::File(FileActivity {
            action: ACTIONS[action],
            path,
            new_path,
            mode,
            uid
        })),
        (any_credentials(), any_credentials())
            .prop_map(|(before, after)| Body::Credentials { before, after }),
        (any::<u32>(), option::of(any_process().prop_map(Arc::new)), any::<i32>()).prop_map(
            |(target, target_process, result)| Body::Ptrace(PtraceActivity {
                request: "attach",
                target,
                target_process,
                result
            })
        ),
        any_name().prop_map(|name| Body::Memfd { name }),
        (any_name(), any::<i32>()).prop_map(|(name, result)| Body::ModuleLoad {
            name,
            call: "finit_module",
            result
        }),
        (any::<u32>(), any_name(), any::<i32>()).prop_map(|(program_type, name, result)| Body::BpfLoad {
            program_type,
            name,
            result
        }),
        ([any_name(), any_name(), any_name()], any::<u64>(), any::<i32>()).prop_map(
            |(names, flags, result)| {
                let [source, target, fstype] = names;
                Body::Mount(MountActivity { call: "mount", source, target, fstype, flags, result })
            }
        ),
        (any::<u64>(), any::<i32>()).prop_map(|(flags, result)| Body::Namespace(NamespaceActivity {
            call: "setns",
            flags,
            result
        })),
        (any_name(), any_name(), option::of(any_address()), any_name(), any::<bool>()).prop_map(
            |(service, user, remote, method, accepted)| Body::Login(LoginAttempt {
                service,
                user,
                remote,
                method,
                accepted
            })
        ),
        ("[a-z ]{0,12}", any::<u64>()).prop_map(|(source, count)| Body::Loss { source, count }),
        any_report().prop_map(Body::Report),
    ]
}

/// Any report: names of the whole alphabet, values of arbitrary text.
pub fn any_report() -> impl Strategy<Value = Report> {
    const LABEL: &str = "[a-z0-9_.-]{1,64}";
    let fields = prop_oneof![
        8 => btree_map(LABEL, ".{0,40}", 0..6),
        1 => btree_map(LABEL, "x{4096}", 1..3),
        1 => btree_map(LABEL, ".{0,4}", REPORT_FIELDS..=REPORT_FIELDS),
    ];
    let fields = fields.prop_map(|fields| fields.into_iter().collect::<Vec<_>>()).prop_shuffle();
    (LABEL, LABEL, fields)
        .prop_map(|(app, topic, fields)| Report::new(app, topic, fields).expect("made within the limits"))
}

const ACTIONS: [FileAction; 7] = [
    FileAction::Create,
    FileAction::Write,
    FileAction::Rename,
    FileAction::Unlink,
    FileAction::Attrib,
    FileAction::Link,
    FileAction::Open,
];

fn any_name() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![vec(any::<u8>(), 0..24), "/[a-z/]{0,20}".prop_map(String::into_bytes)]
}

fn any_key() -> impl Strategy<Value = ProcessKey> {
    any::<(u32, u64)>().prop_map(|(tgid, started)| ProcessKey { tgid, started: BootNanos(started) })
}

fn any_origin() -> impl Strategy<Value = ProcessOrigin> {
    use ProcessOrigin::{Exec, Fork, Healed, Snapshot, Unknown};
    (0..5usize).prop_map(|index| [Exec, Fork, Snapshot, Healed, Unknown][index])
}

fn any_credentials() -> impl Strategy<Value = Credentials> {
    any::<([u32; 5], [u64; 2])>().prop_map(
        |([uid, euid, suid, gid, egid], [cap_effective, cap_permitted])| Credentials {
            uid,
            euid,
            suid,
            gid,
            egid,
            cap_effective,
            cap_permitted,
        },
    )
}

fn any_image() -> impl Strategy<Value = Image> {
    any::<([u64; 2], [u32; 3], bool)>().prop_map(|([device, inode], [mode, uid, links], memfd)| Image {
        device,
        inode,
        mode,
        uid,
        links,
        memfd,
    })
}

fn any_stdio() -> impl Strategy<Value = Stdio> {
    prop_oneof![
        Just(Stdio::Closed),
        Just(Stdio::File),
        Just(Stdio::Null),
        Just(Stdio::Tty),
        any::<u64>().prop_map(Stdio::Pipe),
        any_address().prop_map(Stdio::Inet),
        any::<(u16, u64)>().prop_map(|(family, inode)| Stdio::Socket { family, inode }),
        Just(Stdio::Other),
        Just(Stdio::Unknown),
    ]
}

fn any_address() -> impl Strategy<Value = SocketAddr> {
    prop_oneof![
        any::<([u8; 4], u16)>().prop_map(|(ip, port)| SocketAddr::from((ip, port))),
        any::<([u8; 16], u16)>().prop_map(|(ip, port)| SocketAddr::from((ip, port))),
    ]
}

fn any_flow() -> impl Strategy<Value = Flow> {
    (any::<bool>(), any_address(), any_address(), 0..4u8, any::<i32>()).prop_map(
        |(tcp, local, remote, outcome, error)| Flow {
            transport: if tcp { Transport::Tcp } else { Transport::Udp },
            local,
            remote,
            outcome: match outcome {
                0 => Outcome::Succeeded,
                1 => Outcome::Refused,
                2 => Outcome::TimedOut,
                _ => Outcome::Failed(error),
            },
        },
    )
}
