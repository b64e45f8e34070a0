// SPDX-License-Identifier: GPL-2.0
/*
 * KVM Span: the ring of events and answers that a member shares with us.
 *
 * The pages are ours and are mapped by the member's process, which usually
 * shows them to its L1. What is in them is the other side's to change at any
 * time: our indices are kept here, its index is read once and checked, a
 * message is copied once and only the copy is looked at.
 */
#include <linux/eventfd.h>
#include <linux/file.h>
#include <linux/mm.h>
#include <linux/poll.h>
#include <linux/sched/mm.h>
#include <linux/slab.h>
#include <linux/vmalloc.h>
#include <linux/workqueue.h>
#include <uapi/linux/span_port.h>

#include "watch.h"
#include "trace.h"

struct kvm_span_ring_state {
	struct kvm_span_member *member;	/* constant; the ring ends before it */
	struct mm_struct *mm;		/* constant, mmgrab(): who may map it */
	struct span_ring *answers;	/* constant, vmalloc_user(): both rings */
	struct span_ring *events;	/* constant, the second half of it */
	struct eventfd_ctx *event;	/* until kvm_span_ring_end(), may be NULL */

	/* What we produce. */
	spinlock_t lock;
	u32 head;
	u64 seq;
	u64 lost;			/* and nobody was told so far */

	/* What we consume; only the work looks at it. */
	u32 tail;

	struct eventfd_ctx *doorbell;	/* may be NULL */
	wait_queue_entry_t wait;
	poll_table poll;
	unsigned int idle;		/* runs in a row that took no answer */
	struct delayed_work drain;
};

/* After so many runs for nothing the next one can wait for a tick. */
#define KVM_SPAN_RING_IDLE	8

static_assert(sizeof(struct span_ring) * 2 == KVM_SPAN_RING_BYTES);
static_assert(sizeof(struct span_msg_event) <= sizeof_field(struct span_msg, payload));

static struct kvm_span_ring_state *kvm_span_ring_of(struct kvm_span_member *member)
{
	/* Pairs with kvm_span_ring_publish(). */
	return smp_load_acquire(&member->ring);
}

/*
 * Room for one message beside these? A tail that cannot be is no room. Under
 * ring->lock.
 */
static bool kvm_span_ring_room(struct kvm_span_ring_state *ring, unsigned int reserve)
{
	u32 tail;

	/* The reader is through with a slot when the tail has passed it. */
	tail = le32_to_cpu(smp_load_acquire(&ring->events->tail));
	return ring->head - tail < SPAN_RING_SLOTS - reserve;
}

/* Under ring->lock; there is room. */
static void kvm_span_ring_write(struct kvm_span_ring_state *ring, u16 type,
				const void *payload, u16 len)
{
	struct span_msg *slot = &ring->events->slot[ring->head % SPAN_RING_SLOTS];
	struct span_msg msg = {
		.type = cpu_to_le16(type),
		.len = cpu_to_le16(len),
		.seq = cpu_to_le64(++ring->seq),
	};

	memcpy(msg.payload, payload, len);
	*slot = msg;
	ring->head++;
	/* The message first, then the index that shows it. */
	smp_store_release(&ring->events->head, cpu_to_le32(ring->head));
}

/* Say what was lost, if there is room to say it. Under ring->lock. */
static bool kvm_span_ring_tell_lost(struct kvm_span_ring_state *ring)
{
	struct span_msg_lost msg = { .count = cpu_to_le64(ring->lost) };

	if (!ring->lost || !kvm_span_ring_room(ring, 0))
		return false;
	kvm_span_ring_write(ring, SPAN_MSG_LOST, &msg, sizeof(msg));
	ring->lost = 0;
	return true;
}

/*
 * Slots that notices leave to events: what the guest makes by touching pages
 * that it may touch shall not keep others from being asked for.
 */
#define KVM_SPAN_RING_RESERVE	32

