// SPDX-License-Identifier: GPL-2.0
/*
 * KVM Span: a VM some of whose vCPUs run elsewhere.
 *
 * What comes for a vCPU that is away is sent on by the site's post(). How
 * others address such a vCPU (x2APIC mode, logical id, enabled) is set in its
 * local APIC here, so that KVM resolves destinations as ever.
 */
#include <linux/delay.h>
#include <linux/slab.h>
#include <linux/static_key.h>

#include <asm/sync_bitops.h>

#include "x86.h"
#include "irq.h"
#include "lapic.h"
#include "vcpu.h"
#include "watch.h"
#include "span_hooks.h"
#include "trace.h"

/* On while there is a site. Off with a delay, as kvm_span_any. */
DEFINE_STATIC_KEY_DEFERRED_FALSE(kvm_span_sites, HZ);

/* Sites come and go. */
static DEFINE_MUTEX(kvm_span_sites_lock);

/* What the identity's word has besides the identity. */

#define SPAN_APIC_KNOWN		(SPAN_APIC_ENABLED | SPAN_APIC_X2APIC | SPAN_APIC_ID)

#define SPAN_POST_INTERRUPTS	(SPAN_POST_NMI | SPAN_POST_SMI | SPAN_POST_INIT | \
				 SPAN_POST_SIPI | SPAN_POST_KICK)

static_assert(sizeof(struct span_post) == 128);
static_assert(sizeof(struct span_posts) <= SPAN_POSTS_TO_L1 - SPAN_POSTS_TO_L0);
static_assert(SPAN_MAX_VCPUS == BITS_PER_LONG);

/*
 * Posts: pages of little-endian words that two sides change by atomic
 * operations. x86 is little-endian.
 */

/*
 * The other side is another kernel on another CPU, though this one may have
 * one CPU only and leave out its lock prefixes: they are spelled out here. One
 * instruction each, whatever the other side does meanwhile; xchg locks by itself.
 */

static void kvm_span_or64(__le64 *word, u64 bits)
{
	asm volatile("lock orq %1, %0" : "+m" (*word) : "r" (bits) : "memory", "cc");
}

static void kvm_span_andnot64(__le64 *word, u64 bits)
{
	asm volatile("lock andq %1, %0" : "+m" (*word) : "r" (~bits) : "memory", "cc");
}

static void kvm_span_or32(__le32 *word, u32 bits)
{
	asm volatile("lock orl %1, %0" : "+m" (*word) : "r" (bits) : "memory", "cc");
}

static void kvm_span_andnot32(__le32 *word, u32 bits)
{
	asm volatile("lock andl %1, %0" : "+m" (*word) : "r" (~bits) : "memory", "cc");
}

static void kvm_span_cmpxchg32(__le32 *word, u32 old, u32 new)
{
	asm volatile("lock cmpxchgl %2, %0" : "+m" (*word), "+a" (old) : "r" (new)
		     : "memory", "cc");
}

static u64 kvm_span_read64(const __le64 *word)
{
	return le64_to_cpu(READ_ONCE(*word));
}

static u64 kvm_span_take64(__le64 *word)
{
	return kvm_span_read64(word) ? le64_to_cpu(xchg(word, 0)) : 0;
}

static u32 kvm_span_read32(const __le32 *word)
{
	return le32_to_cpu(READ_ONCE(*word));
}

static void kvm_span_write32(__le32 *word, u32 value)
{
	WRITE_ONCE(*word, cpu_to_le32(value));
}

static void kvm_span_put_vectors(struct span_post *post, unsigned int i, u64 irr, u64 level)
{
	/*
	 * The way of triggering stays with the vector and comes before it: a
	 * receiver that took it away could find the next one without.
	 */
	if (irr & level)
		kvm_span_or64(&post->level[i], irr & level);
	if (irr & ~level & kvm_span_read64(&post->level[i]))
		kvm_span_andnot64(&post->level[i], irr & ~level);
	kvm_span_or64(&post->irr[i], irr);
}

