// SPDX-License-Identifier: GPL-2.0 OR MIT
/*
 * A page that the kernel has write-protected for a userfaultfd in asynchronous
 * mode becomes writable again in the fault of the first write, and one ioctl
 * finds those pages and protects them again.
 *
 * Of a process, every mapping has to be registered, those that came later too:
 * each collect() looks for mappings that are not, which costs no more than a
 * look at each of them, and registers them before it scans. All pages that are
 * there in a new one then count as written.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "internal.h"
#include "pagemap.h"
#include "tracee.h"

/* The kernel's, here since the headers of Debian 12 are older than it. */
struct uffd_api {
	uint64_t api, features, ioctls;
};

struct uffd_register {
	uint64_t start, len, mode, ioctls;
};

#define UFFD_API_IOCTL		_IOWR(0xaa, 0x3f, struct uffd_api)
#define UFFD_REGISTER_IOCTL	_IOWR(0xaa, 0x00, struct uffd_register)
#define UFFD_API_NUMBER		0xaaULL
#define UFFD_WP_ASYNC		(1ULL << 15)
#define UFFD_WP_HUGETLBFS_SHMEM	(1ULL << 12)
#define UFFD_REGISTER_WP	(1ULL << 1)
#define UFFD_USER_MODE_ONLY	1	/* enough: the kernel resolves these faults, those in kernel mode too */

struct wp_async {
	int uffd;
	int maps;		/* /proc/PID/maps; -1: not */
	struct pagemap pagemap;
	struct ranges unarmed;	/* not registered; the pages of @refused are written for all we know */
	struct ranges refused;
};

static int uffd_enable(int fd)
{
	struct uffd_api api = { .api = UFFD_API_NUMBER, .features = UFFD_WP_ASYNC | UFFD_WP_HUGETLBFS_SHMEM };

	return ioctl(fd, UFFD_API_IOCTL, &api) ? -errno : 0;
}

static int own_userfaultfd(char *why)
{
	int fd = syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY), ret;

	if (fd < 0)
		return say_why(why, -errno, "userfaultfd");
	ret = uffd_enable(fd);
	if (ret) {
		close(fd);
		return say_why(why, ret == -EINVAL ? -EOPNOTSUPP : ret,
			       "the kernel has no asynchronous write protection by userfaultfd (Linux 6.7)");
	}
	return fd;
}

static int wp_probe(enum ooh_backend which, pid_t pid, bool self, char *why)
{
	struct pagemap p;
	int ret;

	(void)which;
	ret = pagemap_open(&p, getpid());
	if (ret)
		return say_why(why, ret, "/proc/self/pagemap");
	ret = pagemap_can(&p, IS_WPALLOWED | IS_WRITTEN);
	pagemap_close(&p);
	if (ret)
		return say_why(why, ret, "the kernel has no PAGEMAP_SCAN (Linux 6.7)");
	ret = own_userfaultfd(why);
	if (ret < 0)
		return ret;
	close(ret);
	return self ? 0 : tracee_may_inject(pid, why);
}

/* 0, or why the range, all of it, cannot be registered. */
static int uffd_register(const struct wp_async *w, uint64_t start, uint64_t end)
{
	struct uffd_register reg = { .start = start, .len = end - start, .mode = UFFD_REGISTER_WP };

	return ioctl(w->uffd, UFFD_REGISTER_IOCTL, &reg) ? -errno : 0;
}

static int see_unarmed(void *opaque, uint64_t start, uint64_t end)
{
	struct wp_async *w = opaque;

	return ranges_add(&w->unarmed, start, end);
}

/*
 * One mapping, or a part of one, that could not be registered with others. Of
 * one that nobody may write to, nothing is to be reported.
 */
static int register_part(struct wp_async *w, const struct mapping *m, const struct ooh_range *r)
{
	uint64_t start = m->start > r->start ? m->start : r->start, end = m->end < r->end ? m->end : r->end;

	if (start >= end || !uffd_register(w, start, end) || m->perms[1] != 'w')
		return 0;
	return ranges_add(&w->refused, start, end);
}

static int register_mapping(void *opaque, const struct mapping *m)
{
	struct wp_async *w = opaque;
	size_t i;
	int ret = 0;

	for (i = 0; !ret && i < w->unarmed.n; i++)
		ret = register_part(w, m, &w->unarmed.r[i]);
	return ret;
}

/* The mappings of one range. */
struct in_range {
	struct wp_async *w;
	const struct ooh_range *range;
};

static int register_in_range(void *opaque, const struct mapping *m)
{
	struct in_range *in = opaque;

	return register_part(in->w, m, in->range);
}

/* A range with several mappings, of which at least one is not to be had. */
static int register_each(struct wp_async *w, const struct ooh_range *range)
{
	struct in_range in = { w, range };

	return maps_in(w->maps, range->start, range->end, register_in_range, &in);
}

