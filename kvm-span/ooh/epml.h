/* SPDX-License-Identifier: GPL-2.0 */
/*
 * EPML: what the patched places of KVM call. docs/epml.rst describes the
 * extension, epml.c uses it (kvm-intel.ko), epml_common.c is the part of kvm.ko.
 */
#ifndef _KVM_EPML_H
#define _KVM_EPML_H

#include <linux/jump_label.h>
#include <linux/kvm_types.h>
#include <linux/types.h>

#include <uapi/linux/kvm_epml.h>
#include <uapi/linux/kvm_ooh.h>

struct kvm_vcpu;
struct msr_data;

/* Exit reason, VM-entry control and fields of the VMCS: docs/epml.rst. */
#define EXIT_REASON_EPML	96
#define VM_ENTRY_EPML		0x80000000
#define GUEST_EPML_CTL		0x00002840
#define GUEST_EPML_BASE		0x00002842
#define GUEST_EPML_INDEX	0x00002844

/* In struct vcpu_vmx. vCPU thread only, or who has loaded the vCPU. */
struct vcpu_epml {
	bool on;	/* the guest has the registers */
	bool stale;	/* vmcs01 lacks what is here: set while L2 ran */
	/* As in vmcs01; only while another VMCS is loaded. */
	u64 ctl;
	u64 base;
	u64 index;
};

#ifdef CONFIG_KVM_OOH

DECLARE_STATIC_KEY_FALSE(kvm_epml_any);
extern bool kvm_epml_supported;

int kvm_epml_map(struct kvm_vcpu *vcpu, gpa_t gpa);
void kvm_epml_raise(struct kvm_vcpu *vcpu, u8 vector);
void __kvm_epml_dirtied(struct kvm_vcpu *vcpu);

/*
 * KVM itself, on behalf of an instruction that it emulates, sets the dirty bit
 * of a guest's entry: not seen by the processor.
 */
static inline void kvm_epml_dirtied(struct kvm_vcpu *vcpu, bool user)
{
	if (static_branch_unlikely(&kvm_epml_any) && user)
		__kvm_epml_dirtied(vcpu);
}

static inline bool kvm_epml_is_msr(u32 msr)
{
	return msr >= MSR_EPML_CTL && msr <= MSR_EPML_INDEX;
}

void epml_hardware_setup(void);
void epml_after_set_cpuid(struct kvm_vcpu *vcpu);
void epml_reset(struct kvm_vcpu *vcpu);
void epml_vcpu_free(struct kvm_vcpu *vcpu);
int epml_get_msr(struct kvm_vcpu *vcpu, struct msr_data *msr);
int epml_set_msr(struct kvm_vcpu *vcpu, struct msr_data *msr);
int epml_handle_exit(struct kvm_vcpu *vcpu);
void epml_lost(struct kvm_vcpu *vcpu);
void __epml_switch_from(struct kvm_vcpu *vcpu);
void __epml_switch_to(struct kvm_vcpu *vcpu);

/* Another VMCS than the one that is loaded is about to be loaded; is loaded. */
static inline void epml_switch_from(struct kvm_vcpu *vcpu)
{
	if (static_branch_unlikely(&kvm_epml_any))
		__epml_switch_from(vcpu);
}

static inline void epml_switch_to(struct kvm_vcpu *vcpu)
{
	if (static_branch_unlikely(&kvm_epml_any))
		__epml_switch_to(vcpu);
}

#else

#define kvm_epml_supported false

static inline void kvm_epml_dirtied(struct kvm_vcpu *vcpu, bool user) { }
static inline bool kvm_epml_is_msr(u32 msr) { return false; }
static inline void epml_hardware_setup(void) { }
static inline void epml_after_set_cpuid(struct kvm_vcpu *vcpu) { }
static inline void epml_reset(struct kvm_vcpu *vcpu) { }
static inline void epml_vcpu_free(struct kvm_vcpu *vcpu) { }
static inline int epml_get_msr(struct kvm_vcpu *vcpu, struct msr_data *msr) { return 1; }
static inline int epml_set_msr(struct kvm_vcpu *vcpu, struct msr_data *msr) { return 1; }
static inline void epml_switch_from(struct kvm_vcpu *vcpu) { }
static inline void epml_switch_to(struct kvm_vcpu *vcpu) { }
static inline int epml_handle_exit(struct kvm_vcpu *vcpu) { return -EIO; }
static inline void epml_lost(struct kvm_vcpu *vcpu) { }

#endif

#endif