/*
 * Put an event into the ring of the watch's member. False if there is no ring
 * or no room. The caller is in an RCU section in which it found the watch in
 * span->watch[], and calls kvm_span_ring_signal() later in it.
 */
bool kvm_span_ring_put(struct kvm_span_watch *watch, const struct span_msg_event *event)
{
	struct kvm_span_ring_state *ring = kvm_span_ring_of(watch->member);
	unsigned int reserve = event->event ? 0 : KVM_SPAN_RING_RESERVE;
	bool done = false;

	if (!ring) {
		atomic64_inc(&watch->lost);
		return false;
	}
	spin_lock(&ring->lock);
	if (kvm_span_ring_room(ring, reserve))
		kvm_span_ring_tell_lost(ring);
	if (!ring->lost && kvm_span_ring_room(ring, reserve)) {
		kvm_span_ring_write(ring, SPAN_MSG_EVENT, event, sizeof(*event));
		done = true;
	} else {
		ring->lost++;
	}
	spin_unlock(&ring->lock);
	if (!done)
		atomic64_inc(&watch->lost);
	return done;
}

/* Something was not even put: as if there had been no room. Under RCU. */
void kvm_span_ring_lost(struct kvm_span_watch *watch)
{
	struct kvm_span_ring_state *ring = kvm_span_ring_of(watch->member);

	atomic64_inc(&watch->lost);
	if (!ring)
		return;
	spin_lock(&ring->lock);
	ring->lost++;
	kvm_span_ring_tell_lost(ring);
	spin_unlock(&ring->lock);
}

/* Wake the member up. Same RCU section as the put. */
void kvm_span_ring_signal(struct kvm_span_member *member)
{
	struct kvm_span_ring_state *ring = kvm_span_ring_of(member);
	struct eventfd_ctx *event = ring ? READ_ONCE(ring->event) : NULL;

	if (event)
		eventfd_signal(event);
}

static void kvm_span_ring_malformed(struct kvm_span_ring_state *ring, const char *reason)
{
	kvm_span_member_refused(ring->member);
	trace_kvm_span_refuse("answer", reason, ring->member->id, -EINVAL);
}

/* Returns whether it was an answer that somebody waited for. */
static bool kvm_span_ring_answer(struct kvm_span_ring_state *ring, const struct span_msg *msg)
{
	struct span_msg_answer answer;

	if (le16_to_cpu(msg->type) != SPAN_MSG_ANSWER ||
	    le16_to_cpu(msg->len) != sizeof(answer)) {
		kvm_span_ring_malformed(ring, "no answer");
		return false;
	}
	memcpy(&answer, msg->payload, sizeof(answer));
	if (answer.pad) {
		kvm_span_ring_malformed(ring, "padding");
		return false;
	}
	/* What is wrong with it beyond this is counted there. */
	return !kvm_span_watch_answer(ring->member, le32_to_cpu(answer.watch),
				      le64_to_cpu(answer.event), answer.verdict, answer.flags);
}

/*
 * The doorbell rang: take the answers that are there. A run is bounded by the
 * size of the ring, and runs do not overlap; what comes meanwhile has a doorbell
 * of its own, which queues the work again. Ringing without answering is served
 * once per tick.
 */
static void kvm_span_ring_drain(struct work_struct *work)
{
	struct kvm_span_ring_state *ring = container_of(work, struct kvm_span_ring_state, drain.work);
	struct span_msg msg;
	bool told, taken = false;
	u32 head;

	/* Slots before the head have been written. */
	head = le32_to_cpu(smp_load_acquire(&ring->answers->head));
	if (head - ring->tail > SPAN_RING_SLOTS) {
		kvm_span_ring_malformed(ring, "head beyond the ring");
		ring->tail = head;
	}
	for (; ring->tail != head; ring->tail++) {
		msg = ring->answers->slot[ring->tail % SPAN_RING_SLOTS];
		barrier_data(&msg);
		taken |= kvm_span_ring_answer(ring, &msg);
	}
	WRITE_ONCE(ring->idle, taken ? 0 : ring->idle + 1);
	/* The slots were read before they are given back. */
	smp_store_release(&ring->answers->tail, cpu_to_le32(ring->tail));

	/* He has read something, it seems. */
	spin_lock(&ring->lock);
	told = kvm_span_ring_tell_lost(ring);
	spin_unlock(&ring->lock);
	if (told)
		kvm_span_ring_signal(ring->member);
}

