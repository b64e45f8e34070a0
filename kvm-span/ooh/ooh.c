// SPDX-License-Identifier: GPL-2.0
/*
 * Out of Hypervisor: what a VM has of it. The registers, the interrupt, calls of
 * the VM's process; its beginning and its end.
 */
#include <linux/module.h>
#include <linux/slab.h>
#include <linux/uaccess.h>
#include <linux/workqueue.h>

#include "x86.h"
#include "lapic.h"
#include "mmu.h"
#include "span_hooks.h"
#include "ooh.h"
#include "ooh_hooks.h"

static bool __read_mostly offer_ooh = true;
module_param_named(ooh, offer_ooh, bool, 0444);
MODULE_PARM_DESC(ooh, "Guests may log their own writes, if their CPUID says so");

DEFINE_STATIC_KEY_DEFERRED_FALSE(kvm_ooh_any, HZ);
EXPORT_SYMBOL_GPL(kvm_ooh_any);

/* KVM_CAP_OOH */
u32 kvm_ooh_features(void)
{
	return offer_ooh ? KVM_OOH_CAP_SPML : 0;
}

/* Never changes back as long as anybody could ask. */
struct kvm_ooh *kvm_ooh_of(struct kvm *kvm)
{
	/* Pairs with the cmpxchg() of kvm_ooh_get(). */
	return smp_load_acquire(&kvm->arch.ooh.state);
}

/* Interrupts. */

/*
 * Any context: a vCPU that is scheduled out writes its steal time, under the run
 * queue's lock.
 */
void kvm_ooh_tell(struct kvm_ooh *ooh)
{
	if (atomic_xchg(&ooh->tell, 0))
		irq_work_queue(&ooh->irq);
}

static void kvm_ooh_irq(struct irq_work *irq)
{
	queue_work(system_highpri_wq, &container_of(irq, struct kvm_ooh, irq)->work);
}

/* If as many frames wait as the guest wants to be told of. Any context. */
void kvm_ooh_tell_waiting(struct kvm_ooh *ooh)
{
	u64 want = (READ_ONCE(ooh->interrupt) & KVM_OOH_INT_FRAMES_MASK) >> KVM_OOH_INT_FRAMES_SHIFT;

	/* That they wait, then whether to tell; pairs with who lets us tell. */
	smp_mb();
	if (atomic_read(&ooh->tell) && atomic_long_read(&ooh->waiting) >= (long)max(want, 1))
		kvm_ooh_tell(ooh);
}

static void kvm_ooh_interrupt(struct work_struct *work)
{
	struct kvm_ooh *ooh = container_of(work, struct kvm_ooh, work);
	u64 msr = READ_ONCE(ooh->interrupt);
	struct kvm_lapic_irq irq = {
		.vector = msr & KVM_OOH_INT_VECTOR_MASK,
		.delivery_mode = APIC_DM_FIXED,
		.level = true,
	};
	struct kvm_vcpu *vcpu;

	if (!irq.vector)
		return;
	vcpu = kvm_get_vcpu_by_id(ooh->kvm, msr >> KVM_OOH_INT_APIC_SHIFT);
	if (!vcpu || !lapic_in_kernel(vcpu))
		return;
	kvm_apic_set_irq(vcpu, &irq, NULL);
	atomic64_inc(&ooh->interrupts);
}

/* State. */

static struct kvm_ooh *kvm_ooh_new(struct kvm *kvm)
{
	struct kvm_ooh *ooh = kvzalloc(sizeof(*ooh), GFP_KERNEL_ACCOUNT);

	if (!ooh)
		return NULL;
	ooh->kvm = kvm;
	mutex_init(&ooh->lock);
	xa_init(&ooh->chunks);
	init_irq_work(&ooh->irq, kvm_ooh_irq);
	INIT_WORK(&ooh->work, kvm_ooh_interrupt);
	spin_lock_init(&ooh->old_lock);
	INIT_LIST_HEAD(&ooh->old);
	INIT_WORK(&ooh->join, kvm_ooh_join_old);
	atomic_set(&ooh->tell, 1);
	return ooh;
}

/* A VM's state, made when first needed. */
static struct kvm_ooh *kvm_ooh_get(struct kvm *kvm)
{
	struct kvm_ooh *ooh = kvm_ooh_of(kvm), *first;

	if (ooh)
		return ooh;
	ooh = kvm_ooh_new(kvm);
	if (!ooh)
		return NULL;
	/* The hooks, then what they look at: the guest can arm nothing before. */
	static_branch_inc(&kvm_ooh_any.key);
	first = cmpxchg(&kvm->arch.ooh.state, NULL, ooh);
	if (!first)
		return ooh;
	static_branch_slow_dec_deferred(&kvm_ooh_any);
	kvfree(ooh);
	return first;
}

