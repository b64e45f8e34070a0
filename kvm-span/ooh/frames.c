// SPDX-License-Identifier: GPL-2.0
/*
 * Out of Hypervisor: which frames are armed, and which wait to be fetched.
 *
 * The next write to an armed frame is heard of in one of two ways:
 *
 * - The entry is writable, its D bit is withheld, and the vCPU's page-modification
 *   log says when the processor sets it: see kvm_ooh_by_pml(). The log is read at
 *   each VM exit before interrupts are on again. So whoever has made a vCPU leave
 *   the guest, and has been answered, knows all that it wrote; and this without an
 *   entry or a memory slot, which may be gone meanwhile.
 * - The entry is not writable, and a fault says so. Tables of nested guests, and
 *   where there is no such log.
 *
 * A frame that is not armed waits, or is in the answer that a fetch is putting
 * together, or nobody wants to know:
 *
 * - a write takes the frame out of armed first, then lets it wait;
 * - a fetch takes the frame from those that wait first, then arms it, then sees to
 *   it that entries and TLBs do not let a write pass unheard, then answers.
 */
#include <linux/rcupdate.h>
#include <linux/slab.h>

#include "x86.h"
#include "mmu.h"
#include "mmu/mmu_internal.h"
#include "mmu/spte.h"
#include "mmu/tdp_mmu.h"
#include "dirty.h"
#include "ooh.h"
#include "ooh_hooks.h"

static unsigned int kvm_ooh_bit(gfn_t gfn)
{
	return gfn & (KVM_OOH_CHUNK_FRAMES - 1);
}

/* Under RCU or ooh->lock. */
static struct kvm_ooh_chunk *kvm_ooh_chunk_of(struct kvm_ooh *ooh, gfn_t gfn)
{
	return xa_load(&ooh->chunks, gfn >> KVM_OOH_CHUNK_SHIFT);
}

static void kvm_ooh_chunk_free(struct rcu_head *rcu)
{
	struct kvm_ooh_chunk *chunk = container_of(rcu, struct kvm_ooh_chunk, rcu);

	free_page((unsigned long)chunk->armed);
	free_page((unsigned long)chunk->waiting);
	kfree(chunk);
}

static struct kvm_ooh_chunk *kvm_ooh_chunk_new(void)
{
	struct kvm_ooh_chunk *chunk = kzalloc(sizeof(*chunk), GFP_KERNEL_ACCOUNT);

	BUILD_BUG_ON(KVM_OOH_CHUNK_FRAMES / BITS_PER_BYTE != PAGE_SIZE);
	if (!chunk)
		return NULL;
	chunk->armed = (unsigned long *)get_zeroed_page(GFP_KERNEL_ACCOUNT);
	chunk->waiting = (unsigned long *)get_zeroed_page(GFP_KERNEL_ACCOUNT);
	if (chunk->armed && chunk->waiting)
		return chunk;
	kvm_ooh_chunk_free(&chunk->rcu);
	return NULL;
}

/* Reports. */

/* Let a frame wait. Under RCU, any context. */
static void kvm_ooh_wait(struct kvm_ooh *ooh, struct kvm_ooh_chunk *chunk, unsigned int bit)
{
	long since, want;

	if (test_and_set_bit(bit, chunk->waiting))
		return;
	/* The frame, then its word: who takes words takes the frame, or sees the word. */
	set_bit(bit / BITS_PER_LONG, chunk->words);
	atomic_inc(&chunk->count);
	since = atomic_long_inc_return(&ooh->since);
	if (!atomic_read(&ooh->tell))
		return;
	want = (READ_ONCE(ooh->interrupt) & KVM_OOH_INT_FRAMES_MASK) >> KVM_OOH_INT_FRAMES_SHIFT;
	if (since >= want)
		kvm_ooh_tell(ooh);
}

static void kvm_ooh_report_chunk(struct kvm_ooh *ooh, struct kvm_ooh_chunk *chunk,
				 unsigned int from, unsigned int to, atomic64_t *by)
{
	unsigned int bit;

	for (bit = find_next_bit(chunk->armed, to, from); bit < to;
	     bit = find_next_bit(chunk->armed, to, bit + 1)) {
		if (!test_and_clear_bit(bit, chunk->armed))
			continue;
		kvm_ooh_wait(ooh, chunk, bit);
		atomic64_inc(by);
	}
}

