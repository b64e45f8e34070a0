// SPDX-License-Identifier: GPL-2.0
/*
 * EPML: the guest's registers and what is left to do on a VM exit.
 *
 * State is in the VMCS; the guest reads and writes it without exits. So this is
 * called when a vCPU gets its CPUID, when its state is saved or restored, and
 * for the exits of the extension: buffer full, buffer not mapped, and, where
 * the processor cannot raise virtual interrupts, for the interrupt.
 *
 * vmcs02 never has EPML on. While it is loaded, vmcs01's state is in struct
 * vcpu_epml.
 */
#include <linux/kvm_host.h>

#include "x86.h"
#include "cpuid.h"
#include "lapic.h"
#include "vmx/vmx.h"
#include "vmx/nested.h"
#include "epml.h"

#define EPML_EXIT_MASK		3
#define EPML_EXIT_FULL		0
#define EPML_EXIT_THRESHOLD	1
#define EPML_EXIT_BUFFER	2

static const u32 epml_msrs[] = { MSR_EPML_CTL, MSR_EPML_BASE, MSR_EPML_INDEX };

void __init epml_hardware_setup(void)
{
	u64 cap;

	kvm_epml_supported = false;
	if (!(vmcs_config.vmentry_ctrl & VM_ENTRY_EPML))
		return;
	/*
	 * The control alone could be another one some day. All CPUs have the
	 * same capabilities, see vmx_check_processor_compat().
	 */
	if (rdmsrl_safe(MSR_EPML_CAP, &cap) || cap >> 32 != EPML_CAP_MAGIC ||
	    (cap & EPML_CAP_REVISION_MASK) != EPML_CAP_REVISION ||
	    !(cap & EPML_CAP_PAGING_MODE) || !(cap & EPML_CAP_EPT_MODE))
		return;
	kvm_epml_supported = enable_ept && enable_ept_ad_bits && cpu_has_vmx_msr_bitmap();
	if (kvm_epml_supported)
		pr_info("EPML for guests\n");
}

/* vmcs01 is loaded. */
static void epml_load(struct kvm_vcpu *vcpu)
{
	struct vcpu_epml *epml = &to_vmx(vcpu)->epml;

	vmcs_write64(GUEST_EPML_CTL, epml->ctl);
	vmcs_write64(GUEST_EPML_BASE, epml->base);
	vmcs_write64(GUEST_EPML_INDEX, epml->index);
	epml->stale = false;
}

static void epml_store(struct kvm_vcpu *vcpu)
{
	struct vcpu_epml *epml = &to_vmx(vcpu)->epml;

	epml->ctl = vmcs_read64(GUEST_EPML_CTL);
	epml->base = vmcs_read64(GUEST_EPML_BASE);
	epml->index = vmcs_read64(GUEST_EPML_INDEX);
}

/* The loaded VMCS changes, for L2 or back. */
void __epml_switch_from(struct kvm_vcpu *vcpu)
{
	struct vcpu_vmx *vmx = to_vmx(vcpu);

	if (vmx->epml.on && vmx->loaded_vmcs == &vmx->vmcs01)
		epml_store(vcpu);
}

void __epml_switch_to(struct kvm_vcpu *vcpu)
{
	struct vcpu_vmx *vmx = to_vmx(vcpu);

	if (vmx->epml.stale && vmx->loaded_vmcs == &vmx->vmcs01)
		epml_load(vcpu);
}

/* Bring the three values into struct vcpu_epml, wherever they are. */
static struct vcpu_epml *epml_get(struct kvm_vcpu *vcpu)
{
	struct vcpu_vmx *vmx = to_vmx(vcpu);

	if (vmx->loaded_vmcs == &vmx->vmcs01)
		epml_store(vcpu);
	return &vmx->epml;
}

/* ... and back. */
static void epml_put(struct kvm_vcpu *vcpu)
{
	struct vcpu_vmx *vmx = to_vmx(vcpu);

	if (vmx->loaded_vmcs == &vmx->vmcs01)
		epml_load(vcpu);
	else
		vmx->epml.stale = true;
}

void epml_reset(struct kvm_vcpu *vcpu)
{
	struct vcpu_epml *epml = &to_vmx(vcpu)->epml;

	if (!epml->on)
		return;
	epml->ctl = 0;
	epml->base = 0;
	epml->index = EPML_INDEX_START;
	epml_put(vcpu);
}

static bool epml_in_cpuid(struct kvm_vcpu *vcpu)
{
	/* Not guest_pv_has(): that is true of guests that were not told of it. */
	return kvm_epml_supported && lapic_in_kernel(vcpu) &&
	       vcpu->arch.pv_cpuid.features & BIT(KVM_FEATURE_OOH_EPML);
}

/*
 * Only before the vCPU has run, so vmcs01 is loaded: KVM takes no other CPUID
 * later on.
 */
void epml_after_set_cpuid(struct kvm_vcpu *vcpu)
{
	struct vcpu_vmx *vmx = to_vmx(vcpu);
	bool on = epml_in_cpuid(vcpu);
	int i;

	if (on == vmx->epml.on || WARN_ON_ONCE(vmx->loaded_vmcs != &vmx->vmcs01))
		return;
	for (i = 0; i < ARRAY_SIZE(epml_msrs); i++)
		vmx_set_intercept_for_msr(vcpu, epml_msrs[i], MSR_TYPE_RW, !on);
	vmx->epml.on = on;
	if (on) {
		static_branch_inc(&kvm_epml_any);
		epml_reset(vcpu);
		vm_entry_controls_setbit(vmx, VM_ENTRY_EPML);
	} else {
		vm_entry_controls_clearbit(vmx, VM_ENTRY_EPML);
		static_branch_dec(&kvm_epml_any);
	}
}

