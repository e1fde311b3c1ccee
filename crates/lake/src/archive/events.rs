//! Events out of the table's rows: the way back of `columns`.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{Int64Type, TimestampMicrosecondType};
use arrow_array::{Array, ArrayRef, RecordBatch};
use watchfire_event::{
    Body, BootId, BootNanos, ContainerId, Credentials, Event, FileAction, FileActivity, Flow, HostId, Image,
    Kind, LoginAttempt, MountActivity, NamespaceActivity, Namespaces, Outcome, Process, ProcessKey,
    ProcessOrigin, PtraceActivity, Report, Stdio, Transport, Tty, UnixNanos,
};

use super::cells::Pair;
use crate::query::StoredEvent;

/// The name of the column that does not describe an event.
pub(crate) type BadColumn = &'static str;
type Cell<T> = Result<T, BadColumn>;

/// A batch read from a file. A column that the file does not have reads as NULL.
#[derive(Debug)]
pub(crate) struct Columns {
    arrays: HashMap<String, ArrayRef>,
}

impl Columns {
    pub(crate) fn new(batch: &RecordBatch) -> Self {
        let schema = batch.schema();
        let names = schema.fields().iter().map(|field| field.name().clone());
        Self { arrays: names.zip(batch.columns().iter().cloned()).collect() }
    }

    pub(crate) fn number(&self, name: &'static str, row: usize) -> Cell<Option<i64>> {
        let Some(array) = self.arrays.get(name) else { return Ok(None) };
        let numbers = array.as_primitive_opt::<Int64Type>();
        if let Some(numbers) = numbers {
            return Ok(numbers.is_valid(row).then(|| numbers.value(row)));
        }
        let times = array.as_primitive_opt::<TimestampMicrosecondType>().ok_or(name)?;
        Ok(times.is_valid(row).then(|| times.value(row)))
    }

    pub(crate) fn text(&self, name: &'static str, row: usize) -> Cell<Option<&str>> {
        let Some(array) = self.arrays.get(name) else { return Ok(None) };
        let texts = array.as_string_opt::<i32>().ok_or(name)?;
        Ok(texts.is_valid(row).then(|| texts.value(row)))
    }

    fn bytes(&self, name: &'static str, row: usize) -> Cell<Option<&[u8]>> {
        let Some(array) = self.arrays.get(name) else { return Ok(None) };
        let values = array.as_binary_opt::<i32>().ok_or(name)?;
        Ok(values.is_valid(row).then(|| values.value(row)))
    }

    fn pairs(&self, name: &'static str, row: usize) -> Cell<Vec<Pair>> {
        let Some(array) = self.arrays.get(name) else { return Ok(Vec::new()) };
        let maps = array.as_map_opt().ok_or(name)?;
        if !maps.is_valid(row) {
            return Ok(Vec::new());
        }
        let entries = maps.value(row);
        let texts = |column: usize| entries.column(column).as_string_opt::<i32>().ok_or(name);
        let pairs = texts(0)?.iter().zip(texts(1)?);
        let owned = |text: Option<&str>| text.unwrap_or_default().to_owned();
        Ok(pairs.map(|(key, value)| (owned(key), owned(value))).collect())
    }

    fn flag(&self, name: &'static str, row: usize) -> Cell<bool> {
        let Some(array) = self.arrays.get(name) else { return Ok(false) };
        let flags = array.as_boolean_opt().ok_or(name)?;
        Ok(flags.is_valid(row) && flags.value(row))
    }
}

/// One row, with the getters that its parts need.
struct At<'a> {
    columns: &'a Columns,
    row: usize,
}

/// The event in one row.
pub(crate) fn event_at(columns: &Columns, row: usize) -> Cell<StoredEvent> {
    let at = At { columns, row };
    let boot_ns = BootNanos(at.u64("boot_ns")?);
    let booted = UnixNanos(at.number("booted_ns")?.unwrap_or(0));
    let host: HostId = at.word("host")?.parse().map_err(|_| "host")?;
    let boot: BootId = at.word("boot")?.parse().map_err(|_| "boot")?;
    let event = Event {
        at: boot_ns,
        decoded: BootNanos(boot_ns.0.wrapping_add(at.u64("decode_latency_ns")?)),
        process: Arc::new(process(&at)?),
        parent: parent(&at)?.map(Arc::new),
        body: body(&at)?,
    };
    Ok(StoredEvent {
        host,
        hostname: at.word("hostname")?.into(),
        boot,
        time: boot_ns.on_wall(booted),
        log_offset: at.u64("log_offset")?,
        log_row: at.u32("log_row")?,
        event,
    })
}

