/* SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note */
/*
 * Out of Hypervisor: which of its frames were written, for the guest itself
 * (after "Out of Hypervisor", SC'22). Interface between KVM and a guest's
 * kernel, and of KVM to the process that runs the guest.
 *
 * The guest names frames (guest-physical pages) and arms them. A frame that is
 * armed is reported once when it is written, by whomever: a vCPU in any mode,
 * KVM on its behalf, the devices that the VM's process emulates. A frame that
 * was reported is not armed any more until it is armed again. Frames that were
 * not armed cost nothing.
 *
 * The guest has the interface if CPUID says so: bit KVM_FEATURE_OOH in EAX of
 * KVM's leaf KVM_CPUID_FEATURES. It
 *
 *   1. gives a ring: MSR_KVM_OOH_RING, and if it wants to be told of reports
 *      that wait, MSR_KVM_OOH_INT;
 *   2. arms: KVM_OOH_ARM. When that returns, a later write is reported;
 *   3. fetches: KVM_OOH_FETCH moves what was written so far into the ring, and
 *      with KVM_OOH_REARM arms exactly these frames again before it returns.
 *      Every write that was done before the call (on any vCPU) is in it or was
 *      in one before. Contents are to be read after the fetch, not before.
 *
 * What was written and not fetched yet is kept by the host, however much it is:
 * a full ring loses nothing. When the host itself does not know any more (the
 * VM was restored elsewhere), the ring says KVM_OOH_ALL_DIRTY.
 */
#ifndef _UAPI_LINUX_KVM_OOH_H
#define _UAPI_LINUX_KVM_OOH_H

#include <linux/ioctl.h>
#include <linux/types.h>

/* Bits of KVM_CPUID_FEATURES (0x40000001), EAX. */
#define KVM_FEATURE_OOH		22
#define KVM_FEATURE_OOH_EPML	23

/*
 * Where the ring is; of the VM, not of the vCPU. Reads give what was written.
 *
 *   0       enable; a value without it must be 0: no frame is armed, nothing waits
 *   4:1     order: the entries fill 2^order pages, 0 to KVM_OOH_MAX_ORDER
 *   11:5    zero
 *   63:12   address of the page with struct kvm_ooh_ring; the pages of the
 *           entries follow it
 *
 * A write by the guest begins anew: the host fills the header in, no frame is
 * armed. #GP if reserved bits are set, or the pages are not all RAM. A write by
 * the VM's process (restored state) leaves the ring as it is and is followed by
 * KVM_OOH_ALL_DIRTY in the next fetch.
 */
#define MSR_KVM_OOH_RING	0x4b564de0
#define KVM_OOH_RING_ENABLE		(1ULL << 0)
#define KVM_OOH_RING_ORDER_SHIFT	1
#define KVM_OOH_RING_ORDER_MASK		(0xfULL << KVM_OOH_RING_ORDER_SHIFT)
#define KVM_OOH_MAX_ORDER		10

/*
 * An interrupt when frames wait to be fetched; of the VM. Given once when so many
 * wait, and again not before the next fetch. What vCPUs wrote counts from their
 * next VM exit on, which comes with the host's clock tick at the latest.
 *
 *   7:0     vector, 32 to 255, fixed and edge triggered; 0: no interrupts
 *   11:8    zero
 *   31:12   how many frames; 0 is as good as 1
 *   63:32   APIC ID of the vCPU that gets it
 *
 * #GP if reserved bits are set or the vector is 1 to 31. An interrupt comes also
 * with KVM_OOH_ALL_DIRTY. An APIC ID that no vCPU has gets none.
 */
#define MSR_KVM_OOH_INT		0x4b564de1
#define KVM_OOH_INT_VECTOR_MASK		0xffULL
#define KVM_OOH_INT_FRAMES_SHIFT	12
#define KVM_OOH_INT_FRAMES_MASK		(0xfffffULL << KVM_OOH_INT_FRAMES_SHIFT)
#define KVM_OOH_INT_APIC_SHIFT		32

#define KVM_OOH_RING_VERSION	1

/*
 * One page. Index i names the entry i & (size - 1). head and tail run freely; the
 * host puts entries only in KVM_OOH_FETCH, as long as head - tail < size. The
 * guest moves tail when it has read what is before it.
 */
struct kvm_ooh_ring {
	__u32 version;		/* host: KVM_OOH_RING_VERSION */
	__u32 size;		/* host: entries, a power of two */
	__u32 head;		/* host: next to be written */
	__u32 tail;		/* guest: next to be read */
	__u32 flags;		/* host sets, guest clears, both atomically */
	__u32 generation;	/* host: another one with each KVM_OOH_ALL_DIRTY */
	__u32 info;		/* host: KVM_OOH_INFO_*, may change in a fetch */
	__u32 pad;
	__u64 reserved[508];
};

