/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/* What the parts of libooh share. */
#ifndef OOH_INTERNAL_H
#define OOH_INTERNAL_H

#include <stdbool.h>
#include <stdint.h>

#include "libooh.h"
#include "ranges.h"

#define PAGE		4096UL
#define WHY_LEN		104	/* as in struct ooh_capabilities */
/* Past every address of user space, with four levels of page tables or five. */
#define ALL_MEMORY	((1ULL << 56) - PAGE)

struct ooh;

/*
 * A back-end. Functions return 0 or more, or -errno; those with @why put the
 * reason there, in words, when they fail.
 */
struct backend {
	/* Would open() work? Without a change to the process, but for what the kernel does anyway. */
	int (*probe)(enum ooh_backend which, pid_t pid, bool self, char *why);
	int (*open)(struct ooh *h, const struct ooh_options *o, char *why);
	void (*close)(struct ooh *h);
	/*
	 * Adds what was written in [start, end), and may add what was written
	 * elsewhere, to h->pending, and arms those pages again. Sets flags of
	 * h->epoch_flags. When it fails, what is in h->pending is still good.
	 */
	int (*collect)(struct ooh *h, uint64_t start, uint64_t end);
	/* 1: something was written since. Polled, if there is no wait(). */
	int (*written)(struct ooh *h);
	int (*wait)(struct ooh *h, int timeout_ms);
	int (*fd)(const struct ooh *h);
	void (*count)(struct ooh *h, struct ooh_counters *c);
};

extern const struct backend backend_device, backend_wp_async, backend_soft_dirty;

struct ooh {
	const struct backend *ops;
	enum ooh_backend which;
	pid_t pid;
	bool self;
	uint32_t flags;			/* OOH_STOPPED, OOH_NO_INJECT */
	/* Written, armed again, and not yet given to the caller. */
	struct ranges pending;
	bool more;			/* the epoch under way is [more_start, more_end) */
	uint64_t more_start, more_end;
	uint64_t epoch;
	uint32_t epoch_flags;
	struct ooh_counters counters;
	char why[OOH_BACKENDS][WHY_LEN];
	void *priv;			/* the back-end's */
};

/* ooh.c */
int say_why(char *why, int err, const char *format, ...) __attribute__((format(printf, 3, 4)));

/* sys.c; a test puts a made-up device in its place */
int device_open(const char *path);
int device_ioctl(int fd, unsigned long request, void *arg);
void *device_map(int fd, size_t size);		/* NULL: errno */
void device_unmap(void *map, size_t size);
int device_poll(int fd, int timeout_ms);	/* events, 0: none, -errno */
void device_close(int fd);

/* What the library maps for itself; never malloc(): a caller may have stopped a thread inside of it. */
void *map_memory(size_t size);
void unmap_memory(void *p, size_t size);

#endif
