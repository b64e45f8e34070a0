// SPDX-License-Identifier: GPL-2.0
/*
 * KVM Span: watches, the object and its calls.
 *
 * A watch comes, changes and goes with span->control held. Long ranges are done
 * in pieces with the mutex dropped in between, so that one member's call does
 * not hold up another's, nor a revoke. vCPUs never take the mutex; they find
 * watches in span->watch[] under RCU.
 */
#include <linux/bitmap.h>
#include <linux/sched.h>
#include <linux/slab.h>
#include <linux/uaccess.h>
#include <linux/wait_bit.h>
#include <uapi/linux/span_port.h>

#include "watch.h"
#include "trace.h"

/* Pages of a range that are changed before the next one has his turn. */
#define KVM_SPAN_PIECE		65536

static_assert(KVM_SPAN_ALLOW == SPAN_ALLOW && KVM_SPAN_DENY == SPAN_DENY);
static_assert(KVM_SPAN_ANSWER_CANCEL == SPAN_ANSWER_CANCEL);
static_assert(KVM_SPAN_ACCESS_R == SPAN_ACCESS_R && KVM_SPAN_ACCESS_W == SPAN_ACCESS_W &&
	      KVM_SPAN_ACCESS_X == SPAN_ACCESS_X);

/* Why a watch masks pages that are subscribed in a mode. */
static enum kvm_span_why kvm_span_mode_why(u32 mode)
{
	return mode == KVM_SPAN_MODE_BLOCK ? KVM_SPAN_WHY_BLOCK : KVM_SPAN_WHY_NOTIFY;
}

/*
 * May the member have watches now? Whoever asks with span->control held can rely
 * on it until he drops it: a revoke changes the state first and then takes the
 * mutex to end the watches.
 */
int kvm_span_watch_may(struct kvm_span_member *member)
{
	enum kvm_span_state state = READ_ONCE(member->state);

	if (state != (member->watcher ? KVM_SPAN_GRANTED : KVM_SPAN_JOINED))
		return -EACCES;
	return member->rights & KVM_SPAN_RIGHTS_WATCH ? 0 : -EPERM;
}

static void kvm_span_watch_free(struct kref *ref)
{
	struct kvm_span_watch *watch = container_of(ref, struct kvm_span_watch, ref);

	kvm_span_mask_free(watch);
	kfree(watch);
}

static void kvm_span_watch_put(struct kvm_span_watch *watch)
{
	kref_put(&watch->ref, kvm_span_watch_free);
}

/* The member's watch of this id. Under span->control or RCU. */
static struct kvm_span_watch *kvm_span_watch_find(struct kvm_span_member *member, u32 id)
{
	if (!id || id > KVM_SPAN_MAX_WATCHES)
		return NULL;
	return rcu_dereference_check(member->watch[id - 1],
				     lockdep_is_held(&member->span->control));
}

/* A reference to it. */
static struct kvm_span_watch *kvm_span_watch_get(struct kvm_span_member *member, u32 id)
{
	struct kvm_span_watch *watch;
	int r = kvm_span_watch_may(member);

	if (r)
		return ERR_PTR(r);
	rcu_read_lock();
	watch = kvm_span_watch_find(member, id);
	if (watch && !kref_get_unless_zero(&watch->ref))
		watch = NULL;
	rcu_read_unlock();
	return watch ?: ERR_PTR(-ENOENT);
}

static int kvm_span_watch_refuse(struct kvm_span_member *member, const char *what,
				 const char *reason, int err)
{
	kvm_span_member_refused(member);
	trace_kvm_span_refuse(what, reason, member->id, err);
	return err;
}

/*
 * Find it a place. Each member has some that are his, so that no others can keep him
 * from watching. EAGAIN: those that are on their way out have them. Under
 * span->control.
 */
