/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* A flow record from a socket. */
#pragma once

#include "event.h"
#include "kernel.h"

/* Addresses and ports as the socket has them. The local port is `inet_sport`: `skc_num` is 0 again once a failed
 * connect has given its port back. */
static __always_inline void fill_flow(struct event_flow *flow, struct sock *sk)
{
	struct inet_sock *inet = (struct inet_sock *)sk;
	__u16 remote_port = READ(sk->__sk_common.skc_dport), local_port = READ(inet->inet_sport);

	flow->family = READ(sk->__sk_common.skc_family);
	flow->local_port = __builtin_bswap16(local_port);
	flow->remote_port = __builtin_bswap16(remote_port);
	if (flow->family == AF_INET) {
		bpf_probe_read_kernel(flow->local, 4, &sk->__sk_common.skc_rcv_saddr);
		bpf_probe_read_kernel(flow->remote, 4, &sk->__sk_common.skc_daddr);
	} else {
		bpf_probe_read_kernel(flow->local, 16, &sk->__sk_common.skc_v6_rcv_saddr);
		bpf_probe_read_kernel(flow->remote, 16, &sk->__sk_common.skc_v6_daddr);
	}
}

static __always_inline int is_tcp(struct sock *sk)
{
	__u16 family = READ(sk->__sk_common.skc_family);

	return (family == AF_INET || family == AF_INET6) && READ(sk->sk_protocol) == IPPROTO_TCP;
}
