/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * The contract between the BPF objects and crates/abi: what a ring record looks like. Fixed-width integers in host
 * byte order, explicit padding, no enums, no bools. Each record starts with `event_header`; strings follow the fixed
 * part in the order of their `_size` fields, without gaps. Raise EVENT_ABI_VERSION when anything here changes: objects
 * and decoder are built together, and the decoder refuses other versions.
 */
#pragma once

#include "helpers.h"

#define EVENT_ABI_VERSION 1

/* Kinds: the numbers of `watchfire_event::Kind`. */
#define EVENT_EXEC 1
#define EVENT_FORK 2
#define EVENT_EXIT 3
#define EVENT_CONNECT 4
#define EVENT_ACCEPT 5
#define EVENT_LISTEN 6
#define EVENT_UDP_SEND 7
#define EVENT_CREDENTIALS 15
#define EVENT_PTRACE 16
#define EVENT_MEMFD 17
#define EVENT_MODULE_LOAD 18
#define EVENT_BPF_LOAD 19
#define EVENT_MOUNT 20
#define EVENT_NAMESPACE 21
#define EVENT_KINDS 32

/* Bytes of argv that are taken; `argv_len` tells the true length. */
#define EVENT_ARGV_MAX 32768
/* Longest string but argv, its NUL included. */
#define EVENT_STRING_MAX 4096
/* Names longer than this do not exist on Linux file systems (NAME_MAX), plus NUL. */
#define EVENT_NAME_MAX 256

struct event_header {
	__u64 boot_ns; /* CLOCK_BOOTTIME */
	__u64 started; /* start of the thread group leader, same clock */
	__u32 tgid;    /* in the initial pid namespace */
	__u16 size;    /* of the whole record */
	__u8 kind;     /* EVENT_* */
	__u8 version;  /* EVENT_ABI_VERSION */
};
_Static_assert(sizeof(struct event_header) == 24, "layout changed: raise EVENT_ABI_VERSION");

struct event_credentials {
	__u32 uid;
	__u32 euid;
	__u32 suid;
	__u32 gid;
	__u32 egid;
	__u32 _pad;
	__u64 cap_effective;
	__u64 cap_permitted;
};
_Static_assert(sizeof(struct event_credentials) == 40, "layout changed: raise EVENT_ABI_VERSION");

/* event_stdio.what */
#define STDIO_UNKNOWN 0
#define STDIO_CLOSED 1
#define STDIO_FILE 2
#define STDIO_NULL 3
#define STDIO_TTY 4
#define STDIO_PIPE 5
#define STDIO_INET 6
#define STDIO_SOCKET 7
#define STDIO_OTHER 8

struct event_stdio {
	__u64 inode;      /* pipe, socket */
	__u8 address[16]; /* remote end; IPv4 in the first four bytes */
	__u16 family;     /* socket, inet */
	__u16 port;       /* remote port, host byte order */
	__u8 what;        /* STDIO_* */
	__u8 _pad[3];
};
_Static_assert(sizeof(struct event_stdio) == 32, "layout changed: raise EVENT_ABI_VERSION");

/* event_exec.flags */
#define EXEC_MEMFD 1     /* the image is a memfd */
#define EXEC_EXE_CUT 2   /* exe has more components or bytes than are told */
#define EXEC_CWD_CUT 4   /* the same for cwd */
#define EXEC_ARGV_LOST 8 /* argv could not be read */
#define EXEC_HAS_TTY 16

/*
 * Strings: filename, exe, cwd, tty, argv. A path is a list of components, leaf first, each ended by NUL: the way the
 * kernel side walks it. argv is as the kernel keeps it, each argument ended by NUL.
 */
struct event_exec {
	struct event_header header;
	__u64 parent_started;
	__u64 image_inode;
	__u64 cgroup;
	struct event_credentials credentials;
	struct event_stdio stdio[3];
	__u32 parent_tgid;
	__u32 image_device; /* kernel dev_t: major << 20 | minor */
	__u32 image_mode;
	__u32 image_uid;
	__u32 image_links;
	__u32 login_uid;
	__u32 audit_session;
	__u32 session;
	__u32 group;
	__u32 tty_major;
	__u32 tty_minor;
	__u32 ns_mnt;
	__u32 ns_pid;
	__u32 ns_net;
	__u32 ns_user;
	__u32 ns_tgid;
	__u32 argv_len;
	__u32 flags;
	__u16 filename_size;
	__u16 exe_size;
	__u16 cwd_size;
	__u16 tty_size;
	__u16 argv_size;
	__u8 comm[16];
	__u8 _pad[6];
};
_Static_assert(sizeof(struct event_exec) == 288, "layout changed: raise EVENT_ABI_VERSION");

