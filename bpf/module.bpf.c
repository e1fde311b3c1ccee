// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/*
 * Kernel modules, by the single-syscall tracepoints of init_module and finit_module (they exist where
 * CONFIG_MODULES and CONFIG_FTRACE_SYSCALLS do). Attempts are told with their errno.
 *
 * Not seen: modules loaded before the attach, calls by 32-bit programs.
 */
#include "module.h"

SEC("tracepoint/syscalls/sys_enter_init_module")
int enter_init_module(struct syscall_enter *ctx)
{
	struct pending call = {.call = CALL_INIT_MODULE};

	remember(&call, ctx, 3);
	return 0;
}

SEC("tracepoint/syscalls/sys_enter_finit_module")
int enter_finit_module(struct syscall_enter *ctx)
{
	struct pending call = {.call = CALL_FINIT_MODULE};

	remember(&call, ctx, 3);
	return 0;
}

SEC("tracepoint/syscalls/sys_exit_init_module")
int exit_init_module(struct syscall_exit *ctx)
{
	struct pending call;

	if (recall(&call, CALL_INIT_MODULE))
		tell_module(&call, ctx->result);
	return 0;
}

SEC("tracepoint/syscalls/sys_exit_finit_module")
int exit_finit_module(struct syscall_exit *ctx)
{
	struct pending call;

	if (recall(&call, CALL_FINIT_MODULE))
		tell_module(&call, ctx->result);
	return 0;
}
