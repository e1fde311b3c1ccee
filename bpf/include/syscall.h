/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * What the single-syscall tracepoints hand over; the layout is user-space ABI (events/syscalls/<name>/format) and the
 * same on all 64-bit machines. 32-bit programs do not pass through these tracepoints.
 *
 * The verifier takes a context access only as base plus constant: CONTEXT keeps the compiler from folding two of them
 * into pointer arithmetic.
 */
#pragma once

#include "helpers.h"

#define CONTEXT __attribute__((preserve_static_offset))

struct syscall_enter {
	__u64 common;
	__s32 number;
	__u32 _pad;
	__u64 args[6];
} CONTEXT;

struct syscall_exit {
	__u64 common;
	__s32 number;
	__u32 _pad;
	__s64 result;
} CONTEXT;

static __always_inline __s32 clamp_result(__s64 result)
{
	return result > 0x7fffffff ? 0x7fffffff : result;
}
