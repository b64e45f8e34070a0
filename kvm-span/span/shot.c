// SPDX-License-Identifier: GPL-2.0
/*
 * KVM Span, L0 side: the state of a vCPU of the guest that an L1 runs.
 *
 * While the L1 has the guest in guest mode, all of it is in our own vCPU and
 * VMCS, except for the local APIC, which is a page of the L1's. When the guest
 * exits to the L1, it is here for the last time: the L1 may go on from there, or
 * stop, and tells nobody. So for a vCPU that is to be taken back from an L1 that
 * does not cooperate, the state is copied at each such exit: a shot. It is the
 * guest's state until the L1 enters it again, but for what the L1 does for the
 * exit; where that is nothing which the guest cannot do once more, the shot is
 * as good as the state itself.
 *
 * Nothing that comes out of the L1 is believed; how it goes into the guest's own
 * vCPU is in restore.c.
 */
#include <linux/delay.h>
#include <linux/mm.h>
#include <linux/sched/mm.h>
#include <linux/slab.h>

#include <asm/vmx.h>

#include "x86.h"
#include "kvm_cache_regs.h"
#include "lapic.h"
#include "mmu.h"
#include "shot.h"
#include "vcpu.h"
#include "span_hooks.h"

/* How long in all, in ns, an exit waits for memory of the L1 that is out of reach. */
#define KVM_SPAN_EXIT_PATIENCE	(2 * NSEC_PER_MSEC)

const u32 kvm_span_msrs[KVM_SPAN_MSRS] = {
	MSR_KERNEL_GS_BASE, MSR_IA32_SYSENTER_CS, MSR_IA32_SYSENTER_ESP,
	MSR_IA32_SYSENTER_EIP, MSR_STAR, MSR_LSTAR, MSR_CSTAR, MSR_SYSCALL_MASK,
	MSR_IA32_CR_PAT, MSR_TSC_AUX, MSR_IA32_SPEC_CTRL, MSR_IA32_XSS,
};

/* Shots are put into and taken out of the lists of VMs. */
static DEFINE_SPINLOCK(kvm_span_shots_lock);

/* On while there is a shot. Off with a delay, as kvm_span_any. */
DEFINE_STATIC_KEY_DEFERRED_FALSE(kvm_span_shots, HZ);
EXPORT_SYMBOL_GPL(kvm_span_shots);

static void kvm_span_shot_free(struct kref *ref)
{
	struct kvm_span_shot *shot = container_of(ref, struct kvm_span_shot, ref);

	kvfree(shot->xsave);
	kfree_rcu(shot, rcu);
}

static void kvm_span_shot_put(struct kvm_span_shot *shot)
{
	kref_put(&shot->ref, kvm_span_shot_free);
}

/* The member gets this vCPU. It is joined, and stays so long enough. */
struct kvm_span_shot *kvm_span_shot_new(struct kvm_span_member *member,
					const struct kvm_vcpu *base)
{
	struct kvm_vcpu *vcpu = kvm_get_vcpu(member->kvm, 0);
	struct kvm_span_shot *shot;

	shot = kzalloc(sizeof(*shot), GFP_KERNEL_ACCOUNT);
	if (!shot)
		return NULL;
	shot->xsave_bytes = base->arch.guest_fpu.uabi_size;
	if (vcpu)
		shot->xsave_bytes = max(shot->xsave_bytes, vcpu->arch.guest_fpu.uabi_size);
	shot->xsave = kvzalloc(shot->xsave_bytes, GFP_KERNEL_ACCOUNT);
	if (!shot->xsave) {
		kfree(shot);
		return NULL;
	}
	kref_init(&shot->ref);
	mutex_init(&shot->lock);
	shot->span = member->span;
	shot->kvm = member->kvm;
	shot->vcpu = base->vcpu_id;
	shot->eptp = INVALID_GPA;
	static_branch_inc(&kvm_span_shots.key);
	spin_lock(&kvm_span_shots_lock);
	hlist_add_head_rcu(&shot->node, &shot->kvm->arch.span.shots);
	spin_unlock(&kvm_span_shots_lock);
	return shot;
}

/* Nobody takes it any more, though a vCPU of the L1 may be at it still. */
void kvm_span_shot_end(struct kvm_span_shot *shot)
{
	spin_lock(&kvm_span_shots_lock);
	hlist_del_rcu(&shot->node);
	spin_unlock(&kvm_span_shots_lock);
	/* Whoever is at it uses span and kvm. */
	mutex_lock(&shot->lock);
	shot->span = NULL;
	mutex_unlock(&shot->lock);
	static_branch_slow_dec_deferred(&kvm_span_shots);
	kvm_span_shot_put(shot);
}

