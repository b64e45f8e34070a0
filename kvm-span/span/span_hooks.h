/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the patched places of KVM call. On a host without a span each is a no-op
 * instruction: so that it stays one, what is called behind the static key takes
 * what the place has in registers anyway, and looks at the slot itself.
 */
#ifndef KVM_SPAN_HOOKS_H
#define KVM_SPAN_HOOKS_H

#include <linux/jump_label_ratelimit.h>
#include <linux/kvm_host.h>
#include "span.h"

struct kvm_mmu_page;
struct kvm_page_fault;

/* What the emulator does with an access to a page of a span. */
enum kvm_span_emul {
	KVM_SPAN_EMUL_GO,
	KVM_SPAN_EMUL_DISCARD,		/* a write: as if it had been done */
	KVM_SPAN_EMUL_ONES,		/* a read: nothing but ones */
	KVM_SPAN_EMUL_RETRY,		/* stop, the processor goes on from here */
	KVM_SPAN_EMUL_FAIL,		/* give the instruction up */
};

#ifdef CONFIG_KVM_SPAN

int kvm_span_init(void);
void kvm_span_exit(void);

bool __kvm_span_fenced(struct kvm *kvm, unsigned long hva);
kvm_pfn_t kvm_span_gfn_to_pfn(struct kvm *kvm, gfn_t gfn);
int kvm_span_pause(struct kvm_vcpu *vcpu);

/* On while there is a span: without one, most hooks are a no-op instruction. */
extern struct static_key_false_deferred kvm_span_any;
extern atomic_t kvm_spans_nr;
extern atomic_t kvm_spans_logging;

int __kvm_span_slot_bind(struct kvm *kvm, struct kvm_memory_slot *slot);
void __kvm_span_slot_unbind(struct kvm *kvm, struct kvm_memory_slot *slot);
int __kvm_span_max_level(const struct kvm_memory_slot *slot, gfn_t gfn, int max_level);
bool __kvm_span_unmappable(struct kvm_vcpu *vcpu, struct kvm_page_fault *fault);
bool __kvm_span_hides(const struct kvm_memory_slot *slot, struct kvm_span *span,
		      union kvm_mmu_page_role role, gfn_t gfn, unsigned int access,
		      bool write);
u64 __kvm_span_spte(struct kvm_vcpu *vcpu, const struct kvm_memory_slot *slot,
		    struct kvm_span *span, gfn_t gfn, u64 spte);
bool kvm_span_log_by_dirty(union kvm_mmu_page_role role, bool tdp_mmu);
void __kvm_span_pfn_dirty(kvm_pfn_t pfn);
bool __kvm_span_denies(const struct kvm_memory_slot *slot, gfn_t gfn, u32 access);

/* mmu.c */
bool kvm_span_rmap_dirty(const struct kvm_memory_slot *slot, gfn_t gfn, bool rearm);
void __kvm_span_wrote(const struct kvm_memory_slot *slot, gfn_t gfn);

/*
 * On while some VM has vCPUs that run elsewhere (vcpu.c): a key of its own, since
 * in an L1 there need not be a span.
 */
extern struct static_key_false_deferred kvm_span_sites;

bool __kvm_span_away(const struct kvm_vcpu *vcpu);
bool __kvm_span_post(struct kvm_vcpu *vcpu, u32 mode, u32 vector, bool level, bool trig,
		     int *result);
void __kvm_span_scan_levels(struct kvm_vcpu *vcpu, unsigned long *vectors);
void __kvm_span_apic_changed(struct kvm_vcpu *vcpu);
void __kvm_span_vcpu_created(struct kvm_vcpu *vcpu);

static inline bool kvm_span_shared(void)
{
	return static_branch_unlikely(&kvm_span_sites.key);
}

/* Does the vCPU run on another hypervisor? */
static inline bool kvm_span_away(const struct kvm_vcpu *vcpu)
{
	return kvm_span_shared() && __kvm_span_away(vcpu);
}

/* An interrupt for a vCPU; true: it was sent on, or will come by itself. Under RCU. */
static inline bool kvm_span_post(struct kvm_vcpu *vcpu, u32 mode, u32 vector, bool level,
				 bool trig, int *result)
{
	return __kvm_span_post(vcpu, mode, vector, level, trig, result);
}

/* More vectors whose EOI has to exit. */
static inline void kvm_span_scan_levels(struct kvm_vcpu *vcpu, unsigned long *vectors)
{
	if (kvm_span_shared())
		__kvm_span_scan_levels(vcpu, vectors);
}