static int kvm_span_watch_list(struct kvm_span_watch *watch)
{
	struct kvm_span_member *member = watch->member;
	struct kvm_span *span = member->span;
	unsigned int index, id;
	bool common;
	int r;

	lockdep_assert_held(&span->control);
	r = kvm_span_watch_may(member);
	if (r)
		return r;
	for (id = 1; id <= KVM_SPAN_MAX_WATCHES; id++)
		if (!rcu_access_pointer(member->watch[id - 1]))
			break;
	common = member->nr_watches >= KVM_SPAN_OWN_WATCHES;
	if (id > KVM_SPAN_MAX_WATCHES || (common && span->nr_common >= KVM_SPAN_COMMON_WATCHES))
		return -ENOSPC;
	index = find_first_zero_bit(span->watch_places, KVM_SPAN_SPAN_WATCHES);
	if (index == KVM_SPAN_SPAN_WATCHES)
		return -EAGAIN;
	member->nr_watches++;
	span->nr_common += common;
	watch->id = id;
	watch->index = index;
	set_bit(index, span->watch_places);
	rcu_assign_pointer(span->watch[index], watch);
	rcu_assign_pointer(member->watch[id - 1], watch);
	WRITE_ONCE(span->nr_watches, span->nr_watches + 1);
	return 0;
}

/*
 * Take it from its places; its masks and its log have no effect from now on.
 * Under span->control, the caller goes on with kvm_span_watch_finish().
 */
static void kvm_span_watch_unlist(struct kvm_span_watch *watch)
{
	struct kvm_span_member *member = watch->member;
	struct kvm_span *span = member->span;

	lockdep_assert_held(&span->control);
	RCU_INIT_POINTER(member->watch[watch->id - 1], NULL);
	RCU_INIT_POINTER(span->watch[watch->index], NULL);
	WRITE_ONCE(span->nr_watches, span->nr_watches - 1);
	if (member->nr_watches-- > KVM_SPAN_OWN_WATCHES)
		span->nr_common--;
	atomic_inc(&member->ending);
	kvm_span_mask_drop(watch);
}

/*
 * An RCU grace period after it was unlisted: no vCPU is telling it of anything
 * any more. Let go what waits for its answer, then give its place free, in this
 * order: events name watches by their place.
 */
static void kvm_span_watch_finish(struct kvm_span_watch *watch)
{
	struct kvm_span_member *member = watch->member;
	unsigned long *places = member->span->watch_places;

	kvm_span_event_forget(watch);
	trace_kvm_span_watch("destroy", member->id, watch->id, 0, 0, 0, 0);
	clear_bit(watch->index, places);
	smp_mb__after_atomic();	/* the place is free, then the look for who waits */
	wake_up_var(places);
	kvm_span_watch_put(watch);
	if (atomic_dec_and_test(&member->ending))
		wake_up_var(&member->ending);
}

/*
 * End all watches of a member that was fenced or has left. When it returns, no
 * access waits for one of them. May be called again and by several at a time.
 */
void kvm_span_watch_end_all(struct kvm_span_member *member)
{
	struct kvm_span_watch *ended[KVM_SPAN_MAX_WATCHES];
	struct kvm_span *span = member->span;
	unsigned int n = 0, id;

	mutex_lock(&span->control);
	for (id = 1; id <= KVM_SPAN_MAX_WATCHES; id++) {
		ended[n] = kvm_span_watch_find(member, id);
		if (!ended[n])
			continue;
		kvm_span_watch_unlist(ended[n]);
		n++;
	}
	mutex_unlock(&span->control);

	if (n)
		synchronize_rcu();
	while (n)
		kvm_span_watch_finish(ended[--n]);
	/* Those that other threads took out; they sleep for nothing but the above. */
	wait_var_event(&member->ending, !atomic_read(&member->ending));
}

/* As if it had not been; unless it was destroyed by now. */
static void kvm_span_watch_cancel(struct kvm_span_watch *watch)
{
	struct kvm_span_member *member = watch->member;
	bool listed;

	mutex_lock(&member->span->control);
	listed = kvm_span_watch_find(member, watch->id) == watch;
	if (listed)
		kvm_span_watch_unlist(watch);
	mutex_unlock(&member->span->control);
	if (listed) {
		synchronize_rcu();
		kvm_span_watch_finish(watch);
	}
}