/* What is older than what is there already; else kvm_span_posts_put(). */
bool kvm_span_posts_put_older(struct span_posts *posts, unsigned int n,
			      const struct kvm_span_bits *bits)
{
	struct span_post *post = &posts->vcpu[n];
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(bits->irr); i++)
		if (bits->irr[i])
			kvm_span_put_vectors(post, i, bits->irr[i], bits->level[i]);
	if (bits->event & SPAN_POST_SIPI)
		kvm_span_write32(&post->sipi_vector, bits->sipi_vector);
	if (bits->event)
		kvm_span_or32(&post->event, bits->event);
	/* Locked, like all of these: a full barrier. */
	return !sync_test_and_set_bit(n, (__force unsigned long *)&posts->pending);
}

/*
 * Returns true if the receiver has to be told. Any context. Who is told late
 * makes all others late, who find it pending: callers that may be preempted
 * disable that until they have told.
 */
bool kvm_span_posts_put(struct span_posts *posts, unsigned int n,
			const struct kvm_span_bits *bits)
{
	/* As in a local APIC, an INIT ends what SIPI was before it. */
	if (bits->event & SPAN_POST_INIT)
		kvm_span_andnot32(&posts->vcpu[n].event, SPAN_POST_SIPI);
	return kvm_span_posts_put_older(posts, n, bits);
}

unsigned long kvm_span_posts_pending(struct span_posts *posts)
{
	return kvm_span_take64(&posts->pending);
}

/* Its bit in pending was not what led to it. */
void kvm_span_posts_settle(struct span_posts *posts, unsigned int n)
{
	kvm_span_andnot64(&posts->pending, BIT_ULL(n));
}

/* Take what is there for one vCPU; false: nothing. Believes nothing. */
bool kvm_span_posts_take(struct span_posts *posts, unsigned int n, struct kvm_span_bits *bits)
{
	struct span_post *post = &posts->vcpu[n];
	bool any = false;
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(bits->irr); i++) {
		bits->irr[i] = kvm_span_take64(&post->irr[i]);
		/* After irr: it was written before. */
		bits->level[i] = bits->irr[i] & kvm_span_read64(&post->level[i]);
		any |= bits->irr[i];
	}
	bits->irr[0] &= ~0xffffull;	/* no vectors of interrupts */
	bits->event = 0;
	if (kvm_span_read32(&post->event))
		bits->event = le32_to_cpu(xchg(&post->event, 0));
	bits->event &= SPAN_POST_INTERRUPTS | SPAN_POST_APIC;
	bits->sipi_vector = kvm_span_read32(&post->sipi_vector);
	return any || bits->event;
}

unsigned int kvm_span_bits_count(const struct kvm_span_bits *bits)
{
	unsigned int i, count = hweight32(bits->event & SPAN_POST_INTERRUPTS);

	for (i = 0; i < ARRAY_SIZE(bits->irr); i++)
		count += hweight64(bits->irr[i]);
	return count;
}

static void kvm_span_inject_one(struct kvm_vcpu *vcpu, u32 mode, u32 vector, bool level)
{
	struct kvm_lapic_irq irq = {
		.delivery_mode = mode,
		.vector = vector,
		.trig_mode = level,
		.level = 1,
	};

	kvm_apic_set_irq(vcpu, &irq, NULL);
}

/*
 * Into the local APIC of a vCPU of this VM; if it is away by now, it goes on
 * from there. Any context.
 */
