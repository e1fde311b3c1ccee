/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * From the entry of a system call to its exit: the exit tracepoint knows the result but no arguments. Strings are read
 * at the exit, when the kernel itself has just brought their pages in; what is read there may differ from what the
 * kernel saw if another thread of the caller rewrites it meanwhile, so wherever the kernel keeps a copy of its own
 * (a memfd's name, a loaded program, a file), that copy is read instead.
 *
 * LRU, because a thread can die inside a call: with more threads than entries inside such calls at one moment, the
 * oldest are forgotten.
 */
#pragma once

#include "event.h"
#include "helpers.h"
#include "kernel.h"
#include "syscall.h"

struct pending {
	__u32 call;
	__u32 target;
	__u64 args[5];
	struct event_credentials before;
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
	__type(key, __u64);
	__type(value, struct pending);
} pending SEC(".maps");

/* `count` is how many arguments are kept: reading more than the call has is refused when the program is attached. */
static __always_inline void remember(struct pending *call, struct syscall_enter *ctx, int count)
{
	__u64 thread = bpf_get_current_pid_tgid();

#pragma unroll
	for (int index = 0; index < count; index++)
		call->args[index] = ctx->args[index];
	bpf_map_update_elem(&pending, &thread, call, BPF_ANY);
}

/* Copies what was remembered of the call that now returns, and forgets it; 0 when it is not `call`. */
static __always_inline int recall(struct pending *to, __u32 call)
{
	__u64 thread = bpf_get_current_pid_tgid();
	struct pending *found = bpf_map_lookup_elem(&pending, &thread);

	if (!found)
		return 0;
	*to = *found;
	bpf_map_delete_elem(&pending, &thread);
	return to->call == call;
}