static long kvm_span_watch_create(struct kvm_span_member *member, void __user *uarg)
{
	struct kvm_span *span = member->span;
	struct kvm_span_watch_create arg;
	struct kvm_span_watch *watch;
	u32 deadline;
	int r;

	r = kvm_span_copy_arg(&arg, sizeof(arg), uarg);
	if (r)
		return r;
	if (arg.flags || arg.pad ||
	    (arg.on_timeout != KVM_SPAN_ALLOW && arg.on_timeout != KVM_SPAN_DENY))
		return -EINVAL;
	r = kvm_span_watch_may(member);
	if (!r && arg.on_timeout == KVM_SPAN_DENY && !(member->rights & KVM_SPAN_RIGHT_DENY))
		r = -EPERM;
	if (r)
		return kvm_span_watch_refuse(member, "watch", "not joined, or no right", r);
	deadline = arg.deadline_us ?: KVM_SPAN_DEADLINE_DEFAULT;

	watch = kzalloc(sizeof(*watch), GFP_KERNEL_ACCOUNT);
	if (!watch)
		return -ENOMEM;
	kref_init(&watch->ref);
	kref_get(&watch->ref);	/* ours: once listed it can be destroyed */
	watch->member = member;
	watch->deadline_us = clamp(deadline, KVM_SPAN_DEADLINE_MIN, member->max_deadline_us);
	watch->on_timeout = arg.on_timeout;

	for (;;) {
		mutex_lock(&span->control);
		r = kvm_span_watch_list(watch);
		mutex_unlock(&span->control);
		if (r != -EAGAIN)
			break;
		/* Nobody's call keeps them: an RCU grace period, and they are gone. */
		wait_var_event(span->watch_places,
			       !bitmap_full(span->watch_places, KVM_SPAN_SPAN_WATCHES));
	}
	if (r) {
		kvm_span_watch_put(watch);
		kvm_span_watch_put(watch);
		return kvm_span_watch_refuse(member, "watch", "revoked, or too many", r);
	}
	trace_kvm_span_watch("create", member->id, watch->id, 0, 0, 0, 0);
	arg.watch = watch->id;
	r = kvm_span_return_arg(uarg, &arg, sizeof(arg));
	if (r)
		kvm_span_watch_cancel(watch);
	kvm_span_watch_put(watch);
	return r;
}

static long kvm_span_watch_destroy(struct kvm_span_member *member, void __user *uarg)
{
	struct kvm_span *span = member->span;
	struct kvm_span_watch_destroy arg;
	struct kvm_span_watch *watch;
	int r;

	r = kvm_span_copy_arg(&arg, sizeof(arg), uarg);
	if (r)
		return r;
	if (arg.flags || arg.pad)
		return -EINVAL;
	r = kvm_span_watch_may(member);
	if (r)
		return r;
	mutex_lock(&span->control);
	watch = kvm_span_watch_find(member, arg.watch);
	if (watch)
		kvm_span_watch_unlist(watch);
	mutex_unlock(&span->control);
	if (!watch)
		return -ENOENT;
	synchronize_rcu();
	kvm_span_watch_finish(watch);
	return 0;
}

/* A page that cannot be read cannot be mapped: R stands for every access. */
static u32 kvm_span_mask_access(u32 access)
{
	return access & KVM_SPAN_ACCESS_R ? KVM_SPAN_ACCESS_RWX : access;
}

static int kvm_span_subscribe_piece(struct kvm_span_watch *watch, const struct kvm_span_range *arg,
				    u64 first, u64 pages)
{
	u32 access = kvm_span_mask_access(arg->access);
	enum kvm_span_why why, other;
	int r;

	if (arg->mode == KVM_SPAN_MODE_LOG)
		return kvm_span_log_start(watch, first, pages);
	why = kvm_span_mode_why(arg->mode);
	other = why == KVM_SPAN_WHY_BLOCK ? KVM_SPAN_WHY_NOTIFY : KVM_SPAN_WHY_BLOCK;
	kvm_span_event_renew(watch, first, pages);
	r = kvm_span_mask_set(watch, why, access, first, pages);
	if (r)
		return r;
	kvm_span_event_renewed(watch, first, pages);
	/* The last mode counts; the page was never without one of them. */
	kvm_span_mask_clear(watch, other, access, first, pages);
	if (why == KVM_SPAN_WHY_NOTIFY) {
		kvm_span_event_unlift(watch, access, first, pages);
		kvm_span_event_release(watch, access, first, pages);
	}
	return 0;
}

