// SPDX-License-Identifier: GPL-2.0
/*
 * KVM Span, L0 side: the state of a vCPU of the guest, as shot.c took it, goes
 * into the guest's own vCPU.
 *
 * First it is made whole, with all vCPUs of the L1 held: what the local APIC has is
 * read from the L1's memory, and whether the last exit can be taken once more is
 * seen. Then it is given, by the functions that take such values from user space.
 */
#include <linux/kvm_host.h>

#include <asm/fpu/xcr.h>
#include <asm/vmx.h>

#include "x86.h"
#include "lapic.h"
#include "shot.h"
#include "vcpu.h"
#include "span_hooks.h"

static u32 kvm_span_shot_apic(const struct kvm_span_shot *shot, unsigned int reg)
{
	return *(const u32 *)(shot->apic.regs + reg);
}

static u32 *kvm_span_shot_apic_at(struct kvm_span_shot *shot, unsigned int reg)
{
	return (u32 *)(shot->apic.regs + reg);
}

/*
 * With an EOI the L1 may be through or not: if the vector is not in service any
 * more, it is. A level-triggered one is told to the I/O APIC, too, which may or
 * may not have happened.
 */
static int kvm_span_shot_eoi(struct kvm_span_shot *shot)
{
	int i = ARRAY_SIZE(shot->isr);
	u32 bit;

	while (i && !shot->isr[i - 1])
		i--;
	if (!i--)
		return 0;
	bit = BIT(__fls(shot->isr[i]));
	if (kvm_span_shot_apic(shot, APIC_TMR + 0x10 * i) & bit)
		return -EOPNOTSUPP;
	/* Requested once more, and not any longer: the L1 may have accepted that one. */
	if (shot->irr[i] & ~kvm_span_shot_apic(shot, APIC_IRR + 0x10 * i) & bit)
		return -EOPNOTSUPP;
	if (kvm_span_shot_apic(shot, APIC_ISR + 0x10 * i) & bit)
		return 0;
	shot->regs.rip += shot->nested.exit_len;
	shot->events.interrupt.shadow = 0;
	return 0;
}

/*
 * After the exit the L1 may have put a vector in service, to inject it with an
 * entry that it has not come to: it is to be accepted once more.
 */
static void kvm_span_shot_unaccept(struct kvm_span_shot *shot)
{
	unsigned int i;
	u32 *isr, new;

	for (i = 0; i < ARRAY_SIZE(shot->isr); i++) {
		isr = kvm_span_shot_apic_at(shot, APIC_ISR + 0x10 * i);
		new = *isr & ~shot->isr[i];
		*isr &= ~new;
		*kvm_span_shot_apic_at(shot, APIC_IRR + 0x10 * i) |= new;
	}
}

/* Was the exit an access to memory that the guest has, at home? */
static bool kvm_span_shot_is_ram(const struct kvm_span_shot *shot)
{
	struct kvm *kvm = shot->span->kvm;
	struct kvm_memory_slot *slot;
	bool ram;
	int idx;

	idx = srcu_read_lock(&kvm->srcu);
	slot = gfn_to_memslot(kvm, gpa_to_gfn(shot->nested.gpa));
	ram = kvm_span_of(slot) && !(slot->flags & KVM_MEM_READONLY);
	srcu_read_unlock(&kvm->srcu, idx);
	return ram;
}

static int kvm_span_shot_read_apic(struct kvm_span_shot *shot, s64 *patience)
{
	unsigned int i;
	int r;

	r = kvm_span_shot_read(shot->kvm, shot->nested.apic_gpa, &shot->apic,
			       sizeof(shot->apic), patience);
	memset(shot->posted, 0, sizeof(shot->posted));
	if (!r && shot->nested.posted_gpa)
		r = kvm_span_shot_read(shot->kvm, shot->nested.posted_gpa, shot->posted,
				       sizeof(shot->posted), patience);
	if (r)
		return r;
	for (i = 0; i < 8; i++)
		*kvm_span_shot_apic_at(shot, APIC_IRR + 0x10 * i) |=
			shot->posted[i / 2] >> 32 * (i % 2);
	return 0;
}

/*
 * Its table may have become another guest's since it was looked at; and what was
 * mapped there then is mapped still, or it is not read.
 */
static int kvm_span_shot_still(struct kvm_span_shot *shot, s64 *patience)
{
	shot->eptp = INVALID_GPA;
	return kvm_span_shot_is(shot, shot->nested.eptp, shot->sregs.cr3, patience) ? 0 : -EFAULT;
}

