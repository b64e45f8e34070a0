// SPDX-License-Identifier: GPL-2.0
/*
 * KVM Span: the span object, its file descriptor and /dev/kvm-span.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": span: " fmt

#include <linux/anon_inodes.h>
#include <linux/ctype.h>
#include <linux/file.h>
#include <linux/hashtable.h>
#include <linux/miscdevice.h>
#include <linux/module.h>
#include <linux/pagemap.h>
#include <linux/poll.h>
#include <linux/rculist.h>
#include <linux/sched/mm.h>
#include <linux/sched/signal.h>
#include <linux/seq_file.h>
#include <linux/shmem_fs.h>
#include <linux/slab.h>
#include <linux/string.h>
#include <linux/uaccess.h>
#include <linux/workqueue.h>
#include <uapi/linux/fcntl.h>

#include "vcpu.h"
#include "watch.h"
#include "span_hooks.h"

#define CREATE_TRACE_POINTS
#include "trace.h"

static bool span;
module_param(span, bool, 0444);
MODULE_PARM_DESC(span, "offer /dev/kvm-span: guests whose memory several hypervisors share");

/* Spans whose fd is open: one memfd has at most one. */
static LIST_HEAD(kvm_spans);
static DEFINE_MUTEX(kvm_spans_lock);

/*
 * Spans whose memory may be in somebody's window, by the memory: from creation
 * until the span fd, the last member file and the last memory slot are gone.
 * Readers are in an RCU section, writers hold the lock. How many there are, and
 * how many there were, see kvm_span_gfn_to_pfn().
 */
static DEFINE_HASHTABLE(kvm_spans_alive, 6);
static DEFINE_SPINLOCK(kvm_spans_alive_lock);
atomic_t kvm_spans_nr = ATOMIC_INIT(0);
static atomic_t kvm_spans_ended = ATOMIC_INIT(0);

/*
 * Counts the spans as kvm_spans_nr does, and so covers every slot that refers to
 * one. Switched off with a delay: it is slow, and a span may end under locks.
 */
DEFINE_STATIC_KEY_DEFERRED_FALSE(kvm_span_any, HZ);

/* How many of them have logs. */
atomic_t kvm_spans_logging = ATOMIC_INIT(0);

/* For what must not be done where it is found to be due. */
struct workqueue_struct *kvm_span_wq;

#define KVM_SPAN_SEALS_WANTED	(F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW)
#define KVM_SPAN_SEALS_REFUSED	(F_SEAL_WRITE | F_SEAL_FUTURE_WRITE)

/*
 * Copy in a structure that begins with its size. After this, the size in the
 * copy is the one that was checked.
 */
int kvm_span_copy_arg(void *arg, size_t ksize, void __user *uarg)
{
	return kvm_span_copy_arg_since(arg, ksize, ksize, uarg);
}

/* The same for one that has grown: what the caller's does not have is zero. */
int kvm_span_copy_arg_since(void *arg, size_t ksize, size_t first_size, void __user *uarg)
{
	u32 usize;
	int r;

	if (get_user(usize, (u32 __user *)uarg))
		return -EFAULT;
	if (usize < first_size)
		return -EINVAL;
	if (usize > PAGE_SIZE)
		return -E2BIG;
	r = copy_struct_from_user(arg, ksize, uarg, usize);
	if (r)
		return r;
	*(u32 *)arg = usize;
	return 0;
}

/* Copy out; what the caller has beyond our structure is zero and stays so. */
int kvm_span_return_arg(void __user *uarg, const void *arg, size_t ksize)
{
	return copy_to_user(uarg, arg, ksize) ? -EFAULT : 0;
}

/* NUL-terminated, not empty, printable ASCII, zero after the NUL. */
bool kvm_span_name_valid(const u8 *name)
{
	size_t i, len = strnlen(name, KVM_SPAN_NAME_LEN);

	if (!len || len == KVM_SPAN_NAME_LEN)
		return false;
	for (i = 0; i < len; i++)
		if (!isascii(name[i]) || !isprint(name[i]))
			return false;
	return !memchr_inv(name + len, 0, KVM_SPAN_NAME_LEN - len);
}

/* A reference to the VM behind a file descriptor. */
struct kvm *kvm_span_get_vm(int fd)
{
	struct file *file = fget(fd);
	struct kvm *kvm;

