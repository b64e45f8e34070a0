// SPDX-License-Identifier: GPL-2.0 OR MIT
/* The handle: which back-end, epochs, what is pending. */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "internal.h"

#define ALL_OPTIONS	(OOH_STOPPED | OOH_NO_INJECT)
#define FIRST_NAP_NS	1000000L
#define LONGEST_NAP_NS	64000000L

static const struct {
	const char *name;
	const struct backend *ops;
} known[OOH_BACKENDS] = {
	[OOH_AUTO] = { "auto", NULL },
	[OOH_EPML] = { "epml", &backend_device },
	[OOH_SPML] = { "spml", &backend_device },
	[OOH_WP_ASYNC] = { "wp-async", &backend_wp_async },
	[OOH_SOFT_DIRTY] = { "soft-dirty", &backend_soft_dirty },
};

int say_why(char *why, int err, const char *format, ...)
{
	va_list ap;
	int n;

	va_start(ap, format);
	n = vsnprintf(why, WHY_LEN, format, ap);
	va_end(ap);
	/* "Not supported" is what the text says itself. */
	if (n >= 0 && n < WHY_LEN && err != -EOPNOTSUPP)
		snprintf(why + n, WHY_LEN - n, ": %s", strerrordesc_np(-err) ?: "unknown error");
	return err;
}

void *map_memory(size_t size)
{
	void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	return p == MAP_FAILED ? NULL : p;
}

void unmap_memory(void *p, size_t size)
{
	if (p)
		munmap(p, size);
}

const char *ooh_backend_name(enum ooh_backend backend)
{
	return (unsigned int)backend < OOH_BACKENDS ? known[backend].name : "unknown";
}

int ooh_backend_by_name(const char *name)
{
	int i;

	for (i = 0; name && i < OOH_BACKENDS; i++)
		if (!strcmp(name, known[i].name))
			return i;
	return -EINVAL;
}

int ooh_capabilities(pid_t pid, struct ooh_capabilities *caps)
{
	bool self = !pid || pid == getpid();
	int i;

	if (!caps || pid < 0)
		return -EINVAL;
	*caps = (struct ooh_capabilities){ .page_size = PAGE };
	for (i = OOH_AUTO + 1; i < OOH_BACKENDS; i++) {
		int ret = known[i].ops->probe(i, pid ?: getpid(), self, caps->why_not[i]);

		if (ret < 0)
			continue;
		if (ret > 0)
			caps->module_abi = ret;
		caps->backends |= 1u << i;
		if (!caps->best)
			caps->best = i;
	}
	return 0;
}

static int try_backend(struct ooh *h, const struct ooh_options *o, int which)
{
	int ret;

	h->which = which;
	h->ops = known[which].ops;
	h->why[which][0] = '\0';
	ret = h->ops->open(h, o, h->why[which]);
	if (ret)
		h->ops = NULL;
	return ret;
}

static void say_skipped(const struct ooh *h, const struct ooh_options *o, int which)
{
	char line[WHY_LEN + 32];

	if (!o->log)
		return;
	snprintf(line, sizeof(line), "no %s: %s", known[which].name, h->why[which]);
	o->log(o->opaque, line);
}

/* What OOH_AUTO may take: OOH_BACKEND of the environment narrows it to one. */
static int automatic(struct ooh *h, const struct ooh_options *o)
{
	const char *only = secure_getenv("OOH_BACKEND");
	int which = only && *only ? ooh_backend_by_name(only) : OOH_AUTO;
	int i, ret;

	if (which < 0)
		return which;
	if (which != OOH_AUTO)
		return try_backend(h, o, which);
	for (i = OOH_AUTO + 1; i < OOH_BACKENDS; i++) {
		ret = try_backend(h, o, i);
		if (!ret || ret == -ESRCH)
			return ret;
		say_skipped(h, o, i);
	}
	return -EOPNOTSUPP;
}

int ooh_open(struct ooh **out, pid_t pid, const struct ooh_options *options)
{
	static const struct ooh_options none;
	const struct ooh_options *o = options ?: &none;
	struct ooh *h;
	int ret;

	if (!out)
		return -EINVAL;
	*out = NULL;
	if (pid < 0 || o->backend >= OOH_BACKENDS || o->flags & ~ALL_OPTIONS || o->reserved)
		return -EINVAL;
	h = map_memory(sizeof(*h));
	if (!h)
		return -ENOMEM;
	h->pid = pid ?: getpid();
	h->self = h->pid == getpid();
	h->flags = o->flags;
	ret = o->backend == OOH_AUTO ? automatic(h, o) : try_backend(h, o, o->backend);
	if (ret && o->backend != OOH_AUTO)
		say_skipped(h, o, o->backend);
	if (ret) {
		unmap_memory(h, sizeof(*h));
		return ret;
	}
	*out = h;
	return 0;
}

