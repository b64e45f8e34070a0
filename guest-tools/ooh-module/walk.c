// SPDX-License-Identifier: GPL-2.0
/* Page tables of a Tracked: which frames are in them. mmap_lock is held for reading. */
#include <linux/irqflags.h>
#include <linux/pgtable.h>
#include <linux/rcupdate.h>

#include "ooh.h"

/*
 * All but the rings themselves, which each fetch writes, and what the process
 * can never write: pages of the kernel and of devices (vvar).
 */
bool ooh_vma_tracked(struct ooh_space *space, struct vm_area_struct *vma)
{
	if (vma->vm_ops && vma->vm_ops == space->own_ops)
		return false;
	return !(vma->vm_flags & (VM_IO | VM_PFNMAP)) || (vma->vm_flags & (VM_WRITE | VM_MAYWRITE));
}

/* Frames come into such a mapping without a call of what is probed. */
bool ooh_vma_unseen(struct vm_area_struct *vma)
{
	return vma->vm_flags & (VM_HUGETLB | VM_IO | VM_PFNMAP | VM_MIXEDMAP) || vma_is_dax(vma);
}

static pud_t *pud_of(struct mm_struct *mm, unsigned long addr)
{
	pgd_t *pgd = pgd_offset(mm, addr);
	p4d_t *p4d;

	if (pgd_none(*pgd) || pgd_bad(*pgd))
		return NULL;
	p4d = p4d_offset(pgd, addr);
	if (p4d_none(*p4d) || p4d_bad(*p4d))
		return NULL;
	return pud_offset(p4d, addr);
}

/* The first address from addr on whose page table is there, or end. */
unsigned long ooh_next_present(struct mm_struct *mm, unsigned long addr, unsigned long end)
{
	while (addr < end) {
		unsigned long flags, next;
		pud_t *pud;

		/* Interrupts are off as for GUP-fast: a page table shared by hugetlb may be let go. */
		local_irq_save(flags);
		pud = pud_of(mm, addr);
		if (!pud) {
			next = pgtable_l5_enabled() ? p4d_addr_end(addr, end) : pgd_addr_end(addr, end);
		} else {
			pud_t value = READ_ONCE(*pud);

			next = pud_addr_end(addr, end);
			if (pud_present(value) &&
			    (pud_leaf(value) || !pmd_none(pmdp_get_lockless(pmd_offset(&value, addr)))))
				next = addr;
			else if (pud_present(value))
				next = pmd_addr_end(addr, end);
		}
		local_irq_restore(flags);
		if (next == addr)
			return addr;
		addr = next;
	}
	return end;
}

/* The bits of pages from addr to end, which are in one group. */
static u64 pages_of(unsigned long addr, unsigned long end)
{
	unsigned int first = (addr >> PAGE_SHIFT) % OOH_GROUP_PAGES;

	return GENMASK_ULL(first + ((end - addr) >> PAGE_SHIFT) - 1, first);
}

/* What one entry of a large mapping says of the pages from addr to end. */
static void put_leaf(struct ooh_look *look, unsigned long pfn, unsigned long addr, unsigned long end)
{
	unsigned int slot = (addr >> PAGE_SHIFT) % OOH_GROUP_PAGES;

	for (; addr < end; addr += PAGE_SIZE)
		look->pfn[slot++] = pfn++;
}

/* hugetlb: no lock, an entry that is just being changed is looked at next time. */
static void look_hugetlb(struct mm_struct *mm, unsigned long addr, unsigned long end, struct ooh_look *look)
{
	unsigned long flags;
	pud_t *pudp, pud;
	pmd_t pmd;

	local_irq_save(flags);
	pudp = pud_of(mm, addr);
	pud = pudp ? READ_ONCE(*pudp) : __pud(0);
	if (!pud_present(pud))
		goto out;
	if (pud_leaf(pud)) {
		put_leaf(look, pud_pfn(pud) + ((addr & ~PUD_MASK) >> PAGE_SHIFT), addr, end);
		goto out;
	}
	pmd = pmdp_get_lockless(pmd_offset(&pud, addr));
	if (pmd_present(pmd) && pmd_leaf(pmd))
		put_leaf(look, pmd_pfn(pmd) + ((addr & ~PMD_MASK) >> PAGE_SHIFT), addr, end);
out:
	local_irq_restore(flags);
}

