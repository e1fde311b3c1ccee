// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/*
 * Processes: exec, fork, exit.
 *
 * exec is read at sched_process_exec (raw tracepoint; task, old pid, linux_binprm; the same from 4.17 to 6.18). It runs
 * in the new image's context after the point of no return and before its first instruction: argv on the new stack is
 * the kernel's own copy and no thread of the old image is left to change it. Nothing is read from user memory at
 * syscall entry. fork is sched_process_fork(parent, child), threads left out. exit is sched_process_exit(task, …) of
 * the last thread.
 *
 * Not seen: what a process does between fork and exec (other objects), processes older than the attach (the process
 * table reads those from /proc), a failed exec.
 */
#include "emit.h"
#include "path.h"
#include "task.h"

#define SIGNAL_GROUP_EXIT 4 /* signal_struct.flags */
#define PIDTYPE_PGID 2
#define PIDTYPE_SID 3
#define TTY_NAME_MAX 64

TELL_LAYOUT(event_exec);
TELL_LAYOUT(event_fork);
TELL_LAYOUT(event_exit);

struct exec_scratch {
	__u32 cursor; /* end of the text so far */
	__u32 _pad;
	struct event_exec exec;
	__u8 text[TEXT_SIZE(EVENT_ARGV_MAX)];
};

/* One per CPU, the loader sets the number: a per-CPU map's values end at 32 KiB. Hooks here never nest. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct exec_scratch);
} scratch SEC(".maps");

/* Processes with threads whose exit was told: two last threads may both see that none is left. */
struct exit_key {
	__u64 started;
	__u64 tgid;
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
	__type(key, struct exit_key);
	__type(value, __u8);
} ended SEC(".maps");

static __always_inline int is_tty(__u32 device)
{
	__u32 major = DEV_MAJOR(device);

	/* Virtual consoles and serial ports, /dev/tty and /dev/console, Unix98 slaves, USB serial, low-density serial, hvc. */
	return major == 4 || major == 5 || (major >= 136 && major <= 143) || major == 188 || major == 204 || major == 229;
}

static __always_inline void fill_socket(struct event_stdio *to, struct sock *sk)
{
	__u16 port = READ(sk->__sk_common.skc_dport);

	to->what = STDIO_SOCKET;
	if (!sk)
		return;
	to->family = READ(sk->__sk_common.skc_family);
	to->port = __builtin_bswap16(port);
	if (!port)
		return;
	if (to->family == AF_INET) {
		bpf_probe_read_kernel(to->address, 4, &sk->__sk_common.skc_daddr);
		to->what = STDIO_INET;
	} else if (to->family == AF_INET6) {
		bpf_probe_read_kernel(to->address, 16, &sk->__sk_common.skc_v6_daddr);
		to->what = STDIO_INET;
	}
}

static __always_inline void fill_stdio(struct event_stdio *to, struct task_struct *task, __u32 fd)
{
	struct file *file = open_file(task, fd);
	struct inode *inode;
	__u32 device;

	memset(to, 0, sizeof(*to));
	if (!file) {
		to->what = STDIO_CLOSED;
		return;
	}
	inode = READ(file->f_inode);
	to->inode = READ(inode->i_ino);
	switch (READ(inode->i_mode) & S_IFMT) {
	case S_IFREG:
		to->what = STDIO_FILE;
		break;
	case S_IFIFO:
		to->what = STDIO_PIPE;
		break;
	case S_IFSOCK:
		fill_socket(to, socket_of(file));
		break;
	case S_IFCHR:
		device = READ(inode->i_rdev);
		if (DEV_MAJOR(device) == 1 && DEV_MINOR(device) == 3)
			to->what = STDIO_NULL;
		else
			to->what = is_tty(device) ? STDIO_TTY : STDIO_OTHER;
		break;
	default:
		to->what = STDIO_OTHER;
	}
}

/* cgroup v2, or the v1 memory cgroup where the memory controller is bound to a hierarchy of its own. */
static __always_inline __u64 cgroup_of(struct task_struct *task)
{
	struct css_set *set = READ(task->cgroups);
	struct cgroup *cgroup = READ(set->dfl_cgrp), *memory;
	struct cgroup_subsys_state *state = NULL;
	struct kernfs_node *node;

	if (ENUM_EXISTS(enum cgroup_subsys_id, memory_cgrp_id)) {
		__u64 slot = ENUM_VALUE(enum cgroup_subsys_id, memory_cgrp_id);

		bpf_probe_read_kernel(&state, sizeof(state),
				      (void *)set + FIELD_OFFSET(struct css_set, subsys) + slot * sizeof(state));
		memory = READ(state->cgroup);
		if (memory && READ(memory->root) != READ(cgroup->root))
			cgroup = memory;
	}
	node = READ(cgroup->kn);
	return READ(node->id);
}

