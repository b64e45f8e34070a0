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
 *                   KVM_SPAN_WRITTEN, poll(), read() of struct kvm_span_event.
 *   member fd       the capability that KVM_SPAN_GRANT makes. The controller
 *                   hands it to the QEMU process of an L1 (SCM_RIGHTS); that
 *                   process uses it up with KVM_SPAN_JOIN and then maps the
 *                   guest's memory with mmap(). There is no other way in:
 *                   the memfd itself is never handed over, and nothing can be
 *                   joined by naming an id. Watches (events, protection,
 *                   logs) are made on it as far as it was granted the rights.
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
#define KVM_SPAN_ACCESS_X	(1u << 2)	/* watches only, never granted */

#define KVM_SPAN_FEATURE_MEMORY	(1ull << 0)	/* grant, join, mmap, revoke */
#define KVM_SPAN_FEATURE_WATCH	(1ull << 1)	/* watches: events and protection */
#define KVM_SPAN_FEATURE_LOG	(1ull << 2)	/* watches: logs of written pages */
#define KVM_SPAN_FEATURE_PML	(1ull << 3)	/* ... by PML for guests of L0 */
#define KVM_SPAN_FEATURE_NESTED_PML (1ull << 4)	/* ... by D bits for nested guests */
#define KVM_SPAN_FEATURE_CHANNEL (1ull << 5)	/* a byte stream to each member's L1 */
#define KVM_SPAN_FEATURE_VCPU	(1ull << 6)	/* vCPUs of the guest on members */
#define KVM_SPAN_FEATURE_SALVAGE (1ull << 7)	/* and taken back by force */

/* What a member may do with watches. */
#define KVM_SPAN_RIGHT_NOTIFY	(1u << 0)	/* be told of accesses */
#define KVM_SPAN_RIGHT_BLOCK	(1u << 1)	/* and let them wait for an answer */
#define KVM_SPAN_RIGHT_DENY	(1u << 2)	/* answer "no"; protect */
#define KVM_SPAN_RIGHT_LOG	(1u << 3)	/* ask which pages were written */

/* What else a member may do. */
#define KVM_SPAN_RIGHT_VCPU	(1u << 4)	/* own vCPUs of the guest; has a channel */

#define KVM_SPAN_MAX_WATCHES	8	/* of one member */
#define KVM_SPAN_DEADLINE_MIN	1000u		/* microseconds */
#define KVM_SPAN_DEADLINE_DEFAULT 100000u
#define KVM_SPAN_DEADLINE_MAX	5000000u

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
	__u32 rights;		/* KVM_SPAN_RIGHT_*; 0 if the caller's is shorter */
	__u32 max_deadline_us;	/* of its watches; 0: KVM_SPAN_DEADLINE_DEFAULT */
};

/*
 * Flag of KVM_SPAN_GRANT: a member without a VM, for a service on L0. access
 * is 0; it neither joins nor maps, but has watches.
 */
#define KVM_SPAN_GRANT_WATCHER	(1u << 0)

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
	/* Second version. */
	__s64 tsc_offset;	/* out: TSC of its VM minus TSC of the host */
	__u64 vcpus;		/* out: bit n: it owns vCPU n of the guest */
	__u64 irqs_to_l1;	/* out: interrupts posted to its L1 */
	__u64 irqs_to_l0;	/* out: interrupts its L1 posted */
	__u32 tsc_flags;	/* out: KVM_SPAN_TSC_* */
	__u32 pad;
};

#define KVM_SPAN_TSC_VALID	(1u << 0)	/* one offset for all its vCPUs, no scaling */

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
	/* Second version. EPT faults of VMs on pages of this guest: */
	__u64 ept_guest;	/* of the guest run by L0 (EPT_Guest) */
	__u64 ept_shadow;	/* of the guest run by an L1 (Shadow EPT) */
	__u64 ept_l1;		/* of an L1's own access (EPT_L1) */
	__u64 ept_masked;	/* of those three: stopped by a watch */
	__u64 remaps;		/* a Virtual EPT led to another page than L0's */
	__u64 events;		/* given to watches, each watch counts */
	__u64 notices;
	__u64 timeouts;		/* answers that did not come in time */
	__u64 denials;		/* accesses that were denied */
	__u64 lifted;		/* allowed by opening the page for a moment */
	__u64 logged;		/* pages put into logs, each log counts */
	__u64 pages_zapped;	/* 4 KiB pages taken out of EPTs for watches */
	__u32 watches;
	__u32 pending;		/* accesses that wait now */
};

