// SPDX-License-Identifier: GPL-2.0
/*
 * KVM Span: the pages that a member's L1 shares with us, and the doorbell by which
 * it tells us to look.
 *
 * As with the ring, the pages are ours, are mapped by the member's process and
 * are shown to its L1: what is in them is the other side's to change at any time.
 * The doorbell is a device on the member VM's buses, so it rings in the L1's vCPU
 * and not, as an eventfd would, in a work item: who takes the posts may wake vCPUs,
 * and those that signal us again must not be inside the signal of an eventfd.
 */
#include <linux/eventfd.h>
#include <linux/irq_work.h>
#include <linux/mm.h>
#include <linux/mutex.h>
#include <linux/random.h>
#include <linux/rwsem.h>
#include <linux/sched/mm.h>
#include <linux/slab.h>
#include <linux/vmalloc.h>
#include <kvm/iodev.h>

#include "share.h"
#include "vcpu.h"
#include "watch.h"
#include "trace.h"

/* The buses that a doorbell is on: the fast one is asked first, by address only. */
static const enum kvm_bus kvm_span_bell_bus[] = { KVM_FAST_MMIO_BUS, KVM_MMIO_BUS };

static_assert(ARRAY_SIZE(kvm_span_bell_bus) == KVM_SPAN_BELLS);

struct kvm_span_bell {
	struct kvm_io_device dev;
	struct kvm_span_share_state *share;	/* referenced */
	gpa_t gpa;
};

static_assert(SPAN_SHARE_BYTES % PAGE_SIZE == 0);
static_assert(sizeof(struct span_posts) <= SPAN_POSTS_TO_L1 - SPAN_POSTS_TO_L0);
static_assert(sizeof(struct span_stream) <= PAGE_SIZE);
static_assert(SPAN_BYTES_TO_L1 + SPAN_STREAM_BYTES == SPAN_SHARE_BYTES);

struct kvm_span_share_state *kvm_span_share_of(struct kvm_span_member *member)
{
	/* Pairs with kvm_span_share_publish(). */
	return smp_load_acquire(&member->share);
}

static void kvm_span_share_free(struct kref *ref)
{
	struct kvm_span_share_state *share = container_of(ref, struct kvm_span_share_state, ref);

	irq_work_sync(&share->signal);
	if (share->event)
		eventfd_ctx_put(share->event);
	vfree(share->pages);
	mmdrop(share->mm);
	kfree(share);
}

void kvm_span_share_put(struct kvm_span_share_state *share)
{
	kref_put(&share->ref, kvm_span_share_free);
}

/* With the member. */
void kvm_span_share_release(struct kvm_span_member *member)
{
	if (member->share)
		kvm_span_share_put(member->share);
}

/* Interrupts have been on since it was queued, so nobody here signals an eventfd. */
static void kvm_span_share_signal_work(struct irq_work *work)
{
	struct kvm_span_share_state *share = container_of(work, struct kvm_span_share_state, signal);

	eventfd_signal(share->event);
}

void kvm_span_share_ring(struct kvm_span_share_state *share)
{
	if (!share->event || READ_ONCE(share->over))
		return;
	atomic64_inc(&share->signals);
	/* Signals must not nest, and an interrupt may have come by an irqfd. */
	if (eventfd_signal_allowed())
		eventfd_signal(share->event);
	else
		irq_work_queue(&share->signal);
}

/* Tell the L1 to look. Any context. The caller knows that the member stays. */
void kvm_span_share_signal(struct kvm_span_member *member)
{
	struct kvm_span_share_state *share = kvm_span_share_of(member);

	if (share)
		kvm_span_share_ring(share);
}

/* The posts to L0, or to the L1; NULL before KVM_SPAN_SHARE. They live as long as the member. */
struct span_posts *kvm_span_share_posts(struct kvm_span_member *member, bool to_l0)
{
	struct kvm_span_share_state *share = kvm_span_share_of(member);

	if (!share)
		return NULL;
	return share->pages + (to_l0 ? SPAN_POSTS_TO_L0 : SPAN_POSTS_TO_L1);
}

/* May the member have shared pages now? See kvm_span_watch_may(). */
int kvm_span_share_may(struct kvm_span_member *member)
{
	if (READ_ONCE(member->state) != KVM_SPAN_JOINED)
		return -EACCES;
	return member->rights & KVM_SPAN_RIGHT_VCPU ? 0 : -EPERM;
}

static int kvm_span_share_refuse(struct kvm_span_member *member, const char *what,
				 const char *reason, int err)
{
	kvm_span_member_refused(member);
	trace_kvm_span_refuse(what, reason, member->id, err);
	return err;
}

static struct kvm_span_share_state *kvm_span_share_alloc(struct kvm_span_member *member)
{
	struct kvm_span_share_state *share = kzalloc(sizeof(*share), GFP_KERNEL_ACCOUNT);

