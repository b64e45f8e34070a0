// SPDX-License-Identifier: GPL-2.0
/*
 * KVM Span: who is asked about an access, and what comes of the answers
 *
 * Watches that want a notice get it, and the page leaves their subscription. For
 * watches that block, an access is entered into the table (entry.c), they are all
 * told, and the vCPU goes into the halt that KVM has for asynchronous page faults:
 * it takes interrupts, signals and nested exits meanwhile, and repeats the access
 * when it comes back. It then finds the same entry, with or without an answer.
 *
 * Nothing here sleeps for an answer, and nothing that a member does or omits
 * makes an access wait for longer than the deadline of its watch: what it has
 * waited for others before counts.
 */
#include <linux/slab.h>
#include <uapi/linux/span_port.h>

#include "mmu.h"
#include "mmu/mmu_internal.h"
#include "x86.h"

#include "event.h"
#include "span_hooks.h"
#include "trace.h"

/* No room in the table that long: as if nobody had answered. */
#define KVM_SPAN_FULL_NS	(100 * NSEC_PER_MSEC)
/* An L1's own access may wait that long at most: its other work waits, too. */
#define KVM_SPAN_L1_DEADLINE_US	50000u

/* Set the timer, unless it goes off earlier. Under events->lock. */
void kvm_span_arm(struct kvm_span_events *ev, ktime_t when)
{
	if (ev->dying || when >= ev->next)
		return;
	ev->next = when;
	hrtimer_start(&ev->timer, when, HRTIMER_MODE_ABS);
}

static enum hrtimer_restart kvm_span_timer(struct hrtimer *timer)
{
	struct kvm_span_events *ev = container_of(timer, struct kvm_span_events, timer);

	queue_work(kvm_span_wq, &ev->tick);
	return HRTIMER_NORESTART;
}

static ktime_t kvm_span_deadline(const struct kvm_span_entry *e,
				 const struct kvm_span_watch *watch)
{
	u32 us = watch->deadline_us;

	if (e->source == SPAN_SOURCE_L1)
		us = min(us, KVM_SPAN_L1_DEADLINE_US);
	return ktime_add_us(e->start, us);
}

/* A watch's default is its answer. Under events->lock. */
static void kvm_span_default(struct kvm_span_entry *e, struct kvm_span_watch *watch)
{
	e->open &= ~BIT_ULL(watch->index);
	if (watch->on_timeout == KVM_SPAN_DENY)
		e->denied |= BIT_ULL(watch->index);
}

/* No way to ask: the same as a timeout, at once. Under events->lock and RCU. */
static void kvm_span_not_asked(struct kvm_span_entry *e, struct kvm_span_watch *watch)
{
	kvm_span_default(e, watch);
	atomic64_inc(&watch->timeouts);
	atomic64_inc(&e->span->events->timeouts);
	trace_kvm_span_timeout(watch->member->id, watch->id, e->id, watch->on_timeout);
}

/* No answer in time. Under events->lock and RCU. */
static void kvm_span_timed_out(struct kvm_span_entry *e, struct kvm_span_watch *watch)
{
	kvm_span_not_asked(e, watch);
	WRITE_ONCE(watch->timeouts_in_a_row, watch->timeouts_in_a_row + 1);
	if (watch->muted || watch->timeouts_in_a_row < KVM_SPAN_MUTE_AFTER)
		return;
	WRITE_ONCE(watch->muted, true);
	kvm_span_member_tell(watch->member, KVM_SPAN_EVENT_MUTED);
}

/*
 * While an event is being delivered to a nested guest, its vCPU does not exit to
 * its L1 for interrupts: an L1 would not hear of what it has to answer.
 */
static bool kvm_span_cannot_answer(const struct kvm_span_ctx *ctx,
				   const struct kvm_span_watch *watch)
{
	return (ctx->flags & SPAN_EVENT_F_DELIVERY) && ctx->source == SPAN_SOURCE_GUEST_L1 &&
	       watch->member == ctx->runner;
}

/*
 * Tell watches of an access that waits, all at once. Those that cannot be told
 * or are muted have answered by that; they are told even so, since an answer is
 * what ends being muted. Under events->lock and RCU.
 */