/*
 * A watch is one party's interest in the guest's memory: what it subscribes
 * to, what it protects, its log. Each keeps its own values; what a page allows
 * is the least of all. Made and used on a member fd (member joined, or a
 * watcher); at most KVM_SPAN_MAX_WATCHES. Ends with KVM_SPAN_WATCH_DESTROY,
 * with the member, or when the member is revoked; its masks are gone with it
 * and those of all others stay.
 *
 * (Span paper, section 4.4, "memory event subscription"; the log is ours.)
 */
#define KVM_SPAN_ALLOW		1
#define KVM_SPAN_DENY		2

struct kvm_span_watch_create {
	__u32 size;
	__u32 flags;		/* 0 */
	__u32 deadline_us;	/* an access waits that long; 0: the default */
	__u32 on_timeout;	/* KVM_SPAN_ALLOW or, with the right, _DENY */
	__u32 watch;		/* out: id, 1 to KVM_SPAN_MAX_WATCHES, reused */
	__u32 pad;		/* 0 */
};

struct kvm_span_watch_destroy {
	__u32 size;
	__u32 flags;		/* 0 */
	__u32 watch;
	__u32 pad;		/* 0 */
};

/*
 * KVM_SPAN_SUBSCRIBE: from now on tell this watch of accesses of these kinds
 * to these pages, by the guest on L0, by the guest on any L1 and by other L1s
 * through their windows. An L1's own access through its window is not told to
 * its own watches. When it returns, no TLB lets such an access pass untold.
 *
 * MODE_BLOCK: the access waits until every watch that was told has answered,
 * or its deadline is over. MODE_NOTIFY: it goes on; the page leaves the
 * subscription (subscribe again to hear of it again). MODE_LOG (access W
 * only): the page is put into the watch's log, see KVM_SPAN_LOG_FETCH; all
 * pages of the range are in it at first.
 *
 * A page that may not be read cannot be mapped at all, so R stands for any
 * access: R|W|X.
 *
 * KVM_SPAN_UNSUBSCRIBE (mode 0): the kinds of access leave the subscription,
 * whatever their mode; W also ends the log of these pages.
 *
 * KVM_SPAN_PROTECT: the access that this watch allows on these pages, for
 * everybody, the L1 itself included; access is what stays allowed (R, W, X in
 * any combination in which W and X come with R), mode is 0. What it does not
 * allow is denied at once and told to the watch (SPAN_EVENT_F_VIOLATION).
 */
#define KVM_SPAN_MODE_BLOCK	1
#define KVM_SPAN_MODE_NOTIFY	2
#define KVM_SPAN_MODE_LOG	3

struct kvm_span_range {
	__u32 size;
	__u32 flags;		/* 0 */
	__u32 watch;
	__u32 access;		/* KVM_SPAN_ACCESS_* */
	__u32 mode;
	__u32 pad;		/* 0 */
	__u64 first;		/* page of the guest's memory file */
	__u64 pages;		/* at least 1 */
};

/*
 * KVM_SPAN_ANSWER: answer to one event. ENOENT when the access does not wait
 * (any more), or was not told to this watch.
 */
#define KVM_SPAN_ANSWER_CANCEL	(1u << 0)	/* the page leaves the subscription */

struct kvm_span_answer {
	__u32 size;
	__u32 flags;		/* KVM_SPAN_ANSWER_* */
	__u64 event;
	__u32 watch;
	__u32 verdict;		/* KVM_SPAN_ALLOW, KVM_SPAN_DENY */
};