/*
 * No vCPU runs, and no descriptor of the VM is open. KVM's end looks for
 * invalidations that are under way, which those of ours would be.
 */
void __kvm_ooh_pre_destroy_vm(struct kvm *kvm)
{
	struct kvm_ooh *ooh = kvm_ooh_of(kvm);

	if (ooh)
		cancel_work_sync(&ooh->join);
}

void __kvm_ooh_destroy_vm(struct kvm *kvm)
{
	struct kvm_ooh *ooh = kvm_ooh_of(kvm);

	if (!ooh)
		return;
	/* With its chunks; no huge page has to come back. */
	WRITE_ONCE(kvm->arch.ooh.state, NULL);
	irq_work_sync(&ooh->irq);
	cancel_work_sync(&ooh->work);
	kvm_ooh_free_frames(ooh);
	kvfree(ooh);
	static_branch_slow_dec_deferred(&kvm_ooh_any);
}

/* Registers. */

static bool kvm_ooh_offered(struct kvm_vcpu *vcpu)
{
	return offer_ooh && (vcpu->arch.pv_cpuid.features & BIT(KVM_FEATURE_OOH));
}

/* The vCPUs' own logs, on or off; see kvm_span_dirty_logging(). */
static void kvm_ooh_log(struct kvm *kvm, bool on)
{
	WRITE_ONCE(kvm->arch.ooh.logging, on);
	if (kvm_x86_ops.cpu_dirty_log_size)
		kvm_make_all_cpus_request(kvm, KVM_REQ_UPDATE_CPU_DIRTY_LOGGING);
}

static bool kvm_ooh_ring_valid(u64 ring)
{
	const u64 known = KVM_OOH_RING_ENABLE | KVM_OOH_RING_ORDER_MASK;
	u64 order = (ring & KVM_OOH_RING_ORDER_MASK) >> KVM_OOH_RING_ORDER_SHIFT;
	u64 pages = 1 + (1ULL << order);

	if (!(ring & KVM_OOH_RING_ENABLE))
		return !ring;
	if ((ring & ~PAGE_MASK & ~known) || order > KVM_OOH_MAX_ORDER)
		return false;
	return (ring >> PAGE_SHIFT) + pages - 1 <= kvm_mmu_max_gfn();
}

static bool kvm_ooh_int_valid(u64 msr)
{
	u64 vector = msr & KVM_OOH_INT_VECTOR_MASK;
	const u64 known = KVM_OOH_INT_VECTOR_MASK | KVM_OOH_INT_FRAMES_MASK |
			  ~0ULL << KVM_OOH_INT_APIC_SHIFT;

	return !(msr & ~known) && (!vector || vector >= 32);
}

/*
 * By the guest: from the beginning. By the VM's process, which restores a state:
 * what was armed is not known.
 */
static int kvm_ooh_set_ring(struct kvm_vcpu *vcpu, struct kvm_ooh *ooh, u64 ring, bool host)
{
	bool on = ring & KVM_OOH_RING_ENABLE;

	if (on && !host && kvm_ooh_ring_begin(vcpu, ooh, ring))
		return 1;
	/* Logs are on before anything can be armed. */
	if (on)
		kvm_ooh_log(ooh->kvm, true);
	kvm_ooh_forget_all(ooh);
	ooh->ring = ring;
	WRITE_ONCE(ooh->all_dirty, on && host);
	atomic_set(&ooh->tell, 1);
	if (!on)
		kvm_ooh_log(ooh->kvm, false);
	return 0;
}

static bool kvm_ooh_msr_valid(const struct msr_data *msr)
{
	return msr->index == MSR_KVM_OOH_RING ? kvm_ooh_ring_valid(msr->data) :
						kvm_ooh_int_valid(msr->data);
}

int kvm_ooh_set_msr(struct kvm_vcpu *vcpu, struct msr_data *msr)
{
	struct kvm_ooh *ooh = kvm_ooh_of(vcpu->kvm);
	int r = 0;

	if (!msr->host_initiated && !kvm_ooh_offered(vcpu))
		return KVM_MSR_RET_UNSUPPORTED;
	if (!kvm_ooh_msr_valid(msr) || (msr->data && !offer_ooh))
		return 1;
	/* Zero is what a VM without it has. */
	if (!ooh && !msr->data)
		return 0;
	ooh = kvm_ooh_get(vcpu->kvm);
	if (!ooh || mutex_lock_killable(&ooh->lock))
		return 1;
	if (msr->index == MSR_KVM_OOH_RING) {
		r = kvm_ooh_set_ring(vcpu, ooh, msr->data, msr->host_initiated);
	} else {
		WRITE_ONCE(ooh->interrupt, msr->data);
		atomic_set(&ooh->tell, 1);
		kvm_ooh_tell_waiting(ooh);
	}
	mutex_unlock(&ooh->lock);
	return r;
}

