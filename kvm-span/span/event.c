// SPDX-License-Identifier: GPL-2.0
/*
 * KVM Span: accesses that a watch wants to hear of.
 *
 * A vCPU that meets a mask comes to __kvm_span_fault() before KVM looks for a
 * page. What is protected is denied there and then. Watches that want a notice
 * get it, and the page leaves their subscription. For watches that block, an
 * access is entered into the table below, they are all told, and the vCPU goes
 * into the halt that KVM has for asynchronous page faults: it takes interrupts,
 * signals and nested exits meanwhile, and repeats the access when it comes back.
 * It then finds the same entry, by vCPU, page, kind of access, instruction and
 * address space, with or without an answer.
 *
 * Nothing here sleeps for an answer, and nothing that a member does or omits
 * makes an access wait for longer than the deadline of its watch: what it has
 * waited for others before counts.
 */
#include <linux/hrtimer.h>
#include <linux/irq_work.h>
#include <linux/slab.h>
#include <linux/sort.h>
#include <linux/workqueue.h>
#include <uapi/linux/span_port.h>

#include "mmu.h"
#include "mmu/mmu_internal.h"
#include "kvm_cache_regs.h"
#include "x86.h"
#include "kvm_emulate.h"

#include "watch.h"
#include "span_hooks.h"
#include "trace.h"

#define KVM_SPAN_ACCESS_RWX	(KVM_SPAN_ACCESS_R | KVM_SPAN_ACCESS_W | KVM_SPAN_ACCESS_X)

/* Accesses of one span that are remembered, in whatever state. */
#define KVM_SPAN_MAX_ENTRIES	256
/* ... of all VMs but the guest's own, and of one of them: none takes all. */
#define KVM_SPAN_OTHERS_ENTRIES	192
#define KVM_SPAN_VM_ENTRIES	32
/* No room that long: as if nobody had answered. */
#define KVM_SPAN_FULL_NS	(100 * NSEC_PER_MSEC)
/* ... of one vCPU: interrupts that came while it waited, one in another. */
#define KVM_SPAN_VCPU_ENTRIES	4

/* An L1's own access may wait that long at most: its other work waits, too. */
#define KVM_SPAN_L1_DEADLINE_US	50000u
/* A page that was opened for an access is closed after this. */
#define KVM_SPAN_LIFT_NS	NSEC_PER_MSEC
/* An answer that nobody came back for is forgotten after this. */
#define KVM_SPAN_ANSWER_NS	(2 * KVM_SPAN_DEADLINE_MAX * NSEC_PER_USEC)
/* Messages about violations, of one watch: so many in so much time. */
#define KVM_SPAN_VIOLATIONS	32
#define KVM_SPAN_VIOLATIONS_NS	(100 * NSEC_PER_MSEC)

enum kvm_span_entry_state {
	KVM_SPAN_WAITING,	/* some watch has not answered */
	KVM_SPAN_DECIDED,	/* the vCPU has not come back yet */
	KVM_SPAN_EMULATED,	/* being emulated; kept for the case that it fails */
	KVM_SPAN_LIFTED,	/* the page is open, to be closed at "until" */
	KVM_SPAN_CLOSING,	/* ... just now */
};

/* An access. All of it under events->lock but what is constant. */
struct kvm_span_entry {
	struct list_head node;		/* in events->entries */
	struct hlist_node id_node;	/* in events->by_id */
	struct hlist_node vcpu_node;	/* in vcpu->span.entries, vcpu->span.lock too */
	struct kvm_span *span;		/* constant; frees us before it goes */
	struct kvm_vcpu *vcpu;		/* NULL when it is in no vCPU's list */
	const struct kvm *kvm;		/* constant, only compared: whose it is */
	enum kvm_span_entry_state state;
	u64 id;				/* constant */
	u64 page;			/* constant */
	unsigned long rip;		/* constant */
	unsigned long cr3;		/* constant */
	u8 access;			/* constant: KVM_SPAN_R, _W, _X */
	u8 source;			/* constant: SPAN_SOURCE_* */

	/* Watches by their index. */
	u64 denied;			/* by whom; all ones: by one that has ended */
	u64 told;
	u64 open;			/* told, and did not answer yet */
	u64 cancel;			/* the page is to leave their subscription */
	u64 lifted;			/* to mask the access again */
	u64 lifted_read;		/* ... and reading */

	ktime_t start;			/* WAITING: since when */
	ktime_t waited;			/* DECIDED: for how long */
	ktime_t until;
};

/* A write that has happened, to be told. */
struct kvm_span_wrote {
	u64 page;
	const struct kvm_span_member *except;	/* only compared */
	u16 vcpu;
	u8 source;
};

#define KVM_SPAN_WROTE_MAX	256

