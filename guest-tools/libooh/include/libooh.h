/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/*
 * libooh: which pages of a process were written.
 *
 * A Tracker opens a Tracked, itself or another process, and asks again and
 * again for the pages that were written since it asked before. Where a VM's
 * host offers it (module ooh.ko, /dev/ooh) that is done by Page Modification
 * Logging of the CPU and costs the Tracked nearly nothing; anywhere else by
 * what the kernel has. The calls and what they promise are the same.
 *
 * What ooh_fetch() promises: every page that is there (present or swapped out)
 * when it returns, and whose contents differ from what they were when an
 * ooh_fetch() before returned it or ooh_open() armed it, is reported. Pages may
 * be reported that were not written; a page that was given back (munmap,
 * MADV_DONTNEED) need not be. ooh(7) names the exceptions of each back-end.
 *
 * Functions return 0 or more, or -errno. A handle may be used by one thread
 * at a time; ooh_wait() beside other calls is fine.
 */
#ifndef LIBOOH_H
#define LIBOOH_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#ifdef __cplusplus
extern "C" {
#endif

#define LIBOOH_VERSION_MAJOR	0
#define LIBOOH_VERSION_MINOR	1

/* From the best to the one of last resort. */
enum ooh_backend {
	OOH_AUTO,		/* the first of these that works */
	OOH_EPML,		/* the CPU logs the process's own addresses */
	OOH_SPML,		/* the host's Page Modification Log */
	OOH_WP_ASYNC,		/* PAGEMAP_SCAN and asynchronous userfaultfd, Linux 6.7 */
	OOH_SOFT_DIRTY,		/* soft-dirty bits; the Tracked is stopped while they are read */
	OOH_BACKENDS		/* how many there are, with OOH_AUTO */
};

struct ooh;			/* one Tracker's hold of one Tracked */

/* ooh_options.flags */
#define OOH_STOPPED	(1u << 0)	/* the caller sees to it that no thread of the Tracked runs during a fetch */
#define OOH_NO_INJECT	(1u << 1)	/* never run a system call in the Tracked (OOH_WP_ASYNC of another process does) */

/* All zeroes, or no options, means the defaults. */
struct ooh_options {
	uint32_t backend;	/* enum ooh_backend; other than OOH_AUTO: this or an error */
	uint32_t flags;
	uint32_t ring_order;	/* of the module's ring: 2^order pages; 0: its default */
	uint32_t reserved;
	/* Called with one line for each back-end that OOH_AUTO could not take. */
	void (*log)(void *opaque, const char *line);
	void *opaque;
	uint64_t reserved2[2];
};

/* [start, end), whole pages */
struct ooh_range {
	uint64_t start;
	uint64_t end;
};

/* ooh_epoch.flags */
#define OOH_EPOCH_MORE	(1u << 0)	/* ranges[] was full: call again for the rest of the same epoch */
#define OOH_EPOCH_LOST	(1u << 1)	/* the host lost track (migration, reset): all that is mapped is reported */
#define OOH_EPOCH_LAST	(1u << 2)	/* the Tracked ended or called exec: this is what was known of it */

struct ooh_epoch {
	uint64_t number;	/* counts from 1 */
	uint64_t pages;		/* in the ranges that this call returned */
	uint32_t flags;
	uint32_t reserved;
};

/* Since ooh_open(). What a back-end cannot know stays 0. */
struct ooh_counters {
	uint64_t epochs;
	uint64_t pages;		/* reported */
	uint64_t ranges;
	uint64_t new_pages;	/* of those, reported since they were newly mapped or changed their place */
	uint64_t untracked;	/* of those, in memory that cannot be armed and is reported each time */
	uint64_t overflows;	/* a ring was full, and the rest fetched later */
	uint64_t lost;		/* epochs with OOH_EPOCH_LOST */
	uint64_t stopped_ns;	/* how long the Tracked was stopped by the library */
	uint64_t reserved[8];
};

struct ooh_capabilities {
	uint32_t backends;	/* bit 1u << enum ooh_backend: would work for this process */
	uint32_t best;		/* what OOH_AUTO would take; OOH_AUTO: nothing works */
	uint32_t page_size;
	uint32_t module_abi;	/* of /dev/ooh; 0: none */
	char why_not[OOH_BACKENDS][104];	/* empty, or why one of them would not work */
	uint64_t reserved[8];
};

/* What would work for a process; 0: this one. */
int ooh_capabilities(pid_t pid, struct ooh_capabilities *caps);

/* Begin to track a process (all its threads, not its children); 0: this one. */
int ooh_open(struct ooh **ooh, pid_t pid, const struct ooh_options *options);
void ooh_close(struct ooh *ooh);

/*
 * Get the pages that were written, and arm them again: how many of ranges[]
 * were filled in, sorted and merged. Look at their contents afterwards. With
 * OOH_EPOCH_MORE, call again; the ranges of an epoch are sorted over all calls.
 * -ESRCH: the Tracked is not there any more. epoch may be NULL, but not if max
 * could be too small.
 */
int ooh_fetch(struct ooh *ooh, struct ooh_range *ranges, size_t max, struct ooh_epoch *epoch);

/* The same for [start, end) only; what was written elsewhere stays for later. */
int ooh_fetch_in(struct ooh *ooh, uint64_t start, uint64_t end,
		 struct ooh_range *ranges, size_t max, struct ooh_epoch *epoch);

/* Forget what was written so far: a fetch whose result nobody wants. */
int ooh_clear(struct ooh *ooh);

/* Wait until something was written: 1, or 0 after timeout_ms (-1: for ever). */
int ooh_wait(struct ooh *ooh, int timeout_ms);

/* For poll(), POLLIN: something was written. -EOPNOTSUPP: this back-end has none. */
int ooh_fd(const struct ooh *ooh);

enum ooh_backend ooh_backend(const struct ooh *ooh);
/* Why OOH_AUTO did not take that one; empty: it did, or had no need to ask. */
const char *ooh_why_not(const struct ooh *ooh, enum ooh_backend backend);
int ooh_counters(struct ooh *ooh, struct ooh_counters *counters);

/* "epml", "spml", "wp-async", "soft-dirty", "auto"; and back, -EINVAL: unknown. */
const char *ooh_backend_name(enum ooh_backend backend);
int ooh_backend_by_name(const char *name);

#ifdef __cplusplus
}
#endif

#endif