/*
 * No frame that was armed before is armed any more, except by calls after the
 * generation changed: every frame has to be taken for written, and armed again.
 */
#define KVM_OOH_ALL_DIRTY	(1u << 0)

/*
 * Devices may write to RAM without the host hearing of it (assigned ones, vhost):
 * pages that are pinned for DMA have to be taken for written.
 */
#define KVM_OOH_INFO_UNSEEN_WRITERS (1u << 0)

/* An entry: frames one after the other, their number less one in bits 63:52. */
#define KVM_OOH_ENTRY_PAGES_SHIFT 52
#define KVM_OOH_ENTRY_MAX_PAGES	4096
#define KVM_OOH_ENTRY_GFN(e)	((e) & ((1ULL << KVM_OOH_ENTRY_PAGES_SHIFT) - 1))
#define KVM_OOH_ENTRY_PAGES(e)	(((e) >> KVM_OOH_ENTRY_PAGES_SHIFT) + 1)

/*
 * The hypercall, at CPL 0: a0 is what, a1 to a3 depend on it; those that are not
 * named are 0. Results below 0 are errors: -KVM_ENOSYS without the feature,
 * -KVM_EPERM, -KVM_EINVAL (an argument; or a ring whose head and tail are further
 * apart than its size), -KVM_EFAULT (a1 or the ring is not RAM), -KVM_E2BIG (a2),
 * -KVM_OOH_ENXIO (no ring), -KVM_OOH_ENOMEM (of the host).
 */
#define KVM_HC_OOH		0x4f4f48

#define KVM_OOH_ENXIO		6
#define KVM_OOH_ENOMEM		12

/*
 * a1: address of struct kvm_ooh_range[a2], 8-byte aligned. Returns how many ranges
 * were done; call again with the rest. Less than a2 if there was much to do, or
 * if the next one is wrong, which the call for it then says. Each frame has to be
 * RAM. Frames that wait to be fetched stay so if they are armed; disarmed, they
 * are forgotten.
 */
#define KVM_OOH_ARM		0
#define KVM_OOH_DISARM		1
/* a3: flags. Returns how many frames still wait, because the ring is full. */
#define KVM_OOH_FETCH		2
/* Returns 0. */
#define KVM_OOH_DISARM_ALL	3
/* a1: address of struct kvm_ooh_stats. Returns 0. */
#define KVM_OOH_STATS		4

#define KVM_OOH_REARM		(1u << 0)	/* of FETCH */

#define KVM_OOH_MAX_RANGES	1024		/* of one call */
#define KVM_OOH_MAX_PAGES	65536		/* of one range, at least 1 */

struct kvm_ooh_range {
	__u64 gfn;
	__u64 pages;
};

/* Since the VM began; only grows. */
struct kvm_ooh_stats {
	__u64 arms;		/* frames armed by ARM */
	__u64 rearms;		/* frames armed by FETCH */
	__u64 fetches;		/* calls */
	__u64 fetched;		/* frames put into the ring */
	__u64 by_pml;		/* frames that the processor's log reported, */
	__u64 by_fault;		/* a write fault or KVM itself, */
	__u64 by_user;		/* the VM's process */
	__u64 pml_full;		/* VM exits because a vCPU's log was full */
	__u64 interrupts;	/* given */
	__u64 all_dirty;	/* how often KVM_OOH_ALL_DIRTY was set */
	__u64 reserved[6];
};

/*
 * For the VM's process. KVM_CHECK_EXTENSION of KVM_CAP_OOH: a bit for each feature,
 * 0 where there are none.
 */
#define KVM_CAP_OOH		0x4f4f48
#define KVM_OOH_CAP_SPML	(1 << 0)
#define KVM_OOH_CAP_EPML	(1 << 1)

/* The process wrote to the guest's RAM itself; after the write. flags: 0. */
struct kvm_ooh_wrote {
	__u64 gpa;
	__u64 size;		/* in bytes */
	__u64 flags;
};

/* info: what the ring's header is to say from now on, KVM_OOH_INFO_*. pad: 0. */
struct kvm_ooh_info {
	__u32 info;
	__u32 pad;
};

#define KVM_OOH_WROTE		_IOW(0xAE, 0xf0, struct kvm_ooh_wrote)
#define KVM_OOH_SET_INFO	_IOW(0xAE, 0xf1, struct kvm_ooh_info)

#endif