int kvm_ooh_get_msr(struct kvm_vcpu *vcpu, struct msr_data *msr)
{
	struct kvm_ooh *ooh = kvm_ooh_of(vcpu->kvm);

	if (!msr->host_initiated && !kvm_ooh_offered(vcpu))
		return KVM_MSR_RET_UNSUPPORTED;
	if (!ooh)
		msr->data = 0;
	else if (msr->index == MSR_KVM_OOH_RING)
		msr->data = READ_ONCE(ooh->ring);
	else
		msr->data = READ_ONCE(ooh->interrupt);
	return 0;
}

/*
 * The vCPU is about to run. A restored VM is told of KVM_OOH_ALL_DIRTY now, when its
 * local APIC is there, too.
 */
void __kvm_ooh_run(struct kvm_vcpu *vcpu)
{
	struct kvm_ooh *ooh = kvm_ooh_of(vcpu->kvm);

	if (ooh && READ_ONCE(ooh->all_dirty))
		kvm_ooh_tell(ooh);
}

unsigned long kvm_ooh_hypercall(struct kvm_vcpu *vcpu, u64 op, u64 a1, u64 a2, u64 a3)
{
	struct kvm_ooh *ooh = kvm_ooh_of(vcpu->kvm);
	long r;

	if (!kvm_ooh_offered(vcpu))
		return -KVM_ENOSYS;
	if (op > KVM_OOH_STATS)
		return -KVM_EINVAL;
	if (!ooh)
		return -KVM_OOH_ENXIO;
	/* Whoever waits for guest memory that never comes can be killed. */
	if (mutex_lock_killable(&ooh->lock))
		return -EINTR;
	r = kvm_ooh_call(ooh, op, a1, a2, a3);
	mutex_unlock(&ooh->lock);
	return r;
}

/* Calls of the VM's process. */

static int kvm_ooh_wrote_ioctl(struct kvm *kvm, void __user *argp)
{
	struct kvm_ooh *ooh = kvm_ooh_of(kvm);
	struct kvm_ooh_wrote arg;
	gfn_t first, last;

	if (copy_from_user(&arg, argp, sizeof(arg)))
		return -EFAULT;
	if (arg.flags || !arg.size || arg.gpa + arg.size - 1 < arg.gpa)
		return -EINVAL;
	first = gpa_to_gfn(arg.gpa);
	last = gpa_to_gfn(arg.gpa + arg.size - 1);
	if (last > kvm_mmu_max_gfn())
		return -EINVAL;
	if (ooh)
		kvm_ooh_report(ooh, first, last - first + 1, &ooh->by_user);
	return 0;
}

static int kvm_ooh_info_ioctl(struct kvm *kvm, void __user *argp)
{
	struct kvm_ooh_info arg;
	struct kvm_ooh *ooh;

	if (copy_from_user(&arg, argp, sizeof(arg)))
		return -EFAULT;
	if (arg.pad || arg.info & ~KVM_OOH_INFO_UNSEEN_WRITERS)
		return -EINVAL;
	ooh = kvm_ooh_get(kvm);
	if (!ooh)
		return -ENOMEM;
	/* A device that goes has written until now: the next fetch still tells of it. */
	atomic_or(READ_ONCE(ooh->info) | arg.info, &ooh->info_past);
	WRITE_ONCE(ooh->info, arg.info);
	return 0;
}

int kvm_ooh_vm_ioctl(struct kvm *kvm, unsigned int ioctl, void __user *argp)
{
	if (!offer_ooh)
		return -ENOTTY;
	switch (ioctl) {
	case KVM_OOH_WROTE:
		return kvm_ooh_wrote_ioctl(kvm, argp);
	case KVM_OOH_SET_INFO:
		return kvm_ooh_info_ioctl(kvm, argp);
	default:
		return -ENOTTY;
	}
}

void __exit kvm_ooh_exit(void)
{
	/* Chunks that are being freed; hooks that are being switched off. */
	rcu_barrier();
	static_key_deferred_flush(&kvm_ooh_any);
}