void kvm_span_inject(struct kvm_vcpu *vcpu, const struct kvm_span_bits *bits)
{
	unsigned int i;
	u64 left;
	int bit;

	if (bits->event & SPAN_POST_INIT)
		kvm_span_inject_one(vcpu, APIC_DM_INIT, 0, false);
	if (bits->event & SPAN_POST_SIPI)
		kvm_span_inject_one(vcpu, APIC_DM_STARTUP, bits->sipi_vector, false);
	if (bits->event & SPAN_POST_NMI)
		kvm_span_inject_one(vcpu, APIC_DM_NMI, 0, false);
	if (bits->event & SPAN_POST_SMI)
		kvm_span_inject_one(vcpu, APIC_DM_SMI, 0, false);
	if (bits->event & SPAN_POST_KICK)
		kvm_span_inject_one(vcpu, APIC_DM_REMRD, 0, false);
	for (i = 0; i < ARRAY_SIZE(bits->irr); i++) {
		for (left = bits->irr[i]; left; left &= left - 1) {
			bit = __ffs64(left);
			kvm_span_inject_one(vcpu, APIC_DM_FIXED, 64 * i + bit,
					    bits->level[i] & BIT_ULL(bit));
		}
	}
}

/* Which bits one interrupt is; false: none, a local APIC would ignore it, too. */
static bool kvm_span_bits_of(struct kvm_span_bits *bits, u32 mode, u32 vector, bool level,
			     bool trig)
{
	memset(bits, 0, sizeof(*bits));
	switch (mode) {
	case APIC_DM_LOWEST:
	case APIC_DM_FIXED:
		if ((trig && !level) || vector < 16 || vector > 255)
			return false;
		bits->irr[vector / 64] = BIT_ULL(vector % 64);
		if (trig)
			bits->level[vector / 64] = BIT_ULL(vector % 64);
		return true;
	case APIC_DM_REMRD:
		bits->event = SPAN_POST_KICK;
		return true;
	case APIC_DM_SMI:
		bits->event = SPAN_POST_SMI;
		return true;
	case APIC_DM_NMI:
		bits->event = SPAN_POST_NMI;
		return true;
	case APIC_DM_INIT:
		if (trig && !level)
			return false;
		bits->event = SPAN_POST_INIT;
		return true;
	case APIC_DM_STARTUP:
		bits->event = SPAN_POST_SIPI;
		bits->sipi_vector = vector;
		return true;
	default:
		return false;
	}
}

static struct kvm_span_site *kvm_span_site_of(struct kvm *kvm)
{
	return rcu_dereference(kvm->arch.span.site);
}

bool __kvm_span_away(const struct kvm_vcpu *vcpu)
{
	return vcpu->vcpu_id < SPAN_MAX_VCPUS &&
	       test_bit(vcpu->vcpu_id, &vcpu->kvm->arch.span.away);
}

/*
 * The first level-triggered interrupt of a vector: KVM has to see its EOI, and
 * for an interrupt controller that another hypervisor has there is no route that
 * says so. Asking vCPUs to load their bitmaps anew takes a context that may
 * sleep; the interrupt comes after it.
 */
static bool kvm_span_late_level(struct kvm_span_site *site, struct kvm_vcpu *vcpu, u32 vector)
{
	struct kvm_lapic *apic = vcpu->arch.apic;
	struct kvm_span_bits bits;
	unsigned int n = vcpu->vcpu_id;

	if (n >= SPAN_MAX_VCPUS || vector > 255)
		return false;
	if (test_bit(vector, site->ready[n]) &&
	    test_bit(VEC_POS(vector), apic->regs + APIC_TMR + REG_POS(vector)))
		return false;
	if (!kvm_span_bits_of(&bits, APIC_DM_FIXED, vector, true, true))
		return false;
	kvm_span_posts_put(site->late, n, &bits);
	queue_work(kvm_span_wq, &site->late_work);
	return true;
}

/*
 * An interrupt for a vCPU of a VM that may have a site. False: into its local
 * APIC. Any context, in an RCU section.
 */