/*
 * Memory of the L1, whoever calls this. Its process may do with its memory and
 * its mmap_lock what it likes: the lock is waited for as long as there is patience,
 * which all reads of an exit or of a salvage share; and a page that is not mapped
 * is not brought in, which may take as long as the process wants.
 */
static int kvm_span_shot_page(struct mm_struct *mm, unsigned long hva, struct page **page,
			      s64 *patience)
{
	ktime_t start;
	long got;

	while (!mmap_read_trylock(mm)) {
		if (*patience <= 0)
			return -EBUSY;
		start = ktime_get();
		usleep_range(10, 50);
		*patience -= ktime_to_ns(ktime_sub(ktime_get(), start));
	}
	got = get_user_pages_remote(mm, hva, 1, FOLL_NOFAULT, page, NULL);
	mmap_read_unlock(mm);
	return got == 1 ? 0 : -EFAULT;
}

/* Within a page. */
int kvm_span_shot_read(struct kvm *kvm, gpa_t gpa, void *to, unsigned int bytes,
		       s64 *patience)
{
	unsigned long hva;
	struct page *page;
	int idx, r;

	if (offset_in_page(gpa) + bytes > PAGE_SIZE)
		return -EFAULT;
	idx = srcu_read_lock(&kvm->srcu);
	hva = gfn_to_hva(kvm, gpa_to_gfn(gpa));
	srcu_read_unlock(&kvm->srcu, idx);
	if (kvm_is_error_hva(hva))
		return -EFAULT;
	if (!mmget_not_zero(kvm->mm))
		return -ESRCH;
	r = kvm_span_shot_page(kvm->mm, hva, &page, patience);
	mmput_async(kvm->mm);
	if (r)
		return r;
	memcpy_from_page(to, page, offset_in_page(gpa), bytes);
	put_page(page);
	return 0;
}

/* Where the L1's EPT leads to. */
static int kvm_span_shot_walk(struct kvm *kvm, u64 eptp, gpa_t gpa, gpa_t *l1_gpa,
			      s64 *patience)
{
	int r, shift, level = ((eptp & VMX_EPTP_PWL_MASK) >> 3) + 1;
	u64 entry = eptp, mask;

	if (level != PT64_ROOT_4LEVEL && level != PT64_ROOT_5LEVEL)
		return -EINVAL;
	for (; level >= PG_LEVEL_4K; level--) {
		shift = PAGE_SHIFT + 9 * (level - 1);
		r = kvm_span_shot_read(kvm, (entry & GENMASK_ULL(51, 12)) +
				       8 * (gpa >> shift & 511), &entry, 8, patience);
		if (r)
			return r;
		if (!(entry & VMX_EPT_RWX_MASK))
			return -ENOENT;
		if (level == PG_LEVEL_4K || (level <= PG_LEVEL_1G && (entry & BIT(7))))
			break;
	}
	mask = BIT_ULL(shift) - 1;
	*l1_gpa = (entry & GENMASK_ULL(51, 12) & ~mask) | (gpa & mask);
	return 0;
}

/*
 * Is it a vCPU of this guest, or one with the same APIC id of another guest of
 * the L1's? CR3 leads to the guest's memory by the L1's EPT. Under shot->lock.
 */
bool kvm_span_shot_is(struct kvm_span_shot *shot, u64 eptp, u64 cr3, s64 *patience)
{
	struct kvm_memory_slot *slot;
	bool same;
	gpa_t gpa;
	int idx;

	lockdep_assert_held(&shot->lock);
	if (!shot->span)
		return false;
	if (eptp == shot->eptp)
		return true;
	if (kvm_span_shot_walk(shot->kvm, eptp, cr3 & GENMASK_ULL(51, 12), &gpa,
			       patience))
		return false;
	idx = srcu_read_lock(&shot->kvm->srcu);
	slot = gfn_to_memslot(shot->kvm, gpa_to_gfn(gpa));
	same = kvm_span_of(slot) == shot->span;
	srcu_read_unlock(&shot->kvm->srcu, idx);
	if (same)
		shot->eptp = eptp;
	return same;
}

/* The nth shot that may be about a vCPU with this APIC id, with a reference. */
static struct kvm_span_shot *kvm_span_shot_nth(struct kvm *kvm, u32 id, unsigned int nth)
{
	struct kvm_span_shot *shot;

	rcu_read_lock();
	hlist_for_each_entry_rcu(shot, &kvm->arch.span.shots, node) {
		/* x2APIC, or xAPIC */
		if (id != shot->vcpu && id != shot->vcpu << 24)
			continue;
		if (nth--)
			continue;
		if (!kref_get_unless_zero(&shot->ref))
			break;
		rcu_read_unlock();
		return shot;
	}
	rcu_read_unlock();
	return NULL;
}

