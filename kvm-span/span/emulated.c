// SPDX-License-Identifier: GPL-2.0
/*
 * KVM Span: accesses that do not happen, and writes that the emulator does
 *
 * A write that was allowed is carried out by KVM's emulator, which leaves the page
 * closed for everybody else; one that was denied goes the same way and is
 * discarded there.
 */
#include <uapi/linux/span_port.h>

#include "mmu.h"
#include "mmu/mmu_internal.h"
#include "x86.h"
#include "kvm_emulate.h"

#include "event.h"
#include "span_hooks.h"
#include "trace.h"

bool kvm_span_emulating(struct kvm_vcpu *vcpu)
{
	return vcpu->span.span && vcpu->span.exits == vcpu->stat.exits;
}

/*
 * The instruction's writes to the page are discarded, or carried out, by the
 * emulator. Good until the vCPU enters the guest again.
 */
int kvm_span_emulate(const struct kvm_span_ctx *ctx, u32 verdict)
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

/* The access does not happen. */
int kvm_span_deny(const struct kvm_span_ctx *ctx)
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