bool __kvm_span_post(struct kvm_vcpu *vcpu, u32 mode, u32 vector, bool level, bool trig,
		     int *result)
{
	struct kvm_span_site *site = kvm_span_site_of(vcpu->kvm);
	struct kvm_span_bits bits;

	if (!site)
		return false;
	if (!__kvm_span_away(vcpu)) {
		if (!trig || !level || (mode != APIC_DM_FIXED && mode != APIC_DM_LOWEST))
			return false;
		*result = 1;
		return kvm_span_late_level(site, vcpu, vector);
	}
	if (mode == APIC_DM_LOWEST)
		vcpu->arch.apic_arb_prio++;
	*result = kvm_span_bits_of(&bits, mode, vector, level, trig);
	if (*result)
		site->ops->post(site, vcpu->vcpu_id, &bits);
	return true;
}

static void kvm_span_late_deliver(struct kvm_span_site *site, struct kvm_vcpu *vcpu,
				  const struct kvm_span_bits *bits)
{
	DECLARE_BITMAP(one, KVM_MAX_VCPUS) = {};
	struct kvm_lapic *apic = vcpu->arch.apic;
	unsigned int i, vector;
	u64 left;

	/* kvm_span_scan_levels() looks at TMR, waited for in all vCPUs in guest mode. */
	for (i = 0; i < ARRAY_SIZE(bits->irr); i++)
		for (left = bits->irr[i]; left; left &= left - 1)
			kvm_lapic_set_vector(64 * i + __ffs64(left), apic->regs + APIC_TMR);
	__set_bit(vcpu->vcpu_idx, one);
	kvm_make_vcpus_request_mask(vcpu->kvm, KVM_REQ_SCAN_IOAPIC, one);
	for (i = 0; i < ARRAY_SIZE(bits->irr); i++) {
		for (left = bits->irr[i]; left; left &= left - 1) {
			vector = 64 * i + __ffs64(left);
			set_bit(vector, site->ready[vcpu->vcpu_id]);
		}
	}
	kvm_span_inject(vcpu, bits);
}

/* With the mutex held, so that nobody goes or comes in between. */
static void kvm_span_late_work(struct work_struct *work)
{
	struct kvm_span_site *site = container_of(work, struct kvm_span_site, late_work);
	struct kvm_span_bits bits;
	unsigned long pending;
	struct kvm_vcpu *vcpu;
	unsigned int n;

	mutex_lock(&site->mutex);
	pending = kvm_span_posts_pending(site->late);
	for_each_set_bit(n, &pending, SPAN_MAX_VCPUS) {
		vcpu = kvm_get_vcpu_by_id(site->kvm, n);
		if (!kvm_span_posts_take(site->late, n, &bits) || !vcpu)
			continue;
		if (__kvm_span_away(vcpu))
			kvm_span_inject(vcpu, &bits);
		else
			kvm_span_late_deliver(site, vcpu, &bits);
	}
	mutex_unlock(&site->mutex);
}

/* Vectors whose EOI the interrupt controller elsewhere has to hear of. */
void __kvm_span_scan_levels(struct kvm_vcpu *vcpu, unsigned long *vectors)
{
	u32 *word = (u32 *)vectors;
	unsigned int i;

	if (!rcu_access_pointer(vcpu->kvm->arch.span.site))
		return;
	for (i = 0; i < 8; i++)
		word[i] |= kvm_lapic_get_reg(vcpu->arch.apic, APIC_TMR + 0x10 * i);
}

/*
 * Identities
 */

static void kvm_span_ids_of(const struct kvm_vcpu *vcpu, struct kvm_span_ids *ids)
{
	struct kvm_lapic *apic = vcpu->arch.apic;

	ids->apic = 0;
	if (vcpu->arch.apic_base & MSR_IA32_APICBASE_ENABLE)
		ids->apic |= SPAN_APIC_ENABLED;
	if (apic_x2apic_mode(apic))
		ids->apic |= SPAN_APIC_X2APIC;
	else
		ids->apic |= kvm_lapic_get_reg(apic, APIC_ID) & SPAN_APIC_ID;
	ids->ldr = kvm_lapic_get_reg(apic, APIC_LDR);
	ids->dfr = kvm_lapic_get_reg(apic, APIC_DFR);
	ids->spiv = kvm_lapic_get_reg(apic, APIC_SPIV);
}