/*
 * KVM_SPAN_RING, on a member fd, once: the ring of events and answers. mmap()
 * of the member fd at KVM_SPAN_RING_OFFSET with KVM_SPAN_RING_BYTES (MAP_SHARED,
 * by the process that made it) shows it: two rings of the span-port's format
 * (<linux/span_port.h>, struct span_ring): answers (the user produces) at 0,
 * events (the kernel produces) at KVM_SPAN_RING_BYTES / 2. Messages are
 * SPAN_MSG_EVENT, SPAN_MSG_LOST, SPAN_MSG_ANSWER, little-endian; generation is
 * 0. event_fd is signalled when a message was put; a signal on doorbell_fd
 * tells the kernel to look for answers. Either may be -1. Without a ring,
 * events of a watch are not delivered: its accesses go by on_timeout at once.
 */
#define KVM_SPAN_RING_OFFSET	(1ull << 42)
#define KVM_SPAN_RING_BYTES	32768

struct kvm_span_ring {
	__u32 size;
	__u32 flags;		/* 0 */
	__s32 event_fd;
	__s32 doorbell_fd;
};

/*
 * KVM_SPAN_LOG_FETCH: which pages of [first, first + pages) were written since
 * they were last fetched (or subscribed), and start anew for those. Returns as
 * many ranges as fit and how far it got; a page is cleared only if it was
 * returned. What is written while the call runs is in this answer or the next.
 * The log has a bit for each page: it cannot overflow.
 */
struct kvm_span_log_range {
	__u64 first;
	__u64 pages;
};

struct kvm_span_log_fetch {
	__u32 size;
	__u32 flags;		/* 0 */
	__u32 watch;
	__u32 max;		/* in: ranges that fit, 1 to 65536 */
	__u64 ranges;		/* in: address of struct kvm_span_log_range[max] */
	__u64 first;		/* in */
	__u64 pages;		/* in */
	__u64 next;		/* out: go on from here; first + pages at the end */
	__u64 dirty;		/* out: pages in the ranges returned */
	__u32 count;		/* out: ranges returned */
	__u32 pad;		/* 0 */
};

/* KVM_SPAN_GET_WATCH, on a member fd. */
struct kvm_span_watch_info {
	__u32 size;
	__u32 flags;		/* in: 0 */
	__u32 watch;		/* in */
	__u32 deadline_us;
	__u32 on_timeout;
	__u32 muted;		/* out: 1 after too many timeouts in a row */
	__u64 pages_subscribed;	/* out: pages with a subscription (not logs) */
	__u64 pages_protected;
	__u64 pages_logged;	/* out: pages under the log */
	__u64 events;		/* out, since creation: waited for an answer */
	__u64 notices;
	__u64 violations;
	__u64 allowed;		/* answers */
	__u64 denied;
	__u64 timeouts;
	__u64 stale;		/* answers that came too late or named nothing */
	__u64 lost;		/* messages that found the ring full */
	__u64 logged;		/* pages put into the log */
	__u64 fetched;		/* pages fetched from it */
};

/*
 * KVM_SPAN_WRITTEN, on a span fd: the controller wrote these pages itself
 * (device emulation, DMA). Such writes pass no EPT: they never wait and are
 * never denied, but logs get them, and watches that subscribed to W a notice
 * (SPAN_EVENT_F_AFTER).
 */
struct kvm_span_written {
	__u32 size;
	__u32 flags;		/* 0 */
	__u64 first;
	__u64 pages;
};

/*
 * KVM_SPAN_SHARE, on a member fd that joined and has KVM_SPAN_RIGHT_VCPU, once:
 * the pages that its L1 shares with us. mmap() of the member fd at
 * KVM_SPAN_SHARE_OFFSET with SPAN_SHARE_BYTES (MAP_SHARED, by the process that
 * made it) shows them; their layout is told in <linux/span_port.h>. event_fd is
 * signalled when something was put in for the L1.
 *
 * KVM_SPAN_DOORBELL, on the same fd: a 4-byte write by the member's VM to gpa,
 * in any of its vCPUs, tells the kernel to look into the pages. The write is
 * consumed by the kernel. One doorbell per member; flags 0 sets or moves it,
 * KVM_SPAN_DOORBELL_REMOVE takes it away.
 */