/*
 * The shot of the guest that a vCPU of the L1 has in guest mode, locked, with a
 * reference; or NULL.
 */
static struct kvm_span_shot *kvm_span_shot_lock(struct kvm_vcpu *vcpu,
						const struct kvm_span_nested *nested,
						s64 *patience)
{
	struct kvm_span_shot *shot;
	unsigned int nth = 0;
	u32 id;

	if (!nested->eptp || !nested->apic)
		return NULL;
	id = READ_ONCE(*(const u32 *)(nested->apic + APIC_ID));
	while ((shot = kvm_span_shot_nth(vcpu->kvm, id, nth++))) {
		mutex_lock(&shot->lock);
		if (kvm_span_shot_is(shot, nested->eptp, kvm_read_cr3(vcpu), patience))
			return shot;
		mutex_unlock(&shot->lock);
		kvm_span_shot_put(shot);
	}
	return NULL;
}

static void kvm_span_shot_unlock(struct kvm_span_shot *shot)
{
	mutex_unlock(&shot->lock);
	kvm_span_shot_put(shot);
}

/* An MSR whose write can be repeated, as it is the guest's own affair. */
static bool kvm_span_msr_again(u32 msr)
{
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(kvm_span_msrs); i++)
		if (msr == kvm_span_msrs[i])
			return true;
	switch (msr) {
	case MSR_IA32_TSC_DEADLINE:
	case MSR_IA32_PRED_CMD:
	case MSR_IA32_FLUSH_CMD:
	case MSR_EFER:
	case MSR_FS_BASE:
	case MSR_GS_BASE:
	case MSR_IA32_XFD:
		return true;
	default:
		return false;
	}
}

/*
 * What may the L1 have done for this exit? Nothing that matters, if it is about
 * the L1 itself or if the instruction changes the vCPU alone.
 */
static enum kvm_span_exit kvm_span_exit_kind(struct kvm_vcpu *vcpu, u32 reason, u32 intr_info)
{
	u32 vector = intr_info & INTR_INFO_VECTOR_MASK;
	u32 msr = kvm_rcx_read(vcpu);

	switch (reason) {
	case EXIT_REASON_EXTERNAL_INTERRUPT:
	case EXIT_REASON_INTERRUPT_WINDOW:
	case EXIT_REASON_NMI_WINDOW:
	case EXIT_REASON_PREEMPTION_TIMER:
	case EXIT_REASON_TPR_BELOW_THRESHOLD:
	case EXIT_REASON_HLT:
	case EXIT_REASON_PAUSE_INSTRUCTION:
	case EXIT_REASON_MWAIT_INSTRUCTION:
	case EXIT_REASON_MONITOR_INSTRUCTION:
	case EXIT_REASON_CPUID:
	case EXIT_REASON_INVLPG:
	case EXIT_REASON_INVPCID:
	case EXIT_REASON_RDPMC:
	case EXIT_REASON_RDTSC:
	case EXIT_REASON_RDTSCP:
	case EXIT_REASON_CR_ACCESS:
	case EXIT_REASON_DR_ACCESS:
	case EXIT_REASON_GDTR_IDTR:
	case EXIT_REASON_MSR_READ:
	case EXIT_REASON_WBINVD:
	case EXIT_REASON_XSETBV:
		return KVM_SPAN_EXIT_AGAIN;
	case EXIT_REASON_EXCEPTION_NMI:
		/* The L1's NMI; or a fault, which comes again with its instruction. */
		return vector == NMI_VECTOR || vector == UD_VECTOR || vector == NM_VECTOR ||
		       vector == AC_VECTOR ? KVM_SPAN_EXIT_AGAIN : KVM_SPAN_EXIT_FINAL;
	case EXIT_REASON_EPT_VIOLATION:
	case EXIT_REASON_EPT_MISCONFIG:
		return KVM_SPAN_EXIT_RAM;
	case EXIT_REASON_MSR_WRITE:
		if (msr == APIC_BASE_MSR + (APIC_EOI >> 4))
			return KVM_SPAN_EXIT_EOI;
		return kvm_span_msr_again(msr) ? KVM_SPAN_EXIT_AGAIN : KVM_SPAN_EXIT_FINAL;
	default:
		return KVM_SPAN_EXIT_FINAL;
	}
}

