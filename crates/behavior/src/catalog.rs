//! Every behaviour: which rule must see it, what it is called, what it needs, who performs it.

use crate::{
    BehaviorError, Need, Performed, Stage, credential, discovery, escape, evasion, execution, exfiltration,
    persistence, privilege, reverse_shell,
};

/// An attack-like behaviour and its benign twin.
#[derive(Debug, Clone, Copy)]
pub struct Behavior {
    /// The rule that must speak, by its slug. Several behaviours may share one.
    pub slug: &'static str,
    /// Unique: the slug and the variant, `reverse_shell_socket/python3`.
    pub name: &'static str,
    /// What people read.
    pub title: Title,
    /// Does what an intruder would.
    pub attack: fn(&Stage) -> Result<Performed, BehaviorError>,
    /// Does the closest legitimate thing; the rule must stay quiet.
    pub benign: fn(&Stage) -> Result<(), BehaviorError>,
    /// What both need of the host; see [`crate::missing`].
    pub needs: &'static [Need],
    /// One of the handful that `watchfire demo` performs.
    pub demo: bool,
}

/// A behaviour's title.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Title {
    /// English.
    pub en: &'static str,
    /// Chinese.
    pub zh: &'static str,
}

impl Behavior {
    const fn new(
        name: &'static str,
        title: (&'static str, &'static str),
        needs: &'static [Need],
        attack: fn(&Stage) -> Result<Performed, BehaviorError>,
        benign: fn(&Stage) -> Result<(), BehaviorError>,
    ) -> Self {
        let title = Title { en: title.0, zh: title.1 };
        Self { slug: before_slash(name), name, title, attack, benign, needs, demo: false }
    }

    const fn in_demo(self) -> Self {
        Self { demo: true, ..self }
    }
}

