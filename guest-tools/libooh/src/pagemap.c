// SPDX-License-Identifier: GPL-2.0 OR MIT
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "internal.h"
#include "pagemap.h"

#define REGION_BYTES	(SCAN_REGIONS * sizeof(struct scan_region))
#define END_4_LEVEL	((1ULL << 47) - PAGE)
#define LINES_BYTES	(16 * PAGE)

int pagemap_open(struct pagemap *p, pid_t pid)
{
	struct scan_arg arg = { .size = sizeof(arg), .end = ALL_MEMORY, .max_pages = 1 };
	char path[32];

	snprintf(path, sizeof(path), "/proc/%d/pagemap", pid);
	p->fd = open(path, O_RDONLY | O_CLOEXEC);
	if (p->fd < 0)
		return errno == ENOENT ? -ESRCH : -errno;
	p->region = map_memory(REGION_BYTES);
	if (!p->region) {
		close(p->fd);
		return -ENOMEM;
	}
	/* Only a kernel that uses five levels takes an end above that of four. Matches nothing: no mask is PRESENT. */
	arg.start = arg.end - PAGE;
	p->end = ioctl(p->fd, SCAN_IOCTL, &arg) && errno == EFAULT ? END_4_LEVEL : ALL_MEMORY;
	return 0;
}

void pagemap_close(struct pagemap *p)
{
	unmap_memory(p->region, REGION_BYTES);
	close(p->fd);
}

int pagemap_scan(struct pagemap *p, uint64_t start, uint64_t end, const struct scan_arg *what,
		 range_fn fn, void *opaque)
{
	struct scan_arg arg = *what;
	long i, n;
	int ret;

	arg.size = sizeof(arg);
	arg.vec = (uintptr_t)p->region;
	arg.vec_len = SCAN_REGIONS;
	arg.end = end < p->end ? end : p->end;
	for (arg.start = start; arg.start < arg.end; arg.start = arg.walk_end) {
		n = ioctl(p->fd, SCAN_IOCTL, &arg);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		for (i = 0; i < n; i++) {
			ret = fn(opaque, p->region[i].start, p->region[i].end);
			if (ret)
				return ret;
		}
		if (arg.walk_end <= arg.start)
			return -EIO;	/* it would go on for ever */
		if (arg.max_pages && n)
			return 0;
	}
	return 0;
}

int pagemap_can(struct pagemap *p, uint64_t categories)
{
	struct scan_arg arg = {
		.size = sizeof(arg), .mask = categories, .wanted = categories,
		.start = (uintptr_t)p->region & ~(PAGE - 1), .max_pages = 1,
	};

	arg.end = arg.start + PAGE;
	arg.vec = (uintptr_t)p->region;
	arg.vec_len = 1;
	return ioctl(p->fd, SCAN_IOCTL, &arg) < 0 ? -EOPNOTSUPP : 0;
}

int pagemap_read(struct pagemap *p, uint64_t start, uint64_t end, uint64_t any, uint64_t bits,
		 range_fn fn, void *opaque)
{
	uint64_t *entry = (uint64_t *)p->region, at = start;
	size_t room = REGION_BYTES / sizeof(*entry);
	int ret = 0;

	while (!ret && at < end) {
		size_t want = (end - at) / PAGE, i;
		ssize_t got;

		if (want > room)
			want = room;
		got = pread(p->fd, entry, want * sizeof(*entry), at / PAGE * sizeof(*entry));
		if (got < 0)
			return -errno;
		if (got < (ssize_t)sizeof(*entry))
			return -ESRCH;	/* its memory is gone */
		for (i = 0; !ret && i < got / sizeof(*entry); i++, at += PAGE)
			if (entry[i] & any && (entry[i] & bits) == bits)
				ret = fn(opaque, at, at + PAGE);
	}
	return ret;
}

static int parse_line(char *line, struct mapping *m)
{
	int at = 0;

	if (sscanf(line, "%" SCNx64 "-%" SCNx64 " %4s %*s %*s %*s %n", &m->start, &m->end, m->perms, &at) < 3)
		return -EIO;
	m->name = at ? line + at : "";
	return 0;
}

/* Whole lines of @buf to @fn; how many bytes of it those were. */
static int take_lines(char *buf, size_t *have, int (*fn)(void *opaque, const struct mapping *m), void *opaque)
{
	char *line = buf, *newline;
	struct mapping m;
	int ret = 0;

	while (!ret && (newline = memchr(line, '\n', buf + *have - line))) {
		*newline = '\0';
		ret = parse_line(line, &m) ?: fn(opaque, &m);
		line = newline + 1;
	}
	*have -= line - buf;
	memmove(buf, line, *have);
	return ret;
}

int maps_each(pid_t pid, int (*fn)(void *opaque, const struct mapping *m), void *opaque)
{
	size_t have = 0;
	char path[32], *buf;
	int fd, ret = 0;
	ssize_t n;

	snprintf(path, sizeof(path), "/proc/%d/maps", pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return errno == ENOENT ? -ESRCH : -errno;
	buf = map_memory(LINES_BYTES);
	if (!buf) {
		close(fd);
		return -ENOMEM;
	}
	while (!ret && (n = read(fd, buf + have, LINES_BYTES - have)) > 0) {
		have += n;
		ret = take_lines(buf, &have, fn, opaque);
	}
	if (!ret && n < 0)
		ret = -errno;
	unmap_memory(buf, LINES_BYTES);
	close(fd);
	return ret;
}

/* The kernel's, here since the headers of Debian 12 are older than it. */
struct map_query {
	uint64_t size, flags, address, start, end, vma_flags, page_size, offset, inode;
	uint32_t dev_major, dev_minor, name_size, build_id_size;
	uint64_t name, build_id;
};

#define MAP_QUERY_IOCTL		_IOWR('f', 17, struct map_query)
#define MAP_WRITABLE		0x02
#define MAP_THIS_OR_NEXT	0x10

int maps_in(int maps, uint64_t start, uint64_t end, int (*fn)(void *opaque, const struct mapping *m), void *opaque)
{
	int ret = 0;

	while (!ret && start < end) {
		struct map_query q = { .size = sizeof(q), .flags = MAP_THIS_OR_NEXT, .address = start };
		struct mapping m = { .perms = "----", .name = "" };

		if (ioctl(maps, MAP_QUERY_IOCTL, &q))
			return errno == ENOENT ? 0 : -errno;	/* ENOENT: there are no more */
		if (q.start >= end)
			return 0;
		m.start = q.start;
		m.end = q.end;
		if (q.vma_flags & MAP_WRITABLE)
			m.perms[1] = 'w';
		ret = fn(opaque, &m);
		start = q.end;
	}
	return ret;
}

long status_number(pid_t pid, const char *name)
{
	char path[32], buf[4096], key[32], *line;
	ssize_t n;
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/status", pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return errno == ENOENT ? -ESRCH : -errno;
	n = read(fd, buf, sizeof(buf) - 1);
	close(fd);
	if (n <= 0)
		return -ESRCH;
	buf[n] = '\0';
	/* From the start of a line: the first one has the process's name, which may be anything but a newline. */
	snprintf(key, sizeof(key), "\n%s:", name);
	line = strstr(buf, key);
	return line ? strtol(line + strlen(key), NULL, 0) : -ENOENT;
}
