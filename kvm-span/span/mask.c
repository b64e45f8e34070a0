// SPDX-License-Identifier: GPL-2.0
/*
 * KVM Span: what watches mask, page by page, and the MMU's questions about it.
 *
 * Every EPT entry of the guest's memory is made by make_spte(), whatever the
 * table: the guest's own, an L1's, or a shadow of an L1's table. It asks here,
 * under mmu_lock. So a mask holds everywhere once it is in the bitmaps and what
 * was made before is zapped.
 */
#include <linux/bitmap.h>
#include <linux/mm.h>
#include <linux/rcupdate.h>
#include <linux/slab.h>

#include "mmu.h"
#include "mmu/mmu_internal.h"
#include "mmu/spte.h"
#include "watch.h"
#include "span_hooks.h"

/* Pages whose bits change under one hold of mask_lock; whole words. */
#define KVM_SPAN_STRETCH	8192UL

/* Pages of a block that one entry could map. */
#define KVM_SPAN_BLOCK		KVM_PAGES_PER_HPAGE(PG_LEVEL_2M)

/* What a union is made for: KVM_SPAN_R, _W, _X, or this. */
#define KVM_SPAN_LOGGED		KVM_SPAN_NR_ACCESS

/* Make a bitmap that is not there yet. */
static int kvm_span_bitmap_new(struct kvm_span *span, unsigned long **bitmap, u64 bits)
{
	unsigned long *new;

	lockdep_assert_held(&span->control);
	if (*bitmap)
		return 0;
	new = kvcalloc(BITS_TO_LONGS(bits), sizeof(long), GFP_KERNEL_ACCOUNT);
	if (!new)
		return -ENOMEM;
	/* The zeroes before the pointer; readers depend on what they read. */
	smp_store_release(bitmap, new);
	return 0;
}

int kvm_span_bitmap_need(struct kvm_span *span, unsigned long **bitmap)
{
	return kvm_span_bitmap_new(span, bitmap, kvm_span_pages(span));
}

static bool kvm_span_any_bit(unsigned long **bitmap, u64 first, u64 end)
{
	unsigned long *bits = READ_ONCE(*bitmap);

	return bits && find_next_bit(bits, end, first) < end;
}

/* One word of a union over the watches. Under mask_lock, in an RCU section. */
static unsigned long kvm_span_union_word(struct kvm_span *span, int what, u64 word)
{
	unsigned long value = 0, *bits;
	struct kvm_span_watch *watch;
	int i, why;

	for (i = 0; i < KVM_SPAN_SPAN_WATCHES; i++) {
		watch = rcu_dereference(span->watch[i]);
		if (!watch)
			continue;
		if (what == KVM_SPAN_LOGGED) {
			bits = READ_ONCE(watch->logging);
			value |= bits ? bits[word] : 0;
			continue;
		}
		for (why = 0; why < KVM_SPAN_NR_WHY; why++) {
			bits = READ_ONCE(watch->masked[why][what]);
			value |= bits ? bits[word] : 0;
		}
	}
	return value;
}

/* Make the union anew for [first, end). Under mask_lock. */
static void kvm_span_union(struct kvm_span *span, int what, u64 first, u64 end)
{
	unsigned long *bits = what == KVM_SPAN_LOGGED ? span->logged : span->mask[what];
	unsigned long in;
	u64 word;

	lockdep_assert_held(&span->mask_lock);
	if (!bits)
		return;
	rcu_read_lock();
	for (word = first / BITS_PER_LONG; word * BITS_PER_LONG < end; word++) {
		in = ~0UL;
		if (word == first / BITS_PER_LONG)
			in &= BITMAP_FIRST_WORD_MASK(first);
		if (word == (end - 1) / BITS_PER_LONG)
			in &= BITMAP_LAST_WORD_MASK(end);
		WRITE_ONCE(bits[word], (bits[word] & ~in) |
				       (kvm_span_union_word(span, what, word) & in));
	}
	rcu_read_unlock();
}

/*
 * Set or clear [first, first + pages) in a watch's bitmap and bring the union
 * up to date with it.
 */