/* What others address the vCPU by may be new. May sleep. */
static inline void kvm_span_apic_changed(struct kvm_vcpu *vcpu)
{
	if (kvm_span_shared())
		__kvm_span_apic_changed(vcpu);
}

/*
 * On while an L1 owns a vCPU that may have to be taken back from it by force
 * (salvage.c, shot.c, restore.c).
 */
extern struct static_key_false_deferred kvm_span_shots;

void __kvm_span_leaves(struct kvm_vcpu *vcpu, u32 reason, u32 intr_info);
void __kvm_span_enters(struct kvm_vcpu *vcpu, u64 vmptr);
void __kvm_span_wait_held(struct kvm_vcpu *vcpu);

/* A nested guest is about to exit to its L1. May sleep. */
static inline void kvm_span_leaves(struct kvm_vcpu *vcpu, u32 reason, u32 intr_info)
{
	if (static_branch_unlikely(&kvm_span_shots.key))
		__kvm_span_leaves(vcpu, reason, intr_info);
}

/* The L1 enters it, by the VMCS at this address. */
static inline void kvm_span_enters(struct kvm_vcpu *vcpu, u64 vmptr)
{
	if (static_branch_unlikely(&kvm_span_shots.key))
		__kvm_span_enters(vcpu, vmptr);
}

/* Shall the vCPU leave KVM_RUN, since somebody takes vCPUs from this L1? */
static inline bool kvm_span_held(const struct kvm_vcpu *vcpu)
{
	return static_branch_unlikely(&kvm_span_shots.key) &&
	       READ_ONCE(vcpu->kvm->arch.span.held);
}

/* Then it waits, before and after KVM_RUN. */
static inline void kvm_span_wait_held(struct kvm_vcpu *vcpu)
{
	if (kvm_span_held(vcpu))
		__kvm_span_wait_held(vcpu);
}

/*
 * The span whose memory a slot shows, or NULL. Valid as long as the slot is:
 * the caller holds kvm->srcu for read.
 */
static inline struct kvm_span *kvm_span_of(const struct kvm_memory_slot *slot)
{
	if (!static_branch_unlikely(&kvm_span_any.key))
		return NULL;
	/* Pairs with kvm_span_bind_present(). */
	return slot ? smp_load_acquire(&slot->arch.span) : NULL;
}

/* The same, but NULL as long as nobody watches anything. */
static inline struct kvm_span *kvm_span_watched(const struct kvm_memory_slot *slot)
{
	struct kvm_span *span = kvm_span_of(slot);

	return unlikely(span) && unlikely(READ_ONCE(span->active)) ? span : NULL;
}

/* A slot gets its metadata: does it show a span's memory? */
static inline int kvm_span_slot_bind(struct kvm *kvm, struct kvm_memory_slot *slot)
{
	return likely(!atomic_read(&kvm_spans_nr)) ? 0 : __kvm_span_slot_bind(kvm, slot);
}

static inline void kvm_span_slot_unbind(struct kvm *kvm, struct kvm_memory_slot *slot)
{
	if (unlikely(kvm_span_of(slot)))
		__kvm_span_slot_unbind(kvm, slot);
}

static inline int kvm_span_max_level(const struct kvm_memory_slot *slot, gfn_t gfn,
				     int max_level)
{
	return static_branch_unlikely(&kvm_span_any.key) ?
	       __kvm_span_max_level(slot, gfn, max_level) : max_level;
}

/*
 * A fault is about to be mapped, mmu_lock is held: must it not be? If it may, what is
 * masked page by page is mapped page by page, and a write goes into logs.
 */
static inline bool kvm_span_unmappable(struct kvm_vcpu *vcpu, struct kvm_page_fault *fault)
{
	return static_branch_unlikely(&kvm_span_any.key) && __kvm_span_unmappable(vcpu, fault);
}

/* Must there be no entry for this page? If there may, a write goes into logs. */
static inline bool kvm_span_hides(const struct kvm_memory_slot *slot,
				  union kvm_mmu_page_role role, gfn_t gfn,
				  unsigned int access, bool write)
{
	struct kvm_span *span = kvm_span_watched(slot);

	return unlikely(span) && __kvm_span_hides(slot, span, role, gfn, access, write);
}

/*
 * What is left of an entry: without what is masked, and without D where the next
 * write is to be logged.
 */
static inline u64 kvm_span_spte(struct kvm_vcpu *vcpu, const struct kvm_memory_slot *slot,
				gfn_t gfn, u64 spte)
{
	struct kvm_span *span = kvm_span_watched(slot);

	return likely(!span) ? spte : __kvm_span_spte(vcpu, slot, span, gfn, spte);
}