static int kvm_span_unsubscribe_piece(struct kvm_span_watch *watch,
				      const struct kvm_span_range *arg, u64 first, u64 pages)
{
	u32 access = kvm_span_mask_access(arg->access);

	kvm_span_mask_clear(watch, KVM_SPAN_WHY_BLOCK, access, first, pages);
	kvm_span_mask_clear(watch, KVM_SPAN_WHY_NOTIFY, access, first, pages);
	/*
	 * What is open for a moment shall not be closed again. After the above:
	 * a vCPU that opens a page now finds nothing to remember.
	 */
	kvm_span_event_unlift(watch, access, first, pages);
	kvm_span_event_release(watch, access, first, pages);
	if (arg->access & KVM_SPAN_ACCESS_W)
		kvm_span_log_stop(watch, first, pages);
	return 0;
}

static int kvm_span_protect_piece(struct kvm_span_watch *watch, const struct kvm_span_range *arg,
				  u64 first, u64 pages)
{
	u32 denied = KVM_SPAN_ACCESS_RWX & ~arg->access;
	int r = 0;

	if (denied)
		r = kvm_span_mask_set(watch, KVM_SPAN_WHY_PROTECT, denied, first, pages);
	if (!r && arg->access)
		kvm_span_mask_clear(watch, KVM_SPAN_WHY_PROTECT, arg->access, first, pages);
	return r;
}

/* What the call's name does not allow, whoever asks. */
static bool kvm_span_range_valid(unsigned int nr, const struct kvm_span_range *arg)
{
	bool subscribe = nr == _IOC_NR(KVM_SPAN_SUBSCRIBE);

	if (arg->flags || arg->pad || (arg->access & ~KVM_SPAN_ACCESS_RWX))
		return false;
	if (nr == _IOC_NR(KVM_SPAN_PROTECT))
		return !arg->mode && (!arg->access || (arg->access & KVM_SPAN_ACCESS_R));
	if (!arg->access)
		return false;
	if (!subscribe)
		return !arg->mode;
	if (arg->mode == KVM_SPAN_MODE_LOG)
		return arg->access == KVM_SPAN_ACCESS_W;
	return arg->mode == KVM_SPAN_MODE_BLOCK || arg->mode == KVM_SPAN_MODE_NOTIFY;
}

static bool kvm_span_pages_valid(struct kvm_span *span, u64 first, u64 pages)
{
	u64 all = kvm_span_pages(span);

	return pages && first < all && pages <= all - first;
}

/* The right that a call needs; taking one's own away needs none. */
static u32 kvm_span_range_right(unsigned int nr, const struct kvm_span_range *arg)
{
	if (nr == _IOC_NR(KVM_SPAN_PROTECT))
		return KVM_SPAN_RIGHT_DENY;
	if (nr != _IOC_NR(KVM_SPAN_SUBSCRIBE))
		return 0;
	switch (arg->mode) {
	case KVM_SPAN_MODE_BLOCK:
		return KVM_SPAN_RIGHT_BLOCK;
	case KVM_SPAN_MODE_NOTIFY:
		return KVM_SPAN_RIGHT_NOTIFY;
	default:
		return KVM_SPAN_RIGHT_LOG;
	}
}

/* One piece of a range, if the watch is still there. */
static int kvm_span_range_piece(struct kvm_span_watch *watch, unsigned int nr,
				const struct kvm_span_range *arg, u64 first, u64 pages)
{
	struct kvm_span *span = kvm_span_watch_span(watch);
	int r;

	mutex_lock(&span->control);
	if (rcu_access_pointer(span->watch[watch->index]) != watch)
		r = kvm_span_watch_may(watch->member) ?: -ENOENT;
	else if (nr == _IOC_NR(KVM_SPAN_SUBSCRIBE))
		r = kvm_span_subscribe_piece(watch, arg, first, pages);
	else if (nr == _IOC_NR(KVM_SPAN_UNSUBSCRIBE))
		r = kvm_span_unsubscribe_piece(watch, arg, first, pages);
	else
		r = kvm_span_protect_piece(watch, arg, first, pages);
	mutex_unlock(&span->control);
	return r;
}