impl At<'_> {
    fn number(&self, name: &'static str) -> Cell<Option<i64>> {
        self.columns.number(name, self.row)
    }

    /// 64 unsigned bits travel in a signed column, pattern kept.
    fn u64(&self, name: &'static str) -> Cell<u64> {
        Ok(self.number(name)?.unwrap_or(0).cast_unsigned())
    }

    fn small<T: TryFrom<i64>>(&self, name: &'static str) -> Cell<Option<T>> {
        self.number(name)?.map(|number| T::try_from(number).map_err(|_| name)).transpose()
    }

    fn u32(&self, name: &'static str) -> Cell<u32> {
        Ok(self.small(name)?.unwrap_or(0))
    }

    fn i32(&self, name: &'static str) -> Cell<i32> {
        Ok(self.small(name)?.unwrap_or(0))
    }

    fn bytes(&self, name: &'static str) -> Cell<Vec<u8>> {
        Ok(self.columns.bytes(name, self.row)?.unwrap_or_default().to_vec())
    }

    fn word(&self, name: &'static str) -> Cell<&str> {
        Ok(self.columns.text(name, self.row)?.unwrap_or_default())
    }

    fn key(&self, tgid: &'static str, started: &'static str) -> Cell<Option<ProcessKey>> {
        let Some(tgid) = self.small(tgid)? else { return Ok(None) };
        Ok(Some(ProcessKey { tgid, started: BootNanos(self.u64(started)?) }))
    }

    fn address(&self, ip: &'static str, port: &'static str) -> Cell<Option<SocketAddr>> {
        let Some(text) = self.columns.text(ip, self.row)? else { return Ok(None) };
        let address: IpAddr = text.parse().map_err(|_| ip)?;
        Ok(Some(SocketAddr::new(address, self.small(port)?.ok_or(port)?)))
    }
}

fn process(at: &At<'_>) -> Cell<Process> {
    Ok(Process {
        key: at.key("tgid", "started_ns")?.unwrap_or_default(),
        parent: at.key("ppid", "ppid_started_ns")?,
        origin: origin(at.word("origin")?)?,
        since: BootNanos(at.u64("since_ns")?),
        exe: at.bytes("exe")?,
        filename: at.bytes("filename")?,
        image: image(at)?,
        argv: at.bytes("argv")?,
        argv_len: at.u32("argv_len")?,
        comm: at.bytes("comm")?,
        cwd: at.bytes("cwd")?,
        credentials: credentials(
            at,
            ["uid", "euid", "suid", "gid", "egid", "cap_effective", "cap_permitted"],
        )?,
        login_uid: at.small("login_uid")?,
        audit_session: at.small("audit_session")?,
        session: at.u32("sid")?,
        group: at.u32("pgid")?,
        tty: tty(at)?,
        namespaces: Namespaces {
            mnt: at.u32("ns_mnt")?,
            pid: at.u32("ns_pid")?,
            net: at.u32("ns_net")?,
            user: at.u32("ns_user")?,
        },
        ns_tgid: at.u32("ns_tgid")?,
        cgroup: at.u64("cgroup")?,
        container: at.columns.text("container", at.row)?.map(|id| ContainerId(id.to_owned())),
        stdio: [
            stdio(at, ["stdin", "stdin_remote", "stdin_inode", "stdin_family"])?,
            stdio(at, ["stdout", "stdout_remote", "stdout_inode", "stdout_family"])?,
            stdio(at, ["stderr", "stderr_remote", "stderr_inode", "stderr_family"])?,
        ],
    })
}

fn image(at: &At<'_>) -> Cell<Image> {
    Ok(Image {
        device: at.u64("image_device")?,
        inode: at.u64("image_inode")?,
        mode: at.u32("image_mode")?,
        uid: at.u32("image_uid")?,
        links: at.u32("image_links")?,
        memfd: at.columns.flag("image_memfd", at.row)?,
    })
}