static void kvm_span_shot_exception(struct kvm_vcpu_events *events,
				    const struct kvm_queued_exception *ex)
{
	/* With its instruction it comes again. */
	if (kvm_exception_is_soft(ex->vector))
		return;
	events->exception.injected = ex->injected;
	events->exception.pending = ex->pending;
	events->exception.nr = ex->vector;
	events->exception.has_error_code = ex->has_error_code;
	events->exception.error_code = ex->error_code;
	events->exception_has_payload = ex->has_payload;
	events->exception_payload = ex->payload;
}

/* An event that the L1 wanted injected with an entry that was not tried yet. */
static void kvm_span_shot_entry_event(struct kvm_vcpu_events *events, u32 event, u32 error)
{
	u8 vector = event & INTR_INFO_VECTOR_MASK;

	if (!(event & INTR_INFO_VALID_MASK))
		return;
	switch (event & INTR_INFO_INTR_TYPE_MASK) {
	case INTR_TYPE_EXT_INTR:
		events->interrupt.injected = 1;
		events->interrupt.nr = vector;
		break;
	case INTR_TYPE_NMI_INTR:
		events->nmi.injected = 1;
		break;
	case INTR_TYPE_HARD_EXCEPTION:
		events->exception.injected = 1;
		events->exception.pending = 0;
		events->exception.nr = vector;
		events->exception.has_error_code = !!(event & INTR_INFO_DELIVER_CODE_MASK);
		events->exception.error_code = error;
		break;
	default:
		/* Of software: the instruction is still to be executed. */
		break;
	}
}

/* Not as KVM_GET_VCPU_EVENTS has it: NMIs, SMIs and INITs that wait are the L1's. */
static void kvm_span_shot_events(struct kvm_span_shot *shot, struct kvm_vcpu *vcpu)
{
	const struct kvm_queued_exception *ex = &vcpu->arch.exception;
	struct kvm_vcpu_events *events = &shot->events;

	memset(events, 0, sizeof(*events));
	/* One that L1 would have been told of is the guest's own still. */
	if (vcpu->arch.exception_vmexit.pending && !ex->pending && !ex->injected)
		ex = &vcpu->arch.exception_vmexit;
	kvm_span_shot_exception(events, ex);
	events->interrupt.injected = vcpu->arch.interrupt.injected && !vcpu->arch.interrupt.soft;
	events->interrupt.nr = vcpu->arch.interrupt.nr;
	events->interrupt.shadow = kvm_x86_call(get_interrupt_shadow)(vcpu);
	events->nmi.injected = vcpu->arch.nmi_injected;
	events->nmi.masked = kvm_x86_call(get_nmi_mask)(vcpu);
	events->nmi.pending = shot->nested.nmi_window;
	events->flags = KVM_VCPUEVENT_VALID_NMI_PENDING | KVM_VCPUEVENT_VALID_SHADOW |
			KVM_VCPUEVENT_VALID_SMM;
	kvm_span_shot_entry_event(events, shot->nested.entry_event, shot->nested.entry_error);
}

static void kvm_span_shot_debug(struct kvm_span_shot *shot, const struct kvm_vcpu *vcpu)
{
	unsigned int i;

	memset(&shot->debug, 0, sizeof(shot->debug));
	for (i = 0; i < ARRAY_SIZE(shot->debug.db); i++)
		shot->debug.db[i] = vcpu->arch.db[i];
	shot->debug.dr6 = vcpu->arch.dr6;
	shot->debug.dr7 = vcpu->arch.dr7;
}

static void kvm_span_shot_fpu(struct kvm_span_shot *shot, struct kvm_vcpu *vcpu)
{
	/* Between exit and entry it is in the processor, after KVM_RUN in memory. */
	bool loaded = vcpu->arch.guest_fpu.fpstate->in_use;

	if (loaded)
		kvm_put_guest_fpu(vcpu);
	kvm_vcpu_ioctl_x86_get_xsave2(vcpu, shot->xsave, shot->xsave_bytes);
	if (loaded)
		kvm_load_guest_fpu(vcpu);
	shot->xcr0 = vcpu->arch.xcr0;
}

/* For user space that does not know of payloads, reading delivers one. */
static void kvm_span_shot_sregs(struct kvm_span_shot *shot, struct kvm_vcpu *vcpu)
{
	struct kvm_queued_exception ex = vcpu->arch.exception;
	unsigned long cr2 = vcpu->arch.cr2, dr6 = vcpu->arch.dr6;

	memset(&shot->sregs, 0, sizeof(shot->sregs));
	__get_sregs(vcpu, &shot->sregs);
	vcpu->arch.exception = ex;
	vcpu->arch.cr2 = cr2;
	vcpu->arch.dr6 = dr6;
}

