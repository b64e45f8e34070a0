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
 * - a write takes the frame out of armed and lets it wait, as one step;
 * - a fetch takes the frame from those that wait first, then arms it, then sees to
 *   it that entries and TLBs do not let a write pass unheard, then answers.
 */
#include <linux/rcupdate.h>
#include <linux/sched/mm.h>
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
	raw_spin_lock_init(&chunk->lock);
	chunk->armed = (unsigned long *)get_zeroed_page(GFP_KERNEL_ACCOUNT);
	chunk->waiting = (unsigned long *)get_zeroed_page(GFP_KERNEL_ACCOUNT);
	if (chunk->armed && chunk->waiting)
		return chunk;
	kvm_ooh_chunk_free(&chunk->rcu);
	return NULL;
}

/* Reports. */

/* Let frames of one word wait. chunk->lock is held. */
static void kvm_ooh_wait(struct kvm_ooh *ooh, struct kvm_ooh_chunk *chunk, unsigned int word,
			 unsigned long mask)
{
	unsigned long new = mask & ~chunk->waiting[word];

	chunk->waiting[word] |= new;
	__set_bit(word, chunk->words);
	atomic_long_add(hweight_long(new), &ooh->waiting);
}

/* Under RCU. True: some of them were armed. */
static bool kvm_ooh_report_chunk(struct kvm_ooh *ooh, struct kvm_ooh_chunk *chunk,
				 unsigned int from, unsigned int to, atomic64_t *by)
{
	unsigned long flags, mask;
	unsigned int bit, word;
	bool any = false;

	/*
	 * Frames that are not armed are what most reports are of, so that much without
	 * the lock: if another report has just cleared a bit, a fetch waits for its lock.
	 */
	for (bit = find_next_bit(chunk->armed, to, from); bit < to;
	     bit = find_next_bit(chunk->armed, to, round_down(bit, BITS_PER_LONG) + BITS_PER_LONG)) {
		word = bit / BITS_PER_LONG;
		mask = kvm_dirty_word_mask(bit, to);
		raw_spin_lock_irqsave(&chunk->lock, flags);
		mask &= chunk->armed[word];
		if (mask) {
			WRITE_ONCE(chunk->armed[word], chunk->armed[word] & ~mask);
			kvm_ooh_wait(ooh, chunk, word, mask);
		}
		raw_spin_unlock_irqrestore(&chunk->lock, flags);
		atomic64_add(hweight_long(mask), by);
		any = any || mask;
	}
	return any;
}

