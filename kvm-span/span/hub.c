// SPDX-License-Identifier: GPL-2.0
/*
 * KVM Span, L0 side: who owns which vCPU of the guest, and where interrupts go.
 *
 * What comes for a vCPU is put into its owner's local APIC (this host), its
 * owner's posts (a member), or kept for the next owner (nobody).
 */
#include <linux/delay.h>
#include <linux/slab.h>

#include "x86.h"
#include "lapic.h"
#include "hub.h"
#include "vcpu.h"
#include "watch.h"
#include "trace.h"

/* Two calls make one hub. */
static DEFINE_MUTEX(kvm_span_hubs_lock);

static struct kvm_span_hub *kvm_span_hub_of_site(struct kvm_span_site *site)
{
	return container_of(site, struct kvm_span_hub, site);
}

struct kvm_span_hub *kvm_span_hub_get(struct kvm_span *span)
{
	struct kvm_span_hub *hub;

	rcu_read_lock();
	hub = rcu_dereference(span->hub);
	if (hub && !kref_get_unless_zero(&hub->site.ref))
		hub = NULL;
	rcu_read_unlock();
	return hub;
}

/* To the member's L1. False if it shares no pages. Any context, under RCU. */
static bool kvm_span_hub_send(struct kvm_span_member *member, unsigned int n,
			      const struct kvm_span_bits *bits, bool older)
{
	struct span_posts *posts = kvm_span_share_posts(member, false);
	bool tell;

	if (!posts)
		return false;
	atomic64_add(kvm_span_bits_count(bits), &member->irqs_to_l1);
	trace_kvm_span_post(n, member->id, bits->event, bits->irr);
	preempt_disable();
	tell = older ? kvm_span_posts_put_older(posts, n, bits) :
		       kvm_span_posts_put(posts, n, bits);
	if (tell)
		kvm_span_share_signal(member);
	preempt_enable();
	return true;
}

/*
 * For a vCPU that is not here. What its owner itself sends back is kept: it
 * says that it does not have the vCPU, and would say so again. Any context,
 * under RCU.
 */
static void kvm_span_hub_route(struct kvm_span_hub *hub, unsigned int n,
			       const struct kvm_span_bits *bits, struct kvm_span_member *from)
{
	struct kvm_span_member *owner = rcu_dereference(hub->owner[n]);

	if (owner && owner != from && kvm_span_hub_send(owner, n, bits, false))
		return;
	trace_kvm_span_post(n, KVM_SPAN_VCPU_NOBODY, bits->event, bits->irr);
	kvm_span_posts_put(hub->kept, n, bits);
}

static void kvm_span_hub_post(struct kvm_span_site *site, unsigned int n,
			      const struct kvm_span_bits *bits)
{
	kvm_span_hub_route(kvm_span_hub_of_site(site), n, bits, NULL);
}

/*
 * Identities
 */

/* The members that own a vCPU, each once, with a reference. */
static unsigned int kvm_span_hub_members(struct kvm_span_hub *hub,
					 struct kvm_span_member **members)
{
	struct kvm_span_member *member;
	unsigned int n, i, count = 0;

	rcu_read_lock();
	for (n = 0; n < SPAN_MAX_VCPUS; n++) {
		member = rcu_dereference(hub->owner[n]);
		if (!member)
			continue;
		for (i = 0; i < count && members[i] != member; i++)
			;
		if (i == count && kref_get_unless_zero(&member->ref))
			members[count++] = member;
	}
	rcu_read_unlock();
	return count;
}

static void kvm_span_hub_tell(struct kvm_span_hub *hub, struct kvm_span_member *member,
			      unsigned int n)
{
	static const struct kvm_span_bits apic = { .event = SPAN_POST_APIC };
	struct span_posts *posts = kvm_span_share_posts(member, false);
	bool ring;

	if (!posts)
		return;
	preempt_disable();
	spin_lock(&hub->site.ids_lock);
	kvm_span_ids_write(&hub->site, posts, n);
	ring = kvm_span_posts_put(posts, n, &apic);
	spin_unlock(&hub->site.ids_lock);
	if (ring)
		kvm_span_share_signal(member);
	preempt_enable();
}

