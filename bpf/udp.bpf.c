// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/*
 * UDP: the first datagram of each flow, a flow being one socket and one remote address and port.
 *
 * cgroup/connect4,6 and cgroup/sendmsg4,6 at the root of the cgroup2 hierarchy (4.18; pid helpers 5.7): called in the
 * sending process with the address the kernel is about to use. A connected socket's sends pass no hook; its connect is
 * told instead, so such a flow may turn out to have sent nothing. Connects to port 0 are left out: they are how the C
 * library asks for a source address.
 *
 * The programs always answer 1, "let it pass".
 *
 * Not seen: raw sockets, sends from inside the kernel, a flow that fell out of the table and goes on (told again).
 */
#include "emit.h"
#include "syscall.h"
#include "task.h"

#define PASS 1
#define SOCK_DGRAM 2

TELL_LAYOUT(event_flow);

struct flow_key {
	__u64 cookie;
	__u8 remote[16];
	__u16 port;
	__u16 _pad[3];
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, struct flow_key);
	__type(value, __u8);
} flows SEC(".maps");

/* User-space ABI: struct bpf_sock_addr and struct bpf_sock of include/uapi/linux/bpf.h. */
struct bpf_sock {
	__u32 bound_dev_if;
	__u32 family;
	__u32 type;
	__u32 protocol;
	__u32 mark;
	__u32 priority;
	__u32 src_ip4;
	__u32 src_ip6[4];
	__u32 src_port; /* host byte order */
} CONTEXT;

struct bpf_sock_addr {
	__u32 user_family;
	__u32 user_ip4;
	__u32 user_ip6[4];
	__u32 user_port;
	__u32 family;
	__u32 type;
	__u32 protocol;
	__u32 msg_src_ip4;
	__u32 msg_src_ip6[4];
	struct bpf_sock *sk __attribute__((aligned(8)));
} CONTEXT;

static __always_inline int tell_flow(struct bpf_sock_addr *ctx, struct flow_key *key, __u16 family)
{
	struct event_flow flow = {};
	struct event_counts *counts;
	struct bpf_sock *sk;
	__u8 told = 1;

	if (!key->port || bpf_map_update_elem(&flows, key, &told, BPF_NOEXIST) != 0)
		return PASS;
	counts = begin(EVENT_UDP_SEND);
	if (!counts)
		return PASS;
	fill_header(&flow.header, current_task(), EVENT_UDP_SEND, sizeof(flow));
	flow.family = family;
	flow.transport = IPPROTO_UDP;
	flow.established = 1;
	flow.remote_port = __builtin_bswap16(key->port);
	memcpy(flow.remote, key->remote, sizeof(flow.remote));
	sk = ctx->sk;
	if (sk) {
		flow.local_port = sk->src_port;
		if (family == AF_INET) {
			*(__u32 *)flow.local = sk->src_ip4;
		} else {
			*(__u32 *)(flow.local + 0) = sk->src_ip6[0];
			*(__u32 *)(flow.local + 4) = sk->src_ip6[1];
			*(__u32 *)(flow.local + 8) = sk->src_ip6[2];
			*(__u32 *)(flow.local + 12) = sk->src_ip6[3];
		}
	}
	finish(counts, &flow, sizeof(flow), flow.header.boot_ns);
	return PASS;
}

static __always_inline int on_flow4(struct bpf_sock_addr *ctx)
{
	struct flow_key key = {};

	if (ctx->type != SOCK_DGRAM || ctx->protocol != IPPROTO_UDP)
		return PASS;
	key.cookie = bpf_get_socket_cookie(ctx);
	key.port = ctx->user_port;
	*(__u32 *)key.remote = ctx->user_ip4;
	return tell_flow(ctx, &key, AF_INET);
}

static __always_inline int on_flow6(struct bpf_sock_addr *ctx)
{
	struct flow_key key = {};

	if (ctx->type != SOCK_DGRAM || ctx->protocol != IPPROTO_UDP)
		return PASS;
	key.cookie = bpf_get_socket_cookie(ctx);
	key.port = ctx->user_port;
	*(__u32 *)(key.remote + 0) = ctx->user_ip6[0];
	*(__u32 *)(key.remote + 4) = ctx->user_ip6[1];
	*(__u32 *)(key.remote + 8) = ctx->user_ip6[2];
	*(__u32 *)(key.remote + 12) = ctx->user_ip6[3];
	return tell_flow(ctx, &key, AF_INET6);
}

SEC("cgroup/connect4")
int on_connect4(struct bpf_sock_addr *ctx)
{
	return on_flow4(ctx);
}

SEC("cgroup/connect6")
int on_connect6(struct bpf_sock_addr *ctx)
{
	return on_flow6(ctx);
}

SEC("cgroup/sendmsg4")
int on_send4(struct bpf_sock_addr *ctx)
{
	return on_flow4(ctx);
}

SEC("cgroup/sendmsg6")
int on_send6(struct bpf_sock_addr *ctx)
{
	return on_flow6(ctx);
}