void kvm_ooh_report(struct kvm_ooh *ooh, gfn_t gfn, u64 pages, atomic64_t *by)
{
	unsigned long index, last = (gfn + pages - 1) >> KVM_OOH_CHUNK_SHIFT;
	struct kvm_ooh_chunk *chunk;
	gfn_t start, end;

	/* What was written, then the look at armed; pairs with kvm_ooh_rearm(). */
	smp_mb();
	rcu_read_lock();
	xa_for_each_range(&ooh->chunks, index, chunk, gfn >> KVM_OOH_CHUNK_SHIFT, last) {
		start = (gfn_t)index << KVM_OOH_CHUNK_SHIFT;
		end = min(start + KVM_OOH_CHUNK_FRAMES, gfn + pages);
		kvm_ooh_report_chunk(ooh, chunk, max(start, gfn) - start, end - start, by);
	}
	rcu_read_unlock();
}

/*
 * For mark_page_dirty_in_slot(): any context, also with interrupts off. What comes
 * from a vCPU's log was reported by kvm_ooh_pml() already, and may have been armed
 * again since.
 */
void __kvm_ooh_wrote(struct kvm *kvm, gfn_t gfn)
{
	struct kvm_ooh *ooh = kvm_ooh_of(kvm);
	struct kvm_vcpu *vcpu;

	if (!ooh)
		return;
	vcpu = kvm_get_running_vcpu();
	if (vcpu && vcpu->kvm == kvm && vcpu->span.pml)
		return;
	kvm_ooh_report(ooh, gfn, 1, &ooh->by_fault);
}

/* New in the vCPU's log. Interrupts are off since it left the guest. */
void kvm_ooh_pml(struct kvm_vcpu *vcpu, const u64 *gpas, unsigned int n, bool full)
{
	struct kvm_ooh *ooh = kvm_ooh_of(vcpu->kvm);

	if (!ooh)
		return;
	if (full)
		atomic64_inc(&ooh->pml_full);
	while (n--)
		kvm_ooh_report(ooh, gpa_to_gfn(*gpas++), 1, &ooh->by_pml);
}
EXPORT_SYMBOL_GPL(kvm_ooh_pml);

/* For the MMU. */

/* Does the log of a vCPU tell of writes by entries of such a table? */
static bool kvm_ooh_by_pml(union kvm_mmu_page_role role)
{
	return tdp_enabled && kvm_ad_enabled() && !role.ad_disabled && !role.guest_mode &&
	       kvm_x86_ops.cpu_dirty_log_size;
}

static bool kvm_ooh_armed(struct kvm_ooh *ooh, gfn_t gfn)
{
	struct kvm_ooh_chunk *chunk;
	bool armed;

	rcu_read_lock();
	chunk = kvm_ooh_chunk_of(ooh, gfn);
	armed = chunk && test_bit(kvm_ooh_bit(gfn), chunk->armed);
	rcu_read_unlock();
	return armed;
}

/* Must the block of 2 MiB, or any of the gigabyte, be mapped in small pieces? */
static bool kvm_ooh_small(struct kvm_ooh *ooh, gfn_t gfn, int level)
{
	gfn_t start = gfn_round_for_level(gfn, level);
	u64 pages = KVM_PAGES_PER_HPAGE(level);
	unsigned long index, last = (start + pages - 1) >> KVM_OOH_CHUNK_SHIFT;
	struct kvm_ooh_chunk *chunk;
	bool small = false;

	rcu_read_lock();
	xa_for_each_range(&ooh->chunks, index, chunk, start >> KVM_OOH_CHUNK_SHIFT, last) {
		if (level == PG_LEVEL_2M)
			small = test_bit(kvm_ooh_bit(start) / KVM_OOH_BLOCK, chunk->blocks);
		else
			small = !bitmap_empty(chunk->blocks, KVM_OOH_CHUNK_FRAMES / KVM_OOH_BLOCK);
		if (small)
			break;
	}
	rcu_read_unlock();
	return small;
}