/*
 * SUBSCRIBE, UNSUBSCRIBE, PROTECT. Memory is allocated by the first piece only,
 * for the whole guest: a call that fails for lack of it has changed nothing.
 */
static long kvm_span_watch_range(struct kvm_span_member *member, unsigned int nr,
				 void __user *uarg)
{
	struct kvm_span_watch *watch;
	struct kvm_span_range arg;
	u64 at, end;
	int r;

	r = kvm_span_copy_arg(&arg, sizeof(arg), uarg);
	if (r)
		return r;
	if (!kvm_span_range_valid(nr, &arg) ||
	    !kvm_span_pages_valid(member->span, arg.first, arg.pages))
		return -EINVAL;
	watch = kvm_span_watch_get(member, arg.watch);
	if (IS_ERR(watch))
		return PTR_ERR(watch);
	if (kvm_span_range_right(nr, &arg) & ~member->rights) {
		r = kvm_span_watch_refuse(member, "watch", "no right", -EPERM);
		goto out;
	}
	end = arg.first + arg.pages;
	for (at = arg.first; !r && at < end; at += KVM_SPAN_PIECE) {
		r = kvm_span_range_piece(watch, nr, &arg, at, min(end - at, KVM_SPAN_PIECE));
		cond_resched();
	}
	trace_kvm_span_watch(nr == _IOC_NR(KVM_SPAN_SUBSCRIBE) ? "subscribe" :
			     nr == _IOC_NR(KVM_SPAN_UNSUBSCRIBE) ? "unsubscribe" : "protect",
			     member->id, watch->id, arg.access, arg.mode, arg.first, arg.pages);
out:
	kvm_span_watch_put(watch);
	return r;
}

static long kvm_span_watch_fetch(struct kvm_span_member *member, void __user *uarg)
{
	struct kvm_span_log_fetch arg;
	struct kvm_span_watch *watch;
	long r;

	r = kvm_span_copy_arg(&arg, sizeof(arg), uarg);
	if (r)
		return r;
	if (arg.flags || arg.pad || !arg.max || arg.max > 65536 ||
	    !kvm_span_pages_valid(member->span, arg.first, arg.pages))
		return -EINVAL;
	watch = kvm_span_watch_get(member, arg.watch);
	if (IS_ERR(watch))
		return PTR_ERR(watch);
	r = kvm_span_log_fetch(watch, &arg, uarg);
	kvm_span_watch_put(watch);
	return r;
}

/* Pages of which some bitmap has a bit. No lock: a figure, not a promise. */
static u64 kvm_span_watch_count(struct kvm_span_watch *watch, unsigned int first_why,
				unsigned int last_why)
{
	u64 words = BITS_TO_LONGS(kvm_span_pages(kvm_span_watch_span(watch))), at, n = 0;
	unsigned long *map, bits;
	unsigned int why, i;

	for (at = 0; at < words; at++) {
		bits = 0;
		for (why = first_why; why <= last_why; why++) {
			for (i = 0; i < KVM_SPAN_NR_ACCESS; i++) {
				map = READ_ONCE(watch->masked[why][i]);
				bits |= map ? READ_ONCE(map[at]) : 0;
			}
		}
		n += hweight_long(bits);
		if (!(at & 0xffff))
			cond_resched();
	}
	return n;
}

static u64 kvm_span_watch_count_log(struct kvm_span_watch *watch)
{
	u64 words = BITS_TO_LONGS(kvm_span_pages(kvm_span_watch_span(watch))), at, n = 0;
	unsigned long *map = READ_ONCE(watch->logging);

	for (at = 0; map && at < words; at++) {
		n += hweight_long(READ_ONCE(map[at]));
		if (!(at & 0xffff))
			cond_resched();
	}
	return n;
}

