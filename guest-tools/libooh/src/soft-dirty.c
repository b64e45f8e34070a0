// SPDX-License-Identifier: GPL-2.0 OR MIT
/*
 * Soft-dirty bits are read and cleared in two steps, and cleared for a whole
 * process at once: what is written between the two would be lost. So the
 * Tracked is stopped meanwhile, by us or by the caller, and what was written
 * outside of the range that was asked for waits in h->pending.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "internal.h"
#include "pagemap.h"
#include "tracee.h"

struct soft_dirty {
	struct pagemap pagemap;
	int clear_refs;
	bool scan;		/* by PAGEMAP_SCAN (Linux 6.8), else by read() */
	struct ooh *h;
};

/* A page that was written a moment ago has the bit, if the kernel knows it at all. */
static int kernel_has_it(char *why)
{
	uint64_t entry = 0;
	struct pagemap p;
	char *page;
	int ret;

	ret = pagemap_open(&p, getpid());
	if (ret)
		return say_why(why, ret, "/proc/self/pagemap");
	page = map_memory(PAGE);
	if (page) {
		*(volatile char *)page = 1;
		if (pread(p.fd, &entry, sizeof(entry), (uintptr_t)page / PAGE * sizeof(entry)) != sizeof(entry))
			entry = 0;
	}
	unmap_memory(page, PAGE);
	pagemap_close(&p);
	return entry & BIT_SOFT_DIRTY ? 0 : say_why(why, -EOPNOTSUPP, "the kernel has no soft-dirty bits (CONFIG_MEM_SOFT_DIRTY)");
}

static int open_clear_refs(pid_t pid, char *why)
{
	char path[40];
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/clear_refs", pid);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	return fd < 0 ? say_why(why, errno == ENOENT ? -ESRCH : -errno, "%s", path) : fd;
}

static int sd_probe(enum ooh_backend which, pid_t pid, bool self, char *why)
{
	struct pagemap p;
	int ret;

	(void)which;
	ret = kernel_has_it(why);
	if (ret)
		return ret;
	ret = open_clear_refs(pid, why);
	if (ret < 0)
		return ret;
	close(ret);
	ret = pagemap_open(&p, pid);
	if (ret)
		return say_why(why, ret, "/proc/%d/pagemap", pid);
	pagemap_close(&p);
	(void)self;
	return 0;
}

static int see_dirty(void *opaque, uint64_t start, uint64_t end)
{
	struct ooh *h = opaque;

	return ranges_add(&h->pending, start, end);
}

static int read_mapping(void *opaque, const struct mapping *m)
{
	struct soft_dirty *s = opaque;

	if (m->start >> 63)
		return 0;	/* vsyscall, which is nobody's */
	return pagemap_read(&s->pagemap, m->start, m->end, BIT_PRESENT | BIT_SWAPPED, BIT_SOFT_DIRTY,
			    see_dirty, s->h);
}

static const struct scan_arg dirty = {
	.mask = IS_SOFT_DIRTY, .anyof = IS_PRESENT | IS_SWAPPED, .wanted = IS_SOFT_DIRTY,
};

static int read_bits(struct soft_dirty *s)
{
	if (s->scan)
		return pagemap_scan(&s->pagemap, 0, ALL_MEMORY, &dirty, see_dirty, s->h);
	return maps_each(s->h->pid, read_mapping, s);
}

static int read_and_clear(struct ooh *h)
{
	struct soft_dirty *s = h->priv;
	int ret;

	ret = read_bits(s);
	if (!ret && write(s->clear_refs, "4", 1) != 1)
		ret = -errno;
	return ret;
}

/* Nobody but the caller runs in this process. */
static bool alone(void)
{
	struct stat st;

	return !stat("/proc/self/task", &st) && st.st_nlink <= 3;
}

static long long now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static int sd_collect(struct ooh *h, uint64_t start, uint64_t end)
{
	struct tracee t;
	long long since;
	int ret;

	(void)start;
	(void)end;
	if (h->flags & OOH_STOPPED)
		return read_and_clear(h);
	if (h->self)
		return alone() ? read_and_clear(h) : -EBUSY;
	since = now_ns();
	ret = tracee_stop(&t, h->pid);
	if (ret)
		return ret;
	ret = read_and_clear(h);
	tracee_go(&t);
	h->counters.stopped_ns += now_ns() - since;
	return ret;
}

static int found(void *opaque, uint64_t start, uint64_t end)
{
	(void)opaque;
	(void)start;
	(void)end;
	return 1;
}

static int look_mapping(void *opaque, const struct mapping *m)
{
	struct soft_dirty *s = opaque;

	return m->start >> 63 ? 0 : pagemap_read(&s->pagemap, m->start, m->end, BIT_PRESENT | BIT_SWAPPED,
						 BIT_SOFT_DIRTY, found, NULL);
}

static int sd_written(struct ooh *h)
{
	struct soft_dirty *s = h->priv;
	struct scan_arg one = dirty;

	one.max_pages = 1;
	if (s->scan)
		return pagemap_scan(&s->pagemap, 0, ALL_MEMORY, &one, found, NULL);
	return maps_each(h->pid, look_mapping, s);
}

static void sd_close(struct ooh *h)
{
	struct soft_dirty *s = h->priv;

	close(s->clear_refs);
	pagemap_close(&s->pagemap);
	unmap_memory(s, sizeof(*s));
}

static int sd_open(struct ooh *h, const struct ooh_options *o, char *why)
{
	struct soft_dirty *s;
	int ret;

	(void)o;
	ret = kernel_has_it(why);
	if (ret)
		return ret;
	s = map_memory(sizeof(*s));
	if (!s)
		return say_why(why, -ENOMEM, "memory");
	s->h = h;
	ret = pagemap_open(&s->pagemap, h->pid);
	if (ret) {
		say_why(why, ret, "/proc/%d/pagemap", h->pid);
		goto err_free;
	}
	ret = open_clear_refs(h->pid, why);
	if (ret < 0)
		goto err_pagemap;
	s->clear_refs = ret;
	s->scan = !pagemap_can(&s->pagemap, IS_SOFT_DIRTY);
	h->priv = s;
	ret = sd_collect(h, 0, ALL_MEMORY);
	if (ret) {
		say_why(why, ret, ret == -EBUSY ? "this process has other threads, which the caller has to stop (OOH_STOPPED)" :
			"stopping process %d and clearing its bits", h->pid);
		sd_close(h);
		return ret;
	}
	h->pending.n = 0;
	h->counters.stopped_ns = 0;
	return 0;

err_pagemap:
	pagemap_close(&s->pagemap);
err_free:
	unmap_memory(s, sizeof(*s));
	return ret;
}

const struct backend backend_soft_dirty = {
	.probe = sd_probe,
	.open = sd_open,
	.close = sd_close,
	.collect = sd_collect,
	.written = sd_written,
};
