/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * The contract with the kernel's BPF machine: integer types, section and map notation, and the helpers we call. The
 * helper numbers and flags are the kernel's user-space ABI (include/uapi/linux/bpf.h) and never change. Written out
 * here so that an object depends on nothing but clang: no libbpf headers, no vmlinux.h, the same bytes everywhere.
 *
 * Newest helper used: the ring buffer (5.8). Not used on purpose: bpf_get_current_task_btf (5.11), bpf_loop (5.17).
 */
#pragma once

typedef unsigned char __u8;
typedef unsigned short __u16;
typedef unsigned int __u32;
typedef unsigned long long __u64;
typedef int __s32;
typedef long long __s64;

#define SEC(name) __attribute__((section(name), used))
#define __always_inline inline __attribute__((always_inline))
#define NULL ((void *)0)

/* Notation of BTF-defined maps: a pointer to an array carries a number, a pointer to a type carries the type. */
#define __uint(name, value) int(*name)[value]
#define __type(name, kind) typeof(kind) *name

#define BPF_MAP_TYPE_HASH 1
#define BPF_MAP_TYPE_ARRAY 2
#define BPF_MAP_TYPE_PERCPU_ARRAY 6
#define BPF_MAP_TYPE_LRU_HASH 9
#define BPF_MAP_TYPE_RINGBUF 27

#define BPF_ANY 0
#define BPF_NOEXIST 1

#define BPF_RB_NO_WAKEUP 1
#define BPF_RB_FORCE_WAKEUP 2
#define BPF_RB_AVAIL_DATA 0

static void *(*const bpf_map_lookup_elem)(void *map, const void *key) = (void *)1;
static long (*const bpf_map_update_elem)(void *map, const void *key, const void *value, __u64 flags) = (void *)2;
static long (*const bpf_map_delete_elem)(void *map, const void *key) = (void *)3;
static __u32 (*const bpf_get_smp_processor_id)(void) = (void *)8;
static __u64 (*const bpf_get_current_pid_tgid)(void) = (void *)14;
static __u64 (*const bpf_get_current_task)(void) = (void *)35;
static __u64 (*const bpf_get_socket_cookie)(void *ctx) = (void *)46;
static long (*const bpf_probe_read_user)(void *to, __u32 size, const void *from) = (void *)112;
static long (*const bpf_probe_read_kernel)(void *to, __u32 size, const void *from) = (void *)113;
static long (*const bpf_probe_read_user_str)(void *to, __u32 size, const void *from) = (void *)114;
static long (*const bpf_probe_read_kernel_str)(void *to, __u32 size, const void *from) = (void *)115;
static __u64 (*const bpf_ktime_get_boot_ns)(void) = (void *)125;
static long (*const bpf_ringbuf_output)(void *ring, void *data, __u64 size, __u64 flags) = (void *)130;
static __u64 (*const bpf_ringbuf_query)(void *ring, __u64 what) = (void *)134;

/* Keeps the compiler from reasoning about a value, so that the bound the verifier must see stays in the code. */
#define OPAQUE(value) asm volatile("" : "+r"(value))

#define memcpy(to, from, size) __builtin_memcpy((to), (from), (size))
#define memset(to, byte, size) __builtin_memset((to), (byte), (size))