static void kvm_span_ask_watches(const struct kvm_span_ctx *ctx, struct kvm_span_entry *e,
				 u64 who)
{
	struct kvm_span_events *ev = ctx->span->events;
	ktime_t now = ktime_get(), deadline;
	struct kvm_span_watch *watch;
	unsigned int i;

	e->told |= who;
	e->open |= who;
	kvm_span_for_each_bit(i, who) {
		watch = kvm_span_watch_at(ctx->span, i);
		if (!watch) {
			e->open &= ~BIT_ULL(i);
			continue;
		}
		atomic64_inc(&watch->events);
		atomic64_inc(&ev->events);
		deadline = kvm_span_deadline(e, watch);
		if (!kvm_span_tell(ctx, watch, e->id, 0) || deadline <= now)
			kvm_span_not_asked(e, watch);
		else if (watch->muted || kvm_span_cannot_answer(ctx, watch))
			kvm_span_default(e, watch);
		else
			kvm_span_arm(ev, deadline);
	}
}

/*
 * All have answered: the vCPU goes on. "block" is who masks the access now; all
 * of them were asked. Under events->lock and RCU.
 */
static int kvm_span_go_on(const struct kvm_span_ctx *ctx, struct kvm_span_entry *e, u64 block)
{
	if (!block) {
		kvm_span_entry_free(e);
		return RET_PF_CONTINUE;
	}
	/*
	 * Emulating leaves the page closed for everybody else. But a walk is no
	 * instruction, and during delivery the instruction is not the one that
	 * writes.
	 */
	if (ctx->access == KVM_SPAN_W &&
	    !(ctx->flags & (SPAN_EVENT_F_WALK | SPAN_EVENT_F_DELIVERY))) {
		e->state = KVM_SPAN_EMULATED;
		e->until = ktime_add_ns(ktime_get(), KVM_SPAN_ANSWER_NS);
		kvm_span_arm(ctx->span->events, e->until);
		return kvm_span_emulate(ctx, KVM_SPAN_ALLOW);
	}
	kvm_span_lift(e, block);
	return RET_PF_CONTINUE;
}

/*
 * The vCPU waits: halted, but for an access during the delivery of an event,
 * which would be delivered again at once if another interrupt were to end the
 * halt. There it tries again every millisecond.
 */
static int kvm_span_park(const struct kvm_span_ctx *ctx)
{
	if (ctx->flags & SPAN_EVENT_F_DELIVERY)
		return kvm_span_pause(ctx->vcpu) ?: RET_PF_RETRY;
	kvm_make_request(KVM_REQ_APF_HALT, ctx->vcpu);
	return RET_PF_RETRY;
}

enum { KVM_SPAN_PARK = 0x100, KVM_SPAN_REFUSE, KVM_SPAN_NO_ENTRY };

/* The access is about to be denied. Under events->lock and RCU. */
static int kvm_span_refuse(struct kvm_span_entry *e)
{
	kvm_span_entry_cancel(e);
	kvm_span_entry_free(e);
	return KVM_SPAN_REFUSE;
}

/*
 * It waits again: for what is left of the deadlines. The time between counts for
 * nothing, the vCPU may have had other things to do. Under events->lock.
 */
static void kvm_span_wait_again(struct kvm_span_entry *e)
{
	struct kvm_span_events *ev = e->span->events;

	if (e->state != KVM_SPAN_DECIDED)
		return;
	e->state = KVM_SPAN_WAITING;
	e->start = ktime_sub(ktime_get(), e->waited);
	WRITE_ONCE(ev->pending, ev->pending + 1);
}

/*
 * Find or make the entry of an access, ask whom there is to ask, and see what
 * comes of it. *fresh is a new entry or NULL, and is taken if it is needed.
 * Under events->lock and RCU. *told: whom to signal.
 */
