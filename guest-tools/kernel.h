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

/* What the tables at @pgd say of one address. */
struct mapping {
	bool present, write, exec;
	uint64_t phys;		/* of the address itself */
	uint64_t size;		/* of the page, or of what is missing; aligned */
};

void lookup(struct image *img, uint64_t pgd, int levels, uint64_t va, struct mapping *m);

/* Its physical address only; false when not mapped. */
bool translate(struct image *img, uint64_t pgd, int levels, uint64_t va, uint64_t *phys);
/* Copy by virtual address; false unless all of it is mapped and RAM. */
bool virt_read(struct image *img, uint64_t pgd, int levels, uint64_t va,
	       void *buf, size_t len);

/* Consecutive pages, in the guest's addresses and in the window. */
struct text_range {
	uint64_t va;
	uint64_t offset;	/* in the window */
	uint64_t bytes;
};

/*
 * The kernel's code: what of its image is executable and not writable. Fills
 * @out, returns how many there are, at most @max.
 */
size_t kernel_text(struct image *img, const struct kernel *k, struct text_range *out, size_t max);

static inline bool kernel_read(struct image *img, const struct kernel *k, uint64_t va,
			       void *buf, size_t len)
{
	return virt_read(img, k->pgd, k->levels, va, buf, len);
}

#endif
