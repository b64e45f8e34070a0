/* SPDX-License-Identifier: GPL-2.0 */
/* A tiny guest that logs its own writes: its hypercalls, registers and ring. */
#ifndef OOHHOST_H
#define OOHHOST_H

#include <linux/kvm_ooh.h>

#include "watchlib.h"

/* 4 MiB of the guest's own: the ring, and arguments of calls. */
#define OOH_GPA		0x20000000u
#define OOH_BYTES	(4UL << 20)
#define OOH_RING_GPA	OOH_GPA
#define OOH_LIST_GPA	(OOH_GPA + (3u << 20))
#define OOH_STATS_GPA	(OOH_LIST_GPA + 0x8000u)

#define GFN(page)	(WINDOW_GPA / 4096u + (uint32_t)(page))
#define KVM_HC_ENOSYS	(-1000)

TINY_CODE(vmcall, "vmcall");
TINY_CODE(ooh_wrmsr, "wrmsr");
TINY_CODE(ooh_rdmsr, "rdmsr; movl %edx, (%ebx)");

struct ooh_guest {
	struct tiny_vm vm;
	int memfd;
	uint8_t *mem;			/* at WINDOW_GPA */
	uint8_t *own;			/* at OOH_GPA */
	struct kvm_ooh_ring *ring;
	uint64_t *entries;
};

/* What CPUID says of the feature; the rest is as KVM has it. */
static inline void ooh_cpuid(const struct tiny_vm *v, bool on)
{
	struct {
		struct kvm_cpuid2 head;
		struct kvm_cpuid_entry2 entry[128];
	} id = { .head.nent = 128 };
	int kvm = MUST(open("/dev/kvm", O_RDWR | O_CLOEXEC));
	uint32_t i;

	MUST(ioctl(kvm, KVM_GET_SUPPORTED_CPUID, &id));
	close(kvm);
	for (i = 0; i < id.head.nent; i++)
		if (id.entry[i].function == 0x40000001 && !on)
			id.entry[i].eax &= ~(1u << KVM_FEATURE_OOH);
	MUST(ioctl(v->vcpu, KVM_SET_CPUID2, &id));
}

static inline void ooh_new_with(struct ooh_guest *g, unsigned int flags, bool offered)
{
	memset(g, 0, sizeof(*g));
	g->memfd = memfd_new(MEM_BYTES, GUEST_SEALS);
	g->mem = guest_map(g->memfd);
	g->own = mmap(NULL, OOH_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	MUST(g->own == MAP_FAILED ? -1 : 0);
	tiny_init_with(&g->vm, TINY_IRQCHIP | flags);
	MUST(tiny_slot(&g->vm, 1, WINDOW_GPA, g->mem, MEM_BYTES, 0));
	MUST(tiny_slot(&g->vm, 2, OOH_GPA, g->own, OOH_BYTES, 0));
	g->ring = (void *)g->own;
	g->entries = (void *)(g->own + PAGE);
	ooh_cpuid(&g->vm, offered);
}

static inline void ooh_new(struct ooh_guest *g, unsigned int flags)
{
	ooh_new_with(g, flags, true);
}

/* The result of a hypercall by a vCPU. */
static inline int ooh_call_by(struct tiny_vm *v, uint32_t op, uint32_t a1, uint32_t a2, uint32_t a3)
{
	MUST(TINY_RUN(v, vmcall, .eax = KVM_HC_OOH, .ebx = op, .ecx = a1, .edx = a2, .esi = a3) == TINY_DONE ? 0 : -1);
	return (int)tiny_eax(v);
}

static inline int ooh_call(struct ooh_guest *g, uint32_t op, uint32_t a1, uint32_t a2, uint32_t a3)
{
	return ooh_call_by(&g->vm, op, a1, a2, a3);
}

/* TINY_DONE, or TINY_GP. */
static inline int ooh_wrmsr(struct tiny_vm *v, uint32_t msr, uint64_t value)
{
	return TINY_RUN(v, ooh_wrmsr, .ecx = msr, .eax = value, .edx = value >> 32);
}

/* By the VM's process: 1, or 0 if KVM refused. */
static inline int ooh_host_wrmsr(const struct tiny_vm *v, uint32_t msr, uint64_t value)
{
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry entry;
	} m = { .head.nmsrs = 1, .entry = { .index = msr, .data = value } };

	return MUST(ioctl(v->vcpu, KVM_SET_MSRS, &m));
}