/*
 * All vCPUs of the L1 are held. Is there a state that the guest can go on with?
 * Reads what is missing. Nobody changes the shot afterwards, though the L1 goes on.
 */
int kvm_span_shot_ready(struct kvm_span_shot *shot, s64 *patience)
{
	int r = 0;

	mutex_lock(&shot->lock);
	if (!shot->nested.vmptr) {
		r = -ENOENT;
	} else if (!shot->valid || shot->exit == KVM_SPAN_EXIT_FINAL ||
		   (shot->exit == KVM_SPAN_EXIT_RAM && !kvm_span_shot_is_ram(shot))) {
		r = -EBUSY;
	} else {
		r = kvm_span_shot_still(shot, patience);
		if (!r)
			r = kvm_span_shot_read_apic(shot, patience);
		if (!r && shot->exit == KVM_SPAN_EXIT_EOI)
			r = kvm_span_shot_eoi(shot);
		if (!r && shot->exit != KVM_SPAN_EXIT_INSIDE && !shot->nested.delivers)
			kvm_span_shot_unaccept(shot);
	}
	shot->span = NULL;
	mutex_unlock(&shot->lock);
	return r;
}

bool kvm_span_shot_inside(const struct kvm_span_shot *shot)
{
	return shot->exit == KVM_SPAN_EXIT_INSIDE;
}

/* Of the last exit, 0 for none. */
u32 kvm_span_shot_exit(const struct kvm_span_shot *shot)
{
	return shot->reason;
}

static int kvm_span_give_regs(struct kvm_span_shot *shot, struct kvm_vcpu *base)
{
	struct kvm_sregs *sregs = &shot->sregs;
	int r;

	sregs->cr0 = shot->nested.cr0;
	sregs->cr4 = shot->nested.cr4;
	sregs->cr8 = kvm_span_shot_apic(shot, APIC_TASKPRI) >> 4 & 0xf;
	/* Known here by way of the identity. */
	sregs->apic_base = base->arch.apic_base;
	memset(sregs->interrupt_bitmap, 0, sizeof(sregs->interrupt_bitmap));
	r = kvm_arch_vcpu_ioctl_set_sregs(base, sregs);
	return r ?: kvm_arch_vcpu_ioctl_set_regs(base, &shot->regs);
}

/* The L1's vCPU has the guest's value of it? */
static bool kvm_span_shot_has_msr(const struct kvm_span_shot *shot, u32 msr)
{
	switch (msr) {
	case MSR_IA32_CR_PAT:
		return shot->nested.pat;
	case MSR_STAR:
	case MSR_LSTAR:
	case MSR_CSTAR:
	case MSR_SYSCALL_MASK:
		/* KVM in an L1 loads them for guests that can use them. */
		return shot->sregs.efer & EFER_SCE;
	default:
		return true;
	}
}

static int kvm_span_give_msrs(struct kvm_span_shot *shot, struct kvm_vcpu *base)
{
	unsigned int i;
	u32 msr;

	for (i = 0; i < ARRAY_SIZE(kvm_span_msrs); i++) {
		msr = kvm_span_msrs[i];
		if (!shot->known[i] || !kvm_span_shot_has_msr(shot, msr))
			continue;
		if (!__kvm_set_msr(base, msr, shot->msrs[i], true))
			continue;
		/* A guest without the feature cannot see it either. */
		if (msr != MSR_TSC_AUX && msr != MSR_IA32_SPEC_CTRL && msr != MSR_IA32_XSS)
			return -EINVAL;
	}
	return 0;
}

static int kvm_span_give_fpu(struct kvm_span_shot *shot, struct kvm_vcpu *base)
{
	struct kvm_xcrs xcrs = {
		.nr_xcrs = 1,
		.xcrs[0] = { .xcr = XCR_XFEATURE_ENABLED_MASK, .value = shot->xcr0 },
	};
	int r;

	/* Grown by a feature that was asked for since. */
	if (base->arch.guest_fpu.uabi_size > shot->xsave_bytes)
		return -E2BIG;
	r = kvm_vcpu_ioctl_x86_set_xsave(base, (struct kvm_xsave *)shot->xsave);
	/* Without it, the L1's own is in force. */
	if (!r && (shot->nested.cr4 & X86_CR4_OSXSAVE))
		r = kvm_vcpu_ioctl_x86_set_xcrs(base, &xcrs);
	return r;
}

/*
 * What the guest's breakpoints are, an L1 loads when they are on. Else they are
 * as they were when the vCPU left; the guest loads them before it turns them on.
 */
