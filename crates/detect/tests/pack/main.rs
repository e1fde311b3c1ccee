//! Every rule and detector of the pack, asked through the engine as the agent does: what must be told, what looks like
//! it and must not be, and what servers do all day.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise, helpers included")]

use std::collections::BTreeSet;
use std::sync::Arc;

use proptest::prelude::*;
use watchfire_detect::{DetectSettings, Engine, Loaded, detectors, load_rules, pack, rule_id};
use watchfire_event::{
    Alert, Body, BootNanos, ContainerId, Credentials, Event, FileAction, FileActivity, Flow, Level,
    LoginAttempt, MountActivity, NamespaceActivity, Outcome, Process, ProcessKey, PtraceActivity, Stdio,
    StreamId, Transport, UnixNanos,
};
use watchfire_rule::{LoadLimits, RuleText, load};

mod cases;

use cases::cases;

/// A process to be changed into what a case needs.
#[derive(Clone)]
struct Made {
    process: Process,
    parent: Option<Process>,
}

fn key(tgid: u32) -> ProcessKey {
    ProcessKey { tgid, started: BootNanos(u64::from(tgid) + 1) }
}

fn bare(tgid: u32, exe: &str, line: &str) -> Process {
    let args: Vec<&str> = line.split(' ').collect();
    let argv: Vec<u8> = args.iter().flat_map(|arg| arg.bytes().chain([0])).collect();
    let name = args[0].rsplit('/').next().unwrap();
    let mut process = Process {
        key: key(tgid),
        parent: Some(key(100)),
        exe: exe.as_bytes().to_vec(),
        filename: exe.as_bytes().to_vec(),
        argv_len: u32::try_from(argv.len()).unwrap(),
        argv,
        comm: name.bytes().take(15).collect(),
        cwd: b"/root".to_vec(),
        stdio: [Stdio::Tty; 3],
        ..Process::default()
    };
    process.image.inode = 42;
    process.image.links = 1;
    process.image.mode = 0o100_755;
    process
}

fn run(exe: &str, line: &str) -> Made {
    Made { process: bare(200, exe, line), parent: Some(bare(100, "/usr/bin/bash", "bash")) }
}

impl Made {
    fn tgid(mut self, tgid: u32) -> Self {
        self.process.key = key(tgid);
        self
    }

    fn under(mut self, exe: &str, line: &str) -> Self {
        self.parent = Some(bare(100, exe, line));
        self
    }

    fn stdio(mut self, stdin: Stdio, stdout: Stdio) -> Self {
        self.process.stdio = [stdin, stdout, Stdio::Tty];
        self
    }

    fn change(mut self, change: impl FnOnce(&mut Process)) -> Self {
        change(&mut self.process);
        self
    }

    fn uid(self, uid: u32, euid: u32) -> Self {
        self.change(|process| {
            process.credentials = Credentials { uid, euid, suid: euid, ..Credentials::default() }
        })
    }

    fn inside(self) -> Self {
        self.change(|process| process.container = Some(ContainerId("c0ffee".into())))
    }

    fn does(self, body: Body) -> Event {
        let at = BootNanos(1_000_000_000_000);
        Event { at, decoded: at, process: Arc::new(self.process), parent: self.parent.map(Arc::new), body }
    }

    fn exec(self) -> Event {
        self.does(Body::Exec)
    }

    fn file(self, action: FileAction, path: &str) -> Event {
        self.does(Body::File(FileActivity {
            action,
            path: path.as_bytes().to_vec(),
            new_path: None,
            mode: Some(0o100_644),
            uid: Some(0),
        }))
    }

    fn mode(self, action: FileAction, path: &str, mode: u32) -> Event {
        let mut event = self.file(action, path);
        if let Body::File(file) = &mut event.body {
            file.mode = Some(mode);
        }
        event
    }

    fn renames(self, from: &str, to: &str) -> Event {
        let mut event = self.file(FileAction::Rename, from);
        if let Body::File(file) = &mut event.body {
            file.new_path = Some(to.as_bytes().to_vec());
        }
        event
    }

