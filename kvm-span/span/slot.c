// SPDX-License-Identifier: GPL-2.0
/*
 * KVM Span: which memory slots of which VMs show the guest's memory.
 *
 * A slot is bound when it is made, by the mapping that its address leads to;
 * slots that the guest's own VM has already when its span is made are bound
 * then. slot->arch.span and .span_page say so to the MMU, which finds the masks
 * of a page with them. Both are constant while the slot is reachable, but for
 * kvm_span_bind_vm() and kvm_span_unbind_vm().
 */
#include <linux/mm.h>
#include <linux/sched/mm.h>
#include <linux/slab.h>

#include "mmu.h"
#include "watch.h"
#include "span_hooks.h"
#include "trace.h"

atomic_t kvm_span_layout = ATOMIC_INIT(0);

/* What the mapping at an address shows. */
struct kvm_span_found {
	struct kvm_span *span;		/* with a reference, or NULL */
	struct kvm_span_member *member;	/* likewise; whose window it is */
	u64 page;
};

static void kvm_span_found_put(struct kvm_span_found *found)
{
	if (found->member)
		kvm_span_member_put(found->member);
	if (found->span)
		kvm_span_put(found->span);
}

/*
 * One mapping. A private one may show copies: it is not the guest's memory, and
 * no member can make one. VM_SHARED is not set where the file is read-only.
 */
static void kvm_span_found_vma(struct kvm_span_found *found, struct vm_area_struct *vma,
			       unsigned long addr)
{
	struct kvm_span_member *member;

	memset(found, 0, sizeof(*found));
	if (!vma->vm_file || !(vma->vm_flags & VM_MAYSHARE))
		return;
	/*
	 * A window's file holds the member's, thereby the span. By the window and
	 * not by the memory: the memory may have another span meanwhile.
	 */
	member = kvm_span_window_member(vma);
	if (member) {
		found->span = member->span;
		kvm_span_get(found->span);
		kref_get(&member->ref);
		found->member = member;
	} else {
		found->span = kvm_span_get_open(vma->vm_file->f_mapping);
	}
	found->page = vma->vm_pgoff + ((addr - vma->vm_start) >> PAGE_SHIFT);
}

/*
 * All of [addr, addr + bytes) is one piece of one span's memory, or none of it
 * is of any. The mmap_lock is held.
 */
static int kvm_span_find_range(struct mm_struct *mm, unsigned long addr, u64 bytes,
			       struct kvm_span_found *found)
{
	unsigned long start = addr, end = addr + bytes;
	struct kvm_span_found next;
	struct vm_area_struct *vma;
	bool other, hole = false;

	memset(found, 0, sizeof(*found));
	for (vma = find_vma(mm, addr); vma && vma->vm_start < end; vma = find_vma(mm, addr)) {
		hole |= vma->vm_start > addr;
		addr = max(addr, vma->vm_start);
		kvm_span_found_vma(&next, vma, addr);
		if (vma->vm_start <= start) {
			*found = next;
		} else {
			other = next.span != found->span || next.member != found->member ||
				(next.span &&
				 next.page != found->page + ((addr - start) >> PAGE_SHIFT));
			kvm_span_found_put(&next);
			if (other)
				goto err_partly;
		}
		addr = vma->vm_end;
	}
	hole |= addr < end;
	if (found->span && hole)
		goto err_partly;
	return 0;

err_partly:
	kvm_span_found_put(found);
	return -EINVAL;
}

/* May sleep; kvm->slots_lock is held, the order is that of other architectures. */
static int kvm_span_find(struct kvm *kvm, const struct kvm_memory_slot *slot,
			 struct kvm_span_found *found)
{
	int r;

	mmap_read_lock(kvm->mm);
	r = kvm_span_find_range(kvm->mm, slot->userspace_addr,
				(u64)slot->npages << PAGE_SHIFT, found);
	mmap_read_unlock(kvm->mm);
	if (r || !found->span)
		return r;
	/* A mapping of the memfd itself can be longer than the file, bitmaps are not. */
	if (found->page <= kvm_span_pages(found->span) &&
	    slot->npages <= kvm_span_pages(found->span) - found->page)
		return 0;
	kvm_span_found_put(found);
	return -EINVAL;
}

