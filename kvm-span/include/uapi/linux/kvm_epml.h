/* SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note */
/*
 * EPML: the processor itself writes the addresses of the user pages that a
 * guest dirties into a buffer of the guest. A proposed extension of VMX, which
 * the emulated machine of tests/machine has; docs/epml.rst is its specification.
 *
 * A guest has it if CPUID says so: bit KVM_FEATURE_OOH_EPML in EAX of KVM's leaf
 * KVM_CPUID_FEATURES (kvm_ooh.h). The registers are of each vCPU and are read
 * and written without VM exits.
 */
#ifndef _UAPI_LINUX_KVM_EPML_H
#define _UAPI_LINUX_KVM_EPML_H

#define MSR_EPML_CTL		0xc0001e40
#define EPML_CTL_ENABLE			(1ULL << 0)
/* Log when the dirty bit of EPT gets set; without it, the guest's own. */
#define EPML_CTL_EPT_MODE		(1ULL << 1)
/* Fixed interrupt, 32 to 255; 0: none. */
#define EPML_CTL_VECTOR_SHIFT		8
#define EPML_CTL_VECTOR_MASK		(0xffULL << EPML_CTL_VECTOR_SHIFT)
/* It is raised when so many entries are in the buffer, 1 to 512; 0: never. */
#define EPML_CTL_THRESHOLD_SHIFT	16
#define EPML_CTL_THRESHOLD_MASK		(0x3ffULL << EPML_CTL_THRESHOLD_SHIFT)
/* It was raised for this filling of the buffer; a write of INDEX clears it. */
#define EPML_CTL_SIGNALLED		(1ULL << 61)
/*
 * While one of these is set nothing is logged, dirty bits are set all the same:
 * the guest has to look at them. The vector is raised when they get set, the
 * guest writes them as 0 again.
 */
#define EPML_CTL_FAULT			(1ULL << 62)	/* the buffer is no RAM */
#define EPML_CTL_FULL			(1ULL << 63)	/* the buffer was full */
#define EPML_CTL_VALID	(EPML_CTL_ENABLE | EPML_CTL_EPT_MODE |		\
			 EPML_CTL_VECTOR_MASK | EPML_CTL_THRESHOLD_MASK |	\
			 EPML_CTL_SIGNALLED | EPML_CTL_FAULT | EPML_CTL_FULL)

/* Guest-physical address of the buffer: one page of 512 addresses of pages. */
#define MSR_EPML_BASE		0xc0001e41
#define EPML_ENTRIES			512

/*
 * Where the next entry goes, 511 down to 0; EPML_INDEX_FULL after that. #GP on
 * other values. Takes effect at once.
 */
#define MSR_EPML_INDEX		0xc0001e42
#define EPML_INDEX_START		(EPML_ENTRIES - 1)
#define EPML_INDEX_FULL			0xffff

/* For the host only: what the processor can. Read only. */
#define MSR_EPML_CAP		0xc0001e43
#define EPML_CAP_MAGIC			0x4c4d5045U	/* "EPML", bits 63:32 */
#define EPML_CAP_REVISION_MASK		0xffULL
#define EPML_CAP_REVISION		1
#define EPML_CAP_PAGING_MODE		(1ULL << 8)
#define EPML_CAP_EPT_MODE		(1ULL << 9)

#endif
