// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/*
 * TCP: connect with its outcome, listen, accept.
 *
 * inet_sock_set_state (raw tracepoint; sock, old state, new state; 4.16 to 6.18). A connect enters SYN_SENT in the
 * process that called it, but leaves it wherever the answer arrives: in a softirq on top of any process. The caller is
 * therefore remembered by socket at SYN_SENT and the outcome is told in its name. The kernel sets sk_err before it
 * closes the socket, so the errno is there to read. LISTEN is entered by the caller of listen.
 *
 * A server's socket becomes ESTABLISHED in a softirq too, before any process has asked for it. What is told is the
 * accept itself, at sys_exit_accept(4): the process that took the connection, which under a pre-forked server is not
 * the one that called listen.
 *
 * Not seen: accept through io_uring or by a 32-bit program, connections older than the attach, a connect that fails
 * before a packet was sent (no route). listen on an unbound socket shows port 0: the port is chosen after the hook.
 */
#include "emit.h"
#include "flow.h"
#include "syscall.h"
#include "task.h"

#define TCP_ESTABLISHED 1
#define TCP_SYN_SENT 2
#define TCP_CLOSE 7
#define TCP_LISTEN 10

TELL_LAYOUT(event_flow);

struct caller {
	__u64 started;
	__u32 tgid;
	__u32 _pad;
};

/* Sockets in SYN_SENT. Each leaves that state, so each entry is removed; not LRU, so that a full table is counted. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__type(key, __u64);
	__type(value, struct caller);
} connecting SEC(".maps");

static __always_inline void remember_connect(__u64 sk)
{
	struct task_struct *task = current_task(), *leader = READ(task->group_leader);
	struct caller caller = {.started = READ(leader->start_boottime), .tgid = READ(task->tgid)};
	struct event_counts *counts;

	if (bpf_map_update_elem(&connecting, &sk, &caller, BPF_ANY) == 0)
		return; /* begun once its outcome is known */
	counts = begin(EVENT_CONNECT);
	if (counts)
		give_up(counts);
}

static __always_inline void tell_connect(struct sock *sk, struct caller *caller, int established)
{
	struct event_counts *counts = begin(EVENT_CONNECT);
	struct event_flow flow = {};

	if (!counts)
		return;
	flow.header.boot_ns = bpf_ktime_get_boot_ns();
	flow.header.started = caller->started;
	flow.header.tgid = caller->tgid;
	flow.header.size = sizeof(flow);
	flow.header.kind = EVENT_CONNECT;
	flow.header.version = EVENT_ABI_VERSION;
	fill_flow(&flow, sk);
	flow.transport = IPPROTO_TCP;
	flow.established = established;
	flow.error = established ? 0 : READ(sk->sk_err);
	finish(counts, &flow, sizeof(flow), flow.header.boot_ns);
}

/* What the calling process did itself: accept, listen. */
static __always_inline void tell_own(struct sock *sk, __u8 kind)
{
	struct event_counts *counts = begin(kind);
	struct event_flow flow = {};

	if (!counts)
		return;
	fill_header(&flow.header, current_task(), kind, sizeof(flow));
	fill_flow(&flow, sk);
	flow.transport = IPPROTO_TCP;
	flow.established = 1;
	finish(counts, &flow, sizeof(flow), flow.header.boot_ns);
}

SEC("raw_tp/inet_sock_set_state")
int on_state(__u64 *ctx)
{
	struct sock *sk = (struct sock *)ctx[0];
	int old = ctx[1], new = ctx[2];
	__u64 key = (__u64)sk;
	struct caller *caller;

	if (!is_tcp(sk))
		return 0;
	if (new == TCP_SYN_SENT) {
		remember_connect(key);
	} else if (new == TCP_LISTEN) {
		tell_own(sk, EVENT_LISTEN);
	} else if (new == TCP_ESTABLISHED || (new == TCP_CLOSE && old != TCP_ESTABLISHED)) {
		caller = bpf_map_lookup_elem(&connecting, &key);
		if (!caller)
			return 0;
		tell_connect(sk, caller, new == TCP_ESTABLISHED);
		bpf_map_delete_elem(&connecting, &key);
	}
	return 0;
}

SEC("tracepoint/syscalls/sys_exit_accept4")
int on_accept(struct syscall_exit *ctx)
{
	struct file *file;
	struct sock *sk;

	if (ctx->result < 0)
		return 0;
	file = open_file(current_task(), ctx->result);
	if (!file)
		return 0; /* another thread has closed it already */
	sk = socket_of(file);
	if (sk && is_tcp(sk))
		tell_own(sk, EVENT_ACCEPT);
	return 0;
}