static bool kvm_span_ids_equal(const struct kvm_span_ids *a, const struct kvm_span_ids *b)
{
	return a->apic == b->apic && a->ldr == b->ldr && a->dfr == b->dfr && a->spiv == b->spiv;
}

/*
 * Put site->ids[n] where another site finds it. The count makes each one's word
 * new, so that an answer to the one before is none to this. Under ids_lock; the
 * caller posts SPAN_POST_APIC.
 */
void kvm_span_ids_write(struct kvm_span_site *site, struct span_posts *posts, unsigned int n)
{
	const struct kvm_span_ids *ids = &site->ids[n];
	struct span_post *post = &posts->vcpu[n];
	u32 count = ++site->ids_count[n] ?: ++site->ids_count[n];	/* never 0 */

	lockdep_assert_held(&site->ids_lock);
	kvm_span_write32(&post->ldr, ids->ldr);
	kvm_span_write32(&post->dfr, ids->dfr);
	kvm_span_write32(&post->spiv, ids->spiv);
	smp_wmb();	/* with the rmb in kvm_span_ids_read() */
	kvm_span_write32(&post->apic, ids->apic | count << SPAN_APIC_COUNT_SHIFT);
}

/* Returns the word that an answer is for. */
static u32 kvm_span_ids_read(const struct span_post *post, struct kvm_span_ids *ids)
{
	u32 word = kvm_span_read32(&post->apic);

	smp_rmb();	/* what is newer than this word is told anew */
	ids->apic = word & SPAN_APIC_KNOWN;
	ids->ldr = kvm_span_read32(&post->ldr);
	ids->dfr = kvm_span_read32(&post->dfr);
	ids->spiv = kvm_span_read32(&post->spiv);
	return word;
}

/* A vCPU that is away gets the identity that it has where it runs. */
static void kvm_span_ids_apply(struct kvm_vcpu *vcpu, const struct kvm_span_ids *ids)
{
	const u64 modes = MSR_IA32_APICBASE_ENABLE | X2APIC_ENABLE;
	struct msr_data base = { .index = MSR_IA32_APICBASE, .host_initiated = true };
	struct kvm_span_ids now;

	/* Nobody runs it, so the mutex is free soon. */
	mutex_lock(&vcpu->mutex);
	kvm_span_ids_of(vcpu, &now);
	if (kvm_span_ids_equal(&now, ids))
		goto out;
	vcpu_load(vcpu);
	base.data = vcpu->arch.apic_base & ~modes;
	if (ids->apic & SPAN_APIC_ENABLED)
		base.data |= MSR_IA32_APICBASE_ENABLE;
	if (ids->apic & SPAN_APIC_X2APIC)
		base.data |= X2APIC_ENABLE;
	/* What its CPUID does not allow is refused. */
	if (!kvm_apic_set_base(vcpu, &base))
		kvm_lapic_set_identity(vcpu, ids->apic >> SPAN_APIC_ID_SHIFT, ids->ldr,
				       ids->dfr, ids->spiv);
	vcpu_put(vcpu);
out:
	mutex_unlock(&vcpu->mutex);
}

static struct kvm_span_site *kvm_span_site_get(struct kvm *kvm)
{
	struct kvm_span_site *site;

	rcu_read_lock();
	site = kvm_span_site_of(kvm);
	if (site && !kref_get_unless_zero(&site->ref))
		site = NULL;
	rcu_read_unlock();
	return site;
}

/*
 * A vCPU's local APIC may have another identity now. If it runs here, the
 * others must know before it goes on: what it does next may make them send it
 * something. Called with vcpu->mutex held (or while it is made), may sleep.
 */
