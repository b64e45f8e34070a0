// SPDX-License-Identifier: GPL-2.0
/*
 * KVM Span: the capability. Grant, join, revoke, leave.
 */
#include <linux/anon_inodes.h>
#include <linux/file.h>
#include <linux/mm.h>
#include <linux/sched/mm.h>
#include <linux/seq_file.h>
#include <linux/slab.h>
#include <linux/string.h>
#include <linux/uaccess.h>

#include "vcpu.h"
#include "watch.h"
#include "trace.h"

#define KVM_SPAN_ACCESS_ALL	(KVM_SPAN_ACCESS_R | KVM_SPAN_ACCESS_W)
#define KVM_SPAN_RIGHTS_ALL	(KVM_SPAN_RIGHTS_WATCH | KVM_SPAN_RIGHT_VCPU)

static void kvm_span_member_free(struct kref *ref)
{
	struct kvm_span_member *member = container_of(ref, struct kvm_span_member, ref);

	kvm_span_ring_free(member);
	kvm_span_share_release(member);
	put_pid(member->pid);
	kfree(member);
}

void kvm_span_member_put(struct kvm_span_member *member)
{
	kref_put(&member->ref, kvm_span_member_free);
}

void kvm_span_member_refused(struct kvm_span_member *member)
{
	atomic64_inc(&member->refused);
	atomic64_inc(&member->span->refused);
}

static int kvm_span_member_refuse(struct kvm_span_member *member, const char *what,
				  const char *reason, int err)
{
	kvm_span_member_refused(member);
	trace_kvm_span_refuse(what, reason, member->id, err);
	return err;
}

static bool kvm_span_member_live(const struct kvm_span_member *member)
{
	return member->state == KVM_SPAN_GRANTED || member->state == KVM_SPAN_JOINED;
}

/* Change the state and the counters of states. Under span->lock. */
static void kvm_span_member_set_state(struct kvm_span_member *member,
				      enum kvm_span_state state)
{
	struct kvm_span *span = member->span;

	lockdep_assert_held(&span->lock);
	if (member->state == KVM_SPAN_GRANTED)
		span->nr_granted--;
	if (member->state == KVM_SPAN_JOINED)
		span->nr_joined--;
	if (state == KVM_SPAN_JOINED)
		span->nr_joined++;

	write_lock(&member->map_lock);
	member->state = state;
	write_unlock(&member->map_lock);
}

/* Under span->lock. */
static void kvm_span_member_event(struct kvm_span_member *member, u32 type)
{
	struct kvm_span *span = member->span;

	lockdep_assert_held(&span->lock);
	if (list_empty(&member->node) || (member->events & BIT(type)))
		return;
	member->events |= BIT(type);
	span->nr_events++;
	wake_up_interruptible(&span->wait);
}

/* Leave the controller an event about this member. */
void kvm_span_member_tell(struct kvm_span_member *member, u32 type)
{
	spin_lock(&member->span->lock);
	kvm_span_member_event(member, type);
	spin_unlock(&member->span->lock);
}

/* A Virtual EPT of this VM led to a wrong page. Returns the member's id, 0 for none. */
u32 kvm_span_member_remapped(struct kvm_span *span, const struct kvm *kvm)
{
	struct kvm_span_member *member;
	u32 id = 0;

	spin_lock(&span->lock);
	list_for_each_entry(member, &span->members, node) {
		if (member->state != KVM_SPAN_JOINED || member->kvm != kvm)
			continue;
		id = member->id;
		if (!member->remapped)
			kvm_span_member_event(member, KVM_SPAN_EVENT_REMAP);
		member->remapped = true;
	}
	spin_unlock(&span->lock);
	return id;
}

/* Take the record off the span's list. Under span->lock; the caller puts it. */
static void kvm_span_member_unlist(struct kvm_span_member *member)
{
	struct kvm_span *span = member->span;

	lockdep_assert_held(&span->lock);
	list_del_init(&member->node);
	span->nr_records--;
	span->nr_events -= hweight8(member->events);
	member->events = 0;
}