/*
 * The vCPU is loaded, in guest mode, and this is its guest. Changes nothing in it,
 * as the guest may run on.
 */
static void kvm_span_shot_take(struct kvm_span_shot *shot, struct kvm_vcpu *vcpu,
			       const struct kvm_span_nested *nested)
{
	unsigned int i;

	lockdep_assert_held(&shot->lock);
	shot->nested = *nested;
	shot->halted = vcpu->arch.mp_state == KVM_MP_STATE_HALTED;
	__get_regs(vcpu, &shot->regs);
	kvm_span_shot_sregs(shot, vcpu);
	kvm_span_shot_events(shot, vcpu);
	kvm_span_shot_debug(shot, vcpu);
	for (i = 0; i < ARRAY_SIZE(kvm_span_msrs); i++)
		shot->known[i] = !__kvm_get_msr(vcpu, kvm_span_msrs[i], &shot->msrs[i], true);
	kvm_span_shot_fpu(shot, vcpu);
	for (i = 0; i < ARRAY_SIZE(shot->isr); i++) {
		shot->isr[i] = READ_ONCE(*(const u32 *)(nested->apic + APIC_ISR + 0x10 * i));
		shot->irr[i] = READ_ONCE(*(const u32 *)(nested->apic + APIC_IRR + 0x10 * i));
	}
	shot->valid = true;
}

/* A nested guest exits to its L1. In the vCPU's thread, which may sleep. */
void __kvm_span_leaves(struct kvm_vcpu *vcpu, u32 reason, u32 intr_info)
{
	s64 patience = KVM_SPAN_EXIT_PATIENCE;
	struct kvm_span_nested nested;
	struct kvm_span_shot *shot;

	if (hlist_empty(&vcpu->kvm->arch.span.shots))
		return;
	kvm_x86_ops.nested_ops->span_look(vcpu, &nested);
	shot = kvm_span_shot_lock(vcpu, &nested, &patience);
	if (!shot)
		return;
	shot->reason = reason;
	shot->exit = kvm_span_exit_kind(vcpu, reason, intr_info);
	/* Where the exit is made up, the processor's own tells nothing of it. */
	if (reason != nested.exit_reason &&
	    (shot->exit == KVM_SPAN_EXIT_RAM || shot->exit == KVM_SPAN_EXIT_EOI))
		shot->exit = KVM_SPAN_EXIT_FINAL;
	if (shot->exit != KVM_SPAN_EXIT_FINAL)
		kvm_span_shot_take(shot, vcpu, &nested);
	shot->nested.vmptr = nested.vmptr;
	kvm_span_shot_unlock(shot);
}
EXPORT_SYMBOL_GPL(__kvm_span_leaves);

/* The L1 enters this guest, whatever vCPU it is: what was known of it is old. */
void __kvm_span_enters(struct kvm_vcpu *vcpu, u64 vmptr)
{
	struct kvm_span_shot *shot;

	rcu_read_lock();
	hlist_for_each_entry_rcu(shot, &vcpu->kvm->arch.span.shots, node)
		if (READ_ONCE(shot->nested.vmptr) == vmptr)
			WRITE_ONCE(shot->valid, false);
	rcu_read_unlock();
}
EXPORT_SYMBOL_GPL(__kvm_span_enters);

/*
 * A vCPU of the L1, held: if it has one of these vCPUs of the guest in guest mode,
 * take its state and its bit out of vcpus.
 */
void kvm_span_shot_now(struct kvm_span_member *member, struct kvm_vcpu *vcpu,
		       unsigned long *vcpus, s64 *patience)
{
	struct kvm_span_nested nested;
	struct kvm_span_shot *shot;

	vcpu_load(vcpu);
	if (!is_guest_mode(vcpu))
		goto out;
	kvm_x86_ops.nested_ops->span_look(vcpu, &nested);
	shot = kvm_span_shot_lock(vcpu, &nested, patience);
	if (!shot)
		goto out;
	if (shot->span == member->span && test_bit(shot->vcpu, vcpus)) {
		/* An access to a device of L0's own, half done, or its end. */
		if (vcpu->arch.complete_userspace_io || vcpu->mmio_needed ||
		    vcpu->arch.pio.count || kvm_test_request(KVM_REQ_TRIPLE_FAULT, vcpu))
			shot->exit = KVM_SPAN_EXIT_FINAL;
		else
			shot->exit = KVM_SPAN_EXIT_INSIDE;
		shot->reason = 0;
		kvm_span_shot_take(shot, vcpu, &nested);
		__clear_bit(shot->vcpu, vcpus);
	}
	kvm_span_shot_unlock(shot);
out:
	vcpu_put(vcpu);
}
