// SPDX-License-Identifier: GPL-2.0
/*
 * KVM Span: which pages of the guest were written.
 *
 * Each log is a bitmap of its own. A page is armed while some log of it lacks
 * the page: then its next write is to be heard of, in one of three ways:
 *
 * - The entry is writable, its D bit is withheld, and the vCPU's page-modification
 *   log says when the processor sets it. EPT of the guest and of an L1.
 * - The same, and the D bit is looked at by each fetch and when the entry goes.
 *   Shadows of an L1's table: there the log would name addresses of the nested
 *   guest, which nobody can translate any more once the entry is gone.
 * - The entry is not writable, and a fault says so. Where D bits do not work.
 *
 * A page that is not armed is in every log of it, or in the answer that a fetch is
 * just putting together:
 *
 * - a write takes the page out of armed first, then puts it into the logs;
 * - a fetch takes the page out of the log first, then arms it, then sees to it
 *   that entries and TLBs do not let a write pass unheard, then answers.
 */
#include <linux/bitmap.h>
#include <linux/mm.h>
#include <linux/rcupdate.h>
#include <linux/slab.h>
#include <linux/uaccess.h>

#include "x86.h"
#include "mmu.h"
#include "mmu/mmu_internal.h"
#include "mmu/spte.h"
#include "mmu/tdp_mmu.h"
#include "dirty.h"
#include "watch.h"
#include "span_hooks.h"
#include "trace.h"

#define KVM_SPAN_FETCH_MAX	65536	/* ranges of one call */

u64 kvm_span_log_features(void)
{
	u64 features = KVM_SPAN_FEATURE_LOG;

	if (kvm_x86_ops.cpu_dirty_log_size)
		features |= KVM_SPAN_FEATURE_PML;
	if (tdp_enabled && kvm_ad_enabled())
		features |= KVM_SPAN_FEATURE_NESTED_PML;
	return features;
}

/* Others change bits of the same words meanwhile. */
static void kvm_span_bits_or(unsigned long *bits, u64 first, u64 end)
{
	for (; first < end; first = kvm_dirty_next_word(first))
		atomic_long_or(kvm_dirty_word_mask(first, end), kvm_dirty_word(bits, first));
}

static void kvm_span_bits_andnot(unsigned long *bits, u64 first, u64 end)
{
	for (; first < end; first = kvm_dirty_next_word(first))
		atomic_long_andnot(kvm_dirty_word_mask(first, end), kvm_dirty_word(bits, first));
}

/* For the MMU. */

/* Does the D bit of entries of such a table tell of writes? */
bool kvm_span_log_by_dirty(union kvm_mmu_page_role role, bool tdp_mmu)
{
	if (role.ad_disabled || !tdp_enabled || !kvm_ad_enabled())
		return false;
	/*
	 * The fetch finds entries by their rmaps. Of the TDP MMU is the table of a
	 * nested guest whose L1 has no EPT for it.
	 */
	if (role.guest_mode)
		return !tdp_mmu;
	return kvm_x86_ops.cpu_dirty_log_size;
}

/* Put a page into the logs of it. */
static void kvm_span_log_add(struct kvm_span *span, u64 page,
			     const struct kvm_span_watch *except)
{
	struct kvm_span_watch *watch;
	unsigned long *bits;
	int i;

	rcu_read_lock();
	for (i = 0; i < KVM_SPAN_SPAN_WATCHES; i++) {
		watch = rcu_dereference(span->watch[i]);
		bits = watch && watch != except ? READ_ONCE(watch->logging) : NULL;
		if (!bits || !test_bit(page, bits) || test_and_set_bit(page, watch->written))
			continue;
		atomic64_inc(&watch->logged);
		atomic64_inc(&span->pages_logged);
	}
	rcu_read_unlock();
}