/* The LEFT event was read: nothing more to say about this member. */
void kvm_span_member_drop_record(struct kvm_span_member *member)
{
	struct kvm_span *span = member->span;
	bool listed;

	spin_lock(&span->lock);
	listed = !list_empty(&member->node);
	if (listed)
		kvm_span_member_unlist(member);
	spin_unlock(&span->lock);
	if (listed)
		kvm_span_member_put(member);
}

/*
 * Take the member's rights. Under span->lock. Returns the state before. The
 * caller unmaps afterwards, without the lock.
 */
static enum kvm_span_state kvm_span_member_fence(struct kvm_span_member *member)
{
	enum kvm_span_state state = member->state;

	if (!kvm_span_member_live(member))
		return state;
	kvm_span_member_set_state(member, KVM_SPAN_REVOKED);
	if (member->kvm)
		atomic_inc(&member->kvm->arch.span.fenced);
	member->span->revokes++;
	return state;
}

/* After the state has changed: no more watches, and nobody listens to the L1. */
static void kvm_span_member_unwatch(struct kvm_span_member *member)
{
	kvm_span_watch_end_all(member);
	kvm_span_ring_end(member);
	kvm_span_share_end(member);
}

/*
 * Fence everybody and forget the records: the span fd is closing, and with it
 * goes the last one who could ask.
 */
void kvm_span_member_fence_all(struct kvm_span *span)
{
	struct kvm_span_member *member;
	enum kvm_span_state state;
	unsigned int vmas;

	spin_lock(&span->lock);
	while (!list_empty(&span->members)) {
		member = list_first_entry(&span->members, struct kvm_span_member, node);
		state = kvm_span_member_fence(member);
		kvm_span_member_unlist(member);
		spin_unlock(&span->lock);

		/* The list's reference is ours now. */
		kvm_span_member_unwatch(member);
		vmas = kvm_span_window_zap(member);
		kvm_span_hub_lost(member);
		trace_kvm_span_revoke(span->name, member->id, state, vmas);
		kvm_span_member_put(member);
		spin_lock(&span->lock);
	}
	spin_unlock(&span->lock);
	kvm_span_window_flush();
}

struct kvm_span_member *kvm_span_member_find(struct kvm_span *span, u32 id)
{
	struct kvm_span_member *member;

	lockdep_assert_held(&span->lock);
	list_for_each_entry(member, &span->members, node)
		if (member->id == id)
			return member;
	return NULL;
}

/* A reference to the member of this id, or NULL. */
struct kvm_span_member *kvm_span_member_get(struct kvm_span *span, u32 id)
{
	struct kvm_span_member *member;

	spin_lock(&span->lock);
	member = kvm_span_member_find(span, id);
	if (member)
		kref_get(&member->ref);
	spin_unlock(&span->lock);
	return member;
}

/*
 * Order: the state first, then the mappings. Whoever sees the new state maps
 * nothing; whoever saw the old one had finished when map_lock was taken for
 * write, so the walk finds what he mapped. Neither step waits for the member's
 * processes or for a lock that they could hold for long (their mmap_lock). Nor
 * does the end of its watches: span->control is held for a piece of a range at
 * a time.
 */
void kvm_span_member_expel(struct kvm_span_member *member)
{
	struct kvm_span *span = member->span;
	enum kvm_span_state state;
	unsigned int vmas;

	spin_lock(&span->lock);
	state = kvm_span_member_fence(member);
	spin_unlock(&span->lock);

	/*
	 * Again for one that is fenced already: another thread may have fenced
	 * it and not be through with this, and we promise that it is done.
	 */
	kvm_span_member_unwatch(member);
	vmas = kvm_span_window_zap(member);
	kvm_span_window_flush();
	/* Its vCPUs cannot run any more: only now somebody else may have them. */
	kvm_span_hub_lost(member);
	trace_kvm_span_revoke(span->name, member->id, state, vmas);
}

