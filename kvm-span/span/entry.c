// SPDX-License-Identifier: GPL-2.0
/*
 * KVM Span: the table of accesses that wait, or have been answered
 *
 * An entry is found again by vCPU, page, kind of access, instruction and address
 * space. It is in the table of its span and in the list of its vCPU; either may go
 * first.
 */
#include <linux/slab.h>
#include <uapi/linux/span_port.h>

#include "kvm_cache_regs.h"
#include "x86.h"

#include "event.h"
#include "span_hooks.h"

/* Accesses of one span that are remembered, in whatever state. */
#define KVM_SPAN_MAX_ENTRIES	256
/* ... of all VMs but the guest's own, and of one of them: none takes all. */
#define KVM_SPAN_OTHERS_ENTRIES	192
#define KVM_SPAN_VM_ENTRIES	32
/* ... of one vCPU: interrupts that came while it waited, one in another. */
#define KVM_SPAN_VCPU_ENTRIES	4

/* The VM that L0 runs the guest in. Only compared: it may be gone. */
bool kvm_span_is_base(struct kvm_span *span, struct kvm *kvm)
{
	return READ_ONCE(span->kvm) == kvm;
}

/* Under events->lock. */
void kvm_span_entry_leave_vcpu(struct kvm_span_entry *e)
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
void kvm_span_entry_cancel(struct kvm_span_entry *e)
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
void kvm_span_entry_free(struct kvm_span_entry *e)
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
void kvm_span_entry_decide(struct kvm_span_entry *e)
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

/*
 * One of the vCPU's entries of this span that is in this state. Under
 * events->lock, which keeps what is found; the vCPU may have entries of other
 * spans in its list, too.
 */
struct kvm_span_entry *kvm_span_vcpu_entry(struct kvm_span *span, struct kvm_vcpu *vcpu,
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
struct kvm_span_entry *kvm_span_entry_find(const struct kvm_span_ctx *ctx)
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

/* Make room among the entries of a vCPU. Under events->lock. */
bool kvm_span_entry_room(struct kvm_span_events *ev, struct kvm_vcpu *vcpu)
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
void kvm_span_entry_add(const struct kvm_span_ctx *ctx, struct kvm_span_entry *e)
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
 * A reference to the span of an entry of the vCPU; this very one, if it is given.
 * An entry's span is alive while the entry is in the list, but it may be about
 * to end: then it takes the entry out itself.
 */
struct kvm_span *kvm_span_vcpu_get_span(struct kvm_vcpu *vcpu, const struct kvm_span *wanted)
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