/* Until the member has taken the identity of n; it need not, its L1 may be gone. */
static void kvm_span_hub_wait(struct kvm_span_member *member, unsigned int n, ktime_t until)
{
	struct span_posts *posts = kvm_span_share_posts(member, false);

	if (!posts)
		return;
	while (!(le32_to_cpu(READ_ONCE(posts->vcpu[n].apic)) & SPAN_APIC_ANSWERED)) {
		if (ktime_after(ktime_get(), until) || READ_ONCE(member->state) != KVM_SPAN_JOINED)
			return;
		usleep_range(20, 100);
	}
}

/* Whoever has vCPUs learns of these, except a vCPU's own owner. */
static void kvm_span_hub_spread(struct kvm_span_site *site, unsigned long vcpus)
{
	struct kvm_span_hub *hub = kvm_span_hub_of_site(site);
	struct kvm_span_member *members[SPAN_MAX_VCPUS];
	unsigned int i, n, count = kvm_span_hub_members(hub, members);
	ktime_t until = ktime_add_ms(ktime_get(), KVM_SPAN_TAKE_MS);

	for (i = 0; i < count; i++)
		for_each_set_bit(n, &vcpus, SPAN_MAX_VCPUS)
			if (rcu_access_pointer(hub->owner[n]) != members[i])
				kvm_span_hub_tell(hub, members[i], n);
	for (i = 0; i < count; i++) {
		for_each_set_bit(n, &vcpus, SPAN_MAX_VCPUS)
			if (rcu_access_pointer(hub->owner[n]) != members[i])
				kvm_span_hub_wait(members[i], n, until);
		kvm_span_member_put(members[i]);
	}
}

static void kvm_span_hub_publish(struct kvm_span_site *site, unsigned int n)
{
	kvm_span_hub_spread(site, BIT(n));
}

/* All identities, to a member that owns its first vCPU. */
static void kvm_span_hub_tell_all(struct kvm_span_hub *hub, struct kvm_span_member *member)
{
	ktime_t until = ktime_add_ms(ktime_get(), KVM_SPAN_TAKE_ALL_MS);
	struct kvm_vcpu *vcpu;
	unsigned long i;

	kvm_for_each_vcpu(i, vcpu, hub->site.kvm)
		if (vcpu->vcpu_id < SPAN_MAX_VCPUS)
			kvm_span_hub_tell(hub, member, vcpu->vcpu_id);
	kvm_for_each_vcpu(i, vcpu, hub->site.kvm)
		if (vcpu->vcpu_id < SPAN_MAX_VCPUS)
			kvm_span_hub_wait(member, vcpu->vcpu_id, until);
}

/* May this member speak for the vCPU? It owns it, or nobody has it since. */
static bool kvm_span_hub_speaks(struct kvm_span_hub *hub, unsigned int n,
				const struct kvm_span_member *member)
{
	return rcu_access_pointer(hub->owner[n]) == member ||
	       rcu_access_pointer(hub->last[n]) == member;
}

static struct span_post *kvm_span_hub_told(struct kvm_span_site *site, unsigned int n)
{
	struct kvm_span_hub *hub = kvm_span_hub_of_site(site);
	struct kvm_span_member *member = rcu_dereference(hub->owner[n]);
	struct span_posts *posts;

	if (!member)
		member = rcu_dereference(hub->last[n]);
	posts = member ? kvm_span_share_posts(member, true) : NULL;
	return posts ? &posts->vcpu[n] : NULL;
}

/*
 * What an L1 sends
 */

/* Under RCU. */
static void kvm_span_hub_take(struct kvm_span_hub *hub, unsigned int n,
			      struct kvm_span_bits *bits, struct kvm_span_member *from)
{
	struct kvm_vcpu *vcpu;