long kvm_span_member_revoke(struct kvm_span *span, void __user *uarg)
{
	struct kvm_span_member *member;
	struct kvm_span_revoke arg;
	int r;

	r = kvm_span_copy_arg(&arg, sizeof(arg), uarg);
	if (r)
		return r;
	if (arg.flags || arg.pad)
		return -EINVAL;

	spin_lock(&span->lock);
	member = kvm_span_member_find(span, arg.member);
	if (!member) {
		/* It left, and its LEFT event was read; or it never was. */
		r = arg.member && arg.member < span->next_id ? 0 : -ENOENT;
		spin_unlock(&span->lock);
		if (r)
			trace_kvm_span_refuse("revoke", "no such member", arg.member, r);
		return r;
	}
	kref_get(&member->ref);
	spin_unlock(&span->lock);
	kvm_span_member_expel(member);
	kvm_span_member_put(member);
	return 0;
}

static void kvm_span_member_info(struct kvm_span_member *member,
				 struct kvm_span_member_info *info)
{
	struct kvm_span *span = member->span;

	spin_lock(&span->lock);
	info->state = member->state;
	info->pid = member->pid ? pid_vnr(member->pid) : 0;
	spin_unlock(&span->lock);
	info->member = member->id;
	info->access = member->access;
	info->bytes = span->bytes;
	info->mapped_bytes = kvm_span_window_bytes(member);
	info->faults = atomic64_read(&member->faults);
	info->refused = atomic64_read(&member->refused);
	memcpy(info->name, member->name, sizeof(info->name));
	kvm_span_hub_info(member, info);
}

/* KVM_SPAN_GET_MEMBER on a span fd. */
long kvm_span_member_query(struct kvm_span *span, void __user *uarg)
{
	struct kvm_span_member_info info;
	struct kvm_span_member *member;
	int r;

	r = kvm_span_copy_arg_since(&info, sizeof(info),
				    offsetof(struct kvm_span_member_info, tsc_offset), uarg);
	if (r)
		return r;
	if (info.flags)
		return -EINVAL;
	member = kvm_span_member_get(span, info.member);
	if (!member)
		return -ENOENT;
	kvm_span_member_info(member, &info);
	kvm_span_member_put(member);
	return kvm_span_return_arg(uarg, &info, min_t(size_t, info.size, sizeof(info)));
}

/* KVM_SPAN_GET_MEMBER on a member fd: about itself. */
static long kvm_span_member_query_self(struct kvm_span_member *member, void __user *uarg)
{
	struct kvm_span_member_info info;
	int r;

	r = kvm_span_copy_arg_since(&info, sizeof(info),
				    offsetof(struct kvm_span_member_info, tsc_offset), uarg);
	if (r)
		return r;
	if (info.flags)
		return -EINVAL;
	kvm_span_member_info(member, &info);
	return kvm_span_return_arg(uarg, &info, min_t(size_t, info.size, sizeof(info)));
}

/* The decision of KVM_SPAN_JOIN. Under span->lock. */
static int kvm_span_member_may_join(struct kvm_span_member *member, struct kvm *kvm,
				    const char **reason)
{
	struct kvm_span_member *other;

	if (member->state == KVM_SPAN_REVOKED) {
		*reason = "revoked";
		return -EACCES;
	}
	if (member->watcher) {
		*reason = "a watcher has no VM";
		return -EPERM;
	}
	if (member->state != KVM_SPAN_GRANTED) {
		*reason = "used before";
		return -EBUSY;
	}
	if (kvm->mm != current->mm) {
		*reason = "the VM is another process's";
		return -EPERM;
	}
	if (kvm == member->span->kvm) {
		*reason = "the VM is the Span guest";
		return -EEXIST;
	}
	list_for_each_entry(other, &member->span->members, node) {
		if (other->state == KVM_SPAN_JOINED && other->kvm == kvm) {
			*reason = "the VM is a member already";
			return -EEXIST;
		}
	}
	return 0;
}

