/* SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note */
/*
 * KVM Span: one guest's memory under several hypervisors (L0 interface).
 *
 * The words are those of "Multi-hypervisor Virtual Machines" (USENIX ATC
 * 2017, sections 3 and 4): L0 is the base hypervisor, an L1 is a VM on L0 that
 * is itself a hypervisor, the Span guest is the VM that both control, and a
 * guest controller is the user process of one hypervisor for that guest.
 *
 * /dev/kvm-span exists when kvm.ko was loaded with span=1. Three kinds of
 * file descriptor:
 *
 *   /dev/kvm-span   KVM_SPAN_GET_INFO, KVM_SPAN_CREATE
 *   span fd         held by the guest's controller on L0: the right to let
 *                   others in and to throw them out. KVM_SPAN_GRANT,
 *                   KVM_SPAN_REVOKE, KVM_SPAN_GET_STATS, KVM_SPAN_GET_MEMBER,
 *                   poll(), read() of struct kvm_span_event.
 *   member fd       the capability that KVM_SPAN_GRANT makes. The controller
 *                   hands it to the QEMU process of an L1 (SCM_RIGHTS); that
 *                   process uses it up with KVM_SPAN_JOIN and then maps the
 *                   guest's memory with mmap(). There is no other way in:
 *                   the memfd itself is never handed over, and nothing can be
 *                   joined by naming an id.
 *
 * Every structure begins with its own size. The kernel accepts a longer one
 * if what it does not know is zero (E2BIG otherwise) and a shorter one down to
 * the first version's size (EINVAL below it). Unknown flag bits and non-zero
 * padding are EINVAL.
 */
#ifndef _UAPI_LINUX_KVM_SPAN_H
#define _UAPI_LINUX_KVM_SPAN_H

#include <linux/ioctl.h>
#include <linux/types.h>

#define KVM_SPAN_API_VERSION	1
#define KVM_SPAN_NAME_LEN	32	/* with the closing NUL */
#define KVM_SPAN_MAX_MEMBERS	16	/* live members of one span */

/* What a member may do with the guest's memory. W implies R. */
#define KVM_SPAN_ACCESS_R	(1u << 0)
#define KVM_SPAN_ACCESS_W	(1u << 1)

#define KVM_SPAN_FEATURE_MEMORY	(1ull << 0)	/* grant, join, mmap, revoke */

/* KVM_SPAN_GET_INFO: what this kernel offers. */
struct kvm_span_info {
	__u32 size;
	__u32 flags;		/* in: 0 */
	__u32 api_version;	/* out */
	__u32 max_members;	/* out */
	__u64 features;		/* out: KVM_SPAN_FEATURE_* */
	__u64 max_bytes;	/* out: largest guest memory */
};

/*
 * KVM_SPAN_CREATE: make a span over one guest's memory; returns a span fd.
 *
 * memfd is the guest's RAM: a shmem memfd (not hugetlb), a multiple of the
 * page size, sealed against shrinking, growing and further sealing. vm_fd is
 * the guest's own VM on L0; it can never become a member.
 */
struct kvm_span_create {
	__u32 size;
	__u32 flags;		/* 0 */
	__s32 memfd;
	__s32 vm_fd;
	__u8 name[KVM_SPAN_NAME_LEN];	/* the guest's, for traces and fdinfo */
};

/*
 * KVM_SPAN_GRANT: make the capability to join; returns a member fd (O_CLOEXEC).
 * Nothing of the guest is reachable through it before KVM_SPAN_JOIN.
 */
struct kvm_span_grant {
	__u32 size;
	__u32 flags;		/* 0 */
	__u32 access;		/* KVM_SPAN_ACCESS_* */
	__u32 member;		/* out: id within this span, never used again */
	__u8 name[KVM_SPAN_NAME_LEN];	/* the L1's, unique among live members */
};

/*
 * KVM_SPAN_REVOKE: fence a member. When this returns 0, no vCPU, no process
 * and no TLB of that member reaches the guest's memory, whatever the member's
 * processes do; they need not cooperate. Idempotent for a member that was
 * revoked or has left; ENOENT for an id that was never granted.
 *
 * The exception: pages that the member's own process on L0 pinned before, by
 * vmsplice, process_vm_readv/writev, O_DIRECT, MSG_ZEROCOPY, io_uring fixed
 * buffers, AF_XDP, RDMA or VFIO, stay reachable for what pinned them until it
 * lets go. The L1, a VM, cannot pin by itself. Against a QEMU process that was
 * taken over, a system-call filter that denies it these is part of the
 * guarantee.
 */
