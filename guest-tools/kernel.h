/* SPDX-License-Identifier: GPL-2.0 */
/*
 * A Linux kernel found in raw memory: where its structures have their members
 * (from its own BTF), where it lies, and how its virtual addresses translate.
 */
#ifndef KERNEL_H
#define KERNEL_H

#include "image.h"

#define MAX_TASK_BYTES	65536
#define MAX_COMM	64

/* Byte offsets of what we read. */
struct layout {
	uint32_t task_bytes;	/* up to the end of the last member we need */
	uint32_t tasks, comm, pid, tgid, real_parent, group_leader;
	uint32_t mm, active_mm, cred, flags, state, exit_state;
	uint32_t comm_len, state_bytes;
	uint32_t list_next, list_prev;
	uint32_t cred_uid;
	uint32_t mm_pgd, mm_arg_start, mm_arg_end;
};

struct kernel {
	struct layout at;
	uint64_t btf_offset, btf_bytes;	/* in the window */
	uint64_t init_task;		/* virtual address */
	uint64_t init_task_phys;
	uint64_t pgd;			/* guest-physical, of kernel addresses */
	int levels;			/* 4 or 5 */
	bool pgd_from_init_mm;		/* else found by looking through memory */
	char release[65];		/* "" if the banner was not found */
};

enum kernel_error {
	KERNEL_OK,
	KERNEL_NO_BTF,		/* no BTF that describes a task */
	KERNEL_NO_INIT_TASK,	/* BTF, but no process list that fits it */
	KERNEL_NO_PAGE_TABLE,
	KERNEL_LOST,		/* the memory went away */
};

enum kernel_error kernel_find(struct image *img, struct kernel *k);
const char *kernel_strerror(enum kernel_error e);

/* Parse @bytes of BTF (a private copy). False when it does not describe tasks. */
bool layout_from_btf(const void *btf, uint32_t bytes, struct layout *at);

/* Translate with the tables at @pgd; false when not mapped. */
bool translate(struct image *img, uint64_t pgd, int levels, uint64_t va, uint64_t *phys);
/* Copy by virtual address; false unless all of it is mapped and RAM. */
bool virt_read(struct image *img, uint64_t pgd, int levels, uint64_t va,
	       void *buf, size_t len);

static inline bool kernel_read(struct image *img, const struct kernel *k, uint64_t va,
			       void *buf, size_t len)
{
	return virt_read(img, k->pgd, k->levels, va, buf, len);
}

#endif