static long kvm_span_member_join(struct kvm_span_member *member, void __user *uarg)
{
	struct kvm_span *span = member->span;
	struct kvm_span_join arg;
	const char *reason;
	struct kvm *kvm;
	int r;

	r = kvm_span_copy_arg(&arg, sizeof(arg), uarg);
	if (r)
		return r;
	if (arg.flags || arg.pad)
		return -EINVAL;
	kvm = kvm_span_get_vm(arg.vm_fd);
	if (IS_ERR(kvm))
		return kvm_span_member_refuse(member, "join", "vm_fd is no VM", PTR_ERR(kvm));

	spin_lock(&span->lock);
	r = kvm_span_member_may_join(member, kvm, &reason);
	if (r) {
		spin_unlock(&span->lock);
		kvm_put_kvm(kvm);
		return kvm_span_member_refuse(member, "join", reason, r);
	}
	/* These come before the state: a reader of JOINED may use them. */
	member->kvm = kvm;
	member->mm = current->mm;
	mmgrab(member->mm);
	member->pid = get_pid(task_tgid(current));
	kvm_span_member_set_state(member, KVM_SPAN_JOINED);
	span->joins++;
	kvm_span_member_event(member, KVM_SPAN_EVENT_JOINED);
	spin_unlock(&span->lock);
	trace_kvm_span_join(span->name, member->id, task_tgid_nr(current));
	return 0;
}

static long kvm_span_member_ioctl(struct file *file, unsigned int cmd, unsigned long arg)
{
	struct kvm_span_member *member = file->private_data;
	void __user *uarg = (void __user *)arg;

	if (_IOC_TYPE(cmd) != KVM_SPAN_IO)
		return -ENOTTY;
	switch (_IOC_NR(cmd)) {
	case _IOC_NR(KVM_SPAN_JOIN):
		return kvm_span_member_join(member, uarg);
	case _IOC_NR(KVM_SPAN_GET_MEMBER):
		return kvm_span_member_query_self(member, uarg);
	case _IOC_NR(KVM_SPAN_SHARE):
		return kvm_span_share_setup(member, uarg);
	case _IOC_NR(KVM_SPAN_DOORBELL):
		return kvm_span_share_doorbell(member, uarg);
	default:
		return kvm_span_watch_ioctl(member, _IOC_NR(cmd), uarg);
	}
}

/* Ring and shared pages are at offsets of their own, far behind the guest's memory. */
static int kvm_span_member_mmap(struct file *file, struct vm_area_struct *vma)
{
	if (vma->vm_pgoff >= KVM_SPAN_SHARE_OFFSET >> PAGE_SHIFT)
		return kvm_span_share_mmap(file->private_data, vma);
	if (vma->vm_pgoff >= KVM_SPAN_RING_OFFSET >> PAGE_SHIFT)
		return kvm_span_ring_mmap(file->private_data, vma);
	return kvm_span_window_mmap(file, vma);
}

/*
 * The last reference is gone, mappings included: each window holds one. Runs
 * from task work, never under an mmap_lock, so the VM may end here.
 */
static int kvm_span_member_release(struct inode *inode, struct file *file)
{
	struct kvm_span_member *member = file->private_data;
	struct kvm_span *span = member->span;
	enum kvm_span_state state;

	spin_lock(&span->lock);
	state = member->state;
	kvm_span_member_set_state(member, KVM_SPAN_LEFT);
	spin_unlock(&span->lock);

	kvm_span_member_unwatch(member);
	kvm_span_hub_lost(member);

	/* Whoever reads that it left finds nothing of it any more. */
	spin_lock(&span->lock);
	span->leaves++;
	kvm_span_member_event(member, KVM_SPAN_EVENT_LEFT);
	spin_unlock(&span->lock);
	trace_kvm_span_leave(span->name, member->id, state);

	if (member->kvm) {
		if (state == KVM_SPAN_REVOKED)
			atomic_dec(&member->kvm->arch.span.fenced);
		kvm_put_kvm(member->kvm);
		mmdrop(member->mm);
	}
	kvm_span_member_put(member);
	kvm_span_put(span);
	return 0;
}