static int kvm_span_give_debug(struct kvm_span_shot *shot, struct kvm_vcpu *base)
{
	unsigned int i;

	if (!shot->nested.debug_regs) {
		shot->debug.dr6 = base->arch.dr6;
		for (i = 0; i < ARRAY_SIZE(shot->debug.db); i++)
			if (!(shot->debug.dr7 & DR7_BP_EN_MASK))
				shot->debug.db[i] = base->arch.db[i];
	}
	return kvm_vcpu_ioctl_x86_set_debugregs(base, &shot->debug);
}

static int kvm_span_give_apic(struct kvm_span_shot *shot, struct kvm_vcpu *base)
{
	u32 timer = kvm_span_shot_apic(shot, APIC_LVTT) &
		    (APIC_LVT_TIMER_PERIODIC | APIC_LVT_TIMER_TSCDEADLINE);
	int r;

	/* As KVM_GET_LAPIC has it. */
	if (apic_x2apic_mode(base->arch.apic)) {
		*kvm_span_shot_apic_at(shot, APIC_ID) = base->kvm->arch.x2apic_format ?
			base->vcpu_id : base->vcpu_id << 24;
		*kvm_span_shot_apic_at(shot, APIC_ICR2) =
			kvm_span_shot_apic(shot, APIC_ICR + 4);
	}
	*kvm_span_shot_apic_at(shot, APIC_IRR) &= ~0xffffu;
	*kvm_span_shot_apic_at(shot, APIC_ISR) &= ~0xffffu;
	/* How much of its time is left nobody knows: as good as none. */
	*kvm_span_shot_apic_at(shot, APIC_TMCCT) = 1;
	base->arch.apic->pending_events = 0;
	r = kvm_apic_set_state(base, &shot->apic);
	if (!r && timer == APIC_LVT_TIMER_TSCDEADLINE)
		kvm_set_lapic_tscdeadline_msr(base, 1);
	return r;
}

static int kvm_span_give_events(struct kvm_span_shot *shot, struct kvm_vcpu *base)
{
	struct kvm_vcpu_events *events = &shot->events;

	if (base->kvm->arch.exception_payload_enabled) {
		events->flags |= KVM_VCPUEVENT_VALID_PAYLOAD;
	} else if (events->exception.pending) {
		if (events->exception_has_payload && events->exception.nr == PF_VECTOR)
			base->arch.cr2 = events->exception_payload;
		events->exception.injected = 1;
	}
	return kvm_vcpu_ioctl_x86_set_vcpu_events(base, events);
}

static int kvm_span_give_loaded(struct kvm_span_shot *shot, struct kvm_vcpu *base)
{
	int r;

	r = kvm_span_give_msrs(shot, base);
	if (!r)
		r = kvm_span_give_fpu(shot, base);
	if (!r)
		r = kvm_span_give_apic(shot, base);
	if (!r)
		r = kvm_span_give_debug(shot, base);
	return r ?: kvm_span_give_events(shot, base);
}

/* Modes that an L1 without all of VMX makes up by emulation, and L3s. */
static bool kvm_span_shot_plain(const struct kvm_span_shot *shot)
{
	const u64 paged = X86_CR0_PE | X86_CR0_PG;

	if (shot->nested.cr4 & X86_CR4_VMXE)
		return false;
	return shot->nested.unrestricted || (shot->nested.cr0 & paged) == paged;
}

/*
 * The guest's own vCPU, which is away, gets the state. Its process calls. What
 * is not in the shot is as it was when the vCPU left. Under site->mutex.
 */
int kvm_span_shot_give(struct kvm_span_shot *shot, struct kvm_vcpu *base)
{
	struct kvm_mp_state mp = { .mp_state = KVM_MP_STATE_RUNNABLE };
	int r;

	if (mutex_lock_killable(&base->mutex))
		return -EINTR;
	mutex_lock(&shot->lock);
	r = kvm_span_shot_plain(shot) ? 0 : -EOPNOTSUPP;
	if (!r)
		r = kvm_span_give_regs(shot, base);
	if (!r) {
		vcpu_load(base);
		r = kvm_span_give_loaded(shot, base);
		vcpu_put(base);
	}
	if (shot->halted)
		mp.mp_state = KVM_MP_STATE_HALTED;
	if (!r)
		r = kvm_arch_vcpu_ioctl_set_mpstate(base, &mp);
	/* A kick that only the L1 knows of would be missed; guests expect too many. */
	if (!r && (shot->halted || shot->reason == EXIT_REASON_HLT))
		base->arch.pv.pv_unhalted = true;
	mutex_unlock(&shot->lock);
	mutex_unlock(&base->mutex);
	return r;
}
