/* SPDX-License-Identifier: GPL-2.0 */
/* The kernel's <linux/span_stream.h> for programs: tests play the other end with it. */
#ifndef STREAMLIB_H
#define STREAMLIB_H

#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include <linux/span_port.h>

typedef uint8_t u8;
typedef uint32_t u32;

#define le32_to_cpu(x)			(x)	/* x86 */
#define cpu_to_le32(x)			(x)
#define virt_load_acquire(p)		__atomic_load_n(p, __ATOMIC_ACQUIRE)
#define virt_store_release(p, v)	__atomic_store_n(p, v, __ATOMIC_RELEASE)
#define virt_mb()			__atomic_thread_fence(__ATOMIC_SEQ_CST)
#define min_t(type, a, b)		((type)(a) < (type)(b) ? (type)(a) : (type)(b))

#include "../../kvm-span/include/linux/span_stream.h"

/* Byte @at of what the end of this number writes. */
static inline uint8_t stream_byte(uint32_t number, uint64_t at)
{
	uint64_t x = (at + number * 0x9e3779b97f4a7c15ull) * 0xff51afd7ed558ccdull;

	return x >> 56;
}

/* Put at most @most bytes of the pattern, as far as there is room. Returns how many, or an error. */
static inline int stream_fill(struct span_stream_end *end, uint64_t *at, uint32_t most, bool *ring)
{
	int room = span_stream_room(end);
	uint32_t i, n;

	*ring = false;
	if (room <= 0)
		return room;
	n = min_t(uint32_t, most, room);
	for (i = 0; i < n; i++)
		end->out_bytes[(end->head + i) % SPAN_STREAM_BYTES] = stream_byte(end->mine, *at + i);
	if (!span_stream_put(end, n, ring))
		return -EPIPE;
	*at += n;
	return n;
}

/* Take and compare. Returns how many were there, 0 at the end, -EILSEQ for a wrong byte, or an error. */
static inline int stream_drain(struct span_stream_end *end, uint64_t *at, uint32_t most, bool *ring)
{
	int unread = span_stream_unread(end);
	uint32_t i, n;

	*ring = false;
	if (unread <= 0)
		return unread;
	n = min_t(uint32_t, most, unread);
	for (i = 0; i < n; i++)
		if (end->in_bytes[(end->tail + i) % SPAN_STREAM_BYTES] != stream_byte(end->peer, *at + i))
			return -EILSEQ;
	*ring = span_stream_took(end, n);
	*at += n;
	return n;
}

#endif