static int kvm_span_decide(const struct kvm_span_ctx *ctx, struct kvm_span_entry **fresh,
			   u64 *told)
{
	struct kvm_span_entry *e = kvm_span_entry_find(ctx);
	u64 block, notify;

	*told = 0;
	if (e && e->state == KVM_SPAN_DECIDED && e->denied)
		return kvm_span_refuse(e);
	notify = kvm_span_who(ctx, KVM_SPAN_WHY_NOTIFY, ctx->own);
	kvm_span_notify(ctx, notify, 0);
	*told = notify;

	block = kvm_span_who(ctx, KVM_SPAN_WHY_BLOCK, ctx->own);
	if (!e && !block)
		return RET_PF_CONTINUE;
	if (!e) {
		if (!*fresh || !kvm_span_entry_room(ctx->span->events, ctx->vcpu))
			return KVM_SPAN_NO_ENTRY;
		e = *fresh;
		*fresh = NULL;
		kvm_span_entry_add(ctx, e);
	}
	/* Also who came after the first were asked: the access is still to happen. */
	if (block & ~e->told) {
		kvm_span_wait_again(e);
		*told |= block & ~e->told;
		kvm_span_ask_watches(ctx, e, block & ~e->told);
	}
	kvm_span_entry_decide(e);
	if (e->state == KVM_SPAN_WAITING) {
		/* Whoever decides later has this lock and sets it again. */
		WRITE_ONCE(ctx->vcpu->span.wake, false);
		return KVM_SPAN_PARK;
	}
	if (e->denied)
		return kvm_span_refuse(e);
	return kvm_span_go_on(ctx, e, block);
}

/*
 * Too many at a time, or no memory. Entries end by themselves, so try again for
 * a while; then it is as if nobody had answered. Where that allows, and the
 * watches would want to hear of the page again, they lose it, and are told so.
 */
static int kvm_span_no_entry(const struct kvm_span_ctx *ctx)
{
	struct kvm_vcpu *vcpu = ctx->vcpu;
	struct kvm_span_watch *watch;
	ktime_t now = ktime_get();
	bool denied = false;
	unsigned int i;
	u64 who;

	if (!vcpu->span.full_since)
		vcpu->span.full_since = now;
	if (now - vcpu->span.full_since < KVM_SPAN_FULL_NS)
		return kvm_span_pause(vcpu) ?: RET_PF_RETRY;
	vcpu->span.full_since = 0;

	rcu_read_lock();
	who = kvm_span_who(ctx, KVM_SPAN_WHY_BLOCK, ctx->own);
	kvm_span_for_each_bit(i, who) {
		watch = kvm_span_watch_at(ctx->span, i);
		if (!watch)
			continue;
		atomic64_inc(&watch->timeouts);
		atomic64_inc(&ctx->span->events->timeouts);
		denied |= watch->on_timeout == KVM_SPAN_DENY;
	}
	kvm_span_for_each_bit(i, denied ? 0 : who) {
		watch = kvm_span_watch_at(ctx->span, i);
		if (!watch)
			continue;
		kvm_span_mask_lift(watch, KVM_SPAN_WHY_BLOCK, KVM_SPAN_ACCESS_RWX, ctx->page);
		kvm_span_ring_lost(watch);
	}
	kvm_span_signal(ctx->span, who);
	rcu_read_unlock();
	return denied ? KVM_SPAN_REFUSE : RET_PF_CONTINUE;
}

int kvm_span_ask(const struct kvm_span_ctx *ctx)
{
	struct kvm_span_events *ev = ctx->span->events;
	struct kvm_span_entry *fresh = NULL;
	bool tried = false;
	u64 told;
	int r;

	for (;;) {
		rcu_read_lock();
		spin_lock(&ev->lock);
		r = kvm_span_decide(ctx, &fresh, &told);
		spin_unlock(&ev->lock);
		kvm_span_signal(ctx->span, told);
		rcu_read_unlock();
		if (r != KVM_SPAN_NO_ENTRY || tried)
			break;
		tried = true;
		fresh = kzalloc(sizeof(*fresh), GFP_KERNEL_ACCOUNT);
		if (!fresh)
			break;
	}
	kfree(fresh);
	if (r == KVM_SPAN_NO_ENTRY)
		r = kvm_span_no_entry(ctx);
	else
		ctx->vcpu->span.full_since = 0;
	if (r == KVM_SPAN_REFUSE)
		return kvm_span_deny(ctx);
	if (r == KVM_SPAN_PARK)
		return kvm_span_park(ctx);
	return r;
}

/*
 * KVM_SPAN_ANSWER, or an answer from the ring. Any answer, also one that is too
 * late, shows that somebody is there again.
 */
