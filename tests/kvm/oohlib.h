/* SPDX-License-Identifier: GPL-2.0 */
/* /dev/ooh for tests: a tracker and the set of pages that a fetch gave. */
#ifndef OOHLIB_H
#define OOHLIB_H

#include <fcntl.h>
#include <poll.h>
#include <stdint.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#include <linux/ooh.h>

#include "ktap.h"

#define PAGE	4096UL

struct tracker {
	int fd;
	struct ooh_ring *ring;
	struct ooh_record *records;
	size_t bytes;
	uint32_t status;		/* of the last fetch, of all its parts */
	uint64_t pages, parts;
};

/* Called for each record, in their order. */
typedef void taker(void *opaque, uint64_t start, uint64_t end);

static inline int try_track(struct tracker *t, pid_t pid, uint32_t order)
{
	struct ooh_track_args args = { .pid = pid, .ring_order = order };

	t->fd = open(OOH_DEVICE, O_RDWR | O_CLOEXEC);
	if (t->fd < 0)
		return -1;
	if (ioctl(t->fd, OOH_TRACK, &args) < 0) {
		int err = errno;

		close(t->fd);
		errno = err;
		return -1;
	}
	t->bytes = args.ring_bytes;
	t->ring = mmap(NULL, t->bytes, PROT_READ | PROT_WRITE, MAP_SHARED, t->fd, 0);
	if (t->ring == MAP_FAILED)
		return -1;
	t->records = (void *)((char *)t->ring + PAGE);
	return 0;
}

static inline void track(struct tracker *t, pid_t pid, uint32_t order)
{
	MUST(try_track(t, pid, order));
}

static inline void untrack(struct tracker *t)
{
	munmap(t->ring, t->bytes);
	close(t->fd);
}

/* One epoch, all parts of it. Checks that it is sorted and merged. */
static inline int fetch(struct tracker *t, uint64_t start, uint64_t end, taker *take, void *opaque)
{
	struct ooh_fetch_args args = { .start = start, .end = end };
	uint64_t before = 0, pages = 0;

	t->status = 0;
	t->pages = 0;
	t->parts = 0;
	do {
		uint32_t head, i;
		uint64_t in_part = 0;

		args.flags = t->parts++ ? OOH_FETCH_REST : 0;
		if (ioctl(t->fd, OOH_FETCH, &args) < 0)
			return -1;
		head = __atomic_load_n(&t->ring->head, __ATOMIC_ACQUIRE);
		CHECK(head - t->ring->tail == args.records, "%u in the ring, %u said",
		      head - t->ring->tail, args.records);
		for (i = t->ring->tail; i != head; i++) {
			struct ooh_record r = t->records[i & (t->ring->size - 1)];

			/* The parts of an epoch may meet, records of one part may not. */
			CHECK(r.start < r.end && !((r.start | r.end) % PAGE) &&
			      (r.start > before || (!in_part && r.start == before)),
			      "record %llx-%llx after %lx", r.start, r.end, before);
			CHECK(!end || (r.start >= start && r.end <= end), "%llx-%llx", r.start, r.end);
			before = r.end;
			in_part += (r.end - r.start) / PAGE;
			if (take)
				take(opaque, r.start, r.end);
		}
		__atomic_store_n(&t->ring->tail, head, __ATOMIC_RELEASE);
		CHECK(in_part == args.pages, "%lu pages in records, %llu said", in_part, args.pages);
		pages += in_part;
		t->status |= args.status;
	} while (args.status & OOH_FETCHED_MORE);
	t->pages = pages;
	return 0;
}

/* Which pages of a buffer were given. */
struct buffer {
	char *base;
	size_t pages;
	unsigned char *given;
};

static inline void into_buffer(void *opaque, uint64_t start, uint64_t end)
{
	struct buffer *b = opaque;
	uint64_t base = (uintptr_t)b->base;

	for (; start < end; start += PAGE)
		if (start >= base && start < base + b->pages * PAGE)
			b->given[(start - base) / PAGE] = 1;
}

static inline void buffer_at(struct buffer *b, void *base, size_t pages)
{
	b->base = base;
	b->pages = pages;
	b->given = calloc(pages, 1);
}

static inline void buffer_new(struct buffer *b, size_t pages)
{
	void *p = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	MUST(p == MAP_FAILED ? -1 : 0);
	memset(p, 1, pages * PAGE);
	buffer_at(b, p, pages);
}

static inline void fetch_buffer(struct tracker *t, struct buffer *b)
{
	memset(b->given, 0, b->pages);
	MUST(fetch(t, 0, 0, into_buffer, b));
}

static inline size_t count_given(const struct buffer *b)
{
	size_t i, n = 0;

	for (i = 0; i < b->pages; i++)
		n += b->given[i];
	return n;
}

#endif