void epml_vcpu_free(struct kvm_vcpu *vcpu)
{
	if (to_vmx(vcpu)->epml.on)
		static_branch_dec(&kvm_epml_any);
}

/*
 * By user space, and by a guest whose access is intercepted: by a filter of
 * user space, or because it is L2, which has no EPML.
 */
static int epml_refuses(struct kvm_vcpu *vcpu, struct msr_data *msr)
{
	if (!to_vmx(vcpu)->epml.on)
		return KVM_MSR_RET_UNSUPPORTED;
	return !msr->host_initiated && is_guest_mode(vcpu);
}

int epml_get_msr(struct kvm_vcpu *vcpu, struct msr_data *msr)
{
	struct vcpu_epml *epml;
	int r = epml_refuses(vcpu, msr);

	if (r)
		return r;
	epml = epml_get(vcpu);
	switch (msr->index) {
	case MSR_EPML_CTL:
		msr->data = epml->ctl;
		break;
	case MSR_EPML_BASE:
		msr->data = epml->base;
		break;
	default:
		msr->data = epml->index;
	}
	return 0;
}

static bool epml_ctl_ok(u64 ctl)
{
	u8 vector = (ctl & EPML_CTL_VECTOR_MASK) >> EPML_CTL_VECTOR_SHIFT;

	return !(ctl & ~EPML_CTL_VALID) && (!vector || vector >= 32) &&
	       (ctl & EPML_CTL_THRESHOLD_MASK) >> EPML_CTL_THRESHOLD_SHIFT <= EPML_ENTRIES;
}

/* The processor checks the same, of what guests write and on VM entry. */
int epml_set_msr(struct kvm_vcpu *vcpu, struct msr_data *msr)
{
	struct vcpu_epml *epml;
	int r = epml_refuses(vcpu, msr);
	u64 data = msr->data;

	if (r)
		return r;
	epml = epml_get(vcpu);
	switch (msr->index) {
	case MSR_EPML_CTL:
		if (!epml_ctl_ok(data))
			return 1;
		epml->ctl = data;
		break;
	case MSR_EPML_BASE:
		/* A guest may have written what only the host calls an address. */
		if (!PAGE_ALIGNED(data) || data >> kvm_host.maxphyaddr)
			return 1;
		epml->base = data;
		break;
	default:
		if (data >= EPML_ENTRIES && data != EPML_INDEX_FULL)
			return 1;
		epml->index = data;
		epml->ctl &= ~EPML_CTL_SIGNALLED;
	}
	epml_put(vcpu);
	return 0;
}

/* Set a sticky bit of CTL, and raise the vector if it was not set. */
static void epml_flag(struct kvm_vcpu *vcpu, u64 flag)
{
	u64 ctl = vmcs_read64(GUEST_EPML_CTL);

	if (ctl & flag)
		return;
	vmcs_write64(GUEST_EPML_CTL, ctl | flag);
	kvm_epml_raise(vcpu, (ctl & EPML_CTL_VECTOR_MASK) >> EPML_CTL_VECTOR_SHIFT);
}

/*
 * A dirty bit of a user page was set without an entry. As with a full buffer,
 * the guest has to look at the dirty bits. Not in L2, so vmcs01 is loaded.
 */
void epml_lost(struct kvm_vcpu *vcpu)
{
	if (to_vmx(vcpu)->epml.on && vmcs_read64(GUEST_EPML_CTL) & EPML_CTL_ENABLE)
		epml_flag(vcpu, EPML_CTL_FULL);
}

/*
 * Nothing of the access was done that was to be logged; it is done again on
 * entry. So each case has to change something that lets it pass.
 */
int epml_handle_exit(struct kvm_vcpu *vcpu)
{
	unsigned long qualification = vmx_get_exit_qual(vcpu);
	int r;

	/* In the middle of IRET from an NMI: as for PML, see handle_pml_full(). */
	if (!(to_vmx(vcpu)->idt_vectoring_info & VECTORING_INFO_VALID_MASK) &&
	    pin_controls_get(to_vmx(vcpu)) & PIN_BASED_VIRTUAL_NMIS &&
	    qualification & INTR_INFO_UNBLOCK_NMI)
		vmcs_set_bits(GUEST_INTERRUPTIBILITY_INFO, GUEST_INTR_STATE_NMI);

	switch (qualification & EPML_EXIT_MASK) {
	case EPML_EXIT_FULL:
		epml_flag(vcpu, EPML_CTL_FULL);
		return 1;
	case EPML_EXIT_THRESHOLD:
		epml_flag(vcpu, EPML_CTL_SIGNALLED);
		return 1;
	case EPML_EXIT_BUFFER:
		r = kvm_epml_map(vcpu, vmcs_read64(GUEST_PHYSICAL_ADDRESS));
		if (r == -EACCES) {
			epml_flag(vcpu, EPML_CTL_FAULT);
			r = 0;
		}
		return r ?: 1;
	}
	KVM_BUG_ON(1, vcpu->kvm);
	return -EIO;
}