    fn connects(self, remote: &str, outcome: Outcome) -> Event {
        self.does(Body::Connect(Flow {
            transport: Transport::Tcp,
            local: "127.0.0.1:50000".parse().unwrap(),
            remote: remote.parse().unwrap(),
            outcome,
        }))
    }

    fn mounts(self, source: &str, target: &str, fstype: &str) -> Event {
        self.does(Body::Mount(MountActivity {
            call: "mount",
            source: source.as_bytes().to_vec(),
            target: target.as_bytes().to_vec(),
            fstype: fstype.as_bytes().to_vec(),
            flags: 0,
            result: 0,
        }))
    }

    fn ptraces(self, request: &'static str, result: i32) -> Event {
        let target_process = Some(Arc::new(bare(300, "/usr/bin/sleep", "sleep 9")));
        self.does(Body::Ptrace(PtraceActivity { request, target: 300, target_process, result }))
    }

    fn logs_in(self, remote: &str, accepted: bool) -> Event {
        self.does(Body::Login(LoginAttempt {
            service: b"sshd".to_vec(),
            user: b"root".to_vec(),
            remote: Some(remote.parse().unwrap()),
            method: b"password".to_vec(),
            accepted,
        }))
    }
}

fn inet() -> Stdio {
    Stdio::Inet("10.0.0.9:4444".parse().unwrap())
}

fn engine() -> Engine {
    let Loaded { rules, faults, .. } = load_rules(&DetectSettings::default());
    assert!(faults.is_empty(), "{faults:#?}");
    Engine::new(rules, &DetectSettings::default(), StreamId::default(), UnixNanos(5))
}

/// Only the rule of this name (detectors are always there): loading the whole pack for each case takes its time.
fn engine_of(slug: &str) -> Engine {
    let texts: Vec<RuleText> = pack()
        .iter()
        .filter(|rule| rule.slug == slug)
        .map(|rule| RuleText { source: rule.source.into(), text: rule.text.into() })
        .collect();
    let loaded = load(&texts, LoadLimits::default());
    Engine::new(loaded.rules, &DetectSettings::default(), StreamId::default(), UnixNanos(5))
}

fn judged(engine: &mut Engine, events: &[Event]) -> Vec<Alert> {
    let mut alerts = Vec::new();
    let alone = |_: &Process| Vec::new();
    for event in events {
        engine.judge(event, &alone, || BootNanos(event.at.0 + 1), &mut |alert| alerts.push(alert));
    }
    alerts
}