/* The list of VMs. */

/* Returns the entry if it is to be freed. Under vms_lock. */
static struct kvm_span_vm *kvm_span_vm_unlist(struct kvm_span_vm *vm)
{
	if (vm->slots || vm->walks)
		return NULL;
	list_del(&vm->node);
	return vm;
}

static void kvm_span_vm_put_work(struct work_struct *work)
{
	struct kvm_span_vm *vm = container_of(work, struct kvm_span_vm, put);
	struct kvm_span *span = vm->span;
	struct kvm *kvm = vm->kvm;

	spin_lock(&span->vms_lock);
	vm->walks--;
	vm = kvm_span_vm_unlist(vm);
	spin_unlock(&span->vms_lock);
	kfree(vm);
	kvm_put_kvm(kvm);
	kvm_span_put(span);
}

static void kvm_span_vm_request(struct kvm *kvm)
{
	/*
	 * Whoever is told that a page is armed has been out of the guest since,
	 * thus with the page-modification log on: wait for them.
	 */
	if (kvm_x86_ops.cpu_dirty_log_size)
		kvm_make_all_cpus_request(kvm, KVM_REQ_UPDATE_CPU_DIRTY_LOGGING |
					       KVM_REQUEST_WAIT);
}

/* Are the vCPUs to look at the page-modification log? Under vms_lock. */
static bool kvm_span_vm_set_logging(struct kvm_span_vm *vm, bool on)
{
	if (vm->logging == on)
		return false;
	vm->logging = on;
	if (!on)
		return atomic_dec_and_test(&vm->kvm->arch.span.logs);
	/* Also if another span was first: its request may not have been made yet. */
	atomic_inc(&vm->kvm->arch.span.logs);
	return true;
}

/* Under vms_lock. */
static struct kvm_span_vm *kvm_span_vm_find(struct kvm_span *span, struct kvm *kvm)
{
	struct kvm_span_vm *vm;

	list_for_each_entry(vm, &span->vms, node)
		if (vm->kvm == kvm)
			return vm;
	return NULL;
}

/* A slot of the VM is about to show the memory. */
static int kvm_span_vm_add(struct kvm_span *span, struct kvm *kvm)
{
	struct kvm_span_vm *new = kzalloc(sizeof(*new), GFP_KERNEL_ACCOUNT);
	struct kvm_span_vm *vm;
	bool request = false;

	if (!new)
		return -ENOMEM;
	new->kvm = kvm;
	new->span = span;
	INIT_WORK(&new->put, kvm_span_vm_put_work);

	spin_lock(&span->vms_lock);
	vm = kvm_span_vm_find(span, kvm);
	if (!vm) {
		vm = new;
		new = NULL;
		/* At the end: a walk that is under way gets there. */
		list_add_tail(&vm->node, &span->vms);
	}
	if (!vm->slots++)
		request = kvm_span_vm_set_logging(vm, span->logging);
	spin_unlock(&span->vms_lock);
	if (request)
		kvm_span_vm_request(kvm);
	kfree(new);
	return 0;
}

static void kvm_span_vm_del(struct kvm_span *span, struct kvm *kvm)
{
	struct kvm_span_vm *vm;
	bool request = false;

	spin_lock(&span->vms_lock);
	vm = kvm_span_vm_find(span, kvm);
	if (!WARN_ON_ONCE(!vm)) {
		if (!--vm->slots)
			request = kvm_span_vm_set_logging(vm, false);
		vm = kvm_span_vm_unlist(vm);
	}
	spin_unlock(&span->vms_lock);
	/* One that is being destroyed has no vCPUs to ask. */
	if (request && refcount_read(&kvm->users_count))
		kvm_span_vm_request(kvm);
	kfree(vm);
}