/* A page was written: by an entry, by KVM itself, or PML says so. */
static inline void kvm_span_wrote(const struct kvm_memory_slot *slot, gfn_t gfn)
{
	if (static_branch_unlikely(&kvm_span_any.key))
		__kvm_span_wrote(slot, gfn);
}

/* Does a watch protect the page from this access, KVM's own included? */
static inline bool kvm_span_denies(const struct kvm_memory_slot *slot, gfn_t gfn,
				   u32 access)
{
	return static_branch_unlikely(&kvm_span_any.key) && __kvm_span_denies(slot, gfn, access);
}

/* The D bit of an entry goes, with the entry or without it. */
static inline void kvm_span_pfn_dirty(kvm_pfn_t pfn, int level)
{
	if (static_branch_unlikely(&kvm_span_any.key) &&
	    atomic_read(&kvm_spans_logging) && level == PG_LEVEL_4K)
		__kvm_span_pfn_dirty(pfn);
}

/* Does anybody need the page-modification log of this VM's vCPUs? The guest, too. */
static inline bool kvm_span_dirty_logging(struct kvm *kvm)
{
	return atomic_read(&kvm->nr_memslots_dirty_logging) ||
	       atomic_read(&kvm->arch.span.logs) || READ_ONCE(kvm->arch.ooh.logging);
}

/*
 * A vCPU made while logs exist may have missed the request of all vCPUs. It is in
 * the list of them and does not run yet: its mutex is held.
 */
static inline void kvm_span_vcpu_created(struct kvm_vcpu *vcpu)
{
	/* In the list, then the look at logs; vms_logging() does it the other way round. */
	smp_mb__after_atomic();
	if (unlikely(atomic_read(&vcpu->kvm->arch.span.logs) ||
		     READ_ONCE(vcpu->kvm->arch.ooh.logging)) && kvm_x86_ops.cpu_dirty_log_size)
		kvm_make_request(KVM_REQ_UPDATE_CPU_DIRTY_LOGGING, vcpu);
	if (kvm_span_shared())
		__kvm_span_vcpu_created(vcpu);
}

int __kvm_span_fault(struct kvm_vcpu *vcpu, struct kvm_page_fault *fault);
enum kvm_span_emul __kvm_span_emulated(struct kvm_vcpu *vcpu, gpa_t gpa, bool write);
bool __kvm_span_crossing(struct kvm_vcpu *vcpu);
bool __kvm_span_emulation_failed(struct kvm_vcpu *vcpu);
void __kvm_span_moved(struct kvm_vcpu *vcpu);
void kvm_span_vcpu_init(struct kvm_vcpu *vcpu);
void kvm_span_vcpu_destroy(struct kvm_vcpu *vcpu);

/* May an access go on to where the page is looked up? Then RET_PF_CONTINUE, which is 0. */
static inline int kvm_span_fault(struct kvm_vcpu *vcpu, struct kvm_page_fault *fault)
{
	return static_branch_unlikely(&kvm_span_any.key) ? __kvm_span_fault(vcpu, fault) : 0;
}

/* The emulator is about to access memory. */
static inline enum kvm_span_emul kvm_span_emulated(struct kvm_vcpu *vcpu, gpa_t gpa,
						   bool write)
{
	return static_branch_unlikely(&kvm_span_any.key) ?
	       __kvm_span_emulated(vcpu, gpa, write) : KVM_SPAN_EMUL_GO;
}

/* Must a write over the end of a page be given up? */
static inline bool kvm_span_crossing(struct kvm_vcpu *vcpu)
{
	return unlikely(vcpu->span.span) && __kvm_span_crossing(vcpu);
}

static inline bool kvm_span_emulation_failed(struct kvm_vcpu *vcpu)
{
	return unlikely(vcpu->span.span) && __kvm_span_emulation_failed(vcpu);
}

/* The vCPU is made to go on somewhere else: it does not come back for an access. */
static inline void kvm_span_moved(struct kvm_vcpu *vcpu)
{
	if (static_branch_unlikely(&kvm_span_any.key))
		__kvm_span_moved(vcpu);
}

/* The vCPU is halted for an access; has it been answered? */
static inline bool kvm_span_answered(struct kvm_vcpu *vcpu)
{
	return READ_ONCE(vcpu->span.wake);
}

/* What PML tells was written by the guest itself, by an entry that let it. */
static inline void kvm_span_pml(struct kvm_vcpu *vcpu, bool begin)
{
	vcpu->span.pml = begin;
}