void __kvm_span_apic_changed(struct kvm_vcpu *vcpu)
{
	struct kvm_span_site *site = kvm_span_site_get(vcpu->kvm);

	if (!site)
		return;
	if (vcpu->vcpu_id < SPAN_MAX_VCPUS)
		kvm_span_site_look(site, vcpu->vcpu_id);
	kvm_span_site_put(site);
}

/* Compare the identity of a vCPU with what the others were told, and tell. */
void kvm_span_site_look(struct kvm_span_site *site, unsigned int n)
{
	struct kvm_vcpu *vcpu = kvm_get_vcpu_by_id(site->kvm, n);
	struct kvm_span_ids ids;
	bool news;

	if (!vcpu || !lapic_in_kernel(vcpu) || __kvm_span_away(vcpu))
		return;
	spin_lock(&site->ids_lock);
	/* With the lock: else who read early could be the last to tell. */
	kvm_span_ids_of(vcpu, &ids);
	news = !kvm_span_ids_equal(&site->ids[n], &ids);
	site->ids[n] = ids;
	spin_unlock(&site->ids_lock);
	if (news)
		site->ops->publish(site, n);
}

/* Another site told an identity. Any context. */
void kvm_span_site_news(struct kvm_span_site *site, unsigned int n)
{
	set_bit(n, &site->news);
	queue_work(kvm_span_wq, &site->ids_work);
}

/* Returns the word to be answered, 0 if there is no post any more. */
static u32 kvm_span_take_ids(struct kvm_span_site *site, unsigned int n, struct kvm_span_ids *ids)
{
	struct span_post *post;
	u32 word = 0;

	rcu_read_lock();
	post = site->ops->told(site, n);
	if (post)
		word = kvm_span_ids_read(post, ids);
	rcu_read_unlock();
	return word;
}

/* If it was not told anew meanwhile. */
static void kvm_span_answer_ids(struct kvm_span_site *site, unsigned int n, u32 word)
{
	struct span_post *post;

	rcu_read_lock();
	post = site->ops->told(site, n);
	if (post)
		kvm_span_cmpxchg32(&post->apic, word, word | SPAN_APIC_ANSWERED);
	rcu_read_unlock();
}

/* One identity that was told; with the mutex held. Returns true if others need it. */
static bool kvm_span_learn_ids(struct kvm_span_site *site, unsigned int n, u32 *word)
{
	struct kvm_vcpu *vcpu = kvm_get_vcpu_by_id(site->kvm, n);
	struct kvm_span_ids ids;

	*word = kvm_span_take_ids(site, n, &ids);
	if (!*word)
		return false;
	/* Also of one that runs here: kvm_span_site_look() sees what is wrong. */
	spin_lock(&site->ids_lock);
	site->ids[n] = ids;
	spin_unlock(&site->ids_lock);
	if (!test_bit(n, &site->kvm->arch.span.away))
		return false;
	if (vcpu && lapic_in_kernel(vcpu))
		kvm_span_ids_apply(vcpu, &ids);
	return true;
}

static void kvm_span_ids_work(struct work_struct *work)
{
	struct kvm_span_site *site = container_of(work, struct kvm_span_site, ids_work);
	unsigned long news = xchg(&site->news, 0), spread = 0;
	u32 words[SPAN_MAX_VCPUS];
	unsigned int n;

	mutex_lock(&site->mutex);
	for_each_set_bit(n, &news, SPAN_MAX_VCPUS)
		if (kvm_span_learn_ids(site, n, &words[n]))
			__set_bit(n, &spread);
	mutex_unlock(&site->mutex);

	if (spread && site->ops->spread)
		site->ops->spread(site, spread);
	for_each_set_bit(n, &news, SPAN_MAX_VCPUS)
		if (words[n])
			kvm_span_answer_ids(site, n, words[n]);
	/* May wait for each, so after all answers. */
	for_each_set_bit(n, &news, SPAN_MAX_VCPUS)
		kvm_span_site_look(site, n);
}

/*
 * Going and coming
 */

