use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use serde_json::{Value, json};
use watchfire_app::{AppChange, AppKind, Clock, Document, Host, Intake, Lane, LaneSettings};
use watchfire_event::HostId;
use watchfire_pace::{RetryBudget, Stop};

use super::*;

/// What the app told.
#[derive(Default)]
struct Told(Vec<Report>);

impl Intake<Report> for Told {
    fn take(&mut self, _: usize, report: Report) {
        self.0.push(report);
    }

    fn refused(&mut self, _: usize, report: Report) {
        panic!("{report}: there is no limit");
    }

    fn changed(&mut self, _: usize, _: AppChange) {}
}

impl Told {
    fn about(&self, topic: &str, inode: u64) -> Vec<&Report> {
        let inode = inode.to_string();
        let is = |report: &&Report| report.topic() == topic && report.field("inode") == Some(&inode);
        self.0.iter().filter(is).collect()
    }

    fn scans(&self) -> Vec<&Report> {
        self.0.iter().filter(|report| report.topic() == "scan").collect()
    }
}

struct Running {
    lane: Lane<Report>,
    told: Told,
}

impl Running {
    fn start(settings: Value) -> Self {
        let clock = Clock::new(Instant::now());
        let retries = Arc::new(RetryBudget::per_minute(1, Instant::now()));
        let host = Host { id: HostId([1; 16]), clock, stop: Stop::new(), retries };
        let document = Document::switched_on(settings);
        let lane = Lane::new(host, LaneSettings::default(), vec![(AppKind::of::<Listeners>(), document)]);
        Running { lane, told: Told::default() }
    }

    /// Gives turns until `done`.
    fn until(&mut self, what: &str, mut done: impl FnMut(&Told) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(120);
        while !done(&self.told) {
            assert!(Instant::now() < deadline, "{what}: never; told: {:?}", self.told.0);
            let ready = self.lane.wait(None, Duration::from_millis(100)).unwrap();
            self.lane.round(&ready, &mut self.told);
        }
    }
}

fn inode(socket: &impl AsRawFd) -> u64 {
    std::fs::metadata(format!("/proc/self/fd/{}", socket.as_raw_fd())).unwrap().ino()
}

/// Fast, for tests: other settings differ in how long all takes.
fn every_second() -> Value {
    json!({ "every_s": 1, "cpu_percent": 100 })
}

#[test]
fn what_listens_before_and_after_the_start_is_told_with_its_process_and_its_end() {
    let before = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut running = Running::start(every_second());
    running.until("the first scan", |told| !told.scans().is_empty());
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    let after = TcpListener::bind("127.0.0.1:0").unwrap();
    let (udp_inode, after_inode) = (inode(&udp), inode(&after));
    running.until("the new ones", |told| {
        !told.about("listening", udp_inode).is_empty() && !told.about("listening", after_inode).is_empty()
    });
    let address: SocketAddr = after.local_addr().unwrap();
    drop((udp, after));
    running.until("their end", |told| {
        !told.about("closed", udp_inode).is_empty() && !told.about("closed", after_inode).is_empty()
    });

    let told = &running.told;
    let [early] = told.about("listening", inode(&before))[..] else { panic!("once: {:?}", told.0) };
    let tgid = std::process::id().to_string();
    assert_eq!(early.field("first"), Some("true"));
    assert_eq!(early.field("tgid"), Some(&*tgid));
    let exe = std::env::current_exe().unwrap();
    assert_eq!(early.field("exe").map(Path::new), Some(&*exe));
    let [late] = told.about("listening", after_inode)[..] else { panic!("once: {:?}", told.0) };
    let fields = ["protocol", "address", "port", "first", "tgid"].map(|name| late.field(name).unwrap());
    assert_eq!(fields, ["tcp", "127.0.0.1", &address.port().to_string(), "false", &tgid]);
    let [udp] = told.about("closed", udp_inode)[..] else { panic!("once: {:?}", told.0) };
    assert_eq!(
        (udp.field("protocol"), udp.field("tgid"), udp.field("first")),
        (Some("udp"), Some(&*tgid), None)
    );
    assert!(told.about("closed", inode(&before)).is_empty());
    let scan = told.scans()[0];
    assert_eq!((scan.field("first"), scan.field("whole")), (Some("true"), Some("true")), "{scan}");
    let parts = running.lane.status()[0].parts.clone();
    assert!(parts[0].details.iter().any(|detail| detail.contains("other network namespaces")), "{parts:?}");
}

#[test]
fn of_more_than_may_be_known_it_is_told_how_many_were_left_out_and_the_known_stay() {
    let many: Vec<_> = (0..40).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    let mut running = Running::start(json!({ "every_s": 1, "cpu_percent": 100, "most": 16 }));
    running.until("some scans", |told| told.scans().len() >= 3);
    let listening = running.told.0.iter().filter(|report| report.topic() == "listening").count();
    let closed = running.told.0.iter().filter(|report| report.topic() == "closed").count();
    // Other tests of this process, and other programs, listen too, and come and go.
    assert!(listening - closed <= 16, "{listening} came, {closed} went");
    let scan = running.told.scans()[0];
    let left_out: u64 = scan.field("left_out").unwrap().parse().unwrap();
    assert!(left_out >= 24 && scan.field("whole") == Some("false"), "{scan}");
    let all: Vec<u64> = many.iter().map(inode).collect();
    assert!(all.iter().all(|inode| running.told.about("closed", *inode).is_empty()));
}

#[test]
fn other_settings_are_no_reason_to_tell_everything_again() {
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut running = Running::start(json!({ "every_s": 3600, "cpu_percent": 100 }));
    running.lane.configure(Listeners::NAME, Document::switched_on(every_second()), &mut running.told);
    running.until("the first scan", |told| !told.scans().is_empty());
    let later = TcpListener::bind("127.0.0.1:0").unwrap();
    running.lane.configure(
        Listeners::NAME,
        Document::switched_on(json!({ "every_s": 2 })),
        &mut running.told,
    );
    running.until("the new one", |told| !told.about("listening", inode(&later)).is_empty());
    assert_eq!(running.told.about("listening", inode(&socket)).len(), 1);
}

#[test]
fn settings_out_of_range_are_refused_by_name() {
    for (key, value) in [
        ("every_s", 0),
        ("every_s", 86_401),
        ("cpu_percent", 0),
        ("cpu_percent", 101),
        ("most", 15),
        ("deadline_s", 0),
    ] {
        let document = json!({ key: value });
        let error = AppKind::of::<Listeners>().check(Some(&document)).unwrap_err().to_string();
        assert!(error.contains(&format!("listeners.{key}")), "{error}");
    }
    assert_eq!(AppKind::of::<Listeners>().check(None).unwrap()["every_s"], 300);
}