	if (!file)
		return ERR_PTR(-EBADF);
	if (!file_is_kvm(file)) {
		fput(file);
		return ERR_PTR(-EINVAL);
	}
	/* The file holds a reference, so there is one to add to. */
	kvm = file->private_data;
	kvm_get_kvm(kvm);
	fput(file);
	return kvm;
}

static void kvm_span_free(struct kref *ref)
{
	struct kvm_span *s = container_of(ref, struct kvm_span, ref);

	spin_lock(&kvm_spans_alive_lock);
	atomic_inc(&kvm_spans_ended);
	/* Who misses the span in the list sees that one has ended. */
	smp_mb__after_atomic();
	hash_del_rcu(&s->alive);
	atomic_dec(&kvm_spans_nr);
	spin_unlock(&kvm_spans_alive_lock);

	static_branch_slow_dec_deferred(&kvm_span_any);
	kvm_span_event_exit(s);
	kvm_span_mask_exit(s);
	fput(s->memfd);
	mmdrop(s->owner);
	kfree_rcu(s, rcu);
}

static void kvm_span_list_alive(struct kvm_span *s)
{
	/* Before a slot can be bound. May sleep. */
	static_branch_inc(&kvm_span_any.key);
	spin_lock(&kvm_spans_alive_lock);
	hash_add_rcu(kvm_spans_alive, &s->alive, (unsigned long)s->mapping);
	atomic_inc(&kvm_spans_nr);
	spin_unlock(&kvm_spans_alive_lock);
}

/* A reference to the span of this memory whose fd is open, or NULL. */
struct kvm_span *kvm_span_get_open(struct address_space *mapping)
{
	struct kvm_span *s, *found = NULL;

	rcu_read_lock();
	hash_for_each_possible_rcu(kvm_spans_alive, s, alive, (unsigned long)mapping) {
		if (s->mapping == mapping && READ_ONCE(s->open) &&
		    kref_get_unless_zero(&s->ref)) {
			found = s;
			break;
		}
	}
	rcu_read_unlock();
	return found;
}

/*
 * Is this the memory of a Span guest, and the VM not one of the guest's own
 * process? By the page and not by the address that led to it: addresses and
 * memory slots can change between a look at them and their use, and other VMs
 * of a member's process reach its windows too.
 */
static bool kvm_span_foreign_page(struct kvm *kvm, kvm_pfn_t pfn)
{
	struct address_space *mapping;
	bool found = false, own = false;
	struct kvm_span *s;

	if (!pfn_valid(pfn))
		return false;
	/*
	 * Compared, never followed. The reference to the page keeps it from
	 * being swapped, migrated or split; one that a hole was punched for has
	 * no mapping and never will have the guest's again.
	 */
	mapping = READ_ONCE(page_folio(pfn_to_page(pfn))->mapping);
	rcu_read_lock();
	hash_for_each_possible_rcu(kvm_spans_alive, s, alive, (unsigned long)mapping) {
		if (s->mapping != mapping)
			continue;
		found = true;
		own |= s->owner == kvm->mm;
	}
	rcu_read_unlock();
	return found && !own;
}

/*
 * The D bit of an entry is lost, and the entry says nothing about slots: by the
 * page. What the MMU maps stays in the page cache at
 * least until it is unmapped there. Under mmu_lock.
 */
void __kvm_span_pfn_dirty(kvm_pfn_t pfn)
{
	struct kvm_span *s;
	struct folio *folio;
	struct page *page;
	u64 index;

	if (!pfn_valid(pfn))
		return;
	page = pfn_to_page(pfn);
	folio = page_folio(page);
	index = folio->index + folio_page_idx(folio, page);
	rcu_read_lock();
	hash_for_each_possible_rcu(kvm_spans_alive, s, alive,
				   (unsigned long)READ_ONCE(folio->mapping)) {
		if (s->mapping == READ_ONCE(folio->mapping) && index < kvm_span_pages(s))
			kvm_span_log_written(s, index);
	}
	rcu_read_unlock();
}

/*
 * gfn_to_pfn() for who keeps the page for as long as he likes: no page of a
 * Span guest, unless it is the VM's own. Where there is no span this costs
 * three loads and a comparison.
 *
 * The last window may go, and its span with it, after the page was taken and
 * before the list is looked at; then a span has ended in between: once more.
 */