int __kvm_ooh_max_level(struct kvm *kvm, gfn_t gfn, int max_level)
{
	struct kvm_ooh *ooh = kvm_ooh_of(kvm);

	if (!ooh)
		return max_level;
	while (max_level > PG_LEVEL_4K && kvm_ooh_small(ooh, gfn, max_level))
		max_level--;
	return max_level;
}

/*
 * mmu_lock is held until the entry is made: a frame that is armed now gets a
 * writable entry only if the write was reported, or the log will tell of it.
 */
void __kvm_ooh_fault(struct kvm_vcpu *vcpu, struct kvm_page_fault *fault)
{
	struct kvm_ooh *ooh = kvm_ooh_of(vcpu->kvm);

	if (!ooh)
		return;
	fault->max_level = __kvm_ooh_max_level(vcpu->kvm, fault->gfn, fault->max_level);
	if (fault->write && !kvm_ooh_by_pml(vcpu->arch.mmu->root_role))
		kvm_ooh_report(ooh, fault->gfn, 1, &ooh->by_fault);
}

/*
 * For make_spte(), under mmu_lock. The table is one of the vCPU's present MMU: it
 * has the role of the root, as far as it matters here.
 */
u64 __kvm_ooh_spte(struct kvm_vcpu *vcpu, gfn_t gfn, int level, u64 spte)
{
	struct kvm_ooh *ooh = kvm_ooh_of(vcpu->kvm);

	if (!ooh || level > PG_LEVEL_4K || !kvm_ooh_armed(ooh, gfn))
		return spte;
	spte &= ~shadow_dirty_mask;
	if (!kvm_ooh_by_pml(vcpu->arch.mmu->root_role))
		spte &= ~(PT_WRITABLE_MASK | shadow_mmu_writable_mask);
	return spte;
}

/* Words of 64 frames. */

struct kvm_ooh_words {
	const struct kvm_ooh_range *range, *end;
	u64 done;			/* pages of the range */
	gfn_t base;
	unsigned long mask;
};

#define KVM_OOH_WORDS(ranges, n) { .range = (ranges), .end = (ranges) + (n) }

/* The next word with all that neighbouring ranges have in it. */
static bool kvm_ooh_next_word(struct kvm_ooh_words *w)
{
	gfn_t first, end;

	if (w->range == w->end)
		return false;
	w->base = round_down(w->range->gfn + w->done, BITS_PER_LONG);
	w->mask = 0;
	while (w->range != w->end) {
		first = w->range->gfn + w->done;
		end = w->range->gfn + w->range->pages;
		if (round_down(first, BITS_PER_LONG) != w->base)
			break;
		w->mask |= kvm_dirty_word_mask(first, end);
		w->done += min(end, w->base + BITS_PER_LONG) - first;
		if (w->done == w->range->pages) {
			w->range++;
			w->done = 0;
		}
	}
	return true;
}

/* Arm. */

/* The block's large entries go, if it has not been looked after before. */
static void kvm_ooh_close_block(struct kvm_ooh *ooh, struct kvm_memslots *slots, gfn_t gfn)
{
	gfn_t start = round_down(gfn, KVM_OOH_BLOCK), end = start + KVM_OOH_BLOCK;
	struct kvm_memory_slot *slot = __gfn_to_memslot(slots, gfn);

	/* One that is not all in the slot has none. */
	if (slot && start >= slot->base_gfn && end <= slot->base_gfn + slot->npages)
		kvm_dirty_small(ooh->kvm, slot, start, end);
}

static void kvm_ooh_close_word(struct kvm_ooh *ooh, struct kvm_memslots *slots, gfn_t base,
			       unsigned long mask)
{
	struct kvm_memory_slot *slot;
	unsigned long part, i;
	gfn_t gfn;

	while (mask) {
		gfn = base + __ffs(mask);
		slot = __gfn_to_memslot(slots, gfn);
		if (!slot) {
			mask &= mask - 1;
			continue;
		}
		part = mask & kvm_dirty_word_mask(gfn, slot->base_gfn + slot->npages);
		mask &= ~part;
		kvm_dirty_clear(ooh->kvm, slot, base, part);
		if (!kvm_memslots_have_rmaps(ooh->kvm))
			continue;
		for_each_set_bit(i, &part, BITS_PER_LONG)
			kvm_ooh_rmap_protect(slot, base + i);
	}
}

