// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/*
 * Kernel modules, by looking at every system call: for kernels that can load modules but lack the tracepoints of the
 * two calls. x86-64 only. Costs each system call of the host about 50 ns, so the loader takes module.bpf.c wherever it
 * can.
 *
 * raw tracepoints sys_enter(registers, number) and sys_exit(registers, result), 4.17 to 6.18.
 */
#include "module.h"

#define NUMBER_INIT_MODULE 175
#define NUMBER_FINIT_MODULE 313
#define USER_CS_64 0x33

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)
struct pt_regs {
	unsigned long r10, r8, dx, si, di, orig_ax, cs;
};
#pragma clang attribute pop

static __always_inline __u32 call_of(__u64 number)
{
	if (number == NUMBER_FINIT_MODULE)
		return CALL_FINIT_MODULE;
	return number == NUMBER_INIT_MODULE ? CALL_INIT_MODULE : 0;
}

SEC("raw_tp/sys_enter")
int on_enter(__u64 *ctx)
{
	struct pt_regs *registers = (struct pt_regs *)ctx[0];
	struct syscall_enter enter = {};
	struct pending call = {};

	call.call = call_of(ctx[1]);
	/* The same numbers mean other calls to a 32-bit program. */
	if (!call.call || (READ(registers->cs) & 0xffff) != USER_CS_64)
		return 0;
	enter.args[0] = READ(registers->di);
	enter.args[1] = READ(registers->si);
	enter.args[2] = READ(registers->dx);
	remember(&call, &enter, 3);
	return 0;
}

SEC("raw_tp/sys_exit")
int on_leave(__u64 *ctx)
{
	struct pt_regs *registers = (struct pt_regs *)ctx[0];
	__u32 what = call_of(READ(registers->orig_ax));
	struct pending call;

	if (what && recall(&call, what))
		tell_module(&call, ctx[1]);
	return 0;
}
