// SPDX-License-Identifier: GPL-2.0
#include <errno.h>
#include <stdint.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "watch-client.h"

int watch_create(int port, __u32 deadline_us, __u32 on_timeout)
{
	struct span_port_watch w = {
		.size = sizeof(w), .deadline_us = deadline_us, .on_timeout = on_timeout,
	};
	int fd = ioctl(port, SPAN_PORT_WATCH, &w);

	return fd < 0 ? -errno : fd;
}

static int range_call(int fd, unsigned long call, __u32 access, __u32 mode, __u64 first,
		      __u64 pages)
{
	struct span_watch_range r = {
		.size = sizeof(r), .access = access, .mode = mode, .first = first, .pages = pages,
	};

	return ioctl(fd, call, &r) ? -errno : 0;
}

int watch_subscribe(int fd, __u32 access, __u32 mode, __u64 first, __u64 pages)
{
	return range_call(fd, SPAN_WATCH_SUBSCRIBE, access, mode, first, pages);
}

int watch_unsubscribe(int fd, __u32 access, __u64 first, __u64 pages)
{
	return range_call(fd, SPAN_WATCH_UNSUBSCRIBE, access, 0, first, pages);
}

int watch_protect(int fd, __u32 access, __u64 first, __u64 pages)
{
	return range_call(fd, SPAN_WATCH_PROTECT, access, 0, first, pages);
}

int watch_read(int fd, struct span_watch_event *events, size_t max)
{
	ssize_t n = read(fd, events, max * sizeof(*events));

	return n < 0 ? -errno : (int)(n / sizeof(*events));
}

int watch_answer(int fd, __u64 event, __u32 verdict, __u32 flags)
{
	struct span_watch_answer a = { .event = event, .verdict = verdict, .flags = flags };

	return write(fd, &a, sizeof(a)) < 0 ? -errno : 0;
}

int watch_info(int fd, struct span_watch_info *info)
{
	memset(info, 0, sizeof(*info));
	info->size = sizeof(*info);
	return ioctl(fd, SPAN_WATCH_GET_INFO, info) ? -errno : 0;
}

int watch_fetch(int fd, __u64 first, __u64 pages, struct span_watch_range_out *out,
		__u32 max, __u64 *next, __u64 *dirty)
{
	struct span_watch_fetch f = {
		.size = sizeof(f), .ranges = (uintptr_t)out, .max = max, .first = first, .pages = pages,
	};

	if (ioctl(fd, SPAN_WATCH_LOG_FETCH, &f))
		return -errno;
	*next = f.next;
	*dirty = f.dirty;
	return f.count;
}