/* Entries and TLBs let no write to these frames pass unheard when it returns. */
static void kvm_ooh_close(struct kvm_ooh *ooh, const struct kvm_ooh_range *ranges, u32 n)
{
	struct kvm_ooh_words w = KVM_OOH_WORDS(ranges, n);
	struct kvm_ooh_chunk *chunk;
	struct kvm *kvm = ooh->kvm;
	unsigned int block;
	int as_id;
	bool fresh;

	write_lock(&kvm->mmu_lock);
	while (kvm_ooh_next_word(&w)) {
		chunk = kvm_ooh_chunk_of(ooh, w.base);
		block = kvm_ooh_bit(w.base) / KVM_OOH_BLOCK;
		fresh = __test_and_clear_bit(block, chunk->fresh);
		for (as_id = 0; as_id < kvm_arch_nr_memslot_as_ids(kvm); as_id++) {
			if (fresh)
				kvm_ooh_close_block(ooh, __kvm_memslots(kvm, as_id), w.base);
			kvm_ooh_close_word(ooh, __kvm_memslots(kvm, as_id), w.base, w.mask);
		}
		if (need_resched() || rwlock_needbreak(&kvm->mmu_lock)) {
			kvm_flush_remote_tlbs(kvm);
			cond_resched_rwlock_write(&kvm->mmu_lock);
		}
	}
	/* Before the lock goes: see the comment at kvm_mmu_slot_apply_flags(). */
	kvm_flush_remote_tlbs(kvm);
	write_unlock(&kvm->mmu_lock);
}

void kvm_ooh_rearm(struct kvm_ooh *ooh, const struct kvm_ooh_range *ranges, u32 n)
{
	struct kvm_ooh_words w = KVM_OOH_WORDS(ranges, n);

	lockdep_assert_held(&ooh->lock);
	if (!n)
		return;
	while (kvm_ooh_next_word(&w))
		atomic_long_or(w.mask, kvm_dirty_word(kvm_ooh_chunk_of(ooh, w.base)->armed,
						      kvm_ooh_bit(w.base)));
	/* Armed, then what was written by those who did not see it; see kvm_ooh_report(). */
	smp_mb();
	kvm_ooh_close(ooh, ranges, n);
}

/* Room for the bits of a range; its blocks get no large entries any more. */
static int kvm_ooh_need(struct kvm_ooh *ooh, const struct kvm_ooh_range *range)
{
	gfn_t gfn, end = range->gfn + range->pages;
	struct kvm_ooh_chunk *chunk;
	unsigned int block;
	int r;

	for (gfn = range->gfn; gfn < end; gfn = round_down(gfn, KVM_OOH_BLOCK) + KVM_OOH_BLOCK) {
		chunk = kvm_ooh_chunk_of(ooh, gfn);
		if (!chunk) {
			chunk = kvm_ooh_chunk_new();
			if (!chunk)
				return -ENOMEM;
			r = xa_err(xa_store(&ooh->chunks, gfn >> KVM_OOH_CHUNK_SHIFT, chunk,
					    GFP_KERNEL_ACCOUNT));
			if (r) {
				kvm_ooh_chunk_free(&chunk->rcu);
				return r;
			}
		}
		block = kvm_ooh_bit(gfn) / KVM_OOH_BLOCK;
		if (!test_and_set_bit(block, chunk->blocks))
			__set_bit(block, chunk->fresh);
	}
	return 0;
}

int kvm_ooh_arm(struct kvm_ooh *ooh, const struct kvm_ooh_range *ranges, u32 n)
{
	u32 i;
	int r;

	lockdep_assert_held(&ooh->lock);
	for (i = 0; i < n; i++) {
		r = kvm_ooh_need(ooh, &ranges[i]);
		if (r)
			return r;
	}
	kvm_ooh_rearm(ooh, ranges, n);
	return 0;
}

/* Disarm. */

