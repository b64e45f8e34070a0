/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What logs of written pages have in common, those of a span and those that a
 * guest keeps of itself: words of bitmaps that others change meanwhile, and
 * entries that must let no write pass unheard.
 */
#ifndef KVM_SPAN_DIRTY_H
#define KVM_SPAN_DIRTY_H

#include <linux/atomic.h>
#include <linux/bitmap.h>
#include <linux/kvm_host.h>

static inline u64 kvm_dirty_next_word(u64 bit)
{
	return round_down(bit, BITS_PER_LONG) + BITS_PER_LONG;
}

/* The bits of [first, end) in the word that first is in. */
static inline unsigned long kvm_dirty_word_mask(u64 first, u64 end)
{
	unsigned long in = BITMAP_FIRST_WORD_MASK(first);

	if (end < kvm_dirty_next_word(first))
		in &= BITMAP_LAST_WORD_MASK(end);
	return in;
}

static inline atomic_long_t *kvm_dirty_word(unsigned long *bits, u64 bit)
{
	return (atomic_long_t *)&bits[bit / BITS_PER_LONG];
}

/*
 * dirty.c. mmu_lock is held for write; the caller flushes TLBs before it lets go.
 * small: no entry of 2 MiB or more in [start, end) is writable any more. The lock
 * may be dropped meanwhile. That none is made again is the caller's to see to.
 * clear: entries of 4 KiB of the TDP MMU, 64 pages from gfn on, those in mask: the
 * next write sets D anew, or faults where no D bits are.
 */
void kvm_dirty_small(struct kvm *kvm, struct kvm_memory_slot *slot, gfn_t start, gfn_t end);
void kvm_dirty_clear(struct kvm *kvm, struct kvm_memory_slot *slot, gfn_t gfn,
		     unsigned long mask);

#endif