static void kvm_span_bits_change(struct kvm_span *span, unsigned long *bits, int what,
				 u64 first, u64 pages, bool set)
{
	u64 end = first + pages, to;
	unsigned long flags;

	for (; first < end; first = to) {
		to = min(end, round_down(first, KVM_SPAN_STRETCH) + KVM_SPAN_STRETCH);
		spin_lock_irqsave(&span->mask_lock, flags);
		if (set)
			bitmap_set(bits, first, to - first);
		else
			bitmap_clear(bits, first, to - first);
		kvm_span_union(span, what, first, to);
		spin_unlock_irqrestore(&span->mask_lock, flags);
		cond_resched();
	}
}

/* The bitmaps that a change needs, and the blocks that it takes apart. */
static int kvm_span_watch_need(struct kvm_span_watch *watch, unsigned long **bitmap,
			       unsigned long **common)
{
	struct kvm_span *span = kvm_span_watch_span(watch);
	int r;

	r = kvm_span_bitmap_new(span, &watch->blocks,
				DIV_ROUND_UP(kvm_span_pages(span), KVM_SPAN_BLOCK));
	if (!r)
		r = kvm_span_bitmap_need(span, common);
	if (!r)
		r = kvm_span_bitmap_need(span, bitmap);
	/* Before the first bit; the barrier and the zap are those of the bits. */
	if (!r)
		WRITE_ONCE(span->active, true);
	return r;
}

static void kvm_span_mark_blocks(struct kvm_span_watch *watch, u64 first, u64 pages)
{
	u64 block = first / KVM_SPAN_BLOCK;

	bitmap_set(watch->blocks, block,
		   (first + pages - 1) / KVM_SPAN_BLOCK - block + 1);
}

/*
 * Blocks that the watch took apart and that nobody needs in pieces any more are
 * zapped, so that a fault maps them in one piece again.
 */
static void kvm_span_join_blocks(struct kvm_span_watch *watch, u64 first, u64 pages)
{
	struct kvm_span *span = kvm_span_watch_span(watch);
	u64 last = (first + pages - 1) / KVM_SPAN_BLOCK, from = 0, n = 0, end;
	unsigned long block;

	if (!watch->blocks)
		return;
	block = first / KVM_SPAN_BLOCK;
	for_each_set_bit_from(block, watch->blocks, last + 1) {
		if (kvm_span_split(span, block * KVM_SPAN_BLOCK, KVM_SPAN_BLOCK))
			continue;
		__clear_bit(block, watch->blocks);
		if (n && block == from + n) {
			n++;
			continue;
		}
		if (n)
			kvm_span_zap(span, from * KVM_SPAN_BLOCK, n * KVM_SPAN_BLOCK);
		from = block;
		n = 1;
	}
	if (!n)
		return;
	end = min((from + n) * KVM_SPAN_BLOCK, kvm_span_pages(span));
	kvm_span_zap(span, from * KVM_SPAN_BLOCK, end - from * KVM_SPAN_BLOCK);
}

/* The bits of kvm_span_mask_set(); if any changed, the caller zaps what was made before. */
int kvm_span_mask_bits(struct kvm_span_watch *watch, enum kvm_span_why why, u32 access,
		       u64 first, u64 pages, bool *changed)
{
	struct kvm_span *span = kvm_span_watch_span(watch);
	bool any = false;
	int a, r;

	lockdep_assert_held(&span->control);
	for (a = 0; a < KVM_SPAN_NR_ACCESS; a++) {
		if (!(access & BIT(a)))
			continue;
		r = kvm_span_watch_need(watch, &watch->masked[why][a], &span->mask[a]);
		if (r)
			return r;
	}
	for (a = 0; a < KVM_SPAN_NR_ACCESS; a++) {
		if (!(access & BIT(a)) ||
		    find_next_zero_bit(watch->masked[why][a], first + pages, first) >=
		    first + pages)
			continue;
		kvm_span_bits_change(span, watch->masked[why][a], a, first, pages, true);
		any = true;
	}
	if (any)
		kvm_span_mark_blocks(watch, first, pages);
	*changed |= any;
	return 0;
}

int kvm_span_mask_set(struct kvm_span_watch *watch, enum kvm_span_why why, u32 access,
		      u64 first, u64 pages)
{
	bool changed = false;
	int r;

	r = kvm_span_mask_bits(watch, why, access, first, pages, &changed);
	/* Also where another watch masks it: it may not bind the same L1. */
	if (changed)
		kvm_span_zap(kvm_span_watch_span(watch), first, pages);
	return r;
}

