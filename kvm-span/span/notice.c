// SPDX-License-Identifier: GPL-2.0
/*
 * KVM Span: what watches are told
 *
 * Messages about accesses, and about writes that have happened already: by KVM
 * itself, in whatever context, or by the controller. Those are kept for a work
 * item, which tells of them.
 */
#include <uapi/linux/span_port.h>

#include "event.h"
#include "span_hooks.h"
#include "trace.h"

/* Messages about violations, of one watch: so many in so much time. */
#define KVM_SPAN_VIOLATIONS	32
#define KVM_SPAN_VIOLATIONS_NS	(100 * NSEC_PER_MSEC)

/* The watches, as a bitmap of their places, that mask the access. Under RCU. */
u64 kvm_span_who(const struct kvm_span_ctx *ctx, enum kvm_span_why why,
		 const struct kvm_span_member *except)
{
	u32 need = kvm_span_need(ctx->access);
	struct kvm_span_watch *watch;
	unsigned int i;
	u64 who = 0;

	for_each_set_bit(i, ctx->span->watch_places, KVM_SPAN_SPAN_WATCHES) {
		watch = kvm_span_watch_at(ctx->span, i);
		if (!watch || (except && watch->member == except))
			continue;
		if (kvm_span_masked_why(watch, why, ctx->page) & need)
			who |= BIT_ULL(i);
	}
	return who;
}

/* The message for one watch. */
bool kvm_span_tell(const struct kvm_span_ctx *ctx, struct kvm_span_watch *watch,
		   u64 event, u32 flags)
{
	struct span_msg_event msg = {
		.event = cpu_to_le64(event),
		.watch = cpu_to_le32(watch->id),
		.access = BIT(ctx->access),
		.source = ctx->source,
		.vcpu = cpu_to_le16(ctx->vcpu_id),
		.page = cpu_to_le32(ctx->page),
		.flags = cpu_to_le32(ctx->flags | flags),
		.gpa = cpu_to_le64(ctx->gpa),
		.rip = cpu_to_le64(ctx->rip),
		.cr3 = cpu_to_le64(ctx->cr3),
	};
	bool done = kvm_span_ring_put(watch, &msg);

	trace_kvm_span_event(watch->member->id, watch->id, event, ctx->page, BIT(ctx->access),
			     ctx->source, ctx->flags | flags, done);
	return done;
}

/* Wake up the members of the watches in the bitmap. Under RCU, no lock of ours held. */
void kvm_span_signal(struct kvm_span *span, u64 who)
{
	struct kvm_span_watch *watch;
	unsigned int i;

	kvm_span_for_each_bit(i, who) {
		watch = kvm_span_watch_at(span, i);
		if (watch)
			kvm_span_ring_signal(watch->member);
	}
}

/* Tell those who want no more than to know. Under events->lock and RCU. */
void kvm_span_notify(const struct kvm_span_ctx *ctx, u64 who, u32 flags)
{
	struct kvm_span_watch *watch;
	unsigned int i;

	kvm_span_for_each_bit(i, who) {
		watch = kvm_span_watch_at(ctx->span, i);
		if (!watch)
			continue;
		atomic64_inc(&watch->notices);
		atomic64_inc(&ctx->span->events->notices);
		/* If there is no room he is told so, and that it may have been any page. */
		kvm_span_tell(ctx, watch, 0, flags | SPAN_EVENT_F_NOTICE);
		kvm_span_mask_lift(watch, KVM_SPAN_WHY_NOTIFY, KVM_SPAN_ACCESS_RWX, ctx->page);
	}
}

