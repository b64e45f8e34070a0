/* SPDX-License-Identifier: GPL-2.0 */
/*
 * vCPUs of one guest on several hypervisors: what vcpu.c, hub.c and relay.c
 * share. docs/locking.rst tells the order of things.
 *
 * A site is a VM that has some of the guest's vCPUs. The others exist in it, so
 * that KVM finds destinations, but do not run: they are away. There is one site
 * on L0, the guest's own VM, and one in each L1 that may own vCPUs. The site on
 * L0 is the hub as well: it knows all owners, and whatever one L1 sends to
 * another goes through it.
 */
#ifndef KVM_SPAN_VCPU_H
#define KVM_SPAN_VCPU_H

#include <linux/workqueue.h>
#include <uapi/linux/span_port.h>
#include "span.h"

/* How long a vCPU has to leave KVM_RUN, how long others to take an identity. */
#define KVM_SPAN_LEAVE_MS	100
#define KVM_SPAN_TAKE_MS	5
#define KVM_SPAN_TAKE_ALL_MS	100

/* What came for one vCPU, out of a struct span_post or on its way into one. */
struct kvm_span_bits {
	u64 irr[4];
	u64 level[4];			/* those of irr that are level-triggered */
	u32 event;			/* SPAN_POST_* */
	u8 sipi_vector;
};

/* What others address a vCPU by; apic has only SPAN_APIC_ENABLED, _X2APIC, _ID. */
struct kvm_span_ids {
	u32 apic;
	u32 ldr;
	u32 dfr;
	u32 spiv;
};

struct kvm_span_shot;
struct kvm_span_site;

struct kvm_span_site_ops {
	/* For a vCPU that is away. Any context, in an RCU section. */
	void (*post)(struct kvm_span_site *site, unsigned int n, const struct kvm_span_bits *bits);
	/* site->ids[n] of a vCPU that runs here is new: tell, and wait a little. Sleeps. */
	void (*publish)(struct kvm_span_site *site, unsigned int n);
	/* The post in which another site told a new identity of n, in an RCU section. */
	struct span_post *(*told)(struct kvm_span_site *site, unsigned int n);
	/* They are known here now: who else has to know? Sleeps. May be NULL. */
	void (*spread)(struct kvm_span_site *site, unsigned long vcpus);
	void (*free)(struct kvm_span_site *site);
};

struct kvm_span_site {
	struct kref ref;
	const struct kvm_span_site_ops *ops;
	struct kvm *kvm;		/* constant; until kvm_span_site_detach() */

	/* Who goes and who comes. Never taken by a vCPU. */
	struct mutex mutex;

	spinlock_t ids_lock;		/* ids, and words of identities in posts */
	struct kvm_span_ids ids[SPAN_MAX_VCPUS];
	u8 ids_count[SPAN_MAX_VCPUS];
	unsigned long news;		/* identities that were told; atomic */
	struct work_struct ids_work;

	/*
	 * Level-triggered interrupts of vectors whose EOI KVM does not intercept
	 * yet; and those of which it does.
	 */
	struct span_posts *late;
	struct work_struct late_work;
	DECLARE_BITMAP(ready[SPAN_MAX_VCPUS], 256);
};

/* vcpu.c */
int kvm_span_site_init(struct kvm_span_site *site, struct kvm *kvm,
		       const struct kvm_span_site_ops *ops);
int kvm_span_site_attach(struct kvm_span_site *site, unsigned long away);
void kvm_span_site_detach(struct kvm_span_site *site);
void kvm_span_site_put(struct kvm_span_site *site);
int kvm_span_site_check_vm(struct kvm *kvm);
int kvm_span_site_leave(struct kvm_span_site *site, struct kvm_vcpu *vcpu);
int kvm_span_site_come(struct kvm_span_site *site, struct kvm_vcpu *vcpu);
void kvm_span_site_news(struct kvm_span_site *site, unsigned int n);
void kvm_span_site_look(struct kvm_span_site *site, unsigned int n);
void kvm_span_ids_write(struct kvm_span_site *site, struct span_posts *posts, unsigned int n);
bool kvm_span_posts_put(struct span_posts *posts, unsigned int n,
			const struct kvm_span_bits *bits);
bool kvm_span_posts_put_older(struct span_posts *posts, unsigned int n,
			      const struct kvm_span_bits *bits);
void kvm_span_posts_settle(struct span_posts *posts, unsigned int n);
bool kvm_span_posts_take(struct span_posts *posts, unsigned int n, struct kvm_span_bits *bits);
unsigned long kvm_span_posts_pending(struct span_posts *posts);
unsigned int kvm_span_bits_count(const struct kvm_span_bits *bits);
void kvm_span_inject(struct kvm_vcpu *vcpu, const struct kvm_span_bits *bits);

/* hub.c */
long kvm_span_hub_set_vcpu(struct kvm_span *span, void __user *uarg);
void kvm_span_hub_lost(struct kvm_span_member *member);
void kvm_span_hub_end(struct kvm_span *span);
void kvm_span_hub_info(struct kvm_span_member *member, struct kvm_span_member_info *info);
void kvm_span_posts_rung(struct kvm_span_member *member);

/* loan.c */
unsigned long kvm_span_hub_withdraw(struct kvm_span_member *member, unsigned long vcpus,
				    struct kvm_span_shot **shots);
int kvm_span_hub_salvaged(struct kvm_span *span, unsigned int n, struct kvm_span_shot *shot);

/* relay.c */
long kvm_span_relay_open(void __user *uarg);

#endif