/// One case: the rule, what must be told, what must not.
type Case = (&'static str, Vec<Vec<Event>>, Vec<Vec<Event>>);

fn one(event: Event) -> Vec<Event> {
    vec![event]
}

#[test]
fn every_rule_tells_its_attack_and_keeps_quiet_about_the_twin() {
    let mut wrong = Vec::new();
    for (slug, attacks, twins) in cases() {
        let id = rule_id(slug).unwrap_or_else(|| panic!("{slug} is no rule"));
        for (index, events) in attacks.iter().enumerate() {
            let alerts = judged(&mut engine_of(slug), events);
            if !alerts.iter().any(|alert| alert.rule.id == id) {
                wrong.push(format!("{slug}: attack {index} was not told; told: {:?}", titles(&alerts)));
            }
            for alert in alerts.iter().filter(|alert| alert.rule.id == id) {
                assert!(
                    !alert.matched.is_empty() && !alert.attack.is_empty() && !alert.tree.is_empty(),
                    "{slug}"
                );
            }
        }
        for (index, events) in twins.iter().enumerate() {
            let alerts = judged(&mut engine_of(slug), events);
            if alerts.iter().any(|alert| alert.rule.id == id) {
                wrong.push(format!("{slug}: twin {index} was told: {:?}", alerts[0].matched));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

fn titles(alerts: &[Alert]) -> Vec<&str> {
    alerts.iter().map(|alert| alert.rule.title.as_str()).collect()
}

#[test]
fn every_rule_and_detector_has_a_case() {
    let cased: BTreeSet<&str> = cases()
        .iter()
        .map(|(slug, attacks, twins)| {
            assert!(!attacks.is_empty() && !twins.is_empty(), "{slug}");
            *slug
        })
        .collect();
    let all: BTreeSet<&str> =
        pack().iter().map(|rule| rule.slug).chain(detectors().map(|info| info.slug)).collect();
    assert_eq!(cased, all);
}

/// What servers do all day may be noted; it may not be called high.
#[test]
fn everyday_work_raises_nothing_high() {
    use FileAction::{Attrib, Create, Write};
    let apt = || {
        run("/usr/bin/dpkg", "/usr/bin/dpkg --unpack x.deb").under("/usr/bin/apt-get", "apt-get install -y x")
    };
    let postinst = |exe: &str, line: &str| {
        run(exe, line).under("/usr/bin/dash", "/bin/sh /var/lib/dpkg/info/x.postinst configure")
    };
    let ansible = |exe: &str, line: &str| {
        run(exe, line).under("/usr/bin/python3.11", "python3 /root/.ansible/tmp/x/AnsiballZ_command.py")
    };
    let cron = |exe: &str, line: &str| {
        run(exe, line).under("/usr/sbin/cron", "/usr/sbin/CRON -f").stdio(Stdio::Pipe(1), Stdio::Pipe(2))
    };
    let events = [
        apt().exec(),
        apt().file(Create, "/etc/cron.d/x.dpkg-new"),
        apt().renames("/usr/lib/systemd/system/x.service.dpkg-new", "/usr/lib/systemd/system/x.service"),
        apt().mode(Attrib, "/usr/bin/ping", 0o104_755),
        apt().file(Write, "/etc/shadow-new"),
        postinst("/usr/sbin/useradd", "useradd --system x").exec(),
        postinst("/usr/sbin/useradd", "useradd --system x").renames("/etc/shadow+", "/etc/shadow"),
        postinst("/usr/bin/systemctl", "systemctl daemon-reload").exec(),
        postinst("/usr/bin/perl", "perl /usr/bin/deb-systemd-helper enable x.service")
            .file(Create, "/etc/systemd/system/multi-user.target.wants/x.service"),
        ansible("/usr/bin/dash", "/bin/sh -c uname -a").stdio(Stdio::Pipe(1), Stdio::Pipe(2)).exec(),
        ansible("/usr/bin/python3.11", "python3").file(Write, "/root/.ssh/authorized_keys"),
        ansible("/usr/bin/python3.11", "python3").file(Write, "/etc/sudoers.d/90-admins"),
        ansible("/usr/bin/python3.11", "python3").renames("/etc/.ansible_tmp", "/etc/passwd"),
        cron("/usr/bin/dash", "/bin/sh -c test -x /usr/sbin/anacron || run-parts /etc/cron.daily").exec(),
        cron("/usr/sbin/logrotate", "logrotate /etc/logrotate.conf")
            .renames("/var/log/syslog", "/var/log/syslog.1"),
        run("/usr/bin/bash", "-bash").under("/usr/sbin/sshd", "sshd: root@pts/0").exec(),
        run("/usr/bin/bash", "bash -c hostname")
            .under("/usr/sbin/sshd", "sshd: root@notty")
            .stdio(Stdio::Pipe(1), Stdio::Pipe(2))
            .exec(),
        run("/usr/bin/sudo", "sudo apt-get update").uid(1000, 0).exec(),
        run("/usr/bin/bash", "-bash").under("/usr/bin/sudo", "sudo -i").exec(),
        run("/usr/bin/gcc", "gcc -o /tmp/ccX.o").exec(),
        run("/tmp/go-build123/b001/x.test", "x.test").exec(),
        run("/usr/bin/bash", "bash /tmp/runner/job.sh").exec(),
        run("/usr/bin/curl", "curl -fsSL https://h/install.sh")
            .tgid(301)
            .stdio(Stdio::Tty, Stdio::Pipe(77))
            .exec(),
        run("/usr/bin/dash", "sh").tgid(302).stdio(Stdio::Pipe(77), Stdio::Tty).exec(),
        run("/usr/lib/systemd/systemd", "systemd").does(Body::BpfLoad {
            program_type: 8,
            name: b"sd".to_vec(),
            result: 4,
        }),
        run("/usr/lib/systemd/systemd-udevd", "udevd").does(Body::ModuleLoad {
            name: b"kvm".to_vec(),
            call: "finit_module",
            result: 0,
        }),
        run("/usr/bin/dockerd", "dockerd").mounts("overlay", "/var/lib/docker/overlay2/x/merged", "overlay"),
        run("/usr/bin/runc", "runc init").inside().mounts("proc", "/proc", "proc"),
        run("/usr/bin/runc", "runc init").inside().does(Body::Namespace(NamespaceActivity {
            call: "setns",
            flags: 0x2_0000,
            result: 0,
        })),
        run("/usr/bin/git", "git pull").connects("140.82.121.3:443", Outcome::Succeeded),
        run("/usr/bin/vim.basic", "vim /root/.bashrc").file(Write, "/root/.bashrc"),
        run("/usr/bin/python3.11", "python3 -c import socket; print(socket.gethostname())").exec(),
        run("/usr/bin/systemd-tmpfiles", "systemd-tmpfiles --create").mode(
            Attrib,
            "/tmp/.X11-unix",
            0o041_777,
        ),
    ];
    for alert in judged(&mut engine(), &events) {
        assert!(
            alert.level < Level::High,
            "{} on {}",
            alert.rule.title,
            watchfire_event::printable_argv(&alert.tree[0].process.argv)
        );
    }
}

#[test]
fn alerts_are_numbered_without_gaps_and_carry_tree_times_and_escaped_fields() {
    let mut engine = engine();
    let init = Arc::new(bare(1, "/sbin/init", "init"));
    let shell = Arc::new(bare(100, "/usr/bin/bash", "bash"));
    let lineage = |_: &Process| vec![Arc::clone(&shell), Arc::clone(&init), Arc::clone(&init)];
    let mut alerts = Vec::new();
    for tgid in 0..10 {
        let event =
            run("/tmp/\u{1b}[2Jx", "x \u{1b}]0;evil").tgid(500 + tgid).change(|p| p.image.links = 0).exec();
        engine.judge(&event, &lineage, || BootNanos(event.at.0 + 7), &mut |alert| alerts.push(alert));
    }
    assert_eq!(alerts.iter().map(|alert| alert.sequence).collect::<Vec<_>>(), (1..=20).collect::<Vec<u64>>());
    assert_eq!(alerts.iter().map(|alert| alert.id).collect::<BTreeSet<_>>().len(), 20);
    let alert = &alerts[0];
    assert_eq!(alert.tree.iter().map(|node| node.process.key.tgid).collect::<Vec<_>>(), [500, 100, 1]);
    assert_eq!((alert.times.judged.0 - alert.times.kernel.0, alert.times.booted), (7, UnixNanos(5)));
    for field in alerts.iter().flat_map(|alert| &alert.matched) {
        assert!(!field.value.chars().any(char::is_control), "{field:?}");
    }
    assert_eq!(engine.counts().alerts, 20);
}

#[test]
fn a_repeated_match_is_held_back_and_counted_and_a_disabled_rule_says_nothing() {
    let read = || run("/usr/bin/cat", "cat").file(FileAction::Open, "/etc/shadow");
    let mut later = read();
    later.at = BootNanos(later.at.0 + 61_000_000_000);
    let mut one = engine();
    let alerts = judged(&mut one, &[read(), read(), read(), later]);
    assert_eq!(alerts.len(), 2);
    let last = alerts[1].matched.last().unwrap();
    assert_eq!((last.name.as_str(), last.value.as_str()), ("alert.repeated", "2"));
    assert_eq!(one.counts().suppressed, 2);

    let disabled = vec![rule_id("shadow_read").unwrap().to_owned(), "port_scan".to_owned()];
    let settings = DetectSettings { disabled, ..DetectSettings::default() };
    let mut silent = Engine::new(load_rules(&settings).rules, &settings, StreamId::default(), UnixNanos(0));
    assert!(judged(&mut silent, &[read()]).is_empty());
    assert_eq!(silent.counts().disabled, 1);
}

#[test]
fn a_users_directory_is_loaded_beside_the_pack_and_cannot_take_its_ids() {
    let dir = tempfile::tempdir().unwrap();
    let own = "title: Mine\nid: 99999999-0000-4000-8000-000000000000\nlogsource: {category: process_creation}\ndetection:\n    s: {process.name: frobnicate}\n    condition: s\n";
    std::fs::write(dir.path().join("mine.yml"), own).unwrap();
    let thief = own.replace("99999999-0000-4000-8000-000000000000", rule_id("shadow_read").unwrap());
    std::fs::write(dir.path().join("thief.yml"), thief).unwrap();
    let settings = DetectSettings {
        dirs: vec![dir.path().to_owned(), dir.path().join("absent")],
        ..DetectSettings::default()
    };
    let loaded = load_rules(&settings);
    assert_eq!(loaded.faults.len(), 2, "{:?}", loaded.faults);
    let mut engine = Engine::new(loaded.rules, &settings, StreamId::default(), UnixNanos(0));
    let alerts = judged(&mut engine, &[run("/usr/bin/frobnicate", "frobnicate").exec()]);
    assert_eq!(titles(&alerts), ["Mine"]);
    assert_eq!(
        judged(&mut engine, &[run("/usr/bin/cat", "cat").file(FileAction::Open, "/etc/shadow")]).len(),
        1
    );
}

/// Any event, of bytes an attacker chose.
fn hostile() -> impl Strategy<Value = Event> {
    let bytes = || prop::collection::vec(prop_oneof![any::<u8>(), Just(b'/'), Just(0), Just(b'-')], 0..40);
    let exe = prop_oneof![
        bytes(),
        Just(b"/usr/bin/bash".to_vec()),
        Just(b"/bin/busybox".to_vec()),
        Just(b"/usr/bin/sudo".to_vec()),
        Just(b"/usr/bin/curl".to_vec()),
        Just(b"/usr/bin/base64".to_vec()),
        Just(b"/tmp/x".to_vec()),
    ];
    let stdio = prop_oneof![Just(Stdio::Tty), (0u64..3).prop_map(Stdio::Pipe), Just(inet())];
    let made = (exe, bytes(), bytes(), 1u32..6, 0u32..6, stdio.clone(), stdio, 0u64..2_000);
    (made, 0usize..12, bytes(), any::<i32>()).prop_map(
        |((exe, argv, comm, tgid, parent, stdin, stdout, at), kind, name, result)| {
            let mut process = bare(tgid, "x", "x");
            process.parent = Some(key(parent));
            process.filename = name.clone();
            (process.exe, process.argv, process.comm) = (exe, argv, comm);
            process.stdio = [stdin, stdout, Stdio::Unknown];
            let made = Made { process, parent: None };
            let path = String::from_utf8_lossy(&name).into_owned();
            let mut event = match kind {
                0..4 => made.exec(),
                4 => made.connects("10.0.0.9:1", Outcome::Failed(result)),
                5 => made.connects("[::1]:1", Outcome::Succeeded),
                6 => made.mode(FileAction::Write, "/tmp/x", 0o777),
                7 => made.renames(&path, "/tmp/x"),
                8 => made.mounts(&path, &path, &path),
                9 => made.does(Body::ModuleLoad { name, call: "init_module", result }),
                10 => made.logs_in("10.0.0.9:1", result > 0),
                _ => made.does(Body::Memfd { name }),
            };
            event.at = BootNanos(at * 1_000_000_000);
            event
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    /// Nothing an event may hold stops the engine, in whatever order of time; what comes out is numbered and bounded.
    #[test]
    fn no_sequence_of_hostile_events_stops_the_engine(events in prop::collection::vec(hostile(), 1..120)) {
        let mut engine = engine();
        let alerts = judged(&mut engine, &events);
        for (index, alert) in alerts.iter().enumerate() {
            prop_assert_eq!(alert.sequence, index as u64 + 1);
            prop_assert!(alert.matched.len() <= 20 && !alert.tree.is_empty());
            for field in &alert.matched {
                prop_assert!(field.value.len() <= 2048 && !field.value.chars().any(char::is_control), "{:?}", field);
            }
        }
        prop_assert_eq!(engine.counts().panics, 0);
        prop_assert_eq!(engine.counts().judged, events.len() as u64);
    }
}