fn tty(at: &At<'_>) -> Cell<Option<Tty>> {
    let Some(name) = at.columns.bytes("tty", at.row)? else { return Ok(None) };
    Ok(Some(Tty { name: name.to_vec(), device: (at.u32("tty_major")?, at.u32("tty_minor")?) }))
}

fn credentials(at: &At<'_>, names: [&'static str; 7]) -> Cell<Credentials> {
    let [uid, euid, suid, gid, egid, effective, permitted] = names;
    Ok(Credentials {
        uid: at.u32(uid)?,
        euid: at.u32(euid)?,
        suid: at.u32(suid)?,
        gid: at.u32(gid)?,
        egid: at.u32(egid)?,
        cap_effective: at.u64(effective)?,
        cap_permitted: at.u64(permitted)?,
    })
}

fn stdio(at: &At<'_>, names: [&'static str; 4]) -> Cell<Stdio> {
    let [what, remote, inode, family] = names;
    Ok(match at.word(what)? {
        "closed" => Stdio::Closed,
        "file" => Stdio::File,
        "null" => Stdio::Null,
        "tty" => Stdio::Tty,
        "pipe" => Stdio::Pipe(at.u64(inode)?),
        "inet" => Stdio::Inet(at.word(remote)?.parse().map_err(|_| remote)?),
        "socket" => Stdio::Socket { family: at.small(family)?.ok_or(family)?, inode: at.u64(inode)? },
        "other" => Stdio::Other,
        "unknown" | "" => Stdio::Unknown,
        _ => return Err(what),
    })
}

fn origin(word: &str) -> Cell<ProcessOrigin> {
    use ProcessOrigin::{Exec, Fork, Healed, Snapshot, Unknown};
    [Exec, Fork, Snapshot, Healed, Unknown].into_iter().find(|origin| origin.as_str() == word).ok_or("origin")
}

/// The parent as far as the table has it: key, executable, arguments, uid.
fn parent(at: &At<'_>) -> Cell<Option<Process>> {
    let names = ["parent_tgid", "parent_started_ns", "parent_exe", "parent_argv", "parent_uid"];
    partial(at, names)
}

fn partial(at: &At<'_>, names: [&'static str; 5]) -> Cell<Option<Process>> {
    let [tgid, started, exe, argv, uid] = names;
    let Some(key) = at.key(tgid, started)? else { return Ok(None) };
    let credentials = Credentials { uid: at.u32(uid)?, ..Credentials::default() };
    let origin = ProcessOrigin::Unknown;
    Ok(Some(Process {
        key,
        exe: at.bytes(exe)?,
        argv: at.bytes(argv)?,
        credentials,
        origin,
        ..Process::default()
    }))
}

fn body(at: &At<'_>) -> Cell<Body> {
    let kind: Kind = at.word("kind")?.parse().map_err(|_| "kind")?;
    if let Some(action) = FileAction::of_kind(kind) {
        return file(at, action);
    }
    Ok(match kind {
        Kind::Exec => Body::Exec,
        Kind::Fork => Body::Fork { child: at.key("child_tgid", "child_started_ns")?.ok_or("child_tgid")? },
        Kind::Exit => Body::Exit {
            code: at.small("exit_code")?.ok_or("exit_code")?,
            signal: at.small("exit_signal")?.ok_or("exit_signal")?,
        },
        Kind::Connect => Body::Connect(flow(at)?),
        Kind::Accept => Body::Accept(flow(at)?),
        Kind::Listen => Body::Listen(flow(at)?),
        Kind::UdpSend => Body::UdpSend(flow(at)?),
        Kind::Credentials => credential_change(at)?,
        Kind::Ptrace => ptrace(at)?,
        Kind::Memfd => Body::Memfd { name: at.bytes("name")? },
        Kind::ModuleLoad => {
            Body::ModuleLoad { name: at.bytes("name")?, call: call(at)?, result: at.i32("result")? }
        }
        Kind::BpfLoad => Body::BpfLoad {
            program_type: at.u32("program_type")?,
            name: at.bytes("name")?,
            result: at.i32("result")?,
        },
        Kind::Mount => mount(at)?,
        Kind::Namespace => Body::Namespace(NamespaceActivity {
            call: call(at)?,
            flags: at.u64("flags")?,
            result: at.i32("result")?,
        }),
        Kind::Login => login(at)?,
        Kind::Loss => Body::Loss { source: at.word("loss_source")?.to_owned(), count: at.u64("loss_count")? },
        Kind::Report => report(at)?,
        _ => return Err("kind"),
    })
}

