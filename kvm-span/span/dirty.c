// SPDX-License-Identifier: GPL-2.0
/* Entries that must let no write pass unheard: for logs of any kind. */
#include "x86.h"
#include "mmu.h"
#include "mmu/mmu_internal.h"
#include "mmu/spte.h"
#include "mmu/tdp_mmu.h"
#include "dirty.h"

/*
 * Entries of 2 MiB: in pieces where it is cheap. What is left of them is not
 * writable; the fault that comes makes small ones.
 */
void kvm_dirty_small(struct kvm *kvm, struct kvm_memory_slot *slot, gfn_t start, gfn_t end)
{
	gfn_t at;

	if (tdp_mmu_enabled && READ_ONCE(eager_page_split))
		kvm_tdp_mmu_try_split_huge_pages(kvm, slot, start, end, PG_LEVEL_4K, false);
	for (at = start; at < end; at = gfn_round_for_level(at, PG_LEVEL_2M) +
					KVM_PAGES_PER_HPAGE(PG_LEVEL_2M))
		kvm_mmu_slot_gfn_write_protect(kvm, slot, at, PG_LEVEL_2M);
}

/* D goes with W: an entry that is dropped later would tell of a write once more. */
void kvm_dirty_clear(struct kvm *kvm, struct kvm_memory_slot *slot, gfn_t gfn,
		     unsigned long mask)
{
	if (!tdp_mmu_enabled)
		return;
	if (!kvm_x86_ops.cpu_dirty_log_size)
		kvm_tdp_mmu_clear_dirty_pt_masked(kvm, slot, gfn, mask, true);
	kvm_tdp_mmu_clear_dirty_pt_masked(kvm, slot, gfn, mask, false);
}
