// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/*
 * What an intruder does to become more than it was: gain of uid 0 or capabilities, ptrace and writes into other
 * processes, memfds, eBPF programs, mounts, namespaces.
 *
 * Single-syscall tracepoints (with CONFIG_FTRACE_SYSCALLS), entry and exit where the result matters; they cost other
 * system calls about 4 ns. Namespaces of a new child are compared at sched_process_fork, which sees every flavour of
 * clone and no user memory.
 *
 * Not seen: calls by 32-bit programs, credentials changed by a kernel exploit without any of these calls, a clone with
 * CLONE_NEW* that failed, ptrace requests that only read.
 */
#include "emit.h"
#include "path.h"
#include "pending.h"
#include "syscall.h"
#include "task.h"

#define FD_NONE (~0u)

TELL_LAYOUT(event_credentials_change);
TELL_LAYOUT(event_ptrace);
TELL_LAYOUT(event_memfd);
TELL_LAYOUT(event_bpf);
TELL_LAYOUT(event_mount);
TELL_LAYOUT(event_namespace);

/* pending.call */
#define PENDING_CREDENTIALS 1
#define PENDING_PTRACE 2
#define PENDING_VM_WRITEV 3
#define PENDING_BPF 4
#define PENDING_MOUNT 5
#define PENDING_MOVE_MOUNT 6
#define PENDING_FSMOUNT 7
#define PENDING_UMOUNT 8
#define PENDING_PIVOT_ROOT 9
#define PENDING_UNSHARE 10
#define PENDING_SETNS 11

struct mount_scratch {
	__u32 cursor;
	__u32 _pad;
	struct event_mount mount;
	__u8 text[TEXT_SIZE(EVENT_STRING_MAX)];
};

/* One per CPU, the loader sets the number. The syscall tracepoints do not nest. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct mount_scratch);
} scratch SEC(".maps");

/* --- credentials --------------------------------------------------------------------------------------------- */

SEC("tracepoint/syscalls/sys_enter_setuid")
int enter_credentials(struct syscall_enter *ctx)
{
	struct task_struct *task = current_task();
	struct pending call = {.call = PENDING_CREDENTIALS};

	fill_credentials(&call.before, READ(task->cred));
	remember(&call, ctx, 0);
	return 0;
}

static __always_inline int gained(const struct event_credentials *before, const struct event_credentials *after)
{
	int was_root = before->uid == 0 || before->euid == 0;
	int is_root = after->uid == 0 || after->euid == 0;

	return (is_root && !was_root) || (after->cap_effective & ~before->cap_effective) ||
	       (after->cap_permitted & ~before->cap_permitted);
}

SEC("tracepoint/syscalls/sys_exit_setuid")
int exit_credentials(struct syscall_exit *ctx)
{
	struct task_struct *task = current_task();
	struct event_credentials_change change = {};
	struct event_counts *counts;
	struct pending call;

	if (!recall(&call, PENDING_CREDENTIALS) || ctx->result < 0)
		return 0;
	fill_credentials(&change.after, READ(task->cred));
	if (!gained(&call.before, &change.after))
		return 0;
	counts = begin(EVENT_CREDENTIALS);
	if (!counts)
		return 0;
	fill_header(&change.header, task, EVENT_CREDENTIALS, sizeof(change));
	change.before = call.before;
	finish(counts, &change, sizeof(change), change.header.boot_ns);
	return 0;
}

/* --- ptrace, process_vm_writev ------------------------------------------------------------------------------- */

#define PTRACE_TRACEME 0
#define PTRACE_POKETEXT 4
#define PTRACE_POKEDATA 5
#define PTRACE_SETREGS 13
#define PTRACE_ATTACH 16
#define PTRACE_SETREGSET 0x4205
#define PTRACE_SEIZE 0x4206

/* Tracees looked at to find the target of a call. */
#define TRACEES_MAX 64

static __always_inline __u32 request_of(__u64 ptrace)
{
	switch (ptrace) {
	case PTRACE_ATTACH:
		return REQUEST_ATTACH;
	case PTRACE_SEIZE:
		return REQUEST_SEIZE;
	case PTRACE_POKETEXT:
		return REQUEST_POKETEXT;
	case PTRACE_POKEDATA:
		return REQUEST_POKEDATA;
	case PTRACE_SETREGS:
	case PTRACE_SETREGSET:
		return REQUEST_SETREGS;
	case PTRACE_TRACEME:
		return REQUEST_TRACEME;
	default:
		return 0;
	}
}

