// SPDX-License-Identifier: GPL-2.0
/*
 * Out of Hypervisor: the hypercall, and the ring in the guest's memory. Whatever
 * the guest writes into its ring harms nobody but itself: the host keeps what
 * waits in bitmaps of its own, and reads nothing of the ring but head and tail.
 */
#include <linux/uaccess.h>

#include "x86.h"
#include "mmu.h"
#include "span_hooks.h"
#include "ooh.h"
#include "ooh_hooks.h"

#define KVM_OOH_PER_PAGE	(PAGE_SIZE / sizeof(u64))

/* So many frames are enough for one call. */
#define KVM_OOH_CALL_PAGES	(4 * KVM_OOH_MAX_PAGES)

static bool kvm_ooh_is_ram(struct kvm *kvm, gfn_t gfn, u64 pages)
{
	gfn_t end = gfn + pages;
	struct kvm_memory_slot *slot;

	for (; gfn < end; gfn = slot->base_gfn + slot->npages) {
		slot = gfn_to_memslot(kvm, gfn);
		if (!kvm_is_visible_memslot(slot) || (slot->flags & KVM_MEM_READONLY))
			return false;
	}
	return true;
}

/* The ring. */

static u32 kvm_ooh_ring_size(u64 ring)
{
	u32 order = (ring & KVM_OOH_RING_ORDER_MASK) >> KVM_OOH_RING_ORDER_SHIFT;

	return KVM_OOH_PER_PAGE << order;
}

int kvm_ooh_ring_begin(struct kvm_vcpu *vcpu, struct kvm_ooh *ooh, u64 ring)
{
	u32 size = kvm_ooh_ring_size(ring);
	struct kvm_ooh_ring *header;
	gpa_t gpa = ring & PAGE_MASK;
	int r;

	if (!kvm_ooh_is_ram(vcpu->kvm, gpa_to_gfn(gpa), 1 + size / KVM_OOH_PER_PAGE))
		return -EFAULT;
	header = kzalloc(sizeof(*header), GFP_KERNEL_ACCOUNT);
	if (!header)
		return -ENOMEM;
	BUILD_BUG_ON(sizeof(*header) != PAGE_SIZE);
	header->version = KVM_OOH_RING_VERSION;
	header->size = size;
	header->info = READ_ONCE(ooh->info);
	r = kvm_write_guest(vcpu->kvm, gpa, header, sizeof(*header));
	kfree(header);
	return r;
}

/* The header, where it is mapped. The guest may have its memory slot deleted. */
static struct kvm_ooh_ring __user *kvm_ooh_header(struct kvm_ooh *ooh)
{
	gfn_t gfn = gpa_to_gfn(ooh->ring);
	struct kvm_memory_slot *slot = gfn_to_memslot(ooh->kvm, gfn);
	unsigned long hva = gfn_to_hva_memslot(slot, gfn);

	if (kvm_is_error_hva(hva) || kvm_span_denies(slot, gfn, KVM_SPAN_ACCESS_W))
		return NULL;
	return (struct kvm_ooh_ring __user *)hva;
}

/* The guest clears bits of it at the same time, but not all the time. */
static int kvm_ooh_set_flag(struct kvm_ooh_ring __user *header, u32 flag)
{
	int r, tries = 100;
	u32 old;

	if (get_user(old, &header->flags))
		return -EFAULT;
	/* 1: the guest has changed it, old is what it is now. */
	do {
		r = __try_cmpxchg_user(&header->flags, &old, old | flag, err_access);
		cond_resched();
	} while (r > 0 && --tries);
	return r ? -EFAULT : 0;
}

/*
 * What the guest is to know besides frames. A VM some of whose vCPUs run on other
 * hypervisors is not told of their writes.
 */
static int kvm_ooh_say(struct kvm_ooh *ooh, struct kvm_ooh_ring __user *header)
{
	u32 past = atomic_xchg(&ooh->info_past, 0), generation;

	if (put_user(past | READ_ONCE(ooh->info), &header->info))
		goto err_past;
	if (!ooh->all_dirty && !READ_ONCE(ooh->kvm->arch.span.away))
		return 0;
	if (get_user(generation, &header->generation) ||
	    put_user(generation + 1, &header->generation) ||
	    kvm_ooh_set_flag(header, KVM_OOH_ALL_DIRTY))
		goto err_past;
	WRITE_ONCE(ooh->all_dirty, false);
	atomic64_inc(&ooh->all_dirties);
	return 0;

err_past:
	/* For the next fetch. */
	atomic_or(past, &ooh->info_past);
	return -EFAULT;
}

