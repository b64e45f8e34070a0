// SPDX-License-Identifier: GPL-2.0
/*
 * KVM Span: the pages that a member's L1 shares with us, the doorbell by which
 * it tells us to look, and our end of the byte stream in them.
 *
 * As with the ring, the pages are ours, are mapped by the member's process and
 * are shown to its L1: what is in them is the other side's to change at any time.
 * The doorbell is a device on the member VM's buses, so it rings in the L1's vCPU
 * and not, as an eventfd would, in a work item: who takes the posts may wake vCPUs,
 * and those that signal us again must not be inside the signal of an eventfd.
 */
#include <linux/anon_inodes.h>
#include <linux/eventfd.h>
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/irq_work.h>
#include <linux/mm.h>
#include <linux/mutex.h>
#include <linux/poll.h>
#include <linux/random.h>
#include <linux/rwsem.h>
#include <linux/sched/mm.h>
#include <linux/seq_file.h>
#include <linux/slab.h>
#include <linux/span_stream.h>
#include <linux/uio.h>
#include <linux/vmalloc.h>
#include <kvm/iodev.h>

#include "vcpu.h"
#include "watch.h"
#include "trace.h"

/* The buses that a doorbell is on: the fast one is asked first, by address only. */
static const enum kvm_bus kvm_span_bell_bus[] = { KVM_FAST_MMIO_BUS, KVM_MMIO_BUS };

struct kvm_span_bell {
	struct kvm_io_device dev;
	struct kvm_span_share_state *share;	/* referenced */
	gpa_t gpa;
};

/*
 * One member's. Referenced by the member, by its doorbell's devices (which go
 * with the VM, later than the member perhaps) and by the file of our end of the
 * stream.
 */
struct kvm_span_share_state {
	struct kref ref;
	struct mm_struct *mm;		/* constant, mmgrab(): who may map it */
	void *pages;			/* constant, vmalloc_user() */
	struct eventfd_ctx *event;	/* constant, may be NULL */
	struct irq_work signal;

	/*
	 * Held for read while the L1's ringing is answered, for write when
	 * member is cleared: by revoke and leave, which then know that nobody is
	 * at it any more.
	 */
	struct rw_semaphore gate;
	struct kvm_span_member *member;	/* NULL: over */

	/* Under the member VM's slots_lock. */
	struct kvm_span_bell *bell[ARRAY_SIZE(kvm_span_bell_bus)];

	/* The stream. */
	spinlock_t lock;		/* end and open */
	struct span_stream_end end;
	bool open;
	bool over;			/* set once, with the member's end */
	u32 number;			/* of the last open */
	wait_queue_head_t wait;
	struct mutex read_lock;		/* one copies out of the pages */
	struct mutex write_lock;	/* one copies in */
	u64 bytes_in;			/* read_lock */
	u64 bytes_out;			/* write_lock */

	atomic64_t doorbells;
	atomic64_t signals;
};

static_assert(SPAN_SHARE_BYTES % PAGE_SIZE == 0);
static_assert(sizeof(struct span_posts) <= SPAN_POSTS_TO_L1 - SPAN_POSTS_TO_L0);
static_assert(sizeof(struct span_stream) <= PAGE_SIZE);
static_assert(SPAN_BYTES_TO_L1 + SPAN_STREAM_BYTES == SPAN_SHARE_BYTES);

static struct kvm_span_share_state *kvm_span_share_of(struct kvm_span_member *member)
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

static void kvm_span_share_put(struct kvm_span_share_state *share)
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

static void kvm_span_share_ring(struct kvm_span_share_state *share)
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
static int kvm_span_share_may(struct kvm_span_member *member)
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
static void kvm_span_share_follow(struct kvm_span_share_state *share)
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

/* ---- stream ---- */

/* What kvm_span_channel_wait() waits for. */
typedef int kvm_span_channel_ask(struct span_stream_end *end);

/* Ask how far one can go now. The state of a member that is over is the end. */
static int kvm_span_channel_try(struct kvm_span_share_state *share, kvm_span_channel_ask *ask, int over)
{
	bool ring;
	int n;

	spin_lock(&share->lock);
	ring = span_stream_look(&share->end);
	n = share->over ? over : ask(&share->end);
	spin_unlock(&share->lock);
	if (ring)
		kvm_span_share_ring(share);
	return n;
}