/* Put a page that was written into the logs. Any context. */
void kvm_span_log_written(struct kvm_span *span, u64 page)
{
	/* What was written, then the look at armed; pairs with the one of a fetch. */
	smp_mb();
	if (kvm_span_log_armed(span, page) && test_and_clear_bit(page, span->armed))
		kvm_span_log_add(span, page, NULL);
}

/*
 * For mark_page_dirty_in_slot(): any context, also with interrupts off. KVM marks
 * pages whose write failed, too (steal time): not those that could not be written.
 * What a vCPU wrote before its window was taken away is known from the D bits.
 */
void __kvm_span_wrote(const struct kvm_memory_slot *slot, gfn_t gfn)
{
	struct kvm_span *span = kvm_span_watched(slot);
	const struct kvm_span_member *member;
	u64 page;

	if (likely(!span))
		return;
	member = slot->arch.span_member;
	page = kvm_span_slot_page(slot, gfn);
	if (member && (READ_ONCE(member->state) != KVM_SPAN_JOINED ||
		       !(member->access & KVM_SPAN_ACCESS_W)))
		return;
	kvm_span_log_written(span, page);
	kvm_span_event_wrote(span, slot, page);
}

/* Start and stop. */

/*
 * The page-modification log is on in every VM before the first page can be
 * armed: pages are armed by fetches of logs that have them.
 */
int kvm_span_log_start(struct kvm_span_watch *watch, u64 first, u64 pages)
{
	struct kvm_span *span = kvm_span_watch_span(watch);
	bool was = span->logging;
	int r;

	lockdep_assert_held(&span->control);
	r = kvm_span_bitmap_need(span, &span->armed);
	if (!r)
		r = kvm_span_bitmap_need(span, &watch->written);
	if (r)
		return r;
	if (!was)
		kvm_span_vms_logging(span, true);
	/* All of it is in the log at first; a page that is not under it yet says nothing. */
	kvm_span_bits_or(watch->written, first, first + pages);
	r = kvm_span_logging_set(watch, first, pages);
	if (r && !was)
		kvm_span_vms_logging(span, false);
	return r;
}

/* Pages that no log has any more are not armed. */
static void kvm_span_log_disarm(struct kvm_span *span, u64 first, u64 pages)
{
	u64 end = first + pages, word = round_down(first, BITS_PER_LONG);

	lockdep_assert_held(&span->fetch_lock);
	for (; word < end; word += BITS_PER_LONG) {
		atomic_long_and(READ_ONCE(span->logged[word / BITS_PER_LONG]),
				kvm_dirty_word(span->armed, word));
		if (!(word % (1 << 20)))
			cond_resched();
	}
}

static void kvm_span_log_maybe_off(struct kvm_span *span)
{
	if (span->logging && find_first_bit(span->logged, kvm_span_pages(span)) >=
	    kvm_span_pages(span))
		kvm_span_vms_logging(span, false);
}

void kvm_span_log_stop(struct kvm_span_watch *watch, u64 first, u64 pages)
{
	struct kvm_span *span = kvm_span_watch_span(watch);

	lockdep_assert_held(&span->control);
	if (!watch->logging)
		return;
	/* No fetch is taking bits, or will once they are gone. */
	mutex_lock(&span->fetch_lock);
	kvm_span_logging_clear(watch, first, pages);
	kvm_span_bits_andnot(watch->written, first, first + pages);
	kvm_span_log_disarm(span, first, pages);
	mutex_unlock(&span->fetch_lock);
	kvm_span_log_maybe_off(span);
}

/* For kvm_span_mask_drop(): the watch is out of span->watch[], so of the unions. */
void kvm_span_log_dropped(struct kvm_span_watch *watch)
{
	struct kvm_span *span = kvm_span_watch_span(watch);

	lockdep_assert_held(&span->control);
	if (!watch->logging)
		return;
	mutex_lock(&span->fetch_lock);
	/* A fetch that comes later finds nothing to take. */
	bitmap_zero(watch->logging, kvm_span_pages(span));
	kvm_span_log_disarm(span, 0, kvm_span_pages(span));
	mutex_unlock(&span->fetch_lock);
	kvm_span_log_maybe_off(span);
}

