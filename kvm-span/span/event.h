/* SPDX-License-Identifier: GPL-2.0 */
/*
 * KVM Span: accesses that a watch wants to hear of, on their way through
 *
 * fault.c     the fault, or what KVM itself is about to do
 * event.c     whom to ask, and what comes of the answers
 * entry.c     the table of accesses that wait or have been answered
 * emulated.c  writes that the emulator does or discards
 * lift.c      pages that are open for a moment
 * notice.c    what watches are told
 */
#ifndef KVM_SPAN_EVENT_H
#define KVM_SPAN_EVENT_H

#include <linux/hrtimer.h>
#include <linux/irq_work.h>
#include <linux/workqueue.h>

#include "watch.h"

/* An answer that nobody came back for is forgotten after this. */
#define KVM_SPAN_ANSWER_NS	(2 * KVM_SPAN_DEADLINE_MAX * NSEC_PER_USEC)

enum kvm_span_entry_state {
	KVM_SPAN_WAITING,	/* some watch has not answered */
	KVM_SPAN_DECIDED,	/* the vCPU has not come back yet */
	KVM_SPAN_EMULATED,	/* being emulated; kept for the case that it fails */
	KVM_SPAN_LIFTED,	/* the page is open, to be closed at "until" */
	KVM_SPAN_CLOSING,	/* ... just now */
};

/* An access. All of it under events->lock but what is constant. */
struct kvm_span_entry {
	struct list_head node;		/* in events->entries */
	struct hlist_node id_node;	/* in events->by_id */
	struct hlist_node vcpu_node;	/* in vcpu->span.entries, vcpu->span.lock too */
	struct kvm_span *span;		/* constant; frees us before it goes */
	struct kvm_vcpu *vcpu;		/* NULL when it is in no vCPU's list */
	const struct kvm *kvm;		/* constant, only compared: whose it is */
	enum kvm_span_entry_state state;
	u64 id;				/* constant */
	u64 page;			/* constant */
	unsigned long rip;		/* constant */
	unsigned long cr3;		/* constant */
	u8 access;			/* constant: KVM_SPAN_R, _W, _X */
	u8 source;			/* constant: SPAN_SOURCE_* */

	/* Watches by their index. */
	u64 denied;			/* by whom; all ones: by one that has ended */
	u64 told;
	u64 open;			/* told, and did not answer yet */
	u64 cancel;			/* the page is to leave their subscription */
	u64 lifted;			/* to mask the access again */
	u64 lifted_read;		/* ... and reading */

	ktime_t start;			/* WAITING: since when */
	ktime_t waited;			/* DECIDED: for how long */
	ktime_t until;
};

/* A write that has happened, to be told. */
struct kvm_span_wrote {
	u64 page;
	const struct kvm_span_member *except;	/* only compared */
	u16 vcpu;
	u8 source;
};

#define KVM_SPAN_WROTE_MAX	256

struct kvm_span_events {
	struct kvm_span *span;		/* constant */
	spinlock_t lock;
	struct list_head entries;
	struct hlist_head by_id[64];
	unsigned int nr;
	unsigned int pending;		/* WAITING ones */
	u64 last_id;
	bool dying;

	struct hrtimer timer;		/* for the next thing that is due */
	ktime_t next;			/* what it is set to, or KTIME_MAX */
	struct work_struct tick;
	struct work_struct rearm;

	/* Written in any context, also under the scheduler's locks. */
	raw_spinlock_t wrote_lock;
	struct kvm_span_wrote wrote[KVM_SPAN_WROTE_MAX];
	unsigned int nr_wrote;
	unsigned int wrote_done;	/* of them told, or about to be */
	bool wrote_lost;
	struct irq_work wrote_irq;
	struct work_struct wrote_work;

	atomic64_t ept_guest;
	atomic64_t ept_shadow;
	atomic64_t ept_l1;
	atomic64_t ept_masked;
	atomic64_t remaps;
	atomic64_t events;
	atomic64_t notices;
	atomic64_t timeouts;
	atomic64_t denials;
	atomic64_t lifted;
};