/*
 * The VM after this one, or the first, with a reference; gives up the one
 * before. VMs that are being destroyed are passed over: they run no more.
 */
struct kvm_span_vm *kvm_span_vm_next(struct kvm_span *span, struct kvm_span_vm *vm)
{
	struct kvm_span_vm *next, *dead = NULL;
	bool last = false;

	spin_lock(&span->vms_lock);
	next = list_prepare_entry(vm, &span->vms, node);
	list_for_each_entry_continue(next, &span->vms, node) {
		if (next->slots && kvm_get_kvm_safe(next->kvm))
			break;
	}
	if (list_entry_is_head(next, &span->vms, node))
		next = NULL;
	else
		next->walks++;
	if (vm) {
		/*
		 * To end a VM takes many locks, and frees its slots, which needs
		 * ours: let somebody else do it. The walk counts until then.
		 */
		last = !refcount_dec_not_one(&vm->kvm->users_count);
		if (!last) {
			vm->walks--;
			dead = kvm_span_vm_unlist(vm);
		}
	}
	spin_unlock(&span->vms_lock);

	kfree(dead);
	if (last) {
		kvm_span_get(span);
		if (WARN_ON_ONCE(!queue_work(kvm_span_wq, &vm->put)))
			kvm_span_put(span);
	}
	return next;
}

/* Let every VM of the span log writes, or no longer. span->control is held. */
void kvm_span_vms_logging(struct kvm_span *span, bool on)
{
	struct kvm_span_vm *vm;
	bool request;

	lockdep_assert_held(&span->control);
	spin_lock(&span->vms_lock);
	span->logging = on;
	spin_unlock(&span->vms_lock);
	atomic_add(on ? 1 : -1, &kvm_spans_logging);

	kvm_span_for_each_vm(vm, span) {
		spin_lock(&span->vms_lock);
		/* Unless its last slot went just now. */
		request = vm->slots && kvm_span_vm_set_logging(vm, on);
		spin_unlock(&span->vms_lock);
		if (request)
			kvm_span_vm_request(vm->kvm);
	}
}

/* Slots. */

/* For KVM: a slot is being made. slots_lock is held, nobody sees the slot yet. */
int __kvm_span_slot_bind(struct kvm *kvm, struct kvm_memory_slot *slot)
{
	struct kvm_span_found found;
	int r;

	r = kvm_span_find(kvm, slot, &found);
	if (r) {
		trace_kvm_span_refuse("slot", "partly the memory of a span, or more", 0, r);
		return r;
	}
	if (!found.span)
		return 0;
	r = kvm_span_vm_add(found.span, kvm);
	if (r) {
		kvm_span_found_put(&found);
		return r;
	}
	slot->arch.span_page = found.page;
	slot->arch.span_member = found.member;
	slot->arch.span = found.span;
	atomic_inc(&kvm_span_layout);
	trace_kvm_span_bind(found.span->name, found.member ? found.member->id : 0,
			    slot->base_gfn, slot->npages, found.page, true);
	return 0;
}

/* For KVM: the slot is unreachable, and its metadata goes. */
void __kvm_span_slot_unbind(struct kvm *kvm, struct kvm_memory_slot *slot)
{
	struct kvm_span_found found = {
		.span = slot->arch.span,
		.member = slot->arch.span_member,
	};

	trace_kvm_span_bind(found.span->name, found.member ? found.member->id : 0,
			    slot->base_gfn, slot->npages, slot->arch.span_page, false);
	slot->arch.span = NULL;
	slot->arch.span_member = NULL;
	atomic_inc(&kvm_span_layout);
	kvm_span_vm_del(found.span, kvm);
	kvm_span_found_put(&found);
}

/*
 * Slots that are there already. slots_lock keeps the slots as they are; vCPUs
 * look at them meanwhile, so what goes with a span comes before it.
 */
static int kvm_span_bind_present(struct kvm_span *span, struct kvm *kvm,
				 struct kvm_memory_slot *slot)
{
	struct kvm_span_found found;
	int r;