/* Interrupts for these are sent on by the software: no other way in. */
int kvm_span_site_check_vm(struct kvm *kvm)
{
	if (!irqchip_split(kvm))
		return -EOPNOTSUPP;
	/* The processor sends IPIs itself, and cannot be told not to. */
	if (enable_apicv && !kvm_x86_ops.span_away)
		return -EOPNOTSUPP;
	/* A device that posts to a vCPU's descriptor would miss it. */
	if (kvm_arch_has_assigned_device(kvm))
		return -EOPNOTSUPP;
	return 0;
}

/*
 * Take vcpu->mutex of a vCPU that is about to leave KVM_RUN, or has. Whoever
 * holds the mutex keeps it out.
 */
static int kvm_span_lock_parked(struct kvm_vcpu *vcpu)
{
	ktime_t until = ktime_add_ms(ktime_get(), KVM_SPAN_LEAVE_MS);

	while (!mutex_trylock(&vcpu->mutex)) {
		if (ktime_after(ktime_get(), until))
			return -EAGAIN;
		if (signal_pending(current))
			return -EINTR;
		usleep_range(20, 200);
	}
	return 0;
}

/*
 * An EOI that was to be told to user space, which will not run this vCPU any
 * more: let the interrupt come once more, where the vCPU runs next. A device
 * that is served already makes nothing of it, and its EOI is told.
 */
static void kvm_span_keep_eoi(struct kvm_vcpu *vcpu)
{
	struct kvm_lapic *apic = vcpu->arch.apic;
	int vector = vcpu->arch.pending_ioapic_eoi;

	if (!kvm_check_request(KVM_REQ_IOAPIC_EOI_EXIT, vcpu))
		return;
	if (!test_bit(vector, vcpu->arch.ioapic_handled_vectors))
		return;
	kvm_lapic_set_vector(vector, apic->regs + APIC_TMR);
	kvm_lapic_set_irr(vector, apic);
}

/*
 * From here on a vCPU runs elsewhere. When this returns 0, it is not in
 * KVM_RUN, its timer is stopped, and what is in its local APIC is all that came
 * for it here; the state can be read. On an error nothing has changed. Under
 * site->mutex.
 */
int kvm_span_site_leave(struct kvm_span_site *site, struct kvm_vcpu *vcpu)
{
	struct kvm_span_bits bits;
	int r;

	lockdep_assert_held(&site->mutex);
	r = kvm_span_lock_parked(vcpu);
	if (r)
		return r;
	set_bit(vcpu->vcpu_id, &site->kvm->arch.span.away);
	kvm_x86_call(span_away)(vcpu, true);
	/* Whoever did not see the bit is through. */
	synchronize_rcu_expedited();
	kvm_span_moved(vcpu);
	vcpu_load(vcpu);
	kvm_lapic_hold_timer(vcpu);
	kvm_span_keep_eoi(vcpu);
	vcpu_put(vcpu);
	mutex_unlock(&vcpu->mutex);

	if (kvm_span_posts_take(site->late, vcpu->vcpu_id, &bits))
		kvm_span_inject(vcpu, &bits);
	return 0;
}

/* It runs here, with the state that it was given. Under site->mutex. */
int kvm_span_site_come(struct kvm_span_site *site, struct kvm_vcpu *vcpu)
{
	unsigned int i, n = vcpu->vcpu_id;
	u32 *ready = (u32 *)site->ready[n];

	lockdep_assert_held(&site->mutex);
	if (mutex_lock_killable(&vcpu->mutex))
		return -EINTR;
	/* Its first entry loads the bitmap of EOIs. */
	for (i = 0; i < 8; i++)
		ready[i] = kvm_lapic_get_reg(vcpu->arch.apic, APIC_TMR + 0x10 * i);
	kvm_make_request(KVM_REQ_SCAN_IOAPIC, vcpu);
	kvm_make_request(KVM_REQ_EVENT, vcpu);
	kvm_x86_call(span_away)(vcpu, false);
	clear_bit(n, &site->kvm->arch.span.away);
	/* Whoever saw the bit has sent on what he had. */
	synchronize_rcu_expedited();
	vcpu_load(vcpu);
	kvm_lapic_release_timer(vcpu);
	vcpu_put(vcpu);
	mutex_unlock(&vcpu->mutex);
	return 0;
}

