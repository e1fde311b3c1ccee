/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * Module loads, whichever way the two calls are seen. init_module(image, length, parameters) hands over bytes only:
 * the module's name is known when the kernel has accepted it (tracepoint module_load, in the same thread, before the
 * call returns). finit_module(fd, parameters, flags) has a file, whose path is told.
 */
#pragma once

#include "emit.h"
#include "path.h"
#include "pending.h"
#include "task.h"

TELL_LAYOUT(event_module);

#define MODULE_NAME_MAX 56

struct module_name {
	char text[MODULE_NAME_MAX];
};

struct module_scratch {
	__u32 cursor;
	__u32 _pad;
	struct event_module module;
	__u8 text[TEXT_SIZE(EVENT_NAME_MAX)];
};

/* One per CPU, the loader sets the number. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct module_scratch);
} scratch SEC(".maps");

/* The module that a thread inside one of the calls has just loaded. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 64);
	__type(key, __u64);
	__type(value, struct module_name);
} loaded SEC(".maps");

static __always_inline __u16 append_module_name(struct module_scratch *to)
{
	__u64 thread = bpf_get_current_pid_tgid();
	struct module_name *name = bpf_map_lookup_elem(&loaded, &thread);
	long size;

	if (!name)
		return 0;
	size = bpf_probe_read_kernel_str(&to->text[to->cursor & TEXT_MASK], MODULE_NAME_MAX, name->text);
	bpf_map_delete_elem(&loaded, &thread);
	if (size <= 0)
		return 0;
	to->cursor += size;
	return size;
}

static __always_inline void tell_module(const struct pending *call, __s64 result)
{
	struct event_counts *counts = begin(EVENT_MODULE_LOAD);
	__u32 cpu = bpf_get_smp_processor_id();
	struct module_scratch *record = bpf_map_lookup_elem(&scratch, &cpu);
	struct file *file = NULL;
	__u64 size;

	if (!counts)
		return;
	if (!record) {
		give_up(counts);
		return;
	}
	memset(&record->module, 0, sizeof(record->module));
	record->cursor = 0;
	if (call->call == CALL_FINIT_MODULE)
		file = open_file(current_task(), call->args[0]);
	if (file)
		append_path(record->text, &record->cursor, READ(file->f_path.mnt), READ(file->f_path.dentry));
	record->module.file_size = *(volatile __u32 *)&record->cursor;
	record->module.name_size = append_module_name(record);
	record->module.result = clamp_result(result);
	record->module.call = call->call;
	size = sizeof(record->module) + *(volatile __u32 *)&record->cursor;
	fill_header(&record->module.header, current_task(), EVENT_MODULE_LOAD, size);
	OPAQUE(size);
	if (size > sizeof(record->module) + sizeof(record->text))
		size = sizeof(record->module) + sizeof(record->text);
	finish(counts, &record->module, size, record->module.header.boot_ns);
}

SEC("raw_tp/module_load")
int on_module(__u64 *ctx)
{
	struct module *module = (struct module *)ctx[0];
	__u64 thread = bpf_get_current_pid_tgid();
	struct module_name name = {};

	bpf_probe_read_kernel_str(name.text, sizeof(name.text), &module->name);
	bpf_map_update_elem(&loaded, &thread, &name, BPF_ANY);
	return 0;
}