/* Entries for the ranges in batch: in two pieces where the ring begins anew. */
static int kvm_ooh_put_entries(struct kvm_ooh *ooh, u32 head, u32 n)
{
	gpa_t gpa = (ooh->ring & PAGE_MASK) + PAGE_SIZE;
	u32 size = kvm_ooh_ring_size(ooh->ring), at = head & (size - 1);
	u32 i, first = min(n, size - at);
	int r;

	for (i = 0; i < n; i++)
		ooh->entries[i] = ooh->batch[i].gfn |
				  (ooh->batch[i].pages - 1) << KVM_OOH_ENTRY_PAGES_SHIFT;
	r = kvm_write_guest(ooh->kvm, gpa + at * sizeof(u64), ooh->entries, first * sizeof(u64));
	if (!r && first < n)
		r = kvm_write_guest(ooh->kvm, gpa, ooh->entries + first,
				    (n - first) * sizeof(u64));
	return r;
}

/* Fetch. */

static u64 kvm_ooh_pages_of(const struct kvm_ooh_range *ranges, u32 n)
{
	u64 pages = 0;

	while (n--)
		pages += ranges++->pages;
	return pages;
}

/* One batch. Returns how many entries were put, or an error. */
static int kvm_ooh_fetch_some(struct kvm_ooh *ooh, struct kvm_ooh_ring __user *header, u32 head,
			      u32 max, bool rearm)
{
	u32 n = kvm_ooh_take(ooh, max);
	u64 pages = kvm_ooh_pages_of(ooh->batch, n);

	if (!n)
		return 0;
	if (rearm) {
		kvm_ooh_rearm(ooh, ooh->batch, n);
		atomic64_add(pages, &ooh->rearms);
	}
	if (kvm_ooh_put_entries(ooh, head, n))
		goto err_put_back;
	/* The entries, then that they are there. */
	smp_wmb();
	if (put_user(head + n, &header->head))
		goto err_put_back;
	atomic64_add(pages, &ooh->fetched);
	return n;

err_put_back:
	kvm_ooh_put_back(ooh, ooh->batch, n);
	return -EFAULT;
}

static long __kvm_ooh_fetch(struct kvm_ooh *ooh, u64 flags)
{
	struct kvm_ooh_ring __user *header = kvm_ooh_header(ooh);
	u32 size = kvm_ooh_ring_size(ooh->ring), head, tail, max;
	int n;

	if (!header || get_user(head, &header->head) || get_user(tail, &header->tail))
		return -KVM_EFAULT;
	if (head - tail > size)
		return -KVM_EINVAL;
	if (kvm_ooh_say(ooh, header))
		return -KVM_EFAULT;
	atomic64_inc(&ooh->fetches);
	kvm_ooh_flush(ooh);
	do {
		max = min(size - (head - tail), (u32)KVM_OOH_BATCH);
		n = max ? kvm_ooh_fetch_some(ooh, header, head, max, flags & KVM_OOH_REARM) : 0;
		if (n < 0)
			return -KVM_EFAULT;
		head += n;
		cond_resched();
	} while (n == KVM_OOH_BATCH && !signal_pending(current));
	mark_page_dirty(ooh->kvm, gpa_to_gfn(ooh->ring));
	/* A whole look found no more: what was written since is for another fetch. */
	return n < max ? 0 : min_t(u64, atomic_long_read(&ooh->waiting), INT_MAX);
}

/* Of what a fetch takes nobody is told; of what waits when it is done, yes. */
static long kvm_ooh_fetch(struct kvm_ooh *ooh, u64 flags)
{
	long r;

	atomic_set(&ooh->tell, 0);
	r = __kvm_ooh_fetch(ooh, flags);
	atomic_set(&ooh->tell, 1);
	kvm_ooh_tell_waiting(ooh);
	return r;
}

/* Lists of ranges. */

static bool kvm_ooh_range_valid(struct kvm *kvm, const struct kvm_ooh_range *range, bool arm)
{
	if (!range->pages || range->pages > KVM_OOH_MAX_PAGES || range->gfn > kvm_mmu_max_gfn() ||
	    range->pages - 1 > kvm_mmu_max_gfn() - range->gfn)
		return false;
	return !arm || kvm_ooh_is_ram(kvm, range->gfn, range->pages);
}