	if ((bits->event & SPAN_POST_APIC) && kvm_span_hub_speaks(hub, n, from))
		kvm_span_site_news(&hub->site, n);
	bits->event &= ~SPAN_POST_APIC;
	if (!kvm_span_bits_count(bits))
		return;
	atomic64_add(kvm_span_bits_count(bits), &from->irqs_to_l0);
	if (kvm_span_hub_away(hub, n)) {
		kvm_span_hub_route(hub, n, bits, from);
		return;
	}
	vcpu = kvm_get_vcpu_by_id(hub->site.kvm, n);
	trace_kvm_span_post(n, 0, bits->event, bits->irr);
	if (vcpu && lapic_in_kernel(vcpu))
		kvm_span_inject(vcpu, bits);
}

/* Does the member own a vCPU, or did it own one that is nobody's now? */
static bool kvm_span_hub_may_post(const struct kvm_span_member *member)
{
	if (READ_ONCE(member->vcpus))
		return true;
	smp_rmb();	/* with the wmb in kvm_span_hub_take_away() */
	return READ_ONCE(member->leaving);
}

/*
 * The doorbell of a member, in a vCPU of its L1. A member that has no business
 * with the guest's vCPUs posts nothing: it must own one, or one that it owned
 * last must be nobody's (its last IPIs, and what it gives back, come after it
 * was taken away). Any vCPU may be meant: it is part of the guest then.
 */
void kvm_span_posts_rung(struct kvm_span_member *member)
{
	struct span_posts *posts = kvm_span_share_posts(member, true);
	struct kvm_span_hub *hub;
	struct kvm_span_bits bits;
	unsigned long pending;
	unsigned int n;
	bool may;

	if (!posts)
		return;
	hub = kvm_span_hub_get(member->span);
	pending = kvm_span_posts_pending(posts);
	for_each_set_bit(n, &pending, SPAN_MAX_VCPUS) {
		/* In one section: who ends the right to post waits for what was taken. */
		rcu_read_lock();
		may = hub && kvm_span_hub_may_post(member);
		if (kvm_span_posts_take(posts, n, &bits)) {
			if (may)
				kvm_span_hub_take(hub, n, &bits, member);
			else
				kvm_span_member_refused(member);
		}
		rcu_read_unlock();
		/* Hundreds of vectors at most for each, but 64 times. */
		cond_resched();
	}
	if (hub)
		kvm_span_site_put(&hub->site);
}

/*
 * Ownership
 */

/* An INIT that is older than a SIPI in the local APIC does not end it. */
static void kvm_span_hub_inject_older(struct kvm_vcpu *vcpu, struct kvm_span_bits *bits)
{
	struct kvm_lapic *apic = vcpu->arch.apic;

	if ((bits->event & SPAN_POST_INIT) && test_bit(KVM_APIC_SIPI, &apic->pending_events)) {
		bits->event |= SPAN_POST_SIPI;
		bits->sipi_vector = apic->sipi_vector;
	}
	kvm_span_inject(vcpu, bits);
}

/*
 * What is kept for a vCPU, to its owner of now, who may have got newer ones
 * already. Under site.mutex.
 */
static void kvm_span_hub_give_kept(struct kvm_span_hub *hub, struct kvm_vcpu *vcpu)
{
	struct kvm_span_member *owner;
	struct kvm_span_bits bits;
	unsigned int n = vcpu->vcpu_id;

	kvm_span_posts_settle(hub->kept, n);
	if (!kvm_span_posts_take(hub->kept, n, &bits))
		return;
	rcu_read_lock();
	owner = rcu_dereference(hub->owner[n]);
	if (!kvm_span_hub_away(hub, n))
		kvm_span_hub_inject_older(vcpu, &bits);
	else if (!owner || !kvm_span_hub_send(owner, n, &bits, true))
		kvm_span_posts_put_older(hub->kept, n, &bits);
	rcu_read_unlock();
}

/*
 * Nobody speaks for it any more but its new owner, who is named before this is
 * called: it may be the same again. What the old one has posted and not told
 * so far is taken first. Waits for a grace period in any case.
 */
