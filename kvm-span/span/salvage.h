/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What salvage.c, which takes vCPUs of the guest back from an L1 that does not
 * give them, and shot.c and restore.c, which know their state, share with each
 * other, with loan.c and with KVM's VMX code. docs/api.rst, section 7.4, says what works.
 */
#ifndef KVM_SPAN_SALVAGE_H
#define KVM_SPAN_SALVAGE_H

#include <linux/kvm_host.h>

struct kvm_span_member;
struct kvm_span_shot;

/* What of a nested guest is in VMX structures only. */
struct kvm_span_nested {
	u64 vmptr;			/* of the L1's VMCS */
	u64 cr0;			/* as the guest sees them */
	u64 cr4;
	u64 eptp;			/* 0: no EPT */
	bool unrestricted;
	bool pat;			/* it has a PAT of its own */
	bool debug_regs;		/* all of them are the guest's */
	bool nmi_window;		/* the L1 has an NMI for it */
	bool delivers;			/* the processor delivers its interrupts */
	u64 apic_gpa;			/* its local APIC's registers, in L1 */
	const void *apic;		/* the same, NULL if not mapped */
	u64 posted_gpa;			/* of posted interrupts, 0 for none */
	u32 entry_event;		/* VM_ENTRY_INTR_INFO_FIELD, _ERROR_CODE */
	u32 entry_error;
	u32 exit_reason;		/* of the processor */
	u32 exit_len;
	u64 gpa;			/* of an EPT violation */
};

/* shot.c */
struct kvm_span_shot *kvm_span_shot_new(struct kvm_span_member *member,
					const struct kvm_vcpu *base);
void kvm_span_shot_end(struct kvm_span_shot *shot);
void kvm_span_shot_now(struct kvm_span_member *member, struct kvm_vcpu *vcpu,
		       unsigned long *vcpus, s64 *patience);

/* restore.c */
bool kvm_span_shot_inside(const struct kvm_span_shot *shot);
int kvm_span_shot_ready(struct kvm_span_shot *shot, s64 *patience);
int kvm_span_shot_give(struct kvm_span_shot *shot, struct kvm_vcpu *base);
u32 kvm_span_shot_exit(const struct kvm_span_shot *shot);

#endif
