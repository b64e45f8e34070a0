/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Out of Hypervisor: what ooh/ shares among its files.
 *
 * ooh.c     a VM's state: its ring, registers, calls of the VM's process
 * frames.c  which frames are armed and which wait to be fetched; the MMU
 * call.c    the hypercall
 */
#ifndef KVM_OOH_H
#define KVM_OOH_H

#include <linux/irq_work.h>
#include <linux/kvm_host.h>
#include <linux/xarray.h>
#include <uapi/linux/kvm_ooh.h>

#define KVM_OOH_CHUNK_SHIFT	15	/* 128 MiB: a bitmap of it is one page */
#define KVM_OOH_CHUNK_FRAMES	(1u << KVM_OOH_CHUNK_SHIFT)
#define KVM_OOH_CHUNK_WORDS	(KVM_OOH_CHUNK_FRAMES / BITS_PER_LONG)
#define KVM_OOH_BLOCK		512u	/* frames of 2 MiB */

/* Ranges that are worked on at once. */
#define KVM_OOH_BATCH		512

/* Chunks whose huge pages are to come back later. More are not kept for that. */
#define KVM_OOH_MAX_OLD		64

/*
 * Frames of one part of the guest's memory. Found under RCU; comes and goes with
 * kvm_ooh.lock held. lock makes it one step that a frame is not armed any more
 * and waits: whoever has it sees one of the two. Any context.
 */
struct kvm_ooh_chunk {
	raw_spinlock_t lock;		/* armed, waiting, words */
	unsigned long *armed;		/* the next write is to be reported */
	unsigned long *waiting;		/* written, to be fetched */
	/* Words of waiting that may have bits. */
	DECLARE_BITMAP(words, KVM_OOH_CHUNK_WORDS);
	/*
	 * Blocks of 2 MiB without large entries; changes under kvm_ooh.lock. Of these,
	 * those that may still have some.
	 */
	DECLARE_BITMAP(blocks, KVM_OOH_CHUNK_FRAMES / KVM_OOH_BLOCK);
	DECLARE_BITMAP(fresh, KVM_OOH_CHUNK_FRAMES / KVM_OOH_BLOCK);	/* lock */
	gfn_t base;
	struct list_head old;		/* kvm_ooh.old */
	struct rcu_head rcu;
};

/* One for a VM that ever had OoH on, until the VM ends. */
struct kvm_ooh {
	struct kvm *kvm;

	/*
	 * What the guest says: arm, disarm, fetch, the registers. Held while guest
	 * memory is read and written, which may sleep. Sinks do not take it.
	 */
	struct mutex lock;
	u64 ring;			/* MSR_KVM_OOH_RING */
	bool all_dirty;			/* to be said in the next fetch */
	u32 info;			/* KVM_OOH_INFO_* */
	atomic_t info_past;		/* what it was since the last fetch */
	struct kvm_ooh_range batch[KVM_OOH_BATCH];
	u64 entries[KVM_OOH_BATCH];

	struct xarray chunks;		/* by gfn >> KVM_OOH_CHUNK_SHIFT */

	u64 interrupt;			/* MSR_KVM_OOH_INT; changes under lock */
	atomic_t tell;			/* an interrupt may be given */
	atomic_long_t waiting;		/* frames */
	struct irq_work irq;		/* reports come where nobody may be woken */
	struct work_struct work;	/* gives it */

	spinlock_t old_lock;		/* the next two */
	struct list_head old;		/* chunks of which nothing is armed any more */
	unsigned int nr_old;
	struct work_struct join;	/* lets their huge pages come back */

	atomic64_t arms, rearms, fetches, fetched;
	atomic64_t by_pml, by_fault, by_user;
	atomic64_t pml_full, interrupts, all_dirties;
};

/* ooh.c */
struct kvm_ooh *kvm_ooh_of(struct kvm *kvm);
void kvm_ooh_tell(struct kvm_ooh *ooh);
void kvm_ooh_tell_waiting(struct kvm_ooh *ooh);

static inline bool kvm_ooh_on(const struct kvm_ooh *ooh)
{
	return ooh->ring & KVM_OOH_RING_ENABLE;
}

/*
 * frames.c, ooh->lock held, kvm->srcu held for read where entries are touched.
 * arm: -ENOMEM, or these frames are armed when it returns; rearm: frames that were
 * armed before, cannot fail. forget: no frame of these is armed, none waits.
 * take: frames that wait, into batch, sorted, in no more than max ranges; put_back:
 * they wait again. flush: what vCPUs have logged is known when it returns.
 */
int kvm_ooh_arm(struct kvm_ooh *ooh, const struct kvm_ooh_range *ranges, u32 n);
void kvm_ooh_rearm(struct kvm_ooh *ooh, const struct kvm_ooh_range *ranges, u32 n);
void kvm_ooh_forget(struct kvm_ooh *ooh, gfn_t gfn, u64 pages);
void kvm_ooh_forget_all(struct kvm_ooh *ooh);
void kvm_ooh_join_old(struct work_struct *work);
void kvm_ooh_free_frames(struct kvm_ooh *ooh);	/* at the VM's end, no lock */
u32 kvm_ooh_take(struct kvm_ooh *ooh, u32 max);
void kvm_ooh_put_back(struct kvm_ooh *ooh, const struct kvm_ooh_range *ranges, u32 n);
void kvm_ooh_flush(struct kvm_ooh *ooh);

/* Any context: the frames were written. */
void kvm_ooh_report(struct kvm_ooh *ooh, gfn_t gfn, u64 pages, atomic64_t *by);

/*
 * call.c, ooh->lock and kvm->srcu held. begin: fills the header in, or an error if
 * the ring is not RAM. call: one hypercall, its result.
 */
int kvm_ooh_ring_begin(struct kvm_vcpu *vcpu, struct kvm_ooh *ooh, u64 ring);
long kvm_ooh_call(struct kvm_ooh *ooh, u64 op, u64 a1, u64 a2, u64 a3);

#endif