struct kvm_span_events {
	struct kvm_span *span;		/* constant */
	spinlock_t lock;
	struct list_head entries;
	struct hlist_head by_id[64];
	unsigned int nr;
	unsigned int pending;		/* WAITING ones */
	u64 last_id;
	bool dying;

	struct hrtimer timer;		/* for the next thing that is due */
	ktime_t next;			/* what it is set to, or KTIME_MAX */
	struct work_struct tick;
	struct work_struct rearm;

	/* Written in any context, also under the scheduler's locks. */
	raw_spinlock_t wrote_lock;
	struct kvm_span_wrote wrote[KVM_SPAN_WROTE_MAX];
	unsigned int nr_wrote;
	unsigned int wrote_done;	/* of them told, or about to be */
	bool wrote_lost;
	struct irq_work wrote_irq;
	struct work_struct wrote_work;

	atomic64_t ept_guest;
	atomic64_t ept_shadow;
	atomic64_t ept_l1;
	atomic64_t ept_masked;
	atomic64_t remaps;
	atomic64_t events;
	atomic64_t notices;
	atomic64_t timeouts;
	atomic64_t denials;
	atomic64_t lifted;
};

/* What is known of an access while it is decided. */
struct kvm_span_ctx {
	struct kvm_vcpu *vcpu;		/* NULL when it is not a vCPU's */
	struct kvm_span *span;
	const struct kvm_span_member *own;	/* whose watches are not told */
	const struct kvm_span_member *runner;	/* through whose window it goes */
	u64 page;
	u64 gpa;
	u64 rip;			/* as told */
	u64 cr3;
	u32 flags;			/* SPAN_EVENT_F_* */
	u16 vcpu_id;
	u8 access;			/* KVM_SPAN_R, _W, _X */
	u8 source;
	bool no_read;			/* reading is masked, too */
};

/*
 * What has to be open for an access: a page that cannot be read is not mapped
 * at all.
 */
static u32 kvm_span_need(u8 access)
{
	return BIT(access) | KVM_SPAN_ACCESS_R;
}

/* The accesses to a page that a watch masks for one reason. Under RCU. */
static u32 kvm_span_watch_masks(const struct kvm_span_watch *watch, enum kvm_span_why why,
				u64 page)
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

static struct kvm_span_watch *kvm_span_watch_at(struct kvm_span *span, unsigned int index)
{
	return rcu_dereference_check(span->watch[index], lockdep_is_held(&span->control));
}

/* The watches, as a bitmap of their places, that mask the access. Under RCU. */
static u64 kvm_span_who(const struct kvm_span_ctx *ctx, enum kvm_span_why why,
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
		if (kvm_span_watch_masks(watch, why, ctx->page) & need)
			who |= BIT_ULL(i);
	}
	return who;
}

#define kvm_span_for_each_bit(i, bits)						\
	for (u64 bits_ = (bits); bits_ && ((i) = __ffs64(bits_), true); bits_ &= bits_ - 1)