static __always_inline void fill_image(struct event_exec *exec, struct file *file)
{
	struct inode *inode = READ(file->f_inode);
	struct super_block *super = READ(inode->i_sb);

	exec->image_inode = READ(inode->i_ino);
	exec->image_device = READ(super->s_dev);
	exec->image_mode = READ(inode->i_mode);
	exec->image_uid = READ(inode->i_uid.val);
	exec->image_links = READ(inode->i_nlink);
}

/* A memfd's dentry is its own parent, which no file in a directory can be, and is named by the kernel. */
static __always_inline int is_memfd(struct dentry *dentry)
{
	char name[8] = {};

	if (READ(dentry->d_parent) != dentry)
		return 0;
	bpf_probe_read_kernel_str(name, sizeof(name), READ(dentry->d_name.name));
	return name[0] == 'm' && name[1] == 'e' && name[2] == 'm' && name[3] == 'f' && name[4] == 'd' && name[5] == ':';
}

static __always_inline void fill_namespaces(struct event_exec *exec, struct task_struct *task, const struct cred *cred)
{
	struct nsproxy *proxy = READ(task->nsproxy);
	struct mnt_namespace *mnt = READ(proxy->mnt_ns);
	struct pid_namespace *pid = READ(proxy->pid_ns_for_children);
	struct net *net = READ(proxy->net_ns);
	struct user_namespace *user = READ(cred->user_ns);

	exec->ns_mnt = READ(mnt->ns.inum);
	exec->ns_pid = READ(pid->ns.inum);
	exec->ns_net = READ(net->ns.inum);
	exec->ns_user = READ(user->ns.inum);
	exec->ns_tgid = number_inside(READ(task->thread_pid));
}

static __always_inline void fill_identity(struct event_exec *exec, struct task_struct *task)
{
	struct task_struct *parent = READ(task->real_parent), *leader = READ(parent->group_leader);
	struct signal_struct *signal = READ(task->signal);

	exec->parent_tgid = READ(parent->tgid);
	exec->parent_started = READ(leader->start_boottime);
	exec->session = number_at(READ(signal->pids[PIDTYPE_SID]), 0);
	exec->group = number_at(READ(signal->pids[PIDTYPE_PGID]), 0);
	exec->login_uid = ~0u;
	exec->audit_session = ~0u;
	if (FIELD_EXISTS(task->loginuid))
		exec->login_uid = READ(task->loginuid.val);
	if (FIELD_EXISTS(task->sessionid))
		exec->audit_session = READ(task->sessionid);
	bpf_probe_read_kernel(exec->comm, sizeof(exec->comm), &task->comm);
	exec->cgroup = cgroup_of(task);
}

static __always_inline void append_filename(struct exec_scratch *to, struct linux_binprm *binprm)
{
	long size = bpf_probe_read_kernel_str(to->text, EVENT_STRING_MAX, READ(binprm->filename));

	to->cursor = size > 0 ? size : 0;
}

static __always_inline void append_tty(struct exec_scratch *to, struct task_struct *task)
{
	struct signal_struct *signal = READ(task->signal);
	struct tty_struct *tty = READ(signal->tty);
	struct tty_driver *driver;
	long size;

	to->exec.tty_major = 0;
	to->exec.tty_minor = 0;
	if (!tty)
		return;
	driver = READ(tty->driver);
	to->exec.flags |= EXEC_HAS_TTY;
	to->exec.tty_major = READ(driver->major);
	to->exec.tty_minor = READ(driver->minor_start) + READ(tty->index);
	size = bpf_probe_read_kernel_str(&to->text[to->cursor & TEXT_MASK], TTY_NAME_MAX, &tty->name);
	if (size > 0)
		to->cursor += size;
}

static __always_inline void append_argv(struct exec_scratch *to, struct mm_struct *mm)
{
	unsigned long start = READ(mm->arg_start);
	__u64 size = READ(mm->arg_end) - start;

	to->exec.argv_len = size;
	OPAQUE(size);
	if (size > EVENT_ARGV_MAX)
		size = EVENT_ARGV_MAX;
	if (bpf_probe_read_user(&to->text[to->cursor & TEXT_MASK], size, (void *)start) == 0)
		to->cursor += size;
	else
		to->exec.flags |= EXEC_ARGV_LOST;
}