static long kvm_span_watch_query(struct kvm_span_member *member, void __user *uarg)
{
	struct kvm_span_watch_info info;
	struct kvm_span_watch *watch;
	int r;

	r = kvm_span_copy_arg(&info, sizeof(info), uarg);
	if (r)
		return r;
	if (info.flags)
		return -EINVAL;
	watch = kvm_span_watch_get(member, info.watch);
	if (IS_ERR(watch))
		return PTR_ERR(watch);
	info.deadline_us = watch->deadline_us;
	info.on_timeout = watch->on_timeout;
	info.muted = READ_ONCE(watch->muted);
	info.pages_subscribed = kvm_span_watch_count(watch, KVM_SPAN_WHY_BLOCK,
						     KVM_SPAN_WHY_NOTIFY);
	info.pages_protected = kvm_span_watch_count(watch, KVM_SPAN_WHY_PROTECT,
						    KVM_SPAN_WHY_PROTECT);
	info.pages_logged = kvm_span_watch_count_log(watch);
	info.events = atomic64_read(&watch->events);
	info.notices = atomic64_read(&watch->notices);
	info.violations = atomic64_read(&watch->violations);
	info.allowed = atomic64_read(&watch->allowed);
	info.denied = atomic64_read(&watch->denied);
	info.timeouts = atomic64_read(&watch->timeouts);
	info.stale = atomic64_read(&watch->stale);
	info.lost = atomic64_read(&watch->lost);
	info.logged = atomic64_read(&watch->logged);
	info.fetched = atomic64_read(&watch->fetched);
	kvm_span_watch_put(watch);
	return kvm_span_return_arg(uarg, &info, sizeof(info));
}

/* An answer, from the ring or by the call: checked, and given to the event. */
long kvm_span_watch_answer(struct kvm_span_member *member, u32 id, u64 event, u32 verdict,
			   u32 flags)
{
	struct kvm_span_watch *watch = kvm_span_watch_get(member, id);
	long r;

	if (IS_ERR(watch))
		return kvm_span_watch_refuse(member, "answer", "no such watch", PTR_ERR(watch));
	if ((verdict != KVM_SPAN_ALLOW && verdict != KVM_SPAN_DENY) ||
	    (flags & ~KVM_SPAN_ANSWER_CANCEL))
		r = kvm_span_watch_refuse(member, "answer", "no verdict", -EINVAL);
	else if (verdict == KVM_SPAN_DENY && !(member->rights & KVM_SPAN_RIGHT_DENY))
		r = kvm_span_watch_refuse(member, "answer", "no right to deny", -EPERM);
	else
		r = kvm_span_event_answer(watch, event, verdict, flags);
	kvm_span_watch_put(watch);
	return r;
}

static long kvm_span_watch_answer_call(struct kvm_span_member *member, void __user *uarg)
{
	struct kvm_span_answer arg;
	int r;

	r = kvm_span_copy_arg(&arg, sizeof(arg), uarg);
	if (r)
		return r;
	if (arg.flags & ~KVM_SPAN_ANSWER_CANCEL)
		return -EINVAL;
	return kvm_span_watch_answer(member, arg.watch, arg.event, arg.verdict, arg.flags);
}

long kvm_span_watch_ioctl(struct kvm_span_member *member, unsigned int nr, void __user *uarg)
{
	switch (nr) {
	case _IOC_NR(KVM_SPAN_WATCH_CREATE):
		return kvm_span_watch_create(member, uarg);
	case _IOC_NR(KVM_SPAN_WATCH_DESTROY):
		return kvm_span_watch_destroy(member, uarg);
	case _IOC_NR(KVM_SPAN_SUBSCRIBE):
	case _IOC_NR(KVM_SPAN_UNSUBSCRIBE):
	case _IOC_NR(KVM_SPAN_PROTECT):
		return kvm_span_watch_range(member, nr, uarg);
	case _IOC_NR(KVM_SPAN_ANSWER):
		return kvm_span_watch_answer_call(member, uarg);
	case _IOC_NR(KVM_SPAN_RING):
		return kvm_span_ring_setup(member, uarg);
	case _IOC_NR(KVM_SPAN_LOG_FETCH):
		return kvm_span_watch_fetch(member, uarg);
	case _IOC_NR(KVM_SPAN_GET_WATCH):
		return kvm_span_watch_query(member, uarg);
	default:
		return -ENOTTY;
	}
}