static void look_ptes(struct vm_area_struct *vma, u64 log, pmd_t *pmd, unsigned long addr,
		      unsigned long end, struct ooh_look *look)
{
	unsigned int slot = (addr >> PAGE_SHIFT) % OOH_GROUP_PAGES;
	pte_t *pte = pte_offset_kernel(pmd, addr);

	for (; addr < end; addr += PAGE_SIZE, pte++, slot++) {
		pte_t value;

		if (!(look->pages & BIT_ULL(slot)))
			continue;
		value = ptep_get(pte);
		if (!pte_present(value) && !pte_none(value))
			look->swapped |= BIT_ULL(slot);
		if (!pte_present(value) || is_zero_pfn(pte_pfn(value)))
			continue;
		look->pfn[slot] = pte_pfn(value);
		if (!(log & BIT_ULL(slot)) || !ooh_log_watches(vma, value))
			continue;
		look->logged |= BIT_ULL(slot);
		if (ooh_log_clean(pte))
			look->dirty |= BIT_ULL(slot);
	}
}

/*
 * With the lock of the page table: that is what orders a look and the marks of
 * probes. It also hides an entry that is taken out only to be put back changed.
 */
static void look_pmd(struct ooh_space *space, struct vm_area_struct *vma, u64 log, unsigned long addr,
		     unsigned long end, struct ooh_look *look)
{
	struct mm_struct *mm = vma->vm_mm;
	pud_t *pud = pud_of(mm, addr);
	pmd_t *pmdp, pmd;
	spinlock_t *ptl;

	if (!pud || !pud_present(*pud))
		return;
	if (pud_leaf(*pud)) {
		ptl = pud_lock(mm, pud);
		if (pud_present(*pud) && pud_leaf(*pud))
			put_leaf(look, pud_pfn(*pud) + ((addr & ~PUD_MASK) >> PAGE_SHIFT), addr, end);
		spin_unlock(ptl);
		return;
	}
	pmdp = pmd_offset(pud, addr);
	/* A page table that khugepaged takes away is there as long as this. */
	rcu_read_lock();
again:
	pmd = pmdp_get_lockless(pmdp);
	if (pmd_none(pmd)) {
		/* A large page that is just coming, and has left its mark, comes under this lock. */
		ptl = pmd_lock(mm, pmdp);
		pmd = pmdp_get_lockless(pmdp);
		spin_unlock(ptl);
		if (pmd_none(pmd))
			goto out;
		goto again;
	}
	/* What is no table, also if it is not present right now: only its lock says what it will be. */
	ptl = pmd_leaf(pmd) || !pmd_present(pmd) ? pmd_lockptr(mm, pmdp) : pte_lockptr(mm, &pmd);
	spin_lock(ptl);
	if (!pmd_same(pmd, pmdp_get_lockless(pmdp))) {
		spin_unlock(ptl);
		goto again;
	}
	if (pmd_present(pmd)) {
		if (pmd_leaf(pmd))
			put_leaf(look, pmd_pfn(pmd) + ((addr & ~PMD_MASK) >> PAGE_SHIFT), addr, end);
		else if (!pmd_bad(pmd))
			look_ptes(vma, log, &pmd, addr, end, look);
	} else {
		look->swapped |= pages_of(addr, end);
	}
	/* While nobody can unmap such a page: a CPU that has it dirty would write on to what was given away as clean. */
	if (look->dirty)
		ooh_log_flush(space);
	spin_unlock(ptl);
out:
	rcu_read_unlock();
}

/* Of what is in tables, only at those pages of the group. */
void ooh_look(struct ooh_space *space, unsigned long index, u64 pages, struct ooh_look *look)
{
	unsigned long base = index << OOH_GROUP_SHIFT, limit = base + OOH_GROUP_SIZE;
	u64 log = space->log ? ~ooh_space_foreign(space, index) : 0;
	struct mm_struct *mm = space->mm;
	struct vm_area_struct *vma;
	VMA_ITERATOR(vmi, mm, base);

	memset(look, 0, sizeof(*look));
	look->pages = pages;
	for_each_vma_range(vmi, vma, limit) {
		unsigned long addr = max(base, vma->vm_start), end = min(limit, vma->vm_end);

		if (!ooh_vma_tracked(space, vma))
			continue;
		look->tracked |= pages_of(addr, end);
		/* Of a file (or shared memory) it is there as well when no page table says so. */
		if (!vma_is_anonymous(vma))
			look->hidden |= pages_of(addr, end);
		if (vma->vm_flags & VM_HUGETLB)
			look_hugetlb(mm, addr, end, look);
		else
			look_pmd(space, vma, ooh_vma_unseen(vma) ? 0 : log, addr, end, look);
	}
	look->hidden |= look->swapped;
}