void ooh_close(struct ooh *h)
{
	if (!h)
		return;
	h->ops->close(h);
	ranges_free(&h->pending);
	unmap_memory(h, sizeof(*h));
}

/* One more epoch, unless the rest of one was asked for. */
static int begin(struct ooh *h, uint64_t start, uint64_t end)
{
	int ret;

	if (h->more && h->more_start == start && h->more_end == end)
		return 0;
	h->more = false;
	h->epoch_flags = 0;
	ret = h->ops->collect(h, start, end);
	ranges_tidy(&h->pending);
	if (ret == -ESRCH && h->pending.n) {
		h->epoch_flags |= OOH_EPOCH_LAST;
		ret = 0;
	}
	if (ret)
		return ret;
	h->epoch++;
	h->counters.epochs++;
	if (h->epoch_flags & OOH_EPOCH_LOST)
		h->counters.lost++;
	return 0;
}

static int fetch(struct ooh *h, uint64_t start, uint64_t end, struct ooh_range *ranges, size_t max,
		 struct ooh_epoch *epoch)
{
	uint64_t pages = 0;
	int i, n, ret;
	bool more;

	ret = begin(h, start, end);
	if (ret)
		return ret;
	n = ranges_take(&h->pending, start, end, ranges, max > INT32_MAX ? INT32_MAX : max, &more);
	if (n < 0)
		return n;
	for (i = 0; i < n; i++)
		pages += (ranges[i].end - ranges[i].start) / PAGE;
	h->counters.pages += pages;
	h->counters.ranges += n;
	h->more = more;
	h->more_start = start;
	h->more_end = end;
	if (epoch)
		*epoch = (struct ooh_epoch){
			.number = h->epoch, .pages = pages,
			.flags = h->epoch_flags | (more ? OOH_EPOCH_MORE : 0),
		};
	return n;
}

int ooh_fetch_in(struct ooh *h, uint64_t start, uint64_t end,
		 struct ooh_range *ranges, size_t max, struct ooh_epoch *epoch)
{
	if (!h || !ranges || !max || start >= end || start % PAGE || end % PAGE)
		return -EINVAL;
	return fetch(h, start, end, ranges, max, epoch);
}

int ooh_fetch(struct ooh *h, struct ooh_range *ranges, size_t max, struct ooh_epoch *epoch)
{
	if (!h || !ranges || !max)
		return -EINVAL;
	return fetch(h, 0, ALL_MEMORY, ranges, max, epoch);
}

int ooh_clear(struct ooh *h)
{
	int ret;

	if (!h)
		return -EINVAL;
	h->more = false;
	ret = begin(h, 0, ALL_MEMORY);
	if (!ret)
		ret = ranges_drop(&h->pending, 0, ALL_MEMORY);
	return ret;
}

static long long now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000LL + t.tv_nsec;
}

/* Where nothing tells of a write: look, at longer and longer intervals. */
static int wait_by_looking(struct ooh *h, int timeout_ms)
{
	long long until = timeout_ms < 0 ? INT64_MAX : now_ns() + timeout_ms * 1000000LL;
	struct timespec t = { .tv_nsec = FIRST_NAP_NS };
	int ret;

	for (;;) {
		long long left;

		ret = h->ops->written(h);
		if (ret)
			return ret;
		left = until - now_ns();
		if (left <= 0)
			return 0;
		if (left < t.tv_nsec)
			t.tv_nsec = left;
		if (nanosleep(&t, NULL))
			return -errno;
		if (t.tv_nsec < LONGEST_NAP_NS)
			t.tv_nsec *= 2;
	}
}

int ooh_wait(struct ooh *h, int timeout_ms)
{
	if (!h)
		return -EINVAL;
	if (h->pending.n)
		return 1;
	return h->ops->wait ? h->ops->wait(h, timeout_ms) : wait_by_looking(h, timeout_ms);
}

int ooh_fd(const struct ooh *h)
{
	if (!h)
		return -EINVAL;
	return h->ops->fd ? h->ops->fd(h) : -EOPNOTSUPP;
}

enum ooh_backend ooh_backend(const struct ooh *h)
{
	return h ? h->which : OOH_AUTO;
}

const char *ooh_why_not(const struct ooh *h, enum ooh_backend backend)
{
	return h && (unsigned int)backend < OOH_BACKENDS ? h->why[backend] : "";
}

int ooh_counters(struct ooh *h, struct ooh_counters *counters)
{
	if (!h || !counters)
		return -EINVAL;
	if (h->ops->count)
		h->ops->count(h, &h->counters);
	*counters = h->counters;
	return 0;
}