kvm_pfn_t kvm_span_gfn_to_pfn(struct kvm *kvm, gfn_t gfn)
{
	kvm_pfn_t pfn;
	int ended;

	for (;;) {
		ended = atomic_read(&kvm_spans_ended);
		smp_rmb();	/* count first, then take the page */
		pfn = gfn_to_pfn(kvm, gfn);
		if (is_error_noslot_pfn(pfn))
			return pfn;
		smp_rmb();	/* a page that a window showed: its span is listed, */
		if (unlikely(atomic_read(&kvm_spans_nr)) && kvm_span_foreign_page(kvm, pfn)) {
			kvm_release_pfn_clean(pfn);
			trace_kvm_span_refuse("pin", "a Span guest's page for a nested guest", 0,
					      -EINVAL);
			return KVM_PFN_ERR_FAULT;
		}
		smp_rmb();	/* or has ended, pairs with kvm_span_free() */
		if (likely(atomic_read(&kvm_spans_ended) == ended))
			return pfn;
		kvm_release_pfn_clean(pfn);
	}
}

void kvm_span_get(struct kvm_span *s)
{
	kref_get(&s->ref);
}

void kvm_span_put(struct kvm_span *s)
{
	kref_put(&s->ref, kvm_span_free);
}

static long kvm_span_get_stats(struct kvm_span *s, void __user *uarg)
{
	struct kvm_span_stats stats;
	int r;

	r = kvm_span_copy_arg_since(&stats, sizeof(stats),
				    offsetof(struct kvm_span_stats, ept_guest), uarg);
	if (r)
		return r;
	if (stats.flags)
		return -EINVAL;

	spin_lock(&s->lock);
	stats.granted = s->nr_granted;
	stats.joined = s->nr_joined;
	stats.grants = s->grants;
	stats.joins = s->joins;
	stats.revokes = s->revokes;
	stats.leaves = s->leaves;
	spin_unlock(&s->lock);
	stats.bytes = s->bytes;
	stats.present_pages = READ_ONCE(s->mapping->nrpages);
	stats.faults = atomic64_read(&s->faults);
	stats.refused = atomic64_read(&s->refused);
	stats.pages_zapped = atomic64_read(&s->pages_zapped);
	stats.logged = atomic64_read(&s->pages_logged);
	kvm_span_event_stats(s, &stats);
	return kvm_span_return_arg(uarg, &stats, min_t(size_t, stats.size, sizeof(stats)));
}

static long kvm_span_ioctl(struct file *file, unsigned int cmd, unsigned long arg)
{
	struct kvm_span *s = file->private_data;
	void __user *uarg = (void __user *)arg;

	if (_IOC_TYPE(cmd) != KVM_SPAN_IO)
		return -ENOTTY;
	switch (_IOC_NR(cmd)) {
	case _IOC_NR(KVM_SPAN_GRANT):
		return kvm_span_member_grant(s, uarg);
	case _IOC_NR(KVM_SPAN_REVOKE):
		return kvm_span_member_revoke(s, uarg);
	case _IOC_NR(KVM_SPAN_GET_MEMBER):
		return kvm_span_member_query(s, uarg);
	case _IOC_NR(KVM_SPAN_GET_STATS):
		return kvm_span_get_stats(s, uarg);
	case _IOC_NR(KVM_SPAN_WRITTEN):
		return kvm_span_event_written(s, uarg);
	case _IOC_NR(KVM_SPAN_SET_VCPU):
		return kvm_span_hub_set_vcpu(s, uarg);
	case _IOC_NR(KVM_SPAN_SALVAGE):
		return kvm_span_salvage(s, uarg);
	case _IOC_NR(KVM_SPAN_CHANNEL):
		return kvm_span_channel(s, uarg);
	default:
		return -ENOTTY;
	}
}

/* The order in which a member's events are told. */
static u32 kvm_span_first_event(const struct kvm_span_member *member)
{
	static const u32 order[] = {
		KVM_SPAN_EVENT_JOINED, KVM_SPAN_EVENT_MUTED, KVM_SPAN_EVENT_REMAP,
	};
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(order); i++)
		if (member->events & BIT(order[i]))
			return order[i];
	return KVM_SPAN_EVENT_LEFT;
}

/*
 * Take one pending event of a member, left last. Returns the member
 * with a reference, so that the event can be put back.
 */
static struct kvm_span_member *kvm_span_take_event(struct kvm_span *s,
						   struct kvm_span_event *event)
{
	struct kvm_span_member *member;