struct kvm_span_revoke {
	__u32 size;
	__u32 flags;		/* 0 */
	__u32 member;
	__u32 pad;		/* 0 */
};

/* Where a member stands. It only ever moves downwards in this list. */
enum kvm_span_state {
	KVM_SPAN_GRANTED = 1,	/* not joined yet */
	KVM_SPAN_JOINED = 2,	/* may map the memory */
	KVM_SPAN_REVOKED = 3,	/* fenced by the controller or by its end */
	KVM_SPAN_LEFT = 4,	/* the last reference to the member fd is gone */
};

/* KVM_SPAN_GET_MEMBER, on a span fd (any member) or a member fd (itself). */
struct kvm_span_member_info {
	__u32 size;
	__u32 flags;		/* in: 0 */
	__u32 member;		/* in on a span fd, out on a member fd */
	__u32 state;		/* out: enum kvm_span_state */
	__u32 access;		/* out: KVM_SPAN_ACCESS_* */
	__s32 pid;		/* out: process that joined, 0 before */
	__u64 bytes;		/* out: size of the guest's memory */
	__u64 mapped_bytes;	/* out: address space mapped by mmap() now */
	__u64 faults;		/* out: page faults served */
	__u64 refused;		/* out: faults and calls refused */
	__u8 name[KVM_SPAN_NAME_LEN];	/* out */
};

/*
 * KVM_SPAN_JOIN, on a member fd, once: bind the capability to a VM of the
 * calling process. EBUSY when it was used before, by whomever; EACCES when it
 * was revoked; EBADF/EINVAL when vm_fd is no KVM VM; EPERM when the VM belongs
 * to another address space; EEXIST when the VM is already a member of this
 * span, or is the Span guest itself.
 *
 * After it, mmap(MAP_SHARED) of the member fd maps guest memory at the same
 * offsets as in the memfd, in that process only. PROT_WRITE needs
 * KVM_SPAN_ACCESS_W; PROT_EXEC is refused.
 */
struct kvm_span_join {
	__u32 size;
	__u32 flags;		/* 0 */
	__s32 vm_fd;
	__u32 pad;		/* 0 */
};

/* KVM_SPAN_GET_STATS, on a span fd. */
struct kvm_span_stats {
	__u32 size;
	__u32 flags;		/* in: 0 */
	__u32 granted;		/* live members by state */
	__u32 joined;
	__u64 bytes;		/* size of the guest's memory */
	__u64 present_pages;	/* host pages (4 KiB) that it occupies now */
	__u64 grants;		/* how often, since creation: */
	__u64 joins;
	__u64 revokes;
	__u64 leaves;
	__u64 faults;
	__u64 refused;
};

/*
 * read() on a span fd returns whole events, EAGAIN when there is none and the
 * fd is non-blocking. At most one event per member and type is pending.
 */
enum kvm_span_event_type {
	KVM_SPAN_EVENT_JOINED = 1,
	KVM_SPAN_EVENT_LEFT = 2,	/* its process closed it or died */
};

struct kvm_span_event {
	__u32 type;
	__u32 member;
};

/*
 * A magic of its own: 0xAE, KVM's, is nearly full and series in flight claim
 * what is left. The size in the number is that of version 1; the kernel looks
 * at the magic and the number only, the size member says the rest.
 */
#define KVM_SPAN_IO		0xBE
#define KVM_SPAN_GET_INFO	_IOWR(KVM_SPAN_IO, 0x00, struct kvm_span_info)
#define KVM_SPAN_CREATE		_IOW(KVM_SPAN_IO, 0x01, struct kvm_span_create)
#define KVM_SPAN_GRANT		_IOWR(KVM_SPAN_IO, 0x02, struct kvm_span_grant)
#define KVM_SPAN_REVOKE		_IOW(KVM_SPAN_IO, 0x03, struct kvm_span_revoke)
#define KVM_SPAN_GET_MEMBER	_IOWR(KVM_SPAN_IO, 0x04, struct kvm_span_member_info)
#define KVM_SPAN_JOIN		_IOW(KVM_SPAN_IO, 0x05, struct kvm_span_join)
#define KVM_SPAN_GET_STATS	_IOWR(KVM_SPAN_IO, 0x06, struct kvm_span_stats)

#endif /* _UAPI_LINUX_KVM_SPAN_H */
