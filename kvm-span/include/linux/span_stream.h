/* SPDX-License-Identifier: GPL-2.0 */
/*
 * KVM Span: one end of the byte streams in the shared pages (<linux/span_port.h>).
 * kvm.ko on L0 and span_port.ko in an L1 are the two ends; both do what is here.
 *
 * An end that opens chooses a number, which it shows in start. It pairs with the
 * number that the other end shows, which it repeats in seen. Both are paired when
 * each has seen the other's, and only then is anything written. An end whose seen
 * names a number that is not the other's belongs to an older pair; it is waited
 * for and not paired with. So an end that was paired knows by any change of either
 * word that its partner is gone, and one that was not paired yet goes on waiting.
 *
 * Indices go on from pair to pair: a reader begins at the head that it finds when
 * it pairs, and the writer does not move it before it sees that. A reader that was
 * left can still take what was written for it.
 *
 * Who sleeps has told so by his index: a reader sleeps at tail == head, a writer at
 * head - tail == SPAN_STREAM_BYTES. Both store their own index, then (after a full
 * barrier) load the other's; so of two that meet, at least one sees that the other
 * may have missed it, and rings.
 *
 * The caller's lock is held in all functions. Data are copied outside of it, by one
 * reader and one writer at a time.
 */
#ifndef _LINUX_SPAN_STREAM_H
#define _LINUX_SPAN_STREAM_H

#ifdef __KERNEL__
#include <asm/barrier.h>
#include <linux/compiler.h>
#include <linux/errno.h>
#include <linux/minmax.h>
#include <linux/types.h>
#include <asm/byteorder.h>
#include <uapi/linux/span_port.h>
#endif

/* Where L0 has taken the pages away, this is what an L1 reads. Nobody's number. */
#define SPAN_STREAM_GONE	0xffffffffu

enum span_stream_state {
	SPAN_STREAM_CLOSED,
	SPAN_STREAM_WAITING,	/* for the other end to open */
	SPAN_STREAM_PAIRED,
	SPAN_STREAM_ENDED,	/* the other end is gone; there may be bytes to read */
	SPAN_STREAM_BROKEN,	/* its indices cannot be */
};

struct span_stream_end {
	struct span_stream *out;	/* constant: we write */
	struct span_stream *in;		/* constant: we read */
	u8 *out_bytes;			/* constant */
	u8 *in_bytes;			/* constant */
	enum span_stream_state state;
	u32 mine;			/* our number, 0 while closed */
	u32 peer;			/* the number that we have seen, or 0 */
	u32 head;			/* of out; never read back */
	u32 tail;			/* of in; never read back */
};

static inline u32 span_stream_load(const __le32 *word)
{
	/* Pairs with the other end's span_stream_store(). */
	return le32_to_cpu(virt_load_acquire(word));
}

static inline void span_stream_store(__le32 *word, u32 value)
{
	/* What was done before is done when the other end loads this word. */
	virt_store_release(word, cpu_to_le32(value));
}

static inline bool span_stream_number_valid(u32 number)
{
	return number && number != SPAN_STREAM_GONE;
}

/* The end of which @pages is the memory: L0's or the L1's. */
static inline void span_stream_init(struct span_stream_end *end, void *pages, bool l0)
{
	end->out = pages + (l0 ? SPAN_STREAM_TO_L1 : SPAN_STREAM_TO_L0);
	end->in = pages + (l0 ? SPAN_STREAM_TO_L0 : SPAN_STREAM_TO_L1);
	end->out_bytes = pages + (l0 ? SPAN_BYTES_TO_L1 : SPAN_BYTES_TO_L0);
	end->in_bytes = pages + (l0 ? SPAN_BYTES_TO_L0 : SPAN_BYTES_TO_L1);
	end->state = SPAN_STREAM_CLOSED;
	end->mine = 0;
	end->peer = 0;
}

/* An L1 that went wild may have written over what we show while nobody was there. */
static inline void span_stream_show(struct span_stream_end *end)
{
	span_stream_store(&end->in->seen, end->peer);
	span_stream_store(&end->out->head, end->head);
	span_stream_store(&end->out->start, end->mine);
}

/* Ring afterwards. */
static inline void span_stream_open(struct span_stream_end *end, u32 number)
{
	end->state = SPAN_STREAM_WAITING;
	end->mine = number;
	end->peer = 0;
	span_stream_show(end);
	/* Before we look at the other's words, pairs with itself. */
	virt_mb();
}

/* Ring afterwards. */
static inline void span_stream_close(struct span_stream_end *end)
{
	end->state = SPAN_STREAM_CLOSED;
	end->mine = 0;
	end->peer = 0;
	span_stream_store(&end->in->seen, 0);
	span_stream_store(&end->out->start, 0);
	/* See span_stream_open(). */
	virt_mb();
}

