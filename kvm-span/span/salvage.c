// SPDX-License-Identifier: GPL-2.0
/*
 * KVM Span, L0 side: take vCPUs of the guest back from an L1 that does not give
 * them.
 *
 * All vCPUs of the L1 are held outside of the guest, their state is taken as far
 * as it is known (shot.c), the member is fenced, and only then they go on: with a
 * guest whose memory is not there any more. No step waits for the L1 or for its
 * process.
 */
#include <linux/delay.h>
#include <linux/slab.h>

#include "salvage.h"
#include "vcpu.h"
#include "watch.h"
#include "span_hooks.h"
#include "trace.h"

/* How long vCPUs of the L1 have to come out of KVM_RUN. */
#define KVM_SPAN_HOLD_MS	100

/*
 * How long in all, in ns, a salvage waits for memory of the L1 that its process
 * keeps locked, however many vCPUs there are.
 */
#define KVM_SPAN_SALVAGE_PATIENCE	(10 * NSEC_PER_MSEC)

/* In which an L1 that runs gets interrupts into its guest that it has taken already. */
#define KVM_SPAN_SETTLE_US	2000

/* One salvage at a time, so that a VM is not held twice. */
static DEFINE_MUTEX(kvm_span_salvage_lock);

/* vCPUs that are held wait here. */
static DECLARE_WAIT_QUEUE_HEAD(kvm_span_held_wait);

struct kvm_span_salvage_work {
	struct kvm_span *span;
	struct kvm_span_member *member;
	struct kvm *kvm;		/* the L1, referenced */
	unsigned long wanted;
	unsigned long taken;		/* from its owner */
	unsigned long outside;		/* and not found in guest mode */
	bool all;			/* of the L1's vCPUs were held */
	s64 patience;			/* ns */
	struct kvm_span_shot *shots[SPAN_MAX_VCPUS];
	struct kvm_span_salvage arg;
};

/* The state of a nested guest is VMX's to tell. */
u64 kvm_span_salvage_features(void)
{
	return kvm_x86_ops.span_salvage ? KVM_SPAN_FEATURE_SALVAGE : 0;
}

/*
 * Before and after KVM_RUN, with vcpu->mutex held and the vCPU not loaded: the
 * salvage gets the mutex, and nobody runs the vCPU until it is through.
 */
void __kvm_span_wait_held(struct kvm_vcpu *vcpu)
{
	struct kvm *kvm = vcpu->kvm;

	while (READ_ONCE(kvm->arch.span.held)) {
		mutex_unlock(&vcpu->mutex);
		wait_event(kvm_span_held_wait, !READ_ONCE(kvm->arch.span.held));
		mutex_lock(&vcpu->mutex);
	}
}

/*
 * Look at a vCPU of the L1 once it is out of KVM_RUN; it does not get in again.
 * False: it is not.
 */
static bool kvm_span_salvage_look(struct kvm_span_salvage_work *w, struct kvm_vcpu *vcpu)
{
	if (!mutex_trylock(&vcpu->mutex)) {
		/* In guest mode, halted, or on its way; see vcpu_run(). */
		kvm_make_request(KVM_REQ_UNBLOCK, vcpu);
		kvm_vcpu_kick(vcpu);
		return false;
	}
	kvm_span_shot_now(w->member, vcpu, &w->outside, &w->patience);
	mutex_unlock(&vcpu->mutex);
	return true;
}

static void kvm_span_salvage_hold(struct kvm_span_salvage_work *w)
{
	ktime_t until = ktime_add_ms(ktime_get(), KVM_SPAN_HOLD_MS);
	DECLARE_BITMAP(seen, KVM_MAX_VCPUS) = {};
	struct kvm_vcpu *vcpu;
	unsigned long i;

	/* Before any look at a vCPU: who gets its mutex later sees it. */
	smp_store_mb(w->kvm->arch.span.held, true);
	for (;;) {
		w->all = true;
		kvm_for_each_vcpu(i, vcpu, w->kvm) {
			if (test_bit(i, seen))
				continue;
			/* A look may take a while, too. */
			if (ktime_after(ktime_get(), until))
				w->all = false;
			else if (kvm_span_salvage_look(w, vcpu))
				__set_bit(i, seen);
			else
				w->all = false;
		}
		if (w->all || ktime_after(ktime_get(), until))
			return;
		usleep_range(20, 200);
	}
}

static void kvm_span_salvage_release(struct kvm_span_salvage_work *w)
{
	WRITE_ONCE(w->kvm->arch.span.held, false);
	wake_up_all(&kvm_span_held_wait);
}