	spin_lock(&s->lock);
	list_for_each_entry(member, &s->members, node) {
		if (!member->events)
			continue;
		event->type = kvm_span_first_event(member);
		event->member = member->id;
		member->events &= ~BIT(event->type);
		s->nr_events--;
		kref_get(&member->ref);
		spin_unlock(&s->lock);
		return member;
	}
	spin_unlock(&s->lock);
	return NULL;
}

static void kvm_span_untake_event(struct kvm_span *s, struct kvm_span_member *member,
				  const struct kvm_span_event *event)
{
	spin_lock(&s->lock);
	/*
	 * Another reader may have read LEFT meanwhile, and the record is off
	 * the list: nobody could take the event, but everybody would see that
	 * there is one.
	 */
	if (!list_empty(&member->node) && !(member->events & BIT(event->type))) {
		member->events |= BIT(event->type);
		s->nr_events++;
	}
	spin_unlock(&s->lock);
	wake_up_interruptible(&s->wait);
}

static ssize_t kvm_span_read(struct file *file, char __user *buf, size_t count,
			     loff_t *ppos)
{
	struct kvm_span *s = file->private_data;
	struct kvm_span_member *member;
	struct kvm_span_event event;
	ssize_t done = 0;
	int r;

	if (count < sizeof(event))
		return -EINVAL;

	while (count - done >= sizeof(event)) {
		member = kvm_span_take_event(s, &event);
		if (!member && done)
			break;
		if (!member && (file->f_flags & O_NONBLOCK))
			return -EAGAIN;
		/* The wait does not look at signals where it need not wait. */
		if (!member && signal_pending(current))
			return -ERESTARTSYS;
		if (!member) {
			r = wait_event_interruptible(s->wait, READ_ONCE(s->nr_events));
			if (r)
				return r;
			continue;
		}
		if (copy_to_user(buf + done, &event, sizeof(event))) {
			kvm_span_untake_event(s, member, &event);
			kvm_span_member_put(member);
			return done ?: -EFAULT;
		}
		if (event.type == KVM_SPAN_EVENT_LEFT)
			kvm_span_member_drop_record(member);
		kvm_span_member_put(member);
		done += sizeof(event);
	}
	return done;
}

static __poll_t kvm_span_poll(struct file *file, poll_table *wait)
{
	struct kvm_span *s = file->private_data;

	poll_wait(file, &s->wait, wait);
	return READ_ONCE(s->nr_events) ? EPOLLIN | EPOLLRDNORM : 0;
}

/* The controller is gone: whatever it let in is thrown out. */
static int kvm_span_release(struct inode *inode, struct file *file)
{
	struct kvm_span *s = file->private_data;
	struct kvm *kvm;

	WRITE_ONCE(s->open, false);
	kvm_span_member_fence_all(s);
	kvm_span_hub_end(s);
	kvm_span_unbind_vm(s, s->kvm);
	/* Only now may the memory have another span: the slots are free for it. */
	mutex_lock(&kvm_spans_lock);
	list_del(&s->node);
	mutex_unlock(&kvm_spans_lock);

	kvm = s->kvm;
	/* Who looks at the base VM's slots does it with the lock held. */
	spin_lock(&s->lock);
	WRITE_ONCE(s->kvm, NULL);
	spin_unlock(&s->lock);
	kvm_put_kvm(kvm);
	kvm_span_put(s);
	return 0;
}

static void kvm_span_show_fdinfo(struct seq_file *m, struct file *file)
{
	struct kvm_span *s = file->private_data;

	seq_printf(m, "span-name:\t%s\n", s->name);
	seq_printf(m, "span-bytes:\t%llu\n", s->bytes);
	seq_printf(m, "span-present-pages:\t%lu\n", READ_ONCE(s->mapping->nrpages));
	seq_printf(m, "span-granted:\t%u\n", READ_ONCE(s->nr_granted));
	seq_printf(m, "span-joined:\t%u\n", READ_ONCE(s->nr_joined));
	seq_printf(m, "span-faults:\t%lld\n", atomic64_read(&s->faults));
	seq_printf(m, "span-refused:\t%lld\n", atomic64_read(&s->refused));
}

static const struct file_operations kvm_span_fops = {
	.owner = THIS_MODULE,
	.release = kvm_span_release,
	.read = kvm_span_read,
	.poll = kvm_span_poll,
	.unlocked_ioctl = kvm_span_ioctl,
	.compat_ioctl = compat_ptr_ioctl,
	.show_fdinfo = kvm_span_show_fdinfo,
};