/* The message for one watch. */
static bool kvm_span_tell(const struct kvm_span_ctx *ctx, struct kvm_span_watch *watch,
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
static void kvm_span_signal(struct kvm_span *span, u64 who)
{
	struct kvm_span_watch *watch;
	unsigned int i;

	kvm_span_for_each_bit(i, who) {
		watch = kvm_span_watch_at(span, i);
		if (watch)
			kvm_span_ring_signal(watch->member);
	}
}

/* Set the timer, unless it goes off earlier. Under events->lock. */
static void kvm_span_arm(struct kvm_span_events *ev, ktime_t when)
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

/* Under events->lock. */
static void kvm_span_entry_leave_vcpu(struct kvm_span_entry *e)
{
	if (!e->vcpu)
		return;
	spin_lock(&e->vcpu->span.lock);
	hlist_del_init(&e->vcpu_node);
	spin_unlock(&e->vcpu->span.lock);
	e->vcpu = NULL;
}

/*
 * The page leaves the subscription of those who said so. For an access that is
 * denied not before it has been: without a mask it would not come back here.
 * Under events->lock and RCU.
 */
static void kvm_span_entry_cancel(struct kvm_span_entry *e)
{
	struct kvm_span_watch *watch;
	struct kvm_span_entry *other;
	unsigned int i;

	if (!e->cancel)
		return;
	/* Nor is it closed again if it is open just now. */
	list_for_each_entry(other, &e->span->events->entries, node) {
		if (other->page != e->page)
			continue;
		other->lifted &= ~e->cancel;
		other->lifted_read &= ~e->cancel;
	}
	kvm_span_for_each_bit(i, e->cancel) {
		watch = kvm_span_watch_at(e->span, i);
		if (!watch)
			continue;
		kvm_span_mask_lift(watch, KVM_SPAN_WHY_BLOCK, KVM_SPAN_ACCESS_RWX, e->page);
		kvm_span_mask_lift(watch, KVM_SPAN_WHY_NOTIFY, KVM_SPAN_ACCESS_RWX, e->page);
	}
	e->cancel = 0;
}

/*
 * Under events->lock. A denial that the vCPU did not come back for has not been:
 * whoever denied and wanted no more is asked again if the access comes again.
 */
static void kvm_span_entry_free(struct kvm_span_entry *e)
{
	struct kvm_span_events *ev = e->span->events;

	rcu_read_lock();
	e->cancel &= ~e->denied;
	kvm_span_entry_cancel(e);
	rcu_read_unlock();
	if (e->state == KVM_SPAN_WAITING)
		WRITE_ONCE(ev->pending, ev->pending - 1);
	kvm_span_entry_leave_vcpu(e);
	hlist_del_init(&e->id_node);
	list_del(&e->node);
	ev->nr--;
	kfree(e);
}

/*
 * Everybody has answered, or need not. Under events->lock: the vCPU does not go
 * while it is held; and RCU.
 */
static void kvm_span_entry_decide(struct kvm_span_entry *e)
{
	struct kvm_span_events *ev = e->span->events;
	ktime_t now = ktime_get();

	if (e->state != KVM_SPAN_WAITING || e->open)
		return;
	WRITE_ONCE(ev->pending, ev->pending - 1);
	e->state = KVM_SPAN_DECIDED;
	e->waited = ktime_sub(now, e->start);
	if (!e->denied)
		kvm_span_entry_cancel(e);
	e->until = ktime_add_ns(now, KVM_SPAN_ANSWER_NS);
	kvm_span_arm(ev, e->until);
	if (e->vcpu) {
		WRITE_ONCE(e->vcpu->span.wake, true);
		kvm_vcpu_kick(e->vcpu);
	}
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

/* Tell those who want no more than to know. Under events->lock and RCU. */
static void kvm_span_notify(const struct kvm_span_ctx *ctx, u64 who, u32 flags)
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
static void kvm_span_violated(const struct kvm_span_ctx *ctx, u64 who)
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

/*
 * The instruction's writes to the page are discarded, or carried out, by the
 * emulator. Good until the vCPU enters the guest again.
 */
static int kvm_span_emulate(const struct kvm_span_ctx *ctx, u32 verdict)
{
	struct kvm_vcpu *vcpu = ctx->vcpu;

	vcpu->span.span = ctx->span;
	vcpu->span.page = ctx->page;
	vcpu->span.verdict = verdict;
	vcpu->span.source = ctx->source;
	vcpu->span.no_read = ctx->no_read;
	vcpu->span.crossing = false;
	vcpu->span.exits = vcpu->stat.exits;
	return RET_PF_EMULATE;
}

static bool kvm_span_emulating(struct kvm_vcpu *vcpu)
{
	return vcpu->span.span && vcpu->span.exits == vcpu->stat.exits;
}

/* The access does not happen. */
static int kvm_span_deny(const struct kvm_span_ctx *ctx)
{
	struct kvm_vcpu *vcpu = ctx->vcpu;

	atomic64_inc(&ctx->span->events->denials);
	if (ctx->flags & (SPAN_EVENT_F_WALK | SPAN_EVENT_F_DELIVERY)) {
		/* No way to go on without it: the processor's own last resort. */
		trace_kvm_span_deny(ctx->page, BIT(ctx->access), ctx->source, "triple fault");
		kvm_make_request(KVM_REQ_TRIPLE_FAULT, vcpu);
		return RET_PF_RETRY;
	}
	if (ctx->access == KVM_SPAN_W) {
		trace_kvm_span_deny(ctx->page, BIT(ctx->access), ctx->source, "discard");
		return kvm_span_emulate(ctx, KVM_SPAN_DENY);
	}
	/* An L1's window is a BAR: what does not answer reads as ones. */
	if (ctx->access == KVM_SPAN_R && ctx->source == SPAN_SOURCE_L1) {
		trace_kvm_span_deny(ctx->page, BIT(ctx->access), ctx->source, "ones");
		return kvm_span_emulate(ctx, KVM_SPAN_DENY);
	}
	trace_kvm_span_deny(ctx->page, BIT(ctx->access), ctx->source, "#GP");
	kvm_inject_gp(vcpu, 0);
	return RET_PF_RETRY;
}

/*
 * One of the vCPU's entries of this span that is in this state. Under
 * events->lock, which keeps what is found; the vCPU may have entries of other
 * spans in its list, too.
 */
static struct kvm_span_entry *kvm_span_vcpu_entry(struct kvm_span *span, struct kvm_vcpu *vcpu,
						  enum kvm_span_entry_state state)
{
	struct kvm_span_entry *e, *found = NULL;

	spin_lock(&vcpu->span.lock);
	hlist_for_each_entry(e, &vcpu->span.entries, vcpu_node) {
		if (e->span == span && e->state == state) {
			found = e;
			break;
		}
	}
	spin_unlock(&vcpu->span.lock);
	return found;
}

/* The access of this vCPU that was entered before. Under events->lock. */
static struct kvm_span_entry *kvm_span_entry_find(const struct kvm_span_ctx *ctx)
{
	unsigned long rip = kvm_rip_read(ctx->vcpu), cr3 = kvm_read_cr3(ctx->vcpu);
	struct kvm_span_entry *e, *found = NULL;

	/* What was emulated came to its end. */
	while ((e = kvm_span_vcpu_entry(ctx->span, ctx->vcpu, KVM_SPAN_EMULATED)))
		kvm_span_entry_free(e);

	spin_lock(&ctx->vcpu->span.lock);
	hlist_for_each_entry(e, &ctx->vcpu->span.entries, vcpu_node)
		if (e->span == ctx->span && e->page == ctx->page && e->rip == rip &&
		    e->cr3 == cr3 && e->access == ctx->access)
			found = e;
	spin_unlock(&ctx->vcpu->span.lock);
	return found;
}

/* The VM that L0 runs the guest in. Only compared: it may be gone. */
static bool kvm_span_is_base(struct kvm_span *span, struct kvm *kvm)
{
	return READ_ONCE(span->kvm) == kvm;
}

/* Make room among the entries of a vCPU. Under events->lock. */
static bool kvm_span_entry_room(struct kvm_span_events *ev, struct kvm_vcpu *vcpu)
{
	bool base = kvm_span_is_base(ev->span, vcpu->kvm);
	unsigned int n = 0, others = 0, ours = 0;
	struct kvm_span_entry *e;

	if (ev->nr >= KVM_SPAN_MAX_ENTRIES)
		return false;
	list_for_each_entry(e, &ev->entries, node) {
		others += e->source != SPAN_SOURCE_GUEST_L0;
		ours += e->kvm == vcpu->kvm;
	}
	if (!base && (others >= KVM_SPAN_OTHERS_ENTRIES || ours >= KVM_SPAN_VM_ENTRIES))
		return false;
	spin_lock(&vcpu->span.lock);
	hlist_for_each_entry(e, &vcpu->span.entries, vcpu_node)
		n++;
	spin_unlock(&vcpu->span.lock);
	if (n < KVM_SPAN_VCPU_ENTRIES)
		return true;
	/* An answer that it may yet come back for, and would ask for again. */
	e = kvm_span_vcpu_entry(ev->span, vcpu, KVM_SPAN_DECIDED);
	if (!e)
		return false;
	kvm_span_entry_free(e);
	return true;
}

/* Under events->lock. */
static void kvm_span_entry_add(const struct kvm_span_ctx *ctx, struct kvm_span_entry *e)
{
	struct kvm_span_events *ev = ctx->span->events;

	e->span = ctx->span;
	e->vcpu = ctx->vcpu;
	e->kvm = ctx->vcpu->kvm;
	e->state = KVM_SPAN_WAITING;
	e->id = ++ev->last_id;
	e->page = ctx->page;
	e->rip = kvm_rip_read(ctx->vcpu);
	e->cr3 = kvm_read_cr3(ctx->vcpu);
	e->access = ctx->access;
	e->source = ctx->source;
	e->start = ktime_get();
	ev->nr++;
	WRITE_ONCE(ev->pending, ev->pending + 1);
	list_add_tail(&e->node, &ev->entries);
	hlist_add_head(&e->id_node, &ev->by_id[e->id % ARRAY_SIZE(ev->by_id)]);
	spin_lock(&ctx->vcpu->span.lock);
	hlist_add_head(&e->vcpu_node, &ctx->vcpu->span.entries);
	spin_unlock(&ctx->vcpu->span.lock);
}

/*
 * Open the page for what these watches allowed and want to hear of again, and
 * see to its being closed. Under events->lock and RCU.
 */
static void kvm_span_lift(struct kvm_span_entry *e, u64 who)
{
	struct kvm_span_events *ev = e->span->events;
	struct kvm_span_watch *watch;
	unsigned int i;
	u32 masked;

	kvm_span_for_each_bit(i, who) {
		watch = kvm_span_watch_at(e->span, i);
		if (!watch)
			continue;
		masked = kvm_span_watch_masks(watch, KVM_SPAN_WHY_BLOCK, e->page);
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

static int kvm_span_ask(const struct kvm_span_ctx *ctx)
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
 * Does the vCPU run a nested guest by tables of its L1 (EPT)? Without, by shadow
 * page tables in the L1, neither CR3 nor addresses are the guest's.
 */
static bool kvm_span_nested_ept(struct kvm_vcpu *vcpu)
{
	return is_guest_mode(vcpu) && vcpu->arch.mmu == &vcpu->arch.guest_mmu;
}

static u8 kvm_span_source(struct kvm_span *span, struct kvm_vcpu *vcpu)
{
	if (kvm_span_is_base(span, vcpu->kvm))
		return SPAN_SOURCE_GUEST_L0;
	return is_guest_mode(vcpu) ? SPAN_SOURCE_GUEST_L1 : SPAN_SOURCE_L1;
}

/* Whose own access it is; as kvm_span_access() has it. */
static const struct kvm_span_member *kvm_span_own(struct kvm_vcpu *vcpu,
						  const struct kvm_memory_slot *slot)
{
	return is_guest_mode(vcpu) ? NULL : slot->arch.span_member;
}

/*
 * What a watch may know: registers and addresses of the guest, never those of
 * another L1.
 */
static void kvm_span_ctx_init(struct kvm_span_ctx *ctx, struct kvm_vcpu *vcpu,
			      const struct kvm_memory_slot *slot, gfn_t gfn, u8 access)
{
	*ctx = (struct kvm_span_ctx) {
		.vcpu = vcpu,
		.span = slot->arch.span,
		.own = kvm_span_own(vcpu, slot),
		.runner = slot->arch.span_member,
		.page = kvm_span_slot_page(slot, gfn),
		.gpa = ~0ULL,
		.vcpu_id = 0xffff,
		.access = access,
		.source = kvm_span_source(slot->arch.span, vcpu),
	};
	if (ctx->source == SPAN_SOURCE_L1)
		return;
	ctx->rip = kvm_rip_read(vcpu);
	if (ctx->source == SPAN_SOURCE_GUEST_L0) {
		ctx->gpa = gfn_to_gpa(gfn);
		ctx->vcpu_id = vcpu->vcpu_id;
		ctx->cr3 = kvm_read_cr3(vcpu);
	} else if (kvm_span_nested_ept(vcpu)) {
		ctx->cr3 = kvm_read_cr3(vcpu);
	}
}

static void kvm_span_count_fault(struct kvm_span_events *ev, u8 source)
{
	if (source == SPAN_SOURCE_GUEST_L0)
		atomic64_inc(&ev->ept_guest);
	else if (source == SPAN_SOURCE_GUEST_L1)
		atomic64_inc(&ev->ept_shadow);
	else
		atomic64_inc(&ev->ept_l1);
}

/*
 * The page that L0 itself maps at the guest's address. span->lock keeps the
 * base VM: it is dropped with the lock held.
 */
static void kvm_span_learn_base(struct kvm_span *span, struct kvm_vcpu *vcpu, gfn_t gfn)
{
	struct kvm_memory_slot *slot = NULL;
	int idx;

	vcpu->span.base_of = span;
	vcpu->span.base_layout = atomic_read(&kvm_span_layout);
	/* As of now or a little earlier: it is only for finding mistakes. */
	vcpu->span.base_gfn = gfn;
	vcpu->span.base_pages = 1;
	vcpu->span.base_ram = false;

	spin_lock(&span->lock);
	if (span->kvm) {
		idx = srcu_read_lock(&span->kvm->srcu);
		slot = gfn_to_memslot(span->kvm, gfn);
		if (slot && slot->arch.span == span) {
			vcpu->span.base_gfn = slot->base_gfn;
			vcpu->span.base_pages = slot->npages;
			vcpu->span.base_page = slot->arch.span_page;
			vcpu->span.base_ram = true;
		}
		srcu_read_unlock(&span->kvm->srcu, idx);
	}
	spin_unlock(&span->lock);
}

/* The vCPU remembers the slot: guests touch their memory in few of them. */
static bool kvm_span_base_page(struct kvm_span *span, struct kvm_vcpu *vcpu, gfn_t gfn,
			       u64 *page)
{
	if (unlikely(vcpu->span.base_of != span ||
		     vcpu->span.base_layout != atomic_read(&kvm_span_layout) ||
		     gfn - vcpu->span.base_gfn >= vcpu->span.base_pages))
		kvm_span_learn_base(span, vcpu, gfn);
	*page = vcpu->span.base_page + (gfn - vcpu->span.base_gfn);
	return vcpu->span.base_ram;
}

/*
 * An L1's table should lead to the page that L0 has at this guest address. It
 * need not: the L1 can only rearrange memory that it may use anyway, and masks
 * go by the page. So this finds mistakes, is counted, and the mapping goes on.
 */
static void kvm_span_check_remap(struct kvm_span *span, struct kvm_vcpu *vcpu, gfn_t guest_gfn,
				 u64 page)
{
	u64 base_page;

	if (likely(!kvm_span_base_page(span, vcpu, guest_gfn, &base_page) || base_page == page))
		return;
	atomic64_inc(&span->events->remaps);
	trace_kvm_span_remap(kvm_span_member_remapped(span, vcpu->kvm), guest_gfn, page,
			     base_page);
}

/* The access meets a mask. May sleep; kvm->srcu is held. */
static int kvm_span_masked(const struct kvm_span_ctx *ctx)
{
	u64 who;

	rcu_read_lock();
	who = kvm_span_who(ctx, KVM_SPAN_WHY_PROTECT, NULL);
	if (who)
		kvm_span_violated(ctx, who);
	rcu_read_unlock();
	return who ? kvm_span_deny(ctx) : kvm_span_ask(ctx);
}

/* A write that reaches no memory, whatever watches say. */
static bool kvm_span_writes_nothing(const struct kvm_memory_slot *slot)
{
	return (slot->flags & KVM_MEM_READONLY) ||
	       (slot->arch.span_member && !(slot->arch.span_member->access & KVM_SPAN_ACCESS_W));
}

/* The access meets a mask, or an answer may be there for it. */
static int kvm_span_slow_fault(struct kvm_vcpu *vcpu, struct kvm_page_fault *fault, u8 access)
{
	struct kvm_span_ctx ctx;
	u32 masked;

	kvm_span_ctx_init(&ctx, vcpu, fault->slot, fault->gfn, access);
	masked = kvm_span_mask_of(ctx.span, ctx.page, ctx.own) & kvm_span_need(access);
	/* Nobody touched it yet, and nothing shall be mapped behind a mask. */
	if (fault->prefetch)
		return masked ? RET_PF_SPURIOUS : RET_PF_CONTINUE;
	/* No mask any more, but perhaps an answer: "no, and leave me alone". */
	if (!masked && hlist_empty(&vcpu->span.entries))
		return RET_PF_CONTINUE;
	/* But KVM emulates it, and what an instruction writes it may have read there. */
	if (fault->write && !(masked & KVM_SPAN_ACCESS_R) && kvm_span_writes_nothing(fault->slot))
		return RET_PF_CONTINUE;

	ctx.no_read = masked & KVM_SPAN_ACCESS_R;
	if (ctx.source == SPAN_SOURCE_GUEST_L0)
		ctx.gpa |= fault->addr & ~PAGE_MASK;
	else if (ctx.source == SPAN_SOURCE_GUEST_L1 && kvm_span_nested_ept(vcpu))
		ctx.gpa = fault->addr;
	if (fault->error_code & PFERR_GUEST_PAGE_MASK)
		ctx.flags |= SPAN_EVENT_F_WALK;
	if (kvm_event_needs_reinjection(vcpu))
		ctx.flags |= SPAN_EVENT_F_DELIVERY;
	if (masked)
		atomic64_inc(&ctx.span->events->ept_masked);
	return kvm_span_masked(&ctx);
}

/* The fault is on a page of a span. */
static int kvm_span_slot_fault(struct kvm_vcpu *vcpu, struct kvm_page_fault *fault)
{
	u8 access = fault->exec ? KVM_SPAN_X : fault->write ? KVM_SPAN_W : KVM_SPAN_R;
	u64 page = kvm_span_slot_page(fault->slot, fault->gfn);
	struct kvm_span *span = fault->slot->arch.span;
	u8 source;

	if (likely(!fault->prefetch)) {
		source = kvm_span_source(span, vcpu);
		kvm_span_count_fault(span->events, source);
		if (source == SPAN_SOURCE_GUEST_L1 && kvm_span_nested_ept(vcpu))
			kvm_span_check_remap(span, vcpu, gpa_to_gfn(fault->addr), page);
		vcpu->span.span = NULL;
		/* What ends the halt of a span does not end KVM's own ones. */
		WRITE_ONCE(vcpu->span.wake, false);
	}
	if (likely(hlist_empty(&vcpu->span.entries) &&
		   (!READ_ONCE(span->active) ||
		    !(kvm_span_mask_of(span, page, NULL) & kvm_span_need(access)))))
		return RET_PF_CONTINUE;
	return kvm_span_slow_fault(vcpu, fault, access);
}

/*
 * From the page-fault handlers, before anything is looked up. A window that was
 * taken away comes first: an async page fault in it would spin, and the L1 count
 * it as its own.
 */
int __kvm_span_fault(struct kvm_vcpu *vcpu, struct kvm_page_fault *fault)
{
	static_assert(!RET_PF_CONTINUE);	/* kvm_span_fault() */

	if (!fault->slot)
		return RET_PF_CONTINUE;
	if (kvm_span_fenced(vcpu->kvm, fault->slot, fault->gfn))
		return kvm_span_pause(vcpu) ?: RET_PF_RETRY;
	return likely(!kvm_span_of(fault->slot)) ? RET_PF_CONTINUE :
						   kvm_span_slot_fault(vcpu, fault);
}

/*
 * An instruction that we gave to the emulator comes to another page that is
 * masked. Between two iterations of a string instruction the processor can go
 * on, and faults there. Else, if its write was allowed, the processor does it
 * with the page open for a moment; if it was denied, this part of the write is
 * denied, too.
 */
static enum kvm_span_emul kvm_span_emulated_elsewhere(struct kvm_vcpu *vcpu, bool write)
{
	bool crossing = vcpu->span.crossing;

	vcpu->span.crossing = false;
	if (vcpu->arch.emulate_ctxt->rep_prefix && !crossing)
		return KVM_SPAN_EMUL_RETRY;
	return write && vcpu->span.verdict == KVM_SPAN_DENY ? KVM_SPAN_EMUL_DISCARD :
							     KVM_SPAN_EMUL_FAIL;
}

/* The page that was denied. */
static enum kvm_span_emul kvm_span_emulated_here(struct kvm_vcpu *vcpu, bool write)
{
	if (write)
		return KVM_SPAN_EMUL_DISCARD;
	/* A read that goes before the write, or the read itself. */
	if (!vcpu->span.no_read)
		return KVM_SPAN_EMUL_GO;
	return vcpu->span.source == SPAN_SOURCE_L1 ? KVM_SPAN_EMUL_ONES : KVM_SPAN_EMUL_FAIL;
}

/*
 * The emulator is about to access a page by its host address, where no mask of
 * an EPT is in the way.
 */
enum kvm_span_emul __kvm_span_emulated(struct kvm_vcpu *vcpu, gpa_t gpa, bool write)
{
	struct kvm_memory_slot *slot = kvm_vcpu_gfn_to_memslot(vcpu, gpa_to_gfn(gpa));
	u32 need = kvm_span_need(write ? KVM_SPAN_W : KVM_SPAN_R);
	bool ours = kvm_span_emulating(vcpu), here;
	struct kvm_span_ctx ctx;
	u64 who;

	if (!kvm_span_of(slot))
		return KVM_SPAN_EMUL_GO;
	here = ours && vcpu->span.span == slot->arch.span &&
	       vcpu->span.page == kvm_span_slot_page(slot, gpa_to_gfn(gpa));
	if (here && vcpu->span.verdict == KVM_SPAN_DENY)
		return kvm_span_emulated_here(vcpu, write);
	if (!(kvm_span_mask_of(slot->arch.span, kvm_span_slot_page(slot, gpa_to_gfn(gpa)),
			       kvm_span_own(vcpu, slot)) & need)) {
		vcpu->span.crossing = false;
		return KVM_SPAN_EMUL_GO;
	}
	if (ours && !here)
		return kvm_span_emulated_elsewhere(vcpu, write);

	/*
	 * KVM emulates for its own reasons: too late to ask, but not to protect.
	 * The same if a protection came after the access was allowed.
	 */
	kvm_span_ctx_init(&ctx, vcpu, slot, gpa_to_gfn(gpa), write ? KVM_SPAN_W : KVM_SPAN_R);
	rcu_read_lock();
	who = kvm_span_who(&ctx, KVM_SPAN_WHY_PROTECT, NULL);
	if (who)
		kvm_span_violated(&ctx, who);
	rcu_read_unlock();
	if (!who)
		return KVM_SPAN_EMUL_GO;
	atomic64_inc(&ctx.span->events->denials);
	trace_kvm_span_deny(ctx.page, BIT(ctx.access), ctx.source, write ? "discard" : "ones");
	return write ? KVM_SPAN_EMUL_DISCARD : KVM_SPAN_EMUL_ONES;
}

/*
 * A write over the end of a page, in an instruction that we gave to the emulator.
 * Nothing is written yet. Must it be given up? If it was allowed: the processor
 * does it whole, or faults on the other page; half of it could not be repeated.
 */
bool __kvm_span_crossing(struct kvm_vcpu *vcpu)
{
	if (!kvm_span_emulating(vcpu))
		return false;
	vcpu->span.crossing = true;
	return vcpu->span.verdict == KVM_SPAN_ALLOW;
}

/*
 * A reference to the span of an entry of the vCPU; this very one, if it is given.
 * An entry's span is alive while the entry is in the list, but it may be about
 * to end: then it takes the entry out itself.
 */
static struct kvm_span *kvm_span_vcpu_get_span(struct kvm_vcpu *vcpu,
					       const struct kvm_span *wanted)
{
	struct kvm_span *span = NULL;
	struct kvm_span_entry *e;

	spin_lock(&vcpu->span.lock);
	hlist_for_each_entry(e, &vcpu->span.entries, vcpu_node) {
		if ((!wanted || e->span == wanted) && kref_get_unless_zero(&e->span->ref)) {
			span = e->span;
			break;
		}
	}
	spin_unlock(&vcpu->span.lock);
	return span;
}

/*
 * The emulator cannot do the instruction that we gave it. Nothing of it has
 * happened, or a whole number of iterations. True: handled.
 */
bool __kvm_span_emulation_failed(struct kvm_vcpu *vcpu)
{
	struct kvm_span_entry *e;
	struct kvm_span_ctx ctx;
	struct kvm_span *span;
	u64 who;

	if (!kvm_span_emulating(vcpu))
		return false;
	span = vcpu->span.span;
	vcpu->span.span = NULL;
	if (vcpu->span.verdict == KVM_SPAN_DENY) {
		trace_kvm_span_deny(vcpu->span.page, KVM_SPAN_ACCESS_W, vcpu->span.source, "#GP");
		kvm_inject_gp(vcpu, 0);
		return true;
	}
	/*
	 * Let the processor do it, with the page open for a moment. If its entry
	 * has ended, and be it with the span, the access is asked for anew.
	 */
	if (!kvm_span_vcpu_get_span(vcpu, span))
		return true;
	rcu_read_lock();
	spin_lock(&span->events->lock);
	e = kvm_span_vcpu_entry(span, vcpu, KVM_SPAN_EMULATED);
	if (e) {
		ctx = (struct kvm_span_ctx) {
			.span = span, .page = e->page, .access = e->access,
		};
		/* Whoever came since is asked when the access comes again. */
		who = kvm_span_who(&ctx, KVM_SPAN_WHY_BLOCK, NULL) & e->told;
		kvm_span_lift(e, who);
	}
	spin_unlock(&span->events->lock);
	rcu_read_unlock();
	kvm_span_put(span);
	return true;
}

void kvm_span_vcpu_init(struct kvm_vcpu *vcpu)
{
	spin_lock_init(&vcpu->span.lock);
	INIT_HLIST_HEAD(&vcpu->span.entries);
}

/* An entry that its span is taking out is waited for. */
static void kvm_span_vcpu_drop(struct kvm_vcpu *vcpu)
{
	struct kvm_span_entry *e;
	struct kvm_span *span;
	int state;

	while (!hlist_empty(&vcpu->span.entries)) {
		span = kvm_span_vcpu_get_span(vcpu, NULL);
		if (!span) {
			cond_resched();
			continue;
		}
		spin_lock(&span->events->lock);
		for (state = KVM_SPAN_WAITING; state <= KVM_SPAN_EMULATED; state++)
			while ((e = kvm_span_vcpu_entry(span, vcpu, state)))
				kvm_span_entry_free(e);
		spin_unlock(&span->events->lock);
		kvm_span_put(span);
	}
}

/*
 * The vCPU has other registers than it had, or runs elsewhere: whatever it does
 * next is not the access that it waited for, or was answered, even if it looks the
 * same. Under vcpu->mutex.
 */
void __kvm_span_moved(struct kvm_vcpu *vcpu)
{
	/* In the middle of an instruction what was decided about it holds to its end. */
	if (!vcpu->arch.complete_userspace_io)
		vcpu->span.span = NULL;
	if (hlist_empty(&vcpu->span.entries))
		return;
	kvm_span_vcpu_drop(vcpu);
	/* Nobody is left who would end its halt. */
	kvm_clear_request(KVM_REQ_APF_HALT, vcpu);
	vcpu->arch.apf.halted = false;
}

/* The vCPU goes. */
void kvm_span_vcpu_destroy(struct kvm_vcpu *vcpu)
{
	kvm_span_vcpu_drop(vcpu);
	/* Whoever took the last one out is through with the vCPU's lock. */
	spin_lock(&vcpu->span.lock);
	spin_unlock(&vcpu->span.lock);
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

static void kvm_span_rearm(struct work_struct *work)
{
	struct kvm_span_events *ev = container_of(work, struct kvm_span_events, rearm);
	unsigned int n;

	do {
		mutex_lock(&ev->span->control);
		n = kvm_span_close_some(ev);
		mutex_unlock(&ev->span->control);
	} while (n);
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
	raw_spin_lock_init(&ev->wrote_lock);
	INIT_LIST_HEAD(&ev->entries);
	ev->next = KTIME_MAX;
	hrtimer_init(&ev->timer, CLOCK_MONOTONIC, HRTIMER_MODE_ABS);
	ev->timer.function = kvm_span_timer;
	INIT_WORK(&ev->tick, kvm_span_tick);
	INIT_WORK(&ev->rearm, kvm_span_rearm);
	INIT_WORK(&ev->wrote_work, kvm_span_wrote_work);
	init_irq_work(&ev->wrote_irq, kvm_span_wrote_irq);
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
	irq_work_sync(&ev->wrote_irq);
	hrtimer_cancel(&ev->timer);
	cancel_work_sync(&ev->tick);
	cancel_work_sync(&ev->rearm);
	cancel_work_sync(&ev->wrote_work);
	spin_lock(&ev->lock);
	list_for_each_entry_safe(e, tmp, &ev->entries, node)
		kvm_span_entry_free(e);
	spin_unlock(&ev->lock);
	span->events = NULL;
	kfree(ev);
}
