// SPDX-License-Identifier: GPL-2.0
/*
 * KVM Span, L0 side: vCPUs of the guest that an owner has for a time, and from whom
 * they may have to be taken back: their shots (shot.c), and what a salvage does
 * with who owns them.
 */
#include "hub.h"
#include "watch.h"

/* With the owner, or the last one, ends what is known of the vCPU there. */
void kvm_span_hub_disarm(struct kvm_span_hub *hub, unsigned int n)
{
	if (hub->shot[n])
		kvm_span_shot_end(hub->shot[n]);
	hub->shot[n] = NULL;
}

/* The vCPU has this owner now, and may have to be taken back from it. */
int kvm_span_hub_arm(struct kvm_span_hub *hub, struct kvm_vcpu *vcpu)
{
	unsigned int n = vcpu->vcpu_id;
	struct kvm_span_member *owner = kvm_span_hub_locked(hub, &hub->owner[n]);

	if (!hub->shot[n])
		hub->shot[n] = kvm_span_shot_new(owner, vcpu);
	return hub->shot[n] ? 0 : -ENOMEM;
}

/* Nobody's now, and this member was to give it away, or to get it back. */
static bool kvm_span_hub_was(struct kvm_span_hub *hub, unsigned int n,
			     const struct kvm_span_member *member)
{
	return !rcu_access_pointer(hub->owner[n]) && rcu_access_pointer(hub->last[n]) == member;
}

/*
 * From a member to nobody, though it does not know. Returns those of vcpus that
 * it had; what is known of them is the caller's now.
 */
unsigned long kvm_span_hub_withdraw(struct kvm_span_member *member, unsigned long vcpus,
				    struct kvm_span_shot **shots)
{
	struct kvm_span_hub *hub = kvm_span_hub_get(member->span);
	unsigned long taken = 0;
	unsigned int n;

	if (!hub)
		return 0;
	mutex_lock(&hub->site.mutex);
	for_each_set_bit(n, &vcpus, SPAN_MAX_VCPUS) {
		if (rcu_access_pointer(hub->owner[n]) == member)
			kvm_span_hub_take_away(hub, n, member);
		else if (!kvm_span_hub_was(hub, n, member))
			continue;
		__set_bit(n, &taken);
		shots[n] = hub->shot[n];
		hub->shot[n] = NULL;
	}
	mutex_unlock(&hub->site.mutex);
	kvm_span_site_put(&hub->site);
	return taken;
}

/* A vCPU that was withdrawn gets the state that it had there. */
int kvm_span_hub_salvaged(struct kvm_span *span, unsigned int n, struct kvm_span_shot *shot)
{
	struct kvm_vcpu *vcpu = kvm_get_vcpu_by_id(span->kvm, n);
	struct kvm_span_hub *hub = kvm_span_hub_get(span);
	int r = -EBUSY;

	if (!hub)
		return -ENOENT;
	mutex_lock(&hub->site.mutex);
	/* Else somebody was quicker, and has it with another state. */
	if (vcpu && kvm_span_hub_away(hub, n) && !rcu_access_pointer(hub->owner[n]))
		r = kvm_span_shot_give(shot, vcpu);
	mutex_unlock(&hub->site.mutex);
	kvm_span_site_put(&hub->site);
	return r;
}