/* Fetch. */

struct kvm_span_fetch {
	struct kvm_span_log_range *ranges;
	u32 max;
	u32 count;
	u64 dirty;
	u64 next;
};

/* Add one run of pages; false if there is no room for it. */
static bool kvm_span_fetch_run(struct kvm_span_fetch *f, u64 first, u64 pages)
{
	struct kvm_span_log_range *last = f->count ? &f->ranges[f->count - 1] : NULL;

	if (last && last->first + last->pages == first) {
		last->pages += pages;
	} else {
		if (f->count == f->max)
			return false;
		f->ranges[f->count++] = (struct kvm_span_log_range){ first, pages };
	}
	f->dirty += pages;
	return true;
}

/* Add the runs of one word; returns the bits of it that found room. */
static unsigned long kvm_span_fetch_word(struct kvm_span_fetch *f, u64 base,
					 unsigned long word)
{
	unsigned int from, to;

	for (from = find_next_bit(&word, BITS_PER_LONG, 0); from < BITS_PER_LONG;
	     from = find_next_bit(&word, BITS_PER_LONG, to)) {
		to = find_next_zero_bit(&word, BITS_PER_LONG, from);
		if (!kvm_span_fetch_run(f, base + from, to - from)) {
			f->next = base + from;
			return from ? word & BITMAP_LAST_WORD_MASK(from) : 0;
		}
	}
	return word;
}

/* Take pages out of the log. fetch_lock keeps other takers away. */
static void kvm_span_fetch_take(struct kvm_span_watch *watch, struct kvm_span_fetch *f,
				u64 first, u64 end)
{
	unsigned long word, taken;
	u64 at, n;

	f->next = end;
	for (at = first; at < end; at = n) {
		n = kvm_dirty_next_word(at);
		if (!(n % (1 << 20)))
			cond_resched();
		word = READ_ONCE(watch->written[at / BITS_PER_LONG]) &
		       READ_ONCE(watch->logging[at / BITS_PER_LONG]) &
		       kvm_dirty_word_mask(at, end);
		if (!word)
			continue;
		taken = kvm_span_fetch_word(f, round_down(at, BITS_PER_LONG), word);
		if (taken)
			atomic_long_andnot(taken, kvm_dirty_word(watch->written, at));
		if (taken != word)
			return;
	}
}

static void kvm_span_fetch_put_back(struct kvm_span_watch *watch,
				    const struct kvm_span_fetch *f)
{
	u32 i;

	for (i = 0; i < f->count; i++)
		kvm_span_bits_or(watch->written, f->ranges[i].first,
				 f->ranges[i].first + f->ranges[i].pages);
}

/*
 * D bits in shadows of an L1's table: what they tell, and clear them. A write
 * since the page was armed is known to nobody else. The log that has just given
 * the page away need not hear of it, the write is in its answer. mmu_lock is
 * held for write.
 */
static void kvm_span_rearm_rmaps(struct kvm_span_watch *watch, struct kvm_memory_slot *slot,
				 gfn_t start, gfn_t end)
{
	gfn_t gfn;

	for (gfn = start; gfn < end; gfn++)
		if (kvm_span_rmap_dirty(slot, gfn, true))
			kvm_span_log_add(kvm_span_watch_span(watch),
					 kvm_span_slot_page(slot, gfn), watch);
}

/*
 * Let the next write to each of these pages be heard of. mmu_lock is held for
 * write, and may be dropped meanwhile.
 */
static void kvm_span_rearm_gfns(struct kvm *kvm, struct kvm_memory_slot *slot,
				struct kvm_span_watch *watch, gfn_t start, gfn_t end)
{
	gfn_t at, next, base = slot->base_gfn;

