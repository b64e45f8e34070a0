// SPDX-License-Identifier: GPL-2.0
/*
 * EPML, the part of kvm.ko: what kvm-intel asks of the MMU and of the local APIC,
 * and what the MMU tells it.
 */
#include <linux/kvm_host.h>

#include "lapic.h"
#include "mmu.h"
#include "mmu/mmu_internal.h"
#include "epml.h"

/* Set by kvm-intel before it offers anything. */
bool kvm_epml_supported;
EXPORT_SYMBOL_GPL(kvm_epml_supported);

/* Counts vCPUs whose guest has EPML. */
struct static_key_false kvm_epml_any = STATIC_KEY_FALSE_INIT;
EXPORT_SYMBOL_GPL(kvm_epml_any);

/*
 * The processor could not write an entry of the log to @gpa: map that page. Not
 * kvm_mmu_page_fault(), which emulates an instruction where nothing can be
 * mapped: there is none that wrote to this address.
 *
 * 0: try again; -EACCES: there is nothing to be written there; others are for
 * user space. SRCU is held as in every exit handler.
 */
int kvm_epml_map(struct kvm_vcpu *vcpu, gpa_t gpa)
{
	struct kvm_memory_slot *slot = kvm_vcpu_gfn_to_memslot(vcpu, gpa_to_gfn(gpa));
	int r;

	if (!kvm_is_visible_memslot(slot) || slot->flags & KVM_MEM_READONLY)
		return -EACCES;

	r = kvm_mmu_do_page_fault(vcpu, gpa, PFERR_WRITE_MASK, false, NULL, NULL);
	if (r < 0)
		return r;
	/* A page table that KVM shadows, or a slot that is no RAM any more. */
	if (r == RET_PF_EMULATE || r == RET_PF_WRITE_PROTECTED)
		return -EACCES;
	return 0;
}
EXPORT_SYMBOL_GPL(kvm_epml_map);

void kvm_epml_raise(struct kvm_vcpu *vcpu, u8 vector)
{
	struct kvm_lapic_irq irq = {
		.vector = vector,
		.delivery_mode = APIC_DM_FIXED,
		.level = 1,
	};

	if (vector)
		kvm_apic_set_irq(vcpu, &irq, NULL);
}
EXPORT_SYMBOL_GPL(kvm_epml_raise);

void __kvm_epml_dirtied(struct kvm_vcpu *vcpu)
{
	/* L2's own page tables are not what L1's log is about. */
	if (!is_guest_mode(vcpu))
		static_call_cond(kvm_x86_epml_lost)(vcpu);
}