	if (!share)
		return NULL;
	share->pages = vmalloc_user(SPAN_SHARE_BYTES);
	if (!share->pages) {
		kfree(share);
		return NULL;
	}
	kref_init(&share->ref);
	share->mm = current->mm;
	mmgrab(share->mm);
	init_irq_work(&share->signal, kvm_span_share_signal_work);
	init_rwsem(&share->gate);
	share->member = member;
	spin_lock_init(&share->lock);
	span_stream_init(&share->end, share->pages, true);
	share->number = get_random_u32();
	init_waitqueue_head(&share->wait);
	mutex_init(&share->read_lock);
	mutex_init(&share->write_lock);
	return share;
}

/*
 * Make it the member's. With span->control held, which a revoke takes after the
 * change of state to end what it finds.
 */
static int kvm_span_share_publish(struct kvm_span_share_state *share,
				  struct kvm_span_member *member)
{
	int r;

	mutex_lock(&member->span->control);
	r = kvm_span_share_may(member);
	if (!r && member->share)
		r = -EBUSY;
	if (!r && member->mm != current->mm)
		r = -EPERM;
	if (!r) {
		/* The pages are whole before anybody finds them. */
		smp_store_release(&member->share, share);
	}
	mutex_unlock(&member->span->control);
	return r;
}

/* KVM_SPAN_SHARE */
long kvm_span_share_setup(struct kvm_span_member *member, void __user *uarg)
{
	struct eventfd_ctx *event = NULL;
	struct kvm_span_share_state *share;
	struct kvm_span_share arg;
	int r;

	r = kvm_span_copy_arg(&arg, sizeof(arg), uarg);
	if (r)
		return r;
	if (arg.flags || arg.pad)
		return -EINVAL;
	r = kvm_span_share_may(member);
	if (r)
		return kvm_span_share_refuse(member, "share", "not joined, or not granted", r);
	if (arg.event_fd != -1) {
		event = eventfd_ctx_fdget(arg.event_fd);
		if (IS_ERR(event))
			return PTR_ERR(event);
	}
	share = kvm_span_share_alloc(member);
	if (!share) {
		if (event)
			eventfd_ctx_put(event);
		return -ENOMEM;
	}
	share->event = event;
	r = kvm_span_share_publish(share, member);
	if (!r)
		return 0;
	kvm_span_share_put(share);
	return kvm_span_share_refuse(member, "share", "made before, or another process's", r);
}

/* Called with the mmap_lock held for write. */
int kvm_span_share_mmap(struct kvm_span_member *member, struct vm_area_struct *vma)
{
	struct kvm_span_share_state *share = kvm_span_share_of(member);

	if (!(vma->vm_flags & VM_MAYSHARE) ||
	    vma->vm_pgoff != KVM_SPAN_SHARE_OFFSET >> PAGE_SHIFT ||
	    vma->vm_end - vma->vm_start != SPAN_SHARE_BYTES)
		return kvm_span_share_refuse(member, "mmap",
					     "not the shared pages, whole and shared", -EINVAL);
	if (!share || kvm_span_share_may(member))
		return kvm_span_share_refuse(member, "mmap", "no shared pages, or revoked",
					     -EACCES);
	if (vma->vm_mm != share->mm)
		return kvm_span_share_refuse(member, "mmap",
					     "another process made the shared pages", -EPERM);
	if (vma->vm_flags & VM_EXEC)
		return kvm_span_share_refuse(member, "mmap", "executable mapping", -EACCES);
	vm_flags_mod(vma, VM_DONTCOPY | VM_DONTEXPAND | VM_DONTDUMP, VM_MAYEXEC);
	/* Ordinary pages, as those of the ring: they live as long as anybody maps them. */
	return remap_vmalloc_range(vma, share->pages, 0);
}

/* ---- doorbell ---- */

/* Let the stream follow what the L1 shows, and wake whoever waits for it. */
void kvm_span_share_follow(struct kvm_span_share_state *share)
{
	bool open, ring = false;

	spin_lock(&share->lock);
	open = share->open;
	if (open)
		ring = span_stream_look(&share->end);
	spin_unlock(&share->lock);
	if (ring)
		kvm_span_share_ring(share);
	if (open)
		wake_up_interruptible(&share->wait);
}

/*
 * In the L1's vCPU; kvm->srcu is held. Of a member that is gone it is not
 * answered: the VM may be a member again, with another doorbell at this place.
 */