/* How many of the first n in batch can be done, and are enough. */
static u32 kvm_ooh_ranges_good(struct kvm_ooh *ooh, u32 n, u64 *pages, bool arm)
{
	u32 i;

	for (i = 0; i < n && *pages < KVM_OOH_CALL_PAGES; i++) {
		if (!kvm_ooh_range_valid(ooh->kvm, &ooh->batch[i], arm))
			break;
		*pages += ooh->batch[i].pages;
	}
	return i;
}

/* The first n in batch. */
static int kvm_ooh_ranges_do(struct kvm_ooh *ooh, u32 n, bool arm)
{
	u32 i;

	if (arm) {
		if (kvm_ooh_arm(ooh, ooh->batch, n))
			return -KVM_OOH_ENOMEM;
		atomic64_add(kvm_ooh_pages_of(ooh->batch, n), &ooh->arms);
		return 0;
	}
	for (i = 0; i < n; i++)
		kvm_ooh_forget(ooh, ooh->batch[i].gfn, ooh->batch[i].pages);
	return 0;
}

static long kvm_ooh_ranges(struct kvm_ooh *ooh, gpa_t gpa, u64 count, bool arm)
{
	const u32 size = sizeof(struct kvm_ooh_range);
	u32 n, good, done;
	u64 pages = 0;
	int r = 0;

	if (count > KVM_OOH_MAX_RANGES)
		return -KVM_E2BIG;
	if (gpa & 7)
		return -KVM_EINVAL;
	for (done = 0; done < count && pages < KVM_OOH_CALL_PAGES; done += good) {
		n = min_t(u32, count - done, KVM_OOH_BATCH);
		if (kvm_read_guest(ooh->kvm, gpa + done * size, ooh->batch, n * size)) {
			r = -KVM_EFAULT;
			break;
		}
		good = kvm_ooh_ranges_good(ooh, n, &pages, arm);
		r = good ? kvm_ooh_ranges_do(ooh, good, arm) : -KVM_EINVAL;
		if (r)
			break;
		if (signal_pending(current)) {
			done += good;
			break;
		}
	}
	return done ?: r;
}

static long kvm_ooh_stats(struct kvm_ooh *ooh, gpa_t gpa)
{
	struct kvm_ooh_stats stats = {
		.arms = atomic64_read(&ooh->arms),
		.rearms = atomic64_read(&ooh->rearms),
		.fetches = atomic64_read(&ooh->fetches),
		.fetched = atomic64_read(&ooh->fetched),
		.by_pml = atomic64_read(&ooh->by_pml),
		.by_fault = atomic64_read(&ooh->by_fault),
		.by_user = atomic64_read(&ooh->by_user),
		.pml_full = atomic64_read(&ooh->pml_full),
		.interrupts = atomic64_read(&ooh->interrupts),
		.all_dirty = atomic64_read(&ooh->all_dirties),
	};

	return kvm_write_guest(ooh->kvm, gpa, &stats, sizeof(stats)) ? -KVM_EFAULT : 0;
}

/* ooh->lock is held, and kvm->srcu for read. */
long kvm_ooh_call(struct kvm_ooh *ooh, u64 op, u64 a1, u64 a2, u64 a3)
{
	bool list = op == KVM_OOH_ARM || op == KVM_OOH_DISARM;

	if ((!list && a2) || (!list && op != KVM_OOH_STATS && a1))
		return -KVM_EINVAL;
	if (a3 & ~(u64)(op == KVM_OOH_FETCH ? KVM_OOH_REARM : 0))
		return -KVM_EINVAL;
	if (op == KVM_OOH_STATS)
		return kvm_ooh_stats(ooh, a1);
	if (!kvm_ooh_on(ooh))
		return -KVM_OOH_ENXIO;
	switch (op) {
	case KVM_OOH_ARM:
	case KVM_OOH_DISARM:
		return kvm_ooh_ranges(ooh, a1, a2, op == KVM_OOH_ARM);
	case KVM_OOH_FETCH:
		return kvm_ooh_fetch(ooh, a3);
	default:
		kvm_ooh_forget_all(ooh);
		return 0;
	}
}