#define KVM_SPAN_SHARE_OFFSET	(1ull << 43)

struct kvm_span_share {
	__u32 size;
	__u32 flags;		/* 0 */
	__s32 event_fd;
	__u32 pad;		/* 0 */
};

#define KVM_SPAN_DOORBELL_REMOVE (1u << 0)

struct kvm_span_doorbell {
	__u32 size;
	__u32 flags;		/* KVM_SPAN_DOORBELL_* */
	__u64 gpa;		/* 4-byte aligned */
};

/*
 * KVM_SPAN_CHANNEL, on a span fd: our end of the byte stream to a member's L1;
 * returns a file descriptor (O_CLOEXEC) for read(), write() and poll(), at most
 * one per member at a time (EBUSY). What is written comes out of the L1's
 * channel descriptor (<linux/span_port.h>), and the other way round. Nothing is
 * lost or repeated as long as both ends are open; each open of either end
 * starts a new stream and ends the old one. EOF and EPIPE when the other end
 * was closed, started anew, or the member was revoked; indices in the shared
 * pages that cannot be are EPROTO, for good.
 */
struct kvm_span_channel {
	__u32 size;
	__u32 flags;		/* 0 */
	__u32 member;
	__u32 pad;		/* 0 */
};

/*
 * Ownership of vCPUs. Each vCPU of the guest has one owner. An interrupt for a
 * vCPU that is not here is posted to its owner in the kernel.
 *
 * KVM_SPAN_SET_VCPU, on a span fd. vcpu is the KVM vCPU id (the APIC id on x86,
 * below SPAN_MAX_VCPUS), owner a member id, 0 for this host, or
 * KVM_SPAN_VCPU_NOBODY: from then on what comes for it is kept for its next
 * owner. Ownership changes only from an owner to nobody and from nobody to an
 * owner (EBUSY otherwise; the same again is 0). KVM_RUN of a vCPU of the guest's
 * VM that is not owned by this host gives EBUSY. When the call to take a vCPU
 * away from this host returns, the vCPU is not in KVM_RUN (EAGAIN if it does
 * not leave within 100 ms). A revoked member's vCPUs are nobody's.
 *
 * KVM_SPAN_RELAY, on /dev/kvm-span of an L1: joins the VM that controls the
 * guest there to the port; port_fd is a /dev/spanN with a channel. Returns a relay
 * fd: on it, KVM_SPAN_SET_VCPU with owner 0 (runs here) or
 * KVM_SPAN_VCPU_ELSEWHERE. At first all are elsewhere, also those made later.
 * Closing it makes all vCPUs local again.
 */
#define KVM_SPAN_VCPU_NOBODY	0xffffffffu
#define KVM_SPAN_VCPU_ELSEWHERE	0xfffffffeu

struct kvm_span_vcpu {
	__u32 size;
	__u32 flags;		/* on a span fd: KVM_SPAN_VCPU_*; else 0 */
	__u32 vcpu;
	__u32 owner;
};

/*
 * Flag of KVM_SPAN_SET_VCPU with a member: the vCPU may have to be taken back
 * by KVM_SPAN_SALVAGE. From now on its state is copied whenever it exits to the
 * L1, until it has another owner.
 */
#define KVM_SPAN_VCPU_SALVAGE	(1u << 0)

/*
 * KVM_SPAN_SALVAGE, on a span fd, by the guest's own process: take vCPUs from a
 * member that does not give them. What the L1 does meanwhile does not matter.
 * When it returns 0, the member is revoked as by KVM_SPAN_REVOKE; vcpus are
 * those whose state is in the guest's own VM now, as the guest left off, for
 * KVM_SPAN_SET_VCPU to bring them home; and result says for each that was
 * wanted what became of it. On an error nothing has changed.
 */
struct kvm_span_salvage {
	__u32 size;
	__u32 flags;		/* 0 */
	__u32 member;
	__u32 pad;		/* 0 */
	__u64 vcpus;		/* in: bit n: vCPU n; out */
	__u8 result[64];	/* out: KVM_SPAN_SALVAGE_*, 0 if not wanted */
};