static int kvm_span_bell_write(struct kvm_vcpu *vcpu, struct kvm_io_device *dev, gpa_t addr,
			       int len, const void *val)
{
	struct kvm_span_bell *bell = container_of(dev, struct kvm_span_bell, dev);
	struct kvm_span_share_state *share = bell->share;
	int r = -EOPNOTSUPP;

	/* The length is 0 on the fast bus, which has no others than exact matches. */
	if (addr != bell->gpa || (len && len != 4))
		return -EOPNOTSUPP;
	down_read(&share->gate);
	if (share->member) {
		atomic64_inc(&share->doorbells);
		kvm_span_posts_rung(share->member);
		kvm_span_share_follow(share);
		r = 0;
	}
	up_read(&share->gate);
	return r;
}

static void kvm_span_bell_destructor(struct kvm_io_device *dev)
{
	struct kvm_span_bell *bell = container_of(dev, struct kvm_span_bell, dev);

	kvm_span_share_put(bell->share);
	kfree(bell);
}

static const struct kvm_io_device_ops kvm_span_bell_ops = {
	.write = kvm_span_bell_write,
	.destructor = kvm_span_bell_destructor,
};

/* Under slots_lock. */
static int kvm_span_bell_add(struct kvm_span_share_state *share, struct kvm *kvm, int i, gpa_t gpa)
{
	enum kvm_bus bus = kvm_span_bell_bus[i];
	struct kvm_span_bell *bell;
	int r;

	bell = kzalloc(sizeof(*bell), GFP_KERNEL_ACCOUNT);
	if (!bell)
		return -ENOMEM;
	kvm_iodevice_init(&bell->dev, &kvm_span_bell_ops);
	bell->share = share;
	bell->gpa = gpa;
	kref_get(&share->ref);
	r = kvm_io_bus_register_dev(kvm, bus, gpa, bus == KVM_FAST_MMIO_BUS ? 0 : 4, &bell->dev);
	if (r) {
		kvm_span_bell_destructor(&bell->dev);
		return r;
	}
	share->bell[i] = bell;
	return 0;
}

/* Under slots_lock. If there is no memory for a smaller bus, KVM drops the whole bus. */
static void kvm_span_bell_remove(struct kvm_span_share_state *share, struct kvm *kvm)
{
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(kvm_span_bell_bus); i++) {
		if (share->bell[i])
			kvm_io_bus_unregister_dev(kvm, kvm_span_bell_bus[i],
						  &share->bell[i]->dev);
		share->bell[i] = NULL;
	}
}

/* Under slots_lock. */
static int kvm_span_bell_set(struct kvm_span_share_state *share, struct kvm *kvm, gpa_t gpa)
{
	unsigned int i;
	int r;

	kvm_span_bell_remove(share, kvm);
	for (i = 0; i < ARRAY_SIZE(kvm_span_bell_bus); i++) {
		r = kvm_span_bell_add(share, kvm, i, gpa);
		if (r) {
			kvm_span_bell_remove(share, kvm);
			return r;
		}
	}
	return 0;
}

/* KVM_SPAN_DOORBELL */
long kvm_span_share_doorbell(struct kvm_span_member *member, void __user *uarg)
{
	struct kvm_span_share_state *share = kvm_span_share_of(member);
	struct kvm_span_doorbell arg;
	int r;

	r = kvm_span_copy_arg(&arg, sizeof(arg), uarg);
	if (r)
		return r;
	if ((arg.flags & ~KVM_SPAN_DOORBELL_REMOVE) || !IS_ALIGNED(arg.gpa, 4))
		return -EINVAL;
	if (!share)
		return kvm_span_share_refuse(member, "doorbell", "no shared pages", -EACCES);
	if (share->mm != current->mm)
		return kvm_span_share_refuse(member, "doorbell", "another process's", -EPERM);

	/* Of a member with shared pages, so there is a VM, and it stays with the file. */
	mutex_lock(&member->kvm->slots_lock);
	if (arg.flags & KVM_SPAN_DOORBELL_REMOVE)
		kvm_span_bell_remove(share, member->kvm);
	else if (kvm_span_share_may(member))
		r = -EACCES;
	else
		r = kvm_span_bell_set(share, member->kvm, arg.gpa);
	mutex_unlock(&member->kvm->slots_lock);
	return r;
}

/*
 * The member's state has changed: the L1 is not listened to any more. Waits for
 * whoever answers its doorbell now. May be called again, and by several at a time.
 */
void kvm_span_share_end(struct kvm_span_member *member)
{
	struct kvm_span_share_state *share;

	mutex_lock(&member->span->control);
	share = member->share;
	mutex_unlock(&member->span->control);
	if (!share)
		return;
	down_write(&share->gate);
	share->member = NULL;
	up_write(&share->gate);

	/* The L1's end is told of it, if there is still somebody. */
	spin_lock(&share->lock);
	if (share->open)
		span_stream_close(&share->end);
	spin_unlock(&share->lock);
	kvm_span_share_ring(share);

	spin_lock(&share->lock);
	WRITE_ONCE(share->over, true);
	spin_unlock(&share->lock);
	wake_up_interruptible(&share->wait);
}
