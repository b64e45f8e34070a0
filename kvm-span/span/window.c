// SPDX-License-Identifier: GPL-2.0
/*
 * KVM Span: a member's mappings of the guest's memory, and how they end.
 *
 * A window is what one mmap() of a member fd makes: a VMA of the memfd's page
 * cache, in the memfd's own i_mmap tree, so that reclaim, migration and hole
 * punching know it like any other mapping of that memory. Its vm_file is a
 * file of ours that no descriptor ever refers to, see kvm_span_window_file().
 *
 * Pages enter page tables only inside member->map_lock (held for read), and
 * only while the member's state is JOINED. So revoking is: change the state
 * with map_lock held for write, then unmap what the i_mmap tree holds. The
 * member's mmap_lock is not needed, hence nothing that its processes do with
 * it (a fault that waits for a FUSE server, say) can delay a revoke.
 */
#include <linux/anon_inodes.h>
#include <linux/file.h>
#include <linux/hrtimer.h>
#include <linux/mm.h>
#include <linux/pagemap.h>
#include <linux/rbtree.h>
#include <linux/sched/signal.h>
#include <linux/shmem_fs.h>
#include <linux/smp.h>

#include <asm/tlbflush.h>

#include "span.h"
#include "span_hooks.h"
#include "trace.h"

/* May this mapping show memory now? Stable while map_lock is held. */
static bool kvm_span_window_open(struct kvm_span_member *member,
				 struct vm_area_struct *vma)
{
	/*
	 * A child gets no copy (VM_DONTCOPY), unless its parent asks for one
	 * with MADV_DOFORK: the copy shows nothing.
	 */
	return READ_ONCE(member->state) == KVM_SPAN_JOINED && vma->vm_mm == member->mm;
}

static void kvm_span_window_count(struct kvm_span_member *member)
{
	atomic64_inc(&member->faults);
	atomic64_inc(&member->span->faults);
}

/*
 * Bring the page into the page cache, from swap or as a new one: look up
 * first, allocate only if there is none.
 */
static vm_fault_t kvm_span_window_fill(struct inode *inode, pgoff_t pgoff)
{
	struct folio *folio;
	vm_fault_t ret = 0;
	int r;

	/*
	 * Somebody punches a hole. shmem's own fault handler waits for the end
	 * of it if the page lies in the hole, lest faulting pages into the hole
	 * keep it from ending. We cannot see where it is: go slowly.
	 */
	if (unlikely(READ_ONCE(inode->i_private)))
		schedule_timeout_killable(1);

	r = shmem_get_folio(inode, pgoff, 0, &folio, SGP_CACHE);
	if (r)
		return vmf_error(r);
	if (unlikely(PageHWPoison(folio_file_page(folio, pgoff))))
		ret = VM_FAULT_HWPOISON;
	/*
	 * The flag has no meaning for shmem, but shares its bit with
	 * PG_reclaim, which dropping caches may have left set;
	 * filemap_map_pages() would pass over the page for ever.
	 */
	if (unlikely(folio_test_readahead(folio)))
		folio_clear_readahead(folio);
	folio_unlock(folio);
	folio_put(folio);
	return ret;
}

/* Called with the mmap_lock or the VMA lock held for read. May sleep. */
static vm_fault_t kvm_span_window_fault(struct vm_fault *vmf)
{
	struct vm_area_struct *vma = vmf->vma;
	struct kvm_span_member *member = vma->vm_private_data;
	vm_fault_t ret;

	/* Without the lock: a revoked member must not allocate either. */
	if (!kvm_span_window_open(member, vma)) {
		ret = VM_FAULT_SIGBUS;
		goto out;
	}
	ret = kvm_span_window_fill(file_inode(vma->vm_file), vmf->pgoff);
	if (ret)
		goto out;

	/*
	 * Map it here and not, by returning VM_FAULT_LOCKED, in the core after
	 * our return: there nothing would tell a revoke that we are still on
	 * our way. If the page went away again or is locked by another fault,
	 * this maps nothing and the access faults anew.
	 */
	read_lock(&member->map_lock);
	if (kvm_span_window_open(member, vma)) {
		filemap_map_pages(vmf, vmf->pgoff, vmf->pgoff);
		ret = VM_FAULT_NOPAGE;
	} else {
		ret = VM_FAULT_SIGBUS;
	}
	read_unlock(&member->map_lock);
out:
	if (ret == VM_FAULT_NOPAGE)
		kvm_span_window_count(member);
	else
		kvm_span_member_refused(member);
	trace_kvm_span_fault(member->id, vmf->pgoff, vmf->flags & FAULT_FLAG_WRITE,
			     (__force unsigned int)ret);
	return ret;
}