static const char *kvm_span_state_name(enum kvm_span_state state)
{
	switch (state) {
	case KVM_SPAN_GRANTED:
		return "granted";
	case KVM_SPAN_JOINED:
		return "joined";
	case KVM_SPAN_REVOKED:
		return "revoked";
	case KVM_SPAN_LEFT:
		return "left";
	}
	return "?";
}

static void kvm_span_member_show_fdinfo(struct seq_file *m, struct file *file)
{
	struct kvm_span_member *member = file->private_data;

	seq_printf(m, "span-name:\t%s\n", member->span->name);
	seq_printf(m, "span-member:\t%u\n", member->id);
	seq_printf(m, "span-member-name:\t%s\n", member->name);
	seq_printf(m, "span-state:\t%s\n", kvm_span_state_name(READ_ONCE(member->state)));
	seq_printf(m, "span-access:\t%s\n", member->watcher ? "none" :
		   member->access & KVM_SPAN_ACCESS_W ? "rw" : "ro");
	seq_printf(m, "span-rights:\t%#x\n", member->rights);
	seq_printf(m, "span-vcpus:\t%#lx\n", READ_ONCE(member->vcpus));
	seq_printf(m, "span-mapped-bytes:\t%llu\n", kvm_span_window_bytes(member));
	seq_printf(m, "span-faults:\t%lld\n", atomic64_read(&member->faults));
	seq_printf(m, "span-refused:\t%lld\n", atomic64_read(&member->refused));
}

static const struct file_operations kvm_span_member_fops = {
	.owner = THIS_MODULE,
	.release = kvm_span_member_release,
	.unlocked_ioctl = kvm_span_member_ioctl,
	.compat_ioctl = compat_ptr_ioctl,
	.mmap = kvm_span_member_mmap,
	.get_unmapped_area = thp_get_unmapped_area,
	.show_fdinfo = kvm_span_member_show_fdinfo,
};

/* A record of its own for each capability, listed unless the name is taken. */
static int kvm_span_member_list(struct kvm_span *span, struct kvm_span_member *member)
{
	struct kvm_span_member *other;
	int r = 0;

	spin_lock(&span->lock);
	list_for_each_entry(other, &span->members, node)
		if (kvm_span_member_live(other) && !strcmp(other->name, member->name))
			r = -EEXIST;
	if (span->nr_granted + span->nr_joined >= KVM_SPAN_MAX_MEMBERS ||
	    span->nr_records >= KVM_SPAN_MAX_RECORDS)
		r = -ENOSPC;
	if (span->next_id == U32_MAX)
		r = -EOVERFLOW;
	if (!r) {
		member->id = span->next_id++;
		kref_get(&member->ref);
		list_add_tail(&member->node, &span->members);
		span->nr_records++;
		span->nr_granted++;
		span->grants++;
	}
	spin_unlock(&span->lock);
	return r;
}

/* A grant that fails after it was listed: it leaves without an event. */
static void kvm_span_member_cancel(struct kvm_span_member *member)
{
	kvm_span_member_drop_record(member);
}