#define KVM_SPAN_SALVAGE_RUNNING	1	/* salvaged: it was in guest mode */
#define KVM_SPAN_SALVAGE_EXITED		2	/* salvaged: as of its last exit */
/* Not salvaged: */
#define KVM_SPAN_SALVAGE_NOT_OWNED	3	/* the member did not have it */
#define KVM_SPAN_SALVAGE_NOT_ARMED	4	/* without KVM_SPAN_VCPU_SALVAGE */
#define KVM_SPAN_SALVAGE_NOT_HELD	5	/* vCPUs of the L1 did not stop */
#define KVM_SPAN_SALVAGE_UNKNOWN	6	/* it never ran there, or in no known way */
#define KVM_SPAN_SALVAGE_AT_WORK	7	/* its exit cannot be taken once more */
#define KVM_SPAN_SALVAGE_UNREADABLE	8	/* its local APIC is not to be read */
#define KVM_SPAN_SALVAGE_REFUSED	9	/* not a state that the guest's VM takes */

struct kvm_span_relay {
	__u32 size;
	__u32 flags;		/* 0 */
	__s32 vm_fd;
	__s32 port_fd;
};

/*
 * read() on a span fd returns whole events, EAGAIN when there is none and the
 * fd is non-blocking. At most one event per member and type is pending.
 */
enum kvm_span_event_type {
	KVM_SPAN_EVENT_JOINED = 1,
	KVM_SPAN_EVENT_LEFT = 2,	/* its process closed it or died */
	/* A watch of it does not answer: its accesses go by its on_timeout at once. */
	KVM_SPAN_EVENT_MUTED = 3,
	KVM_SPAN_EVENT_REMAP = 4,	/* its Virtual EPT led to a wrong page (once) */
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
#define KVM_SPAN_WATCH_CREATE	_IOWR(KVM_SPAN_IO, 0x07, struct kvm_span_watch_create)
#define KVM_SPAN_WATCH_DESTROY	_IOW(KVM_SPAN_IO, 0x08, struct kvm_span_watch_destroy)
#define KVM_SPAN_SUBSCRIBE	_IOW(KVM_SPAN_IO, 0x09, struct kvm_span_range)
#define KVM_SPAN_UNSUBSCRIBE	_IOW(KVM_SPAN_IO, 0x0a, struct kvm_span_range)
#define KVM_SPAN_PROTECT	_IOW(KVM_SPAN_IO, 0x0b, struct kvm_span_range)
#define KVM_SPAN_ANSWER		_IOW(KVM_SPAN_IO, 0x0c, struct kvm_span_answer)
#define KVM_SPAN_RING		_IOW(KVM_SPAN_IO, 0x0d, struct kvm_span_ring)
#define KVM_SPAN_LOG_FETCH	_IOWR(KVM_SPAN_IO, 0x0e, struct kvm_span_log_fetch)
#define KVM_SPAN_GET_WATCH	_IOWR(KVM_SPAN_IO, 0x0f, struct kvm_span_watch_info)
#define KVM_SPAN_WRITTEN	_IOW(KVM_SPAN_IO, 0x10, struct kvm_span_written)
#define KVM_SPAN_SHARE		_IOW(KVM_SPAN_IO, 0x11, struct kvm_span_share)
#define KVM_SPAN_DOORBELL	_IOW(KVM_SPAN_IO, 0x12, struct kvm_span_doorbell)
#define KVM_SPAN_CHANNEL	_IOW(KVM_SPAN_IO, 0x13, struct kvm_span_channel)
#define KVM_SPAN_SET_VCPU	_IOW(KVM_SPAN_IO, 0x14, struct kvm_span_vcpu)
#define KVM_SPAN_RELAY		_IOW(KVM_SPAN_IO, 0x15, struct kvm_span_relay)
#define KVM_SPAN_SALVAGE	_IOWR(KVM_SPAN_IO, 0x16, struct kvm_span_salvage)

#endif /* _UAPI_LINUX_KVM_SPAN_H */