fn file(at: &At<'_>, action: FileAction) -> Cell<Body> {
    Ok(Body::File(FileActivity {
        action,
        path: at.bytes("path")?,
        new_path: at.columns.bytes("new_path", at.row)?.map(<[u8]>::to_vec),
        mode: at.small("file_mode")?,
        uid: at.small("file_uid")?,
    }))
}

fn flow(at: &At<'_>) -> Cell<Flow> {
    Ok(Flow {
        transport: match at.word("transport")? {
            "tcp" => Transport::Tcp,
            "udp" => Transport::Udp,
            _ => return Err("transport"),
        },
        local: at.address("local_ip", "local_port")?.ok_or("local_ip")?,
        remote: at.address("remote_ip", "remote_port")?.ok_or("remote_ip")?,
        outcome: match at.word("outcome")? {
            "succeeded" => Outcome::Succeeded,
            "refused" => Outcome::Refused,
            "timed_out" => Outcome::TimedOut,
            "failed" => Outcome::Failed(at.i32("outcome_errno")?),
            _ => return Err("outcome"),
        },
    })
}

fn credential_change(at: &At<'_>) -> Cell<Body> {
    let before = [
        "before_uid",
        "before_euid",
        "before_suid",
        "before_gid",
        "before_egid",
        "before_cap_effective",
        "before_cap_permitted",
    ];
    let after = [
        "after_uid",
        "after_euid",
        "after_suid",
        "after_gid",
        "after_egid",
        "after_cap_effective",
        "after_cap_permitted",
    ];
    Ok(Body::Credentials { before: credentials(at, before)?, after: credentials(at, after)? })
}

fn ptrace(at: &At<'_>) -> Cell<Body> {
    let names = ["target_process_tgid", "target_started_ns", "target_exe", "target_argv", "target_uid"];
    Ok(Body::Ptrace(PtraceActivity {
        request: call(at)?,
        target: at.u32("target_tgid")?,
        target_process: partial(at, names)?.map(Arc::new),
        result: at.i32("result")?,
    }))
}

fn mount(at: &At<'_>) -> Cell<Body> {
    Ok(Body::Mount(MountActivity {
        call: call(at)?,
        source: at.bytes("mount_source")?,
        target: at.bytes("mount_target")?,
        fstype: at.bytes("mount_fstype")?,
        flags: at.u64("flags")?,
        result: at.i32("result")?,
    }))
}

fn login(at: &At<'_>) -> Cell<Body> {
    Ok(Body::Login(LoginAttempt {
        service: at.bytes("login_service")?,
        user: at.bytes("login_user")?,
        remote: at.address("remote_ip", "remote_port")?,
        method: at.bytes("login_method")?,
        accepted: at.columns.flag("login_accepted", at.row)?,
    }))
}

fn report(at: &At<'_>) -> Cell<Body> {
    let fields = at.columns.pairs("report_fields", at.row)?;
    let report = Report::new(at.word("report_app")?, at.word("report_topic")?, fields);
    Ok(Body::Report(report.map_err(|_| "report_fields")?))
}