	kvm_dirty_small(kvm, slot, start, end);
	for (at = start; at < end; at = next) {
		next = min(end, base + kvm_dirty_next_word(at - base));
		kvm_dirty_clear(kvm, slot, base + round_down(at - base, BITS_PER_LONG),
				kvm_dirty_word_mask(at - base, next - base));
		if (kvm_memslots_have_rmaps(kvm))
			kvm_span_rearm_rmaps(watch, slot, at, next);
		if (need_resched() || rwlock_needbreak(&kvm->mmu_lock)) {
			kvm_flush_remote_tlbs(kvm);
			cond_resched_rwlock_write(&kvm->mmu_lock);
		}
	}
}

static void kvm_span_rearm_slot(struct kvm *kvm, struct kvm_memory_slot *slot,
				struct kvm_span_watch *watch, const struct kvm_span_fetch *f)
{
	const struct kvm_span_log_range *range;
	gfn_t start, end;
	u32 i;

	for (i = 0; i < f->count; i++) {
		range = &f->ranges[i];
		if (kvm_span_slot_part(slot, kvm_span_watch_span(watch), range->first,
				       range->first + range->pages - 1, &start, &end))
			kvm_span_rearm_gfns(kvm, slot, watch, start, end);
	}
}

static void kvm_span_rearm_vm(struct kvm *kvm, struct kvm_span_watch *watch,
			      const struct kvm_span_fetch *f)
{
	struct kvm_memory_slot *slot;
	int as_id, bkt, idx;

	idx = srcu_read_lock(&kvm->srcu);
	write_lock(&kvm->mmu_lock);
	for (as_id = 0; as_id < kvm_arch_nr_memslot_as_ids(kvm); as_id++)
		kvm_for_each_memslot(slot, bkt, __kvm_memslots(kvm, as_id))
			kvm_span_rearm_slot(kvm, slot, watch, f);
	/* Before the lock goes: see the comment at kvm_mmu_slot_apply_flags(). */
	kvm_flush_remote_tlbs(kvm);
	write_unlock(&kvm->mmu_lock);
	srcu_read_unlock(&kvm->srcu, idx);
}

static void kvm_span_rearm(struct kvm_span_watch *watch, const struct kvm_span_fetch *f)
{
	struct kvm_span *span = kvm_span_watch_span(watch);
	struct kvm_span_vm *vm;
	u32 i;

	if (!f->count)
		return;
	for (i = 0; i < f->count; i++)
		kvm_span_bits_or(span->armed, f->ranges[i].first,
				 f->ranges[i].first + f->ranges[i].pages);
	/*
	 * Armed first; then the slots (see kvm_span_zap()), and what was written
	 * by those who did not see it armed (see kvm_span_log_written()).
	 */
	smp_mb();
	kvm_span_for_each_vm(vm, span)
		kvm_span_rearm_vm(vm->kvm, watch, f);
}

/*
 * Writes of nested guests: armed pages whose entry in a shadow of an L1's table
 * has its D bit. rmaps change under mmu_lock held for write.
 */
static void kvm_span_harvest_slot(struct kvm *kvm, struct kvm_memory_slot *slot,
				  struct kvm_span *span, u64 first, u64 last)
{
	gfn_t start, end;
	u64 page, to;

	if (!kvm_span_slot_part(slot, span, first, last, &start, &end))
		return;
	page = kvm_span_slot_page(slot, start);
	to = page + (end - start);
	for (page = find_next_bit(span->armed, to, page); page < to;
	     page = find_next_bit(span->armed, to, page + 1)) {
		if (kvm_span_rmap_dirty(slot, slot->base_gfn + (page - slot->arch.span_page),
					false))
			kvm_span_log_written(span, page);
		cond_resched_rwlock_read(&kvm->mmu_lock);
	}
}