/* From whoever signals the eventfd: its lock held, interrupts off. */
static int kvm_span_ring_wakeup(wait_queue_entry_t *wait, unsigned int mode, int sync,
				void *key)
{
	struct kvm_span_ring_state *ring = container_of(wait, struct kvm_span_ring_state, wait);
	u64 count;

	if (key_to_poll(key) & EPOLLIN) {
		eventfd_ctx_do_read(ring->doorbell, &count);
		queue_delayed_work(kvm_span_wq, &ring->drain,
				   READ_ONCE(ring->idle) > KVM_SPAN_RING_IDLE);
	}
	return 0;
}

static void kvm_span_ring_hook(struct file *file, wait_queue_head_t *wqh, poll_table *poll)
{
	struct kvm_span_ring_state *ring = container_of(poll, struct kvm_span_ring_state, poll);

	add_wait_queue_priority(wqh, &ring->wait);
}

static void kvm_span_ring_free_state(struct kvm_span_ring_state *ring)
{
	vfree(ring->answers);
	mmdrop(ring->mm);
	kfree(ring);
}

static struct kvm_span_ring_state *kvm_span_ring_alloc(struct kvm_span_member *member)
{
	struct kvm_span_ring_state *ring = kzalloc(sizeof(*ring), GFP_KERNEL_ACCOUNT);

	if (!ring)
		return NULL;
	ring->answers = vmalloc_user(KVM_SPAN_RING_BYTES);
	if (!ring->answers) {
		kfree(ring);
		return NULL;
	}
	ring->events = ring->answers + 1;
	ring->member = member;
	ring->mm = current->mm;
	mmgrab(ring->mm);
	spin_lock_init(&ring->lock);
	INIT_DELAYED_WORK(&ring->drain, kvm_span_ring_drain);
	init_waitqueue_func_entry(&ring->wait, kvm_span_ring_wakeup);
	init_poll_funcptr(&ring->poll, kvm_span_ring_hook);
	return ring;
}

/*
 * Make it the member's. With span->control held, under which a revoke ends the
 * watches before it ends the ring: it finds this ring, or we see that it came.
 */
static int kvm_span_ring_publish(struct kvm_span_ring_state *ring, struct file *doorbell)
{
	struct kvm_span_member *member = ring->member;
	int r;

	mutex_lock(&member->span->control);
	r = kvm_span_watch_may(member);
	if (!r && member->ring)
		r = -EBUSY;
	/* Who joined maps the memory; the ring goes to the same process. */
	if (!r && member->mm && member->mm != current->mm)
		r = -EPERM;
	if (r)
		goto out;
	if (doorbell && vfs_poll(doorbell, &ring->poll) & EPOLLIN)
		queue_delayed_work(kvm_span_wq, &ring->drain, 0);
	/* The ring is whole before an event finds it. */
	smp_store_release(&member->ring, ring);
out:
	mutex_unlock(&member->span->control);
	return r;
}