/// `a/b` → `a`.
const fn before_slash(name: &'static str) -> &'static str {
    let mut end = 0;
    while end < name.len() && name.as_bytes()[end] != b'/' {
        end += 1;
    }
    name.split_at(end).0
}

const NOTHING: &[Need] = &[];
const ROOT: &[Need] = &[Need::Root];
const BASH: &[Need] = &[Need::Tool("bash")];
const PYTHON: &[Need] = &[Need::Tool("python3")];
const PERL: &[Need] = &[Need::Tool("perl")];
const SOCAT: &[Need] = &[Need::Tool("socat")];
const NC: &[Need] = &[Need::Tool("nc")];
const NCAT: &[Need] = &[Need::Tool("ncat")];
const BUSYBOX_NC: &[Need] = &[Need::Busybox { applet: "nc", option: "-e" }];
const ROOT_BASH: &[Need] = &[Need::Root, Need::Tool("bash")];
const ROOT_STRACE: &[Need] = &[Need::Root, Need::Tool("strace")];
const ROOT_UNSHARE: &[Need] = &[Need::Root, Need::Tool("unshare"), Need::Tool("nsenter")];
const CURL: &[Need] = &[Need::Tool("curl")];
const WGET: &[Need] = &[Need::Tool("wget")];
const TAR_CURL: &[Need] = &[Need::Tool("tar"), Need::Tool("curl")];
const TAR_WGET: &[Need] = &[Need::Tool("tar"), Need::Tool("wget")];
const SUDO: &[Need] = &[Need::Root, Need::Tool("sudo")];
const USERADD: &[Need] = &[Need::Root, Need::Tool("useradd")];
const SSH: &[Need] =
    &[Need::Root, Need::Tool("sshd"), Need::Tool("ssh"), Need::Tool("ssh-keygen"), Need::Tool("unshare")];

/// All of them, in the order an intruder would go.
#[rustfmt::skip]
pub static BEHAVIORS: &[Behavior] = &[
    Behavior::new("reverse_shell_socket/bash", ("bash reverse shell over /dev/tcp", "bash 经 /dev/tcp 反弹 shell"), BASH, reverse_shell::by_bash, reverse_shell::shell_on_file_and_cat_on_socket).in_demo(),
    Behavior::new("reverse_shell_socket/python3", ("Python reverse shell", "Python 反弹 shell"), PYTHON, reverse_shell::by_python, reverse_shell::python_client_runs_shell),
    Behavior::new("reverse_shell_socket/perl", ("Perl reverse shell", "Perl 反弹 shell"), PERL, reverse_shell::by_perl, reverse_shell::perl_client),
    Behavior::new("reverse_shell_socket/socat-nofork", ("socat hands its connection to a shell", "socat 将连接直接交给 shell"), SOCAT, reverse_shell::by_socat_nofork, reverse_shell::socat_runs_cat),
    Behavior::new("reverse_shell_socket/socat", ("socat reverse shell over a socket pair", "socat 经套接字对反弹 shell"), SOCAT, reverse_shell::by_socat, credential::ssh_command),
    Behavior::new("reverse_shell_socket/busybox", ("busybox nc reverse shell", "busybox nc 反弹 shell"), BUSYBOX_NC, reverse_shell::by_busybox, reverse_shell::busybox_sends_file),
    Behavior::new("reverse_shell_pipe/mkfifo", ("reverse shell through a named pipe and nc", "经命名管道与 nc 反弹 shell"), NC, reverse_shell::by_fifo_and_nc, reverse_shell::nc_sends_file),
    Behavior::new("reverse_shell_pipe/ncat", ("ncat reverse shell", "ncat 反弹 shell"), NCAT, reverse_shell::by_ncat, reverse_shell::ncat_sends_file),
    Behavior::new("reverse_shell_pipe/socat", ("socat reverse shell over pipes", "socat 经管道反弹 shell"), SOCAT, reverse_shell::by_socat_pipes, reverse_shell::socat_runs_cat),
    Behavior::new("reverse_shell_pipe/native", ("native implant with a shell on two pipes", "原生植入程序经双管道操纵 shell"), NOTHING, reverse_shell::by_native_pipes, reverse_shell::daemon_calls_popen).in_demo(),
    Behavior::new("shell_network_connect", ("shell opens a network connection itself", "shell 自行发起网络连接"), BASH, reverse_shell::shell_connects, reverse_shell::shell_runs_client),

    Behavior::new("fileless_exec/memfd", ("program run from memory", "从内存执行程序"), NOTHING, execution::from_memory, execution::memory_for_data).in_demo(),
    Behavior::new("fileless_exec/python3", ("program run from memory by Python", "Python 从内存执行程序"), PYTHON, execution::from_memory_by_python, execution::memory_for_data),
    Behavior::new("fileless_exec/unlinked", ("program run after its file was removed", "执行已删除文件的程序"), NOTHING, execution::from_unlinked_file, execution::memory_for_data),
    Behavior::new("exec_world_writable/program", ("program run from a world-writable folder", "从任意可写目录执行程序"), NOTHING, execution::from_world_writable, execution::work_in_world_writable).in_demo(),
    Behavior::new("exec_world_writable/script", ("script run from a world-writable folder", "从任意可写目录执行脚本"), NOTHING, execution::script_from_world_writable, execution::work_in_world_writable),
    Behavior::new("exec_dropped_file", ("program dropped and run within a moment", "落地后立即执行程序"), NOTHING, execution::drop_and_run, execution::drop_only),
    Behavior::new("web_server_spawns_shell", ("web server starts a shell", "Web 服务器启动 shell"), BASH, execution::web_server_runs_shell, execution::web_server_runs_worker).in_demo(),
    Behavior::new("download_and_execute/curl", ("download with curl, then run", "curl 下载后执行"), CURL, execution::download_by_curl, execution::download_and_check),
    Behavior::new("download_and_execute/wget", ("download with wget, then run", "wget 下载后执行"), WGET, execution::download_by_wget, execution::download_by_wget_and_check),
    Behavior::new("download_and_execute/python3", ("download with Python, then run", "Python 下载后执行"), PYTHON, execution::download_by_python, execution::download_by_python_and_check),
    Behavior::new("download_and_execute/pipe", ("download piped into a shell", "下载内容直接送入 shell"), CURL, execution::download_into_shell, execution::download_and_check),
    Behavior::new("decode_and_execute/base64", ("base64 text piped into a shell", "base64 解码后送入 shell"), NOTHING, execution::decode_into_shell, execution::decode_to_file).in_demo(),
    Behavior::new("decode_and_execute/python3", ("base64 text piped into Python", "base64 解码后送入 Python"), PYTHON, execution::decode_into_python, execution::decode_and_print_by_python),
    Behavior::new("crypto_miner/xmrig", ("crypto miner's command line", "挖矿程序命令行"), NOTHING, execution::miner, execution::client_with_address).in_demo(),
    Behavior::new("crypto_miner/renamed", ("crypto miner under another name", "改名的挖矿程序"), NOTHING, execution::renamed_miner, execution::client_with_address),

    Behavior::new("ssh_authorized_keys/append", ("ssh key added", "添加 SSH 公钥"), NOTHING, persistence::ssh_key_appended, persistence::known_host_added).in_demo(),
    Behavior::new("ssh_authorized_keys/rename", ("ssh keys replaced by a rename", "以重命名替换 SSH 公钥文件"), NOTHING, persistence::ssh_key_moved_in, persistence::known_host_added),
    Behavior::new("cron_persistence/cron.d", ("cron job added", "添加 cron 任务"), NOTHING, persistence::cron_job, persistence::cron_read).in_demo(),
    Behavior::new("cron_persistence/crontab", ("crontab moved into the spool", "将 crontab 移入任务目录"), NOTHING, persistence::crontab_moved_in, persistence::cron_read),
    Behavior::new("systemd_persistence/service", ("systemd service added", "添加 systemd 服务"), NOTHING, persistence::systemd_unit, persistence::systemd_read).in_demo(),
    Behavior::new("systemd_persistence/timer", ("systemd timer linked in", "以硬链接添加 systemd 定时器"), NOTHING, persistence::systemd_timer_linked, persistence::systemd_read),
    Behavior::new("shell_profile_persistence/bashrc", ("line added to .bashrc", "向 .bashrc 添加命令"), NOTHING, persistence::bashrc_appended, persistence::editor_settings),
    Behavior::new("shell_profile_persistence/profile.d", ("script added to profile.d", "向 profile.d 添加脚本"), NOTHING, persistence::profile_script, persistence::editor_settings),
    Behavior::new("ld_so_preload", ("library preloaded into every program", "写入 ld.so.preload 全局预加载库"), NOTHING, persistence::preload, persistence::library_folder).in_demo(),
    Behavior::new("pam_changed", ("PAM stack weakened", "PAM 认证配置被削弱"), NOTHING, persistence::pam_line, persistence::pam_read),
    Behavior::new("sudoers_changed", ("sudo rule added", "添加 sudo 规则"), NOTHING, persistence::sudoers_rule, persistence::sudoers_read),
    Behavior::new("account_created/passwd", ("second root written into passwd", "向 passwd 写入第二个 root"), NOTHING, persistence::account_by_hand, persistence::account_lookup),
    Behavior::new("account_created/useradd", ("account made by useradd", "useradd 创建账户"), USERADD, persistence::account_by_useradd, persistence::account_lookup),

    Behavior::new("setuid_shell", ("set-uid root shell run by another user", "普通用户执行 setuid root shell"), ROOT_BASH, privilege::setuid_shell, privilege::setuid_program).in_demo(),
    Behavior::new("suspicious_sudo", ("sudo find made to run a shell", "利用 sudo find 执行 shell"), SUDO, privilege::sudo_find_exec, privilege::sudo_true),
    Behavior::new("ptrace_injection/attach", ("code written into a process by ptrace", "经 ptrace 向进程注入代码"), ROOT, privilege::poke_process, privilege::trace_own_child),
    Behavior::new("ptrace_injection/writev", ("another process' memory written", "直接写入其他进程内存"), ROOT, privilege::write_process_memory, privilege::trace_own_child),
    Behavior::new("ptrace_injection/beside-strace", ("code written into a process by ptrace, beside strace", "经 ptrace 注入（对照 strace）"), ROOT_STRACE, privilege::poke_process, privilege::strace_own_child),
    Behavior::new("kernel_module_load", ("kernel module offered", "加载内核模块"), ROOT, privilege::load_module, privilege::list_modules),
    Behavior::new("bpf_program_load", ("eBPF program loaded", "加载 eBPF 程序"), ROOT, privilege::load_bpf_program, privilege::make_bpf_map),

    Behavior::new("container_escape_mount/namespace", ("host disk mounted from another mount namespace", "在其他挂载命名空间挂载宿主机磁盘"), ROOT, escape::mount_host_disk, escape::mount_private_tmp),
    Behavior::new("container_escape_mount/container", ("host disk mounted from a container", "容器内挂载宿主机磁盘"), ROOT, escape::mount_host_disk_from_container, escape::work_in_container),
    Behavior::new("release_agent", ("cgroup release agent written", "写入 cgroup release_agent"), NOTHING, escape::write_release_agent, escape::use_cgroup),
    Behavior::new("namespace_escape/nsenter", ("nsenter into process 1", "nsenter 进入 1 号进程命名空间"), ROOT_UNSHARE, escape::nsenter_init, escape::enter_sandbox),
    Behavior::new("namespace_escape/setns", ("from a container into the host's mount namespace", "从容器进入宿主机挂载命名空间"), ROOT, escape::join_host_mounts, escape::work_in_container),
    Behavior::new("namespace_escape/user", ("user namespace made by an unusual program", "异常程序创建用户命名空间"), ROOT, escape::make_user_namespace, escape::make_sandbox),

    Behavior::new("history_wiped/rm", ("shell history removed", "删除 shell 历史"), NOTHING, evasion::history_removed, evasion::history_read).in_demo(),
    Behavior::new("history_wiped/empty", ("shell history emptied", "清空 shell 历史"), BASH, evasion::history_emptied, evasion::history_kept),
    Behavior::new("history_wiped/link", ("shell history linked to /dev/null", "shell 历史链接到 /dev/null"), NOTHING, evasion::history_linked_to_null, evasion::history_read),
    Behavior::new("log_deleted/rm", ("log removed", "删除日志"), NOTHING, evasion::log_removed, evasion::log_appended),
    Behavior::new("log_deleted/truncate", ("log cut to nothing", "清空日志"), &[Need::Tool("truncate")], evasion::log_truncated, evasion::log_appended),
    Behavior::new("timestomp/date", ("file made to look old", "伪造文件时间"), NOTHING, evasion::time_set, evasion::time_kept),
    Behavior::new("timestomp/reference", ("file times copied from another file", "复制其他文件的时间"), NOTHING, evasion::time_copied, evasion::time_kept),
    Behavior::new("security_tool_disabled/setenforce", ("SELinux switched to permissive", "关闭 SELinux 强制模式"), NOTHING, evasion::selinux_off, evasion::guards_asked),
    Behavior::new("security_tool_disabled/auditctl", ("kernel audit switched off", "关闭内核审计"), NOTHING, evasion::audit_off, evasion::guards_asked),
    Behavior::new("security_tool_disabled/systemctl", ("audit service stopped", "停止审计服务"), NOTHING, evasion::audit_service_stopped, evasion::guards_asked),

    Behavior::new("shadow_read", ("password hashes read", "读取密码哈希"), ROOT, credential::shadow_read, credential::passwd_read).in_demo(),
    Behavior::new("private_key_read", ("private key read", "读取私钥"), ROOT, credential::host_key_read, credential::public_key_read),
    Behavior::new("ssh_brute_force_success", ("ssh password guessing followed by a login", "SSH 暴力破解后登录成功"), SSH, credential::ssh_guessed, credential::ssh_mistyped_once),

    Behavior::new("discovery_burst", ("many questions about the host within a second", "短时间内大量探查主机信息"), NOTHING, discovery::ask_everything, discovery::ask_little),
    Behavior::new("port_scan/program", ("port scan from this host", "从本机扫描端口"), NOTHING, discovery::scan_ports, discovery::retry_one_port).in_demo(),
    Behavior::new("port_scan/nc", ("port scan with nc", "nc 扫描端口"), NC, discovery::scan_by_nc, discovery::retry_one_port),
    Behavior::new("exfil_archive_upload/curl", ("archive made and uploaded with curl", "打包后经 curl 外传"), TAR_CURL, exfiltration::upload_by_curl, exfiltration::pack_and_report),
    Behavior::new("exfil_archive_upload/wget", ("archive made and uploaded with wget", "打包后经 wget 外传"), TAR_WGET, exfiltration::upload_by_wget, exfiltration::pack_and_fetch),
];

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn names_are_unique_and_begin_with_their_slug() {
        let names: HashSet<_> = BEHAVIORS.iter().map(|behavior| behavior.name).collect();
        assert_eq!(names.len(), BEHAVIORS.len());
        for behavior in BEHAVIORS {
            assert!(
                behavior.name.starts_with(behavior.slug) && !behavior.slug.contains('/'),
                "{}",
                behavior.name
            );
        }
    }

    #[test]
    fn at_least_a_handful_of_the_demo_needs_nothing_but_root_and_bash() {
        let everywhere = |need: &Need| matches!(need, Need::Root | Need::Tool("bash"));
        let demo = BEHAVIORS.iter().filter(|behavior| behavior.demo && behavior.needs.iter().all(everywhere));
        assert!(demo.count() >= 8);
    }
}
