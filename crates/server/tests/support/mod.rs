//! A started server in a directory of its own, an agent's end of its socket, and an HTTP client.

#![allow(dead_code, clippy::unwrap_used, reason = "each test program uses its part, and may unwrap")]

use std::io::{BufRead, BufReader, Read};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;
use watchfire_event::{
    Alert, AlertId, AlertTimes, Body, Books, BootId, BootNanos, Event, HostId, Kind, Level, MatchedField,
    Process, ProcessKey, ProcessNode, RuleId, StreamId, UnixNanos,
};
use watchfire_server::{Server, ServerHandle, ServerSettings, token_file};
use watchfire_wire::{BatchBuilder, PROTOCOL, encode_alert, encode_books, v1};

pub(crate) const HOSTNAME: &str = "tower-1";

/// A running server.
pub(crate) struct Running {
    pub(crate) dir: TempDir,
    pub(crate) server: ServerHandle,
    pub(crate) token: String,
}

/// An answer to an HTTP request.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> &str {
        let found = self.headers.iter().find(|(key, _)| key == name);
        found.map(|(_, value)| value.as_str()).unwrap_or_default()
    }

    pub(crate) fn lines(&self) -> Vec<Value> {
        self.body.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

impl Running {
    pub(crate) fn start() -> Running {
        Running::start_in(tempfile::tempdir().unwrap())
    }

    pub(crate) fn start_in(dir: TempDir) -> Running {
        let settings = ServerSettings::new(dir.path(), "127.0.0.1:0".parse().unwrap());
        let server = Server::start(settings).unwrap();
        let token = std::fs::read_to_string(token_file(dir.path())).unwrap().trim().to_owned();
        Running { dir, server, token }
    }

    /// Stops it and gives its directory back.
    pub(crate) fn stop(self) -> TempDir {
        assert!(self.server.stop(Duration::from_secs(10)), "not stopped in time");
        self.dir
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.server.address())
    }

    /// GET with the admin token.
    pub(crate) fn get(&self, path: &str) -> Answer {
        self.request("GET", path, &[("authorization", &format!("Bearer {}", self.token))])
    }

    /// Any request.
    pub(crate) fn request(&self, method: &str, path: &str, headers: &[(&str, &str)]) -> Answer {
        let mut response = self.send(method, path, headers);
        let headers = response.headers().iter();
        let headers =
            headers.map(|(key, value)| (key.to_string(), value.to_str().unwrap().to_owned())).collect();
        let status = response.status().as_u16();
        Answer { status, headers, body: response.body_mut().read_to_string().unwrap() }
    }

    /// Lines of a body that does not end.
    pub(crate) fn feed(&self, path: &str, headers: &[(&str, &str)]) -> impl BufRead + use<> {
        let response = self.send("GET", path, headers);
        assert_eq!(response.status().as_u16(), 200);
        BufReader::new(response.into_body().into_reader())
    }

    fn send(&self, method: &str, path: &str, headers: &[(&str, &str)]) -> ureq::http::Response<ureq::Body> {
        let config =
            ureq::Agent::config_builder().http_status_as_error(false).max_redirects(0).proxy(None).build();
        let agent: ureq::Agent = config.into();
        let mut request = ureq::http::Request::builder().method(method).uri(self.url(path));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        agent.run(request.body(()).unwrap()).unwrap()
    }

    pub(crate) fn connect(&self) -> TestAgent {
        TestAgent::connect(&self.server.agent_socket(), 1)
    }
}

