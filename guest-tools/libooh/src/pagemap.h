/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/* /proc/PID/pagemap and its ioctl PAGEMAP_SCAN, /proc/PID/maps. */
#ifndef OOH_PAGEMAP_H
#define OOH_PAGEMAP_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/ioctl.h>
#include <sys/types.h>

/* The kernel's, here since the headers of Debian 12 are older than it. */
struct scan_region {
	uint64_t start, end, categories;
};

struct scan_arg {
	uint64_t size, flags, start, end, walk_end, vec, vec_len, max_pages;
	uint64_t inverted, mask, anyof, wanted;
};

#define SCAN_IOCTL	_IOWR('f', 16, struct scan_arg)
#define SCAN_WP_MATCHING	(1u << 0)

#define IS_WPALLOWED	(1u << 0)
#define IS_WRITTEN	(1u << 1)
#define IS_PRESENT	(1u << 3)
#define IS_SWAPPED	(1u << 4)
#define IS_SOFT_DIRTY	(1u << 7)

#define SCAN_REGIONS	1024

struct pagemap {
	int fd;
	uint64_t end;			/* of user space, for SCAN_IOCTL */
	struct scan_region *region;	/* SCAN_REGIONS of them, or 512 entries of a pagemap per page of it */
};

int pagemap_open(struct pagemap *p, pid_t pid);
void pagemap_close(struct pagemap *p);

typedef int (*range_fn)(void *opaque, uint64_t start, uint64_t end);

/*
 * Every region of [start, end) of which the categories in @mask hold (those in
 * @inverted must not) and, if @anyof is not 0, one of those. -ESRCH: the
 * process is gone. A nonzero result of @fn ends it.
 */
int pagemap_scan(struct pagemap *p, uint64_t start, uint64_t end, const struct scan_arg *what,
		 range_fn fn, void *opaque);
/* The kernel can do SCAN_IOCTL with these categories: 0, or -EOPNOTSUPP. */
int pagemap_can(struct pagemap *p, uint64_t categories);
/* By read(): pages with @bits, all of them, set, in [start, end) of one mapping. */
int pagemap_read(struct pagemap *p, uint64_t start, uint64_t end, uint64_t any, uint64_t bits,
		 range_fn fn, void *opaque);

#define BIT_SOFT_DIRTY	(1ULL << 55)
#define BIT_PRESENT	(1ULL << 63)
#define BIT_SWAPPED	(1ULL << 62)

struct mapping {
	uint64_t start, end;
	char perms[5];
	const char *name;	/* to the end of the line */
};

/* Each line of /proc/PID/maps. A nonzero result of @fn ends it. */
int maps_each(pid_t pid, int (*fn)(void *opaque, const struct mapping *m), void *opaque);

/*
 * The same for the mappings that touch [start, end) only, without reading the others (Linux 6.11), by an open
 * /proc/PID/maps. Names are not filled in. -ENOTTY: the kernel has it not.
 */
int maps_in(int maps, uint64_t start, uint64_t end, int (*fn)(void *opaque, const struct mapping *m), void *opaque);

/* A number from /proc/PID/status, -ENOENT: no such line. */
long status_number(pid_t pid, const char *name);

#endif
