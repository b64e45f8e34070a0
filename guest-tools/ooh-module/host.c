// SPDX-License-Identifier: GPL-2.0
/* The host: its ring, and the hypercalls that arm frames and fetch what was written. */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/gfp.h>
#include <linux/kvm_para.h>
#include <linux/sched/signal.h>

#include <asm/cpuid.h>
#include <asm/io.h>
#include <asm/kvm_para.h>
#include <asm/msr.h>

#include <linux/kvm_ooh.h>

#include "ooh.h"

/* 16384 entries: more than a fetch of a busy epoch moves in most cases. */
#define RING_ORDER	5
#define RING_BYTES	((1UL + (1UL << RING_ORDER)) << PAGE_SHIFT)
#define BATCH_BYTES	(KVM_OOH_MAX_RANGES * sizeof(struct kvm_ooh_range))

/* The ring and the hypercalls. Held from a hypercall until what it said is noted. */
static DEFINE_MUTEX(host_lock);
static struct kvm_ooh_ring *ring;
static u64 *entries;
static struct kvm_ooh_range *batch;	/* what is to be armed or disarmed next */
static unsigned int batch_used;
static u64 lost;			/* how often the host lost track */
static bool refusal_told;

static long call(unsigned int op, unsigned long a1, unsigned long a2, unsigned long a3)
{
	return kvm_hypercall4(KVM_HC_OOH, op, a1, a2, a3);
}

/* An error of the hypercall as one of ours. */
static int error_of(long ret)
{
	switch (ret) {
	case -KVM_OOH_ENOMEM:
		return -ENOMEM;
	case -KVM_OOH_ENXIO:
		return -ENXIO;
	default:
		return -EIO;
	}
}

u32 ooh_host_features(void)
{
	u32 base = boot_cpu_has(X86_FEATURE_HYPERVISOR) ? hypervisor_cpuid_base(KVM_SIGNATURE, 0) : 0;
	u32 features = base ? cpuid_eax(base | KVM_CPUID_FEATURES) : 0;

	if (!(features & BIT(KVM_FEATURE_OOH)))
		return 0;
	return OOH_F_SPML | (features & BIT(KVM_FEATURE_OOH_EPML) ? OOH_F_EPML : 0);
}

u64 ooh_host_lost(void)
{
	return READ_ONCE(lost);
}

/* Devices of this VM write to its memory and the host does not see it (vhost, assigned ones). */
bool ooh_host_blind(void)
{
	return READ_ONCE(ring->info) & KVM_OOH_INFO_UNSEEN_WRITERS;
}

/* Whatever was armed is not, whatever is armed may have been written. */
static void lose(void)
{
	WRITE_ONCE(lost, lost + 1);
	mutex_lock(&ooh_frame_lock);
	ooh_frames_lost();
	mutex_unlock(&ooh_frame_lock);
}

static int give_ring(void)
{
	return wrmsrl_safe(MSR_KVM_OOH_RING, virt_to_phys(ring) | KVM_OOH_RING_ENABLE |
			   (u64)RING_ORDER << KVM_OOH_RING_ORDER_SHIFT) ? -EIO : 0;
}

int ooh_host_on(void)
{
	int err = -ENOMEM;

	mutex_lock(&host_lock);
	ring = alloc_pages_exact(RING_BYTES, GFP_KERNEL | __GFP_ZERO);
	batch = alloc_pages_exact(BATCH_BYTES, GFP_KERNEL);
	if (!ring || !batch)
		goto err_pages;
	entries = (void *)ring + PAGE_SIZE;
	batch_used = 0;
	err = give_ring();
	if (!err && (ring->version != KVM_OOH_RING_VERSION || !is_power_of_2(ring->size) ||
		     ring->size > (PAGE_SIZE << RING_ORDER) / sizeof(*entries)))
		err = -EPROTO;
	if (err) {
		pr_err("the host does not take the ring: error %d\n", err);
		goto err_msr;
	}
	err = ooh_irq_on();
	if (err) {
		pr_err("no interrupt from the host: error %d\n", err);
		goto err_msr;
	}
	mutex_unlock(&host_lock);
	return 0;

err_msr:
	wrmsrl_safe(MSR_KVM_OOH_RING, 0);
err_pages:
	if (ring)
		free_pages_exact(ring, RING_BYTES);
	if (batch)
		free_pages_exact(batch, BATCH_BYTES);
	ring = NULL;
	batch = NULL;
	mutex_unlock(&host_lock);
	return err;
}

/* Without a ring nothing is armed. */
void ooh_host_off(void)
{
	mutex_lock(&host_lock);
	ooh_irq_off();
	if (wrmsrl_safe(MSR_KVM_OOH_RING, 0))
		/* The host may still write there. */
		pr_err("the host keeps the ring; it is not freed\n");
	else
		free_pages_exact(ring, RING_BYTES);
	free_pages_exact(batch, BATCH_BYTES);
	ring = NULL;
	batch = NULL;
	mutex_unlock(&host_lock);
}

/* False: there is no room for it. */
static bool batch_add(unsigned long pfn)
{
	struct kvm_ooh_range *last = batch_used ? &batch[batch_used - 1] : NULL;

	if (last && last->gfn + last->pages == pfn && last->pages < KVM_OOH_MAX_PAGES) {
		last->pages++;
		return true;
	}
	if (batch_used == KVM_OOH_MAX_RANGES)
		return false;
	batch[batch_used++] = (struct kvm_ooh_range) { .gfn = pfn, .pages = 1 };
	return true;
}