/*
 * Map what is in the page cache already around a read fault. Called inside an
 * RCU read section: must not sleep.
 */
static vm_fault_t kvm_span_window_map_pages(struct vm_fault *vmf, pgoff_t start,
					    pgoff_t end)
{
	struct kvm_span_member *member = vmf->vma->vm_private_data;
	vm_fault_t ret = 0;

	read_lock(&member->map_lock);
	if (kvm_span_window_open(member, vmf->vma))
		ret = filemap_map_pages(vmf, start, end);
	read_unlock(&member->map_lock);

	if (ret & VM_FAULT_NOPAGE) {
		kvm_span_window_count(member);
		trace_kvm_span_fault(member->id, vmf->pgoff, false,
				     (__force unsigned int)ret);
	}
	return ret;
}

/*
 * In pieces, one window would be as many VMAs as max_map_count allows, and each
 * makes the walk of a revoke longer. Called with the mmap_lock held for write.
 */
static int kvm_span_window_may_split(struct vm_area_struct *vma, unsigned long addr)
{
	return -EINVAL;
}

static const struct vm_operations_struct kvm_span_window_vm_ops = {
	.fault = kvm_span_window_fault,
	.map_pages = kvm_span_window_map_pages,
	.may_split = kvm_span_window_may_split,
};

static int kvm_span_window_release(struct inode *inode, struct file *file)
{
	struct file *member_file = file->private_data;
	struct kvm_span_member *member = member_file->private_data;

	atomic_dec(&member->windows);
	/*
	 * Give back the inode that the file was made with: the VFS balances its
	 * counters against it after this. It still looks at the one we lent,
	 * which lives on: fput() never ends a file before its caller's return.
	 */
	file->f_inode = d_inode(file->f_path.dentry);
	file->f_mapping = file->f_inode->i_mapping;
	fput(member_file);
	return 0;
}

/* No mmap(): remap_file_pages() is the only one who could ask for it. */
static const struct file_operations kvm_span_window_fops = {
	.owner = THIS_MODULE,
	.release = kvm_span_window_release,
	.fsync = noop_fsync,
};

/*
 * The file of a window: the memfd's inode and page cache under the path of an
 * anonymous inode. It stays in the kernel:
 *
 * - If a member's descriptor led to the memfd's page cache itself, everything
 *   that takes a memfd (udmabuf, for one) could be pointed at it, and would
 *   pin guest memory out of reach of a revoke.
 * - If the path were the memfd's, /proc/PID/map_files would open the memfd.
 *
 * It holds the member's file, thereby the member, the span and the memfd.
 */
static struct file *kvm_span_window_file(struct file *member_file)
{
	struct kvm_span_member *member = member_file->private_data;
	struct address_space *mapping = member->span->mapping;
	struct file *file;

	/* The window's release takes it off again. */
	if (atomic_inc_return(&member->windows) > KVM_SPAN_MAX_WINDOWS) {
		file = ERR_PTR(-ENOMEM);
		goto err_count;
	}
	file = anon_inode_getfile("kvm-span-window", &kvm_span_window_fops, member_file,
				  member->access & KVM_SPAN_ACCESS_W ? O_RDWR : O_RDONLY);
	if (IS_ERR(file))
		goto err_count;
	get_file(member_file);
	file->f_inode = mapping->host;
	file->f_mapping = mapping;
	return file;

err_count:
	atomic_dec(&member->windows);
	return file;
}

