/* SPDX-License-Identifier: GPL-2.0 */
/*
 * KVM Span: watches, and the masks that they put on the guest's pages.
 *
 * A page of the guest is named by its offset in the memfd, in pages. Each watch
 * keeps what it wants of each page in bitmaps of its own; the masks of the span
 * are the union over all watches and are what the MMU looks at.
 *
 * slot.c   which memory slots of which VMs show the guest's memory
 * mask.c   the bitmaps, and the MMU's questions
 * log.c    which pages were written
 * watch.c  the object and its calls
 * event.c  accesses that wait, and the verdicts; with it fault.c, entry.c,
 *          emulated.c, lift.c and notice.c, see event.h
 * ring.c   messages to and from the holder of the member fd
 */
#ifndef KVM_SPAN_WATCH_H
#define KVM_SPAN_WATCH_H

#include <linux/kvm_host.h>
#include "span.h"

#define KVM_SPAN_ACCESS_RWX	(KVM_SPAN_ACCESS_R | KVM_SPAN_ACCESS_W | KVM_SPAN_ACCESS_X)

/* Why a watch masks an access. */
enum kvm_span_why {
	KVM_SPAN_WHY_BLOCK,
	KVM_SPAN_WHY_NOTIFY,
	KVM_SPAN_WHY_PROTECT,
	KVM_SPAN_NR_WHY,
};

/* So many answers in a row that did not come in time mute a watch. */
#define KVM_SPAN_MUTE_AFTER	3

/*
 * Its place in span->watch[] holds a reference, and so does a call that uses it
 * outside of span->control.
 */
struct kvm_span_watch {
	struct kref ref;
	struct kvm_span_member *member;	/* constant, the watch ends before it */
	u32 id;				/* constant, 1..KVM_SPAN_MAX_WATCHES */
	unsigned int index;		/* constant, in span->watch[] */
	u32 deadline_us;		/* constant */
	u32 on_timeout;			/* constant */

	/*
	 * A bit for each page of the guest. Allocated when first needed, under
	 * span->control, and freed after the watch has left span->watch[] and
	 * an RCU grace period has passed. Bits change under span->mask_lock.
	 */
	unsigned long *masked[KVM_SPAN_NR_WHY][KVM_SPAN_NR_ACCESS];
	unsigned long *logging;		/* pages under the log */
	unsigned long *written;		/* the log; atomic bit operations */
	unsigned long *blocks;		/* of 2 MiB, taken apart for it; control */

	/* Under the lock of span->events. */
	unsigned int timeouts_in_a_row;
	bool muted;
	unsigned int violations_told;	/* since then */
	ktime_t violations_since;

	atomic64_t events;
	atomic64_t notices;
	atomic64_t violations;
	atomic64_t allowed;
	atomic64_t denied;
	atomic64_t timeouts;
	atomic64_t stale;
	atomic64_t lost;
	atomic64_t logged;
	atomic64_t fetched;
};

static inline struct kvm_span *kvm_span_watch_span(const struct kvm_span_watch *watch)
{
	return watch->member->span;
}

static inline u64 kvm_span_pages(const struct kvm_span *span)
{
	return span->bytes >> PAGE_SHIFT;
}

/* The page of the guest that a slot shows at gfn; only where slot->arch.span is set. */
static inline u64 kvm_span_slot_page(const struct kvm_memory_slot *slot, gfn_t gfn)
{
	return slot->arch.span_page + (gfn - slot->base_gfn);
}

/*
 * A VM that has slots of the span. Stays in the list while it has one, or a
 * walk is at it. The slots keep the VM's structure, not the VM, alive.
 */
struct kvm_span_vm {
	struct list_head node;		/* in span->vms; all of it under vms_lock */
	struct kvm *kvm;
	unsigned int slots;
	unsigned int walks;
	bool logging;			/* counted in kvm->arch.span.logs */
	struct work_struct put;		/* a walk was left with the last reference */
	struct kvm_span *span;		/* of that work */
};

/* slot.c: another number after any slot of any span came or went */
extern atomic_t kvm_span_layout;

/*
 * slot.c. zap: takes the pages out of the EPTs of all VMs and returns when no
 * TLB has them any more. next: the walk over the VMs; each is referenced until
 * the next call, none of our locks is held in between.
 */
void kvm_span_zap(struct kvm_span *span, u64 first, u64 pages);
struct kvm_span_vm *kvm_span_vm_next(struct kvm_span *span, struct kvm_span_vm *vm);
void kvm_span_vms_logging(struct kvm_span *span, bool on);

#define kvm_span_for_each_vm(vm, span) \
	for (vm = kvm_span_vm_next(span, NULL); vm; vm = kvm_span_vm_next(span, vm))

/* The pages of a slot that are within [first, last] of the guest's memory. */
static inline bool kvm_span_slot_part(const struct kvm_memory_slot *slot,
				      struct kvm_span *span, u64 first, u64 last,
				      gfn_t *start, gfn_t *end)
{
	u64 from = slot->arch.span_page, to = from + slot->npages - 1;

	if (slot->arch.span != span || from > last || to < first)
		return false;
	*start = slot->base_gfn + (max(first, from) - from);
	*end = slot->base_gfn + (min(last, to) - from) + 1;
	return true;
}