/* Nobody wants the block in pieces any more: a fault may map it in one. */
static void kvm_ooh_join(struct kvm *kvm, gfn_t start)
{
	struct kvm_memory_slot *slot = __gfn_to_memslot(kvm_memslots(kvm), start);

	if (!slot || start + KVM_OOH_BLOCK > slot->base_gfn + slot->npages)
		return;
	if (kvm_mmu_max_mapping_level(kvm, slot, start, PG_LEVEL_2M) > PG_LEVEL_4K)
		kvm_zap_gfn_range(kvm, start, start + KVM_OOH_BLOCK);
}

static bool kvm_ooh_block_idle(const struct kvm_ooh_chunk *chunk, unsigned int block)
{
	unsigned int from = block * KVM_OOH_BLOCK, to = from + KVM_OOH_BLOCK;

	return find_next_bit(chunk->armed, to, from) >= to &&
	       find_next_bit(chunk->waiting, to, from) >= to;
}

static void kvm_ooh_forget_word(struct kvm_ooh_chunk *chunk, gfn_t base, unsigned long mask)
{
	unsigned int bit = kvm_ooh_bit(base);
	unsigned long was;

	atomic_long_andnot(mask, kvm_dirty_word(chunk->armed, bit));
	was = atomic_long_fetch_andnot(mask, kvm_dirty_word(chunk->waiting, bit)) & mask;
	atomic_sub(hweight_long(was), &chunk->count);
}

void kvm_ooh_forget(struct kvm_ooh *ooh, gfn_t gfn, u64 pages)
{
	struct kvm_ooh_range range = { gfn, pages };
	struct kvm_ooh_words w = KVM_OOH_WORDS(&range, 1);
	struct kvm_ooh_chunk *chunk;
	gfn_t end = gfn + pages;
	unsigned int block;

	lockdep_assert_held(&ooh->lock);
	while (kvm_ooh_next_word(&w)) {
		chunk = kvm_ooh_chunk_of(ooh, w.base);
		if (chunk)
			kvm_ooh_forget_word(chunk, w.base, w.mask);
	}
	for (gfn = round_down(gfn, KVM_OOH_BLOCK); gfn < end; gfn += KVM_OOH_BLOCK) {
		chunk = kvm_ooh_chunk_of(ooh, gfn);
		block = kvm_ooh_bit(gfn) / KVM_OOH_BLOCK;
		if (!chunk || !test_bit(block, chunk->blocks) || !kvm_ooh_block_idle(chunk, block))
			continue;
		clear_bit(block, chunk->blocks);
		__clear_bit(block, chunk->fresh);
		kvm_ooh_join(ooh->kvm, gfn);
	}
}

void kvm_ooh_forget_all(struct kvm_ooh *ooh)
{
	struct kvm_ooh_chunk *chunk;
	unsigned long index, block;

	lockdep_assert_held(&ooh->lock);
	xa_for_each(&ooh->chunks, index, chunk) {
		xa_erase(&ooh->chunks, index);
		for_each_set_bit(block, chunk->blocks, KVM_OOH_CHUNK_FRAMES / KVM_OOH_BLOCK)
			kvm_ooh_join(ooh->kvm, ((gfn_t)index << KVM_OOH_CHUNK_SHIFT) +
					       block * KVM_OOH_BLOCK);
		/* A report that has found it goes with it. */
		call_rcu(&chunk->rcu, kvm_ooh_chunk_free);
		cond_resched();
	}
}

/* The VM ends: nobody reports, no entry is made any more. */
void kvm_ooh_free_frames(struct kvm_ooh *ooh)
{
	struct kvm_ooh_chunk *chunk;
	unsigned long index;

	xa_for_each(&ooh->chunks, index, chunk)
		kvm_ooh_chunk_free(&chunk->rcu);
	xa_destroy(&ooh->chunks);
}

/* What was in the slot's frames is not there any more, which is as good as written. */
void __kvm_ooh_slot_gone(struct kvm *kvm, const struct kvm_memory_slot *slot)
{
	struct kvm_ooh *ooh = kvm_ooh_of(kvm);

	if (ooh)
		kvm_ooh_report(ooh, slot->base_gfn, slot->npages, &ooh->by_user);
}

/* Fetch. */