static int kvm_span_window_check(struct kvm_span_member *member,
				 struct vm_area_struct *vma, const char **reason)
{
	u64 pages = member->span->bytes >> PAGE_SHIFT;
	bool joined;

	read_lock(&member->map_lock);
	joined = member->state == KVM_SPAN_JOINED;
	read_unlock(&member->map_lock);

	if (!joined) {
		*reason = "not joined, or revoked";
		return -EACCES;
	}
	if (vma->vm_mm != member->mm) {
		*reason = "another process joined";
		return -EPERM;
	}
	/* VM_SHARED is not set where the file does not allow writing. */
	if (!(vma->vm_flags & VM_MAYSHARE)) {
		*reason = "not a shared mapping";
		return -EINVAL;
	}
	if (vma->vm_flags & VM_EXEC) {
		*reason = "executable mapping";
		return -EACCES;
	}
	if ((vma->vm_flags & VM_WRITE) && !(member->access & KVM_SPAN_ACCESS_W)) {
		*reason = "writable mapping, but may only read";
		return -EACCES;
	}
	if (vma->vm_pgoff > pages || vma_pages(vma) > pages - vma->vm_pgoff) {
		*reason = "beyond the guest's memory";
		return -EINVAL;
	}
	return 0;
}

/* Called with the mmap_lock held for write. */
int kvm_span_window_mmap(struct file *file, struct vm_area_struct *vma)
{
	struct kvm_span_member *member = file->private_data;
	const char *reason;
	struct file *window;
	int r;

	r = kvm_span_window_check(member, vma, &reason);
	if (r) {
		kvm_span_member_refused(member);
		trace_kvm_span_refuse("mmap", reason, member->id, r);
		return r;
	}
	window = kvm_span_window_file(file);
	if (IS_ERR(window)) {
		r = PTR_ERR(window);
		kvm_span_member_refused(member);
		trace_kvm_span_refuse("mmap", "too many windows, or no memory", member->id, r);
		return r;
	}
	vma_set_file(vma, window);
	fput(window);

	/*
	 * VM_DONTEXPAND also keeps mremap() from making a second mapping. And
	 * it keeps away two who would make page-table entries without
	 * map_lock: MADV_COLLAPSE maps a huge page that is in the page cache
	 * (VM_NO_KHUGEPAGED); and fork() copies the entries of a file mapping
	 * that is write-protected by a userfaultfd, which in its asynchronous
	 * mode takes mappings of any kind (vma_can_userfault()) but VM_SPECIAL.
	 */
	vm_flags_mod(vma, VM_DONTCOPY | VM_DONTEXPAND | VM_DONTDUMP, VM_MAYEXEC);
	/* The member's file is open for writing for the sake of its ring. */
	if (!(member->access & KVM_SPAN_ACCESS_W))
		vm_flags_clear(vma, VM_MAYWRITE);
	vma->vm_ops = &kvm_span_window_vm_ops;
	vma->vm_private_data = member;
	return 0;
}

/*
 * The member's VMAs among all that map the memfd. A VMA's place and size do
 * not change while it is in the tree and the tree is locked. The order is that
 * of vma_interval_tree_foreach() over everything, which is not exported; moving
 * page tables (mremap) relies on it. What MADV_DOFORK copied into children is
 * passed over: it has no page-table entries and gets none (kvm_span_window_open(),
 * and see kvm_span_window_mmap() on userfaultfd), and there may be many of them.
 * The lock is one that may be held asleep.
 */
static struct vm_area_struct *kvm_span_window_next(struct kvm_span_member *member,
						   struct rb_node *node)
{
	struct vm_area_struct *vma;

	for (; node; node = rb_next(node)) {
		vma = rb_entry(node, struct vm_area_struct, shared.rb);
		if (vma->vm_ops == &kvm_span_window_vm_ops &&
		    vma->vm_private_data == member && vma->vm_mm == member->mm)
			return vma;
		cond_resched();
	}
	return NULL;
}

