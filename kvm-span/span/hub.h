/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Who owns which vCPU of the guest: what hub.c shares with loan.c, which is about
 * those that may have to be taken back from their owner.
 */
#ifndef KVM_SPAN_HUB_H
#define KVM_SPAN_HUB_H

#include "salvage.h"
#include "vcpu.h"

struct kvm_span_hub {
	struct kvm_span_site site;
	struct kvm_span *span;		/* constant; the span's file ends first */
	struct rcu_head rcu;

	/*
	 * The member that has the vCPU; NULL for this host (not away) and for
	 * nobody. Changes under site.mutex, read under RCU; a member that is
	 * named here or in last[] is referenced.
	 */
	struct kvm_span_member __rcu *owner[SPAN_MAX_VCPUS];
	/* The member that had it, as long as it is nobody's. */
	struct kvm_span_member __rcu *last[SPAN_MAX_VCPUS];
	struct span_posts *kept;	/* for nobody's vCPUs */

	/* Of those that may have to be taken back, of owner or last; site.mutex. */
	struct kvm_span_shot *shot[SPAN_MAX_VCPUS];
};

static inline struct kvm_span_member *
kvm_span_hub_locked(struct kvm_span_hub *hub, struct kvm_span_member __rcu **where)
{
	return rcu_dereference_protected(*where, lockdep_is_held(&hub->site.mutex));
}

static inline bool kvm_span_hub_away(struct kvm_span_hub *hub, unsigned int n)
{
	return test_bit(n, &hub->site.kvm->arch.span.away);
}

/* hub.c */
struct kvm_span_hub *kvm_span_hub_get(struct kvm_span *span);
void kvm_span_hub_take_away(struct kvm_span_hub *hub, unsigned int n,
			    struct kvm_span_member *member);

/* loan.c; under site.mutex */
int kvm_span_hub_arm(struct kvm_span_hub *hub, struct kvm_vcpu *vcpu);
void kvm_span_hub_disarm(struct kvm_span_hub *hub, unsigned int n);

#endif