static int kvm_span_refuse_create(const char *reason, int err)
{
	trace_kvm_span_refuse("create", reason, 0, err);
	return err;
}

/* The guest's RAM must be what it is now for as long as anyone maps it. */
static int kvm_span_check_memfd(struct file *memfd)
{
	struct inode *inode = file_inode(memfd);
	unsigned int seals;
	loff_t size;

	/*
	 * A file that merely borrows a shmem mapping is not shmem's, so its
	 * inode must not be taken for one.
	 */
	if (memfd->f_mapping != inode->i_mapping || !shmem_mapping(memfd->f_mapping))
		return kvm_span_refuse_create("memory is not a shmem memfd", -EINVAL);
	if ((memfd->f_mode & (FMODE_READ | FMODE_WRITE)) != (FMODE_READ | FMODE_WRITE))
		return kvm_span_refuse_create("memfd is not open for read and write", -EACCES);
	seals = READ_ONCE(SHMEM_I(inode)->seals);
	if ((seals & KVM_SPAN_SEALS_WANTED) != KVM_SPAN_SEALS_WANTED)
		return kvm_span_refuse_create("memfd lacks the seals seal, shrink, grow", -EPERM);
	if (seals & KVM_SPAN_SEALS_REFUSED)
		return kvm_span_refuse_create("memfd is sealed against writing", -EPERM);
	size = i_size_read(inode);
	if (!size || !PAGE_ALIGNED(size))
		return kvm_span_refuse_create("size is not a multiple of the page size", -EINVAL);
	if (size > KVM_SPAN_MAX_BYTES)
		return kvm_span_refuse_create("memory is too large", -EFBIG);
	return 0;
}

static struct kvm_span *kvm_span_alloc(struct file *memfd, struct kvm *kvm,
				       const u8 *name)
{
	struct kvm_span *s = kzalloc(sizeof(*s), GFP_KERNEL_ACCOUNT);

	if (!s)
		return NULL;
	if (kvm_span_event_init(s)) {
		kfree(s);
		return NULL;
	}
	kref_init(&s->ref);
	INIT_LIST_HEAD(&s->node);
	INIT_LIST_HEAD(&s->members);
	INIT_LIST_HEAD(&s->vms);
	spin_lock_init(&s->lock);
	spin_lock_init(&s->mask_lock);
	spin_lock_init(&s->vms_lock);
	mutex_init(&s->control);
	mutex_init(&s->fetch_lock);
	init_waitqueue_head(&s->wait);
	s->memfd = get_file(memfd);
	s->mapping = memfd->f_mapping;
	s->bytes = i_size_read(file_inode(memfd));
	s->kvm = kvm;
	kvm_get_kvm(kvm);
	s->owner = kvm->mm;
	mmgrab(s->owner);
	s->next_id = 1;
	strscpy(s->name, name, sizeof(s->name));
	kvm_span_list_alive(s);
	return s;
}

/* One memory, one span: else two controllers would each hold half the truth. */
static int kvm_span_publish(struct kvm_span *s)
{
	struct kvm_span *other;
	int r = 0;

	mutex_lock(&kvm_spans_lock);
	list_for_each_entry(other, &kvm_spans, node)
		if (other->mapping == s->mapping)
			r = -EBUSY;
	if (!r) {
		list_add(&s->node, &kvm_spans);
		WRITE_ONCE(s->open, true);
	}
	mutex_unlock(&kvm_spans_lock);
	return r;
}

static int kvm_span_make_fd(struct kvm_span *s)
{
	struct file *file;
	int r, fd;

	fd = get_unused_fd_flags(O_CLOEXEC);
	if (fd < 0)
		return fd;
	file = anon_inode_getfile("kvm-span", &kvm_span_fops, s, O_RDWR);
	if (IS_ERR(file)) {
		r = PTR_ERR(file);
		goto err_fd;
	}
	r = kvm_span_publish(s);
	if (r) {
		kvm_span_refuse_create("memfd has a span already", r);
		goto err_file;
	}
	r = kvm_span_bind_vm(s, s->kvm);
	if (r) {
		kvm_span_refuse_create("a memory slot is partly of this memory, or another span's",
				       r);
		goto err_file;
	}
	trace_kvm_span_create(s->name, s->bytes);
	fd_install(fd, file);
	return fd;

err_file:
	/* Its release drops the span; if it is in no list, list_del() is harmless. */
	fput(file);
	put_unused_fd(fd);
	return r;
err_fd:
	put_unused_fd(fd);
	kvm_put_kvm(s->kvm);
	kvm_span_put(s);
	return r;
}

