// SPDX-License-Identifier: GPL-2.0 OR MIT
/*
 * SPML and EPML: /dev/ooh of the module ooh.ko does the work. A fetch puts
 * records into a ring that we share with it; what does not fit waits there.
 */
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <linux/ooh.h>

#include "internal.h"

struct device {
	int fd;
	struct ooh_ring *ring;
	const struct ooh_record *record;	/* of the ring, ring_size of them */
	size_t bytes;
	uint32_t ring_size;
};

static uint32_t feature_of(enum ooh_backend which)
{
	return which == OOH_EPML ? OOH_F_EPML : OOH_F_SPML;
}

/* The descriptor, once it is known that the device can do it. */
static int open_device(enum ooh_backend which, struct ooh_info *info, char *why)
{
	int fd = device_open(OOH_DEVICE), ret;

	if (fd < 0)
		return say_why(why, fd == -ENOENT || fd == -ENXIO ? -EOPNOTSUPP : fd, "%s%s", OOH_DEVICE,
			       fd == -ENOENT ? " is not there (module ooh.ko)" : "");
	ret = device_ioctl(fd, OOH_INFO, info);
	if (ret)
		ret = say_why(why, ret, "%s: OOH_INFO", OOH_DEVICE);
	else if (info->abi != OOH_ABI)
		ret = say_why(why, -EOPNOTSUPP, "%s: ABI %u, this library knows %u", OOH_DEVICE, info->abi, OOH_ABI);
	else if (!(info->features & feature_of(which)))
		ret = say_why(why, -EOPNOTSUPP, "the host does not offer it (-cpu ...,+kvm-ooh%s)",
			      which == OOH_EPML ? "-epml" : "");
	if (!ret)
		return fd;
	device_close(fd);
	return ret;
}

static int dev_probe(enum ooh_backend which, pid_t pid, bool self, char *why)
{
	struct ooh_info info = {};
	int fd = open_device(which, &info, why);

	/* Whether it would let us have that process, only OOH_TRACK can say. */
	(void)pid;
	(void)self;
	if (fd < 0)
		return fd;
	device_close(fd);
	return info.abi;
}

static int map_ring(struct device *d, size_t bytes)
{
	d->ring = device_map(d->fd, bytes);
	if (!d->ring)
		return -errno;
	d->bytes = bytes;
	d->record = (const void *)((const char *)d->ring + PAGE);
	d->ring_size = d->ring->size;
	if (!d->ring_size || d->ring_size & (d->ring_size - 1) ||
	    d->ring_size > (bytes - PAGE) / sizeof(*d->record))
		return -EPROTO;
	return 0;
}

static void dev_close(struct ooh *h)
{
	struct device *d = h->priv;

	if (d->ring)
		device_unmap(d->ring, d->bytes);
	device_close(d->fd);
	unmap_memory(d, sizeof(*d));
}

static int dev_open(struct ooh *h, const struct ooh_options *o, char *why)
{
	struct ooh_track_args track = {
		.pid = h->self ? 0 : h->pid, .flags = feature_of(h->which), .ring_order = o->ring_order,
	};
	struct ooh_info info;
	struct device *d;
	int ret;

	ret = open_device(h->which, &info, why);
	if (ret < 0)
		return ret;
	d = map_memory(sizeof(*d));
	if (!d) {
		device_close(ret);
		return say_why(why, -ENOMEM, "memory");
	}
	d->fd = ret;
	h->priv = d;
	ret = device_ioctl(d->fd, OOH_TRACK, &track);
	if (ret) {
		say_why(why, ret, "%s: process %d", OOH_DEVICE, h->pid);
		goto err_close;
	}
	ret = map_ring(d, track.ring_bytes);
	if (ret) {
		say_why(why, ret, "%s: its ring", OOH_DEVICE);
		goto err_close;
	}
	return 0;

err_close:
	dev_close(h);
	return ret;
}

/* All records that are in the ring. */
static int read_ring(struct ooh *h)
{
	struct device *d = h->priv;
	uint32_t head = __atomic_load_n(&d->ring->head, __ATOMIC_ACQUIRE), tail = d->ring->tail;
	int ret = 0;

	if (head - tail > d->ring_size)
		return -EPROTO;
	for (; !ret && tail != head; tail++) {
		const struct ooh_record *r = &d->record[tail & (d->ring_size - 1)];

		ret = ranges_add(&h->pending, r->start, r->end);
	}
	__atomic_store_n(&d->ring->tail, ret ? tail - 1 : tail, __ATOMIC_RELEASE);
	return ret;
}

static int dev_collect(struct ooh *h, uint64_t start, uint64_t end)
{
	bool all = !start && end == ALL_MEMORY;
	struct device *d = h->priv;
	struct ooh_fetch_args f = { .start = all ? 0 : start, .end = all ? 0 : end };
	int ret;

	/* What a call that failed may have left. */
	ret = read_ring(h);
	while (!ret) {
		ret = device_ioctl(d->fd, OOH_FETCH, &f);
		if (ret == -EINTR) {
			ret = 0;
			continue;
		}
		if (ret)
			break;
		if (f.status & OOH_FETCHED_LOST)
			h->epoch_flags |= OOH_EPOCH_LOST;
		if (f.status & OOH_FETCHED_LAST)
			h->epoch_flags |= OOH_EPOCH_LAST;
		ret = read_ring(h);
		if (!(f.status & OOH_FETCHED_MORE))
			break;
		f.flags = OOH_FETCH_REST;
	}
	return ret;
}

static int dev_wait(struct ooh *h, int timeout_ms)
{
	struct device *d = h->priv;
	int events = device_poll(d->fd, timeout_ms);

	if (events < 0)
		return events;
	if (events & POLLIN)
		return 1;
	/* What is still to be had comes with a fetch; then this. */
	return events & POLLHUP ? 1 : events & (POLLERR | POLLNVAL) ? -EIO : 0;
}

static int dev_fd(const struct ooh *h)
{
	return ((const struct device *)h->priv)->fd;
}

static void dev_count(struct ooh *h, struct ooh_counters *c)
{
	struct ooh_stats_args s = {};

	if (device_ioctl(((struct device *)h->priv)->fd, OOH_STATS, &s))
		return;
	c->new_pages = s.fresh;
	c->untracked = s.unarmed;
	c->overflows = s.more;
}

const struct backend backend_device = {
	.probe = dev_probe,
	.open = dev_open,
	.close = dev_close,
	.collect = dev_collect,
	.wait = dev_wait,
	.fd = dev_fd,
	.count = dev_count,
};