void kvm_span_mask_clear(struct kvm_span_watch *watch, enum kvm_span_why why, u32 access,
			 u64 first, u64 pages)
{
	struct kvm_span *span = kvm_span_watch_span(watch);
	int a;

	lockdep_assert_held(&span->control);
	for (a = 0; a < KVM_SPAN_NR_ACCESS; a++)
		if ((access & BIT(a)) && watch->masked[why][a])
			kvm_span_bits_change(span, watch->masked[why][a], a, first, pages,
					     false);
	kvm_span_join_blocks(watch, first, pages);
}

void kvm_span_mask_lift(struct kvm_span_watch *watch, enum kvm_span_why why, u32 access,
			u64 page)
{
	struct kvm_span *span = kvm_span_watch_span(watch);
	unsigned long flags, *bits;
	int a;

	spin_lock_irqsave(&span->mask_lock, flags);
	for (a = 0; a < KVM_SPAN_NR_ACCESS; a++) {
		bits = access & BIT(a) ? READ_ONCE(watch->masked[why][a]) : NULL;
		if (!bits || !test_bit(page, bits))
			continue;
		__clear_bit(page, bits);
		kvm_span_union(span, a, page, page + 1);
	}
	spin_unlock_irqrestore(&span->mask_lock, flags);
}

/* Put pages under a watch's log, or take them out of it. */
int kvm_span_logging_set(struct kvm_span_watch *watch, u64 first, u64 pages)
{
	struct kvm_span *span = kvm_span_watch_span(watch);
	int r;

	r = kvm_span_watch_need(watch, &watch->logging, &span->logged);
	if (r)
		return r;
	kvm_span_bits_change(span, watch->logging, KVM_SPAN_LOGGED, first, pages, true);
	kvm_span_mark_blocks(watch, first, pages);
	return 0;
}

void kvm_span_logging_clear(struct kvm_span_watch *watch, u64 first, u64 pages)
{
	struct kvm_span *span = kvm_span_watch_span(watch);

	lockdep_assert_held(&span->control);
	kvm_span_bits_change(span, watch->logging, KVM_SPAN_LOGGED, first, pages, false);
	kvm_span_join_blocks(watch, first, pages);
}

/* Nobody watches anything any more: the MMU need not ask. */
static void kvm_span_maybe_idle(struct kvm_span *span)
{
	struct kvm_span_watch *watch;
	int i;

	for (i = 0; i < KVM_SPAN_SPAN_WATCHES; i++) {
		watch = rcu_dereference_protected(span->watch[i],
						  lockdep_is_held(&span->control));
		if (watch && watch->blocks)
			return;
	}
	WRITE_ONCE(span->active, false);
}

/* Bring every union up to date without the watch. */
void kvm_span_mask_drop(struct kvm_span_watch *watch)
{
	struct kvm_span *span = kvm_span_watch_span(watch);
	u64 first, to, end = kvm_span_pages(span);
	unsigned long flags;
	int what;

	lockdep_assert_held(&span->control);
	if (!watch->blocks)
		return;
	for (first = 0; first < end; first = to) {
		to = min(end, first + KVM_SPAN_STRETCH);
		/* Whatever it has, or had and was lifted, lies in its blocks. */
		if (find_next_bit(watch->blocks, DIV_ROUND_UP(to, KVM_SPAN_BLOCK),
				  first / KVM_SPAN_BLOCK) >= DIV_ROUND_UP(to, KVM_SPAN_BLOCK))
			continue;
		for (what = 0; what <= KVM_SPAN_LOGGED; what++) {
			spin_lock_irqsave(&span->mask_lock, flags);
			kvm_span_union(span, what, first, to);
			spin_unlock_irqrestore(&span->mask_lock, flags);
		}
		cond_resched();
	}
	kvm_span_log_dropped(watch);
	kvm_span_join_blocks(watch, 0, end);
	kvm_span_maybe_idle(span);
}

void kvm_span_mask_free(struct kvm_span_watch *watch)
{
	int why, a;

	for (why = 0; why < KVM_SPAN_NR_WHY; why++)
		for (a = 0; a < KVM_SPAN_NR_ACCESS; a++)
			kvfree(watch->masked[why][a]);
	kvfree(watch->logging);
	kvfree(watch->written);
	kvfree(watch->blocks);
}