/*
 * vCPUs that are in the guest leave it, and have told what they logged before
 * they answer. The caller's has left.
 */
void kvm_ooh_flush(struct kvm_ooh *ooh)
{
	if (kvm_x86_ops.cpu_dirty_log_size)
		kvm_make_all_cpus_request(ooh->kvm, KVM_REQ_OUTSIDE_GUEST_MODE);
}

u64 kvm_ooh_waiting(struct kvm_ooh *ooh)
{
	struct kvm_ooh_chunk *chunk;
	unsigned long index;
	s64 n = 0;

	lockdep_assert_held(&ooh->lock);
	xa_for_each(&ooh->chunks, index, chunk)
		n += atomic_read(&chunk->count);
	/* A report that is just taken may not be counted yet. */
	return max(n, 0);
}

static void kvm_ooh_wait_word(struct kvm_ooh_chunk *chunk, unsigned int bit, unsigned long mask)
{
	unsigned long was = atomic_long_fetch_or(mask, kvm_dirty_word(chunk->waiting, bit));

	set_bit(bit / BITS_PER_LONG, chunk->words);
	atomic_add(hweight_long(mask & ~was), &chunk->count);
}

void kvm_ooh_put_back(struct kvm_ooh *ooh, const struct kvm_ooh_range *ranges, u32 n)
{
	struct kvm_ooh_words w = KVM_OOH_WORDS(ranges, n);

	lockdep_assert_held(&ooh->lock);
	while (kvm_ooh_next_word(&w))
		kvm_ooh_wait_word(kvm_ooh_chunk_of(ooh, w.base), kvm_ooh_bit(w.base), w.mask);
}

/* Add one run; false if there is no room for it. An entry of the ring holds a range. */
static bool kvm_ooh_take_run(struct kvm_ooh *ooh, u32 *n, u32 max, gfn_t gfn, u64 pages)
{
	struct kvm_ooh_range *last = *n ? &ooh->batch[*n - 1] : NULL;

	if (last && last->gfn + last->pages == gfn &&
	    last->pages + pages <= KVM_OOH_ENTRY_MAX_PAGES) {
		last->pages += pages;
		return true;
	}
	if (*n == max)
		return false;
	ooh->batch[(*n)++] = (struct kvm_ooh_range){ gfn, pages };
	return true;
}

/* Add the runs of one word; returns the bits of it that found no room. */
static unsigned long kvm_ooh_take_word(struct kvm_ooh *ooh, u32 *n, u32 max, gfn_t base,
				       unsigned long word)
{
	unsigned int from, to;

	for (; word; word &= to < BITS_PER_LONG ? ~0UL << to : 0) {
		from = __ffs(word);
		to = find_next_zero_bit(&word, BITS_PER_LONG, from);
		if (!kvm_ooh_take_run(ooh, n, max, base + from, to - from))
			break;
	}
	return word;
}

/* False: there is no room for more. */
static bool kvm_ooh_take_chunk(struct kvm_ooh *ooh, struct kvm_ooh_chunk *chunk, gfn_t start,
			       u32 *n, u32 max)
{
	unsigned long word, rest;
	unsigned int i;

	for_each_set_bit(i, chunk->words, KVM_OOH_CHUNK_WORDS) {
		clear_bit(i, chunk->words);
		/* The word, then its frames; see kvm_ooh_wait(). */
		smp_mb__after_atomic();
		word = xchg(&chunk->waiting[i], 0);
		atomic_sub(hweight_long(word), &chunk->count);
		rest = kvm_ooh_take_word(ooh, n, max, start + i * BITS_PER_LONG, word);
		if (rest) {
			kvm_ooh_wait_word(chunk, i * BITS_PER_LONG, rest);
			return false;
		}
	}
	return true;
}

u32 kvm_ooh_take(struct kvm_ooh *ooh, u32 max)
{
	struct kvm_ooh_chunk *chunk;
	unsigned long index;
	u32 n = 0;

	lockdep_assert_held(&ooh->lock);
	xa_for_each(&ooh->chunks, index, chunk)
		if (!kvm_ooh_take_chunk(ooh, chunk, (gfn_t)index << KVM_OOH_CHUNK_SHIFT, &n, max))
			break;
	return n;
}