long kvm_span_ring_setup(struct kvm_span_member *member, void __user *uarg)
{
	struct eventfd_ctx *event = NULL, *bell = NULL;
	struct kvm_span_ring_state *ring;
	struct file *doorbell = NULL;
	struct kvm_span_ring arg;
	int r;

	r = kvm_span_copy_arg(&arg, sizeof(arg), uarg);
	if (r)
		return r;
	if (arg.flags)
		return -EINVAL;
	r = kvm_span_watch_may(member);
	if (r)
		return r;
	if (arg.event_fd != -1) {
		event = eventfd_ctx_fdget(arg.event_fd);
		if (IS_ERR(event))
			return PTR_ERR(event);
	}
	if (arg.doorbell_fd != -1) {
		doorbell = fget(arg.doorbell_fd);
		bell = doorbell ? eventfd_ctx_fileget(doorbell) : ERR_PTR(-EBADF);
		if (IS_ERR(bell)) {
			r = PTR_ERR(bell);
			goto err_event;
		}
	}
	r = -ENOMEM;
	ring = kvm_span_ring_alloc(member);
	if (!ring)
		goto err_bell;
	ring->event = event;
	ring->doorbell = bell;
	r = kvm_span_ring_publish(ring, doorbell);
	if (r)
		goto err_ring;
	if (doorbell)
		fput(doorbell);
	return 0;

err_ring:
	kvm_span_ring_free_state(ring);
err_bell:
	if (bell)
		eventfd_ctx_put(bell);
err_event:
	if (doorbell)
		fput(doorbell);
	if (event)
		eventfd_ctx_put(event);
	return r;
}

/* Called with the mmap_lock held for write. */
int kvm_span_ring_mmap(struct kvm_span_member *member, struct vm_area_struct *vma)
{
	struct kvm_span_ring_state *ring = kvm_span_ring_of(member);
	const char *reason;
	int r;

	if (!(vma->vm_flags & VM_MAYSHARE) ||
	    vma->vm_pgoff != KVM_SPAN_RING_OFFSET >> PAGE_SHIFT ||
	    vma->vm_end - vma->vm_start != KVM_SPAN_RING_BYTES) {
		reason = "not the ring, whole and shared";
		r = -EINVAL;
	} else if (!ring || kvm_span_watch_may(member)) {
		reason = "no ring, or revoked";
		r = -EACCES;
	} else if (vma->vm_mm != ring->mm) {
		reason = "another process made the ring";
		r = -EPERM;
	} else if (vma->vm_flags & VM_EXEC) {
		reason = "executable mapping";
		r = -EACCES;
	} else {
		vm_flags_mod(vma, VM_DONTCOPY | VM_DONTEXPAND | VM_DONTDUMP, VM_MAYEXEC);
		/*
		 * Ordinary pages, each referenced by its page-table entry: they
		 * live as long as anybody maps or pins them.
		 */
		return remap_vmalloc_range(vma, ring->answers, 0);
	}
	kvm_span_member_refused(member);
	trace_kvm_span_refuse("mmap", reason, member->id, r);
	return r;
}

/*
 * No event is put any more: the member's watches have ended and an RCU grace
 * period has passed. Stop listening and let go of the eventfds. The memory
 * stays, it may be mapped. May be called again.
 */
void kvm_span_ring_end(struct kvm_span_member *member)
{
	struct kvm_span_ring_state *ring;
	struct eventfd_ctx *event, *bell;
	u64 count;

	mutex_lock(&member->span->control);
	ring = member->ring;
	event = ring ? ring->event : NULL;
	bell = ring ? ring->doorbell : NULL;
	if (ring)
		WRITE_ONCE(ring->event, NULL);
	if (bell)
		eventfd_ctx_remove_wait_queue(bell, &ring->wait, &count);
	if (ring)
		ring->doorbell = NULL;
	mutex_unlock(&member->span->control);

	/* The wait queue is left, nobody queues the work any more. */
	if (ring)
		cancel_delayed_work_sync(&ring->drain);
	if (bell)
		eventfd_ctx_put(bell);
	if (event)
		eventfd_ctx_put(event);
}

/* With the member: whoever ends the ring has a reference to it, and may be several. */
void kvm_span_ring_free(struct kvm_span_member *member)
{
	if (member->ring)
		kvm_span_ring_free_state(member->ring);
}