static struct kvm_span_member *kvm_span_member_alloc(struct kvm_span *span,
						     const struct kvm_span_grant *arg)
{
	struct kvm_span_member *member = kzalloc(sizeof(*member), GFP_KERNEL_ACCOUNT);

	if (!member)
		return NULL;
	kref_init(&member->ref);
	INIT_LIST_HEAD(&member->node);
	rwlock_init(&member->map_lock);
	member->state = KVM_SPAN_GRANTED;
	member->watcher = arg->flags & KVM_SPAN_GRANT_WATCHER;
	member->access = arg->access & KVM_SPAN_ACCESS_W ? KVM_SPAN_ACCESS_ALL : arg->access;
	member->rights = arg->rights;
	member->max_deadline_us = arg->max_deadline_us ?: KVM_SPAN_DEADLINE_DEFAULT;
	memcpy(member->name, arg->name, sizeof(member->name));
	member->span = span;
	return member;
}

/* On success the file has the caller's reference to the member. */
static struct file *kvm_span_member_file(struct kvm_span_member *member)
{
	/* Who has rights writes answers into his ring. */
	bool write = (member->access & KVM_SPAN_ACCESS_W) || member->rights;
	int flags = write ? O_RDWR : O_RDONLY;
	struct file *file;

	/*
	 * Open for what was granted and no more: mmap() then strips
	 * VM_MAYWRITE, so that mprotect() cannot add it; for a window of one
	 * who may only read, kvm_span_window_mmap() does. An anonymous inode
	 * has no open(), so /proc/self/fd cannot make another file of it.
	 */
	file = anon_inode_getfile("kvm-span-member", &kvm_span_member_fops, member, flags);
	if (!IS_ERR(file))
		kvm_span_get(member->span);
	return file;
}

static bool kvm_span_grant_valid(const struct kvm_span_grant *arg)
{
	bool watcher = arg->flags & KVM_SPAN_GRANT_WATCHER;

	if ((arg->flags & ~KVM_SPAN_GRANT_WATCHER) || (arg->rights & ~KVM_SPAN_RIGHTS_ALL))
		return false;
	/* An L1 owns vCPUs, so it has to be one. */
	if (watcher && (arg->rights & KVM_SPAN_RIGHT_VCPU))
		return false;
	if (watcher ? arg->access : !arg->access || (arg->access & ~KVM_SPAN_ACCESS_ALL))
		return false;
	if (arg->max_deadline_us && (arg->max_deadline_us < KVM_SPAN_DEADLINE_MIN ||
				     arg->max_deadline_us > KVM_SPAN_DEADLINE_MAX))
		return false;
	return kvm_span_name_valid(arg->name);
}

long kvm_span_member_grant(struct kvm_span *span, void __user *uarg)
{
	struct kvm_span_member *member;
	struct kvm_span_grant arg;
	struct file *file;
	int r, fd;

	r = kvm_span_copy_arg_since(&arg, sizeof(arg), offsetof(struct kvm_span_grant, rights),
				    uarg);
	if (r)
		return r;
	if (!kvm_span_grant_valid(&arg))
		return -EINVAL;

	member = kvm_span_member_alloc(span, &arg);
	if (!member)
		return -ENOMEM;
	fd = get_unused_fd_flags(O_CLOEXEC);
	if (fd < 0) {
		r = fd;
		goto err_member;
	}
	r = kvm_span_member_list(span, member);
	if (r) {
		trace_kvm_span_refuse("grant", "name taken or too many members", 0, r);
		goto err_fd;
	}
	arg.member = member->id;
	file = kvm_span_member_file(member);
	if (IS_ERR(file)) {
		r = PTR_ERR(file);
		goto err_list;
	}
	if (kvm_span_return_arg(uarg, &arg, min_t(size_t, arg.size, sizeof(arg)))) {
		kvm_span_member_cancel(member);
		fput(file);
		put_unused_fd(fd);
		return -EFAULT;
	}
	trace_kvm_span_grant(span->name, member->id, member->name, member->access);
	fd_install(fd, file);
	return fd;

err_list:
	spin_lock(&span->lock);
	kvm_span_member_set_state(member, KVM_SPAN_LEFT);
	spin_unlock(&span->lock);
	kvm_span_member_cancel(member);
err_fd:
	put_unused_fd(fd);
err_member:
	kvm_span_member_put(member);
	return r;
}