static void kvm_span_hub_forget_last(struct kvm_span_hub *hub, unsigned int n)
{
	struct kvm_span_member *last = kvm_span_hub_locked(hub, &hub->last[n]);

	kvm_span_hub_disarm(hub, n);
	if (last) {
		kvm_span_posts_rung(last);
		RCU_INIT_POINTER(hub->last[n], NULL);
		WRITE_ONCE(last->leaving, last->leaving & ~BIT(n));
	}
	synchronize_rcu_expedited();
	if (last)
		kvm_span_member_put(last);
}

/* What a member's L1 has not taken so far it will not get any more. */
static void kvm_span_hub_keep_rest(struct kvm_span_hub *hub, unsigned int n,
				   struct kvm_span_member *member)
{
	struct span_posts *posts = kvm_span_share_posts(member, false);
	struct kvm_span_bits bits;

	if (posts && kvm_span_posts_take(posts, n, &bits)) {
		bits.event &= ~SPAN_POST_APIC;
		kvm_span_posts_put_older(hub->kept, n, &bits);
	}
	trace_kvm_span_vcpu(n, member->id, KVM_SPAN_VCPU_NOBODY);
}

/* From a member to nobody. */
void kvm_span_hub_take_away(struct kvm_span_hub *hub, unsigned int n,
			    struct kvm_span_member *member)
{
	/* The reference moves on to last[]; first the right to speak, see posts_rung(). */
	rcu_assign_pointer(hub->last[n], member);
	WRITE_ONCE(member->leaving, member->leaving | BIT(n));
	smp_wmb();	/* with the rmb in kvm_span_hub_may_post() */
	WRITE_ONCE(member->vcpus, member->vcpus & ~BIT(n));
	RCU_INIT_POINTER(hub->owner[n], NULL);
	/* Whoever saw the owner has posted. */
	synchronize_rcu_expedited();
	kvm_span_hub_keep_rest(hub, n, member);
}

/* From nobody to a member, whose reference is the hub's now. */
static void kvm_span_hub_give(struct kvm_span_hub *hub, struct kvm_vcpu *vcpu,
			      struct kvm_span_member *member)
{
	struct span_posts *posts = kvm_span_share_posts(member, true);
	unsigned int n = vcpu->vcpu_id;

	/* What it said of it when it had it last is old. */
	if (posts)
		WRITE_ONCE(posts->vcpu[n].apic, 0);
	WRITE_ONCE(member->vcpus, member->vcpus | BIT(n));
	rcu_assign_pointer(hub->owner[n], member);
	/* Whoever saw no owner has put what he had to the rest that is kept. */
	kvm_span_hub_forget_last(hub, n);
	kvm_span_hub_give_kept(hub, vcpu);
	trace_kvm_span_vcpu(n, KVM_SPAN_VCPU_NOBODY, member->id);
}

/* From nobody to this host. */
static int kvm_span_hub_bring_home(struct kvm_span_hub *hub, struct kvm_vcpu *vcpu)
{
	int r;

	r = kvm_span_site_come(&hub->site, vcpu);
	if (r)
		return r;
	kvm_span_hub_forget_last(hub, vcpu->vcpu_id);
	kvm_span_hub_give_kept(hub, vcpu);
	trace_kvm_span_vcpu(vcpu->vcpu_id, KVM_SPAN_VCPU_NOBODY, 0);
	return 0;
}

/* From this host to nobody. */
static int kvm_span_hub_send_away(struct kvm_span_hub *hub, struct kvm_vcpu *vcpu)
{
	int r;

	r = kvm_span_site_leave(&hub->site, vcpu);
	if (!r)
		trace_kvm_span_vcpu(vcpu->vcpu_id, 0, KVM_SPAN_VCPU_NOBODY);
	return r;
}

/* A reference to a member that may own vCPUs. */
static struct kvm_span_member *kvm_span_hub_candidate(struct kvm_span *span, u32 id)
{
	struct kvm_span_member *member;
	int r = 0;

