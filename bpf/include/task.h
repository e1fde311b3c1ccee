/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* Reading a task: the header every record starts with, credentials, ids in pid namespaces, open files. */
#pragma once

#include "event.h"
#include "kernel.h"

static __always_inline struct task_struct *current_task(void)
{
	return (struct task_struct *)bpf_get_current_task();
}

/* `task` may be any thread: the key is its leader's. */
static __always_inline void fill_header(struct event_header *header, struct task_struct *task, __u8 kind, __u16 size)
{
	struct task_struct *leader = READ(task->group_leader);

	header->boot_ns = bpf_ktime_get_boot_ns();
	header->started = READ(leader->start_boottime);
	header->tgid = READ(task->tgid);
	header->size = size;
	header->kind = kind;
	header->version = EVENT_ABI_VERSION;
}

static __always_inline void fill_credentials(struct event_credentials *to, const struct cred *cred)
{
	to->uid = READ(cred->uid.val);
	to->euid = READ(cred->euid.val);
	to->suid = READ(cred->suid.val);
	to->gid = READ(cred->gid.val);
	to->egid = READ(cred->egid.val);
	to->_pad = 0;
	bpf_probe_read_kernel(&to->cap_effective, sizeof(__u64), &cred->cap_effective);
	bpf_probe_read_kernel(&to->cap_permitted, sizeof(__u64), &cred->cap_permitted);
}

/* The number of `pid` at one level of nested pid namespaces; `numbers` is a flexible array since 6.5. */
static __always_inline __u32 number_at(struct pid *pid, __u32 level)
{
	struct upid upid = {};
	__u64 offset = FIELD_OFFSET(struct pid, numbers) + (__u64)level * sizeof(upid);

	bpf_probe_read_kernel(&upid, sizeof(upid), (void *)pid + offset);
	return upid.nr;
}

static __always_inline __u32 number_inside(struct pid *pid)
{
	return number_at(pid, READ(pid->level));
}

static __always_inline struct file *open_file(struct task_struct *task, __u32 fd)
{
	struct files_struct *files = READ(task->files);
	struct fdtable *table = READ(files->fdt);
	struct file **slots = READ(table->fd);
	struct file *file = NULL;

	if (fd < READ(table->max_fds))
		bpf_probe_read_kernel(&file, sizeof(file), &slots[fd]);
	return file;
}

/* The socket behind an open file, or NULL. */
static __always_inline struct sock *socket_of(struct file *file)
{
	struct inode *inode = READ(file->f_inode);
	struct socket *socket;

	if ((READ(inode->i_mode) & S_IFMT) != S_IFSOCK)
		return NULL;
	socket = READ(file->private_data);
	return READ(socket->sk);
}