/* Before the member is fenced: its memory may be unmapped with it. */
static u8 kvm_span_salvage_check(struct kvm_span_salvage_work *w, unsigned int n)
{
	if (!test_bit(n, &w->taken))
		return KVM_SPAN_SALVAGE_NOT_OWNED;
	if (!w->shots[n])
		return KVM_SPAN_SALVAGE_NOT_ARMED;
	/* Else one that is not held may have entered it since. */
	if (test_bit(n, &w->outside) && !w->all)
		return KVM_SPAN_SALVAGE_NOT_HELD;
	switch (kvm_span_shot_ready(w->shots[n], &w->patience)) {
	case 0:
		return kvm_span_shot_inside(w->shots[n]) ? KVM_SPAN_SALVAGE_RUNNING :
							    KVM_SPAN_SALVAGE_EXITED;
	case -ENOENT:
		return KVM_SPAN_SALVAGE_UNKNOWN;
	case -EBUSY:
	case -EOPNOTSUPP:
		return KVM_SPAN_SALVAGE_AT_WORK;
	default:
		return KVM_SPAN_SALVAGE_UNREADABLE;
	}
}

static void kvm_span_salvage_take(struct kvm_span_salvage_work *w)
{
	unsigned int n;

	mutex_lock(&kvm_span_salvage_lock);
	w->outside = w->taken;
	w->patience = KVM_SPAN_SALVAGE_PATIENCE;
	kvm_span_salvage_hold(w);
	for_each_set_bit(n, &w->wanted, SPAN_MAX_VCPUS)
		w->arg.result[n] = kvm_span_salvage_check(w, n);
	/* The last that the guest sent. */
	kvm_span_posts_rung(w->member);
	kvm_span_member_expel(w->member);
	kvm_span_salvage_release(w);
	mutex_unlock(&kvm_span_salvage_lock);
}

static bool kvm_span_salvaged(u8 result)
{
	return result == KVM_SPAN_SALVAGE_RUNNING || result == KVM_SPAN_SALVAGE_EXITED;
}

static void kvm_span_salvage_give(struct kvm_span_salvage_work *w)
{
	struct kvm_span_shot *shot;
	unsigned int n;
	u8 *result;

	w->arg.vcpus = 0;
	for_each_set_bit(n, &w->wanted, SPAN_MAX_VCPUS) {
		shot = w->shots[n];
		result = &w->arg.result[n];
		if (kvm_span_salvaged(*result) && kvm_span_hub_salvaged(w->span, n, shot))
			*result = KVM_SPAN_SALVAGE_REFUSED;
		if (kvm_span_salvaged(*result))
			w->arg.vcpus |= BIT_ULL(n);
		trace_kvm_span_salvage(n, w->member->id, *result,
				       shot ? kvm_span_shot_exit(shot) : 0);
		if (shot)
			kvm_span_shot_end(shot);
	}
}

/* Sets w->member and w->kvm, both with a reference. */
static int kvm_span_salvage_find(struct kvm_span_salvage_work *w)
{
	struct kvm_span *span = w->span;
	struct kvm_span_member *member;
	int r = 0;

	spin_lock(&span->lock);
	member = kvm_span_member_find(span, w->arg.member);
	if (!member) {
		r = -ENOENT;
	} else if (!(member->rights & KVM_SPAN_RIGHT_VCPU)) {
		r = -EPERM;
	} else if (member->state != KVM_SPAN_JOINED) {
		r = -EACCES;
	} else {
		kref_get(&member->ref);
		kvm_get_kvm(member->kvm);
		w->member = member;
		w->kvm = member->kvm;
	}
	spin_unlock(&span->lock);
	return r;
}

static int kvm_span_salvage_run(struct kvm_span_salvage_work *w)
{
	struct kvm_span_salvage *arg = &w->arg;
	int r;

	if (arg->flags || arg->pad || !arg->vcpus)
		return -EINVAL;
	/* Page tables of the guest are looked at, by its own addresses. */
	if (current->mm != w->span->owner)
		return -EPERM;
	r = kvm_span_salvage_find(w);
	if (r)
		return r;
	w->wanted = arg->vcpus;
	memset(arg->result, 0, sizeof(arg->result));
	w->taken = kvm_span_hub_withdraw(w->member, w->wanted, w->shots);
	if (w->taken)
		usleep_range(KVM_SPAN_SETTLE_US, 2 * KVM_SPAN_SETTLE_US);
	kvm_span_salvage_take(w);
	kvm_span_salvage_give(w);
	kvm_put_kvm(w->kvm);
	kvm_span_member_put(w->member);
	return 0;
}

/* KVM_SPAN_SALVAGE on a span fd. */
long kvm_span_salvage(struct kvm_span *span, void __user *uarg)
{
	struct kvm_span_salvage_work *w;
	u32 size;
	long r;

	if (!kvm_span_salvage_features())
		return -EOPNOTSUPP;
	w = kzalloc(sizeof(*w), GFP_KERNEL_ACCOUNT);
	if (!w)
		return -ENOMEM;
	w->span = span;
	r = kvm_span_copy_arg(&w->arg, sizeof(w->arg), uarg);
	if (r)
		goto out;
	size = w->arg.size;
	r = kvm_span_salvage_run(w);
	if (r)
		trace_kvm_span_refuse("salvage", "see errno", w->arg.member, r);
	else
		r = kvm_span_return_arg(uarg, &w->arg, min_t(size_t, size, sizeof(w->arg)));
out:
	kfree(w);
	return r;
}