/* Tell those whose protection was violated, but not at any rate. Under RCU. */
void kvm_span_violated(const struct kvm_span_ctx *ctx, u64 who)
{
	struct kvm_span_events *ev = ctx->span->events;
	struct kvm_span_watch *watch;
	ktime_t now = ktime_get();
	unsigned int i;
	u64 told = 0;

	spin_lock(&ev->lock);
	kvm_span_for_each_bit(i, who) {
		watch = kvm_span_watch_at(ctx->span, i);
		if (!watch)
			continue;
		atomic64_inc(&watch->violations);
		if (ktime_sub(now, watch->violations_since) >= KVM_SPAN_VIOLATIONS_NS) {
			watch->violations_since = now;
			watch->violations_told = 0;
		}
		if (watch->violations_told++ >= KVM_SPAN_VIOLATIONS)
			continue;
		kvm_span_tell(ctx, watch, 0, SPAN_EVENT_F_VIOLATION | SPAN_EVENT_F_NOTICE);
		told |= BIT_ULL(i);
	}
	spin_unlock(&ev->lock);
	kvm_span_signal(ctx->span, told);
}

/* Tell subscribers of a write that has happened. Process context. */
static void kvm_span_tell_wrote(struct kvm_span *span, const struct kvm_span_wrote *wrote)
{
	struct kvm_span_ctx ctx = {
		.span = span,
		.page = wrote->page,
		.gpa = ~0ULL,
		.vcpu_id = wrote->vcpu,
		.access = KVM_SPAN_W,
		.source = wrote->source,
	};
	struct kvm_span_events *ev = span->events;
	u64 who;

	rcu_read_lock();
	who = kvm_span_who(&ctx, KVM_SPAN_WHY_BLOCK, wrote->except) |
	      kvm_span_who(&ctx, KVM_SPAN_WHY_NOTIFY, wrote->except);
	if (who) {
		spin_lock(&ev->lock);
		kvm_span_notify(&ctx, who, SPAN_EVENT_F_AFTER);
		spin_unlock(&ev->lock);
		kvm_span_signal(span, who);
	}
	rcu_read_unlock();
}

/* More than could be kept: whoever subscribed to writes is told that much. */
static void kvm_span_wrote_overflow(struct kvm_span *span)
{
	struct kvm_span_watch *watch;
	unsigned int i;

	rcu_read_lock();
	for_each_set_bit(i, span->watch_places, KVM_SPAN_SPAN_WATCHES) {
		watch = kvm_span_watch_at(span, i);
		if (watch && (READ_ONCE(watch->masked[KVM_SPAN_WHY_BLOCK][KVM_SPAN_W]) ||
			      READ_ONCE(watch->masked[KVM_SPAN_WHY_NOTIFY][KVM_SPAN_W]))) {
			kvm_span_ring_lost(watch);
			kvm_span_ring_signal(watch->member);
		}
	}
	rcu_read_unlock();
}

static void kvm_span_wrote_work(struct work_struct *work)
{
	struct kvm_span_events *ev = container_of(work, struct kvm_span_events, wrote_work);
	struct kvm_span_wrote wrote;
	unsigned int i;
	bool lost;

	for (i = 0; ; i++) {
		raw_spin_lock_irq(&ev->wrote_lock);
		if (i >= ev->nr_wrote)
			break;
		wrote = ev->wrote[i];
		ev->wrote_done = i + 1;
		raw_spin_unlock_irq(&ev->wrote_lock);
		kvm_span_tell_wrote(ev->span, &wrote);
	}
	ev->nr_wrote = 0;
	ev->wrote_done = 0;
	lost = ev->wrote_lost;
	ev->wrote_lost = false;
	raw_spin_unlock_irq(&ev->wrote_lock);
	if (lost)
		kvm_span_wrote_overflow(ev->span);
}

static void kvm_span_wrote_irq(struct irq_work *irq)
{
	struct kvm_span_events *ev = container_of(irq, struct kvm_span_events, wrote_irq);

	queue_work(kvm_span_wq, &ev->wrote_work);
}

