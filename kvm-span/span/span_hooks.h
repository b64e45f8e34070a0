/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the patched places of KVM call. A VM that never joined a span costs one
 * load and a branch in each of them.
 */
#ifndef KVM_SPAN_HOOKS_H
#define KVM_SPAN_HOOKS_H

#include <linux/kvm_host.h>

#ifdef CONFIG_KVM_SPAN

int kvm_span_init(void);
void kvm_span_exit(void);

bool __kvm_span_window(struct kvm *kvm, unsigned long hva, bool *fenced);
int kvm_span_pause(struct kvm_vcpu *vcpu);

/* Is this address inside a window that was taken away from the VM? */
static inline bool kvm_span_fenced(struct kvm *kvm, struct kvm_memory_slot *slot,
				   gfn_t gfn)
{
	bool fenced;

	if (likely(!atomic_read(&kvm->arch.span.fenced)))
		return false;
	return __kvm_span_window(kvm, __gfn_to_hva_memslot(slot, gfn), &fenced) &&
	       fenced;
}

/* Is this address inside a window, fenced or not? */
static inline bool kvm_span_window(struct kvm *kvm, gfn_t gfn)
{
	bool fenced;

	if (likely(!atomic_read(&kvm->arch.span.joined)))
		return false;
	return __kvm_span_window(kvm, gfn_to_hva(kvm, gfn), &fenced);
}

#else /* !CONFIG_KVM_SPAN */

static inline int kvm_span_init(void) { return 0; }
static inline void kvm_span_exit(void) { }

static inline bool kvm_span_fenced(struct kvm *kvm, struct kvm_memory_slot *slot,
				   gfn_t gfn)
{
	return false;
}

static inline bool kvm_span_window(struct kvm *kvm, gfn_t gfn)
{
	return false;
}

static inline int kvm_span_pause(struct kvm_vcpu *vcpu) { return 0; }

#endif /* CONFIG_KVM_SPAN */
#endif