/* What [from, to) of the batch names is watched from now on. */
static void note_armed(unsigned int from, unsigned int to)
{
	mutex_lock(&ooh_frame_lock);
	for (; from < to; from++) {
		for (u64 i = 0; i < batch[from].pages; i++)
			ooh_frame_armed(batch[from].gfn + i);
		cond_resched();
	}
	mutex_unlock(&ooh_frame_lock);
}

static int arm_batch(void)
{
	unsigned int done = 0, used = batch_used;

	batch_used = 0;
	while (done < used) {
		long ret = call(KVM_OOH_ARM, virt_to_phys(batch + done), used - done, 0);

		if (ret > 0 && ret <= used - done) {
			note_armed(done, done + ret);
			done += ret;
			continue;
		}
		/* The ring is gone (a reset by the host): the fetch gives it again. */
		if (ret == -KVM_OOH_ENXIO)
			return 0;
		if (ret != -KVM_EINVAL && ret != -KVM_EFAULT) {
			pr_err_ratelimited("the host arms nothing: error %ld\n", ret);
			return error_of(ret);
		}
		/* No RAM: it stays unarmed, and is reported in each fetch. */
		if (!refusal_told)
			pr_info("the host does not watch frame %llx (%llu pages); such memory counts as written\n",
				batch[done].gfn, batch[done].pages);
		refusal_told = true;
		done++;
	}
	return 0;
}

/*
 * Arm what is unarmed in groups first to last of a space. The frames stay in
 * their lists meanwhile, since the caller has space->lock.
 */
int ooh_host_arm(struct ooh_space *space, unsigned long first, unsigned long last)
{
	struct ooh_group *group;
	unsigned long index = first;
	int err = 0;

	lockdep_assert_held(&space->lock);
	mutex_lock(&host_lock);
	for (group = xa_find(&space->groups, &index, last, OOH_UNARMED); group && !err;
	     group = xa_find_after(&space->groups, &index, last, OOH_UNARMED)) {
		u64 bits;

		mutex_lock(&ooh_frame_lock);
		bits = group->unarmed;
		mutex_unlock(&ooh_frame_lock);
		for (; bits && !err; bits &= bits - 1) {
			unsigned long pfn = group->page[__ffs64(bits)].pfn;

			if (batch_add(pfn))
				continue;
			err = arm_batch();
			batch_add(pfn);
		}
		cond_resched();
	}
	if (!err)
		err = arm_batch();
	batch_used = 0;
	mutex_unlock(&host_lock);
	return err;
}

/*
 * Frames that nobody here has any more were written by who has them now, and the
 * host armed them again: it need not. frame_lock is held from where the list was
 * looked into, so that nobody takes a frame that is armed for one to be armed.
 */
static void disarm_batch(void)
{
	unsigned int done = 0;

	lockdep_assert_held(&ooh_frame_lock);
	while (done < batch_used) {
		long ret = call(KVM_OOH_DISARM, virt_to_phys(batch + done), batch_used - done, 0);

		/* Nothing is lost if it stays armed. */
		if (ret <= 0)
			break;
		done += ret;
	}
	batch_used = 0;
}

static void take_entry(u64 entry)
{
	unsigned long pfn = KVM_OOH_ENTRY_GFN(entry), end = pfn + KVM_OOH_ENTRY_PAGES(entry);

	for (; pfn < end; pfn++) {
		if (ooh_frame_written(pfn))
			continue;
		if (!batch_add(pfn)) {
			disarm_batch();
			batch_add(pfn);
		}
	}
}

static void take_entries(void)
{
	u32 head = smp_load_acquire(&ring->head); /* the host's entries, before its head */
	u32 tail = ring->tail;

	while (tail != head) {
		mutex_lock(&ooh_frame_lock);
		for (unsigned int n = 0; tail != head && n < 1024; n++) {
			take_entry(READ_ONCE(entries[tail++ & (ring->size - 1)]));
			cond_resched();
		}
		disarm_batch();
		mutex_unlock(&ooh_frame_lock);
		smp_store_release(&ring->tail, tail); /* read, before they are given back */
		cond_resched();
	}
}

/*
 * Note everything that was written before this call, and have it armed again. That
 * is for all spaces: those besides the caller's are told of it.
 */
int ooh_host_fetch(struct ooh_space *space)
{
	int err = 0;
	long left;

	mutex_lock(&host_lock);
	ooh_irq_fetch();
	do {
		left = call(KVM_OOH_FETCH, 0, 0, KVM_OOH_REARM);
		if (left == -KVM_OOH_ENXIO) {
			lose();
			err = give_ring();
			ooh_irq_forgotten();
			break;
		}
		if (left < 0) {
			err = error_of(left);
			pr_err_ratelimited("the host does not say what was written: error %ld\n", left);
			break;
		}
		if (test_and_clear_bit(ilog2(KVM_OOH_ALL_DIRTY), (unsigned long *)&ring->flags))
			lose();
		take_entries();
		if (fatal_signal_pending(current))
			err = -EINTR;
	} while (left && !err);
	if (!err)
		err = ooh_irq_tell();
	mutex_unlock(&host_lock);
	ooh_spaces_wake_dirty(space);
	return err;
}
