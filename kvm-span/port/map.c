// SPDX-License-Identifier: GPL-2.0
/*
 * span_port: mappings of the window in processes of the L1.
 *
 * The window has struct pages (main.c), so its PTEs and PMDs are of the
 * "devmap" kind: get_user_pages() works on them, an L1's KVM takes them for
 * memory and not for MMIO, and a 2 MiB PMD becomes a 2 MiB entry in its EPT.
 */
#include <linux/mm.h>
#include <linux/pagemap.h>
#include <linux/pfn_t.h>
#include <linux/sched.h>

#include "port.h"

/* Caller holds port->sem for reading. */
static bool may_map(const struct span_file *sf, const struct vm_area_struct *vma)
{
	if (!span_file_live(sf))
		return false;
	return !(vma->vm_flags & VM_WRITE) || !span_readonly(&sf->port->now);
}

static vm_fault_t fault_pte(struct span_port *port, struct vm_fault *vmf)
{
	u64 offset = (u64)vmf->pgoff << PAGE_SHIFT;
	vm_fault_t ret;

	if (offset >= port->now.bytes)
		return VM_FAULT_SIGBUS;
	ret = vmf_insert_mixed(vmf->vma, vmf->address & PAGE_MASK,
			       phys_to_pfn_t(port->window_phys + offset,
					     PFN_DEV | PFN_MAP));
	if (ret == VM_FAULT_NOPAGE)
		atomic64_inc(&port->faults_pte);
	return ret;
}

static vm_fault_t fault_pmd(struct span_port *port, struct vm_fault *vmf)
{
	struct vm_area_struct *vma = vmf->vma;
	unsigned long start = vmf->address & PMD_MASK;
	u64 offset;
	vm_fault_t ret;

	if (start < vma->vm_start || start + PMD_SIZE > vma->vm_end)
		return VM_FAULT_FALLBACK;
	offset = (u64)linear_page_index(vma, start) << PAGE_SHIFT;
	/* The BAR is aligned to its size, so offsets decide. */
	if (!IS_ALIGNED(offset, PMD_SIZE) || offset + PMD_SIZE > port->now.bytes)
		return VM_FAULT_FALLBACK;
	ret = vmf_insert_pfn_pmd(vmf, phys_to_pfn_t(port->window_phys + offset,
						    PFN_DEV | PFN_MAP),
				 vmf->flags & FAULT_FLAG_WRITE);
	if (ret == VM_FAULT_NOPAGE)
		atomic64_inc(&port->faults_pmd);
	return ret;
}

static vm_fault_t span_port_huge_fault(struct vm_fault *vmf, unsigned int order)
{
	struct span_file *sf = vmf->vma->vm_file->private_data;
	struct span_port *port = sf->port;
	vm_fault_t ret = VM_FAULT_SIGBUS;

	down_read(&port->sem);
	if (!may_map(sf, vmf->vma))
		goto unlock;
	if (order == 0)
		ret = fault_pte(port, vmf);
	else if (order == PMD_ORDER)
		ret = fault_pmd(port, vmf);
	else
		ret = VM_FAULT_FALLBACK;
unlock:
	up_read(&port->sem);
	return ret;
}

static vm_fault_t span_port_fault(struct vm_fault *vmf)
{
	return span_port_huge_fault(vmf, 0);
}

static const struct vm_operations_struct span_port_vm_ops = {
	.fault = span_port_fault,
	.huge_fault = span_port_huge_fault,
};

/* Caller holds port->sem for reading. */
static int check_mmap(struct span_file *sf, struct vm_area_struct *vma)
{
	struct span_port *port = sf->port;
	u64 pages = port->now.bytes >> PAGE_SHIFT;

	if (!span_file_live(sf))
		return -ENODEV;
	/* A private copy would look like the guest's memory and not be it. */
	if (!(vma->vm_flags & VM_MAYSHARE))
		return -EINVAL;
	if (vma->vm_flags & VM_EXEC)
		return -EACCES;
	if ((vma->vm_flags & VM_WRITE) && span_readonly(&port->now))
		return -EACCES;
	if (vma->vm_pgoff >= pages || vma_pages(vma) > pages - vma->vm_pgoff)
		return -EINVAL;
	return 0;
}

int span_port_mmap(struct file *file, struct vm_area_struct *vma)
{
	struct span_file *sf = file->private_data;
	int ret;

	down_read(&sf->port->sem);
	ret = check_mmap(sf, vma);
	/* mprotect() shall not give later what is refused now */
	if (!ret)
		vm_flags_clear(vma, VM_MAYEXEC |
			       (span_readonly(&sf->port->now) ? VM_MAYWRITE : 0));
	up_read(&sf->port->sem);
	if (ret)
		return ret;

	/*
	 * MIXEDMAP: zapping must not look for page-cache or rmap state, which
	 * these pages do not have, and yet GUP is allowed. HUGEPAGE: PMDs also
	 * where transparent huge pages are "madvise".
	 */
	vm_flags_set(vma, VM_MIXEDMAP | VM_HUGEPAGE | VM_DONTEXPAND | VM_DONTDUMP);
	vma->vm_ops = &span_port_vm_ops;
	return 0;
}