fn call(at: &At<'_>) -> Cell<&'static str> {
    Ok(watchfire_wire::known_word(at.word("call")?))
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use parquet::arrow::ArrowWriter;
    use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
    use proptest::collection::vec;
    use proptest::prelude::*;
    use proptest::strategy::ValueTree;
    use watchfire_event::arbitrary::any_event;

    use super::super::cells::{Column, Kinds};
    use super::super::columns::{COLUMNS, batch};
    use super::super::rows::{Origin, Row};
    use super::*;

    /// What the table keeps of a process that is not the actor.
    fn kept(process: &Arc<Process>) -> Arc<Process> {
        let credentials = Credentials { uid: process.credentials.uid, ..Credentials::default() };
        Arc::new(Process {
            key: process.key,
            exe: process.exe.clone(),
            argv: process.argv.clone(),
            credentials,
            origin: ProcessOrigin::Unknown,
            ..Process::default()
        })
    }

    fn expected(event: &Event) -> Event {
        let mut event = event.clone();
        event.parent = event.parent.as_ref().map(kept);
        if let Body::Ptrace(ptrace) = &mut event.body {
            ptrace.target_process = ptrace.target_process.as_ref().map(kept);
        }
        event
    }

    fn rows(events: &[Event], booted: i64) -> Vec<Row> {
        let origin = Arc::new(Origin {
            host: HostId([3; 16]).to_string(),
            hostname: "a host".to_owned(),
            boot: BootId([4; 16]).to_string(),
            incarnation: u64::MAX,
            booted: UnixNanos(booted),
            received: UnixNanos(5),
            offset: 6,
        });
        (0u32..)
            .zip(events)
            .map(|(index, event)| Row { origin: origin.clone(), index, event: event.clone() })
            .collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(96))]

        #[test]
        fn every_event_reads_back_from_parquet_as_it_was(events in vec(any_event(), 1..20), booted: i64) {
            let written = batch(&rows(&events, booted)).unwrap();
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("x.parquet");
            let mut writer = ArrowWriter::try_new(File::create(&path).unwrap(), written.schema(), None).unwrap();
            writer.write(&written).unwrap();
            writer.close().unwrap();
            let mut back = Vec::new();
            for batch in ParquetRecordBatchReaderBuilder::try_new(File::open(&path).unwrap()).unwrap().build().unwrap() {
                let columns = Columns::new(&batch.unwrap());
                back.extend((0..columns.arrays["kind"].len()).map(|row| event_at(&columns, row).unwrap()));
            }
            prop_assert_eq!(back.len(), events.len());
            for (index, (stored, event)) in back.iter().zip(&events).enumerate() {
                prop_assert_eq!(&stored.event, &expected(event));
                prop_assert_eq!(stored.time, event.at.on_wall(UnixNanos(booted)));
                prop_assert_eq!((stored.host, stored.boot, &*stored.hostname), (HostId([3; 16]), BootId([4; 16]), "a host"));
                prop_assert_eq!((stored.log_offset, stored.log_row as usize), (6, index));
            }
        }

        #[test]
        fn a_cell_of_the_wrong_value_names_its_column(event in any_event()) {
            let rows = rows(&[event], 0);
            let good = batch(&rows).unwrap();
            let mut columns = Columns::new(&good);
            columns.arrays.insert("uid".to_owned(), Arc::new(arrow_array::Int64Array::from(vec![-1])));
            prop_assert_eq!(event_at(&columns, 0).unwrap_err(), "uid");
            columns.arrays.insert("uid".to_owned(), Arc::new(arrow_array::StringArray::from(vec!["root"])));
            prop_assert_eq!(event_at(&columns, 0).unwrap_err(), "uid");
        }
    }

    #[test]
    fn a_column_that_is_said_to_belong_to_some_kinds_is_empty_for_all_others() {
        let mut runner = proptest::test_runner::TestRunner::deterministic();
        for _ in 0..200 {
            let event = any_event().new_tree(&mut runner).unwrap().current();
            let kind = event.kind();
            let row = rows(&[event], 0);
            for column in COLUMNS {
                if let Kinds::Only(kinds) = column.kinds
                    && !kinds.contains(&kind)
                {
                    // Built as if the kind were among its own.
                    let array = column.build(&row, kinds);
                    assert!(array.is_null(0), "{} holds a value for {}", column.name, kind.as_str());
                }
            }
        }
    }

    fn described(column: &Column) -> String {
        let kinds = match column.kinds {
            Kinds::Every => "all".to_owned(),
            Kinds::Only(kinds) => kinds.iter().map(|kind| kind.as_str()).collect::<Vec<_>>().join(", "),
        };
        format!("| `{}` | {} | {} | {} |", column.name, column.type_name(), kinds, column.meaning)
    }

    #[test]
    fn the_document_lists_exactly_these_columns() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/lake-schema.md");
        let text = std::fs::read_to_string(path).unwrap();
        let listed: Vec<&str> = text.lines().filter(|line| line.starts_with("| `")).collect();
        let table: Vec<String> = COLUMNS.iter().map(described).collect();
        let missing: Vec<&String> = table.iter().filter(|row| !listed.contains(&row.as_str())).collect();
        assert!(missing.is_empty(), "docs/lake-schema.md lacks these lines: {missing:#?}");
        assert_eq!(listed.len(), table.len(), "docs/lake-schema.md lists columns that are not there");
        assert!(listed.iter().zip(&table).all(|(listed, row)| listed == row), "their order differs");
    }
}