/* No slot shows the memory any more, and no watch exists. */
void kvm_span_mask_exit(struct kvm_span *span)
{
	int a;

	for (a = 0; a < KVM_SPAN_NR_ACCESS; a++)
		kvfree(span->mask[a]);
	kvfree(span->logged);
	/* __kvm_span_pfn_dirty() comes by the memory, not by a slot. */
	if (span->armed)
		kvfree_rcu_mightsleep(span->armed);
}

/* Does the watch mask this page for others than its own member? */
static bool kvm_span_watch_masks(struct kvm_span_watch *watch, int access, u64 page,
				 const struct kvm_span_member *except)
{
	unsigned long *bits;
	int why;

	for (why = 0; why < KVM_SPAN_NR_WHY; why++) {
		if (why != KVM_SPAN_WHY_PROTECT && watch->member == except)
			continue;
		bits = READ_ONCE(watch->masked[why][access]);
		if (bits && test_bit(page, bits))
			return true;
	}
	return false;
}

static bool kvm_span_masked_for(struct kvm_span *span, int access, u64 page,
				const struct kvm_span_member *except)
{
	struct kvm_span_watch *watch;
	bool masked = false;
	int i;

	rcu_read_lock();
	for (i = 0; i < KVM_SPAN_SPAN_WATCHES && !masked; i++) {
		watch = rcu_dereference(span->watch[i]);
		masked = watch && kvm_span_watch_masks(watch, access, page, except);
	}
	rcu_read_unlock();
	return masked;
}

u32 kvm_span_masked_why(const struct kvm_span_watch *watch, enum kvm_span_why why, u64 page)
{
	unsigned long *map;
	u32 masked = 0;
	int i;

	for (i = 0; i < KVM_SPAN_NR_ACCESS; i++) {
		/* Pairs with the publication of the bitmap, after it was cleared. */
		map = smp_load_acquire(&watch->masked[why][i]);
		if (map && test_bit(page, map))
			masked |= BIT(i);
	}
	return masked;
}

u32 kvm_span_mask_of(struct kvm_span *span, u64 page, const struct kvm_span_member *except)
{
	unsigned long *bits;
	u32 mask = 0;
	int a;

	for (a = 0; a < KVM_SPAN_NR_ACCESS; a++) {
		bits = READ_ONCE(span->mask[a]);
		if (!bits || !test_bit(page, bits))
			continue;
		if (!except || kvm_span_masked_for(span, a, page, except))
			mask |= BIT(a);
	}
	return mask;
}

/* For KVM's own accesses, any context: does anybody protect the page? */
bool __kvm_span_denies(const struct kvm_memory_slot *slot, gfn_t gfn, u32 access)
{
	struct kvm_span *span = kvm_span_watched(slot);
	struct kvm_span_watch *watch;
	unsigned long *bits;
	bool denied = false;
	int i, a;
	u64 page;

	if (likely(!span))
		return false;
	page = kvm_span_slot_page(slot, gfn);
	if (!(kvm_span_mask_of(span, page, NULL) & access))
		return false;
	rcu_read_lock();
	for (i = 0; i < KVM_SPAN_SPAN_WATCHES && !denied; i++) {
		watch = rcu_dereference(span->watch[i]);
		for (a = 0; watch && a < KVM_SPAN_NR_ACCESS; a++) {
			bits = READ_ONCE(watch->masked[KVM_SPAN_WHY_PROTECT][a]);
			denied |= (access & BIT(a)) && bits && test_bit(page, bits);
		}
	}
	rcu_read_unlock();
	return denied;
}

/* Must these pages be mapped one by one? */
bool kvm_span_split(struct kvm_span *span, u64 first, u64 pages)
{
	u64 end = min(first + pages, kvm_span_pages(span));
	int a;

	for (a = 0; a < KVM_SPAN_NR_ACCESS; a++)
		if (kvm_span_any_bit(&span->mask[a], first, end))
			return true;
	return kvm_span_any_bit(&span->logged, first, end);
}