static inline uint64_t ooh_host_rdmsr(const struct tiny_vm *v, uint32_t msr)
{
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry entry;
	} m = { .head.nmsrs = 1, .entry.index = msr };

	MUST(ioctl(v->vcpu, KVM_GET_MSRS, &m) == 1 ? 0 : -1);
	return m.entry.data;
}

static inline uint64_t ooh_ring_value(unsigned int order)
{
	return OOH_RING_GPA | order << KVM_OOH_RING_ORDER_SHIFT | KVM_OOH_RING_ENABLE;
}

static inline void ooh_begin(struct ooh_guest *g, unsigned int order)
{
	MUST(ooh_wrmsr(&g->vm, MSR_KVM_OOH_RING, ooh_ring_value(order)) == TINY_DONE ? 0 : -1);
}

/* One call with a list of one. */
static inline int ooh_range(struct ooh_guest *g, uint32_t op, uint64_t gfn, uint64_t pages)
{
	struct kvm_ooh_range *list = (void *)(g->own + (OOH_LIST_GPA - OOH_GPA));

	*list = (struct kvm_ooh_range){ gfn, pages };
	return ooh_call(g, op, OOH_LIST_GPA, 1, 0);
}

static inline void ooh_arm(struct ooh_guest *g, uint32_t page, uint32_t pages)
{
	MUST(ooh_range(g, KVM_OOH_ARM, GFN(page), pages) == 1 ? 0 : -1);
}

static inline void ooh_disarm(struct ooh_guest *g, uint32_t page, uint32_t pages)
{
	MUST(ooh_range(g, KVM_OOH_DISARM, GFN(page), pages) == 1 ? 0 : -1);
}

/* Read what is in the ring; frames outside of the window are noted as a failure. */
static inline unsigned int ooh_consume(struct ooh_guest *g, uint8_t *set)
{
	struct kvm_ooh_ring *r = g->ring;
	uint64_t e, gfn, last = 0;
	unsigned int n = 0;

	for (; r->tail != r->head; r->tail++) {
		e = g->entries[r->tail & (r->size - 1)];
		gfn = KVM_OOH_ENTRY_GFN(e);
		if (!CHECK(gfn >= GFN(0) && gfn + KVM_OOH_ENTRY_PAGES(e) <= GFN(PAGES), "frame %#llx and %llu more",
			   (unsigned long long)gfn, (unsigned long long)KVM_OOH_ENTRY_PAGES(e) - 1))
			continue;
		CHECK(!n || gfn >= last, "frame %#llx after %#llx", (unsigned long long)gfn, (unsigned long long)last);
		last = gfn + KVM_OOH_ENTRY_PAGES(e);
		n += KVM_OOH_ENTRY_PAGES(e);
		memset(set + (gfn - GFN(0)), 1, KVM_OOH_ENTRY_PAGES(e));
	}
	return n;
}

/* All that waits, as a set; how many frames. */
static inline unsigned int ooh_fetch_by(struct ooh_guest *g, struct tiny_vm *v, uint8_t *set, uint32_t flags)
{
	unsigned int n = 0;
	int left;

	memset(set, 0, PAGES);
	do {
		left = ooh_call_by(v, KVM_OOH_FETCH, 0, 0, flags);
		if (!CHECK(left >= 0, "fetch: %d", left))
			break;
		n += ooh_consume(g, set);
	} while (left);
	return n;
}

static inline unsigned int ooh_fetch(struct ooh_guest *g, uint8_t *set, uint32_t flags)
{
	return ooh_fetch_by(g, &g->vm, set, flags);
}

static inline struct kvm_ooh_stats ooh_stats(struct ooh_guest *g)
{
	MUST(ooh_call(g, KVM_OOH_STATS, OOH_STATS_GPA, 0, 0) ? -1 : 0);
	return *(struct kvm_ooh_stats *)(g->own + (OOH_STATS_GPA - OOH_GPA));
}

static inline int ooh_wrote(struct ooh_guest *g, uint64_t gpa, uint64_t size, uint64_t flags)
{
	struct kvm_ooh_wrote w = { gpa, size, flags };

	return ioctl(g->vm.vm, KVM_OOH_WROTE, &w);
}

/* Is the feature there? Else nothing of the program makes sense. */
static inline void ooh_require(void)
{
	int kvm = MUST(open("/dev/kvm", O_RDWR | O_CLOEXEC));

	if (ioctl(kvm, KVM_CHECK_EXTENSION, KVM_CAP_OOH) & KVM_OOH_CAP_SPML) {
		close(kvm);
		return;
	}
	printf("TAP version 13\n1..1\nnot ok 1 this KVM does not offer OoH\n");
	exit(1);
}

#endif