static inline void span_stream_see(struct span_stream_end *end, u32 number)
{
	end->peer = number;
	end->tail = span_stream_load(&end->in->head);
	span_stream_store(&end->in->tail, end->tail);
	span_stream_store(&end->in->seen, number);
	/* See span_stream_open(). */
	virt_mb();
}

/*
 * The one that we have seen is gone, before we were told that it saw us. If it
 * wrote something it did, and then we were a pair.
 */
static inline void span_stream_missed(struct span_stream_end *end)
{
	if (span_stream_load(&end->in->head) != end->tail)
		end->state = SPAN_STREAM_ENDED;
	else
		end->peer = 0;
}

/* Look at what the other end shows. Returns whether it has to be told of the result. */
static inline bool span_stream_look(struct span_stream_end *end)
{
	u32 start = span_stream_load(&end->in->start);
	u32 seen = span_stream_load(&end->out->seen);
	bool ring = false;

	/* The owner of the end hears of that in another way. */
	if (start == SPAN_STREAM_GONE || seen == SPAN_STREAM_GONE)
		return false;
	if (end->state == SPAN_STREAM_PAIRED && (start != end->peer || seen != end->mine))
		end->state = SPAN_STREAM_ENDED;
	if (end->state != SPAN_STREAM_WAITING)
		return false;
	span_stream_show(end);
	if (end->peer && start != end->peer)
		span_stream_missed(end);
	if (end->state == SPAN_STREAM_WAITING && !end->peer && start &&
	    (!seen || seen == end->mine)) {
		span_stream_see(end, start);
		ring = true;
	}
	if (end->state == SPAN_STREAM_WAITING && end->peer && seen == end->mine)
		end->state = SPAN_STREAM_PAIRED;
	return ring;
}

static inline int span_stream_break(struct span_stream_end *end)
{
	end->state = SPAN_STREAM_BROKEN;
	return -EPROTO;
}

/* Bytes to be read; 0 at the end, EAGAIN if there are none now, EPROTO. */
static inline int span_stream_unread(struct span_stream_end *end)
{
	u32 used;

	if (end->state == SPAN_STREAM_BROKEN)
		return -EPROTO;
	if (end->state < SPAN_STREAM_PAIRED)
		return -EAGAIN;
	used = span_stream_load(&end->in->head) - end->tail;
	if (used > SPAN_STREAM_BYTES)
		return span_stream_break(end);
	if (!used && end->state == SPAN_STREAM_PAIRED)
		return -EAGAIN;
	return used;
}

/* Bytes of room; EAGAIN if there is none now, EPIPE, EPROTO. */
static inline int span_stream_room(struct span_stream_end *end)
{
	u32 used;

	if (end->state == SPAN_STREAM_BROKEN)
		return -EPROTO;
	if (end->state == SPAN_STREAM_ENDED)
		return -EPIPE;
	if (end->state < SPAN_STREAM_PAIRED)
		return -EAGAIN;
	used = end->head - span_stream_load(&end->out->tail);
	if (used > SPAN_STREAM_BYTES)
		return span_stream_break(end);
	if (used == SPAN_STREAM_BYTES)
		return -EAGAIN;
	return SPAN_STREAM_BYTES - used;
}

/* @bytes were copied out and can be overwritten. Returns whether to ring. */
static inline bool span_stream_took(struct span_stream_end *end, u32 bytes)
{
	u32 before = end->tail;

	end->tail += bytes;
	span_stream_store(&end->in->tail, end->tail);
	/* Our tail, then his head: pairs with span_stream_put(). */
	virt_mb();
	return span_stream_load(&end->in->head) - before == SPAN_STREAM_BYTES;
}

/*
 * @bytes were copied in. False if it was for nothing: there is no pair any more.
 */
static inline bool span_stream_put(struct span_stream_end *end, u32 bytes, bool *ring)
{
	u32 before = end->head;

	*ring = false;
	if (end->state != SPAN_STREAM_PAIRED)
		return false;
	end->head += bytes;
	span_stream_store(&end->out->head, end->head);
	/* Our head, then his tail: pairs with span_stream_took(). */
	virt_mb();
	*ring = span_stream_load(&end->out->tail) == before;
	return true;
}

/* Where @index is in the data, and how many bytes follow in one piece. */
static inline u32 span_stream_place(u32 index, u32 bytes, u32 *piece)
{
	u32 offset = index % SPAN_STREAM_BYTES;

	*piece = min_t(u32, bytes, SPAN_STREAM_BYTES - offset);
	return offset;
}

#endif