SEC("tracepoint/syscalls/sys_enter_ptrace")
int enter_ptrace(struct syscall_enter *ctx)
{
	struct pending call = {.call = PENDING_PTRACE};

	if (request_of(ctx->args[0]))
		remember(&call, ctx, 2);
	return 0;
}

SEC("tracepoint/syscalls/sys_enter_process_vm_writev")
int enter_vm_writev(struct syscall_enter *ctx)
{
	struct pending call = {.call = PENDING_VM_WRITEV};

	remember(&call, ctx, 1);
	return 0;
}

/*
 * The caller names a thread by its number in the caller's own pid namespace. Among its tracees (it is one after an
 * attach) the thread is found and its tgid known for sure. Else, in the initial namespace, the number stands for
 * itself; in another one it cannot be told.
 */
static __always_inline __u32 target_of(struct task_struct *task, __u32 number)
{
	struct pid *own = READ(task->thread_pid);
	__u32 level = READ(own->level);
	struct list_head *head = &task->ptraced, *at = READ(task->ptraced.next);

	for (int index = 0; index < TRACEES_MAX && at != head && at; index++) {
		struct task_struct *tracee = (void *)at - FIELD_OFFSET(struct task_struct, ptrace_entry);

		if (number_at(READ(tracee->thread_pid), level) == number)
			return READ(tracee->tgid);
		at = READ(at->next);
	}
	return level == 0 ? number : 0;
}

static __always_inline void tell_ptrace(__u32 request, __u32 number, __s64 result)
{
	struct task_struct *task = current_task();
	struct event_counts *counts = begin(EVENT_PTRACE);
	struct event_ptrace event = {};

	if (!counts)
		return;
	fill_header(&event.header, task, EVENT_PTRACE, sizeof(event));
	event.request = request;
	event.target = request == REQUEST_TRACEME ? 0 : target_of(task, number);
	event.result = clamp_result(result);
	finish(counts, &event, sizeof(event), event.header.boot_ns);
}

SEC("tracepoint/syscalls/sys_exit_ptrace")
int exit_ptrace(struct syscall_exit *ctx)
{
	struct pending call;

	if (recall(&call, PENDING_PTRACE))
		tell_ptrace(request_of(call.args[0]), call.args[1], ctx->result);
	return 0;
}

SEC("tracepoint/syscalls/sys_exit_process_vm_writev")
int exit_vm_writev(struct syscall_exit *ctx)
{
	struct pending call;

	if (recall(&call, PENDING_VM_WRITEV))
		tell_ptrace(REQUEST_VM_WRITEV, call.args[0], ctx->result);
	return 0;
}

/* --- memfd --------------------------------------------------------------------------------------------------- */

/* The name is the kernel's own copy, from the new file's dentry. */
SEC("tracepoint/syscalls/sys_exit_memfd_create")
int exit_memfd(struct syscall_exit *ctx)
{
	struct memfd_record {
		struct event_memfd memfd;
		char name[EVENT_NAME_MAX];
	} record = {};
	struct event_counts *counts;
	struct dentry *dentry;
	struct file *file;
	__u64 size;
	long read;

	if (ctx->result < 0)
		return 0;
	counts = begin(EVENT_MEMFD);
	if (!counts)
		return 0;
	file = open_file(current_task(), ctx->result);
	if (!file) {
		give_up(counts); /* another thread has closed it already */
		return 0;
	}
	dentry = READ(file->f_path.dentry);
	read = bpf_probe_read_kernel_str(record.name, sizeof(record.name), READ(dentry->d_name.name));
	size = read > 0 ? read : 0;
	OPAQUE(size);
	if (size > sizeof(record.name))
		size = sizeof(record.name);
	fill_header(&record.memfd.header, current_task(), EVENT_MEMFD, sizeof(record.memfd) + size);
	record.memfd.name_size = size;
	finish(counts, &record, sizeof(record.memfd) + size, record.memfd.header.boot_ns);
	return 0;
}

