/* SPDX-License-Identifier: GPL-2.0 */
/* A made-up /dev/ooh: what libooh's sys.c does, on a table of dirty pages. */
#ifndef FAKE_OOH_H
#define FAKE_OOH_H

#include <ktap.h>

#include <sys/mman.h>
#include <linux/ooh.h>

#include "internal.h"

#define BASE		0x7f0000000000ULL
#define RING_RECORDS	8
#define RING_BYTES	(2 * PAGE)
#define FAKE_FD		12345
#define PAGES		4096

/* The device: which pages are dirty, how it behaves. */
static struct {
	int open_error, info_error, track_error, fetch_error;
	uint32_t abi, features;
	bool dirty[PAGES];
	bool lost, last, gone;
	int interrupts;			/* fetches that a signal breaks off */
	uint32_t ring_size;		/* what it claims */
	uint64_t ring_bytes;
	struct ooh_ring *ring;
	uint64_t next;			/* of the epoch under way */
	uint64_t epoch;
	bool more;
	int opened, closed, mapped, fetches, rests;
	uint32_t track_flags, ring_order;
	int32_t track_pid;
	int poll_events;
} dev;

static void dev_reset(void)
{
	memset(&dev, 0, sizeof(dev));
	dev.abi = OOH_ABI;
	dev.features = OOH_F_SPML;
	dev.ring_size = RING_RECORDS;
	dev.ring_bytes = RING_BYTES;
}

int device_open(const char *path)
{
	CHECK(!strcmp(path, "/dev/ooh"), "%s", path);
	if (dev.open_error)
		return dev.open_error;
	dev.opened++;
	return FAKE_FD;
}

void device_close(int fd)
{
	CHECK(fd == FAKE_FD, "%d", fd);
	dev.closed++;
}

void *device_map(int fd, size_t size)
{
	CHECK(fd == FAKE_FD && size == dev.ring_bytes, "%zu", size);
	dev.ring = map_memory(size);
	dev.ring->size = dev.ring_size;
	dev.mapped++;
	return dev.ring;
}

void device_unmap(void *map, size_t size)
{
	CHECK(map == dev.ring && size == dev.ring_bytes, "%zu", size);
	unmap_memory(map, size);
	dev.mapped--;
}

int device_poll(int fd, int timeout_ms)
{
	return dev.poll_events;
}

static bool put(uint64_t start, uint64_t end)
{
	struct ooh_record *r = (void *)((char *)dev.ring + PAGE);

	if (dev.ring->head - dev.ring->tail == dev.ring->size)
		return false;
	r[dev.ring->head & (dev.ring->size - 1)] = (struct ooh_record){ start, end };
	dev.ring->head++;
	return true;
}

static int dev_fetch(struct ooh_fetch_args *f)
{
	bool rest = f->flags & OOH_FETCH_REST;
	uint64_t i, end = PAGES, j;

	dev.fetches++;
	dev.rests += rest;
	if (dev.interrupts && dev.interrupts--)
		return -EINTR;
	if (dev.fetch_error)
		return dev.fetch_error;
	if (dev.gone)
		return -ESRCH;
	CHECK(rest == dev.more, "REST %d, more %d", rest, dev.more);
	if (!rest) {
		dev.epoch++;
		dev.next = f->end ? (f->start - BASE) / PAGE : 0;
	}
	if (f->end)
		end = (f->end - BASE) / PAGE;
	dev.more = false;
	f->status = dev.lost ? OOH_FETCHED_LOST : 0;
	f->epoch = dev.epoch;
	for (i = dev.next; i < end; i = j) {
		for (j = i; j < end && dev.dirty[j]; j++)
			;
		if (j == i) {
			j++;
			continue;
		}
		if (!put(BASE + i * PAGE, BASE + j * PAGE)) {
			dev.next = i;
			dev.more = true;
			f->status |= OOH_FETCHED_MORE;
			return 0;
		}
		memset(&dev.dirty[i], 0, j - i);
	}
	if (dev.last) {
		f->status |= OOH_FETCHED_LAST;
		dev.gone = true;
	}
	dev.lost = false;
	return 0;
}

int device_ioctl(int fd, unsigned long request, void *arg)
{
	struct ooh_track_args *t = arg;

	CHECK(fd == FAKE_FD, "%d", fd);
	switch (request) {
	case OOH_INFO:
		*(struct ooh_info *)arg = (struct ooh_info){ .abi = dev.abi, .features = dev.features, .page_size = PAGE };
		return dev.info_error;
	case OOH_TRACK:
		dev.track_flags = t->flags;
		dev.track_pid = t->pid;
		dev.ring_order = t->ring_order;
		t->ring_bytes = dev.ring_bytes;
		return dev.track_error;
	case OOH_FETCH:
		return dev_fetch(arg);
	case OOH_STATS:
		*(struct ooh_stats_args *)arg = (struct ooh_stats_args){ .fresh = 11, .unarmed = 12, .more = 13 };
		return 0;
	}
	CHECK(false, "ioctl 0x%lx", request);
	return -ENOTTY;
}

#endif