/* Any context. */
static void kvm_span_put_wrote(struct kvm_span_events *ev, const struct kvm_span_wrote *wrote)
{
	struct kvm_span_wrote *last;
	unsigned long flags;

	raw_spin_lock_irqsave(&ev->wrote_lock, flags);
	last = ev->nr_wrote > ev->wrote_done ? &ev->wrote[ev->nr_wrote - 1] : NULL;
	if (last && last->page == wrote->page && last->except == wrote->except &&
	    last->vcpu == wrote->vcpu && last->source == wrote->source)
		; /* not told yet */
	else if (ev->nr_wrote < KVM_SPAN_WROTE_MAX)
		ev->wrote[ev->nr_wrote++] = *wrote;
	else
		ev->wrote_lost = true;
	raw_spin_unlock_irqrestore(&ev->wrote_lock, flags);
}

/*
 * KVM has written a page of the guest itself: PV clocks, the emulator, bits of
 * the guest's page tables. Any context, also under the run queue's lock: where
 * somebody wants to know, he is told later.
 */
void kvm_span_event_wrote(struct kvm_span *span, const struct kvm_memory_slot *slot, u64 page)
{
	struct kvm_span_wrote wrote = { .page = page, .vcpu = 0xffff };
	struct kvm_vcpu *vcpu;

	if (likely(!(kvm_span_mask_of(span, page, NULL) & kvm_span_need(KVM_SPAN_W))))
		return;
	vcpu = kvm_get_running_vcpu();
	/* The guest wrote it when it was allowed to, or the write was asked for. */
	if (vcpu && (vcpu->span.pml || (kvm_span_emulating(vcpu) && vcpu->span.span == span &&
					vcpu->span.page == page)))
		return;
	if (vcpu) {
		wrote.source = kvm_span_source(span, vcpu);
		wrote.except = kvm_span_own(vcpu, slot);
	} else {
		wrote.source = slot->arch.span_member ? SPAN_SOURCE_L1 : SPAN_SOURCE_GUEST_L0;
		wrote.except = slot->arch.span_member;
	}
	if (vcpu && wrote.source == SPAN_SOURCE_GUEST_L0)
		wrote.vcpu = vcpu->vcpu_id;
	kvm_span_put_wrote(span->events, &wrote);
	irq_work_queue(&span->events->wrote_irq);
}

static long kvm_span_written_range(struct kvm_span *span, u64 first, u64 pages)
{
	struct kvm_span_wrote wrote = { .source = SPAN_SOURCE_L0, .vcpu = 0xffff };
	u64 page;

	for (page = first; page < first + pages; page++) {
		kvm_span_log_written(span, page);
		if (kvm_span_mask_of(span, page, NULL) & kvm_span_need(KVM_SPAN_W)) {
			wrote.page = page;
			kvm_span_tell_wrote(span, &wrote);
		}
		if (!(page & 0xfff)) {
			if (fatal_signal_pending(current))
				return -EINTR;
			cond_resched();
		}
	}
	return 0;
}

/* KVM_SPAN_WRITTEN: the controller has written these pages itself. */
long kvm_span_event_written(struct kvm_span *span, void __user *uarg)
{
	u64 all = kvm_span_pages(span);
	struct kvm_span_written arg;
	int r;

	r = kvm_span_copy_arg(&arg, sizeof(arg), uarg);
	if (r)
		return r;
	if (arg.flags || !arg.pages || arg.first >= all || arg.pages > all - arg.first)
		return -EINVAL;
	/* A watch that comes after this was not there when it was written. */
	if (!READ_ONCE(span->nr_watches))
		return 0;
	return kvm_span_written_range(span, arg.first, arg.pages);
}

void kvm_span_notice_init(struct kvm_span_events *ev)
{
	raw_spin_lock_init(&ev->wrote_lock);
	INIT_WORK(&ev->wrote_work, kvm_span_wrote_work);
	init_irq_work(&ev->wrote_irq, kvm_span_wrote_irq);
}

/* No slot shows the memory any more. */
void kvm_span_notice_exit(struct kvm_span_events *ev)
{
	irq_work_sync(&ev->wrote_irq);
	cancel_work_sync(&ev->wrote_work);
}