/* What is known of an access while it is decided. */
struct kvm_span_ctx {
	struct kvm_vcpu *vcpu;		/* NULL when it is not a vCPU's */
	struct kvm_span *span;
	const struct kvm_span_member *own;	/* whose watches are not told */
	const struct kvm_span_member *runner;	/* through whose window it goes */
	u64 page;
	u64 gpa;
	u64 rip;			/* as told */
	u64 cr3;
	u32 flags;			/* SPAN_EVENT_F_* */
	u16 vcpu_id;
	u8 access;			/* KVM_SPAN_R, _W, _X */
	u8 source;
	bool no_read;			/* reading is masked, too */
};

/*
 * What has to be open for an access: a page that cannot be read is not mapped
 * at all.
 */
static inline u32 kvm_span_need(u8 access)
{
	return BIT(access) | KVM_SPAN_ACCESS_R;
}

static inline struct kvm_span_watch *kvm_span_watch_at(struct kvm_span *span,
						       unsigned int index)
{
	return rcu_dereference_check(span->watch[index], lockdep_is_held(&span->control));
}

#define kvm_span_for_each_bit(i, bits)						\
	for (u64 bits_ = (bits); bits_ && ((i) = __ffs64(bits_), true); bits_ &= bits_ - 1)

/* fault.c. In the vCPU, but source. */
u8 kvm_span_source(struct kvm_span *span, struct kvm_vcpu *vcpu);
const struct kvm_span_member *kvm_span_own(struct kvm_vcpu *vcpu,
					   const struct kvm_memory_slot *slot);
void kvm_span_ctx_init(struct kvm_span_ctx *ctx, struct kvm_vcpu *vcpu,
		       const struct kvm_memory_slot *slot, gfn_t gfn, u8 access);

/* event.c. arm: under events->lock. ask: in the vCPU, may sleep. */
void kvm_span_arm(struct kvm_span_events *ev, ktime_t when);
int kvm_span_ask(const struct kvm_span_ctx *ctx);

/* entry.c. Under events->lock; cancel, free and decide under RCU, too. */
bool kvm_span_is_base(struct kvm_span *span, struct kvm *kvm);
void kvm_span_entry_leave_vcpu(struct kvm_span_entry *e);
void kvm_span_entry_cancel(struct kvm_span_entry *e);
void kvm_span_entry_free(struct kvm_span_entry *e);
void kvm_span_entry_decide(struct kvm_span_entry *e);
struct kvm_span_entry *kvm_span_vcpu_entry(struct kvm_span *span, struct kvm_vcpu *vcpu,
					   enum kvm_span_entry_state state);
struct kvm_span_entry *kvm_span_entry_find(const struct kvm_span_ctx *ctx);
bool kvm_span_entry_room(struct kvm_span_events *ev, struct kvm_vcpu *vcpu);
void kvm_span_entry_add(const struct kvm_span_ctx *ctx, struct kvm_span_entry *e);
struct kvm_span *kvm_span_vcpu_get_span(struct kvm_vcpu *vcpu, const struct kvm_span *wanted);

/* emulated.c. In the vCPU; deny may sleep. */
bool kvm_span_emulating(struct kvm_vcpu *vcpu);
int kvm_span_emulate(const struct kvm_span_ctx *ctx, u32 verdict);
int kvm_span_deny(const struct kvm_span_ctx *ctx);

/* lift.c. lift: under events->lock and RCU. */
void kvm_span_lift(struct kvm_span_entry *e, u64 who);
void kvm_span_rearm(struct work_struct *work);

/* notice.c. Under RCU; notify under events->lock, too; signal with no lock of ours. */
u64 kvm_span_who(const struct kvm_span_ctx *ctx, enum kvm_span_why why,
		 const struct kvm_span_member *except);
bool kvm_span_tell(const struct kvm_span_ctx *ctx, struct kvm_span_watch *watch,
		   u64 event, u32 flags);
void kvm_span_signal(struct kvm_span *span, u64 who);
void kvm_span_notify(const struct kvm_span_ctx *ctx, u64 who, u32 flags);
void kvm_span_violated(const struct kvm_span_ctx *ctx, u64 who);
void kvm_span_notice_init(struct kvm_span_events *ev);
void kvm_span_notice_exit(struct kvm_span_events *ev);

#endif