/*
 * Unmap the member's windows; returns how many there were. The MMU notifiers
 * have flushed the EPTs of the member's VM when this returns; the caller goes
 * on with kvm_span_window_flush(). It has changed the state before.
 */
unsigned int kvm_span_window_zap(struct kvm_span_member *member)
{
	struct address_space *mapping = member->span->mapping;
	struct vm_area_struct *vma;
	unsigned int n = 0;

	i_mmap_lock_read(mapping);
	vma = kvm_span_window_next(member, rb_first_cached(&mapping->i_mmap));
	while (vma) {
		zap_page_range_single(vma, vma->vm_start, vma->vm_end - vma->vm_start,
				      NULL);
		n++;
		vma = kvm_span_window_next(member, rb_next(&vma->shared.rb));
	}
	i_mmap_unlock_read(mapping);
	return n;
}

static void kvm_span_flush_cpu(void *unused)
{
	__flush_tlb_all();
}

/*
 * After the walk of a revoke. munmap() clears the page tables, then takes the
 * VMA out of the i_mmap tree, and only then flushes the TLBs: a walk that comes
 * after the second step does not find the VMA, while a thread of the member may
 * still write through an old TLB entry. The page-table entries are gone by
 * then, so flushing every CPU leaves nothing behind. Not by mm: the CPUs that
 * matter are not to be told from its cpumask when the process is exiting. A
 * revoke is rare, one interrupt per CPU is cheap for it.
 */
void kvm_span_window_flush(void)
{
	on_each_cpu(kvm_span_flush_cpu, NULL, 1);
}

/* Whose window a mapping is; NULL if it is none. */
struct kvm_span_member *kvm_span_window_member(struct vm_area_struct *vma)
{
	return vma->vm_ops == &kvm_span_window_vm_ops ? vma->vm_private_data : NULL;
}

/* How much address space the member has mapped. */
u64 kvm_span_window_bytes(struct kvm_span_member *member)
{
	struct address_space *mapping = member->span->mapping;
	struct vm_area_struct *vma;
	u64 bytes = 0;

	i_mmap_lock_read(mapping);
	vma = kvm_span_window_next(member, rb_first_cached(&mapping->i_mmap));
	while (vma) {
		bytes += vma->vm_end - vma->vm_start;
		vma = kvm_span_window_next(member, rb_next(&vma->shared.rb));
	}
	i_mmap_unlock_read(mapping);
	return bytes;
}

/* For KVM: does the VM's address lie in a window that was taken away? */
bool __kvm_span_fenced(struct kvm *kvm, unsigned long hva)
{
	struct kvm_span_member *member;
	struct vm_area_struct *vma;
	bool fenced = false;

	if (kvm_is_error_hva(hva))
		return false;
	mmap_read_lock(kvm->mm);
	vma = vma_lookup(kvm->mm, hva);
	if (vma && vma->vm_ops == &kvm_span_window_vm_ops) {
		member = vma->vm_private_data;
		fenced = READ_ONCE(member->state) != KVM_SPAN_JOINED;
		if (fenced)
			kvm_span_member_refused(member);
	}
	mmap_read_unlock(kvm->mm);
	return fenced;
}

/*
 * A vCPU touched a window that was taken away. Its QEMU is told and will empty
 * the range, unless it is stopped or dead; an error now would stop the whole L1
 * for good instead. So wait a little and let the vCPU try again: it still takes
 * interrupts in between, and signals at once. Returns 0 or -EINTR.
 */
int kvm_span_pause(struct kvm_vcpu *vcpu)
{
	ktime_t pause = ms_to_ktime(1);

	if (signal_pending(current)) {
		kvm_handle_signal_exit(vcpu);
		return -EINTR;
	}
	set_current_state(TASK_INTERRUPTIBLE);
	schedule_hrtimeout_range(&pause, NSEC_PER_MSEC, HRTIMER_MODE_REL);
	return 0;
}