/* --- eBPF programs ------------------------------------------------------------------------------------------- */

#define BPF_PROG_LOAD 5
/* Of union bpf_attr for BPF_PROG_LOAD. */
#define ATTR_PROG_TYPE 0
#define ATTR_PROG_NAME 48

SEC("tracepoint/syscalls/sys_enter_bpf")
int enter_bpf(struct syscall_enter *ctx)
{
	struct pending call = {.call = PENDING_BPF};

	if (ctx->args[0] == BPF_PROG_LOAD)
		remember(&call, ctx, 3);
	return 0;
}

SEC("tracepoint/syscalls/sys_exit_bpf")
int exit_bpf(struct syscall_exit *ctx)
{
	struct task_struct *task = current_task();
	struct event_counts *counts;
	struct event_bpf event = {};
	struct pending call;
	struct file *file = NULL;

	if (!recall(&call, PENDING_BPF))
		return 0;
	counts = begin(EVENT_BPF_LOAD);
	if (!counts)
		return 0;
	if (ctx->result >= 0)
		file = open_file(task, ctx->result);
	if (file) {
		struct bpf_prog *program = READ(file->private_data);
		struct bpf_prog_aux *aux = READ(program->aux);

		event.program_type = READ(program->type);
		bpf_probe_read_kernel_str(event.name, sizeof(event.name), &aux->name);
	} else {
		const void *attr = (const void *)call.args[1];
		__u32 size = call.args[2];

		bpf_probe_read_user(&event.program_type, sizeof(event.program_type), attr + ATTR_PROG_TYPE);
		if (size >= ATTR_PROG_NAME + sizeof(event.name))
			bpf_probe_read_user_str(event.name, sizeof(event.name), attr + ATTR_PROG_NAME);
	}
	fill_header(&event.header, task, EVENT_BPF_LOAD, sizeof(event));
	event.result = clamp_result(ctx->result);
	finish(counts, &event, sizeof(event), event.header.boot_ns);
	return 0;
}

/* --- mounts -------------------------------------------------------------------------------------------------- */

static __always_inline __u16 append_user_string(struct mount_scratch *to, __u64 from)
{
	long size;

	if (!from)
		return 0;
	size = bpf_probe_read_user_str(&to->text[to->cursor & TEXT_MASK], EVENT_STRING_MAX, (const void *)from);
	if (size <= 0)
		return 0;
	to->cursor += size;
	return size;
}

static __always_inline __u16 append_fs_context_type(struct mount_scratch *to, __u32 fd)
{
	struct file *file = open_file(current_task(), fd);
	struct file_system_type *type;
	struct fs_context *context;
	long size;

	if (!file)
		return 0;
	context = READ(file->private_data);
	type = READ(context->fs_type);
	size = bpf_probe_read_kernel_str(&to->text[to->cursor & TEXT_MASK], EVENT_NAME_MAX, READ(type->name));
	if (size <= 0)
		return 0;
	to->cursor += size;
	return size;
}

/* Addresses of the strings in user memory, 0 for none; `context` is the descriptor fsopen gave, or FD_NONE. */
struct mount_call {
	__u64 source, target, fstype, flags;
	__u32 context;
	__u8 call;
};

static __always_inline void tell_mount(const struct mount_call *call, __s64 result)
{
	struct event_counts *counts = begin(EVENT_MOUNT);
	__u32 cpu = bpf_get_smp_processor_id();
	struct mount_scratch *record = bpf_map_lookup_elem(&scratch, &cpu);
	__u64 size;

	if (!counts)
		return;
	if (!record) {
		give_up(counts);
		return;
	}
	memset(&record->mount, 0, sizeof(record->mount));
	record->cursor = 0;
	record->mount.source_size = append_user_string(record, call->source);
	record->mount.target_size = append_user_string(record, call->target);
	if (call->context == FD_NONE)
		record->mount.fstype_size = append_user_string(record, call->fstype);
	else
		record->mount.fstype_size = append_fs_context_type(record, call->context);
	record->mount.flags = call->flags;
	record->mount.result = clamp_result(result);
	record->mount.call = call->call;
	size = sizeof(record->mount) + *(volatile __u32 *)&record->cursor;
	fill_header(&record->mount.header, current_task(), EVENT_MOUNT, size);
	OPAQUE(size);
	if (size > sizeof(record->mount) + sizeof(record->text))
		size = sizeof(record->mount) + sizeof(record->text);
	finish(counts, &record->mount, size, record->mount.header.boot_ns);
}