/* The strings, in the order the layout demands. */
static __always_inline void append_strings(struct exec_scratch *to, struct task_struct *task, struct linux_binprm *binprm)
{
	volatile __u32 *cursor = &to->cursor;
	struct mm_struct *mm = READ(task->mm);
	struct file *file = READ(mm->exe_file);
	struct dentry *dentry = READ(file->f_path.dentry);
	struct fs_struct *fs = READ(task->fs);
	__u32 start;

	append_filename(to, binprm);
	to->exec.filename_size = start = *cursor;
	to->exec.flags = is_memfd(dentry) ? EXEC_MEMFD : 0;
	if (append_path(to->text, cursor, READ(file->f_path.mnt), dentry))
		to->exec.flags |= EXEC_EXE_CUT;
	to->exec.exe_size = *cursor - start;
	start = *cursor;
	if (append_path(to->text, cursor, READ(fs->pwd.mnt), READ(fs->pwd.dentry)))
		to->exec.flags |= EXEC_CWD_CUT;
	to->exec.cwd_size = *cursor - start;
	start = *cursor;
	append_tty(to, task);
	to->exec.tty_size = *cursor - start;
	start = *cursor;
	append_argv(to, mm);
	to->exec.argv_size = *cursor - start;
	fill_image(&to->exec, file);
}

SEC("raw_tp/sched_process_exec")
int on_exec(__u64 *ctx)
{
	struct task_struct *task = (struct task_struct *)ctx[0];
	struct linux_binprm *binprm = (struct linux_binprm *)ctx[2];
	struct event_counts *counts = begin(EVENT_EXEC);
	const struct cred *cred = READ(task->cred);
	__u32 cpu = bpf_get_smp_processor_id();
	struct exec_scratch *record = bpf_map_lookup_elem(&scratch, &cpu);
	__u64 size;

	if (!counts)
		return 0;
	if (!record) {
		give_up(counts);
		return 0;
	}
	append_strings(record, task, binprm);
	size = sizeof(record->exec) + record->cursor;
	fill_header(&record->exec.header, task, EVENT_EXEC, size);
	fill_identity(&record->exec, task);
	fill_credentials(&record->exec.credentials, cred);
	fill_namespaces(&record->exec, task, cred);
	fill_stdio(&record->exec.stdio[0], task, 0);
	fill_stdio(&record->exec.stdio[1], task, 1);
	fill_stdio(&record->exec.stdio[2], task, 2);
	memset(record->exec._pad, 0, sizeof(record->exec._pad));

	OPAQUE(size);
	if (size > sizeof(record->exec) + sizeof(record->text))
		size = sizeof(record->exec) + sizeof(record->text);
	finish(counts, &record->exec, size, record->exec.header.boot_ns);
	return 0;
}

SEC("raw_tp/sched_process_fork")
int on_fork(__u64 *ctx)
{
	struct task_struct *parent = (struct task_struct *)ctx[0], *child = (struct task_struct *)ctx[1];
	struct event_fork fork = {};
	struct event_counts *counts;

	if (READ(child->pid) != READ(child->tgid))
		return 0; /* a thread */
	counts = begin(EVENT_FORK);
	if (!counts)
		return 0;
	fill_header(&fork.header, parent, EVENT_FORK, sizeof(fork));
	fork.child_started = READ(child->start_boottime);
	fork.child_tgid = READ(child->tgid);
	fork.child_ns_tgid = number_inside(READ(child->thread_pid));
	finish(counts, &fork, sizeof(fork), fork.header.boot_ns);
	return 0;
}

/* What wait(2) will report (see wait_task_zombie): the group's code, or else the leader's own. */
static __always_inline __u32 exit_status(struct task_struct *task, struct signal_struct *signal)
{
	struct task_struct *leader = READ(task->group_leader);

	if (READ(signal->flags) & SIGNAL_GROUP_EXIT)
		return READ(signal->group_exit_code);
	return READ(leader->exit_code);
}

/* `live` is counted down before this hook: two last threads that leave together both find it at zero. */
static __always_inline int already_told(struct signal_struct *signal, struct event_header *header)
{
	struct exit_key key = {.started = header->started, .tgid = header->tgid};
	__u8 told = 1;

	if (READ(signal->nr_threads) > 1)
		return bpf_map_update_elem(&ended, &key, &told, BPF_NOEXIST) != 0;
	return bpf_map_lookup_elem(&ended, &key) != NULL;
}

SEC("raw_tp/sched_process_exit")
int on_exit(__u64 *ctx)
{
	struct task_struct *task = (struct task_struct *)ctx[0];
	struct signal_struct *signal = READ(task->signal);
	struct event_exit end = {};
	struct event_counts *counts;

	if (READ(signal->live.counter) != 0)
		return 0; /* threads are left */
	fill_header(&end.header, task, EVENT_EXIT, sizeof(end));
	if (already_told(signal, &end.header))
		return 0;
	counts = begin(EVENT_EXIT);
	if (!counts)
		return 0;
	end.status = exit_status(task, signal);
	finish(counts, &end, sizeof(end), end.header.boot_ns);
	return 0;
}