/* The same, and wait where there is nothing now. */
static int kvm_span_channel_wait(struct kvm_span_share_state *share, kvm_span_channel_ask *ask, int over,
				 bool nonblock)
{
	int r, n = kvm_span_channel_try(share, ask, over);

	if (n != -EAGAIN || nonblock)
		return n;
	r = wait_event_interruptible(share->wait,
				     (n = kvm_span_channel_try(share, ask, over)) != -EAGAIN);
	return r ?: n;
}

/* Copy out what is there, at most @bytes. Returns how much the user got. */
static size_t kvm_span_channel_copy_out(struct kvm_span_share_state *share, u32 bytes,
					struct iov_iter *to)
{
	u32 at, piece, tail = share->end.tail;
	size_t n, done = 0;

	while (done < bytes) {
		at = span_stream_place(tail + done, bytes - done, &piece);
		n = copy_to_iter(share->end.in_bytes + at, piece, to);
		done += n;
		if (n < piece)
			break;
	}
	return done;
}

static size_t kvm_span_channel_copy_in(struct kvm_span_share_state *share, u32 bytes,
				       struct iov_iter *from)
{
	u32 at, piece, head = share->end.head;
	size_t n, done = 0;

	while (done < bytes) {
		at = span_stream_place(head + done, bytes - done, &piece);
		n = copy_from_iter(share->end.out_bytes + at, piece, from);
		done += n;
		if (n < piece)
			break;
	}
	return done;
}

static ssize_t kvm_span_channel_read(struct kiocb *iocb, struct iov_iter *to)
{
	struct kvm_span_share_state *share = iocb->ki_filp->private_data;
	bool ring, nonblock = iocb->ki_filp->f_flags & O_NONBLOCK;
	ssize_t n;

	if (!iov_iter_count(to))
		return 0;
	if (mutex_lock_interruptible(&share->read_lock))
		return -ERESTARTSYS;
	n = kvm_span_channel_wait(share, span_stream_unread, 0, nonblock);
	if (n <= 0)
		goto out;
	/* Only a reader moves the tail of a pair. */
	n = kvm_span_channel_copy_out(share, min_t(size_t, n, iov_iter_count(to)), to);
	spin_lock(&share->lock);
	ring = span_stream_took(&share->end, n);
	spin_unlock(&share->lock);
	share->bytes_in += n;
	if (ring)
		kvm_span_share_ring(share);
	if (!n)
		n = -EFAULT;
out:
	mutex_unlock(&share->read_lock);
	return n;
}

/* One piece, as much as there is room for. */
static ssize_t kvm_span_channel_write_some(struct kvm_span_share_state *share, struct iov_iter *from,
					   bool nonblock)
{
	bool ring, put;
	ssize_t n;

	n = kvm_span_channel_wait(share, span_stream_room, -EPIPE, nonblock);
	if (n <= 0)
		return n;
	/* Only a writer moves the head. */
	n = kvm_span_channel_copy_in(share, min_t(size_t, n, iov_iter_count(from)), from);
	if (!n)
		return -EFAULT;
	spin_lock(&share->lock);
	put = span_stream_put(&share->end, n, &ring);
	spin_unlock(&share->lock);
	if (ring)
		kvm_span_share_ring(share);
	return put ? n : -EPIPE;
}

static ssize_t kvm_span_channel_write(struct kiocb *iocb, struct iov_iter *from)
{
	struct kvm_span_share_state *share = iocb->ki_filp->private_data;
	bool nonblock = iocb->ki_filp->f_flags & O_NONBLOCK;
	ssize_t n = 0, done = 0;

	if (mutex_lock_interruptible(&share->write_lock))
		return -ERESTARTSYS;
	while (iov_iter_count(from)) {
		n = kvm_span_channel_write_some(share, from, nonblock);
		if (n < 0)
			break;
		done += n;
	}
	share->bytes_out += done;
	mutex_unlock(&share->write_lock);
	return done ?: n;
}

static __poll_t kvm_span_channel_poll(struct file *file, poll_table *wait)
{
	struct kvm_span_share_state *share = file->private_data;
	__poll_t mask = 0;
	int unread, room;

	poll_wait(file, &share->wait, wait);
	unread = kvm_span_channel_try(share, span_stream_unread, 0);
	room = kvm_span_channel_try(share, span_stream_room, -EPIPE);
	if (unread != -EAGAIN)
		mask |= EPOLLIN | EPOLLRDNORM;
	if (room != -EAGAIN)
		mask |= EPOLLOUT | EPOLLWRNORM;
	if (room == -EPIPE)
		mask |= EPOLLHUP;
	if (room == -EPROTO)
		mask |= EPOLLERR;
	return mask;
}