	spin_lock(&span->lock);
	member = kvm_span_member_find(span, id);
	if (!member)
		r = -ENOENT;
	else if (!(member->rights & KVM_SPAN_RIGHT_VCPU))
		r = -EPERM;
	else if (member->state == KVM_SPAN_GRANTED)
		r = -ENOTCONN;
	else if (member->state != KVM_SPAN_JOINED)
		r = -EACCES;
	else if (!kvm_span_share_posts(member, false))
		r = -ENOTCONN;
	else
		kref_get(&member->ref);
	spin_unlock(&span->lock);
	return r ? ERR_PTR(r) : member;
}

static int kvm_span_hub_to_nobody(struct kvm_span_hub *hub, struct kvm_vcpu *vcpu)
{
	unsigned int n = vcpu->vcpu_id;
	struct kvm_span_member *owner = kvm_span_hub_locked(hub, &hub->owner[n]);

	if (owner) {
		kvm_span_hub_take_away(hub, n, owner);
		return 0;
	}
	return kvm_span_hub_away(hub, n) ? 0 : kvm_span_hub_send_away(hub, vcpu);
}

static int kvm_span_hub_to_base(struct kvm_span_hub *hub, struct kvm_vcpu *vcpu)
{
	unsigned int n = vcpu->vcpu_id;

	if (!kvm_span_hub_away(hub, n))
		return 0;
	return kvm_span_hub_locked(hub, &hub->owner[n]) ? -EBUSY :
	       kvm_span_hub_bring_home(hub, vcpu);
}

/* Returns the member, with a reference, if it has to be told of all vCPUs. */
static struct kvm_span_member *kvm_span_hub_to_member(struct kvm_span_hub *hub,
						      struct kvm_vcpu *vcpu, u32 id)
{
	unsigned int n = vcpu->vcpu_id;
	struct kvm_span_member *owner = kvm_span_hub_locked(hub, &hub->owner[n]);
	struct kvm_span_member *member;
	bool first;

	if (owner && owner->id == id)
		return NULL;
	/* With the mutex: who is revoked after this loses what it gets here. */
	member = kvm_span_hub_candidate(hub->span, id);
	if (IS_ERR(member))
		return member;
	if (owner || !kvm_span_hub_away(hub, n)) {
		kvm_span_member_put(member);
		return ERR_PTR(-EBUSY);
	}
	first = !member->vcpus;
	if (first)
		kref_get(&member->ref);
	kvm_span_hub_give(hub, vcpu, member);
	if (first)
		return member;
	/* If it knows better, it says so. */
	kvm_span_hub_tell(hub, member, n);
	return NULL;
}

static int kvm_span_hub_set(struct kvm_span_hub *hub, struct kvm_vcpu *vcpu, u32 owner,
			    u32 flags)
{
	struct kvm_span_member *member = NULL;
	int r, armed = 0;

	if (mutex_lock_killable(&hub->site.mutex))
		return -EINTR;
	if (owner == KVM_SPAN_VCPU_NOBODY) {
		r = kvm_span_hub_to_nobody(hub, vcpu);
	} else if (!owner) {
		r = kvm_span_hub_to_base(hub, vcpu);
	} else {
		member = kvm_span_hub_to_member(hub, vcpu, owner);
		r = PTR_ERR_OR_ZERO(member);
		if (!r && (flags & KVM_SPAN_VCPU_SALVAGE))
			armed = kvm_span_hub_arm(hub, vcpu);
	}
	mutex_unlock(&hub->site.mutex);
	if (r)
		return r;

	/* It waits, so without the mutex, which a revoke needs. */
	if (member) {
		kvm_span_hub_tell_all(hub, member);
		kvm_span_member_put(member);
	}
	if (!owner)
		kvm_span_site_look(&hub->site, vcpu->vcpu_id);
	return armed;
}

static void kvm_span_hub_free(struct kvm_span_site *site)
{
	struct kvm_span_hub *hub = kvm_span_hub_of_site(site);

	kvfree(hub->kept);
	kfree_rcu(hub, rcu);
}

