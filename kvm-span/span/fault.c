// SPDX-License-Identifier: GPL-2.0
/*
 * KVM Span: faults on a page that a watch masks, and whose they are
 *
 * A vCPU that meets a mask comes to __kvm_span_fault() before KVM looks for a
 * page. What is protected is denied there and then; of the rest, watches are asked
 * or told (event.c).
 */
#include <uapi/linux/span_port.h>

#include "mmu.h"
#include "mmu/mmu_internal.h"
#include "kvm_cache_regs.h"
#include "x86.h"

#include "event.h"
#include "span_hooks.h"
#include "trace.h"

/*
 * Does the vCPU run a nested guest by tables of its L1 (EPT)? Without, by shadow
 * page tables in the L1, neither CR3 nor addresses are the guest's.
 */
static bool kvm_span_nested_ept(struct kvm_vcpu *vcpu)
{
	return is_guest_mode(vcpu) && vcpu->arch.mmu == &vcpu->arch.guest_mmu;
}

u8 kvm_span_source(struct kvm_span *span, struct kvm_vcpu *vcpu)
{
	if (kvm_span_is_base(span, vcpu->kvm))
		return SPAN_SOURCE_GUEST_L0;
	return is_guest_mode(vcpu) ? SPAN_SOURCE_GUEST_L1 : SPAN_SOURCE_L1;
}

/* Whose own access it is; as kvm_span_access() has it. */
const struct kvm_span_member *kvm_span_own(struct kvm_vcpu *vcpu,
					   const struct kvm_memory_slot *slot)
{
	return is_guest_mode(vcpu) ? NULL : slot->arch.span_member;
}

/*
 * What a watch may know: registers and addresses of the guest, never those of
 * another L1.
 */
void kvm_span_ctx_init(struct kvm_span_ctx *ctx, struct kvm_vcpu *vcpu,
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