long kvm_span_event_answer(struct kvm_span_watch *watch, u64 event, u32 verdict, u32 flags)
{
	struct kvm_span *span = kvm_span_watch_span(watch);
	struct kvm_span_events *ev = span->events;
	struct kvm_span_entry *e, *found = NULL;
	long r = 0;

	rcu_read_lock();
	spin_lock(&ev->lock);
	WRITE_ONCE(watch->timeouts_in_a_row, 0);
	WRITE_ONCE(watch->muted, false);
	hlist_for_each_entry(e, &ev->by_id[event % ARRAY_SIZE(ev->by_id)], id_node)
		if (e->id == event && e->state == KVM_SPAN_WAITING &&
		    (e->open & BIT_ULL(watch->index)))
			found = e;
	/* The watch may be on its way out: then it has no say any more. */
	if (!found || kvm_span_watch_at(span, watch->index) != watch) {
		atomic64_inc(&watch->stale);
		r = -ENOENT;
		goto out;
	}
	atomic64_inc(verdict == KVM_SPAN_DENY ? &watch->denied : &watch->allowed);
	if (flags & KVM_SPAN_ANSWER_CANCEL)
		found->cancel |= BIT_ULL(watch->index);
	found->open &= ~BIT_ULL(watch->index);
	if (verdict == KVM_SPAN_DENY)
		found->denied |= BIT_ULL(watch->index);
	kvm_span_entry_decide(found);
out:
	spin_unlock(&ev->lock);
	rcu_read_unlock();
	trace_kvm_span_answer(watch->member->id, watch->id, event, verdict, flags, r);
	return r;
}

/* A watch has ended, nobody finds it any more: nothing waits for it either. */
void kvm_span_event_forget(struct kvm_span_watch *watch)
{
	struct kvm_span_events *ev = kvm_span_watch_span(watch)->events;
	u64 keep = ~BIT_ULL(watch->index);
	struct kvm_span_entry *e;

	rcu_read_lock();
	spin_lock(&ev->lock);
	list_for_each_entry(e, &ev->entries, node) {
		/* What it denied stays so; its place will be another's. */
		if (e->denied & ~keep)
			e->denied = ~0ULL;
		e->told &= keep;
		e->open &= keep;
		e->cancel &= keep;
		e->lifted &= keep;
		e->lifted_read &= keep;
		kvm_span_entry_decide(e);
	}
	spin_unlock(&ev->lock);
	rcu_read_unlock();
}

/*
 * The watch is about to subscribe to these pages anew: what it has cancelled before
 * leaves the subscription now and not later. span->control is held.
 */
void kvm_span_event_renew(struct kvm_span_watch *watch, u64 first, u64 pages)
{
	struct kvm_span_events *ev = kvm_span_watch_span(watch)->events;
	struct kvm_span_entry *e;

	rcu_read_lock();
	spin_lock(&ev->lock);
	list_for_each_entry(e, &ev->entries, node) {
		if (e->page < first || e->page - first >= pages)
			continue;
		if (e->cancel & BIT_ULL(watch->index))
			kvm_span_entry_cancel(e);
	}
	spin_unlock(&ev->lock);
	rcu_read_unlock();
}

/*
 * It has subscribed: an answer from before is none for what comes from now on. Not
 * earlier, since a denied access that comes back before the mask is there must find
 * that it was denied. What another watch denied stays denied. span->control is held.
 */
void kvm_span_event_renewed(struct kvm_span_watch *watch, u64 first, u64 pages)
{
	struct kvm_span_events *ev = kvm_span_watch_span(watch)->events;
	u64 keep = ~BIT_ULL(watch->index);
	struct kvm_span_entry *e;

	spin_lock(&ev->lock);
	list_for_each_entry(e, &ev->entries, node) {
		if (e->page < first || e->page - first >= pages ||
		    (e->open & BIT_ULL(watch->index)))
			continue;
		e->told &= keep;
		if (e->denied != ~0ULL)
			e->denied &= keep;
	}
	spin_unlock(&ev->lock);
}

/* ... nor to be asked of accesses to them that wait. span->control is held. */
void kvm_span_event_release(struct kvm_span_watch *watch, u32 access, u64 first, u64 pages)
{
	struct kvm_span_events *ev = kvm_span_watch_span(watch)->events;
	struct kvm_span_entry *e;

	rcu_read_lock();
	spin_lock(&ev->lock);
	list_for_each_entry(e, &ev->entries, node) {
		if (e->page < first || e->page - first >= pages || !(access & BIT(e->access)))
			continue;
		e->open &= ~BIT_ULL(watch->index);
		kvm_span_entry_decide(e);
	}
	spin_unlock(&ev->lock);
	rcu_read_unlock();
}

