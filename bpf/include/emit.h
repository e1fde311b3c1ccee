/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * One ring and one set of books per object. A hook calls `begin(kind)` once it knows that there is something to tell,
 * then either `finish` or `give_up`: every begun record ends as written, ring_full or fault, so the books close.
 *
 * Wakeups. Waking the reader costs an IPI and a context switch, which in a storm of execs is most of the sensor's cost.
 * A record therefore wakes the reader only when the last wakeup is `wake_interval_ns` ago, or, at most once a
 * millisecond, when `wake_bytes` are queued. A lone record is thus read at once; in a storm the reader comes some tens
 * of times a second, and what was written just after a wakeup waits for the reader's own tick.
 */
#pragma once

#include "event.h"
#include "kernel.h"

#define MILLISECOND 1000000

/* The tracing helpers are for GPL-compatible programs only. */
char object_license[] SEC("license") = "GPL";

/* Set by the loader. */
const volatile __u64 wake_interval_ns = 20 * MILLISECOND;
const volatile __u64 wake_bytes = 64 * 1024;

/* Shared by all CPUs without a lock: the worst a race can do is one wakeup more. */
__u64 last_wake_ns = 0;

/* The size is the loader's to set. */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 64 * 1024);
} events SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, EVENT_KINDS);
	__type(key, __u32);
	__type(value, struct event_counts);
} counters SEC(".maps");

/* Keeps a record's layout in the object's BTF, where a test compares it with the decoder's. */
#define TELL_LAYOUT(name) const struct name *const layout_of_##name SEC(".rodata.layout") = NULL

/* Atomic, because a hook can be interrupted by another on the same CPU that counts the same kind. */
#define COUNT(counter) __sync_fetch_and_add(&(counter), 1)

static __always_inline struct event_counts *begin(__u32 kind)
{
	struct event_counts *counts = bpf_map_lookup_elem(&counters, &kind);

	if (counts)
		COUNT(counts->begun);
	return counts;
}

static __always_inline __u64 wake_flag(__u64 now)
{
	__s64 since = (__s64)(now - last_wake_ns);

	if (since < MILLISECOND)
		return BPF_RB_NO_WAKEUP;
	if (since < (__s64)wake_interval_ns && bpf_ringbuf_query(&events, BPF_RB_AVAIL_DATA) < wake_bytes)
		return BPF_RB_NO_WAKEUP;
	last_wake_ns = now;
	return BPF_RB_FORCE_WAKEUP;
}

static __always_inline void finish(struct event_counts *counts, void *record, __u64 size, __u64 now)
{
	if (bpf_ringbuf_output(&events, record, size, wake_flag(now)) == 0)
		COUNT(counts->written);
	else
		COUNT(counts->ring_full);
}

static __always_inline void give_up(struct event_counts *counts)
{
	COUNT(counts->fault);
}