static int kvm_span_channel_release(struct inode *inode, struct file *file)
{
	struct kvm_span_share_state *share = file->private_data;

	spin_lock(&share->lock);
	span_stream_close(&share->end);
	share->open = false;
	spin_unlock(&share->lock);
	kvm_span_share_ring(share);
	kvm_span_share_put(share);
	return 0;
}

static const char *kvm_span_channel_state(struct kvm_span_share_state *share)
{
	static const char * const names[] = {
		[SPAN_STREAM_CLOSED] = "closed", [SPAN_STREAM_WAITING] = "waiting",
		[SPAN_STREAM_PAIRED] = "paired", [SPAN_STREAM_ENDED] = "ended",
		[SPAN_STREAM_BROKEN] = "broken",
	};

	return READ_ONCE(share->over) ? "over" : names[READ_ONCE(share->end.state)];
}

static void kvm_span_channel_show_fdinfo(struct seq_file *m, struct file *file)
{
	struct kvm_span_share_state *share = file->private_data;

	seq_printf(m, "span-channel:\t%s\n", kvm_span_channel_state(share));
	seq_printf(m, "span-bytes-in:\t%llu\n", READ_ONCE(share->bytes_in));
	seq_printf(m, "span-bytes-out:\t%llu\n", READ_ONCE(share->bytes_out));
	seq_printf(m, "span-doorbells:\t%lld\n", atomic64_read(&share->doorbells));
	seq_printf(m, "span-signals:\t%lld\n", atomic64_read(&share->signals));
}

static const struct file_operations kvm_span_channel_fops = {
	.owner = THIS_MODULE,
	.release = kvm_span_channel_release,
	.read_iter = kvm_span_channel_read,
	.write_iter = kvm_span_channel_write,
	.poll = kvm_span_channel_poll,
	.show_fdinfo = kvm_span_channel_show_fdinfo,
};

/* Start a stream of our own. */
static int kvm_span_channel_start(struct kvm_span_share_state *share)
{
	int r = 0;

	spin_lock(&share->lock);
	if (share->over) {
		r = -EACCES;
	} else if (share->open) {
		r = -EBUSY;
	} else {
		do {
			share->number++;
		} while (!span_stream_number_valid(share->number));
		span_stream_open(&share->end, share->number);
		share->open = true;
	}
	spin_unlock(&share->lock);
	return r;
}

/* A reference to the member's shared pages. */
static struct kvm_span_share_state *kvm_span_channel_find(struct kvm_span *span, u32 id)
{
	struct kvm_span_member *member = kvm_span_member_get(span, id);
	struct kvm_span_share_state *share;
	int r;

	if (!member)
		return ERR_PTR(-ENOENT);
	r = kvm_span_share_may(member);
	share = kvm_span_share_of(member);
	if (r)
		share = ERR_PTR(r);
	else if (!share)
		share = ERR_PTR(-EAGAIN);
	else
		kref_get(&share->ref);
	kvm_span_member_put(member);
	return share;
}

/* KVM_SPAN_CHANNEL */
long kvm_span_channel(struct kvm_span *span, void __user *uarg)
{
	struct kvm_span_channel arg;
	struct kvm_span_share_state *share;
	struct file *file;
	int r, fd;

	r = kvm_span_copy_arg(&arg, sizeof(arg), uarg);
	if (r)
		return r;
	if (arg.flags || arg.pad)
		return -EINVAL;
	share = kvm_span_channel_find(span, arg.member);
	if (IS_ERR(share))
		return PTR_ERR(share);
	fd = get_unused_fd_flags(O_CLOEXEC);
	if (fd < 0) {
		r = fd;
		goto err_share;
	}
	r = kvm_span_channel_start(share);
	if (r)
		goto err_fd;
	file = anon_inode_getfile("kvm-span-channel", &kvm_span_channel_fops, share, O_RDWR);
	if (IS_ERR(file)) {
		r = PTR_ERR(file);
		goto err_start;
	}
	stream_open(file_inode(file), file);
	/* The L1 may be waiting. */
	kvm_span_share_follow(share);
	kvm_span_share_ring(share);
	fd_install(fd, file);
	return fd;

err_start:
	spin_lock(&share->lock);
	span_stream_close(&share->end);
	share->open = false;
	spin_unlock(&share->lock);
err_fd:
	put_unused_fd(fd);
err_share:
	kvm_span_share_put(share);
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
