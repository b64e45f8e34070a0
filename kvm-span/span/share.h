/* SPDX-License-Identifier: GPL-2.0 */
/*
 * KVM Span: what the pages that a member's L1 shares with us (share.c) and our end
 * of the byte stream in them (channel.c) have in common.
 */
#ifndef KVM_SPAN_SHARE_H
#define KVM_SPAN_SHARE_H

#include <linux/irq_work.h>
#include <linux/kref.h>
#include <linux/mutex.h>
#include <linux/rwsem.h>
#include <linux/span_stream.h>
#include <linux/wait.h>

#include "span.h"

struct kvm_span_bell;

#define KVM_SPAN_BELLS	2	/* on as many buses */

/*
 * One member's. Referenced by the member, by its doorbell's devices (which go
 * with the VM, later than the member perhaps) and by the file of our end of the
 * stream.
 */
struct kvm_span_share_state {
	struct kref ref;
	struct mm_struct *mm;		/* constant, mmgrab(): who may map it */
	void *pages;			/* constant, vmalloc_user() */
	struct eventfd_ctx *event;	/* constant, may be NULL */
	struct irq_work signal;

	/*
	 * Held for read while the L1's ringing is answered, for write when
	 * member is cleared: by revoke and leave, which then know that nobody is
	 * at it any more.
	 */
	struct rw_semaphore gate;
	struct kvm_span_member *member;	/* NULL: over */

	/* Under the member VM's slots_lock. */
	struct kvm_span_bell *bell[KVM_SPAN_BELLS];

	/* The stream. */
	spinlock_t lock;		/* end and open */
	struct span_stream_end end;
	bool open;
	bool over;			/* set once, with the member's end */
	u32 number;			/* of the last open */
	wait_queue_head_t wait;
	struct mutex read_lock;		/* one copies out of the pages */
	struct mutex write_lock;	/* one copies in */
	u64 bytes_in;			/* read_lock */
	u64 bytes_out;			/* write_lock */

	atomic64_t doorbells;
	atomic64_t signals;
};

/*
 * share.c. ring: the L1 looks at the pages; any context but the signal of an
 * eventfd. follow: do what the pages ask for. may: 0, or why the member may share
 * nothing (any more).
 */
struct kvm_span_share_state *kvm_span_share_of(struct kvm_span_member *member);
int kvm_span_share_may(struct kvm_span_member *member);
void kvm_span_share_ring(struct kvm_span_share_state *share);
void kvm_span_share_follow(struct kvm_span_share_state *share);
void kvm_span_share_put(struct kvm_span_share_state *share);

#endif