static const struct kvm_span_site_ops kvm_span_hub_ops = {
	.post = kvm_span_hub_post,
	.publish = kvm_span_hub_publish,
	.told = kvm_span_hub_told,
	.spread = kvm_span_hub_spread,
	.free = kvm_span_hub_free,
};

static struct kvm_span_hub *kvm_span_hub_new(struct kvm_span *span)
{
	struct kvm_span_hub *hub;
	int r;

	hub = kzalloc(sizeof(*hub), GFP_KERNEL_ACCOUNT);
	if (!hub)
		return ERR_PTR(-ENOMEM);
	hub->span = span;
	hub->kept = kvzalloc(sizeof(*hub->kept), GFP_KERNEL_ACCOUNT);
	r = hub->kept ? kvm_span_site_init(&hub->site, span->kvm, &kvm_span_hub_ops) : -ENOMEM;
	if (r) {
		kvfree(hub->kept);
		kfree(hub);
		return ERR_PTR(r);
	}
	r = kvm_span_site_attach(&hub->site, 0);
	if (r) {
		kvm_span_site_put(&hub->site);
		return ERR_PTR(r);
	}
	return hub;
}

/* The span's hub, with a reference. It is made by the first call that needs it. */
static struct kvm_span_hub *kvm_span_hub_make(struct kvm_span *span)
{
	struct kvm_span_hub *hub;

	mutex_lock(&kvm_span_hubs_lock);
	hub = kvm_span_hub_get(span);
	if (hub)
		goto out;
	hub = kvm_span_hub_new(span);
	if (!IS_ERR(hub)) {
		kref_get(&hub->site.ref);
		rcu_assign_pointer(span->hub, hub);
	}
out:
	mutex_unlock(&kvm_span_hubs_lock);
	return hub;
}

/* The vCPU is here; where shall it go? */
static int kvm_span_hub_busy(struct kvm_span *span, u32 owner)
{
	struct kvm_span_member *member;

	if (!owner)
		return 0;
	member = kvm_span_hub_candidate(span, owner);
	if (IS_ERR(member))
		return PTR_ERR(member);
	kvm_span_member_put(member);
	return -EBUSY;
}

static bool kvm_span_hub_arg_valid(const struct kvm_span_vcpu *arg)
{
	bool member = arg->owner && arg->owner != KVM_SPAN_VCPU_NOBODY;

	return arg->vcpu < SPAN_MAX_VCPUS && arg->owner != KVM_SPAN_VCPU_ELSEWHERE &&
	       !(arg->flags & ~(member ? KVM_SPAN_VCPU_SALVAGE : 0));
}

/* KVM_SPAN_SET_VCPU on a span fd. */
long kvm_span_hub_set_vcpu(struct kvm_span *span, void __user *uarg)
{
	struct kvm_span_hub *hub;
	struct kvm_span_vcpu arg;
	struct kvm_vcpu *vcpu;
	long r;

	r = kvm_span_copy_arg(&arg, sizeof(arg), uarg);
	if (r)
		return r;
	if (!kvm_span_hub_arg_valid(&arg))
		return -EINVAL;
	vcpu = kvm_get_vcpu_by_id(span->kvm, arg.vcpu);
	if (!vcpu)
		return -ENOENT;
	r = kvm_span_site_check_vm(span->kvm);
	if (!r && (arg.flags & KVM_SPAN_VCPU_SALVAGE) && !kvm_span_salvage_features())
		r = -EOPNOTSUPP;
	if (r)
		goto out;
	/* Without a vCPU that has left there is nothing that could come back. */
	hub = kvm_span_hub_get(span);
	if (!hub && arg.owner != KVM_SPAN_VCPU_NOBODY) {
		r = kvm_span_hub_busy(span, arg.owner);
		goto out;
	}
	hub = hub ?: kvm_span_hub_make(span);
	if (IS_ERR(hub))
		return PTR_ERR(hub);
	r = kvm_span_hub_set(hub, vcpu, arg.owner, arg.flags);
	kvm_span_site_put(&hub->site);
out:
	if (r)
		trace_kvm_span_refuse("set vcpu", "see errno", arg.owner, r);
	return r;
}