/*
 * mask.c. The watch is in span->watch[]. set: the caller holds span->control;
 * allocates (-ENOMEM), and has taken effect in every VM and TLB when it returns
 * 0. clear: span->control held, cannot fail; lets 2 MiB mappings come back.
 * lift: one page, any context; the fault that comes anew builds the wider entry.
 * drop: the watch has been taken out of span->watch[], span->control is still
 * held: none of its masks nor its log has an effect any longer. free: an RCU
 * grace period later.
 */
int kvm_span_mask_set(struct kvm_span_watch *watch, enum kvm_span_why why,
		      u32 access, u64 first, u64 pages);
int kvm_span_mask_bits(struct kvm_span_watch *watch, enum kvm_span_why why, u32 access,
		       u64 first, u64 pages, bool *changed);
void kvm_span_mask_clear(struct kvm_span_watch *watch, enum kvm_span_why why,
			 u32 access, u64 first, u64 pages);
void kvm_span_mask_lift(struct kvm_span_watch *watch, enum kvm_span_why why,
			u32 access, u64 page);
/* What is masked on a page; but not what a member's own subscriptions mask. */
u32 kvm_span_mask_of(struct kvm_span *span, u64 page,
		     const struct kvm_span_member *except);
void kvm_span_mask_drop(struct kvm_span_watch *watch);
void kvm_span_mask_free(struct kvm_span_watch *watch);
bool kvm_span_split(struct kvm_span *span, u64 first, u64 pages);

/* mask.c for log.c; span->control held. */
int kvm_span_bitmap_need(struct kvm_span *span, unsigned long **bitmap);
int kvm_span_logging_set(struct kvm_span_watch *watch, u64 first, u64 pages);
void kvm_span_logging_clear(struct kvm_span_watch *watch, u64 first, u64 pages);

/*
 * log.c. start and stop: span->control held. fetch: without it, but the watch
 * stays; copies the ranges and *arg to the user, sleeping. written: any context,
 * also atomic; puts the page into every log that covers it.
 */
int kvm_span_log_start(struct kvm_span_watch *watch, u64 first, u64 pages);
void kvm_span_log_stop(struct kvm_span_watch *watch, u64 first, u64 pages);
long kvm_span_log_fetch(struct kvm_span_watch *watch, struct kvm_span_log_fetch *arg,
			void __user *uarg);
void kvm_span_log_written(struct kvm_span *span, u64 page);
void kvm_span_log_dropped(struct kvm_span_watch *watch);
u64 kvm_span_log_features(void);

/* Must the next write to the page be told to a log? */
static inline bool kvm_span_log_armed(struct kvm_span *span, u64 page)
{
	unsigned long *armed = READ_ONCE(span->armed);

	return armed && test_bit(page, armed);
}

/* watch.c. may: 0, or why the member may have no watches. */
int kvm_span_watch_may(struct kvm_span_member *member);
long kvm_span_watch_ioctl(struct kvm_span_member *member, unsigned int nr,
			  void __user *uarg);
long kvm_span_watch_answer(struct kvm_span_member *member, u32 id, u64 event, u32 verdict,
			   u32 flags);
void kvm_span_watch_end_all(struct kvm_span_member *member);

/* The accesses to a page that a watch masks for one reason. Under RCU. */
u32 kvm_span_masked_why(const struct kvm_span_watch *watch, enum kvm_span_why why,
			u64 page);

/*
 * event.c, notice.c, lift.c. wrote: a write by KVM that has happened already, any
 * context; told to subscribers as a notice. unlift and release, with span->control held: the watch
 * does not want to mask these pages again after they were opened for a moment;
 * nor to be waited for.
 */
void kvm_span_event_wrote(struct kvm_span *span, const struct kvm_memory_slot *slot,
			  u64 page);
long kvm_span_event_written(struct kvm_span *span, void __user *uarg);
long kvm_span_event_answer(struct kvm_span_watch *watch, u64 event, u32 verdict,
			   u32 flags);
void kvm_span_event_unlift(struct kvm_span_watch *watch, u32 access, u64 first, u64 pages);
void kvm_span_event_renew(struct kvm_span_watch *watch, u64 first, u64 pages);
void kvm_span_event_renewed(struct kvm_span_watch *watch, u64 first, u64 pages);
void kvm_span_event_release(struct kvm_span_watch *watch, u32 access, u64 first, u64 pages);
void kvm_span_event_forget(struct kvm_span_watch *watch);
void kvm_span_event_stats(struct kvm_span *span, struct kvm_span_stats *stats);
int kvm_span_event_init(struct kvm_span *span);
void kvm_span_event_exit(struct kvm_span *span);

/* ring.c */
struct span_msg_event;
long kvm_span_ring_setup(struct kvm_span_member *member, void __user *uarg);
int kvm_span_ring_mmap(struct kvm_span_member *member, struct vm_area_struct *vma);
bool kvm_span_ring_put(struct kvm_span_watch *watch, const struct span_msg_event *event);
void kvm_span_ring_lost(struct kvm_span_watch *watch);
void kvm_span_ring_signal(struct kvm_span_member *member);
void kvm_span_ring_end(struct kvm_span_member *member);
void kvm_span_ring_free(struct kvm_span_member *member);

#endif
