/* SPDX-License-Identifier: GPL-2.0 */
/* The rules of size, flags and pointers that every call with a structure obeys. */
#ifndef BADCALL_H
#define BADCALL_H

#include "spanlib.h"

/* A page whose successor cannot be touched, to end structures exactly there. */
static inline uint8_t *edge_page(int prot)
{
	uint8_t *p = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	MUST(p == MAP_FAILED ? -1 : 0);
	MUST(mprotect(p + PAGE, PAGE, PROT_NONE));
	MUST(mprotect(p, PAGE, prot));
	return p;
}

static inline int fds_open(void)
{
	int n = 0, i;

	for (i = 0; i < 256; i++)
		n += fcntl(i, F_GETFD) >= 0;
	return n;
}

struct call_rules {
	int fd;
	unsigned long cmd;
	const void *good;	/* succeeds as it is, or fails with "ends" */
	size_t n;		/* its size, in its first word; flags is its second */
	size_t min;		/* size of the first version; 0: n */
	uint32_t flags;		/* those that may be set */
	bool out;		/* the kernel writes it */
	bool makes_fd;
	int ends;		/* errno of the good call, or 0 */
};

/* buf: a copy of the call with another size, zero beyond. */
static inline void call_copy(const struct call_rules *c, uint8_t *buf, uint32_t size)
{
	memset(buf, 0, 2 * PAGE);
	memcpy(buf, c->good, c->n);
	memcpy(buf, &size, 4);
}

static inline void call_bad_sizes(const struct call_rules *c)
{
	size_t min = c->min ? c->min : c->n;
	uint32_t small[] = { 0, 1, 4, 7, (uint32_t)min - 1, (uint32_t)min - 4, (uint32_t)min - 8 };
	uint32_t large[] = { PAGE + 1, 1u << 20, 0x7fffffff, 0x80000000, 0xffffffff };
	uint8_t buf[2 * PAGE];
	size_t i;

	for (i = 0; i < sizeof(small) / sizeof(small[0]); i++) {
		call_copy(c, buf, small[i]);
		CHECK_ERR(ioctl(c->fd, c->cmd, buf), EINVAL);
	}
	/* Larger than any structure of ours will be, though all zero. */
	for (i = 0; i < sizeof(large) / sizeof(large[0]); i++) {
		call_copy(c, buf, large[i]);
		CHECK_ERR(ioctl(c->fd, c->cmd, buf), E2BIG);
	}
	/* Longer, and the unknown part is not zero: at its start, at its end. */
	call_copy(c, buf, c->n + 64);
	buf[c->n] = 1;
	CHECK_ERR(ioctl(c->fd, c->cmd, buf), E2BIG);
	buf[c->n] = 0;
	buf[c->n + 63] = 0x80;
	CHECK_ERR(ioctl(c->fd, c->cmd, buf), E2BIG);
}

static inline void call_bad_flags(const struct call_rules *c)
{
	uint8_t buf[2 * PAGE];
	int i;

	for (i = 0; i < 32; i++) {
		uint32_t flags = 1u << i;

		if (c->flags & flags)
			continue;
		call_copy(c, buf, c->n);
		memcpy(buf + 4, &flags, 4);
		CHECK_ERR(ioctl(c->fd, c->cmd, buf), EINVAL);
	}
}

/* None, the kernel's, the last bytes unmapped, not writable. */
static inline void call_bad_pointers(const struct call_rules *c)
{
	uint8_t *edge = edge_page(PROT_READ | PROT_WRITE);

	CHECK_ERR(ioctl(c->fd, c->cmd, NULL), EFAULT);
	CHECK_ERR(ioctl(c->fd, c->cmd, (void *)0xffff888000000000UL), EFAULT);
	memcpy(edge + PAGE - c->n + 1, c->good, c->n - 1);
	CHECK_ERR(ioctl(c->fd, c->cmd, edge + PAGE - c->n + 1), EFAULT);
	CHECK_ERR(ioctl(c->fd, c->cmd, edge + PAGE - 2), EFAULT);
	if (c->out) {
		memcpy(edge + PAGE - c->n, c->good, c->n);
		MUST(mprotect(edge, PAGE, PROT_READ));
		CHECK_ERR(ioctl(c->fd, c->cmd, edge + PAGE - c->n), c->ends ? c->ends : EFAULT);
	}
	munmap(edge, PAGE);
}

static inline void call_rules(const struct call_rules *c)
{
	int before = fds_open(), r;
	uint8_t buf[2 * PAGE];
	size_t i;

	call_bad_sizes(c);
	call_bad_flags(c);
	call_bad_pointers(c);
	CHECK(fds_open() == before, "a refused call left a descriptor open");

	/* Longer with a zero tail is accepted, and the tail stays zero. */
	call_copy(c, buf, c->n + 64);
	errno = 0;
	r = ioctl(c->fd, c->cmd, buf);
	CHECK(c->ends ? r == -1 && errno == c->ends : r >= 0, "longer structure with zero tail: %d, %s", r,
	      strerror(errno));
	if (c->makes_fd && r >= 0)
		close(r);
	for (i = c->n; i < c->n + 64; i++)
		if (!CHECK(!buf[i], "byte %zu beyond the structure was written", i))
			break;
}

#endif
