/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * Paths by walking dentries and mounts upwards, because bpf_d_path is not allowed in our hooks. The components come out
 * leaf first, each ended by NUL; the decoder turns them round. The walk ends at the root of the mount namespace and
 * does not stop at a chroot.
 *
 * Verifier notes (5.10 and 6.1 are stricter than 6.12). Text grows at a cursor that lives in map memory: each load of
 * it is a fresh unknown number, so the verifier finds every round of the loop alike and stops looking; a cursor in a
 * register has other bounds in each round, and the paths multiply. The cursor is masked at each use and the buffer is
 * longer than mask plus the longest single write.
 */
#pragma once

#include "event.h"
#include "kernel.h"

#define PATH_STEPS 64
/* Where the walk stops to append; at most one more component may follow. */
#define PATH_BYTES_MAX (EVENT_STRING_MAX - EVENT_NAME_MAX)
#define TEXT_MASK 0x3fff
/* Room for text whose offset is masked, with `last` bytes written behind the mask. */
#define TEXT_SIZE(last) (TEXT_MASK + 1 + (last))

static __always_inline struct mount *mount_of(struct vfsmount *mnt)
{
	return (void *)mnt - FIELD_OFFSET(struct mount, mnt);
}

/*
 * Appends the components of a path at text[*cursor]; returns 1 when the path goes on further than told. A file outside
 * of every tree (memfd, pipe) has one component, its own name.
 */
static __always_inline int append_path(__u8 *text, volatile __u32 *cursor, struct vfsmount *mnt, struct dentry *dentry)
{
	__u32 end = *cursor + PATH_BYTES_MAX;
	struct dentry *root = READ(mnt->mnt_root);

	for (int step = 0; step < PATH_STEPS; step++) {
		struct dentry *parent;
		long size;

		if (dentry == root) {
			struct mount *mount = mount_of(mnt);
			struct mount *above = READ(mount->mnt_parent);

			if (above == mount)
				return 0;
			dentry = READ(mount->mnt_mountpoint);
			mnt = &above->mnt;
			root = READ(mnt->mnt_root);
			continue;
		}
		parent = READ(dentry->d_parent);
		size = bpf_probe_read_kernel_str(&text[*cursor & TEXT_MASK], EVENT_NAME_MAX, READ(dentry->d_name.name));
		if (size <= 0)
			return 1;
		*cursor += size;
		if (dentry == parent)
			return 0;
		if (*cursor > end)
			return 1;
		dentry = parent;
	}
	return 1;
}