struct event_fork {
	struct event_header header; /* the parent */
	__u64 child_started;
	__u32 child_tgid;
	__u32 child_ns_tgid;
};
_Static_assert(sizeof(struct event_fork) == 40, "layout changed: raise EVENT_ABI_VERSION");

struct event_exit {
	struct event_header header;
	__u32 status; /* as wait(2) returns it: code << 8 | core flag | signal */
	__u32 _pad;
};
_Static_assert(sizeof(struct event_exit) == 32, "layout changed: raise EVENT_ABI_VERSION");

/* connect, accept, listen, udp_send */
struct event_flow {
	struct event_header header;
	__u8 local[16]; /* IPv4 in the first four bytes */
	__u8 remote[16];
	__u16 local_port; /* host byte order */
	__u16 remote_port;
	__u16 family;
	__u8 transport;   /* IPPROTO_TCP or IPPROTO_UDP */
	__u8 established; /* 0: failed, `error` tells why */
	__s32 error;      /* errno; 0 when the socket was closed before an answer came */
	__u32 _pad;
};
_Static_assert(sizeof(struct event_flow) == 72, "layout changed: raise EVENT_ABI_VERSION");

struct event_credentials_change {
	struct event_header header;
	struct event_credentials before;
	struct event_credentials after;
};
_Static_assert(sizeof(struct event_credentials_change) == 104, "layout changed: raise EVENT_ABI_VERSION");

/* event_ptrace.request */
#define REQUEST_ATTACH 1
#define REQUEST_SEIZE 2
#define REQUEST_POKETEXT 3
#define REQUEST_POKEDATA 4
#define REQUEST_SETREGS 5
#define REQUEST_TRACEME 6
#define REQUEST_VM_WRITEV 7

struct event_ptrace {
	struct event_header header;
	__u32 request; /* REQUEST_* */
	__u32 target;  /* tgid in the initial pid namespace; 0 when it could not be told */
	__s32 result;
	__u32 _pad;
};
_Static_assert(sizeof(struct event_ptrace) == 40, "layout changed: raise EVENT_ABI_VERSION");

/* String: name. */
struct event_memfd {
	struct event_header header;
	__u16 name_size;
	__u8 _pad[6];
};
_Static_assert(sizeof(struct event_memfd) == 32, "layout changed: raise EVENT_ABI_VERSION");

/* event_module.call */
#define CALL_INIT_MODULE 1
#define CALL_FINIT_MODULE 2

/* Strings: file (a path, leaf first, for finit_module), name (the loaded module's own). */
struct event_module {
	struct event_header header;
	__s32 result;
	__u16 file_size;
	__u16 name_size;
	__u8 call; /* CALL_*_MODULE */
	__u8 _pad[7];
};
_Static_assert(sizeof(struct event_module) == 40, "layout changed: raise EVENT_ABI_VERSION");

struct event_bpf {
	struct event_header header;
	__u32 program_type;
	__s32 result;
	__u8 name[16]; /* ended by NUL */
};
_Static_assert(sizeof(struct event_bpf) == 48, "layout changed: raise EVENT_ABI_VERSION");

/* event_mount.call */
#define CALL_MOUNT 1
#define CALL_MOVE_MOUNT 2
#define CALL_FSMOUNT 3
#define CALL_UMOUNT 4
#define CALL_PIVOT_ROOT 5

/* Strings: source, target, fstype. */
struct event_mount {
	struct event_header header;
	__u64 flags;
	__s32 result;
	__u16 source_size;
	__u16 target_size;
	__u16 fstype_size;
	__u8 call; /* CALL_* */
	__u8 _pad[5];
};
_Static_assert(sizeof(struct event_mount) == 48, "layout changed: raise EVENT_ABI_VERSION");

/* event_namespace.call */
#define CALL_UNSHARE 1
#define CALL_SETNS 2
#define CALL_CLONE 3

struct event_namespace {
	struct event_header header;
	__u64 flags; /* CLONE_NEW* */
	__s32 result;
	__u8 call; /* CALL_* */
	__u8 _pad[3];
};
_Static_assert(sizeof(struct event_namespace) == 40, "layout changed: raise EVENT_ABI_VERSION");

/*
 * Books of one kind on one CPU. `begun` is counted before a record is built, the other three when its fate is known:
 * at rest begun == written + ring_full + fault.
 */
struct event_counts {
	__u64 begun;
	__u64 written;
	__u64 ring_full; /* no room in the ring */
	__u64 fault;     /* what the record needs could not be read or remembered */
};
_Static_assert(sizeof(struct event_counts) == 32, "layout changed: raise EVENT_ABI_VERSION");