/* Register what came since the last time. */
static int arm_new(struct ooh *h, uint64_t start, uint64_t end)
{
	static const struct scan_arg unarmed = { .inverted = IS_WPALLOWED, .mask = IS_WPALLOWED };
	struct wp_async *w = h->priv;
	size_t i;
	int ret;

	w->unarmed.n = w->refused.n = 0;
	ret = pagemap_scan(&w->pagemap, start, end, &unarmed, see_unarmed, w);
	if (ret)
		return ret;
	for (i = 0; !ret && i < w->unarmed.n; i++)
		if (uffd_register(w, w->unarmed.r[i].start, w->unarmed.r[i].end))
			ret = register_each(w, &w->unarmed.r[i]);
	if (ret != -ENOTTY && ret != -EBADF)
		return ret;
	/* What was registered already is so once more. */
	w->refused.n = 0;
	return maps_each(h->pid, register_mapping, w);
}

static int see_written(void *opaque, uint64_t start, uint64_t end)
{
	struct ooh *h = opaque;

	return ranges_add(&h->pending, start, end);
}

/* Pages that are there and not protected; whether they are armed is the caller's flag. */
static const struct scan_arg written = {
	.mask = IS_WRITTEN, .anyof = IS_PRESENT | IS_SWAPPED, .wanted = IS_WRITTEN,
};

static int wp_collect(struct ooh *h, uint64_t start, uint64_t end)
{
	struct wp_async *w = h->priv;
	struct scan_arg arm = written;
	size_t i;
	int ret;

	ret = arm_new(h, start, end);
	if (ret)
		return ret;
	arm.flags = SCAN_WP_MATCHING;
	ret = pagemap_scan(&w->pagemap, start, end, &arm, see_written, h);
	for (i = 0; !ret && i < w->refused.n; i++) {
		ret = ranges_add(&h->pending, w->refused.r[i].start, w->refused.r[i].end);
		h->counters.untracked += (w->refused.r[i].end - w->refused.r[i].start) / PAGE;
	}
	return ret;
}

static int found(void *opaque, uint64_t start, uint64_t end)
{
	(void)opaque;
	(void)start;
	(void)end;
	return 1;
}

static int wp_written(struct ooh *h)
{
	static const struct scan_arg armed_and_written = {
		.mask = IS_WRITTEN | IS_WPALLOWED, .anyof = IS_PRESENT | IS_SWAPPED, .max_pages = 1,
	};
	struct wp_async *w = h->priv;
	size_t known = w->unarmed.n;
	int ret;

	ret = pagemap_scan(&w->pagemap, 0, ALL_MEMORY, &armed_and_written, found, NULL);
	if (ret)
		return ret;
	/* What is mapped newly may have been written. */
	ret = arm_new(h, 0, ALL_MEMORY);
	if (ret || w->unarmed.n == known)
		return ret;
	return pagemap_scan(&w->pagemap, 0, ALL_MEMORY, &armed_and_written, found, NULL);
}

static void wp_close(struct ooh *h)
{
	struct wp_async *w = h->priv;

	/* That ends the registration, and with it the protection of all pages. */
	if (w->uffd >= 0)
		close(w->uffd);
	if (w->maps >= 0)
		close(w->maps);
	pagemap_close(&w->pagemap);
	ranges_free(&w->unarmed);
	ranges_free(&w->refused);
	unmap_memory(w, sizeof(*w));
}

static int open_uffd(struct ooh *h, char *why)
{
	int fd, ret;

	if (h->self)
		return own_userfaultfd(why);
	if (h->flags & OOH_NO_INJECT)
		return say_why(why, -EOPNOTSUPP, "process %d would have to make a userfaultfd (OOH_NO_INJECT)", h->pid);
	fd = tracee_userfaultfd(h->pid, O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY, why);
	if (fd < 0)
		return fd;
	ret = uffd_enable(fd);
	if (!ret)
		return fd;
	close(fd);
	return say_why(why, ret, "userfaultfd of process %d", h->pid);
}

static int wp_open(struct ooh *h, const struct ooh_options *o, char *why)
{
	struct wp_async *w;
	char path[32];
	int ret;

	(void)o;
	/* First of all without touching the process. */
	ret = wp_probe(h->which, h->pid, h->self, why);
	if (ret)
		return ret;
	w = map_memory(sizeof(*w));
	if (!w)
		return say_why(why, -ENOMEM, "memory");
	w->uffd = -1;
	ret = pagemap_open(&w->pagemap, h->pid);
	if (ret) {
		unmap_memory(w, sizeof(*w));
		return say_why(why, ret, "/proc/%d/pagemap", h->pid);
	}
	snprintf(path, sizeof(path), "/proc/%d/maps", h->pid);
	w->maps = open(path, O_RDONLY | O_CLOEXEC);
	h->priv = w;
	ret = open_uffd(h, why);
	if (ret < 0)
		goto err_close;
	w->uffd = ret;
	ret = wp_collect(h, 0, ALL_MEMORY);
	if (ret) {
		say_why(why, ret, "arming process %d", h->pid);
		goto err_close;
	}
	h->pending.n = 0;
	h->counters.untracked = 0;
	return 0;

err_close:
	wp_close(h);
	return ret;
}

const struct backend backend_wp_async = {
	.probe = wp_probe,
	.open = wp_open,
	.close = wp_close,
	.collect = wp_collect,
	.written = wp_written,
};