	if (slot->arch.span)
		return slot->arch.span == span || slot->arch.span_member ? 0 : -EBUSY;
	r = kvm_span_find(kvm, slot, &found);
	if (r)
		return r;
	if (found.span != span || found.member) {
		kvm_span_found_put(&found);
		return 0;
	}
	r = kvm_span_vm_add(span, kvm);
	if (r) {
		kvm_span_found_put(&found);
		return r;
	}
	slot->arch.span_page = found.page;
	/* Pairs with kvm_span_of(). The reference is the slot's now. */
	smp_store_release(&slot->arch.span, found.span);
	atomic_inc(&kvm_span_layout);
	trace_kvm_span_bind(span->name, 0, slot->base_gfn, slot->npages, found.page, true);
	return 0;
}

/* At creation of the span: the slots that the guest's own VM has. */
int kvm_span_bind_vm(struct kvm_span *span, struct kvm *kvm)
{
	struct kvm_memory_slot *slot;
	int as_id, bkt, r = 0;

	mutex_lock(&kvm->slots_lock);
	for (as_id = 0; as_id < kvm_arch_nr_memslot_as_ids(kvm) && !r; as_id++) {
		kvm_for_each_memslot(slot, bkt, __kvm_memslots(kvm, as_id)) {
			r = kvm_span_bind_present(span, kvm, slot);
			if (r)
				break;
		}
	}
	mutex_unlock(&kvm->slots_lock);
	return r;
}

/*
 * The span's fd is closed, its watches have ended: the guest's own VM goes on
 * without it. A member's slots stay bound until their QEMU deletes them; they
 * show nothing any more.
 */
void kvm_span_unbind_vm(struct kvm_span *span, struct kvm *kvm)
{
	struct kvm_memory_slot *slot;
	unsigned int n = 0;
	int as_id, bkt;

	mutex_lock(&kvm->slots_lock);
	for (as_id = 0; as_id < kvm_arch_nr_memslot_as_ids(kvm); as_id++) {
		kvm_for_each_memslot(slot, bkt, __kvm_memslots(kvm, as_id)) {
			if (slot->arch.span != span || slot->arch.span_member)
				continue;
			WRITE_ONCE(slot->arch.span, NULL);
			atomic_inc(&kvm_span_layout);
			trace_kvm_span_bind(span->name, 0, slot->base_gfn, slot->npages,
					    slot->arch.span_page, false);
			n++;
		}
	}
	/* vCPUs that still use what they have read. */
	if (n)
		synchronize_srcu_expedited(&kvm->srcu);
	mutex_unlock(&kvm->slots_lock);

	while (n--) {
		kvm_span_vm_del(span, kvm);
		kvm_span_put(span);
	}
}

static void kvm_span_zap_slots(struct kvm_span *span, struct kvm *kvm, u64 first, u64 last)
{
	struct kvm_memory_slot *slot;
	int as_id, bkt, idx;
	gfn_t start, end;

	idx = srcu_read_lock(&kvm->srcu);
	for (as_id = 0; as_id < kvm_arch_nr_memslot_as_ids(kvm); as_id++) {
		kvm_for_each_memslot(slot, bkt, __kvm_memslots(kvm, as_id))
			if (kvm_span_slot_part(slot, span, first, last, &start, &end))
				kvm_zap_gfn_range(kvm, start, end);
	}
	srcu_read_unlock(&kvm->srcu, idx);
}

/*
 * The masks have changed before. An entry that was made before is taken out
 * here, and one that is made later, mmu_lock taken after ours, sees the masks.
 */
void kvm_span_zap(struct kvm_span *span, u64 first, u64 pages)
{
	struct kvm_span_vm *vm;

	/*
	 * Masks first, then the slots: a slot that we do not see is put to use
	 * after this, and its faults see the masks.
	 */
	smp_mb();
	kvm_span_for_each_vm(vm, span)
		kvm_span_zap_slots(span, vm->kvm, first, first + pages - 1);
	atomic64_add(pages, &span->pages_zapped);
	trace_kvm_span_zap(span->name, first, pages);
}