static void kvm_span_harvest_vm(struct kvm *kvm, struct kvm_span *span, u64 first, u64 last)
{
	struct kvm_memory_slot *slot;
	int as_id, bkt, idx;

	if (!tdp_enabled || !kvm_memslots_have_rmaps(kvm))
		return;
	idx = srcu_read_lock(&kvm->srcu);
	read_lock(&kvm->mmu_lock);
	for (as_id = 0; as_id < kvm_arch_nr_memslot_as_ids(kvm); as_id++)
		kvm_for_each_memslot(slot, bkt, __kvm_memslots(kvm, as_id))
			kvm_span_harvest_slot(kvm, slot, span, first, last);
	read_unlock(&kvm->mmu_lock);
	srcu_read_unlock(&kvm->srcu, idx);
}

static void kvm_span_harvest(struct kvm_span *span, u64 first, u64 last)
{
	struct kvm_span_vm *vm;

	kvm_span_for_each_vm(vm, span)
		kvm_span_harvest_vm(vm->kvm, span, first, last);
}

/*
 * What vCPUs have in their buffers gets into the logs when they leave the guest.
 * Once a millisecond at most: who fetches all the time must not keep others' vCPUs
 * from their work.
 */
static void kvm_span_log_kick(struct kvm_span *span)
{
	struct kvm_span_vm *vm;
	ktime_t now = ktime_get();

	lockdep_assert_held(&span->fetch_lock);
	if (!kvm_x86_ops.cpu_dirty_log_size ||
	    ktime_before(now, ktime_add_ms(span->kicked, 1)))
		return;
	kvm_span_for_each_vm(vm, span)
		kvm_make_all_cpus_request(vm->kvm, KVM_REQ_OUTSIDE_GUEST_MODE);
	span->kicked = now;
}

static int kvm_span_fetch_check(struct kvm_span *span, const struct kvm_span_log_fetch *arg)
{
	u64 all = kvm_span_pages(span);

	if (arg->flags || arg->pad || !arg->max || arg->max > KVM_SPAN_FETCH_MAX)
		return -EINVAL;
	if (!arg->pages || arg->first >= all || arg->pages > all - arg->first)
		return -EINVAL;
	return 0;
}

static int kvm_span_fetch_return(const struct kvm_span_fetch *f,
				 struct kvm_span_log_fetch *arg, void __user *uarg)
{
	if (copy_to_user(u64_to_user_ptr(arg->ranges), f->ranges,
			 f->count * sizeof(*f->ranges)))
		return -EFAULT;
	arg->next = f->next;
	arg->dirty = f->dirty;
	arg->count = f->count;
	return kvm_span_return_arg(uarg, arg, sizeof(*arg));
}

/* The caller keeps the watch, and holds no lock of ours: user memory may be slow. */
long kvm_span_log_fetch(struct kvm_span_watch *watch, struct kvm_span_log_fetch *arg,
			void __user *uarg)
{
	struct kvm_span *span = kvm_span_watch_span(watch);
	struct kvm_span_fetch f = { .max = arg->max, .next = arg->first + arg->pages };
	int r;

	r = kvm_span_fetch_check(span, arg);
	if (r)
		return r;
	f.ranges = kvmalloc_array(f.max, sizeof(*f.ranges), GFP_KERNEL_ACCOUNT);
	if (!f.ranges)
		return -ENOMEM;

	mutex_lock(&span->fetch_lock);
	/* Published after written and armed. */
	if (smp_load_acquire(&watch->logging)) {
		kvm_span_log_kick(span);
		kvm_span_harvest(span, arg->first, arg->first + arg->pages - 1);
		kvm_span_fetch_take(watch, &f, arg->first, arg->first + arg->pages);
		kvm_span_rearm(watch, &f);
	}
	mutex_unlock(&span->fetch_lock);

	r = kvm_span_fetch_return(&f, arg, uarg);
	if (r)
		kvm_span_fetch_put_back(watch, &f);
	else
		atomic64_add(f.dirty, &watch->fetched);
	trace_kvm_span_log_fetch(watch->member->id, watch->id, arg->first, f.next, f.count,
				 f.dirty);
	kvfree(f.ranges);
	return r;
}
