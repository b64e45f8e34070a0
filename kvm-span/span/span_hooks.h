/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the patched places of KVM call. A VM that never joined a span costs a
 * few loads and branches in each of them.
 */
#ifndef KVM_SPAN_HOOKS_H
#define KVM_SPAN_HOOKS_H

#include <linux/kvm_host.h>

#ifdef CONFIG_KVM_SPAN

int kvm_span_init(void);
void kvm_span_exit(void);

bool __kvm_span_fenced(struct kvm *kvm, unsigned long hva);
kvm_pfn_t kvm_span_gfn_to_pfn(struct kvm *kvm, gfn_t gfn);
int kvm_span_pause(struct kvm_vcpu *vcpu);

/* Is this address inside a window that was taken away from the VM? */
static inline bool kvm_span_fenced(struct kvm *kvm, struct kvm_memory_slot *slot,
				   gfn_t gfn)
{
	if (likely(!atomic_read(&kvm->arch.span.fenced)))
		return false;
	return __kvm_span_fenced(kvm, __gfn_to_hva_memslot(slot, gfn));
}

#else /* !CONFIG_KVM_SPAN */

static inline int kvm_span_init(void) { return 0; }
static inline void kvm_span_exit(void) { }

static inline bool kvm_span_fenced(struct kvm *kvm, struct kvm_memory_slot *slot,
				   gfn_t gfn)
{
	return false;
}

static inline kvm_pfn_t kvm_span_gfn_to_pfn(struct kvm *kvm, gfn_t gfn)
{
	return gfn_to_pfn(kvm, gfn);
}

static inline int kvm_span_pause(struct kvm_vcpu *vcpu) { return 0; }

#endif /* CONFIG_KVM_SPAN */
#endif