/* What is due for an access that waits. Under events->lock and RCU. */
static void kvm_span_tick_waiting(struct kvm_span_entry *e, ktime_t now, ktime_t *next)
{
	struct kvm_span_watch *watch;
	ktime_t deadline;
	unsigned int i;

	kvm_span_for_each_bit(i, e->open) {
		watch = kvm_span_watch_at(e->span, i);
		if (!watch)
			continue;	/* kvm_span_event_forget() is on its way */
		deadline = kvm_span_deadline(e, watch);
		if (deadline <= now)
			kvm_span_timed_out(e, watch);
		else
			*next = min(*next, deadline);
	}
	kvm_span_entry_decide(e);
}

/* Something is due. Takes no mutex, so that nobody's call makes a deadline late. */
static void kvm_span_tick(struct work_struct *work)
{
	struct kvm_span_events *ev = container_of(work, struct kvm_span_events, tick);
	ktime_t now = ktime_get(), next = KTIME_MAX;
	struct kvm_span_entry *e, *tmp;
	bool rearm = false;

	rcu_read_lock();
	spin_lock(&ev->lock);
	ev->next = KTIME_MAX;
	list_for_each_entry_safe(e, tmp, &ev->entries, node) {
		if (e->state == KVM_SPAN_WAITING) {
			kvm_span_tick_waiting(e, now, &next);
			continue;
		}
		if (e->state == KVM_SPAN_CLOSING)
			continue;
		if (e->until > now)
			next = min(next, e->until);
		else if (e->state == KVM_SPAN_LIFTED)
			rearm = true;
		else
			kvm_span_entry_free(e);
	}
	if (next != KTIME_MAX)
		kvm_span_arm(ev, next);
	spin_unlock(&ev->lock);
	rcu_read_unlock();
	if (rearm)
		queue_work(kvm_span_wq, &ev->rearm);
}

void kvm_span_event_stats(struct kvm_span *span, struct kvm_span_stats *stats)
{
	struct kvm_span_events *ev = span->events;

	stats->ept_guest = atomic64_read(&ev->ept_guest);
	stats->ept_shadow = atomic64_read(&ev->ept_shadow);
	stats->ept_l1 = atomic64_read(&ev->ept_l1);
	stats->ept_masked = atomic64_read(&ev->ept_masked);
	stats->remaps = atomic64_read(&ev->remaps);
	stats->events = atomic64_read(&ev->events);
	stats->notices = atomic64_read(&ev->notices);
	stats->timeouts = atomic64_read(&ev->timeouts);
	stats->denials = atomic64_read(&ev->denials);
	stats->lifted = atomic64_read(&ev->lifted);
	stats->watches = READ_ONCE(span->nr_watches);
	stats->pending = READ_ONCE(ev->pending);
}

int kvm_span_event_init(struct kvm_span *span)
{
	struct kvm_span_events *ev = kzalloc(sizeof(*ev), GFP_KERNEL_ACCOUNT);

	if (!ev)
		return -ENOMEM;
	ev->span = span;
	spin_lock_init(&ev->lock);
	INIT_LIST_HEAD(&ev->entries);
	ev->next = KTIME_MAX;
	hrtimer_init(&ev->timer, CLOCK_MONOTONIC, HRTIMER_MODE_ABS);
	ev->timer.function = kvm_span_timer;
	INIT_WORK(&ev->tick, kvm_span_tick);
	INIT_WORK(&ev->rearm, kvm_span_rearm);
	kvm_span_notice_init(ev);
	span->events = ev;
	return 0;
}

/*
 * The span is gone: no watch, no slot, no member. What is left are answers that
 * nobody came back for.
 */
void kvm_span_event_exit(struct kvm_span *span)
{
	struct kvm_span_events *ev = span->events;
	struct kvm_span_entry *e, *tmp;

	if (!ev)
		return;
	spin_lock(&ev->lock);
	ev->dying = true;
	spin_unlock(&ev->lock);
	kvm_span_notice_exit(ev);
	hrtimer_cancel(&ev->timer);
	cancel_work_sync(&ev->tick);
	cancel_work_sync(&ev->rearm);
	spin_lock(&ev->lock);
	list_for_each_entry_safe(e, tmp, &ev->entries, node)
		kvm_span_entry_free(e);
	spin_unlock(&ev->lock);
	span->events = NULL;
	kfree(ev);
}