/// Until `done` is true, 10 s at most.
pub(crate) fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let until = Instant::now() + Duration::from_secs(10);
    while !done() {
        assert!(Instant::now() < until, "{what}: not within 10 s");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// An agent's end of the stream.
pub(crate) struct TestAgent {
    pub(crate) socket: UnixStream,
    pub(crate) stream: StreamId,
    pub(crate) welcome: v1::Welcome,
    pub(crate) batches: u64,
}

/// Wall time of the test host's boot.
pub(crate) fn booted() -> UnixNanos {
    UnixNanos(UnixNanos::now().0 - 1_000_000_000_000)
}

/// Now, on the test host's boot clock.
pub(crate) fn now() -> BootNanos {
    BootNanos(1_000_000_000_000)
}

pub(crate) fn stream(incarnation: u64) -> StreamId {
    StreamId { host: HostId([7; 16]), boot: BootId([8; 16]), incarnation: BootNanos(incarnation) }
}

pub(crate) fn hello(stream: StreamId) -> v1::Hello {
    v1::Hello {
        protocol: PROTOCOL,
        host: stream.host.0.to_vec(),
        boot: stream.boot.0.to_vec(),
        incarnation: stream.incarnation.0,
        hostname: HOSTNAME.to_owned(),
        booted: booted().0,
        agent_version: "0.1.0".to_owned(),
        kernel: "6.12.0".to_owned(),
        os: "Debian GNU/Linux 13".to_owned(),
        earlier: false,
    }
}

impl TestAgent {
    pub(crate) fn connect(socket: &Path, incarnation: u64) -> TestAgent {
        TestAgent::say_hello(socket, hello(stream(incarnation)))
    }

    /// Hands over what an earlier life left.
    pub(crate) fn connect_earlier(socket: &Path, incarnation: u64) -> TestAgent {
        TestAgent::say_hello(socket, v1::Hello { earlier: true, ..hello(stream(incarnation)) })
    }

    fn say_hello(socket: &Path, hello: v1::Hello) -> TestAgent {
        let mut socket = UnixStream::connect(socket).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let stream = stream(hello.incarnation);
        send(&mut socket, v1::agent_frame::Body::Hello(hello));
        let Some(v1::server_frame::Body::Welcome(welcome)) = receive(&mut socket) else {
            panic!("no welcome")
        };
        let batches = welcome.last_batch;
        TestAgent { socket, stream, welcome, batches }
    }

    /// Sends the next batch, and does not wait.
    pub(crate) fn send_events(&mut self, events: &[Event]) -> u64 {
        self.batches += 1;
        self.send_batch(self.batches, events);
        self.batches
    }

    pub(crate) fn send_batch(&mut self, sequence: u64, events: &[Event]) {
        let mut builder = BatchBuilder::new();
        events.iter().for_each(|event| builder.push(event));
        let batch = prost::Message::decode(builder.finish(sequence).as_slice()).unwrap();
        send(&mut self.socket, v1::agent_frame::Body::Events(batch));
    }

    pub(crate) fn send_alerts(&mut self, alerts: &[Alert]) {
        let alerts = alerts.iter().map(encode_alert).collect();
        send(&mut self.socket, v1::agent_frame::Body::Alerts(v1::AlertBatch { alerts }));
    }

    pub(crate) fn send_status(&mut self, status: v1::Status) {
        send(&mut self.socket, v1::agent_frame::Body::Status(status));
    }

    pub(crate) fn send_books(&mut self, books: &Books, after_batch: u64) {
        send(&mut self.socket, v1::agent_frame::Body::Ledger(encode_books(books, after_batch)));
    }

    /// Waits until `batch` and `alert` are acknowledged.
    pub(crate) fn acknowledged(&mut self, batch: u64, alert: u64) {
        loop {
            match receive(&mut self.socket) {
                Some(v1::server_frame::Body::Ack(ack))
                    if ack.last_batch >= batch && ack.last_alert >= alert =>
                {
                    return;
                }
                Some(v1::server_frame::Body::Ack(_)) => {}
                other => panic!("instead of an ack: {other:?}"),
            }
        }
    }

    /// Whether the server has closed the connection.
    pub(crate) fn closed(&mut self) -> bool {
        let mut byte = [0];
        matches!(self.socket.read(&mut byte), Ok(0) | Err(_))
    }
}

pub(crate) fn send(socket: &mut UnixStream, body: v1::agent_frame::Body) {
    watchfire_wire::write_frame(socket, &v1::AgentFrame { body: Some(body) }).unwrap();
}

pub(crate) fn receive(socket: &mut UnixStream) -> Option<v1::server_frame::Body> {
    watchfire_wire::read_frame::<v1::ServerFrame>(socket).unwrap()?.body
}

pub(crate) fn attached() -> v1::Status {
    let source = |name: &str, state: &str, detail: &str| v1::SourceStatus {
        name: name.to_owned(),
        state: state.to_owned(),
        detail: detail.to_owned(),
    };
    v1::Status {
        sensors_attached: true,
        sources: vec![
            source("ebpf process", "active", "sees all"),
            source("audit", "standby", "ebpf is in use"),
        ],
        r#use: vec![v1::ProcessUse {
            role: "master".to_owned(),
            rss_bytes: 9_000_000,
            cpu_micros: 1_500_000,
        }],
        rule_faults: Vec::new(),
        rules_loaded: 27,
        ..v1::Status::default()
    }
}

pub(crate) fn process(tgid: u32, exe: &str, argv: &[u8]) -> Process {
    Process {
        key: ProcessKey { tgid, started: BootNanos(now().0 - 5_000_000) },
        parent: Some(ProcessKey { tgid: 1, started: BootNanos(1) }),
        exe: exe.as_bytes().to_vec(),
        argv: argv.to_vec(),
        argv_len: u32::try_from(argv.len()).unwrap(),
        cwd: b"/tmp".to_vec(),
        ..Process::default()
    }
}

pub(crate) fn event(process: Process, body: Body) -> Event {
    Event { at: now(), decoded: BootNanos(now().0 + 100_000), process: Arc::new(process), parent: None, body }
}

pub(crate) fn exec(tgid: u32, argv: &[u8]) -> Event {
    event(process(tgid, "/usr/bin/true", argv), Body::Exec)
}

pub(crate) fn alert(sequence: u64, level: Level, argv: &[u8]) -> Alert {
    let init = Process { exe: b"/sbin/init".to_vec(), ..process(1, "", b"init\0") };
    let tree = [process(4242, "/bin/sh", argv), init];
    Alert {
        id: AlertId::derive(stream(1), sequence),
        sequence,
        rule: RuleId { id: format!("rule-{sequence}"), title: format!("Shell on a socket {sequence}") },
        attack: vec!["T1059.004".to_owned()],
        level,
        kind: Kind::Exec,
        matched: vec![MatchedField { name: "exe".to_owned(), value: "/bin/sh".to_owned() }],
        tree: tree.map(|process| ProcessNode { process: Arc::new(process) }).to_vec(),
        times: AlertTimes {
            kernel: now(),
            decoded: BootNanos(now().0 + 200_000),
            judged: BootNanos(now().0 + 400_000),
            stored: None,
            booted: booted(),
        },
    }
}