void kvm_ooh_report(struct kvm_ooh *ooh, gfn_t gfn, u64 pages, atomic64_t *by)
{
	unsigned long index, last = (gfn + pages - 1) >> KVM_OOH_CHUNK_SHIFT;
	struct kvm_ooh_chunk *chunk;
	bool any = false;
	gfn_t start, end;

	/* What was written, then the look at armed; pairs with kvm_ooh_rearm(). */
	smp_mb();
	rcu_read_lock();
	xa_for_each_range(&ooh->chunks, index, chunk, gfn >> KVM_OOH_CHUNK_SHIFT, last) {
		start = (gfn_t)index << KVM_OOH_CHUNK_SHIFT;
		end = min(start + KVM_OOH_CHUNK_FRAMES, gfn + pages);
		any |= kvm_ooh_report_chunk(ooh, chunk, max(start, gfn) - start, end - start, by);
	}
	rcu_read_unlock();
	if (any)
		kvm_ooh_tell_waiting(ooh);
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
		if (!kvm_x86_ops.cpu_dirty_log_size) {
			/* With MMU_WRITABLE: else a fault that takes no lock gives W back. */
			for_each_set_bit(i, &part, BITS_PER_LONG)
				kvm_mmu_slot_gfn_write_protect(ooh->kvm, slot, base + i, PG_LEVEL_4K);
		}
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
	struct kvm_ooh_chunk *chunk;
	unsigned long flags;
	unsigned int word;

	lockdep_assert_held(&ooh->lock);
	if (!n)
		return;
	while (kvm_ooh_next_word(&w)) {
		chunk = kvm_ooh_chunk_of(ooh, w.base);
		word = kvm_ooh_bit(w.base) / BITS_PER_LONG;
		raw_spin_lock_irqsave(&chunk->lock, flags);
		WRITE_ONCE(chunk->armed[word], chunk->armed[word] | w.mask);
		raw_spin_unlock_irqrestore(&chunk->lock, flags);
	}
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
			chunk->base = round_down(gfn, KVM_OOH_CHUNK_FRAMES);
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

static void kvm_ooh_forget_word(struct kvm_ooh *ooh, struct kvm_ooh_chunk *chunk,
				unsigned int word, unsigned long mask)
{
	unsigned long flags;

	raw_spin_lock_irqsave(&chunk->lock, flags);
	WRITE_ONCE(chunk->armed[word], chunk->armed[word] & ~mask);
	atomic_long_sub(hweight_long(chunk->waiting[word] & mask), &ooh->waiting);
	chunk->waiting[word] &= ~mask;
	raw_spin_unlock_irqrestore(&chunk->lock, flags);
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
			kvm_ooh_forget_word(ooh, chunk, kvm_ooh_bit(w.base) / BITS_PER_LONG,
					    w.mask);
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

/* Let the huge pages of a chunk come back. kvm->srcu is held. */
static void kvm_ooh_join_chunk(struct kvm *kvm, struct kvm_ooh_chunk *chunk)
{
	unsigned long block;

	for_each_set_bit(block, chunk->blocks, KVM_OOH_CHUNK_FRAMES / KVM_OOH_BLOCK) {
		kvm_ooh_join(kvm, chunk->base + block * KVM_OOH_BLOCK);
		cond_resched();
	}
}

static struct kvm_ooh_chunk *kvm_ooh_next_old(struct kvm_ooh *ooh)
{
	struct kvm_ooh_chunk *chunk;

	spin_lock(&ooh->old_lock);
	chunk = list_first_entry_or_null(&ooh->old, struct kvm_ooh_chunk, old);
	if (chunk) {
		list_del(&chunk->old);
		ooh->nr_old--;
	}
	spin_unlock(&ooh->old_lock);
	return chunk;
}

/*
 * Not by whoever disarmed it all, which is one instruction of the guest. What is armed
 * anew meanwhile has a chunk of its own, which kvm_ooh_join() asks; entries that are
 * zapped all the same are made again as the frame is then.
 */
void kvm_ooh_join_old(struct work_struct *work)
{
	struct kvm_ooh *ooh = container_of(work, struct kvm_ooh, join);
	struct kvm_ooh_chunk *chunk;
	int idx;

	while ((chunk = kvm_ooh_next_old(ooh))) {
		if (mmget_not_zero(ooh->kvm->mm)) {
			idx = srcu_read_lock(&ooh->kvm->srcu);
			kvm_ooh_join_chunk(ooh->kvm, chunk);
			srcu_read_unlock(&ooh->kvm->srcu, idx);
			mmput(ooh->kvm->mm);
		}
		call_rcu(&chunk->rcu, kvm_ooh_chunk_free);
	}
}

/* A report that has found the chunk goes with it. */
static void kvm_ooh_chunk_gone(struct kvm_ooh *ooh, struct kvm_ooh_chunk *chunk)
{
	bool keep;

	spin_lock(&ooh->old_lock);
	keep = ooh->nr_old < KVM_OOH_MAX_OLD;
	if (keep) {
		list_add_tail(&chunk->old, &ooh->old);
		ooh->nr_old++;
	}
	spin_unlock(&ooh->old_lock);
	if (keep)
		queue_work(system_unbound_wq, &ooh->join);
	else
		/* The guest does this all the time: its pages stay small. */
		call_rcu(&chunk->rcu, kvm_ooh_chunk_free);
}

void kvm_ooh_forget_all(struct kvm_ooh *ooh)
{
	struct kvm_ooh_chunk *chunk;
	unsigned long index, word;

	lockdep_assert_held(&ooh->lock);
	xa_for_each(&ooh->chunks, index, chunk) {
		xa_erase(&ooh->chunks, index);
		for (word = 0; word < KVM_OOH_CHUNK_WORDS; word++)
			kvm_ooh_forget_word(ooh, chunk, word, ~0UL);
		kvm_ooh_chunk_gone(ooh, chunk);
		cond_resched();
	}
}

/* The VM ends: nobody reports, no entry is made any more. */
void kvm_ooh_free_frames(struct kvm_ooh *ooh)
{
	struct kvm_ooh_chunk *chunk;
	unsigned long index;

	while ((chunk = kvm_ooh_next_old(ooh)))
		kvm_ooh_chunk_free(&chunk->rcu);
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

static void kvm_ooh_wait_word(struct kvm_ooh *ooh, struct kvm_ooh_chunk *chunk, unsigned int word,
			      unsigned long mask)
{
	unsigned long flags;

	raw_spin_lock_irqsave(&chunk->lock, flags);
	kvm_ooh_wait(ooh, chunk, word, mask);
	raw_spin_unlock_irqrestore(&chunk->lock, flags);
}

void kvm_ooh_put_back(struct kvm_ooh *ooh, const struct kvm_ooh_range *ranges, u32 n)
{
	struct kvm_ooh_words w = KVM_OOH_WORDS(ranges, n);

	lockdep_assert_held(&ooh->lock);
	while (kvm_ooh_next_word(&w))
		kvm_ooh_wait_word(ooh, kvm_ooh_chunk_of(ooh, w.base),
				  kvm_ooh_bit(w.base) / BITS_PER_LONG, w.mask);
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

/* The next word with frames that wait, at or after *i; they do not wait any more. */
static unsigned long kvm_ooh_next_waiting(struct kvm_ooh *ooh, struct kvm_ooh_chunk *chunk,
					  unsigned int *i)
{
	unsigned long flags, word = 0;

	raw_spin_lock_irqsave(&chunk->lock, flags);
	for (; !word; (*i)++) {
		*i = find_next_bit(chunk->words, KVM_OOH_CHUNK_WORDS, *i);
		if (*i == KVM_OOH_CHUNK_WORDS)
			break;
		__clear_bit(*i, chunk->words);
		word = chunk->waiting[*i];
		chunk->waiting[*i] = 0;
	}
	raw_spin_unlock_irqrestore(&chunk->lock, flags);
	atomic_long_sub(hweight_long(word), &ooh->waiting);
	return word;
}

/* False: there is no room for more. */
static bool kvm_ooh_take_chunk(struct kvm_ooh *ooh, struct kvm_ooh_chunk *chunk, gfn_t start,
			       u32 *n, u32 max)
{
	unsigned long word, rest;
	unsigned int i = 0;

	/* i is that of the word after the one that is returned. */
	while ((word = kvm_ooh_next_waiting(ooh, chunk, &i))) {
		rest = kvm_ooh_take_word(ooh, n, max, start + (i - 1) * BITS_PER_LONG, word);
		if (rest) {
			kvm_ooh_wait_word(ooh, chunk, i - 1, rest);
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