#define ENTER(name, what, count)                                                                                       \
	SEC("tracepoint/syscalls/sys_enter_" #name)                                                                    \
	int enter_##name(struct syscall_enter *ctx)                                                                    \
	{                                                                                                              \
		struct pending call = {.call = what};                                                                  \
                                                                                                                       \
		remember(&call, ctx, count);                                                                           \
		return 0;                                                                                              \
	}

ENTER(mount, PENDING_MOUNT, 4)
ENTER(move_mount, PENDING_MOVE_MOUNT, 5)
ENTER(fsmount, PENDING_FSMOUNT, 3)
ENTER(umount, PENDING_UMOUNT, 2)
ENTER(pivot_root, PENDING_PIVOT_ROOT, 2)

/* mount(source, target, fstype, flags, data) */
SEC("tracepoint/syscalls/sys_exit_mount")
int exit_mount(struct syscall_exit *ctx)
{
	struct mount_call mount = {.context = FD_NONE, .call = CALL_MOUNT};
	struct pending call;

	if (!recall(&call, PENDING_MOUNT))
		return 0;
	mount.source = call.args[0];
	mount.target = call.args[1];
	mount.fstype = call.args[2];
	mount.flags = call.args[3];
	tell_mount(&mount, ctx->result);
	return 0;
}

/* move_mount(from directory, from path, to directory, to path, flags) */
SEC("tracepoint/syscalls/sys_exit_move_mount")
int exit_move_mount(struct syscall_exit *ctx)
{
	struct mount_call mount = {.context = FD_NONE, .call = CALL_MOVE_MOUNT};
	struct pending call;

	if (!recall(&call, PENDING_MOVE_MOUNT))
		return 0;
	mount.source = call.args[1];
	mount.target = call.args[3];
	mount.flags = call.args[4];
	tell_mount(&mount, ctx->result);
	return 0;
}

/* fsmount(context, flags, attributes): told with the file system's type; the attributes are the flags. */
SEC("tracepoint/syscalls/sys_exit_fsmount")
int exit_fsmount(struct syscall_exit *ctx)
{
	struct mount_call mount = {.call = CALL_FSMOUNT};
	struct pending call;

	if (!recall(&call, PENDING_FSMOUNT))
		return 0;
	mount.context = call.args[0];
	mount.flags = call.args[2];
	tell_mount(&mount, ctx->result > 0 ? 0 : ctx->result);
	return 0;
}

/* umount2(target, flags); the tracepoint is called umount. */
SEC("tracepoint/syscalls/sys_exit_umount")
int exit_umount(struct syscall_exit *ctx)
{
	struct mount_call mount = {.context = FD_NONE, .call = CALL_UMOUNT};
	struct pending call;

	if (!recall(&call, PENDING_UMOUNT))
		return 0;
	mount.target = call.args[0];
	mount.flags = call.args[1];
	tell_mount(&mount, ctx->result);
	return 0;
}

/* pivot_root(new root, place for the old one) */
SEC("tracepoint/syscalls/sys_exit_pivot_root")
int exit_pivot_root(struct syscall_exit *ctx)
{
	struct mount_call mount = {.context = FD_NONE, .call = CALL_PIVOT_ROOT};
	struct pending call;

	if (!recall(&call, PENDING_PIVOT_ROOT))
		return 0;
	mount.source = call.args[0];
	mount.target = call.args[1];
	tell_mount(&mount, ctx->result);
	return 0;
}

/* --- namespaces ---------------------------------------------------------------------------------------------- */

#define CLONE_NEWTIME 0x00000080
#define CLONE_NEWNS 0x00020000
#define CLONE_NEWCGROUP 0x02000000
#define CLONE_NEWUTS 0x04000000
#define CLONE_NEWIPC 0x08000000
#define CLONE_NEWUSER 0x10000000
#define CLONE_NEWPID 0x20000000
#define CLONE_NEWNET 0x40000000
#define CLONE_NEW_ANY                                                                                                  \
	(CLONE_NEWTIME | CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWUSER | CLONE_NEWPID |  \
	 CLONE_NEWNET)
#define NSFS_MAGIC 0x6e736673

static __always_inline void tell_namespace(struct task_struct *task, __u8 call, __u64 flags, __s64 result)
{
	struct event_counts *counts = begin(EVENT_NAMESPACE);
	struct event_namespace event = {};

	if (!counts)
		return;
	fill_header(&event.header, task, EVENT_NAMESPACE, sizeof(event));
	event.flags = flags;
	event.result = clamp_result(result);
	event.call = call;
	finish(counts, &event, sizeof(event), event.header.boot_ns);
}

SEC("tracepoint/syscalls/sys_enter_unshare")
int enter_unshare(struct syscall_enter *ctx)
{
	struct pending call = {.call = PENDING_UNSHARE};

	if (ctx->args[0] & CLONE_NEW_ANY)
		remember(&call, ctx, 1);
	return 0;
}

SEC("tracepoint/syscalls/sys_exit_unshare")
int exit_unshare(struct syscall_exit *ctx)
{
	struct pending call;

	if (recall(&call, PENDING_UNSHARE))
		tell_namespace(current_task(), CALL_UNSHARE, call.args[0] & CLONE_NEW_ANY, ctx->result);
	return 0;
}

ENTER(setns, PENDING_SETNS, 2)

/* The type of the namespace behind a descriptor of /proc/PID/ns; 0 for any other file. */
static __always_inline __u64 namespace_type(struct task_struct *task, __u32 fd)
{
	struct file *file = open_file(task, fd);
	const struct proc_ns_operations *operations;
	struct super_block *super;
	struct ns_common *common;
	struct inode *inode;

	if (!file)
		return 0;
	inode = READ(file->f_inode);
	super = READ(inode->i_sb);
	if (READ(super->s_magic) != NSFS_MAGIC)
		return 0;
	common = READ(inode->i_private);
	if (FIELD_EXISTS(common->ns_type))
		return READ(common->ns_type); /* since 6.18 */
	operations = READ(common->ops);
	return READ(operations->type);
}

/* setns(fd, type): a type of 0 means whatever the descriptor is. */
SEC("tracepoint/syscalls/sys_exit_setns")
int exit_setns(struct syscall_exit *ctx)
{
	struct task_struct *task = current_task();
	struct pending call;
	__u64 flags;

	if (!recall(&call, PENDING_SETNS))
		return 0;
	flags = call.args[1] & CLONE_NEW_ANY;
	if (!flags)
		flags = namespace_type(task, call.args[0]);
	tell_namespace(task, CALL_SETNS, flags, ctx->result);
	return 0;
}

#define CHANGED(field, flag) (READ(before->field) != READ(after->field) ? (flag) : 0)

SEC("raw_tp/sched_process_fork")
int on_clone(__u64 *ctx)
{
	struct task_struct *parent = (struct task_struct *)ctx[0], *child = (struct task_struct *)ctx[1];
	struct nsproxy *before = READ(parent->nsproxy), *after = READ(child->nsproxy);
	const struct cred *parent_cred = READ(parent->cred), *child_cred = READ(child->cred);
	__u64 flags = 0;

	if (before != after) {
		flags |= CHANGED(uts_ns, CLONE_NEWUTS) | CHANGED(ipc_ns, CLONE_NEWIPC) | CHANGED(mnt_ns, CLONE_NEWNS) |
			 CHANGED(pid_ns_for_children, CLONE_NEWPID) | CHANGED(net_ns, CLONE_NEWNET) |
			 CHANGED(cgroup_ns, CLONE_NEWCGROUP);
		if (FIELD_EXISTS(before->time_ns_for_children))
			flags |= CHANGED(time_ns_for_children, CLONE_NEWTIME);
	}
	if (parent_cred != child_cred && READ(parent_cred->user_ns) != READ(child_cred->user_ns))
		flags |= CLONE_NEWUSER;
	if (flags)
		tell_namespace(parent, CALL_CLONE, flags, 0);
	return 0;
}
