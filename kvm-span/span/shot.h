/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The state of a vCPU of the guest that an L1 runs: shot.c takes it, restore.c
 * gives it to the guest's own vCPU. Everybody else knows it as a pointer only.
 */
#ifndef KVM_SPAN_SHOT_H
#define KVM_SPAN_SHOT_H

#include <linux/kvm_host.h>

#include "lapic.h"
#include "salvage.h"

/* What an exit to the L1 means for the state that was taken at it. */
enum kvm_span_exit {
	KVM_SPAN_EXIT_INSIDE,		/* none: it is in guest mode */
	KVM_SPAN_EXIT_AGAIN,		/* the guest may do it once more */
	KVM_SPAN_EXIT_RAM,		/* if it was an access to memory */
	KVM_SPAN_EXIT_EOI,		/* the APIC tells whether it is done */
	KVM_SPAN_EXIT_FINAL,		/* the L1 may have done something for it */
};

/* Those that an L1 gives its guest, and that are not part of other state. */
#define KVM_SPAN_MSRS	12
extern const u32 kvm_span_msrs[KVM_SPAN_MSRS];

struct kvm_span_shot {
	struct kref ref;
	struct rcu_head rcu;
	struct hlist_node node;		/* in kvm->arch.span.shots, RCU */

	/* Constant. The member ends the shot before it goes. */
	struct kvm_span *span;
	struct kvm *kvm;		/* the L1 */
	unsigned int vcpu;
	unsigned int xsave_bytes;

	/*
	 * Guards the rest. Taken by vCPUs of the L1, one after the other unless
	 * the L1 lies, and by a salvage, which holds them.
	 */
	struct mutex lock;
	enum kvm_span_exit exit;
	bool valid;			/* the guest has not run since */
	bool halted;			/* without an exit to the L1 */
	bool known[KVM_SPAN_MSRS];
	u32 reason;			/* of the last exit */
	u64 eptp;			/* leads to the guest's memory */
	struct kvm_span_nested nested;
	struct kvm_regs regs;
	struct kvm_sregs sregs;
	struct kvm_vcpu_events events;
	struct kvm_debugregs debug;
	u64 msrs[KVM_SPAN_MSRS];
	u64 xcr0;
	u32 isr[8];			/* in service, at the exit */
	u32 irr[8];			/* requested, at the exit */
	struct kvm_lapic_state apic;
	u64 posted[4];
	u8 *xsave;
};

/* shot.c */
int kvm_span_shot_read(struct kvm *kvm, gpa_t gpa, void *to, unsigned int bytes,
		       s64 *patience);
bool kvm_span_shot_is(struct kvm_span_shot *shot, u64 eptp, u64 cr3, s64 *patience);

#endif
