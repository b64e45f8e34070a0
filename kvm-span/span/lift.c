// SPDX-License-Identifier: GPL-2.0
/*
 * KVM Span: pages that are open for a moment
 *
 * What the emulator cannot do, the processor does with the page open. It is closed
 * again by a timer, in process context.
 */
#include <linux/sort.h>

#include "event.h"
#include "span_hooks.h"
#include "trace.h"

/* A page that was opened for an access is closed after this. */
#define KVM_SPAN_LIFT_NS	NSEC_PER_MSEC

/*
 * Open the page for what these watches allowed and want to hear of again, and
 * see to its being closed. Under events->lock and RCU.
 */
void kvm_span_lift(struct kvm_span_entry *e, u64 who)
{
	struct kvm_span_events *ev = e->span->events;
	struct kvm_span_watch *watch;
	unsigned int i;
	u32 masked;

	kvm_span_for_each_bit(i, who) {
		watch = kvm_span_watch_at(e->span, i);
		if (!watch)
			continue;
		masked = kvm_span_masked_why(watch, KVM_SPAN_WHY_BLOCK, e->page);
		if (masked & BIT(e->access))
			e->lifted |= BIT_ULL(i);
		if (masked & KVM_SPAN_ACCESS_R)
			e->lifted_read |= BIT_ULL(i);
		kvm_span_mask_lift(watch, KVM_SPAN_WHY_BLOCK, kvm_span_need(e->access), e->page);
	}
	atomic64_inc(&ev->lifted);
	trace_kvm_span_lift(e->id, e->page, BIT(e->access), who);
	kvm_span_entry_leave_vcpu(e);
	e->state = KVM_SPAN_LIFTED;
	e->until = ktime_add_ns(ktime_get(), KVM_SPAN_LIFT_NS);
	kvm_span_arm(ev, e->until);
}

/* The watch does not want these pages to be closed again. span->control is held. */
void kvm_span_event_unlift(struct kvm_span_watch *watch, u32 access, u64 first, u64 pages)
{
	struct kvm_span_events *ev = kvm_span_watch_span(watch)->events;
	u64 keep = ~BIT_ULL(watch->index);
	struct kvm_span_entry *e;

	spin_lock(&ev->lock);
	list_for_each_entry(e, &ev->entries, node) {
		if (e->page < first || e->page - first >= pages)
			continue;
		if (access & BIT(e->access))
			e->lifted &= keep;
		if (access & KVM_SPAN_ACCESS_R)
			e->lifted_read &= keep;
	}
	spin_unlock(&ev->lock);
}

/* A page that is being closed: its entry, which nobody else frees, and for whom. */
struct kvm_span_closing {
	struct kvm_span_entry *e;
	u64 lifted;
	u64 lifted_read;
};

/* Pages that are closed at a time. */
#define KVM_SPAN_CLOSE_MAX	32

/* Pages to close, at most KVM_SPAN_CLOSE_MAX. Under span->control. */
static unsigned int kvm_span_next_lifted(struct kvm_span_events *ev,
					 struct kvm_span_closing *list)
{
	ktime_t now = ktime_get();
	struct kvm_span_entry *e;
	unsigned int n = 0;

	spin_lock(&ev->lock);
	list_for_each_entry(e, &ev->entries, node) {
		if (n == KVM_SPAN_CLOSE_MAX)
			break;
		if (e->state != KVM_SPAN_LIFTED || e->until > now)
			continue;
		e->state = KVM_SPAN_CLOSING;
		list[n++] = (struct kvm_span_closing){ e, e->lifted, e->lifted_read };
	}
	spin_unlock(&ev->lock);
	return n;
}

/* Mask for these watches again. The bitmaps are there, so it cannot fail. */
static bool kvm_span_close_bits(struct kvm_span *span, const struct kvm_span_closing *c)
{
	struct kvm_span_watch *watch;
	bool changed = false;
	unsigned int i;
	u32 access;

	kvm_span_for_each_bit(i, c->lifted | c->lifted_read) {
		watch = kvm_span_watch_at(span, i);
		if (!watch)
			continue;
		access = (c->lifted & BIT_ULL(i) ? BIT(c->e->access) : 0) |
			 (c->lifted_read & BIT_ULL(i) ? KVM_SPAN_ACCESS_R : 0);
		WARN_ON_ONCE(kvm_span_mask_bits(watch, KVM_SPAN_WHY_BLOCK, access, c->e->page, 1,
						&changed));
	}
	return changed;
}

/* One may have cancelled meanwhile, by an answer to another access. */
static void kvm_span_closed(struct kvm_span_events *ev, const struct kvm_span_closing *c)
{
	struct kvm_span_entry *e = c->e;
	struct kvm_span_watch *watch;
	unsigned int i;

	spin_lock(&ev->lock);
	kvm_span_for_each_bit(i, (c->lifted & ~e->lifted) | (c->lifted_read & ~e->lifted_read)) {
		watch = kvm_span_watch_at(ev->span, i);
		if (watch)
			kvm_span_mask_lift(watch, KVM_SPAN_WHY_BLOCK, KVM_SPAN_ACCESS_RWX,
					   e->page);
	}
	kvm_span_entry_free(e);
	spin_unlock(&ev->lock);
}

static int kvm_span_closing_cmp(const void *a, const void *b)
{
	const struct kvm_span_closing *x = a, *y = b;

	return x->e->page < y->e->page ? -1 : x->e->page > y->e->page;
}

/*
 * Close some pages that were opened; neighbours are zapped together, since each zap
 * flushes the TLBs of every VM. span->control is held: no watch ends or unsubscribes
 * meanwhile.
 */
static unsigned int kvm_span_close_some(struct kvm_span_events *ev)
{
	struct kvm_span_closing list[KVM_SPAN_CLOSE_MAX];
	u64 first = 0, end = 0, page;
	unsigned int i, n;

	n = kvm_span_next_lifted(ev, list);
	sort(list, n, sizeof(*list), kvm_span_closing_cmp, NULL);
	for (i = 0; i < n; i++) {
		page = list[i].e->page;
		if (!kvm_span_close_bits(ev->span, &list[i]))
			continue;
		if (page > end || end == first) {
			if (end > first)
				kvm_span_zap(ev->span, first, end - first);
			first = page;
		}
		end = page + 1;
	}
	if (end > first)
		kvm_span_zap(ev->span, first, end - first);
	for (i = 0; i < n; i++)
		kvm_span_closed(ev, &list[i]);
	return n;
}

void kvm_span_rearm(struct work_struct *work)
{
	struct kvm_span_events *ev = container_of(work, struct kvm_span_events, rearm);
	unsigned int n;

	do {
		mutex_lock(&ev->span->control);
		n = kvm_span_close_some(ev);
		mutex_unlock(&ev->span->control);
	} while (n);
}