/* For KVM, under mmu_lock: how large may an entry be. */
int __kvm_span_max_level(const struct kvm_memory_slot *slot, gfn_t gfn, int max_level)
{
	struct kvm_span *span = kvm_span_watched(slot);

	if (likely(!span))
		return max_level;
	/* shmem has no larger pages. */
	max_level = min(max_level, PG_LEVEL_2M);
	if (max_level == PG_LEVEL_4K)
		return max_level;
	/* A block that is not all in the slot is not mapped in one piece anyway. */
	gfn = gfn_round_for_level(gfn, PG_LEVEL_2M);
	if (gfn < slot->base_gfn ||
	    gfn + KVM_SPAN_BLOCK > slot->base_gfn + slot->npages)
		return PG_LEVEL_4K;
	if (kvm_span_split(span, kvm_span_slot_page(slot, gfn), KVM_SPAN_BLOCK))
		return PG_LEVEL_4K;
	return PG_LEVEL_2M;
}

/* What is masked in an entry of a table of this role. */
static u32 kvm_span_entry_mask(const struct kvm_memory_slot *slot, struct kvm_span *span,
			       union kvm_mmu_page_role role, gfn_t gfn)
{
	return kvm_span_mask_of(span, kvm_span_slot_page(slot, gfn),
				role.guest_mode ? NULL : slot->arch.span_member);
}

/*
 * For KVM, under mmu_lock, before an entry is made: must there be none? There is
 * none for a page that may not be read, nor where an entry without any access is
 * not to be told from one that is not present (EPT that knows execute-only). A
 * write that is to be mapped now goes into the logs.
 */
bool __kvm_span_hides(const struct kvm_memory_slot *slot, struct kvm_span *span,
		      union kvm_mmu_page_role role, gfn_t gfn, unsigned int access,
		      bool write)
{
	u32 mask = kvm_span_entry_mask(slot, span, role, gfn);

	if (mask & KVM_SPAN_ACCESS_W)
		access &= ~ACC_WRITE_MASK;
	if (mask & KVM_SPAN_ACCESS_X)
		access &= ~ACC_EXEC_MASK;
	if ((mask & KVM_SPAN_ACCESS_R) ||
	    (access | shadow_present_mask) == SHADOW_NONPRESENT_VALUE)
		return true;
	if (write && (access & ACC_WRITE_MASK))
		kvm_span_log_written(span, kvm_span_slot_page(slot, gfn));
	return false;
}

/* For KVM, under mmu_lock: a fault is about to be mapped. */
bool __kvm_span_unmappable(struct kvm_vcpu *vcpu, struct kvm_page_fault *fault)
{
	struct kvm_span *span = kvm_span_watched(fault->slot);

	if (likely(!span))
		return false;
	fault->max_level = __kvm_span_max_level(fault->slot, fault->gfn, fault->max_level);
	return __kvm_span_hides(fault->slot, span, vcpu->arch.mmu->root_role, fault->gfn,
				ACC_ALL, fault->write);
}

/*
 * For make_spte(), under mmu_lock. The table is one of the vCPU's present MMU: it
 * has the role of the root, as far as it matters here. An armed page's entry has no D; where D bits do
 * not tell of writes it is not writable at all. Nothing is left only if a mask came
 * after the question above: what is made then is zapped right away.
 */
u64 __kvm_span_spte(struct kvm_vcpu *vcpu, const struct kvm_memory_slot *slot,
		    struct kvm_span *span, gfn_t gfn, u64 spte)
{
	union kvm_mmu_page_role role = vcpu->arch.mmu->root_role;
	u32 mask = kvm_span_entry_mask(slot, span, role, gfn);
	u64 left = spte;

	if (kvm_span_log_armed(span, kvm_span_slot_page(slot, gfn))) {
		left &= ~shadow_dirty_mask;
		if (!kvm_span_log_by_dirty(role, tdp_mmu_enabled && role.direct))
			mask |= KVM_SPAN_ACCESS_W;
	}
	if (mask & (KVM_SPAN_ACCESS_W | KVM_SPAN_ACCESS_R))
		left &= ~(PT_WRITABLE_MASK | shadow_mmu_writable_mask | shadow_dirty_mask);
	if (mask & KVM_SPAN_ACCESS_X)
		left = (left & ~shadow_x_mask) | shadow_nx_mask;
	if (shadow_present_mask == SHADOW_NONPRESENT_VALUE &&
	    !(left & (shadow_user_mask | PT_WRITABLE_MASK | shadow_x_mask)))
		return spte;
	return left;
}