/* Is this address inside a window that was taken away from the VM? */
static inline bool kvm_span_fenced(struct kvm *kvm, struct kvm_memory_slot *slot,
				   gfn_t gfn)
{
	if (!static_branch_unlikely(&kvm_span_any.key) ||
	    likely(!atomic_read(&kvm->arch.span.fenced)))
		return false;
	return __kvm_span_fenced(kvm, __gfn_to_hva_memslot(slot, gfn));
}

#else /* !CONFIG_KVM_SPAN */

static inline int kvm_span_slot_bind(struct kvm *kvm, struct kvm_memory_slot *slot)
{
	return 0;
}

static inline void kvm_span_slot_unbind(struct kvm *kvm, struct kvm_memory_slot *slot) { }

static inline int kvm_span_max_level(const struct kvm_memory_slot *slot, gfn_t gfn,
				     int max_level)
{
	return max_level;
}

static inline bool kvm_span_hides(const struct kvm_memory_slot *slot,
				  union kvm_mmu_page_role role, gfn_t gfn,
				  unsigned int access, bool write)
{
	return false;
}

static inline bool kvm_span_unmappable(struct kvm_vcpu *vcpu, struct kvm_page_fault *fault)
{
	return false;
}

static inline u64 kvm_span_spte(struct kvm_vcpu *vcpu, const struct kvm_memory_slot *slot,
				gfn_t gfn, u64 spte)
{
	return spte;
}

static inline void kvm_span_wrote(const struct kvm_memory_slot *slot, gfn_t gfn) { }

static inline void kvm_span_pfn_dirty(kvm_pfn_t pfn, int level) { }

static inline bool kvm_span_denies(const struct kvm_memory_slot *slot, gfn_t gfn,
				   u32 access)
{
	return false;
}

static inline bool kvm_span_dirty_logging(struct kvm *kvm)
{
	return atomic_read(&kvm->nr_memslots_dirty_logging);
}

static inline void kvm_span_vcpu_created(struct kvm_vcpu *vcpu) { }
static inline bool kvm_span_shared(void) { return false; }
static inline bool kvm_span_away(const struct kvm_vcpu *vcpu) { return false; }

static inline bool kvm_span_post(struct kvm_vcpu *vcpu, u32 mode, u32 vector, bool level,
				 bool trig, int *result)
{
	return false;
}

static inline void kvm_span_scan_levels(struct kvm_vcpu *vcpu, unsigned long *vectors) { }
static inline void kvm_span_apic_changed(struct kvm_vcpu *vcpu) { }

static inline int kvm_span_fault(struct kvm_vcpu *vcpu, struct kvm_page_fault *fault)
{
	return 0;
}

static inline enum kvm_span_emul kvm_span_emulated(struct kvm_vcpu *vcpu, gpa_t gpa,
						   bool write)
{
	return KVM_SPAN_EMUL_GO;
}

static inline bool kvm_span_crossing(struct kvm_vcpu *vcpu) { return false; }
static inline bool kvm_span_emulation_failed(struct kvm_vcpu *vcpu) { return false; }
static inline void kvm_span_moved(struct kvm_vcpu *vcpu) { }
static inline bool kvm_span_answered(struct kvm_vcpu *vcpu) { return false; }
static inline void kvm_span_pml(struct kvm_vcpu *vcpu, bool begin) { }
static inline void kvm_span_vcpu_init(struct kvm_vcpu *vcpu) { }
static inline void kvm_span_vcpu_destroy(struct kvm_vcpu *vcpu) { }

static inline int kvm_span_init(void) { return 0; }
static inline void kvm_span_exit(void) { }

static inline bool kvm_span_fenced(struct kvm *kvm, struct kvm_memory_slot *slot,
				   gfn_t gfn)
{
	return false;
}

static inline kvm_pfn_t kvm_span_gfn_to_pfn(struct kvm *kvm, gfn_t gfn)
{
	return gfn_to_pfn(kvm, gfn);
}

static inline int kvm_span_pause(struct kvm_vcpu *vcpu) { return 0; }
static inline void kvm_span_leaves(struct kvm_vcpu *vcpu, u32 reason, u32 intr_info) { }
static inline void kvm_span_enters(struct kvm_vcpu *vcpu, u64 vmptr) { }
static inline bool kvm_span_held(const struct kvm_vcpu *vcpu) { return false; }
static inline void kvm_span_wait_held(struct kvm_vcpu *vcpu) { }

#endif /* CONFIG_KVM_SPAN */
#endif
