/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the patched places of KVM call for guests that log their own writes. As
 * long as no VM does, each is a no-op instruction.
 */
#ifndef KVM_OOH_HOOKS_H
#define KVM_OOH_HOOKS_H

#include <linux/jump_label_ratelimit.h>
#include <linux/kvm_host.h>
#include <uapi/linux/kvm_ooh.h>

struct kvm_page_fault;

#ifdef CONFIG_KVM_OOH

/* On while some VM has, or had, OoH on. */
extern struct static_key_false_deferred kvm_ooh_any;

void kvm_ooh_exit(void);
u32 kvm_ooh_features(void);
int kvm_ooh_set_msr(struct kvm_vcpu *vcpu, struct msr_data *msr);
int kvm_ooh_get_msr(struct kvm_vcpu *vcpu, struct msr_data *msr);
unsigned long kvm_ooh_hypercall(struct kvm_vcpu *vcpu, u64 op, u64 a1, u64 a2, u64 a3);
int kvm_ooh_vm_ioctl(struct kvm *kvm, unsigned int ioctl, void __user *argp);

void __kvm_ooh_pre_destroy_vm(struct kvm *kvm);
void __kvm_ooh_destroy_vm(struct kvm *kvm);
void __kvm_ooh_run(struct kvm_vcpu *vcpu);
void __kvm_ooh_wrote(struct kvm *kvm, gfn_t gfn);
int __kvm_ooh_max_level(struct kvm *kvm, gfn_t gfn, int max_level);
void __kvm_ooh_fault(struct kvm_vcpu *vcpu, struct kvm_page_fault *fault);
u64 __kvm_ooh_spte(struct kvm_vcpu *vcpu, gfn_t gfn, int level, u64 spte);
void __kvm_ooh_slot_gone(struct kvm *kvm, const struct kvm_memory_slot *slot);
void kvm_ooh_pml(struct kvm_vcpu *vcpu, const u64 *gpas, unsigned int n, bool full);

/* mmu.c: mmu_lock is held for write; the caller flushes TLBs */
void kvm_ooh_rmap_protect(const struct kvm_memory_slot *slot, gfn_t gfn);

static inline bool kvm_ooh_used(void)
{
	return static_branch_unlikely(&kvm_ooh_any.key);
}

/* Does the VM have frames that may be armed? */
static inline bool kvm_ooh_has(struct kvm *kvm)
{
	return kvm_ooh_used() && READ_ONCE(kvm->arch.ooh.state);
}

static inline void kvm_ooh_pre_destroy_vm(struct kvm *kvm)
{
	if (kvm_ooh_used())
		__kvm_ooh_pre_destroy_vm(kvm);
}

static inline void kvm_ooh_destroy_vm(struct kvm *kvm)
{
	if (kvm_ooh_used())
		__kvm_ooh_destroy_vm(kvm);
}

/* The vCPU is about to run. */
static inline void kvm_ooh_run(struct kvm_vcpu *vcpu)
{
	if (kvm_ooh_used())
		__kvm_ooh_run(vcpu);
}

/* A frame was written: by KVM itself, by a fault that is let go on, or PML says so. */
static inline void kvm_ooh_wrote(struct kvm *kvm, gfn_t gfn)
{
	if (kvm_ooh_used())
		__kvm_ooh_wrote(kvm, gfn);
}

/* How large may an entry be? */
static inline int kvm_ooh_max_level(struct kvm *kvm, gfn_t gfn, int max_level)
{
	return kvm_ooh_used() ? __kvm_ooh_max_level(kvm, gfn, max_level) : max_level;
}

/* A fault is about to be mapped, mmu_lock is held. */
static inline void kvm_ooh_fault(struct kvm_vcpu *vcpu, struct kvm_page_fault *fault)
{
	if (kvm_ooh_used())
		__kvm_ooh_fault(vcpu, fault);
}

/* What is left of an entry, so that the next write to an armed frame is heard of. */
static inline u64 kvm_ooh_spte(struct kvm_vcpu *vcpu, gfn_t gfn, int level, u64 spte)
{
	return kvm_ooh_used() ? __kvm_ooh_spte(vcpu, gfn, level, spte) : spte;
}

/* What was in the slot's place is not there any more. */
static inline void kvm_ooh_slot_gone(struct kvm *kvm, const struct kvm_memory_slot *slot)
{
	if (kvm_ooh_used())
		__kvm_ooh_slot_gone(kvm, slot);
}

#else /* !CONFIG_KVM_OOH */

static inline void kvm_ooh_exit(void) { }
static inline u32 kvm_ooh_features(void) { return 0; }

static inline int kvm_ooh_set_msr(struct kvm_vcpu *vcpu, struct msr_data *msr)
{
	return 1;
}

static inline int kvm_ooh_get_msr(struct kvm_vcpu *vcpu, struct msr_data *msr)
{
	return 1;
}

static inline unsigned long kvm_ooh_hypercall(struct kvm_vcpu *vcpu, u64 op, u64 a1, u64 a2,
					      u64 a3)
{
	return -KVM_ENOSYS;
}

static inline int kvm_ooh_vm_ioctl(struct kvm *kvm, unsigned int ioctl, void __user *argp)
{
	return -ENOTTY;
}

static inline bool kvm_ooh_has(struct kvm *kvm) { return false; }
static inline void kvm_ooh_pre_destroy_vm(struct kvm *kvm) { }
static inline void kvm_ooh_destroy_vm(struct kvm *kvm) { }
static inline void kvm_ooh_run(struct kvm_vcpu *vcpu) { }
static inline void kvm_ooh_wrote(struct kvm *kvm, gfn_t gfn) { }

static inline int kvm_ooh_max_level(struct kvm *kvm, gfn_t gfn, int max_level)
{
	return max_level;
}

static inline void kvm_ooh_fault(struct kvm_vcpu *vcpu, struct kvm_page_fault *fault) { }

static inline u64 kvm_ooh_spte(struct kvm_vcpu *vcpu, gfn_t gfn, int level, u64 spte)
{
	return spte;
}

static inline void kvm_ooh_slot_gone(struct kvm *kvm, const struct kvm_memory_slot *slot) { }
static inline void kvm_ooh_pml(struct kvm_vcpu *vcpu, const u64 *gpas, unsigned int n,
			       bool full) { }

#endif /* CONFIG_KVM_OOH */
#endif