static long kvm_span_create(void __user *uarg)
{
	struct kvm_span_create arg;
	struct kvm_span *s;
	struct file *memfd;
	struct kvm *kvm;
	long r;

	r = kvm_span_copy_arg(&arg, sizeof(arg), uarg);
	if (r)
		return r;
	if (arg.flags || !kvm_span_name_valid(arg.name))
		return -EINVAL;
	memfd = fget(arg.memfd);
	if (!memfd)
		return -EBADF;
	r = kvm_span_check_memfd(memfd);
	if (r)
		goto out_memfd;
	kvm = kvm_span_get_vm(arg.vm_fd);
	if (IS_ERR(kvm)) {
		r = kvm_span_refuse_create("vm_fd is no VM", PTR_ERR(kvm));
		goto out_memfd;
	}
	if (kvm->mm != current->mm) {
		r = kvm_span_refuse_create("the VM is another process's", -EPERM);
		goto out_kvm;
	}
	s = kvm_span_alloc(memfd, kvm, arg.name);
	r = s ? kvm_span_make_fd(s) : -ENOMEM;

out_kvm:
	kvm_put_kvm(kvm);
out_memfd:
	fput(memfd);
	return r;
}

static long kvm_span_get_info(void __user *uarg)
{
	struct kvm_span_info info;
	int r;

	r = kvm_span_copy_arg(&info, sizeof(info), uarg);
	if (r)
		return r;
	if (info.flags)
		return -EINVAL;
	info.api_version = KVM_SPAN_API_VERSION;
	info.max_members = KVM_SPAN_MAX_MEMBERS;
	info.features = KVM_SPAN_FEATURE_MEMORY | KVM_SPAN_FEATURE_WATCH |
			KVM_SPAN_FEATURE_VCPU | KVM_SPAN_FEATURE_CHANNEL |
			kvm_span_log_features() | kvm_span_salvage_features();
	info.max_bytes = KVM_SPAN_MAX_BYTES;
	return kvm_span_return_arg(uarg, &info, sizeof(info));
}

static long kvm_span_dev_ioctl(struct file *file, unsigned int cmd, unsigned long arg)
{
	void __user *uarg = (void __user *)arg;

	if (_IOC_TYPE(cmd) != KVM_SPAN_IO)
		return -ENOTTY;
	switch (_IOC_NR(cmd)) {
	case _IOC_NR(KVM_SPAN_GET_INFO):
		return kvm_span_get_info(uarg);
	case _IOC_NR(KVM_SPAN_CREATE):
		return kvm_span_create(uarg);
	case _IOC_NR(KVM_SPAN_RELAY):
		return kvm_span_relay_open(uarg);
	default:
		return -ENOTTY;
	}
}

static const struct file_operations kvm_span_dev_fops = {
	.owner = THIS_MODULE,
	.unlocked_ioctl = kvm_span_dev_ioctl,
	.compat_ioctl = compat_ptr_ioctl,
};

static struct miscdevice kvm_span_dev = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "kvm-span",
	.fops = &kvm_span_dev_fops,
	.mode = 0600,
};

int __init kvm_span_init(void)
{
	int r;

	if (!span)
		return 0;
	kvm_span_wq = alloc_workqueue("kvm-span", WQ_UNBOUND | WQ_HIGHPRI, 0);
	if (!kvm_span_wq)
		return -ENOMEM;
	r = misc_register(&kvm_span_dev);
	if (r) {
		pr_err("cannot register /dev/kvm-span: %d\n", r);
		destroy_workqueue(kvm_span_wq);
	}
	return r;
}

/* Spans that ended are freed by kfree_rcu(), which needs nothing of ours. */
void __exit kvm_span_exit(void)
{
	if (!span)
		return;
	misc_deregister(&kvm_span_dev);
	destroy_workqueue(kvm_span_wq);
	static_key_deferred_flush(&kvm_span_any);
	static_key_deferred_flush(&kvm_span_sites);
	static_key_deferred_flush(&kvm_span_shots);
}