/* The member was revoked or has left: what it owned is nobody's. */
void kvm_span_hub_lost(struct kvm_span_member *member)
{
	struct kvm_span_hub *hub = kvm_span_hub_get(member->span);
	unsigned long owned = 0;
	unsigned int n, refs = 0;

	if (!hub)
		return;
	mutex_lock(&hub->site.mutex);
	for (n = 0; n < SPAN_MAX_VCPUS; n++) {
		if (rcu_access_pointer(hub->owner[n]) == member) {
			RCU_INIT_POINTER(hub->owner[n], NULL);
			kvm_span_hub_disarm(hub, n);
			__set_bit(n, &owned);
			refs++;
		}
		if (rcu_access_pointer(hub->last[n]) == member) {
			RCU_INIT_POINTER(hub->last[n], NULL);
			kvm_span_hub_disarm(hub, n);
			refs++;
		}
	}
	WRITE_ONCE(member->vcpus, 0);
	WRITE_ONCE(member->leaving, 0);
	if (refs)
		synchronize_rcu_expedited();
	for_each_set_bit(n, &owned, SPAN_MAX_VCPUS)
		kvm_span_hub_keep_rest(hub, n, member);
	mutex_unlock(&hub->site.mutex);
	/* The caller has one, too. */
	while (refs--)
		kvm_span_member_put(member);
	kvm_span_site_put(&hub->site);
}

/*
 * The span fd closes; all members are fenced, so nobody has a vCPU but us. Those
 * that were away go on with the state that they have here.
 */
void kvm_span_hub_end(struct kvm_span *span)
{
	struct kvm_span_hub *hub = rcu_dereference_protected(span->hub, true);
	struct kvm_vcpu *vcpu;
	unsigned long i;

	if (!hub)
		return;
	mutex_lock(&hub->site.mutex);
	kvm_for_each_vcpu(i, vcpu, hub->site.kvm)
		if (vcpu->vcpu_id < SPAN_MAX_VCPUS && kvm_span_hub_away(hub, vcpu->vcpu_id))
			kvm_span_hub_bring_home(hub, vcpu);
	mutex_unlock(&hub->site.mutex);
	RCU_INIT_POINTER(span->hub, NULL);
	kvm_span_site_detach(&hub->site);
	kvm_span_site_put(&hub->site);
}

/* Second half of struct kvm_span_member_info. */
void kvm_span_hub_info(struct kvm_span_member *member, struct kvm_span_member_info *info)
{
	struct kvm_span *span = member->span;
	struct kvm_vcpu *vcpu;
	unsigned long i;
	bool valid = false;
	u64 offset = 0;

	info->vcpus = READ_ONCE(member->vcpus);
	info->irqs_to_l1 = atomic64_read(&member->irqs_to_l1);
	info->irqs_to_l0 = atomic64_read(&member->irqs_to_l0);
	info->tsc_flags = 0;
	info->tsc_offset = 0;
	info->pad = 0;

	/* The VM is referenced until the state is LEFT, which takes the lock. */
	spin_lock(&span->lock);
	if (member->state != KVM_SPAN_JOINED && member->state != KVM_SPAN_REVOKED)
		goto out;
	if (!member->kvm)
		goto out;
	kvm_for_each_vcpu(i, vcpu, member->kvm) {
		if (!i)
			offset = vcpu->arch.l1_tsc_offset;
		valid = vcpu->arch.l1_tsc_offset == offset &&
			vcpu->arch.l1_tsc_scaling_ratio == kvm_caps.default_tsc_scaling_ratio;
		if (!valid)
			break;
	}
out:
	spin_unlock(&span->lock);
	if (!valid)
		return;
	info->tsc_flags = KVM_SPAN_TSC_VALID;
	info->tsc_offset = offset;
}