/* A vCPU that was made after its VM had got a site. */
void __kvm_span_vcpu_created(struct kvm_vcpu *vcpu)
{
	struct kvm_span_site *site = kvm_span_site_get(vcpu->kvm);

	if (!site)
		return;
	if (vcpu->vcpu_id < SPAN_MAX_VCPUS && lapic_in_kernel(vcpu)) {
		if (__kvm_span_away(vcpu)) {
			kvm_x86_call(span_away)(vcpu, true);
			kvm_span_site_news(site, vcpu->vcpu_id);
		} else {
			kvm_span_site_look(site, vcpu->vcpu_id);
		}
	}
	kvm_span_site_put(site);
}

/* Afterwards the site has one reference; kvm is the caller's. */
int kvm_span_site_init(struct kvm_span_site *site, struct kvm *kvm,
		       const struct kvm_span_site_ops *ops)
{
	site->late = kvzalloc(sizeof(*site->late), GFP_KERNEL_ACCOUNT);
	if (!site->late)
		return -ENOMEM;
	kref_init(&site->ref);
	site->ops = ops;
	site->kvm = kvm;
	mutex_init(&site->mutex);
	spin_lock_init(&site->ids_lock);
	INIT_WORK(&site->ids_work, kvm_span_ids_work);
	INIT_WORK(&site->late_work, kvm_span_late_work);
	return 0;
}

static void kvm_span_site_free(struct kref *ref)
{
	struct kvm_span_site *site = container_of(ref, struct kvm_span_site, ref);

	kvfree(site->late);
	site->ops->free(site);
}

/* Who looks without a reference is in an RCU section, see kvm_span_site_detach(). */
void kvm_span_site_put(struct kvm_span_site *site)
{
	kref_put(&site->ref, kvm_span_site_free);
}

/* The VM has this site from now on; away: the vCPUs that are not here at first. */
int kvm_span_site_attach(struct kvm_span_site *site, unsigned long away)
{
	struct kvm *kvm = site->kvm;
	struct kvm_vcpu *vcpu;
	unsigned long i;
	int r;

	r = kvm_span_site_check_vm(kvm);
	if (r)
		return r;
	mutex_lock(&kvm_span_sites_lock);
	if (rcu_access_pointer(kvm->arch.span.site)) {
		mutex_unlock(&kvm_span_sites_lock);
		return -EBUSY;
	}
	static_branch_inc(&kvm_span_sites.key);
	kvm->arch.span.away = away;
	rcu_assign_pointer(kvm->arch.span.site, site);
	mutex_unlock(&kvm_span_sites_lock);

	/* What changes from here on is looked at where it changes. */
	kvm_for_each_vcpu(i, vcpu, kvm)
		if (vcpu->vcpu_id < SPAN_MAX_VCPUS)
			kvm_span_site_look(site, vcpu->vcpu_id);
	return 0;
}

/*
 * All vCPUs are the VM's own again, as they are. When this returns, nobody but
 * those with a reference uses the site.
 */
void kvm_span_site_detach(struct kvm_span_site *site)
{
	struct kvm *kvm = site->kvm;

	mutex_lock(&kvm_span_sites_lock);
	RCU_INIT_POINTER(kvm->arch.span.site, NULL);
	kvm->arch.span.away = 0;
	mutex_unlock(&kvm_span_sites_lock);
	synchronize_rcu();
	cancel_work_sync(&site->ids_work);
	flush_work(&site->late_work);
	static_branch_slow_dec_deferred(&kvm_span_sites);
}
